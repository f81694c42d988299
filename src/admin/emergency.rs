//! The emergency override: administrators by a file on the machine, for a mesh whose administrators are locked out.
//!
//! While `emergency.conf` exists in the data directory, the keys in `emergency-keydir/NAME.pub` may read and write
//! the admin repository, and nothing else. `emergency.conf` may list the names that count, one a line, `#` starting a
//! comment; without any name all keys of the folder count. Who can write these files owns the machine already.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::{fs, io};

use crate::model::{Fingerprint, UserName};
use crate::policy::{KeyFile, Keyring, OwnerName, parse_public_key};
use crate::policy::{Severity, render};

use super::DataDir;

/// The keys that count as an administrator's, whatever the configuration says; normally none.
#[derive(Debug, Clone, Default)]
pub struct Emergency {
    keys: HashMap<Vec<u8>, (UserName, Fingerprint)>,
    blobs: BTreeMap<Fingerprint, Vec<u8>>,
}

/// Why the override on disk cannot be used. The one in force stays.
#[derive(Debug, thiserror::Error)]
pub enum EmergencyError {
    #[error("read the emergency override")]
    Read(#[from] io::Error),
    #[error("the emergency override is refused:\n{0}")]
    Keys(String),
    #[error("emergency.conf, line {line}: there is no key for '{name}'; put it into emergency-keydir/{name}.pub")]
    NoKey { line: usize, name: String },
}

impl Emergency {
    /// Reads and checks the override; none if `emergency.conf` does not exist.
    pub fn load(data: &DataDir) -> Result<Self, EmergencyError> {
        let conf = match fs::read_to_string(data.emergency_conf()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            conf => conf?,
        };
        let files = key_files(data)?;
        let key_files: Vec<_> = files.iter().map(|(path, text)| KeyFile { path, text }).collect();
        let (keyring, diagnostics) = Keyring::compile(&key_files);
        if diagnostics.iter().any(|found| found.severity == Severity::Error) {
            let text = |file: &str| files.get(file).map(|text| String::from_utf8_lossy(text).into_owned());
            return Err(EmergencyError::Keys(render(&diagnostics, &text, 10)));
        }
        let texts: Vec<_> = files.values().map(|text| String::from_utf8_lossy(text)).collect();
        let lines = texts.iter().flat_map(|text| text.lines());
        let mut of_user: BTreeMap<UserName, Vec<Vec<u8>>> = BTreeMap::new();
        for key in lines.filter_map(|line| parse_public_key(line).ok()) {
            if let Some(OwnerName::User(user)) = keyring.owner(&key.blob).map(|owner| &owner.who) {
                of_user.entry(user.clone()).or_default().push(key.blob);
            }
        }
        let mut named = BTreeSet::new();
        for (number, line) in conf.lines().enumerate() {
            let name = line.split('#').next().unwrap_or_default().trim();
            if !name.is_empty() {
                let known = of_user.keys().find(|user| user.as_str() == name);
                let no_key = || EmergencyError::NoKey { line: number + 1, name: name.to_owned() };
                named.insert(known.ok_or_else(no_key)?.clone());
            }
        }
        let mut emergency = Self::default();
        for (user, blobs) in of_user.into_iter().filter(|(user, _)| named.is_empty() || named.contains(user)) {
            for blob in blobs {
                let Some(owner) = keyring.owner(&blob) else { continue };
                let fingerprint = owner.fingerprint.clone();
                emergency.blobs.insert(fingerprint.clone(), blob.clone());
                emergency.keys.insert(blob, (user.clone(), fingerprint));
            }
        }
        Ok(emergency)
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Names of the administrators, for the log: an override that is forgotten must not stay unseen.
    pub fn names(&self) -> BTreeSet<&UserName> {
        self.keys.values().map(|(user, _)| user).collect()
    }

    pub(super) fn owner(&self, blob: &[u8]) -> Option<&(UserName, Fingerprint)> {
        self.keys.get(blob)
    }

    pub(super) fn holds(&self, key: &Fingerprint) -> bool {
        self.blobs.contains_key(key)
    }

    pub(super) fn blob(&self, key: &Fingerprint) -> Option<&[u8]> {
        self.blobs.get(key).map(Vec::as_slice)
    }
}

/// Contents by path.
fn key_files(data: &DataDir) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let entries = match fs::read_dir(data.emergency_keydir()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        entries => entries?,
    };
    let mut files = BTreeMap::new();
    for entry in entries {
        let entry = entry?;
        if let Some(name) = entry.file_name().to_str().filter(|name| name.ends_with(".pub") && !name.starts_with('.')) {
            files.insert(format!("emergency-keydir/{name}"), fs::read(entry.path())?);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::testing::key_line;

    #[test]
    fn keys_count_while_the_switch_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path().to_owned());
        fs::create_dir(data.emergency_keydir()).unwrap();
        fs::write(data.emergency_keydir().join("alice.pub"), key_line(1)).unwrap();
        fs::write(data.emergency_keydir().join("bob.pub"), key_line(2)).unwrap();
        let names = || Emergency::load(&data).unwrap().names().into_iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(names().is_empty(), "without emergency.conf there is no override");
        fs::write(data.emergency_conf(), "").unwrap();
        assert_eq!(names(), ["alice", "bob"]);
        fs::write(data.emergency_conf(), "# only one\nbob\n").unwrap();
        assert_eq!(names(), ["bob"]);
        fs::write(data.emergency_conf(), "carol\n").unwrap();
        let error = Emergency::load(&data).unwrap_err().to_string();
        assert!(error.contains("line 1") && error.contains("emergency-keydir/carol.pub"), "{error}");
        fs::write(data.emergency_keydir().join("dave.pub"), "rubbish").unwrap();
        assert!(matches!(Emergency::load(&data), Err(EmergencyError::Keys(_))));
    }
}

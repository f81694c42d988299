//! What stands beside a repository for people and is more than a line: README.html for gitweb, the message of the day,
//! and that pushes are switched off, with the message why. They travel to the copies whole, so that a copy that becomes
//! the master knows them.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::durable::write_whole;

/// gitweb's, in git's own name for it.
pub const README: &str = "README.html";
/// gitolite's name for the message of the day; the node has one of its own in the data directory.
pub const MOTD: &str = "gl-motd";
/// gitolite's name for the file that switches pushes off, and holds the message; also in the data directory.
pub const WRITES_OFF: &str = ".gitolite.down";

/// Each with the longest text of it that travels, in bytes.
const FILES: [(&str, u64); 3] = [(README, 64 << 10), (MOTD, 4 << 10), (WRITES_OFF, 4 << 10)];

/// The papers of a repository, by the names of their files.
pub struct Papers;

impl Papers {
    /// The longest message that holds them, in bytes: JSON may need six for one.
    pub const BYTES_MAX: u64 = 1 << 20;

    /// What travels of the repository at `dir`; `None` if there is nothing. What cannot be read, or is too long, does not
    /// travel, and says so in the log. Blocks.
    pub fn to_send(dir: &Path) -> Option<String> {
        let mut found = BTreeMap::new();
        for (name, longest) in FILES {
            match std::fs::metadata(dir.join(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Ok(about) if about.len() > longest => {
                    tracing::error!(dir = %dir.display(), name, longest, "it is too long, and is not mirrored");
                    continue;
                }
                _ => {}
            }
            match std::fs::read(dir.join(name)) {
                Ok(bytes) => drop(found.insert(name, String::from_utf8_lossy(&bytes).into_owned())),
                Err(error) => {
                    tracing::error!(dir = %dir.display(), name, %error, "it cannot be read, and is not mirrored");
                }
            }
        }
        (!found.is_empty()).then(|| serde_json::to_string(&found).expect("texts can always be written"))
    }

    /// On a copy: what its master has sent takes the place of what is there; `None`: there is nothing. Blocks.
    pub fn take_over(dir: &Path, sent: Option<&str>) -> io::Result<()> {
        let sent: BTreeMap<String, String> = sent.map(serde_json::from_str).transpose()?.unwrap_or_default();
        for (name, longest) in FILES {
            match sent.get(name) {
                Some(text) if text.len() as u64 > longest => return Err(io::ErrorKind::InvalidData.into()),
                Some(text) if std::fs::read(dir.join(name)).is_ok_and(|known| known == text.as_bytes()) => {}
                Some(text) => write_whole(dir, name, text)?,
                None => match std::fs::remove_file(dir.join(name)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                },
            }
        }
        Ok(())
    }

    /// A digest that also covers these of the repository at `dir`; the same where there are none. Blocks.
    pub fn seal(dir: &Path, digest: String) -> String {
        match Self::to_send(dir) {
            Some(text) => format!("{:x}", Sha256::digest(format!("{digest}\n{text}"))),
            None => digest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_what_arrives() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert_eq!(Papers::to_send(one.path()), None);
        assert_eq!(Papers::seal(one.path(), "x".to_owned()), "x");
        std::fs::write(one.path().join(MOTD), "hello\n\u{1}").unwrap();
        std::fs::write(one.path().join(WRITES_OFF), "").unwrap();
        let sent = Papers::to_send(one.path());
        Papers::take_over(two.path(), sent.as_deref()).unwrap();
        assert_eq!(std::fs::read_to_string(two.path().join(WRITES_OFF)).unwrap(), "");
        let seals = [&one, &two].map(|dir| Papers::seal(dir.path(), "x".to_owned()));
        assert!(seals[0] == seals[1] && seals[0] != "x");
        std::fs::remove_file(one.path().join(MOTD)).unwrap();
        std::fs::write(one.path().join(README), "x".repeat(65 << 10)).unwrap();
        assert_eq!(Papers::to_send(one.path()).as_deref(), Some("{\".gitolite.down\":\"\"}"), "too long stays");
        Papers::take_over(two.path(), Papers::to_send(one.path()).as_deref()).unwrap();
        assert!(!two.path().join(MOTD).exists());
        Papers::take_over(two.path(), None).unwrap();
        assert_eq!(std::fs::read_dir(two.path()).unwrap().count(), 0);
        for bad in ["", "[]", "{\"gl-motd\":1}"] {
            assert!(Papers::take_over(two.path(), Some(bad)).is_err(), "{bad}");
        }
        // Other names are of a later version, and are nobody's path.
        Papers::take_over(two.path(), Some("{\"../x\":\"y\"}")).unwrap();
        assert_eq!(std::fs::read_dir(two.path()).unwrap().count(), 0);
    }
}

//! What opens a server outside the mesh: a key and the host's pinned key, or a token. One directory a target,
//! `DATA/targets/NAME`, readable for its owner alone: `key`, `key.pub`, `known_hosts`, `token`.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use ssh_key::private::{Ed25519Keypair, KeypairData};
use ssh_key::{LineEnding, PrivateKey, PublicKey};

use crate::durable;
use crate::model::{HostName, TargetUrl};

/// Longest token or host key file in bytes.
const FILE_MAX: usize = 16 << 10;

/// Why nothing opens a target.
#[derive(Debug, thiserror::Error)]
pub enum NotUsable {
    #[error(
        "there is no key for target '{0}'; 'gitmesh target key {0}' makes one and prints what the other side needs"
    )]
    NoKey(HostName),
    #[error("the host of target '{0}' is not known; 'gitmesh target host-key {0} FILE' pins its public key")]
    NoHostKey(HostName),
    #[error(
        "the token of target '{name}' is for {for_whom}, and is not sent to {origin}; 'gitmesh target token {name} FILE --for {origin}' says otherwise"
    )]
    OtherServer { name: HostName, for_whom: String, origin: String },
    #[error("the token of target '{0}' is not sent over plain http, where it could be read; use https")]
    OpenWire(HostName),
    #[error("{0}")]
    NotAKey(String),
    #[error("the files of target '{name}': {source}")]
    Files { name: HostName, source: io::Error },
}

/// A target's directory.
#[derive(Debug, Clone)]
pub struct Credentials {
    dir: PathBuf,
    name: HostName,
}

/// What a git process is given to get in: its environment, and what must not be repeated to anybody.
#[derive(Default)]
pub(super) struct Opening {
    pub env: Vec<(String, String)>,
    pub secrets: Vec<String>,
}

impl Credentials {
    /// `root` is `DATA/targets`.
    pub fn new(root: &Path, name: &HostName) -> Self {
        Self { dir: root.join(name.as_str()), name: name.clone() }
    }

    /// The targets that have a directory, by name.
    pub fn all(root: &Path) -> io::Result<Vec<Self>> {
        let entries = match fs::read_dir(root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut all = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            all.extend(name.to_str().and_then(|name| HostName::new(name).ok()).map(|name| Self::new(root, &name)));
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    pub fn name(&self) -> &HostName {
        &self.name
    }

    /// The public key that the other side is to let in, with one made at the first call.
    pub fn key(&self) -> Result<String, NotUsable> {
        if let Some(known) = self.public_key()? {
            return Ok(known);
        }
        let pair = KeypairData::from(Ed25519Keypair::from_seed(&rand::random()));
        let key =
            PrivateKey::new(pair, format!("gitmesh-{}", self.name)).map_err(|e| NotUsable::NotAKey(e.to_string()))?;
        let text = key.to_openssh(LineEnding::LF).map_err(|e| NotUsable::NotAKey(e.to_string()))?;
        let public = key.public_key().to_openssh().map_err(|e| NotUsable::NotAKey(e.to_string()))? + "\n";
        self.write("key.pub", public.as_bytes())?;
        self.write("key", text.as_bytes())?;
        Ok(public)
    }

    pub fn public_key(&self) -> Result<Option<String>, NotUsable> {
        if !self.has("key") {
            return Ok(None);
        }
        self.read("key.pub")
    }

    /// Pins the keys of the target's host: lines of public keys, or of a known_hosts file or `ssh-keyscan`.
    pub fn pin(&self, text: &str) -> Result<usize, NotUsable> {
        let mut lines = String::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let key = words.iter().position(|word| word.starts_with("ssh-") || word.starts_with("ecdsa-"));
            let key = key.and_then(|at| Some(format!("{} {}", words.get(at)?, words.get(at + 1)?)));
            let Some(key) = key.filter(|key| PublicKey::from_openssh(key).is_ok()) else {
                return Err(NotUsable::NotAKey(format!("'{line}' holds no public key")));
            };
            lines.push_str(&format!("{} {key}\n", self.name));
        }
        if lines.is_empty() {
            return Err(NotUsable::NotAKey("there is no key in it".to_owned()));
        }
        self.write("known_hosts", lines.as_bytes())?;
        Ok(lines.lines().count())
    }

    /// Keeps what is sent to an https target: `TOKEN`, or `USER:TOKEN`. It belongs to the server of `url` and goes to no
    /// other: whoever writes a repository's options chooses the URL behind a target's name.
    pub fn set_token(&self, text: &str, url: &TargetUrl) -> Result<(), NotUsable> {
        let token = text.trim();
        if token.is_empty() || token.len() > FILE_MAX || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(NotUsable::NotAKey("it holds no token: one word, or USER:TOKEN".to_owned()));
        }
        let Some(origin) = url.http_origin() else {
            return Err(NotUsable::NotAKey(format!("'{url}' is no https URL, and only such a server is sent a token")));
        };
        self.write("token", format!("{token}\n{origin}\n").as_bytes())
    }

    pub fn forget(&self) -> Result<bool, NotUsable> {
        match fs::remove_dir_all(&self.dir) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(self.failed(source)),
        }
    }

    /// Which of key, host key and token there are, in words.
    pub fn shown(&self) -> String {
        let parts = [("key", "key"), ("known_hosts", "host key"), ("token", "token")];
        let here: Vec<&str> = parts.iter().filter(|(file, _)| self.has(file)).map(|(_, word)| *word).collect();
        if here.is_empty() { "nothing".to_owned() } else { here.join(", ") }
    }

    /// What git needs to get in at `url`.
    pub(super) fn opening(&self, url: &TargetUrl) -> Result<Opening, NotUsable> {
        let Some(origin) = url.http_origin() else { return self.ssh() };
        let mut opening = Opening::default();
        if let Some(token) = self.read("token")? {
            if url.is_open() {
                return Err(NotUsable::OpenWire(self.name.clone()));
            }
            let (token, for_whom) = token.trim().split_once('\n').unwrap_or((token.trim(), "no server"));
            if for_whom != origin {
                let (name, for_whom) = (self.name.clone(), for_whom.to_owned());
                return Err(NotUsable::OtherServer { name, for_whom, origin });
            }
            let (user, secret) = token.split_once(':').unwrap_or(("git", token));
            let coded = BASE64.encode(format!("{user}:{secret}").as_bytes());
            // As configuration from the environment, where other users of the machine cannot read it.
            opening.env = vec![
                ("GIT_CONFIG_KEY_0".to_owned(), format!("http.{origin}.extraHeader")),
                ("GIT_CONFIG_VALUE_0".to_owned(), format!("Authorization: Basic {coded}")),
            ];
            opening.secrets = vec![coded, secret.to_owned()];
        }
        Ok(opening)
    }

    fn ssh(&self) -> Result<Opening, NotUsable> {
        if !self.has("key") {
            return Err(NotUsable::NoKey(self.name.clone()));
        }
        if !self.has("known_hosts") {
            return Err(NotUsable::NoHostKey(self.name.clone()));
        }
        let file = |name: &str| self.dir.join(name).display().to_string();
        // OpenSSH splits a list of files at blanks unless it is quoted; git gives the whole to a shell.
        let quoted = |text: String| format!("'{}'", text.replace('\'', "'\\''"));
        let known = quoted(format!("UserKnownHostsFile=\"{}\"", file("known_hosts")));
        let command = format!(
            "ssh -F /dev/null -a -x -T -i {} -o IdentitiesOnly=yes -o IdentityAgent=none -o BatchMode=yes \
             -o PreferredAuthentications=publickey -o StrictHostKeyChecking=yes -o {known} \
             -o GlobalKnownHostsFile=/dev/null -o HostKeyAlias={} -o CheckHostIP=no -o UpdateHostKeys=no \
             -o ControlMaster=no -o ConnectTimeout=20 -o ServerAliveInterval=15 -o ServerAliveCountMax=3 \
             -o PermitLocalCommand=no -o ClearAllForwardings=yes",
            quoted(file("key")),
            self.name,
        );
        let env = [("GIT_SSH_COMMAND", command), ("GIT_SSH_VARIANT", "ssh".to_owned())];
        Ok(Opening { env: env.map(|(k, v)| (k.to_owned(), v)).into(), secrets: Vec::new() })
    }

    fn has(&self, file: &str) -> bool {
        self.dir.join(file).is_file()
    }

    fn read(&self, file: &str) -> Result<Option<String>, NotUsable> {
        match fs::read_to_string(self.dir.join(file)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(self.failed(source)),
        }
    }

    /// Whole or not at all; never readable for others, not even for a moment.
    fn write(&self, file: &str, contents: &[u8]) -> Result<(), NotUsable> {
        let written = || {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
            let fresh = self.dir.join(format!(".{file}.tmp"));
            // Of a run that was killed; a secret must not lie about.
            match fs::remove_file(&fresh) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
            io::Write::write_all(&mut out, contents)?;
            durable::sync_open("mirror.target.sync", &out, &fresh)?;
            durable::rename("mirror.target.rename", &fresh, &self.dir.join(file))?;
            durable::sync("mirror.target.dir", &self.dir)
        };
        written().map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> NotUsable {
        NotUsable::Files { name: self.name.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn secrets_are_their_owners_alone_and_stand_in_no_argument() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("tar gets");
        let name = HostName::new("hub").unwrap();
        let of = Credentials::new(&root, &name);
        let ssh = TargetUrl::parse("git@h:x").unwrap();
        assert!(of.opening(&ssh).err().unwrap().to_string().contains("gitmesh target key hub"));
        let public = of.key().unwrap();
        assert!(public.starts_with("ssh-ed25519 ") && of.key().unwrap() == public, "{public}");
        assert!(of.opening(&ssh).err().unwrap().to_string().contains("host-key hub"));
        for bad in ["", "h ssh-ed25519", "h ssh-ed25519 AAAA"] {
            assert!(of.pin(bad).is_err(), "{bad}");
        }
        assert_eq!(of.pin(&format!("# scanned\n[h]:22 {public}{public}")).unwrap(), 2);
        let command = &of.opening(&ssh).ok().unwrap().env[0].1;
        assert!(command.contains("StrictHostKeyChecking=yes") && command.contains("HostKeyAlias=hub"), "{command}");
        for file in ["key", "known_hosts"] {
            let mode = fs::metadata(root.join("hub").join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
        let url = |text: &str| TargetUrl::parse(text).unwrap();
        assert!(of.set_token("two words", &url("https://h/")).is_err());
        assert!(of.set_token("one", &url("git@h:x")).is_err());
        of.set_token("me:s3cret\n", &url("https://H:443/")).unwrap();
        // Whoever may write a repository's options names any URL beside a target's name.
        for other in ["https://evil/x", "https://h.evil/x", "https://h:8443/x", "http://127.0.0.1/x"] {
            let why = of.opening(&url(other)).err().unwrap().to_string();
            assert!(why.contains("is for https://h/, and is not sent to"), "{other}: {why}");
        }
        let opening = of.opening(&TargetUrl::parse("https://h/x").unwrap()).ok().unwrap();
        assert_eq!(opening.env[1].1, format!("Authorization: Basic {}", BASE64.encode(b"me:s3cret")));
        assert!(opening.secrets.contains(&"s3cret".to_owned()));
        assert!(of.opening(&TargetUrl::parse("http://h/x").unwrap()).is_err());
        assert_eq!(of.shown(), "key, host key, token");
        assert_eq!(Credentials::all(&root).unwrap().len(), 1);
        assert!(of.forget().unwrap() && !of.forget().unwrap());
    }
}

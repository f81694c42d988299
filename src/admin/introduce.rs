//! Making another node known, and forgetting it: the files in `peers/`.
//!
//! One way for the file an administrator hands over and for a node that comes by invitation. Nothing is written unless
//! everything fits; the address is written before the key, so that a peer is never known without it.

use std::io;
use std::path::{Path, PathBuf};

use super::{Address, DataDir, write_whole};
use crate::git::objects::{self, ObjectsError};
use crate::model::{Fingerprint, HostName};
use crate::policy::{PublicKey, parse_public_key};

/// Another node, as it is about to be known.
#[derive(Debug)]
pub struct Introduction {
    pub name: HostName,
    pub key: PublicKey,
    /// The line of `key`, as it was given.
    pub line: String,
    /// `None` keeps the address that is known, else `git@NAME:22`.
    pub address: Option<Address>,
}

/// What an introduction came to.
#[derive(Debug, PartialEq, Eq)]
pub struct Introduced {
    pub address: Address,
    pub news: News,
}

#[derive(Debug, PartialEq, Eq)]
pub enum News {
    Nothing,
    Known,
    Address,
    /// With the key that counts no more.
    Key {
        old: Fingerprint,
    },
}

/// Why a node cannot be introduced. `Display` is the reason and the cure.
#[derive(Debug, thiserror::Error)]
pub enum CannotMeet {
    #[error("{0}")]
    Clash(String),
    #[error("cannot read the admin repository: {0}")]
    Repository(#[from] ObjectsError),
    #[error("cannot write {}: {error}", path.display())]
    Write { path: PathBuf, error: io::Error },
}

impl Introduction {
    /// Checks that the key proves one party only: not this node, not another peer, and no user. `admin_dir` is the
    /// admin repository.
    pub fn check(&self, data: &DataDir, node: &HostName, admin_dir: &Path) -> Result<(), CannotMeet> {
        let Self { name, key, .. } = self;
        let clash = |text: String| Err(CannotMeet::Clash(text));
        if name == node {
            let help = format!("give it the other node's file; {node}.pub goes to the other side");
            return clash(format!("'{name}' is this node itself\nhelp: {help}"));
        }
        let own = std::fs::read_to_string(data.public_key(node)).ok();
        if own.and_then(|text| parse_public_key(text.trim()).ok()).is_some_and(|own| own.blob == key.blob) {
            return clash(format!(
                "the key is this node's own ({})\nhelp: take the other node's file",
                key.fingerprint
            ));
        }
        for entry in std::fs::read_dir(data.peers()).into_iter().flatten().flatten() {
            let path = entry.path();
            let Some(other) = named_by(&path).filter(|other| other != name) else { continue };
            let known = std::fs::read_to_string(&path).ok().and_then(|text| parse_public_key(text.trim()).ok());
            if known.is_some_and(|known| known.blob == key.blob) {
                let help = format!("if the node was renamed, first: gitmesh peer remove {other}");
                return clash(format!("the key is that of peer '{other}'\nhelp: {help}"));
            }
        }
        if !admin_dir.exists() {
            // A new node that joins has none yet.
            return Ok(());
        }
        let Some(commit) = objects::head_commit(admin_dir)? else { return Ok(()) };
        let files = objects::files_at(admin_dir, &commit, &["keydir/"])?;
        let of_node = |path: &str| path.rsplit('/').next().is_some_and(|base| base.starts_with("server-"));
        for (path, contents) in files.iter().filter(|(path, _)| path.ends_with(".pub") && !of_node(path)) {
            let text = String::from_utf8_lossy(contents);
            if text.lines().filter_map(|line| parse_public_key(line).ok()).any(|known| known.blob == key.blob) {
                let help = "a node and a user need keys of their own; 'gitmesh init' made one for the node";
                return clash(format!("the key is a user's, {path} in gitmesh-admin\nhelp: {help}"));
            }
        }
        Ok(())
    }

    /// The fingerprint under which the name is known on this machine, if that is another key than this one.
    pub fn other_key(&self, data: &DataDir) -> Option<Fingerprint> {
        key_on_file(data, &self.name).filter(|known| known.blob != self.key.blob).map(|known| known.fingerprint)
    }

    /// Writes what differs. Running it again changes nothing.
    pub fn write(&self, data: &DataDir) -> Result<Introduced, CannotMeet> {
        let Self { name, key, line, address: given } = self;
        let file = |suffix: &str| data.peers().join(format!("{name}.{suffix}"));
        let known_key = key_on_file(data, name);
        let known_address: Option<Address> =
            std::fs::read_to_string(file("address")).ok().and_then(|text| text.trim().parse().ok());
        let address =
            given.clone().or_else(|| known_address.clone()).unwrap_or_else(|| Address::of_host(name.as_str()));
        let same_key = known_key.as_ref().is_some_and(|known| known.blob == key.blob);
        let same_address = given.is_none() || known_address.as_ref() == Some(&address);
        if same_key && same_address {
            return Ok(Introduced { address, news: News::Nothing });
        }
        let write = |path: PathBuf, text: String| {
            write_whole(&path, text.as_bytes(), 0o600).map_err(|error| CannotMeet::Write { path, error })
        };
        std::fs::create_dir_all(data.peers()).map_err(|error| CannotMeet::Write { path: data.peers(), error })?;
        if given.is_some() {
            write(file("address"), format!("{address}\n"))?;
        }
        if !same_key {
            write(file("pub"), format!("{line}\n"))?;
        }
        let news = match known_key {
            None => News::Known,
            Some(_) if same_key => News::Address,
            Some(old) => News::Key { old: old.fingerprint },
        };
        Ok(Introduced { address, news })
    }
}

/// Forgets a peer that is known by files on this machine; `false` if it was not.
pub fn forget(data: &DataDir, name: &HostName) -> io::Result<bool> {
    let mut known = false;
    // The key first: an address alone makes nobody a peer.
    for suffix in ["pub", "address"] {
        match std::fs::remove_file(data.peers().join(format!("{name}.{suffix}"))) {
            Ok(()) => known = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(known)
}

fn key_on_file(data: &DataDir, name: &HostName) -> Option<PublicKey> {
    let text = std::fs::read_to_string(data.peers().join(format!("{name}.pub"))).ok()?;
    parse_public_key(text.trim()).ok()
}

fn named_by(path: &Path) -> Option<HostName> {
    HostName::new(path.file_name()?.to_str()?.strip_suffix(".pub")?).ok()
}

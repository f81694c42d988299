//! What travels besides references, creator and roles: the description, and the git settings that the master's
//! configuration gives the repository.
//!
//! On a replica two things stand side by side: what its master has said, kept word for word in a file of ours, and
//! what is in force, where the replica's own configuration has the last word. The first is what digests compare, so a
//! replica that has its own description is in step all the same.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::durable::write_whole;
use crate::git::odb;
use crate::git::service::{from_word, to_word};

/// Names, inside a repository, the git config keys that were written for the configuration, one a line.
pub const WRITTEN_KEYS: &str = "gitmesh-config-keys";
/// What the master has said last, in the words of the mirror push; no file: nothing.
const SAID: &str = "gitmesh-from-master";
const DESCRIPTION: &str = "description";
/// A repository's description and settings, as its master has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Without the newline at its end; empty if there is none.
    pub description: String,
    /// git config by full key, without the description's.
    pub settings: BTreeMap<String, String>,
}

impl Metadata {
    /// Of the master's repository at `dir`. What cannot be read counts as absent.
    pub fn read(dir: &Path) -> Self {
        let listed = read(&dir.join(WRITTEN_KEYS)).unwrap_or_default();
        let keys: Vec<&str> = listed.lines().filter(|key| *key != "gitweb.description").collect();
        let settings = if keys.is_empty() { Ok(BTreeMap::new()) } else { odb::read_config(dir, &keys) };
        let settings = settings.unwrap_or_else(|error| {
            tracing::error!(dir = %dir.display(), %error, "its git config cannot be read and is not mirrored");
            BTreeMap::new()
        });
        let mut description = read(&dir.join(DESCRIPTION)).unwrap_or_default();
        if description.starts_with("Unnamed repository;") {
            description.clear(); // git's own text, from its template
        }
        description.truncate(description.trim_end().len());
        Self { description, settings }
    }

    /// What the master of the replica at `dir` has said last.
    pub fn received(dir: &Path) -> Self {
        read(&dir.join(SAID)).and_then(|text| Self::from_word(text.trim())).unwrap_or_default()
    }

    /// Keeps what the master has said, durably; `false` if it was known.
    pub fn remember(&self, dir: &Path) -> io::Result<bool> {
        if Self::received(dir) == *self {
            return Ok(false);
        }
        write_whole(dir, SAID, &format!("{}\n", self.to_word()))?;
        Ok(true)
    }

    /// The description becomes the master's: its file is removed if it has none.
    pub fn forget_description(dir: &Path) -> io::Result<()> {
        match std::fs::remove_file(dir.join(DESCRIPTION)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// One word of a command line: `description:Tools%20of%20ours,hooks.mailinglist:a@b`.
    pub fn to_word(&self) -> String {
        let described = (!self.description.is_empty()).then_some(("description", self.description.as_str()));
        let settings = self.settings.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let pairs = described.into_iter().chain(settings);
        pairs.map(|(key, value)| format!("{}:{}", to_word(key), to_word(value))).collect::<Vec<_>>().join(",")
    }

    /// `None` for what [`Metadata::to_word`] does not write.
    pub fn from_word(word: &str) -> Option<Self> {
        let mut found = Self::default();
        for pair in word.split(',').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once(':')?;
            let (key, value) = (from_word(key)?, from_word(value)?);
            // A key of git config has a dot.
            if key == "description" {
                found.description = value;
            } else if key.contains('.') && !key.contains('\n') {
                found.settings.insert(key, value);
            } else {
                return None;
            }
        }
        Some(found)
    }

    /// A digest that also covers this: version 2 of what nodes compare. Where there is nothing to cover it is version
    /// 1's, [`super::Ownership::seal`].
    pub fn seal(&self, owned: String) -> String {
        if *self == Self::default() {
            return owned;
        }
        format!("{:x}", Sha256::digest(format!("{owned}\n{}", self.to_word())))
    }
}

fn read(file: &Path) -> Option<String> {
    match std::fs::read(file) {
        Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::error!(file = %file.display(), %error, "cannot be read, so it is not mirrored");
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_master_has_travels_in_a_word() {
        let dir = tempfile::tempdir().unwrap();
        crate::git::objects::init_bare(dir.path(), "main").unwrap();
        assert_eq!(Metadata::read(dir.path()), Metadata::default());
        std::fs::write(dir.path().join("description"), "Unnamed repository; edit this file\n").unwrap();
        assert_eq!(Metadata::read(dir.path()), Metadata::default());
        std::fs::write(dir.path().join("description"), "Tools: ours, \u{e9} and yours\n").unwrap();
        std::fs::write(dir.path().join(WRITTEN_KEYS), "foo.bar\ngitweb.description\nfoo.gone\n").unwrap();
        let values = [("foo.bar", Some("a, b: c")), ("foo.own", Some("x"))].into();
        odb::write_config(dir.path(), &values).unwrap();
        let found = Metadata::read(dir.path());
        assert_eq!(found.description, "Tools: ours, \u{e9} and yours");
        assert_eq!(found.settings, [("foo.bar".to_owned(), "a, b: c".to_owned())].into());
        assert_eq!(Metadata::from_word(&found.to_word()), Some(found.clone()));
        assert!(!found.to_word().contains(' '));
        for bad in ["x", "x:y", "a.b:%", "a%0A.b:c"] {
            assert_eq!(Metadata::from_word(bad), None, "{bad}");
        }
        assert!(found.remember(dir.path()).unwrap() && !found.remember(dir.path()).unwrap());
        assert_eq!(Metadata::received(dir.path()), found);
        assert_eq!(Metadata::default().seal("ab".to_owned()), "ab");
        assert_ne!(
            found.seal("ab".to_owned()),
            Metadata { settings: BTreeMap::new(), ..found.clone() }.seal("ab".to_owned())
        );
        // What is too long for the line of a push is for the push to tell.
        std::fs::write(dir.path().join("description"), "\u{e9}".repeat(2000)).unwrap();
        assert_eq!(Metadata::read(dir.path()).description.len(), 4000);
        Metadata::forget_description(dir.path()).unwrap();
        Metadata::forget_description(dir.path()).unwrap();
        assert_eq!(Metadata::read(dir.path()).description, "");
    }
}

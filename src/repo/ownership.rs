//! Whose a repository is, and who has which role in it: two small files inside it, with gitolite's names and formats,
//! so that a repository of a gitolite server is understood as it is and could go back there.
//!
//! They are read at each question and never cached, so a change made by hand counts at once; that a repository has
//! neither is known by its directory's time ([`dir_memory`](super::dir_memory)).

use std::io;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::durable::write_whole;
use crate::model::UserName;

/// The creator's name, without a newline.
const CREATOR: &str = "gl-creator";
/// A line a role: `READERS alice @devs`.
const ROLES: &str = "gl-perms";
/// The longest role file, in bytes: some hundred names. It is read for each decision, and travels in one SSH request.
pub const ROLES_MAX: usize = 8 << 10;

/// What depends on who made a repository. Repositories that the configuration names have neither.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ownership {
    pub creator: Option<UserName>,
    /// The text of the role file; `None` if there is none.
    pub roles: Option<String>,
}

impl Ownership {
    /// Of the repository at `dir`. What cannot be read counts as absent: it gives nobody anything.
    pub(super) fn read(dir: &Path) -> Self {
        Self { creator: read_creator(dir), roles: read(&dir.join(ROLES)).map(|text| cut(dir, text)) }
    }

    /// A digest of a repository's references, and, where there is one, of its creator and roles: two copies of which
    /// one has another digest are not equal. `refs` is that of the references alone.
    pub fn seal(&self, refs: String) -> String {
        let (creator, roles) = (self.creator.as_ref(), self.roles.as_deref().unwrap_or_default());
        if creator.is_none() && roles.is_empty() {
            return refs;
        }
        let mut digest = Sha256::new();
        // No name holds a newline, so the parts cannot be taken for one another.
        digest.update(format!("{refs}\n{}\n{roles}", creator.map_or("", UserName::as_str)));
        format!("{:x}", digest.finalize())
    }

    /// Writes what is known into the repository at `dir`, each file whole or not at all, also across a power cut; what
    /// is `None` stays as it is.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        if let Some(creator) = &self.creator {
            write_whole(dir, CREATOR, creator.as_str())?;
        }
        if let Some(roles) = &self.roles {
            write_whole(dir, ROLES, roles)?;
        }
        Ok(())
    }
}

/// Whether neither file is there, readable or not.
pub(super) fn is_without(dir: &Path) -> bool {
    let gone = |file: &str| matches!(dir.join(file).symlink_metadata(), Err(e) if e.kind() == io::ErrorKind::NotFound);
    gone(CREATOR) && gone(ROLES)
}

pub(super) fn read_creator(dir: &Path) -> Option<UserName> {
    let text = read(&dir.join(CREATOR))?;
    let name = UserName::new(text.trim());
    if let Err(error) = &name {
        tracing::warn!(file = %dir.join(CREATOR).display(), %error, "the creator's name is no user name and is ignored");
    }
    name.ok()
}

fn read(file: &Path) -> Option<String> {
    // Most repositories have no such file, and to open what is not there costs twice as much as to look.
    if matches!(file.symlink_metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound) {
        return None;
    }
    match std::fs::read(file) {
        Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::error!(file = %file.display(), %error, "cannot be read, so it gives nobody a right");
            }
            None
        }
    }
}

/// The whole lines within the limit.
fn cut(dir: &Path, mut text: String) -> String {
    if text.len() > ROLES_MAX {
        tracing::error!(file = %dir.join(ROLES).display(), "longer than {ROLES_MAX} bytes; the rest is ignored, use groups");
        let end = text.as_bytes()[..ROLES_MAX].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_gitolites_files_are_understood() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Ownership::read(dir.path()), Ownership::default());
        let owned = Ownership { creator: UserName::new("alice").ok(), roles: Some("READERS bob\n".to_owned()) };
        owned.write(dir.path()).unwrap();
        assert_eq!(Ownership::read(dir.path()), owned);
        assert_eq!(std::fs::read(dir.path().join("gl-creator")).unwrap(), b"alice", "as gitolite: no newline");
        Ownership::default().write(dir.path()).unwrap();
        assert_eq!(Ownership::read(dir.path()), owned, "nothing known, nothing changed");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        for (text, creator) in [("bob\n", Some("bob")), ("no name", None), ("", None)] {
            std::fs::write(dir.path().join("gl-creator"), text).unwrap();
            assert_eq!(read_creator(dir.path()).as_ref().map(UserName::as_str), creator);
        }
    }

    #[test]
    fn the_seal_tells_owners_apart() {
        let seal = |creator: &str, roles: Option<&str>| {
            Ownership { creator: UserName::new(creator).ok(), roles: roles.map(str::to_owned) }.seal("ab".to_owned())
        };
        assert_eq!((seal("", None), seal("", Some(""))), ("ab".to_owned(), "ab".to_owned()));
        let some =
            [seal("bob", None), seal("alice", None), seal("bob", Some("READERS x")), seal("", Some("READERS x"))];
        assert!(some.iter().all(|seal| seal.len() == 64));
        assert_eq!(some.iter().collect::<std::collections::BTreeSet<_>>().len(), some.len());
        assert_eq!(seal("bob", None), seal("bob", Some("")));
    }

    #[test]
    fn a_huge_role_file_is_cut_at_a_line() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("gl-perms"), "READERS \u{e9}someone\n".repeat(2000)).unwrap();
        let roles = Ownership::read(dir.path()).roles.unwrap();
        assert!(roles.len() <= ROLES_MAX && roles.ends_with('\n'));
    }
}

//! All references of a repository as one value, and the fingerprint by which copies are compared.
//!
//! They are read from git's files by [`super::refs`]; only what that does not read is left to libgit2. A loose reference
//! whose file holds none, as a power cut may leave it, is an error: it must not look like a deletion to the copies.
//! All calls block.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::objects::{ObjectsError, open, own};
use super::protocol::oid;
use super::refs::{self, Head, Hex, Snapshot};
use crate::model::{Oid, RefName};

/// All references of a repository at one moment, with what HEAD points at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RefState {
    /// The branch that HEAD names, born or unborn; `None` when HEAD is detached or names something odd.
    pub head: Option<RefName>,
    /// The object that a detached HEAD names.
    pub detached: Option<Oid>,
    /// Every reference, `refs/gitmesh/*` too. Symbolic ones count with the object they lead to; dangling ones and
    /// those whose name is not UTF-8 are left out, as git leaves them out of what it advertises to us.
    pub refs: BTreeMap<RefName, Oid>,
}

impl RefState {
    /// The fingerprint by which two copies are compared: SHA-256, in hexadecimal, over `HEAD <target>\n` (the branch, or
    /// the object of a detached HEAD) and `<oid> <name>\n` for each reference in byte order, without `refs/gitmesh/*`.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        if let Some(head) = &self.head {
            hash.update(format!("HEAD {head}\n"));
        }
        if let Some(oid) = &self.detached {
            hash.update(format!("HEAD {oid}\n"));
        }
        for (name, oid) in self.refs.iter().filter(|(name, _)| !name.is_internal()) {
            hash.update(oid.as_str());
            hash.update(b" ");
            hash.update(name.as_str());
            hash.update(b"\n");
        }
        hash.finalize().iter().fold(String::with_capacity(64), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }
}

/// Reads HEAD and all references. Cost grows with their number alone.
pub fn read_refs(dir: &Path) -> Result<RefState, ObjectsError> {
    match Snapshot::of_all(dir).and_then(|snapshot| RefState::of(&snapshot)) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => by_libgit2(dir),
        read => Ok(read?),
    }
}

impl RefState {
    /// HEAD alone, with no references.
    pub fn head_of(snapshot: &Snapshot) -> io::Result<Self> {
        let mut state = Self::default();
        match snapshot.head()? {
            Some(Head::Branch(name, _)) => state.head = ref_name(&name),
            Some(Head::Detached(value)) => state.detached = Some(object(&value)),
            None => {}
        }
        Ok(state)
    }

    /// Of a snapshot of all references.
    pub fn of(snapshot: &Snapshot) -> io::Result<Self> {
        let mut state = Self::head_of(snapshot)?;
        snapshot.list(&refs::minimal(&[]), |reference| {
            if let Some(name) = ref_name(&reference.name) {
                state.refs.insert(name, object(&reference.oid));
            }
            Ok(())
        })?;
        Ok(state)
    }
}

fn ref_name(bytes: &[u8]) -> Option<RefName> {
    std::str::from_utf8(bytes).ok().and_then(RefName::parse)
}

fn object(hex: &Hex) -> Oid {
    oid(hex).expect("the reader has seen hexadecimal digits")
}

fn by_libgit2(dir: &Path) -> Result<RefState, ObjectsError> {
    let repo = open(dir)?;
    let head = repo.find_reference("HEAD")?;
    let mut state = RefState {
        head: head.symbolic_target().ok().flatten().and_then(RefName::parse),
        detached: head.target().map(own),
        refs: BTreeMap::new(),
    };
    for reference in repo.references()? {
        let reference = reference?;
        let Some(name) = reference.name().ok().and_then(RefName::parse) else { continue };
        // A direct reference is not resolved, which would look it up a second time.
        let target = match reference.target() {
            Some(oid) => Some(oid),
            None => reference.resolve().ok().and_then(|direct| direct.target()),
        };
        if let Some(oid) = target {
            state.refs.insert(name, own(oid));
        }
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::objects::{init_bare, raw, set_head};

    fn fixture() -> (tempfile::TempDir, git2::Repository, git2::Oid) {
        let dir = tempfile::tempdir().unwrap();
        init_bare(dir.path(), "main").unwrap();
        let repo = open(dir.path()).unwrap();
        let blob = repo.blob(b"1").unwrap();
        (dir, repo, blob)
    }

    #[test]
    fn an_unborn_head_is_read() {
        let (dir, ..) = fixture();
        let state = read_refs(dir.path()).unwrap();
        assert_eq!(state.head, RefName::parse("refs/heads/main"));
        assert!(state.refs.is_empty());
        set_head(dir.path(), &RefName::parse("refs/heads/other").unwrap()).unwrap();
        assert_eq!(read_refs(dir.path()).unwrap().head, RefName::parse("refs/heads/other"));
        // sha256 of "HEAD refs/heads/main\n", by sha256sum(1)
        assert_eq!(state.digest(), "fb43f7aec2edff3a42083b926418904e51c6b4f68fc7fa24af54d9bae7e1da0a");
    }

    #[test]
    fn internal_refs_do_not_count_in_the_digest() {
        let (dir, repo, first) = fixture();
        repo.reference("refs/heads/main", first, false, "").unwrap();
        let before = read_refs(dir.path()).unwrap();
        repo.reference("refs/gitmesh/lost/1", first, false, "").unwrap();
        repo.reference_symbolic("refs/remotes/origin/HEAD", "refs/heads/gone", false, "").unwrap();
        let after = read_refs(dir.path()).unwrap();
        assert_eq!(after.refs.len(), before.refs.len() + 1, "the dangling reference is left out");
        assert_eq!(after.digest(), before.digest());
        repo.reference_symbolic("refs/heads/alias", "refs/heads/main", false, "").unwrap();
        let aliased = read_refs(dir.path()).unwrap();
        assert_eq!(aliased.refs.get(&RefName::parse("refs/heads/alias").unwrap()), Some(&own(first)));
        assert_ne!(aliased.digest(), before.digest());
    }

    #[test]
    fn both_readers_agree_and_what_holds_no_reference_is_no_deletion() {
        let (dir, repo, one) = fixture();
        let at = dir.path();
        for name in ["refs/heads/main", "refs/heads/a/b", "refs/tags/v1", "refs/x/y"] {
            repo.reference(name, one, false, "").unwrap();
        }
        let tag = repo.reference("refs/tags/v2", one, false, "").unwrap();
        assert_eq!(tag.target(), Some(raw(&own(one)).unwrap()));
        let pack = std::process::Command::new("git").arg("-C").arg(at).args(["pack-refs", "--all"]).status().unwrap();
        assert!(pack.success());
        repo.reference("refs/heads/new", one, false, "").unwrap();
        assert_eq!(read_refs(at).unwrap(), by_libgit2(at).unwrap());
        assert_eq!(read_refs(at).unwrap().refs.len(), 6);
        repo.set_head_detached(one).unwrap_err();
        std::fs::write(at.join("HEAD"), format!("{one}\n")).unwrap();
        assert_eq!(read_refs(at).unwrap().detached, Some(own(one)));
        for broken in ["", "nothing\n"] {
            std::fs::write(at.join("refs/heads/main"), broken).unwrap();
            assert!(read_refs(at).unwrap_err().to_string().contains("read or write"), "{broken:?}");
        }
        std::fs::remove_file(at.join("refs/heads/main")).unwrap();
        // A format that neither reads is an error and never "no references".
        let config = at.join("config");
        std::fs::write(&config, "[core]\n\trepositoryformatversion = 1\n[extensions]\n\trefStorage = reftable\n")
            .unwrap();
        assert!(read_refs(at).is_err());
        std::fs::remove_file(&config).unwrap();
        assert!(read_refs(&at.join("nothing")).is_err());
    }
}

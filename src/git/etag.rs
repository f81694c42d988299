//! What the references of a repository are at one moment, in a few bytes, and which have changed since: for repositories
//! whose list of references is too long to be read and sent at each change.
//!
//! git moves a reference by writing its loose file, and rewrites `packed-refs` only to pack or to delete. So while
//! `packed-refs` is the same file, by inode, size and times, the loose references say all that has happened; they are
//! few, and are compared by what they hold. As in git's index, a time too near to the moment of the look proves nothing.
//! The etag of a [`Look`] has the meaning that HTTP gives the word: who sends it back is told whether it is still right.
//! Nothing here depends on who changed what: git at work behind our back is seen like everybody else.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};

use super::protocol::oid;
use super::refs::{Hex, Snapshot};
use crate::model::{Oid, RefName, RefUpdate};

/// A shorter `packed-refs`, some thousand references, is read and sent as it is. Bytes.
const PACKED_MIN: u64 = 64 << 10;
/// More loose references than this are no few.
const LOOSE_MAX: usize = 10_000;
/// What is younger when it is looked at may change again without another time to show it.
const SETTLED: Duration = Duration::from_secs(2);

/// How the references were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    packed: Stamp,
    loose: BTreeMap<Vec<u8>, Hex>,
}

/// By which a file is known again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp([u64; 7]);

impl Stamp {
    fn of(file: &Metadata) -> Self {
        let times = [file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()].map(i64::cast_unsigned);
        let [a, b, c, d] = times;
        Self([file.dev(), file.ino(), file.size(), a, b, c, d])
    }

    fn is_settled(&self, now: SystemTime) -> bool {
        let Self([_, _, _, modified, modified_ns, changed, changed_ns]) = *self;
        let newest = Duration::from_secs(modified) + Duration::from_nanos(modified_ns);
        let newest = newest.max(Duration::from_secs(changed) + Duration::from_nanos(changed_ns));
        now.duration_since(SystemTime::UNIX_EPOCH + newest).is_ok_and(|age| age >= SETTLED)
    }
}

impl Look {
    /// At a snapshot of all references. `None` where it is of no use: the list is short, many are loose, some are
    /// symbolic, or `packed-refs` has just been written.
    pub fn of(snapshot: &Snapshot) -> io::Result<Option<Self>> {
        Self::at(snapshot, PACKED_MIN, SystemTime::now())
    }

    fn at(snapshot: &Snapshot, least: u64, now: SystemTime) -> io::Result<Option<Self>> {
        let Some(packed) = snapshot.packed_metadata()? else { return Ok(None) };
        let stamp = Stamp::of(&packed);
        if packed.size() < least || !stamp.is_settled(now) {
            return Ok(None);
        }
        let loose = snapshot.loose().take(LOOSE_MAX + 1);
        let loose: Option<BTreeMap<_, _>> = loose.map(|(name, value)| Some((name.to_vec(), value?))).collect();
        Ok(loose.filter(|loose| loose.len() <= LOOSE_MAX).map(|loose| Self { packed: stamp, loose }))
    }

    /// 64 hexadecimal digits, the same for the same look alone.
    pub fn etag(&self) -> String {
        let mut hash = Sha256::new();
        for number in self.packed.0 {
            hash.update(number.to_le_bytes());
        }
        for (name, value) in &self.loose {
            hash.update(value);
            hash.update(name);
            hash.update(b"\n");
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// What has changed since `before`, by the look at `snapshot` that this is. `None` when only all of the references
    /// could tell: some were deleted or packed.
    pub fn since(&self, before: &Self, snapshot: &Snapshot) -> io::Result<Option<Vec<RefUpdate>>> {
        if self.packed != before.packed || before.loose.keys().any(|name| !self.loose.contains_key(name)) {
            return Ok(None);
        }
        let mut changes = Vec::new();
        for (bytes, new) in self.loose.iter().filter(|(name, new)| before.loose.get(*name) != Some(new)) {
            // Names that are not passed over here are not passed over where all references are read.
            let Some(name) = std::str::from_utf8(bytes).ok().and_then(RefName::parse) else { continue };
            let new = object(new);
            let old = match before.loose.get(bytes) {
                Some(old) => Some(*old),
                None => snapshot.packed_value(bytes)?,
            };
            let old = old.map_or_else(|| new.to_zero(), |old| object(&old));
            if old != new && !name.is_internal() {
                changes.push(RefUpdate { name, old, new });
            }
        }
        Ok(Some(changes))
    }

    /// How it will be after these updates, unless git has to touch `packed-refs` for them.
    pub fn after(mut self, updates: &[RefUpdate]) -> Option<Self> {
        for RefUpdate { name, new, .. } in updates {
            let value: Hex = new.as_str().as_bytes().try_into().ok()?;
            if new.is_zero() {
                return None;
            }
            self.loose.insert(name.as_str().as_bytes().to_vec(), value);
        }
        Some(self)
    }
}

fn object(hex: &Hex) -> Oid {
    oid(hex).expect("the reader has seen hexadecimal digits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::objects::init_bare;
    use std::path::PathBuf;

    struct Fixture {
        _tmp: tempfile::TempDir,
        dir: PathBuf,
    }

    impl Fixture {
        fn new() -> Self {
            let tmp = tempfile::tempdir().unwrap();
            let dir = tmp.path().join("a.git");
            init_bare(&dir, "main").unwrap();
            let fixture = Self { _tmp: tmp, dir };
            for name in ["b/main", "b/packed", "tags/v1"] {
                fixture.git(&["update-ref", &format!("refs/{name}"), &fixture.blob("1")]);
            }
            fixture.git(&["pack-refs", "--all"]);
            fixture
        }

        fn git(&self, args: &[&str]) -> String {
            let done = std::process::Command::new("git").arg("-C").arg(&self.dir).args(args).output().unwrap();
            assert!(done.status.success(), "{done:?}");
            String::from_utf8(done.stdout).unwrap().trim().to_owned()
        }

        fn blob(&self, text: &str) -> String {
            let file = self.dir.join("text");
            std::fs::write(&file, text).unwrap();
            self.git(&["hash-object", "-w", file.to_str().unwrap()])
        }

        /// As it looks a day later, when all times say what they can.
        fn look(&self) -> (Look, Snapshot) {
            let snapshot = Snapshot::of_all(&self.dir).unwrap();
            let later = SystemTime::now() + Duration::from_secs(86_400);
            (Look::at(&snapshot, 0, later).unwrap().expect("of use"), snapshot)
        }

        fn since(&self, before: &Look) -> Option<Vec<String>> {
            let (look, snapshot) = self.look();
            let shown = |u: RefUpdate| format!("{} {} {}", u.name, &u.old.as_str()[..4], &u.new.as_str()[..4]);
            Some(look.since(before, &snapshot).unwrap()?.into_iter().map(shown).collect())
        }
    }

    #[test]
    fn what_has_changed_is_told_or_nothing_is() {
        let f = Fixture::new();
        let (one, two) = (f.blob("1"), f.blob("2"));
        let (o, t, none) = (&one[..4], &two[..4], "0000");
        let (start, _) = f.look();
        assert_eq!(f.since(&start), Some(vec![]));
        f.git(&["update-ref", "refs/b/main", &two]);
        f.git(&["update-ref", "refs/b/new/a", &one]);
        f.git(&["update-ref", "refs/gitmesh/lost/1", &one]);
        f.git(&["update-ref", "refs/tags/v1", &one]); // the value it has already
        let changes = vec![format!("refs/b/main {o} {t}"), format!("refs/b/new/a {none} {o}")];
        assert_eq!(f.since(&start), Some(changes));
        let (middle, _) = f.look();
        assert_ne!(middle.etag(), start.etag());
        f.git(&["update-ref", "refs/b/main", &one]);
        assert_eq!(f.since(&middle), Some(vec![format!("refs/b/main {t} {o}")]));
        f.git(&["update-ref", "refs/b/main", &two]);
        assert_eq!((f.since(&middle), f.look().0.etag()), (Some(vec![]), middle.etag()), "there and back");
        for gone in [
            &["update-ref", "-d", "refs/b/new/a"][..],
            &["update-ref", "-d", "refs/b/packed"],
            &["pack-refs", "--all"],
            &["symbolic-ref", "refs/b/alias", "refs/b/main"],
        ] {
            f.git(gone);
            let snapshot = Snapshot::of_all(&f.dir).unwrap();
            let later = SystemTime::now() + Duration::from_secs(86_400);
            let told = Look::at(&snapshot, 0, later).unwrap().and_then(|look| look.since(&middle, &snapshot).unwrap());
            assert_eq!(told, None, "{gone:?}");
        }
    }

    #[test]
    fn it_is_of_use_for_long_lists_that_have_settled() {
        let f = Fixture::new();
        let at = |least, later| {
            let snapshot = Snapshot::of_all(&f.dir).unwrap();
            Look::at(&snapshot, least, SystemTime::now() + Duration::from_secs(later)).unwrap().is_some()
        };
        assert_eq!((at(0, 0), at(0, 10), at(1 << 20, 10)), (false, true, false));
        std::fs::remove_file(f.dir.join("packed-refs")).unwrap();
        assert!(!at(0, 10));
    }

    #[test]
    fn updates_that_landed_as_foreseen_are_as_foreseen() {
        let f = Fixture::new();
        let (two, (before, _)) = (f.blob("2"), f.look());
        let update = |name: &str, new: &str| {
            let (name, new) = (RefName::parse(name).unwrap(), Oid::parse(new).unwrap());
            RefUpdate { name, old: new.to_zero(), new }
        };
        let updates = [update("refs/b/main", &two), update("refs/x/y", &two)];
        let foreseen = before.clone().after(&updates).unwrap();
        for u in &updates {
            f.git(&["update-ref", u.name.as_str(), &two]);
        }
        assert_eq!(f.look().0, foreseen);
        f.git(&["update-ref", "refs/b/by-hand", &two]);
        assert_ne!(f.look().0, foreseen);
        let zero = "0".repeat(40);
        assert_eq!(before.after(&[update("refs/b/main", &zero)]), None);
    }
}

//! What is remembered of a directory for as long as its own time stays.
//!
//! A file that appears in a directory, or goes, changes the directory's ctime, which nobody can set back (inode(7)). So
//! one look at it stands for the looks at what it holds, and what is done there by hand counts at once as well. What a
//! file there says may change in place: only that a file is there, or is not, can be remembered so.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// A directory that changed less than this ago may change once more without a new time, in seconds: file systems count
/// in steps, the coarsest of two seconds.
const SETTLED: i64 = 3;
/// So many directories are remembered at most, of 64 bytes and what is known of them; then all are looked at anew.
const MOST: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct DirMemory<T>(Mutex<HashMap<(u64, u64), Known<T>>>);

#[derive(Debug)]
struct Known<T> {
    /// In seconds and nanoseconds.
    ctime: (i64, i64),
    what: T,
}

impl<T> Default for DirMemory<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Copy> DirMemory<T> {
    /// What was found in the directory, if it has not changed since.
    pub(super) fn of(&self, dir: &Metadata) -> Option<T> {
        let known = self.lock();
        let known = known.get(&(dir.dev(), dir.ino()))?;
        (known.ctime == (dir.ctime(), dir.ctime_nsec())).then_some(known.what)
    }

    /// Remembers what was found. `dir` was asked before it was looked for.
    pub(super) fn learn(&self, dir: &Metadata, what: T) {
        self.learn_at(dir, what, SystemTime::now());
    }

    fn learn_at(&self, dir: &Metadata, what: T, now: SystemTime) {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs().cast_signed());
        if dir.ctime() > now - SETTLED {
            return;
        }
        let mut known = self.lock();
        if known.len() >= MOST {
            known.clear();
        }
        known.insert((dir.dev(), dir.ino()), Known { ctime: (dir.ctime(), dir.ctime_nsec()), what });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(u64, u64), Known<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_directory_is_known_until_something_appears_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let (memory, look) = (DirMemory::default(), || fs::metadata(dir.path()).unwrap());
        memory.learn(&look(), 1);
        assert_eq!(memory.of(&look()), None, "it may still change without a new time");
        memory.learn_at(&look(), 2, SystemTime::now() + Duration::from_secs(10));
        assert_eq!(memory.of(&look()), Some(2));
        let before = look();
        // The clock for files ticks every few milliseconds.
        let until = SystemTime::now() + Duration::from_secs(20);
        while (look().ctime(), look().ctime_nsec()) == (before.ctime(), before.ctime_nsec()) {
            assert!(SystemTime::now() < until, "a directory's time changes with what it holds");
            fs::write(dir.path().join("gl-perms"), "READERS bob\n").unwrap();
            fs::remove_file(dir.path().join("gl-perms")).unwrap();
        }
        assert_eq!(memory.of(&look()), None);
        assert_eq!(memory.of(&fs::metadata("/").unwrap()), None);
    }
}

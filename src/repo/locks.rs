//! Locks that a killed git left behind.
//!
//! git takes a lock by creating `NAME.lock` and gives it back by renaming or removing it (git's lockfile API). A git
//! that is killed by SIGKILL or loses power leaves the file for ever, and every later update of that name fails.

use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::git::{loose, packed};

/// git holds a lock for milliseconds; the packed-refs lock of a repository of a million references for seconds.
const STALE_AFTER: Duration = Duration::from_secs(10);

/// What was to become `packed-refs`. git does not write past one that is there already.
const UNFINISHED: &str = "packed-refs.new";

/// Removes the reference and HEAD locks of the repository at `dir` that are older than ten seconds at `now`, or
/// that a killed daemon has left, and returns them. Call it only while no push into the repository is running.
pub fn remove_stale_locks(dir: &Path, now: SystemTime) -> io::Result<Vec<PathBuf>> {
    let stale = find_stale_locks(dir, now)?;
    stale.iter().try_for_each(std::fs::remove_file)?;
    Ok(stale)
}

/// The locks that [`remove_stale_locks`] would remove.
pub fn find_stale_locks(dir: &Path, now: SystemTime) -> io::Result<Vec<PathBuf>> {
    let mut stale = Vec::new();
    let mut todo = vec![(dir.to_owned(), 0)];
    while let Some((at, depth)) = todo.pop() {
        for entry in std::fs::read_dir(&at)? {
            let entry = entry?;
            let path = entry.path();
            let kind = entry.file_type()?;
            if kind.is_dir() && (depth > 0 || entry.file_name() == "refs") {
                todo.push((path, depth + 1));
            } else if kind.is_file()
                && (path.extension().is_some_and(|e| e == "lock") || path == dir.join(UNFINISHED))
                && is_stale(&path, &entry.metadata()?, now)?
            {
                stale.push(path);
            }
        }
    }
    Ok(stale)
}

fn is_stale(path: &Path, about: &Metadata, now: SystemTime) -> io::Result<bool> {
    // What is written under a lock is as stale as that.
    let lock = match path.with_extension("") {
        _ if path.ends_with(UNFINISHED) => path.with_extension("lock"),
        lock if lock.extension().is_some_and(|e| e == "lock") => lock,
        _ => path.to_owned(),
    };
    Ok(now.duration_since(about.modified()?).unwrap_or_default() >= STALE_AFTER || packed::is_left_over(&lock))
}

/// As [`remove_stale_locks`], of the given references, HEAD and `packed-refs` alone: a few look-ups instead of a walk.
pub fn remove_stale_locks_of<'a>(
    dir: &Path,
    names: impl Iterator<Item = &'a str>,
    now: SystemTime,
) -> io::Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    let locks = names.chain(["HEAD", "packed-refs"]).flat_map(|name| [loose::unfinished(name), format!("{name}.lock")]);
    for name in std::iter::once(UNFINISHED.to_owned()).chain(locks) {
        let path = dir.join(name);
        let Ok(metadata) = std::fs::symlink_metadata(&path) else { continue };
        if metadata.is_file() && is_stale(&path, &metadata, now)? {
            std::fs::remove_file(&path)?;
            removed.push(path);
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_locks_go_and_young_ones_stay() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let lock = dir.path().join("refs/heads/main.lock");
        std::fs::create_dir_all(lock.parent().expect("a parent")).expect("refs/heads");
        std::fs::write(&lock, "").expect("a lock");
        std::fs::write(dir.path().join("packed-refs.lock"), "").expect("a lock");
        std::fs::write(dir.path().join("packed-refs.new"), "").expect("what was to become packed-refs");
        std::fs::create_dir_all(dir.path().join("objects")).expect("objects");
        std::fs::write(dir.path().join("objects/x.lock"), "").expect("not a lock of references");
        let now = SystemTime::now();
        assert_eq!(remove_stale_locks(dir.path(), now).expect("readable"), Vec::<PathBuf>::new());
        let later = now + STALE_AFTER + Duration::from_secs(1);
        assert_eq!(remove_stale_locks(dir.path(), later).expect("readable").len(), 3);
        assert!(dir.path().join("objects/x.lock").exists());
    }
}

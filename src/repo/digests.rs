//! Digests of references, remembered for as long as the files that hold the references are as they were.
//!
//! git's files backend changes a reference by renaming a lock over a loose file or over `packed-refs`, or by removing a
//! loose file (gitrepository-layout(5)). Each of these changes the inode or the times of that file, or of the directory
//! that holds it. So HEAD, `packed-refs`, each directory below `refs/` and each file in them, by inode, size and times,
//! say whether anything has changed, also when git changed it behind our back. As in git's index, a time too near to
//! the moment of the look proves nothing: another change within the clock's tick would leave it the same.

use std::collections::HashMap;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};

use crate::git::objects::ObjectsError;
use crate::git::ref_state::read_refs;
use crate::model::RepoName;

/// What is older than this when it is looked at will have another time after its next change. The kernel's clock for
/// files ticks every few milliseconds; some file systems keep whole seconds.
const SETTLED: Duration = Duration::from_secs(2);
/// Folders below `refs/`, as deep as git's names can be.
const DEPTH_MAX: usize = 2048;

/// What is known of the repositories that were asked about.
#[derive(Debug, Default)]
pub(super) struct Digests {
    known: Mutex<HashMap<RepoName, Known>>,
}

#[derive(Debug)]
struct Known {
    stamp: [u8; 32],
    digest: String,
}

/// How the files were at one look.
struct Stamp {
    hash: Sha256,
    newest: SystemTime,
}

impl Digests {
    /// The digest of the references at `dir`.
    pub(super) fn of(&self, name: &RepoName, dir: &Path) -> Result<String, ObjectsError> {
        self.of_at(name, dir, SystemTime::now())
    }

    fn of_at(&self, name: &RepoName, dir: &Path, now: SystemTime) -> Result<String, ObjectsError> {
        // Before the references: what changes meanwhile has another stamp next time.
        let stamp = stamp(dir).ok();
        let known = |(stamp, _): &([u8; 32], bool)| {
            let all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            all.get(name).filter(|known| known.stamp == *stamp).map(|known| known.digest.clone())
        };
        let stamp = stamp.map(|stamp| stamp.finish(now));
        if let Some(digest) = stamp.as_ref().and_then(known) {
            return Ok(digest);
        }
        let read = read_refs(dir).map(|refs| refs.digest());
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match (&read, stamp) {
            (Ok(digest), Some((stamp, true))) => {
                drop(all.insert(name.clone(), Known { stamp, digest: digest.clone() }))
            }
            // What cannot be relied upon is not kept, and neither is what became of a repository that is gone.
            _ => drop(all.remove(name)),
        }
        read
    }
}

impl Stamp {
    fn add(&mut self, name: &[u8], of: &Metadata) {
        self.hash.update(name);
        for number in [of.ino(), of.size(), of.dev()] {
            self.hash.update(number.to_le_bytes());
        }
        for number in [of.mtime(), of.mtime_nsec(), of.ctime(), of.ctime_nsec()] {
            self.hash.update(number.to_le_bytes());
        }
        for (seconds, nanos) in [(of.mtime(), of.mtime_nsec()), (of.ctime(), of.ctime_nsec())] {
            let after = Duration::new(seconds.try_into().unwrap_or(0), nanos.try_into().unwrap_or(0));
            self.newest = self.newest.max(SystemTime::UNIX_EPOCH + after);
        }
    }

    /// Whether it says anything at `now` beside it.
    fn finish(self, now: SystemTime) -> ([u8; 32], bool) {
        let settled = now.duration_since(self.newest).is_ok_and(|age| age >= SETTLED);
        (self.hash.finalize().into(), settled)
    }
}

fn stamp(dir: &Path) -> io::Result<Stamp> {
    let mut stamp = Stamp { hash: Sha256::new(), newest: SystemTime::UNIX_EPOCH };
    for name in ["HEAD", "packed-refs"] {
        match dir.join(name).symlink_metadata() {
            Ok(of) => stamp.add(name.as_bytes(), &of),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    walk(&dir.join("refs"), 0, &mut stamp)?;
    Ok(stamp)
}

fn walk(at: &Path, depth: usize, stamp: &mut Stamp) -> io::Result<()> {
    stamp.add(b"/", &at.symlink_metadata()?);
    if depth >= DEPTH_MAX {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // In the order of the directory, which stays while its times stay.
    for entry in std::fs::read_dir(at)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), depth + 1, stamp)?;
        } else {
            stamp.add(entry.file_name().as_encoded_bytes(), &entry.metadata()?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::objects::init_bare;

    #[test]
    fn whatever_git_or_a_hand_changes_changes_the_digest() {
        let tmp = tempfile::tempdir().unwrap();
        let (dir, name, digests) = (tmp.path().join("a.git"), RepoName::new("a").unwrap(), Digests::default());
        init_bare(&dir, "main").unwrap();
        let git = |args: &[&str]| {
            let done = std::process::Command::new("git").arg("-C").arg(&dir).args(args).output().unwrap();
            assert!(done.status.success(), "{done:?}");
            String::from_utf8(done.stdout).unwrap().trim().to_owned()
        };
        let blob = |text: &str| {
            std::fs::write(tmp.path().join("text"), text).unwrap();
            git(&["hash-object", "-w", tmp.path().join("text").to_str().unwrap()])
        };
        let (one, two) = (blob("1"), blob("2"));
        // As it looks a day later, when all times say what they can.
        let later = || digests.of_at(&name, &dir, SystemTime::now() + Duration::from_secs(86_400)).unwrap();
        let truth = || read_refs(&dir).unwrap().digest();
        let mut seen = vec![later()];
        let steps: [&[&str]; 9] = [
            &["update-ref", "refs/tags/a", &one],
            &["update-ref", "refs/tags/a", &two],
            &["update-ref", "refs/x/y/z", &one],
            &["pack-refs", "--all"],
            &["update-ref", "refs/tags/a", &one],
            &["update-ref", "-d", "refs/x/y/z"],
            &["pack-refs", "--all", "--prune"],
            &["symbolic-ref", "HEAD", "refs/heads/other"],
            &["update-ref", "-d", "refs/tags/a"],
        ];
        for step in steps {
            git(step);
            assert_eq!((later(), later()), (truth(), truth()), "{step:?}");
            seen.push(later());
        }
        seen.sort();
        seen.dedup();
        assert!(seen.len() >= 5, "{seen:?}");
        // By hand, in place, with the same length.
        git(&["update-ref", "refs/tags/b", &one]);
        later();
        std::fs::write(dir.join("refs/tags/b"), format!("{two}\n")).unwrap();
        assert_eq!(later(), truth());
    }

    #[test]
    fn what_is_too_young_is_read_again() {
        let tmp = tempfile::tempdir().unwrap();
        let (dir, name, digests) = (tmp.path().join("a.git"), RepoName::new("a").unwrap(), Digests::default());
        init_bare(&dir, "main").unwrap();
        let kept = || digests.known.lock().unwrap().contains_key(&name);
        digests.of(&name, &dir).unwrap();
        assert!(!kept());
        digests.of_at(&name, &dir, SystemTime::now() + SETTLED * 2).unwrap();
        assert!(kept());
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(digests.of(&name, &dir).is_err());
        assert!(!kept());
    }
}

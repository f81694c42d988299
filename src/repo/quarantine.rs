//! Where a push's objects are until they are known to be whole: seen by nobody, and gone with the push.
//!
//! It is git's own arrangement (git-receive-pack(1), "QUARANTINE ENVIRONMENT"), beginnings of names included. What a
//! killed daemon leaves behind goes when the next one looks at its repositories, or with the next push.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use crate::durable;

/// How git's names begin, and ours; git-prune(1) would remove both in time.
const GITS: &str = "tmp_objdir-incoming-";
/// Ours name the run of the daemon too. There is one daemon at a time, so those of other runs are nobody's.
static OURS: LazyLock<String> = LazyLock::new(|| format!("{GITS}gm{}-", durable::run()));
/// git's own are left alone until nothing has changed in them for so long.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// A folder of new objects beside a repository's own.
#[derive(Debug)]
pub struct Quarantine {
    objects: PathBuf,
    path: PathBuf,
}

impl Quarantine {
    /// `dir` is a repository's. Blocks, as all of it.
    pub fn new(dir: &Path) -> io::Result<Self> {
        let objects = dir.join("objects");
        if let Err(error) = sweep_quarantines(dir, SystemTime::now()) {
            tracing::warn!(%error, dir = %dir.display(), "what a killed daemon left behind cannot be removed");
        }
        let path = objects.join(format!("{}{:08x}", *OURS, rand::random::<u32>()));
        std::fs::create_dir(&path)?;
        let made = Self { objects, path };
        std::fs::create_dir(made.path.join("pack"))?;
        Ok(made)
    }

    /// The folder of objects.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The environment in which git puts objects here and still sees the repository's own (git(1)).
    pub fn environment(&self) -> [(&'static str, String); 3] {
        let (own, all) = (self.path.display().to_string(), self.objects.display().to_string());
        // git splits at colons unless the path is quoted as in C.
        let all = if all.contains([':', '"', '\n']) {
            format!("\"{}\"", all.replace('\\', "\\\\").replace('"', "\\\""))
        } else {
            all
        };
        [("GIT_OBJECT_DIRECTORY", own.clone()), ("GIT_ALTERNATE_OBJECT_DIRECTORIES", all), ("GIT_QUARANTINE_PATH", own)]
    }

    /// Gives the packs to the repository, and returns where the last of them is. An index comes last, since with it a pack
    /// is seen.
    pub fn release(self) -> io::Result<Option<PathBuf>> {
        let (from, to) = (self.path.join("pack"), self.objects.join("pack"));
        std::fs::create_dir_all(&to)?;
        let mut files: Vec<_> =
            std::fs::read_dir(&from)?.map(|entry| entry.map(|e| e.file_name())).collect::<Result<_, _>>()?;
        files.sort_by_key(|name| Path::new(name).extension().is_some_and(|kind| kind == "idx"));
        let mut pack = None;
        for file in files {
            let there = to.join(&file);
            durable::rename("repo.quarantine.rename", &from.join(&file), &there)?;
            if there.extension().is_some_and(|kind| kind == "pack") {
                pack = Some(there);
            }
        }
        durable::sync("repo.quarantine.dir", &to)?;
        Ok(pack)
    }
}

impl Drop for Quarantine {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "a push's objects cannot be removed");
        }
    }
}

/// Removes what dead pushes have left in the repository at `dir`, and returns how many there were. Blocks.
pub fn sweep_quarantines(dir: &Path, now: SystemTime) -> io::Result<usize> {
    let mut removed = 0;
    let entries = match std::fs::read_dir(dir.join("objects")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with(GITS) && !name.starts_with(&*OURS)) else {
            continue;
        };
        let path = entry.path();
        if name.len() != OURS.len() + 8 {
            // A push by path, served by a git of its own, which may live.
            let changed =
                [path.clone(), path.join("pack")].into_iter().filter_map(|dir| dir.metadata().ok()?.modified().ok());
            let newest = changed.max().unwrap_or(now);
            if now.duration_since(newest).unwrap_or_default() < ABANDONED {
                continue;
            }
        }
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => removed += 1,
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_dead_have_left_goes() {
        let tmp = tempfile::tempdir().expect("a directory");
        let objects = tmp.path().join("objects");
        let living = {
            std::fs::create_dir_all(&objects).expect("made");
            Quarantine::new(tmp.path()).expect("made")
        };
        for name in ["tmp_objdir-incoming-gm00000000-00000001", "tmp_objdir-incoming-Ab3dEf", "pack", "00"] {
            std::fs::create_dir_all(objects.join(name).join("pack")).expect("made");
        }
        let sweep = |at| sweep_quarantines(tmp.path(), at).expect("swept");
        assert_eq!(sweep(SystemTime::now()), 1, "that of another run");
        assert!(objects.join("tmp_objdir-incoming-Ab3dEf").exists(), "git may be at work there");
        assert_eq!(sweep(SystemTime::now() + 2 * ABANDONED), 1, "nobody has been there for days");
        assert!(living.path.exists() && objects.join("pack").exists() && objects.join("00").exists());
    }

    #[test]
    fn objects_are_given_over_or_gone() {
        let tmp = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(tmp.path().join("objects/pack")).expect("made");
        let left = || std::fs::read_dir(tmp.path().join("objects")).expect("listed").count();
        let kept = |name: &str| tmp.path().join("objects/pack").join(name).exists();
        for release in [false, true] {
            let quarantine = Quarantine::new(tmp.path()).expect("made");
            for name in ["pack-1.idx", "pack-1.pack"] {
                std::fs::write(quarantine.path.join("pack").join(name), name).expect("written");
            }
            if release {
                quarantine.release().expect("released");
            } else {
                drop(quarantine);
            }
            assert_eq!((left(), kept("pack-1.idx"), kept("pack-1.pack")), (1, release, release));
        }
    }
}

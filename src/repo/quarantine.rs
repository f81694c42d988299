//! Where a push's objects are until they are known to be whole: seen by nobody, and gone with the push.
//!
//! It is git's own arrangement (git-receive-pack(1), "QUARANTINE ENVIRONMENT"), names included, so that git's cleaning
//! finds what a killed daemon leaves behind.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

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
        let path = objects.join(format!("tmp_objdir-incoming-{:016x}", rand::random::<u64>()));
        std::fs::create_dir(&path)?;
        let made = Self { objects, path };
        std::fs::create_dir(made.path.join("pack"))?;
        Ok(made)
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

    /// Gives the packs to the repository. An index comes last, since with it a pack is seen.
    pub fn release(self) -> io::Result<()> {
        let (from, to) = (self.path.join("pack"), self.objects.join("pack"));
        std::fs::create_dir_all(&to)?;
        let mut files: Vec<_> =
            std::fs::read_dir(&from)?.map(|entry| entry.map(|e| e.file_name())).collect::<Result<_, _>>()?;
        files.sort_by_key(|name| Path::new(name).extension().is_some_and(|kind| kind == "idx"));
        for file in files {
            std::fs::rename(from.join(&file), to.join(&file))?;
        }
        File::open(&to)?.sync_all()
    }
}

impl Drop for Quarantine {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "a push's objects cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

//! One reference that is there moves on, without a process: the commonest push by far.
//!
//! It is done as git's files backend does it (refs/files-backend.c), so that git may work in the repository at the same
//! time: `NAME.lock` is created, what the reference is now is looked at only then, and its file is replaced by a rename.
//! Whatever is not as plain as that, and whatever is to be refused, is left to git, which has the words.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::odb::Peeler;
use super::packed::{Locks, keeps_reflogs};
use super::refs::{Hex, Snapshot};
use crate::durable;
use crate::model::RefUpdate;

/// What is to become the reference `name`. git takes no name that ends in `.lock` for a reference, so it can be nobody's lock.
pub fn unfinished(name: &str) -> String {
    format!("{name}.lock.lock")
}

/// Moves a reference of the repository at `dir`, whose new value is there. `false`, with nothing changed, when git is to be
/// asked. Blocks.
///
/// What it returns `true` for is on the disk.
pub fn advance(dir: &Path, update: &RefUpdate) -> io::Result<bool> {
    let hex = |oid: &crate::model::Oid| Hex::try_from(oid.as_str().as_bytes()).ok();
    let (Some(old), Some(new)) = (hex(&update.old), hex(&update.new)) else { return Ok(false) };
    if update.old.is_zero() || update.new.is_zero() || keeps_reflogs(dir)? || dir.join("logs").try_exists()? {
        return Ok(false);
    }
    let name = update.name.as_str();
    let peeler = Peeler::open(dir).map_err(io::Error::other)?;
    // A branch is a commit; of other references it is enough that their object is there.
    if !(if name.starts_with("refs/heads/") { peeler.is_commit(&new) } else { peeler.is_there(&new) }) {
        return Ok(false);
    }
    let path = dir.join(name);
    let mut locks = Locks::default();
    if !locks.take(dir.join(format!("{name}.lock")))? || value(dir, &path, name)? != Some(old) {
        return Ok(false);
    }
    let fresh = dir.join(unfinished(name));
    let mut file = File::create(&fresh)?;
    let written = file
        .write_all(&[&new[..], b"\n"].concat())
        .and_then(|()| durable::sync_open("git.loose.sync", &file, &fresh))
        .and_then(|()| durable::rename("git.loose.rename", &fresh, &path));
    if written.is_err() {
        // The first error is the one to tell.
        drop(std::fs::remove_file(&fresh));
    }
    written?;
    drop(locks);
    sync_folders(dir, [name]);
    Ok(true)
}

/// What a reference is, by its own file or else by `packed-refs`. `None` for a symbolic one, and where a folder is in its place.
fn value(dir: &Path, path: &Path, name: &str) -> io::Result<Option<Hex>> {
    match std::fs::symlink_metadata(path) {
        Ok(about) if about.is_file() => {
            let text = std::fs::read(path)?;
            Ok(Hex::try_from(text.trim_ascii_end()).ok().filter(|oid| oid.iter().all(u8::is_ascii_hexdigit)))
        }
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match Snapshot::read(dir, &[]) {
            Ok(snapshot) => snapshot.packed_value(name.as_bytes()),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(None),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// Has the folders in which references have moved outlive a power cut, which git does not do. They are there for all to
/// see, so it is too late for a refusal. Blocks.
pub fn sync_folders<'a>(dir: &Path, names: impl IntoIterator<Item = &'a str>) {
    let mut folders: Vec<PathBuf> =
        names.into_iter().filter_map(|name| dir.join(name).parent().map(Path::to_owned)).collect();
    folders.sort_unstable();
    folders.dedup();
    for folder in folders {
        match durable::sync("git.loose.dir", &folder) {
            // It went with its last reference.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(dir = %folder.display(), %error, "a reference may not outlive a power cut: the disk fails");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::objects::init_bare;
    use crate::model::{Oid, RefName};

    struct Fixture {
        _tmp: tempfile::TempDir,
        dir: PathBuf,
        first: String,
        second: String,
        tag: String,
    }

    impl Fixture {
        fn new() -> Self {
            let tmp = tempfile::tempdir().unwrap();
            let dir = tmp.path().join("a.git");
            init_bare(&dir, "main").unwrap();
            let none = String::new();
            let mut fixture = Self { _tmp: tmp, dir, first: none.clone(), second: none.clone(), tag: none };
            let tree = fixture.git(&["hash-object", "-t", "tree", "-w", "/dev/null"]);
            fixture.first = fixture.git(&["commit-tree", "-m", "x", &tree]);
            fixture.second = fixture.git(&["commit-tree", "-m", "y", "-p", &fixture.first, &tree]);
            fixture.git(&["update-ref", "refs/heads/main", &fixture.first]);
            fixture.git(&["tag", "-a", "-m", "x", "v1", &fixture.first]);
            fixture.tag = fixture.git(&["rev-parse", "refs/tags/v1"]);
            fixture
        }

        fn git(&self, args: &[&str]) -> String {
            let mut command = std::process::Command::new("git");
            for who in ["AUTHOR", "COMMITTER"] {
                command.env(format!("GIT_{who}_NAME"), "a").env(format!("GIT_{who}_EMAIL"), "a@b");
            }
            let done = command.arg("-C").arg(&self.dir).args(args).output().unwrap();
            assert!(done.status.success(), "{args:?} {done:?}");
            String::from_utf8(done.stdout).unwrap().trim().to_owned()
        }

        fn advance(&self, name: &str, old: &str, new: &str) -> bool {
            let (old, new) = (Oid::parse(old).unwrap(), Oid::parse(new).unwrap());
            let done = advance(&self.dir, &RefUpdate { name: RefName::parse(name).unwrap(), old, new }).unwrap();
            let left = std::fs::read_dir(self.dir.join("refs/heads")).unwrap();
            let left =
                left.map(|entry| entry.unwrap().file_name()).find(|name| name.to_string_lossy().contains(".lock"));
            assert_eq!(left, None);
            done
        }

        fn shown(&self) -> String {
            self.git(&["show-ref"])
        }
    }

    #[test]
    fn it_moves_from_where_it_is_and_git_goes_on_from_there() {
        let f = Fixture::new();
        assert!(f.advance("refs/heads/main", &f.first, &f.second));
        assert_eq!(f.git(&["rev-parse", "main"]), f.second);
        f.git(&["pack-refs", "--all"]);
        assert!(f.advance("refs/heads/main", &f.second, &f.first), "of packed-refs");
        assert!(f.advance("refs/tags/v1", &f.tag, &f.first));
        assert_eq!([f.git(&["rev-parse", "main"]), f.git(&["rev-parse", "v1"])], [f.first.clone(), f.first.clone()]);
        f.git(&["update-ref", "refs/heads/main", &f.second, &f.first]);
        f.git(&["pack-refs", "--all"]);
        f.git(&["fsck", "--strict"]);
    }

    #[test]
    fn what_is_not_plain_is_gits() {
        let f = Fixture::new();
        f.git(&["symbolic-ref", "refs/heads/alias", "refs/heads/main"]);
        f.git(&["update-ref", "refs/heads/gone/below", &f.first]);
        f.git(&["pack-refs", "--all"]);
        std::fs::create_dir_all(f.dir.join("refs/heads/gone/below")).unwrap();
        let (zero, nothing, before) = ("0".repeat(40), "1".repeat(40), f.shown());
        for (name, old, new) in [
            ("refs/heads/main", &f.second, &f.first),
            ("refs/heads/main", &f.first, &nothing),
            ("refs/heads/main", &f.first, &f.tag),
            ("refs/heads/main", &f.first, &zero),
            ("refs/heads/new", &zero, &f.first),
            ("refs/heads/new", &f.first, &f.second),
            ("refs/heads/main/below", &f.first, &f.second),
            ("refs/heads/alias", &f.first, &f.second),
            ("refs/heads/gone/below", &f.first, &f.second),
            ("refs/tags/v1", &f.tag, &nothing),
        ] {
            assert!(!f.advance(name, old, new), "{name} {old} {new}");
            assert_eq!(f.shown(), before);
        }
        let lock = f.dir.join("refs/heads/main.lock");
        std::fs::write(&lock, "").unwrap();
        let update = RefUpdate {
            name: RefName::parse("refs/heads/main").unwrap(),
            old: Oid::parse(&f.first).unwrap(),
            new: Oid::parse(&f.second).unwrap(),
        };
        assert!(!advance(&f.dir, &update).unwrap());
        std::fs::remove_file(&lock).expect("it is theirs");
        std::fs::create_dir(f.dir.join("logs")).unwrap();
        assert!(!f.advance("refs/heads/main", &f.first, &f.second), "somebody keeps reflogs");
        assert_eq!(f.shown(), before);
    }
}

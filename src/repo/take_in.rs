//! Repositories that another program made: copied from where they are, without a change to the original.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, lchown, symlink};
use std::path::{Path, PathBuf};

use super::store::{MAKING, Store, include_settings};
use crate::durable;
use crate::durable::write_whole;
use crate::model::RepoName;

/// User and group, as numbers.
pub type Owner = (u32, u32);

/// Where a repository is copied from.
#[derive(Debug, Clone, Copy)]
pub struct Original<'a> {
    /// The directory of all repositories there.
    pub root: &'a Path,
    /// The bare repository itself.
    pub dir: &'a Path,
}

impl Store {
    /// Copies a bare repository under a name of ours, in whose place it comes by one rename, whole; one of that name
    /// that is here is replaced. Objects, which git never changes in place, are hard links where the file system allows
    /// and the files have the right owner. `prepare` is given the copy before anybody sees it.
    ///
    /// Nobody may use the repository here meanwhile; the original may be in use: what lands there later may be missing
    /// here, but no object of a reference that is here. Not synced to the disk.
    pub fn take_in(
        &self,
        name: &RepoName,
        from: Original<'_>,
        owner: Option<Owner>,
        prepare: &dyn Fn(&Path) -> io::Result<()>,
    ) -> io::Result<()> {
        let making = self.root().join(format!("{MAKING}{}-{:016x}", std::process::id(), rand::random::<u64>()));
        let made = self.copy(from, &making, owner).and_then(|()| prepare(&making));
        let shown = made.and_then(|()| {
            let dir = self.dir(name);
            let parent = dir.parent().ok_or(io::ErrorKind::InvalidInput)?;
            fs::create_dir_all(parent)?;
            if !dir.exists() {
                return durable::rename("repo.take-in.rename", &making, &dir);
            }
            durable::exchange("repo.take-in.exchange", &making, &dir)?;
            fs::remove_dir_all(&making)
        });
        if shown.is_err() && making.exists() {
            fs::remove_dir_all(&making)?;
        }
        shown
    }

    /// Makes everything that was taken in durable (syncfs(2)).
    pub fn settle_all(&self) -> io::Result<()> {
        durable::sync_disk("repo.take-in.settle", self.root())
    }

    fn copy(&self, from: Original<'_>, to: &Path, owner: Option<Owner>) -> io::Result<()> {
        fs::create_dir(to)?;
        // References first: what they lead to is then among the objects that are copied after them.
        for entry in fs::read_dir(from.dir)? {
            let name = entry?.file_name();
            if name != "objects" {
                copy_below(&from.dir.join(&name), &to.join(&name), owner, Links::Never)?;
            }
        }
        copy_below(&from.dir.join("objects"), &to.join("objects"), owner, Links::WherePossible)?;
        self.redirect_alternates(from.root, to)?;
        include_settings(to, self.settings())?;
        match owner {
            Some((user, group)) => lchown(to, Some(user), Some(group)),
            None => Ok(()),
        }
    }

    /// A repository that borrows objects from one beside it (gitrepository-layout(5)) borrows from that one's copy.
    fn redirect_alternates(&self, root: &Path, copy: &Path) -> io::Result<()> {
        let file = copy.join("objects/info/alternates");
        let text = match fs::read_to_string(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            text => text?,
        };
        let moved = text.lines().map(|line| match Path::new(line).strip_prefix(root) {
            Ok(below) => format!("{}\n", self.root().join(below).display()),
            Err(_) => format!("{line}\n"),
        });
        let moved: String = moved.collect();
        if moved == text { Ok(()) } else { write_whole(&copy.join("objects/info"), "alternates", &moved) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Links {
    Never,
    WherePossible,
}

/// What a running git may be about to remove, and what is nothing without that git.
fn passing(name: &str) -> bool {
    name.ends_with(".lock") || name.starts_with("tmp_") || name.starts_with("incoming-") || name.starts_with(".tmp-")
}

fn copy_below(from: &Path, to: &Path, owner: Option<Owner>, links: Links) -> io::Result<()> {
    let mut todo: Vec<(PathBuf, PathBuf)> = vec![(from.to_owned(), to.to_owned())];
    while let Some((from, to)) = todo.pop() {
        if from.file_name().is_some_and(|name| passing(&name.to_string_lossy())) {
            continue;
        }
        let about = match from.symlink_metadata() {
            // A loose reference or object that git packs at this moment; packed ones are copied too.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            about => about?,
        };
        if about.is_dir() {
            fs::create_dir(&to)?;
            for entry in fs::read_dir(&from)? {
                let name = entry?.file_name();
                todo.push((from.join(&name), to.join(name)));
            }
        } else if about.is_symlink() {
            symlink(fs::read_link(&from)?, &to)?;
        } else if about.is_file() {
            let same_owner = owner.is_none_or(|owner| owner == (about.uid(), about.gid()));
            if links == Links::WherePossible && same_owner && fs::hard_link(&from, &to).is_ok() {
                continue;
            }
            fs::copy(&from, &to)?;
        } else {
            continue;
        }
        if let Some((user, group)) = owner {
            lchown(&to, Some(user), Some(group))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::objects::{self, Author};

    const AUTHOR: Author<'static> = Author { name: "alice", email: "alice@example.com" };

    #[test]
    fn a_copy_is_whole_and_the_original_as_before() {
        let dir = tempfile::tempdir().unwrap();
        let (root, ours) = (dir.path().join("theirs"), dir.path().join("ours"));
        let from = root.join("a.git");
        fs::create_dir_all(&ours).unwrap();
        objects::init_bare(&from, "main").unwrap();
        let files = [("README".to_owned(), b"text".to_vec())].into();
        let commit = objects::commit_files(&from, "main", &files, AUTHOR, "one", None).unwrap();
        fs::write(from.join("gl-creator"), "bob").unwrap();
        fs::write(from.join("packed-refs.lock"), "").unwrap();
        fs::write(from.join("objects/info/alternates"), format!("{}/b.git/objects\n/elsewhere\n", root.display()))
            .unwrap();
        symlink("/nowhere", from.join("update")).unwrap();
        let before = fs::read_to_string(from.join("config")).unwrap();

        let store = Store::new(ours.clone(), "/dev/null".into());
        let name = RepoName::new("docs/a").unwrap();
        let original = Original { root: &root, dir: &from };
        store.take_in(&name, original, None, &|_| Ok(())).unwrap();
        let copy = ours.join("docs/a.git");
        assert_eq!(objects::head_commit(&copy).unwrap(), Some(commit.clone()));
        assert_eq!(store.creator(&name).unwrap().as_str(), "bob");
        assert!(!copy.join("packed-refs.lock").exists());
        assert_eq!(
            fs::read_to_string(copy.join("objects/info/alternates")).unwrap(),
            format!("{}/b.git/objects\n/elsewhere\n", ours.display())
        );
        let loose = format!("objects/{}/{}", &commit.as_str()[..2], &commit.as_str()[2..]);
        let inode = |dir: &Path| fs::metadata(dir.join(&loose)).unwrap().ino();
        assert_eq!(inode(&from), inode(&copy), "objects are links");
        let config = fs::read_to_string(copy.join("config")).unwrap();
        assert!(config.ends_with("path = \"/dev/null\"\n"), "{config}");
        assert_eq!(fs::read_to_string(from.join("config")).unwrap(), before);

        // Again, after a change there: replaced as a whole. A failure leaves what is here.
        let next = objects::commit_files(&from, "main", &files, AUTHOR, "two", Some(&commit)).unwrap();
        assert!(store.take_in(&name, original, None, &|_| Err(io::Error::other("no"))).is_err());
        assert_eq!(objects::head_commit(&copy).unwrap(), Some(commit));
        store.take_in(&name, original, None, &|_| Ok(())).unwrap();
        assert_eq!(objects::head_commit(&copy).unwrap(), Some(next));
        assert_eq!(fs::read_dir(&ours).unwrap().count(), 1, "nothing is left over");
    }
}

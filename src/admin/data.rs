//! The data directory: where its files are, and how one is replaced so that a crash leaves the old or the new.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Uid};

use crate::durable;
use crate::model::HostName;

/// The place of everything a node keeps, `--data`. Repositories are named here only as a root; what is below it
/// belongs to `repo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDir(PathBuf);

impl DataDir {
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// `/var/lib/gitmesh` for root; `gitmesh` in `$XDG_DATA_HOME` or `~/.local/share` for others.
    pub fn by_default() -> Self {
        let of = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let system = || PathBuf::from("/var/lib");
        let parent = if rustix::process::geteuid().is_root() {
            system()
        } else {
            of("XDG_DATA_HOME").or_else(|| Some(of("HOME")?.join(".local/share"))).unwrap_or_else(system)
        };
        Self(parent.join("gitmesh"))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The node's private key, in OpenSSH's format.
    pub fn identity(&self) -> PathBuf {
        self.0.join("identity")
    }

    /// The node's public key, named so that it can be handed to `gitmesh add-mirroring-peer` elsewhere as it is.
    pub fn public_key(&self, node: &HostName) -> PathBuf {
        self.0.join(format!("{node}.pub"))
    }

    pub fn repositories(&self) -> PathBuf {
        self.0.join("repositories")
    }

    pub fn peers(&self) -> PathBuf {
        self.0.join("peers")
    }

    pub fn hooks(&self) -> PathBuf {
        self.0.join("hooks")
    }

    /// Keys and tokens for servers outside the mesh.
    pub fn targets(&self) -> PathBuf {
        self.0.join("targets")
    }

    /// As root, gives a directory here and all in it to the daemon's user.
    pub fn give_to_owner(&self, dir: &Path) -> io::Result<()> {
        let Some((user, group)) = owner_for_root(&self.0)? else { return Ok(()) };
        let mut todo = vec![dir.to_owned()];
        while let Some(path) = todo.pop().filter(|path| path.exists()) {
            rustix::fs::chown(&path, Some(user), Some(group))?;
            if path.is_dir() {
                todo.extend(fs::read_dir(&path)?.map(|entry| entry.map(|e| e.path())).collect::<io::Result<Vec<_>>>()?);
            }
        }
        Ok(())
    }

    /// What can be rebuilt from the repositories, or is history: all of it may be removed while the node is down.
    pub fn state(&self) -> PathBuf {
        self.0.join("state")
    }

    /// What persons have ordered and nothing else tells: promotions, pauses, deletions that copies have not
    /// followed, what is to be carried to a new master; and which disks the peers had.
    pub fn orders(&self) -> PathBuf {
        self.0.join("orders")
    }

    /// Makes what is missing, and puts where it belongs what earlier versions kept in `state`.
    pub fn settle(&self) -> io::Result<()> {
        self.create()?;
        let orders = ["masters", "masters-ended", "disks", "mirror-pauses.json", "lost-to-carry", "gone"]
            .map(|name| (name, self.orders().join(name)));
        for (old, new) in orders.into_iter().chain([("disk", self.repositories().join(".disk"))]) {
            let old = self.state().join(old);
            if old.exists() && !new.exists() {
                durable::rename("admin.settle.rename", &old, &new)?;
            }
        }
        Ok(())
    }

    /// Switches the emergency override on; see [`super::Emergency`].
    pub fn emergency_conf(&self) -> PathBuf {
        self.0.join("emergency.conf")
    }

    pub fn emergency_keydir(&self) -> PathBuf {
        self.0.join("emergency-keydir")
    }

    /// Makes the directory and those below it, readable for their owner alone. `true` if any was missing.
    pub fn create(&self) -> io::Result<bool> {
        let mut made = false;
        for dir in [self.0.clone(), self.repositories(), self.peers(), self.hooks(), self.state(), self.orders()] {
            if !dir.is_dir() {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
                made = true;
            }
        }
        Ok(made)
    }
}

/// Puts `contents` at `path` with the given mode, whole or not at all, also across a crash of the machine. The
/// temporary name starts with a dot and ends in `.tmp`; one left over by a crash is overwritten.
pub fn write_whole(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let temporary = dir.join(format!(".{}.tmp", name.to_string_lossy()));
    // A leftover may carry a wider mode than asked for now, and `mode` counts only for a new file.
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    file.write_all(contents)?;
    if let Some((user, group)) = owner_for_root(dir)? {
        rustix::fs::fchown(&file, Some(user), Some(group))?;
    }
    durable::sync_open("admin.file.sync", &file, path)?;
    durable::rename("admin.file.rename", &temporary, path)?;
    durable::sync("admin.file.dir", dir)
}

/// Whose a new file in `dir` should be, when root writes into the directory of the daemon's user, who must read it.
fn owner_for_root(dir: &Path) -> io::Result<Option<(Uid, Gid)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let of = fs::metadata(dir)?;
    Ok((of.uid() != 0).then(|| (Uid::from_raw(of.uid()), Gid::from_raw(of.gid()))))
}

/// As root, gives a directory that was made just now to the owner of the one it is in.
pub(super) fn give_to_owner_of_parent(dir: &Path) -> io::Result<()> {
    if let Some(parent) = dir.parent()
        && let Some((user, group)) = owner_for_root(parent)?
    {
        rustix::fs::chown(dir, Some(user), Some(group))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_with_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity");
        fs::write(dir.path().join(".identity.tmp"), "left over by a crash").unwrap();
        for text in ["one", "two"] {
            write_whole(&path, text.as_bytes(), 0o600).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn directories_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path().join("a/b"));
        assert!(data.create().unwrap());
        assert!(!data.create().unwrap());
        assert_eq!(fs::metadata(data.path()).unwrap().permissions().mode() & 0o777, 0o700);
    }
}

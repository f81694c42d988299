//! The directory of a backup: contents under their SHA-256, and the snapshots that name them.

use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};

use super::BackupError;
use super::record::{Record, Snapshot};
use crate::durable;

const FORMAT_FILE: &str = "gitmesh-backup";
const FORMAT: &str = "gitmesh-backup 1";
/// Bytes read and hashed at once.
const CHUNK: usize = 256 << 10;

/// An open backup directory. It holds private keys, so it is made for its owner alone.
#[derive(Debug)]
pub(super) struct Vault {
    root: PathBuf,
}

/// Something that is being put in and has no name yet; dropped, it is gone.
pub(super) struct Fresh {
    file: File,
    path: PathBuf,
    hash: Sha256,
    pub bytes: u64,
    kept: bool,
}

/// Held while a backup is written.
pub(super) struct Locked(#[expect(dead_code, reason = "its lock lasts as long as it")] File);

impl Vault {
    /// Makes the directory if there is none.
    pub(super) fn create(root: &Path) -> Result<(Self, Locked), BackupError> {
        let format = root.join(FORMAT_FILE);
        if !format.exists() {
            let used = root.is_dir() && fs::read_dir(root).map_err(BackupError::io(root))?.next().is_some();
            if used {
                let why = "it holds other files; name a directory of its own".to_owned();
                return Err(BackupError::NotOne { path: root.to_owned(), why });
            }
            for dir in [root.to_owned(), root.join("objects"), root.join("snapshots")] {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(BackupError::io(&dir))?;
            }
            fs::write(&format, format!("{FORMAT}\n")).map_err(BackupError::io(&format))?;
        }
        let vault = Self::open(root)?;
        let locked = vault.lock()?;
        // What an earlier one left half written.
        let half = root.join("objects/new");
        if half.exists() {
            fs::remove_dir_all(&half).map_err(BackupError::io(&half))?;
        }
        Ok((vault, locked))
    }

    pub(super) fn open(root: &Path) -> Result<Self, BackupError> {
        let format = root.join(FORMAT_FILE);
        let not_one = |why: String| BackupError::NotOne { path: root.to_owned(), why };
        match fs::read_to_string(&format) {
            Ok(text) if text.trim_end() == FORMAT => Ok(Self { root: root.to_owned() }),
            Ok(text) => Err(not_one(format!("its format is {:?}, and this gitmesh reads '{FORMAT}'", text.trim_end()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(not_one(format!("it has no {FORMAT_FILE}"))),
            Err(error) => Err(BackupError::Io { path: format, source: error }),
        }
    }

    pub(super) fn path(&self, hash: &str) -> PathBuf {
        self.root.join("objects").join(hash.get(..2).unwrap_or("xx")).join(hash)
    }

    pub(super) fn has(&self, hash: &str) -> bool {
        self.path(hash).is_file()
    }

    pub(super) fn begin(&self) -> Result<Fresh, BackupError> {
        let dir = self.root.join("objects/new");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(BackupError::io(&dir))?;
        let path = dir.join(format!("{:016x}", rand::random::<u64>()));
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(BackupError::io(&path))?;
        Ok(Fresh { file, path, hash: Sha256::new(), bytes: 0, kept: false })
    }

    /// Gives it its name. What was there under that name is the same.
    pub(super) fn keep(&self, mut fresh: Fresh) -> Result<String, BackupError> {
        let hash = format!("{:x}", std::mem::take(&mut fresh.hash).finalize());
        let path = self.path(&hash);
        if !path.exists() {
            let dir = path.parent().expect("two levels below the root");
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(BackupError::io(dir))?;
            durable::rename("backup.object.rename", &fresh.path, &path).map_err(BackupError::io(&path))?;
            fresh.kept = true;
        }
        Ok(hash)
    }

    /// The name that contents have.
    pub(super) fn hash(contents: &[u8]) -> String {
        format!("{:x}", Sha256::digest(contents))
    }

    /// Puts contents in, with how many bytes that cost.
    pub(super) fn put(&self, contents: &[u8]) -> Result<(String, u64), BackupError> {
        let hash = Self::hash(contents);
        if self.has(&hash) {
            return Ok((hash, 0));
        }
        let mut fresh = self.begin()?;
        fresh.write(contents)?;
        Ok((self.keep(fresh)?, contents.len() as u64))
    }

    /// The contents, which are what the name says.
    pub(super) fn get(&self, hash: &str) -> Result<Vec<u8>, BackupError> {
        let path = self.path(hash);
        let contents = fs::read(&path).map_err(BackupError::io(&path))?;
        if format!("{:x}", Sha256::digest(&contents)) != hash {
            return Err(damaged(hash));
        }
        Ok(contents)
    }

    /// For whoever changes it.
    pub(super) fn lock(&self) -> Result<Locked, BackupError> {
        let path = self.root.join("lock");
        let lock = File::options().create(true).append(true).open(&path).map_err(BackupError::io(&path))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| BackupError::Busy(self.root.clone()))?;
        Ok(Locked(lock))
    }

    /// All objects, with their bytes.
    pub(super) fn objects(&self) -> Result<Vec<(String, u64)>, BackupError> {
        let root = self.root.join("objects");
        let mut all = Vec::new();
        for dir in fs::read_dir(&root).map_err(BackupError::io(&root))? {
            let dir = dir.map_err(BackupError::io(&root))?.path();
            for entry in fs::read_dir(&dir).map_err(BackupError::io(&dir))? {
                let entry = entry.map_err(BackupError::io(&dir))?;
                let Ok(hash) = entry.file_name().into_string() else { continue };
                if self.path(&hash) == entry.path() {
                    all.push((hash, entry.metadata().map_err(BackupError::io(&dir))?.len()));
                }
            }
        }
        Ok(all)
    }

    /// Reads it through and compares it with its name; for what is too large to be kept in memory.
    pub(super) fn check(&self, hash: &str) -> Result<(), BackupError> {
        let path = self.path(hash);
        let mut file = File::open(&path).map_err(BackupError::io(&path))?;
        let (mut digest, mut chunk) = (Sha256::new(), vec![0; CHUNK]);
        loop {
            match file.read(&mut chunk).map_err(BackupError::io(&path))? {
                0 => break,
                n => digest.update(&chunk[..n]),
            }
        }
        if format!("{:x}", digest.finalize()) == hash { Ok(()) } else { Err(damaged(hash)) }
    }

    pub(super) fn record(&self, hash: &str) -> Result<Record, BackupError> {
        let wrong = |e: serde_json::Error| BackupError::Object { hash: hash.to_owned(), why: e.to_string() };
        serde_json::from_slice(&self.get(hash)?).map_err(wrong)
    }

    /// The times of the snapshots, oldest first.
    pub(super) fn times(&self) -> Result<Vec<String>, BackupError> {
        let dir = self.root.join("snapshots");
        let mut times = Vec::new();
        for entry in fs::read_dir(&dir).map_err(BackupError::io(&dir))? {
            let name = entry.map_err(BackupError::io(&dir))?.file_name();
            times.extend(name.to_str().and_then(|name| name.strip_suffix(".json")).map(str::to_owned));
        }
        times.sort();
        Ok(times)
    }

    pub(super) fn snapshot(&self, time: &str) -> Result<Snapshot, BackupError> {
        let path = self.root.join("snapshots").join(format!("{time}.json"));
        let text = fs::read(&path).map_err(BackupError::io(&path))?;
        let wrong = |e: serde_json::Error| BackupError::NotOne { path: path.clone(), why: e.to_string() };
        let snapshot: Snapshot = serde_json::from_slice(&text).map_err(wrong)?;
        snapshot.check().map_err(|why| BackupError::NotOne { path, why })?;
        Ok(snapshot)
    }

    /// Shows a snapshot, once everything that it names is on the disk. Returns its time as its name has it.
    pub(super) fn show(&self, snapshot: &Snapshot) -> Result<String, BackupError> {
        // One call for all objects: to sync each would cost more than to write it (syncfs(2)).
        durable::sync_disk("backup.settle", &self.root).map_err(BackupError::io(&self.root))?;
        let dir = self.root.join("snapshots");
        let at = snapshot.time.replace(['-', ':'], "");
        // Several of one second are told apart, in their order.
        let names = std::iter::once(at.clone()).chain((2..).map(|n| format!("{at}_{n:02}")));
        let free = |name: &String| !dir.join(format!("{name}.json")).exists();
        let name = names.into_iter().find(free).expect("numbers do not end");
        let (path, fresh) = (dir.join(format!("{name}.json")), dir.join(format!(".{name}.tmp")));
        let written = || {
            let mut out = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
            out.write_all(&serde_json::to_vec(snapshot).map_err(io::Error::other)?)?;
            durable::sync_open("backup.snapshot.sync", &out, &path)?;
            durable::rename("backup.snapshot.rename", &fresh, &path)?;
            durable::sync("backup.snapshot.dir", &dir)
        };
        written().map_err(BackupError::io(&path))?;
        Ok(name)
    }
}

fn damaged(hash: &str) -> BackupError {
    BackupError::Object { hash: hash.to_owned(), why: "its contents are not what its name says".to_owned() }
}

impl Fresh {
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        self.file.write_all(bytes).map_err(BackupError::io(&self.path))?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if !self.kept {
            drop(fs::remove_file(&self.path));
        }
    }
}

//! Packs that are wanted again: what several clones of one state have in common is made once.
//!
//! The first fetch of a state is not kept, for most are never repeated; the second one within `AGAIN` is written to
//! a file while it is made, and everybody who asks meanwhile or later reads that file. A pack is named by what was
//! asked, and objects never change, so nothing here is ever stale; who may have it is decided before, by others.
//!
//! Promises: files stay within the limit, the least recently used go first, and what a reader has open stays whole.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt as _;
use tokio::sync::watch;

use super::process::{SILENT, Serving};
use super::stored::Completed;

/// A second request within this time makes the pack worth keeping.
const AGAIN: Duration = Duration::from_secs(600);
/// Requests remembered, and packs kept, at most.
const ENTRIES_MAX: usize = 4096;
/// Read from git at once.
const CHUNK: usize = 256 << 10;

/// SHA-256 of what was asked.
pub type Key = [u8; 32];

/// How a request is to be answered.
pub enum Use {
    /// Make the pack for this client alone.
    Alone,
    /// Make it with [`Filling::fill`], beside reading it.
    Fill(Filling, Arc<Pack>),
    Read(Arc<Pack>),
}

/// The packs of one directory. Cheap to clone.
#[derive(Clone)]
pub struct Packs(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    /// Bytes of all files.
    limit: u64,
    table: Mutex<HashMap<Key, Entry>>,
}

struct Entry {
    last: Instant,
    /// Empty when it was asked for once.
    pack: Option<Arc<Pack>>,
}

/// One pack, whole or growing.
pub struct Pack {
    body: Body,
    grown: watch::Receiver<Grown>,
    /// Bytes that it may come to; counted against the limit until it is whole.
    expected: u64,
}

enum Body {
    File(File),
    /// What the repository stores, and what that lacks.
    Stored(Arc<Completed>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grown {
    Part(u64),
    Whole(u64),
    Failed,
}

impl Packs {
    /// Takes the directory over: what an earlier run left in it goes. A `limit` of 0 keeps nothing.
    pub fn new(dir: PathBuf, limit: u64) -> io::Result<Self> {
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => std::fs::create_dir_all(&dir)?,
        }
        Ok(Self(Arc::new(Inner { dir, limit, table: Mutex::default() })))
    }

    /// Whether there was such a request lately.
    pub fn knows(&self, key: Key) -> bool {
        self.lock().get(&key).is_some_and(|entry| entry.last.elapsed() < AGAIN)
    }

    /// What to do about a request that would make a pack of about `expected` bytes.
    pub fn request(&self, key: Key, expected: u64) -> Use {
        // A pack that would push out all others is not worth it.
        if expected > self.0.limit / 2 {
            return Use::Alone;
        }
        let now = Instant::now();
        let mut table = self.lock();
        if let Some(entry) = table.get_mut(&key)
            && now.duration_since(entry.last) < AGAIN
        {
            entry.last = now;
            if let Some(pack) = &entry.pack {
                return Use::Read(pack.clone());
            }
            return match self.begin(&mut table, key, expected) {
                Ok((filling, pack)) => Use::Fill(filling, pack),
                Err(error) => {
                    tracing::warn!(%error, dir = %self.0.dir.display(), "packs cannot be kept");
                    Use::Alone
                }
            };
        }
        make_room(&mut table, now, u64::MAX);
        table.insert(key, Entry { last: now, pack: None });
        Use::Alone
    }

    fn begin(&self, table: &mut HashMap<Key, Entry>, key: Key, expected: u64) -> io::Result<(Filling, Arc<Pack>)> {
        let disk = rustix::fs::statvfs(&self.0.dir)?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) / 4 < expected {
            return Err(io::ErrorKind::StorageFull.into());
        }
        make_room(table, Instant::now(), self.0.limit.saturating_sub(expected));
        let path = self.0.dir.join(format!("{:016x}", rand::random::<u64>()));
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        // Without a name, the file goes with its last reader, however the daemon ends.
        std::fs::remove_file(&path)?;
        let (sender, grown) = watch::channel(Grown::Part(0));
        let pack = Arc::new(Pack { body: Body::File(file.try_clone()?), grown, expected });
        table.insert(key, Entry { last: Instant::now(), pack: Some(pack.clone()) });
        Ok((Filling { file, sender, packs: self.clone(), key, most: self.0.limit }, pack))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        // Each change is one insert or remove, so a panic elsewhere leaves the table whole.
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the files are.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }
}

/// Lets the oldest go until what is kept has at most `most` bytes, and one more entry fits.
fn make_room(table: &mut HashMap<Key, Entry>, now: Instant, most: u64) {
    table.retain(|_, entry| entry.pack.is_some() || now.duration_since(entry.last) < AGAIN);
    let mut kept: u64 = table.values().filter_map(|e| e.pack.as_ref()).map(|p| p.size()).sum();
    while kept > most || table.len() >= ENTRIES_MAX {
        let Some(oldest) = table.iter().min_by_key(|(_, entry)| entry.last).map(|(key, _)| *key) else { return };
        if let Some(pack) = table.remove(&oldest).and_then(|entry| entry.pack) {
            kept -= pack.size();
        }
    }
}

/// A pack that is being made.
pub struct Filling {
    file: File,
    sender: watch::Sender<Grown>,
    packs: Packs,
    key: Key,
    most: u64,
}

impl Filling {
    /// Takes git's pack to its end, as fast as git makes it. What git says is for the log.
    pub async fn fill(self, mut git: Serving) {
        match self.copy(&mut git).await {
            Ok(size) => {
                self.sender.send_replace(Grown::Whole(size));
            }
            Err(error) => {
                tracing::warn!(%error, "a pack that several clients wanted could not be made");
                self.packs.lock().remove(&self.key);
                self.sender.send_replace(Grown::Failed);
            }
        }
    }

    async fn copy(&self, git: &mut Serving) -> io::Result<u64> {
        let missing = || io::Error::other("git was started without its pipes");
        let mut stdout = git.child.stdout.take().ok_or_else(missing)?;
        let stderr = git.child.stderr.take().ok_or_else(missing)?;
        let complaint = async {
            let mut text = Vec::new();
            let mut stderr = stderr.take(4096);
            drop(stderr.read_to_end(&mut text).await);
            drop(tokio::io::copy(stderr.get_mut(), &mut tokio::io::sink()).await);
            String::from_utf8_lossy(&text).trim().to_owned()
        };
        let copy = async {
            let (mut buffer, mut size) = (vec![0; CHUNK], 0);
            loop {
                let read = tokio::time::timeout(SILENT, stdout.read(&mut buffer)).await;
                let n = read.map_err(|_| io::Error::other("git has said nothing for too long"))??;
                if n == 0 {
                    return Ok(size);
                }
                if size + n as u64 > self.most {
                    return Err(io::Error::other("it is larger than all packs together may be ([git] pack_cache)"));
                }
                let file = self.file.try_clone()?;
                buffer = tokio::task::spawn_blocking(move || file.write_all_at(&buffer[..n], size).map(|()| buffer))
                    .await
                    .map_err(io::Error::other)??;
                size += n as u64;
                self.sender.send_replace(Grown::Part(size));
            }
        };
        let mut copy = std::pin::pin!(copy);
        let mut complaint = std::pin::pin!(complaint);
        // A copy that fails does not wait for what git has still to say.
        let (complaint, size) = tokio::select! {
            size = &mut copy => {
                let size = size?;
                (complaint.await, size)
            }
            complaint = &mut complaint => (complaint, copy.await?),
        };
        let status = git.child.wait().await?;
        if status.success() {
            Ok(size)
        } else {
            Err(io::Error::other(format!("git pack-objects: {status}: {complaint}")))
        }
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        // Cut off before its end: nobody shall wait for the rest.
        if matches!(*self.sender.borrow(), Grown::Part(_)) {
            self.packs.lock().remove(&self.key);
            self.sender.send_replace(Grown::Failed);
        }
    }
}

impl Pack {
    /// A pack that takes no room of its own. Its sum is found out while it is read already.
    pub fn stored(completed: Completed) -> Arc<Self> {
        let (sender, grown) = watch::channel(Grown::Part(completed.body()));
        let completed = Arc::new(completed);
        let adding = completed.clone();
        tokio::task::spawn_blocking(move || {
            let added = adding.add_up(|| !sender.is_closed());
            sender.send_replace(match added {
                Ok(()) => Grown::Whole(adding.size()),
                Err(error) => {
                    tracing::warn!(%error, "a stored pack cannot be read");
                    Grown::Failed
                }
            });
        });
        Arc::new(Self { body: Body::Stored(completed), grown, expected: 0 })
    }

    fn size(&self) -> u64 {
        match *self.grown.borrow() {
            Grown::Whole(size) => size,
            Grown::Part(size) => size.max(self.expected),
            Grown::Failed => 0,
        }
    }

    /// How many bytes from `at` on can be read now, at least one; 0 at the end. Waits while the pack grows.
    ///
    /// # Errors
    /// When the pack could not be made.
    pub async fn ready(&self, at: u64) -> io::Result<u64> {
        let mut grown = self.grown.clone();
        let failed = || io::Error::other("the pack could not be made");
        let state = grown.wait_for(|state| !matches!(state, Grown::Part(size) if *size <= at)).await;
        match *state.map_err(|_| failed())? {
            Grown::Part(size) | Grown::Whole(size) => Ok(size - at),
            Grown::Failed => Err(failed()),
        }
    }

    /// How many bytes from `at` on are there already.
    pub fn at_hand(&self, at: u64) -> u64 {
        match *self.grown.borrow() {
            Grown::Part(size) | Grown::Whole(size) => size.saturating_sub(at),
            Grown::Failed => 0,
        }
    }

    /// Fills `buffer` from `at`. Blocks.
    pub fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        match &self.body {
            Body::File(file) => file.read_exact_at(buffer, at),
            Body::Stored(completed) => completed.read_at(buffer, at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packs(limit: u64) -> (tempfile::TempDir, Packs) {
        let tmp = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(tmp.path().join("packs")).expect("made");
        std::fs::write(tmp.path().join("packs/left"), "x").expect("written");
        let packs = Packs::new(tmp.path().join("packs"), limit).expect("taken over");
        assert_eq!(std::fs::read_dir(packs.dir()).expect("listed").count(), 0);
        (tmp, packs)
    }

    fn key(n: u8) -> Key {
        [n; 32]
    }

    fn fill(packs: &Packs, n: u8, size: u64) -> (Filling, Arc<Pack>) {
        assert!(matches!(packs.request(key(n), size), Use::Alone), "the first is not kept");
        let Use::Fill(filling, pack) = packs.request(key(n), size) else { panic!("the second is") };
        (filling, pack)
    }

    #[tokio::test]
    async fn the_second_fills_and_the_others_read_while_it_grows() {
        let (_tmp, packs) = packs(100);
        let (filling, pack) = fill(&packs, 1, 10);
        let Use::Read(third) = packs.request(key(1), 10) else { panic!("it is there") };
        filling.file.write_all_at(b"PACK", 0).expect("written");
        filling.sender.send_replace(Grown::Part(4));
        assert_eq!(third.ready(0).await.expect("some"), 4);
        let mut buffer = [0; 3];
        third.read_at(&mut buffer, 1).expect("read");
        assert_eq!(&buffer, b"ACK");
        filling.sender.send_replace(Grown::Whole(4));
        assert_eq!(pack.ready(4).await.expect("the end"), 0);
        drop(filling);
        assert_eq!(pack.ready(0).await.expect("still whole"), 4);
    }

    #[tokio::test]
    async fn a_filling_cut_off_is_forgotten_and_said() {
        let (_tmp, packs) = packs(100);
        let (filling, pack) = fill(&packs, 1, 10);
        drop(filling);
        assert!(pack.ready(0).await.is_err());
        assert!(matches!(packs.request(key(1), 10), Use::Alone), "as if never asked");
    }

    #[test]
    fn the_oldest_make_room() {
        let (_tmp, packs) = packs(100);
        assert!(matches!((packs.request(key(9), 51), packs.request(key(9), 51)), (Use::Alone, Use::Alone)));
        let kept: Vec<_> = (1..=2).map(|n| fill(&packs, n, 40)).collect();
        for (filling, _) in &kept {
            filling.sender.send_replace(Grown::Whole(40));
        }
        assert!(matches!(packs.request(key(1), 40), Use::Read(_)), "used last");
        let third = fill(&packs, 3, 40);
        assert!(matches!(packs.request(key(1), 40), Use::Read(_)));
        assert!(matches!(packs.request(key(3), 40), Use::Read(_)));
        assert!(matches!(packs.request(key(2), 40), Use::Alone), "the least recently used went");
        drop(third);
    }
}

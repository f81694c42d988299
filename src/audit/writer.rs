//! The queue before the files, and its one reader, who writes them.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

use super::files::{End, Files, file_name, hash};
use super::record::{Kind, Outcome, Record, moment};
use super::{BATCH, Config, DURABLE};
use crate::durable;

/// What may wait for the disk, in bytes: some fifty thousand records.
const WAITING_MAX: usize = 32 << 20;
/// A disk that takes nothing is tried again after this time.
const AGAIN: Duration = Duration::from_secs(1);

/// The handle for those who note records, and for those who read them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Audit(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// No audit is kept.
    off: bool,
    fetches: bool,
    files: Files,
    queue: Mutex<Queue>,
    /// The writer has something to do.
    work: Condvar,
    /// The writer has done something.
    done: Condvar,
    newest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Record>,
    /// Of what waits, in bytes.
    weight: usize,
    /// Since the last that was written: how many, and when the first.
    lost: Option<(u64, String)>,
    noted: u64,
    written: u64,
    hurry: bool,
    closed: bool,
    trouble: Option<String>,
}

/// The one who writes the files.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    config: Config,
    /// The current file; none before the first record.
    path: Option<PathBuf>,
    /// None until it is opened, and after it could not be written.
    file: Option<File>,
    /// Of the current file.
    bytes: u64,
    since: SystemTime,
    next: u64,
    prev: String,
    /// Bytes that are to be written before anything else, since some of them may be.
    pending: Vec<u8>,
    pending_last: u64,
    dirty: Option<Instant>,
}

impl Audit {
    /// Finds where the files below `data` end. Records are written once the writer runs.
    pub fn open(config: &Config, data: &Path) -> io::Result<(Self, Writer)> {
        let off = config.path.as_os_str().is_empty();
        let files = Files::new(data.join(&config.path));
        let end = if off {
            End::default()
        } else {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(files.dir())?;
            files.end()?
        };
        let shared = Arc::new(Shared {
            off,
            fetches: config.fetches,
            files,
            queue: Mutex::default(),
            work: Condvar::new(),
            done: Condvar::new(),
            newest: watch::Sender::new(end.next.saturating_sub(1)),
        });
        let mut writer = Writer {
            shared: Arc::clone(&shared),
            config: config.clone(),
            path: end.file,
            file: None,
            bytes: 0,
            since: SystemTime::now(),
            next: end.next,
            prev: end.hash,
            pending: Vec::new(),
            pending_last: 0,
            dirty: None,
        };
        if let Some(path) = &writer.path {
            let about = fs::metadata(path)?;
            (writer.bytes, writer.since) = (about.len(), about.created().or_else(|_| about.modified())?);
        }
        let audit = Self(shared);
        if end.unfinished > 0 {
            // The line is ended and not removed: an append-only file may be so by the file system's word too.
            writer.pending.push(b'\n');
            let reason = format!("a crash has left {} bytes of an unfinished record", end.unfinished);
            audit.note(Record::new(Kind::Audit).ended(Outcome::Failed, &reason));
        }
        Ok((audit, writer))
    }

    /// One that keeps nothing, for tests of other rooms.
    #[cfg(test)]
    pub fn off() -> Self {
        let config = Config { path: std::path::PathBuf::new(), ..Config::default() };
        Self::open(&config, Path::new("/")).expect("nothing is opened").0
    }

    /// Whether fetches are to be noted.
    pub fn wants_fetches(&self) -> bool {
        self.0.fetches && !self.0.off
    }

    /// Takes a record; its number and its link in the chain are the writer's to give.
    pub fn note(&self, record: Record) {
        if self.0.off {
            return;
        }
        let mut queue = self.0.lock();
        if queue.weight > WAITING_MAX {
            let first = record.time;
            queue.lost.get_or_insert((0, first)).0 += 1;
            return;
        }
        queue.weight += record.weight();
        queue.noted += 1;
        queue.waiting.push_back(record);
        if queue.waiting.len() == 1 {
            self.0.work.notify_one();
        }
    }

    /// Waits until what has been noted so far can be read; false if that takes longer than `patience`. Blocks.
    pub fn settle(&self, patience: Duration) -> bool {
        let mut queue = self.0.lock();
        let (wanted, end) = (queue.noted, Instant::now() + patience);
        while queue.written < wanted {
            queue.hurry = true;
            self.0.work.notify_one();
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            queue = self.0.done.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Why records wait or were lost, while that is so.
    pub fn trouble(&self) -> Option<String> {
        self.0.lock().trouble.clone()
    }

    /// `None` when no audit is kept.
    pub fn files(&self) -> Option<&Files> {
        Some(&self.0.files).filter(|_| !self.0.off)
    }

    /// The number of the newest record that can be read.
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.0.newest.subscribe()
    }

    /// Has the writer write what waits, and end.
    pub fn close(&self) {
        self.0.lock().closed = true;
        self.0.work.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Each change leaves the queue whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    /// Writes until the audit is closed. Blocks, so it needs a thread of its own.
    pub fn run(mut self) {
        loop {
            let (records, lost, closed) = self.take();
            if !records.is_empty() || lost.is_some() {
                self.encode(records, lost);
            }
            self.drain(closed);
            if closed && self.shared.lock().waiting.is_empty() {
                self.settle_down();
                return;
            }
        }
    }

    /// Waits for records, a little for more of them, or until what is written is to be made durable.
    fn take(&mut self) -> (Vec<Record>, Option<(u64, String)>, bool) {
        let shared = Arc::clone(&self.shared);
        let mut queue = shared.lock();
        while queue.waiting.is_empty() && !queue.closed {
            let due = self.dirty.map(|since| DURABLE.saturating_sub(since.elapsed()));
            queue = match due {
                None => shared.work.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => {
                    drop(queue);
                    self.settle_down();
                    shared.lock()
                }
                Some(due) => shared.work.wait_timeout(queue, due).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        let end = Instant::now() + BATCH;
        while !queue.hurry && !queue.closed && Instant::now() < end {
            let left = end.saturating_duration_since(Instant::now());
            queue = shared.work.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        (queue.hurry, queue.weight) = (false, 0);
        (queue.waiting.drain(..).collect(), queue.lost.take(), queue.closed)
    }

    /// Gives records their numbers and links, as lines that wait to be written.
    fn encode(&mut self, records: Vec<Record>, lost: Option<(u64, String)>) {
        let told = lost.map(|(count, since)| {
            let reason =
                format!("{count} records were lost since {since}: the disk took nothing, and the queue was full");
            Record::new(Kind::Audit).ended(Outcome::Failed, &reason)
        });
        self.pending_last += records.len() as u64;
        for mut record in records.into_iter().chain(told).flat_map(Record::split) {
            (record.seq, record.prev) = (self.next, std::mem::take(&mut self.prev));
            let line = serde_json::to_vec(&record).expect("texts and numbers can always be written");
            self.prev = hash(&line);
            self.next += 1;
            self.pending.extend_from_slice(&line);
            self.pending.push(b'\n');
        }
    }

    /// Writes what waits, however long the disk takes; once it is `closed`, a single time.
    fn drain(&mut self, closed: bool) {
        loop {
            let done = self.rotate().and_then(|()| self.write());
            match done {
                Ok(()) => {
                    let mut queue = self.shared.lock();
                    queue.written += std::mem::take(&mut self.pending_last);
                    if queue.trouble.take().is_some() {
                        tracing::info!("the audit is written again");
                    }
                    drop(queue);
                    self.shared.newest.send_replace(self.next.saturating_sub(1));
                    self.shared.done.notify_all();
                    return;
                }
                Err(error) => {
                    // Whoever mends it may put another file into its place.
                    self.file = None;
                    let mut queue = self.shared.lock();
                    let why = format!("the audit cannot be written to {}: {error}", self.shared.files.dir().display());
                    if queue.trouble.replace(why.clone()).is_none() {
                        tracing::error!("{why}; records wait in memory, and git goes on");
                    }
                    if closed {
                        tracing::error!(bytes = self.pending.len(), "records of the audit are lost at the end");
                        return;
                    }
                    if !queue.closed {
                        drop(self.shared.work.wait_timeout(queue, AGAIN));
                    }
                }
            }
        }
    }

    fn write(&mut self) -> io::Result<()> {
        while !self.pending.is_empty() {
            let Some(file) = &mut self.file else { return Err(io::ErrorKind::NotFound.into()) };
            durable::at("audit.write", self.shared.files.dir())?;
            match file.write(&self.pending) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                // What the disk has taken of a line stays, and the rest follows.
                Ok(n) => {
                    self.pending.drain(..n);
                    self.bytes += n as u64;
                    self.dirty.get_or_insert_with(Instant::now);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn settle_down(&mut self) {
        self.dirty = None;
        if let Some(file) = &self.file
            && let Err(error) = durable::sync_data("audit.sync", file, self.shared.files.dir())
        {
            tracing::error!(%error, "the audit may not be on the disk");
        }
    }

    /// Begins a new file when there is none, or when the current one is large or old and ends in a whole line.
    fn rotate(&mut self) -> io::Result<()> {
        let old = self.since.elapsed().is_ok_and(|age| age > self.config.rotate_age);
        let full = self.bytes >= self.config.rotate_size || (old && self.bytes > 0);
        let whole = self.pending.is_empty() || self.at_start_of_line();
        if self.pending.is_empty() {
            return Ok(());
        }
        if let Some(path) = self.path.as_ref().filter(|_| !(full && whole)) {
            if self.file.is_none() {
                self.file = Some(OpenOptions::new().create(true).append(true).mode(0o600).open(path)?);
            }
            return Ok(());
        }
        self.settle_down();
        let first = self.first_pending();
        let path = self.shared.files.dir().join(file_name(first));
        self.file = Some(OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?);
        self.path = Some(path);
        durable::sync("audit.dir", self.shared.files.dir())?;
        (self.bytes, self.since) = (0, SystemTime::now());
        self.forget();
        Ok(())
    }

    fn at_start_of_line(&self) -> bool {
        self.pending.starts_with(b"{\"seq\":")
    }

    /// The number of the first record that waits.
    fn first_pending(&self) -> u64 {
        let end = memchr::memchr(b'\n', &self.pending).unwrap_or(self.pending.len());
        serde_json::from_slice::<Record>(&self.pending[..end]).map_or(self.next, |record| record.seq)
    }

    /// Deletes the files that are kept no longer; that they are gone is told by a record.
    fn forget(&self) {
        let now = SystemTime::now();
        let files = match self.shared.files.list() {
            Ok(files) => files,
            Err(error) => return tracing::warn!(%error, "the files of the audit cannot be listed"),
        };
        let sizes: Vec<_> = files.iter().map(|(_, path)| path.metadata().ok()).collect();
        let mut total: u64 = sizes.iter().flatten().map(fs::Metadata::len).sum();
        for ((_, path), about) in files.iter().zip(sizes).take(files.len().saturating_sub(1)) {
            let Some(about) = about else { continue };
            let age = about.modified().ok().and_then(|at| now.duration_since(at).ok()).unwrap_or_default();
            if age <= self.config.keep && total <= self.config.keep_size {
                break;
            }
            if let Err(error) = fs::remove_file(path) {
                tracing::warn!(%error, path = %path.display(), "an old file of the audit cannot be deleted");
                break;
            }
            total -= about.len();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let reason = format!("{name} is kept no longer ([audit] keep, keep_size) and was deleted");
            let record = Record { time: moment(now), ..Record::new(Kind::Audit).ended(Outcome::Ok, &reason) };
            Audit(Arc::clone(&self.shared)).note(record);
        }
    }
}

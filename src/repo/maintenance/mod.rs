//! Repositories are repacked, cleaned and checked by git, one at a time, each when its turn has come.
//!
//! When is decided here, purely; what is done is git's: `git gc` packs, writes commit-graph and bitmaps, and removes what
//! no reference has led to for two weeks; `git fsck` reads every object. Both give way to everything else on the
//! machine, and neither is in the way of a push: git's own locks are held for moments, and what a push brings is younger
//! than two weeks. Faults of old history are no damage ([`crate::git::fsck`]). A repository that others borrow objects
//! from keeps everything. Removed packs may be read on by whoever has them open. Small packs are rolled up beside that.

mod rolling;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::store::Store;
use crate::durable::write_whole;
use crate::git::fsck;
use crate::git::process::{Git, RunError};
use crate::model::RepoName;
use crate::model::setting::duration;

/// Inside a repository: when each task was done last, `gc=SECONDS fsck=SECONDS` since 1970.
const DONE: &str = "gitmesh-maintained";
/// Inside a repository that git has found to be damaged: what it said.
pub(super) const DAMAGED: &str = "gitmesh-damaged";
/// How often it is looked whose turn has come, unless a span is shorter.
const LOOKING: Duration = Duration::from_secs(600);
const LOOKING_MIN: Duration = Duration::from_secs(1);
/// One repository may take this long; the next try comes with its next turn.
const LIMIT: Duration = Duration::from_secs(6 * 3600);
/// With fewer packs and fewer loose objects a repository is left as it is.
const PACKS_MAX: usize = 12;
const LOOSE_MAX: usize = 2000;
/// A pack of so many bytes is worth bitmaps.
const LARGE: u64 = 8 << 20;
/// So much of what git says is kept of a damage.
const SAID_MAX: usize = 2000;

/// The `[maintenance]` table of `gitmesh.toml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Maintenance {
    /// How long a deleted repository can be brought back.
    #[serde(deserialize_with = "duration")]
    pub trash_keep: Duration,
    /// In each span of this length a repository is looked at once, and repacked if it has become untidy.
    #[serde(deserialize_with = "duration")]
    pub gc_every: Duration,
    /// In each span of this length every object of a repository is read and checked once.
    #[serde(deserialize_with = "duration")]
    pub fsck_every: Duration,
}

impl Default for Maintenance {
    fn default() -> Self {
        let days = |days: u64| Duration::from_secs(days * 86_400);
        Self { trash_keep: days(30), gc_every: days(1), fsck_every: days(30) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    Gc,
    Fsck,
}

impl Task {
    pub fn word(self) -> &'static str {
        match self {
            Self::Gc => "gc",
            Self::Fsck => "fsck",
        }
    }
}

/// Pure: whether a task's turn has come at `now`, if it was done at `last`. Each repository has a moment of its own in the
/// span, so that not all of them come at once; after a long pause one turn stands for those that were missed.
fn is_due(name: &RepoName, task: Task, last: SystemTime, every: Duration, now: SystemTime) -> bool {
    let millis = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let every = every.as_millis().max(1);
    // FNV-1a: the moment must be the same after a restart and in every version.
    let hash = task
        .word()
        .bytes()
        .chain(name.as_str().bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let own = u128::from(hash) % every;
    (millis(now) + own) / every > (millis(last) + own) / every
}

/// Files whose names fit.
fn count(folder: &Path, fits: impl Fn(&str) -> bool) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_str().is_some_and(&fits)).count()
}

fn packs_in(dir: &Path) -> usize {
    count(&dir.join("objects/pack"), |name| name.ends_with(".pack"))
}

/// How untidy a repository is.
fn is_untidy(dir: &Path) -> bool {
    // Loose objects are spread evenly over 256 folders; git looks at this one too.
    let loose = count(&dir.join("objects/17"), |name| name.len() == 38) * 256;
    packs_in(dir) > PACKS_MAX || loose > LOOSE_MAX || lacks_bitmaps(dir)
}

/// Whether a large repository has no bitmaps, without which every clone counts all of its objects. git writes none for
/// what it does not repack or borrows.
fn lacks_bitmaps(dir: &Path) -> bool {
    let packs = dir.join("objects/pack");
    let is_large = |entry: fs::DirEntry| entry.metadata().is_ok_and(|file| file.len() >= LARGE);
    fs::read_dir(&packs).into_iter().flatten().flatten().any(is_large)
        && count(&packs, |name| name.ends_with(".bitmap") || name.ends_with(".keep")) == 0
        && !dir.join("objects/info/alternates").exists()
}

/// What became of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// fsck's findings: the repository has lost something, or something in it has changed.
    Damaged(String),
    Failed(String),
}

/// The maintenance of all repositories. Cheap to clone.
#[derive(Clone)]
pub struct Upkeep {
    store: Store,
    git: Git,
    settings: Arc<Mutex<Maintenance>>,
    /// One at a time on this node, by the timer and by hand.
    turn: Arc<Semaphore>,
    /// Whose turn it is.
    busy: Arc<Mutex<Option<(RepoName, Task)>>>,
    damages: Arc<Mutex<Damages>>,
    rolling: Arc<rolling::Rolling>,
}

/// The stores of objects here that others borrow from (gitrepository-layout(5), objects/info/alternates). Nothing here makes
/// such a loan; it comes with what was imported. `None` where it cannot be told: then each may be one.
#[derive(Debug, Clone, Default)]
pub struct Lenders(Option<BTreeSet<PathBuf>>);

impl Lenders {
    fn have(&self, dir: &Path) -> bool {
        let Some(lenders) = &self.0 else { return true };
        // Where it cannot be told, nothing is removed.
        dir.join("objects").canonicalize().map_or(true, |own| lenders.contains(&own))
    }
}

/// The turn of one repository; the next begins when it is dropped.
pub struct Turn {
    busy: Arc<Mutex<Option<(RepoName, Task)>>>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Turn {
    fn drop(&mut self) {
        *self.busy.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// An index over the files that say what is damaged; they are the truth, and survive a restart.
#[derive(Default)]
struct Damages {
    known: BTreeSet<RepoName>,
    /// What git said and nobody was told yet.
    news: BTreeMap<RepoName, String>,
}

impl Upkeep {
    pub fn new(store: Store, git: Git, settings: Maintenance) -> Self {
        let settings = Arc::new(Mutex::new(settings));
        let turn = Arc::new(Semaphore::new(1));
        Self { store, git, settings, turn, busy: Arc::default(), damages: Arc::default(), rolling: Arc::default() }
    }

    fn damages(&self) -> MutexGuard<'_, Damages> {
        self.damages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settings(&self) -> Maintenance {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set(&self, settings: Maintenance) {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    /// Looks every so often whose turn has come, until it is told to stop; git is stopped with it.
    pub async fn run(self, stop: CancellationToken) -> io::Result<()> {
        let upkeep = self.clone();
        // What an earlier run found.
        let found = tokio::task::spawn_blocking(move || upkeep.find_damages());
        if let Err(error) = found.await.map_err(io::Error::other)? {
            tracing::warn!(%error, "cannot list the repositories, to see which are damaged");
        }
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            () = self.roll_up() => Ok(()),
            looked = self.look_now_and_then() => looked,
        }
    }

    async fn look_now_and_then(&self) -> io::Result<()> {
        loop {
            let Maintenance { gc_every, fsck_every, .. } = self.settings();
            let pause = LOOKING.min(gc_every).min(fsck_every).max(LOOKING_MIN);
            tokio::time::sleep(pause).await;
            self.look().await?;
        }
    }

    fn find_damages(&self) -> io::Result<()> {
        for name in self.store.list()? {
            if self.store.dir(&name).join(DAMAGED).exists() {
                self.damages().known.insert(name);
            }
        }
        Ok(())
    }

    async fn look(&self) -> io::Result<()> {
        let upkeep = self.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let due = upkeep.due(SystemTime::now())?;
            let lenders = if due.is_empty() { Lenders::default() } else { upkeep.lenders() };
            Ok::<_, io::Error>((due, lenders))
        });
        match looked.await.map_err(io::Error::other)? {
            Ok((due, lenders)) => {
                for (name, task) in due {
                    let turn = self.turn(&name, task).await;
                    self.maintain(turn, &name, task, &lenders).await;
                }
            }
            Err(error) => tracing::warn!(%error, "cannot list the repositories for their maintenance"),
        }
        Ok(())
    }

    /// Whose turn has come; those that are tidy are done with it at once.
    fn due(&self, now: SystemTime) -> io::Result<Vec<(RepoName, Task)>> {
        let settings = self.settings();
        let mut due = Vec::new();
        for name in self.store.list()? {
            let Some(dir) = self.store.open_as_daemon(&name) else { continue };
            // It may have come here under this name by a move.
            if dir.join(DAMAGED).exists() {
                self.damages().known.insert(name.clone());
            }
            for (task, every) in [(Task::Gc, settings.gc_every), (Task::Fsck, settings.fsck_every)] {
                // One that was never maintained counts from when it was made.
                let last = last_done(&dir, task).or_else(|| fs::metadata(dir.join("HEAD")).ok()?.modified().ok());
                if !is_due(&name, task, last.unwrap_or(now), every, now) {
                    continue;
                }
                if task == Task::Fsck || is_untidy(&dir) {
                    due.push((name.clone(), task));
                } else {
                    remember(&name, &dir, task, now);
                }
            }
        }
        Ok(due)
    }

    /// Waits until nothing else is maintained here.
    pub async fn turn(&self, name: &RepoName, task: Task) -> Turn {
        let permit = self.turn.clone().acquire_owned().await.expect("the semaphore is never closed");
        *self.busy.lock().unwrap_or_else(PoisonError::into_inner) = Some((name.clone(), task));
        Turn { busy: self.busy.clone(), _permit: permit }
    }

    /// What is maintained now.
    pub fn at_work(&self) -> Option<(RepoName, Task)> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Repacks or checks one repository, now. Dropped before its end, it stops git.
    pub async fn maintain(&self, _turn: Turn, name: &RepoName, task: Task, lenders: &Lenders) -> Outcome {
        let Some(dir) = self.store.open_as_daemon(name) else {
            return Outcome::Failed("there is no such repository".to_owned());
        };
        let checking = fsck::arguments();
        let arguments: Vec<&str> = match task {
            Task::Gc if lenders.have(&dir) => {
                vec!["-c", "gc.pruneExpire=never", "-c", "pack.threads=1", "gc", "--quiet"]
            }
            Task::Gc => vec![
                "-c",
                "gc.pruneExpire=2.weeks.ago",
                "-c",
                "gc.cruftPacks=true",
                "-c",
                "repack.writeBitmaps=true",
                "-c",
                "gc.writeCommitGraph=true",
                "-c",
                "pack.threads=1",
                "gc",
                "--quiet",
            ],
            Task::Fsck => checking.iter().map(String::as_str).collect(),
        };
        self.rolling.ended().await;
        let outcome = match self.git.upkeep(&dir, &arguments, LIMIT).await {
            Ok(ran) if ran.status.success() => Outcome::Done,
            Ok(ran) => {
                let said = String::from_utf8_lossy(&ran.stderr).into_owned() + &String::from_utf8_lossy(&ran.stdout);
                let short = |said: &str| said.trim().chars().take(SAID_MAX).collect::<String>();
                match task {
                    // A repository that was deleted meanwhile is not damaged.
                    Task::Fsck if dir.join("HEAD").exists() => {
                        fsck::damage(ran.status, &said).map_or(Outcome::Done, |damage| Outcome::Damaged(short(&damage)))
                    }
                    _ => Outcome::Failed(short(&said)),
                }
            }
            Err(error @ (RunError::Start(_) | RunError::Slow | RunError::Loud)) => {
                Outcome::Failed(format!("git {error}"))
            }
        };
        match &outcome {
            Outcome::Done => tracing::info!(repo = %name, task = task.word(), "maintained"),
            Outcome::Damaged(said) => tracing::error!(repo = %name, said, "the repository is damaged"),
            Outcome::Failed(why) => tracing::warn!(repo = %name, task = task.word(), why, "maintenance failed"),
        }
        if task == Task::Fsck {
            self.note_damage(name, &dir, &outcome);
        }
        remember(name, &dir, task, SystemTime::now());
        outcome
    }

    /// Reads a file of each repository. Blocks.
    pub fn lenders(&self) -> Lenders {
        let lenders = self.store.list().map(|names| {
            let stores = names.iter().map(|name| self.store.dir(name).join("objects"));
            stores.flat_map(|objects| lenders_of(&objects)).collect()
        });
        Lenders(lenders.ok())
    }

    /// When a repository was repacked last, and when it was checked last.
    pub fn maintained(&self, name: &RepoName) -> [Option<SystemTime>; 2] {
        let dir = self.store.dir(name);
        [Task::Gc, Task::Fsck].map(|task| last_done(&dir, task))
    }

    /// What fsck said last of a damaged repository.
    pub fn damage(&self, name: &RepoName) -> Option<String> {
        fs::read_to_string(self.store.open_as_daemon(name)?.join(DAMAGED)).ok()
    }

    /// The damaged repositories here, each with what git said.
    pub fn damaged(&self) -> Vec<(RepoName, String)> {
        let known = self.damages().known.clone();
        known.into_iter().filter_map(|name| self.damage(&name).map(|said| (name, said))).collect()
    }

    /// What has changed since the last call: what git said of one that it found to be damaged, or `None` of one that is
    /// sound again. Blocks.
    pub fn news_of_damage(&self) -> Vec<(RepoName, Option<String>)> {
        // What was found and mended since the last call is told as both, in this order.
        let (known, found) = {
            let mut damages = self.damages();
            (damages.known.clone(), std::mem::take(&mut damages.news))
        };
        let mut news: Vec<_> = found.into_iter().map(|(name, said)| (name, Some(said))).collect();
        for name in known {
            if self.damage(&name).is_some() {
                continue;
            }
            // Another one may have taken its place, or it has gone.
            let is_here = self.store.open_as_daemon(&name).is_some();
            if self.damages().known.remove(&name) && is_here {
                news.push((name, None));
            }
        }
        news
    }

    fn note_damage(&self, name: &RepoName, dir: &Path, outcome: &Outcome) {
        let noted = match outcome {
            Outcome::Damaged(said) => {
                let is_new = !dir.join(DAMAGED).exists();
                let noted = write_whole(dir, DAMAGED, &format!("{said}\n"));
                let mut damages = self.damages();
                damages.known.insert(name.clone());
                if is_new && noted.is_ok() {
                    damages.news.insert(name.clone(), said.clone());
                }
                noted
            }
            Outcome::Done => match fs::remove_file(dir.join(DAMAGED)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
            Outcome::Failed(_) => Ok(()),
        };
        if let Err(error) = noted {
            tracing::warn!(repo = %name, %error, "cannot write down whether it is damaged");
        }
    }
}

fn lenders_of(objects: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(objects.join("info/alternates")).unwrap_or_default();
    text.lines().filter_map(|line| objects.join(line).canonicalize().ok()).collect()
}

fn last_done(dir: &Path, task: Task) -> Option<SystemTime> {
    let text = fs::read_to_string(dir.join(DONE)).ok()?;
    let seconds =
        text.split_whitespace().find_map(|pair| pair.strip_prefix(task.word())?.strip_prefix('=')?.parse().ok());
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds?))
}

/// A failure to write costs no more than another turn.
fn remember(name: &RepoName, dir: &Path, task: Task, now: SystemTime) {
    let seconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let pairs = [Task::Gc, Task::Fsck].into_iter().filter_map(|one| {
        let at = if one == task { Some(now) } else { last_done(dir, one) };
        at.map(|at| format!("{}={}", one.word(), seconds(at)))
    });
    let line = pairs.collect::<Vec<_>>().join(" ") + "\n";
    // Not synced: 100,000 repositories are looked at every day.
    if let Err(error) = fs::write(dir.join(DONE), line) {
        tracing::warn!(repo = %name, %error, "cannot write down when it was maintained");
    }
}

#[cfg(test)]
mod tests;

//! The heartbeat: every few seconds one small message to each peer, which says what its copies lack, and one line back.
//!
//! `gitmesh-mirror-heartbeat version=1 generation=42 complete=yes …` runs on the peer; its standard input has a line
//! `REPO<TAB>SECONDS<TAB>CHANGES` for each copy there that lacks something (`-` for SECONDS: not compared yet). The answer
//! is one line of `key=value` words. Both tell of their disks and promotions in the words of `masters`. Words and columns that are not known are of a later version and change nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::heard::{Beat, Freshness, Heard, Lack};
use super::state::Moment;
use super::{Inner, Mirror, MirrorError, deliver, propagate_panic};
use crate::model::{HostName, RepoName};
use crate::peer::LinkError;

/// The exec line's first word.
pub const HEARTBEAT: &str = "gitmesh-mirror-heartbeat";
const VERSION: &str = "version=1";
/// Copies named in one message; with more, it does not count as complete.
const LINES_MAX: usize = 10_000;
/// Longest message in bytes.
pub const MESSAGE_MAX: u64 = 4 << 20;
/// Longest answer in bytes.
const ANSWER_MAX: u64 = 4 << 10;
/// Pause between two messages, if `stale_notice` does not ask for a shorter one.
const EVERY: Duration = Duration::from_secs(15);
const EVERY_MIN: Duration = Duration::from_millis(500);
/// A peer that does not answer within this time is not well.
const PATIENCE: Duration = Duration::from_secs(30);
/// A peer that a person has to mend is asked so seldom: each try is a line in its log.
const HOPELESS: Duration = Duration::from_secs(300);

/// What a node says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// Of the configuration in force.
    pub generation: u64,
    pub software: String,
    /// Bytes on the file system of the repositories.
    pub disk_free: u64,
    pub disk_total: u64,
    /// Repositories there that git has found to be damaged.
    pub damaged: u64,
}

impl About {
    fn words(&self) -> String {
        let Self { generation, software, disk_free, disk_total, damaged } = self;
        format!(
            "generation={generation} software={software} disk-free={disk_free} disk-total={disk_total} damaged={damaged}"
        )
    }

    fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let mut about = Self::default();
        for (key, value) in words.into_iter().filter_map(|word| word.split_once('=')) {
            let number = || value.parse().unwrap_or_default();
            match key {
                "generation" => about.generation = number(),
                "software" => about.software = value.chars().filter(char::is_ascii_graphic).take(40).collect(),
                "disk-free" => about.disk_free = number(),
                "disk-total" => about.disk_total = number(),
                "damaged" => about.damaged = number(),
                _ => {}
            }
        }
        about
    }
}

/// A peer as the heartbeats show it.
#[derive(Debug, Clone, Default)]
pub struct Pulse {
    /// When it last answered, and how long that took.
    pub answered: Option<(SystemTime, Duration)>,
    /// Since when it does not answer, and why.
    pub failure: Option<(SystemTime, String)>,
    /// When it last spoke to us by itself.
    pub heard: Option<SystemTime>,
    pub about: Option<About>,
    /// When it was last spoken to, however that ended.
    tried: Option<Instant>,
    /// A person has to mend something before it is spoken to again.
    hopeless: bool,
}

/// All peers that were spoken to, or have spoken.
pub(super) type Pulses = BTreeMap<HostName, Pulse>;

/// What was heard, and what is said.
pub(super) struct Hearing {
    heard: Mutex<Heard>,
    pulses: Mutex<Pulses>,
    /// What this node says of itself.
    about: OnceLock<Box<dyn Fn() -> About + Send + Sync>>,
    /// Somebody wants to know now, or a link has come up.
    bell: Notify,
    /// Counts the attempts to speak to a peer that have ended.
    beaten: watch::Sender<u64>,
}

impl Hearing {
    pub(super) fn new() -> Self {
        Self {
            heard: Mutex::new(Heard::new(Instant::now())),
            pulses: Mutex::default(),
            about: OnceLock::new(),
            bell: Notify::new(),
            beaten: watch::Sender::new(0),
        }
    }

    /// Has all peers spoken to now.
    pub(super) fn ring(&self) {
        self.bell.notify_one();
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pulses(&self) -> MutexGuard<'_, Pulses> {
        self.pulses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn about(&self) -> About {
        self.about.get().map(|about| about()).unwrap_or_default()
    }
}

impl Mirror {
    /// What this node is to say of itself in its heartbeats; only the first call counts.
    pub fn introduce(&self, about: impl Fn() -> About + Send + Sync + 'static) {
        self.inner.hearing.about.get_or_init(|| Box::new(about));
    }

    /// A peer's heartbeat has come: the words of its exec line after the first, and its lines. Returns the answer, or
    /// what is wrong with it.
    pub fn hear(&self, from: &HostName, words: &[&str], lines: &str) -> Result<String, String> {
        let answer = self.inner.hearing.hear(from, words, lines)?;
        self.inner.follow_up(from, self.inner.meet(from, words.iter().copied()));
        Ok(format!("{} {answer}\n", self.inner.introduction(from)))
    }

    /// A mirror push from `master`, which began at `began`, has ended well here.
    pub fn received(&self, repo: &RepoName, master: &HostName, began: Instant) {
        self.inner.hearing.heard().received(repo, master, began, Instant::now());
    }

    /// How fresh our copy of a repository of `master` is.
    pub fn freshness(&self, repo: &RepoName, master: &HostName) -> Freshness {
        let patience = self.inner.config().stale_notice;
        self.inner.hearing.heard().freshness(repo, master, patience, Instant::now())
    }

    /// What to tell who fetches our copy, if it may be too old: a sentence without an end.
    pub fn stale_notice(&self, repo: &RepoName, master: &HostName) -> Option<String> {
        self.freshness(repo, master).notice(repo, master, self.inner.config().stale_notice)
    }

    /// Speaks to all peers now, for whoever is about to look at [`Mirror::pulses`]; waits no longer than `patience`.
    pub async fn look(&self, patience: Duration) {
        let (called, hearing) = (Instant::now(), &self.inner.hearing);
        let mut beaten = hearing.beaten.subscribe();
        hearing.ring();
        let fresh = || {
            let (known, pulses) = (self.inner.links.peers().borrow().clone(), hearing.pulses());
            let is_fresh = |pulse: &Pulse| pulse.hopeless || pulse.tried.is_some_and(|at| at >= called);
            known.keys().all(|peer| pulses.get(peer).is_some_and(is_fresh))
        };
        let all = async { while !fresh() && beaten.changed().await.is_ok() {} };
        // Who has not answered by then is shown as it was.
        drop(timeout(patience, all).await);
    }

    /// What this node says of itself.
    pub fn about(&self) -> About {
        self.inner.hearing.about()
    }

    /// The other nodes, as the heartbeats show them.
    pub fn pulses(&self) -> BTreeMap<HostName, Pulse> {
        self.inner.hearing.pulses().clone()
    }
}

/// How often a message goes to each peer.
fn every(inner: &Inner) -> Duration {
    (inner.config().stale_notice / 4).clamp(EVERY_MIN, EVERY)
}

/// Sends until `stop`; a peer that does not answer delays no other.
pub(super) async fn run(inner: Arc<Inner>, stop: CancellationToken) {
    let mut tasks: JoinSet<(HostName, bool)> = JoinSet::new();
    let mut busy: BTreeSet<HostName> = BTreeSet::new();
    let mut hopeless: BTreeMap<HostName, Instant> = BTreeMap::new();
    let mut known = inner.links.peers();
    loop {
        let peers: Vec<HostName> = known.borrow_and_update().keys().cloned().collect();
        inner.hearing.pulses().retain(|peer, _| peers.contains(peer));
        hopeless.retain(|_, since| since.elapsed() < HOPELESS);
        for peer in peers {
            if !hopeless.contains_key(&peer) && busy.insert(peer.clone()) {
                let inner = inner.clone();
                tasks.spawn(async move {
                    let retry_can_help = beat(&inner, &peer).await;
                    (peer, retry_can_help)
                });
            }
        }
        let next = Instant::now() + every(&inner);
        loop {
            tokio::select! {
                () = stop.cancelled() => return tasks.shutdown().await,
                () = tokio::time::sleep_until(next.into()) => break,
                () = inner.hearing.bell.notified() => break,
                Ok(()) = known.changed() => {
                    hopeless.clear();
                    break;
                }
                Some(ended) = tasks.join_next() => match ended {
                    Ok((peer, retry_can_help)) => {
                        busy.remove(&peer);
                        if !retry_can_help {
                            hopeless.insert(peer, Instant::now());
                        }
                    }
                    Err(_) => propagate_panic(ended),
                },
            }
        }
    }
}

/// Speaks to one peer once; false when a person has to do something before the next try can go better.
async fn beat(inner: &Arc<Inner>, peer: &HostName) -> bool {
    let begun = Instant::now();
    let told = timeout(PATIENCE, tell(inner, peer)).await.unwrap_or(Err(MirrorError::Timeout(PATIENCE)));
    let mut pulses = inner.hearing.pulses();
    let pulse = pulses.entry(peer.clone()).or_default();
    pulse.tried = Some(Instant::now());
    inner.hearing.beaten.send_modify(|count| *count += 1);
    pulse.hopeless = matches!(&told, Err(MirrorError::Link(error)) if !error.retry_can_help());
    match told {
        Ok(about) => {
            pulse.answered = Some((SystemTime::now(), begun.elapsed()));
            pulse.failure = None;
            pulse.about = Some(about);
            true
        }
        Err(error) => {
            let since = pulse.failure.take().map_or_else(SystemTime::now, |(since, _)| since);
            pulse.failure = Some((since, error.to_string()));
            tracing::debug!(%peer, %error, "no heartbeat");
            !pulse.hopeless
        }
    }
}

async fn tell(inner: &Arc<Inner>, peer: &HostName) -> Result<About, MirrorError> {
    let (lines, complete) = inner.lacking(peer);
    let exec = format!(
        "{HEARTBEAT} {} complete={} {}",
        inner.introduction(peer),
        if complete { "yes" } else { "no" },
        inner.hearing.about().words()
    );
    let mut pipe = inner.links.run(peer, &exec).await?;
    let broken = |error: std::io::Error| LinkError::Closed { peer: peer.clone(), why: error.to_string() };
    pipe.writer.write_all(lines.as_bytes()).await.map_err(broken)?;
    pipe.writer.shutdown().await.map_err(broken)?;
    let mut answer = String::new();
    (&mut pipe.reader).take(ANSWER_MAX).read_to_string(&mut answer).await.map_err(broken)?;
    deliver::check(peer, pipe.finish().await)?;
    let (this, from, words) = (inner.clone(), peer.clone(), answer.clone());
    let met = tokio::task::spawn_blocking(move || this.meet(&from, words.split_whitespace())).await;
    inner.follow_up(peer, met.expect("it does not panic, and is not cancelled"));
    Ok(About::parse(answer.split_whitespace()))
}

impl Inner {
    /// What a peer's words about promotions and disks ask for.
    fn follow_up(&self, peer: &HostName, met: std::io::Result<Option<String>>) {
        match met {
            Ok(Some(digest)) if self.differs(peer, &digest) => self.ask_masters(peer),
            Ok(_) => {}
            Err(error) => tracing::warn!(%peer, %error, "what it tells of its disk cannot be kept"),
        }
    }

    /// A line for each copy on `peer` that lacks something, and whether these are all.
    fn lacking(&self, peer: &HostName) -> (String, bool) {
        let lacking = self.board().lacking(peer, Moment::now());
        let mut lines = String::new();
        for (repo, lack) in lacking.iter().take(LINES_MAX) {
            let lag = lack.lag.map_or_else(|| "-".to_owned(), |lag| lag.as_secs().to_string());
            lines.push_str(&format!("{repo}\t{lag}\t{}\n", lack.changes));
        }
        (lines, lacking.len() <= LINES_MAX)
    }
}

impl Hearing {
    /// A peer's heartbeat has come. Returns the answer, or what is wrong with it.
    fn hear(&self, from: &HostName, words: &[&str], text: &str) -> Result<String, String> {
        if words.first() != Some(&VERSION) {
            let other = words.first().unwrap_or(&"none");
            return Err(format!("this node speaks heartbeat {VERSION}, not '{other}'; upgrade the older node"));
        }
        let line = |line: &str| {
            let mut columns = line.split('\t');
            let repo = RepoName::new(columns.next()?).ok()?;
            let lag = match columns.next()? {
                "-" => None,
                seconds => Some(Duration::from_secs(seconds.parse().ok()?)),
            };
            Some((repo, Lack { lag, changes: columns.next()?.parse().ok()? }))
        };
        let lacking: Option<HashMap<_, _>> = text.lines().take(LINES_MAX).map(line).collect();
        let lacking = lacking.ok_or("a line of this heartbeat is not 'REPO<TAB>SECONDS<TAB>CHANGES'")?;
        let complete = words.contains(&"complete=yes");
        self.heard().beat(from, Beat { lacking, complete }, Instant::now());
        let mut pulses = self.pulses();
        let pulse = pulses.entry(from.clone()).or_default();
        pulse.heard = Some(SystemTime::now());
        pulse.about = Some(About::parse(words.iter().copied()));
        Ok(self.about().words())
    }
}

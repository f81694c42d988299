//! What nodes tell each other of promotions and of their disks, and what follows from hearing it.
//!
//! `gitmesh-masters version=1 disk=DISK known=DISK` runs on a peer: its standard input is a table of promotions
//! ([`crate::cluster::Table`]), its answer one line of the same words and the peer's table. Both sides take over what is
//! better than what they know, durably, before they act upon it. It is asked at the start, and when this process has stood
//! still for a while (before this node takes pushes, see [`Mirror::settled`]), when a link comes up, when heartbeats show that the tables differ, when a mirror push is
//! refused here as that of a past master, and at once after an order.
//!
//! A peer is heard on repositories in which it has a part by the configuration here, and on no others.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::state::Moment;
use super::worker::own_digest;
use super::{Inner, Mirror, MirrorError, deliver, history, propagate_panic};
use crate::cluster::identity::Verdict;
use crate::cluster::{Disk, Promotion, Table};
use crate::git::objects::ObjectsError;
use crate::model::{Epoch, HostName, RepoName};
use crate::peer::LinkError;

/// The exec line's first word.
pub const MASTERS: &str = "gitmesh-masters";
const VERSION: &str = "version=1";
/// Longest table in bytes, some 400,000 promotions.
pub const TABLE_MAX: u64 = 64 << 20;
/// A peer answers in a few milliseconds; one that does not is asked again later.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long pushes wait after a start until all peers have been asked, at most.
const SETTLING: Duration = Duration::from_secs(3);
/// How often the disk's counter rises: a backup that is older than this is recognised when it is restored.
const TICK: Duration = Duration::from_secs(60);
/// How often a table that the disk did not take is written again.
const REWRITE: Duration = Duration::from_secs(2);
/// How often it is noted that this process runs, and what of a pause is too long to be one of a busy machine.
const BEAT: Duration = Duration::from_millis(500);
const STILL: Duration = Duration::from_secs(3);
/// Words about one order in the log; the rest is counted.
const NAMED: usize = 3;

/// What is under way.
pub(super) struct Talk {
    wanted: Mutex<BTreeSet<HostName>>,
    bell: Notify,
    settled: watch::Sender<bool>,
    /// When this process was last seen to run, and how often it has stood still.
    pulse: Mutex<(Instant, u64)>,
    /// The tables' digests after the last exchange with a peer: what it does not take over is not sent again and again.
    done: Mutex<BTreeMap<HostName, (String, String)>>,
    /// Copies that a push has made equal under this epoch. Of a node that was started anew it is not known; then what a
    /// copy has besides is kept aside once more, instead of being held until a person looks.
    equal: Mutex<BTreeMap<(RepoName, HostName), Epoch>>,
}

impl Talk {
    pub(super) fn new() -> Self {
        Self {
            wanted: Mutex::default(),
            bell: Notify::new(),
            settled: watch::Sender::new(false),
            pulse: Mutex::new((Instant::now(), 0)),
            done: Mutex::default(),
            equal: Mutex::default(),
        }
    }

    fn wanted(&self) -> MutexGuard<'_, BTreeSet<HostName>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an order has made this node the master, and the copy has not been equal since.
    pub(super) fn is_new_master(&self, repo: &RepoName, peer: &HostName, epoch: Epoch) -> bool {
        let equal = self.equal.lock().unwrap_or_else(PoisonError::into_inner);
        epoch > Epoch::FIRST && equal.get(&(repo.clone(), peer.clone())) != Some(&epoch)
    }

    pub(super) fn made_equal(&self, repo: &RepoName, peer: &HostName, epoch: Epoch) {
        if epoch > Epoch::FIRST {
            self.equal.lock().unwrap_or_else(PoisonError::into_inner).insert((repo.clone(), peer.clone()), epoch);
        }
    }

    /// Notes that this process runs. If it has stood still (SIGSTOP, a machine that sleeps), others may have decided
    /// meanwhile, and are asked again before anything is taken. Returns how often that was so.
    fn beat(&self) -> u64 {
        let mut pulse = self.pulse.lock().unwrap_or_else(PoisonError::into_inner);
        if pulse.0.elapsed() > STILL {
            pulse.1 += 1;
            self.settled.send_replace(false);
            self.bell.notify_one();
        }
        pulse.0 = Instant::now();
        pulse.1
    }

    fn done(&self) -> MutexGuard<'_, BTreeMap<HostName, (String, String)>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mirror {
    /// Waits until the peers that can be reached have told what they know of promotions, or for a few seconds, after the
    /// start and after this process has stood still: a master that was away learns so that it is one no more, before it
    /// takes a push.
    pub async fn settled(&self) {
        self.inner.talk.beat();
        let mut settled = self.inner.talk.settled.subscribe();
        // The sender lives as long as this handle; in any case nobody waits for longer.
        drop(timeout(SETTLING, settled.wait_for(|settled| *settled)).await);
    }

    /// A peer tells what it knows: the words of its exec line after the first, and its table. Blocks. Returns the answer,
    /// or what is wrong with it.
    pub fn hear_masters(&self, from: &HostName, words: &[&str], table: &str) -> Result<String, String> {
        if words.first() != Some(&VERSION) {
            let other = words.first().unwrap_or(&"none");
            return Err(format!("this node speaks {MASTERS} {VERSION}, not '{other}'; upgrade the older node"));
        }
        self.inner.take_in(from, words.iter().copied(), table).map_err(|error| error.to_string())?;
        let masters = &self.inner.world.masters;
        Ok(format!("{}\n{}", self.inner.introduction(from), masters.table().text()))
    }

    /// Has the peer asked soon what it knows of promotions. Never blocks.
    pub fn ask_masters(&self, peer: &HostName) {
        self.inner.ask_masters(peer);
    }

    /// Tells these peers, all at once, of the promotions that are known here, and hears theirs; each is waited for so
    /// long at most.
    pub async fn spread(
        &self,
        peers: BTreeSet<HostName>,
        patience: Duration,
    ) -> BTreeMap<HostName, Result<(), MirrorError>> {
        self.inner.spread(peers, patience).await
    }

    /// The digest that an equal copy of a repository that is mastered here has. Blocks.
    pub fn digest(&self, repo: &RepoName) -> Result<String, ObjectsError> {
        own_digest(&self.inner, repo)
    }

    /// Orders were written down here: tells of them.
    pub fn ordered(&self, orders: &[(RepoName, Promotion)]) {
        self.inner.tell_of(orders.iter().map(|(repo, order)| (repo, order)));
    }
}

impl Inner {
    pub(super) fn ask_masters(&self, peer: &HostName) {
        self.talk.wanted().insert(peer.clone());
        self.talk.bell.notify_one();
    }

    /// The words in which this node tells a peer of its disk, and of the peer's.
    pub(super) fn introduction(&self, peer: &HostName) -> String {
        let masters = &self.world.masters;
        let known = masters.remembered(peer).map_or_else(String::new, |disk| format!(" known={disk}"));
        let doubt = if masters.doubt().is_some() { " doubt=yes" } else { "" };
        format!("{VERSION} masters={} disk={}{known}{doubt}", masters.table().digest(), masters.disk())
    }

    /// What a peer's words say of its disk and of ours. Returns the digest of its table. Blocks.
    pub(super) fn meet<'a>(&self, from: &HostName, words: impl Iterator<Item = &'a str>) -> io::Result<Option<String>> {
        let (masters, mut digest, mut doubted) = (&self.world.masters, None, false);
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            match (key, Disk::parse(value)) {
                ("masters", _) => digest = Some(value.to_owned()),
                ("doubt", _) => doubted = value == "yes",
                ("disk", Some(disk)) => {
                    let before = masters.suspects(from);
                    let (_, verdict) = masters.meet(from, &disk)?;
                    if verdict != Verdict::Same && before != Some(verdict) {
                        tracing::warn!(peer = %from, ?verdict, "its disk is not the one that is remembered; it is no master before a person says so");
                    }
                }
                ("known", Some(disk)) => {
                    if let Some(why) = masters.confront(from, &disk)? {
                        tell_doubt(&why);
                        self.history().add(None, history::doubted(&why));
                    }
                }
                _ => {}
            }
        }
        masters.note_waiting(from, doubted);
        Ok(digest)
    }

    /// Takes over what a peer has told. Blocks.
    fn take_in<'a>(&self, from: &HostName, words: impl Iterator<Item = &'a str>, table: &str) -> io::Result<()> {
        self.meet(from, words)?;
        let heard = Table::parse(table).map_err(|why| io::Error::other(format!("what {from} tells: {why}")))?;
        let masters = &self.world.masters;
        let known = masters.table();
        let fresh = heard.iter().filter(|(repo, promotion)| known.get(repo) != Some(promotion));
        // A node that has no part in a repository has no say in who masters it.
        let heard: Vec<_> = fresh
            .filter(|(repo, _)| (self.world.partners)(repo).contains(from))
            .map(|(repo, promotion)| (repo.clone(), promotion.clone()))
            .collect();
        let news = masters.adopt(heard)?;
        let known = masters.table();
        self.tell_of(news.iter().filter_map(|repo| Some((repo, known.get(repo)?))));
        Ok(())
    }

    /// One line in the log and one event for each new master, and an entry for each repository.
    pub(super) fn tell_of<'a>(&self, orders: impl Iterator<Item = (&'a RepoName, &'a Promotion)>) {
        let now = Moment::now();
        let mut by_master: BTreeMap<(&HostName, &HostName, &str), Vec<&RepoName>> = BTreeMap::new();
        {
            let mut board = self.board();
            for (repo, Promotion { epoch, master, instead_of, by, .. }) in orders {
                let detail =
                    format!("{master} is master since epoch {epoch}, by {by}; the configuration names {instead_of}");
                board.journal.add(repo, master, "promoted", &detail, now.wall);
                by_master.entry((master, instead_of, by)).or_default().push(repo);
            }
        }
        for ((master, instead_of, by), repos) in by_master {
            let named = repos.iter().take(NAMED).map(|repo| repo.as_str()).collect::<Vec<_>>().join(", ");
            let more = if repos.len() > NAMED { ", …" } else { "" };
            tracing::warn!(%master, %instead_of, by, repos = repos.len(), "{master} was made master of {named}{more}");
            self.history().add(None, history::promoted(master, instead_of, by, &repos));
        }
    }

    pub(super) async fn spread(
        self: &Arc<Self>,
        peers: BTreeSet<HostName>,
        patience: Duration,
    ) -> BTreeMap<HostName, Result<(), MirrorError>> {
        let mut tasks = JoinSet::new();
        for peer in peers {
            let inner = self.clone();
            tasks.spawn(async move {
                let told = timeout(patience, inner.exchange(&peer)).await;
                (peer, told.unwrap_or(Err(MirrorError::Timeout(patience))))
            });
        }
        tasks.join_all().await.into_iter().collect()
    }

    /// Whether something is to be exchanged with a peer whose table has this digest.
    pub(super) fn differs(&self, peer: &HostName, theirs: &str) -> bool {
        let ours = self.world.masters.table().digest();
        ours != theirs && self.talk.done().get(peer) != Some(&(ours, theirs.to_owned()))
    }

    /// Asks all peers, and those that do not answer at once a second time: their links may be old ones.
    async fn settle(self: &Arc<Self>) {
        let mut peers: BTreeSet<HostName> = self.links.peers().borrow().keys().cloned().collect();
        for _ in 0..2 {
            let asked = self.spread(peers, SETTLING).await;
            let failed = asked.into_iter().filter_map(|(peer, told)| Some((peer, told.err()?)));
            let failed = failed
                .inspect(|(peer, error)| tracing::debug!(%peer, %error, "it could not be asked who masters what"));
            peers = failed.map(|(peer, _)| peer).collect();
        }
    }

    async fn exchange(self: &Arc<Self>, peer: &HostName) -> Result<(), MirrorError> {
        let disk = self.world.masters.disk().id;
        self.exchange_once(peer).await?;
        // With a new id: the peer is to know it, and what it was before.
        if self.world.masters.disk().id != disk {
            self.exchange_once(peer).await?;
        }
        Ok(())
    }

    async fn exchange_once(self: &Arc<Self>, peer: &HostName) -> Result<(), MirrorError> {
        let table = self.world.masters.table().text();
        let mut pipe = self.links.run(peer, &format!("{MASTERS} {}", self.introduction(peer))).await?;
        let broken = |error: io::Error| LinkError::Closed { peer: peer.clone(), why: error.to_string() };
        let (reader, writer) = (&mut pipe.reader, &mut pipe.writer);
        let mut answer = String::new();
        let telling = async {
            writer.write_all(table.as_bytes()).await?;
            writer.shutdown().await
        };
        let mut limited = reader.take(TABLE_MAX);
        // A peer that refuses may end before it has read everything: then how it ended says more.
        let (told, heard) = tokio::join!(telling, limited.read_to_string(&mut answer));
        deliver::check(peer, pipe.finish().await)?;
        told.map_err(broken)?;
        heard.map_err(broken)?;
        let (this, from) = (self.clone(), peer.clone());
        let taken = tokio::task::spawn_blocking(move || {
            let (words, table) = answer.split_once('\n').unwrap_or((&answer, ""));
            this.take_in(&from, words.split(' '), table)?;
            let theirs = words.split(' ').find_map(|word| word.strip_prefix("masters=")).unwrap_or_default();
            let ours = this.world.masters.table().digest();
            this.talk.done().insert(from, (ours, theirs.to_owned()));
            io::Result::Ok(())
        });
        let taken = taken.await.expect("taking in does not panic, and is not cancelled");
        taken.map_err(|error| MirrorError::Local(error.to_string()))
    }
}

fn tell_doubt(why: &str) {
    tracing::warn!(%why, "this node is no master of mirrored repositories until a person decides: 'gitmesh mirror promote' on a replica, or 'gitmesh mirror promote --here --all' here");
}

/// Asks all peers at the start, and those whom somebody wants asked, until `stop`; and counts the minutes of this disk.
pub(super) async fn run(inner: Arc<Inner>, stop: CancellationToken) {
    if let Some(why) = inner.world.masters.doubt() {
        tell_doubt(&why);
    }
    let mut settling: JoinSet<u64> = JoinSet::new();
    let mut tasks: JoinSet<HostName> = JoinSet::new();
    let mut busy = BTreeSet::new();
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + TICK, TICK);
    let mut rewrites = tokio::time::interval(REWRITE);
    rewrites.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut beats = tokio::time::interval(BEAT);
    beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        if !*inner.talk.settled.borrow() && settling.is_empty() {
            let inner = inner.clone();
            settling.spawn(async move {
                let still = inner.talk.beat();
                inner.settle().await;
                still
            });
        }
        let wanted = std::mem::take(&mut *inner.talk.wanted());
        for peer in wanted {
            if !busy.insert(peer.clone()) {
                // It may have begun before what it is wanted for.
                inner.talk.wanted().insert(peer);
                continue;
            }
            let inner = inner.clone();
            tasks.spawn(async move {
                match timeout(PATIENCE, inner.exchange(&peer)).await {
                    Ok(Ok(())) => {}
                    // The heartbeats find out that it is still to be done.
                    Ok(Err(error)) => tracing::debug!(%peer, %error, "promotions could not be exchanged"),
                    Err(_) => tracing::debug!(%peer, "promotions could not be exchanged in time"),
                }
                peer
            });
        }
        tokio::select! {
            () = stop.cancelled() => {
                settling.shutdown().await;
                return tasks.shutdown().await;
            }
            Some(ended) = settling.join_next() => match ended {
                Ok(still) if still == inner.talk.beat() => drop(inner.talk.settled.send_replace(true)),
                // It has stood still once more: what was heard before that is old.
                Ok(_) => {}
                Err(_) => propagate_panic(ended.map(drop)),
            },
            _ = beats.tick() => drop(inner.talk.beat()),
            () = inner.talk.bell.notified() => {}
            Some(ended) = tasks.join_next() => match ended {
                Ok(peer) => drop(busy.remove(&peer)),
                Err(_) => propagate_panic(ended),
            },
            _ = rewrites.tick() => {
                let masters = inner.world.masters.clone();
                if tokio::task::spawn_blocking(move || masters.catch_up()).await.is_err() {
                    tracing::error!("writing down who masters what panicked");
                }
            }
            _ = ticks.tick() => {
                let masters = inner.world.masters.clone();
                match tokio::task::spawn_blocking(move || masters.tick()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::warn!(%error, "the counter of this disk cannot be raised"),
                    Err(_) => tracing::error!("raising the counter of this disk panicked"),
                }
            }
        }
    }
}

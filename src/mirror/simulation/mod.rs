//! The queue, the state machine, the planner and what settles an attempt, over many seeds and on a clock of their own.
//!
//! The network drops, delays and reorders, also what was sent before an attempt was given up; links go down, with and
//! without a sign; master and replicas crash at every step, with their memory lost and their disks kept; the wall clock
//! jumps; copies are paused, removed and written to by a stranger; the epoch rises. After each step the invariants are
//! checked, which `invariants` names; a failure names its seed, and `GITMESH_SEED` runs that one aloud. Each invariant is
//! seen to fail on a [`Fault`].

mod invariants;
mod trouble;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::backoff::Backoff;
use super::notice::Kind;
use super::pause::Pauses;
use super::plan::{Order, plan};
use super::queue::{Queue, Work};
use super::send::SendError;
use super::settle::{Attempt, Shown, compared, settle, settle_scan};
use super::state::{Moment, Told};
use super::status::{Assigned, Board, Earlier};
use super::{MirrorError, Report};
use crate::git::ref_state::RefState;
use crate::model::{Epoch, HostName, Oid, RefName, RepoName};
use crate::peer::LinkError;
use crate::repo::{Weight, promise_epoch};

const SEEDS: u64 = 40;
const STEPS: usize = 350;
const WORKERS: usize = 2;
const TIMEOUT_MS: u64 = 60_000;
const VERIFY_MS: u64 = 600_000;
const ALARM: Duration = Duration::from_secs(120);
const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(30) };

/// What is done wrong, to see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// A push lands, and nobody is told to carry it on.
    ForgetsAMark,
    /// A replica says that it has what it has lost.
    LosesWhatItConfirms,
    /// A replica takes the pushes of masters of the past.
    TakesThePast,
    /// The master overwrites what a stranger has written to a copy.
    PushesOverForeign,
    /// What lands during an attempt counts as carried by it.
    SettlesAtItsEnd,
    /// A restart forgets what people were told.
    ForgetsWhatItTold,
}

type Refs = BTreeMap<RefName, Oid>;
type Pair = (RepoName, HostName);

/// What travels. A session is one attempt's number.
#[derive(Debug, Clone)]
enum Wire {
    Open { session: u64 },
    Advertisement { session: u64, refs: Refs, seen: u64 },
    Refused { session: u64, promised: Epoch },
    Commands { session: u64, updates: Vec<crate::model::RefUpdate> },
    Report { session: u64, refused: Vec<RefName> },
    Ask { session: u64 },
    Digests { session: u64, of: BTreeMap<RepoName, String>, seen: u64 },
}

/// An attempt as the master remembers it; the record stays after its end, for what is still on its way.
#[derive(Debug, Clone)]
struct Session {
    peer: HostName,
    repo: Option<RepoName>,
    ours: Refs,
    epoch: Epoch,
    began: Moment,
    deadline: u64,
    order: Order,
    /// When the replica was read.
    seen: u64,
    over: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Net {
    Up,
    Down,
    /// Everything vanishes, and nobody is told.
    Silent,
}

/// A replica's disk.
struct Replica {
    net: Net,
    repos: BTreeMap<RepoName, Refs>,
    /// Sessions whose git is running; a crash ends them.
    open: BTreeSet<u64>,
}

struct Sim {
    seed: u64,
    dice: StdRng,
    dir: tempfile::TempDir,
    base: Instant,
    ms: u64,
    jump: i64,
    // The master's disk.
    repos: BTreeMap<RepoName, Refs>,
    history: BTreeSet<Oid>,
    acknowledged: BTreeMap<(RepoName, RefName), Option<Oid>>,
    /// What people were told, from the notices: since when a peer is away, and the last of each copy.
    told: BTreeMap<HostName, Option<SystemTime>>,
    told_pairs: BTreeMap<Pair, Kind>,
    epoch: Epoch,
    epochs: u32,
    pauses: Pauses,
    // The master's memory.
    queues: BTreeMap<HostName, Queue<Order>>,
    board: Board,
    verify_at: u64,
    sessions: BTreeMap<u64, Session>,
    next: u64,
    // The world.
    replicas: BTreeMap<HostName, Replica>,
    wires: Vec<(u64, HostName, Wire)>,
    /// Copies that something reached which the master had given up, or that a stranger changed, since they were last
    /// compared: of those the master cannot know.
    behind_our_back: BTreeMap<Pair, u64>,
    /// What an attempt of which the master knows the end has brought, as the replica said.
    confirmed: BTreeMap<Pair, Refs>,
    /// When something last happened to a copy of which the master cannot know.
    spoilt: BTreeMap<Pair, u64>,
    /// The highest epoch of a session that each copy has let in.
    opened: BTreeMap<Pair, Epoch>,
    foreign: BTreeSet<Oid>,
    calm: bool,
    loud: bool,
    fault: Option<Fault>,
}

fn repo(n: usize) -> RepoName {
    RepoName::new(&format!("r{n}")).expect("a name")
}

fn kept() -> RefName {
    RefName::parse("refs/heads/kept").expect("a name")
}

impl Sim {
    fn new(seed: u64, fault: Option<Fault>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let pauses = Pauses::open(dir.path()).expect("no pauses");
        let peers = ["server2", "server3"].map(|name| HostName::new(name).expect("a name"));
        let replica = || Replica { net: Net::Up, repos: BTreeMap::new(), open: BTreeSet::new() };
        let mut sim = Self {
            seed,
            dice: StdRng::seed_from_u64(seed),
            dir,
            base: Instant::now(),
            ms: 0,
            jump: 0,
            repos: (0..4).map(|n| (repo(n), Refs::new())).collect(),
            history: BTreeSet::new(),
            acknowledged: BTreeMap::new(),
            told: BTreeMap::new(),
            told_pairs: BTreeMap::new(),
            epoch: Epoch::FIRST,
            epochs: 1,
            pauses,
            queues: BTreeMap::new(),
            board: Board::new(ALARM),
            verify_at: 0,
            sessions: BTreeMap::new(),
            next: 0,
            replicas: peers.into_iter().map(|peer| (peer, replica())).collect(),
            wires: Vec::new(),
            behind_our_back: BTreeMap::new(),
            confirmed: BTreeMap::new(),
            spoilt: BTreeMap::new(),
            opened: BTreeMap::new(),
            foreign: BTreeSet::new(),
            calm: false,
            loud: false,
            fault,
        };
        let oid = sim.fresh();
        for (name, refs) in &mut sim.repos {
            refs.insert(kept(), oid.clone());
            sim.acknowledged.insert((name.clone(), kept()), Some(oid.clone()));
        }
        sim.history.insert(oid);
        sim.start();
        sim
    }

    fn now(&self) -> Moment {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000) + Duration::from_millis(self.ms);
        let jumped = Duration::from_secs(self.jump.unsigned_abs());
        let wall = if self.jump < 0 { wall - jumped } else { wall + jumped };
        Moment { mono: self.base + Duration::from_millis(self.ms), wall }
    }

    fn fresh(&mut self) -> Oid {
        self.next += 1;
        Oid::parse(&format!("{:040x}", self.next)).expect("40 digits")
    }

    fn one<T: Clone>(&mut self, of: impl IntoIterator<Item = T>) -> T {
        let all: Vec<T> = of.into_iter().collect();
        all[self.dice.random_range(0..all.len())].clone()
    }

    fn peers(&self) -> Vec<HostName> {
        self.replicas.keys().cloned().collect()
    }

    fn any_repo(&mut self) -> RepoName {
        self.one((0..4).map(repo))
    }

    /// The daemon starts, with what is on its disk.
    fn start(&mut self) {
        self.pauses = Pauses::open(self.dir.path()).expect("written whole");
        self.board = Board::new(ALARM);
        if self.fault != Some(Fault::ForgetsWhatItTold) {
            self.board.restore(self.written_down(), self.now());
        }
        self.queues = self.peers().into_iter().map(|peer| (peer, Queue::new(BACKOFF))).collect();
        self.look_around();
    }

    /// What the files tell of the notices of earlier runs.
    fn written_down(&self) -> Earlier {
        let down = self.told.iter().filter_map(|(peer, since)| Some((peer.clone(), ((*since)?, String::new()))));
        let copies = self.told_pairs.iter().filter_map(|((repo, peer), kind)| {
            let told = match kind {
                Kind::Late => Told::Late,
                Kind::Diverged => Told::Diverged,
                Kind::Held => Told::Held,
                _ => return None,
            };
            Some((repo.clone(), peer.clone(), told, self.now().wall))
        });
        Earlier { down: down.collect(), copies: copies.collect(), ..Earlier::default() }
    }

    fn look_around(&mut self) {
        let repos: Vec<RepoName> = self.repos.keys().cloned().collect();
        let assigned = self.peers().into_iter().map(|peer| (peer, repos.clone())).collect();
        let assigned = Assigned { repos: assigned, ..Assigned::default() };
        self.board.keep_only(&assigned, &self.pauses, self.now());
        for queue in self.queues.values_mut() {
            queue.want_scan();
            queue.hurry();
        }
        self.verify_at = self.ms + VERIFY_MS;
    }

    fn crash(&mut self) {
        self.sessions.values_mut().for_each(|session| session.over = true);
        self.start();
    }

    fn send(&mut self, peer: &HostName, wire: Wire) {
        let replica = &self.replicas[peer];
        // What was sent before a link went down may still arrive; what is sent after does not.
        if replica.net == Net::Up {
            // Some things are stuck somewhere for so long that others have begun anew.
            let longest = if self.dice.random_bool(0.05) { TIMEOUT_MS } else { 8_000 };
            let delay = if self.calm { 5 } else { self.dice.random_range(1..longest) };
            self.wires.push((self.ms + delay, peer.clone(), wire));
        }
    }

    /// Begins what is due.
    fn work(&mut self) {
        for peer in self.peers() {
            loop {
                let now = self.now();
                let Some(work) = self.queues.get_mut(&peer).expect("ours").take(now.mono, WORKERS) else { break };
                let (repo, order) = match work {
                    Work::Push(repo, waiters) => (Some(repo), waiters.into_iter().max().unwrap_or_default()),
                    Work::Scan => (None, Order::Usual),
                };
                self.next += 1;
                let (number, ours) = (self.next, repo.as_ref().map(|r| self.repos[r].clone()).unwrap_or_default());
                let (epoch, deadline) = (self.epoch, self.ms + TIMEOUT_MS);
                let peer = peer.clone();
                let paused = repo.as_ref().and_then(|r| self.pauses.of(r, &peer).cloned());
                let wire = if repo.is_some() { Wire::Open { session: number } } else { Wire::Ask { session: number } };
                let session = Session {
                    peer: peer.clone(),
                    repo,
                    ours,
                    epoch,
                    began: now,
                    deadline,
                    order,
                    seen: 0,
                    over: false,
                };
                self.sessions.insert(number, session);
                if let Some(pause) = paused {
                    self.end(number, Err(MirrorError::Paused(Box::new(pause))));
                } else if self.replicas[&peer].net == Net::Down {
                    let why = "refused".to_owned();
                    self.end(number, Err(LinkError::Closed { peer, why }.into()));
                } else {
                    self.send(&peer, wire);
                }
            }
        }
    }

    /// An attempt ends at the master's side; what it has sent may still be on its way.
    fn end(&mut self, number: u64, result: Result<Report, MirrorError>) {
        let (now, dice) = (self.now(), self.dice.random());
        let session = self.sessions.get_mut(&number).expect("begun");
        if std::mem::replace(&mut session.over, true) {
            return;
        }
        let Session { peer, repo, mut began, seen, ours, .. } = session.clone();
        if self.fault == Some(Fault::SettlesAtItsEnd) {
            began = now;
        }
        if self.loud {
            println!("{} {peer} session {number} of {repo:?} ends: {result:?}", self.ms);
        }
        let queue = self.queues.get_mut(&peer).expect("ours");
        match repo {
            Some(repo) => {
                let ok = result.is_ok();
                let attempt = Attempt { repo: &repo, peer: &peer, began, manual: false, result: &result };
                settle(queue, &mut self.board, &attempt, now, dice);
                if ok {
                    let pair = (repo, peer);
                    self.not_behind_our_back(pair.clone(), seen);
                    if self.spoilt.get(&pair).is_none_or(|at| *at < seen) {
                        self.confirmed.insert(pair, ours);
                    }
                }
            }
            None => settle_scan(queue, &mut self.board, &peer, result.map(drop), now, dice),
        }
    }

    fn deliver(&mut self) {
        let mut due: Vec<_> = Vec::new();
        let ms = self.ms;
        self.wires.retain(|wire| {
            let now = wire.0 <= ms;
            if now {
                due.push(wire.clone());
            }
            !now
        });
        due.sort_by_key(|(at, ..)| *at);
        for (_, peer, wire) in due {
            if self.loud {
                println!("{ms} {peer} {wire:?}");
            }
            self.arrive(&peer, wire);
        }
    }

    fn epoch_dir(&self, peer: &HostName, repo: &RepoName) -> std::path::PathBuf {
        let dir = self.dir.path().join(format!("{peer}-{repo}"));
        std::fs::create_dir_all(&dir).expect("a directory");
        dir
    }

    /// What the replica's disk says to a session of this epoch.
    fn promise(&self, (repo, peer): (&RepoName, &HostName), epoch: Epoch) -> Result<(), Epoch> {
        match self.fault {
            Some(Fault::TakesThePast) => Ok(()),
            _ => promise_epoch(&self.epoch_dir(peer, repo), epoch).expect("a file"),
        }
    }

    /// Something happens to a copy of which the master cannot know.
    fn is_behind_our_back(&mut self, repo: RepoName, peer: HostName) {
        self.confirmed.remove(&(repo.clone(), peer.clone()));
        self.spoilt.insert((repo.clone(), peer.clone()), self.ms);
        self.behind_our_back.insert((repo, peer), self.ms);
    }

    fn arrive(&mut self, peer: &HostName, wire: Wire) {
        match wire {
            Wire::Open { session } => {
                let known = self.sessions[&session].clone();
                let repo = known.repo.expect("a push");
                match self.promise((&repo, peer), known.epoch) {
                    Err(promised) => self.send(peer, Wire::Refused { session, promised }),
                    Ok(()) => {
                        let highest = self.opened.entry((repo.clone(), peer.clone())).or_insert(known.epoch);
                        *highest = known.epoch.max(*highest);
                        let replica = self.replicas.get_mut(peer).expect("ours");
                        replica.open.insert(session);
                        let refs = replica.repos.entry(repo).or_default().clone();
                        let seen = self.ms;
                        self.send(peer, Wire::Advertisement { session, refs, seen });
                    }
                }
            }
            Wire::Commands { session, updates } => self.receive(peer, session, updates),
            Wire::Ask { session } => {
                let digest = |refs: &Refs| RefState { refs: refs.clone(), ..RefState::default() }.digest();
                let of = self.replicas[peer].repos.iter().map(|(name, refs)| (name.clone(), digest(refs))).collect();
                let seen = self.ms;
                self.send(peer, Wire::Digests { session, of, seen });
            }
            Wire::Advertisement { session, refs, seen } => {
                self.sessions.get_mut(&session).expect("begun").seen = seen;
                self.answer(session, refs);
            }
            Wire::Refused { session, promised } => {
                let said = format!("epoch {promised} has been promised");
                self.end(session, Err(MirrorError::Remote { peer: peer.clone(), exit: 1, said }));
            }
            Wire::Report { session, refused } if refused.is_empty() => {
                let report = Report {
                    refs: 1,
                    pack_bytes: 1,
                    elapsed: Duration::from_millis(1),
                    gone: false,
                    fresh: false,
                    beside: false,
                };
                self.end(session, Ok(report));
            }
            Wire::Report { session, refused } => {
                let refused = refused.into_iter().map(|name| (name, "incorrect old value".to_owned())).collect();
                self.end(session, Err(MirrorError::Send(Arc::new(SendError::Refs(refused)))));
            }
            Wire::Digests { session, of, seen } => self.compare(session, &of, seen),
        }
    }

    /// The master reads what the replica has.
    fn answer(&mut self, number: u64, theirs: Refs) {
        let session = self.sessions[&number].clone();
        if session.over {
            return;
        }
        let ours = RefState { refs: session.ours.clone(), ..RefState::default() };
        let plan = plan(&ours, &theirs);
        let known = plan.replaced().filter(|oid| self.history.contains(*oid)).cloned().collect();
        if let Some(obstacle) = plan.obstacle(&known, 50, session.order)
            && self.fault != Some(Fault::PushesOverForeign)
        {
            return self.end(number, Err(MirrorError::Send(Arc::new(SendError::Held(obstacle)))));
        }
        let (updates, _) = plan.step();
        self.send(&session.peer, Wire::Commands { session: number, updates });
    }

    /// The replica's git: each reference moves from the value that was seen, or not at all.
    fn receive(&mut self, peer: &HostName, number: u64, updates: Vec<crate::model::RefUpdate>) {
        let session = self.sessions[&number].clone();
        let repo = session.repo.expect("a push");
        if !self.replicas.get_mut(peer).expect("ours").open.remove(&number) {
            return; // it has crashed meanwhile
        }
        // Asked again when git has everything: a newer master may have come in between.
        if let Err(promised) = self.promise((&repo, peer), session.epoch) {
            return self.send(peer, Wire::Refused { session: number, promised });
        }
        self.no_lower_epoch_is_accepted((&repo, peer), session.epoch);
        self.nothing_foreign_is_overwritten((&repo, peer), session.order, &updates);
        let loses = self.fault == Some(Fault::LosesWhatItConfirms) && self.dice.random_bool(0.1);
        let refs = self.replicas.get_mut(peer).expect("ours").repos.entry(repo.clone()).or_default();
        let mut refused = Vec::new();
        for update in updates.into_iter().filter(|_| !loses) {
            let here = refs.get(&update.name).cloned().unwrap_or_else(|| update.old.to_zero());
            if here != update.old {
                refused.push(update.name);
            } else if update.new.is_zero() {
                refs.remove(&update.name);
            } else {
                refs.insert(update.name, update.new);
            }
        }
        if session.over {
            self.is_behind_our_back(repo, peer.clone());
        }
        self.send(peer, Wire::Report { session: number, refused });
    }

    fn compare(&mut self, number: u64, theirs: &BTreeMap<RepoName, String>, seen: u64) {
        let Session { peer, began, over, .. } = self.sessions[&number].clone();
        if over {
            return;
        }
        let now = self.now();
        self.board.link_works(&peer, now);
        for (repo, refs) in self.repos.clone() {
            let ours = RefState { refs, ..RefState::default() }.digest();
            let shown = match theirs.get(&repo) {
                None => Shown::Missing(Weight::default()),
                Some(there) if *there == ours => Shown::Equal,
                Some(_) => Shown::Differs,
            };
            let paused = self.pauses.of(&repo, &peer).is_some();
            let queue = self.queues.get_mut(&peer).expect("ours");
            compared(queue, &mut self.board, (&repo, &peer), shown, !paused, began, now);
            self.not_behind_our_back((repo, peer.clone()), seen);
        }
        let report =
            Report { refs: 0, pack_bytes: 0, elapsed: Duration::ZERO, gone: false, fresh: false, beside: false };
        self.end(number, Ok(report));
    }

    /// The replica was read after it.
    fn not_behind_our_back(&mut self, pair: Pair, seen: u64) {
        if self.behind_our_back.get(&pair).is_some_and(|at| *at < seen) {
            self.behind_our_back.remove(&pair);
        }
    }

    fn step(&mut self) {
        self.ms += if self.calm { 100 } else { self.dice.random_range(0..4_000) };
        self.deliver();
        let late: Vec<u64> =
            self.sessions.iter().filter(|(_, s)| !s.over && s.deadline <= self.ms).map(|(n, _)| *n).collect();
        for number in late {
            self.end(number, Err(MirrorError::Timeout(Duration::from_millis(TIMEOUT_MS))));
        }
        if !self.calm {
            self.disturb();
        }
        if self.ms >= self.verify_at {
            self.look_around();
        }
        self.work();
        let notices = self.board.tick(self.now());
        for notice in notices {
            self.a_change_is_told_once(&notice);
        }
        self.what_was_confirmed_is_there();
        self.no_value_comes_from_nowhere();
        self.no_work_is_forgotten();
        self.the_queue_is_bounded();
        self.a_copy_in_step_is_equal();
    }
}

/// All of them, or the one that `GITMESH_SEED` names, to look into a failure.
fn seeds() -> std::ops::Range<u64> {
    match std::env::var("GITMESH_SEED").map(|seed| seed.parse::<u64>()) {
        Ok(Ok(seed)) => seed..seed + 1,
        _ => 0..SEEDS,
    }
}

/// Plays one seed to its end; true if strangers were seen.
fn play(seed: u64, fault: Option<Fault>) -> bool {
    let (mut sim, mut diverged) = (Sim::new(seed, fault), false);
    sim.loud = std::env::var_os("GITMESH_SEED").is_some();
    for _ in 0..STEPS {
        sim.step();
        diverged |= sim.told_pairs.values().any(|kind| *kind == Kind::Diverged);
    }
    sim.the_replicas_converge();
    diverged
}

#[test]
fn whatever_happens_the_copies_become_equal_and_nothing_is_lost() {
    let diverged = seeds().filter(|seed| play(*seed, None)).count();
    assert!(diverged > 0, "the strangers were seen");
}

#[test]
fn a_node_that_breaks_a_rule_is_found() {
    for (fault, found) in [
        (Fault::ForgetsAMark, "is forgotten"),
        (Fault::LosesWhatItConfirms, "was confirmed"),
        (Fault::TakesThePast, "a lower epoch"),
        (Fault::PushesOverForeign, "a stranger's"),
        (Fault::SettlesAtItsEnd, "is shown in step"),
        (Fault::ForgetsWhatItTold, " again"),
    ] {
        let said = |panic: Box<dyn std::any::Any + Send>| {
            panic.downcast::<String>().map_or_else(|_| String::new(), |text| *text)
        };
        let mut broken = (0..SEEDS).filter_map(|seed| std::panic::catch_unwind(|| play(seed, Some(fault))).err());
        assert!(broken.any(|what| said(what).contains(found)), "{fault:?} is not found");
    }
}

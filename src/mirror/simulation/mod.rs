//! The queue, the state machine, the planner and what settles an attempt, over many seeds and on a clock of their own.
//!
//! The network drops, delays and reorders, also what was sent before an attempt was given up; links go down, with and
//! without a sign; master and replicas crash at every step, with their memory lost and their disks kept; the wall clock
//! jumps; copies are paused, removed and written to by a stranger; the epoch rises. After each step the invariants are
//! checked, which `invariants` names; a failure names its seed, and `GITMESH_SEED` runs that one aloud.

mod invariants;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::backoff::Backoff;
use super::notice::Kind;
use super::pause::{Pause, Pauses, Scope};
use super::plan::{Order, plan};
use super::queue::{Queue, Work};
use super::send::SendError;
use super::settle::{Attempt, Shown, compared, settle, settle_scan};
use super::state::{Input, Moment};
use super::status::{Assigned, Board};
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
    epoch: Epoch,
    epochs: u32,
    pauses: Pauses,
    // The master's memory.
    queues: BTreeMap<HostName, Queue<Order>>,
    board: Board,
    told: BTreeMap<HostName, bool>,
    told_pairs: BTreeMap<Pair, Kind>,
    verify_at: u64,
    sessions: BTreeMap<u64, Session>,
    next: u64,
    // The world.
    replicas: BTreeMap<HostName, Replica>,
    wires: Vec<(u64, HostName, Wire)>,
    /// Copies that something reached which the master had given up, or that a stranger changed, since they were last
    /// compared: of those the master cannot know.
    behind_our_back: BTreeMap<Pair, u64>,
    /// The highest epoch of a session that each copy has let in.
    opened: BTreeMap<Pair, Epoch>,
    foreign: BTreeSet<Oid>,
    calm: bool,
    loud: bool,
}

fn repo(n: usize) -> RepoName {
    RepoName::new(&format!("r{n}")).expect("a name")
}

fn kept() -> RefName {
    RefName::parse("refs/heads/kept").expect("a name")
}

impl Sim {
    fn new(seed: u64) -> Self {
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
            epoch: Epoch::FIRST,
            epochs: 1,
            pauses,
            queues: BTreeMap::new(),
            board: Board::new(ALARM),
            told: BTreeMap::new(),
            told_pairs: BTreeMap::new(),
            verify_at: 0,
            sessions: BTreeMap::new(),
            next: 0,
            replicas: peers.into_iter().map(|peer| (peer, replica())).collect(),
            wires: Vec::new(),
            behind_our_back: BTreeMap::new(),
            opened: BTreeMap::new(),
            foreign: BTreeSet::new(),
            calm: false,
            loud: false,
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
        (self.board, self.told) = (Board::new(ALARM), BTreeMap::new());
        self.told_pairs.clear();
        self.queues = self.peers().into_iter().map(|peer| (peer, Queue::new(BACKOFF))).collect();
        self.look_around();
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

    /// A push lands and is acknowledged; then its mark is made, unless the power goes.
    fn land(&mut self) {
        let name = self.any_repo();
        let oid = self.fresh();
        self.history.insert(oid.clone());
        let target = self.one(["kept", "a", "b"].map(|n| RefName::parse(&format!("refs/heads/{n}")).expect("a name")));
        let delete = target != kept() && self.dice.random_bool(0.3);
        let refs = self.repos.get_mut(&name).expect("ours");
        if delete {
            refs.remove(&target);
        } else {
            refs.insert(target.clone(), oid.clone());
        }
        self.acknowledged.insert((name.clone(), target), (!delete).then_some(oid));
        if !self.calm && self.dice.random_bool(0.05) {
            return self.crash();
        }
        for peer in self.peers() {
            self.board.apply(&name, &peer, Input::Marked, self.now());
            if self.pauses.of(&name, &peer).is_none() {
                self.queues.get_mut(&peer).expect("ours").mark(&name);
            }
        }
    }

    fn send(&mut self, peer: &HostName, wire: Wire) {
        let replica = &self.replicas[peer];
        // What was sent before a link went down may still arrive; what is sent after does not.
        if replica.net == Net::Up {
            let delay = if self.calm { 5 } else { self.dice.random_range(1..8_000) };
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
        let Session { peer, repo, began, seen, .. } = session.clone();
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
                    self.not_behind_our_back((repo, peer), seen);
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

    fn arrive(&mut self, peer: &HostName, wire: Wire) {
        match wire {
            Wire::Open { session } => {
                let known = self.sessions[&session].clone();
                let repo = known.repo.expect("a push");
                let promised = promise_epoch(&self.epoch_dir(peer, &repo), known.epoch).expect("a file");
                match promised {
                    Err(promised) => self.send(peer, Wire::Refused { session, promised }),
                    Ok(()) => {
                        self.opened.insert((repo.clone(), peer.clone()), known.epoch);
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
                let report =
                    Report { refs: 1, pack_bytes: 1, elapsed: Duration::from_millis(1), gone: false, fresh: false };
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
        if let Some(obstacle) = plan.obstacle(&known, 50, session.order) {
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
        let dir = self.epoch_dir(peer, &repo);
        // Asked again when git has everything: a newer master may have come in between.
        if let Err(promised) = promise_epoch(&dir, session.epoch).expect("a file") {
            return self.send(peer, Wire::Refused { session: number, promised });
        }
        self.no_lower_epoch_is_accepted((&repo, peer), session.epoch);
        let refs = self.replicas.get_mut(peer).expect("ours").repos.entry(repo.clone()).or_default();
        let mut refused = Vec::new();
        for update in updates {
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
            self.behind_our_back.insert((repo, peer.clone()), self.ms);
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
        let report = Report { refs: 0, pack_bytes: 0, elapsed: Duration::ZERO, gone: false, fresh: false };
        self.end(number, Ok(report));
    }

    /// The replica was read after it.
    fn not_behind_our_back(&mut self, pair: Pair, seen: u64) {
        if self.behind_our_back.get(&pair).is_some_and(|at| *at < seen) {
            self.behind_our_back.remove(&pair);
        }
    }

    fn fail_sessions(&mut self, peer: &HostName) {
        let all: Vec<u64> = self.sessions.iter().filter(|(_, s)| s.peer == *peer && !s.over).map(|(n, _)| *n).collect();
        for number in all {
            let why = "cut".to_owned();
            self.end(number, Err(LinkError::Closed { peer: peer.clone(), why }.into()));
        }
    }

    fn heal(&mut self, peer: &HostName) {
        let now = self.now();
        self.replicas.get_mut(peer).expect("ours").net = Net::Up;
        self.board.link_works(peer, now);
        let queue = self.queues.get_mut(peer).expect("ours");
        queue.want_scan_of_new_link();
        queue.hurry();
    }

    /// Something happens, or nothing.
    fn disturb(&mut self) {
        let peer = self.one(self.peers());
        match self.dice.random_range(0..100) {
            0..40 => self.land(),
            40..45 => self.crash(),
            45..48 => {
                // The replica crashes: what its git had in hand is lost, what it has said is not.
                self.replicas.get_mut(&peer).expect("ours").open.clear();
                self.fail_sessions(&peer);
            }
            48..54 => {
                let lose = self.dice.random_bool(0.5);
                self.wires.retain(|(_, to, _)| !lose || *to != peer);
                self.replicas.get_mut(&peer).expect("ours").net = Net::Down;
                self.fail_sessions(&peer);
            }
            54..57 => self.replicas.get_mut(&peer).expect("ours").net = Net::Silent,
            57..66 => self.heal(&peer),
            66..70 => self.jump = self.dice.random_range(-1_000_000..1_000_000),
            70..73 => {
                let scope = Scope::Copy(self.any_repo(), peer.clone());
                let pause = Pause { scope, by: "alice".into(), reason: String::new(), since: self.now().wall };
                self.pauses.add(pause.clone()).expect("a file");
                self.board.obey(&self.pauses, self.now());
                self.queues.get_mut(&peer).expect("ours").give_up(|repo| pause.scope.covers(repo, &peer));
            }
            73..77 => self.resume(&peer),
            77..79 => {
                let name = self.any_repo();
                self.replicas.get_mut(&peer).expect("ours").repos.remove(&name);
                self.behind_our_back.insert((name, peer), self.ms);
            }
            79..81 => {
                let (name, oid) = (self.any_repo(), self.fresh());
                self.foreign.insert(oid.clone());
                self.behind_our_back.insert((name.clone(), peer.clone()), self.ms);
                self.replicas.get_mut(&peer).expect("ours").repos.entry(name).or_default().insert(kept(), oid);
            }
            81..83 => {
                self.epochs += 1;
                self.epoch = Epoch::parse(&self.epochs.to_string()).expect("positive");
            }
            _ => {}
        }
    }

    fn resume(&mut self, peer: &HostName) {
        let over = self.pauses.remove(&Scope::Peer(peer.clone())).expect("a file");
        self.board.obey(&self.pauses, self.now());
        for pause in over {
            if let Scope::Copy(repo, peer) = &pause.scope {
                self.queues.get_mut(peer).expect("ours").hasten(repo);
            }
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
        self.no_acknowledged_update_is_lost();
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

#[test]
fn whatever_happens_the_copies_become_equal_and_nothing_is_lost() {
    let mut diverged = 0;
    for seed in seeds() {
        let mut sim = Sim::new(seed);
        sim.loud = std::env::var_os("GITMESH_SEED").is_some();
        for _ in 0..STEPS {
            sim.step();
            diverged += usize::from(sim.told_pairs.values().any(|kind| *kind == Kind::Diverged));
        }
        sim.the_replicas_converge();
    }
    assert!(diverged > 0, "the strangers were seen");
}

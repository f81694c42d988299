//! Keep every copy equal to its master.
//!
//! Level-triggered: the queue holds hints that a (repository, replica) pair may be behind, never the truth, which is
//! the difference between both sides' refs. First copy, push, retry, recovery after a crash, the periodic comparison
//! and an order by hand are one path: `queue` says what is due, `worker` reads both sides, `plan` (pure) says what to
//! push, `send` pushes it over the pooled link, `bandwidth` slows it, `patience` ends it; `ours` is what is here, and what a large
//! replica is believed to have, `beside` what else was brought to it. `first` orders and counts first
//! copies. `state` (pure) is how one copy is doing, `status` all of them for people, `notice` what they are told,
//! `heartbeat` what the nodes tell each other and `heard` what a replica makes of it, `masters` who was promoted, `carry` what a former master
//! alone had, `pause` what they have stopped,
//! `wait` their waiting, `journal` what happened, `left_over` what is placed here no more, `trash` what copies of deleted and renamed repositories are told.
//!
//! Promises: [`Mirror::mark`] never blocks and no push waits for a timer while its peer is well; nothing is lost by
//! a restart, because all copies are compared when we start, when a link comes up and every so often, and after a change
//! of the configuration those that it touches; one slow or dead peer delays no other. Never: decides who is master, or writes a repository here.

mod backoff;
mod bandwidth;
mod beside;
mod carry;
mod config;
mod damage;
mod deliver;
mod first;
mod foreign;
mod heard;
mod heartbeat;
mod history;
mod journal;
mod left_over;
mod masters;
mod notice;
mod notify;
mod orders;
mod ours;
mod pack;
mod patience;
mod pause;
mod plan;
mod pushed;
mod queue;
mod report;
mod send;
mod settle;
mod state;
mod status;
mod tell;
mod trash;
mod verify;
mod wait;
mod worker;
mod world;

#[cfg(test)]
mod order_tests;
#[cfg(test)]
mod send_tests;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod status_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, Place};
use crate::git::process::Git;
use crate::model::{HostName, Oid, RefName, RefUpdate, RepoName};
use crate::peer::{LinkError, Links};
use crate::repo::Store;
use history::History;
use notify::{Outbox, Way};
use pause::Pauses;
use queue::Queue;
use state::{Input, Moment};
use status::{Assigned, Board};
use wait::Waits;
use worker::Lane;
use world::World;

pub use carry::{HAVE_IT, LOST};
pub use config::{Config, NotifyConfig};
pub use deliver::{LOCKS, PAPERS};
pub use first::FirstCopy;
pub use foreign::{Credentials, NotUsable, RemoteError};
pub use heard::Freshness;
pub use heartbeat::{About, HEARTBEAT, MESSAGE_MAX, Pulse};
pub use history::{Event, Events};
pub use journal::Entry;
pub use masters::{MASTERS, TABLE_MAX};
pub use notice::{Kind, Notice};
pub use notify::Webhook;
pub use pause::{Pause, Scope};
pub use plan::{Obstacle, Order};
pub use report::Report;
pub use send::SendError;
pub use state::{Hold, State};
pub use status::{LinkState, PairStatus, PeerStatus};
pub use trash::{MOVE, TRASH};
pub use verify::{Checked, Verdict};
pub use wait::{Arrival, Waited, Want, Where};

/// Why a copy was not made equal.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MirrorError {
    #[error("{0} is not mastered here")]
    NotMaster(RepoName),
    #[error("{repo} has no copy on {peer}; its configuration names no such mirror")]
    NotReplica { repo: RepoName, peer: HostName },
    #[error("{0} does not exist here yet")]
    NoRepository(RepoName),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("{0}")]
    Send(Arc<SendError>),
    #[error("{target}: {error}")]
    Foreign { target: HostName, error: Arc<RemoteError> },
    #[error("{peer} ended with status {exit}: {said}")]
    Remote { peer: HostName, exit: u32, said: String },
    #[error("{peer} answered {line:?} where a digest was expected")]
    Answer { peer: HostName, line: String },
    #[error("the references here cannot be read: {0}")]
    Local(String),
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    #[error("pushes to {scope} are paused by {by}; 'gitmesh mirror resume' lets them go on", scope = .0.scope, by = .0.by)]
    Paused(Box<Pause>),
    #[error("'{name}' does not exist in {repo}")]
    NoRef { repo: RepoName, name: RefName },
    #[error("'{name}' is at {here} here, not at {at}")]
    RefMoved { name: RefName, here: Oid, at: Oid },
    #[error("too many wait for this copy already")]
    Busy,
    #[error("this node is stopping")]
    Stopping,
}

impl MirrorError {
    /// What waits for a person.
    pub fn obstacle(&self) -> Option<&Obstacle> {
        match self {
            Self::Send(error) => match &**error {
                SendError::Held(obstacle) => Some(obstacle),
                _ => None,
            },
            _ => None,
        }
    }

    /// The references that the replica refused, when it has taken everything else.
    fn refused(&self) -> Option<Vec<RefName>> {
        match self {
            Self::Send(error) => match &**error {
                SendError::Refs(refused) => Some(refused.iter().map(|(name, _)| name.clone()).collect()),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Somebody who waits for an attempt, and how far it may go for them.
struct Answer {
    order: Order,
    reply: oneshot::Sender<Result<Report, MirrorError>>,
}

/// What is compared after a look at which repositories are mastered here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    All,
    /// Copies that were not known before: a new configuration makes no other copy differ but those that
    /// [`Mirror::mark_all`] is told of.
    Fresh,
}

/// More copies than this are compared by one question to their peer, instead of by a push each.
const MARKED_SINGLY: usize = 32;

/// The handle on mirroring. Cheap to clone.
#[derive(Clone)]
pub struct Mirror {
    inner: Arc<Inner>,
    cluster: Cluster,
}

struct Inner {
    config: RwLock<Config>,
    notify: RwLock<NotifyConfig>,
    outboxes: [Outbox; 2],
    world: World,
    git: Git,
    links: Links,
    lanes: Mutex<BTreeMap<HostName, Arc<Lane>>>,
    lane_added: Notify,
    board: Mutex<Board>,
    pauses: Mutex<Pauses>,
    waits: Waits,
    journal_files: journal::Files,
    history: Mutex<History>,
    history_files: journal::Files,
    assigned: Mutex<Arc<Assigned>>,
    hearing: heartbeat::Hearing,
    talk: masters::Talk,
    cargo: carry::Cargo,
    lately: trash::Lately,
    /// Where the keys and tokens of servers outside the mesh are.
    targets: PathBuf,
    beliefs: ours::Beliefs,
    pushes: pushed::Pushed,
    brought: beside::Brought,
    damage_news: OnceLock<damage::News>,
    left_over: OnceLock<left_over::Source>,
}

impl Mirror {
    /// `state` is the directory for the log of what happened; beside it are `orders`, for what nothing may make this node
    /// forget, and `targets`.
    pub fn new(
        config: Config,
        cluster: Cluster,
        store: Store,
        git: Git,
        links: Links,
        state: &Path,
    ) -> std::io::Result<Self> {
        let world = World::new(&cluster, &store);
        Ok(Self { inner: Arc::new(Inner::new(config, world, git, links, state)?), cluster })
    }

    /// A push landed whole, and `pack` in the repository's store is what it brought. Never blocks.
    pub fn pushed(&self, repo: &RepoName, updates: Vec<RefUpdate>, pack: PathBuf) {
        self.inner.pushes.keep(repo, updates, pack);
    }

    /// A push landed, so all copies may be behind. Never blocks; a thousand calls are as good as one.
    pub fn mark(&self, repo: &RepoName) {
        self.inner.mark(repo);
    }

    /// Settings of these repositories were written, so all their copies may be behind. Never blocks.
    pub fn mark_all(&self, repos: &[RepoName]) {
        self.inner.mark_all(repos);
    }

    /// Makes the copy on `peer` equal now, by hand: no pause after a failure is waited for, and the attempt begins
    /// after the call, so it carries all that has landed.
    pub async fn push_now(&self, repo: &RepoName, peer: &HostName, deadline: Duration) -> Result<Report, MirrorError> {
        self.inner.push_now(repo, peer, deadline).await
    }

    /// As [`Mirror::push_now`], and further than the machine may go by itself, if the order says so.
    pub async fn push_with(
        &self,
        repo: &RepoName,
        peer: &HostName,
        order: Order,
        deadline: Duration,
    ) -> Result<Report, MirrorError> {
        self.inner.push_with(repo, peer, order, deadline).await
    }

    /// The peer has shown itself (it has logged in here): what waits for it need wait no longer.
    pub fn peer_seen(&self, peer: &HostName) {
        if let Some(lane) = self.inner.lanes().get(peer) {
            lane.hurry();
        }
    }

    /// Changes the settings of a running node; what is under way keeps those it began with.
    pub fn set_config(&self, config: Config) {
        self.inner.set_config(config);
    }

    /// Changes who is told of alarms.
    pub fn set_notify(&self, config: NotifyConfig) {
        *self.inner.notify.write().unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// All copies of what is mastered here, by repository and peer.
    pub fn status(&self) -> Vec<PairStatus> {
        self.inner.board().list(Moment::now())
    }

    /// The copies of one repository, by peer. Cheap: it looks at no others.
    pub fn status_of(&self, repo: &RepoName) -> Vec<PairStatus> {
        self.inner.board().list_of(repo, Moment::now())
    }

    /// A copy that is behind for longer is worth a warning.
    pub fn alarm_after(&self) -> Duration {
        self.inner.config().alarm_after
    }

    /// The peers that hold copies of what is mastered here, by name.
    pub fn peer_status(&self) -> Vec<PeerStatus> {
        let mut peers = self.inner.board().peers(Moment::now());
        for peer in &mut peers {
            if let Some(lane) = self.inner.lanes().get(&peer.peer) {
                (peer.queued, peer.running) = lane.length();
            }
            peer.paused_by = self.inner.pauses().of_peer(&peer.peer).map(Pause::by_whom);
        }
        peers
    }

    /// The first copies that are under way, by peer.
    pub fn first_copies(&self) -> Vec<FirstCopy> {
        let lanes = self.inner.lanes();
        lanes.values().filter_map(|lane| lane.progress().shown(&lane.peer)).collect()
    }

    /// What happened to a repository's copies lately, oldest first; also before the last start.
    pub fn log(&self, repo: &RepoName, limit: usize) -> Vec<Entry> {
        self.inner.board().journal.of(repo, limit)
    }

    /// Works until `stop`; then lets running pushes end for a few seconds. Returns when all its tasks have ended.
    pub async fn run(self, stop: CancellationToken) {
        let (mut changes, mut orders) = (self.cluster.changes(), self.cluster.masters().changes());
        let changed = async move || {
            let changed = tokio::select! {
                changed = changes.changed() => changed,
                changed = orders.changed() => changed,
            };
            if changed.is_err() {
                pending::<()>().await;
            }
        };
        self.inner.run(changed, stop).await;
    }
}

fn backoff(config: &Config) -> backoff::Backoff {
    backoff::Backoff { first: config.retry_first, max: config.retry_max }
}

impl Inner {
    fn new(config: Config, world: World, git: Git, links: Links, state: &Path) -> std::io::Result<Self> {
        let history_files = journal::Files::named(state, "events.log");
        let orders = state.with_file_name("orders");
        Ok(Self {
            board: Mutex::new(Board::new(config.alarm_after)),
            config: RwLock::new(config),
            notify: RwLock::default(),
            outboxes: Default::default(),
            world,
            git,
            links,
            lanes: Mutex::default(),
            lane_added: Notify::new(),
            pauses: Mutex::new(Pauses::open(&orders)?),
            waits: Waits::default(),
            journal_files: journal::Files::new(state),
            history: Mutex::new(History::restore(&history_files.read()?)),
            history_files,
            assigned: Mutex::default(),
            hearing: heartbeat::Hearing::new(),
            talk: masters::Talk::new(),
            cargo: carry::Cargo::open(&orders)?,
            lately: trash::Lately::default(),
            targets: state.with_file_name("targets"),
            beliefs: ours::Beliefs::default(),
            pushes: pushed::Pushed::default(),
            brought: beside::Brought::default(),
            damage_news: OnceLock::new(),
            left_over: OnceLock::new(),
        })
    }

    fn config(&self) -> Config {
        *self.config.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_config(&self, config: Config) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        self.board().set_alarm_after(config.alarm_after);
        for lane in self.lanes().values() {
            lane.set_backoff(backoff(&config));
        }
        self.lane_added.notify_one();
    }

    fn notify_config(&self) -> NotifyConfig {
        self.notify.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn outbox(&self, way: Way) -> &Outbox {
        &self.outboxes[way as usize]
    }

    fn lanes(&self) -> MutexGuard<'_, BTreeMap<HostName, Arc<Lane>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The innermost lock of the room: nobody takes another while holding it.
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pauses(&self) -> MutexGuard<'_, Pauses> {
        self.pauses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something happened to a copy.
    fn note(&self, repo: &RepoName, peer: &HostName, input: Input) {
        self.board().apply(repo, peer, input, Moment::now());
        self.waits.ring(repo);
    }

    /// The peer's queue and worker, made at the first need.
    fn lane(&self, peer: &HostName) -> Arc<Lane> {
        let mut lanes = self.lanes();
        if let Some(lane) = lanes.get(peer) {
            return lane.clone();
        }
        let lane = Arc::new(Lane::new(peer.clone(), Queue::new(backoff(&self.config()))));
        lanes.insert(peer.clone(), lane.clone());
        self.lane_added.notify_one();
        lane
    }

    fn mark(&self, repo: &RepoName) {
        for (peer, manual) in self.copies(repo) {
            // The last look may have been before the repository was made, or before the configuration changed.
            self.note(repo, &peer, Input::Manual(manual));
            self.note(repo, &peer, Input::Marked);
            if !manual && self.pauses().of(repo, &peer).is_none() {
                self.lane(&peer).mark(repo);
            }
        }
    }

    fn mark_all(&self, repos: &[RepoName]) {
        if repos.len() > MARKED_SINGLY {
            self.lanes().values().for_each(|lane| lane.compare());
        } else {
            repos.iter().for_each(|repo| self.mark(repo));
        }
    }

    async fn push_now(&self, repo: &RepoName, peer: &HostName, deadline: Duration) -> Result<Report, MirrorError> {
        self.push_with(repo, peer, Order::Usual, deadline).await
    }

    async fn push_with(
        &self,
        repo: &RepoName,
        peer: &HostName,
        order: Order,
        deadline: Duration,
    ) -> Result<Report, MirrorError> {
        match (self.world.locate)(repo) {
            _ if self.is_pair(repo, peer) => {}
            Place::Here { .. } => return Err(MirrorError::NotReplica { repo: repo.clone(), peer: peer.clone() }),
            _ => return Err(MirrorError::NotMaster(repo.clone())),
        }
        self.refuse_paused(repo, peer)?;
        let (reply, answered) = oneshot::channel();
        self.lane(peer).ask(repo, Answer { order, reply }).map_err(|_| MirrorError::Busy)?;
        match timeout(deadline, answered).await {
            Ok(result) => result.unwrap_or(Err(MirrorError::Stopping)),
            Err(_) => Err(MirrorError::Timeout(deadline)),
        }
    }

    /// Looks which repositories are mastered here and has their copies compared.
    async fn look_around(self: &Arc<Self>, look: Look) {
        let this = self.clone();
        let looked = tokio::task::spawn_blocking(move || {
            match (this.world.review)() {
                Ok(orders) => this.tell_of(orders.iter().map(|(repo, order)| (repo, order))),
                Err(error) => tracing::error!(%error, "which promotions have ended cannot be written down"),
            }
            this.tell_left_over();
            let mut assigned = Assigned::default();
            for repo in (this.world.list)()? {
                if let Some(upstream) = (this.world.foreign)(&repo).upstream {
                    assigned.upstreams.insert(repo.clone(), upstream);
                }
                for (peer, manual) in this.pairs(&repo) {
                    if manual {
                        assigned.by_hand.insert((peer.clone(), repo.clone()));
                    }
                    assigned.repos.entry(peer).or_default().push(repo.clone());
                }
            }
            for (peer, repo) in this.untold() {
                assigned.repos.entry(peer).or_default().push(repo);
            }
            // The list promises no order, and the board looks each of its pairs up.
            assigned.repos.values_mut().for_each(|repos| {
                repos.sort_unstable();
                repos.dedup();
            });
            Ok::<_, std::io::Error>(Arc::new(assigned))
        });
        let assigned = match looked.await.expect("listing does not panic, and is not cancelled") {
            Ok(assigned) => assigned,
            Err(error) => {
                tracing::error!(%error, "the repositories cannot be listed; their copies are not compared");
                return;
            }
        };
        {
            let pauses = self.pauses();
            self.board().keep_only(&assigned, &pauses, Moment::now());
        }
        self.waits.ring_all();
        let before = {
            let mut known = self.assigned.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *known, assigned.clone())
        };
        let mut marked = std::collections::BTreeSet::new();
        for peer in assigned.repos.keys() {
            let lane = self.lane(peer);
            let fresh: Vec<_> = assigned.fresh(&before, peer).take(MARKED_SINGLY + 1).collect();
            // What is pushed by hand is compared and not pushed.
            let by_hand = fresh.iter().any(|repo| assigned.is_manual(peer, repo));
            // A new replica: its configuration goes before the rest, which the comparison sees to.
            let leads = fresh.iter().any(|repo| first::is_configuration(repo));
            if look == Look::All || fresh.len() > MARKED_SINGLY || by_hand || leads {
                lane.compare();
            } else {
                // A copy that fails may have waited for this configuration.
                lane.hurry();
                marked.extend(fresh);
            }
        }
        marked.into_iter().for_each(|repo| self.mark(repo));
    }

    fn assigned(&self) -> Arc<Assigned> {
        self.assigned.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn run(self: Arc<Self>, mut changed: impl AsyncFnMut(), stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        let mut started = std::collections::BTreeSet::new();
        let mut peers = self.links.peers();
        tell::restore(&self).await;
        tasks.spawn(tell::run(self.clone(), stop.clone()));
        tasks.spawn(foreign::poll(self.clone(), stop.clone()));
        tasks.spawn(masters::run(self.clone(), stop.clone()));
        tasks.spawn(carry::run(self.clone(), stop.clone()));
        for way in [Way::Command, Way::Webhook] {
            tasks.spawn(notify::run(self.clone(), way, stop.clone()));
        }
        let mut looked = tokio::time::Instant::now();
        self.look_around(Look::All).await;
        tasks.spawn(heartbeat::run(self.clone(), stop.clone()));
        loop {
            let lanes: Vec<_> = self.lanes().values().cloned().collect();
            for lane in lanes {
                if started.insert(lane.peer.clone()) {
                    tasks.spawn(worker::run(self.clone(), lane, stop.clone()));
                }
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.lane_added.notified() => {}
                () = changed() => self.look_around(Look::Fresh).await,
                Ok(()) = peers.changed() => self.look_around(Look::All).await,
                () = tokio::time::sleep_until(looked + self.config().verify) => {
                    looked = tokio::time::Instant::now();
                    self.look_around(Look::All).await;
                }
                Some(ended) = tasks.join_next() => propagate_panic(ended),
            }
        }
        while let Some(ended) = tasks.join_next().await {
            propagate_panic(ended);
        }
    }
}

/// A bug in a worker ends the daemon instead of leaving a peer without one.
fn propagate_panic<T>(ended: Result<T, tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

//! Keep every copy equal to its master.
//!
//! Level-triggered: the queue holds hints that a (repository, replica) pair may be behind, never the truth, which is
//! the difference between both sides' refs. First copy, push, retry, recovery after a crash, the periodic comparison
//! and an order by hand are one path: `queue` says what is due, `worker` reads both sides, `plan` (pure) says what to
//! push, `send` pushes it over the pooled link, `status` remembers what people want to know.
//!
//! Promises: [`Mirror::mark`] never blocks and no push waits for a timer while its peer is well; nothing is lost by
//! a restart, because all copies are compared when we start, when a link comes up, when the configuration changes and
//! every so often; one slow or dead peer delays no other. Never: decides who is master, or writes a repository here.

mod config;
mod plan;
mod queue;
mod send;
mod status;
mod worker;

#[cfg(test)]
mod send_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::future::pending;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, Place};
use crate::git::process::Git;
use crate::model::{HostName, RepoName};
use crate::peer::{LinkError, Links};
use crate::repo::{Ownership, Store};
use queue::Queue;
use status::Board;
use worker::Lane;

pub use config::Config;
pub use send::SendError;
pub use status::{PairStatus, State};

/// What one push did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// References that changed; none if the copy was equal already.
    pub refs: usize,
    pub pack_bytes: u64,
    pub elapsed: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { refs, pack_bytes, elapsed } = self;
        match refs {
            0 => write!(f, "in step already")?,
            1 => write!(f, "1 reference, {pack_bytes} bytes")?,
            n => write!(f, "{n} references, {pack_bytes} bytes")?,
        }
        write!(f, ", {} ms", elapsed.as_millis())
    }
}

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
    #[error("{peer} ended with status {exit}: {said}")]
    Remote { peer: HostName, exit: u32, said: String },
    #[error("{peer} answered {line:?} where a digest was expected")]
    Answer { peer: HostName, line: String },
    #[error("the references here cannot be read: {0}")]
    Local(String),
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    #[error("too many wait for this copy already")]
    Busy,
    #[error("this node is stopping")]
    Stopping,
}

type Answer = oneshot::Sender<Result<Report, MirrorError>>;

type Ask<T> = Box<dyn Fn(&RepoName) -> T + Send + Sync>;

/// What mirroring asks of the rooms below; functions, so that tests need no configuration.
struct World {
    locate: Ask<Place>,
    dir: Ask<Option<PathBuf>>,
    ownership: Ask<Option<Ownership>>,
    list: Box<dyn Fn() -> std::io::Result<Vec<RepoName>> + Send + Sync>,
}

/// The handle on mirroring. Cheap to clone.
#[derive(Clone)]
pub struct Mirror {
    inner: Arc<Inner>,
    cluster: Cluster,
}

struct Inner {
    config: RwLock<Config>,
    world: World,
    git: Git,
    links: Links,
    lanes: Mutex<BTreeMap<HostName, Arc<Lane>>>,
    lane_added: Notify,
    board: Mutex<Board>,
    /// The repositories mastered here by replica, as of the last look; what the comparisons go through.
    assigned: Mutex<Arc<BTreeMap<HostName, Vec<RepoName>>>>,
}

impl Mirror {
    pub fn new(config: Config, cluster: Cluster, store: Store, git: Git, links: Links) -> Self {
        let (places, directories, owners) = (cluster.clone(), store.clone(), store.clone());
        let world = World {
            locate: Box::new(move |repo| places.locate(repo)),
            dir: Box::new(move |repo| directories.open_as_daemon(repo)),
            ownership: Box::new(move |repo| owners.ownership(repo)),
            list: Box::new(move || store.list()),
        };
        Self { inner: Arc::new(Inner::new(config, world, git, links)), cluster }
    }

    /// A push landed, so all copies may be behind. Never blocks; a thousand calls are as good as one.
    pub fn mark(&self, repo: &RepoName) {
        self.inner.mark(repo);
    }

    /// Makes the copy on `peer` equal now, by hand: no pause after a failure is waited for, and the attempt begins
    /// after the call, so it carries all that has landed.
    pub async fn push_now(&self, repo: &RepoName, peer: &HostName, deadline: Duration) -> Result<Report, MirrorError> {
        self.inner.push_now(repo, peer, deadline).await
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

    /// All copies of what is mastered here.
    /// All copies of what is mastered here.
    pub fn status(&self) -> Vec<PairStatus> {
        self.inner.board().list(SystemTime::now())
    }

    /// Works until `stop`; then lets running pushes end for a few seconds. Returns when all its tasks have ended.
    pub async fn run(self, stop: CancellationToken) {
        let mut changes = self.cluster.changes();
        let changed = async move || {
            if changes.changed().await.is_err() {
                pending::<()>().await;
            }
        };
        self.inner.run(changed, stop).await;
    }
}

fn backoff(config: &Config) -> queue::Backoff {
    queue::Backoff { first: config.retry_first, max: config.retry_max }
}

impl Inner {
    fn new(config: Config, world: World, git: Git, links: Links) -> Self {
        let board = Mutex::new(Board::new(config.alarm_after));
        let (lanes, lane_added, assigned) = (Mutex::default(), Notify::new(), Mutex::default());
        let config = RwLock::new(config);
        Self { config, world, git, links, lanes, lane_added, board, assigned }
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

    fn lanes(&self) -> std::sync::MutexGuard<'_, BTreeMap<HostName, Arc<Lane>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn board(&self) -> std::sync::MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
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
        let place = (self.world.locate)(repo);
        for peer in place.automatic() {
            self.board().behind(repo, peer, false, SystemTime::now());
            self.lane(peer).mark(repo);
        }
    }

    async fn push_now(&self, repo: &RepoName, peer: &HostName, deadline: Duration) -> Result<Report, MirrorError> {
        match (self.world.locate)(repo) {
            place if place.replica(peer).is_some() => {}
            Place::Here { .. } => return Err(MirrorError::NotReplica { repo: repo.clone(), peer: peer.clone() }),
            _ => return Err(MirrorError::NotMaster(repo.clone())),
        }
        let (answer, answered) = oneshot::channel();
        self.lane(peer).ask(repo, answer).map_err(|_| MirrorError::Busy)?;
        match timeout(deadline, answered).await {
            Ok(result) => result.unwrap_or(Err(MirrorError::Stopping)),
            Err(_) => Err(MirrorError::Timeout(deadline)),
        }
    }

    /// Looks which repositories are mastered here and has all their copies compared.
    async fn look_around(self: &Arc<Self>) {
        let this = self.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let mut assigned: BTreeMap<HostName, Vec<RepoName>> = BTreeMap::new();
            for repo in (this.world.list)()? {
                for peer in (this.world.locate)(&repo).automatic() {
                    assigned.entry(peer.clone()).or_default().push(repo.clone());
                }
            }
            // The list promises no order, and the board looks each of its pairs up.
            assigned.values_mut().for_each(|repos| repos.sort_unstable());
            Ok::<_, std::io::Error>(Arc::new(assigned))
        });
        let assigned = match looked.await.expect("listing does not panic, and is not cancelled") {
            Ok(assigned) => assigned,
            Err(error) => {
                tracing::error!(%error, "the repositories cannot be listed; their copies are not compared");
                return;
            }
        };
        self.board().keep_only(&assigned);
        *self.assigned.lock().unwrap_or_else(PoisonError::into_inner) = assigned.clone();
        for peer in assigned.keys() {
            self.lane(peer).compare();
        }
    }

    fn assigned_to(&self, peer: &HostName) -> Vec<RepoName> {
        let assigned = self.assigned.lock().unwrap_or_else(PoisonError::into_inner).clone();
        assigned.get(peer).cloned().unwrap_or_default()
    }

    async fn run(self: Arc<Self>, mut changed: impl AsyncFnMut(), stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        let mut started = std::collections::BTreeSet::new();
        let mut peers = self.links.peers();
        self.look_around().await;
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
                () = changed() => self.look_around().await,
                Ok(()) = peers.changed() => self.look_around().await,
                () = tokio::time::sleep(self.config().verify) => self.look_around().await,
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

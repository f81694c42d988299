//! One peer's worker: takes what is due, pushes or compares, records, backs off.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::bandwidth::Bucket;
use super::deliver::{self, check};
use super::first::{Progress, is_configuration};
use super::queue::{Outcome, Queue, Work};
use super::settle::{Attempt, Shown, compared, outcome, settle, settle_scan};
use super::state::{Input, Moment};
use super::{Answer, Inner, MARKED_SINGLY, MirrorError, Report, foreign, history, propagate_panic};
use crate::git::objects::ObjectsError;
use crate::git::ref_state::{RefState, read_refs};
use crate::model::{HostName, RefName, RepoName};
use crate::observe::metrics;
use crate::peer::LinkError;
use crate::repo::{FileLocks, Papers, Weight, weigh};

/// The exec line of a comparison: the answer is `DIGEST<TAB>REPO` for each repository whose master we are there. The digest
/// covers references, HEAD, creator, roles, description, settings and file locks.
const DIGESTS: &str = "gitmesh-mirror-digests version=1";
/// Longest line of that answer, in bytes: 64 digits, a tab and a name.
const DIGEST_LINE_MAX: usize = 64 + 1 + RepoName::MAX + 1;
/// How long running pushes may go on when the node stops. What is cut off is found again by the next comparison.
const DRAIN: Duration = Duration::from_secs(5);
/// How long a command may take to end after it has said everything.
pub(super) const END_TIMEOUT: Duration = Duration::from_secs(60);

/// Copies that a peer lacks, and that are empty here, are looked for so many times before they are pushed, and
/// after each time so long, twice as long and so on: about a minute.
const PATIENT_LOOKS: u32 = 6;
const PATIENCE: Duration = Duration::from_secs(1);

/// One peer's queue and the bell of its worker.
pub(super) struct Lane {
    pub peer: HostName,
    queue: Mutex<Queue<Answer>>,
    bell: Notify,
    /// Comparisons in a row after which empty copies were waited for.
    patient: AtomicU32,
    progress: Mutex<Progress>,
    bucket: Mutex<Bucket>,
}

impl Lane {
    pub(super) fn new(peer: HostName, queue: Queue<Answer>) -> Self {
        Self {
            peer,
            queue: Mutex::new(queue),
            bell: Notify::new(),
            patient: AtomicU32::new(0),
            progress: Mutex::default(),
            bucket: Mutex::new(Bucket::new(Instant::now())),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue<Answer>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far the first copies to this peer have come.
    pub(super) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of a push are to go out: they are counted, and wait as long as is returned.
    pub(super) fn toll(&self, repo: &RepoName, bytes: usize, rate: Option<u64>) -> Duration {
        self.progress().sent(repo, bytes);
        let Some(rate) = rate else { return Duration::ZERO };
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner).take(bytes, rate, Instant::now())
    }

    pub(super) fn mark(&self, repo: &RepoName) {
        self.queue().mark(repo);
        self.bell.notify_one();
    }

    pub(super) fn ask(&self, repo: &RepoName, answer: Answer) -> Result<(), Answer> {
        self.queue().ask(repo, answer)?;
        self.bell.notify_one();
        Ok(())
    }

    /// See [`Queue::hasten`].
    pub(super) fn hasten(&self, repo: &RepoName) {
        self.queue().hasten(repo);
        self.bell.notify_one();
    }

    /// See [`Queue::give_up`].
    pub(super) fn give_up(&self, which: impl Fn(&RepoName) -> bool) {
        self.queue().give_up(which);
    }

    /// See [`Queue::length`].
    pub(super) fn length(&self) -> (usize, usize) {
        self.queue().length()
    }

    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.length() == (0, 0) && !self.queue().scan_is_due()
    }

    /// Ends all pauses.
    pub(super) fn hurry(&self) {
        self.queue().hurry();
        self.bell.notify_one();
    }

    /// Ends all pauses and has all copies compared.
    pub(super) fn compare(&self) {
        self.queue().want_scan();
        self.hurry();
    }

    pub(super) fn set_backoff(&self, backoff: Backoff) {
        self.queue().set_backoff(backoff);
        self.bell.notify_one();
    }

    fn link_is_up(&self) {
        self.queue().want_scan_of_new_link();
        self.hurry();
    }
}

impl Inner {
    /// A comparison that began at `began` has shown how one copy is.
    pub(super) fn compared(&self, lane: &Lane, repo: &RepoName, shown: Shown, began: Moment) {
        let (peer, now) = (&lane.peer, Moment::now());
        let push = !self.assigned().is_manual(peer, repo) && self.pauses().of(repo, peer).is_none();
        match shown {
            Shown::Equal => lane.progress().arrived(repo),
            Shown::Missing(weight) | Shown::Blank(weight) if push => lane.progress().expect(repo, weight.bytes, now),
            _ => {}
        }
        if shown != Shown::Equal {
            self.brought.differs(repo, peer, began.mono);
        }
        if is_configuration(repo) {
            lane.queue().lead((push && shown != Shown::Equal).then_some(repo));
        }
        compared(&mut lane.queue(), &mut self.board(), (repo, peer), shown, push, began, now);
        lane.bell.notify_one();
        self.waits.ring(repo);
    }
}

/// What a task has done.
enum Done {
    Pushed {
        repo: RepoName,
        answers: Vec<Answer>,
        began: Moment,
        result: Result<Report, MirrorError>,
    },
    /// With the pause after which it is done again, if it is not at its end.
    Scanned(Result<Option<Duration>, MirrorError>),
}

/// Serves the lane until `stop`, and returns when its tasks have ended.
pub(super) async fn run(inner: Arc<Inner>, lane: Arc<Lane>, stop: CancellationToken) {
    let mut tasks = JoinSet::new();
    let mut connected = inner.links.connected(&lane.peer);
    loop {
        let most = inner.config().workers;
        loop {
            let work = lane.queue().take(Instant::now(), most);
            match work {
                Some(Work::Push(repo, answers)) => {
                    tasks.spawn(push_task(inner.clone(), lane.peer.clone(), repo, answers));
                }
                Some(Work::Scan) => {
                    let (inner, lane) = (inner.clone(), lane.clone());
                    tasks.spawn(async move { Done::Scanned(scan(&inner, &lane).await) });
                }
                None => break,
            }
        }
        let next_try = lane.queue().next_try(most);
        let pause = async {
            match next_try {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = tasks.join_next() => match ended {
                Ok(done) => record(&inner, &lane, done),
                Err(_) => propagate_panic(ended),
            },
            // A new link, by whoever's dial: the peer may have been away, or be another machine.
            Ok(()) = connected.changed() => {
                inner.board().link_works(&lane.peer, Moment::now());
                inner.ask_masters(&lane.peer);
                inner.hearing.ring();
                lane.link_is_up();
            }
            () = lane.bell.notified() => {}
            () = pause => {}
        }
    }
    let drained = timeout(DRAIN, async {
        while let Some(ended) = tasks.join_next().await {
            propagate_panic(ended);
        }
    });
    if drained.await.is_err() {
        tasks.shutdown().await;
    }
}

async fn push_task(inner: Arc<Inner>, peer: HostName, repo: RepoName, answers: Vec<Answer>) -> Done {
    let began = Moment::now();
    // Whoever has waived the guard has waived it for all who wait.
    let order = answers.iter().map(|answer| answer.order).max().unwrap_or_default();
    let result = deliver::push(&inner, &peer, &repo, order).await;
    Done::Pushed { repo, answers, began, result }
}

/// Settles an attempt with the queue, the board and those who wait.
fn record(inner: &Inner, lane: &Lane, done: Done) {
    let (now, dice, peer) = (Moment::now(), rand::random::<f64>(), &lane.peer);
    match done {
        Done::Pushed { repo, answers, began, result } => {
            let manual = inner.assigned().is_manual(peer, &repo);
            let lag = inner.board().lag(&repo, peer, now);
            let attempt = Attempt { repo: &repo, peer, began, manual, result: &result };
            settle(&mut lane.queue(), &mut inner.board(), &attempt, now, dice);
            match outcome(result.as_ref().err()) {
                Outcome::Done => lane.progress().arrived(&repo),
                Outcome::Failed | Outcome::LinkFailed { .. } => lane.progress().failed(&repo),
                // It waits for a person, or is gone.
                Outcome::Waits | Outcome::Dropped => lane.progress().keep(|name| *name != repo),
            }
            if let Ok(report) = &result {
                let ms = u64::try_from(report.elapsed.as_millis()).unwrap_or(u64::MAX);
                if report.brought_something() {
                    metrics::MIRROR_PUSH.record(report.elapsed);
                    lag.into_iter().for_each(|lag| metrics::MIRROR_LAG.record(lag));
                    inner.history().add(Some(&repo), history::synced(&repo, peer, report));
                }
                tracing::debug!(%repo, %peer, refs = report.refs, bytes = report.pack_bytes, ms, "mirrored");
            }
            inner.waits.ring(&repo);
            for answer in answers {
                // Who has stopped waiting does not mind.
                drop(answer.reply.send(result.clone()));
            }
        }
        Done::Scanned(result) => {
            let (again, result) = match result {
                Ok(again) => (again, Ok(())),
                Err(error) => (None, Err(error)),
            };
            let mut queue = lane.queue();
            settle_scan(&mut queue, &mut inner.board(), peer, result, now, dice);
            again.into_iter().for_each(|pause| queue.want_scan_at(now.mono + pause));
        }
    }
}

pub(super) fn local(error: ObjectsError) -> MirrorError {
    let cause = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
    MirrorError::Local(format!("{error}{cause}"))
}

pub(super) async fn blocking_refs(dir: std::path::PathBuf) -> Result<RefState, ObjectsError> {
    let reading = tokio::task::spawn_blocking(move || read_refs(&dir));
    reading.await.expect("reading references does not panic, and is not cancelled")
}

/// Compares all of the peer's copies with what is here and marks those that differ.
///
/// Many that are missing there and empty here were most likely made by a configuration that the peer is carrying out
/// at this moment: they are looked for again, since a push of each would cost a hundred times as much.
async fn scan(inner: &Arc<Inner>, lane: &Lane) -> Result<Option<Duration>, MirrorError> {
    let (peer, began, assigned) = (&lane.peer, Moment::now(), inner.assigned());
    let repos = &foreign::mark_foreign(inner, lane, assigned.of(peer))[..];
    if repos.is_empty() || inner.pauses().of_peer(peer).is_some() {
        return Ok(None); // not worth a connection
    }
    let limit = inner.config().timeout;
    let theirs = timeout(limit, digests(inner, peer)).await.map_err(|_| MirrorError::Timeout(limit))??;
    inner.board().link_works(peer, Moment::now());
    lane.progress().keep(|repo| repos.binary_search(repo).is_ok());
    if !repos.iter().any(is_configuration) {
        lane.queue().lead(None);
    }
    let (this, these) = (inner.clone(), repos.to_vec());
    let comparing = tokio::task::spawn_blocking({
        let peer = peer.clone();
        move || compare_all(&this, (&peer, &these), &theirs)
    });
    let (mut shown, young) = comparing.await.expect("comparing does not panic, and is not cancelled");
    // The configuration first: whether others may go depends on it.
    shown.sort_by_key(|(repo, _)| !is_configuration(repo));
    for (repo, shown) in shown {
        inner.compared(lane, &repo, shown, began);
    }
    let looks = lane.patient.load(Ordering::Relaxed);
    if young.len() > MARKED_SINGLY && looks < PATIENT_LOOKS {
        lane.patient.store(looks + 1, Ordering::Relaxed);
        for repo in &young {
            inner.board().apply(repo, peer, Input::Differs { missing: true }, began);
        }
        return Ok(Some(PATIENCE * (1 << looks)));
    }
    lane.patient.store(0, Ordering::Relaxed);
    young.iter().for_each(|repo| inner.compared(lane, repo, Shown::Missing(Weight::default()), began));
    Ok(None)
}

/// How each of the repositories that are here is there; and those that are missing there and empty here.
fn compare_all(
    inner: &Inner,
    (peer, repos): (&HostName, &[RepoName]),
    theirs: &Digests,
) -> (Vec<(RepoName, Shown)>, Vec<RepoName>) {
    let (mut all, mut young) = (Vec::with_capacity(repos.len()), Vec::new());
    for repo in repos {
        let Some(dir) = (inner.world.dir)(repo) else {
            if inner.world.gone.of(repo).is_some_and(|stone| stone.waiting.contains(peer)) {
                all.push((repo.clone(), Shown::Differs));
            }
            continue;
        };
        match theirs.get(repo) {
            None if has_no_refs(&dir) => young.push(repo.clone()),
            there => all.push((repo.clone(), shown(inner, repo, there.map(String::as_str)))),
        }
    }
    (all, young)
}

fn has_no_refs(dir: &std::path::Path) -> bool {
    read_refs(dir).is_ok_and(|refs| refs.refs.is_empty() && refs.detached.is_none())
}

/// What a peer says of its copies.
pub(super) type Digests = BTreeMap<RepoName, String>;

/// How a copy is, by the digest that its peer has told, if any. Blocks.
pub(super) fn shown(inner: &Inner, repo: &RepoName, there: Option<&str>) -> Shown {
    let weight = || (inner.world.dir)(repo).map(|dir| weigh(&dir)).unwrap_or_default();
    match there {
        None => Shown::Missing(weight()),
        Some(digest) if equals(inner, repo, digest) => Shown::Equal,
        Some(digest) if is_blank(inner, repo, digest) => Shown::Blank(weight()),
        Some(_) => Shown::Differs,
    }
}

/// Whether it is the digest of a repository without references, as a peer's own configuration makes it, or as a first
/// copy that was cut off leaves it.
fn is_blank(inner: &Inner, repo: &RepoName, digest: &str) -> bool {
    let blank = RefState { head: RefName::parse("refs/heads/main"), ..RefState::default() }.digest();
    if digest == blank {
        return true;
    }
    let owned = (inner.world.ownership)(repo).unwrap_or_default().seal(blank);
    digest == owned || digest == (inner.world.metadata)(repo).seal(owned)
}

/// Whether a repository here has this digest. What cannot be read here cannot be compared; the push will say why, for
/// this repository alone. Blocks.
fn equals(inner: &Inner, repo: &RepoName, digest: &str) -> bool {
    own_digest(inner, repo).is_ok_and(|ours| digest == ours)
}

/// The digest that an equal copy of a repository that is mastered here has. Blocks.
pub(super) fn own_digest(inner: &Inner, repo: &RepoName) -> Result<String, ObjectsError> {
    let owned = (inner.world.ownership)(repo).unwrap_or_default();
    let ours = (inner.world.metadata)(repo).seal(owned.seal((inner.world.digest)(repo)?));
    Ok((inner.world.dir)(repo)
        .map_or_else(|| ours.clone(), |dir| Papers::seal(&dir, FileLocks::seal(&dir, ours.clone()))))
}

/// The peer's digest of each repository whose master we are in its view.
pub(super) async fn digests(inner: &Inner, peer: &HostName) -> Result<Digests, MirrorError> {
    let mut pipe = inner.links.run(peer, DIGESTS).await?;
    let mut found = BTreeMap::new();
    let mut reader = BufReader::new(&mut pipe.reader);
    let mut line = Vec::new();
    let broken = loop {
        line.clear();
        let mut limited = tokio::io::AsyncReadExt::take(&mut reader, DIGEST_LINE_MAX as u64);
        match limited.read_until(b'\n', &mut line).await {
            Ok(0) => break None,
            Err(error) => break Some(error.to_string()),
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches('\n');
        match text.split_once('\t').map(|(digest, repo)| (digest, RepoName::new(repo))) {
            Some((digest, Ok(repo))) if digest.len() == 64 => drop(found.insert(repo, digest.to_owned())),
            _ => return Err(MirrorError::Answer { peer: peer.clone(), line: text.to_owned() }),
        }
    };
    drop(reader);
    let finished = timeout(END_TIMEOUT, pipe.finish()).await.map_err(|_| MirrorError::Timeout(END_TIMEOUT))?;
    check(peer, finished)?;
    match broken {
        Some(why) => Err(LinkError::Closed { peer: peer.clone(), why }.into()),
        None => Ok(found),
    }
}

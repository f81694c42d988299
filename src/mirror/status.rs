//! What is known about each copy and each peer, for people; of all this, only pauses decide anything, and those are on
//! disk. Changes are collected here once each, to be told and to be looked up later.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use super::heard::Lack;
use super::journal::Journal;
use super::notice::{Kind, Notice};
use super::pause::{Pauses, Scope};
use super::state::{Alarm, Input, Moment, Pair, Reach, State, Told};
use super::wait::Arrived;
use crate::model::{HostName, RefName, RepoName, Upstream};

/// One copy of one repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairStatus {
    pub repo: RepoName,
    pub peer: HostName,
    pub state: State,
    /// The configuration says that it is pushed by hand (`nosync`).
    pub manual: bool,
    /// Age of the oldest change that it lacks, as far as known; not disturbed by a clock that jumps.
    pub lag: Option<Duration>,
    /// When it was last known to be equal, in this run of the daemon.
    pub last_success: Option<SystemTime>,
    /// The last error in this run of the daemon, which may be over.
    pub last_error: Option<(String, SystemTime)>,
    /// It has been behind for longer than the configured `alarm_after`, or waits for a person to decide.
    pub alarm: bool,
}

/// A peer's link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    /// Not needed yet in this run of the daemon.
    Unknown,
    Up {
        since: SystemTime,
    },
    Down {
        error: String,
        since: SystemTime,
        next_try: Option<SystemTime>,
    },
}

/// A peer that holds copies of what is mastered here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    pub peer: HostName,
    pub link: LinkState,
    /// It answers, but not the question how its copies are: why, and since when.
    pub silent: Option<(String, SystemTime)>,
    pub copies: usize,
    /// Of those, how many are not known to be equal.
    pub behind: usize,
    /// Of those, how many alarm.
    pub alarming: usize,
    /// The largest lag of its copies.
    pub oldest_lag: Option<Duration>,
    /// Pushes that wait for their turn, and that run.
    pub queued: usize,
    pub running: usize,
    /// Who has stopped all pushes to it.
    pub paused_by: Option<String>,
}

/// The copies of what is mastered here, as of the last look; what the comparisons go through.
#[derive(Debug, Default)]
pub(super) struct Assigned {
    /// The repositories of each peer, sorted.
    pub repos: BTreeMap<HostName, Vec<RepoName>>,
    /// Those that are pushed by hand.
    pub by_hand: BTreeSet<(HostName, RepoName)>,
    /// Those that follow another server.
    pub upstreams: BTreeMap<RepoName, Upstream>,
}

impl Assigned {
    pub(super) fn of(&self, peer: &HostName) -> &[RepoName] {
        self.repos.get(peer).map_or(&[], Vec::as_slice)
    }

    pub(super) fn is_manual(&self, peer: &HostName, repo: &RepoName) -> bool {
        !self.by_hand.is_empty() && self.by_hand.contains(&(peer.clone(), repo.clone()))
    }

    /// The peer's copies that were not there before, or are kept in another way.
    pub(super) fn fresh<'a>(&'a self, before: &'a Self, peer: &'a HostName) -> impl Iterator<Item = &'a RepoName> {
        let known = before.of(peer);
        self.of(peer).iter().filter(move |repo| {
            known.binary_search(repo).is_err() || before.is_manual(peer, repo) != self.is_manual(peer, repo)
        })
    }
}

/// A failure that is going on.
#[derive(Debug, Clone)]
struct Failure {
    error: String,
    since: Moment,
    next_try: Option<SystemTime>,
    told: bool,
}

#[derive(Debug, Default)]
enum Link {
    #[default]
    Unknown,
    Up(Moment),
    Down(Failure),
}

#[derive(Debug, Default)]
struct PeerBoard {
    link: Link,
    outage_over: Option<Instant>,
    /// It answers, but not the question how its copies are.
    silent: Option<Failure>,
    pairs: BTreeMap<RepoName, Pair>,
    /// Those of which a tick may have something to tell.
    unsettled: BTreeSet<RepoName>,
}

/// What an earlier run has told and not called over.
#[derive(Debug, Default)]
pub(super) struct Earlier {
    /// Peers that could not be reached, since when and why.
    pub down: BTreeMap<HostName, (SystemTime, String)>,
    /// Those that did not tell how their copies are.
    pub silent: BTreeMap<HostName, (SystemTime, String)>,
    pub copies: Vec<(RepoName, HostName, Told, SystemTime)>,
}

/// A notice that still gathers copies.
#[derive(Debug)]
struct Raised {
    notice: Notice,
    repos: BTreeSet<RepoName>,
}

/// All copies, and their peers.
#[derive(Debug)]
pub(super) struct Board {
    alarm_after: Duration,
    peers: BTreeMap<HostName, PeerBoard>,
    /// What is to be told at the next tick, in order.
    raised: Vec<Raised>,
    pub journal: Journal,
}

impl Board {
    pub(super) fn new(alarm_after: Duration) -> Self {
        Self { alarm_after, peers: BTreeMap::new(), raised: Vec::new(), journal: Journal::default() }
    }

    pub(super) fn set_alarm_after(&mut self, alarm_after: Duration) {
        self.alarm_after = alarm_after;
    }

    /// Takes in what an earlier run has told and not called over, so that a restart repeats no alarm and leaves none open
    /// for ever. To be called before anything else; copies and peers that are none any more are forgotten later.
    pub(super) fn restore(&mut self, earlier: Earlier, now: Moment) {
        let at = |wall: SystemTime| {
            let age = now.wall.duration_since(wall).unwrap_or_default();
            Moment { mono: now.mono.checked_sub(age).unwrap_or(now.mono), wall }
        };
        let failure =
            |(since, error): (SystemTime, String)| Failure { error, since: at(since), next_try: None, told: true };
        for (peer, outage) in earlier.down {
            self.peers.entry(peer).or_default().link = Link::Down(failure(outage));
        }
        for (peer, silence) in earlier.silent {
            self.peers.entry(peer).or_default().silent = Some(failure(silence));
        }
        for (repo, peer, told, since) in earlier.copies {
            let late = if told == Told::Late { self.alarm_after } else { Duration::ZERO };
            let board = self.peers.entry(peer).or_default();
            board.pairs.entry(repo.clone()).or_default().restore(told, at(since.checked_sub(late).unwrap_or(since)));
            board.unsettled.insert(repo);
        }
    }

    /// Something happened to a copy.
    pub(super) fn apply(&mut self, repo: &RepoName, peer: &HostName, input: Input, now: Moment) {
        self.note(repo, peer, &input, now);
        let board = self.peers.entry(peer.clone()).or_default();
        if !board.pairs.contains_key(repo) {
            board.pairs.insert(repo.clone(), Pair::default());
        }
        let pair = board.pairs.get_mut(repo).expect("just made");
        let alarm = pair.apply(input, now, self.alarm_after);
        let lag = pair.lag(&now).unwrap_or_default();
        if !pair.is_unsettled() {
            board.unsettled.remove(repo);
        } else if !board.unsettled.contains(repo) {
            board.unsettled.insert(repo.clone());
        }
        if let Some(alarm) = alarm {
            self.raise(repo, peer, alarm, lag, now);
        }
    }

    /// What is worth an entry in the journal before it changes anything.
    fn note(&mut self, repo: &RepoName, peer: &HostName, input: &Input, now: Moment) {
        let (what, detail) = match input {
            Input::Failed { error, .. } => ("failed", error.as_str()),
            Input::Diverged(detail) => ("diverged", detail.as_str()),
            Input::Held(why) => ("held", why.as_str()),
            Input::Differs { missing: true } => ("missing", ""),
            _ => return,
        };
        self.journal.add(repo, peer, what, detail, now.wall);
    }

    fn raise(&mut self, repo: &RepoName, peer: &HostName, alarm: Alarm, lag: Duration, now: Moment) {
        let (kind, detail, lasted) = match alarm {
            Alarm::Late { error } => (Kind::Late, error.unwrap_or_default(), lag),
            Alarm::Diverged(detail) => (Kind::Diverged, detail, lag),
            Alarm::Held(why) => (Kind::Held, why, lag),
            Alarm::Recovered { after } => (Kind::Recovered, String::new(), after),
        };
        if matches!(kind, Kind::Late | Kind::Recovered) {
            self.journal.add(repo, peer, kind.word(), &detail, now.wall);
        }
        // Copies of one peer are one notice, but what happened to one copy is told in its order: a notice that comes
        // before another about this copy gathers it no more.
        let about = |raised: &Raised| raised.notice.peer == *peer && raised.repos.contains(repo);
        let from = self.raised.iter().rposition(about).map_or(0, |at| at + 1);
        let same = |raised: &Raised| (&raised.notice.peer, raised.notice.kind) == (peer, kind);
        let raised = match self.raised[from..].iter().position(same) {
            Some(at) => &mut self.raised[from + at],
            None => {
                self.tell(Notice::new(kind, peer.clone(), now.wall));
                self.raised.last_mut().expect("just pushed")
            }
        };
        raised.notice.add(repo.clone(), &detail, lasted);
        raised.repos.insert(repo.clone());
    }

    fn tell(&mut self, notice: Notice) {
        self.raised.push(Raised { notice, repos: BTreeSet::new() });
    }

    /// We are not its master any more.
    pub(super) fn drop_pair(&mut self, repo: &RepoName, peer: &HostName) {
        if let Some(board) = self.peers.get_mut(peer) {
            board.pairs.remove(repo);
            board.unsettled.remove(repo);
        }
    }

    /// Lists exactly these copies; `assigned` names the repositories of each peer, sorted, and `by_hand` those that
    /// are pushed by hand.
    pub(super) fn keep_only(&mut self, assigned: &Assigned, pauses: &Pauses, now: Moment) {
        for (peer, board) in &mut self.peers {
            let wanted = |repo: &RepoName| assigned.of(peer).binary_search(repo).is_ok();
            board.pairs.retain(|repo, _| wanted(repo));
            board.unsettled.retain(wanted);
        }
        for (peer, repos) in &assigned.repos {
            let board = self.peers.entry(peer.clone()).or_default();
            for repo in repos {
                if !board.pairs.contains_key(repo) {
                    board.pairs.insert(repo.clone(), Pair::default());
                }
                let pair = board.pairs.get_mut(repo).expect("just made");
                let manual = assigned.is_manual(peer, repo);
                if manual != pair.is_manual() {
                    pair.apply(Input::Manual(manual), now, self.alarm_after);
                }
            }
        }
        // A peer without copies is forgotten with its outage: nobody is to be told of it.
        self.peers.retain(|_, board| !board.pairs.is_empty());
        self.obey(pauses, now);
    }

    /// Shows each copy as the orders want it.
    pub(super) fn obey(&mut self, pauses: &Pauses, now: Moment) {
        for (peer, board) in &mut self.peers {
            for (repo, pair) in &mut board.pairs {
                match pauses.of(repo, peer) {
                    Some(pause) if !pair.is_paused() => {
                        let input = Input::Paused { by: pause.by_whom(), since: pause.since };
                        pair.apply(input, now, self.alarm_after);
                    }
                    None if pair.is_paused() => drop(pair.apply(Input::Resumed, now, self.alarm_after)),
                    _ => {}
                }
            }
        }
    }

    /// The copies that an order is about.
    pub(super) fn covered(&self, scope: &Scope) -> Vec<(RepoName, HostName)> {
        let all = self.peers.iter().flat_map(|(peer, board)| board.pairs.keys().map(move |repo| (repo, peer)));
        all.filter(|(repo, peer)| scope.covers(repo, peer)).map(|(r, p)| (r.clone(), p.clone())).collect()
    }

    pub(super) fn link_failed(&mut self, peer: &HostName, error: &str, next_try: Option<SystemTime>, now: Moment) {
        let board = self.peers.entry(peer.clone()).or_default();
        match &mut board.link {
            Link::Down(failure) => (failure.error, failure.next_try) = (error.to_owned(), next_try),
            link => {
                tracing::info!(%peer, error, "the peer cannot be reached; its copies wait");
                *link = Link::Down(Failure { error: error.to_owned(), since: now, next_try, told: false });
            }
        }
    }

    pub(super) fn link_works(&mut self, peer: &HostName, now: Moment) {
        let board = self.peers.entry(peer.clone()).or_default();
        if let Link::Up(_) = board.link {
            return;
        }
        if let Link::Down(failure) = std::mem::replace(&mut board.link, Link::Up(now)) {
            let lasted = now.since(&failure.since);
            if failure.told {
                board.outage_over = Some(now.mono);
                let notice = Notice { lasted, ..Notice::new(Kind::PeerBack, peer.clone(), now.wall) };
                self.tell(notice);
            } else {
                tracing::info!(%peer, seconds = lasted.as_secs(), "the peer is back");
            }
        }
    }

    pub(super) fn not_compared(&mut self, peer: &HostName, error: &str, next_try: Option<SystemTime>, now: Moment) {
        let board = self.peers.entry(peer.clone()).or_default();
        match &mut board.silent {
            Some(failure) => (failure.error, failure.next_try) = (error.to_owned(), next_try),
            None => {
                tracing::info!(%peer, error, "the peer does not tell how its copies are; pushes still go there");
                board.silent = Some(Failure { error: error.to_owned(), since: now, next_try, told: false });
            }
        }
    }

    pub(super) fn compared(&mut self, peer: &HostName, now: Moment) {
        let Some(board) = self.peers.get_mut(peer) else { return };
        if let Some(failure) = board.silent.take()
            && failure.told
        {
            let notice = Notice::new(Kind::PeerTells, peer.clone(), now.wall);
            let notice = Notice { lasted: now.since(&failure.since), ..notice };
            self.tell(notice);
        }
    }

    /// Time has passed. Returns what is to be told now, at most one notice for each peer and kind.
    pub(super) fn tick(&mut self, now: Moment) -> Vec<Notice> {
        let (mut alarms, mut news) = (Vec::new(), Vec::new());
        for (peer, board) in &mut self.peers {
            let reach = Reach {
                up_since: match &board.link {
                    Link::Up(since) => Some(since.mono),
                    _ => None,
                },
                outage_over: board.outage_over,
            };
            let mut down = false;
            if let Link::Down(failure) = &mut board.link {
                let watched = |pairs: &BTreeMap<RepoName, Pair>| pairs.values().any(|p| !p.is_paused());
                let lasted = now.since(&failure.since);
                if !failure.told && lasted >= self.alarm_after && watched(&board.pairs) {
                    failure.told = true;
                    let mut notice = Notice::new(Kind::PeerDown, peer.clone(), now.wall);
                    for repo in &board.unsettled {
                        notice.add(repo.clone(), &failure.error, lasted);
                    }
                    (notice.detail, notice.lasted) = (failure.error.clone(), lasted);
                    news.push(notice);
                }
                // Whoever knows that the peer is away need not hear it of each copy.
                down = failure.told;
            }
            if let Some(failure) = board.silent.as_mut().filter(|f| !f.told) {
                let lasted = now.since(&failure.since);
                if !down && lasted >= self.alarm_after {
                    failure.told = true;
                    let detail = failure.error.clone();
                    let notice = Notice::new(Kind::PeerSilent, peer.clone(), now.wall);
                    news.push(Notice { detail, lasted, ..notice });
                }
            }
            if down {
                continue;
            }
            for repo in &board.unsettled {
                let Some(pair) = board.pairs.get_mut(repo) else { continue };
                if let Some(alarm) = pair.apply(Input::Tick(reach), now, self.alarm_after) {
                    alarms.push((repo.clone(), peer.clone(), alarm, pair.lag(&now).unwrap_or_default()));
                }
            }
        }
        news.into_iter().for_each(|notice| self.tell(notice));
        for (repo, peer, alarm, lag) in alarms {
            self.raise(&repo, &peer, alarm, lag, now);
        }
        std::mem::take(&mut self.raised).into_iter().map(|raised| raised.notice).collect()
    }

    /// When the last attempt began that brought everything, or this one reference.
    pub(super) fn arrived(&self, repo: &RepoName, peer: &HostName, only: Option<&RefName>) -> Option<Arrived> {
        self.peers.get(peer)?.pairs.get(repo)?.arrived(only)
    }

    /// How old the oldest change is that a copy lacks.
    pub(super) fn lag(&self, repo: &RepoName, peer: &HostName, now: Moment) -> Option<Duration> {
        self.peers.get(peer)?.pairs.get(repo)?.lag(&now)
    }

    pub(super) fn state(&self, repo: &RepoName, peer: &HostName, now: Moment) -> State {
        let shown = |board: &PeerBoard| Some(board.shown(repo, peer, board.pairs.get(repo)?, &now).state);
        self.peers.get(peer).and_then(shown).unwrap_or(State::Unknown)
    }

    /// All copies, by repository and peer.
    pub(super) fn list(&self, now: Moment) -> Vec<PairStatus> {
        let of_peer = |(peer, board): (&HostName, &PeerBoard)| {
            let shown = |(repo, pair): (&RepoName, &Pair)| board.shown(repo, peer, pair, &now);
            board.pairs.iter().map(shown).collect::<Vec<_>>()
        };
        let mut all: Vec<PairStatus> = self.peers.iter().flat_map(of_peer).collect();
        all.sort_by(|a, b| (&a.repo, &a.peer).cmp(&(&b.repo, &b.peer)));
        all
    }

    /// The copies on `peer` that lack something, or of which that is not known.
    pub(super) fn lacking(&self, peer: &HostName, now: Moment) -> Vec<(RepoName, Lack)> {
        let Some(board) = self.peers.get(peer) else { return Vec::new() };
        let open = board.pairs.iter().filter(|(_, pair)| pair.is_behind() || pair.synced().is_none());
        open.map(|(repo, pair)| (repo.clone(), Lack { lag: pair.lag(&now), changes: pair.changes() })).collect()
    }

    /// The copies of one repository, by peer; looks at no others.
    pub(super) fn list_of(&self, repo: &RepoName, now: Moment) -> Vec<PairStatus> {
        let of_peer =
            |(peer, board): (&HostName, &PeerBoard)| Some(board.shown(repo, peer, board.pairs.get(repo)?, &now));
        self.peers.iter().filter_map(of_peer).collect()
    }

    /// All peers with copies; queue and pauses are the caller's to fill in.
    pub(super) fn peers(&self, now: Moment) -> Vec<PeerStatus> {
        let shown = |(peer, board): (&HostName, &PeerBoard)| {
            let open = || board.unsettled.iter().filter_map(|repo| board.pairs.get(repo));
            // What is pushed by hand is as old as its owner wants it to be.
            let behind = || open().filter(|pair| pair.is_behind() && !pair.is_manual());
            let alarms = |pair: &&Pair| pair.is_alarming() && !pair.is_paused();
            let down = matches!(&board.link, Link::Down(failure) if failure.told);
            PeerStatus {
                peer: peer.clone(),
                link: match &board.link {
                    Link::Unknown => LinkState::Unknown,
                    Link::Up(since) => LinkState::Up { since: since.wall },
                    Link::Down(Failure { error, since, next_try, .. }) => {
                        LinkState::Down { error: error.clone(), since: since.wall, next_try: *next_try }
                    }
                },
                silent: board.silent.as_ref().map(|f| (f.error.clone(), f.since.wall)),
                copies: board.pairs.len(),
                behind: behind().count(),
                alarming: if down { open().filter(|p| !p.is_paused()).count() } else { open().filter(alarms).count() },
                oldest_lag: behind().filter_map(|pair| pair.lag(&now)).max(),
                queued: 0,
                running: 0,
                paused_by: None,
            }
        };
        self.peers.iter().map(shown).collect()
    }
}

impl PeerBoard {
    fn shown(&self, repo: &RepoName, peer: &HostName, pair: &Pair, now: &Moment) -> PairStatus {
        let mut state = pair.state();
        let mut alarm = pair.is_alarming() && !pair.is_paused();
        // A peer that cannot be reached, or asked, fails all of its copies of which we do not know better.
        let down = if let Link::Down(failure) = &self.link { Some(failure) } else { None };
        if matches!(state, State::Unknown | State::Behind { .. } | State::Missing { .. })
            && let Some(Failure { error, since, next_try, told }) = down.or(self.silent.as_ref())
        {
            alarm |= *told;
            state = State::Failing { error: error.clone(), since: since.wall, next_try: *next_try };
        }
        PairStatus {
            repo: repo.clone(),
            peer: peer.clone(),
            state,
            manual: pair.is_manual(),
            lag: pair.lag(now),
            last_success: pair.synced().map(|at| at.wall),
            last_error: pair.last_error(),
            alarm,
        }
    }
}

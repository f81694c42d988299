//! What is known about each copy, for people; no decision reads it. Changes of state are logged here, once each.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use crate::model::{HostName, RepoName};

/// How one copy is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not compared yet in this run of the daemon.
    Unknown,
    InStep,
    /// A push is under way, or waits for its turn.
    Behind {
        since: SystemTime,
    },
    /// The peer has no such repository yet.
    Missing {
        since: SystemTime,
    },
    /// The last attempt failed; `next_try` is empty while one is under way.
    Failing {
        error: String,
        since: SystemTime,
        next_try: Option<SystemTime>,
    },
}

impl fmt::Display for State {
    /// A word and how long it has been so; the error of a failing copy comes last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ago = |since: &SystemTime| since.elapsed().unwrap_or_default().as_secs();
        match self {
            Self::Unknown => f.write_str("not compared yet"),
            Self::InStep => f.write_str("in step"),
            Self::Behind { since } => write!(f, "behind for {} s", ago(since)),
            Self::Missing { since } => write!(f, "missing for {} s", ago(since)),
            Self::Failing { error, since, next_try } => {
                write!(f, "failing for {} s", ago(since))?;
                if let Some(next) = next_try {
                    let wait = next.duration_since(SystemTime::now()).unwrap_or_default().as_secs();
                    write!(f, ", next try in {wait} s")?;
                }
                write!(f, ": {error}")
            }
        }
    }
}

/// One copy of one repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairStatus {
    pub repo: RepoName,
    pub peer: HostName,
    pub state: State,
    /// When it was last known to be equal, in this run of the daemon.
    pub last_success: Option<SystemTime>,
    /// It has been behind for longer than the configured `alarm_after`.
    pub alarm: bool,
}

/// A failure that is going on.
#[derive(Debug, Clone)]
struct Failure {
    error: String,
    since: SystemTime,
    next_try: Option<SystemTime>,
}

#[derive(Debug, Default)]
struct Pair {
    /// Since when it is known not to be equal.
    behind: Option<SystemTime>,
    missing: bool,
    failure: Option<Failure>,
    last_success: Option<SystemTime>,
    warned: bool,
}

/// All copies, and the peers that cannot be reached.
#[derive(Debug)]
pub(super) struct Board {
    alarm_after: Duration,
    pairs: BTreeMap<(RepoName, HostName), Pair>,
    /// Peers that cannot be reached.
    down: BTreeMap<HostName, Failure>,
    /// Peers that answer, but not the question how their copies are.
    mute: BTreeMap<HostName, Failure>,
}

impl Board {
    pub(super) fn new(alarm_after: Duration) -> Self {
        Self { alarm_after, pairs: BTreeMap::new(), down: BTreeMap::new(), mute: BTreeMap::new() }
    }

    fn pair(&mut self, repo: &RepoName, peer: &HostName) -> &mut Pair {
        self.pairs.entry((repo.clone(), peer.clone())).or_default()
    }

    pub(super) fn set_alarm_after(&mut self, alarm_after: Duration) {
        self.alarm_after = alarm_after;
    }

    pub(super) fn behind(&mut self, repo: &RepoName, peer: &HostName, missing: bool, now: SystemTime) {
        let pair = self.pair(repo, peer);
        pair.behind.get_or_insert(now);
        pair.missing |= missing;
    }

    /// Equal as of `began`; what was marked later stays behind.
    pub(super) fn in_step(&mut self, repo: &RepoName, peer: &HostName, began: SystemTime, marked_since: bool) {
        let pair = self.pair(repo, peer);
        pair.missing = false;
        pair.last_success = Some(began);
        pair.behind = marked_since.then_some(began);
        pair.warned = false;
        if let Some(failure) = pair.failure.take() {
            let seconds = failure.since.elapsed().unwrap_or_default().as_secs();
            tracing::info!(%repo, %peer, seconds, "the copy is in step again");
        }
    }

    pub(super) fn failed(
        &mut self,
        repo: &RepoName,
        peer: &HostName,
        error: &str,
        next_try: Option<SystemTime>,
        now: SystemTime,
    ) {
        let alarm_after = self.alarm_after;
        let pair = self.pair(repo, peer);
        let behind = *pair.behind.get_or_insert(now);
        match &mut pair.failure {
            Some(failure) => (failure.error, failure.next_try) = (error.to_owned(), next_try),
            None => {
                tracing::info!(%repo, %peer, error, "the copy cannot be updated; trying again");
                pair.failure = Some(Failure { error: error.to_owned(), since: now, next_try });
            }
        }
        if !pair.warned && now.duration_since(behind).unwrap_or_default() >= alarm_after {
            pair.warned = true;
            let seconds = now.duration_since(behind).unwrap_or_default().as_secs();
            tracing::warn!(%repo, %peer, error, seconds, "the copy has been behind for long");
        }
    }

    /// We are not its master any more.
    pub(super) fn drop_pair(&mut self, repo: &RepoName, peer: &HostName) {
        self.pairs.remove(&(repo.clone(), peer.clone()));
    }

    /// Lists exactly these copies; `assigned` names the repositories of each peer, sorted.
    pub(super) fn keep_only(&mut self, assigned: &BTreeMap<HostName, Vec<RepoName>>) {
        self.pairs.retain(|(repo, peer), _| assigned.get(peer).is_some_and(|repos| repos.binary_search(repo).is_ok()));
        for (peer, repos) in assigned {
            for repo in repos {
                self.pair(repo, peer);
            }
        }
    }

    pub(super) fn link_failed(&mut self, peer: &HostName, error: &str, next_try: Option<SystemTime>, now: SystemTime) {
        match self.down.get_mut(peer) {
            Some(failure) => (failure.error, failure.next_try) = (error.to_owned(), next_try),
            None => {
                tracing::info!(%peer, error, "the peer cannot be reached; its copies wait");
                self.down.insert(peer.clone(), Failure { error: error.to_owned(), since: now, next_try });
            }
        }
    }

    pub(super) fn link_works(&mut self, peer: &HostName) {
        if let Some(failure) = self.down.remove(peer) {
            let seconds = failure.since.elapsed().unwrap_or_default().as_secs();
            tracing::info!(%peer, seconds, "the peer is back");
        }
    }

    pub(super) fn not_compared(&mut self, peer: &HostName, error: &str, next_try: Option<SystemTime>, now: SystemTime) {
        match self.mute.get_mut(peer) {
            Some(failure) => (failure.error, failure.next_try) = (error.to_owned(), next_try),
            None => {
                tracing::warn!(%peer, error, "the peer does not tell how its copies are; pushes still go there");
                self.mute.insert(peer.clone(), Failure { error: error.to_owned(), since: now, next_try });
            }
        }
    }

    pub(super) fn compared(&mut self, peer: &HostName) {
        if self.mute.remove(peer).is_some() {
            tracing::info!(%peer, "the peer tells again how its copies are");
        }
    }

    /// All copies, by repository and peer.
    pub(super) fn list(&self, now: SystemTime) -> Vec<PairStatus> {
        let shown = |((repo, peer), pair): (&(RepoName, HostName), &Pair)| {
            // A peer that cannot be reached, or asked, fails all of its copies of which we do not know better.
            let doubtful = pair.behind.is_some() || pair.last_success.is_none();
            let of_peer = || self.down.get(peer).or_else(|| self.mute.get(peer)).filter(|_| doubtful);
            let failure = pair.failure.as_ref().or_else(of_peer);
            let state = match (failure, pair.behind) {
                (Some(Failure { error, since, next_try }), _) => {
                    State::Failing { error: error.clone(), since: *since, next_try: *next_try }
                }
                (None, Some(since)) if pair.missing => State::Missing { since },
                (None, Some(since)) => State::Behind { since },
                (None, None) if pair.last_success.is_none() => State::Unknown,
                (None, None) => State::InStep,
            };
            let alarm = pair.behind.is_some_and(|b| now.duration_since(b).unwrap_or_default() >= self.alarm_after);
            PairStatus { repo: repo.clone(), peer: peer.clone(), state, last_success: pair.last_success, alarm }
        };
        self.pairs.iter().map(shown).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_goes_behind_fails_and_recovers() {
        let (repo, peer) = (RepoName::new("a").expect("a name"), HostName::new("server2").expect("a name"));
        let mut board = Board::new(Duration::from_secs(120));
        let start = SystemTime::now();
        let later = start + Duration::from_secs(300);
        let state = |board: &Board, now| board.list(now).pop().expect("one copy");

        board.behind(&repo, &peer, true, start);
        board.behind(&repo, &peer, false, later);
        assert_eq!(state(&board, start).state, State::Missing { since: start });
        board.link_failed(&peer, "no route", None, start);
        assert!(matches!(state(&board, start).state, State::Failing { error, .. } if error == "no route"));
        board.link_works(&peer);
        board.failed(&repo, &peer, "disk full", Some(later), start);
        board.failed(&repo, &peer, "disk still full", None, later);
        let failing = state(&board, later);
        let expected = State::Failing { error: "disk still full".into(), since: start, next_try: None };
        assert_eq!((failing.state, failing.alarm, failing.last_success), (expected, true, None));
        board.in_step(&repo, &peer, later, true);
        assert_eq!(state(&board, later).state, State::Behind { since: later }, "a push landed meanwhile");
        board.in_step(&repo, &peer, later, false);
        let well = state(&board, later);
        assert_eq!((well.state, well.alarm, well.last_success), (State::InStep, false, Some(later)));
        board.link_failed(&peer, "no route", None, start);
        assert_eq!(state(&board, later).state, State::InStep, "an outage does not make a copy stale");
        board.keep_only(&BTreeMap::new());
        assert_eq!(board.list(later), []);
        board.link_works(&peer);
        board.keep_only(&[(peer.clone(), vec![repo.clone()])].into());
        assert_eq!(state(&board, later).state, State::Unknown);
        board.not_compared(&peer, "version 2", None, start);
        assert!(matches!(state(&board, later).state, State::Failing { error, .. } if error == "version 2"));
        board.compared(&peer);
        assert_eq!(state(&board, later).state, State::Unknown);
    }
}

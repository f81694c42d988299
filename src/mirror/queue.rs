//! What one peer may be behind in, and when to try next. Pure: the caller brings the clock and the dice.
//!
//! The queue holds hints. At most one attempt runs for a repository, and at most one more is wanted after it, so
//! a thousand pushes in a second become few; its size is bounded by the number of repositories. Failures of the link
//! count for the whole peer, and while it is down one attempt at a time probes it; failures of a repository count for
//! that one alone. First copies have a line of their own, behind what users push, see [`Queue::mark_first`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use super::backoff::Backoff;
use super::first::Rank;
use crate::model::RepoName;

/// Callers that may wait for one repository's next attempt.
const WAITERS_MAX: usize = 64;
/// After so many failures in a row the leader of first copies gives way.
const LEADS_FOR: u32 = 3;

/// Something to do for the peer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Work<W> {
    /// Make its copy equal, then answer those who wait.
    Push(RepoName, Vec<W>),
    /// Compare all copies.
    Scan,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// This repository, or this scan, failed on a link that works.
    Failed,
    /// The link does not work; `false` when only a person can mend it, and then the pause is the longest at once.
    LinkFailed {
        retry_can_help: bool,
    },
    /// There is nothing to do any more: we are not its master, or it is gone.
    Dropped,
    /// The copy is not equal, and trying again is not for the machine to decide: it is paused, held back, or pushed by
    /// hand. A mark or an order brings it back.
    Waits,
}

/// One peer's queue. `W` is what waits for an attempt.
#[derive(Debug)]
pub(super) struct Queue<W> {
    backoff: Backoff,
    pairs: BTreeMap<RepoName, Pair<W>>,
    ready: VecDeque<RepoName>,
    /// First copies that are ready; the smallest rank goes first.
    first: BTreeSet<(Rank, RepoName)>,
    first_running: usize,
    /// Until this one is in step, or has failed [`LEADS_FOR`] times, no other first copy begins.
    leader: Option<RepoName>,
    waiting: BTreeSet<(Instant, RepoName)>,
    scan: Slot,
    running: usize,
    link_failures: u32,
    link_not_before: Option<Instant>,
    /// Counts the calls of [`Queue::hurry`].
    hurried: u64,
}

#[derive(Debug)]
struct Pair<W> {
    slot: Slot,
    /// It is a first copy, until somebody waits for it.
    rank: Option<Rank>,
    runs_as_first: bool,
    waiters: Vec<W>,
}

/// One thing that is wanted, running, or both.
#[derive(Debug, Default)]
struct Slot {
    wanted: bool,
    running: bool,
    failures: u32,
    not_before: Option<Instant>,
    /// [`Queue::hurried`] when the running attempt began.
    began: u64,
}

impl<W> Queue<W> {
    pub(super) fn set_backoff(&mut self, backoff: Backoff) {
        self.backoff = backoff;
    }

    pub(super) fn new(backoff: Backoff) -> Self {
        Self {
            backoff,
            pairs: BTreeMap::new(),
            ready: VecDeque::new(),
            first: BTreeSet::new(),
            first_running: 0,
            leader: None,
            waiting: BTreeSet::new(),
            scan: Slot::default(),
            running: 0,
            link_failures: 0,
            link_not_before: None,
            hurried: 0,
        }
    }

    /// The repository may be behind. A pause after a failure stays.
    pub(super) fn mark(&mut self, repo: &RepoName) {
        let pair = self.pairs.entry(repo.clone()).or_default();
        if !pair.slot.wanted {
            pair.slot.wanted = true;
            if !pair.slot.running {
                self.ready.push_back(repo.clone());
            }
        }
    }

    /// The repository's copy is missing or blank. First copies go after everything else, by their rank, and leave one
    /// place free. What is marked besides keeps its place in its line; an order takes it out of this one.
    pub(super) fn mark_first(&mut self, repo: &RepoName, rank: Rank) {
        let pair = self.pairs.entry(repo.clone()).or_default();
        match pair.rank {
            _ if pair.slot.running => pair.slot.wanted = true,
            // It is in the other line, or waits for its next try there.
            None if pair.slot.wanted => {}
            before => {
                (pair.slot.wanted, pair.rank) = (true, Some(rank));
                let waits = pair.slot.not_before.is_some();
                if let Some(before) = before {
                    self.first.remove(&(before, repo.clone()));
                }
                if !waits {
                    self.first.insert((rank, repo.clone()));
                }
            }
        }
    }

    /// No first copy but this one's begins until it is in step, is given up, or goes on failing; `None` lets all begin.
    pub(super) fn lead(&mut self, leader: Option<&RepoName>) {
        self.leader = leader.cloned();
    }

    /// The copy has been seen in step.
    pub(super) fn caught_up(&mut self, repo: &RepoName) {
        if self.leader.as_ref() == Some(repo) {
            self.leader = None;
        }
    }

    /// The first copy that may begin.
    fn next_first(&self, most: usize) -> Option<&(Rank, RepoName)> {
        if self.first_running >= most.saturating_sub(1).max(1) {
            return None;
        }
        let gives_up = |leader| self.pairs.get(leader).is_some_and(|pair| pair.slot.failures >= LEADS_FOR);
        let leader = self.leader.as_ref().filter(|leader| !gives_up(leader));
        // The leader has the smallest rank of all.
        self.first.first().filter(|(_, repo)| leader.is_none_or(|leader| leader == repo))
    }

    /// Puts what is wanted at the end of its line.
    fn enqueue(&mut self, repo: RepoName) {
        match self.pairs.get(&repo).and_then(|pair| pair.rank) {
            Some(rank) => drop(self.first.insert((rank, repo))),
            None => self.ready.push_back(repo),
        }
    }

    /// By hand: an attempt that begins from now on, without a pause. Gives the waiter back when there are too many.
    pub(super) fn ask(&mut self, repo: &RepoName, waiter: W) -> Result<(), W> {
        self.hasten(repo);
        self.link_not_before = None;
        let waiters = &mut self.pairs.get_mut(repo).expect("just marked").waiters;
        if waiters.len() >= WAITERS_MAX {
            return Err(waiter);
        }
        waiters.push(waiter);
        Ok(())
    }

    /// An attempt that begins from now on, without the repository's own pause; that of a dead link stays.
    pub(super) fn hasten(&mut self, repo: &RepoName) {
        self.mark(repo);
        let pair = self.pairs.get_mut(repo).expect("just marked");
        if let Some(rank) = pair.rank.take()
            && self.first.remove(&(rank, repo.clone()))
        {
            self.ready.push_back(repo.clone());
        }
        if let Some(at) = pair.slot.not_before.take()
            && self.waiting.remove(&(at, repo.clone()))
        {
            self.ready.push_front(repo.clone());
        }
    }

    /// Nothing is wanted for these repositories any more, unless somebody waits for an attempt; what runs goes on.
    pub(super) fn give_up(&mut self, which: impl Fn(&RepoName) -> bool) {
        self.leader.take_if(|leader| which(leader));
        let mut left = Vec::new();
        self.pairs.retain(|repo, pair| {
            if !pair.waiters.is_empty() || !which(repo) {
                return true;
            }
            pair.slot.wanted = false;
            left.extend(pair.slot.not_before.take().map(|at| (at, repo.clone())));
            pair.slot.running
        });
        for waiting in left {
            self.waiting.remove(&waiting);
        }
        let pairs = &self.pairs;
        self.ready.retain(|repo| pairs.get(repo).is_some_and(|pair| pair.slot.wanted));
        self.first.retain(|(_, repo)| pairs.get(repo).is_some_and(|pair| pair.slot.wanted));
    }

    /// How many pushes wait for their turn or their next try, and how many attempts run.
    pub(super) fn length(&self) -> (usize, usize) {
        (self.ready.len() + self.first.len() + self.waiting.len(), self.running)
    }

    /// Whether an attempt is wanted or running.
    pub(super) fn is_known(&self, repo: &RepoName) -> bool {
        self.pairs.contains_key(repo)
    }

    #[cfg(test)]
    pub(super) fn scan_is_due(&self) -> bool {
        self.scan.wanted || self.scan.running
    }

    /// All copies are to be compared.
    pub(super) fn want_scan(&mut self) {
        self.scan.wanted = true;
    }

    /// All copies are to be compared again, at `at`.
    pub(super) fn want_scan_at(&mut self, at: Instant) {
        if !self.scan.wanted {
            (self.scan.wanted, self.scan.not_before) = (true, Some(at));
        }
    }

    /// A new link is up: a comparison under way goes over it, or fails with the old one and comes again.
    pub(super) fn want_scan_of_new_link(&mut self) {
        self.scan.wanted |= !self.scan.running;
    }

    /// The link works again, or the configuration changed: nothing waits any longer.
    pub(super) fn hurry(&mut self) {
        self.hurried += 1;
        self.link_failures = 0;
        self.link_not_before = None;
        self.scan.not_before = None;
        for (_, repo) in std::mem::take(&mut self.waiting) {
            if let Some(pair) = self.pairs.get_mut(&repo) {
                pair.slot.not_before = None;
            }
            self.enqueue(repo);
        }
    }

    /// The next thing to do at `now`, of which at most `most` run at once.
    pub(super) fn take(&mut self, now: Instant, most: usize) -> Option<Work<W>> {
        // One attempt is enough to learn whether a link that failed works again.
        let most = if self.link_failures > 0 { 1 } else { most };
        if self.running >= most || self.link_not_before.is_some_and(|at| at > now) {
            return None;
        }
        while let Some((at, _)) = self.waiting.first()
            && *at <= now
        {
            let (_, repo) = self.waiting.pop_first().expect("just seen");
            if let Some(pair) = self.pairs.get_mut(&repo) {
                pair.slot.not_before = None;
            }
            self.enqueue(repo);
        }
        // On a doubtful link a push comes first: it is quicker, and somebody waits for it.
        let scan_due = self.scan.wanted && !self.scan.running && self.scan.not_before.is_none_or(|at| at <= now);
        if scan_due && (self.link_failures == 0 || self.ready.is_empty()) {
            (self.scan.wanted, self.scan.running, self.scan.began) = (false, true, self.hurried);
            self.running += 1;
            return Some(Work::Scan);
        }
        let first = self.ready.is_empty();
        let repo = if first { self.next_first(most)?.1.clone() } else { self.ready.pop_front()? };
        let pair = self.pairs.get_mut(&repo).expect("what is ready is known");
        pair.runs_as_first = first;
        if let (true, Some(rank)) = (first, pair.rank) {
            self.first.remove(&(rank, repo.clone()));
            self.first_running += 1;
        }
        (pair.slot.wanted, pair.slot.running, pair.slot.not_before) = (false, true, None);
        pair.slot.began = self.hurried;
        self.running += 1;
        Some(Work::Push(repo, std::mem::take(&mut pair.waiters)))
    }

    /// When [`Queue::take`] has something that it has not now, if only time is missing.
    pub(super) fn next_try(&self, most: usize) -> Option<Instant> {
        if self.running >= most || (self.link_failures > 0 && self.running > 0) {
            return None;
        }
        let scan = self.scan.wanted && !self.scan.running;
        if !self.ready.is_empty() || self.next_first(most).is_some() || (scan && self.scan.not_before.is_none()) {
            return self.link_not_before;
        }
        let pair = self.waiting.first().map(|(at, _)| *at);
        let scan = if scan { self.scan.not_before } else { None };
        let first = match (pair, scan) {
            (Some(pair), Some(scan)) => pair.min(scan),
            (one, other) => one.or(other)?,
        };
        Some(self.link_not_before.map_or(first, |link| link.max(first)))
    }

    /// A push has ended. Returns when it is tried again, if only after a pause.
    pub(super) fn pushed(&mut self, repo: &RepoName, outcome: Outcome, now: Instant, dice: f64) -> Option<Instant> {
        self.running -= 1;
        let began = self.pairs.get(repo)?.slot.began;
        let link_try = self.link_result(outcome, began, now, dice);
        // A configuration that waits for a person (it has diverged there) holds up nobody: what the peer does not take
        // without it, it refuses in its own words, which the status shows.
        if matches!(outcome, Outcome::Done | Outcome::Dropped | Outcome::Waits) {
            self.caught_up(repo);
        }
        let pair = self.pairs.get_mut(repo)?;
        pair.slot.running = false;
        if std::mem::take(&mut pair.runs_as_first) {
            self.first_running -= 1;
        }
        if outcome == Outcome::Failed {
            pair.slot.failures = pair.slot.failures.saturating_add(1);
            let at = now + self.backoff.pause(pair.slot.failures, dice);
            pair.slot.wanted = true;
            // Who waits by hand for the next attempt does not wait for a pause.
            if pair.waiters.is_empty() {
                pair.slot.not_before = Some(at);
                self.waiting.insert((at, repo.clone()));
                return Some(at);
            }
            self.ready.push_front(repo.clone());
            return None;
        }
        if matches!(outcome, Outcome::LinkFailed { .. }) {
            pair.slot.wanted = true;
        } else {
            (pair.slot.failures, pair.rank) = (0, None);
        }
        if pair.slot.wanted {
            self.enqueue(repo.clone());
        } else {
            self.pairs.remove(repo);
        }
        link_try
    }

    /// A scan has ended.
    pub(super) fn scanned(&mut self, outcome: Outcome, now: Instant, dice: f64) -> Option<Instant> {
        self.running -= 1;
        let link_try = self.link_result(outcome, self.scan.began, now, dice);
        self.scan.running = false;
        match outcome {
            Outcome::Failed => {
                self.scan.failures = self.scan.failures.saturating_add(1);
                self.scan.wanted = true;
                self.scan.not_before = Some(now + self.backoff.pause(self.scan.failures, dice));
                self.scan.not_before
            }
            Outcome::LinkFailed { .. } => {
                self.scan.wanted = true;
                link_try
            }
            Outcome::Done | Outcome::Dropped | Outcome::Waits => {
                (self.scan.failures, self.scan.not_before) = (0, None);
                None
            }
        }
    }

    fn link_result(&mut self, outcome: Outcome, began: u64, now: Instant, dice: f64) -> Option<Instant> {
        match outcome {
            Outcome::LinkFailed { retry_can_help } => {
                // An attempt from before a change says little about the link since then.
                let retry_can_help = retry_can_help || began != self.hurried;
                match self.link_not_before {
                    // Attempts that ran side by side and failed of one cause count once.
                    Some(at) if at > now && retry_can_help => return Some(at),
                    _ if retry_can_help => self.link_failures = self.link_failures.saturating_add(1),
                    _ => self.link_failures = u32::MAX,
                }
                let at = now + self.backoff.pause(self.link_failures, dice);
                self.link_not_before = Some(at);
                Some(at)
            }
            Outcome::Done | Outcome::Failed | Outcome::Waits => {
                self.link_failures = 0;
                self.link_not_before = None;
                None
            }
            // Decided without the link, so it says nothing about it.
            Outcome::Dropped => None,
        }
    }
}

impl<W> Default for Pair<W> {
    fn default() -> Self {
        Self { slot: Slot::default(), rank: None, runs_as_first: false, waiters: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MOST: usize = 2;

    fn queue() -> (Queue<u32>, Instant) {
        (Queue::new(Backoff { first: SECOND, max: 8 * SECOND }), Instant::now())
    }

    fn repo(name: &str) -> RepoName {
        RepoName::new(name).expect("a name")
    }

    fn push(name: &str) -> Option<Work<u32>> {
        Some(Work::Push(repo(name), vec![]))
    }

    #[test]
    fn duplicates_merge_and_one_runs_while_one_waits() {
        let (mut q, t) = queue();
        for _ in 0..1000 {
            q.mark(&repo("a"));
        }
        assert_eq!(q.take(t, MOST), push("a"));
        assert_eq!(q.take(t, MOST), None, "the same one does not run twice at once");
        for _ in 0..1000 {
            q.mark(&repo("a"));
        }
        assert_eq!(q.take(t, MOST), None);
        q.pushed(&repo("a"), Outcome::Done, t, 0.0);
        assert_eq!(q.take(t, MOST), push("a"), "what came meanwhile is pushed once more");
        q.pushed(&repo("a"), Outcome::Done, t, 0.0);
        assert_eq!((q.take(t, MOST), q.next_try(MOST)), (None, None));
        assert!(q.pairs.is_empty(), "nothing is kept of what is in step");
    }

    #[test]
    fn repositories_take_turns_within_the_limit() {
        let (mut q, t) = queue();
        for name in ["c", "a", "b"] {
            q.mark(&repo(name));
        }
        assert_eq!((q.take(t, MOST), q.take(t, MOST), q.take(t, MOST)), (push("c"), push("a"), None));
        q.mark(&repo("c"));
        q.pushed(&repo("c"), Outcome::Done, t, 0.0);
        assert_eq!(q.take(t, MOST), push("b"), "a busy repository goes to the end of the line");
    }

    #[test]
    fn a_failing_repository_pauses_alone() {
        let (mut q, t) = queue();
        q.mark(&repo("a"));
        assert_eq!(q.take(t, MOST), push("a"));
        assert_eq!(q.pushed(&repo("a"), Outcome::Failed, t, 0.0), Some(t + SECOND));
        q.mark(&repo("a"));
        q.mark(&repo("b"));
        assert_eq!(q.take(t, MOST), push("b"));
        assert_eq!((q.take(t, MOST), q.next_try(MOST)), (None, Some(t + SECOND)));
        assert_eq!(q.take(t + SECOND, MOST), push("a"));
        assert_eq!(q.pushed(&repo("a"), Outcome::Failed, t, 0.0), Some(t + 2 * SECOND), "the pause doubles");
        q.hurry();
        assert_eq!(q.take(t, MOST), push("a"), "a change ends all pauses");
        q.pushed(&repo("a"), Outcome::Done, t, 0.0);
        assert!(!q.pairs.contains_key(&repo("a")));
    }

    #[test]
    fn a_dead_link_is_probed_by_one_and_then_all_go() {
        let (mut q, t) = queue();
        for name in ["a", "b", "c"] {
            q.mark(&repo(name));
        }
        q.want_scan();
        assert_eq!((q.take(t, MOST), q.take(t, MOST)), (Some(Work::Scan), push("a")));
        let down = Outcome::LinkFailed { retry_can_help: true };
        q.scanned(down, t, 0.0);
        let next = q.pushed(&repo("a"), down, t, 0.0);
        assert_eq!(next, Some(t + SECOND), "one cause counts once");
        assert_eq!((q.take(t, MOST), q.next_try(MOST)), (None, next));
        let t = t + SECOND;
        assert_eq!((q.take(t, MOST), q.take(t, MOST)), (push("b"), None));
        assert_eq!(q.next_try(MOST), None, "the probe will tell");
        q.pushed(&repo("b"), Outcome::Done, t, 0.0);
        assert_eq!((q.take(t, MOST), q.take(t, MOST)), (Some(Work::Scan), push("c")));
    }

    #[test]
    fn what_a_person_must_mend_pauses_longest_and_by_hand_not_at_all() {
        let (mut q, t) = queue();
        q.mark(&repo("a"));
        assert!(q.take(t, MOST).is_some());
        let shut = Outcome::LinkFailed { retry_can_help: false };
        assert_eq!(q.pushed(&repo("a"), shut, t, 0.0), Some(t + 8 * SECOND));
        assert_eq!(q.take(t, MOST), None);
        q.ask(&repo("a"), 7).expect("room");
        assert_eq!(q.take(t, MOST), Some(Work::Push(repo("a"), vec![7])));
        q.ask(&repo("a"), 8).expect("room");
        q.pushed(&repo("a"), Outcome::Failed, t, 0.0);
        assert_eq!(q.take(t, MOST), Some(Work::Push(repo("a"), vec![8])), "an attempt that began after the order");
        (0..64).for_each(|n| q.ask(&repo("b"), n).expect("room"));
        assert_eq!(q.ask(&repo("b"), 99), Err(99));
    }

    #[test]
    fn what_is_given_up_is_forgotten_and_comes_back_by_a_mark() {
        let (mut q, t) = queue();
        for name in ["a", "b", "c"] {
            q.mark(&repo(name));
        }
        assert_eq!(q.take(t, MOST), push("a"));
        q.pushed(&repo("a"), Outcome::Failed, t, 0.0);
        assert_eq!(q.take(t, MOST), push("b"));
        q.mark(&repo("b"));
        q.give_up(|_| true);
        assert_eq!((q.length(), q.take(t, MOST), q.next_try(MOST)), ((0, 1), None, None));
        q.pushed(&repo("b"), Outcome::Waits, t, 0.0);
        assert!(q.pairs.is_empty() && q.waiting.is_empty());
        q.mark(&repo("a"));
        q.ask(&repo("a"), 1).expect("room");
        q.give_up(|_| true);
        assert_eq!(q.take(t, MOST), Some(Work::Push(repo("a"), vec![1])), "who waits gets an answer");
    }

    /// Random histories: nothing that was marked is lost, nothing runs twice at once, and the queue empties.
    #[test]
    fn whatever_happens_each_mark_is_followed_by_an_attempt_that_succeeds() {
        use rand::{Rng as _, SeedableRng as _};
        for seed in 0..300 {
            let mut dice = rand::rngs::StdRng::seed_from_u64(seed);
            let (mut q, mut t) = queue();
            let names: Vec<RepoName> = ["a", "b", "c", "d"].iter().map(|n| repo(n)).collect();
            let mut owed: BTreeSet<RepoName> = BTreeSet::new();
            let (mut running, mut scanning): (Vec<RepoName>, bool) = (Vec::new(), false);
            for step in 0..400 {
                let calm = step > 200;
                if !calm && dice.random_bool(0.4) {
                    let name = &names[dice.random_range(0..names.len())];
                    q.mark(name);
                    owed.insert(name.clone());
                }
                if !calm && dice.random_bool(0.05) {
                    q.want_scan();
                }
                match q.take(t, MOST) {
                    Some(Work::Push(name, _)) => {
                        assert!(!running.contains(&name), "seed {seed}");
                        owed.remove(&name);
                        running.push(name);
                    }
                    Some(Work::Scan) => assert!(!std::mem::replace(&mut scanning, true), "seed {seed}"),
                    None => match q.next_try(MOST) {
                        Some(at) => t = t.max(at),
                        None if running.is_empty() && !scanning => assert!(owed.is_empty(), "seed {seed} stuck"),
                        None => {}
                    },
                }
                assert!(running.len() + usize::from(scanning) <= MOST, "seed {seed}");
                if dice.random_bool(0.5) || calm {
                    let outcomes = [
                        Outcome::Done,
                        Outcome::Failed,
                        Outcome::LinkFailed { retry_can_help: true },
                        Outcome::LinkFailed { retry_can_help: false },
                    ];
                    let outcome = if calm { Outcome::Done } else { outcomes[dice.random_range(0..4)] };
                    if let Some(name) = running.pop() {
                        if outcome != Outcome::Done {
                            owed.insert(name.clone());
                        }
                        q.pushed(&name, outcome, t, dice.random());
                    } else if scanning {
                        scanning = false;
                        q.scanned(outcome, t, dice.random());
                    }
                }
            }
            assert!(owed.is_empty() && running.is_empty() && q.pairs.is_empty(), "seed {seed}: {q:?}");
        }
    }
}

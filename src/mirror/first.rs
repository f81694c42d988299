//! First copies: those that a peer lacks, or has blank. In which order they go, and how far they have come. Pure.
//!
//! A repository is the unit: what is complete is never sent again, and git cannot resume within one pack, so what was
//! cut off begins anew.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use super::state::Moment;
use crate::model::{ADMIN_REPO, HostName, RepoName};
use crate::repo::Weight;

/// How often the log tells how far a peer has come.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Which first copy goes before which; the smaller goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// Without its configuration the peer takes nothing else.
    follows_the_configuration: bool,
    /// So many times 16 KiB · 16 · 16 · … holds it. Coarse, so that age counts too.
    size_class: u32,
    pushed: Reverse<Option<SystemTime>>,
}

impl Rank {
    pub(super) fn of(repo: &RepoName, weight: Weight) -> Self {
        let size_class = (u64::BITS - (weight.bytes >> 14).leading_zeros()).div_ceil(4);
        Self { follows_the_configuration: !is_configuration(repo), size_class, pushed: Reverse(weight.pushed) }
    }
}

pub(super) fn is_configuration(repo: &RepoName) -> bool {
    repo.as_str() == ADMIN_REPO
}

/// How far the first copy to one peer has come, since its beginning or the last start of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstCopy {
    pub peer: HostName,
    pub since: SystemTime,
    pub repos: usize,
    pub repos_done: usize,
    /// On this node's disk; on the way it may be a little more or less.
    pub bytes: u64,
    pub bytes_done: u64,
}

impl FirstCopy {
    /// For programs: `replica`, `since_seconds`, `repositories` and `bytes` with `done` and `total` each.
    pub fn json(&self) -> serde_json::Value {
        json!({
            "replica": self.peer.as_str(), "since_seconds": self.since.elapsed().unwrap_or_default().as_secs(),
            "repositories": {"done": self.repos_done, "total": self.repos},
            "bytes": {"done": self.bytes_done, "total": self.bytes},
        })
    }
}

impl fmt::Display for FirstCopy {
    /// `first copy to server3: 312 of 1,000 repositories, 3.1 of 9.0 GB`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { peer, repos, repos_done, bytes, bytes_done, .. } = self;
        let noun = if *repos == 1 { "repository" } else { "repositories" };
        let (unit, name) = match bytes {
            1_000_000_000.. => (1e9, "GB"),
            1_000_000.. => (1e6, "MB"),
            _ => (1e3, "kB"),
        };
        let (done, all) = (*bytes_done as f64 / unit, *bytes as f64 / unit);
        let (repos_done, repos) = (thousands(*repos_done), thousands(*repos));
        write!(f, "first copy to {peer}: {repos_done} of {repos} {noun}, {done:.1} of {all:.1} {name}")
    }
}

fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// What is still to come to one peer, and what has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    open: BTreeMap<RepoName, Open>,
    since: Option<SystemTime>,
    done: usize,
    done_bytes: u64,
    told: Option<Instant>,
}

#[derive(Debug, Default)]
struct Open {
    size: u64,
    /// By the attempt under way.
    sent: u64,
}

impl Progress {
    /// This copy is missing or blank.
    pub(super) fn expect(&mut self, repo: &RepoName, size: u64, now: Moment) {
        self.since.get_or_insert(now.wall);
        self.open.entry(repo.clone()).or_default().size = size;
    }

    /// Bytes have gone out for this copy, whatever copy it is.
    pub(super) fn sent(&mut self, repo: &RepoName, bytes: usize) {
        if let Some(open) = self.open.get_mut(repo) {
            open.sent = open.sent.saturating_add(bytes as u64);
        }
    }

    /// An attempt has failed; the next one begins anew.
    pub(super) fn failed(&mut self, repo: &RepoName) {
        if let Some(open) = self.open.get_mut(repo) {
            open.sent = 0;
        }
    }

    /// The copy is equal.
    pub(super) fn arrived(&mut self, repo: &RepoName) {
        if let Some(open) = self.open.remove(repo) {
            self.done += 1;
            self.done_bytes += open.size;
        }
    }

    /// Only these are still to come; the others wait for a person, or are no copies any more.
    pub(super) fn keep(&mut self, which: impl Fn(&RepoName) -> bool) {
        self.open.retain(|repo, _| which(repo));
    }

    /// While anything is still to come.
    pub(super) fn shown(&self, peer: &HostName) -> Option<FirstCopy> {
        if self.open.is_empty() { None } else { self.summed(peer) }
    }

    fn summed(&self, peer: &HostName) -> Option<FirstCopy> {
        let since = self.since?;
        let left: u64 = self.open.values().map(|open| open.size).sum();
        // A pack on the way is not exactly what is on the disk, and a sum that overshoots would look wrong.
        let sent: u64 = self.open.values().map(|open| open.sent.min(open.size)).sum();
        Some(FirstCopy {
            peer: peer.clone(),
            since,
            repos: self.done + self.open.len(),
            repos_done: self.done,
            bytes: self.done_bytes + left,
            bytes_done: self.done_bytes + sent,
        })
    }

    /// A line for the log: at the beginning, every ten seconds, and at the end, after which nothing is shown any more.
    pub(super) fn news(&mut self, peer: &HostName, now: Moment) -> Option<String> {
        let shown = self.summed(peer)?;
        if self.open.is_empty() {
            let took = now.wall.duration_since(shown.since).unwrap_or_default().as_secs();
            *self = Self::default();
            // What was given up before anything came is no copy that has ended.
            return (shown.repos > 0).then(|| format!("{shown}; complete after {took} s"));
        }
        match self.told {
            Some(at) if now.mono.saturating_duration_since(at) < TOLD_EVERY => None,
            _ => {
                self.told = Some(now.mono);
                Some(shown.to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::backoff::Backoff;
    use super::super::queue::{Outcome, Queue, Work};
    use super::*;

    fn repo(name: &str) -> RepoName {
        RepoName::new(name).expect("a name")
    }

    fn weight(bytes: u64, age: u64) -> Weight {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        Weight { bytes, pushed: Some(now - Duration::from_secs(age)) }
    }

    fn queue() -> (Queue<u32>, Instant) {
        let second = Duration::from_secs(1);
        (Queue::new(Backoff { first: second, max: 8 * second }), Instant::now())
    }

    fn taken(q: &mut Queue<u32>, now: Instant, most: usize) -> Option<String> {
        match q.take(now, most)? {
            Work::Push(repo, _) => Some(repo.to_string()),
            Work::Scan => Some("SCAN".to_owned()),
        }
    }

    #[test]
    fn the_configuration_then_small_before_large_then_young_before_old() {
        let mib = 1 << 20;
        let mut all = [
            ("huge", weight(5000 * mib, 1)),
            ("old", weight(10_000, 900)),
            ("young", weight(15_000, 5)),
            ("middle", weight(20 * mib, 0)),
            ("younger", weight(0, 4)),
            ("gitmesh-admin", weight(90 * mib, 9000)),
            ("unknown", Weight { bytes: 1, pushed: None }),
        ]
        .map(|(name, weight)| (Rank::of(&repo(name), weight), name));
        all.sort_unstable();
        let order = all.map(|(_, name)| name);
        assert_eq!(order, ["gitmesh-admin", "younger", "young", "old", "unknown", "middle", "huge"]);
    }

    #[test]
    fn first_copies_go_behind_pushes_and_leave_a_place() {
        let (mut q, t) = queue();
        for (n, name) in ["d", "c", "b", "a"].into_iter().enumerate() {
            q.mark_first(&repo(name), Rank::of(&repo(name), weight(1 << (20 + 4 * n), 0)));
        }
        q.mark(&repo("pushed"));
        assert_eq!(taken(&mut q, t, 3).as_deref(), Some("pushed"));
        assert_eq!(taken(&mut q, t, 3).as_deref(), Some("d"), "the smallest");
        assert_eq!(taken(&mut q, t, 3).as_deref(), Some("c"));
        q.pushed(&repo("pushed"), Outcome::Done, t, 0.0);
        assert_eq!((taken(&mut q, t, 3), q.next_try(3)), (None, None), "the last place is kept for pushes");
        q.mark(&repo("a"));
        assert_eq!(taken(&mut q, t, 3), None, "a push to what is not there yet waits for its first copy");
        q.ask(&repo("a"), 1).expect("room");
        assert_eq!(taken(&mut q, t, 3).as_deref(), Some("a"), "unless somebody waits for it");
        q.pushed(&repo("d"), Outcome::LinkFailed { retry_can_help: true }, t, 0.0);
        let t = t + Duration::from_secs(9);
        for name in ["c", "a"] {
            q.pushed(&repo(name), Outcome::Done, t, 0.0);
        }
        assert_eq!(taken(&mut q, t, 3).as_deref(), Some("d"), "what was cut off keeps its rank");
        q.pushed(&repo("d"), Outcome::Failed, t, 0.0);
        assert_eq!(taken(&mut q, t, 1).as_deref(), Some("b"), "a single place is shared");
        q.pushed(&repo("b"), Outcome::Waits, t, 0.0);
        assert_eq!((taken(&mut q, t, 3), q.length()), (None, (1, 0)));
        assert_eq!(taken(&mut q, t + Duration::from_secs(2), 3).as_deref(), Some("d"));
        q.pushed(&repo("d"), Outcome::Done, t, 0.0);
        assert_eq!(q.length(), (0, 0));
    }

    #[test]
    fn nothing_goes_before_the_configuration_but_what_a_person_wants() {
        let (mut q, t) = queue();
        let admin = repo(ADMIN_REPO);
        q.lead(Some(&admin));
        for name in ["a", "b", ADMIN_REPO] {
            q.mark_first(&repo(name), Rank::of(&repo(name), Weight::default()));
        }
        assert_eq!(taken(&mut q, t, 4).as_deref(), Some(ADMIN_REPO));
        assert_eq!((taken(&mut q, t, 4), q.next_try(4)), (None, None));
        q.pushed(&admin, Outcome::Failed, t, 0.0);
        assert_eq!((taken(&mut q, t, 4), q.next_try(4)), (None, Some(t + Duration::from_secs(1))));
        q.ask(&repo("b"), 1).expect("room");
        assert_eq!(taken(&mut q, t, 4).as_deref(), Some("b"));
        q.hurry();
        assert_eq!(taken(&mut q, t, 4).as_deref(), Some(ADMIN_REPO));
        q.pushed(&admin, Outcome::Done, t, 0.0);
        assert_eq!(taken(&mut q, t, 4).as_deref(), Some("a"));
        q.lead(Some(&admin));
        q.mark_first(&repo("c"), Rank::of(&repo("c"), Weight::default()));
        assert_eq!(taken(&mut q, t, 4), None);
        q.give_up(|name| *name == admin);
        assert_eq!(taken(&mut q, t, 4).as_deref(), Some("c"), "a paused configuration holds up nobody");
        q.lead(Some(&admin));
        q.mark_first(&admin, Rank::of(&admin, Weight::default()));
        q.mark_first(&repo("d"), Rank::of(&repo("d"), Weight::default()));
        assert_eq!((taken(&mut q, t, 9).as_deref(), taken(&mut q, t, 9)), (Some(ADMIN_REPO), None));
        q.pushed(&admin, Outcome::Waits, t, 0.0);
        assert_eq!(taken(&mut q, t, 9).as_deref(), Some("d"), "nor does one that has diverged");
    }

    #[test]
    fn a_configuration_that_goes_on_failing_holds_up_nobody() {
        let (mut q, mut t) = queue();
        let admin = repo(ADMIN_REPO);
        q.lead(Some(&admin));
        for name in ["a", ADMIN_REPO] {
            q.mark_first(&repo(name), Rank::of(&repo(name), Weight::default()));
        }
        for _ in 0..3 {
            assert_eq!(taken(&mut q, t, 4).as_deref(), Some(ADMIN_REPO));
            assert_eq!(taken(&mut q, t, 4), None);
            t = q.pushed(&admin, Outcome::Failed, t, 0.0).expect("it is tried again");
        }
        // Each comparison names the leader anew.
        q.lead(Some(&admin));
        assert_eq!(taken(&mut q, t - Duration::from_secs(1), 4).as_deref(), Some("a"));
        assert_eq!(taken(&mut q, t, 4).as_deref(), Some(ADMIN_REPO), "it is still tried");
        q.pushed(&admin, Outcome::Done, t, 0.0);
        q.lead(Some(&admin));
        q.mark_first(&repo("b"), Rank::of(&repo("b"), Weight::default()));
        assert_eq!(taken(&mut q, t, 4), None, "a success makes it the leader again");
    }

    #[test]
    fn progress_counts_what_is_complete_and_tells_it_now_and_then() {
        let (mut progress, peer) = (Progress::default(), HostName::new("server3").expect("a name"));
        let start = Moment::now();
        let at = |seconds| Moment {
            mono: start.mono + Duration::from_secs(seconds),
            wall: start.wall + Duration::from_secs(seconds),
        };
        assert_eq!((progress.shown(&peer), progress.news(&peer, start)), (None, None));
        for n in 0..1000 {
            progress.expect(&repo(&format!("r{n}")), 9_000_000, start);
        }
        let line = |p: &Progress| p.shown(&peer).expect("under way").to_string();
        let told = progress.news(&peer, start).expect("the beginning");
        assert_eq!(told, "first copy to server3: 0 of 1,000 repositories, 0.0 of 9.0 GB");
        for n in 0..312 {
            progress.sent(&repo(&format!("r{n}")), 1 << 30);
            progress.arrived(&repo(&format!("r{n}")));
        }
        progress.sent(&repo("r999"), 4_000_000_000);
        progress.sent(&repo("no-first-copy"), 4_000_000_000);
        assert_eq!(line(&progress), "first copy to server3: 312 of 1,000 repositories, 2.8 of 9.0 GB");
        progress.failed(&repo("r999"));
        assert_eq!(progress.shown(&peer).expect("under way").bytes_done, 312 * 9_000_000);
        assert_eq!((progress.news(&peer, at(9)), progress.news(&peer, at(10)).is_some()), (None, true));
        progress.keep(|repo| repo.as_str() != "r999");
        for n in 312..1000 {
            progress.arrived(&repo(&format!("r{n}")));
        }
        assert_eq!(progress.shown(&peer), None);
        let told = progress.news(&peer, at(12)).expect("the end");
        assert_eq!(told, "first copy to server3: 999 of 999 repositories, 9.0 of 9.0 GB; complete after 12 s");
        assert_eq!((progress.news(&peer, at(60)), progress.shown(&peer)), (None, None));
    }
}

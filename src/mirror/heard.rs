//! What a replica has heard from its masters, and so how fresh its copies are. Pure: every question comes with its time.
//!
//! A copy cannot know by itself that it is old, for an old copy looks as good as a new one. So every master tells, every
//! few seconds and in one message, which of the copies here lack something; all others are in step as of that moment.
//! Nothing is kept on disk: after a restart nothing is confirmed until the master has been heard.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::{Duration, Instant};

use crate::model::time::in_words;
use crate::model::{HostName, RepoName};

/// A master takes note of its push within moments after it has ended here; what it says in between may be older.
const SETTLING: Duration = Duration::from_secs(20);

/// How fresh a copy is, as far as its master has told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Freshness {
    /// It had everything this long ago.
    InStep { confirmed: Duration },
    /// The oldest change that it lacks is this old; `changes` have landed on the master since.
    Behind { lag: Duration, changes: u64 },
    /// Its master has not been heard for `silent`; `confirmed` is when it last was in step, if that is known.
    Unconfirmed { silent: Duration, confirmed: Option<Duration> },
}

impl fmt::Display for Freshness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InStep { confirmed } => write!(f, "in step ({} ago)", in_words(*confirmed)),
            Self::Behind { lag, changes: n @ 2.. } => write!(f, "BEHIND {n} pushes, {}", in_words(*lag)),
            Self::Behind { lag, changes: 1 } => write!(f, "BEHIND 1 push, {}", in_words(*lag)),
            Self::Behind { lag, changes: 0 } => write!(f, "BEHIND {}", in_words(*lag)),
            Self::Unconfirmed { silent, confirmed: Some(ago) } => {
                write!(f, "NOT CONFIRMED; in step {} ago, nothing heard for {}", in_words(*ago), in_words(*silent))
            }
            Self::Unconfirmed { silent, confirmed: None } => {
                write!(f, "NOT CONFIRMED; nothing heard for {}", in_words(*silent))
            }
        }
    }
}

impl Freshness {
    /// A sentence for who fetches a copy that may be older than `limit` allows.
    pub(super) fn notice(&self, repo: &RepoName, master: &HostName, limit: Duration) -> Option<String> {
        match self {
            Self::Behind { lag, changes } if *lag > limit => {
                let changes = match changes {
                    0 | 1 => String::new(),
                    n => format!(" ({n} pushes)"),
                };
                let lag = in_words(*lag);
                Some(format!("this copy of '{repo}' is {lag} behind its master {master}{changes}"))
            }
            Self::Unconfirmed { silent, confirmed } if confirmed.unwrap_or(*silent) > limit => {
                let since = match confirmed {
                    Some(ago) => format!("was in step {} ago", in_words(*ago)),
                    None => "may be of any age".to_owned(),
                };
                let silent = in_words(*silent);
                Some(format!("this copy of '{repo}' {since}; its master {master} has not been heard for {silent}"))
            }
            _ => None,
        }
    }
}

/// What a copy lacks, in a master's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lack {
    /// Age of the oldest change; `None` while the master has not compared the copy.
    pub lag: Option<Duration>,
    pub changes: u64,
}

/// One message of a master.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Beat {
    pub lacking: HashMap<RepoName, Lack>,
    /// All copies that lack something are listed.
    pub complete: bool,
}

/// What is known of a copy that is not simply in step.
#[derive(Debug)]
struct Listed {
    lack: Lack,
    /// When it last had everything, if that is known.
    confirmed: Option<Instant>,
}

#[derive(Debug, Default)]
struct Master {
    heard: Option<Instant>,
    /// When all copies that are not listed last had everything.
    confirmed: Option<Instant>,
    listed: HashMap<RepoName, Listed>,
    /// When a push from there that has ended well began and ended.
    received: HashMap<RepoName, (Instant, Instant)>,
}

#[derive(Debug)]
pub(super) struct Heard {
    started: Instant,
    masters: BTreeMap<HostName, Master>,
}

impl Heard {
    pub(super) fn new(now: Instant) -> Self {
        Self { started: now, masters: BTreeMap::new() }
    }

    /// A master has told how its copies are.
    pub(super) fn beat(&mut self, from: &HostName, beat: Beat, now: Instant) {
        let master = self.masters.entry(from.clone()).or_default();
        let listed = beat.lacking.into_iter().map(|(repo, lack)| {
            let confirmed = match lack.lag {
                Some(lag) => now.checked_sub(lag),
                None => master.confirmed_before(&repo),
            };
            (repo, Listed { lack, confirmed })
        });
        let mut listed: HashMap<RepoName, Listed> = listed.collect();
        if beat.complete {
            master.confirmed = Some(now);
        } else {
            // What was lacking before and is not spoken of now is neither lacking for sure nor in step.
            for (repo, Listed { confirmed, .. }) in master.listed.drain() {
                let unknown = Listed { lack: Lack { lag: None, changes: 0 }, confirmed };
                listed.entry(repo).or_insert(unknown);
            }
        }
        (master.heard, master.listed) = (Some(now), listed);
        master.received.retain(|_, (_, ended)| now.saturating_duration_since(*ended) < SETTLING);
    }

    /// A mirror push has ended well: the copy has what its master had when the push began.
    pub(super) fn received(&mut self, repo: &RepoName, from: &HostName, began: Instant, now: Instant) {
        self.masters.entry(from.clone()).or_default().received.insert(repo.clone(), (began, now));
    }

    /// How fresh the copy of `repo` is; a master that was not heard for `patience` confirms nothing any more.
    pub(super) fn freshness(&self, repo: &RepoName, from: &HostName, patience: Duration, now: Instant) -> Freshness {
        let ago = |at: Instant| now.saturating_duration_since(at);
        let Some(master) = self.masters.get(from) else {
            return Freshness::Unconfirmed { silent: ago(self.started), confirmed: None };
        };
        if let (Some(heard), Some(Listed { lack: Lack { lag: Some(lag), changes }, .. })) =
            (master.heard, master.listed.get(repo))
            && ago(heard) <= patience
            && !master.is_outdated(repo, heard, *lag)
        {
            return Freshness::Behind { lag: *lag + ago(heard), changes: *changes };
        }
        match master.confirmed_before(repo) {
            Some(at) if ago(at) <= patience => Freshness::InStep { confirmed: ago(at) },
            confirmed => {
                let pushed = master.received.get(repo).map(|(_, ended)| *ended);
                let silent = ago(master.heard.max(pushed).unwrap_or(self.started));
                Freshness::Unconfirmed { silent, confirmed: confirmed.map(ago) }
            }
        }
    }
}

impl Master {
    fn confirmed_before(&self, repo: &RepoName) -> Option<Instant> {
        let told = self.listed.get(repo).map_or(self.confirmed, |listed| listed.confirmed);
        told.max(self.received.get(repo).map(|(began, _)| *began))
    }

    /// Whether a push that has ended here brought what was said to be lacking: it began later than that had landed, and
    /// the master, when it spoke, may not have taken note of its end.
    fn is_outdated(&self, repo: &RepoName, said: Instant, lag: Duration) -> bool {
        self.received.get(repo).is_some_and(|(began, ended)| {
            let since = said.checked_sub(lag);
            since.is_none_or(|since| since <= *began) && said.saturating_duration_since(*ended) < SETTLING
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    struct Replica {
        heard: Heard,
        start: Instant,
        master: HostName,
        repo: RepoName,
    }

    impl Replica {
        fn new() -> Self {
            let start = Instant::now();
            let (master, repo) = (HostName::new("server1").expect("a name"), RepoName::new("a").expect("a name"));
            Self { heard: Heard::new(start), start, master, repo }
        }

        fn beat(&mut self, at: u64, lacks: Option<(Option<u64>, u64)>, complete: bool) {
            let lack = lacks.map(|(lag, changes)| (self.repo.clone(), Lack { lag: lag.map(seconds), changes }));
            let beat = Beat { lacking: lack.into_iter().collect(), complete };
            self.heard.beat(&self.master, beat, self.start + seconds(at));
        }

        fn received(&mut self, began: u64, ended: u64) {
            let at = |n| self.start + seconds(n);
            self.heard.received(&self.repo, &self.master, at(began), at(ended));
        }

        fn at(&self, at: u64) -> Freshness {
            self.heard.freshness(&self.repo, &self.master, PATIENCE, self.start + seconds(at))
        }
    }

    fn in_step(ago: u64) -> Freshness {
        Freshness::InStep { confirmed: seconds(ago) }
    }

    fn behind(lag: u64, changes: u64) -> Freshness {
        Freshness::Behind { lag: seconds(lag), changes }
    }

    fn unconfirmed(silent: u64, confirmed: Option<u64>) -> Freshness {
        Freshness::Unconfirmed { silent: seconds(silent), confirmed: confirmed.map(seconds) }
    }

    #[test]
    fn a_copy_is_as_fresh_as_its_master_says() {
        let mut r = Replica::new();
        assert_eq!(r.at(5), unconfirmed(5, None), "nothing was heard yet");
        r.beat(10, None, true);
        assert_eq!(r.at(14), in_step(4));
        assert_eq!(r.at(71), unconfirmed(61, Some(61)), "the master is silent");
        r.beat(80, Some((Some(30), 2)), true);
        assert_eq!(r.at(85), behind(35, 2));
        assert_eq!(r.at(150), unconfirmed(70, Some(100)), "behind, and the master is silent");
        r.beat(160, None, true);
        assert_eq!(r.at(160), in_step(0));
    }

    #[test]
    fn a_push_that_arrives_confirms() {
        let mut r = Replica::new();
        r.beat(10, Some((Some(600), 3)), true);
        r.received(12, 14);
        assert_eq!(r.at(15), in_step(3));
        // Said before the master took note; later the same words count.
        r.beat(16, Some((Some(606), 3)), true);
        assert_eq!(r.at(17), in_step(5));
        r.beat(36, Some((Some(626), 3)), true);
        assert_eq!(r.at(36), behind(626, 3));
        // What landed after the push had begun is lacking at once.
        r.received(40, 42);
        r.beat(43, Some((Some(1), 1)), true);
        assert_eq!(r.at(44), behind(2, 1));
    }

    #[test]
    fn a_message_that_leaves_something_out_confirms_nothing() {
        let mut r = Replica::new();
        r.beat(10, None, false);
        assert_eq!(r.at(12), unconfirmed(2, None));
        r.beat(20, None, true);
        r.beat(35, None, false);
        assert_eq!(r.at(40), in_step(20));
        r.beat(50, Some((None, 0)), true);
        assert_eq!(r.at(52), in_step(32), "the master has been started again, and has not compared yet");
        assert_eq!(r.at(82), unconfirmed(32, Some(62)));
    }

    #[test]
    fn who_fetches_is_told_of_what_is_older_than_the_limit() {
        let (repo, master) = (RepoName::new("a").expect("a name"), HostName::new("server1").expect("a name"));
        let table = [
            (in_step(59), None),
            (in_step(1000), None), // nobody has said otherwise, and the master is heard
            (behind(60, 9), None),
            (behind(61, 1), Some("this copy of 'a' is 61 s behind its master server1")),
            (behind(7200, 3), Some("this copy of 'a' is 2 h behind its master server1 (3 pushes)")),
            (unconfirmed(60, None), None),
            (unconfirmed(61, Some(60)), None),
            (
                unconfirmed(61, None),
                Some("this copy of 'a' may be of any age; its master server1 has not been heard for 61 s"),
            ),
            (
                unconfirmed(70, Some(90)),
                Some("this copy of 'a' was in step 90 s ago; its master server1 has not been heard for 70 s"),
            ),
        ];
        for (fresh, told) in table {
            assert_eq!(fresh.notice(&repo, &master, seconds(60)).as_deref(), told, "{fresh:?}");
        }
    }
}

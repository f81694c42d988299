//! How one copy is doing: a pure state machine. Inputs come with their time; what is to be told comes out.
//!
//! A person is told once for each change that matters to one: a copy that has been behind for longer than `alarm_after`,
//! one that has commits its master lacks, one that a guard holds back; and once when that is over. Copies that are
//! paused, or kept by hand, alarm nobody. Lengths of time are measured on a clock that does not jump; the other is
//! for showing.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use crate::model::RefName;
use crate::model::time::in_words;

/// A moment, on the clock that measures and on the one that people read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    pub mono: Instant,
    pub wall: SystemTime,
}

impl Moment {
    pub fn now() -> Self {
        Self { mono: Instant::now(), wall: SystemTime::now() }
    }

    /// How long `earlier` is ago, whatever the wall clock has done since.
    pub fn since(&self, earlier: &Self) -> Duration {
        self.mono.saturating_duration_since(earlier.mono)
    }
}

/// How one copy is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not compared yet in this run of the daemon.
    Unknown,
    InStep,
    /// A push is under way, or waits for its turn; `changes` have landed here that are not known to be there.
    Behind {
        since: SystemTime,
        changes: u64,
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
    /// It has what its master lacks, which a push would take away; `mirror repair` keeps it aside and goes on.
    Diverged {
        since: SystemTime,
        detail: String,
    },
    /// Somebody has stopped the pushes; `behind` tells whether anything waits.
    Paused {
        since: SystemTime,
        by: String,
        behind: bool,
    },
    /// It waits for a person.
    Pending {
        since: SystemTime,
        why: Hold,
    },
}

/// What a pending copy waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// The configuration says `nosync`: pushes are made by hand; `changes` have landed since the last.
    Manual { changes: u64 },
    /// A guard stopped the push, for it would delete too much; `mirror push --force` lets it through.
    Guard(String),
}

impl State {
    /// The state's name in one word, for lists and JSON.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::InStep => "in-step",
            Self::Behind { .. } => "behind",
            Self::Missing { .. } => "missing",
            Self::Failing { .. } => "failing",
            Self::Diverged { .. } => "diverged",
            Self::Paused { .. } => "paused",
            Self::Pending { .. } => "pending",
        }
    }

    /// Whether no further attempt will be made before somebody has decided something.
    pub fn needs_a_person(&self) -> bool {
        matches!(self, Self::Paused { .. } | Self::Diverged { .. } | Self::Pending { .. })
    }

    /// Since when, where there is a since.
    pub fn since(&self) -> Option<SystemTime> {
        match self {
            Self::Unknown | Self::InStep => None,
            Self::Behind { since, .. }
            | Self::Missing { since }
            | Self::Failing { since, .. }
            | Self::Diverged { since, .. }
            | Self::Paused { since, .. }
            | Self::Pending { since, .. } => Some(*since),
        }
    }
}

impl fmt::Display for State {
    /// A word and how long it has been so; what has been said about it comes last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ago = |since: &SystemTime| in_words(since.elapsed().unwrap_or_default());
        match self {
            Self::Unknown => f.write_str("not compared yet"),
            Self::InStep => f.write_str("in step"),
            Self::Behind { since, changes: 0 | 1 } => write!(f, "behind for {}", ago(since)),
            Self::Behind { since, changes } => write!(f, "behind for {} by {changes} changes", ago(since)),
            Self::Missing { since } => write!(f, "missing for {}", ago(since)),
            Self::Failing { error, since, next_try } => {
                write!(f, "failing for {}", ago(since))?;
                if let Some(next) = next_try {
                    let wait = next.duration_since(SystemTime::now()).unwrap_or_default();
                    write!(f, ", next try in {}", in_words(wait))?;
                }
                write!(f, ": {error}")
            }
            Self::Diverged { since, detail } => write!(f, "diverged for {}: {detail}; see 'mirror repair'", ago(since)),
            Self::Paused { since, by, behind } => {
                let waits = if *behind { ", changes wait" } else { "" };
                write!(f, "paused by {by} for {}{waits}", ago(since))
            }
            Self::Pending { since, why: Hold::Manual { .. } } => {
                write!(f, "pending for {}: it is pushed by hand", ago(since))
            }
            Self::Pending { since, why: Hold::Guard(why) } => write!(f, "pending for {}: {why}", ago(since)),
        }
    }
}

/// What happened to a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Input {
    /// A push landed here.
    Marked,
    /// Compared, and not equal.
    Differs {
        missing: bool,
    },
    /// Pushed, or compared and equal, as of `began`; a mark since then stands.
    Equal {
        began: Moment,
    },
    /// `refused`: of an attempt that began at that time, everything else has arrived.
    Failed {
        error: String,
        next_try: Option<SystemTime>,
        refused: Option<(Moment, Vec<RefName>)>,
    },
    Diverged(String),
    Held(String),
    Paused {
        by: String,
        since: SystemTime,
    },
    Resumed,
    /// Whether the configuration wants it pushed by hand.
    Manual(bool),
    Tick(Reach),
}

/// What a tick has to know of the peer's link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Reach {
    /// Since when it is up; none while it is down or not known.
    pub up_since: Option<Instant>,
    /// When the last outage that was told ended.
    pub outage_over: Option<Instant>,
}

/// What a person is to be told of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Alarm {
    Late { error: Option<String> },
    Diverged(String),
    Held(String),
    Recovered { after: Duration },
}

/// Which alarm has been told and is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Late,
    Diverged,
    Held,
}

#[derive(Debug)]
enum Trouble {
    Failing { error: String, next_try: Option<SystemTime> },
    Diverged(String),
    Held(String),
}

/// One copy.
#[derive(Debug, Default)]
pub(super) struct Pair {
    manual: bool,
    paused: Option<(String, SystemTime)>,
    /// Since when it is known not to be equal.
    behind: Option<Moment>,
    changes: u64,
    /// When the last push landed here.
    marked: Option<Instant>,
    missing: bool,
    trouble: Option<(Trouble, Moment)>,
    /// When the last attempt or comparison began that showed it equal, and when that was known.
    synced: Option<(Moment, Instant)>,
    /// An attempt since then that brought everything but these.
    partly: Option<((Moment, Instant), Vec<RefName>)>,
    last_error: Option<(String, SystemTime)>,
    told: Option<(Told, Moment)>,
    /// No alarm is counted from before this.
    patient_since: Option<Instant>,
}

impl Pair {
    /// Takes one input in. At most one thing is to be told.
    pub(super) fn apply(&mut self, input: Input, now: Moment, alarm_after: Duration) -> Option<Alarm> {
        match input {
            Input::Marked => {
                self.marked = Some(now.mono);
                self.behind.get_or_insert(now);
                self.changes = self.changes.saturating_add(1);
            }
            Input::Differs { missing } => {
                let since = self.behind_since(now);
                self.behind.get_or_insert(since);
                self.missing = missing;
            }
            Input::Equal { began } => return self.equal(began, now),
            Input::Failed { error, next_try, refused } => {
                self.partly = refused.map(|(began, names)| ((began, now.mono), names));
                let since = self.behind_since(now);
                self.behind.get_or_insert(since);
                self.last_error = Some((error.clone(), now.wall));
                match &mut self.trouble {
                    // That another attempt failed does not say that this is over.
                    Some((Trouble::Diverged(_) | Trouble::Held(_), _)) => {}
                    Some((trouble, _)) => *trouble = Trouble::Failing { error, next_try },
                    None => self.trouble = Some((Trouble::Failing { error, next_try }, now)),
                }
            }
            Input::Diverged(detail) => {
                self.person_needed(Trouble::Diverged(detail.clone()), now);
                return self.tell(Told::Diverged, Alarm::Diverged(detail), now);
            }
            Input::Held(why) => {
                self.person_needed(Trouble::Held(why.clone()), now);
                return self.tell(Told::Held, Alarm::Held(why), now);
            }
            Input::Paused { by, since } => self.paused = Some((by, since)),
            Input::Resumed => {
                if self.paused.take().is_some() {
                    self.patient_since = Some(now.mono);
                }
            }
            Input::Manual(manual) => {
                if std::mem::replace(&mut self.manual, manual) && !manual {
                    self.patient_since = Some(now.mono);
                }
            }
            Input::Tick(reach) => return self.tick(reach, now, alarm_after),
        }
        None
    }

    /// An earlier run has told this, and not that it is over.
    pub(super) fn restore(&mut self, told: Told, since: Moment) {
        self.told = Some((told, since));
    }

    /// Since when it is behind, if it was not seen to be so before `now` in this run.
    fn behind_since(&self, now: Moment) -> Moment {
        match self.told {
            Some((_, since)) if self.synced.is_none() => since,
            _ => now,
        }
    }

    fn equal(&mut self, began: Moment, now: Moment) -> Option<Alarm> {
        (self.missing, self.trouble) = (false, None);
        (self.synced, self.partly) = (Some((began, now.mono)), None);
        let marked_since = self.marked.is_some_and(|at| at > began.mono);
        (self.behind, self.changes) = if marked_since { (Some(began), 1) } else { (None, 0) };
        let (_, at) = self.told.take()?;
        Some(Alarm::Recovered { after: now.since(&at) })
    }

    fn person_needed(&mut self, trouble: Trouble, now: Moment) {
        let first = self.behind_since(now);
        let behind = *self.behind.get_or_insert(first);
        let since = match &self.trouble {
            Some((old, since)) if std::mem::discriminant(old) == std::mem::discriminant(&trouble) => *since,
            Some(_) => now,
            None => behind,
        };
        if let Trouble::Diverged(said) | Trouble::Held(said) = &trouble {
            self.last_error = Some((said.clone(), now.wall));
        }
        self.trouble = Some((trouble, since));
    }

    fn tell(&mut self, what: Told, alarm: Alarm, now: Moment) -> Option<Alarm> {
        if self.told.is_some_and(|(told, _)| told == what) || self.paused.is_some() {
            return None;
        }
        let since = self.behind.unwrap_or(now);
        self.told = Some((what, since));
        Some(alarm)
    }

    fn tick(&mut self, reach: Reach, now: Moment, alarm_after: Duration) -> Option<Alarm> {
        // What a person has to decide stays untold only while it is paused.
        match &self.trouble {
            Some((Trouble::Diverged(said), _)) => self.tell(Told::Diverged, Alarm::Diverged(said.clone()), now),
            Some((Trouble::Held(said), _)) => self.tell(Told::Held, Alarm::Held(said.clone()), now),
            _ if self.told.is_some() || !self.is_late(reach, now, alarm_after) => None,
            Some((Trouble::Failing { error, .. }, _)) => {
                self.tell(Told::Late, Alarm::Late { error: Some(error.clone()) }, now)
            }
            None => self.tell(Told::Late, Alarm::Late { error: None }, now),
        }
    }

    /// Behind for so long that somebody should look. An outage that was told as one is not told again for each copy:
    /// after it, and on a link that has just come up, time counts anew; but a link that comes and goes does not
    /// keep this from being told for ever.
    fn is_late(&self, reach: Reach, now: Moment, alarm_after: Duration) -> bool {
        let Some(behind) = self.behind.filter(|_| !self.manual && self.paused.is_none()) else { return false };
        let from = [self.patient_since, reach.outage_over].into_iter().flatten().fold(behind.mono, Instant::max);
        let age = |from: Instant| now.mono.saturating_duration_since(from);
        reach.up_since.is_some_and(|up| age(up.max(from)) >= alarm_after) || age(from) >= alarm_after.saturating_mul(2)
    }

    /// Whether a tick can have anything to tell, now or later.
    pub(super) fn is_unsettled(&self) -> bool {
        self.behind.is_some() || self.told.is_some()
    }

    /// Pushes that have landed here and are not known to be there.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    pub(super) fn is_behind(&self) -> bool {
        self.behind.is_some()
    }

    /// How old the oldest change is that it lacks.
    pub(super) fn lag(&self, now: &Moment) -> Option<Duration> {
        self.behind.map(|behind| now.since(&behind))
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    pub(super) fn is_alarming(&self) -> bool {
        self.told.is_some()
    }

    /// When the last attempt or comparison began that showed it equal.
    pub(super) fn synced(&self) -> Option<Moment> {
        self.synced.map(|(began, _)| began)
    }

    /// When the last attempt began that brought everything, or this one reference, and when that was known.
    pub(super) fn arrived(&self, only: Option<&RefName>) -> Option<(Moment, Instant)> {
        match (&self.partly, only) {
            (Some((at, refused)), Some(name)) if !refused.contains(name) => Some(*at),
            _ => self.synced,
        }
    }

    pub(super) fn last_error(&self) -> Option<(String, SystemTime)> {
        self.last_error.clone()
    }

    pub(super) fn is_manual(&self) -> bool {
        self.manual
    }

    /// As people see it, but for what the peer's link adds.
    pub(super) fn state(&self) -> State {
        let behind = self.behind.map(|now| now.wall);
        if let Some((by, since)) = &self.paused {
            return State::Paused { since: *since, by: by.clone(), behind: behind.is_some() };
        }
        match (&self.trouble, behind) {
            (Some((Trouble::Diverged(detail), since)), _) => {
                State::Diverged { since: since.wall, detail: detail.clone() }
            }
            (Some((Trouble::Held(why), since)), _) => {
                State::Pending { since: since.wall, why: Hold::Guard(why.clone()) }
            }
            (_, Some(since)) if self.manual => State::Pending { since, why: Hold::Manual { changes: self.changes } },
            (Some((Trouble::Failing { error, next_try }, since)), _) => {
                State::Failing { error: error.clone(), since: since.wall, next_try: *next_try }
            }
            (None, Some(since)) if self.missing => State::Missing { since },
            (None, Some(since)) => State::Behind { since, changes: self.changes },
            (None, None) if self.synced.is_none() => State::Unknown,
            (None, None) => State::InStep,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALARM: Duration = Duration::from_secs(120);

    /// A copy, a clock that goes on, and what has been told so far.
    struct Story {
        pair: Pair,
        now: Moment,
        told: Vec<String>,
        reach: Reach,
    }

    impl Story {
        fn new() -> Self {
            let now = Moment::now();
            let reach = Reach { up_since: Some(now.mono), outage_over: None };
            Self { pair: Pair::default(), now, told: Vec::new(), reach }
        }

        fn give(&mut self, input: Input) -> &mut Self {
            let told = match self.pair.apply(input, self.now, ALARM) {
                None => return self,
                Some(Alarm::Late { error }) => format!("late {}", error.unwrap_or_default()),
                Some(Alarm::Diverged(what)) => format!("diverged {what}"),
                Some(Alarm::Held(why)) => format!("held {why}"),
                Some(Alarm::Recovered { after }) => format!("recovered {}", after.as_secs()),
            };
            self.told.push(told);
            self
        }

        /// Seconds go by, each with its tick.
        fn pass(&mut self, seconds: u64) -> &mut Self {
            for _ in 0..seconds {
                self.now.mono += Duration::from_secs(1);
                self.now.wall += Duration::from_secs(1);
                self.give(Input::Tick(self.reach));
            }
            self
        }

        fn fail(&mut self, error: &str) -> &mut Self {
            self.give(Input::Failed { error: error.to_owned(), next_try: None, refused: None })
        }

        fn equal(&mut self) -> &mut Self {
            let began = self.now;
            self.give(Input::Equal { began })
        }

        fn pause(&mut self) -> &mut Self {
            let since = self.now.wall;
            self.give(Input::Paused { by: "alice".into(), since })
        }

        #[track_caller]
        fn told(&self, expected: &[&str]) {
            assert_eq!(self.told, expected);
        }

        #[track_caller]
        fn is(&mut self, word: &str) -> &mut Self {
            assert_eq!(self.pair.state().word(), word, "{:?}", self.pair);
            self
        }
    }

    #[test]
    fn the_states_one_after_the_other() {
        let mut s = Story::new();
        s.is("unknown").give(Input::Differs { missing: true }).is("missing").equal().is("in-step");
        s.give(Input::Marked).give(Input::Marked).is("behind");
        assert!(matches!(s.pair.state(), State::Behind { changes: 2, .. }));
        s.fail("disk full").is("failing").equal().is("in-step").fail("again").is("failing");
        s.give(Input::Diverged("main".into())).is("diverged").fail("net").is("diverged").equal().is("in-step");
        s.give(Input::Held("9 of 10".into())).is("pending").pause().is("paused").give(Input::Resumed).is("pending");
        s.equal().give(Input::Manual(true)).is("in-step").give(Input::Marked).is("pending");
        assert!(matches!(s.pair.state(), State::Pending { why: Hold::Manual { changes: 1 }, .. }));
        s.give(Input::Manual(false)).is("behind");
        let began = s.now;
        s.pass(1).give(Input::Marked).give(Input::Equal { began }).is("behind");
        assert!(matches!(s.pair.state(), State::Behind { changes: 1, .. }), "a push landed meanwhile");
    }

    #[test]
    fn a_failure_shorter_than_the_alarm_tells_nobody_and_a_longer_one_once() {
        let mut s = Story::new();
        s.give(Input::Marked).fail("net").pass(119).told(&[]);
        s.equal().pass(1000).told(&[]);
        s.fail("net").pass(60).fail("disk full").pass(60).told(&["late disk full"]);
        s.fail("x").pass(5000).fail("y").pass(5000).told(&["late disk full"]);
        s.equal().pass(500).told(&["late disk full", "recovered 10120"]);
        s.give(Input::Marked).pass(120).told(&["late disk full", "recovered 10120", "late "]);
    }

    #[test]
    fn what_a_person_decides_is_told_at_once_and_once() {
        let mut s = Story::new();
        s.give(Input::Diverged("main".into())).give(Input::Diverged("main".into())).pass(900);
        s.told(&["diverged main"]);
        s.equal().told(&["diverged main", "recovered 900"]);
        let mut s = Story::new();
        s.give(Input::Held("too many".into())).pass(900).give(Input::Diverged("main".into())).equal();
        s.told(&["held too many", "diverged main", "recovered 900"]);
    }

    #[test]
    fn what_an_earlier_run_has_told_is_told_again_only_when_it_is_over() {
        let mut s = Story::new();
        s.pair.restore(Told::Late, s.now);
        s.now.mono += Duration::from_secs(5000);
        s.give(Input::Differs { missing: false }).is("behind").pass(1000).told(&[]);
        assert_eq!(s.pair.lag(&s.now), Some(Duration::from_secs(6000)));
        s.equal().give(Input::Marked).pass(120).told(&["recovered 6000", "late "]);
    }

    #[test]
    fn paused_and_manual_copies_alarm_nobody() {
        let mut s = Story::new();
        s.give(Input::Marked).pause().pass(5000).told(&[]);
        s.give(Input::Resumed).pass(119).told(&[]);
        s.pass(1).told(&["late "]);
        let mut s = Story::new();
        s.give(Input::Manual(true)).give(Input::Marked).pass(5000).told(&[]);
        s.give(Input::Manual(false)).pass(119).told(&[]);
        s.pass(1).told(&["late "]);
        let mut s = Story::new();
        s.pause().give(Input::Diverged("main".into())).pass(10).told(&[]);
        s.give(Input::Resumed).pass(1).told(&["diverged main"]);
    }

    #[test]
    fn an_outage_that_was_told_is_not_told_for_each_copy_and_a_flapping_link_hides_nothing() {
        let mut s = Story::new();
        s.give(Input::Marked);
        s.reach.up_since = None;
        s.pass(100).told(&[]); // the peer's own notice comes at 120 s; from then on the board does not ask the copies
        s.now.mono += Duration::from_secs(400);
        s.reach = Reach { up_since: Some(s.now.mono), outage_over: Some(s.now.mono) };
        s.pass(119).told(&[]);
        s.pass(1).told(&["late "]);
        let mut s = Story::new();
        s.give(Input::Marked);
        for _ in 0..8 {
            s.reach.up_since = Some(s.now.mono);
            s.pass(29);
        }
        s.told(&[]);
        s.pass(29).told(&["late "]);
    }

    #[test]
    fn a_clock_that_jumps_raises_and_hides_no_alarm() {
        for jump in [Duration::from_secs(1 << 30), Duration::ZERO] {
            let mut s = Story::new();
            s.give(Input::Marked).pass(10);
            s.now.wall = SystemTime::UNIX_EPOCH + jump;
            s.pass(109).told(&[]);
            s.pass(1).told(&["late "]);
            s.equal().told(&["late ", "recovered 120"]);
        }
    }

    #[test]
    fn one_reference_may_have_arrived_although_another_is_refused() {
        let name = |n: &str| RefName::parse(n).expect("a name");
        let (good, bad) = (name("refs/heads/good"), name("refs/heads/bad"));
        let mut s = Story::new();
        s.equal().pass(1).give(Input::Marked);
        let began = s.now;
        s.give(Input::Failed { error: "no".into(), next_try: None, refused: Some((began, vec![bad.clone()])) });
        assert_eq!(s.pair.arrived(Some(&good)).map(|(at, _)| at), Some(began));
        assert!(s.pair.arrived(Some(&bad)).is_some_and(|(at, _)| at.mono < began.mono));
        assert!(s.pair.arrived(None).is_some_and(|(at, _)| at.mono < began.mono));
    }
}

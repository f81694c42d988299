//! What the board tells of peers that do not tell how their copies are, and after a restart.

use std::time::{Duration, SystemTime};

use super::pause::Pauses;
use super::state::{Input, Moment, Told};
use super::status::{Assigned, Board, Earlier};
use crate::model::{HostName, RepoName};

const ALARM: Duration = Duration::from_secs(120);

fn two() -> HostName {
    HostName::new("server2").expect("a name")
}

fn repo(name: &str) -> RepoName {
    RepoName::new(name).expect("a name")
}

/// A peer with two copies that are in step, and a clock.
struct Story {
    board: Board,
    now: Moment,
    told: Vec<String>,
}

impl Story {
    fn new(earlier: Earlier) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let pauses = Pauses::open(dir.path()).expect("no pauses");
        let mut story = Self { board: Board::new(ALARM), now: Moment::now(), told: Vec::new() };
        story.board.restore(earlier, story.now);
        let repos = [(two(), vec![repo("a"), repo("b")])].into();
        story.board.keep_only(&Assigned { repos, ..Assigned::default() }, &pauses, story.now);
        story
    }

    fn all_equal(&mut self) -> &mut Self {
        let began = self.now;
        for name in ["a", "b"] {
            self.board.apply(&repo(name), &two(), Input::Equal { began }, self.now);
        }
        self
    }

    /// Seconds go by; what is told in them is kept.
    fn pass(&mut self, seconds: u64) -> &mut Self {
        for _ in 0..seconds {
            self.now.mono += Duration::from_secs(1);
            self.now.wall += Duration::from_secs(1);
            let told = self.board.tick(self.now);
            self.told.extend(told.iter().map(|notice| format!("{} {}", notice.kind.word(), notice.lasted.as_secs())));
        }
        self
    }

    fn scan(&mut self, error: Option<&str>) -> &mut Self {
        self.board.link_works(&two(), self.now);
        match error {
            Some(error) => self.board.not_compared(&two(), error, None, self.now),
            None => self.board.compared(&two(), self.now),
        }
        self
    }
}

#[test]
fn a_peer_that_does_not_tell_how_its_copies_are_is_told_once_and_its_end() {
    let mut s = Story::new(Earlier::default());
    s.scan(None).all_equal().scan(Some("too old")).pass(119);
    assert!(s.told.is_empty(), "{:?}", s.told);
    s.scan(Some("too old")).pass(500).scan(Some("still")).pass(500);
    assert_eq!(s.told, ["peer-silent 120"]);
    let peer = &s.board.peers(s.now)[0];
    assert_eq!(peer.silent.as_ref().map(|(why, _)| why.as_str()), Some("still"));
    // What was known of its copies stays so; of what lands now nothing is known.
    s.board.apply(&repo("a"), &two(), Input::Marked, s.now);
    let shown: Vec<&str> = s.board.list(s.now).iter().map(|copy| copy.state.word()).collect();
    assert_eq!(shown, ["failing", "in-step"]);
    s.scan(None).all_equal().pass(1);
    assert_eq!(s.told, ["peer-silent 120", "peer-tells 1119"]);
    // A short one concerns nobody.
    s.scan(Some("x")).pass(60).scan(None).pass(500);
    assert_eq!(s.told.len(), 2, "{:?}", s.told);
}

#[test]
fn an_outage_hides_the_silence_and_the_copies_of_its_peer() {
    let mut s = Story::new(Earlier::default());
    s.scan(Some("too old"));
    for name in ["a", "b"] {
        s.board.apply(&repo(name), &two(), Input::Marked, s.now);
    }
    s.board.link_failed(&two(), "no route", None, s.now);
    s.pass(1000);
    assert_eq!(s.told, ["peer-down 120"]);
}

#[test]
fn what_an_earlier_run_has_told_is_not_told_again_and_its_end_is() {
    let ago = |seconds| SystemTime::now() - Duration::from_secs(seconds);
    let outage = || [(two(), (ago(5000), "no route".to_owned()))].into();
    let mut s = Story::new(Earlier { down: outage(), ..Earlier::default() });
    s.board.link_failed(&two(), "no route", None, s.now);
    s.pass(500);
    assert!(s.told.is_empty(), "{:?}", s.told);
    s.scan(None).all_equal().pass(1);
    assert_eq!(s.told.len(), 1, "{:?}", s.told);
    let seconds: u64 = s.told[0].strip_prefix("peer-back ").expect("its end").parse().expect("seconds");
    assert!((5500..5600).contains(&seconds), "{seconds}");

    let copies = vec![
        (repo("a"), two(), Told::Late, ago(5000)),
        (repo("b"), two(), Told::Diverged, ago(100)),
        (repo("gone"), two(), Told::Late, ago(5000)),
    ];
    let mut s = Story::new(Earlier { silent: outage(), copies, ..Earlier::default() });
    s.board.apply(&repo("a"), &two(), Input::Differs { missing: false }, s.now);
    s.board.apply(&repo("b"), &two(), Input::Diverged("main".to_owned()), s.now);
    s.scan(Some("too old")).pass(1000);
    assert!(s.told.is_empty(), "{:?}", s.told);
    s.scan(None).all_equal().pass(1);
    let kinds: Vec<&str> = s.told.iter().filter_map(|told| told.split(' ').next()).collect();
    assert_eq!(kinds, ["peer-tells", "recovered"], "both copies in one");
}

//! What people are told: one notice for each change of state that matters, copies of one peer grouped.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde_json::json;

use crate::model::{HostName, RepoName};

/// So many repositories are named in one notice; the others are counted.
pub(super) const NAMED_MAX: usize = 20;

/// What has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The peer cannot be reached; its copies wait.
    PeerDown,
    PeerBack,
    /// The peer answers, but not the question how its copies are.
    PeerSilent,
    PeerTells,
    /// Copies have been behind for longer than `alarm_after`.
    Late,
    /// Copies have what their master lacks.
    Diverged,
    /// A guard holds a push back until a person looks.
    Held,
    /// What was told of copies is over.
    Recovered,
    /// Commits that a former master alone had are kept aside.
    Lost,
    /// git has found a repository on this node to be damaged.
    Damaged,
    /// One that was damaged is not any more.
    Sound,
    /// The configuration does not place copies on this node any more, and they are too many to go unasked.
    LeftOver,
    LeftOverGone,
    Paused,
    Resumed,
}

impl Kind {
    /// Its name in the event stream and for programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::PeerDown => "peer-down",
            Self::PeerBack => "peer-back",
            Self::PeerSilent => "peer-silent",
            Self::PeerTells => "peer-tells",
            Self::Late => "late",
            Self::Diverged => "diverged",
            Self::Held => "held",
            Self::Recovered => "recovered",
            Self::Lost => "lost",
            Self::Damaged => "damaged",
            Self::Sound => "sound",
            Self::LeftOver => "left-over",
            Self::LeftOverGone => "left-over-gone",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
        }
    }

    /// Whether `[notify]` carries it; pauses are orders, and their giver knows.
    pub fn is_alarm(self) -> bool {
        !matches!(self, Self::Paused | Self::Resumed)
    }

    fn is_good(self) -> bool {
        use Kind::{LeftOverGone, Paused, PeerBack, PeerTells, Recovered, Resumed, Sound};
        matches!(self, PeerBack | PeerTells | Recovered | Sound | LeftOverGone | Paused | Resumed)
    }
}

/// One change that is told, about copies on one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub at: SystemTime,
    pub kind: Kind,
    pub peer: HostName,
    /// How many copies it is about. For an outage, those that are behind.
    pub copies: usize,
    /// The first of them by name.
    pub repos: Vec<RepoName>,
    /// The error, the guard's words, who paused and why; may be empty.
    pub detail: String,
    /// How long it has been so; of what is over, how long it was.
    pub lasted: Duration,
}

impl Notice {
    pub(super) fn new(kind: Kind, peer: HostName, at: SystemTime) -> Self {
        Self { at, kind, peer, copies: 0, repos: Vec::new(), detail: String::new(), lasted: Duration::ZERO }
    }

    /// One more copy of which the same is to be told.
    pub(super) fn add(&mut self, repo: RepoName, detail: &str, lasted: Duration) {
        self.copies += 1;
        if self.repos.len() < NAMED_MAX {
            self.repos.push(repo);
        }
        if self.detail.is_empty() {
            detail.clone_into(&mut self.detail);
        }
        self.lasted = self.lasted.max(lasted);
    }

    /// The event as JSON, one object (version 1): `version`, `event`, `at` (seconds since 1970), `peer`, `copies`,
    /// `repos`, `detail`, `seconds`, `text`.
    pub fn json(&self) -> serde_json::Value {
        let at = self.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let repos: Vec<&str> = self.repos.iter().map(RepoName::as_str).collect();
        json!({
            "version": 1, "event": self.kind.word(), "at": at, "peer": self.peer.as_str(), "copies": self.copies,
            "repos": repos, "detail": self.detail, "seconds": self.lasted.as_secs(), "text": self.to_string(),
        })
    }

    pub(super) fn log(&self) {
        let Self { kind, peer, copies, .. } = self;
        if kind.is_good() {
            tracing::info!(event = kind.word(), %peer, copies, "{self}");
        } else {
            tracing::warn!(event = kind.word(), %peer, copies, "{self}");
        }
    }
}

impl fmt::Display for Notice {
    /// One line that can be read alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, peer, copies, repos, detail, lasted, .. } = self;
        let seconds = lasted.as_secs();
        let said = if detail.is_empty() { String::new() } else { format!(": {detail}") };
        let what = match (repos.as_slice(), copies) {
            ([one], 1) => format!("the copy of {one} on {peer}"),
            (_, n) => {
                let names = repos.iter().take(3).map(RepoName::as_str).collect::<Vec<_>>().join(", ");
                let more = if *n > 3 { ", …" } else { "" };
                if names.is_empty() {
                    format!("{n} copies on {peer}")
                } else {
                    format!("{n} copies on {peer} ({names}{more})")
                }
            }
        };
        let have = if *copies == 1 { "has" } else { "have" };
        match kind {
            Kind::PeerDown if *copies == 0 => write!(f, "{peer} cannot be reached for {seconds} s{said}"),
            Kind::PeerDown => write!(f, "{peer} cannot be reached for {seconds} s, {copies} of its copies wait{said}"),
            Kind::PeerBack => write!(f, "{peer} is back after {seconds} s"),
            Kind::PeerSilent => {
                write!(f, "{peer} has not told how its copies are for {seconds} s; pushes still go there{said}")
            }
            Kind::PeerTells => write!(f, "{peer} tells again how its copies are, after {seconds} s"),
            Kind::Late => write!(f, "{what} {have} been behind for {seconds} s{said}"),
            Kind::Diverged => {
                write!(
                    f,
                    "{what} {have} what the master lacks{said}; 'gitmesh mirror repair' keeps it aside and goes on"
                )
            }
            Kind::Held => {
                write!(
                    f,
                    "{what} {have} a push that waits for a person{said}; 'gitmesh mirror push {peer} REPO --force' lets it go"
                )
            }
            Kind::Recovered => write!(f, "{what} {have} become equal again after {seconds} s"),
            Kind::Lost => {
                let name = repos.first().map_or("", RepoName::as_str);
                write!(f, "commits of {name} that only {peer} had are kept aside{said}; merge what is wanted of them")
            }
            Kind::Damaged | Kind::Sound => {
                let name = repos.first().map_or("", RepoName::as_str);
                let now = if *kind == Kind::Damaged { "is damaged" } else { "is sound again" };
                write!(f, "{name} on {peer} {now}{said}")
            }
            Kind::LeftOver => {
                write!(f, "{what} are placed there no more, too many to go unasked; 'D trash REPO' there puts one away")
            }
            Kind::LeftOverGone => write!(f, "no copies on {peer} are left over any more"),
            Kind::Paused => write!(f, "pushes to {what} are paused{said}"),
            Kind::Resumed => write!(f, "pushes to {what} go on{said}"),
        }
    }
}

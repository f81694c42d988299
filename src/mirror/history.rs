//! What has happened on this node, for `events`: pushes that landed, copies that caught up, and what people are told.
//!
//! Each event has an id that only grows, also over restarts, so that whoever was away can go on after the last one
//! they saw. The newest are kept in memory, and in a file behind it; an event names its repository, and is for those
//! who may read that, or it names none and is for administrators.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::notice::{Kind, Notice};
use super::{Mirror, Report};
use crate::model::{Actor, HostName, RefUpdate, RepoName};

/// Events kept; with [`UPDATES_MAX`] a few MB, as most pushes change one reference.
const KEPT: usize = 10_000;
/// References named of one push; the others are counted.
const UPDATES_MAX: usize = 100;
/// Events that a slow subscriber may be behind in before it loses the oldest.
const BEHIND_MAX: usize = 1024;
/// Ids skipped at a start: a killed node has given some away that are in no file, and none is ever given twice.
const SKIPPED: u64 = 1_000_000;

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub id: u64,
    /// Who may read it may see this; without one only administrators may.
    pub repo: Option<RepoName>,
    /// One object (version 1) with `id`, `event` and `at` (seconds since 1970); the other keys depend on `event`.
    pub json: Value,
}

/// What [`Mirror::subscribe`] returns.
pub struct Events {
    /// Those that were asked for and are kept, oldest first.
    pub past: Vec<Arc<Event>>,
    /// Some that were asked for are not kept any more.
    pub lost: bool,
    /// From now on; without a gap after the past.
    pub coming: broadcast::Receiver<Arc<Event>>,
}

pub(super) struct History {
    kept: VecDeque<Arc<Event>>,
    next: u64,
    /// What is not in the file yet. Bounded by `kept`, see [`History::take_lines`].
    unwritten: usize,
    coming: broadcast::Sender<Arc<Event>>,
}

impl History {
    /// Goes on after what an earlier run wrote. Lines that are cut or of a later version are skipped.
    pub(super) fn restore(text: &str) -> Self {
        let mut kept: VecDeque<Arc<Event>> = VecDeque::new();
        for event in text.lines().filter_map(parse) {
            if kept.back().is_none_or(|last| last.id < event.id) {
                kept.push_back(Arc::new(event));
            }
            if kept.len() > KEPT {
                kept.pop_front();
            }
        }
        let next = kept.back().map_or(1, |last| last.id.saturating_add(SKIPPED));
        Self { kept, next, unwritten: 0, coming: broadcast::Sender::new(BEHIND_MAX) }
    }

    /// `json` is an object.
    pub(super) fn add(&mut self, repo: Option<&RepoName>, mut json: Value) {
        let id = self.next;
        self.next += 1;
        json["id"] = id.into();
        let event = Arc::new(Event { id, repo: repo.cloned(), json });
        self.kept.push_back(event.clone());
        self.unwritten += 1;
        if self.kept.len() > KEPT {
            self.kept.pop_front();
            self.unwritten = self.unwritten.min(KEPT);
        }
        // Nobody need be listening.
        drop(self.coming.send(event));
    }

    pub(super) fn subscribe(&self, since: Option<u64>) -> Events {
        let coming = self.coming.subscribe();
        let Some(since) = since else { return Events { past: Vec::new(), lost: false, coming } };
        let past: Vec<_> = self.kept.iter().filter(|event| event.id > since).cloned().collect();
        // Something before the oldest is not kept, unless that is the first there ever was.
        let lost = self.kept.front().is_some_and(|oldest| oldest.id > since.saturating_add(1) && oldest.id > 1);
        Events { past, lost, coming }
    }

    /// What was told to have begun and not to have ended, also by an earlier run: of which peer, since when and in which
    /// words.
    pub(super) fn open(&self, begin: Kind, end: Kind) -> BTreeMap<HostName, (SystemTime, String)> {
        let mut open = BTreeMap::new();
        for Event { json, .. } in self.kept.iter().map(|event| &**event) {
            let text = |key: &str| json.get(key).and_then(Value::as_str).unwrap_or_default();
            let number = |key: &str| Duration::from_secs(json.get(key).and_then(Value::as_u64).unwrap_or_default());
            let Ok(peer) = HostName::new(text("peer")) else { continue };
            if text("event") == end.word() {
                open.remove(&peer);
            } else if text("event") == begin.word() {
                let since = number("at").saturating_sub(number("seconds"));
                let since = SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or_else(SystemTime::now);
                open.insert(peer, (since, text("detail").to_owned()));
            }
        }
        open
    }

    /// The lines that are not in the file yet.
    pub(super) fn take_lines(&mut self) -> Vec<String> {
        let from = self.kept.len() - std::mem::take(&mut self.unwritten);
        self.kept.iter().skip(from).map(|event| event.json.to_string()).collect()
    }
}

fn parse(line: &str) -> Option<Event> {
    let json: Value = serde_json::from_str(line).ok()?;
    let id = json.get("id")?.as_u64()?;
    // A repository whose name is not understood is for nobody but administrators.
    let repo = json.get("repo").and_then(Value::as_str).and_then(|name| RepoName::new(name).ok());
    Some(Event { id, repo, json })
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

pub(super) fn of_notice(notice: &Notice) -> Value {
    notice.json()
}

pub(super) fn started() -> Value {
    json!({"version": 1, "event": "started", "at": now()})
}

pub(super) fn synced(repo: &RepoName, peer: &HostName, report: &Report) -> Value {
    json!({
        "version": 1, "event": "mirror.synced", "at": now(), "repo": repo.as_str(), "peer": peer.as_str(),
        "refs": report.refs, "bytes": report.pack_bytes, "beside": report.beside,
    })
}

pub(super) fn promoted(master: &HostName, instead_of: &HostName, by: &str, repos: &[&RepoName]) -> Value {
    let named: Vec<&str> = repos.iter().take(UPDATES_MAX).map(|repo| repo.as_str()).collect();
    json!({
        "version": 1, "event": "promoted", "at": now(), "master": master.as_str(), "instead_of": instead_of.as_str(),
        "by": by, "repos": named, "count": repos.len(),
    })
}

pub(super) fn doubted(why: &str) -> Value {
    json!({"version": 1, "event": "doubted", "at": now(), "detail": why})
}

fn pushed(repo: &RepoName, actor: &Actor, updates: &[RefUpdate]) -> Value {
    let named = updates
        .iter()
        .take(UPDATES_MAX)
        .map(|RefUpdate { name, old, new }| json!({"ref": name.as_str(), "old": old.as_str(), "new": new.as_str()}));
    json!({
        "version": 1, "event": "push", "at": now(), "repo": repo.as_str(), "user": actor.to_string(),
        "updates": named.collect::<Vec<_>>(), "count": updates.len(),
    })
}

impl Mirror {
    /// A push has landed here.
    pub fn landed(&self, repo: &RepoName, actor: &Actor, updates: &[RefUpdate]) {
        self.inner.history().add(Some(repo), pushed(repo, actor, updates));
    }

    /// What happens from now on, and what has happened since the event `since`. A receiver that is too slow loses the
    /// oldest, and is told how many.
    pub fn subscribe(&self, since: Option<u64>) -> Events {
        self.inner.history().subscribe(since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_not_ended_is_known_after_a_restart() {
        let (two, three) = (HostName::new("server2").expect("a name"), HostName::new("server3").expect("a name"));
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let notice = |kind, peer: &HostName, lasted| Notice {
            detail: "no route".to_owned(),
            lasted: Duration::from_secs(lasted),
            ..Notice::new(kind, peer.clone(), at)
        };
        let mut history = History::restore("");
        for (kind, peer) in [
            (Kind::PeerDown, &two),
            (Kind::PeerSilent, &two),
            (Kind::PeerDown, &three),
            (Kind::PeerBack, &three),
            (Kind::PeerTells, &three),
        ] {
            history.add(None, of_notice(&notice(kind, peer, 120)));
        }
        let next = History::restore(&history.take_lines().join("\n"));
        let since = at - Duration::from_secs(120);
        let down = next.open(Kind::PeerDown, Kind::PeerBack);
        assert_eq!(down, [(two.clone(), (since, "no route".to_owned()))].into());
        assert_eq!(next.open(Kind::PeerSilent, Kind::PeerTells).len(), 1);
        assert!(next.open(Kind::LeftOver, Kind::LeftOverGone).is_empty());
    }

    #[test]
    fn ids_grow_over_restarts_and_what_is_not_kept_is_told() {
        let repo = RepoName::new("a").expect("a name");
        let ids = |events: &Events| events.past.iter().map(|e| e.id).collect::<Vec<_>>();
        let mut history = History::restore("");
        for n in 0..3 {
            history.add(Some(&repo), json!({"event": "push", "repo": "a", "n": n}));
        }
        assert_eq!(ids(&history.subscribe(None)), [] as [u64; 0]);
        let all = history.subscribe(Some(0));
        assert_eq!((ids(&all), all.lost), (vec![1, 2, 3], false));
        let lines = history.take_lines();
        assert_eq!((lines.len(), history.take_lines().len()), (3, 0));
        let mut next = History::restore(&(lines.join("\n") + "\n{\"id\":4,\"ev"));
        next.add(None, json!({"event": "late"}));
        let since = next.subscribe(Some(2));
        assert_eq!((ids(&since), since.lost), (vec![3, 3 + SKIPPED], false));
        assert_eq!((&since.past[0].repo, &since.past[1].repo), (&Some(repo), &None));
        for _ in 0..KEPT {
            next.add(None, json!({"event": "late"}));
        }
        assert_eq!((next.kept.len(), next.take_lines().len()), (KEPT, KEPT));
        assert!(next.subscribe(Some(2)).lost);
        assert!(!next.subscribe(Some(next.next - 1)).lost);
    }
}

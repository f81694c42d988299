//! Waiting until copies have something. Nothing is pushed for it that would not be pushed anyway; a wait sees to it
//! that one attempt begins after the call, and counts what that attempt, or a comparison, shows.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::state::{Moment, State};
use super::{Inner, Mirror, MirrorError};
use crate::cluster::Place;
use crate::model::{HostName, Oid, RefName, RepoName};

/// Callers that may wait at once on this node.
const WAITS_MAX: usize = 4096;

/// What must have arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Want {
    /// All that is here at the time of the call.
    Now,
    /// This reference as it is here at the time of the call; others may be refused by the replica.
    Ref(RefName),
    /// This reference, which must have this value here now.
    RefAt(RefName, Oid),
}

/// Where it must have arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Where {
    /// On this peer, also if its copy is pushed by hand.
    One(HostName),
    /// On every peer that is pushed to without being asked.
    All,
    /// On so many of those.
    Count(usize),
}

/// How it went with one copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    /// It has it, and had it so long after the call.
    There(Duration),
    /// It does not have it, as far as is known; its state says why.
    NotYet(State),
}

/// How a wait ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waited {
    /// Whether what was asked for has been reached.
    pub met: bool,
    /// Every copy that was looked at.
    pub copies: Vec<(HostName, Arrival)>,
    /// Copies that were not, because they are pushed by hand.
    pub by_hand: Vec<HostName>,
}

impl Waited {
    /// Why what was asked for can never be: there are no copies to wait for, or not so many. A sentence's end.
    pub fn impossible(&self, repo: &RepoName, asked: &Where) -> Option<String> {
        let there = self.copies.len();
        let by_hand = self.by_hand.iter().map(HostName::as_str).collect::<Vec<_>>().join(" ");
        match asked {
            Where::Count(n) if *n > there => {
                let besides = match by_hand.as_str() {
                    "" => String::new(),
                    names => format!(", besides those that are pushed by hand: {names}"),
                };
                let asked = if *n == 1 { "1 copy is".to_owned() } else { format!("{n} copies are") };
                Some(format!("{asked} asked for, and '{repo}' has {there}{besides}"))
            }
            Where::All | Where::Count(_) if there == 0 && by_hand.is_empty() => {
                Some(format!("nothing was waited for: '{repo}' has no copies"))
            }
            Where::All | Where::Count(_) if there == 0 => Some(format!(
                "nothing was waited for: all copies of '{repo}' are pushed by hand; name the one to wait for: {by_hand}"
            )),
            _ => None,
        }
    }
}

/// The repositories that somebody waits for.
#[derive(Default)]
pub(super) struct Waits {
    bells: Mutex<BTreeMap<RepoName, watch::Sender<()>>>,
}

impl Waits {
    fn bells(&self) -> std::sync::MutexGuard<'_, BTreeMap<RepoName, watch::Sender<()>>> {
        self.bells.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Something about this repository's copies has changed.
    pub(super) fn ring(&self, repo: &RepoName) {
        if let Some(bell) = self.bells().get(repo) {
            bell.send_replace(());
        }
    }

    pub(super) fn ring_all(&self) {
        self.bells().values().for_each(|bell| bell.send_replace(()));
    }

    fn listen<'a>(&'a self, repo: &'a RepoName) -> Option<Listener<'a>> {
        let mut bells = self.bells();
        if bells.values().map(watch::Sender::receiver_count).sum::<usize>() >= WAITS_MAX {
            return None;
        }
        let bell = bells.entry(repo.clone()).or_insert_with(|| watch::Sender::new(())).subscribe();
        Some(Listener { waits: self, repo, bell })
    }
}

/// Who waits for a repository, until they are dropped.
struct Listener<'a> {
    waits: &'a Waits,
    repo: &'a RepoName,
    bell: watch::Receiver<()>,
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        let mut bells = self.waits.bells();
        // This one still counts.
        if bells.get(self.repo).is_some_and(|bell| bell.receiver_count() <= 1) {
            bells.remove(self.repo);
        }
    }
}

impl Mirror {
    /// Returns as soon as enough copies have what is wanted, or cannot get it (paused, held back, diverged, pushed by
    /// hand), or at the deadline. A copy counts if an attempt that began after the call showed it equal, or a
    /// comparison did.
    pub async fn wait(
        &self,
        repo: &RepoName,
        want: &Want,
        peers: &Where,
        deadline: Duration,
    ) -> Result<Waited, MirrorError> {
        self.inner.wait(repo, want, peers, deadline).await
    }
}

impl Mirror {
    /// Lets the replica that carried a change here have it, so that the next question there sees it. The error says why
    /// it does not have it by the deadline. A copy that is pushed to by hand is left alone.
    pub async fn let_know(&self, repo: &RepoName, replica: &HostName, deadline: Duration) -> Result<(), String> {
        if (self.inner.world.dir)(repo).is_none() {
            let untold = || self.inner.world.gone.of(repo).is_some_and(|stone| stone.waiting.contains(replica));
            let told = if untold() { self.inner.push_now(repo, replica, deadline).await.map(drop) } else { Ok(()) };
            // Another attempt may have been quicker.
            return told.or_else(|error| if untold() { Err(error.to_string()) } else { Ok(()) });
        }
        if !(self.inner.world.locate)(repo).automatic().any(|name| name == replica) {
            return Ok(());
        }
        match self.wait(repo, &Want::Now, &Where::One(replica.clone()), deadline).await {
            Ok(Waited { met: true, .. }) => Ok(()),
            Ok(Waited { copies, .. }) => Err(match copies.first() {
                Some((_, Arrival::NotYet(state))) => state.to_string(),
                _ => "not compared yet".to_owned(),
            }),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Inner {
    pub(super) async fn wait(
        &self,
        repo: &RepoName,
        want: &Want,
        peers: &Where,
        deadline: Duration,
    ) -> Result<Waited, MirrorError> {
        let called = Moment::now();
        let (targets, by_hand) = self.targets(repo, peers)?;
        let only = self.wanted_ref(repo, want).await?;
        let mut listener = self.waits.listen(repo).ok_or(MirrorError::Busy)?;
        for (peer, manual) in &targets {
            let paused = self.pauses().of(repo, peer).is_some();
            if !manual && !paused {
                self.lane(peer).hasten(repo);
            }
        }
        let end = tokio::time::Instant::now() + deadline;
        let waited = loop {
            listener.bell.borrow_and_update();
            let (waited, decided) = self.look(repo, &targets, peers, only.as_ref(), &called);
            if decided {
                break waited;
            }
            if tokio::time::timeout_at(end, listener.bell.changed()).await.is_err() {
                break self.look(repo, &targets, peers, only.as_ref(), &called).0;
            }
        };
        Ok(Waited { by_hand, ..waited })
    }

    /// The copies to look at, with whether they are pushed by hand; and those that are, and are left out.
    #[expect(clippy::type_complexity, reason = "two lists, taken apart at once")]
    fn targets(&self, repo: &RepoName, peers: &Where) -> Result<(Vec<(HostName, bool)>, Vec<HostName>), MirrorError> {
        let place = (self.world.locate)(repo);
        let Place::Here { .. } = place else { return Err(MirrorError::NotMaster(repo.clone())) };
        let copies = self.pairs(repo);
        match peers {
            Where::One(peer) => match copies.into_iter().find(|(name, _)| name == peer) {
                Some(copy) => Ok((vec![copy], Vec::new())),
                None => Err(MirrorError::NotReplica { repo: repo.clone(), peer: peer.clone() }),
            },
            Where::All | Where::Count(_) => {
                let (by_hand, automatic) = copies.into_iter().partition::<Vec<_>, _>(|(_, manual)| *manual);
                Ok((automatic, by_hand.into_iter().map(|(name, _)| name).collect()))
            }
        }
    }

    /// The one reference that matters, if it is one and it is here.
    async fn wanted_ref(&self, repo: &RepoName, want: &Want) -> Result<Option<RefName>, MirrorError> {
        let (name, at) = match want {
            Want::Now => return Ok(None),
            Want::Ref(name) => (name, None),
            Want::RefAt(name, oid) => (name, Some(oid)),
        };
        let dir = (self.world.dir)(repo).ok_or_else(|| MirrorError::NoRepository(repo.clone()))?;
        let ours = super::worker::blocking_refs(dir).await.map_err(|e| MirrorError::Local(e.to_string()))?;
        match (ours.refs.get(name), at) {
            (None, _) => Err(MirrorError::NoRef { repo: repo.clone(), name: name.clone() }),
            (Some(here), Some(at)) if here != at => {
                Err(MirrorError::RefMoved { name: name.clone(), here: here.clone(), at: at.clone() })
            }
            _ => Ok(Some(name.clone())),
        }
    }

    /// Where each copy stands, and whether waiting on can change the answer.
    fn look(
        &self,
        repo: &RepoName,
        targets: &[(HostName, bool)],
        peers: &Where,
        only: Option<&RefName>,
        called: &Moment,
    ) -> (Waited, bool) {
        let board = self.board();
        let (mut there, mut possible) = (0, 0);
        let copies: Vec<(HostName, Arrival)> = targets
            .iter()
            .map(|(peer, manual)| {
                let arrived = board.arrived(repo, peer, only).filter(|(began, _)| began.mono >= called.mono);
                let arrival = match arrived {
                    Some((_, at)) => {
                        there += 1;
                        Arrival::There(at.saturating_duration_since(called.mono))
                    }
                    None => {
                        let state = board.state(repo, peer, Moment::now());
                        // By hand, the push that is waited for may come.
                        possible += usize::from(*manual || !state.needs_a_person());
                        Arrival::NotYet(state)
                    }
                };
                (peer.clone(), arrival)
            })
            .collect();
        let met = match peers {
            Where::One(_) | Where::All => there == targets.len(),
            Where::Count(n) => there >= *n,
        };
        // To have waited for nothing is no success.
        let met = met && !targets.is_empty();
        // Where some wait for a person, as many as can get it are waited for; more than there are, never.
        let hopeless = possible == 0 || matches!(peers, Where::Count(n) if *n > targets.len());
        (Waited { met, copies, by_hand: Vec::new() }, met || hopeless)
    }
}

/// For [`Arrival::There`]: when an attempt began that brought everything, and when that was known.
pub(super) type Arrived = (Moment, Instant);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_never_be_is_told() {
        let (repo, name) = (RepoName::new("a").unwrap(), |name: &str| HostName::new(name).unwrap());
        let told = |copies: &[&str], by_hand: &[&str], asked: &Where| {
            let copies = copies.iter().map(|peer| (name(peer), Arrival::NotYet(State::Unknown))).collect();
            let by_hand = by_hand.iter().map(|peer| name(peer)).collect();
            Waited { met: false, copies, by_hand }.impossible(&repo, asked).unwrap_or_default()
        };
        for asked in [&Where::All, &Where::Count(0)] {
            assert_eq!(told(&[], &[], asked), "nothing was waited for: 'a' has no copies");
            assert!(told(&[], &["b", "c"], asked).ends_with("are pushed by hand; name the one to wait for: b c"));
        }
        assert_eq!(told(&["b"], &[], &Where::Count(5)), "5 copies are asked for, and 'a' has 1");
        let besides = "2 copies are asked for, and 'a' has 1, besides those that are pushed by hand: c";
        assert_eq!(told(&["b"], &["c"], &Where::Count(2)), besides);
        for (asked, by_hand) in [(Where::All, "c"), (Where::Count(1), "c"), (Where::One(name("b")), "c")] {
            assert_eq!(told(&["b"], &[by_hand], &asked), "", "{asked:?}");
        }
    }

    #[test]
    fn nobody_who_has_gone_is_remembered() {
        let (waits, repo) = (Waits::default(), RepoName::new("a").unwrap());
        let (one, two) = (waits.listen(&repo).unwrap(), waits.listen(&repo).unwrap());
        drop(one);
        assert_eq!(waits.bells().len(), 1);
        waits.ring(&repo);
        assert!(two.bell.has_changed().unwrap());
        drop(two);
        assert!(waits.bells().is_empty());
    }
}

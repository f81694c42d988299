//! What copies are told when their repository was deleted or renamed: an order over the link, from the same worker that
//! pushes, so that orders and pushes to one copy never cross, and first try, retry and recovery are one path.
//!
//! `gitmesh-mirror-trash 'REPO' version=1 epoch=N time=STAMP` moves the copy to the trash there, under the same time as
//! here; `gitmesh-mirror-move 'OLD' version=1 epoch=N to=NEW` gives it its new name, so that no object travels again.
//! Both may be carried out any number of times.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use super::deliver::check;
use super::plan::{Obstacle, Order};
use super::send::SendError;
use super::state::Moment;
use super::worker::END_TIMEOUT;
use super::{Inner, MirrorError};
use crate::model::{Epoch, HostName, RepoName};
use crate::peer::LinkError;
use crate::repo::Tombstone;

/// The first words of the orders.
pub const TRASH: &str = "gitmesh-mirror-trash";
pub const MOVE: &str = "gitmesh-mirror-move";
/// Fewer repositories than this may go within [`GUARD_TIME`] whatever their share.
const GUARD_LEAST: usize = 10;
/// In the journal: a copy has followed into the trash.
pub(super) const FOLLOWED: &str = "trashed";
const GUARD_TIME: Duration = Duration::from_secs(3600);
/// What is kept of an answer, in bytes; there is none.
const ANSWER_MAX: u64 = 4096;

/// Orders of deletion to each peer within the last [`GUARD_TIME`].
#[derive(Debug, Default)]
pub(super) struct Lately(Mutex<BTreeMap<HostName, VecDeque<Instant>>>);

impl Lately {
    fn count(&self, peer: &HostName, now: Instant) -> usize {
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(orders) = peers.get_mut(peer) else { return 0 };
        while orders.front().is_some_and(|at| now.saturating_duration_since(*at) > GUARD_TIME) {
            orders.pop_front();
        }
        orders.len()
    }

    /// Counts the orders that the journal tells of an earlier run, so that a restart is no way around the guard.
    pub(super) fn restore(&self, orders: Vec<(HostName, SystemTime)>, now: Moment) {
        for (peer, at) in orders {
            let age = now.wall.duration_since(at).unwrap_or_default();
            if let Some(at) = now.mono.checked_sub(age).filter(|_| age <= GUARD_TIME) {
                self.add(&peer, at);
            }
        }
    }

    fn add(&self, peer: &HostName, now: Instant) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(peer.clone()).or_default().push_back(now);
    }
}

/// How much a peer is to lose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Loss {
    /// Deletions that it has been told within the last hour.
    lately: usize,
    /// Deletions that it has not followed yet.
    waiting: usize,
    /// Copies that it holds, those included.
    copies: usize,
}

/// Pure: what stands in the way of a deletion there. `share` is the percentage of a peer's copies that may go within
/// the hour. All that waits counts, so that many deletions do not trickle through hour by hour.
fn obstacle(loss: Loss, share: u8, order: Order) -> Option<Obstacle> {
    let Loss { lately, waiting, copies } = loss;
    let (deleted, of) = (lately + waiting, copies + lately);
    let many = deleted > GUARD_LEAST && deleted * 100 > of * usize::from(share);
    (many && share < 100 && order < Order::Force).then_some(Obstacle::Repositories { deleted, of })
}

/// Pure: what one copy is to be told, in this order, before anything is pushed to it. `gone` is the deletion of a
/// repository of its name, `renamed` the one that got its name.
fn due(gone: Option<Tombstone>, renamed: Option<Tombstone>, peer: &HostName) -> Vec<Tombstone> {
    let deleted = gone.filter(|stone| stone.to.is_none());
    deleted.into_iter().chain(renamed).filter(|stone| stone.waiting.contains(peer)).collect()
}

fn line(stone: &Tombstone, epoch: Epoch) -> String {
    let Tombstone { repo, at, to, .. } = stone;
    match to {
        None => format!("{TRASH} '{repo}' version=1 epoch={epoch} time={at}"),
        Some(to) => format!("{MOVE} '{repo}' version=1 epoch={epoch} to={to}"),
    }
}

impl Inner {
    /// Tells one copy what has become of its repository; true if there was something to tell, and it has followed.
    pub(super) async fn tell_gone(
        self: &Arc<Self>,
        peer: &HostName,
        repo: &RepoName,
        epoch: Epoch,
        order: Order,
    ) -> Result<bool, MirrorError> {
        let gone = &self.world.gone;
        let orders = due(gone.of(repo), gone.renamed_to(repo), peer);
        for stone in &orders {
            if stone.to.is_none()
                && let Some(obstacle) = obstacle(self.loss(peer), self.config().guard_repositories, order)
            {
                return Err(MirrorError::Send(Arc::new(SendError::Held(obstacle))));
            }
            self.order(peer, &line(stone, epoch)).await?;
            if stone.to.is_none() {
                self.lately.add(peer, Instant::now());
            }
            let (gone, stone, peer) = (gone.clone(), stone.clone(), peer.clone());
            let confirmed = tokio::task::spawn_blocking(move || gone.confirm(&stone.repo, stone.at, &peer)).await;
            // It is told again, which changes nothing there.
            let confirmed = confirmed.map_err(|error| error.to_string());
            confirmed.and_then(|done| done.map_err(|error| error.to_string())).map_err(MirrorError::Local)?;
        }
        Ok(!orders.is_empty())
    }

    fn loss(&self, peer: &HostName) -> Loss {
        let all = self.world.gone.all();
        let waiting = all.iter().filter(|stone| stone.to.is_none() && stone.waiting.contains(peer)).count();
        let lately = self.lately.count(peer, Instant::now());
        Loss { lately, waiting, copies: self.assigned().of(peer).len() }
    }

    async fn order(&self, peer: &HostName, line: &str) -> Result<(), MirrorError> {
        let mut pipe = self.links.run(peer, line).await?;
        let mut answer = Vec::new();
        let mut limited = (&mut pipe.reader).take(ANSWER_MAX);
        let read = timeout(END_TIMEOUT, limited.read_to_end(&mut answer)).await;
        let finished = timeout(END_TIMEOUT, pipe.finish()).await.map_err(|_| MirrorError::Timeout(END_TIMEOUT))?;
        check(peer, finished)?;
        let read = read.map_err(|_| MirrorError::Timeout(END_TIMEOUT))?;
        read.map_err(|error| LinkError::Closed { peer: peer.clone(), why: error.to_string() })?;
        Ok(())
    }

    /// The copies that are to be told something, of those that the configuration still means; the others are put away
    /// by their own nodes.
    pub(super) fn untold(&self) -> Vec<(HostName, RepoName)> {
        let mut found = Vec::new();
        for stone in self.world.gone.all() {
            let place = (self.world.locate)(stone.to.as_ref().unwrap_or(&stone.repo));
            for peer in &stone.waiting {
                if place.replica(peer).is_some() {
                    found.push((peer.clone(), stone.to.as_ref().unwrap_or(&stone.repo).clone()));
                } else if let Err(error) = self.world.gone.confirm(&stone.repo, stone.at, peer) {
                    tracing::warn!(repo = %stone.repo, %peer, %error, "what it need not be told any more is kept");
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::Stamp;

    #[test]
    fn a_deletion_of_much_waits_for_a_person() {
        let table = [
            // lately, waiting, copies, share, order, held
            (0, 1, 1, 10, Order::Usual, false),
            (0, 10, 10, 10, Order::Usual, false),
            (0, 11, 11, 10, Order::Usual, true),
            (10, 1, 20, 10, Order::Usual, true),
            (10, 1, 20, 10, Order::Force, false),
            (10, 1, 20, 10, Order::Repair, false),
            (0, 100, 1000, 10, Order::Usual, false),
            (1, 100, 1000, 10, Order::Usual, true),
            (0, 11, 11, 100, Order::Usual, false),
            (0, 11, 1000, 0, Order::Usual, true),
        ];
        for (lately, waiting, copies, share, order, held) in table {
            let found = obstacle(Loss { lately, waiting, copies }, share, order);
            assert_eq!(found.is_some(), held, "{lately} {waiting} {copies} {share} {order:?}: {found:?}");
        }
    }

    #[test]
    fn what_was_told_before_a_restart_counts() {
        let (mut journal, lately, now) = (super::super::journal::Journal::default(), Lately::default(), Moment::now());
        let (two, three) = (HostName::new("server2").unwrap(), HostName::new("server3").unwrap());
        for (n, (peer, what, minutes)) in [
            (&two, FOLLOWED, 61),
            (&two, FOLLOWED, 59),
            (&two, "pushed", 1),
            (&two, FOLLOWED, 1),
            (&three, FOLLOWED, 2),
        ]
        .into_iter()
        .enumerate()
        {
            let at = now.wall - Duration::from_secs(60 * minutes);
            journal.add(&RepoName::new(&format!("r{n}")).unwrap(), peer, what, "", at);
        }
        lately.restore(journal.of_kind(FOLLOWED), now);
        assert_eq!((lately.count(&two, now.mono), lately.count(&three, now.mono)), (2, 1));
        assert_eq!(lately.count(&two, now.mono + Duration::from_secs(120)), 1);
    }

    #[test]
    fn what_a_copy_is_told_and_in_which_order() {
        let (two, three) = (HostName::new("server2").unwrap(), HostName::new("server3").unwrap());
        let repo = |name: &str| RepoName::new(name).unwrap();
        let at = Stamp::parse("2026-11-21_08:30:00").unwrap();
        let stone = |name: &str, to: Option<&str>| Tombstone {
            repo: repo(name),
            at,
            creator: None,
            to: to.map(repo),
            waiting: [two.clone()].into(),
        };
        let said = |gone: Option<Tombstone>, renamed, peer| -> Vec<String> {
            due(gone, renamed, peer).iter().map(|stone| line(stone, Epoch::FIRST)).collect()
        };
        let (deleted, renamed) = (stone("a", None), stone("b", Some("a")));
        let trash = "gitmesh-mirror-trash 'a' version=1 epoch=1 time=2026-11-21_08:30:00";
        let mv = "gitmesh-mirror-move 'b' version=1 epoch=1 to=a";
        assert_eq!(said(Some(deleted.clone()), None, &two), [trash]);
        assert_eq!(said(None, Some(renamed.clone()), &two), [mv]);
        assert_eq!(said(Some(deleted.clone()), Some(renamed.clone()), &two), [trash, mv]);
        assert!(said(Some(deleted), Some(renamed), &three).is_empty());
        // The old name's own worker has nothing to tell: what has the new name goes first there.
        assert!(said(Some(stone("b", Some("a"))), None, &two).is_empty());
        assert!(said(None, None, &two).is_empty());
    }
}

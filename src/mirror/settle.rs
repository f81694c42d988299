//! Pure: what the end of an attempt means for the queue and the board.

use std::time::{Instant, SystemTime};

use super::first::Rank;
use super::plan::Obstacle;
use super::queue::{Outcome, Queue};
use super::state::{Input, Moment};
use super::status::Board;
use super::trash::FOLLOWED;
use super::{MirrorError, RemoteError, Report};
use crate::model::{HostName, RepoName};
use crate::peer::LinkError;
use crate::repo::Weight;

/// A push that has ended.
pub(super) struct Attempt<'a> {
    pub repo: &'a RepoName,
    pub peer: &'a HostName,
    /// Before anything was read for it.
    pub began: Moment,
    /// The configuration wants it pushed by hand.
    pub manual: bool,
    pub result: &'a Result<Report, MirrorError>,
}

/// Takes in how a push has ended. `dice` in [0, 1) scatters the next try.
pub(super) fn settle<W>(queue: &mut Queue<W>, board: &mut Board, attempt: &Attempt<'_>, now: Moment, dice: f64) {
    let Attempt { repo, peer, began, manual, result } = *attempt;
    let mut outcome = outcome(result.as_ref().err());
    // A push by hand is tried again by hand.
    if manual && outcome == Outcome::Failed {
        outcome = Outcome::Waits;
    }
    let mut next_try = wall(queue.pushed(repo, outcome, now.mono, dice), now);
    if manual && result.is_err() {
        queue.give_up(|name| name == repo);
        next_try = None;
    }
    let error = match result {
        Ok(report) => {
            board.link_works(peer, now);
            board.apply(repo, peer, Input::Equal { began }, now);
            if report.gone {
                board.journal.add(repo, peer, FOLLOWED, &report.to_string(), now.wall);
                board.drop_pair(repo, peer);
            } else if report.brought_something() {
                board.journal.add(repo, peer, "pushed", &report.to_string(), now.wall);
            }
            return;
        }
        Err(error) => error,
    };
    match (error, outcome) {
        (MirrorError::Paused(_), _) => {}
        (_, Outcome::Dropped) => board.drop_pair(repo, peer),
        (_, Outcome::LinkFailed { .. }) => {
            board.apply(repo, peer, Input::Differs { missing: false }, began);
            board.link_failed(peer, &error.to_string(), next_try, now);
        }
        _ => {
            board.link_works(peer, now);
            let input = match error.obstacle() {
                Some(obstacle @ (Obstacle::Diverged(_) | Obstacle::Foreign(_))) => {
                    Input::Diverged(obstacle.to_string())
                }
                Some(obstacle) => Input::Held(obstacle.to_string()),
                None => {
                    let refused = error.refused().map(|names| (began, names));
                    Input::Failed { error: error.to_string(), next_try, refused }
                }
            };
            board.apply(repo, peer, input, now);
        }
    }
}

/// Takes in how a comparison with a peer has ended.
pub(super) fn settle_scan<W>(
    queue: &mut Queue<W>,
    board: &mut Board,
    peer: &HostName,
    result: Result<(), MirrorError>,
    now: Moment,
    dice: f64,
) {
    let outcome = outcome(result.as_ref().err());
    let next_try = wall(queue.scanned(outcome, now.mono, dice), now);
    match (result, outcome) {
        (Ok(()), _) => board.compared(peer, now),
        (Err(error), Outcome::LinkFailed { .. }) => board.link_failed(peer, &error.to_string(), next_try, now),
        (Err(error), _) => board.not_compared(peer, &error.to_string(), next_try, now),
    }
}

/// What a comparison that began at `began` has shown of one copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    Equal,
    Differs,
    /// With what there is to copy.
    Missing(Weight),
    /// It is there and empty, and the repository here is not the same.
    Blank(Weight),
}

/// Takes it in; `push` when what differs may be pushed without an order.
pub(super) fn compared<W>(
    queue: &mut Queue<W>,
    board: &mut Board,
    (repo, peer): (&RepoName, &HostName),
    shown: Shown,
    push: bool,
    began: Moment,
    now: Moment,
) {
    if shown == Shown::Equal {
        queue.caught_up(repo);
        // A hint that came meanwhile stands, and is settled by its own push.
        if !queue.is_known(repo) {
            board.apply(repo, peer, Input::Equal { began }, now);
        }
        return;
    }
    board.apply(repo, peer, Input::Differs { missing: matches!(shown, Shown::Missing(_)) }, began);
    match shown {
        _ if !push => {}
        Shown::Missing(weight) | Shown::Blank(weight) => queue.mark_first(repo, Rank::of(repo, weight)),
        Shown::Equal | Shown::Differs => queue.mark(repo),
    }
}

fn wall(at: Option<Instant>, now: Moment) -> Option<SystemTime> {
    at.map(|at| now.wall + at.saturating_duration_since(now.mono))
}

pub(super) fn outcome(error: Option<&MirrorError>) -> Outcome {
    match error {
        None => Outcome::Done,
        Some(MirrorError::Link(LinkError::Busy { .. })) => Outcome::Failed,
        Some(MirrorError::Link(error)) => Outcome::LinkFailed { retry_can_help: error.retry_can_help() },
        Some(MirrorError::Foreign { error, .. }) => match **error {
            RemoteError::Away { shut, .. } => Outcome::LinkFailed { retry_can_help: !shut },
            RemoteError::Closed(_) => Outcome::LinkFailed { retry_can_help: false },
            _ => Outcome::Failed,
        },
        Some(MirrorError::NotMaster(_) | MirrorError::NotReplica { .. } | MirrorError::NoRepository(_)) => {
            Outcome::Dropped
        }
        Some(MirrorError::Paused(_)) => Outcome::Waits,
        Some(error) if error.obstacle().is_some() => Outcome::Waits,
        Some(_) => Outcome::Failed,
    }
}

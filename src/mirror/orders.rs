//! What a person orders: pauses and their end.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use super::notice::{Kind, Notice};
use super::pause::{Pause, Scope};
use super::state::Moment;
use super::{Inner, Mirror, MirrorError};
use crate::model::{HostName, RepoName};

impl Mirror {
    /// Stops the pushes to the copies of `scope`, until somebody resumes them, also across restarts; pushes that run
    /// already end. Returns the copies that it is about, and whether it is new: a pause that stands keeps its words.
    pub fn pause(&self, scope: Scope, by: &str, reason: &str) -> io::Result<(usize, bool)> {
        self.inner.pause(scope, by, reason)
    }

    /// Takes back the pause of `scope`, and those of single copies within it, and has the copies compared. Returns
    /// the pauses that are over.
    pub fn resume(&self, scope: &Scope, by: &str) -> io::Result<Vec<Pause>> {
        self.inner.resume(scope, by)
    }

    /// The pauses that stand.
    pub fn pauses(&self) -> Vec<Pause> {
        self.inner.pauses().all().cloned().collect()
    }
}

impl Inner {
    pub(super) fn pause(&self, scope: Scope, by: &str, reason: &str) -> io::Result<(usize, bool)> {
        let pause = Pause { scope, by: by.to_owned(), reason: reason.to_owned(), since: SystemTime::now() };
        let added = self.pauses().add(pause.clone())?;
        for (peer, lane) in self.lanes().iter() {
            lane.give_up(|repo| pause.scope.covers(repo, peer));
        }
        Ok((self.obey(&pause.scope, Kind::Paused, by, reason, added), added))
    }

    pub(super) fn resume(&self, scope: &Scope, by: &str) -> io::Result<Vec<Pause>> {
        let over = self.pauses().remove(scope)?;
        if over.is_empty() {
            return Ok(over);
        }
        self.obey(scope, Kind::Resumed, by, "", true);
        let (covered, assigned) = (self.board().covered(scope), self.assigned());
        for (repo, peer) in covered {
            if !assigned.is_manual(&peer, &repo) && self.pauses().of(&repo, &peer).is_none() {
                self.lane(&peer).hasten(&repo);
            }
        }
        Ok(over)
    }

    pub(super) fn refuse_paused(&self, repo: &RepoName, peer: &HostName) -> Result<(), MirrorError> {
        match self.pauses().of(repo, peer) {
            Some(pause) => Err(MirrorError::Paused(Box::new(pause.clone()))),
            None => Ok(()),
        }
    }

    /// Shows the copies as the orders have them now, and tells of it. Returns how many there are.
    fn obey(&self, scope: &Scope, kind: Kind, by: &str, reason: &str, tell: bool) -> usize {
        let now = Moment::now();
        let detail = if reason.is_empty() { format!("by {by}") } else { format!("by {by}: {reason}") };
        let covered = {
            let pauses = self.pauses();
            let mut board = self.board();
            board.obey(&pauses, now);
            let covered = board.covered(scope);
            if tell {
                for (repo, peer) in &covered {
                    board.journal.add(repo, peer, kind.word(), &detail, now.wall);
                }
            }
            covered
        };
        self.waits.ring_all();
        if tell {
            let mut notices = std::collections::BTreeMap::<HostName, Notice>::new();
            for (repo, peer) in &covered {
                let notice = notices.entry(peer.clone()).or_insert_with(|| Notice::new(kind, peer.clone(), now.wall));
                notice.add(repo.clone(), &detail, std::time::Duration::ZERO);
            }
            notices.into_values().for_each(|notice| self.tell(Arc::new(notice)));
        }
        covered.len()
    }
}

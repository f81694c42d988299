//! The gate before each repository: closed while its master changes, so that what is handed over stays as it is.
//!
//! A push passes when it has been judged, and is through when it has ended. Whoever closes the gate waits for those that
//! have passed: either a push sees the closed gate, or the closer sees the push.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::model::RepoName;

/// All gates. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Gates(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    through: Notify,
}

#[derive(Debug, Default)]
struct State {
    closed: BTreeSet<RepoName>,
    passing: BTreeMap<RepoName, usize>,
}

/// A push that has passed; dropped when it is through.
#[derive(Debug)]
pub struct Pass(RepoName, Gates);

/// A closed gate; it opens when this is dropped.
#[derive(Debug)]
pub struct Closed(RepoName, Gates);

impl Gates {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` when the gate is closed.
    pub fn pass(&self, repo: &RepoName) -> Option<Pass> {
        let mut state = self.state();
        if state.closed.contains(repo) {
            return None;
        }
        *state.passing.entry(repo.clone()).or_default() += 1;
        Some(Pass(repo.clone(), self.clone()))
    }

    /// `None` when somebody else has closed it.
    pub fn close(&self, repo: &RepoName) -> Option<Closed> {
        self.state().closed.insert(repo.clone()).then(|| Closed(repo.clone(), self.clone()))
    }

    pub fn is_closed(&self, repo: &RepoName) -> bool {
        self.state().closed.contains(repo)
    }
}

impl Closed {
    /// Waits until all that had passed are through; false if some are not within this time.
    pub async fn is_quiet_within(&self, patience: Duration) -> bool {
        let quiet = async {
            loop {
                let through = self.1.0.through.notified();
                if !self.1.state().passing.contains_key(&self.0) {
                    return;
                }
                through.await;
            }
        };
        timeout(patience, quiet).await.is_ok()
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = self.1.state();
        if let Some(passing) = state.passing.get_mut(&self.0) {
            *passing -= 1;
            if *passing == 0 {
                state.passing.remove(&self.0);
            }
        }
        drop(state);
        self.1.0.through.notify_waiters();
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        self.1.state().closed.remove(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_gate_waits_for_those_who_have_passed() {
        let (gates, repo, other) = (Gates::default(), RepoName::new("a").unwrap(), RepoName::new("b").unwrap());
        let (first, second) = (gates.pass(&repo).unwrap(), gates.pass(&repo).unwrap());
        let _elsewhere = gates.pass(&other).unwrap();
        let closed = gates.close(&repo).unwrap();
        assert!(gates.close(&repo).is_none() && gates.pass(&repo).is_none() && gates.is_closed(&repo));
        assert!(gates.pass(&other).is_some());
        drop(first);
        assert!(!closed.is_quiet_within(Duration::from_millis(1)).await);
        let quiet = tokio::spawn(async move { (closed.is_quiet_within(Duration::from_secs(20)).await, closed) });
        tokio::task::yield_now().await;
        drop(second);
        let (quiet, closed) = quiet.await.unwrap();
        assert!(quiet);
        drop(closed);
        assert!(gates.pass(&repo).is_some());
    }
}

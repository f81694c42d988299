//! What was last brought to a copy beside its references (HEAD, description, settings, roles, locks, texts): git's push
//! tells which references it has changed, and the replica takes the rest without a word. Kept in memory only; where it
//! is not known, a push of what was behind and needed no reference has brought something of these.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::ours::Ours;
use crate::model::{HostName, RepoName};
use crate::repo::{Metadata, Ownership};

/// Copies of which it is known; about 10 MB.
const KNOWN_MAX: usize = 50_000;

/// A digest of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Beside(u64);

impl Beside {
    /// `texts` are the file locks and the papers.
    pub(super) fn of(ours: &Ours, owned: &Ownership, metadata: &Metadata, texts: [Option<&str>; 2]) -> Self {
        let mut hasher = DefaultHasher::new();
        ours.head.as_ref().map(|head| head.as_str()).hash(&mut hasher);
        ours.detached.as_ref().map(|oid| oid.as_str()).hash(&mut hasher);
        owned.creator.as_ref().map(|creator| creator.as_str()).hash(&mut hasher);
        owned.roles.hash(&mut hasher);
        metadata.to_word().hash(&mut hasher);
        texts.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// What is known of the copies, and since when.
#[derive(Debug, Default)]
pub(super) struct Brought(Mutex<HashMap<(RepoName, HostName), (Beside, Instant)>>);

impl Brought {
    fn known(&self) -> MutexGuard<'_, HashMap<(RepoName, HostName), (Beside, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A push has brought this. Returns whether the copy had something else; none if that is not known.
    pub(super) fn keep(&self, repo: &RepoName, peer: &HostName, now: Beside) -> Option<bool> {
        let mut known = self.known();
        if known.len() >= KNOWN_MAX
            && let Some(any) = known.keys().next().cloned()
        {
            known.remove(&any);
        }
        known.insert((repo.clone(), peer.clone()), (now, Instant::now())).map(|(before, _)| before != now)
    }

    /// A comparison that began then has shown that the copy differs: if no push has ended since, it was changed there.
    pub(super) fn differs(&self, repo: &RepoName, peer: &HostName, began: Instant) {
        let of = (repo.clone(), peer.clone());
        let mut known = self.known();
        if known.get(&of).is_some_and(|(_, at)| *at < began) {
            known.remove(&of);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::git::ref_state::RefState;
    use crate::model::RefName;

    #[test]
    fn a_change_is_seen_once_and_one_over_there_too() {
        let (repo, peer) = (RepoName::new("a").unwrap(), HostName::new("server2").unwrap());
        let ours = |head| Ours::from(RefState { head: RefName::parse(head), ..RefState::default() });
        let beside = |head, description: &str, locks| {
            let metadata = Metadata { description: description.to_owned(), ..Metadata::default() };
            Beside::of(&ours(head), &Ownership::default(), &metadata, [locks, None])
        };
        let brought = Brought::default();
        let (main, next) = ("refs/heads/main", "refs/heads/next");
        for (now, told) in [
            (beside(main, "", None), None),
            (beside(main, "", None), Some(false)),
            (beside(next, "", None), Some(true)),
            (beside(next, "", None), Some(false)),
            (beside(next, "x", None), Some(true)),
            (beside(next, "x", Some("lock")), Some(true)),
        ] {
            assert_eq!(brought.keep(&repo, &peer, now), told, "{now:?}");
        }
        let (last, began) = (beside(next, "x", Some("lock")), Instant::now());
        // A comparison from before the push says nothing of what came with it.
        brought.differs(&repo, &peer, began.checked_sub(Duration::from_secs(60)).unwrap());
        assert_eq!(brought.keep(&repo, &peer, last), Some(false));
        brought.differs(&repo, &peer, Instant::now() + Duration::from_secs(1));
        assert_eq!(brought.keep(&repo, &peer, last), None);
    }
}

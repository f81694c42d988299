//! Packs as pushes brought them: a copy that lacks exactly what the last push changed is sent that push's own pack,
//! which nobody has to count and compress again.
//!
//! Whatever else a copy lacks makes the difference another one, and then git makes the pack. Each copy is given such a pack
//! once: should it miss something that the pusher knew to be here, the next try brings it.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::model::{HostName, RefUpdate, RepoName};

/// Repositories whose last push is remembered, and references of such a push.
const REPOS_MAX: usize = 1024;
const UPDATES_MAX: usize = 64;

/// The last push of each repository.
#[derive(Debug, Default)]
pub(super) struct Pushed(Mutex<HashMap<RepoName, Arc<Push>>>);

/// A push that landed whole.
#[derive(Debug)]
struct Push {
    updates: Vec<RefUpdate>,
    pack: PathBuf,
    given: Mutex<HashSet<HostName>>,
}

/// A push as one copy may have it.
#[derive(Debug)]
pub struct Offer {
    push: Arc<Push>,
    peer: HostName,
}

impl Pushed {
    /// `pack`, in the repository's store, holds all that these updates have brought.
    pub(super) fn keep(&self, repo: &RepoName, updates: Vec<RefUpdate>, pack: PathBuf) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if updates.len() > UPDATES_MAX {
            all.remove(repo);
            return;
        }
        if all.len() >= REPOS_MAX
            && let Some(any) = all.keys().next().cloned()
        {
            all.remove(&any);
        }
        all.insert(repo.clone(), Arc::new(Push { updates, pack, given: Mutex::default() }));
    }

    pub(super) fn offer(&self, repo: &RepoName, peer: &HostName) -> Option<Offer> {
        let push = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(repo).cloned()?;
        Some(Offer { push, peer: peer.clone() })
    }
}

impl Offer {
    /// The pack, if what the copy lacks is this push and it was not given it before. Opens a file.
    pub(super) fn take(&self, lacks: &[RefUpdate]) -> Option<File> {
        let Push { updates, pack, given } = &*self.push;
        if lacks.len() != updates.len() || !lacks.iter().all(|update| updates.contains(update)) {
            return None;
        }
        if !given.lock().unwrap_or_else(PoisonError::into_inner).insert(self.peer.clone()) {
            return None;
        }
        // It may have been packed anew.
        File::open(pack).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Oid, RefName};

    fn update(name: &str, old: u8, new: u8) -> RefUpdate {
        let oid = |n: u8| Oid::parse(&format!("{n:040}")).expect("an id");
        RefUpdate { name: RefName::parse(name).expect("a name"), old: oid(old), new: oid(new) }
    }

    #[test]
    fn a_pack_is_for_each_copy_that_lacks_this_push_and_once() {
        let tmp = tempfile::NamedTempFile::new().expect("a file");
        let (pushes, repo) = (Pushed::default(), RepoName::new("testing").expect("a name"));
        let peers = ["server2", "server3"].map(|name| HostName::new(name).expect("a name"));
        let offer = |n: usize| pushes.offer(&repo, &peers[n]);
        assert!(offer(0).is_none());
        let pushed = vec![update("refs/heads/a", 1, 2), update("refs/heads/b", 0, 3)];
        pushes.keep(&repo, pushed.clone(), tmp.path().to_owned());
        let swapped: Vec<_> = pushed.iter().rev().cloned().collect();
        for other in [&pushed[..1], &[pushed[0].clone(), update("refs/heads/b", 1, 3)], &[]] {
            assert!(offer(0).expect("a push").take(other).is_none(), "{other:?}");
        }
        for n in [0, 1] {
            let taken = |lacks| offer(n).expect("a push").take(lacks).is_some();
            assert!(taken(&swapped));
            assert!(!taken(&pushed), "once");
        }
        pushes.keep(&repo, pushed.clone(), tmp.path().with_extension("gone"));
        assert!(offer(0).expect("a push").take(&pushed).is_none(), "packed anew");
        let many = (0..65).map(|n| update(&format!("refs/heads/{n}"), 0, 1)).collect();
        pushes.keep(&repo, many, tmp.path().to_owned());
        assert!(offer(0).is_none(), "an older push is not the last one");
    }
}

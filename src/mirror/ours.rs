//! What is here, for one mirror push: read once, and no further than the replica's answer asks for.
//!
//! A replica with a long list of references is not asked for it each time. It tells an etag ([`Look`]) at the end of a
//! push; with the next push the master sends the etag back, and a replica that is still as it was says so instead of
//! listing all. What has changed here since then is all that it lacks. Whenever anything is in doubt, on either side,
//! the whole list is compared: nothing is ever wrong for long, and nothing is kept over a restart.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::pushed::Offer;
use crate::git::etag::Look;
use crate::git::objects::ObjectsError;
use crate::git::protocol::oid;
use crate::git::ref_state::{RefState, read_refs};
use crate::git::refs::Snapshot;
use crate::model::{HostName, Oid, RefName, RefUpdate, RepoName};

/// Copies for which a belief is kept; they are those of large repositories that were pushed to lately.
const BELIEFS_MAX: usize = 64;
/// What asks a replica for its etag without telling one.
const NONE_YET: &str = "-";

/// What a replica had after the last push: its word for that, and what was here.
#[derive(Debug, Clone)]
pub struct Belief {
    etag: String,
    look: Arc<Look>,
}

/// The beliefs about copies.
#[derive(Debug, Default)]
pub(super) struct Beliefs(Mutex<HashMap<(RepoName, HostName), Belief>>);

impl Beliefs {
    /// Takes the belief about a copy away: only a push that ends well brings one back.
    pub(super) fn take(&self, repo: &RepoName, peer: &HostName) -> Option<Belief> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&(repo.clone(), peer.clone()))
    }

    pub(super) fn keep(&self, repo: &RepoName, peer: &HostName, belief: Belief) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= BELIEFS_MAX
            && let Some(any) = all.keys().next().cloned()
        {
            all.remove(&any);
        }
        all.insert((repo.clone(), peer.clone()), belief);
    }
}

/// HEAD and the references here, at one moment.
pub struct Ours {
    pub head: Option<RefName>,
    pub detached: Option<Oid>,
    refs: Refs,
    look: Option<Arc<Look>>,
    /// The etag that the replica told last, and what has changed here since.
    since: Option<(String, Vec<RefUpdate>)>,
    pushed: Option<Offer>,
}

enum Refs {
    /// Not listed yet.
    Files(Arc<Snapshot>),
    Listed(Arc<RefState>),
}

impl From<RefState> for Ours {
    fn from(state: RefState) -> Self {
        let (head, detached) = (state.head.clone(), state.detached.clone());
        Self { head, detached, refs: Refs::Listed(Arc::new(state)), look: None, since: None, pushed: None }
    }
}

impl Ours {
    /// Reads the repository at `dir` as far as is needed with this belief. Blocks.
    pub fn read(dir: &Path, belief: Option<Belief>) -> Result<Self, ObjectsError> {
        let snapshot = match Snapshot::of_all(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::Unsupported => return Ok(read_refs(dir)?.into()),
            snapshot => snapshot?,
        };
        let Some(look) = Look::of(&snapshot)? else { return Ok(RefState::of(&snapshot)?.into()) };
        let RefState { head, detached, .. } = RefState::head_of(&snapshot)?;
        let since = match belief {
            // What a detached HEAD names may have to go with the pack.
            Some(belief) if detached.is_none() => {
                look.since(&belief.look, &snapshot)?.map(|changes| (belief.etag, changes))
            }
            _ => None,
        };
        Ok(Self {
            head,
            detached,
            refs: Refs::Files(Arc::new(snapshot)),
            look: Some(Arc::new(look)),
            since,
            pushed: None,
        })
    }

    /// With the last push that came here.
    pub fn with_pushed(self, pushed: Option<Offer>) -> Self {
        Self { pushed, ..self }
    }

    /// The pack that a push has brought here, if that push is what a replica lacks. What a detached HEAD names may have
    /// to go too, and is in no push. Opens a file.
    pub fn pushed(&self, lacks: &[RefUpdate]) -> Option<File> {
        self.pushed.as_ref().filter(|_| self.detached.is_none())?.take(lacks)
    }

    /// The word for the exec line: the replica's etag, or the wish to be told one.
    pub fn etag(&self) -> Option<&str> {
        self.look.as_ref()?;
        Some(self.since.as_ref().map_or(NONE_YET, |(etag, _)| etag))
    }

    /// What a replica lacks that says that it is as it was.
    pub fn changes(&self) -> Option<&[RefUpdate]> {
        self.since.as_ref().map(|(_, changes)| &changes[..])
    }

    /// With the replica's word for what it has now.
    pub fn believed(&self, etag: String) -> Option<Belief> {
        Some(Belief { etag, look: self.look.clone()? })
    }

    /// Whether there is no reference. A list that is long enough to be known by a look is not empty.
    pub fn is_empty(&self) -> bool {
        matches!(&self.refs, Refs::Listed(state) if state.refs.is_empty())
    }

    /// All references.
    pub async fn all(&self) -> Result<Arc<RefState>, ObjectsError> {
        match &self.refs {
            Refs::Listed(state) => Ok(state.clone()),
            Refs::Files(snapshot) => {
                let snapshot = snapshot.clone();
                let listing = tokio::task::spawn_blocking(move || Ok(Arc::new(RefState::of(&snapshot)?)));
                listing.await.expect("listing references does not panic, and is not cancelled")
            }
        }
    }

    /// Some branches that have not changed, which a replica has that is as it was.
    pub async fn unchanged(&self, most: usize) -> Result<Vec<(RefName, Oid)>, ObjectsError> {
        let (Refs::Files(snapshot), Some(changes)) = (&self.refs, self.changes()) else { return Ok(Vec::new()) };
        let snapshot = snapshot.clone();
        let listing = tokio::task::spawn_blocking(move || snapshot.first(b"refs/heads/", most));
        let branches = listing.await.expect("listing references does not panic, and is not cancelled")?;
        let named = branches.iter().filter_map(|branch| {
            let name = RefName::parse(std::str::from_utf8(&branch.name).ok()?)?;
            Some((name, oid(&branch.oid)?))
        });
        Ok(named.filter(|(name, _)| changes.iter().all(|change| change.name != *name)).collect())
    }
}

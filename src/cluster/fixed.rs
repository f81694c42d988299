//! No cluster engine: the places are what the configuration's mirror options say.

use std::sync::Arc;

use tokio::sync::watch;

use super::Place;
use crate::model::{Epoch, HostName, RepoName, UserName};
use crate::policy::{Facts, How, Mode, Policy};

/// Who made a repository, as its own files say: the options of `pub/CREATOR/..*` reach `pub/alice/x` through that.
/// A function, since repositories on disk are not this room's.
pub type Creators = Arc<dyn Fn(&RepoName) -> Option<UserName> + Send + Sync>;

/// A handle on the placement. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    host: HostName,
    policy: watch::Receiver<Arc<Policy>>,
    creators: Creators,
}

impl Cluster {
    pub fn new(host: HostName, policy: watch::Receiver<Arc<Policy>>, creators: Creators) -> Self {
        Self { host, policy, creators }
    }

    /// This node's name.
    pub fn host(&self) -> &HostName {
        &self.host
    }

    /// Where the repository lives. Replicas to which pushes are never automatic (gitolite's `nosync`) are left out.
    pub fn locate(&self, repo: &RepoName) -> Place {
        let creator = (self.creators)(repo);
        let facts = Facts { creator: creator.as_ref().map(UserName::as_str), ..Facts::existing(repo) };
        let mirror = self.policy.borrow().mirror(&facts, &self.host);
        match mirror.mode {
            Mode::Local => Place::Here { epoch: Epoch::FIRST, replicas: Vec::new() },
            Mode::Copy { master } => Place::There(master),
            Mode::NotHere | Mode::Orphan => Place::Elsewhere,
            Mode::Master => {
                let replicas = mirror.copies.iter().filter(|(_, how)| matches!(how, How::Async | How::Sync));
                let replicas = replicas.filter_map(|(name, _)| HostName::new(name).ok()).filter(|n| *n != self.host);
                Place::Here { epoch: Epoch::FIRST, replicas: replicas.collect() }
            }
        }
    }

    /// Fires when places may have changed.
    pub fn changes(&self) -> watch::Receiver<Arc<Policy>> {
        self.policy.clone()
    }
}

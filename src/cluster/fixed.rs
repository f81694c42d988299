//! No cluster engine: the places are what the configuration's mirror options say.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Foreign, Place, Replica};
use crate::model::{ADMIN_REPO, Epoch, HostName, RepoName, UserName};
pub use crate::policy::How;
use crate::policy::{Facts, Mode, Policy};

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

    /// Where the repository lives.
    pub fn locate(&self, repo: &RepoName) -> Place {
        self.locate_for(repo, None)
    }

    /// As [`Cluster::locate`]; `asking` counts as the creator of a repository that is not here.
    pub fn locate_for(&self, repo: &RepoName, asking: Option<&UserName>) -> Place {
        let creator = (self.creators)(repo).or_else(|| asking.cloned());
        self.locate_made_by(repo, creator.as_ref())
    }

    /// As [`Cluster::locate`], for somebody who knows already who has made the repository.
    pub fn locate_made_by(&self, repo: &RepoName, creator: Option<&UserName>) -> Place {
        let facts = Facts { creator: creator.map(UserName::as_str), ..Facts::existing(repo) };
        let mirror = self.policy.borrow().mirror(&facts, &self.host);
        let redirects = |name: &HostName| mirror.redirectors.iter().any(|known| known == name.as_str());
        match mirror.mode {
            Mode::Local => Place::Here { epoch: Epoch::FIRST, replicas: Vec::new() },
            Mode::Copy { master } => Place::There { master, redirect: redirects(&self.host) },
            Mode::NotHere | Mode::Orphan => Place::Elsewhere,
            Mode::Master => {
                let named = mirror.copies.iter().filter_map(|(name, how)| Some((HostName::new(name).ok()?, *how)));
                let others = named.filter(|(name, _)| *name != self.host);
                let replicas = others.map(|(name, how)| Replica { redirect: redirects(&name), name, how }).collect();
                Place::Here { epoch: Epoch::FIRST, replicas }
            }
        }
    }

    /// The servers outside the mesh that a repository has to do with; of one that is not mastered here, none. A name
    /// that is one of its replicas' means the replica.
    pub fn foreign(&self, repo: &RepoName) -> Foreign {
        let Place::Here { replicas, .. } = self.locate(repo) else { return Foreign::default() };
        let creator = (self.creators)(repo);
        let facts = Facts { creator: creator.as_ref().map(UserName::as_str), ..Facts::existing(repo) };
        let (mut targets, mut upstream) = self.policy.borrow().foreign(&facts);
        // Its changes are judged before they count; what comes from elsewhere would not be.
        upstream.take_if(|_| repo.as_str() == ADMIN_REPO);
        targets.retain(|target| !replicas.iter().any(|replica| replica.name == target.name));
        // One name is one thing: what a repository follows is not pushed to.
        targets.retain(|target| upstream.as_ref().is_none_or(|upstream| upstream.target.name != target.name));
        Foreign { targets, upstream }
    }

    /// Fires when places may have changed, and when repositories were made for the configuration.
    pub fn changes(&self) -> watch::Receiver<Arc<Policy>> {
        self.policy.clone()
    }
}

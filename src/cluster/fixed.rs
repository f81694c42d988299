//! No cluster engine: the places are what the configuration's mirror options say.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use super::masters::review;
use super::{Foreign, Masters, Place, Promotion, Replica};
use crate::model::time::Stamp;
use crate::model::{ADMIN_REPO, Epoch, HostName, RepoName, UserName};
pub use crate::policy::How;
use crate::policy::{Facts, Mirror, Mode, Policy};

/// Who made a repository, as its own files say: the options of `pub/CREATOR/..*` reach `pub/alice/x` through that.
/// A function, since repositories on disk are not this room's.
pub type Creators = Arc<dyn Fn(&RepoName) -> Option<UserName> + Send + Sync>;

/// The highest epoch that a repository here has promised to; a function for the same reason.
pub type Epochs = Arc<dyn Fn(&RepoName) -> Epoch + Send + Sync>;

/// A handle on the placement. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    host: HostName,
    policy: watch::Receiver<Arc<Policy>>,
    masters: Masters,
    creators: Creators,
    epochs: Epochs,
}

/// The mirroring that the configuration names, with the orders that stand above it: whose disk is doubted is no master,
/// and who was promoted is, for as long as the configuration names the master that was replaced and the copy that was
/// promoted.
pub fn in_force(masters: &Masters, mirror: Mirror, repo: &RepoName, host: &HostName) -> Mirror {
    let Some(named) = mirror.master.clone() else { return mirror };
    let counts = |p: &Promotion| {
        let to = p.master.as_str();
        named == p.instead_of.as_str()
            && (to == named || mirror.copies.contains_key(to))
            && !masters.has_ended(repo, p.epoch)
    };
    let promotion = masters.of(repo).filter(counts);
    let mut mirror = match &promotion {
        Some(promotion) => mirror.promoted(&promotion.master, host),
        None => mirror,
    };
    if mirror.mode == Mode::Master
        && !mirror.copies.is_empty()
        && let Some(why) = masters.doubt()
        && promotion.is_none_or(|p| p.disk != masters.disk().id)
    {
        mirror.mode = Mode::Doubted(why.to_string());
    }
    mirror
}

impl Cluster {
    pub fn new(
        host: HostName,
        policy: watch::Receiver<Arc<Policy>>,
        masters: Masters,
        creators: Creators,
        epochs: Epochs,
    ) -> Self {
        Self { host, policy, masters, creators, epochs }
    }

    /// The orders that stand above the configuration.
    pub fn masters(&self) -> &Masters {
        &self.masters
    }

    /// The highest epoch that is known here of the repository: by order, or as its copy here has promised.
    pub fn epoch(&self, repo: &RepoName) -> Epoch {
        let promised = (self.epochs)(repo);
        self.masters.of(repo).map_or(promised, |promotion| promotion.epoch.max(promised))
    }

    /// The master that the configuration names, whatever was ordered, if there is one with copies.
    pub fn configured(&self, repo: &RepoName) -> Option<HostName> {
        let mirror = self.mirror_by_configuration(repo, (self.creators)(repo).as_ref());
        mirror.master.filter(|_| !mirror.copies.is_empty()).and_then(|name| HostName::new(&name).ok())
    }

    /// The other nodes that have a part in the repository.
    pub fn partners(&self, repo: &RepoName) -> BTreeSet<HostName> {
        let mirror = self.mirror_by_configuration(repo, (self.creators)(repo).as_ref());
        let named = mirror.master.into_iter().chain(mirror.copies.into_keys());
        named.filter_map(|name| HostName::new(&name).ok()).filter(|name| *name != self.host).collect()
    }

    /// Whether this disk is doubted, so that it is not the master that it is by name.
    pub fn is_doubted(&self, repo: &RepoName) -> bool {
        matches!(self.mirror(repo, (self.creators)(repo).as_ref()).mode, Mode::Doubted(_))
    }

    /// Makes this node the master of these repositories, durably and in one write: each gets the epoch after the highest
    /// that is known here. Those that the configuration gives no master are left out.
    pub fn promote(&self, repos: &[RepoName], by: &str) -> io::Result<Vec<(RepoName, Promotion)>> {
        self.write_orders(repos, by, |repo| self.epoch(repo).next())
    }

    /// As [`Cluster::promote`], to an epoch above `past`.
    pub fn promote_from(&self, repos: &[RepoName], past: Epoch, by: &str) -> io::Result<Vec<(RepoName, Promotion)>> {
        self.write_orders(repos, by, |repo| self.epoch(repo).max(past).next())
    }

    /// As [`Cluster::promote`], to this epoch, which is higher than any that is known here.
    pub fn promote_to(&self, repos: &[RepoName], epoch: Epoch, by: &str) -> io::Result<Vec<(RepoName, Promotion)>> {
        self.write_orders(repos, by, |_| epoch)
    }

    /// Looks what the configuration makes of the promotions (see `cluster::masters`), writes that down, and returns the
    /// orders that follow. Blocks.
    pub fn review(&self) -> io::Result<Vec<(RepoName, Promotion)>> {
        let (table, ended) = (self.masters.table(), self.masters.ended());
        let found = review(&table, &ended, |repo| self.configured(repo));
        self.masters.end(found.ended)?;
        let at = Stamp::new(SystemTime::now());
        let orders = found.again.into_iter().map(|(repo, master)| {
            let order = Promotion::by_configuration(master, self.epoch(&repo).next(), at);
            (repo, order)
        });
        let orders: Vec<_> = orders.collect();
        let counts = self.masters.adopt(orders.clone())?;
        Ok(orders.into_iter().filter(|(repo, _)| counts.contains(repo)).collect())
    }

    fn write_orders(
        &self,
        repos: &[RepoName],
        by: &str,
        epoch: impl Fn(&RepoName) -> Epoch,
    ) -> io::Result<Vec<(RepoName, Promotion)>> {
        let (disk, at) = (self.masters.disk().id, Stamp::new(SystemTime::now()));
        let order = |repo: &RepoName| {
            let (instead_of, master) = (self.configured(repo)?, self.host.clone());
            let (epoch, disk, by) = (epoch(repo), disk.clone(), by.to_owned());
            Some((repo.clone(), Promotion { epoch, master, instead_of, disk, by, at }))
        };
        let orders: Vec<_> = repos.iter().filter_map(order).collect();
        let counts = self.masters.adopt(orders.clone())?;
        Ok(orders.into_iter().filter(|(repo, _)| counts.contains(repo)).collect())
    }

    fn mirror_by_configuration(&self, repo: &RepoName, creator: Option<&UserName>) -> Mirror {
        let facts = Facts { creator: creator.map(UserName::as_str), ..Facts::existing(repo) };
        self.policy.borrow().mirror(&facts, &self.host)
    }

    fn mirror(&self, repo: &RepoName, creator: Option<&UserName>) -> Mirror {
        in_force(&self.masters, self.mirror_by_configuration(repo, creator), repo, &self.host)
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
        let mirror = self.mirror(repo, creator);
        let redirects = |name: &HostName| mirror.redirectors.iter().any(|known| known == name.as_str());
        match mirror.mode {
            Mode::Local => Place::Here { epoch: Epoch::FIRST, replicas: Vec::new() },
            Mode::Copy { master } => Place::There { master, redirect: redirects(&self.host) },
            Mode::NotHere | Mode::Orphan | Mode::Doubted(_) => Place::Elsewhere,
            Mode::Master => {
                let named = mirror.copies.iter().filter_map(|(name, how)| Some((HostName::new(name).ok()?, *how)));
                let others = named.filter(|(name, _)| *name != self.host);
                let replicas = others.map(|(name, how)| Replica { redirect: redirects(&name), name, how }).collect();
                Place::Here { epoch: self.epoch(repo), replicas }
            }
        }
    }

    /// The servers outside the mesh that a repository has to do with; of one that is not mastered here, none. A name
    /// that is one of its replicas' means the replica.
    pub fn foreign(&self, repo: &RepoName) -> Foreign {
        if !self.policy.borrow().names_foreign() {
            return Foreign::default(); // it is asked about every repository
        }
        let creator = (self.creators)(repo);
        let Place::Here { replicas, .. } = self.locate_made_by(repo, creator.as_ref()) else {
            return Foreign::default();
        };
        let facts = Facts { creator: creator.as_ref().map(UserName::as_str), ..Facts::existing(repo) };
        let (mut targets, mut upstream) = self.policy.borrow().foreign(&facts);
        // Its changes are judged before they count; what comes from elsewhere would not be.
        upstream.take_if(|_| repo.as_str() == ADMIN_REPO);
        targets.retain(|target| !replicas.iter().any(|replica| replica.name == target.name));
        // One name is one thing: what a repository follows is not pushed to.
        targets.retain(|target| upstream.as_ref().is_none_or(|upstream| upstream.target.name != target.name));
        Foreign { targets, upstream }
    }

    /// Fires when places may have changed and what is on disk follows: repositories were made for the configuration.
    pub fn changes(&self) -> watch::Receiver<Arc<Policy>> {
        self.policy.clone()
    }
}

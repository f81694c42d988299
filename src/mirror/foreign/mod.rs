//! Servers that are no nodes of ours: those that repositories are pushed to, and those that they follow.
//!
//! Both take part in the same queues, pauses and status as replicas, under the target's name. `push` makes a target
//! equal, `pull` makes a repository here equal to its upstream; each reads both sides, asks a pure `plan` and carries
//! it out through `remote`, the one place that talks to such a server. `seen` is what a target is known to have had
//! from us, `credentials` what opens it.
//!
//! Promises: what somebody else has put there is reported and not overwritten until a person says so; nothing outside
//! the filter is touched; no secret stands in an argument, a log or an answer. Never: HEAD of a target, its settings.

mod credentials;
mod plan;
mod pull;
mod push;
mod remote;
mod seen;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::plan::Order;
use super::settle::Shown;
use super::worker::Lane;
use super::{Inner, Mirror, MirrorError, Report};
use crate::cluster::{Foreign, Place};
use crate::model::{HostName, RepoName, Target, Upstream};

pub use credentials::{Credentials, NotUsable};
pub use remote::RemoteError;

/// How often it is looked which upstreams are due.
const TICK: Duration = Duration::from_millis(500);
/// Polls are scattered by this share of their interval, so that a restart does not ask everything at once.
const JITTER: f64 = 0.1;

/// What a name means for a repository, if it is no replica's.
pub(super) enum Role {
    Target(Target),
    Upstream(Upstream),
}

impl Mirror {
    /// The names under which a repository is kept equal elsewhere: its replicas' and its targets'.
    pub fn copies_of(&self, repo: &RepoName) -> Vec<HostName> {
        self.inner.copies(repo).into_iter().map(|(name, _)| name).collect()
    }

    /// The servers outside the mesh that these repositories need, and that nothing here opens, each with the reason. For a
    /// node that has become their master. Blocks.
    pub fn closed_targets(&self, repos: &[RepoName]) -> BTreeMap<HostName, String> {
        let of = |repo: &RepoName| {
            let Foreign { targets, upstream } = (self.inner.world.foreign)(repo);
            targets.into_iter().chain(upstream.map(|upstream| upstream.target)).collect::<Vec<_>>()
        };
        let closed = repos.iter().flat_map(of).filter_map(|target| {
            let why = self.inner.credentials(&target.name).opening(&target.url).err()?;
            Some((target.name, why.to_string()))
        });
        closed.collect()
    }

    /// What a repository follows, if it does.
    pub fn upstream_of(&self, repo: &RepoName) -> Option<Upstream> {
        (self.inner.world.foreign)(repo).upstream
    }
}

impl Inner {
    /// What a repository is pushed to, replicas and targets, and whether by hand only.
    pub(super) fn copies(&self, repo: &RepoName) -> Vec<(HostName, bool)> {
        self.copies_and(repo, false)
    }

    /// As [`Inner::copies`], with what the repository follows.
    pub(super) fn pairs(&self, repo: &RepoName) -> Vec<(HostName, bool)> {
        self.copies_and(repo, true)
    }

    fn copies_and(&self, repo: &RepoName, upstream: bool) -> Vec<(HostName, bool)> {
        let (place, foreign) = ((self.world.locate)(repo), (self.world.foreign)(repo));
        let replicas = place.replicas().iter().map(|replica| (replica.name.clone(), !replica.is_automatic()));
        let targets = foreign.targets.into_iter().chain(foreign.upstream.filter(|_| upstream).map(|up| up.target));
        replicas.chain(targets.map(|target| (target.name, false))).collect()
    }

    /// Whether a name is a replica, a target or the upstream of the repository.
    pub(super) fn is_pair(&self, repo: &RepoName, name: &HostName) -> bool {
        (self.world.locate)(repo).replica(name).is_some() || self.role(repo, name).is_some()
    }

    pub(super) fn role(&self, repo: &RepoName, name: &HostName) -> Option<Role> {
        let Foreign { targets, upstream } = (self.world.foreign)(repo);
        let target = targets.into_iter().find(|target| target.name == *name).map(Role::Target);
        target.or_else(|| upstream.filter(|up| up.target.name == *name).map(Role::Upstream))
    }

    fn credentials(&self, name: &HostName) -> Credentials {
        Credentials::new(&self.targets, name)
    }
}

/// Makes a target equal to the repository, or the repository to its upstream; the counterpart of a mirror push.
pub(super) async fn carry(
    inner: &Arc<Inner>,
    role: &Role,
    repo: &RepoName,
    order: Order,
) -> Result<Report, MirrorError> {
    let name = match role {
        Role::Target(target) | Role::Upstream(Upstream { target, .. }) => &target.name,
    };
    if !matches!((inner.world.locate)(repo), Place::Here { .. }) {
        return Err(MirrorError::NotMaster(repo.clone()));
    }
    inner.refuse_paused(repo, name)?;
    let dir = (inner.world.dir)(repo).ok_or_else(|| MirrorError::NoRepository(repo.clone()))?;
    match role {
        Role::Target(target) => push::push(inner, target, repo, &dir, order).await,
        Role::Upstream(upstream) => pull::pull(inner, &upstream.target, repo, &dir, order).await,
    }
}

/// Of a peer's assigned repositories, those that have it as a server outside the mesh are marked: a foreign server is
/// asked about one repository at a time, by the attempt itself. Returns the others.
pub(super) fn mark_foreign(inner: &Inner, lane: &Lane, repos: &[RepoName]) -> Vec<RepoName> {
    let (foreign, rest): (Vec<_>, Vec<_>) =
        repos.iter().cloned().partition(|repo| inner.role(repo, &lane.peer).is_some());
    for repo in foreign.iter().filter(|repo| inner.pauses().of(repo, &lane.peer).is_none()) {
        lane.mark(repo);
    }
    rest
}

/// How a target stands to what is here now, without changing anything.
pub(super) async fn compare(inner: &Arc<Inner>, role: &Role, repo: &RepoName) -> Result<Shown, MirrorError> {
    let dir = (inner.world.dir)(repo).ok_or_else(|| MirrorError::NoRepository(repo.clone()))?;
    let (Role::Target(target) | Role::Upstream(Upstream { target, .. })) = role;
    let theirs = remote::Remote::new(inner, target, &dir)?.list().await.map_err(|e| foreign(target, e))?;
    let ours = super::worker::blocking_refs(dir).await.map_err(super::worker::local)?;
    let ours = ours.refs.into_iter().filter(|(name, _)| target.refs.has(name));
    let theirs = theirs.refs.into_iter().filter(|(name, _)| target.refs.has(name));
    Ok(if ours.eq(theirs) { Shown::Equal } else { Shown::Differs })
}

fn foreign(target: &Target, error: RemoteError) -> MirrorError {
    MirrorError::Foreign { target: target.name.clone(), error: Arc::new(error) }
}

/// Has each upstream asked when it is due, until `stop`. What fails is tried again by its queue.
pub(super) async fn poll(inner: Arc<Inner>, stop: CancellationToken) {
    let mut due: BTreeMap<RepoName, Instant> = BTreeMap::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TICK) => {}
        }
        let (now, assigned) = (Instant::now(), inner.assigned());
        due.retain(|repo, _| assigned.upstreams.contains_key(repo));
        for (repo, upstream) in &assigned.upstreams {
            let scattered = upstream.every.mul_f64(1.0 + JITTER * (rand::random::<f64>() - 0.5));
            // The first time is the scan's.
            let at = due.entry(repo.clone()).or_insert(now + scattered);
            // Which may also have become shorter.
            *at = (*at).min(now + upstream.every.mul_f64(1.0 + JITTER));
            if *at > now {
                continue;
            }
            *at = now + scattered;
            let name = &upstream.target.name;
            if inner.pauses().of(repo, name).is_none() {
                inner.lane(name).mark(repo);
            }
        }
    }
}

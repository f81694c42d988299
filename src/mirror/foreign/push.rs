//! Makes a target equal: reads both sides, plans, and pushes what may be pushed, each reference under a lease.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::super::plan::{Obstacle, Order};
use super::super::send::SendError;
use super::super::worker::{blocking_refs, local};
use super::super::{Inner, MirrorError, Report};
use super::foreign;
use super::plan::{Plan, Refs, plan};
use super::remote::Remote;
use super::seen::Seen;
use crate::git::{objects, odb};
use crate::model::{HostName, Oid, RefName, RefUpdate, RepoName, Target};
use crate::repo::keep_lost;

pub(super) async fn push(
    inner: &Arc<Inner>,
    target: &Target,
    repo: &RepoName,
    dir: &Path,
    order: Order,
) -> Result<Report, MirrorError> {
    let began = Instant::now();
    // Before the other side: what lands from here on has marked the pair again.
    let ours: Refs = blocking_refs(dir.to_owned()).await.map_err(local)?.refs;
    let ours: Refs = ours.into_iter().filter(|(name, _)| target.refs.has(name)).collect();
    let remote = Remote::new(inner, target, dir)?;
    let theirs = remote.list().await.map_err(|error| foreign(target, error))?.refs;
    let theirs: Refs = theirs.into_iter().filter(|(name, _)| target.refs.has(name)).collect();
    let (before, plan) = planned(target, dir, &ours, &theirs, order).await?;
    if let Some(obstacle) = plan.obstacle(inner.config().guard_refs, order) {
        return Err(held(obstacle));
    }
    let diverged = if order >= Order::Force { Vec::new() } else { plan.diverged.clone() };
    if order >= Order::Force {
        keep_theirs(&remote, target, dir, &plan).await?;
    }
    let mut seen = plan.seen.clone();
    let mut refused = Vec::new();
    let mut changed = 0;
    if !plan.updates.is_empty() {
        remember(dir, target, plan.under_way()).await?;
        // A name may make room for another, so deletions go first.
        let (gone, set): (Vec<RefUpdate>, Vec<RefUpdate>) = plan.updates.into_iter().partition(|u| u.new.is_zero());
        for updates in [gone, set].into_iter().filter(|updates| !updates.is_empty()) {
            let verdicts = remote.push(&updates).await.map_err(|error| foreign(target, error))?;
            for (update, (name, verdict)) in updates.into_iter().zip(verdicts) {
                match verdict {
                    Ok(()) if update.new.is_zero() => drop(seen.0.remove(&name)),
                    Ok(()) => drop(seen.0.insert(name, vec![update.new])),
                    Err(why) => {
                        refused.push((name, why));
                        continue;
                    }
                }
                changed += 1;
            }
        }
    }
    if seen != before {
        remember(dir, target, seen).await?;
    }
    tracing::debug!(%repo, target = %target.name, changed, refused = refused.len(), "pushed to a foreign target");
    if !refused.is_empty() {
        return Err(MirrorError::Send(Arc::new(SendError::Refs(refused))));
    }
    if !diverged.is_empty() {
        return Err(held(Obstacle::Foreign(diverged)));
    }
    Ok(Report { refs: changed, pack_bytes: 0, elapsed: began.elapsed(), gone: false, fresh: false, beside: false })
}

pub(super) fn held(obstacle: Obstacle) -> MirrorError {
    MirrorError::Send(Arc::new(SendError::Held(obstacle)))
}

async fn planned(
    target: &Target,
    dir: &Path,
    ours: &Refs,
    theirs: &Refs,
    order: Order,
) -> Result<(Seen, Plan), MirrorError> {
    let (dir, name, url): (PathBuf, HostName, String) = (dir.to_owned(), target.name.clone(), target.url.to_string());
    let (ours, theirs, filter) = (ours.clone(), theirs.clone(), target.refs.clone());
    let reading = move || {
        let mut seen = Seen::read(&dir, &name, &url).map_err(|e| MirrorError::Local(e.to_string()))?;
        let before = seen.clone();
        // A filter that has become narrower leaves alone what it leaves out.
        seen.0.retain(|name, _| filter.has(name));
        let unknown = |name: &RefName| !seen.0.contains_key(name);
        let both = ours.iter().filter_map(|(name, new)| Some((name, theirs.get(name)?, new)));
        let strange: Vec<(&RefName, &Oid, &Oid)> =
            both.filter(|(name, there, here)| there != here && unknown(name)).collect();
        let known = odb::present(&dir, strange.iter().map(|(_, there, _)| *there)).map_err(local)?;
        let known: BTreeSet<Oid> = known.into_iter().collect();
        let mut behind = BTreeSet::new();
        for (name, there, here) in strange.into_iter().filter(|(_, there, _)| known.contains(there)) {
            if objects::is_ancestor(&dir, there, here).unwrap_or(false) {
                behind.insert(name.clone());
            }
        }
        let plan = plan(&ours, &theirs, &seen, &behind, order);
        Ok((before, plan))
    };
    tokio::task::spawn_blocking(reading).await.expect("planning does not panic, and is not cancelled")
}

async fn remember(dir: &Path, target: &Target, seen: Seen) -> Result<(), MirrorError> {
    let (dir, name, url) = (dir.to_owned(), target.name.clone(), target.url.to_string());
    let written = tokio::task::spawn_blocking(move || seen.write(&dir, &name, &url)).await;
    let written = written.expect("writing does not panic, and is not cancelled");
    written.map_err(|error| MirrorError::Local(format!("what was pushed cannot be kept: {error}")))
}

/// What an order overwrites there is kept here first, under `refs/gitmesh/lost/`.
async fn keep_theirs(remote: &Remote<'_>, target: &Target, dir: &Path, plan: &Plan) -> Result<(), MirrorError> {
    let lost: Vec<RefUpdate> = plan
        .updates
        .iter()
        .filter(|update| !update.old.is_zero() && plan.diverged.iter().any(|(name, _)| *name == update.name))
        .cloned()
        .collect();
    if lost.is_empty() {
        return Ok(());
    }
    let names: Vec<&RefName> = lost.iter().map(|update| &update.name).collect();
    remote.fetch(&names).await.map_err(|error| foreign(target, error))?;
    let (dir, name) = (dir.to_owned(), target.name.clone());
    let kept = tokio::task::spawn_blocking(move || keep_lost(&dir, &name, &lost, SystemTime::now())).await;
    let kept = kept.expect("keeping does not panic, and is not cancelled").map_err(local)?;
    for name in &kept {
        tracing::warn!(target = %target.name, reference = %name, "what a foreign target had is kept here");
    }
    Ok(())
}

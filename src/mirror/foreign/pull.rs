//! Makes a repository here equal to its upstream: reads both sides, brings the objects, keeps what would be lost, and
//! moves the references in git's own transaction.

use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::io::AsyncWriteExt as _;

use super::super::plan::{Order, mass_deletion};
use super::super::worker::{blocking_refs, local};
use super::super::{Inner, MirrorError, Report};
use super::foreign;
use super::plan::{Refs, follow};
use super::push::held;
use super::remote::Remote;
use crate::cluster::Place;
use crate::durable;
use crate::git::{objects, odb};
use crate::model::{Oid, RefName, RefUpdate, RepoName, Target};
use crate::repo::keep_lost;

pub(super) async fn pull(
    inner: &Arc<Inner>,
    target: &Target,
    repo: &RepoName,
    dir: &Path,
    order: Order,
) -> Result<Report, MirrorError> {
    let began = Instant::now();
    let remote = Remote::new(inner, target, dir)?;
    let theirs = remote.list().await.map_err(|error| foreign(target, error))?;
    let state = blocking_refs(dir.to_owned()).await.map_err(local)?;
    let within = |refs: Refs| -> Refs { refs.into_iter().filter(|(name, _)| target.refs.has(name)).collect() };
    let ours = within(state.refs);
    let updates = follow(&ours, &within(theirs.refs));
    let deleted = updates.iter().filter(|update| update.new.is_zero()).count();
    if let Some(obstacle) = mass_deletion(deleted, ours.len(), updates.len(), inner.config().guard_refs, order) {
        return Err(held(obstacle.of_upstream()));
    }
    bring(&remote, target, dir, &updates).await?;
    // As a push: what is being handed over to another master stays as it is.
    let pass = inner.world.gates.pass(repo);
    if pass.is_none() || !matches!((inner.world.locate)(repo), Place::Here { .. }) {
        return Err(MirrorError::Local(
            "its master is changing; the next try is made by whoever is its master".to_owned(),
        ));
    }
    if !updates.is_empty() {
        keep(inner, dir, updates.clone()).await?;
        let (gone, set): (Vec<RefUpdate>, Vec<RefUpdate>) = updates.iter().cloned().partition(|u| u.new.is_zero());
        for updates in [gone, set].into_iter().filter(|updates| !updates.is_empty()) {
            apply(inner, dir, &updates).await?;
        }
    }
    let head = theirs.head.filter(|head| Some(head) != state.head.as_ref() && target.refs.has(head));
    if let Some(head) = &head {
        let (dir, head) = (dir.to_owned(), head.clone());
        let set = tokio::task::spawn_blocking(move || objects::set_head(&dir, &head)).await;
        set.expect("setting HEAD does not panic, and is not cancelled").map_err(local)?;
    }
    if !updates.is_empty() || head.is_some() {
        tracing::info!(%repo, upstream = %target.name, refs = updates.len(), "followed its upstream");
        inner.mark(repo);
    }
    Ok(Report {
        refs: updates.len(),
        pack_bytes: 0,
        elapsed: began.elapsed(),
        gone: false,
        fresh: false,
        beside: false,
    })
}

/// Brings what is not here; afterwards all of it is.
async fn bring(remote: &Remote<'_>, target: &Target, dir: &Path, updates: &[RefUpdate]) -> Result<(), MirrorError> {
    let lacking = async || {
        let (dir, all) = (dir.to_owned(), updates.to_vec());
        let look = move || {
            let new: Vec<&Oid> = all.iter().map(|u| &u.new).filter(|new| !new.is_zero()).collect();
            let here: std::collections::BTreeSet<Oid> = odb::present(&dir, new)?.into_iter().collect();
            let lacks = all.iter().filter(|u| !u.new.is_zero() && !here.contains(&u.new)).map(|u| u.name.clone());
            Ok(lacks.collect::<Vec<RefName>>())
        };
        tokio::task::spawn_blocking(look).await.expect("looking does not panic, and is not cancelled").map_err(local)
    };
    let names = lacking().await?;
    if names.is_empty() {
        return Ok(());
    }
    let names: Vec<&RefName> = names.iter().collect();
    remote.fetch(&names).await.map_err(|error| foreign(target, error))?;
    match lacking().await?.first() {
        None => Ok(()),
        Some(name) => Err(MirrorError::Local(format!("{name} has moved there meanwhile"))),
    }
}

/// What would be lost here gets a name under `refs/gitmesh/lost/`.
async fn keep(inner: &Inner, dir: &Path, updates: Vec<RefUpdate>) -> Result<(), MirrorError> {
    let (dir, node) = (dir.to_owned(), inner.world.node.clone());
    let kept = tokio::task::spawn_blocking(move || keep_lost(&dir, &node, &updates, SystemTime::now())).await;
    kept.expect("keeping does not panic, and is not cancelled").map_err(local)?;
    Ok(())
}

/// One transaction of git's, which fails if a reference has moved here meanwhile.
async fn apply(inner: &Inner, dir: &Path, updates: &[RefUpdate]) -> Result<(), MirrorError> {
    let failed = |why: String| MirrorError::Local(format!("git update-ref: {why}"));
    let input: String = updates.iter().map(|u| format!("update {}\0{}\0{}\0", u.name, u.new, u.old)).collect();
    let words = ["update-ref", "--no-deref", "--stdin", "-z", "-m", "gitmesh: as its upstream"];
    durable::at("mirror.upstream.refs", dir).map_err(|error| failed(error.to_string()))?;
    let mut git = inner.git.start(dir, &words, &[]).map_err(|error| failed(error.to_string()))?;
    let given = git.child.stdin.take();
    let work = async {
        if let Some(mut given) = given {
            given.write_all(input.as_bytes()).await?;
        }
        let mut said = Vec::new();
        if let Some(err) = git.child.stderr.take() {
            tokio::io::AsyncReadExt::read_to_end(&mut tokio::io::AsyncReadExt::take(err, 4096), &mut said).await?;
        }
        Ok::<_, std::io::Error>((git.child.wait().await?, said))
    };
    let limit = inner.config().timeout;
    let done = tokio::time::timeout(limit, work).await.map_err(|_| MirrorError::Timeout(limit))?;
    let (status, said) = done.map_err(|error| failed(error.to_string()))?;
    if status.success() { Ok(()) } else { Err(failed(String::from_utf8_lossy(&said).trim().to_owned())) }
}

//! What an edit on the machine, SIGHUP or `add-mirroring-peer` changes in a running node.
//!
//! Everything is checked first; what is wrong is refused as a whole and the old stays in force.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{Notify, watch};

use super::install::write_if_changed;
use crate::admin::{Admin, AutoCreate, HooksConfig, Realm};
use crate::audit::{Audit, Kind, Outcome, Record};
use crate::config::Config;
use crate::git::process::settings_text;
use crate::mirror::Mirror;
use crate::repo::Upkeep;
use crate::{observe, ssh};

/// The handles through which a running node is changed, and the settings in force.
pub(super) struct Running {
    pub config: Config,
    pub file: PathBuf,
    pub data: PathBuf,
    pub admin: Admin,
    pub realm: Realm,
    pub audit: Audit,
    pub door: ssh::Handle,
    pub mirror: Mirror,
    pub auto_create: watch::Sender<AutoCreate>,
    pub hook_limits: watch::Sender<HooksConfig>,
    pub trash_keep: watch::Sender<Duration>,
    pub upkeep: Upkeep,
    pub level: observe::Level,
}

/// What a reload changes past every door and every commit, for the audit.
#[derive(Debug, Default)]
pub(super) struct State {
    peers: BTreeSet<String>,
    overriding: BTreeSet<String>,
}

impl State {
    pub(super) fn of(realm: &Realm) -> Self {
        let peers = realm.peers().borrow().keys().map(ToString::to_string).collect();
        Self { peers, overriding: realm.overriding().into_iter().collect() }
    }

    /// Each difference as a clause of a sentence.
    pub(super) fn told_since(&self, before: &Self) -> String {
        let mut told = String::new();
        let mut tell = |what: &str, now: &BTreeSet<String>, then: &BTreeSet<String>| {
            for name in now.difference(then) {
                told.push_str(&format!("; {what} {name}"));
            }
        };
        tell("peer added:", &self.peers, &before.peers);
        tell("peer removed:", &before.peers, &self.peers);
        tell("emergency override in force for", &self.overriding, &before.overriding);
        tell("emergency override over for", &before.overriding, &self.overriding);
        told
    }
}

impl Running {
    /// Reads `gitmesh.toml`, the emergency override and the peers again and puts them in force.
    pub(super) async fn reload(&mut self, why: &str) {
        let before = State::of(&self.realm);
        let settings = self.settings().await;
        let mut refused: Vec<String> = settings.as_ref().err().map(|error| format!("{error:#}")).into_iter().collect();
        match settings {
            Ok(restart) if restart.is_empty() => {}
            Ok(restart) => tracing::warn!(keys = restart.join(", "), "these settings change at the next start only"),
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "the new settings are refused; the old ones stay")
            }
        }
        let admin = self.admin.clone();
        let done = tokio::task::spawn_blocking(move || admin.reload()).await;
        match done.map_err(anyhow::Error::from).and_then(|r| r.map_err(anyhow::Error::from)) {
            Ok(applied) => {
                self.mirror.mark_all(&applied.configured);
                tracing::info!(why, "reloaded");
            }
            Err(error) => {
                tracing::error!(
                    why,
                    error = format!("{error:#}"),
                    "the reload is refused; the old configuration stays"
                );
                refused.push(format!("{error:#}"));
            }
        }
        let after = State::of(&self.realm);
        let told = format!("reloaded after {why}{}", after.told_since(&before));
        let told = std::iter::once(told).chain(refused.iter().cloned()).collect::<Vec<_>>().join("; ");
        let outcome = if refused.is_empty() { Outcome::Ok } else { Outcome::Failed };
        self.audit.note(Record::new(Kind::Audit).ended(outcome, &told));
    }

    /// Returns the changed keys that only a new start can put in force.
    async fn settings(&mut self) -> anyhow::Result<Vec<&'static str>> {
        let mut new = Config::load(&self.file)?;
        let old = &self.config;
        if new == *old {
            return Ok(Vec::new());
        }
        let mut restart = Vec::new();
        let mut keep = |changed: bool, key| {
            if changed {
                restart.push(key);
            }
        };
        keep(new.node.name != old.node.name, "node.name");
        keep(new.node.data != old.node.data, "node.data");
        keep(new.admin_socket != old.admin_socket, "admin_socket.path");
        keep(new.git.program != old.git.program, "git.program");
        keep(new.git.max_processes != old.git.max_processes, "git.max_processes");
        keep(new.git.max_packs != old.git.max_packs, "git.max_packs");
        keep(new.log.format != old.log.format, "log.format");
        keep(new.audit != old.audit, "audit");
        keep(new.hooks.from_admin_repo != old.hooks.from_admin_repo, "hooks.from_admin_repo");
        new.node.name = old.node.name.clone();
        new.node.data.clone_from(&old.node.data);
        new.admin_socket = old.admin_socket.clone();
        new.git.program.clone_from(&old.git.program);
        new.git.max_processes = old.git.max_processes;
        new.git.max_packs = old.git.max_packs;
        new.log.format = old.log.format;
        new.audit = old.audit.clone();
        new.hooks.from_admin_repo = old.hooks.from_admin_repo;

        // What can fail comes first.
        if new.log.level != old.log.level {
            self.level.set(&new.log.level).map_err(anyhow::Error::msg)?;
        }
        self.door.update(new.ssh.clone()).await?;
        write_if_changed(&self.data.join("gitconfig"), &settings_text(&self.data.join("hooks"), new.git.fsck))?;
        self.mirror.set_config(new.mirror);
        self.mirror.set_notify(new.notify.clone());
        self.auto_create.send_replace(new.access.create);
        self.hook_limits.send_replace(new.hooks.clone());
        self.upkeep.set(new.maintenance);
        self.trash_keep.send_if_modified(|keep| std::mem::replace(keep, new.maintenance.trash_keep) != *keep);
        self.admin.set(new.reached_at(), new.settings(), new.mirror.guard_repositories);
        self.config = new;
        tracing::info!("the new settings are in force");
        Ok(restart)
    }
}

/// Tells of edits to the given files, and in the given directories.
pub(super) fn watch_files(paths: &[PathBuf], edits: Arc<Notify>) -> anyhow::Result<notify::RecommendedWatcher> {
    let ours = paths.to_vec();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| match event {
        Ok(event) if event.kind.is_access() => {}
        Ok(event) => {
            if event.paths.iter().any(|p| ours.iter().any(|w| p.starts_with(w))) {
                edits.notify_one();
            }
        }
        Err(error) => tracing::warn!(%error, "cannot watch the configuration for edits; use SIGHUP"),
    })?;
    watch_directories(&mut watcher, paths)?;
    Ok(watcher)
}

/// Watches the directories that exist, and the parents of all; one that is watched already stays so.
pub(super) fn watch_directories(watcher: &mut notify::RecommendedWatcher, paths: &[PathBuf]) -> anyhow::Result<()> {
    use notify::Watcher;
    // Editors replace files, so their directories are watched; that of a directory, so that its making is seen.
    let mut directories: Vec<&Path> =
        paths.iter().flat_map(|p| p.parent().into_iter().chain(p.is_dir().then_some(p.as_path()))).collect();
    directories.sort();
    directories.dedup();
    for directory in directories {
        watcher
            .watch(directory, notify::RecursiveMode::NonRecursive)
            .with_context(|| format!("cannot watch {}", directory.display()))?;
    }
    Ok(())
}

//! Small packs are rolled up while pushes bring them: every pack more is a file more that git opens for each push and fetch,
//! and a busy repository would have thousands before its daily turn.
//!
//! `git repack --geometric=2` joins the small ones and leaves the large one with its bitmaps alone, so what it costs follows
//! what came since, and nothing is removed. It waits for no turn, since a large repository's may take hours; it never works where
//! another task does.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::{Upkeep, packs_in};
use crate::model::RepoName;

/// After so many pushes a repository's packs are counted, and from so many on they are rolled up.
const PUSHES: u32 = 50;
const PACKS: usize = 50;
/// Repositories whose pushes are counted; with one more, all are counted anew.
const COUNTED_MAX: usize = 4096;
/// What follows a push goes first: mirroring it, above all.
const PAUSE: Duration = Duration::from_secs(2);
/// One repository may take so long; the next pushes ask for it again.
const LIMIT: Duration = Duration::from_secs(600);

/// What has been pushed since packs were counted.
#[derive(Default)]
pub(super) struct Rolling {
    counts: Mutex<Counts>,
    wanted: Notify,
    /// Held while one is rolled up.
    at_work: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Counts {
    pushes: HashMap<RepoName, u32>,
    wanted: BTreeSet<RepoName>,
}

impl Rolling {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nothing is rolled up that began before.
    pub(super) async fn ended(&self) {
        drop(self.at_work.lock().await);
    }
}

impl Upkeep {
    /// A push has landed. Never blocks.
    pub fn pushed(&self, name: &RepoName) {
        let mut counts = self.rolling.counts();
        if counts.pushes.len() >= COUNTED_MAX && !counts.pushes.contains_key(name) {
            counts.pushes.clear();
        }
        let pushes = counts.pushes.entry(name.clone()).or_default();
        *pushes += 1;
        if *pushes >= PUSHES {
            counts.pushes.remove(name);
            counts.wanted.insert(name.clone());
            self.rolling.wanted.notify_one();
        }
    }

    /// Rolls up wherever it is wanted, for ever.
    pub(super) async fn roll_up(&self) {
        loop {
            self.rolling.wanted.notified().await;
            tokio::time::sleep(PAUSE).await;
            let wanted = std::mem::take(&mut self.rolling.counts().wanted);
            for name in wanted {
                self.roll_up_one(&name).await;
            }
        }
    }

    async fn roll_up_one(&self, name: &RepoName) {
        let _working = self.rolling.at_work.lock().await;
        // A task that begins from here on waits.
        if self.at_work().is_some_and(|(at_work, _)| at_work == *name) {
            return;
        }
        let Some(dir) = self.store.open_as_daemon(name) else { return };
        if packs_in(&dir) < PACKS {
            return;
        }
        let arguments =
            ["-c", "repack.writeBitmaps=false", "-c", "pack.threads=1", "repack", "-d", "-l", "-q", "--geometric=2"];
        match self.git.upkeep(&dir, &arguments, LIMIT).await {
            Ok(ran) if ran.status.success() => {
                tracing::debug!(repo = %name, packs = packs_in(&dir), "small packs were rolled up")
            }
            Ok(ran) => {
                let said = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
                tracing::warn!(repo = %name, said, "small packs cannot be rolled up");
            }
            Err(error) => tracing::warn!(repo = %name, %error, "small packs cannot be rolled up"),
        }
    }
}

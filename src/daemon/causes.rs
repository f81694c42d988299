//! What makes a running node stop or read its settings again: signals, a command, an edit on the machine.
//!
//! Listened to before anything else is set up, so that neither a signal nor an edit in the first moments is lost.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

use super::reload::{watch_directories, watch_files};

pub(super) struct Causes {
    term: Signal,
    int: Signal,
    hup: Signal,
    edits: Arc<Notify>,
    watched: Vec<PathBuf>,
    watcher: notify::RecommendedWatcher,
}

pub(super) enum Cause {
    Stop,
    /// The text says why.
    Reload(&'static str),
}

impl Causes {
    pub(super) fn new(file: &Path, data: &Path) -> anyhow::Result<Self> {
        let edits = Arc::new(Notify::new());
        let on_machine = ["emergency-keydir", "emergency.conf", "peers"].map(|name| data.join(name));
        let watched: Vec<PathBuf> = std::iter::once(file.to_owned()).chain(on_machine).collect();
        let watcher = watch_files(&watched, edits.clone())?;
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
            edits,
            watched,
            watcher,
        })
    }

    /// Waits for the next one. `asked` is how a command asks for a reload.
    pub(super) async fn next(&mut self, asked: &Notify) -> Cause {
        let why = tokio::select! {
            _ = self.term.recv() => return Cause::Stop,
            _ = self.int.recv() => return Cause::Stop,
            _ = self.hup.recv() => "SIGHUP",
            () = asked.notified() => "a command",
            () = self.edits.notified() => {
                // An editor writes in several steps; what matters is the last.
                tokio::time::sleep(Duration::from_millis(200)).await;
                "an edit"
            }
        };
        // A directory that was made just now is watched before it is read, so that nothing falls between.
        if let Err(error) = watch_directories(&mut self.watcher, &self.watched) {
            tracing::warn!(error = format!("{error:#}"), "edits there may go unnoticed; use SIGHUP");
        }
        Cause::Reload(why)
    }
}

//! Telling people: the clock of the alarms, and the ways on which a notice leaves.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::journal::Files;
use super::notice::{Kind, Notice};
use super::notify::Way;
use super::state::{Moment, Told};
use super::status::Earlier;
use super::trash::FOLLOWED;
use super::{Inner, history};

/// How often it is looked whether an alarm is due; also how long notices are collected, so that the copies of one peer
/// that change together are one.
const TICK: Duration = Duration::from_secs(1);

/// Takes in what an earlier run has written down: what happened, and what people were told that is not over.
pub(super) async fn restore(inner: &Inner) {
    let files = inner.journal_files.clone();
    match on_disk(move || files.read()).await {
        Ok(text) => {
            let (now, orders) = (Moment::now(), {
                let journal = &mut inner.board().journal;
                journal.restore(&text);
                journal.of_kind(FOLLOWED)
            });
            inner.lately.restore(orders, now);
        }
        Err(error) => tracing::warn!(%error, "the log of earlier mirroring cannot be read"),
    }
    let (down, silent) = {
        let history = inner.history();
        (history.open(Kind::PeerDown, Kind::PeerBack), history.open(Kind::PeerSilent, Kind::PeerTells))
    };
    let told = |word: &str| match word {
        "late" => Told::Late,
        "diverged" => Told::Diverged,
        _ => Told::Held,
    };
    let mut board = inner.board();
    let copies = board.journal.open().into_iter().map(|(repo, peer, what, at)| (repo, peer, told(&what), at)).collect();
    board.restore(Earlier { down, silent, copies }, Moment::now());
}

/// Tells what there is to tell until `stop`, and keeps the log of what happened in its file.
pub(super) async fn run(inner: Arc<Inner>, stop: CancellationToken) {
    let files = inner.journal_files.clone();
    inner.history().add(None, history::started());
    let mut broken = [false; 2];
    loop {
        let stopping = tokio::select! {
            () = stop.cancelled() => true,
            () = tokio::time::sleep(TICK) => false,
        };
        let notices = inner.board().tick(Moment::now());
        notices.into_iter().for_each(|notice| inner.tell(Arc::new(notice)));
        let this = inner.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || this.tell_damage()).await {
            tracing::error!(%error, "looking for damage panicked");
        }
        let lanes: Vec<_> = inner.lanes().values().cloned().collect();
        for lane in lanes {
            let news = lane.progress().news(&lane.peer, Moment::now());
            if let Some(news) = news {
                tracing::info!(peer = %lane.peer, "{news}");
            }
        }
        let lines = inner.board().journal.take_lines();
        write(&files, lines, "the log of mirroring", &mut broken[0]).await;
        let lines = inner.history().take_lines();
        write(&inner.history_files, lines, "the history of events", &mut broken[1]).await;
        if stopping {
            return;
        }
    }
}

async fn write(files: &Files, lines: Vec<String>, what: &str, broken: &mut bool) {
    if lines.is_empty() {
        return;
    }
    let files = files.clone();
    let written = on_disk(move || files.append(&lines)).await;
    // Once, not for each line while the disk is full.
    if let Err(error) = &written
        && !*broken
    {
        tracing::warn!(%error, "{what} cannot be written; what happens is kept in memory only");
    }
    *broken = written.is_err();
}

async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

impl Inner {
    pub(super) fn tell(&self, notice: Arc<Notice>) {
        notice.log();
        if notice.kind.is_alarm() {
            let config = self.notify_config();
            for (way, wanted) in [(Way::Command, config.command.is_some()), (Way::Webhook, config.webhook.is_some())] {
                if wanted {
                    self.outbox(way).put(notice.clone());
                }
            }
        }
        self.history().add(None, history::of_notice(&notice));
    }
}

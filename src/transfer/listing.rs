//! References on their way to a client, from disk and without a process.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use super::Transfer;
use super::request::Output;
use crate::git::odb::Peeler;
use crate::git::protocol;
use crate::git::refs::{Head, Peeled, Reference, Snapshot, minimal};
use crate::repo::Repo;

/// Bytes handed to the channel at once.
const CHUNK: usize = 256 << 10;
/// Pieces that wait for a slow client.
const PIECES: usize = 4;
/// A repository that was listed within this time is listed at once: another thread costs as much to wake, twice.
const QUICK: Duration = Duration::from_micros(300);
/// What the last listing took, in microseconds; 0 if there was none. Repositories that share a place only slow each other.
static LATELY: [AtomicU32; 4096] = [const { AtomicU32::new(0) }; 4096];

fn lately(dir: &Path) -> &'static AtomicU32 {
    let mut hasher = DefaultHasher::new();
    dir.hash(&mut hasher);
    &LATELY[usize::try_from(hasher.finish() % LATELY.len() as u64).expect("it is less than the length")]
}

fn note(lately: &AtomicU32, began: Instant) {
    lately.store(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX).max(1), Relaxed);
}

impl Transfer {
    /// Whether a repository is in a form that is served here, with no settings in `others` that only git follows.
    ///
    /// Blocks, for as long as opening the repository has just done for the same file: handing it to another thread and
    /// back costs more than reading it.
    pub(super) fn is_plain(&self, repo: &Repo, others: &[&str]) -> bool {
        let dir = repo.dir();
        let config = std::fs::read_to_string(dir.join("config"));
        let settings = self.git.settings().display().to_string();
        config.is_ok_and(|config| protocol::is_plain(&config, &settings, others)) && !dir.join("shallow").exists()
    }

    /// Sends what `make` makes piece by piece; false when it failed with nothing said yet, and git has to be asked.
    pub(super) async fn send_listing(
        &self,
        repo: &Repo,
        output: &mut impl Output,
        make: impl Fn(&Path, &mut dyn FnMut(Vec<u8>) -> io::Result<()>) -> io::Result<()> + Send + 'static,
    ) -> io::Result<bool> {
        let lately = lately(repo.dir());
        if (1..QUICK.as_micros()).contains(&lately.load(Relaxed).into()) {
            let (began, mut whole) = (Instant::now(), None);
            let listed = make(repo.dir(), &mut |piece| match whole.replace(piece) {
                None => Ok(()),
                Some(_) => Err(io::ErrorKind::QuotaExceeded.into()),
            });
            note(lately, began);
            if let (Ok(()), Some(whole)) = (listed, whole) {
                output.write_all(&whole).await?;
                return Ok(true);
            }
        }
        let (sender, mut pieces) = mpsc::channel::<Vec<u8>>(PIECES);
        let dir = repo.dir().to_owned();
        let listing = tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let send = &mut |piece| sender.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into());
            make(&dir, send).inspect(|()| note(lately, began))
        });
        let mut said = false;
        while let Some(piece) = pieces.recv().await {
            said = true;
            output.write_all(&piece).await?;
        }
        match listing.await.map_err(io::Error::other).and_then(|listed| listed) {
            Ok(()) => Ok(true),
            Err(error) if !said => {
                tracing::debug!(%error, repo = %repo.name, "references are listed by git");
                Ok(false)
            }
            Err(error) => {
                tracing::error!(%error, repo = %repo.name, "references cannot be listed to their end");
                Err(error)
            }
        }
    }
}

/// A step of a listing.
pub(super) enum Item<'a> {
    Head(&'a Head),
    Reference(&'a Reference),
    End,
}

/// Lists the references below the prefixes, HEAD first, and hands what `write` makes of them to `send` in pieces.
/// Blocks.
pub(super) fn list(
    dir: &Path,
    prefixes: &[Vec<u8>],
    send: &mut dyn FnMut(Vec<u8>) -> io::Result<()>,
    mut write: impl FnMut(&mut Vec<u8>, Item<'_>),
) -> io::Result<()> {
    let prefixes = minimal(prefixes);
    let snapshot = Snapshot::read(dir, &prefixes)?;
    let mut out = Vec::new();
    if let Some(head) = snapshot.head()? {
        write(&mut out, Item::Head(&head));
    }
    let mut peeler = None;
    snapshot.list(&prefixes, |mut reference| {
        // What is hidden from everybody (transfer.hideRefs).
        if reference.name == b"refs/gitmesh" || reference.name.starts_with(b"refs/gitmesh/") {
            return Ok(());
        }
        // git lets nothing but commits into refs/heads.
        if reference.peeled == Peeled::Unknown && !reference.name.starts_with(b"refs/heads/") {
            if peeler.is_none() {
                peeler = Some(Peeler::open(dir).map_err(io::Error::other)?);
            }
            let peeled = peeler.as_ref().and_then(|peeler| peeler.peel(&reference.oid));
            reference.peeled = peeled.map_or(Peeled::Itself, Peeled::To);
        }
        write(&mut out, Item::Reference(&reference));
        if out.len() >= CHUNK { send(std::mem::take(&mut out)) } else { Ok(()) }
    })?;
    write(&mut out, Item::End);
    send(out)
}

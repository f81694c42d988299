//! The pack of a mirror push: the one that a push has brought, a stored one, or one that git-pack-objects(1) makes.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use super::send::{Advertisement, SendError, Toll};
use crate::git::objects::ObjectsError;
use crate::git::odb;
use crate::git::packs::Pack;
use crate::git::process::Git;
use crate::git::stored::Stored;
use crate::model::{Oid, RefUpdate};

/// How much of `git pack-objects`' stderr is kept, in bytes.
const STDERR_MAX: u64 = 4096;
/// Objects of the replica that a push may always exclude from its pack …
pub(super) const EXCLUSIONS_MIN: usize = 2_000;
/// … and so many for each reference that it updates.
pub(super) const EXCLUSIONS_EACH: usize = 100;
/// Bytes of commands or pack handed on at once: one packet to a node of the mesh.
pub(super) const CHUNK: usize = 65_535;
/// Bytes of a stored pack read at once.
const PIECE: usize = 256 << 10;
/// A stored pack of fewer bytes is made anew as quickly.
const STORED_MIN: u64 = 1 << 20;
/// The longest look whether a stored pack will do.
const STORED_TIME: Duration = Duration::from_secs(10);

/// The way to the replica, with its toll.
pub(super) struct Paying<'a, W> {
    pub(super) output: &'a mut W,
    pub(super) toll: Toll<'a>,
}

impl<W: AsyncWrite + Unpin> Paying<'_, W> {
    pub(super) async fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        for piece in bytes.chunks(CHUNK) {
            let pause = (self.toll)(piece.len());
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            self.output.write_all(piece).await?;
        }
        Ok(())
    }
}

/// Where a pack comes from.
pub(super) struct Source<'a> {
    pub(super) git: &'a Git,
    pub(super) dir: &'a Path,
    pub(super) detached: Option<&'a Oid>,
    /// All that the replica lacks, if a push has brought just that.
    pub(super) pushed: Option<File>,
}

/// The pack of these updates, from wherever it comes. Returns its length in bytes.
pub(super) async fn write(
    output: &mut Paying<'_, impl AsyncWrite + Unpin>,
    source: Source<'_>,
    updates: &[RefUpdate],
    theirs: &Advertisement,
) -> Result<u64, SendError> {
    match source.pushed {
        Some(file) => Ok(copy(output, &mut tokio::fs::File::from_std(file)).await?),
        None => make(output, source, updates, theirs).await,
    }
}

/// Hands on a pack, and returns its length in bytes.
async fn copy(
    output: &mut Paying<'_, impl AsyncWrite + Unpin>,
    pack: &mut (impl AsyncRead + Unpin),
) -> std::io::Result<u64> {
    let (mut buffer, mut total) = (Vec::with_capacity(CHUNK), 0);
    loop {
        // git writes 8 KiB at once, and a node bounds the packets that are on their way.
        buffer.clear();
        let n = (&mut *pack).take(CHUNK as u64).read_to_end(&mut buffer).await?;
        if n == 0 {
            return Ok(total);
        }
        output.write_all(&buffer).await?;
        total += n as u64;
    }
}

/// Those of `oids` that are in the repository `dir`.
pub(super) async fn present(dir: &Path, oids: Vec<Oid>) -> Result<Vec<Oid>, ObjectsError> {
    if oids.is_empty() {
        return Ok(oids);
    }
    let dir = dir.to_owned();
    let found = tokio::task::spawn_blocking(move || odb::present(&dir, &oids)).await;
    found.expect("the look-up does not panic, and is not cancelled")
}

/// Objects that the replica has, for the pack to leave out with all that they lead to: what is replaced, and what its
/// other references name, as far as that is not too much to read for a small push. More would make no pack wrong, and
/// fewer make one only larger.
fn exclusions(updates: &[RefUpdate], theirs: &Advertisement) -> Vec<Oid> {
    let replaced = updates.iter().map(|update| &update.old).filter(|old| !old.is_zero());
    let most = EXCLUSIONS_EACH.saturating_mul(updates.len()).max(EXCLUSIONS_MIN);
    let others = theirs.refs.values().chain(&theirs.haves).take(most);
    let all: BTreeSet<&Oid> = replaced.chain(others).collect();
    all.into_iter().cloned().collect()
}

async fn make(
    output: &mut Paying<'_, impl AsyncWrite + Unpin>,
    Source { git, dir, detached, .. }: Source<'_>,
    updates: &[RefUpdate],
    theirs: &Advertisement,
) -> Result<u64, SendError> {
    let has: HashSet<&Oid> = theirs.refs.values().chain(&theirs.haves).collect();
    let news = updates.iter().map(|u| &u.new).filter(|new| !new.is_zero());
    let wanted: BTreeSet<Oid> = news.chain(detached).filter(|new| !has.contains(new)).cloned().collect();
    if has.is_empty()
        && theirs.can("ofs-delta")
        && let Some(pack) = stored(git, dir, &wanted).await
    {
        return Ok(copy_stored(output, &pack).await?);
    }
    // pack-objects stops at an exclusion it does not have; the replica may well have commits that we lack.
    let shared = present(dir, exclusions(updates, theirs)).await?;

    let mut command = git.command(dir);
    // --thin and --sparse as `git push` does: the replica completes the pack, and trees it has are not walked.
    command.args(["pack-objects", "--revs", "--thin", "--sparse", "--stdout", "-q"]);
    if theirs.can("ofs-delta") {
        command.arg("--delta-base-offset");
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let (Some(mut revs), Some(mut pack), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        unreachable!("all three streams are piped");
    };
    let feeding = async {
        let mut text = String::new();
        let lines = wanted.iter().map(|oid| ("", oid)).chain(shared.iter().map(|oid| ("^", oid)));
        for (mark, oid) in lines {
            text.push_str(mark);
            text.push_str(oid.as_str());
            text.push('\n');
            if text.len() >= CHUNK {
                revs.write_all(text.as_bytes()).await?;
                text.clear();
            }
        }
        revs.write_all(text.as_bytes()).await?;
        drop(revs);
        Ok::<_, std::io::Error>(())
    };
    let complaining = async {
        let mut text = Vec::new();
        let mut stderr = stderr.take(STDERR_MAX);
        drop(stderr.read_to_end(&mut text).await);
        // What exceeds the limit is thrown away, lest git block on it.
        drop(tokio::io::copy(stderr.get_mut(), &mut tokio::io::sink()).await);
        String::from_utf8_lossy(&text).trim().to_owned()
    };
    // A copy that fails (the replica is gone) ends this at once, and git is killed when it is dropped; a feed that
    // fails does not, since then git has the better words.
    let (fed, (total, status), complaint) = tokio::try_join!(
        async { Ok(feeding.await) },
        async { Ok::<_, std::io::Error>((copy(output, &mut pack).await?, child.wait().await?)) },
        async { Ok(complaining.await) },
    )?;
    if !status.success() {
        return Err(SendError::Pack(if complaint.is_empty() { status.to_string() } else { complaint }));
    }
    fed?;
    Ok(total)
}

/// The repository's largest pack with what it lacks, if that is just what the replica, which has nothing, is to have.
async fn stored(git: &Git, dir: &Path, wanted: &BTreeSet<Oid>) -> Option<Arc<Pack>> {
    let of = dir.to_owned();
    let stored = tokio::task::spawn_blocking(move || Stored::largest(&of)).await.ok()?.ok()??;
    if stored.size() < STORED_MIN {
        return None;
    }
    let wanted: Vec<Oid> = wanted.iter().cloned().collect();
    match timeout(STORED_TIME, stored.complete(git, dir, &wanted)).await {
        Ok(Ok(completed)) => completed.map(Pack::stored),
        Ok(Err(error)) => {
            tracing::debug!(%error, dir = %dir.display(), "a stored pack cannot be sent");
            None
        }
        Err(_) => None,
    }
}

/// Hands on a pack that lies in a file, and returns its length in bytes.
async fn copy_stored(output: &mut Paying<'_, impl AsyncWrite + Unpin>, pack: &Arc<Pack>) -> std::io::Result<u64> {
    let mut at = 0;
    loop {
        let n = usize::try_from(pack.ready(at).await?).unwrap_or(PIECE).min(PIECE);
        if n == 0 {
            return Ok(at);
        }
        let (pack, mut piece) = (pack.clone(), vec![0; n]);
        let reading = tokio::task::spawn_blocking(move || pack.read_at(&mut piece, at).map(|()| piece));
        output.write_all(&reading.await.map_err(std::io::Error::other)??).await?;
        at += n as u64;
    }
}

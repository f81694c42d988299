//! Copies bytes between a client and one git process until the process ends, or neither has moved for too long.

use std::io;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::request::{Input, Output, Streams};
use crate::git::process::{SILENT, Serving};

/// Read at once from a client, who sends packets of 32 KiB.
const FROM_CLIENT: usize = 64 << 10;
/// Read at once from git: a pack comes through a pipe of 1 MiB.
const FROM_GIT: usize = 256 << 10;
/// Read at once from git's standard error.
const MESSAGES: usize = 4 << 10;

/// What becomes of git when its client goes away.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Abandoned {
    /// Nobody wants the answer any more.
    Kill,
    /// What has been received may still land, so git is left to end by itself.
    Drain,
}

/// When something moved last between a client and git. git's signs of life are no movement: it gives them for as long as a
/// hook hangs.
pub(super) struct Movement {
    begun: Instant,
    /// Milliseconds after the beginning.
    last: AtomicU64,
    silent: Duration,
}

impl Movement {
    pub(super) fn new(silent: Duration) -> Self {
        Self { begun: Instant::now(), last: AtomicU64::new(0), silent }
    }

    pub(super) fn seen(&self, bytes: &[u8]) {
        // receive.keepAlive, uploadpack.keepAlive: an empty packet of a band
        if !bytes.chunks(5).all(|packet| matches!(packet, b"0005\x01" | b"0005\x02")) {
            let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.last.store(now, Ordering::Relaxed);
        }
    }

    /// Returns when nothing has moved for so long.
    pub(super) async fn ended(&self) {
        loop {
            let last = self.begun + Duration::from_millis(self.last.load(Ordering::Relaxed));
            match self.silent.checked_sub(last.elapsed()) {
                None | Some(Duration::ZERO) => return,
                Some(rest) => tokio::time::sleep(rest).await,
            }
        }
    }
}

/// Runs the session to git's end and returns its exit status.
///
/// Errors are git's pipes failing, and a git that is stuck; a client that goes away is no error, see [`Abandoned`].
pub async fn relay<R: Input, W: Output, E: Output>(
    git: Serving,
    streams: &mut Streams<R, W, E>,
    abandoned: Abandoned,
) -> io::Result<ExitStatus> {
    relay_within(git, streams, abandoned, SILENT).await
}

async fn relay_within<R: Input, W: Output, E: Output>(
    mut git: Serving,
    streams: &mut Streams<R, W, E>,
    abandoned: Abandoned,
    silent: Duration,
) -> io::Result<ExitStatus> {
    let movement = Movement::new(silent);
    let missing = || io::Error::other("git was started without its pipes");
    let mut stdin = git.child.stdin.take().ok_or_else(missing)?;
    let mut stdout = git.child.stdout.take().ok_or_else(missing)?;
    let mut stderr = git.child.stderr.take().ok_or_else(missing)?;
    let Streams { input, output, errors } = streams;

    let to_git = async {
        let mut buffer = vec![0; FROM_CLIENT];
        loop {
            match input.read(&mut buffer).await {
                Ok(0) | Err(_) => break, // the client has said all it wanted, or is gone
                Ok(n) => {
                    if stdin.write_all(&buffer[..n]).await.is_err() {
                        break; // git has ended and needs no more
                    }
                    movement.seen(&buffer[..n]);
                }
            }
        }
        drop(stdin);
        // Only git's end ends the session.
        std::future::pending::<()>().await
    };
    let from_git = async {
        // The first error ends both: git that waits for a reader of its output never closes its errors.
        let out = copy(&mut stdout, output, FROM_GIT, abandoned, &movement);
        let err = copy(&mut stderr, errors, MESSAGES, abandoned, &movement);
        tokio::try_join!(out, err).map(|_| ())
    };
    let copied = tokio::select! {
        () = to_git => unreachable!("reading from the client never ends a session"),
        copied = from_git => Some(copied),
        () = movement.ended() => None,
    };
    // Dropping the handle kills git and its children.
    match copied {
        Some(Ok(())) => git.child.wait().await,
        Some(Err(error)) => Err(error),
        None => {
            let why = format!("nothing has moved for {silent:?}, so git was stopped: does a hook of this server hang?");
            if let Err(error) = errors.write_all(format!("gitmesh: {why}\n").as_bytes()).await {
                tracing::debug!(%error, "the client left before its answer");
            }
            Err(io::Error::new(io::ErrorKind::TimedOut, why))
        }
    }
}

async fn copy(
    from: &mut impl Input,
    to: &mut impl Output,
    chunk: usize,
    abandoned: Abandoned,
    movement: &Movement,
) -> io::Result<()> {
    let mut buffer = vec![0; chunk];
    let mut listening = true;
    loop {
        let n = from.read(&mut buffer).await?;
        if n == 0 {
            return Ok(());
        }
        if listening && let Err(error) = to.write_all(&buffer[..n]).await {
            if abandoned == Abandoned::Kill {
                return Err(error);
            }
            listening = false;
        }
        movement.seen(&buffer[..n]);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::git::process::Git;

    /// A program in git's place; what the client hears of it, and how it ended.
    async fn relayed(script: &str, silent: Duration) -> (io::Result<ExitStatus>, String, Duration) {
        let git = Git::new("/bin/sh".into(), "/dev/null".into()).start(Path::new("/"), &["-c", script], &[]).unwrap();
        let (mut errors, begun) = (Vec::new(), Instant::now());
        let streams = &mut Streams { input: &b"request"[..], output: tokio::io::sink(), errors: &mut errors };
        let ended = relay_within(git, streams, Abandoned::Drain, silent).await;
        (ended, String::from_utf8(errors).unwrap(), begun.elapsed())
    }

    #[tokio::test]
    async fn a_git_that_hangs_is_stopped_whatever_signs_of_life_it_gives() {
        let alive = "while :; do printf '0005\\002'; sleep 0.05; done";
        for script in ["exec sleep 1000", alive] {
            let (ended, told, _) = relayed(script, Duration::from_millis(300)).await;
            assert!(ended.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut), "{script}");
            assert!(told.contains("does a hook of this server hang?"), "{told}");
        }
        let (ended, told, took) =
            relayed("for n in 1 2 3 4 5 6; do echo $n >&2; sleep 0.3; done", Duration::from_secs(60)).await;
        assert!(ended.is_ok_and(|status| status.success()) && told.contains('6'), "{told}");
        assert!(took > Duration::from_secs(1));
    }
}

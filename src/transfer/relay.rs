//! Copies bytes between a client and one git process until the process ends.

use std::io;
use std::process::ExitStatus;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::request::{Input, Output, Streams};
use crate::git::process::Serving;

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

/// Runs the session to git's end and returns its exit status.
///
/// Errors are git's pipes failing; a client that goes away is no error, see [`Abandoned`].
pub async fn relay<R: Input, W: Output, E: Output>(
    mut git: Serving,
    streams: &mut Streams<R, W, E>,
    abandoned: Abandoned,
) -> io::Result<ExitStatus> {
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
                }
            }
        }
        drop(stdin);
        // Only git's end ends the session.
        std::future::pending::<()>().await
    };
    let from_git = async {
        // The first error ends both: git that waits for a reader of its output never closes its errors.
        let out = copy(&mut stdout, output, FROM_GIT, abandoned);
        let err = copy(&mut stderr, errors, MESSAGES, abandoned);
        tokio::try_join!(out, err).map(|_| ())
    };
    let copied = tokio::select! {
        () = to_git => unreachable!("reading from the client never ends a session"),
        copied = from_git => copied,
    };
    match copied {
        Ok(()) => git.child.wait().await,
        // Dropping the handle kills git and its children.
        Err(error) => Err(error),
    }
}

async fn copy(from: &mut impl Input, to: &mut impl Output, chunk: usize, abandoned: Abandoned) -> io::Result<()> {
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
    }
}

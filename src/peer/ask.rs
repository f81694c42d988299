//! One question to a node, and its whole answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use russh::keys::PrivateKey;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::link::{Link, Pin};
use super::{Finished, LinkError, Links, Peer, Pipe};
use crate::model::{Fingerprint, HostName};

/// What a command answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub exit: Option<u32>,
    /// At most as many bytes as were asked for.
    pub out: String,
    pub err: String,
    /// From sending the question to having the answer, on a link that was up.
    pub took: Duration,
}

/// A node that is known by its key's fingerprint only.
#[derive(Debug, Clone)]
pub struct Stranger {
    pub name: HostName,
    pub key: Fingerprint,
    pub user: String,
    pub host: String,
    pub port: u16,
}

impl Links {
    /// Runs a short command on the peer and collects what it says, up to `most` bytes.
    pub async fn ask(&self, peer: &HostName, exec: &str, most: usize, deadline: Duration) -> Result<Said, LinkError> {
        let asking = async { collect(peer, self.run(peer, exec).await?, most).await };
        timeout(deadline, asking).await.map_err(|_| too_long(peer, deadline))?
    }
}

/// Runs one command on a node of which only the fingerprint is known, over a connection of its own.
pub async fn ask_stranger(
    whom: &Stranger,
    key: PrivateKey,
    exec: &str,
    most: usize,
    deadline: Duration,
) -> Result<Said, LinkError> {
    let Stranger { name, user, host, port, .. } = whom.clone();
    let peer = Peer { name, key: Vec::new(), user, host, port };
    let asking = async {
        let link = Link::dial_pinned(&peer, Pin::Fingerprint(whom.key.to_string()), &Arc::new(key)).await?;
        collect(&peer.name, link.open(exec, &[]).await?, most).await
    };
    timeout(deadline, asking).await.map_err(|_| too_long(&whom.name, deadline))?
}

fn too_long(peer: &HostName, deadline: Duration) -> LinkError {
    LinkError::Timeout { peer: peer.clone(), step: "answer", seconds: deadline.as_secs() }
}

async fn collect(peer: &HostName, mut pipe: Pipe, most: usize) -> Result<Said, LinkError> {
    let began = Instant::now();
    let closed = |why: String| LinkError::Closed { peer: peer.clone(), why };
    pipe.writer.shutdown().await.map_err(|error| closed(error.to_string()))?;
    let mut out = Vec::new();
    let read = (&mut pipe.reader).take(most as u64).read_to_end(&mut out).await;
    let took = began.elapsed();
    let finished = pipe.finish().await;
    match (read, finished) {
        (_, Finished { failure: Some(failure), .. }) => Err(failure),
        (Err(error), _) => Err(closed(error.to_string())),
        (Ok(_), Finished { exit, stderr, .. }) => {
            Ok(Said { exit, out: String::from_utf8_lossy(&out).into_owned(), err: stderr, took })
        }
    }
}

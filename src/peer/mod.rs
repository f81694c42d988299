//! Byte pipes to other nodes: one authenticated SSH connection a peer, many channels on it.
//!
//! Promises: the peer's key is the one we hold for it, never trusted on first use; a dead link is noticed (keep-alives,
//! and a deadline on every wait); when it dies every pipe on it fails, and the next [`Links::run`] dials again;
//! callers who want the same peer at once share one dial and its failure; a pipe that nobody reads, here or there, delays
//! no other.
//! Never: decides anything, retries on its own, or reads what it carries.

pub mod ahead;
mod ask;
mod link;
mod pipe;
#[cfg(test)]
pub(crate) mod server;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use russh::keys::PrivateKey;
use tokio::sync::watch;

use crate::model::HostName;
pub use ask::{Said, Stranger, ask_stranger};
use link::Link;
pub use pipe::{Finished, Pipe, PipeReader, PipeWriter};

/// Another node, as the configuration knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub name: HostName,
    /// Its identity key as an SSH wire blob (RFC 4253, section 6.6).
    pub key: Vec<u8>,
    /// The SSH user name to log in with, `git` unless the address says otherwise.
    pub user: String,
    pub host: String,
    pub port: u16,
}

/// Every peer this node knows.
pub type Peers = Arc<BTreeMap<HostName, Peer>>;

/// Why there is no pipe. Its text names the cure where a person must act.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    #[error("'{0}' is no peer of this node; add it with 'gitmesh add-mirroring-peer {0}.pub'")]
    Unknown(HostName),
    #[error("cannot reach {peer} at {address}: {why}")]
    Unreachable { peer: HostName, address: String, why: String },
    #[error(
        "{address} showed the key {got}, and {peer}'s key is {expected}; if {peer} has a new key, \
         'gitmesh add-mirroring-peer {peer}.pub' with the new one, else someone answers in its place"
    )]
    WrongKey { peer: HostName, address: String, expected: String, got: String },
    #[error(
        "{peer} does not know our key {ours}; there, 'gitmesh add-mirroring-peer' with this node's public key{said}"
    )]
    Refused { peer: HostName, ours: String, said: String },
    #[error("{peer} did not answer within {seconds} s ({step})")]
    Timeout { peer: HostName, step: &'static str, seconds: u64 },
    #[error("{peer} opened no further channel: {why}")]
    Busy { peer: HostName, why: String },
    #[error("the link to {peer} broke: {why}")]
    Closed { peer: HostName, why: String },
}

impl LinkError {
    /// Whether trying again can help without a change to the configuration of either node.
    pub fn retry_can_help(&self) -> bool {
        match self {
            Self::Unknown(_) | Self::WrongKey { .. } | Self::Refused { .. } => false,
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::Busy { .. } | Self::Closed { .. } => true,
        }
    }
}

/// The pool of links. Cheap to clone.
#[derive(Clone)]
pub struct Links {
    identity: Arc<PrivateKey>,
    peers: watch::Receiver<Peers>,
    slots: Arc<Mutex<BTreeMap<HostName, Arc<Slot>>>>,
}

/// One peer's place in the pool.
struct Slot {
    /// Held while dialling, so that callers share one dial.
    pooled: tokio::sync::Mutex<Pooled>,
    /// Dials that have ended. A caller who waited through one shares its failure instead of dialling too.
    dials: AtomicU64,
    /// Links made so far.
    links: watch::Sender<u64>,
}

#[derive(Default)]
struct Pooled {
    link: Option<Arc<Link>>,
    failure: Option<LinkError>,
    /// Since when there has been no link, as far as anybody has tried.
    down: Option<SystemTime>,
}

impl Links {
    /// `identity` is this node's key; `peers` is read at every use, so a removed or re-keyed peer loses its link.
    pub fn new(identity: PrivateKey, peers: watch::Receiver<Peers>) -> Self {
        Self { identity: Arc::new(identity), peers, slots: Arc::default() }
    }

    /// Runs `exec` on the peer, dialling if there is no link.
    ///
    /// Returns as soon as the command is sent: whether the peer takes it shows in what the pipe reads. A pooled link
    /// that turns out to be dead is replaced once.
    pub async fn run(&self, peer: &HostName, exec: &str) -> Result<Pipe, LinkError> {
        self.run_with_env(peer, exec, &[]).await
    }

    /// As [`Links::run`], with environment variables the peer may accept (`GIT_PROTOCOL`).
    pub async fn run_with_env(&self, peer: &HostName, exec: &str, env: &[(&str, &str)]) -> Result<Pipe, LinkError> {
        let known = self.peers.borrow().get(peer).cloned();
        let Some(known) = known else {
            self.forget(peer);
            return Err(LinkError::Unknown(peer.clone()));
        };
        let slot = self.slot(peer);
        let (link, fresh) = slot.link(&known, &self.identity).await?;
        match link.open(exec, env).await {
            Err(LinkError::Closed { .. } | LinkError::Timeout { .. }) if !fresh => {
                // What runs there may go on: keep-alives decide whether the link is dead or only busy.
                link.retire();
                slot.link(&known, &self.identity).await?.0.open(exec, env).await
            }
            opened => opened,
        }
    }

    /// Counts the links made to `peer`; it changes when one has come up, by whoever's dial.
    pub fn connected(&self, peer: &HostName) -> watch::Receiver<u64> {
        self.slot(peer).links.subscribe()
    }

    /// For how long the peer has not been reached: since its last link was lost or, without one, since the first dial
    /// that failed. `None` while there is a link, or a dial is under way.
    pub fn down_for(&self, peer: &HostName) -> Option<Duration> {
        let slot = self.slot(peer);
        let down = slot.pooled.try_lock().ok()?.down?;
        SystemTime::now().duration_since(down).ok()
    }

    /// The peers as they are now.
    pub fn peers(&self) -> watch::Receiver<Peers> {
        self.peers.clone()
    }

    fn slot(&self, peer: &HostName) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let new =
            || Arc::new(Slot { pooled: Default::default(), dials: AtomicU64::new(0), links: watch::Sender::new(0) });
        slots.entry(peer.clone()).or_insert_with(new).clone()
    }

    /// A peer that was removed from the configuration loses its link and what runs on it.
    fn forget(&self, peer: &HostName) {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(peer)
            && let Ok(mut pooled) = slot.pooled.try_lock()
            && let Some(link) = pooled.link.take()
        {
            // The same cure as `LinkError::Unknown` names, for whoever reads the last error of what was cut off.
            link.cut(&format!("it is no longer a peer; 'gitmesh add-mirroring-peer {peer}.pub' adds it again"));
        }
    }
}

impl Slot {
    /// The pooled link, or a new one; the flag says which.
    async fn link(&self, peer: &Peer, identity: &Arc<PrivateKey>) -> Result<(Arc<Link>, bool), LinkError> {
        let dials_before = self.dials.load(Ordering::Acquire);
        let mut pooled = self.pooled.lock().await;
        if let Some(link) = &pooled.link {
            if link.peer() == peer && link.is_usable() {
                return Ok((link.clone(), false));
            }
            if link.peer() != peer {
                link.cut("its key or address has changed");
            }
        }
        if self.dials.load(Ordering::Acquire) != dials_before
            && let Some(failure) = &pooled.failure
        {
            return Err(failure.clone());
        }
        let dialled = Link::dial(peer, identity).await;
        self.dials.fetch_add(1, Ordering::AcqRel);
        match dialled {
            Ok(link) => {
                let link = Arc::new(link);
                *pooled = Pooled { link: Some(link.clone()), failure: None, down: None };
                self.links.send_modify(|n| *n += 1);
                Ok((link, true))
            }
            Err(error) => {
                let lost = pooled.link.take().and_then(|link| link.lost_at());
                let down = pooled.down.or(lost).or_else(|| Some(SystemTime::now()));
                *pooled = Pooled { link: None, failure: Some(error.clone()), down };
                Err(error)
            }
        }
    }
}

//! What a door hands to `serve`: who wants which service of which repository, and the three streams.

use tokio::io::{AsyncRead, AsyncWrite};

use crate::git::service::Service;
use crate::model::time::Stamp;
use crate::model::{Actor, Epoch, HostName, Oid, RefName, RepoName, UserName};
pub use crate::repo::Metadata;

/// One git session as a door has understood it.
#[derive(Debug, Clone)]
pub struct Request {
    pub actor: Actor,
    pub service: Service,
    pub repo: RepoName,
    /// The client's `GIT_PROTOCOL` (git(1)), checked to be short and plain.
    pub protocol: Option<String>,
    /// Where the client connects from, for the log.
    pub from: String,
    /// Set when a master sends its state to this replica.
    pub mirror: Option<MirrorPush>,
    /// Set when another node vouches for the actor and carries their session here.
    pub via: Option<Via>,
}

/// The node that carries a user's session to the master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Via {
    pub node: HostName,
    /// The highest mastership that it has promised for the repository.
    pub epoch: Epoch,
}

/// What a master tells with each mirror push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorPush {
    pub epoch: Epoch,
    /// It is no state of a master: a former master brings what only it had, as new references for people to look at.
    pub lost: bool,
    /// The master's HEAD, when it is a branch.
    pub head: Option<RefName>,
    /// The object of the master's HEAD, when it is detached.
    pub detached: Option<Oid>,
    /// Who made the repository there, when it was a user.
    pub creator: Option<UserName>,
    /// The master's role file; `None` leaves ours as it is.
    pub roles: Option<String>,
    /// The master's description and settings; `None` leaves ours as they are.
    pub metadata: Option<Metadata>,
    /// What is overwritten here is kept under `refs/gitmesh/lost/` first.
    pub keep: bool,
    /// What is here is damaged: all that comes is put into an empty copy, which replaces it.
    pub fresh: bool,
    /// No file is locked there.
    pub unlocked: bool,
    /// Nor are there texts beside it ([`crate::repo::Papers`]); without this they come by an order of their own.
    pub no_papers: bool,
    /// The time under which the repository was in the trash, of one that was brought back.
    pub restored: Option<Stamp>,
    /// What the master believes our references to be, in our word for it; any other word asks for that.
    pub etag: Option<String>,
}

/// The client's end of a session.
#[derive(Debug)]
pub struct Streams<R, W, E> {
    pub input: R,
    pub output: W,
    pub errors: E,
}

/// Bounds for the streams, so that signatures stay short.
pub trait Input: AsyncRead + Unpin + Send {}
impl<T: AsyncRead + Unpin + Send> Input for T {}
/// See [`Input`].
pub trait Output: AsyncWrite + Unpin + Send {}
impl<T: AsyncWrite + Unpin + Send> Output for T {}

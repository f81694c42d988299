//! `mirror`: where the copies stand, and an order to bring one up to date now.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::timeout;

use super::{Control, Live, Reply, help, parse_repo};
use crate::admin::Access;
use crate::cluster::Place;
use crate::git::objects;
use crate::mirror::MESSAGE_MAX;
use crate::model::{Actor, HostName, RepoName};

/// A push by hand is waited for; a large first copy goes on in the background after that.
const PATIENCE: Duration = Duration::from_secs(600);
/// A peer sends its message at once.
const HEARTBEAT_PATIENCE: Duration = Duration::from_secs(20);

impl Control {
    pub(super) async fn mirror_command(&self, actor: &Actor, words: &[&str], live: &Live) -> Reply {
        match *words {
            ["status", ref rest @ ..] => self.mirror_status(actor, rest, live).await,
            ["push", peer, repo] => {
                let parsed = parse_repo(repo).and_then(|repo| {
                    let peer = HostName::new(peer)
                        .map_err(|e| Reply::fail(2, format!("FATAL: {peer:?} is no node name: {e}")))?;
                    Ok((repo, peer))
                });
                match parsed {
                    Ok((repo, peer)) => self.push_to(actor, &repo, &[peer]).await,
                    Err(reply) => reply,
                }
            }
            ["request-push", repo, ref only @ ..] => match parse_repo(repo) {
                Ok(repo) => match self.cluster.locate(&repo) {
                    // Where a repository lives is told to nobody who may not write to it.
                    _ if self.realm.authorize(actor, &repo, Access::Write).is_err() => {
                        self.push_to(actor, &repo, &[]).await
                    }
                    Place::Here { replicas, .. } => {
                        let asked = only.iter().map(|name| HostName::new(name)).collect::<Result<Vec<_>, _>>();
                        let peers = match asked {
                            Ok(asked) if !asked.is_empty() => asked,
                            Ok(_) => replicas.into_iter().map(|replica| replica.name).collect(),
                            Err(error) => return Reply::fail(2, format!("FATAL: that is no node name: {error}")),
                        };
                        self.push_to(actor, &repo, &peers).await
                    }
                    place => self.not_master(&repo, &place),
                },
                Err(reply) => reply,
            },
            _ => help::wrong(&["mirror"]),
        }
    }

    fn not_master(&self, repo: &RepoName, place: &Place) -> Reply {
        let whose = match place {
            Place::There { master, .. } => format!("its master is {master}; run this there"),
            _ => "it has no part here".to_owned(),
        };
        Reply::fail(1, format!("FATAL: {} is not the master of '{repo}': {whose}", self.node.name))
    }

    async fn push_to(&self, actor: &Actor, repo: &RepoName, peers: &[HostName]) -> Reply {
        if let Err(denial) = self.realm.authorize(actor, repo, Access::Write) {
            return Reply::fail(5, denial.to_string());
        }
        let place = self.cluster.locate(repo);
        let Place::Here { replicas, .. } = &place else { return self.not_master(repo, &place) };
        if peers.is_empty() {
            return Reply::fail(
                1,
                format!(
                    "FATAL: '{repo}' has no replicas\nhelp: name them with 'option mirror.copies = NODE' in gitmesh.conf"
                ),
            );
        }
        let mut reply = Reply::default();
        for peer in peers {
            if place.replica(peer).is_none() {
                let known = replicas.iter().map(|replica| replica.name.as_str()).collect::<Vec<_>>().join(" ");
                reply.err.push_str(&format!("FATAL: {peer} is no replica of '{repo}'; its replicas: {known}\n"));
                reply.code = 4;
                continue;
            }
            let line = format!("{} ==== ({repo}) ===> {peer}", self.node.name);
            match self.mirror.push_now(repo, peer, PATIENCE).await {
                Ok(report) => reply.out.push_str(&format!("{line}   {report}\n")),
                Err(error) => {
                    reply.err.push_str(&format!("{line}   FAILED: {error}\n"));
                    reply.code = 7;
                }
            }
        }
        reply
    }

    /// A peer tells how our copies of its repositories are, and is told about this node.
    pub(super) async fn heartbeat(&self, actor: &Actor, words: &[&str], input: impl AsyncRead + Unpin + Send) -> Reply {
        let Actor::Node(peer) = actor else {
            return Reply::fail(5, "FATAL: this is told by the nodes of the mesh only");
        };
        let mut lines = String::new();
        let mut input = input.take(MESSAGE_MAX);
        match timeout(HEARTBEAT_PATIENCE, input.read_to_string(&mut lines)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Reply::fail(1, format!("FATAL: the heartbeat cannot be read: {error}")),
            Err(_) => return Reply::fail(8, "FATAL: the heartbeat did not end"),
        }
        match self.mirror.hear(peer, words, &lines) {
            Ok(answer) => Reply::done(answer),
            Err(why) => Reply::fail(2, format!("FATAL: {why}")),
        }
    }

    /// A master asks how far we are: a line `DIGEST<TAB>REPO` for each repository that it is master of.
    pub(super) fn digests(&self, actor: &Actor, version: &str) -> Reply {
        let Actor::Node(peer) = actor else {
            return Reply::fail(5, "FATAL: this is asked by the nodes of the mesh only");
        };
        if version != "version=1" {
            return Reply::fail(
                2,
                format!(
                    "FATAL: {} speaks mirror protocol version 1, not '{version}'; upgrade the older node",
                    self.node.name
                ),
            );
        }
        let repos = match self.list() {
            Ok(repos) => repos,
            Err(reply) => return reply,
        };
        let mut out = String::new();
        for repo in
            repos.iter().filter(|r| matches!(self.cluster.locate(r), Place::There { master, .. } if master == *peer))
        {
            let Some(dir) = self.store.open_as_daemon(repo) else { continue };
            match objects::read_refs(&dir) {
                Ok(refs) => {
                    let owned = self.store.ownership(repo).unwrap_or_default();
                    out.push_str(&format!("{}\t{repo}\n", owned.seal(refs.digest())));
                }
                // Left out, it counts as missing, and the master tries to push: the error shows there and here.
                Err(error) => tracing::warn!(%error, %repo, "cannot read the references"),
            }
        }
        Reply::done(out)
    }

    /// A master has its copy here checked: git's words about each damage, nothing if there is none.
    pub(super) async fn fsck(&self, actor: &Actor, version: &str, repo: &str) -> Reply {
        let Actor::Node(peer) = actor else {
            return Reply::fail(5, "FATAL: this is asked by the nodes of the mesh only");
        };
        if version != "version=1" {
            return Reply::fail(2, format!("FATAL: {} knows gitmesh-mirror-fsck version 1 only", self.node.name));
        }
        let repo = match parse_repo(repo) {
            Ok(repo) => repo,
            Err(reply) => return reply,
        };
        match self.cluster.locate(&repo) {
            Place::There { master, .. } if master == *peer => {}
            _ => return Reply::fail(5, format!("FATAL: {peer} is not the master of '{repo}'")),
        }
        match self.mirror.fsck(&repo).await {
            Ok(damage) => Reply::done(damage.iter().map(|line| format!("{line}\n")).collect()),
            Err(error) => Reply::fail(1, format!("FATAL: {error}")),
        }
    }
}

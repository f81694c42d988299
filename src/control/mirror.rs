//! `mirror`: where the copies stand, and an order to bring one up to date now.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::timeout;

use super::orders::{self, PATIENCE};
use super::{Control, Live, Reply, help, parse_repo};
use crate::admin::Access;
use crate::cluster::Place;
use crate::git::objects::ObjectsError;
use crate::mirror::{MESSAGE_MAX, Order, TABLE_MAX};
use crate::model::{Actor, Epoch, HostName, RepoName};
use crate::repo::{self, FileLocks, Metadata, Papers};

/// A peer sends its message at once.
const HEARTBEAT_PATIENCE: Duration = Duration::from_secs(20);
/// A mebibyte on a slow line.
const BESIDE_PATIENCE: Duration = Duration::from_secs(600);

/// The repository of an order that its master carries out, for [`super::changed_repo`].
pub(super) fn changed_repo<'a>(words: &[&'a str]) -> Option<&'a str> {
    match *words {
        ["request-push", repo, ..] => Some(repo),
        [order @ ("push" | "repair" | "wait" | "pause" | "resume"), ref rest @ ..] => orders::changed_repo(order, rest),
        _ => None,
    }
}

impl Control {
    pub(super) async fn mirror_command(&self, actor: &Actor, words: &[&str], live: &Live) -> Reply {
        match *words {
            ["status", copy, repo] if !copy.starts_with('-') && !repo.starts_with('-') => {
                self.gitolite_status(actor, copy, repo).unwrap_or_else(|e| e)
            }
            ["status", ref rest @ ..] => self.mirror_status(actor, rest, live).await,
            [order @ ("push" | "repair"), ref rest @ ..] => {
                self.order_push(actor, order, rest).await.unwrap_or_else(|e| e)
            }
            // gitolite 2's spelling
            ["request-push", repo, ref only @ ..] => self.request_push(actor, repo, only).await.unwrap_or_else(|e| e),
            ["pull", ref rest @ ..] => self.order_pull(actor, rest).await.unwrap_or_else(|e| e),
            ["wait", ref rest @ ..] => self.order_wait(actor, rest).await.unwrap_or_else(|e| e),
            ["promote", ref rest @ ..] => self.promote(actor, rest).await.unwrap_or_else(|e| e),
            ["move", ref rest @ ..] => self.hand_over(actor, rest).await.unwrap_or_else(|e| e),
            [order @ ("pause" | "resume"), ref rest @ ..] => self.order_pause(actor, order, rest).unwrap_or_else(|e| e),
            ["verify", ref rest @ ..] => self.order_verify(actor, rest, live).await.unwrap_or_else(|e| e),
            ["list", ref rest @ ..] => self.mirror_list(actor, rest).unwrap_or_else(|e| e),
            ["lost", ref rest @ ..] => self.lost_command(actor, rest).await.unwrap_or_else(|e| e),
            ["log", ref rest @ ..] => self.mirror_log(actor, rest).unwrap_or_else(|e| e),
            _ => help::wrong(&["mirror"]),
        }
    }

    pub(super) fn not_master(&self, repo: &RepoName, place: &Place) -> Reply {
        let whose = match place {
            Place::There { master, redirect: false } => format!("its master is {master}; run this there"),
            // What a user orders has been carried there.
            Place::There { master, .. } => {
                format!("its master is {master}; run this there, or here over SSH, where your name goes with it")
            }
            _ => "it has no part here".to_owned(),
        };
        Reply::fail(1, format!("FATAL: {} is not the master of '{repo}': {whose}", self.node.name))
    }

    pub(super) async fn push_to(&self, actor: &Actor, repo: &RepoName, peers: &[HostName], order: Order) -> Reply {
        if let Err(denial) = self.realm.authorize(actor, repo, Access::Write) {
            return Reply::fail(5, denial.to_string());
        }
        let place = self.cluster.locate(repo);
        let Place::Here { .. } = &place else { return self.not_master(repo, &place) };
        if peers.is_empty() {
            return Reply::fail(
                1,
                format!(
                    "FATAL: '{repo}' has no replicas\nhelp: name them with 'option mirror.copies = NODE' or 'option mirror.external = NAME URL' in gitmesh.conf"
                ),
            );
        }
        self.pushed(repo, peers, order).await
    }

    /// Pushes to the named copies and tells how it went.
    pub(super) async fn pushed(&self, repo: &RepoName, peers: &[HostName], order: Order) -> Reply {
        let copies = self.mirror.copies_of(repo);
        let upstream = self.mirror.upstream_of(repo).map(|upstream| upstream.target.name);
        let mut reply = Reply::default();
        for peer in peers {
            let follows = upstream.as_ref() == Some(peer);
            if !copies.contains(peer) && !follows {
                let known = copies.iter().map(HostName::as_str).collect::<Vec<_>>().join(" ");
                reply.err.push_str(&format!("FATAL: {peer} is no replica of '{repo}'; its replicas: {known}\n"));
                reply.code = 4;
                continue;
            }
            let arrow = if follows { "<===" } else { "===>" };
            let line = format!("{} ==== ({repo}) {arrow} {peer}", self.node.name);
            match self.mirror.push_with(repo, peer, order, PATIENCE).await {
                Ok(report) => reply.out.push_str(&format!("{line}   {report}\n")),
                Err(error) => {
                    reply.err.push_str(&format!("{line}   FAILED: {error}\n"));
                    reply.code = 7;
                }
            }
        }
        reply
    }

    /// A peer tells what it knows of promotions, and is told what this node knows.
    pub(super) async fn masters(&self, actor: &Actor, words: &[&str], input: impl AsyncRead + Unpin + Send) -> Reply {
        let Actor::Node(peer) = actor else {
            return Reply::fail(5, "FATAL: this is told by the nodes of the mesh only");
        };
        let mut table = String::new();
        match timeout(HEARTBEAT_PATIENCE, input.take(TABLE_MAX).read_to_string(&mut table)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Reply::fail(1, format!("FATAL: the table cannot be read: {error}")),
            Err(_) => return Reply::fail(8, "FATAL: the table did not end"),
        }
        let (peer, words) = (peer.clone(), words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        let hear = move |c: &Self, _: &Actor| {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            match c.mirror.hear_masters(&peer, &words, &table) {
                Ok(answer) => Reply::done(answer),
                Err(why) => Reply::fail(2, format!("FATAL: {why}")),
            }
        };
        self.blocking(actor, hear).await
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
        let (peer, words) = (peer.clone(), words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        // What a peer says of its disk may be written down.
        let hear = move |c: &Self, _: &Actor| {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            match c.mirror.hear(&peer, &words, &lines) {
                Ok(answer) => Reply::done(answer),
                Err(why) => Reply::fail(2, format!("FATAL: {why}")),
            }
        };
        self.blocking(actor, hear).await
    }

    /// A master asks how far we are: a line `DIGEST<TAB>REPO` for each repository that it is master of.
    pub(super) fn digests(&self, actor: &Actor, version: &str) -> Reply {
        let Actor::Node(peer) = actor else {
            return Reply::fail(5, "FATAL: this is asked by the nodes of the mesh only");
        };
        if version != "version=1" {
            let here = &self.node.name;
            return Reply::fail(
                2,
                format!("FATAL: {here} speaks mirror protocol version 1, not '{version}'; upgrade the older node"),
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
            match self.copy_digest(repo) {
                Ok(None) => {}
                Ok(Some(digest)) => out.push_str(&format!("{digest}\t{repo}\n")),
                // Left out, it counts as missing, and the master tries to push: the error shows there and here.
                Err(error) => tracing::warn!(%error, %repo, "cannot read the references"),
            }
        }
        Reply::done(out)
    }

    /// A master sends the file locks of a copy here, as the lines of its file, or the texts beside it.
    pub(super) async fn take_beside(
        &self,
        actor: &Actor,
        are_locks: bool,
        words: &[&str],
        input: impl AsyncRead + Unpin + Send,
    ) -> Reply {
        let Actor::Node(master) = actor else {
            return Reply::fail(5, "FATAL: this is told by the nodes of the mesh only");
        };
        let value = |key: &str| words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        let epoch = value("epoch").and_then(Epoch::parse);
        let (Some(repo), Some("1"), Some(epoch)) = (words.first(), value("version"), epoch) else {
            let here = &self.node.name;
            return Reply::fail(2, format!("FATAL: {here} does not understand this order; upgrade the older node"));
        };
        let repo = match parse_repo(repo) {
            Ok(repo) => repo,
            Err(reply) => return reply,
        };
        let mut text = String::new();
        let mut input = input.take(FileLocks::BYTES_MAX.max(Papers::BYTES_MAX));
        match timeout(BESIDE_PATIENCE, input.read_to_string(&mut text)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Reply::fail(1, format!("FATAL: what was sent cannot be read: {error}")),
            Err(_) => return Reply::fail(8, "FATAL: what was sent did not end"),
        }
        let master = master.clone();
        self.blocking(actor, move |control, _| {
            if let Err(denial) = control.realm.authorize_mirror(&master, &repo, None) {
                return Reply::fail(5, denial.to_string());
            }
            let Some(dir) = control.store.open_as_daemon(&repo) else {
                return Reply::fail(4, format!("FATAL: '{repo}' is not here"));
            };
            let taken = match repo::promise_epoch(&dir, epoch) {
                Ok(Ok(())) if are_locks => FileLocks::take_over(&dir, Some(&text)),
                Ok(Ok(())) => Papers::take_over(&dir, Some(&text)),
                Ok(Err(promised)) => {
                    let here = &control.node.name;
                    return Reply::fail(
                        5,
                        format!("FATAL: epoch {epoch} of '{repo}' is over: {promised} has been promised on {here}"),
                    );
                }
                Err(error) => Err(error),
            };
            taken.map_or_else(
                |error| {
                    tracing::error!(%error, %repo, are_locks, "what the master has beside it cannot be written");
                    Reply::fail(1, "FATAL: what was sent cannot be written here")
                },
                |()| Reply::default(),
            )
        })
        .await
    }

    /// The digest of a copy here, as its master computes it; nothing if there is no copy.
    pub(super) fn copy_digest(&self, repo: &RepoName) -> Result<Option<String>, ObjectsError> {
        let Some(dir) = self.store.open_as_daemon(repo) else { return Ok(None) };
        let owned = self.store.ownership(repo).unwrap_or_default();
        let digest = owned.seal(self.store.digest(repo)?);
        let digest = FileLocks::seal(&dir, Metadata::received(&dir).seal(digest));
        Ok(Some(Papers::seal(&dir, digest)))
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

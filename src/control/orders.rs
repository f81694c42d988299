//! What a person orders or asks of mirroring beside its status: waits, pauses, repairs, checks and what happened.
//!
//! Questions are answered to whoever may read the repository, orders to push are taken from whoever may write to it,
//! and what goes further than the machine may go by itself from administrators.

use std::time::Duration;

use serde_json::json;

use super::status::{Which, counted};
use super::{Control, Reply, help, parse_repo};
use crate::admin::{Access, Denial};
use crate::cluster::Place;
use crate::mirror::{Arrival, Order, Scope, Want, Where};
use crate::model::setting::parse_duration;
use crate::model::time::{in_brief, in_words, rfc3339};
use crate::model::{Actor, Epoch, HostName, RefName, RepoName};
use crate::policy::nearest;

/// A push by hand is waited for; a large first copy goes on in the background after that.
pub(super) const PATIENCE: Duration = Duration::from_secs(600);
const WAIT: Duration = Duration::from_secs(60);
const WAIT_MAX: Duration = Duration::from_secs(3600);
const LOG_LINES: usize = 20;
/// The exec line's first word by which a replica asks to be pushed to.
pub(super) const REQUEST: &str = "gitmesh-mirror-request";

/// The flags of these orders, which are given on the master.
fn flags(order: &str) -> &'static [&'static str] {
    match order {
        "push" => &["--force"],
        "wait" => &["--peer", "--all", "--count", "--timeout", "--json"],
        "pause" | "resume" => &["--all", "--peer", "--reason"],
        _ => &[],
    }
}

/// The repository whose copies such an order is about, for [`super::changed_repo`]; none if it is about all, or wrong.
pub(super) fn changed_repo<'a>(order: &str, words: &[&'a str]) -> Option<&'a str> {
    let words = Words::parse(words, flags(order)).ok()?;
    match (order, &words.plain[..]) {
        ("push" | "repair", [repo] | [_, repo]) | ("wait", [repo] | [repo, _]) => Some(repo),
        ("pause" | "resume", [repo]) if !words.all => Some(repo),
        _ => None,
    }
}

/// How long a `wait` of these words may take.
pub(super) fn wait_timeout(words: &[&str]) -> Duration {
    Words::parse(words, flags("wait")).ok().and_then(|words| words.timeout).unwrap_or(WAIT)
}

/// Flags and other words of an order.
#[derive(Debug, Default)]
pub(super) struct Words<'a> {
    pub plain: Vec<&'a str>,
    pub peer: Option<HostName>,
    count: Option<usize>,
    timeout: Option<Duration>,
    limit: Option<usize>,
    reason: &'a str,
    /// The node that something is taken from, or given to.
    pub from: Option<HostName>,
    pub to: Option<HostName>,
    pub all: bool,
    pub deep: bool,
    pub force: bool,
    pub yes: bool,
    pub here: bool,
    pub json: bool,
}

impl<'a> Words<'a> {
    /// `may` names the flags of this order; all others are wrong.
    pub(super) fn parse(words: &[&'a str], may: &[&str]) -> Result<Self, String> {
        let mut found = Self::default();
        let mut words = words.iter().copied();
        while let Some(word) = words.next() {
            let (flag, value) = word.split_once('=').map_or((word, None), |(f, v)| (f, Some(v)));
            if !flag.starts_with("--") {
                found.plain.push(word);
                continue;
            }
            if !may.contains(&flag) {
                return Err(format!("'{flag}' is none of: {}", may.join(" ")));
            }
            let mut value = || value.or_else(|| words.next()).ok_or_else(|| format!("{flag} needs a value"));
            let number = |text: &str| text.parse().map_err(|_| format!("'{text}' is no number"));
            match flag {
                "--peer" => found.peer = Some(node_name(value()?)?),
                "--count" => found.count = Some(number(value()?)?),
                "--limit" => found.limit = Some(number(value()?)?),
                "--timeout" => found.timeout = Some(parse_duration(value()?)?.min(WAIT_MAX)),
                "--reason" => found.reason = value()?,
                "--all-from" => found.from = Some(node_name(value()?)?),
                "--to" => found.to = Some(node_name(value()?)?),
                "--yes" => found.yes = true,
                "--here" => found.here = true,
                "--all" => found.all = true,
                "--deep" => found.deep = true,
                "--force" => found.force = true,
                _ => found.json = true,
            }
        }
        Ok(found)
    }
}

fn node_name(text: &str) -> Result<HostName, String> {
    HostName::new(text).map_err(|error| format!("{text:?} is no node name: {error}"))
}

pub(super) fn wrong(order: &str, why: &str) -> Reply {
    let mut reply = help::wrong(&["mirror", order]);
    reply.err = format!("FATAL: {why}\n{}", reply.err);
    reply
}

/// A reference as people write it: `main` is a branch.
fn reference(text: &str) -> Result<RefName, String> {
    let full = if text.starts_with("refs/") { text.to_owned() } else { format!("refs/heads/{text}") };
    RefName::parse(&full).ok_or_else(|| format!("'{text}' is no reference name"))
}

impl Control {
    /// A repository that the actor may use so.
    fn known(&self, actor: &Actor, repo: &str, access: Access) -> Result<RepoName, Reply> {
        let repo = parse_repo(repo)?;
        match self.realm.authorize(actor, &repo, access) {
            Ok(_) => Ok(repo),
            Err(denial) => Err(Reply::fail(5, denial.to_string())),
        }
    }

    pub(super) fn administers(&self, actor: &Actor, what: &str) -> Result<(), Reply> {
        if *actor == Actor::Local || self.realm.may_administer(actor) {
            return Ok(());
        }
        Err(Reply::fail(5, format!("FATAL: {what} is for administrators (who may write gitmesh-admin)")))
    }

    /// `push [PEER] REPO [--force]` and `repair [PEER] REPO`.
    pub(super) async fn order_push(&self, actor: &Actor, name: &str, words: &[&str]) -> Result<Reply, Reply> {
        let words = Words::parse(words, flags(name)).map_err(|why| wrong(name, &why))?;
        let order = match (name, words.force) {
            ("repair", _) => Order::Repair,
            (_, true) => Order::Force,
            _ => Order::Usual,
        };
        let (peer, repo) = match words.plain[..] {
            [repo] => (None, repo),
            [peer, repo] => (Some(node_name(peer).map_err(|why| wrong(name, &why))?), repo),
            _ => return Err(help::wrong(&["mirror", name])),
        };
        // Nobody has rights in what is gone; its copies may wait for a word all the same.
        let gone = parse_repo(repo).ok().filter(|repo| self.store.gone().of(repo).is_some());
        if gone.is_some() {
            self.administers(actor, "what copies of a deleted repository are told")?;
        }
        let repo = gone.clone().map_or_else(|| self.known(actor, repo, Access::Write), Ok)?;
        if order > Order::Usual {
            self.administers(actor, "an order that may overwrite or delete")?;
        }
        let peers = match (peer, self.cluster.locate(&repo)) {
            (Some(peer), _) => vec![peer],
            (None, Place::Here { .. }) => self.mirror.copies_of(&repo),
            (None, place) => return Err(self.not_master(&repo, &place)),
        };
        if gone.is_some() {
            return Ok(self.pushed(&repo, &peers, order).await);
        }
        Ok(self.push_to(actor, &repo, &peers, order).await)
    }

    /// gitolite 2's `request-push REPO [-fg] [PEER|LIST...]`; a list is the key of one of its own, `gitolite.mirror.NAME` or
    /// NAME alone. Every answer waits for the pushes, which is what `-fg` asked for.
    pub(super) async fn request_push(&self, actor: &Actor, repo: &str, only: &[&str]) -> Result<Reply, Reply> {
        let only: Vec<&str> = only.iter().copied().filter(|word| *word != "-fg").collect();
        if only.is_empty() {
            return self.order_push(actor, "push", &[repo]).await;
        }
        let repo = self.known(actor, repo, Access::Write)?;
        let mut peers = Vec::new();
        for word in only {
            for name in self.realm.mirror_list(&repo, word).unwrap_or_else(|| vec![word.to_owned()]) {
                let peer = node_name(&name).map_err(|why| Reply::fail(2, format!("FATAL: {why}")))?;
                if !peers.contains(&peer) {
                    peers.push(peer);
                }
            }
        }
        Ok(self.push_to(actor, &repo, &peers, Order::Usual).await)
    }

    /// `pull REPO [--force]`: this node asks the master of its copy to push it now, or its upstream for what it has.
    pub(super) async fn order_pull(&self, actor: &Actor, words: &[&str]) -> Result<Reply, Reply> {
        let words = Words::parse(words, &["--force"]).map_err(|why| wrong("pull", &why))?;
        let [repo] = words.plain[..] else { return Err(help::wrong(&["mirror", "pull"])) };
        let repo = self.known(actor, repo, Access::Read)?;
        if words.force {
            self.administers(actor, "an order that may delete")?;
        }
        if let Some(upstream) = self.mirror.upstream_of(&repo) {
            let order = if words.force { Order::Force } else { Order::Usual };
            return Ok(self.pushed(&repo, &[upstream.target.name], order).await);
        }
        let Place::There { master, .. } = self.cluster.locate(&repo) else {
            let here = &self.node.name;
            return Err(Reply::fail(1, format!("FATAL: {here} holds no copy of '{repo}' that a master could push to")));
        };
        let line = format!("{REQUEST} version=1 '{repo}' epoch={}", self.cluster.epoch(&repo));
        let unreachable = |error: &dyn std::fmt::Display| Reply::fail(7, format!("FATAL: {error}"));
        let pipe = self.links.run(&master, &line).await.map_err(|error| unreachable(&error))?;
        let finished = tokio::time::timeout(PATIENCE, super::forward::converse(pipe, tokio::io::empty())).await;
        let Ok((out, finished)) = finished else {
            return Err(Reply::fail(8, format!("FATAL: {master} did not end within {} s", PATIENCE.as_secs())));
        };
        match finished.failure {
            Some(error) => Err(unreachable(&error)),
            None => Ok(Reply { out, err: finished.stderr, code: finished.exit.map_or(7, u32::cast_signed) }),
        }
    }

    /// A replica asks to be pushed to; it has asked its user for rights.
    pub(super) async fn requested(&self, actor: &Actor, words: &[&str]) -> Reply {
        let Actor::Node(peer) = actor else {
            return Reply::fail(5, "FATAL: this is asked by the nodes of the mesh only");
        };
        let epoch = words.get(2).and_then(|word| Epoch::parse(word.strip_prefix("epoch=")?));
        let (["version=1", repo, _], Some(epoch)) = (words, epoch) else {
            return Reply::fail(2, format!("FATAL: {} knows {REQUEST} version=1 REPO epoch=N only", self.node.name));
        };
        let repo = match parse_repo(repo) {
            Ok(repo) => repo,
            Err(reply) => return reply,
        };
        let known = self.cluster.epoch(&repo);
        if known < epoch {
            self.mirror.ask_masters(peer);
            let (here, code) = (&self.node.name, Denial::PAST);
            let text = format!(
                "FATAL: epoch {known} of '{repo}' is over: {peer} has promised {epoch}; {here} is no longer its master [{code}]"
            );
            return Reply::fail(5, text);
        }
        let place = self.cluster.locate(&repo);
        if place.replica(peer).is_none() {
            let name = &self.node.name;
            return Reply::fail(4, format!("FATAL: {name} knows no copy of '{repo}' on {peer} to push to"));
        }
        self.pushed(&repo, std::slice::from_ref(peer), Order::Usual).await
    }

    /// `wait REPO [REF] [--peer P|--all|--count N] [--timeout T]`
    pub(super) async fn order_wait(&self, actor: &Actor, words: &[&str]) -> Result<Reply, Reply> {
        let usage = |why: String| wrong("wait", &why);
        let words = Words::parse(words, flags("wait")).map_err(usage)?;
        let (repo, want) = match words.plain[..] {
            [repo] => (repo, Want::Now),
            [repo, name] => (repo, Want::Ref(reference(name).map_err(usage)?)),
            _ => return Err(help::wrong(&["mirror", "wait"])),
        };
        let repo = self.known(actor, repo, Access::Read)?;
        let at = match (words.peer, words.count, words.all) {
            (Some(peer), None, false) => Where::One(peer),
            (None, Some(count), false) => Where::Count(count),
            (None, None, _) => Where::All,
            _ => return Err(usage("--peer, --count and --all exclude each other".to_owned())),
        };
        if let place @ (Place::There { .. } | Place::Elsewhere) = self.cluster.locate(&repo) {
            return Err(self.not_master(&repo, &place));
        }
        let waited = self.mirror.wait(&repo, &want, &at, words.timeout.unwrap_or(WAIT)).await;
        let waited = waited.map_err(|error| Reply::fail(1, format!("FATAL: {error}")))?;
        let err = waited.impossible(&repo, &at).map_or_else(String::new, |why| format!("FATAL: {why}\n"));
        if !err.is_empty() && !words.json {
            return Ok(Reply { out: String::new(), err, code: 8 });
        }
        let code = if waited.met { 0 } else { 8 };
        let out = if words.json {
            let copies = waited.copies.iter().map(|(peer, arrival)| match arrival {
                Arrival::There(after) => {
                    json!({"replica": peer.as_str(), "there": true, "seconds": after.as_secs_f64()})
                }
                Arrival::NotYet(state) => {
                    json!({"replica": peer.as_str(), "there": false, "state": state.word(), "text": state.to_string()})
                }
            });
            let copies: Vec<_> = copies.collect();
            let (repo, met) = (repo.as_str(), waited.met);
            json!({"schema": "gitmesh.mirror.wait/1", "repo": repo, "met": met, "copies": copies}).to_string() + "\n"
        } else {
            let line = |(peer, arrival): &(HostName, Arrival)| match arrival {
                Arrival::There(after) => format!("{repo}\t{peer}\thas it, after {}\n", in_brief(*after)),
                Arrival::NotYet(state) => format!("{repo}\t{peer}\tNOT YET: {state}\n"),
            };
            waited.copies.iter().map(line).collect()
        };
        Ok(Reply { out, err, code })
    }

    /// `pause` and `resume`: `REPO|--all [--peer P]`, and `--reason TEXT` for a pause.
    pub(super) fn order_pause(&self, actor: &Actor, name: &str, words: &[&str]) -> Result<Reply, Reply> {
        self.administers(actor, "to pause and to resume")?;
        let words = Words::parse(words, flags(name)).map_err(|why| wrong(name, &why))?;
        let scopes = match (&words.plain[..], words.all, words.peer) {
            ([repo], false, peer) => {
                let repo = parse_repo(repo)?;
                let place = self.cluster.locate(&repo);
                if !self.store.exists(&repo) {
                    return Err(self.unknown(&repo));
                }
                if !matches!(place, Place::Here { .. }) {
                    return Err(self.not_master(&repo, &place));
                }
                match peer {
                    Some(peer) => vec![self.stoppable(Scope::Copy(repo.clone(), peer.clone()), &peer, Some(&repo))?],
                    None => vec![Scope::Repo(repo)],
                }
            }
            ([], true, Some(peer)) => vec![self.stoppable(Scope::Peer(peer.clone()), &peer, None)?],
            ([], true, None) => self.mirror.peer_status().into_iter().map(|peer| Scope::Peer(peer.peer)).collect(),
            _ => return Err(help::wrong(&["mirror", name])),
        };
        if scopes.is_empty() {
            let here = &self.node.name;
            return Err(Reply::fail(
                4,
                format!("FATAL: {here} pushes to no peer: nothing that is mastered here has copies"),
            ));
        }
        let failed = |error: std::io::Error| {
            tracing::error!(%error, "a pause cannot be kept");
            Reply::fail(70, "FATAL: the order cannot be written down; tell the operator")
        };
        let mut out = String::new();
        for scope in scopes {
            let by = actor.to_string();
            if name == "pause" {
                let (copies, new) = self.mirror.pause(scope.clone(), &by, words.reason).map_err(failed)?;
                let already = if new { "" } else { " already" };
                out.push_str(&format!("pushes to {scope} are paused{already}: {}\n", counted(copies)));
            } else {
                let over = self.mirror.resume(&scope, &by).map_err(failed)?;
                let text = if over.is_empty() { "were not paused" } else { "go on" };
                out.push_str(&format!("pushes to {scope} {text}\n"));
            }
        }
        Ok(Reply::done(out))
    }

    /// There is no such repository; the nearest name may be meant.
    fn unknown(&self, repo: &RepoName) -> Reply {
        let known = self.list().unwrap_or_default();
        let cure = nearest(repo.as_str(), known.iter().map(RepoName::as_str));
        let cure =
            cure.map_or_else(|| "'gitmesh mirror list' names all".to_owned(), |near| format!("did you mean '{near}'?"));
        Reply::fail(4, format!("FATAL: '{repo}' does not exist on {}\nhelp: {cure}", self.node.name))
    }

    /// The scope, if its peer gets anything pushed from here, of this repository or at all, or if its pause stands: before
    /// work on a machine nobody should believe that they have stopped what they have not.
    fn stoppable(&self, scope: Scope, peer: &HostName, repo: Option<&RepoName>) -> Result<Scope, Reply> {
        let known: Vec<HostName> = match repo {
            Some(repo) => {
                let upstream = self.mirror.upstream_of(repo).map(|upstream| upstream.target.name);
                self.mirror.copies_of(repo).into_iter().chain(upstream).collect()
            }
            // Those that have no copies yet may be stopped beforehand.
            None => {
                let peers = self.mirror.peer_status().into_iter().map(|peer| peer.peer);
                peers.chain(self.mirror.pulses().into_keys()).collect()
            }
        };
        if known.contains(peer) || self.mirror.pauses().iter().any(|pause| pause.scope == scope) {
            return Ok(scope);
        }
        let what = match repo {
            Some(repo) => format!("'{repo}' has no copy on {peer}"),
            None => format!("{peer} is no peer that {} pushes to", self.node.name),
        };
        let mut names: Vec<&str> = known.iter().map(HostName::as_str).collect();
        names.sort_unstable();
        names.dedup();
        let cure = match (nearest(peer.as_str(), names.iter().copied()), names.is_empty()) {
            (Some(near), _) => format!("did you mean '{near}'?"),
            (None, false) => format!("there is: {}", names.join(" ")),
            (None, true) => "there is none at all".to_owned(),
        };
        Err(Reply::fail(4, format!("FATAL: {what}\nhelp: {cure}")))
    }

    /// `list [REPO|PATTERN]`, and gitolite's `list master REPO` and `list copies REPO`.
    pub(super) fn mirror_list(&self, actor: &Actor, words: &[&str]) -> Result<Reply, Reply> {
        let words = Words::parse(words, &["--json"]).map_err(|why| wrong("list", &why))?;
        let which = match words.plain[..] {
            ["master", repo] => {
                let place = self.realm.place(&self.known(actor, repo, Access::Read)?);
                return Ok(Reply::done(place.master.unwrap_or_default() + "\n"));
            }
            ["copies" | "slaves", repo] => {
                let place = self.realm.place(&self.known(actor, repo, Access::Read)?);
                let copies: Vec<String> = place.copies.into_keys().collect();
                return Ok(Reply::done(copies.join(" ") + "\n"));
            }
            [] => Which::All,
            [word] => Which::parse(self, Some(word))?,
            _ => return Err(help::wrong(&["mirror", "list"])),
        };
        let mut rows = Vec::new();
        for repo in self.list()?.into_iter().filter(|repo| which.has(repo) && self.realm.rights(actor, repo).0) {
            let place = self.realm.place(&repo);
            if let Some(master) = place.master {
                rows.push((repo, master, place.copies.into_keys().collect::<Vec<String>>()));
            }
        }
        Ok(Reply::done(if words.json {
            let row = |(repo, master, copies): &(RepoName, String, Vec<String>)| json!({"repo": repo.as_str(), "master": master, "copies": copies});
            let repos: Vec<_> = rows.iter().map(row).collect();
            json!({"schema": "gitmesh.mirror.list/1", "repos": repos}).to_string() + "\n"
        } else {
            rows.iter().map(|(repo, master, copies)| format!("{repo}\t{master}\t{}\n", copies.join(" "))).collect()
        }))
    }

    /// `log REPO [--limit N]`
    pub(super) fn mirror_log(&self, actor: &Actor, words: &[&str]) -> Result<Reply, Reply> {
        let words = Words::parse(words, &["--limit", "--json"]).map_err(|why| wrong("log", &why))?;
        let [repo] = words.plain[..] else { return Err(help::wrong(&["mirror", "log"])) };
        let repo = self.known(actor, repo, Access::Read)?;
        let entries = self.mirror.log(&repo, words.limit.unwrap_or(LOG_LINES));
        if words.json {
            let entry = |e: &crate::mirror::Entry| json!({"at": rfc3339(e.at), "replica": e.peer.as_str(), "what": e.what, "detail": e.detail, "times": e.times});
            let entries: Vec<_> = entries.iter().map(entry).collect();
            let repo = repo.as_str();
            let doc = json!({"schema": "gitmesh.mirror.log/1", "repo": repo, "entries": entries});
            return Ok(Reply::done(doc.to_string() + "\n"));
        }
        let mut reply = Reply::default();
        for e in &entries {
            let times = if e.times > 1 { format!(" ({} times)", e.times) } else { String::new() };
            let detail = if e.detail.is_empty() { String::new() } else { format!(": {}", e.detail) };
            reply.out.push_str(&format!("{}\t{}\t{}{times}{detail}\n", rfc3339(e.at), e.peer, e.what));
        }
        if entries.is_empty() {
            reply.err = match self.cluster.locate(&repo) {
                Place::There { master, .. } => format!("what happened to this copy is known to its master, {master}\n"),
                _ => format!("nothing has happened to copies of '{repo}' that is worth a line\n"),
            };
        }
        Ok(reply)
    }

    /// gitolite's `status COPY|all REPO|all`: only what is wrong, and of everything only the names.
    pub(super) fn gitolite_status(&self, actor: &Actor, copy: &str, repo: &str) -> Result<Reply, Reply> {
        let which = if repo == "all" { Which::All } else { Which::One(self.known(actor, repo, Access::Read)?) };
        let mut copies = self.copies(actor, &which)?;
        copies.retain(|c| !c.is_well() && c.state != "behind" && (copy == "all" || c.replica == copy));
        if repo == "all" && copy == "all" {
            let mut names: Vec<String> = copies.into_iter().map(|c| c.repo + "\n").collect();
            names.dedup();
            return Ok(Reply::done(names.concat()));
        }
        let told = |c: &super::status::Copy| {
            let since = c.since_seconds.map_or_else(String::new, |s| in_words(Duration::from_secs(s)));
            format!(
                "WARNING: the copy of '{}' on {} is not in step ({}, {since}): {}\n",
                c.repo, c.replica, c.state, c.text
            )
        };
        Ok(Reply::done(copies.iter().map(told).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_order_is_about() {
        let words = |line: &'static str| line.split(' ').collect::<Vec<_>>();
        let about = |line| {
            let words = words(line);
            changed_repo(words[0], &words[1..])
        };
        for line in [
            "push a",
            "push server2 a --force",
            "repair server2 a",
            "wait a",
            "wait a main --peer server2 --timeout 5m",
            "wait --count 2 a",
            "pause a --peer server2 --reason disk",
            "resume a",
        ] {
            assert_eq!(about(line), Some("a"), "{line}");
        }
        for line in ["pause --all", "resume --all --peer a", "pause a --all", "wait", "push a --count 2", "verify a"] {
            assert_eq!(about(line), None, "{line}");
        }
        let seconds = |line| wait_timeout(&words(line)).as_secs();
        assert_eq!((seconds("a"), seconds("a --timeout 30m"), seconds("a --timeout=100h")), (60, 1800, 3600));
    }
}

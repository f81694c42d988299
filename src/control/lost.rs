//! `mirror lost`: what one node alone had when its copy was overwritten, and is kept aside until a person has looked.
//!
//! To look at it, or to bring it back, takes no command of ours: git fetches an object by its id from whoever may read
//! the repository (protocol version 2), and pushes it under a name. To let go of it is an order: the master passes it on,
//! since the node that had it keeps it too; a node takes that from the master of its copy alone, under its epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::orders::{Words, wrong};
use super::status::Which;
use super::{Control, Reply, forward, help, parse_repo};
use crate::cluster::Place;
use crate::model::{Actor, Epoch, HostName, Oid, RefName, RepoName};
use crate::repo::Lost;

/// The exec line's first word by which a master has its copies let go of what it has let go of; lines `OID NAME` follow.
pub(super) const DROP: &str = "gitmesh-lost-drop";
/// Another node answers at once, or is told to do it by itself.
const PATIENCE: Duration = Duration::from_secs(10);
const LIST_MAX: u64 = 16 << 20;
/// Names that are told one by one where a person did not ask for all.
const NAMED: usize = 20;

/// One kept reference as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Kept {
    pub repo: String,
    /// Who alone had it.
    node: String,
    /// When it was kept, UTC.
    time: String,
    /// What it was, without `refs/`.
    was: String,
    name: String,
    oid: String,
    /// The master does not have it yet.
    waiting: bool,
}

impl Kept {
    fn of(repo: &RepoName, lost: &Lost, waiting: &BTreeSet<(RepoName, RefName)>) -> Option<Self> {
        let (node, time, was) = lost.parts()?;
        Some(Self {
            repo: repo.to_string(),
            node: node.to_owned(),
            time: time.to_owned(),
            was: was.to_owned(),
            name: lost.name.to_string(),
            oid: lost.oid.to_string(),
            waiting: waiting.contains(&(repo.clone(), lost.name.clone())),
        })
    }
}

/// A line for each repository in which something is kept, for whoever asks about more than these.
pub(super) fn told(kept: &[Kept]) -> String {
    let mut repos: BTreeMap<&str, (usize, usize, BTreeSet<&str>)> = BTreeMap::new();
    for one in kept {
        let (count, waiting, nodes) = repos.entry(&one.repo).or_default();
        *count += 1;
        *waiting += usize::from(one.waiting);
        nodes.insert(&one.node);
    }
    let mut out = String::new();
    for (repo, (count, waiting, nodes)) in repos.iter().take(NAMED) {
        let nodes = nodes.iter().copied().collect::<Vec<_>>().join(" or ");
        let what = if *count == 1 { "1 reference" } else { &format!("{count} references") };
        let way = if *waiting == 0 { String::new() } else { format!(", {waiting} not yet on the master") };
        writeln!(out, "{repo}: {what} that only {nodes} had, kept aside{way}: mirror lost list {repo}")
            .expect("a string takes all");
    }
    if repos.len() > NAMED {
        writeln!(out, "... and {} more repositories: mirror lost list", repos.len() - NAMED)
            .expect("a string takes all");
    }
    out
}

/// Each of them, a line.
pub(super) fn lines(kept: &[Kept]) -> String {
    let line = |one: &Kept| {
        let way = if one.waiting { ", not yet on the master" } else { "" };
        format!("{}\t{}\t{}\tonly {} had it{way}\n", one.repo, one.name, one.oid, one.node)
    };
    kept.iter().map(line).collect()
}

fn parse(lines: &str) -> Option<Vec<Lost>> {
    let line = |line: &str| {
        let (oid, name) = line.split_once(' ')?;
        Some(Lost { name: RefName::parse(name)?, oid: Oid::parse(oid)? })
    };
    lines.lines().map(line).collect()
}

impl Control {
    /// What is kept in the repositories that are asked for. Reads directories.
    pub(super) fn lost(&self, wanted: &dyn Fn(&RepoName) -> bool) -> Result<Vec<Kept>, Reply> {
        let waiting = self.mirror.lost_waiting();
        let mut kept = Vec::new();
        for repo in self.list()?.into_iter().filter(wanted) {
            match self.store.lost(&repo) {
                Ok(lost) => kept.extend(lost.iter().filter_map(|lost| Kept::of(&repo, lost, &waiting))),
                Err(error) => tracing::warn!(%error, %repo, "what is kept in it cannot be read"),
            }
        }
        kept.sort_by(|a, b| (&a.repo, &a.name).cmp(&(&b.repo, &b.name)));
        Ok(kept)
    }

    /// As [`Control::lost`], of what needs a person: what an upstream takes back was never a promise of ours.
    pub(super) fn lost_here(&self, wanted: &dyn Fn(&RepoName) -> bool) -> Result<Vec<Kept>, Reply> {
        self.lost(&|repo| wanted(repo) && self.mirror.upstream_of(repo).is_none())
    }

    /// `lost list [REPO|PATTERN] [--json]` and `lost drop REPO NAME...|--all`.
    pub(super) async fn lost_command(&self, actor: &Actor, words: &[&str]) -> Result<Reply, Reply> {
        match *words {
            ["list", ref rest @ ..] => {
                let words = Words::parse(rest, &["--json"]).map_err(|why| wrong("lost", &why))?;
                let which = match words.plain[..] {
                    [] => Which::All,
                    [word] => Which::parse(self, Some(word))?,
                    _ => return Err(help::wrong(&["mirror", "lost"])),
                };
                let json = words.json;
                Ok(self.blocking(actor, move |c, a| c.lost_list(a, &which, json).unwrap_or_else(|e| e)).await)
            }
            ["drop", ref rest @ ..] => self.lost_drop(actor, rest).await,
            _ => Err(help::wrong(&["mirror", "lost"])),
        }
    }

    fn lost_list(&self, actor: &Actor, which: &Which, json: bool) -> Result<Reply, Reply> {
        let kept = self.lost(&|repo| which.has(repo) && self.realm.rights(actor, repo).0)?;
        if json {
            let node = self.node.name.as_str();
            let document = serde_json::json!({"schema": "gitmesh.mirror.lost/1", "node": node, "lost": kept});
            return Ok(Reply::done(document.to_string() + "\n"));
        }
        let err = match kept.first() {
            None => "nothing is kept aside in repositories that you may read\n".to_owned(),
            Some(Kept { repo, oid, .. }) => format!(
                "to bring one back, in any clone of it: git fetch URL-OF-{repo} {oid} && git push URL-OF-{repo} \
                 FETCH_HEAD:refs/heads/NAME\nto let go of it: mirror lost drop {repo} NAME...|--all\n"
            ),
        };
        Ok(Reply { out: lines(&kept), err, code: 0 })
    }

    async fn lost_drop(&self, actor: &Actor, words: &[&str]) -> Result<Reply, Reply> {
        self.administers(actor, "to let go of what is kept aside")?;
        let words = Words::parse(words, &["--all"]).map_err(|why| wrong("lost", &why))?;
        let (repo, names) = match (&words.plain[..], words.all) {
            ([repo], true) => (parse_repo(repo)?, None),
            ([repo, names @ ..], false) if !names.is_empty() => (parse_repo(repo)?, Some(names)),
            _ => return Err(help::wrong(&["mirror", "lost"])),
        };
        let mut unwanted = self.store.lost(&repo).map_err(|error| {
            tracing::error!(%error, %repo, "what is kept in it cannot be read");
            Reply::fail(1, format!("FATAL: the references of '{repo}' cannot be read"))
        })?;
        if let Some(names) = names {
            let short = |lost: &Lost| lost.name.as_str().strip_prefix("refs/gitmesh/lost/").map(str::to_owned);
            let is = |lost: &Lost, name: &str| lost.name.as_str() == name || short(lost).as_deref() == Some(name);
            if let Some(unknown) = names.iter().find(|name| !unwanted.iter().any(|lost| is(lost, name))) {
                let help = format!("'mirror lost list {repo}' names what is kept here");
                return Err(Reply::fail(4, format!("FATAL: nothing is kept as '{unknown}' in '{repo}'\nhelp: {help}")));
            }
            unwanted.retain(|lost| names.iter().any(|name| is(lost, name)));
        }
        if unwanted.is_empty() {
            return Err(Reply::fail(4, format!("FATAL: nothing is kept aside in '{repo}' on {}", self.node.name)));
        }
        let dropped = {
            let (repo, by, unwanted) = (repo.clone(), actor.to_string(), unwanted.clone());
            self.blocking(actor, move |c, _| c.let_go(&repo, &unwanted, &by)).await
        };
        if dropped.code != 0 {
            return Err(dropped);
        }
        let mut text = format!("{} has let go of {} in '{repo}'\n", self.node.name, counted(unwanted.len()));
        match self.cluster.locate(&repo) {
            Place::Here { .. } => {
                let list: String = unwanted.iter().map(|lost| format!("{} {}\n", lost.oid, lost.name)).collect();
                let mut tasks = JoinSet::new();
                for peer in self.cluster.partners(&repo) {
                    let (me, repo, list) = (self.clone(), repo.clone(), list.clone());
                    tasks.spawn(async move {
                        let answer = me.have_dropped(&peer, &repo, &list).await;
                        answer.unwrap_or_else(|why| {
                            format!(
                                "{peer} could not be told ({why}), and keeps what it has: 'mirror lost drop {repo}' there\n"
                            )
                        })
                    });
                }
                let mut told = tasks.join_all().await;
                told.sort();
                text.extend(told);
            }
            Place::There { master, .. } => {
                writeln!(text, "its master, {master}, may keep it too: 'mirror lost drop {repo}' there")
                    .expect("a string takes all");
            }
            Place::Elsewhere => {}
        }
        Ok(Reply::done(text))
    }

    /// Has another node let go of the same. What it says, or why it could not be told.
    async fn have_dropped(&self, peer: &HostName, repo: &RepoName, list: &str) -> Result<String, String> {
        let asked = async {
            let line = format!("{DROP} '{repo}' version=1 epoch={}", self.cluster.epoch(repo));
            let pipe = self.links.run(peer, &line).await.map_err(|e| e.to_string())?;
            Ok::<_, String>(forward::converse(pipe, list.as_bytes()).await)
        };
        let (out, finished) =
            timeout(PATIENCE, asked).await.map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()))??;
        match (finished.failure, finished.exit) {
            (None, Some(0)) => Ok(out),
            (Some(error), _) => Err(error.to_string()),
            (None, _) => Err(finished.stderr.trim().to_owned()),
        }
    }

    /// The master of a copy here has let go of what it kept.
    pub(super) async fn drop_ordered(
        &self,
        actor: &Actor,
        words: &[&str],
        input: impl AsyncRead + Unpin + Send,
    ) -> Reply {
        let Actor::Node(from) = actor else {
            return Reply::fail(5, "FATAL: this is told by the nodes of the mesh only");
        };
        let epoch = words.get(2).and_then(|word| Epoch::parse(word.strip_prefix("epoch=")?));
        let (&[repo, "version=1", _], Some(epoch)) = (words, epoch) else {
            return Reply::fail(2, format!("FATAL: {} knows {DROP} REPO version=1 epoch=N only", self.node.name));
        };
        let repo = match parse_repo(repo) {
            Ok(repo) => repo,
            Err(reply) => return reply,
        };
        if let Err(denial) = self.realm.authorize_mirror(from, &repo, None) {
            return Reply::fail(5, denial.to_string());
        }
        let mut list = String::new();
        let Ok(Ok(_)) = timeout(PATIENCE, input.take(LIST_MAX).read_to_string(&mut list)).await else {
            return Reply::fail(8, "FATAL: the list did not end");
        };
        let Some(unwanted) = parse(&list) else { return Reply::fail(2, "FATAL: the list is not one of references") };
        let from = from.to_string();
        self.blocking(actor, move |c, _| match c.promise(&repo, epoch) {
            Ok(()) => c.let_go(&repo, &unwanted, &from),
            Err(reply) => reply,
        })
        .await
    }

    /// Lets go of it here. Says what was here; nothing if it was not. Blocks.
    fn let_go(&self, repo: &RepoName, unwanted: &[Lost], by: &str) -> Reply {
        match self.store.drop_lost(repo, unwanted) {
            Ok(gone) if gone.is_empty() => Reply::default(),
            Ok(gone) => {
                let names: Vec<&RefName> = gone.iter().map(|lost| &lost.name).collect();
                for Lost { name, oid } in &gone {
                    tracing::info!(%repo, reference = %name, %oid, by, "let go of what was kept aside");
                }
                self.mirror.lost_dropped(repo, &names, by);
                Reply::done(format!("{} has let go of {} in '{repo}'\n", self.node.name, counted(gone.len())))
            }
            Err(error) => {
                tracing::error!(%error, %repo, "what is kept aside cannot be deleted");
                Reply::fail(1, format!("FATAL: {} cannot delete references of '{repo}'", self.node.name))
            }
        }
    }
}

fn counted(n: usize) -> String {
    if n == 1 { "1 kept reference".to_owned() } else { format!("{n} kept references") }
}

//! The control plane: everything asked or ordered that is not git.
//!
//! One grammar for every door: `ssh git@host info` and a command typed on the machine are the same words and get the
//! same answer. Promises: each command answers within its deadline; a refusal says the cure. Never: pack data, doors.

mod access;
mod forward;
mod info;
mod mirror;
mod perms;

use std::sync::Arc;

use tokio::io::AsyncRead;

use crate::admin::Realm;
use crate::cluster::Cluster;
use crate::git::service::repo_of_path;
use crate::mirror::Mirror;
use crate::model::{Actor, Fingerprint, HostName, RepoName};
use crate::peer::Links;
use crate::repo::Store;

/// Everything that commands ask. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    pub realm: Realm,
    pub cluster: Cluster,
    pub links: Links,
    pub store: Store,
    pub mirror: Mirror,
    pub node: Arc<Node>,
}

/// What this node says of itself.
#[derive(Debug)]
pub struct Node {
    pub name: HostName,
    /// The login name of clone URLs, `git`.
    pub user: String,
    pub git_version: String,
    pub key: Fingerprint,
}

/// A command's whole answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reply {
    pub out: String,
    pub err: String,
    /// 0 done, 1 failed, 2 usage, 4 not found, 5 not allowed, 7 peer unreachable, 8 timed out.
    pub code: i32,
}

impl Reply {
    fn done(out: String) -> Self {
        Self { out, ..Self::default() }
    }

    fn fail(code: i32, err: impl Into<String>) -> Self {
        Self { out: String::new(), err: format!("{}\n", err.into()), code }
    }
}

/// The commands, with what `help` says of each.
const COMMANDS: &[(&str, &str)] = &[
    ("create REPO", "make a repository where a C stands in 'info'; a clone or push does so too"),
    ("help", "this list"),
    ("info [-lc] [-ld] [-p] [PATTERN]", "who you are here, and your repositories with your rights"),
    ("access REPO USER [PERM [REF]] [--explain] [--json]", "may they, and which rule says so"),
    ("perms REPO -l | -lr | + ROLE USER | - ROLE USER", "the roles that you give in a repository you made"),
    ("whoami", "the user, key and node of this connection"),
    ("mirror status | push PEER REPO | request-push REPO", "where the copies stand; bring one up to date now"),
];

impl Control {
    /// Runs one command. `from` is the caller's address, for `whoami`; `input` is what the caller types or sends,
    /// which few commands read.
    pub async fn run(
        &self,
        actor: &Actor,
        words: &[String],
        from: &str,
        input: impl AsyncRead + Unpin + Send,
    ) -> Reply {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match changed_repo(&words).and_then(|repo| self.carried_to(actor, repo)) {
            Some(to) => self.forward(actor, to, &words, from, input).await,
            None => self.carry_out(actor, &words, from, input).await,
        }
    }

    /// Carries a command out on this node.
    async fn carry_out(
        &self,
        actor: &Actor,
        words: &[&str],
        from: &str,
        input: impl AsyncRead + Unpin + Send,
    ) -> Reply {
        match *words {
            [] => self.blocking(actor, |c, a| c.info(a, &info::Options::default())).await,
            ["info", ref rest @ ..] => match info::Options::parse(rest) {
                Ok(options) => self.blocking(actor, move |c, a| c.info(a, &options)).await,
                Err(reply) => reply,
            },
            ["create", repo] => self.create(actor, repo).await,
            ["perms", ref rest @ ..] => self.perms(actor, rest, input).await,
            ["help"] | ["help", _] | ["-h"] | ["--help"] => self.help(actor),
            ["access", ref rest @ ..] => match access::Question::parse(rest) {
                Ok(question) => self.blocking(actor, move |c, a| c.access(a, &question)).await,
                Err(usage) => usage,
            },
            ["whoami"] => self.whoami(actor, from),
            ["gitmesh-mirror-digests", version] => {
                let version = version.to_owned();
                self.blocking(actor, move |c, a| c.digests(a, &version)).await
            }
            ["gitmesh-mirror-fsck", version, repo] => self.fsck(actor, version, repo).await,
            ["mirror", ref rest @ ..] => self.mirror_command(actor, rest).await,
            // gitolite 2's spelling
            ["request-push", ref rest @ ..] => self.mirror_command(actor, &[&["request-push"], rest].concat()).await,
            ref other => {
                let command = other.join(" ").chars().take(200).collect::<String>();
                let login = format!("{}@{}", self.node.user, self.node.name);
                Reply::fail(
                    2,
                    format!(
                        "FATAL: unknown git/gitolite command: '{command}'\nhelp: 'ssh {login} help' lists the commands; there is no shell here"
                    ),
                )
            }
        }
    }

    /// A node has logged in: whatever waits for it need not wait longer.
    pub fn node_seen(&self, node: &HostName) {
        self.mirror.peer_seen(node);
    }

    /// Listing reads directories; it must not hold up the connections of others.
    async fn blocking(&self, actor: &Actor, work: impl FnOnce(&Self, &Actor) -> Reply + Send + 'static) -> Reply {
        let (me, actor) = (self.clone(), actor.clone());
        tokio::task::spawn_blocking(move || work(&me, &actor)).await.unwrap_or_else(|error| {
            tracing::error!(%error, "a command panicked");
            Reply::fail(70, "the server has a problem of its own; tell an administrator")
        })
    }

    fn help(&self, actor: &Actor) -> Reply {
        let mut out = self.greeting(actor);
        out.push_str("\nlist of remote commands available:\n\n");
        for (command, what) in COMMANDS {
            out.push_str(&format!("\t{command:<52} {what}\n"));
        }
        out.push('\n');
        Reply::done(out)
    }

    fn whoami(&self, actor: &Actor, from: &str) -> Reply {
        let mut out = match actor {
            Actor::User { name, key } => format!("user: {name}\nkey: {key}\n"),
            Actor::Node(name) => format!("node: {name}\n"),
            Actor::Local => "user: local (this machine)\n".to_owned(),
        };
        if self.realm.may_administer(actor) {
            out.push_str("administrator: yes\n");
        }
        out.push_str(&format!("from: {from}\nserver: {} ({})\n", self.node.name, self.node.key));
        Reply::done(out)
    }
}

/// The repository that a command changes. Such a command is carried out on that repository's master, so each new one
/// belongs in here; what is left out is carried out where it was asked.
fn changed_repo<'a>(words: &[&'a str]) -> Option<&'a str> {
    match *words {
        ["create", repo] | ["request-push", repo] | ["mirror", "request-push", repo] => Some(repo),
        ["perms", ref rest @ ..] => perms::changed_repo(rest),
        _ => None,
    }
}

fn parse_repo(text: &str) -> Result<RepoName, Reply> {
    repo_of_path(text).map_err(|error| Reply::fail(2, format!("FATAL: {error}")))
}

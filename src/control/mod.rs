//! The control plane: everything asked or ordered that is not git.
//!
//! One grammar for every door: `ssh git@host info` and a command typed on the machine are the same words and get the
//! same answer. Promises: each command answers within its deadline; a refusal says the cure. Never: pack data, doors.

mod absent;
mod access;
mod audit;
mod catalog;
mod commit;
pub mod doctor;
mod explain;
mod fork;
mod forward;
mod group;
mod handover;
mod head;
mod help;
mod info;
mod key_changes;
mod keys;
mod live;
mod lock;
mod lost;
mod metrics;
mod mirror;
mod naming;
mod orders;
mod overview;
pub mod peer;
mod perms;
mod promote;
mod pushed;
mod settings;
mod status;
mod sudo;
mod switches;
mod texts;
mod trash;
mod typed;
mod upkeep;
mod user;
mod verify;
mod watch;
mod writable;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::sync::watch::Receiver;
use tokio_util::sync::CancellationToken;

use crate::admin::{Admin, Denial, KeyDesk, Realm, Text};
use crate::audit::Audit;
use crate::cluster::Cluster;
use crate::durable;
use crate::git::service::repo_of_path;
use crate::mirror::{HEARTBEAT, LOCKS, MASTERS, MOVE, Mirror, PAPERS, TRASH};
use crate::model::{Actor, Fingerprint, HostName, RepoName};
use crate::peer::Links;
use crate::repo::{Pass, Store, Task, Upkeep};
pub use explain::{explain, stories};
pub use help::{manual, nouns, usage};
pub use info::info_lines;
pub use live::{Live, at_a_terminal};
pub use promote::UNCONFIRMED;
pub use typed::reads_input;

/// Everything that commands ask. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    pub realm: Realm,
    pub admin: Admin,
    /// Keys on their way into the configuration.
    pub key_desk: KeyDesk,
    pub cluster: Cluster,
    pub links: Links,
    pub store: Store,
    pub mirror: Mirror,
    pub peering: peer::Peering,
    pub node: Arc<Node>,
    /// How long what is in the trash stays there.
    pub trash_keep: Receiver<Duration>,
    pub upkeep: Upkeep,
    pub audit: Audit,
    /// Cancelled when the node begins to stop: whoever watches is sent away.
    pub stopping: CancellationToken,
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
    /// 0 done, 1 failed, 2 usage, 3 to be confirmed with --yes, 4 not found, 5 not allowed, 7 peer unreachable, 8 timed out.
    pub code: i32,
}

impl Reply {
    fn done(out: String) -> Self {
        Self { out, ..Self::default() }
    }

    fn fail(code: i32, err: impl Into<String>) -> Self {
        Self { out: String::new(), err: format!("{}\n", err.into()), code }
    }

    /// `what` could not be done; the log has the error.
    fn broken(what: &str, error: &(dyn Error + 'static)) -> Self {
        let (mut said, mut source) = (error.to_string(), error.source());
        while let Some(error) = source {
            said.push_str(&format!(": {error}"));
            source = error.source();
        }
        match durable::trouble(&said) {
            Some(trouble) => Self::fail(70, format!("FATAL: {what}: {trouble}")),
            None => Self::fail(70, format!("FATAL: {what}; tell an administrator")),
        }
    }

    fn denied(denial: &Denial) -> Self {
        Self::fail(5, denial.to_string())
    }

    /// What leaves this room as a refusal has a code and a cure: of its own, or those of its exit code.
    fn code_refusal(&mut self) {
        let refused = self.err.starts_with("FATAL: ") || matches!(self.code, 2 | 5 | 70);
        if self.code == 0 || self.code == i32::from(UNCONFIRMED) || !refused {
            return;
        }
        let code = match self.code {
            2 => Denial::NOT_UNDERSTOOD,
            4 => Denial::NOT_FOUND,
            5 => Denial::NOT_FOR_USERS,
            6 => Denial::EXISTS,
            7 | 8 => Denial::AWAY,
            70 => Denial::INTERNAL,
            _ => Denial::FAILED,
        };
        self.err = format!("{}\n", Denial::coded(code, &self.err));
    }
}

impl Control {
    /// Runs one command. `from` is the caller's address, for `whoami`; `input` is what the caller types or sends,
    /// which few commands read; `live` takes what a command says before its end.
    pub async fn run(
        &self,
        actor: &Actor,
        words: &[String],
        from: &str,
        input: impl AsyncRead + Unpin + Send,
        live: Live,
    ) -> Reply {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut reply = match self.switched_off(actor, &words) {
            Some(refusal) => refusal,
            None => self.answer(actor, &words, from, input, live).await,
        };
        reply.code_refusal();
        self.note_command(actor, &words, from, None, &reply);
        if matches!(actor, Actor::User { .. }) {
            // As in gitolite: whoever comes reads the node's message.
            reply.err.insert_str(0, &self.realm.node_motd());
        }
        reply
    }

    async fn answer(
        &self,
        actor: &Actor,
        words: &[&str],
        from: &str,
        input: impl AsyncRead + Unpin + Send,
        live: Live,
    ) -> Reply {
        let changed = changed_repo(words);
        if let Some(repo) = changed.and_then(|repo| parse_repo(repo).ok()) {
            self.settled(actor, &repo).await;
            if !is_about_copies(words) && self.store.gates().is_closed(&repo) {
                return Reply::fail(1, Denial::moving(&repo).to_string());
            }
        }
        match changed.and_then(|repo| self.carried_to(actor, repo, words)) {
            Some(to) => self.forward(actor, to, words, from, input).await,
            None => self.carry_out(actor, words, from, input, &live).await,
        }
    }

    /// Who was the master before this start may be one no more, and is told so in its first moments.
    async fn settled(&self, actor: &Actor, repo: &RepoName) {
        let asking = if let Actor::User { name, .. } = actor { Some(name) } else { None };
        if !self.cluster.locate_for(repo, asking).replicas().is_empty() {
            self.mirror.settled().await;
        }
    }

    /// While this is held the repository is not handed over: who hands it over waits for it, as for a push.
    fn pass(&self, repo: &RepoName) -> Result<Pass, Reply> {
        self.store.gates().pass(repo).ok_or_else(|| Reply::fail(1, Denial::moving(repo).to_string()))
    }

    /// Carries a command out on this node.
    async fn carry_out(
        &self,
        actor: &Actor,
        words: &[&str],
        from: &str,
        input: impl AsyncRead + Unpin + Send,
        live: &Live,
    ) -> Reply {
        // One that reads what somebody types passes when it has read it; one that waits for copies changes nothing.
        let waits = reads_input(words) || is_about_copies(words);
        let passing = changed_repo(words).filter(|_| !waits).and_then(|repo| parse_repo(repo).ok());
        let _pass = match passing.map(|repo| self.pass(&repo)).transpose() {
            Ok(pass) => pass,
            Err(reply) => return reply,
        };
        self.answer_here(actor, words, from, input, live).await
    }

    async fn answer_here(
        &self,
        actor: &Actor,
        words: &[&str],
        from: &str,
        input: impl AsyncRead + Unpin + Send,
        live: &Live,
    ) -> Reply {
        match *words {
            ["help"] | ["-h"] | ["--help"] => Reply::done(self.greeting(actor) + &help::list(&self.switches(actor))),
            ["help", ref about @ ..] => help::about(about),
            [ref about @ .., "-h" | "--help"] if help::usage(about).is_some() => help::about(about),
            [] => self.blocking(actor, |c, a| c.info(a, &info::Options::default())).await,
            ["info", ref rest @ ..] => match info::Options::parse(rest) {
                Ok(options) => self.blocking(actor, move |c, a| c.info(a, &options)).await,
                Err(reply) => reply,
            },
            ["create", repo] => self.create(actor, repo).await,
            ["perms", ref rest @ ..] => self.perms(actor, rest, input).await,
            ["lock", ref rest @ ..] => self.lock(actor, rest).await,
            ["D", ref rest @ ..] => self.deletion(actor, rest).await,
            ["desc", ref rest @ ..] => self.texts(actor, Text::Description, rest, input).await,
            ["readme", ref rest @ ..] => self.texts(actor, Text::Readme, rest, input).await,
            ["motd", ref rest @ ..] => self.texts(actor, Text::Motd, rest, input).await,
            ["writable", ref rest @ ..] => self.writable(actor, rest, input).await,
            ["fork", ref rest @ ..] => self.fork(actor, rest).await,
            ["symbolic-ref", ref rest @ ..] => self.symbolic_ref(actor, rest).await,
            ["git-config", ref rest @ ..] => self.git_config(actor, rest, input).await,
            ["who-pushed", ref rest @ ..] => self.who_pushed(actor, rest).await,
            ["audit", ref rest @ ..] => self.audit_command(actor, rest, live).await,
            ["creator", ref rest @ ..] => self.creator(actor, rest).await,
            ["owns", ref rest @ ..] => self.owns(actor, rest).await,
            ["keys", ref rest @ ..] => self.keys(actor, rest, from, input).await,
            ["sudo", ref rest @ ..] => self.sudo(actor, rest, from, input, live).await,
            ["repo", "gc", ref which @ ..] => self.maintain(actor, Task::Gc, which, live).await,
            ["repo", "fsck", ref which @ ..] => self.maintain(actor, Task::Fsck, which, live).await,
            ["repo", order @ ("list" | "show"), ref rest @ ..] => self.catalog(actor, order, rest).await,
            ["repo", ref rest @ ..] => self.repo_order(actor, rest, from).await,
            ["user", ref rest @ ..] => self.user_command(actor, rest).await,
            ["group", ref rest @ ..] => self.group_command(actor, rest).await,
            ["access", ref rest @ ..] => self.access(actor, rest, input).await,
            ["explain", ref rest @ ..] => explain(rest),
            ["status", ref rest @ ..] => self.overview(actor, rest, live).await,
            ["metrics", ref rest @ ..] => self.metrics(actor, rest).await,
            ["events", ref rest @ ..] => self.events(actor, rest, live).await,
            ["whoami"] => self.whoami(actor, from, false),
            ["whoami", "--json"] => self.whoami(actor, from, true),
            [HEARTBEAT, ref rest @ ..] => self.heartbeat(actor, rest, input).await,
            [MASTERS, ref rest @ ..] => self.masters(actor, rest, input).await,
            ["gitmesh-mirror-digests", version] => {
                let version = version.to_owned();
                self.blocking(actor, move |c, a| c.digests(a, &version)).await
            }
            [beside @ (LOCKS | PAPERS), ref rest @ ..] => self.take_beside(actor, beside == LOCKS, rest, input).await,
            [TRASH | MOVE, ..] => self.ordered(actor, words).await,
            [orders::REQUEST, ref rest @ ..] => self.requested(actor, rest).await,
            [promote::STANDING, version] => self.standing(actor, version, input).await,
            [lost::DROP, ref rest @ ..] => self.drop_ordered(actor, rest, input).await,
            [handover::TAKE, ref rest @ ..] => self.take(actor, rest).await,
            ["gitmesh-mirror-fsck", version, repo] => self.fsck(actor, version, repo).await,
            ["gitmesh-call-back", version] => self.call_back(actor, version).await,
            ["doctor", ref rest @ ..] => self.doctor(actor, rest).await,
            ["gitmesh-doctor", "version=1", of] if of.starts_with("of=") => self.doctor_relay(actor, &of[3..]).await,
            ["gitmesh-doctor", version] => self.doctor_view(actor, version).await,
            ["peer", ref rest @ ..] => self.peer_command(actor, rest).await,
            ["mirror", ref rest @ ..] => self.mirror_command(actor, rest, live).await,
            // gitolite 2's spelling
            ["request-push", ref rest @ ..] => {
                self.mirror_command(actor, &[&["request-push"], rest].concat(), live).await
            }
            ref other => {
                let command = other.join(" ").chars().take(200).collect::<String>();
                let login = format!("{}@{}", self.node.user, self.node.name);
                let instead = other.first().and_then(|command| absent::instead(command));
                let instead = instead.map_or_else(String::new, |text| format!("{text}\n      "));
                Reply::fail(
                    2,
                    format!(
                        "FATAL: unknown git/gitolite command: '{command}'\nhelp: {instead}'ssh {login} help' lists the commands; there is no shell here"
                    ),
                )
            }
        }
    }

    /// A node has logged in: whatever waits for it need not wait longer.
    pub fn node_seen(&self, node: &HostName) {
        self.mirror.peer_seen(node);
    }

    fn list(&self) -> Result<Vec<RepoName>, Reply> {
        self.store.list().map_err(|error| {
            tracing::error!(%error, "cannot list the repositories");
            Reply::fail(1, "FATAL: the repositories cannot be listed; tell an administrator")
        })
    }

    /// Listing reads directories; it must not hold up the connections of others.
    async fn blocking(&self, actor: &Actor, work: impl FnOnce(&Self, &Actor) -> Reply + Send + 'static) -> Reply {
        let (me, actor) = (self.clone(), actor.clone());
        tokio::task::spawn_blocking(move || work(&me, &actor)).await.unwrap_or_else(|error| {
            tracing::error!(%error, "a command panicked");
            Reply::fail(70, "the server has a problem of its own; tell an administrator")
        })
    }

    fn whoami(&self, actor: &Actor, from: &str, json: bool) -> Reply {
        if json {
            let (user, key, node) = match actor {
                Actor::User { name, key, .. } => (Some(name.as_str()), Some(key.as_str()), None),
                Actor::Node(name) => (None, None, Some(name.as_str())),
                Actor::Local => (Some("local"), None, None),
            };
            let mut told = serde_json::json!({
                "schema": "gitmesh.whoami/1", "user": user, "key": key, "node": node,
                "administrator": self.realm.may_administer(actor), "from": from,
                "server": self.node.name.as_str(), "server_key": self.node.key.as_str(),
            });
            if let Some(certificate) = certificate_of(actor) {
                told["certificate"] = certificate;
            }
            return Reply::done(format!("{told}\n"));
        }
        let mut out = match actor {
            Actor::User { name, key, by: None } => format!("user: {name}\nkey: {key}\n"),
            Actor::User { name, key, by: Some(by) } => format!("user: {name}\nkey: {key}\ncertificate: {by}\n"),
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

/// The certificate by which somebody is known, for programs; `until` is null for one without an end.
fn certificate_of(actor: &Actor) -> Option<serde_json::Value> {
    let Actor::User { key, by: Some(by), .. } = actor else { return None };
    let until = (by.until < u64::MAX).then_some(by.until);
    Some(serde_json::json!({
        "key": key.as_str(), "id": by.id, "serial": by.serial, "ca": by.ca.as_str(), "until": until,
    }))
}

/// The repository that a command changes. Such a command is carried out on that repository's master, so each new one
/// belongs in here; what is left out is carried out where it was asked.
fn changed_repo<'a>(words: &[&'a str]) -> Option<&'a str> {
    match *words {
        ["create", repo] | ["request-push", repo, ..] => Some(repo),
        ["mirror", ref rest @ ..] => mirror::changed_repo(rest),
        ["perms", ref rest @ ..] => perms::changed_repo(rest),
        ["lock", ref rest @ ..] => lock::changed_repo(rest),
        ["D", ref rest @ ..] => trash::changed_repo(rest),
        ["desc", ref rest @ ..] => texts::changed_repo(Text::Description, rest),
        ["readme", ref rest @ ..] => texts::changed_repo(Text::Readme, rest),
        ["motd", ref rest @ ..] => texts::changed_repo(Text::Motd, rest),
        ["writable", ref rest @ ..] => writable::changed_repo(rest),
        ["symbolic-ref", ref rest @ ..] => head::changed_repo(rest),
        ["who-pushed", ref rest @ ..] => pushed::changed_repo(rest),
        ["keys", ref rest @ ..] => keys::changed_repo(rest),
        // The new one: what it is made from need only be readable there.
        ["fork", _, to] => Some(to),
        ["sudo", _, ref rest @ ..] if rest.first() != Some(&"sudo") => changed_repo(rest),
        ["repo", ref rest @ ..] => naming::changed_repo(rest),
        _ => None,
    }
}

/// Such a command changes nothing of a repository but where its copies stand, and may wait for them.
fn is_about_copies(words: &[&str]) -> bool {
    match *words {
        ["sudo", _, ref rest @ ..] if rest.first() != Some(&"sudo") => is_about_copies(rest),
        _ => matches!(words, ["request-push", ..] | ["mirror", ..]),
    }
}

fn parse_repo(text: &str) -> Result<RepoName, Reply> {
    repo_of_path(text).map_err(|error| Reply::fail(2, format!("FATAL: {error}")))
}

//! Where a command that changes a repository is carried out: on its master, to which a replica carries it under the
//! user's name where `mirror.redirectOK` lets it.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::{Control, Live, Reply, orders};
use crate::admin::{ADMIN_REPO, Denial};
use crate::cluster::Place;
use crate::git::service::{MAX_LINE, repo_of_path, to_word};
use crate::model::{Actor, HostName, RepoName, Voucher};
use crate::peer::{Finished, Pipe};

/// A carried command may take so long, its input included; one that waits for copies has its own time.
const PATIENCE: Duration = Duration::from_secs(660);
/// The answer may come so much later than the end of such a wait on the master.
const LATER: Duration = Duration::from_secs(60);
/// What a master may answer, in bytes.
const ANSWER_MAX: u64 = 1 << 20;
/// How long a command waits at its end for the replica it came through, so that the next question there sees it.
const FRESH: Duration = Duration::from_secs(2);

impl Control {
    /// The master to which a command on this repository goes on, if it is not for this node to carry out or to refuse.
    ///
    /// `words` are the command: what a user may do to the configuration (`keys`) needs no right in that repository.
    pub(super) fn carried_to(&self, actor: &Actor, repo: &str, words: &[&str]) -> Option<(RepoName, HostName)> {
        let Actor::User { name, .. } = actor else { return None };
        let repo = repo_of_path(repo).ok()?;
        let Place::There { master, redirect: true } = self.cluster.locate_for(&repo, Some(name)) else { return None };
        let own = repo.as_str() == ADMIN_REPO && words.first() == Some(&"keys");
        // Whoever knows nothing of it is refused here, in the words for what does not exist.
        let known = if own {
            true
        } else if self.store.exists(&repo) {
            self.realm.owns(actor, &repo) || self.realm.rights(actor, &repo).0 || self.realm.may_administer(actor)
        } else {
            self.realm.may_create(actor, &repo).is_err_and(|denial| denial.code == Denial::COPY)
                || self.realm.may_administer(actor)
        };
        known.then_some((repo, master))
    }

    /// Carries a command to the master; its answer is the command's.
    pub(super) async fn forward(
        &self,
        actor: &Actor,
        (repo, master): (RepoName, HostName),
        words: &[&str],
        from: &str,
        input: impl AsyncRead + Unpin + Send,
    ) -> Reply {
        let Actor::User { name, key, by } = actor else {
            return Reply::fail(5, "FATAL: only users' orders are carried");
        };
        let epoch = self.cluster.epoch(&repo);
        let voucher = Voucher { user: name.clone(), key: key.clone(), by: by.clone(), from: from.to_owned(), epoch };
        let quoted: String = words.iter().map(|word| format!(" '{}'", to_word(word))).collect();
        let line = format!("gitmesh-forward command {voucher} --{quoted}");
        if line.len() > MAX_LINE {
            return Reply::fail(2, format!("FATAL: the command is too long to be carried to {master}"));
        }
        let node = self.cluster.host();
        let pipe = match self.links.run(&master, &line).await {
            Ok(pipe) => pipe,
            Err(error) => {
                let denial = Denial::unreachable(node, &master, &repo, &error, self.links.down_for(&master));
                return Reply::fail(7, denial.to_string());
            }
        };
        let patience = self.patience(&repo, words);
        let why = match timeout(patience, converse(pipe, input)).await {
            Ok((out, Finished { exit: Some(code), stderr, failure: None })) => {
                return Reply { out, err: stderr, code: code.cast_signed() };
            }
            Ok((_, Finished { failure: Some(error), .. })) => error.to_string(),
            Ok(_) => format!("{master} hung up without an answer"),
            Err(_) => format!("no answer within {} s", patience.as_secs()),
        };
        tracing::warn!(user = %actor, %repo, %master, why, "a carried command was lost");
        let text = format!(
            "FATAL: {node} carried this to {master}, the master of '{repo}', and lost it: {why}\n  help: it may have been done or not; look, then ask again [{}]",
            Denial::UNREACHABLE
        );
        Reply::fail(7, text)
    }

    /// How long the master may take over a command.
    fn patience(&self, repo: &RepoName, words: &[&str]) -> Duration {
        match *words {
            ["sudo", _, ref rest @ ..] => self.patience(repo, rest),
            ["mirror", "wait", ref rest @ ..] => orders::wait_timeout(rest) + LATER,
            // One copy after the other.
            ["request-push", ..] | ["mirror", "push" | "repair" | "request-push", ..] => {
                let copies = u32::try_from(self.realm.place(repo).copies.len()).unwrap_or(u32::MAX);
                orders::PATIENCE.saturating_mul(copies.max(1)).saturating_add(LATER)
            }
            _ => PATIENCE,
        }
    }

    /// Carries out what another node carries here for one of its users, if that node is believed.
    pub async fn run_forwarded(
        &self,
        node: &HostName,
        voucher: &Voucher,
        words: &[String],
        input: impl AsyncRead + Unpin + Send,
    ) -> Reply {
        let actor = voucher.actor();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let Some(repo) = super::changed_repo(&words).and_then(|repo| repo_of_path(repo).ok()) else {
            return Reply::fail(2, "FATAL: only commands that change a repository are forwarded");
        };
        let believed = self.realm.believe(node, &actor, &repo);
        if let Err(denial) = believed.and_then(|()| self.realm.refuse_from(&actor, &voucher.from)) {
            return Reply::fail(5, denial.to_string());
        }
        self.settled(&actor, &repo).await;
        match self.cluster.locate_for(&repo, Some(&voucher.user)) {
            Place::Here { epoch, .. } if epoch >= voucher.epoch => {}
            place => {
                // One of the two has not heard yet of who the master is.
                self.mirror.ask_masters(node);
                let (here, code) = (self.cluster.host(), Denial::PAST);
                let master = match place {
                    Place::There { master, .. } => format!(", {master} is"),
                    _ => String::new(),
                };
                let text = format!("FATAL: {here} is no longer the master of '{repo}'{master}; {node} carried this");
                let help = "nothing has changed; the nodes tell each other, so try again in a few seconds";
                return Reply::fail(1, format!("{text}\n  help: {help} [{code}]"));
            }
        }
        tracing::info!(user = %actor, %repo, command = words[0], from = voucher.from, by = %node, "a forwarded command");
        let mut reply = self.carry_out(&actor, &words, &voucher.from, input, &Live::nobody()).await;
        reply.code_refusal();
        self.note_command(&actor, &words, &voucher.from, Some(node.as_str()), &reply);
        if reply.code != 0 {
            reply.err.push_str(&format!(
                "  node: {}, the master of '{repo}', to which {node} carried this\n",
                self.node.name
            ));
        } else if !super::is_about_copies(&words)
            && let Err(why) = self.mirror.let_know(&repo, node, FRESH).await
        {
            let text = format!(
                "warning: done on {}; {node}, through which it came, does not know it yet: {why}\n",
                self.node.name
            );
            reply.err.push_str(&text);
        }
        reply
    }
}

/// Gives the master what the user types or sends until it has answered.
pub(super) async fn converse(mut pipe: Pipe, mut input: impl AsyncRead + Unpin + Send) -> (String, Finished) {
    let (reader, writer) = (&mut pipe.reader, &mut pipe.writer);
    let up = async {
        let mut buffer = vec![0; 4096];
        while let Ok(n @ 1..) = input.read(&mut buffer).await {
            if writer.write_all(&buffer[..n]).await.is_err() {
                break;
            }
        }
        if let Err(error) = writer.shutdown().await {
            tracing::debug!(%error, "the end of a carried command could not be told");
        }
        std::future::pending::<()>().await
    };
    let mut answer = Vec::new();
    let mut limited = reader.take(ANSWER_MAX);
    tokio::select! {
        () = up => unreachable!("what the user says never ends a command"),
        // A link that breaks shows in how the command finished.
        read = limited.read_to_end(&mut answer) => drop(read),
    }
    (String::from_utf8_lossy(&answer).into_owned(), pipe.finish().await)
}

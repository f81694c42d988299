//! `desc`, `readme` and `motd`: texts beside a repository, in gitolite's forms.

use serde::Serialize;
use tokio::io::AsyncRead;

use super::typed::typed;
use super::{Control, Reply, help, parse_repo};
use crate::admin::{Text, TextError};
use crate::model::Actor;

/// gitolite's word for the whole node.
pub(super) const ALL: &str = "@all";

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Order<'a> {
    Show {
        repo: &'a str,
        json: bool,
    },
    /// The description's words.
    Say(&'a str, String),
    /// What is typed.
    Set(&'a str),
    Remove(&'a str),
}

fn parse<'a>(text: Text, words: &[&'a str]) -> Option<Order<'a>> {
    let order = match (text, words) {
        (_, [repo]) => Order::Show { repo, json: false },
        (_, [repo, "--json" | "-json"]) => Order::Show { repo, json: true },
        (Text::Description, [repo, words @ ..]) if words.iter().any(|word| !word.is_empty()) => {
            Order::Say(repo, words.join(" "))
        }
        (Text::Readme | Text::Motd, [repo, "set"]) => Order::Set(repo),
        (Text::Readme | Text::Motd, [repo, "rm"]) => Order::Remove(repo),
        _ => return None,
    };
    Some(order)
}

/// The repository that a line changes, for [`super::changed_repo`].
pub(super) fn changed_repo<'a>(text: Text, words: &[&'a str]) -> Option<&'a str> {
    match parse(text, words)? {
        Order::Show { .. } => None,
        Order::Say(repo, _) | Order::Set(repo) | Order::Remove(repo) => Some(repo).filter(|repo| *repo != ALL),
    }
}

pub(super) fn reads_input(words: &[&str]) -> bool {
    matches!(words, [_, "set"])
}

#[derive(Serialize)]
struct Report<'a> {
    schema: String,
    repo: &'a str,
    text: &'a str,
}

impl Control {
    pub(super) async fn texts(
        &self,
        actor: &Actor,
        text: Text,
        words: &[&str],
        input: impl AsyncRead + Unpin + Send,
    ) -> Reply {
        let Some(order) = parse(text, words) else { return help::wrong(&[text.command()]) };
        let (repo, new) = match order {
            Order::Show { repo, json } => return self.show(actor, text, repo, json).await,
            Order::Say(repo, new) => (repo, Some(new)),
            Order::Remove(repo) => (repo, None),
            Order::Set(repo) => match typed(input, text.longest()).await {
                Ok(new) => (repo, Some(new)),
                Err(why) => return Reply::fail(2, format!("FATAL: {why}")),
            },
        };
        if repo == ALL && text == Text::Motd {
            if let Err(reply) = self.administers(actor, "the node's message") {
                return reply;
            }
            return self.blocking(actor, move |c, _| changed(c.realm.set_node_motd(new.as_deref()))).await;
        }
        let repo = match parse_repo(repo) {
            Ok(repo) => repo,
            Err(reply) => return reply,
        };
        let _pass = match self.pass(&repo) {
            Ok(pass) => pass,
            Err(reply) => return reply,
        };
        self.blocking(actor, move |control, actor| {
            let reply = changed(control.realm.set_text(actor, &repo, text, new.as_deref()));
            if reply.code == 0 {
                control.mirror.mark(&repo);
            }
            reply
        })
        .await
    }

    async fn show(&self, actor: &Actor, text: Text, repo: &str, json: bool) -> Reply {
        if repo == ALL && text == Text::Motd {
            return Reply::done(told(text, ALL, &self.realm.node_motd(), json));
        }
        let repo = match parse_repo(repo) {
            Ok(repo) => repo,
            Err(reply) => return reply,
        };
        self.blocking(actor, move |control, actor| match control.realm.text(actor, &repo, text) {
            Ok(found) => Reply::done(told(text, repo.as_str(), &found, json)),
            Err(denial) => Reply::denied(&denial),
        })
        .await
    }
}

fn told(text: Text, repo: &str, found: &str, json: bool) -> String {
    if json {
        let report = Report { schema: format!("gitmesh.{}/1", text.command()), repo, text: found };
        return serde_json::to_string(&report).expect("texts can always be written") + "\n";
    }
    if found.is_empty() || found.ends_with('\n') { found.to_owned() } else { format!("{found}\n") }
}

pub(super) fn changed(done: Result<(), TextError>) -> Reply {
    match done {
        Ok(()) => Reply::default(),
        Err(TextError::Denied(denial)) => Reply::denied(&denial),
        Err(error @ TextError::TooLong(..)) => Reply::fail(2, format!("FATAL: {error}")),
        Err(TextError::Failed(error)) => {
            tracing::error!(%error, "a text cannot be written");
            Reply::broken("it cannot be written", &error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gitolites_forms() {
        let desc = |words: &[&'static str]| parse(Text::Description, words);
        assert_eq!(desc(&["a", "our", "tools"]), Some(Order::Say("a", "our tools".to_owned())));
        assert_eq!(desc(&["a"]), Some(Order::Show { repo: "a", json: false }));
        assert_eq!(desc(&["a", ""]), None);
        let motd = |words: &[&'static str]| parse(Text::Motd, words);
        assert_eq!(motd(&["@all", "set"]), Some(Order::Set("@all")));
        assert_eq!(motd(&["a", "rm"]), Some(Order::Remove("a")));
        assert_eq!((motd(&["a", "x"]), motd(&[]), motd(&["a", "set", "x"])), (None, None, None));
        assert_eq!(changed_repo(Text::Motd, &["@all", "set"]), None);
        assert_eq!(changed_repo(Text::Description, &["a", "x"]), Some("a"));
        assert_eq!(
            told(Text::Description, "a", "x", true),
            "{\"schema\":\"gitmesh.desc/1\",\"repo\":\"a\",\"text\":\"x\"}\n"
        );
    }
}

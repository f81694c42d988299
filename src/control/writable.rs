//! `writable`: pushes off for a while, with a word why, and on again. gitolite's forms.

use serde::Serialize;
use tokio::io::AsyncRead;

use super::texts::{ALL, changed};
use super::typed::typed;
use super::{Control, Reply, help, parse_repo};
use crate::admin::{MESSAGE_MAX, Scope};
use crate::model::{Actor, RepoName};

#[derive(Debug, PartialEq, Eq)]
enum Order {
    On,
    /// The message; without one it is typed.
    Off(Option<String>),
    Status {
        json: bool,
    },
}

fn parse<'a>(words: &[&'a str]) -> Option<(&'a str, Order)> {
    match *words {
        [repo, "on"] => Some((repo, Order::On)),
        [repo, "off"] => Some((repo, Order::Off(None))),
        [repo, "off", ref message @ ..] => Some((repo, Order::Off(Some(message.join(" "))))),
        [repo, "status"] => Some((repo, Order::Status { json: false })),
        [repo, "status", "--json"] => Some((repo, Order::Status { json: true })),
        _ => None,
    }
}

/// The repository of a line, for [`super::changed_repo`]: its master takes the pushes, so it is asked for the state too.
pub(super) fn changed_repo<'a>(words: &[&'a str]) -> Option<&'a str> {
    parse(words).map(|(repo, _)| repo).filter(|repo| *repo != ALL)
}

pub(super) fn reads_input(words: &[&str]) -> bool {
    matches!(parse(words), Some((_, Order::Off(None))))
}

#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    repo: &'a str,
    writable: bool,
}

impl Control {
    pub(super) async fn writable(&self, actor: &Actor, words: &[&str], input: impl AsyncRead + Unpin + Send) -> Reply {
        let Some((name, mut order)) = parse(words) else { return help::wrong(&["writable"]) };
        let repo = match (name, parse_repo(name)) {
            (ALL, _) => None,
            (_, Ok(repo)) => Some(repo),
            (_, Err(reply)) => return reply,
        };
        if order == Order::Off(None) {
            match typed(input, MESSAGE_MAX).await {
                Ok(message) => order = Order::Off(Some(message)),
                Err(why) => return Reply::fail(2, format!("FATAL: {why}")),
            }
        }
        let _pass = match repo.as_ref().map(|repo| self.pass(repo)).transpose() {
            Ok(pass) => pass,
            Err(reply) => return reply,
        };
        self.blocking(actor, move |control, actor| control.switch_pushes(actor, repo.as_ref(), &order)).await
    }

    /// The copies are told, so that one that becomes the master knows it.
    fn switched(&self, repo: Option<&RepoName>, reply: Reply) -> Reply {
        if let Some(repo) = repo.filter(|_| reply.code == 0) {
            self.mirror.mark(repo);
        }
        reply
    }

    fn switch_pushes(&self, actor: &Actor, repo: Option<&RepoName>, order: &Order) -> Reply {
        let scope = repo.map_or(Scope::Node, Scope::Repo);
        match order {
            Order::On => self.switched(repo, changed(self.realm.set_writable(actor, scope, None))),
            Order::Off(message) => {
                let message = message.as_deref().unwrap_or_default().trim();
                self.switched(repo, changed(self.realm.set_writable(actor, scope, Some(message))))
            }
            Order::Status { json } => match self.realm.is_writable(actor, scope) {
                Err(denial) => Reply::denied(&denial),
                Ok(writable) => {
                    let repo = repo.map_or(ALL, RepoName::as_str);
                    let report = Report { schema: "gitmesh.writable/1", repo, writable };
                    let text = || serde_json::to_string(&report).expect("texts can always be written") + "\n";
                    let out = if *json { text() } else { String::new() };
                    Reply { out, err: String::new(), code: i32::from(!writable) }
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gitolites_forms() {
        assert_eq!(parse(&["a", "off", "new", "disk"]), Some(("a", Order::Off(Some("new disk".to_owned())))));
        assert_eq!(parse(&["@all", "on"]), Some(("@all", Order::On)));
        assert_eq!(parse(&["a", "status"]), Some(("a", Order::Status { json: false })));
        for bad in [&["a"][..], &[], &["a", "maybe"], &["a", "on", "x"]] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
        assert_eq!((changed_repo(&["@all", "off"]), changed_repo(&["a", "off"])), (None, Some("a")));
    }
}

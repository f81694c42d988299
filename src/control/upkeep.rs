//! `repo gc` and `repo fsck`: the maintenance of repositories by hand, for administrators, on the node that is asked.

use std::fmt::Write as _;

use serde::Serialize;

use super::status::Which;
use super::{Control, Reply, help};
use crate::model::{Actor, RepoName};
use crate::repo::{Outcome, Task};

/// A repository of this node that git has found to be damaged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Damaged {
    pub repo: String,
    /// The first line of git's words.
    pub said: String,
    pub cure: String,
}

impl std::fmt::Display for Damaged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { repo, said, cure } = self;
        writeln!(f, "{repo} is DAMAGED here: {said}\n  help: {cure}")
    }
}

impl Control {
    /// The damaged ones among those that are asked for. Reads files.
    pub(super) fn damaged(&self, wanted: &dyn Fn(&RepoName) -> bool) -> Vec<Damaged> {
        let found = self.upkeep.damaged().into_iter().filter(|(repo, _)| wanted(repo));
        let one = |(repo, said): (RepoName, String)| Damaged {
            cure: self.mirror.cure_of_damage(&repo),
            said: said.lines().next().unwrap_or_default().to_owned(),
            repo: repo.to_string(),
        };
        found.map(one).collect()
    }

    /// `repo gc REPO|PATTERN`, `repo fsck REPO|PATTERN`. Fails with 1 when something is damaged or was not done.
    pub(super) async fn maintain(&self, actor: &Actor, task: Task, which: &[&str]) -> Reply {
        let word = if task == Task::Gc { "gc" } else { "fsck" };
        let [pattern] = *which else { return help::wrong(&["repo", word]) };
        if let Err(refused) = self.administers(actor, "the maintenance of repositories") {
            return refused;
        }
        let which = match Which::parse(self, Some(pattern)) {
            Ok(which) => which,
            Err(reply) => return reply,
        };
        let names = match self.list() {
            Ok(names) => names.into_iter().filter(|name| which.has(name)).collect::<Vec<_>>(),
            Err(reply) => return reply,
        };
        if names.is_empty() {
            return Reply::fail(4, format!("FATAL: no repository on this node fits '{pattern}'"));
        }
        let (mut out, mut bad) = (String::new(), false);
        for name in names {
            let outcome = self.upkeep.maintain(&name, task).await;
            bad |= outcome != Outcome::Done;
            // A String takes every write.
            let _ = match outcome {
                Outcome::Done => writeln!(out, "{name}: done"),
                Outcome::Damaged(said) => {
                    let (said, cure) = (said.replace('\n', "\n  "), self.mirror.cure_of_damage(&name));
                    writeln!(out, "{name}: DAMAGED\n  {said}\n  help: {cure}")
                }
                Outcome::Failed(why) => writeln!(out, "{name}: failed: {}", why.lines().next().unwrap_or_default()),
            };
        }
        Reply { out, err: String::new(), code: i32::from(bad) }
    }
}

//! `repo gc` and `repo fsck`: the maintenance of repositories by hand, for administrators, on the node that is asked.

use std::time::Duration;

use serde::Serialize;

use super::status::Which;
use super::{Control, Live, Reply, help};
use crate::model::{Actor, RepoName};
use crate::repo::{Lenders, Outcome, Task};

/// The longest wait until nothing else is maintained.
const TURN: Duration = Duration::from_secs(1800);

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

    /// `repo gc REPO|PATTERN`, `repo fsck REPO|PATTERN`. Fails with 1 when something is damaged or was not done. Each
    /// repository is told of when it is done; when nobody listens any more, git is stopped.
    pub(super) async fn maintain(&self, actor: &Actor, task: Task, which: &[&str], live: &Live) -> Reply {
        let [pattern] = *which else { return help::wrong(&["repo", task.word()]) };
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
        let upkeep = self.upkeep.clone();
        let lenders = match task {
            Task::Gc => tokio::task::spawn_blocking(move || upkeep.lenders()).await.unwrap_or_default(),
            Task::Fsck => Lenders::default(),
        };
        let mut bad = false;
        for name in names {
            let outcome = tokio::select! {
                outcome = self.maintain_one(&name, task, &lenders, live) => outcome,
                () = live.gone() => return Reply::fail(1, format!("{name}: stopped, for nobody waits for it")),
            };
            bad |= outcome != Outcome::Done;
            let told = match outcome {
                Outcome::Done => format!("{name}: done\n"),
                Outcome::Damaged(said) => {
                    let (said, cure) = (said.replace('\n', "\n  "), self.mirror.cure_of_damage(&name));
                    format!("{name}: DAMAGED\n  {said}\n  help: {cure}\n")
                }
                Outcome::Failed(why) => format!("{name}: failed: {}\n", why.lines().next().unwrap_or_default()),
            };
            if !live.say(told).await {
                return Reply::fail(1, "stopped, for nobody listens");
            }
        }
        Reply { code: i32::from(bad), ..Reply::default() }
    }

    async fn maintain_one(&self, name: &RepoName, task: Task, lenders: &Lenders, live: &Live) -> Outcome {
        if let Some((other, doing)) = self.upkeep.at_work() {
            live.say(format!("{name}: waits until the {} of {other} is over\n", doing.word())).await;
        }
        match tokio::time::timeout(TURN, self.upkeep.turn(name, task)).await {
            Ok(turn) => self.upkeep.maintain(turn, name, task, lenders).await,
            Err(_) => Outcome::Failed("this node is busy with others; try again later".to_owned()),
        }
    }
}

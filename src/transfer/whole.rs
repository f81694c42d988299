//! Whether all is there that a push leads to: git-rev-list(1) walks from the new values to what was whole before. For the
//! common small push that is seen here already, and no process is started.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use super::Transfer;
use super::receive::{Client, run};
use super::request::Output;
use crate::git::connected;
use crate::git::protocol;
use crate::git::receive::Push;
use crate::git::refs::Snapshot;
use crate::model::{Oid, RefUpdate};
use crate::repo::{Quarantine, Repo};

/// Branches that git is told to be whole when a new reference may have begun anywhere …
const BRANCHES_MAX: usize = 2_000;
/// … and when all references have moved on from where they were.
const BRANCHES_FEW: usize = 100;

impl Transfer {
    /// The new values that lead to something that is not there. What is wrong with one does not refuse the others, so
    /// when all together are not whole, halves are looked at. Where references are very many (`large`), only some are told
    /// to git as whole already: it would read each of them, and fewer only make the look longer.
    pub(super) async fn missing<W: Output, E: Output>(
        &self,
        repo: &Repo,
        push: &Push,
        large: bool,
        quarantine: Option<&Quarantine>,
        bulk: bool,
        client: &mut Client<'_, W, E>,
    ) -> Result<HashSet<Oid>, String> {
        if !bulk && push.updates.len() <= connected::UPDATES_MAX && self.is_surely_whole(repo, push, quarantine).await {
            return Ok(HashSet::new());
        }
        let env = quarantine.map(Quarantine::environment);
        let env = env.as_ref().map_or(&[][..], |env| &env[..]);
        let new = push.updates.iter().filter(|update| !update.new.is_zero()).map(|update| update.new.clone());
        let mut new: Vec<Oid> = new.collect();
        new.sort_unstable();
        new.dedup();
        // What the repository borrows from is told of its references by a process of its own; in quarantine the repository
        // itself would be asked so.
        let borrows = repo.dir().join("objects/info/alternates").exists();
        let all = ["rev-list", "--objects", "--quiet", "--stdin", "--not", "--all", "--alternate-refs"];
        let all = &all[..if borrows { all.len() } else { all.len() - 1 }];
        let (arguments, known) = if large {
            let (dir, updates) = (repo.dir().to_owned(), push.updates.clone());
            let some = tokio::task::spawn_blocking(move || some_values(&dir, &updates)).await;
            let some = some.map_err(|error| self.internal(&error))?.map_err(|error| self.internal(&error))?;
            (&all[..4], some.iter().map(|oid| format!("^{oid}\n")).collect())
        } else {
            (all, String::new())
        };
        let (mut missing, mut todo) = (HashSet::new(), vec![new]);
        while let Some(mut part) = todo.pop().filter(|part| !part.is_empty()) {
            let git = self.git.start(repo.dir(), arguments, env).map_err(|error| self.internal(&error))?;
            if bulk {
                git.give_way();
            }
            let wanted = [&protocol::revisions(&part)[..], known.as_bytes()].concat();
            let whole = if part.len() == 1 {
                run(git, &wanted[..], client).await
            } else {
                // The words of a larger part would come again with the smaller ones.
                let (output, errors) = (&mut tokio::io::sink(), &mut tokio::io::sink());
                run(git, &wanted[..], &mut Client { output, errors, banded: false, there: false }).await
            };
            if whole.map_err(|error| self.internal(&error))? {
                continue;
            }
            let second = part.split_off(part.len() / 2);
            if part.is_empty() {
                missing.extend(second);
            } else {
                todo.extend([second, part]);
            }
        }
        Ok(missing)
    }

    /// What this does not know, git is asked.
    async fn is_surely_whole(&self, repo: &Repo, push: &Push, quarantine: Option<&Quarantine>) -> bool {
        let (dir, updates) = (repo.dir().to_owned(), push.updates.clone());
        let quarantine = quarantine.map(|quarantine| quarantine.path().to_owned());
        let look = move || connected::is_whole(&dir, quarantine.as_deref(), &updates);
        match tokio::task::spawn_blocking(look).await {
            Ok(Ok(sure)) => sure,
            Ok(Err(error)) => {
                tracing::debug!(%error, repo = %repo.name, "whether a push is whole is git's to say");
                false
            }
            Err(error) => {
                self.internal(&error);
                false
            }
        }
    }
}

/// What the updates replace, and some branches. All that a reference leads to is here, so each of them says of much
/// that it need not be looked for. Blocks.
fn some_values(dir: &Path, updates: &[RefUpdate]) -> io::Result<Vec<Oid>> {
    let branches = b"refs/heads/".to_vec();
    let most = if updates.iter().any(|update| update.old.is_zero()) { BRANCHES_MAX } else { BRANCHES_FEW };
    let listed = Snapshot::read(dir, std::slice::from_ref(&branches))?.first(&branches, most)?;
    let replaced = updates.iter().map(|update| update.old.clone()).filter(|old| !old.is_zero());
    Ok(replaced.chain(listed.iter().filter_map(|branch| protocol::oid(&branch.oid))).collect())
}

//! Moving references once a push is judged: one that moves on and very many new ones here, all others by git-update-ref(1).

use std::io;

use super::receive::{Client, git_says, run};
use super::request::Output;
use super::{Request, Transfer};
use crate::durable;
use crate::git::refs::{Head, Snapshot};
use crate::git::{loose, packed, receive};
use crate::model::{RefName, RefUpdate};
use crate::repo::Repo;

impl Transfer {
    /// Moves the references, all in one transaction; when that fails and the push is not atomic, those that can be.
    pub(super) async fn move_references<W: Output, E: Output>(
        &self,
        request: &Request,
        repo: &Repo,
        updates: Vec<RefUpdate>,
        atomic: bool,
        client: &mut Client<'_, W, E>,
    ) -> Vec<(RefUpdate, Option<String>)> {
        let (mut moved, mut asked) = (Vec::new(), Vec::new());
        let mut head = None;
        if request.mirror.is_none() && updates.iter().any(|update| update.new.is_zero()) {
            let dir = repo.dir().to_owned();
            let looking = tokio::task::spawn_blocking(move || Snapshot::read(&dir, &[])?.head());
            if let Ok(Ok(Some(Head::Branch(name, _)))) = looking.await {
                head = Some(name);
            }
        }
        for update in updates {
            if update.new.is_zero() && head.as_deref() == Some(update.name.as_str().as_bytes()) {
                moved.push((update, Some(git_says("deletion of the current branch prohibited"))));
            } else if update.new.is_zero() && update.old.is_zero() {
                client.say(format!("warning: {} is not there\n", update.name).as_bytes()).await;
                moved.push((update, None));
            } else {
                asked.push(update);
            }
        }
        if atomic && moved.iter().any(|(_, failure)| failure.is_some()) {
            moved.extend(asked.into_iter().map(|update| (update, Some(git_says("atomic push failure")))));
            return moved;
        }
        if asked.len() >= packed::MANY {
            let (dir, many) = (repo.dir().to_owned(), asked.clone());
            let written = tokio::task::spawn_blocking(move || packed::create_many(&dir, &many));
            match client.meanwhile(written).await.map_err(io::Error::other).and_then(|written| written) {
                Ok(true) => {
                    moved.extend(asked.into_iter().map(|update| (update, None)));
                    return moved;
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, repo = %repo.name, "packed-refs cannot be written; git is asked"),
            }
        }
        let committer = [
            ("GIT_COMMITTER_NAME", request.actor.to_string()),
            ("GIT_COMMITTER_EMAIL", format!("{}@{}", self.realm.live().address.user, self.cluster.host())),
        ];
        // Halves of what failed, first half first: references are moved in the order in which they came.
        let mut todo = vec![asked];
        while let Some(part) = todo.pop() {
            if part.is_empty() {
                continue;
            }
            let started = durable::at("transfer.refs", repo.dir());
            if let [update] = &part[..]
                && started.is_ok()
                && self.advance(repo, update, client).await
            {
                moved.extend(part.into_iter().map(|update| (update, None)));
                continue;
            }
            let input = receive::transaction(&part);
            let arguments = ["update-ref", "--stdin", "-m", "push"];
            let done = match started.and_then(|()| self.git.start(repo.dir(), &arguments, &committer)) {
                Ok(git) if part.len() == 1 || atomic => run(git, input.as_bytes(), client).await,
                Ok(git) => {
                    // The words of a larger part would come again with the smaller ones.
                    let (output, errors) = (&mut tokio::io::sink(), &mut tokio::io::sink());
                    run(git, input.as_bytes(), &mut Client { output, errors, banded: false, there: false }).await
                }
                Err(error) => Err(error),
            };
            match done {
                Ok(true) => {
                    let (dir, names) = (repo.dir().to_owned(), part.iter().map(|u| u.name.clone()).collect::<Vec<_>>());
                    let synced = tokio::task::spawn_blocking(move || {
                        // What was deleted is gone from packed-refs too.
                        loose::sync_folders(&dir, names.iter().map(RefName::as_str).chain(["packed-refs"]));
                    });
                    if let Err(error) = client.meanwhile(synced).await {
                        tracing::error!(%error, repo = %repo.name, "what references are in was not synced");
                    }
                    moved.extend(part.into_iter().map(|update| (update, None)));
                }
                Ok(false) if part.len() > 1 && !atomic => {
                    let mut first = part;
                    let second = first.split_off(first.len() / 2);
                    todo.extend([second, first]);
                }
                Ok(false) => {
                    moved.extend(part.into_iter().map(|update| (update, Some(git_says("failed to update ref")))))
                }
                Err(error) => {
                    let why = self.internal(&error);
                    moved.extend(part.into_iter().map(|update| (update, Some(why.clone()))));
                }
            }
        }
        moved
    }

    /// Moves one reference without git; false when git is to be asked.
    async fn advance<W: Output, E: Output>(
        &self,
        repo: &Repo,
        update: &RefUpdate,
        client: &mut Client<'_, W, E>,
    ) -> bool {
        let (dir, update) = (repo.dir().to_owned(), update.clone());
        let advanced = tokio::task::spawn_blocking(move || loose::advance(&dir, &update));
        match client.meanwhile(advanced).await.map_err(io::Error::other).and_then(|advanced| advanced) {
            Ok(done) => done,
            Err(error) => {
                tracing::warn!(%error, repo = %repo.name, "a reference cannot be written; git is asked");
                false
            }
        }
    }
}

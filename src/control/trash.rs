//! `D` in gitolite's forms and shapes, the move under another name, and what a master orders of its copies when one is gone.
//!
//! Owners and administrators ask on the master; there the repository goes by one rename, its copies are told by
//! `mirror`, and until all have followed a small file remembers it.

use std::io;
use std::time::SystemTime;

use serde_json::json;

use super::{Control, Reply, help, parse_repo};
use crate::admin::Denial;
use crate::mirror::{MOVE, TRASH};
use crate::model::time::{Stamp, rfc3339};
use crate::model::{Actor, Epoch, HostName, RepoName};
use crate::repo::{self, Ownership, Tombstone, Trashed, Why};

/// What a `D` line asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order<'a> {
    Lock(&'a str),
    Unlock(&'a str),
    Remove(&'a str),
    Trash(&'a str),
    List { times: bool, json: bool },
    Restore(&'a str, &'a str),
}

fn parse<'a>(words: &[&'a str]) -> Option<Order<'a>> {
    let order = match *words {
        ["lock", repo] => Order::Lock(repo),
        ["unlock", repo] => Order::Unlock(repo),
        ["rm", repo] => Order::Remove(repo),
        ["trash", repo] => Order::Trash(repo),
        ["list"] => Order::List { times: true, json: false },
        ["list", "--json"] => Order::List { times: true, json: true },
        ["list-trash"] => Order::List { times: false, json: false },
        ["restore", entry] => entry.rsplit_once('/').map(|(repo, at)| Order::Restore(repo, at))?,
        _ => return None,
    };
    Some(order)
}

/// The repository that a `D` line changes, for [`super::changed_repo`].
pub(super) fn changed_repo<'a>(words: &[&'a str]) -> Option<&'a str> {
    match parse(words)? {
        Order::List { .. } => None,
        Order::Lock(repo) | Order::Unlock(repo) | Order::Remove(repo) | Order::Trash(repo) => Some(repo),
        Order::Restore(repo, _) => Some(repo),
    }
}

fn denied(denial: &Denial) -> Reply {
    Reply::fail(5, denial.to_string())
}

fn failed(what: &str, repo: &RepoName, error: &io::Error) -> Reply {
    tracing::error!(%error, %repo, "{what}");
    Reply::broken(&format!("'{repo}': {what}"), error)
}

impl Control {
    pub(super) async fn deletion(&self, actor: &Actor, words: &[&str]) -> Reply {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        self.blocking(actor, move |control, actor| {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            match parse(&words) {
                Some(order) => control.delete(actor, order).unwrap_or_else(|reply| reply),
                None => help::wrong(&["D"]),
            }
        })
        .await
    }

    fn delete(&self, actor: &Actor, order: Order<'_>) -> Result<Reply, Reply> {
        match order {
            Order::List { times, json } => self.list_trash(actor, times, json),
            Order::Lock(repo) => self.set_lock(actor, &parse_repo(repo)?, false),
            Order::Unlock(repo) => self.set_lock(actor, &parse_repo(repo)?, true),
            Order::Trash(repo) => self.trash(actor, &parse_repo(repo)?),
            Order::Remove(repo) => self.remove(actor, &parse_repo(repo)?),
            Order::Restore(repo, at) => self.restore(actor, &parse_repo(repo)?, at),
        }
    }

    fn set_lock(&self, actor: &Actor, repo: &RepoName, unlocked: bool) -> Result<Reply, Reply> {
        self.realm.may_remove(actor, repo).map_err(|denial| denied(&denial))?;
        let written = self.store.set_unlocked(repo, unlocked);
        written.map_err(|error| failed("its lock cannot be written", repo, &error))?;
        Ok(Reply::done(format!("'{repo}' is now {}\n", if unlocked { "unlocked" } else { "locked" })))
    }

    fn trash(&self, actor: &Actor, repo: &RepoName) -> Result<Reply, Reply> {
        let owned = self.realm.may_remove(actor, repo).map_err(|denial| denied(&denial))?;
        self.take_away(actor, repo, owned)?;
        Ok(Reply::done(format!("'{repo}' moved to trashcan\n")))
    }

    fn remove(&self, actor: &Actor, repo: &RepoName) -> Result<Reply, Reply> {
        let owned = self.realm.may_remove(actor, repo).map_err(|denial| denied(&denial))?;
        if !self.store.is_unlocked(repo) {
            let help = format!("D unlock {repo}, then D rm {repo}; or D trash {repo}, which can be undone");
            let first = format!("FATAL: '{repo}' is locked!");
            return Err(denied(&Denial { first, you: None, rule: None, help, code: Denial::LOCKED }));
        }
        let at = self.take_away(actor, repo, owned)?;
        let deleted = self.store.delete_trashed(repo, at);
        deleted.map_err(|error| failed("it is in the trash and cannot be deleted from there", repo, &error))?;
        Ok(Reply::done(format!("'{repo}' is now gone!\n")))
    }

    pub(super) fn take_away(&self, actor: &Actor, repo: &RepoName, owned: Ownership) -> Result<Stamp, Reply> {
        let place = self.cluster.locate(repo);
        let waiting = place.replicas().iter().map(|replica| replica.name.clone()).collect();
        let at = self.store.free_stamp(repo);
        let stone = Tombstone { repo: repo.clone(), at, creator: owned.creator, to: None, waiting };
        match self.store.take_away(stone, &actor.to_string()) {
            Ok(true) => {}
            Ok(false) => return Err(Reply::fail(4, format!("FATAL: '{repo}' has just gone"))),
            Err(error) => return Err(failed("it cannot be moved to the trash", repo, &error)),
        }
        tracing::info!(%repo, %at, user = %actor, "moved to the trash");
        self.follow(repo);
        Ok(at)
    }

    /// Whatever is shown of a repository, and its copies, follow what has become of it.
    fn follow(&self, repo: &RepoName) {
        if let Err(error) = self.realm.moved(repo) {
            tracing::error!(%error, %repo, "its git config cannot be written");
        }
        self.mirror.mark(repo);
    }

    pub(super) fn restore(&self, actor: &Actor, repo: &RepoName, at: &str) -> Result<Reply, Reply> {
        let found = Stamp::parse(at).and_then(|at| self.store.in_trash(repo, at));
        let owned = found.as_ref().map(|found| &found.owned);
        self.realm.may_restore(actor, repo, owned).map_err(|denial| denied(&denial))?;
        let Some(found) = found else { return Err(help::wrong(&["D"])) };
        match self.store.restore(repo, found.at) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let help = format!("delete or rename it first: D trash {repo}");
                let first = format!("FATAL: '{repo}' already exists");
                return Err(denied(&Denial { first, you: None, rule: None, help, code: Denial::EXISTS }));
            }
            Err(error) => return Err(failed("it cannot be taken from the trash", repo, &error)),
        }
        tracing::info!(%repo, at = %found.at, user = %actor, "taken from the trash");
        self.follow(repo);
        Ok(Reply::done(format!("'{repo}/{at}' restored to '{repo}'\n")))
    }

    fn list_trash(&self, actor: &Actor, times: bool, json: bool) -> Result<Reply, Reply> {
        let all = self.store.trashed().map_err(|error| {
            tracing::error!(%error, "the trash cannot be listed");
            Reply::fail(70, "FATAL: the trash cannot be listed; tell an administrator")
        })?;
        let keep = *self.trash_keep.borrow();
        let now = SystemTime::now();
        let mut out = String::new();
        let own = all.iter().filter(|entry| self.realm.owned_by(actor, &entry.repo, &entry.owned));
        if json {
            let one = |entry: &Trashed| {
                let until = rfc3339(entry.at.moment() + keep);
                json!({ "repo": entry.repo.as_str(), "time": entry.at.to_string(), "until": until })
            };
            let entries: Vec<_> = own.map(one).collect();
            return Ok(Reply::done(format!("{}\n", json!({ "schema": "gitmesh.trash/1", "entries": entries }))));
        }
        for entry in own {
            let until = entry.at.moment() + keep;
            match times {
                false => out.push_str(&format!("{}/{}\n", entry.repo, entry.at)),
                true if until <= now => out.push_str(&format!("{}/{}\tgoes now\n", entry.repo, entry.at)),
                true => out.push_str(&format!("{}/{}\tkept until {}\n", entry.repo, entry.at, rfc3339(until))),
            }
        }
        Ok(Reply::done(out))
    }

    pub(super) fn rename(&self, actor: &Actor, old: &RepoName, new: &RepoName) -> Result<Reply, Reply> {
        self.realm.may_rename(actor, old, new).map_err(|denial| denied(&denial))?;
        let waiting = self.cluster.locate(new).replicas().iter().map(|replica| replica.name.clone()).collect();
        let (creator, at) = (self.store.creator(old), self.store.free_stamp(old));
        let stone = Tombstone { repo: old.clone(), at, creator, to: Some(new.clone()), waiting };
        match self.store.rename(stone) {
            Ok(true) => {}
            Ok(false) => return Err(Reply::fail(4, format!("FATAL: '{old}' has just gone"))),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let first = format!("FATAL: '{new}' already exists, and is not empty");
                let help = "choose another name, or delete that repository first".to_owned();
                return Err(denied(&Denial { first, you: None, rule: None, help, code: Denial::EXISTS }));
            }
            Err(error) => return Err(failed("it cannot be renamed", old, &error)),
        }
        tracing::info!(repo = %old, to = %new, user = %actor, "renamed");
        self.follow(old);
        self.follow(new);
        Ok(Reply::done(format!("'{old}' is now '{new}'\n")))
    }

    /// A master tells what has become of a repository whose copy is here.
    pub(super) async fn ordered(&self, actor: &Actor, words: &[&str]) -> Reply {
        let Actor::Node(peer) = actor else {
            return Reply::fail(5, "FATAL: this is told by the nodes of the mesh only");
        };
        let value = |key: &str| words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        let unknown = || {
            let here = &self.node.name;
            Reply::fail(2, format!("FATAL: {here} does not understand this order; upgrade the older node"))
        };
        let (Some("1"), Some(epoch)) = (value("version"), value("epoch").and_then(Epoch::parse)) else {
            return unknown();
        };
        let repo = match words.get(1).map(|repo| parse_repo(repo)) {
            Some(Ok(repo)) => repo,
            Some(Err(reply)) => return reply,
            None => return unknown(),
        };
        let peer = peer.clone();
        match (words[0], value("time").and_then(Stamp::parse), value("to").map(RepoName::new)) {
            (TRASH, Some(at), _) => {
                self.blocking(actor, move |c, _| c.trash_copy(&peer, &repo, epoch, at).unwrap_or_else(|e| e)).await
            }
            (MOVE, _, Some(Ok(to))) => {
                self.blocking(actor, move |c, _| c.move_copy(&peer, &repo, &to, epoch).unwrap_or_else(|e| e)).await
            }
            _ => unknown(),
        }
    }

    fn trash_copy(&self, master: &HostName, repo: &RepoName, epoch: Epoch, at: Stamp) -> Result<Reply, Reply> {
        // Told again: what has the name now came later.
        if !self.store.exists(repo) || self.store.is_in_trash(repo, at) {
            return Ok(Reply::default());
        }
        self.realm.authorize_mirror(master, repo, None).map_err(|denial| denied(&denial))?;
        self.promise(repo, epoch)?;
        let moved = self.store.to_trash(repo, at, Why::Asked(master.as_str()));
        if moved.map_err(|error| failed("it cannot be moved to the trash", repo, &error))? {
            tracing::info!(%repo, %at, %master, "moved to the trash, as on its master");
        }
        self.shown_again(repo);
        Ok(Reply::default())
    }

    fn move_copy(&self, master: &HostName, old: &RepoName, new: &RepoName, epoch: Epoch) -> Result<Reply, Reply> {
        self.realm.authorize_mirror(master, new, None).map_err(|denial| denied(&denial))?;
        self.promise(old, epoch)?;
        let moved = self.store.follow_rename(old, new, master);
        if moved.map_err(|error| failed("it cannot be renamed", old, &error))? {
            tracing::info!(repo = %old, to = %new, %master, "renamed, as on its master");
        }
        self.shown_again(old);
        self.shown_again(new);
        Ok(Reply::default())
    }

    /// Refuses an order of an epoch that is over; after this no lower one is taken. Blocks.
    pub(super) fn promise(&self, repo: &RepoName, epoch: Epoch) -> Result<(), Reply> {
        self.refuse_past(repo, epoch)?;
        if !self.store.exists(repo) {
            return Ok(());
        }
        let promised = repo::promise_epoch(&self.store.dir(repo), epoch);
        match promised.map_err(|error| failed("its epoch cannot be written", repo, &error))? {
            Ok(()) => Ok(()),
            // Between the look and the promise.
            Err(_) => self.refuse_past(repo, epoch),
        }
    }

    /// An order of an epoch that is over.
    fn refuse_past(&self, repo: &RepoName, epoch: Epoch) -> Result<(), Reply> {
        let (here, known) = (&self.node.name, self.cluster.epoch(repo));
        if epoch >= known {
            return Ok(());
        }
        let code = Denial::PAST;
        let text = format!("FATAL: epoch {epoch} of '{repo}' is over: {known} has been promised on {here} [{code}]");
        Err(Reply::fail(5, text))
    }

    fn shown_again(&self, repo: &RepoName) {
        if let Err(error) = self.realm.moved(repo) {
            tracing::error!(%error, %repo, "its git config cannot be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gitolites_forms() {
        assert_eq!(parse(&["trash", "a/b"]), Some(Order::Trash("a/b")));
        assert_eq!(parse(&["list-trash"]), Some(Order::List { times: false, json: false }));
        let entry = "a/b/2026-11-21_08:30:00";
        assert_eq!(parse(&["restore", entry]), Some(Order::Restore("a/b", "2026-11-21_08:30:00")));
        assert_eq!(changed_repo(&["restore", entry]), Some("a/b"));
        assert_eq!((changed_repo(&["rm", "x"]), changed_repo(&["list"])), (Some("x"), None));
        for bad in [&[][..], &["trash"], &["restore", "a"], &["empty"], &["list", "a"], &["rm", "a", "b"]] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}

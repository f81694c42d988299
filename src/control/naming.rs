//! `repo create|delete|undelete|rename`, for administrators: the rules first, by a commit of theirs, then the repository.
//!
//! The rules are edited only where a repository stands alone; for everything else the answer names the lines that a
//! person must change. What is deleted is in the trash, with the lines that were its rules.

use std::collections::BTreeMap;
use std::io;

use super::{Control, Reply, help, parse_repo};
use crate::admin::{ADMIN_REPO, Change, Committed, Denial};
use crate::cluster::Place;
use crate::model::time::Stamp;
use crate::model::{Actor, HostName, RepoName};
use crate::policy::{ByHand, Edit, Facts, Outline, can_name};
use crate::repo::write_whole;

/// Inside a repository in the trash: the lines of the configuration that were about it alone.
const RULES: &str = "gitmesh-rules";

/// The repository that such a line changes, for [`super::changed_repo`]: the one that holds the rules.
pub(super) fn changed_repo<'a>(words: &[&'a str]) -> Option<&'a str> {
    match *words {
        ["create" | "delete" | "undelete", ..] => Some(ADMIN_REPO),
        // By its new name, for the configuration may know the old one no more.
        ["rename", _, new] => Some(new),
        _ => None,
    }
}

/// What the commit of an order did, in lines.
fn landed(done: &Committed) -> String {
    let commit: String = done.update.new.as_str().chars().take(10).collect();
    format!("commit {commit} of {ADMIN_REPO}: {}", done.in_force())
}

fn denied(first: String, help: String, code: &'static str) -> Reply {
    Reply::denied(&Denial { first, you: None, rule: None, help, code })
}

/// The edit is for a person, who is told where.
fn by_hand(what: &str, cure: &str, by_hand: &ByHand) -> Reply {
    let places: String = by_hand.places.iter().take(50).map(|place| format!("\n        {place}")).collect();
    denied(format!("FATAL: {what}: {}", by_hand.why), format!("{cure}{places}"), Denial::BY_HAND)
}

fn named(words: &[&str]) -> Result<RepoName, Reply> {
    match *words {
        [repo] => parse_repo(repo),
        _ => Err(help::wrong(&["repo"])),
    }
}

impl Control {
    pub(super) async fn repo_order(&self, actor: &Actor, words: &[&str], from: &str) -> Reply {
        let done = match *words {
            ["create", repo] => self.create_named(actor, from, repo, None).await,
            ["create", repo, "--like", like] => self.create_named(actor, from, repo, Some(like)).await,
            ["delete", repo] => self.delete_named(actor, from, repo).await,
            ["undelete", entry] => self.undelete(actor, from, entry).await,
            ["rename", old, new] => self.rename_named(actor, from, words, old, new).await,
            [order @ ("create" | "delete" | "undelete" | "rename"), ..] => Err(help::wrong(&["repo", order])),
            _ => Err(help::wrong(&["repo"])),
        };
        done.unwrap_or_else(|reply| reply)
    }

    /// Changes the newest rules by an edit of their lines. `what` is the order, for the commit and the audit.
    async fn edit_rules(
        &self,
        actor: &Actor,
        from: &str,
        what: String,
        edit: impl Fn(&Outline<'_>) -> Result<Edit, Reply> + Send + 'static,
    ) -> Result<(Committed, String), Reply> {
        let (admin, message) = (self.admin.clone(), what.clone());
        let (told, lines) = std::sync::mpsc::channel();
        let change = move |files: &BTreeMap<String, Vec<u8>>| {
            let written = admin.written(files).map_err(|error| {
                tracing::error!(%error, "the configuration cannot be read");
                Reply::fail(70, "FATAL: the configuration cannot be read; tell an administrator of this machine")
            })?;
            let Edit { files, lines } = edit(&written.outline())?;
            // Of several tries the last one counts.
            drop(told.send(lines));
            let files = files.into_iter().map(|(path, text)| (path, Some(text))).collect();
            Ok(Change { files, message: message.clone() + "\n" })
        };
        let done = self.commit(actor, from, &what, change).await?;
        Ok((done, lines.try_iter().last().unwrap_or_default()))
    }

    fn is_named(&self, repo: &RepoName) -> bool {
        self.realm.live().repositories().any(|named| named == repo)
    }

    async fn create_named(&self, actor: &Actor, from: &str, repo: &str, like: Option<&str>) -> Result<Reply, Reply> {
        self.administers(actor, "to name a repository in the rules")?;
        let (repo, like) = (parse_repo(repo)?, like.map(parse_repo).transpose()?);
        if !can_name(repo.as_str()) {
            return Err(Reply::fail(2, format!("FATAL: '{repo}' cannot stand in the rules as a repository's name")));
        }
        if self.is_named(&repo) || self.store.exists(&repo) {
            let help = "use it, or choose another name".to_owned();
            return Err(denied(format!("FATAL: '{repo}' already exists"), help, Denial::EXISTS));
        }
        let rule = match (&like, actor) {
            (Some(like), _) => {
                self.covered_alike(like, &repo)?;
                String::new()
            }
            (None, Actor::User { name, .. }) => format!("RW+ = {name}"),
            (None, _) => {
                let why =
                    "FATAL: the machine itself is no user; say whose rules it gets: repo create NAME --like OTHER";
                return Err(Reply::fail(2, why));
            }
        };
        let what = match &like {
            Some(like) => format!("repo create {repo} --like {like}"),
            None => format!("repo create {repo}"),
        };
        let new = repo.clone();
        let edit = move |outline: &Outline<'_>| {
            let cure = format!("write the rules of '{new}' by hand; lines to look at:");
            let made = outline.with(new.as_str(), like.as_ref().map(RepoName::as_str), &rule);
            made.map_err(|why| by_hand(&format!("'{new}' is not added to the rules"), &cure, &why))
        };
        let (done, lines) = self.edit_rules(actor, from, what, edit).await?;
        let place = match self.cluster.locate(&repo) {
            Place::There { master, .. } => format!("its master is {master}\n"),
            _ => String::new(),
        };
        Ok(Reply::done(format!("{lines}{place}{}", landed(&done))))
    }

    /// Groups and patterns that give the one its rules must give them to the other too.
    fn covered_alike(&self, like: &RepoName, new: &RepoName) -> Result<(), Reply> {
        let live = self.realm.live();
        if !self.is_named(like) {
            return Err(Reply::fail(4, format!("FATAL: the configuration does not name '{like}'")));
        }
        let (old, new_facts) = (Facts::existing(like), Facts::existing(new));
        let has = live.policy.names_of_repo(&new_facts);
        let lacks: Vec<&str> = live.policy.names_of_repo(&old).into_iter().filter(|name| !has.contains(name)).collect();
        if lacks.is_empty() {
            return Ok(());
        }
        let first = format!("FATAL: '{like}' also gets rules by {}, and '{new}' would not", lacks.join(" "));
        let help = format!("write the rules of '{new}' by hand; 'repo show {like}' tells the lines");
        Err(denied(first, help, Denial::BY_HAND))
    }

    async fn delete_named(&self, actor: &Actor, from: &str, repo: &str) -> Result<Reply, Reply> {
        self.administers(actor, "to take a repository out of the rules")?;
        let repo = named(&[repo])?;
        if repo.as_str() == ADMIN_REPO {
            let first = format!("FATAL: {ADMIN_REPO} holds the rules themselves and stays");
            return Err(denied(first, "choose another repository".to_owned(), Denial::NAMED));
        }
        if !self.is_named(&repo) {
            let exists = self.store.exists(&repo);
            let help = if exists { format!("D trash {repo}") } else { "'repo list' tells the names".to_owned() };
            let code = if exists { 1 } else { 4 };
            return Err(Reply::fail(code, format!("FATAL: the configuration does not name '{repo}'\n  help: {help}")));
        }
        let place = self.cluster.locate(&repo);
        let gone = repo.clone();
        let edit = move |outline: &Outline<'_>| {
            let cure = format!("take '{gone}' out there, push that, then: D trash {gone}");
            outline
                .without(gone.as_str())
                .map_err(|why| by_hand(&format!("'{gone}' is not taken out of the rules"), &cure, &why))
        };
        let (done, lines) = self.edit_rules(actor, from, format!("repo delete {repo}"), edit).await?;
        let out = landed(&done);
        let elsewhere = |master: &HostName| {
            format!("'{repo}' itself is on its master {master}, where an administrator says: D trash {repo}\n")
        };
        let rest = match &place {
            Place::There { master, .. } => elsewhere(master),
            Place::Elsewhere => match self.realm.place(&repo).master.and_then(|master| HostName::new(&master).ok()) {
                Some(master) => elsewhere(&master),
                None => format!("'{repo}' is on its master, where an administrator says: D trash {repo}\n"),
            },
            Place::Here { .. } => {
                let (actor, repo) = (actor.clone(), repo.clone());
                let control = self.clone();
                let moved = tokio::task::spawn_blocking(move || control.put_away(&actor, &repo, &lines));
                match moved.await {
                    Ok(Ok(told)) => told,
                    // The commit stands; what is left is said.
                    Ok(Err(reply)) => return Err(Reply { out, ..reply }),
                    Err(error) => {
                        tracing::error!(%error, "a command panicked");
                        return Err(Reply::fail(70, "the server has a problem of its own; tell an administrator"));
                    }
                }
            }
        };
        Ok(Reply::done(out + &rest))
    }

    /// Into the trash, with its rules.
    fn put_away(&self, actor: &Actor, repo: &RepoName, lines: &str) -> Result<String, Reply> {
        if !self.store.exists(repo) {
            return Ok(format!("there was no repository '{repo}' yet\n"));
        }
        let owned = self.realm.may_remove(actor, repo).map_err(|denial| Reply::denied(&denial))?;
        write_whole(&self.store.dir(repo), RULES, lines).map_err(|error| {
            tracing::error!(%error, %repo, "its rules cannot be kept beside it");
            Reply::fail(70, format!("FATAL: '{repo}' is out of the rules and still here; then: D trash {repo}"))
        })?;
        let at = self.take_away(actor, repo, owned)?;
        Ok(format!("'{repo}' is in the trash; to have it back: repo undelete {repo}/{at}\n"))
    }

    async fn undelete(&self, actor: &Actor, from: &str, entry: &str) -> Result<Reply, Reply> {
        self.administers(actor, "to bring back a repository and its rules")?;
        let found = entry.rsplit_once('/').and_then(|(repo, at)| Some((repo, Stamp::parse(at)?)));
        let (repo, at) = match found {
            Some((repo, at)) => (parse_repo(repo)?, at),
            None => {
                let repo = parse_repo(entry)?;
                let trashed = self.store.trashed().map_err(|error| unreadable(&error))?;
                let newest = trashed.into_iter().filter(|one| one.repo == repo).map(|one| one.at).max();
                let nothing = || Reply::fail(4, format!("FATAL: the trash holds no '{repo}'\n  help: D list"));
                let at = newest.ok_or_else(nothing)?;
                (repo, at)
            }
        };
        let (name, moment) = (repo.clone(), at.to_string());
        let (who, control) = (actor.clone(), self.clone());
        let restored = tokio::task::spawn_blocking(move || {
            let reply = control.restore(&who, &name, &moment)?;
            let path = control.store.dir(&name).join(RULES);
            let lines = match std::fs::read_to_string(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                read => Some(read.map_err(|error| unreadable(&error))?),
            };
            Ok::<_, Reply>((reply.out, lines, path))
        });
        let (mut out, lines, path) = restored.await.map_err(|error| unreadable(&io::Error::other(error)))??;
        match lines {
            _ if self.is_named(&repo) => {}
            None => out.push_str("no rules were kept with it; name it in the configuration\n"),
            Some(lines) => {
                let kept = lines.clone();
                let edit = move |outline: &Outline<'_>| {
                    let first = format!("it is back, and its rules are not added to {ADMIN_REPO}");
                    let cure = format!("add them by hand:\n{}", lines.replace('\n', "\n        "));
                    outline.with_lines(&lines).map_err(|why| by_hand(&first, &cure, &why))
                };
                let done = self.edit_rules(actor, from, format!("repo undelete {repo}/{at}"), edit).await;
                let (done, _) =
                    done.map_err(|reply| Reply { out: format!("{out}its rules were:\n{kept}"), ..reply })?;
                out.push_str(&landed(&done));
            }
        }
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %path.display(), "the rules that were kept with it cannot be removed");
        }
        Ok(Reply::done(out))
    }

    async fn rename_named(
        &self,
        actor: &Actor,
        from: &str,
        words: &[&str],
        old: &str,
        new: &str,
    ) -> Result<Reply, Reply> {
        let (old, new) = (parse_repo(old)?, parse_repo(new)?);
        let mut out = String::new();
        let own = |repo: &RepoName| repo.as_str() == ADMIN_REPO;
        if self.realm.may_administer(actor) && self.is_named(&old) && !own(&old) && !own(&new) && old != new {
            if self.is_named(&new) || (self.store.exists(&new) && self.realm.creator(&new).is_some()) {
                let first = format!("FATAL: '{new}' already exists");
                let help = "choose another name, or delete that repository first".to_owned();
                return Err(denied(first, help, Denial::EXISTS));
            }
            if !can_name(new.as_str()) {
                return Err(Reply::fail(2, format!("FATAL: '{new}' cannot stand in the rules as a repository's name")));
            }
            if let Some(to) = self.carried_to(actor, ADMIN_REPO, &[&["repo"], words].concat()) {
                return Ok(self.forward(actor, to, &[&["repo"], words].concat(), from, tokio::io::empty()).await);
            }
            let (was, is) = (old.clone(), new.clone());
            let edit = move |outline: &Outline<'_>| {
                let first = format!("'{was}' is not renamed in the rules");
                let cure = format!("write '{is}' for '{was}' there, push that, then: repo rename {was} {is}");
                outline.renamed(was.as_str(), is.as_str()).map_err(|why| by_hand(&first, &cure, &why))
            };
            let place = self.cluster.locate(&old);
            let (done, _) = self.edit_rules(actor, from, format!("repo rename {old} {new}"), edit).await?;
            out = landed(&done);
            if let Place::There { master, .. } = &place {
                let rest = "when the rules have come there";
                out.push_str(&format!(
                    "'{old}' itself is on its master {master}, where you say {rest}: repo rename {old} {new}\n"
                ));
                return Ok(Reply::done(out));
            }
            if !self.store.exists(&old) {
                return Ok(Reply::done(out));
            }
        }
        let (who, control) = (actor.clone(), self.clone());
        let renamed = tokio::task::spawn_blocking(move || control.rename(&who, &old, &new));
        match renamed.await.map_err(|error| unreadable(&io::Error::other(error)))? {
            Ok(reply) => Ok(Reply { out: out + &reply.out, ..reply }),
            Err(reply) => Err(Reply { out, ..reply }),
        }
    }
}

fn unreadable(error: &io::Error) -> Reply {
    tracing::error!(%error, "an order about a repository cannot be carried out");
    Reply::fail(70, "FATAL: the server has a problem of its own; tell an administrator of this machine")
}

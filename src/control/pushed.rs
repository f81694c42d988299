//! `who-pushed`: whose push brought a commit, from the audit, and from gitolite's own log of the repository where that
//! is still there. gitolite's forms and shape.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::audit::{moment, unreadable};
use super::keys::looked_back_to;
use super::{Control, Reply, help, parse_repo};
use crate::admin::Access;
use crate::audit::{Kind, Outcome, Record};
use crate::git::{objects, odb};
use crate::model::{Actor, Oid, RepoName};

/// So long the audit is searched, the walks through the history that it takes included.
const SEARCH: Duration = Duration::from_secs(10);
/// What gitolite keeps inside a repository, if it is told to.
const GITOLITES_LOG: &str = "gl-log";

#[derive(Debug, Default, PartialEq, Eq)]
struct Question {
    tip: bool,
    json: bool,
    since: Option<String>,
    repo: String,
    /// The first digits of the commit, or all.
    commit: String,
}

impl Question {
    fn parse(words: &[&str]) -> Result<Self, String> {
        let (mut asked, mut names, mut words) = (Self::default(), Vec::new(), words.iter());
        while let Some(word) = words.next() {
            match *word {
                "--tip" | "-tip" => asked.tip = true,
                "--json" => asked.json = true,
                "--since" => asked.since = Some(moment(words.next().ok_or("'--since' needs a time")?)?),
                flag if flag.starts_with('-') => return Err(format!("unknown flag '{flag}'")),
                word => names.push(word),
            }
        }
        let [repo, commit] = names[..] else { return Err("a repository and a commit are needed".to_owned()) };
        let hex = commit.bytes().all(|b| b.is_ascii_hexdigit());
        if !hex || commit.len() < 4 || commit.len() > 40 {
            return Err(format!("'{commit}' is no commit; write four or more of its digits"));
        }
        (asked.repo, asked.commit) = (repo.to_owned(), commit.to_ascii_lowercase());
        Ok(asked)
    }
}

/// The repository of a line, for [`super::changed_repo`]: its master alone knows who pushed.
pub(super) fn changed_repo<'a>(words: &[&'a str]) -> Option<&'a str> {
    let asked = Question::parse(words).ok()?;
    words.iter().copied().find(|word| *word == asked.repo)
}

/// One push of one reference.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Push {
    time: String,
    /// The record's number; of gitolite's log, its transaction.
    id: String,
    user: String,
    #[serde(rename = "ref")]
    reference: String,
    old: String,
    new: String,
}

impl Push {
    /// gitolite's shape.
    fn told(&self) -> String {
        let Self { time, id, user, reference, old, new } = self;
        let time = time.get(..19).unwrap_or(time).replace('T', ".");
        format!("{time} {id} {user} {reference} {old} {new}\n")
    }
}

#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    repo: &'a str,
    commit: &'a str,
    pushes: &'a [Push],
    /// How far back the audit was searched, if not to its beginning or `--since`.
    #[serde(skip_serializing_if = "Option::is_none")]
    looked_back_to: Option<&'a str>,
}

impl Control {
    pub(super) async fn who_pushed(&self, actor: &Actor, words: &[&str]) -> Reply {
        let asked = match Question::parse(words) {
            Ok(asked) => asked,
            Err(why) => {
                let err = format!("FATAL: {why}\n{}", help::wrong(&["who-pushed"]).err);
                return Reply { err, code: 2, ..Reply::default() };
            }
        };
        let repo = match parse_repo(&asked.repo) {
            Ok(repo) => repo,
            Err(reply) => return reply,
        };
        if let Err(denial) = self.realm.authorize(actor, &repo, Access::Read) {
            return Reply::denied(&denial);
        }
        self.settle().await;
        self.blocking(actor, move |control, _| control.pushes_of(&repo, &asked)).await
    }

    fn pushes_of(&self, repo: &RepoName, asked: &Question) -> Reply {
        let dir = self.store.dir(repo);
        let mut bringing = Bringing { dir: &dir, commit: odb::find_commit(&dir, &asked.commit), known: HashMap::new() };
        let mut found = Vec::new();
        let mut look = |push: Push| {
            let tip = push.new.starts_with(&asked.commit);
            if if asked.tip { tip } else { bringing.by(&push) } {
                found.push(push);
            }
        };
        let mut reached = None;
        if let Some(files) = self.audit.files() {
            let until = Instant::now() + SEARCH;
            let read = files.each_back_until(&format!("\"repo\":\"{repo}\""), until, |line| {
                let Ok(record) = serde_json::from_str::<Record>(line) else { return ControlFlow::Continue(()) };
                if asked.since.as_deref().is_some_and(|since| record.time.as_str() < since) {
                    return ControlFlow::Break(());
                }
                // What a master sends was pushed there by somebody.
                if record.kind == Kind::Push && !record.user.is_empty() && record.repo == repo.as_str() {
                    for change in record.refs.iter().filter(|change| change.result == Outcome::Ok).rev() {
                        look(Push {
                            time: record.time.clone(),
                            id: record.seq.to_string(),
                            user: record.user.clone(),
                            reference: change.name.clone(),
                            old: change.old.clone(),
                            new: change.new.clone(),
                        });
                    }
                }
                ControlFlow::Continue(())
            });
            match read {
                Ok(time) => reached = time,
                Err(error) => return unreadable(&error),
            }
        }
        // What gitolite has written is older than all of that.
        let older =
            if reached.is_some() { Vec::new() } else { std::fs::read(dir.join(GITOLITES_LOG)).unwrap_or_default() };
        let older = String::from_utf8_lossy(&older);
        let older = older.lines().rev().filter_map(gitolites);
        older.filter(|push| asked.since.as_ref().is_none_or(|since| push.time >= *since)).for_each(&mut look);

        let out = if asked.json {
            let (repo, commit) = (repo.as_str(), asked.commit.as_str());
            let looked_back_to = reached.as_deref();
            let report = Report { schema: "gitmesh.who-pushed/1", repo, commit, pushes: &found, looked_back_to };
            serde_json::to_string(&report).expect("texts can always be written") + "\n"
        } else {
            found.iter().map(Push::told).collect()
        };
        let mut reply = Reply::done(out);
        if let Some(time) = reached.filter(|_| !asked.json) {
            reply.err = looked_back_to(&time);
        }
        if let crate::cluster::Place::There { master, .. } = self.cluster.locate(repo) {
            reply.err += &format!("warning: '{repo}' is a copy here; who pushes it is known on its master {master}\n");
        }
        reply
    }
}

/// Which pushes brought a commit: those after which the reference led to it, and before which it did not.
struct Bringing<'d> {
    dir: &'d Path,
    commit: Option<Oid>,
    /// What one push leaves is what the next one finds.
    known: HashMap<String, bool>,
}

impl Bringing<'_> {
    fn by(&mut self, push: &Push) -> bool {
        self.leads(&push.new) && !self.leads(&push.old)
    }

    fn leads(&mut self, oid: &str) -> bool {
        let Some(commit) = &self.commit else { return false };
        if let Some(known) = self.known.get(oid) {
            return *known;
        }
        let there = Oid::parse(oid).filter(|oid| !oid.is_zero());
        // What has been collected since leads nowhere.
        let leads =
            there.is_some_and(|oid| oid == *commit || objects::is_ancestor(self.dir, commit, &oid).unwrap_or(false));
        self.known.insert(oid.to_owned(), leads);
        leads
    }
}

/// A line of gitolite's log: time, transaction, `update`, repository, user, operation, reference, old, new, refex.
fn gitolites(line: &str) -> Option<Push> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [time, id, "update", _, user, _, reference, old, new, ..] = fields[..] else { return None };
    let [time, id, user, reference, old, new] = [time, id, user, reference, old, new].map(str::to_owned);
    Some(Push { time: time.replacen('.', "T", 1), id, user, reference, old, new })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gitolites_forms() {
        let asked = Question::parse(&["--tip", "docs", "ABCD12"]).expect("a question");
        assert!(asked.tip && asked.commit == "abcd12" && asked.repo == "docs");
        assert_eq!(changed_repo(&["docs", "abcd12"]), Some("docs"));
        for bad in
            [&["docs"][..], &["docs", "xyz1"], &["docs", "abc"], &["--since", "docs", "abcd"], &["-x", "a", "abcd"]]
        {
            assert!(Question::parse(bad).is_err(), "{bad:?}");
        }
        let line = "2026-11-21.08:30:00\t77\tupdate\tdocs\talice\tW\trefs/heads/main\t00\tff\trefs/.*";
        assert_eq!(
            gitolites(line).map(|push| push.told()).as_deref(),
            Some("2026-11-21.08:30:00 77 alice refs/heads/main 00 ff\n")
        );
        assert_eq!(gitolites("2026\t1\tssh\tARGV=x"), None);
    }
}

//! `lock`: files of a repository that one person works on at a time. gitolite's forms and shapes; the times are UTC.

use serde_json::json;

use super::{Control, Reply, help, parse_repo};
use crate::admin::{LockChange, LockError};
use crate::model::time::rfc3339;
use crate::model::{Actor, RepoName};
use crate::repo::FileLocks;

/// What a `lock` line asks for; without a change, the list.
struct Order<'a> {
    repo: &'a str,
    change: Option<LockChange>,
    json: bool,
}

fn parse<'a>(words: &[&'a str]) -> Option<Order<'a>> {
    let (words, json) = match words {
        [words @ .., "--json"] if words.first() == Some(&"-ls") => (words, true),
        words => (words, false),
    };
    let (repo, change) = match *words {
        ["-ls", repo] => (repo, None),
        ["-l", repo, file] => (repo, Some(LockChange::Take(file.to_owned()))),
        ["-u", repo, file] => (repo, Some(LockChange::Release(file.to_owned()))),
        ["--break", repo, file] => (repo, Some(LockChange::Break(file.to_owned()))),
        _ => return None,
    };
    Some(Order { repo, change, json })
}

/// The repository of a line, for [`super::changed_repo`]: the list too is its master's alone.
pub(super) fn changed_repo<'a>(words: &[&'a str]) -> Option<&'a str> {
    parse(words).map(|order| order.repo)
}

impl Control {
    pub(super) async fn lock(&self, actor: &Actor, words: &[&str]) -> Reply {
        let Some(Order { repo, change, json }) = parse(words) else { return help::wrong(&["lock"]) };
        let repo = match parse_repo(repo) {
            Ok(repo) => repo,
            Err(reply) => return reply,
        };
        self.blocking(actor, move |control, actor| {
            let done = match &change {
                None if json => control.realm.file_locks(actor, &repo).map(|locks| told_json(&repo, &locks)),
                None => control.realm.file_locks(actor, &repo).map(|locks| told(&locks)),
                Some(change) => control.realm.change_file_lock(actor, &repo, change).map(|()| {
                    control.mirror.mark(&repo);
                    String::new()
                }),
            };
            done.map_or_else(
                |error| match error {
                    LockError::Denied(denial) => Reply::fail(5, denial.to_string()),
                    LockError::Objects(_) | LockError::Failed(_) => {
                        tracing::error!(error = &error as &dyn std::error::Error, %repo, "file locks");
                        Reply::broken("the locks cannot be read or written", &error)
                    }
                    error => Reply::fail(1, format!("FATAL: {error}")),
                },
                Reply::done,
            )
        })
        .await
    }
}

fn told_json(repo: &RepoName, locks: &FileLocks) -> String {
    let held: Vec<_> = locks
        .held
        .iter()
        .map(|(path, lock)| json!({ "path": path, "user": lock.user, "since": rfc3339(lock.since) }))
        .collect();
    let broken: Vec<_> = locks.broken.iter().map(|b| {
        json!({ "path": b.path, "by": b.by, "at": rfc3339(b.at), "user": b.lock.user, "since": rfc3339(b.lock.since) })
    }).collect();
    format!("{}\n", json!({ "schema": "gitmesh.lock/1", "repo": repo.as_str(), "held": held, "broken": broken }))
}

fn told(locks: &FileLocks) -> String {
    let mut out = "\n# locks held:\n\n".to_owned();
    for (path, lock) in &locks.held {
        out.push_str(&format!("{}\t{path}\t({})\n", lock.user, rfc3339(lock.since)));
    }
    out.push_str("\n# locks broken:\n\n");
    for broken in &locks.broken {
        let (by, path, at) = (&broken.by, &broken.path, rfc3339(broken.at));
        let since = rfc3339(broken.lock.since);
        out.push_str(&format!("{by}\t{path}\t({at})\t(locked by {} at {since})\n", broken.lock.user));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        assert_eq!(changed_repo(&["-ls", "r"]), Some("r"));
        assert_eq!(changed_repo(&["--break", "r", "a b"]), Some("r"));
        for wrong in [&["-l", "r"][..], &["-ls"], &["r", "-l", "f"], &["-x", "r", "f"], &["-l", "r", "f", "g"]] {
            assert!(parse(wrong).is_none(), "{wrong:?}");
        }
        assert_eq!(told(&FileLocks::default()), "\n# locks held:\n\n\n# locks broken:\n\n");
    }
}

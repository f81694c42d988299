//! `symbolic-ref`: the default branch, in the forms of git-symbolic-ref(1) that are about it.

use serde::Serialize;

use super::{Control, Reply, help, parse_repo};
use crate::admin::{ADMIN_REPO, Access, Denial};
use crate::git::{objects, odb, ref_state};
use crate::model::{Actor, RefName, RepoName};

#[derive(Debug, PartialEq, Eq)]
enum Order {
    Show { short: bool, quiet: bool, json: bool },
    Set(RefName),
}

fn parse<'a>(words: &[&'a str]) -> Option<(&'a str, Order)> {
    let (repo, rest) = words.split_first()?;
    let (mut short, mut quiet, mut json, mut reason) = (false, false, false, false);
    let mut names = Vec::new();
    let mut rest = rest.iter();
    while let Some(word) = rest.next() {
        match *word {
            "--short" => short = true,
            "-q" | "--quiet" => quiet = true,
            "--json" => json = true,
            // Said for a reflog, which a bare repository does not keep.
            "-m" => {
                rest.next()?;
                reason = true;
            }
            word if word.starts_with('-') => return None,
            word => names.push(word),
        }
    }
    match names[..] {
        ["HEAD"] if !reason => Some((repo, Order::Show { short, quiet, json })),
        ["HEAD", branch] if !short && !quiet && !json && branch.starts_with("refs/heads/") => {
            Some((repo, Order::Set(RefName::parse(branch)?)))
        }
        _ => None,
    }
}

/// The repository that a line changes, for [`super::changed_repo`].
pub(super) fn changed_repo<'a>(words: &[&'a str]) -> Option<&'a str> {
    match parse(words)? {
        (repo, Order::Set(_)) => Some(repo),
        (_, Order::Show { .. }) => None,
    }
}

#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    repo: &'a str,
    head: Option<&'a str>,
}

impl Control {
    pub(super) async fn symbolic_ref(&self, actor: &Actor, words: &[&str]) -> Reply {
        let Some((repo, order)) = parse(words) else { return help::wrong(&["symbolic-ref"]) };
        let repo = match parse_repo(repo) {
            Ok(repo) => repo,
            Err(reply) => return reply,
        };
        self.blocking(actor, move |control, actor| match &order {
            Order::Show { short, quiet, json } => control.show_head(actor, &repo, *short, *quiet, *json),
            Order::Set(branch) => control.set_head(actor, &repo, branch),
        })
        .await
    }

    fn show_head(&self, actor: &Actor, repo: &RepoName, short: bool, quiet: bool, json: bool) -> Reply {
        let grant = match self.realm.authorize(actor, repo, Access::Read) {
            Ok(grant) => grant,
            Err(denial) => return Reply::denied(&denial),
        };
        let Some(open) = self.store.open(&grant) else { return elsewhere(repo) };
        let head = match odb::head_branch(open.dir()) {
            Ok(head) => head,
            Err(error) => return unreadable(repo, &error),
        };
        let name = head.as_ref().map(|head| match head.as_str().strip_prefix("refs/heads/") {
            Some(branch) if short => branch,
            _ => head.as_str(),
        });
        if json {
            let report = Report { schema: "gitmesh.symbolic-ref/1", repo: repo.as_str(), head: name };
            return Reply::done(serde_json::to_string(&report).expect("texts can always be written") + "\n");
        }
        match name {
            Some(name) => Reply::done(format!("{name}\n")),
            None if quiet => Reply { code: 1, ..Reply::default() },
            None => Reply::fail(1, "FATAL: HEAD is detached: it names an object and no branch"),
        }
    }

    fn set_head(&self, actor: &Actor, repo: &RepoName, branch: &RefName) -> Reply {
        let grant = match self.realm.authorize(actor, repo, Access::Write) {
            Ok(grant) => grant,
            Err(denial) => return Reply::denied(&denial),
        };
        if let Some(denial) = self.realm.refuse_here(actor, repo, Access::Write) {
            return Reply::denied(&denial);
        }
        if repo.as_str() == ADMIN_REPO {
            // What it names is in force, and must have been compiled before.
            return Reply::denied(&Denial {
                first: format!("FATAL: HEAD of {ADMIN_REPO} says which branch is in force"),
                you: None,
                rule: None,
                help: "push the configuration that is wanted to that branch".to_owned(),
                code: Denial::NAMED,
            });
        }
        let Some(open) = self.store.open(&grant) else { return elsewhere(repo) };
        if let Err(error) = objects::set_head(open.dir(), branch) {
            return unreadable(repo, &error);
        }
        tracing::info!(%repo, user = %actor, head = %branch, "HEAD was changed");
        self.mirror.mark(repo);
        let mut reply = Reply::default();
        if ref_state::read_refs(open.dir())
            .is_ok_and(|found| !found.refs.is_empty() && !found.refs.contains_key(branch))
        {
            reply.err =
                format!("warning: {branch} does not exist yet; until it is pushed, a clone checks nothing out\n");
        }
        reply
    }
}

fn elsewhere(repo: &RepoName) -> Reply {
    Reply::fail(4, format!("FATAL: '{repo}' is configured but not on this node's disk"))
}

fn unreadable(repo: &RepoName, error: &(dyn std::error::Error + 'static)) -> Reply {
    tracing::error!(error, %repo, "HEAD cannot be read or written");
    Reply::broken("HEAD cannot be read or written", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gits_forms() {
        let show = |short, quiet, json| Some(("a", Order::Show { short, quiet, json }));
        assert_eq!(parse(&["a", "HEAD"]), show(false, false, false));
        assert_eq!(parse(&["a", "-q", "--short", "HEAD", "--json"]), show(true, true, true));
        let set = parse(&["a", "-m", "why", "HEAD", "refs/heads/dev"]);
        assert_eq!(set, RefName::parse("refs/heads/dev").map(|name| ("a", Order::Set(name))));
        for bad in [
            &["a"][..],
            &[],
            &["a", "-d", "HEAD"],
            &["a", "refs/heads/x"],
            &["a", "HEAD", "dev"],
            &["a", "HEAD", "refs/heads/..", "x"],
            &["a", "HEAD", "refs/tags/v1"],
            &["a", "HEAD", "refs/heads/a b"],
            &["a", "-m"],
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
        assert_eq!(changed_repo(&["a", "HEAD"]), None);
    }
}

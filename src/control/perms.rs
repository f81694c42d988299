//! `create` and `perms`: repositories that users make, and the roles they give in them. gitolite's forms and shapes.

use serde_json::json;
use tokio::io::AsyncRead;

use super::typed::typed;
use super::{Control, Reply, parse_repo};
use crate::admin::{CreateError, Denial, RoleChange, RolesError};
use crate::model::{Actor, RepoName};
use crate::repo::ROLES_MAX;

const USAGE: &str = "\
usage: perms REPO -l [--json]   the roles that you gave in a repository of yours
       perms REPO -lr [--json]  what each role may do in it
       perms REPO + ROLE USER   give a role to a user, to a @group or to @all
       perms REPO - ROLE USER   take it away
       perms REPO < FILE        replace all roles by the lines of a file, as -l prints them
       perms -c REPO < FILE     the same, and make the repository if it is missing";

/// What a `perms` line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Order<'a> {
    List(&'a str),
    Rules(&'a str),
    Add(&'a str, &'a str, &'a str),
    Remove(&'a str, &'a str, &'a str),
    Replace { repo: &'a str, create: bool },
}

fn parse<'a>(words: &[&'a str]) -> Option<Order<'a>> {
    let order = match *words {
        [repo, "-l"] | ["-l", repo] => Order::List(repo),
        [repo, "-lr"] | ["-lr", repo] => Order::Rules(repo),
        [repo, "+", role, user] => Order::Add(repo, role, user),
        [repo, "-", role, user] => Order::Remove(repo, role, user),
        ["-c", repo] | [repo, "-c"] => Order::Replace { repo, create: true },
        [repo] if !repo.starts_with('-') => Order::Replace { repo, create: false },
        _ => return None,
    };
    Some(order)
}

/// The repository that a line changes, for [`super::changed_repo`].
pub(super) fn changed_repo<'a>(words: &[&'a str]) -> Option<&'a str> {
    match parse(words)? {
        Order::List(_) | Order::Rules(_) => None,
        Order::Add(repo, ..) | Order::Remove(repo, ..) | Order::Replace { repo, .. } => Some(repo),
    }
}

pub(super) fn reads_input(words: &[&str]) -> bool {
    matches!(parse(words), Some(Order::Replace { .. }))
}

impl Control {
    pub(super) async fn create(&self, actor: &Actor, repo: &str) -> Reply {
        let repo = match parse_repo(repo) {
            Ok(repo) => repo,
            Err(reply) => return reply,
        };
        self.blocking(actor, move |control, actor| match control.make(actor, &repo) {
            Ok(true) => Reply::done(format!("Initialized empty Git repository in {repo}.git\n")),
            Ok(false) => Reply::done(String::new()),
            Err(reply) => reply,
        })
        .await
    }

    fn make(&self, actor: &Actor, repo: &RepoName) -> Result<bool, Reply> {
        match self.realm.create(actor, repo) {
            Ok(made) => {
                self.mirror.mark(repo);
                Ok(made)
            }
            Err(CreateError::Denied(denial)) => Err(denied(&denial)),
            Err(CreateError::Failed(error)) => {
                tracing::error!(%error, %repo, "a repository cannot be made");
                Err(Reply::broken("the repository cannot be made", &error))
            }
        }
    }

    pub(super) async fn perms(&self, actor: &Actor, words: &[&str], input: impl AsyncRead + Unpin + Send) -> Reply {
        let (words, json) = match words {
            [words @ .., "--json"] => (words, true),
            words => (words, false),
        };
        let Some(order) = parse(words).filter(|order| !json || matches!(order, Order::List(_) | Order::Rules(_)))
        else {
            return Reply::fail(2, USAGE);
        };
        let (repo, change): (&str, Option<(char, String, String)>) = match order {
            Order::List(repo) | Order::Rules(repo) | Order::Replace { repo, .. } => (repo, None),
            Order::Add(repo, role, user) => (repo, Some(('+', role.to_owned(), user.to_owned()))),
            Order::Remove(repo, role, user) => (repo, Some(('-', role.to_owned(), user.to_owned()))),
        };
        let repo = match parse_repo(repo) {
            Ok(repo) => repo,
            Err(reply) => return reply,
        };
        match order {
            Order::List(_) => {
                self.blocking(actor, move |control, actor| match control.realm.roles(actor, &repo) {
                    Ok(roles) if json => Reply::done(roles_json(&repo, &roles)),
                    Ok(roles) => Reply::done(roles),
                    Err(denial) => denied(&denial),
                })
                .await
            }
            Order::Rules(_) => {
                self.blocking(actor, move |control, actor| match control.realm.role_rules(actor, &repo) {
                    Ok(rules) if json => Reply::done(rules_json(&repo, &rules)),
                    Ok(rules) => Reply::done(table(&rules)),
                    Err(denial) => denied(&denial),
                })
                .await
            }
            Order::Add(..) | Order::Remove(..) => {
                let Some((sign, role, member)) = change else { return Reply::fail(2, USAGE) };
                self.blocking(actor, move |control, actor| {
                    let (role, member) = (role.as_str(), member.as_str());
                    let change = match sign {
                        '+' => RoleChange::Add { role, member },
                        _ => RoleChange::Remove { role, member },
                    };
                    let nothing = match sign {
                        '+' => format!("warning: {member} is in {role} of '{repo}' already\n"),
                        _ => format!("warning: {member} is not in {role} of '{repo}'\n"),
                    };
                    control.change(actor, &repo, &change, nothing)
                })
                .await
            }
            Order::Replace { create, .. } => {
                let text = match typed(input, ROLES_MAX).await {
                    Ok(text) => text,
                    Err(why) => return Reply::fail(2, format!("FATAL: {why}; many names fit into a group")),
                };
                let _pass = match self.pass(&repo) {
                    Ok(pass) => pass,
                    Err(reply) => return reply,
                };
                self.blocking(actor, move |control, actor| {
                    // To who may not see it, one that is there is as one that is not: the rules say whether it may be made.
                    if create
                        && control.realm.roles(actor, &repo).is_err()
                        && let Err(reply) = control.make(actor, &repo)
                    {
                        return reply;
                    }
                    if text.trim().is_empty() {
                        // An end of input that nobody meant must not take every role away.
                        return if create { Reply::default() } else { Reply::fail(2, USAGE) };
                    }
                    control.change(actor, &repo, &RoleChange::Replace(&text), String::new())
                })
                .await
            }
        }
    }

    fn change(&self, actor: &Actor, repo: &RepoName, change: &RoleChange<'_>, nothing: String) -> Reply {
        match self.realm.change_roles(actor, repo, change) {
            Ok(true) => {
                self.mirror.mark(repo);
                Reply::done(String::new())
            }
            Ok(false) => Reply { err: nothing, ..Reply::default() },
            Err(RolesError::Denied(denial)) => denied(&denial),
            Err(error @ RolesError::UnknownRole(_)) => {
                let rules = self.realm.role_rules(actor, repo).unwrap_or_default();
                let table = table(&rules);
                Reply::fail(
                    1,
                    format!("FATAL: {error}; the roles that a rule names:\n{}", table.trim_end_matches('\n')),
                )
            }
            Err(RolesError::Failed(error)) => {
                tracing::error!(%error, %repo, "roles cannot be written");
                Reply::broken("the roles cannot be written", &error)
            }
            Err(error) => Reply::fail(1, format!("FATAL: {error}")),
        }
    }
}

fn denied(denial: &Denial) -> Reply {
    Reply::fail(5, denial.to_string())
}

fn roles_json(repo: &RepoName, roles: &str) -> String {
    let lines = roles.lines().map(|line| {
        let mut words = line.split_whitespace().filter(|word| *word != "=");
        json!({ "role": words.next().unwrap_or_default(), "members": words.collect::<Vec<_>>() })
    });
    let lines: Vec<_> = lines.collect();
    format!("{}\n", json!({ "schema": "gitmesh.perms/1", "repo": repo.as_str(), "roles": lines }))
}

fn rules_json(repo: &RepoName, rules: &[(String, String, String)]) -> String {
    let rules: Vec<_> =
        rules.iter().map(|(perm, refex, role)| json!({ "perm": perm, "refex": refex, "role": role })).collect();
    format!("{}\n", json!({ "schema": "gitmesh.perms.rules/1", "repo": repo.as_str(), "rules": rules }))
}

/// gitolite's table: a tab, the permission, a tab, the refex padded, a tab, `=`, a tab, the role.
fn table(rules: &[(String, String, String)]) -> String {
    let short = |refex: &str| match refex {
        "refs/.*" => "--any--".to_owned(),
        refex => refex.strip_prefix("refs/heads/").unwrap_or(refex).to_owned(),
    };
    let rows: Vec<_> = rules.iter().map(|(perm, refex, role)| (perm.as_str(), short(refex), role.as_str())).collect();
    let width = rows.iter().map(|(_, refex, _)| refex.len()).max().unwrap_or(0).max(3);
    let mut out = format!("\tperm\t{:width$}\t \trole\n\t----\t{:width$}\t \t----\n", "ref", "---");
    for (perm, refex, role) in rows {
        out.push_str(&format!("\t{perm}\t{refex:width$}\t=\t{role}\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        assert_eq!(parse(&["a", "-l"]), Some(Order::List("a")));
        assert_eq!(parse(&["a", "-lr"]), Some(Order::Rules("a")));
        assert_eq!(parse(&["a", "+", "READERS", "bob"]), Some(Order::Add("a", "READERS", "bob")));
        assert_eq!(parse(&["a", "-", "READERS", "bob"]), Some(Order::Remove("a", "READERS", "bob")));
        assert_eq!(parse(&["-c", "a"]), Some(Order::Replace { repo: "a", create: true }));
        assert_eq!(parse(&["a"]), Some(Order::Replace { repo: "a", create: false }));
        for bad in [&[][..], &["-h"], &["a", "+", "READERS"], &["a", "*", "READERS", "bob"]] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn gitolites_table() {
        let rule = |perm: &str, refex: &str, role: &str| (perm.to_owned(), refex.to_owned(), role.to_owned());
        let one = [rule("R", "refs/.*", "READERS")];
        let header = "\tperm\tref    \t \trole\n\t----\t---    \t \t----\n";
        assert_eq!(table(&one), format!("{header}\tR\t--any--\t=\tREADERS\n"));
        let two = [rule("RW", "refs/heads/dev", "WRITERS"), rule("RW+", "refs/tags/", "WRITERS")];
        assert!(table(&two).contains("\tRW\tdev       \t=\tWRITERS\n\tRW+\trefs/tags/\t=\t"));
    }
}

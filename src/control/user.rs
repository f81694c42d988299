//! `user list|show|lint`, for administrators: who is known by which keys, and what they may do. Nothing is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Control, Reply, help};
use crate::admin::Live;
use crate::audit::Record;
use crate::model::{Actor, HostName, RepoName, UserName};
use crate::parallel::of_each;
use crate::policy::{Facts, Op, Owner, Target};
use crate::repo::Ownership;

/// So long the audit is searched for somebody.
const SEARCH: Duration = Duration::from_secs(2);
/// Repositories named of those that somebody may read, and of those that they may write.
const NAMED: usize = 100;

#[derive(Serialize)]
struct Listed {
    user: String,
    keys: usize,
    groups: Vec<String>,
    /// Whether a rule names the user, directly or by a group.
    named: bool,
}

#[derive(Serialize)]
struct Key {
    #[serde(rename = "type")]
    kind: String,
    fingerprint: String,
    file: String,
    line: u32,
}

/// Repositories that somebody may use in one way.
#[derive(Default, Serialize)]
struct Usable {
    count: usize,
    /// The first of them by name.
    names: Vec<String>,
}

#[derive(Serialize)]
struct Seen {
    time: String,
    from: String,
    what: String,
}

#[derive(Serialize)]
struct Report {
    schema: &'static str,
    user: String,
    keys: Vec<Key>,
    groups: Vec<String>,
    administrator: bool,
    reads: Usable,
    writes: Usable,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen: Option<Seen>,
    /// How far back the audit was searched for that, if not to its beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    looked_back_to: Option<String>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Finding {
    kind: &'static str,
    /// A user, or a file of `keydir/`.
    about: String,
    text: String,
    cure: String,
}

/// A pattern and `--json`, in any order.
pub(super) fn listing<'w>(words: &[&'w str]) -> Option<(Option<&'w str>, bool)> {
    let (flags, words): (Vec<&str>, Vec<&str>) = words.iter().copied().partition(|word| word.starts_with('-'));
    let json = match flags[..] {
        [] => false,
        ["--json" | "-json"] => true,
        _ => return None,
    };
    match words[..] {
        [] => Some((None, json)),
        [word] => Some((Some(word), json)),
        _ => None,
    }
}

/// An unanchored pattern on names, as in `info`.
pub(super) fn pattern(word: Option<&str>) -> Result<impl Fn(&str) -> bool, Reply> {
    let built = word.map(|word| regex::RegexBuilder::new(word).size_limit(1 << 20).build()).transpose();
    let pattern = built.map_err(|error| Reply::fail(2, format!("FATAL: this is no pattern: {error}")))?;
    Ok(move |name: &str| pattern.as_ref().is_none_or(|pattern| pattern.is_match(name)))
}

pub(super) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("texts and numbers can always be written") + "\n"
}

impl Control {
    pub(super) async fn user_command(&self, actor: &Actor, words: &[&str]) -> Reply {
        let (order, rest) = match *words {
            [order @ ("list" | "show" | "lint"), ref rest @ ..] => (order.to_owned(), rest),
            _ => return help::wrong(&["user"]),
        };
        let Some((word, json)) = listing(rest) else { return help::wrong(&["user", &order]) };
        if (order == "show") != word.is_some() && order != "list" {
            return help::wrong(&["user", &order]);
        }
        if let Err(refused) = self.administers(actor, "who the users are") {
            return refused;
        }
        let word = word.map(str::to_owned);
        self.blocking(actor, move |control, _| {
            let told = match (order.as_str(), word.as_deref()) {
                ("show", Some(user)) => control.show_user(user, json),
                ("lint", _) => Ok(control.lint_users(json)),
                (_, word) => control.list_users(word, json),
            };
            told.unwrap_or_else(|reply| reply)
        })
        .await
    }

    fn list_users(&self, word: Option<&str>, json: bool) -> Result<Reply, Reply> {
        let wanted = pattern(word)?;
        let live = self.realm.live();
        let mut keys: BTreeMap<&str, usize> = BTreeMap::new();
        for (user, _, _) in live.keyring.keys() {
            *keys.entry(user.as_str()).or_default() += 1;
        }
        let people = live.policy.people();
        let all: BTreeSet<&str> = keys.keys().copied().chain(people.iter().copied()).collect();
        let node = |name: &str| name.strip_prefix("server-").is_some_and(|node| HostName::new(node).is_ok());
        let users: Vec<Listed> = all
            .into_iter()
            .filter(|name| wanted(name) && (keys.contains_key(name) || !node(name)))
            .map(|name| Listed {
                user: name.to_owned(),
                keys: keys.get(name).copied().unwrap_or(0),
                groups: live.policy.groups_of_user(name).into_iter().map(str::to_owned).collect(),
                named: people.contains(name),
            })
            .collect();
        if json {
            let document = serde_json::json!({"schema": "gitmesh.users/1", "users": users});
            return Ok(Reply::done(format!("{document}\n")));
        }
        let width = users.iter().map(|user| user.user.len()).max().unwrap_or(0);
        let mut out = String::new();
        for Listed { user, keys, groups, named } in &users {
            let keys = match keys {
                0 => "no key".to_owned(),
                1 => "1 key".to_owned(),
                n => format!("{n} keys"),
            };
            let rule = if *named { "" } else { "(in no rule)" };
            let more = [groups.join(" ").as_str(), rule].join(" ").trim().to_owned();
            // A String takes every write.
            let _ = writeln!(out, "{}", format!("{user:width$}\t{keys}\t{more}").trim_end());
        }
        Ok(Reply::done(out))
    }

    fn show_user(&self, name: &str, json: bool) -> Result<Reply, Reply> {
        let live = self.realm.live();
        let unknown = || Reply::fail(4, format!("FATAL: no key and no rule names a user '{name}'"));
        let user = UserName::new(name).map_err(|_| unknown())?;
        let mut keys: Vec<Key> = live.keyring.keys().filter(|(who, ..)| **who == user).map(key).collect();
        keys.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        if keys.is_empty() && !live.policy.people().contains(name) {
            return Err(unknown());
        }
        let (mut reads, mut writes) = (Usable::default(), Usable::default());
        let repos = self.list()?;
        let rights = of_each(&repos, |repo| {
            let disk = self.store.ownership(repo)?;
            Some(rules_let(&live, repo, &disk, name))
        });
        for (repo, (read, write)) in repos.iter().zip(rights).filter_map(|(repo, rights)| Some((repo, rights?))) {
            for (may, usable) in [(read, &mut reads), (write, &mut writes)] {
                usable.count += usize::from(may);
                if may && usable.names.len() < NAMED {
                    usable.names.push(repo.to_string());
                }
            }
        }
        for usable in [&mut reads, &mut writes] {
            usable.names.sort_unstable();
        }
        let (last_seen, looked_back_to) = self.last_seen(name);
        let report = Report {
            schema: "gitmesh.user/1",
            user: name.to_owned(),
            groups: live.policy.groups_of_user(name).into_iter().map(str::to_owned).collect(),
            administrator: self.rules_let_administer(name),
            keys,
            reads,
            writes,
            last_seen,
            looked_back_to,
        };
        Ok(Reply::done(if json { to_json(&report) } else { report.to_string() }))
    }

    fn rules_let_administer(&self, user: &str) -> bool {
        let admin = RepoName::new(crate::admin::ADMIN_REPO).expect("a constant, and a valid name");
        let decide = |policy: &crate::policy::Policy, facts: &Facts<'_>| {
            policy.decide(facts, user, Op::Write, Target::Any).allowed
        };
        self.realm.with_rules(&admin, "", decide)
    }

    /// The newest access, push or command of theirs that the audit knows; and how far back that was looked for, if not
    /// to its beginning.
    fn last_seen(&self, user: &str) -> (Option<Seen>, Option<String>) {
        let mut seen = None;
        let needle = format!("\"user\":{}", serde_json::Value::from(user));
        let Some(files) = self.audit.files() else { return (None, None) };
        let until = Instant::now() + SEARCH;
        let looked = files.each_back_until(&needle, until, |line| match serde_json::from_str::<Record>(line) {
            Ok(record) if record.user == user => {
                // The words of a command name its repository themselves.
                let Record { what, repo, .. } = &record;
                let what = if what.contains(repo.as_str()) { what.clone() } else { format!("{what} {repo}") };
                seen = Some(Seen { time: record.time, from: record.from, what });
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        });
        let reached = looked.unwrap_or_else(|error| {
            tracing::warn!(%error, "the audit cannot be read, to see when somebody was here last");
            None
        });
        (seen, reached)
    }

    fn lint_users(&self, json: bool) -> Reply {
        let live = self.realm.live();
        let (holders, people) = (live.keyring.users(), live.policy.people());
        let known: BTreeSet<&str> = holders.iter().map(|user| user.as_str()).collect();
        let node = |name: &str| name.strip_prefix("server-").is_some_and(|node| HostName::new(node).is_ok());
        let mut found = BTreeSet::new();
        // Whom a CA vouches for needs no key.
        let certified = !live.authorities.is_empty();
        for user in people.iter().filter(|user| !certified && !known.contains(**user) && !node(user)) {
            found.insert(Finding {
                kind: "no-key",
                about: (*user).to_owned(),
                text: "stands in rules and has no key".to_owned(),
                cure: format!("add keydir/{user}.pub, or take the name out of the rules and groups"),
            });
        }
        // With a rule for everybody, everybody is in one.
        let all = live.policy.users().contains("@all");
        for user in known.iter().filter(|user| !all && !people.contains(**user)) {
            found.insert(Finding {
                kind: "no-rule",
                about: (*user).to_owned(),
                text: "has a key and stands in no rule".to_owned(),
                cure: "remove the key, or name the user in a rule or group".to_owned(),
            });
        }
        for remark in live.key_remarks() {
            let place = if remark.line > 0 { format!("{}:{}", remark.file, remark.line) } else { remark.file };
            found.insert(Finding {
                kind: remark.class,
                about: place,
                text: format!("{} [{}]", remark.message, remark.code),
                cure: remark.help.unwrap_or_else(|| format!("gitmesh explain {}", remark.code)),
            });
        }
        let code = i32::from(!found.is_empty());
        if json {
            let document = serde_json::json!({"schema": "gitmesh.user.lint/1", "findings": found});
            return Reply { out: format!("{document}\n"), code, ..Reply::default() };
        }
        let line = |one: &Finding| format!("{}: {}\n  help: {}\n", one.about, one.text, one.cure);
        Reply { out: found.iter().map(line).collect(), code, ..Reply::default() }
    }
}

fn rules_let(live: &Live, repo: &RepoName, disk: &Ownership, user: &str) -> (bool, bool) {
    let creator = disk.creator.as_ref().map(UserName::as_str);
    let facts = Facts { creator, roles: disk.roles.as_deref(), ..Facts::existing(repo) };
    let walk = live.policy.walk(&facts, user);
    let may = |op| walk.decide(op, Target::Any).allowed;
    (may(Op::Read), may(Op::Write))
}

fn key((_, blob, owner): (&UserName, &[u8], &Owner)) -> Key {
    // RFC 4253, section 6.6: the blob begins with the length of its type's name, and the name.
    let length = blob.get(..4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()).map_or(0, u32::from_be_bytes);
    let kind = blob.get(4..4 + (length as usize).min(blob.len().saturating_sub(4))).unwrap_or_default();
    Key {
        kind: String::from_utf8_lossy(kind).into_owned(),
        fingerprint: owner.fingerprint.to_string(),
        file: owner.file.clone(),
        line: owner.line,
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let none = |text: String| if text.is_empty() { "none".to_owned() } else { text };
        writeln!(f, "user: {}", self.user)?;
        if self.administrator {
            writeln!(f, "administrator: yes")?;
        }
        if self.keys.is_empty() {
            writeln!(f, "keys: none")?;
        }
        for Key { kind, fingerprint, file, line } in &self.keys {
            writeln!(f, "key: {fingerprint} {kind} {file}:{line}")?;
        }
        writeln!(f, "groups: {}", none(self.groups.join(" ")))?;
        for (word, Usable { count, names }) in [("reads", &self.reads), ("writes", &self.writes)] {
            let more = count.saturating_sub(names.len());
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            writeln!(f, "{word}: {}{more}", none(names.join(" ")))?;
        }
        match &self.last_seen {
            Some(Seen { time, from, what }) => writeln!(f, "last seen: {time} from {from}: {what}"),
            None => match &self.looked_back_to {
                Some(time) => writeln!(f, "last seen: not since {time}; the audit was looked through no further"),
                None => writeln!(f, "last seen: not in the audit"),
            },
        }
    }
}

//! `keys`: who has which keys, and how users add, date and remove their own. Every change is a commit in the admin
//! repository by whoever ordered it; what users may do is said by the options `keys.*` there.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use tokio::io::AsyncRead;

use super::{Control, Reply, help};
use crate::admin::{ADMIN_REPO, Denial, Waiting};
use crate::audit::Record;
use crate::model::setting::parse_duration;
use crate::model::time::{Stamp, rfc3339};
use crate::model::{Actor, RepoName, UserName};
use crate::policy::{AddressList, KeyRules, UserKey, key_type, user_keys};

/// So long the audit is searched for the last use of keys.
const SEARCH: Duration = Duration::from_millis(200);

/// What a `keys` line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Order {
    List { all: bool, json: bool },
    Add { name: Option<String>, end: Option<Stamp> },
    Expire { key: String, end: Option<Stamp>, force: bool },
    Remove { key: String, force: bool },
    Approve(String),
    Reject(String),
}

#[derive(Debug, PartialEq, Eq)]
struct Asked {
    order: Order,
    user: Option<String>,
}

/// `30d` from now, a date or a moment in UTC, `now`; `never` is none.
fn parse_end(text: &str, now: Stamp) -> Result<Option<Stamp>, String> {
    match text {
        "never" => return Ok(None),
        "now" => return Ok(Some(now)),
        _ => {}
    }
    if let Ok(length) = parse_duration(text) {
        let end = now.moment().checked_add(length).filter(|end| rfc3339(*end).len() == 20);
        return end.map(|end| Some(Stamp::new(end))).ok_or_else(|| format!("'{text}' is too long a time"));
    }
    let digits: String = text.chars().filter(|c| !matches!(c, '-' | ':' | 'T' | 'Z')).collect();
    let end = Stamp::parse_compact(&digits);
    end.map(Some).ok_or_else(|| {
        format!("'{text}' is no time; write 2026-12-01, 2026-12-01T15:30Z (UTC), how long from now: 30d, or never, now")
    })
}

fn parse(words: &[&str], now: Stamp) -> Result<Asked, String> {
    let (mut plain, mut user, mut end) = (Vec::new(), None, None);
    let (mut json, mut all, mut force) = (false, false, false);
    let mut words = words.iter().copied();
    while let Some(word) = words.next() {
        let (flag, value) = word.split_once('=').map_or((word, None), |(flag, value)| (flag, Some(value)));
        let mut given = || value.or_else(|| words.next()).ok_or_else(|| format!("'{flag}' needs a value"));
        match flag {
            "--user" => user = Some(given()?.to_owned()),
            "--expires" => end = Some(parse_end(given()?, now)?),
            "--json" => json = true,
            "--all" => all = true,
            "--force" => force = true,
            _ if word.starts_with("--") => return Err(format!("unknown flag '{word}'")),
            _ => plain.push(word),
        }
    }
    let own = |word: &str| word.to_owned();
    let order = match (plain[..].first().copied(), plain.get(1..).unwrap_or_default()) {
        (Some("list"), []) => Order::List { all, json },
        (Some("add"), []) => Order::Add { name: None, end: end.flatten() },
        (Some("add"), [name]) => Order::Add { name: Some(own(name)), end: end.flatten() },
        (Some("expire"), [key, at]) => Order::Expire { key: own(key), end: parse_end(at, now)?, force },
        (Some("remove"), [key]) => Order::Remove { key: own(key), force },
        (Some("approve"), [code]) => Order::Approve(own(code)),
        (Some("reject"), [code]) => Order::Reject(own(code)),
        _ => return Err(String::new()),
    };
    let fits = match order {
        Order::List { .. } => end.is_none() && !force && (!all || user.is_none()),
        Order::Add { .. } => !json && !all && !force,
        Order::Expire { .. } | Order::Remove { .. } => !json && !all && end.is_none(),
        Order::Approve(_) | Order::Reject(_) => !json && !all && !force && end.is_none() && user.is_none(),
    };
    if fits { Ok(Asked { order, user }) } else { Err("these flags do not go together".to_owned()) }
}

/// For [`super::changed_repo`]: all but the list is a commit.
pub(super) fn changed_repo<'a>(words: &[&'a str]) -> Option<&'a str> {
    let order = parse(words, Stamp::new(SystemTime::UNIX_EPOCH)).ok()?.order;
    (!matches!(order, Order::List { .. })).then_some(ADMIN_REPO)
}

pub(super) fn reads_input(words: &[&str]) -> bool {
    words.first() == Some(&"add")
}

impl Control {
    pub(super) async fn keys(
        &self,
        actor: &Actor,
        words: &[&str],
        from: &str,
        input: impl AsyncRead + Unpin + Send,
    ) -> Reply {
        let asked = match parse(words, Stamp::new(SystemTime::now())) {
            Ok(asked) => asked,
            Err(why) => {
                let usage = help::wrong(&["keys"]);
                let why = if why.is_empty() { why } else { format!("FATAL: {why}\n") };
                return Reply { err: why + &usage.err, ..usage };
            }
        };
        match asked.order {
            Order::List { all: true, json } => match self.administers(actor, "'keys' for others") {
                Ok(()) => self.blocking(actor, move |control, actor| control.list_keys(actor, None, json)).await,
                Err(refused) => refused,
            },
            Order::Approve(code) => self.approve_key(actor, from, code).await,
            Order::Reject(code) => self.blocking(actor, move |control, actor| control.reject_key(actor, &code)).await,
            order => {
                let user = match self.whose_keys(actor, asked.user.as_deref(), &order) {
                    Ok(user) => user,
                    Err(refused) => return refused,
                };
                match order {
                    Order::List { json, .. } => {
                        self.blocking(actor, move |control, actor| control.list_keys(actor, Some(&user), json)).await
                    }
                    Order::Add { name, end } => self.add_key(actor, from, user, name, end, input).await,
                    order => self.change_key(actor, from, user, order).await,
                }
            }
        }
    }

    /// What the configuration says of users' keys.
    pub(super) fn key_rules(&self) -> KeyRules {
        let admin = RepoName::new(ADMIN_REPO).expect("a constant, and a valid name");
        self.realm.with_rules(&admin, "", |policy, facts| policy.key_rules(facts))
    }

    /// Whose keys an order is about, if this actor may give it.
    fn whose_keys(&self, actor: &Actor, named: Option<&str>, order: &Order) -> Result<UserName, Reply> {
        let own = if let Actor::User { name, .. } = actor { Some(name) } else { None };
        let user = match (named, own) {
            (Some(named), _) => {
                UserName::new(named).map_err(|error| Reply::fail(2, format!("FATAL: '{named}' is no user: {error}")))?
            }
            (None, Some(own)) => own.clone(),
            (None, None) => return Err(Reply::fail(2, "FATAL: whose keys? name a user: --user NAME")),
        };
        if Some(&user) != own {
            self.administers(actor, "'keys' for others")?;
            // The file of such a user would be a node's.
            if user.as_str().starts_with("server-") {
                return Err(Reply::fail(2, format!("FATAL: '{user}' names a node; its key is put there by a push")));
            }
            return Ok(user);
        }
        let changes = !matches!(order, Order::List { .. });
        if changes && !self.key_rules().own && !self.realm.may_administer(actor) {
            return Err(Reply::denied(&Denial {
                first: "FATAL: users do not change their keys by themselves here".to_owned(),
                you: None,
                rule: None,
                help: format!("ask an administrator; 'option keys.self = no' of {ADMIN_REPO} says so"),
                code: Denial::KEYS_OFF,
            }));
        }
        Ok(user)
    }

    /// The keys of one user, or of all.
    fn list_keys(&self, actor: &Actor, user: Option<&UserName>, json: bool) -> Reply {
        let keys = user_keys(self.realm.live().key_files(), user);
        let waiting = match self.key_desk.waiting() {
            Ok(waiting) => waiting,
            Err(error) => {
                tracing::error!(%error, "what waits for approval cannot be read");
                Vec::new()
            }
        };
        let waiting: Vec<_> =
            waiting.into_iter().filter(|one| user.is_none_or(|user| user.as_str() == one.user)).collect();
        let (used, reached) = self.last_used(&keys, user);
        let now = Stamp::new(SystemTime::now());
        let listed = Listed { keys, waiting, used, reached, actor, all: user.is_none(), now };
        let is_empty = listed.keys.is_empty() && listed.waiting.is_empty();
        let out = if json { listed.json() } else { listed.text() };
        let err = match &listed.reached {
            Some(time) if !json => looked_back_to(time),
            _ => String::new(),
        };
        Reply { code: i32::from(is_empty), err, ..Reply::done(out) }
    }

    /// When each key was last used on this node, by fingerprint, as far as the audit tells soon enough; and how far
    /// back that goes, if it is not all.
    fn last_used(&self, keys: &[UserKey], user: Option<&UserName>) -> (BTreeMap<String, String>, Option<String>) {
        let mut used = BTreeMap::new();
        let Some(files) = self.audit.files() else { return (used, None) };
        let mut wanted: Vec<&str> = keys.iter().map(|key| key.key.fingerprint.as_str()).collect();
        let needle = user.map_or("\"key\":\"".to_owned(), |user| format!("\"user\":{}", json!(user.as_str())));
        let searched = files.each_back_until(&needle, Instant::now() + SEARCH, |line| {
            if let Some(at) = wanted.iter().position(|key| line.contains(key))
                && let Ok(record) = serde_json::from_str::<Record>(line)
                && record.key == wanted[at]
            {
                used.insert(wanted.swap_remove(at).to_owned(), record.time);
            }
            if wanted.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let reached = searched.unwrap_or_else(|error| {
            tracing::warn!(%error, "the audit cannot be searched for the last use of keys");
            None
        });
        (used, reached)
    }
}

/// What is said below an answer for which there was no time to read the whole audit.
pub(super) fn looked_back_to(time: &str) -> String {
    format!("note: looked back to {} in the audit; what is older is not told\n", whole_seconds(time))
}

struct Listed<'a> {
    keys: Vec<UserKey>,
    waiting: Vec<Waiting>,
    used: BTreeMap<String, String>,
    /// How far back the audit was searched, if not to its beginning.
    reached: Option<String>,
    actor: &'a Actor,
    all: bool,
    now: Stamp,
}

/// A moment of the audit without its milliseconds.
fn whole_seconds(time: &str) -> String {
    time.split_once('.').map_or(time.to_owned(), |(seconds, _)| format!("{seconds}Z"))
}

impl Listed<'_> {
    fn is_this(&self, key: &UserKey) -> bool {
        matches!(self.actor, Actor::User { key: this, .. } if *this == key.key.fingerprint)
    }

    fn text(&self) -> String {
        let mut out = String::new();
        for key in &self.keys {
            let UserKey { user, file, key: public, .. } = key;
            let whose = if self.all { format!("{user}\t") } else { String::new() };
            let ends = match public.options.expires {
                None => "never expires".to_owned(),
                Some(at) if at <= self.now => format!("EXPIRED {}", rfc3339(at.moment())),
                Some(at) => format!("expires {}", rfc3339(at.moment())),
            };
            let used = self.used.get(public.fingerprint.as_str());
            let used = match used {
                _ if self.is_this(key) => "this connection".to_owned(),
                Some(at) => format!("used {}", whole_seconds(at)),
                None => "-".to_owned(),
            };
            let (kind, bits, comment) = (key_type(&public.algorithm), public.bits, &public.comment);
            let line = format!("{whose}{}\t{kind}\t{bits}\t{file}\t{ends}\t{used}\t{comment}", public.fingerprint);
            out.push_str(line.trim_end());
            out.push('\n');
        }
        for one in &self.waiting {
            let Waiting { code, user, name, fingerprint, .. } = one;
            out.push_str(&format!("{fingerprint}\t{user}@{name} waits for: keys approve {code}\n"));
        }
        out
    }

    fn json(&self) -> String {
        let moment = |at: Stamp| rfc3339(at.moment());
        let keys = self.keys.iter().map(|key| {
            let UserKey { user, file, line, key: public } = key;
            json!({
                "user": user.as_str(), "fingerprint": public.fingerprint.as_str(), "type": key_type(&public.algorithm),
                "algorithm": public.algorithm, "bits": public.bits, "name": key.name(), "file": file, "line": line,
                "comment": public.comment, "expires": public.options.expires.map(moment),
                "from": public.options.from.as_ref().map(AddressList::as_str),
                "expired": key.has_expired(self.now),
                "last_used": self.used.get(public.fingerprint.as_str()).map(|at| whole_seconds(at)),
                "this": self.is_this(key),
            })
        });
        let waiting = self.waiting.iter().map(|one| {
            let Waiting { code, user, name, fingerprint, since, .. } = one;
            let since = Stamp::parse(since).map(moment);
            json!({ "code": code, "user": user, "name": name, "fingerprint": fingerprint, "since": since })
        });
        let (keys, waiting): (Vec<_>, Vec<_>) = (keys.collect(), waiting.collect());
        let mut told = json!({ "schema": "gitmesh.keys/1", "keys": keys, "waiting": waiting });
        if let Some(time) = &self.reached {
            told["looked_back_to"] = json!(time);
        }
        format!("{told}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Stamp {
        Stamp::parse_compact("20261121").unwrap()
    }

    #[test]
    fn ends() {
        let read = |text| parse_end(text, now()).map(|end| end.map(Stamp::compact));
        assert_eq!(read("30d"), Ok(Some("20261221Z".to_owned())));
        assert_eq!(read("2026-12-01"), Ok(Some("20261201Z".to_owned())));
        assert_eq!(read("2026-12-01T15:30Z"), Ok(Some("20261201153000Z".to_owned())));
        assert_eq!(read("20261201"), read("2026-12-01"));
        assert_eq!((read("never"), read("now")), (Ok(None), Ok(Some("20261121Z".to_owned()))));
        for bad in ["", "tomorrow", "30", "2026-13-01", "-1d", "999999999999d"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn forms() {
        let read = |line: &str| parse(&line.split_whitespace().collect::<Vec<_>>(), now());
        let order = |line: &str| read(line).unwrap().order;
        assert_eq!(order("list --json"), Order::List { all: false, json: true });
        let end = Stamp::parse_compact("20261221");
        assert_eq!(order("add laptop --expires 30d"), Order::Add { name: Some("laptop".to_owned()), end });
        assert_eq!(order("add --expires=30d"), Order::Add { name: None, end });
        assert_eq!(order("expire laptop never"), Order::Expire { key: "laptop".to_owned(), end: None, force: false });
        assert_eq!(order("remove --force laptop"), Order::Remove { key: "laptop".to_owned(), force: true });
        assert_eq!(read("remove laptop --user bob").unwrap().user.as_deref(), Some("bob"));
        let wrong = [
            "",
            "list x",
            "add a b",
            "expire laptop",
            "remove",
            "approve",
            "list --force",
            "add --json",
            "approve x --user bob",
            "list --all --user bob",
            "add --user",
            "frobnicate",
            "add --loud",
        ];
        for line in wrong {
            assert!(read(line).is_err(), "{line}");
        }
        assert_eq!((changed_repo(&["list"]), changed_repo(&["remove", "x"])), (None, Some(ADMIN_REPO)));
        assert_eq!(changed_repo(&["frobnicate"]), None);
    }
}

//! `audit`: what happened, by whom, from where. For administrators.

use std::ops::ControlFlow;
use std::time::{Duration, SystemTime};

use super::{Control, Live, Reply, help};
use crate::audit::{Files, Filter, Kind, Outcome, Record, Wrong, export};
use crate::mirror::{MOVE, TRASH};
use crate::model::setting::parse_duration;
use crate::model::time::rfc3339;
use crate::model::{Actor, RepoName};

/// Records that `search` and `tail` tell, if they are not told how many.
const SEARCHED: usize = 1000;
const TAIL: usize = 20;
/// Said at once, in bytes.
const PIECE: usize = 64 << 10;
/// How long a question waits for what was noted just now.
const SETTLE: Duration = Duration::from_secs(2);
/// A user's following ends by itself after this time.
const LIFE: Duration = Duration::from_secs(3600);
/// Each line holds this once, and at its start.
const ANY: &str = "{\"seq\":";

/// How records are told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Form {
    #[default]
    Text,
    Json,
    Gitolite,
}

/// A line of words, read.
#[derive(Debug, Default)]
struct Question {
    filter: Filter,
    form: Form,
    limit: Option<usize>,
    follow: bool,
    /// What the lines searched for must hold, so that others need not be read.
    needle: Option<String>,
    rest: Vec<String>,
}

impl Question {
    fn parse(words: &[&str]) -> Result<Self, String> {
        let (mut asked, mut words) = (Self::default(), words.iter());
        while let Some(word) = words.next() {
            match *word {
                "--json" => asked.form = Form::Json,
                "-f" | "--follow" => asked.follow = true,
                flag if flag.starts_with('-') => {
                    let value = words.next().ok_or_else(|| format!("'{flag}' needs a value"))?;
                    asked.set(flag, value)?;
                }
                word => asked.rest.push(word.to_owned()),
            }
        }
        Ok(asked)
    }

    fn set(&mut self, flag: &str, value: &str) -> Result<(), String> {
        let text = || Some(value.to_owned());
        match flag {
            "--user" => {
                self.filter.user = text();
                self.needle = Some(serde_json::to_string(value).expect("a text can always be written"));
            }
            "--repo" => {
                let pattern = value.contains(['^', '$', '*', '[', '(', '|', '\\']);
                let written = if pattern { value.to_owned() } else { format!("^{}$", regex::escape(value)) };
                let built = regex::RegexBuilder::new(&written).size_limit(1 << 20).build();
                self.filter.repo = Some(built.map_err(|error| format!("this is no pattern: {error}"))?);
                if !pattern {
                    self.needle = Some(format!("\"repo\":{}", serde_json::json!(value)));
                }
            }
            "--kind" => self.filter.kind = Some(word::<Kind>(value, "access, push, create, command, auth, audit")?),
            "--result" => self.filter.result = Some(word::<Outcome>(value, "ok, refused, failed")?),
            "--ref" => self.filter.reference = text(),
            "--key" => self.filter.key = text(),
            "--from" => self.filter.from = text(),
            "--since" => self.filter.since = Some(moment(value)?),
            "--until" => self.filter.until = Some(moment(value)?),
            "-n" | "--limit" => {
                let number = value.parse().ok().filter(|number| *number > 0);
                self.limit = Some(number.ok_or_else(|| format!("'{value}' is no number above 0"))?);
            }
            "--format" => {
                self.form = match value {
                    "gitolite" => Form::Gitolite,
                    "ndjson" | "json" => Form::Json,
                    "text" => Form::Text,
                    _ => return Err(format!("'{value}' is no format; there are text, ndjson and gitolite")),
                }
            }
            _ => return Err(format!("unknown flag '{flag}'")),
        }
        Ok(())
    }

    /// The record of a line that is asked for, as it is told.
    fn told(&self, line: &str) -> Option<String> {
        let record: Record = serde_json::from_str(line).ok()?;
        self.filter.passes(&record).then(|| match self.form {
            Form::Text => record.told(),
            Form::Json => format!("{line}\n"),
            Form::Gitolite => export(&record),
        })
    }

    /// The newest records that are asked for, older ones first.
    fn newest(&self, files: &Files, most: usize) -> std::io::Result<String> {
        let mut found = Vec::new();
        files.each_back(self.needle.as_deref().unwrap_or(ANY), |line| {
            if self.filter.since.as_deref().is_some_and(|since| time_of(line) < since) {
                return ControlFlow::Break(());
            }
            found.extend(self.told(line));
            if found.len() >= most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        found.reverse();
        Ok(found.concat())
    }
}

/// The time of a line, without reading all of it.
fn time_of(line: &str) -> &str {
    let after = line.split_once("\"time\":\"").map_or("", |(_, after)| after);
    after.split('"').next().unwrap_or_default()
}

fn word<T: serde::de::DeserializeOwned>(value: &str, all: &str) -> Result<T, String> {
    serde_json::from_value(serde_json::json!(value)).map_err(|_| format!("'{value}' is not one of {all}"))
}

/// `2h` ago, or a moment as RFC 3339 writes it, or the beginning of one.
pub(super) fn moment(text: &str) -> Result<String, String> {
    if let Ok(ago) = parse_duration(text) {
        return Ok(rfc3339(SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)));
    }
    let plain = text.len() >= 4 && text.len() <= 24 && text.starts_with(|c: char| c.is_ascii_digit());
    let known = text.bytes().all(|b| b.is_ascii_digit() || b"-:.TZ".contains(&b));
    if plain && known {
        return Ok(text.to_owned());
    }
    Err(format!("'{text}' is no time; write 2026-11-21, 2026-11-21T08:30:00Z (UTC), or how long ago: 2h, 7d"))
}

impl Control {
    pub(super) async fn audit_command(&self, actor: &Actor, words: &[&str], live: &Live) -> Reply {
        if let Err(reply) = self.administers(actor, "the audit") {
            return reply;
        }
        let Some(files) = self.audit.files().cloned() else {
            return Reply::fail(4, "FATAL: this node keeps no audit ([audit] path in gitmesh.toml is empty)");
        };
        let [order, words @ ..] = words else { return help::wrong(&["audit"]) };
        let asked = match Question::parse(words) {
            Ok(asked) => asked,
            Err(why) => {
                return Reply {
                    err: format!("FATAL: {why}\n{}", help::wrong(&["audit", order]).err),
                    code: 2,
                    ..Reply::default()
                };
            }
        };
        self.settle().await;
        match (*order, &asked.rest[..], asked.follow) {
            ("search", [], false) => self.tell_newest(actor, files, asked, SEARCHED).await,
            ("tail", [], false) => self.tell_newest(actor, files, asked, TAIL).await,
            ("tail", [], true) => self.follow_audit(actor, files, asked, live).await,
            ("export", [], false) if asked.limit.is_none() => self.export_audit(files, asked, live).await,
            ("verify", [], false) => self.verify_audit(actor, files, None).await,
            ("verify", [hash], false) => self.verify_audit(actor, files, Some(hash.clone())).await,
            _ => help::wrong(&["audit"]),
        }
    }

    /// Lets what was noted just now come into the files.
    pub(super) async fn settle(&self) {
        let audit = self.audit.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || audit.settle(SETTLE)).await {
            tracing::error!(%error, "waiting for the audit panicked");
        }
    }

    async fn tell_newest(&self, actor: &Actor, files: Files, asked: Question, most: usize) -> Reply {
        self.blocking(actor, move |_, _| match asked.newest(&files, asked.limit.unwrap_or(most)) {
            Ok(text) => Reply { code: i32::from(text.is_empty()), ..Reply::done(text) },
            Err(error) => unreadable(&error),
        })
        .await
    }

    /// Everything that is asked for, piece by piece.
    async fn export_audit(&self, files: Files, asked: Question, live: &Live) -> Reply {
        let asked = Question { form: if asked.form == Form::Text { Form::Json } else { asked.form }, ..asked };
        let (live, handle) = (live.clone(), tokio::runtime::Handle::current());
        let told = tokio::task::spawn_blocking(move || {
            let mut piece = String::new();
            files.each(0, |line| {
                piece.extend(asked.told(line));
                if piece.len() >= PIECE && !handle.block_on(live.say(std::mem::take(&mut piece))) {
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            })?;
            Ok::<_, std::io::Error>(piece)
        });
        match told.await {
            Ok(Ok(rest)) => Reply::done(rest),
            Ok(Err(error)) => unreadable(&error),
            Err(error) => unreadable(&error),
        }
    }

    /// The last records, and then each new one until nobody listens any more.
    async fn follow_audit(&self, actor: &Actor, files: Files, asked: Question, live: &Live) -> Reply {
        let mut newest = self.audit.newest();
        let mut seen = *newest.borrow_and_update();
        let first = self.tell_newest(actor, files.clone(), Question::parse(&[]).unwrap_or_default(), TAIL).await;
        if asked.limit.is_none() && !live.say(first.out).await {
            return Reply::default();
        }
        let end = tokio::time::Instant::now() + LIFE;
        loop {
            tokio::select! {
                () = live.gone() => return Reply::default(),
                () = self.stopping.cancelled() => return Reply::fail(75, format!("{} is stopping; look again later", self.node.name)),
                () = tokio::time::sleep_until(end), if *actor != Actor::Local => {
                    return Reply::fail(8, "an hour has passed; look again if you like");
                }
                changed = newest.changed() => if changed.is_err() { return Reply::default() }
            }
            let now = *newest.borrow_and_update();
            let mut text = String::new();
            // A few lines, which were written this very moment.
            let read = files.each(seen + 1, |line| {
                if serde_json::from_str::<Record>(line).is_ok_and(|record| record.seq > seen) {
                    text.extend(asked.told(line));
                }
                ControlFlow::Continue(())
            });
            if let Err(error) = read {
                return unreadable(&error);
            }
            seen = now;
            if !text.is_empty() && !live.say(text).await {
                return Reply::default();
            }
        }
    }

    async fn verify_audit(&self, actor: &Actor, files: Files, wanted: Option<String>) -> Reply {
        self.blocking(actor, move |_, _| match files.verify(wanted.as_deref()) {
            Ok(found) => {
                let out = format!(
                    "{} records in {} files, {} to {}: the chain is whole\nhead: {}\n",
                    found.records, found.files, found.first, found.last, found.head
                );
                if found.holds {
                    return Reply::done(out);
                }
                Reply { out, err: "FATAL: the hash that you gave is not in the chain\n".to_owned(), code: 1 }
            }
            Err(error @ Wrong::Line { .. }) => Reply::fail(1, format!("FATAL: {error}")),
            Err(Wrong::Io(error)) => unreadable(&error),
        })
        .await
    }

    /// The repository that a command is about: the first of its words that names one which is here, or that could name one.
    fn repo_of(&self, words: &[&str]) -> Option<RepoName> {
        let words = match *words {
            ["sudo", _, ref rest @ ..] => rest,
            ref words => words,
        };
        if let Some(changed) = super::changed_repo(words) {
            return super::parse_repo(changed).ok();
        }
        let named = help::about_a_repo(words)?;
        let named: Vec<RepoName> = words[named..]
            .iter()
            .filter(|word| !word.starts_with('-'))
            .filter_map(|word| super::parse_repo(word).ok())
            .collect();
        named.iter().find(|repo| self.store.exists(repo)).or(named.first()).cloned()
    }

    /// Notes a command that was carried out on the machine, past the daemon.
    pub fn note_done(&self, words: &[String]) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.note_command(&Actor::Local, &words, "local", None, &Reply::default());
    }

    /// Notes a command that has ended.
    pub(super) fn note_command(&self, actor: &Actor, words: &[&str], from: &str, by: Option<&str>, reply: &Reply) {
        // Nodes ask each other all day long; what they order is told.
        if matches!(actor, Actor::Node(_)) && !matches!(words, [TRASH | MOVE, ..]) {
            return;
        }
        let result = match reply.code {
            0 => Outcome::Ok,
            5 => Outcome::Refused,
            _ => Outcome::Failed,
        };
        let reason = if reply.code == 0 { "" } else { reply.err.lines().next().unwrap_or_default() };
        let line = if words.is_empty() { "info".to_owned() } else { words.join(" ") };
        let mut record = Record::of(Kind::Command, actor, from).ended(result, reason);
        record.what = line.chars().take(1000).collect();
        record.code = Some(i64::from(reply.code));
        if let ["sudo", user, ..] = words {
            record.other = user.chars().take(100).collect();
        }
        if let Some(repo) = self.repo_of(words) {
            record.repo = repo.to_string();
        }
        if let Some(by) = by {
            record.node = by.to_owned();
        }
        self.audit.note(record);
    }
}

pub(super) fn unreadable(error: &dyn std::fmt::Display) -> Reply {
    tracing::error!(%error, "the audit cannot be read");
    Reply::fail(70, "FATAL: the audit cannot be read; tell an administrator of this machine")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions() {
        let line = "--user alice --repo docs --kind push --result refused --since 2026-11-21 -n 5 --json";
        let asked = Question::parse(&line.split(' ').collect::<Vec<_>>()).expect("a question");
        assert_eq!(
            (asked.limit, asked.form, asked.needle.as_deref()),
            (Some(5), Form::Json, Some("\"repo\":\"docs\""))
        );
        let refused = |line: &str| Question::parse(&line.split(' ').collect::<Vec<_>>()).map(drop);
        for bad in ["--user", "--kind x", "--repo (", "-n 0", "-n x", "--since yesterday", "--until -1", "--loud x"] {
            assert!(refused(bad).is_err(), "{bad}");
        }
        assert_eq!(time_of(r#"{"seq":1,"time":"2026-11-21T08:30:00.123Z","kind":"push"}"#), "2026-11-21T08:30:00.123Z");
        assert_eq!(time_of("x"), "");
        assert!(moment("2h").is_ok_and(|at| at.ends_with('Z') && at.len() == 20));
    }
}

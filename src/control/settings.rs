//! `git-config`: what the configuration says for a repository, in the forms and shapes of gitolite's program; and
//! `creator` and `owns`, which scripts ask.

use std::collections::BTreeMap;

use serde::Serialize;
use tokio::io::AsyncRead;

use super::typed::typed;
use super::{Control, Reply, help, parse_repo};
use crate::admin::Access;
use crate::model::{Actor, RepoName};

/// How the names of options begin among the keys.
const OPTIONS: &str = "gitolite-options.";
/// gitolite's word for what is read from the input, line by line.
const TYPED: &str = "%";
/// Names read from the input, in bytes: some ten thousand.
const NAMES_MAX: usize = 1 << 20;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Question {
    no_newline: bool,
    quiet: bool,
    pattern: bool,
    empty: bool,
    json: bool,
    repo: String,
    key: String,
}

impl Question {
    fn parse(words: &[&str]) -> Option<Self> {
        let (mut question, mut names) = (Self::default(), Vec::new());
        for word in words {
            match *word {
                "-n" => question.no_newline = true,
                "-q" => question.quiet = true,
                "-r" => question.pattern = true,
                "-ev" => question.empty = true,
                "--json" => question.json = true,
                word if word.starts_with('-') => return None,
                word => names.push(word),
            }
        }
        let [repo, key] = names[..] else { return None };
        (question.repo, question.key) = (repo.to_owned(), key.to_owned());
        Some(question)
    }

    fn reads_input(&self) -> bool {
        self.repo == TYPED || self.key == TYPED
    }

    /// The key alone, or a pattern, unanchored.
    fn matcher(&self, key: &str) -> Result<regex::Regex, Reply> {
        let text = if self.pattern { key.to_owned() } else { format!("^{}$", regex::escape(key)) };
        let built = regex::RegexBuilder::new(&text).size_limit(1 << 20).build();
        built.map_err(|error| Reply::fail(2, format!("FATAL: this is no pattern: {error}")))
    }
}

pub(super) fn reads_input(words: &[&str]) -> bool {
    Question::parse(words).is_some_and(|question| question.reads_input())
}

#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    repo: &'a str,
    config: &'a BTreeMap<String, String>,
}

impl Control {
    pub(super) async fn git_config(
        &self,
        actor: &Actor,
        words: &[&str],
        input: impl AsyncRead + Unpin + Send,
    ) -> Reply {
        let Some(question) = Question::parse(words).filter(|q| !(q.quiet && q.reads_input())) else {
            return help::wrong(&["git-config"]);
        };
        if !question.reads_input() {
            return self.blocking(actor, move |control, actor| control.config_of(actor, &question)).await;
        }
        let lines = match typed(input, NAMES_MAX).await {
            Ok(lines) => lines,
            Err(why) => return Reply::fail(2, format!("FATAL: {why}")),
        };
        self.blocking(actor, move |control, actor| {
            let mut out = String::new();
            for line in lines.lines() {
                let mut words = line.split_whitespace();
                let mut next =
                    |given: &str| if given == TYPED { words.next().map(str::to_owned) } else { Some(given.to_owned()) };
                let (Some(repo), Some(key)) = (next(&question.repo), next(&question.key)) else { continue };
                let asked = Question { repo, key, no_newline: false, ..question.clone() };
                match control.values(actor, &asked) {
                    Ok((repo, found)) => out.push_str(&table(&repo, &found)),
                    Err(reply) if reply.code == 2 => return reply,
                    // One that may not be read is passed over as one without a value is.
                    Err(_) => {}
                }
            }
            Reply::done(out)
        })
        .await
    }

    fn config_of(&self, actor: &Actor, question: &Question) -> Reply {
        let (repo, found) = match self.values(actor, question) {
            Ok(found) => found,
            Err(reply) => return reply,
        };
        let code = i32::from(found.is_empty());
        let out = if question.json {
            let report = Report { schema: "gitmesh.git-config/1", repo: repo.as_str(), config: &found };
            serde_json::to_string(&report).expect("texts can always be written") + "\n"
        } else if question.quiet {
            String::new()
        } else if question.pattern {
            table(&repo, &found)
        } else {
            let end = if question.no_newline { "" } else { "\n" };
            found.values().map(|value| format!("{value}{end}")).collect()
        };
        Reply { out, err: String::new(), code }
    }

    /// For readers of the rules, who can work it out for any name; and for readers of the repository, without the
    /// options, which tell of the whole mesh.
    fn values(&self, actor: &Actor, question: &Question) -> Result<(RepoName, BTreeMap<String, String>), Reply> {
        let repo = parse_repo(&question.repo)?;
        let matcher = question.matcher(&question.key)?;
        let insider = *actor == Actor::Local || self.sees_rules(actor);
        if !insider {
            self.realm.authorize(actor, &repo, Access::Read).map_err(|denial| Reply::denied(&denial))?;
        }
        let mut found = self.realm.live().config(&repo, self.realm.creator(&repo).as_ref());
        found.retain(|key, value| {
            // gitolite takes the text 0 for empty in every query.
            let set = question.empty || !matches!(value.as_str(), "" | "0");
            set && (insider || !key.starts_with(OPTIONS)) && matcher.is_match(key)
        });
        Ok((repo, found))
    }

    /// `creator [-n] REPO [USER]`
    pub(super) async fn creator(&self, actor: &Actor, words: &[&str]) -> Reply {
        let (newline, words) = match words {
            ["-n", rest @ ..] => ("", rest),
            rest => ("\n", rest),
        };
        let (repo, user) = match *words {
            [repo] => (repo, None),
            [repo, user] => (repo, Some(user.to_owned())),
            _ => return help::wrong(&["creator"]),
        };
        let repo = match parse_repo(repo) {
            Ok(repo) => repo,
            Err(reply) => return reply,
        };
        self.blocking(actor, move |control, actor| {
            if let Err(denial) = control.realm.authorize(actor, &repo, Access::Read) {
                return Reply::denied(&denial);
            }
            let creator = control.realm.creator(&repo).map(|creator| creator.to_string()).unwrap_or_default();
            match user {
                Some(user) => Reply { code: i32::from(creator != user), ..Reply::default() },
                None => Reply::done(format!("{creator}{newline}")),
            }
        })
        .await
    }

    /// `owns REPO`: the exit code says it, and says the same of what is missing and of what is another's.
    pub(super) async fn owns(&self, actor: &Actor, words: &[&str]) -> Reply {
        let [repo] = *words else { return help::wrong(&["owns"]) };
        let repo = match parse_repo(repo) {
            Ok(repo) => repo,
            Err(reply) => return reply,
        };
        self.blocking(actor, move |control, actor| Reply {
            code: i32::from(!control.realm.owns(actor, &repo)),
            ..Reply::default()
        })
        .await
    }
}

fn table(repo: &RepoName, found: &BTreeMap<String, String>) -> String {
    found.iter().map(|(key, value)| format!("{repo}\t{key}\t{value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gitolites_forms() {
        let question = Question::parse(&["-q", "-r", "a", "foo"]).expect("a question");
        assert!(question.quiet && question.pattern && !question.reads_input());
        assert!(Question::parse(&["-r", "%", "x"]).is_some_and(|question| question.reads_input()));
        for bad in [&["a"][..], &["a", "b", "c"], &["-x", "a", "b"], &[]] {
            assert_eq!(Question::parse(bad), None, "{bad:?}");
        }
        let exact = Question::parse(&["a", "foo.bar"]).and_then(|q| q.matcher("foo.bar").ok()).expect("a pattern");
        assert!(exact.is_match("foo.bar") && !exact.is_match("fooxbar") && !exact.is_match("x.foo.bar"));
    }
}

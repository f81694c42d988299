//! `access`: may they, and which rule says so. gitolite's words first, since scripts read them: the deciding refex and
//! exit code 0, or `... DENIED by ...` and 1. What explains it stands in indented lines below.

use serde::Serialize;
use tokio::io::AsyncRead;

use super::typed::typed;
use super::{Control, Reply};
use crate::admin::{ADMIN_REPO, Access};
use crate::git::service::repo_of_path;
use crate::model::{Actor, RepoName};
use crate::policy::{Decision, Facts, Op, Outcome, Policy, Step, Target};

const USAGE: &str = "usage: access [-q | -s] REPO USER [PERM [REF]] [--explain] [--json]\n\
     PERM is R, W, +, C, D, M, WM, +M or ^C ('+' if left out); REF is a branch, a full reference or 'any'\n\
     '%' as REPO, USER or both: read from the input, in that order, one question a line";
/// Rules listed by `--explain`.
const STEPS_SHOWN: usize = 500;

/// In the place of a repository or of a user: it is in the lines of the input.
const FROM_INPUT: &str = "%";
/// Bytes of such lines.
const LINES_MAX: usize = 1 << 20;

/// How an answer is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Manner {
    #[default]
    Words,
    /// By the exit code alone (`-q`).
    Silent,
    /// The rules by gitolite's letters before it (`-s`).
    Letters,
    Explained,
}

/// What was asked: one question, or one a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    One(Question),
    /// The words with [`FROM_INPUT`] in them; they are good with names in its place.
    Many(Vec<String>),
}

impl Asked {
    pub(super) fn parse(words: &[&str]) -> Result<Self, Reply> {
        if !reads_input(words) {
            return Question::parse(words).map(Self::One);
        }
        if words.iter().any(|word| word.starts_with('-')) {
            return Err(usage("with '%' the answers are lines, and there are no flags"));
        }
        // Whatever the names will be, the rest is good or is not.
        let tried: Vec<&str> = words.iter().map(|word| if *word == FROM_INPUT { "x" } else { word }).collect();
        Question::parse(&tried)?;
        Ok(Self::Many(words.iter().map(|word| (*word).to_owned()).collect()))
    }
}

/// Whether the names are read from the input.
pub(super) fn reads_input(words: &[&str]) -> bool {
    words.iter().filter(|word| !word.starts_with('-')).take(2).any(|word| *word == FROM_INPUT)
}

fn usage(why: &str) -> Reply {
    Reply::fail(2, format!("FATAL: {why}\n{USAGE}"))
}

/// A question, as its words were read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Question {
    repo: RepoName,
    user: String,
    perm: String,
    /// Full name, or `any`.
    reference: String,
    manner: Manner,
    json: bool,
}

impl Question {
    pub(super) fn parse(words: &[&str]) -> Result<Self, Reply> {
        let is_flag = |word: &&str| word.starts_with('-');
        let (flags, words): (Vec<&str>, Vec<&str>) = words.iter().copied().partition(is_flag);
        let (mut manner, mut json) = (Manner::Words, false);
        for flag in flags {
            let wanted = match flag {
                "-q" => Manner::Silent,
                "-s" => Manner::Letters,
                "--explain" => Manner::Explained,
                "--json" => {
                    json = true;
                    continue;
                }
                odd => return Err(usage(&format!("unknown flag '{odd}'"))),
            };
            if manner != Manner::Words && manner != wanted {
                return Err(usage("only one of -q, -s and --explain"));
            }
            manner = wanted;
        }
        let (repo, user, perm, reference) = match words[..] {
            [repo, user] => (repo, user, "+", "any"),
            [repo, user, perm] => (repo, user, perm, "any"),
            [repo, user, perm, reference] => (repo, user, perm, reference),
            _ => return Err(usage("'access' needs a repository and a user")),
        };
        let repo = repo_of_path(repo).map_err(|error| usage(&error.to_string()))?;
        if !["R", "W", "+", "C", "D", "M", "WM", "+M", "^C"].contains(&perm) {
            return Err(usage(&format!("'{perm}' is no permission that can be asked about")));
        }
        let full = reference == "any" || reference.starts_with("refs/") || reference.starts_with("VREF/");
        let reference = if full { reference.to_owned() } else { format!("refs/heads/{reference}") };
        let (user, perm) = (user.to_owned(), perm.to_owned());
        Ok(Self { repo, user, perm, reference, manner, json })
    }

    /// A permission that the repository does not know apart is read as the one that stands for it.
    fn ask(&self, policy: &Policy, facts: &Facts<'_>) -> (Decision, Vec<Step>) {
        let walk = policy.walk(facts, &self.user);
        let op = match self.perm.as_str() {
            "R" => Op::Read,
            "W" => Op::Write,
            "C" => Op::Create,
            "D" => Op::Delete,
            "M" | "WM" if walk.checks_merges() => Op::WriteMerge,
            "M" | "WM" => Op::Write,
            "+M" if walk.checks_merges() => Op::ForceMerge,
            "^C" => Op::CreateRepo,
            _ => Op::Force,
        };
        let target = if self.reference == "any" { Target::Any } else { Target::Ref(&self.reference) };
        walk.explain(op, target)
    }
}

#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    repo: &'a str,
    user: &'a str,
    perm: &'a str,
    #[serde(rename = "ref")]
    reference: &'a str,
    allowed: bool,
    refex: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<Rule<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    steps: Option<Vec<Tried<'a>>>,
}

#[derive(Serialize)]
struct Rule<'a> {
    text: &'a str,
    file: &'a str,
    line: u32,
}

#[derive(Serialize)]
struct Tried<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<Rule<'a>>,
    refex: &'a str,
    outcome: &'static str,
}

impl Control {
    pub(super) async fn access(&self, actor: &Actor, words: &[&str], input: impl AsyncRead + Unpin + Send) -> Reply {
        let asked = match Asked::parse(words) {
            Ok(asked) => asked,
            Err(usage) => return usage,
        };
        let words = match asked {
            Asked::One(question) => return self.blocking(actor, move |c, a| c.decide(a, &question)).await,
            Asked::Many(words) => words,
        };
        match typed(input, LINES_MAX).await {
            Ok(lines) => self.blocking(actor, move |c, a| c.decide_many(a, &words, &lines)).await,
            Err(why) => Reply::fail(2, format!("FATAL: {why}")),
        }
    }

    /// A line of an answer for each line of the input: repository, user and answer, divided by tabs.
    fn decide_many(&self, actor: &Actor, words: &[String], lines: &str) -> Reply {
        let mut reply = Reply::default();
        for line in lines.lines().filter(|line| !line.trim().is_empty()) {
            let mut names = line.split_whitespace();
            let filled: Option<Vec<&str>> =
                words.iter().map(|word| if word == FROM_INPUT { names.next() } else { Some(word.as_str()) }).collect();
            let Some(filled) = filled else {
                return Reply { out: reply.out, ..usage(&format!("'{line}' is too short")) };
            };
            let question = match Question::parse(&filled) {
                Ok(question) => question,
                Err(refused) => return Reply { out: reply.out, ..refused },
            };
            let answer = self.decide(actor, &question);
            if !answer.err.is_empty() {
                return Reply { out: reply.out, ..answer };
            }
            let first = answer.out.lines().next().unwrap_or_default();
            reply.out.push_str(&format!("{}\t{}\t{first}\n", filled[0], filled[1]));
        }
        reply
    }

    fn decide(&self, actor: &Actor, question: &Question) -> Reply {
        let own = matches!(actor, Actor::User { name, .. } if name.as_str() == question.user);
        let any = matches!(actor, Actor::Local) || self.realm.may_administer(actor);
        if !own && !any {
            return Reply::fail(
                5,
                format!("FATAL: only administrators may ask about others; ask about yourself: access REPO {actor}"),
            );
        }
        let ask = |policy: &Policy, facts: &Facts<'_>| {
            let (decision, steps) = question.ask(policy, facts);
            let read = policy.decide(facts, &question.user, Op::Read, Target::Any).allowed;
            (decision, steps, facts.exists, read)
        };
        let (mut decision, mut steps, exists, read) = self.realm.with_rules(&question.repo, &question.user, ask);
        let insider = any || self.sees_rules(actor);
        if !insider && !read {
            // Missing and forbidden read the same to those who may not know.
            decision = Decision { allowed: false, refex: "fallthru".to_owned(), place: None, rule: None };
            steps.clear();
        }
        let answer = Answer { question, decision, steps, insider, exists };
        let out = match (question.json, question.manner) {
            (_, Manner::Silent) => String::new(),
            (true, _) => answer.json(),
            (false, _) => answer.text(),
        };
        Reply { out, err: String::new(), code: i32::from(!answer.decision.allowed) }
    }

    pub(super) fn sees_rules(&self, actor: &Actor) -> bool {
        let admin = RepoName::new(ADMIN_REPO).expect("a constant, and a valid name");
        self.realm.authorize(actor, &admin, Access::Read).is_ok()
    }
}

struct Answer<'q> {
    question: &'q Question,
    decision: Decision,
    steps: Vec<Step>,
    /// Whoever asks may read the rules.
    insider: bool,
    exists: bool,
}

impl Answer<'_> {
    fn text(&self) -> String {
        let Self { question, decision, insider, .. } = self;
        let Question { repo, user, perm, reference, .. } = question;
        let mut out = if question.manner == Manner::Letters { self.letters() } else { String::new() };
        out += &if decision.allowed {
            format!("{}\n", decision.refex)
        } else {
            format!("{perm} {reference} {repo} {user} DENIED by {}\n", decision.refex)
        };
        if let (true, Some(rule), Some(place)) = (*insider, &decision.rule, &decision.place) {
            out.push_str(&format!("  rule: {rule}   ({place})\n"));
        }
        if *insider && !self.exists {
            out.push_str(&format!("  note: there is no repository '{repo}' on this node\n"));
        }
        if question.manner == Manner::Explained {
            out.push_str(&self.trace());
        }
        out
    }

    /// The rules tried, each by the letter that gitolite has for what came of it.
    fn letters(&self) -> String {
        let mut out = "legend:\n  A allowed, D denied, d '-' that does not count while no reference is known,\n  \
             r the refex is another, p the permission lacks, F no rule decides\n\n"
            .to_owned();
        for Step { place, rule, refex, outcome } in self.steps.iter().take(STEPS_SHOWN) {
            let letter = match outcome {
                Outcome::Allowed => 'A',
                Outcome::Denied => 'D',
                Outcome::DenySkipped => 'd',
                Outcome::RefexDiffers => 'r',
                Outcome::PermissionLacks => 'p',
            };
            let told = if self.insider { format!("{place}\t{rule}") } else { refex.clone() };
            out.push_str(&format!("  {letter}  {told}\n"));
        }
        let more = self.steps.len().saturating_sub(STEPS_SHOWN);
        if more > 0 {
            out.push_str(&format!("  ... and {more} more\n"));
        }
        if self.decision.refex == "fallthru" {
            out.push_str("  F\n");
        }
        out.push('\n');
        out
    }

    fn trace(&self) -> String {
        let mut out = String::new();
        for (number, step) in (1..).zip(self.steps.iter().take(STEPS_SHOWN)) {
            let Step { place, rule, refex, outcome } = step;
            out.push_str(&if self.insider {
                format!("  {number}. {rule}   ({place})\n     {refex}: {outcome}\n")
            } else {
                format!("  {number}. {refex}: {outcome}\n")
            });
        }
        let more = self.steps.len().saturating_sub(STEPS_SHOWN);
        if more > 0 {
            out.push_str(&format!("  ... and {more} more\n"));
        }
        if self.decision.refex == "fallthru" {
            let which = if self.steps.is_empty() { "no rule is about" } else { "no rule decides for" };
            out.push_str(&format!("  {which} {} in '{}', so it is ", self.question.user, self.question.repo));
            out.push_str(if self.decision.allowed { "allowed (a virtual ref)\n" } else { "denied\n" });
        }
        out
    }

    fn json(&self) -> String {
        let Self { question, decision, insider, .. } = self;
        let rule = |text, place: &'_ crate::policy::Place| insider.then(|| (text, place.file.clone(), place.line));
        let decided = decision.rule.as_deref().zip(decision.place.as_ref()).and_then(|(text, place)| rule(text, place));
        let steps: Vec<_> =
            self.steps.iter().take(STEPS_SHOWN).map(|step| (rule(&step.rule, &step.place), step)).collect();
        let report = Report {
            schema: "gitmesh.access/1",
            repo: question.repo.as_str(),
            user: &question.user,
            perm: &question.perm,
            reference: &question.reference,
            allowed: decision.allowed,
            refex: &decision.refex,
            rule: decided.as_ref().map(written),
            steps: (question.manner == Manner::Explained).then(|| {
                let tried = steps.iter();
                tried
                    .map(|(rule, s)| Tried {
                        rule: rule.as_ref().map(written),
                        refex: &s.refex,
                        outcome: word(s.outcome),
                    })
                    .collect()
            }),
        };
        serde_json::to_string(&report).expect("texts and numbers can always be written") + "\n"
    }
}

fn written<'a>((text, file, line): &'a (&'a str, String, u32)) -> Rule<'a> {
    Rule { text, file, line: *line }
}

/// The outcome for programs.
fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Allowed => "allowed",
        Outcome::Denied => "denied",
        Outcome::DenySkipped => "deny-skipped",
        Outcome::RefexDiffers => "refex-differs",
        Outcome::PermissionLacks => "permission-lacks",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Settings, Sources, compile};

    const CONF: &str = "@dev = alice bob\n\
        repo docs\n  - main = bob\n  RW = @dev\n  RW+ dev/ = bob\n  R = @all\n\
        repo secret\n  RW+ = alice\n";

    fn answer(words: &str, insider: bool) -> Answer<'static> {
        let words: Vec<&str> = words.split(' ').collect();
        let question: &'static Question = Box::leak(Box::new(Question::parse(&words).expect("a question")));
        let sources = Sources { main: "gitmesh.conf".into(), files: [("gitmesh.conf".into(), CONF.into())].into() };
        let policy = compile(&sources, &Settings::default()).policy.expect("a good configuration");
        let facts = Facts::existing(&question.repo);
        let (decision, steps) = question.ask(&policy, &facts);
        Answer { question, decision, steps, insider, exists: true }
    }

    #[test]
    fn decisions_in_gitolites_words() {
        let texts: Vec<String> = [
            "docs alice W main",
            "docs bob W main",
            "docs bob + dev/x",
            "docs alice",
            "docs carol R",
            "docs carol R any",
            "docs bob W refs/tags/v1",
            "docs bob C refs/heads/x",
            "docs bob M x",
            "docs.git zed W",
        ]
        .iter()
        .map(|words| format!("access {words}\n{}", answer(words, true).text()))
        .collect();
        insta::assert_snapshot!(texts.concat());
    }

    #[test]
    fn explained() {
        let texts = [
            answer("docs bob + dev/x --explain", true).text(),
            answer("docs bob + main2 --explain", false).text(),
            answer("secret bob W --explain", true).text(),
            answer("docs bob + topic --explain --json", true).json(),
        ];
        insta::assert_snapshot!(texts.join("\n"));
    }

    #[test]
    fn in_gitolites_letters() {
        let texts = ["-s docs bob + main", "-s docs bob + dev2", "-s docs bob +", "-s secret bob R"];
        insta::assert_snapshot!(texts.map(|words| answer(words, true).text()).join("\n"));
        assert!(!answer("-s docs bob + dev/x", false).text().contains("conf/"));
    }

    #[test]
    fn names_in_the_input() {
        let parse = |line: &str| Asked::parse(&line.split(' ').collect::<Vec<_>>());
        for line in ["% bob", "docs %", "% % R", "% bob W main"] {
            assert!(matches!(parse(line), Ok(Asked::Many(_))), "{line}");
        }
        for line in ["docs bob", "docs bob W %", "-q docs bob", "-q docs bob R any"] {
            assert!(matches!(parse(line), Ok(Asked::One(_))), "{line}");
        }
        for line in ["-q % bob", "% bob --json", "%", "% bob X", "-q -s docs bob"] {
            assert!(parse(line).is_err_and(|reply| reply.code == 2), "{line}");
        }
    }

    #[test]
    fn questions_that_are_none() {
        for words in ["docs", "docs bob X", "../x bob", "docs bob W main more", "docs bob --loud"] {
            let words: Vec<&str> = words.split(' ').collect();
            let reply = Question::parse(&words).expect_err("no question");
            assert!(reply.code == 2 && reply.err.contains("usage: access"), "{reply:?}");
        }
    }
}

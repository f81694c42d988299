//! A stage on which sessions are played: the people and the nodes, and what a reader is shown of it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::LazyLock;

use regex::Regex;

use crate::world::{Actor, Answer, Node, Running, World};

/// Expressions, and what they are shown as.
pub type Patterns = Vec<(Regex, &'static str)>;

pub fn patterns(rows: &[(&str, &'static str)]) -> Patterns {
    rows.iter().map(|(pattern, to)| (Regex::new(pattern).unwrap(), *to)).collect()
}

/// What differs from run to run on every stage.
static EVERYWHERE: LazyLock<Patterns> = LazyLock::new(|| {
    patterns(&[
        (r"\b[0-9a-f]{64}\b", "5ac32f61c3fc3d4b2d8ae3b1f5f7a0a1e7f6d9e0d1b7bbd9fa3d3b8f6f9c2b11"),
        (r"\b0{40}\b", "ZEROS"),
        (r"\b[0-9a-f]{40}\b", "5e1c309dae7f45e0f39b1bf3ac3cd9db12e7d689"),
        (r"\b[0-9a-f]{7}\.\.[0-9a-f]{7}\b", "5e1c309..b4d01e9"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "2026-11-21T08:30:00.123Z"),
        (r"(\d{4}-\d\d-\d\d\.\d\d:\d\d:\d\d)([ \t])\d+", "${1}${2}42"),
        (r#""id":"\d+""#, r#""id":"42""#),
        (r#""(seq|ms)":\d+"#, r#""${1}":42"#),
        (r"^\d+ records in 1 files, 1 to \d+:", "42 records in 1 files, 1 to 42:"),
        (r"\b20[0-8]\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", "2026-11-21T08:30:00Z"),
        (r"\d{4}-\d\d-\d\d_\d\d:\d\d:\d\d", "2026-11-21_08:30:00"),
        (r"\d{4}-\d\d-\d\d\.\d\d:\d\d:\d\d", "2026-11-21.08:30:00"),
        (r"SHA256:[A-Za-z0-9+/]{43}", "SHA256:(the node's key)"),
        (r"\b127\.0\.0\.1:\d+", "192.0.2.7:50022"),
        (r"git@127\.0\.0\.1:", "git@server1:"),
        (r"ssh://git@192\.0\.2\.7:50022/", "git@server1:"),
        (r"ssh -p \d+ git@127\.0\.0\.1", "ssh git@server1"),
        (r"on git \d+\.\d+\.\d+", "on git 2.47.3"),
        (r#""git_version": "[^"]*""#, r#""git_version": "2.47.3""#),
        (r"\b\d+ % free", "19 % free"),
        (r"commit [0-9a-f]{10} of", "commit 5e1c309dae of"),
        (r" +\d+ B\t", "   231 B\t"),
        (r"size: \d+ B", "size: 231 B"),
        (r#""bytes":\d+"#, r#""bytes":231"#),
        (r"\t\d{4}-\d\d-\d\d\t", "\t2026-11-21\t"),
        (
            r"(?m)^([A-Za-z ]{29}) {1,11}\d+ +(longer|[\d.]+ m?s) +(longer|[\d.]+ m?s)$",
            "${1}         42      20 ms     100 ms",
        ),
    ])
});

pub struct Stage<'w> {
    pub world: &'w World,
    /// The first is where commands go when nothing else is said.
    pub nodes: Vec<Node>,
    pub people: Vec<Actor>,
    pub masks: Vec<(String, String)>,
    /// Beside those that hold for all.
    pub patterns: Patterns,
    /// Carries out what happens without being seen: the words after `!`.
    pub act: Box<dyn Fn(&str) + 'w>,
    pub trashed: String,
    pub commit: String,
    /// The line of a key that nobody has yet.
    pub phone: String,
    /// What `mirror lost list` has named first.
    pub lost: String,
    /// Under which an addition of a key waits.
    pub code: String,
    /// Lines that have done what they are for.
    pub succeeded: Vec<String>,
}

impl Stage<'_> {
    pub fn person(&self, name: &str) -> &Actor {
        self.people.iter().find(|actor| actor.name() == name).unwrap_or_else(|| panic!("who is {name}?"))
    }

    fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name() == name).unwrap_or_else(|| panic!("where is {name}?"))
    }

    /// Carries a line out: as the reader would type it, and what came.
    fn play(&mut self, who: &str, words: &str, input: Option<&str>) -> (String, Answer) {
        let words = words.replace("TRASHED", &self.trashed).replace("COMMIT", &self.commit[..10]);
        let words = words.replace("LOST", &self.lost).replace("CODE", &self.code);
        let (who, at) = who.split_once('@').unwrap_or((who, self.nodes[0].name()));
        let (actor, node) = (self.person(who).clone(), self.node(at).clone());
        if let Some(line) = words.strip_prefix("git ") {
            return (format!("git {}", line.replacen(' ', &format!(" git@{at}:"), 1)), self.git(&actor, &node, line));
        }
        let host = &format!("git@{at}");
        if let Some((words, lines)) = words.split_once(" | head -n ") {
            let typed = format!("ssh {host} {words} | head -n {lines}");
            return (typed, first_lines(actor.ssh_command(&[host, words]), lines.parse().unwrap()));
        }
        if let Some((words, pattern)) = words.split_once(" | grep ") {
            let mut answer = actor.ssh(&node, words).succeeds();
            let found = answer.stdout.lines().filter(|line| line.starts_with(&pattern[1..]));
            answer.stdout = found.map(|line| format!("{line}\n")).collect();
            return (format!("ssh {host} {words} | grep {pattern}"), answer);
        }
        let mut command = actor.ssh_command(&[host, &words]);
        let piped = input.map(|text| {
            let file = self.world.dir().join("input");
            fs::write(&file, format!("{}\n", text.replace("PHONE", &self.phone))).unwrap();
            fs::File::open(file).unwrap()
        });
        command.stdin(piped.map_or_else(Stdio::null, Into::into));
        let answer = Running::start(command).end();
        if words == "D list" {
            self.trashed = answer.stdout.split_whitespace().next().unwrap_or_default().to_owned();
        }
        if words.starts_with("mirror lost list") {
            self.lost = answer.stdout.split_whitespace().nth(1).unwrap_or_default().to_owned();
        }
        if words.starts_with("keys add") && answer.code == Some(3) {
            self.code = answer.stdout.trim().to_owned();
        }
        if input == Some("PHONE") {
            return (format!("ssh {host} {} < ~/.ssh/phone.pub", quoted(&words)), answer);
        }
        let shown = input.map_or(String::new(), |text| format!("printf '{}\\n' | ", text.replace('\n', "\\n")));
        (format!("{shown}ssh {host} {}", quoted(&words)), answer)
    }

    fn git(&self, actor: &Actor, node: &Node, line: &str) -> Answer {
        match line.split_once(' ') {
            Some(("ls-remote", repo)) => actor.ls_remote(node, repo),
            Some(("push", repo)) => {
                let first = &self.nodes[0];
                let work = actor.dir().join(format!("new-{}-{repo}", first.name()));
                if !work.exists() {
                    actor.starts(first, repo);
                }
                let work = actor.checkout(&format!("new-{}-{repo}", first.name()));
                // Two of one second with one text are one commit.
                let text = format!("{line} {}", work.git(&["rev-list", "--count", "--all", "--reflog"]).stdout);
                work.commit("a", text);
                work.git(&["push", &actor.url(node, repo), "HEAD:main"])
            }
            _ => panic!("no such session: git {line}"),
        }
    }

    /// Without what differs from run to run.
    pub fn masked(&self, text: &str) -> String {
        let mut text = text.to_owned();
        if !self.code.is_empty() {
            text = text.replace(&self.code, "abcd2345");
        }
        for (from, to) in &self.masks {
            text = text.replace(from, to);
        }
        for (pattern, to) in EVERYWHERE.iter().chain(&self.patterns) {
            text = pattern.replace_all(&text, *to).into_owned();
        }
        text.replace("ZEROS", &"0".repeat(40))
    }
}

/// As one has to type it, since the shell that ssh is typed into reads it first.
fn quoted(words: &str) -> String {
    if words.contains(['(', '<', '>', '*', ';', '&', '\'']) { format!("\"{words}\"") } else { words.to_owned() }
}

fn lines_of(session: &str) -> Vec<(String, Option<String>)> {
    let starts = |line: &str| {
        let who = line.split([' ', '@']).next().unwrap_or_default();
        ["alice", "bob", "carol", "erin", "#", "!"].contains(&who)
    };
    let mut lines: Vec<(String, Option<String>)> = Vec::new();
    for line in session.lines() {
        match lines.last_mut() {
            // The rest of a text that is piped in.
            Some((_, Some(text))) if !starts(line) => text.push_str(&format!("\n{line}")),
            _ => match line.split_once(" << ") {
                Some((words, text)) => lines.push((words.to_owned(), Some(text.to_owned()))),
                None => lines.push((line.to_owned(), None)),
            },
        }
    }
    lines
}

/// What `help` says of a command, and a session with it.
pub fn chapter(stage: &mut Stage<'_>, command: &str, session: &str) -> String {
    let help = stage.person("alice").ssh(&stage.nodes[0], &format!("help {command}")).succeeds();
    let help = format!("## {command}\n\n```text\n{}```\n\n", stage.masked(&help.stdout));
    help + &console(stage, session)
}

/// A session with its remarks.
pub fn console(stage: &mut Stage<'_>, session: &str) -> String {
    let mut text = "```console\n".to_owned();
    for (line, input) in lines_of(session) {
        let (who, words) = line.split_once(' ').unwrap();
        if who == "!" {
            (stage.act)(words);
            continue;
        }
        if who == "#" {
            text.push_str(&format!("```\n\n{words}\n\n```console\n"));
            continue;
        }
        let (typed, answer) = stage.play(who, words, input.as_deref());
        text.push_str(&format!("{who}$ {}\n", stage.masked(&typed)));
        let said = format!("{}{}", answer.stdout, answer.stderr);
        // git's own advice, which is not ours to keep.
        let kept = said.lines().filter(|line| !line.starts_with("hint:") && !line.starts_with("To server"));
        kept.for_each(|line| text.push_str(&format!("{}\n", stage.masked(line).trim_end())));
        // With 1 it has found something, and says so.
        if answer.code == Some(0) || (answer.code == Some(1) && !answer.stdout.is_empty()) {
            stage.succeeded.push(words.to_owned());
        }
        match answer.code {
            Some(0) => {}
            code => text.push_str(&format!("[exit {}]\n", code.map_or("by a signal".to_owned(), |c| c.to_string()))),
        }
    }
    text.push_str("```\n\n");
    text.replace("```console\n```\n\n", "")
}

/// What `head` lets through of a program that would go on.
fn first_lines(mut command: std::process::Command, count: usize) -> Answer {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().take(count);
    let stdout = lines.map(|line| line.unwrap() + "\n").collect();
    child.kill().unwrap();
    child.wait().unwrap();
    Answer::shown(stdout)
}

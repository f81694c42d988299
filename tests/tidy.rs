//! The house rules that the compiler does not see: who imports whom, who starts processes, where paths are joined,
//! how long a file is and what it is called. Each rule is data; a breach names file, line and rule.
//!
//! The table is that of the design's module map. `EXCEPTIONS` are the places that differ for a reason, and one that
//! is not needed any more is a breach too. Code under `#[cfg(test)]` may import what it likes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES: usize = 600;
const BANNED_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "manager", "misc"];

const FLOOR_0: &[&str] = &["model", "observe", "audit", "durable", "parallel"];
const FLOOR_1: &[&str] = &["git", "policy", "hook"];
const FLOOR_2: &[&str] = &["repo", "peer", "cluster"];
const FLOOR_3: &[&str] = &["admin", "mirror", "backup"];
const FLOOR_4: &[&str] = &["transfer", "control"];
const DOORS: &[&str] = &["ssh", "http", "socket"];

/// What a room may import, as `room` or `room::module`.
fn allowed() -> BTreeMap<&'static str, Vec<&'static str>> {
    let but = |floors: &[&[&'static str]], never: &[&str]| -> Vec<&'static str> {
        floors.concat().into_iter().filter(|room| !never.contains(room)).collect()
    };
    let door =
        ["model", "observe", "audit", "git::service", "git::pktline", "hook::wire", "admin", "transfer", "control"];
    let mut table = BTreeMap::from([
        ("model", vec![]),
        ("observe", vec!["model"]),
        ("audit", vec!["model", "durable"]),
        ("durable", vec![]),
        ("parallel", vec![]),
        ("git", FLOOR_0.to_vec()),
        ("policy", vec!["model"]),
        ("hook", vec!["model"]),
        ("repo", but(&[FLOOR_0, FLOOR_1, &["policy::Grant"]], &["policy"])),
        ("peer", but(&[FLOOR_0, FLOOR_1], &[])),
        ("cluster", but(&[FLOOR_0, FLOOR_1], &["policy"])),
        ("cluster/fixed.rs", but(&[FLOOR_0, FLOOR_1], &[])),
        ("admin", but(&[FLOOR_0, FLOOR_1, FLOOR_2], &["peer"])),
        ("mirror", but(&[FLOOR_0, FLOOR_1, FLOOR_2], &["policy"])),
        ("backup", but(&[FLOOR_0, FLOOR_1, FLOOR_2], &["policy", "hook", "peer", "cluster"])),
        ("transfer", but(&[FLOOR_0, &["git", "policy", "hook::client"], FLOOR_2, FLOOR_3], &[])),
        ("control", but(&[FLOOR_0, FLOOR_1, FLOOR_2, FLOOR_3], &[])),
        ("config", but(&[FLOOR_0, FLOOR_1, FLOOR_2, FLOOR_3, FLOOR_4, DOORS], &[])),
    ]);
    for room in DOORS {
        table.insert(room, door.to_vec());
    }
    let all = but(&[FLOOR_0, FLOOR_1, FLOOR_2, FLOOR_3, FLOOR_4, DOORS, &["config", "daemon"]], &[]);
    for room in ["daemon", "cli", "main", "lib"] {
        table.insert(room, [&all[..], &["cli"]].concat());
    }
    table
}

/// Words that stand in certain files only: the word, where it may stand (a prefix of the path below `src`), why.
const WORDS: &[(&str, &[&str], &str)] = &[
    ("Command::new(", &["git/process.rs", "cli/"], "only git/process.rs starts processes"),
    ("russh::", &["ssh/", "peer/"], "russh is named by the SSH door and by peer alone"),
    ("git2::", &["git/objects.rs"], "libgit2 is named by git/objects.rs alone"),
    ("clap::", &["cli/", "main.rs"], "only cli/ and main.rs parse arguments"),
    (".sync_all(", &["durable.rs"], DURABLE),
    (".sync_data(", &["durable.rs"], DURABLE),
    ("syncfs(", &["durable.rs"], DURABLE),
    ("fs::rename(", &["durable.rs"], DURABLE),
    ("renameat", &["durable.rs"], DURABLE),
    (
        "open_as_daemon(",
        &["repo/", "mirror/", "backup/", "admin/", "daemon/", "control/mirror.rs"],
        "opening a repository without a grant is for the daemon's own work; each place is to be audited",
    ),
];

const DURABLE: &str = "fsync and rename are durable.rs's, which gives each a failpoint for tests/failpoints.rs";

/// Words that may not stand in certain files.
const NEVER: &[(&str, &str, &str)] = &[
    ("policy/", "tokio", "policy is pure: no runtime"),
    ("policy/", "std::fs", "policy is pure: no files"),
    ("policy/", "std::process", "policy is pure: no processes"),
    ("policy/", "std::time", "policy is pure: no clock"),
    ("model/", "std::fs", "model does no I/O"),
    ("model/", "tokio", "model does no I/O"),
    ("hook/client.rs", "tokio", "the hook's client starts in a millisecond: no runtime"),
    ("hook/client.rs", "tracing", "the hook's client starts in a millisecond: no logging"),
];

/// A breach that stands for a reason: file (or prefix), what, why.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("admin/compile.rs", "peer::Peers", "a user's key may not be a peer's, and peer owns the table's type"),
    ("admin/peers.rs", "peer::Peers", "the table of peers is read from the same places as users' keys"),
    ("admin/peers.rs", "peer::Peer", "the table of peers is read from the same places as users' keys"),
    ("admin/realm.rs", "peer::Peers", "users and peers are swapped together, as one value"),
    ("cli/init.rs", ".git path", "the admin repository is made before there is a daemon with a store"),
    ("cli/peer.rs", ".git path", "the admin repository is read past the daemon, which may not run"),
    ("daemon/mod.rs", "russh::", "the composition root reads the node's key and hands it to both rooms that speak SSH"),
    ("ssh/mod.rs", "peer::ahead", "how much of a push a node is ahead of is one protocol, with peer at its other end"),
    (
        "ssh/session.rs",
        "peer::ahead",
        "how much of a push a node is ahead of is one protocol, with peer at its other end",
    ),
    (
        "ssh/taken.rs",
        "peer::ahead",
        "how much of a push a node is ahead of is one protocol, with peer at its other end",
    ),
    ("git/changes.rs", "git2::", "the third part of git/objects.rs: what a push brings"),
    ("git/connected/mod.rs", "git2::", "a part of its own of git/objects.rs: whether what a push leads to is there"),
    ("git/odb.rs", "git2::", "the second half of git/objects.rs, split off for its length"),
    ("git/upstream.rs", "git2::", "a clone's upstream branch, asked by 'gitmesh check' and by nothing of the server"),
];

struct Source {
    /// Below `src`, with `/`.
    path: String,
    room: String,
    /// Number and text of each line that is neither a comment nor under `#[cfg(test)]`.
    code: Vec<(usize, String)>,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut todo = vec![root.clone()];
    let mut sources = Vec::new();
    let mut test_files = BTreeSet::new();
    while let Some(at) = todo.pop() {
        for entry in fs::read_dir(at).unwrap().map(|e| e.unwrap().path()) {
            if entry.is_dir() {
                todo.push(entry);
            } else if entry.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&entry).unwrap();
                let path = entry.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                let room = path.split(['/', '.']).next().unwrap().to_owned();
                let (code, test_modules) = code_of(&text);
                test_files.extend(test_modules.iter().map(|m| module_file(&entry, m)));
                sources.push((entry, Source { path, room, code, text }));
            }
        }
    }
    sources.sort_by(|a, b| a.0.cmp(&b.0));
    for (file, source) in &mut sources {
        if test_files.contains(file) {
            source.code.clear();
        }
    }
    sources.into_iter().map(|(_, source)| source).collect()
}

/// The file of `mod NAME;` written in `file`.
fn module_file(file: &Path, name: &str) -> PathBuf {
    let dir = file.parent().unwrap();
    let stem = file.file_stem().unwrap().to_str().unwrap();
    let dir = if ["mod", "lib", "main"].contains(&stem) { dir.to_owned() } else { dir.join(stem) };
    dir.join(format!("{name}.rs"))
}

/// The lines that count, and the modules that are for tests only.
fn code_of(text: &str) -> (Vec<(usize, String)>, Vec<String>) {
    let (mut code, mut test_modules) = (Vec::new(), Vec::new());
    let mut lines = text.lines().enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        if line.trim_start().starts_with("#[cfg(test)]") {
            let indent = line.len() - line.trim_start().len();
            while lines.peek().is_some_and(|(_, l)| l.trim_start().starts_with("#[")) {
                lines.next();
            }
            let Some((_, item)) = lines.next() else { break };
            let module = item.trim().trim_start_matches("pub ").trim_start_matches("pub(crate) ");
            if let Some(name) = module.strip_prefix("mod ").and_then(|m| m.strip_suffix(';')) {
                test_modules.push(name.to_owned());
            } else if !item.trim_end().ends_with([';', '}']) {
                let end = format!("{}}}", " ".repeat(indent));
                lines.by_ref().find(|(_, l)| *l == end);
            }
        } else if !line.trim_start().starts_with("//") {
            code.push((number + 1, line.to_owned()));
        }
    }
    (code, test_modules)
}

/// Every path below `crate` in the code, as line and `room` or `room::module`; groups are taken apart.
fn imports(code: &[(usize, String)]) -> Vec<(usize, String)> {
    let mut text = String::new();
    let mut starts = Vec::new();
    for (number, line) in code {
        starts.push((text.len(), *number));
        text.push_str(line);
        text.push('\n');
    }
    let line_at = |at: usize| starts[starts.partition_point(|(start, _)| *start <= at) - 1].1;
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        if text[..at].ends_with(|c: char| c.is_alphanumeric() || "_$:".contains(c)) {
            continue;
        }
        let mut paths = Vec::new();
        expand(&text[at + "crate::".len()..], "", &mut paths);
        let two_deep = |path: String| path.split("::").take(2).collect::<Vec<_>>().join("::");
        found.extend(paths.into_iter().map(|path| (line_at(at), two_deep(path))));
    }
    found
}

/// Reads one path or group at the start of `text`, adds each path that it names, and returns its length.
fn expand(text: &str, prefix: &str, found: &mut Vec<String>) -> usize {
    let mut at = 0;
    if text.starts_with('{') {
        at = 1;
        while at < text.len() && !text[at..].starts_with('}') {
            let gap = text[at..].len() - text[at..].trim_start_matches([',', ' ', '\n']).len();
            at += if gap > 0 { gap } else { expand(&text[at..], prefix, found).max(1) };
        }
        return at + 1;
    }
    at += text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let name = &text[..at];
    let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}::{name}") };
    if text[at..].starts_with("::") {
        at += 2;
        return at + expand(&text[at..], &path, found);
    }
    if !name.is_empty() {
        found.push(path);
    }
    at
}

/// Collects breaches, and which exceptions were needed.
#[derive(Default)]
struct Report {
    breaches: Vec<String>,
    needed: BTreeSet<usize>,
}

impl Report {
    fn breach(&mut self, path: &str, line: usize, what: &str, rule: &str) {
        match EXCEPTIONS.iter().position(|(file, word, _)| path.starts_with(file) && what == *word) {
            Some(exception) => drop(self.needed.insert(exception)),
            None => self.breaches.push(format!("src/{path}:{line}: {what}: {rule}")),
        }
    }
}

#[test]
fn the_house_is_tidy() {
    let sources = sources();
    assert!(sources.len() > 10, "the sources are found");
    let table = allowed();
    let mut report = Report::default();
    for source in &sources {
        let Source { path, room, code, text } = source;
        let Some(may) = table.get(path.as_str()).or_else(|| table.get(room.as_str())) else {
            report.breach(path, 1, room, "a room that is not on the map");
            continue;
        };
        for (line, import) in imports(code) {
            let target = import.split("::").next().unwrap();
            if target != room && !may.contains(&target) && !may.contains(&import.as_str()) {
                report.breach(path, line, &import, &format!("{room} may import {}", may.join(", ")));
            }
        }
        for (line, text) in code {
            for (word, places, rule) in WORDS {
                if text.contains(word) && !places.iter().any(|place| path.starts_with(place)) {
                    report.breach(path, *line, word, rule);
                }
            }
            for (place, word, rule) in NEVER {
                if path.starts_with(place) && text.contains(word) {
                    report.breach(path, *line, word, rule);
                }
            }
            if text.contains("join(") && text.contains(".git\"") && !path.starts_with("repo/") {
                report.breach(path, *line, ".git path", "only repo/ joins a path under the repositories");
            }
        }
        if text.lines().count() > FILE_LINES {
            report.breach(path, FILE_LINES, "length", &format!("a file has at most {FILE_LINES} lines"));
        }
        let names = path.trim_end_matches(".rs").split('/');
        for name in names.filter(|name| BANNED_NAMES.contains(name)) {
            report.breach(path, 1, name, "a thing without a room shows a missing room");
        }
        let opens = text.starts_with("//!");
        if (path.ends_with("mod.rs") || path == "lib.rs") && !opens {
            report.breach(path, 1, "no doc comment", "a room's mod.rs opens with what it is, promises and never does");
        }
    }
    for (number, (file, what, _)) in EXCEPTIONS.iter().enumerate() {
        if !report.needed.contains(&number) {
            report.breaches.push(format!("src/{file}: the exception for {what} is not needed any more"));
        }
    }
    assert!(report.breaches.is_empty(), "the house is not tidy:\n{}", report.breaches.join("\n"));
}

#[test]
fn imports_are_found_in_every_shape() {
    let text = "use crate::a::b;\nuse crate::{c, d::{e, f::g}, h};\nfn x() -> crate::i::J { crate::k() }\n// crate::no\n\
                #[cfg(test)]\nmod tests {\n    use crate::no;\n}\nuse mycrate::no;\nuse crate::l::{self, m::{n, o}, P};\n";
    let (code, _) = code_of(text);
    let found: Vec<String> = imports(&code).into_iter().map(|(line, path)| format!("{line} {path}")).collect();
    let wanted =
        ["1 a::b", "2 c", "2 d::e", "2 d::f", "2 h", "3 i::J", "3 k", "10 l::self", "10 l::m", "10 l::m", "10 l::P"];
    assert_eq!(found, wanted);
}

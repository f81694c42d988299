//! A second decider, written straight from `spec/access-language.md`, sections 3 to 5, as simply and slowly as can be,
//! and random configurations on which both must agree.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use gitmesh::policy::{Decision, Facts, Op, Policy, Settings, Sources, Target, compile};
use proptest::prelude::*;
use regex::Regex;

#[derive(Debug, Clone)]
enum Line {
    Rule { perm: String, refexes: Vec<String>, users: Vec<String> },
    Option { key: String, value: String },
}

#[derive(Debug, Clone)]
struct Block {
    repos: Vec<String>,
    lines: Vec<Line>,
}

#[derive(Debug, Clone)]
struct Conf {
    groups: Vec<(String, Vec<String>)>,
    blocks: Vec<Block>,
}

impl Conf {
    fn text(&self) -> String {
        let mut text = String::new();
        for (name, members) in &self.groups {
            writeln!(text, "{name} = {}", members.join(" ")).unwrap();
        }
        for Block { repos, lines } in &self.blocks {
            writeln!(text, "repo {}", repos.join(" ")).unwrap();
            for line in lines {
                match line {
                    Line::Rule { perm, refexes, users } => {
                        writeln!(text, " {perm} {} = {}", refexes.join(" "), users.join(" ")).unwrap();
                    }
                    Line::Option { key, value } => writeln!(text, " option {key} = {value}").unwrap(),
                }
            }
        }
        text
    }

    /// 3.1: definitions add up; an inner group is copied as it is at that moment.
    fn members(&self) -> Vec<(String, BTreeSet<String>)> {
        let mut groups: Vec<(String, BTreeSet<String>)> = Vec::new();
        for (name, members) in &self.groups {
            let mut flat = BTreeSet::new();
            for member in members {
                match groups.iter().find(|(known, _)| known == member) {
                    Some((_, inner)) => flat.extend(inner.clone()),
                    None => {
                        flat.insert(member.clone());
                    }
                }
            }
            match groups.iter_mut().find(|(known, _)| known == name) {
                Some((_, known)) => known.extend(flat),
                None => groups.push((name.clone(), flat)),
            }
        }
        groups
    }

    /// 4.1, for repositories without a creator, or with one whose name is not in theirs.
    fn names_of_repo(&self, repo: &str) -> BTreeSet<String> {
        let covers = |p: &str| p == repo || (p.contains('*') && Regex::new(&format!("^{p}$")).unwrap().is_match(repo));
        let mut names = BTreeSet::from([repo.to_owned(), "@all".to_owned()]);
        names.extend(self.blocks.iter().flat_map(|block| &block.repos).filter(|item| covers(item)).cloned());
        let groups = self.members();
        names.extend(groups.into_iter().filter(|(_, m)| m.iter().any(|m| covers(m))).map(|(name, _)| name));
        names
    }

    /// 4.2, points 1 and 2.
    fn names_of_user(&self, user: &str) -> BTreeSet<String> {
        let groups = self.members().into_iter().filter(|(_, members)| members.contains(user));
        groups.map(|(name, _)| name).chain([user.to_owned(), "@all".to_owned()]).collect()
    }

    /// 7.1 and 3.6: of all lines that reach the repository the last wins; empty and `0` are not set.
    fn option(&self, repo: &str, key: &str) -> bool {
        let (names, mut set) = (self.names_of_repo(repo), false);
        for block in self.blocks.iter().filter(|block| block.repos.iter().any(|item| names.contains(item))) {
            let mut switched = false;
            for line in &block.lines {
                match line {
                    Line::Option { key: k, value } if k == key => set = value != "0",
                    Line::Rule { perm, .. } if perm.starts_with("RW") && !switched => {
                        let letter = match key {
                            "CREATE_IS_C" => 'C',
                            "DELETE_IS_D" => 'D',
                            _ => continue,
                        };
                        switched = perm.contains(letter);
                        set |= switched;
                    }
                    _ => {}
                }
            }
        }
        set
    }

    /// 5.2: allowed or not, and the deciding refex.
    fn decide(&self, repo: &str, exists: bool, user: &str, op: &str, refname: &str) -> (bool, String) {
        if op == "^C" && exists {
            return (false, "existence".to_owned());
        }
        if op != "^C" && !exists {
            let create = self.decide(repo, false, user, "^C", refname);
            if !create.0 {
                return create;
            }
        }
        let op = match op {
            "C" if !self.option(repo, "CREATE_IS_C") => "W",
            "D" if !self.option(repo, "DELETE_IS_D") => "+",
            op => op,
        };
        let (repos, users) = (self.names_of_repo(repo), self.names_of_user(user));
        let deny_rules = self.option(repo, "deny-rules");
        for block in self.blocks.iter().filter(|block| block.repos.iter().any(|item| repos.contains(item))) {
            for line in &block.lines {
                let Line::Rule { perm, refexes, users: named } = line else { continue };
                let default = ["refs/.*".to_owned()];
                for refex in if refexes.is_empty() { &default[..] } else { refexes } {
                    let refex = if refex.starts_with("refs/") { refex.clone() } else { format!("refs/heads/{refex}") };
                    let refex = refex.replacen("/USER/", &format!("/{user}/"), 1);
                    for _ in named.iter().filter(|name| users.contains(*name)) {
                        if perm == "-" && refname == "any" && !deny_rules {
                            continue;
                        }
                        if refname != "any" && !Regex::new(&format!("^{refex}")).unwrap().is_match(refname) {
                            continue;
                        }
                        if perm == "-" {
                            return (false, refex);
                        }
                        if fulfils(perm, op) {
                            return (true, refex);
                        }
                    }
                }
            }
        }
        (false, "fallthru".to_owned())
    }
}

/// 5.1
fn fulfils(perm: &str, op: &str) -> bool {
    match op {
        "^C" => perm == "C",
        "C" => perm.starts_with("RW") && perm.contains('C'),
        "WM" => perm.contains('W') && perm.contains('M'),
        "+M" => perm.contains('+') && perm.contains('M'),
        op => perm.contains(op),
    }
}

const OPS: [(&str, Op); 8] = [
    ("R", Op::Read),
    ("W", Op::Write),
    ("+", Op::Force),
    ("C", Op::Create),
    ("D", Op::Delete),
    ("WM", Op::WriteMerge),
    ("+M", Op::ForceMerge),
    ("^C", Op::CreateRepo),
];
const REFS: [&str; 7] =
    ["any", "refs/heads/a", "refs/heads/ab", "refs/heads/b", "refs/heads/dev/una/x", "refs/tags/v1", "refs/heads/zoo"];
const REPOS: [(&str, bool); 5] = [("r1", true), ("r2", true), ("pub/x", true), ("pub/y", false), ("new", false)];
const USERS: [&str; 4] = ["una", "vic", "wim", "zed-unseen"];

fn policy(text: &str) -> Policy {
    let sources = Sources { main: "gitmesh.conf".to_owned(), files: [("gitmesh.conf".to_owned(), text.into())].into() };
    let settings = Settings { enable: ["quote-names".to_owned()].into(), ..Settings::default() };
    let compiled = compile(&sources, &settings);
    compiled.policy.unwrap_or_else(|| panic!("{text}\n{:#?}", compiled.diagnostics))
}

fn ask(policy: &Policy, repo: (&str, bool), user: &str, op: Op, refname: &str) -> Decision {
    let target = if refname == "any" { Target::Any } else { Target::Ref(refname) };
    policy.decide(&Facts { name: repo.0, exists: repo.1, creator: None, roles: None }, user, op, target)
}

/// Every question there is: the answers in one order.
fn questions() -> impl Iterator<Item = ((&'static str, bool), &'static str, (&'static str, Op), &'static str)> {
    REPOS.into_iter().flat_map(|repo| {
        USERS.into_iter().flat_map(move |user| {
            OPS.into_iter().flat_map(move |op| REFS.into_iter().map(move |refname| (repo, user, op, refname)))
        })
    })
}

fn line() -> impl Strategy<Value = Line> {
    let perm = prop::sample::select(vec![
        "-", "-", "C", "R", "R", "RW", "RW", "RW+", "RW+", "RWC", "RW+C", "RWD", "RW+CD", "RWM", "RW+M", "RW+CDM",
    ]);
    let refex =
        prop::sample::select(vec!["a", "a$", "b", "[ab]+", "refs/tags/v", "dev/USER/", "refs/.*", "a|o", "(a|b)$"]);
    let user = prop::sample::select(vec!["una", "vic", "wim", "@all", "@g", "@h", "@later"]);
    let rule = (perm, prop::collection::vec(refex, 0..3), prop::collection::vec(user, 1..3)).prop_map(
        |(perm, refexes, users)| {
            let own = |words: Vec<&str>| words.into_iter().map(str::to_owned).collect();
            Line::Rule { perm: perm.to_owned(), refexes: own(refexes), users: own(users) }
        },
    );
    let key = prop::sample::select(vec!["deny-rules", "CREATE_IS_C", "DELETE_IS_D"]);
    let option = (key, prop::sample::select(vec!["1", "0"]))
        .prop_map(|(key, value)| Line::Option { key: key.to_owned(), value: value.to_owned() });
    prop_oneof![6 => rule, 1 => option]
}

fn conf() -> impl Strategy<Value = Conf> {
    let member = || prop::sample::select(vec!["una", "vic", "wim", "r1", "pub/x", "pub/.*"]);
    let members =
        || prop::collection::vec(member(), 1..3).prop_map(|m| m.into_iter().map(str::to_owned).collect::<Vec<_>>());
    let item = prop::sample::select(vec!["r1", "r2", "@g", "@h", "@all", "pub/..*", "r[0-9]*", "new"]);
    let block = (prop::collection::vec(item, 1..3), prop::collection::vec(line(), 1..6))
        .prop_map(|(repos, lines)| Block { repos: repos.into_iter().map(str::to_owned).collect(), lines });
    (members(), members(), members(), prop::collection::vec(block, 1..5)).prop_map(|(g, more, h, mut blocks)| {
        let first = Line::Rule { perm: "RW".to_owned(), refexes: vec![], users: vec!["boss".to_owned()] };
        blocks.insert(0, Block { repos: vec!["gitmesh-admin".to_owned()], lines: vec![first] });
        let with = |first: &str, rest: Vec<String>| [vec![first.to_owned()], rest].concat();
        // @h copies @g as it is between its two definitions.
        let groups = [("@g", g), ("@h", with("@g", h)), ("@g", more), ("@later", vec!["wim".to_owned()])];
        Conf { groups: groups.into_iter().map(|(n, m)| (n.to_owned(), m)).collect(), blocks }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn both_deciders_agree(conf in conf()) {
        let text = conf.text();
        let policy = policy(&text);
        for (repo, user, (word, op), refname) in questions() {
            let got = ask(&policy, repo, user, op, refname);
            let want = conf.decide(repo.0, repo.1, user, word, refname);
            prop_assert_eq!((got.allowed, got.refex), want, "{} {} {} {}\n{}", repo.0, user, word, refname, text);
        }
    }

    #[test]
    fn a_rule_below_changes_nothing_that_was_decided(conf in conf(), extra in line()) {
        // The letters C and D switch options, which reach up by design.
        let switches = match &extra {
            Line::Rule { perm, .. } => perm.len() > 1 && perm.contains(['C', 'D']),
            Line::Option { .. } => true,
        };
        prop_assume!(!switches);
        let mut longer = conf.clone();
        longer.blocks.push(Block { repos: vec!["@all".to_owned()], lines: vec![extra] });
        let (before, after) = (policy(&conf.text()), policy(&longer.text()));
        for (repo, user, (_, op), refname) in questions().filter(|(repo, ..)| repo.1) {
            let first = ask(&before, repo, user, op, refname);
            if first.place.is_some() {
                prop_assert_eq!(first, ask(&after, repo, user, op, refname));
            }
        }
    }

    #[test]
    fn a_name_never_seen_is_everybody(conf in conf()) {
        let policy = policy(&conf.text());
        for (repo, _, (_, op), refname) in questions().filter(|(_, user, ..)| *user == "una") {
            let (a, all) = (ask(&policy, repo, "never-seen", op, refname), ask(&policy, repo, "@all", op, refname));
            prop_assert_eq!((a.allowed, &a.place), (all.allowed, &all.place));
        }
    }

    /// Blanks, comments and line ends mean nothing: the dressed text gives the same answers at the same lines.
    #[test]
    fn dressing_changes_nothing(conf in conf(), blanks in prop::collection::vec("[ \t]{1,3}", 64)) {
        let text = conf.text();
        let mut next = blanks.iter().cycle();
        let mut dressed = String::new();
        for line in text.lines() {
            for word in line.split_whitespace() {
                dressed.push_str(word);
                dressed.push_str(next.next().unwrap());
            }
            dressed.push_str("# RW = mallory\r\n");
        }
        let (plain, dressed) = (policy(&text), policy(&dressed));
        for (repo, user, (_, op), refname) in questions() {
            prop_assert_eq!(ask(&plain, repo, user, op, refname), ask(&dressed, repo, user, op, refname));
        }
    }
}

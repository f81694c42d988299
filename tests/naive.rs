//! A second decider, written straight from `spec/access-language.md`, sections 3 to 6 and 8, as simply and slowly as
//! can be, and random configurations on which both must agree.

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
    /// Written in the delegated file `area.conf`.
    part: bool,
}

#[derive(Debug, Clone)]
struct Conf {
    groups: Vec<(String, Vec<String>)>,
    /// Groups that `area.conf` defines, at its top.
    part_groups: Vec<(String, Vec<String>)>,
    blocks: Vec<Block>,
}

/// A repository as the disk has it.
#[derive(Debug, Clone, Copy)]
struct Repo {
    name: &'static str,
    exists: bool,
    creator: Option<&'static str>,
    roles: Option<&'static str>,
}

const fn plain(name: &'static str, exists: bool) -> Repo {
    Repo { name, exists, creator: None, roles: None }
}

fn group_lines(text: &mut String, groups: &[(String, Vec<String>)]) {
    for (name, members) in groups {
        writeln!(text, "{name} = {}", members.join(" ")).unwrap();
    }
}

impl Conf {
    /// `gitmesh.conf` and `area.conf`; the delegated blocks are the ones in the middle.
    fn texts(&self) -> [String; 2] {
        let (mut main, mut part) = (String::new(), String::new());
        group_lines(&mut main, &self.groups);
        group_lines(&mut part, &self.part_groups);
        let mut delegated = false;
        for Block { repos, lines, part: of_part } in &self.blocks {
            if *of_part && !delegated {
                delegated = true;
                main.push_str("subconf \"area.conf\"\n");
            }
            let text = if *of_part { &mut part } else { &mut main };
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
        [main, part]
    }

    fn policy(&self) -> Policy {
        policy(&self.texts())
    }

    /// 8, point 4: in the part, a group that it defines is called after it.
    fn word(&self, part: bool, word: &str) -> String {
        let own = part && self.part_groups.iter().any(|(name, _)| name == word);
        if own { format!("@area.{}", &word[1..]) } else { word.to_owned() }
    }

    /// 3.1: definitions add up; an inner group is copied as it is at that moment.
    fn members(&self) -> Vec<(String, BTreeSet<String>)> {
        let mut groups: Vec<(String, BTreeSet<String>)> = Vec::new();
        let own = self.part_groups.iter().map(|(name, members)| (self.word(true, name), members));
        for (name, members) in self.groups.iter().map(|(name, members)| (name.clone(), members)).chain(own) {
            let mut flat = BTreeSet::new();
            for member in members {
                match groups.iter().find(|(known, _)| known == member) {
                    Some((_, inner)) => flat.extend(inner.clone()),
                    None => {
                        flat.insert(member.clone());
                    }
                }
            }
            match groups.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => known.extend(flat),
                None => groups.push((name, flat)),
            }
        }
        groups
    }

    fn group(&self, name: &str) -> BTreeSet<String> {
        self.members().into_iter().find(|(known, _)| known == name).map(|(_, members)| members).unwrap_or_default()
    }

    /// 4.1, points 1 and 2: the repository's name, and the one with its creator taken out.
    fn match_texts(repo: &Repo, asker: &str) -> Vec<String> {
        let creator = if repo.exists { repo.creator } else { Some(asker) };
        let generic = creator.map(|creator| {
            let word = Regex::new(&format!(r"(?-u:\b){}(?-u:\b)", regex::escape(creator))).unwrap();
            word.replacen(repo.name, 1, "CREATOR").into_owned()
        });
        let mut texts = vec![repo.name.to_owned()];
        texts.extend(generic.filter(|generic| generic != repo.name));
        texts
    }

    /// 4.1: all names of a repository.
    fn names_of_repo(&self, repo: &Repo, asker: &str) -> BTreeSet<String> {
        let texts = Self::match_texts(repo, asker);
        let covers = |p: &str| is_pattern(p) && texts.iter().any(|text| p == text || whole(p, text));
        let mut names = BTreeSet::from([repo.name.to_owned(), "@all".to_owned()]);
        names.extend(self.blocks.iter().flat_map(|block| self.items(block)).filter(|item| covers(item)));
        let holds = |m: &BTreeSet<String>| m.iter().any(|m| texts.contains(m) || covers(m));
        names.extend(self.members().into_iter().filter(|(_, m)| holds(m)).map(|(name, _)| name));
        names
    }

    /// 4.2, points 1, 2 and 4.
    fn names_of_user(&self, repo: &Repo, user: &str) -> BTreeSet<String> {
        let groups = self.members().into_iter().filter(|(_, members)| members.contains(user));
        let mut names: BTreeSet<String> =
            groups.map(|(name, _)| name).chain([user.to_owned(), "@all".to_owned()]).collect();
        if repo.exists {
            let creator = repo.creator.map(|creator| format!("CREATOR {creator}"));
            let lines = repo.roles.unwrap_or_default().lines().map(str::to_owned).chain(creator);
            let mut roles = Vec::new();
            for line in lines {
                let mut words = line.split_whitespace();
                let role = words.next().unwrap().to_owned();
                let given = words.any(|word| names.contains(word));
                if given && ["CREATOR", "READERS", "WRITERS"].contains(&role.as_str()) {
                    roles.push(format!("@{role}"));
                }
            }
            names.extend(roles);
        }
        names
    }

    /// 8, point 1, with plain members as text (gitmesh's way out of the trap).
    fn area_has(&self, item: &str) -> bool {
        let of_area = self.group("@area");
        item == "area" || item == "@area" || of_area.iter().any(|m| m == item || (is_pattern(m) && whole(m, item)))
    }

    /// 8, points 1 to 3: what a repository line of a block stands for.
    fn items(&self, block: &Block) -> Vec<String> {
        let mut items = Vec::new();
        for item in block.repos.iter().map(|item| self.word(block.part, item)) {
            if !block.part || self.area_has(&item) {
                items.push(item);
            } else {
                items.extend(self.group(&item).into_iter().filter(|member| self.area_has(member)));
            }
        }
        items
    }

    /// The lines that reach a repository, each with the number of its block: a delegated one only where the
    /// repository itself is of that part (8, the second hole and its fix).
    fn lines_for<'c>(&'c self, repo: &Repo, asker: &str) -> Vec<(usize, &'c Block, &'c Line)> {
        let names = self.names_of_repo(repo, asker);
        let of_area = Self::match_texts(repo, asker).iter().any(|text| self.area_has(text));
        let blocks = self.blocks.iter().enumerate();
        let reach = blocks.filter(|(_, block)| !block.part || of_area);
        let reach = reach.filter(|(_, block)| self.items(block).iter().any(|item| names.contains(item)));
        reach.flat_map(|(index, block)| block.lines.iter().map(move |line| (index, block, line))).collect()
    }

    /// 7.1 and 3.6: of all lines that reach the repository the last wins; empty and `0` are not set.
    fn option(&self, repo: &Repo, asker: &str, key: &str) -> bool {
        let letter = match key {
            "CREATE_IS_C" => 'C',
            "DELETE_IS_D" => 'D',
            "MERGE_CHECK" => 'M',
            _ => '-',
        };
        let (mut set, mut switched) = (false, None);
        for (block, _, line) in self.lines_for(repo, asker) {
            match line {
                Line::Option { key: k, value } if k == key => set = value != "0",
                Line::Rule { perm, .. }
                    if perm.starts_with("RW") && perm.contains(letter) && switched != Some(block) =>
                {
                    (set, switched) = (true, Some(block));
                }
                _ => {}
            }
        }
        set
    }

    /// 3.3: the refex in full, as text and as it matches.
    fn refex(perm: &str, written: &str, user: &str) -> (String, Regex) {
        let named = written.starts_with("NAME/") && !["R", "C"].contains(&perm);
        let mut full = if named { format!("VREF/{written}") } else { written.to_owned() };
        if !full.starts_with("refs/") && !full.starts_with("VREF/") {
            full = format!("refs/heads/{full}");
        }
        let fill = |name: &str| full.replacen("/USER/", &format!("/{name}/"), 1);
        (fill(user), Regex::new(&format!("^{}", fill(&regex::escape(user)))).unwrap())
    }

    /// 5.2, step 3: rule by rule, refex by refex, user by user.
    fn rules(&self, repo: &Repo, user: &str) -> Vec<(String, String, Regex)> {
        let users = self.names_of_user(repo, user);
        let mut rules = Vec::new();
        for (_, block, line) in self.lines_for(repo, user) {
            let Line::Rule { perm, refexes, users: named } = line else { continue };
            let default = ["refs/.*".to_owned()];
            let role = |word: &str| ["CREATOR", "READERS", "WRITERS"].contains(&word);
            for refex in if refexes.is_empty() { &default[..] } else { refexes } {
                for word in named {
                    let word = if role(word) { format!("@{word}") } else { self.word(block.part, word) };
                    if users.contains(&word) {
                        let (text, regex) = Self::refex(perm, refex, user);
                        rules.push((perm.clone(), text, regex));
                    }
                }
            }
        }
        rules
    }

    /// What the questions about a repository and a user are answered from.
    fn asked(&self, repo: &Repo, user: &str) -> Asked {
        let set = |key| self.option(repo, user, key);
        Asked {
            exists: repo.exists,
            rules: self.rules(repo, user),
            create_is_c: set("CREATE_IS_C"),
            delete_is_d: set("DELETE_IS_D"),
            deny_rules: set("deny-rules"),
        }
    }

    /// 6: each distinct virtual refex once, in rule order.
    fn virtual_refexes(&self, repo: &Repo, user: &str) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        for (_, text, _) in self.rules(repo, user) {
            if text.starts_with("VREF/") && !found.contains(&text) {
                found.push(text);
            }
        }
        found
    }
}

/// The rules (permission, refex, how it matches) and switches for one repository and one user.
struct Asked {
    exists: bool,
    rules: Vec<(String, String, Regex)>,
    create_is_c: bool,
    delete_is_d: bool,
    deny_rules: bool,
}

impl Asked {
    /// 5.2: allowed or not, and the deciding refex.
    fn decide(&self, op: &str, refname: &str) -> (bool, String) {
        if op == "^C" && self.exists {
            return (false, "existence".to_owned());
        }
        if op != "^C" && !self.exists {
            // That no rule decides refuses here, also about a virtual ref, as gitolite itself answers.
            let create = self.decide("^C", refname);
            if !create.0 || create.1 == "fallthru" {
                return create;
            }
        }
        let op = match op {
            "C" if !self.create_is_c => "W",
            "D" if !self.delete_is_d => "+",
            op => op,
        };
        for (perm, text, regex) in &self.rules {
            let skipped = perm == "-" && refname == "any" && !self.deny_rules;
            if skipped || (refname != "any" && !regex.is_match(refname)) {
                continue;
            }
            if perm == "-" || fulfils(perm, op) {
                return (perm != "-", text.clone());
            }
        }
        (refname.starts_with("VREF/"), "fallthru".to_owned())
    }
}

/// 2.4: whatever is not a plain name.
fn is_pattern(word: &str) -> bool {
    word.contains(['*', '[', '(', '|'])
}

/// 4.1: anchored at both ends.
fn whole(pattern: &str, text: &str) -> bool {
    Regex::new(&format!("^{pattern}$")).unwrap().is_match(text)
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
const REFS: [&str; 10] = [
    "any",
    "refs/heads/a",
    "refs/heads/ab",
    "refs/heads/b",
    "refs/heads/dev/una/x",
    "refs/heads/dev/w.b+c/x",
    "refs/tags/v1",
    "refs/heads/zoo",
    "VREF/NAME/doc/x",
    "VREF/NAME/una/doc",
];
const REPOS: [Repo; 9] = [
    plain("r1", true),
    plain("r2", true),
    plain("pub/x", true),
    plain("pub/y", false),
    plain("new", false),
    plain("pub/una/new", false),
    Repo { name: "pub/una/x", exists: true, creator: Some("una"), roles: Some("READERS vic\nKINGS zed-unseen\n") },
    Repo { name: "pub/vic/una", exists: true, creator: Some("una"), roles: Some("WRITERS @g\nREADERS @all\n") },
    Repo { name: "w.b+c/una-2", exists: true, creator: Some("w.b+c"), roles: None },
];
const USERS: [&str; 5] = ["una", "vic", "w.b+c", "wim", "zed-unseen"];

fn policy(texts: &[String; 2]) -> Policy {
    let files = ["gitmesh.conf", "area.conf"].into_iter().zip(texts);
    let files = files.map(|(name, text)| (name.to_owned(), text.clone().into_bytes())).collect();
    let sources = Sources { main: "gitmesh.conf".to_owned(), files };
    let settings = Settings { enable: ["quote-names".to_owned()].into(), ..Settings::default() };
    let compiled = compile(&sources, &settings);
    compiled.policy.unwrap_or_else(|| panic!("{texts:#?}\n{:#?}", compiled.diagnostics))
}

fn facts(repo: &Repo) -> Facts<'static> {
    Facts { name: repo.name, exists: repo.exists, creator: repo.creator, roles: repo.roles }
}

fn ask(policy: &Policy, repo: &Repo, user: &str, op: Op, refname: &str) -> Decision {
    let target = if refname == "any" { Target::Any } else { Target::Ref(refname) };
    policy.decide(&facts(repo), user, op, target)
}

/// Every question there is: the answers in one order.
fn questions() -> impl Iterator<Item = (&'static Repo, &'static str, (&'static str, Op), &'static str)> {
    REPOS.iter().flat_map(|repo| {
        USERS.into_iter().flat_map(move |user| {
            OPS.into_iter().flat_map(move |op| REFS.into_iter().map(move |refname| (repo, user, op, refname)))
        })
    })
}

fn own(words: Vec<&str>) -> Vec<String> {
    words.into_iter().map(str::to_owned).collect()
}

fn line() -> impl Strategy<Value = Line> {
    let perm = prop::sample::select(vec![
        "-", "-", "C", "C", "R", "R", "RW", "RW", "RW+", "RW+", "RWC", "RW+C", "RWD", "RW+CD", "RWM", "RW+M", "RW+CDM",
    ]);
    let refex = prop::sample::select(vec![
        "a",
        "a$",
        "b",
        "[ab]+",
        "refs/tags/v",
        "dev/USER/",
        "refs/.*",
        "a|o",
        "(a|b)$",
        "NAME/doc/",
        "VREF/NAME/",
        "VREF/NAME/USER/",
        "VREF/COUNT/5",
    ]);
    let user = prop::sample::select(vec![
        "una", "vic", "w.b+c", "wim", "@all", "@g", "@h", "@later", "CREATOR", "READERS", "WRITERS", "@WRITERS",
    ]);
    let rule = (perm, prop::collection::vec(refex, 0..3), prop::collection::vec(user, 1..3)).prop_map(
        |(perm, refexes, users)| Line::Rule { perm: perm.to_owned(), refexes: own(refexes), users: own(users) },
    );
    let key = prop::sample::select(vec!["deny-rules", "CREATE_IS_C", "DELETE_IS_D"]);
    let option = (key, prop::sample::select(vec!["1", "0"]))
        .prop_map(|(key, value)| Line::Option { key: key.to_owned(), value: value.to_owned() });
    prop_oneof![6 => rule, 1 => option]
}

fn block(part: bool) -> impl Strategy<Value = Block> {
    let item = prop::sample::select(vec![
        "r1",
        "r2",
        "@g",
        "@h",
        "@area",
        "@all",
        "pub/..*",
        "pub/CREATOR/..*",
        "CREATOR/[a-z]*-2",
        "r[0-9]*",
        "new",
    ]);
    (prop::collection::vec(item, 1..3), prop::collection::vec(line(), 1..6)).prop_map(move |(repos, lines)| Block {
        repos: own(repos),
        lines,
        part,
    })
}

fn conf() -> impl Strategy<Value = Conf> {
    let members =
        |among: &'static [&'static str]| prop::collection::vec(prop::sample::select(among), 1..3).prop_map(own);
    let any: &[&str] = &["una", "vic", "w.b+c", "r1", "pub/x", "pub/.*", "pub/CREATOR/..*"];
    let area: &[&str] = &["r1", "r2", "pub/.*", "pub/CREATOR/..*", "CREATOR/.*", "n[a-z]*"];
    let blocks = |part, least| prop::collection::vec(block(part), least..4);
    let groups = (members(any), members(any), members(any), members(area), prop::option::of(members(any)));
    let parts = (blocks(false, 1), blocks(true, 0), blocks(false, 0));
    (groups, parts).prop_map(|((g, more, h, area, of_part), (mut blocks, delegated, below))| {
        let first = Line::Rule { perm: "RW".to_owned(), refexes: vec![], users: vec!["boss".to_owned()] };
        blocks.insert(0, Block { repos: vec!["gitmesh-admin".to_owned()], lines: vec![first], part: false });
        let with = |first: &str, rest: Vec<String>| [vec![first.to_owned()], rest].concat();
        // @h copies @g as it is between its two definitions; the part may call a group of its own @g.
        let part_groups: Vec<_> = if delegated.is_empty() { Vec::new() } else { of_part.into_iter().collect() };
        let groups = [("@g", g), ("@h", with("@g", h)), ("@g", more), ("@later", own(vec!["wim"])), ("@area", area)];
        blocks.extend(delegated);
        blocks.extend(below);
        Conf {
            groups: groups.into_iter().map(|(n, m)| (n.to_owned(), m)).collect(),
            part_groups: part_groups.into_iter().map(|members| ("@g".to_owned(), members)).collect(),
            blocks,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn both_deciders_agree(conf in conf()) {
        let texts = conf.texts();
        let policy = policy(&texts);
        for (repo, user) in REPOS.iter().flat_map(|repo| USERS.map(|user| (repo, user))) {
            let asked = conf.asked(repo, user);
            let mine = questions().filter(|(r, u, ..)| r.name == repo.name && *u == user);
            for (_, _, (word, op), refname) in mine {
                let got = ask(&policy, repo, user, op, refname);
                let want = asked.decide(word, refname);
                let told = || format!("{repo:?} {user} {word} {refname}\n{}\n-- area.conf\n{}", texts[0], texts[1]);
                prop_assert_eq!((got.allowed, got.refex.clone()), want, "{}", told());
                if refname.starts_with("VREF/") {
                    let path = policy.decide(&facts(repo), user, op, Target::Path(refname.as_bytes()));
                    prop_assert_eq!(&path, &got, "{}", told());
                }
            }
            let got = policy.walk(&facts(repo), user).virtual_refexes();
            prop_assert_eq!(got, conf.virtual_refexes(repo, user), "{:?} {}\n{:#?}", repo, user, texts);
        }
    }

    #[test]
    fn a_rule_below_changes_nothing_that_was_decided(conf in conf(), extra in line()) {
        // The letters C, D and M switch options, which reach up by design.
        let switches = match &extra {
            Line::Rule { perm, .. } => perm.len() > 1 && perm.contains(['C', 'D', 'M']),
            Line::Option { .. } => true,
        };
        prop_assume!(!switches);
        let mut longer = conf.clone();
        longer.blocks.push(Block { repos: vec!["@all".to_owned()], lines: vec![extra], part: false });
        let (before, after) = (conf.policy(), longer.policy());
        for (repo, user, (_, op), refname) in questions().filter(|(repo, ..)| repo.exists) {
            let first = ask(&before, repo, user, op, refname);
            if first.place.is_some() {
                prop_assert_eq!(first, ask(&after, repo, user, op, refname));
            }
        }
    }

    #[test]
    fn a_name_never_seen_is_everybody(conf in conf()) {
        let policy = conf.policy();
        for (repo, _, (_, op), refname) in questions().filter(|(_, user, ..)| *user == "una") {
            let (a, all) = (ask(&policy, repo, "never-seen", op, refname), ask(&policy, repo, "@all", op, refname));
            prop_assert_eq!((a.allowed, &a.place), (all.allowed, &all.place));
        }
    }

    /// Blanks, comments and line ends mean nothing: the dressed text gives the same answers at the same lines.
    #[test]
    fn dressing_changes_nothing(conf in conf(), blanks in prop::collection::vec("[ \t]{1,3}", 64)) {
        let texts = conf.texts();
        let mut next = blanks.iter().cycle();
        let dressed = texts.each_ref().map(|text| {
            let mut dressed = String::new();
            for line in text.lines() {
                for word in line.split_whitespace() {
                    dressed.push_str(word);
                    dressed.push_str(next.next().unwrap());
                }
                dressed.push_str("# RW = mallory\r\n");
            }
            dressed
        });
        let (plain, dressed) = (policy(&texts), policy(&dressed));
        for (repo, user, (_, op), refname) in questions() {
            prop_assert_eq!(ask(&plain, repo, user, op, refname), ask(&dressed, repo, user, op, refname));
        }
    }
}

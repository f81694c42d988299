//! The access language against gitolite 3.6.12's own answers.
//!
//! `tests/vectors/access` holds configurations and questions that a running gitolite answered (its README tells the
//! form); `GITMESH_VECTORS` names another directory of that form. Every disagreement is reported with the
//! configuration's id, the question, and both answers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use gitmesh::model::{HostName, RepoName};
use gitmesh::policy::{
    Change, Compiled, Decision, Facts, How, Mode, Op, Policy, Settings, Sources, TEMPLATE_CREATOR, Target, compile,
};
use gitmesh::{admin, control};
use serde::Deserialize;

/// Repository, user, permission, ref, allowed, why.
type AccessAnswer = (String, String, String, String, u8, String);
/// Repository, user, kind, merge, ref, allowed, stage, operation, why.
type PushAnswer = (String, String, String, u8, String, u8, u8, String, String);
/// Repository, host, mode, master, copies, redirectors.
type MirrorAnswer = (String, String, String, String, BTreeMap<String, String>, Vec<String>);

/// Where a server's answers are not gitolite's on purpose, by the start of the disagreement: `desc` needs no permission
/// and takes any text, gitolite 2's mirroring is understood, users' names are text and no expressions.
const LEFT: &[&str] = &[
    "pub-e23-desc-not-allowed compile:",
    "pub-e25-v2-mirror-key-not-allowed compile:",
    "pub-e27-desc-value-ampersand compile:",
    "pub-h32-real-v2-mirror mirror red on h1",
    "pub-h32-real-v2-mirror mirror red on h2",
    "pub-h43-t-creator-name access yard/axb/x a.b ^C any",
    "pub-h43-t-creator-name access yard/c+d/x c+d ^C any",
    "pub-h44-t-user-regex access red a.b + refs/heads/dev/axb/x",
    "pub-h44-t-user-regex access red c+d + refs/heads/dev/c+d/x",
    "pub-h44-t-user-regex access red c+d + refs/heads/dev/ccd/x",
];

#[derive(Deserialize)]
struct Vector {
    id: String,
    kind: String,
    files: BTreeMap<String, String>,
    #[serde(default)]
    rc: Rc,
    #[serde(default)]
    keydir: Vec<String>,
    #[serde(default)]
    wild: Vec<Wild>,
    compile: Expected,
    #[serde(default)]
    access: Vec<AccessAnswer>,
    #[serde(default)]
    push: Vec<PushAnswer>,
    #[serde(default)]
    config: BTreeMap<String, BTreeMap<String, String>>,
    #[serde(default)]
    mirror: Vec<MirrorAnswer>,
    #[serde(default)]
    info: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    lists: Lists,
    recommend: Option<String>,
    #[serde(default)]
    gitmesh_access: Vec<(String, String, String, String, u8)>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "UPPERCASE")]
struct Rc {
    hostname: Option<String>,
    git_config_keys: Option<String>,
    roles: Option<Vec<String>>,
    #[serde(default)]
    safe_config: BTreeMap<String, String>,
    #[serde(default)]
    enable: Vec<String>,
}

#[derive(Deserialize)]
struct Wild {
    repo: String,
    creator: String,
    perms: Option<String>,
    #[serde(default)]
    nocreator: bool,
}

#[derive(Deserialize)]
struct Expected {
    ok: bool,
    #[serde(default)]
    error: Vec<String>,
    #[serde(default)]
    warnings: Vec<Vec<String>>,
}

#[derive(Deserialize, Default)]
struct Lists {
    users: Option<Vec<String>>,
    groups: Option<Vec<String>>,
    repos: Option<Vec<String>>,
    phy_repos: Option<Vec<String>>,
    #[serde(default)]
    of_user: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    of_repo: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    members: BTreeMap<String, Vec<String>>,
}

/// What the disk would say.
#[derive(Default, Clone)]
struct OnDisk {
    creator: Option<String>,
    roles: Option<String>,
}

struct World<'v> {
    vector: &'v Vector,
    policy: &'v Policy,
    disk: BTreeMap<String, OnDisk>,
    wrong: &'v mut Vec<String>,
    asked: usize,
}

fn settings(vector: &Vector) -> Settings {
    let rc = &vector.rc;
    let mut settings = Settings {
        host: rc.hostname.as_deref().filter(|h| !h.is_empty()).map(|h| HostName::new(h).expect("a host name")),
        config_keys: rc.git_config_keys.iter().flat_map(|k| k.split_whitespace().map(str::to_owned)).collect(),
        safe_config: rc.safe_config.clone(),
        enable: rc.enable.iter().cloned().collect(),
        key_files: vector.keydir.clone(),
        ..Settings::default()
    };
    if let Some(roles) = &rc.roles {
        settings.roles.clone_from(roles);
    }
    settings
}

fn sources(vector: &Vector) -> Sources {
    let files = vector.files.iter().map(|(path, text)| (path.clone(), text.clone().into_bytes())).collect();
    Sources { main: "gitolite.conf".to_owned(), files }
}

impl World<'_> {
    fn wrong(&mut self, question: String, got: impl std::fmt::Debug, want: impl std::fmt::Debug) {
        self.wrong.push(format!("{} {question}\n    got  {got:?}\n    want {want:?}", self.vector.id));
    }

    fn same<T: PartialEq + std::fmt::Debug>(&mut self, question: String, got: T, want: T) {
        self.asked += 1;
        if got != want {
            self.wrong(question, got, want);
        }
    }

    fn on_disk<T>(&self, repo: &str, with: impl FnOnce(&Facts<'_>) -> T) -> T {
        let disk = self.disk.get(repo);
        with(&Facts {
            name: repo,
            exists: disk.is_some(),
            creator: disk.and_then(|d| d.creator.as_deref()),
            roles: disk.and_then(|d| d.roles.as_deref()),
        })
    }

    /// The disk after the conf was compiled and the vector's users created their repositories.
    fn fill_disk(&mut self) {
        for repo in self.policy.repos() {
            self.disk.insert(repo.to_string(), OnDisk::default());
        }
        for (repo, template) in self.policy.templates() {
            let roles = Some(template.roles.clone());
            self.disk.insert(repo.to_string(), OnDisk { creator: Some(TEMPLATE_CREATOR.to_owned()), roles });
        }
        let default_roles = self.vector.rc.enable.iter().any(|e| e == "set-default-roles");
        for wild in &self.vector.wild {
            let creator = (!wild.nocreator).then(|| wild.creator.clone());
            let facts = Facts { name: &wild.repo, exists: true, creator: Some(&wild.creator), roles: None };
            let roles =
                wild.perms.clone().or_else(|| admin::default_roles(self.policy, &facts).filter(|_| default_roles));
            self.disk.insert(wild.repo.clone(), OnDisk { creator, roles });
        }
    }

    fn access(&mut self) {
        let asked = &self.vector.access;
        for (repo, user, perm, refname, allowed, why) in asked {
            let got = self.ask(repo, user, perm, refname);
            self.asked += 1;
            let question = format!("access {repo} {user} {perm} {refname}");
            if got.allowed != (*allowed == 1) || (!why.starts_with('!') && got.refex != *why) {
                self.wrong(question, (got.allowed, &got.refex), (allowed, why));
            }
        }
    }

    fn ask(&self, repo: &str, user: &str, perm: &str, refname: &str) -> Decision {
        let target = if refname == "any" { Target::Any } else { Target::Ref(refname) };
        self.on_disk(repo, |facts| {
            let walk = self.policy.walk(facts, user);
            let op = match perm {
                "R" => Op::Read,
                "W" => Op::Write,
                "+" => Op::Force,
                "C" => Op::Create,
                "D" => Op::Delete,
                "M" if walk.checks_merges() => Op::WriteMerge,
                "M" => Op::Write,
                "WM" => Op::WriteMerge,
                "+M" => Op::ForceMerge,
                "^C" => Op::CreateRepo,
                _ => panic!("unknown permission {perm}"),
            };
            let decision = walk.decide(op, target);
            let explained = self.policy.explain(facts, user, op, target);
            assert_eq!(explained.0, decision, "explaining decides the same");
            decision
        })
    }

    fn push(&mut self) {
        let asked = &self.vector.push;
        for (repo, user, kind, merge, refname, allowed, stage, op, why) in asked {
            let change = match kind.as_str() {
                "create" => Change::Create,
                "ff" => Change::FastForward,
                "rewind" => Change::Rewind,
                "delete" => Change::Delete,
                _ => panic!("unknown kind {kind}"),
            };
            let got = self.on_disk(repo, |facts| {
                let walk = self.policy.walk(facts, user);
                let first = walk.decide(Op::Write, Target::Any);
                if !first.allowed {
                    return (first.allowed, 1, "W".to_owned(), first.refex);
                }
                let op = walk.ref_op(refname, change, *merge == 1);
                let second = walk.decide(op, Target::Ref(refname));
                (second.allowed, 2, op.to_string(), second.refex)
            });
            let want = (*allowed == 1, *stage, op.clone(), why.clone());
            self.same(format!("push {repo} {user} {kind} merge={merge} {refname}"), got, want);
        }
    }

    fn config(&mut self) {
        let wanted = &self.vector.config;
        for (repo, want) in wanted {
            let got = self.on_disk(repo, |facts| self.policy.config(facts));
            self.same(format!("config {repo}"), &got, want);
        }
    }

    fn mirror(&mut self) {
        let asked = &self.vector.mirror;
        for (repo, host, mode, master, copies, redirectors) in asked {
            let host_name = HostName::new(host).expect("a host name");
            let got = self.on_disk(repo, |facts| self.policy.mirror(facts, &host_name));
            let got_mode = match got.mode {
                Mode::Master => "master",
                Mode::Copy { .. } | Mode::Orphan => "copy",
                Mode::Doubted(_) => panic!("no disk is doubted by a configuration"),
                Mode::Local => "local",
                Mode::NotHere => "not-here",
            };
            let how = |how: &How| match how {
                How::Async => "async",
                How::Sync => "sync",
                How::NoSync | How::NoSyncQuiet => "nosync",
            };
            let got_copies: BTreeMap<String, String> =
                got.copies.iter().map(|(copy, h)| (copy.clone(), how(h).to_owned())).collect();
            let got = (got_mode, got.master.unwrap_or_default(), &got_copies, &got.redirectors);
            let want = (mode.as_str(), master.clone(), copies, redirectors);
            self.same(format!("mirror {repo} on {host}"), got, want);
        }
    }

    fn info(&mut self) {
        let wanted = &self.vector.info;
        for (asked, want) in wanted {
            let got = self.info_lines(asked);
            self.same(format!("info {asked}"), &got, want);
        }
    }

    fn info_lines(&self, asked: &str) -> Vec<String> {
        let mut words = asked.split(' ');
        let user = words.next().expect("a user");
        let (flags, filters): (Vec<&str>, Vec<&str>) = words.partition(|w| w.starts_with('-'));
        let filter = regex::Regex::new(filters.first().unwrap_or(&"")).expect("a filter");
        let patterns =
            self.policy.pattern_rights(user).into_iter().map(|(name, r)| (name, [r.read, r.write, r.create]));
        let with_patterns = !flags.contains(&"-p");
        let patterns: Vec<_> = patterns.filter(|(name, _)| with_patterns && filter.is_match(name)).collect();
        let row = |(repo, disk): (&String, &OnDisk)| {
            let r = self.on_disk(repo, |facts| self.policy.rights(facts, user));
            let creator = flags.contains(&"-lc").then(|| disk.creator.clone().unwrap_or_default());
            (r.any() && filter.is_match(repo)).then(|| (repo.clone(), [r.read, r.write], creator))
        };
        control::info_lines(&patterns, self.disk.iter().filter_map(row).collect()).lines().map(str::to_owned).collect()
    }

    fn lists(&mut self) {
        let lists = &self.vector.lists;
        let texts = |set: BTreeSet<&str>| set.into_iter().map(str::to_owned).collect::<Vec<_>>();
        if let Some(want) = &lists.users {
            self.same("list users".to_owned(), &texts(self.policy.users()), want);
        }
        if let Some(want) = &lists.groups {
            self.same("list groups".to_owned(), &texts(self.policy.groups()), want);
        }
        if let Some(want) = &lists.repos {
            self.same("list repos".to_owned(), &texts(self.policy.repo_items()), want);
        }
        if let Some(want) = &lists.phy_repos {
            // A warning says so: `CREATOR` as a part of a name, `a//b` and the like never reach the disk of gitmesh.
            let (want, never): (Vec<String>, Vec<String>) =
                want.iter().cloned().partition(|repo| RepoName::new(repo).is_ok());
            if !never.is_empty() {
                println!("{}: not made on purpose: {never:?}", self.vector.id);
            }
            self.same("list phy-repos".to_owned(), self.disk.keys().cloned().collect(), want);
        }
        for (user, want) in &lists.of_user {
            self.same(format!("list groups of {user}"), &texts(self.policy.groups_of_user(user)), want);
        }
        for (repo, want) in &lists.of_repo {
            let got = self.on_disk(repo, |facts| texts(self.policy.names_of_repo(facts)));
            self.same(format!("list names of {repo}"), &got, want);
        }
        for (group, want) in &lists.members {
            let got: Vec<String> = self.policy.members(group).into_iter().map(str::to_owned).collect();
            self.same(format!("list members of {group}"), &got, want);
        }
    }
}

/// Runs one vector and gives the number of questions.
fn run(vector: &Vector, settings: &Settings, wrong: &mut Vec<String>) -> usize {
    let Compiled { policy, diagnostics } = compile(&sources(vector), settings);
    let errors: BTreeSet<&str> = diagnostics.iter().filter(|d| d.is_error()).map(|d| d.class).collect();
    let refused_on_purpose = match vector.recommend.as_deref() {
        Some("reject") => {
            if policy.is_some() {
                wrong.push(format!("{} should be refused", vector.id));
            }
            return 1;
        }
        Some("diverge") => policy.is_none(),
        _ => false,
    };
    if refused_on_purpose {
        return 1;
    }
    if policy.is_some() != vector.compile.ok {
        wrong.push(format!("{} compile: got {errors:?}, want {:?}", vector.id, vector.compile.error));
        return 1;
    }
    let Some(policy) = policy else {
        let class = vector.compile.error[0].as_str();
        if !errors.contains(class) {
            wrong.push(format!("{} error class: got {errors:?}, want {class}", vector.id));
        }
        return 1;
    };
    // Own warnings may come on top; a line of gitolite's that is missing is a disagreement.
    let warned: BTreeSet<&str> = diagnostics.iter().map(|d| d.class).collect();
    for class in vector.compile.warnings.iter().filter_map(|w| w.first()) {
        if !warned.contains(class.as_str()) && vector.recommend.as_deref() != Some("diverge") {
            wrong.push(format!("{} warning {class} is missing from {warned:?}", vector.id));
        }
    }
    let gitolites = ["line-ignored", "r-with-ref", "undeclared-group", "git-suffix", "subconf-repos-ignored"];
    let gitolites = gitolites.iter().chain(&["subconf-expanding-group", "include-missing", "include-again"]);
    let wanted: BTreeSet<&str> = vector.compile.warnings.iter().filter_map(|w| w.first().map(String::as_str)).collect();
    let diverges = vector.recommend.as_deref() == Some("diverge");
    for class in gitolites.filter(|c| !diverges && warned.contains(**c) && !wanted.contains(**c)) {
        wrong.push(format!("{} warning {class} is not gitolite's", vector.id));
    }
    let mut world = World { vector, policy: &policy, disk: BTreeMap::new(), wrong, asked: 1 };
    world.fill_disk();
    if vector.recommend.as_deref() == Some("diverge") {
        for (repo, user, perm, refname, allowed) in &vector.gitmesh_access {
            let got = world.ask(repo, user, perm, refname).allowed;
            world.same(format!("gitmesh_access {repo} {user} {perm} {refname}"), got, *allowed == 1);
        }
        return world.asked;
    }
    world.access();
    world.push();
    world.config();
    world.mirror();
    world.info();
    world.lists();
    world.asked
}

#[test]
fn access_vectors() {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/access");
    let directory = std::env::var_os("GITMESH_VECTORS").map_or(here, PathBuf::from);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&directory)
        .expect("the directory of vectors")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "jsonl"))
        .collect();
    paths.sort();
    let (mut wrong, mut left, mut vectors, mut asked) = (Vec::new(), Vec::new(), 0, 0);
    for path in paths {
        for line in std::fs::read_to_string(&path).expect("a file of vectors").lines().filter(|l| !l.is_empty()) {
            let vector: Vector = serde_json::from_str(line).expect("a vector");
            assert!(!vector.kind.is_empty());
            asked += run(&vector, &settings(&vector), &mut wrong);
            // Once more as a server compiles it, which leaves gitolite's answers where the specification says so.
            let mut servers = settings(&vector);
            servers.enable.extend(Settings::recommended().enable);
            run(&vector, &servers, &mut left);
            vectors += 1;
        }
    }
    let left: Vec<&String> = left.iter().filter(|disagreement| !wrong.contains(disagreement)).collect();
    println!("{} answers of a server are not gitolite's:", left.len());
    left.iter().for_each(|disagreement| println!("{disagreement}"));
    if std::env::var_os("GITMESH_VECTORS").is_none() {
        let unmeant = left.iter().filter(|told| !LEFT.iter().any(|known| told.starts_with(known)));
        let unmeant: Vec<_> = unmeant.map(|told| told.as_str()).collect();
        let unused = LEFT.iter().filter(|known| !left.iter().any(|told| told.starts_with(**known)));
        assert_eq!(unused.count(), 0, "an answer that is gitolite's after all: {left:#?}");
        assert!(unmeant.is_empty(), "{} answers of a server left gitolite's:\n{}", unmeant.len(), unmeant.join("\n"));
    }
    println!("{vectors} configurations, {asked} answers compared");
    assert!(vectors > 0, "no vectors in {}", directory.display());
    assert!(wrong.is_empty(), "{} disagreements:\n{}", wrong.len(), wrong.join("\n"));
}

/// A `RepoName` makes facts without a creator; the helper constructors agree with the fields.
#[test]
fn facts_by_name() {
    let name = RepoName::new("docs/handbook").expect("a name");
    assert!(Facts::existing(&name).exists);
    assert!(!Facts::missing(&name).exists);
}

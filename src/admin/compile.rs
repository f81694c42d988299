//! A commit of the admin repository becomes a policy, or a list of what is wrong with it.
//!
//! Nothing is published here and nothing on disk is touched, so a push is checked by the same code that later puts it
//! in force. What `policy` cannot know is checked here: whether somebody with a key can still administer, whose keys
//! the node's and the peers' own are, and what this server does not carry out yet.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use crate::model::time::Stamp;
use crate::model::{HostName, Oid, RefName, RepoName, UserName};
use crate::peer::Peers;
use crate::policy::{
    Diagnostic, Facts, Op, Policy, Settings, Severity, Sources, Target, compile as compile_rules, render,
};
use crate::policy::{KeyFile, Keyring, OwnerName};

use super::plan::{self, Side};
use super::realm::{Live, admin_repo, now};
use super::tree::{Files, Tree};
use super::{ADMIN_REPO, Programs, copies, lint, program};

const MAIN: &str = "conf/gitmesh.conf";
const MAIN_OF_GITOLITE: &str = "conf/gitolite.conf";
const ADMIN_REPO_OF_GITOLITE: &str = "gitolite-admin";
/// Remarks shown to whoever pushes; more would hide the first, which often is the cause of the rest.
const REMARKS_SHOWN: usize = 20;

pub(super) type Remarks = Vec<Diagnostic>;

/// What a check needs besides the commit.
#[derive(Clone, PartialEq)]
pub struct Surroundings {
    pub node: HostName,
    /// `host` and `key_files` are filled in by the check.
    pub settings: Settings,
    /// The public key blob of this node.
    pub identity: Vec<u8>,
    /// The peers that the machine knows; those of the commit's own keydir come on top.
    pub peers: Peers,
    /// Finds the programs of virtual refs; `None` where the server's machine cannot be seen.
    pub programs: Option<Programs>,
}

/// A commit that may come alive.
pub struct Checked {
    pub commit: Oid,
    /// As text for whoever pushed; empty when there is nothing to say.
    pub warnings: String,
    pub(super) policy: Policy,
    pub(super) keyring: Keyring,
    pub(super) admin_alias: Option<RepoName>,
    pub(super) keys: BTreeMap<String, Vec<u8>>,
}

/// Why a commit may not come alive. `Display` is the text for whoever pushed it: a first line that starts with
/// `FATAL:`, as gitolite's does, then each remark with file, line, caret and help.
#[derive(Debug, Clone)]
pub struct Rejected {
    pub diagnostics: Vec<Diagnostic>,
    rendered: String,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errors = self.diagnostics.iter().filter(|found| found.severity == Severity::Error).count();
        let plural = if errors == 1 { "" } else { "s" };
        writeln!(f, "FATAL: the configuration is refused: {errors} error{plural}; nothing was changed")?;
        f.write_str(self.rendered.trim_end())
    }
}

impl std::error::Error for Rejected {}

/// Checks a commit that is about to become the admin repository's newest. Blocks; its cost is that of compiling.
pub fn check(admin_dir: &Path, commit: &Oid, around: &Surroundings) -> Result<Checked, Rejected> {
    run(admin_dir, commit, None, around, Severity::Error)
}

/// As [`check`], for a branch that is about to become the live one.
pub fn check_on(admin_dir: &Path, commit: &Oid, branch: &RefName, around: &Surroundings) -> Result<Checked, Rejected> {
    run(admin_dir, commit, Some(branch), around, Severity::Error)
}

/// As [`check`], for a commit that is the newest already: a user's key that has meanwhile become a peer's is only a
/// warning, since refusing would stop the whole server for it.
pub(super) fn check_accepted(admin_dir: &Path, commit: &Oid, around: &Surroundings) -> Result<Checked, Rejected> {
    run(admin_dir, commit, None, around, Severity::Warning)
}

/// What a check found.
pub struct Draft {
    /// Errors first; with none of them, `made` is there.
    pub diagnostics: Vec<Diagnostic>,
    pub(super) files: Files,
    pub(super) made: Option<Made>,
}

/// A tree that compiles.
pub(super) struct Made {
    pub(super) policy: Policy,
    pub(super) keyring: Keyring,
    pub(super) admin_alias: Option<RepoName>,
}

/// Remarks made from what was compiled know a line but not its bytes: the caret goes under the whole line.
fn point(files: &Files, remarks: &mut [Diagnostic]) {
    for remark in remarks.iter_mut().filter(|remark| remark.span.is_none() && remark.line > 0) {
        let Some(text) = files.get(&remark.file) else { continue };
        let mut lines = text.split_inclusive(|byte| *byte == b'\n').scan(0, |at, line| {
            let start = *at;
            *at += line.len();
            Some((start, line))
        });
        let Some((start, line)) = lines.nth(remark.line as usize - 1) else { continue };
        let blank = line.len() - line.trim_ascii_start().len();
        remark.span = Some(start + blank..start + line.trim_ascii_end().len().max(blank));
    }
}

impl Draft {
    fn add(&mut self, mut remarks: Remarks) {
        point(&self.files, &mut remarks);
        let wrong = remarks.iter().any(|remark| remark.severity == Severity::Error);
        self.diagnostics.extend(remarks);
        self.diagnostics.sort_by_key(|remark| remark.severity == Severity::Warning);
        self.made = self.made.take().filter(|_| !wrong);
    }

    pub fn is_good(&self) -> bool {
        self.made.is_some()
    }

    /// The remarks as text, at most `max` of them; empty when there is nothing to say.
    pub fn rendered(&self, max: usize) -> String {
        let text = |file: &str| self.text_of(file);
        if self.diagnostics.is_empty() { String::new() } else { render(&self.diagnostics, &text, max) }
    }

    /// A file's text, by its path in the admin repository.
    pub fn text_of(&self, file: &str) -> Option<String> {
        self.files.get(file).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// A file's bytes, by its path in the admin repository.
    pub fn bytes_of(&self, file: &str) -> Option<&[u8]> {
        self.files.get(file).map(Vec::as_slice)
    }
}

/// Compiles files away from any server, by the same code as a push. What only a node knows, its own key and its
/// peers, is not looked at; `node` is whose `%HOSTNAME` it is, if it matters.
pub fn draft(tree: Tree, settings: &Settings, node: Option<&HostName>) -> Draft {
    examine(tree, settings, node, None, Severity::Error)
}

fn run(
    admin_dir: &Path,
    commit: &Oid,
    branch: Option<&RefName>,
    around: &Surroundings,
    clash: Severity,
) -> Result<Checked, Rejected> {
    let mut tree = Tree::of_commit(admin_dir, commit);
    if let Some(branch) = branch {
        tree.live = branch.to_string();
    }
    let mut draft = examine(tree, &around.settings, Some(&around.node), Some(around), clash);
    if let (Some(made), Some(programs)) = (&draft.made, &around.programs) {
        draft.add(program::missing(&made.policy, programs, commit, clash));
    }
    let rendered = draft.rendered(REMARKS_SHOWN);
    match draft.made.take() {
        Some(Made { policy, keyring, admin_alias }) => {
            let mut keys = draft.files;
            keys.retain(|path, _| path.starts_with("keydir/"));
            Ok(Checked { commit: commit.clone(), warnings: rendered, policy, keyring, admin_alias, keys })
        }
        None => Err(Rejected { diagnostics: draft.diagnostics, rendered }),
    }
}

fn examine(
    tree: Tree,
    settings: &Settings,
    node: Option<&HostName>,
    around: Option<&Surroundings>,
    clash: Severity,
) -> Draft {
    let Tree { files, remarks: mut found, live } = tree;
    let main = files.as_ref().and_then(|files| main_file(files, &mut found));
    let files = files.unwrap_or_default();
    let made = main.and_then(|main| compile(&files, main, &live, settings, node, around, clash, &mut found));
    point(&files, &mut found);
    found.sort_by_key(|remark| remark.severity == Severity::Warning);
    let wrong = found.iter().any(|remark| remark.severity == Severity::Error);
    Draft { diagnostics: found, files, made: made.filter(|_| !wrong) }
}

pub(super) fn main_file(files: &Files, found: &mut Remarks) -> Option<&'static str> {
    let here = |path: &&'static str| files.contains_key(*path);
    let main = [MAIN, MAIN_OF_GITOLITE].iter().find(|path| here(path)).copied();
    if main.is_none() {
        let help = format!("put the rules into {MAIN} ({MAIN_OF_GITOLITE} is read too)");
        found.push(remark("E0303", "no-configuration", MAIN, "the commit holds no configuration".to_owned(), &help));
    } else if main == Some(MAIN) && here(&MAIN_OF_GITOLITE) {
        let message = format!("{MAIN_OF_GITOLITE} is not read, since there is {MAIN}");
        found.push(warning("W0301", "two-configurations", MAIN_OF_GITOLITE, message, "remove one of them"));
    }
    main
}

#[expect(clippy::too_many_arguments, reason = "one caller, which has them all at hand")]
fn compile(
    files: &Files,
    main: &'static str,
    live: &str,
    settings: &Settings,
    node: Option<&HostName>,
    around: Option<&Surroundings>,
    clash: Severity,
    found: &mut Remarks,
) -> Option<Made> {
    let keys: Vec<_> = files.iter().filter(|(path, _)| path.starts_with("keydir/")).collect();
    let (sources, settings) = written(files, main, settings, node);
    let compiled = compile_rules(&sources, &settings);
    found.extend(compiled.diagnostics);

    let key_files: Vec<_> = keys.iter().map(|(path, text)| KeyFile { path, text }).collect();
    let (keyring, remarks) = Keyring::compile(&key_files);
    let keys_good = remarks.iter().all(|remark| remark.severity == Severity::Warning);
    found.extend(remarks);
    if let Some(around) = around {
        nodes_keys(&keyring, around, clash, found);
    }

    let policy = compiled.policy?;
    program::unreadable(&policy, found);
    let admin_alias = admin_alias(&policy, main, found);
    if keys_good {
        // With a bad key the answer would be wrong, and the key is the thing to mend.
        let start = found.len();
        // What was good when it was accepted stays so when keys expire: a server must start on it.
        let now = (clash == Severity::Error).then(now);
        lock_out(&policy, &keyring, now, admin_alias.as_ref(), live, main, found);
        let named = admin_alias.as_ref().map_or(ADMIN_REPO, RepoName::as_str);
        found[start..].iter_mut().for_each(|remark| lint::stand(files, named, remark));
        // Who may write a copy is its master's affair, and one that waits for its master has no keys yet.
        let own = admin_alias.clone().unwrap_or_else(admin_repo);
        let mode = around.map(|around| policy.mirror(&Facts::existing(&own), &around.node).mode);
        if clash == Severity::Warning && matches!(mode, Some(crate::policy::Mode::Copy { .. })) {
            found[start..].iter_mut().for_each(|remark| remark.severity = Severity::Warning);
        }
        lint::lint(&policy, &keyring, !settings.authorities.is_empty(), files, main, found);
    }
    copies::copies(&policy, &keyring, around, main, found);
    Some(Made { policy, keyring, admin_alias })
}

/// The rules among the files, and what they are compiled with.
pub(super) fn written(files: &Files, main: &str, settings: &Settings, node: Option<&HostName>) -> (Sources, Settings) {
    let (keys, rules): (Vec<_>, Vec<_>) = files.iter().partition(|(path, _)| path.starts_with("keydir/"));
    let mut settings = settings.clone();
    settings.host = node.cloned();
    settings.key_files = keys.iter().map(|(path, _)| below(path).to_owned()).collect();
    let files = rules.into_iter().map(|(path, text)| (below(path).to_owned(), text.clone())).collect();
    (Sources { main: below(main).to_owned(), files }, settings)
}

/// A path without its first folder.
fn below(path: &str) -> &str {
    path.split_once('/').map_or(path, |(_, rest)| rest)
}

/// A node's key proves a node; as a user's key it would prove either.
fn nodes_keys(keyring: &Keyring, around: &Surroundings, clash: Severity, found: &mut Remarks) {
    let peers = around.peers.values().map(|peer| (&peer.name, &peer.key, clash));
    let own = std::iter::once((&around.node, &around.identity, Severity::Error));
    for (node, key, severity) in own.chain(peers) {
        let Some(owner) = keyring.owner(key) else { continue };
        if let OwnerName::User(user) = &owner.who {
            let message = format!("the key of user '{user}' is the identity of node '{node}'");
            let help = format!("give '{user}' a key of their own; whoever holds this one counts as the node");
            let mut clash = remark("E0305", "key-of-a-node", &owner.file, message, &help);
            (clash.line, clash.severity) = (owner.line, severity);
            found.push(clash);
        }
    }
}

/// `repo gitolite-admin` stands for the admin repository as long as that is not named itself, so that a copied
/// configuration keeps its administrators.
fn admin_alias(policy: &Policy, main: &str, found: &mut Remarks) -> Option<RepoName> {
    let named = |name: &str| policy.repos().any(|repo| repo.as_str() == name);
    if named(ADMIN_REPO) || !named(ADMIN_REPO_OF_GITOLITE) {
        return None;
    }
    let message = format!("'{ADMIN_REPO_OF_GITOLITE}' stands for '{ADMIN_REPO}' here");
    found.push(warning("W0302", "old-admin-repo-name", main, message, &format!("write: repo {ADMIN_REPO}")));
    RepoName::new(ADMIN_REPO_OF_GITOLITE).ok()
}

/// Somebody with a key must be able to mend this configuration by the next push: to clone it, and to write the branch
/// that is live. A deny rule for that branch alone locks out as well as no rule at all.
fn lock_out(
    policy: &Policy,
    keyring: &Keyring,
    now: Option<Stamp>,
    alias: Option<&RepoName>,
    live: &str,
    main: &str,
    found: &mut Remarks,
) {
    let own = admin_repo();
    let facts = Facts::existing(alias.unwrap_or(&own));
    let asked = [(Op::Read, Target::Any), (Op::Write, Target::Any), (Op::Write, Target::Ref(live))];
    let may = |user: &UserName| asked.iter().all(|(op, on)| policy.decide(&facts, user.as_str(), *op, *on).allowed);
    if keyring.users_at(now).into_iter().any(may) {
        return;
    }
    let message = "this would lock out the last administrator: nobody with a key could write gitmesh-admin".to_owned();
    let help = format!(
        "keep a rule such as\n    repo {ADMIN_REPO}\n        RW+ = NAME\nand the key keydir/NAME.pub of that user"
    );
    found.push(remark("E0304", "lock-out", main, message, &help));
}

/// A warning about a whole file.
pub(super) fn warning(code: &'static str, class: &'static str, file: &str, message: String, help: &str) -> Diagnostic {
    Diagnostic { severity: Severity::Warning, ..remark(code, class, file, message, help) }
}

/// An error about a whole file.
pub(super) fn remark(code: &'static str, class: &'static str, file: &str, message: String, help: &str) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        code,
        class,
        message,
        file: file.to_owned(),
        span: None,
        line: 0,
        label: String::new(),
        help: Some(help.to_owned()),
    }
}

impl Checked {
    /// What putting this in force changes, for whoever pushes it; `before` is what is in force now. Empty when nothing.
    pub fn plan(&self, before: &Live, programs: Option<&Programs>) -> String {
        let old = Side { policy: &before.policy, keys: &before.keys };
        let new = Side { policy: &self.policy, keys: &self.keys };
        let mut lines = plan::plan(old, new, Some(&before.node));
        let changed = programs.map(|programs| program::changed(&self.policy, programs, &before.commit, &self.commit));
        lines.extend(changed.into_iter().flatten().map(|path| format!("another program: {path}")));
        plan::block(&lines)
    }
}

impl Draft {
    /// What becomes of `before` with this; empty when nothing changes. None when one of the two does not compile.
    pub fn plan(&self, before: &Self) -> Option<String> {
        let keys = |draft: &Self| {
            let mut keys = draft.files.clone();
            keys.retain(|path, _| path.starts_with("keydir/"));
            keys
        };
        let (old_keys, new_keys) = (keys(before), keys(self));
        let old = Side { policy: &before.made.as_ref()?.policy, keys: &old_keys };
        let new = Side { policy: &self.made.as_ref()?.policy, keys: &new_keys };
        Some(plan::block(&plan::plan(old, new, None)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Store as _;
    use crate::admin::testing::{Node, OWN_KEY, blob, host, key_line};
    use crate::peer::Peer;

    fn around() -> Surroundings {
        let peers = Peers::default();
        Surroundings {
            node: host("server1"),
            settings: Settings::default(),
            identity: blob(OWN_KEY),
            peers,
            programs: None,
        }
    }

    const ADMIN: &str = "repo gitmesh-admin\n RW+ = alice\n";

    fn checked(node: &Node, commit: &Oid, around: &Surroundings) -> Checked {
        check(&node.store.admin_dir(), commit, around).unwrap_or_else(|rejected| panic!("{rejected}"))
    }

    /// Codes of the errors in a commit of these files and alice's key.
    fn codes(files: &[(&str, &str)]) -> Vec<&'static str> {
        let node = Node::new();
        let key = key_line(1);
        let commit = node.commit(&[files, &[("keydir/alice.pub", key.as_str())]].concat());
        let rejected = check(&node.store.admin_dir(), &commit, &around()).err();
        let errors = rejected.into_iter().flat_map(|rejected| rejected.diagnostics);
        errors.filter(|found| found.severity == Severity::Error).map(|found| found.code).collect()
    }

    #[test]
    fn what_is_refused_here() {
        assert!(codes(&[("conf/gitmesh.conf", ADMIN)]).is_empty());
        assert!(codes(&[("conf/gitolite.conf", ADMIN)]).is_empty());
        assert_eq!(codes(&[("README", "nothing else")]), ["E0303"]);
        assert_eq!(codes(&[("conf/gitmesh.conf", ADMIN), ("hooks/x", ""), ("logs/y", "")]), ["E0302", "E0302"]);
        assert_eq!(codes(&[("conf/gitmesh.conf", "repo testing\n RW+ = alice\n")]), ["E0304"]);
        assert_eq!(codes(&[("conf/gitmesh.conf", "repo gitmesh-admin\n RW+ = keyless\n R = alice\n")]), ["E0304"]);
        let wild =
            format!("{ADMIN}repo pub/CREATOR/..*\n C = @all\n RW = WRITERS\n option default.roles-1 = WRITERS alice\n");
        assert!(codes(&[("conf/gitmesh.conf", &wild)]).is_empty());
        let own = key_line(OWN_KEY);
        assert_eq!(codes(&[("conf/gitmesh.conf", ADMIN), ("keydir/bob.pub", &own)]), ["E0305"]);
    }

    #[test]
    fn the_shipped_example_compiles() {
        let node = Node::new();
        let conf = include_str!("../../conf/gitmesh.conf");
        let key = key_line(1);
        let bob = key_line(2);
        let files = [("conf/gitmesh.conf", conf), ("keydir/alice.pub", &key), ("keydir/bob.pub", &bob)];
        let commit = node.commit(&files);
        let peer =
            |name: &str| Peer { name: host(name), key: blob(8), user: "git".into(), host: name.into(), port: 22 };
        let around = Surroundings { peers: Peers::new([(host("server2"), peer("server2"))].into()), ..around() };
        assert_eq!(checked(&node, &commit, &around).warnings, "");
    }

    #[test]
    fn names_that_clash_with_words_of_the_language() {
        let node = Node::new();
        let conf = format!("{ADMIN}repo pub/CREATOR/..*\n C = @all\n RW+ = CREATOR READERS\n");
        let (one, two, three) = (key_line(1), key_line(2), key_line(3));
        let keys = [("keydir/alice.pub", one.as_str()), ("keydir/pub.pub", &two), ("keydir/READERS.pub", &three)];
        let commit = node.commit(&[&keys[..], &[("conf/gitmesh.conf", conf.as_str())]].concat());
        let warnings = checked(&node, &commit, &around()).warnings;
        assert!(warnings.contains("W0308") && warnings.contains("conf/gitmesh.conf:3:6"), "{warnings}");
        assert!(warnings.contains("W0309") && warnings.contains("keydir/READERS.pub"), "{warnings}");
    }

    #[test]
    fn a_copied_configuration_keeps_its_administrators() {
        let node = Node::new();
        let commit = node.commit(&[
            ("conf/gitolite.conf", "repo gitolite-admin\n RW+ = alice\n"),
            ("keydir/alice.pub", &key_line(1)),
        ]);
        let checked = checked(&node, &commit, &around());
        assert_eq!(checked.admin_alias.as_ref().map(RepoName::as_str), Some("gitolite-admin"));
        assert!(checked.warnings.contains("W0302"), "{}", checked.warnings);
    }

    #[test]
    fn the_refusal_starts_with_gitolites_word() {
        let node = Node::new();
        let conf = "repo testing\n RW+ = alice\n";
        let commit = node.commit(&[("conf/gitmesh.conf", conf), ("keydir/alice.pub", &key_line(1))]);
        let text = check(&node.store.admin_dir(), &commit, &around()).err().unwrap().to_string();
        assert!(text.starts_with("FATAL: the configuration is refused: 1 error; nothing was changed\n"), "{text}");
        assert!(text.contains("E0304") && text.contains("RW+ = NAME"), "{text}");
        let named = "repo testing\n RW+ = alice\nrepo gitmesh-admin\n R = alice\n";
        let commit = node.commit(&[("conf/gitmesh.conf", named), ("keydir/alice.pub", &key_line(1))]);
        let text = check(&node.store.admin_dir(), &commit, &around()).err().unwrap().to_string();
        assert!(text.contains("conf/gitmesh.conf:3"), "{text}");
    }

    #[test]
    fn a_peers_key_as_a_users() {
        let conf = "repo testing\n RW+ = @all\n option mirror.master = server1\n option mirror.copies = server9";
        let node = Node::with(conf);
        let commit = node.commit(&[("keydir/bob.pub", &key_line(2))]);
        let peer = Peer { name: host("server2"), key: blob(2), user: "git".into(), host: "server2".into(), port: 22 };
        let around = Surroundings { peers: Peers::new([(host("server2"), peer)].into()), ..around() };
        let dir = node.store.admin_dir();
        assert!(check(&dir, &commit, &around).err().unwrap().to_string().contains("E0305"));
        let accepted = check_accepted(&dir, &commit, &around).unwrap_or_else(|rejected| panic!("{rejected}"));
        assert!(accepted.warnings.contains("E0305") && accepted.warnings.contains("server9"), "{}", accepted.warnings);
    }

    #[test]
    fn what_an_accepted_push_does() {
        let node = Node::with("repo testing\n RW+ = @all");
        let (activator, realm, _) = node.run();
        node.commit_conf("repo docs/a docs/b\n RW+ = @all");
        let commit = node.commit(&[("keydir/bob@laptop.pub", &key_line(2))]);
        let checked = checked(&node, &commit, &activator.surroundings().unwrap());
        assert_eq!(
            checked.plan(&realm.live(), None),
            "plan:\n  +2 repositories (docs/a, docs/b)\n  -1 repository (testing), kept on disk\n  +1 key (bob@laptop)\n"
        );
    }
}

//! Puts the admin repository's newest commit in force, and makes the machine match it.
//!
//! One way for every cause: start, a push that landed, a mirrored commit, a reload by signal, an edit on the machine.
//! It takes no input but what is on disk and may run any number of times. First the policy is published, so that a
//! right that was taken away is gone at once; then missing repositories are created and git's config is written,
//! where they differ from before only.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use crate::cluster::Masters;
use crate::git::objects::ObjectsError;
use crate::git::odb;
use crate::model::{HostName, Oid, RepoName, UserName};
use crate::parallel::of_each;
use crate::policy::{Mode, Settings, TEMPLATE_CREATOR, Template};
use crate::repo::{Metadata, Ownership, WRITTEN_KEYS};

use super::assemble::{live, surroundings};
use super::compile::check_accepted;
use super::left_over::put_away;
use super::making::{self, Making};
use super::realm::{Publisher, realm};
use super::shown::{Shown, Sweep};
use super::store::Store;
use super::{
    Address, Checked, DataDir, Emergency, EmergencyError, Live, Programs, Realm, Rejected, Surroundings, newest_commit,
    write_whole,
};

/// In the state directory: the last commit that was in force.
const LAST_GOOD: &str = "last-good";
/// In the state directory: the last commit whose effects are all on disk, so that a start need not open every repository.
const APPLIED: &str = "applied";
/// Keys that are ours and never git's.
const OWN_KEYS: [&str; 3] = ["gitolite-options.", "gitolite.mirror.", "gitmesh."];

/// What a node is started with.
pub struct Start {
    pub data: DataDir,
    pub node: HostName,
    /// How users reach this node, for hints.
    pub address: Address,
    /// The public key blob of this node.
    pub identity: Vec<u8>,
    pub settings: Settings,
    /// The share of all copies, in percent, that may be put away at once.
    pub guard_repositories: u8,
    pub store: Arc<dyn Store>,
    pub programs: Programs,
    pub masters: Masters,
}

/// Why there is no configuration to start with.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("read the admin repository")]
    Repository(#[from] ObjectsError),
    #[error("the admin repository holds no commit; run gitmesh init again, or copy it from another node")]
    NoCommit,
    #[error(
        "the admin repository's newest commit is refused, and no earlier one is known to be good\n{rejected}\n\
         help: step back to an earlier commit: git -C {} update-ref HEAD HEAD~1",
        admin_dir.display()
    )]
    Rejected { rejected: Box<Rejected>, admin_dir: PathBuf },
    #[error("read the peers")]
    Peers(#[from] io::Error),
}

/// Why what is on disk was not put in force; what was in force stays.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error(transparent)]
    Emergency(#[from] EmergencyError),
    #[error("{0}")]
    Rejected(Box<Rejected>),
    #[error("the admin repository holds no commit any more")]
    NoCommit,
    #[error("read the admin repository")]
    Repository(#[from] ObjectsError),
    #[error("read the peers")]
    Peers(#[from] io::Error),
}

/// What an activation did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    pub generation: u64,
    pub created: Vec<RepoName>,
    /// Existing repositories whose git config, description or roles were written.
    pub configured: Vec<RepoName>,
    /// What could not be done, one sentence each, for the operator; it is tried again by the next activation.
    pub problems: Vec<String>,
}

/// A commit that was checked, and with what around it.
pub struct Ready {
    pub(super) checked: Checked,
    pub(super) around: Surroundings,
}

/// The only writer of the live policy. Calls block and belong in `spawn_blocking`.
pub struct Activator {
    start: Start,
    publisher: Publisher,
    shown: Arc<Shown>,
    making: Making,
    /// What the last activation could not do.
    undone: Vec<String>,
}

impl Activator {
    /// Compiles the admin repository's HEAD, or the last good commit if that fails, and puts it in force.
    pub fn start(start: Start) -> Result<(Self, Realm, Applied), StartError> {
        let admin_dir = start.store.admin_dir();
        let head = newest_commit(&admin_dir)?.ok_or(StartError::NoCommit)?;
        let around = surroundings(&start)?;
        let last_good = read_commit(&start.data.state().join(LAST_GOOD));
        let checked = match check_accepted(&admin_dir, &head, &around) {
            Ok(checked) => checked,
            Err(rejected) => {
                let good = last_good.as_ref().filter(|(good, _)| *good != head);
                let good = good.and_then(|(good, _)| check_accepted(&admin_dir, good, &around).ok());
                let good = good.ok_or_else(|| StartError::Rejected {
                    rejected: Box::new(rejected.clone()),
                    admin_dir: admin_dir.clone(),
                })?;
                tracing::error!(%head, in_force = %good.commit, "admin repository refused, the last good commit stays in force: {rejected}");
                good
            }
        };
        let emergency = Emergency::load(&start.data).unwrap_or_else(|error| {
            tracing::error!("emergency override ignored: {error}");
            Emergency::default()
        });
        let counted = last_good.filter(|(_, generation)| *generation > 0);
        let (live, peer_problems) = live(&start, checked, emergency, counted)?;
        let store = Arc::clone(&start.store);
        let shown = Arc::new(Shown::new(&start.data));
        let (publisher, realm) = realm(Arc::clone(&live), store, Arc::clone(&shown), start.data.path());
        let mut activator = Self { start, publisher, shown, making: Making::default(), undone: Vec::new() };
        let known = read_commit(&activator.start.data.state().join(APPLIED));
        if known.is_some_and(|(known, _)| known == live.commit) {
            report(&peer_problems, &[]);
            let applied = Applied { generation: live.generation, problems: peer_problems, ..Applied::default() };
            return Ok((activator, realm, applied));
        }
        let applied = activator.settle(&live, Before::Unknown, peer_problems);
        Ok((activator, realm, applied))
    }

    /// Makes again what was removed by hand while nobody served. A start on a configuration whose effects are all on
    /// disk leaves this for later, since it looks at every repository.
    pub fn look_after(&mut self) -> Applied {
        self.settle(&self.publisher.current(), Before::Same, Vec::new())
    }

    /// Tries again what the last activation could not do, such as on a disk that was full; `None` if there is nothing.
    pub fn complete(&mut self) -> Option<Applied> {
        (!self.undone.is_empty()).then(|| self.settle(&self.publisher.current(), Before::Unknown, Vec::new()))
    }

    /// Reads everything again and puts it in force, or says why not and leaves all as it is. `ready` is the outcome of
    /// an earlier check, which is as good as a new one if nothing has changed since.
    pub fn reload(&mut self, ready: Option<Ready>) -> Result<Applied, ReloadError> {
        let emergency = Emergency::load(&self.start.data)?;
        let admin_dir = self.start.store.admin_dir();
        let head = newest_commit(&admin_dir)?.ok_or(ReloadError::NoCommit)?;
        let around = surroundings(&self.start)?;
        let checked = match ready.filter(|ready| ready.checked.commit == head && ready.around == around) {
            Some(ready) => ready.checked,
            None => check_accepted(&admin_dir, &head, &around).map_err(|e| ReloadError::Rejected(Box::new(e)))?,
        };
        let before = self.publisher.current();
        let known = (before.commit.clone(), before.generation);
        let (live, peer_problems) = live(&self.start, checked, emergency, Some(known))?;
        self.publisher.publish(Arc::clone(&live));
        Ok(self.settle(&live, Before::Live(&before), peer_problems))
    }

    /// Changes what the machine's settings say; the next reload puts it in force.
    pub fn set(&mut self, address: Address, settings: Settings, guard_repositories: u8) {
        (self.start.address, self.start.guard_repositories) = (address, guard_repositories);
        self.start.settings = settings;
    }

    /// What [`super::check`] needs for a push to this node's admin repository.
    pub fn surroundings(&self) -> io::Result<Surroundings> {
        surroundings(&self.start)
    }

    /// How far this is with making repositories.
    pub(super) fn making(&self) -> Making {
        self.making.clone()
    }

    /// What is in force.
    pub(super) fn live(&self) -> Arc<Live> {
        self.publisher.current()
    }

    fn settle(&mut self, live: &Live, before: Before<'_>, peer_problems: Vec<String>) -> Applied {
        let is_new = matches!(before, Before::Live(_));
        // What was left undone is not to be seen in two configurations.
        let before = if self.undone.is_empty() { before } else { Before::Unknown };
        if !live.emergency.is_empty() {
            let names: Vec<_> = live.emergency.names().into_iter().map(ToString::to_string).collect();
            tracing::warn!(users = names.join(" "), "emergency override in force; remove emergency.conf when done");
        }
        let put_away = put_away(&*self.start.store, live, &before, self.start.guard_repositories);
        let mut applied = reconcile(&*self.start.store, live, &before, &self.making);
        applied.problems.extend(put_away.problems);
        applied.problems.extend(self.show(live, &before));
        let known = std::mem::replace(&mut self.undone, applied.problems.clone());
        applied.problems.extend(peer_problems);
        report(&applied.problems, &known);
        if is_new || !applied.created.is_empty() || !put_away.gone.is_empty() {
            self.publisher.settled();
        }
        let state = self.start.data.state();
        let line = format!("{} {}\n", live.commit, live.generation);
        let remember = |file: &str| write_whole(&state.join(file), line.as_bytes(), 0o600);
        let remembered =
            remember(LAST_GOOD).and_then(|()| if applied.problems.is_empty() { remember(APPLIED) } else { Ok(()) });
        if let Err(error) = remembered {
            tracing::warn!("state not written, the next start will check every repository: {error}");
        }
        tracing::info!(generation = live.generation, commit = %live.commit, created = applied.created.len(), "configuration in force");
        applied
    }

    /// Brings up to date what gitweb and git-daemon show, of all repositories that this may have changed.
    fn show(&self, live: &Live, before: &Before<'_>) -> Vec<String> {
        let store = &*self.start.store;
        let mut repos: BTreeSet<RepoName> = live.repositories().cloned().collect();
        let users_make = |live: &Live| live.policy.features().contains_key("wild-repos");
        let mut problems = Vec::new();
        match before {
            Before::Live(before) if !users_make(before) && !users_make(live) => {
                repos.extend(before.repositories().cloned());
            }
            _ => match store.list() {
                Ok(on_disk) => repos.extend(on_disk),
                Err(error) => problems.push(format!("list the repositories: {error}")),
            },
        }
        problems.extend(self.shown.update(store, live, &repos, Sweep::All));
        problems
    }
}

/// Each problem is told once, when it is new.
fn report(problems: &[String], known: &[String]) {
    for problem in problems.iter().filter(|problem| !known.contains(problem)) {
        tracing::error!("activation incomplete: {problem}");
    }
}

/// What is known of the state on disk.
pub(super) enum Before<'a> {
    /// It matches this configuration, apart from what was refused or removed by hand.
    Live(&'a Live),
    /// It matches the configuration that is put in force.
    Same,
    Unknown,
}

/// A commit and its generation; 0 where an older version wrote none.
fn read_commit(path: &Path) -> Option<(Oid, u64)> {
    let text = fs::read_to_string(path).ok()?;
    let mut words = text.split_ascii_whitespace();
    let commit = Oid::parse(words.next()?)?;
    Some((commit, words.next().and_then(|word| word.parse().ok()).unwrap_or(0)))
}

/// Creates what belongs here and is missing, and writes git's config and the roles of templates where the
/// configuration changed.
fn reconcile(store: &dyn Store, live: &Live, before: &Before<'_>, making: &Making) -> Applied {
    let mut work = Work { store, live, before, configures: may_configure(live, before), applied: Applied::default() };
    work.applied.generation = live.generation;
    let templates: BTreeMap<_, _> = live.policy.templates().collect();
    let mut missing = Vec::new();
    let named: Vec<&RepoName> = live.repositories().collect();
    let here = of_each(&named, |repo| store.exists(repo));
    for (repo, is_here) in named.iter().copied().zip(here) {
        if is_here {
            work.existing(repo, templates.get(repo).copied());
        } else if !work.bring_back(repo) {
            missing.push(repo);
        }
    }
    work.create(&missing, &templates, making);
    if work.configures {
        // What users have made is reached by patterns and @all.
        let named: HashSet<_> = named.into_iter().collect();
        match store.list() {
            Ok(repos) => repos.iter().filter(|repo| !named.contains(repo)).for_each(|repo| work.configure(repo)),
            Err(error) => work.applied.problems.push(format!("list the repositories: {error}")),
        }
    }
    work.applied
}

struct Work<'a> {
    store: &'a dyn Store,
    live: &'a Live,
    before: &'a Before<'a>,
    configures: bool,
    applied: Applied,
}

/// Whether any repository's git config may differ from what is wanted.
fn may_configure(live: &Live, before: &Before<'_>) -> bool {
    let sets = |live: &Live| ["git-config", "gitweb"].iter().any(|f| live.policy.features().contains_key(f));
    match before {
        Before::Live(before) => sets(before) || sets(live),
        Before::Same => false,
        Before::Unknown => true,
    }
}

impl Work<'_> {
    /// Makes those of the missing repositories that belong here.
    fn create(&mut self, missing: &[&RepoName], templates: &BTreeMap<&RepoName, &Template>, making: &Making) {
        let live = self.live;
        let owned = |repo: &RepoName| {
            let template = templates.get(repo);
            let creator = template.and_then(|_| UserName::new(TEMPLATE_CREATOR).ok());
            Ownership { creator, roles: template.map(|template| template.roles.clone()) }
        };
        let here = |repo: &&&RepoName| live.place(repo, None).mode != Mode::NotHere;
        let wanted: Vec<&RepoName> = missing.iter().filter(here).copied().collect();
        let troubles = RefCell::new(Vec::new());
        let prepare = |repo: &RepoName, dir: &Path| {
            let owned = owned(repo);
            owned.write(dir)?;
            if let Err(error) = configure(dir, &live.config(repo, owned.creator.as_ref())) {
                // A setting that git does not accept is no reason to be without the repository.
                troubles.borrow_mut().push(format!("configure repository {repo}: {error}"));
            }
            Ok(())
        };
        making.begin(wanted.len());
        let mut left = wanted.len();
        for part in wanted.chunks(making::AT_ONCE).take_while(|_| !making.is_stopped()) {
            for (repo, made) in part.iter().zip(self.store.create_all(part, &prepare)) {
                match made {
                    Ok(made) => self.applied.created.extend(made.then(|| (*repo).clone())),
                    Err(error) => self.applied.problems.push(format!("create repository {repo}: {error}")),
                }
            }
            making.add(part.len());
            left -= part.len();
        }
        making.end();
        if left > 0 {
            self.applied.problems.push(format!("the node stops; {left} repositories are made at its next start"));
        }
        self.applied.problems.extend(troubles.into_inner());
    }

    /// A copy that was put away while the configuration did not place it here.
    fn bring_back(&mut self, repo: &RepoName) -> bool {
        let is_copy = || matches!(self.live.place(repo, None).mode, Mode::Copy { .. });
        match self.store.bring_back(repo, &is_copy) {
            Ok(true) => {}
            Ok(false) => return false,
            Err(error) => {
                self.applied.problems.push(format!("take {repo} out of the trash: {error}"));
                return false;
            }
        }
        tracing::info!(%repo, "brought back from the trash, for the configuration places it here again");
        let said = Metadata::received(&self.store.dir(repo));
        self.write(repo, &self.live.config_with(repo, self.store.creator(repo).as_ref(), &said));
        true
    }

    /// A repository that the configuration names and that is on disk.
    fn existing(&mut self, repo: &RepoName, template: Option<&Template>) {
        if let Some(template) = template {
            let disk = self.store.ownership(repo).unwrap_or_default();
            let roles = Some(template.roles.clone());
            if roles != disk.roles && self.live.place(repo, disk.creator.as_ref()).mode != Mode::NotHere {
                let written = Ownership { creator: None, roles }.write(&self.store.dir(repo));
                match written {
                    Ok(()) => self.applied.configured.push(repo.clone()),
                    Err(error) => self.applied.problems.push(format!("write the roles of {repo}: {error}")),
                }
            }
        }
        self.configure(repo);
    }

    /// An existing repository.
    fn configure(&mut self, repo: &RepoName) {
        if !self.configures {
            return;
        }
        let creator = self.store.creator(repo);
        let wanted = self.live.config(repo, creator.as_ref());
        let same = matches!(self.before, Before::Live(before) if before.config(repo, creator.as_ref()) == wanted);
        if !same {
            let said = Metadata::received(&self.store.dir(repo));
            self.write(repo, &self.live.config_with(repo, creator.as_ref(), &said));
        }
    }

    fn write(&mut self, repo: &RepoName, wanted: &BTreeMap<String, String>) {
        match configure(&self.store.dir(repo), wanted) {
            Ok(changed) => self.applied.configured.extend(changed.then(|| repo.clone())),
            Err(error) => self.applied.problems.push(format!("configure repository {repo}: {error}")),
        }
    }
}

/// Makes git's config and the description of one repository match; `true` if something was written. Keys set by hand
/// are not touched; those that we wrote and that are gone from the configuration are unset.
pub(super) fn configure(dir: &Path, wanted: &BTreeMap<String, String>) -> Result<bool, ConfigureError> {
    let ours = |key: &&String| !OWN_KEYS.iter().any(|own| key.to_ascii_lowercase().starts_with(own));
    let keys: BTreeSet<&String> = wanted.keys().filter(ours).collect();
    let memory = dir.join(WRITTEN_KEYS);
    let written = match fs::read_to_string(&memory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        written => written?,
    };
    let mut values: BTreeMap<&str, Option<&str>> = written.lines().map(|key| (key, None)).collect();
    for key in &keys {
        values.insert(key, Some(wanted[*key].as_str()).filter(|value| !value.is_empty()));
    }
    // First the list, then the keys: a crash between leaves a key listed that is not set, which unsets nothing.
    let remember = keys.iter().fold(String::new(), |list, key| list + key + "\n");
    let union: BTreeSet<&str> = written.lines().chain(remember.lines()).collect();
    let both = union.iter().fold(String::new(), |list, key| list + key + "\n");
    if both != written {
        write_whole(&memory, both.as_bytes(), 0o644)?;
    }
    let mut changed = odb::write_config(dir, &values)?;
    if remember != both {
        write_whole(&memory, remember.as_bytes(), 0o644)?;
    }
    if let Some(description) = wanted.get("gitweb.description").filter(|text| !text.is_empty()) {
        let path = dir.join("description");
        let text = format!("{description}\n");
        if fs::read_to_string(&path).ok().as_ref() != Some(&text) {
            write_whole(&path, text.as_bytes(), 0o644)?;
            changed = true;
        }
    }
    Ok(changed)
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigureError {
    #[error("write beside the refs: {0}")]
    Io(#[from] io::Error),
    #[error("write git's config: {}", chain(.0))]
    Config(#[from] ObjectsError),
}

/// libgit2's reason, which names the key that git does not accept.
fn chain(error: &ObjectsError) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}"));
    format!("{error}{}", source.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::testing::{Node, key_line, repo};
    use crate::git::objects;
    use crate::model::Actor;
    use crate::policy::grant::Access;

    fn names(repos: &[RepoName]) -> Vec<&str> {
        repos.iter().map(RepoName::as_str).collect()
    }

    /// A repository's own config, as git itself reads it.
    fn config(node: &Node, name: &str) -> String {
        let file = node.store.dir(&repo(name)).join("config");
        let output = std::process::Command::new("git").args(["config", "--list", "--file"]).arg(file).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn what_belongs_here_is_created() {
        let node = Node::with(
            "repo testing docs/a\n RW+ = @all\nrepo elsewhere\n RW+ = @all\n option mirror.master = server2\n \
             option mirror.copies = server3\nrepo copied\n R = @all\n option mirror.master = server2\n \
             option mirror.copies = server1",
        );
        let (mut activator, realm, applied) = node.run();
        assert_eq!(sorted(names(&applied.created)), ["copied", "docs/a", "testing"]);
        assert!(applied.problems.is_empty() && applied.generation == 1, "{applied:?}");
        assert!(!node.store.exists(&repo("elsewhere")));

        let changes = realm.changes();
        node.commit_conf("repo testing later\n RW+ = @all");
        assert!(realm.authorize(&Actor::Local, &repo("later"), Access::Read).is_err());
        let applied = activator.reload(None).unwrap();
        assert_eq!((names(&applied.created), applied.generation), (vec!["later"], 2));
        assert!(realm.authorize(&Actor::Local, &repo("later"), Access::Read).is_ok());
        assert!(changes.has_changed().unwrap());
        assert_eq!(realm.generation(), 2);
    }

    fn sorted(mut names: Vec<&str>) -> Vec<&str> {
        names.sort_unstable();
        names
    }

    #[test]
    fn git_config_is_written_and_taken_back() {
        let node = Node::with("repo testing\n RW = @all\n config foo.bar = one\n desc = a test\n option x = y");
        let (mut activator, _, applied) = node.run();
        assert_eq!(applied.configured, [], "it was made so");
        assert!(config(&node, "testing").contains("foo.bar=one\n"));
        assert!(!config(&node, "testing").contains("gitolite-options"));
        let dir = node.store.dir(&repo("testing"));
        assert_eq!(fs::read_to_string(dir.join("description")).unwrap(), "a test\n");
        odb::write_config(&dir, &BTreeMap::from([("by.hand", Some("kept"))])).unwrap();

        node.commit_conf("repo testing\n RW = @all\n config foo.bar = two");
        assert_eq!(activator.reload(None).unwrap().configured, [repo("testing")]);
        assert!(config(&node, "testing").contains("foo.bar=two\n"));
        node.commit_conf("repo testing\n RW = @all");
        assert_eq!(activator.reload(None).unwrap().configured, [repo("testing")]);
        assert!(!config(&node, "testing").contains("foo.bar"));
        assert!(config(&node, "testing").contains("by.hand=kept\n"));
        assert_eq!(activator.reload(None).unwrap().configured, [], "nothing changed, nothing is touched");
    }

    #[test]
    fn one_repository_that_fails_does_not_stop_the_others() {
        let node = Node::with("repo unlucky testing\n RW = @all");
        let (_activator, realm, applied) = node.run();
        assert_eq!(names(&applied.created), ["testing"]);
        assert_eq!(applied.problems, ["create repository unlucky: no space left"]);
        assert_eq!(Some(&realm.live().commit), objects::head_commit(&node.store.admin_dir()).unwrap().as_ref());
    }

    #[test]
    fn a_bad_commit_leaves_the_old_configuration_in_force() {
        let node = Node::with("repo testing\n RW = @all");
        let (mut activator, realm, _) = node.run();
        node.commit_conf("repo foo[\n RW = @all");
        assert!(matches!(activator.reload(None), Err(ReloadError::Rejected(_))));
        assert_eq!(realm.generation(), 1);

        let (_activator, realm, _) = node.run();
        assert_eq!(realm.generation(), 1, "the last good commit, after a restart too");
        fs::remove_file(node.data.state().join(LAST_GOOD)).unwrap();
        let error = Activator::start(node.start()).err().unwrap().to_string();
        assert!(error.contains("FATAL: the configuration is refused: 1 error;"), "{error}");
        assert!(error.contains("update-ref HEAD HEAD~1"), "{error}");
    }

    #[test]
    fn a_bad_override_is_refused_and_peers_come_alive() {
        let node = Node::with("repo testing\n RW = @all");
        let (mut activator, realm, _) = node.run();
        let peers = realm.peers();
        fs::write(node.data.emergency_conf(), "carol").unwrap();
        assert!(matches!(activator.reload(None), Err(ReloadError::Emergency(_))));
        fs::remove_file(node.data.emergency_conf()).unwrap();
        activator.reload(None).unwrap();
        assert!(!peers.has_changed().unwrap());
        fs::write(node.data.peers().join("server2.pub"), key_line(2)).unwrap();
        activator.reload(None).unwrap();
        assert!(peers.has_changed().unwrap() && peers.borrow().len() == 1);
    }

    #[test]
    fn without_a_commit_there_is_no_start() {
        assert!(matches!(Activator::start(Node::new().start()), Err(StartError::NoCommit)));
    }
}

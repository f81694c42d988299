//! What gitweb and git-daemon may show (`spec/access-language.md`, section 7.4).
//!
//! A repository that the user `gitweb` may read, or that has a `gitweb.` key (a description, an owner, a category),
//! stands in `projects.list` of the data directory; one that the user `daemon` may read holds the file
//! `git-daemon-export-ok`. Both are written where they differ from what is wanted, and nothing else is touched.

use std::collections::{BTreeSet, HashSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;
use std::{fs, io};

use crate::model::RepoName;
use crate::parallel::of_each;
use crate::policy::{Op, Target};
use crate::repo::Ownership;

use super::Store;
use super::realm::Live;
use super::{DataDir, write_whole};

/// gitweb's `$projects_list`: one `NAME.git` a line, sorted.
const LIST: &str = "projects.list";
/// git-daemon serves a repository that holds this file.
const EXPORT: &str = "git-daemon-export-ok";

/// The only writer of both files.
pub(super) struct Shown {
    list: PathBuf,
    /// What the list says; held while it is read, changed and written.
    known: Mutex<Option<Known>>,
}

/// The list as it was read or written last.
struct Known {
    lines: BTreeSet<String>,
    /// Of the file: when it was changed, its length and its inode. With another one it is read again.
    stamp: Stamp,
}

type Stamp = Option<(SystemTime, u64, u64)>;

/// Which of the repositories that the list names are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sweep {
    /// Those that are given: what has gone otherwise is found at the next activation, so that one repository more costs
    /// the same however many there are.
    Given,
    All,
}

impl Shown {
    pub(super) fn new(data: &DataDir) -> Self {
        Self { list: data.path().join(LIST), known: Mutex::default() }
    }

    /// Brings what is shown of these repositories up to date, and forgets those that are gone. Gives what could not be
    /// done, one sentence each.
    pub(super) fn update<'r>(
        &self,
        store: &dyn Store,
        live: &Live,
        repos: impl IntoIterator<Item = &'r RepoName>,
        sweep: Sweep,
    ) -> Vec<String> {
        let features = live.policy.features();
        let has = |feature| features.contains_key(feature);
        let (with_keys, with_roles) = (has("gitweb") || has("git-config"), has("roles") || has("templates"));
        let (mut problems, mut seen) = (Vec::new(), HashSet::new());
        let mut held = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken out while it is changed: after a panic the file is read again.
        let mut known = match self.read(held.take()) {
            Ok(known) => known,
            Err(error) => return vec![format!("read {}: {error}", self.list.display())],
        };
        let mut changed = false;
        let repos: Vec<&RepoName> = repos.into_iter().collect();
        let look = |repo: &&RepoName| {
            let repo = *repo;
            let on_disk = if with_roles || !live.policy.is_named(repo) {
                store.ownership(repo)
            } else {
                // Without roles nothing beside the rules counts for a repository that the configuration names.
                store.exists(repo).then(Ownership::default)
            };
            let reads = |disk: &Ownership, user: &str| {
                let facts = live.facts(repo, Some(disk), user);
                live.policy.decide(&facts, user, Op::Read, Target::Any).allowed
            };
            let keys = |disk: &Ownership| {
                let config = live.config(repo, disk.creator.as_ref());
                config.iter().any(|(key, value)| key.starts_with("gitweb.") && !matches!(value.as_str(), "" | "0"))
            };
            let web = on_disk.as_ref().is_some_and(|disk| reads(disk, "gitweb") || (with_keys && keys(disk)));
            // What was wanted and could not be done, for one that is here.
            let exported = on_disk.map_or(Ok(()), |disk| export(store, repo, reads(&disk, "daemon")));
            (web, exported)
        };
        for (repo, (web, exported)) in repos.iter().zip(of_each(&repos, look)) {
            let line = format!("{repo}.git");
            changed |= if web { known.lines.insert(line.clone()) } else { known.lines.remove(&line) };
            if sweep == Sweep::All {
                seen.insert(line);
            }
            if let Err(error) = exported {
                problems.push(format!("write {EXPORT} of {repo}: {error}"));
            }
        }
        if sweep == Sweep::All {
            let is_there = |line: &str| {
                let repo = line.strip_suffix(".git").and_then(|name| RepoName::new(name).ok());
                repo.is_some_and(|repo| store.exists(&repo))
            };
            let before = known.lines.len();
            known.lines.retain(|line| seen.contains(line) || is_there(line));
            changed |= known.lines.len() != before;
        }
        if changed && let Err(error) = self.write(&mut known) {
            problems.push(format!("write {}: {error}", self.list.display()));
            return problems;
        }
        *held = Some(known);
        problems
    }

    /// What the list says, from memory if nobody has changed the file.
    fn read(&self, known: Option<Known>) -> io::Result<Known> {
        let stamp = self.stamp()?;
        if let Some(known) = known.filter(|known| known.stamp == stamp && stamp.is_some()) {
            return Ok(known);
        }
        let lines = read(&self.list)?.lines().map(str::to_owned).collect();
        Ok(Known { lines, stamp })
    }

    fn write(&self, known: &mut Known) -> io::Result<()> {
        let mut text = String::with_capacity(known.lines.iter().map(|line| line.len() + 1).sum());
        for line in &known.lines {
            text.push_str(line);
            text.push('\n');
        }
        write_whole(&self.list, text.as_bytes(), 0o644)?;
        known.stamp = self.stamp()?;
        Ok(())
    }

    fn stamp(&self) -> io::Result<Stamp> {
        match fs::metadata(&self.list) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            found => found.and_then(|found| Ok(Some((found.modified()?, found.len(), found.ino())))),
        }
    }
}

fn read(list: &std::path::Path) -> io::Result<String> {
    match fs::read_to_string(list) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read,
    }
}

fn export(store: &dyn Store, repo: &RepoName, wanted: bool) -> io::Result<()> {
    let file = store.dir(repo).join(EXPORT);
    match (wanted, file.exists()) {
        (true, false) => fs::write(file, ""),
        (false, true) => fs::remove_file(file),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use crate::admin::testing::{Node, actor, key_line, repo};
    use crate::admin::{RoleChange, Store as _};

    /// The list in one line, and the repositories that git-daemon may serve.
    fn shown(node: &Node) -> (String, Vec<String>) {
        let list = std::fs::read_to_string(node.data.path().join("projects.list")).unwrap_or_default();
        let exported = |name: &String| node.store.dir(&repo(name)).join("git-daemon-export-ok").exists();
        let names = node.store.list().unwrap().into_iter().map(|name| name.to_string());
        (list.lines().collect::<Vec<_>>().join(" "), names.filter(exported).collect())
    }

    #[test]
    fn what_the_rules_show() {
        let node = Node::with(
            "@web = gitweb\nrepo both\n R = @all\nrepo web\n R = @web\nrepo served\n R = daemon\nrepo told\n RW = alice\n \
             desc = \"a text\"\nrepo hidden\n - = gitweb daemon\n R = @all\n option deny-rules = 1\nrepo closed\n RW+ = alice",
        );
        let (mut activator, ..) = node.run();
        let both = vec!["both".to_owned(), "served".to_owned()];
        assert_eq!(shown(&node), ("both.git told.git web.git".to_owned(), both));
        let list = node.data.path().join("projects.list");
        let written = || std::fs::metadata(&list).unwrap().modified().unwrap();
        let first = written();
        node.commit_conf(
            "repo both\n R = alice\nrepo web served\n R = gitweb\nrepo told\n RW = alice\n desc = \"other\"",
        );
        activator.reload(None).unwrap();
        assert_eq!(shown(&node), ("served.git told.git web.git".to_owned(), vec![]));
        assert_ne!(first, written());
        let second = written();
        node.commit_conf("repo both\n R = bob\nrepo web served\n R = gitweb\nrepo told\n RW = alice\n desc = \"more\"");
        activator.reload(None).unwrap();
        assert_eq!(written(), second, "nothing changed for gitweb");
        // What left the configuration is nobody's, unless a pattern still covers it.
        node.commit_conf("repo web\n R = gitweb\nrepo serv.*\n R = daemon");
        activator.reload(None).unwrap();
        assert_eq!(shown(&node), ("web.git".to_owned(), vec!["served".to_owned()]));
        std::fs::remove_dir_all(node.store.dir(&repo("web"))).unwrap();
        std::fs::remove_file(node.store.dir(&repo("served")).join("git-daemon-export-ok")).unwrap();
        activator.look_after();
        assert_eq!(shown(&node), ("web.git".to_owned(), vec!["served".to_owned()]), "made again");
    }

    #[test]
    fn what_users_make_and_give() {
        let node = Node::with("repo pub/CREATOR/..*\n C = @all\n RW+ = CREATOR\n R = READERS\n");
        node.commit(&[("keydir/bob.pub", &key_line(2))]);
        let (_activator, realm, _) = node.run();
        let (bob, x) = (actor(&realm, 2), repo("pub/bob/x"));
        assert!(realm.create(&bob, &x).unwrap());
        assert_eq!(shown(&node), (String::new(), vec![]));
        let change = |text: &str| realm.change_roles(&bob, &x, &RoleChange::Replace(text)).unwrap();
        assert!(change("READERS @all\n"));
        assert_eq!(shown(&node), ("pub/bob/x.git".to_owned(), vec!["pub/bob/x".to_owned()]));
        assert!(change("READERS daemon\n"));
        assert_eq!(shown(&node), (String::new(), vec!["pub/bob/x".to_owned()]));
    }
}

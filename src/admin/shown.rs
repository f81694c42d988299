//! What gitweb and git-daemon may show (`spec/access-language.md`, section 7.4).
//!
//! A repository that the user `gitweb` may read, or that has a `gitweb.` key (a description, an owner, a category),
//! stands in `projects.list` of the data directory; one that the user `daemon` may read holds the file
//! `git-daemon-export-ok`. Both are written where they differ from what is wanted, and nothing else is touched.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::{fs, io};

use crate::model::RepoName;
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
    /// Held while the list is read, changed and written.
    writing: Mutex<()>,
}

impl Shown {
    pub(super) fn new(data: &DataDir) -> Self {
        Self { list: data.path().join(LIST), writing: Mutex::default() }
    }

    /// Brings what is shown of these repositories up to date, and forgets those that are gone. Gives what could not be
    /// done, one sentence each.
    pub(super) fn update<'r>(
        &self,
        store: &dyn Store,
        live: &Live,
        repos: impl IntoIterator<Item = &'r RepoName>,
    ) -> Vec<String> {
        let features = live.policy.features();
        let has = |feature| features.contains_key(feature);
        let (with_keys, with_roles) = (has("gitweb") || has("git-config"), has("roles") || has("templates"));
        let (mut problems, mut seen) = (Vec::new(), HashSet::new());
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match read(&self.list) {
            Ok(before) => before,
            Err(error) => return vec![format!("read {}: {error}", self.list.display())],
        };
        let mut lines: BTreeSet<String> = before.lines().map(str::to_owned).collect();
        for repo in repos {
            seen.insert(format!("{repo}.git"));
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
            let line = format!("{repo}.git");
            if web {
                lines.insert(line);
            } else {
                lines.remove(&line);
            }
            if let Some(disk) = on_disk
                && let Err(error) = export(store, repo, reads(&disk, "daemon"))
            {
                problems.push(format!("write {EXPORT} of {repo}: {error}"));
            }
        }
        let is_there = |line: &str| {
            let repo = line.strip_suffix(".git").and_then(|name| RepoName::new(name).ok());
            repo.is_some_and(|repo| store.exists(&repo))
        };
        lines.retain(|line| seen.contains(line) || is_there(line));
        let after = lines.iter().fold(String::new(), |text, line| text + line + "\n");
        if after != before
            && let Err(error) = write_whole(&self.list, after.as_bytes(), 0o644)
        {
            problems.push(format!("write {}: {error}", self.list.display()));
        }
        problems
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

//! On a copy: the description and settings that its master tells, below what this node's own configuration says.
//!
//! Where the admin repository is mirrored too, both nodes read the same lines, each with its own name in them, so
//! settings are this node's own to work out. Where each node has an admin repository of its own, a copy gets those of
//! its master, as far as this node allows such keys (`config_keys`), and its own configuration wins where it sets one.

use std::collections::BTreeMap;
use std::io;

use crate::model::{RepoName, UserName};
use crate::policy::{Mode, key_matches};
use crate::repo::Metadata;

use super::Realm;
use super::activate::configure;
use super::realm::Live;

const DESCRIPTION: &str = "gitweb.description";

impl Live {
    /// git config and options of a repository, by full key.
    pub fn config(&self, repo: &RepoName, creator: Option<&UserName>) -> BTreeMap<String, String> {
        self.policy.config(&self.facts_of(repo, creator))
    }

    /// git config of a repository here by full key, with what its master has said if it is a copy.
    pub(super) fn config_with(
        &self,
        repo: &RepoName,
        creator: Option<&UserName>,
        said: &Metadata,
    ) -> BTreeMap<String, String> {
        let mut wanted = self.config(repo, creator);
        let is_copy = |repo, creator| matches!(self.place(repo, creator).mode, Mode::Copy { .. });
        if *said == Metadata::default() || !is_copy(repo, creator) {
            return wanted;
        }
        if !said.description.is_empty() && wanted.get(DESCRIPTION).is_none_or(String::is_empty) {
            wanted.insert(DESCRIPTION.to_owned(), said.description.clone());
        }
        if !is_copy(&super::realm::admin_repo(), None) {
            for (key, value) in &said.settings {
                if self.config_keys.iter().any(|pattern| key_matches(pattern, key)) {
                    wanted.entry(key.clone()).or_insert_with(|| value.clone());
                }
            }
        }
        wanted
    }
}

impl Realm {
    /// Takes over what the master of a copy says of its description and settings; `false` if it was known. To be
    /// asked after [`Realm::authorize_mirror`]. Blocks.
    pub fn take_metadata(&self, repo: &RepoName, said: &Metadata) -> io::Result<bool> {
        let (live, dir) = (self.live(), self.store.dir(repo));
        let before = Metadata::received(&dir);
        if before == *said {
            return Ok(false);
        }
        let wanted = live.config_with(repo, self.store.creator(repo).as_ref(), said);
        if let Err(error) = configure(&dir, &wanted) {
            // A setting that git does not accept must not keep the references back; it says so at each change.
            tracing::warn!(%repo, %error, "what the master has configured cannot be set here");
        }
        if !before.description.is_empty() && wanted.get(DESCRIPTION).is_none_or(String::is_empty) {
            Metadata::forget_description(&dir)?;
        }
        // Last: what a crash has cut off is told again.
        said.remember(&dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Store as _;
    use crate::admin::Text;
    use crate::admin::testing::{Node, actor, repo};

    const COPY: &str = "repo x\n R = @all\n option mirror.master = server2\n option mirror.copies = server1\n";

    fn said(description: &str, settings: &[(&str, &str)]) -> Metadata {
        let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Metadata { description: description.to_owned(), settings }
    }

    #[test]
    fn a_copy_gets_what_its_own_configuration_does_not_say() {
        let node = Node::with(&format!("{COPY} config foo.own = mine\n"));
        let (mut activator, realm, _) = node.run();
        let (x, dir) = (repo("x"), node.store.dir(&repo("x")));
        let description = || std::fs::read_to_string(dir.join("description")).unwrap_or_default();
        let config = || std::fs::read_to_string(dir.join("config")).unwrap();
        let told = said("Tools", &[("foo.own", "theirs"), ("foo.more", "theirs"), ("core.hookspath", "/tmp")]);
        assert!(realm.take_metadata(&x, &told).unwrap() && !realm.take_metadata(&x, &told).unwrap());
        assert_eq!(description(), "Tools\n");
        assert!(config().contains("own = mine") && config().contains("more = theirs"), "{}", config());
        assert!(!config().to_lowercase().contains("hookspath"), "a key that this node does not allow");
        assert_eq!(Metadata::received(&dir), told, "word for word, or the digests would differ for ever");

        node.commit_conf(&format!("{COPY} config foo.own = other\n"));
        activator.reload(None).unwrap();
        assert!(config().contains("own = other") && config().contains("more = theirs"), "{}", config());
        node.commit_conf(&format!("{COPY}repo x\n desc = Mine\n"));
        activator.reload(None).unwrap();
        assert_eq!(description(), "Mine\n");
        assert!(realm.take_metadata(&x, &said("Other", &[])).unwrap());
        assert_eq!(description(), "Mine\n");
        assert!(!config().contains("more = theirs"), "{}", config());
        node.commit_conf(COPY);
        activator.reload(None).unwrap();
        assert_eq!(description(), "Other\n");
        realm.take_metadata(&x, &said("", &[])).unwrap();
        assert_eq!(description(), "");
    }

    #[test]
    fn a_master_of_the_past_does_not_keep_its_own_description() {
        let mine = "repo x\n RW+ = alice\n option writer-is-owner = 1\n";
        let node = Node::with(mine);
        let (mut activator, realm, _) = node.run();
        let (x, dir) = (repo("x"), node.store.dir(&repo("x")));
        realm.set_text(&actor(&realm, 1), &x, Text::Description, Some("Set when nobody else heard it")).unwrap();
        node.commit_conf(&format!("{mine}{COPY}"));
        activator.reload(None).unwrap();
        assert_eq!(Metadata::received(&dir).description, "Set when nobody else heard it", "so the digests differ");
        assert!(realm.take_metadata(&x, &said("", &[])).unwrap());
        assert_eq!(Metadata::read(&dir).description, "");
    }

    #[test]
    fn with_a_mirrored_admin_repository_settings_are_worked_out_here() {
        let admin = "repo gitmesh-admin\n option mirror.master = server2\n option mirror.copies = server1\n";
        let node = Node::with(&format!("{COPY}{admin}"));
        let (_activator, realm, _) = node.run();
        realm.take_metadata(&repo("x"), &said("Tools", &[("foo.more", "theirs")])).unwrap();
        let dir = node.store.dir(&repo("x"));
        assert_eq!(std::fs::read_to_string(dir.join("description")).unwrap(), "Tools\n");
        assert!(!std::fs::read_to_string(dir.join("config")).unwrap().contains("more"));
    }
}

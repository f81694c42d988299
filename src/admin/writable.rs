//! Pushes switched off for a while, for one repository or for the whole node (gitolite's command `writable`), by
//! gitolite's file: whoever comes over from there finds what was off still off. Mirror pushes go on.

use std::io;
use std::path::{Path, PathBuf};

use crate::model::{Actor, RepoName};
use crate::policy::grant::Access;
use crate::repo::WRITES_OFF as OFF;

use super::here::{refuse_here, you};
use super::realm::{Live, Realm};
use super::texts::put;
use super::wild::at_master;
use super::{Denial, TextError};

/// The longest message, in bytes.
pub const MESSAGE_MAX: usize = 4 << 10;

/// What is switched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope<'a> {
    Node,
    Repo(&'a RepoName),
}

impl Realm {
    /// Why nobody may push now, for somebody who may push otherwise.
    pub(super) fn writes_off(&self, live: &Live, repo: &RepoName) -> Option<Denial> {
        let places = [(self.site.to_path_buf(), "@all"), (self.store.dir(repo), repo.as_str())];
        let (dir, scope) = places.iter().find(|(dir, _)| is_off(dir))?;
        let message = std::fs::read(dir.join(OFF)).unwrap_or_default();
        let message = String::from_utf8_lossy(&message);
        let lines: Vec<&str> = message.lines().collect();
        let what = if *scope == "@all" { format!("{}", live.node) } else { format!("'{repo}'") };
        let mut help = lines.join("\n        ");
        if help.is_empty() {
            help = "try again later".to_owned();
        }
        let ssh = live.address.ssh();
        Some(Denial {
            first: format!("FATAL: pushes to {what} are switched off"),
            you: None,
            rule: None,
            help: format!("{help}\n        (until: {ssh} writable {scope} on)"),
            code: Denial::WRITES_OFF,
        })
    }

    /// Whether pushes are on: for the whole node, and for the repository if one is asked about. For its owner, whoever
    /// may write to it, and administrators.
    pub fn is_writable(&self, actor: &Actor, scope: Scope<'_>) -> Result<bool, Denial> {
        let Scope::Repo(repo) = scope else {
            self.may_switch(actor, scope)?;
            return Ok(!is_off(&self.site));
        };
        let exists = self.store.exists(repo);
        if !exists || !self.rights(actor, repo).1 {
            self.may_switch(actor, scope)?;
        }
        Ok(!is_off(&self.site) && !is_off(&self.store.dir(repo)))
    }

    /// Switches pushes off, with a message, or on again: for the owner of the repository and for administrators, the
    /// whole node for the latter alone. Blocks.
    pub fn set_writable(&self, actor: &Actor, scope: Scope<'_>, off: Option<&str>) -> Result<(), TextError> {
        self.may_switch(actor, scope).map_err(|denial| TextError::Denied(Box::new(denial)))?;
        if let Some(message) = off.filter(|message| message.len() > MESSAGE_MAX) {
            return Err(TextError::TooLong(message.len(), MESSAGE_MAX));
        }
        let dir = self.switch_of(scope);
        match off {
            // The file says it, with or without a message.
            Some("") => crate::repo::write_whole(&dir, OFF, "")?,
            off => put(&dir, OFF, off)?,
        }
        let repo = match scope {
            Scope::Node => "@all",
            Scope::Repo(repo) => repo.as_str(),
        };
        tracing::info!(repo, user = %actor, on = off.is_none(), "pushes were switched");
        Ok(())
    }

    fn switch_of(&self, scope: Scope<'_>) -> PathBuf {
        match scope {
            Scope::Node => self.site.to_path_buf(),
            Scope::Repo(repo) => self.store.dir(repo),
        }
    }

    fn may_switch(&self, actor: &Actor, scope: Scope<'_>) -> Result<(), Denial> {
        let live = self.live();
        let administers = *actor == Actor::Local || self.may_administer(actor);
        let (first, help) = match scope {
            Scope::Node if administers => return Ok(()),
            Scope::Node => ("FATAL: '@all' is for administrators".to_owned(), "name a repository of yours".to_owned()),
            Scope::Repo(repo) if self.store.exists(repo) && (administers || self.owns(actor, repo)) => {
                let (disk, name) = (self.store.ownership(repo), actor.to_string());
                let facts = live.facts(repo, disk.as_ref(), &name);
                return match refuse_here(&live, &facts, actor, repo, Access::Write) {
                    Some(denial) => Err(at_master(&live, &facts, repo, denial, "writable", "is switched on")),
                    None => Ok(()),
                };
            }
            Scope::Repo(repo) => (
                format!("FATAL: '{repo}' is not yours, or there is no such repository"),
                format!("its creator and administrators switch pushes; see: {} info", live.address.ssh()),
            ),
        };
        Err(Denial { first, you: Some(you(actor)), rule: None, help, code: Denial::NOT_OWNER })
    }
}

fn is_off(dir: &Path) -> bool {
    match dir.join(OFF).symlink_metadata() {
        Ok(_) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => {
            tracing::warn!(%error, dir = %dir.display(), "cannot see whether pushes are switched off");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::testing::{Node, actor, key_line, repo};

    #[test]
    fn off_with_a_message_and_on_again() {
        let node = Node::with("repo docs\n RW = bob\n R = carol\n");
        node.commit(&[("keydir/bob.pub", &key_line(2)), ("keydir/carol.pub", &key_line(3))]);
        let (_activator, realm, _) = node.run();
        let (alice, bob, carol, docs) = (actor(&realm, 1), actor(&realm, 2), actor(&realm, 3), repo("docs"));
        let refused = || realm.refuse_here(&bob, &docs, Access::Write).map(|denial| denial.to_string());
        assert_eq!(refused(), None);
        realm.set_writable(&alice, Scope::Repo(&docs), Some("a new disk\nuntil noon")).unwrap();
        insta::assert_snapshot!(refused().unwrap(), @"
        FATAL: pushes to 'docs' are switched off
          help: a new disk
                until noon
                (until: ssh git@server1 writable docs on) [E0216]
        ");
        assert!(realm.refuse_here(&bob, &docs, Access::Read).is_none());
        assert_eq!(realm.is_writable(&bob, Scope::Repo(&docs)), Ok(false));
        realm.set_writable(&alice, Scope::Repo(&docs), None).unwrap();
        assert_eq!((refused(), realm.is_writable(&bob, Scope::Repo(&docs))), (None, Ok(true)));

        realm.set_writable(&Actor::Local, Scope::Node, Some("")).unwrap();
        assert!(refused().unwrap().starts_with("FATAL: pushes to server1 are switched off\n  help: try again later\n"));
        assert_eq!(realm.is_writable(&bob, Scope::Repo(&docs)), Ok(false));
        realm.set_writable(&alice, Scope::Node, None).unwrap();
        assert_eq!(realm.is_writable(&alice, Scope::Node), Ok(true));

        let by = |actor: &Actor, scope| realm.set_writable(actor, scope, None).unwrap_err().to_string();
        assert!(by(&bob, Scope::Node).contains("'@all' is for administrators"));
        let missing = repo("missing");
        let (forbidden, absent) = (by(&carol, Scope::Repo(&docs)), by(&carol, Scope::Repo(&missing)));
        assert_eq!(forbidden.replace("docs", "X"), absent.replace("missing", "X"));
        assert!(realm.is_writable(&carol, Scope::Repo(&docs)).is_err());
        assert!(matches!(
            realm.set_writable(&alice, Scope::Node, Some(&"x".repeat(5000))),
            Err(TextError::TooLong(5000, MESSAGE_MAX))
        ));
    }
}

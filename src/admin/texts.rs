//! Texts that stand beside a repository under git's and gitolite's names: its description, its README.html for gitweb,
//! and the message of the day, of which the node has one too.

use std::io;
use std::path::Path;

use crate::durable;
use crate::model::{Actor, RepoName};
use crate::policy::grant::Access;
use crate::repo::{MOTD, Metadata, README, write_whole};

use super::here::{refuse_here, you};
use super::realm::{Live, Realm};
use super::wild::at_master;
use super::{ADMIN_REPO, Denial};

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Text {
    Description,
    Readme,
    Motd,
}

/// Why a text was not changed.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    #[error("{0}")]
    Denied(Box<Denial>),
    #[error("the text has {0} bytes, and may have {1}")]
    TooLong(usize, usize),
    #[error("write the text")]
    Failed(#[from] io::Error),
}

impl Text {
    fn file(self) -> &'static str {
        match self {
            Self::Description => "description",
            Self::Readme => README,
            Self::Motd => MOTD,
        }
    }

    /// The command that is about it.
    pub fn command(self) -> &'static str {
        match self {
            Self::Description => "desc",
            Self::Readme => "readme",
            Self::Motd => "motd",
        }
    }

    /// In bytes. A description travels to copies in a command line; a message is sent with each fetch.
    pub fn longest(self) -> usize {
        match self {
            Self::Description => 1024,
            Self::Readme => 64 << 10,
            Self::Motd => 4 << 10,
        }
    }
}

impl Realm {
    /// A text of a repository, for those who may read it; empty if there is none.
    pub fn text(&self, actor: &Actor, repo: &RepoName, text: Text) -> Result<String, Denial> {
        self.authorize(actor, repo, Access::Read)?;
        Ok(match text {
            Text::Description => self.description(repo),
            text => read(&self.store.dir(repo), text.file()),
        })
    }

    /// Sets or removes (`None`) a text of a repository, where its master is: for its owner, and for those who may write
    /// to it where option `writer-is-owner` is set. Blocks.
    pub fn set_text(&self, actor: &Actor, repo: &RepoName, text: Text, new: Option<&str>) -> Result<(), TextError> {
        let live = self.live();
        let denied = |denial| TextError::Denied(Box::new(denial));
        self.may_own(&live, actor, repo, text.command()).map_err(denied)?;
        if text == Text::Description
            && live
                .config(repo, self.store.creator(repo).as_ref())
                .get("gitweb.description")
                .is_some_and(|said| !said.is_empty())
        {
            return Err(denied(Denial {
                first: format!(
                    "FATAL: the description of '{repo}' stands in the configuration, which has the last word"
                ),
                you: Some(you(actor)),
                rule: None,
                help: format!("its 'desc =' line in {ADMIN_REPO} is the place to change it, or to take it away"),
                code: Denial::NAMED,
            }));
        }
        if let Some(new) = new.filter(|new| new.len() > text.longest()) {
            return Err(TextError::TooLong(new.len(), text.longest()));
        }
        let dir = self.store.dir(repo);
        put(&dir, text.file(), new)?;
        if text == Text::Description {
            // What a later master says is compared with this, and not with what an earlier one had said.
            Metadata::read(&dir).remember(&dir)?;
        }
        tracing::info!(%repo, user = %actor, text = text.command(), set = new.is_some(), "a text was changed");
        Ok(())
    }

    /// The message of the day of the node itself; empty if there is none.
    pub fn node_motd(&self) -> String {
        read(&self.site, MOTD)
    }

    /// Whether the asker may, is the caller's to know.
    pub fn set_node_motd(&self, new: Option<&str>) -> Result<(), TextError> {
        match new.filter(|new| new.len() > Text::Motd.longest()) {
            Some(new) => Err(TextError::TooLong(new.len(), Text::Motd.longest())),
            None => Ok(put(&self.site, MOTD, new)?),
        }
    }

    /// What is shown to whoever fetches from a repository or pushes to it: the node's message, then the repository's.
    pub fn motd(&self, repo: &RepoName) -> String {
        self.node_motd() + &read(&self.store.dir(repo), MOTD)
    }

    /// Owners, and writers where the repository's options say so, at the repository's master.
    pub(super) fn may_own(&self, live: &Live, actor: &Actor, repo: &RepoName, command: &str) -> Result<(), Denial> {
        let disk = self.store.ownership(repo);
        let name = actor.to_string();
        let facts = live.facts(repo, disk.as_ref(), &name);
        let writers = disk.is_some() && live.policy.option(&facts, "writer-is-owner").is_some();
        if !(self.owns(actor, repo) || writers && self.rights(actor, repo).1) {
            return Err(Denial {
                first: format!("FATAL: '{repo}' is not yours, or there is no such repository"),
                you: Some(you(actor)),
                rule: None,
                help: format!(
                    "'{command}' is for its creator, and with option writer-is-owner for whoever may write; see: {} info",
                    live.address.ssh()
                ),
                code: Denial::NOT_OWNER,
            });
        }
        match refuse_here(live, &facts, actor, repo, Access::Write) {
            Some(denial) => Err(at_master(live, &facts, repo, denial, command, "is changed on")),
            None => Ok(()),
        }
    }
}

fn read(dir: &Path, file: &str) -> String {
    // Few repositories have one, and this is asked for each fetch.
    match std::fs::read(dir.join(file)) {
        Ok(bytes) => shown(&String::from_utf8_lossy(&bytes)),
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(%error, file, dir = %dir.display(), "a text cannot be read");
            }
            String::new()
        }
    }
}

/// Whole lines, without what would steer a terminal.
fn shown(text: &str) -> String {
    let mut text: String = text.chars().filter(|c| !c.is_control() || *c == '\n' || *c == '\t').collect();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

pub(super) fn put(dir: &Path, file: &str, text: Option<&str>) -> io::Result<()> {
    let Some(text) = text else {
        return match std::fs::remove_file(dir.join(file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => durable::sync("admin.text.removed", dir),
        };
    };
    write_whole(dir, file, &shown(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Store as _;
    use crate::admin::testing::{Node, actor, key_line, repo};

    const CONF: &str = "repo docs\n RW = bob\n R = carol\n option writer-is-owner = 1\nrepo plain\n RW = bob\n \
         R = carol\nrepo told\n RW = bob\n desc = From the rules\n option writer-is-owner = 1\n\
         repo copied\n RW+ = bob\n option writer-is-owner = 1\n option mirror.master = server2\n \
         option mirror.copies = server1\n";

    #[test]
    fn owners_and_trusted_writers_set_them_and_readers_read_them() {
        let node = Node::with(CONF);
        node.commit(&[("keydir/bob.pub", &key_line(2)), ("keydir/carol.pub", &key_line(3))]);
        let (_activator, realm, _) = node.run();
        let (bob, carol) = (actor(&realm, 2), actor(&realm, 3));
        let set = |actor: &Actor, name: &str, text, new: &str| {
            realm.set_text(actor, &repo(name), text, Some(new)).map_err(|error| error.to_string())
        };
        set(&bob, "docs", Text::Description, "Our tools").unwrap();
        assert_eq!(realm.text(&carol, &repo("docs"), Text::Description).unwrap(), "Our tools");
        assert_eq!(std::fs::read_to_string(node.store.dir(&repo("docs")).join("description")).unwrap(), "Our tools\n");
        set(&bob, "docs", Text::Motd, "one\x1b[31m\ntwo").unwrap();
        assert_eq!(realm.text(&carol, &repo("docs"), Text::Motd).unwrap(), "one[31m\ntwo\n");
        realm.set_node_motd(Some("hello")).unwrap();
        assert_eq!(realm.motd(&repo("docs")), "hello\none[31m\ntwo\n");
        realm.set_node_motd(None).unwrap();
        realm.set_node_motd(None).unwrap();
        realm.set_text(&bob, &repo("docs"), Text::Motd, None).unwrap();
        assert_eq!(realm.motd(&repo("docs")), "");

        let missing = set(&bob, "missing", Text::Readme, "x").unwrap_err();
        let not_his = set(&bob, "plain", Text::Readme, "x").unwrap_err();
        assert_eq!(missing.replace("missing", "X"), not_his.replace("plain", "X"));
        insta::assert_snapshot!(not_his, @"
        FATAL: 'plain' is not yours, or there is no such repository
          you:  bob (SHA256:4A9jyZBOhnKZvcGQ6TRFbf5Gymb41AfYvYaVmWHD+G4)
          help: 'readme' is for its creator, and with option writer-is-owner for whoever may write; see: ssh git@server1 info [E0212]
        ");
        assert!(set(&carol, "docs", Text::Readme, "x").unwrap_err().contains("E0212"));
        assert!(set(&bob, "told", Text::Description, "x").unwrap_err().contains("E0213"));
        assert!(set(&bob, "copied", Text::Description, "x").unwrap_err().contains("is changed on its master server2"));
        assert!(realm.text(&carol, &repo("told"), Text::Description).is_err());
        let long = "x".repeat(2000);
        assert_eq!(
            set(&bob, "docs", Text::Description, &long).unwrap_err(),
            "the text has 2000 bytes, and may have 1024"
        );
        assert!(set(&Actor::Local, "plain", Text::Description, "by the machine").is_ok());
    }
}

//! A user's own repository that begins with all that another one has (gitolite's command `fork`).

use std::io;

use crate::git::fork;
use crate::model::{Actor, RepoName};
use crate::policy::grant::Access;

use super::realm::Realm;
use super::{CreateError, Denial};

/// Names, inside a fork, what it was made from; gitolite's name and format.
const ORIGIN: &str = "gl-forked-from";

impl Realm {
    /// Makes `to` for the actor, who must be allowed to read `from` and to make `to`, and becomes its creator, with
    /// the default roles and git config. `false` if `to` came into being at the same moment by somebody else. Blocks.
    pub fn fork(&self, actor: &Actor, from: &RepoName, to: &RepoName) -> Result<bool, CreateError> {
        let denied = CreateError::Denied;
        self.authorize(actor, from, Access::Read).map_err(denied)?;
        if let Some(denial) = self.refuse_here(actor, from, Access::Read) {
            return Err(denied(denial));
        }
        let dir = self.store.dir(from);
        if !self.store.exists(from) {
            return Err(denied(Denial {
                first: format!("FATAL: '{from}' is not on this node's disk"),
                you: None,
                rule: None,
                help: "an administrator can make it by pushing gitmesh-admin again".to_owned(),
                code: Denial::NO_ACCESS,
            }));
        }
        let made = self.create_from(actor, to, &|into| {
            fork::fork(&dir, into)?;
            crate::repo::write_whole(into, ORIGIN, &format!("{from}\n"))
        })?;
        if made {
            tracing::info!(repo = %to, %from, user = %actor, "forked");
        }
        Ok(made)
    }

    /// What a fork was made from, if it was made by one.
    pub fn forked_from(&self, repo: &RepoName) -> io::Result<Option<String>> {
        match std::fs::read_to_string(self.store.dir(repo).join(ORIGIN)) {
            Ok(name) => Ok(Some(name.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::admin::Store as _;
    use crate::admin::testing::{Node, actor, key_line, repo};
    use crate::git::objects::{self, Author};
    use crate::model::UserName;
    use crate::repo::Ownership;

    #[test]
    fn a_fork_has_its_own_creator_and_roles() {
        let node = Node::with(
            "repo docs\n RW = alice\n R = bob\nrepo closed\n RW = alice\nrepo pub/CREATOR/..*\n C = bob\n RW+ = CREATOR\n \
             R = READERS\n option default.roles-1 = READERS @team\n",
        );
        node.commit(&[("keydir/bob.pub", &key_line(2))]);
        let (_activator, realm, _) = node.run();
        let (bob, docs, x) = (actor(&realm, 2), repo("docs"), repo("pub/bob/x"));
        let files = [("a".to_owned(), b"x".to_vec())].into();
        let author = Author { name: "alice", email: "alice@example.com" };
        let main = objects::commit_files(&node.store.dir(&docs), "main", &files, author, "test", None).unwrap();
        assert!(realm.fork(&bob, &docs, &x).unwrap());
        assert_eq!(
            node.store.ownership(&x),
            Some(Ownership { creator: UserName::new("bob").ok(), roles: Some("READERS @team\n".to_owned()) })
        );
        assert_eq!(objects::file_at(&node.store.dir(&x), &main, "a").unwrap().unwrap().1, b"x");
        assert_eq!(realm.forked_from(&x).unwrap().as_deref(), Some("docs"));
        assert_eq!(realm.forked_from(&docs).unwrap(), None);

        let refused = |from: &str, to: &str| realm.fork(&bob, &repo(from), &repo(to)).unwrap_err().to_string();
        assert!(refused("docs", "pub/bob/x").contains("DENIED by existence"));
        assert!(refused("docs", "other").contains("^C any other bob DENIED by fallthru"));
        let (forbidden, absent) = (refused("closed", "pub/bob/y"), refused("missing", "pub/bob/y"));
        assert_eq!(forbidden.replace("closed", "X"), absent.replace("missing", "X"));
        assert!(!node.store.exists(&repo("pub/bob/y")));
    }
}

//! A command changes the admin repository: one commit in the name of whoever gave it, held to all that a push is held to.
//!
//! The only way for anything but a push to write there. What is wanted is worked out from the newest files and is
//! worked out again when somebody else was quicker, so two commands never undo each other, and a command never undoes a
//! push. The commit is compiled before the branch moves; what does not compile is never seen by anybody.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use super::tree::{Files, Tree};
use super::{Admin, Applied, Good, ReloadError};
use crate::git::objects::{Author, ObjectsError, head_commit};
use crate::git::odb;
use crate::model::RefUpdate;

/// A push that lands in between costs one more try.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// What a command wants of the admin repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Contents by path from the top (`keydir/alice@laptop.pub`); `None` for a file that goes.
    pub files: BTreeMap<String, Option<Vec<u8>>>,
    /// The commit's message; its first line says what was ordered.
    pub message: String,
}

/// A change that has landed.
#[derive(Debug)]
pub struct Committed {
    /// Of the branch that is live.
    pub update: RefUpdate,
    /// What it changes, in lines for whoever ordered it; empty when nothing.
    pub plan: String,
    pub warnings: String,
    /// What putting it in force did; on an error the commit stands, and what was in force before stays so.
    pub applied: Result<Applied, ReloadError>,
}

/// Why a change has not landed; nothing is different from before.
#[derive(Debug, thiserror::Error)]
pub enum NotCommitted<E> {
    /// Whoever was to work out the change refuses it.
    #[error("the change is refused")]
    Refused(E),
    /// It does not compile, or would lock out the last administrator. The text is what a push would be told.
    #[error("{0}")]
    Rejected(String),
    #[error("others change gitmesh-admin all the time; try again")]
    Busy,
    #[error("gitmesh-admin holds no commit yet; it comes with its master's first push")]
    Empty,
    #[error("read or write gitmesh-admin")]
    Repository(#[from] ObjectsError),
}

impl Committed {
    /// How far it has come, as after a push, in lines for the end of a command's own words.
    pub fn in_force(&self) -> String {
        match &self.applied {
            Ok(applied) => {
                let problems = applied.problems.iter().map(|problem| format!("warning: not done yet: {problem}\n"));
                format!("generation {} is in force\n", applied.generation) + &problems.collect::<String>()
            }
            Err(_) => "FATAL: it is committed, but the new configuration is not in force; the old one stays. Tell the \
                       operator of this server.\n"
                .to_owned(),
        }
    }
}

impl Admin {
    /// Commits what `edit` makes of the newest files (`conf/` and `keydir/`, by path from the top), with `person` as
    /// author, and puts it in force. `edit` may be asked several times and decides anew each time.
    ///
    /// Whether the person may is the caller's question, and so is whether this node takes changes of the admin
    /// repository at all. Blocks.
    pub fn commit<E>(
        &self,
        person: &str,
        mut edit: impl FnMut(&Files) -> Result<Change, E>,
    ) -> Result<Committed, NotCommitted<E>> {
        // One command at a time on this node; against pushes the reference itself decides.
        let _turn = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        let node = self.node();
        let (by, own) = (email(person, node.as_str()), email("gitmesh", node.as_str()));
        let (author, committer) = (Author { name: person, email: &by }, Author { name: "gitmesh", email: &own });
        for _ in 0..TRIES {
            let Some(parent) = head_commit(&self.dir)? else { return Err(NotCommitted::Empty) };
            let Some(branch) = odb::head_branch(&self.dir)? else { return Err(NotCommitted::Empty) };
            let Some(files) = Tree::of_commit(&self.dir, &parent).files else {
                return Err(NotCommitted::Repository(ObjectsError::TooLarge));
            };
            let Change { files: changes, message } = edit(&files).map_err(NotCommitted::Refused)?;
            let changes = changes.iter().map(|(path, contents)| (path.as_str(), contents.as_deref())).collect();
            let commit = odb::prepare_commit(&self.dir, &changes, author, committer, &message, &parent)?;
            let Good { warnings, plan } = self.check(&commit, &branch).map_err(NotCommitted::Rejected)?;
            let log = format!("{person}: {}", message.lines().next().unwrap_or_default());
            match odb::move_branch(&self.dir, &branch, &parent, &commit, &log) {
                Ok(()) => {
                    let update = RefUpdate { name: branch, old: parent, new: commit };
                    return Ok(Committed { update, plan, warnings, applied: self.reload() });
                }
                Err(ObjectsError::Moved(_)) => std::thread::sleep(PAUSE),
                Err(error) => return Err(error.into()),
            }
        }
        Err(NotCommitted::Busy)
    }
}

/// A name that is an address already stands for itself.
fn email(name: &str, node: &str) -> String {
    if name.contains('@') { name.to_owned() } else { format!("{name}@{node}") }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::admin::testing::{Node, actor, key_line};
    use crate::admin::{Realm, Store as _};

    fn admin(node: &Node) -> (Admin, Realm) {
        let (activator, realm, _) = node.run();
        (Admin::new(activator, node.store.admin_dir()), realm)
    }

    fn file(path: &str, text: &str) -> Change {
        let files = [(path.to_owned(), Some(text.as_bytes().to_vec()))].into();
        Change { files, message: format!("change {path}\n\nfor a test\n") }
    }

    fn told(dir: &Path) -> String {
        let arguments = ["log", "-1", "--format=%an <%ae> %cn <%ce>: %s"];
        let out = std::process::Command::new("git").arg("-C").arg(dir).args(arguments).output().unwrap();
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }

    #[test]
    fn a_change_lands_in_a_persons_name_and_is_in_force() {
        let node = Node::with("repo testing\n RW = bob");
        let (admin, realm) = admin(&node);
        assert!(realm.identify(&crate::admin::testing::blob(2), crate::admin::testing::HERE).is_none());
        let done = admin.commit("bob", |_| Ok::<_, ()>(file("keydir/new/bob.pub", &key_line(2)))).unwrap();
        assert_eq!(actor(&realm, 2).to_string(), "bob");
        assert!(done.plan.contains("bob") && done.applied.is_ok(), "{done:?}");
        assert_eq!(head_commit(&node.store.admin_dir()).unwrap(), Some(done.update.new));
        assert_eq!(
            told(&node.store.admin_dir()),
            "bob <bob@server1> gitmesh <gitmesh@server1>: change keydir/new/bob.pub"
        );
        let gone = Change { files: [("keydir/new/bob.pub".to_owned(), None)].into(), message: "go".to_owned() };
        admin.commit("bob@corp.com", |_| Ok::<_, ()>(gone.clone())).unwrap();
        assert!(realm.identify(&crate::admin::testing::blob(2), crate::admin::testing::HERE).is_none());
        assert!(told(&node.store.admin_dir()).starts_with("bob@corp.com <bob@corp.com>"));
    }

    #[test]
    fn what_is_wrong_never_lands() {
        let node = Node::with("repo testing\n RW = bob");
        let (admin, realm) = admin(&node);
        let dir = node.store.admin_dir();
        let before = (head_commit(&dir).unwrap(), realm.generation());
        let bad =
            [("keydir/bob.pub", "no key"), ("conf/gitmesh.conf", "repo x\n RX = bob\n"), ("keydir/alice.pub", "")];
        for (path, text) in bad {
            let refused = admin.commit("bob", |_| Ok::<_, ()>(file(path, text))).unwrap_err();
            assert!(matches!(&refused, NotCommitted::Rejected(why) if why.contains(path)), "{refused:?}");
        }
        let locked_out = Change { files: [("keydir/alice.pub".to_owned(), None)].into(), message: "go".to_owned() };
        let refused = admin.commit("alice", |_| Ok::<_, ()>(locked_out.clone())).unwrap_err();
        assert!(refused.to_string().contains("lock out the last administrator"), "{refused}");
        assert!(matches!(admin.commit("bob", |_| Err("no")), Err(NotCommitted::Refused("no"))));
        assert_eq!((head_commit(&dir).unwrap(), realm.generation()), before);
    }

    #[test]
    fn whoever_was_quicker_is_not_undone() {
        let node = Node::with("repo testing\n RW = @all");
        let (admin, realm) = admin(&node);
        let mut asked = 0;
        let done = admin.commit("bob", |files| {
            asked += 1;
            if asked == 1 {
                node.commit(&[("keydir/carol.pub", &key_line(3))]);
            }
            assert_eq!(files.contains_key("keydir/carol.pub"), asked == 2);
            Ok::<_, ()>(file("keydir/bob.pub", &key_line(2)))
        });
        assert!(done.is_ok() && asked == 2);
        assert_eq!(
            (actor(&realm, 2).to_string(), actor(&realm, 3).to_string()),
            ("bob".to_owned(), "carol".to_owned())
        );
    }

    #[test]
    fn many_at_once_all_land() {
        let node = Node::with("repo testing\n RW = @all");
        let (admin, realm) = admin(&node);
        std::thread::scope(|scope| {
            for seed in 2..10 {
                let admin = admin.clone();
                scope.spawn(move || {
                    let change = || file(&format!("keydir/user{seed}.pub"), &key_line(seed));
                    admin.commit(&format!("user{seed}"), |_| Ok::<_, ()>(change())).unwrap();
                });
            }
        });
        assert!((2..10).all(|seed| actor(&realm, seed).to_string() == format!("user{seed}")));
    }
}

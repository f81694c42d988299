//! What somebody may do with an existing repository, asked for very many of them at once by `info`.

use crate::model::{Actor, RepoName};
use crate::policy::grant::Access;
use crate::policy::{Op, Target};
use crate::repo::Ownership;

use super::realm::Realm;

impl Realm {
    /// Whether the actor may read and write an existing repository.
    pub fn rights(&self, actor: &Actor, repo: &RepoName) -> (bool, bool) {
        self.rights_in(actor, repo, &self.store.ownership(repo).unwrap_or_default())
    }

    /// As [`Realm::rights`], for somebody who knows already whose it is. Both answers are from one walk over the rules.
    pub fn rights_in(&self, actor: &Actor, repo: &RepoName, disk: &Ownership) -> (bool, bool) {
        let live = self.live();
        if matches!(actor, Actor::User { .. }) && live.by_emergency(actor, repo).is_none() {
            let name = actor.to_string();
            let walk = live.policy.walk(&live.facts(repo, Some(disk), &name), &name);
            let may = |op| walk.decide(op, Target::Any).allowed;
            return (may(Op::Read), may(Op::Write));
        }
        let may = |access| live.may(actor, repo, Some(disk), access);
        (may(Access::Read), may(Access::Write) && !matches!(actor, Actor::Node(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::testing::{Node, actor, key_line, repo};

    #[test]
    fn one_walk_says_what_two_say() {
        let node = Node::with(
            "repo a\n R = bob\nrepo b\n RW = bob\nrepo c\n - = bob\n RW = @all\n option deny-rules = 1\nrepo d\n W = bob\n\
             repo e\n RW refs/heads/x = bob\n",
        );
        node.commit(&[("keydir/bob.pub", &key_line(2))]);
        let (_activator, realm, _) = node.run();
        let bob = actor(&realm, 2);
        for name in ["a", "b", "c", "d", "e", "gitmesh-admin"] {
            let may = |access| realm.authorize(&bob, &repo(name), access).is_ok();
            assert_eq!(realm.rights(&bob, &repo(name)), (may(Access::Read), may(Access::Write)), "{name}");
        }
    }
}

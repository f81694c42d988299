//! The second check of a push: each reference by itself (`spec/access-language.md`, 5.4).

use crate::git::objects::Kind;
use crate::model::{Actor, RefUpdate, RepoName};
use crate::policy::grant::Access;
use crate::policy::{Change, Decision, Op, Target};
use crate::repo::Ownership;

use super::Denial;
use super::realm::{Live, mirror_refusal, refuse_here, you};

/// One answer for each update, in their order, from one walk over the rules. `refs/gitmesh/*` is refused to everybody.
///
/// `insider` says whether the actor may read the rules, and so be told which one decided.
pub(super) fn judge(
    live: &Live,
    disk: Option<&Ownership>,
    insider: bool,
    actor: &Actor,
    repo: &RepoName,
    updates: &[(RefUpdate, Kind)],
    merges: impl Fn(&RefUpdate) -> bool,
) -> Vec<Result<(), Denial>> {
    let name = actor.to_string();
    let facts = live.facts(repo, disk, &name);
    let whole = match actor {
        Actor::Node(node) => mirror_refusal(live, &facts, node, repo),
        Actor::User { .. } | Actor::Local => refuse_here(live, &facts, actor, repo, Access::Write),
    };
    let all_refs = match actor {
        Actor::Node(_) | Actor::Local => Some(true),
        Actor::User { .. } => live.by_emergency(actor, repo),
    };
    let walk = live.policy.walk(&facts, &name);
    let one = |(update, kind): &(RefUpdate, Kind)| {
        if update.name.is_internal() {
            return Err(internal(actor, update));
        }
        if let Some(denial) = &whole {
            return Err(denial.clone());
        }
        if all_refs == Some(true) {
            return Ok(());
        }
        let name = update.name.as_str();
        let op = walk.ref_op(name, change(*kind), walk.checks_merges() && merges(update));
        let decision = walk.decide(op, Target::Ref(name));
        if decision.allowed && all_refs != Some(false) {
            return Ok(());
        }
        Err(refused(actor, repo, update, *kind, op, decision, insider))
    };
    updates.iter().map(one).collect()
}

fn change(kind: Kind) -> Change {
    match kind {
        Kind::Create => Change::Create,
        Kind::FastForward => Change::FastForward,
        Kind::Rewind => Change::Rewind,
        Kind::Delete => Change::Delete,
    }
}

fn internal(actor: &Actor, update: &RefUpdate) -> Denial {
    Denial {
        first: format!("{} is kept by gitmesh itself", update.name),
        you: Some(you(actor)),
        rule: None,
        help: "push to refs/heads/ or refs/tags/; nobody writes refs/gitmesh/".to_owned(),
        code: Denial::INTERNAL_REF,
    }
}

fn refused(
    actor: &Actor,
    repo: &RepoName,
    update: &RefUpdate,
    kind: Kind,
    op: Op,
    decision: Decision,
    insider: bool,
) -> Denial {
    let name = &update.name;
    let (what, needed) = match (op, kind) {
        (Op::Create, _) => ("creates a reference", "RWC"),
        (Op::Delete, _) => ("deletes a reference", "RWD"),
        (Op::Force, Kind::Delete) => ("deletes a reference", "RW+"),
        (Op::Force, Kind::FastForward) => ("changes a tag", "RW+"),
        (Op::Force, _) => ("rewinds a reference; pull first, unless that is meant", "RW+"),
        (Op::ForceMerge, _) => ("rewinds a reference and brings a merge", "RW+M"),
        (Op::WriteMerge, _) => ("brings a merge", "RWM"),
        _ => ("writes a reference", "RW"),
    };
    let help = if decision.refex == "fallthru" {
        format!("this {what}, which needs {needed}; ask an administrator, or push to another branch")
    } else {
        format!("a rule forbids {name} to you; push to another branch, or ask an administrator")
    };
    Denial {
        first: format!("FATAL: {op} {name} {repo} {actor} DENIED by {}", decision.refex),
        you: Some(you(actor)),
        rule: insider.then_some(()).and_then(|()| Some(Box::new((decision.rule?, decision.place?)))),
        help,
        code: Denial::REF,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Realm;
    use crate::admin::testing::{Node, actor, host, key_line, repo};
    use crate::model::{Oid, RefName};

    fn update(name: &str, kind: Kind) -> (RefUpdate, Kind) {
        let some = Oid::parse(&"1".repeat(40)).unwrap();
        (RefUpdate { name: RefName::parse(name).unwrap(), old: some.clone(), new: some }, kind)
    }

    fn verdicts(realm: &Realm, actor: &Actor, name: &str, updates: &[(&str, Kind)]) -> Vec<String> {
        let updates: Vec<_> = updates.iter().map(|(name, kind)| update(name, *kind)).collect();
        let answers = realm.judge(actor, &repo(name), &updates);
        answers.into_iter().map(|answer| answer.map_or_else(|denial| denial.short(), |()| "ok".to_owned())).collect()
    }

    #[test]
    fn each_reference_by_itself() {
        let node = Node::with("repo testing\n - main = bob\n RW = bob alice\n RW+ dev = bob");
        node.commit(&[("keydir/bob.pub", &key_line(2))]);
        let (_activator, realm, _) = node.run();
        let pushed = [
            ("refs/heads/main", Kind::FastForward),
            ("refs/heads/topic", Kind::Create),
            ("refs/heads/topic", Kind::Rewind),
            ("refs/heads/dev/x", Kind::Rewind),
            ("refs/tags/v1", Kind::Create),
            ("refs/tags/v1", Kind::FastForward),
            ("refs/heads/topic", Kind::Delete),
            ("refs/gitmesh/lost/1", Kind::Create),
        ];
        let bob = actor(&realm, 2);
        let internal = "refs/gitmesh/lost/1 is kept by gitmesh itself [E0204]";
        assert_eq!(
            verdicts(&realm, &bob, "testing", &pushed),
            [
                "denied by refs/heads/main [E0203]",
                "ok",
                "denied by fallthru [E0203]",
                "ok",
                "ok",
                "denied by fallthru [E0203]",
                "denied by fallthru [E0203]",
                internal
            ]
        );
        let denial =
            realm.judge(&bob, &repo("testing"), &[update("refs/tags/v1", Kind::Delete)]).remove(0).unwrap_err();
        assert_eq!(denial.first, "FATAL: + refs/tags/v1 testing bob DENIED by fallthru");
        assert_eq!(verdicts(&realm, &Actor::Local, "testing", &pushed)[6..], ["ok", internal]);
    }

    #[test]
    fn merge_checks_ask_about_merges() {
        let node = Node::with("repo testing\n RW = alice\n option MERGE_CHECK = 1");
        let (_activator, realm, _) = node.run();
        let alice = actor(&realm, 1);
        let updates = [update("refs/heads/main", Kind::FastForward)];
        assert!(realm.judge_merges(&alice, &repo("testing"), &updates, |_| false)[0].is_ok());
        let denial = realm.judge_merges(&alice, &repo("testing"), &updates, |_| true).remove(0).unwrap_err();
        assert!(denial.first.starts_with("FATAL: WM refs/heads/main testing alice DENIED"), "{denial}");
    }

    #[test]
    fn a_copy_is_written_by_its_master_alone() {
        let node =
            Node::with("repo testing\n RW+ = alice\n option mirror.master = server2\n option mirror.copies = server1");
        let (_activator, realm, _) = node.run();
        let pushed = [("refs/heads/main", Kind::Rewind), ("refs/gitmesh/x", Kind::Create)];
        let by = |actor: &Actor| verdicts(&realm, actor, "testing", &pushed).remove(0);
        assert_eq!(by(&Actor::Node(host("server2"))), "ok");
        assert_eq!(by(&Actor::Node(host("server3"))), "FATAL: 'server3' is not the master of 'testing' [E0207]");
        let copy = "this is a copy; push to server2: git@server2:testing.git [E0205]";
        assert_eq!(by(&actor(&realm, 1)), copy);
        assert_eq!(by(&Actor::Local), copy);
        assert!(verdicts(&realm, &Actor::Node(host("server2")), "testing", &pushed)[1].contains("E0204"));
    }
}

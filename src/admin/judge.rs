//! The second check of a push: each reference by itself (`spec/access-language.md`, 5.4).

use crate::git::objects::Kind;
use crate::model::{Actor, RefUpdate, RepoName};
use crate::policy::grant::Access;
use crate::policy::{Change, Decision, Facts, Op, Target, Walk};

use super::Denial;
use super::here::{mirror_refusal, refuse_here, you};
use super::realm::Live;
use super::virtual_ref::{Blocked, Inspection, Look};

/// What came of a push.
#[derive(Debug, Default)]
pub struct Judged {
    /// One answer for each update, in their order.
    pub verdicts: Vec<Result<(), Denial>>,
    /// The refex that decided about each; empty where no rule was asked.
    pub refexes: Vec<String>,
    /// Remarks and what programs printed, for the pusher; whole lines.
    pub text: String,
}

/// Judges each update from one walk over the rules. `refs/gitmesh/*` is refused to everybody.
///
/// `insider` says whether the actor may read the rules, and so be told which one decided. Without `look` there are no
/// merge checks and no virtual refs.
pub(super) fn judge(
    live: &Live,
    facts: &Facts<'_>,
    insider: bool,
    actor: &Actor,
    repo: &RepoName,
    updates: &[(RefUpdate, Kind)],
    look: Option<Look<'_>>,
) -> Judged {
    let whole = match actor {
        Actor::Node(node) => mirror_refusal(live, facts, node, repo),
        Actor::User { .. } | Actor::Local => refuse_here(live, facts, actor, repo, Access::Write),
    };
    let all_refs = match actor {
        Actor::Node(_) | Actor::Local => Some(true),
        Actor::User { .. } => live.by_emergency(actor, repo),
    };
    let user = actor.to_string();
    let walk = live.policy.walk(facts, &user);
    let mut inspection = look.map(|look| Inspection::new(&walk, look, user));
    let mut judged = Judged::default();
    for (update, kind) in updates {
        let mut refex = String::new();
        let verdict = if update.name.is_internal() {
            Err(internal(actor, update))
        } else if let Some(denial) = &whole {
            Err(denial.clone())
        } else if all_refs == Some(true) {
            Ok(())
        } else {
            let context = Context { walk: &walk, actor, repo, insider, none: all_refs == Some(false) };
            context.one(update, *kind, look, inspection.as_mut(), &mut judged.text, &mut refex)
        };
        judged.refexes.push(refex);
        judged.verdicts.push(verdict);
    }
    judged.text.extend(inspection.map(|inspection| inspection.text));
    judged
}

struct Context<'a> {
    walk: &'a Walk<'a>,
    actor: &'a Actor,
    repo: &'a RepoName,
    insider: bool,
    /// The emergency override gives nothing but the admin repository.
    none: bool,
}

impl Context<'_> {
    fn one(
        &self,
        update: &RefUpdate,
        kind: Kind,
        look: Option<Look<'_>>,
        inspection: Option<&mut Inspection<'_>>,
        text: &mut String,
        refex: &mut String,
    ) -> Result<(), Denial> {
        let name = update.name.as_str();
        let mut merge = false;
        if let Some(look) = look.filter(|_| self.walk.checks_merges()) {
            if matches!(kind, Kind::Create | Kind::Delete) {
                text.push_str(&format!("warning: {name}: merge-check is skipped for what is created or deleted\n"));
            }
            merge = look.changes.brings_merge(update).map_err(|error| {
                tracing::warn!(%error, repo = %self.repo, "cannot look for merges");
                self.unseen(update, "MERGE_CHECK", "the pushed objects cannot be read; push again")
            })?;
        }
        let op = self.walk.ref_op(name, change(kind), merge);
        let decision = self.walk.decide(op, Target::Ref(name));
        refex.clone_from(&decision.refex);
        if !decision.allowed || self.none {
            return Err(refused(self.actor, self.repo, update, kind, op, decision, self.insider));
        }
        match inspection.map_or(Ok(()), |inspection| inspection.inspect(update, op)) {
            Ok(()) => Ok(()),
            Err(Blocked::Trouble { refex, why }) => Err(self.unseen(update, &refex, &why)),
            Err(Blocked::Rule { decision, spoken, message }) => {
                Err(self.virtually(update, op, *decision, &spoken, &message))
            }
        }
    }

    fn virtually(&self, update: &RefUpdate, op: Op, decision: Decision, spoken: &str, message: &str) -> Denial {
        let (repo, actor) = (self.repo, self.actor);
        let rule = decision.rule.zip(decision.place).filter(|_| self.insider);
        let why = if message.is_empty() { "a rule refuses what it brings" } else { message };
        Denial {
            first: format!("FATAL: {op} {spoken} {repo} {actor} DENIED by {}", decision.refex),
            you: Some(you(actor)),
            rule: rule.map(Box::new),
            help: format!("{}: {why}", update.name),
            code: Denial::VIRTUAL_REF,
        }
    }

    fn unseen(&self, update: &RefUpdate, refex: &str, why: &str) -> Denial {
        Denial {
            first: format!("FATAL: {} {} {} refused by {refex}", update.name, self.repo, self.actor),
            you: Some(you(self.actor)),
            rule: None,
            help: why.to_owned(),
            code: Denial::UNSEEN,
        }
    }
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
        (Op::Force, _) if name.as_str().starts_with("refs/tags/") => ("changes a tag", "RW+"),
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
        let answers = realm.judge(actor, &repo(name), &updates, None).verdicts;
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
        let deleted = [update("refs/tags/v1", Kind::Delete)];
        let denial = realm.judge(&bob, &repo("testing"), &deleted, None).verdicts.remove(0).unwrap_err();
        assert_eq!(denial.first, "FATAL: + refs/tags/v1 testing bob DENIED by fallthru");
        assert_eq!(verdicts(&realm, &Actor::Local, "testing", &pushed)[6..], ["ok", internal]);
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

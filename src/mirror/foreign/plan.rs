//! Pure: what to push to a server on which others may write too, and what of it waits for a person.

use std::collections::{BTreeMap, BTreeSet};

use super::super::plan::{Obstacle, Order, mass_deletion};
use super::seen::Seen;
use crate::model::{Oid, RefName, RefUpdate};

pub(super) type Refs = BTreeMap<RefName, Oid>;

/// What makes a target equal, as far as it may be.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Each with the value that the target must have for it to happen.
    pub updates: Vec<RefUpdate>,
    /// What somebody else has changed there, with the value there.
    pub diverged: Vec<(RefName, Option<Oid>)>,
    /// What is known to be there from us, before any update.
    pub seen: Seen,
    theirs: usize,
}

/// All maps hold references within the filter alone. `behind` are those of the target's, unknown so far, whose value
/// ours has behind it.
pub(super) fn plan(ours: &Refs, theirs: &Refs, seen: &Seen, behind: &BTreeSet<RefName>, order: Order) -> Plan {
    let mut plan = Plan { theirs: theirs.len(), ..Plan::default() };
    let names: BTreeSet<&RefName> = ours.keys().chain(theirs.keys()).chain(seen.0.keys()).collect();
    for name in names {
        let (here, there, known) = (ours.get(name), theirs.get(name), seen.0.get(name));
        if here == there {
            plan.seen.0.extend(there.map(|oid| (name.clone(), vec![oid.clone()])));
            continue;
        }
        let zero = here.or(there).expect("they differ, so one is there").to_zero();
        let expected = match known {
            Some(values) => values.contains(there.unwrap_or(&zero)),
            None => there.is_none() || behind.contains(name),
        };
        if expected {
            plan.seen.0.extend(there.map(|oid| (name.clone(), vec![oid.clone()])));
        } else {
            plan.diverged.push((name.clone(), there.cloned()));
            plan.seen.0.extend(known.map(|values| (name.clone(), values.clone())));
        }
        if expected || order >= Order::Force {
            let (old, new) = (there.unwrap_or(&zero).clone(), here.unwrap_or(&zero).clone());
            plan.updates.push(RefUpdate { name: name.clone(), old, new });
        }
    }
    plan
}

impl Plan {
    /// What keeps all of it back; what has diverged keeps itself back alone.
    pub(super) fn obstacle(&self, share: u8, order: Order) -> Option<Obstacle> {
        let deleted = self.updates.iter().filter(|update| update.new.is_zero()).count();
        mass_deletion(deleted, self.theirs, self.updates.len(), share, order)
    }

    /// What may be there while the updates are under way.
    pub(super) fn under_way(&self) -> Seen {
        let mut seen = self.seen.clone();
        for RefUpdate { name, old, new } in &self.updates {
            seen.0.insert(name.clone(), vec![old.clone(), new.clone()]);
        }
        seen
    }
}

/// Where the upstream leads: everything within the filter becomes as it is there.
pub(super) fn follow(ours: &Refs, theirs: &Refs) -> Vec<RefUpdate> {
    let names: BTreeSet<&RefName> = ours.keys().chain(theirs.keys()).collect();
    let update = |name: &RefName| {
        let (old, new) = (ours.get(name), theirs.get(name));
        let zero = old.or(new)?.to_zero();
        let (old, new) = (old.unwrap_or(&zero).clone(), new.unwrap_or(&zero).clone());
        (old != new).then(|| RefUpdate { name: name.clone(), old, new })
    };
    names.into_iter().filter_map(update).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn oid(n: u8) -> Oid {
        Oid::parse(&format!("{n:040x}")).expect("40 digits")
    }

    fn name(text: &str) -> RefName {
        RefName::parse(&format!("refs/heads/{text}")).expect("a ref name")
    }

    fn refs(list: &[(&str, u8)]) -> Refs {
        list.iter().map(|(n, o)| (name(n), oid(*o))).collect()
    }

    fn seen(list: &[(&str, u8)]) -> Seen {
        Seen(list.iter().map(|(n, o)| (name(n), vec![oid(*o)])).collect())
    }

    /// `name old->new` for each update, then `name!` for what has diverged.
    fn shown(
        ours: &[(&str, u8)],
        theirs: &[(&str, u8)],
        known: &[(&str, u8)],
        behind: &[&str],
        order: Order,
    ) -> String {
        let behind = behind.iter().map(|n| name(n)).collect();
        let plan = plan(&refs(ours), &refs(theirs), &seen(known), &behind, order);
        let short = |oid: &Oid| oid.as_str().trim_start_matches('0').to_owned();
        let last = |name: &RefName| name.as_str().rsplit('/').next().unwrap().to_owned();
        let updates = plan.updates.iter().map(|u| format!("{} {}->{}", last(&u.name), short(&u.old), short(&u.new)));
        updates.chain(plan.diverged.iter().map(|(n, _)| format!("{}!", last(n)))).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn table() {
        let usual = |ours: &[(&str, u8)], theirs: &[(&str, u8)], known: &[(&str, u8)], behind: &[&str]| {
            shown(ours, theirs, known, behind, Order::Usual)
        };
        assert_eq!(usual(&[("a", 1)], &[], &[], &[]), "a ->1", "the first push");
        assert_eq!(usual(&[("a", 2)], &[("a", 1)], &[("a", 1)], &[]), "a 1->2", "moved here, also by force");
        assert_eq!(usual(&[], &[("a", 1)], &[("a", 1)], &[]), "a 1->", "deleted here");
        assert_eq!(usual(&[("a", 1)], &[("a", 1)], &[], &[]), "", "equal already");
        assert_eq!(usual(&[("a", 2)], &[("a", 3)], &[("a", 1)], &[]), "a!", "moved there");
        assert_eq!(usual(&[("a", 2)], &[], &[("a", 1)], &[]), "a!", "deleted there");
        assert_eq!(usual(&[], &[("a", 3)], &[("a", 1)], &[]), "a!", "moved there, deleted here");
        assert_eq!(usual(&[], &[("a", 3)], &[], &[]), "a!", "made there");
        assert_eq!(usual(&[], &[], &[("a", 1)], &[]), "", "deleted on both sides");
        assert_eq!(usual(&[("a", 2)], &[("a", 1)], &[], &[]), "a!", "there before we came, and not behind ours");
        assert_eq!(usual(&[("a", 2)], &[("a", 1)], &[], &["a"]), "a 1->2", "there before we came, and behind ours");
        let force = shown(&[("a", 2)], &[("a", 3), ("b", 4)], &[("a", 1)], &[], Order::Force);
        assert_eq!(force, "a 3->2 b 4-> a! b!");
    }

    #[test]
    fn a_crash_in_the_middle_of_a_push_is_no_divergence() {
        let ours = refs(&[("a", 2), ("b", 2)]);
        let first =
            plan(&ours, &refs(&[("a", 1), ("c", 1)]), &seen(&[("a", 1), ("c", 1)]), &BTreeSet::new(), Order::Usual);
        let pending = first.under_way();
        for landed in [refs(&[("a", 1), ("c", 1)]), refs(&[("a", 2), ("b", 2)]), refs(&[("a", 2), ("c", 1)])] {
            // Meanwhile the branches have moved on here.
            let next = plan(&refs(&[("a", 3), ("b", 3)]), &landed, &pending, &BTreeSet::new(), Order::Usual);
            assert_eq!(next.diverged, [], "{landed:?}");
        }
    }

    fn any_refs() -> impl Strategy<Value = Refs> {
        prop::collection::btree_map("[a-d]".prop_map(|n| name(&n)), (1u8..4).prop_map(oid), 0..4)
    }

    proptest! {
        /// Nothing is changed there that did not have a value of ours; what is left equals ours or is reported.
        #[test]
        fn nothing_of_others_is_lost(ours in any_refs(), theirs in any_refs(), left in any_refs()) {
            let known = Seen(left.iter().map(|(n, o)| (n.clone(), vec![o.clone()])).collect());
            let plan = plan(&ours, &theirs, &known, &BTreeSet::new(), Order::Usual);
            for update in &plan.updates {
                let there = theirs.get(&update.name);
                prop_assert!(there.is_none_or(|oid| left.get(&update.name) == Some(oid)));
                prop_assert_eq!(there.cloned().unwrap_or(update.old.to_zero()), update.old.clone());
            }
            let mut after = theirs.clone();
            for update in plan.updates {
                if update.new.is_zero() { after.remove(&update.name); } else { after.insert(update.name, update.new); }
            }
            for name in ours.keys().chain(after.keys()) {
                prop_assert!(ours.get(name) == after.get(name) || plan.diverged.iter().any(|(n, _)| n == name));
            }
        }

        #[test]
        fn following_gives_theirs(ours in any_refs(), theirs in any_refs()) {
            let mut after = ours.clone();
            for update in follow(&ours, &theirs) {
                if update.new.is_zero() { after.remove(&update.name); } else { after.insert(update.name, update.new); }
            }
            prop_assert_eq!(after, theirs);
        }
    }
}

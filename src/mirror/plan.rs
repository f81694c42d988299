//! Pure: what to push so that a replica's refs become ours.

use std::collections::BTreeMap;

use crate::git::objects::RefState;
use crate::model::{Oid, RefName, RefUpdate};

/// The updates that turn `theirs` into `ours`, `git push --mirror` in meaning: create, update, force, delete, for
/// every ref but `refs/gitmesh/*`, which each node keeps for itself.
///
/// Deletions come first: `refs/heads/a` must be gone before `refs/heads/a/b` can be created. Empty means equal.
pub fn plan(ours: &RefState, theirs: &BTreeMap<RefName, Oid>) -> Vec<RefUpdate> {
    let mut updates = Vec::new();
    for (name, old) in theirs {
        if !name.is_internal() && !ours.refs.contains_key(name) {
            updates.push(RefUpdate { name: name.clone(), old: old.clone(), new: old.to_zero() });
        }
    }
    for (name, new) in &ours.refs {
        if name.is_internal() {
            continue;
        }
        match theirs.get(name) {
            Some(old) if old == new => {}
            Some(old) => updates.push(RefUpdate { name: name.clone(), old: old.clone(), new: new.clone() }),
            None => updates.push(RefUpdate { name: name.clone(), old: new.to_zero(), new: new.clone() }),
        }
    }
    updates
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn oid(n: u8) -> Oid {
        Oid::parse(&format!("{n:040x}")).expect("40 digits")
    }

    fn refs(list: &[(&str, u8)]) -> BTreeMap<RefName, Oid> {
        list.iter().map(|(name, n)| (RefName::parse(name).expect("a ref name"), oid(*n))).collect()
    }

    fn shown(ours: &[(&str, u8)], theirs: &[(&str, u8)]) -> Vec<String> {
        let ours = RefState { head: None, refs: refs(ours) };
        let short = |oid: &Oid| oid.as_str().trim_start_matches('0').to_owned();
        let line = |u: RefUpdate| format!("{} {}->{}", u.name, short(&u.old), short(&u.new));
        plan(&ours, &refs(theirs)).into_iter().map(line).collect()
    }

    #[test]
    fn table() {
        let (a, ab, tag, kept) = ("refs/heads/a", "refs/heads/a/b", "refs/tags/v1", "refs/gitmesh/lost/x");
        assert_eq!(shown(&[], &[]), [""; 0]);
        assert_eq!(shown(&[(a, 1), (tag, 2)], &[(a, 1), (tag, 2)]), [""; 0]);
        assert_eq!(shown(&[(a, 1)], &[]), ["refs/heads/a ->1"]);
        assert_eq!(shown(&[(a, 2)], &[(a, 1)]), ["refs/heads/a 1->2"]);
        assert_eq!(shown(&[], &[(a, 1)]), ["refs/heads/a 1->"]);
        assert_eq!(shown(&[(ab, 1)], &[(a, 1)]), ["refs/heads/a 1->", "refs/heads/a/b ->1"]);
        assert_eq!(shown(&[(a, 1)], &[(ab, 1)]), ["refs/heads/a/b 1->", "refs/heads/a ->1"]);
        assert_eq!(shown(&[(kept, 1)], &[]), [""; 0], "ours stay here");
        assert_eq!(shown(&[], &[(kept, 1)]), [""; 0], "theirs stay there");
    }

    fn any_refs() -> impl Strategy<Value = BTreeMap<RefName, Oid>> {
        let name = "refs/(heads|tags|gitmesh)/[a-c](/[a-c])?".prop_filter_map("no ref name", |n| RefName::parse(&n));
        prop::collection::btree_map(name, (1u8..4).prop_map(oid), 0..8)
    }

    proptest! {
        #[test]
        fn applied_to_theirs_it_gives_ours(ours in any_refs(), theirs in any_refs()) {
            let ours = RefState { head: None, refs: ours };
            let mut result = theirs.clone();
            for update in plan(&ours, &theirs) {
                prop_assert!(!update.name.is_internal());
                prop_assert_ne!(&update.old, &update.new);
                let before = result.get(&update.name).cloned().unwrap_or_else(|| update.old.to_zero());
                prop_assert_eq!(before, update.old);
                if update.new.is_zero() {
                    result.remove(&update.name);
                } else {
                    result.insert(update.name, update.new);
                }
            }
            let public = |refs: &BTreeMap<RefName, Oid>, internal: bool| -> BTreeMap<RefName, Oid> {
                refs.iter().filter(|(n, _)| n.is_internal() == internal).map(|(n, o)| (n.clone(), o.clone())).collect()
            };
            prop_assert_eq!(public(&result, false), public(&ours.refs, false));
            prop_assert_eq!(public(&result, true), public(&theirs, true));
        }
    }
}

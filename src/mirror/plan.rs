//! Pure: what to push so that a replica's refs become ours, and what of it waits for a person.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::git::ref_state::RefState;
use crate::model::{Oid, RefName, RefUpdate};

/// Fewer deletions than this are everyday work, whatever their share.
const GUARD_LEAST: usize = 10;

/// How far a person has allowed a push to go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// What the machine may do by itself: nothing that the master never saw is overwritten, and no mass deletion.
    #[default]
    Usual,
    /// Also a mass deletion (`mirror push --force`).
    Force,
    /// Also over what the master never saw; the replica keeps it under `refs/gitmesh/lost/` first (`mirror repair`).
    Repair,
}

/// Why a change is not mirrored until a person says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// The replica's references have values that this node has never had: somebody wrote there, or a former master did.
    Diverged(Vec<(RefName, Oid)>),
    /// Of a server outside the mesh: these references are not as this node left them. Everything else has arrived.
    Foreign(Vec<(RefName, Option<Oid>)>),
    /// `deleted` of the `of` references here are gone from the upstream.
    Upstream { deleted: usize, of: usize },
    /// There is not one reference here, and the replica has `of`.
    Emptied { of: usize },
    /// `deleted` of the replica's `of` references are gone here.
    Deletes { deleted: usize, of: usize },
    /// `deleted` of a replica's `of` repositories are gone here, within an hour.
    Repositories { deleted: usize, of: usize },
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Diverged(refs) => {
                let shown: Vec<String> =
                    refs.iter().take(3).map(|(name, oid)| format!("{name} at {}", &oid.as_str()[..12])).collect();
                let more = refs.len().saturating_sub(shown.len());
                let more = if more == 0 { String::new() } else { format!(" and {more} more") };
                write!(f, "the replica has {}{more}, which this node has never had", shown.join(", "))
            }
            Self::Foreign(refs) => {
                let value = |oid: &Option<Oid>| match oid {
                    Some(oid) => format!("is at {}", &oid.as_str()[..12]),
                    None => "is gone".to_owned(),
                };
                let shown: Vec<String> =
                    refs.iter().take(3).map(|(name, oid)| format!("{name} {}", value(oid))).collect();
                let more = refs.len().saturating_sub(shown.len());
                let more = if more == 0 { String::new() } else { format!(" and {more} more") };
                write!(f, "there {}{more}, which is not this node's doing", shown.join(", "))
            }
            Self::Upstream { deleted, of } => {
                write!(f, "this would delete {deleted} of the {of} references here, which the upstream has no more")
            }
            Self::Emptied { of } => {
                write!(f, "there is no reference here any more, and the replica has {of}")
            }
            Self::Deletes { deleted, of } => {
                write!(f, "this would delete {deleted} of the replica's {of} references")
            }
            Self::Repositories { deleted, of } => {
                write!(f, "{deleted} of the replica's {of} repositories were deleted here within an hour")
            }
        }
    }
}

impl Obstacle {
    /// The same about a repository here that follows another server.
    pub(super) fn of_upstream(self) -> Self {
        match self {
            Self::Emptied { of } => Self::Upstream { deleted: of, of },
            Self::Deletes { deleted, of } => Self::Upstream { deleted, of },
            other => other,
        }
    }

    /// What a person can do about it.
    pub fn cure(&self) -> &'static str {
        match self {
            Self::Diverged(_) => {
                "'mirror repair' keeps that there under refs/gitmesh/lost/ and makes the replica equal"
            }
            Self::Foreign(_) => {
                "'mirror push NAME REPO --force' keeps that here under refs/gitmesh/lost/ and overwrites it"
            }
            Self::Upstream { .. } => {
                "if that is meant, 'mirror pull REPO --force' does it and keeps them under refs/gitmesh/lost/"
            }
            Self::Repositories { .. } => {
                "if that is meant, 'mirror repair PEER REPO' or 'mirror push PEER REPO --force' moves each to the trash there"
            }
            Self::Emptied { .. } | Self::Deletes { .. } => "if that is meant, 'mirror push PEER REPO --force' does it",
        }
    }
}

/// What turns a replica's references into ours.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Deletions come first.
    pub updates: Vec<RefUpdate>,
    /// References that the replica has, those that are never mirrored aside.
    theirs: usize,
}

/// `git push --mirror` in meaning: create, update, force, delete, for every ref but `refs/gitmesh/*`, which each node
/// keeps for itself. No updates: equal.
pub fn plan(ours: &RefState, theirs: &BTreeMap<RefName, Oid>) -> Plan {
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
    Plan { updates, theirs: theirs.keys().filter(|name| !name.is_internal()).count() }
}

impl Plan {
    /// For a replica that lacks these changes and nothing else; none of them is a deletion.
    pub fn of(changes: &[RefUpdate]) -> Self {
        Self { updates: changes.to_vec(), theirs: 0 }
    }

    /// The values that the replica would lose.
    pub fn replaced(&self) -> impl Iterator<Item = &Oid> {
        self.updates.iter().map(|u| &u.old).filter(|old| !old.is_zero())
    }

    /// What stands in the way under this order. `known` are those of [`Plan::replaced`] that this node has: a forced
    /// push here leaves the old commits in our object database, so what is unknown was never here. `share` is the
    /// percentage of a replica's references that may vanish at once.
    pub fn obstacle(&self, known: &BTreeSet<Oid>, share: u8, order: Order) -> Option<Obstacle> {
        let deleted = self.updates.iter().filter(|u| u.new.is_zero()).count();
        let guard = mass_deletion(deleted, self.theirs, self.updates.len(), share, order);
        // Before the divergence: with the repository here its objects are gone too, and that is the news.
        if matches!(guard, Some(Obstacle::Emptied { .. })) {
            return guard;
        }
        let foreign = |u: &&RefUpdate| !u.old.is_zero() && !known.contains(&u.old);
        let foreign: Vec<_> = self.updates.iter().filter(foreign).map(|u| (u.name.clone(), u.old.clone())).collect();
        if order < Order::Repair && !foreign.is_empty() {
            return Some(Obstacle::Diverged(foreign));
        }
        guard
    }

    /// What can be done in one transaction of git's, and whether something is left for a second one: a name is not
    /// deleted and made a directory (or the other way round) at once, so such deletions go alone before the rest.
    pub fn step(self) -> (Vec<RefUpdate>, bool) {
        let (deleted, set): (Vec<_>, Vec<_>) = self.updates.into_iter().partition(|u| u.new.is_zero());
        let made: BTreeSet<&str> = set.iter().filter(|u| u.old.is_zero()).map(|u| u.name.as_str()).collect();
        let gone: BTreeSet<&str> = deleted.iter().map(|u| u.name.as_str()).collect();
        let below = |name: &str, names: &BTreeSet<&str>| parents(name).any(|parent| names.contains(parent));
        // Parents of what is made that are deleted, and what is deleted below a name that is made.
        let in_the_way: BTreeSet<&str> =
            made.iter().flat_map(|name| parents(name)).filter(|p| gone.contains(p)).collect();
        let collides = |u: &RefUpdate| in_the_way.contains(u.name.as_str()) || below(u.name.as_str(), &made);
        let first: Vec<RefUpdate> = deleted.iter().filter(|u| collides(u)).cloned().collect();
        if first.is_empty() {
            return (deleted.into_iter().chain(set).collect(), false);
        }
        (first, true)
    }
}

/// What of `changes` to a copy with `of` references waits for a person because `deleted` of them are deletions; `share`
/// is the percentage that may vanish at once.
pub(super) fn mass_deletion(deleted: usize, of: usize, changes: usize, share: u8, order: Order) -> Option<Obstacle> {
    let guarded = order < Order::Force && share < 100;
    if guarded && deleted > 0 && deleted == of && deleted == changes {
        return Some(Obstacle::Emptied { of });
    }
    let too_many = guarded && deleted >= GUARD_LEAST && deleted * 100 > of * usize::from(share);
    too_many.then_some(Obstacle::Deletes { deleted, of })
}

/// `refs/heads/a/b`: `refs/heads/a`, `refs/heads`, `refs`.
fn parents(name: &str) -> impl Iterator<Item = &str> {
    name.rmatch_indices('/').map(|(at, _)| &name[..at])
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

    fn state(refs: BTreeMap<RefName, Oid>) -> RefState {
        RefState { refs, ..RefState::default() }
    }

    fn lines(updates: Vec<RefUpdate>) -> Vec<String> {
        let short = |oid: &Oid| oid.as_str().trim_start_matches('0').to_owned();
        updates.into_iter().map(|u| format!("{} {}->{}", u.name, short(&u.old), short(&u.new))).collect()
    }

    fn shown(ours: &[(&str, u8)], theirs: &[(&str, u8)]) -> Vec<String> {
        lines(plan(&state(refs(ours)), &refs(theirs)).updates)
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

    #[test]
    fn a_name_that_becomes_a_directory_takes_two_steps() {
        let (a, ab, other) = ("refs/heads/a", "refs/heads/a/b", "refs/heads/other");
        let step = |ours: &[(&str, u8)], theirs: &[(&str, u8)]| {
            let (updates, more) = plan(&state(refs(ours)), &refs(theirs)).step();
            (lines(updates), more)
        };
        let lone = |line: &str| (vec![line.to_owned()], true);
        assert_eq!(step(&[(ab, 1), (other, 2)], &[(a, 1)]), lone("refs/heads/a 1->"));
        assert_eq!(step(&[(a, 1), (other, 2)], &[(ab, 1)]), lone("refs/heads/a/b 1->"));
        let all = ["refs/heads/a 1->", "refs/heads/other ->2"].map(str::to_owned).to_vec();
        assert_eq!(step(&[(other, 2)], &[(a, 1)]), (all, false));
        assert!(!step(&[(a, 1), ("refs/heads/ab", 1)], &[("refs/heads/a-b", 1), ("refs/heads/abc/d", 2)]).1);
    }

    /// The guard's verdict, in one word, on a replica with `there` references of which we have `here` and know `known`.
    fn verdict(here: usize, there: usize, share: u8, order: Order) -> &'static str {
        let many = |n: usize| (0..n).map(|i| (RefName::parse(&format!("refs/heads/b{i}")).unwrap(), oid(1))).collect();
        let plan = plan(&state(many(here)), &many(there));
        match plan.obstacle(&[oid(1)].into(), share, order) {
            None => "goes",
            Some(Obstacle::Diverged(_)) => "diverged",
            Some(Obstacle::Emptied { .. }) => "emptied",
            Some(_) => "deletes",
        }
    }

    #[test]
    fn a_mass_deletion_waits_for_a_person() {
        let usual = |here, there| verdict(here, there, 50, Order::Usual);
        assert_eq!((usual(1, 9), usual(1, 10)), ("goes", "goes"), "fewer than ten deletions");
        assert_eq!((usual(1, 11), usual(10, 20), usual(9, 20)), ("deletes", "goes", "deletes"));
        assert_eq!((usual(0, 1), usual(0, 500), usual(0, 0)), ("emptied", "emptied", "goes"));
        assert_eq!((usual(100, 1), usual(200, 300)), ("goes", "goes"));
        for order in [Order::Force, Order::Repair] {
            assert_eq!((verdict(1, 500, 50, order), verdict(0, 500, 50, order)), ("goes", "goes"));
        }
        assert_eq!((verdict(0, 500, 100, Order::Usual), verdict(499, 500, 0, Order::Usual)), ("goes", "goes"));
        assert_eq!(verdict(490, 500, 0, Order::Usual), "deletes");
    }

    #[test]
    fn what_was_never_here_is_not_overwritten() {
        let known: BTreeSet<Oid> = [oid(1), oid(2)].into();
        let verdict = |ours: &[(&str, u8)], theirs: &[(&str, u8)], order| {
            plan(&state(refs(ours)), &refs(theirs)).obstacle(&known, 50, order)
        };
        let (a, b, kept) = ("refs/heads/a", "refs/heads/b", "refs/gitmesh/lost/x");
        assert_eq!(verdict(&[(a, 2)], &[(a, 1)], Order::Usual), None, "a forced push here");
        let foreign = |name| Some(Obstacle::Diverged(refs(&[(name, 9)]).into_iter().collect()));
        assert_eq!(verdict(&[(a, 2)], &[(a, 9)], Order::Usual), foreign(a));
        assert_eq!(verdict(&[(a, 2)], &[(a, 9)], Order::Force), foreign(a));
        assert_eq!(verdict(&[(a, 2)], &[(a, 2), (b, 9)], Order::Usual), foreign(b), "made there");
        assert_eq!(verdict(&[(a, 2)], &[(a, 9)], Order::Repair), None);
        assert_eq!(verdict(&[(a, 2)], &[(a, 2), (kept, 9)], Order::Usual), None);
    }

    fn any_refs() -> impl Strategy<Value = BTreeMap<RefName, Oid>> {
        let name = "refs/(heads|tags|gitmesh)/[a-c](/[a-c])?".prop_filter_map("no ref name", |n| RefName::parse(&n));
        prop::collection::btree_map(name, (1u8..4).prop_map(oid), 0..8)
    }

    fn apply(updates: Vec<RefUpdate>, to: &mut BTreeMap<RefName, Oid>) {
        for RefUpdate { name, old, new } in updates {
            assert!(!name.is_internal() && old != new);
            assert_eq!(to.get(&name).cloned().unwrap_or_else(|| old.to_zero()), old);
            if new.is_zero() {
                to.remove(&name);
            } else {
                to.insert(name, new);
            }
        }
    }

    fn public(refs: &BTreeMap<RefName, Oid>, internal: bool) -> BTreeMap<RefName, Oid> {
        refs.iter().filter(|(n, _)| n.is_internal() == internal).map(|(n, o)| (n.clone(), o.clone())).collect()
    }

    proptest! {
        #[test]
        fn applied_to_theirs_it_gives_ours(ours in any_refs(), theirs in any_refs()) {
            let ours = state(ours);
            let mut result = theirs.clone();
            let mut steps = 0;
            loop {
                let (updates, more) = plan(&ours, &result).step();
                apply(updates, &mut result);
                steps += 1;
                if !more { break; }
            }
            prop_assert!(steps <= 2);
            prop_assert_eq!(public(&result, false), public(&ours.refs, false));
            prop_assert_eq!(public(&result, true), public(&theirs, true));
        }

        /// Of whatever the master never had, nothing goes away under any order but a repair.
        #[test]
        fn nothing_unknown_is_lost_silently(
            ours in any_refs(), theirs in any_refs(), known in prop::collection::btree_set((1u8..4).prop_map(oid), 0..4),
        ) {
            let plan = plan(&state(ours), &theirs);
            for order in [Order::Usual, Order::Force] {
                let loses = plan.replaced().any(|old| !known.contains(old));
                let obstacle = plan.obstacle(&known, 50, order);
                let held = matches!(obstacle, Some(Obstacle::Diverged(_)));
                let emptied = matches!(obstacle, Some(Obstacle::Emptied { .. }));
                prop_assert!(held == loses || emptied && order == Order::Usual);
            }
            prop_assert_eq!(plan.obstacle(&known, 50, Order::Repair), None);
        }
    }
}

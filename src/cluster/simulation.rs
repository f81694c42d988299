//! Promotions over many seeds: partitions, double promotions, returning masters, restored disks. Virtual time is the count
//! of steps; files are the real ones, since a restored disk is one of its faults.
//!
//! After each step: nobody accepts a lower epoch, or another master under an epoch that does not win; every acknowledged
//! commit that some disk still holds is reachable, by the branch or by a name under `lost`. After all faults are over and
//! everybody has talked: one master, and all copies equal.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::identity::Verdict;
use super::{Files, Masters, Promotion, in_force};
use crate::model::time::Stamp;
use crate::model::{Epoch, HostName, RepoName};
use crate::policy::{How, Mirror, Mode};

const NODES: usize = 3;
const STEPS: usize = 60;
const SEEDS: u64 = 150;

fn write(dir: &Path, name: &str, text: &str) -> std::io::Result<()> {
    std::fs::write(dir.join(name), text)
}

/// What a node may do wrong, to see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It takes pushes of masters that it knows to be past.
    TakesThePast,
    /// A promotion does not raise the epoch.
    PromotesAtTheSameEpoch,
    /// What a new master overwrites gets no name.
    KeepsNothing,
}

/// What a node's disk holds of the one repository.
#[derive(Clone, Default)]
struct Branch {
    /// The commits of the branch, oldest first.
    commits: Vec<u32>,
    /// Branches that were overwritten, each as it was.
    lost: BTreeSet<Vec<u32>>,
    promised: Option<(Epoch, usize)>,
}

impl Branch {
    fn holds(&self, commit: u32) -> bool {
        self.commits.contains(&commit) || self.lost.iter().any(|kept| kept.contains(&commit))
    }
}

struct World {
    dir: tempfile::TempDir,
    dice: StdRng,
    up: [Option<Masters>; NODES],
    branches: [Branch; NODES],
    backups: BTreeMap<usize, Branch>,
    cut: BTreeSet<(usize, usize)>,
    acknowledged: BTreeSet<u32>,
    next: u32,
    fault: Option<Fault>,
}

fn name(node: usize) -> HostName {
    HostName::new(&format!("s{}", node + 1)).expect("a name")
}

fn repo() -> RepoName {
    RepoName::new("r").expect("a name")
}

fn number(host: &HostName) -> usize {
    (0..NODES).find(|node| name(*node) == *host).expect("one of ours")
}

impl World {
    fn new(seed: u64, fault: Option<Fault>) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut world = Self {
            dir,
            dice: StdRng::seed_from_u64(seed),
            up: [const { None }; NODES],
            branches: std::array::from_fn(|_| Branch::default()),
            backups: BTreeMap::new(),
            cut: BTreeSet::new(),
            acknowledged: BTreeSet::new(),
            next: 0,
            fault,
        };
        for node in 0..NODES {
            std::fs::create_dir(world.disk(node)).expect("writable");
            world.start(node);
        }
        world.talk_all();
        world
    }

    fn disk(&self, node: usize) -> std::path::PathBuf {
        self.dir.path().join(format!("disk{node}"))
    }

    fn start(&mut self, node: usize) {
        self.up[node] =
            Some(Masters::open(&name(node), Files::all_in(&self.disk(node)), write).expect("its files are whole"));
        // It asks whom it can reach before it takes pushes.
        for peer in (0..NODES).filter(|peer| *peer != node) {
            self.talk(node, peer);
        }
    }

    fn mode(&self, node: usize) -> Option<Mode> {
        let masters = self.up[node].as_ref()?;
        let copies = (1..NODES).map(|copy| (name(copy).to_string(), How::Async)).collect();
        let mode = if node == 0 { Mode::Master } else { Mode::Copy { master: name(0) } };
        let named = Mirror { mode, master: Some(name(0).to_string()), copies, redirectors: Vec::new() };
        Some(in_force(masters, named, &repo(), &name(node)).mode)
    }

    fn epoch(&self, node: usize) -> Epoch {
        let promised = self.branches[node].promised.map_or(Epoch::FIRST, |(epoch, _)| epoch);
        let ordered = self.up[node].as_ref().and_then(|masters| masters.of(&repo())).map(|order| order.epoch);
        ordered.map_or(promised, |epoch| epoch.max(promised))
    }

    fn linked(&self, a: usize, b: usize) -> bool {
        a != b && self.up[a].is_some() && self.up[b].is_some() && !self.cut.contains(&(a.min(b), a.max(b)))
    }

    /// The exchange of two nodes, as `mirror` carries it; again where one took a new id.
    fn talk(&mut self, a: usize, b: usize) -> bool {
        if !self.linked(a, b) {
            return false;
        }
        for _ in 0..2 {
            for (from, to) in [(a, b), (b, a)] {
                let [Some(said), Some(heard)] = [&self.up[from], &self.up[to]] else { unreachable!("both are up") };
                let known = said.remembered(&name(to));
                heard.meet(&name(from), &said.disk()).expect("io");
                if let Some(known) = known {
                    heard.confront(&name(from), &known).expect("io");
                }
                let table = said.table();
                heard.adopt(table.iter().map(|(repo, order)| (repo.clone(), order.clone()))).expect("io");
            }
        }
        // Two of one epoch can be made on two sides of a cut network, and are told apart by the master's name; whoever
        // has heard of the other knows which of them it is.
        let both = [a, b].iter().all(|node| self.mode(*node) == Some(Mode::Master));
        assert!(!both, "s{} and s{} have heard of each other and are both masters", a + 1, b + 1);
        true
    }

    fn talk_all(&mut self) {
        for _ in 0..NODES {
            for (a, b) in [(0, 1), (1, 2), (0, 2)] {
                self.talk(a, b);
            }
        }
    }

    fn push(&mut self, node: usize) {
        if self.mode(node) == Some(Mode::Master) {
            self.next += 1;
            self.branches[node].commits.push(self.next);
            self.acknowledged.insert(self.next);
        }
    }

    fn mirror(&mut self, from: usize, to: usize) {
        if !self.linked(from, to) || self.mode(from) != Some(Mode::Master) {
            return;
        }
        let epoch = self.epoch(from);
        let expected = self.mode(to) == Some(Mode::Copy { master: name(from) });
        let suspect = self.up[to].as_ref().and_then(|masters| masters.suspects(&name(from)));
        let past = !expected || epoch < self.epoch(to);
        let refused = past || suspect.is_some_and(|verdict| verdict != Verdict::Same);
        if refused && self.fault != Some(Fault::TakesThePast) {
            self.talk(from, to);
            return;
        }
        let ours = self.branches[from].commits.clone();
        let theirs = &mut self.branches[to];
        if !ours.starts_with(&theirs.commits) {
            if epoch == Epoch::FIRST {
                return; // held until a person looks
            }
            let kept = theirs.commits.clone();
            theirs.commits.clone_from(&ours);
            if self.fault != Some(Fault::KeepsNothing) {
                theirs.lost.insert(kept.clone());
                self.branches[from].lost.insert(kept);
            }
        }
        let theirs = &mut self.branches[to];
        theirs.commits = ours;
        if let Some((before, master)) = theirs.promised {
            assert!(before <= epoch, "s{} accepted epoch {epoch} after {before}", to + 1);
            assert!(before < epoch || from <= master, "s{} took s{} for s{}", to + 1, from + 1, master + 1);
        }
        theirs.promised = Some((epoch, from));
    }

    fn promote(&mut self, node: usize) {
        if !matches!(self.mode(node), Some(Mode::Copy { .. } | Mode::Doubted(_))) {
            return;
        }
        let masters = self.up[node].clone().expect("it is up");
        let at = Stamp::new(std::time::UNIX_EPOCH);
        let order = Promotion {
            epoch: if self.fault == Some(Fault::PromotesAtTheSameEpoch) {
                self.epoch(node)
            } else {
                self.epoch(node).next()
            },
            master: name(node),
            instead_of: name(0),
            disk: masters.disk().id,
            by: "a person".to_owned(),
            at,
        };
        masters.adopt([(repo(), order)]).expect("io");
        assert_eq!(self.mode(node), Some(Mode::Master), "whoever was promoted takes pushes");
    }

    /// The whole of a disk is put back to how it was; what was on no other disk is gone with it.
    fn restore(&mut self, node: usize) {
        let backup = self.dir.path().join(format!("backup{node}"));
        let Some(branch) = self.backups.get(&node).cloned() else { return };
        self.up[node] = None;
        std::fs::remove_dir_all(self.disk(node)).expect("it is there");
        copy(&backup, &self.disk(node));
        self.branches[node] = branch;
        let branches = &self.branches;
        self.acknowledged.retain(|commit| branches.iter().any(|branch| branch.holds(*commit)));
        self.start(node);
    }

    fn step(&mut self) {
        let (node, other) = (self.dice.random_range(0..NODES), self.dice.random_range(0..NODES));
        match self.dice.random_range(0..100) {
            0..30 => self.push(node),
            30..60 => self.mirror(node, other),
            60..70 => {
                self.talk(node, other);
            }
            70..76 => {
                self.cut.insert((node.min(other), node.max(other)));
            }
            76..82 => {
                self.cut.remove(&(node.min(other), node.max(other)));
            }
            82..86 => self.up[node] = None,
            86..91 if self.up[node].is_none() => self.start(node),
            91..96 => self.promote(node),
            96..98 => {
                let backup = self.dir.path().join(format!("backup{node}"));
                if backup.exists() {
                    std::fs::remove_dir_all(&backup).expect("it is there");
                }
                copy(&self.disk(node), &backup);
                self.backups.insert(node, self.branches[node].clone());
            }
            98..100 => self.restore(node),
            _ => {}
        }
        self.one_master_an_order();
        for commit in &self.acknowledged {
            assert!(self.branches.iter().any(|branch| branch.holds(*commit)), "commit {commit} is gone");
        }
    }

    /// At most one master per epoch, where an epoch is a number and the name of whom the order makes the master: two nodes
    /// that go by one order, or by the configuration alone, are never both masters.
    fn one_master_an_order(&self) {
        let order = |node: usize| self.up[node].as_ref().and_then(|masters| masters.of(&repo()));
        let masters = (0..NODES).filter(|node| self.mode(*node) == Some(Mode::Master));
        let mut known: BTreeMap<Option<(Epoch, HostName)>, usize> = BTreeMap::new();
        for node in masters {
            let by = order(node).map(|order| (order.epoch, order.master));
            if let Some(other) = known.insert(by.clone(), node) {
                panic!("s{} and s{} are masters by {by:?}", other + 1, node + 1);
            }
        }
    }

    /// All faults are over; a person decides where nobody else does.
    fn heal(&mut self) {
        self.cut.clear();
        for node in 0..NODES {
            if self.up[node].is_none() {
                self.start(node);
            }
        }
        self.talk_all();
        let masters = |world: &Self| -> Vec<usize> {
            (0..NODES).filter(|node| world.mode(*node) == Some(Mode::Master)).collect()
        };
        assert!(masters(self).len() <= 1, "two masters that have heard of each other");
        // As what a person would choose: a held copy, or a disk that is doubted, is decided by a promotion.
        let held = (0..NODES).any(|node| !self.branches[node].commits.is_empty()) && self.epoch(0) == Epoch::FIRST;
        if masters(self).is_empty() || held {
            let node = (1..NODES).find(|node| matches!(self.mode(*node), Some(Mode::Copy { .. }))).expect("a copy");
            self.promote(node);
            self.talk_all();
        }
        let [master] = masters(self)[..] else { panic!("{:?} are masters", masters(self)) };
        (0..NODES).for_each(|node| assert_eq!(self.believes(node), master, "of s{}", node + 1));
        for _ in 0..2 {
            (0..NODES).filter(|node| *node != master).for_each(|node| self.mirror(master, node));
        }
        for node in 0..NODES {
            assert_eq!(self.branches[node].commits, self.branches[master].commits, "s{} is not equal", node + 1);
        }
        for commit in &self.acknowledged {
            assert!(self.branches[master].holds(*commit) || self.branches.iter().any(|b| b.holds(*commit)), "{commit}");
        }
    }

    fn believes(&self, node: usize) -> usize {
        match self.mode(node) {
            Some(Mode::Master) => node,
            Some(Mode::Copy { master }) => number(&master),
            other => panic!("s{} is {other:?}", node + 1),
        }
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("new");
    for entry in std::fs::read_dir(from).expect("it is there") {
        let entry = entry.expect("readable");
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("writable");
    }
}

fn play(seed: u64, fault: Option<Fault>) -> Result<(), Box<dyn std::any::Any + Send>> {
    std::panic::catch_unwind(|| {
        let mut world = World::new(seed, fault);
        (0..STEPS).for_each(|_| world.step());
        world.heal();
    })
}

#[test]
fn nothing_acknowledged_is_lost_without_a_name() {
    for seed in 0..SEEDS {
        if let Err(panic) = play(seed, None) {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// The invariants can fail: each fault breaks one of them, under some seed.
#[test]
fn a_node_that_breaks_a_rule_is_found() {
    for (fault, found) in [
        (Fault::TakesThePast, "accepted epoch"),
        (Fault::PromotesAtTheSameEpoch, "took s"),
        (Fault::KeepsNothing, "is gone"),
    ] {
        let said = |panic: Box<dyn std::any::Any + Send>| {
            panic.downcast::<String>().map_or_else(|_| String::new(), |text| *text)
        };
        let broken: Vec<String> = (0..SEEDS).filter_map(|seed| play(seed, Some(fault)).err()).map(said).collect();
        assert!(broken.iter().any(|what| what.contains(found)), "{fault:?} broke {broken:?}");
    }
}

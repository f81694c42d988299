//! Three nodes, twenty repositories, git clients that push at random through any node, and faults at random; then
//! everything heals, and every promise is looked after. `make soak SECONDS=3600 SEED=7` goes on for as long as one wants.
//!
//! Repositories change hands meanwhile, from masters that are dead and from masters that are cut off and go on. The
//! promises: each acknowledged update is in the history, or was lost by the promotion of a replica and is named among what
//! was; all copies are equal, with HEAD and what else travels;
//! git finds every repository sound; nothing is left locked or half received. The seed decides what is tried, not how
//! the machine schedules it, so a seed that has found something finds it again often, not always.

mod client;
mod faults;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::world::{Link, Node, World, within};
use client::{Client, Ledger};
use faults::Faults;

const REPOS: usize = 20;
const CLIENTS: u64 = 3;
/// In the suite that everybody runs.
const SECONDS: u64 = 60;
/// A run of this many seconds in which no repository changed hands has tried nothing of that.
const CHANGES_HANDS_WITHIN: u64 = 60;
/// After the last fault everything must be equal by then.
const HEALED_WITHIN: Duration = Duration::from_secs(120);

/// splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
pub struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.next() % (to - from))
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

pub fn repo(n: usize) -> String {
    format!("r{n:02}")
}

fn configuration() -> String {
    let repos = |first: usize| (first..REPOS).step_by(3).map(repo).collect::<Vec<_>>().join(" ");
    let part = |n: usize| {
        format!(
            "repo {}\n    RW+ = @all\n    option mirror.master = server{}\n    \
             option mirror.copies = server1 server2 server3\n    option mirror.redirectOK = all\n    option writer-is-owner = 1\n",
            repos(n),
            n + 1
        )
    };
    (0..3).map(part).collect()
}

fn mesh(world: &World) -> ([Node; 3], Vec<Link>) {
    let nodes = ["server1", "server2", "server3"].map(|name| world.prepare(name));
    let mut links = Vec::new();
    for to in &nodes {
        links.extend(nodes.iter().filter(|peer| peer.name() != to.name()).map(|peer| world.introduce(peer, to)));
        for (key, value) in [("retry_max", "\"1s\""), ("timeout", "\"20s\""), ("guard_refs", "\"100%\"")] {
            to.set(key, value);
        }
    }
    for node in &nodes {
        node.start();
        world.alice().configure(node, |c| c.conf(&configuration())).succeeds();
    }
    (nodes, links)
}

#[test]
fn promises_hold_under_fire() {
    let seconds = number("SOAK_SECONDS").unwrap_or(SECONDS);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = number("SOAK_SEED").unwrap_or(now.as_millis() as u64 % 1_000_000);
    eprintln!("soak: seed {seed}, {seconds} s");
    let world = World::new();
    let (nodes, links) = mesh(&world);
    let over = AtomicBool::new(false);
    let (ledgers, faults, promoted, changed_hands) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|n| {
                let mut client = Client::new(world.alice(), &nodes, n, Dice(seed ^ (n + 1) << 32));
                let over = &over;
                scope.spawn(move || client.run(over))
            })
            .collect();
        let mut faults = Faults::new(world.alice(), &nodes, &links, Dice(seed));
        faults.run(Instant::now() + Duration::from_secs(seconds));
        over.store(true, Ordering::SeqCst);
        faults.heal();
        let ledgers: Vec<_> = clients.into_iter().map(|client| client.join().expect("a client")).collect();
        let promoted = faults.promoted().clone();
        (ledgers, faults.count(), promoted, faults.changed_hands())
    });
    let healing = Instant::now();
    let mut broken = Vec::new();
    let equal = within(HEALED_WITHIN, || unequal(&nodes).is_empty());
    let healed = healing.elapsed();
    if !equal {
        broken.extend(unequal(&nodes));
    }
    for node in &nodes {
        let verified = within(HEALED_WITHIN, || {
            let answer = node.gitmesh(&["mirror", "verify"]);
            // It may be the master of nothing now.
            answer.code == Some(0) || answer.has("no copy of what is mastered here")
        });
        if !verified {
            broken.push(format!("{}: {}", node.name(), node.gitmesh(&["mirror", "verify"]).stdout));
        }
    }
    for ledger in &ledgers {
        broken.extend(ledger.broken(&nodes, &promoted));
    }
    for (node, repo) in nodes.iter().flat_map(|node| (0..REPOS).map(move |n| (node, repo(n)))) {
        let fsck = node.git(&repo, &["fsck", "--full", "--strict", "--no-dangling"]);
        if fsck.code != Some(0) {
            broken.push(format!("{repo} on {}: {}", node.name(), fsck.stderr));
        }
        // What a killed git has left is removed some seconds after the start, lest it be another's.
        let left = || left_over(&node.repo_dir(&repo));
        if !within(Duration::from_secs(30), || left().is_empty()) {
            broken.push(format!("{repo} on {}: left over: {:?}", node.name(), left()));
        }
    }
    let mut reasons = BTreeMap::new();
    for (why, count) in ledgers.iter().flat_map(|ledger| &ledger.reasons) {
        *reasons.entry(why).or_insert(0) += count;
    }
    eprintln!("not acknowledged: {reasons:#?}");
    let sum = |of: fn(&Ledger) -> usize| ledgers.iter().map(of).sum::<usize>();
    eprintln!(
        "soak: seed {seed}, {seconds} s, {} pushes ({} acknowledged, {} refused or lost), {faults}; equal after {:.1} s; {} promises broken",
        sum(|l| l.pushes),
        sum(|l| l.acknowledged),
        sum(|l| l.pushes - l.acknowledged),
        healed.as_secs_f64(),
        broken.len()
    );
    assert!(broken.is_empty(), "seed {seed}: {broken:#?}");
    assert!(sum(|l| l.acknowledged) > 0, "nothing was tried");
    assert!(seconds < CHANGES_HANDS_WITHIN || changed_hands > 0, "seed {seed}: no repository changed hands");
}

/// The repositories that differ between the nodes, and in what.
fn unequal(nodes: &[Node; 3]) -> Vec<String> {
    let state = |node: &Node, repo: &str| {
        let mut refs = node.refs(repo);
        refs.retain(|name, _| !name.starts_with("refs/gitmesh/"));
        let beside = ["description", "README.html", "gl-perms"].map(|file| {
            let text = fs::read_to_string(node.repo_dir(repo).join(file)).unwrap_or_default();
            // What git writes into a new repository is no description, as no file is none.
            if text.starts_with("Unnamed repository") { String::new() } else { text }
        });
        (refs, node.head(repo), beside)
    };
    let differs = |repo: String| {
        let [one, two, three] = nodes.each_ref().map(|node| state(node, &repo));
        (one != two || one != three).then(|| format!("{repo} is not equal on all nodes: {one:?}, {two:?}, {three:?}"))
    };
    (0..REPOS).map(repo).filter_map(differs).collect()
}

/// Locks, and objects that were being received.
fn left_over(dir: &Path) -> BTreeSet<String> {
    let (mut found, mut todo) = (BTreeSet::new(), vec![dir.to_owned()]);
    while let Some(at) = todo.pop() {
        // What goes while we look is no rest.
        for entry in fs::read_dir(&at).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if name.ends_with(".lock") || name.starts_with("tmp_") {
                found.insert(path.display().to_string());
            } else if path.is_dir() {
                todo.push(path);
            }
        }
    }
    found
}

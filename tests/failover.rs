//! Fail-over: a person makes a replica the master, and nothing that was acknowledged is lost without a name.

use std::collections::BTreeMap;

use crate::world::{Actor, Link, Node, World, eventually};

const MIRRORED: &str = "option mirror.master = server1\n    option mirror.copies = server2 server3\n";

/// Three nodes that know each other; `links[a][b]` is the way from the one to the other.
struct Trio {
    nodes: Vec<Node>,
    links: BTreeMap<(usize, usize), Link>,
}

impl Trio {
    /// With `testing` and whatever `more` says on all of them, each with its own configuration.
    fn new(world: &World, more: &str) -> Self {
        let trio = Self::prepared(world);
        let conf = format!("repo testing\n    RW+ = @all\n    {MIRRORED}{more}");
        for node in trio.nodes.iter().rev() {
            world.alice().configure(node, |c| c.conf(&conf)).succeeds();
        }
        trio
    }

    fn prepared(world: &World) -> Self {
        let nodes: Vec<Node> = ["server1", "server2", "server3"].map(|name| world.prepare(name)).into();
        let mut links = BTreeMap::new();
        for (from, to) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
            links.insert((from, to), world.introduce(&nodes[to], &nodes[from]));
        }
        nodes.iter().for_each(Node::start);
        Self { nodes, links }
    }

    fn one(&self) -> &Node {
        &self.nodes[0]
    }

    fn two(&self) -> &Node {
        &self.nodes[1]
    }

    fn three(&self) -> &Node {
        &self.nodes[2]
    }

    /// Ends every connection of a node with the others.
    fn cut_off(&self, node: usize) {
        self.links.iter().filter(|((a, b), _)| *a == node || *b == node).for_each(|(_, link)| link.cut());
    }

    fn join_again(&self) {
        self.links.values().for_each(Link::restore);
    }

    fn has(&self, node: &Node, repo: &str, oid: &str) -> bool {
        node.oid(repo, "refs/heads/main").as_deref() == Some(oid)
    }

    fn all_have(&self, repo: &str, oid: &str) {
        for node in &self.nodes {
            eventually(&format!("{repo} on {} at {oid}", node.name()), || self.has(node, repo, oid));
        }
    }
}

/// What is kept below `refs/gitmesh/lost/NODE/`, by the rest of the name after the time.
fn lost(node: &Node, repo: &str, of: &str) -> BTreeMap<String, String> {
    let below = format!("refs/gitmesh/lost/{of}/");
    let kept = node.refs(repo).into_iter().filter_map(|(name, oid)| {
        let (_time, name) = name.strip_prefix(&below)?.split_once('/')?;
        Some((name.to_owned(), oid))
    });
    kept.collect()
}

/// A commit on the checkout's branch, pushed to a node.
fn push(actor: &Actor, node: &Node, work: &crate::world::Checkout, name: &str) -> String {
    let oid = work.commit(name, name);
    work.git(&["push", "-q", &actor.url(node, "testing"), "HEAD:main"]).succeeds();
    oid
}

#[test]
fn a_replica_of_a_dead_master_is_promoted_and_what_the_dead_had_is_kept() {
    let world = World::new();
    let trio = Trio::new(&world, "");
    let alice = world.alice();
    let work = alice.clone_of(trio.one(), "testing");
    let base = push(alice, trio.one(), &work, "base");
    trio.all_have("testing", &base);
    // The last push reaches no replica, and then the machine is gone.
    trio.cut_off(0);
    let alone = push(alice, trio.one(), &work, "alone");
    trio.one().kill9();

    let asked = alice.ssh(trio.two(), "mirror promote testing").fails();
    assert_eq!(asked.code, Some(3), "{asked:#?}");
    asked.says("server1 does not answer").says("testing\tmastered by server1").says("the same with --yes");
    alice.ssh(trio.two(), "mirror promote nowhere --yes").refused_by("'nowhere'");
    let bob = world.actor("bob");
    alice.configure(trio.two(), |c| c.key(&bob)).succeeds();
    bob.ssh(trio.two(), "mirror promote testing --yes").refused_by("for administrators");
    let done = alice.ssh(trio.two(), "mirror promote --all-from server1 --yes").succeeds();
    done.says("server2 is the master of 'testing' since now, epoch 2").says("server3 knows, and follows");
    work.git(&["reset", "-q", "--hard", &base]).succeeds();
    let next = push(alice, trio.two(), &work, "next");
    eventually("server3 to follow", || trio.has(trio.three(), "testing", &next));
    let url = |node: &Node| alice.url(node, "testing");
    work.commit("not there", "x");
    work.git(&["push", &url(trio.three()), "HEAD:main"]).refused_by("push to server2").says("E0205");

    // It comes back, and is told before it takes a push.
    trio.join_again();
    trio.one().start();
    work.git(&["push", &url(trio.one()), "HEAD:main"]).refused_by("push to server2").says("E0205");
    trio.all_have("testing", &next);
    for node in [trio.one(), trio.two()] {
        let what = format!("what only server1 had on {}", node.name());
        eventually(&what, || lost(node, "testing", "server1") == [("heads/main".to_owned(), alone.clone())].into());
        node.is_sound("testing");
        eventually("the report", || alice.ssh(node, "mirror log testing").has("refs/gitmesh/lost/server1/"));
        eventually("the event", || node.log().contains("\"event\":\"lost\""));
    }
    alice.ssh(trio.two(), "mirror status testing").succeeds().says("in step");
    // A promotion stays, also when all have been started anew.
    for node in &trio.nodes {
        node.stop();
    }
    trio.nodes.iter().for_each(Node::start);
    work.git(&["reset", "-q", "--hard", &next]).succeeds();
    let last = push(alice, trio.two(), &work, "last");
    trio.all_have("testing", &last);
    assert_eq!(lost(trio.two(), "testing", "server1").len(), 1);
}

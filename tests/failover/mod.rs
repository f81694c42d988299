//! Fail-over: a person makes a replica the master, and nothing that was acknowledged is lost without a name.

mod guards;
mod living;
mod unwritten;

use std::collections::BTreeMap;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

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
    let trio = Trio::new(&world, "    option writer-is-owner = 1\n");
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

    // It comes back, and is told before it takes an order or a push.
    trio.join_again();
    trio.one().start();
    for order in ["desc testing Mine", "symbolic-ref testing HEAD refs/heads/other", "writable testing off x"] {
        alice.ssh(trio.one(), order).refused_by("server2").says("E0205");
    }
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

#[test]
fn a_dead_master_of_the_configuration_is_replaced_too() {
    let world = World::new();
    let trio = Trio::prepared(&world);
    let alice = world.alice();
    let admin = format!("repo gitmesh-admin\n    RW+ = alice\n    {MIRRORED}");
    let conf = format!("{admin}repo testing\n    RW+ = @all\n    {MIRRORED}");
    for node in trio.nodes.iter().rev() {
        alice.configure(node, |c| c.whole_conf(&conf)).succeeds();
    }
    for replica in ["server2", "server3"] {
        trio.one().gitmesh(&["mirror", "repair", replica, "gitmesh-admin"]).succeeds();
    }
    let work = alice.clone_of(trio.one(), "testing");
    let base = push(alice, trio.one(), &work, "base");
    trio.all_have("testing", &base);
    trio.one().kill9();

    trio.two().gitmesh(&["mirror", "promote", "--all-from", "server1"]).fails().says("gitmesh-admin");
    let done = trio.two().gitmesh(&["mirror", "promote", "--all-from", "server1", "--yes"]).succeeds();
    done.says("server2 is the master of 2 repositories")
        .says("server3 knows, and follows")
        .says("server1 does not know yet");
    let next = push(alice, trio.two(), &work, "next");
    alice.configure(trio.two(), |c| c.whole_conf(&format!("{conf}repo new\n    RW+ = alice\n"))).succeeds();
    eventually("server3 to have the new configuration", || trio.three().has_repo("new"));
    alice.configure(trio.three(), |c| c.whole_conf(&conf)).refused_by("push to server2");

    trio.one().start();
    alice.configure(trio.one(), |c| c.whole_conf(&conf)).refused_by("push to server2");
    trio.all_have("testing", &next);
    eventually("server1 to have the new configuration", || trio.one().has_repo("new"));
    // It is made permanent, and then nothing of the promotion is left to see.
    let permanent = conf.replace("master = server1", "master = server2").replace("server2 server3", "server1 server3");
    trio.three().stop();
    alice.configure(trio.two(), |c| c.whole_conf(&permanent)).succeeds();
    let last = push(alice, trio.two(), &work, "last");
    eventually("server1 to follow", || trio.has(trio.one(), "testing", &last));

    // The configuration names the old master again. A node was away all the time, and counts on the promotion.
    let again = permanent.replacen("repo testing", "repo none", 1) + &conf[conf.find("repo testing").unwrap()..];
    alice.configure(trio.two(), |c| c.whole_conf(&again)).succeeds();
    let back = work.commit("back", "back");
    let url = |node: &Node| alice.url(node, "testing");
    let pushed = || work.git(&["push", "-q", &url(trio.one()), "HEAD:main"]).code == Some(0);
    eventually("server1 to take pushes again", pushed);
    work.git(&["push", &url(trio.two()), "HEAD:other"]).refused_by("push to server1").says("E0205");
    trio.three().start();
    trio.all_have("testing", &back);
    work.git(&["push", &url(trio.three()), "HEAD:other"]).refused_by("push to server1").says("E0205");
    trio.one()
        .gitmesh(&["mirror", "log", "testing"])
        .succeeds()
        .says("server1 is master since epoch 3, by the configuration");
}

#[test]
fn what_is_kept_aside_is_seen_brought_back_and_let_go() {
    let world = World::new();
    let trio = Trio::new(&world, "");
    let alice = world.alice();
    let bob = world.actor("bob");
    for node in &trio.nodes {
        alice.configure(node, |c| c.key(&bob)).succeeds();
    }
    let work = alice.clone_of(trio.one(), "testing");
    let base = push(alice, trio.one(), &work, "base");
    trio.all_have("testing", &base);
    for node in &trio.nodes {
        eventually("a mesh that is well", || alice.ssh(node, "status").does_not_say("kept aside").code == Some(0));
        alice.ssh(node, "mirror lost list").succeeds().says("nothing is kept aside");
    }
    trio.cut_off(0);
    let alone = push(alice, trio.one(), &work, "alone");
    work.git(&["push", "-q", &alice.url(trio.one(), "testing"), "HEAD:side", "HEAD:refs/tags/v1"]).succeeds();
    trio.one().kill9();
    alice.ssh(trio.two(), "mirror promote testing --yes").succeeds();
    work.git(&["reset", "-q", "--hard", &base]).succeeds();
    let next = push(alice, trio.two(), &work, "next");
    trio.join_again();
    trio.one().start();
    trio.all_have("testing", &next);

    // Both that have it say so: in one screen, and by name.
    for node in [trio.one(), trio.two()] {
        let seen = || alice.ssh(node, "status");
        eventually("the status to count them", || {
            seen().has("testing: 3 references that only server1 had, kept aside")
        });
        eventually("all of it to be on the master", || !seen().has("not yet on the master"));
        let status = seen().says("needs attention (references kept aside until 'mirror lost drop': 3)");
        assert_eq!(status.code, Some(1), "{status:#?}");
        let json = alice.ssh(node, "status --json").stdout;
        assert!(json.contains(&format!("\"node\":\"server1\",\"oid\":\"{alone}\"")), "{json}");
        bob.ssh(node, "mirror status testing").says("refs/gitmesh/lost/server1/").says("/tags/v1").says(&alone);
        alice.ssh(node, "mirror status testing --json").says("\"was\":\"heads/side\"");
        alice.ssh(node, "mirror status").says("testing: 3 references that only server1 had");
        let json = bob.ssh(node, "mirror lost list testing --json").succeeds().says("gitmesh.mirror.lost/1");
        json.says("\"was\":\"heads/main\"").says("\"waiting\":false");
    }
    eventually("the third node to have nothing to say", || alice.ssh(trio.three(), "status").code == Some(0));

    // Stock git brings one back, from where it is told.
    let elsewhere = bob.clone_of(trio.two(), "testing");
    let url = bob.url(trio.two(), "testing");
    let listed =
        bob.ssh(trio.two(), "mirror lost list testing").succeeds().says(&format!("git fetch URL-OF-testing {alone}"));
    assert_eq!(listed.stdout.lines().count(), 3, "{listed:#?}");
    elsewhere.git(&["fetch", "-q", &url, &alone]).succeeds();
    elsewhere.git(&["push", "-q", &url, "FETCH_HEAD:refs/heads/rescued"]).succeeds();
    for node in &trio.nodes {
        eventually("what was brought back", || node.oid("testing", "refs/heads/rescued").as_ref() == Some(&alone));
    }

    // And somebody who has looked lets go of it, by name or all at once, on the nodes that can be told.
    let first = listed.stdout.lines().next().unwrap().split('\t').nth(1).unwrap().to_owned();
    bob.ssh(trio.two(), &format!("mirror lost drop testing {first}")).refused_by("for administrators");
    alice.ssh(trio.two(), "mirror lost drop testing server1/never/heads/main").refused_by("nothing is kept as");
    let dropped = alice.ssh(trio.two(), &format!("mirror lost drop testing {first}")).succeeds();
    dropped
        .says("server2 has let go of 1 kept reference in 'testing'")
        .says("server1 has let go of 1")
        .does_not_say("server3");
    assert_eq!((lost(trio.one(), "testing", "server1").len(), lost(trio.two(), "testing", "server1").len()), (2, 2));
    trio.cut_off(0);
    let dropped = alice.ssh(trio.two(), "mirror lost drop testing --all").succeeds();
    dropped.says("server2 has let go of 2").says("server1 could not be told").says("'mirror lost drop testing' there");
    alice.ssh(trio.two(), "mirror lost drop testing --all").refused_by("nothing is kept aside in 'testing'");
    trio.join_again();
    let dropped = alice.ssh(trio.one(), "mirror lost drop testing --all").succeeds();
    dropped.says("server1 has let go of 2").says("its master, server2, may keep it too");
    for node in [trio.one(), trio.two()] {
        eventually("nothing to need attention", || alice.ssh(node, "status").code == Some(0));
        assert!(lost(node, "testing", "server1").is_empty());
        alice.ssh(node, "mirror log testing --limit 100").says("dropped: ");
    }
    // A peer that is not the master has no say.
    let as_three = world.node_actor(trio.three());
    as_three
        .ssh(trio.two(), "gitmesh-lost-drop testing version=1 epoch=9")
        .fails()
        .does_not_say("knows gitmesh-lost-drop");
    // Nor has one of the past, and nobody is asked for a push by whom it is over.
    let as_two = world.node_actor(trio.two());
    let past = as_two.ssh(trio.one(), "gitmesh-lost-drop testing version=1 epoch=1").fails();
    past.says("epoch 1 of 'testing' is over: 2 has been promised on server1").says("E0225");
    as_two.ssh(trio.one(), "gitmesh-lost-drop testing version=1 epoch=5").succeeds();
    let past = as_two.ssh(trio.one(), "gitmesh-lost-drop testing version=1 epoch=4").fails();
    past.says("epoch 4 of 'testing' is over: 5 has been promised on server1").says("E0225");
    let newer = as_three.ssh(trio.two(), "gitmesh-mirror-request version=1 testing epoch=7").fails();
    newer.says("server3 has promised 7; server2 is no longer its master").says("E0225");
}

#[test]
fn all_that_a_dead_node_mastered_takes_pushes_on_the_promoted_one() {
    let world = World::new();
    let trio = Trio::prepared(&world);
    let alice = world.alice();
    let many: Vec<String> = (0..40).map(|n| format!("many/{n}")).collect();
    let conf = format!(
        "repo gitmesh-admin\n    RW+ = alice\n    {MIRRORED}repo {}\n    RW+ = @all\n    {MIRRORED}repo other\n    \
         RW+ = @all\n    option mirror.master = server3\n    option mirror.copies = server1 server2\n",
        many.join(" ")
    );
    for node in trio.nodes.iter().rev() {
        alice.configure(node, |c| c.whole_conf(&conf)).succeeds();
    }
    for replica in ["server2", "server3"] {
        trio.one().gitmesh(&["mirror", "repair", replica, "gitmesh-admin"]).succeeds();
    }
    trio.one().gitmesh(&["mirror", "verify"]).succeeds();
    trio.one().kill9();

    let words = ["mirror", "promote", "--all-from", "server1"];
    let asked = trio.two().gitmesh(&words).fails();
    asked.says("server1 does not answer").says("... and 21 more").does_not_say("other\t");
    let done = trio.two().gitmesh(&[&words[..], &["--yes"]].concat()).succeeds();
    done.says("server2 is the master of 41 repositories since now").says("server3 knows, and follows");
    let work = alice.starts(trio.three(), "other");
    let one = work.commit("one", "1");
    let push = |node: &Node, repo: &str| work.git(&["push", "-q", &alice.url(node, repo), "HEAD:main"]);
    for repo in [&many[0], &many[39]] {
        push(trio.two(), repo).succeeds();
        push(trio.three(), repo).refused_by("push to server2").says("E0205");
        eventually("server3 to follow", || trio.has(trio.three(), repo, &one));
    }
    alice.configure(trio.two(), |c| c.whole_conf(&format!("{conf}repo new\n    RW+ = alice\n"))).succeeds();
    eventually("server3 to have the new configuration", || trio.three().has_repo("new"));
    // What it did not master has the master that it had.
    push(trio.two(), "other").refused_by("push to server3");
    push(trio.three(), "other").succeeds();
    trio.one().start();
    for repo in [&many[0], &many[20], &many[39]] {
        push(trio.one(), repo).refused_by("push to server2").says("E0205");
    }
    trio.all_have(&many[0], &one);
    trio.all_have("other", &one);
    eventually("server1 to have the new configuration", || trio.one().has_repo("new"));
    trio.two().gitmesh(&[&words[..], &["--yes"]].concat()).fails().says("holds no copy that is meant");
}

#[test]
fn of_two_that_were_promoted_one_wins_and_the_other_keeps_its_commits() {
    let world = World::new();
    let trio = Trio::new(&world, "");
    let alice = world.alice();
    let work = alice.clone_of(trio.one(), "testing");
    let base = push(alice, trio.one(), &work, "base");
    trio.all_have("testing", &base);
    trio.one().kill9();
    for node in 0..3 {
        trio.cut_off(node);
    }
    for node in [trio.two(), trio.three()] {
        alice.ssh(node, "mirror promote testing --yes --force").succeeds().says("epoch 2");
    }
    let winning = push(alice, trio.two(), &work, "on server2");
    work.git(&["reset", "-q", "--hard", &base]).succeeds();
    let losing = push(alice, trio.three(), &work, "on server3");
    trio.join_again();
    trio.one().start();
    trio.all_have("testing", &winning);
    for node in [trio.two(), trio.three()] {
        let what = format!("what only server3 had on {}", node.name());
        eventually(&what, || lost(node, "testing", "server3").get("heads/main") == Some(&losing));
    }
    work.git(&["push", &alice.url(trio.three(), "testing"), "HEAD:main"]).refused_by("push to server2");
    // Whoever comes with a lower epoch is refused, whatever its name.
    let as_two = world.node_actor(trio.two());
    let past = as_two.ssh(trio.three(), "gitmesh-mirror-receive 'testing' version=1 epoch=1").fails();
    past.says("epoch 1 of 'testing' is over: 2 has been promised here").says("E0225");
    let as_one = world.node_actor(trio.one());
    as_one.ssh(trio.two(), "gitmesh-mirror-receive 'testing' version=1 epoch=9").fails().says("E0207");
}

#[test]
fn a_planned_move_under_load_loses_nothing() {
    let world = World::new();
    let trio = Trio::new(&world, "");
    let alice = world.alice().clone();
    let work = alice.clone_of(trio.one(), "testing");
    let base = push(&alice, trio.one(), &work, "base");
    trio.all_have("testing", &base);
    let (stop, accepted) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (moved, pushed) = std::thread::scope(|scope| {
        let pusher = scope.spawn(|| {
            let (mut at, mut pushed) = (trio.one(), Vec::new());
            while !stop.load(Ordering::SeqCst) {
                let oid = work.commit("n", pushed.len().to_string());
                loop {
                    let told = work.git(&["push", "-q", &alice.url(at, "testing"), "HEAD:main"]);
                    if told.code == Some(0) {
                        break;
                    }
                    if told.has("E0205") {
                        at = trio.two();
                    } else {
                        told.says("E0223");
                    }
                }
                pushed.push(oid);
                accepted.fetch_add(1, Ordering::SeqCst);
            }
            pushed
        });
        eventually("some pushes", || accepted.load(Ordering::SeqCst) >= 3);
        let moved = alice.ssh(trio.one(), "mirror move testing --to server2");
        let before = accepted.load(Ordering::SeqCst);
        eventually("pushes after the move", || accepted.load(Ordering::SeqCst) >= before + 3);
        stop.store(true, Ordering::SeqCst);
        (moved, pusher.join().unwrap())
    });
    moved.clone().succeeds().says("server2 is the master of 'testing' since now, epoch 2");
    let words = moved.stdout.split("pushes were refused for ").nth(1).unwrap();
    let refused: u64 = words.split(' ').next().unwrap().parse().unwrap();
    println!("pushes were refused for {refused} ms");
    assert!(refused < 2_000, "{moved:#?}");
    trio.all_have("testing", pushed.last().unwrap());
    let history = trio.two().git("testing", &["rev-list", "main"]).succeeds().stdout;
    assert!(pushed.iter().all(|oid| history.contains(oid.as_str())));
    for node in &trio.nodes {
        assert!(lost(node, "testing", "server1").is_empty());
    }
    // A replica that cannot be reached is handed nothing, and the master goes on.
    trio.cut_off(2);
    alice.ssh(trio.two(), "mirror move testing --to server3").refused_by("server2 stays the master of 'testing'");
    push(&alice, trio.two(), &work, "goes on");
    alice.ssh(trio.two(), "mirror move testing --to server7").refused_by("its replicas: server1 server3");
    // And back again.
    alice.ssh(trio.two(), "mirror move testing --to server1").succeeds().says("epoch 3");
    push(&alice, trio.one(), &work, "back");
}

/// The data directory as a backup has it.
fn copy_data(world: &World, from: &Path, to: &Path) {
    let mut command = world.command("cp");
    command.arg("-a").arg(from).arg(to);
    crate::world::Answer::of(command).succeeds();
}

#[test]
fn a_disk_from_a_backup_is_no_master_before_a_person_decides() {
    let world = World::new();
    let trio = Trio::new(&world, &format!("repo other\n    RW+ = @all\n    {MIRRORED}"));
    let alice = world.alice();
    let work = alice.clone_of(trio.one(), "testing");
    let everywhere = |name: &str| {
        let oid = push(alice, trio.one(), &work, name);
        work.git(&["push", "-q", &alice.url(trio.one(), "other"), "HEAD:main"]).succeeds();
        trio.all_have("testing", &oid);
        trio.all_have("other", &oid);
        oid
    };
    let old = everywhere("in the backup");
    trio.one().stop();
    let backup = world.dir().join("backup");
    copy_data(&world, &trio.one().data(), &backup);
    trio.one().start();
    let newer = everywhere("after the backup");
    trio.one().kill9();
    fs::remove_dir_all(trio.one().data()).unwrap();
    copy_data(&world, &backup, &trio.one().data());
    trio.one().start();

    let refused = work.git(&["push", &alice.url(trio.one(), "testing"), "HEAD:topic"]).fails();
    refused.says("restored from a backup").says("mirror promote").says("E0224");
    assert!(trio.has(trio.one(), "testing", &old) && trio.has(trio.two(), "testing", &newer));
    // One repository goes to a replica, which fills the disk; the other is decided for the disk, and loses nothing unnamed.
    let done = alice.ssh(trio.two(), "mirror promote testing --yes").succeeds();
    done.says("waits for a decision").says("server1 knows, and follows");
    trio.all_have("testing", &newer);
    let here = trio.one().gitmesh(&["mirror", "promote", "--here", "--all"]).fails();
    here.says("other\twhat server1 has becomes what counts").does_not_say("testing\t");
    trio.one()
        .gitmesh(&["mirror", "promote", "--here", "--all", "--yes"])
        .succeeds()
        .says("this disk is trusted again");
    trio.all_have("other", &old);
    for of in ["server2", "server3"] {
        eventually("what the replicas had", || lost(trio.one(), "other", of).get("heads/main") == Some(&newer));
    }
    trio.all_have("testing", &newer);
    // Nobody doubts it a second time.
    trio.one().stop();
    trio.one().start();
    work.git(&["reset", "-q", "--hard", &old]).succeeds();
    work.commit("again", "again");
    work.git(&["push", &alice.url(trio.one(), "other"), "HEAD:main"]).succeeds();
}

#[test]
fn a_restored_backup_is_no_master_even_where_it_hears_nobody() {
    let world = World::new();
    let trio = Trio::new(&world, "");
    let alice = world.alice();
    let work = alice.clone_of(trio.one(), "testing");
    let old = push(alice, trio.one(), &work, "in the backup");
    trio.all_have("testing", &old);
    let backup = world.dir().join("backup").display().to_string();
    trio.one().gitmesh(&["backup", "create", &backup]).succeeds();
    let newer = push(alice, trio.one(), &work, "after the backup");
    trio.all_have("testing", &newer);
    trio.one().kill9();
    fs::remove_dir_all(trio.one().data()).unwrap();
    trio.one().gitmesh(&["backup", "restore", &backup]).succeeds();
    // Nobody can tell it that there is something newer.
    trio.cut_off(0);
    trio.one().start();
    let refused = work.git(&["push", &alice.url(trio.one(), "testing"), "HEAD:topic"]).fails();
    refused.says("restored from a backup").says("mirror promote").says("E0224");
    alice.ssh(trio.one(), "status").says("needs attention: this disk was restored from a backup of 20").fails();
    // It stays so when it is started again, and when it meets the others.
    trio.one().kill9();
    trio.join_again();
    trio.one().start();
    work.git(&["push", &alice.url(trio.one(), "testing"), "HEAD:topic"]).refused_by("E0224");
    assert!(trio.has(trio.one(), "testing", &old), "it is as it was in the backup");
    for node in [trio.two(), trio.three()] {
        assert!(trio.has(node, "testing", &newer), "nothing old was sent to {}", node.name());
    }
    let done = alice.ssh(trio.two(), "mirror promote testing --yes").succeeds();
    done.says("server1 answers, and waits for a decision").says("server1 knows, and follows");
    // That the others know another disk is no news, and says less.
    alice.ssh(trio.one(), "status").says("needs attention: this disk was restored from a backup of 20").fails();
    trio.all_have("testing", &newer);
    let last = push(alice, trio.two(), &work, "goes on");
    trio.all_have("testing", &last);
    for node in &trio.nodes {
        assert!(lost(node, "testing", "server1").is_empty() && lost(node, "testing", "server2").is_empty());
        node.is_sound("testing");
    }
    // The way back: nothing is lost, and the disk is trusted again.
    trio.one().gitmesh(&["mirror", "promote", "--here", "--all", "--yes"]).succeeds().says("trusted again");
    alice.ssh(trio.one(), "status").does_not_say("restored from a backup");
    alice.ssh(trio.two(), "mirror move testing --to server1").succeeds();
    let back = push(alice, trio.one(), &work, "back");
    trio.all_have("testing", &back);
}

#[test]
fn a_wiped_disk_under_an_old_name_is_filled_by_a_promoted_replica() {
    let world = World::new();
    let trio = Trio::new(&world, "");
    let alice = world.alice();
    let work = alice.clone_of(trio.one(), "testing");
    let base = push(alice, trio.one(), &work, "base");
    trio.all_have("testing", &base);
    trio.one().stop();
    // The key and the configuration were kept elsewhere; the rest is gone.
    fs::remove_dir_all(trio.one().repo_dir("testing")).unwrap();
    for gone in ["state", "orders", "repositories/.disk"] {
        let path = trio.one().data().join(gone);
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }
    trio.one().start();
    work.commit("a", "a");
    let refused = work.git(&["push", &alice.url(trio.one(), "testing"), "HEAD:main"]).fails();
    refused.says("knows another disk under this node's name").says("E0224");
    trio.one().gitmesh(&["status"]).fails().says("needs attention").says("knows another disk");
    assert!(trio.has(trio.two(), "testing", &base), "nothing empty was sent");
    alice.ssh(trio.three(), "mirror promote --all-from server1 --yes").succeeds();
    let next = push(alice, trio.three(), &work, "next");
    trio.all_have("testing", &next);
}

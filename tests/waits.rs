//! Pushes that wait for their copies: by the configuration, and for several of them.

use crate::world::{Link, Node, World};

const CONF: &str = "\
repo sync
    RW+ = @all
    option mirror.master = server1
    option mirror.copies.sync = server2
    option mirror.copies = server3
repo usual
    RW+ = @all
    option mirror.master = server1
    option mirror.copies = server2 server3
";

/// A master and two replicas, with the links that lead to these.
fn three(world: &World) -> ([Node; 3], [Link; 2]) {
    let nodes = ["server1", "server2", "server3"].map(|name| world.prepare(name));
    let links = [&nodes[1], &nodes[2]].map(|replica| world.introduce(replica, &nodes[0]));
    for replica in &nodes[1..] {
        drop(world.introduce(&nodes[0], replica));
    }
    for node in nodes.iter().rev() {
        node.start();
        world.alice().configure(node, |c| c.conf(CONF)).succeeds();
    }
    (nodes, links)
}

#[test]
fn a_copy_that_is_kept_in_sync_is_waited_for_by_each_push() {
    let world = World::new();
    let ([one, two, _three], [to_two, to_three]) = three(&world);
    to_three.cut();
    let work = world.alice().clone_of(&one, "sync");
    for n in 0..3 {
        let oid = work.commit("a", format!("{n}"));
        let pushed = work.push(&["HEAD:main"]).succeeds();
        assert_eq!(two.oid("sync", "refs/heads/main"), Some(oid), "{pushed:#?}");
        pushed.says("server1 ==== (sync) ===> server2   done in ").says("===> server3").does_not_say("warning");
    }
    // It waits no longer than it is told, and what it could not wait for is said.
    to_two.cut();
    let oid = work.commit("a", "alone");
    let alone = work.push(&["-o", "mirror.timeout=1s", "HEAD:main"]).succeeds();
    alone.says("warning: your push stands, but server2 does not have it after 1 s: ");
    assert_eq!(one.oid("sync", "refs/heads/main"), Some(oid));
    to_two.restore();
    to_three.restore();
    work.commit("a", "together");
    let pushed = work.push(&["-o", "mirror.wait", "HEAD:main"]).succeeds();
    pushed.says("===> server2   done in ").says("===> server3   done in ");
}

#[test]
fn a_push_waits_for_all_copies_or_for_so_many() {
    let world = World::new();
    let ([one, two, three], [_to_two, to_three]) = three(&world);
    let work = world.alice().clone_of(&one, "usual");
    let oid = work.commit("a", "one");
    let pushed = work.push(&["-o", "mirror.wait=all", "HEAD:main"]).succeeds();
    for node in [&two, &three] {
        assert_eq!(node.oid("usual", "refs/heads/main"), Some(oid.clone()), "{pushed:#?}");
    }
    pushed.says("===> server2   done in ").says("===> server3   done in ");
    to_three.cut();
    work.commit("a", "two");
    let one_is_enough = work.push(&["-o", "mirror.wait=1", "HEAD:main"]).succeeds();
    one_is_enough.says("===> server2   done in ").does_not_say("warning");
    work.commit("a", "three");
    let all = ["-o", "mirror.wait=all", "-o", "mirror.timeout=1s", "HEAD:main"];
    let late = work.push(&all).succeeds();
    late.says("===> server2   done in ").says("your push stands, but server3 does not have it after 1 s: ");
    // More than there are is told, and not waited for.
    work.commit("a", "four");
    work.push(&["-o", "mirror.wait=5", "-o", "mirror.timeout=20s", "HEAD:main"])
        .succeeds()
        .says("warning: your push stands; 5 copies are asked for, and 'usual' has 2");
    one.gitmesh(&["mirror", "wait", "usual", "--count", "5"]).fails().says("'usual' has 2\n");
}

#[test]
fn to_wait_for_nothing_is_said_and_an_answer_that_is_known_comes_at_once() {
    let world = World::new();
    let ([one, _two, _three], _links) = three(&world);
    let alice = world.alice();
    let conf = format!(
        "{CONF}repo alone\n    RW+ = @all\nrepo hand\n    RW+ = @all\n    option mirror.master = server1\n    \
         option mirror.copies.nosync = server2 server3\n"
    );
    alice.configure(&one, |c| c.conf(&conf)).succeeds();
    for (repo, why) in [("alone", "'alone' has no copies"), ("hand", "name the one to wait for: server2 server3")] {
        let work = alice.clone_of(&one, repo);
        work.commit("a", "one");
        let pushed = work.push(&["-o", "mirror.wait", "HEAD:main"]).succeeds();
        pushed.says("warning: your push stands; nothing was waited for: ").says(why);
        work.commit("a", "two");
        let pushed = work.push(&["-o", "mirror.wait=1", "HEAD:main"]).succeeds();
        pushed.says(&format!("warning: your push stands; 1 copy is asked for, and '{repo}' has 0"));
        let waited = one.gitmesh(&["mirror", "wait", repo]).refused_by(why);
        assert_eq!(waited.code, Some(8));
        let waited = one.gitmesh(&["mirror", "wait", repo, "--json"]).refused_by(why);
        let json: serde_json::Value = serde_json::from_str(&waited.stdout).unwrap();
        assert_eq!(json["met"], false, "{waited:#?}");
    }
    // What is paused cannot come, and no time is told that was not waited.
    one.gitmesh(&["mirror", "pause", "usual"]).succeeds();
    let work = alice.clone_of(&one, "usual");
    work.commit("a", "one");
    let pushed = work.push(&["-o", "mirror.wait", "-o", "mirror.timeout=300s", "HEAD:main"]).succeeds();
    pushed.says("your push stands, but server2 does not have it: paused by ").does_not_say("after");
}

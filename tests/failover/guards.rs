//! What a promotion tells before it is ordered, and what stands in its way.

use super::{Trio, lost, push};
use crate::world::{World, eventually};

#[test]
fn a_master_that_lives_and_a_replica_that_is_further_are_in_the_way() {
    let world = World::new();
    let trio = Trio::new(&world, "");
    let alice = world.alice();
    let work = alice.clone_of(trio.one(), "testing");
    let base = push(alice, trio.one(), &work, "base");
    trio.all_have("testing", &base);
    let promote = |more: &str| alice.ssh(trio.two(), &format!("mirror promote testing{more}"));
    eventually("the master to confirm the copy", || promote("").has("testing\tmastered by server1\there in step ("));
    let alive = promote(" --yes").fails();
    assert_eq!(alive.code, Some(1), "{alive:#?}");
    alive
        .says("server1 answers")
        .says("FATAL: server1 is alive; 'mirror move REPO --to server2' on it loses nothing")
        .says("--force does it all the same")
        .does_not_say("is the master of 'testing' since now");
    push(alice, trio.one(), &work, "nothing has changed");

    // server2 hears nothing any more, and server3 goes on.
    for way in [(0, 1), (1, 0)] {
        trio.links[&way].cut();
    }
    let third = push(alice, trio.one(), &work, "server3 has it");
    eventually("server3 to have it", || trio.has(trio.three(), "testing", &third));
    let known = |words: &str| eventually(words, || promote("").has(words));
    known("server1 does not answer; it was last heard ");
    known("\tserver3 IS FURTHER");
    // What is known of both is some seconds apart by now.
    let silent = || {
        let told = promote("").stdout;
        let ago = told.split("it was last heard ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        ago.parse::<u64>().unwrap()
    };
    eventually("a longer silence", || silent() >= 8);
    // It is not dead, as the third one knows.
    promote(" --yes")
        .refused_by("server3 reaches server1, so it is alive and takes pushes; server2 is cut off from it");
    trio.one().kill9();
    promote(" --yes").refused_by("FATAL: server3 is further than this node; promote it there").says("--force");
    // Nobody has told it anything since it was started.
    trio.two().stop();
    trio.two().start();
    let asked = promote("").fails();
    assert_eq!(asked.code, Some(1), "the guard comes before the question: {asked:#?}");
    asked
        .says("server1 does not answer, and was not heard since this node started")
        .says("here NOT CONFIRMED; nothing heard for")
        .says("\tserver3 IS FURTHER")
        .says("What server1 took after that and did not send here is not here")
        .says("kept, there and here, under refs/gitmesh/lost/");
    promote(" --force").fails().says("the same with --yes");
    promote(" --force --yes").succeeds().says("server2 is the master of 'testing' since now, epoch 2");
    // What only server3 had has a name on both.
    for node in [trio.two(), trio.three()] {
        let what = format!("what only server3 had on {}", node.name());
        eventually(&what, || lost(node, "testing", "server3").get("heads/main") == Some(&third));
    }
}

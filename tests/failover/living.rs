//! The old master lives: it stands still, or is cut off and goes on, while another is promoted.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{Trio, lost, push};
use crate::world::{World, eventually};

#[test]
fn a_master_that_stood_still_asks_before_it_takes_anything() {
    let world = World::new();
    let trio = Trio::new(&world, "");
    let alice = world.alice();
    let work = alice.clone_of(trio.one(), "testing");
    let base = push(alice, trio.one(), &work, "base");
    trio.all_have("testing", &base);
    let (still, stood) = (Instant::now(), Duration::from_secs(5));
    trio.one().signal(Signal::STOP);
    // Somebody pushes to it meanwhile, and waits.
    work.commit("waits", "waits");
    let waiting = work.begin(&["push", "-q", &alice.url(trio.one(), "testing"), "HEAD:main"]);
    let done = alice.ssh(trio.two(), "mirror promote testing --yes").succeeds();
    done.says("server1 does not answer").says("server3 knows, and follows").says("server1 does not know yet");
    let other = alice.clone_of(trio.two(), "testing");
    let next = push(alice, trio.two(), &other, "next");
    eventually("a pause that is none of a busy machine", || still.elapsed() > stood);
    trio.one().signal(Signal::CONT);
    waiting.end().refused_by("push to server2").says("E0205");
    work.git(&["push", &alice.url(trio.one(), "testing"), "HEAD:main"]).refused_by("push to server2").says("E0205");
    trio.all_have("testing", &next);
    for node in &trio.nodes {
        assert!(lost(node, "testing", "server1").is_empty(), "it had nothing alone");
        node.is_sound("testing");
    }
}

#[test]
fn a_master_that_was_cut_off_and_went_on_is_fenced_when_it_hears_of_the_other() {
    let world = World::new();
    let trio = Trio::new(&world, "");
    let alice = world.alice();
    let work = alice.clone_of(trio.one(), "testing");
    let base = push(alice, trio.one(), &work, "base");
    trio.all_have("testing", &base);
    trio.cut_off(0);
    push(alice, trio.one(), &work, "before the order");
    alice.ssh(trio.two(), "mirror promote testing --yes").succeeds().says("epoch 2").says("server1 does not know yet");
    let other = alice.clone_of(trio.three(), "testing");
    let first = push(alice, trio.two(), &other, "on the new master");
    eventually("server3 to follow", || trio.has(trio.three(), "testing", &first));
    // Nobody can tell it, and its users are told that no copy has what they push.
    let alone = push(alice, trio.one(), &work, "after the order");
    let second = push(alice, trio.two(), &other, "on the new master, again");
    trio.join_again();
    eventually("server1 to be told", || {
        work.commit("more", "more");
        let told = work.git(&["push", &alice.url(trio.one(), "testing"), "HEAD:topic"]);
        told.has("push to server2") && told.has("E0205")
    });
    trio.all_have("testing", &second);
    for node in [trio.one(), trio.two()] {
        let what = format!("what only server1 had on {}", node.name());
        eventually(&what, || lost(node, "testing", "server1").get("heads/main") == Some(&alone));
        eventually("the report", || alice.ssh(node, "mirror log testing").has("refs/gitmesh/lost/server1/"));
        node.is_sound("testing");
    }
    let last = push(alice, trio.two(), &other, "goes on");
    trio.all_have("testing", &last);
}

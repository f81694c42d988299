//! What a hostile user, a crowd or a crash tries: rights that outlive their key, answers that tell too much, room that
//! is taken and never given back, what a killed git or daemon leaves behind.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::world::{World, eventually};

const BOBS: &str = "repo testing\n    RW+ = bob\n";

#[test]
fn an_order_to_mirror_tells_a_stranger_nothing() {
    let world = World::new();
    let node = world.node("server1");
    let bob = world.actor("bob");
    let conf = "repo secret\n    RW+ = alice\n    option mirror.master = server2\n    option mirror.copies = server1\n";
    world.alice().configure(&node, |c| (c.conf(conf), c.key(&bob)).0).succeeds();
    let told = |repo: &str| {
        let answer = bob.ssh(&node, &format!("mirror request-push {repo}")).fails();
        (answer.code, answer.stderr.replace(repo, "REPO"))
    };
    assert_eq!(told("secret"), told("nowhere"));
    world.alice().ssh(&node, "mirror request-push secret").refused_by("its master is server2");
}

#[test]
fn a_daemon_without_file_descriptors_lives_on() {
    let world = World::new();
    let node = world.node("server1");
    node.limit_files(64);
    let socket = node.data().join("control.sock");
    let crowd: Vec<UnixStream> = (0..80).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    eventually("the limit to be felt", || !node.is_running() || node.log().contains("Too many open files"));
    drop(crowd);
    world.alice().ssh(&node, "info").succeeds();
    assert!(node.is_running());
}

#[test]
fn a_removed_key_is_worth_nothing_on_an_open_connection() {
    let world = World::new();
    let node = world.node("server1");
    let bob = world.actor("bob");
    world.alice().configure(&node, |c| (c.conf(BOBS), c.key(&bob)).0).succeeds();
    let shared = bob.shared_connection(&node);
    shared.run(&["whoami"]).succeeds().says("user: bob");
    shared.git(&["ls-remote", "git@server1:testing"]).succeeds();
    world.alice().configure(&node, |c| c.remove("keydir/bob.pub")).succeeds();
    shared.run(&["whoami"]).refused_by("is not known here any more");
    shared.run(&["info"]).fails().does_not_say("testing");
    shared.git(&["ls-remote", "git@server1:testing"]).fails();
    // The rules still name bob; who comes with a key of his again is let in.
    world.alice().configure(&node, |c| c.key(&bob)).succeeds();
    shared.run(&["whoami"]).succeeds().says("user: bob");
}

#[test]
fn a_key_removed_during_a_push_refuses_the_push() {
    let world = World::new();
    let node = world.node("server1");
    let bob = world.actor("bob");
    world.alice().configure(&node, |c| (c.conf(BOBS), c.key(&bob)).0).succeeds();
    let work = bob.clone_of(&node, "testing");
    work.commit_random("big", 8 << 20);
    let slow = world.link_to(&node);
    slow.delay(Duration::from_millis(5));
    let url = bob.url_by(&slow, "testing");
    let mut push = work.begin(&["push", &url, "HEAD:main"]);
    eventually("a part of the push", || slow.carried() > (1 << 20) || push.has_ended());
    world.alice().configure(&node, |c| c.remove("keydir/bob.pub")).succeeds();
    assert!(!push.has_ended());
    slow.delay(Duration::ZERO);
    push.end().refused_by("is not known here any more");
    assert!(node.refs("testing").is_empty());
}

//! What a hostile user, a crowd or a crash tries: rights that outlive their key, answers that tell too much, room that
//! is taken and never given back, what a killed git or daemon leaves behind.

use std::os::unix::net::UnixStream;

use crate::world::{World, eventually};

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

//! Orders that the disk does not take: there is one master all the same, and it stays so across a restart.

use super::{Trio, push};
use crate::world::{World, eventually};

#[test]
fn a_master_that_cannot_write_that_it_is_one_no_more_is_none() {
    let world = World::new();
    let trio = Trio::new(
        &world,
        "repo other\n    RW+ = @all\n    option mirror.master = server1\n    option mirror.copies = server2 server3\n",
    );
    let alice = world.alice();
    let work = alice.clone_of(trio.one(), "testing");
    let base = push(alice, trio.one(), &work, "base");
    work.git(&["push", "-q", &alice.url(trio.one(), "other"), "HEAD:main"]).succeeds();
    trio.all_have("testing", &base);
    trio.all_have("other", &base);
    let refused = |repo: &str| {
        let told = work.git(&["push", &alice.url(trio.one(), repo), "HEAD:topic"]);
        told.has("push to server2") && told.has("E0205")
    };
    trio.one().expect_errors();
    trio.one().fails_at(&["file.sync full orders/masters".to_owned()]);
    // It hands over, and cannot write it down.
    alice.ssh(trio.one(), "mirror move testing --to server2").succeeds().says("server2 is the master of 'testing'");
    assert!(refused("testing"), "it goes on as master");
    // It is told that it was replaced, and cannot write it down.
    alice.ssh(trio.two(), "mirror promote other --yes --force").succeeds();
    eventually("server1 to stop taking pushes", || refused("other"));
    let next = push(alice, trio.two(), &work, "next");
    trio.all_have("testing", &next);
    assert!(trio.one().failed_at().iter().any(|met| met.starts_with("file.sync ")), "the disk was full");
    // It has forgotten what it could not write, and is told.
    trio.one().kill9();
    trio.one().start();
    assert!(refused("testing") && refused("other"), "after a restart");
    trio.one().fails_nowhere();
    let written = || std::fs::read_to_string(trio.one().data().join("orders/masters")).unwrap_or_default();
    eventually("the orders to be written", || written().contains("testing\t2\tserver2\t"));
}

#[test]
fn an_order_that_a_replica_could_not_write_never_comes_into_force() {
    let world = World::new();
    let trio = Trio::new(&world, "");
    let alice = world.alice();
    let work = alice.clone_of(trio.one(), "testing");
    let base = push(alice, trio.one(), &work, "base");
    trio.all_have("testing", &base);
    trio.two().expect_errors();
    // It has its name by then.
    trio.two().fails_at(&["file.dir error orders".to_owned()]);
    let told = alice.ssh(trio.one(), "mirror move testing --to server2");
    told.refused_by("server1 stays the master of 'testing'").says("the order cannot be written on server2");
    alice.ssh(trio.two(), "mirror promote testing --yes --force").refused_by("so nothing has changed");
    push(alice, trio.one(), &work, "the master goes on");
    trio.two().kill9();
    trio.two().fails_nowhere();
    trio.two().start();
    let next = push(alice, trio.one(), &work, "and on");
    work.git(&["push", &alice.url(trio.two(), "testing"), "HEAD:main"]).refused_by("push to server1").says("E0205");
    trio.all_have("testing", &next);
}

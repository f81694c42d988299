//! Disks that are full or have become read-only: what is to be written is refused with the cause and its cure, what is
//! read goes on, and with the disk everything comes back by itself.

use crate::robustness::SmallDisk;
use crate::world::{Pair, World, eventually};

const CONF: &str = "\
repo testing
    RW+ = @all
    option mirror.master = server1
    option mirror.copies = server2
repo wild/..*
    C   = @all
    RW+ = CREATOR
";

/// Both nodes have a small disk for their repositories. `None` where nobody may mount.
fn start(world: &World) -> Option<(Pair, [SmallDisk; 2])> {
    let pair = world.pair_with(CONF);
    let mut disks = Vec::new();
    for node in [&pair.one, &pair.two] {
        node.stop();
        disks.push(SmallDisk::holds_repositories_of(world, node)?);
        node.set("retry_first", "\"200ms\"");
        node.set("retry_max", "\"400ms\"");
        node.expect_errors();
        node.start();
    }
    let [one, two] = disks.try_into().ok()?;
    Some((pair, [one, two]))
}

/// `breaks` and `mends` change a disk; `why` is what users hear.
fn goes_through(breaks: impl Fn(&World, &SmallDisk), mends: impl Fn(&World, &SmallDisk), why: &str) {
    let world = World::new();
    let Some((pair, [one, two])) = start(&world) else { return };
    let alice = world.alice();
    let work = alice.clone_of(&pair.one, "testing");
    work.commit("a", "begin");
    work.push(&["HEAD:main"]).succeeds();
    pair.in_step("testing");
    let admin = alice.clone_of(&pair.one, "gitmesh-admin");

    // The replica's: the master takes pushes, says what is wrong, and goes on when it can.
    breaks(&world, &two);
    work.commit("a", "while the replica cannot write");
    work.push(&["HEAD:main"]).succeeds();
    eventually("the cause to be told", || pair.one.gitmesh(&["mirror", "status", "testing"]).has(why));
    alice.try_clone(&alice.url(&pair.two, "testing"), "from-the-replica").succeeds();
    mends(&world, &two);
    pair.in_step("testing");

    // The master's.
    breaks(&world, &one);
    let before = pair.one.oid("testing", "refs/heads/main");
    work.commit("a", "while the master cannot write");
    work.push(&["HEAD:main"]).refused_by(why);
    work.push(&["--delete", "main"]).fails();
    assert_eq!(pair.one.oid("testing", "refs/heads/main"), before);
    let conf = format!("repo gitmesh-admin\n    RW+ = alice\n{CONF}repo another\n    RW+ = @all\n");
    admin.commit("conf/gitmesh.conf", conf);
    admin.push(&["HEAD:main"]).refused_by(why);
    alice.ssh(&pair.one, "create wild/x").refused_by(why);
    alice.try_clone(&alice.url(&pair.one, "testing"), "from-the-master").succeeds();
    mends(&world, &one);
    work.push(&["HEAD:main"]).succeeds();
    admin.push(&["HEAD:main"]).succeeds();
    alice.ssh(&pair.one, "create wild/x").succeeds();
    eventually("what the configuration names", || pair.one.has_repo("another"));
    pair.in_step("testing");
    pair.one.is_sound("testing");
    pair.two.is_sound("testing");

    // A daemon that is started on it.
    if why.contains("read-only") {
        pair.one.stop();
        breaks(&world, &one);
        pair.one.gitmesh(&["serve"]).refused_by("repositories is read-only; mount it writable again, then start");
        mends(&world, &one);
        pair.one.start();
    }
    pair.one.stop();
    pair.two.stop();
}

#[test]
fn a_full_disk_is_told_with_its_cure_and_all_goes_on_with_space() {
    goes_through(
        |_, disk| disk.fill(),
        |_, disk| disk.empty(),
        "the server's disk is full (E0226); tell an administrator",
    );
}

#[test]
fn a_read_only_disk_is_told_with_its_cure_and_all_goes_on_when_it_is_writable() {
    let why = "the server's disk is read-only (E0226); tell an administrator";
    goes_through(|world, disk| disk.remount(world, "ro"), |world, disk| disk.remount(world, "rw"), why);
}

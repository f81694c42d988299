//! Pushes and orders to a replica, carried to the master: answered as if they had been made there, in one order, and
//! whatever breaks on the way is said.

use crate::world::{Actor, Pair, World};

const CONF: &str = "\
repo testing
    RW+ = @all
    option mirror.master = server1
    option mirror.copies = server2
    option mirror.redirectOK = all
repo theirs
    RW+ = @all
    option mirror.master = server2
    option mirror.copies = server1
    option mirror.redirectOK = server1
repo pub/CREATOR/..*
    C   = @all
    RW+ = CREATOR
    R   = READERS
    option mirror.master = server1
    option mirror.copies = server2
    option mirror.redirectOK = all
";

/// A pair with `conf` on both nodes and bob among the users of both.
fn pair_with_bob(world: &World, conf: &str) -> (Pair, Actor) {
    let (pair, bob) = (world.pair(), world.actor("bob"));
    for node in [&pair.two, &pair.one] {
        world.alice().configure(node, |c| (c.conf(conf), c.key(&bob)).0).succeeds();
    }
    (pair, bob)
}

#[test]
fn a_push_to_a_replica_is_made_on_the_master() {
    let world = World::new();
    let (pair, bob) = pair_with_bob(&world, CONF);
    let work = bob.clone_of(&pair.two, "testing");
    let one = work.commit("a", "one");
    let pushed = work.push(&["HEAD:main"]).succeeds();
    assert!(pushed.remote_lines().ends_with("&) server1 ==== (testing) ===> server2"), "{pushed:#?}");
    // Both have it by the end of the push, and the next push sees what the master has.
    assert_eq!(pair.one.oid("testing", "refs/heads/main"), Some(one.clone()));
    assert_eq!(pair.two.oid("testing", "refs/heads/main"), Some(one));
    assert!(pair.one.log().contains(" by server2\""), "{}", pair.one.log());
    work.commit("a", "two");
    work.git(&["tag", "-a", "-m", "annotated", "v1"]).succeeds();
    work.push(&["--atomic", "HEAD:main", "HEAD:topic", "v1"]).succeeds();
    work.git(&["commit", "-q", "--amend", "-m", "again"]).succeeds();
    work.push(&["HEAD:main"]).refused_by("non-fast-forward");
    work.push(&["+HEAD:main", ":topic"]).succeeds();
    work.push(&["HEAD:main"]).succeeds().says("Everything up-to-date");
    work.commit_random("big", 3 << 20);
    work.push(&["HEAD:main"]).succeeds();
    pair.in_step("testing");
    pair.one.is_sound("testing");
    // The other way round, on the same pair.
    let work = bob.clone_of(&pair.one, "theirs");
    work.commit("a", "one");
    work.push(&["HEAD:main"]).succeeds().says("server2 ==== (theirs) ===> server1");
    assert_eq!(pair.one.refs("theirs"), pair.two.refs("theirs"));
    assert!(!pair.two.refs("theirs").is_empty());
}

//! Links that break, nodes that die, keys that are wrong: the copies become equal again without help.

use crate::world::{Checkout, Pair, World, eventually};

const CONF: &str = "\
repo testing
    RW+ = @all
    option mirror.master = server1
    option mirror.copies = server2
";

/// A pair whose copies are equal, with one commit.
fn running(world: &World) -> (Pair, Checkout) {
    let pair = world.pair();
    for node in [&pair.one, &pair.two] {
        node.stop();
        node.set("retry_max", "\"2s\"");
        node.start();
        world.alice().configure(node, |c| c.conf(CONF)).succeeds();
    }
    let work = world.alice().clone_of(&pair.one, "testing");
    work.commit("a", "one");
    work.push(&["HEAD:main"]).succeeds();
    pair.in_step("testing");
    (pair, work)
}

#[test]
fn a_cut_link_is_caught_up() {
    let world = World::new();
    let (pair, work) = running(&world);
    pair.there.cut();
    work.commit("a", "two");
    work.push(&["HEAD:main", "HEAD:topic"]).succeeds().says("===> server2");
    let before = pair.there.dialled();
    eventually("a try that fails", || pair.there.dialled() > before);
    assert_ne!(pair.one.refs("testing"), pair.two.refs("testing"));
    eventually("the status to say so", || {
        let status = pair.one.gitmesh(&["mirror", "status", "testing"]).stdout;
        ["failing", "behind", "retry"].iter().any(|word| status.contains(word))
    });
    pair.there.restore();
    pair.in_step("testing");
}

#[test]
fn a_link_that_breaks_during_a_mirror_push_is_caught_up() {
    let world = World::new();
    let (pair, work) = running(&world);
    pair.there.delay(std::time::Duration::from_millis(20));
    work.commit_random("big", 8 << 20);
    let before = pair.there.carried();
    work.push(&["HEAD:main"]).succeeds();
    eventually("a part of the pack to be on the way", || pair.there.carried() > before + (1 << 20));
    pair.there.cut();
    pair.there.delay(std::time::Duration::ZERO);
    pair.there.restore();
    pair.in_step("testing");
    pair.two.is_sound("testing");
}

#[test]
fn a_node_killed_between_push_and_mirror_catches_up() {
    let world = World::new();
    let (pair, work) = running(&world);
    pair.there.cut();
    let oid = work.commit("a", "two");
    work.push(&["HEAD:main"]).succeeds();
    pair.one.kill9();
    pair.there.restore();
    pair.one.start();
    pair.in_step("testing");
    assert_eq!(pair.two.oid("testing", "refs/heads/main"), Some(oid));
}

#[test]
fn a_replica_that_was_down_catches_up() {
    let world = World::new();
    let (pair, work) = running(&world);
    pair.two.kill9();
    work.commit("a", "two");
    work.push(&["HEAD:main"]).succeeds();
    work.push(&["HEAD:refs/tags/while-down"]).succeeds();
    pair.two.start();
    pair.in_step("testing");
}

#[test]
fn one_dead_replica_delays_nobody() {
    let world = World::new();
    let pair = world.pair();
    let third = world.prepare("server3");
    let to_third = world.introduce(&third, &pair.one);
    let conf = CONF.replace("copies = server2", "copies = server3 server2");
    for node in [&pair.two, &pair.one] {
        world.alice().configure(node, |c| c.conf(&conf)).succeeds();
    }
    let work = world.alice().clone_of(&pair.one, "testing");
    for i in 0..3 {
        work.commit("a", format!("{i}"));
        work.push(&["HEAD:main"]).succeeds().says("===> server3").says("===> server2");
        pair.in_step("testing");
    }
    assert!(to_third.dialled() > 0);
}

#[test]
fn a_peer_with_the_wrong_key_is_refused_and_the_operator_told() {
    let world = World::new();
    let pair = world.pair();
    // server1 has been given somebody else's key as that of server2.
    let impostor = world.actor("impostor");
    let wrong = world.dir().join("wrong");
    std::fs::create_dir(&wrong).unwrap();
    std::fs::copy(impostor.public_key(), wrong.join("server2.pub")).unwrap();
    pair.one.add_peer(&wrong.join("server2.pub"), &pair.there.address()).succeeds();
    for node in [&pair.two, &pair.one] {
        world.alice().configure(node, |c| c.conf(CONF)).succeeds();
    }
    let work = world.alice().clone_of(&pair.one, "testing");
    work.commit("a", "one");
    work.push(&["HEAD:main"]).succeeds();
    let told = pair.one.gitmesh(&["mirror", "push", "server2", "testing"]).fails();
    told.says("FAILED").says("key");
    eventually("a log line with both fingerprints", || pair.one.log().contains(&impostor.fingerprint()));
    assert!(pair.two.refs("testing").is_empty());
    // The right key mends it, without a restart.
    pair.one.add_peer(&pair.two.public_key(), &pair.there.address()).succeeds();
    pair.in_step("testing");
}

#[test]
fn a_client_with_an_unknown_node_key_is_refused() {
    let world = World::new();
    let two = world.node("server2");
    let stranger = world.prepare("server1");
    world.node_actor(&stranger).ssh(&two, "info").refused_by("Permission denied");
}

#[test]
fn all_of_state_may_be_removed_from_every_node() {
    let world = World::new();
    let (pair, work) = running(&world);
    pair.one.gitmesh(&["mirror", "pause", "testing"]).succeeds();
    for how in ["its files", "the directory"] {
        for node in [&pair.one, &pair.two] {
            node.kill9();
            let state = node.data().join("state");
            std::fs::remove_dir_all(&state).unwrap();
            if how == "its files" {
                std::fs::create_dir(&state).unwrap();
            }
        }
        pair.one.start();
        pair.two.start();
        let status = pair.one.gitmesh(&["mirror", "status", "testing"]).succeeds();
        assert!(status.stdout.contains("paused by local"), "an order is no state: {}", status.stdout);
        work.commit("a", how);
        work.push(&["HEAD:main"]).succeeds();
    }
    pair.one.gitmesh(&["mirror", "resume", "testing"]).succeeds();
    pair.in_step("testing");
    eventually("all to be well", || pair.one.gitmesh(&["status"]).code == Some(0));
}

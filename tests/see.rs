//! What people and scripts see of the copies: notices, marks, status.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::world::{Actor, Answer, Checkout, DEADLINE, Pair, World, eventually};

const CONF: &str = "\
repo testing
    RW+ = alice
    R   = bob
    option mirror.master = server1
    option mirror.copies = server2
repo secret
    RW+ = alice
    option mirror.master = server1
    option mirror.copies = server2
";

/// A pair whose copies are equal, and whose notices come soon.
fn running(world: &World) -> (Pair, Checkout, Actor) {
    let pair = world.pair();
    let bob = world.actor("bob");
    for node in [&pair.one, &pair.two] {
        node.set("stale_notice", "\"2s\"");
        node.set("retry_max", "\"1s\"");
        let configured = world.alice().configure(node, |c| {
            c.conf(CONF);
            c.key(&bob);
        });
        configured.succeeds();
    }
    let work = world.alice().clone_of(&pair.one, "testing");
    work.commit("a", "one");
    work.push(&["HEAD:main"]).succeeds();
    pair.in_step("testing");
    // An edit of the settings is taken over by itself.
    for node in [&pair.one, &pair.two] {
        eventually("the settings to be in force", || node.log().contains("the new settings are in force"));
    }
    (pair, work, bob)
}

/// What the server itself said on the way.
fn remote(answer: &Answer) -> Vec<&str> {
    answer.stderr.lines().filter(|line| line.starts_with("remote:")).collect()
}

#[test]
fn a_stale_copy_says_so_in_one_line_and_a_fresh_one_says_nothing() {
    let world = World::new();
    let (pair, work, _) = running(&world);
    let alice = world.alice();
    let fresh = || {
        let answer = alice.ls_remote(&pair.two, "testing").succeeds();
        remote(&answer).is_empty()
    };
    eventually("the copy to be confirmed", fresh);
    eventually("the mark of a copy in step", || {
        alice.ssh(&pair.two, "info").has("\ttesting\tcopy of server1, in step (")
    });
    pair.there.cut();
    work.commit("a", "two");
    work.push(&["HEAD:main"]).succeeds();
    eventually("the copy to say that it is stale", || !fresh());
    let told = alice.try_clone(&alice.url(&pair.two, "testing"), "stale").succeeds();
    let lines = remote(&told);
    assert_eq!(lines.len(), 1, "{told:#?}");
    assert!(lines[0].starts_with("remote: this copy of 'testing' was in step "), "{told:#?}");
    assert!(lines[0].contains("; its master server1 has not been heard for "), "{told:#?}");
    alice.ssh(&pair.two, "info").succeeds().says("\ttesting\tcopy of server1, NOT CONFIRMED; ");
    let master = alice.ls_remote(&pair.one, "testing").succeeds();
    assert!(remote(&master).is_empty(), "a master is never stale");
    pair.there.restore();
    pair.in_step("testing");
    eventually("the copy to be confirmed again", fresh);
}

#[test]
fn status_tells_each_reader_what_they_may_read() {
    let world = World::new();
    let (pair, work, _) = running(&world);
    let alice = world.alice();
    eventually("all copies to be compared", || {
        let status = alice.ssh(&pair.one, "mirror status");
        status.code == Some(0) && status.has("secret")
    });
    let all = alice.ssh(&pair.one, "mirror status").succeeds().stdout;
    let plain: Vec<String> = all.lines().map(|line| line.split(" (").next().unwrap().to_owned()).collect();
    assert_eq!(plain, ["secret \tserver2\tin step", "testing\tserver2\tin step"]);
    let on_machine = pair.one.gitmesh(&["mirror", "status", "testing"]).succeeds().stdout;
    assert!(on_machine.starts_with("testing\tserver2\tin step ("), "{on_machine}");
    eventually("server1 to confirm", || alice.ssh(&pair.two, "mirror status testing").code == Some(0));
    let there = alice.ssh(&pair.two, "mirror status testing").stdout;
    assert!(there.starts_with("testing\tserver2\tcopy of server1, in step ("), "{there}");
    let pattern = alice.ssh(&pair.one, "mirror status '^sec'").succeeds().stdout;
    assert!(pattern.starts_with("secret\tserver2\t") && pattern.lines().count() == 1, "{pattern}");
    alice.ssh(&pair.one, "mirror status nothing").refused_by("has copies");
    alice.ssh(&pair.one, "mirror status -x").refused_by("usage: mirror status");

    let json = pair.one.gitmesh(&["mirror", "status", "--json", "testing"]).succeeds().stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["schema"], "gitmesh.mirror.status/1");
    let copy = &json["copies"][0];
    assert_eq!(
        (&copy["repo"], &copy["master"], &copy["replica"]),
        (&"testing".into(), &"server1".into(), &"server2".into())
    );
    assert_eq!((&copy["state"], copy["error"].is_null()), (&"in-step".into(), true));

    pair.there.cut();
    work.commit("a", "two");
    work.push(&["HEAD:main"]).succeeds();
    eventually("the failure to be told", || {
        let status = alice.ssh(&pair.one, "mirror status testing --json");
        let json: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
        let copy = &json["copies"][0];
        status.code == Some(1) && copy["state"] == "failing" && copy["error"].as_str().unwrap().contains("server2")
    });
    pair.there.restore();
    pair.in_step("testing");
}

#[test]
fn a_stranger_sees_nothing_of_what_they_may_not_read() {
    let world = World::new();
    let (pair, _, bob) = running(&world);
    let seen = bob.ssh(&pair.one, "mirror status");
    assert!(seen.has("testing\tserver2") && !seen.has("secret"), "{seen:#?}");
    let hidden = bob.ssh(&pair.one, "mirror status secret").fails();
    let missing = bob.ssh(&pair.one, "mirror status missing").fails();
    assert_eq!((hidden.code, hidden.stderr, hidden.stdout), (missing.code, missing.stderr, missing.stdout));
}

#[test]
fn who_watches_is_told_of_changes_and_is_sent_away_when_the_node_stops() {
    let world = World::new();
    let (pair, work, _) = running(&world);
    let alice = world.alice();
    eventually("all copies to be compared", || alice.ssh(&pair.one, "mirror status").code == Some(0));
    let mut watching = alice.ssh_command(&["git@server1", "mirror status testing --watch"]);
    watching.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut watching = watching.spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines().map(Result::unwrap);
    let first = lines.next().unwrap();
    assert!(first.contains("\ttesting\tserver2\tin step"), "{first}");
    pair.there.cut();
    work.commit("a", "two");
    work.push(&["HEAD:main"]).succeeds();
    let failing = lines.find(|line| line.contains("failing")).unwrap();
    assert!(failing.contains("\ttesting\tserver2\tfailing"), "{failing}");
    pair.there.restore();
    assert!(lines.any(|line| line.contains("\tin step")));
    let begun = Instant::now();
    pair.one.stop();
    assert!(begun.elapsed() < DEADLINE.min(Duration::from_secs(20)), "a watching client held up the stop");
    let said = watching.wait_with_output().unwrap();
    assert_eq!(said.status.code(), Some(75));
    assert!(String::from_utf8_lossy(&said.stderr).contains("server1 is stopping"), "{said:?}");
    pair.one.start();
}

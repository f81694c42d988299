//! What goes wrong with copies is told: once, to whom it concerns, and never taken for a success.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;

use rustix::process::Signal;

use crate::world::{Node, World, eventually};

const CONF: &str = "\
repo one two three
    RW+ = @all
    option mirror.master = server1
    option mirror.copies = server2
";

/// Has every alarm of a node written to a file, a line each: the event, and what came on the standard input.
fn listen(world: &World, node: &Node) -> PathBuf {
    let (program, heard) = (world.dir().join("alert"), world.dir().join("heard"));
    let script = format!("#!/bin/sh\necho \"$GITMESH_EVENT $GITMESH_EVENT_PEER $(cat)\" >>{}\n", heard.display());
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let settings = node.data().join("gitmesh.toml");
    let text = fs::read_to_string(&settings).unwrap();
    let line = "# command = \"/usr/local/bin/gitmesh-alert\"";
    assert!(text.contains(line));
    fs::write(&settings, text.replace(line, &format!("command = \"{}\"", program.display()))).unwrap();
    heard
}

#[test]
fn a_dead_peer_is_told_once_with_all_its_copies_and_its_return_once() {
    let world = World::new();
    let pair = world.pair_with(CONF);
    let alice = world.alice();
    let works = ["one", "two", "three"].map(|name| {
        let work = alice.clone_of(&pair.one, name);
        work.commit("a", "one");
        work.push(&["HEAD:main"]).succeeds();
        pair.in_step(name);
        work
    });
    pair.one.stop();
    pair.one.set("alarm_after", "\"2s\"");
    pair.one.set("retry_max", "\"1s\"");
    let heard = listen(&world, &pair.one);
    pair.one.start();
    pair.in_step("one");
    pair.there.cut();
    for work in &works {
        work.commit("a", "two");
        work.push(&["HEAD:main"]).succeeds();
    }
    let read = || fs::read_to_string(&heard).unwrap_or_default();
    eventually("the alarm", || read().contains("peer-down server2 {"));
    // Many attempts later it is still one.
    let before = pair.there.dialled();
    eventually("more attempts", || pair.there.dialled() > before + 3);
    pair.there.restore();
    ["one", "two", "three"].iter().for_each(|name| pair.in_step(name));
    eventually("the end of the alarm", || read().contains("peer-back server2 {"));
    let text = read();
    let events: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(events, ["peer-down", "peer-back"], "{text}");
    assert!(text.contains("\"copies\":3") && text.contains("\"node\":\"server1\""), "{text}");
}

#[test]
fn a_reference_that_the_replica_rejects_is_no_success() {
    let world = World::new();
    let pair = world.pair_with(CONF);
    let work = world.alice().clone_of(&pair.one, "one");
    work.commit("a", "one");
    work.push(&["HEAD:main"]).succeeds();
    pair.in_step("one");
    // gitolite takes the `[remote rejected]` of this for a success, as the word fatal is not in it.
    pair.two.git("one", &["config", "receive.denyNonFastForwards", "true"]).succeeds();
    work.git(&["commit", "-q", "--amend", "-m", "rewritten"]).succeeds();
    work.push(&["+HEAD:main", "HEAD:other"]).succeeds();
    let status = || pair.one.gitmesh(&["mirror", "status", "one"]).stdout;
    eventually("the failure to show", || status().contains("refs/heads/main"));
    assert_ne!(pair.one.oid("one", "refs/heads/main"), pair.two.oid("one", "refs/heads/main"));
    eventually("what is not rejected", || pair.two.oid("one", "refs/heads/other").is_some());
    assert!(!status().contains("in step"), "{}", status());
    pair.two.git("one", &["config", "--unset", "receive.denyNonFastForwards"]).succeeds();
    pair.in_step("one");
    eventually("the status to be well", || status().contains("in step"));
}

#[test]
fn a_hung_peer_is_cut_off_by_the_timeout_and_delays_nobody() {
    let world = World::new();
    let pair = world.pair();
    let third = world.prepare("server3");
    let _to_third = world.introduce(&third, &pair.one);
    let _back = world.introduce(&pair.one, &third);
    third.start();
    let conf = CONF.replace("copies = server2", "copies = server2 server3");
    for node in [&third, &pair.two, &pair.one] {
        world.alice().configure(node, |c| c.conf(&conf)).succeeds();
    }
    pair.one.stop();
    pair.one.set("timeout", "\"3s\"");
    pair.one.set("retry_max", "\"1s\"");
    pair.one.start();
    let work = world.alice().clone_of(&pair.one, "one");
    work.commit("a", "one");
    work.push(&["HEAD:main"]).succeeds();
    pair.in_step("one");
    pair.two.signal(Signal::STOP);
    let oid = work.commit("a", "two");
    work.push(&["HEAD:main"]).succeeds();
    eventually("the third node to have it", || third.oid("one", "refs/heads/main").as_ref() == Some(&oid));
    let status = || pair.one.gitmesh(&["mirror", "status", "one"]).stdout;
    eventually("the timeout to show", || status().contains("answer within"));
    pair.two.signal(Signal::CONT);
    pair.in_step("one");
}

/// A push that was let in as the master's ends when another master has been promised meanwhile.
#[test]
fn a_master_of_the_past_is_refused_also_in_the_middle_of_its_push() {
    let world = World::new();
    let pair = world.pair_with(CONF);
    let work = world.alice().clone_of(&pair.one, "one");
    let oid = work.commit("a", "one");
    work.push(&["HEAD:main", "HEAD:topic"]).succeeds();
    pair.in_step("one");
    pair.one.stop();
    let node = world.node_actor(&pair.one);
    let session = |epoch: u32| {
        let line = format!("gitmesh-mirror-receive 'one' version=1 epoch={epoch}");
        let mut command = node.ssh_command(&["git@server2", &line]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    };
    let mut old = session(1);
    let mut seen = Vec::new();
    while !seen.ends_with(b"0000") {
        let mut byte = [0];
        old.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
        seen.push(byte[0]);
    }
    let mut new = session(5);
    new.stdin.take().unwrap().write_all(b"0000").unwrap();
    assert!(new.wait_with_output().unwrap().status.success());
    let command = format!("{oid} {} refs/heads/topic\0 report-status delete-refs", "0".repeat(40));
    let packet = format!("{:04x}{command}0000", command.len() + 4);
    old.stdin.take().unwrap().write_all(packet.as_bytes()).unwrap();
    let said = old.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("ng refs/heads/topic"), "{said:?}");
    assert_eq!(pair.two.oid("one", "refs/heads/topic"), Some(oid));
    pair.two.expect_errors();
}

//! What goes wrong with copies is told: once, to whom it concerns, and never taken for a success.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;

use crate::world::{DEADLINE, Node, World, eventually, within};

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
fn a_restart_repeats_no_alarm_and_leaves_none_open() {
    let world = World::new();
    let pair = world.pair_with(CONF);
    let work = world.alice().clone_of(&pair.one, "one");
    work.commit("a", "one");
    work.push(&["HEAD:main"]).succeeds();
    pair.in_step("one");
    pair.one.stop();
    pair.one.set("alarm_after", "\"2s\"");
    pair.one.set("retry_max", "\"1s\"");
    let heard = listen(&world, &pair.one);
    pair.one.start();
    pair.there.cut();
    work.commit("a", "two");
    work.push(&["HEAD:main"]).succeeds();
    let read = || fs::read_to_string(&heard).unwrap_or_default();
    eventually("the alarm", || read().contains("peer-down server2 {"));
    let written = || fs::read_to_string(pair.one.data().join("state/events.log")).unwrap_or_default();
    eventually("it to be written down", || written().contains("\"peer-down\""));
    pair.one.kill9();
    pair.one.start();
    // Longer than what alarmed at first.
    let (before, begun) = (pair.there.dialled(), std::time::Instant::now());
    eventually("more attempts", || pair.there.dialled() > before + 3 && begun.elapsed() > Duration::from_secs(4));
    pair.there.restore();
    pair.in_step("one");
    eventually("the end of the alarm", || read().contains("peer-back server2 {"));
    let text = read();
    let events: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(events, ["peer-down", "peer-back"], "{text}");
}

/// A link that comes and goes is one outage after the other or none, never an alarm for each attempt.
#[test]
fn a_link_that_flaps_is_told_once_for_what_it_means() {
    let world = World::new();
    let pair = world.pair_with(CONF);
    let alice = world.alice();
    pair.one.stop();
    pair.one.set("alarm_after", "\"2s\"");
    pair.one.set("retry_max", "\"1s\"");
    let heard = listen(&world, &pair.one);
    pair.one.start();
    let work = alice.clone_of(&pair.one, "one");
    let read = || fs::read_to_string(&heard).unwrap_or_default();
    // Each outage is shorter than what alarms anybody, and everything arrives in between.
    for n in 0..4 {
        pair.there.cut();
        work.commit("a", format!("short {n}"));
        work.push(&["HEAD:main"]).succeeds();
        let before = pair.there.dialled();
        eventually("a try that fails", || pair.there.dialled() > before);
        pair.there.restore();
        pair.in_step("one");
    }
    assert_eq!(read(), "", "nothing of this concerns anybody");
    // A link that comes up for moments, in which nothing can be finished.
    for name in ["one", "two", "three"] {
        let work = alice.checkout("server1-one");
        work.commit_random("big", 3 << 20);
        work.git(&["push", "-q", &alice.url(&pair.one, name), "+HEAD:main"]).succeeds();
    }
    pair.there.delay(Duration::from_millis(40));
    let mut cuts = 0;
    eventually("an alarm, for copies that are behind for so long", || {
        pair.there.cut();
        let before = pair.there.dialled();
        within(Duration::from_millis(700), || pair.there.dialled() > before);
        pair.there.restore();
        let before = pair.there.carried();
        within(Duration::from_millis(700), || pair.there.carried() > before + 50_000);
        cuts += 1;
        read().lines().count() > 0 && cuts > 3
    });
    pair.there.delay(Duration::ZERO);
    pair.there.restore();
    ["one", "two", "three"].iter().for_each(|name| pair.in_step(name));
    let over = |text: &str| text.contains("peer-back server2 {") || text.contains("recovered server2 {");
    eventually("the end of the alarm", || over(&read()));
    let text = read();
    let events: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(events.len() <= 4, "{cuts} cuts: {text}");
    for (begin, end) in [("peer-down", "peer-back"), ("late", "recovered")] {
        let count = |word: &str| events.iter().filter(|event| **event == word).count();
        assert!(count(begin) <= 1 && count(end) <= count(begin), "{text}");
    }
}

#[test]
fn a_webhook_is_posted_each_alarm_and_its_end() {
    let world = World::new();
    let pair = world.pair_with(CONF);
    let work = world.alice().clone_of(&pair.one, "one");
    work.commit("a", "one");
    work.push(&["HEAD:main"]).succeeds();
    pair.in_step("one");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let hook = format!("http://{}/hook/secret", listener.local_addr().unwrap());
    pair.one.stop();
    pair.one.set("alarm_after", "\"2s\"");
    pair.one.set("retry_max", "\"1s\"");
    let settings = pair.one.data().join("gitmesh.toml");
    let text = fs::read_to_string(&settings).unwrap();
    let line = "# webhook = \"http://127.0.0.1:9000/gitmesh\"";
    assert!(text.contains(line));
    fs::write(&settings, text.replace(line, &format!("webhook = \"{hook}\""))).unwrap();
    pair.one.start();
    pair.there.cut();
    work.commit("a", "two");
    work.push(&["HEAD:main"]).succeeds();
    // The first answer is an error, so the alarm comes again.
    let refused = posted(&listener, "503 Service Unavailable");
    let down = posted(&listener, "204 No Content");
    assert_eq!(refused, down);
    assert!(down.starts_with("POST /hook/secret HTTP/1.1\r\n"), "{down}");
    assert!(down.contains("\"event\":\"peer-down\"") && down.contains("\"node\":\"server1\""), "{down}");
    pair.there.restore();
    pair.in_step("one");
    let back = posted(&listener, "200 OK");
    assert!(back.contains("\"event\":\"peer-back\"") && back.contains("\"peer\":\"server2\""), "{back}");
    assert!(!pair.one.log().contains("secret"), "the path of a webhook may be one");
}

/// Takes one request and answers it so.
fn posted(listener: &TcpListener, status: &str) -> String {
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let (mut request, mut buffer) = (String::new(), [0; 4096]);
    // The body is one line of JSON; its end is the end of the request.
    while !request.trim_end().ends_with('}') {
        let n = stream.read(&mut buffer).unwrap();
        assert!(n > 0, "the request broke off: {request}");
        request.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").unwrap();
    request
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
    pair.one.set("mirror.timeout", "\"3s\"");
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

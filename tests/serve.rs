//! The daemon's life: its settings, one per directory, reload, override, drain.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use crate::world::{World, eventually};

#[test]
fn an_unknown_setting_is_named_with_its_nearest_neighbour() {
    let world = World::new();
    let node = world.prepare("server1");
    let file = node.data().join("gitmesh.toml");
    let good = fs::read_to_string(&file).unwrap();
    for (from, to, words) in [
        ("listen = ", "lisen = ", ["lisen", "'listen'"]),
        ("[mirror]", "[miror]", ["miror", "'mirror'"]),
        ("retry_first = \"1s\"", "retry_first = \"1\"", ["no duration", "unit"]),
        ("workers = 4", "workers = 0", ["turn everybody away", "1 or more"]),
        ("[node]", "[node", ["gitmesh.toml:", ":"]),
    ] {
        assert!(good.contains(from), "{from}");
        fs::write(&file, good.replacen(from, to, 1)).unwrap();
        let told = node.gitmesh(&["serve"]).refused_by("gitmesh.toml:");
        words.iter().for_each(|word| drop(told.clone().says(word)));
    }
    fs::write(&file, good).unwrap();
    let nowhere = world.dir().join("nowhere").display().to_string();
    world.gitmesh(&["serve", "--data", &nowhere]).refused_by("gitmesh init");
}

#[test]
fn a_second_daemon_on_the_same_directory_is_refused() {
    let world = World::new();
    let node = world.node("server1");
    node.gitmesh(&["serve"]).refused_by("running already");
    // Also with a port of its own; and the first one is not disturbed.
    let file = node.data().join("gitmesh.toml");
    let text = fs::read_to_string(&file).unwrap().replace(&node.port().to_string(), "0");
    let other = world.dir().join("other.toml");
    fs::write(&other, text.replace("[node]", &format!("[node]\ndata = \"{}\"", node.data().display()))).unwrap();
    node.gitmesh(&["serve", "--config", &other.display().to_string()]).refused_by("running already");
    world.alice().ssh(&node, "info").succeeds();
    node.gitmesh(&["info"]).succeeds();
    // A socket that a killed daemon left behind is no obstacle.
    node.kill9();
    assert!(node.data().join("control.sock").exists());
    node.start();
    node.gitmesh(&["info"]).succeeds();
}

#[test]
fn a_port_that_is_taken_is_named() {
    let world = World::new();
    let node = world.prepare("server1");
    let taken = std::net::TcpListener::bind(node.socket_address()).unwrap();
    node.gitmesh(&["serve"]).refused_by(&node.port().to_string());
    drop(taken);
}

#[test]
fn commands_say_when_no_daemon_is_there() {
    let world = World::new();
    let node = world.prepare("server1");
    node.gitmesh(&["info"]).refused_by("gitmesh serve");
    node.gitmesh(&["mirror", "status"]).refused_by("gitmesh serve");
}

#[test]
fn an_edit_is_checked_first_and_a_bad_one_keeps_the_old() {
    let world = World::new();
    let node = world.node("server1");
    node.expect_errors();
    let file = node.data().join("gitmesh.toml");
    let good = fs::read_to_string(&file).unwrap();
    fs::write(&file, good.replace("[mirror]", "[mirrors]")).unwrap();
    eventually("the edit to be refused", || node.log().contains("mirrors"));
    world.alice().ssh(&node, "info").succeeds();
    fs::write(&file, &good).unwrap();
    let reloads = || node.log().matches("reloaded").count();
    let before = reloads();
    node.signal(Signal::HUP);
    eventually("a reload", || reloads() > before);
    world.alice().ssh(&node, "info").succeeds();
}

#[test]
fn the_emergency_override_comes_alive_by_itself() {
    let world = World::new();
    let node = world.node("server1");
    let (carol, dave) = (world.actor("carol"), world.actor("dave"));
    let keys = node.data().join("emergency-keydir");
    carol.ssh(&node, "info").refused_by("Permission denied");
    fs::create_dir_all(&keys).unwrap();
    fs::write(keys.join("carol.pub"), format!("{}\n", carol.key_line())).unwrap();
    fs::write(node.data().join("emergency.conf"), "").unwrap();
    eventually("carol to be let in", || carol.ssh(&node, "info").code == Some(0));
    // She repairs the configuration, and sees nothing else.
    carol.ls_remote(&node, "testing").refused_by("DENIED");
    carol.configure(&node, |c| c.key(&dave)).succeeds();
    dave.ssh(&node, "info").succeeds();
    // A bad file is refused, and what was in force stays.
    node.expect_errors();
    fs::write(keys.join("erin.pub"), "this is no key\n").unwrap();
    eventually("the bad key to be refused", || node.log().contains("erin.pub"));
    carol.ssh(&node, "info").succeeds();
    fs::remove_file(keys.join("erin.pub")).unwrap();
    fs::remove_file(node.data().join("emergency.conf")).unwrap();
    eventually("the override to be over", || carol.ssh(&node, "info").code != Some(0));
    world.alice().ssh(&node, "info").succeeds();
}

#[test]
fn a_signal_in_the_first_moment_is_heard() {
    let world = World::new();
    let node = world.prepare("server1");
    for _ in 0..5 {
        node.start();
        node.signal(Signal::HUP);
        node.signal(Signal::TERM);
        node.ended_well();
    }
}

#[test]
fn sighup_reads_the_override_too() {
    let world = World::new();
    let node = world.node("server1");
    let carol = world.actor("carol");
    fs::create_dir_all(node.data().join("emergency-keydir")).unwrap();
    fs::write(node.data().join("emergency-keydir/carol.pub"), carol.key_line()).unwrap();
    fs::write(node.data().join("emergency.conf"), "carol\n").unwrap();
    node.signal(Signal::HUP);
    eventually("carol to be let in", || carol.ssh(&node, "info").code == Some(0));
}

#[test]
fn a_running_clone_is_drained() {
    let world = World::new();
    let node = world.node("server1");
    let alice = world.alice();
    let work = alice.clone_of(&node, "testing");
    let oid = work.commit_random("big", 16 << 20);
    work.push(&["HEAD:main"]).succeeds();
    let slow = world.link_to(&node);
    slow.delay(Duration::from_millis(2));
    let url = alice.url_by(&slow, "testing");
    let mut clone = alice.begin(&["clone", "-q", &url, "slow"]);
    let before = slow.carried();
    eventually("the pack to be on the way", || slow.carried() > before + (1 << 20) || clone.has_ended());
    assert!(!clone.has_ended(), "the clone was to be slow");
    node.signal(Signal::TERM);
    eventually("no new connections", || !node.greets());
    assert!(!clone.has_ended(), "the clone was to be slow");
    clone.end().succeeds();
    node.ended_well();
    assert_eq!(alice.checkout("slow").oid("HEAD"), oid);
}

#[test]
fn an_idle_connection_does_not_hold_up_the_end() {
    let world = World::new();
    let node = world.node("server1");
    let master = world.alice().shared_connection(&node);
    let begun = std::time::Instant::now();
    node.stop();
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    drop(master);
}

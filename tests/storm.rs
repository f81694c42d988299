//! What a hostile user, a crowd or a crash tries: rights that outlive their key, answers that tell too much, room that
//! is taken and never given back, what a killed git or daemon leaves behind.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use crate::world::{Running, World, eventually};

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
    node.expect_errors(); // what it cannot open meanwhile, like its audit file, is said
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

#[test]
fn a_stale_lock_does_not_outlive_the_next_push() {
    let world = World::new();
    let node = world.node("server1");
    let work = world.alice().clone_of(&node, "testing");
    work.commit("a", "a");
    work.push(&["HEAD:main", "HEAD:old"]).succeeds();
    node.git("testing", &["pack-refs", "--all"]).succeeds();
    // As a git leaves them that was killed while the daemon lived on.
    fs::create_dir_all(node.repo_dir("testing").join("refs/heads")).unwrap();
    for lock in ["refs/heads/main.lock", "packed-refs.lock"] {
        let file = fs::File::create(node.repo_dir("testing").join(lock)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
    }
    work.commit("a", "b");
    work.push(&["HEAD:main", ":old"]).succeeds();
}

#[test]
fn what_landed_while_the_daemon_was_restarted_is_taken_up() {
    let world = World::new();
    let both = "option mirror.master = server1\n    option mirror.copies = server2\n";
    let pair = world.pair_with(&format!("repo testing\n    RW+ = alice\n    {both}"));
    let work = world.alice().clone_of(&pair.one, "testing");
    let first = work.commit("a", "a");
    work.push(&["HEAD:main"]).succeeds();
    pair.in_step("testing");
    // git of a push that an earlier daemon let through moves the reference and tells the new daemon.
    pair.one.git("testing", &["update-ref", "refs/heads/late", &first]).succeeds();
    let mut hook = world.command(pair.one.data().join("hooks/post-receive").to_str().unwrap());
    hook.current_dir(pair.one.repo_dir("testing")).env("GITMESH_PUSH", "0".repeat(32)).stdin(Stdio::piped());
    let mut told = Running::start(hook);
    let mut input = told.child.stdin.take().unwrap();
    writeln!(input, "{} {first} refs/heads/late", "0".repeat(40)).unwrap();
    drop(input);
    told.end().succeeds();
    pair.in_step("testing");
}

#[test]
fn a_push_to_a_symbolic_reference_moves_nothing() {
    let world = World::new();
    let node = world.node("server1");
    let work = world.alice().clone_of(&node, "testing");
    let pushed = work.commit("a", "a");
    work.push(&["HEAD:main"]).succeeds();
    node.git("testing", &["symbolic-ref", "refs/heads/alias", "refs/heads/main"]).succeeds();
    work.commit("a", "b");
    work.push(&["HEAD:alias"]).refused_by("a symbolic reference to refs/heads/main; push to that one");
    work.push(&[":alias"]).refused_by("a symbolic reference to refs/heads/main");
    assert_eq!(node.oid("testing", "refs/heads/main"), Some(pushed));
}

#[test]
fn one_user_leaves_half_of_the_connections_to_others() {
    let world = World::new();
    let node = world.node("server1");
    let bob = world.actor("bob");
    world.alice().configure(&node, |c| (c.conf(BOBS), c.key(&bob)).0).succeeds();
    node.stop();
    node.set("max_connections", "4");
    node.start();
    let _first = bob.shared_connection(&node);
    let _second = bob.shared_connection(&node);
    bob.ssh(&node, "info").refused_by("you have half of all connections here already");
    world.alice().ssh(&node, "info").succeeds();
}

//! What is answered without git must be what git answers, and a shared pack what everybody would have got alone.

use crate::world::{Node, World, eventually};

const CONF: &str = "repo testing\n    RW+ = @all\n";

/// Asks the node and git itself, by path, the same; their answers must be equal.
fn same_as_git(world: &World, node: &Node, what: &[&str]) -> String {
    let alice = world.alice();
    let (url, path) = (alice.url(node, "testing"), node.repo_dir("testing").display().to_string());
    let ask = |place: &str, version: &str| {
        let mut words = vec!["-c", version, "ls-remote", "--symref", place];
        words.extend_from_slice(what);
        alice.git(&words).succeeds().stdout
    };
    let mut served = String::new();
    for version in ["protocol.version=0", "protocol.version=1", "protocol.version=2"] {
        served = ask(&url, version);
        assert_eq!(served, ask(&path, version), "ls-remote {what:?} with {version}");
    }
    served
}

#[test]
fn listings_are_those_of_git() {
    let world = World::new();
    let node = world.node("server1");
    let alice = world.alice();
    alice.configure(&node, |c| c.conf(CONF)).succeeds();
    assert_eq!(same_as_git(&world, &node, &[]), "", "an empty repository");
    let work = alice.starts(&node, "testing");
    work.commit("a", "a");
    work.git(&["tag", "-a", "-m", "one", "v1"]).succeeds();
    work.git(&["tag", "-a", "-m", "two", "v2", "v1"]).succeeds();
    work.git(&["tag", "light"]).succeeds();
    work.push(&["HEAD:main", "HEAD:topic/a", "HEAD:topic-b", "--tags"]).succeeds();
    let everything = |world: &World| {
        for what in [&[][..], &["main"], &["--heads"], &["--tags"], &["refs/tags/v*"], &["HEAD", "topic/a"], &["none"]]
        {
            same_as_git(world, &node, what);
        }
    };
    everything(&world);
    node.git("testing", &["pack-refs", "--all"]).succeeds();
    everything(&world);
    work.commit("b", "b");
    work.git(&["tag", "-a", "-m", "three", "v3"]).succeeds();
    work.push(&["HEAD:main", ":topic-b", "v3", "HEAD:topic/c"]).succeeds();
    node.git("testing", &["symbolic-ref", "refs/heads/alias", "refs/heads/topic/a"]).succeeds();
    node.git("testing", &["symbolic-ref", "refs/heads/dangling", "refs/heads/none"]).succeeds();
    node.git("testing", &["update-ref", "refs/gitmesh/secret", "main"]).succeeds();
    everything(&world);
    let listed = same_as_git(&world, &node, &[]);
    assert!(listed.contains("refs/tags/v2^{}") && !listed.contains("secret"), "{listed}");
    node.git("testing", &["update-ref", "--no-deref", "HEAD", "main"]).succeeds();
    everything(&world);
    node.git("testing", &["symbolic-ref", "HEAD", "refs/heads/unborn"]).succeeds();
    everything(&world);
}

#[test]
fn settings_of_a_repository_about_the_protocol_hold() {
    let world = World::new();
    let node = world.node("server1");
    let work = world.alice().clone_of(&node, "testing");
    work.commit("a", "a");
    work.push(&["HEAD:main", "HEAD:hidden/x"]).succeeds();
    node.git("testing", &["config", "uploadpack.hideRefs", "refs/heads/hidden"]).succeeds();
    let listed = same_as_git(&world, &node, &[]);
    assert!(listed.contains("refs/heads/main") && !listed.contains("hidden"), "{listed}");
    world.alice().try_clone(&world.alice().url(&node, "testing"), "second").succeeds();
}

#[test]
fn clones_of_one_state_share_a_pack() {
    let world = World::new();
    let node = world.node("server1");
    let alice = world.alice();
    let work = alice.clone_of(&node, "testing");
    for n in 0..5 {
        work.commit_random(&format!("file{n}"), 300_000);
    }
    work.git(&["tag", "-a", "-m", "one", "v1"]).succeeds();
    work.push(&["HEAD:main", "v1"]).succeeds();
    let url = alice.url(&node, "testing");
    let running: Vec<_> = (0..6).map(|n| alice.begin(&["clone", "-q", &url, &format!("at-once-{n}")])).collect();
    for clone in running {
        clone.end().succeeds();
    }
    let expected = work.oid("HEAD");
    for n in 0..6 {
        let found = alice.checkout(&format!("at-once-{n}"));
        assert_eq!((found.oid("HEAD"), found.oid("v1^{}")), (expected.clone(), expected.clone()));
        found.git(&["fsck", "--strict"]).succeeds();
    }
    // Made twice: for whoever came first, and then for all others.
    let sent = |from: &str| node.metrics(&format!("gitmesh_git_packs_total{{from=\"{from}\"}}"));
    eventually("six packs", || (sent("stored"), sent("kept"), sent("made")) == (0.0, 4.0, 2.0));
    let made = || node.metrics("gitmesh_git_process_duration_seconds_count{program=\"pack-objects\"}");
    eventually("both packs", || made() >= 2.0);
    alice.try_clone(&url, "seventh").succeeds();
    assert_eq!(made(), 2.0);
    // A newer state is another pack, and a fetch of the difference is git's.
    let next = work.commit("more", "more\n");
    work.push(&["HEAD:main"]).succeeds();
    alice.git(&["-C", "at-once-0", "pull", "-q"]).succeeds();
    alice.try_clone(&url, "later").succeeds();
    assert_eq!([alice.checkout("at-once-0").oid("HEAD"), alice.checkout("later").oid("HEAD")], [next.clone(), next]);
    let first = alice.git(&["-c", "protocol.version=0", "clone", "-q", &url, "first"]);
    first.succeeds();
    alice.checkout("first").git(&["fsck", "--strict"]).succeeds();
    let old = |words: &[&str]| alice.git(&[&["-c", "protocol.version=0"], words].concat()).succeeds();
    old(&["clone", "-q", "--depth", "1", &url, "shallow"]);
    old(&["-C", "shallow", "fetch", "-q", "--unshallow"]);
    old(&["-C", "at-once-1", "pull", "-q"]);
    assert_eq!(alice.checkout("at-once-1").oid("HEAD"), work.oid("HEAD"));
    alice.git(&["clone", "-q", "--no-tags", "--single-branch", &url, "narrow"]).succeeds();
    alice.git(&["clone", "-q", "--bare", "--progress", &url, "bare.git"]).succeeds();
}

#[test]
fn a_clone_is_sent_the_stored_pack_when_that_holds_nothing_else() {
    let world = World::new();
    let node = world.node("server1");
    let alice = world.alice();
    let work = alice.clone_of(&node, "testing");
    work.commit_random("large", 9_000_000);
    work.git(&["tag", "-a", "-m", "one", "v1"]).succeeds();
    work.push(&["HEAD:main", "v1"]).succeeds();
    alice.ssh(&node, "repo gc testing").succeeds();
    let url = alice.url(&node, "testing");
    let made = || node.metrics("gitmesh_git_process_duration_seconds_count{program=\"pack-objects\"}");
    let sound = |name: &str, version: &str| {
        alice.git(&["-c", version, "clone", "-q", "--no-local", &url, name]).succeeds();
        let found = alice.checkout(name);
        found.git(&["fsck", "--strict", "--connectivity-only"]).succeeds();
        assert_eq!(found.oid("HEAD"), work.oid("HEAD"), "{name}");
        found
    };
    sound("first", "protocol.version=2");
    sound("first-of-old", "protocol.version=0");
    assert_eq!(made(), 0.0, "git made no pack");
    eventually("both are counted", || node.metrics("gitmesh_git_packs_total{from=\"stored\"}") == 2.0);
    // What came since is made, and sent behind it.
    work.commit("more", "more\n");
    work.push(&["HEAD:main"]).succeeds();
    sound("second", "protocol.version=2").git(&["fsck", "--strict"]).succeeds();
    eventually("one small pack", || made() == 1.0);
    // What nobody reaches any more lies in the pack still, and goes to nobody.
    work.git(&["checkout", "-q", "-b", "secret"]).succeeds();
    let secret = work.commit("secret", "secret\n");
    work.push(&["secret"]).succeeds();
    work.git(&["checkout", "-q", "-"]).succeeds();
    alice.ssh(&node, "repo gc testing").succeeds();
    work.push(&[":secret"]).succeeds();
    let without = sound("third", "protocol.version=2");
    without.git(&["cat-file", "-e", &secret]).fails();
    // Less than everything is asked for.
    alice.git(&["clone", "-q", "--single-branch", "--no-tags", &url, "narrow"]).succeeds();
    assert!(alice.checkout("narrow").git(&["tag"]).succeeds().stdout.is_empty());
}

#[test]
fn what_is_not_there_is_refused_in_gits_words() {
    let world = World::new();
    let node = world.node("server1");
    let work = world.alice().clone_of(&node, "testing");
    work.commit("a", "a");
    work.push(&["HEAD:main"]).succeeds();
    let missing = "0123456789012345678901234567890123456789";
    work.git(&["fetch", "origin", missing]).fails().says("not our ref");
    let empty = world.alice().checkout("empty");
    world.alice().git(&["init", "-q", "empty"]).succeeds();
    empty.git(&["fetch", &world.alice().url(&node, "testing"), missing]).fails().says("not our ref");
}

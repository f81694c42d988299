//! Clone, fetch, push and archive over SSH, as people do them.

use std::thread;

use crate::world::{Running, World};

const CONF: &str = "repo testing docs/handbook other\n    RW+ = @all\n";

#[test]
fn the_path_forms_people_use() {
    let world = World::new();
    let node = world.node("server1");
    let alice = world.alice();
    alice.configure(&node, |c| c.conf(CONF)).succeeds();
    let work = alice.starts(&node, "docs/handbook");
    let oid = work.commit("README", "hello\n");
    work.push(&["HEAD:main"]).succeeds();
    for url in [
        "git@server1:docs/handbook",
        "git@server1:docs/handbook.git",
        "git@server1:/docs/handbook.git",
        "server1:docs/handbook.git/",
        "ssh://git@server1/docs/handbook",
        "ssh://git@server1/docs/handbook.git",
    ] {
        let refs = alice.git(&["ls-remote", url, "main"]).succeeds();
        assert_eq!(refs.stdout, format!("{oid}\trefs/heads/main\n"), "{url}");
    }
    for line in
        ["git-upload-pack 'docs/handbook'", "git upload-pack docs/handbook", "git-upload-pack \"/docs/handbook.git\""]
    {
        alice.ssh(&node, line).says(&oid);
    }
}

#[test]
fn push_fetch_and_archive() {
    let world = World::new();
    let node = world.node("server1");
    let alice = world.alice();
    let first = alice.clone_of(&node, "testing");
    let oid = first.commit("dir/file", "one\n");
    first.push(&["HEAD:main"]).succeeds();
    assert_eq!(node.oid("testing", "refs/heads/main"), Some(oid));
    alice.try_clone(&alice.url(&node, "testing"), "second").succeeds();
    let next = first.commit("dir/file", "two\n");
    first.push(&["HEAD:main", "HEAD:refs/heads/topic/a", "HEAD:refs/tags/v1"]).succeeds();
    alice.git(&["-C", "second", "fetch", "-q", "--tags"]).succeeds();
    let fetched = alice.git(&["-C", "second", "rev-parse", "origin/main", "origin/topic/a", "v1"]).succeeds();
    assert_eq!(fetched.stdout, format!("{next}\n{next}\n{next}\n"));
    let archive = alice.git(&["archive", "--remote", &alice.url(&node, "testing"), "main", "dir"]).succeeds();
    archive.says("dir/file");
    alice.git(&["clone", "-q", "--depth", "1", &alice.url(&node, "testing"), "shallow"]).succeeds();
    alice.git(&["clone", "-q", "--filter=blob:none", &alice.url(&node, "testing"), "partial"]).succeeds();
    node.is_sound("testing");
}

#[test]
fn protocol_version_2_is_spoken() {
    let world = World::new();
    let node = world.node("server1");
    let work = world.alice().clone_of(&node, "testing");
    work.commit("a", "a");
    work.push(&["HEAD:main"]).succeeds();
    let trace = work.git_with(&[("GIT_TRACE_PACKET", "1")], &["-c", "protocol.version=2", "ls-remote", "origin"]);
    trace.succeeds().says("version 2").says("command=ls-refs");
    let old = work.git_with(&[("GIT_TRACE_PACKET", "1")], &["-c", "protocol.version=0", "ls-remote", "origin"]);
    old.succeeds().does_not_say("version 2").says("refs/heads/main");
}

#[test]
fn ten_thousand_references_in_one_push() {
    let world = World::new();
    let node = world.node("server1");
    let work = world.alice().clone_of(&node, "testing");
    work.commit("a", "a");
    work.many_refs("refs/heads/many", 10_000);
    work.push(&["-q", "refs/heads/many/*:refs/heads/many/*"]).succeeds();
    assert_eq!(node.refs("testing").len(), 10_000);
    work.push(&["-q", "--prune", "refs/heads/none/*:refs/heads/many/99*"]).succeeds();
    assert_eq!(node.refs("testing").len(), 10_000 - 111);
}

#[test]
fn an_atomic_push_is_all_or_nothing() {
    let world = World::new();
    let node = world.node("server1");
    let bob = world.actor("bob");
    let conf = "repo testing\n    - release = bob\n    RW+ = @all\n";
    world.alice().configure(&node, |c| (c.conf(conf), c.key(&bob)).0).succeeds();
    let work = bob.clone_of(&node, "testing");
    work.commit("a", "a");
    let push = work.push(&["--atomic", "HEAD:main", "HEAD:release", "HEAD:topic"]).fails();
    push.says("! [remote rejected] HEAD -> release (denied by")
        .says("another reference of this atomic push is refused");
    assert!(node.refs("testing").is_empty(), "nothing may have landed");
    // Without the word, what is allowed lands.
    work.push(&["HEAD:main", "HEAD:release", "HEAD:topic"]).refused_by("! [remote rejected] HEAD -> release");
    assert_eq!(node.refs("testing").keys().collect::<Vec<_>>(), ["refs/heads/main", "refs/heads/topic"]);
    work.push(&["--atomic", "HEAD:x", "HEAD:y"]).succeeds();
}

#[test]
fn many_push_to_one_repository_at_once() {
    let world = World::new();
    let node = world.node("server1");
    let alice = world.alice();
    let works: Vec<_> = (0..8)
        .map(|i| {
            let into = format!("work{i}");
            alice.try_clone(&alice.url(&node, "testing"), &into).succeeds();
            let work = alice.checkout(&into);
            work.commit(&format!("file{i}"), format!("{i}"));
            work
        })
        .collect();
    // Each to a branch of its own: all land.
    thread::scope(|scope| {
        for (i, work) in works.iter().enumerate() {
            scope.spawn(move || work.push(&[&format!("HEAD:own{i}")]).succeeds());
        }
    });
    for (i, work) in works.iter().enumerate() {
        assert_eq!(node.oid("testing", &format!("refs/heads/own{i}")), Some(work.oid("HEAD")));
    }
    // All to the same new branch: one wins, and it is one of them.
    let won = thread::scope(|scope| {
        let pushes: Vec<_> =
            works.iter().map(|work| scope.spawn(move || work.push(&["HEAD:same"]).code == Some(0))).collect();
        pushes.into_iter().map(|p| p.join().unwrap()).filter(|won| *won).count()
    });
    assert_eq!(won, 1);
    let same = node.oid("testing", "refs/heads/same").unwrap();
    assert!(works.iter().any(|work| work.oid("HEAD") == same));
    node.is_sound("testing");
}

#[test]
fn many_push_to_many_repositories_at_once() {
    let world = World::new();
    let node = world.node("server1");
    let alice = world.alice();
    let names: Vec<String> = (0..12).map(|i| format!("group{}/repo{i}", i % 3)).collect();
    let conf = format!("repo {}\n    RW+ = @all\n", names.join(" "));
    alice.configure(&node, |c| c.conf(&conf)).succeeds();
    thread::scope(|scope| {
        for name in &names {
            let node = &node;
            scope.spawn(move || {
                let work = alice.starts(node, name);
                for i in 0..3 {
                    let oid = work.commit("file", format!("{name} {i}"));
                    work.push(&["HEAD:main"]).succeeds();
                    assert_eq!(node.oid(name, "refs/heads/main"), Some(oid));
                }
            });
        }
    });
}

#[test]
fn an_empty_repository_is_cloned_and_its_first_branch_is_main() {
    let world = World::new();
    let node = world.node("server1");
    let url = world.alice().url(&node, "testing");
    let mut command = world.alice().git_command(&world.alice().dir(), &["clone", &url, "empty"]);
    command.stdin(std::process::Stdio::null());
    Running::start(command).end().succeeds().says("empty repository");
    assert_eq!(node.head("testing"), "ref: refs/heads/main");
}

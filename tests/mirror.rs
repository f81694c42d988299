//! Mirroring: what is pushed to the master arrives on the replica, whatever happens in between.

use std::thread;

use crate::world::{Pair, World, eventually};

const CONF: &str = "\
repo testing
    RW+ = @all
    option mirror.master = server1
    option mirror.copies = server2
";

fn pair(world: &World) -> Pair {
    world.pair_with(CONF)
}

#[test]
fn every_kind_of_change_arrives() {
    let world = World::new();
    let pair = pair(&world);
    let work = world.alice().clone_of(&pair.one, "testing");
    work.commit("a", "one");
    let pushed = work.push(&["HEAD:main", "HEAD:topic", "HEAD:refs/tags/light", "HEAD:refs/notes/x"]).succeeds();
    let line = pushed.remote_lines();
    assert!(line.starts_with('(') && line.ends_with("&) server1 ==== (testing) ===> server2"), "{line}");
    pair.in_step("testing");
    assert_eq!(pair.two.refs("testing").len(), 4);

    work.commit("a", "two");
    work.git(&["tag", "-a", "-m", "annotated", "v1"]).succeeds();
    work.push(&["HEAD:main", "v1"]).succeeds();
    pair.in_step("testing");

    work.git(&["commit", "-q", "--amend", "-m", "rewritten"]).succeeds();
    work.push(&["+HEAD:main", "+HEAD:refs/tags/light"]).succeeds();
    pair.in_step("testing");

    work.push(&[":topic", ":refs/tags/light", ":refs/notes/x"]).succeeds();
    pair.in_step("testing");
    assert_eq!(pair.two.refs("testing").keys().collect::<Vec<_>>(), ["refs/heads/main", "refs/tags/v1"]);

    // A branch becomes a directory and the other way round.
    work.push(&["HEAD:dir"]).succeeds();
    pair.in_step("testing");
    work.push(&[":dir"]).succeeds();
    work.push(&["HEAD:dir/file"]).succeeds();
    pair.in_step("testing");
    pair.two.is_sound("testing");
}

#[test]
fn a_small_push_and_its_mirror_push_are_seen_to_be_whole_without_a_process() {
    let world = World::new();
    let pair = pair(&world);
    let work = world.alice().clone_of(&pair.one, "testing");
    let asked = "gitmesh_git_process_duration_seconds_count{program=\"rev-list\"}";
    let asked = || [&pair.one, &pair.two].map(|node| node.metrics(asked));
    let before = asked();
    let push = |what: &[&str]| {
        work.push(what).succeeds();
        pair.in_step("testing");
    };
    let first = work.commit("dir/a", "one");
    push(&["HEAD:main"]);
    work.commit("dir/b", "two");
    work.commit("c", "three");
    push(&["HEAD:main"]);
    push(&["HEAD:topic"]);
    work.git(&["mv", "dir", "moved"]).succeeds();
    work.git(&["commit", "-q", "-m", "moved"]).succeeds();
    work.git(&["tag", "-a", "-m", "annotated", "v1"]).succeeds();
    push(&["HEAD:topic", "v1"]);
    work.git(&["commit", "-q", "--amend", "-m", "rewritten"]).succeeds();
    push(&["+HEAD:topic"]);
    work.git(&["reset", "-q", "--hard", "HEAD^"]).succeeds();
    work.commit("d", "four");
    work.git(&["merge", "-q", "--no-ff", "-m", "merge", "origin/topic"]).succeeds();
    push(&["HEAD:main", ":topic"]);
    assert_eq!(asked(), before, "git was asked");
    // What begins further back is git's to look for.
    work.git(&["checkout", "-q", "-b", "old", &first]).succeeds();
    work.commit("e", "five");
    push(&["HEAD:old"]);
    assert!(asked().iter().zip(before).all(|(now, before)| *now > before), "git was not asked");
    pair.two.is_sound("testing");
}

#[test]
fn head_follows_the_master() {
    let world = World::new();
    let pair = pair(&world);
    let work = world.alice().clone_of(&pair.one, "testing");
    work.commit("a", "one");
    work.push(&["HEAD:main", "HEAD:trunk"]).succeeds();
    pair.in_step("testing");
    pair.one.git("testing", &["symbolic-ref", "HEAD", "refs/heads/trunk"]).succeeds();
    work.commit("a", "two");
    work.push(&["HEAD:trunk"]).succeeds();
    pair.in_step("testing");
    assert_eq!(pair.two.head("testing"), "ref: refs/heads/trunk");
    let copy = world.alice().clone_of(&pair.two, "testing");
    assert_eq!(copy.oid("HEAD"), work.oid("HEAD"));
}

#[test]
fn a_detached_head_and_the_description_travel() {
    let world = World::new();
    let pair = pair(&world);
    let work = world.alice().clone_of(&pair.one, "testing");
    let first = work.commit("a", "one");
    work.commit("a", "two");
    work.push(&["HEAD:main"]).succeeds();
    pair.in_step("testing");
    pair.one.git("testing", &["update-ref", "--no-deref", "HEAD", &first]).succeeds();
    std::fs::write(pair.one.repo_dir("testing").join("description"), "Tests, and more\n").unwrap();
    pair.one.gitmesh(&["mirror", "push", "server2", "testing"]).succeeds();
    assert_eq!(pair.two.head("testing").trim(), first);
    let description = || std::fs::read_to_string(pair.two.repo_dir("testing").join("description"));
    assert_eq!(description().unwrap(), "Tests, and more\n");
    // HEAD on what no reference leads to: the objects came with a push, or the copy says why it cannot follow.
    let lone = work.commit("a", "alone");
    work.push(&["HEAD:topic"]).succeeds();
    pair.one.git("testing", &["update-ref", "--no-deref", "HEAD", &lone]).succeeds();
    work.push(&[":topic"]).succeeds();
    eventually("HEAD to follow", || pair.two.head("testing").trim() == lone);
    std::fs::remove_file(pair.one.repo_dir("testing").join("description")).unwrap();
    pair.one.git("testing", &["symbolic-ref", "HEAD", "refs/heads/main"]).succeeds();
    pair.one.gitmesh(&["mirror", "push", "server2", "testing"]).succeeds();
    pair.in_step("testing");
    assert!(description().is_err(), "what is gone there is gone here");
}

#[test]
fn a_missing_repository_is_created_where_both_sides_agree() {
    let world = World::new();
    let pair = pair(&world);
    // No session is in it when it goes.
    pair.one.gitmesh(&["mirror", "wait", "testing", "--all"]).succeeds();
    pair.two.lose_repo("testing");
    let work = world.alice().clone_of(&pair.one, "testing");
    work.commit("a", "one");
    work.push(&["HEAD:main"]).succeeds();
    pair.in_step("testing");
}

#[test]
fn a_user_does_not_push_to_a_copy_and_may_fetch_from_it() {
    let world = World::new();
    let pair = pair(&world);
    let alice = world.alice();
    let work = alice.clone_of(&pair.one, "testing");
    let oid = work.commit("a", "one");
    work.push(&["HEAD:main"]).succeeds();
    pair.in_step("testing");
    let copy = alice.clone_of(&pair.two, "testing");
    assert_eq!(copy.oid("HEAD"), oid);
    copy.commit("b", "in the wrong place");
    let refused = copy.push(&["HEAD:main"]).refused_by("fatal: remote error: this is a copy; push to server1: ");
    refused.says("git@127.0.0.1:").says("testing.git");
    alice.ssh(&pair.two, "info").succeeds().says("testing\tcopy of server1");
    // Past SSH, on the machine itself, the same is said.
    let path = pair.two.repo_dir("testing").display().to_string();
    copy.git(&["push", &path, "HEAD:main"]).refused_by("this is a copy; push to server1");
    assert_eq!(pair.one.refs("testing"), pair.two.refs("testing"));
}

#[test]
fn a_push_by_path_on_the_machine_is_mirrored() {
    let world = World::new();
    let pair = pair(&world);
    let work = world.alice().clone_of(&pair.one, "testing");
    work.commit("a", "one");
    let path = pair.one.repo_dir("testing").display().to_string();
    work.git(&["push", &path, "HEAD:main"]).succeeds().says("server1 ==== (testing) ===> server2");
    pair.in_step("testing");
    work.git(&["push", &path, "HEAD:refs/gitmesh/x"]).fails();
}

#[test]
fn both_nodes_prove_themselves_with_one_key() {
    let world = World::new();
    let pair = world.pair();
    let (one, two) = (world.node_actor(&pair.one), world.node_actor(&pair.two));
    one.ssh(&pair.two, "info").succeeds().says("Hello server1, I am server2");
    two.ssh(&pair.one, "info").succeeds().says("Hello server2, I am server1");
    // A node is no user.
    one.ls_remote(&pair.two, "gitmesh-admin").fails();
    one.ssh(&pair.one, "info").refused_by("Permission denied");
}

#[test]
fn who_is_not_the_master_is_refused() {
    let world = World::new();
    let pair = world.pair();
    let third = world.prepare("server3");
    let _to_two = world.introduce(&third, &pair.two);
    let alice = world.alice();
    // server1 thinks that it is the master; server2 thinks that server3 is.
    alice.configure(&pair.two, |c| c.conf(&CONF.replace("server1", "server3"))).succeeds();
    alice.configure(&pair.one, |c| c.conf(CONF)).succeeds();
    let work = alice.clone_of(&pair.one, "testing");
    work.commit("a", "one");
    work.push(&["HEAD:main"]).succeeds();
    let refused = alice.ssh(&pair.one, "mirror push server2 testing").fails();
    refused.says("not the master of 'testing'");
    assert!(pair.two.refs("testing").is_empty());
    eventually("the status to say so", || {
        alice.ssh(&pair.one, "mirror status testing").stdout.contains("not the master")
    });
    eventually("a log line on the replica", || pair.two.log().contains("not the master"));
    // By hand, with the node's key.
    let one = world.node_actor(&pair.one);
    let line = "gitmesh-mirror-receive 'testing' version=1 epoch=1";
    one.ssh(&pair.two, line).refused_by("not the master");
    one.ssh(&pair.two, &line.replace("version=1", "version=99")).refused_by("mirror protocol version 2, the master 99");
    one.ssh(&pair.two, "gitmesh-mirror-digests version=99")
        .refused_by("speaks mirror protocol version 1, not 'version=99'");
    let push = alice.ssh(&pair.two, line).fails();
    push.says("only the node that is master");
}

#[test]
fn mirroring_by_hand() {
    let world = World::new();
    let pair = pair(&world);
    let alice = world.alice();
    let work = alice.clone_of(&pair.one, "testing");
    work.commit("a", "one");
    work.push(&["HEAD:main"]).succeeds();
    pair.in_step("testing");
    // Something that no hook saw: only a push by hand (or the next scan) finds it.
    let update = |name: &str| pair.one.git("testing", &["update-ref", name, &work.oid("HEAD")]).succeeds();
    let _ = update("refs/heads/one");
    pair.one.gitmesh(&["mirror", "push", "server2", "testing"]).succeeds().says("server1 ==== (testing) ===> server2");
    assert_eq!(pair.one.refs("testing"), pair.two.refs("testing"));
    let _ = update("refs/heads/two");
    pair.one.gitmesh(&["mirror", "request-push", "testing"]).succeeds().says("server1 ==== (testing) ===> server2");
    assert_eq!(pair.one.refs("testing"), pair.two.refs("testing"));
    let _ = update("refs/heads/three");
    alice.ssh(&pair.one, "mirror push server2 testing").succeeds();
    assert_eq!(pair.one.refs("testing"), pair.two.refs("testing"));
    alice.ssh(&pair.one, "mirror status").succeeds().says("testing\tserver2");
    pair.one.gitmesh(&["mirror", "status", "testing"]).succeeds().says("testing\tserver2");
    // And what cannot be.
    alice.ssh(&pair.two, "mirror push server1 testing").refused_by("its master is server1");
    alice.ssh(&pair.one, "mirror push server9 testing").refused_by("server9 is no replica of 'testing'");
    alice.ssh(&pair.one, "mirror push").refused_by("usage:");
    alice.ssh(&pair.one, "mirror push server2 gitmesh-admin").refused_by("no replica");
}

#[test]
fn many_pushes_to_many_repositories_all_arrive() {
    let world = World::new();
    let names: Vec<String> = (0..6).map(|i| format!("many/repo{i}")).collect();
    let pair = world.pair_with(&CONF.replace("repo testing", &format!("repo {}", names.join(" "))));
    let alice = world.alice();
    thread::scope(|scope| {
        for name in &names {
            let node = &pair.one;
            scope.spawn(move || {
                let work = alice.starts(node, name);
                for i in 0..5 {
                    work.commit("file", format!("{name} {i}"));
                    work.push(&["+HEAD:main", &format!("HEAD:refs/tags/{i}")]).succeeds();
                }
            });
        }
    });
    for name in &names {
        pair.in_step(name);
        assert_eq!(pair.two.refs(name).len(), 6);
    }
}

#[test]
fn a_thousand_references_arrive() {
    let world = World::new();
    let pair = pair(&world);
    let work = world.alice().clone_of(&pair.one, "testing");
    work.commit("a", "a");
    work.many_refs("refs/heads/many", 1_000);
    work.push(&["-q", "refs/heads/many/*:refs/heads/many/*"]).succeeds();
    pair.in_step("testing");
    assert_eq!(pair.two.refs("testing").len(), 1_000);
}

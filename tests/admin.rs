//! A push to the admin repository that is good: live at once.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::world::{Node, World, eventually};

#[test]
fn a_good_push_is_live_for_the_next_connection() {
    let world = World::new();
    let node = world.node("server1");
    let (alice, bob) = (world.alice(), world.actor("bob"));
    bob.ssh(&node, "info").refused_by("Permission denied");
    let conf = "@staff = bob\nrepo testing\n    RW+ = @all\nrepo new/one new/two\n    RW+ = @staff\n";
    let push = alice.configure(&node, |c| (c.conf(conf), c.key(&bob)).0).succeeds();
    assert!(node.has_repo("new/one") && node.has_repo("new/two"), "they exist when the push returns: {push:#?}");
    bob.ssh(&node, "info").succeeds().says(" R W\tnew/one");
    let work = bob.starts(&node, "new/two");
    work.commit("a", "a");
    work.push(&["HEAD:main"]).succeeds();
    // Taken away again, it stays on disk and nobody reaches it.
    alice.configure(&node, |c| c.conf("repo testing\n    RW+ = @all\n")).succeeds();
    bob.ls_remote(&node, "new/two").refused_by("DENIED");
    assert!(node.has_repo("new/two"));
}

#[test]
fn the_pusher_reads_what_changes() {
    let world = World::new();
    let node = world.node("server1");
    let bob = world.actor("bob");
    let push = world.alice().configure(&node, |c| {
        c.conf("repo testing\n    RW+ = @all\nrepo new\n    RW+ = bob\n");
        c.key(&bob);
    });
    insta::assert_snapshot!(push.succeeds().remote_lines(), @r"
    plan:
      +1 repository (new)
      + RW+ = bob   (conf/gitmesh.conf:7)
      +1 key (bob)
    generation 2 is in force; 1 made: new
    ");
}

#[test]
fn git_s_config_and_description_are_written() {
    let world = World::new();
    let node = world.node("server1");
    let conf = "repo testing\n    RW+ = @all\n    desc = The testing ground\n    owner = Alice\n";
    world.alice().configure(&node, |c| c.conf(conf)).succeeds();
    assert_eq!(node.git("testing", &["config", "gitweb.owner"]).succeeds().stdout, "Alice\n");
    let description = std::fs::read_to_string(node.repo_dir("testing").join("description")).unwrap();
    assert_eq!(description, "The testing ground\n");
    world.alice().configure(&node, |c| c.conf("repo testing\n    RW+ = @all\n")).succeeds();
    node.git("testing", &["config", "gitweb.owner"]).fails();
}

#[test]
fn another_branch_of_the_admin_repository_changes_nothing() {
    let world = World::new();
    let node = world.node("server1");
    let work = world.alice().clone_of(&node, "gitmesh-admin");
    work.commit("conf/gitmesh.conf", "not a configuration at all");
    work.push(&["HEAD:draft"]).succeeds().says("draft");
    world.alice().ssh(&node, "info").succeeds();
    work.push(&["HEAD:main"]).refused_by("! [remote rejected] HEAD -> main");
    work.push(&[":main"]).refused_by("! [remote rejected] main");
    world.alice().ssh(&node, "info").succeeds();
}

#[test]
fn a_push_by_path_is_checked_and_live_too() {
    let world = World::new();
    let node = world.node("server1");
    let (alice, bob) = (world.alice(), world.actor("bob"));
    let path = node.repo_dir("gitmesh-admin").display().to_string();
    alice.try_clone(&path, "by-path").succeeds();
    let work = alice.checkout("by-path");
    work.commit("keydir/bob.pub", bob.key_line());
    work.push(&["HEAD:main"]).succeeds();
    bob.ssh(&node, "info").succeeds();
    work.commit("keydir/eve.pub", "no key");
    work.push(&["HEAD:main"]).refused_by("keydir/eve.pub");
}

#[test]
fn the_configuration_survives_a_restart() {
    let world = World::new();
    let node = world.node("server1");
    let bob = world.actor("bob");
    world.alice().configure(&node, |c| (c.conf("repo testing\n    RW = bob\n"), c.key(&bob)).0).succeeds();
    node.kill9();
    node.start();
    bob.ssh(&node, "info").succeeds().says(" R W\ttesting");
}

#[test]
fn administrators_who_push_at_once_do_not_overwrite_each_other() {
    let world = World::new();
    let node = world.node("server1");
    let alice = world.alice();
    let works: Vec<_> = (0..4)
        .map(|i| {
            let into = format!("admin{i}");
            alice.try_clone(&alice.url(&node, "gitmesh-admin"), &into).succeeds();
            let work = alice.checkout(&into);
            work.commit(&format!("keydir/user{i}.pub"), world.actor(&format!("user{i}")).key_line());
            work
        })
        .collect();
    let won = std::thread::scope(|scope| {
        let pushes: Vec<_> = works.iter().map(|w| scope.spawn(|| w.push(&["HEAD:main"]).code == Some(0))).collect();
        pushes.into_iter().map(|p| p.join().unwrap()).filter(|won| *won).count()
    });
    assert_eq!(won, 1);
    // What is live is what the branch says.
    let head = node.oid("gitmesh-admin", "refs/heads/main").unwrap();
    eventually("the winner to be in force", || node.log().contains(&head));
}

/// Whoever comes from gitolite has a clone of another history, with `master` and conf/gitolite.conf, and pushes that.
#[test]
fn the_branch_and_the_file_of_gitolite_come_alive() {
    let world = World::new();
    let node = world.node("server1");
    let work = world.alice().starts(&node, "gitmesh-admin");
    work.git(&["checkout", "-q", "-b", "master"]).succeeds();
    work.commit("conf/gitolite.conf", "repo gitolite-admin\n    RW+ = alice\ninclude \"more*.conf\"\n");
    work.commit("conf/more1.conf", "repo from/gitolite\n    RW+ = @all\n");
    work.commit("keydir/alice.pub", format!("{}\n", world.alice().key_line()));
    let pushed = work.push(&["master"]).succeeds();
    pushed.says("refs/heads/master is the live branch from now on").says("from/gitolite");
    assert_eq!(node.head("gitmesh-admin"), "ref: refs/heads/master");
    assert!(node.has_repo("from/gitolite"));

    // From here on that one is live, and the other is not.
    work.commit("conf/more1.conf", "repo from/gitolite more\n    RW+ = @all\n");
    work.push(&["master"]).succeeds();
    assert!(node.has_repo("more"));
    work.push(&["+master:main"]).succeeds().says("only 'refs/heads/master' is the live configuration");
    work.push(&[":master"]).refused_by("! [remote rejected] master");
}

/// A branch of that name is no way around the rules of the live one.
#[test]
fn who_may_not_write_the_live_branch_makes_no_other_live() {
    let world = World::new();
    let node = world.node("server1");
    let bob = world.actor("bob");
    let conf = "repo gitmesh-admin\n    RW+ = alice\n    - main$ = bob\n    RW+ = bob\n";
    world.alice().configure(&node, |c| (c.whole_conf(conf), c.key(&bob)).0).succeeds();
    let work = bob.clone_of(&node, "gitmesh-admin");
    work.commit("conf/gitmesh.conf", format!("{conf}repo stolen\n    RW+ = bob\n"));
    work.push(&["HEAD:master"]).succeeds().says("'refs/heads/master' changes nothing");
    assert_eq!(node.head("gitmesh-admin"), "ref: refs/heads/main");
    assert!(!node.has_repo("stolen"));
}

/// Every file and directory of the repositories, but those of the configuration itself, as far as the disk can tell
/// that it was touched.
fn on_disk(node: &Node) -> BTreeMap<PathBuf, (u64, u64, i64, i64, i64, i64)> {
    fn walk(at: &Path, found: &mut BTreeMap<PathBuf, (u64, u64, i64, i64, i64, i64)>) {
        let of = at.symlink_metadata().unwrap();
        let times = (of.ino(), of.size(), of.mtime(), of.mtime_nsec(), of.ctime(), of.ctime_nsec());
        found.insert(at.to_owned(), times);
        if of.is_dir() {
            std::fs::read_dir(at).unwrap().for_each(|entry| walk(&entry.unwrap().path(), found));
        }
    }
    let mut found = BTreeMap::new();
    walk(&node.data().join("repositories"), &mut found);
    found.retain(|path, _| !path.starts_with(node.repo_dir("gitmesh-admin")));
    found
}

#[test]
fn one_line_touches_one_repository_and_a_rule_none() {
    let world = World::new();
    let (node, alice) = (world.node("server1"), world.alice());
    let repos: String = (0..20)
        .map(|n| format!("repo many/r{n}\n    RW+ = alice\n    desc = number {n}\n    owner = Alice\n"))
        .collect();
    let configure = |more: &str| {
        let conf = format!("{repos}repo testing\n    RW+ = @all\n{more}");
        alice.configure(&node, |c| c.conf(&conf)).succeeds().says("is in force");
        on_disk(&node)
    };
    let before = configure("");
    let after = configure("repo many/r7\n    desc = changed\n");
    let of_it = node.repo_dir("many/r7");
    let description = std::fs::read_to_string(of_it.join("description")).unwrap();
    assert_eq!(description, "changed\n");
    let touched: Vec<_> =
        after.iter().filter(|(path, is)| before.get(*path) != Some(is)).map(|(path, _)| path).collect();
    assert!(!touched.is_empty() && touched.iter().all(|path| path.starts_with(&of_it)), "{touched:#?}");
    assert!(before.keys().all(|path| path.starts_with(&of_it) || after.contains_key(path)));

    assert_eq!(configure("repo many/r7\n    desc = changed\n    R = alice\n"), after);
}

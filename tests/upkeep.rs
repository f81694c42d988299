//! `repo gc` and `repo fsck`, by hand and by the clock; whose turn comes when is tested beside the code
//! (`repo::maintenance`).

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::world::{Node, Running, World, eventually};

const MIRRORED: &str = "\
repo testing
    RW+ = @all
    option mirror.master = server1
    option mirror.copies = server2
";

/// Something in the middle of what git has stored turns into something else.
fn corrupt(node: &Node, repo: &str) {
    node.git(repo, &["repack", "-adq"]).succeeds();
    let packs = fs::read_dir(node.repo_dir(repo).join("objects/pack")).unwrap();
    for pack in packs.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "pack")) {
        let mut bytes = fs::read(&pack).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        fs::set_permissions(&pack, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&pack, bytes).unwrap();
    }
}

/// The words of the events that a node has kept, without their repetitions.
fn events(node: &Node) -> Vec<String> {
    let path = node.data().join("state/events.log");
    let text = fs::read_to_string(path).unwrap_or_default();
    let words = text.lines().filter_map(|line| line.split("\"event\":\"").nth(1)?.split('"').next().map(str::to_owned));
    words.filter(|word| word == "damaged" || word == "sound").collect()
}

#[test]
fn repositories_are_packed_and_checked_by_hand() {
    let world = World::new();
    let node = world.node("server1");
    let (alice, bob) = (world.alice(), world.actor("bob"));
    let configured = alice.configure(&node, |c| {
        c.conf("repo docs/a docs/b\n    RW+ = @all\n");
        c.key(&bob);
    });
    configured.succeeds();
    let work = bob.starts(&node, "docs/a");
    for n in 0..3 {
        work.commit("a", format!("{n}"));
        work.push(&["HEAD"]).succeeds();
    }
    bob.ssh(&node, "repo gc docs/a").refused_by("for administrators");
    alice.ssh(&node, "repo gc nothing/such").refused_by("no repository on this node fits");
    alice.ssh(&node, "repo gc").refused_by("usage");
    alice.ssh(&node, "repo gc ^docs/").succeeds().says("docs/a: done\ndocs/b: done\n");
    node.gitmesh(&["repo", "fsck", "docs/a"]).succeeds().says("docs/a: done");
    bob.try_clone(&bob.url(&node, "docs/a"), "again").succeeds();
    work.commit("a", "after");
    work.push(&["HEAD"]).succeeds();

    node.expect_errors();
    let packs = fs::read_dir(node.repo_dir("docs/a").join("objects/pack")).unwrap();
    for pack in packs.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "pack")) {
        fs::remove_file(pack).unwrap();
    }
    let told = alice.ssh(&node, "repo fsck docs/a").says("docs/a: DAMAGED");
    assert_eq!(told.code, Some(1));
    assert!(node.log().contains("the repository is damaged"));
    node.gitmesh(&["repo", "fsck", "docs/b"]).succeeds();
}

#[test]
fn a_damaged_replica_is_said_everywhere_until_its_master_has_repaired_it() {
    let world = World::new();
    let pair = world.pair_with(MIRRORED);
    let work = world.alice().clone_of(&pair.one, "testing");
    work.commit("a", "text ".repeat(500));
    work.push(&["HEAD:main"]).succeeds();
    pair.in_step("testing");
    corrupt(&pair.two, "testing");
    pair.two.expect_errors();
    let cure = "on server1, 'gitmesh mirror repair server2 testing' makes it anew";
    pair.two.gitmesh(&["repo", "fsck", "testing"]).fails().says(cure);
    pair.two.gitmesh(&["mirror", "status", "testing"]).fails().says("testing is DAMAGED here").says(cure);
    pair.two.gitmesh(&["mirror", "status", "--json"]).fails().says("\"damaged\":[{\"repo\":\"testing\"");
    pair.two.gitmesh(&["status"]).fails().says("testing is DAMAGED here");
    // A second look finds the same, which nobody is told again.
    pair.two.gitmesh(&["repo", "fsck", "testing"]).fails();
    eventually("the event", || events(&pair.two) == ["damaged"]);
    world.alice().ssh(&pair.one, "doctor").fails().says("the repository 'testing' is damaged").says(cure);
    pair.two.stop();
    pair.two.start();
    pair.two.gitmesh(&["mirror", "status", "testing"]).fails().says("testing is DAMAGED here");

    pair.one.gitmesh(&["mirror", "repair", "server2", "testing"]).succeeds().says("made anew");
    pair.two.gitmesh(&["repo", "fsck", "testing"]).succeeds().says("testing: done");
    eventually("the end of it", || events(&pair.two) == ["damaged", "sound"]);
    eventually("nothing to be wrong", || pair.two.gitmesh(&["status"]).code == Some(0));
    assert!(!pair.two.gitmesh(&["doctor"]).stdout.contains("is damaged"));
}

#[test]
fn a_damaged_master_hands_over_and_is_made_anew() {
    let world = World::new();
    let pair = world.pair_with(MIRRORED);
    let work = world.alice().clone_of(&pair.one, "testing");
    work.commit("a", "text ".repeat(500));
    work.push(&["HEAD:main"]).succeeds();
    pair.in_step("testing");
    corrupt(&pair.one, "testing");
    pair.one.expect_errors();
    let fsck = pair.one.gitmesh(&["repo", "fsck", "testing"]).fails();
    fsck.says("'gitmesh mirror move testing --to server2', and there 'gitmesh mirror repair server1 testing'");
    eventually("the other node to have heard", || {
        pair.two.gitmesh(&["status"]).stdout.contains("1 repository DAMAGED")
    });
    pair.one.gitmesh(&["mirror", "move", "testing", "--to", "server2"]).succeeds();
    pair.two.gitmesh(&["mirror", "repair", "server1", "testing"]).succeeds().says("made anew");
    pair.one.gitmesh(&["repo", "fsck", "testing"]).succeeds();
    pair.one.is_sound("testing");
    eventually("the end of it", || events(&pair.one) == ["damaged", "sound"]);
}

#[test]
fn a_node_packs_and_checks_by_itself() {
    let world = World::new();
    let node = world.prepare("server1");
    node.set("gc_every", "\"1s\"");
    node.set("fsck_every", "\"1s\"");
    node.start();
    let work = world.alice().clone_of(&node, "testing");
    let packs = || {
        let files = fs::read_dir(node.repo_dir("testing").join("objects/pack")).unwrap();
        files.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|e| e == "pack")).count()
    };
    // Each push is a pack; with more than a dozen the repository is untidy.
    for n in 0..14 {
        work.commit("a", format!("{n}"));
        work.push(&["HEAD:main"]).succeeds();
    }
    eventually("it to be packed", || packs() < 5);
    world.alice().try_clone(&world.alice().url(&node, "testing"), "again").succeeds();
    eventually("it to be checked", || {
        world.alice().ssh(&node, "repo show testing --json").stdout.contains("\"checked\":\"2")
    });
    node.expect_errors();
    corrupt(&node, "testing");
    eventually("the damage to be found", || node.gitmesh(&["status"]).stdout.contains("testing is DAMAGED here"));
}

#[test]
fn one_at_a_time_and_no_longer_than_somebody_waits() {
    let world = World::new();
    let node = world.prepare("server1");
    // A git whose gc takes as long as a file is there.
    let (held, hold, git) = (world.dir().join("held"), world.dir().join("hold"), world.dir().join("slow-git"));
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *' gc '*) echo $GIT_DIR >> {}; while [ -e {} ]; do sleep 0.05; done;; esac\nexec git \"$@\"\n",
        held.display(),
        hold.display()
    );
    fs::write(&git, script).unwrap();
    fs::set_permissions(&git, fs::Permissions::from_mode(0o755)).unwrap();
    node.set("program", &format!("\"{}\"", git.display()));
    node.start();
    let alice = world.alice();
    alice.configure(&node, |c| c.conf("repo docs/a docs/b\n    RW+ = alice\n")).succeeds();
    fs::write(&hold, "").unwrap();
    let begun = || fs::read_to_string(&held).unwrap_or_default();
    let mut first = Running::start(alice.ssh_command(&["git@server1", "repo gc docs/a"]));
    eventually("its gc", || begun().contains("docs/a.git"));
    // A push is not in its way.
    let work = alice.starts(&node, "docs/a");
    work.commit("a", "one");
    work.push(&["HEAD:main"]).succeeds();
    let said = world.dir().join("said");
    let mut command = alice.ssh_command(&["git@server1", "repo gc ^docs/"]);
    command.stdout(fs::File::create(&said).unwrap());
    let mut second = command.spawn().unwrap();
    let hears = |words: &str| fs::read_to_string(&said).unwrap().contains(words);
    eventually("it to be told of the wait", || hears("docs/a: waits until the gc of docs/a is over\n"));
    assert_eq!(begun().lines().count(), 1);
    // Whoever asked has left, and git with them.
    first.kill();
    eventually("the second's turn", || begun().lines().count() == 2);
    fs::remove_file(&hold).unwrap();
    assert!(second.wait().unwrap().success());
    assert!(hears("docs/a: done\ndocs/b: done\n"));
}

#[test]
fn many_small_pushes_leave_few_packs_here_and_on_a_copy() {
    let world = World::new();
    let pair = world.pair_with(MIRRORED);
    let work = world.alice().clone_of(&pair.one, "testing");
    let packs = |node: &Node| {
        let files = fs::read_dir(node.repo_dir("testing").join("objects/pack")).unwrap();
        files.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|kind| kind == "pack")).count()
    };
    for n in 0..60 {
        work.commit("a", format!("{n}"));
        work.push(&["HEAD:main"]).succeeds();
    }
    pair.in_step("testing");
    eventually("few packs", || packs(&pair.one) < 20);
    pair.one.is_sound("testing");
    pair.two.is_sound("testing");
    world.alice().try_clone(&world.alice().url(&pair.two, "testing"), "clone").succeeds();
    assert_eq!(world.alice().checkout("clone").oid("HEAD"), work.oid("HEAD"));
}

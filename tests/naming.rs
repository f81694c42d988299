//! Repositories named, taken out and renamed by commands: the rules change by a commit of the administrator's, and
//! nothing but the lines that were meant.

use std::fs;

use crate::world::{Actor, Node, World, eventually};

const RULES: &str = "\
@all-docs = docs/x
repo one    # the first
    RW+ = @all
    desc = One of ours

    # why
    option writer-is-owner = 1
repo two three
    RW+ = @all
repo @all-docs
    RW+ = @all
";

/// The rules as they stand on the node now.
fn rules(node: &Node) -> String {
    node.git("gitmesh-admin", &["show", "HEAD:conf/gitmesh.conf"]).succeeds().stdout
}

fn told(node: &Node, format: &str) -> String {
    let format = format!("--format={format}");
    node.git("gitmesh-admin", &["log", "-1", &format]).succeeds().stdout.trim().to_owned()
}

fn seeded(alice: &Actor, node: &Node, repo: &str) {
    let work = alice.starts(node, repo);
    work.commit("a", "text");
    work.push(&["HEAD:main"]).succeeds();
}

#[test]
fn a_repository_is_named_taken_out_and_brought_back() {
    let world = World::new();
    let node = world.node("server1");
    let alice = world.alice();
    alice.configure(&node, |c| c.conf(RULES)).succeeds();
    let before = rules(&node);

    let made = alice.ssh(&node, "repo create new/one").succeeds();
    made.says("repo new/one\n    RW+ = alice\n").says("is in force");
    assert_eq!(rules(&node), format!("{before}\nrepo new/one\n    RW+ = alice\n"));
    assert_eq!(told(&node, "%an: %s"), "alice: repo create new/one");
    seeded(alice, &node, "new/one");
    alice.ssh(&node, "repo create like --like one").succeeds().says("option writer-is-owner = 1").does_not_say("desc");
    // On the machine itself, there is no user who would get it.
    node.gitmesh(&["repo", "create", "x"]).fails().says("--like OTHER");
    node.gitmesh(&["repo", "create", "x", "--like", "like"]).succeeds();

    let gone = alice.ssh(&node, "repo delete new/one").succeeds();
    gone.says("repo undelete new/one/");
    assert!(!node.has_repo("new/one") && !rules(&node).contains("new/one"));
    alice.ssh(&node, "D list").succeeds().says("new/one/");
    assert_eq!(alice.ssh(&node, "repo delete new/one").code, Some(4));
    alice.ssh(&node, "repo undelete new/one").succeeds().says("restored to 'new/one'").says("is in force");
    assert!(rules(&node).ends_with("\nrepo new/one\n    RW+ = alice\n"));
    alice.try_clone(&alice.url(&node, "new/one"), "again").succeeds();
    assert!(!node.repo_dir("new/one").join("gitmesh-rules").exists());
    // What was only moved to the trash comes back without rules.
    alice.ssh(&node, "repo undelete new/one").refused_by("the trash holds no 'new/one'");

    let rest = rules(&node);
    for (words, lines) in
        [("delete three", "gitmesh.conf:"), ("delete docs/x", "gitmesh.conf:"), ("rename docs/x y", "conf:")]
    {
        let refused = alice.ssh(&node, &format!("repo {words}"));
        refused.refused_by("[E0219]").says(lines);
    }
    alice.ssh(&node, "repo create y --like docs/x").refused_by("@all-docs").says("[E0219]");
    alice.ssh(&node, "repo create two").refused_by("already exists");
    alice.ssh(&node, "repo delete gitmesh-admin").refused_by("holds the rules themselves");
    alice.ssh(&node, "repo create ../x").refused_by("FATAL");
    assert_eq!(rules(&node), rest, "what is refused changes nothing");
    alice.ssh(&node, "repo delete one").succeeds();
    let kept = before.replace(
        "repo one    # the first\n    RW+ = @all\n    desc = One of ours\n\n    # why\n    option writer-is-owner = 1\n",
        "",
    );
    assert!(rules(&node).starts_with(&kept), "every other byte: {}", rules(&node));
}

#[test]
fn a_name_changes_in_the_rules_on_disk_and_on_the_copies() {
    let world = World::new();
    let conf = "repo one two    # both\n    RW+ = @all\n    option mirror.master = server1\n    option mirror.copies = server2\n\
                repo gitmesh-admin\n    option mirror.master = server1\n    option mirror.copies = server2\n";
    let pair = world.pair_with(conf);
    let alice = world.alice();
    // Each began with a configuration of its own; from now on the second has that of the first.
    pair.one.gitmesh(&["mirror", "repair", "server2", "gitmesh-admin"]).succeeds();
    seeded(alice, &pair.one, "one");
    pair.in_step("one");
    let before = rules(&pair.one);
    let objects = fs::read_dir(pair.two.repo_dir("one").join("objects/pack")).unwrap().count();
    alice.ssh(&pair.one, "repo rename one first/one").succeeds().says("'one' is now 'first/one'");
    assert_eq!(rules(&pair.one), before.replacen("repo one two", "repo first/one two", 1));
    assert_eq!(told(&pair.one, "%an: %s"), "alice: repo rename one first/one");
    eventually("the copy to follow", || pair.two.has_repo("first/one") && !pair.two.has_repo("one"));
    pair.in_step("first/one");
    assert_eq!(fs::read_dir(pair.two.repo_dir("first/one").join("objects/pack")).unwrap().count(), objects);
    alice.ssh(&pair.one, "repo rename two first/one").refused_by("already exists");
    // An order that changes rules is for the node that has them.
    alice.ssh(&pair.two, "repo create other").refused_by("is a copy");

    alice.ssh(&pair.one, "repo create three --like two").succeeds();
    seeded(alice, &pair.one, "three");
    pair.in_step("three");
    alice.ssh(&pair.one, "repo delete three").succeeds();
    eventually("the copy to go too", || !pair.two.has_repo("three"));
    alice.ssh(&pair.one, "repo undelete three").succeeds();
    pair.in_step("three");
}

#[test]
fn what_is_known_is_told_to_administrators() {
    let world = World::new();
    let node = world.node("server1");
    let (alice, bob, carol) = (world.alice(), world.actor("bob"), world.actor("carol"));
    let configured = alice.configure(&node, |c| {
        c.conf("@staff = bob dave\n@dev = @staff eve\nrepo docs\n    RW+ = @dev\n    R = bob\n    option x = y\n");
        c.key(&bob);
        c.key(&carol);
        c.file("keydir/bob@two.pub", format!("{}\n", bob.key_line()));
    });
    configured.succeeds();
    seeded(&bob, &node, "docs");
    let listed = alice.ssh(&node, "user list").succeeds();
    listed.says("bob  \t1 key\t@dev @staff").says("carol\t1 key\t(in no rule)").says("dave \tno key\t@dev @staff");
    let shown = alice.ssh(&node, "user show bob").succeeds();
    let key = format!("key: {} ssh-ed25519 keydir/bob", bob.fingerprint());
    shown
        .says(&key)
        .says("groups: @dev @staff")
        .says("writes: docs\n")
        .says("last seen: 20")
        .does_not_say("administrator");
    alice.ssh(&node, "user show alice --json").succeeds().says("\"administrator\":true");
    assert_eq!(alice.ssh(&node, "user show nobody").code, Some(4));
    let found = alice.ssh(&node, "user lint").fails();
    let found = found.says("dave: stands in rules and has no key").says("carol: has a key and stands in no rule");
    found.says("this key of bob is also in");

    let group = alice.ssh(&node, "group show dev").succeeds();
    group.says("members: @staff eve\n").says("member by @staff: bob").says("in a rule: conf/gitmesh.conf:");
    alice.ssh(&node, "group show @staff --json").succeeds().says("\"groups\":[\"conf/gitmesh.conf:");
    alice.ssh(&node, "group list").succeeds().says("@dev  \t3 members");
    assert_eq!(alice.ssh(&node, "group show @none").code, Some(4));

    alice.ssh(&node, "repo list docs").succeeds().says("docs\t").says("\tserver1\t-\n");
    let shown = alice.ssh(&node, "repo show docs").succeeds();
    shown.says("rule: conf/gitmesh.conf:").says("RW+ = @dev").says("option: x = y").says("here: local");
    node.gitmesh(&["repo", "show", "docs", "--json"]).succeeds().says("\"schema\":\"gitmesh.repo/1\"");
    for words in [
        "user list",
        "user show alice",
        "user lint",
        "group list",
        "group show dev",
        "repo list",
        "repo show docs",
        "repo show missing",
        "repo create a",
        "repo delete docs",
        "repo delete missing",
        "repo undelete docs",
    ] {
        let refused = bob.ssh(&node, words);
        refused.refused_by("for administrators");
    }
}

//! File locks: the command `lock` and the rule `VREF/lock`, with real pushes.

use crate::world::{Actor, Checkout, Node, World};

const RULES: &str = "repo testing\n RW+ = alice bob\n RW = carol\n R = dave\n - VREF/lock = @all\n";

/// A node, bob, carol and dave, and bob's checkout with `art/logo.png` pushed.
fn stage(world: &World) -> (Node, [Actor; 3], Checkout) {
    let node = world.node("server1");
    let people = ["bob", "carol", "dave"].map(|name| world.actor(name));
    world
        .alice()
        .configure(&node, |c| {
            c.conf(RULES);
            people.iter().for_each(|actor| c.key(actor));
        })
        .succeeds();
    let work = people[0].starts(&node, "testing");
    work.commit("art/logo.png", "one");
    work.push(&["HEAD:main"]).succeeds();
    (node, people, work)
}

#[test]
fn a_lock_keeps_others_from_pushing_the_file() {
    let world = World::new();
    let (node, [bob, carol, dave], work) = stage(&world);
    bob.ssh(&node, "lock -ls testing").succeeds().says("\n# locks held:\n\n\n# locks broken:\n\n");
    carol.ssh(&node, "lock -l testing art/logo.png").succeeds();
    bob.ssh(&node, "lock -ls testing").succeeds().says("carol\tart/logo.png\t(20");
    bob.ssh(&node, "lock -l testing art/logo.png").refused_by("FATAL: 'art/logo.png' locked by 'carol' since 20");
    bob.ssh(&node, "lock -u testing art/logo.png").refused_by("FATAL: 'art/logo.png' not locked by 'bob'");
    work.commit("art/logo.png", "two");
    work.push(&["HEAD:main"])
        .refused_by("FATAL: W VREF/lock testing bob DENIED by VREF/lock")
        .says("refs/heads/main: 'art/logo.png' locked by 'carol'");
    work.push(&[":main"]).refused_by("'art/logo.png' locked by 'carol'");
    carol.ssh(&node, "lock -u testing art/logo.png").succeeds();
    work.push(&["HEAD:main"]).succeeds();
    // One's own lock is no hindrance, and neither is one on another file.
    bob.ssh(&node, "lock -l testing art/logo.png").succeeds();
    work.commit("art/logo.png", "three");
    work.push(&["HEAD:main"]).succeeds();

    carol.ssh(&node, "lock --break testing art/logo.png").refused_by("FATAL: + any testing carol DENIED").says("RW+");
    bob.ssh(&node, "lock --break testing art/none").refused_by("FATAL: 'art/none' was not locked");
    bob.ssh(&node, "lock -u testing art/logo.png").succeeds();
    carol.ssh(&node, "lock -l testing art/logo.png").succeeds();
    bob.ssh(&node, "lock --break testing art/logo.png").succeeds();
    bob.ssh(&node, "lock -ls testing").says("bob\tart/logo.png\t(20").says("\t(locked by carol at 20");

    for file in ["art", "art/missing", "../x", "/art/logo.png", "BREAKS"] {
        bob.ssh(&node, &format!("lock -l testing {file}")).refused_by("is in no branch");
    }
    for line in ["lock", "lock -l testing", "lock -x testing art/logo.png", "lock testing"] {
        bob.ssh(&node, line).refused_by("lock -l | -u | --break REPO FILE");
    }
    dave.ssh(&node, "lock -ls testing").refused_by("E0202");
    dave.ssh(&node, "lock -l missing art/logo.png").refused_by("E0201");
}

#[test]
fn locks_of_a_gitolite_server_count() {
    let world = World::new();
    let (node, [bob, carol, _], work) = stage(&world);
    let file = node.data().join("repositories/testing.git/gl-locks");
    let theirs = "%locks = (\n  'art/logo.png' => {\n    'TIME' => 1700000000,\n    'USER' => 'carol'\n  },\n  'gone' => {}\n);\n";
    std::fs::write(&file, theirs).unwrap();
    bob.ssh(&node, "lock -ls testing").says("carol\tart/logo.png\t(2023-11-14T22:13:20Z)");
    work.commit("art/logo.png", "two");
    work.push(&["HEAD:main"]).refused_by("'art/logo.png' locked by 'carol'");
    carol.ssh(&node, "lock -u testing art/logo.png").succeeds();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "%locks = ();\n");
    // What cannot be read is not the same as no locks.
    std::fs::write(&file, "%locks = (").unwrap();
    bob.ssh(&node, "lock -ls testing").refused_by("the locks cannot be read or written");
    work.push(&["HEAD:main"]).refused_by("E0209");
    node.expect_errors();
}

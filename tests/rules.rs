//! Rules at work: who may read, write, rewind, delete and create what.

use crate::world::{Actor, Checkout, Node, World};

const CONF: &str = "\
@devs = bob carol
@all-docs = docs/a docs/b

repo testing
    RW+ dev/        = @devs
    -   refs/tags/v = carol
    RW  main$       = @devs
    RW+ USER/       = @devs
    RW  refs/tags/  = @devs
    R               = dave
    RW+             = alice

repo @all-docs
    RW = bob
    R  = @all

repo secret
    RW+ = alice
";

struct Stage {
    world: World,
    node: Node,
    bob: Actor,
    carol: Actor,
    dave: Actor,
}

fn stage() -> Stage {
    let world = World::new();
    let node = world.node("server1");
    let (bob, carol, dave) = (world.actor("bob"), world.actor("carol"), world.actor("dave"));
    world
        .alice()
        .configure(&node, |c| {
            c.conf(CONF);
            [&bob, &carol, &dave].into_iter().for_each(|a| c.key(a));
        })
        .succeeds();
    Stage { world, node, bob, carol, dave }
}

impl Stage {
    /// alice's first commit is on main, dev/x, bob/x and the tag v0.
    fn seeded(&self) -> Checkout {
        let work = self.world.alice().clone_of(&self.node, "testing");
        work.commit("a", "first");
        work.push(&["HEAD:main", "HEAD:dev/x", "HEAD:bob/x", "HEAD:refs/tags/v0"]).succeeds();
        work
    }
}

#[test]
fn reading_and_writing_a_repository() {
    let stage = stage();
    let Stage { world, node, bob, carol, dave } = &stage;
    stage.seeded();
    for (actor, repo, read) in [
        (world.alice(), "secret", true),
        (bob, "secret", false),
        (dave, "testing", true),
        (dave, "docs/a", true),
        (carol, "docs/b", true),
        (bob, "gitmesh-admin", false),
    ] {
        assert_eq!(actor.may_read(node, repo), read, "{} {repo}", actor.name());
    }
    // A reader may not write, and is told who they are and what to do.
    let work = dave.clone_of(node, "testing");
    work.commit("b", "b");
    let refused =
        work.push(&["HEAD:main"]).refused_by("fatal: remote error: FATAL: W any testing dave DENIED by fallthru");
    refused.says("help:").does_not_say("correct access rights");
    // What does not exist and what is not theirs read the same.
    let missing = bob.ls_remote(node, "missing").refused_by("DENIED by fallthru").stderr.replace("missing", "NAME");
    let secret = bob.ls_remote(node, "secret").refused_by("DENIED by fallthru").stderr.replace("secret", "NAME");
    assert_eq!(missing, secret);
    assert!(!missing.contains("conf/gitmesh.conf"), "the rules are not for everybody: {missing}");
}

#[test]
fn branches_by_refex() {
    let stage = stage();
    let Stage { node, bob, carol, .. } = &stage;
    stage.seeded();
    let work = bob.clone_of(node, "testing");
    work.commit("b", "forward");
    work.push(&["HEAD:main", "HEAD:dev/x", "HEAD:bob/x", "HEAD:refs/tags/t1"]).succeeds();
    for other in ["main2", "main/x", "topic", "carol/x"] {
        let refused = work.push(&[&format!("HEAD:refs/heads/{other}")]);
        refused.refused_by(&format!("! [remote rejected] HEAD -> {other} (denied by fallthru"));
    }
    work.git(&["reset", "-q", "--hard", "HEAD~1"]).succeeds();
    work.commit("b", "rewound");
    work.push(&["+HEAD:dev/x", "+HEAD:bob/x"]).succeeds();
    work.push(&["+HEAD:main"]).refused_by("! [remote rejected] HEAD -> main (denied by fallthru").says("rewinds");
    work.push(&[":main"]).refused_by("! [remote rejected] main (denied by fallthru").says("deletes");
    work.push(&[":dev/x"]).succeeds();
    // bob's own corner is not carol's.
    let hers = carol.clone_of(node, "testing");
    hers.push(&["+HEAD:bob/x"]).refused_by("denied by fallthru");
    hers.push(&["HEAD:carol/y"]).succeeds();
}

#[test]
fn tags_by_refex() {
    let stage = stage();
    let Stage { node, bob, carol, .. } = &stage;
    stage.seeded();
    let work = carol.clone_of(node, "testing");
    work.commit("b", "forward");
    work.push(&["HEAD:refs/tags/v1"]).refused_by("! [remote rejected] HEAD -> v1 (denied by refs/tags/v");
    work.push(&["HEAD:refs/tags/t1"]).succeeds();
    let his = bob.clone_of(node, "testing");
    his.commit("b", "forward");
    his.push(&["HEAD:refs/tags/v1"]).succeeds();
    // A tag that exists is not moved without '+', be it forward.
    his.commit("c", "more");
    his.push(&["+HEAD:refs/tags/v1"]).refused_by("denied by fallthru").says("changes a tag");
    his.push(&[":refs/tags/v1"]).refused_by("denied by fallthru");
}

#[test]
fn administrators_are_told_the_rule() {
    let stage = stage();
    let world = &stage.world;
    let conf = format!("{CONF}\nrepo frozen\n    - main = alice\n    RW+ = alice\n");
    world.alice().configure(&stage.node, |c| c.conf(&conf)).succeeds();
    let work = world.alice().clone_of(&stage.node, "frozen");
    work.commit("a", "a");
    work.push(&["HEAD:main"]).refused_by("conf/gitmesh.conf:").says("rule:");
    work.push(&["HEAD:other"]).succeeds();
}

#[test]
fn gitmeshs_own_references_are_nobodys() {
    let world = World::new();
    let node = world.node("server1");
    let work = world.alice().clone_of(&node, "testing");
    work.commit("a", "a");
    let refused = work.push(&["HEAD:refs/gitmesh/x", "HEAD:main"]).fails();
    refused.says("refs/gitmesh/x");
    assert!(!node.refs("testing").contains_key("refs/gitmesh/x"));
    node.git("testing", &["update-ref", "refs/gitmesh/y", &work.oid("HEAD")]).succeeds();
    assert!(!world.alice().refs(&node, "testing").contains_key("refs/gitmesh/y"), "they are not shown");
    work.push(&[":refs/gitmesh/y"]).fails();
    assert!(node.refs("testing").contains_key("refs/gitmesh/y"));
}

#[test]
fn a_revoked_right_is_gone_at_once() {
    let stage = stage();
    let Stage { world, node, bob, .. } = &stage;
    stage.seeded();
    let work = bob.clone_of(node, "testing");
    work.commit("b", "b");
    world.alice().configure(node, |c| c.conf("repo testing\n    RW+ = alice\n    R = bob\n")).succeeds();
    work.push(&["HEAD:dev/x"]).refused_by("FATAL: W any testing bob DENIED by fallthru");
}

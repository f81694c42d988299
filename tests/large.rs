//! Repositories with very many references: a small change costs little, and whatever happens past the nodes is seen.

use crate::world::{Checkout, Pair, World, eventually};

const CONF: &str = "\
repo testing
    RW+ = @all
    option mirror.master = server1
    option mirror.copies = server2
";
/// Their list is longer than 100 kB.
const TAGS: usize = 2000;
/// Bytes on the link that a small change may take.
const SMALL: usize = 30_000;

/// A pair in step whose repository has so many tags, packed on both sides.
fn large_pair(world: &World) -> (Pair, Checkout) {
    let pair = world.pair_with(CONF);
    let work = world.alice().clone_of(&pair.one, "testing");
    let oid = work.commit("a", "one");
    work.push(&["HEAD:main"]).succeeds();
    pair.in_step("testing");
    let tags: String = (0..TAGS).map(|n| format!("{oid} refs/tags/v{n:05}\n")).collect();
    for node in [&pair.one, &pair.two] {
        let text = format!("# pack-refs with: peeled fully-peeled sorted \n{tags}");
        std::fs::write(node.repo_dir("testing").join("packed-refs"), text).unwrap();
    }
    pair.in_step("testing");
    (pair, work)
}

/// Bytes on the link for what `change` does, until the copy is equal.
fn carried(pair: &Pair, change: impl FnOnce()) -> usize {
    let before = pair.there.carried();
    change();
    pair.in_step("testing");
    pair.there.carried() - before
}

fn commit_and_push(work: &Checkout, to: &str) {
    work.commit("a", format!("{to} {}", work.oid("HEAD")));
    work.push(&[&format!("HEAD:{to}")]).succeeds();
}

/// Both nodes know how the other is: the list goes over the link no more.
fn settle(pair: &Pair, work: &Checkout) {
    eventually("the list to be known", || carried(pair, || commit_and_push(work, "main")) < SMALL);
}

#[test]
fn a_change_does_not_carry_the_list() {
    let world = World::new();
    let (pair, work) = large_pair(&world);
    settle(&pair, &work);
    for branch in ["main", "topic", "topic", "dir/new"] {
        let bytes = carried(&pair, || commit_and_push(&work, branch));
        assert!(bytes < SMALL, "{branch}: {bytes} bytes");
    }
    let several = carried(&pair, || {
        work.git(&["tag", "-a", "-m", "annotated", "v1"]).succeeds();
        work.commit("a", "three");
        work.push(&["HEAD:main", "HEAD:other", "v1", "+HEAD~1:topic"]).succeeds();
    });
    assert!(several < SMALL, "{several} bytes");
    // The other kinds need the list once, and are as right.
    work.push(&[":other"]).succeeds();
    pair.in_step("testing");
    work.push(&[":refs/tags/v00007", "HEAD:refs/tags/v00008/x"]).fails();
    pair.in_step("testing");
    work.push(&["HEAD:refs/tags/v00007/x"]).succeeds();
    pair.in_step("testing");
    pair.one.git("testing", &["symbolic-ref", "HEAD", "refs/heads/topic"]).succeeds();
    commit_and_push(&work, "main");
    pair.in_step("testing");
    settle(&pair, &work);
    pair.two.is_sound("testing");
}

#[test]
fn what_happens_past_the_nodes_is_seen() {
    let world = World::new();
    let (pair, work) = large_pair(&world);
    let first = work.oid("HEAD");
    settle(&pair, &work);
    // On the master, where the next push carries it.
    pair.one.git("testing", &["update-ref", "refs/tags/by-hand", &first]).succeeds();
    pair.one.git("testing", &["update-ref", "-d", "refs/tags/v00003"]).succeeds();
    commit_and_push(&work, "main");
    pair.in_step("testing");
    pair.one.git("testing", &["pack-refs", "--all"]).succeeds();
    commit_and_push(&work, "main");
    pair.in_step("testing");
    settle(&pair, &work);
    // On the copy, with and without a change of packed-refs: the copy says that it is not as it was.
    let spoil: [&[&str]; 4] = [
        &["update-ref", "refs/tags/v00001", "refs/heads/main"],
        &["update-ref", "-d", "refs/tags/v00002"],
        &["update-ref", "refs/heads/main", &first],
        &["update-ref", "refs/tags/extra", &first],
    ];
    for spoilt in spoil {
        pair.two.git("testing", spoilt).succeeds();
        commit_and_push(&work, "topic");
        pair.in_step("testing");
        settle(&pair, &work);
    }
    // A copy that has lost all, a master that was restarted, a copy that was.
    pair.two.stop();
    pair.two.lose_repo("testing");
    pair.two.start();
    pair.in_step("testing");
    for node in [&pair.one, &pair.two] {
        node.stop();
        node.start();
        commit_and_push(&work, "main");
        pair.in_step("testing");
    }
    pair.two.is_sound("testing");
}

#[test]
fn many_new_references_come_by_one_write_and_are_gits() {
    let world = World::new();
    let pair = world.pair_with(CONF);
    let work = world.alice().clone_of(&pair.one, "testing");
    work.commit("a", "one");
    work.many_refs("refs/tags/v", 300);
    work.git(&["tag", "-a", "-m", "annotated", "v1"]).succeeds();
    work.push(&["-q", "HEAD:main", "refs/tags/*:refs/tags/*"]).succeeds();
    pair.in_step("testing");
    assert_eq!(pair.one.refs("testing").len(), 302);
    for node in [&pair.one, &pair.two] {
        let dir = node.repo_dir("testing");
        let packed = std::fs::read_to_string(dir.join("packed-refs")).unwrap();
        assert!(packed.contains(" refs/tags/v/299\n") && !dir.join("refs/tags/v/299").exists());
        let peeled = node.git("testing", &["rev-parse", "v1^{commit}"]).succeeds().stdout;
        assert!(packed.contains(&format!(" refs/tags/v1\n^{peeled}")));
    }
    // One that cannot be keeps no other back, and an atomic push keeps all back.
    work.commit("a", "two");
    work.many_refs("refs/tags/w", 150);
    let bad = "HEAD:refs/tags/v/7/below";
    work.push(&["-q", "--atomic", "refs/tags/w/*:refs/tags/w/*", bad]).fails();
    assert_eq!(pair.one.refs("testing").len(), 302);
    work.push(&["-q", "refs/tags/w/*:refs/tags/w/*", bad]).fails().says("refs/tags/v/7/below");
    assert_eq!(pair.one.refs("testing").len(), 452);
    pair.in_step("testing");
    pair.one.is_sound("testing");
    pair.two.is_sound("testing");
}

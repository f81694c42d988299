//! Beside gitolite 3 itself, where the machine has it: what its protocol lets the two do for each other, and what not.

use crate::world::{World, eventually};

#[test]
fn a_gitolite_host_is_a_copy_and_is_followed() {
    let world = World::new();
    let node = world.prepare("server1");
    let bob = world.actor("bob");
    let key = node.gitmesh(&["target", "key", "gl"]).succeeds().stdout;
    let conf = "repo proj\n    RW+ = bob\n    option mirror.master = server1\n    option mirror.copies = gl\n\
                repo native\n    RW+ = bob\n    R = server-server1\n";
    let keys = [("server-server1", key.as_str()), ("bob", &bob.key_line())];
    let Some(gitolite) = world.gitolite(conf, &keys) else { return };
    node.gitmesh(&["target", "host-key", "gl", &gitolite.host_key().display().to_string()]).succeeds();
    node.start();
    let alice = world.alice();
    let there = |repo: &str, name: &str| {
        let mut git = world.command("git");
        git.args(["-c", "safe.directory=*", "--git-dir"]).arg(gitolite.dir(repo)).args([
            "rev-parse",
            "-q",
            "--verify",
            name,
        ]);
        crate::world::Answer::of(git).stdout.trim().to_owned()
    };
    let (proj, native) = (gitolite.url("%GL_REPO"), gitolite.url("native"));
    let conf = format!(
        "repo proj\n    RW+ = alice\n    option mirror.external = gl {proj} refs/\nrepo native\n    RW+ = alice\n    \
         option mirror.upstream = gl {native} every=1s\n"
    );
    alice.configure(&node, |c| c.conf(&conf)).succeeds();

    // Its copy: all kinds of changes arrive, and its own users are refused.
    let work = alice.starts(&node, "proj");
    let one = work.commit("one", "1");
    work.git(&["tag", "v1"]).succeeds();
    work.push(&["HEAD:main", "HEAD:topic", "v1"]).succeeds();
    eventually("the first push on gitolite", || there("proj", "refs/heads/main") == one);
    eventually("the tag", || there("proj", "refs/tags/v1") == one);
    work.git(&["commit", "-q", "--amend", "-m", "again"]).succeeds();
    let two = work.oid("HEAD");
    work.push(&["+HEAD:main", ":topic"]).succeeds();
    eventually("a rewind on gitolite", || there("proj", "refs/heads/main") == two);
    eventually("a deletion on gitolite", || there("proj", "refs/heads/topic").is_empty());
    eventually("all to be there", || node.gitmesh(&["mirror", "status", "proj"]).stdout.contains("in step"));
    let theirs = bob.checkout("theirs");
    bob.git(&["init", "-q", "theirs"]).succeeds();
    let mine = theirs.commit("mine", "m");
    let proj = gitolite.url("proj");
    theirs.git(&["push", &proj, "HEAD:main"]).refused_by("pushing 'proj' to copy 'gl' not allowed");
    assert_eq!(there("proj", "refs/heads/main"), two);

    // And the other way round: what its users push arrives here, HEAD too, which its own mirroring has not.
    theirs.git(&["push", "-q", &native, "HEAD:main", "HEAD:refs/tags/v2"]).succeeds();
    eventually("what gitolite has", || node.oid("native", "refs/heads/main").as_ref() == Some(&mine));
    eventually("its tag", || node.oid("native", "refs/tags/v2").as_ref() == Some(&mine));

    // Its own mirror push carries no epoch: a node takes none from another server.
    let gl = world.actor("gl");
    let master = "repo native\n    option mirror.master = gl\n    option mirror.copies = server1\n";
    let configured = alice.configure(&node, |c| {
        c.conf(&format!("repo native\n    RW+ = alice\n{master}"));
        c.file("keydir/server-gl.pub", format!("{}\n", gl.key_line()));
    });
    configured.succeeds();
    let told = gitolite.pushes(&gl, "native", &gl.url(&node, "native")).fails();
    assert!(told.has("FATAL: "), "in words: {told:#?}");
    eprintln!("gitolite's own mirror push is told: {}", told.stderr);
    node.is_sound("native");
    node.is_sound("proj");
}

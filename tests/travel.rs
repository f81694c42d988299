//! What travels between nodes, and what waits for a person: each failure of a forerunner that mirrored blindly.

use crate::world::{Pair, World, eventually};

const CONF: &str = "\
repo testing
    RW+ = @all
    option mirror.master = server1
    option mirror.copies = server2
";

/// A pair whose repository has `tags` tags on one commit, in step.
fn pair_with_tags(world: &World, tags: usize) -> (Pair, crate::world::Checkout) {
    let pair = world.pair_with(CONF);
    let work = world.alice().clone_of(&pair.one, "testing");
    work.commit("a", "one");
    work.many_refs("refs/tags/v", tags);
    work.push(&["-q", "HEAD:main", "refs/tags/*:refs/tags/*"]).succeeds();
    pair.in_step("testing");
    (pair, work)
}

#[test]
fn a_mass_deletion_is_not_mirrored_until_a_person_says_so() {
    let world = World::new();
    let (pair, work) = pair_with_tags(&world, 20);
    // A script gone wild on the master itself, as a broken disk or a wrong restore would do.
    let all = pair.one.git("testing", &["for-each-ref", "--format=%(refname)", "refs/tags"]).succeeds().stdout;
    for name in all.lines().take(15) {
        pair.one.git("testing", &["update-ref", "-d", name]).succeeds();
    }
    let push = |more: &[&str]| pair.one.gitmesh(&[&["mirror", "push", "server2", "testing"], more].concat());
    push(&[]).refused_by("this would delete 15 of the replica's 21 references");
    assert_eq!(pair.two.refs("testing").len(), 21);
    let alice = world.alice();
    alice.ssh(&pair.one, "mirror status testing").says("this would delete 15");
    // What lands meanwhile waits with it, and nothing is lost on the master.
    work.commit("a", "two");
    work.push(&["HEAD:main"]).succeeds();
    let bob = world.actor("bob");
    let let_in = alice.configure(&pair.one, |c| {
        c.key(&bob);
        c.conf(CONF);
    });
    let_in.succeeds();
    bob.ssh(&pair.one, "mirror push server2 testing --force").refused_by("is for administrators");
    push(&["--force"]).succeeds();
    pair.in_step("testing");
    assert_eq!(pair.two.refs("testing").len(), 6);
}

#[test]
fn an_emptied_repository_does_not_empty_its_copy() {
    let world = World::new();
    let (pair, _work) = pair_with_tags(&world, 2);
    let before = pair.two.refs("testing");
    // The disk came back empty: the configuration makes the repository anew at the next start.
    pair.one.stop();
    pair.one.lose_repo("testing");
    std::fs::remove_file(pair.one.data().join("state/applied")).unwrap();
    pair.one.start();
    let held = pair.one.gitmesh(&["mirror", "push", "server2", "testing"]);
    held.refused_by("there is no reference here any more, and the replica has 3");
    assert_eq!(pair.two.refs("testing"), before);
}

#[test]
fn commits_made_on_a_copy_are_not_overwritten_silently() {
    let world = World::new();
    let (pair, work) = pair_with_tags(&world, 1);
    // Somebody wrote there by hand, past everything; and the master goes on.
    let tree = pair.two.git("testing", &["rev-parse", "main^{tree}"]).succeeds().stdout;
    let author = ["-c", "user.name=eve", "-c", "user.email=eve@example.org"];
    let by_hand = [&author[..], &["commit-tree", "-m", "by hand", "-p", "main", tree.trim()]].concat();
    let lost = pair.two.git("testing", &by_hand).succeeds().stdout.trim().to_owned();
    pair.two.git("testing", &["update-ref", "refs/heads/main", &lost]).succeeds();
    work.commit("a", "two");
    let pushed = work.oid("HEAD");
    work.push(&["HEAD:main"]).succeeds();
    let alice = world.alice();
    eventually("the divergence to be seen", || {
        alice.ssh(&pair.one, "mirror status testing").stdout.contains("diverged")
    });
    assert_eq!(pair.two.refs("testing")["refs/heads/main"], lost);
    pair.one.gitmesh(&["mirror", "push", "server2", "testing", "--force"]).refused_by("this node has never had");
    pair.one.gitmesh(&["mirror", "repair", "server2", "testing"]).succeeds();
    assert_eq!(pair.two.refs("testing")["refs/heads/main"], pushed);
    let kept = pair.two.git("testing", &["for-each-ref", "--format=%(refname) %(objectname)", "refs/gitmesh"]);
    let kept = kept.succeeds().stdout;
    let kept = kept.trim();
    assert!(
        kept.starts_with("refs/gitmesh/lost/server2/2") && kept.ends_with(&format!("Z/heads/main {lost}")),
        "{kept}"
    );
    eventually("the copy to be in step", || alice.ssh(&pair.one, "mirror status testing").stdout.contains("in step"));
    pair.two.is_sound("testing");
    // A forced push on the master is no divergence.
    work.git(&["commit", "-q", "--amend", "-m", "rewritten"]).succeeds();
    work.push(&["+HEAD:main"]).succeeds();
    let rewritten = work.oid("HEAD");
    eventually("the rewritten branch", || pair.two.refs("testing")["refs/heads/main"] == rewritten);
}

#[test]
fn file_locks_travel_so_that_a_copy_that_becomes_the_master_knows_them() {
    let world = World::new();
    let (pair, work) = pair_with_tags(&world, 1);
    work.commit("b b", "two");
    work.push(&["HEAD:main"]).succeeds();
    let alice = world.alice();
    let file = |node: &crate::world::Node| std::fs::read_to_string(node.repo_dir("testing").join("gl-locks")).ok();
    let equal = || file(&pair.one) == file(&pair.two);
    alice.ssh(&pair.one, "lock -l testing a").succeeds();
    eventually("the lock on the copy", || file(&pair.two).is_some_and(|text| text.contains("'a' =>")) && equal());
    // Also more of them than a command line holds, and what is changed while the copy cannot be reached.
    pair.there.cut();
    alice.ssh(&pair.one, "lock -u testing a").succeeds();
    let mut many = String::from("%locks = (\n");
    for n in 0..2000 {
        many.push_str(&format!(
            "  'some/folder/file{n}' => {{\n    'TIME' => 1700000000,\n    'USER' => 'alice'\n  }},\n"
        ));
    }
    std::fs::write(pair.one.repo_dir("testing").join("gl-locks"), many + ");\n").unwrap();
    alice.ssh(&pair.one, "lock -l testing 'b b'").succeeds();
    pair.there.restore();
    eventually("many locks on the copy", || equal() && file(&pair.two).is_some_and(|text| text.contains("file1999")));
    // A copy whose locks differ is no equal copy, and is mended. A link that has just come back is compared by itself
    // too, which may be quicker than we are.
    let verify = || alice.ssh(&pair.one, "mirror verify testing");
    let lost = pair.two.repo_dir("testing").join("gl-locks");
    eventually("the difference to be seen", || {
        std::fs::write(&lost, "%locks = ();\n").unwrap();
        verify().stdout.contains("DIFFERS")
    });
    eventually("the same locks again", equal);
    eventually("a comparison that is equal", || verify().code == Some(0));
    // None here, none there.
    std::fs::remove_file(pair.one.repo_dir("testing").join("gl-locks")).unwrap();
    verify();
    eventually("no locks", || file(&pair.two).is_none());
}

#[test]
fn texts_beside_a_repository_travel_so_that_a_copy_that_becomes_the_master_knows_them() {
    let world = World::new();
    let (pair, work) = pair_with_tags(&world, 1);
    let alice = world.alice();
    let file = |node: &crate::world::Node, name: &str| std::fs::read(node.repo_dir("testing").join(name)).ok();
    let there = |name: &str| file(&pair.two, name).map(|text| String::from_utf8(text).unwrap());
    let local = |words: &str| pair.one.gitmesh(&words.split(' ').collect::<Vec<_>>()).succeeds();
    local("writable testing off new disk");
    eventually("the switch on the copy", || there(".gitolite.down").as_deref() == Some("new disk\n"));
    // What is changed while the copy cannot be reached comes later; a text may be long.
    pair.there.cut();
    local("writable testing on");
    std::fs::write(pair.one.repo_dir("testing").join("README.html"), "<p>\u{e9}</p>".repeat(5000)).unwrap();
    std::fs::write(pair.one.repo_dir("testing").join("gl-motd"), "Freeze until Monday.\n").unwrap();
    local("desc testing Ours");
    pair.there.restore();
    eventually("the texts on the copy", || {
        // One file after the other.
        ["README.html", "gl-motd", ".gitolite.down"].iter().all(|name| file(&pair.one, name) == file(&pair.two, name))
    });
    assert_eq!((there(".gitolite.down"), there("gl-motd").as_deref()), (None, Some("Freeze until Monday.\n")));
    alice.ls_remote(&pair.two, "testing").says("Freeze until Monday.");
    pair.in_step("testing");
    // A copy whose texts differ is no equal copy, and is mended.
    std::fs::remove_file(pair.two.repo_dir("testing").join("gl-motd")).unwrap();
    eventually("the text again", || {
        let _ = pair.one.gitmesh(&["mirror", "verify", "testing"]);
        there("gl-motd").is_some()
    });
    // Pushes that are off stay off when the copy becomes the master.
    local("writable testing off new disk");
    pair.in_step("testing");
    local("mirror move testing --to server2");
    let through = alice.clone_of(&pair.two, "testing");
    through.commit("later", "x");
    through.push(&["HEAD:main"]).refused_by("help: new disk");
    drop(work);
    pair.two.gitmesh(&["writable", "testing", "on"]).succeeds();
    eventually("the former master to know", || file(&pair.one, ".gitolite.down").is_none());
}

#[test]
fn a_refused_reference_is_never_seen_as_success() {
    let world = World::new();
    let (pair, work) = pair_with_tags(&world, 1);
    // The copy's own git cannot lock one name. A lock of the future is never old enough to be swept away.
    let blocked = pair.two.repo_dir("testing").join("refs/heads/blocked.lock");
    let lock = std::fs::File::create(&blocked).unwrap();
    lock.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(3600)).unwrap();
    work.commit("a", "two");
    work.push(&["HEAD:main", "HEAD:blocked"]).succeeds();
    eventually("what can be made equal to arrive", || {
        pair.two.refs("testing").get("refs/heads/main") == Some(&work.oid("HEAD"))
    });
    let failed = pair.one.gitmesh(&["mirror", "push", "server2", "testing"]).fails();
    failed.says("FAILED").says("refs/heads/blocked");
    std::fs::remove_file(&blocked).unwrap();
    pair.in_step("testing");
}

#[test]
fn a_repository_in_a_format_that_is_not_read_is_refused_in_words() {
    let world = World::new();
    let node = world.node("server1");
    let alice = world.alice();
    alice.configure(&node, |c| c.conf("repo testing\n    RW+ = @all\n")).succeeds();
    let dir = node.repo_dir("testing");
    node.lose_repo("testing");
    let path = dir.display().to_string();
    let mut made = world.command("git");
    made.args(["init", "-q", "--bare", "--object-format=sha256", &path]);
    assert!(made.status().unwrap().success());
    alice.ls_remote(&node, "testing").refused_by("'testing' keeps its objects by SHA-256");
}

#[test]
fn a_reference_that_a_power_cut_emptied_is_no_deletion() {
    let world = World::new();
    let (pair, work) = pair_with_tags(&world, 2);
    let before = pair.two.refs("testing");
    let torn = pair.one.repo_dir("testing").join("refs/heads/main");
    std::fs::write(&torn, "").unwrap();
    let said = pair.one.gitmesh(&["mirror", "push", "server2", "testing"]);
    said.refused_by("the references here cannot be read").says("refs/heads/main holds no reference");
    assert_eq!(pair.two.refs("testing"), before);
    std::fs::write(&torn, format!("{}\n", work.oid("HEAD"))).unwrap();
    pair.in_step("testing");
}

#[test]
fn the_settings_that_the_masters_configuration_gives_reach_a_copy_or_it_says_why_not() {
    let world = World::new();
    let pair = world.pair_with(CONF);
    for node in [&pair.one, &pair.two] {
        node.stop();
        node.set("config_keys", "['foo\\..*']");
        node.start();
    }
    let alice = world.alice();
    let work = alice.clone_of(&pair.one, "testing");
    work.commit("a", "one");
    work.push(&["HEAD:main"]).succeeds();
    let configured = |value: &str| {
        alice.configure(&pair.one, |c| c.conf(&format!("{CONF}    config foo.bar = {value}\n"))).succeeds();
    };
    let there = || pair.two.git("testing", &["config", "foo.bar"]).stdout.trim().to_owned();
    let status = || pair.one.gitmesh(&["mirror", "status", "testing"]).stdout;
    for length in [10, 4000] {
        let value = "v".repeat(length);
        configured(&value);
        eventually(&format!("a value of {length} bytes"), || there() == value);
        eventually("it to be in step", || status().contains("in step"));
    }
    // More than a request holds is told, and keeps nothing else back.
    let long: String = (0..9).map(|n| format!("    config foo.k{n} = {}\n", "v".repeat(4000))).collect();
    alice.configure(&pair.one, |c| c.conf(&format!("{CONF}{long}"))).succeeds();
    eventually("the failure to show", || status().contains("its description and git settings take 36"));
    work.commit("a", "two");
    work.push(&["HEAD:main"]).succeeds();
    pair.in_step("testing");
    assert_eq!(there().len(), 4000, "it keeps what it has");
    alice.configure(&pair.one, |c| c.conf(CONF)).succeeds();
    eventually("it to be in step again", || there().is_empty() && status().contains("in step"));
}

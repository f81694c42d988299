//! Servers outside the mesh: plain sshd with git-shell, and smart HTTP with a token. What is pushed there, what is not,
//! and what is followed.

use std::collections::BTreeMap;
use std::path::Path;

use crate::world::{Answer, Checkout, Node, World, eventually};

/// References of a bare repository that is not a node's.
fn refs(world: &World, dir: &Path) -> BTreeMap<String, String> {
    let out = git(world, dir, &["for-each-ref", "--format=%(refname) %(objectname)"]).stdout;
    out.lines().filter_map(|l| l.split_once(' ')).map(|(r, o)| (r.to_owned(), o.to_owned())).collect()
}

fn git(world: &World, dir: &Path, args: &[&str]) -> Answer {
    let mut command = world.command("git");
    command.arg("-c").arg("safe.directory=*").arg("--git-dir").arg(dir).args(args);
    Answer::of(command).succeeds()
}

fn bare(world: &World, dir: &Path) {
    let mut command = world.command("git");
    command.args(["init", "-q", "--bare", "-b", "main"]).arg(dir);
    Answer::of(command).succeeds();
}

fn status(node: &Node, repo: &str) -> String {
    node.gitmesh(&["mirror", "status", repo]).stdout
}

fn awaits(node: &Node, repo: &str, words: &str) {
    eventually(&format!("{words} in the status of {repo}"), || status(node, repo).contains(words));
}

/// What a push does there, whoever the server is: the story of both tests below.
fn story(world: &World, node: &Node, dir: &Path, work: &Checkout) {
    let there = || refs(world, dir);
    let main = work.commit("two", "2");
    work.git(&["branch", "wip/x"]).succeeds();
    work.git(&["tag", "v1"]).succeeds();
    work.push(&["main", "wip/x", "v1"]).succeeds();
    node.gitmesh(&["mirror", "wait", "proj", "--peer", "hub", "--timeout", "30s"]).succeeds();
    let names: Vec<String> = there().into_keys().collect();
    assert_eq!(names, ["refs/heads/main", "refs/tags/v1"], "what the filter leaves out stays here");
    assert_eq!(there()["refs/heads/main"], main);

    // What this node deletes or rewinds follows; what is outside the filter there stays.
    git(world, dir, &["update-ref", "refs/heads/wip/theirs", &main]);
    git(world, dir, &["update-ref", "refs/notes/n", &main]);
    work.git(&["reset", "-q", "--hard", "HEAD~1"]).succeeds();
    let other = work.commit("other", "o");
    work.push(&["--force", "main", ":v1"]).succeeds();
    node.gitmesh(&["mirror", "wait", "proj", "--peer", "hub", "--timeout", "30s"]).succeeds();
    let names: Vec<String> = there().into_keys().collect();
    assert_eq!(names, ["refs/heads/main", "refs/heads/wip/theirs", "refs/notes/n"]);
    assert_eq!(there()["refs/heads/main"], other);

    // Somebody pushes there: it is told, and not overwritten, and everything else goes on.
    git(world, dir, &["update-ref", "refs/heads/main", &main]);
    work.git(&["tag", "v2"]).succeeds();
    work.commit("three", "3");
    work.push(&["main", "v2"]).succeeds();
    awaits(node, "proj", "diverged");
    eventually("the tag to arrive all the same", || there().contains_key("refs/tags/v2"));
    assert_eq!(there()["refs/heads/main"], main, "theirs stays");
    let told = status(node, "proj");
    assert!(told.contains("refs/heads/main is at") && told.contains("not this node's doing"), "{told}");
    let refused = node.gitmesh(&["mirror", "push", "hub", "proj"]).fails();
    assert!(refused.stderr.contains("mirror push NAME REPO --force"), "{}", refused.stderr);
    node.gitmesh(&["mirror", "push", "hub", "proj", "--force"]).succeeds();
    assert_eq!(there()["refs/heads/main"], work.oid("main"));
    let kept: Vec<(String, String)> =
        node.refs("proj").into_iter().filter(|(name, _)| name.starts_with("refs/gitmesh/lost/hub/")).collect();
    assert!(matches!(&kept[..], [(name, oid)] if name.ends_with("/heads/main") && *oid == main), "{kept:?}");
    awaits(node, "proj", "in step");

    // A pause and its end know the target by its name, across a restart.
    node.gitmesh(&["mirror", "pause", "proj", "--peer", "hub"]).succeeds();
    node.stop();
    node.start();
    work.commit("four", "4");
    work.push(&["main"]).succeeds();
    awaits(node, "proj", "paused");
    assert_ne!(there()["refs/heads/main"], work.oid("main"));
    node.gitmesh(&["mirror", "resume", "proj", "--peer", "hub"]).succeeds();
    eventually("what waited to arrive", || there()["refs/heads/main"] == work.oid("main"));

    // A mass deletion waits for a person here too.
    work.many_refs("refs/tags/many", 20);
    work.push(&["--tags"]).succeeds();
    node.gitmesh(&["mirror", "wait", "proj", "--peer", "hub", "--timeout", "30s"]).succeeds();
    work.push(&["--prune", "refs/none/*:refs/tags/*"]).succeeds();
    awaits(node, "proj", "pending");
    assert_eq!(there().keys().filter(|name| name.starts_with("refs/tags/many")).count(), 20);
    node.gitmesh(&["mirror", "push", "hub", "proj", "--force"]).succeeds();
    assert!(!there().keys().any(|name| name.starts_with("refs/tags/")));
    node.is_sound("proj");
}

#[test]
fn a_target_behind_plain_sshd_and_git_shell() {
    let world = World::new();
    let node = world.prepare("server1");
    let key = node.gitmesh(&["target", "key", "hub"]).succeeds().stdout;
    let Some(server) = world.plain_server(&key) else { return };
    assert_eq!(node.gitmesh(&["target", "key", "hub"]).succeeds().stdout, key, "one key a target");
    bare(&world, &server.dir("proj"));
    node.start();
    let url = server.url("proj").replace("/proj.git", "/%GL_REPO.git");
    let conf = format!(
        "repo proj\n    RW+ = alice\n    option mirror.external-1 = hub {url} refs/heads/ refs/tags/ !refs/heads/wip/\n"
    );
    world.alice().configure(&node, |c| c.conf(&conf)).succeeds();
    let work = world.alice().starts(&node, "proj");
    work.commit("one", "1");
    work.push(&["main"]).succeeds();
    // No host key is known, so nothing is trusted; then a wrong one.
    awaits(&node, "proj", "gitmesh target host-key hub FILE");
    let wrong = world.actor("mallory").public_key();
    node.gitmesh(&["target", "host-key", "hub", &wrong.display().to_string()]).succeeds();
    let answer = node.gitmesh(&["mirror", "push", "hub", "proj"]).fails();
    assert!(answer.stderr.contains("Host key verification failed"), "{}", answer.stderr);
    assert_eq!(refs(&world, &server.dir("proj")).len(), 0);
    node.gitmesh(&["target", "host-key", "hub", &server.host_key().display().to_string()]).succeeds();
    node.gitmesh(&["mirror", "push", "hub", "proj"]).succeeds();
    story(&world, &node, &server.dir("proj"), &work);
    assert_eq!(node.gitmesh(&["target", "list"]).succeeds().stdout, "hub\tkey, host key\n");
}

#[test]
fn a_target_behind_smart_http_with_a_token_that_nobody_sees() {
    let world = World::new();
    let token = "s3cr3t-0123456789";
    let coded = data_encoding::BASE64.encode(format!("git:{token}").as_bytes());
    let server = world.http_server(&format!("Basic {coded}"));
    bare(&world, &server.dir("proj"));
    let node = world.node("server1");
    let url = server.url("proj");
    let conf = format!("repo proj\n    RW+ = alice\n    option mirror.external = hub {url} !refs/heads/wip/*\n");
    world.alice().configure(&node, |c| c.conf(&conf)).succeeds();
    let work = world.alice().starts(&node, "proj");
    work.commit("one", "1");
    work.push(&["main"]).succeeds();
    awaits(&node, "proj", "failing");
    assert!(server.refused.load(std::sync::atomic::Ordering::SeqCst) > 0, "nobody comes in without a token");
    let file = world.dir().join("token");
    std::fs::write(&file, "wrong-token\n").unwrap();
    node.gitmesh(&["target", "token", "hub", &file.display().to_string(), "--for", &url]).succeeds();
    let answer = node.gitmesh(&["mirror", "push", "hub", "proj"]).fails();
    assert!(!answer.stderr.contains("wrong-token"), "{}", answer.stderr);
    std::fs::write(&file, format!("{token}\n")).unwrap();
    node.gitmesh(&["target", "token", "hub", &file.display().to_string(), "--for", &url]).succeeds();
    node.gitmesh(&["mirror", "push", "hub", "proj"]).succeeds();
    story(&world, &node, &server.dir("proj"), &work);
    let log = node.gitmesh(&["mirror", "log", "proj", "--limit", "1000"]).succeeds().stdout;
    for text in [&node.log(), &log, &status(&node, "proj")] {
        assert!(!text.contains(token) && !text.contains(&coded), "a token is told: {text}");
    }
    // Another URL under the same name is sent nothing of it.
    let evil = world.http_server("Basic eA==");
    bare(&world, &evil.dir("proj"));
    let elsewhere = format!("repo proj\n    RW+ = alice\n    option mirror.external = hub {}\n", evil.url("proj"));
    world.alice().configure(&node, |c| c.conf(&elsewhere)).succeeds();
    let answer = node.gitmesh(&["mirror", "push", "hub", "proj"]).fails();
    assert!(answer.stderr.contains("and is not sent to"), "{}", answer.stderr);
    assert_eq!(evil.refused.load(std::sync::atomic::Ordering::SeqCst), 0, "it is not even asked");
    // A secret has no place in the configuration.
    let bad = "repo proj\n    RW+ = alice\n    option mirror.external = hub https://me:pw@example.org/x\n";
    let answer = world.alice().configure(&node, |c| c.conf(bad)).fails();
    assert!(answer.stderr.contains("E0126") && answer.stderr.contains("target token"), "{}", answer.stderr);
}

#[test]
fn a_repository_that_follows_an_upstream() {
    let world = World::new();
    let server = world.http_server("");
    let dir = server.dir("up");
    bare(&world, &dir);
    let node = world.node("server1");
    let url = server.url("up");
    let seed = world.alice().starts(&node, "gitmesh-admin");
    let up = |args: &[&str]| {
        seed.git(&[&["push", &dir.display().to_string()], args].concat()).succeeds();
    };
    let one = seed.commit("one", "1");
    up(&["HEAD:refs/heads/trunk", "HEAD:refs/tags/v1", "HEAD:refs/pull/1/head"]);
    git(&world, &dir, &["symbolic-ref", "HEAD", "refs/heads/trunk"]);
    let conf = format!("repo copy\n    RW+ = alice\n    option mirror.upstream = {url} every=1s\n");
    world.alice().configure(&node, |c| c.conf(&conf)).succeeds();
    let here = |name: &str| node.oid("copy", name);
    eventually("the first poll", || here("refs/heads/trunk") == Some(one.clone()));
    eventually("HEAD to follow", || node.head("copy") == "ref: refs/heads/trunk");
    assert_eq!((here("refs/tags/v1"), here("refs/pull/1/head")), (Some(one.clone()), None));
    awaits(&node, "copy", "follows upstream-127.0.0.1-");
    awaits(&node, "copy", "in step");

    let two = seed.commit("two", "2");
    up(&["HEAD:refs/heads/trunk"]);
    eventually("the next poll", || here("refs/heads/trunk") == Some(two.clone()));

    // What it has is checked as a push would be: git makes no such commit.
    let broken = world.dir().join("broken");
    let tree = seed.git(&["rev-parse", "HEAD^{tree}"]).succeeds().stdout;
    let text = format!("tree {}\nauthor nobody\ncommitter nobody\n\nbroken\n", tree.trim());
    std::fs::write(&broken, text).unwrap();
    let broken = broken.display().to_string();
    let made = git(&world, &dir, &["hash-object", "-t", "commit", "-w", "--literally", &broken]).stdout;
    git(&world, &dir, &["update-ref", "refs/heads/broken", made.trim()]);
    let answer = node.gitmesh(&["mirror", "pull", "copy"]).fails();
    assert!(answer.stderr.contains("missingEmail"), "{}", answer.stderr);
    assert_eq!(here("refs/heads/broken"), None);
    git(&world, &dir, &["update-ref", "-d", "refs/heads/broken"]);
    node.gitmesh(&["mirror", "pull", "copy"]).succeeds();

    // What the upstream takes back is kept.
    up(&["--force", &format!("{one}:refs/heads/trunk"), ":refs/tags/v1"]);
    let answer = node.gitmesh(&["mirror", "pull", "copy"]).succeeds();
    assert!(answer.stdout.contains("<=== upstream"), "{}", answer.stdout);
    assert_eq!((here("refs/heads/trunk"), here("refs/tags/v1")), (Some(one.clone()), None));
    let kept: BTreeMap<String, String> =
        node.refs("copy").into_iter().filter(|(name, _)| name.starts_with("refs/gitmesh/lost/server1/")).collect();
    let ends = |end: &str, oid: &str| kept.iter().any(|(name, at)| name.ends_with(end) && at == oid);
    assert!(kept.len() == 2 && ends("/heads/trunk", &two) && ends("/tags/v1", &one), "{kept:?}");

    // Nobody pushes here; an upstream that has lost everything waits for a person.
    let work = world.alice().clone_of(&node, "copy");
    work.commit("mine", "m");
    let answer = work.push(&["HEAD:trunk"]).fails();
    assert!(answer.stderr.contains("takes no pushes") && answer.stderr.contains("E0218"), "{}", answer.stderr);
    std::fs::remove_dir_all(&dir).unwrap();
    bare(&world, &dir);
    awaits(&node, "copy", "pending");
    assert_eq!(here("refs/heads/trunk"), Some(one));
    node.is_sound("copy");
}

#[test]
fn who_becomes_the_master_says_which_target_it_cannot_open() {
    let world = World::new();
    let conf = "repo proj\n    RW+ = alice\n    option mirror.master = server1\n    option mirror.copies = server2\n    \
                option mirror.external = hub ssh://git@hub.invalid/proj\n";
    let pair = world.pair_with(conf);
    let work = world.alice().starts(&pair.one, "proj");
    work.commit("one", "1");
    work.push(&["main"]).succeeds();
    pair.in_step("proj");
    let lacks = "warning: on server2, which pushes there now, there is no key for target 'hub'";
    pair.one.gitmesh(&["mirror", "move", "proj", "--to", "server2"]).succeeds().says(lacks);
    pair.two.gitmesh(&["target", "key", "hub"]).succeeds();
    pair.two.gitmesh(&["mirror", "move", "proj", "--to", "server1"]).succeeds().says("on server1, which");
    pair.one.kill9();
    let lacks = "warning: on server2, which pushes there now, the host of target 'hub' is not known";
    pair.two.gitmesh(&["mirror", "promote", "proj", "--yes"]).succeeds().says(lacks);
}

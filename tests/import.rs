//! `gitmesh import gitolite`: a home that real gitolite3 made (`tests/fixtures/gitolite/make`) becomes a node; the same
//! questions get the same answers, and clones are identical.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::world::{Actor, Answer, Checkout, Node, World, eventually};

const ANSWERS: &str = include_str!("fixtures/gitolite/answers.txt");

/// The home, untouched, in `DIR/there`; everybody's private keys in `DIR/there/keys`.
pub fn fixture(world: &World) -> PathBuf {
    let there = world.dir().join("there");
    fs::create_dir(&there).unwrap();
    let mut tar = world.command("tar");
    tar.arg("-xzf").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gitolite/home.tar.gz"));
    Answer::of({
        tar.arg("-C").arg(&there);
        tar
    })
    .succeeds();
    there.join("mars")
}

fn user(world: &World, name: &str) -> Actor {
    world.holder_of(name, &world.dir().join("there/keys").join(name))
}

/// The import with the address of `node`, as a copy into its data directory.
fn copied(world: &World, home: &Path, node: &Node, more: &[&str]) -> Answer {
    let (home, data) = (home.display().to_string(), node.data().display().to_string());
    let listen = format!("127.0.0.1:{}", node.port());
    let words = ["import", "gitolite", &home, "--copy", "--data", &data, "--listen", &listen];
    let done = world.gitmesh(&[&words[..], more].concat());
    node.is_known();
    done
}

/// Every file below a directory, with what a change of it would change.
fn state(dir: &Path) -> BTreeMap<PathBuf, (u64, i64, i64)> {
    let mut found = BTreeMap::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(at) = todo.pop() {
        let about = at.symlink_metadata().unwrap();
        if about.is_dir() {
            todo.extend(fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            // git freshens the time of an object that it would write again, and objects are shared.
            let object = at.to_string_lossy().contains("/objects/");
            let (mtime, nsec) = if object { (0, 0) } else { (about.mtime(), about.mtime_nsec()) };
            found.insert(at, (about.len(), mtime, nsec));
        }
    }
    found
}

/// A commit more on a branch of a repository past every door, as gitolite would have let it land.
pub fn lands(world: &World, repo: &Path, branch: &str) -> String {
    let git = |words: &[&str]| {
        let mut git = world.command("git");
        git.arg("--git-dir").arg(repo).args(["-c", "user.name=a", "-c", "user.email=a@b"]).args(words);
        Answer::of(git).succeeds().stdout.trim().to_owned()
    };
    let tip = git(&["rev-parse", branch]);
    let commit = git(&["commit-tree", "-p", &tip, "-m", &repo.display().to_string(), &format!("{tip}^{{tree}}")]);
    git(&["update-ref", &format!("refs/heads/{branch}"), &commit]);
    commit
}

/// The questions that gitolite answered, asked again.
#[track_caller]
fn answers_as_before(world: &World, node: &Node) {
    let mut info: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let (mut about, mut wrong, mut asked) = ("", Vec::new(), 0);
    for line in ANSWERS.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["==", "info", who] => about = who,
            ["access", repo, who, perm, refname, allowed] => {
                let now =
                    node.gitmesh(&["access", &repo.replace("gitolite-admin", "gitmesh-admin"), who, perm, refname]);
                asked += 1;
                if (now.code == Some(0)) != (allowed == "1") {
                    wrong.push(format!("{line}: {now:?}"));
                }
            }
            ["ref", repo, refname, oid] => {
                let moved = repo == "gitolite-admin";
                if !moved && node.oid(repo, refname).as_deref() != Some(oid) {
                    wrong.push(line.to_owned());
                }
            }
            _ => info.entry(about).or_default().push(line.to_owned()),
        }
    }
    assert!(asked > 300 && info["bob"].len() > 5, "the questions are there");
    assert!(wrong.is_empty(), "{} answers differ:\n{}", wrong.len(), wrong.join("\n"));
    for who in ["alice", "bob", "carol"] {
        let now = user(world, who).ssh(node, "info").succeeds().stdout;
        let line = |line: &str| {
            let (rights, repo) = line.split_once('\t')?;
            // What mirroring adds stands behind the name.
            let repo = repo.split('\t').next().unwrap_or_default().split("  ").next().unwrap_or_default();
            Some(format!("{}\t{}", rights.trim_end(), repo.replace("gitolite-admin", "gitmesh-admin")))
        };
        let now: Vec<String> = now.lines().filter_map(line).collect();
        let before: Vec<String> = info[who].iter().filter_map(|text| line(text)).collect();
        let sorted = |mut lines: Vec<String>| {
            lines.sort();
            // Adopted in place, the admin repository is there by both names.
            lines.dedup();
            lines
        };
        assert_eq!(sorted(now), sorted(before), "info of {who}");
    }
}

#[test]
fn a_copy_answers_as_gitolite_did() {
    let world = World::new();
    let home = fixture(&world);
    let before = state(&home);
    let node = world.newcomer("mars");
    let told = copied(&world, &home, &node, &["--dry-run"]).succeeds();
    assert!(!node.data().exists() && state(&home) == before, "a dry run changes nothing");
    let there = world.dir().display().to_string();
    let told = told.stdout.replace(&there, "DIR").replace(&node.port().to_string(), "PORT");
    insta::assert_snapshot!("what_an_import_tells", told);

    copied(&world, &home, &node, &[]).succeeds().says("next:\n");
    assert_eq!(state(&home), before, "the original is as it was");
    node.start();
    answers_as_before(&world, &node);
    let (alice, bob, carol) = (user(&world, "alice"), user(&world, "bob"), user(&world, "carol"));
    let laptop = user(&world, "alice-laptop");
    laptop.ssh(&node, "info").succeeds().says("hello alice");

    // A clone is what it was, under both names of the admin repository.
    let handbook = bob.clone_of(&node, "docs/handbook");
    handbook.git(&["fsck", "--full", "--strict"]).succeeds();
    let admin = alice.clone_of(&node, "gitolite-admin");
    admin.git(&["log", "--format=%s"]).succeeds().says("Move from gitolite").says("the rules of an invented site");
    admin
        .git(&["log", "--follow", "--format=%s", "conf/gitmesh.conf"])
        .succeeds()
        .says("the rules of an invented site");

    // Programs, roles, owners, settings.
    handbook.git(&["checkout", "-q", "main"]).succeeds();
    handbook.commit("x", "the password is hunter2");
    handbook.push(&["main"]).refused_by("found a secret");
    let build = carol.clone_of(&node, "tools/build");
    build.commit("x", "more");
    build.push(&["HEAD"]).succeeds();
    eventually("the hook of a single repository to have run", || {
        let noted = fs::read_to_string(node.repo_dir("tools/build").join("noted")).unwrap_or_default();
        noted.lines().count() == 3
    });
    bob.ssh(&node, "perms pub/bob/tool -l").succeeds().says("TESTERS carol").says("READERS @staff");
    assert_eq!(node.git("docs/api", &["config", "hooks.mailinglist"]).succeeds().stdout, "docs@example.com\n");
    alice.try_clone(&alice.url(&node, "pub/alice/fresh"), "fresh").succeeds();
    assert_eq!(fs::read_to_string(node.repo_dir("pub/alice/fresh").join("gl-perms")).unwrap(), "READERS @staff\n");
    let key = fs::read_to_string(node.public_key()).unwrap();
    let known = fs::read_to_string(world.dir().join("there/keys/mars.pub")).unwrap();
    assert_eq!(key.split(' ').nth(1), known.split(' ').nth(1), "the other nodes know this key");
    node.gitmesh(&["peer", "list"]).succeeds().says("git@venus.example.com:2201");
    // A push of the configuration goes on working, by the old name too.
    let conf = admin.git(&["show", "HEAD:conf/gitmesh.conf"]).succeeds().stdout;
    admin.commit("conf/gitmesh.conf", format!("{conf}\nrepo later\n    RW+ = carol\n"));
    admin.push(&["HEAD"]).succeeds();
    carol.clone_of(&node, "later");
}

#[test]
fn a_second_run_takes_what_came_since_and_overwrites_nothing() {
    let world = World::new();
    let home = fixture(&world);
    let node = world.newcomer("mars");
    copied(&world, &home, &node, &[]).succeeds().says("repositories  11 copied");
    let first = state(&node.data().join("repositories"));
    copied(&world, &home, &node, &[]).succeeds().says("0 copied, 11 are here already");
    assert_eq!(state(&node.data().join("repositories")), first);

    let there = |repo: &str| home.join("repositories").join(format!("{repo}.git"));
    let renewed = lands(&world, &there("docs/api"), "main");
    lands(&world, &there("design/logo"), "main");
    fs::write(there("pub/bob/tool").join("gl-perms"), "READERS carol\n").unwrap();
    let ours = lands(&world, &node.repo_dir("design/logo"), "main");
    let kept = lands(&world, &node.repo_dir("docs/handbook"), "main");
    let again = copied(&world, &home, &node, &[]);
    assert_eq!(again.code, Some(6), "{again:?}");
    let again = again.says("2 copied, 8 are here already").says("stay as they are here: design/logo");
    again.does_not_say("docs/handbook,");
    assert_eq!(node.oid("docs/api", "refs/heads/main"), Some(renewed));
    assert_eq!(node.oid("design/logo", "refs/heads/main"), Some(ours));
    assert_eq!(node.oid("docs/handbook", "refs/heads/main"), Some(kept));
    assert_eq!(fs::read_to_string(node.repo_dir("pub/bob/tool").join("gl-perms")).unwrap(), "READERS carol\n");

    node.start();
    copied(&world, &home, &node, &[]).refused_by("a daemon is running");
    node.stop();
    let home = home.display().to_string();
    let other = node.data().display().to_string();
    world
        .gitmesh(&["import", "gitolite", &home, "--copy", "--data", &other, "--name", "venus"])
        .refused_by("is the node 'mars'");
    world
        .gitmesh(&["import", "gitolite", &home, "--copy", "--data", &format!("{home}/x")])
        .refused_by("one in the other");
    world.gitmesh(&["import", "gitolite", &other]).refused_by("is no home of gitolite's");
}

#[test]
fn a_home_is_adopted_in_place() {
    let world = World::new();
    let home = fixture(&world);
    let node = world.newcomer("mars");
    fs::rename(&home, node.data()).unwrap();
    let before = state(&node.data());
    let (home, listen) = (node.data().display().to_string(), format!("127.0.0.1:{}", node.port()));
    let words = ["import", "gitolite", &home, "--listen", &listen];
    world.gitmesh(&[&words[..], &["--dry-run"]].concat()).succeeds().says("adopted where they are");
    assert_eq!(state(&node.data()), before);
    world.gitmesh(&words).succeeds().says("for a person:");
    let mut after = state(&node.data());
    after.retain(|path, about| before.get(path).is_some_and(|old| old != about));
    assert!(after.keys().all(|path| path.ends_with("config")), "only git configs were changed: {:?}", after.keys());
    assert_eq!(after.len(), 10, "{:?}", after.keys());
    world.gitmesh(&words).succeeds().says("gitmesh.toml is there already");
    node.is_known();
    node.start();
    answers_as_before(&world, &node);
    let admin = user(&world, "alice").clone_of(&node, "gitmesh-admin");
    admin.git(&["log", "--format=%s"]).succeeds().says("the rules of an invented site");
}

#[test]
fn a_bad_configuration_stops_it_before_anything_is_written() {
    let world = World::new();
    let home = fixture(&world);
    let admin = home.join("repositories/gitolite-admin.git");
    let work = world.dir().join("work");
    let git = |words: &[&str]| {
        let mut git = world.command("git");
        git.args(["-c", "user.name=a", "-c", "user.email=a@b"]).args(words);
        Answer::of(git).succeeds();
    };
    let at = work.display().to_string();
    git(&["clone", "-q", &admin.display().to_string(), &at]);
    fs::write(work.join("conf/gitolite.conf"), "repo gitolite-admin\n    RW+ = alice\n    RW [ = bob\n").unwrap();
    git(&["-C", &at, "commit", "-q", "-a", "-m", "bad"]);
    git(&["-C", &admin.display().to_string(), "fetch", "-q", &at, "+master:master"]);
    let before = state(&home);
    let node = world.newcomer("mars");
    let told = copied(&world, &home, &node, &[]);
    assert_eq!(told.code, Some(3), "{told:?}");
    told.says("conf/gitmesh.conf:3").says("nothing was changed");
    assert!(!node.data().exists() && state(&home) == before);
}

#[test]
fn mirroring_of_the_source_goes_on() {
    let world = World::new();
    let mars_home = fixture(&world);
    let (mars, venus) = (world.newcomer("mars"), world.newcomer("venus"));
    // The second server of the same site: its own name and key, and the copies that it had.
    let venus_home = world.dir().join("there/venus");
    let mut copy = world.command("cp");
    copy.arg("-a").arg(&mars_home).arg(&venus_home);
    Answer::of(copy).succeeds();
    let rc = fs::read_to_string(venus_home.join(".gitolite.rc")).unwrap();
    assert!(rc.contains("'mars'"));
    fs::write(venus_home.join(".gitolite.rc"), rc.replace("'mars'", "'venus'")).unwrap();
    for (file, key) in [("id_ed25519", "venus"), ("id_ed25519.pub", "venus.pub")] {
        fs::copy(world.dir().join("there/keys").join(key), venus_home.join(".ssh").join(file)).unwrap();
    }
    for (home, other) in [(&mars_home, &venus), (&venus_home, &mars)] {
        let host = format!("Host {}\n  HostName 127.0.0.1\n  Port {}\n", other.name(), other.port());
        fs::write(home.join(".ssh/config"), host).unwrap();
    }
    copied(&world, &mars_home, &mars, &[]).succeeds();
    copied(&world, &venus_home, &venus, &[]).succeeds();
    assert_eq!(mars.refs("gitmesh-admin"), venus.refs("gitmesh-admin"), "both made the same commit");
    mars.start();
    venus.start();
    let alice = user(&world, "alice");
    let pushed = |work: &Checkout| {
        work.git(&["checkout", "-q", "main"]).succeeds();
        let commit = work.commit("README", "after the move");
        work.push(&["main"]).succeeds();
        commit
    };
    let commit = pushed(&alice.clone_of(&mars, "docs/handbook"));
    eventually("the copy on venus to have it", || {
        venus.oid("docs/handbook", "refs/heads/main").as_ref() == Some(&commit)
    });
    // Of this one venus is the master, and mars takes pushes for it.
    let commit = pushed(&alice.clone_of(&mars, "away"));
    eventually("mars to have it too", || {
        [&mars, &venus].iter().all(|node| node.oid("away", "refs/heads/main").as_ref() == Some(&commit))
    });
}

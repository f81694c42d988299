//! Backups: made beside a running node, grown by what has changed, checked, and restored into a fresh machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::world::{Node, World, eventually};

const CONF: &str = "repo proj other quiet\n    RW+ = alice\n    desc = Our tools\nrepo pub/CREATOR/..*\n    C = alice\n    RW+ = CREATOR\n    R = READERS\n";

fn create(node: &Node, dir: &Path) -> String {
    node.gitmesh(&["backup", "create", &dir.display().to_string()]).succeeds().stdout
}

fn objects(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir.join("objects")).unwrap() {
        let path = entry.unwrap().path();
        all.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
    }
    all
}

fn bytes(dir: &Path) -> u64 {
    objects(dir).iter().map(|path| fs::metadata(path).unwrap().len()).sum()
}

#[test]
fn what_was_backed_up_comes_back_on_a_fresh_machine() {
    let world = World::new();
    let node = world.node("server1");
    let alice = world.alice();
    alice.configure(&node, |c| c.conf(CONF)).succeeds();
    let work = alice.starts(&node, "proj");
    work.commit_random("large", 2 << 20);
    work.git(&["tag", "-a", "-m", "annotated", "v1"]).succeeds();
    work.push(&["main", "v1"]).succeeds();
    alice.ssh(&node, "create pub/alice/x").succeeds();
    alice.ssh(&node, "perms pub/alice/x + READERS bob").succeeds();
    let dir = world.dir().join("backup");
    // Beside a daemon that works: pushes go on.
    let first = create(&node, &dir);
    assert!(first.contains("6 repositories, 6 changed"), "{first}");

    // Nothing has changed: one snapshot more, and nothing else.
    let before = bytes(&dir);
    let again = create(&node, &dir);
    assert!(again.contains(" 0 changed"), "{again}");
    assert!(bytes(&dir) < before + (64 << 10), "what has not changed costs nothing");

    // A small change to a large repository is small.
    let two = work.commit("small", "2");
    work.git(&["branch", "gone"]).succeeds();
    work.push(&["main", "gone"]).succeeds();
    let third = create(&node, &dir);
    assert!(third.contains(" 1 changed"), "{third}");
    work.git(&["reset", "-q", "--hard", "HEAD~1"]).succeeds();
    let three = work.commit("three", "3");
    work.push(&["--force", "main", ":gone"]).succeeds();
    let fourth = create(&node, &dir);
    assert!(fourth.contains(" 1 changed"), "{fourth}");
    assert!(bytes(&dir) < before + (256 << 10), "{} then, {before} before", bytes(&dir));
    world.gitmesh(&["backup", "verify", &dir.display().to_string()]).succeeds();
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&dir).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700, "it holds keys");

    // The machine is gone. A new one gets everything, the old address among it.
    let (old, head, key) = (node.refs("proj"), node.head("proj"), fs::read(node.data().join("identity")).unwrap());
    let perms = fs::read(node.repo_dir("pub/alice/x").join("gl-perms")).unwrap();
    let full = node.gitmesh(&["backup", "restore", &dir.display().to_string()]).fails();
    assert!(full.stderr.contains("is not empty"), "{}", full.stderr);
    node.stop();
    fs::rename(node.data(), world.dir().join("lost")).unwrap();
    let done = node.gitmesh(&["backup", "restore", &dir.display().to_string()]).succeeds();
    assert!(done.stdout.contains("'server1' as it was at 20"), "{}", done.stdout);
    let marker = fs::read_to_string(node.data().join("state/restored")).unwrap();
    assert!(marker.contains("\"backup\":\"20") && marker.contains("\"node\":\"server1\""), "{marker}");
    assert_eq!((node.refs("proj"), node.head("proj")), (old, head));
    assert_eq!(fs::read(node.data().join("identity")).unwrap(), key);
    assert_eq!(fs::read(node.repo_dir("pub/alice/x").join("gl-perms")).unwrap(), perms);
    node.is_sound("proj");
    node.start();
    assert_eq!(alice.clone_of(&node, "proj").oid("HEAD"), three);
    let described = fs::read_to_string(node.repo_dir("proj").join("description")).unwrap();
    assert_eq!(described.trim(), "Our tools");
    work.commit("four", "4");
    work.push(&["main"]).succeeds();
    alice.configure(&node, |c| c.conf(CONF)).succeeds();

    // An older snapshot is there too.
    let older = third.split([' ', ':']).nth(1).expect("its name");
    let elsewhere = world.dir().join("elsewhere");
    let words = ["backup", "restore", &dir.display().to_string(), "--snapshot", older, "--data"];
    world.gitmesh(&[&words[..], &[&elsewhere.display().to_string()]].concat()).succeeds();
    let mut git = world.command("git");
    git.arg("--git-dir").arg(elsewhere.join("repositories/proj.git")).args(["rev-parse", "main", "gone"]);
    let out = crate::world::Answer::of(git).succeeds().stdout;
    assert_eq!(out, format!("{two}\n{two}\n"), "as it was then");

    // The older ones go, and what is left is whole and restores.
    let shown = dir.display().to_string();
    world.gitmesh(&["backup", "prune", &shown]).fails();
    let before = objects(&dir).len();
    world.gitmesh(&["backup", "prune", &shown, "--days", "1"]).succeeds().says("0 snapshots and 0 objects are gone");
    let pruned = world.gitmesh(&["backup", "prune", &shown, "--keep", "1"]).succeeds();
    pruned.says("3 snapshots and ").says("1 snapshots are left");
    assert!(objects(&dir).len() < before, "{} of {before} are left", objects(&dir).len());
    world.gitmesh(&["backup", "verify", &shown]).succeeds().says("1 snapshots, ");
    let again = world.dir().join("again");
    world.gitmesh(&["backup", "restore", &shown, "--data", &again.display().to_string()]).succeeds();
    let mut git = world.command("git");
    git.arg("--git-dir").arg(again.join("repositories/proj.git")).args(["rev-parse", "main"]);
    assert_eq!(crate::world::Answer::of(git).succeeds().stdout.trim(), three);
    assert!(!create(&node, &dir).contains(" 0 changed"), "it grows on");
    world.gitmesh(&["backup", "verify", &shown]).succeeds().says("2 snapshots, ");
}

#[test]
fn a_snapshot_holds_all_of_a_push_or_nothing_and_what_grows_costs_what_it_has_grown_by() {
    let world = World::new();
    let node = world.node("server1");
    let alice = world.alice();
    alice.configure(&node, |c| c.conf(CONF)).succeeds();
    let work = alice.starts(&node, "proj");
    let (dir, over) = (world.dir().join("backup"), AtomicBool::new(false));
    let local = node.data().join("local");
    fs::create_dir_all(&local).unwrap();
    let mut grows: Vec<u8> = (0..3 << 20).map(|n: u32| (n >> 8 ^ n) as u8).collect();
    fs::write(local.join("grows"), &grows).unwrap();
    let branches = ["a", "b", "c", "d", "e", "f"];
    let snapshots: Vec<String> = std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0.. {
                if over.load(Ordering::SeqCst) {
                    break;
                }
                work.commit("n", format!("{n}"));
                let specs = branches.map(|branch| format!("HEAD:refs/heads/{branch}"));
                let words: Vec<&str> = ["--atomic"].into_iter().chain(specs.iter().map(String::as_str)).collect();
                work.push(&words).succeeds();
            }
        });
        eventually("the first push", || node.oid("proj", "refs/heads/f").is_some());
        let named = |told: String| told.split([' ', ':']).nth(1).expect("its name").to_owned();
        let all = (0..5).map(|_| named(create(&node, &dir))).collect();
        over.store(true, Ordering::SeqCst);
        all
    });
    let shown = dir.display().to_string();
    for (n, snapshot) in snapshots.iter().enumerate() {
        let to = world.dir().join(format!("restored{n}"));
        let words = ["backup", "restore", &shown, "--snapshot", snapshot, "--data", &to.display().to_string()];
        world.gitmesh(&words).succeeds();
        let mut git = world.command("git");
        git.arg("--git-dir").arg(to.join("repositories/proj.git")).args(["rev-parse"]).args(branches);
        let out = crate::world::Answer::of(git).succeeds().stdout;
        let values: std::collections::BTreeSet<&str> = out.lines().collect();
        assert_eq!(values.len(), 1, "half of a push in {snapshot}: {out}");
        assert!(fs::read(to.join("local/grows")).unwrap() == grows, "a file in pieces");
    }
    // Only its last piece is new.
    create(&node, &dir);
    let before = bytes(&dir);
    grows.extend([7; 1000]);
    fs::write(local.join("grows"), &grows).unwrap();
    std::os::unix::fs::symlink("/somewhere", local.join("leads")).unwrap();
    let told = node.gitmesh(&["backup", "create", &shown]);
    assert!(told.has("local/leads") && told.has("it is a symbolic link"), "{told:#?}");
    assert!(bytes(&dir) < before + (256 << 10), "{} after {before}", bytes(&dir));
    world.gitmesh(&["backup", "verify", &shown]).succeeds();
    world.gitmesh(&["backup", "prune", &shown, "--keep", "1"]).succeeds();
    world.gitmesh(&["backup", "verify", &shown]).succeeds();
    let to = world.dir().join("last");
    world.gitmesh(&["backup", "restore", &shown, "--data", &to.display().to_string()]).succeeds();
    assert!(fs::read(to.join("local/grows")).unwrap() == grows);
}

#[test]
fn a_damaged_backup_is_told_and_a_strange_directory_is_left_alone() {
    let world = World::new();
    let node = world.prepare("server1");
    let dir = world.dir().join("backup");
    let shown = dir.display().to_string();
    assert!(world.gitmesh(&["backup", "verify", &shown]).fails().stderr.contains("is no backup"));
    let strange = world.dir().join("home");
    fs::write(strange.join("file"), "x").unwrap();
    let refused = node.gitmesh(&["backup", "create", &strange.display().to_string()]).fails();
    assert!(refused.stderr.contains("holds other files"), "{}", refused.stderr);
    let inside = node.data().join("backup").display().to_string();
    assert!(node.gitmesh(&["backup", "create", &inside]).fails().stderr.contains("elsewhere"));
    create(&node, &dir);
    world.gitmesh(&["backup", "verify", &shown]).succeeds();
    let is_bundle = |path: &PathBuf| fs::read(path).unwrap().starts_with(b"# v2 git bundle\n");
    let bundle = objects(&dir).into_iter().find(is_bundle).expect("the admin repository has one");
    // Stock git reads it.
    let mut git = world.command("git");
    git.args(["clone", "-q", "--mirror"]).arg(&bundle).arg(world.dir().join("by-hand"));
    crate::world::Answer::of(git).succeeds();
    let mut contents = fs::read(&bundle).unwrap();
    let last = contents.len() - 30;
    contents[last] ^= 1;
    fs::write(&bundle, contents).unwrap();
    let told = world.gitmesh(&["backup", "verify", &shown]).fails();
    assert!(told.stderr.contains("DAMAGED") && told.stdout.contains("1 damaged"), "{}{}", told.stdout, told.stderr);
    let elsewhere = world.dir().join("elsewhere").display().to_string();
    let half = world.gitmesh(&["backup", "restore", &shown, "--data", &elsewhere]).fails();
    assert!(half.stderr.contains("NOT RESTORED: gitmesh-admin"), "{}", half.stderr);
}

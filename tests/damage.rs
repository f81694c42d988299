//! Copies whose disks have lost something: it is found, said, and mended by an order.

use std::fs;
use std::path::PathBuf;

use crate::world::{Node, Pair, World, eventually};

const CONF: &str = "\
repo testing
    RW+ = @all
    option mirror.master = server1
    option mirror.copies = server2
";

/// Files below a folder of the repository whose path ends so.
fn files(node: &Node, below: &str, end: &str) -> Vec<PathBuf> {
    let (mut todo, mut found) = (vec![node.repo_dir("testing").join(below)], Vec::new());
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            match entry.path() {
                path if path.is_dir() => todo.push(path),
                path if path.to_string_lossy().ends_with(end) => found.push(path),
                _ => {}
            }
        }
    }
    found
}

/// git makes its files read-only.
fn open_up(path: &PathBuf) -> fs::File {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::OpenOptions::new().write(true).open(path).unwrap()
}

/// A pair in step, with some history, a description, and something that was kept aside on the copy.
fn in_step(world: &World) -> Pair {
    let pair = world.pair_with(CONF);
    let work = world.alice().clone_of(&pair.one, "testing");
    for n in 0..5 {
        work.commit(&format!("file{n}"), "text ".repeat(200 * (n + 1)));
        work.push(&["HEAD:main", &format!("HEAD:refs/tags/v{n}")]).succeeds();
    }
    pair.in_step("testing");
    pair.two.git("testing", &["update-ref", "refs/gitmesh/lost/server2/x/heads/main", "main~1"]).succeeds();
    pair
}

fn mended(world: &World, pair: &Pair) {
    let alice = world.alice();
    alice.ssh(&pair.one, "mirror verify testing --deep").says("DAMAGED; there: ");
    let repaired = pair.one.gitmesh(&["mirror", "repair", "server2", "testing"]).succeeds();
    repaired.says("it was damaged and is made anew, the old copy is in the trash there: 6 references, ");
    pair.two.is_sound("testing");
    pair.in_step("testing");
    alice.ssh(&pair.one, "mirror verify testing --deep").succeeds().says("equal, and every object is sound");
    // It serves and follows as before, also without a restart.
    alice.try_clone(&alice.url(&pair.two, "testing"), "again").succeeds();
    let work = alice.checkout("server1-testing");
    work.commit("after", "the repair");
    work.push(&["-o", "mirror.wait", "HEAD:main"]).succeeds().says("===> server2   done in");
    alice.ssh(&pair.two, "D list-trash").says("testing");
    assert_eq!(files(&pair.two, "", ".lock"), Vec::<PathBuf>::new());
}

#[test]
fn a_copy_with_a_truncated_pack_is_made_anew() {
    let world = World::new();
    let pair = in_step(&world);
    // All in one pack, of which half is lost.
    pair.two.git("testing", &["repack", "-adq"]).succeeds();
    let packs = files(&pair.two, "objects/pack", ".pack");
    let pack = open_up(&packs[0]);
    pack.set_len(pack.metadata().unwrap().len() / 2).unwrap();
    pair.two.git("testing", &["fsck", "--full"]).fails();
    mended(&world, &pair);
}

#[test]
fn a_copy_with_a_deleted_object_is_made_anew_and_keeps_what_it_can() {
    let world = World::new();
    let pair = in_step(&world);
    let lost = pair.two.git("testing", &["rev-parse", "main:file4"]).succeeds().stdout;
    let kept = pair.two.oid("testing", "refs/gitmesh/lost/server2/x/heads/main");
    // As loose objects, one of which is gone.
    let packs = files(&pair.two, "objects/pack", ".pack");
    for pack in packs {
        let moved = world.dir().join("moved.pack");
        fs::rename(&pack, &moved).unwrap();
        fs::remove_file(pack.with_extension("idx")).unwrap();
        let mut unpack = world.command("git");
        unpack.arg("--git-dir").arg(pair.two.repo_dir("testing")).args(["unpack-objects", "-q"]);
        assert!(unpack.stdin(fs::File::open(&moved).unwrap()).status().unwrap().success());
    }
    let (folder, file) = lost.trim().split_at(2);
    fs::remove_file(pair.two.repo_dir("testing").join("objects").join(folder).join(file)).unwrap();
    mended(&world, &pair);
    assert_eq!(pair.two.oid("testing", "refs/gitmesh/lost/server2/x/heads/main"), kept);
}

#[test]
fn a_sound_copy_is_not_made_anew() {
    let world = World::new();
    let pair = in_step(&world);
    let before = files(&pair.two, "objects/pack", ".pack");
    pair.one.gitmesh(&["mirror", "repair", "server2", "testing"]).succeeds().says("in step already");
    assert_eq!(files(&pair.two, "objects/pack", ".pack"), before);
    eventually("the log to tell of it", || pair.one.gitmesh(&["mirror", "log", "testing"]).has("pushed"));
}

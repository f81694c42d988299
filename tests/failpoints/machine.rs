//! What is done at the machine itself: a start, a fresh node, backups, an import, keys for other servers.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Acts, Case, Refused, act, left_over, play};
use crate::import::{fixture, lands};
use crate::world::{Node, World};

pub(super) const CASES: &[Case] = &[
    Case("daemon.install.rename", "start", Refused),
    Case("repo.adopt.sync", "start", Refused),
    Case("file.rename repositories/.disk", "start", Refused),
    Case("admin.settle.rename", "start", Refused),
    Case("admin.file.sync identity", "init", Refused),
    Case("admin.file.rename gitmesh.toml", "init", Refused),
    Case("init.admin.rename", "init", Refused),
    Case("init.admin.dir", "init", Refused),
    Case("backup.object.rename", "back up", Refused),
    Case("backup.settle", "back up", Refused),
    Case("backup.snapshot.sync", "back up", Refused),
    Case("backup.snapshot.rename", "back up", Refused),
    Case("backup.snapshot.dir", "back up", Refused),
    Case("backup.prune.dir", "prune", Refused),
    Case("backup.restore.sync", "restore", Refused),
    Case("repo.take-in.rename", "import", Refused),
    Case("repo.take-in.exchange", "import again", Refused),
    Case("repo.take-in.settle", "import again", Refused),
    Case("import.journal.sync", "import again", Refused),
    Case("mirror.target.sync", "target", Refused),
    Case("mirror.target.rename", "target", Refused),
    Case("mirror.target.dir", "target", Refused),
    Case("mirror.upstream.refs", "pull", Refused),
];

/// A daemon that does not come up says why; one that comes up goes on.
fn start<'a>(node: &'a Node, acts: &mut Acts<'a>) {
    let before = Cell::new(usize::MAX);
    let run = move |n| {
        if before.replace(n) == n {
            node.start();
            return node.gitmesh(&["info"]);
        }
        node.gitmesh(&["serve"])
    };
    let stopped = move |_| {
        node.stop();
        fs::write(node.data().join("hooks/post-receive"), "another").unwrap();
        let ended = node.data().join("orders/masters-ended");
        // As an earlier version has left it.
        fs::rename(&ended, node.data().join("state/masters-ended"))
            .or_else(|_| fs::write(node.data().join("state/masters-ended"), ""))
            .unwrap();
        let config = node.repo_dir("gitmesh-admin").join("config");
        let text = fs::read_to_string(&config).unwrap();
        fs::write(config, text.replace("path = ", "was = ")).unwrap();
    };
    acts.insert("start", act(stopped, run, move |_| node.is_running()));
}

fn init<'a>(world: &'a World, node: &'a Node, acts: &mut Acts<'a>) {
    let key = world.alice().public_key().display().to_string();
    let data = move |n: usize| world.dir().join(format!("init{n}"));
    let run = move |n: usize| {
        let data = data(n).display().to_string();
        node.gitmesh_for_another(&["init", "--data", &data, "--name", "fresh", "--admin", "alice", "--admin-key", &key])
    };
    let done = move |n: usize| {
        let all = ["gitmesh.toml", "identity", "fresh.pub", "repositories/gitmesh-admin.git/refs/heads/main"];
        let there = all.iter().all(|file| data(n).join(file).exists());
        assert!(!there || left_over(&data(n)).is_empty(), "{:?}", left_over(&data(n)));
        there
    };
    acts.insert("init", act(|_| {}, run, done));
}

fn snapshots(dir: &Path) -> usize {
    let names = fs::read_dir(dir.join("snapshots")).into_iter().flatten().flatten();
    names.filter(|name| name.file_name().to_string_lossy().ends_with(".json")).count()
}

fn backups<'a>(world: &'a World, node: &'a Node, acts: &mut Acts<'a>) {
    let dir: PathBuf = world.dir().join("backup");
    let shown = dir.display().to_string();
    node.gitmesh(&["backup", "create", &shown]).succeeds();
    let work = world.alice().starts(node, "testing");
    let known = Cell::new(0);
    let known = std::rc::Rc::new(known);
    let (dir_before, counted, shown_run) = (dir.clone(), known.clone(), shown.clone());
    let (dir_done, shown_done) = (dir.clone(), shown.clone());
    let back_up = act(
        move |n| {
            work.commit("a", format!("{n}"));
            work.push(&["HEAD:main"]).succeeds();
            counted.set(snapshots(&dir_before));
        },
        move |_| node.gitmesh(&["backup", "create", &shown_run]),
        move |_| {
            node.gitmesh_for_another(&["backup", "verify", &shown_done]).succeeds();
            snapshots(&dir_done) > known.get()
        },
    );
    acts.insert("back up", back_up);
    let (shown_before, shown_run, shown_done, dir_done) = (shown.clone(), shown.clone(), shown.clone(), dir.clone());
    let prune = act(
        move |_| drop(node.gitmesh(&["backup", "create", &shown_before]).succeeds()),
        move |_| node.gitmesh_for_another(&["backup", "prune", &shown_run, "--keep", "1"]),
        move |_| {
            node.gitmesh_for_another(&["backup", "verify", &shown_done]).succeeds();
            snapshots(&dir_done) == 1
        },
    );
    acts.insert("prune", prune);
    let data = move |n: usize| world.dir().join(format!("restored{n}"));
    let restore = act(
        |_| {},
        move |n| {
            // Half a node is not taken for a whole one, and is not gone on with either.
            let _absent_at_first = fs::remove_dir_all(data(n));
            node.gitmesh_for_another(&["backup", "restore", &shown, "--data", &data(n).display().to_string()])
        },
        move |n| {
            let admin = data(n).join("repositories/gitmesh-admin.git/HEAD");
            admin.exists() && data(n).join("identity").exists() && data(n).join("state/restored").exists()
        },
    );
    acts.insert("restore", restore);
}

fn imports<'a>(world: &'a World, node: &'a Node, acts: &mut Acts<'a>) {
    let home = fixture(world);
    let data = move |n: usize| world.dir().join(format!("imported{n}"));
    let from = home.display().to_string();
    let import = move |data: &Path| {
        let data = data.display().to_string();
        node.gitmesh_for_another(&["import", "gitolite", &from, "--copy", "--data", &data, "--listen", "127.0.0.1:1"])
    };
    let run = import.clone();
    let done = move |n: usize| data(n).join("repositories/gitmesh-admin.git/HEAD").exists();
    acts.insert("import", act(|_| {}, move |n| run(&data(n)), done));
    let here = world.dir().join("imported");
    let lander = home.join("repositories/docs/api.git");
    let landed = std::rc::Rc::new(std::cell::RefCell::new(String::new()));
    let (newest, shown, copy) = (landed.clone(), here.clone(), here.join("repositories/docs/api.git"));
    let first = import.clone();
    let again = act(
        move |_| {
            if !shown.exists() {
                first(&shown).succeeds();
            }
            *newest.borrow_mut() = lands(world, &lander, "main");
        },
        move |_| import(&here),
        move |_| {
            let mut git = world.command("git");
            git.arg("--git-dir").arg(&copy).args(["rev-parse", "refs/heads/main"]);
            let there = crate::world::Answer::of(git).succeeds().stdout;
            there.trim() == *landed.borrow()
        },
    );
    acts.insert("import again", again);
}

fn target<'a>(node: &'a Node, acts: &mut Acts<'a>) {
    let target = act(
        |_| {},
        move |n| {
            let file = node.data().join("token").display().to_string();
            node.gitmesh(&["target", "token", &format!("hub{n}"), &file, "--for", "https://h/"])
        },
        move |n| node.gitmesh(&["target", "list"]).succeeds().has(&format!("hub{n}\ttoken")),
    );
    fs::write(node.data().join("token"), "alice:secret\n").unwrap();
    acts.insert("target", target);
}

#[test]
fn what_fails_at_the_machine_can_be_done_again() {
    let world = World::new();
    let node = world.prepare("server1");
    node.start();
    let server = world.http_server("");
    let up = server.dir("up");
    let mut git = world.command("git");
    git.args(["init", "-q", "--bare"]).arg(&up);
    crate::world::Answer::of(git).succeeds();
    let conf = format!(
        "repo testing\n    RW+ = alice\nrepo copy\n    RW+ = alice\n    option mirror.upstream = {} every=1h\n",
        server.url("up")
    );
    world.alice().configure(&node, |c| c.conf(&conf)).succeeds();
    let seed = world.alice().starts(&node, "gitmesh-admin");
    let mut acts = Acts::new();
    start(&node, &mut acts);
    init(&world, &node, &mut acts);
    backups(&world, &node, &mut acts);
    imports(&world, &node, &mut acts);
    target(&node, &mut acts);
    let pull = act(
        |n| {
            seed.commit("one", format!("{n}"));
            seed.git(&["push", "-q", &up.display().to_string(), &format!("HEAD:refs/heads/u{n}")]).succeeds();
        },
        |_| node.gitmesh(&["mirror", "pull", "copy"]),
        |n| node.oid("copy", &format!("refs/heads/u{n}")) == Some(seed.oid("HEAD")),
    );
    acts.insert("pull", pull);
    play(&node, &acts, CASES, |_| node.is_sound("gitmesh-admin"));
}

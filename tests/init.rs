//! `gitmesh init`: from nothing to a node, and what each wrong key is told.

use std::fs;

use crate::world::{Answer, World};

fn init_with(world: &World, key: &str) -> Answer {
    let data = world.dir().join("fresh").display().to_string();
    world.gitmesh(&["init", "--data", &data, "--name", "fresh", "--admin", "alice", "--admin-key", key])
}

#[test]
fn makes_everything_and_says_the_next_three_commands() {
    let world = World::new();
    let node = world.prepare("server1");
    let data = node.data();
    for made in ["gitmesh.toml", "identity", "server1.pub", "repositories/gitmesh-admin.git/HEAD"] {
        assert!(data.join(made).exists(), "{made} is missing");
    }
    let files = node.git("gitmesh-admin", &["ls-tree", "-r", "--name-only", "HEAD"]).succeeds();
    assert_eq!(files.stdout, "conf/gitmesh.conf\nkeydir/alice.pub\n");
    let key = world.alice().public_key().display().to_string();
    let again = init_with(&world, &key).succeeds();
    let next: Vec<_> = again.stdout.lines().skip_while(|line| *line != "next:").skip(1).collect();
    assert!(
        next.len() == 3
            && next[0].starts_with("  gitmesh serve --data ")
            && next[1].starts_with("  git clone ")
            && next[2].starts_with("  ssh "),
        "{next:#?}"
    );
}

#[test]
fn a_second_run_changes_nothing_and_says_so() {
    let world = World::new();
    let key = world.alice().public_key().display().to_string();
    init_with(&world, &key).succeeds();
    let state = || {
        let file = |name: &str| fs::read(world.dir().join("fresh").join(name)).unwrap();
        let head = file("repositories/gitmesh-admin.git/refs/heads/main");
        (file("gitmesh.toml"), file("identity"), file("fresh.pub"), head)
    };
    let before = state();
    init_with(&world, &key).succeeds().says("nothing was changed");
    assert!(before == state());
    // Another key is not smuggled in by running it again.
    let bob = world.actor("bob").public_key().display().to_string();
    init_with(&world, &bob).refused_by("Nothing was changed");
    assert!(before == state());
}

#[test]
fn the_key_may_be_a_file_standard_input_or_the_text() {
    let world = World::new();
    let line = world.alice().key_line();
    init_with(&world, &line).succeeds();
    let data = world.dir().join("piped").display().to_string();
    let mut command = world.command(env!("CARGO_BIN_EXE_gitmesh"));
    command.args(["init", "--data", &data, "--name", "piped", "--admin", "alice", "--admin-key", "-"]);
    command.stdin(fs::File::open(world.alice().public_key()).unwrap());
    crate::world::Running::start(command).end().succeeds();
    // What an editor on Windows makes of it.
    let file = world.dir().join("windows.pub");
    fs::write(&file, format!("\u{feff}{line}\r\n")).unwrap();
    let data = world.dir().join("windows").display().to_string();
    let file = file.display().to_string();
    world.gitmesh(&["init", "--data", &data, "--name", "w", "--admin", "alice", "--admin-key", &file]).succeeds();
}

#[test]
fn each_wrong_key_is_told_its_cure() {
    let world = World::new();
    let good = world.alice().key_line();
    let private = fs::read_to_string(world.dir().join("alice.key")).unwrap();
    let mut export = world.command("ssh-keygen");
    export.args(["-e", "-m", "RFC4716", "-f"]).arg(world.alice().public_key());
    let rfc4716 = Answer::of(export).succeeds().stdout;
    let putty = "PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\nComment: alice\nPublic-Lines: 2\nAAAA\n";
    let cases: &[(&str, String, &[&str])] = &[
        ("putty.ppk", putty.to_owned(), &["line 1", "PuTTY"]),
        ("rfc4716.pub", rfc4716, &["line 1", "ssh-keygen -i"]),
        ("private", private, &["line 1", "private key"]),
        ("quotes.pub", format!("\"{good}\"\n"), &["line 1", "quotes"]),
        ("empty.pub", String::new(), &["empty"]),
        ("comment.pub", "# nothing here\n\n".to_owned(), &["empty"]),
        ("cut.pub", format!("\n{}\n", &good[..40]), &["line 2"]),
        ("word.pub", "alice\n".to_owned(), &["line 1"]),
        ("dsa.pub", "ssh-dss AAAAB3NzaC1kc3MAAACBAO alice\n".to_owned(), &["line 1"]),
    ];
    for (file, text, words) in cases {
        let path = world.dir().join(file);
        fs::write(&path, text).unwrap();
        let refused = init_with(&world, &path.display().to_string()).fails();
        for word in *words {
            assert!(refused.has(word), "{file} should have said {word:?}: {refused:#?}");
        }
        assert!(!world.dir().join("fresh").exists(), "{file}: nothing may be written");
        assert!(!refused.has(&good[40..70]), "{file}: a key's contents are not printed: {refused:#?}");
    }
    init_with(&world, "/nowhere/key.pub").refused_by("/nowhere/key.pub");
}

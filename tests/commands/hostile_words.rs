//! Commands with what nobody should type.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;

use proptest::strategy::Strategy as _;

use super::{RULES, command_of, topics};
use crate::world::{Answer, Node, Running, World};

/// Words that no command expects, and flags that it has in places where they make no sense: a thousand lines of them, as the
/// machine's own user with every right and as a user without any. Each run has a seed of its own, which a failure tells;
/// GITMESH_SEED=NUMBER plays it again.
#[test]
fn hostile_words_break_nothing() {
    let world = World::new();
    let node = world.node("server1");
    let (carol, erin) = (world.actor("carol"), world.actor("erin"));
    let configured = world.alice().configure(&node, |c| {
        c.conf(RULES);
        c.key(&carol);
        c.key(&erin);
    });
    configured.succeeds();
    let connection = erin.shared_connection(&node);
    let names = || -> BTreeSet<String> {
        let found = fs::read_dir(node.data()).unwrap().map(|entry| entry.unwrap().file_name());
        found.map(|name| name.to_string_lossy().into_owned()).collect()
    };
    let (outside, before) = (fs::read_dir(world.dir()).unwrap().count(), names());

    let more = [
        "audit search",
        "audit verify",
        "audit export",
        "D restore",
        "mirror list",
        "perms -c",
        "peer show",
        "sudo bob",
        "",
    ];
    let seed: u64 = match std::env::var("GITMESH_SEED") {
        Ok(seed) => seed.parse().expect("GITMESH_SEED is a number"),
        Err(_) => rand::random(),
    };
    println!("GITMESH_SEED={seed}");
    let rng = |part: u8| {
        let mut bytes = [part; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        proptest::test_runner::TestRng::from_seed(proptest::test_runner::RngAlgorithm::ChaCha, &bytes)
    };
    let topics = topics(world.alice(), &node);
    // Each command's own flags; those that have it go on for ever are left out.
    let plain = |word: &&str| word.starts_with('-') && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
    let words = topics.iter().flat_map(|usage| usage.split([' ', '[', ']', '|']));
    let mut flags: Vec<String> = words.filter(plain).filter(|flag| *flag != "--watch").map(str::to_owned).collect();
    flags.extend(["--repo", "--ref", "--from", "--until", "--kind", "--result", "--key", "-n"].map(str::to_owned));
    assert!(
        ["--user", "--since", "--like", "--expires", "--to"].iter().all(|flag| flags.contains(&(*flag).to_owned()))
    );
    // These wait for what does not come, or go on for ever.
    let endless = ["events", "mirror wait", "doctor", "audit"];
    let commands = topics.iter().map(|usage| command_of(usage)).filter(|command| !endless.contains(&command.as_str()));
    let commands: BTreeSet<String> = commands.chain(more.map(str::to_owned)).collect();
    assert!(commands.contains("repo create") && commands.contains("user show"), "{commands:?}");
    let commands: Vec<String> = commands.into_iter().collect();
    let word = proptest::prop_oneof![
        proptest::sample::select(vec![
            "",
            "-",
            "--",
            "-h",
            "--json",
            "-x",
            "--upload-pack=/bin/sh",
            "docs",
            "docs.git",
            "secret",
            "@all",
            "%",
            "HEAD",
            "set",
            "rm",
            "on",
            "off",
            "status",
            "../../etc/passwd",
            "/etc/passwd",
            "a/../b",
            ".git",
            "~",
            "docs\0x",
            "a\nb",
            "\r",
            "\x1b[2J",
            "\u{202e}abc",
            "$(id)",
            "`id`",
            "';id;'",
            "*",
            "refs/heads/main",
            "refs/heads/..",
            "refs/heads/a b",
            "00000000",
            "ffff",
            "gitmesh-admin",
            "READERS",
            "--like",
            "@staff",
            "+",
            "9999999999999999999",
            "\u{feff}docs",
        ])
        .prop_map(str::to_owned),
        proptest::sample::select(flags.clone()),
        (proptest::sample::select(flags), "\\PC{0,12}").prop_map(|(flag, value)| format!("{flag}={value}")),
        "20[0-9]{2}-[0-9]{1,2}-[0-9]{1,3}|-?[0-9]{1,20}[smhd]?",
        "\\PC{0,12}",
        "-{1,2}[a-z]{1,6}",
        proptest::strategy::Just("x".repeat(20_000)),
    ];
    let input = proptest::prop_oneof![
        proptest::strategy::Just("docs\n\0\n".to_owned()),
        "[ -~\n\t]{0,60}",
        "\\PC{0,60}",
        "(READERS|WRITERS|docs|secret|ssh-ed25519 AAAA|\n| |@all|\u{0}|\u{1b}){0,12}",
    ];
    let lines = (proptest::sample::select(commands.clone()), proptest::collection::vec(word, 0..5), input);
    let config = proptest::test_runner::Config { cases: 1000, failure_persistence: None, ..Default::default() };
    let mut runner = proptest::test_runner::TestRunner::new_with_rng(config, rng(1));
    let turn = std::cell::Cell::new(0);
    let played = runner.run(&lines, |(command, words, input)| {
        let mut line: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        line.extend(words);
        turn.set(turn.get() + 1);
        if turn.get() % 8 > 0 {
            let code = by_socket(&node, &line, &input);
            proptest::prop_assert!(code.is_some_and(|code| code != 70), "seed {seed}: {line:?} < {input:?}: {code:?}");
            return Ok(());
        }
        let typed: Vec<String> = line.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect();
        let typed = typed.join(" ");
        // What no client can send.
        if typed.contains('\0') || typed.len() > 100_000 {
            return Ok(());
        }
        let file = erin.dir().join("typed");
        fs::write(&file, &input).unwrap();
        let mut command = connection.command(&[&typed]);
        command.stdin(fs::File::open(&file).unwrap());
        let answer = Running::start(command).end();
        let told = format!("seed {seed}: {line:?} < {input:?}: {answer:?}");
        proptest::prop_assert!(answer.code.is_some_and(|code| code != 70), "{told}");
        // What she typed herself may come back to her.
        let hers = line.iter().any(|word| word.contains("secret")) || input.contains("secret");
        proptest::prop_assert!(hers || !answer.stdout.contains("secret"), "{told}");
        Ok(())
    });
    played.unwrap();

    // Bytes that are no text.
    let bytes = proptest::collection::vec(1_u8..=255, 0..40);
    let any = (proptest::sample::select(commands), bytes);
    let config = proptest::test_runner::Config { cases: 60, failure_persistence: None, ..Default::default() };
    runner = proptest::test_runner::TestRunner::new_with_rng(config, rng(2));
    let played = runner.run(&any, |(command, bytes)| {
        let mut ssh = connection.command(&[]);
        ssh.arg(std::ffi::OsString::from_vec([command.as_bytes(), b" ", &bytes].concat()));
        let answer = Answer::of(ssh);
        let told = format!("seed {seed}: {command} {bytes:?}: {answer:?}");
        proptest::prop_assert!(answer.code.is_some_and(|code| code != 70), "{told}");
        proptest::prop_assert!(!answer.stdout.contains("secret"), "{told}");
        Ok(())
    });
    played.unwrap();
    assert!(node.is_running());
    assert_eq!(fs::read_dir(world.dir()).unwrap().count(), outside, "something was made outside");
    let ours = [".gitolite.down", "gl-motd", "trash"];
    let new: Vec<String> = names().difference(&before).filter(|name| !ours.contains(&name.as_str())).cloned().collect();
    assert!(new.is_empty(), "{new:?}");
    for repo in fs::read_dir(node.data().join("repositories")).unwrap() {
        let name = repo.unwrap().file_name().to_string_lossy().into_owned();
        assert!(name.ends_with(".git") || ["pub", ".disk"].contains(&name.as_str()), "{name}");
    }
}

/// The exit code of a command that comes by the control socket, where words may hold anything.
fn by_socket(node: &Node, words: &[String], input: &str) -> Option<i64> {
    use std::io::{BufRead as _, Write as _};
    let mut stream = std::os::unix::net::UnixStream::connect(node.data().join("control.sock")).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    let ask = serde_json::json!({ "version": 1, "ask": { "CommandWithInput": { "words": words, "input": input } } });
    stream.write_all(format!("{ask}\n").as_bytes()).unwrap();
    for line in std::io::BufReader::new(stream).lines() {
        let answer: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        if let Some(code) = answer.get("Exit") {
            return code.as_i64();
        }
    }
    None
}

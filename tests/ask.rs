//! What may be asked over SSH: everybody about themselves, administrators about anybody, and what `info` tells
//! programs.

use crate::world::World;

#[test]
fn users_ask_about_themselves_and_administrators_about_anybody() {
    let world = World::new();
    let node = world.node("server1");
    let bob = world.actor("bob");
    let conf = "repo docs\n    RW dev/ = bob\n    R = bob\nrepo secret\n    RW = alice\n    - = bob\n";
    let configured = world.alice().configure(&node, |c| {
        c.conf(conf);
        c.key(&bob);
    });
    configured.succeeds();
    let mine = bob.ssh(&node, "access docs bob W dev/x").succeeds();
    assert_eq!(mine.stdout, "refs/heads/dev/\n", "the refex alone: the rules are not for everybody");
    let mine = bob.ssh(&node, "access docs bob W main --explain").fails();
    assert_eq!(mine.code, Some(1));
    assert!(mine.stdout.starts_with("W refs/heads/main docs bob DENIED by fallthru\n"), "{mine:#?}");
    assert!(mine.has("1. refs/heads/dev/: its refex does not match the ref") && !mine.has("conf/"), "{mine:#?}");
    for others in ["access docs alice", "access docs @all R", "access secret alice R --json", "access docs gitweb R"] {
        let answer = bob.ssh(&node, others).fails().says("only administrators may ask about others");
        assert_eq!((answer.code, answer.stdout.as_str()), (Some(5), ""), "{others}");
    }
    // What is there and closed reads as what is not there.
    for flags in ["", " --explain", " --json"] {
        let ask = |repo: &str| bob.ssh(&node, &format!("access {repo} bob R any{flags}")).fails();
        let (closed, missing) = (ask("secret"), ask("nosuch"));
        assert_eq!(closed.stdout, missing.stdout.replace("nosuch", "secret"), "{flags}");
        assert_eq!((closed.stderr, closed.code), (missing.stderr, missing.code), "{flags}");
    }
    let report = bob.ssh(&node, "access docs bob R --json --explain").succeeds();
    let report: serde_json::Value = serde_json::from_str(&report.stdout).unwrap();
    assert_eq!((&report["allowed"], &report["rule"]), (&true.into(), &serde_json::Value::Null));
    let alice = world.alice();
    alice.ssh(&node, "access docs bob W dev/x").succeeds().says("rule: RW dev/ = bob   (conf/gitmesh.conf:5)");
    alice.ssh(&node, "access secret bob R --explain").fails().says("skipped: '-' counts only once the ref is known");
    alice.ssh(&node, "access docs nobody-at-all R").fails().says("DENIED by fallthru");
    alice.ssh(&node, "access nosuch bob").fails().says("note: there is no repository 'nosuch' on this node");
}

#[test]
fn info_for_programs() {
    let world = World::new();
    let node = world.node("server1");
    let bob = world.actor("bob");
    let conf = "repo docs\n    RW = bob\n    desc = the handbook\nrepo read\n    R = bob\nrepo secret\n    RW = alice\n\
                repo pub/CREATOR/..*\n    C = bob\n    RW+ = CREATOR\n";
    let configured = world.alice().configure(&node, |c| {
        c.conf(conf);
        c.key(&bob);
    });
    configured.succeeds();
    bob.ssh(&node, "create pub/bob/x").succeeds();
    let ask = |line: &str| -> serde_json::Value {
        serde_json::from_str(&bob.ssh(&node, line).succeeds().stdout).unwrap_or_else(|e| panic!("{line}: {e}"))
    };
    let info = ask("info -json");
    // gitolite 3.6.12's keys, as `info -json` prints them there.
    assert_eq!((&info["GL_USER"], &info["USER"]), (&"bob".into(), &"git@server1".into()));
    assert!(info["git_version"].is_string() && info["gitolite_version"].is_string());
    let wanted = serde_json::json!({
        "docs": { "perms": { "R": 1, "W": 1 } },
        "read": { "perms": { "R": 1 } },
        "pub/bob/x": { "perms": { "R": 1, "W": 1 } },
        "pub/CREATOR/..*": { "perms": { "C": 1 } },
    });
    assert_eq!(info["repos"], wanted);
    assert_eq!((&info["schema"], &info["node"]), (&"gitmesh.info/1".into(), &"server1".into()));
    assert_eq!(ask("info --json"), info);
    let wanted = serde_json::json!({
        "docs": { "perms": { "R": 1, "W": 1 }, "creator": "", "description": "the handbook" },
        "pub/bob/x": { "perms": { "R": 1, "W": 1 }, "creator": "bob", "description": "" },
    });
    assert_eq!(ask("info -lc -ld -p -json (docs|pub)")["repos"], wanted);
    assert_eq!(ask("info -json nothing-like-it")["repos"], serde_json::json!({}));
    bob.ssh(&node, "help").succeeds().says("info [-lc] [-ld] [-p] [-json] [PATTERN]");
    assert_eq!(bob.ssh(&node, "info -x").fails().says("schema gitmesh.info/1").code, Some(2));
}

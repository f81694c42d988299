//! The audit as an administrator reads it, after real fetches, pushes and commands.

use std::fs;

use serde_json::Value;

use crate::world::{Node, World, eventually};

const RULES: &str = "\
repo docs
    -   dev = carol
    RW  = carol
    R   = bob
repo pub/CREATOR/..*
    C   = carol
    RW+ = CREATOR
";

/// What a search tells, an object a record.
fn search(node: &Node, filters: &str) -> Vec<Value> {
    let mut words = vec!["audit", "search", "--json"];
    words.extend(filters.split_whitespace());
    node.gitmesh(&words).stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn accesses_pushes_and_commands_are_recorded() {
    let world = World::new();
    let node = world.node("server1");
    let (bob, carol, mallory) = (world.actor("bob"), world.actor("carol"), world.actor("mallory"));
    let configured = world.alice().configure(&node, |c| {
        c.conf(RULES);
        c.key(&bob);
        c.key(&carol);
    });
    configured.succeeds();
    let work = carol.starts(&node, "docs");
    let commit = work.commit("a", "one");
    work.push(&["-o", "reason=the first", "HEAD:main", "HEAD:dev"]).fails();
    bob.ls_remote(&node, "docs").succeeds();
    bob.ls_remote(&node, "secret").fails();
    bob.starts(&node, "docs").commit("b", "two");
    bob.checkout("new-server1-docs").push(&["HEAD:main"]).fails();
    carol.ls_remote(&node, "pub/carol/x").succeeds();
    carol.ssh(&node, "desc pub/carol/x Mine\u{e9}").succeeds();
    bob.ssh(&node, "audit tail").refused_by("administrators");
    mallory.ssh(&node, "info").fails();
    world.alice().ssh(&node, "sudo carol owns docs").fails();
    let dir = node.repo_dir("docs").display().to_string();
    node.git("docs", &["push", "-q", &dir, "main:by-path"]).succeeds();

    let push = search(&node, "--repo docs --kind push --user carol").remove(0);
    assert_eq!((&push["result"], &push["reason"]), (&"ok".into(), &"the first".into()), "{push}");
    assert_eq!(push["key"], Value::from(carol.fingerprint()));
    assert!(push["from"].as_str().unwrap().starts_with("127.0.0.1:"));
    let refs = push["refs"].as_array().unwrap();
    let by_name = |name: &str| refs.iter().find(|change| change["ref"] == name).unwrap();
    let (main, dev) = (by_name("refs/heads/main"), by_name("refs/heads/dev"));
    assert_eq!(
        (&main["new"], &main["result"], &main["rule"]),
        (&commit.as_str().into(), &"ok".into(), &"refs/.*".into())
    );
    assert_eq!((&dev["result"], &dev["rule"]), (&"refused".into(), &"refs/heads/dev".into()));
    assert!(dev["reason"].as_str().unwrap().contains("E0203"));

    let reads = search(&node, "--user bob --kind access");
    assert_eq!(reads.iter().map(|r| r["result"].as_str().unwrap()).collect::<Vec<_>>(), ["ok", "refused"]);
    assert!(reads[1]["reason"].as_str().unwrap().contains("DENIED by fallthru"));
    let denied = search(&node, "--user bob --kind push").remove(0);
    assert_eq!((&denied["result"], &denied["repo"]), (&"refused".into(), &"docs".into()));
    assert_eq!(search(&node, "--kind create")[0]["repo"], "pub/carol/x");
    let told = search(&node, "--repo ^pub/ --kind command").remove(0);
    assert_eq!(told["what"], "desc pub/carol/x Mine\u{e9}");
    assert!(search(&node, "--kind auth")[0]["reason"].as_str().unwrap().contains(&mallory.fingerprint()));
    let sudo = search(&node, "--user alice --kind command").remove(0);
    assert_eq!((&sudo["as"], &sudo["what"]), (&"carol".into(), &"sudo carol owns docs".into()));
    assert_eq!(search(&node, "--ref by-path")[0]["user"], "local");
    assert_eq!(search(&node, "--key SHA256:none"), Vec::<Value>::new());

    // What is only asked about a repository is found by its name too, and so is who asks in vain.
    drop(bob.ssh(&node, "who-pushed --since 7d docs 12345678"));
    bob.ssh(&node, "desc secret").fails();
    let asked: Vec<String> = ["docs", "secret"]
        .iter()
        .map(|repo| search(&node, &format!("--repo {repo} --kind command --user bob"))[0]["what"].to_string())
        .collect();
    assert_eq!(asked, ["\"who-pushed --since 7d docs 12345678\"", "\"desc secret\""]);
    assert_eq!(reads[0]["rule"], "refs/.*", "the rule that let them in");
    work.git(&["commit", "-q", "--amend", "-m", "another"]).succeeds();
    let rewound = work.oid("HEAD");
    world.alice().configure(&node, |c| c.conf(&RULES.replace("RW  = carol", "RW+ = carol"))).succeeds();
    work.push(&["+HEAD:main"]).succeeds();

    let log = node.gitmesh(&["audit", "export", "--format", "gitolite", "--repo", "docs"]).succeeds().stdout;
    let forced = format!("\tupdate\tdocs\tcarol\t+\trefs/heads/main\t{commit}\t{rewound}\t");
    assert!(log.contains(&forced), "{log}");
    let update = format!("\tupdate\tdocs\tcarol\tW\trefs/heads/main\t{}\t{commit}\trefs/.*\n", "0".repeat(40));
    assert!(log.contains(&update) && log.contains("\tpre_git\tdocs\tbob\tR\tany\t"), "{log}");
    carol.ssh(&node, &format!("who-pushed docs {}", &commit[..8])).succeeds().says(" carol refs/heads/main ");

    // The chain goes on over a restart, and who breaks it is found.
    let head = node.gitmesh(&["audit", "verify"]).succeeds().stdout;
    let head = head.lines().find_map(|line| line.strip_prefix("head: ")).unwrap().to_owned();
    node.stop();
    node.start();
    world.alice().ssh(&node, &format!("audit verify {head}")).succeeds().says("the chain is whole");
    node.stop();
    let file = fs::read_dir(node.data().join("audit")).unwrap().next().unwrap().unwrap().path();
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen("\"user\":\"bob\"", "\"user\":\"eve\"", 1)).unwrap();
    node.start();
    node.gitmesh(&["audit", "verify"]).refused_by("the chain is broken");
}

#[test]
fn the_master_knows_who_pushed_through_a_replica() {
    let world = World::new();
    let pair = world.pair();
    let conf = "repo docs\n    RW+ = carol\n    option mirror.master = server1\n    option mirror.copies = server2\n    \
                option mirror.redirectOK = all\n";
    let carol = world.actor("carol");
    for node in [&pair.two, &pair.one] {
        let configured = world.alice().configure(node, |c| {
            c.conf(conf);
            c.key(&carol);
        });
        configured.succeeds();
    }
    let work = carol.starts(&pair.two, "docs");
    work.commit("a", "one");
    work.push(&["HEAD:main"]).succeeds();
    pair.in_step("docs");
    let there = search(&pair.one, "--repo docs --kind push --user carol").remove(0);
    assert_eq!((&there["node"], &there["refs"][0]["ref"]), (&"server2".into(), &"refs/heads/main".into()), "{there}");
    let here = search(&pair.two, "--repo docs --kind push");
    let reasons: Vec<&str> =
        here.iter().filter(|r| r["user"] == "carol").filter_map(|r| r["reason"].as_str()).collect();
    assert_eq!(reasons, ["carried to the master server1"], "{here:?}");
    let mirrored = here.iter().find(|record| record["user"].is_null() && record["refs"].is_array()).unwrap();
    assert_eq!((&mirrored["node"], &mirrored["refs"][0]["result"]), (&"server1".into(), &"ok".into()), "{mirrored}");
}

#[test]
fn what_is_done_past_the_doors_is_recorded() {
    let world = World::new();
    let node = world.node("server1");
    let other = world.actor("other");
    let told = |words: &str| {
        let found = node.gitmesh(&["audit", "search", "--kind", "audit"]).stdout;
        found.lines().any(|line| line.contains(words))
    };
    let key = world.dir().join("server9.pub");
    fs::write(&key, format!("{}\n", other.key_line())).unwrap();
    node.gitmesh(&["peer", "add", &key.display().to_string()]).succeeds();
    eventually("the new peer", || told("; peer added: server9"));
    node.gitmesh(&["peer", "remove", "server9"]).succeeds();
    eventually("its end", || told("; peer removed: server9"));
    let keydir = node.data().join("emergency-keydir");
    fs::create_dir_all(&keydir).unwrap();
    fs::write(keydir.join("other.pub"), other.key_line() + "\n").unwrap();
    fs::write(node.data().join("emergency.conf"), "").unwrap();
    eventually("the override", || told("; emergency override in force for other"));
    fs::remove_file(node.data().join("emergency.conf")).unwrap();
    eventually("its end", || told("; emergency override over for other"));
    node.gitmesh(&["target", "key", "github"]).succeeds();
    let done = search(&node, "--kind command --user local").into_iter().any(|r| r["what"] == "target key github");
    assert!(done, "what opens another server");
    node.expect_errors();
    node.set("gc_every", "\"never\"");
    eventually("its refusal", || node.log().contains("the new settings are refused"));
    node.set("gc_every", "\"1d\"");
    eventually("its record", || told("  FAILED  (reloaded after an edit; "));
    node.stop();
    node.start();
    assert!(told("has started"), "and with whom it began");
}

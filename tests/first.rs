//! The first copy of everything to a new replica: seen, limited, in order, and never twice.

use std::fs;
use std::time::{Duration, Instant};

use crate::world::{Node, Pair, World, eventually};

const SMALL: [&str; 4] = ["a", "b", "c", "d"];
const CONF: &str = "\
repo a b c d huge large
    RW+ = @all
    option mirror.master = server1
    option mirror.copies = server2
";

/// Sets or removes the limit in a node that is not running.
fn limit(node: &Node, bandwidth: Option<&str>) {
    let settings = node.data().join("gitmesh.toml");
    let text = fs::read_to_string(&settings).unwrap();
    let line = text.lines().find(|line| line.contains("bandwidth = ")).unwrap();
    let new = bandwidth.map_or("# bandwidth = \"20MiB/s\"".to_owned(), |rate| format!("bandwidth = \"{rate}\""));
    fs::write(&settings, text.replacen(line, &new, 1)).unwrap();
}

/// How often a mirror push has changed the branch on the copy.
fn landed(pair: &Pair, repo: &str) -> usize {
    let repo = format!("\"repo\":\"{repo}\"");
    pair.two.log().lines().filter(|l| l.contains("\"updated\"") && l.contains(&repo)).count()
}

#[test]
fn what_is_complete_is_not_sent_again_and_users_do_not_wait_for_the_rest() {
    let world = World::new();
    let pair = world.pair();
    for node in [&pair.one, &pair.two] {
        node.stop();
        node.set("retry_max", "\"1s\"");
    }
    limit(&pair.one, Some("256KiB/s"));
    pair.one.start();
    pair.two.start();
    pair.there.cut();
    let alice = world.alice();
    for node in [&pair.one, &pair.two] {
        alice.configure(node, |c| c.conf(CONF)).succeeds();
    }
    let filled = |repo: &str, bytes: usize| {
        let work = alice.clone_of(&pair.one, repo);
        work.commit_random("file", bytes);
        work.push(&["-q", "HEAD:main"]).succeeds();
        work
    };
    filled("huge", 24 << 20);
    filled("large", 8 << 20);
    let [work, ..] = SMALL.map(|repo| filled(repo, 10));
    // A fresh start, so that none of them counts as just pushed.
    pair.one.stop();
    pair.one.start();
    pair.there.restore();
    SMALL.iter().for_each(|repo| pair.in_step(repo));
    let status = || pair.one.gitmesh(&["mirror", "status"]).stdout;
    eventually("the progress", || status().contains("first copy to server2: 4 of 6 repositories, "));
    assert!(status().contains(" MB\n"), "{}", status());
    assert!(pair.one.gitmesh(&["status"]).has("first copy to server2: 4 of 6 repositories, "));
    let json: serde_json::Value =
        serde_json::from_str(&pair.one.gitmesh(&["mirror", "status", "--json"]).stdout).unwrap();
    let first = &json["first_copies"][0];
    assert_eq!((&first["replica"], &first["repositories"]["total"]), (&"server2".into(), &6.into()), "{json}");
    let total = first["bytes"]["total"].as_u64().unwrap();
    assert!((32 << 20..40 << 20).contains(&total), "{first}");

    // The limit holds: a quarter of a second's bytes and a piece may go at once.
    let (began, before) = (Instant::now(), pair.there.carried());
    eventually("bytes to be sent", || pair.there.carried() > before + (512 << 10));
    assert!(began.elapsed() > Duration::from_millis(1200), "{:?}", began.elapsed());
    let bytes_done = || {
        let json = pair.one.gitmesh(&["status", "--json"]).stdout;
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        json["first_copies"][0]["bytes"]["done"].as_u64().unwrap()
    };
    assert!(bytes_done() > 100 << 10, "they count as they go");

    // A push to what is there already does not wait for the large ones.
    work.commit("file", "two");
    work.push(&["HEAD:main"]).succeeds();
    pair.in_step("a");
    assert!(pair.two.refs("large").is_empty() && pair.two.refs("huge").is_empty());

    // The link, then the node, in the middle.
    pair.there.cut();
    pair.there.restore();
    let before = pair.there.carried();
    eventually("it to go on", || pair.there.carried() > before + (128 << 10));
    pair.one.kill9();
    limit(&pair.one, None);
    pair.one.start();
    for repo in ["huge", "large"] {
        pair.in_step(repo);
        pair.two.is_sound(repo);
    }
    let times: Vec<usize> = ["a", "b", "c", "d", "huge", "large"].iter().map(|repo| landed(&pair, repo)).collect();
    assert_eq!(times, [2, 1, 1, 1, 1, 1]);
    let told = || pair.one.log().contains("first copy to server2: 2 of 2 repositories, ");
    eventually("the end to be told", told);
    assert!(pair.one.log().contains("; complete after "));
    eventually("the progress to be over", || !status().contains("first copy"));
}

#[test]
fn a_new_node_gets_its_configuration_before_anything_else() {
    let world = World::new();
    let one = world.node("server1");
    let alice = world.alice();
    let conf = "repo aa bb testing\n    RW+ = @all\nrepo @all\n    option mirror.master = server1\n    \
                option mirror.copies = server2\n";
    let two = world.newcomer("server2");
    two.init_with(&["--join", &one.token(&[])]).succeeds();
    alice.configure(&one, |c| c.conf(conf)).succeeds();
    for repo in ["aa", "bb", "testing"] {
        let work = alice.clone_of(&one, repo);
        work.commit("file", "one");
        work.push(&["-q", "HEAD:main"]).succeeds();
    }
    one.stop();
    one.start();
    two.start();
    for repo in ["gitmesh-admin", "aa", "bb", "testing"] {
        eventually(&format!("{repo} to be the same"), || {
            let mut there = two.refs(repo);
            there.retain(|name, _| !name.starts_with("refs/gitmesh/"));
            !there.is_empty() && one.refs(repo) == there
        });
    }
    for repo in ["aa", "bb", "testing"] {
        one.gitmesh(&["mirror", "log", repo]).succeeds().does_not_say("failed");
    }
    assert!(!two.log().contains("E0207"), "{}", two.log());
}

#[test]
fn what_gets_on_is_never_cut_off() {
    let world = World::new();
    let conf = "repo slow\n    RW+ = @all\n    option mirror.master = server1\n    option mirror.copies = server2\n";
    let pair = world.pair_with(conf);
    pair.there.cut();
    pair.one.stop();
    // What is in flight, at most 8 MiB, takes half of that.
    pair.one.set("timeout", "\"20s\"");
    pair.one.start();
    let work = world.alice().clone_of(&pair.one, "slow");
    work.commit_random("file", 24 << 20);
    work.push(&["-q", "HEAD:main"]).succeeds();
    // 800 kB a second.
    pair.there.delay(Duration::from_millis(20));
    pair.there.restore();
    pair.in_step("slow");
    assert_eq!(landed(&pair, "slow"), 1);
    pair.one.gitmesh(&["mirror", "log", "slow"]).succeeds().does_not_say("answer within");
}

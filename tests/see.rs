//! What people and scripts see of the copies: notices, marks, status.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::world::{Actor, Answer, Checkout, DEADLINE, Pair, World, eventually};

const CONF: &str = "\
repo testing
    RW+ = alice
    R   = bob
    option mirror.master = server1
    option mirror.copies = server2
repo secret
    RW+ = alice
    option mirror.master = server1
    option mirror.copies = server2
";

/// A pair whose copies are equal, and whose notices come soon.
fn running(world: &World) -> (Pair, Checkout, Actor) {
    let pair = world.pair();
    let bob = world.actor("bob");
    for node in [&pair.one, &pair.two] {
        node.set("stale_notice", "\"2s\"");
        node.set("retry_max", "\"1s\"");
        let configured = world.alice().configure(node, |c| {
            c.conf(CONF);
            c.key(&bob);
        });
        configured.succeeds();
    }
    let work = world.alice().clone_of(&pair.one, "testing");
    work.commit("a", "one");
    work.push(&["HEAD:main"]).succeeds();
    pair.in_step("testing");
    // An edit of the settings is taken over by itself.
    for node in [&pair.one, &pair.two] {
        eventually("the settings to be in force", || node.log().contains("the new settings are in force"));
    }
    (pair, work, bob)
}

/// What the server itself said on the way.
fn remote(answer: &Answer) -> Vec<&str> {
    answer.stderr.lines().filter(|line| line.starts_with("remote:")).collect()
}

#[test]
fn a_stale_copy_says_so_in_one_line_and_a_fresh_one_says_nothing() {
    let world = World::new();
    let (pair, work, _) = running(&world);
    let alice = world.alice();
    let fresh = || {
        let answer = alice.ls_remote(&pair.two, "testing").succeeds();
        remote(&answer).is_empty()
    };
    eventually("the copy to be confirmed", fresh);
    eventually("the mark of a copy in step", || {
        alice.ssh(&pair.two, "info").has("\ttesting\tcopy of server1, in step (")
    });
    pair.there.cut();
    work.commit("a", "two");
    work.push(&["HEAD:main"]).succeeds();
    eventually("the copy to say that it is stale", || !fresh());
    let told = alice.try_clone(&alice.url(&pair.two, "testing"), "stale").succeeds();
    let lines = remote(&told);
    assert_eq!(lines.len(), 1, "{told:#?}");
    assert!(lines[0].starts_with("remote: this copy of 'testing' was in step "), "{told:#?}");
    assert!(lines[0].contains("; its master server1 has not been heard for "), "{told:#?}");
    alice.ssh(&pair.two, "info").succeeds().says("\ttesting\tcopy of server1, NOT CONFIRMED; ");
    let master = alice.ls_remote(&pair.one, "testing").succeeds();
    assert!(remote(&master).is_empty(), "a master is never stale");
    pair.there.restore();
    pair.in_step("testing");
    eventually("the copy to be confirmed again", fresh);
}

#[test]
fn a_copy_that_is_behind_a_master_that_is_well_says_by_how_much() {
    let world = World::new();
    let (pair, work, _) = running(&world);
    let alice = world.alice();
    pair.one.gitmesh(&["mirror", "pause", "testing"]).succeeds();
    for text in ["two", "three"] {
        work.commit("a", text);
        work.push(&["HEAD:main"]).succeeds();
    }
    let words = " behind its master server1 (2 pushes)";
    eventually("the copy to say that it is behind", || remote(&alice.ls_remote(&pair.two, "testing")).len() == 1);
    let told = alice.try_clone(&alice.url(&pair.two, "testing"), "behind").succeeds();
    let lines = remote(&told);
    assert_eq!(lines.len(), 1, "{told:#?}");
    assert!(
        lines[0].starts_with("remote: this copy of 'testing' is ") && lines[0].trim().ends_with(words),
        "{told:#?}"
    );
    alice.ssh(&pair.two, "info").succeeds().says("\ttesting\tcopy of server1, BEHIND 2 pushes, ");
    assert!(remote(&alice.ls_remote(&pair.two, "secret").succeeds()).is_empty(), "the other copy is in step");
    pair.one.gitmesh(&["mirror", "resume", "testing"]).succeeds();
    pair.in_step("testing");
    eventually("the copy to be fresh", || remote(&alice.ls_remote(&pair.two, "testing")).is_empty());
}

#[test]
fn status_tells_each_reader_what_they_may_read() {
    let world = World::new();
    let (pair, work, _) = running(&world);
    let alice = world.alice();
    eventually("all copies to be compared", || {
        let status = alice.ssh(&pair.one, "mirror status");
        status.code == Some(0) && status.has("secret")
    });
    let all = alice.ssh(&pair.one, "mirror status").succeeds().stdout;
    let plain: Vec<String> = all.lines().map(|line| line.split(" (").next().unwrap().to_owned()).collect();
    assert_eq!(plain, ["secret \tserver2\tin step", "testing\tserver2\tin step"]);
    let on_machine = pair.one.gitmesh(&["mirror", "status", "testing"]).succeeds().stdout;
    assert!(on_machine.starts_with("testing\tserver2\tin step ("), "{on_machine}");
    eventually("server1 to confirm", || alice.ssh(&pair.two, "mirror status testing").code == Some(0));
    let there = alice.ssh(&pair.two, "mirror status testing").stdout;
    assert!(there.starts_with("testing\tserver2\tcopy of server1, in step ("), "{there}");
    let pattern = alice.ssh(&pair.one, "mirror status '^sec'").succeeds().stdout;
    assert!(pattern.starts_with("secret\tserver2\t") && pattern.lines().count() == 1, "{pattern}");
    alice.ssh(&pair.one, "mirror status nothing").refused_by("has copies");
    alice.ssh(&pair.one, "mirror status -x").refused_by("usage: mirror status");

    let json = pair.one.gitmesh(&["mirror", "status", "--json", "testing"]).succeeds().stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["schema"], "gitmesh.mirror.status/1");
    let copy = &json["copies"][0];
    assert_eq!(
        (&copy["repo"], &copy["master"], &copy["replica"]),
        (&"testing".into(), &"server1".into(), &"server2".into())
    );
    assert_eq!((&copy["state"], copy["error"].is_null()), (&"in-step".into(), true));

    pair.there.cut();
    work.commit("a", "two");
    work.push(&["HEAD:main"]).succeeds();
    eventually("the failure to be told", || {
        let status = alice.ssh(&pair.one, "mirror status testing --json");
        let json: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
        let copy = &json["copies"][0];
        status.code == Some(1) && copy["state"] == "failing" && copy["error"].as_str().unwrap().contains("server2")
    });
    pair.there.restore();
    pair.in_step("testing");
}

#[test]
fn a_stranger_sees_nothing_of_what_they_may_not_read() {
    let world = World::new();
    let (pair, _, bob) = running(&world);
    let seen = bob.ssh(&pair.one, "mirror status");
    assert!(seen.has("testing\tserver2") && !seen.has("secret"), "{seen:#?}");
    let hidden = bob.ssh(&pair.one, "mirror status secret").fails();
    let missing = bob.ssh(&pair.one, "mirror status missing").fails();
    assert_eq!((hidden.code, hidden.stderr, hidden.stdout), (missing.code, missing.stderr, missing.stdout));
}

#[test]
fn who_watches_is_told_of_changes_and_is_sent_away_when_the_node_stops() {
    let world = World::new();
    let (pair, work, _) = running(&world);
    let alice = world.alice();
    eventually("all copies to be compared", || alice.ssh(&pair.one, "mirror status").code == Some(0));
    let mut watching = alice.ssh_command(&["git@server1", "mirror status testing --watch"]);
    watching.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut watching = watching.spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines().map(Result::unwrap);
    let first = lines.next().unwrap();
    assert!(first.contains("\ttesting\tserver2\tin step"), "{first}");
    pair.there.cut();
    work.commit("a", "two");
    work.push(&["HEAD:main"]).succeeds();
    let failing = lines.find(|line| line.contains("failing")).unwrap();
    assert!(failing.contains("\ttesting\tserver2\tfailing"), "{failing}");
    pair.there.restore();
    assert!(lines.any(|line| line.contains("\tin step")));
    let begun = Instant::now();
    pair.one.stop();
    assert!(begun.elapsed() < DEADLINE.min(Duration::from_secs(20)), "a watching client held up the stop");
    let said = watching.wait_with_output().unwrap();
    assert_eq!(said.status.code(), Some(75));
    assert!(String::from_utf8_lossy(&said.stderr).contains("server1 is stopping"), "{said:?}");
    pair.one.start();
}

#[test]
fn a_push_waits_for_its_copies_when_it_asks_for_that() {
    let world = World::new();
    let (pair, work, _) = running(&world);
    work.commit("a", "two");
    let pushed = work.push(&["-o", "mirror.wait", "HEAD:main"]).succeeds();
    assert_eq!(pair.one.refs("testing"), pair.two.refs("testing"), "{pushed:#?}");
    pushed.says("server1 ==== (testing) ===> server2   done in ");
    work.commit("a", "three");
    work.push(&["-o", "mirror.wait=server2", "HEAD:main"]).succeeds();
    assert_eq!(pair.one.refs("testing"), pair.two.refs("testing"));

    pair.there.cut();
    work.commit("a", "four");
    let late = work.push(&["-o", "mirror.wait=1", "-o", "mirror.timeout=1s", "HEAD:main"]).succeeds();
    late.says("warning: your push stands, but server2 does not have it after 1 s: ");
    eventually("the failure to be known", || pair.one.gitmesh(&["mirror", "status", "testing"]).has("failing"));
    work.commit("a", "five");
    let told = work.push(&["HEAD:main"]).succeeds();
    told.says("server1 ==== (testing) ===> server2   queued; last success ").says("  follow it: ssh ");
    work.commit("a", "six");
    let typo = work.push(&["-o", "mirror.wiat", "HEAD:main"]).succeeds();
    typo.says("warning: push option 'mirror.wiat' does nothing: did you mean 'mirror.wait'?");
    pair.there.restore();
    pair.in_step("testing");
}

#[test]
fn orders_do_what_they_say_for_whom_they_should() {
    let world = World::new();
    let (pair, work, bob) = running(&world);
    let alice = world.alice();
    let update = |name: &str| pair.one.git("testing", &["update-ref", name, &work.oid("HEAD")]).succeeds();
    let equal = || pair.one.refs("testing") == pair.two.refs("testing");
    // What no hook has seen: only a push finds it.
    let _ = update("refs/heads/one");
    bob.ssh(&pair.two, "mirror pull testing").succeeds().says("server1 ==== (testing) ===> server2");
    assert!(equal());
    bob.ssh(&pair.two, "mirror pull secret").fails();
    alice.ssh(&pair.one, "mirror pull testing").refused_by("server1 holds no copy of 'testing'");
    bob.ssh(&pair.one, "mirror push testing").fails();
    let _ = update("refs/heads/two");
    alice.ssh(&pair.one, "mirror push testing").succeeds();
    assert!(equal());
    let _ = update("refs/heads/three");
    bob.ssh(&pair.one, "mirror wait testing three --timeout 30s").succeeds().says("testing\tserver2\thas it, after ");
    assert!(equal());
    bob.ssh(&pair.one, "mirror wait testing nothing").refused_by("refs/heads/nothing");
    bob.ssh(&pair.two, "mirror wait testing").refused_by("its master is server1");

    bob.ssh(&pair.one, "mirror pause testing").refused_by("administrators");
    // Who believes to have stopped the pushes to a machine takes it apart.
    for order in ["pause", "resume"] {
        let to = |rest: &str| alice.ssh(&pair.one, &format!("mirror {order} {rest}"));
        to("--all --peer server22")
            .refused_by("server22 is no peer that server1 pushes to")
            .says("did you mean 'server2'?");
        to("testing --peer elsewhere").refused_by("'testing' has no copy on elsewhere").says("there is: server2");
        to("tesing").refused_by("'tesing' does not exist on server1").says("did you mean 'testing'?");
    }
    alice
        .ssh(&pair.one, "mirror pause testing --reason 'the disk is full'")
        .succeeds()
        .says("all copies of testing are paused: 1 copy");
    let _ = update("refs/heads/four");
    alice.ssh(&pair.one, "mirror push server2 testing").refused_by("paused by alice");
    let waited = alice.ssh(&pair.one, "mirror wait testing --timeout 30s --json").fails();
    let json: serde_json::Value = serde_json::from_str(&waited.stdout).unwrap();
    assert_eq!(
        (&json["schema"], &json["met"], &json["copies"][0]["state"]),
        (&"gitmesh.mirror.wait/1".into(), &false.into(), &"paused".into())
    );
    assert!(!equal());
    alice.ssh(&pair.one, "mirror status testing").succeeds().says("testing\tserver2\tpaused by alice");
    alice.ssh(&pair.one, "mirror resume testing").succeeds().says("go on");
    alice.ssh(&pair.one, "mirror wait testing").succeeds();
    assert!(equal());
    bob.ssh(&pair.one, "mirror log testing").succeeds().says("\tserver2\tpaused: by alice: the disk is full");

    let _ = update("refs/heads/five");
    alice.ssh(&pair.one, "mirror verify testing").fails().says("testing\tserver2\tDIFFERS");
    pair.in_step("testing");
    eventually("the copies to be equal", || bob.ssh(&pair.one, "mirror verify testing").has("testing\tserver2\tequal"));
    bob.ssh(&pair.one, "mirror verify testing --deep").refused_by("administrators");
    alice.ssh(&pair.one, "mirror verify testing --deep").succeeds().says("every object is sound");
    assert_eq!(bob.ssh(&pair.one, "mirror list").succeeds().stdout, "testing\tserver1\tserver2\n");
}

#[test]
fn gitolites_own_words_are_understood() {
    let world = World::new();
    let (pair, _, _) = running(&world);
    let list = |what: &str| pair.two.gitmesh(&["mirror", "list", what, "testing"]).succeeds().stdout;
    assert_eq!(
        (list("master").as_str(), list("copies").as_str(), list("slaves").as_str()),
        ("server1\n", "server2\n", "server2\n")
    );
    pair.one.gitmesh(&["mirror", "push", "server2", "testing"]).succeeds();
    assert_eq!(pair.one.gitmesh(&["mirror", "status", "all", "testing"]).succeeds().stdout, "");
    assert_eq!(pair.one.gitmesh(&["mirror", "status", "server2", "testing"]).succeeds().stdout, "");
    pair.there.cut();
    pair.one.gitmesh(&["mirror", "push", "server2", "testing"]).fails();
    eventually("the trouble to be named", || {
        pair.one.gitmesh(&["mirror", "status", "all", "all"]).stdout.lines().any(|line| line == "testing")
    });
    let told = pair.one.gitmesh(&["mirror", "status", "all", "testing"]).succeeds();
    told.says("WARNING: the copy of 'testing' on server2 is not in step (failing");
    pair.there.restore();
    let log = || pair.one.gitmesh(&["mirror", "status", "all", "all"]).stdout.is_empty();
    eventually("the trouble to be over", log);
}

#[test]
fn one_screen_tells_what_needs_attention() {
    let world = World::new();
    let (pair, work, bob) = running(&world);
    let alice = world.alice();
    eventually("all to be well", || {
        let status = alice.ssh(&pair.one, "status");
        status.code == Some(0) && status.has("everything is in step (2 copies)") && status.has("up, ")
    });
    bob.ssh(&pair.one, "status").refused_by("administrators");
    pair.there.cut();
    work.commit("a", "two");
    work.push(&["HEAD:main"]).succeeds();
    eventually("the outage to show", || pair.one.gitmesh(&["status"]).has("DOWN for "));
    let ill = pair.one.gitmesh(&["status"]).fails();
    ill.says("needs attention (1 of 2 copies):\ntesting\tserver2\tfailing for ");
    let json = pair.one.gitmesh(&["status", "--json"]).fails().stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let node = &json["nodes"][0];
    assert_eq!(
        (&json["schema"], &node["node"], &node["up"]),
        (&"gitmesh.status/1".into(), &"server2".into(), &false.into())
    );
    assert_eq!((&node["generation"], &json["generation"]), (&2.into(), &2.into()));
    assert_eq!(json["attention"][0]["state"], "failing");
    pair.there.restore();
    eventually("all to be well again", || pair.one.gitmesh(&["status"]).code == Some(0));
    // What is told is how it is now, not how it was at the last heartbeat.
    pair.two.stop();
    let down = pair.one.gitmesh(&["status"]).fails();
    down.says("DOWN for ").says("\n  server2: cannot reach server2 at ");
    pair.two.start();
    pair.one.gitmesh(&["status"]).says("up, ").does_not_say("DOWN");
    alice.ssh(&pair.one, "mirror pause --all --peer server2 --reason new-disk").succeeds();
    let paused = pair.one.gitmesh(&["status"]).succeeds();
    let paused = paused.says("held back: 2 of 2 copies, paused or pushed by hand").does_not_say("needs attention");
    let paused = paused.says("paused by alice (new-disk)").says("from here to a copy ").says("push ");
    let wide: Vec<&str> = paused.stdout.lines().filter(|line| line.chars().count() > 80).collect();
    assert!(wide.is_empty(), "{wide:#?}");
}

#[test]
fn what_is_on_its_way_needs_no_attention() {
    let world = World::new();
    let (pair, work, _) = running(&world);
    pair.one.stop();
    let settings = pair.one.data().join("gitmesh.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    let slow = text.replacen("# bandwidth = \"20MiB/s\"", "bandwidth = \"128KiB/s\"", 1);
    assert_ne!(text, slow);
    std::fs::write(&settings, slow).unwrap();
    pair.one.start();
    eventually("all to be well", || pair.one.gitmesh(&["status"]).code == Some(0));
    work.commit_random("big", 2 << 20);
    work.push(&["-q", "HEAD:main"]).succeeds();
    let status = pair.one.gitmesh(&["status"]).succeeds();
    status.says("on their way: 1 of 2 copies, the oldest for ").does_not_say("needs attention");
    let json: serde_json::Value =
        serde_json::from_str(&pair.one.gitmesh(&["status", "--json"]).succeeds().stdout).unwrap();
    assert_eq!((&json["on_their_way"], &json["attention"]), (&1.into(), &serde_json::json!([])), "{json}");
    assert_eq!(pair.one.gitmesh(&["mirror", "status"]).code, Some(1), "it is not in step");
    // For longer than a person is patient: it does.
    pair.one.set("alarm_after", "\"1s\"");
    eventually("it to need attention", || pair.one.gitmesh(&["status"]).has("needs attention (1 of 2 copies):"));
}

#[test]
fn who_was_away_goes_on_after_the_last_event_they_saw() {
    let world = World::new();
    let (pair, work, bob) = running(&world);
    let carol = world.actor("carol");
    world
        .alice()
        .configure(&pair.one, |c| {
            c.key(&bob);
            c.key(&carol);
            c.conf(&format!("{CONF}repo secret\n    RW+ = alice carol\n"));
        })
        .succeeds();
    // A stream has no end of its own: it is read until what is waited for has come.
    let events = |actor: &crate::world::Actor, since: u64| -> Vec<serde_json::Value> {
        let mut command = actor.ssh_command(&["server1", &format!("events --json --since {since}")]);
        let mut stream = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let (to, from) = std::sync::mpsc::channel();
        let lines = std::io::BufRead::lines(std::io::BufReader::new(stream.stdout.take().unwrap()));
        let reading = std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| to.send(line)));
        let mut all = Vec::new();
        while let Ok(line) = from.recv_timeout(std::time::Duration::from_secs(if all.is_empty() { 20 } else { 2 })) {
            all.push(serde_json::from_str(&line).unwrap());
        }
        stream.kill().unwrap();
        stream.wait().unwrap();
        drop(reading.join().unwrap());
        all
    };
    let about = |all: &[serde_json::Value], event: &str, repo: &str| -> Vec<serde_json::Value> {
        all.iter().filter(|e| e["event"] == event && e["repo"] == repo).cloned().collect()
    };
    let seen = events(&bob, 0);
    let last = seen.last().unwrap()["id"].as_u64().unwrap();
    assert!(!about(&seen, "push", "testing").is_empty() && !about(&seen, "mirror.synced", "testing").is_empty());

    let old = work.oid("HEAD");
    let new = work.commit("a", "two");
    work.push(&["HEAD:main"]).succeeds();
    pair.in_step("testing");
    let secret = carol.clone_of(&pair.one, "secret");
    secret.commit("a", "one");
    secret.push(&["HEAD:main"]).succeeds();
    // The history is on disk within a second or two, and outlives the node.
    let written = || std::fs::read_to_string(pair.one.data().join("state/events.log")).unwrap_or_default();
    eventually("the file", || written().contains("\"repo\":\"secret\""));
    pair.one.kill9();
    pair.one.start();

    let later = events(&bob, last);
    let pushes = about(&later, "push", "testing");
    let push = &pushes[0];
    assert_eq!(pushes.len(), 1, "{later:#?}");
    assert_eq!((&push["user"], &push["updates"][0]["ref"]), (&"alice".into(), &"refs/heads/main".into()));
    assert_eq!((&push["updates"][0]["old"], &push["updates"][0]["new"]), (&old.into(), &new.into()));
    assert_eq!(about(&later, "mirror.synced", "testing")[0]["peer"], "server2");
    assert!(about(&later, "push", "secret").is_empty(), "bob may not read it");
    assert!(!later.iter().any(|e| e["event"] == "started" || e["event"] == "lost"), "{later:#?}");
    assert_eq!(about(&events(&carol, last), "push", "secret").len(), 1);
    let all = events(world.alice(), last);
    assert!(all.iter().any(|e| e["event"] == "started"), "{all:#?}");
    assert!(all.windows(2).all(|two| two[0]["id"].as_u64() < two[1]["id"].as_u64()), "{all:#?}");
    bob.ssh(&pair.one, "events --since yesterday").refused_by("whole number");
}

/// What stands beside the references is a change like any other: the copy is behind by it, and its arrival is told.
#[test]
fn a_changed_head_or_description_is_told_as_a_push_is() {
    let world = World::new();
    let (pair, work, _) = running(&world);
    let alice = world.alice();
    work.push(&["HEAD:next"]).succeeds();
    pair.in_step("testing");
    let synced = || -> Vec<serde_json::Value> {
        let file = std::fs::read_to_string(pair.one.data().join("state/events.log")).unwrap_or_default();
        let events = file.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        events.filter(|event| event["event"] == "mirror.synced" && event["repo"] == "testing").collect()
    };
    let beside = || synced().iter().filter(|event| event["beside"] == true).count();
    eventually("the pushes to be told", || synced().len() >= 2);
    assert_eq!(beside(), 0, "{:#?}", synced());
    for (n, order) in
        ["symbolic-ref testing HEAD refs/heads/next", "desc testing Tests of all kinds"].iter().enumerate()
    {
        alice.ssh(&pair.one, "mirror pause testing").succeeds();
        pair.one.gitmesh(&order.split(' ').collect::<Vec<_>>()).succeeds();
        alice.ssh(&pair.one, "mirror status testing").says("changes wait");
        alice.ssh(&pair.one, "mirror resume testing").succeeds();
        alice.ssh(&pair.one, "mirror wait testing").succeeds();
        eventually("the event", || beside() == n + 1);
        assert_eq!(synced().last().unwrap()["refs"], 0);
    }
    assert_eq!(pair.two.head("testing"), "ref: refs/heads/next");
    let told = |log: &Answer| log.stdout.matches("pushed: HEAD or texts beside the references, ").count();
    let log = alice.ssh(&pair.one, "mirror log testing").succeeds();
    assert_eq!(told(&log), 2, "{log:#?}");
    // What was equal already is no event; what was changed behind our back, and is mended, is one.
    alice.ssh(&pair.one, "mirror push testing").succeeds().says("in step already");
    work.commit("a", "two");
    work.push(&["HEAD:main"]).succeeds();
    pair.in_step("testing");
    assert_eq!(told(&alice.ssh(&pair.one, "mirror log testing")), 2);
    pair.two.git("testing", &["symbolic-ref", "HEAD", "refs/heads/main"]).succeeds();
    alice.ssh(&pair.one, "mirror verify testing").fails().says("DIFFERS");
    eventually("HEAD to be as it was", || pair.two.head("testing") == "ref: refs/heads/next");
    eventually("its entry", || told(&alice.ssh(&pair.one, "mirror log testing")) == 3);
}

/// A check that reads every object may take hours: each copy is told of at once, and nobody's check goes on.
#[test]
fn a_deep_check_tells_of_each_copy_and_ends_with_its_client() {
    let world = World::new();
    let (pair, _, _) = running(&world);
    let alice = world.alice();
    alice.ssh(&pair.one, "mirror wait secret").succeeds();
    // git waits here until somebody writes.
    let object = pair.one.repo_dir("testing").join("objects/00").join("0".repeat(38));
    std::fs::create_dir_all(object.parent().unwrap()).unwrap();
    assert!(world.command("mkfifo").arg(&object).status().unwrap().success());
    let mut command = alice.ssh_command(&["server1", "mirror verify --deep"]);
    let mut checking = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(checking.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, "secret\tserver2\tequal, and every object is sound\n");
    assert!(checking.try_wait().unwrap().is_none());
    checking.kill().unwrap();
    checking.wait().unwrap();
    let given = "audit search --kind command --user alice --result failed";
    eventually("its end", || alice.ssh(&pair.one, given).has("nobody waits for it"));
    std::fs::remove_file(&object).unwrap();
    let whole = alice.ssh(&pair.one, "mirror verify --deep").succeeds().says(&first);
    assert_eq!(whole.stdout.lines().count(), 2, "{whole:#?}");
    let json = alice.ssh(&pair.one, "mirror verify --deep --json").succeeds();
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&json["copies"][0]["repo"], json["copies"].as_array().unwrap().len()), (&"secret".into(), 2));
}

//! Pushes and orders to a replica, carried to the master: answered as if they had been made there, in one order, and
//! whatever breaks on the way is said.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::world::{Actor, Pair, World, eventually};

const CONF: &str = "\
repo testing
    RW+ = @all
    option mirror.master = server1
    option mirror.copies = server2
    option mirror.redirectOK = all
repo theirs
    RW+ = @all
    option mirror.master = server2
    option mirror.copies = server1
    option mirror.redirectOK = server1
repo pub/CREATOR/..*
    C   = @all
    RW+ = CREATOR
    R   = READERS
    option mirror.master = server1
    option mirror.copies = server2
    option mirror.redirectOK = all
";

/// A pair with `conf` on both nodes and bob among the users of both.
fn pair_with_bob(world: &World, conf: &str) -> (Pair, Actor) {
    let (pair, bob) = (world.pair(), world.actor("bob"));
    for node in [&pair.two, &pair.one] {
        world.alice().configure(node, |c| (c.conf(conf), c.key(&bob)).0).succeeds();
    }
    (pair, bob)
}

#[test]
fn a_push_to_a_replica_is_made_on_the_master() {
    let world = World::new();
    let (pair, bob) = pair_with_bob(&world, CONF);
    let work = bob.clone_of(&pair.two, "testing");
    let one = work.commit("a", "one");
    let pushed = work.push(&["HEAD:main"]).succeeds();
    assert!(pushed.remote_lines().ends_with("&) server1 ==== (testing) ===> server2"), "{pushed:#?}");
    // Both have it by the end of the push, and the next push sees what the master has.
    assert_eq!(pair.one.oid("testing", "refs/heads/main"), Some(one.clone()));
    assert_eq!(pair.two.oid("testing", "refs/heads/main"), Some(one));
    assert!(pair.one.log().contains(" by server2\""), "{}", pair.one.log());
    work.commit("a", "two");
    work.git(&["tag", "-a", "-m", "annotated", "v1"]).succeeds();
    work.push(&["--atomic", "HEAD:main", "HEAD:topic", "v1"]).succeeds();
    work.git(&["commit", "-q", "--amend", "-m", "again"]).succeeds();
    work.push(&["HEAD:main"]).refused_by("non-fast-forward");
    work.push(&["+HEAD:main", ":topic"]).succeeds();
    work.push(&["HEAD:main"]).succeeds().says("Everything up-to-date");
    work.commit_random("big", 3 << 20);
    work.push(&["HEAD:main"]).succeeds();
    pair.in_step("testing");
    pair.one.is_sound("testing");
    // The other way round, on the same pair.
    let work = bob.clone_of(&pair.one, "theirs");
    work.commit("a", "one");
    work.push(&["HEAD:main"]).succeeds().says("server2 ==== (theirs) ===> server1");
    assert_eq!(pair.one.refs("theirs"), pair.two.refs("theirs"));
    assert!(!pair.two.refs("theirs").is_empty());
}

#[test]
fn a_refusal_is_the_master_s_own() {
    let world = World::new();
    let (pair, bob) = pair_with_bob(&world, CONF);
    // The rules differ: on server2 everybody may do everything.
    let strict = CONF.replacen("RW+ = @all", "RW+ = alice\n    - release = bob\n    RW = bob", 1);
    world.alice().configure(&pair.one, |c| c.conf(&strict)).succeeds();
    let start = world.alice().clone_of(&pair.two, "testing");
    start.commit("a", "one");
    start.push(&["HEAD:main", "HEAD:release"]).succeeds();
    let answers = [&pair.two, &pair.one].map(|node| {
        let work = bob.clone_of(node, "testing");
        work.git(&["reset", "-q", "--hard", "origin/main"]).succeeds();
        work.git(&["commit", "-q", "--amend", "--allow-empty", "-m", "rewritten"]).succeeds();
        let pushed = work.push(&["--porcelain", "+HEAD:main", "HEAD:release", "HEAD:refs/gitmesh/x"]).fails();
        let verdicts: Vec<String> = pushed.stdout.lines().filter(|l| l.starts_with('!')).map(str::to_owned).collect();
        assert_eq!(verdicts.len(), 3, "{pushed:#?}");
        (pushed.code, verdicts, pushed.remote_lines())
    });
    let [(code, verdicts, said), direct] = answers;
    assert_eq!((code, &verdicts), (direct.0, &direct.1));
    let node = "  node: server1, the master of 'testing', to which server2 carried this push";
    let lines: Vec<&str> = said.lines().filter(|line| *line != node).collect();
    assert_eq!(lines, direct.2.lines().collect::<Vec<_>>());
    assert!(said.contains(node), "{said}");

    // The first check, too: here server1 lets bob read only, and there server2.
    let conf = |rules: &str| CONF.replacen("RW+ = @all", rules, 1);
    world.alice().configure(&pair.one, |c| c.conf(&conf("RW+ = alice\n    R = bob"))).succeeds();
    let work = bob.checkout("server2-testing");
    work.commit("b", "b");
    let refused = work.push(&["HEAD:topic"]).refused_by("FATAL: W any testing bob DENIED");
    refused.says("node: server1, the master of 'testing', to which server2 carried this push");
    world.alice().configure(&pair.one, |c| c.conf(CONF)).succeeds();
    world.alice().configure(&pair.two, |c| c.conf(&conf("RW+ = alice\n    R = bob"))).succeeds();
    let refused = work.push(&["HEAD:topic"]).refused_by("FATAL: W any testing bob DENIED");
    refused.says("node: server2, before anything went on to the master server1");
    // Who may not read it learns nothing, as ever.
    world.alice().configure(&pair.two, |c| c.conf(&conf("RW+ = alice"))).succeeds();
    let told =
        |repo: &str| work.git(&["push", &bob.url(&pair.two, repo), "HEAD:topic"]).fails().stderr.replace(repo, "X");
    assert_eq!(told("testing"), told("nowhere"));
    assert!(pair.one.oid("testing", "refs/heads/topic").is_none());
}

#[test]
fn who_is_not_believed() {
    let world = World::new();
    let (pair, bob) = pair_with_bob(&world, CONF);
    let third = world.prepare("server3");
    let _link = world.introduce(&third, &pair.one);
    let carol = world.actor("carol");
    // carol is known to server2 alone.
    world.alice().configure(&pair.two, |c| c.key(&carol)).succeeds();
    let work = carol.clone_of(&pair.two, "testing");
    work.commit("a", "carol's");
    let refused = work.push(&["HEAD:main"]).refused_by("server1 does not know the user 'carol' of server2");
    refused.says("carol, as node server2 says").says("keydir/").says("E0221");

    // By hand, with the keys of nodes and users.
    let voucher = format!("version=1 user=bob key={} from=1.2.3.4:5 epoch=1", bob.fingerprint());
    let line = |repo: &str| format!("gitmesh-forward git-receive-pack '{repo}' {voucher}");
    let order = |words: &str| format!("gitmesh-forward command {voucher} -- {words}");
    let (two, three) = (world.node_actor(&pair.two), world.node_actor(&third));
    three.ssh(&pair.one, &line("testing")).refused_by("'server3' is not a valid copy of 'testing'");
    three.ssh(&pair.one, &order("create pub/bob/x")).refused_by("'server3' is not a valid copy of 'pub/bob/x'");
    three.ssh(&pair.one, &line("nowhere")).refused_by("'nowhere' is local to server1");
    three.ssh(&pair.one, &line("gitmesh-admin")).refused_by("'gitmesh-admin' is local to server1");
    bob.ssh(&pair.one, &line("testing")).refused_by("only the nodes of the mesh");
    two.ssh(&pair.one, &line("testing").replace("version=1", "version=9"))
        .refused_by("version 1 of forwarding, the other 9");
    two.ssh(&pair.one, &line("testing").replace("epoch=1", "epoch=7")).refused_by("server1 is no longer its master");
    two.ssh(&pair.one, &order("info")).refused_by("only commands that change a repository");
    // What server2 is the master of it does not carry anywhere, and server1 carries nothing on that was carried.
    two.ssh(&pair.one, &line("theirs")).refused_by("'theirs' is not native to server1");
    // Where redirectOK names others.
    let conf = CONF.replacen("redirectOK = all", "redirectOK = server4", 1);
    world.alice().configure(&pair.one, |c| c.conf(&conf)).succeeds();
    let bobs = bob.clone_of(&pair.two, "testing");
    bobs.commit("a", "bob's");
    bobs.push(&["HEAD:main"]).refused_by("redirection not allowed from 'server2'");
    world.alice().configure(&pair.two, |c| c.conf(&conf)).succeeds();
    bobs.push(&["HEAD:main"]).refused_by("this is a copy; push to server1");
    assert!(pair.one.refs("testing").is_empty());
}

#[test]
fn a_master_that_is_away_is_named() {
    let world = World::new();
    let (pair, bob) = pair_with_bob(&world, CONF);
    let work = bob.clone_of(&pair.two, "testing");
    work.commit("a", "one");
    work.push(&["HEAD:main"]).succeeds();
    pair.back.cut();
    work.commit("a", "two");
    let told = work.push(&["HEAD:main"]).refused_by("'testing' is changed on its master server1 alone, which server2");
    told.says("nothing has changed; fetches go on here; try again when server1 is back").says("E0222");
    eventually("the push to tell since when", || work.push(&["HEAD:main"]).has("server2 has not reached for "));
    let told = bob.ssh(&pair.two, "create pub/bob/x").refused_by("'pub/bob/x' is changed on its master server1");
    assert_eq!(told.code, Some(7));
    work.git(&["fetch", "-q"]).succeeds();
    pair.back.restore();
    work.push(&["HEAD:main"]).succeeds();
    pair.in_step("testing");
}

#[test]
fn a_replica_that_the_master_cannot_reach_is_told_of() {
    let world = World::new();
    let (pair, bob) = pair_with_bob(&world, CONF);
    let work = bob.clone_of(&pair.two, "testing");
    pair.there.cut();
    work.commit("a", "one");
    work.push(&["HEAD:main"])
        .succeeds()
        .says("the push stands on server1; server2, through which it came, does not have");
    assert!(pair.two.refs("testing").is_empty());
    work.git(&["push", "origin", "HEAD:main"]).succeeds().says("Everything up-to-date");
    pair.there.restore();
    pair.in_step("testing");
}

#[test]
fn a_link_that_breaks_in_mid_push() {
    let world = World::new();
    let (pair, bob) = pair_with_bob(&world, CONF);
    let work = bob.clone_of(&pair.two, "testing");
    work.commit_random("big", 8 << 20);
    for round in 0..2 {
        pair.back.delay(Duration::from_millis(20));
        let before = pair.back.carried();
        let push = work.begin(&["push", "origin", "HEAD:main"]);
        eventually("a part of the pack to be on the way", || pair.back.carried() > before + (1 << 20));
        if round == 1 {
            pair.one.kill9();
        }
        pair.back.cut();
        pair.back.delay(Duration::ZERO);
        let lost =
            push.end().fails().says("server2 carried this push to server1, the master of 'testing', and lost it");
        lost.says("nothing of it has landed; push again");
        if round == 1 {
            pair.one.start();
        }
        pair.back.restore();
        assert!(pair.one.refs("testing").is_empty());
    }
    // The user goes away in the middle: nothing lands, and nothing is left over (the world sees to that).
    let slow = world.link_to(&pair.two);
    slow.delay(Duration::from_millis(10));
    let url = bob.url_by(&slow, "testing");
    let push = work.begin(&["push", &url, "HEAD:main"]);
    eventually("a part of the pack to be on the way", || slow.carried() > (1 << 20));
    slow.cut();
    push.end().fails();
    work.push(&["HEAD:main"]).succeeds();
    pair.in_step("testing");
    pair.one.is_sound("testing");
}

#[test]
fn a_link_that_breaks_after_the_push_was_sent() {
    let world = World::new();
    let slow = CONF.replacen("RW+ = @all", "RW+ = @all\n    RW+ VREF/slow = @all", 1);
    let pair = world.pair();
    let gate = world.dir().join("gate");
    let program = pair.one.data().join("local/VREF/slow");
    std::fs::create_dir_all(program.parent().unwrap()).unwrap();
    let text = format!("#!/bin/sh\ntouch {0}.asked\nuntil [ -e {0} ]; do sleep 0.05; done\n", gate.display());
    std::fs::write(&program, text).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    world.alice().configure(&pair.two, |c| c.conf(CONF)).succeeds();
    world.alice().configure(&pair.one, |c| c.conf(&slow)).succeeds();
    let work = world.alice().clone_of(&pair.two, "testing");
    let oid = work.commit("a", "one");
    let push = work.begin(&["push", "origin", "HEAD:main"]);
    eventually("the master to judge", || world.dir().join("gate.asked").exists());
    pair.back.cut();
    push.end().fails().says("it may have landed or not; fetch to see");
    std::fs::write(&gate, "").unwrap();
    // The master had all of it.
    eventually("the push to land", || pair.one.oid("testing", "refs/heads/main").as_ref() == Some(&oid));
    pair.back.restore();
    pair.in_step("testing");
    work.push(&["HEAD:main"]).succeeds().says("Everything up-to-date");
}

/// What the gitosis pair got wrong: both nodes take pushes to one branch at the same moment.
#[test]
fn concurrent_pushes_through_both_nodes_are_put_in_one_order() {
    let world = World::new();
    let (pair, bob) = pair_with_bob(&world, CONF);
    let alice = world.alice();
    let start = alice.clone_of(&pair.one, "testing");
    start.commit("start", "0");
    start.push(&["HEAD:main"]).succeeds();
    pair.in_step("testing");
    let checkouts = [alice.clone_of(&pair.two, "testing"), bob.clone_of(&pair.one, "testing")];
    let mut landed = vec![start.oid("HEAD")];
    for round in 0..6 {
        let answers: Vec<_> = thread::scope(|scope| {
            let push = |(who, work): (usize, &'_ crate::world::Checkout)| {
                let (file, work) = (format!("{who}"), work.clone());
                scope.spawn(move || {
                    let oid = work.commit(&file, format!("{round}"));
                    (oid, work.push(&["HEAD:main"]), work)
                })
            };
            let running: Vec<_> = checkouts.iter().enumerate().map(push).collect();
            running.into_iter().map(|r| r.join().unwrap()).collect()
        });
        let won: Vec<_> = answers.iter().filter(|(_, answer, _)| answer.code == Some(0)).collect();
        assert_eq!(
            won.len(),
            1,
            "one of two that do not contain each other: {answers:#?}",
            answers = answers.iter().map(|a| &a.1).collect::<Vec<_>>()
        );
        landed.push(won[0].0.clone());
        for (_, answer, work) in &answers {
            if answer.code != Some(0) {
                let reasons = ["non-fast-forward", "fetch first", "rejected"];
                assert!(reasons.iter().any(|reason| answer.has(reason)), "{answer:#?}");
                // The node that refused has what came first by the time it can be asked.
                pair.in_step("testing");
                work.git(&["pull", "-q", "--rebase", "origin", "main"]).succeeds();
                work.push(&["HEAD:main"]).succeeds();
                landed.push(work.oid("HEAD"));
            }
        }
        pair.in_step("testing");
        for work in &checkouts {
            work.git(&["pull", "-q", "--rebase", "origin", "main"]).succeeds();
        }
    }
    let history = pair.two.git("testing", &["rev-list", "--first-parent", "main"]).succeeds().stdout;
    landed.reverse();
    assert_eq!(history.lines().collect::<Vec<_>>(), landed);
    assert!(!pair.one.gitmesh(&["mirror", "status", "testing"]).succeeds().has("diverged"));
}

#[test]
fn repositories_are_made_and_shared_through_a_replica() {
    let world = World::new();
    let (pair, bob) = pair_with_bob(&world, CONF);
    let alice = world.alice();
    let work = bob.starts(&pair.two, "pub/bob/x");
    let oid = work.commit("a", "one");
    work.push(&["HEAD:main"]).succeeds().says("Initialized empty Git repository in pub/bob/x.git");
    for node in [&pair.one, &pair.two] {
        assert_eq!(node.oid("pub/bob/x", "refs/heads/main"), Some(oid.clone()));
        bob.ssh(node, "info -lc ^pub/bob/x$").succeeds().says("\tbob");
    }
    assert!(!alice.may_read(&pair.two, "pub/bob/x"));
    bob.ssh(&pair.two, "perms pub/bob/x + READERS alice").succeeds();
    assert!(alice.may_read(&pair.one, "pub/bob/x") && alice.may_read(&pair.two, "pub/bob/x"));
    bob.ssh(&pair.two, "perms pub/bob/x -l").succeeds().says("READERS alice");
    // Lines on standard input travel too.
    let lines = bob.dir().join("lines");
    std::fs::write(&lines, "READERS alice carol\n").unwrap();
    let mut command = bob.ssh_command(&["git@server2", "perms", "pub/bob/x"]);
    command.stdin(std::fs::File::open(&lines).unwrap());
    crate::world::Running::start(command).end().succeeds();
    bob.ssh(&pair.one, "perms pub/bob/x -l").succeeds().says("READERS alice carol");
    bob.ssh(&pair.two, "perms pub/bob/x + FRIENDS alice").refused_by("FRIENDS").says("node: server1, the master of");
    alice.ssh(&pair.two, "perms pub/bob/x + READERS dave").refused_by("is not yours");

    // The master keeps the locks, and a replica asks it.
    bob.ssh(&pair.two, "lock -l pub/bob/x a").succeeds();
    for node in [&pair.one, &pair.two] {
        bob.ssh(node, "lock -ls pub/bob/x").succeeds().says("bob\ta\t(");
    }
    assert!(pair.one.data().join("repositories/pub/bob/x.git/gl-locks").exists());

    bob.ssh(&pair.two, "create pub/bob/y").succeeds().says("Initialized empty Git repository in pub/bob/y.git");
    assert!(pair.one.has_repo("pub/bob/y"));
    eventually("the copy", || pair.two.has_repo("pub/bob/y"));
    bob.ssh(&pair.two, "create pub/bob/y").refused_by("DENIED by existence");
    for (repo, code) in [("pub/alice/z", "E0210"), ("nowhere", "E0210")] {
        bob.ssh(&pair.two, &format!("create {repo}")).refused_by(code).does_not_say("server1");
        work.git(&["push", &bob.url(&pair.two, repo), "HEAD:main"]).refused_by("E0201").does_not_say("server1");
    }
    // Only the master makes them.
    assert!(!pair.one.has_repo("pub/alice/z") && !pair.two.has_repo("pub/alice/z"));
    pair.two.gitmesh(&["create", "pub/alice/z"]).fails();
}

/// What an operator orders of the copies is ordered on the master, whichever node hears it.
#[test]
fn orders_about_copies_are_carried_to_the_master() {
    let world = World::new();
    let (pair, bob) = pair_with_bob(&world, CONF);
    let alice = world.alice();
    let work = bob.clone_of(&pair.one, "testing");
    let oid = work.commit("a", "one");
    work.push(&["HEAD:main"]).succeeds();
    let has = |oid: &str| pair.two.oid("testing", "refs/heads/main").as_deref() == Some(oid);
    bob.ssh(&pair.two, "mirror push testing").succeeds().says("server1 ==== (testing) ===> server2");
    bob.ssh(&pair.two, "mirror wait testing main --count 1").succeeds().says("testing\tserver2\thas it, after");
    assert!(has(&oid));

    let node = "node: server1, the master of 'testing', to which server2 carried this";
    bob.ssh(&pair.two, "mirror pause testing").refused_by("for administrators").says(node);
    let paused = alice.ssh(&pair.two, "mirror pause testing --peer server2 --reason disk").succeeds();
    paused.says("pushes to the copy of testing on server2 are paused: 1 copy").does_not_say("warning");
    pair.one.gitmesh(&["mirror", "status", "testing"]).says("paused by alice (disk)");
    let oid = work.commit("a", "two");
    work.push(&["HEAD:main"]).succeeds();
    let told = bob.ssh(&pair.two, "mirror wait testing").fails().says("NOT YET: paused by alice").says(node);
    assert_eq!(told.code, Some(8));
    assert!(!has(&oid));
    let resumed = alice.ssh(&pair.two, "mirror resume testing --peer server2").succeeds();
    resumed.says("pushes to the copy of testing on server2 go on");
    bob.ssh(&pair.two, "mirror wait testing --timeout 60s").succeeds().says("has it, after");
    assert!(has(&oid));
    alice.ssh(&pair.two, "sudo bob mirror wait testing").succeeds().says("has it, after");
    bob.ssh(&pair.two, "mirror repair testing").refused_by("for administrators").says(node);
    alice.ssh(&pair.two, "mirror repair server2 testing").succeeds().says("===> server2");
    bob.ssh(&pair.two, "mirror push server9 testing").refused_by("server9 is no replica of 'testing'").says(node);
    let audited = pair.one.gitmesh(&["audit", "search", "--kind", "command", "--user", "alice", "--json"]).succeeds();
    let order = audited.stdout.lines().find(|line| line.contains("mirror pause")).expect("the order");
    assert!(order.contains("\"node\":\"server2\"") && order.contains("\"repo\":\"testing\""), "{order}");

    // It waits there for as long as it was told.
    pair.there.cut();
    let oid = work.commit("a", "three");
    work.push(&["HEAD:main"]).succeeds();
    let late = bob.ssh(&pair.two, "mirror wait testing --timeout 1s").fails().says("NOT YET");
    assert_eq!(late.code, Some(8));
    let orders = || pair.one.log().matches("a forwarded command").count();
    let before = orders();
    let mut waiting = crate::world::Running::start(bob.ssh_command(&["git@server2", "mirror", "wait", "testing"]));
    eventually("the master to hear of it", || orders() > before);
    assert!(!waiting.has_ended());
    pair.there.restore();
    waiting.end().succeeds().says("has it, after");
    assert!(has(&oid));

    // What is typed on the machine has nobody's name, and is told where to go.
    for order in [&["mirror", "pause", "testing"][..], &["mirror", "wait", "testing"], &["mirror", "push", "testing"]] {
        let here = pair.two.gitmesh(order).refused_by("server2 is not the master of 'testing'");
        here.says("its master is server1; run this there, or here over SSH");
    }
    pair.back.cut();
    let away = alice.ssh(&pair.two, "mirror pause testing").fails().says("server1").says("E0222");
    assert_eq!(away.code, Some(7));
    pair.back.restore();
    for node in [&pair.one, &pair.two] {
        alice.configure(node, |c| c.conf(&CONF.replacen("    option mirror.redirectOK = all\n", "", 1))).succeeds();
    }
    for order in ["pause testing", "resume testing", "wait testing", "push testing", "repair server2 testing"] {
        let refused = alice.ssh(&pair.two, &format!("mirror {order}")).refused_by("is not the master of 'testing'");
        refused.says("its master is server1; run this there");
    }
}

const MIRRORED_ADMIN: &str = "\
repo gitmesh-admin
    option mirror.master = server1
    option mirror.copies = server2
    option mirror.redirectOK = all
";

#[test]
fn a_mirrored_configuration_is_changed_through_any_node() {
    let world = World::new();
    let bob = world.actor("bob");
    let conf = format!("{MIRRORED_ADMIN}{CONF}");
    let pair = world.pair_with(&conf);
    // server2 gives up the history of its own.
    pair.one.gitmesh(&["mirror", "repair", "server2", "gitmesh-admin"]).succeeds();
    pair.in_step("gitmesh-admin");
    let alice = world.alice();
    let told = alice.configure(&pair.two, |c| (c.conf(&format!("{conf}repo new\n    RW = bob\n")), c.key(&bob)).0);
    told.succeeds().says("plan:").says("is in force").says("server1 ==== (gitmesh-admin) ===> server2");
    pair.in_step("gitmesh-admin");
    for node in [&pair.one, &pair.two] {
        eventually("bob to be known", || bob.ssh(node, "info").has("new"));
    }
    let bad = alice.configure(&pair.two, |c| c.conf("repo x\n    RW+ = alice,bob\n")).fails();
    bad.says("FATAL: the configuration is refused").says("conf/gitmesh.conf:5").says("node: server1, the master of");

    // A key that was removed on the master is worth nothing on a replica that has not heard of it.
    let work = bob.clone_of(&pair.two, "testing");
    work.commit("a", "one");
    pair.there.cut();
    alice.configure(&pair.one, |c| c.remove("keydir/bob.pub")).succeeds();
    bob.ssh(&pair.two, "info").succeeds();
    work.push(&["HEAD:main"]).refused_by("server1 does not know the user 'bob' of server2").says(&bob.fingerprint());
    assert!(pair.one.refs("testing").is_empty());
    pair.there.restore();
    eventually("server2 to hear of it", || bob.ssh(&pair.two, "info").code != Some(0));
}

#[test]
fn a_key_removed_during_a_carried_push_refuses_it() {
    let world = World::new();
    let (pair, bob) = pair_with_bob(&world, CONF);
    let work = bob.clone_of(&pair.two, "testing");
    work.commit_random("big", 4 << 20);
    pair.back.delay(Duration::from_millis(10));
    let before = pair.back.carried();
    let push = work.begin(&["push", "origin", "HEAD:main"]);
    eventually("a part of the pack to be on the way", || pair.back.carried() > before + (1 << 20));
    world.alice().configure(&pair.one, |c| c.remove("keydir/bob.pub")).succeeds();
    pair.back.delay(Duration::ZERO);
    push.end().refused_by("server1 does not know the user 'bob' of server2");
    assert!(pair.one.refs("testing").is_empty());
}

#[test]
fn a_push_carried_to_a_master_that_stops_dead_ends_soon() {
    let world = World::new();
    let (pair, bob) = pair_with_bob(&world, CONF);
    let work = bob.clone_of(&pair.two, "testing");
    work.commit("a", "one");
    work.push(&["HEAD:main"]).succeeds();
    work.commit_random("big", 4 << 20);
    pair.back.delay(Duration::from_millis(10));
    let before = pair.back.carried();
    let push = work.begin(&["push", "origin", "HEAD:main"]);
    eventually("a part of the pack to be on the way", || pair.back.carried() > before + (1 << 20));
    // Its connections stay open, and nothing comes from it any more.
    pair.one.signal(Signal::STOP);
    let since = Instant::now();
    let pushed = push.end();
    let took = since.elapsed();
    pair.one.signal(Signal::CONT);
    let told = pushed.refused_by("server2 carried this push to server1, the master of 'testing', and lost it");
    told.says("it gave no sign of life for").says("it may have landed or not");
    assert!(took < Duration::from_secs(25), "{took:?}");
    pair.back.delay(Duration::ZERO);
    // What was in its hands already may land just now.
    eventually("the push to be made again", || work.push(&["HEAD:main"]).code == Some(0));
    pair.in_step("testing");
    assert_eq!(pair.one.refs("testing"), pair.two.refs("testing"));
}

#[test]
fn three_nodes_with_a_master_each() {
    let world = World::new();
    let nodes = [world.prepare("server1"), world.prepare("server2"), world.prepare("server3")];
    let mut links = Vec::new();
    for to in &nodes {
        links.extend(nodes.iter().filter(|peer| peer.name() != to.name()).map(|peer| world.introduce(peer, to)));
    }
    let all = "server1 server2 server3";
    let of = |name: &str| {
        format!("repo {name}\n    RW+ = @all\n    option mirror.copies-1 = {all}\n    option mirror.redirectOK = all\n")
    };
    let mut conf = String::new();
    for node in &nodes {
        let (name, shared) = (node.name(), of(&format!("at-{}", node.name())));
        let master = format!("    option mirror.master = {name}\n");
        conf.push_str(&format!("{shared}{master}repo only-{name}\n    RW+ = @all\n{master}"));
    }
    let odd = |here: &str, master: &str| {
        conf.clone()
            + &of("odd")
            + &format!("    option mirror.master = {}\n", if here == "server1" { "server2" } else { master })
    };
    let alice = world.alice();
    for node in &nodes {
        node.start();
        // server2 takes server3 for the master of odd, and server3 server2.
        let master = if node.name() == "server2" { "server3" } else { "server2" };
        alice.configure(node, |c| c.conf(&odd(node.name(), master))).succeeds();
    }
    for (n, master) in nodes.iter().enumerate() {
        let repo = format!("at-{}", master.name());
        for (m, node) in nodes.iter().enumerate() {
            let work = alice.starts(node, &repo);
            let oid = work.commit("a", format!("{n}{m}"));
            work.push(&[&format!("HEAD:from-{m}")]).succeeds();
            assert_eq!(master.oid(&repo, &format!("refs/heads/from-{m}")), Some(oid));
        }
        for node in &nodes {
            eventually("all to be equal", || node.refs(&repo) == master.refs(&repo));
        }
        assert_eq!(master.refs(&repo).len(), 3);
        // What has no copies is its master's alone, under one configuration for all.
        let repo = format!("only-{}", master.name());
        for node in &nodes {
            assert_eq!(node.has_repo(&repo), node.name() == master.name());
        }
    }
    let work = alice.starts(&nodes[1], "odd");
    work.commit("a", "odd");
    work.push(&["HEAD:main"]).refused_by("'odd' is not native to server3").says("make them agree");
    let work = alice.starts(&nodes[0], "odd");
    work.commit("a", "odd");
    work.push(&["HEAD:main"]).refused_by("'odd' is not native to server2");
}

#[test]
fn gitolite_2_s_names() {
    let world = World::new();
    let conf = "\
repo testing
    RW+ = @all
    config gitolite.mirror.master     = \"server1\"
    config gitolite.mirror.slaves     = \"server2\"
    config gitolite.mirror.redirectOK = \"true\"
    config gitolite.mirror.nightly    = \"server2\"
    config gitolite.mirror.all        = \"gitolite.mirror.nightly gitolite.mirror.all\"
";
    let pair = world.pair_with(conf);
    let work = world.alice().clone_of(&pair.two, "testing");
    work.commit("a", "one");
    work.push(&["HEAD:main"]).succeeds().says("server1 ==== (testing) ===> server2");
    assert_eq!(pair.one.refs("testing"), pair.two.refs("testing"));
    // Said on the slave, done by the master.
    world.alice().ssh(&pair.two, "request-push testing").succeeds().says("server1 ==== (testing) ===> server2");
    // With lists of one's own, which may name others.
    for list in ["nightly", "gitolite.mirror.nightly", "-fg gitolite.mirror.all", "-fg", "gitolite.mirror.slaves"] {
        let pushed = world.alice().ssh(&pair.one, &format!("request-push testing {list}")).succeeds();
        assert_eq!(pushed.stdout.matches("===> server2").count(), 1, "{list}: {pushed:#?}");
    }
    world.alice().ssh(&pair.one, "request-push testing weekly").refused_by("weekly is no replica of 'testing'");
}

#[test]
fn copies_that_are_kept_by_hand() {
    let world = World::new();
    let conf = "\
repo loud
    RW+ = @all
    option mirror.master = server1
    option mirror.copies.nosync-1 = server2
repo quiet
    RW+ = @all
    option mirror.master = server1
    option mirror.copies-1 = server2
    option mirror.copies.nosync-quiet = server2
";
    let pair = world.pair_with(conf);
    for (repo, told) in [("loud", true), ("quiet", false)] {
        let work = world.alice().clone_of(&pair.one, repo);
        work.commit("a", "one");
        let pushed = work.push(&["HEAD:main"]).succeeds().does_not_say("===>");
        assert_eq!(pushed.has("warning: manual mirror push pending for 'server2'"), told, "{pushed:#?}");
        assert!(pair.two.refs(repo).is_empty());
        eventually("the status to say so", || pair.one.gitmesh(&["mirror", "status", repo]).has("pending"));
        pair.one.gitmesh(&["mirror", "push", "server2", repo]).succeeds();
        assert_eq!(pair.one.refs(repo), pair.two.refs(repo));
    }
}

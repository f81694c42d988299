//! New replicas: nodes that know each other by one word, and each way in which the word can be wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use gitmesh::admin::Invitation;

use crate::world::{Node, World, eventually};

/// Rules under which the named nodes copy everything of server1's, the rules included.
fn conf(copies: &str) -> String {
    format!(
        "repo testing docs/handbook\n    RW+ = @all\nrepo @all\n    option mirror.master = server1\n    option mirror.copies = {copies}\n"
    )
}

/// Both directions between the first and each other node, by the nodes' own words.
#[track_caller]
fn both_ways(one: &Node, others: &[&Node]) {
    for other in others {
        let (a, b) = (one.name(), other.name());
        let there = format!("{a} -> {b}\tHello {a}, I am {b}");
        let back = format!("{b} -> {a}\tHello {b}, I am {a}");
        one.gitmesh(&["peer", "ping", b]).succeeds().says(&there).says(&back);
        other.gitmesh(&["peer", "ping"]).succeeds().says(&there).says(&back);
    }
}

#[test]
fn three_nodes_are_joined_by_words_alone() {
    let world = World::new();
    let one = world.node("server1");
    let work = world.alice().clone_of(&one, "testing");
    work.commit("a", "one");
    work.push(&["HEAD:main"]).succeeds();

    // A new node before the configuration names it …
    let (two, three) = (world.newcomer("server2"), world.newcomer("server3"));
    let token = one.token(&[]);
    let joined = two.init_with(&["--join", &token]).succeeds();
    assert!(joined.has("server2 -> server1\tHello server2, I am server1"), "{joined:#?}");
    assert!(joined.has("option mirror.master = server1\n        option mirror.copies = server2"), "{joined:#?}");
    two.start();
    both_ways(&one, &[&two]);
    world.alice().configure(&one, |c| c.conf(&conf("server2 server3"))).succeeds();
    let in_step = |node: &Node, repo: &str| {
        eventually(&format!("{repo} to be the same on {}", node.name()), || {
            let mut there = node.refs(repo);
            there.retain(|name, _| !name.starts_with("refs/gitmesh/"));
            !there.is_empty() && one.refs(repo) == there
        });
    };
    in_step(&two, "gitmesh-admin");
    in_step(&two, "testing");

    // … and one after, from standard input.
    let token = one.token(&["--expires", "2m"]);
    fs::write(world.dir().join("token"), &token).unwrap();
    let mut command = world.command(env!("CARGO_BIN_EXE_gitmesh"));
    let listen = format!("127.0.0.1:{}", three.port());
    let data = three.data().display().to_string();
    command.args(["init", "--name", "server3", "--listen", &listen, "--data", &data, "--join", "-"]);
    command.stdin(fs::File::open(world.dir().join("token")).unwrap());
    let joined = crate::world::Running::start(command).end().succeeds();
    assert!(joined.has("names server3 as a copy already"), "{joined:#?}");
    // Once more changes nothing, and tells ssh the key.
    three.init_with(&["--join", &token]).succeeds().says("nothing was changed");
    three.start();
    in_step(&three, "gitmesh-admin");
    in_step(&three, "testing");
    both_ways(&one, &[&two, &three]);

    // The configuration that came with the copies has alice's key, and says who the master is.
    eventually("alice to be known on server3", || world.alice().may_read(&three, "testing"));
    world.alice().ssh(&three, "info").succeeds().says("copy of server1");
    let list = one.gitmesh(&["peer", "list"]).succeeds().stdout;
    assert_eq!(list.lines().count(), 2, "{list}");
    world.alice().ssh(&one, "peer list").succeeds().says("server3");

    // What opens the door is on disk once, for its owner; and no log holds the secret.
    let invitations = one.data().join("invitations");
    assert_eq!(fs::metadata(&invitations).unwrap().permissions().mode() & 0o777, 0o700);
    for entry in fs::read_dir(&invitations).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    for node in [&one, &two, &three] {
        assert!(!node.log().contains(&token[20..]) && !node.log().contains(&token[60..100]));
    }

    two.gitmesh(&["peer", "remove", "server1"]).succeeds().says("server1 still knows this node");
    eventually("server2 to have no peer", || two.gitmesh(&["peer", "list"]).succeeds().has("knows no other node"));
    two.gitmesh(&["peer", "remove", "server1"]).refused_by("is not in");
}

#[test]
fn each_misuse_of_a_word_is_told_its_cure() {
    let world = World::new();
    let (one, two, three) = (world.node("server1"), world.node("server2"), world.node("server3"));
    let join = |node: &Node, token: &str| node.gitmesh(&["peer", "join", token]);
    let good = one.token(&[]);

    let damaged = format!("{}{}", &good[..30], &good[31..]);
    join(&two, &damaged).refused_by("E0601").says("copy the whole word again");
    join(&two, "server1").refused_by("E0601");
    join(&one, &good).refused_by("E0605").says("both called 'server1'");
    // The address of another node: its key is not the one in the word.
    let elsewhere = one.token(&["--address", &format!("git@127.0.0.1:{}", three.port())]);
    join(&two, &elsewhere).refused_by("E0607").says("somebody else answers there");
    let nowhere = one.token(&["--address", "git@127.0.0.1:1"]);
    join(&two, &nowhere).refused_by("cannot reach server1").says("peer token --address");
    one.gitmesh(&["peer", "token", "--expires", "40d"]).refused_by("30 days at most");
    one.gitmesh(&["peer", "token", "--expires", "soon"]).refused_by("no duration");

    let short = one.token(&["--expires", "1s"]);
    let (late, mut last) = (world.newcomer("late"), None);
    eventually("the word to expire", || {
        let answer = late.init_with(&["--join", &short]);
        let expired = answer.has("E0603");
        last = Some(answer);
        expired
    });
    last.unwrap().refused_by("ask for a new one");

    let unknown = one.token(&[]);
    for entry in fs::read_dir(one.data().join("invitations")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    join(&two, &unknown).refused_by("E0602");
    assert!(!two.data().join("peers/server1.pub").exists());

    let good = one.token(&[]);
    join(&two, &good).succeeds();
    join(&three, &good).refused_by("E0604").says("was used by 'server2'");
    join(&two, &good).succeeds().says("Hello server1, I am server2");
    // Another node that calls itself server2.
    let other = world.newcomer("other");
    let key = world.alice().public_key().display().to_string();
    let args = ["init", "--admin", "alice", "--admin-key", &key, "--name", "server2"];
    other.gitmesh(&args).succeeds();
    join(&other, &one.token(&[])).refused_by("E0605").says("another node called 'server2'").says("peer remove server2");

    // The word is a key, and the key is good for one thing.
    let token = one.token(&[]);
    let invitation: Invitation = token.parse().unwrap();
    let path = world.dir().join("invitation");
    fs::write(&path, invitation.key().to_openssh(Default::default()).unwrap().as_bytes()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let guest = world.holder_of("guest", &path);
    for words in ["info", "", "help", "peer list", "gitmesh-call-back version=1", "git-upload-pack 'testing'"] {
        guest.ssh(&one, words).refused_by("E0606");
    }
    guest.ssh(&one, "gitmesh-join version=9").refused_by("protocol version 1");
    assert!(!guest.may_read(&one, "testing"));
    for code in ["E0601", "E0602", "E0603", "E0604", "E0605", "E0606", "E0607"] {
        world.gitmesh(&["explain", code]).succeeds();
    }
}

#[test]
fn a_join_that_was_cut_off_is_finished_by_the_same_word() {
    let world = World::new();
    let (one, two) = (world.node("server1"), world.node("server2"));
    let token = one.token(&[]);
    // It reads its peers meanwhile, and complains.
    two.expect_errors();
    // The first half goes well: server1 knows server2, which then cannot write.
    let peers = two.data().join("peers");
    fs::remove_dir(&peers).unwrap();
    fs::write(&peers, "").unwrap();
    two.gitmesh(&["peer", "join", &token]).fails();
    one.gitmesh(&["peer", "show", "server2"]).succeeds();
    fs::remove_file(&peers).unwrap();
    two.gitmesh(&["peer", "join", &token]).succeeds().says("Hello server1, I am server2");
    both_ways(&one, &[&two]);
}

#[test]
fn one_way_is_better_than_none_and_says_so() {
    let world = World::new();
    let (one, two) = (world.node("server1"), world.node("server2"));
    let token = one.token(&[]);
    let half = two.gitmesh(&["peer", "join", &token, "--address", "git@127.0.0.1:1"]).succeeds();
    let half = half.says("Hello server2, I am server1").says("server1 -> server2\tFAILED: cannot reach server2");
    half.says("server2 can bring server1 up to date, server1 cannot bring server2");
    one.gitmesh(&["peer", "ping"]).refused_by("server1 -> server2\tFAILED");
    let address = format!("git@127.0.0.1:{}", two.port());
    two.gitmesh(&["peer", "join", &token, "--address", &address]).succeeds().says("Hello server1, I am server2");
    both_ways(&one, &[&two]);
}

#[test]
fn doctor_finds_the_broken_pair_and_says_the_cure() {
    let world = World::new();
    let (one, two, three) = (world.node("server1"), world.node("server2"), world.node("server3"));
    for (node, to) in [(&two, &one), (&three, &one), (&three, &two)] {
        node.gitmesh(&["peer", "join", &to.token(&[])]).succeeds();
    }
    let well = one.gitmesh(&["doctor"]).succeeds().says("3 nodes, asked by server1").says("no problems");
    well.does_not_say("FAILS");
    world.alice().ssh(&three, "doctor").succeeds().says("no problems");
    let bob = world.actor("bob");
    world.alice().configure(&one, |c| c.key(&bob)).succeeds();
    bob.ssh(&one, "doctor").refused_by("administrators only");

    // Whom it cannot reach itself it asks through another one, so no row is missing.
    one.add_peer(&three.public_key(), "git@127.0.0.1:1").succeeds();
    let mut told = None;
    eventually("the way from server1 to server3 to be broken", || {
        let answer = one.gitmesh(&["doctor"]);
        let found = answer.has("server1 -> server3: cannot reach server3");
        told = Some(answer);
        found
    });
    let told = told.unwrap().does_not_say("?");
    assert!(told.stdout.lines().any(|line| line.starts_with("  server3") && !line.contains("FAILS")), "{told:#?}");
    one.add_peer(&three.public_key(), &format!("git@127.0.0.1:{}", three.port())).succeeds();
    eventually("all ways to be well", || one.gitmesh(&["doctor"]).code == Some(0));

    // A way between two others, which the asked node never goes itself.
    three.gitmesh(&["peer", "remove", "server2"]).succeeds();
    let mut last = None;
    eventually("server1 to hear of it", || {
        let answer = one.gitmesh(&["doctor"]);
        // What each of them says of the other follows a moment later.
        let found = answer.has("server2 -> server3: ") && answer.has("and server3 does not know server2");
        last = Some(answer);
        found
    });
    let last = last.unwrap().says("FAILS").says("server2 knows server3, and server3 does not know server2");
    assert_eq!(last.says("gitmesh peer add").does_not_say("the names in peers/").code, Some(1));

    let identity = two.data().join("identity");
    fs::set_permissions(&identity, fs::Permissions::from_mode(0o644)).unwrap();
    one.gitmesh(&["doctor", "--json"]).fails().says("is open to other users").says("chmod go=");
    three.stop();
    one.gitmesh(&["doctor"]).refused_by("server1 -> server3: cannot reach server3").says("start gitmesh on server3");
}

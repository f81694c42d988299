//! Repositories that are deleted, brought back and renamed, on their master and on its copies.

use std::fs;
use std::time::Duration;

use crate::world::{Actor, Pair, World, eventually, within};

const CONF: &str = "\
repo pub/CREATOR/..*
    C   = @all
    RW+ = CREATOR
    R   = READERS
    option mirror.master = server1
    option mirror.copies = server2
    option mirror.redirectOK = all
";

/// A pair with CONF, on which bob and carol are users.
fn start(world: &World) -> (Pair, Actor, Actor) {
    let (pair, bob, carol) = (world.pair(), world.actor("bob"), world.actor("carol"));
    configure(world, &pair, CONF, &[&bob, &carol]);
    (pair, bob, carol)
}

fn configure(world: &World, pair: &Pair, conf: &str, users: &[&Actor]) {
    for node in [&pair.two, &pair.one] {
        let answer = world.alice().configure(node, |c| {
            c.conf(conf);
            users.iter().for_each(|user| c.key(user));
        });
        answer.succeeds();
    }
}

/// bob's repository with one commit, equal on both nodes.
fn filled(pair: &Pair, bob: &Actor, repo: &str) -> String {
    let work = bob.starts(&pair.one, repo);
    work.commit("a", "one");
    work.push(&["HEAD:main"]).succeeds();
    pair.in_step(repo);
    work.oid("HEAD")
}

/// What is in a node's trash, as `NAME/TIME`.
fn trash(node: &crate::world::Node) -> Vec<String> {
    node.gitmesh(&["D", "list-trash"]).succeeds().stdout.lines().map(str::to_owned).collect()
}

fn stones(node: &crate::world::Node) -> usize {
    fs::read_dir(node.data().join("orders/gone")).map_or(0, Iterator::count)
}

#[test]
fn an_owner_deletes_and_brings_back() {
    let world = World::new();
    let (pair, bob, carol) = start(&world);
    let oid = filled(&pair, &bob, "pub/bob/x");
    let as_bob = |line: &str| bob.ssh(&pair.one, line);
    carol.ssh(&pair.one, "D trash pub/bob/x").refused_by("'pub/bob/x' is not yours, or there is no such repository");
    as_bob("D rm pub/bob/x").refused_by("'pub/bob/x' is locked!").says("E0214");
    as_bob("D trash gitmesh-admin").refused_by("is not yours");
    world.alice().ssh(&pair.one, "D trash gitmesh-admin").refused_by("is named by the configuration");
    assert_eq!(as_bob("D trash pub/bob/x").succeeds().stdout, "'pub/bob/x' moved to trashcan\n");
    assert!(!pair.one.has_repo("pub/bob/x"));
    eventually("the copy to follow", || !pair.two.has_repo("pub/bob/x"));
    eventually("nothing to be left to tell", || stones(&pair.one) == 0);
    assert_eq!(trash(&pair.one), trash(&pair.two), "under the same time");
    let entry = trash(&pair.one).remove(0);
    assert_eq!(as_bob("D list-trash").succeeds().stdout, format!("{entry}\n"));
    as_bob("D list").succeeds().says("\tkept until 2");
    assert_eq!(carol.ssh(&pair.one, "D list-trash").succeeds().stdout, "");
    carol.ssh(&pair.one, &format!("D restore {entry}")).refused_by("or is not yours");
    as_bob("D restore pub/bob/x/2020-01-01_00:00:00").refused_by("or is not yours");

    // In its place there may be another one meanwhile.
    as_bob("create pub/bob/x").succeeds();
    as_bob(&format!("D restore {entry}")).refused_by("'pub/bob/x' already exists").says("E0215");
    eventually("the new one on the copy", || pair.two.has_repo("pub/bob/x"));
    assert_eq!(as_bob("D unlock pub/bob/x").succeeds().stdout, "'pub/bob/x' is now unlocked\n");
    assert_eq!(as_bob("D lock pub/bob/x").succeeds().stdout, "'pub/bob/x' is now locked\n");
    as_bob("D rm pub/bob/x").refused_by("is locked!");
    as_bob("D unlock pub/bob/x").succeeds();
    assert_eq!(as_bob("D rm pub/bob/x").succeeds().stdout, "'pub/bob/x' is now gone!\n");
    eventually("the copy to follow again", || !pair.two.has_repo("pub/bob/x"));
    assert_eq!((trash(&pair.one).len(), trash(&pair.two).len()), (1, 2), "a copy is never deleted for good");

    let back = as_bob(&format!("D restore {entry}")).succeeds().stdout;
    assert_eq!(back, format!("'{entry}' restored to 'pub/bob/x'\n"));
    pair.in_step("pub/bob/x");
    assert_eq!(pair.two.oid("pub/bob/x", "refs/heads/main"), Some(oid));
    assert_eq!(trash(&pair.two).len(), 1, "it came out of the copy's own trash");

    // Through the other node, as everything that changes a repository; it is known there when the answer comes.
    bob.ssh(&pair.two, "D trash pub/bob/x").succeeds().says("moved to trashcan").does_not_say("warning");
    assert!(!pair.one.has_repo("pub/bob/x") && !pair.two.has_repo("pub/bob/x"));
    let newest = bob.ssh(&pair.one, "D list-trash").succeeds().stdout;
    bob.ssh(&pair.two, &format!("D restore {}", newest.trim())).succeeds().says("restored to 'pub/bob/x'");
    pair.in_step("pub/bob/x");
    as_bob("help D").succeeds().says("D restore REPO/TIME");
    as_bob("D").refused_by("usage: D trash");
}

#[test]
fn a_replica_that_was_away_learns_it_at_its_return_also_after_a_crash() {
    let world = World::new();
    let (pair, bob, _) = start(&world);
    for repo in ["pub/bob/x", "pub/bob/y", "pub/bob/z"] {
        filled(&pair, &bob, repo);
    }
    pair.two.stop();
    bob.ssh(&pair.one, "D trash pub/bob/x").succeeds();
    bob.ssh(&pair.one, "D trash pub/bob/y").succeeds();
    bob.ssh(&pair.one, "D trash pub/bob/z").succeeds();
    let entry = bob.ssh(&pair.one, "D list-trash").succeeds().stdout.lines().nth(1).unwrap().to_owned();
    // Made anew, with another history: the copy's old one goes to the trash before the new one comes.
    let again = bob.starts(&pair.one, "pub/bob/z-work");
    again.commit("b", "another");
    let url = bob.url(&pair.one, "pub/bob/z");
    again.git(&["push", "-q", &url, "HEAD:main"]).succeeds();
    bob.ssh(&pair.one, &format!("D restore {entry}")).succeeds();
    pair.one.kill9();
    pair.two.start();
    pair.one.start();
    eventually("the copy to follow", || !pair.two.has_repo("pub/bob/x"));
    pair.in_step("pub/bob/y");
    pair.in_step("pub/bob/z");
    assert_eq!(pair.two.oid("pub/bob/z", "refs/heads/main"), Some(again.oid("HEAD")));
    let there = trash(&pair.two);
    assert_eq!(there.len(), 2, "{there:?}");
    eventually("nothing to be left to tell", || stones(&pair.one) == 0);
    let all_well = || world.alice().ssh(&pair.one, "mirror status").stdout;
    eventually("all to be in step", || !all_well().contains("pub/bob/x") && !all_well().contains("behind"));
    // What has gone on both sides is nothing to compare any more.
    eventually("a comparison that is equal", || pair.one.gitmesh(&["mirror", "verify"]).code == Some(0));
}

#[test]
fn an_order_that_never_happened_is_forgotten_and_one_that_did_is_not() {
    let world = World::new();
    let (pair, bob, _) = start(&world);
    for repo in ["pub/bob/x", "pub/bob/y"] {
        filled(&pair, &bob, repo);
    }
    pair.there.cut();
    bob.ssh(&pair.one, "D trash pub/bob/x").succeeds();
    let gone = pair.one.data().join("orders/gone");
    let file = fs::read_dir(&gone).unwrap().next().unwrap().unwrap().path();
    pair.one.kill9();
    // As a kill -9 leaves it between the order's file and the move, for one, and between the move and the file's
    // second writing, for the other.
    let before = fs::read_to_string(&file).unwrap().replace("\"done\": true", "\"done\": false");
    fs::write(gone.join("other.json"), before.replace("pub/bob/x", "pub/bob/y")).unwrap();
    fs::write(&file, before).unwrap();
    pair.one.start();
    pair.there.restore();
    eventually("the copy to follow", || !pair.two.has_repo("pub/bob/x"));
    eventually("nothing to be left to tell", || stones(&pair.one) == 0);
    assert!(pair.one.has_repo("pub/bob/y") && pair.two.has_repo("pub/bob/y"));
    pair.in_step("pub/bob/y");
}

#[test]
fn a_push_in_progress_ends_cleanly() {
    let world = World::new();
    let (pair, bob, _) = start(&world);
    filled(&pair, &bob, "pub/bob/x");
    let link = world.link_to(&pair.one);
    let work = bob.checkout("new-server1-pub-bob-x");
    work.commit_random("big", 3 << 20);
    link.delay(Duration::from_millis(5));
    let url = bob.url_by(&link, "pub/bob/x");
    let before = link.carried();
    let pushing = work.begin(&["push", "-q", &url, "HEAD:main"]);
    eventually("the pack to be on its way", || link.carried() > before + (64 << 10));
    bob.ssh(&pair.one, "D trash pub/bob/x").succeeds();
    link.delay(Duration::ZERO);
    pushing.end().fails();
    assert!(!pair.one.has_repo("pub/bob/x"));
    eventually("the copy to follow", || !pair.two.has_repo("pub/bob/x"));
}

#[test]
fn the_loss_of_many_repositories_waits_for_a_person() {
    let world = World::new();
    let (pair, bob, _) = start(&world);
    let repos: Vec<String> = (0..14).map(|n| format!("pub/bob/r{n:02}")).collect();
    for repo in &repos {
        bob.ssh(&pair.one, &format!("create {repo}")).succeeds();
    }
    let there = || repos.iter().filter(|repo| pair.two.has_repo(repo)).count();
    eventually("all copies", || there() == repos.len());
    pair.there.cut();
    for repo in &repos[..12] {
        bob.ssh(&pair.one, &format!("D trash {repo}")).succeeds();
    }
    pair.there.restore();
    let status = |repo: &str| pair.one.gitmesh(&["mirror", "status", repo]).stdout;
    eventually("the guard", || status("pub/bob/r00").contains("repositories were deleted here within an hour"));
    assert_eq!(there(), repos.len());
    pair.one.gitmesh(&["mirror", "push", "server2", "pub/bob/r00"]).refused_by("held back");
    pair.one.gitmesh(&["mirror", "repair", "server2", "pub/bob/r00"]).succeeds().says("in the trash there too");
    assert!(!pair.two.has_repo("pub/bob/r00"));
    pair.one.gitmesh(&["mirror", "push", "server2", "pub/bob/r01", "--force"]).succeeds();
    assert_eq!(there(), repos.len() - 2);
    // Other work goes on.
    filled(&pair, &bob, "pub/bob/r13");
    let told = || pair.one.log().lines().filter(|line| line.contains("\"event\":\"held\"")).count();
    eventually("an alarm", || told() > 0);
    assert_eq!(told(), 1);
}

#[test]
fn the_trash_empties_itself() {
    let world = World::new();
    let (pair, bob, _) = start(&world);
    filled(&pair, &bob, "pub/bob/x");
    bob.ssh(&pair.one, "D trash pub/bob/x").succeeds();
    assert!(!within(Duration::from_millis(1500), || trash(&pair.one).is_empty()), "30 days are not over");
    pair.one.set("trash_keep", "\"1s\"");
    eventually("it to be over", || trash(&pair.one).is_empty());
    eventually("the copy to follow", || !pair.two.has_repo("pub/bob/x"));
    assert_eq!(trash(&pair.two).len(), 1, "each node keeps its own");
    eventually("no empty folders to be left", || !pair.one.data().join("trash/pub").exists());
}

/// Repositories that the configuration names, mirrored from server1 to the copies.
fn named(repos: &[&str], copies: &str) -> String {
    let line = |repo: &&str| {
        format!(
            "repo {repo}\n    RW+ = @all\n    option mirror.master = server1\n    option mirror.copies = {copies}\n"
        )
    };
    repos.iter().map(line).collect()
}

#[test]
fn a_renamed_repository_is_not_sent_again() {
    let world = World::new();
    let (pair, bob, _) = start(&world);
    configure(&world, &pair, &named(&["old"], "server2"), &[&bob]);
    let work = bob.starts(&pair.one, "old");
    work.commit_random("big", 2 << 20);
    work.push(&["-q", "HEAD:main"]).succeeds();
    pair.in_step("old");
    let rename = |words: &str| world.alice().ssh(&pair.one, &format!("repo rename {words}"));
    configure(&world, &pair, &named(&["old", "new"], "server2"), &[&bob]);
    rename("old new").refused_by("'new' already exists");
    // The copy's node loses the old name first, and puts that one away.
    configure(&world, &pair, &named(&["new", "other"], "server2"), &[&bob]);
    assert!(!pair.two.has_repo("old") && pair.one.has_repo("old"), "a master keeps what it has");
    bob.ssh(&pair.one, "repo rename old new").refused_by("is not yours");
    let before = pair.there.carried() + pair.back.carried();
    assert_eq!(rename("old new").succeeds().stdout, "'old' is now 'new'\n");
    assert!(!pair.one.has_repo("old"));
    pair.in_step("new");
    eventually("nothing to be left to tell", || stones(&pair.one) == 0);
    assert!(!pair.two.has_repo("old") && trash(&pair.two).is_empty());
    let bytes = pair.there.carried() + pair.back.carried() - before;
    assert!(bytes < 256 << 10, "{bytes} bytes for a repository of 2 MiB");
    pair.two.is_sound("new");

    // Again, with the copy's node away and the master killed; the copy still has the old name when it returns.
    let oid = work.oid("HEAD");
    pair.two.stop();
    world.alice().configure(&pair.one, |c| c.conf(&named(&["newer", "other"], "server2"))).succeeds();
    rename("new newer").succeeds();
    pair.one.kill9();
    let before = pair.there.carried() + pair.back.carried();
    pair.two.start();
    pair.one.start();
    world.alice().configure(&pair.two, |c| c.conf(&named(&["newer", "other"], "server2"))).succeeds();
    pair.in_step("newer");
    assert_eq!(pair.two.oid("newer", "refs/heads/main"), Some(oid));
    let bytes = pair.there.carried() + pair.back.carried() - before;
    assert!(bytes < 512 << 10, "{bytes} bytes for a repository of 2 MiB");
    rename("newer other").refused_by("'other' already exists");
}

#[test]
fn a_copy_that_the_configuration_loses_goes_to_the_trash_and_comes_back() {
    let world = World::new();
    let (pair, bob, _) = start(&world);
    filled(&pair, &bob, "pub/bob/x");
    let both = |conf: &str| configure(&world, &pair, conf, &[&bob]);
    both(&(named(&["a", "b"], "server2") + CONF));
    for repo in ["a", "b"] {
        filled(&pair, &bob, repo);
    }
    // 'a' is not named any more, 'b' has its copy elsewhere, and bob's pattern is mirrored no more.
    let conf =
        CONF.replace("    option mirror.copies = server2\n", "").replace("    option mirror.master = server1\n", "");
    both(&(named(&["b"], "server3") + &conf));
    assert!(!pair.two.has_repo("a") && !pair.two.has_repo("b"), "put away");
    assert!(pair.one.has_repo("a") && pair.one.has_repo("b"), "a master keeps what it has");
    assert!(pair.two.has_repo("pub/bob/x"), "a user may make it still");
    assert_eq!(trash(&pair.two).len(), 2);
    both(&CONF.replace("pub/", "public/"));
    assert!(!pair.two.has_repo("pub/bob/x"), "nobody may make it any more");

    // Named again, it is there before its master has sent anything.
    pair.there.cut();
    both(&(named(&["a", "b"], "server2") + CONF));
    assert!(pair.two.has_repo("a") && pair.two.has_repo("b"));
    assert_eq!(pair.two.refs("a"), pair.one.refs("a"));
    pair.there.restore();
    for repo in ["a", "b", "pub/bob/x"] {
        pair.in_step(repo);
    }
    assert!(trash(&pair.two).is_empty());
}

#[test]
fn the_configurations_loss_of_many_copies_waits_for_a_person() {
    let world = World::new();
    let (pair, bob, _) = start(&world);
    let names: Vec<String> = (0..12).map(|n| format!("r{n:02}")).collect();
    let repos: Vec<&str> = names.iter().map(String::as_str).collect();
    let both = |conf: &str| configure(&world, &pair, conf, &[&bob]);
    both(&named(&repos, "server2"));
    for repo in &repos {
        let work = bob.starts(&pair.one, repo);
        work.commit("a", "one");
        work.push(&["-q", "HEAD:main"]).succeeds();
    }
    repos.iter().for_each(|repo| pair.in_step(repo));
    both(&named(&["other"], "server2"));
    assert!(repos.iter().all(|repo| pair.two.has_repo(repo)), "they wait");
    assert!(pair.two.log().contains("that a person is asked"));
    let status = pair.two.gitmesh(&["status"]).fails();
    status
        .says("needs attention: the configuration places 12 copies here no more")
        .says("r00, r01, r02, ...; 'D trash");
    let told = |event: &str| pair.two.log().contains(&format!("\"event\":\"{event}\""));
    eventually("it to be told", || told("left-over"));
    pair.two.gitmesh(&["D", "trash", "r00"]).succeeds();
    pair.two.gitmesh(&["D", "trash", "r01"]).succeeds();
    // What is left is no more than may go by itself, with the next configuration.
    both(&named(&["other", "another"], "server2"));
    assert!(repos.iter().all(|repo| !pair.two.has_repo(repo) && pair.one.has_repo(repo)));
    pair.two.gitmesh(&["status"]).does_not_say("places");
    eventually("its end to be told", || told("left-over-gone"));
}

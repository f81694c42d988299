//! Two nodes, a master and its replica, each of which fails in its turn.

use std::fs;
use std::path::Path;

use super::one::{MANY, of_many, pushes};
use super::{Acts, Case, Ends, Goes, Refused, act, play, trashed};
use crate::world::{Actor, Answer, Checkout, Pair, World, eventually};

/// Steps of the master.
pub(super) const MASTER: &[Case] = &[
    Case("file.sync orders/gone", "trash", Refused),
    Case("file.rename orders/gone", "trash", Refused),
    Case("repo.move.rename", "trash", Refused),
    Case("transfer.landed", "push", Ends),
    Case("mirror.journal.rename", "journal", Goes),
    Case("file.rename gitmesh-epoch", "move", Goes),
];

/// Steps of the replica; what is ordered at the master goes on there, unless it waits for the replica.
pub(super) const REPLICA: &[Case] = &[
    Case("repo.quarantine.rename", "push", Goes),
    Case("repo.quarantine.dir", "push", Goes),
    Case("transfer.refs", "push", Goes),
    Case("transfer.landed", "push", Ends),
    Case("git.loose.rename", "push on", Goes),
    Case("git.packed.rename", "push many", Goes),
    Case("repo.create.sync", "create", Goes),
    Case("repo.create.rename", "create", Goes),
    Case("file.sync gitmesh-copy-of", "create", Goes),
    Case("file.rename HEAD", "head", Goes),
    Case("repo.move.rename", "trash", Goes),
    Case("file.rename orders/masters", "move", Refused),
    Case("repo.fresh.file", "repair", Refused),
    Case("repo.fresh.dir", "repair", Refused),
    Case("repo.exchange", "repair", Refused),
    Case("repo.exchange + repo.exchange.back", "repair", Refused),
    Case("repo.exchange.dir", "repair", Refused),
    Case("repo.lost.refs", "keep", Refused),
    Case("repo.lost.sync", "keep", Refused),
];

const CONF: &str = "\
repo testing
    RW+ = @all
    option mirror.master = server1
    option mirror.copies = server2
repo wild/..*
    C   = @all
    RW+ = CREATOR
    R   = READERS
    option mirror.master = server1
    option mirror.copies = server2
";

fn acts<'a>(pair: &'a Pair, alice: &'a Actor, work: &'a Checkout) -> Acts<'a> {
    let mut acts = Acts::new();
    // Done is what the replica has.
    pushes(&pair.two, work, &mut acts);
    // Where our own transaction fails git's takes over, which creates one after the other: whoever looks may see a part.
    let part_way = acts.get_mut("push many").expect("it is one of the pushes");
    part_way.done = Box::new(move |n| of_many(&pair.two, n) == MANY);
    let ssh = move |line: String| alice.ssh(&pair.one, &line);
    let made = move |repo: &str| {
        ssh(format!("create {repo}")).succeeds();
        eventually("the copy", || pair.two.has_repo(repo));
    };
    let create =
        act(|_| {}, move |n| ssh(format!("create wild/c{n}")), move |n| pair.two.has_repo(&format!("wild/c{n}")));
    acts.insert("create", create);
    let head = act(
        move |n| {
            work.push(&[&format!("HEAD:refs/heads/h{n}")]).succeeds();
            pair.in_step("testing");
        },
        move |n| ssh(format!("symbolic-ref testing HEAD refs/heads/h{n}")),
        move |n| pair.two.head("testing") == format!("ref: refs/heads/h{n}"),
    );
    acts.insert("head", head);
    let trash = act(
        move |n| made(&format!("wild/t{n}")),
        move |n| ssh(format!("D trash wild/t{n}")),
        move |n| {
            let repo = format!("wild/t{n}");
            [&pair.one, &pair.two].iter().all(|node| !node.has_repo(&repo) && trashed(node, &repo).len() == 1)
        },
    );
    acts.insert("trash", trash);
    let moved = act(
        move |n| made(&format!("wild/m{n}")),
        move |n| ssh(format!("mirror move wild/m{n} --to server2")),
        move |n| {
            let knows = |node: &crate::world::Node| {
                let known = fs::read_to_string(node.data().join("orders/masters")).unwrap_or_default();
                known.lines().any(|line| line.starts_with(&format!("wild/m{n}\t")) && line.contains("server2"))
            };
            knows(&pair.one) && knows(&pair.two)
        },
    );
    acts.insert("move", moved);
    acts.insert("repair", repair(pair, work));
    acts.insert("keep", keep(pair, work));
    let journal = act(
        move |n| {
            work.commit("a", format!("{n}"));
            work.git(&["branch", &format!("b{n}")]).succeeds();
            fs::write(pair.one.data().join("state/mirror.log"), "\n".repeat(9 << 20)).unwrap();
        },
        move |n| work.push(&[&format!("b{n}")]),
        move |n| pair.two.oid("testing", &format!("refs/heads/b{n}")) == Some(work.oid(&format!("b{n}"))),
    );
    acts.insert("journal", journal);
    acts
}

/// A copy loses all that it has, and is made anew.
fn repair<'a>(pair: &'a Pair, work: &'a Checkout) -> super::Act<'a> {
    let dir = |n: usize| pair.two.repo_dir(&format!("wild/d{n}"));
    act(
        move |n| {
            let repo = format!("wild/d{n}");
            work.git(&["push", "-q", &format!("git@server1:{repo}"), "HEAD:refs/heads/main"]).succeeds();
            pair.in_step(&repo);
            lose_objects(&dir(n).join("objects"));
            pair.one.gitmesh(&["mirror", "verify", &repo, "--deep"]).fails();
        },
        move |n| pair.one.gitmesh(&["mirror", "repair", "server2", &format!("wild/d{n}")]),
        move |n| {
            pair.two.git(&format!("wild/d{n}"), &["fsck", "--full", "--strict"]).code == Some(0)
                && pair.two.refs(&format!("wild/d{n}")) == pair.one.refs(&format!("wild/d{n}"))
        },
    )
}

fn lose_objects(objects: &Path) {
    for entry in fs::read_dir(objects).unwrap().flatten() {
        for file in fs::read_dir(entry.path()).unwrap().flatten().filter(|file| file.path().is_file()) {
            fs::remove_file(file.path()).unwrap();
        }
    }
}

/// A copy has gone its own way, which is kept there when it is made equal.
fn keep<'a>(pair: &'a Pair, work: &'a Checkout) -> super::Act<'a> {
    act(
        move |n| {
            let branch = format!("refs/heads/k{n}");
            work.push(&[&format!("HEAD:{branch}")]).succeeds();
            pair.in_step("testing");
            let own = pair.two.git(
                "testing",
                &[
                    "-c",
                    "user.name=a",
                    "-c",
                    "user.email=a@b",
                    "commit-tree",
                    "-m",
                    &branch,
                    &format!("{branch}^{{tree}}"),
                ],
            );
            pair.two.git("testing", &["update-ref", &branch, own.succeeds().stdout.trim()]).succeeds();
        },
        move |_| pair.one.gitmesh(&["mirror", "repair", "server2", "testing"]),
        move |n| {
            let kept = pair
                .two
                .refs("testing")
                .into_keys()
                .any(|name| name.starts_with("refs/gitmesh/lost/") && name.ends_with(&format!("/heads/k{n}")));
            let branch = format!("refs/heads/k{n}");
            let equal = pair.two.oid("testing", &branch) == pair.one.oid("testing", &branch);
            assert!(kept || !equal, "the replica's own commit is lost");
            equal
        },
    )
}

fn start(world: &World) -> (Pair, Checkout) {
    let pair = world.pair_with(CONF);
    for node in [&pair.one, &pair.two] {
        node.stop();
        node.set("retry_first", "\"200ms\"");
        node.set("retry_max", "\"400ms\"");
        node.expect_errors();
        node.start();
    }
    let work = world.alice().clone_of(&pair.one, "testing");
    work.commit("a", "begin");
    work.push(&["HEAD:main"]).succeeds();
    pair.in_step("testing");
    (pair, work)
}

fn equal(pair: &Pair, at: &str) {
    let answer = || -> Answer { pair.one.gitmesh(&["mirror", "verify"]) };
    eventually(&format!("all copies to be equal, {at}"), || answer().code == Some(0));
    pair.in_step("testing");
    pair.one.is_sound("testing");
    pair.two.is_sound("testing");
}

#[test]
fn a_master_that_fails_at_a_step_tells_its_replica_all_the_same() {
    let world = World::new();
    let (pair, work) = start(&world);
    play(&pair.one, &acts(&pair, world.alice(), &work), MASTER, |at| equal(&pair, at));
}

#[test]
fn a_replica_that_fails_at_a_step_becomes_equal() {
    let world = World::new();
    let (pair, work) = start(&world);
    play(&pair.two, &acts(&pair, world.alice(), &work), REPLICA, |at| equal(&pair, at));
}

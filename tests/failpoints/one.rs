//! One node, through its doors.

use std::fs;

use super::{Acts, Case, Ends, Goes, Refused, act, play, trashed};
use crate::world::{Actor, Checkout, Node, World, eventually};

pub(super) const CASES: &[Case] = &[
    Case("repo.quarantine.rename", "push", Refused),
    Case("repo.quarantine.dir", "push", Refused),
    Case("transfer.refs", "push", Refused),
    Case("transfer.landed", "push", Ends),
    Case("transfer.refs", "delete", Refused),
    Case("git.loose.sync", "push on", Goes),
    Case("git.loose.rename", "push on", Goes),
    Case("git.loose.dir", "push on", Goes),
    Case("git.loose.dir", "delete", Goes),
    Case("git.packed.sync", "push many", Goes),
    Case("git.packed.rename", "push many", Goes),
    Case("git.packed.dir", "push many", Goes),
    Case("repo.create.sync", "create", Refused),
    Case("repo.create.rename", "create", Refused),
    Case("repo.create.settle", "configure", Goes),
    Case("transfer.refs", "configure", Refused),
    Case("transfer.landed", "configure", Ends),
    Case("admin.file.sync last-good", "configure", Goes),
    Case("admin.file.rename last-good", "configure", Goes),
    Case("admin.file.dir state", "configure", Goes),
    Case("file.sync gl-perms", "role", Refused),
    Case("file.rename gl-perms", "role", Refused),
    Case("file.dir wild/base", "role", Refused),
    Case("file.rename gl-creator", "create", Refused),
    Case("file.sync HEAD", "head", Refused),
    Case("file.rename HEAD", "head", Refused),
    Case("file.sync gitmesh-trashed", "trash", Refused),
    Case("repo.move.rename", "trash", Refused),
    Case("repo.move.dir", "trash", Refused),
    Case("repo.move.dir + repo.move.back", "trash", Refused),
    Case("repo.move.rename", "restore", Refused),
    Case("repo.move.dir", "restore", Refused),
    Case("admin.text.removed", "remove a text", Refused),
    Case("git.fork.file", "fork", Refused),
    Case("git.fork.dir", "fork", Refused),
    Case("git.fork.root", "fork", Refused),
    Case("git.commit.sync", "name", Refused),
    Case("git.commit.branch", "name", Refused),
    Case("audit.write", "push", Goes),
    Case("audit.sync", "push", Goes),
    Case("audit.dir", "push", Goes),
];

const CONF: &str = "\
repo testing
    RW+ = @all
repo wild/..*
    C   = @all
    RW+ = CREATOR
    R   = READERS
    option writer-is-owner = 1
";

/// References of a push of many.
pub(super) const MANY: usize = 120;

/// How many of the n-th push of many are there.
pub(super) fn of_many(node: &Node, n: usize) -> usize {
    node.refs("testing").keys().filter(|name| name.starts_with(&format!("refs/tags/m{n}/"))).count()
}

/// Pushes of `testing` from a checkout.
pub(super) fn pushes<'a>(node: &'a Node, work: &'a Checkout, acts: &mut Acts<'a>) {
    let branch = move |n: usize| {
        work.commit("a", format!("{n}"));
        work.git(&["branch", &format!("b{n}")]).succeeds();
    };
    let push = act(
        branch,
        move |n| work.push(&[&format!("b{n}")]),
        move |n| node.oid("testing", &format!("refs/heads/b{n}")) == Some(work.oid(&format!("b{n}"))),
    );
    acts.insert("push", push);
    let on = move |n: usize| node.oid("testing", &format!("refs/heads/on{n}")) == Some(work.oid("HEAD"));
    let push_on = act(
        move |n| {
            work.commit("a", format!("{n}"));
            work.push(&[&format!("HEAD:refs/heads/on{n}")]).succeeds();
            eventually("what is pushed on from", || on(n));
            work.commit("a", format!("{n} and on"));
        },
        move |n| work.push(&[&format!("HEAD:refs/heads/on{n}")]),
        on,
    );
    acts.insert("push on", push_on);
    let delete = act(
        move |n| {
            branch(n);
            work.push(&[&format!("b{n}")]).succeeds();
        },
        move |n| work.push(&["--delete", &format!("b{n}")]),
        move |n| node.oid("testing", &format!("refs/heads/b{n}")).is_none(),
    );
    acts.insert("delete", delete);
    let many = act(
        move |n| {
            work.commit("a", format!("{n}"));
            work.many_refs(&format!("refs/tags/m{n}"), MANY);
        },
        move |n| work.push(&[&format!("refs/tags/m{n}/*:refs/tags/m{n}/*")]),
        move |n| {
            let there = of_many(node, n);
            assert!(there == 0 || there == MANY, "half of a push: {there}");
            there == MANY
        },
    );
    acts.insert("push many", many);
}

fn commands<'a>(node: &'a Node, alice: &'a Actor, work: &'a Checkout, acts: &mut Acts<'a>) {
    let ssh = move |line: String| alice.ssh(node, &line);
    let file = move |repo: &str, file: &str| fs::read_to_string(node.repo_dir(repo).join(file)).unwrap_or_default();
    let none = |_| {};
    let create = act(
        none,
        move |n| ssh(format!("create wild/c{n}")),
        move |n| {
            let there = node.has_repo(&format!("wild/c{n}"));
            assert!(!there || file(&format!("wild/c{n}"), "gl-creator") == "alice", "it is somebody's");
            there
        },
    );
    acts.insert("create", create);
    let role = act(
        none,
        move |n| ssh(format!("perms wild/base + READERS u{n}")),
        move |n| file("wild/base", "gl-perms").split_whitespace().any(|word| word == format!("u{n}")),
    );
    acts.insert("role", role);
    let head = act(
        move |n| drop(work.push(&[&format!("HEAD:refs/heads/h{n}")]).succeeds()),
        move |n| ssh(format!("symbolic-ref testing HEAD refs/heads/h{n}")),
        move |n| node.head("testing") == format!("ref: refs/heads/h{n}"),
    );
    acts.insert("head", head);
    let in_trash = move |repo: &str| {
        let (there, away) = (node.has_repo(repo), !trashed(node, repo).is_empty());
        assert!(there != away, "{repo} is in one place");
        away
    };
    let trash = act(
        move |n| drop(ssh(format!("create wild/t{n}")).succeeds()),
        move |n| ssh(format!("D trash wild/t{n}")),
        move |n| in_trash(&format!("wild/t{n}")),
    );
    acts.insert("trash", trash);
    let restore = act(
        move |n| {
            ssh(format!("create wild/r{n}")).succeeds();
            ssh(format!("D trash wild/r{n}")).succeeds();
        },
        move |n| ssh(format!("D restore wild/r{n}/{}", trashed(node, &format!("wild/r{n}"))[0])),
        move |n| !in_trash(&format!("wild/r{n}")),
    );
    acts.insert("restore", restore);
    let text = act(
        move |n| fs::write(node.repo_dir("wild/base").join("gl-motd"), format!("{n}\n")).unwrap(),
        move |_| ssh("motd wild/base rm".to_owned()),
        move |_| file("wild/base", "gl-motd").is_empty(),
    );
    acts.insert("remove a text", text);
    let fork = act(
        none,
        move |n| ssh(format!("fork testing wild/f{n}")),
        move |n| {
            let there = node.has_repo(&format!("wild/f{n}"));
            assert!(!there || node.refs(&format!("wild/f{n}")) == node.refs("testing"), "half of a fork");
            there
        },
    );
    acts.insert("fork", fork);
    let name = act(none, move |n| ssh(format!("repo create named{n}")), move |n| node.has_repo(&format!("named{n}")));
    acts.insert("name", name);
}

/// A configuration with ten more repositories.
fn configure<'a>(node: &'a Node, admin: &'a Checkout, acts: &mut Acts<'a>) {
    let names = |n: usize| (0..10).map(move |i| format!("made{n}/r{i}")).collect::<Vec<_>>();
    let configure = act(
        move |n| {
            let text =
                format!("repo gitmesh-admin\n    RW+ = alice\n{CONF}repo {}\n    RW+ = @all\n", names(n).join(" "));
            admin.git(&["pull", "-q", "--rebase", "origin", "main"]).succeeds();
            admin.commit("conf/gitmesh.conf", text);
        },
        move |_| admin.push(&["HEAD:main"]),
        move |n| {
            node.oid("gitmesh-admin", "refs/heads/main") == Some(admin.oid("HEAD"))
                && names(n).iter().all(|repo| node.has_repo(repo))
        },
    );
    acts.insert("configure", configure);
}

#[test]
fn a_node_that_fails_at_a_step_has_nothing_half_done() {
    let world = World::new();
    let node = world.prepare("server1");
    node.set("rotate_size", "\"0\"");
    node.start();
    let alice = world.alice();
    alice.configure(&node, |c| c.conf(CONF)).succeeds();
    let (work, admin) = (alice.clone_of(&node, "testing"), alice.clone_of(&node, "gitmesh-admin"));
    work.commit("a", "begin");
    work.push(&["HEAD:main"]).succeeds();
    alice.ssh(&node, "create wild/base").succeeds();
    let mut acts = Acts::new();
    pushes(&node, &work, &mut acts);
    commands(&node, alice, &work, &mut acts);
    configure(&node, &admin, &mut acts);
    play(&node, &acts, CASES, |_| {
        node.is_sound("testing");
        node.is_sound("gitmesh-admin");
    });
}

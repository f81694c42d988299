//! Every fsync, rename and update of references fails once by an error or a full disk, and once by the daemon's sudden
//! end (`src/durable.rs`): what was acknowledged is there, what was not is wholly there or not at all and can be done
//! again, nothing stays locked or half written, git finds everything sound, and copies become equal.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::world::{Actor, Answer, Checkout, Node, World, eventually, within};

/// A step, with a part of its path where several files are written so; what is done that passes it; and whether that
/// still succeeds when the step fails.
struct Case(&'static str, &'static str, Told);

#[derive(Clone, Copy, PartialEq)]
enum Told {
    Refused,
    Goes,
    /// Nothing can fail there, but the daemon can end.
    Ends,
}

use Told::{Ends, Goes, Refused};

/// On one node, through its doors.
const ONE: &[Case] = &[
    Case("repo.quarantine.rename", "push", Refused),
    Case("repo.quarantine.dir", "push", Refused),
    Case("transfer.refs", "push", Refused),
    Case("transfer.landed", "push", Ends),
    Case("transfer.refs", "delete", Refused),
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
    Case("audit.write", "push", Goes),
    Case("audit.sync", "push", Goes),
    Case("audit.dir", "push", Goes),
];

/// What is done, again and again, each time with another number.
struct Act<'a> {
    before: Box<dyn Fn(usize) + 'a>,
    run: Box<dyn Fn(usize) -> Answer + 'a>,
    /// Whether it has been done; panics if by half.
    done: Box<dyn Fn(usize) -> bool + 'a>,
}

type Acts<'a> = BTreeMap<&'static str, Act<'a>>;

fn act<'a>(
    before: impl Fn(usize) + 'a,
    run: impl Fn(usize) -> Answer + 'a,
    done: impl Fn(usize) -> bool + 'a,
) -> Act<'a> {
    Act { before: Box::new(before), run: Box::new(run), done: Box::new(done) }
}

/// Plays all cases: a step of `node` fails, and once more the node ends there. `after` looks at everything else.
fn play(node: &Node, acts: &Acts, cases: &[Case], after: impl Fn(&str)) {
    node.expect_errors();
    let errors = ["error", "full"];
    let all = cases.iter().enumerate().flat_map(|(n, case)| [(case, errors[n % 2]), (case, "kill")]);
    let all = all.filter(|(Case(.., told), how)| *told != Ends || *how == "kill");
    for (n, (Case(step, name, told), how)) in all.enumerate() {
        let at = format!("{step}: {name} ({how})");
        let begun = std::time::Instant::now();
        let act = &acts[name];
        (act.before)(n);
        node.fails_at(&orders(step, how));
        let answer = (act.run)(n);
        eventually(&format!("the step to be met, {at}: {answer:#?}"), || was_met(node, step));
        if how == "kill" {
            eventually("the daemon to end", || !node.is_running());
            node.kill9();
            node.fails_nowhere();
            node.start();
        } else {
            assert_eq!(answer.code == Some(0), *told == Goes, "{at}: {answer:#?}");
            if *told == Refused {
                says_why(&at, &answer, how);
            }
            node.fails_nowhere();
        }
        if answer.code == Some(0) {
            eventually(&format!("what was acknowledged, {at}"), || (act.done)(n));
        } else if !(act.done)(n) {
            let again = (act.run)(n);
            assert!(again.code == Some(0), "once more, {at}: {again:#?}");
            eventually(&format!("what was done again, {at}"), || (act.done)(n));
        }
        after(&at);
        let left = || left_over(&node.data());
        assert!(within(Duration::from_secs(5), || left().is_empty()), "{at}: left over: {:?}", left());
        eprintln!("{at}: {:.1} s", begun.elapsed().as_secs_f64());
    }
}

/// What the daemon is told: of steps with a `+` between them the last one fails so, and those before it by an error.
fn orders(steps: &str, how: &str) -> Vec<String> {
    let steps: Vec<&str> = steps.split(" + ").collect();
    let order = |(n, step): (usize, &&str)| {
        let (name, part) = step.split_once(' ').unwrap_or((step, ""));
        let how = if n + 1 == steps.len() { how } else { "error" };
        format!("{name} {how} {part}").trim_end().to_owned()
    };
    steps.iter().enumerate().map(order).collect()
}

fn was_met(node: &Node, steps: &str) -> bool {
    let last = name_of(steps.rsplit(" + ").next().unwrap_or(steps));
    node.failed_at().iter().any(|met| name_of(met) == last)
}

/// Without the part of a path behind it.
fn name_of(step: &str) -> &str {
    step.split(' ').next().unwrap_or(step)
}

/// A refusal is told in words that help.
fn says_why(at: &str, answer: &Answer, how: &str) {
    let told = match how {
        "full" => answer.has("the server's disk is full (E0226); tell an administrator to free space on it"),
        _ => answer.has("tell an administrator"),
    };
    assert!(told, "{at}: {answer:#?}");
}

/// Locks, half of a repository, objects that were being received, files that were being written.
fn left_over(data: &Path) -> BTreeSet<String> {
    let (mut found, mut todo) = (BTreeSet::new(), vec![data.to_owned()]);
    while let Some(at) = todo.pop() {
        // What goes while we look is no rest.
        for entry in fs::read_dir(&at).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let begins = ["tmp_", ".making-", ".deleting-"].iter().any(|begin| name.starts_with(begin));
            if begins || name.ends_with(".lock") || name.ends_with(".new") {
                found.insert(path.display().to_string());
            } else if path.is_dir() {
                todo.push(path);
            }
        }
    }
    found
}

const CONF: &str = "\
repo testing
    RW+ = @all
repo wild/..*
    C   = @all
    RW+ = CREATOR
    R   = READERS
    option writer-is-owner = 1
";

/// The entries of a repository in the trash.
fn trashed(node: &Node, repo: &str) -> Vec<String> {
    let entries = fs::read_dir(node.data().join("trash").join(repo)).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Pushes of `testing` from a checkout.
fn pushes<'a>(node: &'a Node, work: &'a Checkout, acts: &mut Acts<'a>) {
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
    let delete = act(
        move |n| {
            branch(n);
            work.push(&[&format!("b{n}")]).succeeds();
        },
        move |n| work.push(&["--delete", &format!("b{n}")]),
        move |n| node.oid("testing", &format!("refs/heads/b{n}")).is_none(),
    );
    acts.insert("delete", delete);
    const MANY: usize = 120;
    let many = act(
        move |n| {
            work.commit("a", format!("{n}"));
            work.many_refs(&format!("refs/tags/m{n}"), MANY);
        },
        move |n| work.push(&[&format!("refs/tags/m{n}/*:refs/tags/m{n}/*")]),
        move |n| {
            let there =
                node.refs("testing").keys().filter(|name| name.starts_with(&format!("refs/tags/m{n}/"))).count();
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
}

/// A configuration with ten more repositories.
fn configure<'a>(node: &'a Node, admin: &'a Checkout, acts: &mut Acts<'a>) {
    let names = |n: usize| (0..10).map(move |i| format!("made{n}/r{i}")).collect::<Vec<_>>();
    let configure = act(
        move |n| {
            let text =
                format!("repo gitmesh-admin\n    RW+ = alice\n{CONF}repo {}\n    RW+ = @all\n", names(n).join(" "));
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
    play(&node, &acts, ONE, |_| {
        node.is_sound("testing");
        node.is_sound("gitmesh-admin");
    });
}

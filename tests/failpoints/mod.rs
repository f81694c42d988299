//! Every fsync, rename and update of references fails once by an error or a full disk, and once by the daemon's sudden
//! end (`src/durable.rs`): what was acknowledged is there, what was not is wholly there or not at all and can be done
//! again, nothing stays locked or half written, git finds everything sound, and copies become equal.

mod machine;
mod one;
mod pair;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::world::{Answer, Node, eventually, within};

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
        let act = &acts[name];
        (act.before)(n);
        node.fails_at(&orders(step, how));
        let answer = (act.run)(n);
        eventually(&format!("the step to be met, {at}: {answer:#?}"), || was_met(node, step));
        if how == "kill" {
            // Or the program on the command line.
            eventually("the end", || !node.is_running() || answer.code.is_none());
            node.fails_nowhere();
            if !node.is_running() {
                node.kill9();
                node.start();
            }
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

/// A refusal is told in words that help: to users without the server's inside, to whoever sits at the machine with it.
fn says_why(at: &str, answer: &Answer, how: &str) {
    let told = match how {
        _ if answer.has("(os error ") => true,
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
            // What goes to the trash in the first moments of a start goes as it is.
            let in_trash = path.starts_with(data.join("trash"));
            let begins = ["tmp_", ".making-", ".deleting-"].iter().any(|begin| name.starts_with(begin));
            if begins || name.ends_with(".lock") || (name.ends_with(".new") && !in_trash) {
                found.insert(path.display().to_string());
            } else if path.is_dir() {
                todo.push(path);
            }
        }
    }
    found
}

/// The entries of a repository in the trash.
fn trashed(node: &Node, repo: &str) -> Vec<String> {
    let entries = fs::read_dir(node.data().join("trash").join(repo)).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn every_step_has_its_turn() {
    let mut todo = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut steps = BTreeSet::new();
    while let Some(at) = todo.pop() {
        if at.is_dir() {
            todo.extend(fs::read_dir(at).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = fs::read_to_string(&at).unwrap();
        for call in ["at(", "done(", "sync(", "sync_open(", "sync_data(", "sync_disk(", "rename(", "exchange("] {
            for (begin, _) in text.match_indices(call) {
                let name =
                    text[begin + call.len()..].trim_start().strip_prefix('"').and_then(|rest| rest.split_once('"'));
                let dotted = |name: &&str| {
                    name.split('.').count() > 1 && name.bytes().all(|b| b"abcdefghijklmnopqrstuvwxyz-.".contains(&b))
                };
                steps.extend(name.map(|(name, _)| name).filter(dotted).map(str::to_owned));
            }
        }
    }
    let played: BTreeSet<String> = [one::CASES, pair::MASTER, pair::REPLICA, machine::CASES]
        .into_iter()
        .flatten()
        .flat_map(|Case(steps, ..)| steps.split(" + ").map(name_of))
        .map(str::to_owned)
        .collect();
    assert_eq!(steps, played, "steps in src/ on the left, those of the tables here on the right");
}

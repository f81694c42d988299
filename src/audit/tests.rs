//! The audit on a disk that does what it should, and on one that does not.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use super::*;
use crate::model::{Actor, RepoName};

const PATIENCE: Duration = Duration::from_secs(30);

fn config() -> Config {
    Config { rotate_size: 1000, ..Config::default() }
}

/// An audit whose writer runs, until it is closed.
fn running(dir: &Path, config: &Config) -> (Audit, std::thread::JoinHandle<()>) {
    let (audit, writer) = Audit::open(config, dir).unwrap();
    (audit, std::thread::spawn(move || writer.run()))
}

fn record(repo: &str) -> Record {
    Record::of(Kind::Access, &Actor::Local, "local").about(&RepoName::new(repo).unwrap(), "git-upload-pack")
}

fn lines(audit: &Audit) -> Vec<Record> {
    let mut found = Vec::new();
    let read = audit.files().unwrap().each(0, |line| {
        found.push(serde_json::from_str(line).unwrap());
        ControlFlow::Continue(())
    });
    read.unwrap();
    found
}

fn paths(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir.join("audit")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn records_are_chained_over_files_and_runs() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let (audit, thread) = running(dir.path(), &config());
        for _ in 0..10 {
            audit.note(record("docs"));
            assert!(audit.settle(PATIENCE));
        }
        audit.close();
        thread.join().unwrap();
    }
    let (audit, thread) = running(dir.path(), &config());
    audit.note(record("last"));
    assert!(audit.settle(PATIENCE));
    let all = lines(&audit);
    assert_eq!(all.iter().map(|r| r.seq).collect::<Vec<_>>(), (1..=21).collect::<Vec<_>>());
    assert!(paths(dir.path()).len() > 2, "they were rotated");
    let verified = audit.files().unwrap().verify(Some(&all[7].prev)).unwrap();
    assert_eq!((verified.records, verified.first, verified.last, verified.holds), (21, 1, 21, true));
    assert!(!audit.files().unwrap().verify(Some("00")).unwrap().holds);

    let mut back = Vec::new();
    let files = audit.files().unwrap();
    files
        .each_back("\"repo\":\"last\"", |line| {
            back.push(line.to_owned());
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(back.len(), 1);
    // Out of time: the newest file is looked at, and it is said how far that goes.
    let mut looked = 0;
    let reached = files.each_back_until("\"repo\":\"nobody's\"", Instant::now(), |_| {
        looked += 1;
        ControlFlow::Continue(())
    });
    let (reached, first) = (reached.unwrap().unwrap(), all[0].time.as_str());
    assert!(looked == 0 && reached.as_str() >= first && all.iter().any(|record| record.time == reached), "{reached}");
    let reached = files.each_back_until("\"seq\":", Instant::now(), |_| {
        looked += 1;
        ControlFlow::Continue(())
    });
    assert_eq!((looked, reached.unwrap()), (1, Some(all[20].time.clone())));
    let enough = files.each_back_until("\"repo\":\"last\"", Instant::now(), |_| ControlFlow::Break(()));
    assert_eq!(enough.unwrap(), None, "what was asked for was found");
    let patient = Instant::now() + PATIENCE;
    assert_eq!(files.each_back_until("nobody's", patient, |_| ControlFlow::Continue(())).unwrap(), None);
    let mut since = Vec::new();
    files
        .each(20, |line| {
            since.push(line.to_owned());
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(since.len() < 21 && since.last().unwrap().contains("\"seq\":21,"), "older files are not read");
    audit.close();
    thread.join().unwrap();
}

#[test]
fn whoever_changes_a_line_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let (audit, thread) = running(dir.path(), &config());
    for _ in 0..20 {
        audit.note(record("docs"));
        assert!(audit.settle(PATIENCE));
    }
    audit.close();
    thread.join().unwrap();
    let files = audit.files().unwrap();
    files.verify(None).unwrap();
    let first = paths(dir.path()).remove(0);
    let text = fs::read_to_string(&first).unwrap();
    let wrong = |changed: String| {
        fs::write(&first, changed).unwrap();
        files.verify(None).unwrap_err().to_string()
    };
    assert!(wrong(text.replacen("docs", "dogs", 1)).contains("the chain is broken"));
    let without: Vec<&str> = text.lines().enumerate().filter(|(n, _)| *n != 1).map(|(_, line)| line).collect();
    assert!(wrong(without.join("\n") + "\n").contains("the chain is broken"));
    assert!(wrong(text.replacen('{', "[", 1)).contains("no record"));
    assert!(wrong(format!("{text}half a line")).contains("no record"), "in the middle of all nothing is unfinished");
    fs::write(&first, &text).unwrap();
    files.verify(None).unwrap();
    // The newest may end in half a line, which is being written, and in no whole one that is rubbish.
    let last = paths(dir.path()).pop().unwrap();
    let newest = fs::read_to_string(&last).unwrap();
    fs::write(&last, format!("{newest}{{\"seq\":")).unwrap();
    files.verify(None).unwrap();
    for rubbish in ["rubbish\n".to_owned(), "x".repeat(17 << 20) + "\n", "x".repeat(17 << 20)] {
        fs::write(&last, format!("{newest}{rubbish}")).unwrap();
        let told = files.verify(None).unwrap_err().to_string();
        let line = newest.lines().count() + 1;
        assert!(told.contains(&format!(":{line}: this ")), "{told}");
    }
    fs::write(&last, &newest).unwrap();
    // Of several files, one in the middle is missed too.
    assert!(paths(dir.path()).len() > 2, "they were rotated");
    fs::remove_file(&paths(dir.path())[1]).unwrap();
    assert!(files.verify(None).is_err());
}

#[test]
fn what_a_crash_has_cut_off_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (audit, thread) = running(dir.path(), &Config::default());
    audit.note(record("docs"));
    audit.close();
    thread.join().unwrap();
    let file = paths(dir.path()).remove(0);
    let whole = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{whole}{}", &whole[..40])).unwrap();
    let (audit, thread) = running(dir.path(), &Config::default());
    audit.note(record("docs"));
    audit.close();
    thread.join().unwrap();
    let verified = audit.files().unwrap().verify(None).unwrap();
    assert_eq!(verified.records, 3);
    assert!(fs::read_to_string(&file).unwrap().contains("a crash has left 40 bytes of an unfinished record"));
}

#[test]
fn a_full_disk_stops_nobody_and_is_told() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("audit")).unwrap();
    let file = dir.path().join("audit").join(super::files::file_name(1));
    std::os::unix::fs::symlink("/dev/full", &file).unwrap();
    let (audit, thread) = running(dir.path(), &Config::default());
    audit.note(record("docs"));
    let end = Instant::now() + PATIENCE;
    while audit.trouble().is_none() {
        assert!(Instant::now() < end, "no trouble");
        std::thread::yield_now();
    }
    assert!(audit.trouble().unwrap().contains("No space left"), "{:?}", audit.trouble());
    (0..100_000).for_each(|_| audit.note(record("docs")));
    // Somebody makes room.
    fs::remove_file(&file).unwrap();
    assert!(audit.settle(PATIENCE));
    audit.note(record("last"));
    assert!(audit.settle(PATIENCE));
    assert_eq!(audit.trouble(), None);
    audit.close();
    thread.join().unwrap();
    let all = lines(&audit);
    let lost = all.iter().find(|record| record.kind == Kind::Audit).unwrap();
    let number: usize = lost.reason.split(' ').next().unwrap().parse().unwrap();
    let told = all.iter().filter(|record| record.kind == Kind::Access).count();
    assert_eq!(told + number, 100_002, "what is not there is counted");
    audit.files().unwrap().verify(None).unwrap();
}

#[test]
fn old_files_go_and_that_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let small = Config { rotate_size: 500, keep_size: 1500, ..Config::default() };
    let (audit, thread) = running(dir.path(), &small);
    for _ in 0..30 {
        audit.note(record("docs"));
        assert!(audit.settle(PATIENCE));
    }
    audit.close();
    thread.join().unwrap();
    let total: u64 = paths(dir.path()).iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(total < 3000, "{total}");
    let verified = audit.files().unwrap().verify(None).unwrap();
    assert!(verified.first > 10);
    assert!(lines(&audit).iter().any(|record| record.reason.contains("is kept no longer")));
}

#[test]
fn none_is_kept_where_none_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let off = Config { path: std::path::PathBuf::new(), ..Config::default() };
    let (audit, thread) = running(dir.path(), &off);
    audit.note(record("docs"));
    assert!(audit.settle(PATIENCE) && audit.files().is_none());
    audit.close();
    thread.join().unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn gitolites_log_and_a_line_for_people() {
    let change = |result, reason: &str| RefChange {
        name: "refs/heads/main".to_owned(),
        old: "0".repeat(40),
        new: "1".repeat(40),
        op: String::new(),
        rule: "refs/.*".to_owned(),
        result,
        reason: reason.to_owned(),
    };
    let mut push = Record {
        time: "2026-11-21T08:30:00.123Z".to_owned(),
        seq: 7,
        user: "alice".to_owned(),
        from: "[2001:db8::1]:50022".to_owned(),
        ..Record::new(Kind::Push).about(&RepoName::new("docs").unwrap(), "git-receive-pack")
    };
    let rewind = RefChange { op: "rewind".to_owned(), ..change(Outcome::Ok, "") };
    push.refs = vec![change(Outcome::Ok, ""), rewind, change(Outcome::Refused, "denied by\tfallthru")];
    let auth = Record { kind: Kind::Auth, reason: "login with x\ny".to_owned(), refs: Vec::new(), ..push.clone() };
    let refused = Record { kind: Kind::Access, refs: Vec::new(), ..push.clone() }.ended(Outcome::Refused, "FATAL: no");
    let told = [&push, &auth, &refused].map(|record| format!("{}{}", record.told(), export(record))).concat();
    insta::assert_snapshot!(told);
    let filter = Filter { reference: Some("main".to_owned()), result: Some(Outcome::Refused), ..Filter::default() };
    assert!(filter.passes(&push) && !filter.passes(&auth));
    let who = |user: &str| Filter { user: Some(user.to_owned()), ..Filter::default() }.passes(&push);
    assert!(who("alice") && !who("bob"));
    let since = |at: &str| Filter { since: Some(at.to_owned()), ..Filter::default() }.passes(&push);
    assert!(since("2026-11-21") && !since("2026-11-22"));
}

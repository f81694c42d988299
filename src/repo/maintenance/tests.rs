//! Whose turn comes when, and what git makes of it.

use super::*;
use crate::git::objects::{self, Author};

const DAY: Duration = Duration::from_secs(86_400);

fn name(number: usize) -> RepoName {
    RepoName::new(&format!("docs/r{number}")).unwrap()
}

#[test]
fn each_has_one_turn_in_each_span_and_not_all_at_once() {
    let start = UNIX_EPOCH + DAY * 20_000 + Duration::from_secs(12_345);
    let step = Duration::from_secs(600);
    let mut most = 0;
    let mut last = vec![start; 1000];
    let mut turns = vec![0; 1000];
    for look in 1..=144 * 7 {
        let now = start + step * look;
        let due: Vec<usize> = (0..1000).filter(|n| is_due(&name(*n), Task::Gc, last[*n], DAY, now)).collect();
        most = most.max(due.len());
        for n in due {
            (last[n], turns[n]) = (now, turns[n] + 1);
        }
    }
    assert!(turns.iter().all(|turns| *turns == 7), "{turns:?}");
    assert!(most < 25, "{most} of 1000 in one of the day's 144 looks");
    // Whatever was missed, one turn makes up for it.
    assert!(is_due(&name(1), Task::Fsck, start, DAY, start + DAY * 40));
    assert!(!is_due(&name(1), Task::Fsck, start + DAY * 40, DAY, start + DAY * 40));
    assert!(!is_due(&name(1), Task::Gc, start + DAY, DAY, start), "a clock that was set back");
}

fn repository(dir: &Path) -> (Store, Upkeep, PathBuf) {
    let store = Store::new(dir.join("repositories"), "/dev/null".into());
    fs::create_dir(store.root()).unwrap();
    store.create(&name(1)).unwrap();
    let upkeep = Upkeep::new(store.clone(), Git::new("git".into(), "/dev/null".into()), Maintenance::default());
    let at = store.dir(&name(1));
    (store, upkeep, at)
}

async fn now(upkeep: &Upkeep, number: usize, task: Task) -> Outcome {
    let turn = upkeep.turn(&name(number), task).await;
    upkeep.maintain(turn, &name(number), task, &upkeep.lenders()).await
}

#[tokio::test]
async fn untidy_ones_are_packed_and_nothing_young_or_named_is_lost() {
    let tmp = tempfile::tempdir().unwrap();
    let (store, upkeep, dir) = repository(tmp.path());
    let author = Author { name: "alice", email: "a@b" };
    let mut parent = None;
    for n in 0..20 {
        let files = [("a".to_owned(), format!("{n}").into_bytes())].into();
        parent = Some(objects::commit_files(&dir, "main", &files, author, "x", parent.as_ref()).unwrap());
    }
    let files = [("b".to_owned(), b"kept".to_vec())].into();
    let lost = objects::commit_files(&dir, "refs/gitmesh/lost/1", &files, author, "x", None).unwrap();
    let young = objects::commit_files(&dir, "refs/heads/gone", &files, author, "young", None).unwrap();
    fs::remove_file(dir.join("refs/heads/gone")).unwrap();
    assert!(!is_untidy(&dir));
    for n in 0..PACKS_MAX + 1 {
        fs::write(dir.join(format!("objects/pack/tmp-{n}.pack")), "").unwrap();
    }
    assert!(is_untidy(&dir));
    for n in 0..PACKS_MAX + 1 {
        fs::remove_file(dir.join(format!("objects/pack/tmp-{n}.pack"))).unwrap();
    }
    assert_eq!(now(&upkeep, 1, Task::Gc).await, Outcome::Done);
    let files: Vec<_> = fs::read_dir(dir.join("objects/pack")).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(files.iter().any(|file| file.extension().is_some_and(|kind| kind == "bitmap")), "{files:?}");
    assert!(dir.join("objects/info/commit-graph").exists() || dir.join("objects/info/commit-graphs").exists());
    let kept = [parent.unwrap(), lost, young];
    assert_eq!(crate::git::odb::present(&dir, &kept).unwrap().len(), 3);
    assert!(last_done(&dir, Task::Gc).is_some() && last_done(&dir, Task::Fsck).is_none());
    assert_eq!(store.list().unwrap(), [name(1)]);
}

fn put_aside(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap();
    fs::remove_file(from).unwrap();
}

#[tokio::test]
async fn a_damaged_one_is_told_until_it_is_whole_again() {
    let tmp = tempfile::tempdir().unwrap();
    let (_, upkeep, dir) = repository(tmp.path());
    let files = [("a".to_owned(), b"text".to_vec())].into();
    let author = Author { name: "alice", email: "a@b" };
    let commit = objects::commit_files(&dir, "main", &files, author, "x", None).unwrap();
    assert_eq!(now(&upkeep, 1, Task::Fsck).await, Outcome::Done);
    let object = dir.join(format!("objects/{}/{}", &commit.as_str()[..2], &commit.as_str()[2..]));
    let aside = tmp.path().join("aside");
    put_aside(&object, &aside);
    let outcome = now(&upkeep, 1, Task::Fsck).await;
    assert!(matches!(&outcome, Outcome::Damaged(said) if said.contains(commit.as_str())), "{outcome:?}");
    assert!(upkeep.damage(&name(1)).unwrap().contains(commit.as_str()));
    now(&upkeep, 1, Task::Fsck).await;
    let news = upkeep.news_of_damage();
    assert!(
        matches!(&news[..], [(repo, Some(said))] if *repo == name(1) && said.contains(commit.as_str())),
        "{news:?}"
    );
    assert_eq!((upkeep.news_of_damage(), upkeep.damaged().len()), (vec![], 1));
    put_aside(&aside, &object);
    assert_eq!(now(&upkeep, 1, Task::Fsck).await, Outcome::Done);
    assert_eq!((upkeep.damage(&name(1)), upkeep.damaged()), (None, vec![]));
    assert_eq!((upkeep.news_of_damage(), upkeep.news_of_damage()), (vec![(name(1), None)], vec![]));
    put_aside(&object, &aside);
    now(&upkeep, 1, Task::Fsck).await;
    put_aside(&aside, &object);
    now(&upkeep, 1, Task::Fsck).await;
    let news = upkeep.news_of_damage();
    assert!(matches!(&news[..], [(_, Some(_)), (_, None)]), "mended before anybody was told: {news:?}");
    assert!(matches!(now(&upkeep, 2, Task::Gc).await, Outcome::Failed(_)));
}

#[test]
fn who_lends_objects_is_seen() {
    let tmp = tempfile::tempdir().unwrap();
    let (store, upkeep, dir) = repository(tmp.path());
    assert!(!upkeep.lenders().have(&dir));
    store.create(&name(2)).unwrap();
    let objects = store.dir(&name(2)).join("objects");
    fs::write(objects.join("info/alternates"), "../../r1.git/objects\n").unwrap();
    let lenders = upkeep.lenders();
    assert!(lenders.have(&dir) && !lenders.have(&store.dir(&name(2))));
    assert!(Lenders::default().have(&dir), "where nobody has looked, each may be one");
}

#[tokio::test]
async fn whose_turn_has_come_is_maintained_and_the_others_are_not() {
    let tmp = tempfile::tempdir().unwrap();
    let (store, upkeep, tidy) = repository(tmp.path());
    let made = |number| {
        store.create(&name(number)).unwrap();
        store.dir(&name(number))
    };
    let (untidy, lender, borrower, damaged) = (made(2), made(3), made(4), made(5));
    fs::write(borrower.join("objects/info/alternates"), "../../r3.git/objects\n").unwrap();
    fs::write(damaged.join(DAMAGED), "missing blob\n").unwrap();
    let begin = SystemTime::now();
    assert_eq!(upkeep.due(begin).unwrap(), [], "all were made just now");
    assert_eq!(upkeep.damaged().len(), 1);
    // Two objects that no reference leads to, older than what git keeps.
    let author = Author { name: "alice", email: "a@b" };
    let lost = [&untidy, &lender].map(|dir| {
        let files = [("a".to_owned(), b"text".to_vec())].into();
        let lost = objects::commit_files(dir, "refs/heads/gone", &files, author, "x", None).unwrap();
        fs::remove_file(dir.join("refs/heads/gone")).unwrap();
        let file = dir.join(format!("objects/{}/{}", &lost.as_str()[..2], &lost.as_str()[2..]));
        fs::File::open(file).unwrap().set_modified(begin - DAY * 30).unwrap();
        for n in 0..PACKS_MAX + 1 {
            let files = [("a".to_owned(), format!("{n}").into_bytes())].into();
            objects::commit_files(dir, &format!("refs/heads/b{n}"), &files, author, "x", None).unwrap();
            let mut git = std::process::Command::new("git");
            assert!(git.arg("--git-dir").arg(dir).args(["repack", "-q"]).status().unwrap().success());
        }
        lost
    });
    let later = begin + DAY;
    // A check is due once in a month, in some of them on this very day.
    let due = |now| {
        let due = upkeep.due(now).unwrap();
        due.into_iter().filter(|(_, task)| *task == Task::Gc).map(|(name, _)| name).collect::<Vec<_>>()
    };
    assert_eq!(due(later), [name(2), name(3)]);
    assert!(last_done(&tidy, Task::Gc).is_some(), "one that is tidy is done with");
    assert!(last_done(&untidy, Task::Gc).is_none());
    assert_eq!(due(later), [name(2), name(3)], "nobody has done it yet");
    remember(&name(2), &untidy, Task::Gc, later);
    assert_eq!(due(later), [name(3)]);
    let month = upkeep.due(begin + DAY * 31).unwrap();
    assert_eq!(month.iter().filter(|(_, task)| *task == Task::Fsck).count(), 5, "{month:?}");

    // By the clock, as the node does it.
    for dir in [&untidy, &lender] {
        remember(&name(1), dir, Task::Gc, begin - DAY * 2);
    }
    upkeep.look().await.unwrap();
    let done = |dir: &Path| last_done(dir, Task::Gc).is_some_and(|at| at + DAY > begin);
    assert!(done(&untidy) && done(&lender));
    assert_eq!(crate::git::odb::present(&untidy, &lost[..1]).unwrap().len(), 0, "removed, as its time had come");
    assert_eq!(crate::git::odb::present(&lender, &lost[1..]).unwrap().len(), 1, "somebody may have borrowed it");
    assert_eq!(upkeep.at_work(), None);
}

#[tokio::test]
async fn small_packs_are_rolled_up_and_the_large_one_stays() {
    let tmp = tempfile::tempdir().unwrap();
    let (_, upkeep, dir) = repository(tmp.path());
    let author = Author { name: "alice", email: "a@b" };
    let git = |words: &[&str]| {
        let out = std::process::Command::new("git").arg("--git-dir").arg(&dir).args(words).output().unwrap();
        assert!(out.status.success(), "{words:?} {out:?}");
        String::from_utf8(out.stdout).unwrap()
    };
    let mut commit = |n: usize| {
        let files: std::collections::BTreeMap<_, _> =
            (0..if n == 0 { 1000 } else { 1 }).map(|m| (format!("{n}-{m}"), format!("{n} {m}").into_bytes())).collect();
        objects::commit_files(&dir, &format!("refs/heads/b{n}"), &files, author, "x", None).unwrap();
        git(&["repack", "-dq"]);
    };
    commit(0);
    let large = fs::read_dir(dir.join("objects/pack")).unwrap().map(|entry| entry.unwrap().path());
    let large: Vec<_> = large.filter(|path| path.extension().is_some_and(|kind| kind == "pack")).collect();
    (1..50).for_each(&mut commit);
    assert_eq!(packs_in(&dir), 50);
    let working = tokio::spawn({
        let upkeep = upkeep.clone();
        async move { upkeep.roll_up().await }
    });
    (0..50).for_each(|_| upkeep.pushed(&name(1)));
    let begun = std::time::Instant::now();
    while packs_in(&dir) > 3 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} packs", packs_in(&dir));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    working.abort();
    assert!(large.len() == 1 && large[0].exists());
    git(&["fsck", "--full", "--strict"]);
    assert_eq!(git(&["for-each-ref"]).lines().count(), 50);
}

#[tokio::test]
async fn a_large_repository_is_given_bitmaps() {
    let tmp = tempfile::tempdir().unwrap();
    let (_, upkeep, dir) = repository(tmp.path());
    let author = Author { name: "alice", email: "a@b" };
    let large: Vec<u8> = (0..9 << 20).map(|_| rand::random()).collect();
    objects::commit_files(&dir, "refs/heads/main", &[("a".to_owned(), large)].into(), author, "x", None).unwrap();
    let repack = || std::process::Command::new("git").arg("--git-dir").arg(&dir).args(["repack", "-dq"]).status();
    assert!(repack().unwrap().success());
    assert!(is_untidy(&dir), "as it was pushed");
    fs::write(dir.join("objects/pack/x.keep"), "").unwrap();
    assert!(!is_untidy(&dir), "git would write none");
    fs::remove_file(dir.join("objects/pack/x.keep")).unwrap();
    assert_eq!(now(&upkeep, 1, Task::Gc).await, Outcome::Done);
    assert!(!is_untidy(&dir));
}

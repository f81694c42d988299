use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::model::{self, RefName};

const SEEDS: u64 = 200;

/// Paths from the top, with the text of the file.
type Files = BTreeMap<String, u32>;

fn files(of: &[(&str, u32)]) -> Files {
    of.iter().map(|(path, text)| ((*path).to_owned(), *text)).collect()
}

/// A pusher who has everything, and a server.
struct Place {
    tmp: tempfile::TempDir,
    pusher: Repository,
    server: Repository,
}

impl Place {
    fn new() -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let [pusher, server] = ["pusher", "server"].map(|name| Repository::init_bare(tmp.path().join(name)).unwrap());
        // The pusher's objects stay in memory.
        pusher.odb().unwrap().add_new_mempack_backend(1000).unwrap();
        fs::create_dir_all(tmp.path().join("quarantine/pack")).unwrap();
        Self { tmp, pusher, server }
    }

    fn tree(&self, files: &Files) -> Oid {
        let mut index = git2::Index::new().unwrap();
        for (path, text) in files {
            // One name is a submodule's.
            let link = path.ends_with("submodule");
            let (id, mode) = match link {
                true => (Oid::from_bytes(&[u8::try_from(*text).unwrap(); 20]).unwrap(), 0o160_000),
                false => (self.pusher.blob(format!("{text}\n").as_bytes()).unwrap(), 0o100_644),
            };
            let (ctime, mtime, path) = (git2::IndexTime::new(0, 0), git2::IndexTime::new(0, 0), path.clone().into());
            let (dev, ino, uid, gid, file_size, flags, flags_extended) = (0, 0, 0, 0, 0, 0, 0);
            let entry =
                git2::IndexEntry { ctime, mtime, dev, ino, mode, uid, gid, file_size, id, flags, flags_extended, path };
            index.add(&entry).unwrap();
        }
        index.write_tree_to(&self.pusher).unwrap()
    }

    fn commit(&self, files: &Files, parents: &[Oid], text: &str) -> Oid {
        let tree = self.pusher.find_tree(self.tree(files)).unwrap();
        let who = git2::Signature::new("a", "a@x", &git2::Time::new(1_000_000_000, 0)).unwrap();
        let parents: Vec<_> = parents.iter().map(|id| self.pusher.find_commit(*id).unwrap()).collect();
        self.pusher.commit(None, &who, &who, text, &tree, &Vec::from_iter(&parents)).unwrap()
    }

    fn tag(&self, target: Oid, name: &str) -> Oid {
        let who = git2::Signature::new("a", "a@x", &git2::Time::new(1_000_000_000, 0)).unwrap();
        self.pusher.tag_annotation_create(name, &self.pusher.find_object(target, None).unwrap(), &who, name).unwrap()
    }

    /// All that an object leads to, and itself.
    fn behind(&self, tips: &[Oid]) -> BTreeSet<Oid> {
        let (mut found, mut todo) = (BTreeSet::new(), tips.to_vec());
        while let Some(id) = todo.pop() {
            if !found.insert(id) {
                continue;
            }
            let object = self.pusher.find_object(id, None).unwrap();
            if let Some(commit) = object.as_commit() {
                todo.push(commit.tree_id());
                todo.extend(commit.parent_ids());
            } else if let Some(tree) = object.as_tree() {
                let entries = tree.iter().filter(|entry| entry.kind() != Some(ObjectType::Commit));
                todo.extend(entries.map(|entry| entry.id()));
            } else if let Some(tag) = object.as_tag() {
                todo.push(tag.target_id());
            }
        }
        found
    }

    fn give(&self, ids: &BTreeSet<Oid>) {
        let (from, to) = (self.pusher.odb().unwrap(), self.server.odb().unwrap());
        for id in ids {
            let object = from.read(*id).unwrap();
            to.write(object.kind(), object.data()).unwrap();
        }
    }

    /// A branch, and all that it leads to.
    fn land(&self, name: &str, id: Oid) {
        self.give(&self.behind(&[id]));
        self.server.reference(&format!("refs/heads/{name}"), id, true, "").unwrap();
    }

    fn lose(&self, id: Oid) {
        let id = id.to_string();
        drop(fs::remove_file(self.server.path().join("objects").join(&id[..2]).join(&id[2..])));
    }

    fn quarantine(&self) -> std::path::PathBuf {
        self.tmp.path().join("quarantine")
    }

    fn pack(&self, ids: &BTreeSet<Oid>) {
        let folder = self.quarantine().join("pack");
        fs::remove_dir_all(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        let mut pack = self.pusher.packbuilder().unwrap();
        ids.iter().for_each(|id| pack.insert_object(*id, None).unwrap());
        if !ids.is_empty() {
            pack.write(&folder, 0o644).unwrap();
        }
    }

    fn is_sure(&self, new: &[(&str, Oid)]) -> bool {
        matches!(is_whole(self.server.path(), Some(&self.quarantine()), &updates(new)), Ok(true))
    }

    /// As [`is_whole`], and never yes where git says no.
    fn is_whole(&self, new: &[(&str, Oid)]) -> bool {
        let sure = self.is_sure(new);
        assert!(!sure || self.git_finds_whole(new), "git misses something");
        sure
    }

    fn git_finds_whole(&self, new: &[(&str, Oid)]) -> bool {
        let mut git = Command::new("git");
        git.args(["rev-list", "--objects", "--quiet", "--stdin", "--not", "--all"]).current_dir(self.server.path());
        git.env("GIT_OBJECT_DIRECTORY", self.quarantine());
        git.env("GIT_ALTERNATE_OBJECT_DIRECTORIES", self.server.path().join("objects"));
        let mut git = git.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let ids: Vec<String> = new.iter().map(|(_, id)| format!("{id}\n")).collect();
        git.stdin.take().unwrap().write_all(ids.concat().as_bytes()).unwrap();
        git.wait().unwrap().success()
    }
}

fn updates(new: &[(&str, Oid)]) -> Vec<RefUpdate> {
    let update = |(name, id): &(&str, Oid)| {
        let new = model::Oid::parse(&id.to_string()).unwrap();
        // That all was there before, says the pusher.
        RefUpdate { name: RefName::parse(&format!("refs/heads/{name}")).unwrap(), old: new.clone(), new }
    };
    new.iter().map(update).collect()
}

/// `main`, which HEAD names, at the second of two commits.
fn started() -> (Place, Files, [Oid; 2]) {
    let place = Place::new();
    place.server.set_head("refs/heads/main").unwrap();
    let first = files(&[("a", 1), ("d/b", 2), ("d/e/c", 3), ("gone/x", 7), ("gone/y", 8)]);
    let second = files(&[("a", 1), ("d/b", 2), ("d/e/c", 3), ("f/g", 4)]);
    let one = place.commit(&first, &[], "one");
    let two = place.commit(&second, &[one], "two");
    place.land("main", two);
    (place, second, [one, two])
}

#[test]
fn what_people_push_is_known_to_be_whole() {
    let (place, files, [one, two]) = started();
    let with = |more: &[(&str, u32)]| files.clone().into_iter().chain(self::files(more)).collect::<Files>();
    let plain = place.commit(&with(&[("d/e/c", 5)]), &[two], "plain");
    let left = place.commit(&with(&[("left/x", 6)]), &[plain], "left");
    let moved = self::files(&[("a", 1), ("new/d/b", 2), ("new/d/e/c", 3), ("h", 4)]);
    for (what, new) in [
        ("a plain push", plain),
        ("two commits", left),
        ("a merge of two new commits", place.commit(&files, &[left, place.commit(&moved, &[two], "r")], "merge")),
        ("moved files and folders", place.commit(&moved, &[two], "moved")),
        ("what was deleted comes back", place.commit(&with(&[("back/x", 7), ("back/y", 8)]), &[two], "back")),
        ("the same tree again", place.commit(&files, &[two], "empty")),
        ("a root commit", place.commit(&files, &[], "root")),
        ("no files", place.commit(&Files::new(), &[two], "none")),
        ("a submodule", place.commit(&with(&[("d/submodule", 9)]), &[two], "link")),
        ("a tag", place.tag(two, "t")),
        ("a tag of a tag of a new commit", place.tag(place.tag(plain, "t"), "u")),
        ("what is there", two),
    ] {
        place.pack(&place.behind(&[new]).difference(&place.behind(&[two])).copied().collect());
        assert!(place.is_whole(&[("topic", new)]), "{what}");
        assert!(place.is_whole(&[("main", new), ("topic", two)]), "{what}");
    }
    assert!(is_whole(place.server.path(), None, &updates(&[("topic", two)])).unwrap());
    // Commits that no present value is known to lead to are git's to look for.
    place.pack(&BTreeSet::new());
    assert!(!place.is_whole(&[("topic", one)]) && place.git_finds_whole(&[("topic", one)]));
    assert!(!is_whole(place.server.path(), None, &updates(&[("topic", one)])).unwrap());
    let onto = place.commit(&files, &[one], "onto");
    place.pack(&place.behind(&[onto]).difference(&place.behind(&[two])).copied().collect());
    assert!(!place.is_whole(&[("topic", onto)]) && place.git_finds_whole(&[("topic", onto)]));
    place.land("topic", one);
    assert!(place.is_whole(&[("topic", onto)]), "the value of a reference that moves");
}

#[test]
fn without_any_of_its_objects_a_push_is_not_known_to_be_whole() {
    let (place, files, [one, two]) = started();
    let more = self::files(&[("d/e/c", 5), ("p/q/r", 6), ("back/x", 7), ("back/y", 8)]);
    let first = place.commit(&files.into_iter().chain(more).collect(), &[two], "first");
    let second = place.commit(&self::files(&[("s/t", 10), ("d/submodule", 3)]), &[first], "second");
    let new = place.tag(second, "t");
    let brought: BTreeSet<Oid> = place.behind(&[new]).difference(&place.behind(&[two])).copied().collect();
    assert_eq!(brought.len(), 14);
    for id in &brought {
        place.pack(&brought.iter().filter(|other| *other != id).copied().collect());
        assert!(!place.is_whole(&[("main", new)]) && !place.git_finds_whole(&[("main", new)]), "without {id}");
    }
    // What lies there already, led to by nobody, is whole only with all that it leads to.
    let stray = |place: &Place, parts: &[&str]| -> BTreeSet<Oid> {
        let root = place.pusher.find_commit(first).unwrap().tree().unwrap();
        parts.iter().map(|path| root.get_path(Path::new(path)).unwrap().id()).collect()
    };
    let (folders, file) = (stray(&place, &["p", "p/q"]), stray(&place, &["p/q/r"]));
    place.pack(&brought.iter().filter(|id| !folders.contains(id) && !file.contains(id)).copied().collect());
    place.give(&folders);
    assert!(!place.is_whole(&[("main", new)]));
    place.give(&file);
    assert!(place.is_whole(&[("main", new)]));
    // A value of a reference has to be there itself.
    place.lose(two);
    assert!(!place.is_whole(&[("main", new)]) && !place.is_whole(&[("topic", two)]) && !place.is_whole(&[("x", one)]));
}

#[test]
fn what_an_object_is_said_to_be_counts() {
    let (place, _, [_, two]) = started();
    let (blob, odb) = (place.pusher.blob(b"1\n").unwrap(), place.pusher.odb().unwrap());
    let entry = |mode: &str, id: Oid| [format!("{mode} name\0").as_bytes(), id.as_bytes()].concat();
    let commit = |tree: Oid, parent: Oid| {
        let text = format!("tree {tree}\nparent {parent}\nauthor a <a@x> 1 +0000\ncommitter a <a@x> 1 +0000\n\n");
        odb.write(ObjectType::Commit, text.as_bytes()).unwrap()
    };
    let of_tree = |entry: &[u8]| commit(odb.write(ObjectType::Tree, entry).unwrap(), two);
    let tree = place.pusher.find_commit(two).unwrap().tree_id();
    let tag = |text: &str| {
        let text = format!("object {two}\ntype {text}\ntag t\ntagger a <a@x> 1 +0000\n\n");
        odb.write(ObjectType::Tag, text.as_bytes()).unwrap()
    };
    for (what, new, whole) in [
        ("a file", of_tree(&entry("100644", blob)), true),
        ("a link", of_tree(&entry("120000", blob)), true),
        ("a file as folder", of_tree(&entry("40000", blob)), false),
        ("a folder as file", of_tree(&entry("100644", tree)), false),
        ("a commit as file", of_tree(&entry("100644", two)), false),
        ("both", of_tree(&[entry("100644", blob), entry("40000", blob)].concat()), false),
        ("half an entry", of_tree(&entry("100644", blob)[..20]), false),
        ("a file as tree", commit(blob, two), false),
        ("a tree as parent", commit(tree, tree), false),
        ("a tag", tag("commit"), true),
        ("a tag of what it is not", tag("tree"), false),
        ("a tree", tree, false),
    ] {
        let object = odb.read(new).unwrap();
        let mut brought = BTreeSet::from([new]);
        if object.kind() == ObjectType::Commit && what != "a file as tree" {
            brought.insert(Oid::from_str(std::str::from_utf8(&object.data()[5..45]).unwrap()).unwrap());
        }
        place.pack(&brought);
        assert_eq!(place.is_whole(&[("main", new)]), whole, "{what}");
    }
}

#[test]
fn what_a_submodule_names_is_not_there() {
    let (place, mut files, [_, two]) = started();
    files.insert("submodule".to_owned(), 9);
    let with = place.commit(&files, &[two], "with");
    place.land("main", with);
    let new = place.pusher.odb().unwrap();
    let tree = new.write(ObjectType::Tree, &[&b"100644 file\0"[..], &[9; 20]].concat()).unwrap();
    let text = format!("tree {tree}\nparent {with}\nauthor a <a@x> 1 +0000\ncommitter a <a@x> 1 +0000\n\n");
    let new = new.write(ObjectType::Commit, text.as_bytes()).unwrap();
    place.pack(&BTreeSet::from([tree, new]));
    assert!(!place.is_whole(&[("main", new)]) && !place.git_finds_whole(&[("main", new)]));
}

#[test]
fn what_git_reads_differently_is_not_known() {
    let (place, files, [one, two]) = started();
    let new = place.commit(&files, &[two], "new");
    place.pack(&BTreeSet::from([new]));
    let known = |what: &str, is: bool| assert_eq!(place.is_whole(&[("main", new)]), is, "{what}");
    known("as it is", true);
    for file in DIFFERENT {
        let path = place.server.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        known(file, false);
        fs::remove_file(path).unwrap();
    }
    let mut replaced = place.server.reference(&format!("refs/replace/{two}"), one, false, "").unwrap();
    known("a replaced commit", false);
    replaced.delete().unwrap();
    known("as it was", true);
    let many: Vec<String> = (0..=UPDATES_MAX).map(|n| format!("b{n}")).collect();
    assert!(!place.is_whole(&many.iter().map(|name| (&name[..], new)).collect::<Vec<_>>()));
    assert!(place.is_whole(&many[1..].iter().map(|name| (&name[..], new)).collect::<Vec<_>>()));
}

#[test]
fn much_work_is_gits() {
    let (place, files, [_, two]) = started();
    let deep = |levels: usize| self::files(&[(&format!("{}x", "d/".repeat(levels))[..], 1)]);
    let wide = |count: usize| (0..count).map(|n| (format!("{n}"), 1)).collect::<Files>();
    for (few, many) in [(deep(500), deep(OBJECTS_MAX)), (wide(50_000), wide(200_000))] {
        for (files, known) in [(few, true), (many, false)] {
            let new = place.commit(&files, &[two], "new");
            place.pack(&place.behind(&[new]).difference(&place.behind(&[two])).copied().collect());
            assert_eq!(place.is_whole(&[("main", new)]), known);
        }
    }
    drop(files);
}

/// A commit on one or two of `from`, with files like one of theirs or like any other's.
fn grow(place: &Place, dice: &mut StdRng, history: &mut Vec<(Oid, Files)>, from: &[Oid]) -> Oid {
    let parents = (0..dice.random_range(1..3)).filter_map(|_| from.choose(dice).copied());
    let parents = Vec::from_iter(parents.collect::<BTreeSet<_>>());
    let like = if dice.random_ratio(4, 5) { parents.first() } else { None };
    let like = history.iter().find(|(id, _)| Some(id) == like).or_else(|| history.choose(dice));
    let mut files = like.map(|(_, files)| files.clone()).unwrap_or_default();
    for _ in 0..dice.random_range(0..4) {
        let folder = *["", "p/", "q/", "p/r/", "p/q/"].choose(dice).unwrap();
        if dice.random_ratio(3, 4) {
            let name = ["f1", "f2", "f3", "submodule"].choose(dice).unwrap();
            files.insert(format!("{folder}{name}"), dice.random_range(1..30));
            continue;
        }
        // A folder moves, or goes.
        let moved: Files = files.extract_if(.., |path, _| path.starts_with(folder)).collect();
        if let Some(to) = ["p/", "q/", "s/", "p/s/"].choose(dice).filter(|_| dice.random_ratio(2, 3)) {
            files.extend(moved.into_iter().map(|(path, text)| (format!("{to}{}", &path[folder.len()..]), text)));
        }
    }
    let id = place.commit(&files, &parents, &history.len().to_string());
    history.push((id, files));
    id
}

/// Random histories, of which random parts arrive on top of what may be damaged.
#[test]
fn never_sure_where_git_is_not() {
    let [mut sure, mut missing, mut damaged] = [0; 3];
    for seed in 0..SEEDS {
        let dice = &mut StdRng::seed_from_u64(seed);
        let (place, mut history, mut from) = (Place::new(), Vec::new(), Vec::new());
        place.server.set_head("refs/heads/main").unwrap();
        for _ in 0..dice.random_range(1..6) {
            from.push(grow(&place, dice, &mut history, &from));
        }
        let landed = [*from.last().unwrap(), *from.choose(dice).unwrap()];
        place.land("main", landed[0]);
        place.land("topic", landed[1]);
        // Whoever knows what is there goes on from it; others from anywhere.
        let usual = dice.random_ratio(1, 2);
        if usual {
            from = landed.to_vec();
        }
        for _ in 0..dice.random_range(1..5) {
            from.push(grow(&place, dice, &mut history, &from));
        }
        let mut new = [("main", *from.last().unwrap()), ("topic", *from[1..].choose(dice).unwrap())];
        if dice.random_ratio(1, 3) {
            new[1].1 = place.tag(new[1].1, "t");
        }
        let there = place.behind(&landed);
        let brought = place.behind(&new.map(|(_, id)| id)).difference(&there).copied().collect::<BTreeSet<_>>();
        // Some files and folders lie there already, some objects come nowhere, and some that were there are gone.
        let is_stray = |id: &Oid| {
            let kind = place.pusher.find_object(*id, None).unwrap().kind();
            matches!(kind, Some(ObjectType::Tree | ObjectType::Blob))
        };
        let (mut strays, mut packed): (BTreeSet<_>, BTreeSet<_>) =
            brought.into_iter().partition(|id| is_stray(id) && dice.random_ratio(1, 6));
        for _ in 0..dice.random_range(0..2) {
            let part = if dice.random_ratio(1, 4) { &mut strays } else { &mut packed };
            if let Some(id) = Vec::from_iter(&*part).choose(dice).copied().copied() {
                part.remove(&id);
            }
        }
        place.give(&strays);
        place.pack(&packed);
        let hurt = dice.random_ratio(1, 6);
        if hurt {
            for _ in 0..dice.random_range(1..4) {
                place.lose(*Vec::from_iter(&there).choose(dice).copied().unwrap());
            }
        }
        let (ours, gits) = (place.is_sure(&new), place.git_finds_whole(&new));
        assert!(gits || !ours, "seed {seed}: git misses something");
        assert!(ours || !gits || !usual || hurt, "seed {seed}: a usual push is known to be whole");
        sure += u64::from(ours);
        missing += u64::from(!gits);
        damaged += u64::from(hurt && ours);
    }
    let counts = [sure, missing, damaged];
    assert!(counts.iter().all(|count| *count > SEEDS / 50), "each happens: {counts:?}");
}

//! What keeps one user's large work from being another's problem, and the figures by which an operator sees it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;

use crate::world::{Actor, Answer, Checkout, Node, Running, World, eventually};

/// A git that can be held up, or made to fail, in one of its programs. It notes the priority that it runs with.
struct Tampered {
    dir: PathBuf,
}

impl Tampered {
    /// Becomes the git of a node that has not been started.
    fn of(world: &World, node: &Node) -> Self {
        let dir = world.dir().join("tampered");
        fs::create_dir(&dir).unwrap();
        let script = format!(
            "#!/bin/sh\nd={}\nfor h in hold-$1 hold-$1-${{GIT_DIR##*/}}; do\n\
             if [ -e $d/$h ]; then : > $d/held; while [ -e $d/$h ]; do sleep 0.02; done; fi\ndone\n\
             if [ -e $d/fail-$1 ] && rm $d/fail-$1; then echo broken >&2; exit 1; fi\n\
             nice >> $d/nice-$1\nexec git \"$@\"\n",
            dir.display()
        );
        let program = dir.join("git");
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        node.set("program", &format!("\"{}\"", program.display()));
        node.start();
        Self { dir }
    }

    /// The program alone, or `PROGRAM-NAME.git` for the one that works in that repository.
    fn hold(&self, program: &str) {
        fs::write(self.dir.join(format!("hold-{program}")), "").unwrap();
    }

    fn is_held(&self) -> bool {
        self.dir.join("held").exists()
    }

    fn release(&self, program: &str) {
        fs::remove_file(self.dir.join(format!("hold-{program}"))).unwrap();
    }

    fn fail_once(&self, program: &str) {
        fs::write(self.dir.join(format!("fail-{program}")), "").unwrap();
    }

    fn has_failed(&self, program: &str) -> bool {
        !self.dir.join(format!("fail-{program}")).exists()
    }

    /// Of the first time that it ran.
    fn niceness(&self, program: &str) -> String {
        let all = fs::read_to_string(self.dir.join(format!("nice-{program}"))).unwrap_or_default();
        all.lines().next().unwrap_or_default().to_owned()
    }
}

#[test]
fn large_clones_take_turns() {
    let world = World::new();
    let node = world.prepare("server1");
    // Before the table that follows.
    let path = node.data().join("gitmesh.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("# max_packs = 2", "max_packs = 1")).unwrap();
    let git = Tampered::of(&world, &node);
    let alice = world.alice();
    let work = alice.clone_of(&node, "testing");
    work.commit_random("big", 9 << 20);
    work.push(&["HEAD:main"]).succeeds();
    assert_eq!((git.niceness("update-ref"), git.niceness("index-pack")), ("0".to_owned(), "0".to_owned()));
    git.hold("pack-objects");
    let url = alice.url(&node, "testing");
    let first = alice.begin(&["clone", "-q", &url, "first"]);
    eventually("the first to have its turn", || git.is_held());
    let mut command = alice.git_command(&alice.dir(), &["clone", "--progress", &url, "second"]);
    let mut second = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(second.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("waiting until other large packs are sent") {
        assert!(told.read_line(&mut said).unwrap() > 0, "it ended without a wait: {said}");
    }
    // A small question is not in that queue.
    alice.ls_remote(&node, "testing").succeeds();
    git.release("pack-objects");
    first.end().succeeds();
    told.read_to_string(&mut said).unwrap();
    assert!(second.wait().unwrap().success(), "{said}");
    // They take turns instead of giving way: somebody waits for each.
    assert_eq!(git.niceness("pack-objects"), "0");
    for into in ["first", "second"] {
        assert_eq!(alice.checkout(into).oid("HEAD"), work.oid("HEAD"));
    }
    assert!(node.metrics("gitmesh_git_queue_seconds_count") > 0.0);
}

#[test]
fn whoever_waits_for_a_shared_pack_takes_no_turn_from_others() {
    let world = World::new();
    let node = world.prepare("server1");
    // Before the table that follows.
    let path = node.data().join("gitmesh.toml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("# max_packs = 2"));
    fs::write(&path, text.replace("# max_packs = 2", "max_packs = 2")).unwrap();
    let git = Tampered::of(&world, &node);
    let (alice, bob) = (world.alice(), world.actor("bob"));
    let conf = "repo testing other\n    RW+ = @all\n";
    alice.configure(&node, |c| (c.conf(conf), c.key(&bob)).0).succeeds();
    for repo in ["testing", "other"] {
        let work = alice.clone_of(&node, repo);
        work.commit_random("big", 9 << 20);
        work.push(&["HEAD:main"]).succeeds();
    }
    let (url, bobs) = (alice.url(&node, "testing"), bob.url(&node, "other"));
    alice.try_clone(&url, "first").succeeds();
    eventually("no process", || node.metrics("gitmesh_git_processes") == 0.0);
    git.hold("pack-objects");
    let fills = alice.begin(&["clone", "-q", &url, "fills"]);
    eventually("one to have it made", || git.is_held());
    let heard = world.dir().join("heard");
    let mut command = alice.git_command(&alice.dir(), &["clone", "-q", &url, "reads"]);
    command.env("GIT_TRACE_PACKET", &heard);
    let reads = Running::start(command);
    eventually("one to read it", || fs::read_to_string(&heard).unwrap_or_default().contains("< packfile"));
    // Half a second is how long one may have a turn and nothing to send.
    let other = bob.begin(&["clone", "-q", &bobs, "other"]);
    eventually("the other pack to be made", || node.metrics("gitmesh_git_processes") >= 2.0);
    git.release("pack-objects");
    for clone in [fills, reads, other] {
        clone.end().succeeds();
    }
}

#[test]
fn a_shared_pack_that_fails_is_made_anew() {
    let world = World::new();
    let node = world.prepare("server1");
    let git = Tampered::of(&world, &node);
    let alice = world.alice();
    let work = alice.clone_of(&node, "testing");
    work.commit_random("file", 300_000);
    work.push(&["HEAD:main"]).succeeds();
    let url = alice.url(&node, "testing");
    alice.try_clone(&url, "alone").succeeds();
    git.fail_once("pack-objects");
    alice.try_clone(&url, "shared").succeeds();
    assert!(git.has_failed("pack-objects"));
    assert_eq!(alice.checkout("shared").oid("HEAD"), work.oid("HEAD"));
    // Whoever is alone hears it.
    work.commit("next", "next");
    work.push(&["HEAD:main"]).succeeds();
    git.fail_once("pack-objects");
    alice.try_clone(&url, "unlucky").refused_by("gitmesh: the pack could not be made").says("E0246");
    alice.try_clone(&url, "lucky").succeeds();
}

/// What git-receive-pack answers to a push made by hand.
fn push_by_hand(alice: &Actor, commands: &[String], pack: &[u8]) -> Answer {
    let mut command = alice.ssh_command(&["git@server1", "git-receive-pack 'testing'"]);
    command.stdin(Stdio::piped());
    let mut push = Running::start(command);
    let mut input = push.child.stdin.take().unwrap();
    for line in commands {
        write!(input, "{:04x}{line}", line.len() + 4).unwrap();
    }
    input.write_all(b"0000").unwrap();
    input.write_all(pack).unwrap();
    drop(input);
    push.end()
}

/// A pack of the objects that are listed, one a line.
fn pack_by_hand(alice: &Actor, work: &Checkout, objects: &str) -> Vec<u8> {
    fs::write(work.dir.join("objects"), objects).unwrap();
    let mut pack = alice.git_command(&work.dir, &["pack-objects", "--stdout", "-q"]);
    pack.stdin(fs::File::open(work.dir.join("objects")).unwrap()).output().unwrap().stdout
}

#[test]
fn what_one_reference_lacks_does_not_refuse_the_others() {
    let world = World::new();
    let node = world.node("server1");
    let alice = world.alice();
    let work = alice.clone_of(&node, "testing");
    let oid = work.commit("a", "a");
    let listed = work.git(&["rev-list", "--objects", "--no-object-names", "HEAD"]).succeeds().stdout;
    let pack = pack_by_hand(alice, &work, &listed);
    let (zero, none) = ("0".repeat(40), "1".repeat(40));
    let line = |oid: &str, name: &str, more: &str| format!("{zero} {oid} refs/heads/{name}{more}");
    let mixed = [
        line(&none, "bad", "\0report-status object-format=sha1"),
        line(&oid, "good", ""),
        line(&none, "worse", ""),
        line(&oid, "better", ""),
    ];
    let answer = push_by_hand(alice, &mixed, &pack).stdout;
    assert!(answer.contains("unpack ok"), "{answer}");
    for said in ["ok refs/heads/good", "ok refs/heads/better"] {
        assert!(answer.contains(said), "{said} in {answer}");
    }
    for name in ["bad", "worse"] {
        assert!(answer.contains(&format!("ng refs/heads/{name} missing necessary objects")), "{answer}");
    }
    assert_eq!(node.refs("testing").keys().collect::<Vec<_>>(), ["refs/heads/better", "refs/heads/good"]);
    // An atomic push is still all or nothing.
    let atomic = [line(&none, "bad", "\0report-status atomic object-format=sha1"), line(&oid, "third", "")];
    let answer = push_by_hand(alice, &atomic, &pack).stdout;
    assert!(answer.contains("ng refs/heads/third"), "{answer}");
    assert_eq!(node.refs("testing").len(), 2);
    node.is_sound("testing");
}

#[test]
fn what_a_push_lacks_is_told_in_gits_words() {
    let world = World::new();
    let node = world.prepare("server1");
    // Else git-index-pack(1) misses it.
    node.set("fsck", "false");
    node.start();
    let alice = world.alice();
    let work = alice.clone_of(&node, "testing");
    let old = work.commit("a", "a");
    work.push(&["HEAD:main"]).succeeds();
    let new = work.commit("dir/b", "b");
    let [tree, dir, blob] = ["", "dir", "dir/b"].map(|path| work.oid(&format!("HEAD:{path}")));
    let parts = [&new, &tree, &dir, &blob];
    let push = |without: usize| {
        let sent: Vec<_> =
            parts.iter().enumerate().filter(|(n, _)| *n != without).map(|(_, oid)| oid.as_str()).collect();
        let line = format!("{old} {new} refs/heads/main\0report-status object-format=sha1");
        push_by_hand(alice, &[line], &pack_by_hand(alice, &work, &(sent.join("\n") + "\n")))
    };
    for (without, words) in
        [(0, "bad object"), (1, "bad tree object"), (2, "bad tree object"), (3, "missing blob object")]
    {
        let answer = push(without);
        assert!(answer.stdout.contains("ng refs/heads/main missing necessary objects"), "{}", answer.stdout);
        answer.says(words).says(parts[without]);
        assert_eq!(node.oid("testing", "refs/heads/main"), Some(old.clone()));
    }
    let whole = push(parts.len()).stdout;
    assert!(whole.contains("ok refs/heads/main"), "{whole}");
    node.is_sound("testing");
}

#[test]
fn a_git_that_takes_nothing_holds_up_no_other_connection() {
    let world = World::new();
    let node = world.prepare("server1");
    let git = Tampered::of(&world, &node);
    let alice = world.alice();
    let work = alice.clone_of(&node, "testing");
    let pushed = work.commit_random("big", 24 << 20);
    git.hold("index-pack");
    let push = work.begin(&["push", "-q", "origin", "HEAD:main"]);
    eventually("git to be held up", || git.is_held());
    alice.ssh(&node, "info").succeeds();
    alice.ls_remote(&node, "testing").succeeds();
    git.release("index-pack");
    push.end().succeeds();
    assert_eq!(node.oid("testing", "refs/heads/main"), Some(pushed));
}

#[test]
fn a_git_that_takes_nothing_holds_up_nothing_else_between_two_nodes() {
    let world = World::new();
    let rules = |names: &str, master: &str, copy: &str| {
        let options = "option mirror.redirectOK = all\n";
        format!(
            "repo {names}\n    RW+ = @all\n    option mirror.master = {master}\n    option mirror.copies = {copy}\n    {options}"
        )
    };
    let pair =
        world.pair_with(&(rules("stuck testing large", "server1", "server2") + &rules("theirs", "server2", "server1")));
    pair.two.stop();
    let git = Tampered::of(&world, &pair.two);
    let alice = world.alice();
    let [stuck, small, large, theirs] =
        ["stuck", "testing", "large", "theirs"].map(|repo| alice.clone_of(&pair.one, repo));
    small.commit("a", "a");
    small.push(&["HEAD:main"]).succeeds();
    pair.in_step("testing");
    let pushed = stuck.commit_random("big", 24 << 20);
    git.hold("index-pack-stuck.git");
    let (dialled, carried) = (pair.there.dialled(), pair.there.carried());
    stuck.push(&["HEAD:main"]).succeeds();
    eventually("git to be held up", || git.is_held());
    // What the other node's queue, and a git that runs, would take without more ado.
    eventually("a part of the pack to be there", || pair.there.carried() > carried + (4 << 20));
    for n in 0..5 {
        small.commit("a", n.to_string());
        small.push(&["HEAD:main"]).succeeds();
        pair.in_step("testing");
        theirs.commit("a", n.to_string());
        theirs.push(&["HEAD:main"]).succeeds();
        pair.one.gitmesh(&["peer", "ping", "server2"]).succeeds();
    }
    large.commit_random("big", 12 << 20);
    large.push(&["HEAD:main"]).succeeds();
    pair.in_step("large");
    assert_eq!(pair.there.dialled(), dialled, "all of it over the link that carries the stuck pack");
    assert!(pair.two.refs("stuck").is_empty());
    git.release("index-pack-stuck.git");
    pair.in_step("stuck");
    assert_eq!(pair.two.oid("stuck", "refs/heads/main"), Some(pushed));
    assert_eq!(pair.there.dialled(), dialled);
}

#[test]
fn what_is_sent_to_a_command_that_reads_nothing_takes_no_memory() {
    const SESSIONS: usize = 8;
    const SENT: usize = 24 << 20;
    let world = World::new();
    let node = world.node("server1");
    let alice = world.alice();
    alice.ssh(&node, "status").succeeds();
    let before = node.peak_memory();
    let watching: Vec<_> = (0..SESSIONS)
        .map(|_| {
            let mut command = alice.ssh_command(&["git@server1", "status --watch"]);
            command.stdin(Stdio::piped());
            let mut watch = Running::start(command);
            let mut input = watch.child.stdin.take().unwrap();
            let sent = std::thread::spawn(move || input.write_all(&vec![b'x'; SENT]).map(|()| input));
            (watch, sent)
        })
        .collect();
    eventually("all of it to be taken", || watching.iter().all(|(_, sent)| sent.is_finished()));
    let grown = node.peak_memory() - before;
    assert!(grown < 48 << 20, "{SESSIONS} sessions were sent {SENT} bytes each, and memory grew by {grown}");
    for (mut watch, sent) in watching {
        let input = sent.join().unwrap().unwrap();
        watch.kill();
        drop(input);
    }
    // Nor does a pack.
    let work = alice.clone_of(&node, "testing");
    let pushed = work.commit_random("big", 64 << 20);
    let before = node.peak_memory();
    work.push(&["HEAD:main"]).succeeds();
    let grown = node.peak_memory() - before;
    assert_eq!(node.oid("testing", "refs/heads/main"), Some(pushed));
    assert!(grown < 48 << 20, "a push of 64 MiB, and memory grew by {grown}");
}

#[test]
fn what_a_killed_daemon_left_of_a_push_goes() {
    let world = World::new();
    let node = world.node("server1");
    let work = world.alice().clone_of(&node, "testing");
    work.commit("a", "a");
    work.push(&["HEAD:main"]).succeeds();
    let left = node.repo_dir("testing").join("objects/tmp_objdir-incoming-gm00000000-00000000");
    fs::create_dir_all(left.join("pack")).unwrap();
    work.commit("a", "b");
    work.push(&["HEAD:main"]).succeeds();
    assert!(!left.exists(), "the next push has swept");
    fs::create_dir_all(left.join("pack")).unwrap();
    node.stop();
    node.start();
    eventually("the next start to sweep", || !left.exists());
}

#[test]
fn figures_for_an_operator() {
    let world = World::new();
    let node = world.node("server1");
    let (alice, bob) = (world.alice(), world.actor("bob"));
    alice.configure(&node, |c| (c.conf("repo testing\n    RW+ = alice\n"), c.key(&bob)).0).succeeds();
    let work = alice.clone_of(&node, "testing");
    work.commit("a", "a");
    work.push(&["HEAD:main"]).succeeds();
    alice.try_clone(&alice.url(&node, "testing"), "second").succeeds();
    bob.ls_remote(&node, "testing").fails();
    for (metric, least) in [
        ("gitmesh_ssh_handshake_duration_seconds_count", 4.0),
        ("gitmesh_ssh_connections_total{result=\"authenticated\"}", 4.0),
        ("gitmesh_git_requests_total{service=\"upload-pack\",transport=\"ssh\",result=\"served\"}", 2.0),
        ("gitmesh_git_requests_total{service=\"upload-pack\",transport=\"ssh\",result=\"refused\"}", 1.0),
        ("gitmesh_git_requests_total{service=\"receive-pack\",transport=\"ssh\",result=\"served\"}", 2.0),
        ("gitmesh_git_request_duration_seconds_count{service=\"receive-pack\",transport=\"ssh\"}", 2.0),
        ("gitmesh_git_first_byte_seconds_count{service=\"upload-pack\"}", 2.0),
        ("gitmesh_git_first_pack_byte_seconds_count", 1.0),
        ("gitmesh_git_process_duration_seconds_count{program=\"index-pack\"}", 2.0),
        ("gitmesh_git_process_duration_seconds_count{program=\"pack-objects\"}", 1.0),
        ("gitmesh_hook_duration_seconds_count{hook=\"proc-receive\"}", 2.0),
        ("gitmesh_push_refs_total{result=\"landed\"}", 2.0),
        ("gitmesh_git_transferred_bytes_total{service=\"receive-pack\",direction=\"received\"}", 100.0),
        ("gitmesh_config_generation{node=\"server1\"}", 1.0),
        ("gitmesh_storage_free_bytes", 1.0),
    ] {
        eventually(metric, || node.metrics(metric) >= least);
    }
    eventually("all processes to have ended", || node.metrics("gitmesh_git_processes") == 0.0);
    let text = node.gitmesh(&["metrics"]).succeeds().stdout;
    assert!(!text.contains("testing") && !text.contains("alice"), "no label holds a repository or a user: {text}");
    let plain =
        |line: &str| line.starts_with("# ") || line.rsplit(' ').next().is_some_and(|n| n.parse::<f64>().is_ok());
    assert!(text.lines().all(plain), "{text}");
    alice.ssh(&node, "metrics --summary").succeeds().says("handshake").says("first byte service=upload-pack");
    bob.ssh(&node, "metrics").refused_by("for administrators");
}

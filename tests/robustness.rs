//! What must not hurt: silent crowds, garbage, clients that do not read, kills, full disks, names that are traps.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use crate::world::{Answer, DEADLINE, Node, Running, World, eventually};

#[test]
fn two_hundred_silent_connections_do_not_stop_a_user() {
    let world = World::new();
    let node = world.node("server1");
    let mut crowd: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(node.socket_address()).unwrap()).collect();
    // Half of them say hello and no more.
    for stream in crowd.iter_mut().step_by(2) {
        // The server may have given its place to a later one already.
        let _ = stream.write_all(b"SSH-2.0-silent\r\n");
    }
    let begun = std::time::Instant::now();
    world.alice().ls_remote(&node, "testing").succeeds();
    world.alice().ssh(&node, "info").succeeds();
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    drop(crowd);
}

#[test]
fn garbage_is_hung_up_on() {
    let world = World::new();
    let node = world.node("server1");
    let zeros = vec![0; 100_000];
    let noise: Vec<u8> = (0..100_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let huge_packet = b"SSH-2.0-x\r\n\xff\xff\xff\xff\x05aaaaaaaaaaaaaaaaaaaaaaaaaaaa".to_vec();
    let texts: [&[u8]; 6] =
        [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", &zeros, &noise, &huge_packet, b"SSH-1.5-old\r\n", b"\r\n\r\n\r\n"];
    for text in texts {
        let mut stream = TcpStream::connect(node.socket_address()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        // It may hang up before it has read everything.
        let _ = stream.write_all(text);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut said = Vec::new();
        let end = stream.read_to_end(&mut said);
        let reset = end.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset);
        assert!(end.is_ok() || reset, "{end:?} after {:?}", &text[..text.len().min(20)]);
    }
    world.alice().ssh(&node, "info").succeeds();
}

#[test]
fn a_channel_that_is_not_read_stalls_no_other() {
    let world = World::new();
    let node = world.node("server1");
    let alice = world.alice();
    let work = alice.clone_of(&node, "testing");
    let oid = work.commit_random("big", 40 << 20);
    work.push(&["HEAD:main"]).succeeds();
    let shared = alice.shared_connection(&node);
    // A clone by hand on the shared connection, whose pack nobody reads.
    let mut command = shared.command(&["git-upload-pack 'testing'"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut unread = command.spawn().unwrap();
    let mut requests = unread.stdin.take().unwrap();
    let mut packets = unread.stdout.take().unwrap();
    let mut advertised = [0; 44];
    packets.read_exact(&mut advertised).unwrap();
    assert_eq!(&advertised[4..], oid.as_bytes());
    write!(requests, "0032want {oid}\n00000009done\n").unwrap();
    requests.flush().unwrap();
    eventually("the pipe to be full", || rustix::io::ioctl_fionread(&packets).unwrap() >= 32 << 10);
    // Others on the same connection: a command, a refusal, a whole clone.
    for _ in 0..3 {
        shared.run(&["info"]).succeeds().says("hello alice");
    }
    shared.run(&["git-upload-pack 'nowhere'"]).says("DENIED");
    let clone = shared.git(&["clone", "-q", "git@server1:testing", "beside"]);
    clone.succeeds();
    assert!(unread.try_wait().unwrap().is_none(), "the unread clone is still there");
    assert!(world.runs("git upload-pack"));
    unread.kill().unwrap();
    unread.wait().unwrap();
    eventually("the abandoned git to be ended", || !world.runs("git upload-pack"));
    shared.run(&["info"]).succeeds();
}

#[test]
fn a_daemon_killed_in_a_push_accepts_the_next_one() {
    let world = World::new();
    let node = world.node("server1");
    let alice = world.alice();
    let work = alice.clone_of(&node, "testing");
    work.commit("a", "a");
    work.push(&["HEAD:main"]).succeeds();
    let big = work.commit_random("big", 24 << 20);
    let slow = world.link_to(&node);
    slow.delay(Duration::from_millis(2));
    let url = alice.url_by(&slow, "testing");
    for _ in 0..2 {
        let before = slow.carried();
        let mut push = work.begin(&["push", &url, "HEAD:main"]);
        eventually("a part of the push", || slow.carried() > before + (2 << 20) || push.has_ended());
        node.kill9();
        push.end().fails();
        node.start();
    }
    work.push(&["HEAD:main"]).succeeds();
    assert_eq!(node.oid("testing", "refs/heads/main"), Some(big));
    node.is_sound("testing");
}

#[test]
fn a_client_killed_in_a_push_leaves_nothing_behind() {
    let world = World::new();
    let node = world.node("server1");
    let alice = world.alice();
    let work = alice.clone_of(&node, "testing");
    work.commit_random("big", 16 << 20);
    let slow = world.link_to(&node);
    slow.delay(Duration::from_millis(2));
    let url = alice.url_by(&slow, "testing");
    let mut push = work.begin(&["push", &url, "HEAD:main"]);
    eventually("a part of the push", || slow.carried() > (2 << 20) || push.has_ended());
    push.kill();
    let quarantine = || {
        let names = fs::read_dir(node.repo_dir("testing").join("objects")).unwrap();
        names.flatten().any(|e| e.file_name().to_string_lossy().starts_with("tmp_objdir"))
    };
    eventually("git to clean up", || !quarantine());
    work.push(&["HEAD:main"]).succeeds();
}

#[test]
fn a_stale_lock_of_a_killed_git_goes() {
    let world = World::new();
    let node = world.node("server1");
    let work = world.alice().clone_of(&node, "testing");
    work.commit("a", "a");
    work.push(&["HEAD:main"]).succeeds();
    node.stop();
    let old = std::time::SystemTime::now() - Duration::from_secs(3600);
    for lock in ["refs/heads/main.lock", "packed-refs.lock", "HEAD.lock"] {
        let file = fs::File::create(node.repo_dir("testing").join(lock)).unwrap();
        file.set_modified(old).unwrap();
    }
    node.start();
    eventually("the locks to be removed", || !node.repo_dir("testing").join("refs/heads/main.lock").exists());
    work.commit("a", "b");
    work.push(&["HEAD:main"]).succeeds();
}

#[test]
fn names_that_are_traps() {
    let world = World::new();
    let node = world.node("server1");
    let alice = world.alice();
    let shared = alice.shared_connection(&node);
    for path in [
        "../repositories/testing",
        "testing/../testing",
        "../../etc/passwd",
        "/etc/passwd",
        "//testing",
        "~/testing",
        "testing.git/../gitmesh-admin",
        "testing.git/hooks",
        ".git",
        "",
        ".",
        "..",
        "--upload-pack=id",
        "-oProxyCommand=id",
        "--strict",
        "testing;id",
        "$(id)",
        "`id`",
        "testing|id",
        "a b",
        "*",
        "%2e%2e/testing",
        "testing.lock",
        "a\\\\..\\\\b",
    ] {
        for service in ["git-upload-pack", "git-receive-pack", "git-upload-archive"] {
            let line = format!("{service} '{path}'");
            let refused = shared.run(&[&line]).fails();
            assert!(refused.stdout.contains("ERR "), "{line}: {refused:#?}");
            assert!(!refused.has("uid=") && !refused.has("root:"), "{line}: {refused:#?}");
        }
    }
    for control in ["git-upload-pack 'test\ning'", "git-upload-pack 'test\x07ing'", "git-upload-pack 'testing\r'"] {
        alice.ssh(&node, control).refused_by("control character");
    }
    let long = format!("git-upload-pack '{}'", "a".repeat(100_000));
    alice.ssh(&node, &long).fails();
    let wild = ["git-upload-pack --strict 'testing'", "git-upload-pack -x testing", "git-receive-pack '--x' 'testing'"];
    wild.iter().for_each(|line| drop(alice.ssh(&node, line).refused_by("unknown git/gitolite command")));
    // git's own words for a refusal.
    let url = "ssh://git@server1/../../etc";
    alice.git(&["ls-remote", url]).refused_by("fatal: remote error: ");
    world.alice().ssh(&node, "info").succeeds();
}

#[test]
fn a_push_whose_daemon_is_gone_is_refused() {
    let world = World::new();
    let node = world.node("server1");
    let work = world.alice().clone_of(&node, "testing");
    work.commit("a", "a");
    node.stop();
    let path = node.repo_dir("testing").display().to_string();
    let refused = work.git(&["push", &path, "HEAD:main"]).fails();
    refused.says("gitmesh serve").says("! [remote rejected] HEAD -> main");
    assert!(node.refs("testing").is_empty());
}

/// A small file system of its own; gone when dropped.
pub struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    /// None where one may not mount, which only root may.
    pub fn mount(world: &World, at: &std::path::Path) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mut mount = world.command("mount");
        mount.args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(at);
        (Answer::of(mount).code == Some(0)).then(|| Self(at.to_owned()))
    }

    /// The repositories of a node that does not run move to one.
    pub fn holds_repositories_of(world: &World, node: &Node) -> Option<Self> {
        let repositories = node.data().join("repositories");
        let aside = node.data().join("repositories.aside");
        fs::rename(&repositories, &aside).unwrap();
        let disk = Self::mount(world, &repositories);
        if disk.is_some() {
            let mut copy = world.command("cp");
            copy.arg("-a").arg(aside.join(".")).arg(&repositories);
            Answer::of(copy).succeeds();
        } else {
            fs::remove_dir(&repositories).unwrap();
            fs::rename(&aside, &repositories).unwrap();
            eprintln!("skipped: a small disk cannot be mounted here (only root may)");
        }
        disk
    }

    pub fn remount(&self, world: &World, how: &str) {
        let mut mount = world.command("mount");
        mount.args(["-o", &format!("remount,{how}")]).arg(&self.0);
        Answer::of(mount).succeeds();
    }

    /// Leaves no space; what takes it goes with `empty`.
    pub fn fill(&self) {
        let mut file = fs::File::create(self.0.join(".filler")).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    pub fn empty(&self) {
        fs::remove_file(self.0.join(".filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process may still be about to let go of it.
        let done = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(done.is_ok_and(|s| s.success()) || std::thread::panicking(), "the small disk stays mounted");
    }
}

#[test]
fn a_full_disk_is_told_and_nothing_is_lost() {
    let world = World::new();
    let node: Node = world.prepare("server1");
    let repositories = node.data().join("repositories");
    let aside = node.data().join("repositories.aside");
    fs::rename(&repositories, &aside).unwrap();
    let Some(_disk) = SmallDisk::mount(&world, &repositories) else {
        fs::remove_dir(&repositories).unwrap();
        fs::rename(&aside, &repositories).unwrap();
        eprintln!("skipped: a small disk cannot be mounted here (only root may)");
        return;
    };
    let mut copy = world.command("cp");
    copy.arg("-a").arg(aside.join("gitmesh-admin.git")).arg(&repositories);
    Answer::of(copy).succeeds();
    node.start();
    let work = world.alice().clone_of(&node, "testing");
    let small = work.commit("a", "small");
    work.push(&["HEAD:main"]).succeeds();
    work.commit_random("big", 40 << 20);
    let refused = work.push(&["HEAD:main"]).fails();
    refused.says("No space left on device");
    assert_eq!(node.oid("testing", "refs/heads/main"), Some(small.clone()));
    node.is_sound("testing");
    work.git(&["reset", "-q", "--hard", &small]).succeeds();
    let next = work.commit("a", "small again");
    work.push(&["HEAD:main"]).succeeds();
    assert_eq!(node.oid("testing", "refs/heads/main"), Some(next));
    world.alice().ssh(&node, "info").succeeds();
    node.stop();
}

#[test]
fn a_push_that_never_ends_is_not_the_next_one_s_problem() {
    let world = World::new();
    let node = world.node("server1");
    let alice = world.alice();
    // receive-pack that is never told anything, held open.
    let mut command = alice.ssh_command(&["git@server1", "git-receive-pack 'testing'"]);
    command.stdin(Stdio::piped());
    let mut idle = Running::start(command);
    let work = alice.clone_of(&node, "testing");
    work.commit("a", "a");
    work.push(&["HEAD:main"]).succeeds();
    assert!(!idle.has_ended());
}

//! The commands about a configuration that need no server, driven as a user drives them.
use std::path::Path;
use std::process::{Command, Output};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC2/C2kQn1vF1erSHaH+Vz3+t2j06lMn4YMSCXCEgC5M alice@laptop\n";
const GOOD: &str = "repo gitmesh-admin\n    RW+ = alice\nrepo testing\n    RW+ = @all\n";

fn write(dir: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

/// A folder as an administrator has it: the configuration, and alice's key.
fn folder(conf: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &[("conf/gitmesh.conf", conf), ("keydir/alice.pub", KEY)]);
    dir
}

fn gitmesh(dir: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gitmesh")).args(words).current_dir(dir).output().unwrap()
}

/// A public key of Ed25519's form; whether anybody holds the other half is no matter here.
fn key(byte: u8) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let blob = [b"\0\0\0\x0bssh-ed25519\0\0\0\x20".as_slice(), &[byte; 32]].concat();
    let mut text = String::from("ssh-ed25519 ");
    for chunk in blob.chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        (0..4).for_each(|at| text.push(char::from(DIGITS[(bits >> (18 - 6 * at) & 63) as usize])));
    }
    text + "\n"
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn a_good_configuration_is_good() {
    let dir = folder(GOOD);
    let output = gitmesh(dir.path(), &["check"]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), "good: 0 errors, 0 warnings\n"));
}

#[test]
fn several_remarks_in_one_run() {
    let conf = "repo gitmesh-admin\r\n    RW+ = alice\r\nrepo docs\r\n    RW+ = alice\r\n    -   main = alice\r\n    RW  = @dev bob\r\n    R   = b,c\r\nrepo @nosuch\r\n    RW = alice\r\nrepo x(\r\n    R = alice\r\n";
    let dir = folder(conf);
    let output = gitmesh(dir.path(), &["check"]);
    assert_eq!(output.status.code(), Some(1));
    insta::assert_snapshot!(stdout(&output));
}

#[test]
fn what_is_legal_and_surely_wrong() {
    let conf = "repo gitmesh-admin\n    RW+ = alice\nrepo docs\n    RW+ = alice\n    -   main = alice\n    RW  = @dev bob  # carol\nrepo @nosuch\n    RW = alice\nrepo closed\n    option deny-rules = 1\nrepo twice\n    RW = alice\n    R = alice\n";
    let dir = folder(conf);
    let output = gitmesh(dir.path(), &["check"]);
    assert_eq!(output.status.code(), Some(0));
    insta::assert_snapshot!(stdout(&output));
}

/// What is wrong with keys, line ends and copies, each by its code and its file.
#[test]
fn keys_line_ends_and_copies() {
    // 1,024 bits, which ssh-keygen made.
    let weak = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC9G63M1KhcJtFqTIoUfqKqwo3ubT2bIQtEwT28yEbWdO05xjWq35NDJLqYtvfDGQ6iVYMpf8M71R9mwl8dfQOrb2pfmtfxKGpukk61pf9HiVAysPMwbzI4gm109W9SBafkfFQ+ttRYjkIuqHgqzv+Pac3XC/AQdar0T95r3oLJgw== weak";
    let conf = "\u{feff}repo gitmesh-admin\r\n    RW+ = alice\r\nrepo docs\r\n    RW+ = alice\r\n    \
                option mirror.master = server1\r\n    option mirror.copies = server2 server3\r\n";
    let dir = folder(conf);
    write(dir.path(), &[("keydir/server-server2.pub", &key(2)), ("keydir/alice@home.pub", &key(3))]);
    let output = gitmesh(dir.path(), &["check", "--node", "server1"]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for words in ["[W0120]", "[W0126]", "[W0303]: 'docs' has a copy on 'server3', which is no known peer"] {
        assert!(text.contains(words), "no {words}: {text}");
    }
    assert!(!text.contains("'server2'"), "a peer by its key file is known: {text}");
    let with_options = format!("# mine\r\nfrom=\"10.0.0.1\",no-pty {KEY}\r\n\r\n{}", key(4));
    let good = ("keydir/alice.pub", with_options.as_str());
    write(dir.path(), &[good, ("keydir/bob.pub", KEY), ("keydir/carol.pub", weak), ("keydir/dave.pub", &key(3))]);
    let output = gitmesh(dir.path(), &["check"]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for (code, file) in [("W0145", "keydir/bob.pub"), ("W0146", "keydir/carol.pub"), ("W0142", "keydir/alice.pub")] {
        let told = text.split("\n\n").any(|remark| remark.contains(code) && remark.contains(file));
        assert!(told, "no {code} about {file}: {text}");
    }
    assert!(text.contains("an RSA key of 1024 bits is too weak"), "{text}");
}

#[test]
fn for_programs() {
    let dir = folder("repo gitmesh-admin\n    RW+ = alice @nosuch\n    RW = b:c\n");
    let output = gitmesh(dir.path(), &["check", "--format", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["schema"], "gitmesh.check/1");
    insta::assert_snapshot!(serde_json::to_string_pretty(&report).unwrap());
    let output = gitmesh(dir.path(), &["check", "--format", "github"]);
    insta::assert_snapshot!("github", stdout(&output));
}

#[test]
fn exit_codes() {
    let dir = folder(GOOD);
    let code = |words: &[&str]| gitmesh(dir.path(), words).status.code();
    assert_eq!(code(&["check", "nowhere"]), Some(4));
    assert_eq!(code(&["check", "--format", "xml"]), Some(2));
    assert_eq!(code(&["check", "--node", "a b"]), Some(2));
    assert_eq!(code(&["check", "conf"]), Some(1), "a folder without conf/ in it");
}

#[test]
fn the_name_of_a_node() {
    let dir = folder("repo gitmesh-admin\n    RW+ = alice\ninclude \"%HOSTNAME.conf\"\n");
    write(dir.path(), &[("conf/server1.conf", "repo docs\n RW = b:c\n")]);
    let output = gitmesh(dir.path(), &["check", "--node", "server1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("conf/server1.conf:2"), "{}", stdout(&output));
}

#[test]
fn links_and_rubbish() {
    let dir = folder(GOOD);
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("conf/x.conf")).unwrap();
    let output = gitmesh(dir.path(), &["check"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("E0301") && stdout(&output).contains("conf/x.conf"), "{}", stdout(&output));
    let rubbish: String = (0..2000).map(|n| format!("\u{1}{n} \u{7f} =\n")).collect();
    let dir = folder(&rubbish);
    let output = gitmesh(dir.path(), &["check"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.len() < 100_000);
}

/// A running node with alice as its administrator; it is asked on the machine, where everything may be asked.
struct Node {
    dir: tempfile::TempDir,
    daemon: std::process::Child,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

impl Node {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &[("alice.pub", KEY)]);
        let words = ["init", "--data", "n", "--name", "n", "--admin", "alice", "--admin-key", "alice.pub"];
        let made = gitmesh(dir.path(), &[&words[..], &["--listen", "127.0.0.1:0"]].concat());
        assert!(made.status.success(), "{made:?}");
        // systemd's way of telling that a service is up (sd_notify(3)).
        let path = dir.path().join("notify");
        let ready = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        ready.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
        let daemon = Command::new(env!("CARGO_BIN_EXE_gitmesh"))
            .args(["serve", "--data", "n"])
            .current_dir(dir.path())
            .env("NOTIFY_SOCKET", &path)
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let node = Self { dir, daemon };
        let mut text = [0; 512];
        loop {
            let length = ready.recv(&mut text).expect("the node to be up within 30 s");
            if String::from_utf8_lossy(&text[..length]).contains("READY=1") {
                return node;
            }
        }
    }

    fn ask(&self, words: &[&str]) -> (Option<i32>, String) {
        let output = gitmesh(self.dir.path(), &[&words[..1], &["--data", "n"], &words[1..]].concat());
        (output.status.code(), stdout(&output))
    }
}

#[test]
fn access_on_the_machine() {
    let node = Node::start();
    let (code, text) = node.ask(&["access", "gitmesh-admin", "alice", "+", "main"]);
    assert_eq!((code, text.lines().next()), (Some(0), Some("refs/.*")));
    assert!(text.contains("(conf/gitmesh.conf:"), "{text}");
    let (code, text) = node.ask(&["access", "gitmesh-admin", "bob", "W", "--explain"]);
    assert_eq!((code, text.lines().next()), (Some(1), Some("W any gitmesh-admin bob DENIED by fallthru")));
    let (code, text) = node.ask(&["access", "nowhere", "bob", "R", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &report["allowed"], &report["schema"]), (Some(1), &false.into(), &"gitmesh.access/1".into()));
    assert_eq!(node.ask(&["access", "gitmesh-admin"]).0, Some(2));
    assert_eq!(node.ask(&["access", "gitmesh-admin", "bob", "X"]).0, Some(2));
}

/// Runs git in `dir` with no settings of the machine's, as alice.
fn git(dir: &Path, words: &[&str]) -> Output {
    Command::new("git")
        .args(["-c", "user.name=alice", "-c", "user.email=alice@example.com"])
        .args(words)
        .current_dir(dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap()
}

/// A clone of a node's admin repository, with a change committed on top.
fn changed_clone(node: &Node, conf: &str) -> std::path::PathBuf {
    let top = node.dir.path();
    let cloned = git(top, &["clone", "-q", "n/repositories/gitmesh-admin.git", "clone"]);
    assert!(cloned.status.success(), "{cloned:?}");
    let clone = top.join("clone");
    write(&clone, &[("conf/gitmesh.conf", conf)]);
    assert!(git(&clone, &["commit", "-qam", "change"]).status.success());
    clone
}

const CHANGED: &str = "repo gitmesh-admin\n    RW+ = alice\nrepo testing\n    R = @all\nrepo docs\n    RW+ = alice\n";

#[test]
fn a_push_tells_its_plan_and_a_planned_one_changes_nothing() {
    let node = Node::start();
    let clone = changed_clone(&node, CHANGED);
    let planned = git(&clone, &["push", "-o", "plan", "origin", "HEAD"]);
    let text = String::from_utf8(planned.stderr).unwrap();
    assert!(!planned.status.success());
    assert!(text.contains("remote: plan:") && text.contains("+1 repository (docs)"), "{text}");
    assert!(text.contains("everybody loses write, rewind: testing"), "{text}");
    assert!(text.contains("only planned"), "{text}");
    assert!(!node.dir.path().join("n/repositories/docs.git").exists());
    assert_eq!(node.ask(&["access", "testing", "bob", "W"]).0, Some(0));
    let checked = gitmesh(&clone, &["check", "--plan"]);
    assert_eq!(checked.status.code(), Some(0));
    assert!(stdout(&checked).contains("everybody loses write, rewind: testing"), "{}", stdout(&checked));

    let pushed = git(&clone, &["push", "origin", "HEAD"]);
    assert!(pushed.status.success(), "{pushed:?}");
    assert!(String::from_utf8(pushed.stderr).unwrap().contains("everybody loses write, rewind: testing"));
    assert_eq!(node.ask(&["access", "testing", "bob", "W"]).0, Some(1));
    let checked = gitmesh(&clone, &["check", "--plan", "--format", "json"]);
    let report: serde_json::Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert_eq!(report["plan"], serde_json::json!([]));
}

#[test]
fn a_plan_needs_something_to_compare_with() {
    let dir = folder(GOOD);
    assert_eq!(gitmesh(dir.path(), &["check", "--plan"]).status.code(), Some(4));
    assert!(git(dir.path(), &["init", "-q"]).status.success());
    assert_eq!(gitmesh(dir.path(), &["check", "--plan"]).status.code(), Some(4));
}

#[test]
fn codes_are_explained() {
    let here = Path::new(".");
    let told = gitmesh(here, &["explain", "e0203"]);
    assert!(told.status.success() && stdout(&told).starts_with("E0203 "), "{told:?}");
    assert_eq!(gitmesh(here, &["explain", "E9999"]).status.code(), Some(4));
    assert!(stdout(&gitmesh(here, &["explain"])).lines().count() > 70);
}

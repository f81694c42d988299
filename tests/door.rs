//! What may be asked over SSH besides git: the greeting, `info`, `help`, `whoami`; and that there is no shell.

use std::net::TcpListener;

use crate::world::{Answer, Running, World, within};

#[test]
fn the_greeting_has_gitolites_shape() {
    let world = World::new();
    let node = world.node("server1");
    let bob = world.actor("bob");
    let conf =
        "repo testing\n    RW+ = @all\nrepo docs/handbook\n    R = bob\n    RW = alice\nrepo secret\n    RW = alice\n";
    world.alice().configure(&node, |c| (c.conf(conf), c.key(&bob)).0).succeeds();
    let git = world.command("git").arg("version").output().unwrap();
    let git = String::from_utf8(git.stdout).unwrap().trim().replace("git version ", "");
    let version = env!("CARGO_PKG_VERSION");
    let wanted = format!(
        "hello bob, this is git@server1 running gitmesh {version} on git {git}\n\n R  \tdocs/handbook\n R W\ttesting\n"
    );
    assert_eq!(bob.ssh(&node, "").succeeds().stdout, wanted);
    assert_eq!(bob.ssh(&node, "info").succeeds().stdout, wanted);
    let some = bob.ssh(&node, "info docs").succeeds();
    some.says(" R  \tdocs/handbook").does_not_say("testing");
    bob.ssh(&node, "help").succeeds().says("whoami").says("info");
    bob.ssh(&node, "whoami").succeeds().says("user: bob").says(&bob.fingerprint()).does_not_say("administrator");
    world.alice().ssh(&node, "whoami").succeeds().says("administrator: yes");
    // The same words on the machine.
    node.gitmesh(&["info"]).succeeds().says(" R W\tsecret");
}

#[test]
fn there_is_no_shell() {
    let world = World::new();
    let node = world.node("server1");
    let alice = world.alice();
    for line in ["ls -la", "sh", "git-shell", "git-upload-pack a b", "git-upload-pack", "scp -f x", "git-receive-pack"]
    {
        alice.ssh(&node, line).refused_by(&format!("unknown git/gitolite command: '{line}'"));
    }
    for line in ["info; id", "info $(id)", "info `id`", "info | id", "info && id"] {
        alice.ssh(&node, line).does_not_say("uid=");
    }
    alice.ssh(&node, "info 'x").refused_by("quote");
    // A terminal is refused; whoever did not insist on one gets the greeting all the same.
    alice.ssh_with(&["-tt", "git@server1"]).refused_by("PTY allocation request failed");
    let ssh = alice.ssh_command(&["git@server1"]);
    let words: Vec<_> = std::iter::once(ssh.get_program()).chain(ssh.get_args()).map(|w| w.to_str().unwrap()).collect();
    let mut terminal = world.command("script");
    terminal.args(["-qec", &words.join(" "), "/dev/null"]);
    Answer::of(terminal).succeeds().says("PTY allocation request failed").says("hello alice");
}

#[test]
fn there_is_no_subsystem() {
    let world = World::new();
    world.node("server1");
    world.alice().ssh_with(&["-s", "git@server1", "sftp"]).refused_by("there is no subsystem 'sftp'");
}

#[test]
fn nothing_is_forwarded() {
    let world = World::new();
    let node = world.node("server1");
    let alice = world.alice();
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    target.set_nonblocking(true).unwrap();
    let at = format!("127.0.0.1:{}", target.local_addr().unwrap().port());
    alice.ssh_with(&["-W", &at, "git@server1"]).refused_by("open failed");
    let back = ["-N", "-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:9", "git@server1"];
    alice.ssh_with(&back).refused_by("remote port forwarding failed");
    // -L: ssh listens, and each connection through it is refused.
    let local = crate::world::free_port();
    let forward = format!("127.0.0.1:{local}:{at}");
    let mut tunnel = Running::start(alice.ssh_command(&["-N", "-L", &forward, "git@server1"]));
    let mut ended = false;
    within(crate::world::DEADLINE, || {
        use std::io::Read;
        let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", local)) else { return false };
        stream.set_read_timeout(Some(crate::world::DEADLINE)).unwrap();
        // An end without a byte, or a reset.
        ended = matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_));
        true
    });
    assert!(ended, "the forwarded connection should have been refused");
    tunnel.kill();
    assert!(target.accept().is_err(), "nobody may have reached the target");
    node.gitmesh(&["info"]).succeeds();
}

#[test]
fn ciphers_are_those_that_the_machine_is_quick_at() {
    let world = World::new();
    let _node = world.node("server1");
    let verbose =
        |cipher: &[&str]| world.alice().ssh_with(&[&["-v"], cipher, &["git@server1", "info"]].concat()).succeeds();
    // Whoever insists on ChaCha20 gets it.
    let insists = ["-c", "chacha20-poly1305@openssh.com"];
    verbose(&insists).says("kex: server->client cipher: chacha20-poly1305@openssh.com");
    let machine = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if machine.lines().any(|line| line.starts_with("flags") && line.contains(" aes ") && line.contains(" pclmulqdq ")) {
        verbose(&[]).says("kex: server->client cipher: aes128-gcm@openssh.com");
    }
}

//! Bad pushes to the admin repository: rules. Each is refused with file, line, caret and help, and nothing changes.

use crate::world::{Configuration, Node, World};

/// Pushes a change that must be refused, and returns what the pusher read, without what differs from run to run.
#[track_caller]
pub fn refused(world: &World, node: &Node, change: impl FnOnce(&mut Configuration)) -> String {
    let before = node.oid("gitmesh-admin", "refs/heads/main");
    let answer = world.alice().configure(node, change).fails();
    assert_eq!(before, node.oid("gitmesh-admin", "refs/heads/main"), "nothing may change: {answer:#?}");
    redacted(&answer.remote_lines())
}

/// Fingerprints and object ids become fixed words.
fn redacted(text: &str) -> String {
    let fingerprint = regex::Regex::new("SHA256:[A-Za-z0-9+/]{43}").unwrap();
    let oid = regex::Regex::new(r"\b[0-9a-f]{40}\b").unwrap();
    let text = fingerprint.replace_all(text, "SHA256:FINGERPRINT");
    oid.replace_all(&text, "OID").into_owned()
}

fn stage() -> (World, Node) {
    let world = World::new();
    let node = world.node("server1");
    (world, node)
}

#[test]
fn names_and_groups() {
    let (world, node) = stage();
    let rule = |line: &str| refused(&world, &node, |c| c.conf(&format!("repo testing\n    RW = alice\n    {line}\n")));
    insta::assert_snapshot!(rule("RW = @devs!"), @"");
    insta::assert_snapshot!(rule("RW = bob&carol"), @"");
    insta::assert_snapshot!(rule("RW @nobranches = alice"), @"");
    let repo = |line: &str| refused(&world, &node, |c| c.conf(&format!("{line}\n    RW = alice\n")));
    insta::assert_snapshot!(repo("repo @undefined"), @"");
    insta::assert_snapshot!(repo("repo ../outside"), @"");
    insta::assert_snapshot!(repo("repo testing.git/hooks"), @"");
    insta::assert_snapshot!(repo("@9$ = alice\nrepo testing"), @"");
}

#[test]
fn patterns() {
    let (world, node) = stage();
    let conf = |text: &str| refused(&world, &node, |c| c.conf(text));
    insta::assert_snapshot!(conf("repo foo[\n    RW = alice\n"), @"");
    insta::assert_snapshot!(conf("repo testing\n    RW dev/( = alice\n"), @"");
    insta::assert_snapshot!(conf("repo testing\n    RW (?<=x)y = alice\n"), @"");
}

#[test]
fn config_and_options() {
    let (world, node) = stage();
    let line = |line: &str| refused(&world, &node, |c| c.conf(&format!("repo testing\n    RW = alice\n    {line}\n")));
    insta::assert_snapshot!(line("config core.sshCommand = x"), @"");
    insta::assert_snapshot!(line("config gitweb.owner = a;b"), @"");
    insta::assert_snapshot!(line("option mirror.master = server1/x"), @"");
    insta::assert_snapshot!(line("option mirror.copies = server2 ser:ver3"), @"");
}

#[test]
fn includes() {
    let (world, node) = stage();
    let conf = |text: &str| refused(&world, &node, |c| c.conf(text));
    insta::assert_snapshot!(conf("include \"/etc/passwd.conf\"\n"), @"");
    insta::assert_snapshot!(conf("include \"../keydir/x.conf\"\n"), @"");
    insta::assert_snapshot!(conf("include more.conf\n"), @"");
    insta::assert_snapshot!(conf("include \"more.txt\"\n"), @"");
    // The place of a mistake in an included file is that file.
    let included = refused(&world, &node, |c| {
        c.conf("include \"teams/*.conf\"\n");
        c.file("conf/teams/a.conf", "repo a\n    RW = alice\n");
        c.file("conf/teams/b.conf", "# fine\n\nrepo b\n    RW = @nobody-here!\n");
    });
    insta::assert_snapshot!(included, @"");
}

#[test]
fn what_is_not_supported_yet() {
    let (world, node) = stage();
    let conf = |text: &str| refused(&world, &node, |c| c.conf(text));
    insta::assert_snapshot!(conf("repo testing\n    RW = alice\n    - VREF/COUNT/5 = alice\n"), @"");
    insta::assert_snapshot!(conf("repo pub/CREATOR/..*\n    C = @all\n    RW+ = CREATOR\n"), @"");
}

#[test]
fn the_last_administrator_stays() {
    let (world, node) = stage();
    let nobody = |conf: &str| refused(&world, &node, |c| c.whole_conf(conf));
    insta::assert_snapshot!(nobody("repo testing\n    RW+ = @all\n"), @"");
    insta::assert_snapshot!(nobody("repo gitmesh-admin\n    R = alice\n"), @"");
    insta::assert_snapshot!(nobody("repo gitmesh-admin\n    RW+ = bob\n"), @"");
    insta::assert_snapshot!(nobody("repo gitmesh-admin\n    - = alice\n    RW+ = alice\n"), @"");
    insta::assert_snapshot!(refused(&world, &node, |c| c.remove("keydir/alice.pub")), @"");
    world.alice().ssh(&node, "whoami").succeeds().says("administrator: yes");
}

#[test]
fn files_that_are_not_there_or_no_files() {
    let (world, node) = stage();
    insta::assert_snapshot!(refused(&world, &node, |c| c.remove("conf/gitmesh.conf")), @"");
    insta::assert_snapshot!(refused(&world, &node, |c| c.whole_conf("")), @"");
    insta::assert_snapshot!(refused(&world, &node, |c| c.symlink("conf/gitmesh.conf", "/etc/passwd")), @"");
    insta::assert_snapshot!(refused(&world, &node, |c| c.file("conf/gitmesh.conf", b"\x7fELF\0\xff\xfe\0\0repo x")), @"");
    let deep = |c: &mut Configuration| c.conf(&format!("repo testing\n    RW = {}\n", "@a".repeat(200_000)));
    let told = refused(&world, &node, deep);
    assert!(told.len() < 4000, "a line of 400 kB is not quoted whole: {} bytes", told.len());
}

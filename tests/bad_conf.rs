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

/// Fingerprints, object ids and keys become fixed words.
fn redacted(text: &str) -> String {
    let fingerprint = regex::Regex::new("SHA256:[A-Za-z0-9+/]{43}").unwrap();
    let oid = regex::Regex::new(r"\b[0-9a-f]{40}\b").unwrap();
    let key = regex::Regex::new("AAAA[A-Za-z0-9+/]{30,}={0,2}").unwrap();
    let text = fingerprint.replace_all(text, "SHA256:FINGERPRINT");
    let text = key.replace_all(&text, "AAAAKEY");
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
    insta::assert_snapshot!(rule("RW = @devs!"), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0101]: '@devs!' cannot be a user name
     --> conf/gitmesh.conf:6:10
      |
    6 |     RW = @devs!
      |          ^^^^^^
      |
    help: letters, digits and '-_.@+' make a name; a letter or a digit starts it
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
    insta::assert_snapshot!(rule("RW = bob&carol"), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0101]: 'bob&carol' cannot be a user name
     --> conf/gitmesh.conf:6:10
      |
    6 |     RW = bob&carol
      |          ^^^^^^^^^
      |
    help: letters, digits and '-_.@+' make a name; a letter or a digit starts it
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
    insta::assert_snapshot!(rule("RW @nobranches = alice"), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0112]: group '@nobranches' is not defined
     --> conf/gitmesh.conf:6:8
      |
    6 |     RW @nobranches = alice
      |        ^^^^^^^^^^^ used here; nothing above defines it
      |
    help: define it above this line: @nobranches = alice bob
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
    let repo = |line: &str| refused(&world, &node, |c| c.conf(&format!("{line}\n    RW = alice\n")));
    insta::assert_snapshot!(repo("repo ../outside"), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0102]: '../outside' is neither a repository name nor a pattern
     --> conf/gitmesh.conf:4:6
      |
    4 | repo ../outside
      |      ^^^^^^^^^^
      |
    help: a letter, a digit or '[' must come first; ':', '~', '%', '"' and '=' are not allowed
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
    insta::assert_snapshot!(repo("repo testing.git/hooks"), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0116]: 'testing.git/hooks' cannot be a repository: a part of a repository name may not end in '.git' or '.lock'
     --> conf/gitmesh.conf:4:6
      |
    4 | repo testing.git/hooks
      |      ^^^^^^^^^^^^^^^^^
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
    insta::assert_snapshot!(repo("@9$ = alice\nrepo testing"), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0104]: '@9$' cannot name a group
     --> conf/gitmesh.conf:4:1
      |
    4 | @9$ = alice
      | ^^^
      |
    help: letters, digits and '-_.@+/' make a name; a letter or a digit starts it
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
}

#[test]
fn patterns() {
    let (world, node) = stage();
    let conf = |text: &str| refused(&world, &node, |c| c.conf(text));
    insta::assert_snapshot!(conf("repo foo[\n    RW = alice\n"), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0113]: the pattern 'foo[' is no regular expression: a '[' is not closed
     --> conf/gitmesh.conf:4:6
      |
    4 | repo foo[
      |      ^^^^
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
    insta::assert_snapshot!(conf("repo testing\n    RW dev/( = alice\n"), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0113]: the pattern 'dev/(' is no regular expression: a '(' is not closed
     --> conf/gitmesh.conf:5:8
      |
    5 |     RW dev/( = alice
      |        ^^^^^
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
    insta::assert_snapshot!(conf("repo testing\n    RW (a)\\1 = alice\n"), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0119]: the pattern '(a)\1' uses a back reference, which gitmesh does not have (its patterns always run in linear time)
     --> conf/gitmesh.conf:5:8
      |
    5 |     RW (a)\1 = alice
      |        ^^^^^
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
}

#[test]
fn config_and_options() {
    let (world, node) = stage();
    let line = |line: &str| refused(&world, &node, |c| c.conf(&format!("repo testing\n    RW = alice\n    {line}\n")));
    insta::assert_snapshot!(line("config core.sshCommand = x"), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0106]: the config key 'core.sshCommand' is not allowed
     --> conf/gitmesh.conf:6:12
      |
    6 |     config core.sshCommand = x
      |            ^^^^^^^^^^^^^^^
      |
    help: the server's settings list the allowed keys (gitolite: GIT_CONFIG_KEYS)
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
    insta::assert_snapshot!(line("config gitweb.owner = a;b"), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0106]: the config key 'gitweb.owner' is not allowed
     --> conf/gitmesh.conf:6:12
      |
    6 |     config gitweb.owner = a;b
      |            ^^^^^^^^^^^^
      |
    help: the server's settings list the allowed keys (gitolite: GIT_CONFIG_KEYS)
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
    insta::assert_snapshot!(line("option mirror.master = server1/x"), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0307]: 'server1/x', in the mirror options of 'testing', cannot be the name of a node
    --> conf/gitmesh.conf
     |
    help: letters, digits and '-_.' make a node's name; blanks stand between several
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
    insta::assert_snapshot!(line("option mirror.copies = server2 ser:ver3"), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0307]: 'ser:ver3', in the mirror options of 'testing', cannot be the name of a node
    --> conf/gitmesh.conf
     |
    help: letters, digits and '-_.' make a node's name; blanks stand between several

    warning[W0307]: 'testing' has copies and no master, so nobody can write to it
    --> conf/gitmesh.conf
     |
    help: add: option mirror.master = NODE
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
}

#[test]
fn includes() {
    let (world, node) = stage();
    let conf = |text: &str| refused(&world, &node, |c| c.conf(text));
    insta::assert_snapshot!(conf("include \"/etc/passwd.conf\"\n"), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0118]: '/etc/passwd.conf' is outside of conf/
     --> conf/gitmesh.conf:4:1
      |
    4 | include "/etc/passwd.conf"
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
    help: only files of this commit below conf/ can be included
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
    insta::assert_snapshot!(conf("include \"../keydir/x.conf\"\n"), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0118]: '../keydir/x.conf' is outside of conf/
     --> conf/gitmesh.conf:4:1
      |
    4 | include "../keydir/x.conf"
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
    help: only files of this commit below conf/ can be included
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
    insta::assert_snapshot!(conf("include more.conf\n"), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0108]: 'include' needs one file name in quotes, not 'more.conf'
     --> conf/gitmesh.conf:4:9
      |
    4 | include more.conf
      |         ^^^^^^^^^
      |
    help: write include "groups.conf" or include "parts/*.conf", one name a line
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
    let text = refused(&world, &node, |c| (c.conf("include \"more.txt\"\n"), c.file("conf/more.txt", "")).0);
    insta::assert_snapshot!(text, @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0109]: 'more.txt' cannot be included: its name does not end in '.conf'
     --> conf/gitmesh.conf:4:1
      |
    4 | include "more.txt"
      | ^^^^^^^^^^^^^^^^^^
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
    // The place of a mistake in an included file is that file.
    let included = refused(&world, &node, |c| {
        c.conf("include \"teams/*.conf\"\n");
        c.file("conf/teams/a.conf", "repo a\n    RW = alice\n");
        c.file("conf/teams/b.conf", "# fine\n\nrepo b\n    RW = @nobody-here!\n");
    });
    insta::assert_snapshot!(included, @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0101]: '@nobody-here!' cannot be a user name
     --> conf/teams/b.conf:4:10
      |
    4 |     RW = @nobody-here!
      |          ^^^^^^^^^^^^^
      |
    help: letters, digits and '-_.@+' make a name; a letter or a digit starts it
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
}

#[test]
fn a_hook_without_its_program() {
    let (world, node) = stage();
    let conf = |text: &str| refused(&world, &node, |c| c.conf(text));
    let told = conf("repo testing\n    RW = alice\n    option hook.pre-receive = lint\n");
    assert!(told.contains("error[E0309]: there is no program 'lint' for this hook"), "{told}");
    assert!(told.contains("conf/gitmesh.conf:6") && told.contains("server1/local/hooks/repo-specific/lint"), "{told}");
}

#[test]
fn a_hook_that_is_never_run() {
    let (world, node) = stage();
    let conf = |text: &str| refused(&world, &node, |c| c.conf(text));
    let told = conf("repo testing\n    RW = alice\n    option hook.pre-recieve = lint\n");
    assert!(told.contains("error[E0129]: no program is run for a hook 'pre-recieve'"), "{told}");
    assert!(told.contains("did you mean 'hook.pre-receive'?") && told.contains("conf/gitmesh.conf:6"), "{told}");
    let told = conf("repo testing\n    RW = alice\n    option hook.post-merge.01 = lint\n");
    assert!(told.contains("'post-merge'") && told.contains("pre-receive, update, post-receive, post-update"), "{told}");
}

#[test]
fn the_last_administrator_stays() {
    let (world, node) = stage();
    let nobody = |conf: &str| refused(&world, &node, |c| c.whole_conf(conf));
    insta::assert_snapshot!(nobody("repo testing\n    RW+ = @all\n"), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0304]: this would lock out the last administrator: nobody with a key could write gitmesh-admin
    --> conf/gitmesh.conf
     |
    help: keep a rule such as
              repo gitmesh-admin
                  RW+ = NAME
          and the key keydir/NAME.pub of that user
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
    insta::assert_snapshot!(nobody("repo gitmesh-admin\n    R = alice\n"), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0304]: this would lock out the last administrator: nobody with a key could write gitmesh-admin
     --> conf/gitmesh.conf:1:6
      |
    1 | repo gitmesh-admin
      |      ^^^^^^^^^^^^^
      |
    help: keep a rule such as
              repo gitmesh-admin
                  RW+ = NAME
          and the key keydir/NAME.pub of that user
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
    insta::assert_snapshot!(nobody("repo gitmesh-admin\n    RW+ = bob\n"), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0304]: this would lock out the last administrator: nobody with a key could write gitmesh-admin
     --> conf/gitmesh.conf:1:6
      |
    1 | repo gitmesh-admin
      |      ^^^^^^^^^^^^^
      |
    help: keep a rule such as
              repo gitmesh-admin
                  RW+ = NAME
          and the key keydir/NAME.pub of that user

    warning[W0304]: 1 user has no key: bob
     --> conf/gitmesh.conf:2:11
      |
    2 |     RW+ = bob
      |           ^^^
      |
    help: add keydir/bob.pub, or take the name out of the rules and groups
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
    insta::assert_snapshot!(nobody("repo gitmesh-admin\n    - = alice\n    RW+ = alice\n"), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0304]: this would lock out the last administrator: nobody with a key could write gitmesh-admin
     --> conf/gitmesh.conf:1:6
      |
    1 | repo gitmesh-admin
      |      ^^^^^^^^^^^^^
      |
    help: keep a rule such as
              repo gitmesh-admin
                  RW+ = NAME
          and the key keydir/NAME.pub of that user

    warning[W0113]: this '-' rule does not stop anybody from reading
     --> conf/gitmesh.conf:2:5
      |
    2 |     - = alice
      |     ^^^^^^^^^
      |
    help: '-' counts for reading only with 'option deny-rules = 1' in this repository
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
    insta::assert_snapshot!(refused(&world, &node, |c| c.remove("keydir/alice.pub")), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0304]: this would lock out the last administrator: nobody with a key could write gitmesh-admin
     --> conf/gitmesh.conf:1:6
      |
    1 | repo gitmesh-admin
      |      ^^^^^^^^^^^^^
      |
    help: keep a rule such as
              repo gitmesh-admin
                  RW+ = NAME
          and the key keydir/NAME.pub of that user

    warning[W0304]: 1 user has no key: alice
     --> conf/gitmesh.conf:2:17
      |
    2 |     RW+     =   alice
      |                 ^^^^^
      |
    help: add keydir/alice.pub, or take the name out of the rules and groups
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
    world.alice().ssh(&node, "whoami").succeeds().says("administrator: yes");
}

#[test]
fn files_that_are_not_there_or_no_files() {
    let (world, node) = stage();
    insta::assert_snapshot!(refused(&world, &node, |c| c.remove("conf/gitmesh.conf")), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0303]: the commit holds no configuration
    --> conf/gitmesh.conf
     |
    help: put the rules into conf/gitmesh.conf (conf/gitolite.conf is read too)
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
    insta::assert_snapshot!(refused(&world, &node, |c| c.whole_conf("")), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0121]: the configuration has no rule
    --> conf/gitmesh.conf
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
    insta::assert_snapshot!(refused(&world, &node, |c| c.symlink("conf/gitmesh.conf", "/etc/passwd")), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0301]: the commit cannot be read: 'conf/gitmesh.conf' is a symbolic link, and only plain files are allowed here
    --> conf/gitmesh.conf
     |
    help: conf/ and keydir/ hold plain files only, no links and no submodules
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
    insta::assert_snapshot!(refused(&world, &node, |c| c.file("conf/gitmesh.conf", b"\x7fELF\0\xff\xfe\0\0repo x")), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0121]: the configuration has no rule
     --> conf/gitmesh.conf:1:1
      |
    1 | ?ELF?????????repo x
      | ^^^^^^^^^^^^^^^
      |
    help: write at least: repo gitmesh-admin / RW+ = alice

    warning[W0101]: this line is no statement and is ignored: '?ELF?????repo x'
     --> conf/gitmesh.conf:1:1
      |
    1 | ?ELF?????????repo x
      | ^^^^^^^^^^^^^^^
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
    let deep = |c: &mut Configuration| c.conf(&format!("repo testing\n    RW = !{}\n", "@a".repeat(200_000)));
    let told = refused(&world, &node, deep);
    assert!(told.len() < 4000, "a line of 400 kB is not quoted whole: {} bytes", told.len());
}

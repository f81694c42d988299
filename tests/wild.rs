//! Repositories that users make, and the roles that they give in them.

use std::fs;
use std::thread;

use crate::world::{Actor, Answer, Node, Running, World, eventually};

const CONF: &str = "\
repo pub/CREATOR/..*
    C   = @all
    RW+ = CREATOR
    RW  = WRITERS
    R   = READERS
    config foo.owner = %GL_CREATOR of %GL_REPO
repo testing
    R   = bob
";

/// A node with CONF, on which bob and carol are users.
fn start(world: &World, conf: &str, node: &Node) -> (Actor, Actor) {
    let (bob, carol) = (world.actor("bob"), world.actor("carol"));
    let answer = world.alice().configure(node, |c| {
        c.conf(conf);
        c.key(&bob);
        c.key(&carol);
    });
    answer.succeeds();
    (bob, carol)
}

fn own_file(node: &Node, repo: &str, name: &str) -> String {
    fs::read_to_string(node.repo_dir(repo).join(name)).unwrap_or_default()
}

/// `perms` with lines on its standard input.
fn perms_of(actor: &Actor, node: &Node, words: &[&str], lines: &str) -> Answer {
    let file = actor.dir().join("lines");
    fs::write(&file, lines).unwrap();
    let host = format!("git@{}", node.name());
    let mut command = actor.ssh_command(&[&[host.as_str(), "perms"], words].concat());
    command.stdin(fs::File::open(file).unwrap());
    Running::start(command).end()
}

#[test]
fn a_push_makes_a_repository_and_its_creator_shares_it() {
    let world = World::new();
    let node = world.node("server1");
    let (bob, carol) = start(&world, &CONF.replace("config foo", "# config foo"), &node);
    let work = bob.starts(&node, "pub/bob/x");
    work.commit("a", "one");
    work.push(&["HEAD:main"]).succeeds().says("Initialized empty Git repository in pub/bob/x.git");
    assert_eq!(own_file(&node, "pub/bob/x", "gl-creator"), "bob");
    work.commit("a", "two");
    work.push(&["HEAD:main"]).succeeds().does_not_say("Initialized");

    // Missing and forbidden read the same, and the word CREATOR is no name.
    let forbidden = carol.ls_remote(&node, "pub/bob/x").fails().stderr;
    let missing = carol.ls_remote(&node, "pub/bob/y").fails().stderr;
    assert_eq!(forbidden.replace("pub/bob/x", "X"), missing.replace("pub/bob/y", "X"));
    carol.ls_remote(&node, "pub/CREATOR/x").refused_by("CREATOR");
    assert!(!node.has_repo("pub/bob/y"));

    let as_bob = |line: &str| bob.ssh(&node, line);
    as_bob("perms pub/bob/x + READERS carol").succeeds();
    as_bob("perms pub/bob/x + READERS carol").succeeds().says("warning: carol is in READERS");
    carol.clone_of(&node, "pub/bob/x").commit("b", "carol's");
    carol.checkout("server1-pub-bob-x").push(&["HEAD:main"]).refused_by("W any pub/bob/x carol DENIED by fallthru");
    as_bob("perms pub/bob/x + WRITERS @all").succeeds();
    carol.checkout("server1-pub-bob-x").push(&["HEAD:main"]).succeeds();
    assert_eq!(as_bob("perms pub/bob/x -l").succeeds().stdout, "READERS carol\nWRITERS @all\n");
    carol.ssh(&node, "perms pub/bob/x -l").refused_by("is not yours, or there is no such repository");
    carol.ssh(&node, "perms pub/bob/x - WRITERS @all").refused_by("is not yours");
    let table =
        "\tperm\tref    \t \trole\n\t----\t---    \t \t----\n\tRW\t--any--\t=\tWRITERS\n\tR\t--any--\t=\tREADERS\n";
    assert_eq!(carol.ssh(&node, "perms pub/bob/x -lr").succeeds().stdout, table);
    as_bob("perms pub/bob/x + OWNERS carol").refused_by("'OWNERS' is no role here").says("--any--");
    as_bob("perms pub/bob/x - WRITERS @all").succeeds();
    as_bob("perms pub/bob/x - READERS carol").succeeds();
    carol.ls_remote(&node, "pub/bob/x").fails();

    // The whole file, as -l prints it.
    perms_of(&bob, &node, &["pub/bob/x"], "READERS carol\n").succeeds();
    assert!(carol.may_read(&node, "pub/bob/x"));
    perms_of(&bob, &node, &["pub/bob/x"], "").refused_by("usage: perms");
    assert_eq!(node.gitmesh(&["perms", "pub/bob/x", "-l"]).succeeds().stdout, "READERS carol\n");
    node.gitmesh(&["perms", "pub/bob/x", "-", "READERS", "carol"]).succeeds();
    node.gitmesh(&["perms", "pub/bob/x", "+", "READERS", "carol"]).succeeds();
    perms_of(&bob, &node, &["pub/bob/x"], "CREATOR carol\n").refused_by("'CREATOR' is no role here");
    perms_of(&carol, &node, &["-c", "pub/carol/new"], "READERS bob\n").succeeds();
    assert!(bob.may_read(&node, "pub/carol/new"));
    assert_eq!(own_file(&node, "pub/carol/new", "gl-perms"), "READERS bob\n");
}

#[test]
fn info_lists_patterns_first() {
    let world = World::new();
    let node = world.node("server1");
    let (bob, carol) = start(&world, &CONF.replace("config foo", "# config foo"), &node);
    bob.ssh(&node, "create pub/bob/x").succeeds().says("Initialized empty Git repository in pub/bob/x.git");
    bob.ssh(&node, "create pub/bob/x").refused_by("^C any pub/bob/x bob DENIED by existence");
    bob.ssh(&node, "create elsewhere").refused_by("^C any elsewhere bob DENIED by fallthru");
    let lines = |actor: &Actor, line: &str| {
        let out = actor.ssh(&node, line).succeeds().stdout;
        out.split_once("\n\n").map(|(_, lines)| lines.to_owned()).unwrap()
    };
    assert_eq!(lines(&bob, "info"), "     C\tpub/CREATOR/..*\n R W\tpub/bob/x\n R  \ttesting\n");
    assert_eq!(lines(&bob, "info -p"), " R W\tpub/bob/x\n R  \ttesting\n");
    assert_eq!(lines(&bob, "info -lc bob"), " R W\tpub/bob/x\tbob\n");
    assert_eq!(lines(&bob, "info -lc -p"), " R W\tpub/bob/x\tbob\n R  \ttesting\n");
    fs::write(node.repo_dir("testing").join("description"), "a place to play\n").unwrap();
    assert_eq!(lines(&bob, "info -ld -p"), " R W\tpub/bob/x\t\n R  \ttesting  \ta place to play\n");
    assert_eq!(lines(&carol, "info"), "     C\tpub/CREATOR/..*\n");
    bob.ssh(&node, "perms pub/bob/x + READERS carol").succeeds();
    assert_eq!(lines(&carol, "info"), "     C\tpub/CREATOR/..*\n R  \tpub/bob/x\n");
}

#[test]
fn the_setting_says_what_makes_a_repository() {
    let world = World::new();
    let node = world.prepare("server1");
    node.set("create", "\"write\"");
    node.set("config_keys", "['foo\\..*']");
    node.start();
    let conf = format!("{CONF}repo pub/CREATOR/..*\n    option default.roles-1 = READERS CREATOR carol\n");
    let (bob, carol) = start(&world, &conf, &node);
    bob.ls_remote(&node, "pub/bob/x").refused_by("autocreate denied: 'pub/bob/x' does not exist");
    assert!(!node.has_repo("pub/bob/x"));
    let work = bob.starts(&node, "pub/bob/x");
    work.commit("a", "one");
    work.push(&["HEAD:main"]).succeeds();
    // Default roles and git config are there from the first moment.
    assert_eq!(own_file(&node, "pub/bob/x", "gl-perms"), "READERS bob carol\n");
    assert!(carol.may_read(&node, "pub/bob/x"));
    assert_eq!(node.git("pub/bob/x", &["config", "foo.owner"]).succeeds().stdout, "bob of pub/bob/x\n");

    // An edit of the setting needs no restart; a changed configuration reaches what users have made.
    node.set("create", "\"command\"");
    eventually("the new setting", || {
        let y = bob.starts(&node, "pub/bob/y");
        y.commit("a", "one");
        let refused = y.push(&["HEAD:main"]).has("autocreate denied");
        fs::remove_dir_all(&y.dir).unwrap();
        fs::remove_dir_all(node.repo_dir("pub/bob/y")).ok();
        refused
    });
    bob.ssh(&node, "create pub/bob/z").succeeds();
    let changed = conf.replace("%GL_CREATOR of", "now %GL_CREATOR of");
    world.alice().configure(&node, |c| c.conf(&changed)).succeeds();
    assert_eq!(node.git("pub/bob/z", &["config", "foo.owner"]).succeeds().stdout, "now bob of pub/bob/z\n");
}

#[test]
fn a_repository_of_gitolite_is_understood_as_it_is() {
    let world = World::new();
    let node = world.node("server1");
    let (bob, carol) = start(&world, &CONF.replace("config foo", "# config foo"), &node);
    let dir = node.repo_dir("pub/bob/old");
    let mut init = world.command("git");
    init.args(["init", "-q", "--bare"]).arg(&dir);
    Running::start(init).end().succeeds();
    fs::write(dir.join("gl-creator"), "bob").unwrap();
    fs::write(dir.join("gl-perms"), "# mine\n@READERS = carol dave\n").unwrap();
    assert!(carol.may_read(&node, "pub/bob/old"));
    bob.ssh(&node, "perms pub/bob/old + WRITERS carol").succeeds();
    assert_eq!(own_file(&node, "pub/bob/old", "gl-perms"), "# mine\n@READERS = carol dave\nWRITERS carol\n");
}

#[test]
fn two_at_once_make_one_repository() {
    let world = World::new();
    let node = world.node("server1");
    let conf = "repo shared/..*\n    C = @all\n    RW+ = @all\n";
    let (bob, carol) = start(&world, conf, &node);
    for round in 0..5 {
        let repo = format!("shared/{round}");
        thread::scope(|scope| {
            for actor in [&bob, &carol] {
                let (node, repo) = (&node, &repo);
                scope.spawn(move || drop(actor.ls_remote(node, repo).succeeds()));
            }
        });
        assert!(["bob", "carol"].contains(&own_file(&node, &repo, "gl-creator").as_str()));
    }
}

#[test]
fn templates() {
    let world = World::new();
    let node = world.node("server1");
    let conf = "repo @base\n    RW+ = WRITERS\n\n=begin template-data\nrepo t/one = base\n    WRITERS = bob\n=end\n";
    let (bob, carol) = start(&world, conf, &node);
    let work = bob.starts(&node, "t/one");
    work.commit("a", "one");
    work.push(&["HEAD:main"]).succeeds();
    carol.ls_remote(&node, "t/one").fails();
    world.alice().configure(&node, |c| c.conf(&conf.replace("= bob", "= carol"))).succeeds();
    assert!(carol.may_read(&node, "t/one") && !bob.may_read(&node, "t/one"));
}

#[test]
fn creator_and_roles_are_mirrored() {
    let world = World::new();
    let pair = world.pair();
    let conf = CONF
        .replace("config foo.owner = %GL_CREATOR of %GL_REPO", "option mirror.master = server1")
        .replace("repo testing", "    option mirror.copies = server2\nrepo testing");
    let (bob, carol) = start(&world, &conf, &pair.two);
    let keys = |c: &mut crate::world::Configuration| {
        c.conf(&conf);
        c.key(&bob);
        c.key(&carol);
    };
    world.alice().configure(&pair.one, keys).succeeds();

    // On the copy nothing is made that its master does not have.
    bob.ls_remote(&pair.two, "pub/bob/x").refused_by("is made on its master server1");
    bob.ssh(&pair.two, "create pub/bob/x").refused_by("create pub/bob/x");
    assert!(!pair.two.has_repo("pub/bob/x"));

    let work = bob.starts(&pair.one, "pub/bob/x");
    work.commit("a", "one");
    work.push(&["HEAD:main"]).succeeds().says("server1 ==== (pub/bob/x) ===> server2");
    pair.in_step("pub/bob/x");
    assert_eq!(own_file(&pair.two, "pub/bob/x", "gl-creator"), "bob");
    assert!(bob.may_read(&pair.two, "pub/bob/x") && !carol.may_read(&pair.two, "pub/bob/x"));

    // Roles travel without a push.
    bob.ssh(&pair.one, "perms pub/bob/x + READERS carol").succeeds();
    eventually("carol's right on the copy", || carol.may_read(&pair.two, "pub/bob/x"));
    bob.ssh(&pair.one, "perms pub/bob/x - READERS carol").succeeds();
    eventually("the loss of it", || !carol.may_read(&pair.two, "pub/bob/x"));
    bob.ssh(&pair.two, "perms pub/bob/x + READERS carol").refused_by("gets its roles on its master server1");
    bob.ssh(&pair.two, "info").succeeds().says("pub/bob/x\tcopy of server1");

    // Also when the other node is away and this one falls over.
    bob.ssh(&pair.one, "perms pub/bob/x + READERS carol").succeeds();
    eventually("carol's right on the copy again", || carol.may_read(&pair.two, "pub/bob/x"));
    pair.two.stop();
    bob.ssh(&pair.one, "perms pub/bob/x - READERS carol").succeeds();
    pair.one.kill9();
    pair.two.start();
    pair.one.start();
    eventually("the loss of it after a crash", || !carol.may_read(&pair.two, "pub/bob/x"));

    // An empty one is made there too.
    bob.ssh(&pair.one, "create pub/bob/empty").succeeds();
    eventually("the empty one on the copy", || own_file(&pair.two, "pub/bob/empty", "gl-creator") == "bob");

    // A creator whom the copy's own rules do not let is refused there.
    world.alice().configure(&pair.two, |c| c.conf(&conf.replace("C   = @all", "C   = bob"))).succeeds();
    carol.ssh(&pair.one, "create pub/carol/x").succeeds();
    let refused = world.alice().ssh(&pair.one, "mirror push server2 pub/carol/x");
    let _ = refused.fails();
    let by_hand = pair.one.gitmesh(&["mirror", "push", "server2", "pub/carol/x"]);
    by_hand.refused_by("^C any pub/carol/x carol DENIED by fallthru");
    assert!(!pair.two.has_repo("pub/carol/x"));
}

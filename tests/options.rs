//! The mirror options in all their spellings, by name, by pattern and for all; `%HOSTNAME`; and an admin repository
//! that is mirrored itself.

use crate::world::{World, eventually};

#[test]
fn all_spellings_are_the_same() {
    let world = World::new();
    let spelling = |repo: &str, master: &str, copies: &str| {
        format!("repo {repo}\n    RW+ = @all\n    {master} = server1\n    {copies} = server2\n")
    };
    let mut conf = String::new();
    for (repo, master, copies) in [
        ("option/copies", "option mirror.master", "option mirror.copies"),
        ("option/slaves", "option mirror.master", "option mirror.slaves"),
        ("option/numbered", "option mirror.master", "option mirror.copies-1"),
        ("config/gitolite", "config gitolite.mirror.master", "config gitolite.mirror.slaves"),
        ("config/gitmesh", "config gitmesh.mirror.master", "config gitmesh.mirror.slaves"),
        ("config/gitmesh-copies", "config gitmesh.mirror.master", "config gitmesh.mirror.copies"),
        ("config/options", "config gitolite-options.mirror.master", "config gitolite-options.mirror.copies"),
    ] {
        conf.push_str(&spelling(repo, master, copies));
    }
    conf.push_str("repo pattern/one pattern/two\n    RW+ = @all\n");
    conf.push_str("repo pattern/[a-z]+\n    option mirror.master = server1\n    option mirror.copies = server2\n");
    conf.push_str("repo alone\n    RW+ = @all\n");
    let pair = world.pair_with(&conf);
    let alice = world.alice();
    let info = alice.ssh(&pair.two, "info").succeeds().stdout;
    let copies: Vec<&str> = info.lines().filter(|l| l.contains("\tcopy of server1")).collect();
    let names: Vec<&str> = copies.iter().filter_map(|l| l.split('\t').nth(1)).collect();
    let wanted = [
        "config/gitmesh",
        "config/gitmesh-copies",
        "config/gitolite",
        "config/options",
        "option/copies",
        "option/numbered",
        "option/slaves",
        "pattern/one",
        "pattern/two",
    ];
    assert_eq!(names, wanted, "{info}");
    for repo in wanted {
        let work = alice.starts(&pair.one, repo);
        work.commit("a", repo);
        work.push(&["HEAD:main"]).succeeds().says(&format!("server1 ==== ({repo}) ===> server2"));
    }
    let work = alice.starts(&pair.one, "alone");
    work.commit("a", "alone");
    work.push(&["HEAD:main"]).succeeds().does_not_say("===>");
    for repo in wanted {
        pair.in_step(repo);
    }
    assert!(pair.two.refs("alone").is_empty());
}

#[test]
fn for_all_repositories_the_admin_repository_among_them() {
    let world = World::new();
    let conf = "\
repo @all
    option mirror.master = server1
    option mirror.copies = server2
repo testing
    RW+ = @all
";
    let pair = world.pair_with(conf);
    let alice = world.alice();
    let work = alice.clone_of(&pair.one, "testing");
    work.commit("a", "a");
    work.push(&["HEAD:main"]).succeeds();
    pair.in_step("testing");
    // server2 has a history of its own, which is not overwritten without an order.
    pair.one.gitmesh(&["mirror", "repair", "server2", "gitmesh-admin"]).succeeds();
    // The configuration of server1 has taken the place of server2's own, and every change of it arrives.
    pair.in_step("gitmesh-admin");
    let bob = world.actor("bob");
    alice.configure(&pair.one, |c| (c.conf(&format!("{conf}repo new\n    RW = bob\n")), c.key(&bob)).0).succeeds();
    pair.in_step("gitmesh-admin");
    eventually("bob to be known on server2", || bob.ssh(&pair.two, "info").code == Some(0));
    eventually("the new repository on server2", || pair.two.has_repo("new"));
    bob.ssh(&pair.two, "info").succeeds().says("new");
    // The copy takes no configuration from users.
    alice
        .configure(&pair.two, |c| c.conf("repo testing\n    RW+ = alice\n"))
        .refused_by("this is a copy; push to server1");
}

#[test]
fn the_node_s_name_in_the_configuration() {
    let world = World::new();
    let pair = world.pair();
    let alice = world.alice();
    for node in [&pair.one, &pair.two] {
        alice
            .configure(node, |c| {
                c.conf("include \"%HOSTNAME.conf\"\n");
                c.file("conf/server1.conf", "repo only-one\n    RW+ = @all\n");
                c.file("conf/server2.conf", "repo only-two\n    RW+ = @all\n    desc = on %HOSTNAME\n");
            })
            .succeeds();
    }
    alice.ssh(&pair.one, "info").succeeds().says("only-one").does_not_say("only-two");
    alice.ssh(&pair.two, "info").succeeds().says("only-two").does_not_say("only-one");
    let description = std::fs::read_to_string(pair.two.repo_dir("only-two").join("description")).unwrap();
    assert_eq!(description.trim(), "on server2");
}

#[test]
fn a_third_node_has_no_part() {
    let world = World::new();
    let conf = "repo testing\n    RW+ = @all\n    option mirror.master = server1\n    option mirror.copies = server2\n";
    let node = world.node("server3");
    world.alice().configure(&node, |c| c.conf(conf)).succeeds();
    world.alice().ls_remote(&node, "testing").refused_by("mirrored").says("server3");
}

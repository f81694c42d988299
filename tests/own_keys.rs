//! `keys`: users change their own keys, as commits of theirs, within what the configuration allows.

use std::time::{Duration, SystemTime};

use crate::world::{Actor, KeyKind, Node, World, eventually};

/// A node with bob, and `options` of the admin repository.
fn node_with_bob(world: &World, options: &str) -> (Node, Actor) {
    let (node, bob) = (world.node("server1"), world.actor("bob"));
    let conf = format!("repo testing\n    RW+ = @all\nrepo gitmesh-admin\n{options}\n");
    world.alice().configure(&node, |c| (c.conf(&conf), c.key(&bob)).0).succeeds();
    (node, bob)
}

/// The newest commit of the admin repository, as `FORMAT` of git-log(1) tells it.
fn newest(node: &Node, format: &str) -> String {
    let out = node.git("gitmesh-admin", &["log", "-1", &format!("--format={format}")]).succeeds().stdout;
    out.trim().to_owned()
}

#[test]
fn a_user_adds_dates_and_removes_keys() {
    let world = World::new();
    let (node, bob) = node_with_bob(&world, "");
    let laptop = bob.with_another_key(KeyKind::Ecdsa384);
    laptop.ssh(&node, "info").refused_by("none of the keys");
    let added = bob.ssh_saying(&node, "keys add laptop", &laptop.key_line()).succeeds();
    added.says("added keydir/bob@laptop.pub (ecdsa, SHA256:").says("is in force").does_not_say("plan:");
    laptop.ssh(&node, "info").succeeds().says("hello bob, ");
    assert_eq!(newest(&node, "%an <%ae> %cn %s"), "bob <bob@server1> gitmesh keys add: bob@laptop");
    assert!(newest(&node, "%b").contains(&bob.fingerprint()), "the key that it was ordered with");

    let listed = laptop.ssh(&node, "keys list").succeeds();
    let line = format!("{}\tecdsa\t384\tkeydir/bob@laptop.pub\tnever expires\tthis connection", laptop.fingerprint());
    listed.says(&line).says(&format!("{}\ted25519\t256\tkeydir/bob.pub\tnever expires\tused 20", bob.fingerprint()));
    bob.ssh(&node, "keys list --json").succeeds().says(r#""schema":"gitmesh.keys/1""#).says(r#""name":"laptop""#);

    bob.ssh(&node, "keys expire laptop 2099-01-01").succeeds().says("expires 2099-01-01T00:00:00Z");
    let file = node.git("gitmesh-admin", &["show", "HEAD:keydir/bob@laptop.pub"]).succeeds().stdout;
    assert!(file.starts_with("expiry-time=\"20990101Z\" ecdsa-sha2-nistp384 "), "{file}");
    laptop.ssh(&node, "info").succeeds();
    bob.ssh(&node, "keys expire laptop now").succeeds();
    laptop.ssh(&node, "info").refused_by("has expired, at 20").says("E0231").says("keys expire SHA256:");
    bob.ssh(&node, "keys list").succeeds().says("EXPIRED 20");
    bob.ssh(&node, "keys expire laptop never").succeeds();
    laptop.ssh(&node, "info").succeeds();

    // The pushed configuration and the commands are one history.
    let work = world.alice().clone_of(&node, "gitmesh-admin");
    assert!(work.dir.join("keydir/bob@laptop.pub").exists());

    bob.ssh(&node, &format!("keys remove {}", laptop.fingerprint())).succeeds().says("removed SHA256:");
    laptop.ssh(&node, "info").refused_by("none of the keys");
    bob.ssh(&node, "keys remove bob.pub").refused_by("last key of 'bob'").says("E0236");
    bob.ssh(&node, "info").succeeds();
    bob.ssh(&node, "keys remove --force bob.pub").succeeds();
    bob.ssh(&node, "info").refused_by("none of the keys");
    world.alice().ssh(&node, "keys remove --force alice.pub").refused_by("lock out the last administrator");
    world.alice().ssh(&node, "audit search --repo gitmesh-admin --kind push --user bob").succeeds().says("keys remove");
}

#[test]
fn what_may_not_be_added() {
    let world = World::new();
    let (node, bob) = node_with_bob(&world, "    option keys.types = ed25519 rsa-4096+");
    let alice = world.alice();
    let (new, rsa) = (bob.with_another_key(KeyKind::Ed25519), bob.with_another_key(KeyKind::Rsa3072));
    let add = |text: &str| bob.ssh_saying(&node, "keys add new", text);
    let before = newest(&node, "%H");
    add("").refused_by("it is empty").says("keys add <");
    add(&format!("{}\n{}\n", new.key_line(), rsa.key_line())).refused_by("more than one key");
    add(&std::fs::read_to_string(new.public_key().with_extension("")).unwrap()).refused_by("this is a private key");
    add(&rsa.key_line()).refused_by("rsa with 3072 bits are not taken here").says("rsa-4096+").says("E0233");
    add(&bob.key_line()).refused_by("'bob' has this key already, in keydir/bob.pub").says("E0234");
    let taken = add(&alice.key_line()).refused_by("in use already").says("E0234");
    assert!(!taken.has("alice"), "{taken:#?}");
    add(&std::fs::read_to_string(node.public_key()).unwrap()).refused_by("in use already");
    add(&"x".repeat(100_000)).refused_by("more than 65536 bytes");
    add(&format!("no-pty {}", new.key_line())).refused_by("only expiry-time and from").says("without the others");
    add(&format!("from=\"10.0.0.1/8\" {}", new.key_line())).refused_by("'10.0.0.1/8' in from= is no address");
    add(&format!("cert-authority {}", new.key_line())).refused_by("the key of a CA");
    bob.ssh_saying(&node, "keys add ../x", &new.key_line()).refused_by("give the key a name");
    bob.ssh_saying(&node, "keys add x --user carol", &new.key_line()).refused_by("for administrators");
    bob.ssh(&node, "keys list --user alice").refused_by("for administrators");
    bob.ssh(&node, "keys remove laptop").refused_by("no key of 'bob' is called 'laptop'");
    bob.ssh_saying(&node, "keys add x --expires 2020-01-01", &new.key_line()).refused_by("expired already");
    assert_eq!(newest(&node, "%H"), before, "nothing has changed");

    // For others: an administrator, and whoever is on the machine.
    let carol = world.actor("carol");
    alice.ssh_saying(&node, "keys add home --user carol", &carol.key_line()).succeeds().says("plan:");
    carol.ssh(&node, "info").succeeds();
    assert_eq!(newest(&node, "%an %s"), "alice keys add: carol@home");
    alice.ssh(&node, "keys list --all").succeeds().says("carol\tSHA256:").says("bob\tSHA256:");
    node.gitmesh(&["keys", "expire", "home", "30d", "--user", "carol"]).succeeds();
    assert_eq!(newest(&node, "%an"), "local");
    node.gitmesh(&["keys", "list"]).fails().says("--user NAME");
    alice.ssh_saying(&node, "keys add x --user server-x", &new.key_line()).refused_by("names a node");
}

#[test]
fn a_key_opens_from_where_it_is_bound_to() {
    let world = World::new();
    let (node, bob) = node_with_bob(&world, "");
    let (near, far) = (bob.with_another_key(KeyKind::Ed25519), bob.with_another_key(KeyKind::Ecdsa256));
    let bound = |key: &Actor, from: &str| format!("from=\"{from}\" {}", key.key_line());
    bob.ssh_saying(&node, "keys add near", &bound(&near, "127.0.0.0/8,!127.0.0.2")).succeeds();
    bob.ssh_saying(&node, "keys add far", &bound(&far, "10.*,192.0.2.7")).succeeds();
    let file = node.git("gitmesh-admin", &["show", "HEAD:keydir/bob@far.pub"]).succeeds().stdout;
    assert!(file.starts_with("from=\"10.*,192.0.2.7\" ecdsa-sha2-nistp256 "), "{file}");
    near.ssh(&node, "whoami").succeeds().says("user: bob");
    let refused = far.ssh(&node, "whoami").refused_by("may not be used from 127.0.0.1");
    refused.says(&far.fingerprint()).says("E0238");
    assert!(node.log().contains("(bound to other addresses, of bob)"), "{}", node.log());
    bob.ssh(&node, "keys list --json").succeeds().says(r#""from":"10.*,192.0.2.7""#);

    // On a connection that is open when the binding comes.
    let shared = near.shared_connection(&node);
    shared.run(&["whoami"]).succeeds();
    let file = format!("{}\n", bound(&near, "10.0.0.0/8"));
    world.alice().configure(&node, |c| c.file("keydir/bob@near.pub", file)).succeeds();
    shared.run(&["whoami"]).refused_by("may not be used from").says("E0238");
    near.ssh(&node, "whoami").refused_by("E0238");
    world.alice().ssh(&node, "audit search --kind auth").succeeds().says("bound to other addresses, of bob");
}

#[test]
fn what_an_administrator_has_limited_stays_so() {
    let world = World::new();
    let (node, bob) = node_with_bob(&world, "");
    let (alice, new, carol) = (world.alice(), bob.with_another_key(KeyKind::Ed25519), world.actor("carol"));
    alice.ssh(&node, "keys expire bob.pub 30d --user bob").succeeds();
    let add = |how: &str| bob.ssh_saying(&node, &format!("keys add new {how}"), &new.key_line());
    bob.ssh(&node, "keys expire bob.pub never").refused_by("what it makes cannot last longer").says("E0239");
    bob.ssh(&node, "keys expire bob.pub 31d").refused_by("E0239");
    add("").refused_by("E0239").says("give it an end until then: 20");
    add("--expires 31d").refused_by("E0239");
    add("--expires 29d").succeeds();
    bob.ssh(&node, "keys expire new 20d").succeeds();
    bob.ssh(&node, "keys expire new 25d").succeeds().says("expires 20");
    new.ssh(&node, "keys expire bob.pub 28d").succeeds();
    new.ssh(&node, "keys expire new 28d").refused_by("E0239");
    // Whoever may change the configuration may change this.
    alice.ssh(&node, "keys expire bob.pub never --user bob").succeeds();
    bob.ssh(&node, "keys expire new never").succeeds();

    let bound = format!("from=\"127.0.0.1\" {}", carol.key_line());
    alice.ssh_saying(&node, "keys add home --user carol", &bound).succeeds();
    let second = carol.with_another_key(KeyKind::Ed25519);
    let add = |text: &str| carol.ssh_saying(&node, "keys add second", text);
    add(&second.key_line()).refused_by("must be bound likewise").says("from=\"127.0.0.1\"").says("E0239");
    add(&format!("from=\"*\" {}", second.key_line())).refused_by("E0239");
    add(&format!("from=\"127.0.0.1\" {}", second.key_line())).succeeds();

    // With approvals, what nobody approves is an administrator's.
    alice.configure(&node, |c| c.conf("repo gitmesh-admin\n    option keys.approve = yes\n")).succeeds();
    bob.ssh(&node, "keys expire new 5d").succeeds();
    bob.ssh(&node, "keys expire new 6d").refused_by("needs an administrator").says("E0239");
    alice.ssh(&node, "keys expire new 6d --user bob").succeeds();
}

#[test]
fn users_may_be_kept_from_it() {
    let world = World::new();
    let (node, bob) = node_with_bob(&world, "    option keys.self = no");
    let new = bob.with_another_key(KeyKind::Ed25519);
    bob.ssh_saying(&node, "keys add new", &new.key_line()).refused_by("E0232");
    bob.ssh(&node, "keys expire bob.pub 30d").refused_by("E0232");
    bob.ssh(&node, "keys list").succeeds();
    world.alice().ssh_saying(&node, "keys add new --user bob", &new.key_line()).succeeds();
    new.ssh(&node, "info").succeeds();
    world.alice().configure(&node, |c| c.conf("repo gitmesh-admin\n    option commands.disable = keys\n")).succeeds();
    bob.ssh(&node, "keys list").refused_by("E0217");
}

#[test]
fn a_new_key_proves_itself() {
    let world = World::new();
    let (node, bob) = node_with_bob(&world, "    option keys.proof = yes");
    let (new, other) = (bob.with_another_key(KeyKind::Rsa3072), bob.with_another_key(KeyKind::Ed25519));
    let asked = bob.ssh_saying(&node, "keys add new", &new.key_line()).refused_by("E0235").says("ssh-keygen -Y sign");
    assert_eq!(asked.code, Some(3));
    let add = |text: &str| bob.ssh_saying(&node, "keys add new", &format!("{}\n{text}", new.key_line()));
    let text = asked.stdout;
    // Each refusal gives out another text.
    let text = add(&other.signature("gitmesh-key", &text)).refused_by("by another key").stdout;
    let text = add(&new.signature("git", &text)).refused_by("another '-n' than gitmesh-key").stdout;
    let text = add(&new.signature("gitmesh-key", &format!("{text}x"))).refused_by("not of the text").stdout;
    let old = new.signature("gitmesh-key", &text);
    add(&old[..old.len() / 2]).refused_by("damaged");
    let text = add(&old).refused_by("not of the text").stdout;
    new.ssh(&node, "info").fails();
    add(&new.signature("gitmesh-key", &text)).succeeds().says("added keydir/bob@new.pub");
    new.ssh(&node, "info").succeeds().says("hello bob");
    // An administrator vouches for others.
    let carol = world.actor("carol");
    world.alice().ssh_saying(&node, "keys add home --user carol", &carol.key_line()).succeeds();
}

#[test]
fn a_second_key_approves() {
    let world = World::new();
    let (node, bob) = node_with_bob(&world, "    option keys.approve = yes");
    let alice = world.alice();
    let (second, third) = (bob.with_another_key(KeyKind::Ed25519), bob.with_another_key(KeyKind::Ecdsa256));
    let asked = bob.ssh_saying(&node, "keys add second", &second.key_line()).fails().says("waits for approval");
    let asked = asked.says("help: an administrator: ");
    assert_eq!(asked.code, Some(3));
    let code = asked.stdout.trim().to_owned();
    second.ssh(&node, "info").fails();
    bob.ssh(&node, &format!("keys approve {code}")).refused_by("cannot approve it").says("E0237");
    let carol = world.actor("carol");
    alice.configure(&node, |c| c.key(&carol)).succeeds();
    carol.ssh(&node, &format!("keys approve {code}")).refused_by("nothing waits");
    bob.ssh(&node, "keys list").succeeds().says(&format!("waits for: keys approve {code}"));
    // It waits over a restart.
    node.stop();
    node.start();
    alice.ssh(&node, &format!("keys approve {code}")).succeeds().says("added keydir/bob@second.pub");
    second.ssh(&node, "info").succeeds().says("hello bob");
    assert_eq!(newest(&node, "%an"), "alice");
    alice.ssh(&node, &format!("keys approve {code}")).refused_by("nothing waits");

    let asked = bob.ssh_saying(&node, "keys add third", &third.key_line()).fails().says("with another key of yours");
    let code = asked.stdout.trim().to_owned();
    let again = bob.ssh_saying(&node, "keys add third", &third.key_line()).fails();
    assert_eq!(again.stdout.trim(), code, "asked again, it waits once");
    second.ssh(&node, &format!("keys approve {code}")).succeeds();
    third.ssh(&node, "info").succeeds();
    assert_eq!(newest(&node, "%an"), "bob");

    let fourth = bob.with_another_key(KeyKind::Ecdsa521);
    let code = bob.ssh_saying(&node, "keys add fourth", &fourth.key_line()).fails().stdout;
    let code = code.trim();
    bob.ssh(&node, &format!("keys reject {code}")).succeeds().says("nothing was added");
    alice.ssh(&node, &format!("keys approve {code}")).refused_by("nothing waits");
}

#[test]
fn an_open_connection_ends_with_its_key() {
    let world = World::new();
    let (node, bob) = node_with_bob(&world, "");
    let laptop = bob.with_another_key(KeyKind::Ed25519);
    bob.ssh_saying(&node, "keys add laptop", &laptop.key_line()).succeeds();
    let shared = laptop.shared_connection(&node);
    shared.run(&["whoami"]).succeeds();
    bob.ssh(&node, "keys expire laptop 3s").succeeds();
    let until = SystemTime::now() + Duration::from_secs(3);
    eventually("the key to expire", || shared.run(&["whoami"]).code != Some(0));
    assert!(SystemTime::now() + Duration::from_secs(2) > until, "not long before its time");
    shared.run(&["whoami"]).refused_by("has expired, at 20").says("E0231");
    bob.ssh(&node, "whoami").succeeds();
}

#[test]
fn through_a_replica_of_the_configuration() {
    let world = World::new();
    let conf = "repo gitmesh-admin\n    option mirror.master = server1\n    option mirror.copies = server2\n    \
                option mirror.redirectOK = all\n    option keys.proof = yes\nrepo testing\n    RW+ = @all\n";
    let (pair, bob) = (world.pair_with(conf), world.actor("bob"));
    pair.one.gitmesh(&["mirror", "repair", "server2", "gitmesh-admin"]).succeeds();
    world.alice().configure(&pair.one, |c| c.key(&bob)).succeeds();
    eventually("bob to be known", || bob.ssh(&pair.two, "info").code == Some(0));
    let new = bob.with_another_key(KeyKind::Ed25519);
    // bob has no right in gitmesh-admin, and needs none.
    let asked = bob.ssh_saying(&pair.two, "keys add new", &new.key_line()).refused_by("E0235");
    let signed = format!("{}\n{}", new.key_line(), new.signature("gitmesh-key", &asked.stdout));
    bob.ssh_saying(&pair.two, "keys add new", &signed).succeeds().says("added keydir/bob@new.pub");
    assert_eq!(newest(&pair.one, "%an <%ae>"), "bob <bob@server1>");
    for node in [&pair.one, &pair.two] {
        eventually("the new key", || new.ssh(node, "info").has("hello bob"));
    }
    new.ssh(&pair.two, "keys remove bob.pub").succeeds();
    eventually("the old key to go", || bob.ssh(&pair.two, "info").code != Some(0));
    new.ssh(&pair.two, "keys remove new").refused_by("E0236").says("node: server1, the master");
    // While the master cannot be reached nothing changes, and the list is there.
    pair.back.cut();
    new.ssh(&pair.two, "keys list").succeeds().says("this connection");
    new.ssh(&pair.two, "keys expire new 30d").refused_by("E0222");
}

//! OpenSSH user certificates (`[ssh] user_ca`): signed by a real ssh-keygen, shown by a real ssh.

use std::fs;
use std::process::Command;
use std::sync::Arc;

use russh::client::KeyboardInteractiveAuthResponse;

use crate::security_keys::Trusting;
use crate::world::{Actor, Answer, KeyKind, Node, World, eventually};

const CONF: &str = "repo testing\n    RW+ = bob\n    R   = @all\n";

/// The CA signs a key; `words` are for ssh-keygen.
#[track_caller]
fn sign(ca: &Actor, key: &Actor, words: &str) {
    let mut keygen = Command::new("ssh-keygen");
    keygen.arg("-q").args(words.split_whitespace()).arg("-s").arg(ca.public_key().with_extension(""));
    keygen.arg(key.public_key());
    Answer::of(keygen).succeeds();
}

/// ssh offers a plain key before its certificate; thus it offers the certificate alone.
const CERTIFICATE_ALONE: [&str; 4] =
    ["-o", "PubkeyAcceptedAlgorithms=ssh-ed25519-cert-v01@openssh.com", "git@server1", "whoami"];

/// What a client reads that shows the certificate whatever is in it; ssh itself does not show each.
fn shown(node: &Node, key: &Actor) -> String {
    let file = key.public_key().with_extension("");
    let secret = russh::keys::load_secret_key(&file, None).unwrap();
    let certificate = russh::keys::load_openssh_certificate(format!("{}-cert.pub", file.display())).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let config = Arc::new(russh::client::Config::default());
        let mut server = russh::client::connect(config, node.socket_address(), Trusting).await.unwrap();
        if server.authenticate_openssh_cert("git", Arc::new(secret), certificate).await.unwrap().success() {
            return "in".to_owned();
        }
        match server.authenticate_keyboard_interactive_start("git", None).await.unwrap() {
            KeyboardInteractiveAuthResponse::InfoRequest { instructions, .. } => instructions,
            other => format!("{other:?}"),
        }
    })
}

/// The node believes these CAs from its next start, or its next look at its settings.
fn believe(node: &Node, authorities: &[&Actor]) {
    let lines: Vec<String> = authorities.iter().map(|ca| ca.key_line()).collect();
    fs::write(node.data().join("user-ca.pub"), format!("# those of the house\n{}\n", lines.join("\n"))).unwrap();
    node.set("user_ca", "\"user-ca.pub\"");
}

fn believing(world: &World, authorities: &[&Actor]) -> Node {
    let node = world.prepare("server1");
    believe(&node, authorities);
    node.start();
    world.alice().configure(&node, |c| c.conf(CONF)).succeeds().does_not_say("W0304");
    node
}

#[test]
fn a_certificate_is_as_good_as_a_key() {
    let world = World::new();
    let (ca, rsa) = (world.actor("ca"), world.actor_with("rsa-ca", KeyKind::Rsa3072));
    let node = believing(&world, &[&ca, &rsa]);
    let bob = world.actor("bob");
    bob.ssh(&node, "whoami").refused_by("none of the keys").says(&bob.fingerprint());
    sign(&ca, &bob, "-I laptop -z 7 -n bob");
    let told = bob.ssh(&node, "whoami").succeeds().says("user: bob").says(&bob.fingerprint());
    told.says(&format!("certificate: \"laptop\" (serial 7) by CA {}", ca.fingerprint()));
    bob.ssh(&node, "whoami --json").succeeds().says(r#""serial":7"#).says(&format!(r#""ca":"{}""#, ca.fingerprint()));
    let info = bob.ssh(&node, "info").succeeds().says("hello bob").says("R W\ttesting");
    info.says(&format!("key {}, certificate \"laptop\"", bob.fingerprint())).says(&ca.fingerprint());
    bob.ssh(&node, "info -json").succeeds().says("\"id\": \"laptop\"").says(&ca.fingerprint());
    let work = bob.starts(&node, "testing");
    work.commit("a", "1");
    work.push(&["HEAD:main"]).succeeds();
    bob.clone_of(&node, "testing");
    let found = world.alice().ssh(&node, "audit search --user bob --kind push --json").succeeds();
    found.says(&bob.fingerprint()).says("laptop").says(&ca.fingerprint());
    assert!(node.log().contains("authenticated by a certificate"), "{}", node.log());

    // Of other types, by another CA, for the login name too, and with an address that is ours.
    for (kind, ca, words) in [
        (KeyKind::Ecdsa256, &rsa, "-t rsa-sha2-512 -I x -n git,bob"),
        (KeyKind::Rsa3072, &ca, "-I x -n bob -O source-address=127.0.0.0/8"),
        (KeyKind::Ed25519, &rsa, "-t rsa-sha2-256 -I x -n bob -V always:forever -O clear"),
    ] {
        let key = bob.with_another_key(kind);
        sign(ca, &key, words);
        key.ssh(&node, "whoami").succeeds().says("user: bob");
    }
    // Plain keys go on working, and a certificate of such a key too.
    let alice = world.alice();
    alice.ssh(&node, "whoami").succeeds().says("user: alice").does_not_say("certificate");
    sign(&ca, alice, "-I a -n alice");
    alice.ssh_with(&CERTIFICATE_ALONE).succeeds().says("certificate: \"a\"").says("administrator: yes");
    world.actor("mallory").ssh(&node, "info").refused_by("none of the keys").says("offered: ssh-ed25519 SHA256:");

    // It adds no key that would be there when it has ended.
    let second = bob.with_another_key(KeyKind::Ecdsa521);
    bob.ssh_saying(&node, "keys add x", &second.key_line()).refused_by("a certificate ends").says("E0239");
}

#[test]
fn what_opens_nothing() {
    let world = World::new();
    let (ca, other, bob, carol) = (world.actor("ca"), world.actor("other"), world.actor("bob"), world.actor("carol"));
    let node = believing(&world, &[&ca]);
    let dead = world.actor("dead");
    world.alice().configure(&node, |c| c.key(&carol)).succeeds();
    world.alice().ssh_saying(&node, "keys add dead --user bob", &dead.key_line()).succeeds();
    world.alice().ssh(&node, "keys expire dead now --user bob --force").succeeds();
    sign(&ca, &bob, "-I good -n bob");
    bob.ssh(&node, "whoami").succeeds();
    let by_other = format!("it is signed by the CA {}, which is not known here", other.fingerprint());
    for (by, words, told) in [
        (&other, "-n bob", by_other.as_str()),
        (&ca, "", "it names no principal"),
        (&ca, "-n git", "it names no principal"),
        (&ca, "-n bob,carol", "it names several principals: bob, carol"),
        (&ca, "-n server-x", "its principal 'server-x' is no user's name"),
        (&ca, "-n ../x", "its principal '../x' is no user's name"),
        (&ca, "-n bob -O source-address=10.0.0.0/8", "its source-address does not hold 127.0.0.1"),
        (&ca, "-n bob -O force-command=x", "its critical option 'force-command' cannot be kept here"),
        (&ca, "-n bob -O verify-required", "its critical option 'verify-required' cannot be kept here"),
        (&ca, "-n bob -O critical:x@example.org=1", "its critical option 'x@example.org' cannot be kept here"),
    ] {
        sign(by, &bob, &format!("-I bad {words}"));
        bob.ssh(&node, "whoami").refused_by(told).says("E0230").does_not_say("user: bob");
        assert!(node.log().contains(told), "the log does not say: {told}\n{}", node.log());
    }
    // ssh shows no host certificate by itself.
    sign(&ca, &bob, "-I bad -h -n bob");
    let told = shown(&node, &bob);
    assert!(told.contains("it is a host certificate"), "{told}");
    assert!(node.log().contains("it is a host certificate"), "{}", node.log());
    // russh refuses these before anybody is asked; its line is in the log, and the client is told of the chance.
    for words in ["-V -2d:-1d", "-V +1d:+2d"] {
        let before = node.log().matches("Certificate is expired or not yet valid").count();
        sign(&ca, &bob, &format!("-I bad -n bob {words}"));
        let told = shown(&node, &bob);
        assert!(told.contains("A certificate that has expired, is not valid yet"), "{told}");
        bob.ssh(&node, "whoami").refused_by("none of the keys").says("A certificate that has expired");
        assert!(node.log().matches("Certificate is expired or not yet valid").count() > before, "{}", node.log());
    }
    // What keydir says of a key stands.
    sign(&ca, &carol, "-I stolen -n bob");
    carol.ssh(&node, "whoami").succeeds().says("user: carol").does_not_say("certificate");
    carol.ssh_with(&CERTIFICATE_ALONE).refused_by("its key belongs to somebody else here").says("E0230");
    assert!(node.log().contains("its key belongs to somebody else here"), "{}", node.log());
    sign(&ca, &dead, "-I late -n bob");
    dead.ssh(&node, "whoami").refused_by("has expired, at 20").says("E0231");
    dead.ssh_with(&CERTIFICATE_ALONE).refused_by("has expired, at 20").says("E0231");
    world.alice().ssh(&node, "audit search --kind auth").succeeds().says("it is a host certificate");
    // Without a CA nothing of it counts.
    sign(&ca, &bob, "-I good -n bob");
    bob.ssh(&node, "whoami").succeeds();
    node.set("user_ca", "\"\"");
    eventually("the CA to go", || bob.ssh(&node, "whoami").code != Some(0));
    bob.ssh(&node, "whoami").refused_by("none of the keys");
}

#[test]
fn a_certificate_ends_on_connections_that_are_open() {
    let world = World::new();
    let (ca, bob, carol) = (world.actor("ca"), world.actor("bob"), world.actor("carol"));
    let node = believing(&world, &[&ca]);
    sign(&ca, &carol, "-I carols -z 5 -n carol");
    let carols = carol.shared_connection(&node);
    carols.run(&["whoami"]).succeeds().says("user: carol");
    sign(&ca, &bob, "-I short -n bob -V -1m:+10s");
    let bobs = bob.shared_connection(&node);
    bobs.run(&["whoami"]).succeeds().says("user: bob");
    eventually("the certificate to end", || bobs.run(&["whoami"]).code != Some(0));
    bobs.run(&["whoami"]).refused_by("it has expired, at 20").says("E0230");
    carols.run(&["whoami"]).succeeds();

    let work = carol.starts(&node, "testing");
    work.commit("a", "1");
    node.set("user_ca_revoked", "[\"5\"]");
    eventually("the serial number to be revoked", || carols.run(&["whoami"]).code != Some(0));
    carols.run(&["whoami"]).refused_by("it has been revoked").says("E0230");
    carol.ssh(&node, "whoami").refused_by("it has been revoked");
    node.set("user_ca_revoked", &format!("[\"{}\"]", bob.fingerprint()));
    eventually("carol to be back", || carols.run(&["whoami"]).code == Some(0));
    sign(&ca, &bob, "-I again -n bob");
    bob.ssh(&node, "whoami").refused_by("it has been revoked");
    // What cannot be read changes nothing.
    node.expect_errors();
    node.set("user_ca", "\"nothing-there.pub\"");
    eventually("the log to say so", || node.log().contains("nothing-there.pub"));
    carols.run(&["whoami"]).succeeds();
}

#[test]
fn through_a_replica() {
    let world = World::new();
    let conf = "repo testing\n    RW+ = @all\n    option mirror.master = server1\n    option mirror.copies = server2\n    \
                option mirror.redirectOK = all\nrepo pub/CREATOR/..*\n    C   = @all\n    RW+ = CREATOR\n    \
                option mirror.master = server1\n    option mirror.copies = server2\n    option mirror.redirectOK = all\n";
    let pair = world.pair();
    let (ca, bob) = (world.actor("ca"), world.actor("bob"));
    for node in [&pair.two, &pair.one] {
        world.alice().configure(node, |c| c.conf(conf)).succeeds();
    }
    believe(&pair.two, &[&ca]);
    sign(&ca, &bob, "-I laptop -n bob");
    eventually("the CA to be known", || bob.ssh(&pair.two, "whoami").code == Some(0));
    let work = bob.clone_of(&pair.two, "testing");
    work.commit("a", "1");
    let refused = work.push(&["HEAD:main"]).refused_by("server1 does not know the user 'bob' of server2");
    refused.says("[ssh] user_ca").says("E0221");
    believe(&pair.one, &[&ca]);
    eventually("the master to know the CA", || bob.ssh(&pair.one, "whoami").code == Some(0));
    work.push(&["HEAD:main"]).succeeds().says("==== (testing) ===>");
    bob.ssh(&pair.two, "create pub/bob/x").succeeds();
    let found = world.alice().ssh(&pair.one, "audit search --user bob --kind push --json").succeeds();
    found.says("laptop").says(&ca.fingerprint()).says("server2");
    // The master's word about what is revoked counts there.
    pair.one.set("user_ca_revoked", &format!("[\"{}\"]", bob.fingerprint()));
    eventually("the master to know it", || bob.ssh(&pair.one, "whoami").code != Some(0));
    work.commit("a", "2");
    work.push(&["HEAD:main"]).refused_by("does not count on server1");
}

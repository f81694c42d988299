//! Who gets in: keys of each kind, and what is told to those who do not.

use crate::world::{Actor, KeyKind, World, eventually};

#[test]
fn every_kind_of_key_logs_in() {
    let world = World::new();
    let node = world.node("server1");
    let people: Vec<Actor> =
        KeyKind::ALL.iter().map(|kind| world.actor_with(&format!("user-{kind:?}").to_lowercase(), *kind)).collect();
    world.alice().configure(&node, |c| people.iter().for_each(|p| c.key(p))).succeeds();
    for person in &people {
        person.ssh(&node, "").succeeds().says(&format!("hello {}, this is git@server1", person.name()));
        person.clone_of(&node, "testing");
    }
}

#[test]
fn several_keys_belong_to_one_user() {
    let world = World::new();
    let node = world.node("server1");
    let bob = world.actor("bob");
    let (laptop, old) = (bob.with_another_key(KeyKind::Ecdsa256), bob.with_another_key(KeyKind::Rsa3072));
    let push = world.alice().configure(&node, |c| {
        c.file("keydir/work/bob.pub", format!("# two keys in a file\n{}\n\n{}\n", bob.key_line(), old.key_line()));
        c.file("keydir/home/bob@laptop.pub", laptop.key_line());
    });
    push.succeeds();
    for key in [&bob, &laptop, &old] {
        key.ssh(&node, "info").succeeds().says("hello bob, ");
    }
    // A key that is taken away is gone for the next connection.
    world.alice().configure(&node, |c| c.remove("keydir/home/bob@laptop.pub")).succeeds();
    laptop.ssh(&node, "info").refused_by("Permission denied");
    bob.ssh(&node, "info").succeeds();
}

#[test]
fn an_unknown_key_is_told_so_once_with_its_fingerprint() {
    let world = World::new();
    let node = world.node("server1");
    let mallory = world.actor("mallory");
    let told = mallory.ssh(&node, "info").refused_by("Permission denied");
    let told = told.says(&mallory.fingerprint()).says("server1").says("keydir/");
    assert_eq!(told.stderr.matches("none of the keys").count(), 1, "{told:#?}");
    assert_eq!(told.stdout, "");
    eventually("a line for fail2ban", || node.log().contains("auth failed") && node.log().contains("127.0.0.1"));
    // git shows the same text.
    mallory.ls_remote(&node, "testing").refused_by(&mallory.fingerprint());
    // No key at all.
    let none = mallory.ssh_with(&["-o", "PubkeyAuthentication=no", "git@server1"]).refused_by("no key at all");
    assert!(!none.has("SHA256"), "{none:#?}");
}

#[test]
fn a_wrong_login_name_is_told_the_right_one() {
    let world = World::new();
    let node = world.node("server1");
    let told = world.alice().ssh_with(&["alice@server1", "info"]).refused_by("Permission denied");
    told.says("log in as 'git', not as 'alice'");
    assert!(node.is_running());
}

#[test]
fn passwords_are_never_asked_for() {
    let world = World::new();
    world.node("server1");
    let methods = world.actor("bob").ssh_with(&["-v", "-o", "PreferredAuthentications=none", "git@server1"]).fails();
    methods.says("Authentications that can continue: publickey,keyboard-interactive").does_not_say("password,");
}

#[test]
fn only_ciphers_and_exchanges_of_today() {
    let world = World::new();
    world.node("server1");
    let alice = world.alice();
    alice.ssh_with(&["-o", "KexAlgorithms=curve25519-sha256", "git@server1", "whoami"]).succeeds();
    for (option, why) in [
        ("KexAlgorithms=diffie-hellman-group14-sha1", "no matching key exchange method found"),
        ("Ciphers=aes128-cbc", "no matching cipher found"),
        ("HostKeyAlgorithms=ssh-rsa", "no matching host key type found"),
    ] {
        alice.ssh_with(&["-o", option, "git@server1", "whoami"]).refused_by(why);
    }
}

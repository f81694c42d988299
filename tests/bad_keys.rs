//! Bad pushes to the admin repository: keys.

use std::fs;

use crate::bad_conf::refused;
use crate::world::{Answer, World};

#[test]
fn keys_that_are_none() {
    let world = World::new();
    let node = world.node("server1");
    let bob = world.actor("bob");
    let good = bob.key_line();
    let private = fs::read_to_string(world.dir().join("bob.key")).unwrap();
    let mut export = world.command("ssh-keygen");
    export.args(["-e", "-m", "RFC4716", "-f"]).arg(bob.public_key());
    let rfc4716 = Answer::of(export).succeeds().stdout;
    let key = |text: &str| {
        // A key's own letters differ from run to run.
        let told = refused(&world, &node, |c| c.file("keydir/bob.pub", text));
        let letters = regex::Regex::new("[A-Za-z0-9+/]{30,}={0,2}|-----+").unwrap();
        letters.replace_all(&told, "LETTERS").into_owned()
    };
    insta::assert_snapshot!(key("bob\n"), @"");
    insta::assert_snapshot!(key(""), @"");
    insta::assert_snapshot!(key(&private), @"");
    insta::assert_snapshot!(key(&rfc4716), @"");
    insta::assert_snapshot!(key("PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n"), @"");
    insta::assert_snapshot!(key(&format!("'{good}'\n")), @"");
    insta::assert_snapshot!(key(&format!("# mine\n{}\n", &good[..50])), @"");
    let blob = good.split(' ').nth(1).unwrap();
    insta::assert_snapshot!(key(&format!("ssh-rsa {blob} bob\n")), @"");
}

#[test]
fn keys_of_somebody_else() {
    let world = World::new();
    let node = world.node("server1");
    let alice = world.alice().key_line();
    let own = fs::read_to_string(node.public_key()).unwrap();
    insta::assert_snapshot!(refused(&world, &node, |c| c.file("keydir/bob.pub", &alice)), @"");
    insta::assert_snapshot!(refused(&world, &node, |c| c.file("keydir/bob.pub", &own)), @"");
    let other = world.prepare("server2");
    let _link = world.introduce(&other, &node);
    let peer = fs::read_to_string(other.public_key()).unwrap();
    insta::assert_snapshot!(refused(&world, &node, |c| c.file("keydir/bob.pub", &peer)), @"");
}

#[test]
fn file_names_that_name_nobody() {
    let world = World::new();
    let node = world.node("server1");
    let bob = world.actor("bob").key_line();
    let named = |name: &str| refused(&world, &node, |c| c.file(&format!("keydir/{name}"), &bob));
    insta::assert_snapshot!(named(".pub"), @"");
    insta::assert_snapshot!(named("-oProxyCommand=x.pub"), @"");
    insta::assert_snapshot!(named("bob smith.pub"), @"");
    insta::assert_snapshot!(named("a/@laptop.pub"), @"");
}

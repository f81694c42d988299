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
    let key = |text: &str| refused(&world, &node, |c| c.file("keydir/bob.pub", text));
    insta::assert_snapshot!(key("bob\n"), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0143]: no public key: this is no public key
     --> keydir/bob.pub:1:1
      |
    1 | bob
      | ^^^
      |
    help: it should look like: ssh-ed25519 AAAAC3... alice@laptop
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
    insta::assert_snapshot!(key(""), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0142]: no public key: it is empty
    --> keydir/bob.pub
     |
    help: put the line of a file such as ~/.ssh/id_ed25519.pub here
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
    insta::assert_snapshot!(key(&private), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0143]: no public key: this is a private key
     --> keydir/bob.pub:1:1
      |
    1 | -----BEGIN OPENSSH PRIVATE KEY-----
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
    help: use the .pub file beside it, and make a new key pair, since this one has been shown
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
    insta::assert_snapshot!(key(&rfc4716), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0143]: no public key: this is RFC 4716 (ssh.com, PuTTY export) form
     --> keydir/bob.pub:1:1
      |
    1 | ---- BEGIN SSH2 PUBLIC KEY ----
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
    help: convert it with: ssh-keygen -i -f keydir/bob.pub
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
    insta::assert_snapshot!(key("PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n"), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0143]: no public key: this is a PuTTY key file, private key included
     --> keydir/bob.pub:1:1
      |
    1 | PuTTY-User-Key-File-3: ssh-ed25519
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
    help: open it in PuTTYgen and copy the text of 'Public key for pasting into OpenSSH authorized_keys file'
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
    insta::assert_snapshot!(key(&format!("'{good}'\n")), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0143]: no public key: there are quotes around the key
     --> keydir/bob.pub:1:1
      |
    1 | 'ssh-ed25519 AAAAKEY bob'
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
    help: take them away
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
    insta::assert_snapshot!(key(&format!("# mine\n{}\n", &good[..50])), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0143]: no public key: the key is cut off or damaged
     --> keydir/bob.pub:2:1
      |
    2 | ssh-ed25519 AAAAKEY
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
    help: copy the line again, whole and without line breaks
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
    let blob = good.split(' ').nth(1).unwrap();
    insta::assert_snapshot!(key(&format!("ssh-rsa {blob} bob\n")), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0143]: no public key: the line says 'ssh-rsa' but the key inside is 'ssh-ed25519'
     --> keydir/bob.pub:1:1
      |
    1 | ssh-rsa AAAAKEY bob
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
    help: copy the line again
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
}

#[test]
fn keys_of_somebody_else() {
    let world = World::new();
    let node = world.node("server1");
    let alice = world.alice().key_line();
    let own = fs::read_to_string(node.public_key()).unwrap();
    // As in gitolite: the first file by its path says whose it is.
    let told = world.alice().configure(&node, |c| c.file("keydir/bob.pub", &alice)).succeeds();
    told.says("W0145").says("whoever logs in with this key is alice, not bob").says("keydir/alice.pub:1");
    world.alice().ssh(&node, "whoami").succeeds().says("user: alice");
    insta::assert_snapshot!(refused(&world, &node, |c| c.file("keydir/bob.pub", &own)), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0305]: the key of user 'bob' is the identity of node 'server1'
     --> keydir/bob.pub:1:1
      |
    1 | ssh-ed25519 AAAAKEY server1
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
    help: give 'bob' a key of their own; whoever holds this one counts as the node
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
    let other = world.prepare("server2");
    let _link = world.introduce(&other, &node);
    let peer = fs::read_to_string(other.public_key()).unwrap();
    insta::assert_snapshot!(refused(&world, &node, |c| c.file("keydir/bob.pub", &peer)), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0305]: the key of user 'bob' is the identity of node 'server2'
     --> keydir/bob.pub:1:1
      |
    1 | ssh-ed25519 AAAAKEY server2
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
    help: give 'bob' a key of their own; whoever holds this one counts as the node
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
}

#[test]
fn file_names_that_name_nobody() {
    let world = World::new();
    let node = world.node("server1");
    let bob = world.actor("bob").key_line();
    let named = |name: &str| refused(&world, &node, |c| c.file(&format!("keydir/{name}"), &bob));
    insta::assert_snapshot!(named(".pub"), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0141]: '.pub' names no user: the name is empty
    --> keydir/.pub
     |
    help: call the file NAME.pub or NAME@PLACE.pub; letters, digits and '-_.@+' make a name, and a letter or a digit starts it
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
    insta::assert_snapshot!(named("-oProxyCommand=x.pub"), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0141]: '-oProxyCommand=x.pub' names no user: '-' may not start a name; a letter or a digit must
    --> keydir/-oProxyCommand=x.pub
     |
    help: call the file NAME.pub or NAME@PLACE.pub; letters, digits and '-_.@+' make a name, and a letter or a digit starts it
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
    insta::assert_snapshot!(named("bob smith.pub"), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0141]: 'bob smith.pub' names no user: ' ' is not allowed in a name
    --> keydir/bob smith.pub
     |
    help: call the file NAME.pub or NAME@PLACE.pub; letters, digits and '-_.@+' make a name, and a letter or a digit starts it
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
    insta::assert_snapshot!(named("a/@laptop.pub"), @r#"
    FATAL: the configuration is refused: 1 error; nothing was changed
    error[E0141]: '@laptop.pub' names no user: the name is empty
    --> keydir/a/@laptop.pub
     |
    help: call the file NAME.pub or NAME@PLACE.pub; letters, digits and '-_.@+' make a name, and a letter or a digit starts it
     ! [remote rejected] HEAD -> main (the configuration is refused; nothing has changed [E0248])
    "#);
}

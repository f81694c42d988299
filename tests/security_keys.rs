//! FIDO keys (`sk-ssh-ed25519@openssh.com`): a real ssh, with an agent that plays the authenticator in software.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;

use data_encoding::BASE64;
use russh::client::KeyboardInteractiveAuthResponse;
use russh::keys::{HashAlg, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use sha2::{Digest as _, Sha256};
use ssh_key::private::{Ed25519Keypair, KeypairData};
use ssh_key::{PrivateKey, SigningKey};

use crate::world::{Answer, KeyKind, World};

const TYPE: &str = "sk-ssh-ed25519@openssh.com";
/// Somebody has touched it (OpenSSH, PROTOCOL.u2f).
const TOUCHED: u8 = 1;

fn string(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

/// An authenticator in software.
struct Token {
    key: PrivateKey,
    flags: u8,
    /// A signature over something else.
    broken: bool,
}

impl Token {
    fn new(seed: u8) -> Self {
        let pair = KeypairData::from(Ed25519Keypair::from_seed(&[seed; 32]));
        Self { key: PrivateKey::new(pair, "token").unwrap(), flags: TOUCHED, broken: false }
    }

    fn blob(&self) -> Vec<u8> {
        let public = self.key.public_key().key_data().ed25519().unwrap().0;
        [string(TYPE.as_bytes()), string(&public), string(b"ssh:")].concat()
    }

    fn line(&self) -> String {
        format!("{TYPE} {} token", BASE64.encode(&self.blob()))
    }

    fn sign(&self, data: &[u8]) -> Vec<u8> {
        fn sign<K: SigningKey>(key: &K, data: &[u8]) -> Vec<u8> {
            key.sign(data).as_bytes().to_vec()
        }
        let end = [&[self.flags][..], &7_u32.to_be_bytes()].concat();
        let message: &[u8] = if self.broken { b"another" } else { data };
        let signed = [&Sha256::digest(b"ssh:")[..], &end, &Sha256::digest(message)].concat();
        [string(TYPE.as_bytes()), string(&sign(&self.key, &signed)), end].concat()
    }

    /// One client of the agent (draft-miller-ssh-agent): which keys are there, and signatures.
    fn serve(&self, mut client: UnixStream) -> std::io::Result<()> {
        loop {
            let mut length = [0; 4];
            client.read_exact(&mut length)?;
            let mut request = vec![0; u32::from_be_bytes(length) as usize];
            client.read_exact(&mut request)?;
            let answer = match request[0] {
                11 => [&[12, 0, 0, 0, 1][..], &string(&self.blob()), &string(b"token")].concat(),
                13 => {
                    // Under the key, or under a certificate of it.
                    let key = u32::from_be_bytes(request[1..5].try_into().unwrap()) as usize;
                    let data = &request[1 + 4 + key..];
                    let length = u32::from_be_bytes(data[..4].try_into().unwrap()) as usize;
                    [&[14][..], &string(&self.sign(&data[4..4 + length]))].concat()
                }
                _ => vec![5],
            };
            client.write_all(&string(&answer))?;
        }
    }

    /// Serves at `socket` for as long as the test runs.
    fn plug_in(self, socket: &Path) {
        let (listener, token) = (UnixListener::bind(socket).unwrap(), Arc::new(self));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let token = Arc::clone(&token);
                // A client that hangs up is done.
                std::thread::spawn(move || drop(token.serve(client)));
            }
        });
    }
}

#[test]
fn a_security_key_logs_in() {
    let world = World::new();
    let (node, bob) = (world.node("server1"), world.actor("bob"));
    let told = world.alice().ssh_saying(&node, "keys add token --user bob", &Token::new(1).line());
    told.succeeds().says("added keydir/bob@token.pub (sk-ed25519, SHA256:");
    let with = |token: Token, name: &str| {
        let socket = world.dir().join(name);
        token.plug_in(&socket);
        let agent = format!("IdentityAgent={}", socket.display());
        bob.ssh_with(&["-o", &agent, "-o", "IdentitiesOnly=no", "git@server1", "whoami"])
    };
    with(Token::new(1), "right").succeeds().says("user: bob");
    with(Token::new(2), "unknown").refused_by("none of the keys").says(TYPE);
    with(Token { broken: true, ..Token::new(1) }, "broken").refused_by("Permission denied");
    // What does not work: ssh-key verifies flags and counter as signed, and does not ask for a touch as sshd does.
    with(Token { flags: 0, ..Token::new(1) }, "untouched").succeeds();
    let listed = bob.ssh_with(&["git@server1", "keys", "list"]);
    listed.refused_by("none of the keys");
    world.alice().ssh(&node, "keys list --user bob").succeeds().says("\tsk-ed25519\t256\tkeydir/bob@token.pub");
}

/// Without `user_ca` a certificate opens nothing, and stands in nobody's way.
#[test]
fn a_certificate_opens_nothing_that_its_key_does_not() {
    let world = World::new();
    let (node, bob, carol, ca) = (world.node("server1"), world.actor("bob"), world.actor("carol"), world.actor("ca"));
    world.alice().configure(&node, |c| c.key(&bob)).succeeds();
    for person in [&bob, &carol] {
        let mut sign = std::process::Command::new("ssh-keygen");
        sign.args(["-q", "-I", "id", "-n", "bob", "-s"]).arg(ca.public_key().with_extension(""));
        assert!(sign.arg(person.public_key()).status().unwrap().success());
        let certificate = person.public_key().with_extension("").display().to_string() + "-cert.pub";
        assert!(Path::new(&certificate).exists(), "{certificate}");
    }
    bob.ssh(&node, "whoami").succeeds().says("user: bob");
    carol.ssh(&node, "whoami").refused_by("none of the keys");
}

/// A client that takes the server for whom it is.
pub struct Trusting;

impl russh::client::Handler for Trusting {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _key: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        Ok(true)
    }
}

/// OpenSSH signs with SHA-1 for no server that can do better, so this takes another client.
#[test]
fn a_signature_with_sha_1_is_refused() {
    let world = World::new();
    let (node, bob) = (world.node("server1"), world.actor("bob").with_another_key(KeyKind::Rsa3072));
    world.alice().ssh_saying(&node, "keys add rsa --user bob", &bob.key_line()).succeeds();
    let key = russh::keys::load_secret_key(bob.public_key().with_extension(""), None).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let login = |hash: Option<HashAlg>| {
        runtime.block_on(async {
            let config = Arc::new(russh::client::Config::default());
            let mut server = russh::client::connect(config, node.socket_address(), Trusting).await.unwrap();
            let key = PrivateKeyWithHashAlg::new(Arc::new(key.clone()), hash);
            if server.authenticate_publickey("git", key).await.unwrap().success() {
                return "in".to_owned();
            }
            match server.authenticate_keyboard_interactive_start("git", None).await.unwrap() {
                KeyboardInteractiveAuthResponse::InfoRequest { instructions, .. } => instructions,
                other => format!("{other:?}"),
            }
        })
    };
    assert_eq!(login(Some(HashAlg::Sha256)), "in");
    let refused = login(None);
    assert!(refused.contains("with SHA-1, which is too weak") && refused.contains(&bob.fingerprint()), "{refused}");
    assert!(node.log().contains("with SHA-1"), "{}", node.log());
}

#[test]
fn a_certificate_for_a_security_key_logs_in() {
    let world = World::new();
    let (node, bob, ca) = (world.prepare("server1"), world.actor("bob"), world.actor("ca"));
    std::fs::write(node.data().join("user-ca.pub"), ca.key_line()).unwrap();
    node.set("user_ca", "\"user-ca.pub\"");
    node.start();
    let (public, socket) = (world.dir().join("token.pub"), world.dir().join("agent"));
    std::fs::write(&public, Token::new(1).line()).unwrap();
    let mut keygen = world.command("ssh-keygen");
    keygen.args(["-q", "-I", "desk", "-n", "bob", "-s"]).arg(ca.public_key().with_extension("")).arg(&public);
    Answer::of(keygen).succeeds();
    Token::new(1).plug_in(&socket);
    let agent = format!("IdentityAgent={}", socket.display());
    let certificate = format!("CertificateFile={}", public.with_file_name("token-cert.pub").display());
    let whoami = |more: &[&str]| {
        let options = ["-o", &agent, "-o", "IdentitiesOnly=no"];
        bob.ssh_with(&[&options[..], more, &["git@server1", "whoami"]].concat())
    };
    whoami(&[]).refused_by("none of the keys").says(TYPE);
    whoami(&["-o", &certificate]).succeeds().says("user: bob").says("certificate: \"desk\"");
}

//! An actor: a person or a program with a key, and git and ssh that use this key alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use super::{Answer, Checkout, Configuration, Ground, Link, Node, Running, eventually};

/// The kinds of user keys that ssh-keygen makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    Ed25519,
    Ecdsa256,
    Ecdsa384,
    Ecdsa521,
    Rsa3072,
}

impl KeyKind {
    pub const ALL: [Self; 5] = [Self::Ed25519, Self::Ecdsa256, Self::Ecdsa384, Self::Ecdsa521, Self::Rsa3072];

    fn keygen(self) -> [&'static str; 4] {
        match self {
            Self::Ed25519 => ["-t", "ed25519", "-a", "1"],
            Self::Ecdsa256 => ["-t", "ecdsa", "-b", "256"],
            Self::Ecdsa384 => ["-t", "ecdsa", "-b", "384"],
            Self::Ecdsa521 => ["-t", "ecdsa", "-b", "521"],
            Self::Rsa3072 => ["-t", "rsa", "-b", "3072"],
        }
    }
}

/// Cheap to clone; the same person.
#[derive(Clone)]
pub struct Actor {
    pub(super) ground: Arc<Ground>,
    name: String,
    key: PathBuf,
}

impl Actor {
    pub(super) fn new(ground: &Arc<Ground>, name: &str, kind: KeyKind) -> Self {
        let key = ground.dir.join(format!("{name}.key"));
        make_key(ground, &key, name, kind);
        Self::with_key(ground, name, &key)
    }

    pub(super) fn with_key(ground: &Arc<Ground>, name: &str, key: &Path) -> Self {
        let dir = &ground.dir;
        fs::create_dir_all(dir.join(name)).expect("a directory to work in");
        let config = format!(
            "Include {dir}/nodes_config\nHost *\n  User git\n  IdentityFile {key}\n  IdentitiesOnly yes\n  \
             IdentityAgent none\n  UserKnownHostsFile {dir}/known_hosts\n  GlobalKnownHostsFile /dev/null\n  \
             StrictHostKeyChecking yes\n  UpdateHostKeys no\n  ConnectTimeout 30\n",
            dir = dir.display(),
            key = key.display(),
        );
        let actor = Self { ground: ground.clone(), name: name.to_owned(), key: key.to_owned() };
        fs::write(actor.ssh_config(), config).expect("writable");
        actor
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same person with another key.
    pub fn with_another_key(&self, kind: KeyKind) -> Self {
        Self::new(&self.ground, &format!("{}-{kind:?}", self.name), kind)
    }

    pub fn public_key(&self) -> PathBuf {
        let mut path = self.key.clone().into_os_string();
        path.push(".pub");
        path.into()
    }

    /// The line of the public key's file.
    pub fn key_line(&self) -> String {
        fs::read_to_string(self.public_key()).expect("made with the actor").trim().to_owned()
    }

    /// `SHA256:...`, as ssh-keygen tells it.
    pub fn fingerprint(&self) -> String {
        let mut command = self.ground.command("ssh-keygen");
        command.arg("-lf").arg(self.public_key());
        let out = Answer::of(command).succeeds().stdout;
        out.split(' ').nth(1).expect("bits, fingerprint, comment").to_owned()
    }

    fn ssh_config(&self) -> PathBuf {
        self.ground.dir.join(format!("{}.ssh_config", self.name))
    }

    /// Where this actor's checkouts are.
    pub fn dir(&self) -> PathBuf {
        self.ground.dir.join(&self.name)
    }

    /// ssh with the given arguments; each host is named as its node.
    pub fn ssh_command(&self, args: &[&str]) -> Command {
        let mut command = self.ground.command("ssh");
        command.arg("-F").arg(self.ssh_config()).args(args);
        command
    }

    #[must_use]
    pub fn ssh_with(&self, args: &[&str]) -> Answer {
        Answer::of(self.ssh_command(args))
    }

    /// `ssh git@NODE WORDS`
    #[must_use]
    pub fn ssh(&self, node: &Node, line: &str) -> Answer {
        let host = format!("git@{}", node.name());
        let words: &[&str] = if line.is_empty() { &[] } else { &[line] };
        self.ssh_with(&[&[host.as_str()], words].concat())
    }

    /// `ssh git@NODE WORDS` with a text that is piped in.
    #[must_use]
    pub fn ssh_saying(&self, node: &Node, line: &str, text: &str) -> Answer {
        let file = self.ground.dir.join(format!("{}.input", self.name));
        fs::write(&file, text).expect("writable");
        let mut command = self.ssh_command(&[&format!("git@{}", node.name()), line]);
        command.stdin(fs::File::open(file).expect("just written"));
        Running::start(command).end()
    }

    /// What this key says of a text (`ssh-keygen -Y sign`).
    pub fn signature(&self, namespace: &str, text: &str) -> String {
        let file = self.ground.dir.join(format!("{}.to-sign", self.name));
        fs::write(&file, text).expect("writable");
        let signed = self.ground.dir.join(format!("{}.to-sign.sig", self.name));
        let _ = fs::remove_file(&signed);
        let mut command = self.ground.command("ssh-keygen");
        command.args(["-q", "-Y", "sign", "-n", namespace, "-f"]).arg(&self.key).arg(&file);
        Answer::of(command).succeeds();
        fs::read_to_string(signed).expect("ssh-keygen writes it")
    }

    /// git as this actor; its environment is made here and nowhere else.
    pub fn git_command(&self, dir: &Path, args: &[&str]) -> Command {
        let mut command = self.ground.command("git");
        let email = format!("{}@example.com", self.name);
        for role in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{role}_NAME"), &self.name).env(format!("GIT_{role}_EMAIL"), &email);
        }
        command.env("GIT_SSH_COMMAND", format!("ssh -F {}", self.ssh_config().display()));
        // Throw-away checkouts need no durability, and no advice in what tests compare.
        command.args(["-c", "core.fsync=none", "-c", "init.defaultBranch=main", "-c", "gc.auto=0"]);
        command.args(["-c", "maintenance.auto=false", "-c", "push.default=nothing"]);
        command.args(args).current_dir(dir);
        command
    }

    #[must_use]
    pub fn git(&self, args: &[&str]) -> Answer {
        Answer::of(self.git_command(&self.dir(), args))
    }

    /// The address that people type: `git@server1:testing`.
    pub fn url(&self, node: &Node, repo: &str) -> String {
        format!("git@{}:{repo}", node.name())
    }

    pub fn url_by(&self, link: &Link, repo: &str) -> String {
        format!("ssh://git@127.0.0.1:{}/{repo}", link.port())
    }

    #[must_use]
    pub fn try_clone(&self, url: &str, into: &str) -> Answer {
        self.git(&["clone", "-q", url, into])
    }

    /// Clones into a directory named after the node and the repository.
    #[track_caller]
    pub fn clone_of(&self, node: &Node, repo: &str) -> Checkout {
        let into = format!("{}-{}", node.name(), repo.replace('/', "-"));
        self.try_clone(&self.url(node, repo), &into).succeeds();
        Checkout::new(self, &self.dir().join(into))
    }

    /// The checkout in a directory that `try_clone` was given.
    pub fn checkout(&self, into: &str) -> Checkout {
        Checkout::new(self, &self.dir().join(into))
    }

    /// A fresh repository of this actor's, whose `origin` is the node's.
    #[track_caller]
    pub fn starts(&self, node: &Node, repo: &str) -> Checkout {
        let into = format!("new-{}-{}", node.name(), repo.replace('/', "-"));
        self.git(&["init", "-q", &into]).succeeds();
        let checkout = Checkout::new(self, &self.dir().join(into));
        checkout.git(&["remote", "add", "origin", &self.url(node, repo)]).succeeds();
        checkout
    }

    #[must_use]
    pub fn ls_remote(&self, node: &Node, repo: &str) -> Answer {
        self.git(&["ls-remote", &self.url(node, repo)])
    }

    /// References as the server tells them.
    #[track_caller]
    pub fn refs(&self, node: &Node, repo: &str) -> BTreeMap<String, String> {
        let out = self.ls_remote(node, repo).succeeds().stdout;
        out.lines().filter_map(|l| l.split_once('\t')).map(|(o, r)| (r.to_owned(), o.to_owned())).collect()
    }

    /// Changes the admin repository of a node by a push.
    #[must_use]
    #[track_caller]
    pub fn configure(&self, node: &Node, change: impl FnOnce(&mut Configuration)) -> Answer {
        Configuration::push(self, node, change)
    }

    /// Starts git and does not wait for it.
    pub fn begin(&self, args: &[&str]) -> Running {
        Running::start(self.git_command(&self.dir(), args))
    }

    /// One connection to a node that other sessions of this actor may share (ssh_config(5), ControlMaster).
    #[track_caller]
    pub fn shared_connection(&self, node: &Node) -> Shared {
        let socket = self.ground.dir.join(format!("{}.mux", self.name));
        let path = socket.display().to_string();
        let host = format!("git@{}", node.name());
        let master = Running::start(self.ssh_command(&["-M", "-N", "-S", &path, &host]));
        let shared = Shared { actor: self.clone(), socket: path, host, _master: master };
        eventually("the shared connection", || shared.run(&["-O", "check"]).code == Some(0));
        shared
    }

    pub fn may_read(&self, node: &Node, repo: &str) -> bool {
        self.ls_remote(node, repo).code == Some(0)
    }
}

/// A connection that is shared; it ends when dropped.
pub struct Shared {
    actor: Actor,
    socket: String,
    host: String,
    _master: Running,
}

impl Shared {
    /// ssh over this connection and no other.
    pub fn command(&self, words: &[&str]) -> Command {
        let (options, words) = words.split_at(if words.first() == Some(&"-O") { 2 } else { 0 });
        self.actor
            .ssh_command(&[&["-S", &self.socket, "-o", "ControlMaster=no"], options, &[&self.host], words].concat())
    }

    #[must_use]
    pub fn run(&self, words: &[&str]) -> Answer {
        Answer::of(self.command(words))
    }

    /// git whose ssh goes over this connection.
    #[must_use]
    pub fn git(&self, args: &[&str]) -> Answer {
        let mut command = self.actor.git_command(&self.actor.dir(), args);
        let config = self.actor.ssh_config();
        command.env("GIT_SSH_COMMAND", format!("ssh -F {} -S {}", config.display(), self.socket));
        Answer::of(command)
    }
}

/// Makes a key pair at `path` and `path.pub`.
pub fn make_key(ground: &Ground, path: &Path, comment: &str, kind: KeyKind) {
    let mut command = ground.command("ssh-keygen");
    command.args(["-q", "-N", "", "-C", comment]).args(kind.keygen()).arg("-f").arg(path);
    Answer::of(command).succeeds();
}

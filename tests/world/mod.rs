//! A world: a temporary directory with nodes, actors and links, cut off from the machine's own configuration.
//!
//! Promises: nothing outside the directory is read or written but the programs themselves; everything listens on
//! loopback; a world that ends well has left no process behind and no ERROR in a log. When a test panics, the logs of
//! its nodes are printed. `eventually` is the only way to wait.

mod actor;
mod admin;
mod answer;
mod checkout;
mod gitolite;
mod http_git;
mod link;
mod node;
mod sshd;
mod time;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

pub use actor::{Actor, KeyKind};
pub use admin::Configuration;
pub use answer::{Answer, Running};
pub use checkout::Checkout;
pub use link::Link;
pub use node::{Node, free_port};
pub use time::{DEADLINE, eventually, within};

/// The temporary directory and what every program started in it shares.
pub struct Ground {
    pub dir: PathBuf,
    nodes: Mutex<Vec<Node>>,
    _temporary: tempfile::TempDir,
}

pub struct World {
    ground: Arc<Ground>,
    alice: Actor,
}

impl World {
    pub fn new() -> Self {
        // Short, since a socket's path may have 100 bytes.
        let temporary = tempfile::Builder::new().prefix("gm-").tempdir_in("/tmp").expect("a temporary directory");
        let dir = temporary.path().canonicalize().expect("it exists");
        fs::create_dir(dir.join("home")).expect("a home");
        for file in ["nodes_config", "known_hosts"] {
            fs::write(dir.join(file), "").expect("writable");
        }
        let ground = Arc::new(Ground { dir, nodes: Mutex::default(), _temporary: temporary });
        let alice = Actor::new(&ground, "alice", KeyKind::Ed25519);
        Self { ground, alice }
    }

    pub fn dir(&self) -> &Path {
        &self.ground.dir
    }

    /// The administrator of every node that `node` makes.
    pub fn alice(&self) -> &Actor {
        &self.alice
    }

    /// Somebody with a fresh Ed25519 key that nobody knows yet.
    pub fn actor(&self, name: &str) -> Actor {
        Actor::new(&self.ground, name, KeyKind::Ed25519)
    }

    pub fn actor_with(&self, name: &str, kind: KeyKind) -> Actor {
        Actor::new(&self.ground, name, kind)
    }

    /// A node that answers.
    pub fn node(&self, name: &str) -> Node {
        let node = self.prepare(name);
        node.start();
        node
    }

    /// A node that has been initialised and is not started.
    pub fn prepare(&self, name: &str) -> Node {
        let node = Node::init(&self.ground, name, &self.alice);
        self.ground.nodes.lock().unwrap().push(node.clone());
        node
    }

    /// A node that is nothing yet but a name and a port.
    pub fn newcomer(&self, name: &str) -> Node {
        let node = Node::new(&self.ground, name);
        self.ground.nodes.lock().unwrap().push(node.clone());
        node
    }

    /// Two nodes that know each other, each reaching the other through a link: server1, server2, the link from the
    /// first to the second, and the way back.
    pub fn pair(&self) -> Pair {
        let (one, two) = (self.prepare("server1"), self.prepare("server2"));
        let there = self.introduce(&two, &one);
        let back = self.introduce(&one, &two);
        one.start();
        two.start();
        Pair { one, two, there, back }
    }

    /// A pair on whose two nodes `conf` is in force.
    pub fn pair_with(&self, conf: &str) -> Pair {
        let pair = self.pair();
        for node in [&pair.two, &pair.one] {
            self.alice.configure(node, |c| c.conf(conf)).succeeds();
        }
        pair
    }

    /// Gives `to` the public key of `peer` and the address of a new link to it.
    pub fn introduce(&self, peer: &Node, to: &Node) -> Link {
        let link = Link::to(peer);
        to.add_peer(&peer.public_key(), &link.address()).succeeds();
        link
    }

    /// A link that users may take instead of the direct way to a node.
    pub fn link_to(&self, node: &Node) -> Link {
        let link = Link::to(node);
        self.ground.trust(&format!("[127.0.0.1]:{}", link.port()), &node.public_key());
        link
    }

    /// Who holds the identity of `node`, as in `ssh -i DATA/identity git@server2 info`.
    pub fn node_actor(&self, node: &Node) -> Actor {
        Actor::with_key(&self.ground, &format!("as-{}", node.name()), &node.data().join("identity"))
    }

    /// Who holds a private key.
    pub fn holder_of(&self, name: &str, key: &Path) -> Actor {
        Actor::with_key(&self.ground, name, key)
    }

    /// The binary under test, in this world's environment.
    #[must_use]
    pub fn gitmesh(&self, args: &[&str]) -> Answer {
        self.ground.gitmesh(args)
    }

    pub fn command(&self, program: &str) -> Command {
        self.ground.command(program)
    }

    /// Whether a process of this world has `words` in its command line.
    pub fn runs(&self, words: &str) -> bool {
        self.ground.processes().iter().any(|process| process.contains(words))
    }
}

/// Two nodes and the links between them.
pub struct Pair {
    pub one: Node,
    pub two: Node,
    /// From the first node to the second.
    pub there: Link,
    /// From the second node to the first.
    pub back: Link,
}

impl Pair {
    /// Waits until the second node holds the same references and HEAD as the first.
    pub fn in_step(&self, repo: &str) {
        eventually(&format!("{repo} to be equal on both nodes"), || {
            let [one, two] = [&self.one, &self.two].map(|node| {
                // What each node keeps for itself, such as what a repair has set aside, is not mirrored.
                let mut refs = node.refs(repo);
                refs.retain(|name, _| !name.starts_with("refs/gitmesh/"));
                refs
            });
            one == two && !one.is_empty() && self.one.head(repo) == self.two.head(repo)
        });
    }
}

impl Ground {
    /// A program with nothing of the environment of whoever runs the tests.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().current_dir(&self.dir).env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.dir.join("home")).env("TMPDIR", &self.dir).env("LC_ALL", "C");
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_TERMINAL_PROMPT", "0").env("RUST_BACKTRACE", "1");
        command
    }

    #[must_use]
    pub fn gitmesh(&self, args: &[&str]) -> Answer {
        let mut command = self.command(env!("CARGO_BIN_EXE_gitmesh"));
        command.args(args);
        Answer::of(command)
    }

    /// Lets ssh know a host by its key, so that nothing is trusted on first use.
    fn trust(&self, host: &str, public_key: &Path) {
        let key = fs::read_to_string(public_key).expect("a public key");
        append(&self.dir.join("known_hosts"), &format!("{host} {}\n", key.trim()));
    }

    /// Lets every actor say `git@server1` for the node at `port`.
    fn name_host(&self, name: &str, port: u16) {
        append(&self.dir.join("nodes_config"), &format!("Host {name}\n  HostName 127.0.0.1\n  Port {port}\n"));
    }

    /// Processes that work in this world's directory or name it, as `PID COMMAND`.
    fn processes(&self) -> Vec<String> {
        let needle = self.dir.display().to_string();
        let own = std::process::id().to_string();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").expect("Linux").flatten() {
            let pid = entry.file_name().to_string_lossy().into_owned();
            if !pid.bytes().all(|b| b.is_ascii_digit()) || pid == own {
                continue;
            }
            // A process that ends meanwhile, or that belongs to somebody else, is none of ours.
            let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            let at = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
            if !words.is_empty() && (words.contains(&needle) || at.starts_with(&self.dir)) {
                found.push(format!("{pid} {words} in {}", at.display()));
            }
        }
        found
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let nodes = std::mem::take(&mut *self.ground.nodes.lock().unwrap_or_else(|e| e.into_inner()));
        if std::thread::panicking() {
            for node in &nodes {
                node.kill9();
                node.print_log();
            }
            return;
        }
        for node in &nodes {
            node.stop();
        }
        let left = within(std::time::Duration::from_secs(20), || self.ground.processes().is_empty());
        assert!(left, "processes are left: {:#?}", self.ground.processes());
        for node in &nodes {
            node.check_log();
        }
    }
}

fn append(path: &Path, text: &str) {
    use std::io::Write;
    let mut file = fs::OpenOptions::new().append(true).open(path).expect("it exists");
    file.write_all(text.as_bytes()).expect("writable");
}

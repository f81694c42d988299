//! `gitmesh peer`: the nodes that this one knows. `gitmesh add-mirroring-peer` is `gitmesh peer add`, under its name in
//! gitolite.
//!
//! What changes files (add, remove, token, join) runs here and needs no daemon; a running one is told. What asks (list,
//! show, ping) goes to the daemon, in the same words as over SSH.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use clap::Subcommand;
use rand::TryRngCore as _;

use super::{Refusal, exit, join, key_line, remote, shell_word};
use crate::admin::{ADMIN_REPO, Address, CannotMeet, DataDir, Introduction, Invitation, Invitations, News, forget};
use crate::config::Config;
use crate::model::HostName;
use crate::model::setting::parse_duration;
use crate::policy::{PublicKey, parse_public_key};

/// No invitation is open for longer: it is a key to the mesh, lying in somebody's mail.
const EXPIRES_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

#[derive(Debug, clap::Args)]
pub struct PeerArgs {
    #[command(subcommand)]
    command: PeerCommand,
}

#[derive(Debug, Subcommand)]
enum PeerCommand {
    /// Invite a node: prints one word that lets it in once
    Token(TokenArgs),
    /// Accept an invitation: both nodes learn each other's key and address, and prove it
    Join(join::Args),
    /// Make another node known by its public key file, NAME.pub
    Add(Args),
    /// Forget a node
    Remove(RemoveArgs),
    /// The nodes that this one knows
    List(ListArgs),
    /// One of them
    Show(AskArgs),
    /// Prove both directions with a greeting; without a name, those of all nodes
    Ping(AskArgs),
}

#[derive(Debug, clap::Args)]
struct TokenArgs {
    /// How long it is good for: 30m, 1h, 2d
    #[arg(long, value_name = "TIME", default_value = "1h")]
    expires: String,
    #[arg(
        help = "How the other node reaches this one [default: [node] address of gitmesh.toml]",
        long,
        value_name = "git@HOST:PORT"
    )]
    address: Option<String>,
    /// The node's data directory
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct RemoveArgs {
    /// The other node's name
    node: String,
    /// The node's data directory
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// For programs
    #[arg(long)]
    json: bool,
    /// The node's data directory
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct AskArgs {
    /// The other node's name
    node: Option<String>,
    /// The node's data directory
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Make another node known by its public key file, NAME.pub
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The other node's NAME.pub, as `gitmesh init` made it there; the file's name is the node's
    #[arg(value_name = "NAME.pub")]
    pub file: PathBuf,
    #[arg(help = "How to reach it [default: git@NAME:22]", long, value_name = "git@HOST:PORT")]
    pub address: Option<String>,
    #[arg(
        help = "Data directory [default: /var/lib/gitmesh for root, ~/.local/share/gitmesh for others]",
        long,
        value_name = "DIR"
    )]
    pub data: Option<PathBuf>,
}

pub fn run(args: PeerArgs) -> anyhow::Result<ExitCode> {
    let ask = |word: &str, more: Option<String>, data| {
        let words = ["peer", word].into_iter().map(str::to_owned).chain(more).collect();
        remote::send(data, None, words)
    };
    match args.command {
        PeerCommand::Token(args) => refusing("peer token", || token(&args)),
        PeerCommand::Join(args) => refusing("peer join", || join::run(&args)),
        PeerCommand::Add(args) => run_add(&args),
        PeerCommand::Remove(args) => refusing("peer remove", || remove(&args)),
        PeerCommand::List(args) => ask("list", args.json.then(|| "--json".to_owned()), args.data),
        PeerCommand::Show(args) => ask("show", args.node, args.data),
        PeerCommand::Ping(args) => ask("ping", args.node, args.data),
    }
}

/// Prints a refusal under the command's name, with its exit code.
fn refusing(command: &str, work: impl FnOnce() -> anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    match work() {
        Err(error) => match error.downcast::<Refusal>() {
            Ok(refusal) => {
                eprintln!("gitmesh {command}: {refusal}");
                Ok(ExitCode::from(refusal.code))
            }
            Err(error) => Err(error),
        },
        done => done,
    }
}

/// `gitmesh peer add` and `gitmesh add-mirroring-peer`.
pub fn run_add(args: &Args) -> anyhow::Result<ExitCode> {
    refusing("add-mirroring-peer", || {
        let data = args.data.clone().map_or_else(DataDir::by_default, DataDir::new);
        let added = add(args, &data)?;
        println!("{}", added.text);
        tell_daemon(&data);
        println!(
            "\nthe other side needs {} in the same way; then this proves both, with this node's own key:\n  {} -i {} info",
            shell_word(&data.public_key(&added.node).display().to_string()),
            added.address.ssh(),
            shell_word(&data.identity().display().to_string())
        );
        Ok(ExitCode::SUCCESS)
    })
}

/// Has a running daemon take over what was written; says so, and whether there is one.
pub(super) fn tell_daemon(data: &DataDir) -> bool {
    match remote::reload(data.path()) {
        Ok(true) => {
            println!("  the running daemon knows it now");
            return true;
        }
        Ok(false) => println!("  no daemon is running; the next start will know it"),
        Err(error) => println!("  the daemon could not be told: {error:#}; reload it: systemctl reload gitmesh"),
    }
    false
}

/// A data directory and its settings.
pub(super) fn open(data: Option<&PathBuf>) -> anyhow::Result<(DataDir, Config)> {
    let data = data.cloned().map_or_else(DataDir::by_default, DataDir::new);
    let config = Config::load(&Config::locate(None, data.path()));
    Ok((data, config.map_err(|e| Refusal::new(exit::CONFIGURATION, e.to_string()))?))
}

pub(super) fn given_address(given: Option<&String>) -> Result<Option<Address>, Refusal> {
    let parsed = given.map(|text| text.parse::<Address>()).transpose();
    parsed.map_err(|e| Refusal::new(exit::USAGE, format!("--address: {e}")))
}

fn token(args: &TokenArgs) -> anyhow::Result<ExitCode> {
    let usage = |text: String| Refusal::new(exit::USAGE, text);
    let expires = parse_duration(&args.expires).map_err(|e| usage(format!("--expires: {e}")))?;
    if expires > EXPIRES_MAX {
        return Err(usage("--expires: an invitation is open for 30 days at most; give 30d or less".to_owned()).into());
    }
    let given = given_address(args.address.as_ref())?;
    let (data, config) = open(args.data.as_ref())?;
    let address = given.unwrap_or_else(|| config.reached_at());
    let (key, _) = read_key(&data.public_key(&config.node.name))?;
    let host_key = sha2::Digest::finalize(sha2::Digest::chain_update(<sha2::Sha256 as sha2::Digest>::new(), &key.blob));
    let mut secret = [0; 32];
    rand::rngs::OsRng.try_fill_bytes(&mut secret).context("failed to get random bytes from the system")?;
    let now = SystemTime::now();
    let invitation = Invitation::new(config.node.name.clone(), address.clone(), host_key.into(), now + expires, secret);
    Invitations::of(&data).keep(&invitation, now).context("failed to keep the invitation's public half")?;
    // The word alone goes to standard output, so that a script can take it.
    println!("{}", invitation.expose());
    let node = &config.node.name;
    let alone = if is_this_machine(&address) {
        "\n  that address works on this machine only; give another: gitmesh peer token --address git@HOST:PORT"
    } else {
        ""
    };
    eprintln!(
        "\nThis word lets one node join {node} within {}. It is a secret until then.\n  address  {address}{alone}\n  key      {}\n\n\
         on the new node:\n  gitmesh init --join TOKEN --name NAME     # a new one, or\n  gitmesh peer join TOKEN                  # one that is there",
        args.expires, key.fingerprint
    );
    Ok(ExitCode::SUCCESS)
}

/// Whether the address can mean nothing on another machine.
pub(super) fn is_this_machine(address: &Address) -> bool {
    let ip = address.host.parse::<std::net::IpAddr>();
    address.host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified())
}

fn remove(args: &RemoveArgs) -> anyhow::Result<ExitCode> {
    let (data, config) = open(args.data.as_ref())?;
    let name = HostName::new(&args.node)
        .map_err(|e| Refusal::new(exit::USAGE, format!("'{}' is no node's name: {e}", args.node)))?;
    if !forget(&data, &name).with_context(|| format!("failed to remove the files of {name}"))? {
        let text = format!(
            "'{name}' is not in {}\nhelp: 'gitmesh peer list' shows the peers; one that keydir/server-{name}.pub of {ADMIN_REPO} names is removed there",
            data.peers().display()
        );
        return Err(Refusal::new(exit::NOT_FOUND, text).into());
    }
    println!("peer {name} is forgotten by {}; its links end", config.node.name);
    tell_daemon(&data);
    println!("\n{name} still knows this node: there, gitmesh peer remove {}", config.node.name);
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug)]
struct Added {
    /// This node.
    node: HostName,
    address: Address,
    text: String,
}

fn add(args: &Args, data: &DataDir) -> anyhow::Result<Added> {
    let name = peer_name(&args.file)?;
    let given = given_address(args.address.as_ref())?;
    let (key, line) = read_key(&args.file)?;
    let config_path = Config::locate(None, data.path());
    let config = Config::load(&config_path).map_err(|e| Refusal::new(exit::CONFIGURATION, e.to_string()))?;
    let node = config.node.name;
    let fingerprint = key.fingerprint.clone();
    let introduction = Introduction { name: name.clone(), key, line, address: given };
    introduction.check(data, &node, &admin_dir(data)).map_err(refusal)?;
    let made = introduction.write(data).map_err(refusal)?;
    let address = made.address;
    let what = match made.news {
        News::Nothing => "is known already; nothing was changed".to_owned(),
        News::Known => "is known now".to_owned(),
        News::Address => "has a new address".to_owned(),
        News::Key { old } => format!("has a new key; the old one, {old}, counts no more"),
    };
    Ok(Added { node, text: format!("peer {name} ({fingerprint}) at {address} {what}"), address })
}

pub(super) fn admin_dir(data: &DataDir) -> PathBuf {
    data.repositories().join(format!("{ADMIN_REPO}.git"))
}

pub(super) fn refusal(error: CannotMeet) -> anyhow::Error {
    match error {
        CannotMeet::Clash(text) => Refusal::new(exit::CONFLICT, text).into(),
        other => other.into(),
    }
}

fn peer_name(file: &Path) -> Result<HostName, Refusal> {
    let bad = |why: String| {
        let help = "the file's name is the node's name and .pub, as in server2.pub; rename it if need be";
        Refusal::new(exit::USAGE, format!("'{}': {why}\nhelp: {help}", file.display()))
    };
    let base = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name = base.strip_suffix(".pub").ok_or_else(|| bad("the file's name does not end in .pub".to_owned()))?;
    // gitolite 3 calls the file server-NAME.pub.
    let name = name.strip_prefix("server-").unwrap_or(name);
    HostName::new(name).map_err(|e| bad(e.to_string()))
}

/// The key in a file, and the line it stands in.
pub(super) fn read_key(file: &Path) -> Result<(PublicKey, String), Refusal> {
    let read = std::fs::read(file)
        .map_err(|e| Refusal::new(exit::NOT_FOUND, format!("the key file '{}' cannot be read: {e}", file.display())))?;
    let text = String::from_utf8_lossy(&read);
    let bad = |e| Refusal::new(exit::CONFIGURATION, format!("'{}': {e}", file.display()));
    let key = parse_public_key(&text).map_err(bad)?;
    Ok((key, key_line(&text).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::testing::{Node, host, key_line as some_key};

    /// A node with settings, its own key (9) in place, and alice's key (1) in the admin repository.
    fn node() -> Node {
        let node = Node::with("repo testing\n RW = @all");
        std::fs::write(node.data.path().join("gitmesh.toml"), "[node]\nname = \"server1\"\n").unwrap();
        std::fs::write(node.data.public_key(&host("server1")), some_key(9)).unwrap();
        node
    }

    fn args(node: &Node, file: &str, seed: u8, address: Option<&str>) -> Args {
        let path = node.data.state().join(file);
        std::fs::write(&path, some_key(seed)).unwrap();
        Args { file: path, address: address.map(str::to_owned), data: Some(node.data.path().to_owned()) }
    }

    fn added(node: &Node, args: &Args) -> String {
        add(args, &node.data).unwrap().text
    }

    #[test]
    fn a_peer_is_added_once() {
        let node = node();
        let first = args(&node, "server2.pub", 2, Some("git@10.0.0.2:2222"));
        assert!(added(&node, &first).ends_with("at git@10.0.0.2:2222 is known now"));
        assert!(added(&node, &first).contains("nothing was changed"));
        let no_address = Args { address: None, ..first.clone() };
        assert!(added(&node, &no_address).contains("at git@10.0.0.2:2222 is known already"));
        let moved = Args { address: Some("git@10.0.0.3".to_owned()), ..first };
        assert!(added(&node, &moved).ends_with("at git@10.0.0.3:22 has a new address"));
        assert!(added(&node, &args(&node, "server2.pub", 3, None)).contains("has a new key; the old one, SHA256:"));
        let (activator, realm, _) = node.run();
        drop(activator);
        let peers = realm.live().peers.clone();
        assert_eq!(peers[&host("server2")].host, "10.0.0.3");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let node = node();
        added(&node, &args(&node, "server2.pub", 2, None));
        for (file, seed, address, code, words) in [
            ("server1.pub", 5, None, exit::CONFLICT, "is this node itself"),
            ("server3.pub", 9, None, exit::CONFLICT, "this node's own"),
            ("server3.pub", 2, None, exit::CONFLICT, "that of peer 'server2'"),
            ("server3.pub", 1, None, exit::CONFLICT, "keydir/alice.pub"),
            ("server3.txt", 5, None, exit::USAGE, "does not end in .pub"),
            ("-x.pub", 5, None, exit::USAGE, "may not start a name"),
            ("server3.pub", 5, Some("-x"), exit::USAGE, "--address"),
        ] {
            let error = add(&args(&node, file, seed, address), &node.data).unwrap_err();
            let refusal = error.downcast::<Refusal>().unwrap();
            assert!(refusal.code == code && refusal.text.contains(words), "{file}: {refusal}");
        }
        let bad = node.data.state().join("server4.pub");
        for text in ["", "rubbish", &format!("{}{}", some_key(4), some_key(5))] {
            std::fs::write(&bad, text).unwrap();
            let args = Args { file: bad.clone(), address: None, data: None };
            let refusal = add(&args, &node.data).unwrap_err().downcast::<Refusal>().unwrap();
            assert_eq!(refusal.code, exit::CONFIGURATION, "{refusal}");
        }
        assert_eq!(std::fs::read_dir(node.data.peers()).unwrap().count(), 1, "nothing was written");
    }
}

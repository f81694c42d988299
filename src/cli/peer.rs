//! `gitmesh add-mirroring-peer server2.pub`: one file makes another node known, in both directions.
//!
//! The file's name is the node's, and its key proves the node both as a server and as a client. Nothing is written
//! unless everything fits; the address is written first, so that a peer is never known without it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;

use super::{Refusal, exit, key_line, shell_word};
use crate::admin::{ADMIN_REPO, Address, DataDir, write_whole};
use crate::config::Config;
use crate::git::objects;
use crate::model::HostName;
use crate::policy::{PublicKey, parse_public_key};

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

/// Runs the command. `notify_daemon` tells a running daemon to reload; it answers whether there was one.
pub fn run(args: &Args, notify_daemon: impl FnOnce(&DataDir) -> anyhow::Result<bool>) -> anyhow::Result<ExitCode> {
    let data = args.data.clone().map_or_else(DataDir::by_default, DataDir::new);
    let added = match add(args, &data) {
        Ok(added) => added,
        Err(error) => match error.downcast::<Refusal>() {
            Ok(refusal) => {
                eprintln!("gitmesh add-mirroring-peer: {refusal}");
                return Ok(ExitCode::from(refusal.code));
            }
            Err(error) => return Err(error),
        },
    };
    println!("{}", added.text);
    match notify_daemon(&data) {
        Ok(true) => println!("  the running daemon knows it now"),
        Ok(false) => println!("  no daemon is running; the next start will know it"),
        Err(error) => println!("  the daemon could not be told: {error:#}; reload it: systemctl reload gitmesh"),
    }
    println!(
        "\nthe other side needs {} in the same way; then this proves both, with this node's own key:\n  {} -i {} info",
        shell_word(&data.public_key(&added.node).display().to_string()),
        added.address.ssh(),
        shell_word(&data.identity().display().to_string())
    );
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
    let given = args.address.as_deref().map(str::parse::<Address>).transpose();
    let given = given.map_err(|e| Refusal::new(exit::USAGE, format!("--address: {e}")))?;
    let (key, line) = read_key(&args.file)?;
    let config_path = Config::locate(None, data.path());
    let config = Config::load(&config_path).map_err(|e| Refusal::new(exit::CONFIGURATION, e.to_string()))?;
    let node = config.node.name;
    refuse_clash(data, &node, &name, &key)?;

    let file = |suffix: &str| data.peers().join(format!("{name}.{suffix}"));
    let known_key = std::fs::read_to_string(file("pub")).ok().and_then(|text| parse_public_key(text.trim()).ok());
    let known_address = std::fs::read_to_string(file("address")).ok().and_then(|text| text.trim().parse().ok());
    let address = given.clone().or_else(|| known_address.clone()).unwrap_or_else(|| Address::of_host(name.as_str()));
    let same_key = known_key.as_ref().is_some_and(|known| known.blob == key.blob);
    let same_address = given.is_none() || known_address.as_ref() == Some(&address);
    let fingerprint = &key.fingerprint;
    if same_key && same_address {
        let text = format!("peer {name} ({fingerprint}) at {address} is known already; nothing was changed");
        return Ok(Added { node, address, text });
    }
    let write = |suffix: &str, text: String| {
        let path = file(suffix);
        write_whole(&path, text.as_bytes(), 0o600).with_context(|| format!("failed to write {}", path.display()))
    };
    std::fs::create_dir_all(data.peers()).with_context(|| format!("failed to make {}", data.peers().display()))?;
    if given.is_some() {
        write("address", format!("{address}\n"))?;
    }
    if !same_key {
        write("pub", format!("{line}\n"))?;
    }
    let what = match &known_key {
        None => "is known now".to_owned(),
        Some(_) if same_key => "has a new address".to_owned(),
        Some(old) => format!("has a new key; the old one, {}, counts no more", old.fingerprint),
    };
    Ok(Added { node, text: format!("peer {name} ({fingerprint}) at {address} {what}"), address })
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
fn read_key(file: &Path) -> Result<(PublicKey, String), Refusal> {
    let read = std::fs::read(file)
        .map_err(|e| Refusal::new(exit::NOT_FOUND, format!("the key file '{}' cannot be read: {e}", file.display())))?;
    let text = String::from_utf8_lossy(&read);
    let bad = |e| Refusal::new(exit::CONFIGURATION, format!("'{}': {e}", file.display()));
    let key = parse_public_key(&text).map_err(bad)?;
    Ok((key, key_line(&text).to_owned()))
}

/// A key must prove one party only: not this node, not another peer, and no user.
fn refuse_clash(data: &DataDir, node: &HostName, name: &HostName, key: &PublicKey) -> anyhow::Result<()> {
    let conflict = |text: String| Err(Refusal::new(exit::CONFLICT, text).into());
    if name == node {
        let help = format!("give it the other node's file; {node}.pub goes to the other side");
        return conflict(format!("'{name}' is this node itself\nhelp: {help}"));
    }
    let own = std::fs::read_to_string(data.public_key(node)).ok();
    if own.and_then(|text| parse_public_key(text.trim()).ok()).is_some_and(|own| own.blob == key.blob) {
        return conflict(format!("the key is this node's own ({})\nhelp: take the other node's file", key.fingerprint));
    }
    for entry in std::fs::read_dir(data.peers()).into_iter().flatten().flatten() {
        let path = entry.path();
        let other = peer_name(&path).ok().filter(|other| other != name);
        let Some(other) = other else { continue };
        if read_key(&path).is_ok_and(|(known, _)| known.blob == key.blob) {
            let help = format!("if the node was renamed, remove {} first", path.display());
            return conflict(format!("the key is that of peer '{other}'\nhelp: {help}"));
        }
    }
    let admin_dir = data.repositories().join(format!("{ADMIN_REPO}.git"));
    let Some(commit) = objects::head_commit(&admin_dir).context("failed to read the admin repository")? else {
        return Ok(());
    };
    let files = objects::files_at(&admin_dir, &commit, &["keydir/"]).context("failed to read the admin repository")?;
    let of_node = |path: &str| path.rsplit('/').next().is_some_and(|base| base.starts_with("server-"));
    for (path, contents) in files.iter().filter(|(path, _)| path.ends_with(".pub") && !of_node(path)) {
        let text = String::from_utf8_lossy(contents);
        if text.lines().filter_map(|line| parse_public_key(line).ok()).any(|known| known.blob == key.blob) {
            let help = "a node and a user need keys of their own; 'gitmesh init' made one for the node";
            return conflict(format!("the key is a user's, {path} in {ADMIN_REPO}\nhelp: {help}"));
        }
    }
    Ok(())
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

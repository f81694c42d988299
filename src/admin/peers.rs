//! Which nodes this one knows: `peers/NAME.pub` in the data directory, and `keydir/server-NAME.pub` in the admin
//! repository. Where both name a node, the file on the machine wins, since only the machine's owner can write it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::Arc;

use crate::model::HostName;
use crate::peer::{Peer, Peers};
use crate::policy::{Keyring, parse_public_key};

use super::{Address, DataDir};

/// The peers, and what is wrong with files that were left out. A damaged file must not stop the node, since the
/// others would then lose their peer too; the operator reads about it in the log.
#[derive(Debug, Clone)]
pub struct KnownPeers {
    pub peers: Peers,
    pub problems: Vec<String>,
}

/// Reads the peers of `node`. `keyring` is that of the live policy.
pub fn load_peers(data: &DataDir, node: &HostName, keyring: &Keyring) -> io::Result<KnownPeers> {
    let mut peers = BTreeMap::new();
    let mut problems = Vec::new();
    let mut add = |name: HostName, key: Vec<u8>, address: Address| {
        let Address { user, host, port } = address;
        peers.insert(name.clone(), Peer { name, key, user, host, port });
    };
    for (name, keys) in keyring.nodes() {
        // Each node's own key is in the admin repository that all of them share.
        if name == node {
            continue;
        }
        if let [(key, _)] = keys[..] {
            add(name.clone(), key.to_vec(), Address::of_host(name.as_str()));
        } else {
            problems.push(format!("keydir/server-{name}.pub: a node has one key, and here are {}", keys.len()));
        }
    }
    for name in files(data)? {
        match read_peer(data, &name) {
            Ok((host, ..)) if host == *node => problems.push(format!("peers/{name}.pub names this node itself")),
            Ok((host, key, address)) => add(host, key, address),
            Err(problem) => problems.push(problem),
        }
    }
    Ok(KnownPeers { peers: Arc::new(peers), problems })
}

/// Names of the files in `peers/`, without `.pub`, sorted.
fn files(data: &DataDir) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(data.peers()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        if let Some(name) =
            name.to_str().and_then(|name| name.strip_suffix(".pub")).filter(|name| !name.starts_with('.'))
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn read_peer(data: &DataDir, name: &str) -> Result<(HostName, Vec<u8>, Address), String> {
    let host = HostName::new(name).map_err(|e| format!("peers/{name}.pub: {e}"))?;
    let read =
        |file: &str| fs::read_to_string(data.peers().join(file)).map_err(|e| (e.kind(), format!("peers/{file}: {e}")));
    let text = read(&format!("{name}.pub")).map_err(|(_, problem)| problem)?;
    let key = parse_public_key(text.trim()).map_err(|e| format!("peers/{name}.pub: {e}"))?;
    let file = format!("{name}.address");
    let address = match read(&file) {
        Ok(text) => text.trim().parse().map_err(|e| format!("peers/{file}: {e}"))?,
        Err((io::ErrorKind::NotFound, _)) => Address::of_host(name),
        Err((_, problem)) => return Err(problem),
    };
    Ok((host, key.blob.clone(), address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::testing::key_line;
    use crate::policy::KeyFile;

    #[test]
    fn the_machine_wins_over_the_admin_repository() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path().to_owned());
        let node = HostName::new("server1").unwrap();
        let files = [1, 2, 3].map(|n| (format!("keydir/server-server{n}.pub"), key_line(n)));
        let files: Vec<_> = files.iter().map(|(path, text)| KeyFile { path, text: text.as_bytes() }).collect();
        let (keyring, remarks) = Keyring::compile(&files);
        assert!(remarks.is_empty(), "{remarks:?}");
        assert_eq!(load_peers(&data, &node, &keyring).unwrap().peers.len(), 2);

        data.create().unwrap();
        let write = |file: &str, text: &str| fs::write(data.peers().join(file), text).unwrap();
        write("server2.pub", &key_line(22));
        write("server2.address", "git@10.0.0.2:2222\n");
        write("server4.pub", "rubbish");
        write("server1.pub", &key_line(1));
        write(".server5.pub.tmp", "half");
        let known = load_peers(&data, &node, &keyring).unwrap();
        let names: Vec<_> = known.peers.keys().map(HostName::as_str).collect();
        assert_eq!(names, ["server2", "server3"]);
        let two = &known.peers[&HostName::new("server2").unwrap()];
        assert_eq!((two.host.as_str(), two.port), ("10.0.0.2", 2222));
        assert_eq!(two.key, parse_public_key(&key_line(22)).unwrap().blob);
        assert_eq!(known.problems.len(), 2, "{:?}", known.problems);
    }
}

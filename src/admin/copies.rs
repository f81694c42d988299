//! What is surely wrong in the mirror options of a configuration.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{HostName, RepoName};
use crate::policy::{Facts, Keyring, Mirror, Mode, Policy};

use super::compile::{Remarks, Surroundings, remark, warning};

/// The first repository for each name or pair of names that is wrong.
type First<K> = BTreeMap<K, RepoName>;

/// A copy on a node that nobody knows is never made, a redirection that cannot work is not noticed before a push, and
/// both are easily overlooked.
pub(super) fn copies(
    policy: &Policy,
    keyring: &Keyring,
    around: Option<&Surroundings>,
    main: &str,
    found: &mut Remarks,
) {
    let mut known: BTreeSet<String> = keyring.nodes().keys().map(ToString::to_string).collect();
    // Away from the server, only keydir/server-NAME.pub could tell who is a peer, and few keep them there.
    let tells = around.is_some() || !known.is_empty();
    if let Some(around) = around {
        known.extend(around.peers.keys().map(ToString::to_string));
        known.insert(around.node.to_string());
    }
    let anybody = HostName::new("nobody").expect("a constant, and a valid name");
    let own = around.map(|around| &around.node);
    let (mut unknown, mut bad, mut away) = (First::new(), First::new(), First::new());
    let (mut no_copy, mut headless) = (First::new(), None);
    for repo in policy.repos() {
        let mirror = policy.mirror(&Facts::existing(repo), own.unwrap_or(&anybody));
        let note = |names: &mut First<String>, name: &str| {
            names.entry(name.to_owned()).or_insert_with(|| repo.clone());
        };
        let Mirror { mode, master, copies, redirectors } = &mirror;
        for name in master.iter().chain(copies.keys()).filter(|name| HostName::new(name).is_err()) {
            note(&mut bad, name);
        }
        for name in redirectors.iter().filter(|name| !copies.contains_key(*name) && Some(*name) != master.as_ref()) {
            note(&mut no_copy, name);
        }
        if master.is_none() && !copies.is_empty() {
            headless.get_or_insert_with(|| repo.clone());
        }
        if *mode == Mode::Master || own.is_none() {
            let strangers = copies.keys().filter(|copy| !known.contains(*copy) && Some(*copy) != master.as_ref());
            strangers.filter(|_| tells).for_each(|copy| note(&mut unknown, copy));
        }
        if let (Mode::Copy { master }, Some(own)) = (mode, own)
            && redirectors.iter().any(|name| name == own.as_str())
            && !known.contains(master.as_str())
        {
            note(&mut away, master.as_str());
        }
    }
    for (name, repo) in bad {
        let message = format!("'{name}', in the mirror options of '{repo}', cannot be the name of a node");
        let help = "letters, digits and '-_.' make a node's name; blanks stand between several";
        found.push(remark("E0307", "bad-node-name", main, message, help));
    }
    let (of, on) = own.map_or((String::new(), "its master".to_owned()), |n| (format!(" of {n}"), n.to_string()));
    for (copy, repo) in unknown {
        let message = format!("'{repo}' has a copy on '{copy}', which is no known peer{of}");
        let help = format!("on {on}: gitmesh add-mirroring-peer {copy}.pub");
        found.push(warning("W0303", "unknown-peer", main, message, &help));
    }
    for (master, repo) in away {
        let message = format!("pushes to '{repo}' go on to its master '{master}', which is no known peer{of}");
        let help = format!("on {on}: gitmesh add-mirroring-peer {master}.pub");
        found.push(warning("W0303", "unknown-peer", main, message, &help));
    }
    for (name, repo) in no_copy {
        let message = format!("mirror.redirectOK of '{repo}' names '{name}', which holds no copy of it");
        let help = if name == "all" {
            "'all' stands for every copy where it is the only word".to_owned()
        } else {
            format!("add {name} to mirror.copies, or leave it out")
        };
        found.push(warning("W0306", "redirector-without-copy", main, message, &help));
    }
    if let Some(repo) = headless {
        let message = format!("'{repo}' has copies and no master, so nobody can write to it");
        found.push(warning("W0307", "no-master", main, message, "add: option mirror.master = NODE"));
    }
}

#[cfg(test)]
mod tests {
    use crate::admin::testing::{Node, blob, host, key_line};
    use crate::admin::{Store as _, Surroundings, check};
    use crate::peer::{Peer, Peers};
    use crate::policy::Settings;

    /// The first lines of what is said about one repository on server1, which knows server2.
    fn said(lines: &str) -> Vec<String> {
        let node = Node::new();
        let conf = format!("repo gitmesh-admin\n RW+ = alice\nrepo x\n RW = alice\n{lines}\n");
        let commit = node.commit(&[("conf/gitmesh.conf", conf.as_str()), ("keydir/alice.pub", &key_line(1))]);
        let two = Peer { name: host("server2"), key: blob(2), user: "git".into(), host: "server2".into(), port: 22 };
        let around = Surroundings {
            node: host("server1"),
            settings: Settings::default(),
            identity: blob(9),
            peers: Peers::new([(host("server2"), two)].into()),
            programs: None,
        };
        let text = match check(&node.store.admin_dir(), &commit, &around) {
            Ok(checked) => checked.warnings,
            Err(rejected) => rejected.to_string(),
        };
        text.lines().filter(|line| line.contains("[E") || line.contains("[W")).map(str::to_owned).collect()
    }

    #[test]
    fn what_is_surely_wrong() {
        let option = |name: &str, value: &str| format!(" option mirror.{name} = {value}\n");
        let (own, theirs) = (option("master", "server1"), option("master", "server2"));
        let none: [&str; 0] = [];
        assert_eq!(said(&format!("{own}{}{}", option("copies", "server2"), option("redirectOK", "all"))), none);
        assert_eq!(said(&format!("{theirs}{}{}", option("copies", "server1"), option("redirectOK", "server1"))), none);
        let hand = option("copies.nosync-quiet-2", "server2");
        assert_eq!(said(&format!("{own}{}{hand}", option("copies.sync", "server2"))), none);
        assert_eq!(said(&own), none);
        for (lines, wrong) in [
            (option("copies", "server2"), "W0307]: 'x' has copies and no master, so nobody can write to it"),
            (
                format!("{own}{}{}", option("copies", "server2"), option("redirectOK", "server3")),
                "W0306]: mirror.redirectOK of 'x' names 'server3', which holds no copy of it",
            ),
            (
                format!("{own}{}{}", option("copies", "server2"), option("redirectOK", "all server2")),
                "W0306]: mirror.redirectOK of 'x' names 'all', which holds no copy of it",
            ),
            (
                format!("{own}{}", option("copies.sync", "server3")),
                "W0303]: 'x' has a copy on 'server3', which is no known peer of server1",
            ),
            (
                format!(
                    "{}{}{}",
                    option("master", "server3"),
                    option("copies", "server1"),
                    option("redirectOK", "all")
                ),
                "W0303]: pushes to 'x' go on to its master 'server3', which is no known peer of server1",
            ),
            (option("master", "a/b"), "E0307]: 'a/b', in the mirror options of 'x', cannot be the name of a node"),
        ] {
            let said = said(&lines);
            assert!(said.len() == 1 && said[0].ends_with(wrong), "{lines}{said:?}");
        }
    }
}

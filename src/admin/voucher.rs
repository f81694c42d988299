//! Is a node believed when it says which of its users asks (`spec/access-language.md`, 12.3 and 12.7)?

use crate::model::{Actor, HostName, RepoName};
use crate::policy::{Mode, Owner, OwnerName};

use super::realm::{Live, Realm, now};
use super::{ADMIN_REPO, Denial};

impl Realm {
    /// Does this node take the word of `node` that `actor` asks about `repo`? Only as the repository's master, from one
    /// of its copies that its own configuration lets redirect, and for a user whom it knows itself. What the user may
    /// do is asked after that, as if they had come here.
    pub fn believe(&self, node: &HostName, actor: &Actor, repo: &RepoName) -> Result<(), Denial> {
        let live = self.live();
        let (disk, name) = (self.store.ownership(repo), actor.to_string());
        let place = live.mirror(&live.facts(repo, disk.as_ref(), &name), repo);
        let (here, url) = (&live.node, live.address.url(repo.as_str()));
        let refused = |code, first: String, help: String| {
            let you = Some(format!("{name}, as node {node} says"));
            Err(Denial { first: format!("FATAL: {first}"), you, rule: None, help, code })
        };
        let whose = |master: &str| {
            let first = format!("'{repo}' is not native to {here}");
            let help = format!(
                "the configuration of {here} names {master} as its master and that of {node} names {here}; make them agree"
            );
            refused(Denial::NO_REDIRECT, first, help)
        };
        match place.mode {
            Mode::Master if !place.copies.contains_key(node.as_str()) => {
                let first = format!("'{node}' is not a valid copy of '{repo}'");
                let help = format!("{node} is not in option mirror.copies on {here}; push to {here} itself: {url}");
                refused(Denial::NO_REDIRECT, first, help)
            }
            Mode::Master if !place.redirectors.iter().any(|name| name == node.as_str()) => {
                let first = format!("redirection not allowed from '{node}'");
                let help = format!("{node} is not in option mirror.redirectOK on {here}; push to {here} itself: {url}");
                refused(Denial::NO_REDIRECT, first, help)
            }
            Mode::Master => match self.unknown(&live, node, actor) {
                None => Ok(()),
                Some(help) => {
                    let first = format!("{here} does not know the user '{name}' of {node}");
                    refused(Denial::UNKNOWN_USER, first, help)
                }
            },
            // A repository that is not there and one that is nobody's copy read the same.
            Mode::Local => {
                let help = format!("{here} mirrors it with nobody, and {node} takes {here} for its master");
                refused(Denial::NO_REDIRECT, format!("'{repo}' is local to {here}"), help)
            }
            Mode::Copy { master } => whose(master.as_str()),
            Mode::Orphan | Mode::NotHere | Mode::Doubted(_) => whose(place.master.as_deref().unwrap_or("nobody")),
        }
    }

    /// Why the user is not known here, as the cure.
    fn unknown(&self, live: &Live, node: &HostName, actor: &Actor) -> Option<String> {
        let Actor::User { name, key, by } = actor else { return Some("only users' orders are carried".to_owned()) };
        let here = &live.node;
        match live.keyring.owner_of_fingerprint(key) {
            Some(owner) if owner.has_expired(now()) => {
                Some(format!("the key {key} has expired on {here}; add a new one: keys add"))
            }
            Some(Owner { who: OwnerName::User(owner), .. }) if owner == name => None,
            Some(_) => {
                Some(format!("on {here} the key {key} belongs to somebody else; make both configurations agree"))
            }
            // A certificate counts by this node's own CAs, and its key need be in no keydir.
            None if by.is_some() => match by {
                Some(by) if live.authorities.vouch(by, key, now()) => None,
                _ => Some(format!(
                    "the certificate does not count on {here}: an administrator of {here} puts the key of its CA into the \
                     file of [ssh] user_ca, or it has expired or been revoked"
                )),
            },
            // A key that was removed must not live on with a node that has not heard of it.
            None if shares_configuration(live, node) => Some(format!(
                "its configuration, which {node} shares, does not hold the key {key}; ask an administrator"
            )),
            None if live.keyring.knows(name) => None,
            None => Some(format!("an administrator of {here} puts a key of {name} into its keydir/")),
        }
    }
}

/// Whether the node's configuration is a copy of ours, or ours of its, or both of one.
fn shares_configuration(live: &Live, node: &HostName) -> bool {
    let admin = RepoName::new(ADMIN_REPO).expect("a constant, and a valid name");
    let place = live.place(&admin, None);
    let has =
        |node: &HostName| place.master.as_deref() == Some(node.as_str()) || place.copies.contains_key(node.as_str());
    has(node) && has(&live.node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::testing::{Node, actor, host, key_line, repo};
    use crate::model::{Fingerprint, UserName};

    const CONF: &str = "\
repo open
 RW+ = @all
 option mirror.master = server1
 option mirror.copies = server2 server3
 option mirror.redirectOK = server2
repo theirs
 option mirror.master = server2
 option mirror.copies = server1
 option mirror.redirectOK = all
repo elsewhere
 option mirror.master = server2
 option mirror.copies = server3
";

    fn asked(realm: &Realm, node: &str, name: &str, actor: &Actor) -> String {
        realm.believe(&host(node), actor, &repo(name)).map_or_else(|denial| denial.first, |()| "ok".to_owned())
    }

    #[test]
    fn who_is_believed() {
        let node = Node::with(CONF);
        node.commit(&[("keydir/bob.pub", &key_line(2))]);
        let (_activator, realm, _) = node.run();
        let bob = actor(&realm, 2);
        let about = |node: &str, name: &str| asked(&realm, node, name, &bob);
        assert_eq!(about("server2", "open"), "ok");
        assert_eq!(about("server3", "open"), "FATAL: redirection not allowed from 'server3'");
        assert_eq!(about("server4", "open"), "FATAL: 'server4' is not a valid copy of 'open'");
        assert_eq!(about("server2", "theirs"), "FATAL: 'theirs' is not native to server1");
        assert_eq!(about("server2", "elsewhere"), "FATAL: 'elsewhere' is not native to server1");
        assert_eq!(about("server2", "gitmesh-admin"), "FATAL: 'gitmesh-admin' is local to server1");
        assert_eq!(about("server2", "missing"), "FATAL: 'missing' is local to server1");
        assert_eq!(
            asked(&realm, "server2", "open", &Actor::Local),
            "FATAL: server1 does not know the user 'local' of server2"
        );
    }

    #[test]
    fn of_whom() {
        let user = |name: &str, key: &str| Actor::User {
            name: UserName::new(name).unwrap(),
            key: Fingerprint::parse(key).unwrap(),
            by: None,
        };
        let unknown = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        let shared = "repo gitmesh-admin\n option mirror.master = server1\n option mirror.copies = server2 server3\n";
        for (conf, another_key) in [(CONF.to_owned(), true), (format!("{CONF}{shared}"), false)] {
            let node = Node::with(&conf);
            node.commit(&[("keydir/bob.pub", &key_line(2)), ("keydir/carol.pub", &key_line(3))]);
            let (_activator, realm, _) = node.run();
            let (bob, carol) = (actor(&realm, 2), actor(&realm, 3));
            let Actor::User { key: carols, .. } = &carol else { panic!("a user") };
            let known = |actor: &Actor| asked(&realm, "server2", "open", actor) == "ok";
            assert!(known(&bob) && known(&carol));
            assert_eq!(known(&user("bob", unknown)), another_key);
            assert!(!known(&user("bob", carols.as_str())), "carol's key");
            assert!(!known(&user("dave", unknown)), "no key here");
        }
    }
}

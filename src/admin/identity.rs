//! Who is this: the keys of one configuration in force, from where and until when they count.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ssh_key::Certificate;

use crate::model::{Actor, Certified, Fingerprint, UserName};
use crate::policy::{CertificateProblem, Owner, OwnerName};

use super::Denial;
use super::realm::{Live, Realm, now};

impl Live {
    fn identify(&self, blob: &[u8], from: IpAddr) -> Option<Actor> {
        let bound = self.keyring.owner(blob).is_some_and(|owner| !owner.admits(from));
        if let Some(node) = self.nodes.get(blob).filter(|_| !bound) {
            return Some(Actor::Node(node.clone()));
        }
        // The way back in for whoever has bound their own key to the wrong address.
        if let Some((name, key)) = self.emergency.owner(blob) {
            // Whoever is known by the configuration too keeps that name, and with it all other rights.
            let name = self.user_of(blob).map_or_else(|| name.clone(), |(user, _)| user);
            return Some(Actor::User { name, key: key.clone(), by: None });
        }
        self.user_of(blob).filter(|_| !bound).map(|(name, key)| Actor::User { name, key, by: None })
    }

    /// Whom a certificate makes its holder. What `keydir/` says of its key counts all the same: an old certificate does
    /// not undo that a key has expired, or is bound to addresses.
    fn certify(&self, certificate: &Certificate, login: &str, from: IpAddr) -> Result<Actor, Denial> {
        let judged = self.authorities.judge(certificate, login, from, now());
        let (blob, key, certified) = judged.map_err(|problem| Denial::certificate(&problem))?;
        let is_own = |owner: &Owner| matches!(&owner.who, OwnerName::User(user) if *user == certified.user);
        match self.keyring.owner(&blob) {
            Some(owner) if is_own(owner) => {
                if let Some(at) = owner.expires.filter(|at| *at <= now()) {
                    return Err(Denial::expired(&key, at));
                }
                if !owner.admits(from) {
                    return Err(Denial::bound(&key, from));
                }
            }
            None if !self.nodes.contains_key(&blob) && self.emergency.owner(&blob).is_none() => {}
            _ => return Err(Denial::certificate(&CertificateProblem::KeyOfAnother)),
        }
        Ok(Actor::User { name: certified.user.clone(), key, by: Some(Arc::new(certified)) })
    }

    /// Whether a user is still who they were when they logged in.
    fn knows_user(&self, name: &UserName, key: &Fingerprint, by: Option<&Certified>) -> bool {
        let known = self.emergency.holds(key) || self.keyring.holds(name, key, now());
        let Some(by) = by.filter(|_| !known) else { return known };
        by.user == *name && self.authorities.vouch(by, key, now()) && self.keyring.owner_of_fingerprint(key).is_none()
    }

    /// Whose key it is by the configuration, wherever it comes from.
    pub(super) fn user_of(&self, blob: &[u8]) -> Option<(UserName, Fingerprint)> {
        let owner = self.keyring.owner(blob).filter(|owner| !owner.has_expired(now()))?;
        match &owner.who {
            OwnerName::User(user) => Some((user.clone(), owner.fingerprint.clone())),
            // A peer by the configuration alone is in `nodes`; here it has been replaced by the machine's own files.
            OwnerName::Node(_) => None,
        }
    }
}

impl Realm {
    /// Whose key this is (`blob` as in RFC 4253, section 6.6) when it is used from an address, by one look-up. A key
    /// that is both a node's and a user's is the node's.
    pub fn identify(&self, blob: &[u8], from: IpAddr) -> Option<Actor> {
        self.live.borrow().identify(blob, from)
    }

    /// Whether certificates can open anything here.
    pub fn takes_certificates(&self) -> bool {
        !self.live.borrow().authorities.is_empty()
    }

    /// Whom a certificate makes its holder, who has proved to hold its key and logs in as `login` from an address.
    pub fn certify(&self, certificate: &Certificate, login: &str, from: IpAddr) -> Result<Actor, Denial> {
        self.live.borrow().certify(certificate, login, from)
    }

    /// Whose key this is although it opens nothing from there, or nothing any more, and what its holder is told; none
    /// for every other key.
    pub fn barred(&self, blob: &[u8], from: IpAddr) -> Option<(OwnerName, Denial)> {
        let live = self.live.borrow();
        if live.identify(blob, from).is_some() {
            return None;
        }
        let Owner { who, fingerprint, expires, .. } = live.keyring.owner(blob)?;
        let expired = expires.filter(|at| *at <= now()).map(|at| Denial::expired(fingerprint, at));
        Some((who.clone(), expired.unwrap_or_else(|| Denial::bound(fingerprint, from))))
    }

    /// Refuses an actor whose key is bound to other addresses than this one, which a node tells of its user.
    pub fn refuse_from(&self, actor: &Actor, from: &str) -> Result<(), Denial> {
        let Actor::User { key, .. } = actor else { return Ok(()) };
        let live = self.live.borrow();
        let Some(Owner { from: Some(sources), .. }) = live.keyring.owner_of_fingerprint(key) else { return Ok(()) };
        let address = from.split(' ').next().and_then(|from| from.parse::<SocketAddr>().ok()).map(|from| from.ip());
        match address {
            Some(address) if sources.admit(address) => Ok(()),
            _ => Err(Denial::bound(key, address.map_or_else(|| "an unknown address".to_owned(), |ip| ip.to_string()))),
        }
    }

    /// Whether the actor is still known: a key that was proved when a connection began may have been removed since.
    pub fn knows(&self, actor: &Actor) -> bool {
        let live = self.live.borrow();
        match actor {
            Actor::User { name, key, by } => live.knows_user(name, key, by.as_deref()),
            Actor::Node(node) => live.peers.contains_key(node),
            Actor::Local => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::testing::{HERE, Node, actor, blob, host, key_line};
    use crate::policy::parse_public_key;

    #[test]
    fn keys_are_people_or_nodes() {
        let node = Node::with("repo testing\n RW = @all");
        node.commit(&[("keydir/server-server3.pub", &key_line(3)), ("keydir/bob@laptop.pub", &key_line(4))]);
        std::fs::write(node.data.peers().join("server2.pub"), key_line(4)).unwrap();
        let (_activator, realm, _) = node.run();
        let alice = actor(&realm, 1);
        assert!(
            matches!(alice, Actor::User { name, key, .. } if name.as_str() == "alice" && key.as_str().starts_with("SHA256:"))
        );
        assert_eq!(actor(&realm, 3), Actor::Node(host("server3")));
        assert_eq!(actor(&realm, 4), Actor::Node(host("server2")), "the node wins");
        assert_eq!(realm.identify(&blob(5), HERE), None);
    }

    #[test]
    fn a_key_counts_from_where_it_is_bound_to() {
        let node = Node::with("repo testing\n RW = @all");
        let bound = |seed| format!("from=\"10.0.0.0/8,!10.0.0.9\" {}", key_line(seed));
        node.commit(&[("keydir/bob.pub", &bound(2)), ("keydir/server-server4.pub", &bound(4))]);
        let (_activator, realm, _) = node.run();
        for seed in [2, 4] {
            for (from, known) in [([10, 0, 0, 1], true), ([10, 0, 0, 9], false), ([127, 0, 0, 1], false)] {
                assert_eq!(realm.identify(&blob(seed), from.into()).is_some(), known, "{seed} from {from:?}");
                assert_eq!(realm.barred(&blob(seed), from.into()).is_some(), !known, "{seed} from {from:?}");
            }
        }
        let (who, denial) = realm.barred(&blob(2), HERE).unwrap();
        assert!(who.to_string() == "bob" && denial.first.ends_with("may not be used from 127.0.0.1"), "{denial}");
        // As another node tells.
        let bob = realm.identify(&blob(2), [10, 0, 0, 1].into()).unwrap();
        let told = |from: &str| realm.refuse_from(&bob, from).map_err(|denial| denial.code);
        assert_eq!(told("10.0.0.1:22"), Ok(()));
        assert_eq!(told("10.0.0.1:22 by server2"), Ok(()));
        assert_eq!((told("10.0.0.9:22"), told("elsewhere")), (Err(Denial::BOUND), Err(Denial::BOUND)));
        assert_eq!(realm.refuse_from(&actor(&realm, 1), "elsewhere"), Ok(()));
    }

    #[test]
    fn a_key_that_has_expired_is_nobodys() {
        let node = Node::with("repo testing\n RW = @all");
        let past = format!("expiry-time=\"20201201\" {}", key_line(2));
        let later = format!("expiry-time=\"29991231Z\" {}", key_line(3));
        let remote = format!("expiry-time=\"20201201\" {}", key_line(4));
        node.commit(&[("keydir/bob.pub", &past), ("keydir/carol.pub", &later), ("keydir/server-server4.pub", &remote)]);
        let (_activator, realm, _) = node.run();
        assert_eq!(realm.identify(&blob(2), HERE), None);
        assert_eq!((realm.barred(&blob(3), HERE), realm.barred(&blob(9), HERE)), (None, None));
        let (user, denial) = realm.barred(&blob(2), HERE).unwrap();
        assert!(user.to_string() == "bob" && denial.first.contains("2020-12-01T00:00:00Z"), "{denial}");
        assert_eq!(actor(&realm, 4), Actor::Node(host("server4")), "a node's key does not expire");
        let carol = actor(&realm, 3);
        assert!(realm.knows(&carol));
        let key = parse_public_key(&key_line(2)).unwrap().fingerprint;
        assert!(!realm.knows(&Actor::User { name: UserName::new("bob").unwrap(), key, by: None }));
    }
}

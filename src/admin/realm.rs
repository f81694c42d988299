//! The handle through which the live policy is asked: who is this, and may they.
//!
//! All answers of one call come from one snapshot; rules, keys and peers are swapped together. The decider itself is
//! `policy`; what is added here is what it cannot know: which repositories exist, who the peers are, and the words.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use tokio::sync::watch;

use crate::cluster::{Masters, in_force};
use crate::git::objects::Kind;
use crate::model::time::Stamp;
use crate::model::{Actor, HostName, Oid, RefUpdate, RepoName, UserName};
use crate::peer::Peers;
use crate::policy::grant::{Access, Grant};
use crate::policy::{Authorities, Keyring};
use crate::policy::{Decision, Facts, Mirror, Mode, Op, Policy, Target};
use crate::repo::Ownership;

use super::here::{mirror_refusal, refuse_here, you};
use super::shown::Shown;
use super::{ADMIN_REPO, Address, Denial, Emergency, Judged, Look, Store};

/// One configuration in force: everything that decides, swapped as one value.
pub struct Live {
    pub policy: Arc<Policy>,
    pub keyring: Keyring,
    pub peers: Peers,
    pub emergency: Emergency,
    /// This node.
    pub node: HostName,
    /// How users reach it.
    pub address: Address,
    /// Number of commits up to [`Live::commit`].
    pub generation: u64,
    /// The commit of the admin repository that this is.
    pub commit: Oid,
    /// The files of `keydir/`, by path.
    pub(super) keys: BTreeMap<String, Vec<u8>>,
    /// The admin repository's name in the rules: the old one, if only that is used there.
    pub(super) admin_alias: Option<RepoName>,
    /// Regular expressions of the git config keys that may be set here.
    pub(super) config_keys: Vec<String>,
    /// CAs by whose certificates users are known.
    pub authorities: Authorities,
    /// What persons have ordered above the configuration; newer than the rest of this value may be.
    masters: Masters,
    pub(super) admin: RepoName,
    pub(super) nodes: HashMap<Vec<u8>, HostName>,
}

/// The parts of a [`Live`].
pub(super) struct Parts {
    pub policy: Arc<Policy>,
    pub keyring: Keyring,
    pub peers: Peers,
    pub emergency: Emergency,
    pub node: HostName,
    pub address: Address,
    pub generation: u64,
    pub commit: Oid,
    pub admin_alias: Option<RepoName>,
    pub keys: BTreeMap<String, Vec<u8>>,
    pub config_keys: Vec<String>,
    pub authorities: Authorities,
    pub masters: Masters,
}

impl Live {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts {
            policy,
            keyring,
            peers,
            emergency,
            node,
            address,
            generation,
            commit,
            admin_alias,
            keys,
            config_keys,
            authorities,
            masters,
        } = parts;
        let nodes = peers.values().map(|peer| (peer.key.clone(), peer.name.clone())).collect();
        let admin = admin_repo();
        Self {
            policy,
            keyring,
            peers,
            emergency,
            node,
            address,
            generation,
            commit,
            keys,
            admin_alias,
            config_keys,
            authorities,
            masters,
            admin,
            nodes,
        }
    }

    /// The files of `keydir/`, by path from the top.
    pub fn key_files(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.keys
    }

    /// What the rules call a repository.
    fn in_rules<'a>(&'a self, repo: &'a RepoName) -> &'a RepoName {
        self.admin_alias.as_ref().filter(|_| *repo == self.admin).unwrap_or(repo)
    }

    /// What is asked about: a repository on disk, or a missing one, which has whoever asks as its creator.
    pub(super) fn facts<'a>(&'a self, repo: &'a RepoName, disk: Option<&'a Ownership>, asking: &'a str) -> Facts<'a> {
        let repo = self.in_rules(repo);
        match disk {
            Some(Ownership { creator, roles }) => {
                let creator = creator.as_ref().map(UserName::as_str);
                Facts { creator, roles: roles.as_deref(), ..Facts::existing(repo) }
            }
            None => Facts { creator: Some(asking), ..Facts::missing(repo) },
        }
    }

    /// A repository on disk, as far as its creator tells what is configured for it.
    pub(super) fn facts_of<'a>(&'a self, repo: &'a RepoName, creator: Option<&'a UserName>) -> Facts<'a> {
        Facts { creator: creator.map(UserName::as_str), ..Facts::existing(self.in_rules(repo)) }
    }

    /// The override's own answer: the admin repository and, for a key that is known nowhere else, nothing more.
    pub(super) fn by_emergency(&self, actor: &Actor, repo: &RepoName) -> Option<bool> {
        let Actor::User { key, .. } = actor else { return None };
        if !self.emergency.holds(key) {
            return None;
        }
        if *repo == self.admin {
            return Some(true);
        }
        let known = self.emergency.blob(key).is_some_and(|blob| self.user_of(blob).is_some());
        if known { None } else { Some(false) }
    }

    pub(super) fn may(&self, actor: &Actor, repo: &RepoName, disk: Option<&Ownership>, access: Access) -> bool {
        if matches!(actor, Actor::Local) {
            return disk.is_some();
        }
        match self.by_emergency(actor, repo) {
            Some(answer) => answer && disk.is_some(),
            None => self.decide(actor, repo, disk, access).allowed,
        }
    }

    fn decide(&self, actor: &Actor, repo: &RepoName, disk: Option<&Ownership>, access: Access) -> Decision {
        let op = match access {
            Access::Read => Op::Read,
            Access::Write => Op::Write,
        };
        let name = actor.to_string();
        // What the configuration names is there, if only on other nodes: then `refuse_here` says where.
        let elsewhere = disk.is_none() && self.policy.is_named(self.in_rules(repo));
        let facts = if elsewhere { self.facts_of(repo, None) } else { self.facts(repo, disk, &name) };
        self.policy.decide(&facts, &name, op, Target::Any)
    }

    /// The place of a repository as seen from this node.
    pub fn place(&self, repo: &RepoName, creator: Option<&UserName>) -> Mirror {
        self.mirror(&self.facts_of(repo, creator), repo)
    }

    /// As [`Live::place`], for somebody who has the facts of `repo`.
    pub(super) fn mirror(&self, facts: &Facts<'_>, repo: &RepoName) -> Mirror {
        in_force(&self.masters, self.policy.mirror(facts, &self.node), repo, &self.node)
    }

    /// Repositories that the configuration names, by the names they have on disk.
    pub fn repositories(&self) -> impl Iterator<Item = &RepoName> {
        let own = |repo| if Some(repo) == self.admin_alias.as_ref() { &self.admin } else { repo };
        self.policy.repos().map(own)
    }

    /// Where another node is reached; by its name, if it is no peer.
    pub fn address_of(&self, node: &HostName) -> Address {
        let known = self.peers.get(node);
        known.map_or_else(
            || Address::of_host(node.as_str()),
            |peer| Address { user: peer.user.clone(), host: peer.host.clone(), port: peer.port },
        )
    }
}

/// The clock that keys expire by.
pub(super) fn now() -> Stamp {
    Stamp::new(SystemTime::now())
}

pub(super) fn admin_repo() -> RepoName {
    RepoName::new(ADMIN_REPO).expect("a constant, and a valid name")
}

/// The handle on the live policy; a clone is the same handle.
#[derive(Clone)]
pub struct Realm {
    pub(super) live: watch::Receiver<Arc<Live>>,
    policies: watch::Receiver<Arc<Policy>>,
    peers: watch::Receiver<Peers>,
    changes: watch::Receiver<u64>,
    pub(super) store: Arc<dyn Store>,
    /// Held while a role file or a file of locks is read, changed and written.
    pub(super) files: Arc<Mutex<()>>,
    pub(super) shown: Arc<Shown>,
    /// The data directory.
    pub(super) site: Arc<Path>,
}

/// The only writer of what a [`Realm`] answers.
pub(super) struct Publisher {
    live: watch::Sender<Arc<Live>>,
    policies: watch::Sender<Arc<Policy>>,
    peers: watch::Sender<Peers>,
    changes: watch::Sender<u64>,
}

impl Publisher {
    pub fn publish(&self, live: Arc<Live>) {
        self.peers.send_if_modified(|peers| {
            let changed = *peers != live.peers;
            *peers = Arc::clone(&live.peers);
            changed
        });
        let policy = Arc::clone(&live.policy);
        self.live.send_replace(live);
        // It counts at once; whoever looks at all repositories for it is rung for by `settled`.
        self.policies.send_if_modified(|known| {
            *known = policy;
            false
        });
        self.changes.send_modify(|count| *count += 1);
    }

    /// What is on disk follows the policy that was published: repositories are made, or have gone.
    pub fn settled(&self) {
        self.policies.send_modify(|_| {});
    }

    pub fn current(&self) -> Arc<Live> {
        Arc::clone(&self.live.borrow())
    }
}

/// A realm and its writer.
pub(super) fn realm(live: Arc<Live>, store: Arc<dyn Store>, shown: Arc<Shown>, site: &Path) -> (Publisher, Realm) {
    let (peers_in, peers) = watch::channel(Arc::clone(&live.peers));
    let (policies_in, policies) = watch::channel(Arc::clone(&live.policy));
    let (live_in, live) = watch::channel(live);
    let (changes_in, changes) = watch::channel(0);
    (
        Publisher { live: live_in, policies: policies_in, peers: peers_in, changes: changes_in },
        Realm { live, policies, peers, changes, store, files: Arc::default(), shown, site: site.into() },
    )
}

impl Realm {
    /// The configuration in force.
    pub fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live.borrow())
    }

    /// May the actor read or write the repository at all? Users and nodes by the rules, with ref `any`; a node gets
    /// nothing for being one, and never writes by this way (see [`Realm::authorize_mirror`]). Local may all.
    pub fn authorize(&self, actor: &Actor, repo: &RepoName, access: Access) -> Result<Grant, Denial> {
        let live = self.live();
        let disk = self.store.ownership(repo);
        let by_mirror_only = matches!(actor, Actor::Node(_)) && access == Access::Write;
        if !by_mirror_only && live.may(actor, repo, disk.as_ref(), access) {
            return Ok(Grant::by_policy(repo.clone(), access, actor.clone()));
        }
        Err(self.refuse(&live, actor, repo, disk.as_ref(), access))
    }

    /// The refex of the rule that decides about an access, for the audit; none for who is asked no rule.
    pub fn refex_of(&self, actor: &Actor, repo: &RepoName, access: Access) -> String {
        match actor {
            Actor::User { .. } => self.live().decide(actor, repo, self.store.ownership(repo).as_ref(), access).refex,
            Actor::Node(_) | Actor::Local => String::new(),
        }
    }

    /// Who has the emergency override in force.
    pub fn overriding(&self) -> Vec<String> {
        self.live().emergency.names().into_iter().map(ToString::to_string).collect()
    }

    fn refuse(&self, live: &Live, actor: &Actor, repo: &RepoName, disk: Option<&Ownership>, access: Access) -> Denial {
        let letter = if access == Access::Read { 'R' } else { 'W' };
        let insider = self.sees_rules(live, actor);
        let readable = access == Access::Write && live.may(actor, repo, disk, Access::Read);
        let decision = (insider || readable).then(|| live.decide(actor, repo, disk, access));
        let refex = decision.as_ref().map_or("fallthru", |decision| decision.refex.as_str());
        let (code, help) = if readable {
            (Denial::NO_WRITE, format!("you may read '{repo}', but not write to it; ask an administrator for RW"))
        } else if insider && disk.is_none() {
            (Denial::NO_ACCESS, format!("there is no repository '{repo}' on this node; name it in the configuration"))
        } else {
            let ssh = live.address.ssh();
            (Denial::NO_ACCESS, format!("see what you may use with: {ssh} info; or ask an administrator"))
        };
        Denial {
            first: format!("FATAL: {letter} any {repo} {actor} DENIED by {refex}"),
            you: Some(you(actor)),
            rule: decision.filter(|_| insider).and_then(|decision| Some(Box::new((decision.rule?, decision.place?)))),
            help,
            code,
        }
    }

    pub(super) fn sees_rules(&self, live: &Live, actor: &Actor) -> bool {
        live.may(actor, &live.admin, self.store.ownership(&live.admin).as_ref(), Access::Read)
    }

    /// May this peer bring the repository up to date? Only if this node's own configuration says that it holds a copy
    /// and that the peer is its master. The repository need not exist yet; `creator` is whom the peer names as the one
    /// who made it there. A creator that is known here already counts too, so that no other name opens the way; and one
    /// whose repository is new here must be allowed to make it by the rules here (`spec/access-language.md`, 12.5).
    pub fn authorize_mirror(
        &self,
        node: &HostName,
        repo: &RepoName,
        creator: Option<&UserName>,
    ) -> Result<Grant, Denial> {
        let live = self.live();
        let disk = self.store.ownership(repo);
        let known = disk.as_ref().and_then(|disk| disk.creator.as_ref());
        let mut refused = disk.as_ref().and_then(|_| mirror_refusal(&live, &live.facts_of(repo, known), node, repo));
        if creator.is_some() && creator != known || disk.is_none() {
            refused = refused.or_else(|| mirror_refusal(&live, &live.facts_of(repo, creator), node, repo));
        }
        if let (None, Some(creator)) = (&disk, creator) {
            refused = refused.or_else(|| super::wild::creator_refusal(&live, creator, node, repo));
        }
        refused.map_or_else(|| Ok(Grant::by_policy(repo.clone(), Access::Write, Actor::Node(node.clone()))), Err)
    }

    /// May this node bring what it alone had as a former master? Only into what is mastered here and has a copy there.
    pub fn authorize_lost(&self, node: &HostName, repo: &RepoName) -> Result<Grant, Denial> {
        let place = self.place(repo);
        if place.mode == Mode::Master && place.copies.contains_key(node.as_str()) {
            return Ok(Grant::by_policy(repo.clone(), Access::Write, Actor::Node(node.clone())));
        }
        Err(Denial {
            first: format!("FATAL: '{repo}' is not mastered here with a copy on {node}"),
            you: Some(format!("node {node}")),
            rule: None,
            help: format!("make the mirror options of '{repo}' agree on both nodes"),
            code: Denial::NOT_MASTER,
        })
    }

    /// Why this node does not serve the access itself, whatever the actor's rights: it is a copy, and copies take no
    /// pushes, the repository lives on other nodes, or pushes are off. To be asked after [`Realm::authorize`].
    pub fn refuse_here(&self, actor: &Actor, repo: &RepoName, access: Access) -> Option<Denial> {
        let (live, disk, name) = (self.live(), self.store.ownership(repo), actor.to_string());
        let facts = live.facts(repo, disk.as_ref(), &name);
        refuse_here(&live, &facts, actor, repo, access)
            .or_else(|| super::upstream::refuse(&live, &facts, actor, repo, access))
            .or_else(|| if access == Access::Write { self.writes_off(&live, repo) } else { None })
    }

    /// Judges each update of a push by itself, by the newest rules. With `look`, also by what it brings: merge checks
    /// and virtual refs. Blocks then.
    pub fn judge(
        &self,
        actor: &Actor,
        repo: &RepoName,
        updates: &[(RefUpdate, Kind)],
        look: Option<Look<'_>>,
    ) -> Judged {
        let live = self.live();
        let insider = self.sees_rules(&live, actor);
        let (disk, name) = (self.store.ownership(repo), actor.to_string());
        let facts = live.facts(repo, disk.as_ref(), &name);
        super::judge::judge(&live, &facts, insider, actor, repo, updates, look)
    }

    /// What the options `ENV.*` of a repository tell its hooks, by name; other names than `[A-Za-z0-9_]+` are left out.
    pub fn hook_options(&self, repo: &RepoName) -> BTreeMap<String, String> {
        let live = self.live();
        let disk = self.store.ownership(repo);
        let options = live.policy.options(&live.facts(repo, disk.as_ref(), ""), "ENV.");
        let plain = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let names = options.into_iter();
        names
            .filter_map(|(key, value)| Some((key.strip_prefix("ENV.")?.to_owned(), value)))
            .filter(|(n, _)| plain(n))
            .collect()
    }

    /// Asks the newest rules about a repository as it is on disk; `asking` counts as the creator of one that is missing.
    pub fn with_rules<T>(&self, repo: &RepoName, asking: &str, ask: impl FnOnce(&Policy, &Facts<'_>) -> T) -> T {
        let (live, disk) = (self.live(), self.store.ownership(repo));
        ask(&live.policy, &live.facts(repo, disk.as_ref(), asking))
    }

    /// Where the repository belongs, seen from this node.
    pub fn place(&self, repo: &RepoName) -> Mirror {
        self.live().place(repo, self.store.creator(repo).as_ref())
    }

    /// The copies here that the configuration does not place here any more, where they are more than `share` percent
    /// of all, and so wait for a person. Blocks.
    pub fn left_over(&self, share: u8) -> std::io::Result<Vec<RepoName>> {
        super::left_over::held(&*self.store, &self.live(), share)
    }

    /// The nodes on gitolite 2's list of this key, see [`Policy::mirror_list`].
    pub fn mirror_list(&self, repo: &RepoName, key: &str) -> Option<Vec<String>> {
        self.with_rules(repo, "", |policy, facts| policy.mirror_list(facts, key))
    }

    /// Whether the actor may write the admin repository.
    pub fn may_administer(&self, actor: &Actor) -> bool {
        let live = self.live();
        let disk = self.store.ownership(&live.admin);
        !matches!(actor, Actor::Node(_)) && live.may(actor, &live.admin, disk.as_ref(), Access::Write)
    }

    pub fn generation(&self) -> u64 {
        self.live.borrow().generation
    }

    /// The known peers; changes only when they do.
    pub fn peers(&self) -> watch::Receiver<Peers> {
        self.peers.clone()
    }

    /// Counts the configurations put in force since the start.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// The rules alone, for the rooms that place repositories.
    pub fn policies(&self) -> watch::Receiver<Arc<Policy>> {
        self.policies.clone()
    }

    pub fn subscribe(&self) -> watch::Receiver<Arc<Live>> {
        self.live.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::testing::{Node, actor, host, key_line, repo};

    #[test]
    fn missing_and_forbidden_read_the_same() {
        let node = Node::with("repo secret\n RW = alice\nrepo open\n R = bob");
        node.commit(&[("keydir/bob.pub", &key_line(2))]);
        let (_activator, realm, _) = node.run();
        let bob = actor(&realm, 2);
        let text =
            |name: &str, access| realm.authorize(&bob, &repo(name), access).unwrap_err().to_string().replace(name, "X");
        for access in [Access::Read, Access::Write] {
            assert_eq!(text("secret", access), text("missing", access));
        }
        insta::assert_snapshot!(text("secret", Access::Read), @"
        FATAL: R any X bob DENIED by fallthru
        (or you mis-spelled the reponame)
          you:  bob (SHA256:4A9jyZBOhnKZvcGQ6TRFbf5Gymb41AfYvYaVmWHD+G4)
          help: see what you may use with: ssh git@server1 info; or ask an administrator [E0201]
        ");
        insta::assert_snapshot!(text("open", Access::Write), @"
        FATAL: W any X bob DENIED by fallthru
          you:  bob (SHA256:4A9jyZBOhnKZvcGQ6TRFbf5Gymb41AfYvYaVmWHD+G4)
          help: you may read 'X', but not write to it; ask an administrator for RW [E0202]
        ");
        let alice = actor(&realm, 1);
        let denial = realm.authorize(&alice, &repo("missing"), Access::Read).unwrap_err();
        assert!(denial.help.contains("there is no repository 'missing'"), "{denial}");
        let grant = realm.authorize(&alice, &repo("secret"), Access::Write).unwrap();
        assert_eq!((grant.repo().as_str(), grant.access(), grant.actor()), ("secret", Access::Write, &alice));
        assert!(realm.may_administer(&alice) && !realm.may_administer(&bob) && realm.may_administer(&Actor::Local));
        let rights = ["secret", "open", "gitmesh-admin"].map(|name| realm.rights(&bob, &repo(name)));
        assert_eq!(rights, [(false, false), (true, false), (false, false)]);
    }

    #[test]
    fn a_node_gets_nothing_for_being_one() {
        let node = Node::with(
            "repo local\n RW+ = alice\nrepo given\n RW+ = server-server2\n\
             repo copied\n RW+ = alice\n option mirror.copies = server1\n option mirror.master = server2\n\
             repo native\n RW+ = alice\n option mirror.copies = server2\n option mirror.master = server1\n\
             repo else\n RW = alice\n option mirror.master = server2\n option mirror.copies = server3\n",
        );
        std::fs::write(node.data.peers().join("server2.pub"), key_line(2)).unwrap();
        std::fs::write(node.data.peers().join("server2.address"), "git@10.0.0.2:2222").unwrap();
        let (_activator, realm, _) = node.run();
        let peer = actor(&realm, 2);
        assert!(realm.authorize(&peer, &repo("local"), Access::Read).is_err());
        assert!(realm.authorize(&peer, &repo("given"), Access::Read).is_ok());
        assert!(realm.authorize(&peer, &repo("given"), Access::Write).is_err());
        let mirror = |node: &str, name: &str| {
            realm.authorize_mirror(&host(node), &repo(name), None).map_err(|denial| denial.first)
        };
        assert!(mirror("server2", "copied").is_ok());
        assert_eq!(mirror("server3", "copied").unwrap_err(), "FATAL: 'server3' is not the master of 'copied'");
        assert_eq!(mirror("server2", "native").unwrap_err(), "FATAL: 'native' is native to server1");
        assert_eq!(mirror("server2", "local").unwrap_err(), "FATAL: 'local' is local to server1");
        assert_eq!(mirror("server2", "else").unwrap_err(), "FATAL: server1: 'else' is mirrored but not here");

        let alice = actor(&realm, 1);
        let denial = realm.refuse_here(&alice, &repo("copied"), Access::Write).unwrap();
        assert_eq!(denial.first, "this is a copy; push to server2: ssh://git@10.0.0.2:2222/copied.git");
        assert!(realm.refuse_here(&alice, &repo("copied"), Access::Read).is_none());
        assert!(realm.refuse_here(&alice, &repo("native"), Access::Write).is_none());
        assert!(realm.refuse_here(&alice, &repo("else"), Access::Read).unwrap().first.contains("not here"));
    }

    #[test]
    fn the_emergency_override_opens_the_admin_repository_alone() {
        let node = Node::with("repo testing\n RW+ = @all");
        std::fs::create_dir(node.data.emergency_keydir()).unwrap();
        std::fs::write(node.data.emergency_keydir().join("rescue.pub"), key_line(7)).unwrap();
        std::fs::write(node.data.emergency_conf(), "").unwrap();
        let (_activator, realm, _) = node.run();
        let rescue = actor(&realm, 7);
        assert!(realm.may_administer(&rescue));
        assert!(realm.authorize(&rescue, &repo("gitmesh-admin"), Access::Write).is_ok());
        assert!(realm.authorize(&rescue, &repo("testing"), Access::Read).is_err());
    }
}

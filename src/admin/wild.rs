//! Repositories that users make, and the roles that their creators give (`spec/access-language.md`, 4.4, 4.5).
//!
//! Whatever a repository is made by (a clone, a push, the command `create`, its master), it appears with its creator,
//! its roles and its git config at once. All of it blocks and belongs in `spawn_blocking`.

use std::io;
use std::path::Path;
use std::sync::PoisonError;

use crate::model::{Actor, HostName, RepoName, UserName};
use crate::policy::grant::Access;
use crate::policy::{Facts, Op, Policy, Target};
use crate::repo::{Ownership, ROLES_MAX};

use super::activate::configure;
use super::here::{refuse_here, you};
use super::realm::{Live, Realm};
use super::shown::Sweep;
use super::{Denial, RoleChange};

/// What puts the first contents into a new repository's directory.
type Fill<'a> = dyn Fn(&Path) -> io::Result<()> + 'a;

/// Why a repository was not made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    #[error("{0}")]
    Denied(Denial),
    #[error("make the repository")]
    Failed(#[from] io::Error),
}

/// Why roles were not changed.
#[derive(Debug, thiserror::Error)]
pub enum RolesError {
    #[error("{0}")]
    Denied(Denial),
    #[error("'{0}' is no role here")]
    UnknownRole(String),
    #[error("{0:?} is no user and no group; write a name, or @ and a group's name")]
    Member(String),
    #[error("the role file would be longer than {ROLES_MAX} bytes; give the role to a group")]
    TooLong,
    #[error("write the role file")]
    Failed(#[from] io::Error),
}

impl Realm {
    /// The name of a repository on disk: clones of the time before the move call the admin repository by gitolite's name.
    pub fn own_name(&self, repo: RepoName) -> RepoName {
        let live = self.live();
        if live.admin_alias.as_ref() == Some(&repo) { live.admin.clone() } else { repo }
    }

    /// May the actor make this repository, here, now? A denial of [`Denial::NO_CREATE`] tells nothing that the actor
    /// may not know; the other ones say where it can be made.
    pub fn may_create(&self, actor: &Actor, repo: &RepoName) -> Result<(), Denial> {
        self.creator_of_new(&self.live(), actor, repo).map(drop)
    }

    /// What they may make, and not by a clone or a push alone: the server's settings want the command.
    pub fn refuse_auto_create(&self, actor: &Actor, repo: &RepoName) -> Denial {
        Denial {
            first: format!("FATAL: autocreate denied: '{repo}' does not exist"),
            you: Some(you(actor)),
            rule: None,
            help: format!("check its name; or make it: {} create {repo}", self.live().address.ssh()),
            code: Denial::AUTO_CREATE,
        }
    }

    /// Makes a repository for the actor, who becomes its creator, with the default roles and git config of the
    /// configuration. `false` if it came into being at the same moment by somebody else.
    pub fn create(&self, actor: &Actor, repo: &RepoName) -> Result<bool, CreateError> {
        let made = self.create_from(actor, repo, &|_| Ok(()))?;
        if made {
            tracing::info!(%repo, user = %actor, "created by a user");
        }
        Ok(made)
    }

    /// As [`Realm::create`]; `fill` is given the directory before anybody sees the repository.
    pub(super) fn create_from(&self, actor: &Actor, repo: &RepoName, fill: &Fill<'_>) -> Result<bool, CreateError> {
        let live = self.live();
        let creator = self.creator_of_new(&live, actor, repo).map_err(CreateError::Denied)?;
        let owned = Ownership { creator: Some(creator.clone()), roles: None };
        let roles = default_roles(&live.policy, &live.facts(repo, Some(&owned), ""));
        Ok(self.make(&live, repo, &Ownership { creator: Some(creator), roles }, fill)?)
    }

    /// Makes the repository as its master has it, or takes over its creator and roles; `true` if it was made. To be
    /// asked after [`Realm::authorize_mirror`].
    pub fn take_over(&self, repo: &RepoName, master: &Ownership) -> io::Result<bool> {
        let (live, disk) = (self.live(), self.store.ownership(repo));
        let mut master = master.clone();
        if disk.as_ref().is_none_or(|disk| disk.roles.is_none()) {
            // No roles are as good as an empty file.
            master.roles = master.roles.filter(|roles| !roles.is_empty());
        }
        let Some(mut known) = disk else { return self.make(&live, repo, &master, &|_| Ok(())) };
        let before = known.clone();
        known.creator = master.creator.or(known.creator);
        known.roles = master.roles.or(known.roles);
        if known != before {
            let dir = self.store.dir(repo);
            known.write(&dir)?;
            configure(&dir, &live.config(repo, known.creator.as_ref())).map_err(io::Error::other)?;
            self.show(&live, repo);
        }
        Ok(false)
    }

    /// What gitweb and git-daemon show follows creator and roles. A failure is the operator's: the next activation
    /// tries again.
    pub(super) fn show(&self, live: &Live, repo: &RepoName) {
        for problem in self.shown.update(&*self.store, live, [repo], Sweep::Given) {
            tracing::error!("{problem}");
        }
    }

    fn make(&self, live: &Live, repo: &RepoName, owned: &Ownership, fill: &Fill<'_>) -> io::Result<bool> {
        let creator = owned.creator.as_ref();
        let made = self.store.create_with(repo, &|dir| {
            fill(dir)?;
            owned.write(dir)?;
            configure(dir, &live.config(repo, creator)).map(drop).map_err(io::Error::other)
        })?;
        let newest = self.live();
        if made && newest.commit != live.commit {
            // An activation that ran meanwhile may have looked for repositories before this one was there.
            configure(&self.store.dir(repo), &newest.config(repo, creator)).map_err(io::Error::other)?;
        }
        if made {
            self.show(&newest, repo);
        }
        Ok(made)
    }

    /// Whoever would be the creator; the decision for operation `^C`.
    fn creator_of_new(&self, live: &Live, actor: &Actor, repo: &RepoName) -> Result<UserName, Denial> {
        let refused = |by: &str, help: String| Denial {
            first: format!("FATAL: ^C any {repo} {actor} DENIED by {by}"),
            you: Some(you(actor)),
            rule: None,
            help,
            code: Denial::NO_CREATE,
        };
        let Actor::User { name, .. } = actor else {
            let help = "a user makes it, and becomes its creator; or name it in the configuration".to_owned();
            return Err(refused("fallthru", help));
        };
        let ssh = live.address.ssh();
        let where_to_look = format!("the names you may use stand beside a C in: {ssh} info");
        if live.by_emergency(actor, repo).is_some() {
            return Err(refused("fallthru", where_to_look));
        }
        if self.store.ownership(repo).is_some() {
            // Only those who may read it learn that there is one.
            let known = self.rights(actor, repo).0;
            return Err(if known {
                refused("existence", format!("'{repo}' is there already; use it, or choose another name"))
            } else {
                refused("fallthru", where_to_look)
            });
        }
        let facts = live.facts(repo, None, name.as_str());
        let decision = live.policy.decide(&facts, name.as_str(), Op::CreateRepo, Target::Any);
        if !decision.allowed {
            let insider = self.sees_rules(live, actor);
            let mut denial = refused(if insider { &decision.refex } else { "fallthru" }, where_to_look);
            denial.rule = decision.rule.zip(decision.place).map(Box::new).filter(|_| insider);
            return Err(denial);
        }
        match refuse_here(live, &facts, actor, repo, Access::Write) {
            Some(denial) => Err(at_master(live, &facts, repo, denial, "create", "is made on")),
            None => Ok(name.clone()),
        }
    }

    /// Whether the actor owns an existing repository: made it, holds the owners' role there, or is the machine itself.
    pub fn owns(&self, actor: &Actor, repo: &RepoName) -> bool {
        match actor {
            Actor::User { name, .. } => {
                let live = self.live();
                let owns = |disk: Ownership| {
                    live.policy.is_owner(&live.facts(repo, Some(&disk), name.as_str()), name.as_str())
                };
                live.by_emergency(actor, repo) != Some(false) && self.store.ownership(repo).is_some_and(owns)
            }
            Actor::Local => self.store.ownership(repo).is_some(),
            Actor::Node(_) => false,
        }
    }

    /// The role file, for the owner.
    pub fn roles(&self, actor: &Actor, repo: &RepoName) -> Result<String, Denial> {
        if !self.owns(actor, repo) {
            return Err(not_owner(&self.live(), actor, repo));
        }
        Ok(self.store.ownership(repo).and_then(|owned| owned.roles).unwrap_or_default())
    }

    /// What each role may do in a repository, for those who may read or own it: permission, refex, role.
    pub fn role_rules(&self, actor: &Actor, repo: &RepoName) -> Result<Vec<(String, String, String)>, Denial> {
        if !self.owns(actor, repo) && !self.rights_of_existing(actor, repo) {
            return Err(not_owner(&self.live(), actor, repo));
        }
        let (live, disk) = (self.live(), self.store.ownership(repo));
        Ok(live.policy.role_rules(&live.facts(repo, disk.as_ref(), &actor.to_string())))
    }

    fn rights_of_existing(&self, actor: &Actor, repo: &RepoName) -> bool {
        self.store.ownership(repo).is_some() && self.rights(actor, repo).0
    }

    /// Changes the role file, for the owner, where its master is. `false` if it says so already.
    pub fn change_roles(&self, actor: &Actor, repo: &RepoName, change: &RoleChange<'_>) -> Result<bool, RolesError> {
        let live = self.live();
        if !self.owns(actor, repo) {
            return Err(RolesError::Denied(not_owner(&live, actor, repo)));
        }
        // A panic in between has left the old file or the new one.
        let _one_at_a_time = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let disk = self.store.ownership(repo).unwrap_or_default();
        let facts = live.facts(repo, Some(&disk), "");
        if let Some(denial) = refuse_here(&live, &facts, actor, repo, Access::Write) {
            return Err(RolesError::Denied(at_master(&live, &facts, repo, denial, "perms", "gets its roles on")));
        }
        let before = disk.roles.clone();
        let known = |role: &str| live.policy.roles().any(|known| known == role);
        let after = change.apply(before.as_deref().unwrap_or_default(), &known)?;
        if before.as_ref() == Some(&after) {
            return Ok(false);
        }
        if after.len() > ROLES_MAX {
            return Err(RolesError::TooLong);
        }
        Ownership { creator: None, roles: Some(after) }.write(&self.store.dir(repo))?;
        self.show(&live, repo);
        tracing::info!(%repo, user = %actor, "roles changed");
        Ok(true)
    }

    /// Who made an existing repository.
    pub fn creator(&self, repo: &RepoName) -> Option<UserName> {
        self.store.creator(repo)
    }

    /// An existing repository's description: what the configuration says, else its file; empty for git's own text.
    pub fn description(&self, repo: &RepoName) -> String {
        let live = self.live();
        let wanted = live.config(repo, self.creator(repo).as_ref()).remove("gitweb.description");
        let file = || std::fs::read_to_string(self.store.dir(repo).join("description")).unwrap_or_default();
        let text = wanted.filter(|text| !text.is_empty()).unwrap_or_else(file);
        let line = text.lines().next().unwrap_or_default();
        if line.starts_with("Unnamed repository;") { String::new() } else { line.to_owned() }
    }

    /// The patterns that the actor has a right on, each once, in the order of `info`: whether to read, write and create.
    pub fn pattern_rights(&self, actor: &Actor) -> Vec<(String, [bool; 3])> {
        let Actor::User { name, key, .. } = actor else { return Vec::new() };
        let live = self.live();
        if live.emergency.holds(key) {
            return Vec::new();
        }
        let mut seen = std::collections::BTreeSet::new();
        let told = live.policy.pattern_rights(name.as_str()).into_iter();
        told.filter(|(pattern, _)| seen.insert(pattern.clone()))
            .map(|(pattern, rights)| (pattern, [rights.read, rights.write, rights.create]))
            .collect()
    }
}

/// Why this node does not make a repository that its master says `creator` has made.
pub(super) fn creator_refusal(live: &Live, creator: &UserName, node: &HostName, repo: &RepoName) -> Option<Denial> {
    let facts = live.facts(repo, None, creator.as_str());
    if live.policy.is_named(repo) || live.policy.option(&facts, "bypass-creator-check").is_some() {
        return None;
    }
    let decision = live.policy.decide(&facts, creator.as_str(), Op::CreateRepo, Target::Any);
    (!decision.allowed).then(|| Denial {
        first: format!("FATAL: ^C any {repo} {creator} DENIED by {}", decision.refex),
        you: Some(format!("node {node}")),
        rule: decision.rule.zip(decision.place).map(Box::new),
        help: format!(
            "the configuration of {} does not let {creator} make it; make both nodes' rules agree, or set option bypass-creator-check",
            live.node
        ),
        code: Denial::NOT_MASTER,
    })
}

/// The role file of a new repository: the values of the options `default.roles*`, sorted by their names; CREATOR is the
/// creator of the facts, once in each.
pub fn default_roles(policy: &Policy, facts: &Facts<'_>) -> Option<String> {
    let creator = facts.creator.unwrap_or_default();
    let values = policy.options(facts, "default.roles");
    let line = |value: &String| {
        let mut words: Vec<&str> = value.split_whitespace().collect();
        if let Some(word) = words.iter_mut().find(|word| **word == "CREATOR") {
            *word = creator;
        }
        words.join(" ") + "\n"
    };
    (!values.is_empty()).then(|| values.values().map(line).collect())
}

pub(super) fn not_owner(live: &Live, actor: &Actor, repo: &RepoName) -> Denial {
    Denial {
        first: format!("FATAL: '{repo}' is not yours, or there is no such repository"),
        you: Some(you(actor)),
        rule: None,
        help: format!("its creator gives roles; see what you may use with: {} info", live.address.ssh()),
        code: Denial::NOT_OWNER,
    }
}

/// On a copy, an order is for the master: says which command to run there.
pub(super) fn at_master(
    live: &Live,
    facts: &Facts<'_>,
    repo: &RepoName,
    denial: Denial,
    command: &str,
    happens: &str,
) -> Denial {
    let place = live.mirror(facts, repo);
    let master = place.master.and_then(|master| HostName::new(&master).ok());
    let Some(master) = master.filter(|_| denial.code == Denial::COPY) else { return denial };
    let ssh = live.address_of(&master).ssh();
    let first = format!("FATAL: '{repo}' {happens} its master {master}, not on this node");
    Denial { first, help: format!("run: {ssh} {command} {repo}"), ..denial }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::testing::{Node, actor, host, key_line, repo};
    use crate::admin::{Realm, Store as _};

    const WILD: &str = "repo pub/CREATOR/..*\n C = @all\n RW+ = CREATOR\n RW = WRITERS\n R = READERS\n \
         config foo.owner = %GL_CREATOR\n config foo.repo = %GL_REPO\n option default.roles-1 = READERS CREATOR @team\n \
         option default.roles-0 = WRITERS dave\n";

    /// alice (1), the administrator, and bob (2), carol (3) and dave (4).
    fn node(conf: &str) -> Node {
        let node = Node::with(conf);
        let keys =
            [("keydir/bob.pub", key_line(2)), ("keydir/carol.pub", key_line(3)), ("keydir/dave.pub", key_line(4))];
        node.commit(&keys.each_ref().map(|(path, key)| (*path, key.as_str())));
        node
    }

    #[test]
    fn owners_by_role() {
        let node = node("repo pub/CREATOR/..*\n C = bob\n RW+ = CREATOR\n");
        let mut start = node.start();
        start.settings.roles.push("OWNERS".to_owned());
        start.settings.owner_role = Some("OWNERS".to_owned());
        let (_activator, realm, _) = crate::admin::Activator::start(start).unwrap();
        let (bob, carol, dave, x) = (actor(&realm, 2), actor(&realm, 3), actor(&realm, 4), repo("pub/bob/x"));
        realm.create(&bob, &x).unwrap();
        assert!(realm.owns(&bob, &x) && !realm.owns(&carol, &x));
        realm.change_roles(&bob, &x, &RoleChange::Replace("OWNERS carol\n")).unwrap();
        assert!(realm.owns(&bob, &x) && realm.owns(&carol, &x) && !realm.owns(&dave, &x));
        assert!(realm.change_roles(&carol, &x, &RoleChange::Add { role: "READERS", member: "dave" }).unwrap());
        assert!(!realm.owns(&carol, &repo("testing")));
    }

    fn denied(result: Result<bool, CreateError>) -> String {
        match result {
            Err(CreateError::Denied(denial)) => denial.to_string(),
            other => panic!("{other:?}"),
        }
    }

    fn may(realm: &Realm, seed: u8, name: &str) -> (bool, bool) {
        realm.rights(&actor(realm, seed), &repo(name))
    }

    #[test]
    fn a_user_makes_a_repository_and_owns_it() {
        let node = node(WILD);
        let (_activator, realm, _) = node.run();
        let (bob, carol, x) = (actor(&realm, 2), actor(&realm, 3), repo("pub/bob/x"));
        assert!(realm.authorize(&bob, &x, Access::Read).is_err(), "a right comes from the role, so only with it");
        assert!(realm.may_create(&bob, &x).is_ok());
        assert!(realm.create(&bob, &x).unwrap());
        let disk = node.store.ownership(&x).unwrap();
        assert_eq!(disk.creator.as_ref().map(UserName::as_str), Some("bob"));
        assert_eq!(disk.roles.as_deref(), Some("WRITERS dave\nREADERS bob @team\n"));
        let config = std::fs::read_to_string(node.store.dir(&x).join("config")).unwrap();
        assert!(config.contains("owner = bob") && config.contains("repo = pub/bob/x"), "{config}");

        assert_eq!(may(&realm, 2, "pub/bob/x"), (true, true));
        assert_eq!(may(&realm, 3, "pub/bob/x"), (false, false));
        assert_eq!(may(&realm, 4, "pub/bob/x"), (true, true));
        assert!(realm.owns(&bob, &x) && realm.owns(&Actor::Local, &x) && !realm.owns(&carol, &x));
        assert!(denied(realm.create(&bob, &x)).contains("^C any pub/bob/x bob DENIED by existence"));
        // Whoever may not read it does not learn that it exists.
        let there = denied(realm.create(&carol, &x));
        assert_eq!(
            there.replace("pub/bob/x", "X"),
            denied(realm.create(&carol, &repo("pub/bob/y"))).replace("pub/bob/y", "X")
        );
        insta::assert_snapshot!(there, @"
        FATAL: ^C any pub/bob/x carol DENIED by fallthru
          you:  carol (SHA256:zbv/nU7iZdO0fB0DalMI70dP6/yFD8sctXvvW4+OokY)
          help: the names you may use stand beside a C in: ssh git@server1 info [E0210]
        ");
        assert!(realm.create(&Actor::Local, &repo("pub/local/x")).is_err());
    }

    #[test]
    fn roles_are_the_creators_to_give() {
        let node = node(&WILD.replace("option default", "option no-default"));
        let (_activator, realm, _) = node.run();
        let (bob, carol, x) = (actor(&realm, 2), actor(&realm, 3), repo("pub/bob/x"));
        realm.create(&bob, &x).unwrap();
        let change = |actor: &Actor, change: RoleChange<'_>| realm.change_roles(actor, &x, &change);
        assert!(change(&bob, RoleChange::Add { role: "READERS", member: "carol" }).unwrap());
        assert!(!change(&bob, RoleChange::Add { role: "READERS", member: "carol" }).unwrap());
        assert_eq!(may(&realm, 3, "pub/bob/x"), (true, false));
        assert!(change(&bob, RoleChange::Add { role: "WRITERS", member: "@all" }).unwrap());
        assert_eq!(may(&realm, 4, "pub/bob/x"), (true, true));
        assert_eq!(realm.roles(&bob, &x).unwrap(), "READERS carol\nWRITERS @all\n");
        let refused = change(&carol, RoleChange::Replace("")).unwrap_err().to_string();
        assert!(refused.contains("'pub/bob/x' is not yours, or there is no such repository"), "{refused}");
        assert_eq!(realm.roles(&carol, &x).unwrap_err().code, Denial::NOT_OWNER);
        let long = format!("READERS {}\n", "somebody ".repeat(1000));
        assert!(matches!(change(&bob, RoleChange::Replace(&long)), Err(RolesError::TooLong)));
        change(&Actor::Local, RoleChange::Replace("")).unwrap();
        assert_eq!(may(&realm, 4, "pub/bob/x"), (false, false));
        let rules = realm.role_rules(&bob, &x).unwrap();
        let rules: Vec<_> = rules.iter().map(|(perm, refex, role)| format!("{perm} {refex} {role}")).collect();
        assert_eq!(rules, ["RW refs/.* WRITERS", "R refs/.* READERS"]);
        assert!(realm.role_rules(&carol, &x).is_err());
    }

    #[test]
    fn an_activation_reaches_what_users_made() {
        let node = node(WILD);
        let (mut activator, realm, _) = node.run();
        realm.create(&actor(&realm, 2), &repo("pub/bob/x")).unwrap();
        node.commit_conf(&WILD.replace("foo.owner = %GL_CREATOR", "foo.owner = %GL_CREATOR-2"));
        assert_eq!(activator.reload(None).unwrap().configured, [repo("pub/bob/x")]);
        let config = std::fs::read_to_string(node.store.dir(&repo("pub/bob/x")).join("config")).unwrap();
        assert!(config.contains("owner = bob-2"), "{config}");
    }

    #[test]
    fn templates_make_repositories_and_write_their_roles() {
        let base = "repo @base\n RW = WRITERS\n R = READERS\n";
        let template =
            |who: &str| format!("{base}=begin template-data\nrepo t/one t/two = base\n    WRITERS = {who}\n=end\n");
        let node = node(&template("bob"));
        let (mut activator, realm, applied) = node.run();
        assert!(applied.created.contains(&repo("t/one")) && applied.problems.is_empty(), "{applied:?}");
        let disk = node.store.ownership(&repo("t/two")).unwrap();
        assert_eq!(disk.creator.as_ref().map(UserName::as_str), Some("gitolite-admin"));
        assert_eq!((may(&realm, 2, "t/one"), may(&realm, 3, "t/one")), ((true, true), (false, false)));
        node.commit(&[("keydir/bob.pub", &key_line(2)), ("keydir/carol.pub", &key_line(3))]);
        node.commit_conf(&template("carol"));
        activator.reload(None).unwrap();
        assert_eq!((may(&realm, 2, "t/one"), may(&realm, 3, "t/one")), ((false, false), (true, true)));
    }

    const MIRRORED: &str = "repo pub/CREATOR/..*\n C = bob\n RW+ = CREATOR\n option mirror.copies = server1\n \
         option mirror.master = server2\nrepo own/CREATOR/..*\n C = bob\n RW+ = CREATOR\n";

    #[test]
    fn a_copy_takes_creator_and_roles_from_its_master() {
        let node = node(MIRRORED);
        let (_activator, realm, _) = node.run();
        let (bob, x, master) = (actor(&realm, 2), repo("pub/bob/x"), host("server2"));
        let refused = denied(realm.create(&bob, &x));
        assert!(refused.contains("is made on its master server2"), "{refused}");
        assert!(refused.contains("ssh git@server2 create pub/bob/x"), "{refused}");
        let user = |name: &str| UserName::new(name).ok();
        let mirror = |name: &str, creator: Option<&str>| {
            let creator = creator.and_then(user);
            realm.authorize_mirror(&master, &repo(name), creator.as_ref()).map(drop).map_err(|d| d.first)
        };
        assert_eq!(mirror("pub/bob/x", Some("bob")), Ok(()));
        assert_eq!(mirror("pub/bob/x", None).unwrap_err(), "FATAL: 'pub/bob/x' is local to server1");
        let carol = mirror("pub/carol/x", Some("carol")).unwrap_err();
        assert_eq!(carol, "FATAL: ^C any pub/carol/x carol DENIED by fallthru");

        let mut owned = Ownership { creator: user("bob"), roles: Some("READERS carol\n".to_owned()) };
        assert!(realm.take_over(&x, &owned).unwrap());
        assert_eq!(node.store.ownership(&x), Some(owned.clone()));
        owned.roles = Some(String::new());
        assert!(!realm.take_over(&x, &owned).unwrap());
        assert_eq!(node.store.ownership(&x), Some(owned));
        assert_eq!(mirror("pub/bob/x", Some("bob")), Ok(()));
        let roles = realm.change_roles(&bob, &x, &RoleChange::Replace("READERS dave"));
        assert!(roles.unwrap_err().to_string().contains("gets its roles on its master server2"));

        // A creator that is known here is not argued away by naming another one.
        realm.create(&bob, &repo("own/bob/pub")).unwrap();
        assert_eq!(mirror("own/bob/pub", Some("pub")).unwrap_err(), "FATAL: 'own/bob/pub' is local to server1");
    }
}

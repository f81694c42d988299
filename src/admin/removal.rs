//! Who may delete, bring back and rename repositories: the owners of those that users made, and administrators.

use std::io;

use crate::model::{Actor, RepoName};
use crate::policy::Mode;
use crate::policy::grant::Access;
use crate::repo::Ownership;

use super::activate::configure;
use super::here::{refuse_here, you};
use super::realm::{Realm, admin_repo};
use super::wild::{at_master, not_owner};
use super::{ADMIN_REPO, Denial};

impl Realm {
    /// Whether the actor owns what these files say of a repository that need not be on disk, or is an administrator.
    pub fn owned_by(&self, actor: &Actor, repo: &RepoName, owned: &Ownership) -> bool {
        let live = self.live();
        let owner = match actor {
            Actor::User { name, .. } => {
                live.by_emergency(actor, repo) != Some(false)
                    && live.policy.is_owner(&live.facts(repo, Some(owned), name.as_str()), name.as_str())
            }
            Actor::Local => true,
            Actor::Node(_) => false,
        };
        owner || self.may_administer(actor)
    }

    /// May the actor delete an existing repository here, or (un)lock it? Returns whose it is.
    pub fn may_remove(&self, actor: &Actor, repo: &RepoName) -> Result<Ownership, Denial> {
        let live = self.live();
        let disk = self.store.ownership(repo).filter(|disk| self.owned_by(actor, repo, disk));
        let disk = disk.ok_or_else(|| not_owner(&live, actor, repo))?;
        let facts = live.facts(repo, Some(&disk), "");
        // What the configuration has taken from this node is a left-over that only an administrator can mean.
        let left_over = live.mirror(&facts, repo).mode == Mode::NotHere;
        if !left_over && let Some(denial) = refuse_here(&live, &facts, actor, repo, Access::Write) {
            return Err(at_master(&live, &facts, repo, denial, "D trash", "is deleted on"));
        }
        if !left_over && live.repositories().any(|named| named == repo) {
            let help = format!("take it out of the rules of {ADMIN_REPO} first, then delete it");
            let first = format!("FATAL: '{repo}' is named by the configuration, which would make it again, empty");
            return Err(Denial { first, you: Some(you(actor)), rule: None, help, code: Denial::NAMED });
        }
        Ok(disk)
    }

    /// May the actor bring back here what was deleted, of which `owned` says whose it was?
    pub fn may_restore(&self, actor: &Actor, repo: &RepoName, owned: Option<&Ownership>) -> Result<(), Denial> {
        let live = self.live();
        let none = Ownership::default();
        let facts = live.facts(repo, Some(owned.unwrap_or(&none)), "");
        if let Some(denial) = refuse_here(&live, &facts, actor, repo, Access::Write)
            && self.owned_by(actor, repo, owned.unwrap_or(&none))
        {
            return Err(at_master(&live, &facts, repo, denial, "D list; it", "is brought back on"));
        }
        match owned.filter(|owned| self.owned_by(actor, repo, owned)) {
            Some(_) => Ok(()),
            None => Err(Denial {
                first: format!("FATAL: what you name is not in the trash of '{repo}', or is not yours"),
                you: Some(you(actor)),
                rule: None,
                help: format!("see what you can bring back: {} D list", live.address.ssh()),
                code: Denial::NOT_OWNER,
            }),
        }
    }

    /// May the actor give a repository here another name? The configuration must name the new one for this node, and
    /// must have lost the old one, which it would make again.
    pub fn may_rename(&self, actor: &Actor, old: &RepoName, new: &RepoName) -> Result<(), Denial> {
        let live = self.live();
        if !self.may_administer(actor) && *actor != Actor::Local {
            return Err(not_owner(&live, actor, old));
        }
        let denied = |first: String, help: String| Denial {
            first,
            you: Some(you(actor)),
            rule: None,
            help,
            code: Denial::NAMED,
        };
        let names = |repo: &RepoName| live.repositories().any(|named| named == repo);
        let cure = format!("write {new} for {old} in the rules of {ADMIN_REPO}, push that, then rename");
        let admin = admin_repo();
        if *old == admin || *new == admin {
            return Err(denied(format!("FATAL: {ADMIN_REPO} keeps its name"), "choose another repository".to_owned()));
        }
        if !names(new) {
            return Err(denied(format!("FATAL: the configuration does not name '{new}'"), cure));
        }
        if names(old) {
            return Err(denied(format!("FATAL: the configuration still names '{old}' and would make it again"), cure));
        }
        if self.store.ownership(old).is_none() {
            return Err(not_owner(&live, actor, old));
        }
        let facts = live.facts_of(new, None);
        match refuse_here(&live, &facts, actor, new, Access::Write) {
            Some(denial) => Err(at_master(&live, &facts, new, denial, &format!("repo rename {old}"), "is renamed on")),
            None => Ok(()),
        }
    }

    /// A repository has come under this name by a move: its git config and what is shown of it follow. Also for a name
    /// that has gone.
    pub fn moved(&self, repo: &RepoName) -> io::Result<()> {
        let live = self.live();
        if self.store.exists(repo) {
            let creator = self.store.creator(repo);
            configure(&self.store.dir(repo), &live.config(repo, creator.as_ref())).map_err(io::Error::other)?;
        }
        self.show(&live, repo);
        Ok(())
    }
}

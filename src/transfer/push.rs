//! Pushes in flight: what git's hooks ask and tell about them, and what happens after a push has landed.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::admin::{ADMIN_REPO, Access, Denial, Look, ProgramCall};
use crate::audit::RefChange;
use crate::cluster::Place;
use crate::durable;
use crate::git::changes::Changes;
use crate::git::{objects, odb};
use crate::mirror::HAVE_IT;
use crate::model::{Actor, Epoch, HostName, PushId, RefName, RefUpdate, RepoName};
use crate::observe::metrics;
use crate::repo::{self, Pass};

use super::program::Told;
use super::replicas::{self, Patience};
use super::{Request, Transfer};

/// Looking into a push may take so long; a site's own programs have limits of their own ([`super::program`]).
const LOOKING: Duration = Duration::from_secs(90);
/// Lines for the pusher's terminal; ten refusals say it as well as ten thousand.
const LINES_MAX: usize = 40;

/// `git push -o plan` to the admin repository: check, tell what would change, and refuse.
const PLAN_ONLY: &str = "plan";

/// The table of pushes in flight. Cheap to clone.
#[derive(Clone, Default)]
pub struct Pushes(Arc<Mutex<HashMap<PushId, InFlight>>>);

/// One push that came through a door.
#[derive(Clone, Debug)]
pub(super) struct InFlight {
    pub(super) actor: Actor,
    pub(super) repo: RepoName,
    /// Where it comes from: an address, or `local`.
    from: String,
    /// A master sends its state: nothing is judged by rules and nothing is mirrored on.
    mirror: bool,
    /// Of a master's push, the mastership that it was made under.
    epoch: Option<Epoch>,
    /// The node that vouches for the actor.
    via: Option<HostName>,
    /// It brings what only a former master had.
    lost: bool,
    /// What it overwrites is kept first.
    keep: bool,
    /// Something of it was refused.
    refused: bool,
    /// It has been judged, and holds the gate open until it has ended.
    pass: Option<Arc<Pass>>,
    session: u32,
    /// The branch of the admin repository that is live once this push has landed.
    pub(super) live: Option<RefName>,
    /// What has come of each reference so far, and the pusher's words about it.
    pub(super) outcome: (Vec<RefChange>, String),
}

impl InFlight {
    /// `options` are the push's own.
    fn told(&self, options: &[String]) -> Told {
        let Self { actor, repo, from, session, mirror, .. } = self.clone();
        Told { actor, repo, from, session, mirror, options: options.to_vec() }
    }
}

/// A push's place in the table, given back when the session ends.
pub(super) struct Entry {
    id: PushId,
    table: Pushes,
}

impl Entry {
    pub(super) fn id(&self) -> &PushId {
        &self.id
    }

    /// What hooks are told about this push.
    pub(super) fn told(&self, options: &[String]) -> Option<Told> {
        self.table.lock().get(&self.id).map(|push| push.told(options))
    }

    /// Nothing of it was refused by our own judgement.
    pub(super) fn landed_whole(&self) -> bool {
        self.table.lock().get(&self.id).is_some_and(|push| !push.refused)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.table.lock().remove(&self.id);
    }
}

impl Pushes {
    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PushId, InFlight>> {
        // Each change is one insert or remove, so a panic elsewhere leaves the table whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `fresh`: of a mirror push, whether it may be the first under its epoch, so that what it overwrites is kept.
    pub(super) fn enter(&self, request: &Request, repo: RepoName, fresh: bool) -> Entry {
        let id = PushId::from_random(rand::random());
        let (actor, mirror) = (request.actor.clone(), request.mirror.is_some());
        let via = request.via.as_ref().map(|via| via.node.clone());
        let keep = fresh || request.mirror.as_ref().is_some_and(|push| push.keep);
        let lost = request.mirror.as_ref().is_some_and(|push| push.lost);
        let epoch = request.mirror.as_ref().filter(|push| !push.lost).map(|push| push.epoch);
        let session = rand::random();
        let push = InFlight {
            actor,
            repo,
            from: request.from.clone(),
            mirror,
            epoch,
            via,
            lost,
            keep,
            refused: false,
            pass: None,
            session,
            live: None,
            outcome: Default::default(),
        };
        self.lock().insert(id.clone(), push);
        Entry { id, table: self.clone() }
    }

    /// Whether no other push into the same repository is in flight.
    pub(super) fn is_last(&self, entry: &Entry) -> bool {
        let table = self.lock();
        let Some(own) = table.get(&entry.id) else { return false };
        table.values().filter(|p| p.repo == own.repo).count() == 1
    }

    /// Whether a push into the repository is in flight besides the one that `id` names.
    fn others(&self, id: Option<&str>, repo: &RepoName) -> bool {
        let own = id.and_then(PushId::parse);
        self.lock().iter().any(|(id, push)| push.repo == *repo && Some(id) != own.as_ref())
    }

    /// Notes which branch is live once the push has landed; false for a push that is not in the table.
    pub(super) fn makes_live(&self, id: Option<&str>, branch: &RefName) -> bool {
        let Some(id) = id.and_then(PushId::parse) else { return false };
        self.lock().get_mut(&id).map(|push| push.live = Some(branch.clone())).is_some()
    }

    fn change(&self, id: Option<&str>, change: impl FnOnce(&mut InFlight)) {
        let mut table = self.lock();
        if let Some(push) = id.and_then(PushId::parse).and_then(|id| table.get_mut(&id)) {
            change(push);
        }
    }

    /// Notes that something of a push is refused.
    fn refuse(&self, id: Option<&str>) {
        self.change(id, |push| push.refused = true);
    }

    /// How many pushes are in flight.
    pub fn count(&self) -> usize {
        self.lock().len()
    }
}

/// The answer to git's question: a reason for each refused update, in order, and text for the pusher's terminal.
#[derive(Debug, Default)]
pub struct Verdicts {
    pub refused: Vec<Option<String>>,
    /// The refex that decided about each, for the audit; none of what no rule is asked about.
    pub rules: Vec<String>,
    /// What each does to its reference, as far as the rules were asked.
    pub kinds: Vec<objects::Kind>,
    pub text: String,
}

impl Transfer {
    /// Whose push is it? A push id names one that came through a door; without one it was made on the machine by
    /// path. The error is for the hook that asked.
    fn whose(&self, id: Option<&str>, dir: &Path) -> Result<InFlight, String> {
        let named = self.store.name_of(dir);
        let Some(id) = id else {
            let repo = named.ok_or_else(|| format!("{} is not a repository of this server", dir.display()))?;
            let session = rand::random();
            return Ok(InFlight {
                actor: Actor::Local,
                repo,
                from: "local".to_owned(),
                mirror: false,
                epoch: None,
                via: None,
                lost: false,
                keep: false,
                refused: false,
                pass: None,
                session,
                live: None,
                outcome: Default::default(),
            });
        };
        let found = PushId::parse(id).and_then(|id| self.pushes.lock().get(&id).cloned());
        let push = found.ok_or("this push is not known to the daemon any more; push again")?;
        if named.as_ref() != Some(&push.repo) {
            return Err("this push belongs to another repository".to_owned());
        }
        Ok(push)
    }

    /// git asks, once for all references of a push: which of them may go on? Blocking: reads objects and may compile
    /// a configuration.
    /// `options` are the push's own (git-push(1), `-o`).
    pub fn judge(
        &self,
        id: Option<&str>,
        dir: &Path,
        atomic: bool,
        options: &[String],
        updates: &[RefUpdate],
    ) -> Result<Verdicts, String> {
        let begun = Instant::now();
        let verdicts = self.judged(id, dir, atomic, options, updates);
        metrics::HOOK.of(&["proc-receive"]).since(begun);
        verdicts
    }

    fn judged(
        &self,
        id: Option<&str>,
        dir: &Path,
        atomic: bool,
        options: &[String],
        updates: &[RefUpdate],
    ) -> Result<Verdicts, String> {
        let push = self.whose(id, dir)?;
        let verdicts = self.judge_push(&push, id, dir, atomic, options, updates)?;
        self.note_judged(id, &push.repo, options, updates, &verdicts);
        Ok(verdicts)
    }

    fn judge_push(
        &self,
        push: &InFlight,
        id: Option<&str>,
        dir: &Path,
        atomic: bool,
        options: &[String],
        updates: &[RefUpdate],
    ) -> Result<Verdicts, String> {
        if let Some(node) = &push.via {
            self.realm.believe(node, &push.actor, &push.repo).map_err(|denial| denial.to_string())?;
        } else if !self.realm.knows(&push.actor) {
            let why = format!("{} came with a key that is not known here any more", push.actor);
            return Err(Denial::plain(Denial::LOGIN, why, "ask an administrator").to_string());
        }
        self.still_master(push)?;
        if !push.mirror {
            let pass = self.store.gates().pass(&push.repo).ok_or_else(|| Denial::moving(&push.repo).to_string())?;
            // Of a push by path nobody knows the end; the moment that its references take to move is not waited for.
            self.pushes.change(id, |push| push.pass = Some(Arc::new(pass)));
        }
        self.clear_locks(id, &push.repo, updates);
        let mut verdicts = if push.lost {
            repo::mark_lost(dir).map_err(|error| {
                tracing::error!(%error, repo = %push.repo, "that something is kept cannot be written down");
                "what is lost cannot be kept here".to_owned()
            })?;
            Verdicts { refused: not_lost(&push.actor, dir, updates)?, ..Verdicts::default() }
        } else if push.mirror {
            let text = if push.keep { self.keep(push, dir, updates)? } else { String::new() };
            Verdicts { refused: updates.iter().map(|u| internal_ref(&u.name)).collect(), text, ..Verdicts::default() }
        } else if let Some(denial) = self.realm.refuse_here(&push.actor, &push.repo, Access::Write) {
            // A door has asked the same already; a push by path, or one that began under the old configuration, has not.
            Verdicts {
                refused: vec![Some(denial.short()); updates.len()],
                text: format!("{denial}\n"),
                ..Verdicts::default()
            }
        } else {
            self.judge_by_rules(push, dir, options, updates)?
        };
        // Of options that mean nothing to us, a hook may know the meaning.
        if !push.mirror && !self.has_hooks(&push.repo) {
            verdicts.text.push_str(&replicas::read(options).2);
        }
        if push.repo.as_str() == ADMIN_REPO && !push.mirror {
            self.judge_configuration(push, id, dir, updates, &mut verdicts);
            if options.iter().any(|option| option == PLAN_ONLY) {
                // Nothing may land: a plan is a question.
                let asked = verdicts.refused.iter_mut().filter(|v| v.is_none());
                asked.for_each(|verdict| {
                    *verdict =
                        Some(Denial::in_short(Denial::PLANNED, "only planned, as -o plan asks; nothing has changed"))
                });
            }
        }
        if !push.mirror {
            self.ask_hooks(&push.told(options), dir, updates, &mut verdicts);
        }
        if let (Some(via), true) = (&push.via, verdicts.refused.iter().any(Option::is_some)) {
            verdicts.text.push_str(&self.whose_rule(&push.repo, via));
        }
        if verdicts.refused.iter().any(Option::is_some) {
            self.pushes.refuse(id);
        }
        if atomic && verdicts.refused.iter().any(Option::is_some) {
            for verdict in verdicts.refused.iter_mut().filter(|v| v.is_none()) {
                *verdict = Some(Denial::in_short(Denial::GIT, "another reference of this atomic push is refused"));
            }
        }
        Ok(verdicts)
    }

    /// A master's push was let in under its epoch; while its pack came, a newer master may have been promised.
    fn still_master(&self, push: &InFlight) -> Result<(), String> {
        let known = self.cluster.epoch(&push.repo);
        match push.epoch {
            Some(epoch) if epoch < known => Err(format!(
                "epoch {epoch} of '{}' is over: {known} has been promised here [{}]",
                push.repo,
                Denial::PAST
            )),
            Some(_) => {
                let Actor::Node(node) = &push.actor else { return Ok(()) };
                let known = self.cluster.locate(&push.repo);
                match known {
                    Place::There { master, .. } if master != *node => Err(format!(
                        "{node} is no longer the master of '{}'; {master} is [{}]",
                        push.repo,
                        Denial::PAST
                    )),
                    Place::Here { .. } => {
                        Err(format!("{node} is no longer the master of '{}' [{}]", push.repo, Denial::PAST))
                    }
                    _ => Ok(()),
                }
            }
            None => Ok(()),
        }
    }

    /// The repository's own pre-receive programs see what the rules let through, and refuse all of it or nothing; its
    /// update programs are asked about each reference by itself.
    fn ask_hooks(&self, told: &Told, dir: &Path, updates: &[RefUpdate], verdicts: &mut Verdicts) {
        let passed = updates.iter().zip(&verdicts.refused).filter(|(_, verdict)| verdict.is_none());
        let passed: Vec<RefUpdate> = passed.map(|(update, _)| update.clone()).collect();
        if passed.is_empty() {
            return;
        }
        let pre_receive = self.hook(told, "pre-receive");
        if let Err(why) = self.run_hook(&pre_receive, dir, &passed, &mut verdicts.text) {
            for verdict in verdicts.refused.iter_mut().filter(|verdict| verdict.is_none()) {
                *verdict = Some(Denial::in_short(Denial::HOOK, &why));
            }
            return;
        }
        let hook = self.hook(told, "update");
        let Verdicts { refused, text, .. } = verdicts;
        for (update, verdict) in updates.iter().zip(refused).filter(|(_, verdict)| verdict.is_none()) {
            *verdict = self.run_hook(&hook, dir, std::slice::from_ref(update), text).err();
        }
    }

    /// A git that was killed while we lived on may have left locks in the way of this very push.
    fn clear_locks(&self, id: Option<&str>, repo: &RepoName, updates: &[RefUpdate]) {
        if self.pushes.others(id, repo) {
            return;
        }
        let names = updates.iter().map(|u| u.name.as_str());
        match repo::remove_stale_locks_of(&self.store.dir(repo), names, std::time::SystemTime::now()) {
            Ok(locks) if locks.is_empty() => {}
            Ok(locks) => {
                tracing::warn!(%repo, locks = locks.len(), first = ?locks[0], "removed locks that a killed git left behind")
            }
            Err(error) => tracing::warn!(%error, %repo, "cannot remove stale locks"),
        }
    }

    /// A repair: what it would make unreachable here is given other names first. Without them nothing is overwritten.
    fn keep(&self, push: &InFlight, dir: &Path, updates: &[RefUpdate]) -> Result<String, String> {
        let repo = &push.repo;
        let kept =
            repo::keep_lost(dir, self.cluster.host(), updates, std::time::SystemTime::now()).map_err(|error| {
                let said = chain(&error);
                tracing::error!(error = said, %repo, "what a repair would overwrite cannot be kept");
                let cure = durable::trouble(&said).unwrap_or("tell an administrator");
                format!("what is here cannot be kept under refs/gitmesh/lost/, so nothing is overwritten: {cure}")
            })?;
        if kept.is_empty() {
            return Ok(String::new());
        }
        if let (Actor::Node(master), true) = (&push.actor, push.epoch > Some(Epoch::FIRST)) {
            self.mirror.kept(repo, master, &kept);
        }
        let mut text = String::new();
        for name in &kept {
            tracing::warn!(%repo, reference = %name, "a repair has replaced what was here; it is kept under this name");
        }
        for name in kept.iter().take(LINES_MAX) {
            text.push_str(&format!("kept as {name}\n"));
        }
        Ok(text)
    }

    fn judge_by_rules(
        &self,
        push: &InFlight,
        dir: &Path,
        options: &[String],
        updates: &[RefUpdate],
    ) -> Result<Verdicts, String> {
        let kinds = objects::kinds(dir, updates).map_err(|error| {
            tracing::warn!(%error, repo = %push.repo, "cannot read the objects of a push");
            "the pushed objects cannot be read; push again".to_owned()
        })?;
        let asked: Vec<_> = updates.iter().cloned().zip(kinds.iter().copied()).collect();
        let now = Instant::now();
        let (changes, told) = (Changes::new(dir, updates, now + LOOKING), push.told(options));
        let until = now + LOOKING.max(self.all_programs());
        let said = RefCell::new(String::new());
        let program = |call: &ProgramCall| self.run_program(&told, dir, until, call, &mut said.borrow_mut());
        let look = Look { changes: &changes, program: &program };
        let judged = self.realm.judge(&push.actor, &push.repo, &asked, Some(look));
        let mut text = String::new();
        for said in [said.borrow().as_str(), &judged.text] {
            text.extend(said.split_inclusive('\n').take(LINES_MAX));
        }
        let mut lines = 0;
        let refused = judged.verdicts.into_iter().map(|verdict| {
            let denial = verdict.err()?;
            if lines < LINES_MAX {
                let denial = format!("{denial}\n");
                lines += denial.lines().count();
                text.push_str(&denial);
            }
            Some(denial.short())
        });
        let mut refused: Vec<_> = refused.collect();
        // git would move what the name stands for, which nobody has judged.
        let symbolic = odb::symbolic_targets(dir, updates).map_err(|error| {
            tracing::warn!(%error, repo = %push.repo, "cannot read the references of a push");
            "the references here cannot be read; push again".to_owned()
        })?;
        for (verdict, target) in refused.iter_mut().zip(symbolic) {
            if let (None, Some(target)) = (&verdict, target) {
                let why = format!("a symbolic reference to {target}; push to that one");
                *verdict = Some(Denial::in_short(Denial::GIT, &why));
            }
        }
        Ok(Verdicts { refused, text, rules: judged.refexes, kinds })
    }

    /// git tells what has landed. Brings a new configuration alive, starts mirroring, and returns text for the pusher.
    /// Blocking.
    pub fn landed(
        &self,
        id: Option<&str>,
        dir: &Path,
        options: &[String],
        updates: &[RefUpdate],
    ) -> Result<(String, Option<Patience>), String> {
        let mut push = self.whose(id, dir).or_else(|why| {
            // The daemon was restarted after it had let the push through. Nothing is decided here any more, and what
            // follows reads what is on the disk, so no secret is needed for it.
            let unknown = self.whose(None, dir).map_err(|_| why)?;
            tracing::warn!(repo = %unknown.repo, "a push landed that this run of the daemon has not judged");
            Ok::<_, String>(unknown)
        })?;
        durable::done("transfer.landed", dir);
        for RefUpdate { name, old, new } in updates {
            tracing::info!(user = %push.actor, repo = %push.repo, reference = %name, %old, %new, "updated");
        }
        self.note_landed(id, &push, dir, updates);
        self.upkeep.pushed(&push.repo);
        if let (true, Actor::Node(node)) = (push.lost, &push.actor) {
            self.mirror.lost_arrived(&push.repo, node, updates);
            return Ok((String::new(), None));
        }
        self.mirror.landed(&push.repo, &push.actor, updates);
        let mut text = String::new();
        if push.repo.as_str() == ADMIN_REPO {
            text.push_str(&self.configuration_landed(&push, dir, updates));
        }
        if !push.mirror {
            self.mirror.mark(&push.repo);
        }
        // Its references have moved; what a site does then, which may take long, is in nobody's way.
        self.pushes.change(id, |push| push.pass = None);
        push.pass = None;
        let told = push.told(options);
        for hook in ["post-receive", "post-update"] {
            if let Err(why) = self.run_hook(&self.hook(&told, hook), dir, updates, &mut text) {
                text.push_str(&format!("warning: your push stands, but {why}\n"));
            }
        }
        if push.mirror {
            return Ok((text, None));
        }
        let (told, patience) = self.told_of_replicas(&push.repo, options);
        text.push_str(&told);
        Ok((text, patience))
    }
}

/// What of a former master's push is not one of its own lost references, or is here already.
fn not_lost(actor: &Actor, dir: &Path, updates: &[RefUpdate]) -> Result<Vec<Option<String>>, String> {
    let Actor::Node(node) = actor else { return Err("only a node brings lost references".to_owned()) };
    let below = format!("refs/gitmesh/lost/{node}/");
    let here = crate::git::ref_state::read_refs(dir).map_err(|error| {
        tracing::error!(%error, "the references of a repository cannot be read");
        "the references here cannot be read".to_owned()
    })?;
    let judge = |update: &RefUpdate| match here.refs.get(&update.name) {
        _ if !update.name.as_str().starts_with(&below) => Some(format!("{node} brings references below {below} only")),
        _ if !update.old.is_zero() || update.new.is_zero() => Some("what is lost is never changed".to_owned()),
        Some(oid) if *oid == update.new => Some(HAVE_IT.to_owned()),
        Some(_) => Some("another value is kept under this name".to_owned()),
        None => None,
    };
    Ok(updates.iter().map(judge).collect())
}

fn internal_ref(name: &RefName) -> Option<String> {
    name.is_internal().then(|| Denial::in_short(Denial::INTERNAL_REF, "refs/gitmesh/ is never mirrored"))
}

pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let source = error.source().map_or_else(String::new, |source| format!(": {}", chain(source)));
    format!("{error}{source}")
}

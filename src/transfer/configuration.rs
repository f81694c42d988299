//! Pushes to the admin repository: nothing lands that does not compile, and what has landed is put in force.

use std::path::Path;

use crate::admin::{Applied, Denial, Good};
use crate::git::objects;
use crate::git::ref_state::{self, RefState};
use crate::model::{RefName, RefUpdate, RepoName};

use super::Transfer;
use super::push::{InFlight, Verdicts, chain};

/// The two names that a first branch goes by. Whoever comes from gitolite pushes `master`, and here `main` is live.
const FIRST_BRANCHES: [&str; 2] = ["refs/heads/main", "refs/heads/master"];

impl Transfer {
    /// A configuration is compiled from the pushed commit before any reference moves.
    pub(super) fn judge_configuration(
        &self,
        push: &InFlight,
        id: Option<&str>,
        dir: &Path,
        updates: &[RefUpdate],
        verdicts: &mut Verdicts,
    ) {
        let refs = ref_state::read_refs(dir).unwrap_or_else(|error| {
            tracing::error!(%error, "cannot read HEAD of the admin repository");
            RefState::default()
        });
        let becomes = self.becomes_live(push, dir, &refs, updates);
        let becomes = becomes.filter(|branch| self.pushes.makes_live(id, branch));
        let live = becomes.as_ref().or(refs.head.as_ref());
        for (update, verdict) in updates.iter().zip(&mut verdicts.refused).filter(|(_, v)| v.is_none()) {
            if Some(&update.name) != live {
                let live = live.map_or("(none)", RefName::as_str);
                let short = live.strip_prefix("refs/heads/").unwrap_or(live);
                verdicts.text.push_str(&format!(
                    "warning: only '{live}' is the live configuration; '{}' changes nothing\n  \
                     help: to put it in force, push it there: git push <remote> <commit>:{short}\n",
                    update.name
                ));
            } else if update.new.is_zero() {
                *verdict = Some(refused("the live configuration cannot be deleted; push a changed one"));
            } else {
                match self.admin.check(&update.new, &update.name) {
                    Ok(Good { warnings, plan }) => {
                        verdicts.text.push_str(&warnings);
                        verdicts.text.push_str(if plan.is_empty() { "plan: nothing changes\n" } else { &plan });
                    }
                    Err(rejected) => {
                        verdicts.text.push_str(&rejected);
                        *verdict = Some(refused("the configuration is refused; nothing has changed"));
                    }
                }
            }
        }
    }

    /// The branch that this push makes the live one: the other one of the two first branches, where it is new, and the
    /// actor might as well have pushed it to the one that is live now.
    fn becomes_live(&self, push: &InFlight, dir: &Path, refs: &RefState, updates: &[RefUpdate]) -> Option<RefName> {
        let now = refs.head.as_ref().filter(|head| FIRST_BRANCHES.contains(&head.as_str()))?;
        let new = updates.iter().find(|update| {
            update.old.is_zero() && update.name != *now && FIRST_BRANCHES.contains(&update.name.as_str())
        })?;
        // Pushed to both, it is clear which is meant.
        if refs.refs.contains_key(&new.name) || updates.iter().any(|update| update.name == *now) {
            return None;
        }
        let old = refs.refs.get(now).cloned().unwrap_or_else(|| new.new.to_zero());
        let instead = RefUpdate { name: now.clone(), old, new: new.new.clone() };
        let kind = objects::update_kind(dir, &instead).ok()?;
        let judged = self.realm.judge(&push.actor, &push.repo, &[(instead, kind)], None);
        judged.verdicts.iter().all(Result::is_ok).then(|| new.name.clone())
    }

    /// Puts the newest commit in force; the text is for whoever pushed it.
    pub(super) fn configuration_landed(&self, push: &InFlight, dir: &Path, updates: &[RefUpdate]) -> String {
        let mut text = String::new();
        if let Some(branch) = push.live.as_ref().filter(|branch| updates.iter().any(|update| update.name == **branch)) {
            match objects::set_head(dir, branch) {
                Ok(()) => text.push_str(&format!("{branch} is the live branch from now on\n")),
                Err(error) => tracing::error!(error = chain(&error), %branch, "the branch cannot be made the live one"),
            }
        }
        match self.admin.reload() {
            Ok(applied) => {
                self.mirror.mark_all(&applied.configured);
                text.push_str(&told(&applied));
            }
            Err(error) => {
                tracing::error!(error = chain(&error), "the new configuration is not in force; the old one stays");
                text.push_str("FATAL: the new configuration is not in force; the old one stays. Tell the operator of this server.\n");
            }
        }
        text
    }
}

impl Transfer {
    /// For whoever has pushed something whose consequences take longer than a hook may wait.
    pub fn under_way(&self) -> String {
        under_way(self.realm.generation(), self.admin.making().progress())
    }
}

fn under_way(generation: u64, making: Option<(usize, usize)>) -> String {
    match making {
        Some((made, wanted)) => format!(
            "generation {generation} is in force; {made} of {wanted} new repositories are made so far, the rest goes on\n"
        ),
        None => "the push has landed; what follows from it takes long and goes on\n".to_owned(),
    }
}

fn refused(why: &str) -> String {
    Denial::in_short(Denial::CONFIGURATION, why)
}

/// What a configuration push did, for whoever pushed it.
fn told(applied: &Applied) -> String {
    let mut text = format!("generation {} is in force", applied.generation);
    if !applied.created.is_empty() {
        let names: Vec<&str> = applied.created.iter().take(10).map(RepoName::as_str).collect();
        let more = if applied.created.len() > names.len() { ", ..." } else { "" };
        text.push_str(&format!("; {} made: {}{more}", applied.created.len(), names.join(", ")));
    }
    text.push('\n');
    for problem in &applied.problems {
        text.push_str(&format!("warning: not done yet: {problem}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_is_told_while_it_goes_on() {
        let told = under_way(7, Some((43_210, 100_000)));
        assert_eq!(
            told,
            "generation 7 is in force; 43210 of 100000 new repositories are made so far, the rest goes on\n"
        );
        assert!(under_way(7, None).contains("goes on"));
    }
}

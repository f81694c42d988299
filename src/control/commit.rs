//! The one way for a command to change the configuration: a commit in the admin repository by the person who gave it.
//!
//! A command that uses it names [`ADMIN_REPO`] in [`super::changed_repo`], so that it is carried to the admin
//! repository's master. The commit itself, its check and its coming into force are `admin`'s; here stands what follows
//! a push too: whether this node takes changes, the hand-over gate, the copies, the audit.

use std::collections::BTreeMap;

use super::{Control, Reply};
use crate::admin::{ADMIN_REPO, Access, Change, Committed, NotCommitted};
use crate::audit::{Kind, Outcome, Record, RefChange};
use crate::model::{Actor, RefUpdate, RepoName};

impl Control {
    /// Commits what `edit` makes of the newest files of `conf/` and `keydir/` (by path from the top). It is asked
    /// again when a push was quicker. Whether the actor may is the caller's question. `what` is the command for the
    /// audit, `keys add`; `from` the caller's address.
    ///
    /// # Errors
    /// The reply to give: that of `edit`, the compiler's refusal, or why nothing is changed here.
    pub async fn commit(
        &self,
        actor: &Actor,
        from: &str,
        what: &str,
        mut edit: impl FnMut(&BTreeMap<String, Vec<u8>>) -> Result<Change, Reply> + Send + 'static,
    ) -> Result<Committed, Reply> {
        let repo = RepoName::new(ADMIN_REPO).expect("a constant, and a valid name");
        self.settled(actor, &repo).await;
        if let Some(denial) = self.realm.refuse_here(actor, &repo, Access::Write) {
            return Err(Reply::denied(&denial));
        }
        let pass = self.pass(&repo)?;
        let (admin, person) = (self.admin.clone(), actor.to_string());
        let work = tokio::task::spawn_blocking(move || {
            let done = admin.commit(&person, &mut edit);
            drop(pass);
            done
        });
        let done = work.await.map_err(|error| failed(&error))?;
        let done = done.map_err(|refused| match refused {
            NotCommitted::Refused(reply) => reply,
            NotCommitted::Rejected(text) if self.sees_rules(actor) => Reply { err: text, code: 1, ..Reply::default() },
            NotCommitted::Rejected(text) => {
                tracing::warn!(user = %actor, command = what, "the configuration with this change is refused: {text}");
                let help = format!("the reason is in {ADMIN_REPO}, and in this node's log; tell an administrator");
                Reply::fail(1, format!("FATAL: the configuration would be refused with this change\n  help: {help}"))
            }
            NotCommitted::Busy | NotCommitted::Empty => Reply::fail(1, format!("FATAL: {refused}")),
            NotCommitted::Repository(error) => failed(&error),
        })?;
        let RefUpdate { name, old, new } = &done.update;
        tracing::info!(user = %actor, %repo, reference = %name, %old, %new, command = what, "updated");
        let change =
            RefChange { name: name.to_string(), old: old.to_string(), new: new.to_string(), ..RefChange::default() };
        let record = Record::of(Kind::Push, actor, from).about(&repo, what).ended(Outcome::Ok, "");
        self.audit.note(Record { refs: vec![change], ..record });
        self.mirror.landed(&repo, actor, std::slice::from_ref(&done.update));
        match &done.applied {
            Ok(applied) => self.mirror.mark_all(&applied.configured),
            Err(error) => tracing::error!(%error, "the new configuration is not in force; the old one stays"),
        }
        self.mirror.mark(&repo);
        Ok(done)
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Reply {
    tracing::error!(error, "gitmesh-admin cannot be changed");
    Reply::broken("gitmesh-admin cannot be changed", error)
}

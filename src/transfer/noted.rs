//! What the audit is told of sessions.

use std::path::Path;
use std::time::Instant;

use super::push::{Entry, InFlight, Pushes, Verdicts};
use super::{Request, Transfer};
use crate::admin::Access;
use crate::audit::{Kind, Outcome, Record, RefChange};
use crate::git::objects;
use crate::git::service::Service;
use crate::model::{Actor, PushId, RefUpdate, RepoName};

/// A push option with words for the audit: `git push -o reason=...`
const REASON: &str = "reason=";

impl Transfer {
    fn record(&self, kind: Kind, request: &Request, begun: Instant) -> Record {
        let Request { actor, service, repo, from, via, .. } = request;
        let mut record = Record::of(kind, actor, from).about(repo, service.to_string());
        if let Some(via) = via {
            record.node = via.node.to_string();
        }
        record.ms = u64::try_from(begun.elapsed().as_millis()).ok();
        record
    }

    /// A session that was refused, or broke off before git's protocol began.
    pub(super) fn note_refused(&self, request: &Request, begun: Instant, reason: &str) {
        let kind = if request.service == Service::ReceivePack { Kind::Push } else { Kind::Access };
        let mut record = self.record(kind, request, begun).ended(Outcome::Refused, reason);
        record.code = Some(1);
        self.audit.note(record);
    }

    /// A fetch that has been served.
    pub(super) fn note_access(&self, request: &Request, begun: Instant, code: u32) {
        if !self.audit.wants_fetches() {
            return;
        }
        let result = if code == 0 { Outcome::Ok } else { Outcome::Failed };
        let mut record = self.record(Kind::Access, request, begun).ended(result, "");
        record.code = Some(i64::from(code));
        if result == Outcome::Ok {
            record.rule = self.realm.refex_of(&request.actor, &request.repo, Access::Read);
        }
        self.audit.note(record);
    }

    /// A push that has ended; without an entry in the table it was carried to its master, which tells what came of it.
    pub(super) fn note_push(&self, request: &Request, entry: Option<&Entry>, begun: Instant, code: u32, reason: &str) {
        let (refs, said) = entry.and_then(|entry| self.pushes.outcome(entry.id())).unwrap_or_default();
        let any = |result| refs.iter().any(|change| change.result == result);
        let result = if any(Outcome::Ok) || (refs.is_empty() && code == 0) {
            Outcome::Ok
        } else if any(Outcome::Refused) {
            Outcome::Refused
        } else {
            Outcome::Failed
        };
        let reason = if reason.is_empty() { said.as_str() } else { reason };
        let mut record = self.record(Kind::Push, request, begun).ended(result, reason);
        (record.code, record.refs) = (Some(i64::from(code)), refs);
        self.audit.note(record);
    }

    /// A repository that a fetch or a push has made.
    pub(super) fn note_creation(&self, request: &Request) {
        let what = if request.service == Service::ReceivePack { "auto-create by push" } else { "auto-create by fetch" };
        let record = Record::of(Kind::Create, &request.actor, &request.from).about(&request.repo, what);
        self.audit.note(record);
    }

    /// What was judged waits for the end of its push; of one that was made by path, what is refused ends here.
    pub(super) fn note_judged(
        &self,
        id: Option<&str>,
        repo: &RepoName,
        options: &[String],
        updates: &[RefUpdate],
        verdicts: &Verdicts,
    ) {
        let changes = updates.iter().zip(&verdicts.refused).enumerate().map(|(number, (update, refused))| RefChange {
            rule: verdicts.rules.get(number).cloned().unwrap_or_default(),
            op: verdicts.kinds.get(number).map_or("", |kind| word(*kind)).to_owned(),
            // Until it has landed.
            result: if refused.is_some() { Outcome::Refused } else { Outcome::Failed },
            reason: refused.clone().unwrap_or_default(),
            ..change(update)
        });
        if id.is_some() {
            let reason = options.iter().find_map(|option| option.strip_prefix(REASON)).unwrap_or_default();
            return self.pushes.judged(id, changes.collect(), reason);
        }
        let refused: Vec<RefChange> = changes.filter(|change| change.result == Outcome::Refused).collect();
        if !refused.is_empty() {
            self.note_by_path(repo, refused, Outcome::Refused);
        }
    }

    /// What has landed.
    pub(super) fn note_landed(&self, id: Option<&str>, push: &InFlight, dir: &Path, updates: &[RefUpdate]) {
        if !self.pushes.landed(id, updates) {
            let kinds = objects::kinds(dir, updates).unwrap_or_default();
            let ops = kinds.iter().map(|kind| word(*kind)).chain(std::iter::repeat(""));
            let noted = |(update, op): (&RefUpdate, &str)| RefChange { op: op.to_owned(), ..change(update) };
            let changes = updates.iter().zip(ops).map(noted).collect();
            self.note_by_path(&push.repo, changes, Outcome::Ok);
        }
    }

    fn note_by_path(&self, repo: &RepoName, refs: Vec<RefChange>, result: Outcome) {
        let record = Record::of(Kind::Push, &Actor::Local, "local").about(repo, "push by path").ended(result, "");
        self.audit.note(Record { refs, ..record });
    }
}

fn word(kind: objects::Kind) -> &'static str {
    match kind {
        objects::Kind::Create => "create",
        objects::Kind::FastForward => "forward",
        objects::Kind::Rewind => "rewind",
        objects::Kind::Delete => "delete",
    }
}

fn change(update: &RefUpdate) -> RefChange {
    let RefUpdate { name, old, new } = update;
    RefChange { name: name.to_string(), old: old.to_string(), new: new.to_string(), ..RefChange::default() }
}

impl Pushes {
    fn judged(&self, id: Option<&str>, changes: Vec<RefChange>, reason: &str) {
        if let Some(id) = id.and_then(PushId::parse)
            && let Some(push) = self.lock().get_mut(&id)
        {
            push.outcome = (changes, reason.to_owned());
        }
    }

    /// False for a push that is not in the table.
    fn landed(&self, id: Option<&str>, updates: &[RefUpdate]) -> bool {
        let Some(id) = id.and_then(PushId::parse) else { return false };
        let mut table = self.lock();
        let Some(push) = table.get_mut(&id) else { return false };
        let names: std::collections::HashSet<&str> = updates.iter().map(|update| update.name.as_str()).collect();
        for change in push.outcome.0.iter_mut().filter(|change| names.contains(change.name.as_str())) {
            change.result = Outcome::Ok;
        }
        true
    }

    fn outcome(&self, id: &PushId) -> Option<(Vec<RefChange>, String)> {
        self.lock().get_mut(id).map(|push| std::mem::take(&mut push.outcome))
    }
}

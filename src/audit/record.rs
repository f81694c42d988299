//! One record, as it stands in a line.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::model::time::rfc3339;
use crate::model::{Actor, RepoName};

/// What a record is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A fetch, or a session that was refused before it began.
    #[default]
    Access,
    Push,
    /// A repository that a fetch or push has made.
    Create,
    /// A command over SSH, or one typed on the machine.
    Command,
    /// A key that nobody is known by.
    Auth,
    /// The node has started or stopped, or something concerns the audit itself.
    Audit,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    #[default]
    Ok,
    /// By a rule.
    Refused,
    /// For another reason.
    Failed,
}

/// One reference of a push.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefChange {
    #[serde(rename = "ref")]
    pub name: String,
    pub old: String,
    pub new: String,
    /// `create`, `forward`, `rewind` or `delete`; empty where nobody has looked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub op: String,
    /// The refex that decided, where a rule did.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rule: String,
    pub result: Outcome,
    /// Why it was refused or failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// A line of the audit. Texts that do not apply are empty, and absent from the line.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// Grows by one from record to record, over all files.
    pub seq: u64,
    /// RFC 3339, in UTC and milliseconds.
    pub time: String,
    pub kind: Kind,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// As whom an administrator gave a command.
    #[serde(rename = "as", skip_serializing_if = "String::is_empty")]
    pub other: String,
    /// The key's fingerprint.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// The certificate that the key counts by: what its CA calls it, its serial number, the fingerprint of the CA.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub certificate: String,
    /// The node that came by itself, or that carried a user's session here.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// The client's address and port; `local` on the machine itself.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub from: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub repo: String,
    /// git's service, or the words of the command.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub what: String,
    /// The refex that let a fetch in.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rule: String,
    pub result: Outcome,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The exit code that the client got.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<i64>,
    /// How long it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ms: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refs: Vec<RefChange>,
    /// The SHA-256 of the line before, of its bytes without the newline; empty in the first of all.
    pub prev: String,
}

/// Longer texts are cut, in bytes.
const TEXT_MAX: usize = 1000;
/// References of one record; a push of more makes several.
pub(super) const REFS_MAX: usize = 1000;

impl Record {
    pub fn new(kind: Kind) -> Self {
        Self { kind, time: moment(SystemTime::now()), ..Self::default() }
    }

    /// A record about what an actor did.
    pub fn of(kind: Kind, actor: &Actor, from: &str) -> Self {
        let mut record = Self { from: from.to_owned(), ..Self::new(kind) };
        match actor {
            Actor::User { name, key, by } => {
                (record.user, record.key) = (name.to_string(), key.to_string());
                record.certificate = by.as_ref().map(ToString::to_string).unwrap_or_default();
            }
            Actor::Node(node) => record.node = node.to_string(),
            Actor::Local => record.user = "local".to_owned(),
        }
        record
    }

    #[must_use]
    pub fn about(mut self, repo: &RepoName, what: impl Into<String>) -> Self {
        (self.repo, self.what) = (repo.to_string(), cut(what.into()));
        self
    }

    /// What came of it, with its reason.
    #[must_use]
    pub fn ended(mut self, result: Outcome, reason: &str) -> Self {
        (self.result, self.reason) = (result, cut(reason.to_owned()));
        self
    }

    /// Roughly what it takes in memory and on the disk, in bytes.
    pub(super) fn weight(&self) -> usize {
        512 + self.what.len() + self.reason.len() + self.refs.len() * 256
    }

    /// The records that it becomes: of a push with very many references, several.
    pub(super) fn split(mut self) -> Vec<Self> {
        if self.refs.len() <= REFS_MAX {
            return vec![self];
        }
        let refs = std::mem::take(&mut self.refs);
        refs.chunks(REFS_MAX).map(|part| Self { refs: part.to_vec(), ..self.clone() }).collect()
    }
}

fn cut(mut text: String) -> String {
    if text.len() > TEXT_MAX {
        let end = (0..=TEXT_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

pub(super) fn moment(at: SystemTime) -> String {
    let ms = at.duration_since(UNIX_EPOCH).unwrap_or_default().subsec_millis();
    format!("{}.{ms:03}Z", rfc3339(at).trim_end_matches('Z'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_what_applies() {
        let repo = RepoName::new("docs").unwrap();
        let record = Record::of(Kind::Access, &Actor::Local, "local").about(&repo, "git-upload-pack");
        let record = Record { time: "2026-11-21T08:30:00.123Z".to_owned(), ..record }.ended(Outcome::Refused, "no");
        let line = serde_json::to_string(&record).unwrap();
        insta::assert_snapshot!(line, @r#"{"seq":0,"time":"2026-11-21T08:30:00.123Z","kind":"access","user":"local","from":"local","repo":"docs","what":"git-upload-pack","result":"refused","reason":"no","prev":""}"#);
        assert_eq!(serde_json::from_str::<Record>(&line).unwrap(), record);
        assert_eq!(serde_json::from_str::<Record>(r#"{"seq":7,"later":1}"#).unwrap().seq, 7);
        let refs = vec![RefChange::default(); 2 * REFS_MAX + 1];
        let parts = Record { refs, ..record }.split();
        assert_eq!(parts.iter().map(|part| part.refs.len()).collect::<Vec<_>>(), [REFS_MAX, REFS_MAX, 1]);
        assert_eq!(cut("\u{e9}".repeat(600)).len(), 1000);
    }
}

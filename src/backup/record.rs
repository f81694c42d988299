//! What is written down in a backup. Readers ignore what they do not know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{Oid, RefName, RepoName};

const SCHEMA: &str = "gitmesh.backup/1";

/// Everything at one time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Snapshot {
    pub schema: String,
    /// When it began, RFC 3339 in UTC.
    pub time: String,
    pub node: String,
    pub software: String,
    /// The data directory, as paths inside the files name it.
    pub data: String,
    /// The node's files by their path below the data directory.
    pub files: BTreeMap<String, Kept>,
    /// The record of each repository, by name.
    pub repos: BTreeMap<String, String>,
    /// Repositories that could not be read, and why; what stands above for them is from the snapshot before.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failed: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// The object with its contents, or with the first piece of them: a file that only grows costs what it has grown by.
    pub hash: String,
    /// The pieces after that one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more: Vec<String>,
    pub mode: u32,
}

impl Kept {
    pub(super) fn hashes(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.hash).chain(&self.more)
    }
}

/// One repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub repo: String,
    /// The object with its references.
    pub refs: String,
    /// Its bundles, oldest first.
    pub bundles: Vec<String>,
    /// Its small files by name.
    pub files: BTreeMap<String, String>,
}

impl Snapshot {
    pub(super) fn new(time: String, node: &str, data: String) -> Self {
        let software = env!("CARGO_PKG_VERSION").to_owned();
        let (schema, node) = (SCHEMA.to_owned(), node.to_owned());
        let (files, repos, failed) = Default::default();
        Self { schema, time, node, software, data, files, repos, failed }
    }

    /// What is wrong with one that was read; names become paths when it is restored.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.schema != SCHEMA {
            return Err(format!("its schema is {:?}, and this gitmesh reads {SCHEMA}", self.schema));
        }
        let inside = |path: &str| path.split('/').all(|part| !matches!(part, "" | "." | "..")) && !path.contains('\0');
        match self.files.keys().find(|path| !inside(path)) {
            Some(path) => Err(format!("{path:?} is no path below a data directory")),
            None => self
                .repos
                .keys()
                .try_for_each(|name| RepoName::new(name).map(drop).map_err(|e| format!("{name:?}: {e}"))),
        }
    }
}

/// `OID NAME`, a line each, in byte order of the names.
pub(super) fn write_refs(refs: &BTreeMap<RefName, Oid>) -> String {
    refs.iter().map(|(name, oid)| format!("{oid} {name}\n")).collect()
}

pub(super) fn read_refs(text: &[u8]) -> Option<BTreeMap<RefName, Oid>> {
    let line =
        |line: &str| line.split_once(' ').and_then(|(oid, name)| Some((RefName::parse(name)?, Oid::parse(oid)?)));
    std::str::from_utf8(text).ok()?.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let mut snapshot = Snapshot::new("2026-11-21T11:20:00Z".into(), "server1", "/d".into());
        assert_eq!(snapshot.check(), Ok(()));
        for bad in ["../x", "/etc/passwd", "a//b", "a/./b"] {
            snapshot.files = [(bad.to_owned(), Kept { hash: String::new(), more: Vec::new(), mode: 0o600 })].into();
            assert!(snapshot.check().is_err(), "{bad}");
        }
        snapshot.files.clear();
        snapshot.repos = [("a/../../b".to_owned(), String::new())].into();
        assert!(snapshot.check().is_err());
    }

    #[test]
    fn references_are_read_as_written() {
        let oid = Oid::parse(&"a".repeat(40)).unwrap();
        let refs: BTreeMap<RefName, Oid> = [(RefName::parse("refs/heads/main").unwrap(), oid)].into();
        assert_eq!(read_refs(write_refs(&refs).as_bytes()), Some(refs));
        assert_eq!(read_refs(b"x refs/heads/main\n"), None);
    }
}

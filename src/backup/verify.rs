//! Looks whether a backup is what it says: every object against its name, every bundle against those before it.

use std::collections::BTreeSet;
use std::path::Path;

use super::record::{Kept, Record, read_refs};
use super::vault::Vault;
use super::{BackupError, bundle};
use crate::model::Oid;

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub snapshots: usize,
    pub repos: usize,
    pub objects: usize,
    /// One line for each thing that is wrong.
    pub damage: Vec<String>,
}

/// Checks all snapshots of the backup at `root`.
pub fn verify(root: &Path) -> Result<Verified, BackupError> {
    let vault = Vault::open(root)?;
    let times = vault.times()?;
    if times.is_empty() {
        return Err(BackupError::Empty(root.to_owned()));
    }
    let mut found = Verified { snapshots: times.len(), repos: 0, objects: 0, damage: Vec::new() };
    let (mut objects, mut records) = (BTreeSet::new(), BTreeSet::new());
    for time in &times {
        let snapshot = match vault.snapshot(time) {
            Ok(snapshot) => snapshot,
            Err(error) => {
                found.damage.push(format!("snapshot {time}: {error}"));
                continue;
            }
        };
        objects.extend(snapshot.files.values().flat_map(Kept::hashes).cloned());
        records.extend(snapshot.repos.into_iter().map(|(name, hash)| (hash, name)));
    }
    let mut known = BTreeSet::new();
    for (hash, name) in records {
        if !known.insert(hash.clone()) {
            continue;
        }
        found.repos += 1;
        match vault.record(&hash) {
            Ok(record) => {
                if let Err(error) = chain(&vault, &record) {
                    found.damage.push(format!("{name}: {error}"));
                }
                objects.extend([record.refs].into_iter().chain(record.bundles).chain(record.files.into_values()));
            }
            Err(error) => found.damage.push(format!("{name}: {error}")),
        }
    }
    found.objects = objects.len() + known.len();
    for hash in objects {
        if let Err(error) = vault.check(&hash) {
            found.damage.push(error.to_string());
        }
    }
    Ok(found)
}

/// Each bundle needs only what those before it bring; without any there is no reference.
fn chain(vault: &Vault, record: &Record) -> Result<(), BackupError> {
    let object = |hash: &str, why: &str| BackupError::Object { hash: hash.to_owned(), why: why.to_owned() };
    let mut brought: BTreeSet<Oid> = BTreeSet::new();
    for hash in &record.bundles {
        let (header, _) = bundle::open(&vault.path(hash))?;
        // What a reference led to between two bundles came with the first.
        if brought.is_empty() && !header.needs.is_empty() {
            return Err(object(hash, "it needs an older bundle, and is the first"));
        }
        brought.extend(header.brings);
    }
    let refs = read_refs(&vault.get(&record.refs)?).ok_or_else(|| object(&record.refs, "it holds no references"))?;
    if !refs.is_empty() && record.bundles.is_empty() {
        return Err(object(&record.refs, "it names references, and no bundle brings any"));
    }
    Ok(())
}

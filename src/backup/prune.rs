//! Lets go of old snapshots, and of what they alone name.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::BackupError;
use super::record::{Kept, Snapshot};
use super::vault::Vault;
use crate::durable;
use crate::model::time::rfc3339;

/// Which snapshots stay: those that any of the two names, and the newest in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    /// So many, the newest.
    pub newest: Option<usize>,
    /// Those that are not older.
    pub younger: Option<Duration>,
}

/// What went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    pub snapshots: usize,
    pub left: usize,
    pub objects: usize,
    pub bytes: u64,
}

impl Keep {
    /// Splits the snapshots' names, oldest first, into those that go and those that stay.
    fn split<'a>(&self, times: &'a [String], now: SystemTime) -> (Vec<&'a str>, Vec<&'a str>) {
        let since = self.younger.and_then(|age| now.checked_sub(age)).map(|at| rfc3339(at).replace(['-', ':'], ""));
        let first = times.len().saturating_sub(self.newest.unwrap_or(0).max(1));
        let stays = |(at, name): &(usize, &str)| *at >= first || since.as_deref().is_some_and(|since| *name >= since);
        let (stay, go): (Vec<_>, Vec<_>) = times.iter().map(String::as_str).enumerate().partition(stays);
        let names = |list: Vec<(usize, &'a str)>| list.into_iter().map(|(_, name)| name).collect();
        (names(go), names(stay))
    }
}

/// Prunes the backup at `root`. If something that stays cannot be read, nothing goes.
pub fn prune(root: &Path, keep: Keep) -> Result<Pruned, BackupError> {
    let vault = Vault::open(root)?;
    let _locked = vault.lock()?;
    let times = vault.times()?;
    let (go, stay) = keep.split(&times, SystemTime::now());
    let mut named = BTreeSet::new();
    for time in &stay {
        name(&vault, vault.snapshot(time)?, &mut named)?;
    }
    let mut pruned = Pruned { snapshots: go.len(), left: stay.len(), ..Pruned::default() };
    let dir = root.join("snapshots");
    for time in go {
        let path = dir.join(format!("{time}.json"));
        fs::remove_file(&path).map_err(BackupError::io(&path))?;
    }
    // A snapshot that comes back after a power cut must have its objects.
    durable::sync("backup.prune.dir", &dir).map_err(BackupError::io(&dir))?;
    // Also what an earlier one, cut short here, has left.
    for (hash, bytes) in vault.objects()? {
        if !named.contains(&hash) {
            let path = vault.path(&hash);
            fs::remove_file(&path).map_err(BackupError::io(&path))?;
            pruned.objects += 1;
            pruned.bytes += bytes;
        }
    }
    Ok(pruned)
}

/// Adds every object that the snapshot leads to.
fn name(vault: &Vault, snapshot: Snapshot, named: &mut BTreeSet<String>) -> Result<(), BackupError> {
    named.extend(snapshot.files.values().flat_map(Kept::hashes).cloned());
    for hash in snapshot.repos.into_values() {
        if named.insert(hash.clone()) {
            let record = vault.record(&hash)?;
            named.extend([record.refs].into_iter().chain(record.bundles).chain(record.files.into_values()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stays_whatever_is_asked() {
        let times: Vec<String> = ["20261101T000000Z", "20261110T000000Z", "20261120T000000Z", "20261120T000000Z_02"]
            .map(String::from)
            .into();
        // 2026-11-21T00:00:00Z
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_219_200);
        let days = |n: u64| Some(Duration::from_secs(n * 86_400));
        for (newest, younger, left) in [
            (None, None, 1),
            (Some(0), None, 1),
            (Some(3), None, 3),
            (Some(9), None, 4),
            (None, days(0), 1),
            (None, days(2), 2),
            (None, days(11), 3),
            (Some(4), days(2), 4),
            (Some(1), days(400), 4),
        ] {
            let (go, stay) = Keep { newest, younger }.split(&times, now);
            assert_eq!(stay.len(), left, "{newest:?} {younger:?}");
            assert_eq!([go, stay].concat(), times);
        }
        assert_eq!(Keep::default().split(&[], now), (vec![], vec![]));
    }
}

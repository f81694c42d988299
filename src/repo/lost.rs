//! What a repair takes away from a reference is not lost: it is kept as `refs/gitmesh/lost/NODE/TIME/heads/main`, until a
//! person drops it. A mark beside the references says that there are such names, so that a look at all repositories
//! need not read the references of each.

use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::durable::{self, write_whole};
use crate::git::objects::{self, Kind, ObjectsError};
use crate::git::odb;
use crate::git::ref_state::read_refs;
use crate::model::{HostName, Oid, RefName, RefUpdate, RepoName};

use super::Store;

const LOST: &str = "refs/gitmesh/lost";
/// Inside a repository, says that something is kept.
const MARK: &str = "gitmesh-lost";

/// One name under which something is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    pub name: RefName,
    pub oid: Oid,
}

impl Lost {
    /// The node that alone had it, when it was kept (`20261121T072400Z`), and the reference that it was, without `refs/`.
    pub fn parts(&self) -> Option<(&str, &str, &str)> {
        let mut parts = self.name.as_str().strip_prefix(LOST)?.strip_prefix('/')?.splitn(3, '/');
        Some((parts.next()?, parts.next()?, parts.next()?))
    }
}

impl Store {
    /// What is kept in a repository, by name; nothing where no such repository is. Where nothing is kept it costs a look
    /// for one file.
    pub fn lost(&self, repo: &RepoName) -> Result<Vec<Lost>, ObjectsError> {
        let dir = self.dir(repo);
        if !dir.join(MARK).exists() {
            return Ok(Vec::new());
        }
        let refs = read_refs(&dir)?.refs.into_iter().map(|(name, oid)| Lost { name, oid });
        Ok(refs.filter(|lost| lost.parts().is_some()).collect())
    }

    /// Lets go of what is kept under these names, and returns those that were kept with these values.
    pub fn drop_lost(&self, repo: &RepoName, unwanted: &[Lost]) -> Result<Vec<Lost>, ObjectsError> {
        let mut kept = self.lost(repo)?;
        let gone: Vec<Lost> = kept.extract_if(.., |lost| unwanted.contains(lost)).collect();
        let dir = self.dir(repo);
        let names: Vec<(RefName, Oid)> = gone.iter().map(|lost| (lost.name.clone(), lost.oid.clone())).collect();
        odb::delete_refs(&dir, &names)?;
        // Whatever is kept in this moment writes the mark first, and its name then: so look once more.
        if !gone.is_empty() && kept.is_empty() && self.lost(repo)?.is_empty() {
            std::fs::remove_file(dir.join(MARK))?;
        }
        Ok(gone)
    }
}

/// Has [`Store::lost`] look at this repository: before something is kept in it.
pub fn mark_lost(dir: &Path) -> io::Result<()> {
    if dir.join(MARK).exists() { Ok(()) } else { write_whole(dir, MARK, "") }
}

/// Names what `updates` would make unreachable from their references (deletions, and new values that do not have the
/// old one behind them) `refs/gitmesh/lost/NODE/TIME/...`, durably, and returns the new names. `node` is this node,
/// whose values they are; `now` gives the time, UTC, as `20261121T072400Z`.
pub fn keep_lost(
    dir: &Path,
    node: &HostName,
    updates: &[RefUpdate],
    now: SystemTime,
) -> Result<Vec<RefName>, ObjectsError> {
    // What cannot be compared (its new value may still be in git's quarantine) counts as overwritten: better a name
    // too many.
    let kind = |update: &RefUpdate| objects::update_kind(dir, update).unwrap_or(Kind::Rewind);
    let overwritten = updates.iter().filter(|u| !u.old.is_zero() && kind(u) != Kind::FastForward);
    let at = format!("{LOST}/{node}/{}", utc(now));
    let kept: Vec<(RefName, Oid)> = overwritten
        .filter_map(|u| {
            let below = u.name.as_str().strip_prefix("refs/")?;
            Some((RefName::parse(&format!("{at}/{below}"))?, u.old.clone()))
        })
        .collect();
    if kept.is_empty() {
        return Ok(Vec::new());
    }
    mark_lost(dir)?;
    durable::at("repo.lost.refs", dir)?;
    odb::create_refs(dir, &kept, "gitmesh: kept by a repair")?;
    // libgit2 does not sync references; git, which follows, does sync what replaces these.
    for (name, _) in &kept {
        let mut path = dir.join(name.as_str());
        durable::sync("repo.lost.sync", &path)?;
        while path != dir && path.pop() {
            durable::sync("repo.lost.sync", &path)?;
        }
    }
    Ok(kept.into_iter().map(|(name, _)| name).collect())
}

/// ISO 8601's basic form, in UTC, to the second. The calendar is Howard Hinnant's `civil_from_days`.
pub(super) fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::git::objects::{Author, commit_files, init_bare};

    #[test]
    fn times_are_those_of_date() {
        // date -u -d @SECONDS +%Y%m%dT%H%M%SZ
        for (seconds, text) in [
            (0, "19700101T000000Z"),
            (951_782_400, "20000229T000000Z"),
            (1_732_175_999, "20241121T075959Z"),
            (4_107_542_399, "21000228T235959Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn what_is_dropped_is_gone_and_the_rest_stays() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::new(home.path().join("repositories"), home.path().join("settings"));
        let repo = RepoName::new("a/b").unwrap();
        let dir = store.dir(&repo);
        std::fs::create_dir_all(&dir).unwrap();
        init_bare(&dir, "main").unwrap();
        assert_eq!(store.lost(&repo).unwrap(), []);
        let files = [("a".to_owned(), b"1".to_vec())].into();
        let oid = commit_files(&dir, "main", &files, Author { name: "t", email: "t@example.org" }, "t", None).unwrap();
        let gone = |name: &str| RefUpdate { name: RefName::parse(name).unwrap(), old: oid.clone(), new: oid.to_zero() };
        let node = HostName::new("server2").unwrap();
        keep_lost(&dir, &node, &[gone("refs/heads/x"), gone("refs/tags/y/z")], UNIX_EPOCH).unwrap();
        let kept = store.lost(&repo).unwrap();
        let parts: Vec<_> = kept.iter().filter_map(Lost::parts).collect();
        assert_eq!(parts, [("server2", "19700101T000000Z", "heads/x"), ("server2", "19700101T000000Z", "tags/y/z")]);
        let other = Lost { oid: Oid::parse(&"7".repeat(40)).unwrap(), ..kept[0].clone() };
        assert_eq!(store.drop_lost(&repo, &[other]).unwrap(), [], "it has another value");
        assert_eq!(store.drop_lost(&repo, &kept[..1]).unwrap(), kept[..1]);
        assert_eq!(store.lost(&repo).unwrap(), kept[1..]);
        assert!(dir.join(MARK).exists());
        assert_eq!(store.drop_lost(&repo, &kept).unwrap(), kept[1..]);
        assert!(!dir.join(MARK).exists() && store.lost(&repo).unwrap().is_empty());
        assert!(read_refs(&dir).unwrap().refs.contains_key(&RefName::parse("refs/heads/main").unwrap()));
    }

    #[test]
    fn what_is_overwritten_gets_a_name_and_what_is_only_behind_does_not() {
        let dir = tempfile::tempdir().unwrap();
        init_bare(dir.path(), "main").unwrap();
        let commit = |branch: &str, text: &str, parent: Option<&Oid>| {
            let files = [("a".to_owned(), text.as_bytes().to_vec())].into();
            let author = Author { name: "t", email: "t@example.org" };
            commit_files(dir.path(), branch, &files, author, "t", parent).unwrap()
        };
        let one = commit("main", "1", None);
        let two = commit("main", "2", Some(&one));
        let other = commit("other", "3", None);
        let update = |name: &str, old: &Oid, new: &Oid| RefUpdate {
            name: RefName::parse(name).unwrap(),
            old: old.clone(),
            new: new.clone(),
        };
        let absent = Oid::parse(&"7".repeat(40)).unwrap();
        let updates = [
            update("refs/heads/behind", &one, &two),
            update("refs/heads/new", &one.to_zero(), &two),
            update("refs/heads/rewound", &two, &other),
            update("refs/tags/gone", &two, &two.to_zero()),
            update("refs/heads/in/quarantine", &two, &absent),
        ];
        let node = HostName::new("server2").unwrap();
        let kept = keep_lost(dir.path(), &node, &updates, UNIX_EPOCH).unwrap();
        let names: Vec<_> = kept.iter().map(RefName::as_str).collect();
        let at = "refs/gitmesh/lost/server2/19700101T000000Z";
        let wanted = ["heads/rewound", "tags/gone", "heads/in/quarantine"].map(|name| format!("{at}/{name}"));
        assert_eq!(names, wanted);
        let refs = read_refs(dir.path()).unwrap().refs;
        assert!(kept.iter().all(|name| refs[name] == two));
        assert_eq!(
            keep_lost(dir.path(), &node, &updates, UNIX_EPOCH).unwrap(),
            kept,
            "again, by a push that is repeated"
        );
        assert_eq!(keep_lost(dir.path(), &node, &updates[..2], UNIX_EPOCH).unwrap(), []);
        let second = [update("refs/tags/gone", &one, &one.to_zero())];
        assert!(keep_lost(dir.path(), &node, &second, UNIX_EPOCH).is_err(), "what is kept is never replaced");
    }
}

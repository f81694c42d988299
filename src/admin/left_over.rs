//! Copies that the configuration does not place on this node any more: they are moved to the trash, from where they
//! come back when it does again, before their master sends anything.
//!
//! Of copies alone. What this node was ever master of stays on disk, as with gitolite, and so does what a user may
//! still make. More than a share of all copies at once waits for a person.

use std::io;

use crate::model::RepoName;
use crate::policy::Mode;

use super::Store;
use super::activate::Before;
use super::realm::Live;
use super::wild::creator_refusal;

/// Fewer copies than this may go whatever their share.
const GUARD_LEAST: usize = 10;
/// So many are named in a warning.
const NAMED_MAX: usize = 10;

/// What became of them.
#[derive(Debug, Default)]
pub(super) struct PutAway {
    pub gone: Vec<RepoName>,
    pub problems: Vec<String>,
}

/// `share` is the percentage of all copies that may go at once.
pub(super) fn put_away(store: &dyn Store, live: &Live, before: &Before<'_>, share: u8) -> PutAway {
    let mut done = PutAway::default();
    let mirrors = |live: &Live| live.policy.features().contains_key("mirror");
    match before {
        Before::Same => return done,
        Before::Live(before) if !mirrors(before) && !mirrors(live) => return done,
        Before::Live(_) | Before::Unknown => {}
    }
    let on_disk = match store.list() {
        Ok(on_disk) => on_disk,
        Err(error) => {
            done.problems.push(format!("list the repositories: {error}"));
            return done;
        }
    };
    let (mut copies, mut going) = (0, Vec::new());
    for repo in on_disk {
        if store.copy_of(&repo).is_none() {
            continue;
        }
        match part(store, live, &repo) {
            Part::Master => {
                let problem = store.is_no_copy(&repo).err().map(|e| format!("write what {repo} is here: {e}"));
                done.problems.extend(problem);
            }
            Part::Copy => copies += 1,
            Part::None => going.push(repo),
        }
    }
    if is_too_much(going.len(), copies + going.len(), share) {
        let names: Vec<&str> = going.iter().take(NAMED_MAX).map(RepoName::as_str).collect();
        tracing::warn!(
            copies = going.len(),
            first = names.join(" "),
            "the configuration does not place so many of this node's copies here any more that a person is asked: \
             'gitmesh D trash REPO' puts one away; until then they stay"
        );
        return done;
    }
    for repo in going {
        match store.put_away(&repo) {
            Ok(true) => {
                tracing::info!(%repo, "moved to the trash, for the configuration does not place it here any more");
                done.gone.push(repo);
            }
            Ok(false) => {}
            Err(error) => done.problems.push(format!("move {repo} to the trash: {error}")),
        }
    }
    done
}

/// The copies that are here and are placed nowhere on this node, where they are so many that a person is asked.
pub(super) fn held(store: &dyn Store, live: &Live, share: u8) -> io::Result<Vec<RepoName>> {
    let (mut copies, mut going) = (0, Vec::new());
    for repo in store.list()?.into_iter().filter(|repo| store.copy_of(repo).is_some()) {
        match part(store, live, &repo) {
            Part::Master => {}
            Part::Copy => copies += 1,
            Part::None => going.push(repo),
        }
    }
    going.sort();
    Ok(if is_too_much(going.len(), copies + going.len(), share) { going } else { Vec::new() })
}

/// Pure: whether a person is to be asked first.
fn is_too_much(going: usize, copies: usize, share: u8) -> bool {
    going > GUARD_LEAST && share < 100 && going * 100 > copies * usize::from(share)
}

/// What this node is to a repository of which it has had a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Master,
    Copy,
    None,
}

fn part(store: &dyn Store, live: &Live, repo: &RepoName) -> Part {
    let creator = store.creator(repo);
    match live.place(repo, creator.as_ref()).mode {
        Mode::Master | Mode::Doubted(_) => Part::Master,
        // A master that is not named right is a mistake to mend, not an order.
        Mode::Copy { .. } | Mode::Orphan => Part::Copy,
        Mode::NotHere => Part::None,
        Mode::Local if live.repositories().any(|named| named == repo) => Part::Master,
        Mode::Local => match creator {
            Some(creator) if creator_refusal(live, &creator, &live.node, repo).is_none() => Part::Copy,
            _ => Part::None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share() {
        let table = [
            (10, 10, 10, false),
            (11, 11, 10, true),
            (11, 110, 10, false),
            (12, 110, 10, true),
            (500, 500, 100, false),
            (11, 5000, 0, true),
        ];
        for (going, copies, share, held) in table {
            assert_eq!(is_too_much(going, copies, share), held, "{going} of {copies}, {share} %");
        }
    }
}

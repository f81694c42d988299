//! Repositories that were deleted, until they are brought back or have been kept for long enough: `trash/NAME/TIME`
//! beside `repositories`, each moved there and back by one rename.
//!
//! What runs in a repository when it is moved goes on in it, and what it writes is in the trash with the rest; git's
//! hooks ask by the directory's new place, which is no repository of this server, and so a push is refused.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::gone::Tombstone;
use super::ownership::Ownership;
use super::store::Store;
use crate::durable::{self, write_whole};
use crate::git::ref_state;
use crate::model::time::Stamp;
use crate::model::{HostName, RepoName};

/// Inside what is in the trash: why.
const WHY: &str = "gitmesh-trashed";
/// Inside a repository that was brought back: the time under which it was in the trash, here and on its copies.
const RESTORED: &str = "gitmesh-restored";
/// Inside a copy: the node that sends it.
const COPY_OF: &str = "gitmesh-copy-of";
/// gitolite's mark that 'D rm' is meant.
const UNLOCKED: &str = "gl-rm-ok";
/// How the directory of what is being deleted for good begins.
const DELETING: &str = ".deleting-";

/// Why a repository is in the trash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why<'a> {
    /// Somebody has ordered it, here or on its master.
    Asked(&'a str),
    /// A copy that the configuration does not place here any more; named again, it comes back.
    Unnamed,
}

impl Why<'_> {
    fn text(self) -> String {
        match self {
            Self::Asked(by) => format!("asked by {by}\n"),
            Self::Unnamed => "unnamed\n".to_owned(),
        }
    }
}

/// One repository in the trash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trashed {
    pub repo: RepoName,
    pub at: Stamp,
    pub owned: Ownership,
}

impl Store {
    fn entry(&self, repo: &RepoName, at: Stamp) -> PathBuf {
        self.trash.join(repo.as_str()).join(at.to_string())
    }

    /// A time under which nothing of this name is in the trash, and nothing has been: a copy may have it there still.
    pub fn free_stamp(&self, repo: &RepoName) -> Stamp {
        let mut lately = self.moving();
        let now = Stamp::new(SystemTime::now());
        lately.retain(|_, at| *at >= now);
        let mut at = lately.get(repo).map_or(now, |last| last.next());
        while self.entry(repo, at).exists() {
            at = at.next();
        }
        lately.insert(repo.clone(), at);
        at
    }

    pub fn is_in_trash(&self, repo: &RepoName, at: Stamp) -> bool {
        self.entry(repo, at).exists()
    }

    /// What is in the trash under this name and time.
    pub fn in_trash(&self, repo: &RepoName, at: Stamp) -> Option<Trashed> {
        let dir = self.entry(repo, at);
        dir.exists().then(|| Trashed { repo: repo.clone(), at, owned: Ownership::read(&dir) })
    }

    /// Moves a repository to the trash; false when it is not there. Afterwards it stays so, also after a power cut.
    pub fn to_trash(&self, repo: &RepoName, at: Stamp, why: Why<'_>) -> io::Result<bool> {
        let _one_at_a_time = self.moving();
        self.put_into_trash(repo, at, why)
    }

    fn put_into_trash(&self, repo: &RepoName, at: Stamp, why: Why<'_>) -> io::Result<bool> {
        if !self.exists(repo) {
            return Ok(false);
        }
        let (dir, entry) = (self.dir(repo), self.entry(repo, at));
        write_whole(&dir, WHY, &why.text())?;
        move_durably(&dir, &entry)?;
        Ok(true)
    }

    /// What is at `dir` takes the place of a repository, which is in the trash afterwards: one exchange of names, so that
    /// there is always one to be seen, and at no time neither.
    pub(super) fn exchange(&self, dir: &Path, repo: &RepoName, at: Stamp, why: Why<'_>) -> io::Result<()> {
        let _one_at_a_time = self.moving();
        let (place, entry) = (self.dir(repo), self.entry(repo, at));
        write_whole(&place, WHY, &why.text())?;
        move_durably(dir, &entry)?;
        if let Err(error) = durable::exchange("repo.exchange", &place, &entry) {
            durable::rename("repo.exchange.back", &entry, dir)?;
            return Err(error);
        }
        for dir in [&place, &entry].into_iter().filter_map(|path| path.parent()) {
            durable::sync("repo.exchange.dir", dir)?;
        }
        Ok(())
    }

    /// Takes a repository away, and remembers the nodes whose copies are to follow. False when it is not there.
    pub fn take_away(&self, stone: Tombstone, by: &str) -> io::Result<bool> {
        let _one_at_a_time = self.moving();
        if !self.exists(&stone.repo) {
            return Ok(false);
        }
        let told = !stone.waiting.is_empty();
        if told {
            self.gone().intend(&stone)?;
        }
        if let Err(error) = self.put_into_trash(&stone.repo, stone.at, Why::Asked(by)) {
            self.gone().forget(&stone.repo, stone.at)?;
            return Err(error);
        }
        if told {
            self.gone().went(stone)?;
        }
        Ok(true)
    }

    /// Brings a repository back. `AlreadyExists` when there is one of its name.
    pub fn restore(&self, repo: &RepoName, at: Stamp) -> io::Result<()> {
        let _one_at_a_time = self.moving();
        self.take_from_trash(repo, at)?;
        self.gone().forget(repo, at)
    }

    fn take_from_trash(&self, repo: &RepoName, at: Stamp) -> io::Result<()> {
        if self.exists(repo) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("'{repo}' already exists")));
        }
        let (entry, dir) = (self.entry(repo, at), self.dir(repo));
        write_whole(&entry, RESTORED, &format!("{at}\n"))?;
        move_durably(&entry, &dir)?;
        remove_empty(&self.trash, entry.parent());
        Ok(())
    }

    /// Whether anything of this name is in the trash.
    pub fn has_trash(&self, repo: &RepoName) -> bool {
        self.trash.join(repo.as_str()).exists()
    }

    /// On a replica: before a repository is made anew, what its master has brought back (`restored`), or what was put
    /// away because the configuration had not named it, is taken from the trash. False when there is no such thing.
    pub fn bring_back(&self, repo: &RepoName, restored: Option<Stamp>) -> io::Result<bool> {
        if !self.has_trash(repo) {
            return Ok(false);
        }
        let _one_at_a_time = self.moving();
        if self.exists(repo) {
            return Ok(false);
        }
        let at = restored.filter(|at| self.is_in_trash(repo, *at));
        let Some(at) = at.map_or_else(|| self.newest_unnamed(repo), |at| Ok(Some(at)))? else { return Ok(false) };
        self.take_from_trash(repo, at)?;
        Ok(true)
    }

    fn newest_unnamed(&self, repo: &RepoName) -> io::Result<Option<Stamp>> {
        let mut newest = None;
        if !self.has_trash(repo) {
            return Ok(None);
        }
        for entry in std::fs::read_dir(self.trash.join(repo.as_str()))? {
            let entry = entry?;
            let at = entry.file_name().to_str().and_then(Stamp::parse);
            if std::fs::read_to_string(entry.path().join(WHY)).is_ok_and(|why| why == "unnamed\n") {
                newest = newest.max(at);
            }
        }
        Ok(newest)
    }

    /// The time under which a repository was in the trash before it was brought back.
    pub fn restored(&self, repo: &RepoName) -> Option<Stamp> {
        Stamp::parse(std::fs::read_to_string(self.dir(repo).join(RESTORED)).ok()?.trim())
    }

    /// Gives a repository another name, and remembers the nodes whose copies are to follow. An empty repository may have
    /// the new name; it goes. `AlreadyExists` when it is not empty.
    pub fn rename(&self, stone: Tombstone) -> io::Result<bool> {
        let Some(to) = stone.to.clone() else { return Ok(false) };
        let _one_at_a_time = self.moving();
        if !self.exists(&stone.repo) {
            return Ok(false);
        }
        let told = !stone.waiting.is_empty();
        if told {
            self.gone().intend(&stone)?;
        }
        let moved = self.make_way(&to).and_then(|()| move_durably(&self.dir(&stone.repo), &self.dir(&to)));
        if let Err(error) = moved {
            self.gone().forget(&stone.repo, stone.at)?;
            return Err(error);
        }
        if told {
            self.gone().went(stone)?;
        }
        Ok(true)
    }

    /// On a replica: as [`Store::rename`], for a copy that may have been put into the trash already because the
    /// configuration had lost its old name first. False when there is nothing to move (any more).
    pub fn follow_rename(&self, repo: &RepoName, to: &RepoName, master: &HostName) -> io::Result<bool> {
        let _one_at_a_time = self.moving();
        if self.exists(to) && !self.is_empty(to)? {
            return Ok(false);
        }
        let from = if self.exists(repo) {
            self.dir(repo)
        } else {
            match self.newest_unnamed(repo)? {
                Some(at) => self.entry(repo, at),
                None => return Ok(false),
            }
        };
        if read_copy_of(&from).as_ref() != Some(master) {
            return Ok(false);
        }
        self.make_way(to)?;
        move_durably(&from, &self.dir(to))?;
        Ok(true)
    }

    fn is_empty(&self, repo: &RepoName) -> io::Result<bool> {
        Ok(ref_state::read_refs(&self.dir(repo)).map_err(io::Error::other)?.refs.is_empty())
    }

    fn make_way(&self, repo: &RepoName) -> io::Result<()> {
        if !self.exists(repo) {
            return Ok(());
        }
        if !self.is_empty(repo)? {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("'{repo}' already exists and is not empty"),
            ));
        }
        std::fs::remove_dir_all(self.hide(&self.dir(repo))?)
    }

    /// Everything in the trash, sorted.
    pub fn trashed(&self) -> io::Result<Vec<Trashed>> {
        let (mut found, mut todo) = (Vec::new(), vec![(self.trash.to_path_buf(), String::new())]);
        while let Some((at, prefix)) = todo.pop() {
            let entries = match std::fs::read_dir(&at) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                let name = entry.file_name();
                let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
                match (Stamp::parse(name), RepoName::new(&prefix)) {
                    (Some(at), Ok(repo)) => {
                        found.push(Trashed { repo, at, owned: Ownership::read(&entry.path()) });
                    }
                    _ if prefix.is_empty() => todo.push((entry.path(), name.to_owned())),
                    _ => todo.push((entry.path(), format!("{prefix}/{name}"))),
                }
            }
        }
        found.sort_by(|a, b| (&a.repo, a.at).cmp(&(&b.repo, b.at)));
        Ok(found)
    }

    /// Deletes for good what is in the trash.
    pub fn delete_trashed(&self, repo: &RepoName, at: Stamp) -> io::Result<()> {
        let entry = self.entry(repo, at);
        let hidden = {
            // Nobody may be about to put something into a folder that is removed.
            let _one_at_a_time = self.moving();
            let hidden = self.hide(&entry)?;
            remove_empty(&self.trash, entry.parent());
            hidden
        };
        std::fs::remove_dir_all(hidden)
    }

    /// Deletes what was put into the trash before `keep` ago, and what a killed deletion has left. Returns how many went.
    pub fn empty_trash(&self, keep: Duration) -> io::Result<usize> {
        for entry in std::fs::read_dir(&*self.trash).into_iter().flatten() {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(DELETING.as_bytes()) {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        let now = SystemTime::now();
        let old = |trashed: &Trashed| now.duration_since(trashed.at.moment()).is_ok_and(|age| age > keep);
        let mut deleted = 0;
        for Trashed { repo, at, .. } in self.trashed()?.into_iter().filter(old) {
            self.delete_trashed(&repo, at)?;
            tracing::info!(%repo, %at, "deleted for good, having been in the trash for long enough");
            deleted += 1;
        }
        Ok(deleted)
    }

    /// What is deleted goes out of sight by one rename first, so that nobody meets half a repository.
    fn hide(&self, dir: &Path) -> io::Result<PathBuf> {
        let hidden = self.trash.join(format!("{DELETING}{:016x}", rand::random::<u64>()));
        move_durably(dir, &hidden)?;
        Ok(hidden)
    }

    /// Whether 'D rm' may delete it.
    pub fn is_unlocked(&self, repo: &RepoName) -> bool {
        self.dir(repo).join(UNLOCKED).exists()
    }

    pub fn set_unlocked(&self, repo: &RepoName, unlocked: bool) -> io::Result<()> {
        let file = self.dir(repo).join(UNLOCKED);
        match unlocked {
            true => write_whole(&self.dir(repo), UNLOCKED, ""),
            false if file.exists() => std::fs::remove_file(file),
            false => Ok(()),
        }
    }

    /// The node that has sent this copy, if it is one.
    pub fn copy_of(&self, repo: &RepoName) -> Option<HostName> {
        read_copy_of(&self.dir(repo))
    }

    /// Remembers it, or that it is no copy any more.
    pub fn set_copy_of(&self, repo: &RepoName, master: Option<&HostName>) -> io::Result<()> {
        if self.copy_of(repo).as_ref() == master {
            return Ok(());
        }
        let dir = self.dir(repo);
        master.map_or_else(
            || std::fs::remove_file(dir.join(COPY_OF)),
            |master| write_whole(&dir, COPY_OF, &format!("{master}\n")),
        )
    }
}

fn read_copy_of(dir: &Path) -> Option<HostName> {
    HostName::new(std::fs::read_to_string(dir.join(COPY_OF)).ok()?.trim()).ok()
}

/// One rename that outlives a power cut; taken back if it would not.
fn move_durably(from: &Path, to: &Path) -> io::Result<()> {
    let (from_parent, to_parent) = (from.parent().unwrap_or(from), to.parent().unwrap_or(to));
    std::fs::create_dir_all(to_parent)?;
    durable::rename("repo.move.rename", from, to)?;
    let mut touched = to_parent.ancestors().take(3).chain([from_parent]);
    touched.try_for_each(|dir| durable::sync("repo.move.dir", dir)).or_else(|error| {
        durable::rename("repo.move.back", to, from)?;
        Err(error)
    })
}

/// Folders of names that nothing is left of; one that is not empty stays, and so do those above it.
fn remove_empty(root: &Path, dir: Option<&Path>) {
    let below = dir.into_iter().flat_map(Path::ancestors).take_while(|dir| *dir != root);
    for dir in below {
        if std::fs::remove_dir(dir).is_err() {
            return;
        }
    }
}

//! Makes a snapshot: what is as it was in the one before costs a look.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::task::JoinSet;

use super::record::{Kept, Record, Snapshot, read_refs as parse_refs, write_refs};
use super::vault::Vault;
use super::{BackupError, Node, bundle};
use crate::git::odb;
use crate::git::ref_state::read_refs;
use crate::model::time::rfc3339;
use crate::model::{Oid, RefName, RepoName};

/// Bundles of one repository before all of it is written anew: each costs a step when it is restored.
const BUNDLES_MAX: usize = 50;
/// A repository's own small files are not larger, in bytes: a target's list of a million references.
const FILE_MAX: u64 = 128 << 20;
/// The node's files are kept in pieces of so many bytes: the audit grows at its end, and costs that.
const PIECE: usize = 1 << 20;
/// So often a repository's references are read until they are the same twice.
const LOOKS: u32 = 50;
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
/// Below the data directory: what has its own place in a backup, can be made again, or means this running node alone.
const LEFT_OUT: &[&str] = &[
    "repositories",
    "trash",
    "cache",
    "hooks",
    "gitconfig",
    "lock",
    "state/restored",
    "state/mirror.log",
    "state/programs",
    "projects.list",
];

/// What a backup did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// The snapshot's name, its time.
    pub snapshot: String,
    pub repos: usize,
    /// Those that are not as in the snapshot before.
    pub changed: usize,
    pub bytes: u64,
    pub ms: u128,
    /// What could not be read, and why; what the snapshot before had of it still counts.
    pub failed: BTreeMap<String, String>,
}

struct One {
    name: RepoName,
    /// None: it is gone meanwhile.
    result: Result<Option<(String, bool, u64)>, BackupError>,
}

/// Adds a snapshot of `node` to the backup at `root`, which is made at the first call.
pub async fn create(node: &Node, root: &Path) -> Result<Created, BackupError> {
    let began = Instant::now();
    let (vault, _locked) = Vault::create(root)?;
    let vault = Arc::new(vault);
    let before = match vault.times()?.last() {
        Some(time) => Some(vault.snapshot(time)?),
        None => None,
    };
    let before = before.map(|snapshot| snapshot.repos).unwrap_or_default();
    let mut snapshot = Snapshot::new(rfc3339(SystemTime::now()), &node.name, node.data.display().to_string());
    let mut created =
        Created { snapshot: String::new(), repos: 0, changed: 0, bytes: 0, ms: 0, failed: BTreeMap::new() };
    let listed = node.store.list().map_err(BackupError::io(node.store.root()))?;
    let most = std::thread::available_parallelism().map_or(2, usize::from);
    let (mut waiting, mut tasks) = (listed.into_iter(), JoinSet::new());
    loop {
        while tasks.len() < most
            && let Some(name) = waiting.next()
        {
            let (node, vault, old) = (node.clone(), vault.clone(), before.get(name.as_str()).cloned());
            tasks.spawn(async move { One { result: repository(&node, &vault, &name, old).await, name } });
        }
        let Some(done) = tasks.join_next().await else { break };
        let One { name, result } = done.expect("a backup's task does not panic, and is not cancelled");
        match result {
            Ok(None) => {}
            Ok(Some((record, changed, bytes))) => {
                created.repos += 1;
                created.changed += usize::from(changed);
                created.bytes += bytes;
                snapshot.repos.insert(name.to_string(), record);
            }
            Err(error) => {
                snapshot.failed.insert(name.to_string(), error.to_string());
                snapshot.repos.extend(before.get(name.as_str()).map(|old| (name.to_string(), old.clone())));
            }
        }
    }
    created.bytes += files(node, &vault, &mut snapshot)?;
    created.snapshot = vault.show(&snapshot)?;
    created.failed = snapshot.failed;
    created.ms = began.elapsed().as_millis();
    Ok(created)
}

/// Puts one repository in. Returns its record, whether it is another one than before, and what that cost.
async fn repository(
    node: &Node,
    vault: &Arc<Vault>,
    name: &RepoName,
    old: Option<String>,
) -> Result<Option<(String, bool, u64)>, BackupError> {
    let Some(dir) = node.store.open_as_daemon(name) else { return Ok(None) };
    let looked = {
        let (vault, dir, name) = (vault.clone(), dir.clone(), name.clone());
        tokio::task::spawn_blocking(move || look(&vault, &dir, &name, old.as_deref())).await
    };
    let Changed { mut record, refs, old, mut bytes } =
        match looked.expect("looking does not panic, and is not cancelled") {
            Err(_) if !node.store.exists(name) => return Ok(None),
            Err(error) => return Err(error),
            Ok(Look::Same(hash)) => return Ok(Some((hash, false, 0))),
            Ok(Look::Changed(changed)) => *changed,
        };
    let had = match old {
        Some((old, tips)) if old.bundles.len() < BUNDLES_MAX && old.bundles.iter().all(|b| vault.has(b)) => {
            record.bundles = old.bundles;
            tips
        }
        _ => BTreeSet::new(),
    };
    if let Some((hash, size)) = bundle::write(&node.git, &dir, vault, &refs, &had).await? {
        bytes += size;
        record.bundles.push(hash);
    }
    let text = serde_json::to_vec(&record).expect("texts can always be written");
    let (hash, size) = vault.put(&text)?;
    Ok(Some((hash, true, bytes + size)))
}

enum Look {
    Same(String),
    Changed(Box<Changed>),
}

struct Changed {
    record: Record,
    refs: BTreeMap<RefName, Oid>,
    /// The record before, and those of its tips that are still here.
    old: Option<(Record, BTreeSet<Oid>)>,
    bytes: u64,
}

/// The references as they were at one moment. They are read one after the other, and a push that moves several has them
/// locked until the last one has moved: so they are read until they are the same before and after a look in which nothing
/// was locked. Without a change since `known`, the hash of an earlier reading, once is enough.
fn steady_refs(dir: &Path, known: Option<&str>) -> Result<BTreeMap<RefName, Oid>, BackupError> {
    let mut refs = read_refs(dir)?.refs;
    if known.is_some_and(|known| known == Vault::hash(write_refs(&refs).as_bytes())) {
        return Ok(refs);
    }
    for _ in 0..LOOKS {
        let moving = is_locked(dir)?;
        let again = read_refs(dir)?.refs;
        let steady = refs == again && !moving;
        refs = again;
        if steady {
            return Ok(refs);
        }
        std::thread::sleep(BETWEEN_LOOKS);
    }
    // A lock that a dead process has left; or it is never quiet, and each of its references is one that was.
    tracing::warn!(dir = %dir.display(), "its references are locked or changed all the time; they may be of different moments");
    Ok(refs)
}

/// Whether some reference is being changed (git's lock files).
fn is_locked(dir: &Path) -> Result<bool, BackupError> {
    if dir.join("packed-refs.lock").exists() {
        return Ok(true);
    }
    let mut todo = vec![dir.join("refs")];
    while let Some(at) = todo.pop() {
        let entries = match std::fs::read_dir(&at) {
            // git removes a directory that has become empty.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries.map_err(BackupError::io(&at))?,
        };
        for entry in entries {
            let entry = entry.map_err(BackupError::io(&at))?;
            if entry.file_name().as_encoded_bytes().ends_with(b".lock") {
                return Ok(true);
            }
            if entry.file_type().map_err(BackupError::io(&at))?.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    Ok(false)
}

/// References first: what they lead to is there and stays there.
fn look(vault: &Vault, dir: &Path, name: &RepoName, old: Option<&str>) -> Result<Look, BackupError> {
    // A record that cannot be read is written anew, with everything.
    let old = old.and_then(|old| Some((old, vault.record(old).ok()?)));
    let refs = steady_refs(dir, old.as_ref().map(|(_, known)| known.refs.as_str()))?;
    let (kept_refs, mut bytes) = vault.put(write_refs(&refs).as_bytes())?;
    let mut record = Record { repo: name.to_string(), refs: kept_refs, ..Record::default() };
    for entry in std::fs::read_dir(dir).map_err(BackupError::io(dir))? {
        let entry = entry.map_err(BackupError::io(dir))?;
        let Ok(file) = entry.file_name().into_string() else { continue };
        if !is_ours(&file) {
            continue;
        }
        let path = entry.path();
        let contents = match entry.metadata() {
            Ok(of) if of.is_file() && of.len() > FILE_MAX => {
                let why = format!("it is larger than {} MiB", FILE_MAX >> 20);
                return Err(BackupError::Io { path, source: io::Error::other(why) });
            }
            Ok(of) if !of.is_file() => continue,
            Ok(_) => std::fs::read(&path),
            Err(error) => Err(error),
        };
        match contents {
            Ok(contents) => {
                let (hash, size) = vault.put(&contents)?;
                bytes += size;
                record.files.insert(file, hash);
            }
            // Replaced at this moment.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(BackupError::Io { path, source: error }),
        }
    }
    let Some((old, known)) = old else {
        return Ok(Look::Changed(Box::new(Changed { record, refs, old: None, bytes })));
    };
    if known.refs == record.refs && known.files == record.files && known.bundles.iter().all(|b| vault.has(b)) {
        return Ok(Look::Same(old.to_owned()));
    }
    let tips = vault.get(&known.refs).ok().and_then(|text| parse_refs(&text));
    let tips: BTreeSet<Oid> = tips.into_iter().flat_map(BTreeMap::into_values).collect();
    let tips = odb::present(dir, &tips)?.into_iter().collect();
    Ok(Look::Changed(Box::new(Changed { record, refs, old: Some((known, tips)), bytes })))
}

/// What stands beside a repository's references and objects and belongs to it.
fn is_ours(file: &str) -> bool {
    let passing = [".lock", ".new", ".tmp"].iter().any(|end| file.ends_with(end));
    let named = ["HEAD", "config", "description", ".gitolite.down"].contains(&file);
    !passing
        && (named
            || file.starts_with("gl-")
            || file.starts_with("gitmesh-")
            || file.eq_ignore_ascii_case("readme.html"))
}

/// The node's own files, secrets among them.
fn files(node: &Node, vault: &Vault, snapshot: &mut Snapshot) -> Result<u64, BackupError> {
    let (mut bytes, mut todo, mut links) = (0, vec![String::new()], Vec::new());
    let mut put = |path: &Path, name: String| -> Result<(), BackupError> {
        let mode = std::fs::metadata(path).map_err(BackupError::io(path))?.permissions().mode() & 0o777;
        let contents = std::fs::read(path).map_err(BackupError::io(path))?;
        let mut hashes = Vec::new();
        // An empty file is one piece too.
        let (first, rest) = contents.split_at(contents.len().min(PIECE));
        for piece in std::iter::once(first).chain(rest.chunks(PIECE)) {
            let (hash, size) = vault.put(piece)?;
            bytes += size;
            hashes.push(hash);
        }
        let hash = hashes.remove(0);
        snapshot.files.insert(name, Kept { hash, more: hashes, mode });
        Ok(())
    };
    while let Some(at) = todo.pop() {
        let dir = node.data.join(&at);
        for entry in std::fs::read_dir(&dir).map_err(BackupError::io(&dir))? {
            let entry = entry.map_err(BackupError::io(&dir))?;
            let Ok(file) = entry.file_name().into_string() else { continue };
            let name = if at.is_empty() { file.clone() } else { format!("{at}/{file}") };
            let kind = entry.file_type().map_err(BackupError::io(&dir))?;
            if LEFT_OUT.contains(&name.as_str())
                || file.starts_with('.')
                || file.ends_with(".tmp")
                || file.ends_with(".new")
            {
                continue;
            }
            if kind.is_dir() {
                todo.push(name);
            } else if kind.is_symlink() {
                links.push(name);
            } else if kind.is_file() {
                match put(&entry.path(), name) {
                    Err(BackupError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                    done => done?,
                }
            }
        }
    }
    let why = "it is a symbolic link, and what it leads to may be elsewhere; keep that yourself";
    snapshot.failed.extend(links.into_iter().map(|name| (name, why.to_owned())));
    if !node.settings.starts_with(&node.data) && node.settings.is_file() {
        put(&node.settings, "gitmesh.toml".to_owned())?;
    }
    Ok(bytes)
}

//! Puts a snapshot into a fresh data directory.
//!
//! What it makes is older than what the rest of the mesh may know. `state/restored` says so, until the node has found
//! its place again: JSON, `{"version": 1, "node": NAME, "backup": TIME, "restored": TIME}`, times in RFC 3339.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::process::Stdio;
use std::time::SystemTime;

use tokio::io::AsyncWriteExt as _;
use tokio::runtime::Handle;

use super::record::{Record, Snapshot, read_refs};
use super::vault::Vault;
use super::{BackupError, Node, bundle};
use crate::durable;
use crate::git::process::Git;
use crate::model::RepoName;
use crate::model::time::rfc3339;

/// Says, below the data directory, that it comes from a backup.
const MARKER: &str = "state/restored";
/// Repositories made durable at once.
const AT_ONCE: usize = 64;

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    pub node: String,
    /// When the backup was made.
    pub time: String,
    pub repos: usize,
    /// One line for each repository that could not be made.
    pub failed: Vec<String>,
}

/// Makes `node` from the snapshot of that name, or the newest, of the backup at `root`. The node's name counts for
/// nothing; its data directory must be empty or absent.
pub async fn restore(node: &Node, root: &Path, time: Option<&str>) -> Result<Restored, BackupError> {
    let vault = Vault::open(root)?;
    let times = vault.times()?;
    let newest = time.map(str::to_owned).or_else(|| times.last().cloned());
    let newest = newest.ok_or_else(|| BackupError::Empty(root.to_owned()))?;
    let snapshot = vault.snapshot(&newest)?;
    let used = fs::read_dir(&node.data).is_ok_and(|mut entries| entries.next().is_some());
    if used {
        return Err(BackupError::NotFresh(node.data.clone()));
    }
    for dir in [
        node.data.clone(),
        node.store.root().to_owned(),
        node.data.join("state"),
        node.data.join("orders"),
        node.data.join("hooks"),
    ] {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(BackupError::io(&dir))?;
    }
    // Before anything else: half a node must not be taken for a whole one.
    mark(node, &snapshot)?;
    for (name, kept) in snapshot.files.iter().filter(|(name, _)| name.as_str() != MARKER) {
        let pieces = kept.hashes().map(|hash| vault.get(hash)).collect::<Result<Vec<_>, _>>()?;
        write(&node.data.join(name), &pieces.concat(), kept.mode)?;
    }
    let mut restored =
        Restored { node: snapshot.node.clone(), time: snapshot.time.clone(), repos: 0, failed: Vec::new() };
    let all: Vec<(RepoName, &String)> =
        snapshot.repos.iter().filter_map(|(name, hash)| Some((RepoName::new(name).ok()?, hash))).collect();
    for some in all.chunks(AT_ONCE) {
        let names: Vec<&RepoName> = some.iter().map(|(name, _)| name).collect();
        let prepare = |name: &RepoName, dir: &Path| {
            let hash = some.iter().find(|(known, _)| known == name).map(|(_, hash)| hash.as_str()).unwrap_or_default();
            let record = vault.record(hash).map_err(io::Error::other)?;
            let work = repository(node, &vault, &record, dir, &snapshot.data);
            tokio::task::block_in_place(|| Handle::current().block_on(work)).map_err(io::Error::other)
        };
        for (name, made) in names.iter().zip(node.store.create_all(&names, &prepare)) {
            match made {
                Ok(_) => restored.repos += 1,
                Err(error) => restored.failed.push(format!("{name}: {error}")),
            }
        }
    }
    Ok(restored)
}

/// Fills the new repository at `dir`, and has git look whether everything is there.
async fn repository(node: &Node, vault: &Vault, record: &Record, dir: &Path, data: &str) -> Result<(), BackupError> {
    for hash in &record.bundles {
        vault.check(hash)?;
        bundle::unpack(&node.git, dir, &vault.path(hash)).await?;
    }
    let wrong = || BackupError::Object { hash: record.refs.clone(), why: "it holds no references".to_owned() };
    let refs = read_refs(&vault.get(&record.refs)?).ok_or_else(wrong)?;
    let lines: String = refs.iter().map(|(name, oid)| format!("create {name}\0{oid}\0")).collect();
    run(&node.git, dir, "update-ref", &["update-ref", "--stdin", "-z"], lines.as_bytes()).await?;
    run(&node.git, dir, "pack-refs", &["pack-refs", "--all"], b"").await?;
    for (name, hash) in &record.files {
        let mut contents = vault.get(hash)?;
        if name == "config" {
            // It names the settings by their place in the data directory.
            let text = String::from_utf8_lossy(&contents).into_owned();
            contents = text.replace(data, &node.data.display().to_string()).into_bytes();
        }
        if name.contains('/') {
            return Err(BackupError::Object { hash: hash.clone(), why: format!("{name:?} is no file's name") });
        }
        write(&dir.join(name), &contents, 0o644)?;
    }
    let fsck = ["fsck", "--connectivity-only", "--no-dangling", "--no-progress", "--no-reflogs"];
    run(&node.git, dir, "fsck", &fsck, b"").await
}

async fn run(git: &Git, dir: &Path, command: &'static str, words: &[&str], input: &[u8]) -> Result<(), BackupError> {
    let failed = |said: String| BackupError::Git { command, said };
    let mut command = git.command(dir);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| failed(e.to_string()))?;
    let stdin = child.stdin.take();
    let give = async {
        if let Some(mut stdin) = stdin {
            // If it ends early it says why itself.
            drop(stdin.write_all(input).await);
        }
    };
    let ((), out) = tokio::join!(give, child.wait_with_output());
    let out = out.map_err(|e| failed(e.to_string()))?;
    if out.status.success() { Ok(()) } else { Err(failed(String::from_utf8_lossy(&out.stderr).trim().to_owned())) }
}

fn mark(node: &Node, snapshot: &Snapshot) -> Result<(), BackupError> {
    let (backup, now) = (&snapshot.time, rfc3339(SystemTime::now()));
    let marker = serde_json::json!({"version": 1, "node": snapshot.node, "backup": backup, "restored": now});
    write(&node.data.join(MARKER), format!("{marker}\n").as_bytes(), 0o600)
}

fn write(path: &Path, contents: &[u8], mode: u32) -> Result<(), BackupError> {
    let written = || {
        if let Some(dir) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let mut out = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
        out.write_all(contents)?;
        durable::sync_open("backup.restore.sync", &out, path)
    };
    written().map_err(BackupError::io(path))
}

//! Backups that restore: the repositories as stock git bundles, and the node's own files, in a directory that grows by
//! what has changed.
//!
//! # The format, version 1
//!
//! ```text
//! DIR/gitmesh-backup                    "gitmesh-backup 1"
//! DIR/snapshots/20261121T112000Z.json   what there was at that time: JSON, `Snapshot`
//! DIR/objects/ab/ab12…                  contents, each under its SHA-256
//! ```
//!
//! A snapshot names the node's files, and for each repository a record (JSON, `Record`, itself an object): its
//! references (lines `OID NAME`), its small files (HEAD, config, description, gl-*, gitmesh-*) and its bundles, oldest
//! first. A bundle is git's own version 2 (gitformat-bundle(5)) and holds what the bundles before it do not; each can
//! be fetched from with stock git. A repository whose references and files are as in the snapshot before has the same
//! record.
//!
//! Promises: references are read before the objects that they lead to, so each repository is one that was; no push
//! waits for a backup; a snapshot appears when everything it names is on the disk. Never: writes into a repository
//! that is served, needs the daemon, or asks the network.

mod bundle;
mod create;
mod prune;
mod record;
mod restore;
mod vault;
mod verify;

use std::io;
use std::path::{Path, PathBuf};

use crate::git::objects::ObjectsError;
use crate::git::process::Git;
use crate::repo::Store;

pub use create::{Created, create};
pub use prune::{Keep, Pruned, prune};
pub use restore::{Restored, restore};
pub use verify::{Verified, verify};

/// What a backup is made of, or restored to.
#[derive(Debug, Clone)]
pub struct Node {
    /// The data directory.
    pub data: PathBuf,
    /// The settings file, which may lie elsewhere.
    pub settings: PathBuf,
    pub name: String,
    pub git: Git,
    pub store: Store,
}

/// Why a backup cannot be made, checked or restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is no backup: {why}", path.display())]
    NotOne { path: PathBuf, why: String },
    #[error("another backup into {} is running", .0.display())]
    Busy(PathBuf),
    #[error("{} holds no snapshot yet", .0.display())]
    Empty(PathBuf),
    #[error("object {hash}: {why}")]
    Object { hash: String, why: String },
    #[error("git {command}: {said}")]
    Git { command: &'static str, said: String },
    #[error(transparent)]
    Objects(#[from] ObjectsError),
    #[error("{} is not empty; a backup is restored into a fresh data directory", .0.display())]
    NotFresh(PathBuf),
}

impl BackupError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

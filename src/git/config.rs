//! The `[git]` table of `gitmesh.toml`.

use std::path::PathBuf;

use serde::Deserialize;

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub program: PathBuf,
    pub max_processes: usize,
    pub fsck: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { program: PathBuf::from("git"), max_processes: 128, fsck: true }
    }
}

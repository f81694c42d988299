//! The `[git]` table of `gitmesh.toml`.

use std::path::PathBuf;

use serde::Deserialize;

use crate::model::setting;

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub program: PathBuf,
    pub max_processes: usize,
    /// Large packs made at once; `None` is one a processor.
    pub max_packs: Option<usize>,
    pub fsck: bool,
    /// Bytes of packs that several clones share; 0 keeps none.
    #[serde(deserialize_with = "setting::size")]
    pub pack_cache: u64,
}

impl Config {
    /// Large packs made at once.
    pub fn packs_at_once(&self) -> usize {
        self.max_packs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self { program: PathBuf::from("git"), max_processes: 128, max_packs: None, fsck: true, pack_cache: 1 << 30 }
    }
}

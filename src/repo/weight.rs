//! What a repository weighs: how much there is to copy, and how lately somebody pushed.

use std::path::Path;
use std::time::SystemTime;

/// Both are estimates for choosing an order and showing progress; nothing is decided by them alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weight {
    /// The sum of its packs in bytes.
    pub bytes: u64,
    /// When a branch changed last: git replaces a file in this directory at each push, and maintenance does not.
    pub pushed: Option<SystemTime>,
}

/// Weighs the repository at `dir` by the names and sizes of a few files. Blocking. What cannot be read weighs nothing.
pub fn weigh(dir: &Path) -> Weight {
    let packs = std::fs::read_dir(dir.join("objects/pack")).into_iter().flatten().flatten();
    let packs = packs.filter(|entry| entry.path().extension().is_some_and(|end| end == "pack"));
    let bytes = packs.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum();
    let pushed = std::fs::metadata(dir.join("refs/heads")).and_then(|at| at.modified()).ok();
    Weight { bytes, pushed }
}

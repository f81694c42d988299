//! What a repository weighs: how much there is to copy, and how lately somebody pushed.

use std::path::Path;
use std::time::SystemTime;

use super::dir_memory::DirMemory;

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
    weigh_with(dir, &DirMemory::default())
}

/// As [`weigh`], with what is remembered of the directories of packs.
pub(super) fn weigh_with(dir: &Path, memory: &DirMemory<u64>) -> Weight {
    let at = dir.join("objects/pack");
    let asked = std::fs::metadata(&at).ok();
    let bytes = asked.as_ref().and_then(|asked| memory.of(asked)).unwrap_or_else(|| {
        let bytes = of_packs(&at);
        asked.inspect(|asked| memory.learn(asked, bytes));
        bytes
    });
    let pushed = std::fs::metadata(dir.join("refs/heads")).and_then(|at| at.modified()).ok();
    Weight { bytes, pushed }
}

/// git writes a pack under another name, and nothing into it once it has its own.
fn of_packs(dir: &Path) -> u64 {
    let packs = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let packs = packs.filter(|entry| entry.path().extension().is_some_and(|end| end == "pack"));
    packs.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum()
}

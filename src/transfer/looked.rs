//! What a clone wants, looked at before its pack is made: whether all of it is here, and which pack it would be.

use std::io;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::git::odb;
use crate::git::packs::Key;
use crate::git::protocol::{self, Clone};
use crate::git::refs::Snapshot;

/// A clone that can be served here.
pub(super) struct Looked {
    pub(super) asked: Clone,
    pub(super) key: Key,
    /// Bytes that the pack may come to.
    pub(super) expected: u64,
    /// Whether every tag is among the wants; not looked at when tags do not come along.
    pub(super) tags: bool,
}

/// Looks whether all is there that is wanted, and names the pack. Blocks.
pub(super) fn look(
    dir: &Path,
    name: &str,
    asked: Clone,
) -> Result<Option<Looked>, Box<dyn std::error::Error + Send + Sync>> {
    let mut wants = asked.wants.clone();
    wants.sort_unstable();
    wants.dedup();
    if odb::present(dir, &wants)?.len() != wants.len() {
        return Ok(None);
    }
    let mut hash = Sha256::new();
    hash.update(format!("{name}\n{} {}\n", asked.ofs_delta, asked.include_tag));
    hash.update(protocol::revisions(&wants));
    let mut tags = true;
    if asked.include_tag {
        let prefixes = [b"refs/tags/".to_vec()];
        Snapshot::read(dir, &prefixes)?.list(&prefixes, |tag| {
            hash.update(tag.oid);
            tags &= protocol::oid(&tag.oid).is_some_and(|oid| wants.binary_search(&oid).is_ok());
            Ok(())
        })?;
    }
    let expected = size_of_packs(dir)?;
    Ok(Some(Looked { asked: Clone { wants, ..asked }, key: hash.finalize().into(), expected, tags }))
}

/// Bytes of all packs of a repository. Blocks.
pub(super) fn size_of_packs(dir: &Path) -> io::Result<u64> {
    let files = std::fs::read_dir(dir.join("objects/pack"))?;
    files.map(|entry| Ok(entry?.metadata().map_or(0, |file| file.len()))).sum()
}

//! What we keep beside the references: the highest epoch this repository has promised to.

use std::io::{self, Write};
use std::path::Path;

use crate::model::Epoch;

const FILE: &str = "gitmesh-epoch";

/// Promises `epoch` for the repository at `dir`: afterwards no lower one is accepted, also after a power cut.
///
/// `Ok(Err(promised))` when a higher one was promised before: the sender is a master of the past.
pub fn promise_epoch(dir: &Path, epoch: Epoch) -> io::Result<Result<(), Epoch>> {
    let promised = promised_epoch(dir)?;
    if epoch < promised {
        return Ok(Err(promised));
    }
    if epoch > promised {
        let fresh = dir.join(format!("{FILE}.new"));
        let mut out = std::fs::File::create(&fresh)?;
        writeln!(out, "{epoch}")?;
        out.sync_all()?;
        std::fs::rename(&fresh, dir.join(FILE))?;
        std::fs::File::open(dir)?.sync_all()?;
    }
    Ok(Ok(()))
}

/// The highest epoch that the repository at `dir` has promised to; the first if it was never mirrored or is not there.
pub fn promised_epoch(dir: &Path) -> io::Result<Epoch> {
    let file = dir.join(FILE);
    match std::fs::read_to_string(&file) {
        Ok(text) => Epoch::parse(text.trim())
            .ok_or_else(|| io::Error::other(format!("{} holds no epoch; restore it or remove it", file.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Epoch::FIRST),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lower_epoch_is_never_accepted() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let epoch = |n: u32| Epoch::parse(&n.to_string()).expect("positive");
        assert_eq!(promise_epoch(dir.path(), epoch(1)).expect("io"), Ok(()));
        assert_eq!(promise_epoch(dir.path(), epoch(3)).expect("io"), Ok(()));
        assert_eq!(promise_epoch(dir.path(), epoch(2)).expect("io"), Err(epoch(3)));
        assert_eq!(promise_epoch(dir.path(), epoch(3)).expect("io"), Ok(()));
    }
}

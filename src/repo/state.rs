//! What we keep beside the references: the highest epoch this repository has promised to.

use std::io;
use std::path::Path;

use crate::durable::write_whole;
use crate::model::Epoch;

const FILE: &str = "gitmesh-epoch";
/// Stands after an epoch under which no push has ended well yet.
const FRESH: &str = "fresh";

/// Promises `epoch` for the repository at `dir`: afterwards no lower one is accepted, also after a power cut.
///
/// `Ok(Err(promised))` when a higher one was promised before: the sender is a master of the past.
pub fn promise_epoch(dir: &Path, epoch: Epoch) -> io::Result<Result<(), Epoch>> {
    let promised = promised_epoch(dir)?;
    if epoch < promised {
        return Ok(Err(promised));
    }
    if epoch > promised {
        write_whole(dir, FILE, &format!("{epoch} {FRESH}\n"))?;
    }
    Ok(Ok(()))
}

/// The highest epoch that the repository at `dir` has promised to; the first if it was never mirrored or is not there.
pub fn promised_epoch(dir: &Path) -> io::Result<Epoch> {
    Ok(read(dir)?.0)
}

/// Whether no push under the promised epoch has ended well yet. Until then what such a push replaces is kept: it may
/// have been acknowledged under an earlier master, and not have reached the new one.
pub fn is_fresh_epoch(dir: &Path) -> io::Result<bool> {
    Ok(read(dir)?.1)
}

/// The copy has become equal to its master under the promised epoch.
pub fn settle_epoch(dir: &Path) -> io::Result<()> {
    match read(dir)? {
        (epoch, true) => write_whole(dir, FILE, &format!("{epoch}\n")),
        (_, false) => Ok(()),
    }
}

fn read(dir: &Path) -> io::Result<(Epoch, bool)> {
    let file = dir.join(FILE);
    match std::fs::read_to_string(&file) {
        Ok(text) => {
            let mut words = text.split_whitespace();
            let epoch = words.next().and_then(Epoch::parse);
            let epoch = epoch.ok_or_else(|| {
                io::Error::other(format!("{} holds no epoch; restore it or remove it", file.display()))
            })?;
            Ok((epoch, words.next() == Some(FRESH)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((Epoch::FIRST, false)),
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

    #[test]
    fn an_epoch_is_fresh_until_a_push_has_ended_well() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let fresh = || is_fresh_epoch(dir.path()).expect("io");
        assert_eq!(promise_epoch(dir.path(), Epoch::FIRST).expect("io"), Ok(()));
        assert!(!fresh(), "the first master replaces nobody");
        let second = Epoch::FIRST.next();
        assert_eq!(promise_epoch(dir.path(), second).expect("io"), Ok(()));
        assert_eq!(promise_epoch(dir.path(), second).expect("io"), Ok(()));
        assert!(fresh());
        settle_epoch(dir.path()).expect("io");
        assert_eq!((fresh(), promised_epoch(dir.path()).expect("io")), (false, second));
    }
}

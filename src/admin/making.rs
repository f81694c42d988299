//! How far an activation is with making repositories, for those who wait for it, and the end of it when the node stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Repositories made between two looks at whether the node stops; each such part is made durable by one call.
pub(super) const AT_ONCE: usize = 2_000;

/// Cheap to clone; all clones are of one activation after the other.
#[derive(Debug, Clone, Default)]
pub struct Making {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    made: AtomicUsize,
    wanted: AtomicUsize,
    stopped: AtomicBool,
}

impl Making {
    /// How many are made, of how many; `None` while none are being made.
    pub fn progress(&self) -> Option<(usize, usize)> {
        let wanted = self.inner.wanted.load(Ordering::Relaxed);
        (wanted > 0).then(|| (self.inner.made.load(Ordering::Relaxed), wanted))
    }

    /// The node stops: what is not made yet is made at its next start.
    pub fn stop(&self) {
        self.inner.stopped.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.inner.stopped.load(Ordering::Relaxed)
    }

    pub(super) fn begin(&self, wanted: usize) {
        self.inner.made.store(0, Ordering::Relaxed);
        self.inner.wanted.store(wanted, Ordering::Relaxed);
    }

    pub(super) fn add(&self, made: usize) {
        self.inner.made.fetch_add(made, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.inner.wanted.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use crate::admin::testing::{Node, repo};

    #[test]
    fn a_stopping_node_leaves_the_rest_to_its_next_start() {
        let node = Node::with("repo testing\n RW = @all");
        let (mut activator, _, _) = node.run();
        let making = activator.making();
        assert_eq!(making.progress(), None);
        making.stop();
        node.commit_conf("repo testing later\n RW = @all");
        let applied = activator.reload(None).unwrap();
        assert_eq!(applied.created, []);
        assert!(applied.problems[0].contains("1 repositories are made at its next start"), "{applied:?}");
        let (_, _, applied) = node.run();
        assert_eq!(applied.created, [repo("later")]);
    }
}

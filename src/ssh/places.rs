//! A number of places that may change while some are taken.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Counts the places taken; how many there are is told with each question. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Places(Arc<Inner>);

#[derive(Default)]
struct Inner {
    taken: AtomicUsize,
    freed: Notify,
}

/// A place, until it is dropped.
pub(super) struct Place(Arc<Inner>);

impl Places {
    /// A place, if fewer than `most` are taken.
    pub(super) fn try_take(&self, most: usize) -> Option<Place> {
        let one_more = |taken| (taken < most).then_some(taken + 1);
        let taken = self.0.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more);
        taken.ok().map(|_| Place(self.0.clone()))
    }

    /// Waits for a place; `most` is asked again whenever one comes free.
    pub(super) async fn take(&self, most: impl Fn() -> usize) -> Place {
        loop {
            let freed = self.0.freed.notified();
            if let Some(place) = self.try_take(most()) {
                return place;
            }
            freed.await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
        self.0.freed.notify_one();
    }
}

/// Counts places by the name of who takes them. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Crowd(Arc<Mutex<HashMap<String, usize>>>);

/// Somebody's place, until it is dropped.
pub(super) struct Member {
    crowd: Crowd,
    name: String,
}

impl Crowd {
    /// One more place for `name`, if they have fewer than `most`.
    pub(super) fn enter(&self, name: String, most: usize) -> Option<Member> {
        let mut counts = self.lock();
        let count = counts.entry(name.clone()).or_default();
        (*count < most).then(|| {
            *count += 1;
            Member { crowd: self.clone(), name }
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        // Each change is one step, so a panic elsewhere leaves the counts right.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut counts = self.crowd.lock();
        if let Some(count) = counts.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_come_free_and_their_number_may_change() {
        let places = Places::default();
        let first = places.try_take(2).expect("free");
        let _second = places.try_take(2).expect("free");
        assert!(places.try_take(2).is_none());
        assert!(places.try_take(3).is_some());
        let waiting = places.take(|| 2);
        tokio::pin!(waiting);
        assert!(futures_pending(waiting.as_mut()).await);
        drop(first);
        tokio::time::timeout(std::time::Duration::from_secs(10), waiting).await.expect("a place came free");
    }

    #[test]
    fn one_may_not_take_the_places_of_others() {
        let crowd = Crowd::default();
        let alice = crowd.enter("alice".into(), 1).expect("free");
        assert!(crowd.enter("alice".into(), 1).is_none());
        assert!(crowd.enter("bob".into(), 1).is_some());
        drop(alice);
        assert!(crowd.enter("alice".into(), 1).is_some());
    }

    async fn futures_pending<F: Future + Unpin>(mut future: F) -> bool {
        std::future::poll_fn(|cx| std::task::Poll::Ready(std::pin::Pin::new(&mut future).poll(cx).is_pending())).await
    }
}

//! The only place that waits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Far more than anything takes on two busy cores.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Polls until `condition` holds; panics after [`DEADLINE`], naming `what` was waited for.
#[track_caller]
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    assert!(within(DEADLINE, condition), "waited {DEADLINE:?} in vain for {what}");
}

/// Polls until `condition` holds or `deadline` has passed, and tells which.
pub fn within(deadline: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + deadline;
    let mut pause = Duration::from_millis(1);
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Told once, seen by all who look; a delay on the wire is a look that lasts.
#[derive(Default)]
pub struct Stop(AtomicBool);

impl Stop {
    pub fn now(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// True if told within `time`.
    pub fn within(&self, time: Duration) -> bool {
        within(time, || self.is_set())
    }
}

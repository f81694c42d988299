//! The audit: what happened, by whom, from where, and what came of it. Append-only files of one JSON object a line.
//!
//! One record an access, a push (each reference in it), a command and a refused key. Records are chained: each holds
//! the SHA-256 of the line before it, across files, so that a changed, removed or inserted line is found
//! ([`Files::verify`]); whoever keeps the newest hash elsewhere finds a history that was written anew as well.
//!
//! Promises: noting a record costs its caller a moment under a lock and never waits for the disk; records reach the
//! file within [`BATCH`] and are made durable ([`DURABLE`]) within a second, at rotation and at the end, so a power cut
//! may take the last second and a crash of the process the last moment. A disk that takes nothing stops nobody: records
//! wait in a bounded queue, the trouble is logged once and shown by `doctor`, and if the queue overflows, the number of
//! lost records is itself a record. Never: a decision, a secret, the contents of a pack.

mod config;
mod files;
mod gitolite;
mod record;
mod search;
#[cfg(test)]
mod tests;
mod writer;

pub use config::Config;
pub use files::{Files, Verified, Wrong};
pub use gitolite::export;
pub use record::{Kind, Outcome, Record, RefChange};
pub use search::Filter;
pub use writer::{Audit, Writer};

use std::time::Duration;

/// Records that come so close together are written at once.
pub const BATCH: Duration = Duration::from_millis(20);
/// What has been written is on the disk after this time (fdatasync(2)).
pub const DURABLE: Duration = Duration::from_secs(1);

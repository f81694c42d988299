//! Repositories on disk: plain bare repositories under `repositories/NAME.git`.
//!
//! Promises: a repository is opened with a grant or by the daemon itself, and by no other way; only this room joins
//! a path under the repository root; creation is atomic, so a half-made repository is never seen; what is
//! deleted is in the trash first, and what its copies are to be told is not lost. Never: doors,
//! peers, or who is master.

mod digests;
mod dir_memory;
mod file_locks;
mod fresh;
mod gate;
mod gone;
mod locks;
mod lost;
mod maintenance;
mod metadata;
mod ownership;
mod papers;
mod quarantine;
mod state;
mod store;
mod take_in;
mod trash;
mod weight;

pub use crate::durable::write_whole;
pub use file_locks::{BrokenLock, FileLock, FileLocks};
pub use fresh::Fresh;
pub use gate::{Closed, Gates, Pass};
pub use gone::{Gone, Tombstone};
pub use locks::{find_stale_locks, remove_stale_locks, remove_stale_locks_of};
pub use lost::{Lost, keep_lost, mark_lost};
pub use maintenance::{Lenders, Maintenance, Outcome, Task, Upkeep};
pub use metadata::{Metadata, WRITTEN_KEYS};
pub use ownership::{Ownership, ROLES_MAX};
pub use papers::{MOTD, Papers, README, WRITES_OFF};
pub use quarantine::{Quarantine, sweep_quarantines};
pub use state::{is_fresh_epoch, promise_epoch, promised_epoch, settle_epoch};
pub use store::{Prepare, Repo, Space, Store};
pub use take_in::{Original, Owner};
pub use trash::{Trashed, Why};
pub use weight::{Weight, weigh};

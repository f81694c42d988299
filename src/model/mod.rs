//! The shared words: names, ids and the values that cross rooms.
//!
//! Each type is parsed once, at the edge, by a fallible constructor; inside the house there are no bare
//! strings for these things. Nothing here does I/O and nothing here helps: a function that is not about the
//! validity or the spelling of a value belongs elsewhere.

mod actor;
mod git;
mod name;
pub mod setting;
mod target;
pub mod time;
mod voucher;

pub use actor::{Actor, Certified, Fingerprint, PushId};
pub use git::{Epoch, Oid, RefName, RefUpdate};
pub use name::{ADMIN_REPO, HostName, NameError, RepoName, UserName};
pub use target::{RefFilter, Target, TargetUrl, Upstream};
pub use voucher::Voucher;

//! The admin repository becomes the live policy.
//!
//! Promises that a commit is checked completely before anything of it comes alive, that rules, keys and peers are
//! swapped together as one value, and that nobody can push a configuration that locks every administrator out.
//! Never moves a reference, never listens on a door, never runs a user's git session.

mod activate;
mod address;
mod assemble;
mod commit;
mod compile;
mod config;
mod copies;
mod data;
mod denial;
mod emergency;
mod file_lock;
mod fork;
mod handle;
mod here;
mod identity;
mod introduce;
mod invitation;
mod judge;
mod key_desk;
mod left_over;
mod lint;
mod making;
mod peers;
mod plan;
mod program;
mod realm;
mod received;
mod removal;
mod rights;
mod roles;
mod shown;
mod store;
mod summary;
#[cfg(test)]
pub(crate) mod testing;
mod texts;
mod tree;
mod upstream;
mod virtual_ref;
mod voucher;
mod wild;
mod writable;
mod written;

pub use crate::policy::{Access, Grant};
pub use activate::{Activator, Applied, ReloadError, Start, StartError};
pub use address::{Address, NoAddress};
pub use commit::{Change, Committed, NotCommitted};
pub use compile::{Checked, Draft, Rejected, Surroundings, check, check_on, draft};
pub use config::{AutoCreate, Config, HooksConfig, Sugar};
pub use data::{DataDir, write_whole};
pub use denial::Denial;
pub use emergency::{Emergency, EmergencyError};
pub use file_lock::{LockChange, LockError};
pub use handle::{Admin, Good};
pub use introduce::{CannotMeet, Introduced, Introduction, News, forget};
pub use invitation::{Ended, Invitation, Invitations, Invited, NoInvitation};
pub use judge::Judged;
pub use key_desk::{CannotWait, KeyDesk, Waiting};
pub use making::Making;
pub use peers::{KnownPeers, load_peers};
pub use program::{Programs, Purpose};
pub use realm::{Live, Realm};
pub use roles::RoleChange;
pub use store::Store;
pub use texts::{Text, TextError};
pub use tree::{FIRST_REF, Tree, newest_commit};
pub use virtual_ref::{Look, ProgramCall};
pub use wild::{CreateError, RolesError, default_roles};
pub use writable::{MESSAGE_MAX, Scope};
pub use written::Written;

pub use crate::model::ADMIN_REPO;

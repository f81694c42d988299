//! Everything about git that knows no user and no rule: its processes, its objects and its wire format.
//!
//! Promises: git runs with a cleared environment and with our settings alone; nothing here decides access, names
//! a peer or reads our configuration. Never: a process spawned anywhere but in `process.rs`.

pub mod changes;
mod config;
pub mod connected;
pub mod etag;
pub mod fork;
pub mod fsck;
pub mod loose;
pub mod odb;
pub mod packed;
pub mod packs;
pub mod pktline;
pub mod process;
pub mod protocol;
pub mod receive;
pub mod ref_state;
pub mod refs;
pub mod service;
pub mod stored;
pub mod upstream;

pub mod objects;

pub use config::Config;

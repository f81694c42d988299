//! gitmesh: one binary that turns machines into a mesh of git servers.
//!
//! # The map
//!
//! Arrows point down only: a room uses lower floors, never its own or a higher one (`tests/tidy.rs` holds the table).
//!
//! ```text
//!  6  main.rs → cli/ → daemon.rs → config.rs      start, wire, stop
//!     ─────────────────────────────────────
//!  5  ssh/            socket.rs                   doors: who is calling, what they want, bytes in and out
//!     ─────────────────────────────────────
//!  4  transfer/       control/                    fetch and push │ questions and orders
//!     ─────────────────────────────────────
//!  3  admin/  mirror/  backup/                    admin repository → live policy │ make the copies equal │ keep and restore
//!     ─────────────────────────────────────
//!  2  repo/  peer/  cluster/                      on disk │ pipe to another node │ who owns what
//!     ─────────────────────────────────────
//!  1  git/   policy/  hook/                       git's processes and formats │ the rule language │ git's question
//!     ─────────────────────────────────────
//!  0  model/  observe/  audit/  durable  parallel shared words │ logs │ fsync and rename │ several cores
//! ```
//!
//! # A push, step by step
//!
//! 1. `ssh::session` turns a proved key into an `Actor`, and the exec line into a request.
//! 2. `transfer::serve` asks `admin::Realm` for a `Grant`, `cluster` whose repository it is, and `repo` to open it.
//! 3. `transfer::receive` offers the references, has git check the pack in quarantine, and asks `transfer::push` to judge
//!    every reference by the newest policy. For a push by path, git's proc-receive hook knocks at `socket` and asks the same.
//! 4. The references move, one here and several in one transaction of git's; `mirror` is told that the copies are behind.
//! 5. `mirror` compares both sides over the pooled link of `peer` and sends what is missing, as the pusher packed it if
//!    it is just that.
//!
//! # What is deliberately absent
//!
//! No database, no shell, no lock held across the network, no identity read from the environment, no process spawned
//! outside `git::process`, no path joined under the repositories outside `repo`.

pub mod audit;
pub mod durable;
pub mod model;
pub mod observe;
pub mod parallel;

pub mod git;
pub mod hook;
pub mod policy;

pub mod cluster;
pub mod peer;
pub mod repo;

pub mod admin;
pub mod backup;
pub mod mirror;

pub mod control;
pub mod transfer;

pub mod socket;
pub mod ssh;

pub mod cli;
pub mod config;
pub mod daemon;

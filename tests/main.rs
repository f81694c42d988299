//! The black-box tests: real daemons, the machine's own `git` and `ssh`, loopback only. `world` is the harness; each
//! other module is one theme. `tidy` reads the source instead.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod world;

mod door;
mod fetch;
mod import;
mod init;
mod join;
mod keys;
mod transfer;
mod trash;
mod travel;
mod wild;

mod access;
mod admin;
mod ask;
mod bad_conf;
mod bad_keys;
mod certificates;
mod check;
mod commands;
mod damage;
mod disks;
mod failpoints;
mod hostile;
mod lock;
mod naive;
mod naming;
mod own_keys;
mod refusals;
mod rules;
mod security_keys;
mod traps;
mod upkeep;
mod vref;

mod alarms;
mod audit;
mod backup;
mod failover;
mod first;
mod foreign;
mod forward;
mod gitolite;
mod large;
mod mirror;
mod options;
mod outage;
mod see;

mod pace;
mod package;
mod robustness;
mod serve;
mod soak;
mod storm;
mod waits;

mod tidy;

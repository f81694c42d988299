//! The command line: one file a command that runs here; every other word goes to the daemon through its socket, as
//! it would over SSH. A command prints what it did and how to go on.

mod access;
mod backup;
mod check;
mod completions;
mod demo;
mod doctor;
mod explain;
mod import;
mod init;
mod join;
mod man;
mod peer;
mod remote;
mod serve;
mod target;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::control;

/// A mesh of git servers: gitolite's configuration, SSH only, and copies that keep themselves equal.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a node: its data directory, its identity and its admin repository
    Init(init::Args),
    /// Take over a server of another kind: 'import gitolite PATH'
    Import(import::Args),
    /// Run the node in the foreground
    Serve(serve::Args),
    /// Let another node in: its public key as SERVER.pub
    AddMirroringPeer(peer::Args),
    /// The other nodes: invite one, join one, add, list, show, ping, remove
    Peer(peer::PeerArgs),
    /// Keys, host keys and tokens for servers outside the mesh (option mirror.external, mirror.upstream)
    Target(target::Args),
    /// What is wrong in the mesh: every pair of nodes, clocks, versions, disks, each with its cure
    Doctor(doctor::Args),
    /// Backups that restore: create, verify, restore
    Backup(backup::Args),
    /// May this user do that, and which rule says so
    Access(access::Args),
    /// Check an admin repository without a server: every error and warning a push of it would get
    Check(check::Args),
    /// The long story behind a code such as E0203
    Explain(explain::Args),
    /// The manual as man pages: the first one, or all of them into a directory
    Man(man::Args),
    /// What a shell needs to complete these commands
    Completions(completions::Args),
    /// Show two nodes mirroring a push, in a temporary directory
    Demo(demo::Args),
    /// Called by git
    #[command(hide = true)]
    Hook { name: String },
}

/// The whole command line: what runs here, and the daemon's commands in the grammar that they have over SSH.
pub fn command() -> clap::Command {
    let here = Cli::command();
    let (sent, here) = (sent(&here), here);
    sent.into_iter().fold(here, |all, (noun, what)| all.subcommand(remote::command(noun, what)))
}

/// The first words of the commands that are the daemon's alone.
fn sent(here: &clap::Command) -> Vec<(&'static str, &'static str)> {
    let is_here = |noun: &str| noun == "help" || here.find_subcommand(noun).is_some();
    control::nouns().into_iter().filter(|(noun, _)| !is_here(noun)).collect()
}

/// Runs the command that this program was given and returns the exit code; an error is printed by `main`.
pub fn run() -> anyhow::Result<ExitCode> {
    let given = command().get_matches();
    let sent = sent(&Cli::command());
    match given.subcommand() {
        Some((noun, words)) if sent.iter().any(|(sent, _)| *sent == noun) => remote::run(noun, remote::words(words)),
        _ => Cli::from_arg_matches(&given).unwrap_or_else(|error| error.exit()).run(),
    }
}

impl Cli {
    fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Init(args) => init::run(args),
            Command::Import(args) => import::run(&args),
            Command::Serve(args) => serve::run(args),
            Command::AddMirroringPeer(args) => peer::run_add(&args),
            Command::Doctor(args) => doctor::run(args),
            Command::Peer(args) => peer::run(args),
            Command::Backup(args) => backup::run(args),
            Command::Target(args) => target::run(&args),
            Command::Access(args) => access::run(args),
            Command::Check(args) => check::run(&args),
            Command::Explain(args) => explain::run(&args),
            Command::Man(args) => man::run(&args),
            Command::Completions(args) => completions::run(&args),
            Command::Demo(args) => demo::run(args),
            Command::Hook { name } => Ok(crate::hook::client::run(&name)),
        }
    }
}

/// The exit codes of the commands.
pub mod exit {
    pub const DONE: u8 = 0;
    pub const FAILED: u8 = 1;
    pub const USAGE: u8 = 2;
    pub const CONFIGURATION: u8 = 3;
    pub const NOT_FOUND: u8 = 4;
    pub const NOT_PERMITTED: u8 = 5;
    pub const CONFLICT: u8 = 6;
}

/// Why a command did not do its work: the text for the user, with its cure, and the exit code.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    pub code: u8,
    pub text: String,
}

impl Refusal {
    pub fn new(code: u8, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

/// A word as one can type it in a POSIX shell.
pub fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,[]".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// The line of a key file that holds its key: the first that is neither blank nor a comment.
fn key_line(text: &str) -> &str {
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
    lines.into_iter().find(|line| !line.is_empty() && !line.starts_with('#')).unwrap_or_default()
}

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

use clap::{Parser, Subcommand};

/// A mesh of git servers: gitolite's configuration, SSH only, and copies that keep themselves equal.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub struct Cli {
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
    /// Who you are here and what you may do, as 'ssh git@host info'
    #[command(disable_help_flag = true)]
    Info(remote::Args),
    /// One screen: nodes, lag, what needs attention; '--watch' goes on
    #[command(disable_help_flag = true)]
    Status(remote::Args),
    /// What this node has counted, in Prometheus' text format; '--summary' for people
    #[command(disable_help_flag = true)]
    Metrics(remote::Args),
    /// What changes with the copies, an object a line
    #[command(disable_help_flag = true)]
    Events(remote::Args),
    /// Where the copies stand; 'mirror push PEER REPO' brings one up to date
    #[command(disable_help_flag = true)]
    Mirror(remote::Args),
    /// The roles in a repository that a user made: 'perms REPO -l', 'perms REPO + ROLE USER'
    #[command(disable_help_flag = true)]
    Perms(remote::Args),
    /// Deletes a repository that a user made, or brings it back: 'D trash REPO', 'D list', 'D restore REPO/TIME'
    #[command(disable_help_flag = true)]
    #[command(name = "D")]
    D(remote::Args),
    /// A repository's description: 'desc REPO [TEXT]'
    #[command(disable_help_flag = true)]
    Desc(remote::Args),
    /// README.html for gitweb: 'readme REPO [set|rm]'
    #[command(disable_help_flag = true)]
    Readme(remote::Args),
    /// The message of the day: 'motd REPO|@all [set|rm]'
    #[command(disable_help_flag = true)]
    Motd(remote::Args),
    /// Pushes off for a while: 'writable REPO|@all off MESSAGE', 'on', 'status'
    #[command(disable_help_flag = true)]
    Writable(remote::Args),
    /// The default branch: 'symbolic-ref REPO HEAD refs/heads/main'
    #[command(disable_help_flag = true)]
    SymbolicRef(remote::Args),
    /// What the configuration says for a repository: 'git-config REPO KEY'
    #[command(disable_help_flag = true)]
    GitConfig(remote::Args),
    /// Users' SSH keys: 'keys list|add|expire|remove [--user NAME]'
    Keys(remote::Args),
    /// Whose push brought a commit: 'who-pushed REPO COMMIT'
    #[command(disable_help_flag = true)]
    WhoPushed(remote::Args),
    /// What happened, by whom, from where: 'audit search|tail|verify|export'
    #[command(disable_help_flag = true)]
    Audit(remote::Args),
    /// Who made a repository
    #[command(disable_help_flag = true)]
    Creator(remote::Args),
    /// A command as some user: 'sudo USER COMMAND'
    #[command(disable_help_flag = true)]
    Sudo(remote::Args),
    /// Everybody with a key or in a rule: 'user list', 'user show USER', 'user lint'
    #[command(disable_help_flag = true)]
    User(remote::Args),
    /// The groups of the rules: 'group list', 'group show @GROUP'
    #[command(disable_help_flag = true)]
    Group(remote::Args),
    /// Repositories as a whole: 'repo list|show|create|delete|undelete|rename|gc|fsck'
    #[command(disable_help_flag = true)]
    Repo(remote::Args),
    /// Called by git
    #[command(hide = true)]
    Hook { name: String },
}

impl Cli {
    /// Runs the command and returns the exit code; an error is printed by `main`.
    pub fn run(self) -> anyhow::Result<ExitCode> {
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
            Command::Status(args) => remote::run("status", args),
            Command::Metrics(args) => remote::run("metrics", args),
            Command::Events(args) => remote::run("events", args),
            Command::Info(args) => remote::run("info", args),
            Command::Mirror(args) => remote::run("mirror", args),
            Command::Perms(args) => remote::run("perms", args),
            Command::D(args) => remote::run("D", args),
            Command::Desc(args) => remote::run("desc", args),
            Command::Readme(args) => remote::run("readme", args),
            Command::Motd(args) => remote::run("motd", args),
            Command::Writable(args) => remote::run("writable", args),
            Command::SymbolicRef(args) => remote::run("symbolic-ref", args),
            Command::GitConfig(args) => remote::run("git-config", args),
            Command::Keys(args) => remote::run("keys", args),
            Command::WhoPushed(args) => remote::run("who-pushed", args),
            Command::Audit(args) => remote::run("audit", args),
            Command::Creator(args) => remote::run("creator", args),
            Command::Sudo(args) => remote::run("sudo", args),
            Command::Repo(args) => remote::run("repo", args),
            Command::User(args) => remote::run("user", args),
            Command::Group(args) => remote::run("group", args),
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

//! `gitmesh backup`: works on the files, so it needs no daemon and does not disturb one.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Subcommand;

use super::{Refusal, exit, shell_word};
use crate::admin::DataDir;
use crate::backup::{self, BackupError, Keep, Node};
use crate::config::Config;
use crate::git::process::Git;
use crate::model::setting::size_in_words;
use crate::repo::Store;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: BackupCommand,
}

#[derive(Debug, Subcommand)]
enum BackupCommand {
    /// Add a snapshot of everything this node holds; the first call makes DIR
    Create {
        dir: PathBuf,
        /// The node's data directory
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
        /// The configuration file, if it is not DATA/gitmesh.toml
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Let go of old snapshots, and of what they alone need; the newest stays in any case
    Prune {
        dir: PathBuf,
        /// Keep so many, the newest
        #[arg(long, value_name = "N", required_unless_present = "days")]
        keep: Option<usize>,
        /// Keep those of the last so many days
        #[arg(long, value_name = "N")]
        days: Option<u32>,
    },
    /// Check every object of a backup
    Verify { dir: PathBuf },
    /// Make a node from a backup, in a fresh data directory
    Restore {
        dir: PathBuf,
        /// Where the node is made: absent or empty
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
        /// An older snapshot: the name of its file below DIR/snapshots
        #[arg(long, value_name = "TIME")]
        snapshot: Option<String>,
    },
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match args.command {
        BackupCommand::Create { dir, data, config } => {
            let data = data.map_or_else(DataDir::by_default, DataDir::new);
            let file = Config::locate(config, data.path());
            let config = Config::load(&file).map_err(|e| Refusal::new(exit::CONFIGURATION, e.to_string()))?;
            let data = config.node.data.clone().unwrap_or(data.path().to_owned());
            let node = node(&data, &file, config.node.name.as_str(), config.git.program.clone())?;
            if std::path::absolute(&dir)?.starts_with(&node.data) {
                let text = "a backup inside the data directory is lost with it; name a directory elsewhere";
                return Err(Refusal::new(exit::USAGE, text).into());
            }
            let done = runtime.block_on(backup::create(&node, &dir)).map_err(refused)?;
            println!(
                "snapshot {}: {} repositories, {} changed, {} more, {} ms",
                done.snapshot,
                done.repos,
                done.changed,
                size_in_words(done.bytes),
                done.ms
            );
            for (repo, why) in &done.failed {
                eprintln!("{repo}: NOT IN THIS SNAPSHOT, an older state stands for it if there is one: {why}");
            }
            Ok(ExitCode::from(if done.failed.is_empty() { exit::DONE } else { exit::FAILED }))
        }
        BackupCommand::Prune { dir, keep, days } => {
            let younger = days.map(|days| Duration::from_secs(u64::from(days) * 24 * 3600));
            let done = backup::prune(&dir, Keep { newest: keep, younger }).map_err(refused)?;
            let (gone, bytes) = (done.snapshots, size_in_words(done.bytes));
            println!(
                "{gone} snapshots and {} objects are gone, {bytes}; {} snapshots are left",
                done.objects, done.left
            );
            Ok(ExitCode::from(exit::DONE))
        }
        BackupCommand::Verify { dir } => {
            let found = backup::verify(&dir).map_err(refused)?;
            found.damage.iter().for_each(|line| eprintln!("DAMAGED: {line}"));
            let (snapshots, repos, objects) = (found.snapshots, found.repos, found.objects);
            println!(
                "{snapshots} snapshots, {repos} states of repositories, {objects} objects, {} damaged",
                found.damage.len()
            );
            Ok(ExitCode::from(if found.damage.is_empty() { exit::DONE } else { exit::FAILED }))
        }
        BackupCommand::Restore { dir, data, snapshot } => {
            let data = data.map_or_else(DataDir::by_default, DataDir::new);
            let path = std::path::absolute(data.path())?;
            let node = node(&path, &path.join(crate::config::FILE_NAME), "", PathBuf::from("git"))?;
            let done = runtime.block_on(backup::restore(&node, &dir, snapshot.as_deref())).map_err(refused)?;
            data.give_to_owner(data.path()).context("give the files to the owner of the data directory")?;
            println!("'{}' as it was at {}: {} repositories", done.node, done.time, done.repos);
            done.failed.iter().for_each(|line| eprintln!("NOT RESTORED: {line}"));
            println!("start it: gitmesh serve --data {}", shell_word(&path.display().to_string()));
            Ok(ExitCode::from(if done.failed.is_empty() { exit::DONE } else { exit::FAILED }))
        }
    }
}

fn node(data: &Path, settings: &Path, name: &str, git: PathBuf) -> anyhow::Result<Node> {
    let data = std::path::absolute(data)?;
    let data = data.canonicalize().unwrap_or(data);
    let gitconfig = data.join("gitconfig");
    let store = Store::new(DataDir::new(data.clone()).repositories(), gitconfig.clone());
    let (settings, name) = (std::path::absolute(settings)?, name.to_owned());
    Ok(Node { git: Git::new(git, gitconfig), data, settings, name, store })
}

fn refused(error: BackupError) -> anyhow::Error {
    match error {
        BackupError::NotOne { .. } | BackupError::Empty(_) => Refusal::new(exit::NOT_FOUND, error.to_string()).into(),
        BackupError::NotFresh(_) | BackupError::Busy(_) => Refusal::new(exit::CONFLICT, error.to_string()).into(),
        other => other.into(),
    }
}

//! `gitmesh doctor`: what the running node and its peers find wrong, as `ssh git@host doctor`.

use std::path::PathBuf;
use std::process::ExitCode;

use super::remote;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// For programs
    #[arg(long)]
    json: bool,
    /// The node's data directory
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let words = std::iter::once("doctor").chain(args.json.then_some("--json"));
    remote::send(args.data, None, words.map(str::to_owned).collect())
}

//! `gitmesh access`: the daemon is asked, in the words of `ssh git@host access`.

use std::path::PathBuf;
use std::process::ExitCode;

use super::remote;

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code: 0 allowed, 1 denied, 2 usage.")]
pub struct Args {
    /// The node's data directory
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The node's configuration file, if it is not DIR/gitmesh.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Say it by the exit code alone
    #[arg(short, conflicts_with_all = ["show", "explain"])]
    quiet: bool,
    /// Show the rules tried, each with gitolite's letter for what came of it
    #[arg(short, conflicts_with = "explain")]
    show: bool,
    /// Tell each rule that was tried, and what came of it
    #[arg(long)]
    explain: bool,
    /// One object, schema gitmesh.access/1
    #[arg(long)]
    json: bool,
    /// '%' takes it from the input, one a line
    repo: String,
    /// '%' takes it from the input, one a line
    user: String,
    /// R, W, + (the default), C, D, M, WM, +M or ^C
    perm: Option<String>,
    /// A branch, a full reference, or any (the default)
    #[arg(value_name = "REF")]
    reference: Option<String>,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { data, config, quiet, show, explain, json, repo, user, perm, reference } = args;
    let mut words = vec!["access".to_owned(), repo, user];
    words.extend(perm.into_iter().chain(reference));
    let flags = [(quiet, "-q"), (show, "-s"), (explain, "--explain"), (json, "--json")];
    words.extend(flags.into_iter().filter(|(on, _)| *on).map(|(_, flag)| flag.to_owned()));
    remote::send(data, config, words)
}

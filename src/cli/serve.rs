//! `gitmesh serve`: the node, in the foreground.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::admin::DataDir;
use crate::config::Config;
use crate::{daemon, observe};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The node's data directory, made by 'gitmesh init'
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The configuration file, if it is not DIR/gitmesh.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let data = std::path::absolute(args.data.unwrap_or_else(|| DataDir::by_default().path().to_owned()))?;
    let file = std::path::absolute(Config::locate(args.config, &data))?;
    let config = Config::load(&file)?;
    let level = observe::start(&config.log).map_err(anyhow::Error::msg)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let data = config.node.data.clone().unwrap_or(data);
    runtime.block_on(daemon::run(config, file, data, level))?;
    Ok(ExitCode::SUCCESS)
}

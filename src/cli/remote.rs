//! Commands for the running daemon, in the words of `ssh git@host WORDS`.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use crate::admin::DataDir;
use crate::config::Config;
use crate::hook::client;
use crate::hook::wire::{Answer, Ask};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The node's data directory
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The node's configuration file, if it is not DIR/gitmesh.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What to ask; 'gitmesh mirror help' or 'ssh git@host help' lists it
    words: Vec<String>,
}

/// `perms` has words that look like options, and over SSH there are no others.
#[derive(Debug, clap::Args)]
pub struct PermsArgs {
    /// The roles as they are
    #[arg(short = 'l')]
    list: bool,
    /// With -l: what each role may do
    #[arg(short = 'r', requires = "list")]
    rules: bool,
    #[command(flatten)]
    args: Args,
}

impl PermsArgs {
    pub fn into_words(mut self) -> Args {
        if self.list {
            self.args.words.push(if self.rules { "-lr" } else { "-l" }.to_owned());
        }
        self.args
    }
}

pub fn run(noun: &str, args: Args) -> anyhow::Result<ExitCode> {
    let words = std::iter::once(noun.to_owned()).chain(args.words).collect();
    send(args.data, args.config, words)
}

/// Sends the words to the daemon and prints its answer.
pub(super) fn send(data: Option<PathBuf>, config: Option<PathBuf>, words: Vec<String>) -> anyhow::Result<ExitCode> {
    let data = std::path::absolute(data.unwrap_or_else(|| DataDir::by_default().path().to_owned()))?;
    let config = Config::load(&std::path::absolute(Config::locate(config, &data))?)?;
    let mut code = None;
    let mut trouble = None;
    // A mirror push by hand may copy gigabytes; the daemon ends the wait.
    client::knock(&config.admin_socket.path, Ask::Command(words), None, |answer| {
        let printed = match answer {
            Answer::Out(text) => std::io::stdout().write_all(text.as_bytes()),
            Answer::Err(text) => std::io::stderr().write_all(text.as_bytes()),
            Answer::Exit(n) => {
                code = u8::try_from(n).ok();
                return true;
            }
            other => {
                trouble = Some(anyhow::anyhow!("the daemon answered something else: {other:?}"));
                return true;
            }
        };
        if let Err(error) = printed {
            trouble = Some(error.into());
        }
        trouble.is_some()
    })?;
    match trouble {
        Some(trouble) => Err(trouble),
        None => Ok(ExitCode::from(code.unwrap_or(1))),
    }
}

/// Tells the daemon of a data directory to read its configuration again; false when none is running.
pub(super) fn reload(data: &Path) -> anyhow::Result<bool> {
    let config = Config::load(&std::path::absolute(Config::locate(None, data))?)?;
    let socket = &config.admin_socket.path;
    if UnixStream::connect(socket).is_err() {
        return Ok(false);
    }
    client::knock(socket, Ask::Reload, Some(Duration::from_secs(30)), |_| true)?;
    Ok(true)
}

//! `gitmesh target`: what opens servers outside the mesh. It changes files that the daemon reads at each attempt, so a
//! running one need not be told.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;

use super::{Refusal, exit, remote};
use crate::admin::DataDir;
use crate::mirror::Credentials;
use crate::model::{HostName, TargetUrl};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: TargetCommand,
    /// The node's data directory
    #[arg(long, value_name = "DIR", global = true)]
    data: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum TargetCommand {
    /// Print the public key that the target is to let in, made at the first call
    Key { name: HostName },
    /// Pin the host's public key: a .pub file, known_hosts lines or what ssh-keyscan prints; '-' reads stdin
    HostKey { name: HostName, file: PathBuf },
    /// Keep the token for an https target, TOKEN or USER:TOKEN in a file; '-' reads stdin
    Token {
        name: HostName,
        file: PathBuf,
        /// The server that it is for, such as https://git.example.org/; it is sent to no other
        #[arg(long = "for", value_name = "URL", value_parser = TargetUrl::parse)]
        url: TargetUrl,
    },
    /// The targets and what is kept for each
    List,
    /// Forget a target's key, host key and token
    Remove { name: HostName },
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let data = args.data.clone().map_or_else(DataDir::by_default, DataDir::new);
    if !data.identity().exists() {
        let text = format!("there is no node in {}; 'gitmesh init' makes one", data.path().display());
        return Err(Refusal::new(exit::CONFIGURATION, text).into());
    }
    let of = |name: &HostName| Credentials::new(&data.targets(), name);
    let tell = |word: &str, name: &HostName| remote::done(data.path(), &["target", word, name.as_str()]);
    match &args.command {
        TargetCommand::Key { name } => {
            print!("{}", of(name).key()?);
            tell("key", name);
            eprintln!(
                "let this key in there; 'gitmesh target host-key {name} FILE' says which key the host itself has"
            );
        }
        TargetCommand::HostKey { name, file } => {
            let pinned = of(name).pin(&read(file)?)?;
            tell("host-key", name);
            eprintln!("{pinned} host keys of '{name}' are pinned; any other is refused");
        }
        TargetCommand::Token { name, file, url } => {
            of(name).set_token(&read(file)?, url)?;
            tell("token", name);
            eprintln!("the token of '{name}' is kept for {}; the file can go", url.http_origin().unwrap_or_default());
        }
        TargetCommand::List => {
            for target in Credentials::all(&data.targets())? {
                println!("{}\t{}", target.name(), target.shown());
            }
        }
        TargetCommand::Remove { name } => {
            if !of(name).forget()? {
                return Err(Refusal::new(exit::NOT_FOUND, format!("nothing is kept for a target '{name}'")).into());
            }
            tell("remove", name);
            eprintln!("what was kept for '{name}' is gone; take its key or token away there too");
        }
    }
    data.give_to_owner(&data.targets())?;
    Ok(ExitCode::SUCCESS)
}

fn read(file: &PathBuf) -> anyhow::Result<String> {
    if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().take(64 << 10).read_to_string(&mut text).context("read standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

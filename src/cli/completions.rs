//! `gitmesh completions`: a script by which a shell completes commands and options.

use std::process::ExitCode;

use clap_complete::Shell;

#[derive(Debug, clap::Args)]
pub struct Args {
    shell: Shell,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    clap_complete::generate(args.shell, &mut super::command(), "gitmesh", &mut std::io::stdout());
    Ok(ExitCode::SUCCESS)
}

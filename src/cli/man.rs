//! `gitmesh man`: the manual, made of what `--help` says.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::control;
use anyhow::Context as _;
use clap::CommandFactory as _;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write gitmesh.1 and a page for each command there; without it, gitmesh(1) is printed
    dir: Option<PathBuf>,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let command = super::command();
    match &args.dir {
        Some(dir) => {
            let sent = super::sent(&super::Cli::command());
            std::fs::create_dir_all(dir)
                .and_then(|()| clap_mangen::generate_to(command, dir))
                .and_then(|()| sent.iter().try_for_each(|(noun, _)| add_grammar(dir, noun)))
                .with_context(|| format!("failed to write man pages into {}", dir.display()))?;
        }
        None => clap_mangen::Man::new(command).render(&mut std::io::stdout())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What 'NOUN -h' and 'help NOUN' tell, line by line as it is (man(7)).
fn add_grammar(dir: &Path, noun: &str) -> std::io::Result<()> {
    let mut page = std::fs::OpenOptions::new().append(true).open(dir.join(format!("gitmesh-{noun}.1")))?;
    let escaped = control::manual(noun).replace('\\', "\\e").replace('-', "\\-");
    let lines = escaped.lines().map(|line| match line.starts_with(['.', '\'']) {
        true => format!("\\&{line}\n"),
        false => format!("{line}\n"),
    });
    write!(page, ".SH COMMANDS\n.nf\n{}.fi\n", lines.collect::<String>())
}

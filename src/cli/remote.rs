//! Commands for the running daemon, in the words of `ssh git@host WORDS`.

use std::io::{IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::{Refusal, exit};
use crate::admin::DataDir;
use crate::config::Config;
use crate::control;
use crate::hook::client;
use crate::hook::wire::{Answer, Ask};

const WORDS: &str = "words";
/// No command takes more input, in bytes; the daemon says so where it is less.
const INPUT_MAX: u64 = (1 << 20) + 1;

/// The words as they are, since over SSH nothing else than the daemon reads them either. Of them `--data DIR` and
/// `--config FILE` are for this program: the node's data directory, and its configuration file if that is not
/// DIR/gitmesh.toml.
pub(super) fn command(noun: &'static str, what: &'static str) -> clap::Command {
    let words = clap::Arg::new(WORDS)
        .num_args(0..)
        .trailing_var_arg(true)
        .allow_hyphen_values(true)
        .help("As below, and '--data DIR' or '--config FILE' for a node that is not the default one");
    let usage = control::usage(&[noun]).unwrap_or_default();
    clap::Command::new(noun).about(what).disable_help_flag(true).arg(words).after_help(usage)
}

/// The words that were given to such a command.
pub(super) fn words(given: &clap::ArgMatches) -> Vec<String> {
    given.get_many::<String>(WORDS).into_iter().flatten().cloned().collect()
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Line {
    data: Option<PathBuf>,
    config: Option<PathBuf>,
    words: Vec<String>,
}

impl Line {
    fn parse(noun: &str, given: Vec<String>) -> Result<Self, Refusal> {
        let mut line = Self { words: vec![noun.to_owned()], ..Self::default() };
        let mut given = given.into_iter();
        while let Some(word) = given.next() {
            let (name, value) = word.split_once('=').map_or((word.as_str(), None), |(n, v)| (n, Some(v.to_owned())));
            let place = match name {
                "--data" => &mut line.data,
                "--config" => &mut line.config,
                _ => {
                    line.words.push(word);
                    continue;
                }
            };
            let value = value.or_else(|| given.next());
            *place = Some(value.ok_or_else(|| Refusal::new(exit::USAGE, format!("{name} needs a path")))?.into());
        }
        Ok(line)
    }
}

pub fn run(noun: &str, given: Vec<String>) -> anyhow::Result<ExitCode> {
    let Line { data, config, words } = Line::parse(noun, given)?;
    if let [about @ .., "-h" | "--help"] = &words.iter().map(String::as_str).collect::<Vec<_>>()[..]
        && let Some(usage) = control::usage(about)
    {
        print!("{usage}");
        return Ok(ExitCode::SUCCESS);
    }
    let mut words = if std::io::stdout().is_terminal() { control::at_a_terminal(words) } else { words };
    let code = send_for_code(&data, &config, words.clone())?;
    if code == control::UNCONFIRMED && std::io::stdin().is_terminal() && confirmed()? {
        words.push("--yes".to_owned());
        return Ok(ExitCode::from(send_for_code(&data, &config, words)?));
    }
    Ok(ExitCode::from(code))
}

/// Asks the person at the terminal, who has just read what it is about.
fn confirmed() -> std::io::Result<bool> {
    std::io::stderr().write_all(b"go on? [y/N] ")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Sends the words to the daemon and prints its answer.
pub(super) fn send(data: Option<PathBuf>, config: Option<PathBuf>, words: Vec<String>) -> anyhow::Result<ExitCode> {
    Ok(ExitCode::from(send_for_code(&data, &config, words)?))
}

fn send_for_code(data: &Option<PathBuf>, config: &Option<PathBuf>, words: Vec<String>) -> anyhow::Result<u8> {
    let data = std::path::absolute(data.clone().unwrap_or_else(|| DataDir::by_default().path().to_owned()))?;
    let config = Config::load(&std::path::absolute(Config::locate(config.clone(), &data))?)?;
    let mut code = None;
    let mut trouble = None;
    // A mirror push by hand may copy gigabytes; the daemon ends the wait.
    let read = control::reads_input(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let ask = if read { Ask::CommandWithInput { input: typed()?, words } } else { Ask::Command(words) };
    client::knock(&config.admin_socket.path, ask, None, |answer| {
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
        None => Ok(code.unwrap_or(1)),
    }
}

/// What is typed or piped into this program.
fn typed() -> anyhow::Result<String> {
    if std::io::stdin().is_terminal() {
        eprintln!("(type the text, and end it with Ctrl-D)");
    }
    let mut text = String::new();
    std::io::stdin().take(INPUT_MAX).read_to_string(&mut text)?;
    Ok(text)
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

/// Tells a running daemon what was done here, for its audit. Nobody needs to be running.
pub(super) fn done(data: &Path, words: &[&str]) {
    let told = Config::locate(None, data);
    let told = std::path::absolute(told).map_err(anyhow::Error::from).and_then(|file| Ok(Config::load(&file)?));
    let Ok(config) = told else { return };
    let words = words.iter().map(|word| (*word).to_owned()).collect();
    let socket = &config.admin_socket.path;
    if UnixStream::connect(socket).is_ok()
        && let Err(error) = client::knock(socket, Ask::Done(words), Some(Duration::from_secs(30)), |_| true)
    {
        eprintln!("warning: the daemon's audit does not know of this: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_words_but_two_are_for_the_daemon() {
        let line = |text: &str| Line::parse("mirror", text.split(' ').map(str::to_owned).collect());
        let parsed = line("status --json --data /d a --config=/c").expect("a line");
        assert_eq!(parsed.words, ["mirror", "status", "--json", "a"]);
        assert_eq!((parsed.data, parsed.config), (Some("/d".into()), Some("/c".into())));
        assert_eq!(line("status --data").map_err(|refusal| refusal.code), Err(exit::USAGE));
    }
}

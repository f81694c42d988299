//! What travels over the local control socket: one request a connection, one line of JSON, then lines of JSON back.

use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};

/// Goes up when a request or an answer changes its meaning; both ends are the same program, but during an upgrade
/// an old hook may knock at a new daemon.
pub const VERSION: u32 = 1;

/// Longest line in bytes: 300,000 updates of a push.
pub const MAX_LINE: u64 = 64 << 20;

/// A request, with the version its sender speaks.
#[derive(Debug, Serialize, Deserialize)]
pub struct Knock {
    pub version: u32,
    pub ask: Ask,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Ask {
    /// git asks, once for all references of a push (githooks(5), proc-receive).
    Judge(Push),
    /// git tells what has landed (githooks(5), post-receive).
    Landed(Push),
    /// A command typed on the machine; the words are those of `ssh git@host WORDS`.
    Command(Vec<String>),
    /// The same, with what was typed or piped into it.
    CommandWithInput { words: Vec<String>, input: String },
    /// Read the configuration and the peers again.
    Reload,
    /// What was done on this machine past the daemon, for its audit: the words of the command.
    Done(Vec<String>),
}

/// One push as a hook sees it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Push {
    /// The secret that the daemon gave to its own git; absent for a push made on the machine by path.
    pub id: Option<String>,
    /// Absolute path of the repository.
    pub dir: String,
    /// All of the push's references or none.
    pub atomic: bool,
    pub options: Vec<String>,
    pub updates: Vec<Update>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Update {
    pub name: String,
    pub old: String,
    pub new: String,
}

/// One line of the answer.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// To `Judge`: for each update, in order, `None` to let git go on or the reason for refusing it. `text` goes to the
    /// pusher's terminal.
    Verdicts { refused: Vec<Option<String>>, text: String },
    /// Output of a command, and what `Landed` tells: text for standard output, in any number of pieces up to `Exit`. Before
    /// `Verdicts`, a sign of life.
    Out(String),
    /// Output of a command for standard error.
    Err(String),
    /// The end of such output, with a command's exit code.
    Exit(i32),
    /// The request itself was refused; the text says why.
    Refused(String),
}

/// Writes one value as a line.
pub fn write_line<T: Serialize>(to: &mut impl Write, value: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    to.write_all(&line)
}

/// Reads one line as a value; `None` at the end of the stream. A line over [`MAX_LINE`] or of another shape is an error.
pub fn read_line<T: for<'de> Deserialize<'de>>(from: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    io::Read::take(from, MAX_LINE).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&line)?))
}

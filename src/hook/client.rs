//! What runs inside git's hook processes. Standard library only: it starts in a millisecond.
//!
//! A hook that cannot reach a verdict refuses the push and says what to do.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::wire::{self, Answer, Ask, Knock, Push, Update};

/// Where the daemon listens; set by the hook scripts and by the daemon, and no secret.
pub const SOCKET_ENV: &str = "GITMESH_SOCKET";
/// The unguessable id of a push that came through one of the daemon's doors.
pub const PUSH_ENV: &str = "GITMESH_PUSH";

/// The daemon says sooner than this that it is at work; judging a push may take longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs the hook `name` as git calls it and returns its exit code.
pub fn run(name: &str) -> ExitCode {
    let done = match name {
        "proc-receive" => proc_receive(&mut io::stdin().lock(), &mut io::stdout().lock()),
        "post-receive" => post_receive(&mut io::stdin().lock()),
        other => Err(io::Error::other(format!("gitmesh has no hook called '{other}'"))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gitmesh: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Sends one request and hands each line of the answer to `each` until it returns true or the answer ends.
pub fn knock(
    socket: &std::path::Path,
    ask: Ask,
    patience: Option<Duration>,
    mut each: impl FnMut(Answer) -> bool,
) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket).map_err(|error| {
        let at = socket.display();
        io::Error::new(
            error.kind(),
            format!("the gitmesh daemon does not answer at {at} ({error}); is 'gitmesh serve' running?"),
        )
    })?;
    stream.set_read_timeout(patience)?;
    stream.set_write_timeout(patience)?;
    wire::write_line(&mut stream, &Knock { version: wire::VERSION, ask })?;
    let mut answers = BufReader::new(stream);
    while let Some(answer) = wire::read_line(&mut answers)? {
        if each(answer) {
            return Ok(());
        }
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the gitmesh daemon hung up without a verdict; push again"))
}

fn socket() -> io::Result<PathBuf> {
    std::env::var_os(SOCKET_ENV)
        .map(PathBuf::from)
        .ok_or_else(|| io::Error::other(format!("{SOCKET_ENV} is not set; reinstall the hooks with 'gitmesh serve'")))
}

fn push(updates: Vec<Update>, atomic: bool, options: Vec<String>) -> io::Result<Push> {
    // git runs its receiving hooks in the repository's directory.
    let dir = std::env::current_dir()?.display().to_string();
    Ok(Push { id: std::env::var(PUSH_ENV).ok(), dir, atomic, options, updates })
}

/// githooks(5), "proc-receive": version 1, all commands in, one report a command out.
fn proc_receive(input: &mut impl Read, output: &mut impl Write) -> io::Result<()> {
    let hello = read_packets(input)?;
    let features = hello.first().and_then(|l| l.split_once('\0')).map_or("", |(_, f)| f).to_owned();
    if !hello.first().is_some_and(|l| l.starts_with("version=1")) {
        return Err(io::Error::other("this git speaks another proc-receive version than 1; upgrade gitmesh"));
    }
    let has = |name: &str| features.split(' ').any(|f| f == name);
    write_packet(output, if has("push-options") { "version=1\0push-options\n" } else { "version=1\n" })?;
    output.write_all(b"0000")?;
    output.flush()?;
    let updates = read_packets(input)?.iter().map(|line| parse_update(line)).collect::<io::Result<Vec<_>>>()?;
    let options = if has("push-options") { read_packets(input)? } else { Vec::new() };
    let names: Vec<String> = updates.iter().map(|u| u.name.clone()).collect();

    let verdicts = socket().and_then(|socket| {
        let mut verdicts = Err(io::Error::other("the gitmesh daemon gave no verdict"));
        knock(&socket, Ask::Judge(push(updates, has("atomic"), options)?), Some(PATIENCE), |answer| {
            verdicts = match answer {
                // It is being judged.
                Answer::Out(text) => {
                    eprint!("{text}");
                    return false;
                }
                Answer::Verdicts { refused, text } if refused.len() == names.len() => {
                    eprint!("{text}");
                    Ok(refused)
                }
                Answer::Refused(why) => Err(io::Error::other(why)),
                other => Err(io::Error::other(format!("the gitmesh daemon answered something else: {other:?}"))),
            };
            true
        })?;
        verdicts
    });
    let refused = verdicts.unwrap_or_else(|error| {
        eprintln!("gitmesh: {error}");
        vec![Some("gitmesh could not judge this push, so it is refused; see above".to_owned()); names.len()]
    });
    for (name, refusal) in names.iter().zip(refused) {
        match refusal {
            Some(why) => write_packet(output, &format!("ng {name} {why}\n"))?,
            None => {
                write_packet(output, &format!("ok {name}\n"))?;
                write_packet(output, "option fall-through\n")?;
            }
        }
    }
    output.write_all(b"0000")?;
    output.flush()
}

/// githooks(5), "post-receive": `old new name` lines in; what is printed reaches the pusher. The daemon says when it is
/// over, for a push may ask to wait for its copies.
fn post_receive(input: &mut impl BufRead) -> io::Result<()> {
    let updates = input.lines().map(|line| parse_update(&line?)).collect::<io::Result<Vec<_>>>()?;
    if updates.is_empty() {
        return Ok(());
    }
    let mut refused = None;
    knock(&socket()?, Ask::Landed(push(updates, false, push_options())?), Some(PATIENCE), |answer| {
        match answer {
            Answer::Out(text) => {
                print!("{text}");
                // What comes next may take a while.
                if let Err(error) = io::stdout().flush() {
                    refused = Some(error.to_string());
                }
                return refused.is_some();
            }
            Answer::Exit(_) => {}
            Answer::Refused(why) => refused = Some(why),
            other => refused = Some(format!("the gitmesh daemon answered something else: {other:?}")),
        }
        true
    })?;
    refused.map_or(Ok(()), |why| Err(io::Error::other(why)))
}

/// githooks(5), "pre-receive" and "post-receive": the options of a push are in the environment.
fn push_options() -> Vec<String> {
    let count = std::env::var("GIT_PUSH_OPTION_COUNT").ok().and_then(|n| n.parse().ok()).unwrap_or(0usize);
    (0..count.min(100)).filter_map(|n| std::env::var(format!("GIT_PUSH_OPTION_{n}")).ok()).collect()
}

fn parse_update(line: &str) -> io::Result<Update> {
    match line.trim_end_matches('\n').splitn(3, ' ').collect::<Vec<_>>()[..] {
        [old, new, name] => Ok(Update { name: name.into(), old: old.into(), new: new.into() }),
        _ => Err(io::Error::other(format!("git told its hook something that is no update: {line:?}"))),
    }
}

fn write_packet(output: &mut impl Write, text: &str) -> io::Result<()> {
    write!(output, "{:04x}{text}", text.len() + 4)
}

/// Reads pkt-lines up to the next flush packet (gitprotocol-common(5)).
fn read_packets(input: &mut impl Read) -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut head = [0; 4];
        input.read_exact(&mut head)?;
        let length = std::str::from_utf8(&head).ok().and_then(|h| usize::from_str_radix(h, 16).ok());
        let body = match length {
            Some(0) => return Ok(lines),
            Some(n @ 4..) => n - 4,
            _ => return Err(io::Error::other("git told its hook something that is no packet")),
        };
        let mut line = vec![0; body];
        input.read_exact(&mut line)?;
        let line = String::from_utf8(line).map_err(|_| io::Error::other("a reference name is not valid UTF-8"))?;
        lines.push(line.trim_end_matches('\n').to_owned());
    }
}

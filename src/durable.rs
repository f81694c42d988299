//! fsync(2) and rename(2): the steps between which a power cut may come, each under a name of its own.
//!
//! Nothing else in the program calls them, so each has a failpoint (`tests/tidy.rs` sees to it), and
//! `tests/failpoints.rs` lets every one of them fail. A name is `room.thing.step`. Other steps that change what is on the
//! disk, such as git's references, have one by [`at`].
//!
//! In builds with debug assertions, and in no others, `GITMESH_FAILPOINTS` names a file, which is read at every step:
//! lines `NAME ACTION` or `NAME ACTION PART`, the latter for paths that contain PART alone. `error` and `full` make the
//! step fail, with EIO and ENOSPC, before it has done anything; `kill` ends the process there as SIGKILL does. A step that
//! was met so adds its line to the file of that name with `.met` at its end.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::LazyLock;

use rustix::io::Errno;

/// Names this run of the program, in eight hexadecimal digits, wherever a file of a run that was killed is to be told
/// from one that is being written. A data directory has one daemon at a time, so what bears another name is nobody's.
pub fn run() -> &'static str {
    static RUN: LazyLock<String> = LazyLock::new(|| format!("{:08x}", rand::random::<u32>()));
    &RUN
}

/// A step that is not one of those below is about to be done to `path`.
#[cfg(not(debug_assertions))]
pub fn at(_name: &'static str, _path: &Path) -> io::Result<()> {
    Ok(())
}

/// A step that is not one of those below is about to be done to `path`.
#[cfg(debug_assertions)]
pub fn at(name: &'static str, path: &Path) -> io::Result<()> {
    armed::at(name, path)
}

/// Something has been done to `path`: the process may end here, and nothing can fail.
pub fn done(name: &'static str, path: &Path) {
    if let Err(error) = at(name, path) {
        tracing::debug!(%error, "a failpoint where only `kill` counts");
    }
}

/// Makes a file's contents, or a directory's names, outlive a power cut.
pub fn sync(name: &'static str, path: &Path) -> io::Result<()> {
    sync_open(name, &File::open(path)?, path)
}

/// As [`sync`], of a file that is open.
pub fn sync_open(name: &'static str, file: &File, path: &Path) -> io::Result<()> {
    at(name, path)?;
    file.sync_all()
}

/// As [`sync_open`], without the file's times (fdatasync(2)).
pub fn sync_data(name: &'static str, file: &File, path: &Path) -> io::Result<()> {
    at(name, path)?;
    file.sync_data()
}

/// Makes all of the file system that `path` is on outlive a power cut (syncfs(2)).
pub fn sync_disk(name: &'static str, path: &Path) -> io::Result<()> {
    at(name, path)?;
    Ok(rustix::fs::syncfs(File::open(path)?)?)
}

/// Gives what is at `from` the name `to`, in one step. That is durable once the directory is synced.
pub fn rename(name: &'static str, from: &Path, to: &Path) -> io::Result<()> {
    at(name, to)?;
    fs::rename(from, to)
}

/// The two change places, in one step.
pub fn exchange(name: &'static str, one: &Path, other: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    at(name, one)?;
    Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}

/// What a user is told when the disk takes nothing: the cause, and whom to ask. `said` is an error with its sources, ours
/// or git's own words; `None` if it is of something else.
pub fn trouble(said: &str) -> Option<&'static str> {
    let is = |errno: rustix::io::Errno, words: &str| {
        said.contains(words) || said.contains(&format!("(os error {})", errno.raw_os_error()))
    };
    if is(Errno::NOSPC, "No space left on device") || is(Errno::DQUOT, "Disk quota exceeded") {
        return Some("the server's disk is full (E0226); tell an administrator to free space on it, then try again");
    }
    is(Errno::ROFS, "Read-only file system").then_some(
        "the server's disk is read-only (E0226); tell an administrator to mount it writable again, then try again",
    )
}

/// How the name of a file that is being written ends.
const NEW: &str = ".new";

/// Removes what an earlier run of the program was writing into `dir` when it was killed.
pub fn sweep_unwritten(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let digits = name.to_str().and_then(|name| name.strip_suffix(NEW)?.rsplit_once('.')).map(|(_, digits)| digits);
        let is_left = |digits: &str| {
            digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit()) && !digits.starts_with(run())
        };
        if digits.is_some_and(is_left) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Puts a file named `name` into `dir`, whole or not at all, also across a power cut.
pub fn write_whole(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let fresh = dir.join(format!("{name}.{}{:08x}{NEW}", run(), rand::random::<u32>()));
    let written = (|| {
        let mut out = File::create_new(&fresh)?;
        out.write_all(text.as_bytes())?;
        sync_open("file.sync", &out, &fresh)?;
        rename("file.rename", &fresh, &dir.join(name))?;
        sync("file.dir", dir)
    })();
    if written.is_err() {
        // A left-over is harmless; the first error is the one to tell.
        drop(fs::remove_file(&fresh));
    }
    written
}

#[cfg(debug_assertions)]
mod armed {
    use std::ffi::OsString;
    use std::fs::{OpenOptions, read_to_string};
    use std::io::{self, Write as _};
    use std::path::Path;
    use std::sync::LazyLock;

    use rustix::io::Errno;
    use rustix::process::{Signal, getpid, kill_process};

    static ORDERS: LazyLock<Option<OsString>> = LazyLock::new(|| std::env::var_os("GITMESH_FAILPOINTS"));

    pub(super) fn at(name: &'static str, path: &Path) -> io::Result<()> {
        let Some(orders) = &*ORDERS else { return Ok(()) };
        let text = read_to_string(orders).unwrap_or_default();
        let path = path.to_string_lossy();
        let action = text.lines().find_map(|line| {
            let mut words = line.split(' ');
            let (named, action) = (words.next()?, words.next()?);
            (named == name && words.next().is_none_or(|part| path.contains(part))).then_some(action)
        });
        let Some(action) = action else { return Ok(()) };
        let mut met = orders.clone();
        met.push(".met");
        OpenOptions::new().create(true).append(true).open(met)?.write_all(format!("{name} {path}\n").as_bytes())?;
        match action {
            "error" => Err(Errno::IO.into()),
            "full" => Err(Errno::NOSPC.into()),
            "kill" => {
                kill_process(getpid(), Signal::KILL)?;
                // The signal ends the process before this returns, or a moment later.
                loop {
                    std::thread::park();
                }
            }
            _ => Err(io::Error::other(format!("{action} is no action of a failpoint"))),
        }
    }
}

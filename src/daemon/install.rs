//! What the daemon writes into its data directory before anything else: git's settings and the hooks.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};

use crate::durable;
use crate::hook;

/// How long a killed daemon's lock is waited for.
const DYING: Duration = Duration::from_secs(2);

/// Makes this the only daemon of the data directory, for as long as the file is held. The kernel gives the lock back
/// (flock(2)) however the daemon ends.
pub(crate) fn lock(data: &Path) -> anyhow::Result<File> {
    let path = data.join("lock");
    let file = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    let begun = Instant::now();
    let mut locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
    // A daemon that was killed just now may still be on its way out.
    while locked == Err(rustix::io::Errno::WOULDBLOCK) && begun.elapsed() < DYING {
        std::thread::sleep(Duration::from_millis(50));
        locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
    }
    match locked {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            bail!("a daemon is running already on {}; 'gitmesh info --data {0}' asks it", data.display())
        }
        Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// A node cannot do without writing: it says so at once, not with the first push.
pub(super) fn is_writable(dirs: [&Path; 2]) -> anyhow::Result<()> {
    for dir in dirs {
        let flags = rustix::fs::statvfs(dir).with_context(|| format!("cannot look at {}", dir.display()))?.f_flag;
        if flags.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
            bail!(
                "the file system of {} is read-only; mount it writable again, then start (a disk that became so by \
                 itself has met an error: see dmesg)",
                dir.display()
            );
        }
    }
    Ok(())
}

/// Puts our hooks where every repository's git looks for them.
pub(super) fn install_hooks(dir: &Path, socket: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    std::fs::create_dir_all(dir)?;
    for (name, script) in hook::SCRIPTS {
        let text = script.replace("PROGRAM", &quote(&program)).replace("SOCKET}", &format!("{}}}", socket.display()));
        let file = dir.join(name);
        write_if_changed(&file, &text)?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

fn quote(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

/// Replaces a file by rename, so that a git that reads it at this moment sees the old or the new one.
pub(super) fn write_if_changed(file: &Path, text: &str) -> anyhow::Result<()> {
    if std::fs::read_to_string(file).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let fresh = file.with_extension("new");
    std::fs::write(&fresh, text)
        .and_then(|()| durable::rename("daemon.install.rename", &fresh, file))
        .with_context(|| format!("cannot write {}", file.display()))
}

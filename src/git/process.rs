//! The one place that starts git: environment, settings, process groups.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use tokio::process::{Child, Command};

use super::service::Service;

/// Oldest git we test with. Every setting and hook we rely on is known since 2.36, when `core.fsync` got components.
pub const MIN_VERSION: (u32, u32) = (2, 39);

/// Bytes of a pack between git and us; the largest pipe that Linux gives everybody (fcntl(2), F_SETPIPE_SZ).
const PACK_PIPE: usize = 1 << 20;

/// How to run git on this machine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Git {
    program: PathBuf,
    /// Our settings as a git configuration file; git reads it as its global one and nothing else from the machine.
    settings: Arc<Path>,
}

/// Why git cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    #[error("cannot run '{program}': {source}; install git {}.{} or newer, or set [git] program", MIN_VERSION.0, MIN_VERSION.1)]
    Missing { program: String, source: io::Error },
    #[error("'{program}' says '{said}', and git {}.{} or newer is needed", MIN_VERSION.0, MIN_VERSION.1)]
    TooOld { program: String, said: String },
}

impl Git {
    /// `settings` is the file that [`settings_text`] describes; it must exist before a process is started.
    pub fn new(program: PathBuf, settings: PathBuf) -> Self {
        Self { program, settings: settings.into() }
    }

    /// The version as git prints it, `2.47.3`, once it is known to be new enough.
    pub async fn version(&self) -> Result<String, GitError> {
        let program = self.program.display().to_string();
        let out = match self.bare_command().arg("version").stdin(Stdio::null()).output().await {
            Ok(out) => out,
            Err(source) => return Err(GitError::Missing { program, source }),
        };
        let said = String::from_utf8_lossy(&out.stdout).trim().to_owned();
        let version = said.strip_prefix("git version ").unwrap_or("").split(' ').next().unwrap_or("").to_owned();
        let mut numbers = version.split('.').map(|n| n.parse::<u32>().unwrap_or(0));
        let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if found < MIN_VERSION { Err(GitError::TooOld { program, said }) } else { Ok(version) }
    }

    fn bare_command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            // git finds its own parts through its exec path; PATH is for the hooks' interpreter.
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", self.settings.as_os_str())
            .env("GIT_TERMINAL_PROMPT", "0");
        command
    }

    /// git for the bare repository at `dir`: no input, and killed when the handle is dropped.
    pub fn command(&self, dir: &Path) -> Command {
        let mut command = self.bare_command();
        command.env("GIT_DIR", dir).current_dir(dir).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Starts one of git's server programs on `dir`, with all three streams piped and a process group of its own.
    ///
    /// `env` comes on top of the cleared environment; `settings` are `-c` pairs for this session alone.
    pub fn serve(&self, service: Service, dir: &Path, env: &[(&str, &str)], settings: &[&str]) -> io::Result<Serving> {
        let mut command = self.bare_command();
        for setting in settings {
            command.arg("-c").arg(setting);
        }
        command.arg(service.subcommand()).arg(AsRef::<OsStr>::as_ref(dir));
        command.envs(env.iter().copied()).current_dir(dir);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let child = command.spawn()?;
        if let Some(stdout) = child.stdout.as_ref().filter(|_| service == Service::UploadPack) {
            // A pack is read in large pieces, so that git and the channel's encryption work at the same time. The
            // kernel grants each user a share of such pipes; past it the usual 64 KiB do as well.
            if let Err(error) = rustix::pipe::fcntl_setpipe_size(stdout, PACK_PIPE) {
                tracing::debug!(%error, "a pack's pipe stays small");
            }
        }
        Ok(Serving { child })
    }
}

/// A server program of git's at work. Dropped before it has ended, it is killed with all its children: a session
/// that is gone must leave no git behind.
#[derive(Debug)]
pub struct Serving {
    pub child: Child,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let Some(pid) = self.child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())) else {
            return; // it has ended and been waited for
        };
        if let Err(error) = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL) {
            tracing::debug!(%error, "the git process had ended already");
        }
    }
}

/// The settings that every git process of this node runs with, as the text of a git configuration file.
///
/// `hooks` is the directory of our hooks. Each repository includes this file too, so that a push made on the
/// machine itself, past the daemon's SSH door, meets the same hooks and the same durability.
pub fn settings_text(hooks: &Path, fsck: bool) -> String {
    let hooks = hooks.display();
    format!(
        "\
# Written by gitmesh at each start; edits here are lost.
[core]
	hooksPath = \"{hooks}\"
	# git syncs neither loose objects nor references by default: an acknowledged push must survive a power cut
	fsync = objects,derived-metadata,reference
	fsyncMethod = fsync
[receive]
	# our hook is asked about every reference
	procReceiveRefs = refs
	advertisePushOptions = true
	fsckObjects = {fsck}
	# keep the pack as it came: one file to sync instead of one an object
	unpackLimit = 1
	autogc = false
[transfer]
	hideRefs = refs/gitmesh
[uploadpack]
	allowFilter = true
[gc]
	auto = 0
[maintenance]
	auto = false
[init]
	defaultBranch = main
[safe]
	directory = *
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_version_is_read_and_a_missing_git_says_its_cure() {
        let git = Git::new("git".into(), "/dev/null".into());
        assert!(git.version().await.expect("git is installed").starts_with('2'));
        let error = Git::new("/nonexistent/git".into(), "/dev/null".into()).version().await.expect_err("no such file");
        assert!(error.to_string().contains("[git] program"), "{error}");
    }
}

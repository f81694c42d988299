//! The one place that starts git: environment, settings, process groups.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::service::Service;
use crate::observe::metrics::{self, Histogram, Present};

/// Oldest git we test with. Every setting and hook we rely on is known since 2.36, when `core.fsync` got components.
pub const MIN_VERSION: (u32, u32) = (2, 39);

/// Bytes of a pack between git and us; the largest pipe that Linux gives everybody (fcntl(2), F_SETPIPE_SZ).
const PACK_PIPE: usize = 1 << 20;

/// A git that neither takes nor says anything for so long is stuck. Counting and compressing what a very large repository
/// holds may be silent for many minutes.
pub const SILENT: Duration = Duration::from_secs(3600);

/// Where programs are looked for, by us and by the hooks' interpreters.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The program as a path. With a bare name and a PATH for the child, the standard library forks instead of calling
/// posix_spawn(3), and a fork copies our page tables: milliseconds, growing with all keys and rules in memory.
fn resolve(program: PathBuf) -> PathBuf {
    if program.components().count() > 1 {
        return program;
    }
    let ours = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&ours).chain(std::env::split_paths(PATH));
    places.map(|place| place.join(&program)).find(|path| path.is_file()).unwrap_or(program)
}

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
        Self { program: resolve(program), settings: settings.into() }
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
        self.environment(Command::new(&self.program))
    }

    /// The cleared environment of everything we start.
    fn environment(&self, mut command: Command) -> Command {
        command
            .env_clear()
            // git finds its own parts through its exec path; PATH is for the hooks' interpreter.
            .env("PATH", PATH)
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
            widen(stdout);
        }
        Ok(Serving::new(child, service.subcommand()))
    }

    /// The file of our settings.
    pub fn settings(&self) -> &Path {
        &self.settings
    }

    /// Starts git to answer one request of protocol version 2 (gitprotocol-v2(5)), which is its input.
    pub fn answer(&self, dir: &Path, protocol: &str) -> io::Result<Serving> {
        let mut command = self.bare_command();
        command.args(["upload-pack", "--stateless-rpc"]).arg(dir).env("GIT_PROTOCOL", protocol);
        Self::piped(command, dir, "upload-pack")
    }

    /// Starts git-pack-objects(1) with `arguments`; its input is what they say, its output the pack.
    pub fn pack(&self, dir: &Path, arguments: &[&str]) -> io::Result<Serving> {
        self.start(dir, &[&["pack-objects"], arguments].concat(), &[])
    }

    /// Starts any other of git's programs on the repository at `dir`, with all three streams piped.
    pub fn start(&self, dir: &Path, arguments: &[&str], env: &[(&str, String)]) -> io::Result<Serving> {
        let mut command = self.bare_command();
        command.args(arguments).env("GIT_DIR", dir).envs(env.iter().map(|(name, value)| (name, value)));
        Self::piped(command, dir, arguments.first().copied().unwrap_or_default())
    }

    fn piped(mut command: Command, dir: &Path, program: &str) -> io::Result<Serving> {
        command.current_dir(dir).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn()?;
        if let Some(stdout) = &child.stdout {
            widen(stdout);
        }
        Ok(Serving::new(child, program))
    }

    /// Runs a site's own program in the bare repository at `dir` and waits for it, with `input`, `env` on top of the
    /// cleared environment, and no more than `time` and [`PROGRAM_OUTPUT_MAX`]; beyond either it is killed with its
    /// children. For git to be at hand, it gets our settings and `GIT_DIR`.
    pub async fn run(
        &self,
        program: &Path,
        arguments: &[String],
        dir: &Path,
        env: &[(String, String)],
        input: &[u8],
        time: Duration,
    ) -> Result<Ran, RunError> {
        let mut command = self.environment(Command::new(program));
        command.args(arguments).env("GIT_DIR", dir).envs(env.iter().map(|(k, v)| (k, v))).current_dir(dir);
        run_within(command, input, time, Haste::Usual).await
    }

    /// Runs git on the repository at `dir` for its upkeep: everything else on this machine goes first.
    pub async fn upkeep(&self, dir: &Path, arguments: &[&str], time: Duration) -> Result<Ran, RunError> {
        let mut command = self.bare_command();
        command.args(arguments).env("GIT_DIR", dir).current_dir(dir);
        run_within(command, &[], time, Haste::None).await
    }

    /// As [`Git::run`], for a program that has to do with no repository: it works in `/`.
    pub async fn run_apart(
        &self,
        program: &Path,
        input: &[u8],
        env: &[(String, String)],
        time: Duration,
    ) -> Result<Ran, RunError> {
        let mut command = self.environment(Command::new(program));
        command.envs(env.iter().map(|(k, v)| (k, v))).current_dir("/");
        run_within(command, input, time, Haste::Usual).await
    }
}

/// Whether a program has somebody waiting for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Haste {
    Usual,
    None,
}

/// Starts a program and waits for it, held to the limits that [`Git::run`] tells of.
async fn run_within(mut command: Command, input: &[u8], time: Duration, haste: Haste) -> Result<Ran, RunError> {
    let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut tries = 0;
    let child = loop {
        match command.spawn() {
            Ok(child) => break child,
            // A process forked while the file was written may hold it open for a moment, until it runs its own.
            Err(e) if e.kind() == io::ErrorKind::ExecutableFileBusy && tries < 50 => tries += 1,
            Err(e) => return Err(RunError::Start(e)),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let mut serving = Serving::new(child, "");
    if haste == Haste::None {
        serving.give_way();
    }
    let (Some(out), Some(err)) = (serving.child.stdout.take(), serving.child.stderr.take()) else {
        return Err(RunError::Start(io::ErrorKind::BrokenPipe.into()));
    };
    let given = serving.child.stdin.take();
    let give = async {
        if let Some(mut stdin) = given
            && let Err(error) = stdin.write_all(input).await
        {
            // It need not read what it does not care for.
            tracing::debug!(%error, "a program did not read its input");
        }
        Ok(())
    };
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let read = async {
        tokio::try_join!(give, read_capped(out, &mut stdout), read_capped(err, &mut stderr))?;
        serving.child.wait().await.map_err(RunError::Start)
    };
    let status = tokio::time::timeout(time, read).await.map_err(|_| RunError::Slow)??;
    Ok(Ran { status, stdout, stderr })
}

/// A pack is read in large pieces, so that git and the channel's encryption work at the same time. The kernel grants
/// each user a share of such pipes; past it the usual 64 KiB do as well.
fn widen(stdout: &tokio::process::ChildStdout) {
    if let Err(error) = rustix::pipe::fcntl_setpipe_size(stdout, PACK_PIPE) {
        tracing::debug!(%error, "a pack's pipe stays small");
    }
}

async fn read_capped(from: impl AsyncRead + Unpin, to: &mut Vec<u8>) -> Result<(), RunError> {
    let limit = PROGRAM_OUTPUT_MAX as u64 + 1;
    from.take(limit).read_to_end(to).await.map_err(RunError::Start)?;
    if to.len() > PROGRAM_OUTPUT_MAX { Err(RunError::Loud) } else { Ok(()) }
}

/// Most bytes that a site's own program may print on each of its two outputs.
pub const PROGRAM_OUTPUT_MAX: usize = 1 << 20;

/// What a site's own program did.
#[derive(Debug)]
pub struct Ran {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// Why a site's own program gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("cannot be run: {0}")]
    Start(io::Error),
    #[error("did not end in time")]
    Slow,
    #[error("printed more than {} KiB", PROGRAM_OUTPUT_MAX >> 10)]
    Loud,
}

/// A server program of git's at work. Dropped before it has ended, it is killed with all its children: a session
/// that is gone must leave no git behind.
#[derive(Debug)]
pub struct Serving {
    pub child: Child,
    begun: Instant,
    time: &'static Histogram,
    _present: Present,
}

/// What work in bulk leaves to others: a tenth of a processor's time while they want it (sched(7), "The nice value"),
/// and later turns at the disk, whose priority follows it (ioprio_set(2)).
const NICE: i32 = 10;

impl Serving {
    fn new(child: Child, program: &str) -> Self {
        let (time, present) = (metrics::PROCESS.of(&[program]), metrics::PROCESSES.enter());
        Self { child, begun: Instant::now(), time, _present: present }
    }

    /// Lets everything else on this machine go first, for work that takes long anyway. What git starts for it follows.
    pub fn give_way(&self) {
        let pid = self.child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()));
        if let Err(error) = rustix::process::setpriority_process(pid, NICE) {
            tracing::debug!(%error, "git's priority stays");
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.time.since(self.begun);
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
	# the branch of HEAD is not deleted by a push; said without git's advice, which is for the server's side
	denyDeleteCurrent = refuse
[fetch]
	# what an upstream has is checked as what users push
	fsckObjects = {fsck}
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

    #[tokio::test]
    async fn programs_are_held_to_their_limits() {
        let dir = tempfile::tempdir().expect("a directory");
        let git = Git::new("git".into(), "/dev/null".into());
        let shell = Path::new("/bin/sh");
        let run = async |script: &str, time: u64| {
            let arguments = ["-c".to_owned(), script.to_owned()];
            let env = [("GL_USER".to_owned(), "alice".to_owned())];
            git.run(shell, &arguments, dir.path(), &env, b"", Duration::from_millis(time)).await
        };
        let ran = run("echo $GL_USER; env | wc -l; echo no >&2; exit 3", 10_000).await.expect("it runs");
        assert_eq!(ran.status.code(), Some(3));
        let out = String::from_utf8_lossy(&ran.stdout).into_owned();
        let (user, variables) = out.split_once('\n').expect("two lines");
        assert!(user == "alice" && variables.trim().parse::<u32>().expect("a number") < 12, "{out}");
        assert_eq!(ran.stderr, b"no\n");
        assert!(matches!(run("sleep 100", 50).await, Err(RunError::Slow)));
        assert!(matches!(
            run("while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done", 60_000).await,
            Err(RunError::Loud)
        ));
        let cat = Path::new("/bin/cat");
        let told = git.run_apart(cat, b"input", &[], Duration::from_secs(10)).await.expect("it runs");
        assert_eq!(told.stdout, b"input");
        let deaf = git.run_apart(Path::new("/bin/true"), &[b'x'; 1 << 20], &[], Duration::from_secs(10)).await;
        assert!(deaf.expect("it runs").status.success(), "a program need not read");
        let missing = git.run(Path::new("/nonexistent"), &[], dir.path(), &[], b"", Duration::from_secs(1)).await;
        assert!(matches!(missing, Err(RunError::Start(_))));
    }
}

//! A node: a data directory and the daemon on it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::time::{DEADLINE, within};
use super::{Actor, Answer, Ground};

/// Cheap to clone; the same node.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    ground: Weak<Ground>,
    dir: PathBuf,
    name: String,
    port: u16,
    child: Mutex<Option<Child>>,
    errors_expected: AtomicBool,
}

impl Node {
    pub(super) fn init(ground: &Arc<Ground>, name: &str, admin: &Actor) -> Self {
        let node = Self::new(ground, name);
        let key = admin.public_key().display().to_string();
        node.init_with(&["--admin", admin.name(), "--admin-key", &key]).succeeds();
        node
    }

    /// A name and a port; nothing is on disk yet.
    pub(super) fn new(ground: &Arc<Ground>, name: &str) -> Self {
        let inner = Inner {
            ground: Arc::downgrade(ground),
            dir: ground.dir.clone(),
            name: name.to_owned(),
            port: free_port(),
            child: Mutex::new(None),
            errors_expected: AtomicBool::new(false),
        };
        Self(Arc::new(inner))
    }

    /// `gitmesh init` with this node's name and port; ssh knows its key then.
    #[must_use]
    #[track_caller]
    pub fn init_with(&self, args: &[&str]) -> Answer {
        let listen = format!("127.0.0.1:{}", self.port());
        let done = self.gitmesh(&[&["init", "--name", self.name(), "--listen", &listen], args].concat());
        self.is_known();
        done
    }

    /// ssh knows the node's name and key, if it has one by now.
    pub fn is_known(&self) {
        if self.public_key().exists() {
            self.ground().trust(&format!("[127.0.0.1]:{}", self.port()), &self.public_key());
            self.ground().name_host(self.name(), self.port());
        }
    }

    fn ground(&self) -> Arc<Ground> {
        self.0.ground.upgrade().expect("a node is used while its world is there")
    }

    pub fn name(&self) -> &str {
        &self.0.name
    }

    pub fn port(&self) -> u16 {
        self.0.port
    }

    pub fn socket_address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.0.port).into()
    }

    pub fn data(&self) -> PathBuf {
        self.0.dir.join(&self.0.name)
    }

    pub fn public_key(&self) -> PathBuf {
        self.data().join(format!("{}.pub", self.0.name))
    }

    pub fn repo_dir(&self, repo: &str) -> PathBuf {
        self.data().join("repositories").join(format!("{repo}.git"))
    }

    /// The repository is gone from one moment to the next, also while the node works in it: a removal file by file would
    /// meet files that are being made.
    pub fn lose_repo(&self, repo: &str) {
        let lost = self.data().join(format!("lost-{}", repo.replace('/', "-")));
        std::fs::rename(self.repo_dir(repo), lost).expect("the repository is there to be lost");
    }

    pub fn has_repo(&self, repo: &str) -> bool {
        self.repo_dir(repo).join("HEAD").exists()
    }

    /// Changes `gitmesh.toml`: the line of `key`, which is in the file that `init` wrote, becomes `key = value`. A key that
    /// several tables have is written `TABLE.KEY`.
    pub fn set(&self, key: &str, value: &str) {
        let path = self.data().join("gitmesh.toml");
        let text = fs::read_to_string(&path).expect("written by init");
        let (table, key) = key.split_once('.').map_or((String::new(), key), |(table, key)| (format!("[{table}]"), key));
        let (before, after) = text.split_at(text.find(&table).unwrap_or_else(|| panic!("no {table} in {text}")));
        let line = after.lines().find(|l| l.split('=').next().is_some_and(|k| k.trim() == key));
        let line = line.unwrap_or_else(|| panic!("no {key} in {text}"));
        fs::write(&path, before.to_owned() + &after.replacen(line, &format!("{key} = {value}"), 1)).expect("writable");
    }

    /// Starts the daemon and waits until it answers as an SSH server.
    #[track_caller]
    pub fn start(&self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_path()).expect("a log");
        let mut command = self.ground().command(env!("CARGO_BIN_EXE_gitmesh"));
        command.arg("serve").arg("--data").arg(self.data()).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a file")).stderr(log).env("GITMESH_FAILPOINTS", self.failpoints());
        let child = command.spawn().expect("the daemon starts");
        let before = self.0.child.lock().unwrap().replace(child);
        assert!(before.is_none(), "{} is running already", self.0.name);
        let answers = within(DEADLINE, || self.greets() || !self.is_running());
        if !answers || !self.is_running() {
            panic!("{} did not start:\n{}", self.0.name, self.log());
        }
    }

    fn failpoints(&self) -> PathBuf {
        self.0.dir.join(format!("{}.failpoints", self.0.name))
    }

    /// Steps of the daemon, and of `gitmesh` on its machine, fail from now on; see `src/durable.rs` for the lines.
    pub fn fails_at(&self, lines: &[String]) {
        let met = self.failpoints().with_extension("failpoints.met");
        fs::write(met, "").expect("writable");
        let fresh = self.failpoints().with_extension("fresh");
        fs::write(&fresh, lines.join("\n")).and_then(|()| fs::rename(&fresh, self.failpoints())).expect("writable");
    }

    /// No step fails any more.
    pub fn fails_nowhere(&self) {
        fs::remove_file(self.failpoints()).expect("they were set");
    }

    /// The steps that were met since they were told to fail, each with its path.
    pub fn failed_at(&self) -> Vec<String> {
        let met = fs::read_to_string(self.failpoints().with_extension("failpoints.met")).unwrap_or_default();
        met.lines().map(str::to_owned).collect()
    }

    /// Whether an SSH server answers at the port.
    pub fn greets(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(self.socket_address()) else { return false };
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("not zero");
        let mut hello = [0; 4];
        stream.read_exact(&mut hello).is_ok() && hello == *b"SSH-"
    }

    pub fn is_running(&self) -> bool {
        let mut child = self.0.child.lock().unwrap();
        child.as_mut().is_some_and(|c| c.try_wait().expect("our child").is_none())
    }

    pub fn signal(&self, signal: Signal) {
        let child = self.0.child.lock().unwrap();
        let child = child.as_ref().expect("a running daemon");
        kill_process(Pid::from_child(child), signal).expect("our child");
    }

    /// Lets the running daemon open fewer files (setrlimit(2), RLIMIT_NOFILE).
    pub fn limit_files(&self, most: u32) {
        let pid = self.0.child.lock().unwrap().as_ref().expect("a running daemon").id();
        let mut prlimit = self.ground().command("prlimit");
        prlimit.args([format!("--pid={pid}"), format!("--nofile={most}:{most}")]);
        Answer::of(prlimit).succeeds();
    }

    /// As a power cut, for the daemon alone.
    pub fn kill9(&self) {
        if let Some(mut child) = self.0.child.lock().unwrap().take() {
            child.kill().expect("our child");
            child.wait().expect("our child");
        }
    }

    /// As a power cut, for the daemon and every git that works for it.
    pub fn power_cut(&self) {
        // The daemon first, or it would see its children end and report that.
        self.kill9();
        let data = self.data().display().to_string();
        for process in self.ground().processes().iter().filter(|process| process.contains(&data)) {
            let pid = process.split(' ').next().and_then(|pid| Pid::from_raw(pid.parse().ok()?));
            // It may have ended by itself.
            let _ = kill_process(pid.expect("a process id"), Signal::KILL);
        }
    }

    /// Asks the daemon to end, and waits for it; it must end well.
    #[track_caller]
    pub fn stop(&self) {
        if self.0.child.lock().unwrap().is_none() {
            return;
        }
        if self.is_running() {
            self.signal(Signal::TERM);
        }
        self.ended_well();
    }

    /// Waits for the daemon's end after a signal.
    #[track_caller]
    pub fn ended_well(&self) {
        if !within(DEADLINE + Duration::from_secs(15), || !self.is_running()) {
            self.kill9();
            panic!("{} did not stop:\n{}", self.0.name, self.log());
        }
        let status = self.0.child.lock().unwrap().take().expect("there is one").wait().expect("our child");
        assert!(status.success(), "{} ended with {status}:\n{}", self.0.name, self.log());
    }

    /// The binary under test with `--data` of this node.
    #[must_use]
    pub fn gitmesh(&self, args: &[&str]) -> Answer {
        let data = self.data().display().to_string();
        let mut command = self.ground().command(env!("CARGO_BIN_EXE_gitmesh"));
        command.args(args).args(["--data", &data]).env("GITMESH_FAILPOINTS", self.failpoints());
        Answer::of(command)
    }

    /// `gitmesh` on this machine, for another data directory or for none.
    #[must_use]
    pub fn gitmesh_for_another(&self, args: &[&str]) -> Answer {
        let mut command = self.ground().command(env!("CARGO_BIN_EXE_gitmesh"));
        command.args(args).env("GITMESH_FAILPOINTS", self.failpoints());
        Answer::of(command)
    }

    #[must_use]
    pub fn add_peer(&self, public_key: &Path, address: &str) -> Answer {
        self.gitmesh(&["add-mirroring-peer", &public_key.display().to_string(), "--address", address])
    }

    /// An invitation by this node, as a word.
    #[track_caller]
    pub fn token(&self, args: &[&str]) -> String {
        self.gitmesh(&[&["peer", "token"], args].concat()).succeeds().stdout.trim().to_owned()
    }

    /// git on this machine, past every door: what a person at the server's shell does.
    #[must_use]
    pub fn git(&self, repo: &str, args: &[&str]) -> Answer {
        let mut command = self.ground().command("git");
        command.arg("--git-dir").arg(self.repo_dir(repo)).args(args);
        Answer::of(command)
    }

    /// References on disk, by name; none if there is no such repository.
    pub fn refs(&self, repo: &str) -> BTreeMap<String, String> {
        if !self.has_repo(repo) {
            return BTreeMap::new();
        }
        let listed = self.git(repo, &["for-each-ref", "--format=%(refname) %(objectname)"]);
        // It may go between two looks, when a rename puts another one in its place.
        if listed.code != Some(0) && listed.stderr.contains("not a git repository") {
            return BTreeMap::new();
        }
        let out = listed.succeeds().stdout;
        out.lines().filter_map(|l| l.split_once(' ')).map(|(r, o)| (r.to_owned(), o.to_owned())).collect()
    }

    /// The object of one reference.
    pub fn oid(&self, repo: &str, reference: &str) -> Option<String> {
        self.refs(repo).get(reference).cloned()
    }

    pub fn head(&self, repo: &str) -> String {
        fs::read_to_string(self.repo_dir(repo).join("HEAD")).unwrap_or_default().trim().to_owned()
    }

    /// The most memory that the daemon has taken so far, in bytes (proc(5), VmHWM).
    #[track_caller]
    pub fn peak_memory(&self) -> u64 {
        let pid = self.0.child.lock().unwrap().as_ref().expect("a running daemon").id();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak.and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
    }

    /// The value of one of the metrics that the daemon tells, labels included; below 0 if there is none.
    pub fn metrics(&self, sample: &str) -> f64 {
        let text = self.gitmesh(&["metrics"]).succeeds().stdout;
        let value = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or(-1.0)
    }

    /// Every object of the repository is there and sound. git takes a pack that goes while it begins, rolled up with
    /// others, for a damage; a real one stays.
    #[track_caller]
    pub fn is_sound(&self, repo: &str) {
        let check = || self.git(repo, &["fsck", "--full", "--strict", "--no-dangling"]);
        if !within(Duration::from_secs(5), || check().code == Some(0)) {
            check().succeeds();
        }
    }

    /// This test makes the daemon log an ERROR.
    pub fn expect_errors(&self) {
        self.0.errors_expected.store(true, Ordering::SeqCst);
    }

    fn log_path(&self) -> PathBuf {
        self.0.dir.join(format!("{}.log", self.0.name))
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub(super) fn print_log(&self) {
        let log = self.log();
        let skipped = log.lines().count().saturating_sub(150);
        eprintln!("=== log of {} (without the first {skipped} lines)", self.0.name);
        log.lines().skip(skipped).for_each(|line| eprintln!("{line}"));
    }

    #[track_caller]
    pub(super) fn check_log(&self) {
        let log = self.log();
        let expected = self.0.errors_expected.load(Ordering::SeqCst);
        let is_bad = |l: &&str| l.contains("panicked at") || (!expected && l.contains("\"level\":\"ERROR\""));
        let bad: Vec<_> = log.lines().filter(is_bad).collect();
        assert!(bad.is_empty(), "{} logged what a person must act on: {bad:#?}", self.0.name);
    }
}

/// A port nobody listens at, below those that the kernel gives to clients, so that a daemon gets it again after a
/// restart.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 10_000 + (std::process::id() % 200) as u16 * 100;
    loop {
        let port = start + NEXT.fetch_add(1, Ordering::Relaxed) % 2_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

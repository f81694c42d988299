//! A plain git server: OpenSSH's sshd and git-shell, as somebody without any of our software has it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{DEADLINE, Ground, World, free_port, within};

/// An sshd on loopback that lets one key in, and its directory of bare repositories.
pub struct PlainServer {
    child: Child,
    port: u16,
    dir: PathBuf,
    user: String,
}

impl World {
    /// `None`, with a word, where there is no sshd: `scripts/install-deps` names its package.
    pub fn plain_server(&self, allowed: &str) -> Option<PlainServer> {
        Some(PlainServer::start(&self.ground, find()?, allowed))
    }
}

/// The machine's sshd, or a word on what is skipped without it.
pub(super) fn find() -> Option<&'static str> {
    let sshd = ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/usr/bin/sshd"].into_iter().find(|p| Path::new(p).exists());
    if sshd.is_none() {
        eprintln!("skipped: there is no sshd on this machine (Debian: openssh-server)");
    }
    sshd
}

/// Whom sshd lets in: the user that the tests run as.
pub(super) fn own_name() -> String {
    let id = Command::new("id").arg("-un").output().expect("id runs").stdout;
    String::from_utf8_lossy(&id).trim().to_owned()
}

/// Starts an sshd on loopback with a new host key in `dir`, which lets in whom `keys` in `dir` names, with `env`.
pub(super) fn spawn(ground: &Ground, sshd: &str, dir: &Path, keys: &str, env: &str) -> (Child, u16) {
    let shown = dir.display();
    let mut keygen = ground.command("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.join("host"));
    assert!(keygen.status().expect("ssh-keygen runs").success());
    let port = free_port();
    let config = format!(
        "ListenAddress 127.0.0.1\nPort {port}\nHostKey {shown}/host\nPidFile none\nUsePAM no\nStrictModes no\n\
         PasswordAuthentication no\nKbdInteractiveAuthentication no\nAuthorizedKeysFile {shown}/{keys}\n\
         AcceptEnv GIT_PROTOCOL\nPermitRootLogin yes\nSetEnv GIT_CONFIG_NOSYSTEM=1 {env}\n"
    );
    fs::write(dir.join("sshd_config"), config).expect("writable");
    if rustix::process::geteuid().is_root() {
        // Where it drops its rights; Debian's unit makes it.
        fs::create_dir_all("/run/sshd").expect("root may");
    }
    let mut command = Command::new(sshd);
    command.arg("-D").arg("-f").arg(dir.join("sshd_config")).arg("-E").arg(dir.join("log"));
    let child = command.stdin(Stdio::null()).spawn().expect("sshd starts");
    let up = within(DEADLINE, || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    assert!(up, "sshd answers: {}", fs::read_to_string(dir.join("log")).unwrap_or_default());
    (child, port)
}

impl PlainServer {
    fn start(ground: &Ground, sshd: &str, allowed: &str) -> Self {
        let dir = ground.dir.join("plain");
        fs::create_dir_all(&dir).expect("writable");
        // The key opens git's services and nothing else, whatever shell the user has.
        let shell = "command=\"git-shell -c \\\"$SSH_ORIGINAL_COMMAND\\\"\",restrict";
        fs::write(dir.join("authorized_keys"), format!("{shell} {}\n", allowed.trim())).expect("writable");
        fs::write(dir.join("gitconfig"), "[safe]\n\tdirectory = *\n").expect("writable");
        let env = format!("GIT_CONFIG_GLOBAL={}/gitconfig", dir.display());
        let (child, port) = spawn(ground, sshd, &dir, "authorized_keys", &env);
        Self { child, port, dir, user: own_name() }
    }

    pub fn host_key(&self) -> PathBuf {
        self.dir.join("host.pub")
    }

    /// Shows another host key from the next connection on.
    pub fn url(&self, repo: &str) -> String {
        format!("ssh://{}@127.0.0.1:{}{}/{repo}.git", self.user, self.port, self.dir.display())
    }

    pub fn dir(&self, repo: &str) -> PathBuf {
        self.dir.join(format!("{repo}.git"))
    }
}

impl Drop for PlainServer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

//! `gitmesh demo`: two nodes in a temporary directory, made only with the public commands, and a push that arrives.
//!
//! Each command is printed as one could type it and then run for real, with the machine's own git and ssh.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

/// Nothing in the demonstration takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Stop and clean up at the end instead of staying up
    #[arg(long)]
    once: bool,
    /// Where to put the two nodes; a new temporary directory if absent
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let dir = match args.dir {
        Some(dir) => dir,
        None => std::env::temp_dir().join(format!("gitmesh-demo-{}", std::process::id())),
    };
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut stage = Stage::new(dir.canonicalize()?)?;
    stage.play()?;
    if args.once {
        let dir = stage.dir.clone();
        drop(stage);
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    stage.stay()?;
    Ok(ExitCode::SUCCESS)
}

/// The directory, the two ports and the processes of a demonstration.
struct Stage {
    dir: PathBuf,
    program: PathBuf,
    ports: [u16; 2],
    nodes: Vec<Child>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            let pid = rustix::process::Pid::from_child(node);
            let ended = rustix::process::kill_process(pid, rustix::process::Signal::TERM).map_err(std::io::Error::from);
            if let Err(error) = ended.and_then(|()| node.wait().map(drop)) {
                eprintln!("cannot stop a node of the demonstration: {error}");
            }
        }
    }
}

impl Stage {
    fn new(dir: PathBuf) -> anyhow::Result<Self> {
        // Both ports are held until both are known, so that they differ.
        let free = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
        let ports = [free[0].local_addr()?.port(), free[1].local_addr()?.port()];
        Ok(Self { dir, program: std::env::current_exe()?, ports, nodes: Vec::new() })
    }

    fn play(&mut self) -> anyhow::Result<()> {
        let [port1, port2] = self.ports;
        say(&format!("Two git servers on this machine, in {}", self.dir.display()));
        self.shell(&format!("cd {}", self.dir.display()))?;
        self.shell("ssh-keygen -q -t ed25519 -N '' -C alice -f alice")?;
        self.write_ssh_config()?;
        self.shell(&format!("export GIT_SSH_COMMAND='ssh -F {}/ssh_config'", self.dir.display()))?;

        say("Make two nodes. Alice administers both.");
        for (name, port) in [("server1", port1), ("server2", port2)] {
            self.shell(&format!("gitmesh init --data {name} --name {name} --admin alice --admin-key alice.pub --listen 127.0.0.1:{port} >{name}.init"))?;
        }
        say("Let each know the other: one public key a node is all it takes.");
        self.shell(&format!(
            "gitmesh add-mirroring-peer --data server1 server2/server2.pub --address git@127.0.0.1:{port2}"
        ))?;
        self.shell(&format!(
            "gitmesh add-mirroring-peer --data server2 server1/server1.pub --address git@127.0.0.1:{port1}"
        ))?;
        for name in ["server1", "server2"] {
            self.serve(name)?;
        }
        say("The nodes greet each other with their own keys, and Alice with hers.");
        self.shell("ssh -F ssh_config -i server1/identity server2 info")?;
        self.shell("ssh -F ssh_config -i server2/identity server1 info")?;
        self.shell("ssh -F ssh_config server1")?;

        say("Configure: 'testing' lives on server1 and is copied to server2. Configuration is a git repository.");
        for name in ["server2", "server1"] {
            self.shell(&format!("git clone -q ssh://{name}/gitmesh-admin admin-{name}"))?;
            let conf = self.dir.join(format!("admin-{name}/conf/gitmesh.conf"));
            let text = "repo gitmesh-admin\n    RW+ = alice\n\nrepo testing\n    RW+ = @all\n    option mirror.master = server1\n    option mirror.copies = server2\n";
            fs::write(&conf, text)?;
            if name == "server2" {
                self.shell(&format!("cat admin-{name}/conf/gitmesh.conf"))?;
            }
            self.shell(&format!(
                "git -C admin-{name} {COMMITTER} commit -qam 'testing: mirrored from server1 to server2'"
            ))?;
            self.shell(&format!("git -C admin-{name} push -q"))?;
        }

        say("Push a commit to server1.");
        self.shell("git clone -q ssh://server1/testing work")?;
        fs::write(self.dir.join("work/README"), "hello, mesh\n")?;
        self.shell("git -C work add README")?;
        self.shell(&format!("git -C work {COMMITTER} commit -qm 'hello, mesh'"))?;
        self.shell("git -C work push origin HEAD:main")?;
        let pushed = Instant::now();
        let wanted = self.capture("git -C work rev-parse HEAD")?;
        self.wait_for(&wanted, pushed)?;
        self.shell("git clone -q ssh://server2/testing copy")?;
        self.shell("git -C copy log --oneline")?;
        ensure!(self.capture("git -C copy rev-parse HEAD")? == wanted, "server2 holds another commit than was pushed");

        say("A copy takes updates from its master alone, and says where to push.");
        self.refused(&format!("git -C copy {COMMITTER} commit -q --allow-empty -m 'in the wrong place'"), None)?;
        self.refused("git -C copy push origin HEAD:main", Some("this is a copy; push to server1"))?;

        say("A configuration that is wrong is refused, and nothing changes.");
        fs::write(
            self.dir.join("admin-server1/conf/gitmesh.conf"),
            "repo gitmesh-admin\n    RW+ = alice\n\nrepo testing\n    RW+ = @all @devs!\n",
        )?;
        self.refused(&format!("git -C admin-server1 {COMMITTER} commit -qam 'with a mistake'"), None)?;
        self.refused("git -C admin-server1 push -q", Some("FATAL"))?;
        say("Done: one push, two copies, no database.");
        Ok(())
    }

    /// ssh's settings for the demonstration: the two nodes by name, and no file of the user's touched.
    fn write_ssh_config(&self) -> anyhow::Result<()> {
        let dir = self.dir.display();
        let mut text = String::new();
        for (name, port) in [("server1", self.ports[0]), ("server2", self.ports[1])] {
            text.push_str(&format!("Host {name}\n  HostName 127.0.0.1\n  Port {port}\n"));
        }
        text.push_str(&format!(
            "Host *\n  User git\n  IdentityFile {dir}/alice\n  IdentitiesOnly yes\n  UserKnownHostsFile {dir}/known_hosts\n  StrictHostKeyChecking accept-new\n  LogLevel ERROR\n"
        ));
        fs::write(self.dir.join("ssh_config"), text)?;
        println!("# ssh_config names the two nodes and Alice's key");
        Ok(())
    }

    fn serve(&mut self, name: &str) -> anyhow::Result<()> {
        println!("$ gitmesh serve --data {name} 2>{name}.log &");
        let log = fs::File::create(self.dir.join(format!("{name}.log")))?;
        let mut command = Command::new(&self.program);
        command.args(["serve", "--data", name]).current_dir(&self.dir).stdin(Stdio::null()).stderr(log);
        self.nodes.push(command.spawn()?);
        let socket = self.dir.join(name).join("control.sock");
        self.until(&format!("{name} did not start"), || std::os::unix::net::UnixStream::connect(&socket).is_ok())
    }

    /// Polls until `done`, under a deadline; a node's log says what went wrong.
    fn until(&self, otherwise: &str, mut done: impl FnMut() -> bool) -> anyhow::Result<()> {
        let begun = Instant::now();
        while !done() {
            if begun.elapsed() > PATIENCE {
                for name in ["server1", "server2"] {
                    eprintln!("{}", fs::read_to_string(self.dir.join(format!("{name}.log"))).unwrap_or_default());
                }
                bail!("{otherwise} within {} s", PATIENCE.as_secs());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn wait_for(&self, commit: &str, pushed: Instant) -> anyhow::Result<()> {
        println!("# wait until server2 has it");
        let replica = self.dir.join("server2/repositories/testing.git/refs/heads/main");
        self.until("server2 did not get the push", || fs::read_to_string(&replica).is_ok_and(|t| t.trim() == commit))?;
        println!("# server2 has it, {} ms after the push returned", pushed.elapsed().as_millis());
        Ok(())
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("sh");
        let path = format!(
            "{}:{}",
            self.program.parent().unwrap_or(Path::new("/")).display(),
            std::env::var("PATH").unwrap_or_default()
        );
        command.args(["-c", line]).current_dir(&self.dir).stdin(Stdio::null()).env("PATH", path);
        command.env("GIT_SSH_COMMAND", format!("ssh -F {}/ssh_config", self.dir.display()));
        // The person's own git configuration (signing, hooks, aliases) is not part of the show.
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        command
    }

    fn shell(&self, line: &str) -> anyhow::Result<()> {
        println!("$ {line}");
        let status = self.command(line).status()?;
        ensure!(status.success(), "'{line}' failed: {status}");
        Ok(())
    }

    fn capture(&self, line: &str) -> anyhow::Result<String> {
        let Output { status, stdout, .. } = self.command(line).output()?;
        ensure!(status.success(), "'{line}' failed: {status}");
        Ok(String::from_utf8(stdout)?.trim().to_owned())
    }

    /// Runs a command that must be refused with `words` among its text, or one without a say in it (`None`).
    fn refused(&self, line: &str, words: Option<&str>) -> anyhow::Result<()> {
        let Some(words) = words else { return self.shell(line) };
        println!("$ {line}");
        let Output { status, stdout, stderr } = self.command(line).output()?;
        let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        print!("{text}");
        ensure!(!status.success() && text.contains(words), "'{line}' should have been refused with '{words}'");
        Ok(())
    }

    fn stay(&mut self) -> anyhow::Result<()> {
        say("Both nodes stay up. Try, in another terminal:");
        println!("cd {}", self.dir.display());
        println!("export GIT_SSH_COMMAND='ssh -F {}/ssh_config'", self.dir.display());
        println!("ssh -F ssh_config server2 info");
        println!("{} mirror status --data server1", self.program.display());
        println!("tail -f server1.log server2.log");
        println!("\nCtrl-C stops both; the directory stays.");
        for node in &mut self.nodes {
            node.wait()?;
        }
        Ok(())
    }
}

/// An identity for the demonstration's commits.
const COMMITTER: &str = "-c user.name=alice -c user.email=alice@example.com";

fn say(text: &str) {
    println!("\n# {text}");
}

//! A gitolite 3 host: the machine's own gitolite behind an sshd, with a home of its own.

use std::fs;
use std::path::PathBuf;
use std::process::Child;

use super::{Actor, Answer, Ground, World, sshd};

/// With mirroring on, under the host name `gl`.
pub struct Gitolite {
    child: Child,
    port: u16,
    home: PathBuf,
    user: String,
}

impl World {
    /// `None`, with a word, where there is no gitolite 3: no test needs it, and it is not ours to install.
    pub fn gitolite(&self, conf: &str, keys: &[(&str, &str)]) -> Option<Gitolite> {
        let found = std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join("gitolite").exists()));
        if !found {
            eprintln!("skipped: there is no gitolite 3 on this machine (Debian: gitolite3)");
            return None;
        }
        Some(Gitolite::start(&self.ground, sshd::find()?, conf, keys))
    }
}

impl Gitolite {
    fn start(ground: &Ground, sshd: &str, conf: &str, keys: &[(&str, &str)]) -> Self {
        let home = ground.dir.join("gl");
        for dir in [".ssh", ".gitolite/logs", ".gitolite/keydir"] {
            fs::create_dir_all(home.join(dir)).expect("writable");
        }
        let run = |words: &[&str]| {
            let mut command = ground.command("gitolite");
            command.env("HOME", &home).env("USER", "git").args(words);
            Answer::of(command).succeeds().stdout
        };
        let rc = run(&["print-default-rc"]);
        let rc = rc.replace("# HOSTNAME                  =>  \"foo\"", "HOSTNAME => \"gl\"");
        let rc = rc.replace("# 'Mirroring',", "'Mirroring',");
        assert!(rc.contains("HOSTNAME => \"gl\"") && !rc.contains("# 'Mirroring'"), "{rc}");
        fs::write(home.join(".gitolite.rc"), rc).expect("writable");
        run(&["setup", "-a", "nobody"]);
        let admin = home.join(".gitolite");
        for (name, key) in keys {
            fs::write(admin.join(format!("keydir/{name}.pub")), format!("{}\n", key.trim())).expect("writable");
        }
        let conf = format!("repo gitolite-admin\n    RW+ = nobody\n{conf}");
        fs::write(admin.join("conf/gitolite.conf"), conf).expect("writable");
        run(&["compile"]);
        run(&["trigger", "POST_COMPILE"]);
        let env = format!("HOME={}", home.display());
        let (child, port) = sshd::spawn(ground, sshd, &home, ".ssh/authorized_keys", &env);
        ground.trust(&format!("[127.0.0.1]:{port}"), &home.join("host.pub"));
        Self { child, port, home, user: sshd::own_name() }
    }

    pub fn host_key(&self) -> PathBuf {
        self.home.join("host.pub")
    }

    pub fn url(&self, repo: &str) -> String {
        format!("ssh://{}@127.0.0.1:{}/{repo}", self.user, self.port)
    }

    /// Where a repository is on its disk.
    pub fn dir(&self, repo: &str) -> PathBuf {
        self.home.join(format!("repositories/{repo}.git"))
    }

    /// gitolite's own mirror push (`git push --mirror`), from one of its repositories to `url`, with somebody's key.
    pub fn pushes(&self, actor: &Actor, repo: &str, url: &str) -> Answer {
        Answer::of(actor.git_command(&self.dir(repo), &["push", "--mirror", url]))
    }
}

impl Drop for Gitolite {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

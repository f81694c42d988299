//! An actor's working copy.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Actor, Answer, Running};

#[derive(Clone)]
pub struct Checkout {
    actor: Actor,
    pub dir: PathBuf,
}

impl Checkout {
    pub(super) fn new(actor: &Actor, dir: &Path) -> Self {
        Self { actor: actor.clone(), dir: dir.to_owned() }
    }

    #[must_use]
    pub fn git(&self, args: &[&str]) -> Answer {
        Answer::of(self.actor.git_command(&self.dir, args))
    }

    #[must_use]
    pub fn git_with(&self, env: &[(&str, &str)], args: &[&str]) -> Answer {
        let mut command = self.actor.git_command(&self.dir, args);
        command.envs(env.iter().copied());
        Answer::of(command)
    }

    /// Starts git and does not wait for it.
    pub fn begin(&self, args: &[&str]) -> Running {
        Running::start(self.actor.git_command(&self.dir, args))
    }

    pub fn write(&self, file: &str, contents: impl AsRef<[u8]>) {
        let path = self.dir.join(file);
        fs::create_dir_all(path.parent().expect("inside the checkout")).expect("writable");
        fs::write(path, contents).expect("writable");
    }

    /// Writes a file, commits everything and returns the commit.
    #[track_caller]
    pub fn commit(&self, file: &str, contents: impl AsRef<[u8]>) -> String {
        self.write(file, contents);
        self.git(&["add", "-A"]).succeeds();
        self.git(&["commit", "-q", "--allow-empty", "-m", file]).succeeds();
        self.oid("HEAD")
    }

    /// A commit with a file of so many random bytes, which no compression makes smaller.
    #[track_caller]
    pub fn commit_random(&self, file: &str, bytes: usize) -> String {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ std::process::id() as u64;
        let mut contents = Vec::with_capacity(bytes);
        while contents.len() < bytes {
            // xorshift64*, as good as random for zlib
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            contents.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
        }
        self.commit(file, contents)
    }

    #[track_caller]
    pub fn oid(&self, revision: &str) -> String {
        self.git(&["rev-parse", "--verify", revision]).succeeds().stdout.trim().to_owned()
    }

    /// `git push origin WORDS`
    #[must_use]
    pub fn push(&self, words: &[&str]) -> Answer {
        self.git(&[&["push", "origin"], words].concat())
    }

    /// Makes references `PREFIX/0` to `PREFIX/(n-1)` here, all at HEAD.
    pub fn many_refs(&self, prefix: &str, n: usize) {
        let oid = self.oid("HEAD");
        let lines: String = (0..n).map(|i| format!("create {prefix}/{i} {oid}\n")).collect();
        self.write(".git/many", lines);
        let list = fs::File::open(self.dir.join(".git/many")).expect("just written");
        let mut command = self.actor.git_command(&self.dir, &["update-ref", "--stdin"]);
        command.stdin(list);
        Running::start(command).end().succeeds();
    }
}

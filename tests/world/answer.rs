//! What a program printed and how it ended, and the words in which a test judges it.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process_group};

use super::time::{DEADLINE, within};

/// A program that has ended.
#[derive(Debug, Clone)]
pub struct Answer {
    /// For the report of a failed assertion.
    #[expect(dead_code, reason = "read through Debug")]
    command: String,
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A program at work. Dropped, it is killed with its children.
pub struct Running {
    pub child: Child,
    command: String,
    readers: Option<[JoinHandle<String>; 2]>,
}

impl Answer {
    /// Of a program that was heard no further.
    pub fn shown(stdout: String) -> Self {
        Self { command: String::new(), code: Some(0), stdout, stderr: String::new() }
    }

    /// Runs to the end, without input.
    #[track_caller]
    #[must_use]
    pub fn of(mut command: Command) -> Self {
        command.stdin(Stdio::null());
        Running::start(command).end()
    }

    #[track_caller]
    pub fn succeeds(self) -> Self {
        assert!(self.code == Some(0), "should have succeeded: {self:#?}");
        self
    }

    #[track_caller]
    pub fn fails(self) -> Self {
        assert!(self.code != Some(0), "should have failed: {self:#?}");
        self
    }

    /// It failed, and said these words.
    #[track_caller]
    pub fn refused_by(self, words: &str) -> Self {
        self.fails().says(words)
    }

    #[track_caller]
    pub fn says(self, words: &str) -> Self {
        assert!(self.has(words), "should have said {words:?}: {self:#?}");
        self
    }

    #[track_caller]
    pub fn does_not_say(self, words: &str) -> Self {
        assert!(!self.has(words), "should not have said {words:?}: {self:#?}");
        self
    }

    pub fn has(&self, words: &str) -> bool {
        self.stdout.contains(words) || self.stderr.contains(words)
    }

    /// What the server said during a push: the `remote:` lines without the word, and git's verdict on each reference.
    pub fn remote_lines(&self) -> String {
        let mut lines = Vec::new();
        for line in self.stderr.lines().flat_map(|l| l.split('\r')) {
            if let Some(said) = line.strip_prefix("remote:") {
                lines.push(said.strip_prefix(' ').unwrap_or(said).trim_end().to_owned());
            } else if line.starts_with(" ! ") || line.starts_with("fatal: remote error:") {
                lines.push(line.trim_end().to_owned());
            }
        }
        lines.join("\n")
    }
}

impl Running {
    #[track_caller]
    pub fn start(mut command: Command) -> Self {
        let words = format!("{command:?}");
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{words}: {e}"));
        let readers = [reader(child.stdout.take().unwrap()), reader(child.stderr.take().unwrap())];
        Self { child, command: words, readers: Some(readers) }
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("our child").is_some()
    }

    pub fn kill(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let group = Pid::from_child(&self.child);
            kill_process_group(group, Signal::KILL).expect("our own children");
            self.child.wait().expect("our child");
        }
    }

    /// Waits for its end; one that takes longer than the deadline fails the test.
    #[track_caller]
    #[must_use]
    pub fn end(mut self) -> Answer {
        if !within(DEADLINE * 2, || self.has_ended()) {
            self.kill();
            panic!("did not end in time: {}", self.command);
        }
        let code = self.child.wait().expect("our child").code();
        let [stdout, stderr] = self.readers.take().expect("taken once").map(|r| r.join().expect("a reader"));
        Answer { command: std::mem::take(&mut self.command), code, stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

fn reader(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).expect("a pipe");
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

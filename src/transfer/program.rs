//! What git's hooks and a site's own programs are told about a push, and how such a program is run.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::Transfer;
use crate::admin::ProgramCall;
use crate::git::process::Ran;
use crate::model::{Actor, RepoName};

/// One program for one reference.
const PROGRAM_TIME: Duration = Duration::from_secs(20);
/// What a pusher is shown of a program's complaints, in bytes.
const COMPLAINTS_MAX: usize = 4096;

/// The identity of a push as programs see it. They are told it; nothing that they or git say is believed back.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) actor: Actor,
    pub(super) repo: RepoName,
    /// A number that all hooks of one push share (gitolite: the id of its first process).
    pub(super) session: u32,
    pub(super) mirror: bool,
}

impl Transfer {
    /// The variables that gitolite's hooks know (`spec/access-language.md`, section 14), the options `ENV.*` among them.
    pub(super) fn environment(&self, told: &Told) -> Vec<(String, String)> {
        let user = match &told.actor {
            Actor::Node(node) => format!("server-{node}"),
            other => other.to_string(),
        };
        let set = |name: &str, value: String| (name.to_owned(), value);
        let mut variables = vec![
            set("GL_USER", user),
            set("GL_REPO", told.repo.to_string()),
            set("GL_REPO_BASE", self.store.root().display().to_string()),
            set("GL_TID", told.session.to_string()),
        ];
        if told.mirror {
            variables.push(set("GL_BYPASS_ACCESS_CHECKS", "1".to_owned()));
        }
        let options = self.realm.hook_options(&told.repo);
        variables.extend(options.into_iter().map(|(name, value)| (format!("GL_OPTION_{name}"), value)));
        variables
    }

    /// Runs one program of a virtual ref on the pushed objects; its complaints go into `text`. Blocking.
    pub(super) fn run_program(
        &self,
        told: &Told,
        dir: &Path,
        until: Instant,
        call: &ProgramCall,
        text: &mut String,
    ) -> Result<String, String> {
        let name = &call.name;
        let program = self.programs.locate(&self.realm.live().commit, name)?;
        let time = PROGRAM_TIME.min(until.saturating_duration_since(Instant::now()));
        let env = self.environment(told);
        let ran = Handle::current().block_on(self.git.run(&program, &call.arguments, dir, &env, time));
        let Ran { status, stdout, stderr } = ran.map_err(|error| {
            tracing::warn!(%error, program = %program.display(), repo = %told.repo, "a program of a virtual ref failed");
            format!("the program '{name}' {error}; an administrator can see why in the server's log")
        })?;
        let said = String::from_utf8_lossy(&stderr[..stderr.len().min(COMPLAINTS_MAX)]);
        text.extend(said.lines().map(|line| format!("{}\n", line.replace(|c: char| c.is_control(), " "))));
        let stdout = String::from_utf8_lossy(&stdout).into_owned();
        if status.success() {
            return Ok(stdout);
        }
        text.extend(stdout.lines().map(|line| format!("{}\n", line.replace(|c: char| c.is_control(), " "))));
        Err(format!("the program '{name}' refuses this push ({status}); what it says is above"))
    }
}

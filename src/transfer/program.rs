//! What git's hooks and a site's own programs are told about a push, and how such a program is run.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::Transfer;
use crate::admin::{ProgramCall, Purpose};
use crate::git::process::Ran;
use crate::model::{Actor, RefUpdate, RepoName};
use crate::observe::metrics;

/// One program for one reference.
const PROGRAM_TIME: Duration = Duration::from_secs(20);
/// All programs of one hook of a push; git's hook process waits a little longer.
const HOOKS_TIME: Duration = Duration::from_secs(60);
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
        let work = Work { purpose: Purpose::VirtualRef, name: &call.name, arguments: &call.arguments, input: b"" };
        let Ran { status, stdout, stderr } = self.run_site(told, dir, until, &work)?;
        text.push_str(&shown(&stderr));
        if status.success() {
            return Ok(String::from_utf8_lossy(&stdout).into_owned());
        }
        text.push_str(&shown(&stdout));
        Err(format!("the program '{}' refuses this push ({status}); what it says is above", call.name))
    }

    /// Runs the programs that the repository's options name for `hook` (githooks(5)), in their order, up to the first
    /// that fails; all that they say goes into `text`. Blocking.
    pub(super) fn run_hooks(
        &self,
        told: &Told,
        dir: &Path,
        hook: &str,
        updates: &[RefUpdate],
        text: &mut String,
    ) -> Result<(), String> {
        let until = Instant::now() + HOOKS_TIME;
        let lines = updates.iter().map(|RefUpdate { name, old, new }| format!("{old} {new} {name}\n"));
        let (arguments, input) = match hook {
            "post-update" => (updates.iter().map(|update| update.name.to_string()).collect(), String::new()),
            _ => (Vec::new(), lines.collect()),
        };
        for name in self.realm.hook_programs(&told.repo, hook) {
            let begun = Instant::now();
            let work = Work { purpose: Purpose::Hook, name: &name, arguments: &arguments, input: input.as_bytes() };
            let ran = self.run_site(told, dir, until, &work);
            metrics::HOOK.of(&[hook]).since(begun);
            let Ran { status, stdout, stderr } = ran?;
            text.push_str(&shown(&stdout));
            text.push_str(&shown(&stderr));
            if !status.success() {
                return Err(format!("the {hook} hook '{name}' failed ({status})"));
            }
        }
        Ok(())
    }

    fn run_site(&self, told: &Told, dir: &Path, until: Instant, work: &Work<'_>) -> Result<Ran, String> {
        let Work { purpose, name, arguments, input } = *work;
        let program = self.programs.locate(&self.realm.live().commit, purpose, name)?;
        let time = PROGRAM_TIME.min(until.saturating_duration_since(Instant::now()));
        let env = self.environment(told);
        let ran = Handle::current().block_on(self.git.run(&program, arguments, dir, &env, input, time));
        ran.map_err(|error| {
            tracing::warn!(%error, program = %program.display(), repo = %told.repo, "a site's own program failed");
            format!("the program '{name}' {error}; an administrator can see why in the server's log")
        })
    }
}

/// One run of a site's own program.
struct Work<'a> {
    purpose: Purpose,
    name: &'a str,
    arguments: &'a [String],
    input: &'a [u8],
}

/// What a program says, for a terminal: whole lines, without control characters, and not too much of it.
fn shown(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(&said[..said.len().min(COMPLAINTS_MAX)]);
    said.lines().map(|line| format!("{}\n", line.replace(|c: char| c.is_control(), " "))).collect()
}

//! What git's hooks and a site's own programs are told about a push, and how such a program is run.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::Transfer;
use crate::admin::{ProgramCall, Purpose};
use crate::git::process::{Ran, RunError};
use crate::model::{Actor, RefUpdate, RepoName};
use crate::observe::metrics;
use crate::policy::HOOKS;

/// All programs of one hook of a push have so many times what one of them may take.
const PROGRAMS: u32 = 3;
/// What a pusher is shown of a program's complaints, in bytes.
const COMPLAINTS_MAX: usize = 4096;

/// The identity of a push as programs see it. They are told it; nothing that they or git say is believed back.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) actor: Actor,
    pub(super) repo: RepoName,
    pub(super) from: String,
    /// A number that all hooks of one push share (gitolite: the id of its first process).
    pub(super) session: u32,
    pub(super) mirror: bool,
    /// The push's own (git-push(1), `-o`).
    pub(super) options: Vec<String>,
}

/// The programs of one of git's hooks (githooks(5)) that a push is about to meet.
pub(super) struct Hook<'a> {
    told: &'a Told,
    name: &'a str,
    programs: Vec<String>,
    limit: Limit,
    until: Instant,
}

/// How long one program may run, and the setting that says so.
#[derive(Clone, Copy)]
struct Limit {
    time: Duration,
    setting: &'static str,
}

impl Transfer {
    /// What hooks and programs find in their environment, as README.md lists it: gitolite's variables
    /// (`spec/access-language.md`, section 14) with the options `ENV.*` among them, ours, and git's of a push's options.
    pub(super) fn environment(&self, told: &Told) -> Vec<(String, String)> {
        let user = match &told.actor {
            Actor::Node(node) => format!("server-{node}"),
            other => other.to_string(),
        };
        let node = self.cluster.host().to_string();
        let master = match &told.actor {
            Actor::Node(master) if told.mirror => master.to_string(),
            _ => node.clone(),
        };
        let set = |name: &str, value: String| (name.to_owned(), value);
        let mut variables = vec![
            set("HOME", self.programs.home().display().to_string()),
            set("GL_USER", user.clone()),
            set("GL_REPO", told.repo.to_string()),
            set("GL_REPO_BASE", self.store.root().display().to_string()),
            set("GL_TID", told.session.to_string()),
            set("GITMESH_USER", user),
            set("GITMESH_REPO", told.repo.to_string()),
            set("GITMESH_NODE", node),
            set("GITMESH_MASTER", master),
            set("GITMESH_FROM", told.from.clone()),
            set("GITMESH_SESSION", told.session.to_string()),
            set("GIT_PUSH_OPTION_COUNT", told.options.len().to_string()),
        ];
        if let Actor::User { key, .. } = &told.actor {
            variables.push(set("GITMESH_KEY", key.to_string()));
        }
        if told.mirror {
            variables.push(set("GL_BYPASS_ACCESS_CHECKS", "1".to_owned()));
        }
        let given = told.options.iter().enumerate();
        variables.extend(given.map(|(number, text)| (format!("GIT_PUSH_OPTION_{number}"), text.clone())));
        let options = self.realm.hook_options(&told.repo);
        variables.extend(options.into_iter().map(|(name, value)| (format!("GL_OPTION_{name}"), value)));
        variables
    }

    /// How long all programs may take together that a push waits for to be judged.
    pub(super) fn all_programs(&self) -> Duration {
        self.limit("").time * PROGRAMS
    }

    fn limit(&self, hook: &str) -> Limit {
        let config = self.hook_limits.borrow();
        match hook {
            "post-receive" | "post-update" => {
                Limit { time: config.post_receive_timeout, setting: "post_receive_timeout" }
            }
            _ => Limit { time: config.timeout, setting: "timeout" },
        }
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
        let Ran { status, stdout, stderr } = self.run_site(told, dir, self.limit(""), until, &work)?;
        text.push_str(&shown(&stderr));
        if status.success() {
            return Ok(String::from_utf8_lossy(&stdout).into_owned());
        }
        text.push_str(&shown(&stdout));
        Err(format!("the program '{}' refuses this push ({status}); what it says is above", call.name))
    }

    /// Whether any program of the repository's own is run in a push.
    pub(super) fn has_hooks(&self, repo: &RepoName) -> bool {
        HOOKS.iter().any(|hook| !self.realm.hook_programs(repo, hook).is_empty())
    }

    /// The programs that the repository's options name for the hook `name`; their time begins now.
    pub(super) fn hook<'a>(&self, told: &'a Told, name: &'a str) -> Hook<'a> {
        let limit = self.limit(name);
        let until = Instant::now() + limit.time * PROGRAMS;
        Hook { told, name, programs: self.realm.hook_programs(&told.repo, name), limit, until }
    }

    /// Runs a hook's programs as git would, in their order, up to the first that fails; all that they say goes into
    /// `text`. The hook `update` is about the first of the `updates` alone. Blocking.
    pub(super) fn run_hook(
        &self,
        hook: &Hook<'_>,
        dir: &Path,
        updates: &[RefUpdate],
        text: &mut String,
    ) -> Result<(), String> {
        let Hook { told, name: hook, programs, limit, until } = hook;
        let lines = || updates.iter().map(|RefUpdate { name, old, new }| format!("{old} {new} {name}\n")).collect();
        let (arguments, input): (Vec<String>, String) = match (*hook, updates) {
            _ if programs.is_empty() => return Ok(()),
            ("update", [RefUpdate { name, old, new }, ..]) => {
                (vec![name.to_string(), old.to_string(), new.to_string()], String::new())
            }
            ("post-update", _) => (updates.iter().map(|update| update.name.to_string()).collect(), String::new()),
            _ => (Vec::new(), lines()),
        };
        for name in programs {
            let begun = Instant::now();
            let work = Work { purpose: Purpose::Hook, name, arguments: &arguments, input: input.as_bytes() };
            let ran = self.run_site(told, dir, *limit, *until, &work);
            metrics::HOOK.of(&[hook]).since(begun);
            let Ran { status, stdout, stderr } = ran.map_err(|why| format!("the {hook} hook failed: {why}"))?;
            text.push_str(&shown(&stdout));
            text.push_str(&shown(&stderr));
            if !status.success() {
                return Err(format!("the {hook} hook '{name}' failed ({status})"));
            }
        }
        Ok(())
    }

    fn run_site(&self, told: &Told, dir: &Path, limit: Limit, until: Instant, work: &Work<'_>) -> Result<Ran, String> {
        let Work { purpose, name, arguments, input } = *work;
        let program = self.programs.locate(&self.realm.live().commit, purpose, name)?;
        let time = limit.time.min(until.saturating_duration_since(Instant::now()));
        let env = self.environment(told);
        let ran = Handle::current().block_on(self.git.run(&program, arguments, dir, &env, input, time));
        ran.map_err(|error| {
            tracing::warn!(%error, program = %program.display(), repo = %told.repo, "a site's own program failed");
            match error {
                RunError::Slow => format!(
                    "the program '{name}' did not end in time: one has {:?}, and all of a hook {:?}; an administrator of \
                     {} can change [hooks] {} in gitmesh.toml",
                    limit.time,
                    limit.time * PROGRAMS,
                    self.cluster.host(),
                    limit.setting
                ),
                error => format!("the program '{name}' {error}; an administrator can see why in the server's log"),
            }
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

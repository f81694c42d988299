//! What an import tells: what was (or would be) done, and what needs a person.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::{Import, Step, moved_rules};
use crate::admin::{ADMIN_REPO, Address};
use crate::cli::shell_word;
use crate::model::{HostName, RepoName};
use crate::policy::{HOOKS, PublicKey};

/// Names that are shown of a list.
const NAMED_MAX: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tense {
    Would,
    Done,
}

pub(super) struct Report {
    head: String,
    /// Subject and what of it.
    lines: Vec<(&'static str, String)>,
    person: Vec<String>,
    next: String,
}

impl Import {
    /// The nodes of `keydir/server-*.pub` but this one.
    pub(super) fn other_nodes(&self) -> BTreeMap<HostName, (PublicKey, Option<Address>)> {
        let mut nodes = self.home.nodes();
        nodes.remove(&self.config.node.name);
        nodes
    }

    /// The private key by which the other nodes know this one, if a node can have such a key.
    pub(super) fn known_key(&self) -> Option<Vec<u8>> {
        let (private, public) = self.home.ssh_key()?;
        let nodes = self.home.nodes();
        (nodes.get(&self.config.node.name)?.0.blob == public.blob).then_some(private)
    }

    /// The line of a node's key file.
    pub(super) fn key_line(&self, node: &HostName) -> Option<String> {
        let file = format!("server-{node}.pub");
        let found = self.home.files.iter().find(|(path, _)| path.rsplit('/').next() == Some(file.as_str()))?;
        Some(format!("{}\n", String::from_utf8_lossy(found.1).trim()))
    }

    fn those(&self, wanted: &[Step]) -> Vec<&RepoName> {
        self.steps.iter().filter(|(_, step)| wanted.contains(step)).map(|(name, _)| name).collect()
    }
}

impl Report {
    pub(super) fn of(import: &Import) -> Self {
        let home = &import.home;
        let config = &import.config;
        let mut report = Self {
            head: format!("{} -> node {} in {}", home.path.display(), config.node.name, import.data.path().display()),
            lines: Vec::new(),
            person: Vec::new(),
            next: String::new(),
        };
        report.rules(import);
        report.repositories(import);
        report.mesh(import);
        report.programs(import);
        report.person.extend(import.meaning.remarks.iter().map(|remark| format!(".gitolite.rc: {remark}")));
        report.keys_of_sshd(&home.path);
        report.port(import);
        report
    }

    fn line(&mut self, subject: &'static str, what: String) {
        self.lines.push((subject, what));
    }

    pub(super) fn person(&mut self, what: String) {
        self.person.push(what);
    }

    pub(super) fn identity(&mut self, fingerprint: &str) {
        self.line("fingerprint", format!("{fingerprint}, the key that ssh will show for this node"));
    }

    fn rules(&mut self, import: &Import) {
        let keys = import.home.files.keys().filter(|path| path.starts_with("keydir/")).count();
        let renamed = moved_rules(&import.home).map_or(String::new(), |(from, to)| format!("; {from} becomes {to}"));
        self.line("rules", format!("gitolite-admin becomes {ADMIN_REPO}, history and all; they compile{renamed}"));
        self.line("keys", format!("{keys} files in keydir/"));
        let changed: Vec<&str> = match &import.config_text {
            Some(_) => import.meaning.settings.keys().copied().collect(),
            None => Vec::new(),
        };
        self.line(
            "settings",
            match (&import.config_text, changed.is_empty()) {
                (None, _) => "gitmesh.toml is there already and stays as it is".to_owned(),
                (Some(_), true) => "gitmesh.toml with its defaults".to_owned(),
                (Some(_), false) => format!("gitmesh.toml; from .gitolite.rc: {}", changed.join(", ")),
            },
        );
        if !import.warnings.is_empty() {
            self.person(format!("the compiler remarks on the rules:\n{}", import.warnings.trim_end()));
        }
    }

    fn repositories(&mut self, import: &Import) {
        let taken = import.those(&[Step::Take, Step::Renew]).len();
        let (same, conflicts) = (import.those(&[Step::Leave]).len(), import.those(&[Step::Conflict]));
        let how = if import.in_place { "adopted where they are" } else { "copied" };
        let kept = if same == 0 { String::new() } else { format!(", {same} are here already") };
        self.line("repositories", format!("{taken} {how}{kept}"));
        let admin = conflicts.iter().any(|name| name.as_str() == ADMIN_REPO);
        if admin {
            let there = import.home.admin.display();
            self.person(format!(
                "gitolite-admin has changed since it was taken over, and {ADMIN_REPO} too: in a clone of {ADMIN_REPO}, \
                 git fetch {there} and merge FETCH_HEAD"
            ));
        }
        let conflicts: Vec<_> = conflicts.into_iter().filter(|name| name.as_str() != ADMIN_REPO).collect();
        if !conflicts.is_empty() {
            self.person(format!(
                "{} repositories have changed there since, and here too; they stay as they are here: {}",
                conflicts.len(),
                some(conflicts.iter().map(|name| name.as_str()))
            ));
        }
        self.person.extend(import.unreadable.iter().cloned());
        for (path, why) in &import.home.unserved {
            let path = path.strip_prefix(&import.home.path).unwrap_or(path);
            self.person(format!("{} is not served here: {why}", path.display()));
        }
    }

    fn mesh(&mut self, import: &Import) {
        let name = &import.config.node.name;
        let others = import.other_nodes();
        if others.is_empty() {
            return;
        }
        let known: Vec<String> = others
            .iter()
            .map(|(node, (_, address))| match address {
                Some(address) => format!("{node} ({address})"),
                None => format!("{node} (git@{node}:22)"),
            })
            .collect();
        self.line("nodes", known.join(", "));
        let nodes: Vec<&str> = others.keys().map(HostName::as_str).collect();
        if import.data.identity().exists() {
        } else if import.known_key().is_some() {
            self.line("identity", "the key that the other nodes know, .ssh/id_ed25519".to_owned());
        } else {
            self.line("identity", "a new Ed25519 key".to_owned());
            self.person(format!(
                "the other nodes know an older key of {name}: commit DATA/{name}.pub as keydir/server-{name}.pub"
            ));
        }
        self.person(format!(
            "mirroring goes on when gitmesh runs on {} too; until then their copies are behind",
            nodes.join(", ")
        ));
    }

    fn programs(&mut self, import: &Import) {
        if let Some(local) = &import.meaning.local_code {
            let named = |folder: &str| names(&local.join(folder));
            let run = [named("VREF"), named("hooks/repo-specific")].concat();
            if !run.is_empty() {
                self.line("programs", format!("{} (local/VREF, local/hooks/repo-specific)", run.join(", ")));
            }
            let (run, never): (Vec<_>, Vec<_>) = named("hooks/common").into_iter().partition(|hook| is_hook(hook));
            if !run.is_empty() {
                self.person(format!(
                    "hooks of all repositories do not run here ({}): name them with 'option hook.*' under 'repo @all'",
                    run.join(", ")
                ));
            }
            if !never.is_empty() {
                self.person(format!("hooks of all repositories that have no counterpart here: {}", never.join(", ")));
            }
            for folder in ["commands", "triggers", "syntactic-sugar", "lib"] {
                let found = named(folder);
                if !found.is_empty() {
                    self.person(format!("your own {folder} do not run here: {}", found.join(", ")));
                }
            }
        }
        let mut by_hook: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (repo, hooks) in &import.home.hooks {
            hooks.iter().for_each(|hook| by_hook.entry(hook).or_default().push(repo.as_str()));
        }
        for (hook, repos) in by_hook {
            let repos = some(repos.into_iter());
            if !is_hook(hook) {
                self.person(format!("hooks/{hook} of {repos} has no counterpart here"));
                continue;
            }
            self.person(format!(
                "hooks/{hook} of {repos} does not run here: put it into local/hooks/repo-specific/ of the data directory and \
                 name it with 'option hook.{hook}'"
            ));
        }
    }

    fn keys_of_sshd(&mut self, home: &Path) {
        let text = fs::read_to_string(home.join(".ssh/authorized_keys")).unwrap_or_default();
        let mut ours = false;
        let others = text.lines().filter(|line| {
            ours = (ours || line.starts_with("# gitolite start")) && !line.starts_with("# gitolite end");
            !ours && !line.trim().is_empty() && !line.starts_with('#')
        });
        let others = others.count();
        if others > 0 {
            self.person(format!("{others} keys in .ssh/authorized_keys are not gitolite's; they stay sshd's affair"));
        }
    }

    fn port(&mut self, import: &Import) {
        let data = shell_word(&import.data.path().display().to_string());
        if import.in_place {
            self.person(
                "from now on gitolite refuses pushes here; to go back, take the [include] of gitmesh's gitconfig out of \
                 each repository's config"
                    .to_owned(),
            );
        } else {
            self.person(
                "stop gitolite before developers come here, and run this once more for what came since".to_owned(),
            );
        }
        let name = &import.config.node.name;
        self.person(format!("ssh will tell developers that the host key has changed: hand out {data}/{name}.pub"));
        let address = import.config.reached_at();
        self.next =
            format!("  gitmesh serve --data {data}\n  {} info\n  gitmesh doctor --data {data}\n", address.ssh());
    }

    pub(super) fn text(&self, tense: Tense) -> String {
        let mut out =
            format!("{}{}\n", if tense == Tense::Would { "dry run, nothing was changed: " } else { "" }, self.head);
        for (subject, what) in &self.lines {
            // A String takes every write.
            let _ = writeln!(out, "  {subject:<13} {what}");
        }
        if !self.person.is_empty() {
            out.push_str("\nfor a person:\n");
            for what in &self.person {
                let _ = writeln!(out, "  - {}", what.replace('\n', "\n    "));
            }
        }
        if tense == Tense::Done {
            let _ = write!(out, "\nnext:\n{}", self.next);
        }
        out
    }
}

/// Whether 'option hook.NAME' runs programs for it.
fn is_hook(name: &str) -> bool {
    HOOKS.contains(&name)
}

fn some<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = names.len().saturating_sub(NAMED_MAX);
    let shown = names.take(NAMED_MAX).collect::<Vec<_>>().join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

/// What is in a folder, sorted; nothing if there is none.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

//! Where a site's own programs come from: for virtual refs `local/VREF/`, for hooks of single repositories (option
//! `hook.*`) `local/hooks/repo-specific/`, gitolite's places, in the data directory; and, if the machine's settings
//! allow code from there, in the admin repository.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::compile::remark;
use super::{DataDir, Realm, write_whole};
use crate::git::objects;
use crate::model::{Oid, RepoName};
use crate::policy::{Diagnostic, Place, Policy, Severity, Virtual};

/// What a program is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    VirtualRef,
    Hook,
}

impl Purpose {
    /// Below the data directory, and at the top of the admin repository.
    fn folder(self) -> &'static str {
        match self {
            Self::VirtualRef => "local/VREF",
            Self::Hook => "local/hooks/repo-specific",
        }
    }

    fn what(self) -> &'static str {
        match self {
            Self::VirtualRef => "for this virtual ref",
            Self::Hook => "for this hook",
        }
    }
}

const BUILT_IN: &str =
    "built in are NAME/, NAME_NC, COUNT, FILETYPE, EMAIL-CHECK, MAX_NEWBIN_SIZE, MERGE-CHECK and VOTES";

/// Finds programs. Cheap to clone; every call blocks.
#[derive(Clone)]
pub struct Programs {
    data: DataDir,
    admin_dir: PathBuf,
    from_admin_repo: bool,
    /// Held while a program of the admin repository is written to disk.
    writing: Arc<Mutex<()>>,
}

/// The same places; what is in them may differ.
impl PartialEq for Programs {
    fn eq(&self, other: &Self) -> bool {
        let places = |p: &Self| (p.data.clone(), p.admin_dir.clone(), p.from_admin_repo);
        places(self) == places(other)
    }
}

impl Programs {
    pub fn new(data: DataDir, admin_dir: PathBuf, from_admin_repo: bool) -> Self {
        Self { data, admin_dir, from_admin_repo, writing: Arc::default() }
    }

    /// The home of all programs: the data directory, which is that of gitolite's user where that was taken over in place.
    pub fn home(&self) -> &Path {
        self.data.path()
    }

    fn on_machine(&self, purpose: Purpose, name: &str) -> PathBuf {
        self.data.path().join(purpose.folder()).join(name)
    }

    /// Why the program cannot be run under a commit of the admin repository, and the cure; `None` if it can.
    pub fn problem(&self, commit: &Oid, purpose: Purpose, name: &str) -> Option<(String, String)> {
        if name.split('/').any(|part| part.is_empty() || part.starts_with('.')) {
            let why = format!("'{name}' is no name of a program");
            return Some((why, "a program's name leads to no other place".to_owned()));
        }
        let own = self.on_machine(purpose, name);
        match is_executable(&own) {
            Ok(true) => return None,
            Ok(false) => {
                let why = format!("the program '{name}' is not executable on this server");
                return Some((why, format!("chmod +x {}", own.display())));
            }
            Err(_) => {}
        }
        let in_commit = matches!(self.in_commit(commit, purpose, name), Ok(Some(_)));
        let why = format!("there is no program '{name}' {}", purpose.what());
        let on_machine = format!("put it into {}", own.display());
        match (in_commit, self.from_admin_repo) {
            (true, true) => None,
            (true, false) => Some((
                format!("the program '{name}' of the admin repository may not run on this server"),
                format!("set from_admin_repo = true under [hooks] in gitmesh.toml, or {on_machine}"),
            )),
            (false, true) => Some((why, format!("commit it as {}/{name}, or {on_machine}", purpose.folder()))),
            (false, false) => Some((why, on_machine)),
        }
    }

    fn in_commit(
        &self,
        commit: &Oid,
        purpose: Purpose,
        name: &str,
    ) -> Result<Option<(Oid, Vec<u8>)>, objects::ObjectsError> {
        objects::file_at(&self.admin_dir, commit, &format!("{}/{name}", purpose.folder()))
    }

    /// The file to run. One of the admin repository is written below the state directory first, under its object id.
    pub fn locate(&self, commit: &Oid, purpose: Purpose, name: &str) -> Result<PathBuf, String> {
        if let Some((why, cure)) = self.problem(commit, purpose, name) {
            return Err(format!("{why}; an administrator can mend it: {cure}"));
        }
        let own = self.on_machine(purpose, name);
        if own.exists() {
            return Ok(own);
        }
        let unreadable = |error: &dyn std::fmt::Display| {
            tracing::error!(%error, program = name, "cannot take a program out of the admin repository");
            format!("the program '{name}' of the admin repository cannot be read; tell an administrator")
        };
        let (oid, text) =
            self.in_commit(commit, purpose, name).map_err(|e| unreadable(&e))?.ok_or_else(|| unreadable(&"gone"))?;
        let file = self.data.state().join("programs").join(oid.as_str()).join(name);
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if !file.exists() {
            let folder = file.parent().unwrap_or(&file);
            fs::create_dir_all(folder).and_then(|()| write_whole(&file, &text, 0o700)).map_err(|e| unreadable(&e))?;
        }
        Ok(file)
    }
}

fn is_executable(file: &Path) -> io::Result<bool> {
    let about = fs::metadata(file)?;
    Ok(about.is_file() && about.permissions().mode() & 0o111 != 0)
}

/// The virtual refexes that cannot be read; each would refuse every push.
pub(super) fn unreadable(policy: &Policy, found: &mut Vec<Diagnostic>) {
    for (refex, place) in policy.virtual_refexes() {
        if let Err(why) = Virtual::parse(refex) {
            let message = format!("'{refex}': {why}");
            let bad = remark("E0308", "bad-virtual-ref", &place.file, message, BUILT_IN);
            found.push(Diagnostic { line: place.line, ..bad });
        }
    }
}

/// The virtual refexes and hooks whose program cannot be run under a commit; `severity` says how bad that is.
pub(super) fn missing(policy: &Policy, programs: &Programs, commit: &Oid, severity: Severity) -> Vec<Diagnostic> {
    let one = |(refex, place): (&str, Place)| {
        let Ok(Virtual::Program { name, .. }) = Virtual::parse(refex) else { return None };
        let (why, cure) = programs.problem(commit, Purpose::VirtualRef, &name)?;
        let missing = remark("E0309", "no-program", &place.file, format!("'{refex}': {why}"), &cure);
        Some(Diagnostic { line: place.line, severity, ..missing })
    };
    let features = policy.features();
    let hook = |name: &str| {
        let place = features.get("hooks")?; // of the first; which line names this one is in its words
        let (why, cure) = programs.problem(commit, Purpose::Hook, name)?;
        let missing = remark("E0309", "no-program", &place.file, why, &cure);
        Some(Diagnostic { line: place.line, severity, ..missing })
    };
    let virtual_refs = policy.virtual_refexes().into_iter().filter_map(one);
    virtual_refs.chain(policy.named_hooks().into_iter().filter_map(hook)).collect()
}

/// The programs of the admin repository that a policy uses and that are others in one commit than in another, by path.
pub(super) fn changed(policy: &Policy, programs: &Programs, old: &Oid, new: &Oid) -> Vec<String> {
    let virtual_refs = policy.virtual_refexes().into_keys().filter_map(|refex| match Virtual::parse(refex) {
        Ok(Virtual::Program { name, .. }) => Some((Purpose::VirtualRef, name)),
        _ => None,
    });
    let hooks = policy.named_hooks().into_iter().map(|name| (Purpose::Hook, name.to_owned()));
    let used: BTreeSet<(&str, String, Purpose)> =
        virtual_refs.chain(hooks).map(|(purpose, name)| (purpose.folder(), name, purpose)).collect();
    let differs = |(_, name, purpose): &(&str, String, Purpose)| {
        let at = |commit| programs.in_commit(commit, *purpose, name).ok().flatten().map(|(oid, _)| oid);
        programs.from_admin_repo && !programs.on_machine(*purpose, name).exists() && at(old) != at(new)
    };
    used.into_iter().filter(differs).map(|(folder, name, _)| format!("{folder}/{name}")).collect()
}

impl Realm {
    /// The programs that a repository's options name for one of git's hooks (githooks(5)), in the order of the keys:
    /// `hook.post-receive`, `hook.post-receive.01` and so on.
    pub fn hook_programs(&self, repo: &RepoName, hook: &str) -> Vec<String> {
        let key = format!("hook.{hook}");
        let options = self.with_rules(repo, "", |policy, facts| policy.options(facts, &key));
        let own = options
            .into_iter()
            .filter(|(name, _)| name.strip_prefix(&key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')));
        own.flat_map(|(_, value)| value.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
    }
}

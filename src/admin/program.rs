//! Where a site's own programs for virtual refs come from: the machine's `local/VREF/` in the data directory, and, if
//! the machine's settings allow code from there, `local/VREF/` of the admin repository.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::compile::remark;
use super::{DataDir, write_whole};
use crate::git::objects;
use crate::model::Oid;
use crate::policy::{Diagnostic, Place, Policy, Severity, Virtual};

/// Below the data directory, and at the top of the admin repository.
const FOLDER: &str = "local/VREF";

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

    fn on_machine(&self, name: &str) -> PathBuf {
        self.data.path().join(FOLDER).join(name)
    }

    /// Why the program cannot be run under a commit of the admin repository, and the cure; `None` if it can.
    pub fn problem(&self, commit: &Oid, name: &str) -> Option<(String, String)> {
        let own = self.on_machine(name);
        match is_executable(&own) {
            Ok(true) => return None,
            Ok(false) => {
                let why = format!("the program '{name}' is not executable on this server");
                return Some((why, format!("chmod +x {}", own.display())));
            }
            Err(_) => {}
        }
        let in_commit = matches!(self.in_commit(commit, name), Ok(Some(_)));
        let why = format!("there is no program '{name}' for this virtual ref");
        let on_machine = format!("put it into {}", own.display());
        match (in_commit, self.from_admin_repo) {
            (true, true) => None,
            (true, false) => Some((
                format!("the program '{name}' of the admin repository may not run on this server"),
                format!("set from_admin_repo = true under [hooks] in gitmesh.toml, or {on_machine}"),
            )),
            (false, true) => Some((why, format!("commit it as {FOLDER}/{name}, or {on_machine}"))),
            (false, false) => Some((why, on_machine)),
        }
    }

    fn in_commit(&self, commit: &Oid, name: &str) -> Result<Option<(Oid, Vec<u8>)>, objects::ObjectsError> {
        objects::file_at(&self.admin_dir, commit, &format!("{FOLDER}/{name}"))
    }

    /// The file to run. One of the admin repository is written below the state directory first, under its object id.
    pub fn locate(&self, commit: &Oid, name: &str) -> Result<PathBuf, String> {
        if let Some((why, cure)) = self.problem(commit, name) {
            return Err(format!("{why}; an administrator can mend it: {cure}"));
        }
        let own = self.on_machine(name);
        if own.exists() {
            return Ok(own);
        }
        let unreadable = |error: &dyn std::fmt::Display| {
            tracing::error!(%error, program = name, "cannot take a program out of the admin repository");
            format!("the program '{name}' of the admin repository cannot be read; tell an administrator")
        };
        let (oid, text) =
            self.in_commit(commit, name).map_err(|e| unreadable(&e))?.ok_or_else(|| unreadable(&"gone"))?;
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

/// The virtual refexes whose program cannot be run under a commit; `severity` says how bad that is.
pub(super) fn missing(policy: &Policy, programs: &Programs, commit: &Oid, severity: Severity) -> Vec<Diagnostic> {
    let one = |(refex, place): (&str, Place)| {
        let Ok(Virtual::Program { name, .. }) = Virtual::parse(refex) else { return None };
        let (why, cure) = programs.problem(commit, &name)?;
        let missing = remark("E0309", "no-program", &place.file, format!("'{refex}': {why}"), &cure);
        Some(Diagnostic { line: place.line, severity, ..missing })
    };
    policy.virtual_refexes().into_iter().filter_map(one).collect()
}

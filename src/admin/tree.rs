//! The files of a configuration, from a commit or from a directory; what follows does not care which.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

use crate::git::objects::{self, FILES_BYTES_MAX, FILES_MAX, ObjectsError};
use crate::git::ref_state;
use crate::model::Oid;

use super::compile::{Remarks, remark};

/// Contents by path from the top: `conf/gitmesh.conf`, `keydir/alice.pub`.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// Deepest folder that is entered.
const DEPTH_MAX: usize = 64;
/// What `gitmesh init` makes the live branch.
const LIVE: &str = "refs/heads/main";
const FOLDERS: [&str; 2] = ["conf/", "keydir/"];

/// What an admin repository holds, as far as it counts, and what is wrong with it already.
pub struct Tree {
    /// None when it cannot be read.
    pub(super) files: Option<Files>,
    pub(super) remarks: Remarks,
    /// The reference whose newest commit is in force.
    pub(super) live: String,
}

impl Tree {
    /// The tree of a commit; a bare repository and a clone both do.
    pub fn of_commit(repo: &Path, commit: &Oid) -> Self {
        let read =
            objects::top_level(repo, commit).and_then(|top| Ok((top, objects::files_at(repo, commit, &FOLDERS)?)));
        let live = ref_state::read_refs(repo).ok().and_then(|refs| refs.head);
        let live = live.map_or_else(|| LIVE.to_owned(), |name| name.to_string());
        match read {
            Ok((top, files)) => Self { live, ..Self::read(&top, files) },
            Err(error) => {
                let file = match &error {
                    ObjectsError::NotAFile { path, .. } => path.clone(),
                    _ => "conf/".to_owned(),
                };
                Self::unreadable(&file, &format!("the commit cannot be read: {error}"))
            }
        }
    }

    /// The files below `dir`, committed or not.
    ///
    /// # Errors
    /// Only when `dir` itself cannot be listed; what is wrong below it is a remark.
    pub fn of_directory(dir: &Path) -> io::Result<Self> {
        let mut top = Vec::new();
        for entry in fs::read_dir(dir)? {
            top.extend(entry?.file_name().into_string().ok());
        }
        let mut reading = Reading::default();
        for folder in FOLDERS {
            let path = dir.join(folder.trim_end_matches('/'));
            match path.symlink_metadata() {
                Ok(kind) if kind.is_dir() => {}
                Ok(kind) if kind.is_symlink() => {
                    let folder = folder.trim_end_matches('/');
                    return Ok(Self::unreadable(folder, &format!("'{folder}' is a symbolic link")));
                }
                _ => continue,
            }
            if let Err((file, why)) = reading.walk(&path, folder, 0) {
                return Ok(Self::unreadable(&file, &format!("'{file}' cannot be read: {why}")));
            }
        }
        Ok(Self::read(&top, reading.files))
    }

    /// Of a commit with these names at its top, and these contents by path from there.
    pub fn of_files(top: &[String], files: BTreeMap<String, Vec<u8>>) -> Self {
        Self::read(top, files)
    }

    fn read(top: &[String], files: Files) -> Self {
        // gitolite cannot compile such a commit either; there these folders hold code that the server would run.
        let traps = top.iter().filter(|entry| matches!(entry.as_str(), "hooks" | "logs"));
        let remarks = traps.map(|trap| {
            let message = format!("'{trap}' may not be at the top of the admin repository");
            remark("E0302", "reserved-entry", trap, message, "move it elsewhere; it would have no effect here")
        });
        Self { remarks: remarks.collect(), files: Some(files), live: LIVE.to_owned() }
    }

    fn unreadable(file: &str, message: &str) -> Self {
        let help = "conf/ and keydir/ hold plain files only, no links and no submodules";
        let remarks = vec![remark("E0301", "unreadable", file, message.to_owned(), help)];
        Self { files: None, remarks, live: LIVE.to_owned() }
    }
}

#[derive(Default)]
struct Reading {
    files: Files,
    bytes: u64,
}

impl Reading {
    fn walk(&mut self, dir: &Path, at: &str, depth: usize) -> Result<(), (String, String)> {
        let failed = |at: &str| {
            let at = at.to_owned();
            move |error: io::Error| (at, error.to_string())
        };
        for entry in fs::read_dir(dir).map_err(failed(at))? {
            let entry = entry.map_err(failed(at))?;
            let name =
                entry.file_name().into_string().map_err(|_| (at.to_owned(), "a name in it is not UTF-8".into()))?;
            let path = format!("{at}{name}");
            let kind = entry.path().symlink_metadata().map_err(failed(&path))?;
            if kind.is_dir() {
                if depth >= DEPTH_MAX {
                    return Err((path, "its folders are nested too deeply".to_owned()));
                }
                self.walk(&entry.path(), &format!("{path}/"), depth + 1)?;
                continue;
            }
            if !kind.is_file() {
                return Err((path, "it is no plain file".to_owned()));
            }
            // The size comes first, so that a huge file is refused without being read.
            self.bytes = self.bytes.saturating_add(kind.len());
            if self.bytes > FILES_BYTES_MAX as u64 || self.files.len() >= FILES_MAX {
                return Err((path, ObjectsError::TooLarge.to_string()));
            }
            let text = fs::read(entry.path()).map_err(failed(&path))?;
            self.files.insert(path, text);
        }
        Ok(())
    }
}
/// In the admin repository of a node that has joined and waits for its master's: what is in force until HEAD's branch
/// is born. Not a branch, so that the master's first push finds nothing that it does not know.
pub const FIRST_REF: &str = "refs/gitmesh/first";

/// The commit that is to be in force: HEAD's, or that of [`FIRST_REF`] while there is none.
pub fn newest_commit(dir: &Path) -> Result<Option<Oid>, ObjectsError> {
    if let Some(commit) = objects::head_commit(dir)? {
        return Ok(Some(commit));
    }
    let refs = ref_state::read_refs(dir)?.refs;
    Ok(refs.into_iter().find_map(|(name, oid)| (name.as_str() == FIRST_REF).then_some(oid)))
}

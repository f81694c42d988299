//! The text of the configuration, for those who read or edit single lines of it.

use std::collections::BTreeMap;

use super::compile::{main_file, written};
use super::tree::Tree;
use super::{Admin, Live};
use crate::git::objects::{ObjectsError, head_commit};
use crate::policy::{Diagnostic, KeyFile, Keyring, Outline, Settings, Sources};

/// The rules of one commit as they are written.
pub struct Written {
    sources: Sources,
    settings: Settings,
}

impl Written {
    pub fn outline(&self) -> Outline<'_> {
        Outline::read(&self.sources, &self.settings)
    }
}

impl Admin {
    /// The rules among these files of a commit, by path from the top. Blocks.
    ///
    /// # Errors
    /// The peers cannot be read, or there are no rules.
    pub fn written(&self, files: &BTreeMap<String, Vec<u8>>) -> std::io::Result<Written> {
        let around = self.surroundings()?;
        let main = main_file(files, &mut Vec::new()).ok_or(std::io::ErrorKind::NotFound)?;
        let (sources, settings) = written(files, main, &around.settings, Some(&around.node));
        Ok(Written { sources, settings })
    }

    /// The newest rules of the admin repository. Blocks.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn written_now(&self) -> Result<Written, ObjectsError> {
        let Some(commit) = head_commit(&self.dir)? else { return Ok(Written::none()) };
        let files = Tree::of_commit(&self.dir, &commit).files.ok_or(ObjectsError::TooLarge)?;
        Ok(self.written(&files)?)
    }
}

impl Written {
    fn none() -> Self {
        Self { sources: Sources::default(), settings: Settings::default() }
    }
}

impl Live {
    /// What a check says of the key files: repeated keys, options without effect, names that mislead.
    pub fn key_remarks(&self) -> Vec<Diagnostic> {
        let files: Vec<_> = self.keys.iter().map(|(path, text)| KeyFile { path, text }).collect();
        Keyring::compile(&files).1
    }
}

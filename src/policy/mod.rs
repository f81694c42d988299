//! The access language: text in, decisions out.
//!
//! [`compile`] turns the files below `conf/` of one commit into a [`Policy`], or into diagnostics with file, line and
//! cure; with any error there is no policy. [`Policy`] answers who may do what with which ref, what a repository's
//! options are, and who mirrors it. [`Keyring`] turns the files below `keydir/` into "whose key is this".
//!
//! It promises gitolite 3.6.12's answers, except where the specification marks a trap as one to leave
//! (`spec/access-language.md`, section 16). Everything is linear in the size of the text and bounded in memory; no
//! decision depends on how many repositories, users or keys there are. What the server may switch on beyond that is
//! in [`Settings`].
//!
//! It never reads a file, a clock or the network, and never says what happens next: that is the caller's.
//!
//! A constraint to keep: `features` names every construct whose effect lies outside this room (hooks, virtual refs,
//! wild repositories), so that a server can refuse a configuration it cannot carry out instead of ignoring it.

mod address_list;
mod certificate;
mod compare;
mod compile;
mod decide;
mod diagnostic;
mod entries;
mod escape;
mod glob;
pub mod grant;
mod groups;
mod include;
mod info;
mod key;
mod key_options;
mod key_proof;
mod key_rules;
mod keyring;
mod lexer;
mod lint;
mod mirror;
mod names;
mod options;
mod outline;
mod parser;
mod pattern;
#[cfg(test)]
mod print;
mod reach;
mod rules;
mod sugar;
mod template;
#[cfg(test)]
mod tests;
mod user_keys;
mod values;
mod virtual_ref;

use std::collections::{BTreeMap, BTreeSet};

pub use address_list::AddressList;
pub use certificate::{Authorities, CertificateProblem};
pub use compare::{Comparison, Shift, compare};
pub use compile::nearest;
pub use decide::{Change, Decision, Facts, Outcome, Step, Walk};
pub use diagnostic::{Diagnostic, Severity, render};
pub use grant::{Access, Grant};
pub use info::Rights;
pub use key::{KeyProblem, PublicKey, parse_public_key};
pub use key_options::{KeyOptions, with_expiry};
pub use key_proof::{NAMESPACE, NoProof, SIGNATURE_BEGINS, verify_proof};
pub use key_rules::{KeyRules, KeyType, key_type};
pub use keyring::{KeyFile, Keyring, Owner, OwnerName};
pub use lint::HOOKS;
pub use mirror::{How, Mirror, Mode};
pub use outline::{Block, ByHand, Definition, Edit, Entry, Outline, can_name};
pub use pattern::key_matches;
pub use rules::{Op, Place, Policy, Target};

pub use template::{TEMPLATE_CREATOR, Template};
pub use user_keys::{Edits, UserKey, dated, is_key_name, new_key_file, user_keys, without};
pub use values::{NewValue, new_templates, new_values};
pub use virtual_ref::{Branch, Counted, Virtual};

use crate::model::HostName;

/// The text of a configuration.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file to start with, below `conf/`: `gitmesh.conf`.
    pub main: String,
    /// Path below `conf/` to content.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// What gitolite's rc file says; the default is gitolite's default.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// HOSTNAME, for `%HOSTNAME` in the text.
    pub host: Option<HostName>,
    /// GIT_CONFIG_KEYS: regular expressions for whole keys, case ignored.
    pub config_keys: Vec<String>,
    /// ROLES: what a role file may hold, besides CREATOR.
    pub roles: Vec<String>,
    /// OWNER_ROLENAME: the role whose holders may do what the creator may do in commands.
    pub owner_role: Option<String>,
    /// SAFE_CONFIG: `%KEY` in values to text.
    pub safe_config: BTreeMap<String, String>,
    /// UNSAFE_PATT: characters that no value may hold.
    pub unsafe_values: String,
    /// Sugar by gitolite's names (`continuation-lines`, `macros`, `keysubdirs-as-groups`), and switches that
    /// leave gitolite's answers where the specification recommends it: `quote-names` (users' names in patterns are
    /// text, not regular expressions), `gitweb-keys` (`desc`, `owner`, `category` need no permission and take any
    /// text) and `mirror-aliases` (`config gitolite.mirror.*` of gitolite 2 means `option mirror.*`).
    pub enable: BTreeSet<String>,
    /// Paths below `keydir/`, for `keysubdirs-as-groups`.
    pub key_files: Vec<String>,
    /// CAs by whose certificates users are known who have no key in `keydir/`; no rule is about them.
    pub authorities: Authorities,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            host: None,
            config_keys: Vec::new(),
            roles: vec!["READERS".to_owned(), "WRITERS".to_owned()],
            owner_role: None,
            safe_config: BTreeMap::new(),
            unsafe_values: "`~#$&()|;<>".to_owned(),
            enable: BTreeSet::new(),
            key_files: Vec::new(),
            authorities: Authorities::default(),
        }
    }
}

impl Settings {
    /// gitolite's defaults with the switches on that the specification recommends for gitmesh.
    pub fn recommended() -> Self {
        let enable = ["quote-names", "gitweb-keys", "mirror-aliases"].map(str::to_owned).into();
        Self { enable, ..Self::default() }
    }
}

/// A policy, and everything there is to say about the text.
#[derive(Debug)]
pub struct Compiled {
    /// None when any diagnostic is an error.
    pub policy: Option<Policy>,
    pub diagnostics: Vec<Diagnostic>,
}

/// Where a word stands by itself for the first time in these files (path, content), outside of comments: the file, the
/// bytes and the line. For remarks about names whose place the tables do not keep.
pub fn find_word<T: AsRef<[u8]>>(files: &[(String, T)], word: &str) -> Option<(String, std::ops::Range<usize>, u32)> {
    reach::find_word(files, word)
}

/// Compiles a configuration. Never panics, whatever the bytes.
pub fn compile(sources: &Sources, settings: &Settings) -> Compiled {
    compile::compile(sources, settings)
}

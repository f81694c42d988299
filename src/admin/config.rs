//! The `[access]` and `[hooks]` tables of `gitmesh.toml`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use crate::model::setting::duration;

/// What gitolite's rc file says about the access language.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub config_keys: Vec<String>,
    pub enable: Vec<Sugar>,
    /// Names that role files may hold, besides CREATOR (gitolite: ROLES).
    pub roles: Vec<String>,
    /// The role whose holders may do what a repository's creator may do (gitolite: OWNER_ROLENAME); empty
    /// for none.
    pub owner_role: String,
    pub create: AutoCreate,
    /// `%KEY` in a value of the configuration stands for this text (gitolite: SAFE_CONFIG).
    pub safe_config: BTreeMap<String, String>,
    /// Characters that no value may hold (gitolite: UNSAFE_PATT).
    pub unsafe_values: String,
}

impl Default for Config {
    fn default() -> Self {
        let crate::policy::Settings { roles, unsafe_values, .. } = crate::policy::Settings::default();
        Self {
            config_keys: Vec::new(),
            enable: Vec::new(),
            roles,
            owner_role: String::new(),
            create: AutoCreate::default(),
            safe_config: BTreeMap::new(),
            unsafe_values,
        }
    }
}

/// What makes a repository that does not exist and that a `C` rule lets the user make; the command `create` always
/// does. gitolite: `no-create-on-read` and `no-auto-create`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AutoCreate {
    /// A clone, a fetch or a push. A mistyped URL makes a repository too.
    #[default]
    Any,
    /// A push.
    Write,
    /// Nothing else.
    Command,
}

/// Optional parts of the access language (`spec/access-language.md`, section 9), by gitolite's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sugar {
    ContinuationLines,
    Macros,
    KeysubdirsAsGroups,
}

/// The `[hooks]` table: whose programs this machine runs, and how long.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HooksConfig {
    /// Programs of the admin repository's `local/` may run here: whoever may push there then may run anything here.
    pub from_admin_repo: bool,
    /// One program that a push waits for to be judged: of a virtual ref, of the hooks pre-receive and update.
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
    /// One program after a push has landed: of the hooks post-receive and post-update.
    #[serde(deserialize_with = "duration")]
    pub post_receive_timeout: Duration,
}

impl Default for HooksConfig {
    fn default() -> Self {
        let (timeout, post_receive_timeout) = (Duration::from_secs(20), Duration::from_secs(600));
        Self { from_admin_repo: false, timeout, post_receive_timeout }
    }
}

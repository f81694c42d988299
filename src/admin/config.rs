//! The `[access]` table of `gitmesh.toml`.

use serde::Deserialize;

/// What gitolite's rc file says about the access language.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub config_keys: Vec<String>,
    pub enable: Vec<Sugar>,
}

/// Optional parts of the access language (`spec/access-language.md`, section 9), by gitolite's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sugar {
    ContinuationLines,
    Macros,
    KeysubdirsAsGroups,
}

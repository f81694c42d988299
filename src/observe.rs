//! Logs: text for a person at a terminal, JSON for everything else.
//!
//! One word for one thing in every room: `user`, `repo`, `peer`, `from`, `ms`. Never: a key, a push id, or the
//! contents of a pack.

use std::io::IsTerminal;

use serde::Deserialize;
use tracing_subscriber::EnvFilter;

/// The `[log]` table of `gitmesh.toml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub format: Format,
    /// A tracing-subscriber `EnvFilter`.
    pub level: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { format: Format::Auto, level: "info".to_owned() }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Text on a terminal, JSON otherwise.
    Auto,
    Text,
    Json,
}

/// Starts logging to standard error. `RUST_LOG` wins over the configured level; both are tracing's filter directives.
pub fn start(config: &Config) -> Result<(), String> {
    let text = std::env::var("RUST_LOG").unwrap_or_else(|_| config.level.clone());
    let filter = EnvFilter::try_new(&text).map_err(|error| {
        format!("{text:?} is no log filter: {error}; write one as 'info' or 'gitmesh::mirror=debug,info'")
    })?;
    let terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if config.format == Format::Text || (config.format == Format::Auto && terminal) {
        builder.with_target(false).with_ansi(terminal).try_init()
    } else {
        builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    }
    .map_err(|error| error.to_string())
}

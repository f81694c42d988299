//! What operators see: logs here, text for a person at a terminal and JSON for everything else; figures in `metrics`.
//!
//! One word for one thing in every room: `user`, `repo`, `peer`, `from`, `ms`. Never: a key, a push id, or the
//! contents of a pack.

pub mod metrics;

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

/// Changes how much a running node logs.
pub struct Level(Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>);

impl Level {
    /// `level` is a tracing filter directive; the error says how one is written.
    pub fn set(&self, level: &str) -> Result<(), String> {
        (self.0)(filter(level)?)
    }
}

/// `RUST_LOG` wins over the configured level; both are tracing's filter directives.
fn filter(level: &str) -> Result<EnvFilter, String> {
    let text = std::env::var("RUST_LOG").unwrap_or_else(|_| level.to_owned());
    // russh tells of every packet, and what it prints of keys is not ours to vouch for; naming it asks for it.
    EnvFilter::try_new(format!("russh=warn,{text}")).map_err(|error| {
        format!("{text:?} is no log filter: {error}; write one as 'info' or 'gitmesh::mirror=debug,info'")
    })
}

/// Starts logging to standard error.
pub fn start(config: &Config) -> Result<Level, String> {
    let terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter(&config.level)?);
    if config.format == Format::Text || (config.format == Format::Auto && terminal) {
        let builder = builder.with_target(false).with_ansi(terminal).with_filter_reloading();
        let handle = builder.reload_handle();
        builder.try_init().map_err(|error| error.to_string())?;
        Ok(Level(Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()))))
    } else {
        let builder = builder.json().flatten_event(true).with_current_span(false).with_span_list(false);
        let builder = builder.with_filter_reloading();
        let handle = builder.reload_handle();
        builder.try_init().map_err(|error| error.to_string())?;
        Ok(Level(Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()))))
    }
}

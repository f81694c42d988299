//! Logs: text for a person at a terminal, JSON for everything else.
//!
//! One word for one thing in every room: `user`, `repo`, `peer`, `from`, `ms`. Never: a key, a push id, or the
//! contents of a pack.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    Json,
}

impl Format {
    /// Text on a terminal, JSON otherwise.
    pub fn fitting() -> Self {
        if std::io::stderr().is_terminal() { Self::Text } else { Self::Json }
    }
}

/// Starts logging to standard error. `RUST_LOG` wins over `filter`, and both are tracing's filter directives.
pub fn start(format: Format, filter: &str) -> Result<(), String> {
    let text = std::env::var("RUST_LOG").unwrap_or_else(|_| filter.to_owned());
    let filter = EnvFilter::try_new(&text).map_err(|error| {
        format!("{text:?} is no log filter: {error}; write one as 'info' or 'gitmesh::mirror=debug,info'")
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        Format::Text => builder.with_target(false).with_ansi(std::io::stderr().is_terminal()).try_init(),
        Format::Json => builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
    }
    .map_err(|error| error.to_string())
}

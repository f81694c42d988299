//! How hard mirroring tries: the `[mirror]` table of `gitmesh.toml`.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use super::notify::Webhook;
use crate::model::setting::{duration, parsed, percent, rate};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Pushes that run at once to one peer.
    pub workers: usize,
    /// What pushes to one peer send in a second, in bytes, all together; no limit without it.
    #[serde(deserialize_with = "rate")]
    pub bandwidth: Option<u64>,
    /// Pause after the first failure; it doubles with each further one …
    #[serde(deserialize_with = "duration")]
    pub retry_first: Duration,
    /// … up to this.
    #[serde(deserialize_with = "duration")]
    pub retry_max: Duration,
    /// A push in which nothing moves for so long is stopped; see `mirror::patience`.
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
    /// Every so often all copies are compared with their masters, although nothing was pushed.
    #[serde(deserialize_with = "duration")]
    pub verify: Duration,
    /// A copy that is behind for so long is worth a warning.
    #[serde(deserialize_with = "duration")]
    pub alarm_after: Duration,
    /// The share of a replica's references, in percent, that may vanish at once without a person's word.
    #[serde(deserialize_with = "percent")]
    pub guard_refs: u8,
    /// The share of a replica's repositories, in percent, that may go to the trash within an hour without a person's word.
    #[serde(deserialize_with = "percent")]
    pub guard_repositories: u8,
    /// Who fetches from a copy that may be this much older than its master is told so.
    #[serde(deserialize_with = "duration")]
    pub stale_notice: Duration,
}

/// Who is told of alarms besides the log: the `[notify]` table of `gitmesh.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NotifyConfig {
    /// A program that is run for each alarm, with JSON on its standard input and `GITMESH_EVENT*` in its environment.
    #[serde(deserialize_with = "absolute")]
    pub command: Option<PathBuf>,
    /// Where each alarm is posted as JSON.
    #[serde(deserialize_with = "webhook")]
    pub webhook: Option<Webhook>,
    /// Longest time that one of them may take.
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
}

impl Default for NotifyConfig {
    fn default() -> Self {
        Self { command: None, webhook: None, timeout: Duration::from_secs(10) }
    }
}

fn webhook<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Webhook>, D::Error> {
    parsed(deserializer).map(Some)
}

/// A daemon's working directory is nobody's business, so a relative path would mean nothing.
fn absolute<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    if path.is_absolute() {
        return Ok(Some(path));
    }
    let shown = path.display();
    Err(D::Error::custom(format!(
        "'{shown}' is no absolute path; name one program, without arguments, as \"/usr/local/bin/alert\""
    )))
}

impl Default for Config {
    fn default() -> Self {
        Self {
            workers: 4,
            bandwidth: None,
            retry_first: Duration::from_secs(1),
            retry_max: Duration::from_secs(30),
            timeout: Duration::from_secs(15 * 60),
            verify: Duration::from_secs(10 * 60),
            alarm_after: Duration::from_secs(2 * 60),
            guard_refs: 50,
            guard_repositories: 10,
            stale_notice: Duration::from_secs(60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_defaults_and_no_unknown_keys() {
        let config: Config = toml::from_str("workers = 2\nretry_max = '1m'").expect("valid");
        assert_eq!(config, Config { workers: 2, retry_max: Duration::from_secs(60), ..Config::default() });
        assert_eq!(toml::from_str::<Config>("bandwidth = '20MiB/s'").expect("valid").bandwidth, Some(20 << 20));
        let unknown = toml::from_str::<Config>("worker = 2").expect_err("unknown").to_string();
        assert!(unknown.contains("worker") && unknown.contains("workers"), "{unknown}");
        let told = |text: &str| toml::from_str::<NotifyConfig>(text).map_err(|e| e.to_string());
        assert_eq!(told(""), Ok(NotifyConfig::default()));
        assert!(told("command = '/bin/true'\nwebhook = 'http://ops.example/x'\ntimeout = '3s'").is_ok());
        assert!(told("command = 'mail ops'").unwrap_err().contains("no absolute path"));
        assert!(told("webhook = 'https://ops.example/x'").unwrap_err().contains("https is not spoken"));
        let bad = toml::from_str::<Config>("timeout = 'soon'").expect_err("no duration").to_string();
        assert!(bad.contains("'soon' is no duration"), "{bad}");
    }
}

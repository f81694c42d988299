//! How hard mirroring tries: the `[mirror]` table of `gitmesh.toml`.

use std::time::Duration;

use serde::Deserialize;

use crate::model::setting::duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Pushes that run at once to one peer.
    pub workers: usize,
    /// Pause after the first failure; it doubles with each further one …
    #[serde(deserialize_with = "duration")]
    pub retry_first: Duration,
    /// … up to this.
    #[serde(deserialize_with = "duration")]
    pub retry_max: Duration,
    /// Longest time one push may take.
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
    /// Every so often all copies are compared with their masters, although nothing was pushed.
    #[serde(deserialize_with = "duration")]
    pub verify: Duration,
    /// A copy that is behind for so long is worth a warning.
    #[serde(deserialize_with = "duration")]
    pub alarm_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            workers: 4,
            retry_first: Duration::from_secs(1),
            retry_max: Duration::from_secs(30),
            timeout: Duration::from_secs(15 * 60),
            verify: Duration::from_secs(10 * 60),
            alarm_after: Duration::from_secs(2 * 60),
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
        let unknown = toml::from_str::<Config>("worker = 2").expect_err("unknown").to_string();
        assert!(unknown.contains("worker") && unknown.contains("workers"), "{unknown}");
        let bad = toml::from_str::<Config>("timeout = 'soon'").expect_err("no duration").to_string();
        assert!(bad.contains("'soon' is no duration"), "{bad}");
    }
}

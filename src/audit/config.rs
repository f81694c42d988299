//! The `[audit]` table of `gitmesh.toml`.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::model::setting;

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The directory of the files, relative to the data directory; empty keeps no audit.
    pub path: PathBuf,
    /// Whether fetches are recorded; pushes, commands and refusals always are.
    pub fetches: bool,
    /// A file that has so many bytes, or is so old, is followed by a new one.
    #[serde(deserialize_with = "setting::size")]
    pub rotate_size: u64,
    #[serde(deserialize_with = "setting::duration")]
    pub rotate_age: Duration,
    /// A file whose newest record is older is deleted, and so are the oldest when all together are larger.
    #[serde(deserialize_with = "setting::duration")]
    pub keep: Duration,
    #[serde(deserialize_with = "setting::size")]
    pub keep_size: u64,
}

impl Default for Config {
    fn default() -> Self {
        let day = Duration::from_secs(86_400);
        Self {
            path: PathBuf::from("audit"),
            fetches: true,
            rotate_size: 64 << 20,
            rotate_age: 30 * day,
            keep: 400 * day,
            keep_size: 10 << 30,
        }
    }
}

//! The `[ssh]` table of `gitmesh.toml`.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;
use serde::de::Deserializer;

use crate::model::setting::{duration, parsed};

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub listen: Vec<Listen>,
    pub user: String,
    pub max_connections: usize,
    pub max_sessions: usize,
    pub max_sessions_per_user: usize,
    #[serde(deserialize_with = "duration")]
    pub auth_timeout: Duration,
    #[serde(deserialize_with = "duration")]
    pub idle_timeout: Duration,
    pub explain_unknown_keys: bool,
    /// A file with the public keys of CAs, relative to the data directory; empty for none.
    pub user_ca: String,
    /// Fingerprints of keys and serial numbers of certificates.
    pub user_ca_revoked: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![Listen(SocketAddr::from(([0u16; 8], 22)))],
            user: "git".to_owned(),
            max_connections: 1024,
            max_sessions: 256,
            max_sessions_per_user: 32,
            auth_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(600),
            explain_unknown_keys: true,
            user_ca: String::new(),
            user_ca_revoked: Vec::new(),
        }
    }
}

/// An address to listen on, `[::]:22` or `127.0.0.1:2222`; port 0 asks the system for a free one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen(pub SocketAddr);

impl std::str::FromStr for Listen {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| {
            format!("'{text}' is no address to listen on; write an IP address and a port, as \"[::]:22\" or \"127.0.0.1:2222\"")
        })
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer)
    }
}

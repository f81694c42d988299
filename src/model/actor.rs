//! Who is calling.

use std::fmt;
use std::sync::Arc;

use super::{HostName, UserName};

/// A public key's fingerprint in OpenSSH's spelling, `SHA256:` and unpadded base64 (RFC 4648) of the key blob's digest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(String);

impl Fingerprint {
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// `None` unless the text is `SHA256:` and the 43 characters of a digest.
    pub fn parse(text: &str) -> Option<Self> {
        let digest = text.strip_prefix("SHA256:")?;
        let base64 = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
        (digest.len() == 43 && digest.bytes().all(base64)).then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// By whose word a key counts: an OpenSSH user certificate (OpenSSH, PROTOCOL.certkeys) that was found to be good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certified {
    /// Its principal.
    pub user: UserName,
    /// The key of the CA that signed it.
    pub ca: Fingerprint,
    pub serial: u64,
    /// What the CA calls it, free text in printable ASCII.
    pub id: String,
    /// From then on it is over, in seconds since 1970; the largest number means never.
    pub until: u64,
}

impl fmt::Display for Certified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" (serial {}) by CA {}", self.id.replace('"', "'"), self.serial, self.ca)
    }
}

/// Who a door has authenticated. What they may do is decided elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// A person or a program whose key is in `keydir/`, or counts by a certificate.
    User { name: UserName, key: Fingerprint, by: Option<Arc<Certified>> },
    /// Another node of the mesh, proved by its identity key.
    Node(HostName),
    /// The machine's root or the daemon's own user, past SSH; the trust boundary is the machine itself.
    Local,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User { name, .. } => name.fmt(f),
            Self::Node(node) => write!(f, "server-{node}"),
            Self::Local => f.write_str("local"),
        }
    }
}

/// The unguessable name of one push in flight: 32 lower-case hexadecimal digits, made by the daemon and given to
/// git's hooks. `Debug` hides it, since whoever holds it may answer for the push.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PushId(String);

impl PushId {
    /// Wraps 16 random bytes of the caller's.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(bytes.iter().map(|b| format!("{b:02x}")).collect())
    }

    /// `None` unless the text has the shape of a push id.
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit())).then(|| Self(text.to_owned()))
    }

    /// The secret itself, for git's environment.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PushId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PushId({}…)", &self.0[..6])
    }
}

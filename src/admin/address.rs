//! Where a node is reached over SSH.

use std::fmt;
use std::str::FromStr;

/// A login name, a host and a port, written `git@server2:22`, `git@[2001:db8::1]:2222`, `server2` or `ssh://git@server2:22`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub user: String,
    /// A host name or an IP address, without brackets.
    pub host: String,
    pub port: u16,
}

/// Why a text is no address. `Display` says how one is written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no address of a node; write it as git@server2:22 (or git@[2001:db8::1]:22)")]
pub struct NoAddress(String);

impl Address {
    const USER: &str = "git";
    const PORT: u16 = 22;

    /// `git@HOST:22`
    pub fn of_host(host: &str) -> Self {
        Self { user: Self::USER.to_owned(), host: host.to_owned(), port: Self::PORT }
    }

    /// What a user gives to `git clone` for a repository on that node; the short form as long as the port allows it.
    pub fn url(&self, repo: &str) -> String {
        match self {
            Self { user, host, port: Self::PORT } if !host.contains(':') => format!("{user}@{host}:{repo}.git"),
            _ => format!("ssh://{self}/{repo}.git"),
        }
    }

    /// How a user types `ssh` to that node.
    pub fn ssh(&self) -> String {
        match self.port {
            Self::PORT => format!("ssh {}@{}", self.user, self.host),
            port => format!("ssh -p {port} {}@{}", self.user, self.host),
        }
    }
}

impl FromStr for Address {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        let bad = || NoAddress(text.to_owned());
        let rest = text.strip_prefix("ssh://").unwrap_or(text);
        let (user, place) = rest.rsplit_once('@').unwrap_or((Self::USER, rest));
        let (host, port) = match place.strip_prefix('[') {
            Some(bracketed) => {
                let (host, after) = bracketed.split_once(']').ok_or_else(bad)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?;
                (host, if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or_else(bad)?) })
            }
            None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
        };
        // A leading '-' would be read as an option by an ssh that is handed this word.
        let word = |s: &str, more: &[char]| {
            s.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':')
                && s.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(&c))
        };
        let port = port.map_or(Some(Self::PORT), |port| port.parse().ok().filter(|port| *port != 0)).ok_or_else(bad)?;
        let host_ok = host.len() <= 253 && word(host, &['-', '_', '.', ':']);
        if !host_ok || user.len() > 32 || !word(user, &['-', '_', '.']) {
            return Err(bad());
        }
        Ok(Self { user: user.to_owned(), host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, host, port } = self;
        if host.contains(':') { write!(f, "{user}@[{host}]:{port}") } else { write!(f, "{user}@{host}:{port}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, canonical) in [
            ("server2", "git@server2:22"),
            ("git@server2", "git@server2:22"),
            ("gm@10.0.0.1:2222", "gm@10.0.0.1:2222"),
            ("ssh://git@server2:2222", "git@server2:2222"),
            ("git@[::1]:2222", "git@[::1]:2222"),
            ("git@[::1]", "git@[::1]:22"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), canonical);
        }
        for bad in
            ["", "git@", "-oProxyCommand=x", "git@-x", "a b", "h:0", "h:99999", "h:22:3", "[x]:1", "git@h\n", "::1"]
        {
            assert!(bad.parse::<Address>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_a_user_types() {
        let standard: Address = "server2".parse().unwrap();
        assert_eq!(standard.url("a/b"), "git@server2:a/b.git");
        assert_eq!(standard.ssh(), "ssh git@server2");
        let other: Address = "git@server2:2222".parse().unwrap();
        assert_eq!(other.url("a/b"), "ssh://git@server2:2222/a/b.git");
        assert_eq!(other.ssh(), "ssh -p 2222 git@server2");
    }
}

//! A node's word for one of its users, as it travels with what the node carries to a master.

use std::fmt;

use super::{Actor, Epoch, Fingerprint, UserName};

/// The version of the exec lines that begin with `gitmesh-forward`.
const VERSION: &str = "1";
/// Longest address of a caller, in bytes; an IPv6 address with its zone and port is shorter.
const FROM_MAX: usize = 100;

/// Who asks, as the node that let them in says. Whether it is believed is the master's own affair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voucher {
    pub user: UserName,
    /// The key that was proved to that node.
    pub key: Fingerprint,
    /// Where they connect from, for logs.
    pub from: String,
    /// The highest mastership that the node has promised for the repository.
    pub epoch: Epoch,
}

impl Voucher {
    pub fn actor(&self) -> Actor {
        Actor::User { name: self.user.clone(), key: self.key.clone() }
    }

    /// Reads the words that `Display` writes; unknown ones are of a later version and change nothing. The error is for
    /// whoever reads the answer.
    pub fn parse(words: &[String]) -> Result<Self, String> {
        let value = |key: &str| words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        match value("version") {
            Some(VERSION) => {}
            other => {
                let other = other.unwrap_or("none");
                return Err(format!(
                    "this node speaks version {VERSION} of forwarding, the other {other}; upgrade the older one"
                ));
            }
        }
        let user = value("user").ok_or("what was forwarded names no user")?;
        let user = UserName::new(user).map_err(|why| format!("the user of what was forwarded: {why}"))?;
        let key = value("key").and_then(Fingerprint::parse).ok_or("what was forwarded names no key")?;
        let from = value("from").filter(|from| is_plain(from)).ok_or("what was forwarded names no address")?.to_owned();
        let epoch = value("epoch").and_then(Epoch::parse).ok_or("what was forwarded names no epoch")?;
        Ok(Self { user, key, from, epoch })
    }
}

fn is_plain(from: &str) -> bool {
    !from.is_empty() && from.len() <= FROM_MAX && from.bytes().all(|b| b.is_ascii_graphic() && !b"'\"\\".contains(&b))
}

impl fmt::Display for Voucher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, key, from, epoch } = self;
        write!(f, "version={VERSION} user={user} key={key} from={from} epoch={epoch}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_travels_as_words() {
        let line = "version=1 user=bob@x key=SHA256:zbv/nU7iZdO0fB0DalMI70dP6/yFD8sctXvvW4+OokY from=[::1]:4 epoch=2";
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let voucher = Voucher::parse(&words(&format!("{line} later=x"))).expect("a voucher");
        assert_eq!(voucher.to_string(), line);
        assert_eq!(voucher.actor().to_string(), "bob@x");
        for (from, to) in [
            ("version=1", "version=2"),
            ("version=1", ""),
            ("user=bob@x", "user=../x"),
            ("user=bob@x ", ""),
            ("key=SHA256:", "key=MD5:"),
            ("OokY", "Oo"),
            ("from=[::1]:4", "from="),
            ("from=[::1]:4", "from='x'"),
            ("epoch=2", "epoch=0"),
        ] {
            let bad = line.replace(from, to);
            assert!(Voucher::parse(&words(&bad)).is_err(), "{bad}");
        }
    }
}

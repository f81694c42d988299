//! A node's word for one of its users, as it travels with what the node carries to a master.

use std::fmt;
use std::sync::Arc;

use super::{Actor, Certified, Epoch, Fingerprint, UserName};

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
    /// The certificate that it counts by.
    pub by: Option<Arc<Certified>>,
    /// Where they connect from, for logs.
    pub from: String,
    /// The highest mastership that the node has promised for the repository.
    pub epoch: Epoch,
}

impl Voucher {
    pub fn actor(&self) -> Actor {
        Actor::User { name: self.user.clone(), key: self.key.clone(), by: self.by.clone() }
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
        let by = value("ca").map(|ca| {
            let number = |key| value(key).and_then(|number| number.parse::<u64>().ok());
            let (ca, serial, until) = (Fingerprint::parse(ca)?, number("serial")?, number("until")?);
            let id = value("id").filter(|id| is_plain(id)).unwrap_or_default().to_owned();
            Some(Arc::new(Certified { user: user.clone(), ca, serial, id, until }))
        });
        let by = by.map(|by| by.ok_or("what was forwarded tells of no whole certificate")).transpose()?;
        Ok(Self { user, key, by, from, epoch })
    }
}

fn is_plain(from: &str) -> bool {
    !from.is_empty() && from.len() <= FROM_MAX && from.bytes().all(|b| b.is_ascii_graphic() && !b"'\"\\".contains(&b))
}

impl fmt::Display for Voucher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, key, by, from, epoch } = self;
        write!(f, "version={VERSION} user={user} key={key} from={from} epoch={epoch}")?;
        // A node that does not know these words refuses a key that it does not hold.
        let Some(Certified { ca, serial, id, until, .. }) = by.as_deref() else { return Ok(()) };
        write!(f, " ca={ca} serial={serial} until={until}")?;
        if is_plain(id) { write!(f, " id={id}") } else { Ok(()) }
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
        let ca = "ca=SHA256:zbv/nU7iZdO0fB0DalMI70dP6/yFD8sctXvvW4+OokY serial=7 until=9";
        for certified in [format!("{line} {ca}"), format!("{line} {ca} id=laptop")] {
            let voucher = Voucher::parse(&words(&certified)).expect("a voucher");
            assert_eq!(voucher.to_string(), certified);
            let by = voucher.by.expect("a certificate");
            assert_eq!((by.user.as_str(), by.serial, by.until), ("bob@x", 7, 9));
        }
        for (from, to) in
            [("ca=SHA256:", "ca=MD5:"), ("until=9", ""), ("until=9", "until=x"), ("serial=7", "serial=-1")]
        {
            let bad = format!("{line} {}", ca.replace(from, to));
            assert!(Voucher::parse(&words(&bad)).is_err(), "{bad}");
        }
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

//! From where a key may be used: `from="..."` in front of it (sshd(8), AUTHORIZED_KEYS FILE FORMAT; ssh_config(5),
//! PATTERNS) and the `source-address` of a certificate (PROTOCOL.certkeys).
//!
//! As an sshd with `UseDNS no`, which is its default: addresses are compared, and no name is ever looked up.

use std::net::IpAddr;

/// Addresses, networks and patterns of addresses; one that is refused wins over all that are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressList {
    text: String,
    all: Vec<(bool, Pattern)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    /// An address and how many of its first bits count.
    Network(IpAddr, u32),
    /// `10.0.*`, by the address as text.
    Text(String),
}

impl AddressList {
    /// A list of patterns divided by commas; the error is the part that is none. A name is one that matches nobody,
    /// and is an error only after `!`, where it would let in whom it is to keep out.
    pub fn parse(text: &str) -> Result<Self, String> {
        let all: Result<_, _> = text.split(',').map(|one| parse(one.trim())).collect();
        Ok(Self { text: text.to_owned(), all: all? })
    }

    /// Addresses and networks alone, as a certificate has them.
    pub fn of_networks(text: &str) -> Result<Self, String> {
        let list = Self::parse(text)?;
        let is_network = |(negated, pattern): &(bool, Pattern)| !negated && matches!(pattern, Pattern::Network(..));
        if list.all.iter().all(is_network) { Ok(list) } else { Err(text.to_owned()) }
    }

    pub fn admit(&self, from: IpAddr) -> bool {
        // What listens on [::] meets IPv4 as ::ffff:192.0.2.1.
        let (from, text) = (from.to_canonical(), from.to_canonical().to_string());
        let fits = |pattern: &Pattern| match pattern {
            Pattern::Network(network, bits) => starts_alike(*network, from, *bits),
            Pattern::Text(pattern) => text_matches(pattern.as_bytes(), text.as_bytes()),
        };
        let (refused, taken): (Vec<_>, Vec<_>) = self.all.iter().partition(|(negated, _)| *negated);
        !refused.iter().any(|(_, pattern)| fits(pattern)) && taken.iter().any(|(_, pattern)| fits(pattern))
    }

    /// A part that no address can match: the name of a host.
    pub fn name(&self) -> Option<&str> {
        self.all.iter().find_map(|(_, pattern)| match pattern {
            Pattern::Text(text) if !is_of_address(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

fn is_of_address(pattern: &str) -> bool {
    pattern.bytes().all(|b| b.is_ascii_hexdigit() || b".:*?".contains(&b))
}

fn parse(one: &str) -> Result<(bool, Pattern), String> {
    let (negated, pattern) = one.strip_prefix('!').map_or((false, one), |rest| (true, rest));
    let wrong = || Err(one.to_owned());
    if let Ok(address) = pattern.parse::<IpAddr>() {
        return Ok((negated, Pattern::Network(address, length(address))));
    }
    if let Some((address, bits)) = pattern.split_once('/') {
        let (Ok(address), Ok(bits)) = (address.parse::<IpAddr>(), bits.parse::<u32>()) else { return wrong() };
        // As in sshd, 10.0.0.1/8 is a mistake: nobody can tell which of the two was meant.
        let inside = length(address).checked_sub(bits).map(|free| value(address).trailing_zeros() >= free);
        let is_network = inside.is_some_and(|inside| inside || value(address) == 0);
        return if is_network { Ok((negated, Pattern::Network(address, bits))) } else { wrong() };
    }
    let pattern = pattern.to_ascii_lowercase();
    let is_plain = pattern.bytes().all(|b| b.is_ascii_alphanumeric() || b".:*?-_".contains(&b));
    if pattern.is_empty() || !is_plain || (negated && !is_of_address(&pattern)) {
        return wrong();
    }
    Ok((negated, Pattern::Text(pattern)))
}

fn length(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn value(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn starts_alike(network: IpAddr, from: IpAddr, bits: u32) -> bool {
    let free = length(network) - bits;
    let part = |address: IpAddr| value(address).checked_shr(free).unwrap_or(0);
    network.is_ipv4() == from.is_ipv4() && part(network) == part(from)
}

/// `*` and `?`; an address has 45 characters at most.
fn text_matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
            }
            Some(b) if *b == b'?' || *b == text[t] => (p, t) = (p + 1, t + 1),
            _ => {
                let Some((after, taken)) = star else { return false };
                star = Some((after, taken + 1));
                (p, t) = (after, taken + 1);
            }
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_let_in() {
        for (list, inside, outside) in [
            ("192.0.2.7", "192.0.2.7", "192.0.2.70"),
            ("192.0.2.7", "::ffff:192.0.2.7", "::ffff:192.0.2.8"),
            ("10.0.0.0/8,192.0.2.7", "10.255.1.2", "11.0.0.0"),
            ("0.0.0.0/0", "203.0.113.9", "::1"),
            ("::/0", "2001:db8::1", "10.0.0.1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::1"),
            ("2001:DB8:0::1", "2001:db8::1", "2001:db8::2"),
            ("10.1.*", "10.1.2.3", "10.10.2.3"),
            ("10.1.2.?", "10.1.2.3", "10.1.2.34"),
            ("2001:DB8:*", "2001:db8:5::6", "2001:db9::1"),
            ("*,!10.0.0.0/8", "11.0.0.1", "10.0.0.1"),
            ("!10.0.0.5,10.0.0.*", "10.0.0.6", "10.0.0.5"),
            ("laptop.example.com,10.0.0.1", "10.0.0.1", "10.0.0.2"),
            ("192.0.2.1, 192.0.2.2", "192.0.2.2", "192.0.2.3"),
        ] {
            let sources = AddressList::parse(list).unwrap();
            assert!(sources.admit(inside.parse().unwrap()), "{list}: {inside}");
            assert!(!sources.admit(outside.parse().unwrap()), "{list}: {outside}");
        }
        let refused_only = AddressList::parse("!10.0.0.1").unwrap();
        assert!(!refused_only.admit("10.0.0.2".parse().unwrap()), "nobody is taken");
    }

    #[test]
    fn what_is_no_pattern() {
        for bad in
            ["", ",", "10.0.0.1,", "10.0.0.1/8", "10.0.0.0/33", "::/129", "x/8", "!evil.example", "a b", "10.0.0.0/"]
        {
            assert!(AddressList::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(AddressList::parse("10.0.0.1,*.example.com").unwrap().name(), Some("*.example.com"));
        assert_eq!(AddressList::parse("10.0.0.1,10.*,fe80::*").unwrap().name(), None);
        assert!(AddressList::of_networks("10.0.0.0/8,::1").is_ok());
        for bad in ["10.*", "!10.0.0.1", "", "host"] {
            assert!(AddressList::of_networks(bad).is_err(), "{bad}");
        }
    }
}

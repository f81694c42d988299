//! The options in front of a key (`expiry-time="20261201Z" ssh-ed25519 AAAA… me`; sshd(8), AUTHORIZED_KEYS FILE
//! FORMAT), as far as they have an effect here.

use super::address_list::AddressList;
use super::key::{KeyProblem, is_algorithm, split_words};
use crate::model::time::Stamp;

/// What stands in front of a key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyOptions {
    /// From then on the key opens nothing.
    pub expires: Option<Stamp>,
    /// From elsewhere it opens nothing.
    pub from: Option<AddressList>,
    /// There is another option, which has no effect here.
    pub others: bool,
}

const EXPIRY: &str = "expiry-time";
const FROM: &str = "from";
/// Makes a key a CA's, with which nobody logs in.
const AUTHORITY: &str = "cert-authority";

/// The options of a list, divided by commas outside quotes.
fn each(list: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    list.split(move |c: char| {
        quoted ^= c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        c == ',' && !quoted
    })
}

fn value_of<'a>(option: &'a str, wanted: &str) -> Option<&'a str> {
    let (name, value) = option.split_once('=')?;
    name.eq_ignore_ascii_case(wanted).then(|| value.trim_matches('"'))
}

impl KeyOptions {
    pub(super) fn parse(list: &str, line: u32) -> Result<Self, KeyProblem> {
        let mut found = Self::default();
        for option in each(list) {
            let is = |name: &str| option.eq_ignore_ascii_case(name);
            if let Some(value) = value_of(option, EXPIRY) {
                let at = Stamp::parse_compact(value);
                let at = at.ok_or_else(|| KeyProblem::BadExpiry { line, said: value.to_owned() })?;
                // Of several the earliest counts, as in sshd.
                found.expires = Some(found.expires.map_or(at, |earlier| earlier.min(at)));
            } else if let Some(value) = value_of(option, FROM) {
                let bad = |said| KeyProblem::BadFrom { line, said };
                // Two of them are a mistake in sshd too.
                if found.from.is_some() {
                    return Err(bad(value.to_owned()));
                }
                found.from = Some(AddressList::parse(value).map_err(bad)?);
            } else if is(EXPIRY) || is(FROM) {
                // Without a value it would restrict nothing, and nobody would know.
                return Err(KeyProblem::NoValue { line, said: option.to_owned() });
            } else if is(AUTHORITY) {
                return Err(KeyProblem::Authority { line });
            } else {
                found.others = true;
            }
        }
        Ok(found)
    }

    /// What stands in front of a key that has these, with the blank behind it.
    pub fn written(&self) -> String {
        let expires = self.expires.map(|at| format!("{EXPIRY}=\"{}\"", at.compact()));
        let from = self.from.as_ref().map(|from| format!("{FROM}=\"{}\"", from.as_str()));
        let all: Vec<String> = expires.into_iter().chain(from).collect();
        if all.is_empty() { String::new() } else { format!("{} ", all.join(",")) }
    }
}

/// A key's line with another moment of expiry, or none; all else stays as it is.
pub fn with_expiry(line: &str, expires: Option<Stamp>) -> String {
    let line = line.trim();
    let words = split_words(line);
    let list = words.first().filter(|first| !is_algorithm(first));
    let rest = list.map_or(line, |list| line[list.len()..].trim_start());
    let kept = list.into_iter().flat_map(|list| each(list)).filter(|option| value_of(option, EXPIRY).is_none());
    let expiry = expires.map(|at| format!("{EXPIRY}=\"{}\"", at.compact()));
    let options: Vec<String> = expiry.into_iter().chain(kept.map(str::to_owned)).collect();
    if options.is_empty() { rest.to_owned() } else { format!("{} {rest}", options.join(",")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_written() {
        let at = Stamp::parse_compact("20261201").unwrap();
        let read = |list: &str| KeyOptions::parse(list, 1);
        let plain = KeyOptions { expires: Some(at), ..KeyOptions::default() };
        assert_eq!(read(r#"expiry-time="20261201Z""#), Ok(plain.clone()));
        let both = read(r#"environment="a,b \" expiry-time=\"1\"",Expiry-Time="202612010000""#);
        assert_eq!(both, Ok(KeyOptions { others: true, ..plain }));
        let bound = read(r#"From="10.0.0.0/8,192.0.2.*",expiry-time="20261201",no-pty"#).unwrap();
        assert_eq!(bound.from.as_ref().map(AddressList::as_str), Some("10.0.0.0/8,192.0.2.*"));
        assert!(bound.others && bound.expires == Some(at), "{bound:?}");
        assert_eq!(bound.written(), r#"expiry-time="20261201Z",from="10.0.0.0/8,192.0.2.*" "#);
        for bad in [r#"from="10.0.0.1/8""#, r#"from="""#, r#"from="10.0.0.1",from="10.0.0.2""#, r#"from="!host""#] {
            assert!(matches!(read(bad), Err(KeyProblem::BadFrom { .. })), "{bad}");
        }
        for bad in ["from", "expiry-time"] {
            assert!(matches!(read(bad), Err(KeyProblem::NoValue { .. })), "{bad}");
        }
        assert_eq!(read("no-pty,Cert-Authority"), Err(KeyProblem::Authority { line: 1 }));
        assert_eq!(read(r#"expiry-time="20270101",expiry-time="20261201""#).unwrap().expires, Some(at));
        for bad in [r#"expiry-time="tomorrow""#, r#"expiry-time="20261301""#, r#"expiry-time="""#, "expiry-time=x"] {
            assert!(matches!(read(bad), Err(KeyProblem::BadExpiry { .. })), "{bad}");
        }
        let key = "ssh-ed25519 AAAA me at home";
        let dated = with_expiry(key, Some(at));
        assert_eq!(dated, r#"expiry-time="20261201Z" ssh-ed25519 AAAA me at home"#);
        assert_eq!(with_expiry(&dated, None), key);
        let other = r#"from="a, b",expiry-time="20200101" ssh-ed25519 AAAA"#;
        assert_eq!(with_expiry(other, Some(at)), r#"expiry-time="20261201Z",from="a, b" ssh-ed25519 AAAA"#);
        assert_eq!(with_expiry(other, None), r#"from="a, b" ssh-ed25519 AAAA"#);
    }
}

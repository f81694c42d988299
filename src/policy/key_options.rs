//! The options in front of a key (`expiry-time="20261201Z" ssh-ed25519 AAAA… me`; sshd(8), AUTHORIZED_KEYS FILE
//! FORMAT), as far as they have an effect here.

use super::key::{KeyProblem, is_algorithm, split_words};
use crate::model::time::Stamp;

/// What stands in front of a key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyOptions {
    /// From then on the key opens nothing.
    pub expires: Option<Stamp>,
    /// There is another option, which has no effect here.
    pub others: bool,
}

const EXPIRY: &str = "expiry-time";

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
            match value_of(option, EXPIRY) {
                Some(value) => {
                    let at = Stamp::parse_compact(value);
                    let at = at.ok_or_else(|| KeyProblem::BadExpiry { line, said: value.to_owned() })?;
                    // Of several the earliest counts, as in sshd.
                    found.expires = Some(found.expires.map_or(at, |earlier| earlier.min(at)));
                }
                None => found.others = true,
            }
        }
        Ok(found)
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
        assert_eq!(read(r#"expiry-time="20261201Z""#), Ok(KeyOptions { expires: Some(at), others: false }));
        let both = read(r#"from="a,b \" expiry-time=\"1\"",Expiry-Time="202612010000""#);
        assert_eq!(both, Ok(KeyOptions { expires: Some(at), others: true }));
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

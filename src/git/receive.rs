//! What a client says when it pushes, and what it is told at the end (gitprotocol-pack(5), "Pushing Data To a Server").

use std::path::Path;

use super::pktline::{self, Packet};
use super::protocol::ETAG;
use crate::model::{Oid, RefName, RefUpdate};

/// Hooks of the receiving side (githooks(5)) that a site may have put beside ours.
const OTHERS: [&str; 4] = ["pre-receive", "update", "post-update", "reference-transaction"];

/// Whether our hooks are the only ones in their directory; a site's own are git's to run.
pub fn has_only_our_hooks(dir: &Path) -> bool {
    !OTHERS.iter().any(|name| dir.join(name).exists())
}

/// What the lines before the pack ask for.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// Nothing; the client only looked.
    Nothing,
    Push(Push),
    /// A signed or a shallow push, or one of another object format: for git.
    Other,
}

/// A push as we take it ourselves.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Push {
    pub updates: Vec<RefUpdate>,
    /// Names that are no reference's, as they came, with what is wrong.
    pub bad: Vec<(String, &'static str)>,
    pub atomic: bool,
    pub quiet: bool,
    /// The answer is multiplexed with progress.
    pub banded: bool,
    /// The client wants to know what became of each update.
    pub report: bool,
    /// Options follow, up to another flush.
    pub options: bool,
}

/// Takes apart the commands of a push, their flush included.
pub fn parse(lines: &[u8]) -> Asked {
    let mut push = Push::default();
    let mut at = 0;
    let mut first = true;
    while let Ok(Some((packet, length))) = pktline::decode(&lines[at..]) {
        at += length;
        let Packet::Data(_) = packet else { break };
        let line = packet.text().unwrap_or_default();
        let (command, capabilities) = match line.iter().position(|b| *b == 0) {
            Some(end) if first => (&line[..end], &line[end + 1..]),
            _ => (line, &b""[..]),
        };
        first = false;
        for capability in String::from_utf8_lossy(capabilities).split_ascii_whitespace() {
            match capability {
                "report-status" | "report-status-v2" => push.report = true,
                "side-band-64k" => push.banded = true,
                "quiet" => push.quiet = true,
                "atomic" => push.atomic = true,
                "push-options" => push.options = true,
                "delete-refs" | "ofs-delta" | "object-format=sha1" => {}
                other if other.starts_with("agent=") => {}
                _ => return Asked::Other,
            }
        }
        let Some((old, new, name)) = update(command) else { return Asked::Other };
        match std::str::from_utf8(name).ok().and_then(RefName::parse) {
            Some(name) => push.updates.push(RefUpdate { name, old, new }),
            None => push.bad.push((String::from_utf8_lossy(name).into_owned(), "funny refname")),
        }
    }
    match push.updates.is_empty() && push.bad.is_empty() {
        true if lines == pktline::FLUSH || lines.is_empty() => Asked::Nothing,
        true => Asked::Other,
        false => Asked::Push(push),
    }
}

fn update(command: &[u8]) -> Option<(Oid, Oid, &[u8])> {
    let oid = |bytes: &[u8]| std::str::from_utf8(bytes).ok().and_then(Oid::parse);
    let ([old @ .., b' '], rest) = command.split_at_checked(41)? else { return None };
    let ([new @ .., b' '], name) = rest.split_at_checked(41)? else { return None };
    Some((oid(old)?, oid(new)?, name))
}

/// The report: whether the pack was taken, what became of each update, and for a master what the references are now.
pub fn report(unpacked: Result<(), &str>, results: &[(String, Option<String>)], etag: Option<&str>) -> Vec<u8> {
    let mut out = Vec::new();
    pktline::encode(&mut out, format!("unpack {}\n", unpacked.err().unwrap_or("ok")).as_bytes());
    for (name, refused) in results {
        // One line each, whatever a reason holds.
        let line = match refused {
            None => format!("ok {name}\n"),
            Some(why) => format!("ng {name} {}\n", why.replace('\n', " ")),
        };
        pktline::encode(&mut out, &line.as_bytes()[..line.len().min(pktline::PAYLOAD_MAX)]);
    }
    if let Some(etag) = etag {
        pktline::encode(&mut out, format!("option {ETAG} {etag}\n").as_bytes());
    }
    out.extend_from_slice(pktline::FLUSH);
    out
}

/// Lines for `git update-ref --stdin` (git-update-ref(1)): all of them in one transaction.
pub fn transaction(updates: &[RefUpdate]) -> String {
    updates.iter().fold(String::new(), |mut text, RefUpdate { name, old, new }| {
        text.push_str(&match (old.is_zero(), new.is_zero()) {
            (_, true) => format!("delete {name} {old}\n"),
            (true, false) => format!("create {name} {new}\n"),
            (false, false) => format!("update {name} {new} {old}\n"),
        });
        text
    })
}

/// How many objects a pack holds, by its first 12 bytes (gitformat-pack(5)).
pub fn pack_objects(header: &[u8; 12]) -> Option<u32> {
    let count = header.strip_prefix(b"PACK\0\0\0\x02")?;
    Some(u32::from_be_bytes(count.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        for line in text {
            pktline::encode(&mut out, line.as_bytes());
        }
        out.extend_from_slice(pktline::FLUSH);
        out
    }

    #[test]
    fn commands_are_taken_apart() {
        let (zero, one) = ("0".repeat(40), "1".repeat(40));
        let first = format!("{zero} {one} refs/heads/a\0 report-status-v2 side-band-64k atomic agent=git/2.47");
        let Asked::Push(push) = parse(&lines(&[&first, &format!("{one} {zero} refs/heads/b\n")])) else {
            panic!("a push")
        };
        assert_eq!((push.updates.len(), push.atomic, push.banded, push.options), (2, true, true, false));
        assert_eq!(transaction(&push.updates), format!("create refs/heads/a {one}\ndelete refs/heads/b {one}\n"));
        let Asked::Push(bad) = parse(&lines(&[&format!("{zero} {one} refs/heads/a..b\0")])) else { panic!("a push") };
        assert_eq!(bad.bad, [("refs/heads/a..b".to_owned(), "funny refname")]);
        assert_eq!(parse(pktline::FLUSH), Asked::Nothing);
        for other in [
            &["shallow x"][..],
            &["push-cert\0x"],
            &[&format!("{zero} {one} refs/heads/a\0push-cert=x")],
            &[&first, "shallow 1111"],
            &[&format!("{zero} {}", "1".repeat(40))],
        ] {
            assert_eq!(parse(&lines(other)), Asked::Other, "{other:?}");
        }
    }

    #[test]
    fn the_report_is_gits() {
        let results = [("refs/heads/a".to_owned(), None), ("refs/heads/b".to_owned(), Some("no\nway".to_owned()))];
        assert_eq!(
            report(Ok(()), &results, None),
            b"000eunpack ok\n0014ok refs/heads/a\n001bng refs/heads/b no way\n0000"
        );
        assert_eq!(report(Err("index-pack failed"), &[], None), b"001dunpack index-pack failed\n0000");
    }

    #[test]
    fn the_header_of_a_pack() {
        assert_eq!(pack_objects(b"PACK\0\0\0\x02\0\0\0\x07"), Some(7));
        assert_eq!(pack_objects(b"PACK\0\0\0\x03\0\0\0\x07"), None);
    }
}

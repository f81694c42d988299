//! Fetching as the serving side sees it: what is offered, and what a client asks, in protocol version 2
//! (gitprotocol-v2(5)) and in the first one (gitprotocol-pack(5)).
//!
//! Only what is asked often is taken apart: listing references, and a clone's fetch. For everything else the request
//! is handed to git as it came.

use super::pktline::{self, Packet};
use super::refs::{Head, Hex, Peeled, Reference};
use crate::model::Oid;

/// More prefixes than this are ignored and all references are listed, as git does (ls-refs.c, TOO_MANY_PREFIXES).
const PREFIXES_MAX: usize = 65536;

/// Sections of a repository's configuration (git-config(1)) that change what is served, or how it is stored. What they
/// say is left to git.
pub const OF_FETCHES: &[&str] = &["uploadpack", "transfer", "lsrefs", "protocol", "extensions", "includeif", "bundle"];
/// The same for pushes.
pub const OF_PUSHES: &[&str] = &["receive", "transfer", "fsck", "protocol", "extensions", "includeif"];

/// What a client may ask for: what every supported git offers with our settings.
pub fn advertisement() -> Vec<u8> {
    let mut out = Vec::new();
    let agent = concat!("agent=gitmesh/", env!("CARGO_PKG_VERSION"), "\n");
    for line in [
        "version 2\n",
        agent,
        "ls-refs=unborn\n",
        "fetch=shallow wait-for-done filter\n",
        "server-option\n",
        "object-format=sha1\n",
    ] {
        pktline::encode(&mut out, line.as_bytes());
    }
    out.extend_from_slice(pktline::FLUSH);
    out
}

/// What the value of `GIT_PROTOCOL` asks for; the highest version named counts.
pub fn version(protocol: Option<&str>) -> Version {
    let versions = protocol.unwrap_or_default().split(':').filter_map(|word| word.strip_prefix("version="));
    match versions.map(|version| version.parse::<u32>().unwrap_or(u32::MAX)).max() {
        None | Some(0) => Version::First,
        Some(2) => Version::Second,
        Some(_) => Version::Other,
    }
}

/// A version of the protocol that a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    First,
    Second,
    /// Left to git.
    Other,
}

/// Whether a repository is one that we serve like git would. `config` is its own configuration, `settings` the file
/// of ours that it includes, `others` the sections that are left to git.
pub fn is_plain(config: &str, settings: &str, others: &[&str]) -> bool {
    let mut include = false;
    config.lines().map(str::trim).all(|line| {
        if let Some(section) = line.strip_prefix('[') {
            let end = section.find([']', ' ', '"', '.']).unwrap_or(section.len());
            let name = section[..end].to_ascii_lowercase();
            include = name == "include";
            let one_line = section.find(']').is_some_and(|at| !section[at + 1..].trim().is_empty());
            return !(others.contains(&name.as_str()) || include && one_line);
        }
        let path = line.split_once('=').map(|(key, value)| (key.trim(), value.trim().trim_matches('"')));
        !include || path.is_none_or(|(key, value)| !key.eq_ignore_ascii_case("path") || value == settings)
    })
}

/// One request, as far as we answer it ourselves.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    LsRefs(LsRefs),
    Clone(Clone),
    /// For git.
    Other,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct LsRefs {
    pub peel: bool,
    pub symrefs: bool,
    pub unborn: bool,
    /// Empty for all references.
    pub prefixes: Vec<Vec<u8>>,
}

/// A fetch of everything that the wanted objects reach: the client has nothing yet.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Clone {
    pub wants: Vec<Oid>,
    pub progress: bool,
    pub include_tag: bool,
    pub ofs_delta: bool,
}

/// Takes apart one whole request, its final flush included.
pub fn parse(request: &[u8]) -> Asked {
    let mut lines = Vec::new();
    let (mut at, mut arguments) = (0, None);
    while let Ok(Some((packet, length))) = pktline::decode(&request[at..]) {
        at += length;
        match packet {
            Packet::Data(_) => lines.push(packet.text().unwrap_or_default()),
            Packet::Delim if arguments.is_none() => arguments = Some(lines.len()),
            Packet::Flush if at == request.len() => break,
            _ => return Asked::Other,
        }
    }
    let (head, arguments) = lines.split_at(arguments.unwrap_or(lines.len()));
    let mut command = None;
    for line in head {
        if let Some(name) = line.strip_prefix(b"command=") {
            if command.replace(name).is_some() {
                return Asked::Other;
            }
        } else if !(line.starts_with(b"agent=") || *line == b"object-format=sha1") {
            return Asked::Other;
        }
    }
    match command {
        Some(b"ls-refs") => ls_refs(arguments),
        Some(b"fetch") => clone(arguments),
        _ => None,
    }
    .unwrap_or(Asked::Other)
}

/// Whether a request is a fetch by somebody who has nothing yet, however shallow or partial it is to be.
pub fn wants_all(request: &[u8]) -> bool {
    let (mut at, mut fetches) = (0, false);
    while let Ok(Some((packet, length))) = pktline::decode(&request[at..]) {
        at += length;
        match packet.text() {
            Some(b"command=fetch") => fetches = true,
            Some(text) if text.starts_with(b"have ") => return false,
            _ => {}
        }
    }
    fetches
}

fn ls_refs(arguments: &[&[u8]]) -> Option<Asked> {
    let mut asked = LsRefs::default();
    for argument in arguments {
        match *argument {
            b"peel" => asked.peel = true,
            b"symrefs" => asked.symrefs = true,
            b"unborn" => asked.unborn = true,
            other => asked.prefixes.push(other.strip_prefix(b"ref-prefix ")?.to_vec()),
        }
    }
    if asked.prefixes.len() >= PREFIXES_MAX {
        asked.prefixes.clear();
    }
    Some(Asked::LsRefs(asked))
}

fn clone(arguments: &[&[u8]]) -> Option<Asked> {
    let mut asked = Clone { progress: true, ..Clone::default() };
    let mut done = false;
    for argument in arguments {
        match *argument {
            b"done" => done = true,
            b"thin-pack" => {} // nothing to be thin against
            b"no-progress" => asked.progress = false,
            b"include-tag" => asked.include_tag = true,
            b"ofs-delta" => asked.ofs_delta = true,
            other => {
                let want = std::str::from_utf8(other.strip_prefix(b"want ")?).ok()?;
                asked.wants.push(Oid::parse(want).filter(|oid| oid.as_str().len() == 40)?);
            }
        }
    }
    (done && !asked.wants.is_empty()).then_some(Asked::Clone(asked))
}

/// Takes apart the wants of a client that speaks the first version, their flush included. `None` for those that only
/// git can answer; it is a clone's if the next line is [`is_done`].
pub fn parse_first(wants: &[u8]) -> Option<Clone> {
    let mut asked = Clone { progress: true, ..Clone::default() };
    let (mut at, mut banded) = (0, false);
    while let Ok(Some((packet, length))) = pktline::decode(&wants[at..]) {
        at += length;
        if packet == Packet::Flush {
            break;
        }
        let text = std::str::from_utf8(packet.text()?.strip_prefix(b"want ")?).ok()?;
        let (oid, capabilities) = text.split_once(' ').unwrap_or((text, ""));
        asked.wants.push(Oid::parse(oid).filter(|oid| oid.as_str().len() == 40)?);
        for capability in capabilities.split_ascii_whitespace() {
            match capability {
                "side-band-64k" => banded = true,
                "ofs-delta" => asked.ofs_delta = true,
                "include-tag" => asked.include_tag = true,
                "no-progress" => asked.progress = false,
                "thin-pack" | "multi_ack" | "multi_ack_detailed" | "object-format=sha1" => {}
                // git names what it could ask for; who does ask says so in a line of its own.
                "deepen-since" | "deepen-not" | "filter" => {}
                other if other.starts_with("agent=") => {}
                _ => return None,
            }
        }
    }
    (at == wants.len() && banded && !asked.wants.is_empty()).then_some(asked)
}

/// Whether this line, right after the wants, says that the client has nothing.
pub fn is_done(packet: Packet<'_>) -> bool {
    packet.text() == Some(b"done")
}

/// Of a replica that speaks to its master: what its references are, see [`super::etag`]. With `=` and the etag among the
/// capabilities, and as an option of the report after a push.
pub const ETAG: &str = "gitmesh-etag";
/// The capability of a replica whose etag is the one that its master has told: it lists no references.
pub const UNCHANGED: &str = "gitmesh-unchanged";

/// Writes the advertisement of the first version, reference by reference.
pub struct Advertisement {
    capabilities: String,
    /// What HEAD names, for the capability `symref`.
    head: Option<Vec<u8>>,
    begun: bool,
}

impl Advertisement {
    /// For git-upload-pack.
    pub fn of_fetch() -> Self {
        let capabilities = concat!(
            "multi_ack thin-pack side-band side-band-64k ofs-delta shallow deepen-since deepen-not deepen-relative ",
            "no-progress include-tag multi_ack_detailed filter object-format=sha1 agent=gitmesh/",
            env!("CARGO_PKG_VERSION")
        );
        Self { capabilities: capabilities.to_owned(), head: None, begun: false }
    }

    /// For git-receive-pack.
    pub fn of_push() -> Self {
        let capabilities = concat!(
            "report-status report-status-v2 delete-refs quiet atomic ofs-delta push-options side-band-64k ",
            "object-format=sha1 agent=gitmesh/",
            env!("CARGO_PKG_VERSION")
        );
        Self { capabilities: capabilities.to_owned(), head: None, begun: false }
    }

    /// For a master that speaks of etags.
    pub fn with_etag(mut self, etag: &str, unchanged: bool) -> Self {
        self.capabilities.push_str(&format!(" {ETAG}={etag}"));
        if unchanged {
            self.capabilities.push_str(&format!(" {UNCHANGED}"));
        }
        self
    }

    pub fn head(&mut self, out: &mut Vec<u8>, head: &Head) {
        if let Head::Branch(name, Some(_)) = head {
            self.head = Some(name.clone());
        }
        if let Head::Detached(oid) | Head::Branch(_, Some(oid)) = head {
            self.line(out, oid, b"HEAD");
        }
    }

    pub fn reference(&mut self, out: &mut Vec<u8>, reference: &Reference) {
        self.line(out, &reference.oid, &reference.name);
        if let Peeled::To(oid) = reference.peeled {
            self.line(out, &oid, &[&reference.name, &b"^{}"[..]].concat());
        }
    }

    /// The end; a repository without references says at least what it can do.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        if !self.begun {
            self.line(out, &[b'0'; 40], b"capabilities^{}");
        }
        out.extend_from_slice(pktline::FLUSH);
    }

    fn line(&mut self, out: &mut Vec<u8>, oid: &Hex, name: &[u8]) {
        let mut line = [&oid[..], b" ", name].concat();
        if !std::mem::replace(&mut self.begun, true) {
            line.push(0);
            line.extend_from_slice(self.capabilities.as_bytes());
            if let Some(head) = &self.head {
                line.extend_from_slice(b" symref=HEAD:");
                line.extend_from_slice(head);
            }
        }
        line.push(b'\n');
        pktline::encode(out, &line);
    }
}

impl LsRefs {
    /// Whether HEAD is asked for.
    pub fn head(&self) -> bool {
        self.prefixes.is_empty() || self.prefixes.iter().any(|prefix| b"HEAD".starts_with(prefix))
    }

    /// Appends the line of HEAD.
    pub fn write_head(&self, out: &mut Vec<u8>, head: &Head) {
        let line = match head {
            Head::Detached(oid) => [oid, &b" HEAD"[..]].concat(),
            Head::Branch(name, Some(oid)) if self.symrefs => [oid, &b" HEAD symref-target:"[..], name].concat(),
            Head::Branch(_, Some(oid)) => [oid, &b" HEAD"[..]].concat(),
            Head::Branch(name, None) if self.unborn && self.symrefs => {
                [&b"unborn HEAD symref-target:"[..], name].concat()
            }
            Head::Branch(_, None) if self.unborn => b"unborn HEAD".to_vec(),
            Head::Branch(_, None) => return,
        };
        pktline::encode(out, &[line, b"\n".to_vec()].concat());
    }

    /// Appends the line of a reference, whose tag the caller has peeled.
    pub fn write(&self, out: &mut Vec<u8>, reference: &Reference) {
        let mut line = [&reference.oid[..], b" ", &reference.name].concat();
        if let Some(target) = reference.symbolic.as_ref().filter(|_| self.symrefs) {
            line.extend_from_slice(b" symref-target:");
            line.extend_from_slice(target);
        }
        if let (true, Peeled::To(oid)) = (self.peel, reference.peeled) {
            line.extend_from_slice(b" peeled:");
            line.extend_from_slice(&oid);
        }
        line.push(b'\n');
        pktline::encode(out, &line);
    }
}

/// The wanted objects as `git pack-objects --revs` reads them.
pub fn revisions(wants: &[Oid]) -> Vec<u8> {
    let mut text = Vec::with_capacity(wants.len() * 41);
    for want in wants {
        text.extend_from_slice(want.as_str().as_bytes());
        text.push(b'\n');
    }
    text
}

/// Text of 40 hexadecimal digits.
pub fn oid(hex: &Hex) -> Option<Oid> {
    std::str::from_utf8(hex).ok().and_then(Oid::parse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(lines: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        for line in lines {
            match *line {
                "0001" => out.extend_from_slice(pktline::DELIM),
                line => pktline::encode(&mut out, line.as_bytes()),
            }
        }
        out.extend_from_slice(pktline::FLUSH);
        out
    }

    #[test]
    fn what_is_asked() {
        let listing = ["command=ls-refs\n", "agent=git/2.47.3\n", "object-format=sha1", "0001", "peel\n", "symrefs\n"];
        let more = [&listing[..], &["unborn\n", "ref-prefix HEAD\n", "ref-prefix refs/heads/\n"]].concat();
        let prefixes = vec![b"HEAD".to_vec(), b"refs/heads/".to_vec()];
        let expected = LsRefs { peel: true, symrefs: true, unborn: true, prefixes };
        assert_eq!(parse(&request(&more)), Asked::LsRefs(expected));
        assert_eq!(parse(&request(&["command=ls-refs"])), Asked::LsRefs(LsRefs::default()));
        let want = format!("want {}\n", "a".repeat(40));
        let cloning = ["command=fetch", "0001", "thin-pack", "no-progress", "ofs-delta", &want, "done\n"];
        let wants = vec![Oid::parse(&"a".repeat(40)).expect("an id")];
        let expected = Clone { wants, progress: false, include_tag: false, ofs_delta: true };
        assert_eq!(parse(&request(&cloning)), Asked::Clone(expected));
        let have = format!("have {}", "b".repeat(40));
        for other in [
            &cloning[..6],
            &["command=fetch", "0001", &want, &have, "done"],
            &["command=fetch", "0001", &want, "deepen 1", "done"],
            &["command=fetch", "0001", &want, "filter blob:none", "done"],
            &["command=fetch", "0001", "done"],
            &["command=fetch", "0001", "want HEAD", "done"],
            &["command=object-info"],
            &["command=ls-refs", "command=fetch"],
            &["command=ls-refs", "server-option=x"],
            &["command=ls-refs", "object-format=sha256"],
            &["command=ls-refs", "0001", "0001"],
            &["command=ls-refs", "0001", "bogus"],
            &[],
        ] {
            assert_eq!(parse(&request(other)), Asked::Other, "{other:?}");
        }
    }

    #[test]
    fn who_has_nothing_wants_all() {
        let want = format!("want {}\n", "a".repeat(40));
        let have = format!("have {}\n", "b".repeat(40));
        assert!(wants_all(&request(&["command=fetch", "0001", "filter blob:none", &want, "done"])));
        assert!(!wants_all(&request(&["command=fetch", "0001", &want, &have])));
        assert!(!wants_all(&request(&["command=ls-refs", "0001", "peel"])));
    }

    #[test]
    fn versions() {
        for (protocol, expected) in [
            (Some("version=2"), Version::Second),
            (Some("version=1:version=2"), Version::Second),
            (Some("side=x:version=2"), Version::Second),
            (Some("version=1"), Version::Other),
            (Some("version=3:version=2"), Version::Other),
            (Some("version=x"), Version::Other),
            (Some("version=0"), Version::First),
            (Some(""), Version::First),
            (None, Version::First),
        ] {
            assert_eq!(version(protocol), expected, "{protocol:?}");
        }
    }

    #[test]
    fn a_clone_in_the_first_version() {
        let want = format!(
            "want {} side-band-64k ofs-delta deepen-since deepen-not filter agent=git/2 no-progress\n",
            "a".repeat(40)
        );
        let more = format!("want {}\n", "b".repeat(40));
        let asked = parse_first(&request(&[&want, &more])).expect("a clone");
        assert!(is_done(Packet::Data(b"done\n")) && !is_done(Packet::Data(b"have x")) && !is_done(Packet::Flush));
        assert_eq!((asked.wants.len(), asked.progress, asked.ofs_delta, asked.include_tag), (2, false, true, false));
        for lines in [
            &[&more[..]][..],
            &[&want, "deepen 1"],
            &[&want, "filter blob:none"],
            &[&want.replace("ofs-delta", "no-done")],
            &[],
        ] {
            assert_eq!(parse_first(&request(lines)), None, "{lines:?}");
        }
    }

    #[test]
    fn settings_about_the_protocol_are_left_to_git() {
        let plain = "[core]\n\tbare = true\n[include]\n\tpath = \"/data/gitconfig\"\n[gitweb]\n\towner = path\n";
        assert!(is_plain(plain, "/data/gitconfig", OF_FETCHES));
        assert!(is_plain(&format!("{plain}[receive]\n"), "/data/gitconfig", OF_FETCHES));
        assert!(!is_plain(&format!("{plain}[receive]\n"), "/data/gitconfig", OF_PUSHES));
        for other in [
            "[uploadpack]\n\tallowFilter = false\n",
            "[uploadPack]\n",
            "[transfer \"x\"]\n",
            "[lsrefs]\n\tunborn = ignore\n",
            "[extensions]\n\trefStorage = reftable\n",
            "[include]\n\tpath = /elsewhere\n",
            "[include] path = /elsewhere\n",
            "[includeIf \"onbranch:x\"]\n\tpath = /data/gitconfig\n",
            "[uploadpack.x]\n",
        ] {
            assert!(!is_plain(&format!("{plain}{other}"), "/data/gitconfig", OF_FETCHES), "{other}");
        }
    }

    #[test]
    fn lines_of_a_listing() {
        let oid = *b"1111111111111111111111111111111111111111";
        let reference = Reference {
            name: b"refs/tags/v1".to_vec(),
            oid,
            symbolic: Some(b"refs/tags/v0".to_vec()),
            peeled: Peeled::To(*b"2222222222222222222222222222222222222222"),
        };
        let written = |asked: &LsRefs| {
            let mut out = Vec::new();
            asked.write(&mut out, &reference);
            asked.write_head(&mut out, &Head::Branch(b"refs/heads/main".to_vec(), None));
            String::from_utf8(out).expect("ascii")
        };
        let all = LsRefs { peel: true, symrefs: true, unborn: true, prefixes: vec![] };
        let (one, two) = ("1".repeat(40), "2".repeat(40));
        let tag = format!("{one} refs/tags/v1 symref-target:refs/tags/v0 peeled:{two}\n");
        let head = "unborn HEAD symref-target:refs/heads/main\n";
        assert_eq!(written(&all), format!("{:04x}{tag}{:04x}{head}", tag.len() + 4, head.len() + 4));
        assert_eq!(written(&LsRefs::default()), format!("003a{one} refs/tags/v1\n"));
        assert!(all.head() && !LsRefs { prefixes: vec![b"refs/".to_vec()], ..all }.head());
    }
}

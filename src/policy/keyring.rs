//! Whose key is this: the files below `keydir/` as a table by the key's bytes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use super::address_list::AddressList;
use super::diagnostic::Diagnostic;
use super::key::{self, KeyProblem};
use crate::model::time::Stamp;
use crate::model::{Fingerprint, HostName, UserName};

/// A key belongs to a person or to a node of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum OwnerName {
    User(UserName),
    /// From `server-NAME.pub`.
    Node(HostName),
}

impl std::fmt::Display for OwnerName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(name) => name.fmt(f),
            Self::Node(name) => write!(f, "server-{name}"),
        }
    }
}

/// A file below `keydir/`.
#[derive(Debug, Clone, Copy)]
pub struct KeyFile<'a> {
    /// `keydir/a/alice@laptop.pub`; files that do not end in `.pub` are passed over.
    pub path: &'a str,
    pub text: &'a [u8],
}

/// Who owns a key, and where that is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub who: OwnerName,
    pub fingerprint: Fingerprint,
    pub file: String,
    pub line: u32,
    /// From then on it is nobody's; for a person's key only.
    pub expires: Option<Stamp>,
    /// From elsewhere it opens nothing; of nodes' keys too.
    pub from: Option<AddressList>,
}

impl Owner {
    pub fn has_expired(&self, now: Stamp) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }

    /// Whether the key may be used from this address.
    pub fn admits(&self, from: IpAddr) -> bool {
        self.from.as_ref().is_none_or(|sources| sources.admit(from))
    }
}

/// All keys of one commit.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    owners: HashMap<Vec<u8>, Owner>,
}

/// `alice@laptop.pub` is alice's: `.pub` goes, and a last `@part` without a dot. None for other files.
pub(super) fn user_of(file_name: &str) -> Option<&str> {
    let stem = file_name.strip_suffix(".pub")?;
    Some(match stem.rsplit_once('@') {
        Some((user, part)) if !part.contains('.') => user,
        _ => stem,
    })
}

impl Keyring {
    /// Reads key files. With any error among the diagnostics the keyring must not be used.
    pub fn compile(files: &[KeyFile<'_>]) -> (Self, Vec<Diagnostic>) {
        let mut sorted: Vec<&KeyFile<'_>> = files.iter().filter(|f| f.path.ends_with(".pub")).collect();
        sorted.sort_by_key(|f| f.path);
        let (mut ring, mut remarks, mut dotted) = (Self::default(), Vec::new(), Vec::new());
        for file in sorted {
            match owner_of(file.path) {
                Ok(who) => {
                    dotted.extend(short_name(&who).map(|short| (file.path, who.to_string(), short)));
                    ring.add_file(file, &who, &mut remarks);
                }
                Err(remark) => remarks.push(*remark),
            }
        }
        let users: BTreeSet<&str> = ring.users().into_iter().map(UserName::as_str).collect();
        for (path, who, short) in dotted.into_iter().filter(|(_, _, short)| users.contains(short.as_str())) {
            let message = format!("this is a key of the user '{who}', not of '{short}'");
            let help = format!("right if the name is an address; else leave the dots out, as in {short}@home.pub");
            remarks.push(Diagnostic::new("key-file-host-dotted", path, message).help(help));
        }
        (ring, remarks)
    }

    /// Who owns the key with this wire form.
    pub fn owner(&self, blob: &[u8]) -> Option<&Owner> {
        self.owners.get(blob)
    }

    /// Whether the key of this fingerprint is the user's and has not expired; looks at every key.
    pub fn holds(&self, user: &UserName, key: &Fingerprint, now: Stamp) -> bool {
        let of_user = |owner: &Owner| matches!(&owner.who, OwnerName::User(name) if name == user);
        self.owner_of_fingerprint(key).is_some_and(|owner| of_user(owner) && !owner.has_expired(now))
    }

    /// Who owns the key of this fingerprint; looks at every key.
    pub fn owner_of_fingerprint(&self, key: &Fingerprint) -> Option<&Owner> {
        self.owners.values().find(|owner| owner.fingerprint == *key)
    }

    /// The keys of a user, by file and line; looks at every key.
    pub fn keys_of(&self, user: &UserName) -> Vec<&Owner> {
        let of_user = |owner: &&Owner| matches!(&owner.who, OwnerName::User(name) if name == user);
        let mut keys: Vec<&Owner> = self.owners.values().filter(of_user).collect();
        keys.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        keys
    }

    /// Whether the user has any key; looks at every key.
    pub fn knows(&self, user: &UserName) -> bool {
        self.owners.values().any(|owner| matches!(&owner.who, OwnerName::User(name) if name == user))
    }

    /// Everybody who has a key, sorted.
    pub fn users(&self) -> BTreeSet<&UserName> {
        self.users_at(None)
    }

    /// Everybody who has a key that has not expired, if a moment is given.
    pub fn users_at(&self, now: Option<Stamp>) -> BTreeSet<&UserName> {
        let lasting = self.owners.values().filter(|owner| now.is_none_or(|now| !owner.has_expired(now)));
        let users = lasting.filter_map(|owner| match &owner.who {
            OwnerName::User(name) => Some(name),
            OwnerName::Node(_) => None,
        });
        users.collect()
    }

    /// The keys of nodes, by node: the wire form and where it is written.
    pub fn nodes(&self) -> BTreeMap<&HostName, Vec<(&[u8], &Owner)>> {
        let mut nodes: BTreeMap<&HostName, Vec<(&[u8], &Owner)>> = BTreeMap::new();
        for (blob, owner) in &self.owners {
            if let OwnerName::Node(name) = &owner.who {
                nodes.entry(name).or_default().push((blob, owner));
            }
        }
        nodes
    }

    /// Every key of a person: the wire form and where it is written.
    pub fn keys(&self) -> impl Iterator<Item = (&UserName, &[u8], &Owner)> {
        self.owners.iter().filter_map(|(blob, owner)| match &owner.who {
            OwnerName::User(name) => Some((name, blob.as_slice(), owner)),
            OwnerName::Node(_) => None,
        })
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.owners.len()
    }

    pub fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    fn add_file(&mut self, file: &KeyFile<'_>, who: &OwnerName, remarks: &mut Vec<Diagnostic>) {
        let lines = match key::key_lines(file.text) {
            Ok(lines) if lines.is_empty() => return remarks.push(refusal(file, &KeyProblem::Empty)),
            Ok(lines) => lines,
            Err(problem) => return remarks.push(refusal(file, &problem)),
        };
        for (line, text) in lines {
            match key::parse_line(text, line) {
                Ok(key) => self.add_key(file, who, line, key, remarks),
                // Whoever moves in has some; the others of the file are good, and one that is missing opens nothing.
                Err(problem @ (KeyProblem::WeakRsa { .. } | KeyProblem::Dsa { .. })) => {
                    remarks.push(refusal(file, &problem));
                }
                Err(problem) => {
                    remarks.push(refusal(file, &problem));
                    // The lines after a foreign header are not keys either; one remark says it.
                    return;
                }
            }
        }
    }

    fn add_key(
        &mut self,
        file: &KeyFile<'_>,
        who: &OwnerName,
        line: u32,
        key: key::PublicKey,
        remarks: &mut Vec<Diagnostic>,
    ) {
        let at = |remark: Diagnostic| on_line(remark, file, line);
        let node = matches!(who, OwnerName::Node(_));
        if node && key.options.expires.is_some() {
            let message = "a node's key does not expire; expiry-time has no effect".to_owned();
            remarks.push(at(Diagnostic::new("key-options-ignored", file.path, message)));
        } else if key.options.others {
            let message = "of the options in front of a key only expiry-time and from have an effect".to_owned();
            remarks.push(at(Diagnostic::new("key-options-ignored", file.path, message)));
        }
        if let Some(name) = key.options.from.as_ref().and_then(AddressList::name) {
            let message = format!("'{name}' in from= matches nobody: names are never looked up");
            remarks.push(at(Diagnostic::new("key-from-name", file.path, message).help("write its address instead")));
        }
        if let Some(known) = self.owners.get(&key.blob) {
            let place = format!("{}:{}", known.file, known.line);
            let persons = [&known.who, who].into_iter().all(|who| matches!(who, OwnerName::User(_)));
            remarks.push(at(if known.who == *who {
                Diagnostic::new("key-repeated", file.path, format!("this key of {who} is also in {place}"))
            } else if persons {
                // As in gitolite, whose sshd takes the first line with the key. Between nodes it would be a mix-up of
                // powers, and is an error.
                let message = format!("whoever logs in with this key is {}, not {who}", known.who);
                Diagnostic::new("key-in-two-files", file.path, message)
                    .help(format!("the same key is in {place}, which comes first; remove one of the two"))
            } else {
                let message = format!("one key cannot be both {} and {who}", known.who);
                Diagnostic::new("key-of-two-users", file.path, message)
                    .help(format!("the same key is in {place}; remove one of the two"))
            }));
            return;
        }
        let (file, fingerprint) = (file.path.to_owned(), key.fingerprint);
        let (expires, from) = (key.options.expires.filter(|_| !node), key.options.from);
        let owner = Owner { who: who.clone(), fingerprint, file, line, expires, from };
        self.owners.insert(key.blob, owner);
    }
}

/// Whose the keys in a file are, by its name.
pub(super) fn owner_of(path: &str) -> Result<OwnerName, Box<Diagnostic>> {
    let refuse = |message: String, help: &str| Box::new(Diagnostic::new("key-file-name", path, message).help(help));
    let name = path.rsplit('/').next().unwrap_or(path);
    if let Some(node) = name.strip_suffix(".pub").and_then(|stem| stem.strip_prefix("server-")) {
        let help = "the key of another node is called server-NAME.pub; letters, digits and '-_.' make a name";
        let node = HostName::new(node).map_err(|e| refuse(format!("'{node}' cannot name a node: {e}"), help))?;
        return Ok(OwnerName::Node(node));
    }
    let help = "call the file NAME.pub or NAME@PLACE.pub; letters, digits and '-_.@+' make a name, and a letter or a digit starts it";
    let user = user_of(name).unwrap_or(name);
    let user = UserName::new(user).map_err(|e| refuse(format!("'{name}' names no user: {e}"), help))?;
    if user.as_str() == "0" {
        return Err(refuse("no user can be called '0'".to_owned(), help));
    }
    Ok(OwnerName::User(user))
}

/// `alice@home.lan.pub` looks like alice's key from home.lan and is another user's.
fn short_name(who: &OwnerName) -> Option<String> {
    let OwnerName::User(name) = who else { return None };
    name.as_str().split_once('@').map(|(short, _)| short.to_owned())
}

fn refusal(file: &KeyFile<'_>, problem: &KeyProblem) -> Diagnostic {
    let text = problem.to_string();
    let text = problem.line().and_then(|line| text.strip_prefix(&format!("line {line}: "))).unwrap_or(&text);
    let (what, cure) = text.split_once("; ").unwrap_or((text, ""));
    let (class, effect) = match problem {
        KeyProblem::Empty => ("key-file-empty", "no public key"),
        KeyProblem::WeakRsa { .. } | KeyProblem::Dsa { .. } => ("key-weak", "this key opens nothing"),
        _ => ("key-invalid", "no public key"),
    };
    let mut remark = Diagnostic::new(class, file.path, format!("{effect}: {what}"));
    remark.help = (!cure.is_empty()).then(|| cure.replace("FILE", file.path));
    match problem.line() {
        Some(line) => on_line(remark, file, line),
        None => remark,
    }
}

/// Points at a whole line of a file.
fn on_line(remark: Diagnostic, file: &KeyFile<'_>, line: u32) -> Diagnostic {
    let mut start = 0;
    for _ in 1..line {
        start += file.text[start..].iter().position(|b| *b == b'\n').map_or(0, |n| n + 1);
    }
    let rest = &file.text[start..];
    let end = rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
    remark.at(start..start + end, line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{parse_public_key, render};

    const ED25519: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC2/C2kQn1vF1erSHaH+Vz3+t2j06lMn4YMSCXCEgC5M alice@laptop";
    const ECDSA: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBEAQW3M4c56Niu3E0lUSDtxnJBy74WqdI5lXRGI/dxjKN4AJKGPLhdT0WE+jxm0Ya5OoNOaNCdqjZs7qtx4MlTA= bob at work";
    const RSA: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQDeJBWFJF13gGhw4tkqbWWqX6wfw3Eea2klzp+qnWwUdu8yEzk9mDIysMzl9Nze0/PRJrZZxxjvJLJcntgMYGCSAPCBLusbcPKqsaVAdLG+a9chYdVpTaibNOfPwKtTNqPXtTSxLGbkdYoqF0l1lZdTgDMsiOlspWHQJ8CcyKj9kX0zyS9Kv1vdyAXfUE1JeaEpkw7g2Kq5SwErdUlhh2Chzzuh/kBsq4gibRApPVmdDK1WgFaFFTUFOsB9+OuOFkOLShDjKLtI4fF7SSf3+urkijxm1FGaBcDzQOCgNaXqznb7zcuSv7PJOxI8jCaapAdNFfJxazTW/QNF8K/ShneX rsa";
    const RSA_1024: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDibEDz6C+UUArE28GLZJ6PC2ncWqfT3YRdf9sDM3Fp86CtSoG81OEswS7CfmE+HGerzTncgx3RwUKxQK7p0JpbZrZeYkmxnBmEF9QW2tdTRXMzASqRsi23afkK8uJExvwDj2vAlFJYpkoAPYcXqOYQYHlxaRdmxb0nplrNODWUJw== weak";
    const CERTIFICATE: &str = "ecdsa-sha2-nistp256-cert-v01@openssh.com AAAAKGVjZHNhLXNoYTItbmlzdHAyNTYtY2VydC12MDFAb3BlbnNzaC5jb20AAAAg3EwbGjnlDX/ulp4NYh1s/cLxaiNQiV+lmR2zDr8HA/gAAAAIbmlzdHAyNTYAAABBBEAQW3M4c56Niu3E0lUSDtxnJBy74WqdI5lXRGI/dxjKN4AJKGPLhdT0WE+jxm0Ya5OoNOaNCdqjZs7qtx4MlTAAAAAAAAAAAAAAAAEAAAACaWQAAAAFAAAAAXgAAAAAAAAAAP//////////AAAAAAAAAIIAAAAVcGVybWl0LVgxMS1mb3J3YXJkaW5nAAAAAAAAABdwZXJtaXQtYWdlbnQtZm9yd2FyZGluZwAAAAAAAAAWcGVybWl0LXBvcnQtZm9yd2FyZGluZwAAAAAAAAAKcGVybWl0LXB0eQAAAAAAAAAOcGVybWl0LXVzZXItcmMAAAAAAAAAAAAAADMAAAALc3NoLWVkMjU1MTkAAAAgLb8LaRCfW8XV6tIdof5XPf63aPTqUyfhgxIJcISALkwAAABTAAAAC3NzaC1lZDI1NTE5AAAAQGkqHwq7pdP2DVxMkxWFk9dn+6Dg0eBcjMwyW3C8s3P9luVSmVVCNzGW2a56wlV6g+Q8xTrthsPpKX5lhP7yHw4= bob at work";

    fn ring(files: &[(&str, &str)]) -> (Keyring, Vec<Diagnostic>) {
        let files: Vec<_> = files.iter().map(|(path, text)| KeyFile { path, text: text.as_bytes() }).collect();
        Keyring::compile(&files)
    }

    fn classes(remarks: &[Diagnostic]) -> Vec<&str> {
        remarks.iter().map(|r| r.class).collect()
    }

    #[test]
    fn keys_of_each_type() {
        for (text, algorithm, fingerprint) in [
            (ED25519, "ssh-ed25519", "SHA256:IWeqjbfSGHgqiMRftwgaBNLFlnIqCcOYrfwEjGzn3zE"),
            (ECDSA, "ecdsa-sha2-nistp256", "SHA256:eDjZ7/P0+QGy9ObEFOfdiF7zJZxG6ShtXF0Lpee3PKI"),
            (RSA, "ssh-rsa", "SHA256:+FaESQUld2gydmpyrrCqW4TI9+Dd6w0QH3YPjUTJ5XE"),
        ] {
            let key = parse_public_key(text).unwrap();
            assert_eq!((key.algorithm.as_str(), key.fingerprint.as_str()), (algorithm, fingerprint));
        }
        assert_eq!(parse_public_key(ECDSA).unwrap().comment, "bob at work");
        let dressed = format!("\u{feff}# mine\r\n\r\n{ED25519}\r\n");
        assert_eq!(parse_public_key(&dressed), parse_public_key(ED25519));
    }

    #[test]
    fn mistakes_are_named_with_their_cure() {
        let cut = &ED25519[..60];
        let swapped = ED25519.replacen("ssh-ed25519", "ssh-rsa", 1);
        let unknown = "ssh-foo AAAAB3NzaC1mb28= me";
        let quoted = format!("\"{ED25519}\"");
        let twice = format!("{ED25519}\n{RSA}");
        let broken = ED25519.replacen("AAAAC3", "!!!!", 1);
        for (text, cure) in [
            ("", "it is empty"),
            ("\n # only a comment\n", "it is empty"),
            ("\0\u{1}", "not text"),
            ("---- BEGIN SSH2 PUBLIC KEY ----\nComment: x\n", "line 1: this is RFC 4716"),
            ("PuTTY-User-Key-File-3: ssh-ed25519\n", "PuTTYgen"),
            ("\n-----BEGIN OPENSSH PRIVATE KEY-----\n", "line 2: this is a private key; use the .pub"),
            ("-----BEGIN RSA PRIVATE KEY-----", "new key pair"),
            ("-----BEGIN PUBLIC KEY-----", "ssh-keygen -i -m PKCS8"),
            (&quoted, "quotes around"),
            ("SHA256:IWeqjbfSGHgqiMRftwgaBNLFlnIqCcOYrfwEjGzn3zE", "only a fingerprint"),
            ("256 SHA256:IWeqjbfSGHgqiMRftwgaBNLFlnIqCcOYrfwEjGzn3zE a (ED25519)", "only a fingerprint"),
            (CERTIFICATE, "a certificate"),
            ("ssh-dss AAAAB3NzaC1kc3MAAACBAP1 old", "DSA"),
            (RSA_1024, "1024 bits is too weak"),
            (cut, "cut off or damaged"),
            (&broken, "cut off or damaged"),
            ("ssh-ed25519", "cut off or damaged"),
            (&swapped, "says 'ssh-rsa' but the key inside is 'ssh-ed25519'"),
            (unknown, "'ssh-foo' is no key type"),
            ("hello world", "should look like"),
            (&twice, "line 2: there is more than one key"),
        ] {
            let problem = parse_public_key(text).unwrap_err().to_string();
            assert!(problem.contains(cure), "{text:?}: {problem}");
        }
    }

    #[test]
    fn owners_by_file_name() {
        let names = [
            ("alice.pub", "alice"),
            ("alice@home.pub", "alice"),
            ("alice@corp.com.pub", "alice@corp.com"),
            ("alice@corp.com@home.pub", "alice@corp.com"),
            ("foo.bar.pub", "foo.bar"),
            ("server-mars.pub", "server-mars"),
        ];
        for (file, owner) in names {
            let (ring, remarks) = ring(&[(&format!("keydir/a/b/{file}"), ED25519)]);
            assert!(remarks.is_empty(), "{remarks:?}");
            let key = parse_public_key(ED25519).unwrap();
            assert_eq!(ring.owner(&key.blob).unwrap().who.to_string(), owner);
        }
        assert_eq!(ring(&[("keydir/server-mars.pub", RSA)]).0.nodes().len(), 1);
        for bad in ["_x.pub", "@y.pub", ".pub", "0.pub", "a b.pub", "server-.pub", "server-a@b.pub"] {
            assert_eq!(classes(&ring(&[(&format!("keydir/{bad}"), ED25519)]).1), ["key-file-name"], "{bad}");
        }
    }

    #[test]
    fn several_keys_and_double_ones() {
        let both = format!("# two\n{ED25519}\n\n{RSA}\n");
        let (keys, remarks) = ring(&[("keydir/alice.pub", &both), ("keydir/README", "no key")]);
        assert_eq!((keys.len(), remarks.len()), (2, 0));
        assert_eq!(keys.owner(&parse_public_key(RSA).unwrap().blob).unwrap().line, 4);
        let (_, remarks) = ring(&[("keydir/alice.pub", ED25519), ("keydir/alice@home.pub", ED25519)]);
        assert_eq!(classes(&remarks), ["key-repeated"]);
        let options = format!("from=\"10.0.0.1, x\",no-pty {ED25519}");
        let (bound, remarks) = ring(&[("keydir/alice.pub", &options)]);
        assert_eq!(classes(&remarks), ["key-options-ignored", "key-from-name"]);
        let owner = bound.owner(&parse_public_key(ED25519).unwrap().blob).unwrap();
        assert!(owner.admits([10, 0, 0, 1].into()) && !owner.admits([10, 0, 0, 2].into()));
        let mistaken = format!("from=\"10.0.0.1/8\" {ED25519}");
        assert_eq!(classes(&ring(&[("keydir/alice.pub", &mistaken)]).1), ["key-invalid"]);
        let (_, remarks) = ring(&[("keydir/alice.pub", ED25519), ("keydir/alice@home.lan.pub", RSA)]);
        assert_eq!(classes(&remarks), ["key-file-host-dotted"]);
        let weak = format!("{RSA_1024}\nssh-dss AAAAB3NzaC1kc3MAAACBAP1 old\n{RSA}\n");
        let (keys, remarks) = ring(&[("keydir/alice.pub", &weak)]);
        assert_eq!(classes(&remarks), ["key-weak", "key-weak"]);
        assert!(keys.len() == 1 && remarks.iter().all(|remark| !remark.is_error()), "{remarks:?}");
        let node = [("keydir/alice.pub", ED25519), ("keydir/server-mars.pub", ED25519)];
        assert_eq!(classes(&ring(&node).1), ["key-of-two-users"]);
        let files = [("keydir/alice.pub", ED25519), ("keydir/x/bob.pub", ED25519)];
        assert_eq!(ring(&files).0.users().len(), 1);
        let text = render(&ring(&files).1, &|_| Some(ED25519.to_owned()), 9);
        insta::assert_snapshot!(text);
        let pasted = [("keydir/alice.pub", "\n-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n")];
        insta::assert_snapshot!(render(&ring(&pasted).1, &|_| Some(pasted[0].1.to_owned()), 9));
    }

    #[test]
    fn many_keys_one_lookup() {
        let (keys, _) = ring(&[("keydir/alice.pub", RSA), ("keydir/bob.pub", ECDSA)]);
        assert_eq!(keys.users().into_iter().map(UserName::as_str).collect::<Vec<_>>(), ["alice", "bob"]);
        assert!(keys.owner(b"nobody's").is_none());
    }
}

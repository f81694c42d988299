//! Whose key is this: the files below `keydir/` as a table by the key's bytes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::diagnostic::Diagnostic;
use super::key::{self, KeyProblem};
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

    /// Everybody who has a key, sorted.
    pub fn users(&self) -> BTreeSet<&UserName> {
        let users = self.owners.values().filter_map(|owner| match &owner.who {
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
        if key.has_options {
            let message = "options in front of a key have no effect".to_owned();
            remarks.push(at(Diagnostic::new("key-options-ignored", file.path, message)));
        }
        if let Some(known) = self.owners.get(&key.blob) {
            let place = format!("{}:{}", known.file, known.line);
            remarks.push(at(if known.who == *who {
                Diagnostic::new("key-repeated", file.path, format!("this key of {who} is also in {place}"))
            } else {
                let message = format!("one key cannot be both {} and {who}", known.who);
                Diagnostic::new("key-of-two-users", file.path, message)
                    .help(format!("the same key is in {place}; remove one of the two"))
            }));
            return;
        }
        let owner = Owner { who: who.clone(), fingerprint: key.fingerprint, file: file.path.to_owned(), line };
        self.owners.insert(key.blob, owner);
    }
}

fn owner_of(path: &str) -> Result<OwnerName, Box<Diagnostic>> {
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
    let class = if *problem == KeyProblem::Empty { "key-file-empty" } else { "key-invalid" };
    let mut remark = Diagnostic::new(class, file.path, format!("no public key: {what}"));
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

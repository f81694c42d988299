//! `info`: who you are here, and what you may do. gitolite's shape, since scripts read it; its `-json` too, with the
//! same keys and a few of ours.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Control, Reply, help};
use crate::cluster::Place;
use crate::model::{Actor, HostName, RepoName};
use crate::parallel::of_each;

/// What a line of `info` asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    creators: bool,
    descriptions: bool,
    no_patterns: bool,
    json: bool,
    pattern: Option<String>,
}

impl Options {
    pub(super) fn parse(words: &[&str]) -> Result<Self, Reply> {
        let mut options = Self::default();
        for word in words {
            match *word {
                "-lc" => options.creators = true,
                "-ld" => options.descriptions = true,
                "-p" => options.no_patterns = true,
                "-json" | "--json" => options.json = true,
                word if word.starts_with('-') || options.pattern.is_some() => return Err(help::wrong(&["info"])),
                word => options.pattern = Some(word.to_owned()),
            }
        }
        Ok(options)
    }
}

/// One repository's line.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    rights: Rights,
    name: String,
    creator: Option<String>,
    description: Option<String>,
    note: Option<Note>,
}

/// What the actor may do, or is, in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rights {
    User {
        read: bool,
        write: bool,
    },
    /// A peer's part.
    Peer(&'static str),
}

#[derive(Debug, PartialEq, Eq)]
enum Note {
    CopyOf { master: HostName, freshness: String },
    Elsewhere,
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::CopyOf { master, freshness } => write!(f, "copy of {master}, {freshness}"),
            Self::Elsewhere => f.write_str("mirrored, but not here"),
        }
    }
}

impl Rights {
    fn column(self) -> &'static str {
        match self {
            Self::User { read: true, write: true } => " R W",
            Self::User { read: true, write: false } => " R  ",
            Self::User { read: false, write: true } => "   W",
            Self::User { .. } => "    ",
            Self::Peer("master") => " master ",
            Self::Peer(_) => " replica",
        }
    }
}

/// `info -json`. gitolite's keys have no schema and must keep their names; ours stand beside them.
#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    #[serde(rename = "GL_USER")]
    gl_user: String,
    #[serde(rename = "USER")]
    user: String,
    gitolite_version: String,
    git_version: &'a str,
    node: &'a str,
    version: &'static str,
    /// Of whoever came with one: as in `whoami --json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<serde_json::Value>,
    repos: BTreeMap<&'a str, Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    /// The letters that are granted, each 1, as in gitolite; a right that lacks is absent.
    perms: BTreeMap<&'static str, u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    creator: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    copy_of: Option<&'a str>,
    /// Of a copy, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    freshness: Option<&'a str>,
    /// A peer's part in it: master or replica.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
}

impl Control {
    /// The first line of `info` and `help`; a peer gets the proof that both sides know each other.
    pub(super) fn greeting(&self, actor: &Actor) -> String {
        let node = &self.node;
        match actor {
            Actor::Node(peer) => format!("Hello {peer}, I am {}\n", node.name),
            actor => format!(
                "hello {actor}, this is {}@{} running gitmesh {} on git {}\n",
                node.user,
                node.name,
                env!("CARGO_PKG_VERSION"),
                node.git_version
            ),
        }
    }

    /// Patterns first, then repositories with rights, one a line: the rights, a tab, the name; then creator and
    /// description if asked for; and for a copy, where gitolite has nothing, a tab, whose copy it is and how fresh.
    pub(super) fn info(&self, actor: &Actor, options: &Options) -> Reply {
        let pattern = options.pattern.as_deref();
        let pattern = match pattern.map(|p| regex::RegexBuilder::new(p).size_limit(1 << 20).build()).transpose() {
            Ok(pattern) => pattern,
            Err(error) => return Reply::fail(2, format!("FATAL: this is no pattern: {error}")),
        };
        let wanted = |name: &str| pattern.as_ref().is_none_or(|p| p.is_match(name));
        let mut repos = match self.list() {
            Ok(repos) => repos,
            Err(reply) => return reply,
        };
        repos.retain(|r| wanted(r.as_str()));
        let patterns = if options.no_patterns { Vec::new() } else { self.realm.pattern_rights(actor) };
        let patterns: Vec<_> = patterns.into_iter().filter(|(name, _)| wanted(name)).collect();
        let rows: Vec<Row> = of_each(&repos, |repo| self.row(actor, repo, options)).into_iter().flatten().collect();
        if options.json {
            return Reply::done(self.report(actor, &patterns, &rows));
        }
        let mut out = self.greeting(actor);
        if let Actor::User { key, by: Some(by), .. } = actor {
            out.push_str(&format!("key {key}, certificate {by}\n"));
        }
        out.push('\n');
        out.push_str(&pattern_lines(&patterns));
        out.push_str(&table(&rows));
        Reply::done(out)
    }

    fn report(&self, actor: &Actor, patterns: &[(String, [bool; 3])], rows: &[Row]) -> String {
        let granted = |rights: &[bool]| -> BTreeMap<&'static str, u8> {
            rights.iter().zip(["R", "W", "C"]).filter(|(may, _)| **may).map(|(_, letter)| (letter, 1)).collect()
        };
        let mut repos: BTreeMap<&str, Entry<'_>> =
            patterns.iter().map(|(name, rights)| (name.as_str(), Entry::new(granted(rights)))).collect();
        for row in rows {
            let (perms, role) = match row.rights {
                Rights::User { read, write } => (granted(&[read, write]), None),
                Rights::Peer(role) => (BTreeMap::new(), Some(role)),
            };
            let (copy_of, freshness) = match &row.note {
                Some(Note::CopyOf { master, freshness }) => (Some(master.as_str()), Some(freshness.as_str())),
                _ => (None, None),
            };
            let (creator, description) = (row.creator.as_deref(), row.description.as_deref());
            repos.insert(&row.name, Entry { creator, description, copy_of, freshness, role, ..Entry::new(perms) });
        }
        let (node, version) = (&self.node, env!("CARGO_PKG_VERSION"));
        let report = Report {
            schema: "gitmesh.info/1",
            gl_user: actor.to_string(),
            user: format!("{}@{}", node.user, node.name),
            gitolite_version: format!("gitmesh {version}"),
            git_version: &node.git_version,
            node: node.name.as_str(),
            version,
            certificate: super::certificate_of(actor),
            repos,
        };
        serde_json::to_string_pretty(&report).expect("texts and numbers can always be written") + "\n"
    }

    fn row(&self, actor: &Actor, repo: &RepoName, options: &Options) -> Option<Row> {
        // Read once for all that depends on it: with ten thousand repositories this is what the answer costs.
        let disk = self.store.ownership(repo)?;
        let place = || self.cluster.locate_made_by(repo, disk.creator.as_ref());
        let (rights, note) = if let Actor::Node(peer) = actor {
            (Rights::Peer(role_of(peer, &place())?), None)
        } else {
            let (read, write) = self.realm.rights_in(actor, repo, &disk);
            if !read && !write {
                return None;
            }
            let note = match place() {
                Place::There { master, .. } => {
                    let freshness = self.mirror.freshness(repo, &master).to_string();
                    Some(Note::CopyOf { master, freshness })
                }
                Place::Here { .. } => None,
                Place::Elsewhere => Some(Note::Elsewhere),
            };
            (Rights::User { read, write }, note)
        };
        let creator = || self.realm.creator(repo).map_or_else(String::new, |creator| creator.to_string());
        let creator = options.creators.then(creator);
        let description = options.descriptions.then(|| self.realm.description(repo));
        Some(Row { rights, name: repo.to_string(), creator, description, note })
    }
}

impl Entry<'_> {
    fn new(perms: BTreeMap<&'static str, u8>) -> Self {
        Self { perms, creator: None, description: None, copy_of: None, freshness: None, role: None }
    }
}

/// What `info` says below its greeting to a user, as in gitolite: of patterns and then of repositories the rights (R, W
/// and, of a pattern, C) and the name; of a repository its creator, if that was asked for.
pub fn info_lines(patterns: &[(String, [bool; 3])], repos: Vec<(String, [bool; 2], Option<String>)>) -> String {
    let row = |(name, [read, write], creator): (String, [bool; 2], Option<String>)| Row {
        rights: Rights::User { read, write },
        name,
        creator,
        description: None,
        note: None,
    };
    pattern_lines(patterns) + &table(&repos.into_iter().map(row).collect::<Vec<_>>())
}

fn pattern_lines(patterns: &[(String, [bool; 3])]) -> String {
    let field = |(may, letter): (&bool, &'static str)| if *may { letter } else { "  " };
    let line = |(name, rights): &(String, [bool; 3])| {
        let fields: String = rights.iter().zip([" R", " W", " C"]).map(field).collect();
        format!("{fields}\t{name}\n")
    };
    patterns.iter().map(line).collect()
}

/// Names are padded when a creator or a description follows, and creators when descriptions follow them.
fn table(rows: &[Row]) -> String {
    let width = |of: fn(&Row) -> usize| rows.iter().map(of).max().unwrap_or(0);
    let names = width(|row| if row.creator.is_some() || row.description.is_some() { row.name.len() } else { 0 });
    let creators = width(|row| row.creator.as_ref().filter(|_| row.description.is_some()).map_or(0, String::len));
    let mut out = String::new();
    for Row { rights, name, creator, description, note } in rows {
        out.push_str(&format!("{}\t", rights.column()));
        match creator.as_ref().filter(|creator| !creator.is_empty() || description.is_some()) {
            Some(creator) => out.push_str(&format!("{name:names$}\t{creator:creators$}")),
            None if description.is_some() => out.push_str(&format!("{name:names$}")),
            None => out.push_str(name),
        }
        let note = note.as_ref().map(ToString::to_string);
        for column in description.iter().chain(&note) {
            out.push_str(&format!("\t{column}"));
        }
        out.push('\n');
    }
    out
}

/// The part a peer has in a repository of ours.
fn role_of(peer: &HostName, place: &Place) -> Option<&'static str> {
    match place {
        Place::There { master, .. } if master == peer => Some("master"),
        place if place.replica(peer).is_some() => Some("replica"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, creator: Option<&str>, description: Option<&str>) -> Row {
        let (creator, description) = (creator.map(str::to_owned), description.map(str::to_owned));
        Row {
            rights: Rights::User { read: true, write: true },
            name: name.to_owned(),
            creator,
            description,
            note: None,
        }
    }

    #[test]
    fn columns() {
        assert_eq!(table(&[row("a", None, None), row("bcd", None, None)]), " R W\ta\n R W\tbcd\n");
        assert_eq!(table(&[row("a", Some("u1"), None), row("bcd", Some(""), None)]), " R W\ta  \tu1\n R W\tbcd\n");
        let both = [row("a", Some("u1"), Some("x y")), row("bcd", Some(""), Some(""))];
        assert_eq!(table(&both), " R W\ta  \tu1\tx y\n R W\tbcd\t  \t\n");
        let of = |master| Note::CopyOf { master, freshness: "in step".to_owned() };
        let copy = Row { note: HostName::new("server1").ok().map(of), ..row("a", None, None) };
        assert_eq!(table(&[copy]), " R W\ta\tcopy of server1, in step\n");
    }

    #[test]
    fn options() {
        let parsed = Options::parse(&["-lc", "^pub/"]).unwrap_or_default();
        assert_eq!(parsed, Options { creators: true, pattern: Some("^pub/".to_owned()), ..Options::default() });
        for bad in [&["-x"][..], &["a", "b"]] {
            assert_eq!(Options::parse(bad).map_err(|reply| reply.code), Err(2));
        }
    }
}

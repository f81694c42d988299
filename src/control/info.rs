//! `info`: who you are here, and what you may do. gitolite's shape, since scripts read it.

use super::{Control, Reply, help};
use crate::cluster::Place;
use crate::model::{Actor, HostName, RepoName};

/// What a line of `info` asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    creators: bool,
    descriptions: bool,
    no_patterns: bool,
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
    rights: &'static str,
    name: String,
    creator: Option<String>,
    description: Option<String>,
    note: Option<String>,
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
        let mut out = format!("{}\n", self.greeting(actor));
        if !options.no_patterns {
            for (name, rights) in self.realm.pattern_rights(actor).into_iter().filter(|(name, _)| wanted(name)) {
                let field = |(may, letter)| if may { letter } else { "  " };
                let fields: String = rights.into_iter().zip([" R", " W", " C"]).map(field).collect();
                out.push_str(&format!("{fields}\t{name}\n"));
            }
        }
        let rows: Vec<Row> = repos.iter().filter_map(|repo| self.row(actor, repo, options)).collect();
        out.push_str(&table(&rows));
        Reply::done(out)
    }

    fn row(&self, actor: &Actor, repo: &RepoName, options: &Options) -> Option<Row> {
        let place = self.cluster.locate(repo);
        let (rights, note) = if let Actor::Node(peer) = actor {
            (role_of(peer, &place)?, None)
        } else {
            let rights = match self.realm.rights(actor, repo) {
                (true, true) => " R W",
                (true, false) => " R  ",
                (false, true) => "   W",
                (false, false) => return None,
            };
            let note = match place {
                Place::There { master, .. } => {
                    Some(format!("copy of {master}, {}", self.mirror.freshness(repo, &master)))
                }
                Place::Here { .. } => None,
                Place::Elsewhere => Some("mirrored, but not here".to_owned()),
            };
            (rights, note)
        };
        let creator = || self.realm.creator(repo).map_or_else(String::new, |creator| creator.to_string());
        let creator = options.creators.then(creator);
        let description = options.descriptions.then(|| self.realm.description(repo));
        Some(Row { rights, name: repo.to_string(), creator, description, note })
    }
}

/// Names are padded when a column follows in every line, and creators when descriptions follow them.
fn table(rows: &[Row]) -> String {
    let width = |of: fn(&Row) -> usize| rows.iter().map(of).max().unwrap_or(0);
    let names = width(|row| if row.creator.is_some() || row.description.is_some() { row.name.len() } else { 0 });
    let creators = width(|row| row.creator.as_ref().filter(|_| row.description.is_some()).map_or(0, String::len));
    let mut out = String::new();
    for Row { rights, name, creator, description, note } in rows {
        out.push_str(&format!("{rights}\t{name:names$}"));
        if let Some(creator) = creator {
            out.push_str(&format!("\t{creator:creators$}"));
        }
        for column in [description, note].into_iter().flatten() {
            out.push_str(&format!("\t{column}"));
        }
        out.push('\n');
    }
    out
}

/// The part a peer has in a repository of ours.
fn role_of(peer: &HostName, place: &Place) -> Option<&'static str> {
    match place {
        Place::There { master, .. } if master == peer => Some(" master "),
        place if place.replica(peer).is_some() => Some(" replica"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, creator: Option<&str>, description: Option<&str>) -> Row {
        let (creator, description) = (creator.map(str::to_owned), description.map(str::to_owned));
        Row { rights: " R W", name: name.to_owned(), creator, description, note: None }
    }

    #[test]
    fn columns() {
        assert_eq!(table(&[row("a", None, None), row("bcd", None, None)]), " R W\ta\n R W\tbcd\n");
        assert_eq!(table(&[row("a", Some("u1"), None), row("bcd", Some(""), None)]), " R W\ta  \tu1\n R W\tbcd\t\n");
        let both = [row("a", Some("u1"), Some("x y")), row("bcd", Some(""), Some(""))];
        assert_eq!(table(&both), " R W\ta  \tu1\tx y\n R W\tbcd\t  \t\n");
        let copy = Row { note: Some("copy of server1".to_owned()), ..row("a", None, None) };
        assert_eq!(table(&[copy]), " R W\ta\tcopy of server1\n");
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

//! One clean line to one statement (section 2.5). Every word keeps its place in the line.

use super::lexer::{Line, Word, words};
use super::rules::Perm;

/// A statement of the access language.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Statement<'l> {
    Group {
        name: Word<'l>,
        members: Vec<Word<'l>>,
    },
    Repo(Vec<Word<'l>>),
    Rule {
        perm: Perm,
        refexes: Vec<Word<'l>>,
        users: Vec<Word<'l>>,
    },
    Config(Config<'l>),
    /// `subconf` where no file was named: only a rewritten line can get here.
    Subconf,
    /// No statement; gitolite warns and goes on.
    Ignored,
}

/// `config`, `option`, `desc`, `owner` and `category` in one shape.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Config<'l> {
    pub(super) spelling: Spelling,
    /// The stored key: options under `gitolite-options.`.
    pub(super) key: String,
    pub(super) key_word: Word<'l>,
    pub(super) value: &'l str,
    pub(super) value_word: Word<'l>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    Config,
    Option,
    /// `desc`, `owner`, `category`.
    Gitweb,
}

/// Where options are stored among the config keys.
pub(super) const OPTION_PREFIX: &str = "gitolite-options.";

pub(super) fn parse(line: &Line) -> Statement<'_> {
    let text = line.text.as_str();
    let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
    let at = text.len() - rest.len();
    match first {
        _ if first.starts_with('@') && first.len() > 1 => match rest.strip_prefix("= ") {
            Some(members) => Statement::Group { name: Word { text: first, at: 0 }, members: words(members, at + 2) },
            None => Statement::Ignored,
        },
        "repo" if !rest.is_empty() => Statement::Repo(words(rest, at)),
        "config" => config(rest, at).map_or(Statement::Ignored, Statement::Config),
        "option" => option(rest, at).map_or(Statement::Ignored, Statement::Config),
        "desc" | "owner" | "category" => gitweb(first, rest, at).map_or(Statement::Ignored, Statement::Config),
        "subconf" => Statement::Subconf,
        _ => rule(first, rest, at).unwrap_or(Statement::Ignored),
    }
}

/// `PERM [refex …] = user …`; the last ` = ` divides.
fn rule<'l>(first: &str, rest: &'l str, at: usize) -> Option<Statement<'l>> {
    let perm = Perm::parse(first)?;
    let divide = match rest.rfind(" = ") {
        Some(found) => found + 1,
        None if rest.starts_with("= ") => 0,
        None => return None,
    };
    let users = words(&rest[divide + 2..], at + divide + 2);
    Some(Statement::Rule { perm, refexes: words(&rest[..divide], at), users })
}

/// `KEY = VALUE` where the key reaches up to the last ` =`, as in gitolite.
fn config(rest: &str, at: usize) -> Option<Config<'_>> {
    let equals = rest.rfind(" =").filter(|found| *found > 0)?;
    let (key, after) = (&rest[..equals], &rest[equals + 2..]);
    let raw = after.strip_prefix(' ').unwrap_or(after);
    let key_word = Word { text: key, at };
    let value_word = Word { text: raw, at: at + rest.len() - raw.len() };
    Some(Config { spelling: Spelling::Config, key: key.to_owned(), key_word, value: unquote(raw), value_word })
}

fn option(rest: &str, at: usize) -> Option<Config<'_>> {
    let (key, value) = rest.split_once(' ')?;
    value.strip_prefix("= ").filter(|value| !value.is_empty())?;
    let mut found = config(rest, at)?;
    // The mirroring of gitolite 3.5 said slaves.
    let copies = found.key.strip_prefix("mirror.slaves").map(|more| format!("mirror.copies{more}"));
    debug_assert!(found.key.starts_with(key), "the key holds the first word");
    found.key = format!("{OPTION_PREFIX}{}", copies.unwrap_or(found.key));
    found.spelling = Spelling::Option;
    Some(found)
}

fn gitweb<'l>(first: &str, rest: &'l str, at: usize) -> Option<Config<'l>> {
    let value = rest.strip_prefix("= ").filter(|value| !value.is_empty())?;
    let name = if first == "desc" { "description" } else { first };
    let value_word = Word { text: value, at: at + 2 };
    let key = format!("gitweb.{name}");
    Some(Config {
        spelling: Spelling::Gitweb,
        key,
        key_word: Word { text: "", at: 0 },
        value: unquote(value),
        value_word,
    })
}

/// One quote goes from each end if both have one, whichever they are.
fn unquote(value: &str) -> &str {
    let quote = |c: char| matches!(c, '"' | '\'');
    let inner = value.strip_prefix(quote).and_then(|v| v.strip_suffix(quote));
    inner.unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::super::lexer::{Origin, clean};
    use super::*;

    fn line(text: &str) -> Line {
        let origin = Origin { file: 0, line: 1, start: 0, end: text.len() };
        Line { text: clean(text.as_bytes()), origin, subconf: 0, segment: 0 }
    }

    fn texts<'l>(words: &[Word<'l>]) -> Vec<&'l str> {
        words.iter().map(|w| w.text).collect()
    }

    #[test]
    fn rules() {
        let given = line("RW+CD master  refs/tags/v[0-9] =  alice @dev");
        let Statement::Rule { perm, refexes, users } = parse(&given) else { panic!("a rule") };
        assert_eq!(perm, Perm::parse("RW+CD").unwrap());
        assert_eq!(texts(&refexes), ["master", "refs/tags/v[0-9]"]);
        assert_eq!(texts(&users), ["alice", "@dev"]);
        for w in refexes.iter().chain(&users) {
            assert_eq!(&given.text[w.range()], w.text);
        }
        for ignored in ["rw = u", "RWMC = u", "RWC+ = u", "W = u", "RW =", "-master = u", "RW u", "@g =", "repo", "x"] {
            assert_eq!(parse(&line(ignored)), Statement::Ignored, "{ignored}");
        }
    }

    #[test]
    fn values() {
        for (text, key, value) in [
            ("config a.b = \"x    y\"", "a.b", "x y"),
            ("config a.c = 'mixed\"", "a.c", "mixed"),
            ("config a.d = \"", "a.d", "\""),
            ("config a.e =", "a.e", ""),
            ("config a.b = c =d", "a.b = c", "d"),
            ("option ENV.B = x=y", "gitolite-options.ENV.B", "x=y"),
            ("option mirror.slaves-2 = a b", "gitolite-options.mirror.copies-2", "a b"),
            ("desc = \"some text\"", "gitweb.description", "some text"),
        ] {
            let given = line(text);
            let Statement::Config(found) = parse(&given) else { panic!("{text}") };
            assert_eq!((found.key.as_str(), found.value), (key, value), "{text}");
            assert_eq!(&given.text[found.value_word.range()], found.value_word.text);
        }
        assert_eq!(parse(&line("option foo =")), Statement::Ignored);
        assert_eq!(parse(&line("option x y = z")), Statement::Ignored);
        assert_eq!(parse(&line("desc =")), Statement::Ignored);
    }
}

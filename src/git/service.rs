//! git's three server programs, and the grammar of the command line that a client sends over SSH.

use std::fmt;

use crate::model::{NameError, RepoName};

/// A server program of git's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    UploadPack,
    UploadArchive,
    ReceivePack,
}

impl Service {
    /// The name as git's own command line has it.
    pub fn subcommand(self) -> &'static str {
        match self {
            Self::UploadPack => "upload-pack",
            Self::UploadArchive => "upload-archive",
            Self::ReceivePack => "receive-pack",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::UploadPack, Self::UploadArchive, Self::ReceivePack].into_iter().find(|s| s.subcommand() == name)
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "git-{}", self.subcommand())
    }
}

/// What a client asked to run.
#[derive(Debug, PartialEq, Eq)]
pub enum Exec {
    /// `git-upload-pack 'docs/handbook.git'` and its kin; the name has been cleaned and checked.
    Git(Service, Result<RepoName, BadPath>),
    /// Anything else, split into words: one of our own commands, or nothing at all.
    Command(Vec<String>),
}

/// A repository path that is no repository name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no repository name: {why}")]
pub struct BadPath {
    pub text: String,
    pub why: NameError,
}

/// Why a command line cannot be split.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExecError {
    #[error("the command is not valid UTF-8")]
    NotText,
    #[error("the command is longer than {MAX_LINE} bytes")]
    TooLong,
    #[error("the command holds a control character")]
    Control,
    #[error("a quote in the command is not closed")]
    Quote,
}

/// An SSH packet holds 32,768 bytes (RFC 4253, section 6.1); the longest line we send carries a role file.
pub const MAX_LINE: usize = 30_000;

/// Splits the command line of an SSH exec request (RFC 4254, section 6.5) as a POSIX shell would split plain words:
/// single quotes, double quotes and backslashes, and nothing else of a shell.
pub fn parse_exec(line: &[u8]) -> Result<Exec, ExecError> {
    let line = std::str::from_utf8(line).map_err(|_| ExecError::NotText)?;
    if line.len() > MAX_LINE {
        return Err(ExecError::TooLong);
    }
    if line.chars().any(char::is_control) {
        return Err(ExecError::Control);
    }
    let words = split(line)?;
    let service = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [name, path] => name.strip_prefix("git-").and_then(Service::parse).map(|s| (s, path)),
        ["git", name, path] => Service::parse(name).map(|s| (s, path)),
        _ => None,
    };
    Ok(match service {
        Some((service, path)) => Exec::Git(service, repo_of_path(path)),
        None => Exec::Command(words),
    })
}

/// The repository that a path of a clone URL names: one leading `/`, one final `/` and one final `.git` are cut, as
/// gitolite does.
pub fn repo_of_path(path: &str) -> Result<RepoName, BadPath> {
    let name = path.strip_prefix('/').unwrap_or(path);
    let name = name.strip_suffix('/').unwrap_or(name);
    let name = name.strip_suffix(".git").unwrap_or(name);
    RepoName::new(name).map_err(|why| BadPath { text: path.chars().take(200).collect(), why })
}

/// Any text as one plain word of a command line, for [`from_word`]: what is not a letter, a digit or one of `-_.@+`
/// becomes `%XX` (RFC 3986, section 2.1).
pub fn to_word(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |word, byte| match byte {
        b if b.is_ascii_alphanumeric() || b"-_.@+".contains(&b) => word + char::from(b).encode_utf8(&mut [0; 4]),
        b => word + &format!("%{b:02X}"),
    })
}

/// The text that [`to_word`] was given; `None` for what it does not write.
pub fn from_word(word: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            bytes.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

fn split(line: &str) -> Result<Vec<String>, ExecError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' => words.extend(word.take()),
            '\'' | '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or(ExecError::Quote)? {
                        end if end == c => break,
                        '\\' if c == '"' => word.push(chars.next().ok_or(ExecError::Quote)?),
                        other => word.push(other),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(chars.next().ok_or(ExecError::Quote)?),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(line: &str) -> Option<(Service, String)> {
        match parse_exec(line.as_bytes()) {
            Ok(Exec::Git(service, Ok(repo))) => Some((service, repo.to_string())),
            _ => None,
        }
    }

    #[test]
    fn the_forms_people_use() {
        for line in [
            "git-upload-pack 'docs/handbook'",
            "git-upload-pack 'docs/handbook.git'",
            "git-upload-pack '/docs/handbook.git'",
            "git-upload-pack '/docs/handbook.git/'",
            "git upload-pack docs/handbook",
            "git-upload-pack \"docs/handbook\"",
        ] {
            assert_eq!(git(line), Some((Service::UploadPack, "docs/handbook".into())), "{line}");
        }
        assert_eq!(git("git-receive-pack 'a'"), Some((Service::ReceivePack, "a".into())));
        assert_eq!(git("git-upload-archive 'a'"), Some((Service::UploadArchive, "a".into())));
    }

    #[test]
    fn paths_that_leave_the_house_are_no_names() {
        for path in
            ["../etc", "a/../../b", "--upload-pack=x", "-x", "~/a", "//a", "a//b", ".git", "", "a b", "a;b", "$(x)"]
        {
            assert!(repo_of_path(path).is_err(), "{path:?}");
        }
        assert_eq!(parse_exec(b"git-upload-pack 'a\nb'"), Err(ExecError::Control));
        assert_eq!(parse_exec(b"git-upload-pack 'a"), Err(ExecError::Quote));
        assert_eq!(parse_exec(b"\xff\xfe"), Err(ExecError::NotText));
    }

    #[test]
    fn any_text_travels_as_a_word() {
        for text in ["", "READERS @all bob\nWRITERS = \u{e9} 100%\n", "'\"\\\0"] {
            let word = to_word(text);
            assert!(word.bytes().all(|b| b.is_ascii_graphic() && !b"'\"\\".contains(&b)), "{word}");
            assert_eq!(from_word(&word).as_deref(), Some(text));
        }
        assert_eq!(to_word("READERS b\n"), "READERS%20b%0A");
        for bad in ["%", "%4", "%zz", "%FF"] {
            assert_eq!(from_word(bad), None, "{bad}");
        }
    }

    #[test]
    fn everything_else_is_a_command() {
        let words = |line: &str| match parse_exec(line.as_bytes()) {
            Ok(Exec::Command(words)) => words,
            other => panic!("{other:?}"),
        };
        assert_eq!(words(""), Vec::<String>::new());
        assert_eq!(words("info  'a b'\\''c'"), ["info", "a b'c"]);
        assert_eq!(words("git-upload-pack a b"), ["git-upload-pack", "a", "b"]);
        assert_eq!(words("git-shell x"), ["git-shell", "x"]);
    }
}

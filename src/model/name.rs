//! Names of repositories, users and nodes.

use std::fmt;

/// The repository that holds the configuration.
pub const ADMIN_REPO: &str = "gitmesh-admin";

/// Why a text is no name. `Display` says what is wrong, without the text itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("the name is empty")]
    Empty,
    #[error("the name is longer than {0} bytes")]
    TooLong(usize),
    #[error("'{0}' may not start a name; a letter or a digit must")]
    FirstChar(char),
    #[error("'{0}' is not allowed in a name")]
    Char(char),
    #[error("'..' is not allowed in a repository name")]
    DotDot,
    #[error("a repository name has no empty part: '//' and a final '/' are not allowed")]
    EmptyPart,
    #[error("a part of a repository name may not be '.' alone")]
    Dot,
    #[error("a part of a repository name may not end in '.git' or '.lock'")]
    PartEnd,
    #[error("CREATOR stands for a user in the configuration and cannot be part of a name")]
    Creator,
}

fn check(text: &str, max: usize, extra: &[char]) -> Result<(), NameError> {
    let first = text.chars().next().ok_or(NameError::Empty)?;
    if !first.is_ascii_alphanumeric() {
        return Err(NameError::FirstChar(first));
    }
    if let Some(bad) = text.chars().find(|c| !c.is_ascii_alphanumeric() && !extra.contains(c)) {
        return Err(NameError::Char(bad));
    }
    if text.len() > max { Err(NameError::TooLong(max)) } else { Ok(()) }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);
        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }
    };
}

name! {
    /// A repository, as the configuration names it: `docs/handbook`, never with `.git` at its end.
    ///
    /// gitolite's plain names (letters, digits, `-_.@+/`, starting with a letter or digit), and narrower where
    /// gitolite lets a name reach outside its directory or clash with git's own files.
    RepoName
}
name! {
    /// A user: gitolite's characters (letters, digits, `-_.@+`), starting with a letter or digit; at most 100 bytes.
    UserName
}
name! {
    /// A node's short name, gitolite's HOSTNAME: letters, digits and `-_.`; at most 64 bytes.
    HostName
}

impl RepoName {
    /// Longest name in bytes; with `.git` and a lock suffix each part stays a legal file name.
    pub const MAX: usize = 200;

    pub fn new(text: &str) -> Result<Self, NameError> {
        check(text, Self::MAX, &['-', '_', '.', '@', '+', '/'])?;
        if text.contains("..") {
            return Err(NameError::DotDot);
        }
        for part in text.split('/') {
            if part.is_empty() {
                return Err(NameError::EmptyPart);
            }
            if part == "." {
                return Err(NameError::Dot);
            }
            if part.ends_with(".git") || part.ends_with(".lock") {
                return Err(NameError::PartEnd);
            }
            if part == "CREATOR" {
                return Err(NameError::Creator);
            }
        }
        Ok(Self(text.to_owned()))
    }
}

impl UserName {
    pub fn new(text: &str) -> Result<Self, NameError> {
        check(text, 100, &['-', '_', '.', '@', '+'])?;
        Ok(Self(text.to_owned()))
    }
}

impl HostName {
    pub fn new(text: &str) -> Result<Self, NameError> {
        check(text, 64, &['-', '_', '.'])?;
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repository_names() {
        for good in ["a", "testing", "docs/handbook", "gtk+", "a.b/c@d", "0/1", "a/.b", "a/-b", "yard/.+"] {
            assert_eq!(RepoName::new(good).map(|n| n.to_string()), Ok(good.to_owned()));
        }
        for (bad, why) in [
            ("", NameError::Empty),
            ("-x", NameError::FirstChar('-')),
            ("/etc", NameError::FirstChar('/')),
            ("../x", NameError::FirstChar('.')),
            ("a/../b", NameError::DotDot),
            ("a//b", NameError::EmptyPart),
            ("a/", NameError::EmptyPart),
            ("a/./b", NameError::Dot),
            ("a/.", NameError::Dot),
            ("a/.git", NameError::PartEnd),
            ("a.git/hooks", NameError::PartEnd),
            ("a.lock", NameError::PartEnd),
            ("a b", NameError::Char(' ')),
            ("a\nb", NameError::Char('\n')),
            ("pub/CREATOR/x", NameError::Creator),
        ] {
            assert_eq!(RepoName::new(bad), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn user_and_host_names() {
        assert!(UserName::new("alice@corp.com").is_ok());
        assert_eq!(UserName::new("a/b"), Err(NameError::Char('/')));
        assert_eq!(HostName::new("a@b"), Err(NameError::Char('@')));
    }
}

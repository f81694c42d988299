//! git's own values: object ids, reference names, one update of a push, and the number of a mastership.

use std::fmt;

/// An object id, SHA-1 or SHA-256, as lower-case hexadecimal. All zeros means "no object" (create, delete).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Oid(String);

impl Oid {
    /// `None` unless the text is 40 or 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit());
        fits.then(|| Self(text.to_ascii_lowercase()))
    }

    /// The null id of the same object format as `self`.
    pub fn to_zero(&self) -> Self {
        Self("0".repeat(self.0.len()))
    }

    pub fn is_zero(&self) -> bool {
        self.0.bytes().all(|b| b == b'0')
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A full reference name, `refs/...`, that git-check-ref-format(1) accepts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RefName(String);

impl RefName {
    /// `None` when git would not accept the name. Bytes that are not UTF-8 never reach here: gitolite's
    /// character set for refs is ASCII.
    pub fn parse(text: &str) -> Option<Self> {
        let bad_char = |c: char| c.is_ascii_control() || matches!(c, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\');
        let bad_part = |p: &str| p.is_empty() || p.starts_with('.') || p.ends_with(".lock");
        let bad = !text.starts_with("refs/")
            || text.chars().any(bad_char)
            || text.contains("..")
            || text.contains("@{")
            || text.ends_with('.')
            || text.split('/').any(bad_part);
        (!bad).then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Refs that gitmesh keeps for itself; users never write them and mirroring never carries them.
    pub fn is_internal(&self) -> bool {
        self.0.starts_with("refs/gitmesh/")
    }
}

impl fmt::Display for RefName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One line of a push: `name` goes from `old` to `new`; a null `old` creates, a null `new` deletes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefUpdate {
    pub name: RefName,
    pub old: Oid,
    pub new: Oid,
}

/// The number of a mastership: higher wins, and a replica never accepts a lower one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u64);

impl Epoch {
    /// Every repository starts here.
    pub const FIRST: Self = Self(1);

    pub fn parse(text: &str) -> Option<Self> {
        text.parse().ok().filter(|n| *n > 0).map(Self)
    }

    /// The number of the mastership that follows this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reference_names_follow_git() {
        for good in ["refs/heads/main", "refs/tags/v1.0", "refs/heads/a/b", "refs/heads/a+b@c"] {
            assert!(RefName::parse(good).is_some(), "{good}");
        }
        for bad in [
            "HEAD",
            "refs/heads/",
            "refs//x",
            "refs/heads/a..b",
            "refs/heads/.a",
            "refs/heads/a.lock",
            "refs/heads/a b",
            "refs/heads/a\u{7f}",
            "refs/heads/@{x",
        ] {
            assert!(RefName::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn object_ids() {
        let zero = Oid::parse(&"0".repeat(40)).expect("40 digits");
        assert!(zero.is_zero());
        assert!(Oid::parse(&"g".repeat(40)).is_none());
        assert!(Oid::parse("abc").is_none());
        assert_eq!(Oid::parse(&"A".repeat(64)).expect("64 digits").to_zero().as_str().len(), 64);
    }
}

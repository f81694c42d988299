//! A refusal, in words for the one who was refused.

use std::fmt;

use crate::policy::Place;

/// Why an actor may not do something. `Display` gives plain ASCII lines for an `ERR` packet or for `remote:`: what
/// happened in gitolite's words, who is asking, the rule (only for those who may read the admin repository), the
/// cure, and the code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The first line, stable: scripts look for it.
    pub first: String,
    /// Who the door took the actor for.
    pub you: Option<String>,
    /// The rule that decided, and where it stands.
    pub rule: Option<Box<(String, Place)>>,
    pub help: String,
    pub code: &'static str,
}

impl Denial {
    /// May not read it, or there is nothing of that name; both read the same.
    pub const NO_ACCESS: &str = "E0201";
    /// May read it, but not write to it.
    pub const NO_WRITE: &str = "E0202";
    /// One reference of a push.
    pub const REF: &str = "E0203";
    /// `refs/gitmesh/*`
    pub const INTERNAL_REF: &str = "E0204";
    /// A push to a copy.
    pub const COPY: &str = "E0205";
    /// Mirrored between other nodes.
    pub const NOT_HERE: &str = "E0206";
    /// A mirror push that this node's configuration does not expect.
    pub const NOT_MASTER: &str = "E0207";

    /// May not make a repository of that name.
    pub const NO_CREATE: &str = "E0210";
    /// May make it, but a clone or push alone does not do so here.
    pub const AUTO_CREATE: &str = "E0211";
    /// An order that is for the repository's creator alone.
    pub const NOT_OWNER: &str = "E0212";

    /// The reason for git's status line of one reference, `! [remote rejected] main -> main (...)`.
    pub fn short(&self) -> String {
        let reason = self.first.split_once(" DENIED ").map_or(self.first.as_str(), |(_, by)| by);
        match &self.rule {
            Some(rule) => format!("denied {reason}, {} [{}]", rule.1, self.code),
            None if reason.starts_with("by ") => format!("denied {reason} [{}]", self.code),
            None => format!("{reason} [{}]", self.code),
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.first)?;
        if self.code == Self::NO_ACCESS {
            writeln!(f, "(or you mis-spelled the reponame)")?;
        }
        if let Some(you) = &self.you {
            writeln!(f, "  you:  {you}")?;
        }
        if let Some(rule) = &self.rule {
            writeln!(f, "  rule: {}   ({})", rule.0, rule.1)?;
        }
        write!(f, "  help: {} [{}]", self.help, self.code)
    }
}

//! Permissions, rules, and the tables that find the rules of a repository and a user by hash.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use super::groups::{Groups, Patterns};
use super::pattern::{Matcher, Pattern};
use crate::model::RepoName;

/// What somebody wants to do (section 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// Any read.
    Read,
    /// A push whose refs are not known yet; a fast-forward.
    Write,
    /// A rewind; any change of an existing tag.
    Force,
    /// Create a ref. The same as `Write` unless the repository has the option CREATE_IS_C.
    Create,
    /// Delete a ref. The same as `Force` unless the repository has the option DELETE_IS_D.
    Delete,
    /// As `Write`, with merge commits among the new ones, in a repository with the option MERGE_CHECK.
    WriteMerge,
    /// As `Force`, with merge commits among the new ones, in a repository with the option MERGE_CHECK.
    ForceMerge,
    /// Create the repository itself.
    CreateRepo,
}

impl fmt::Display for Op {
    /// gitolite's letters, as in its refusals and logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "R",
            Self::Write => "W",
            Self::Force => "+",
            Self::Create => "C",
            Self::Delete => "D",
            Self::WriteMerge => "WM",
            Self::ForceMerge => "+M",
            Self::CreateRepo => "^C",
        })
    }
}

/// Which ref an operation is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// Not known yet: reading, and the first check of a push. Every rule's refex counts as matching.
    Any,
    /// A full ref name or a virtual one (`VREF/…`).
    Ref(&'a str),
    /// A changed path behind `VREF/NAME/` or `VREF/NAME_NC/`: raw bytes, as git's trees hold them.
    Path(&'a [u8]),
    /// A virtual ref that a check spoke. A rule concerns it if its refex matches or is the same text: a check speaks
    /// the refex that named it, and `VREF/MERGE-CHECK/main$` does not match itself.
    Spoken(&'a str),
}

/// A file of the admin repository and a line in it, from 1.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub file: String,
    pub line: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// The permission of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Perm {
    Deny,
    /// `C`: create the repository.
    CreateRepo,
    Read,
    Write {
        force: bool,
        create: bool,
        delete: bool,
        merge: bool,
    },
}

impl Perm {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "-" => return Some(Self::Deny),
            "C" => return Some(Self::CreateRepo),
            "R" => return Some(Self::Read),
            _ => {}
        }
        let rest = text.strip_prefix("RW")?;
        let (force, rest) = rest.strip_prefix('+').map_or((false, rest), |r| (true, r));
        let (merge, rest) = rest.strip_suffix('M').map_or((false, rest), |r| (true, r));
        let (create, delete) = match rest {
            "" => (false, false),
            "C" => (true, false),
            "D" => (false, true),
            "CD" | "DC" => (true, true),
            _ => return None,
        };
        Some(Self::Write { force, create, delete, merge })
    }

    pub(super) fn allows(self, op: Op) -> bool {
        match (self, op) {
            (Self::CreateRepo, Op::CreateRepo) | (Self::Read | Self::Write { .. }, Op::Read) => true,
            (Self::Write { .. }, Op::Write) => true,
            (Self::Write { force, .. }, Op::Force) => force,
            (Self::Write { create, .. }, Op::Create) => create,
            (Self::Write { delete, .. }, Op::Delete) => delete,
            (Self::Write { merge, .. }, Op::WriteMerge) => merge,
            (Self::Write { force, merge, .. }, Op::ForceMerge) => force && merge,
            _ => false,
        }
    }
}

/// One rule: one permission, one refex, one user of one line. Its index is its sequence number.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) perm: Perm,
    pub(super) refex: u32,
    pub(super) statement: u32,
    /// The delegated part it was written in; it counts only for repositories of that part.
    pub(super) subconf: u32,
}

/// A refex as written (with its prefix) and how it matches. Without a matcher the user's name has to go in first.
#[derive(Debug)]
pub(super) struct Refex {
    pub(super) text: Arc<str>,
    pub(super) matcher: Option<Matcher>,
}

pub(super) const USER_MARK: &str = "/USER/";

impl Refex {
    /// The text with the user's name in the place of `/USER/`, and the matcher for it.
    pub(super) fn for_user(&self, user: &str, quote: bool) -> (String, Matcher) {
        let quoted: String =
            user.chars().flat_map(|c| (!c.is_ascii_alphanumeric()).then_some('\\').into_iter().chain([c])).collect();
        let fill = |name: &str| self.text.replacen(USER_MARK, &format!("/{name}/"), 1);
        let build = |text: &str| Pattern::parse(text).and_then(|p| p.to_refex());
        let text = fill(user);
        // A name such as `c++` is no expression this engine knows; then it stands for itself.
        let written = if quote { None } else { build(&text).ok() };
        let matcher = written.or_else(|| build(&fill(&quoted)).ok());
        let matcher = matcher.unwrap_or_else(|| Matcher::Exact(text.as_str().into()));
        (text, matcher)
    }
}

/// Where a rule or a config line was written, and its text.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) file: u32,
    pub(super) line: u32,
    pub(super) text: Box<str>,
}

/// A config or option line. Its index is its sequence number.
#[derive(Debug)]
pub(super) struct ConfigEntry {
    pub(super) key: Arc<str>,
    pub(super) value: Arc<str>,
    pub(super) subconf: u32,
}

/// Numbers for names, so that tables are small and comparing is cheap.
#[derive(Debug, Default)]
pub(super) struct Names {
    ids: HashMap<Arc<str>, u32>,
    texts: Vec<Arc<str>>,
}

impl Names {
    pub(super) fn id(&mut self, text: &str) -> u32 {
        if let Some(id) = self.ids.get(text) {
            return *id;
        }
        let id = u32::try_from(self.texts.len()).expect("the configuration is limited to 64 MiB");
        let text: Arc<str> = text.into();
        self.texts.push(text.clone());
        self.ids.insert(text, id);
        id
    }

    /// The one copy of a text.
    pub(super) fn id_text(&mut self, text: &str) -> Arc<str> {
        let id = self.id(text);
        self.text(id).clone()
    }

    pub(super) fn count(&self) -> usize {
        self.texts.len()
    }

    pub(super) fn find(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    pub(super) fn text(&self, id: u32) -> &Arc<str> {
        &self.texts[id as usize]
    }
}

/// The rules of one commit, ready to decide. Immutable; share it in an `Arc`.
#[derive(Debug, Default)]
pub struct Policy {
    pub(super) files: Vec<String>,
    pub(super) names: Names,
    pub(super) written: Vec<Written>,
    pub(super) refexes: Vec<Refex>,
    pub(super) rules: Vec<Rule>,
    /// (repository, group or pattern; user, group or role) to rules, in their order.
    pub(super) rules_of: HashMap<(u32, u32), Vec<u32>>,
    pub(super) configs: Vec<ConfigEntry>,
    pub(super) configs_of: HashMap<u32, Vec<u32>>,
    pub(super) groups: Groups,
    pub(super) patterns: Patterns,
    /// The names of the delegated parts; 0 is the main configuration.
    pub(super) subconfs: Vec<String>,
    /// Roles that the settings know, `CREATOR` among them, without `@`.
    pub(super) roles: BTreeSet<String>,
    pub(super) repos: BTreeSet<RepoName>,
    pub(super) features: BTreeMap<&'static str, Place>,
    pub(super) owner_role: Option<String>,
    /// Names of users go into patterns as text and not, as in gitolite, as regular expressions.
    pub(super) quote_names: bool,
    /// `config gitolite.mirror.*` means `option mirror.*`.
    pub(super) mirror_aliases: bool,
    pub(super) templates: BTreeMap<RepoName, super::template::Template>,
}

impl Policy {
    pub(super) fn place(&self, statement: u32) -> Place {
        let written = &self.written[statement as usize];
        Place { file: self.files[written.file as usize].clone(), line: written.line }
    }

    /// The repositories that the configuration names and that must exist (section 4.3), sorted.
    pub fn repos(&self) -> impl Iterator<Item = &RepoName> {
        self.repos.iter()
    }

    /// Whether the configuration names this repository, so that no user makes it.
    pub fn is_named(&self, repo: &RepoName) -> bool {
        self.repos.contains(repo)
    }

    /// The constructs that are used, each with its first place, so that a server can refuse those it cannot carry
    /// out yet: `patterns`, `wild-repos` (`C` rules), `roles`, `default-roles`, `user-refex` (`/USER/`),
    /// `create-delete` (RWC, RWD), `merge-check`, `deny-rules`, `vref`, `hooks`, `hook-environment`, `git-config`,
    /// `gitweb` (and `desc`, `owner`, `category`), `mirror`, `mirror-foreign`, `subconf`, `templates`.
    pub fn features(&self) -> BTreeMap<&'static str, Place> {
        self.features.clone()
    }

    /// All names of a repository (section 4.1), `@all` included.
    pub(super) fn repo_names(&self, name: &str, creator: Option<&str>) -> RepoNames {
        let generic = creator.and_then(|c| to_generic(name, c, self.quote_names)).filter(|g| g != name);
        let mut ids = Vec::with_capacity(8);
        ids.extend(self.names.find(name));
        ids.extend(self.names.find("@all"));
        let mut groups: Vec<u32> = Vec::new();
        for text in std::iter::once(name).chain(generic.as_deref()) {
            groups.extend(self.groups.holding(text));
            self.patterns.matching(text, &mut ids, &mut groups);
        }
        if !self.templates.is_empty() {
            let template = RepoName::new(name).ok().and_then(|name| self.templates.get(&name));
            groups.extend(template.into_iter().flat_map(|t| &t.groups));
        }
        ids.extend(groups);
        ids.sort_unstable();
        ids.dedup();
        RepoNames { ids, name: name.to_owned(), generic }
    }

    /// The user and all groups that hold the user (section 4.2, points 1 and 2), `@all` included.
    pub(super) fn user_names(&self, user: &str) -> Vec<u32> {
        let mut ids: Vec<u32> = Vec::with_capacity(8);
        ids.extend(self.names.find(user));
        ids.extend(self.names.find("@all"));
        ids.extend(self.groups.holding(user));
        ids
    }

    /// Adds the roles that a role file and the creator give to one of these names (section 4.5).
    pub(super) fn add_roles(&self, ids: &mut Vec<u32>, user: &str, creator: Option<&str>, file: Option<&str>) {
        let roles = self.roles_held(ids, user, creator, file);
        ids.extend(roles.into_iter().filter_map(|role| self.names.find(&format!("@{role}"))));
        ids.sort_unstable();
        ids.dedup();
    }

    /// Whether the user owns an existing repository: made it, or holds the role that the settings name for that.
    pub fn is_owner(&self, facts: &super::Facts<'_>, user: &str) -> bool {
        let by_role = |role: &String| {
            let held = self.roles_held(&self.user_names(user), user, facts.creator, facts.roles);
            held.contains(&role.as_str())
        };
        facts.exists && (facts.creator == Some(user) || self.owner_role.as_ref().is_some_and(by_role))
    }

    /// The roles of a user who has these names.
    fn roles_held<'f>(&self, ids: &[u32], user: &str, creator: Option<&str>, file: Option<&'f str>) -> Vec<&'f str> {
        let has = |member: &str, ids: &[u32]| {
            member == user || member == "@all" || self.names.find(member).is_some_and(|id| ids.contains(&id))
        };
        let mut roles: Vec<&str> = Vec::new();
        if creator.is_some_and(|c| has(c, ids)) {
            roles.push("CREATOR");
        }
        for (role, members) in role_lines(file.unwrap_or_default()) {
            if self.roles.contains(role) && members.into_iter().any(|m| is_role_member(m) && has(m, ids)) {
                roles.push(role);
            }
        }
        roles
    }

    /// Whether a delegated part may speak about this repository.
    pub(super) fn part_covers(&self, subconf: u32, repo: &RepoNames) -> bool {
        if subconf == 0 {
            return true;
        }
        let part = &self.subconfs[subconf as usize];
        *part == repo.name || self.groups.part_accepts(part, &self.patterns, repo.texts())
    }
}

/// A repository's names by number, and the texts that patterns are matched against.
#[derive(Debug)]
pub(super) struct RepoNames {
    pub(super) ids: Vec<u32>,
    name: String,
    generic: Option<String>,
}

impl RepoNames {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn texts(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.generic.as_deref())
    }
}

/// The lines of a role file: a role without `@`, and its members. Blank lines and comments are left out. As in
/// gitolite the first `=` of a line is a blank, wherever it stands.
pub(super) fn role_lines(text: &str) -> impl Iterator<Item = (&str, Vec<&str>)> {
    text.lines().filter_map(|line| {
        let line = line.trim_start();
        let (before, after) = line.split_once('=').unwrap_or((line, ""));
        let before = before.trim_start();
        let before = before.strip_prefix('@').unwrap_or(before);
        let mut words = before.split_whitespace().chain(after.split_whitespace());
        let role = words.next().filter(|_| !before.starts_with('#'))?;
        Some((role, words.collect()))
    })
}

fn is_role_member(word: &str) -> bool {
    super::names::is_user(word.strip_prefix('@').unwrap_or(word))
}

/// `pub/alice/x` with creator alice is `pub/CREATOR/x`: the first occurrence between word boundaries. In gitolite
/// the creator's name is a regular expression here.
fn to_generic(name: &str, creator: &str, quote: bool) -> Option<String> {
    let is_word = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    let text = name.as_bytes();
    let boundary = |at: usize| is_word(at.checked_sub(1).and_then(|i| text.get(i))) != is_word(text.get(at));
    if matches!(creator, "" | "0") {
        return None;
    }
    if !quote && creator.contains(['.', '+']) {
        let regex = regex::bytes::RegexBuilder::new(&format!(r"\b{creator}\b")).unicode(false).build().ok()?;
        let found = regex.find(text)?;
        return Some(format!("{}CREATOR{}", &name[..found.start()], &name[found.end()..]));
    }
    let found = name.match_indices(creator).find(|(at, _)| boundary(*at) && boundary(at + creator.len()))?;
    Some(format!("{}CREATOR{}", &name[..found.0], &name[found.0 + creator.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions() {
        for good in ["R", "RW", "RW+", "-", "C", "RWC", "RW+CDM", "RWDC", "RW+M", "RWDM"] {
            assert!(Perm::parse(good).is_some(), "{good}");
        }
        for bad in ["RWMC", "RWC+", "W", "+", "CR", "rw", "RWCC", "", "RW++"] {
            assert!(Perm::parse(bad).is_none(), "{bad}");
        }
        let allowed = |perm: &str, op| Perm::parse(perm).unwrap().allows(op);
        assert!(allowed("RWC", Op::Create) && !allowed("RWC", Op::Force) && !allowed("C", Op::Read));
        assert!(allowed("RW+M", Op::ForceMerge) && !allowed("RWM", Op::ForceMerge) && !allowed("RW+", Op::WriteMerge));
    }

    #[test]
    fn creators() {
        let generic = |name, creator, quote| to_generic(name, creator, quote).unwrap_or_default();
        assert_eq!(generic("pub/una/x", "una", true), "pub/CREATOR/x");
        assert_eq!(generic("pub/una-2/x", "una", true), "pub/CREATOR-2/x");
        assert_eq!(generic("pub/luna/x", "una", true), "");
        assert_eq!(generic("pub/axb/x", "a.b", true), "");
        assert_eq!(generic("pub/axb/x", "a.b", false), "pub/CREATOR/x");
        assert_eq!(generic("yard/yard/x", "yard", true), "CREATOR/yard/x");
    }

    #[test]
    fn role_files() {
        let text = "CREATOR vlad\nREADERS = wim , xena\n  @WRITERS   yan\n# READERS zed6\nGUESTS olaf\n\nX=y\n@ A b =c\r\n@#x y\n=B c=d";
        let lines: Vec<_> = role_lines(text).map(|(r, m)| format!("{r}:{}", m.join("+"))).collect();
        assert_eq!(
            lines,
            ["CREATOR:vlad", "READERS:wim+,+xena", "WRITERS:yan", "GUESTS:olaf", "X:y", "A:b+c", "B:c=d"]
        );
    }
}

//! Groups and repository patterns: who is in what, by hash for plain names and by literal prefix for patterns.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::pattern::{Matcher, Pattern, PatternError};

/// Groups by number of their name; members as text, nested groups already copied in.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// Group to members; true when the main configuration put the member in first.
    members: HashMap<u32, BTreeMap<Box<str>, bool>>,
    by_name: HashMap<Box<str>, u32>,
    /// Member text to groups.
    of: HashMap<Box<str>, Vec<u32>>,
}

impl Groups {
    pub(super) fn get(&self, name: &str) -> Option<&BTreeMap<Box<str>, bool>> {
        self.by_name.get(name).and_then(|id| self.members.get(id))
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(|name| &**name)
    }

    pub(super) fn members(&self, id: u32) -> impl Iterator<Item = &str> {
        self.members.get(&id).into_iter().flat_map(|members| members.keys().map(|m| &**m))
    }

    /// Adds a member to the group `name` (with its `@`) whose number is `id`.
    pub(super) fn add(&mut self, name: &str, id: u32, member: &str, from_main: bool) {
        if !self.by_name.contains_key(name) {
            self.by_name.insert(name.into(), id);
        }
        let members = self.members.entry(id).or_default();
        if !members.contains_key(member) {
            members.insert(member.into(), from_main);
            self.of.entry(member.into()).or_default().push(id);
        }
    }

    /// The groups that have this text as a member.
    pub(super) fn holding(&self, member: &str) -> impl Iterator<Item = u32> {
        self.of.get(member).into_iter().flatten().copied()
    }

    /// Whether the group of a delegated part accepts one of these names: as text, or through a pattern that is a
    /// member. gitolite takes plain members for patterns as well here, which lets a part reach further.
    pub(super) fn part_accepts<'n>(
        &self,
        part: &str,
        patterns: &Patterns,
        mut names: impl Iterator<Item = &'n str>,
    ) -> bool {
        let Some(members) = self.get(&format!("@{part}")) else { return false };
        let own = |member: &str| members.get(member).copied().unwrap_or(false);
        names.any(|name| own(name) || members.iter().any(|(m, main)| *main && patterns.member_matches(m, name)))
    }
}

/// All patterns of repository lines and group members.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    list: Vec<Entry>,
    by_text: HashMap<Box<str>, u32>,
    /// Literal prefix to the patterns that start with it; few of them share more than a prefix.
    by_prefix: HashMap<Box<str>, Vec<u32>>,
    prefix_lengths: BTreeSet<usize>,
}

#[derive(Debug)]
struct Entry {
    matcher: Matcher,
    /// Number of the name, if the pattern stands on a repository line.
    item: Option<u32>,
    /// Groups that have it as a member.
    groups: Vec<u32>,
}

impl Patterns {
    /// Every pattern's text.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        self.by_text.keys().map(|text| &**text)
    }

    /// Compiles a pattern once; gives its place and whether it has a top-level `|`.
    fn intern(&mut self, text: &str) -> Result<(usize, bool), PatternError> {
        if let Some(at) = self.by_text.get(text) {
            return Ok((*at as usize, false));
        }
        let pattern = Pattern::parse(text)?;
        let matcher = pattern.to_whole()?;
        let prefix = pattern.literal_prefix();
        let at = u32::try_from(self.list.len()).expect("the configuration is limited to 64 MiB");
        self.prefix_lengths.insert(prefix.len());
        self.by_prefix.entry(prefix.into()).or_default().push(at);
        self.by_text.insert(text.into(), at);
        self.list.push(Entry { matcher, item: None, groups: Vec::new() });
        Ok((at as usize, pattern.alternation))
    }

    /// A pattern on a repository line. True when it has a top-level `|`, the first time it is seen.
    pub(super) fn add_item(&mut self, text: &str, id: u32) -> Result<bool, PatternError> {
        let (at, alternation) = self.intern(text)?;
        self.list[at].item = Some(id);
        Ok(alternation)
    }

    /// A pattern that is a member of a group.
    pub(super) fn add_member(&mut self, text: &str, group: u32) -> Result<(), PatternError> {
        let (at, _) = self.intern(text)?;
        if !self.list[at].groups.contains(&group) {
            self.list[at].groups.push(group);
        }
        Ok(())
    }

    /// Adds what covers this text: items of repository lines, and groups by a member that is a pattern.
    pub(super) fn matching(&self, text: &str, items: &mut Vec<u32>, groups: &mut Vec<u32>) {
        let mut take = |entry: &Entry| {
            items.extend(entry.item);
            groups.extend(&entry.groups);
        };
        // Asking by the pattern's own text is what `info` does.
        if let Some(at) = self.by_text.get(text) {
            take(&self.list[*at as usize]);
        }
        for &length in self.prefix_lengths.iter().take_while(|length| **length <= text.len()) {
            let candidates = text.get(..length).and_then(|prefix| self.by_prefix.get(prefix));
            for entry in candidates.into_iter().flatten().map(|at| &self.list[*at as usize]) {
                if entry.matcher.is_match(text) {
                    take(entry);
                }
            }
        }
    }

    /// Whether a group member that is a pattern matches a name.
    fn member_matches(&self, member: &str, name: &str) -> bool {
        self.by_text.get(member).is_some_and(|at| self.list[*at as usize].matcher.is_match(name))
    }
}

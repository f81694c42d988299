//! Groups and repository patterns: who is in what, by hash for plain names and by literal prefix for patterns.

use std::collections::{BTreeMap, HashMap};

use super::names;
use super::pattern::{Matcher, Pattern, PatternError};

/// Groups by number of their name; members as text, nested groups already copied in.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// Group to members; true when the main configuration put the member in first.
    members: HashMap<u32, BTreeMap<Box<str>, bool>>,
    by_name: HashMap<Box<str>, u32>,
    /// Member text to groups.
    of: HashMap<Box<str>, Vec<u32>>,
    /// Group to those members that are patterns and that the main configuration put in first.
    main_patterns: HashMap<u32, Vec<Box<str>>>,
}

impl Groups {
    pub(super) fn get(&self, name: &str) -> Option<&BTreeMap<Box<str>, bool>> {
        self.by_name.get(name).and_then(|id| self.members.get(id))
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    pub(super) fn count(&self) -> usize {
        self.by_name.len()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(|name| &**name)
    }

    pub(super) fn members(&self, id: u32) -> impl Iterator<Item = &str> {
        self.members.get(&id).into_iter().flat_map(|members| members.keys().map(|m| &**m))
    }

    /// Adds a member to the group `name` (with its `@`) whose number is `id`; false when it was there.
    pub(super) fn add(&mut self, name: &str, id: u32, member: &str, from_main: bool) -> bool {
        if !self.by_name.contains_key(name) {
            self.by_name.insert(name.into(), id);
        }
        let members = self.members.entry(id).or_default();
        let new = !members.contains_key(member);
        if new {
            if from_main && !names::is_plain(member) {
                self.main_patterns.entry(id).or_default().push(member.into());
            }
            members.insert(member.into(), from_main);
            self.of.entry(member.into()).or_default().push(id);
        }
        new
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
        let Some(id) = self.by_name.get(format!("@{part}").as_str()) else { return false };
        let own = |name: &str| self.members.get(id).is_some_and(|members| members.get(name) == Some(&true));
        let shaped = self.main_patterns.get(id).map_or(&[][..], Vec::as_slice);
        names.any(|name| own(name) || shaped.iter().any(|member| patterns.member_matches(member, name)))
    }
}

/// All patterns of repository lines and group members.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    list: Vec<Entry>,
    by_text: HashMap<Box<str>, u32>,
    /// Literal prefix to the patterns that start with it; few of them share more than a prefix.
    by_prefix: HashMap<Box<str>, Vec<u32>>,
    /// Length of a prefix to the most patterns that share one of that length.
    prefix_lengths: BTreeMap<usize, usize>,
    /// About how many bytes the compiled programs take.
    bytes: usize,
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
        let most = self.prefix_lengths.entry(prefix.len()).or_default();
        let sharing = self.by_prefix.entry(prefix.into()).or_default();
        sharing.push(at);
        *most = sharing.len().max(*most);
        self.bytes += matcher.bytes();
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

    /// A pattern that has become a member of a group, which it was not before.
    pub(super) fn add_member(&mut self, text: &str, group: u32) -> Result<(), PatternError> {
        let (at, _) = self.intern(text)?;
        self.list[at].groups.push(group);
        Ok(())
    }

    /// Whether it can be compiled; then it is.
    pub(super) fn check(&mut self, text: &str) -> Result<bool, PatternError> {
        self.intern(text).map(|_| false)
    }

    /// About how many bytes the compiled programs take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The most patterns that one name may have to be compared with.
    pub(super) fn widest(&self) -> usize {
        self.prefix_lengths.values().sum()
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
        for &length in self.prefix_lengths.keys().take_while(|length| **length <= text.len()) {
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

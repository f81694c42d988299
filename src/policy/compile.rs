//! Statements in their order become the tables of a policy.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::diagnostic::{Diagnostic, Severity};
use super::include::{Files, Joined};
use super::lexer::{Line, Word};
use super::lint::Lints;
use super::parser::{Statement, parse};
use super::pattern::{KeyPatterns, PatternError};
use super::rules::{Place, Policy};
use super::{Compiled, Settings, include, names, reach, sugar, template};
use crate::model::{NameError, RepoName};

/// More table entries than this (repositories times users of one line add up quickly) are refused. What else takes
/// memory is weighed in entries of about fifty bytes.
const ENTRIES_MAX: usize = 10_000_000;
/// A member of a group, written or copied from another group.
const MEMBER_WEIGHT: usize = 5;
/// A name that was not seen before.
const NAME_WEIGHT: usize = 3;
/// Bytes of compiled patterns that weigh as much as an entry.
const ENTRY_BYTES: usize = 50;
/// Comparisons of repositories with patterns that one look at every repository may take.
const COMPARISONS_MAX: usize = 200_000_000;
/// Names of groups that are looked at, all together, to guess what misspelt ones mean.
const GUESSES_MAX: usize = 2_000_000;

/// What the lines up to here were about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    /// No repository line yet, in this part.
    Before,
    /// A repository line of a delegated part of which nothing was left.
    Dropped,
    Open,
}

pub(super) struct Builder<'s, 'x> {
    pub(super) settings: &'x Settings,
    pub(super) files: Files<'s>,
    pub(super) policy: Policy,
    pub(super) lints: Lints,
    pub(super) refex_ids: HashMap<String, Option<u32>>,
    /// About how many bytes the compiled refexes take.
    pub(super) refex_bytes: usize,
    pub(super) key_patterns: KeyPatterns,
    pub(super) keys: HashMap<String, bool>,
    pub(super) repolist: Vec<u32>,
    block: Block,
    /// CREATE_IS_C, DELETE_IS_D and MERGE_CHECK were already put in for this block.
    pub(super) switched: [bool; 3],
    pub(super) segment: u32,
    pub(super) entries: usize,
    /// Repositories and groups with rules (true) or only config lines, and the line that named them first.
    pub(super) used: BTreeMap<u32, (bool, usize)>,
    /// Where a repository line named an item last.
    pub(super) repo_line: usize,
    pub(super) dropped: BTreeMap<u32, (BTreeSet<String>, usize)>,
    pub(super) too_large: bool,
    guesses: usize,
}

/// Compiles the configuration. With any error there is no policy.
pub(super) fn compile(sources: &super::Sources, settings: &Settings) -> Compiled {
    let mut joined = include::join(sources, settings);
    if !joined.files.list.is_empty() {
        sugar::apply(&mut joined, settings);
    }
    let Joined { lines, files, subconfs } = joined;
    let roles = settings.roles.iter().cloned().chain(["CREATOR".to_owned()]).collect();
    let enabled = |switch| settings.enable.contains(switch);
    let policy = Policy {
        subconfs,
        roles,
        owner_role: settings.owner_role.clone(),
        quote_names: enabled("quote-names"),
        mirror_aliases: enabled("mirror-aliases"),
        ..Policy::default()
    };
    let mut builder = Builder {
        settings,
        files,
        policy,
        lints: Lints::default(),
        refex_ids: HashMap::new(),
        refex_bytes: 0,
        key_patterns: KeyPatterns::new(&settings.config_keys),
        keys: HashMap::new(),
        repolist: Vec::new(),
        block: Block::Before,
        switched: [false; 3],
        segment: 0,
        entries: 0,
        used: BTreeMap::new(),
        repo_line: 0,
        dropped: BTreeMap::new(),
        too_large: false,
        guesses: GUESSES_MAX,
    };
    builder.policy.names.id("@all");
    for (index, line) in lines.iter().enumerate() {
        builder.line(index, line);
        builder.check_entries(line);
        if builder.too_large {
            break;
        }
    }
    builder.finish(&lines, sources)
}

impl Builder<'_, '_> {
    fn line(&mut self, index: usize, line: &Line) {
        if line.segment != self.segment {
            // Nothing runs from the main configuration into a delegated part, or out of it.
            self.segment = line.segment;
            self.repolist.clear();
            self.block = Block::Before;
        }
        if line.subconf != 0 {
            self.feature("subconf", line);
        }
        match parse(line) {
            Statement::Group { name, members } => self.group(line, name, &members),
            Statement::Repo(items) => self.repo(index, line, &items),
            Statement::Rule { perm, refexes, users } => self.rule(line, perm, &refexes, &users),
            Statement::Config(config) => self.config(line, &config),
            Statement::Subconf => {
                let message = "'subconf' needs one file name in quotes".to_owned();
                let remark = self.files.remark("bad-include-argument", line, None, message);
                remark.help = Some("write subconf \"parts/*.conf\" in the main configuration".into());
            }
            Statement::Ignored => self.ignored(line),
        }
    }

    fn ignored(&mut self, line: &Line) {
        let message = format!("this line is no statement and is ignored: '{}'", shorten(&line.text));
        let help = super::lint::guess(&line.text);
        self.files.remark("line-ignored", line, None, message).help = help;
    }

    pub(super) fn feature(&mut self, name: &'static str, line: &Line) {
        if !self.policy.features.contains_key(name) {
            let file = self.files.list[line.origin.file as usize].0.clone();
            self.policy.features.insert(name, Place { file, line: line.origin.line });
        }
    }

    pub(super) fn repolist(&self) -> Vec<u32> {
        self.repolist.clone()
    }

    pub(super) fn remarks_mut(&mut self) -> &mut [Diagnostic] {
        &mut self.files.remarks
    }

    pub(super) fn remark(
        &mut self,
        class: &'static str,
        line: &Line,
        word: Option<Word<'_>>,
        message: String,
    ) -> &mut Diagnostic {
        self.files.remark(class, line, word.map(|w| w.range()), message)
    }

    pub(super) fn undefined(&mut self, line: &Line, word: Word<'_>) {
        let near = self.near_group(word.text);
        let help = near.unwrap_or_else(|| format!("define it above this line: {} = alice bob", word.text));
        let remark = self.remark("undefined-group", line, Some(word), format!("group '{}' is not defined", word.text));
        remark.label = "used here; nothing above defines it".into();
        remark.help = Some(help);
    }

    /// The group that was meant, perhaps; no guess when there have been too many.
    pub(super) fn near_group(&mut self, word: &str) -> Option<String> {
        self.guesses = self.guesses.checked_sub(self.policy.groups.count())?;
        nearest(word, self.policy.groups.names()).map(|name| format!("did you mean '{name}'?"))
    }

    fn group(&mut self, line: &Line, name: Word<'_>, members: &[Word<'_>]) {
        if !names::is_plain(&name.text[1..]) {
            let remark =
                self.remark("bad-group-name", line, Some(name), format!("'{}' cannot name a group", name.text));
            remark.help = Some("letters, digits and '-_.@+/' make a name; a letter or a digit starts it".into());
            return;
        }
        self.lint_group(line, name, members);
        let id = self.policy.names.id(name.text);
        let from_main = line.subconf == 0;
        let existed = self.policy.groups.contains(name.text);
        for member in members {
            if member.text.starts_with('@') && member.text != "@all" {
                let known = if member.text == name.text { existed } else { self.policy.groups.contains(member.text) };
                if !known {
                    self.undefined(line, *member);
                    continue;
                }
                if member.text == name.text {
                    continue;
                }
                let inner = self.policy.groups.get(member.text);
                let copied: Vec<Box<str>> = inner.into_iter().flat_map(BTreeMap::keys).cloned().collect();
                self.entries += copied.len() * MEMBER_WEIGHT;
                self.check_entries(line);
                if self.too_large {
                    return;
                }
                for text in copied {
                    self.add_member(name.text, id, &text, from_main);
                }
            } else if member.text == "@all" || names::is_pattern(member.text) {
                if !names::is_plain(member.text) && member.text != "@all" {
                    let checked = self.policy.patterns.check(member.text);
                    self.pattern_checked(line, *member, &checked);
                }
                self.entries += MEMBER_WEIGHT;
                self.add_member(name.text, id, member.text, from_main);
            } else {
                let message = format!("'{}' cannot be in a group", member.text);
                let remark = self.remark("bad-group-member", line, Some(*member), message);
                remark.help = Some("members are users, repositories, patterns and groups, divided by blanks".into());
            }
        }
    }

    fn add_member(&mut self, group: &str, id: u32, text: &str, from_main: bool) {
        let new = self.policy.groups.add(group, id, text, from_main);
        if new && !names::is_plain(text) && text != "@all" {
            // What is wrong with it was said when it was first seen.
            let _ = self.policy.patterns.add_member(text, id);
        }
    }

    pub(super) fn check_entries(&mut self, line: &Line) {
        let names = self.policy.names.count() * NAME_WEIGHT;
        let patterns = (self.policy.patterns.bytes() + self.refex_bytes) / ENTRY_BYTES;
        if self.entries + names + patterns > ENTRIES_MAX && !self.too_large {
            self.too_large = true;
            let message = format!("the configuration makes more than {ENTRIES_MAX} table entries");
            let remark = self.remark("too-large", line, None, message);
            remark.help = Some("put repositories and users into groups instead of long lists".into());
        }
    }

    pub(super) fn pattern_checked(&mut self, line: &Line, word: Word<'_>, checked: &Result<bool, PatternError>) {
        match checked {
            Ok(false) => {}
            Ok(true) => {
                let message = format!(
                    "in '{}' only the first branch is anchored at the start and only the last at the end",
                    word.text
                );
                let remark = self.remark("pattern-alternation", line, Some(word), message);
                remark.help = Some("write (a|b) if each branch is to be a whole name".into());
            }
            Err(problem) => {
                let class = match problem {
                    PatternError::Invalid(_) => "bad-regex",
                    PatternError::Unsupported(_) => "unsupported-regex",
                };
                self.remark(class, line, Some(word), format!("the pattern '{}' {problem}", word.text));
            }
        }
    }

    fn repo(&mut self, index: usize, line: &Line, items: &[Word<'_>]) {
        self.repolist.clear();
        self.switched = [false; 3];
        self.block = Block::Dropped;
        self.repo_line = index;
        let mut queue: Vec<(Word<'_>, String)> = items.iter().rev().map(|w| (*w, w.text.to_owned())).collect();
        while let Some((word, item)) = queue.pop() {
            if line.subconf != 0 && !self.part_may(line.subconf, &item) {
                if let Some(members) = self.policy.groups.get(&item) {
                    let members: Vec<String> = members.keys().map(|m| m.to_string()).collect();
                    self.entries += members.len();
                    self.check_entries(line);
                    if self.too_large {
                        return;
                    }
                    queue.extend(members.into_iter().rev().map(|m| (word, m)));
                    let message = format!("'{item}' is not of this part; its members are tried one by one");
                    self.remark("subconf-expanding-group", line, Some(word), message);
                } else {
                    self.dropped.entry(line.subconf).or_insert_with(|| (BTreeSet::new(), index)).0.insert(item);
                }
                continue;
            }
            let name = item.strip_suffix(".git").unwrap_or(&item);
            if name.len() < item.len() {
                self.remark("git-suffix", line, Some(word), format!("'.git' is left out of the name '{item}'"));
            }
            self.repo_item(line, word, name);
        }
        if !self.repolist.is_empty() {
            self.block = Block::Open;
        }
    }

    fn repo_item(&mut self, line: &Line, word: Word<'_>, name: &str) {
        let group = name.strip_prefix('@').is_some_and(names::is_plain);
        if !group && !names::is_pattern(name) {
            let message = format!("'{}' is neither a repository name nor a pattern", word.text);
            let remark = self.remark("bad-repo-name", line, Some(word), message);
            remark.help =
                Some("a letter, a digit or '[' must come first; ':', '~', '%', '\"' and '=' are not allowed".into());
            return;
        }
        let id = self.policy.names.id(name);
        if !group && !names::is_plain(name) {
            self.feature("patterns", line);
            let checked = self.policy.patterns.add_item(name, id);
            self.pattern_checked(line, word, &checked);
            self.lint_pattern(line, word);
        }
        self.repolist.push(id);
    }

    /// Whether a delegated part may name this item (section 8, point 1); plain members count as text only.
    fn part_may(&self, subconf: u32, item: &str) -> bool {
        let part = &self.policy.subconfs[subconf as usize];
        let itself = item == part || item.strip_prefix('@') == Some(part);
        let name = std::iter::once(item);
        itself || self.policy.groups.part_accepts(part, &self.policy.patterns, name)
    }

    pub(super) fn has_repos(&mut self, line: &Line) -> bool {
        if self.block == Block::Before {
            let message = "this line belongs to no repository and has no effect".to_owned();
            let remark = self.remark("no-current-repo", line, None, message);
            remark.help = Some("put it under a 'repo' line; each delegated file needs its own".into());
        }
        !self.repolist.is_empty()
    }

    fn finish(mut self, lines: &[Line], sources: &super::Sources) -> Compiled {
        for (part, (items, index)) in std::mem::take(&mut self.dropped) {
            let items: Vec<String> = items.into_iter().collect();
            let name = self.policy.subconfs[part as usize].clone();
            let message = format!("the part '{name}' may not speak about {}", shorten(&items.join(", ")));
            let remark = self.remark("subconf-repos-ignored", &lines[index], None, message);
            remark.help = Some(format!("the main configuration says what it may: @{name} = …"));
        }
        // A rule that reaches nothing is enough for gitolite.
        let no_rule = || !lines.iter().any(|line| matches!(parse(line), Statement::Rule { .. }));
        let bare = self.policy.rules.is_empty() && self.files.errors == 0 && no_rule();
        if let Some(line) = lines.first().filter(|_| bare) {
            let help = "write at least: repo gitmesh-admin / RW+ = alice";
            self.remark("no-rules", line, None, "the configuration has no rule".to_owned()).help = Some(help.into());
        } else if lines.is_empty() && self.files.errors == 0 {
            let path = format!("conf/{}", sources.main);
            self.files.push(Diagnostic::new("no-rules", &path, "the configuration has no rule".to_owned()));
        }
        self.policy.files = self.files.list.iter().map(|(path, _)| path.clone()).collect();
        self.collect_repos(lines);
        if self.files.errors == 0 && !template::read(&mut self.policy, sources, self.settings) {
            let message = "the template-data blocks say too much".to_owned();
            let remark = Diagnostic::new("too-large", &format!("conf/{}", sources.main), message);
            self.files.push(remark.help("name fewer repositories in each line of them"));
        }
        if self.policy.repos.len().saturating_mul(self.policy.patterns.widest()) > COMPARISONS_MAX {
            let message = format!(
                "{} repositories would be compared with {} patterns each, which takes too long",
                self.policy.repos.len(),
                self.policy.patterns.widest()
            );
            let remark = Diagnostic::new("too-large", &format!("conf/{}", sources.main), message);
            self.files.push(remark.help("let patterns start with literal text: docs/..* and not [d]ocs/..*"));
        }
        self.lint_finish();
        if self.files.errors == 0 {
            reach::lint(&self.policy, &mut self.files);
        }
        let policy = (self.files.errors == 0).then_some(self.policy);
        Compiled { policy, diagnostics: self.files.remarks }
    }

    /// Plain names that got a rule or a config line, and plain members of groups that got a rule (section 4.3).
    fn collect_repos(&mut self, lines: &[Line]) {
        for (id, (by_rule, index)) in std::mem::take(&mut self.used) {
            let name = self.policy.names.text(id).clone();
            if name.starts_with('@') {
                let members: Vec<String> = if by_rule && &*name != "@all" {
                    self.policy.groups.members(id).map(str::to_owned).collect()
                } else {
                    Vec::new()
                };
                for member in members {
                    self.collect_repo(&lines[index], &member);
                }
            } else {
                self.collect_repo(&lines[index], &name);
            }
        }
    }

    fn collect_repo(&mut self, line: &Line, name: &str) {
        if !names::is_plain(name) {
            return;
        }
        let problem = match RepoName::new(name) {
            Ok(repo) => {
                self.policy.repos.insert(repo);
                if name.ends_with(".+") {
                    let kept = self.files.keeps(line, Severity::Warning);
                    let mut words = super::lexer::words(if kept { &line.text } else { "" }, 0).into_iter();
                    let word = words.find(|w| w.text == name);
                    let message = format!("'{name}' is the name of one repository, not a pattern");
                    let help = "'.' and '+' are letters of names; a pattern for anything is '..*'";
                    self.remark("repo-plus", line, word, message).help = Some(help.into());
                }
                return;
            }
            Err(problem) => problem,
        };
        let class = match problem {
            NameError::DotDot => "repo-dotdot",
            _ if name.contains(".git/") => "repo-contains-dotgit",
            _ if name.ends_with('/') => "repo-ends-slash",
            // gitolite would make it; a server cannot.
            _ => "repo-not-made",
        };
        let severity = if class == "repo-not-made" { Severity::Warning } else { Severity::Error };
        let kept = self.files.keeps(line, severity);
        let word = kept.then(|| super::lexer::words(&line.text, 0).into_iter().find(|w| w.text == name)).flatten();
        self.remark(class, line, word, format!("'{name}' cannot be a repository: {problem}"));
    }
}

/// The start of a long text.
fn shorten(text: &str) -> String {
    let cut = text.char_indices().nth(200).map(|(at, _)| at);
    cut.map_or_else(|| text.to_owned(), |at| format!("{}...", &text[..at]))
}

/// The known name that differs by the fewest letters, at most two.
pub fn nearest<'n>(word: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let near = known.filter(|name| name.len().abs_diff(word.len()) <= 2 && *name != word).take(10_000);
    near.map(|name| (distance(word, name), name)).filter(|(d, _)| *d <= 2).min().map(|(_, name)| name)
}

fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let cost = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

//! What the finished tables show that no single line does: rules that never decide, groups that are nobody's,
//! repositories that nobody can read. Each is legal and surely not meant.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;

use super::diagnostic::Diagnostic;
use super::include::Files;
use super::rules::{Perm, Policy, Rule, USER_MARK};
use crate::model::RepoName;

/// Rules of one repository and one user that a later one is compared with; more would make the cost quadratic.
const COMPARED: usize = 32;
/// Remarks of each kind.
const REMARKS: usize = 50;
/// Lists of rules, and rules in them, that are looked at for remarks; beyond that nothing more is remarked.
const LOOKS_MAX: usize = 20_000_000;
/// Names that are no person's: gitolite's own readers, and the creator.
const NO_PERSON: [&str; 3] = ["gitweb", "daemon", "CREATOR"];

impl Policy {
    /// Everybody whom a rule names, directly or through a group, sorted; not `@all`, roles and gitolite's own readers.
    pub fn people(&self) -> BTreeSet<&str> {
        let ids: HashSet<u32> = self.rules_of.keys().map(|(_, user)| *user).collect();
        let mut people = BTreeSet::new();
        for id in ids {
            let name = &**self.names.text(id);
            if name.starts_with('@') {
                people.extend(self.groups.members(id).filter(|member| super::names::is_user(member)));
            } else {
                people.insert(name);
            }
        }
        people.retain(|name| !NO_PERSON.contains(name));
        people
    }

    /// The parts of paths that stand before `CREATOR` in a pattern, each with such a pattern. In a repository's name
    /// only the first occurrence of the creator's name is taken for `CREATOR`, so a user of that name can make nothing.
    pub fn words_before_creator(&self) -> BTreeMap<&str, &str> {
        let mut found: BTreeMap<&str, &str> = BTreeMap::new();
        for pattern in self.patterns.texts() {
            let Some((before, _)) = pattern.split_once("CREATOR") else { continue };
            for word in before.split('/').filter(|word| !word.is_empty()) {
                // The smallest, so that the same text always gives the same remark.
                found.entry(word).and_modify(|known| *known = pattern.min(*known)).or_insert(pattern);
            }
        }
        found
    }

    /// Repositories of the configuration that no rule lets anybody read, sorted. Roles count as somebody.
    pub fn unread(&self) -> Vec<&RepoName> {
        let somebody = |user: u32| {
            let name = &**self.names.text(user);
            let role = name.strip_prefix('@').is_some_and(|role| self.roles.contains(role));
            !name.starts_with('@') || name == "@all" || role || self.groups.members(user).next().is_some()
        };
        let reads = |id: &u32| matches!(self.rules[*id as usize].perm, Perm::Read | Perm::Write { .. });
        let open = self.rules_of.iter().filter(|((_, user), ids)| somebody(*user) && ids.iter().any(reads));
        let open: HashSet<u32> = open.map(|((item, _), _)| *item).collect();
        if self.names.find("@all").is_some_and(|all| open.contains(&all)) {
            return Vec::new();
        }
        let closed = |repo: &&RepoName| !self.repo_names(repo.as_str(), None).ids.iter().any(|id| open.contains(id));
        self.repos.iter().filter(closed).collect()
    }

    /// Statements that decide nothing, whoever asks, with one that decides before them.
    fn never_deciding(&self) -> Vec<(u32, u32)> {
        let all = self.names.find("@all");
        // Per statement: whether each of its entries is covered, and by what.
        let mut covered: BTreeMap<u32, Option<u32>> = BTreeMap::new();
        let mut looks = LOOKS_MAX;
        for (&(item, user), ids) in &self.rules_of {
            let name = &**self.names.text(user);
            let wider = || {
                let groups = self.groups.holding(name).chain(all).filter(move |other| *other != user);
                let items = [Some(item), all.filter(|all| *all != item)];
                let groups: Vec<u32> = groups.collect();
                items.into_iter().flatten().flat_map(move |i| groups.clone().into_iter().map(move |u| (i, u)))
            };
            for (at, &late) in ids.iter().enumerate() {
                let rule = &self.rules[late as usize];
                if covered.get(&rule.statement) == Some(&None) {
                    continue;
                }
                let same = ids[..at].iter().take(COMPARED);
                let mut by = same.copied().find(|early| self.covers(&self.rules[*early as usize], rule));
                if by.is_none() && rule.perm == Perm::Deny {
                    let Some(left) = looks.checked_sub(COMPARED * (2 * self.groups.holding(name).count() + 2)) else {
                        return Vec::new();
                    };
                    looks = left;
                    let lists = wider().filter_map(|key| self.rules_of.get(&key));
                    let early = lists.flat_map(|list| list.iter().take(COMPARED)).copied().filter(|id| *id < late);
                    by = early.into_iter().find(|early| self.covers(&self.rules[*early as usize], rule));
                }
                let by = by.map(|by| self.rules[by as usize].statement);
                covered.entry(rule.statement).and_modify(|known| *known = known.and(by)).or_insert(by);
            }
        }
        covered.into_iter().filter_map(|(statement, by)| Some((statement, by?))).collect()
    }

    /// Whether `early` decides whatever `late` would decide, for the same repository and user.
    fn covers(&self, early: &Rule, late: &Rule) -> bool {
        let has = |feature| self.features.contains_key(feature);
        let part = early.subconf == 0 || early.subconf == late.subconf;
        if early.statement == late.statement || !part || !self.refex_covers(early.refex, late.refex) {
            return false;
        }
        match (early.perm, late.perm) {
            (Perm::Deny, Perm::Deny) | (Perm::CreateRepo, Perm::CreateRepo) => true,
            (Perm::Write { force: true, create, delete, merge }, Perm::Deny) => {
                let plain = !has("create-delete") && !has("merge-check");
                (plain || (create && delete && merge)) && !(has("wild-repos") && has("deny-rules"))
            }
            (Perm::Read | Perm::Write { .. }, Perm::Read) => true,
            (
                Perm::Write { force, create, delete, merge },
                Perm::Write { force: f, create: c, delete: d, merge: m },
            ) => force >= f && create >= c && delete >= d && merge >= m,
            _ => false,
        }
    }

    fn refex_covers(&self, early: u32, late: u32) -> bool {
        let (early_text, late_text) = (&*self.refexes[early as usize].text, &*self.refexes[late as usize].text);
        if early == late || early_text == late_text {
            return true;
        }
        let late_is_ref = late_text.starts_with("refs/") && !late_text.contains('|');
        let literal = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_/".contains(&b));
        let before = late_text.strip_prefix(early_text);
        // `x*` and `x?` do not start with `x`.
        let continues = before.is_some_and(|rest| !rest.starts_with(['*', '?', '{']));
        let prefix = literal(early_text) && !early_text.contains(USER_MARK) && continues;
        late_is_ref && (matches!(early_text, "refs/.*" | "refs/") || prefix)
    }

    /// Groups that have rules or config lines as repositories, and no definition.
    fn undefined_repo_groups(&self) -> BTreeSet<&str> {
        let defined = |name: &str| name == "@all" || self.groups.contains(name);
        self.items().into_iter().filter(|item| item.starts_with('@') && !defined(item)).collect()
    }
}

/// Adds the remarks about a configuration that has no error.
pub(super) fn lint(policy: &Policy, files: &mut Files<'_>) {
    let never: Vec<(u32, u32)> = policy.never_deciding().into_iter().take(REMARKS).collect();
    let places = places(policy, files, never.iter().map(|(late, _)| *late).collect());
    for (late, early) in never {
        let deny = policy.written[late as usize].text.starts_with("- ");
        let message = format!("this rule never decides: {} always does before it", policy.place(early));
        let help = if deny { "put the '-' rule above the one that allows" } else { "it can be left out" };
        let Some((file, span)) = places.get(&late) else { continue };
        let remark = Diagnostic::new("rule-never-decides", file, message).help(help);
        files.push(remark.at(span.clone(), policy.written[late as usize].line));
    }
    let Some(main) = files.list.first().map(|(path, _)| path.clone()) else { return };
    let undefined: Vec<&str> = policy.undefined_repo_groups().into_iter().take(REMARKS).collect();
    let found = find_words(&files.list, &undefined);
    for group in undefined {
        let message = format!("group '{group}' on a 'repo' line is not defined anywhere, so this is no repository");
        let remark = Diagnostic::new("undefined-repo-group", &main, message);
        let remark = match found.get(group) {
            Some((path, span, line)) => Diagnostic { file: path.clone(), ..remark }.at(span.clone(), *line),
            None => remark,
        };
        files.push(remark.help(format!("define it: {group} = docs/a docs/b")));
    }
}

/// Where whole statements stand, without blanks and comments; each file is read once.
fn places(policy: &Policy, files: &Files<'_>, wanted: Vec<u32>) -> HashMap<u32, (String, Range<usize>)> {
    let mut by_file: BTreeMap<u32, BTreeMap<u32, Vec<u32>>> = BTreeMap::new();
    for statement in wanted {
        let written = &policy.written[statement as usize];
        by_file.entry(written.file).or_default().entry(written.line).or_default().push(statement);
    }
    let mut found = HashMap::new();
    for (file, lines) in by_file {
        let Some((path, bytes)) = files.list.get(file as usize) else { continue };
        let mut start = 0;
        for (number, line) in (1_u32..).zip(bytes.split(|b| *b == b'\n')) {
            for statement in lines.get(&number).into_iter().flatten() {
                let blank = line.len() - line.trim_ascii_start().len();
                let used = line.iter().position(|b| *b == b'#').map_or(line, |at| &line[..at]);
                let end = used.trim_ascii_end().len().max(blank);
                found.insert(*statement, (path.clone(), start + blank..start + end));
            }
            start += line.len() + 1;
        }
    }
    found
}

type Found = (String, Range<usize>, u32);

/// The first place where a word stands by itself, outside of comments.
pub(super) fn find_word<T: AsRef<[u8]>>(files: &[(String, T)], word: &str) -> Option<Found> {
    find_words(files, &[word]).remove(word)
}

/// The same for several words, in one reading.
fn find_words<'w, T: AsRef<[u8]>>(files: &[(String, T)], words: &[&'w str]) -> HashMap<&'w str, Found> {
    let mut wanted: HashMap<&[u8], &'w str> = words.iter().map(|word| (word.as_bytes(), *word)).collect();
    let mut found = HashMap::new();
    for (path, bytes) in files {
        let mut start = 0;
        for (line, text) in (1_u32..).zip(bytes.as_ref().split(|b| *b == b'\n')) {
            if wanted.is_empty() {
                return found;
            }
            let used = text.iter().position(|b| *b == b'#').map_or(text, |at| &text[..at]);
            let mut at = start;
            for part in used.split(|b| b.is_ascii_whitespace() || *b == b'=') {
                if let Some(word) = wanted.remove(part) {
                    found.insert(word, (path.clone(), at..at + part.len(), line));
                }
                at += part.len() + 1;
            }
            start += text.len() + 1;
        }
    }
    found
}

//! What the finished tables show that no single line does: rules that never decide, groups that are nobody's,
//! repositories that nobody can read. Each is legal and surely not meant.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::diagnostic::Diagnostic;
use super::include::Files;
use super::rules::{Perm, Policy, Rule, USER_MARK};
use crate::model::RepoName;

/// Rules of one repository and one user that a later one is compared with; more would make the cost quadratic.
const COMPARED: usize = 32;
/// Remarks of each kind.
const REMARKS: usize = 50;
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
    for (late, early) in policy.never_deciding().into_iter().take(REMARKS) {
        let deny = policy.written[late as usize].text.starts_with("- ");
        let message = format!("this rule never decides: {} always does before it", policy.place(early));
        let help = if deny { "put the '-' rule above the one that allows" } else { "it can be left out" };
        place(files, policy, late, Diagnostic::new("rule-never-decides", "", message).help(help));
    }
    for group in policy.undefined_repo_groups().into_iter().take(REMARKS) {
        let Some(file) = files.list.first().map(|(path, _)| path.clone()) else { return };
        let message = format!("group '{group}' on a 'repo' line is not defined anywhere, so this is no repository");
        let remark = Diagnostic::new("undefined-repo-group", &file, message);
        let remark = match find_word(&files.list, group) {
            Some((path, span, line)) => Diagnostic { file: path, ..remark }.at(span, line),
            None => remark,
        };
        files.push(remark.help(format!("define it: {group} = docs/a docs/b")));
    }
}

/// Notes a remark about a whole statement.
fn place(files: &mut Files<'_>, policy: &Policy, statement: u32, remark: Diagnostic) {
    let written = &policy.written[statement as usize];
    let Some((path, bytes)) = files.list.get(written.file as usize) else { return };
    let line = bytes.split(|b| *b == b'\n').nth((written.line as usize).saturating_sub(1)).unwrap_or_default();
    let start = line.as_ptr() as usize - bytes.as_ptr() as usize;
    let blank = line.len() - line.trim_ascii_start().len();
    let end = line.iter().position(|b| *b == b'#').map_or(line, |at| &line[..at]).trim_ascii_end().len();
    let remark = Diagnostic { file: path.clone(), ..remark };
    files.push(remark.at(start + blank..start + end.max(blank), written.line));
}

type Found = (String, std::ops::Range<usize>, u32);

/// The first place where a word stands by itself, outside of comments.
pub(super) fn find_word<T: AsRef<[u8]>>(files: &[(String, T)], word: &str) -> Option<Found> {
    files.iter().find_map(|(path, bytes)| {
        let mut start = 0;
        for (line, text) in (1_u32..).zip(bytes.as_ref().split(|b| *b == b'\n')) {
            let used = text.iter().position(|b| *b == b'#').map_or(text, |at| &text[..at]);
            let mut at = start;
            for part in used.split(|b| b.is_ascii_whitespace() || *b == b'=') {
                if part == word.as_bytes() {
                    return Some((path.clone(), at..at + part.len(), line));
                }
                at += part.len() + 1;
            }
            start += text.len() + 1;
        }
        None
    })
}

//! `=begin template-data` blocks (section 9.5): lists of rule groups and roles for repositories.

use std::collections::{BTreeMap, BTreeSet};

use super::rules::{Place, Policy};
use super::{Settings, Sources, names};
use crate::model::RepoName;

/// What a template block says about one repository.
#[derive(Debug, Clone, Default)]
pub struct Template {
    /// Numbers of the rule groups, `@base` and so on.
    pub(super) groups: BTreeSet<u32>,
    /// The role file that the block asks for, one line a role.
    pub roles: String,
}

/// Repositories that come from a template belong to this user.
pub const TEMPLATE_CREATOR: &str = "gitolite-admin";

/// More words (of each line once for each repository of its block) are refused.
const WORDS_MAX: usize = 5_000_000;

/// Reads the blocks of every file, included or not; false when they say more than a policy may hold. Rule groups that
/// no rule names have no effect.
pub(super) fn read(policy: &mut Policy, sources: &Sources, settings: &Settings) -> bool {
    let (mut found, mut words) = (Found::new(), WORDS_MAX);
    for (path, bytes) in &sources.files {
        if !path.ends_with("conf") {
            continue;
        }
        let text = String::from_utf8_lossy(bytes);
        let (mut open, mut current): (bool, Vec<RepoName>) = (false, Vec::new());
        let mut held = String::new();
        for (number, line) in (1..).zip(text.lines()) {
            match line.trim_end() {
                "=begin template-data" => {
                    open = true;
                    let place = Place { file: format!("conf/{path}"), line: number };
                    policy.features.entry("templates").or_insert(place);
                }
                "=end" => open = false,
                _ if !open => {}
                line => {
                    held.push_str(line.split('#').next().unwrap_or_default().trim_end());
                    if held.ends_with('\\') {
                        held.pop();
                        continue;
                    }
                    let line = std::mem::take(&mut held);
                    let Some(left) = block_line(policy, &line, &mut current, &mut found, words) else { return false };
                    words = left;
                }
            }
        }
    }
    for (repo, (groups, roles)) in found {
        let groups = groups.iter().map(|g| policy.names.id(&format!("@{g}"))).collect();
        let kept = roles.iter().filter(|(role, _)| settings.roles.contains(role));
        let roles: String = kept.map(|(role, members)| format!("{role}{members}\n")).collect();
        policy.repos.insert(repo.clone());
        policy.templates.insert(repo, Template { groups, roles });
    }
    true
}

/// Rule groups, and role to members, of each repository.
type Found = BTreeMap<RepoName, (BTreeSet<String>, BTreeMap<String, String>)>;

/// Gives what is left of `words`, or none when they do not suffice.
fn block_line(
    policy: &Policy,
    line: &str,
    current: &mut Vec<RepoName>,
    found: &mut Found,
    words: usize,
) -> Option<usize> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b" \t_.@/=-".contains(&b);
    if !line.bytes().all(good) {
        return Some(words);
    }
    let line = line.trim();
    let Some((left, right)) = line.split_once('=') else { return Some(words) };
    let left = left.trim();
    if let Some(items) = left.strip_prefix("repo ") {
        current.clear();
        for item in items.split_whitespace() {
            let members = policy.members(item);
            let names = if item.starts_with('@') { members } else { vec![item] };
            if current.len() + names.len() > words {
                return None;
            }
            current.extend(names.into_iter().filter(|n| names::is_plain(n)).filter_map(|n| RepoName::new(n).ok()));
        }
        let words = words.checked_sub(current.len() * (right.split_whitespace().count() + 1))?;
        for repo in current.iter() {
            found.entry(repo.clone()).or_default().0.extend(right.split_whitespace().map(str::to_owned));
        }
        Some(words)
    } else {
        let words = words.checked_sub(current.len() * (right.split_whitespace().count() + 1))?;
        for repo in current.iter() {
            let members = found.entry(repo.clone()).or_default().1.entry(left.to_owned()).or_default();
            for word in right.split_whitespace() {
                members.push(' ');
                members.push_str(word);
            }
        }
        Some(words)
    }
}

impl Policy {
    /// The repositories that template blocks name, with the role file of each. Their creator is
    /// [`TEMPLATE_CREATOR`].
    pub fn templates(&self) -> impl Iterator<Item = (&RepoName, &Template)> {
        self.templates.iter()
    }
}

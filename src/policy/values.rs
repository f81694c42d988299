//! Which config and option values become others from one policy to the next.
//!
//! Not the lines are compared but what they come to, so that a line that moved, a group that grew and a block of
//! `template-data` are told as well. Bounded by the number of repositories that are looked at.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

use super::names;
use super::parser::OPTION_PREFIX;
use super::rules::Policy;
use crate::model::RepoName;

/// A key that gets another value, in these repositories alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewValue {
    /// `option deny-rules`, `config receive.fsckObjects`.
    pub key: String,
    /// As written, before names are filled in; none when no line sets it any more.
    pub value: Option<String>,
    /// Sorted; repositories that stay, and patterns of wild ones.
    pub repos: Vec<String>,
}

/// What changes, sorted by key, and whether more repositories are concerned than `most`, which alone were looked at.
pub fn new_values(old: &Policy, new: &Policy, most: usize) -> (Vec<NewValue>, bool) {
    if old.hash_values() == new.hash_values() {
        return (Vec::new(), false);
    }
    let mut subjects: BTreeSet<&str> = old.repos.intersection(&new.repos).map(|repo| repo.as_str()).collect();
    for policy in [old, new] {
        subjects.extend(policy.patterns_with_values());
    }
    let mut found: BTreeMap<(String, Option<String>), Vec<String>> = BTreeMap::new();
    for subject in subjects.iter().take(most) {
        let (was, is) = (old.values_of(subject), new.values_of(subject));
        let keys: BTreeSet<&str> = was.keys().chain(is.keys()).copied().collect();
        for key in keys.into_iter().filter(|key| was.get(key) != is.get(key)) {
            let named = key.strip_prefix(OPTION_PREFIX).map(|option| format!("option {option}"));
            let named = named.unwrap_or_else(|| format!("config {key}"));
            let value = is.get(key).map(|value| (*value).to_owned());
            found.entry((named, value)).or_default().push((*subject).to_owned());
        }
    }
    let told = |((key, value), repos)| NewValue { key, value, repos };
    (found.into_iter().map(told).collect(), subjects.len() > most)
}

/// Repositories that stay, and of which a block of `template-data` says something else than before; sorted.
pub fn new_templates(old: &Policy, new: &Policy) -> Vec<String> {
    let said = |policy: &Policy, repo: &RepoName| {
        let template = policy.templates.get(repo)?;
        let groups: BTreeSet<String> = template.groups.iter().map(|id| policy.names.text(*id).to_string()).collect();
        Some((template.roles.clone(), groups))
    };
    let named: BTreeSet<&RepoName> = old.templates.keys().chain(new.templates.keys()).collect();
    let stay = named.into_iter().filter(|repo| old.repos.contains(*repo) && new.repos.contains(*repo));
    stay.filter(|repo| said(old, repo) != said(new, repo)).map(ToString::to_string).collect()
}

impl Policy {
    /// Equal when no value can differ: the lines by what they are about, and the members of the groups they name.
    fn hash_values(&self) -> u64 {
        let mut sum = 0_u64;
        let mut add = |of: &dyn Fn(&mut DefaultHasher)| {
            let mut hasher = DefaultHasher::new();
            of(&mut hasher);
            sum = sum.wrapping_add(hasher.finish());
        };
        let part = |entry: u32| {
            let subconf = self.configs[entry as usize].subconf;
            (subconf != 0).then(|| &*self.subconfs[subconf as usize])
        };
        let mut groups: BTreeSet<String> = BTreeSet::new();
        for (item, ids) in &self.configs_of {
            let item = &**self.names.text(*item);
            add(&|hasher| {
                for id in ids {
                    let entry = &self.configs[*id as usize];
                    // Its number says what stands above it in other blocks.
                    (item, id, &entry.key, &entry.value, part(*id)).hash(hasher);
                }
            });
            groups.extend(item.starts_with('@').then(|| item.to_owned()));
            groups.extend(ids.iter().filter_map(|id| part(*id)).map(|part| format!("@{part}")));
        }
        for group in &groups {
            let members: Vec<_> = self.groups.get(group).into_iter().flatten().collect();
            add(&|hasher| (group, &members).hash(hasher));
        }
        for (repo, template) in &self.templates {
            let named: BTreeSet<&str> = template.groups.iter().map(|id| &**self.names.text(*id)).collect();
            add(&|hasher| (repo.as_str(), &named).hash(hasher));
        }
        sum
    }

    /// The patterns of wild repositories that some line sets a value for.
    fn patterns_with_values(&self) -> BTreeSet<&str> {
        let items = self.configs_of.keys().map(|id| &**self.names.text(*id));
        let members = |item: &str| self.groups.get(item).into_iter().flat_map(|members| members.keys().map(|m| &**m));
        let (groups, single): (Vec<&str>, Vec<&str>) = items.partition(|item| item.starts_with('@'));
        let all = single.into_iter().chain(groups.into_iter().flat_map(members));
        all.filter(|item| !item.starts_with('@') && !names::is_plain(item)).collect()
    }

    /// The values of a repository or a pattern as written, the last line first in force.
    fn values_of(&self, subject: &str) -> BTreeMap<&str, &str> {
        let ids = self.config_ids(&self.repo_names(subject, None));
        let entries = ids.into_iter().map(|id| &self.configs[id as usize]);
        entries.map(|entry| (&*entry.key, &*entry.value)).collect()
    }
}

//! Effective config and option values (section 7.1): of all lines that reach a repository the last wins.

use std::collections::{BTreeMap, BTreeSet};

use super::decide::Facts;
use super::parser::OPTION_PREFIX;
use super::rules::{ConfigEntry, Policy, RepoNames};

impl Policy {
    /// All values of a repository as stored, the empty ones and `0` too; options under `gitolite-options.`.
    /// An empty value asks to remove the key.
    pub fn config(&self, facts: &Facts<'_>) -> BTreeMap<String, String> {
        let repo = self.repo_names(facts.name, facts.creator);
        let mut values = BTreeMap::new();
        if super::names::repo_problem(facts.name).is_some() {
            return values;
        }
        for id in self.config_ids(&repo) {
            let entry = &self.configs[id as usize];
            values.insert(entry.key.to_string(), fill(entry, facts.name, facts.creator));
        }
        values
    }

    /// One option by its bare name. Empty and `0` count as not set, as everywhere in gitolite.
    pub fn option(&self, facts: &Facts<'_>, name: &str) -> Option<String> {
        self.option_of(&self.repo_names(facts.name, facts.creator), facts.creator, name)
    }

    /// All options whose name starts with `prefix`, by name, without those that count as not set.
    pub fn options(&self, facts: &Facts<'_>, prefix: &str) -> BTreeMap<String, String> {
        let mut config = self.config(facts);
        config.retain(|_, value| is_set(value));
        let named = config.into_iter().filter_map(|(key, value)| {
            let name = key.strip_prefix(OPTION_PREFIX)?;
            name.starts_with(prefix).then(|| (name.to_owned(), value))
        });
        named.collect()
    }

    pub(super) fn option_of(&self, repo: &RepoNames, creator: Option<&str>, name: &str) -> Option<String> {
        let key = format!("{OPTION_PREFIX}{name}");
        // Keys are interned: one that was never written cannot be set.
        self.names.find(&key)?;
        let ids = repo.ids.iter().filter_map(|item| self.configs_of.get(item)).flatten();
        let hits = ids.filter(|id| {
            let entry = &self.configs[**id as usize];
            *entry.key == *key && self.part_covers(entry.subconf, repo)
        });
        let entry = &self.configs[*hits.max()? as usize];
        Some(fill(entry, repo.name(), creator)).filter(|value| is_set(value))
    }

    /// The entries that reach a repository, in their order.
    pub(super) fn config_ids(&self, repo: &RepoNames) -> Vec<u32> {
        let mut ids: Vec<u32> =
            repo.ids.iter().filter_map(|item| self.configs_of.get(item)).flatten().copied().collect();
        ids.retain(|id| self.part_covers(self.configs[*id as usize].subconf, repo));
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

impl Policy {
    /// The programs that options `hook.*` name anywhere, each once.
    pub fn named_hooks(&self) -> BTreeSet<&str> {
        let hooks = self.configs.iter().filter(|entry| {
            is_set(&entry.value) && entry.key.strip_prefix(OPTION_PREFIX).is_some_and(|name| name.starts_with("hook."))
        });
        hooks.flat_map(|entry| entry.value.split_whitespace()).collect()
    }
}

/// gitolite takes the text `0` for unset.
pub(super) fn is_set(value: &str) -> bool {
    !matches!(value, "" | "0")
}

fn fill(entry: &ConfigEntry, repo: &str, creator: Option<&str>) -> String {
    if !entry.value.contains("%GL_") {
        return entry.value.to_string();
    }
    let value = entry.value.replace("%GL_REPO", repo);
    match creator {
        Some(creator) => value.replace("%GL_CREATOR", creator),
        None => value,
    }
}

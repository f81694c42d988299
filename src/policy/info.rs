//! What `info` and the list commands tell (section 11).

use std::collections::BTreeSet;

use super::decide::{Facts, Walk};
use super::rules::{Op, Place, Policy, Target};

/// What a user may do with a repository or a pattern, while no ref is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rights {
    pub read: bool,
    pub write: bool,
    /// Create repositories of this pattern.
    pub create: bool,
}

impl Rights {
    pub fn any(self) -> bool {
        self.read || self.write || self.create
    }
}

fn rights(walk: &Walk<'_>, create: bool) -> Rights {
    let may = |op| walk.decide(op, Target::Any).allowed;
    Rights { read: may(Op::Read), write: may(Op::Write), create: create && may(Op::CreateRepo) }
}

impl Policy {
    /// What a user may do with one repository; `create` is about making it and false when it exists.
    pub fn rights(&self, facts: &Facts<'_>, user: &str) -> Rights {
        rights(&self.walk(facts, user), !facts.exists)
    }

    /// The patterns a user has any right on, in the order of `info`: sorted items of repository lines, with the
    /// members of a group in its place. One that several items hold comes several times, as in gitolite.
    pub fn pattern_rights(&self, user: &str) -> Vec<(String, Rights)> {
        let mut found: Vec<(String, Rights)> = Vec::new();
        for item in self.repo_items() {
            let members: Vec<&str> = match (item.starts_with('@'), self.names.find(item)) {
                (true, Some(id)) => self.groups.members(id).collect(),
                _ => vec![item],
            };
            for pattern in members.into_iter().filter(|m| !super::names::is_plain(m) && *m != "@all") {
                let rights = rights(&self.walk_pattern(pattern, user), true);
                if rights.any() {
                    found.push((pattern.to_owned(), rights));
                }
            }
        }
        found
    }

    /// The roles that a role file may hold, without `CREATOR`, sorted.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        self.roles.iter().map(String::as_str).filter(|role| *role != "CREATOR")
    }

    /// What the rules give to roles in a repository, in their order: permission, refex, role (`perms -lr`).
    pub fn role_rules(&self, facts: &Facts<'_>) -> Vec<(String, String, String)> {
        let repo = self.repo_names(facts.name, facts.creator);
        let mut found = Vec::new();
        for role in self.roles() {
            let Some(id) = self.names.find(&format!("@{role}")) else { continue };
            let rules = repo.ids.iter().filter_map(|item| self.rules_of.get(&(*item, id))).flatten();
            found.extend(rules.map(|rule| (*rule, role)));
        }
        found.sort_unstable();
        found.dedup();
        let told = |(id, role): (u32, &str)| {
            let rule = &self.rules[id as usize];
            let perm = self.written[rule.statement as usize].text.split(' ').next().unwrap_or_default();
            let refex = self.refexes[rule.refex as usize].text.to_string();
            self.part_covers(rule.subconf, &repo).then(|| (perm.to_owned(), refex, role.to_owned()))
        };
        found.into_iter().filter_map(told).collect()
    }

    /// The rules that reach a repository, whoever asks, in their order: where each is written, and its text.
    pub fn rules_of(&self, facts: &Facts<'_>) -> Vec<(Place, &str)> {
        let repo = self.repo_names(facts.name, facts.creator);
        // By what may be many users: a rule is found through whom it names.
        let ids: BTreeSet<u32> = repo.ids.iter().copied().collect();
        let lists = self.rules_of.iter().filter(|((item, _), _)| ids.contains(item)).flat_map(|(_, rules)| rules);
        let counts = |id: &&u32| self.part_covers(self.rules[**id as usize].subconf, &repo);
        let ordered: BTreeSet<u32> = lists.filter(counts).copied().collect();
        let mut statements: Vec<u32> = ordered.into_iter().map(|id| self.rules[id as usize].statement).collect();
        statements.dedup();
        statements.into_iter().map(|at| (self.place(at), &*self.written[at as usize].text)).collect()
    }

    /// Everything on a repository line that has a rule or a config line.
    pub(super) fn items(&self) -> BTreeSet<&str> {
        let ids = self.rules_of.keys().map(|(item, _)| item).chain(self.configs_of.keys());
        ids.map(|id| &**self.names.text(*id)).collect()
    }

    /// Names, groups and patterns of repository lines that have a rule, and names that have a config line
    /// (`list-repos`), sorted.
    pub fn repo_items(&self) -> BTreeSet<&str> {
        let ruled = self.rules_of.keys().map(|(item, _)| &**self.names.text(*item));
        let configured = self.configs_of.keys().map(|item| &**self.names.text(*item));
        ruled.chain(configured.filter(|item| super::names::is_plain(item))).collect()
    }

    /// Users, groups and roles (`@ROLE`) that have a rule (`list-users`), sorted.
    pub fn users(&self) -> BTreeSet<&str> {
        self.rules_of.keys().map(|(_, user)| &**self.names.text(*user)).collect()
    }

    /// All groups with their `@` (`list-groups`), sorted.
    pub fn groups(&self) -> BTreeSet<&str> {
        self.groups.names().collect()
    }

    /// The members of a group, sorted; none for an unknown one (`list-members`).
    pub fn members(&self, group: &str) -> Vec<&str> {
        self.names.find(group).map(|id| self.groups.members(id).collect()).unwrap_or_default()
    }

    /// The groups that hold a user (`list-memberships -u`), sorted.
    pub fn groups_of_user(&self, user: &str) -> BTreeSet<&str> {
        self.groups.holding(user).map(|id| &**self.names.text(id)).filter(|group| *group != "@all").collect()
    }

    /// The groups and patterns that cover a repository (`list-memberships -r`), sorted.
    pub fn names_of_repo(&self, facts: &Facts<'_>) -> BTreeSet<&str> {
        let names = self.repo_names(facts.name, facts.creator);
        let items = self.items();
        // A pattern without a rule and a config line is nothing that gitolite knows of.
        let known = |text: &&str| text.starts_with('@') || super::names::is_plain(text) || items.contains(text);
        let texts = names.ids.into_iter().map(|id| &**self.names.text(id)).filter(known);
        texts.filter(|text| *text != "@all" && *text != facts.name).collect()
    }
}

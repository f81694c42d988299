//! What changes from one policy to the next: rule lines, and who gains or loses what because of them.
//!
//! Only what can have changed is asked: repository items whose rules differ, and the members that groups gained or
//! lost. The number of questions is limited, and the answer says when the limit was met.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{Hash, Hasher};

use super::decide::{Facts, Walk};
use super::names;
use super::rules::{Op, Place, Policy, Target};
use crate::model::RepoName;

/// What somebody may do while no ref is known.
const RIGHTS: [(Op, &str); 4] =
    [(Op::Read, "read"), (Op::Write, "write"), (Op::Force, "rewind"), (Op::CreateRepo, "create")];

/// Pairs of a repository and a user that are looked at for each that may be asked about.
const LOOKS: usize = 100;

/// The same change of rights for these users in these repositories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shift {
    /// Sorted; `@all` for everybody.
    pub users: Vec<String>,
    /// Sorted; repositories, or patterns of wild ones.
    pub repos: Vec<String>,
    /// `read`, `write`, `rewind`, `create`, each while no ref is known.
    pub gains: Vec<&'static str>,
    pub loses: Vec<&'static str>,
    /// The rights above are the same, and other rules decide about single refs.
    pub refs: bool,
}

/// The difference of two policies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Rule and config lines that one of the two has more often, by place.
    pub added: Vec<(Place, String)>,
    pub removed: Vec<(Place, String)>,
    pub shifts: Vec<Shift>,
    /// Not everything was asked: the change is too wide.
    pub cut: bool,
}

/// Compares with at most `budget` questions (a repository and a user each; two walks a question).
pub fn compare(old: &Policy, new: &Policy, budget: usize) -> Comparison {
    let (added, removed) = lines(old, new);
    let mut asking = Asking {
        old,
        new,
        budget,
        cut: false,
        looks: LOOKS * budget,
        asked: BTreeSet::new(),
        changes: BTreeMap::new(),
    };
    asking.items();
    asking.groups();
    let cut = asking.cut;
    Comparison { added, removed, shifts: asking.shifts(), cut }
}

type Lines = Vec<(Place, String)>;

fn lines(old: &Policy, new: &Policy) -> (Lines, Lines) {
    let texts = |policy: &'_ Policy| policy.written.iter().map(|line| line.text.clone()).collect::<Vec<_>>();
    let (was, is) = (texts(old), texts(new));
    // What is the same above and below needs no pairing, so that a repeated line is told where it was written.
    let above = was.iter().zip(&is).take_while(|(a, b)| a == b).count();
    let below = was[above..].iter().rev().zip(is[above..].iter().rev()).take_while(|(a, b)| a == b).count();
    let (was, is) = (&was[above..was.len() - below], &is[above..is.len() - below]);
    (surplus(new, is, was, above), surplus(old, was, is, above))
}

/// The lines that `ours` has more often than `theirs`; the first of ours is `from` in its policy.
fn surplus(policy: &Policy, ours: &[Box<str>], theirs: &[Box<str>], from: usize) -> Lines {
    let mut left: HashMap<&str, usize> = HashMap::new();
    theirs.iter().for_each(|text| *left.entry(text).or_default() += 1);
    let mut lines = Lines::new();
    for (index, text) in ours.iter().enumerate() {
        match left.get_mut(&**text) {
            Some(count) if *count > 0 => *count -= 1,
            _ => lines.push((policy.place(u32::try_from(from + index).unwrap_or(u32::MAX)), text.to_string())),
        }
    }
    lines
}

/// Rights by bits in the order of [`RIGHTS`], and a fingerprint of the rules that were walked.
type Rights = (u8, u64);
type Change = (Vec<&'static str>, Vec<&'static str>, bool);

struct Asking<'p> {
    old: &'p Policy,
    new: &'p Policy,
    budget: usize,
    cut: bool,
    /// Pairs that may still be looked at, asked about or not.
    looks: usize,
    asked: BTreeSet<(String, String)>,
    /// User and repository.
    changes: BTreeMap<(String, String), Change>,
}

/// The rules of an item as numbers of its users, in their order.
fn rules_by_item(policy: &Policy) -> HashMap<u32, Vec<(u32, u32)>> {
    let mut items: HashMap<u32, Vec<(u32, u32)>> = HashMap::new();
    for (&(item, user), rules) in &policy.rules_of {
        items.entry(item).or_default().extend(rules.iter().map(|rule| (*rule, user)));
    }
    items.values_mut().for_each(|rules| rules.sort_unstable());
    items
}

/// The rules of each user, in their order.
fn by_user(rules: &[(u32, u32)]) -> HashMap<u32, Vec<(u32, u32)>> {
    let mut users: HashMap<u32, Vec<(u32, u32)>> = HashMap::new();
    rules.iter().for_each(|rule| users.entry(rule.1).or_default().push(*rule));
    users
}

/// Items by the users that their rules name, and users by the items.
type Pairs = (HashMap<u32, Vec<u32>>, HashMap<u32, Vec<u32>>);

fn pairs(policy: &Policy) -> Pairs {
    let (mut items, mut users): Pairs = Pairs::default();
    for &(item, user) in policy.rules_of.keys() {
        items.entry(user).or_default().push(item);
        users.entry(item).or_default().push(user);
    }
    (items, users)
}

/// Options that change decisions.
const SWITCHES: [&str; 4] = ["deny-rules", "CREATE_IS_C", "DELETE_IS_D", "MERGE_CHECK"];

impl Policy {
    fn hash_rules(&self, rules: &[(u32, u32)]) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (rule, user) in rules {
            let rule = &self.rules[*rule as usize];
            let text = &*self.refexes[rule.refex as usize].text;
            (&**self.names.text(*user), format!("{:?}", rule.perm), text, rule.subconf).hash(&mut hasher);
        }
        hasher.finish()
    }

    fn hash_switches(&self, item: u32) -> u64 {
        let mut hasher = DefaultHasher::new();
        for id in self.configs_of.get(&item).into_iter().flatten() {
            let entry = &self.configs[*id as usize];
            if SWITCHES.iter().any(|switch| entry.key.ends_with(switch)) {
                (&entry.key, &entry.value).hash(&mut hasher);
            }
        }
        hasher.finish()
    }

    fn members_by_name(&self, group: &str) -> BTreeSet<&str> {
        self.groups.get(group).into_iter().flat_map(|members| members.keys().map(|m| &**m)).collect()
    }

    /// Repositories, and patterns of wild ones, that an item of a `repo` line stands for.
    fn subjects(&self, item: &str, limit: usize) -> Vec<String> {
        if item == "@all" {
            return self.repos.iter().take(limit).map(ToString::to_string).collect();
        }
        if item.starts_with('@') {
            return self
                .members_by_name(item)
                .into_iter()
                .filter(|m| *m != "@all")
                .map(str::to_owned)
                .take(limit)
                .collect();
        }
        let mut subjects = vec![item.to_owned()];
        if let Some(id) = self.names.find(item).filter(|_| !names::is_plain(item)) {
            let covered = |repo: &&RepoName| self.repo_names(repo.as_str(), None).ids.contains(&id);
            subjects.extend(self.repos.iter().take(limit).filter(covered).map(ToString::to_string));
        }
        subjects
    }

    fn rights_of(&self, subject: &str, user: &str) -> Rights {
        let facts = Facts { name: subject, exists: true, creator: None, roles: None };
        let walk = if names::is_plain(subject) { self.walk(&facts, user) } else { self.walk_pattern(subject, user) };
        let may = |(bit, (op, _)): (u8, &(Op, &str))| u8::from(walk.decide(*op, Target::Any).allowed) << bit;
        let bits = (0..).zip(&RIGHTS).map(may).sum();
        (bits, self.hash_walk(&walk))
    }

    fn hash_walk(&self, walk: &Walk<'_>) -> u64 {
        let mut hasher = DefaultHasher::new();
        for id in &walk.rules {
            let rule = &self.rules[*id as usize];
            (format!("{:?}", rule.perm), &*self.refexes[rule.refex as usize].text).hash(&mut hasher);
        }
        hasher.finish()
    }
}

impl Asking<'_> {
    /// Items whose rules or switches are not what they were.
    fn items(&mut self) {
        let (before, after) = (rules_by_item(self.old), rules_by_item(self.new));
        let none: Vec<(u32, u32)> = Vec::new();
        let mut items: BTreeSet<&str> = self.old.items();
        items.extend(self.new.items());
        for item in items {
            if self.cut {
                return;
            }
            let find = |policy: &Policy| policy.names.find(item);
            let rules_in = |policy: &Policy, all: &'_ HashMap<u32, Vec<(u32, u32)>>| {
                find(policy).and_then(|id| all.get(&id)).unwrap_or(&none).clone()
            };
            let (was, is) = (rules_in(self.old, &before), rules_in(self.new, &after));
            let switched = |policy: &Policy| find(policy).map_or(0, |id| policy.hash_switches(id));
            let (switch_was, switch_is) = (switched(self.old), switched(self.new));
            let empty = DefaultHasher::new().finish();
            let switches =
                (switch_was != switch_is) && !(switch_was.min(switch_is) == 0 && switch_was.max(switch_is) == empty);
            if !switches && self.old.hash_rules(&was) == self.new.hash_rules(&is) {
                continue;
            }
            let users = self.changed_users(&was, &is, switches);
            self.ask_all(item, &users);
        }
    }

    /// Whose rules differ; all of them when only the order among users does.
    fn changed_users(&self, was: &[(u32, u32)], is: &[(u32, u32)], all: bool) -> BTreeSet<String> {
        let names_in = |policy: &Policy, rules: &[(u32, u32)]| -> BTreeSet<String> {
            rules.iter().map(|(_, user)| policy.names.text(*user).to_string()).collect()
        };
        let mut users = names_in(self.old, was);
        users.extend(names_in(self.new, is));
        let (mine_was, mine_is) = (by_user(was), by_user(is));
        let hash = |policy: &Policy, rules: &HashMap<u32, Vec<(u32, u32)>>, user: &str| {
            let rules = policy.names.find(user).and_then(|id| rules.get(&id));
            policy.hash_rules(rules.map_or(&[], Vec::as_slice))
        };
        let differs = |user: &String| hash(self.old, &mine_was, user) != hash(self.new, &mine_is, user);
        let changed: BTreeSet<String> = users.iter().filter(|user| differs(user)).cloned().collect();
        if all || changed.is_empty() { users } else { changed }
    }

    /// Members that groups gained or lost, as users and as repositories.
    fn groups(&mut self) {
        let mut groups: BTreeSet<&str> = self.old.groups.names().collect();
        groups.extend(self.new.groups.names());
        let pairs = [(self.old, pairs(self.old)), (self.new, pairs(self.new))];
        for group in groups {
            if self.cut {
                return;
            }
            let (was, is) = (self.old.members_by_name(group), self.new.members_by_name(group));
            if was == is {
                continue;
            }
            let moved: BTreeSet<String> = was.symmetric_difference(&is).map(|m| (*m).to_owned()).collect();
            let mut items: BTreeSet<String> = BTreeSet::new();
            let mut users: BTreeSet<String> = BTreeSet::new();
            for (policy, (items_of, users_of)) in &pairs {
                let Some(id) = policy.names.find(group) else { continue };
                let texts = |ids: Option<&Vec<u32>>| -> Vec<String> {
                    ids.into_iter().flatten().map(|id| policy.names.text(*id).to_string()).collect()
                };
                items.extend(texts(items_of.get(&id)));
                users.extend(texts(users_of.get(&id)));
            }
            for item in items {
                self.ask_all(&item, &moved);
            }
            for repo in moved.iter().filter(|_| !users.is_empty()) {
                self.ask_all(repo, &users);
            }
        }
    }

    /// Asks about everybody that the names stand for, in every repository that the item stands for.
    fn ask_all(&mut self, item: &str, users: &BTreeSet<String>) {
        let limit = self.budget;
        let mut subjects: BTreeSet<String> = self.old.subjects(item, limit).into_iter().collect();
        subjects.extend(self.new.subjects(item, limit));
        let mut people: BTreeSet<&str> = BTreeSet::new();
        for user in users {
            people.insert(user);
            for policy in [self.old, self.new] {
                people.extend(policy.members_by_name(user).into_iter().filter(|m| names::is_user(m)));
            }
        }
        // Everybody first, so that no one is told apart who only shares that.
        let mut people: Vec<&str> = people.into_iter().filter(|p| !p.starts_with('@') || *p == "@all").collect();
        people.sort_by_key(|person| *person != "@all");
        for subject in &subjects {
            for person in &people {
                if !self.ask(subject, person) {
                    self.cut = true;
                    return;
                }
            }
        }
    }

    /// False when there are no questions left.
    fn ask(&mut self, subject: &str, user: &str) -> bool {
        let Some(looks) = self.looks.checked_sub(1) else { return false };
        self.looks = looks;
        let plain = RepoName::new(subject).ok().filter(|_| names::is_plain(subject));
        let known = |policy: &Policy| plain.as_ref().is_some_and(|name| policy.repos.contains(name));
        // Repositories that come or go are told as such.
        if names::is_plain(subject) && !(known(self.old) && known(self.new)) {
            return true;
        }
        if !self.asked.insert((subject.to_owned(), user.to_owned())) {
            return true;
        }
        if self.asked.len() > self.budget {
            return false;
        }
        let (was, is) = (self.old.rights_of(subject, user), self.new.rights_of(subject, user));
        let picked = |bits: u8| -> Vec<&'static str> {
            (0..).zip(&RIGHTS).filter(|(bit, _)| bits >> bit & 1 == 1).map(|(_, (_, name))| *name).collect()
        };
        let (gains, loses) = (picked(is.0 & !was.0), picked(was.0 & !is.0));
        let refs = was.0 == is.0 && was.1 != is.1 && is.0 & 2 != 0;
        let change = (gains, loses, refs);
        let nothing = change.0.is_empty() && change.1.is_empty() && !change.2;
        let everybody = self.changes.get(&("@all".to_owned(), subject.to_owned()));
        if !nothing && everybody != Some(&change) {
            self.changes.insert((user.to_owned(), subject.to_owned()), change);
        }
        true
    }

    /// The changes with as few lines as they take.
    fn shifts(self) -> Vec<Shift> {
        let mut by_user: BTreeMap<(String, Change), Vec<String>> = BTreeMap::new();
        for ((user, repo), change) in self.changes {
            by_user.entry((user, change)).or_default().push(repo);
        }
        let mut by_repos: BTreeMap<(Vec<String>, Change), Vec<String>> = BTreeMap::new();
        for ((user, change), repos) in by_user {
            by_repos.entry((repos, change)).or_default().push(user);
        }
        let shift = |((repos, (gains, loses, refs)), users)| Shift { users, repos, gains, loses, refs };
        by_repos.into_iter().map(shift).collect()
    }
}

//! The decision: the rules of one repository and one user, walked in their order (section 5.2).

use std::fmt;
use std::sync::OnceLock;

use super::names;
use super::pattern::Matcher;
use super::rules::{Op, Perm, Place, Policy, RepoNames, Rule, Target};
use crate::model::RepoName;

/// What the disk says about a repository.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub name: &'a str,
    pub exists: bool,
    /// Who created it, for repositories made under a `C` rule.
    pub creator: Option<&'a str>,
    /// The text of its role file (gitolite: `gl-perms`).
    pub roles: Option<&'a str>,
}

impl<'a> Facts<'a> {
    /// A repository on disk without a creator and without roles.
    pub fn existing(name: &'a RepoName) -> Self {
        Self { name: name.as_str(), exists: true, creator: None, roles: None }
    }

    /// A name that has no repository.
    pub fn missing(name: &'a RepoName) -> Self {
        Self { name: name.as_str(), exists: false, creator: None, roles: None }
    }
}

/// The answer, and what made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    /// The deciding refex with its prefix and the user's name filled in; or `fallthru` (no rule decided),
    /// `existence` (asked to create what exists), or why the question itself is refused (`invalid-user`, …).
    pub refex: String,
    pub place: Option<Place>,
    /// The deciding line as written, with single blanks: `RW+ = @dev`.
    pub rule: Option<String>,
}

impl Decision {
    fn without_rule(allowed: bool, why: &str) -> Self {
        Self { allowed, refex: why.to_owned(), place: None, rule: None }
    }
}

/// One rule that was tried, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub place: Place,
    pub rule: String,
    pub refex: String,
    pub outcome: Outcome,
}

/// What a rule did for one question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Allowed,
    Denied,
    /// A `-` rule while the ref is not known, in a repository without the option `deny-rules`.
    DenySkipped,
    RefexDiffers,
    PermissionLacks,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allowed => "allows it",
            Self::Denied => "denies it",
            Self::DenySkipped => "skipped: '-' counts only once the ref is known (no option deny-rules)",
            Self::RefexDiffers => "its refex does not match the ref",
            Self::PermissionLacks => "its permission does not cover the operation",
        })
    }
}

/// How one ref changes in a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Create,
    FastForward,
    /// Not a fast-forward.
    Rewind,
    Delete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Existing,
    Missing,
    /// The text of a pattern, as `info` asks.
    Pattern,
}

#[derive(Debug, Clone, Copy)]
struct Switches {
    deny_rules: bool,
    create_is_c: bool,
    delete_is_d: bool,
    merge_check: bool,
}

/// The rules of one repository for one user, collected once; then each decision costs one pass over them.
#[derive(Debug)]
pub struct Walk<'p> {
    policy: &'p Policy,
    user: String,
    state: State,
    creator: Option<String>,
    repo: RepoNames,
    pub(super) rules: Vec<u32>,
    switches: OnceLock<Switches>,
    /// Per rule, the refex with the user's name in it; filled when first needed.
    personal: Vec<OnceLock<(String, Matcher)>>,
    refused: Option<&'static str>,
}

impl Policy {
    /// Decides one question.
    pub fn decide(&self, facts: &Facts<'_>, user: &str, op: Op, target: Target<'_>) -> Decision {
        self.walk(facts, user).decide(op, target)
    }

    /// Decides one question and tells each rule that was tried, in order.
    pub fn explain(&self, facts: &Facts<'_>, user: &str, op: Op, target: Target<'_>) -> (Decision, Vec<Step>) {
        self.walk(facts, user).explain(op, target)
    }

    /// Collects the rules of a repository and a user.
    pub fn walk<'p>(&'p self, facts: &Facts<'_>, user: &str) -> Walk<'p> {
        let refused = if names::may_ask(user) { names::repo_problem(facts.name) } else { Some("invalid-user") };
        let state = match facts.exists {
            true => State::Existing,
            false if names::is_pattern_text(facts.name) => State::Pattern,
            false => State::Missing,
        };
        self.collect(facts, user, state, refused)
    }

    /// As `walk`, for the text of a pattern: it needs no repository, and roles do not count.
    pub(super) fn walk_pattern<'p>(&'p self, pattern: &str, user: &str) -> Walk<'p> {
        let facts = Facts { name: pattern, exists: false, creator: None, roles: None };
        let refused = (!names::may_ask(user)).then_some("invalid-user");
        self.collect(&facts, user, State::Pattern, refused)
    }

    fn collect<'p>(&'p self, facts: &Facts<'_>, user: &str, state: State, refused: Option<&'static str>) -> Walk<'p> {
        let creator = if state == State::Existing { facts.creator } else { Some(user) };
        let repo = self.repo_names(facts.name, creator);
        let mut users = self.user_names(user);
        if state == State::Existing {
            self.add_roles(&mut users, user, creator, facts.roles);
        }
        let mut rules = Vec::new();
        for &item in &repo.ids {
            for &name in &users {
                rules.extend(self.rules_of.get(&(item, name)).into_iter().flatten());
            }
        }
        rules.sort_unstable();
        rules.dedup();
        if self.subconfs.len() > 1 {
            let mut covered = vec![None; self.subconfs.len()];
            rules.retain(|&id| {
                let part = self.rules[id as usize].subconf;
                *covered[part as usize].get_or_insert_with(|| self.part_covers(part, &repo))
            });
        }
        let personal = rules.iter().any(|&id| self.refexes[self.rules[id as usize].refex as usize].matcher.is_none());
        let personal = if personal { rules.iter().map(|_| OnceLock::new()).collect() } else { Vec::new() };
        let (user, creator) = (user.to_owned(), creator.map(str::to_owned));
        Walk { policy: self, user, state, creator, repo, rules, switches: OnceLock::new(), personal, refused }
    }
}

impl Walk<'_> {
    /// Decides one question; cheap enough for each of ten thousand refs.
    pub fn decide(&self, op: Op, target: Target<'_>) -> Decision {
        self.ask(op, target, &mut |_, _, _| {})
    }

    /// As `decide`, with each rule tried in order and what came of it.
    pub fn explain(&self, op: Op, target: Target<'_>) -> (Decision, Vec<Step>) {
        let mut steps = Vec::new();
        let decision = self.ask(op, target, &mut |rule, refex, outcome| {
            let rule_text = self.policy.written[rule.statement as usize].text.to_string();
            let place = self.policy.place(rule.statement);
            steps.push(Step { place, rule: rule_text, refex: refex.to_owned(), outcome });
        });
        (decision, steps)
    }

    /// The operation that a changed ref of a push asks for (section 5.4). `merge`: the new commits hold a merge.
    pub fn ref_op(&self, refname: &str, change: Change, merge: bool) -> Op {
        let tag = refname.contains("refs/tags/");
        let switches = self.switches();
        let merge = merge && switches.merge_check;
        match change {
            Change::Create if switches.create_is_c => Op::Create,
            Change::Create => Op::Write,
            Change::Delete if switches.delete_is_d => Op::Delete,
            Change::Delete => Op::Force,
            Change::FastForward if !tag => {
                if merge {
                    Op::WriteMerge
                } else {
                    Op::Write
                }
            }
            Change::FastForward | Change::Rewind => {
                if merge {
                    Op::ForceMerge
                } else {
                    Op::Force
                }
            }
        }
    }

    /// Whether pushes here must say if they bring merge commits (option MERGE_CHECK).
    pub fn checks_merges(&self) -> bool {
        self.switches().merge_check
    }

    /// The virtual refs that rules of this user name, each once, in their order (section 6).
    pub fn virtual_refexes(&self) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        for index in 0..self.rules.len() {
            let (text, _) = self.refex(index);
            if text.starts_with("VREF/") && !found.iter().any(|f| f == text) {
                found.push(text.to_owned());
            }
        }
        found
    }

    fn ask(&self, op: Op, target: Target<'_>, note: &mut dyn FnMut(&Rule, &str, Outcome)) -> Decision {
        if let Some(why) = self.refused {
            return Decision::without_rule(false, why);
        }
        if let Target::Ref(refname) = target
            && !names::is_ref(refname)
        {
            return Decision::without_rule(false, "invalid-ref");
        }
        match (op, self.state) {
            (Op::CreateRepo, State::Existing) => return Decision::without_rule(false, "existence"),
            (Op::CreateRepo, _) | (_, State::Existing | State::Pattern) => {}
            (_, State::Missing) => {
                // That no rule decides refuses here, also about a virtual ref; only what is reported differs.
                let create = self.run(Op::CreateRepo, target, note);
                if !create.allowed || create.place.is_none() {
                    return create;
                }
            }
        }
        let op = match op {
            Op::Create if !self.switches().create_is_c => Op::Write,
            Op::Delete if !self.switches().delete_is_d => Op::Force,
            _ => op,
        };
        self.run(op, target, note)
    }

    fn run(&self, op: Op, target: Target<'_>, note: &mut dyn FnMut(&Rule, &str, Outcome)) -> Decision {
        for (index, &id) in self.rules.iter().enumerate() {
            let rule = &self.policy.rules[id as usize];
            let (text, matcher) = self.refex(index);
            let outcome = match (rule.perm, target) {
                (Perm::Deny, Target::Any) if !self.switches().deny_rules => Outcome::DenySkipped,
                (_, Target::Ref(refname)) if !matcher.is_match(refname) => Outcome::RefexDiffers,
                (_, Target::Path(path)) if !matcher.is_match_bytes(path) => Outcome::RefexDiffers,
                (_, Target::Spoken(name)) if name != text && !matcher.is_match(name) => Outcome::RefexDiffers,
                (Perm::Deny, _) => Outcome::Denied,
                (perm, _) if perm.allows(op) => Outcome::Allowed,
                _ => Outcome::PermissionLacks,
            };
            note(rule, text, outcome);
            if matches!(outcome, Outcome::Allowed | Outcome::Denied) {
                return Decision {
                    allowed: outcome == Outcome::Allowed,
                    refex: text.to_owned(),
                    place: Some(self.policy.place(rule.statement)),
                    rule: Some(self.policy.written[rule.statement as usize].text.to_string()),
                };
            }
        }
        let is_virtual = match target {
            Target::Any => false,
            Target::Ref(refname) => refname.starts_with("VREF/"),
            Target::Path(_) | Target::Spoken(_) => true,
        };
        Decision::without_rule(is_virtual, "fallthru")
    }

    fn refex(&self, index: usize) -> (&str, &Matcher) {
        let rule = &self.policy.rules[self.rules[index] as usize];
        let refex = &self.policy.refexes[rule.refex as usize];
        if let Some(matcher) = &refex.matcher {
            return (&refex.text, matcher);
        }
        let filled = self.personal[index].get_or_init(|| refex.for_user(&self.user, self.policy.quote_names));
        (&filled.0, &filled.1)
    }

    fn switches(&self) -> &Switches {
        self.switches.get_or_init(|| {
            let set = |name| self.policy.option_of(&self.repo, self.creator.as_deref(), name).is_some();
            Switches {
                deny_rules: set("deny-rules"),
                create_is_c: set("CREATE_IS_C"),
                delete_is_d: set("DELETE_IS_D"),
                merge_check: set("MERGE_CHECK"),
            }
        })
    }
}

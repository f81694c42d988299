//! Remarks about what is legal and surely not meant (section 16, the traps marked "warn").

use std::collections::BTreeSet;

use super::compile::{Builder, nearest};
use super::lexer::{Line, Word};
use super::options::is_set;
use super::parser::{Config, OPTION_PREFIX};
use super::rules::Perm;
use crate::model::ADMIN_REPO;

/// Deny rules noted for the check at the end; more than this are not looked at.
const DENIES_MAX: usize = 1000;

/// What is noted on the way and judged when everything is read.
#[derive(Debug, Default)]
pub(super) struct Lints {
    /// Groups used before any definition, and the index of the remark about it.
    pub(super) undeclared: Vec<(String, usize)>,
    /// Items with the option `deny-rules`.
    deny_rules: BTreeSet<u32>,
    denies: Vec<Deny>,
}

#[derive(Debug)]
struct Deny {
    line: Line,
    repos: Vec<u32>,
    /// It has no refex (or `refs/.*`), and so looks as if it hid the repository.
    whole: bool,
    /// Some refex is about a part of the refs.
    partial: bool,
}

impl Lints {
    pub(super) fn note_config(&mut self, repos: &[u32], key: &str, value: &str, subconf: u32) {
        if subconf == 0 && key.strip_prefix(OPTION_PREFIX) == Some("deny-rules") {
            if is_set(value) {
                self.deny_rules.extend(repos);
            } else {
                for repo in repos {
                    self.deny_rules.remove(repo);
                }
            }
        }
    }
}

/// Options that are acted upon; a trailing `*` stands for more text.
const OPTIONS: &[&str] = &[
    "deny-rules",
    "mirror.master",
    "mirror.copies*",
    "mirror.redirectOK*",
    "mirror.external*",
    "mirror.upstream",
    "bypass-creator-check",
    "hook.*",
    "ENV.*",
    "default.roles*",
    "writer-is-owner",
    "commands.disable*",
    "commands.enable*",
    "keys.self",
    "keys.types",
    "keys.proof",
    "keys.approve",
    "CREATE_IS_C",
    "DELETE_IS_D",
    "MERGE_CHECK",
];

/// Options of gitolite, or of well known additions to it, that nothing here acts upon, and what does instead.
const IDLE: &[(&str, &str)] = &[
    ("umask", "the umask that the server is started with counts for all repositories"),
    ("user-configs", "'config' lines are for administrators; there is no command that sets one"),
    ("user-options", "'option' lines are for administrators; there is no command that sets one"),
    ("upstream.url", "write: option mirror.upstream = URL every=10m"),
    ("upstream.nice", "write the interval behind the URL: option mirror.upstream = URL every=10m"),
    ("reference.repo*", "leave it out; 'fork REPO NEW' over ssh makes a repository from another one"),
    ("bundle", "leave it out; clones of one state share a pack"),
    ("bundle.ttl", "leave it out; clones of one state share a pack"),
    ("gitweb", "the rule 'R = gitweb' shows a repository"),
    ("daemon", "the rule 'R = daemon' exports a repository"),
    ("ENV.EDM_DISABLE", "leave it out; a refusal always tells rule and cure"),
    ("ENV.EDM_EXTRA_INFO", "leave it out; a refusal always tells rule and cure"),
    ("refex-expr.*", "write a rule for each refex"),
    ("mirror.extcopy*", "write: option mirror.external = NAME URL"),
    ("mirror.hostnames*", "'option mirror.master' and 'option mirror.copies' name the nodes"),
    ("map-anonhttp", "leave it out; it belongs to an HTTP module that is not here"),
    ("allow-host", "leave it out; it belongs to an HTTP module that is not here"),
];

/// The hooks of git's that programs of a repository's own are run for (githooks(5)): `option hook.NAME`, `hook.NAME.01`.
pub const HOOKS: [&str; 4] = ["pre-receive", "update", "post-receive", "post-update"];

impl Builder<'_, '_> {
    pub(super) fn lint_group(&mut self, line: &Line, name: Word<'_>, members: &[Word<'_>]) {
        if name.text == "@all" {
            let message = "'@all' always means everybody; this definition has no effect".to_owned();
            self.remark("all-redefined", line, Some(name), message);
        }
        if self.policy.roles.contains(&name.text[1..]) {
            let message = format!("'{}' is a role; whoever is in this group has it in every repository", name.text);
            self.remark("role-redefined", line, Some(name), message);
        }
        for member in members {
            let what = if member.text == "@all" {
                "does not mean everybody inside a group; it means nobody"
            } else if self.policy.roles.contains(member.text) {
                "is a role only in a rule; inside a group it is a user of that name"
            } else {
                continue;
            };
            let message = format!("'{}' {what}", member.text);
            self.remark("group-member-meaningless", line, Some(*member), message).help =
                Some("write it directly in the rule".into());
        }
    }

    pub(super) fn lint_pattern(&mut self, line: &Line, word: Word<'_>) {
        if word.text.ends_with(',') {
            let message = format!("the comma makes '{}' a pattern for a name with a comma", word.text);
            let remark = self.remark("repo-comma", line, Some(word), message);
            remark.help = Some("repositories are divided by blanks".into());
        }
    }

    pub(super) fn lint_refex(&mut self, line: &Line, word: Word<'_>, text: &str, alternation: bool) {
        let rest = text.strip_prefix("refs/heads/");
        if alternation {
            let message =
                format!("only the first branch of '{text}' is anchored; the others match anywhere in any ref");
            let remark = self.remark("pattern-alternation", line, Some(word), message);
            remark.help = Some(format!("write ({}) if each branch is the start of a name", word.text));
        } else if rest.is_some_and(|r| r.starts_with('^')) {
            let message = format!("'{}' never matches a ref: 'refs/heads/' is put in front of it", word.text);
            let remark = self.remark("refex-never-matches", line, Some(word), message);
            remark.help = Some(format!("leave out the '^'; a refex is anchored at the start: {}", &word.text[1..]));
        } else if rest == Some("refs") {
            let message = "'refs' without a slash is a branch whose name starts with 'refs'".to_owned();
            self.remark("refex-never-matches", line, Some(word), message).help = Some("write refs/".into());
        }
    }

    pub(super) fn lint_rule(&mut self, line: &Line, perm: Perm, refexes: &[u32]) {
        let repos = self.repolist();
        if matches!(perm, Perm::Write { create: true, .. } | Perm::Write { delete: true, .. }) && repos.contains(&0) {
            let message =
                "C or D for '@all' takes creating or deleting refs from every plain RW and RW+ rule".to_owned();
            let remark = self.remark("create-delete-for-all", line, None, message);
            remark.help = Some("'option CREATE_IS_C = 0' (DELETE_IS_D) under a repository gives it back".into());
        }
        if perm == Perm::Deny && self.lints.denies.len() < DENIES_MAX {
            let texts: Vec<_> = refexes.iter().map(|id| self.policy.refexes[*id as usize].text.clone()).collect();
            let is_whole = |text: &str| matches!(text, "refs/.*" | "refs/");
            let whole = texts.iter().any(|t| is_whole(t));
            let partial = texts.iter().any(|t| !is_whole(t));
            self.lints.denies.push(Deny { line: line.clone(), repos, whole, partial });
        }
    }

    /// False when the option is refused: a delegated part may not run programs or move repositories.
    pub(super) fn lint_option(&mut self, line: &Line, config: &Config<'_>) -> bool {
        let name = config.key.strip_prefix(OPTION_PREFIX);
        let mirror = (self.policy.mirror_aliases && super::mirror::is_alias(&config.key))
            || name.is_some_and(|n| n.starts_with("mirror."));
        let hook = name.is_some_and(|n| n.starts_with("hook."));
        let feature = match name {
            Some(_) if hook => Some("hooks"),
            Some("deny-rules") => Some("deny-rules"),
            Some(n) if n.starts_with("default.roles") => Some("default-roles"),
            Some(n) if n.starts_with("ENV.") => Some("hook-environment"),
            _ if mirror => Some("mirror"),
            Some(_) => None,
            None if config.key.starts_with("gitweb.") => Some("gitweb"),
            None => Some("git-config"),
        };
        if name.and_then(|name| name.strip_prefix("mirror.")).is_some_and(super::mirror::is_foreign) {
            self.feature("mirror-foreign", line);
        }
        if let Some(feature) = feature {
            self.feature(feature, line);
        }
        if line.subconf != 0 && (mirror || hook) {
            let message = format!("a delegated part may not set '{}'", config.key_word.text);
            let remark = self.remark("subconf-option", line, Some(config.key_word), message);
            remark.help = Some("put this line into the main configuration".into());
            return false;
        }
        // A gate that nobody closes is worse than none.
        let named = name.and_then(|name| name.strip_prefix("hook.")).map(|rest| rest.split('.').next().unwrap_or(rest));
        if let Some(hook) = named.filter(|hook| !HOOKS.contains(hook)) {
            let message = format!("no program is run for a hook '{hook}'");
            let near = nearest(hook, HOOKS.into_iter()).map(|near| format!("did you mean 'hook.{near}'? "));
            let help = format!("{}the hooks are {}", near.unwrap_or_default(), HOOKS.join(", "));
            self.remark("unknown-hook", line, Some(config.key_word), message).help = Some(help);
            return false;
        }
        if let Some((message, cure)) = name.and_then(|name| super::key_rules::problem(name, config.value)) {
            self.remark("bad-key-option", line, Some(config.value_word), message).help = Some(cure.into());
            return false;
        }
        if name.is_some_and(|n| n.starts_with("keys.") || n.starts_with("commands.")) {
            let names: Vec<_> = self.repolist().into_iter().map(|id| self.policy.names.text(id).to_string()).collect();
            let admin = |name: &String| [ADMIN_REPO, "gitolite-admin"].contains(&name.as_str());
            if names.iter().all(|name| super::names::is_plain(name) && !admin(name)) {
                let message = format!("'{}' has an effect in {ADMIN_REPO} alone", config.key_word.text);
                let help = format!("put it below: repo {ADMIN_REPO}");
                self.remark("option-elsewhere", line, Some(config.key_word), message).help = Some(help);
            }
        }
        if let Some(name) = name {
            let known = |o: &str| o.strip_suffix('*').map_or(name == o, |p| name.starts_with(p));
            if let Some((_, instead)) = IDLE.iter().find(|(idle, _)| known(idle) && is_set(config.value)) {
                let message = format!("option '{name}' is kept, and nothing acts upon it");
                self.remark("option-idle", line, Some(config.key_word), message).help = Some((*instead).to_owned());
                return true;
            }
            let plain = OPTIONS.iter().map(|o| o.trim_end_matches('*'));
            if !OPTIONS.iter().any(|o| known(o))
                && name.len() > 4
                && let Some(near) = nearest(name, plain)
            {
                let message = format!("option '{name}' is not known and has no effect");
                let remark = self.remark("option-misspelt", line, Some(config.key_word), message);
                remark.help = Some(format!("did you mean '{near}'?"));
            }
        }
        true
    }

    pub(super) fn lint_finish(&mut self) {
        let undeclared = std::mem::take(&mut self.lints.undeclared);
        for (name, at) in undeclared {
            let later = self.policy.groups.contains(&name);
            if let Some(remark) = self.remarks_mut().get_mut(at).filter(|r| r.class == "undeclared-group") {
                if later {
                    remark.message = format!("group '{name}' is used before its definition");
                    remark.help = Some("it works; definitions are clearer above their use".into());
                } else {
                    remark.message = format!("group '{name}' is not defined anywhere, so this is nobody");
                }
            }
        }
        for deny in std::mem::take(&mut self.lints.denies) {
            let has = |repo: &u32| self.lints.deny_rules.contains(repo) || self.lints.deny_rules.contains(&0);
            let all = deny.repos.iter().all(has);
            if deny.whole && !all {
                let message = "this '-' rule does not stop anybody from reading".to_owned();
                let help = "'-' counts for reading only with 'option deny-rules = 1' in this repository";
                self.remark("deny-does-not-hide", &deny.line, None, message).help = Some(help.into());
            } else if deny.partial && deny.repos.iter().any(has) && !deny.line.text.contains("VREF/") {
                let message = "with option deny-rules this rule refuses every read and every push".to_owned();
                let help = "with deny-rules a '-' rule decides before the ref is known, so its refex is not looked at";
                self.remark("deny-refuses-everything", &deny.line, None, message).help = Some(help.into());
            }
        }
    }
}

/// What an ignored line was probably meant to be.
pub(super) fn guess(text: &str) -> Option<String> {
    let first = text.split(' ').next().unwrap_or_default();
    let upper = first.to_ascii_uppercase();
    let lower = first.to_ascii_lowercase();
    const WORDS: [&str; 8] = ["repo", "config", "option", "include", "subconf", "desc", "owner", "category"];
    if text == "repo" {
        return Some("name at least one repository; the lines below still go to the former ones".into());
    }
    if text.ends_with(" =") {
        return Some("the right side is empty".into());
    }
    if upper != first && Perm::parse(&upper).is_some() {
        return Some(format!("permissions are upper case: {upper}"));
    }
    if lower != first && WORDS.contains(&lower.as_str()) {
        return Some(format!("keywords are lower case: {lower}"));
    }
    if first.starts_with("RW") && first.bytes().all(|b| b"RW+CDM".contains(&b)) {
        return Some("after RW the letters come in the order + C D M".into());
    }
    nearest(first, WORDS.into_iter()).filter(|_| first.len() > 3).map(|near| format!("did you mean '{near}'?"))
}

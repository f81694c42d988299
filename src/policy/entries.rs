//! Rule, config and option lines become entries of the tables.

use std::sync::Arc;

use super::compile::Builder;
use super::lexer::{Line, Word};
use super::names;
use super::parser::{Config, OPTION_PREFIX, Spelling};
use super::pattern::{Matcher, Pattern};
use super::rules::{ConfigEntry, Perm, Refex, Rule, USER_MARK, Written};

impl Builder<'_, '_> {
    pub(super) fn rule(&mut self, line: &Line, perm: Perm, refexes: &[Word<'_>], users: &[Word<'_>]) {
        if let Some(operator) = refexes.iter().find(|w| is_operator(w.text)) {
            if self.settings.enable.contains("refex-expr") {
                let message = "expressions over refexes (refex-expr) are not supported".to_owned();
                self.remark("unsupported", line, Some(*operator), message);
                return;
            }
            let message = format!("'{}' is one more branch here, not an operator between refexes", operator.text);
            let help = "expressions (gitolite's refex-expr) are not supported; write a rule for each refex";
            self.remark("refex-operator", line, Some(*operator), message).help = Some(help.into());
        }
        let applies = self.has_repos(line);
        let mut texts = self.refex_texts(line, perm, refexes);
        if texts.is_empty() && refexes.is_empty() {
            texts.push(("refs/.*".to_owned(), Word { text: "", at: 0 }));
        }
        let refexes: Vec<u32> = texts.iter().filter_map(|(text, word)| self.refex(line, perm, text, *word)).collect();
        let users: Vec<String> = users.iter().filter_map(|word| self.user(line, *word)).collect();
        self.switch(line, perm);
        self.rule_features(line, perm);
        if applies && !refexes.is_empty() && !users.is_empty() {
            self.entries += refexes.len() * users.len() * (self.repolist.len() + 1);
            self.check_entries(line);
            if self.too_large {
                return;
            }
            let statement = self.write_down(line);
            let user_ids: Vec<u32> = users.iter().map(|u| self.policy.names.id(u)).collect();
            self.lint_rule(line, perm, &refexes);
            for &refex in &refexes {
                for &user in &user_ids {
                    self.add_rule(Rule { perm, refex, statement, subconf: line.subconf }, user);
                }
            }
            self.mark_used(true);
        }
    }

    fn add_rule(&mut self, rule: Rule, user: u32) {
        let id = u32::try_from(self.policy.rules.len()).expect("entries are limited");
        self.policy.rules.push(rule);
        for &repo in &self.repolist {
            self.policy.rules_of.entry((repo, user)).or_default().push(id);
        }
    }

    fn mark_used(&mut self, by_rule: bool) {
        for &repo in &self.repolist {
            let known = self.used.entry(repo).or_insert((by_rule, self.repo_line));
            known.0 |= by_rule;
        }
    }

    fn write_down(&mut self, line: &Line) -> u32 {
        let (file, number, text) = (line.origin.file, line.origin.line, line.text.as_str().into());
        self.policy.written.push(Written { file, line: number, text });
        u32::try_from(self.policy.written.len() - 1).expect("the configuration is limited to 64 MiB")
    }

    /// The refexes in full, groups taken apart.
    fn refex_texts<'l>(&mut self, line: &Line, perm: Perm, words: &[Word<'l>]) -> Vec<(String, Word<'l>)> {
        let mut texts = Vec::new();
        for &word in words {
            if word.text.starts_with('@') && word.text != "@all" {
                match self.policy.groups.get(word.text) {
                    Some(members) => texts.extend(members.keys().map(|m| (m.to_string(), word))),
                    None => self.undefined(line, word),
                }
            } else {
                let virtual_name = word.text.starts_with("NAME/") && !matches!(perm, Perm::Read | Perm::CreateRepo);
                let prefix = if virtual_name { "VREF/" } else { "" };
                texts.push((format!("{prefix}{}", word.text), word));
            }
        }
        for (text, _) in &mut texts {
            if !text.starts_with("refs/") && !text.starts_with("VREF/") {
                text.insert_str(0, "refs/heads/");
            }
        }
        texts
    }

    fn refex(&mut self, line: &Line, perm: Perm, text: &str, word: Word<'_>) -> Option<u32> {
        if perm == Perm::Read && text != "refs/.*" {
            let message = format!("the refex '{text}' has no meaning in an 'R' rule");
            let remark = self.remark("r-with-ref", line, Some(word), message);
            remark.help = Some("reading is allowed or refused for a whole repository; write plain 'R'".into());
        }
        if !names::is_refex(text) {
            let message = format!("'{text}' cannot be a refex");
            let remark = self.remark("bad-ref", line, Some(word), message);
            remark.help = Some("a regular expression without blanks and without ! : = < > # % & ~ ' \" ;".into());
            return None;
        }
        if text.starts_with("VREF/") {
            self.feature("vref", line);
        }
        if text.contains(USER_MARK) {
            self.feature("user-refex", line);
        }
        if let Some(known) = self.refex_ids.get(text) {
            return *known;
        }
        let parsed = Pattern::parse(text).and_then(|p| p.to_refex().map(|m| (m, p.alternation)));
        let id = match parsed {
            Ok((matcher, alternation)) => {
                self.lint_refex(line, word, text, alternation);
                let matcher = if text.contains(USER_MARK) { None } else { Some(matcher) };
                self.refex_bytes += matcher.as_ref().map_or(0, Matcher::bytes);
                self.policy.refexes.push(Refex { text: text.into(), matcher });
                u32::try_from(self.policy.refexes.len() - 1).ok()
            }
            Err(problem) => {
                self.pattern_checked(line, word, &Err(problem));
                None
            }
        };
        self.refex_ids.insert(text.to_owned(), id);
        id
    }

    /// A word of a user list as it is stored: roles become groups.
    fn user(&mut self, line: &Line, word: Word<'_>) -> Option<String> {
        let bare = word.text.strip_prefix('@').unwrap_or(word.text);
        if !names::is_user(bare) {
            let remark = self.remark("bad-user", line, Some(word), format!("'{}' cannot be a user name", word.text));
            let comma = "names are divided by blanks, not by commas";
            let help = "letters, digits and '-_.@+' make a name; a letter or a digit starts it";
            remark.help = Some(if bare.contains(',') { comma } else { help }.into());
            return None;
        }
        let role = self.policy.roles.contains(bare);
        if role {
            self.feature("roles", line);
            return Some(format!("@{bare}"));
        }
        if word.text.starts_with('@') && bare != "all" && !self.policy.groups.contains(word.text) {
            self.lints.undeclared.push((word.text.to_owned(), self.files.remarks.len()));
            let near = self.near_group(word.text);
            let message = format!("group '{}' is not defined so far", word.text);
            self.remark("undeclared-group", line, Some(word), message).help = near;
        }
        Some(word.text.to_owned())
    }

    /// The first rule of a block with C, D or M switches the meaning of those letters on (section 3.6).
    fn switch(&mut self, line: &Line, perm: Perm) {
        let Perm::Write { create, delete, merge, .. } = perm else { return };
        let switches = [(create, "CREATE_IS_C"), (delete, "DELETE_IS_D"), (merge, "MERGE_CHECK")];
        for (index, (has, name)) in switches.into_iter().enumerate() {
            if has && !self.switched[index] {
                self.switched[index] = true;
                self.add_config(line, &format!("{OPTION_PREFIX}{name}"), "1");
            }
        }
    }

    fn rule_features(&mut self, line: &Line, perm: Perm) {
        match perm {
            Perm::CreateRepo => self.feature("wild-repos", line),
            Perm::Write { create, delete, merge, .. } => {
                if create || delete {
                    self.feature("create-delete", line);
                }
                if merge {
                    self.feature("merge-check", line);
                }
            }
            _ => {}
        }
    }

    pub(super) fn config(&mut self, line: &Line, config: &Config<'_>) {
        let applies = self.has_repos(line);
        let mirror = self.policy.mirror_aliases && super::mirror::is_alias(&config.key);
        let lenient = self.settings.enable.contains("gitweb-keys") && config.spelling == Spelling::Gitweb;
        if !mirror && !lenient && !self.key_allowed(&config.key) {
            let message = format!("the config key '{}' is not allowed", config.key);
            let word = (!config.key_word.text.is_empty()).then_some(config.key_word);
            let help = "the server's settings list the allowed keys (gitolite: GIT_CONFIG_KEYS)";
            self.remark("config-key-not-allowed", line, word, message).help = Some(help.into());
            return;
        }
        let moved = config.spelling == Spelling::Gitweb
            && !lenient
            && (config.value_word.text.contains(" =") || config.value_word.text.starts_with('='));
        if config.key.contains(' ') || moved {
            let message = "' = ' inside a value would move into the key".to_owned();
            let help = "leave out the blank before '=' in the value";
            self.remark("config-key-blank", line, None, message).help = Some(help.into());
            return;
        }
        if let Some(bad) = config.value.chars().find(|c| self.settings.unsafe_values.contains(*c)).filter(|_| !lenient)
        {
            let message = format!("'{bad}' is not allowed in a value");
            let listed: Vec<String> = self.settings.unsafe_values.chars().map(|c| c.to_string()).collect();
            let help = format!("none of {} may stand in a value", listed.join(" "));
            let remark = self.remark("bad-config-value", line, Some(config.value_word), message);
            remark.help = Some(help);
            return;
        }
        if !self.lint_option(line, config) {
            return;
        }
        let foreign = config.key.strip_prefix(OPTION_PREFIX).and_then(|key| key.strip_prefix("mirror."));
        if let Some(why) = foreign.and_then(|name| super::mirror::foreign_problem(name, config.value)) {
            let remark = self.remark("bad-target", line, Some(config.value_word), why);
            remark.help = Some("option mirror.external = NAME URL [REFS...]; option mirror.upstream = URL".into());
            return;
        }
        let mut value = config.value.to_owned();
        // gitolite takes them in no fixed order; the longest first is what `%LT` beside `%LTE` can only mean.
        let mut safe: Vec<_> = self.settings.safe_config.iter().collect();
        safe.sort_by_key(|(key, _)| std::cmp::Reverse(key.len()));
        for (key, text) in safe {
            value = value.replace(&format!("%{key}"), text);
        }
        if applies {
            self.write_down(line);
            self.add_config(line, &config.key, &value);
        }
    }

    fn key_allowed(&mut self, key: &str) -> bool {
        let options = OPTION_PREFIX.len();
        if key.len() >= options && key.as_bytes()[..options].eq_ignore_ascii_case(OPTION_PREFIX.as_bytes()) {
            return true;
        }
        if let Some(known) = self.keys.get(key) {
            return *known;
        }
        let allowed = self.key_patterns.matches(key);
        self.keys.insert(key.to_owned(), allowed);
        allowed
    }

    fn add_config(&mut self, line: &Line, key: &str, value: &str) {
        if self.repolist.is_empty() {
            return;
        }
        self.lints.note_config(&self.repolist, key, value, line.subconf);
        let id = u32::try_from(self.policy.configs.len()).expect("entries are limited");
        let key: Arc<str> = self.policy.names.id_text(key);
        let value: Arc<str> = self.policy.names.id_text(value);
        self.policy.configs.push(ConfigEntry { key, value, subconf: line.subconf });
        self.entries += self.repolist.len();
        self.check_entries(line);
        for &repo in &self.repolist {
            self.policy.configs_of.entry(repo).or_default().push(id);
        }
        self.mark_used(false);
    }
}

fn is_operator(word: &str) -> bool {
    matches!(word, "and" | "or" | "not" | "xor" | "+" | "-" | "==" | "-lt" | "-gt" | "-eq" | "-le" | "-ge" | "-ne")
}

//! Which commands users have: all but a few, unless the configuration says otherwise (gitolite: ENABLE in the rc).
//!
//! Two options of the admin repository say so, since they are reviewed, and mirrored, with the rules:
//! `option commands.disable = fork sudo` and `option commands.enable = readme`; `all` stands for every command. What
//! is disabled by name is off, else what is enabled by name is on, else `disable = all` counts, else the default.
//! They bind administrators too; not the machine itself, and not the nodes.

use super::{Control, Reply};
use crate::admin::{ADMIN_REPO, Denial};
use crate::model::{Actor, RepoName};

/// Off unless enabled: gitweb shows what it sets as it is, scripts included.
const OFF: &[&str] = &["readme"];
const EVERY: &str = "all";

/// What the two options say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Switches {
    disabled: Vec<String>,
    enabled: Vec<String>,
}

impl Switches {
    pub(super) fn is_on(&self, command: &str) -> bool {
        let names = |list: &[String], name: &str| list.iter().any(|word| word == name);
        if names(&self.disabled, command) {
            false
        } else if names(&self.enabled, command) {
            true
        } else {
            !names(&self.disabled, EVERY) && (!OFF.contains(&command) || names(&self.enabled, EVERY))
        }
    }
}

impl Control {
    pub(super) fn switches(&self, actor: &Actor) -> Switches {
        if !matches!(actor, Actor::User { .. }) {
            return Switches { disabled: Vec::new(), enabled: vec![EVERY.to_owned()] };
        }
        let admin = RepoName::new(ADMIN_REPO).expect("a constant, and a valid name");
        let options = self.realm.with_rules(&admin, "", |policy, facts| policy.options(facts, "commands."));
        let mut switches = Switches::default();
        // Lists may be split over several lines, as those of mirror.copies are.
        for (name, value) in options {
            let words = value.split_whitespace().map(str::to_owned);
            match name.strip_prefix("commands.") {
                Some(name) if name.starts_with("disable") => switches.disabled.extend(words),
                Some(name) if name.starts_with("enable") => switches.enabled.extend(words),
                _ => {}
            }
        }
        switches
    }

    /// The refusal of a command that is off.
    pub(super) fn switched_off(&self, actor: &Actor, words: &[&str]) -> Option<Reply> {
        let command = words.first().copied().unwrap_or("info");
        // Which other commands there are is said in `help`, not here.
        if self.switches(actor).is_on(command) || super::help::usage(&[command]).is_none() {
            return None;
        }
        Some(Reply::denied(&Denial {
            first: format!("FATAL: the command '{command}' is switched off here"),
            you: None,
            rule: None,
            help: format!("administrators switch it on with option commands.enable of {ADMIN_REPO}"),
            code: Denial::COMMAND_OFF,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_name_and_all() {
        let of = |disabled: &str, enabled: &str| Switches {
            disabled: disabled.split_whitespace().map(str::to_owned).collect(),
            enabled: enabled.split_whitespace().map(str::to_owned).collect(),
        };
        let on = |switches: &Switches| ["info", "fork", "readme"].map(|command| switches.is_on(command));
        assert_eq!(on(&of("", "")), [true, true, false]);
        assert_eq!(on(&of("fork", "readme")), [true, false, true]);
        assert_eq!(on(&of("all", "info")), [true, false, false]);
        assert_eq!(on(&of("all fork", "all fork")), [false, false, false]);
        assert_eq!(on(&of("", "all")), [true, true, true]);
    }
}

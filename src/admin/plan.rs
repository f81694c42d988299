//! What putting a configuration in force would do, in lines for whoever pushes or checks it.
//!
//! Pure, and bounded in size and time: a change too wide to ask about everybody says so.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::HostName;
use crate::policy::{Facts, How, Mirror, NewValue, Policy, Shift, compare, new_templates, new_values};

use super::summary;

/// Lines of one kind that are listed; beyond them only the number is told.
const LINES_SHOWN: usize = 8;
/// Names listed in one line.
const NAMES_SHOWN: usize = 5;
/// Questions asked about rights; some 50 ms.
const QUESTIONS: usize = 10_000;
/// Letters of a value that are shown.
const VALUE_SHOWN: usize = 60;
/// Repositories whose values and mirroring are compared.
const REPOS_COMPARED: usize = 20_000;

/// One side of a change.
#[derive(Clone, Copy)]
pub(super) struct Side<'a> {
    pub policy: &'a Policy,
    /// The files of `keydir/`, by path.
    pub keys: &'a BTreeMap<String, Vec<u8>>,
}

/// The lines of a plan, without an indentation; none when nothing changes. `node` is where it is asked, if anywhere.
pub(super) fn plan(old: Side<'_>, new: Side<'_>, node: Option<&HostName>) -> Vec<String> {
    let names = |policy: &Policy| policy.repos().map(ToString::to_string).collect::<BTreeSet<_>>();
    let mut lines = summary::repositories(&names(old.policy), &names(new.policy));
    let difference = compare(old.policy, new.policy, QUESTIONS);
    lines.extend(bounded(difference.removed.iter().map(|(place, text)| format!("- {text}   ({place})"))));
    lines.extend(bounded(difference.added.iter().map(|(place, text)| format!("+ {text}   ({place})"))));
    lines.extend(bounded(difference.shifts.iter().map(told)));
    let (values, more) = new_values(old.policy, new.policy, REPOS_COMPARED);
    lines.extend(bounded(values.iter().filter(|value| !is_mirroring(&value.key)).map(becomes)));
    let templates = new_templates(old.policy, new.policy);
    lines.extend((!templates.is_empty()).then(|| format!("another template-data: {}", list(&templates))));
    if difference.cut || more {
        lines.push("more people and repositories are concerned than were asked about".to_owned());
    }
    lines.extend(summary::keys(old.keys, new.keys));
    lines.extend(bounded(mirroring(old.policy, new.policy, node)));
    lines
}

fn bounded(lines: impl Iterator<Item = String>) -> Vec<String> {
    let (mut shown, mut rest) = (Vec::new(), 0_usize);
    for line in lines {
        if shown.len() < LINES_SHOWN {
            shown.push(line);
        } else {
            rest += 1;
        }
    }
    if rest > 0 {
        shown.push(format!("... and {rest} more like that"));
    }
    shown
}

/// `alice, bob gain write: docs, tools`
fn told(shift: &Shift) -> String {
    let everybody = shift.users == ["@all"];
    let users = if everybody { "everybody".to_owned() } else { list(&shift.users) };
    let one = everybody || shift.users.len() == 1;
    let verb = |one_word: &'static str, many: &'static str| if one { one_word } else { many };
    let mut parts = Vec::new();
    if !shift.gains.is_empty() {
        parts.push(format!("{} {}", verb("gains", "gain"), shift.gains.join(", ")));
    }
    if !shift.loses.is_empty() {
        parts.push(format!("{} {}", verb("loses", "lose"), shift.loses.join(", ")));
    }
    if shift.refs {
        parts.push(format!("{} other rules for single references", verb("gets", "get")));
    }
    format!("{users} {}: {}", parts.join(" and "), list(&shift.repos))
}

/// What the lines about mirroring tell.
fn is_mirroring(key: &str) -> bool {
    key == "option mirror.master" || key.starts_with("option mirror.copies")
}

/// `option deny-rules = 1: docs, tools`
fn becomes(new: &NewValue) -> String {
    let repos = list(&new.repos);
    match &new.value {
        Some(value) => {
            let cut = value.char_indices().nth(VALUE_SHOWN).map_or("", |_| "...");
            let shown: String = value.chars().take(VALUE_SHOWN).collect();
            format!("{} = {shown}{cut}: {repos}", new.key)
        }
        None => format!("{} is no longer set: {repos}", new.key),
    }
}

fn list(names: &[String]) -> String {
    let shown = names.iter().take(NAMES_SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMES_SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn mirroring(old: &Policy, new: &Policy, node: Option<&HostName>) -> impl Iterator<Item = String> {
    let anywhere = HostName::new("anywhere").expect("a constant, and a valid name");
    let node = node.unwrap_or(&anywhere).clone();
    let used = |policy: &Policy| policy.features().contains_key("mirror");
    let limit = if used(old) || used(new) { REPOS_COMPARED } else { 0 };
    let mut repos: BTreeSet<_> = new.repos().take(limit).collect();
    repos.extend(old.repos().take(limit));
    let mut changed: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for repo in repos {
        let facts = Facts::existing(repo);
        let (was, is) = (shape(&old.mirror(&facts, &node)), shape(&new.mirror(&facts, &node)));
        if was != is {
            changed.entry((was, is)).or_default().push(repo.to_string());
        }
    }
    changed.into_iter().map(|((was, is), repos)| format!("mirroring: {was} becomes {is}: {}", list(&repos)))
}

/// `server1 -> server2 server3`
fn shape(mirror: &Mirror) -> String {
    let how = |how: &How| match how {
        How::Async => "",
        How::Sync => " (sync)",
        How::NoSync | How::NoSyncQuiet => " (by hand)",
    };
    let copies: Vec<String> = mirror.copies.iter().map(|(name, kept)| format!("{name}{}", how(kept))).collect();
    match &mirror.master {
        None if copies.is_empty() => "none".to_owned(),
        master => format!("{} -> {}", master.as_deref().unwrap_or("nobody"), copies.join(" ")),
    }
}

/// The lines as a block of text with a title; empty when nothing changes.
pub(super) fn block(lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let lines: String = lines.iter().map(|line| format!("  {line}\n")).collect();
    format!("plan:\n{lines}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Settings, Sources, compile};

    fn policy(conf: &str) -> Policy {
        let conf = format!("repo gitmesh-admin\n RW+ = root\n{conf}\n");
        let sources = Sources { main: "gitmesh.conf".into(), files: [("gitmesh.conf".into(), conf.into())].into() };
        let compiled = compile(&sources, &Settings::recommended());
        compiled.policy.unwrap_or_else(|| panic!("{:#?}", compiled.diagnostics))
    }

    fn change(old: &str, new: &str) -> String {
        let (old, new, keys) = (policy(old), policy(new), BTreeMap::new());
        plan(Side { policy: &old, keys: &keys }, Side { policy: &new, keys: &keys }, None).join("\n")
    }

    #[test]
    fn what_changes() {
        let base = "@dev = alice bob\nrepo docs tools\n RW = @dev\n R = carol\nrepo open\n R = @all";
        let dev = base.replace("alice bob", "alice bob dave");
        let more = format!("{base}\nrepo new\n RW = alice");
        let table = [
            ("nothing", base.to_owned()),
            ("a member more", dev),
            ("a member less", base.replace("alice bob", "alice")),
            ("a stronger rule", base.replace("RW = @dev", "RW+ = @dev")),
            ("only for some refs", base.replace("RW = @dev", "RW main = @dev")),
            ("for everybody", base.replace("R = carol", "R = @all")),
            ("not for everybody", base.replace("R = @all", "R = bob")),
            ("a repository more", more),
            ("one less", base.replace("docs tools", "docs")),
            ("a switch", format!("{base}\nrepo open\n - = daemon\n option deny-rules = 1")),
            ("order", base.replace(" RW = @dev\n R = carol", " R = carol\n RW = @dev")),
            ("mirrored", format!("{base}\nrepo docs open\n option mirror.master = s1\n option mirror.copies = s2 s3")),
            ("wild", format!("{base}\nrepo pub/..*\n C = @dev\n RW = carol")),
            ("an option", base.replace("repo open", "repo open\n option hook.post-receive = notify")),
            ("a hook program", format!("{base}\nrepo @all\n option hook.post-receive = notify")),
            ("a switch of letters", base.replace("RW = @dev", "RWC = @dev")),
            ("a description", base.replace("repo open", "repo open\n desc = For everybody")),
            ("a category for some", base.replace("repo open", "repo open docs\n category = x")),
            ("a pattern's option", format!("{base}\nrepo pub/..*\n R = carol\n option deny-rules = 1")),
            (
                "of a template",
                format!("{base}\n=begin template-data\nrepo docs = base\nREADERS = eve\n=end\nrepo @base\n RW = eve"),
            ),
            ("a comment", base.replace("repo docs", "# more\nrepo  docs")),
        ];
        let text: String = table.iter().map(|(what, new)| format!("## {what}\n{}\n", change(base, new))).collect();
        insta::assert_snapshot!(text);
    }

    #[test]
    fn values_that_change_without_a_line_that_does() {
        let old = "@g = docs\nrepo docs tools open\n R = @all\nrepo docs\n option a.b = 1\nrepo tools\n RW = u\nrepo @g\n option g = 1";
        for (new, told) in [
            (
                old.replace("repo docs\n option a.b = 1\nrepo tools\n", "repo docs\nrepo tools\n option a.b = 1\n"),
                "tools",
            ),
            (old.replace("repo docs\n option", "repo docs tools\n option"), "option a.b = 1: tools"),
            (old.replace("@g = docs", "@g = docs tools"), "option g = 1: tools"),
        ] {
            assert!(change(old, &new).contains(told), "{new}: {}", change(old, &new));
        }
        let ordered = "repo docs\n R = @all\nrepo @all\n option a = 1\nrepo docs\n option a = 2";
        let turned = "repo docs\n R = @all\nrepo docs\n option a = 2\nrepo @all\n option a = 1";
        assert_eq!(change(ordered, turned), "option a = 1: docs");
        let gone = change(old, &old.replace(" option a.b = 1\n", ""));
        assert_eq!(gone, "- option a.b = 1   (conf/gitmesh.conf:7)\noption a.b is no longer set: docs");
    }

    #[test]
    fn a_wide_change_is_cut_and_quick() {
        let repos: String = (0..400).map(|n| format!("repo r{n}\n RW = u{n}\n")).collect();
        let users: String = (0..100).map(|n| format!(" u{n}")).collect();
        let old = format!("@g ={users}\n{repos}");
        let text = change(&old, &format!("{old}\nrepo @all\n RW+ = @g\n R = @all"));
        assert!(text.contains("more people and repositories"), "{text}");
        assert!(text.lines().count() < 30, "{text}");
    }

    #[test]
    fn keys_too() {
        let policy = policy("");
        let keys = |names: &[&str]| names.iter().map(|n| (format!("keydir/{n}.pub"), b"x".to_vec())).collect();
        let (old, new): (BTreeMap<_, _>, BTreeMap<_, _>) = (keys(&["alice"]), keys(&["alice@home", "bob"]));
        let lines = plan(Side { policy: &policy, keys: &old }, Side { policy: &policy, keys: &new }, None);
        assert_eq!(block(&lines), "plan:\n  +2 keys (alice@home, bob)\n  -1 key (alice)\n");
    }
}

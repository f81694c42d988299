//! `group list|show`, for administrators: who and what is in a group, by which line, and where it is used.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Serialize;

use super::user::{listing, pattern, to_json};
use super::{Control, Reply, help};
use crate::model::Actor;
use crate::policy::Outline;

/// Members, and places of each kind, that are told; the others are counted.
const TOLD: usize = 1000;

#[derive(Debug, Default, Serialize)]
struct Report {
    schema: &'static str,
    group: String,
    defined: Vec<String>,
    /// What stands on those lines.
    members: Vec<String>,
    /// Those who are members by a group among them, with the groups that bring them.
    nested: BTreeMap<String, Vec<String>>,
    /// Places of the rules that name it, of the `repo` lines, and of the groups it is a member of.
    rules: Vec<String>,
    repos: Vec<String>,
    groups: Vec<String>,
    /// What did not fit in.
    more: usize,
}

impl Control {
    pub(super) async fn group_command(&self, actor: &Actor, words: &[&str]) -> Reply {
        let (order, rest) = match *words {
            [order @ ("list" | "show"), ref rest @ ..] => (order.to_owned(), rest),
            _ => return help::wrong(&["group"]),
        };
        let Some((word, json)) = listing(rest).filter(|(word, _)| order == "list" || word.is_some()) else {
            return help::wrong(&["group", &order]);
        };
        if let Err(refused) = self.administers(actor, "who is in which group") {
            return refused;
        }
        let word = word.map(str::to_owned);
        self.blocking(actor, move |control, _| {
            let told = match (order.as_str(), word.as_deref()) {
                ("show", Some(group)) => control.show_group(group, json),
                (_, word) => control.list_groups(word, json),
            };
            told.unwrap_or_else(|reply| reply)
        })
        .await
    }

    fn list_groups(&self, word: Option<&str>, json: bool) -> Result<Reply, Reply> {
        let (wanted, live) = (pattern(word)?, self.realm.live());
        let groups = live.policy.groups().into_iter().filter(|group| wanted(group));
        let groups: Vec<(&str, usize)> = groups.map(|group| (group, live.policy.members(group).len())).collect();
        if json {
            let one = |(group, members): &(&str, usize)| serde_json::json!({"group": group, "members": members});
            let groups: Vec<_> = groups.iter().map(one).collect();
            let document = serde_json::json!({"schema": "gitmesh.groups/1", "groups": groups});
            return Ok(Reply::done(format!("{document}\n")));
        }
        let width = groups.iter().map(|(group, _)| group.len()).max().unwrap_or(0);
        let line = |(group, members): &(&str, usize)| {
            format!("{group:width$}\t{members} {}\n", if *members == 1 { "member" } else { "members" })
        };
        Ok(Reply::done(groups.iter().map(line).collect()))
    }

    fn show_group(&self, group: &str, json: bool) -> Result<Reply, Reply> {
        let group = if group.starts_with('@') { group.to_owned() } else { format!("@{group}") };
        let written = self.admin.written_now().map_err(|error| {
            tracing::error!(%error, "the configuration cannot be read");
            Reply::fail(70, "FATAL: the configuration cannot be read; tell an administrator of this machine")
        })?;
        let report = look_up(&written.outline(), &group)
            .ok_or_else(|| Reply::fail(4, format!("FATAL: the configuration defines no group '{group}'")))?;
        Ok(Reply::done(if json { to_json(&report) } else { report.to_string() }))
    }
}

fn look_up(outline: &Outline<'_>, group: &str) -> Option<Report> {
    let mut members: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for definition in &outline.groups {
        members.entry(&definition.name).or_default().extend(definition.members.iter().map(String::as_str));
    }
    let own = members.get(group)?;
    let mut report = Report { schema: "gitmesh.group/1", group: group.to_owned(), ..Report::default() };
    // Each group is gone into once, so rings and long chains cost no more than the text is long.
    let (mut todo, mut seen): (Vec<&str>, BTreeSet<&str>) = (own.iter().copied().collect(), BTreeSet::from([group]));
    let mut nested: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    while let Some(inner) = todo.pop() {
        let Some(inside) = members.get(inner).filter(|_| seen.insert(inner)) else { continue };
        for member in inside.iter().copied() {
            if members.contains_key(member) {
                todo.push(member);
            } else {
                nested.entry(member).or_default().insert(inner);
            }
        }
    }
    let texts = |names: &BTreeSet<&str>| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    report.members = texts(own);
    report.nested = nested.into_iter().map(|(member, by)| (member.to_owned(), texts(&by))).collect();
    let defined = outline.groups.iter().filter(|definition| definition.name == group);
    report.defined = defined.map(|definition| definition.place.to_string()).collect();
    let within = outline.groups.iter().filter(|definition| definition.members.iter().any(|member| member == group));
    report.groups = within.map(|definition| format!("{} {}", definition.place, definition.name)).collect();
    for block in &outline.blocks {
        if block.items.iter().any(|item| item == group) {
            report.repos.push(block.place.to_string());
        }
        let names = |words: &[String]| words.iter().any(|word| word == group);
        let rules = block.entries.iter().filter(|entry| names(&entry.users) || names(&entry.refexes));
        report.rules.extend(rules.map(|entry| format!("{} {}", entry.place, entry.text)));
    }
    report.rules.dedup();
    for list in [&mut report.members, &mut report.rules, &mut report.repos, &mut report.groups] {
        report.more += list.len().saturating_sub(TOLD);
        list.truncate(TOLD);
    }
    while report.nested.len() > TOLD {
        report.nested.pop_last();
        report.more += 1;
    }
    Some(report)
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "group: {}\ndefined: {}", self.group, self.defined.join(" "))?;
        let none = if self.members.is_empty() { "none" } else { "" };
        writeln!(f, "members: {}{none}", self.members.join(" "))?;
        let mut out = String::new();
        for (member, by) in &self.nested {
            // A String takes every write.
            let _ = writeln!(out, "member by {}: {member}", by.join(" "));
        }
        for (word, places) in [("in a rule", &self.rules), ("on a repo line", &self.repos), ("in", &self.groups)] {
            places.iter().for_each(|place| out.push_str(&format!("{word}: {place}\n")));
        }
        if self.rules.is_empty() && self.repos.is_empty() && self.groups.is_empty() {
            out.push_str("used nowhere\n");
        }
        if self.more > 0 {
            let _ = writeln!(out, "... and {} more lines", self.more);
        }
        f.write_str(&out)
    }
}

//! `repo list|show`, for administrators: what is on this node and what is said about it. Nothing is changed.

use std::collections::BTreeSet;
use std::time::SystemTime;

use serde::Serialize;

use super::user::{listing, pattern, to_json};
use super::{Control, Reply, help, parse_repo};
use crate::admin::Live;
use crate::model::time::rfc3339;
use crate::model::{Actor, RepoName, UserName};
use crate::parallel::of_each;
use crate::policy::{Facts, Mode};
use crate::repo::Ownership;

/// Rules, options and settings of one repository that are told, each; the others are counted.
const TOLD: usize = 1000;

#[derive(Serialize)]
struct Listed {
    repo: String,
    /// Whether this node holds it.
    here: bool,
    /// Of its packs.
    bytes: u64,
    /// When a branch changed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<String>,
    master: String,
    copies: Vec<String>,
    /// Made by a user, and named by no rule.
    wild: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    creator: Option<String>,
}

#[derive(Serialize)]
struct Rule {
    place: String,
    text: String,
}

#[derive(Serialize)]
struct Report {
    schema: &'static str,
    #[serde(flatten)]
    listed: Listed,
    /// What it is to this node: master, copy, local, elsewhere, orphan or doubted.
    role: &'static str,
    description: String,
    rules: Vec<Rule>,
    options: Vec<(String, String)>,
    config: Vec<(String, String)>,
    roles: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repacked: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checked: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    damaged: Option<String>,
    more: usize,
}

fn facts<'f>(repo: &'f RepoName, disk: &'f Ownership) -> Facts<'f> {
    let creator = disk.creator.as_ref().map(UserName::as_str);
    Facts { creator, roles: disk.roles.as_deref(), ..Facts::existing(repo) }
}

/// Three figures and a unit, as people say it.
fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["B", "kB", "MB", "GB", "TB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    while value >= 1000.0
        && let Some(larger) = units.next()
    {
        (value, unit) = (value / 1000.0, larger);
    }
    if value < 10.0 && unit != "B" { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

impl Control {
    /// `repo list [PATTERN] [--json]` and `repo show REPO [--json]`
    pub(super) async fn catalog(&self, actor: &Actor, order: &str, words: &[&str]) -> Reply {
        let Some((word, json)) = listing(words).filter(|(word, _)| order == "list" || word.is_some()) else {
            return help::wrong(&["repo", order]);
        };
        if let Err(refused) = self.administers(actor, "what is known of every repository") {
            return refused;
        }
        let (order, word) = (order.to_owned(), word.map(str::to_owned));
        self.blocking(actor, move |control, _| {
            let told = match (order.as_str(), word.as_deref()) {
                ("show", Some(repo)) => control.show_repo(repo, json),
                (_, word) => control.list_repos(word, json),
            };
            told.unwrap_or_else(|reply| reply)
        })
        .await
    }

    fn list_repos(&self, word: Option<&str>, json: bool) -> Result<Reply, Reply> {
        let (wanted, live) = (pattern(word)?, self.realm.live());
        let mut names: BTreeSet<RepoName> = self.list()?.into_iter().collect();
        names.extend(live.repositories().cloned());
        let names: Vec<RepoName> = names.into_iter().filter(|repo| wanted(repo.as_str())).collect();
        let rows = of_each(&names, |repo| self.listed(&live, repo).0);
        if json {
            let document = serde_json::json!({"schema": "gitmesh.repos/1", "repos": rows});
            return Ok(Reply::done(format!("{document}\n")));
        }
        let width = rows.iter().map(|row| row.repo.len()).max().unwrap_or(0);
        let line = |row: &Listed| {
            let Listed { repo, here, bytes, changed, master, copies, creator, .. } = row;
            let size = if *here { size(*bytes) } else { "not here".to_owned() };
            let changed = changed.as_deref().and_then(|at| at.get(..10)).unwrap_or("-");
            let copies = if copies.is_empty() { "-".to_owned() } else { copies.join(",") };
            let creator = creator.as_ref().map_or_else(String::new, |by| format!("\tmade by {by}"));
            format!("{repo:width$}\t{size:>8}\t{changed}\t{master}\t{copies}{creator}\n")
        };
        Ok(Reply::done(rows.iter().map(line).collect()))
    }

    fn listed(&self, live: &Live, repo: &RepoName) -> (Listed, Option<Ownership>) {
        let disk = self.store.ownership(repo);
        let weight = disk.as_ref().map(|_| self.store.weigh(repo)).unwrap_or_default();
        let creator = disk.as_ref().and_then(|disk| disk.creator.as_ref());
        let place = live.place(repo, creator);
        let listed = Listed {
            repo: repo.to_string(),
            here: disk.is_some(),
            bytes: weight.bytes,
            changed: weight.pushed.filter(|_| disk.is_some()).map(rfc3339),
            master: place.master.unwrap_or_else(|| self.node.name.to_string()),
            copies: place.copies.into_keys().collect(),
            wild: creator.is_some() && !live.policy.is_named(repo),
            creator: creator.map(ToString::to_string),
        };
        (listed, disk)
    }

    fn show_repo(&self, repo: &str, json: bool) -> Result<Reply, Reply> {
        let repo = parse_repo(repo)?;
        let live = self.realm.live();
        let (listed, disk) = self.listed(&live, &repo);
        if disk.is_none() && !live.repositories().any(|named| *named == repo) {
            return Err(Reply::fail(4, format!("FATAL: there is no repository '{repo}' and no rule names it")));
        }
        let disk = disk.unwrap_or_default();
        let creator = disk.creator.as_ref();
        let role = match live.place(&repo, creator).mode {
            Mode::Master => "master",
            Mode::Copy { .. } => "copy",
            Mode::Local => "local",
            Mode::NotHere => "elsewhere",
            Mode::Orphan => "orphan",
            Mode::Doubted(_) => "doubted",
        };
        let about = facts(&repo, &disk);
        let rules = live.policy.rules_of(&about).into_iter();
        let rules: Vec<Rule> =
            rules.map(|(place, text)| Rule { place: place.to_string(), text: text.to_owned() }).collect();
        let (options, config): (Vec<_>, Vec<_>) = live
            .policy
            .config(&about)
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .partition(|(key, _)| key.starts_with("gitolite-options."));
        let bare = |(key, value): (String, String)| (key.replacen("gitolite-options.", "", 1), value);
        let options = options.into_iter().map(bare).collect();
        let [repacked, checked] = self.upkeep.maintained(&repo).map(|at: Option<SystemTime>| at.map(rfc3339));
        let damaged = self.upkeep.damage(&repo).map(|said| said.lines().next().unwrap_or_default().to_owned());
        let roles = disk.roles.as_deref().unwrap_or_default().lines().map(str::to_owned).collect();
        let description = if listed.here { self.realm.description(&repo) } else { String::new() };
        let mut report = Report {
            schema: "gitmesh.repo/1",
            listed,
            role,
            description,
            rules,
            options,
            config,
            roles,
            repacked,
            checked,
            damaged,
            more: 0,
        };
        report.more = report.rules.len().saturating_sub(TOLD);
        report.rules.truncate(TOLD);
        Ok(Reply::done(if json { to_json(&report) } else { report.to_string() }))
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Listed { repo, here, bytes, changed, master, copies, wild, creator } = &self.listed;
        writeln!(f, "repo: {repo}")?;
        if !self.description.is_empty() {
            writeln!(f, "description: {}", self.description)?;
        }
        writeln!(f, "here: {}", self.role)?;
        writeln!(f, "master: {master}")?;
        writeln!(f, "copies: {}", if copies.is_empty() { "none".to_owned() } else { copies.join(" ") })?;
        if let Some(creator) = creator {
            writeln!(f, "made by: {creator}{}", if *wild { "" } else { " (and named in the rules)" })?;
        }
        if *here {
            writeln!(f, "size: {}", size(*bytes))?;
            writeln!(f, "last change: {}", changed.as_deref().unwrap_or("unknown"))?;
            writeln!(f, "repacked: {}", self.repacked.as_deref().unwrap_or("not yet"))?;
            writeln!(f, "checked: {}", self.checked.as_deref().unwrap_or("not yet"))?;
        }
        if let Some(said) = &self.damaged {
            writeln!(f, "DAMAGED: {said}")?;
        }
        self.rules.iter().try_for_each(|Rule { place, text }| writeln!(f, "rule: {place} {text}"))?;
        if self.more > 0 {
            writeln!(f, "... and {} more rules", self.more)?;
        }
        self.options.iter().try_for_each(|(key, value)| writeln!(f, "option: {key} = {value}"))?;
        self.config.iter().try_for_each(|(key, value)| writeln!(f, "config: {key} = {value}"))?;
        self.roles.iter().try_for_each(|line| writeln!(f, "role: {line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes() {
        let told = [0, 999, 1000, 1_550, 12_345, 5_000_000_000].map(size);
        assert_eq!(told, ["0 B", "999 B", "1.0 kB", "1.6 kB", "12 kB", "5.0 GB"]);
    }
}

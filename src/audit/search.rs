//! Which records somebody wants to see, and how one reads them.

use super::record::{Kind, Outcome, Record};

/// What a record must have; what is not said does not count.
#[derive(Debug, Default)]
pub struct Filter {
    /// The user, also as whom or for whom something was done, or the node.
    pub user: Option<String>,
    /// The whole name, or, with one of `^$*[(|`, a pattern.
    pub repo: Option<regex::Regex>,
    pub kind: Option<Kind>,
    pub result: Option<Outcome>,
    /// A reference, by its full name or that of the branch.
    pub reference: Option<String>,
    pub key: Option<String>,
    /// How the address begins.
    pub from: Option<String>,
    /// RFC 3339, which is sorted as text.
    pub since: Option<String>,
    pub until: Option<String>,
}

impl Filter {
    pub fn passes(&self, record: &Record) -> bool {
        let all = |wanted: &Option<String>, has: &dyn Fn(&str) -> bool| wanted.as_deref().is_none_or(has);
        all(&self.user, &|user| [&record.user, &record.other, &record.node].iter().any(|name| *name == user))
            && self.repo.as_ref().is_none_or(|repo| repo.is_match(&record.repo))
            && self.kind.is_none_or(|kind| kind == record.kind)
            && self.result.is_none_or(|result| {
                result == record.result || record.refs.iter().any(|change| change.result == result)
            })
            && all(&self.reference, &|name| {
                record.refs.iter().any(|c| c.name == name || c.name.strip_prefix("refs/heads/") == Some(name))
            })
            && all(&self.key, &|key| record.key == key)
            && all(&self.from, &|from| record.from.starts_with(from))
            && all(&self.since, &|since| record.time.as_str() >= since)
            && all(&self.until, &|until| record.time.as_str() < until)
    }
}

impl Record {
    /// For a person: one line, and for each reference of a push one more.
    pub fn told(&self) -> String {
        let who = match (self.user.as_str(), self.node.as_str()) {
            ("", "") => "-".to_owned(),
            ("", node) => format!("node {node}"),
            (user, "") => user.to_owned(),
            (user, node) => format!("{user} by {node}"),
        };
        let who = if self.other.is_empty() { who } else { format!("{who} as {}", self.other) };
        let kind = serde_json::to_value(self.kind).ok().and_then(|k| Some(k.as_str()?.to_owned())).unwrap_or_default();
        let mut out = format!("{}  {who}  {kind}", self.time);
        for part in [&self.repo, &self.what].into_iter().filter(|part| !part.is_empty()) {
            out.push_str(&format!("  {part}"));
        }
        out.push_str(&match self.result {
            Outcome::Ok => String::new(),
            Outcome::Refused => "  REFUSED".to_owned(),
            Outcome::Failed => "  FAILED".to_owned(),
        });
        if !self.reason.is_empty() {
            out.push_str(&format!("  ({})", self.reason.replace('\n', " ")));
        }
        if !self.from.is_empty() {
            out.push_str(&format!("  from {}", self.from));
        }
        out.push('\n');
        for change in &self.refs {
            let short = |oid: &str| oid.chars().take(7).collect::<String>();
            let why = match change.result {
                Outcome::Ok => String::new(),
                _ => format!("  NOT DONE: {}", change.reason),
            };
            let rule = if change.rule.is_empty() { String::new() } else { format!("  by {}", change.rule) };
            // As git shows a forced update.
            let dots = if change.op == "rewind" { "..." } else { ".." };
            let (old, new) = (short(&change.old), short(&change.new));
            out.push_str(&format!("    {}  {old}{dots}{new}{rule}{why}\n", change.name));
        }
        // Words of the client's may hold anything.
        out.chars().filter(|c| *c == '\n' || !c.is_control()).collect()
    }
}

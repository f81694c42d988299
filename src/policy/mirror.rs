//! Which node is a repository's master and which hold copies (section 12.2).
//!
//! Three spellings mean the same: `option mirror.*`, `config gitmesh.mirror.*` and gitolite 2's
//! `config gitolite.mirror.*`, where copies are called slaves and further lists, of any name, are kept by hand. Of
//! several lines for one key the last wins, whatever its spelling. The two last count only where the settings enable
//! `mirror-aliases`.

use std::collections::{BTreeMap, BTreeSet};

use super::decide::Facts;
use super::options::is_set;
use super::parser::OPTION_PREFIX;
use super::rules::Policy;
use crate::model::{HostName, Target, Upstream};

/// What a node is to a repository, and what the others are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    pub mode: Mode,
    pub master: Option<String>,
    pub copies: BTreeMap<String, How>,
    /// Copies that may pass their users' pushes on to the master, sorted.
    pub redirectors: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    Master,
    Copy {
        master: HostName,
    },
    /// Named as a copy, but no (valid) master is named: it can be read and nobody can write to it.
    Orphan,
    /// Not mirrored.
    Local,
    /// Mirrored among other nodes; every access here is refused.
    NotHere,
    /// Master by name, but what is on this disk may be old, so it does not act as one: it can be read. The text says
    /// why.
    Doubted(String),
}

/// How a copy is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// In the background after the push.
    Async,
    /// Before the push ends.
    Sync,
    /// By hand, with a notice on each push.
    NoSync,
    /// By hand, without the notice.
    NoSyncQuiet,
}

/// What a line about a server that is no node says wrong, if it does: the option's name without `mirror.`, its value.
pub(super) fn foreign_problem(name: &str, value: &str) -> Option<String> {
    match name {
        _ if !is_set(value) => None,
        "upstream" => Upstream::parse(value).err(),
        _ if is_external(name) => Target::parse(value).err(),
        _ => None,
    }
}

/// Whether the option, without `mirror.`, is about a server that is no node.
pub(super) fn is_foreign(name: &str) -> bool {
    name == "upstream" || is_external(name)
}

/// `external`, and `external-1` for a second line.
fn is_external(name: &str) -> bool {
    name.strip_prefix("external").is_some_and(|more| more.is_empty() || more.starts_with('-'))
}

/// What the names of the options begin with, beside `master`.
const KNOWN: [&str; 3] = ["slaves", "copies", "redirectOK"];

/// Whether this stored key is one of the two config spellings, which need no permission from the settings.
pub(super) fn is_alias(key: &str) -> bool {
    let name = key.strip_prefix("gitolite.mirror.").or_else(|| key.strip_prefix("gitmesh.mirror."));
    let known = |n: &str| n == "master" || KNOWN.iter().any(|p| n.starts_with(p));
    key.starts_with("gitolite.mirror.") || name.is_some_and(known)
}

/// The option's name that a stored key stands for, without `mirror.`, and the value in that spelling's words.
fn option_name<'v>(key: &str, value: &'v str) -> Option<(String, &'v str)> {
    if let Some(name) = key.strip_prefix(OPTION_PREFIX) {
        return name.strip_prefix("mirror.").map(|n| (n.to_owned(), value));
    }
    let name = key.strip_prefix("gitolite.mirror.").or_else(|| key.strip_prefix("gitmesh.mirror."))?;
    if key.starts_with("gitolite.mirror.") && name != "master" && !KNOWN.iter().any(|known| name.starts_with(known)) {
        return Some((format!("list {name}"), value));
    }
    let name = name.strip_prefix("slaves").map_or_else(|| name.to_owned(), |more| format!("copies{more}"));
    let value = match (name.as_str(), value) {
        ("master", "local") => "",
        (n, "true") if n.starts_with("redirectOK") => "all",
        _ => value,
    };
    Some((name, value))
}

impl Mirror {
    /// As it is, as `host` sees it, once `to` is the master: it and the master that the configuration names have
    /// changed places, with how a copy is kept and whether it may redirect.
    #[must_use]
    pub fn promoted(mut self, to: &HostName, host: &HostName) -> Self {
        let Some(from) = self.master.replace(to.as_str().to_owned()).filter(|from| from != to.as_str()) else {
            return self;
        };
        let how = self.copies.remove(to.as_str()).unwrap_or(How::Async);
        for name in &mut self.redirectors {
            if *name == to.as_str() {
                name.clone_from(&from);
            }
        }
        self.redirectors.sort();
        self.copies.insert(from, how);
        self.mode = if to == host {
            Mode::Master
        } else if self.copies.contains_key(host.as_str()) {
            Mode::Copy { master: to.clone() }
        } else {
            Mode::NotHere
        };
        self
    }
}

impl Policy {
    /// The mirroring of a repository as the node `host` sees it.
    pub fn mirror(&self, facts: &Facts<'_>, host: &HostName) -> Mirror {
        let options = self.mirror_options(facts);
        let under = |prefix: &'static str| options.iter().filter(move |(name, _)| name.starts_with(prefix));
        let master = options.get("master").cloned();
        let mut copies = BTreeMap::new();
        for (prefix, how) in [
            ("copies", How::Async),
            ("copies.sync", How::Sync),
            ("copies.nosync", How::NoSync),
            ("copies.nosync-quiet", How::NoSyncQuiet),
        ] {
            let words = under(prefix).flat_map(|(_, value)| value.split_whitespace());
            copies.extend(words.map(|word| (word.to_owned(), how)));
        }
        // gitolite 2's lists of other names are for orders alone. They may also name keys and foreign targets.
        for (_, value) in under("list ") {
            for word in value.split_whitespace().filter(|w| HostName::new(w).is_ok() && !w.starts_with("gitolite.")) {
                copies.entry(word.to_owned()).or_insert(How::NoSyncQuiet);
            }
        }
        let words = under("redirectOK").flat_map(|(_, value)| value.split_whitespace());
        let mut redirectors: BTreeSet<String> = words.map(str::to_owned).collect();
        if redirectors.len() == 1 && redirectors.contains("all") {
            redirectors = copies.keys().cloned().collect();
        }
        let redirectors = redirectors.into_iter().collect();
        let mode = if master.as_deref() == Some(host.as_str()) {
            Mode::Master
        } else if copies.contains_key(host.as_str()) {
            let master = master.as_deref().and_then(|name| HostName::new(name).ok());
            master.map_or(Mode::Orphan, |master| Mode::Copy { master })
        } else if master.is_none() && copies.is_empty() {
            Mode::Local
        } else {
            Mode::NotHere
        };
        Mirror { mode, master, copies, redirectors }
    }

    /// The words of gitolite 2's list with this key, `gitolite.mirror.NAME` or NAME alone, and of the lists that it names
    /// in turn; `None` if there is no such list.
    pub fn mirror_list(&self, facts: &Facts<'_>, key: &str) -> Option<Vec<String>> {
        let options = self.mirror_options(facts);
        let list = |key: &str| {
            let name = option_name(key, "").map_or_else(|| format!("list {key}"), |(name, _)| name);
            options.get(&name)
        };
        let (mut names, mut seen, mut todo) = (Vec::new(), BTreeSet::new(), vec![key]);
        list(key)?;
        while let Some(word) = todo.pop() {
            match list(word) {
                // One that names itself is read once.
                Some(value) if seen.insert(word) => todo.extend(value.split_whitespace().rev()),
                Some(_) => {}
                None => names.push(word.to_owned()),
            }
        }
        Some(names)
    }

    /// The options `mirror.*` that are set, by their names without that, in the words of today's spelling.
    fn mirror_options(&self, facts: &Facts<'_>) -> BTreeMap<String, String> {
        let repo = self.repo_names(facts.name, facts.creator);
        let mut options = BTreeMap::new();
        for id in self.config_ids(&repo) {
            let entry = &self.configs[id as usize];
            let alias = !entry.key.starts_with(OPTION_PREFIX);
            if alias && !self.mirror_aliases {
                continue;
            }
            if let Some((name, value)) = option_name(&entry.key, &entry.value) {
                options.insert(name, value.replace("%GL_REPO", facts.name));
            }
        }
        options.retain(|_, value| is_set(value));
        options
    }

    /// Whether any repository has such servers as [`Policy::foreign`] tells.
    pub fn names_foreign(&self) -> bool {
        self.features.contains_key("mirror-foreign")
    }

    /// The servers outside the mesh to which a repository's master pushes it, and the one that it follows. Of several
    /// lines with one name the last option counts; what cannot be read was refused when it was pushed.
    pub fn foreign(&self, facts: &Facts<'_>) -> (Vec<Target>, Option<Upstream>) {
        let options = self.mirror_options(facts);
        let named = options.iter().filter(|(name, _)| is_external(name)).filter_map(|(_, v)| Target::parse(v).ok());
        let targets: BTreeMap<HostName, Target> = named.map(|target| (target.name.clone(), target)).collect();
        (targets.into_values().collect(), options.get("upstream").and_then(|value| Upstream::parse(value).ok()))
    }
}

//! `info`: who you are here, and what you may do. gitolite's shape, since scripts read it.

use super::{Control, Reply};
use crate::cluster::Place;
use crate::model::{Actor, HostName};

impl Control {
    /// The first line of `info` and `help`; a peer gets the proof that both sides know each other.
    pub(super) fn greeting(&self, actor: &Actor) -> String {
        let node = &self.node;
        match actor {
            Actor::Node(peer) => format!("Hello {peer}, I am {}\n", node.name),
            actor => format!(
                "hello {actor}, this is {}@{} running gitmesh {} on git {}\n",
                node.user,
                node.name,
                env!("CARGO_PKG_VERSION"),
                node.git_version
            ),
        }
    }

    /// Repositories with rights, one a line: the rights, a tab, the name; and for a copy a tab and whose copy it is.
    /// `pattern` is an unanchored regular expression on the name.
    pub(super) fn info(&self, actor: &Actor, pattern: Option<&str>) -> Reply {
        let pattern = match pattern.map(|p| regex::RegexBuilder::new(p).size_limit(1 << 20).build()).transpose() {
            Ok(pattern) => pattern,
            Err(error) => return Reply::fail(2, format!("FATAL: this is no pattern: {error}")),
        };
        let mut repos = match self.store.list() {
            Ok(repos) => repos,
            Err(error) => {
                tracing::error!(%error, "cannot list the repositories");
                return Reply::fail(1, "FATAL: the repositories cannot be listed; tell an administrator");
            }
        };
        repos.retain(|r| pattern.as_ref().is_none_or(|p| p.is_match(r.as_str())));
        let mut out = format!("{}\n", self.greeting(actor));
        for repo in repos {
            let place = self.cluster.locate(&repo);
            if let Actor::Node(peer) = actor {
                if let Some(role) = role_of(peer, &place) {
                    out.push_str(&format!(" {role}\t{repo}\n"));
                }
                continue;
            }
            let (read, write) = self.realm.rights(actor, &repo);
            if !read && !write {
                continue;
            }
            let note = match place {
                Place::There(master) => format!("\tcopy of {master}"),
                Place::Here { .. } => String::new(),
                Place::Elsewhere => "\tmirrored, but not here".to_owned(),
            };
            let (r, w) = (if read { 'R' } else { ' ' }, if write { 'W' } else { ' ' });
            out.push_str(&format!(" {r} {w}\t{repo}{note}\n"));
        }
        Reply::done(out)
    }
}

/// The part a peer has in a repository of ours.
fn role_of(peer: &HostName, place: &Place) -> Option<&'static str> {
    match place {
        Place::There(master) if master == peer => Some("master "),
        Place::Here { replicas, .. } if replicas.contains(peer) => Some("replica"),
        _ => None,
    }
}

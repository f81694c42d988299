//! Why this node does not serve an access itself, or takes no mirror push, whatever anybody's rights: what it is to the
//! repository by its configuration, and by the orders that stand above it.

use crate::model::{Actor, HostName, RepoName};
use crate::policy::grant::Access;
use crate::policy::{Facts, Mode};

use super::Denial;
use super::realm::Live;

pub(super) fn you(actor: &Actor) -> String {
    match actor {
        Actor::User { name, key, by: None } => format!("{name} ({key})"),
        Actor::User { name, key, by: Some(by) } => format!("{name} ({key}, certificate {by})"),
        Actor::Node(node) => format!("node {node}"),
        Actor::Local => "the machine itself".to_owned(),
    }
}

pub(super) fn refuse_here(
    live: &Live,
    facts: &Facts<'_>,
    actor: &Actor,
    repo: &RepoName,
    access: Access,
) -> Option<Denial> {
    let place = live.mirror(facts, repo);
    let (first, help, code) = match (&place.mode, access) {
        (Mode::Copy { master }, Access::Write) => {
            let url = live.address_of(master).url(repo.as_str());
            let help = format!("git remote set-url --push origin {url}");
            (format!("this is a copy; push to {master}: {url}"), help, Denial::COPY)
        }
        (Mode::Orphan, Access::Write) => (
            format!("FATAL: this is a copy of '{repo}', and no node is its master"),
            "name one by option mirror.master".to_owned(),
            Denial::COPY,
        ),
        (Mode::Doubted(why), Access::Write) => (
            format!("FATAL: {} takes no pushes to '{repo}': {why}", live.node),
            format!(
                "an administrator promotes a replica, 'gitmesh mirror promote --all-from {node}' there, or declares this \
                 disk good, 'gitmesh mirror promote --here --all' on {node}",
                node = live.node
            ),
            Denial::DOUBTED,
        ),
        (Mode::NotHere, _) => {
            let master = place.master.and_then(|master| HostName::new(&master).ok());
            let master = master.map(|master| live.address_of(&master).url(repo.as_str()));
            let help = master.map_or("no node is its master".to_owned(), |url| format!("its master is at {url}"));
            let first = format!("FATAL: {}: '{repo}' is mirrored but not here", live.node);
            (first, format!("{help}; copies are named by option mirror.copies"), Denial::NOT_HERE)
        }
        _ => return None,
    };
    Some(Denial { first, you: Some(you(actor)), rule: None, help, code })
}

pub(super) fn mirror_refusal(live: &Live, facts: &Facts<'_>, node: &HostName, repo: &RepoName) -> Option<Denial> {
    let here = &live.node;
    let (first, help) = match live.mirror(facts, repo).mode {
        Mode::Copy { master } if master == *node => return None,
        Mode::Copy { master } => (
            format!("FATAL: '{node}' is not the master of '{repo}'"),
            format!("the configuration of {here} names {master}; make both nodes' mirror.master agree"),
        ),
        Mode::Master => (
            format!("FATAL: '{repo}' is native to {here}"),
            format!(
                "{here} is its master by its configuration or by a promotion, of which {node} hears by itself; else make \
                 both nodes' mirror.master agree"
            ),
        ),
        Mode::Doubted(why) => (
            format!("FATAL: '{repo}' is native to {here}"),
            format!("{here} waits for a person: {why}; 'mirror promote' on a replica decides"),
        ),
        Mode::Orphan => (
            format!("FATAL: '{node}' is not the master of '{repo}'"),
            format!("the configuration of {here} names no master; give it option mirror.master = {node}"),
        ),
        Mode::Local => (
            format!("FATAL: '{repo}' is local to {here}"),
            format!("{here} mirrors it with nobody; give it option mirror.master = {node} and mirror.copies there too"),
        ),
        Mode::NotHere => (
            format!("FATAL: {here}: '{repo}' is mirrored but not here"),
            format!("name {here} in its option mirror.copies, in the configuration of {here} too"),
        ),
    };
    Some(Denial { first, you: Some(format!("node {node}")), rule: None, help, code: Denial::NOT_MASTER })
}

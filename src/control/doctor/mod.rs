//! `doctor`: every pair of nodes from everywhere to everywhere, clocks, versions, and each machine's own state.
//!
//! Each node is asked over its link what it sees of the others and of itself; what that means is decided by
//! `report`, which is pure. It changes nothing.

mod host;
mod report;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::peer::{Heard, PATIENCE, Unheard, fingerprint, greet, json, now_ms};
use super::{Control, Reply};
use crate::model::{Actor, HostName};
pub use report::Moment;
use report::{Asked, Report};

/// A node asks all its peers at once, and looks at its own disk meanwhile.
const LOOK: Duration = Duration::from_secs(PATIENCE.as_secs() * 2);
/// The exec line by which a node is asked for its view; with ` of=NODE` it asks that one in turn.
const QUESTION: &str = "gitmesh-doctor version=1";
/// Nodes may stand in a row in which each sees only its neighbours; in a longer one something else is wrong.
const ROUNDS: usize = 16;
/// A view of a mesh of 50 nodes has some 20 kB.
const VIEW_MAX: usize = 1 << 20;

/// What one node sees: itself, and each of its peers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct View {
    pub version: u32,
    pub node: String,
    pub gitmesh: String,
    pub git: String,
    /// Its clock when it had looked, in milliseconds since 1970.
    pub now_ms: u64,
    /// How it says it is reached.
    pub address: String,
    pub key: String,
    pub sees: Vec<Sight>,
    pub troubles: Vec<Trouble>,
}

/// One node as another sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sight {
    pub peer: String,
    pub address: String,
    pub key: String,
    pub seen: Result<Heard, Unheard>,
}

/// Something that is wrong on a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    pub what: String,
    pub cure: String,
    /// Whether somebody must act; else it is good to know.
    pub grave: bool,
}

impl Control {
    pub(super) async fn doctor(&self, actor: &Actor, words: &[&str]) -> Reply {
        if !self.may_see_peers(actor) {
            return Reply::fail(5, "FATAL: the nodes are shown to administrators only");
        }
        let as_json = match *words {
            [] => false,
            ["--json"] => true,
            _ => return Reply::fail(2, "usage: doctor [--json]"),
        };
        let own = async { Asked { view: Ok(self.view().await), span: (now_ms(), now_ms()) } };
        let peers = self.realm.live().peers.keys().map(|peer| (peer.clone(), peer.clone())).collect();
        let (own, peers) = tokio::join!(own, self.ask_views(peers));
        let mut views: BTreeMap<HostName, Asked> = peers;
        views.insert(self.node.name.clone(), own);
        // Whom this node cannot ask, another one may: until nobody is left whom somebody sees.
        for _ in 0..ROUNDS {
            let missing = report::missing(&views);
            if missing.is_empty() {
                break;
            }
            let more = self.ask_views(missing).await;
            if more.values().all(|asked| asked.view.is_err()) {
                break;
            }
            views.extend(more.into_iter().filter(|(_, asked)| asked.view.is_ok()));
        }
        let report = Report::of(&self.node.name, views);
        let mut reply = if as_json { json(&report) } else { Reply::done(report.to_string()) };
        reply.code = i32::from(report.is_grave());
        reply
    }

    /// Asks nodes for their views, each through the peer that is named with it, which may be the node itself.
    async fn ask_views(&self, whom: BTreeMap<HostName, HostName>) -> BTreeMap<HostName, Asked> {
        let mut asking = JoinSet::new();
        for (node, through) in whom {
            let links = self.links.clone();
            asking.spawn(async move {
                let asked_ms = now_ms();
                let relayed = if node == through { String::new() } else { format!(" of={node}") };
                let said = links.ask(&through, &format!("{QUESTION}{relayed}"), VIEW_MAX, LOOK * 2).await;
                let asked = match said {
                    Err(error) => Err(error.to_string()),
                    Ok(said) => match serde_json::from_str::<View>(&said.out) {
                        Ok(view) if view.node == node.as_str() => Ok(view),
                        Ok(view) => Err(format!("it calls itself '{}'", view.node)),
                        Err(_) => Err(format!("it has no view; is its gitmesh older? It said: {}", said.err.trim())),
                    },
                };
                let span = (asked_ms, now_ms());
                (node, Asked { view: asked, span })
            });
        }
        let mut views = BTreeMap::new();
        while let Some(asked) = asking.join_next().await {
            match asked {
                Ok((node, asked)) => drop(views.insert(node, asked)),
                Err(error) => tracing::error!(%error, "asking a node for its view panicked"),
            }
        }
        views
    }

    /// A peer wants to know what another one sees, whom it cannot ask itself.
    pub(super) async fn doctor_relay(&self, actor: &Actor, of: &str) -> Reply {
        if !matches!(actor, Actor::Node(_)) {
            return Reply::fail(5, "FATAL: this is asked by the nodes of the mesh only");
        }
        let Some(of) = host_name(of) else { return Reply::fail(2, "FATAL: that is no node's name") };
        match self.links.ask(&of, QUESTION, VIEW_MAX, LOOK).await {
            Ok(said) => Reply { out: said.out, err: said.err, code: said.exit.map_or(7, u32::cast_signed) },
            Err(error) => Reply::fail(7, format!("FATAL: {error}")),
        }
    }

    /// A peer wants to know what this node sees.
    pub(super) async fn doctor_view(&self, actor: &Actor, version: &str) -> Reply {
        if !matches!(actor, Actor::Node(_)) {
            return Reply::fail(5, "FATAL: this is asked by the nodes of the mesh only");
        }
        if version != "version=1" {
            return Reply::fail(2, format!("FATAL: {} gives its view in version 1, not '{version}'", self.node.name));
        }
        json(&self.view().await)
    }

    async fn view(&self) -> View {
        let live = self.realm.live();
        let mut asking = JoinSet::new();
        for peer in live.peers.values() {
            let (links, me, name) = (self.links.clone(), self.node.name.clone(), peer.name.clone());
            let (address, key) = (live.address_of(&name).to_string(), fingerprint(&peer.key));
            asking.spawn(async move {
                let seen = greet(&links, &me, &name).await;
                Sight { peer: name.to_string(), address, key, seen }
            });
        }
        let (me, reached) = (self.clone(), host::answers(&live.address).await);
        let looking = tokio::task::spawn_blocking(move || host::troubles(&me, &me.realm.live()));
        let mut sees = Vec::new();
        while let Some(sight) = asking.join_next().await {
            match sight {
                Ok(sight) => sees.push(sight),
                Err(error) => tracing::error!(%error, "greeting a node panicked"),
            }
        }
        sees.sort_by(|a, b| a.peer.cmp(&b.peer));
        let mut troubles = looking.await.unwrap_or_else(|error| {
            tracing::error!(%error, "looking at this machine panicked");
            Vec::new()
        });
        troubles.extend(reached);
        View {
            version: 1,
            node: self.node.name.to_string(),
            gitmesh: env!("CARGO_PKG_VERSION").to_owned(),
            git: self.node.git_version.clone(),
            now_ms: now_ms(),
            address: live.address.to_string(),
            key: self.node.key.to_string(),
            sees,
            troubles,
        }
    }
}

/// The name of a node in an answer of another one's, as far as it is one.
fn host_name(text: &str) -> Option<HostName> {
    HostName::new(text).ok()
}

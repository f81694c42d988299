//! `metrics`: what this node has counted, and how the copies stand, for Prometheus.

use std::collections::BTreeMap;
use std::time::Duration;

use super::status::Which;
use super::{Control, Reply, help};
use crate::model::Actor;
use crate::observe::metrics::{self, Exposition};

impl Control {
    /// `metrics [--summary]`, for administrators.
    pub(super) async fn metrics(&self, actor: &Actor, words: &[&str]) -> Reply {
        if let Err(reply) = self.administers(actor, "what this node has counted") {
            return reply;
        }
        match words {
            ["--summary"] => Reply::done(metrics::summary()),
            [] => {
                self.blocking(actor, |control, actor| match control.exposition(actor) {
                    Ok(out) => Reply::done(out.into_text()),
                    Err(reply) => reply,
                })
                .await
            }
            _ => help::wrong(&["metrics"]),
        }
    }

    fn exposition(&self, actor: &Actor) -> Result<Exposition, Reply> {
        let mut out = metrics::exposition();
        let about = self.mirror.about();
        out.announce("gitmesh_build_info", "gauge", "What runs here.");
        let labels = format!("version=\"{}\",git_version=\"{}\"", about.software, self.node.git_version);
        out.sample("gitmesh_build_info", &labels, 1);
        out.announce("gitmesh_config_generation", "gauge", "The configuration in force, by node.");
        out.sample("gitmesh_config_generation", &format!("node=\"{}\"", self.node.name), about.generation);
        out.announce("gitmesh_storage_free_bytes", "gauge", "Free space where the repositories are.");
        out.sample("gitmesh_storage_free_bytes", "", about.disk_free);

        let pulses = self.mirror.pulses();
        out.announce("gitmesh_peer_up", "gauge", "Whether a peer answered the last time it was asked.");
        for (peer, pulse) in &pulses {
            let up = pulse.failure.is_none() && pulse.answered.is_some();
            out.sample("gitmesh_peer_up", &format!("peer=\"{peer}\""), u8::from(up));
        }
        out.announce("gitmesh_peer_rtt_seconds", "gauge", "The last question to a peer and its answer.");
        for (peer, pulse) in &pulses {
            if let Some((_, rtt)) = pulse.answered {
                out.sample("gitmesh_peer_rtt_seconds", &format!("peer=\"{peer}\""), rtt.as_secs_f64());
            }
        }
        out.announce("gitmesh_mirror_lag_seconds", "gauge", "Age of the oldest push that a peer lacks; 0 in step.");
        for peer in self.mirror.peer_status() {
            let lag = peer.oldest_lag.unwrap_or(Duration::ZERO).as_secs_f64();
            out.sample("gitmesh_mirror_lag_seconds", &format!("peer=\"{}\"", peer.peer), lag);
        }
        let mut copies: BTreeMap<(String, &str), u64> = BTreeMap::new();
        for copy in self.copies(actor, &Which::All)?.into_iter().filter(|copy| copy.master == self.node.name.as_str()) {
            *copies.entry((copy.replica, copy.state)).or_default() += 1;
        }
        out.announce("gitmesh_mirror_repositories", "gauge", "Copies elsewhere of what is mastered here, by state.");
        for ((peer, state), count) in copies {
            let state = state.replace('-', "_");
            out.sample("gitmesh_mirror_repositories", &format!("peer=\"{peer}\",state=\"{state}\""), count);
        }
        Ok(out)
    }
}

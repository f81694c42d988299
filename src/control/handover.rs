//! `mirror move`: a master hands a repository over to one of its replicas, and nothing is lost.
//!
//! The copy is brought in step while pushes go on; then the gate is closed, the last of it is sent, and the replica
//! compares digests, writes the order down and is the master. On any failure before that the old master goes on. If its
//! answer is lost, the old master asks again; if it cannot, it raises the epoch once more, so that an order which is
//! carried out late is over before it counts.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::orders::{Words, wrong};
use super::{Control, Reply, forward, help, parse_repo};
use crate::admin::Denial;
use crate::cluster::{Place, Promotion, Table};
use crate::mirror::Order;
use crate::model::{Actor, Epoch, HostName, RepoName};

/// The exec line's first word by which a master asks a replica to be the master.
pub(super) const TAKE: &str = "gitmesh-mirror-take";
/// The exit status of a replica that cannot write the order down.
const CANNOT_WRITE: u32 = 70;
/// Before pushes are stopped, the copy may need as long as a first copy needs.
const PATIENCE: Duration = Duration::from_secs(600);
/// Pushes that have been judged end within milliseconds; one whose hooks take long is not waited for.
const QUIET: Duration = Duration::from_secs(5);
/// All that is done while pushes are refused has so long, the waiting for quiet included,
const REFUSED: Duration = Duration::from_secs(8);
/// and whether an order whose answer was lost was carried out is asked for so long.
const PROBE: Duration = Duration::from_secs(2);

impl Control {
    /// `move REPO --to NODE`
    pub(super) async fn hand_over(&self, actor: &Actor, words: &[&str]) -> Result<Reply, Reply> {
        self.administers(actor, "to move a repository to another master")?;
        let words = Words::parse(words, &["--to"]).map_err(|why| wrong("move", &why))?;
        let ([repo], Some(to)) = (&words.plain[..], words.to) else { return Err(help::wrong(&["mirror", "move"])) };
        let repo = parse_repo(repo)?;
        let place = self.cluster.locate(&repo);
        let Place::Here { replicas, .. } = &place else { return Err(self.not_master(&repo, &place)) };
        if !replicas.iter().any(|replica| replica.name == to) {
            let known = replicas.iter().map(|replica| replica.name.as_str()).collect::<Vec<_>>().join(" ");
            return Err(Reply::fail(4, format!("FATAL: {to} is no replica of '{repo}'; its replicas: {known}")));
        }
        let unchanged = |what: &str, why: &dyn std::fmt::Display| {
            let node = &self.node.name;
            Reply::fail(
                7,
                format!("FATAL: {what}, so {node} stays the master of '{repo}' and nothing has changed: {why}"),
            )
        };
        let push = |patience| self.mirror.push_with(&repo, &to, Order::Usual, patience);
        push(PATIENCE).await.map_err(|error| unchanged("the copy cannot be brought in step", &error))?;

        let Some(closed) = self.store.gates().close(&repo) else {
            return Err(Reply::fail(1, format!("FATAL: '{repo}' is being handed over already")));
        };
        let began = Instant::now();
        let left = || REFUSED.saturating_sub(began.elapsed());
        let unchanged = |what: &str, why: &dyn std::fmt::Display| {
            let mut reply = unchanged(what, why);
            reply.err.push_str(&format!("  pushes were refused for {} ms\n", began.elapsed().as_millis()));
            reply
        };
        if !closed.is_quiet_within(QUIET).await {
            return Err(unchanged("a push is still under way", &"try again when it has ended"));
        }
        push(left()).await.map_err(|error| unchanged("the last pushes cannot be brought there", &error))?;
        let (order, warnings) = self
            .ask_to_take(actor, &repo, &to, left())
            .await
            .map_err(|why| unchanged("it was not taken over", &why))?;
        let (masters, named) = (self.cluster.masters().clone(), repo.clone());
        let adopted = order.clone();
        let written = tokio::task::spawn_blocking(move || masters.adopt([(named, adopted)])).await;
        if let Err(error) = written.map_err(std::io::Error::other).and_then(|done| done) {
            tracing::error!(%error, %repo, "that it has a new master cannot be written here");
        }
        self.mirror.ordered(&[(repo.clone(), order.clone())]);
        drop(closed);
        let refused = began.elapsed().as_millis();
        let others: BTreeSet<HostName> = self.cluster.partners(&repo).into_iter().filter(|peer| *peer != to).collect();
        let mut text = format!(
            "{to} is the master of '{repo}' since now, epoch {}; pushes were refused for {refused} ms\n",
            order.epoch
        );
        text.push_str(&warnings);
        for (peer, told) in self.mirror.spread(others, PROBE).await {
            if let Err(error) = told {
                text.push_str(&format!("{peer} does not know yet, and hears of it when it is back: {error}\n"));
            }
        }
        Ok(Reply::done(text))
    }

    /// Has the replica take over, within `patience`, and returns what it says besides. The error says why this node is the
    /// master still.
    async fn ask_to_take(
        &self,
        actor: &Actor,
        repo: &RepoName,
        to: &HostName,
        patience: Duration,
    ) -> Result<(Promotion, String), String> {
        let (me, name) = (self.clone(), repo.clone());
        let digest = tokio::task::spawn_blocking(move || me.mirror.digest(&name)).await;
        let digest = digest.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let epoch = self.cluster.epoch(repo).next();
        let by = crate::git::service::to_word(&actor.to_string());
        let line = format!("{TAKE} '{repo}' version=1 epoch={epoch} digest={digest} by={by}");
        let asked = async {
            let pipe = self.links.run(to, &line).await.map_err(|error| error.to_string())?;
            Ok::<_, String>(forward::converse(pipe, tokio::io::empty()).await)
        };
        let why = match timeout(patience, asked).await {
            Ok(Ok((out, finished))) if finished.failure.is_none() && finished.exit == Some(0) => {
                match Table::parse(&out).ok().and_then(|table| table.get(repo).cloned()) {
                    Some(order) if order.master == *to && order.epoch == epoch => return Ok((order, finished.stderr)),
                    _ => format!("{to} answered something else than its order"),
                }
            }
            // It has looked, and has refused. One whose disk failed does not know itself what is on it.
            Ok(Ok((_, finished)))
                if finished.failure.is_none() && finished.exit.is_some_and(|code| code != CANNOT_WRITE) =>
            {
                return Err(finished.stderr.trim().to_owned());
            }
            Ok(Ok((_, finished))) => {
                let said = finished.stderr.trim();
                let said = if said.is_empty() { "it hung up" } else { said }.to_owned();
                finished.failure.map_or(said, |error| error.to_string())
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => format!("no answer within {} ms", patience.as_millis()),
        };
        // It may have been carried out, or may be yet.
        let heard = self.mirror.spread([to.clone()].into(), PROBE).await.remove(to);
        if let Some(order) = self.cluster.masters().of(repo).filter(|order| order.master == *to && order.epoch == epoch)
        {
            return Ok((order, String::new()));
        }
        let (cluster, named, by) = (self.cluster.clone(), repo.clone(), actor.to_string());
        let raised = tokio::task::spawn_blocking(move || cluster.promote_from(&[named], epoch, &by)).await;
        match raised.map_err(std::io::Error::other).and_then(|done| done) {
            Ok(orders) => self.mirror.ordered(&orders),
            Err(error) => tracing::error!(%error, %repo, "an order that may come late cannot be ruled out"),
        }
        let heard = if matches!(heard, Some(Ok(()))) { "" } else { ", and could not be asked since" };
        Err(format!("{why}; {to} did not take it{heard}"))
    }

    /// A master hands a repository over to this replica, which has the same digest if nothing is missing.
    pub(super) async fn take(&self, actor: &Actor, words: &[&str]) -> Reply {
        let Actor::Node(from) = actor else {
            return Reply::fail(5, "FATAL: this is asked by the nodes of the mesh only");
        };
        let value = |key: &str| words.iter().skip(1).find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        let (Some("1"), Some(epoch), Some(digest)) =
            (value("version"), value("epoch").and_then(Epoch::parse), value("digest").map(str::to_owned))
        else {
            return Reply::fail(2, format!("FATAL: {} knows {TAKE} version=1 only", self.node.name));
        };
        let by = value("by").and_then(crate::git::service::from_word).unwrap_or_else(|| from.to_string());
        let repo = match words.first().map(|repo| parse_repo(repo)) {
            Some(Ok(repo)) => repo,
            Some(Err(reply)) => return reply,
            None => return Reply::fail(2, "FATAL: no repository is named"),
        };
        let from = from.clone();
        let taken = repo.clone();
        let order = move |c: &Self, _: &Actor| c.take_over(&from, &repo, epoch, &digest, &by).unwrap_or_else(|e| e);
        let mut reply = self.blocking(actor, order).await;
        if reply.code == 0 {
            reply.err = self.lacks(&[taken]).await;
        }
        reply
    }

    fn take_over(
        &self,
        from: &HostName,
        repo: &RepoName,
        epoch: Epoch,
        digest: &str,
        by: &str,
    ) -> Result<Reply, Reply> {
        self.realm.authorize_mirror(from, repo, None).map_err(|denial| Reply::fail(5, denial.to_string()))?;
        let known = self.cluster.epoch(repo);
        if epoch <= known {
            let (here, code) = (&self.node.name, Denial::PAST);
            return Err(Reply::fail(5, format!("FATAL: {here} knows epoch {known} of '{repo}' already [{code}]")));
        }
        let here = self.copy_digest(repo).map_err(|error| {
            Reply::fail(1, format!("FATAL: the references on {} cannot be read: {error}", self.node.name))
        })?;
        if here.as_deref() != Some(digest) {
            return Err(Reply::fail(1, format!("FATAL: the copy on {} is not equal", self.node.name)));
        }
        let orders = self.cluster.promote_to(std::slice::from_ref(repo), epoch, by).map_err(|error| {
            tracing::error!(%error, %repo, "a hand-over cannot be written");
            let text = format!("FATAL: the order cannot be written on {}: {error}", self.node.name);
            Reply::fail(CANNOT_WRITE.cast_signed(), text)
        })?;
        self.mirror.ordered(&orders);
        let mut table = Table::default();
        table.merge(orders);
        Ok(Reply::done(table.text()))
    }
}

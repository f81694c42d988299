//! `mirror promote`: a person makes this node the master of what another mastered, and knows what it costs.
//!
//! First everybody who can be reached is asked what they know, so that no order is given on old news; what this node
//! knows of the old master, of its own copies and of the other replicas' is told; then, when the person says so, all
//! orders are written down at once, and from then on pushes are taken. The other nodes are told in the same moment.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::orders::{Words, wrong};
use super::{Control, Reply, parse_repo};
use crate::cluster::Place;
use crate::mirror::Freshness;
use crate::model::time::in_words;
use crate::model::{Actor, HostName, RepoName};

/// The exec line's first word by which a replica is asked how far it is: a line a repository comes in, and goes out with
/// columns.
pub(super) const STANDING: &str = "gitmesh-mirror-standing";
/// A node that lives answers within this time; the order is not to wait for long for the dead.
const PATIENCE: Duration = Duration::from_secs(2);
/// A replica that is asked how far it is asks its master for so long whether it lives.
const PROBE: Duration = Duration::from_secs(1);
/// In the fourth column of its answer: it does.
const REACHED: &str = "reached";
/// Told to whoever has not said --yes.
pub const UNCONFIRMED: u8 = 3;
/// Repositories that are told of one by one; of more, those that lack something or may lack something come first.
const NAMED: usize = 20;
const LIST_MAX: u64 = 16 << 20;
/// A copy whose master confirmed it later than ours by more than this is further, if it differs.
const LATER: Duration = Duration::from_secs(1);

/// What is known of one repository that is to change hands.
struct Finding {
    repo: RepoName,
    master: HostName,
    fresh: Freshness,
    /// The other replicas that differ from this one, and whether they are known to be further.
    others: Vec<(HostName, bool)>,
    /// Other replicas that reach the master.
    reached_by: Vec<HostName>,
}

/// How far another replica is.
struct Standing {
    digest: String,
    /// How long ago it was in step, if that is known.
    confirmed: Option<Duration>,
    /// Its master has answered it just now.
    reaches: bool,
}

impl Finding {
    /// When this copy last was in step, if that is known.
    fn confirmed(fresh: &Freshness) -> Option<Duration> {
        match fresh {
            Freshness::InStep { confirmed } => Some(*confirmed),
            Freshness::Behind { lag, .. } => Some(*lag),
            Freshness::Unconfirmed { confirmed, .. } => *confirmed,
        }
    }

    fn told(&self) -> String {
        let Self { repo, master, fresh, others, .. } = self;
        let mut line = format!("{repo}\tmastered by {master}\there {fresh}");
        for (name, further) in others {
            let what = if *further { "IS FURTHER" } else { "differs, and nobody knows which is further" };
            write!(line, "\t{name} {what}").expect("a string takes all");
        }
        line + "\n"
    }
}

impl Control {
    /// `promote REPO...|--all-from NODE [--yes] [--force]`, and `promote --here REPO...|--all`.
    pub(super) async fn promote(&self, actor: &Actor, words: &[&str]) -> Result<Reply, Reply> {
        self.administers(actor, "to promote a replica")?;
        let may = ["--all-from", "--yes", "--force", "--here", "--all"];
        let words = Words::parse(words, &may).map_err(|why| wrong("promote", &why))?;
        // Whoever was promoted while this node slept is known before anything is decided.
        let peers: BTreeSet<HostName> = self.links.peers().borrow().keys().cloned().collect();
        let met = self.mirror.spread(peers, PATIENCE).await;
        if words.here {
            return self.promote_here(actor, &words).await;
        }
        let repos = match (&words.plain[..], &words.from, words.all) {
            ([], Some(from), false) => self.copies_from(from)?,
            ([_, ..], None, false) => words.plain.iter().map(|name| parse_repo(name)).collect::<Result<_, _>>()?,
            _ => return Err(wrong("promote", "name repositories, or --all-from NODE")),
        };
        if repos.is_empty() {
            return Err(Reply::fail(4, "FATAL: this node holds no copy that is meant by this"));
        }
        let alive: BTreeSet<HostName> =
            met.into_iter().filter(|(_, told)| told.is_ok()).map(|(peer, _)| peer).collect();
        let findings = self.findings(repos, &alive).await?;
        let text = self.told_before(&findings, &alive);
        let masters: BTreeSet<&HostName> = findings.iter().map(|finding| &finding.master).collect();
        let mut objections = Vec::new();
        let waits = |node: &HostName| self.cluster.masters().is_waiting(node);
        if let Some(master) = masters.iter().find(|master| alive.contains(**master) && !waits(master)) {
            objections.push(format!(
                "{master} is alive; 'mirror move REPO --to {}' on it loses nothing and needs no promotion",
                self.node.name
            ));
        }
        let reached = |finding: &Finding| {
            let by =
                finding.reached_by.first().filter(|_| !alive.contains(&finding.master) && !waits(&finding.master))?;
            Some((by.clone(), finding.master.clone()))
        };
        if let Some((by, master)) = findings.iter().find_map(reached) {
            let node = &self.node.name;
            objections
                .push(format!("{by} reaches {master}, so it is alive and takes pushes; {node} is cut off from it"));
        }
        if let Some(name) = findings.iter().flat_map(|f| &f.others).find_map(|(name, further)| further.then_some(name))
        {
            objections.push(format!("{name} is further than this node; promote it there"));
        }
        if !objections.is_empty() && !words.force {
            let help = "--force does it all the same";
            return Err(Reply { out: text, err: format!("FATAL: {}\nhelp: {help}\n", objections.join("; ")), code: 1 });
        }
        if !words.yes {
            let err = "nothing has changed yet; the same with --yes promotes this node\n".to_owned();
            return Err(Reply { out: text, err, code: UNCONFIRMED.into() });
        }
        let repos: Vec<RepoName> = findings.into_iter().map(|finding| finding.repo).collect();
        let done = self.carry_through(actor, &repos).await?;
        Ok(Reply::done(text + &done))
    }

    /// `promote --here REPO...|--all`: what is on this doubted disk is good.
    async fn promote_here(&self, actor: &Actor, words: &Words<'_>) -> Result<Reply, Reply> {
        let Some(why) = self.cluster.masters().doubt() else {
            return Err(Reply::fail(4, "FATAL: nobody doubts this node's disk; there is nothing to decide"));
        };
        let doubted = match (&words.plain[..], words.all) {
            ([], true) => self.list()?.into_iter().filter(|repo| self.cluster.is_doubted(repo)).collect(),
            ([_, ..], false) => {
                let named: Vec<RepoName> = words.plain.iter().map(|name| parse_repo(name)).collect::<Result<_, _>>()?;
                if let Some(other) = named.iter().find(|repo| !self.cluster.is_doubted(repo)) {
                    return Err(Reply::fail(4, format!("FATAL: '{other}' does not wait for a decision here")));
                }
                named
            }
            _ => return Err(wrong("promote", "--here takes repositories, or --all")),
        };
        let node = &self.node.name;
        let mut text = format!("{why}\n");
        let named = doubted.iter().take(NAMED).map(|repo| format!("{repo}\twhat {node} has becomes what counts\n"));
        text.extend(named);
        if doubted.len() > NAMED {
            writeln!(text, "... and {} more", doubted.len() - NAMED).expect("a string takes all");
        }
        if !words.yes {
            let err = "nothing has changed yet; the same with --yes makes this node the master again. What replicas have \
                       besides is kept there, and here, under refs/gitmesh/lost/\n";
            return Err(Reply { out: text, err: err.to_owned(), code: UNCONFIRMED.into() });
        }
        if !doubted.is_empty() {
            text += &self.carry_through(actor, &doubted).await?;
        }
        if words.all {
            let masters = self.cluster.masters().clone();
            let trusted = tokio::task::spawn_blocking(move || masters.trust()).await;
            if let Err(error) = trusted.map_err(std::io::Error::other).and_then(|done| done) {
                tracing::error!(%error, "the decision about this disk cannot be written");
                return Err(Reply::fail(70, "FATAL: the decision cannot be written down; tell the operator"));
            }
            text += "this disk is trusted again\n";
        }
        Ok(Reply::done(text))
    }

    /// Writes all orders down at once, tells the others, and says who follows.
    async fn carry_through(&self, actor: &Actor, repos: &[RepoName]) -> Result<String, Reply> {
        let (cluster, by, ordered) = (self.cluster.clone(), actor.to_string(), repos.to_vec());
        let written = tokio::task::spawn_blocking(move || cluster.promote(&ordered, &by)).await;
        let orders = written.map_err(std::io::Error::other).and_then(|done| done).map_err(|error| {
            tracing::error!(%error, "a promotion cannot be written");
            Reply::fail(70, format!("FATAL: the order cannot be written down, so nothing has changed: {error}"))
        })?;
        self.mirror.ordered(&orders);
        let partners: BTreeSet<HostName> = repos.iter().flat_map(|repo| self.cluster.partners(repo)).collect();
        let mut text = match &orders[..] {
            [(repo, order)] => {
                format!("{} is the master of '{repo}' since now, epoch {}\n", self.node.name, order.epoch)
            }
            all => format!("{} is the master of {} repositories since now\n", self.node.name, all.len()),
        };
        text.push_str(&self.lacks(repos).await);
        for (peer, told) in self.mirror.spread(partners, PATIENCE).await {
            match told {
                Ok(()) => writeln!(text, "{peer} knows, and follows"),
                Err(error) => writeln!(text, "{peer} does not know yet, and hears of it when it is back: {error}"),
            }
            .expect("a string takes all");
        }
        Ok(text)
    }

    /// A line for each server outside the mesh that the master of these repositories needs, and cannot open from here.
    pub(super) async fn lacks(&self, repos: &[RepoName]) -> String {
        let (mirror, repos) = (self.mirror.clone(), repos.to_vec());
        let closed = tokio::task::spawn_blocking(move || mirror.closed_targets(&repos)).await.unwrap_or_default();
        let node = &self.node.name;
        closed.values().map(|why| format!("warning: on {node}, which pushes there now, {why}\n")).collect()
    }

    fn copies_from(&self, from: &HostName) -> Result<Vec<RepoName>, Reply> {
        let is_from =
            |repo: &RepoName| matches!(self.cluster.locate(repo), Place::There { master, .. } if master == *from);
        Ok(self.list()?.into_iter().filter(is_from).collect())
    }

    async fn findings(&self, repos: Vec<RepoName>, alive: &BTreeSet<HostName>) -> Result<Vec<Finding>, Reply> {
        let (me, living) = (self.clone(), alive.clone());
        let looked = tokio::task::spawn_blocking(move || me.look_at_copies(repos, &living)).await;
        let (findings, asked) = looked.map_err(|error| Reply::broken("the copies cannot be looked at", &error))??;
        let mut tasks = JoinSet::new();
        for (peer, repos) in asked {
            let me = self.clone();
            tasks.spawn(async move {
                let told = timeout(PATIENCE, me.ask_standing(&peer, &repos)).await.unwrap_or_default();
                (peer, told)
            });
        }
        let (me, told) = (self.clone(), tasks.join_all().await);
        let compared = tokio::task::spawn_blocking(move || me.compare(findings, &told)).await;
        compared.map_err(|error| Reply::broken("the copies cannot be compared", &error))
    }

    /// What is here of each, and whom to ask about which. Blocks.
    #[expect(clippy::type_complexity, reason = "two lists that are made in one go")]
    fn look_at_copies(
        &self,
        repos: Vec<RepoName>,
        alive: &BTreeSet<HostName>,
    ) -> Result<(Vec<Finding>, BTreeMap<HostName, Vec<RepoName>>), Reply> {
        let mut findings = Vec::new();
        let mut asked: BTreeMap<HostName, Vec<RepoName>> = BTreeMap::new();
        for repo in repos {
            let place = self.cluster.locate(&repo);
            let Place::There { master, .. } = place else {
                let text = match place {
                    Place::Here { .. } => format!("{} is the master of '{repo}' already", self.node.name),
                    _ => format!("{} holds no copy of '{repo}' to promote", self.node.name),
                };
                return Err(Reply::fail(4, format!("FATAL: {text}")));
            };
            if !self.store.exists(&repo) {
                return Err(Reply::fail(4, format!("FATAL: there is no copy of '{repo}' on this node yet")));
            }
            for other in
                self.cluster.partners(&repo).into_iter().filter(|other| *other != master && alive.contains(other))
            {
                asked.entry(other).or_default().push(repo.clone());
            }
            let fresh = self.mirror.freshness(&repo, &master);
            findings.push(Finding { repo, master, fresh, others: Vec::new(), reached_by: Vec::new() });
        }
        Ok((findings, asked))
    }

    /// What others have told beside what is here. Blocks.
    fn compare(&self, mut findings: Vec<Finding>, told: &[(HostName, BTreeMap<RepoName, Standing>)]) -> Vec<Finding> {
        for (peer, told) in told {
            for finding in &mut findings {
                let Some(Standing { digest, confirmed, reaches }) = told.get(&finding.repo) else { continue };
                if *reaches {
                    finding.reached_by.push(peer.clone());
                }
                if self.store.digest(&finding.repo).is_ok_and(|ours| ours == *digest) {
                    continue;
                }
                let ours = Finding::confirmed(&finding.fresh);
                let further = match (confirmed, ours) {
                    (Some(theirs), Some(ours)) => *theirs + LATER < ours,
                    (Some(_), None) => true,
                    (None, _) => false,
                };
                finding.others.push((peer.clone(), further));
            }
        }
        findings
    }

    fn told_before(&self, findings: &[Finding], alive: &BTreeSet<HostName>) -> String {
        let mut text = String::new();
        let pulses = self.mirror.pulses();
        for master in findings.iter().map(|finding| &finding.master).collect::<BTreeSet<_>>() {
            let heard = pulses.get(master).and_then(|pulse| pulse.heard.max(pulse.answered.map(|(at, _)| at)));
            let heard = heard.and_then(|at| at.elapsed().ok()).map(in_words);
            let line = match (alive.contains(master), heard) {
                (true, _) if self.cluster.masters().is_waiting(master) => {
                    format!("{master} answers, and waits for a decision: its disk may be older than its replicas")
                }
                (true, _) => format!("{master} answers"),
                (false, Some(ago)) => format!("{master} does not answer; it was last heard {ago} ago"),
                (false, None) => format!("{master} does not answer, and was not heard since this node started"),
            };
            writeln!(text, "{line}").expect("a string takes all");
        }
        // What is told first is what costs most.
        let cost = |finding: &Finding| match &finding.fresh {
            _ if finding.others.iter().any(|(_, further)| *further) => 0,
            Freshness::Behind { .. } => 1,
            Freshness::Unconfirmed { .. } => 2,
            Freshness::InStep { .. } => 3,
        };
        let mut sorted: Vec<&Finding> = findings.iter().collect();
        sorted.sort_by_key(|finding| (cost(finding), finding.repo.clone()));
        sorted.iter().take(NAMED).for_each(|finding| text.push_str(&finding.told()));
        if sorted.len() > NAMED {
            let rest = &sorted[NAMED..];
            let sure = rest.iter().filter(|finding| cost(finding) == 3).count();
            writeln!(text, "... and {} more, {sure} of them in step", rest.len()).expect("a string takes all");
        }
        let masters: BTreeSet<&str> = findings.iter().map(|finding| finding.master.as_str()).collect();
        let masters = masters.into_iter().collect::<Vec<_>>().join(" and ");
        writeln!(
            text,
            "What {masters} took after that and did not send here is not here; when {masters} is back it is kept, there \
             and here, under refs/gitmesh/lost/."
        )
        .expect("a string takes all");
        text
    }

    /// How far another replica is, by repository. Nothing of what it does not tell.
    async fn ask_standing(&self, peer: &HostName, repos: &[RepoName]) -> BTreeMap<RepoName, Standing> {
        let Ok(mut pipe) = self.links.run(peer, &format!("{STANDING} version=1")).await else { return BTreeMap::new() };
        let list: String = repos.iter().map(|repo| format!("{repo}\n")).collect();
        let (reader, writer) = (&mut pipe.reader, &mut pipe.writer);
        let mut answer = String::new();
        let telling = async {
            writer.write_all(list.as_bytes()).await?;
            writer.shutdown().await
        };
        let mut limited = reader.take(LIST_MAX);
        let (told, heard) = tokio::join!(telling, limited.read_to_string(&mut answer));
        if let Err(error) = told.and(heard) {
            tracing::debug!(%peer, %error, "it could not be asked how far its copies are");
        }
        let line = |line: &str| {
            let mut columns = line.split('\t');
            let (repo, digest) = (RepoName::new(columns.next()?).ok()?, columns.next()?.to_owned());
            let confirmed = columns.next()?.parse().ok().map(Duration::from_millis);
            Some((repo, Standing { digest, confirmed, reaches: columns.next() == Some(REACHED) }))
        };
        answer.lines().filter_map(line).collect()
    }

    /// A peer that may be promoted asks how far our copies are.
    pub(super) async fn standing(&self, actor: &Actor, version: &str, input: impl AsyncRead + Unpin + Send) -> Reply {
        let Actor::Node(peer) = actor else {
            return Reply::fail(5, "FATAL: this is asked by the nodes of the mesh only");
        };
        if version != "version=1" {
            return Reply::fail(2, format!("FATAL: {} knows {STANDING} version=1 only", self.node.name));
        }
        let mut list = String::new();
        match timeout(PATIENCE, input.take(LIST_MAX).read_to_string(&mut list)).await {
            Ok(Ok(_)) => {}
            _ => return Reply::fail(8, "FATAL: the list did not end"),
        }
        let peer = peer.clone();
        let repos = || list.lines().filter_map(|name| RepoName::new(name).ok());
        let masters = repos().filter_map(|repo| match self.cluster.locate(&repo) {
            Place::There { master, .. } if master != peer => Some(master),
            _ => None,
        });
        let reached = self.mirror.spread(masters.collect(), PROBE).await;
        let answer = move |c: &Self, _: &Actor| {
            let mut out = String::new();
            for repo in list.lines().filter_map(|name| RepoName::new(name).ok()) {
                let Place::There { master, .. } = c.cluster.locate(&repo) else { continue };
                // Who has no part in it learns nothing of it.
                if !c.cluster.partners(&repo).contains(&peer) {
                    continue;
                }
                let Ok(digest) = c.store.digest(&repo) else { continue };
                let confirmed = Finding::confirmed(&c.mirror.freshness(&repo, &master));
                let confirmed = confirmed.map_or_else(|| "-".to_owned(), |ago| ago.as_millis().to_string());
                let reached = if matches!(reached.get(&master), Some(Ok(()))) { REACHED } else { "-" };
                writeln!(out, "{repo}\t{digest}\t{confirmed}\t{reached}").expect("a string takes all");
            }
            Reply::done(out)
        };
        self.blocking(actor, answer).await
    }
}

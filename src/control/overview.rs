//! `status`: one screen about the mesh as this node sees it; `events`: what changes, as it happens.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

use super::lost::{self, Kept};
use super::status::{Copy, Which, lines};
use super::upkeep::Damaged;
use super::watch::Form;
use super::{Control, Live, Reply, help};
use crate::mirror::{About, Event, Events, FirstCopy, LinkState, Pulse};
use crate::model::Actor;
use crate::model::time::{in_words, rfc3339};
use crate::observe::metrics;

/// Copies that need attention and are named; the rest is counted.
const NAMED: usize = 20;
/// Peers are asked how they are before the screen is drawn; who takes longer is shown as it was.
const LOOK: Duration = Duration::from_secs(1);
/// Copies of one peer with one trouble that are named in its line.
const IN_A_LINE: usize = 3;
/// A stream without news says so now and then, or its connection counts as idle.
const TICK: Duration = Duration::from_secs(60);
/// A user's stream ends by itself after this time.
const LIFE: Duration = Duration::from_secs(3600);

/// Everything that the screen shows.
struct Overview {
    about: About,
    nodes: Vec<(String, Pulse, Option<crate::mirror::PeerStatus>)>,
    ill: Vec<Copy>,
    copies: usize,
    held: usize,
    damaged: Vec<Damaged>,
    lost: Vec<Kept>,
    /// Why this node takes no pushes to what it masters.
    doubt: Option<Arc<str>>,
}

impl Control {
    /// `status [--json] [--watch]`, for administrators.
    pub(super) async fn overview(&self, actor: &Actor, words: &[&str], live: &Live) -> Reply {
        if let Err(reply) = self.administers(actor, "the state of the mesh") {
            return reply;
        }
        let mut words = words.to_vec();
        let form = Form::take(&mut words);
        if !words.is_empty() {
            return help::wrong(&["status"]);
        }
        if !form.watch {
            self.mirror.look(LOOK).await;
            return self
                .blocking(actor, move |control, actor| match control.look_over(actor) {
                    Ok(seen) => control.drawn(&seen, form),
                    Err(reply) => reply,
                })
                .await;
        }
        let before: Arc<Mutex<String>> = Arc::default();
        self.watch(actor, live, form, || {
            let (me, actor, before) = (self.clone(), actor.clone(), before.clone());
            async move {
                me.mirror.look(LOOK).await;
                let look =
                    move || me.seen_anew(&actor, form, &mut before.lock().unwrap_or_else(PoisonError::into_inner));
                tokio::task::spawn_blocking(look).await.ok().flatten()
            }
        })
        .await
    }

    /// The screen, if it is drawn anew each time or something in it has changed.
    fn seen_anew(&self, actor: &Actor, form: Form, before: &mut String) -> Option<String> {
        let drawn = self.look_over(actor).map(|seen| {
            let key: Vec<String> = seen.ill.iter().map(|c| format!("{} {} {}", c.repo, c.replica, c.state)).collect();
            let links: Vec<String> =
                seen.nodes.iter().map(|(name, pulse, _)| format!("{name} {}", pulse.failure.is_some())).collect();
            let damaged: Vec<&str> = seen.damaged.iter().map(|one| one.repo.as_str()).collect();
            (
                format!("{key:?} {links:?} {damaged:?} {:?} {} {}", seen.doubt, seen.lost.len(), seen.about.generation),
                self.drawn(&seen, form).out,
            )
        });
        match drawn {
            Ok((key, text)) if form.redraw || key != *before => {
                *before = key;
                Some(text)
            }
            _ => None,
        }
    }

    fn look_over(&self, actor: &Actor) -> Result<Overview, Reply> {
        let copies = self.copies(actor, &Which::All)?;
        let held = copies.iter().filter(|copy| matches!(copy.state, "paused" | "pending")).count();
        let peers = self.mirror.peer_status();
        let nodes = self.mirror.pulses().into_iter().map(|(name, pulse)| {
            let known = peers.iter().find(|peer| peer.peer == name).cloned();
            (name.to_string(), pulse, known)
        });
        let (nodes, count) = (nodes.collect(), copies.len());
        let mut ill: Vec<Copy> = copies.into_iter().filter(|copy| copy.state != "in-step").collect();
        ill.sort_by_key(Copy::urgency);
        let (damaged, lost) = (self.damaged(&|_| true), self.lost_here(&|_| true)?);
        let doubt = self.cluster.masters().doubt();
        Ok(Overview { about: self.mirror.about(), nodes, ill, copies: count, held, damaged, lost, doubt })
    }

    fn drawn(&self, seen: &Overview, form: Form) -> Reply {
        let elsewhere = |pulse: &Pulse| pulse.about.as_ref().map_or(0, |about| about.damaged);
        let well = seen.doubt.is_none()
            && seen.damaged.is_empty()
            && seen.lost.is_empty()
            && seen.ill.iter().all(Copy::is_well)
            && seen.nodes.iter().all(|(_, pulse, _)| pulse.failure.is_none() && elsewhere(pulse) == 0);
        let out = if form.json { self.overview_json(seen) } else { self.overview_text(seen) };
        Reply { out, err: String::new(), code: i32::from(!well) }
    }

    fn overview_json(&self, seen: &Overview) -> String {
        let node = |(name, pulse, known): &(String, Pulse, Option<crate::mirror::PeerStatus>)| {
            let about = pulse.about.clone().unwrap_or_default();
            json!({
                "node": name, "up": pulse.failure.is_none() && pulse.answered.is_some(),
                "rtt_seconds": pulse.answered.map(|(_, rtt)| rtt.as_secs_f64()),
                "answered": pulse.answered.map(|(at, _)| rfc3339(at)), "heard": pulse.heard.map(rfc3339),
                "error": pulse.failure.as_ref().map(|(_, why)| why), "generation": about.generation,
                "software": about.software, "disk_free": about.disk_free, "disk_total": about.disk_total,
                "damaged": about.damaged, "copies": known.as_ref().map(|k| k.copies), "behind": known.as_ref().map(|k| k.behind),
                "lag_seconds": known.as_ref().and_then(|k| k.oldest_lag).map(|lag| lag.as_secs()),
            })
        };
        let nodes: Vec<_> = seen.nodes.iter().map(node).collect();
        let About { generation, software, disk_free, disk_total, .. } = &seen.about;
        let document = json!({
            "schema": "gitmesh.status/1", "node": self.node.name.as_str(), "time": rfc3339(SystemTime::now()),
            "software": software, "generation": generation, "disk_free": disk_free, "disk_total": disk_total,
            "first_copies": self.mirror.first_copies().iter().map(FirstCopy::json).collect::<Vec<_>>(),
            "nodes": nodes, "copies": seen.copies, "attention": seen.ill, "damaged": seen.damaged, "lost": seen.lost,
            "doubt": seen.doubt.as_deref(),
        });
        document.to_string() + "\n"
    }

    fn overview_text(&self, seen: &Overview) -> String {
        let disk = |about: &About| match about.disk_total {
            0 => "-".to_owned(),
            total => format!("{} %", u128::from(about.disk_free) * 100 / u128::from(total)),
        };
        let About { generation, software, .. } = &seen.about;
        let (name, time) = (&self.node.name, rfc3339(SystemTime::now()));
        let mut out =
            format!("{name}  {time}  gitmesh {software}, generation {generation}, disk {} free\n", disk(&seen.about));
        let mut rows = vec![["NODE", "GENERATION", "BEHIND", "LAG", "FREE", "LINK"].map(str::to_owned)];
        let mut reasons = String::new();
        for (node, pulse, known) in &seen.nodes {
            let about = pulse.about.clone().unwrap_or_default();
            let ago = |at: SystemTime| in_words(at.elapsed().unwrap_or_default());
            let link = match (&pulse.failure, pulse.answered) {
                (Some((since, why)), _) => {
                    reasons.push_str(&format!("  {node}: {}\n", why.lines().next().unwrap_or_default()));
                    format!("DOWN for {}", ago(*since))
                }
                (None, Some((at, rtt))) => format!("up, {} ms, {} ago", rtt.as_millis(), ago(at)),
                (None, None) => "not tried yet".to_owned(),
            };
            if let Some(by) = known.as_ref().and_then(|k| k.paused_by.as_ref()) {
                reasons.push_str(&format!("  {node}: paused by {by}\n"));
            }
            let waiting =
                known.as_ref().filter(|k| matches!(k.link, LinkState::Down { .. }) && pulse.failure.is_none());
            let waiting = waiting.map(|_| ", mirroring waits");
            let lag = known.as_ref().and_then(|k| k.oldest_lag).map_or_else(|| "-".to_owned(), in_words);
            let behind = known.as_ref().map_or_else(|| "-".to_owned(), |k| format!("{} of {}", k.behind, k.copies));
            let damaged = match about.damaged {
                0 => String::new(),
                1 => ", 1 repository DAMAGED".to_owned(),
                n => format!(", {n} repositories DAMAGED"),
            };
            let link = format!("{link}{}{damaged}", waiting.unwrap_or_default());
            let generation = if pulse.about.is_some() { about.generation.to_string() } else { "-".to_owned() };
            rows.push([node.clone(), generation, behind, lag, disk(&about), link]);
        }
        if rows.len() > 1 {
            out.push('\n');
            out.push_str(&padded(&rows));
            out.push_str(&reasons);
        }
        let first = self.mirror.first_copies();
        if !first.is_empty() {
            out.push('\n');
        }
        for first in &first {
            writeln!(out, "{first}").expect("a string takes all");
        }
        if !seen.damaged.is_empty() {
            out.push('\n');
        }
        for one in seen.damaged.iter().take(NAMED) {
            out.push_str(&one.to_string());
        }
        if seen.damaged.len() > NAMED {
            writeln!(out, "... and {} more damaged: doctor", seen.damaged.len() - NAMED).expect("a string takes all");
        }
        if let Some(why) = &seen.doubt {
            write!(
                out,
                "\nneeds attention: {why}, so {name} is no master before somebody decides:\n'mirror promote --all-from {name}' \
                 on a replica, which fills it, or 'mirror promote --here --all' here\n"
            )
            .expect("a string takes all");
        }
        if !seen.lost.is_empty() {
            let count = seen.lost.len();
            write!(out, "\nneeds attention (references kept aside until 'mirror lost drop': {count}):\n")
                .expect("a string takes all");
            out.push_str(&lost::told(&seen.lost));
        }
        if seen.ill.is_empty() {
            let copies = seen.copies;
            write!(out, "\neverything is in step ({copies} copies)\n").expect("a string takes all");
            return out + &speed();
        }
        write!(
            out,
            "\nneeds attention ({} of {} copies, {} of them held back):\n",
            seen.ill.len(),
            seen.copies,
            seen.held
        )
        .expect("a string takes all");
        let told = together(&seen.ill);
        out.push_str(&lines(&told[..told.len().min(NAMED)]));
        if told.len() > NAMED {
            writeln!(out, "... and {} more: mirror status", told.len() - NAMED).expect("a string takes all");
        }
        out + &speed()
    }

    /// `events [--since ID] [--json]`: an object a line for each push that landed, each copy that caught up and, for
    /// administrators, each change that people are told of; from now on, or from the event after ID.
    pub(super) async fn events(&self, actor: &Actor, words: &[&str], live: &Live) -> Reply {
        let words: Vec<&str> = words.iter().copied().filter(|word| *word != "--json").collect();
        let since = match words[..] {
            [] => None,
            ["--since", id] => Some(id),
            [word] if word.starts_with("--since=") => word.strip_prefix("--since="),
            _ => return help::wrong(&["events"]),
        };
        let since = match since.map(str::parse::<u64>) {
            None => None,
            Some(Ok(id)) => Some(id),
            Some(Err(_)) => return Reply::fail(2, "FATAL: --since takes the id of an event, a whole number"),
        };
        let Events { past, lost, mut coming } = self.mirror.subscribe(since);
        // Rights are asked at each event: they may change while somebody listens.
        let may = |event: &Event| match &event.repo {
            _ if *actor == Actor::Local || self.realm.may_administer(actor) => true,
            Some(repo) => self.realm.rights(actor, repo).0,
            None => false,
        };
        let lost = lost.then(|| json!({"version": 1, "event": "lost", "since": since}));
        for line in lost.iter().chain(past.iter().filter(|event| may(event)).map(|event| &event.json)) {
            if !live.say(format!("{line}\n")).await {
                return Reply::default();
            }
        }
        let end = tokio::time::Instant::now() + LIFE;
        let node = &self.node.name;
        let mut tick = tokio::time::Instant::now() + TICK;
        loop {
            let line = tokio::select! {
                () = live.gone() => return Reply::default(),
                () = self.stopping.cancelled() => return Reply::fail(75, format!("{node} is stopping; ask again later")),
                () = tokio::time::sleep_until(end), if *actor != Actor::Local => {
                    return Reply::fail(8, "an hour has passed; ask again if you like");
                }
                () = tokio::time::sleep_until(tick) => json!({"version": 1, "event": "tick", "node": node.as_str()}),
                event = coming.recv() => match event {
                    Ok(event) if may(&event) => event.json.clone(),
                    Ok(_) => continue,
                    Err(RecvError::Lagged(lost)) => json!({"version": 1, "event": "lost", "events": lost}),
                    Err(RecvError::Closed) => return Reply::default(),
                },
            };
            tick = tokio::time::Instant::now() + TICK;
            if !live.say(format!("{line}\n")).await {
                return Reply::default();
            }
        }
    }
}

/// How quick this node is, after an empty line.
fn speed() -> String {
    let table = metrics::brief();
    if table.is_empty() { table } else { format!("\n{table}") }
}

/// Copies on one peer that have one trouble (it is away, as a rule) are one line.
fn together(ill: &[Copy]) -> Vec<Copy> {
    let mut told: Vec<(Copy, Vec<&str>)> = Vec::new();
    for copy in ill {
        let same = |(one, _): &&mut (Copy, Vec<&str>)| {
            one.state == "failing" && copy.state == "failing" && one.replica == copy.replica && one.error == copy.error
        };
        match told.iter_mut().find(same) {
            Some((_, names)) => names.push(&copy.repo),
            None => told.push((copy.clone(), vec![&copy.repo])),
        }
    }
    let one_line = |(copy, names): (Copy, Vec<&str>)| match names.len() {
        1 => copy,
        n => {
            let more = if n > IN_A_LINE { ", ..." } else { "" };
            let named = names[..n.min(IN_A_LINE)].join(", ");
            Copy { repo: format!("{n} repositories"), text: format!("{}\n  {named}{more}", copy.text), ..copy }
        }
    };
    told.into_iter().map(one_line).collect()
}

/// Columns as wide as their widest cell; numbers to the right, the last column as it is.
fn padded(rows: &[[String; 6]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 5] = std::array::from_fn(width);
    let line = |[node, generation, behind, lag, disk, link]: &[String; 6]| {
        let [a, b, c, d, e] = widths;
        format!("{node:<a$}  {generation:>b$}  {behind:>c$}  {lag:>d$}  {disk:>e$}  {link}\n")
    };
    rows.iter().map(line).collect()
}

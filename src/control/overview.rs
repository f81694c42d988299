//! `status`: one screen about the mesh as this node sees it; `events`: what changes, as it happens.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

use super::lost::{self, Kept};
use super::status::{Copy, Which, counted, lines};
use super::upkeep::Damaged;
use super::watch::Form;
use super::{Control, Live, Reply, help};
use crate::mirror::{About, Event, Events, FirstCopy, LinkState, Pulse};
use crate::model::time::{in_words, rfc3339};
use crate::model::{Actor, RepoName};
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
    /// What somebody should look at, the most urgent first.
    urgent: Vec<Copy>,
    copies: usize,
    /// Copies that are on their way, or not compared yet, with the age of the oldest change that one of them lacks.
    coming: usize,
    oldest: Option<Duration>,
    /// Copies that a person holds back, or pushes by hand.
    held: usize,
    /// Copies here that the configuration does not place here any more, and that are too many to go unasked.
    left_over: Vec<RepoName>,
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
            let key: Vec<String> =
                seen.urgent.iter().map(|c| format!("{} {} {}", c.repo, c.replica, c.state)).collect();
            let links: Vec<String> =
                seen.nodes.iter().map(|(name, pulse, _)| format!("{name} {}", pulse.failure.is_some())).collect();
            let damaged: Vec<&str> = seen.damaged.iter().map(|one| one.repo.as_str()).collect();
            (
                format!(
                    "{key:?} {links:?} {damaged:?} {:?} {} {} {} {:?}",
                    seen.doubt,
                    seen.lost.len(),
                    seen.about.generation,
                    seen.held,
                    seen.left_over
                ),
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
        let peers = self.mirror.peer_status();
        let nodes = self.mirror.pulses().into_iter().map(|(name, pulse)| {
            let known = peers.iter().find(|peer| peer.peer == name).cloned();
            (name.to_string(), pulse, known)
        });
        let (nodes, count, patience) = (nodes.collect(), copies.len(), self.mirror.alarm_after());
        let (mut urgent, rest): (Vec<Copy>, Vec<Copy>) =
            copies.into_iter().partition(|copy| copy.needs_attention(patience));
        urgent.sort_by_key(Copy::urgency);
        let held = rest.iter().filter(|copy| matches!(copy.state, "paused" | "pending")).count();
        let coming = rest.iter().filter(|copy| !copy.is_well());
        let (coming, oldest) = (coming.clone().count(), coming.filter_map(|copy| copy.lag_seconds).max());
        let (oldest, left_over) = (oldest.map(Duration::from_secs), self.mirror.left_over());
        let (damaged, lost) = (self.damaged(&|_| true), self.lost_here(&|_| true)?);
        let doubt = self.cluster.masters().doubt();
        let about = self.mirror.about();
        Ok(Overview { about, nodes, urgent, copies: count, coming, oldest, held, left_over, damaged, lost, doubt })
    }

    fn drawn(&self, seen: &Overview, form: Form) -> Reply {
        let elsewhere = |pulse: &Pulse| pulse.about.as_ref().map_or(0, |about| about.damaged);
        let well = seen.doubt.is_none()
            && seen.damaged.is_empty()
            && seen.lost.is_empty()
            && seen.urgent.is_empty()
            && seen.left_over.is_empty()
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
        let left_over: Vec<&str> = seen.left_over.iter().map(RepoName::as_str).collect();
        let document = json!({
            "schema": "gitmesh.status/1", "node": self.node.name.as_str(), "time": rfc3339(SystemTime::now()),
            "software": software, "generation": generation, "disk_free": disk_free, "disk_total": disk_total,
            "first_copies": self.mirror.first_copies().iter().map(FirstCopy::json).collect::<Vec<_>>(),
            "nodes": nodes, "copies": seen.copies, "attention": seen.urgent, "on_their_way": seen.coming,
            "held_back": seen.held, "left_over": left_over, "damaged": seen.damaged, "lost": seen.lost,
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
        if !seen.left_over.is_empty() {
            let named: Vec<&str> = seen.left_over.iter().take(IN_A_LINE).map(RepoName::as_str).collect();
            let more = if seen.left_over.len() > IN_A_LINE { ", ..." } else { "" };
            write!(
                out,
                "\nneeds attention: the configuration places {} copies here no more, too many to go\nunasked: {}{more}; \
                 'D trash REPO' puts one away\n",
                seen.left_over.len(),
                named.join(", ")
            )
            .expect("a string takes all");
        }
        out + &copies_text(seen) + &speed()
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

/// What needs attention, and how many of the others are on their way or held back.
fn copies_text(seen: &Overview) -> String {
    let Overview { urgent, copies, coming, oldest, held, .. } = seen;
    if urgent.is_empty() && *coming == 0 && *held == 0 {
        return format!("\neverything is in step ({})\n", counted(*copies));
    }
    let mut out = String::new();
    if !urgent.is_empty() {
        out.push_str(&format!("\nneeds attention ({} of {copies} copies):\n", urgent.len()));
        let told = together(urgent);
        out.push_str(&lines(&told[..told.len().min(NAMED)]));
        if told.len() > NAMED {
            out.push_str(&format!("... and {} more: mirror status\n", told.len() - NAMED));
        }
    }
    if *coming > 0 {
        let oldest = oldest.map_or_else(String::new, |age| format!(", the oldest for {}", in_words(age)));
        out.push_str(&format!("\non their way: {coming} of {copies} copies{oldest}\n"));
    }
    if *held > 0 {
        out.push_str(&format!("\nheld back: {held} of {copies} copies, paused or pushed by hand: mirror status\n"));
    }
    out
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

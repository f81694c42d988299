//! `mirror status`: where each copy stands, as far as this node knows: copies elsewhere of what is mastered here, by
//! our own comparing, and copies here of what others master, by their heartbeats.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::lost::{self, Kept};
use super::upkeep::Damaged;
use super::watch::Form;
use super::{Control, Live, Reply, help, parse_repo};
use crate::cluster::Place;
use crate::mirror::{FirstCopy, Freshness, Hold, PairStatus, State};
use crate::model::time::{in_words, rfc3339};
use crate::model::{Actor, HostName, RepoName};

/// Copies drawn on a terminal; the rest is counted.
const SCREEN: usize = 40;

/// Which repositories are meant.
#[derive(Debug, Clone)]
pub(super) enum Which {
    All,
    One(RepoName),
    Matching(regex::Regex),
}

impl Which {
    /// A name of a repository that is here means this one; everything else is a pattern, as in `info`.
    pub(super) fn parse(control: &Control, word: Option<&str>) -> Result<Self, Reply> {
        let Some(word) = word else { return Ok(Self::All) };
        if let Ok(repo) = parse_repo(word)
            && control.store.exists(&repo)
        {
            return Ok(Self::One(repo));
        }
        let pattern = regex::RegexBuilder::new(word).size_limit(1 << 20).build();
        pattern.map(Self::Matching).map_err(|error| Reply::fail(2, format!("FATAL: this is no pattern: {error}")))
    }

    pub(super) fn has(&self, repo: &RepoName) -> bool {
        match self {
            Self::All => true,
            Self::One(one) => one == repo,
            Self::Matching(pattern) => pattern.is_match(repo.as_str()),
        }
    }
}

/// One copy as it is written, schema gitmesh.mirror.status/1. Fields may be added; what is not known is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Copy {
    pub repo: String,
    pub master: String,
    pub replica: String,
    /// `in-step`, `behind`, `failing`, `missing`, `diverged`, `paused`, `pending` or `unknown`.
    pub state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_seconds: Option<u64>,
    /// Pushes that it lacks, as far as that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<u64>,
    /// Age of the oldest change that it lacks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_success: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_success_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_try_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// A person has to decide something, or it has been behind for longer than `alarm_after`.
    pub alarm: bool,
    /// The same for people.
    pub text: String,
}

/// What makes one answer differ from the next; lengths of time do not.
type Shown = BTreeMap<(String, String), (&'static str, Option<String>, Option<u64>)>;

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    node: &'a str,
    time: String,
    copies: &'a [Copy],
    /// In a line of `--watch` after the first: copies that are none any more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gone: Vec<(String, String)>,
    /// First copies under way, for administrators.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    first_copies: Vec<serde_json::Value>,
    #[serde(flatten)]
    beside: Beside,
}

/// What there is to say about repositories beside how their copies are.
#[derive(Default, Serialize)]
struct Beside {
    /// Repositories here that git has found to be damaged.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    damaged: Vec<Damaged>,
    /// What one node alone had, and is kept aside here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lost: Vec<Kept>,
}

impl Copy {
    /// A copy elsewhere of what is mastered here.
    fn elsewhere(pair: &PairStatus, host: &HostName, now: SystemTime) -> Self {
        let ago = |at: SystemTime| now.duration_since(at).unwrap_or_default();
        let until = |at: SystemTime| at.duration_since(now).unwrap_or_default().as_secs();
        let since = pair.state.since();
        let (changes, error, next_try) = match &pair.state {
            State::InStep => (Some(0), None, None),
            State::Behind { changes, .. } | State::Pending { why: Hold::Manual { changes }, .. } => {
                (Some(*changes), None, None)
            }
            State::Failing { error, next_try, .. } => (None, Some(error.clone()), *next_try),
            State::Diverged { detail: why, .. } | State::Pending { why: Hold::Guard(why), .. } => {
                (None, Some(why.clone()), None)
            }
            State::Unknown | State::Missing { .. } | State::Paused { .. } => (None, None, None),
        };
        let text = match (&pair.state, pair.last_success) {
            (State::InStep, Some(at)) => format!("in step ({} ago)", in_words(ago(at))),
            (state, _) => state.to_string(),
        };
        Self {
            repo: pair.repo.to_string(),
            master: host.to_string(),
            replica: pair.peer.to_string(),
            state: pair.state.word(),
            since: since.map(rfc3339),
            since_seconds: since.map(|at| ago(at).as_secs()),
            changes,
            lag_seconds: pair.lag.map(|lag| lag.as_secs()),
            last_success: pair.last_success.map(rfc3339),
            last_success_seconds: pair.last_success.map(|at| ago(at).as_secs()),
            next_try_seconds: next_try.map(until),
            error,
            alarm: pair.alarm,
            text,
        }
    }

    /// A repository here that follows a server outside the mesh.
    fn following(pair: &PairStatus, host: &HostName, now: SystemTime) -> Self {
        let copy = Self::elsewhere(pair, host, now);
        let text = format!("follows {}, {}", pair.peer, copy.text);
        Self { master: pair.peer.to_string(), replica: host.to_string(), text, ..copy }
    }

    /// A copy here of what `master` masters.
    fn here(repo: &RepoName, master: &HostName, host: &HostName, fresh: &Freshness, now: SystemTime) -> Self {
        let ago = |length: Duration| now.checked_sub(length).map(rfc3339);
        let (state, since, changes, confirmed) = match fresh {
            Freshness::InStep { confirmed } => ("in-step", None, Some(0), Some(*confirmed)),
            Freshness::Behind { lag, changes } => ("behind", Some(*lag), Some(*changes), None),
            Freshness::Unconfirmed { silent, confirmed } => ("unknown", Some(*silent), None, *confirmed),
        };
        let lag = since.filter(|_| state == "behind");
        Self {
            repo: repo.to_string(),
            master: master.to_string(),
            replica: host.to_string(),
            state,
            since: since.and_then(ago),
            since_seconds: since.map(|length| length.as_secs()),
            changes,
            lag_seconds: lag.map(|lag| lag.as_secs()),
            last_success: confirmed.and_then(ago),
            last_success_seconds: confirmed.map(|length| length.as_secs()),
            next_try_seconds: None,
            error: None,
            alarm: false,
            text: format!("copy of {master}, {fresh}"),
        }
    }

    /// What a person must decide comes first, what is held back last.
    pub(super) fn urgency(&self) -> u8 {
        match self.state {
            "diverged" => 0,
            "pending" if self.alarm => 0,
            "failing" => 1,
            "missing" => 2,
            "behind" => 3,
            "unknown" => 4,
            _ => 5,
        }
    }

    /// Whether somebody should look: it fails, it waits for a decision, or it has been on its way for longer than
    /// `patience`.
    pub(super) fn needs_attention(&self, patience: Duration) -> bool {
        match self.state {
            "failing" | "diverged" => true,
            "in-step" | "paused" | "pending" => self.alarm,
            _ => self.alarm || self.lag_seconds.max(self.since_seconds).is_some_and(|age| age > patience.as_secs()),
        }
    }

    /// Whether it is as somebody wants it: equal, or held back by a person.
    pub(super) fn is_well(&self) -> bool {
        matches!(self.state, "in-step" | "paused" | "pending") && !self.alarm
    }
}

impl Control {
    /// The copies that the actor may know of, by repository. Reads directories.
    pub(super) fn copies(&self, actor: &Actor, which: &Which) -> Result<Vec<Copy>, Reply> {
        let (host, now) = (self.cluster.host(), SystemTime::now());
        let may = |repo: &RepoName| which.has(repo) && self.realm.rights(actor, repo).0;
        let pairs = self.mirror.status();
        let follows = |pair: &PairStatus| {
            self.mirror.upstream_of(&pair.repo).is_some_and(|upstream| upstream.target.name == pair.peer)
        };
        let elsewhere = pairs.iter().filter(|pair| may(&pair.repo)).map(|pair| match follows(pair) {
            true => Copy::following(pair, host, now),
            false => Copy::elsewhere(pair, host, now),
        });
        let mut copies: Vec<Copy> = elsewhere.collect();
        for repo in self.list()?.into_iter().filter(may) {
            if let Place::There { master, .. } = self.cluster.locate(&repo) {
                copies.push(Copy::here(&repo, &master, host, &self.mirror.freshness(&repo, &master), now));
            }
        }
        copies.sort_by(|a, b| (&a.repo, &a.replica).cmp(&(&b.repo, &b.replica)));
        Ok(copies)
    }

    pub(super) async fn mirror_status(&self, actor: &Actor, words: &[&str], live: &Live) -> Reply {
        let mut words = words.to_vec();
        let form = Form::take(&mut words);
        let word = match words[..] {
            [] => None,
            [word] if !word.starts_with('-') => Some(word),
            _ => return help::wrong(&["mirror", "status"]),
        };
        let which = match Which::parse(self, word) {
            Ok(which) => Arc::new(which),
            Err(reply) => return reply,
        };
        if !form.watch {
            return self.blocking(actor, move |c, a| c.status_once(a, &which, form)).await;
        }
        let shown: Arc<Mutex<Option<Shown>>> = Arc::default();
        self.watch(actor, live, form, || {
            let (me, actor, which, shown) = (self.clone(), actor.clone(), which.clone(), shown.clone());
            async move {
                let look = move || {
                    let copies = me.copies(&actor, &which).ok()?;
                    let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
                    me.status_again(&actor, copies, &mut shown, form)
                };
                tokio::task::spawn_blocking(look).await.ok().flatten()
            }
        })
        .await
    }

    fn status_once(&self, actor: &Actor, which: &Which, form: Form) -> Reply {
        let copies = match self.copies(actor, which) {
            Ok(copies) => copies,
            Err(reply) => return reply,
        };
        let may = |repo: &RepoName| which.has(repo) && self.realm.rights(actor, repo).0;
        let lost = match self.lost(&may) {
            Ok(lost) => lost,
            Err(reply) => return reply,
        };
        let beside = Beside { damaged: self.damaged(&may), lost };
        let Beside { damaged, lost } = &beside;
        let code = i32::from(!copies.iter().all(Copy::is_well) || !damaged.is_empty());
        let out = if form.json {
            self.document(actor, &copies, Vec::new(), beside)
        } else if copies.is_empty() && damaged.is_empty() && lost.is_empty() {
            let err = "no repository that you may read and that is meant by this has copies\n".to_owned();
            let code = if matches!(which, Which::All) { 0 } else { 4 };
            return Reply { out: String::new(), err, code };
        } else {
            let damaged: String = damaged.iter().map(ToString::to_string).collect();
            let lost = if matches!(which, Which::One(_)) { lost::lines(lost) } else { lost::told(lost) };
            lines(&copies) + &self.first_copies(actor) + &damaged + &lost
        };
        Reply { out, err: String::new(), code }
    }

    /// A line for each peer that still gets its first copies. The numbers count what others may not see.
    pub(super) fn first_copies(&self, actor: &Actor) -> String {
        if !self.realm.may_administer(actor) {
            return String::new();
        }
        self.mirror.first_copies().iter().map(|first| format!("{first}\n")).collect()
    }

    /// What a watching client is shown next, if anything.
    fn status_again(
        &self,
        actor: &Actor,
        mut copies: Vec<Copy>,
        shown: &mut Option<Shown>,
        form: Form,
    ) -> Option<String> {
        let key =
            |copy: &Copy| ((copy.repo.clone(), copy.replica.clone()), (copy.state, copy.error.clone(), copy.changes));
        let now: Shown = copies.iter().map(key).collect();
        let before = shown.replace(now);
        if form.redraw {
            return Some(screen(&copies, self.cluster.host()) + &self.first_copies(actor));
        }
        let (now, mut gone) = (shown.as_ref()?, Vec::new());
        if let Some(before) = before {
            copies.retain(|copy| {
                let (key, value) = key(copy);
                before.get(&key) != Some(&value)
            });
            gone = before.into_keys().filter(|key| !now.contains_key(key)).collect();
            if copies.is_empty() && gone.is_empty() {
                return None;
            }
        }
        Some(if form.json {
            self.document(actor, &copies, gone, Beside::default())
        } else {
            let time = rfc3339(SystemTime::now());
            let gone = gone.iter().map(|(repo, replica)| format!("{time}\t{repo}\t{replica}\tno copy any more\n"));
            let copies = copies.iter().map(|c| format!("{time}\t{}\t{}\t{}\n", c.repo, c.replica, c.text));
            copies.chain(gone).collect()
        })
    }

    fn document(&self, actor: &Actor, copies: &[Copy], gone: Vec<(String, String)>, beside: Beside) -> String {
        let (node, time) = (self.cluster.host().as_str(), rfc3339(SystemTime::now()));
        let first_copies = match self.realm.may_administer(actor) {
            true => self.mirror.first_copies().iter().map(FirstCopy::json).collect(),
            false => Vec::new(),
        };
        let schema = "gitmesh.mirror.status/1";
        let document = Document { schema, node, time, copies, gone, first_copies, beside };
        serde_json::to_string(&document).expect("texts and numbers can always be written") + "\n"
    }
}

/// One copy a line; columns are divided by a tab and padded.
pub(super) fn lines(copies: &[Copy]) -> String {
    let width = |of: fn(&Copy) -> &str| copies.iter().map(|copy| of(copy).chars().count()).max().unwrap_or(0);
    let (repos, replicas) = (width(|c| &c.repo), width(|c| &c.replica));
    copies.iter().map(|c| format!("{:repos$}\t{:replicas$}\t{}\n", c.repo, c.replica, c.text)).collect()
}

/// `1 copy`, `3 copies`
pub(super) fn counted(copies: usize) -> String {
    if copies == 1 { "1 copy".to_owned() } else { format!("{copies} copies") }
}

fn screen(copies: &[Copy], host: &HostName) -> String {
    let (well, ill): (Vec<Copy>, Vec<Copy>) = copies.iter().cloned().partition(Copy::is_well);
    let mut out = format!(
        "{host}  {}  {}, {} in step or held back\n\n",
        rfc3339(SystemTime::now()),
        counted(copies.len()),
        well.len()
    );
    let shown: Vec<Copy> = ill.into_iter().chain(well).take(SCREEN).collect();
    out.push_str(&lines(&shown));
    if copies.len() > shown.len() {
        out.push_str(&format!("... and {} more\n", copies.len() - shown.len()));
    }
    out
}

//! `mirror verify`: whether copies are what they should be. A deep check takes long, so each copy is told of when it is
//! done, and it ends with whoever listens.

use std::pin::pin;

use serde_json::json;
use tokio::sync::mpsc;

use super::orders::{Words, wrong};
use super::status::Which;
use super::{Control, Live, Reply, help};
use crate::mirror::{Checked, State, Verdict};
use crate::model::{Actor, RepoName};

impl Control {
    /// `verify [REPO|PATTERN] [--peer P] [--deep]`
    pub(super) async fn order_verify(&self, actor: &Actor, words: &[&str], live: &Live) -> Result<Reply, Reply> {
        let words = Words::parse(words, &["--peer", "--deep", "--json"]).map_err(|why| wrong("verify", &why))?;
        let which = match words.plain[..] {
            [] => Which::parse(self, None)?,
            [word] => Which::parse(self, Some(word))?,
            _ => return Err(help::wrong(&["mirror", "verify"])),
        };
        if words.deep {
            self.administers(actor, "a deep check, which reads every object on both sides,")?;
        }
        let may = |repo: &RepoName| which.has(repo) && self.realm.rights(actor, repo).0;
        let tells = words.deep && !words.json;
        let (to, mut found) = mpsc::channel(1);
        let mut checking = pin!(self.mirror.verify(may, words.peer.as_ref(), words.deep, to));
        let (mut all, mut ended) = (Vec::new(), false);
        loop {
            let one = tokio::select! {
                one = found.recv() => one,
                () = &mut checking, if !ended => {
                    ended = true;
                    continue;
                }
                () = live.gone(), if tells => return Err(Reply::fail(1, "stopped, for nobody waits for it")),
            };
            let Some(one) = one else { break };
            if tells && !live.say(self.verdict(&one)).await {
                return Err(Reply::fail(1, "stopped, for nobody listens"));
            }
            all.push(one);
        }
        if all.is_empty() {
            let err = "no copy of what is mastered here is meant by this\n".to_owned();
            let out = if words.json { self.verdicts(&all) } else { String::new() };
            return Ok(Reply { out, err, code: 4 });
        }
        all.sort_by(|a, b| (&a.peer, &a.repo).cmp(&(&b.peer, &b.repo)));
        let well = |one: &Checked| matches!(one.verdict, Verdict::Equal { .. } | Verdict::Paused(_));
        let out = match (words.json, tells) {
            (true, _) => self.verdicts(&all),
            (false, true) => String::new(),
            (false, false) => all.iter().map(|one| self.verdict(one)).collect(),
        };
        Ok(Reply { out, err: String::new(), code: i32::from(!all.iter().all(well)) })
    }

    /// What was found, in one word for programs, and in a line's end for people.
    fn words_of(&self, one: &Checked) -> (&'static str, String) {
        match &one.verdict {
            Verdict::Equal { deep: false } => ("equal", "equal".to_owned()),
            Verdict::Equal { deep: true } => ("equal", "equal, and every object is sound".to_owned()),
            Verdict::Differs => ("differs", format!("DIFFERS; {}", self.outlook(one))),
            Verdict::ByHand => {
                ("differs", format!("DIFFERS; it is pushed by hand: mirror push {} {}", one.peer, one.repo))
            }
            Verdict::Missing => ("missing", "MISSING there; a push is under way".to_owned()),
            Verdict::Damaged { here, there } => {
                let said = |at: &str, lines: &[String]| {
                    if lines.is_empty() { String::new() } else { format!("; {at}: {}", lines.join(" | ")) }
                };
                let cure = match here.is_empty() {
                    true => format!("; 'gitmesh mirror repair {} {}' makes that copy anew", one.peer, one.repo),
                    false => "; bring the damaged objects back here first, from a sound copy or a backup".to_owned(),
                };
                ("damaged", format!("DAMAGED{}{}{cure}", said("here", here), said("there", there)))
            }
            Verdict::Paused(pause) => ("paused", format!("not looked at: paused by {}", pause.by_whom())),
            Verdict::Failed(error) => ("failed", format!("cannot be compared: {error}")),
        }
    }

    /// What comes of a copy that differs.
    fn outlook(&self, one: &Checked) -> String {
        let pairs = self.mirror.status_of(&one.repo);
        match pairs.iter().find(|pair| pair.peer == one.peer).map(|pair| &pair.state) {
            // A push that is refused brings it no nearer.
            Some(state @ (State::Diverged { .. } | State::Pending { .. })) => state.to_string(),
            _ => "a push is under way".to_owned(),
        }
    }

    fn verdict(&self, one: &Checked) -> String {
        format!("{}\t{}\t{}\n", one.repo, one.peer, self.words_of(one).1)
    }

    fn verdicts(&self, all: &[Checked]) -> String {
        let copies = all.iter().map(|one| {
            let (word, text) = self.words_of(one);
            json!({"repo": one.repo.as_str(), "replica": one.peer.as_str(), "verdict": word, "text": text})
        });
        json!({"schema": "gitmesh.mirror.verify/1", "copies": copies.collect::<Vec<_>>()}).to_string() + "\n"
    }
}

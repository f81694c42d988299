//! What a push tells of the copies, and its waiting for them when it or the configuration asks for that.

use std::time::{Duration, Instant};

use super::Transfer;
use crate::cluster::{How, Replica};
use crate::mirror::{Arrival, Hold, PairStatus, State, Waited, Want, Where};
use crate::model::setting::parse_duration;
use crate::model::time::{in_brief, in_words};
use crate::model::{HostName, RepoName};
use crate::policy::nearest;

/// A push waits this long, if it does not say how long.
const WAIT: Duration = Duration::from_secs(30);
const WAIT_MAX: Duration = Duration::from_secs(600);
/// Of an error that is told in passing, in characters.
const ERROR_MAX: usize = 100;

/// The options of a push (git-push(1), `-o`) that this server knows; those that take a value end in `=`.
const OPTIONS: [&str; 4] = ["plan", "reason=", "mirror.wait", "mirror.timeout="];

/// What a push asks for after it has landed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patience {
    repo: RepoName,
    /// What is waited for, all at the same time.
    at: Vec<Where>,
    timeout: Duration,
}

/// What the options say, and what is wrong with them, in whole lines.
pub(super) fn read(options: &[String]) -> (Option<Where>, Duration, String) {
    let (mut at, mut timeout, mut warnings) = (None, WAIT, String::new());
    for option in options.iter().take(100) {
        let (name, value) = option.split_once('=').map_or((option.as_str(), None), |(n, v)| (n, Some(v)));
        let shown: String = option.chars().filter(|c| !c.is_control()).take(80).collect();
        let mut bad = |why: &str| warnings.push_str(&format!("warning: push option '{shown}' does nothing: {why}\n"));
        match (name, value) {
            ("plan", None) | ("reason", Some(_)) => {}
            ("mirror.wait", None | Some("" | "all")) => at = Some(Where::All),
            ("mirror.wait", Some(value)) => match (value.parse(), HostName::new(value)) {
                (Ok(count), _) => at = Some(Where::Count(count)),
                (_, Ok(peer)) => at = Some(Where::One(peer)),
                _ => bad("a node, a number or 'all' is expected"),
            },
            ("mirror.timeout", Some(value)) => match parse_duration(value) {
                Ok(wanted) => timeout = wanted.min(WAIT_MAX),
                Err(why) => bad(&why),
            },
            _ => {
                let known = OPTIONS.map(|known| known.trim_end_matches('='));
                match nearest(name, known.into_iter()) {
                    Some(near) if near != name => bad(&format!("did you mean '{near}'?")),
                    _ => bad(&format!("known are {}", OPTIONS.join(" "))),
                }
            }
        }
    }
    (at, timeout, warnings)
}

impl Transfer {
    /// What becomes of the copies, for whoever pushed, and what is to be waited for.
    pub(super) fn told_of_replicas(&self, repo: &RepoName, options: &[String]) -> (String, Option<Patience>) {
        let (pid, host, mut text) = (std::process::id(), self.cluster.host(), String::new());
        let place = self.cluster.locate(repo);
        let known = self.mirror.status_of(repo);
        let mut ill = false;
        for Replica { name, how, .. } in place.replicas() {
            // gitolite 2's spelling, which scripts and eyes know; gitolite 3's words for what is pushed by hand.
            let line = format!("({pid}&) {host} ==== ({repo}) ===> {name}");
            match (how, known.iter().find(|pair| pair.peer == *name).and_then(trouble)) {
                (How::NoSyncQuiet, _) => {}
                (How::NoSync, _) => text.push_str(&format!(
                    "warning: manual mirror push pending for '{name}' (gitmesh mirror push {name} {repo})\n"
                )),
                (How::Async | How::Sync, None) => text.push_str(&format!("{line}\n")),
                (How::Async | How::Sync, Some(trouble)) => {
                    ill = true;
                    text.push_str(&format!("{line}   {trouble}\n"));
                }
            }
        }
        if ill {
            text.push_str(&format!("  follow it: {} mirror status {repo}\n", self.realm.live().address.ssh()));
        }
        // The warnings were told before the push landed.
        let (asked, timeout, _) = read(options);
        let mut at: Vec<Where> = asked.into_iter().collect();
        if !at.contains(&Where::All) {
            let sync = place.replicas().iter().filter(|replica| replica.how == How::Sync);
            at.extend(sync.map(|replica| Where::One(replica.name.clone())));
        }
        at.dedup();
        let patience = (!at.is_empty()).then(|| Patience { repo: repo.clone(), at, timeout });
        (text, patience)
    }

    /// Waits for the copies, and returns what there is to tell; the push stands whatever comes.
    pub async fn wait_for_copies(&self, patience: Patience) -> String {
        let Patience { repo, at, timeout } = patience;
        let host = self.cluster.host();
        let (mut text, mut told) = (String::new(), Vec::new());
        let (mut waits, begun) = (Vec::new(), Instant::now());
        for at in at {
            let (mirror, repo) = (self.mirror.clone(), repo.clone());
            let asked = at.clone();
            let waiting = async move { (mirror.wait(&repo, &Want::Now, &at, timeout).await, begun.elapsed()) };
            waits.push((asked, tokio::spawn(waiting)));
        }
        for (asked, wait) in waits {
            let (waited, took) = match wait.await {
                Ok((Ok(waited), took)) => (waited, took),
                Ok((Err(error), _)) => {
                    text.push_str(&format!("warning: your push stands; its copies cannot be waited for: {error}\n"));
                    continue;
                }
                Err(error) => {
                    tracing::error!(%error, %repo, "waiting for copies panicked");
                    continue;
                }
            };
            if let Some(why) = waited.impossible(&repo, &asked) {
                text.push_str(&format!("warning: your push stands; {why}\n"));
                continue;
            }
            let after = if took < timeout { String::new() } else { format!(" after {}", in_words(timeout)) };
            let Waited { met, copies, .. } = waited;
            for (peer, arrival) in copies.into_iter().filter(|(peer, _)| !told.contains(peer)).collect::<Vec<_>>() {
                let line = format!("{host} ==== ({repo}) ===> {peer}");
                match arrival {
                    Arrival::There(after) => {
                        text.push_str(&format!("{line}   done in {}\n", in_brief(after)));
                    }
                    // Enough others have it.
                    Arrival::NotYet(_) if met => continue,
                    Arrival::NotYet(state) => text
                        .push_str(&format!("warning: your push stands, but {peer} does not have it{after}: {state}\n")),
                }
                told.push(peer);
            }
        }
        text
    }
}

/// What is wrong with a copy, in passing.
fn trouble(pair: &PairStatus) -> Option<String> {
    let last = match pair.last_success {
        Some(at) => format!("; last success {} ago", in_words(at.elapsed().unwrap_or_default())),
        None => String::new(),
    };
    let brief = |text: &str| text.lines().next().unwrap_or_default().chars().take(ERROR_MAX).collect::<String>();
    match &pair.state {
        State::Failing { error, .. } => Some(format!("queued{last} ({})", brief(error))),
        State::Diverged { detail, .. } => Some(format!("DIVERGED, nothing is pushed{last} ({})", brief(detail))),
        State::Pending { why: Hold::Guard(why), .. } => Some(format!("held back{last} ({})", brief(why))),
        State::Paused { by, .. } => Some(format!("paused by {by}{last}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(options: &[&str]) -> (Option<Where>, Duration, String) {
        read(&options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_read_and_none_is_passed_over_in_silence() {
        let server2 = HostName::new("server2").expect("a name");
        assert_eq!(of(&["plan", "reason=x"]), (None, WAIT, String::new()));
        assert_eq!(of(&["mirror.wait"]).0, Some(Where::All));
        assert_eq!(of(&["mirror.wait=all"]).0, Some(Where::All));
        assert_eq!(of(&["mirror.wait=2"]).0, Some(Where::Count(2)));
        assert_eq!(
            of(&["mirror.wait=server2", "mirror.timeout=5s"]),
            (Some(Where::One(server2)), Duration::from_secs(5), String::new())
        );
        assert_eq!(of(&["mirror.timeout=7d"]).1, WAIT_MAX);
        let said = of(&["mirror.wiat"]).2;
        assert_eq!(said, "warning: push option 'mirror.wiat' does nothing: did you mean 'mirror.wait'?\n");
        for bad in ["mirror.timeout", "mirror.timeout=soon", "mirror.wait=a/b", "ci.skip", "plan=1", "\u{1b}[2J"] {
            let (at, timeout, said) = of(&[bad]);
            assert_eq!((at, timeout), (None, WAIT), "{bad}");
            assert!(said.starts_with("warning: push option '") && !said.contains('\u{1b}'), "{said}");
        }
    }
}

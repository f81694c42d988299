//! `--watch`: an answer that is given anew whenever it changes, until nobody looks any more.

use std::time::Duration;

use tokio::time::Instant;

use super::live::{Live, REDRAW};
use super::{Control, Reply};
use crate::model::Actor;

/// A user's watching ends by itself after this time, however alive the client is; who works on the machine may look for ever.
const LIFE: Duration = Duration::from_secs(3600);
/// Lengths of time on a redrawn screen grow, and a line that is seldom written must be written now and then, or the
/// connection counts as idle.
const TICK: Duration = Duration::from_secs(2);
/// Changes that follow each other closely are shown together.
const CALM: Duration = Duration::from_millis(200);

/// Home, and clear to the end of the screen (ECMA-48, CUP and ED).
const CLEAR: &str = "\x1b[H\x1b[J";

/// How an answer is given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Form {
    pub json: bool,
    pub watch: bool,
    pub redraw: bool,
}

impl Form {
    /// Takes `--json`, `--watch` and `--redraw` out of the words.
    pub(super) fn take(words: &mut Vec<&str>) -> Self {
        let mut form = Self::default();
        words.retain(|word| {
            let flag = match *word {
                "--json" => &mut form.json,
                "--watch" => &mut form.watch,
                REDRAW => &mut form.redraw,
                _ => return true,
            };
            *flag = true;
            false
        });
        form.redraw &= form.watch && !form.json;
        form
    }
}

impl Control {
    /// Says what `look` returns, again and again; `None` means that nothing has changed. The reason for the end is the
    /// reply.
    pub(super) async fn watch<F>(&self, actor: &Actor, live: &Live, form: Form, mut look: impl FnMut() -> F) -> Reply
    where
        F: Future<Output = Option<String>>,
    {
        let end = Instant::now() + LIFE;
        loop {
            if let Some(text) = look().await {
                let text = if form.redraw { format!("{CLEAR}{text}") } else { text };
                if !live.say(text).await {
                    return Reply::default();
                }
            }
            let next = async {
                tokio::time::sleep(CALM).await;
                tokio::time::sleep(TICK - CALM).await;
            };
            tokio::select! {
                () = live.gone() => return Reply::default(),
                () = self.stopping.cancelled() => return Reply::fail(75, format!("{} is stopping; look again later", self.node.name)),
                () = tokio::time::sleep_until(end), if *actor != Actor::Local => {
                    return Reply::fail(8, "an hour has passed; look again if you like");
                }
                () = next => {}
            }
        }
    }
}

//! What a command that goes on for a while says before it ends, and how it learns that nobody listens any more.

use tokio::sync::mpsc;

/// Pieces that may wait for a slow reader; the command waits with them.
const WAITING: usize = 16;

/// The way to whoever gave the command. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Live(mpsc::Sender<String>);

impl Live {
    /// The door keeps the receiver, writes what comes, and closes it when its client has left.
    pub fn channel() -> (Self, mpsc::Receiver<String>) {
        let (to, from) = mpsc::channel(WAITING);
        (Self(to), from)
    }

    /// For a command that says all it has to say at its end.
    pub(super) fn nobody() -> Self {
        Self::channel().0
    }

    /// False when nobody listens any more.
    pub(super) async fn say(&self, text: impl Into<String>) -> bool {
        self.0.send(text.into()).await.is_ok()
    }

    /// Returns when nobody listens any more.
    pub(super) async fn gone(&self) {
        self.0.closed().await;
    }
}

/// The words as a command typed at a terminal means them: `--watch` redraws the screen there.
pub fn at_a_terminal(mut words: Vec<String>) -> Vec<String> {
    let has = |word: &str| words.iter().any(|w| w == word);
    if has("--watch") && !has("--json") && !has(REDRAW) {
        words.push(REDRAW.to_owned());
    }
    words
}

/// Draw the whole screen anew at each change.
pub(super) const REDRAW: &str = "--redraw";

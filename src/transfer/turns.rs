//! Whose turn it is to have a large pack made and sent.
//!
//! Counting and compressing the objects of a large repository keeps a processor busy for seconds or minutes, so only
//! a few such packs are made at once and the others wait. Whoever has the fewest turns goes first, then whoever has
//! waited longest: sixteen clones by one user hold up another's first one by one turn at most. A turn is for what
//! needs a processor: once a pack flows, [`super::sending`] says for how long; a client's line, which may stretch it to
//! hours, holds up nobody.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The turns of one machine. Cheap to clone.
#[derive(Clone)]
pub struct Turns(Arc<Mutex<State>>);

struct State {
    free: usize,
    /// Turns that somebody has now; nobody stands in it with none.
    held: HashMap<String, usize>,
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    who: String,
    given: oneshot::Sender<Turn>,
}

/// A turn, until it is dropped.
pub struct Turn {
    turns: Turns,
    who: String,
}

/// A place in the queue; dropping it leaves the queue.
pub struct Place(oneshot::Receiver<Turn>);

impl Turns {
    /// `most` turns at once, at least one.
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Mutex::new(State { free: most.max(1), held: HashMap::new(), waiting: VecDeque::new() })))
    }

    /// A turn at once, or a place in the queue for one.
    pub fn ask(&self, who: &str) -> Result<Turn, Place> {
        let mut state = self.lock();
        if state.free > 0 {
            return Ok(self.give(&mut state, who.to_owned()));
        }
        let (given, place) = oneshot::channel();
        state.waiting.push_back(Waiting { who: who.to_owned(), given });
        Err(Place(place))
    }

    fn give(&self, state: &mut State, who: String) -> Turn {
        state.free -= 1;
        *state.held.entry(who.clone()).or_default() += 1;
        Turn { turns: self.clone(), who }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is one step, so a panic elsewhere leaves the numbers right.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The one who goes next: the first of those with the fewest turns.
    fn next(&mut self) -> Option<Waiting> {
        self.waiting.retain(|waiting| !waiting.given.is_closed());
        let turns = |waiting: &Waiting| self.held.get(&waiting.who).copied().unwrap_or_default();
        let next = self.waiting.iter().enumerate().min_by_key(|(_, waiting)| turns(waiting)).map(|(at, _)| at)?;
        self.waiting.remove(next)
    }
}

impl Place {
    /// Waits for the turn. Nothing is lost by giving this up and calling it again.
    pub async fn turn(&mut self) -> Turn {
        (&mut self.0).await.expect("the queue is kept by those who hold turns, and each gives its turn on")
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let given = {
            let mut state = self.turns.lock();
            state.free += 1;
            if let Some(held) = state.held.get_mut(&self.who) {
                *held -= 1;
                if *held == 0 {
                    state.held.remove(&self.who);
                }
            }
            state.next().map(|Waiting { who, given }| given.send(self.turns.give(&mut state, who)))
        };
        // Whoever left in this moment: the turn that comes back goes on to the next, now that the lock is free.
        drop(given);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(turns: &Turns, who: &str) -> Place {
        turns.ask(who).err().expect("all turns are taken")
    }

    fn has_turn(place: &mut Place) -> Option<Turn> {
        place.0.try_recv().ok()
    }

    #[test]
    fn who_has_the_fewest_turns_goes_first_then_who_waited_longest() {
        let turns = Turns::new(2);
        let (first, second) = (turns.ask("alice").ok().expect("free"), turns.ask("alice").ok().expect("free"));
        let mut alices: Vec<_> = (0..3).map(|_| place(&turns, "alice")).collect();
        let (mut bob, mut eve) = (place(&turns, "bob"), place(&turns, "eve"));
        drop(first);
        let bobs = has_turn(&mut bob).expect("bob has none");
        drop(second);
        let _alices = has_turn(&mut alices[0]).expect("nobody has fewer than she, and she came first");
        drop(bobs);
        let eves = has_turn(&mut eve).expect("eve has none, alice has one");
        drop(eves);
        assert!(has_turn(&mut alices[1]).is_some());
        assert!(has_turn(&mut alices[2]).is_some(), "the one before was given back at once");
    }

    #[test]
    fn who_leaves_the_queue_is_passed_over() {
        let turns = Turns::new(1);
        let held = turns.ask("alice").ok().expect("free");
        let gone = place(&turns, "bob");
        let mut eve = place(&turns, "eve");
        drop(gone);
        drop(held);
        let eves = has_turn(&mut eve).expect("her turn");
        let missed = place(&turns, "bob");
        drop(eves);
        // Given, and never taken.
        drop(missed);
        assert!(turns.ask("alice").is_ok(), "no turn is lost");
        assert!(turns.lock().held.is_empty());
    }
}

//! What goes wrong: links that are cut or slow, nodes that are killed, stopped and started.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::Dice;
use crate::world::{Link, Node, within};

/// What ends a fault.
#[derive(Clone, Copy, PartialEq)]
enum Cure {
    Restore(usize),
    Hurry(usize),
    Start(usize),
    Continue(usize),
}

pub struct Faults<'a> {
    nodes: &'a [Node; 3],
    links: &'a [Link],
    dice: Dice,
    open: Vec<(Instant, Cure)>,
    counts: BTreeMap<&'static str, usize>,
}

impl<'a> Faults<'a> {
    pub fn new(nodes: &'a [Node; 3], links: &'a [Link], dice: Dice) -> Self {
        Self { nodes, links, dice, open: Vec::new(), counts: BTreeMap::new() }
    }

    /// One fault after the other until `end`; several may last at the same time.
    pub fn run(&mut self, end: Instant) {
        while Instant::now() < end {
            let pause = self.dice.millis(50, 900);
            within(pause, || {
                self.cure(Instant::now());
                false
            });
            self.strike();
        }
    }

    fn strike(&mut self) {
        let (link, node) = (self.dice.below(self.links.len()), self.dice.below(3));
        let well = !self.open.iter().any(|(_, cure)| matches!(cure, Cure::Start(n) | Cure::Continue(n) if *n == node));
        let (name, lasts, cure) = match self.dice.below(10) {
            0..=3 => {
                self.links[link].cut();
                ("cuts", self.dice.millis(100, 2500), Cure::Restore(link))
            }
            4 => {
                self.links[link].delay(Duration::from_millis(15));
                ("slow links", self.dice.millis(500, 3000), Cure::Hurry(link))
            }
            5 | 6 if well => {
                self.nodes[node].signal(Signal::STOP);
                ("stops", self.dice.millis(100, 3000), Cure::Continue(node))
            }
            7 if well => {
                self.nodes[node].kill9();
                ("kills", self.dice.millis(1, 2000), Cure::Start(node))
            }
            8 if well => {
                self.nodes[node].power_cut();
                ("power cuts", self.dice.millis(1, 2000), Cure::Start(node))
            }
            9 if well => {
                self.nodes[node].stop();
                ("restarts", Duration::ZERO, Cure::Start(node))
            }
            _ => return,
        };
        *self.counts.entry(name).or_default() += 1;
        self.open.push((Instant::now() + lasts, cure));
    }

    fn cure(&mut self, now: Instant) {
        let over: Vec<_> = self.open.extract_if(.., |(at, _)| *at <= now).collect();
        for (_, cure) in over {
            match cure {
                // Another fault of the same link may last longer; it ends with the first.
                Cure::Restore(link) => self.links[link].restore(),
                Cure::Hurry(link) => self.links[link].delay(Duration::ZERO),
                Cure::Start(node) => self.nodes[node].start(),
                Cure::Continue(node) => self.nodes[node].signal(Signal::CONT),
            }
        }
    }

    /// All is well from here on.
    pub fn heal(&mut self) {
        self.open.iter_mut().for_each(|(at, _)| *at = Instant::now());
        self.cure(Instant::now());
    }

    pub fn count(&self) -> Count {
        Count(self.counts.clone())
    }
}

/// How often what happened.
pub struct Count(BTreeMap<&'static str, usize>);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(|(name, count)| format!("{count} {name}")).collect();
        write!(f, "{} faults ({})", self.0.values().sum::<usize>(), all.join(", "))
    }
}

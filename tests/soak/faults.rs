//! What goes wrong: links that are cut or slow, nodes that are killed, stopped and started; and what persons order
//! meanwhile: repositories change hands, planned, after a death, and while a master that nobody reaches goes on;
//! descriptions, READMEs and HEAD change.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{Dice, REPOS, repo};
use crate::world::{Actor, Answer, Link, Node, Running, within};

/// What ends a fault.
#[derive(Clone, Copy, PartialEq)]
enum Cure {
    Restore(usize),
    Hurry(usize),
    Start(usize),
    Continue(usize),
    Rejoin(usize),
}

/// A node that was killed, or cut off, so that another is promoted stays away for so long, in milliseconds.
const DEATH: (u64, u64) = (2500, 6000);
/// Orders end by then, once all is well.
const ORDERED_WITHIN: Duration = Duration::from_secs(60);

pub struct Faults<'a> {
    admin: &'a Actor,
    nodes: &'a [Node; 3],
    links: &'a [Link],
    dice: Dice,
    open: Vec<(Instant, Cure)>,
    counts: BTreeMap<&'static str, usize>,
    /// Orders that have not ended, with what they are.
    orders: Vec<(&'static str, Running)>,
    promoted: BTreeSet<String>,
    /// The node that was last known to master each repository.
    masters: Vec<usize>,
}

impl<'a> Faults<'a> {
    pub fn new(admin: &'a Actor, nodes: &'a [Node; 3], links: &'a [Link], dice: Dice) -> Self {
        let (orders, promoted) = (Vec::new(), BTreeSet::new());
        let masters = (0..REPOS).map(|n| n % 3).collect();
        Self { admin, nodes, links, dice, open: Vec::new(), counts: BTreeMap::new(), orders, promoted, masters }
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
            self.note_orders();
        }
    }

    fn strike(&mut self) {
        let (link, node) = (self.dice.below(self.links.len()), self.dice.below(3));
        let well = !self
            .open
            .iter()
            .any(|(_, cure)| matches!(cure, Cure::Start(n) | Cure::Continue(n) | Cure::Rejoin(n) if *n == node));
        let (name, lasts, cure) = match self.dice.below(14) {
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
            10 => return self.order_settings(node),
            11 | 13 => {
                let at = self.dice.below(REPOS);
                let to = (self.masters[at] + 1 + self.dice.below(2)) % 3;
                let words = format!("mirror move {} --to {}", repo(at), self.nodes[to].name());
                return self.order("moves", self.masters[at], &words);
            }
            12 if well => {
                let dies = self.dice.below(2) == 0;
                if dies {
                    self.nodes[node].kill9();
                } else {
                    self.ways_of(node).for_each(Link::cut);
                }
                let heir = (node + 1 + self.dice.below(2)) % 3;
                let gone = self.nodes[node].name();
                self.order("promotions", heir, &format!("mirror promote --all-from {gone} --yes"));
                let (name, cure) = if dies { ("deaths", Cure::Start(node)) } else { ("cut off", Cure::Rejoin(node)) };
                (name, self.dice.millis(DEATH.0, DEATH.1), cure)
            }
            _ => return,
        };
        *self.counts.entry(name).or_default() += 1;
        self.open.push((Instant::now() + lasts, cure));
    }

    fn order_settings(&mut self, node: usize) {
        let (at, what) = (repo(self.dice.below(REPOS)), self.dice.below(1000));
        match what % 3 {
            0 => self.say("readmes", node, &format!("readme {at} set"), &format!("<p>{what}</p>\n")),
            1 => self.order("descriptions", node, &format!("desc {at} Number {what}")),
            _ => self.order(
                "heads",
                node,
                &format!("symbolic-ref {at} HEAD refs/heads/client{}/b{}", what % 7 % 3, what % 5),
            ),
        }
    }

    /// The links from and to a node; `mesh` makes them by the node that they start at.
    fn ways_of(&self, node: usize) -> impl Iterator<Item = &'a Link> {
        let ends = (0..3).flat_map(|from| (0..3).filter(move |to| *to != from).map(move |to| [from, to]));
        self.links.iter().zip(ends).filter(move |(_, ends)| ends.contains(&node)).map(|(link, _)| link)
    }

    fn say(&mut self, what: &'static str, node: usize, words: &str, text: &str) {
        let file = self.admin.dir().join("said");
        fs::write(&file, text).expect("writable");
        let mut command = self.admin.ssh_command(&[&format!("git@{}", self.nodes[node].name()), words]);
        command.stdin(fs::File::open(file).expect("just written"));
        self.orders.push((what, Running::start(command)));
    }

    fn order(&mut self, what: &'static str, node: usize, words: &str) {
        let host = format!("git@{}", self.nodes[node].name());
        self.orders.push((what, Running::start(self.admin.ssh_command(&[&host, words]))));
    }

    /// Counts the orders that have ended well.
    fn note_orders(&mut self) {
        let ended: Vec<_> = self.orders.extract_if(.., |(_, order)| order.has_ended()).collect();
        for (what, order) in ended {
            self.note(what, &order.end());
        }
    }

    fn note(&mut self, what: &'static str, answer: &Answer) {
        // Its answer may have been lost; what it says before it acts is enough for the doubt.
        if what == "promotions" {
            let names = answer.stdout.lines().filter(|line| line.contains("\tmastered by "));
            self.promoted.extend(names.filter_map(|line| line.split('\t').next()).map(str::to_owned));
        }
        // Whoever was asked names the master: it is, or it knows who is.
        let said = answer.stdout.lines().chain(answer.stderr.lines());
        for line in said {
            let at = (0..REPOS).find(|n| line.contains(&repo(*n)));
            let is = |words: [&str; 2], n: usize| line.contains(&words.join(self.nodes[n].name()));
            let named = (0..3).find(|n| is(["its master is ", ";"], *n) || is(["", " is the master of"], *n));
            if let (Some(at), Some(node)) = (at, named) {
                self.masters[at] = node;
            }
        }
        if answer.code == Some(0) {
            *self.counts.entry(what).or_default() += 1;
        }
    }

    /// The repositories that were taken from a dead master, once all orders have ended.
    pub fn promoted(&mut self) -> &BTreeSet<String> {
        let ended = within(ORDERED_WITHIN, || {
            self.note_orders();
            self.orders.is_empty()
        });
        assert!(ended, "orders that do not end: {}", self.orders.len());
        &self.promoted
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
                Cure::Rejoin(node) => self.ways_of(node).for_each(Link::restore),
            }
        }
    }

    /// All is well from here on.
    pub fn heal(&mut self) {
        self.open.iter_mut().for_each(|(at, _)| *at = Instant::now());
        self.cure(Instant::now());
    }

    /// How many orders have made another node a master.
    pub fn changed_hands(&self) -> usize {
        ["moves", "promotions"].iter().filter_map(|what| self.counts.get(what)).sum()
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

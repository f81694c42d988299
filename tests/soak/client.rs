//! One git client, which pushes at random, and writes down what it was told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Dice, REPOS, repo};
use crate::world::{Actor, Answer, Node, Running, within};

/// What a reference may be, by what was told.
#[derive(Debug, Default)]
struct Known {
    /// The last acknowledged value; `None`: not there.
    last: Option<String>,
    /// Values before that one, at which a promoted replica may have been.
    before: Vec<Option<String>>,
    /// Of pushes since then whose end is not known; creations stay, for one may be carried out after a deletion.
    maybe: Vec<Option<String>>,
}

/// What one client was told.
#[derive(Debug, Default)]
pub struct Ledger {
    /// References that no other client writes.
    own: BTreeMap<(usize, String), Known>,
    /// Acknowledged values of the branch that all clients move forward.
    shared: Vec<(usize, String)>,
    pub pushes: usize,
    pub acknowledged: usize,
    /// Why others were not, in git's last words, and how often.
    pub reasons: BTreeMap<String, usize>,
}

/// The line that says why, without what differs from one push to the next.
fn reason(answer: &Answer) -> String {
    let lines = || answer.stderr.lines().flat_map(|line| line.split('\r')).map(str::trim);
    let why =
        lines().find(|line| line.contains("FATAL") || line.starts_with("! ") || line.starts_with("remote: fatal"));
    let why = why.or_else(|| lines().find(|line| !line.is_empty())).unwrap_or("nothing was said");
    let words = why.split([' ', '/']).filter(|word| !word.chars().any(|c| c.is_ascii_digit()));
    words.collect::<Vec<_>>().join(" ")
}

impl Ledger {
    /// An attempt to set references, all or none, has ended.
    fn note(&mut self, repo: usize, set: &[(String, Option<String>)], acknowledged: bool) {
        self.pushes += 1;
        self.acknowledged += usize::from(acknowledged);
        for (name, value) in set {
            let known = self.own.entry((repo, name.clone())).or_default();
            if acknowledged {
                known.before.push(std::mem::replace(&mut known.last, value.clone()));
                // A promoted replica may have carried out what an older master has not.
                known.before.extend(known.maybe.extract_if(.., |maybe| maybe.is_none()));
            } else {
                known.maybe.push(value.clone());
            }
        }
    }

    /// What was promised and is not so, once all copies are equal. What a promotion has lost must be named: reachable from
    /// what is kept aside, if from nothing else. A deletion that it has lost is told by the reference that is there again.
    pub fn broken(&self, nodes: &[Node; 3], promoted: &BTreeSet<String>) -> Vec<String> {
        let mut broken = Vec::new();
        for n in 0..REPOS {
            let (name, changed) = (repo(n), promoted.contains(&repo(n)));
            let refs = nodes[0].refs(&name);
            let main = refs.get("refs/heads/main");
            let history = main.map(|main| reachable(&nodes[0], &name, main)).unwrap_or_default();
            let named: BTreeSet<String> = match changed {
                true => nodes.iter().flat_map(|node| reachable(node, &name, "--all")).collect(),
                false => BTreeSet::new(),
            };
            for ((_, reference), known) in self.own.range((n, String::new())..(n + 1, String::new())) {
                let is = refs.get(reference).cloned();
                let expected = is == known.last || known.maybe.contains(&is);
                let lost = known.before.contains(&is) && known.last.as_ref().is_none_or(|last| named.contains(last));
                if !(expected || changed && lost) {
                    broken.push(format!("{name} {reference} is {is:?}, and was told to be {known:?}"));
                }
            }
            for (_, oid) in self.shared.iter().filter(|(repo, _)| *repo == n) {
                if !history.contains(oid) && !named.contains(oid) {
                    broken.push(format!("{name}: {oid} was acknowledged on main, and is not in its history"));
                }
            }
        }
        broken
    }
}

fn reachable(node: &Node, repo: &str, from: &str) -> BTreeSet<String> {
    let listed = node.git(repo, &["rev-list", from]).succeeds().stdout;
    listed.lines().map(str::to_owned).collect()
}

pub struct Client {
    actor: Actor,
    nodes: [Node; 3],
    name: String,
    dice: Dice,
    trees: Vec<String>,
    commits: u64,
    ledger: Ledger,
}

impl Client {
    pub fn new(actor: &Actor, nodes: &[Node; 3], n: u64, dice: Dice) -> Self {
        let name = format!("client{n}");
        actor.git(&["init", "-q", &name]).succeeds();
        let mut client = Self {
            actor: actor.clone(),
            nodes: nodes.clone(),
            name,
            dice,
            trees: Vec::new(),
            commits: 0,
            ledger: Ledger::default(),
        };
        for (n, size) in [10, 3_000, 400_000].into_iter().enumerate() {
            let checkout = actor.checkout(&client.name);
            checkout.commit_random(&format!("file{n}"), size);
            client.trees.push(checkout.git(&["rev-parse", "HEAD^{tree}"]).succeeds().stdout.trim().to_owned());
        }
        client
    }

    pub fn run(&mut self, over: &AtomicBool) -> Ledger {
        while !over.load(Ordering::SeqCst) {
            self.step();
        }
        std::mem::take(&mut self.ledger)
    }

    fn step(&mut self) {
        let at = self.dice.below(REPOS);
        let branch = |n: usize| format!("refs/heads/{}/b{n}", self.name);
        let tag = format!("refs/tags/{}/t{}", self.name, self.commits);
        let (first, second) = (branch(self.dice.below(3)), branch(3 + self.dice.below(2)));
        match self.dice.below(10) {
            // On top of what it was, or a new beginning.
            0..=3 => {
                let parent = (self.dice.below(3) > 0).then(|| self.last(at, &first)).flatten();
                let new = self.commit(parent.as_deref());
                self.push(at, &[(first, Some(new))], false);
            }
            4 => self.push(at, &[(first, None)], false),
            5 => {
                let new = self.commit(None);
                self.push(at, &[(tag, Some(new))], false);
            }
            6 | 7 => {
                let (one, two) = (self.commit(None), self.commit(None));
                self.push(at, &[(first, Some(one.clone())), (second, Some(two)), (tag, Some(one))], true);
            }
            _ => self.move_main(at),
        }
    }

    fn last(&self, at: usize, name: &str) -> Option<String> {
        self.ledger.own.get(&(at, name.to_owned()))?.last.clone()
    }

    fn url(&mut self, at: usize) -> String {
        let node = self.dice.below(3);
        self.actor.url(&self.nodes[node], &repo(at))
    }

    fn git(&self, args: &[&str]) -> Running {
        Running::start(self.actor.git_command(&self.actor.dir().join(&self.name), args))
    }

    fn commit(&mut self, parent: Option<&str>) -> String {
        self.commits += 1;
        // Large ones are rare.
        let tree = self.trees[[0, 0, 0, 1, 1, 1, 1, 2][self.dice.below(8)]].clone();
        let message = format!("{} of {}", self.commits, self.name);
        let mut args = vec!["commit-tree", "-m", &message];
        args.extend(parent.into_iter().flat_map(|parent| ["-p", parent]));
        args.push(&tree);
        self.git(&args).end().succeeds().stdout.trim().to_owned()
    }

    /// Runs a push to its end, or kills it somewhere.
    fn outcome(&mut self, args: &[&str]) -> Option<Answer> {
        let mut push = self.git(args);
        if self.dice.below(12) == 0 {
            let patience = self.dice.millis(1, 250);
            if !within(patience, || push.has_ended()) {
                *self.ledger.reasons.entry("the client was killed".to_owned()).or_default() += 1;
                return None;
            }
        }
        let answer = push.end();
        if answer.code != Some(0) {
            *self.ledger.reasons.entry(reason(&answer)).or_default() += 1;
        }
        Some(answer)
    }

    fn push(&mut self, at: usize, set: &[(String, Option<String>)], atomic: bool) {
        let url = self.url(at);
        let specs: Vec<String> =
            set.iter().map(|(name, value)| format!("+{}:{name}", value.as_deref().unwrap_or_default())).collect();
        let mut args = vec!["push", "-q"];
        args.extend(atomic.then_some("--atomic"));
        args.push(&url);
        args.extend(specs.iter().map(String::as_str));
        let acknowledged = self.outcome(&args).is_some_and(|answer| answer.code == Some(0));
        self.ledger.note(at, set, acknowledged);
    }

    /// One branch that everybody moves, forward only.
    fn move_main(&mut self, at: usize) {
        let url = self.url(at);
        let fetched = self.git(&["fetch", "-q", &url, "+refs/heads/main:refs/main"]).end();
        let parent = match fetched.code {
            Some(0) => Some(self.git(&["rev-parse", "refs/main"]).end().succeeds().stdout.trim().to_owned()),
            _ if fetched.has("couldn't find remote ref") => None,
            _ => return,
        };
        let (new, url) = (self.commit(parent.as_deref()), self.url(at));
        let pushed = self.outcome(&["push", "-q", &url, &format!("{new}:refs/heads/main")]);
        let acknowledged = pushed.is_some_and(|answer| answer.code == Some(0));
        self.ledger.note(at, &[], acknowledged);
        if acknowledged {
            self.ledger.shared.push((at, new));
        }
    }
}

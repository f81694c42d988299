//! What must hold after each step of a simulation, whatever happens.

use super::super::Notice;
use super::super::notice::Kind;
use super::super::plan::Order;
use super::super::state::State;
use super::{Sim, TIMEOUT_MS, WORKERS};
use crate::model::{Epoch, HostName, RefUpdate, RepoName};

impl Sim {
    /// What a replica has confirmed is there until the master has moved on. With the convergence at the end, where each
    /// acknowledged update is on each copy, no acknowledged update is lost.
    pub(super) fn what_was_confirmed_is_there(&self) {
        for ((repo, peer), refs) in &self.confirmed {
            let there = self.replicas[peer].repos.get(repo);
            for (name, oid) in refs.iter().filter(|(name, oid)| self.repos[repo].get(name) == Some(*oid)) {
                let has = there.and_then(|there| there.get(name));
                assert_eq!(
                    has,
                    Some(oid),
                    "seed {} at {}: {name} of {repo} on {peer} was confirmed",
                    self.seed,
                    self.ms
                );
            }
        }
    }

    /// A push replaces no value of a stranger's unless a person has ordered it.
    pub(super) fn nothing_foreign_is_overwritten(
        &self,
        (repo, peer): (&RepoName, &HostName),
        order: Order,
        updates: &[RefUpdate],
    ) {
        let seed = self.seed;
        for update in updates.iter().filter(|update| self.foreign.contains(&update.old)) {
            assert!(order > Order::Usual, "seed {seed}: {update:?} of {repo} on {peer} is over a stranger's");
        }
    }

    pub(super) fn no_value_comes_from_nowhere(&self) {
        for (peer, replica) in &self.replicas {
            for oid in replica.repos.values().flat_map(std::collections::BTreeMap::values) {
                let known = self.history.contains(oid) || self.foreign.contains(oid);
                assert!(known, "seed {}: {peer} has {oid}", self.seed);
            }
        }
    }

    /// Whatever differs is queued, or running, or about to be compared; unless it is paused, waits for a person, or
    /// happened behind our back (that is found by the comparison every so often).
    pub(super) fn no_work_is_forgotten(&self) {
        for (peer, replica) in &self.replicas {
            let queue = &self.queues[peer];
            for (repo, refs) in &self.repos {
                let equal = replica.repos.get(repo) == Some(refs);
                let excused = self.pauses.of(repo, peer).is_some()
                    || self.behind_our_back.contains_key(&(repo.clone(), peer.clone()))
                    || matches!(self.board.state(repo, peer, self.now()), State::Diverged { .. });
                let planned = queue.is_known(repo) || queue.scan_is_due();
                let shown = self.board.list_of(repo, self.now());
                assert!(
                    equal || excused || planned,
                    "seed {} at {}: {repo} on {peer} is forgotten: {refs:?}, there {:?}: {shown:?}",
                    self.seed,
                    self.ms,
                    replica.repos.get(repo)
                );
            }
            let (queued, running) = queue.length();
            let stuck = queued > 0 && running == 0 && queue.next_try(WORKERS).is_none();
            assert!(!stuck, "seed {} at {}: the queue of {peer} is stuck: {queue:?}", self.seed, self.ms);
        }
    }

    pub(super) fn the_queue_is_bounded(&self) {
        for queue in self.queues.values() {
            let (queued, running) = queue.length();
            assert!(queued <= self.repos.len() && running <= WORKERS, "seed {}: {queue:?}", self.seed);
        }
    }

    pub(super) fn a_copy_in_step_is_equal(&self) {
        for status in self.board.list(self.now()) {
            let pair = (status.repo.clone(), status.peer.clone());
            if status.state == State::InStep && !self.behind_our_back.contains_key(&pair) {
                let there = self.replicas[&status.peer].repos.get(&status.repo);
                let (seed, ms) = (self.seed, self.ms);
                assert_eq!(there, Some(&self.repos[&status.repo]), "seed {seed} at {ms}: is shown in step: {status:?}");
            }
        }
    }

    pub(super) fn a_change_is_told_once(&mut self, notice: &Notice) {
        let seed = self.seed;
        match notice.kind {
            Kind::PeerDown => {
                let before = self.told.insert(notice.peer.clone(), Some(notice.at));
                assert!(before.flatten().is_none(), "seed {seed}: {notice:?} again");
            }
            Kind::PeerBack => {
                let before = self.told.insert(notice.peer.clone(), None);
                assert!(before.flatten().is_some(), "seed {seed}: {notice:?} of what was not away");
            }
            kind => {
                assert_eq!(notice.copies, notice.repos.len(), "so few are all named");
                for repo in &notice.repos {
                    let pair = (repo.clone(), notice.peer.clone());
                    let before = self.told_pairs.insert(pair, kind);
                    assert_ne!(before, Some(kind), "seed {seed} at {}: {notice:?} again", self.ms);
                    assert!(kind != Kind::Recovered || before.is_some(), "seed {seed}: recovered from nothing");
                }
            }
        }
    }

    pub(super) fn no_lower_epoch_is_accepted(&self, (repo, peer): (&RepoName, &HostName), epoch: Epoch) {
        let highest = self.opened.get(&(repo.clone(), peer.clone()));
        assert!(
            highest.is_none_or(|highest| epoch >= *highest),
            "seed {}: {repo} on {peer} took a lower epoch",
            self.seed
        );
    }

    /// All links heal, people do what they were asked to, and nothing else happens: the copies become equal.
    pub(super) fn the_replicas_converge(&mut self) {
        self.calm = true;
        for peer in self.peers() {
            self.heal(&peer);
            self.resume(&peer);
        }
        // What was sent before may still do harm; the comparison after it finds that.
        self.ms += TIMEOUT_MS;
        self.step();
        self.look_around();
        for _ in 0..20_000 {
            self.step();
            for peer in self.peers() {
                for repo in self.repos.clone().keys() {
                    if matches!(self.board.state(repo, &peer, self.now()), State::Diverged { .. }) {
                        let queue = self.queues.get_mut(&peer).expect("ours");
                        if !queue.is_known(repo) {
                            queue.ask(repo, Order::Repair).expect("room");
                        }
                    }
                }
            }
            let equal = self.replicas.values().all(|replica| replica.repos == self.repos);
            let known = self.board.list(self.now()).iter().all(|status| status.state == State::InStep);
            if equal && known {
                return self.every_acknowledged_update_is_on_every_copy();
            }
        }
        panic!("seed {}: not equal: {:#?}\n{:#?}", self.seed, self.board.list(self.now()), self.queues);
    }

    fn every_acknowledged_update_is_on_every_copy(&self) {
        for ((repo, name), value) in &self.acknowledged {
            for (peer, replica) in &self.replicas {
                assert_eq!(replica.repos[repo].get(name), value.as_ref(), "seed {}: {name} on {peer}", self.seed);
            }
        }
    }
}

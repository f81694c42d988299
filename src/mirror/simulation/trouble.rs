//! What happens to the nodes of a simulation, and how it ends.

use rand::Rng as _;

use super::super::pause::{Pause, Scope};
use super::super::state::Input;
use super::{Fault, Net, Sim, kept};
use crate::model::{Epoch, HostName, RefName};
use crate::peer::LinkError;

impl Sim {
    /// A push lands and is acknowledged; then its mark is made, unless the power goes.
    pub(super) fn land(&mut self) {
        let name = self.any_repo();
        let oid = self.fresh();
        self.history.insert(oid.clone());
        let target = self.one(["kept", "a", "b"].map(|n| RefName::parse(&format!("refs/heads/{n}")).expect("a name")));
        let delete = target != kept() && self.dice.random_bool(0.3);
        let refs = self.repos.get_mut(&name).expect("ours");
        if delete {
            refs.remove(&target);
        } else {
            refs.insert(target.clone(), oid.clone());
        }
        self.acknowledged.insert((name.clone(), target), (!delete).then_some(oid));
        if !self.calm && self.dice.random_bool(0.05) {
            return self.crash();
        }
        if self.fault == Some(Fault::ForgetsAMark) && self.dice.random_bool(0.1) {
            return;
        }
        for peer in self.peers() {
            self.board.apply(&name, &peer, Input::Marked, self.now());
            if self.pauses.of(&name, &peer).is_none() {
                self.queues.get_mut(&peer).expect("ours").mark(&name);
            }
        }
    }

    pub(super) fn fail_sessions(&mut self, peer: &HostName) {
        let all: Vec<u64> = self.sessions.iter().filter(|(_, s)| s.peer == *peer && !s.over).map(|(n, _)| *n).collect();
        for number in all {
            let why = "cut".to_owned();
            self.end(number, Err(LinkError::Closed { peer: peer.clone(), why }.into()));
        }
    }

    pub(super) fn heal(&mut self, peer: &HostName) {
        let now = self.now();
        self.replicas.get_mut(peer).expect("ours").net = Net::Up;
        self.board.link_works(peer, now);
        let queue = self.queues.get_mut(peer).expect("ours");
        queue.want_scan_of_new_link();
        queue.hurry();
    }

    /// Something happens, or nothing.
    pub(super) fn disturb(&mut self) {
        let peer = self.one(self.peers());
        match self.dice.random_range(0..100) {
            0..40 => self.land(),
            40..45 => self.crash(),
            45..48 => {
                // The replica crashes: what its git had in hand is lost, what it has said is not.
                self.replicas.get_mut(&peer).expect("ours").open.clear();
                self.fail_sessions(&peer);
            }
            48..54 => {
                let lose = self.dice.random_bool(0.5);
                self.wires.retain(|(_, to, _)| !lose || *to != peer);
                self.replicas.get_mut(&peer).expect("ours").net = Net::Down;
                self.fail_sessions(&peer);
            }
            54..57 => self.replicas.get_mut(&peer).expect("ours").net = Net::Silent,
            57..66 => self.heal(&peer),
            66..70 => self.jump = self.dice.random_range(-1_000_000..1_000_000),
            70..73 => {
                let scope = Scope::Copy(self.any_repo(), peer.clone());
                let pause = Pause { scope, by: "alice".into(), reason: String::new(), since: self.now().wall };
                self.pauses.add(pause.clone()).expect("a file");
                self.board.obey(&self.pauses, self.now());
                self.queues.get_mut(&peer).expect("ours").give_up(|repo| pause.scope.covers(repo, &peer));
            }
            73..77 => self.resume(&peer),
            77..79 => {
                let name = self.any_repo();
                self.replicas.get_mut(&peer).expect("ours").repos.remove(&name);
                self.is_behind_our_back(name, peer);
            }
            79..81 => {
                let (name, oid) = (self.any_repo(), self.fresh());
                self.foreign.insert(oid.clone());
                self.is_behind_our_back(name.clone(), peer.clone());
                self.replicas.get_mut(&peer).expect("ours").repos.entry(name).or_default().insert(kept(), oid);
            }
            81..85 => {
                self.epochs += 1;
                self.epoch = Epoch::parse(&self.epochs.to_string()).expect("positive");
            }
            _ => {}
        }
    }

    pub(super) fn resume(&mut self, peer: &HostName) {
        let over = self.pauses.remove(&Scope::Peer(peer.clone())).expect("a file");
        self.board.obey(&self.pauses, self.now());
        for pause in over {
            if let Scope::Copy(repo, peer) = &pause.scope {
                self.queues.get_mut(peer).expect("ours").hasten(repo);
            }
        }
    }
}

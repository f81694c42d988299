//! How far the writing end of a pipe may be ahead of the session that reads it at the peer.
//!
//! SSH's own window does not bound it: russh's server grants it when a packet arrives, hands the packet to the channel's
//! queue, and waits there with the whole connection while that is full. So the peer's door tells on the channel, as data
//! of a type of its own, how many bytes its session has taken, first that there are none yet; from then on the pipe keeps
//! fewer packets on their way than the queue holds, and a session that takes nothing stops its own pipe alone. No round
//! trip is added, and a peer that tells nothing is not waited for.

use std::collections::VecDeque;

/// What the door's queue of one channel holds, in packets.
pub const QUEUE: usize = 128;
/// Packets that may be on their way and in that queue. What it has room for beside them are the command, changes of the
/// window and the end.
pub(super) const AHEAD_MAX: usize = 112;
/// The door tells each time that its session has read so often; one read takes one packet, or a part of one.
pub const READS: u32 = 16;
/// The type of the data that tells (RFC 4254, section 5.2: private use).
pub const TAKEN: u32 = 0xfe00_0001;
/// The comment in the identification of who understands it (RFC 4253, section 4.2).
pub const UNDERSTOOD: &str = " taken";

/// Whether a client that introduced itself so wants to be told.
pub fn understands(identification: &[u8]) -> bool {
    identification.starts_with(b"SSH-2.0-gitmesh_") && identification.ends_with(UNDERSTOOD.as_bytes())
}

/// What tells that so many bytes were taken.
pub fn word(taken: u64) -> Vec<u8> {
    taken.to_be_bytes().to_vec()
}

/// What was sent on one channel and is not known to have been taken.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// The peer tells what it takes.
    told: bool,
    sent: u64,
    /// Where the packets that were not taken end, counted in bytes.
    ends: VecDeque<u64>,
    /// The beginning of a word.
    heard: Vec<u8>,
}

impl Ahead {
    pub(super) fn is_full(&self) -> bool {
        self.ends.len() >= AHEAD_MAX
    }

    /// A packet of `bytes` goes out.
    pub(super) fn send(&mut self, bytes: usize) {
        self.sent += bytes as u64;
        if self.told {
            self.ends.push_back(self.sent);
        }
    }

    /// Words of the peer, or parts of some.
    pub(super) fn hear(&mut self, data: &[u8]) {
        for byte in data {
            self.heard.push(*byte);
            if let Ok(word) = self.heard.as_slice().try_into() {
                self.heard.clear();
                let taken = u64::from_be_bytes(word);
                self.told = true;
                while self.ends.front().is_some_and(|end| *end <= taken) {
                    self.ends.pop_front();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_that_were_not_taken_are_counted_once_the_peer_tells() {
        let mut ahead = Ahead::default();
        for _ in 0..=AHEAD_MAX {
            ahead.send(1);
        }
        assert!(!ahead.is_full(), "this peer tells nothing");
        let before = ahead.sent;
        ahead.hear(&word(0));
        for _ in 0..AHEAD_MAX {
            assert!(!ahead.is_full());
            ahead.send(100);
        }
        assert!(ahead.is_full());
        ahead.hear(&word(before + 99));
        assert!(ahead.is_full(), "a part of a packet is still in the queue");
        let (first, rest) = (word(before + 250), word(before + 100 * AHEAD_MAX as u64));
        ahead.hear(&first[..3]);
        assert!(ahead.is_full());
        ahead.hear(&[&first[3..], &rest[..5]].concat());
        assert_eq!(ahead.ends.len(), AHEAD_MAX - 2);
        ahead.hear(&rest[5..]);
        assert!(ahead.ends.is_empty());
    }

    #[test]
    fn only_a_node_that_understands_is_told() {
        assert!(understands(b"SSH-2.0-gitmesh_0.1.0 taken"));
        for other in ["SSH-2.0-gitmesh_0.1.0", "SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3", "SSH-2.0-x taken"] {
            assert!(!understands(other.as_bytes()), "{other}");
        }
    }
}

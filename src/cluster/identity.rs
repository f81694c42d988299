//! Is this still the disk that its peers know? Pure.
//!
//! Each data disk has a random id and a counter that rises at every start and every minute, and is on the disk before
//! anybody is told of it. Peers remember the last that they were told. A disk that was restored from an older backup
//! comes with a number that it has already passed (or with the same number and another run), and a wiped one under the
//! old name with another id. Either way its commits may be older than what its replicas have, so it is no master before
//! a person says so. What `gitmesh backup restore` has made says so itself, by a mark on the disk, and is doubted from its
//! first start on, whether or not a peer can be reached. A disk that learns this of itself takes a new id and remembers those it had, or was known by: so
//! the same doubt is never raised twice.

use std::fmt;

/// Former ids that are kept; more restores than this of one node are told in its history, not here.
const FORMER_MAX: usize = 16;

/// What a node says of its disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    pub id: String,
    pub count: u64,
    /// Random at each start.
    pub run: String,
    /// Ids under which it was known before.
    pub former: Vec<String>,
}

/// What a disk is to somebody who remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Same,
    /// The same disk as it was some time ago.
    Older,
    /// Another disk under its name.
    Other,
}

/// Sixteen hexadecimal digits.
pub fn is_disk(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

impl Disk {
    /// What this disk is to somebody who remembers `known` of it.
    pub fn judged_by(&self, known: &Self) -> Verdict {
        if self.former.contains(&known.id) {
            Verdict::Same
        } else if self.id != known.id {
            Verdict::Other
        } else if self.count < known.count || self.count == known.count && self.run != known.run {
            Verdict::Older
        } else {
            Verdict::Same
        }
    }

    /// The disk under a new id, after it was found to be older than, or other than, what `known` was.
    #[must_use]
    pub fn renamed(mut self, id: String, known: &Self) -> Self {
        for former in [self.id, known.id.clone()] {
            if !self.former.contains(&former) {
                self.former.push(former);
            }
        }
        let excess = self.former.len().saturating_sub(FORMER_MAX);
        self.former.drain(..excess);
        Self { id, ..self }
    }

    /// Reads what `Display` writes.
    pub fn parse(word: &str) -> Option<Self> {
        let mut parts = word.splitn(4, ':');
        let mut id = || parts.next().filter(|id| is_disk(id)).map(str::to_owned);
        let (id, run) = (id()?, id()?);
        let count = parts.next()?.parse().ok()?;
        let former: Vec<String> = parts.next()?.split(',').filter(|id| !id.is_empty()).map(str::to_owned).collect();
        (former.len() <= FORMER_MAX && former.iter().all(|id| is_disk(id))).then_some(Self { id, count, run, former })
    }
}

impl fmt::Display for Disk {
    /// One word: `ID:RUN:COUNT:FORMER,FORMER`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, count, run, former } = self;
        write!(f, "{id}:{run}:{count}:{}", former.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(id: u64, count: u64, run: u64) -> Disk {
        Disk { id: format!("{id:016x}"), count, run: format!("{run:016x}"), former: Vec::new() }
    }

    #[test]
    fn a_disk_that_went_back_is_known_and_doubted_once() {
        let known = disk(1, 7, 20);
        for (said, verdict) in [
            (disk(1, 8, 21), Verdict::Same),
            (disk(1, 7, 20), Verdict::Same),
            (disk(1, 7, 21), Verdict::Older),
            (disk(1, 6, 20), Verdict::Older),
            (disk(2, 9, 20), Verdict::Other),
        ] {
            assert_eq!(said.judged_by(&known), verdict, "{said}");
            assert_eq!(Disk::parse(&said.to_string()), Some(said.clone()));
            if verdict != Verdict::Same {
                let renamed = said.clone().renamed(format!("{:016x}", 3), &known);
                assert_eq!(renamed.judged_by(&known), Verdict::Same);
                assert_eq!(renamed.judged_by(&said), Verdict::Same);
                assert_eq!(Disk::parse(&renamed.to_string()), Some(renamed.clone()));
                // An older state of it, from before it was renamed, is found out again.
                assert_eq!(said.judged_by(&renamed), Verdict::Other);
            }
        }
        for bad in ["", "a:b:1:", "0000000000000001:0000000000000001:x:", "0000000000000001:0000000000000001:1:z"] {
            assert_eq!(Disk::parse(bad), None, "{bad}");
        }
    }
}

//! Who owns what: for each repository, whether its master is this node, another one, or nobody here.
//!
//! Promises: an answer at once, from memory and from what it is told of a repository's creator. Never: touches a
//! repository or runs git; it says who owns, others act.
//! Without a coordination engine the places are fixed by the configuration (`fixed`), and by the orders of persons that
//! stand above it: `masters` (pure) holds their rules, `identity` (pure) tells whether a disk is still the one its peers
//! know, `ledger` keeps both on the data disk.

mod fixed;
pub mod identity;
mod ledger;
mod masters;
#[cfg(test)]
mod simulation;

pub use fixed::{Cluster, Creators, Epochs, How, in_force};
pub use identity::Disk;
pub use ledger::{Files, Masters, Write};
pub use masters::{Promotion, Table};

use crate::model::{Epoch, HostName, Target, Upstream};

/// Where a repository lives, seen from this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Pushes are taken here, and carried to the replicas. A repository that is not mirrored has none.
    Here { epoch: Epoch, replicas: Vec<Replica> },
    /// This node holds a replica; with `redirect`, what users push or order here is carried to the master.
    There { master: HostName, redirect: bool },
    /// No master sends it here: it is mirrored between other nodes, or the configuration names none.
    Elsewhere,
}

/// What has to do with servers outside the mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Foreign {
    /// Where a repository that is mastered here is pushed too, by name.
    pub targets: Vec<Target>,
    /// Which one it follows.
    pub upstream: Option<Upstream>,
}

impl Foreign {
    pub fn target(&self, name: &HostName) -> Option<&Target> {
        self.targets.iter().find(|target| target.name == *name)
    }
}

/// Another node's copy of a repository that is mastered here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    pub name: HostName,
    pub how: How,
    /// It may carry its users' pushes here, under their names.
    pub redirect: bool,
}

impl Replica {
    /// Whether it is kept equal without being asked for it.
    pub fn is_automatic(&self) -> bool {
        matches!(self.how, How::Async | How::Sync)
    }
}

impl Place {
    /// The copies of a repository that is mastered here, by name.
    pub fn replicas(&self) -> &[Replica] {
        match self {
            Self::Here { replicas, .. } => replicas,
            Self::There { .. } | Self::Elsewhere => &[],
        }
    }

    pub fn replica(&self, name: &HostName) -> Option<&Replica> {
        self.replicas().iter().find(|replica| replica.name == *name)
    }

    /// The nodes that are kept equal without being asked for it.
    pub fn automatic(&self) -> impl Iterator<Item = &HostName> {
        self.replicas().iter().filter(|replica| replica.is_automatic()).map(|replica| &replica.name)
    }
}

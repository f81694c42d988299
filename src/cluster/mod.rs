//! Who owns what: for each repository, whether its master is this node, another one, or nobody here.
//!
//! Promises: an answer at once, from memory and from what it is told of a repository's creator. Never: touches a
//! repository or runs git; it says who owns, others act.
//! Without a coordination engine the places are fixed by the configuration (`fixed`).

mod fixed;

pub use fixed::{Cluster, Creators};

use crate::model::{Epoch, HostName};

/// Where a repository lives, seen from this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Pushes are taken here, and carried to the replicas. A repository that is not mirrored has none.
    Here { epoch: Epoch, replicas: Vec<HostName> },
    /// This node holds a replica; the named node is the master.
    There(HostName),
    /// No master sends it here: it is mirrored between other nodes, or the configuration names none.
    Elsewhere,
}

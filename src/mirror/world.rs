//! What mirroring asks of the rooms below.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::cluster::{Cluster, Foreign, Masters, Place, Promotion};
use crate::git::objects::ObjectsError;
use crate::model::time::Stamp;
use crate::model::{HostName, RepoName};
use crate::repo::{Gates, Gone, Metadata, Ownership, Store};

type Ask<T> = Box<dyn Fn(&RepoName) -> T + Send + Sync>;
type Orders = Vec<(RepoName, Promotion)>;

/// Functions, so that tests need no configuration.
pub(super) struct World {
    /// This node's name.
    pub node: HostName,
    pub locate: Ask<Place>,
    pub foreign: Ask<Foreign>,
    /// The other nodes that have a part in the repository, whoever is its master now.
    pub partners: Ask<BTreeSet<HostName>>,
    pub masters: Masters,
    /// Has the promotions looked through that the configuration may have ended; what is ordered by that.
    pub review: Box<dyn Fn() -> std::io::Result<Orders> + Send + Sync>,
    pub dir: Ask<Option<PathBuf>>,
    pub ownership: Ask<Option<Ownership>>,
    pub metadata: Ask<Metadata>,
    pub digest: Ask<Result<String, ObjectsError>>,
    pub list: Box<dyn Fn() -> std::io::Result<Vec<RepoName>> + Send + Sync>,
    pub restored: Ask<Option<Stamp>>,
    pub gone: Gone,
    pub gates: Gates,
}

impl World {
    pub(super) fn new(cluster: &Cluster, store: &Store) -> Self {
        let (places, parts, directories, owners) = (cluster.clone(), cluster.clone(), store.clone(), store.clone());
        let (abroad, reviewed) = (cluster.clone(), cluster.clone());
        let (described, compared, back, listed) = (store.clone(), store.clone(), store.clone(), store.clone());
        Self {
            node: cluster.host().clone(),
            locate: Box::new(move |repo| places.locate(repo)),
            foreign: Box::new(move |repo| abroad.foreign(repo)),
            partners: Box::new(move |repo| parts.partners(repo)),
            masters: cluster.masters().clone(),
            review: Box::new(move || reviewed.review()),
            dir: Box::new(move |repo| directories.open_as_daemon(repo)),
            ownership: Box::new(move |repo| owners.ownership(repo)),
            metadata: Box::new(move |repo| described.metadata(repo)),
            digest: Box::new(move |repo| compared.digest(repo)),
            list: Box::new(move || listed.list()),
            restored: Box::new(move |repo| back.restored(repo)),
            gone: store.gone().clone(),
            gates: store.gates().clone(),
        }
    }
}

//! From a checked commit and the machine's own files to the one value that decides.

use std::io;
use std::sync::Arc;

use crate::git::objects;
use crate::model::Oid;
use crate::policy::Keyring;

use super::Emergency;
use super::activate::Start;
use super::compile::{Checked, Surroundings};
use super::peers::load_peers;
use super::realm::{Live, Parts};

pub(super) fn surroundings(start: &Start) -> io::Result<Surroundings> {
    let (no_keys, _) = Keyring::compile(&[]);
    Ok(Surroundings {
        node: start.node.clone(),
        settings: start.settings.clone(),
        identity: start.identity.clone(),
        peers: load_peers(&start.data, &start.node, &no_keys)?.peers,
        programs: Some(start.programs.clone()),
    })
}

/// `counted` is an earlier commit with its generation, so that not all of the history is walked again.
pub(super) fn live(
    start: &Start,
    checked: Checked,
    emergency: Emergency,
    counted: Option<(Oid, u64)>,
) -> io::Result<(Arc<Live>, Vec<String>)> {
    let known = load_peers(&start.data, &start.node, &checked.keyring)?;
    let Checked { commit, policy, keyring, admin_alias, keys, .. } = checked;
    let generation = objects::commit_count(&start.store.admin_dir(), &commit, counted.as_ref()).unwrap_or(0);
    let (node, address, peers) = (start.node.clone(), start.address.clone(), known.peers);
    let config_keys = start.settings.config_keys.clone();
    let authorities = start.settings.authorities.clone();
    let policy = Arc::new(policy);
    let parts = Parts {
        masters: start.masters.clone(),
        policy,
        keyring,
        peers,
        emergency,
        node,
        address,
        generation,
        commit,
        admin_alias,
        keys,
        config_keys,
        authorities,
    };
    Ok((Arc::new(Live::new(parts)), known.problems))
}

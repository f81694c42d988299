//! Repositories that follow a server outside the mesh.

use super::denial::Denial;
use super::here::you;
use super::realm::Live;
use crate::model::{ADMIN_REPO, Actor, RepoName};
use crate::policy::{Access, Facts};

/// What follows a server outside the mesh takes no pushes.
pub(super) fn refuse(live: &Live, facts: &Facts<'_>, actor: &Actor, repo: &RepoName, access: Access) -> Option<Denial> {
    if access == Access::Read || repo.as_str() == ADMIN_REPO {
        return None;
    }
    let upstream = live.policy.foreign(facts).1?;
    Some(Denial {
        first: format!("FATAL: '{repo}' is kept equal to {} and takes no pushes", upstream.target.url),
        you: Some(you(actor)),
        rule: None,
        help: "push there; an administrator can take option mirror.upstream away".to_owned(),
        code: Denial::UPSTREAM,
    })
}

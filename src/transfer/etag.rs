//! A master's push into a repository with very many references: it is not told all of them each time. See
//! [`crate::git::etag`].

use super::{Request, Transfer};
use crate::git::etag::Look;
use crate::git::refs::Snapshot;
use crate::model::RefUpdate;
use crate::repo::Repo;

impl Transfer {
    /// How the references are, for a master that speaks of it; nothing for a short list.
    pub(super) async fn look(&self, request: &Request, repo: &Repo) -> Option<Look> {
        request.mirror.as_ref()?.etag.as_ref()?;
        let dir = repo.dir().to_owned();
        let look = tokio::task::spawn_blocking(move || Look::of(&Snapshot::of_all(&dir)?));
        look.await.ok()?.unwrap_or_else(|error| {
            tracing::debug!(%error, repo = %repo.name, "the references cannot be looked at; they are listed");
            None
        })
    }

    /// The etag after a push, if nothing has happened here besides.
    pub(super) async fn etag_after(&self, repo: &Repo, before: Look, landed: &[RefUpdate]) -> Option<String> {
        let (dir, foreseen) = (repo.dir().to_owned(), before.after(landed)?);
        let look = tokio::task::spawn_blocking(move || Look::of(&Snapshot::of_all(&dir)?)).await.ok()?.ok()??;
        (look == foreseen).then(|| look.etag())
    }
}

//! Copies here that the configuration does not place on this node any more, and that are too many to go unasked: people
//! are told once, and when it is over.

use std::sync::Arc;
use std::time::Duration;

use super::notice::{Kind, Notice};
use super::state::Moment;
use super::{Inner, Mirror};
use crate::model::RepoName;

/// Which they are now; reads directories.
pub(super) type Source = Box<dyn Fn() -> std::io::Result<Vec<RepoName>> + Send + Sync>;

impl Mirror {
    /// Where they are asked for, at each look at the configuration. Only the first call counts.
    pub fn watch_left_over(&self, source: impl Fn() -> std::io::Result<Vec<RepoName>> + Send + Sync + 'static) {
        self.inner.left_over.get_or_init(|| Box::new(source));
    }

    /// Which they are now, by name. Reads directories.
    pub fn left_over(&self) -> Vec<RepoName> {
        self.inner.left_over()
    }
}

impl Inner {
    fn left_over(&self) -> Vec<RepoName> {
        let found = self.left_over.get().map_or_else(|| Ok(Vec::new()), |source| source());
        found.unwrap_or_else(|error| {
            tracing::error!(%error, "what the configuration has left over here cannot be found out");
            Vec::new()
        })
    }

    /// Tells when there are some, and when there are none any more. Blocks.
    pub(super) fn tell_left_over(&self) {
        let (found, here) = (self.left_over(), &self.world.node);
        let told = self.history().open(Kind::LeftOver, Kind::LeftOverGone).contains_key(here);
        if told != found.is_empty() {
            return;
        }
        let kind = if told { Kind::LeftOverGone } else { Kind::LeftOver };
        let mut notice = Notice::new(kind, here.clone(), Moment::now().wall);
        found.into_iter().for_each(|repo| notice.add(repo, "", Duration::ZERO));
        self.tell(Arc::new(notice));
    }
}

//! Repositories that git found to be damaged on this node: people are told once, and how each is mended.

use std::sync::Arc;
use std::time::Duration;

use super::notice::{Kind, Notice};
use super::state::Moment;
use super::{Inner, Mirror};
use crate::cluster::Place;
use crate::model::RepoName;

/// What has changed since the last call: what git says of a damaged repository, or `None` of one that is sound again.
pub(super) type News = Box<dyn Fn() -> Vec<(RepoName, Option<String>)> + Send + Sync>;

impl Mirror {
    /// Where news of damage come from; asked every second, may block. Only the first call counts.
    pub fn watch_damage(&self, news: impl Fn() -> Vec<(RepoName, Option<String>)> + Send + Sync + 'static) {
        self.inner.damage_news.get_or_init(|| Box::new(news));
    }

    /// How a repository that is damaged here is mended.
    pub fn cure_of_damage(&self, repo: &RepoName) -> String {
        self.inner.cure_of_damage(repo)
    }
}

impl Inner {
    fn cure_of_damage(&self, repo: &RepoName) -> String {
        let (here, place) = (&self.world.node, (self.world.locate)(repo));
        match (&place, place.replicas().first()) {
            (Place::There { master, .. }, _) => {
                format!("on {master}, 'gitmesh mirror repair {here} {repo}' makes it anew")
            }
            (Place::Here { .. }, Some(replica)) => format!(
                "hand it over to a sound copy, 'gitmesh mirror move {repo} --to {to}', and there \
                 'gitmesh mirror repair {here} {repo}' makes it anew",
                to = replica.name
            ),
            _ => "no node has a copy of it; bring it back from a backup: gitmesh backup help".to_owned(),
        }
    }

    /// Tells what has changed. Blocks.
    pub(super) fn tell_damage(&self) {
        let Some(news) = self.damage_news.get() else { return };
        for (repo, said) in news() {
            let now = Moment::now();
            let (kind, detail) = match said {
                Some(said) => {
                    let said = said.lines().next().unwrap_or_default().to_owned();
                    (Kind::Damaged, format!("{said}; {}", self.cure_of_damage(&repo)))
                }
                None => (Kind::Sound, String::new()),
            };
            let here = self.world.node.clone();
            self.board().journal.add(&repo, &here, kind.word(), &detail, now.wall);
            let mut notice = Notice::new(kind, here, now.wall);
            notice.add(repo, &detail, Duration::ZERO);
            self.tell(Arc::new(notice));
        }
    }
}

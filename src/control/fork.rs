//! `fork`: a repository of one's own that begins with all that another one has, in gitolite's form.

use super::{Control, Reply, help, parse_repo};
use crate::admin::CreateError;
use crate::model::{Actor, RepoName};

impl Control {
    /// `fork FROM TO`
    pub(super) async fn fork(&self, actor: &Actor, words: &[&str]) -> Reply {
        let [from, to] = *words else { return help::wrong(&["fork"]) };
        let (from, to) = match (parse_repo(from), parse_repo(to)) {
            (Ok(from), Ok(to)) => (from, to),
            (Err(reply), _) | (_, Err(reply)) => return reply,
        };
        self.blocking(actor, move |control, actor| control.make_fork(actor, &from, &to)).await
    }

    fn make_fork(&self, actor: &Actor, from: &RepoName, to: &RepoName) -> Reply {
        match self.realm.fork(actor, from, to) {
            Ok(true) => {
                self.mirror.mark(to);
                Reply { err: format!("{from} forked to {to}\n"), ..Reply::default() }
            }
            Ok(false) => Reply::fail(6, format!("FATAL: '{to}' has just been made by somebody else")),
            Err(CreateError::Denied(denial)) => Reply::denied(&denial),
            Err(CreateError::Failed(error)) => {
                tracing::error!(%error, repo = %to, %from, "a fork cannot be made");
                Reply::broken("the fork cannot be made", &error)
            }
        }
    }
}

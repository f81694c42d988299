//! `sudo`: an administrator gives a command as somebody else, in gitolite's form. The audit names both.

use tokio::io::AsyncRead;

use super::{Control, Live, Reply, help};
use crate::model::{Actor, UserName};

impl Control {
    /// `sudo USER COMMAND ...`, for those who may write the admin repository.
    pub(super) async fn sudo(
        &self,
        actor: &Actor,
        words: &[&str],
        from: &str,
        input: impl AsyncRead + Unpin + Send,
        live: &Live,
    ) -> Reply {
        if let Err(reply) = self.administers(actor, "'sudo'") {
            return reply;
        }
        let [user, command @ ..] = words else { return help::wrong(&["sudo"]) };
        // Once is enough, and a line could hold thousands.
        if command.is_empty() || command[0] == "sudo" {
            return help::wrong(&["sudo"]);
        }
        let name = match UserName::new(user) {
            Ok(name) => name,
            Err(error) => return Reply::fail(2, format!("FATAL: '{user}' is no user: {error}")),
        };
        let (key, by) = match actor {
            Actor::User { key, by, .. } => (key.clone(), by.clone()),
            _ => (self.node.key.clone(), None),
        };
        tracing::info!(user = %actor, r#as = %name, command = command[0], "sudo");
        let other = Actor::User { name, key, by };
        if let Some(refusal) = self.switched_off(&other, command) {
            return refusal;
        }
        Box::pin(self.carry_out(&other, command, from, input, live)).await
    }
}

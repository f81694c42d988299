//! Who has logged in, and what is said to whoever has not.

use russh::keys::{Certificate, HashAlg, PublicKey, PublicKeyBase64};
use russh::server::Auth;

use super::session::Session;
use crate::admin::Denial;
use crate::model::Actor;
use crate::observe::metrics;

impl Session {
    /// What an unknown key is told (RFC 4256, section 3.2: an instruction without a prompt).
    pub(super) fn explanation(&self) -> String {
        let node = &self.shared.control.node;
        if self.crowded {
            let name = &node.name;
            return format!(
                "gitmesh on {name}: you have half of all connections here already; close some, then try again. [{}]\n",
                Denial::BUSY
            );
        }
        if let Some(barred) = &self.barred {
            return format!("gitmesh on {}: {barred}\n", node.name);
        }
        let login = &node.user;
        let mut text = match &self.wrong_login {
            Some(wrong) => {
                let (name, code) = (&node.name, Denial::LOGIN);
                format!("gitmesh on {name}: log in as '{login}', not as '{wrong}': ssh {login}@{name} [{code}]\n")
            }
            None => format!("gitmesh on {}: none of the keys that your client offered is known here.\n", node.name),
        };
        for key in &self.unknown {
            text.push_str(&format!("  offered: {key}\n"));
        }
        if self.wrong_login.is_none() {
            if self.unknown.is_empty() {
                text.push_str("  offered: no key at all; is your key in ~/.ssh or in your agent (ssh-add -l)?\n");
            }
            if self.shared.control.realm.takes_certificates() {
                text.push_str(
                    "  A certificate that has expired, is not valid yet or is signed wrongly counts as none:\n    \
                     ssh-keygen -L -f KEY-cert.pub\n",
                );
            }
            let cure = "Send the .pub file of your key to an administrator, who puts it into keydir/ of gitmesh-admin.";
            text.push_str(&format!("{cure} [{}]\n", Denial::LOGIN));
        }
        text
    }

    pub(super) fn note_unknown(&mut self, key: String) {
        if self.unknown.len() < 20 && !self.unknown.contains(&key) {
            self.unknown.push(key);
        }
    }

    /// Remembers a key that opens nothing, for the explanation and the log.
    pub(super) fn refuse_key(&mut self, key: &PublicKey) {
        metrics::AUTH.of(&["publickey", "refused"]).add(1);
        let mut told = format!("{} {}", key.algorithm(), key.fingerprint(HashAlg::Sha256));
        if let Some((user, denial)) = self.shared.control.realm.barred(&key.public_key_bytes(), self.from.ip()) {
            let why = if denial.code == Denial::EXPIRED { "expired" } else { "bound to other addresses" };
            told.push_str(&format!(" ({why}, of {user})"));
            self.barred = Some(denial);
        }
        self.note_unknown(told);
    }

    /// The same for a certificate whose key was proved.
    pub(super) fn refuse_certificate(&mut self, certificate: &Certificate, denial: Denial) {
        metrics::AUTH.of(&["publickey", "refused"]).add(1);
        let plain =
            |text: &str| text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(100).collect::<String>();
        let key = PublicKey::from(certificate.public_key().clone()).fingerprint(HashAlg::Sha256);
        let ca = certificate.signature_key().fingerprint(HashAlg::Sha256);
        let (id, serial) = (plain(certificate.key_id()), certificate.serial());
        let principals = plain(&certificate.valid_principals().join(","));
        let why = denial.first.strip_prefix("FATAL: ").unwrap_or(&denial.first).to_owned();
        tracing::warn!(from = %self.from, %key, %ca, id, serial, principals, why, "a certificate is refused");
        self.note_unknown(format!("certificate \"{id}\" (serial {serial}) of {key} by CA {ca} ({why})"));
        self.barred = Some(denial);
    }

    /// Whoever has proved who they are takes a place.
    pub(super) fn admit(&mut self, actor: Actor) -> Auth {
        match &actor {
            Actor::User { name, .. } => {
                let most = (self.shared.settings().config.max_connections / 2).max(1);
                self.connection = self.shared.connected.enter(name.to_string(), most);
                if self.connection.is_none() {
                    self.crowded = true;
                    return Auth::reject();
                }
            }
            Actor::Node(node) => self.shared.control.node_seen(node),
            Actor::Local => {}
        }
        self.seat.authenticated();
        match &actor {
            Actor::User { by: Some(by), key, .. } => {
                tracing::info!(user = %actor, from = %self.from, %key, certificate = %by, "authenticated by a certificate");
            }
            _ => tracing::debug!(user = %actor, from = %self.from, "authenticated"),
        }
        self.actor = Some(actor);
        Auth::Accept
    }

    /// Asks again who this is: the configuration may have changed since this connection began, and time has passed. The
    /// error is for the client.
    pub(super) fn still_known(&mut self) -> Result<(), String> {
        let (realm, from) = (&self.shared.control.realm, self.from.ip());
        let found = match &self.certificate {
            Some(certificate) => {
                let found = realm.certify(certificate, &self.shared.settings().config.user, from);
                found.map_err(|denial| Some(("by certificate".to_owned(), denial)))
            }
            None if self.key.is_empty() => return Ok(()),
            None => realm
                .identify(&self.key, from)
                .ok_or_else(|| realm.barred(&self.key, from).map(|(user, denial)| (user.to_string(), denial))),
        };
        let refused = match found {
            Ok(actor) => {
                self.actor = Some(actor);
                return Ok(());
            }
            Err(refused) => refused,
        };
        self.actor = None;
        let Some((user, denial)) = refused else {
            return Err(Denial::plain(
                Denial::LOGIN,
                "FATAL: the key of this connection is not known here any more",
                "ask an administrator",
            )
            .to_string());
        };
        let why = denial.first.as_str();
        tracing::info!(user, from = %self.from, why, "refused: the key of this connection opens nothing any more");
        Err(denial.to_string())
    }
}

//! A refusal, in words for the one who was refused.

use std::fmt;
use std::time::Duration;

use crate::model::time::{Stamp, rfc3339};
use crate::model::{Fingerprint, HostName, RepoName};
use crate::policy::{CertificateProblem, Place};

/// Why an actor may not do something. `Display` gives plain ASCII lines for an `ERR` packet or for `remote:`: what
/// happened in gitolite's words, who is asking, the rule (only for those who may read the admin repository), the
/// cure, and the code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The first line, stable: scripts look for it.
    pub first: String,
    /// Who the door took the actor for.
    pub you: Option<String>,
    /// The rule that decided, and where it stands.
    pub rule: Option<Box<(String, Place)>>,
    pub help: String,
    pub code: &'static str,
}

impl Denial {
    /// May not read it, or there is nothing of that name; both read the same.
    pub const NO_ACCESS: &str = "E0201";
    /// May read it, but not write to it.
    pub const NO_WRITE: &str = "E0202";
    /// One reference of a push.
    pub const REF: &str = "E0203";
    /// `refs/gitmesh/*`
    pub const INTERNAL_REF: &str = "E0204";
    /// A push to a copy.
    pub const COPY: &str = "E0205";
    /// Mirrored between other nodes.
    pub const NOT_HERE: &str = "E0206";
    /// A mirror push that this node's configuration does not expect.
    pub const NOT_MASTER: &str = "E0207";
    /// A virtual ref: a rule about what the push brings.
    pub const VIRTUAL_REF: &str = "E0208";
    /// A check of what the push brings that refused by itself, or could not be made.
    pub const UNSEEN: &str = "E0209";

    /// May not make a repository of that name.
    pub const NO_CREATE: &str = "E0210";
    /// May make it, but a clone or push alone does not do so here.
    pub const AUTO_CREATE: &str = "E0211";
    /// An order that is for the repository's creator alone.
    pub const NOT_OWNER: &str = "E0212";

    /// What the configuration would undo at once.
    pub const NAMED: &str = "E0213";
    /// A deletion for good of what is not unlocked.
    pub const LOCKED: &str = "E0214";
    /// A repository has the name already.
    pub const EXISTS: &str = "E0215";
    /// Pushes are switched off for a while.
    pub const WRITES_OFF: &str = "E0216";
    /// A command that the configuration does not give to users.
    pub const COMMAND_OFF: &str = "E0217";

    /// A push to a repository that follows a server outside the mesh.
    pub const UPSTREAM: &str = "E0218";

    /// Lines of the configuration that a command does not change by itself.
    pub const BY_HAND: &str = "E0219";

    /// A node vouches for a user in a matter in which it is not believed.
    pub const NO_REDIRECT: &str = "E0220";
    /// A node vouches for somebody whom this node does not know.
    pub const UNKNOWN_USER: &str = "E0221";
    /// What a master alone can do, and the master cannot be reached.
    pub const UNREACHABLE: &str = "E0222";

    /// The repository is being handed over to another master.
    pub const MOVING: &str = "E0223";
    /// The master by name, whose disk may be older than its replicas.
    pub const DOUBTED: &str = "E0224";
    /// A push or an order of a master of the past.
    pub const PAST: &str = "E0225";

    /// A certificate that opens nothing, or nothing any more.
    pub const CERTIFICATE: &str = "E0230";
    /// A key that its user or an administrator has given an end.
    pub const EXPIRED: &str = "E0231";

    /// Users may not change their keys by themselves.
    pub const KEYS_OFF: &str = "E0232";
    /// A key of a type that is not taken.
    pub const KEY_TYPE: &str = "E0233";
    /// A key that somebody has already, or the name of one.
    pub const KEY_TAKEN: &str = "E0234";
    /// A new key that is to sign a text first.
    pub const KEY_PROOF: &str = "E0235";
    /// Without this key its user could not log in any more.
    pub const LAST_KEY: &str = "E0236";
    /// A code under which no new key waits, or which this key may not use.
    pub const KEY_CODE: &str = "E0237";

    /// A key that counts from other addresses alone.
    pub const BOUND: &str = "E0238";
    /// What an order would make lasts longer, or reaches further, than the key it is given with.
    pub const OUTLASTS: &str = "E0239";

    /// A login, or a new command on an open connection, with a certificate that does not count.
    pub fn certificate(problem: &CertificateProblem) -> Self {
        Self {
            first: format!("FATAL: your certificate opens nothing: {problem}"),
            you: None,
            rule: None,
            help: problem.cure().to_owned(),
            code: Self::CERTIFICATE,
        }
    }

    /// A login, or an order that a node carries, with a key that is bound to other addresses.
    pub fn bound(key: &Fingerprint, from: impl fmt::Display) -> Self {
        Self {
            first: format!("FATAL: your key {key} may not be used from {from}"),
            you: None,
            rule: None,
            help: "from=\"...\" in front of the key, in keydir/, says from where; use another key, or ask an administrator"
                .to_owned(),
            code: Self::BOUND,
        }
    }

    /// Something for administrators, or for the nodes of the mesh.
    pub const NOT_FOR_USERS: &str = "E0240";
    /// A command, a path or a request that is not understood.
    pub const NOT_UNDERSTOOD: &str = "E0241";
    /// As much as there may be at once.
    pub const BUSY: &str = "E0242";
    /// Nothing has the name.
    pub const NOT_FOUND: &str = "E0243";
    /// It was tried, and could not be done.
    pub const FAILED: &str = "E0244";
    /// Another node did not answer, or not in time.
    pub const AWAY: &str = "E0245";
    /// A fault of the server itself.
    pub const INTERNAL: &str = "E0246";
    /// A login, or a connection, of nobody who is known.
    pub const LOGIN: &str = "E0247";
    /// What would leave no good configuration.
    pub const CONFIGURATION: &str = "E0248";
    /// A push that only asked for its plan.
    pub const PLANNED: &str = "E0249";
    /// git's own objection to what was pushed.
    pub const GIT: &str = "E0250";
    /// A site's own hook.
    pub const HOOK: &str = "E0251";

    /// A refusal that has nothing to do with who asks.
    pub fn plain(code: &'static str, first: impl Into<String>, help: impl Into<String>) -> Self {
        Self { first: first.into(), you: None, rule: None, help: help.into(), code }
    }

    /// A refusal's text as every door shows it: with its code at the end, and where it names no cure, with the one that
    /// all refusals of that code have. A text that has a code already stays as it is.
    pub fn coded(code: &str, text: &str) -> String {
        let text = text.trim_end();
        if code_of(text).is_some() {
            return text.to_owned();
        }
        let cure = match code {
            Self::NOT_FOR_USERS => "ask an administrator",
            Self::NOT_UNDERSTOOD => "'help' lists the commands, 'help COMMAND' tells how one is written",
            Self::BUSY => "try again in a minute",
            Self::NOT_FOUND => "look at the name again; 'info' lists what you may use",
            Self::AWAY => "try again when that node answers; 'status' tells an administrator how the nodes are",
            Self::INTERNAL => "try again; tell an administrator when it fails again",
            _ => "'explain E0244' over ssh tells more",
        };
        let cured = ["help: ", "tell an administrator", "tell the operator", "try again", "copy the line again"];
        match cured.iter().any(|word| text.contains(word)) {
            true => format!("{text} [{code}]"),
            false => format!("{text}\n  help: {cure} [{code}]"),
        }
    }

    /// A refusal's first line with its code, for a place that has no more room.
    pub fn in_short(code: &str, text: &str) -> String {
        format!("{} [{}]", text.lines().next().unwrap_or_default(), code_of(text).unwrap_or(code))
    }

    /// A login, or a new command on an open connection, with a key that has expired.
    pub fn expired(key: &Fingerprint, at: Stamp) -> Self {
        Self {
            first: format!("FATAL: your key {key} has expired, at {}", rfc3339(at.moment())),
            you: None,
            rule: None,
            help: format!(
                "with another key of yours: 'keys expire {key} 365d', or 'keys add' for a new one; without one, send \
                 a new .pub file to an administrator"
            ),
            code: Self::EXPIRED,
        }
    }

    /// A push or an order while the repository is handed over.
    pub fn moving(repo: &RepoName) -> Self {
        Self {
            first: format!("FATAL: '{repo}' is being handed over to another master at this moment"),
            you: None,
            rule: None,
            help: "nothing has changed; try again in a few seconds".to_owned(),
            code: Self::MOVING,
        }
    }

    /// What only the master can do, on a node that cannot reach it, and has not for `down_for`.
    pub fn unreachable(
        node: &HostName,
        master: &HostName,
        repo: &RepoName,
        error: &dyn fmt::Display,
        down_for: Option<Duration>,
    ) -> Self {
        let since = match down_for.map(|time| time.as_secs()) {
            None | Some(0..=1) => format!("which {node} cannot reach"),
            Some(s @ 2..=119) => format!("which {node} has not reached for {s} s"),
            Some(s @ 120..=7199) => format!("which {node} has not reached for {} min", s / 60),
            Some(s) => format!("which {node} has not reached for {} h", s / 3600),
        };
        Self {
            first: format!("FATAL: '{repo}' is changed on its master {master} alone, {since}: {error}"),
            you: None,
            rule: None,
            help: format!(
                "nothing has changed; fetches go on here; try again when {master} is back, or tell an administrator"
            ),
            code: Self::UNREACHABLE,
        }
    }

    /// The reason for git's status line of one reference, `! [remote rejected] main -> main (...)`.
    pub fn short(&self) -> String {
        let reason = self.first.split_once(" DENIED ").map_or(self.first.as_str(), |(_, by)| by);
        match &self.rule {
            Some(rule) => format!("denied {reason}, {} [{}]", rule.1, self.code),
            None if reason.starts_with("by ") => format!("denied {reason} [{}]", self.code),
            None => format!("{reason} [{}]", self.code),
        }
    }
}

/// The code among the words of a text.
fn code_of(text: &str) -> Option<&str> {
    let code = |word: &&str| word.len() == 5 && word.starts_with('E') && word[1..].bytes().all(|b| b.is_ascii_digit());
    text.split(|c: char| !c.is_ascii_alphanumeric()).find(code)
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.first)?;
        if self.code == Self::NO_ACCESS {
            writeln!(f, "(or you mis-spelled the reponame)")?;
        }
        if let Some(you) = &self.you {
            writeln!(f, "  you:  {you}")?;
        }
        if let Some(rule) = &self.rule {
            writeln!(f, "  rule: {}   ({})", rule.0, rule.1)?;
        }
        write!(f, "  help: {} [{}]", self.help, self.code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Access;
    use crate::admin::testing::{Node, actor, host, key_line, repo};
    use crate::git::objects::Kind;
    use crate::model::{Actor, Oid, RefName, RefUpdate};

    #[test]
    fn every_text_gets_a_code_and_a_cure() {
        for (code, text, told) in [
            (Denial::BUSY, "FATAL: full\n", "FATAL: full\n  help: try again in a minute [E0242]"),
            (Denial::NOT_FOUND, "FATAL: no 'x'\n  help: see info", "FATAL: no 'x'\n  help: see info [E0243]"),
            (Denial::INTERNAL, "FATAL: x; tell an administrator", "FATAL: x; tell an administrator [E0246]"),
            (Denial::FAILED, "FATAL: x [E0212]\n  more\n", "FATAL: x [E0212]\n  more"),
            (Denial::FAILED, "the disk is full (E0226)", "the disk is full (E0226)"),
        ] {
            assert_eq!(Denial::coded(code, text), told);
        }
    }

    /// Every refusal there is, as the one who is refused reads it.
    #[test]
    fn refusals() {
        let node = Node::with(
            "repo docs\n R = bob\n RW = carol\n - dev = carol\nrepo closed\n RW+ = root\nrepo copied\n RW+ = bob\n \
             option mirror.master = server2\n option mirror.copies = server1\nrepo far\n RW+ = bob\n \
             option mirror.master = server2\n option mirror.copies = server3",
        );
        node.commit(&[("keydir/bob.pub", &key_line(2)), ("keydir/carol.pub", &key_line(3))]);
        let (_activator, realm, _) = node.run();
        let (alice, bob, carol) = (actor(&realm, 1), actor(&realm, 2), actor(&realm, 3));
        let asked = |actor: &Actor, name: &str, access| realm.authorize(actor, &repo(name), access).err();
        let here = |name: &str, access| realm.refuse_here(&bob, &repo(name), access);
        let one = Oid::parse(&"1".repeat(40)).unwrap();
        let judged = |name: &str, kind| {
            let update = RefUpdate { name: RefName::parse(name).unwrap(), old: one.clone(), new: one.clone() };
            realm.judge(&carol, &repo("docs"), &[(update, kind)], None).verdicts.remove(0).err()
        };
        let all = [
            ("read what is closed", asked(&bob, "closed", Access::Read)),
            ("read what is missing", asked(&bob, "missing", Access::Read)),
            ("read what is closed, as administrator", asked(&alice, "closed", Access::Read)),
            ("read what is missing, as administrator", asked(&alice, "missing", Access::Read)),
            ("write what may be read", asked(&bob, "docs", Access::Write)),
            ("a branch by rewind", judged("refs/heads/main", Kind::Rewind)),
            ("a branch deleted", judged("refs/heads/main", Kind::Delete)),
            ("a tag changed", judged("refs/tags/v1", Kind::FastForward)),
            ("an internal reference", judged("refs/gitmesh/x", Kind::Create)),
            ("a push to a copy", here("copied", Access::Write)),
            ("a read of what is elsewhere", here("far", Access::Read)),
            ("a mirror push by no master", realm.authorize_mirror(&host("server3"), &repo("copied"), None).err()),
        ];
        let told = |(what, denial): (&str, Option<Denial>)| {
            let denial = denial.unwrap_or_else(|| panic!("{what} is not refused"));
            format!("## {what}\n{denial}\nshort: {}\n\n", denial.short())
        };
        insta::assert_snapshot!(all.map(told).concat());
    }
}

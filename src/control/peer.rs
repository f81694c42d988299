//! `peer`: who the other nodes are, whether both directions work, and a node that comes by invitation.
//!
//! The proof of a link is gitolite's: `info`, asked with the nodes' own keys, answers `Hello server2, I am server1`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{Control, Reply};
use crate::admin::{Address, Admin, DataDir, Denial, Introduction, Invitations, Invited, News};
use crate::git::service::{from_word, to_word};
use crate::model::{Actor, HostName, RepoName};
use crate::peer::{LinkError, Links};
use crate::policy::{Mode, parse_public_key};

/// To dial, to ask and to hear the answer.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// Most bytes of an answer that is one line, or a few.
const ANSWER_MAX: usize = 64 << 10;
/// `info` on no repository at all: what is wanted is its first line.
const INFO: &str = "info -p '^$'";
const USAGE: &str = "usage: peer list [--json] | peer show NODE | peer ping [NODE]
add, remove, token and join are typed on the machine itself: gitmesh peer help";

/// What meeting other nodes needs. Cheap to clone.
#[derive(Clone)]
pub struct Peering {
    data: DataDir,
    admin: Admin,
    /// Held while a newcomer is written down.
    meeting: Arc<Mutex<()>>,
}

impl Peering {
    pub fn new(data: DataDir, admin: Admin) -> Self {
        Self { data, admin, meeting: Arc::default() }
    }

    pub fn data(&self) -> &DataDir {
        &self.data
    }
}

/// What a newcomer says of itself, as one exec line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinRequest {
    pub name: HostName,
    pub address: Address,
    /// Its identity, as OpenSSH writes it.
    pub key: String,
}

impl JoinRequest {
    pub fn exec_line(&self) -> String {
        let Self { name, address, key } = self;
        format!("gitmesh-join version=1 name={name} address={} key={}", to_word(&address.to_string()), to_word(key))
    }

    /// Words of a later version change nothing.
    fn parse(words: &[String]) -> Result<Self, String> {
        let value = |key: &str| words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('=')).unwrap_or("");
        let text = |key: &str| from_word(value(key)).ok_or(format!("the newcomer's {key} is not encoded"));
        if value("version") != "1" {
            return Err(format!(
                "this node joins by protocol version 1, not '{}'; upgrade the older node",
                value("version")
            ));
        }
        let name = HostName::new(value("name")).map_err(|e| format!("the newcomer's name: {e}"))?;
        let address = text("address")?.parse().map_err(|e| format!("the newcomer's address: {e}"))?;
        Ok(Self { name, address, key: text("key")? })
    }
}

/// What the inviting node answers, as one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    pub version: u32,
    pub node: String,
    /// Its identity, as OpenSSH writes it.
    pub key: String,
    /// Its clock, in milliseconds since 1970.
    pub now_ms: u64,
    /// Where it saw the newcomer come from.
    pub from: String,
    /// The branch of its admin repository that is live.
    pub branch: String,
    /// The node that takes pushes to the admin repository, if it is mirrored.
    pub admin_master: Option<String>,
    /// Whether the newcomer is named as a copy of the admin repository.
    pub admin_copy: bool,
}

/// A greeting that came over a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// `Hello server2, I am server1`
    pub line: String,
    pub took_us: u64,
}

/// Why there was no greeting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unheard {
    pub why: String,
    pub kind: Kind,
}

/// What kind of trouble it is, which decides the cure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    Unreachable,
    /// The other node does not know the asking one, which may change in a moment.
    Refused,
    WrongKey,
    /// The nodes know each other by other names than their own.
    Names,
    /// Also what a later version tells apart.
    #[serde(other)]
    Other,
}

/// What `gitmesh-call-back` answers: the way from the asked node to the asking one.
#[derive(Debug, Serialize, Deserialize)]
struct CalledBack {
    version: u32,
    heard: Option<Heard>,
    unheard: Option<Unheard>,
}

impl Unheard {
    fn of(error: &LinkError) -> Self {
        let kind = match error {
            LinkError::Unreachable { .. } | LinkError::Timeout { .. } => Kind::Unreachable,
            LinkError::Refused { .. } => Kind::Refused,
            LinkError::WrongKey { .. } => Kind::WrongKey,
            _ => Kind::Other,
        };
        Self { why: error.to_string(), kind }
    }

    fn because(why: String) -> Self {
        Self { why, kind: Kind::Other }
    }
}

/// Asks `peer` who we are and who it is; both names must be those that we know.
pub async fn greet(links: &Links, me: &HostName, peer: &HostName) -> Result<Heard, Unheard> {
    let said = links.ask(peer, INFO, ANSWER_MAX, PATIENCE).await.map_err(|error| Unheard::of(&error))?;
    let line = said.out.lines().next().unwrap_or_default().to_owned();
    if line == format!("Hello {me}, I am {peer}") {
        let took_us = u64::try_from(said.took.as_micros()).unwrap_or(u64::MAX);
        return Ok(Heard { line, took_us });
    }
    if said.err.contains(Denial::LOGIN) {
        // A link from before it was removed there, which is about to be closed.
        return Err(Unheard { why: format!("{peer} does not know the key of {me} any more"), kind: Kind::Refused });
    }
    let said: String = format!("{line} {}", said.err).chars().filter(|c| !c.is_control()).take(300).collect();
    let why = format!(
        "{peer} answered '{}' and not 'Hello {me}, I am {peer}'; the names in peers/ are not the nodes' own",
        said.trim()
    );
    Err(Unheard { why, kind: Kind::Names })
}

/// Asks `peer` to call this node and to report.
pub async fn call_back(links: &Links, peer: &HostName) -> Result<Heard, Unheard> {
    let said = links.ask(peer, "gitmesh-call-back version=1", ANSWER_MAX, PATIENCE * 2).await;
    let said = said.map_err(|error| Unheard::because(format!("{peer} could not be asked: {error}")))?;
    match serde_json::from_str::<CalledBack>(&said.out) {
        Ok(CalledBack { heard: Some(heard), .. }) => Ok(heard),
        Ok(CalledBack { unheard: Some(unheard), .. }) => Err(unheard),
        _ => Err(Unheard::because(format!(
            "{peer} cannot call back; is its gitmesh older? It said: {}",
            said.err.trim()
        ))),
    }
}

impl Control {
    pub(super) async fn peer_command(&self, actor: &Actor, words: &[&str]) -> Reply {
        if !self.may_see_peers(actor) {
            return Reply::fail(5, "FATAL: the nodes are shown to administrators only");
        }
        match *words {
            [] | ["list"] => self.peer_list(),
            ["list", "--json"] => self.peer_list_json(),
            ["show", name] => match self.known_peer(name) {
                Ok(name) => self.peer_show(&name),
                Err(reply) => reply,
            },
            ["ping"] => {
                let all: Vec<HostName> = self.realm.live().peers.keys().cloned().collect();
                self.ping(&all).await
            }
            ["ping", name] => match self.known_peer(name) {
                Ok(name) => self.ping(&[name]).await,
                Err(reply) => reply,
            },
            _ => Reply::fail(2, USAGE),
        }
    }

    pub(super) fn may_see_peers(&self, actor: &Actor) -> bool {
        matches!(actor, Actor::Local) || self.realm.may_administer(actor)
    }

    fn known_peer(&self, name: &str) -> Result<HostName, Reply> {
        let live = self.realm.live();
        let known = live.peers.keys().find(|peer| peer.as_str() == name).cloned();
        known.ok_or_else(|| {
            let all = live.peers.keys().map(HostName::as_str).collect::<Vec<_>>().join(" ");
            let all = if all.is_empty() { "none".to_owned() } else { all };
            Reply::fail(4, format!("FATAL: '{name}' is no peer of {}\nhelp: its peers: {all}", self.node.name))
        })
    }

    fn peer_list(&self) -> Reply {
        let live = self.realm.live();
        let mut out = String::new();
        for peer in live.peers.values() {
            let address = live.address_of(&peer.name);
            out.push_str(&format!("{}\t{address}\t{}\n", peer.name, fingerprint(&peer.key)));
        }
        if out.is_empty() {
            out.push_str(&format!(
                "{} knows no other node; 'gitmesh peer token' invites one, 'gitmesh peer add NAME.pub' adds one\n",
                self.node.name
            ));
        }
        Reply::done(out)
    }

    fn peer_list_json(&self) -> Reply {
        let live = self.realm.live();
        let peers: Vec<_> = live
            .peers
            .values()
            .map(|peer| {
                let address = live.address_of(&peer.name).to_string();
                serde_json::json!({"name": peer.name.as_str(), "address": address, "key": fingerprint(&peer.key)})
            })
            .collect();
        Reply::done(format!("{}\n", serde_json::json!({"node": self.node.name.as_str(), "peers": peers})))
    }

    fn peer_show(&self, name: &HostName) -> Reply {
        let live = self.realm.live();
        let Some(peer) = live.peers.get(name) else { return Reply::fail(4, "FATAL: it was removed just now") };
        let on_file = self.peering.data.peers().join(format!("{name}.pub")).exists();
        let known_by = if on_file {
            format!("peers/{name}.pub on this machine")
        } else {
            format!("keydir/server-{name}.pub in gitmesh-admin")
        };
        Reply::done(format!(
            "peer: {name}\naddress: {}\nkey: {}\nknown by: {known_by}\n",
            live.address_of(name),
            fingerprint(&peer.key)
        ))
    }

    async fn ping(&self, peers: &[HostName]) -> Reply {
        let (me, links) = (&self.node.name, &self.links);
        let mut reply = Reply::default();
        if peers.is_empty() {
            return self.peer_list();
        }
        for peer in peers {
            let there = greet(links, me, peer).await;
            // Without the way there nobody can be asked about the way back.
            let back = if there.is_ok() { Some(call_back(links, peer).await) } else { None };
            for (from, to, heard) in [(me, peer, Some(there)), (peer, me, back)] {
                match heard {
                    Some(Ok(heard)) => reply.out.push_str(&told(from, to, &heard)),
                    Some(Err(unheard)) => {
                        reply.err.push_str(&format!("{from} -> {to}\tFAILED: {}\n", unheard.why));
                        reply.code = 7;
                    }
                    None => {}
                }
            }
        }
        reply
    }

    /// A peer wants to know whether this node reaches it.
    pub(super) async fn call_back(&self, actor: &Actor, version: &str) -> Reply {
        let Actor::Node(peer) = actor else {
            return Reply::fail(5, "FATAL: this is asked by the nodes of the mesh only");
        };
        if version != "version=1" {
            return Reply::fail(2, format!("FATAL: {} calls back by version 1, not '{version}'", self.node.name));
        }
        let (heard, unheard) = match greet(&self.links, &self.node.name, peer).await {
            Ok(heard) => (Some(heard), None),
            Err(unheard) => (None, Some(unheard)),
        };
        json(&CalledBack { version: 1, heard, unheard })
    }

    /// The invitation whose key this is, ended or not: its holder may log in to use it, or to be told why not.
    pub fn invited(&self, key: &[u8]) -> Option<Invited> {
        Invitations::of(&self.peering.data).find(key)
    }

    /// The one command that an invitation is good for: the newcomer becomes a peer, and is told who this node is.
    pub async fn join(&self, invited: Invited, words: &[String], from: std::net::SocketAddr) -> Reply {
        if words.first().is_none_or(|word| word != "gitmesh-join") {
            let text = "FATAL: an invitation lets a node introduce itself and nothing else [E0606]\nhelp: on the new node: gitmesh peer join TOKEN";
            return Reply::fail(5, text);
        }
        let request = match JoinRequest::parse(&words[1..]) {
            Ok(request) => request,
            Err(why) => return Reply::fail(2, format!("FATAL: {why}")),
        };
        let me = self.clone();
        let written = tokio::task::spawn_blocking(move || me.meet(&invited, request, from));
        match written.await {
            Ok(reply) => reply,
            Err(error) => {
                tracing::error!(%error, "a newcomer's introduction panicked");
                Reply::fail(70, "FATAL: the server has a problem of its own; tell an administrator")
            }
        }
    }

    fn meet(&self, invited: &Invited, request: JoinRequest, from: std::net::SocketAddr) -> Reply {
        // What is checked here is still true when it is written, for whoever joins at the same time.
        let _alone = self.peering.meeting.lock().unwrap_or_else(PoisonError::into_inner);
        let (data, node) = (&self.peering.data, &self.node.name);
        let JoinRequest { name, address, key: line } = request;
        let key = match parse_public_key(&line) {
            Ok(key) => key,
            Err(error) => return Reply::fail(2, format!("FATAL: the newcomer's key: {error}")),
        };
        let fingerprint = key.fingerprint.clone();
        if let Err(ended) = invited.admits(&fingerprint, SystemTime::now()) {
            tracing::warn!(peer = %name, key = %fingerprint, %from, "an invitation that has ended was tried");
            return Reply::fail(5, ended.to_string());
        }
        let newcomer = Introduction { name: name.clone(), key, line, address: Some(address.clone()) };
        if name == *node {
            return Reply::fail(
                6,
                format!(
                    "FATAL: the inviting node is called '{node}' too; names must differ [E0605]\nhelp: give the new node another name: gitmesh init --name NAME"
                ),
            );
        }
        if let Some(known) = newcomer.other_key(data) {
            return Reply::fail(
                6,
                format!(
                    "FATAL: {node} knows another node called '{name}' ({known}) [E0605]\nhelp: give the new node another name; or, if it is that node made anew, on {node}: gitmesh peer remove {name}"
                ),
            );
        }
        if let Err(error) = newcomer.check(data, node, &self.store.dir(&admin_repo())) {
            return Reply::fail(6, format!("FATAL: {error} [E0605]"));
        }
        let written = Invitations::of(data)
            .use_up(invited, &name, &fingerprint)
            .map_err(|error| error.to_string())
            .and_then(|()| newcomer.write(data).map_err(|error| error.to_string()))
            .and_then(|made| match made.news {
                News::Nothing => Ok(()),
                _ => {
                    let applied = self.peering.admin.reload().map_err(|error| format!("{error:#}"))?;
                    self.mirror.mark_all(&applied.configured);
                    Ok(())
                }
            });
        if let Err(error) = written {
            tracing::error!(error, peer = %name, "a newcomer could not be written down");
            return Reply::fail(1, format!("FATAL: {node} could not write the newcomer down: {error}"));
        }
        tracing::info!(peer = %name, %address, key = %fingerprint, %from, "a node has joined by invitation");
        let key = match std::fs::read_to_string(data.public_key(node)) {
            Ok(line) => line.trim().to_owned(),
            Err(error) => return Reply::fail(1, format!("FATAL: {node} cannot read its own public key: {error}")),
        };
        let live = self.realm.live();
        let place = live.place(&admin_repo(), None);
        let admin_master = match &place.mode {
            Mode::Master => Some(node.to_string()),
            Mode::Copy { master } => Some(master.to_string()),
            _ => None,
        };
        json(&Joined {
            version: 1,
            node: node.to_string(),
            key,
            now_ms: now_ms(),
            from: from.ip().to_canonical().to_string(),
            branch: self.admin_branch(),
            admin_copy: place.copies.contains_key(name.as_str()),
            admin_master,
        })
    }

    fn admin_branch(&self) -> String {
        let head = std::fs::read_to_string(self.store.dir(&admin_repo()).join("HEAD")).unwrap_or_default();
        head.trim().strip_prefix("ref: refs/heads/").unwrap_or("main").to_owned()
    }
}

/// A direction that works, as a line: who asked whom, the greeting, milliseconds.
pub fn told(from: &HostName, to: &HostName, heard: &Heard) -> String {
    let ms = Duration::from_micros(heard.took_us).as_secs_f64() * 1000.0;
    format!("{from} -> {to}\t{}\t{ms:.1} ms\n", heard.line)
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn admin_repo() -> RepoName {
    RepoName::new(crate::admin::ADMIN_REPO).expect("a constant, and a valid name")
}

pub(super) fn fingerprint(blob: &[u8]) -> String {
    use sha2::Digest as _;
    format!("SHA256:{}", data_encoding::BASE64_NOPAD.encode(&sha2::Sha256::digest(blob)))
}

pub(super) fn json(value: &impl Serialize) -> Reply {
    match serde_json::to_string(value) {
        Ok(line) => Reply::done(format!("{line}\n")),
        Err(error) => Reply::fail(70, format!("FATAL: the answer cannot be written: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_line_and_is_read_back() {
        let request = JoinRequest {
            name: HostName::new("server2").unwrap(),
            address: "git@[::1]:2222".parse().unwrap(),
            key: "ssh-ed25519 AAAAC3+/= server2".to_owned(),
        };
        let line = request.exec_line();
        let words: Vec<String> = line.split(' ').skip(1).map(str::to_owned).collect();
        assert_eq!(JoinRequest::parse(&words), Ok(request));
        for bad in
            ["", "version=2", "version=1 name=a/b", "version=1 name=a address=x%0", "version=1 name=a address=-x"]
        {
            let words: Vec<String> = bad.split(' ').map(str::to_owned).collect();
            assert!(JoinRequest::parse(&words).is_err(), "{bad}");
        }
    }
}

//! One mirror push: git-receive-pack's protocol, version 0, spoken by us (gitprotocol-pack(5), "Pushing Data To a
//! Server"), with the pack that a push has brought, or one that `git pack-objects` makes.
//!
//! We speak it ourselves because `git push` would need an ssh command, a remote helper and their processes to reach a
//! pooled link, and would hide per-ref refusals in text; gitolite reads success out of such text and gets it wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::ours::Ours;
use super::pack::{self, CHUNK, EXCLUSIONS_EACH, EXCLUSIONS_MIN, Paying, Source, present};
use super::plan::{Obstacle, Order, Plan, plan};
use crate::git::objects::ObjectsError;
use crate::git::pktline::{self, Band, Packet, PktError, Reader};
use crate::git::process::Git;
use crate::git::protocol::{ETAG, UNCHANGED};
use crate::git::service::to_word;
use crate::model::{Epoch, Oid, RefName, RefUpdate, RepoName};
use crate::repo::{Metadata, Ownership};

/// Version of the exec line that both nodes must agree on.
const VERSION: u32 = 1;
/// The version that knows the word `keep`: what is overwritten is kept under `refs/gitmesh/lost/` there.
const KEEPING_VERSION: u32 = 2;
/// What a replica may advertise before we take it for broken.
const REFS_MAX: usize = 5_000_000;
/// How much progress text is kept for an error message, in bytes.
const PROGRESS_MAX: usize = 4096;

/// Why a push did not make the replica equal.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The replica's own words.
    #[error("{0}")]
    Refused(String),
    #[error("{}", refs_refused(.0))]
    Refs(Vec<(RefName, String)>),
    /// Nothing was sent: a person is asked first.
    #[error("held back: {}; {}", .0, .0.cure())]
    Held(Obstacle),
    #[error("the replica could not take the pack: {0}")]
    Unpack(String),
    #[error("the replica's git is broken off: {0}")]
    Fatal(String),
    #[error("the replica sent what is not git's push protocol: {0}")]
    Protocol(String),
    #[error("the connection ended before the replica had reported")]
    Ended,
    #[error("git pack-objects failed here: {0}")]
    Pack(String),
    #[error("read this repository")]
    Objects(#[from] ObjectsError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// The first few refs, and how many more.
fn refs_refused(refs: &[(RefName, String)]) -> String {
    let shown: Vec<String> = refs.iter().take(3).map(|(name, why)| format!("{name}: {why}")).collect();
    let more = refs.len().saturating_sub(3);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("the replica refused {}{more}", shown.join("; "))
}

impl From<PktError> for SendError {
    fn from(error: PktError) -> Self {
        match error {
            PktError::Io(error) => Self::Io(error),
            PktError::Truncated => Self::Ended,
            other => Self::Protocol(other.to_string()),
        }
    }
}

/// What a push changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sent {
    /// Updates that the replica confirmed.
    pub refs: usize,
    pub pack_bytes: u64,
    /// Names had to go before others could come; the rest takes another push.
    pub more: bool,
    /// The replica's word for the references that it has now, if it gives one.
    pub etag: Option<String>,
}

/// Whether a reader of the replica may see some of a push's references changed and others not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// All change in one transaction of the replica's git, or none (gitprotocol-pack(5), `atomic`). With the files
    /// format git locks all of them and then renames one after the other: a reader who lists references within
    /// those milliseconds may still see some old and some new values, but no crash or refusal leaves it so.
    Atomic,
    /// Each by itself, so that one that the replica refuses holds back no other.
    OneByOne,
}

/// How a push is to be made.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    pub order: Order,
    pub manner: Manner,
    /// The share of a replica's references, in percent, that may vanish at once.
    pub guard_refs: u8,
}

/// Told of each piece before it goes to the replica; returns how long it has to wait for its turn.
pub type Toll<'a> = &'a (dyn Fn(usize) -> Duration + Send + Sync);

/// What to run on the replica. It answers as git-receive-pack does, or with one `ERR` line. Before that it takes over
/// creator and roles; when the session has ended well it makes its HEAD name `head`. Words that an older replica does
/// not know change nothing there; without `metadata` it keeps what it has of that.
pub fn exec_line(
    repo: &RepoName,
    epoch: Epoch,
    ours: &Ours,
    owned: &Ownership,
    metadata: Option<&Metadata>,
    order: Order,
) -> String {
    // A replica that does not know how to keep what it has must refuse a repair instead of overwriting.
    let (version, keep) = if order == Order::Repair { (KEEPING_VERSION, " keep=lost") } else { (VERSION, "") };
    let mut line = format!("gitmesh-mirror-receive '{repo}' version={version} epoch={epoch}{keep}");
    if let Some(head) = &ours.head {
        line.push_str(&format!(" head={head}"));
    }
    if let Some(oid) = &ours.detached {
        line.push_str(&format!(" detached={oid}"));
    }
    if let Some(creator) = &owned.creator {
        line.push_str(&format!(" creator={creator}"));
    }
    // Also when there are none: what was taken away here must go there too.
    line.push_str(&format!(" roles={}", to_word(owned.roles.as_deref().unwrap_or_default())));
    if let Some(metadata) = metadata {
        line.push_str(&format!(" meta={}", metadata.to_word()));
    }
    if let Some(etag) = ours.etag() {
        line.push_str(&format!(" etag={etag}"));
    }
    line
}

/// Makes the replica at the other end of the two streams equal to `ours`, whose objects are in the repository `dir`,
/// or goes the first step towards that, see [`Sent::more`].
///
/// What stands in the way is told before anything is sent; whatever stays behind is found again by the difference.
pub async fn send(
    input: impl AsyncRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
    git: &Git,
    dir: &Path,
    ours: &Ours,
    terms: Terms,
    toll: Toll<'_>,
) -> Result<Sent, SendError> {
    let mut input = Reader::new(input);
    let mut theirs = read_advertisement(&mut input).await?;
    let plan = match ours.changes() {
        Some(changes) if theirs.can(UNCHANGED) => {
            let most = if changes.iter().any(|u| u.old.is_zero()) { EXCLUSIONS_MIN } else { EXCLUSIONS_EACH };
            theirs.refs.extend(ours.unchanged(most).await?);
            Plan::of(changes)
        }
        None if theirs.can(UNCHANGED) => {
            return Err(SendError::Protocol("it says to be as it was, and was not asked".to_owned()));
        }
        _ => plan(&*ours.all().await?, &theirs.refs),
    };
    let known = present(dir, plan.replaced().cloned().collect()).await?;
    if let Some(obstacle) = plan.obstacle(&known.into_iter().collect(), terms.guard_refs, terms.order) {
        // Without a flush packet, so that the replica takes it for a session that was given up.
        drop(output.shutdown().await);
        return Err(SendError::Held(obstacle));
    }
    let (updates, more) = plan.step();
    if updates.is_empty() {
        output.write_all(pktline::FLUSH).await?;
        output.shutdown().await?;
        drop(output);
        while input.next().await?.is_some() {}
        return Ok(Sent { etag: theirs.etag(), ..Sent::default() });
    }
    let capabilities = theirs.negotiate(&updates, terms.manner)?;
    let source = Source { git, dir, detached: ours.detached.as_ref(), pushed: ours.pushed(&updates) };
    let (commands, theirs) = (&updates, &theirs);
    let writing = async move {
        let mut paying = Paying { output: &mut output, toll };
        let written = write_push(&mut paying, source, commands, &capabilities, theirs).await;
        // In any case, and by dropping it too: a replica that waits for the rest of a pack must see that none will
        // come.
        let ended = output.shutdown().await;
        written.and_then(|bytes| Ok(ended.map(|()| bytes)?))
    };
    // Both at once: the replica may report, or be gone, before it has read everything.
    let (written, report) = tokio::join!(writing, read_report(&mut input, &updates));
    match (written, report) {
        (Ok(pack_bytes), Ok(etag)) => Ok(Sent { refs: updates.len(), pack_bytes, more, etag }),
        (Err(error @ (SendError::Pack(_) | SendError::Objects(_))), _) => Err(error),
        // The report says more than the broken pipe it caused.
        (_, Err(error)) | (Err(error), Ok(_)) => Err(error),
    }
}

/// Makes new references at the other end of the two streams, whose objects are in the repository `dir`; what is there
/// already is refused there.
pub async fn create(
    input: impl AsyncRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
    git: &Git,
    dir: &Path,
    refs: &[(RefName, Oid)],
) -> Result<(), SendError> {
    let mut input = Reader::new(input);
    let theirs = read_advertisement(&mut input).await?;
    let update = |(name, new): &(RefName, Oid)| RefUpdate { name: name.clone(), old: new.to_zero(), new: new.clone() };
    let updates: Vec<RefUpdate> = refs.iter().map(update).collect();
    let capabilities = theirs.negotiate(&updates, Manner::OneByOne)?;
    let source = Source { git, dir, detached: None, pushed: None };
    let (commands, theirs) = (&updates, &theirs);
    let writing = async move {
        let mut paying = Paying { output: &mut output, toll: &|_| Duration::ZERO };
        let written = write_push(&mut paying, source, commands, &capabilities, theirs).await;
        let ended = output.shutdown().await;
        written.and_then(|_| Ok(ended?))
    };
    let (written, report) = tokio::join!(writing, read_report(&mut input, &updates));
    report.and(written)
}

/// What the replica has and can.
#[derive(Debug, Default)]
pub(super) struct Advertisement {
    pub(super) refs: BTreeMap<RefName, Oid>,
    /// Objects it has besides (`.have`), from repositories it borrows from.
    pub(super) haves: Vec<Oid>,
    capabilities: BTreeSet<String>,
}

impl Advertisement {
    pub(super) fn can(&self, capability: &str) -> bool {
        self.capabilities.contains(capability)
    }

    fn etag(&self) -> Option<String> {
        self.capabilities.iter().find_map(|c| c.strip_prefix(ETAG)?.strip_prefix('=')).map(str::to_owned)
    }

    /// The capabilities of our first command line.
    fn negotiate(&self, updates: &[RefUpdate], manner: Manner) -> Result<String, SendError> {
        for needed in ["report-status", "side-band-64k"] {
            if !self.can(needed) {
                return Err(SendError::Protocol(format!("it does not offer '{needed}'")));
            }
        }
        if updates.iter().any(|u| u.new.is_zero()) && !self.can("delete-refs") {
            return Err(SendError::Refused("the replica forbids deletions (receive.denyDeletes?)".to_owned()));
        }
        let mut asked = "report-status side-band-64k".to_owned();
        let atomic = (manner == Manner::Atomic && updates.len() > 1).then_some("atomic");
        for wanted in ["delete-refs", "ofs-delta", "quiet"].into_iter().chain(atomic) {
            if self.can(wanted) {
                asked.push(' ');
                asked.push_str(wanted);
            }
        }
        let format = updates.first().map_or("sha1", |u| if u.new.as_str().len() == 64 { "sha256" } else { "sha1" });
        let offered = self.capabilities.iter().find_map(|c| c.strip_prefix("object-format=")).unwrap_or("sha1");
        if offered != format {
            return Err(SendError::Refused(format!("the replica's objects are {offered}, and ours are {format}")));
        }
        if self.can(&format!("object-format={format}")) {
            asked.push_str(&format!(" object-format={format}"));
        }
        asked.push_str(concat!(" agent=gitmesh/", env!("CARGO_PKG_VERSION")));
        Ok(asked)
    }
}

async fn read_advertisement<R: AsyncRead + Unpin>(input: &mut Reader<R>) -> Result<Advertisement, SendError> {
    let mut found = Advertisement::default();
    let bad = |line: &str| SendError::Protocol(format!("{line:?} where a reference was expected"));
    let mut first = true;
    loop {
        let packet = input.next().await?.ok_or(SendError::Ended)?;
        if let Some(refusal) = packet.refusal() {
            return Err(SendError::Refused(refusal));
        }
        let line = match packet {
            Packet::Flush => return Ok(found),
            Packet::Data(_) => packet.text().map(String::from_utf8_lossy).unwrap_or_default(),
            Packet::Delim | Packet::ResponseEnd => return Err(bad("0001")),
        };
        let (reference, capabilities) = line.split_once('\0').unwrap_or((&line, ""));
        if std::mem::take(&mut first) {
            found.capabilities = capabilities.split_ascii_whitespace().map(str::to_owned).collect();
        }
        if reference.starts_with("shallow ") {
            continue; // a replica with a shallow clone in it still knows what its refs point at
        }
        let (oid, name) = reference.split_once(' ').ok_or_else(|| bad(reference))?;
        let oid = Oid::parse(oid).ok_or_else(|| bad(reference))?;
        match name {
            ".have" => found.haves.push(oid),
            "capabilities^{}" => {}
            _ => match RefName::parse(name) {
                Some(name) => drop(found.refs.insert(name, oid)),
                // Such a name cannot be one of ours either, so nothing is lost by leaving it alone.
                None => tracing::debug!(name, "the replica has a reference whose name we cannot use"),
            },
        }
        if found.refs.len() + found.haves.len() > REFS_MAX {
            return Err(SendError::Protocol(format!("more than {REFS_MAX} references")));
        }
    }
}

/// Commands, and the pack unless there are only deletions. Returns the pack's length in bytes.
async fn write_push(
    output: &mut Paying<'_, impl AsyncWrite + Unpin>,
    source: Source<'_>,
    updates: &[RefUpdate],
    capabilities: &str,
    theirs: &Advertisement,
) -> Result<u64, SendError> {
    let mut buffer = Vec::new();
    for (n, RefUpdate { name, old, new }) in updates.iter().enumerate() {
        let capabilities = if n == 0 { format!("\0 {capabilities}") } else { String::new() };
        pktline::encode(&mut buffer, format!("{old} {new} {name}{capabilities}").as_bytes());
        if buffer.len() >= CHUNK {
            output.write_all(&buffer).await?;
            buffer.clear();
        }
    }
    buffer.extend_from_slice(pktline::FLUSH);
    output.write_all(&buffer).await?;
    if updates.iter().all(|u| u.new.is_zero()) {
        return Ok(0);
    }
    pack::write(output, source, updates, theirs).await
}

/// Reads to the end; success only if the pack was taken and each update confirmed. Returns the replica's etag.
async fn read_report<R: AsyncRead + Unpin>(
    input: &mut Reader<R>,
    updates: &[RefUpdate],
) -> Result<Option<String>, SendError> {
    let mut report = Report { waiting: updates.iter().map(|u| u.name.clone()).collect(), ..Report::default() };
    let (mut pending, mut progress) = (Vec::new(), Vec::new());
    while let Some(packet) = input.next().await? {
        if let Some(refusal) = packet.refusal() {
            return Err(SendError::Refused(refusal));
        }
        let Packet::Data(payload) = packet else { continue };
        match pktline::demultiplex(payload)? {
            Band::Data(data) => {
                pending.extend_from_slice(data);
                let mut used = 0;
                while let Some((packet, len)) = pktline::decode(&pending[used..])? {
                    report.line(packet)?;
                    used += len;
                }
                pending.drain(..used);
            }
            Band::Progress(text) => {
                let room = PROGRESS_MAX.saturating_sub(progress.len()).min(text.len());
                progress.extend_from_slice(&text[..room]);
            }
            Band::Fatal(text) => return Err(SendError::Fatal(String::from_utf8_lossy(text).trim().to_owned())),
        }
    }
    report.verdict(&String::from_utf8_lossy(&progress))
}

/// What `report-status` has said so far.
#[derive(Default)]
struct Report {
    /// `Some(None)`: the pack was taken.
    unpack: Option<Option<String>>,
    waiting: BTreeSet<RefName>,
    refused: Vec<(RefName, String)>,
    etag: Option<String>,
    ended: bool,
}

impl Report {
    fn line(&mut self, packet: Packet<'_>) -> Result<(), SendError> {
        let Some(text) = packet.text() else {
            self.ended = true;
            return Ok(());
        };
        let text = String::from_utf8_lossy(text);
        let bad = || SendError::Protocol(format!("{text:?} in its report"));
        let (kind, rest) = text.split_once(' ').ok_or_else(bad)?;
        match kind {
            "unpack" => self.unpack = Some((rest != "ok").then(|| rest.to_owned())),
            "ok" => {
                let name = RefName::parse(rest).ok_or_else(bad)?;
                self.waiting.remove(&name);
            }
            "ng" => {
                let (name, why) = rest.split_once(' ').unwrap_or((rest, "no reason given"));
                let name = RefName::parse(name).ok_or_else(bad)?;
                self.waiting.remove(&name);
                self.refused.push((name, why.to_owned()));
            }
            // Others are of report-status-v2, which we do not ask for.
            "option" => self.etag = rest.strip_prefix(ETAG).map(|etag| etag.trim().to_owned()).or(self.etag.take()),
            _ => return Err(bad()),
        }
        Ok(())
    }

    fn verdict(self, progress: &str) -> Result<Option<String>, SendError> {
        let said = |why: String| {
            let progress = progress.trim();
            if progress.is_empty() { why } else { format!("{why} (it said: {progress})") }
        };
        match self.unpack {
            None => Err(SendError::Ended),
            Some(Some(why)) => Err(SendError::Unpack(said(why))),
            Some(None) if !self.refused.is_empty() => Err(SendError::Refs(self.refused)),
            Some(None) if !self.waiting.is_empty() || !self.ended => Err(SendError::Ended),
            Some(None) => Ok(self.etag),
        }
    }
}

//! The last changes of each copy, for `mirror log`: a bounded ring in memory, and lines for the file behind it.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::durable;
use crate::model::{HostName, RepoName};

/// Entries kept of one repository …
pub(super) const REPO_MAX: usize = 64;
/// … and of all together, about 20 MB at most.
const TOTAL_MAX: usize = 50_000;
/// Lines that wait for the file; beyond, the oldest are lost, and the file says how many.
const LINES_MAX: usize = 10_000;
/// The file is put aside, and the one before it dropped, when it is longer, in bytes.
const FILE_MAX: u64 = 8 << 20;
/// What is kept of an error, in bytes.
const DETAIL_MAX: usize = 500;

/// Something that happened to one copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When; of what happened several times in a row, the last.
    pub at: SystemTime,
    pub peer: HostName,
    /// `pushed`, `failed`, `late`, `diverged`, `held`, `recovered`, `paused`, `resumed`, `missing`.
    pub what: String,
    pub detail: String,
    /// How often in a row the same happened.
    pub times: u64,
}

#[derive(Debug, Default)]
pub(super) struct Journal {
    repos: BTreeMap<RepoName, VecDeque<(u64, Entry)>>,
    /// All entries, oldest first, by their number.
    order: BTreeMap<u64, RepoName>,
    next: u64,
    lines: VecDeque<String>,
    lost: u64,
}

impl Journal {
    pub(super) fn add(&mut self, repo: &RepoName, peer: &HostName, what: &str, detail: &str, at: SystemTime) {
        let detail = detail.char_indices().take_while(|(n, _)| *n < DETAIL_MAX).map(|(_, c)| c).collect::<String>();
        let ring = self.repos.get_mut(repo);
        if let Some((_, last)) = ring.and_then(VecDeque::back_mut)
            && (&last.peer, last.what.as_str(), &last.detail) == (peer, what, &detail)
        {
            // The same error every 30 seconds is one entry, and one line.
            (last.at, last.times) = (at, last.times + 1);
            return;
        }
        let entry = Entry { at, peer: peer.clone(), what: what.to_owned(), detail, times: 1 };
        if self.lines.len() >= LINES_MAX {
            self.lines.pop_front();
            self.lost += 1;
        }
        self.lines.push_back(line(repo, &entry));
        self.keep(repo.clone(), entry);
    }

    fn keep(&mut self, repo: RepoName, entry: Entry) {
        let number = self.next;
        self.next += 1;
        let ring = self.repos.entry(repo.clone()).or_default();
        ring.push_back((number, entry));
        self.order.insert(number, repo);
        if ring.len() > REPO_MAX
            && let Some((oldest, _)) = ring.pop_front()
        {
            self.order.remove(&oldest);
        }
        if self.order.len() > TOTAL_MAX
            && let Some((_, repo)) = self.order.pop_first()
            && let Some(ring) = self.repos.get_mut(&repo)
        {
            ring.pop_front();
            if ring.is_empty() {
                self.repos.remove(&repo);
            }
        }
    }

    /// The newest `limit` entries of a repository, oldest first.
    pub(super) fn of(&self, repo: &RepoName, limit: usize) -> Vec<Entry> {
        let Some(ring) = self.repos.get(repo) else { return Vec::new() };
        ring.iter().skip(ring.len().saturating_sub(limit)).map(|(_, entry)| entry.clone()).collect()
    }

    /// What of this kind happened, oldest first: to which peer's copy, and when.
    pub(super) fn of_kind(&self, what: &str) -> Vec<(HostName, SystemTime)> {
        let found = self.repos.values().flatten().map(|(_, entry)| entry).filter(|entry| entry.what == what);
        let mut found: Vec<_> = found.map(|entry| (entry.peer.clone(), entry.at)).collect();
        found.sort_by_key(|(_, at)| *at);
        found
    }

    /// What was told of copies and is not over, also by an earlier run: the kind's word, and when. What happens to a copy
    /// that is paused is told when it goes on.
    pub(super) fn open(&self) -> Vec<(RepoName, HostName, String, SystemTime)> {
        let mut all = Vec::new();
        for (repo, ring) in &self.repos {
            let (mut open, mut untold) = (BTreeMap::new(), BTreeMap::new());
            for (_, Entry { at, peer, what, .. }) in ring {
                match what.as_str() {
                    "late" | "diverged" | "held" => match untold.get_mut(peer) {
                        Some(last) => *last = Some((what, at)),
                        None => drop(open.insert(peer, (what, at))),
                    },
                    "paused" => drop(untold.entry(peer).or_insert(None)),
                    "resumed" => open.extend(untold.remove(peer).flatten().map(|last| (peer, last))),
                    "recovered" | "trashed" => drop(open.remove(peer)),
                    _ => {}
                }
            }
            all.extend(open.into_iter().map(|(peer, (what, at))| (repo.clone(), peer.clone(), what.clone(), *at)));
        }
        all
    }

    /// The lines that are not in the file yet.
    pub(super) fn take_lines(&mut self) -> Vec<String> {
        let mut lines: Vec<String> = self.lines.drain(..).collect();
        if self.lost > 0 {
            tracing::warn!(lost = self.lost, "the mirror log could not be written fast enough; some lines are missing");
            self.lost = 0;
        }
        lines.shrink_to_fit();
        lines
    }

    /// Takes in what an earlier run wrote, before anything newer. Lines that are cut or of a later version are skipped.
    pub(super) fn restore(&mut self, text: &str) {
        let newer = std::mem::take(self);
        for line in text.lines() {
            if let Some((repo, entry)) = parse(line) {
                self.keep(repo, entry);
            }
        }
        for (number, repo) in newer.order {
            let ring = newer.repos.get(&repo);
            if let Some((_, entry)) = ring.and_then(|r| r.iter().find(|(n, _)| *n == number)) {
                self.keep(repo, entry.clone());
            }
        }
        (self.lines, self.lost) = (newer.lines, newer.lost);
    }
}

/// The file behind it, and the one before that: `mirror.log`, `mirror.log.old`. One JSON object a line.
#[derive(Debug, Clone)]
pub(super) struct Files {
    now: PathBuf,
    old: PathBuf,
    max: u64,
}

impl Files {
    pub(super) fn new(dir: &Path) -> Self {
        Self::named(dir, "mirror.log")
    }

    pub(super) fn named(dir: &Path, name: &str) -> Self {
        Self { now: dir.join(name), old: dir.join(format!("{name}.old")), max: FILE_MAX }
    }

    /// What is there, older lines first; at most twice the largest size of one.
    pub(super) fn read(&self) -> io::Result<String> {
        let mut text = String::new();
        for path in [&self.old, &self.now] {
            match fs::read(path) {
                Ok(bytes) => text.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            // A line that a power cut has cut off ends here.
            text.push('\n');
        }
        Ok(text)
    }

    /// Adds lines; history, so a power cut may take the last ones.
    pub(super) fn append(&self, lines: &[String]) -> io::Result<()> {
        let mut file = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&self.now)?;
        if file.metadata()?.len() > self.max {
            durable::rename("mirror.journal.rename", &self.now, &self.old)?;
            file = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&self.now)?;
        }
        file.write_all((lines.join("\n") + "\n").as_bytes())
    }
}

fn line(repo: &RepoName, entry: &Entry) -> String {
    let at = entry.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    let Entry { peer, what, detail, .. } = entry;
    let at = u64::try_from(at).unwrap_or(u64::MAX);
    json!({ "at": at, "repo": repo.as_str(), "peer": peer.as_str(), "what": what, "detail": detail }).to_string()
}

fn parse(line: &str) -> Option<(RepoName, Entry)> {
    let value: Value = serde_json::from_str(line).ok()?;
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(value.get("at")?.as_u64()?))?;
    let (repo, peer) = (RepoName::new(text("repo")?).ok()?, HostName::new(text("peer")?).ok()?);
    let (what, detail) = (text("what")?.to_owned(), text("detail")?.to_owned());
    Some((repo, Entry { at, peer, what, detail, times: 1 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> (RepoName, HostName) {
        (RepoName::new("a").expect("a name"), HostName::new("server2").expect("a name"))
    }

    #[test]
    fn the_same_again_is_one_entry_and_the_ring_is_bounded() {
        let (mut journal, (repo, peer)) = (Journal::default(), names());
        let at = SystemTime::now();
        for _ in 0..1000 {
            journal.add(&repo, &peer, "failed", "disk full", at);
        }
        assert_eq!(journal.take_lines().len(), 1);
        let all = journal.of(&repo, 10);
        assert_eq!((all.len(), all[0].times), (1, 1000));
        for n in 0..1000 {
            journal.add(&repo, &peer, "pushed", &n.to_string(), at);
        }
        assert_eq!((journal.of(&repo, usize::MAX).len(), journal.order.len()), (REPO_MAX, REPO_MAX));
        assert_eq!(journal.of(&repo, 2).iter().map(|e| e.detail.as_str()).collect::<Vec<_>>(), ["998", "999"]);
        for n in 0..TOTAL_MAX + 5 {
            journal.add(&RepoName::new(&format!("r{n}")).expect("a name"), &peer, "pushed", "", at);
        }
        assert_eq!(journal.order.len(), TOTAL_MAX);
        assert!(journal.of(&repo, 10).is_empty(), "the oldest go first");
        assert_eq!(journal.take_lines().len(), LINES_MAX);
    }

    #[test]
    fn the_files_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files { max: 1000, ..Files::new(dir.path()) };
        assert_eq!(files.read().unwrap().trim(), "");
        for n in 0..100 {
            files.append(&[format!("line {n} {}", "x".repeat(50))]).unwrap();
        }
        let text = files.read().unwrap();
        assert!(text.len() < 2300 && text.contains("line 99 ") && !text.contains("line 9 "), "{text}");
    }

    #[test]
    fn an_earlier_run_is_read_back_and_damage_is_skipped() {
        let (mut journal, (repo, peer)) = (Journal::default(), names());
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        journal.add(&repo, &peer, "failed", "line\nbreak \u{e9}", at);
        journal.add(&repo, &peer, "pushed", "1 reference", at);
        let before = journal.of(&repo, 10);
        let mut text = journal.take_lines().join("\n");
        text.push_str("\n{\"at\":1,\"repo\":\"a\",\"pe");
        let mut next = Journal::default();
        next.add(&repo, &peer, "late", "", at);
        next.restore(&text);
        let after = next.of(&repo, 10);
        assert_eq!((&after[..2], after[2].what.as_str()), (&before[..], "late"));
        assert_eq!(next.take_lines().len(), 1, "what was read is not written again");
    }

    #[test]
    fn what_was_told_and_is_not_over_is_known() {
        let (repo, peer) = (RepoName::new("a").expect("a name"), HostName::new("server2").expect("a name"));
        let open = |story: &str| {
            let mut journal = Journal::default();
            for (n, what) in story.split(' ').enumerate() {
                journal.add(&repo, &peer, what, "", SystemTime::UNIX_EPOCH + Duration::from_secs(n as u64));
            }
            let mut next = Journal::default();
            next.restore(&journal.take_lines().join("\n"));
            let open = next.open();
            open.first().map(|(_, _, what, at)| {
                format!("{what} {}", at.duration_since(SystemTime::UNIX_EPOCH).expect("after it").as_secs())
            })
        };
        for (story, told) in [
            ("failed missing pushed", None),
            ("failed late failed", Some("late 1")),
            ("late diverged", Some("diverged 1")),
            ("late recovered", None),
            ("held paused", Some("held 0")),
            ("paused diverged", None),
            ("paused diverged resumed", Some("diverged 1")),
            ("held paused diverged recovered resumed", Some("diverged 2")),
            ("held trashed", None),
        ] {
            assert_eq!(open(story).as_deref(), told, "{story}");
        }
    }
}

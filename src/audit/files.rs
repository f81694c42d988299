//! The files as they lie on the disk, and reading them: `audit-000000000001.ndjson`, named by the number of its first
//! record.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use sha2::{Digest as _, Sha256};

use super::record::{Kind, Record};

const PREFIX: &str = "audit-";
const SUFFIX: &str = ".ndjson";
/// The longest line, in bytes: a thousand references with long names.
const LINE_MAX: u64 = 16 << 20;

/// The directory of the files. Cheap to clone. All calls block.
#[derive(Debug, Clone)]
pub struct Files(PathBuf);

/// A chain without a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub files: usize,
    pub records: u64,
    /// The number of the first record that is kept.
    pub first: u64,
    pub last: u64,
    /// The hash of the newest line, to be kept elsewhere.
    pub head: String,
    /// Whether the hash that was asked about is in the chain.
    pub holds: bool,
}

/// The first thing that is wrong.
#[derive(Debug, thiserror::Error)]
pub enum Wrong {
    #[error("{file}:{line}: {what}")]
    Line { file: String, line: usize, what: &'static str },
    #[error("read the audit")]
    Io(#[from] io::Error),
}

/// The SHA-256 of a line, in hexadecimal digits.
pub(super) fn hash(line: &[u8]) -> String {
    format!("{:x}", Sha256::digest(line))
}

pub(super) fn file_name(first: u64) -> String {
    format!("{PREFIX}{first:012}{SUFFIX}")
}

impl Files {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self(dir)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.0
    }

    /// The number of its first record and the path of each, older ones first.
    pub(super) fn list(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        let mut found = Vec::new();
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            entries => entries?,
        };
        for entry in entries {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|n| n.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok());
            found.extend(number.map(|number: u64| (number, self.0.join(&name))));
        }
        found.sort();
        Ok(found)
    }

    /// Gives each whole line from record `since` on, older ones first, until `each` has enough.
    pub fn each(&self, since: u64, mut each: impl FnMut(&str) -> ControlFlow<()>) -> io::Result<()> {
        let files = self.list()?;
        // The last file that begins at or before the wanted record holds it.
        let begin = files.partition_point(|(first, _)| *first <= since).saturating_sub(1);
        for (_, path) in &files[begin..] {
            let Some(file) = open(path)? else { continue };
            let mut from = BufReader::with_capacity(256 << 10, file);
            let mut line = Vec::new();
            loop {
                line.clear();
                (&mut from).take(LINE_MAX).read_until(b'\n', &mut line)?;
                // What is not whole yet is being written.
                let Some(whole) = line.strip_suffix(b"\n") else { break };
                if let Ok(text) = std::str::from_utf8(whole)
                    && each(text).is_break()
                {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Gives each whole line that holds `needle`, newer ones first, until `each` has enough.
    pub fn each_back(&self, needle: &str, each: impl FnMut(&str) -> ControlFlow<()>) -> io::Result<()> {
        self.look_back(needle, None, each).map(drop)
    }

    /// As [`Files::each_back`], but no file is begun after `until`, and nothing is given after it: the files may hold
    /// many GiB, and what is asked for need not be in them. The moment of the oldest line that was looked at, if older
    /// ones were not. The newest file is looked at in any case.
    pub fn each_back_until(
        &self,
        needle: &str,
        until: Instant,
        each: impl FnMut(&str) -> ControlFlow<()>,
    ) -> io::Result<Option<String>> {
        self.look_back(needle, Some(until), each)
    }

    fn look_back(
        &self,
        needle: &str,
        until: Option<Instant>,
        mut each: impl FnMut(&str) -> ControlFlow<()>,
    ) -> io::Result<Option<String>> {
        let is_over = || until.is_some_and(|until| Instant::now() >= until);
        let finder = memchr::memmem::FinderRev::new(needle.as_bytes());
        let mut oldest: Option<String> = None;
        for (_, path) in self.list()?.iter().rev() {
            if oldest.is_some() && is_over() {
                return Ok(oldest);
            }
            let Some(mut file) = open(path)? else { continue };
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            oldest = bytes.split(|byte| *byte == b'\n').find_map(time_of).or(oldest);
            let mut end = bytes.len();
            while let Some(at) = finder.rfind(&bytes[..end]) {
                let start = memchr::memrchr(b'\n', &bytes[..at]).map_or(0, |newline| newline + 1);
                let stop = memchr::memchr(b'\n', &bytes[at..]).map(|newline| at + newline);
                if let Some(stop) = stop
                    && let Ok(text) = std::str::from_utf8(&bytes[start..stop])
                {
                    if each(text).is_break() {
                        return Ok(None);
                    }
                    if is_over() {
                        return Ok(time_of(text.as_bytes()).or(oldest));
                    }
                }
                end = start;
            }
        }
        Ok(None)
    }

    /// Follows the chain from the oldest line that is kept to the newest. `wanted` is a hash that was told earlier.
    pub fn verify(&self, wanted: Option<&str>) -> Result<Verified, Wrong> {
        let files = self.list()?;
        let mut found = Verified {
            files: files.len(),
            records: 0,
            first: 0,
            last: 0,
            head: String::new(),
            holds: wanted.is_none(),
        };
        let mut before: Option<(String, u64)> = None;
        let mut torn: Option<(String, usize, String)> = None;
        let newest = files.last().map(|(number, _)| *number).unwrap_or_default();
        for (number, path) in &files {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let wrong = |line, what| Wrong::Line { file: name.clone(), line, what };
            let Some(file) = open(path)? else { continue };
            let mut from = BufReader::with_capacity(256 << 10, file);
            let (mut line, mut at) = (Vec::new(), 0);
            loop {
                line.clear();
                at += 1;
                (&mut from).take(LINE_MAX).read_until(b'\n', &mut line)?;
                let Some(whole) = line.strip_suffix(b"\n") else {
                    if line.len() as u64 == LINE_MAX {
                        return Err(wrong(at, "this line is longer than a record can be"));
                    }
                    // The newest is being written, or was when the machine stopped.
                    if !line.is_empty() && *number != newest {
                        return Err(wrong(at, "this is no record"));
                    }
                    break;
                };
                let own = hash(whole);
                found.holds |= wanted == Some(own.as_str());
                let Ok(record) = serde_json::from_slice::<Record>(whole) else {
                    // A power cut may have left half a line; what follows must say so.
                    if torn.replace((own, at, name.clone())).is_some() {
                        return Err(wrong(at, "this is no record"));
                    }
                    continue;
                };
                let expected = match (&torn, &before) {
                    (Some((hash, ..)), _) if record.kind == Kind::Audit => Some(hash.as_str()),
                    (Some((_, line, file)), _) => {
                        return Err(Wrong::Line { file: file.clone(), line: *line, what: "this is no record" });
                    }
                    (None, Some((hash, _))) => Some(hash.as_str()),
                    (None, None) => None,
                };
                if expected.is_some_and(|expected| expected != record.prev) {
                    return Err(wrong(at, "the chain is broken: the line before it was changed, removed or inserted"));
                }
                if before.as_ref().is_some_and(|(_, seq)| seq + 1 != record.seq) || at == 1 && record.seq != *number {
                    return Err(wrong(at, "a record is missing: the numbers have a gap"));
                }
                if found.records == 0 {
                    found.first = record.seq;
                }
                found.records += 1;
                found.last = record.seq;
                found.head.clone_from(&own);
                (before, torn) = (Some((own, record.seq)), None);
            }
        }
        match torn {
            Some((_, line, file)) => Err(Wrong::Line { file, line, what: "this is no record" }),
            None => Ok(found),
        }
    }

    /// The hash of the newest line and the number of the next record; what a crash has left of an unfinished line, in
    /// bytes, is counted.
    pub(super) fn end(&self) -> io::Result<End> {
        let mut end = End { next: 1, ..End::default() };
        for (number, path) in self.list()?.iter().rev() {
            end.next = end.next.max(*number);
            let Some(mut file) = open(path)? else { continue };
            let length = file.seek(SeekFrom::End(0))?;
            if end.file.is_none() {
                end.file = Some(path.clone());
            }
            if length == 0 {
                continue;
            }
            file.seek(SeekFrom::Start(length.saturating_sub(LINE_MAX)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            let mut lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
            let unfinished = lines.pop().unwrap_or_default();
            end.unfinished = unfinished.len();
            let last = if unfinished.is_empty() { lines.last().copied().unwrap_or_default() } else { unfinished };
            end.hash = hash(last);
            let newest = lines.iter().rev().find_map(|line| serde_json::from_slice::<Record>(line).ok());
            if let Some(newest) = newest {
                end.next = end.next.max(newest.seq + 1);
            }
            break;
        }
        Ok(end)
    }
}

/// Where writing goes on.
#[derive(Debug, Default)]
pub(super) struct End {
    pub next: u64,
    pub hash: String,
    pub unfinished: usize,
    pub file: Option<PathBuf>,
}

/// The moment of a record.
fn time_of(line: &[u8]) -> Option<String> {
    serde_json::from_slice::<Record>(line).ok().map(|record| record.time)
}

/// `None` for one that was deleted meanwhile, since it is kept no longer.
fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

//! git bundles, version 2: a header with what must be there and what it brings, then a pack.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::BackupError;
use super::vault::Vault;
use crate::git::process::Git;
use crate::model::{Oid, RefName};

const SIGNATURE: &str = "# v2 git bundle\n";
const CHUNK: usize = 256 << 10;
/// Longest line of a header, in bytes.
const LINE_MAX: u64 = 8 << 10;
/// A pack's own header: `PACK`, version, number of objects (gitformat-pack(5)).
const PACK_HEADER: usize = 12;

/// What a bundle's header says.
#[derive(Debug, Default)]
pub(super) struct Header {
    pub needs: Vec<Oid>,
    pub brings: Vec<Oid>,
}

/// Puts what leads from `had` to `refs` into the vault. `None` when there is nothing to bring; with its bytes.
pub(super) async fn write(
    git: &Git,
    dir: &Path,
    vault: &Vault,
    refs: &BTreeMap<RefName, Oid>,
    had: &BTreeSet<Oid>,
) -> Result<Option<(String, u64)>, BackupError> {
    if refs.values().all(|oid| had.contains(oid)) {
        return Ok(None);
    }
    let failed = |said: String| BackupError::Git { command: "pack-objects", said };
    let wanted: BTreeSet<&Oid> = refs.values().collect();
    let mut asked: String = wanted.iter().map(|oid| format!("{oid}\n")).collect();
    asked.extend(had.iter().map(|oid| format!("^{oid}\n")));
    let words = ["--revs", "--stdout", "--quiet", "--delta-base-offset"];
    let mut git = git.pack(dir, &words).map_err(|e| failed(e.to_string()))?;
    let streams = (git.child.stdin.take(), git.child.stdout.take(), git.child.stderr.take());
    let (Some(mut stdin), Some(mut stdout), Some(stderr)) = streams else {
        return Err(failed("it has no streams".to_owned()));
    };
    let mut fresh = vault.begin()?;
    let mut header = SIGNATURE.to_owned();
    header.extend(had.iter().map(|oid| format!("-{oid} \n")));
    header.extend(refs.iter().map(|(name, oid)| format!("{oid} {name}\n")));
    header.push('\n');
    fresh.write(header.as_bytes())?;
    let give = async {
        // If it ends early it says why itself.
        drop(stdin.write_all(asked.as_bytes()).await);
        drop(stdin);
    };
    let take = async {
        let (mut chunk, mut first) = (vec![0; CHUNK], Vec::with_capacity(PACK_HEADER));
        loop {
            let n = stdout.read(&mut chunk).await.map_err(|e| failed(e.to_string()))?;
            if n == 0 {
                return Ok::<_, BackupError>(first);
            }
            first.extend_from_slice(&chunk[..n.min(PACK_HEADER - first.len())]);
            fresh.write(&chunk[..n])?;
        }
    };
    let mut said = String::new();
    let mut stderr = stderr.take(4096);
    let ((), first, read) = tokio::join!(give, take, stderr.read_to_string(&mut said));
    let (first, status) = (first?, git.child.wait().await);
    read.map_err(|e| failed(e.to_string()))?;
    if !status.is_ok_and(|status| status.success()) {
        return Err(failed(said.trim().to_owned()));
    }
    if first.get(8..) == Some(&[0; 4]) {
        return Ok(None); // everything is in the bundles before
    }
    let bytes = fresh.bytes;
    Ok(Some((vault.keep(fresh)?, bytes)))
}

/// Reads the header and leaves the file at its pack.
pub(super) fn open(path: &Path) -> Result<(Header, BufReader<File>), BackupError> {
    let mut file = BufReader::new(File::open(path).map_err(BackupError::io(path))?);
    let not_one = |why: &str| BackupError::NotOne { path: path.to_owned(), why: why.to_owned() };
    let mut header = Header::default();
    let mut line = Vec::new();
    for number in 0.. {
        line.clear();
        (&mut file).take(LINE_MAX).read_until(b'\n', &mut line).map_err(BackupError::io(path))?;
        let text = std::str::from_utf8(&line).ok().and_then(|line| line.strip_suffix('\n'));
        let text = text.ok_or_else(|| not_one("a bundle's header is cut off"))?;
        let oid = |text: &str| Oid::parse(text.split(' ').next().unwrap_or_default());
        match (number, text) {
            (0, text) if format!("{text}\n") == SIGNATURE => {}
            (0, _) => return Err(not_one("it is no git bundle of version 2")),
            (_, "") => break,
            (_, text) => match (text.strip_prefix('-').map(oid), oid(text)) {
                (Some(Some(needed)), _) => header.needs.push(needed),
                (None, Some(brought)) => header.brings.push(brought),
                _ => return Err(not_one("a bundle's header names no object")),
            },
        }
    }
    Ok((header, file))
}

/// Puts a bundle's pack into the repository at `dir`.
pub(super) async fn unpack(git: &Git, dir: &Path, path: &Path) -> Result<(), BackupError> {
    let failed = |said: String| BackupError::Git { command: "index-pack", said };
    let (_, mut file) = open(path)?;
    let mut git = git.start(dir, &["index-pack", "--stdin"], &[]).map_err(|e| failed(e.to_string()))?;
    let streams = (git.child.stdin.take(), git.child.stdout.take(), git.child.stderr.take());
    let (Some(mut stdin), Some(mut stdout), Some(stderr)) = streams else {
        return Err(failed("it has no streams".to_owned()));
    };
    let give = async {
        let mut chunk = vec![0; CHUNK];
        loop {
            match file.read(&mut chunk).map_err(BackupError::io(path))? {
                0 => break,
                n if stdin.write_all(&chunk[..n]).await.is_err() => break,
                _ => {}
            }
        }
        drop(stdin);
        Ok::<_, BackupError>(())
    };
    let (mut said, mut out) = (String::new(), Vec::new());
    let mut stderr = stderr.take(4096);
    let (given, read, _) = tokio::join!(give, stderr.read_to_string(&mut said), stdout.read_to_end(&mut out));
    given?;
    read.map_err(|e| failed(e.to_string()))?;
    match git.child.wait().await {
        Ok(status) if status.success() => Ok(()),
        _ => Err(failed(said.trim().to_owned())),
    }
}

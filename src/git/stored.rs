//! A clone's pack made of a stored one, where that holds nothing but what is asked for.
//!
//! To make a pack git copies and hashes every object, also those that lie in one large pack in the very form in which they are
//! to be sent. That pack may be sent as it is when no object in it is unreached, such as a deleted branch's:
//! git counts what the wants reach, and packs what of it the stored pack lacks. What is reached lies in one of the
//! two, and none lies in both, so equal numbers prove that all of the stored pack is reached. Otherwise git makes the pack as ever.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::OnceLock;

use sha1::{Digest as _, Sha1};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::process::{Git, Serving};
use super::protocol::revisions;
use super::receive::pack_objects;
use crate::model::Oid;

/// Bytes before a pack's first object, and of the sum after its last (gitformat-pack(5)).
const HEAD: usize = 12;
const SUM: usize = 20;
/// What the stored pack lacks is kept in memory for as long as the client takes to read it, so it is bounded.
const REST_MAX: u64 = 1 << 20;
/// Read and hashed at once.
const CHUNK: usize = 1 << 20;

/// The largest pack of a repository.
pub struct Stored {
    name: String,
    file: File,
    len: u64,
    objects: u32,
    /// Whether all objects of the repository lie in it.
    alone: bool,
}

impl Stored {
    /// `None` where there is none, or no bitmap, without which counting would take as long as packing. Blocks.
    pub fn largest(dir: &Path) -> io::Result<Option<Self>> {
        let folder = dir.join("objects/pack");
        let (mut packs, mut largest, mut bitmaps) = (0, (0, String::new()), Vec::new());
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            match Path::new(&name).extension().and_then(OsStr::to_str) {
                Some("pack") => {
                    packs += 1;
                    largest = largest.max((entry.metadata()?.len(), name));
                }
                Some("bitmap") => bitmaps.push(name),
                _ => {}
            }
        }
        let (_, name) = largest;
        let stem = name.trim_end_matches("pack");
        if stem.is_empty() || !bitmaps.iter().any(|b| b.starts_with("multi-pack-index-") || b.starts_with(stem)) {
            return Ok(None);
        }
        let file = File::open(folder.join(&name))?;
        let mut head = [0; HEAD];
        file.read_exact_at(&mut head, 0)?;
        let len = file.metadata()?.len();
        let alone = packs == 1 && has_only_packs(dir)?;
        Ok(pack_objects(&head).map(|objects| Self { name, file, len, objects, alone }))
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.len
    }

    /// The pack of all that `wants` reach, if nothing else is stored in this one. Deltas name their bases by offset in it.
    ///
    /// # Errors
    /// When git cannot tell.
    pub async fn complete(self, git: &Git, dir: &Path, wants: &[Oid]) -> io::Result<Option<Completed>> {
        let input = revisions(wants);
        // What is sent is what is stored, whatever refs/replace/ shows in its place.
        let env = [("GIT_NO_REPLACE_OBJECTS", "1".to_owned())];
        let count = ["rev-list", "--objects", "--count", "--use-bitmap-index", "--stdin"];
        let count = answer(git.start(dir, &count, &env)?, &input);
        let lacks = async {
            if self.alone {
                return Ok(Vec::new());
            }
            let keep = format!("--keep-pack={}", self.name);
            let rest = ["pack-objects", "--revs", "--stdout", "-q", "--delta-base-offset", &keep];
            answer(git.start(dir, &rest, &env)?, &input).await
        };
        let (count, rest) = tokio::try_join!(count, lacks)?;
        let unknown = || io::Error::other("git's answer about a stored pack has an unknown form");
        let count: u64 = std::str::from_utf8(&count).ok().and_then(|n| n.trim().parse().ok()).ok_or_else(unknown)?;
        let lacked = if self.alone { 0 } else { rest.first_chunk().and_then(pack_objects).ok_or_else(unknown)? };
        Ok((count == u64::from(self.objects) + u64::from(lacked)).then(|| Completed::new(self, lacked, rest)))
    }
}

/// Whether a repository has no object outside its packs, of its own or borrowed.
fn has_only_packs(dir: &Path) -> io::Result<bool> {
    let objects = dir.join("objects");
    let mut folders = fs::read_dir(&objects)?;
    // Loose objects lie in folders of two hexadecimal digits (gitrepository-layout(5)).
    let loose = folders.try_fold(false, |loose, entry| Ok::<_, io::Error>(loose || entry?.file_name().len() == 2))?;
    Ok(!loose && !objects.join("info/alternates").try_exists()?)
}

/// What git says to `input`.
async fn answer(mut git: Serving, input: &[u8]) -> io::Result<Vec<u8>> {
    let (Some(mut stdin), Some(stdout)) = (git.child.stdin.take(), git.child.stdout.take()) else {
        unreachable!("all three streams are piped");
    };
    let mut said = Vec::new();
    let write = async {
        stdin.write_all(input).await?;
        drop(stdin);
        Ok(())
    };
    let mut stdout = stdout.take(REST_MAX);
    tokio::try_join!(write, stdout.read_to_end(&mut said))?;
    if said.len() as u64 == REST_MAX {
        return Err(io::Error::other("a stored pack lacks too much"));
    }
    let status = git.child.wait().await?;
    if status.success() { Ok(said) } else { Err(io::Error::other(format!("git: {status}"))) }
}

/// A stored pack and what it lacks, as one.
pub struct Completed {
    head: [u8; HEAD],
    stored: Stored,
    /// Objects only, without head and sum.
    rest: Vec<u8>,
    sum: OnceLock<[u8; SUM]>,
}

impl Completed {
    fn new(stored: Stored, lacked: u32, mut rest: Vec<u8>) -> Self {
        let mut head = *b"PACK\0\0\0\x02\0\0\0\0";
        head[8..].copy_from_slice(&(stored.objects + lacked).to_be_bytes());
        rest.truncate(rest.len().saturating_sub(SUM));
        rest.drain(..HEAD.min(rest.len()));
        Self { head, stored, rest, sum: OnceLock::new() }
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.stored.len + self.rest.len() as u64
    }

    /// Bytes that can be read before the sum is known.
    pub fn body(&self) -> u64 {
        self.size() - SUM as u64
    }

    /// Finds out the sum, for as long as `wanted`; that of the stored pack if it lacks nothing. Blocks.
    pub fn add_up(&self, wanted: impl Fn() -> bool) -> io::Result<()> {
        let mut sum = [0; SUM];
        if self.rest.is_empty() {
            self.stored.file.read_exact_at(&mut sum, self.body())?;
        } else {
            let (mut hash, mut buffer, mut at) = (Sha1::new(), vec![0; CHUNK], 0);
            while at < self.body() {
                if !wanted() {
                    return Ok(());
                }
                let n = usize::try_from(self.body() - at).map_or(CHUNK, |left| left.min(CHUNK));
                self.read_at(&mut buffer[..n], at)?;
                hash.update(&buffer[..n]);
                at += n as u64;
            }
            sum.copy_from_slice(&hash.finalize());
        }
        self.sum.get_or_init(|| sum);
        Ok(())
    }

    /// Fills `buffer` from `at`. Blocks.
    pub fn read_at(&self, mut buffer: &mut [u8], mut at: u64) -> io::Result<()> {
        let objects = self.stored.len - SUM as u64;
        let sum = self.sum.get();
        while !buffer.is_empty() {
            // The four parts in their order; each ends where the next begins.
            let (part, begins): (&[u8], u64) = if at < HEAD as u64 {
                (&self.head, 0)
            } else if at < objects {
                let n = usize::try_from(objects - at).map_or(buffer.len(), |left| left.min(buffer.len()));
                let (here, later) = buffer.split_at_mut(n);
                self.stored.file.read_exact_at(here, at)?;
                (buffer, at) = (later, at + n as u64);
                continue;
            } else if at < self.body() {
                (&self.rest, objects)
            } else {
                (sum.ok_or(io::ErrorKind::UnexpectedEof)?, self.body())
            };
            let from = usize::try_from(at - begins).map_err(io::Error::other)?;
            let left = part.get(from..).filter(|left| !left.is_empty()).ok_or(io::ErrorKind::UnexpectedEof)?;
            let n = left.len().min(buffer.len());
            let (here, later) = buffer.split_at_mut(n);
            here.copy_from_slice(&left[..n]);
            (buffer, at) = (later, at + n as u64);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::{Command, Stdio};

    use super::*;

    struct Place {
        tmp: tempfile::TempDir,
        git: Git,
    }

    impl Place {
        /// A repository with a branch `main`, packed, with bitmaps.
        fn new() -> Self {
            let tmp = tempfile::tempdir().expect("a directory");
            let place = Self { tmp, git: Git::new("git".into(), "/dev/null".into()) };
            place.git(&["init", "-q", "--bare", "."]);
            place.commit("main", None, "first");
            place.repack();
            place
        }

        fn dir(&self) -> PathBuf {
            self.tmp.path().to_owned()
        }

        fn git(&self, words: &[&str]) -> String {
            let mut command = Command::new("git");
            command.args(["-c", "user.name=a", "-c", "user.email=a@x"]).args(words).current_dir(self.tmp.path());
            let out = command.stdin(Stdio::null()).output().expect("git runs");
            assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
            String::from_utf8(out.stdout).expect("text").trim().to_owned()
        }

        fn commit(&self, branch: &str, parent: Option<&str>, text: &str) -> String {
            let tree = self.git(&["mktree"]);
            let mut words = vec!["commit-tree", &tree, "-m", text];
            words.extend(parent.iter().flat_map(|parent| ["-p", parent]));
            let commit = self.git(&words);
            self.git(&["update-ref", &format!("refs/heads/{branch}"), &commit]);
            commit
        }

        fn repack(&self) {
            self.git(&["repack", "-adbq"]);
        }

        async fn complete(&self) -> Option<Completed> {
            let tips = self.git(&["for-each-ref", "--format=%(objectname)", "refs/heads"]);
            let wants: Vec<Oid> = tips.lines().filter_map(Oid::parse).collect();
            let stored = Stored::largest(&self.dir()).expect("read")?;
            stored.complete(&self.git, &self.dir(), &wants).await.expect("git can tell")
        }
    }

    /// All bytes, read in pieces of `piece`.
    fn bytes(completed: &Completed, piece: usize) -> Vec<u8> {
        assert!(completed.read_at(&mut [0; 1], completed.size()).is_err(), "nothing after its end");
        let mut all = vec![0; usize::try_from(completed.size()).expect("small")];
        for (n, part) in all.chunks_mut(piece).enumerate() {
            completed.read_at(part, (n * piece) as u64).expect("read");
        }
        all
    }

    #[tokio::test]
    async fn a_pack_with_all_that_is_asked_for_is_sent_as_it_is() {
        let place = Place::new();
        let stored = Stored::largest(&place.dir()).expect("read").expect("one with bitmaps");
        let file = std::fs::read(place.dir().join("objects/pack").join(&stored.name)).expect("read");
        assert!(stored.alone);
        let completed = place.complete().await.expect("it holds nothing else");
        assert!(completed.read_at(&mut [0; 1], completed.body()).is_err(), "the sum is not known yet");
        completed.add_up(|| true).expect("read");
        for piece in [1, 7, 20, 4096] {
            assert_eq!(bytes(&completed, piece), file, "in pieces of {piece}");
        }
    }

    #[tokio::test]
    async fn what_it_lacks_comes_after_it() {
        let place = Place::new();
        let first = place.git(&["rev-parse", "main"]);
        let second = place.commit("main", Some(&first), "second");
        place.commit("topic", Some(&second), "third");
        let completed = place.complete().await.expect("it holds nothing else");
        completed.add_up(|| false).expect("nobody waits for it");
        assert!(completed.sum.get().is_none());
        completed.add_up(|| true).expect("read");
        let whole = bytes(&completed, 4096);
        for piece in [1, 11, 100] {
            assert_eq!(bytes(&completed, piece), whole, "in pieces of {piece}");
        }
        let pack = place.dir().join("whole.pack");
        std::fs::write(&pack, whole).expect("written");
        place.git(&["index-pack", "--strict", "whole.pack"]);
        let listed = place.git(&["verify-pack", "-v", "whole.idx"]);
        assert_eq!(listed.lines().filter(|line| line.contains(" commit ")).count(), 3, "{listed}");
    }

    #[tokio::test]
    async fn a_pack_with_anything_else_is_not_sent() {
        let place = Place::new();
        let first = place.git(&["rev-parse", "main"]);
        place.commit("secret", Some(&first), "secret");
        place.repack();
        assert!(place.complete().await.is_some());
        place.git(&["update-ref", "-d", "refs/heads/secret"]);
        assert!(place.complete().await.is_none(), "as many more as were deleted");
        // As many have come as have gone.
        place.commit("main", Some(&first), "second");
        assert!(place.complete().await.is_none(), "one is lacked, and one is too many");
        place.repack();
        assert!(place.complete().await.is_some());
    }

    #[test]
    fn without_bitmaps_nothing_is_counted() {
        let place = Place::new();
        place.git(&["repack", "-adq", "--no-write-bitmap-index"]);
        assert!(Stored::largest(&place.dir()).expect("read").is_none());
    }
}

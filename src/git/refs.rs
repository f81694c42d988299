//! References as git's files backend keeps them (gitrepository-layout(5), git-pack-refs(1)), for the service that is
//! asked most: listing them. No process is started, and a listing by prefix costs what it returns: `packed-refs` is
//! sorted, so it is searched and not read.
//!
//! As in git, loose references are read before the packed ones: a reference that is packed meanwhile is seen twice
//! rather than never. Names are bytes, since git's are. All calls block.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// An object id of 40 hexadecimal digits, as the files hold it.
pub type Hex = [u8; 40];

/// Bytes read at once where the end of a line is looked for.
const WINDOW: usize = 512;
/// Bytes read at once while listing.
const CHUNK: usize = 64 << 10;
/// A `packed-refs` up to here is read whole, in bytes.
const SMALL: u64 = 64 << 10;
/// git follows so many symbolic references in a row (refs.c, SYMREF_MAXDEPTH).
const SYMBOLIC_MAX: usize = 5;
/// Folders below `refs/`; deeper ones are no references of git's, whose names have at most 4096 bytes.
const DEPTH_MAX: usize = 1024;

/// What an annotated tag leads to, as far as the files tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peeled {
    /// The object has to be looked at.
    Unknown,
    /// It is no tag object.
    Itself,
    To(Hex),
}

/// One reference of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    pub name: Vec<u8>,
    pub oid: Hex,
    /// The name it stands for, if it is a symbolic one.
    pub symbolic: Option<Vec<u8>>,
    pub peeled: Peeled,
}

/// What HEAD is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    Detached(Hex),
    /// The branch it names, and its commit once it has one.
    Branch(Vec<u8>, Option<Hex>),
}

/// The references of one repository at one moment.
pub struct Snapshot {
    dir: PathBuf,
    loose: Vec<Loose>,
    /// Names of files that hold no reference.
    broken: Vec<Vec<u8>>,
    packed: Option<Packed>,
}

struct Loose {
    name: Vec<u8>,
    target: Target,
}

enum Target {
    Direct(Hex),
    Symbolic(Vec<u8>),
    /// The file holds neither.
    Broken,
}

impl Snapshot {
    /// Reads the loose references below the prefixes, and opens the packed ones. Only names that start with one of
    /// `prefixes` are in it; no prefix at all stands for every reference.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] for `packed-refs` as only very old versions of git write it; git itself has
    /// to be asked then.
    pub fn read(dir: &Path, prefixes: &[Vec<u8>]) -> io::Result<Self> {
        let (mut loose, mut broken) = (Vec::new(), Vec::new());
        for prefix in prefixes {
            // The last whole folder of the prefix; names are compared with the rest below.
            let folder = prefix.iter().rposition(|b| *b == b'/').map_or(&b"refs/"[..], |end| &prefix[..=end]);
            walk(dir, folder.to_vec(), prefix, 0, &mut loose)?;
        }
        loose.retain_mut(|found: &mut Loose| match found.target {
            Target::Broken => {
                broken.push(std::mem::take(&mut found.name));
                false
            }
            _ => true,
        });
        loose.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let packed = Packed::open(&dir.join("packed-refs"))?;
        Ok(Self { dir: dir.to_owned(), loose, broken, packed })
    }

    /// All references of a repository in the format that this reads.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] for a repository in another format, and as [`Snapshot::read`];
    /// [`io::ErrorKind::InvalidData`] when a file holds no reference: nothing can be said of the one it held.
    pub fn of_all(dir: &Path) -> io::Result<Self> {
        if !has_files_format(&std::fs::read_to_string(dir.join("config"))?) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "a repository in another format"));
        }
        let snapshot = Self::read(dir, &minimal(&[]))?;
        match snapshot.broken.first() {
            None => Ok(snapshot),
            Some(name) => {
                let name = String::from_utf8_lossy(name);
                Err(io::Error::new(io::ErrorKind::InvalidData, format!("the file of {name} holds no reference")))
            }
        }
    }

    /// The loose references and their objects; `None` for symbolic ones.
    pub fn loose(&self) -> impl Iterator<Item = (&[u8], Option<Hex>)> {
        self.loose.iter().map(|loose| match loose.target {
            Target::Direct(oid) => (&loose.name[..], Some(oid)),
            Target::Symbolic(_) | Target::Broken => (&loose.name[..], None),
        })
    }

    /// Of `packed-refs` as it was opened; `None` if there was none.
    pub fn packed_metadata(&self) -> io::Result<Option<std::fs::Metadata>> {
        self.packed.as_ref().map(|packed| packed.file.metadata()).transpose()
    }

    /// Calls `each` with every name of `packed-refs`, its value, and what that leads to if it is a tag.
    pub fn packed(&self, mut each: impl FnMut(&[u8], &Hex, Option<&Hex>)) -> io::Result<()> {
        let Some(packed) = &self.packed else { return Ok(()) };
        let mut lines = packed.from(b"")?;
        while let Some(Reference { name, oid, peeled, .. }) = lines.next_below(b"")? {
            let target = if let Peeled::To(target) = &peeled { Some(target) } else { None };
            each(&name, &oid, target);
        }
        Ok(())
    }

    /// What `packed-refs` says of one name.
    pub fn packed_value(&self, name: &[u8]) -> io::Result<Option<Hex>> {
        self.packed.as_ref().map_or(Ok(None), |packed| packed.find(name))
    }

    /// At most `most` references below a prefix, the first ones by name.
    pub fn first(&self, prefix: &[u8], most: usize) -> io::Result<Vec<Reference>> {
        let mut found = Vec::new();
        let listed = self.list(&minimal(&[prefix.to_vec()]), |reference| {
            if found.len() == most {
                return Err(io::ErrorKind::QuotaExceeded.into());
            }
            found.push(reference);
            Ok(())
        });
        match listed {
            Err(error) if error.kind() != io::ErrorKind::QuotaExceeded => Err(error),
            _ => Ok(found),
        }
    }

    /// HEAD, with the commit of its branch. `None` if the file is neither form.
    pub fn head(&self) -> io::Result<Option<Head>> {
        Ok(match read_loose(&self.dir.join("HEAD"))? {
            Some(Target::Direct(oid)) => Some(Head::Detached(oid)),
            Some(Target::Symbolic(branch)) => {
                let oid = self.resolve(&branch)?;
                Some(Head::Branch(branch, oid))
            }
            Some(Target::Broken) | None => None,
        })
    }

    /// Calls `each` for every reference of the prefixes, in byte order. `prefixes` must be those of [`Snapshot::read`], or
    /// narrower ones, as [`minimal`] makes them.
    pub fn list(&self, prefixes: &[Vec<u8>], mut each: impl FnMut(Reference) -> io::Result<()>) -> io::Result<()> {
        for prefix in prefixes {
            let mut loose = self.loose[self.loose.partition_point(|l| l.name < *prefix)..].iter().peekable();
            let mut packed = self.packed.as_ref().map(|p| p.from(prefix)).transpose()?;
            let mut next_packed = packed.as_mut().map_or(Ok(None), |lines| lines.next_below(prefix))?;
            loop {
                let next_loose = loose.peek().filter(|l| l.name.starts_with(prefix));
                let take_loose = match (&next_loose, &next_packed) {
                    (None, None) => break,
                    (Some(l), Some(p)) => l.name <= p.name,
                    (Some(_), None) => true,
                    (None, Some(_)) => false,
                };
                if take_loose {
                    let found = loose.next().expect("just peeked");
                    if next_packed.as_ref().is_some_and(|p| p.name == found.name) {
                        next_packed = packed.as_mut().map_or(Ok(None), |lines| lines.next_below(prefix))?;
                    }
                    if let Some(reference) = self.of_loose(found)? {
                        each(reference)?;
                    }
                } else {
                    each(next_packed.take().expect("just compared"))?;
                    next_packed = packed.as_mut().map_or(Ok(None), |lines| lines.next_below(prefix))?;
                }
            }
        }
        Ok(())
    }

    fn of_loose(&self, loose: &Loose) -> io::Result<Option<Reference>> {
        let (oid, symbolic) = match &loose.target {
            Target::Direct(oid) => (Some(*oid), None),
            // One that leads nowhere is left out, as git leaves it out.
            Target::Symbolic(name) => (self.resolve(name)?, Some(name.clone())),
            Target::Broken => (None, None),
        };
        Ok(oid.map(|oid| Reference { name: loose.name.clone(), oid, symbolic, peeled: Peeled::Unknown }))
    }

    /// The object that a reference leads to, through symbolic ones.
    pub(super) fn resolve(&self, name: &[u8]) -> io::Result<Option<Hex>> {
        let mut name = name.to_vec();
        for _ in 0..SYMBOLIC_MAX {
            if !is_plain(&name) {
                return Ok(None);
            }
            match read_loose(&self.dir.join(std::ffi::OsStr::from_bytes(&name)))? {
                Some(Target::Direct(oid)) => return Ok(Some(oid)),
                Some(Target::Symbolic(next)) => name = next,
                Some(Target::Broken) => return Ok(None),
                None => return self.packed.as_ref().map_or(Ok(None), |packed| packed.find(&name)),
            }
        }
        Ok(None)
    }
}

/// A name below `refs/` that leads nowhere else on the disk.
fn is_plain(name: &[u8]) -> bool {
    name.starts_with(b"refs/") && !name.split(|b| *b == b'/').any(|part| part.is_empty() || part.starts_with(b"."))
}

/// Sorted prefixes of which none covers another, without those that no name below `refs/` starts with. An empty
/// list asks for all.
pub fn minimal(asked: &[Vec<u8>]) -> Vec<Vec<u8>> {
    if asked.is_empty() {
        return vec![b"refs/".to_vec()];
    }
    let mut wide: Vec<Vec<u8>> = asked
        .iter()
        .filter_map(|p| {
            if b"refs/".starts_with(p) {
                return Some(b"refs/".to_vec());
            }
            // Only the last part may be cut short: `refs/heads/ma` and `refs/heads/`, and not `refs/../x`.
            let whole = p.iter().rposition(|b| *b == b'/').map_or(&p[..0], |end| &p[..end]);
            (p.starts_with(b"refs/") && (whole == b"refs" || is_plain(whole))).then(|| p.clone())
        })
        .collect();
    wide.sort_unstable();
    wide.dedup_by(|next, kept| next.starts_with(kept));
    wide
}

fn walk(dir: &Path, folder: Vec<u8>, prefix: &[u8], depth: usize, found: &mut Vec<Loose>) -> io::Result<()> {
    let entries = match std::fs::read_dir(dir.join(std::ffi::OsStr::from_bytes(&folder))) {
        Ok(entries) => entries,
        // git removes folders that have become empty.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let entry = entry?;
        let base = entry.file_name().into_vec();
        if base.starts_with(b".") || base.ends_with(b".lock") {
            continue;
        }
        let mut name = folder.clone();
        name.extend_from_slice(&base);
        if entry.file_type()?.is_dir() {
            name.push(b'/');
            if depth < DEPTH_MAX && (name.starts_with(prefix) || prefix.starts_with(&name)) {
                walk(dir, name, prefix, depth + 1, found)?;
            }
        } else if name.starts_with(prefix)
            && let Some(target) = read_loose(&entry.path())?
        {
            found.push(Loose { name, target });
        }
    }
    Ok(())
}

/// One loose reference; `None` for a file that is not there.
fn read_loose(path: &Path) -> io::Result<Option<Target>> {
    let mut text = Vec::with_capacity(64);
    match File::open(path).and_then(|file| file.take(4200).read_to_end(&mut text)) {
        Ok(_) => {}
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(e) => return Err(e),
    }
    let text = text.trim_ascii_end();
    if let Some(name) = text.strip_prefix(b"ref:") {
        return Ok(Some(Target::Symbolic(name.trim_ascii_start().to_vec())));
    }
    Ok(Some(hex(text).map_or(Target::Broken, Target::Direct)))
}

/// Whether a repository's own configuration says that objects are named by SHA-1 and references are files
/// (gitrepository-layout(5)): so it is without extensions.
fn has_files_format(config: &str) -> bool {
    let value = |line: &str| {
        let (key, value) = line.split_once('=')?;
        key.trim().eq_ignore_ascii_case("repositoryformatversion").then(|| value.trim().trim_matches('"').to_owned())
    };
    config.lines().filter_map(value).all(|version| version == "0")
}

fn hex(text: &[u8]) -> Option<Hex> {
    let oid: Hex = text.try_into().ok()?;
    oid.iter().all(u8::is_ascii_hexdigit).then_some(oid)
}

/// An open `packed-refs`: a header, then lines `OID NAME` in byte order of the names, each tag followed by `^OID`.
struct Packed {
    file: File,
    /// All of a small file: one read instead of two for each step of a search.
    whole: Vec<u8>,
    start: u64,
    end: u64,
}

impl Packed {
    fn open(path: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let end = file.metadata()?.len();
        let mut packed = Self { file, whole: Vec::new(), start: 0, end };
        if end <= SMALL {
            packed.whole = packed.read_at(0, CHUNK)?;
        }
        if end == 0 {
            return Ok(Some(packed));
        }
        let (header, next) = packed.line(0)?;
        let text = String::from_utf8_lossy(&header);
        let traits: Vec<&str> = text.split_ascii_whitespace().collect();
        if !(header.starts_with(b"# pack-refs with:") && traits.contains(&"sorted") && traits.contains(&"fully-peeled"))
        {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "packed-refs of an old version of git"));
        }
        packed.start = next;
        Ok(Some(packed))
    }

    fn read_at(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        let length = length.min(usize::try_from(self.end.saturating_sub(at)).unwrap_or(length));
        if let Some(there) = usize::try_from(at).ok().and_then(|at| self.whole.get(at..)?.get(..length)) {
            return Ok(there.to_vec());
        }
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }

    /// The line that begins at `at`, without its newline, and where the next begins.
    fn line(&self, at: u64) -> io::Result<(Vec<u8>, u64)> {
        let mut line = Vec::new();
        loop {
            let bytes = self.read_at(at + line.len() as u64, WINDOW)?;
            if let Some(n) = bytes.iter().position(|b| *b == b'\n') {
                line.extend_from_slice(&bytes[..n]);
                let next = at + line.len() as u64 + 1;
                return Ok((line, next));
            }
            if bytes.is_empty() {
                return Ok((line, self.end));
            }
            line.extend_from_slice(&bytes);
        }
    }

    /// Where the line begins that holds the byte at `at`.
    fn line_start(&self, mut at: u64) -> io::Result<u64> {
        while at > self.start {
            let from = at.saturating_sub(WINDOW as u64).max(self.start);
            let bytes = self.read_at(from, usize::try_from(at - from).unwrap_or(WINDOW))?;
            if let Some(n) = bytes.iter().rposition(|b| *b == b'\n') {
                return Ok(from + n as u64 + 1);
            }
            at = from;
        }
        Ok(self.start)
    }

    /// Where the first reference stands whose name is `name` or comes after it.
    fn lower_bound(&self, name: &[u8]) -> io::Result<u64> {
        let (mut low, mut high) = (self.start, self.end);
        while low < high {
            let mut at = self.line_start(low + (high - low) / 2)?;
            let (mut line, mut next) = self.line(at)?;
            while line.starts_with(b"^") && at > low {
                at = self.line_start(at - 1)?;
                (line, next) = self.line(at)?;
            }
            if line.get(41..).is_some_and(|found| found >= name) {
                high = at;
            } else {
                low = next;
            }
        }
        Ok(low)
    }

    fn from(&self, prefix: &[u8]) -> io::Result<Lines<'_>> {
        Ok(Lines { packed: self, at: self.lower_bound(prefix)?, buffer: Vec::new(), used: 0 })
    }

    fn find(&self, name: &[u8]) -> io::Result<Option<Hex>> {
        let found = self.from(name)?.next_below(name)?;
        Ok(found.filter(|reference| reference.name == name).map(|reference| reference.oid))
    }
}

/// The packed references from some place on.
struct Lines<'a> {
    packed: &'a Packed,
    /// Where the bytes after the buffer stand.
    at: u64,
    buffer: Vec<u8>,
    used: usize,
}

impl Lines<'_> {
    /// The next line without its newline, as a place in the buffer. It is not taken yet.
    fn peek(&mut self) -> io::Result<Option<std::ops::Range<usize>>> {
        loop {
            if let Some(n) = self.buffer[self.used..].iter().position(|b| *b == b'\n') {
                return Ok(Some(self.used..self.used + n));
            }
            let more = self.packed.read_at(self.at, CHUNK)?;
            if more.is_empty() {
                return Ok(None); // a last line without its end was cut off, as git sees it
            }
            self.at += more.len() as u64;
            self.buffer.drain(..self.used);
            self.used = 0;
            self.buffer.extend_from_slice(&more);
        }
    }

    /// The next reference, if it starts with `prefix`.
    fn next_below(&mut self, prefix: &[u8]) -> io::Result<Option<Reference>> {
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "packed-refs holds a line that is no reference");
        loop {
            let Some(line) = self.peek()? else { return Ok(None) };
            let text = &self.buffer[line.clone()];
            if text.starts_with(b"^") {
                self.used = line.end + 1; // of the one before, which the search has skipped
                continue;
            }
            let (Some(oid), Some(b' '), Some(name)) = (text.get(..40).and_then(hex), text.get(40), text.get(41..))
            else {
                return Err(bad());
            };
            if !name.starts_with(prefix) {
                return Ok(None);
            }
            let name = name.to_vec();
            self.used = line.end + 1;
            let mut peeled = Peeled::Itself;
            if let Some(next) = self.peek()?
                && let Some(oid) = self.buffer[next.clone()].strip_prefix(b"^")
            {
                peeled = Peeled::To(hex(oid).ok_or_else(bad)?);
                self.used = next.end + 1;
            }
            return Ok(Some(Reference { name, oid, symbolic: None, peeled }));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn oid(n: u8) -> Hex {
        format!("{n:040x}").into_bytes().try_into().expect("40 digits")
    }

    fn names(dir: &Path, asked: &[&str]) -> Vec<String> {
        let prefixes = minimal(&asked.iter().map(|p| p.as_bytes().to_vec()).collect::<Vec<_>>());
        let mut found = Vec::new();
        let listing = Snapshot::read(dir, &prefixes).expect("readable");
        let each = |r: Reference| {
            let last = char::from(r.oid[39]);
            found.push(format!("{} {last}", String::from_utf8_lossy(&r.name)));
            Ok(())
        };
        listing.list(&prefixes, each).expect("listed");
        found
    }

    fn write(dir: &Path, name: &str, text: &str) {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().expect("below dir")).expect("made");
        std::fs::write(path, text).expect("written");
    }

    const HEADER: &str = "# pack-refs with: peeled fully-peeled sorted \n";

    #[test]
    fn loose_ones_hide_packed_ones_and_symbolic_ones_are_followed() {
        let tmp = tempfile::tempdir().expect("a directory");
        let dir = tmp.path();
        let line = |n: u8, name: &str| format!("{n:040x} {name}\n");
        let packed =
            [line(1, "refs/heads/a"), line(2, "refs/heads/b"), line(3, "refs/tags/v1"), format!("^{:040x}\n", 4)];
        write(dir, "packed-refs", &format!("{HEADER}{}", packed.concat()));
        write(dir, "refs/heads/b", &line(5, ""));
        write(dir, "refs/heads/a-b/c", &line(6, ""));
        write(dir, "refs/heads/.hidden", &line(6, ""));
        write(dir, "refs/heads/b.lock", &line(6, ""));
        write(dir, "refs/heads/broken", "nothing\n");
        write(dir, "refs/heads/sym", "ref: refs/heads/a\n");
        write(dir, "refs/heads/loop", "ref: refs/heads/loop\n");
        write(dir, "HEAD", "ref: refs/heads/a\n");
        let all = ["refs/heads/a 1", "refs/heads/a-b/c 6", "refs/heads/b 5", "refs/heads/sym 1", "refs/tags/v1 3"];
        assert_eq!(names(dir, &[]), all);
        assert_eq!(names(dir, &["refs/heads/a", "HEAD", "main"]), all[..2]);
        assert_eq!(names(dir, &["refs/tags/", "refs/heads/b", "refs/tags/v1"]), [all[2], all[4]]);
        assert_eq!(names(dir, &["refs/heads/../tags/", "refs/nothing/", "x"]), [""; 0]);
        let nothing = Snapshot::read(dir, &[]).expect("readable");
        assert_eq!(nothing.head().expect("read"), Some(Head::Branch(b"refs/heads/a".to_vec(), Some(oid(1)))));
        write(dir, "HEAD", &line(7, ""));
        assert_eq!(nothing.head().expect("read"), Some(Head::Detached(oid(7))));
        write(dir, "HEAD", "ref: refs/heads/unborn\n");
        assert_eq!(nothing.head().expect("read"), Some(Head::Branch(b"refs/heads/unborn".to_vec(), None)));
        let tags = minimal(&[b"refs/tags/".to_vec()]);
        let mut peeled = Vec::new();
        let snapshot = Snapshot::read(dir, &tags).expect("readable");
        snapshot
            .list(&tags, |r| {
                peeled.push(r.peeled);
                Ok(())
            })
            .expect("listed");
        assert_eq!(peeled, [Peeled::To(oid(4))]);
        let all = Snapshot::read(dir, &minimal(&[])).expect("readable");
        write(dir, "refs/a/first", &line(9, ""));
        let some = |most| {
            let found = all.first(b"refs/heads/b", most).expect("listed");
            found.into_iter().map(|r| (String::from_utf8(r.name).expect("text"), r.oid)).collect::<Vec<_>>()
        };
        assert_eq!(some(5), [("refs/heads/b".to_owned(), oid(5))]);
        assert_eq!((some(1).len(), some(0).len()), (1, 0));
        write(dir, "packed-refs", &line(1, "refs/heads/a"));
        assert_eq!(Snapshot::read(dir, &tags).err().map(|e| e.kind()), Some(io::ErrorKind::Unsupported));
    }

    proptest! {
        /// Whatever the names and prefixes, searching gives what filtering all of them gives.
        #[test]
        fn searching_is_filtering(names_ in prop::collection::btree_set("refs/(heads|tags)/[ab]{1,4}(-x{0,600})?", 0..40),
                                  tagged in any::<u64>(), prefix in "refs/(heads|tags)?/?[ab]{0,3}") {
            let tmp = tempfile::tempdir().expect("a directory");
            let mut text = HEADER.to_owned();
            for (n, name) in names_.iter().enumerate() {
                text.push_str(&format!("{:040x} {name}\n", n % 10));
                if tagged >> (n % 64) & 1 == 1 {
                    text.push_str(&format!("^{:040x}\n", 9));
                }
            }
            write(tmp.path(), "packed-refs", &text);
            let expected: Vec<String> = names_.iter().enumerate()
                .filter(|(_, name)| name.starts_with(&prefix))
                .map(|(n, name)| format!("{name} {}", n % 10)).collect();
            prop_assert_eq!(names(tmp.path(), &[&prefix]), expected);
        }
    }
}

//! Who has locked which file of a repository: one small file inside it, with gitolite's name and format (a hash as
//! Perl's Data::Dumper writes it), so that the locks of a gitolite server count here and could go back there.
//!
//! It is read at each question and never cached. What cannot be read is an error, never "no locks".

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};

use super::write_whole;

const FILE: &str = "gl-locks";
/// The key that stands beside the names of files.
const BREAKS: &str = "BREAKS";
/// The largest file that is read or written, in bytes: some ten thousand locks.
const BYTES_MAX: u64 = 1 << 20;
/// How many broken locks are remembered; the oldest are forgotten first.
const BROKEN_MAX: usize = 1000;

/// All locks of a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileLocks {
    /// By path from the top of the tree.
    pub held: BTreeMap<String, FileLock>,
    /// In the order in which they were broken.
    pub broken: Vec<BrokenLock>,
}

/// One lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileLock {
    pub user: String,
    pub since: SystemTime,
}

/// A lock that somebody else took away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenLock {
    pub path: String,
    pub lock: FileLock,
    pub by: String,
    pub at: SystemTime,
}

impl FileLocks {
    /// Of the repository at `dir`; none if there is no file. Blocks.
    pub fn read(dir: &Path) -> io::Result<Self> {
        let file = dir.join(FILE);
        match std::fs::metadata(&file) {
            Ok(found) if found.len() > BYTES_MAX => return Err(unreadable("it is longer than 1 MiB")),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error),
        }
        parse(&std::fs::read_to_string(&file)?).ok_or_else(|| unreadable("it is not as gitolite writes it"))
    }

    /// Writes the file whole or not at all.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let text = self.to_text();
        if text.len() as u64 > BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "too many locks"));
        }
        write_whole(dir, FILE, &text)
    }

    /// What of this travels from a master to its copies: the whole file, word for word; `None` if nothing is locked and
    /// nothing was broken. What cannot be read does not travel, and says so in the log. Blocks.
    pub fn to_send(dir: &Path) -> Option<String> {
        let read = Self::read(dir).and_then(|locks| {
            let none = locks == Self::default();
            if none { Ok(None) } else { std::fs::read_to_string(dir.join(FILE)).map(Some) }
        });
        read.unwrap_or_else(|error| {
            tracing::error!(dir = %dir.display(), %error, "its file locks cannot be read and are not mirrored");
            None
        })
    }

    /// On a copy: what its master has sent takes the place of what is there, whole; `None`: nothing is locked. Blocks.
    pub fn take_over(dir: &Path, sent: Option<&str>) -> io::Result<()> {
        match sent {
            Some(text) => {
                parse(text).ok_or_else(|| unreadable("it is not as gitolite writes it"))?;
                write_whole(dir, FILE, text)
            }
            None => match std::fs::remove_file(dir.join(FILE)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        }
    }

    /// A digest that also covers the locks of the repository at `dir`; the same where there are none. Blocks.
    pub fn seal(dir: &Path, digest: String) -> String {
        match Self::to_send(dir) {
            Some(text) => format!("{:x}", Sha256::digest(format!("{digest}\n{text}"))),
            None => digest,
        }
    }

    /// The longest file, in bytes.
    pub const BYTES_MAX: u64 = BYTES_MAX;

    /// Takes a lock away from its holder and remembers that.
    pub fn break_lock(&mut self, path: &str, by: &str, at: SystemTime) -> Option<FileLock> {
        let lock = self.held.remove(path)?;
        self.broken.push(BrokenLock { path: path.to_owned(), lock: lock.clone(), by: by.to_owned(), at });
        let old = self.broken.len().saturating_sub(BROKEN_MAX);
        self.broken.drain(..old);
        Some(lock)
    }

    /// Whether a lock on this path can be written down. A line of a broken lock ends with the path.
    pub fn can_name(path: &str) -> bool {
        !path.is_empty() && path != BREAKS && !path.chars().any(char::is_control)
    }

    fn to_text(&self) -> String {
        let mut entries: BTreeMap<&str, String> = BTreeMap::new();
        for (path, lock) in &self.held {
            let body =
                format!("{{\n    'TIME' => {},\n    'USER' => {}\n  }}", seconds(lock.since), quoted(&lock.user));
            entries.insert(path, body);
        }
        if !self.broken.is_empty() {
            let lines: Vec<_> = self.broken.iter().map(|broken| format!("    {}", quoted(&broken.to_line()))).collect();
            entries.insert(BREAKS, format!("[\n{}\n  ]", lines.join(",\n")));
        }
        if entries.is_empty() {
            return "%locks = ();\n".to_owned();
        }
        let lines: Vec<_> = entries.iter().map(|(key, body)| format!("  {} => {body}", quoted(key))).collect();
        format!("%locks = (\n{}\n);\n", lines.join(",\n"))
    }
}

impl BrokenLock {
    fn to_line(&self) -> String {
        let Self { path, lock, by, at } = self;
        format!("{} {by} {} {} {path}", seconds(*at), lock.user, seconds(lock.since))
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.splitn(5, ' ');
        let (at, by, user, since) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let lock = FileLock { user: user.to_owned(), since: moment(since)? };
        Some(Self { path: words.next()?.to_owned(), lock, by: by.to_owned(), at: moment(at)? })
    }
}

fn unreadable(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{FILE}: {why}"))
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn moment(seconds: &str) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds.parse().ok()?))
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// What stands behind a name: a hash of plain values, or a list of them.
enum Value {
    Hash(BTreeMap<String, String>),
    List(Vec<String>),
}

fn parse(text: &str) -> Option<FileLocks> {
    let mut read = Reader { rest: text };
    let mut locks = FileLocks::default();
    ["%locks", "=", "("].iter().try_for_each(|token| read.take(token))?;
    while read.take(")").is_none() {
        let key = read.scalar()?;
        read.take("=>")?;
        match (key.as_str(), read.value()?) {
            (BREAKS, Value::List(lines)) => {
                locks.broken = lines.iter().map(|line| BrokenLock::parse(line)).collect::<Option<_>>()?;
            }
            (_, Value::Hash(lock)) => {
                // gitolite may leave an empty entry behind a question; it is no lock.
                if let Some(user) = lock.get("USER").filter(|user| !user.is_empty()) {
                    let since = lock.get("TIME").map_or(Some(UNIX_EPOCH), |time| moment(time))?;
                    locks.held.insert(key, FileLock { user: user.clone(), since });
                }
            }
            (_, Value::List(_)) => return None,
        }
        read.take(",");
    }
    read.take(";")?;
    read.rest.trim().is_empty().then_some(locks)
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn take(&mut self, token: &str) -> Option<()> {
        self.rest = self.rest.trim_start().strip_prefix(token)?;
        Some(())
    }

    /// A quoted text or a number.
    fn scalar(&mut self) -> Option<String> {
        self.rest = self.rest.trim_start();
        if self.take("'").is_none() {
            let end = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
            let (number, rest) = self.rest.split_at(end);
            self.rest = rest;
            return Some(number.to_owned()).filter(|number| !number.is_empty());
        }
        let mut text = String::new();
        let mut chars = self.rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '\'' => {
                    self.rest = &self.rest[at + 1..];
                    return Some(text);
                }
                '\\' => match chars.next()?.1 {
                    escaped @ ('\\' | '\'') => text.push(escaped),
                    other => text.extend(['\\', other]),
                },
                c => text.push(c),
            }
        }
        None
    }

    fn value(&mut self) -> Option<Value> {
        if self.take("[").is_some() {
            let mut list = Vec::new();
            while self.take("]").is_none() {
                list.push(self.scalar()?);
                self.take(",");
            }
            return Some(Value::List(list));
        }
        self.take("{")?;
        let mut hash = BTreeMap::new();
        while self.take("}").is_none() {
            let key = self.scalar()?;
            self.take("=>")?;
            hash.insert(key, self.scalar()?);
            self.take(",");
        }
        Some(Value::Hash(hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As gitolite 3.6.12 has written it.
    const GITOLITES: &str = "%locks = (\n  '12' => {\n    'TIME' => 1,\n    'USER' => 'u'\n  },\n  'BREAKS' => [\n    \
         '3 u2 u1 2 a b'\n  ],\n  'a b' => {\n    'TIME' => 1795251233,\n    'USER' => 'u1'\n  },\n  'it\\'s \\\\ x' => {\n    \
         'TIME' => 1,\n    'USER' => 'u@x'\n  }\n);\n";

    #[test]
    fn gitolites_file_is_read_and_written_alike() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(FileLocks::read(dir.path()).unwrap(), FileLocks::default());
        let file = dir.path().join("gl-locks");
        std::fs::write(&file, GITOLITES).unwrap();
        let mut locks = FileLocks::read(dir.path()).unwrap();
        assert_eq!(locks.held.keys().collect::<Vec<_>>(), ["12", "a b", "it's \\ x"]);
        assert_eq!(locks.held["it's \\ x"], FileLock { user: "u@x".to_owned(), since: moment("1").unwrap() });
        let [broken] = &locks.broken[..] else { panic!("{locks:?}") };
        assert_eq!((broken.path.as_str(), broken.by.as_str(), broken.lock.user.as_str()), ("a b", "u2", "u1"));
        locks.write(dir.path()).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), GITOLITES);
        assert!(locks.break_lock("none", "u3", UNIX_EPOCH).is_none());
        assert_eq!(locks.break_lock("12", "u3", UNIX_EPOCH).unwrap().user, "u");
        locks.held.clear();
        assert_eq!(parse(&locks.to_text()).unwrap(), locks);
        assert_eq!(parse(&FileLocks::default().to_text()).unwrap(), FileLocks::default());
        for _ in 0..2 * BROKEN_MAX {
            locks.held.insert("f".to_owned(), FileLock { user: "u".to_owned(), since: UNIX_EPOCH });
            locks.break_lock("f", "v", UNIX_EPOCH).unwrap();
        }
        assert_eq!(locks.broken.len(), BROKEN_MAX);
    }

    #[test]
    fn what_gitolite_leaves_and_what_it_never_writes() {
        let empty = "%locks = (\n  'BREAKS' => [],\n  'gone' => {},\n  'ü' => { 'TIME' => '7', 'USER' => 'u' }\n);\n";
        let locks = parse(empty).unwrap();
        assert_eq!((locks.held.len(), locks.broken.len()), (1, 0));
        for bad in ["", "%locks = (", "%locks = ('a' => 'b');", "%locks = ('a' => ['b']);", "%locks = (); system('x');"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert!(parse(&format!("%locks = ({}", "'a' => {".repeat(100_000))).is_none());
    }

    proptest::proptest! {
        #[test]
        fn any_path_comes_back(path in "\\PC{1,20}", user in "[a-z][a-z@.]{0,5}") {
            let lock = FileLock { user, since: UNIX_EPOCH };
            let mut locks = FileLocks::default();
            locks.held.insert(path.clone(), lock.clone());
            if FileLocks::can_name(&path) {
                locks.break_lock(&path, "by", UNIX_EPOCH).unwrap();
                locks.held.insert(path, lock);
                proptest::prop_assert_eq!(parse(&locks.to_text()), Some(locks));
            }
        }
    }
}

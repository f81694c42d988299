//! What a target is known to have had from this node: one small file beside the repository's references, written and
//! synced before each push and after it.
//!
//! Before a push the file names both what was there and what is about to be, so that a crash in between is not taken
//! for somebody else's change later.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use crate::model::{HostName, Oid, RefName};
use crate::repo::write_whole;

const FORMAT: &str = "gitmesh-foreign 1";

/// The values of each reference that are ours; zeros stand for no reference.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Seen(pub BTreeMap<RefName, Vec<Oid>>);

fn file(name: &HostName) -> String {
    format!("gitmesh-foreign-{name}")
}

impl Seen {
    /// Of the repository at `dir`; nothing is known of a target whose URL was another one, or whose file is damaged.
    pub(super) fn read(dir: &Path, name: &HostName, url: &str) -> io::Result<Self> {
        let text = match std::fs::read_to_string(dir.join(file(name))) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        let mut lines = text.lines();
        if lines.next() != Some(FORMAT) || lines.next().and_then(|line| line.strip_prefix("url ")) != Some(url) {
            return Ok(Self::default());
        }
        let mut refs: BTreeMap<RefName, Vec<Oid>> = BTreeMap::new();
        for line in lines {
            let parts = line.split_once(' ').and_then(|(oid, name)| Some((Oid::parse(oid)?, RefName::parse(name)?)));
            let Some((oid, name)) = parts else { return Ok(Self::default()) };
            refs.entry(name).or_default().push(oid);
        }
        Ok(Self(refs))
    }

    pub(super) fn write(&self, dir: &Path, name: &HostName, url: &str) -> io::Result<()> {
        let mut text = format!("{FORMAT}\nurl {url}\n");
        for (name, oids) in &self.0 {
            oids.iter().for_each(|oid| text.push_str(&format!("{oid} {name}\n")));
        }
        write_whole(dir, &file(name), &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_another_url_is_another_server() {
        let dir = tempfile::tempdir().unwrap();
        let name = HostName::new("hub").unwrap();
        let oid = |n: u8| Oid::parse(&format!("{n:040x}")).unwrap();
        let main = RefName::parse("refs/heads/main").unwrap();
        let seen = Seen([(main, vec![oid(1), oid(0)])].into());
        assert_eq!(Seen::read(dir.path(), &name, "u").unwrap(), Seen::default());
        seen.write(dir.path(), &name, "u").unwrap();
        assert_eq!(Seen::read(dir.path(), &name, "u").unwrap(), seen);
        assert_eq!(Seen::read(dir.path(), &name, "v").unwrap(), Seen::default());
    }
}

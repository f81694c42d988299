//! Which orders of persons stand above the configuration: promotions, one a repository. Pure.
//!
//! The configuration names each repository's master. When that one is gone, or hands over, a person's order makes a
//! [`Promotion`]. What counts:
//!
//! 1. A promotion counts while the configuration names the master that it replaces, and the promoted node as a copy.
//! 2. Once the configuration names another master, the promoted one (so it is permanent) or a third, the promotion has
//!    ended, and never counts again; its epoch stays. A configuration that names no master ends nothing: it may be one
//!    that does not know the repository yet.
//! 3. A configuration that names the replaced master after that is a new decision. The nodes that saw the promotion end
//!    write it down as an order for that master, to the next epoch ([`review`]), so that it wins as well where the
//!    promotion still counts, since that node was away when it ended.
//! 4. Orders travel between the nodes and are merged by one rule that gives the same everywhere and in any order: the
//!    higher epoch wins; of two with the same epoch, made on two sides of a cut network, the one whose master has the
//!    lower name. The loser becomes a replica and keeps aside what only it had.
//!
//! They are no part of the admin repository, for its own master may be the dead one, and nodes may have separate ones.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::model::time::Stamp;
use crate::model::{Epoch, HostName, RepoName};

/// The first line of the file, and of what nodes tell each other.
const HEADER: &str = "gitmesh-masters 1";
/// Of who gave an order, so much is kept, in characters.
const BY_MAX: usize = 100;

/// One order: from this epoch on, `master` is the master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promotion {
    pub epoch: Epoch,
    pub master: HostName,
    /// The master that the configuration named then.
    pub instead_of: HostName,
    /// The disk of `master`, see [`super::identity`]: a promotion does not hold for an older or another disk.
    pub disk: String,
    /// Who gave the order, and when.
    pub by: String,
    pub at: Stamp,
}

impl Promotion {
    /// The order for `master` that a configuration gives by naming it again.
    pub fn by_configuration(master: HostName, epoch: Epoch, at: Stamp) -> Self {
        let (instead_of, disk, by) = (master.clone(), NO_DISK.to_owned(), "the configuration".to_owned());
        Self { epoch, master, instead_of, disk, by, at }
    }

    /// Whether it replaces the other.
    fn beats(&self, other: &Self) -> bool {
        let rank = |p: &Self| (p.epoch, Reverse(p.master.clone()), p.disk.clone(), p.at);
        rank(self) > rank(other)
    }
}

/// The disk of an order that vouches for none: one that is doubted stays so.
const NO_DISK: &str = "0000000000000000";

/// What a configuration makes of the promotions.
#[derive(Debug, PartialEq, Eq)]
pub struct Review {
    /// The epochs of those that have ended, all of them.
    pub ended: BTreeMap<RepoName, Epoch>,
    /// Repositories whose configuration names the replaced master again, with that master.
    pub again: BTreeMap<RepoName, HostName>,
}

/// Applies rules 2 and 3: `ended` are those that had ended before, `named` gives the master that the configuration names.
pub fn review(
    table: &Table,
    ended: &BTreeMap<RepoName, Epoch>,
    named: impl Fn(&RepoName) -> Option<HostName>,
) -> Review {
    let mut found = Review { ended: BTreeMap::new(), again: BTreeMap::new() };
    for (repo, Promotion { epoch, master, instead_of, .. }) in &table.0 {
        let named = named(repo);
        let over = ended.get(repo) == Some(epoch);
        if over || named.as_ref().is_some_and(|named| named != instead_of) {
            found.ended.insert(repo.clone(), *epoch);
        }
        if let Some(named) = named.filter(|named| over && named == instead_of && named != master) {
            found.again.insert(repo.clone(), named);
        }
    }
    found
}

/// The promotions that a node knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table(BTreeMap<RepoName, Promotion>);

impl Table {
    pub fn get(&self, repo: &RepoName) -> Option<&Promotion> {
        self.0.get(repo)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&RepoName, &Promotion)> {
        self.0.iter()
    }

    /// Takes over what is better than what is known, and returns the repositories of which that is so.
    pub fn merge(&mut self, heard: impl IntoIterator<Item = (RepoName, Promotion)>) -> Vec<RepoName> {
        let mut news = Vec::new();
        for (repo, promotion) in heard {
            if self.0.get(&repo).is_none_or(|known| promotion.beats(known)) {
                self.0.insert(repo.clone(), promotion);
                news.push(repo);
            }
        }
        news
    }

    /// The table as lines, `REPO<TAB>EPOCH<TAB>MASTER<TAB>INSTEAD_OF<TAB>DISK<TAB>TIME<TAB>BY`, after a first line.
    pub fn text(&self) -> String {
        let mut out = format!("{HEADER}\n");
        for (repo, Promotion { epoch, master, instead_of, disk, by, at }) in &self.0 {
            let by: String = by.chars().filter(|c| !c.is_control()).take(BY_MAX).collect();
            writeln!(out, "{repo}\t{epoch}\t{master}\t{instead_of}\t{disk}\t{at}\t{by}").expect("a string takes all");
        }
        out
    }

    /// Reads what [`Table::text`] has written; further columns are of a later version and change nothing.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines();
        match lines.next() {
            Some(HEADER) => {}
            other => return Err(format!("{:?} where '{HEADER}' was expected", other.unwrap_or_default())),
        }
        let line = |line: &str| {
            let mut columns = line.split('\t');
            let repo = RepoName::new(columns.next()?).ok()?;
            let promotion = Promotion {
                epoch: Epoch::parse(columns.next()?)?,
                master: HostName::new(columns.next()?).ok()?,
                instead_of: HostName::new(columns.next()?).ok()?,
                disk: columns.next().filter(|disk| super::identity::is_disk(disk))?.to_owned(),
                at: Stamp::parse(columns.next()?)?,
                by: columns.next()?.chars().filter(|c| !c.is_control()).take(BY_MAX).collect(),
            };
            Some((repo, promotion))
        };
        lines
            .map(|text| line(text).ok_or_else(|| format!("{text:?} is no promotion")))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Equal for equal tables, and told in a word.
    pub fn digest(&self) -> String {
        let digest = format!("{:x}", Sha256::digest(self.text()));
        digest[..16].to_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn promotion(epoch: u64, master: &str, instead_of: &str) -> Promotion {
        Promotion {
            epoch: Epoch::parse(&epoch.to_string()).expect("positive"),
            master: HostName::new(master).expect("a name"),
            instead_of: HostName::new(instead_of).expect("a name"),
            disk: "0123456789abcdef".to_owned(),
            by: "alice".to_owned(),
            at: Stamp::parse("2026-11-21_08:30:00").expect("a time"),
        }
    }

    fn table(list: &[(&str, u64, &str)]) -> Table {
        let mut table = Table::default();
        table.merge(
            list.iter().map(|(repo, epoch, to)| (RepoName::new(repo).expect("a name"), promotion(*epoch, to, "s1"))),
        );
        table
    }

    #[test]
    fn the_higher_epoch_wins_and_then_the_lower_name() {
        let mut known = table(&[("a", 2, "s2"), ("b", 3, "s3")]);
        let news = known.merge(table(&[("a", 3, "s3"), ("b", 2, "s2"), ("c", 2, "s2")]).0);
        assert_eq!(news.iter().map(RepoName::as_str).collect::<Vec<_>>(), ["a", "c"]);
        assert_eq!(known, table(&[("a", 3, "s3"), ("b", 3, "s3"), ("c", 2, "s2")]));
        assert_eq!(known.merge(table(&[("a", 3, "s2")]).0).len(), 1, "server 2 comes before server 3");
        assert_eq!(known.merge(table(&[("a", 3, "s3")]).0).len(), 0);
    }

    #[test]
    fn a_configuration_that_names_another_ends_a_promotion_for_good() {
        let (repo, epoch) = (RepoName::new("a").expect("a name"), promotion(2, "s2", "s1").epoch);
        let known = table(&[("a", 2, "s2")]);
        // What the configuration names, whether it had ended, whether it has, whom a new order makes the master.
        for (named, before, after, again) in [
            (Some("s1"), false, false, None),
            (Some("s2"), false, true, None),
            (Some("s3"), false, true, None),
            (None, false, false, None),
            (Some("s1"), true, true, Some("s1")),
            (Some("s2"), true, true, None),
            (Some("s3"), true, true, None),
            (None, true, true, None),
        ] {
            let ended = if before { [(repo.clone(), epoch)].into() } else { BTreeMap::new() };
            let found = review(&known, &ended, |_| named.map(|name| HostName::new(name).expect("a name")));
            assert_eq!(found.ended.contains_key(&repo), after, "{named:?} {before}");
            assert_eq!(found.again.get(&repo).map(HostName::as_str), again, "{named:?} {before}");
        }
        // A later promotion has its own end, and the order for a master that is named needs no other.
        let s1 = |_: &RepoName| Some(HostName::new("s1").expect("a name"));
        let ended = [(repo.clone(), epoch)].into();
        let later = review(&table(&[("a", 3, "s2")]), &ended, s1);
        assert_eq!(later, Review { ended: BTreeMap::new(), again: BTreeMap::new() });
        let order = Promotion::by_configuration(
            HostName::new("s1").expect("a name"),
            epoch.next(),
            Stamp::parse("2026-11-21_08:30:00").expect("a time"),
        );
        let mut table = known;
        assert_eq!(table.merge([(repo.clone(), order)]), [repo]);
        assert_eq!(review(&table, &ended, s1).again, BTreeMap::new());
    }

    #[test]
    fn it_travels_as_lines() {
        let all = table(&[("a", 2, "s2"), ("pub/alice/x", 3, "s3")]);
        let text = all.text();
        assert!(text.contains("a\t2\ts2\ts1\t0123456789abcdef\t2026-11-21_08:30:00\talice\n"), "{text}");
        assert_eq!(Table::parse(&text).as_ref(), Ok(&all));
        assert_eq!(Table::parse(&text.replace("alice\n", "alice\tlater\n")).as_ref(), Ok(&all));
        for (from, to) in [
            ("gitmesh-masters 1", "gitmesh-masters 2"),
            ("\t2\t", "\t0\t"),
            ("a\t", "../a\t"),
            ("0123", "012"),
            ("_", ""),
        ] {
            assert!(Table::parse(&text.replacen(from, to, 1)).is_err(), "{from:?} {to:?}");
        }
        assert_ne!(all.digest(), table(&[("a", 2, "s2")]).digest());
    }

    proptest! {
        /// Whoever hears what in whatever order ends with the same.
        #[test]
        fn the_order_of_hearing_does_not_matter(heard in prop::collection::vec((0..3u8, 1..5u64, 0..3u8), 0..12), cut in 0..12usize) {
            let list: Vec<_> = heard
                .iter()
                .map(|(repo, epoch, to)| {
                    (RepoName::new(&format!("r{repo}")).expect("a name"), promotion(*epoch, &format!("s{to}"), "s9"))
                })
                .collect();
            let (mut one, mut two, mut later) = (Table::default(), Table::default(), Table::default());
            one.merge(list.clone());
            two.merge(list.iter().rev().cloned());
            let (first, second) = list.split_at(cut.min(list.len()));
            later.merge(second.iter().cloned());
            later.merge(first.iter().cloned());
            later.merge(second.iter().cloned());
            prop_assert_eq!(&one, &two);
            prop_assert_eq!(&one, &later);
        }
    }
}

//! What an accepted push changes, in a few words for whoever pushed it.

use std::collections::{BTreeMap, BTreeSet};

/// Names listed in full; beyond them only the number is told.
const NAMES_SHOWN: usize = 5;

/// `+2 repositories (a, b)`, `-1 repository (c), kept on disk`
pub(super) fn repositories(old: &BTreeSet<String>, new: &BTreeSet<String>) -> Vec<String> {
    let added = counted("+", "repository", "repositories", new.difference(old));
    let removed = counted("-", "repository", "repositories", old.difference(new));
    added.into_iter().chain(removed.map(|line| format!("{line}, kept on disk"))).collect()
}

/// `+1 key (bob@laptop)`; files by path.
pub(super) fn keys(old: &BTreeMap<String, Vec<u8>>, new: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    let labels = |files: &BTreeMap<String, Vec<u8>>, keep: &dyn Fn(&String, &Vec<u8>) -> bool| -> Vec<String> {
        let kept = files.iter().filter(|(path, text)| path.ends_with(".pub") && keep(path, text));
        kept.map(|(path, _)| label(path).to_owned()).collect()
    };
    let added = labels(new, &|path, _| !old.contains_key(path));
    let removed = labels(old, &|path, _| !new.contains_key(path));
    let changed = labels(new, &|path, text| old.get(path).is_some_and(|before| before != text));
    let groups = [("+", added), ("-", removed), ("changed: ", changed)];
    groups.iter().filter_map(|(sign, labels)| counted(sign, "key", "keys", labels.iter())).collect()
}

fn counted<'a>(sign: &str, one: &str, many: &str, names: impl Iterator<Item = &'a String>) -> Option<String> {
    let names: Vec<&str> = names.map(String::as_str).collect();
    let noun = if names.len() == 1 { one } else { many };
    let more = if names.len() > NAMES_SHOWN { ", ..." } else { "" };
    let shown = names.iter().take(NAMES_SHOWN).copied().collect::<Vec<_>>().join(", ");
    (!names.is_empty()).then(|| format!("{sign}{} {noun} ({shown}{more})", names.len()))
}

fn label(path: &str) -> &str {
    let base = path.rsplit('/').next().unwrap_or(path);
    base.strip_suffix(".pub").unwrap_or(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn repositories_that_come_and_go() {
        assert_eq!(
            repositories(&set(&["x"]), &set(&["a", "b"])),
            ["+2 repositories (a, b)", "-1 repository (x), kept on disk"]
        );
        let many: BTreeSet<_> = (0..7).map(|n| format!("r{n}")).collect();
        assert_eq!(repositories(&set(&[]), &many), ["+7 repositories (r0, r1, r2, r3, r4, ...)"]);
        assert!(repositories(&many, &many).is_empty());
    }

    #[test]
    fn keys_that_come_go_and_change() {
        let files = |files: &[(&str, &str)]| {
            files.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect::<BTreeMap<_, _>>()
        };
        let old = files(&[("keydir/alice.pub", "1"), ("keydir/bob@old.pub", "2"), ("keydir/README", "x")]);
        let new = files(&[("keydir/alice.pub", "3"), ("keydir/a/bob@laptop.pub", "2")]);
        assert_eq!(keys(&old, &new), ["+1 key (bob@laptop)", "-1 key (bob@old)", "changed: 1 key (alice)"]);
    }
}

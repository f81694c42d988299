//! The keys of users as the files below `keydir/` hold them, and how one is added, dated or taken out. Text in, text
//! out: which files change, with their new contents.

use std::collections::BTreeMap;

use super::key::{PublicKey, key_lines, parse_line};
use super::key_options::with_expiry;
use super::keyring::{OwnerName, owner_of};
use crate::model::UserName;
use crate::model::time::Stamp;

const FOLDER: &str = "keydir/";

/// Contents by path, or `None` for a file that goes.
pub type Edits = BTreeMap<String, Option<Vec<u8>>>;

/// One key of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserKey {
    pub user: UserName,
    /// `keydir/alice@laptop.pub`
    pub file: String,
    pub line: u32,
    pub key: PublicKey,
}

impl UserKey {
    /// `laptop` of `keydir/alice@laptop.pub`; the file's whole name where it has no such part.
    pub fn name(&self) -> &str {
        let base = self.file.rsplit('/').next().unwrap_or(&self.file);
        let stem = base.strip_suffix(".pub").unwrap_or(base);
        let part = stem.strip_prefix(self.user.as_str()).and_then(|rest| rest.strip_prefix('@'));
        part.filter(|part| !part.is_empty()).unwrap_or(base)
    }

    /// Whether a word on a command line means this key: its fingerprint or a part of it that is long enough, its
    /// name, its file.
    pub fn is_meant_by(&self, word: &str) -> bool {
        let whole = self.key.fingerprint.as_str();
        let digits = whole.strip_prefix("SHA256:").unwrap_or(whole);
        let begun = word.strip_prefix("SHA256:").unwrap_or(word);
        word == self.name()
            || word == self.file
            || self.file.rsplit('/').next() == Some(word)
            || (begun.len() >= 8 && digits.starts_with(begun))
    }

    pub fn has_expired(&self, now: Stamp) -> bool {
        self.key.options.expires.is_some_and(|at| at <= now)
    }
}

/// All keys of one user, or of all, by file and line. Looks at the name of every file and reads those that count.
pub fn user_keys(files: &BTreeMap<String, Vec<u8>>, of: Option<&UserName>) -> Vec<UserKey> {
    let mut found = Vec::new();
    for (path, text) in files.iter().filter(|(path, _)| path.starts_with(FOLDER) && path.ends_with(".pub")) {
        let Ok(OwnerName::User(user)) = owner_of(path) else { continue };
        if of.is_some_and(|of| *of != user) {
            continue;
        }
        for (line, text) in key_lines(text).unwrap_or_default() {
            if let Ok(key) = parse_line(text, line) {
                found.push(UserKey { user: user.clone(), file: path.clone(), line, key });
            }
        }
    }
    found
}

/// Whether a word can be the last part of a key file's name: `laptop` in `alice@laptop.pub`.
pub fn is_key_name(word: &str) -> bool {
    let known = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    (1..=40).contains(&word.len()) && word.bytes().all(known)
}

/// Where a new key of the user goes: beside the others, if those are all in one folder.
pub fn new_key_file(files: &BTreeMap<String, Vec<u8>>, user: &UserName, name: &str) -> String {
    let own = user_keys(files, Some(user));
    let folder = |file: &str| file.rsplit_once('/').map_or(FOLDER.to_owned(), |(folder, _)| format!("{folder}/"));
    let first = own.first().map(|key| folder(&key.file));
    let shared = first.filter(|first| own.iter().all(|key| folder(&key.file) == *first));
    format!("{}{user}@{name}.pub", shared.unwrap_or_else(|| FOLDER.to_owned()))
}

/// The file without this key; a file that holds no other key goes.
pub fn without(files: &BTreeMap<String, Vec<u8>>, key: &UserKey) -> Edits {
    change(files, key, None)
}

/// The file with another end for this key; `None` for no end.
pub fn dated(files: &BTreeMap<String, Vec<u8>>, key: &UserKey, end: Option<Stamp>) -> Edits {
    change(files, key, Some(&|line: &str| with_expiry(line, end)))
}

fn change(files: &BTreeMap<String, Vec<u8>>, key: &UserKey, edit: Option<&dyn Fn(&str) -> String>) -> Edits {
    let Some(text) = files.get(&key.file).and_then(|text| std::str::from_utf8(text).ok()) else { return Edits::new() };
    let mut kept = String::new();
    for (number, line) in (1_u32..).zip(text.split_inclusive('\n')) {
        match edit {
            _ if number != key.line => kept.push_str(line),
            Some(edit) => {
                kept.push_str(&edit(line.trim_start_matches('\u{feff}')));
                kept.push('\n');
            }
            None => {}
        }
    }
    let is_empty = key_lines(kept.as_bytes()).is_ok_and(|lines| lines.is_empty());
    [(key.file.clone(), (!is_empty).then(|| kept.into_bytes()))].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC2/C2kQn1vF1erSHaH+Vz3+t2j06lMn4YMSCXCEgC5M alice@laptop";
    const TWO: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBEAQW3M4c56Niu3E0lUSDtxnJBy74WqdI5lXRGI/dxjKN4AJKGPLhdT0WE+jxm0Ya5OoNOaNCdqjZs7qtx4MlTA= two";

    fn files(all: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
        all.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect()
    }

    fn user(name: &str) -> UserName {
        UserName::new(name).unwrap()
    }

    #[test]
    fn whose_keys_and_what_they_are_called() {
        let both = format!("# mine\n{ONE}\n{TWO}\n");
        let files = files(&[
            ("keydir/eng/alice@laptop.pub", &both),
            ("keydir/alice@corp.com@home.pub", ONE),
            ("keydir/alice.pub", TWO),
            ("keydir/server-alice.pub", ONE),
            ("conf/alice.pub", ONE),
        ]);
        let told = |name: &str| {
            let keys = user_keys(&files, Some(&user(name)));
            keys.iter().map(|key| format!("{}:{} {}", key.file, key.line, key.name())).collect::<Vec<_>>()
        };
        let alice = [
            "keydir/alice.pub:1 alice.pub",
            "keydir/eng/alice@laptop.pub:2 laptop",
            "keydir/eng/alice@laptop.pub:3 laptop",
        ];
        assert_eq!(told("alice"), alice);
        assert_eq!(told("alice@corp.com"), ["keydir/alice@corp.com@home.pub:1 home"]);
        assert_eq!(user_keys(&files, None).len(), 4);
        let key = &user_keys(&files, Some(&user("alice")))[1];
        for word in [
            "laptop",
            "alice@laptop.pub",
            "keydir/eng/alice@laptop.pub",
            "SHA256:IWeqjbfS",
            "IWeqjbfSGHgqiMRf",
            key.key.fingerprint.as_str(),
        ] {
            assert!(key.is_meant_by(word), "{word}");
        }
        for word in ["lap", "SHA256:", "SHA256:IWe", "alice", "", "SHA256:xWeqjbfS"] {
            assert!(!key.is_meant_by(word), "{word}");
        }
    }

    #[test]
    fn where_a_new_one_goes() {
        let at = |all: &[(&str, &str)]| new_key_file(&files(all), &user("alice"), "new");
        assert_eq!(at(&[]), "keydir/alice@new.pub");
        assert_eq!(at(&[("keydir/eng/alice.pub", ONE), ("keydir/bob.pub", TWO)]), "keydir/eng/alice@new.pub");
        assert_eq!(at(&[("keydir/1/alice.pub", ONE), ("keydir/2/alice.pub", TWO)]), "keydir/alice@new.pub");
        assert!(is_key_name("laptop-2") && !is_key_name("") && !is_key_name("a.b") && !is_key_name("../x"));
    }

    #[test]
    fn one_key_of_a_file_changes_and_the_rest_stays() {
        let both = format!("\u{feff}# mine\r\n{ONE}\r\n\n{TWO}");
        let files = files(&[("keydir/alice.pub", &both), ("keydir/bob.pub", ONE)]);
        let keys = user_keys(&files, Some(&user("alice")));
        let text = |edits: Edits| edits["keydir/alice.pub"].clone().map(|text| String::from_utf8(text).unwrap());
        assert_eq!(text(without(&files, &keys[0])).unwrap(), format!("\u{feff}# mine\r\n\n{TWO}"));
        let at = Stamp::parse_compact("20261201");
        let edited = text(dated(&files, &keys[1], at)).unwrap();
        assert_eq!(edited, format!("\u{feff}# mine\r\n{ONE}\r\n\nexpiry-time=\"20261201Z\" {TWO}\n"));
        let last = text(dated(&files, &keys[0], None)).unwrap();
        assert!(last.contains(&format!("{ONE}\n")), "{last}");
        let bob = user_keys(&files, Some(&user("bob"))).remove(0);
        assert_eq!(without(&files, &bob), [("keydir/bob.pub".to_owned(), None)].into());
    }
}

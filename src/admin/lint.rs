//! Remarks that need rules and keys together: legal, and surely not meant.

use crate::model::{HostName, UserName};
use crate::policy::{Diagnostic, Keyring, Policy, find_word};

use super::compile::{Remarks, warning};
use super::tree::Files;

/// Names listed in one remark.
const NAMES_SHOWN: usize = 5;

/// Users in rules who have no key and so can never log in (unless a CA vouches for users here), and repositories that
/// nobody can read.
pub(super) fn lint(
    policy: &Policy,
    keyring: &Keyring,
    certified: bool,
    files: &Files,
    main: &str,
    found: &mut Remarks,
) {
    let known: std::collections::BTreeSet<&str> = keyring.users().into_iter().map(UserName::as_str).collect();
    // `server-NAME` is how rules call a node.
    let node = |name: &str| name.strip_prefix("server-").is_some_and(|node| HostName::new(node).is_ok());
    let keyless: Vec<&str> = policy.people().into_iter().filter(|name| !known.contains(name) && !node(name)).collect();
    if let Some(first) = keyless.first().filter(|_| !certified) {
        let message = format!("{} no key: {}", counted(keyless.len(), "user has", "users have"), names(&keyless));
        let help = format!("add keydir/{first}.pub, or take the name out of the rules and groups");
        at(files, main, first, found, "W0304", "user-without-key", message, &help);
    }
    for (word, pattern) in policy.words_before_creator() {
        if known.contains(word) {
            let message = format!("user '{word}' can make no repository under '{pattern}'");
            let help = format!(
                "only the first '{word}' of a name is taken for CREATOR; give that folder or that user another name"
            );
            at(files, main, pattern, found, "W0308", "creator-in-path", message, &help);
        }
    }
    for role in policy.roles().chain(["CREATOR"]).filter(|role| known.contains(role)) {
        let path = format!("keydir/{role}.pub");
        let path = if files.contains_key(&path) { path.as_str() } else { "keydir" };
        let message = format!("user '{role}' is called like a role, and no rule can name this user");
        found.push(warning("W0309", "user-named-like-role", path, message, "give the user another name"));
    }
    let unread: Vec<&str> = policy.unread().into_iter().map(crate::model::RepoName::as_str).collect();
    if let Some(first) = unread.first() {
        let count = counted(unread.len(), "repository", "repositories");
        let message = format!("{count} can be read by nobody: {}", names(&unread));
        at(files, main, first, found, "W0305", "repo-unread", message, "give somebody R or RW, or leave it out");
    }
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn names(all: &[&str]) -> String {
    let shown = all.iter().take(NAMES_SHOWN).copied().collect::<Vec<_>>().join(", ");
    if all.len() > NAMES_SHOWN { format!("{shown}, ...") } else { shown }
}

#[expect(clippy::too_many_arguments, reason = "one call a remark, each word of it once")]
fn at(
    files: &Files,
    main: &str,
    word: &str,
    found: &mut Remarks,
    code: &'static str,
    class: &'static str,
    message: String,
    help: &str,
) {
    let mut remark = warning(code, class, main, message, help);
    stand(files, word, &mut remark);
    found.push(remark);
}

/// Moves a remark to where a word stands first in the rules, if it does.
pub(super) fn stand(files: &Files, word: &str, remark: &mut Diagnostic) {
    let rules: Vec<(String, &[u8])> =
        files.iter().filter(|(path, _)| path.starts_with("conf/")).map(|(p, t)| (p.clone(), t.as_slice())).collect();
    if let Some((file, span, line)) = find_word(&rules, word) {
        (remark.file, remark.span, remark.line) = (file, Some(span), line);
    }
}

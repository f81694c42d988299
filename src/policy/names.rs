//! Which characters a word of the access language may hold (gitolite's classes, section 2.4 of the specification).

/// Letters, digits and `-_.@+`.
fn is_user_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-_.@+".contains(&b)
}

fn is_repo_byte(b: u8) -> bool {
    is_user_byte(b) || b == b'/'
}

/// What a pattern or a refex may hold besides the bytes of a plain name.
fn is_pattern_byte(b: u8) -> bool {
    is_repo_byte(b) || b"\\^$|()[]*?{},".contains(&b)
}

fn starts_and_holds(text: &str, first: impl Fn(u8) -> bool, rest: impl Fn(u8) -> bool) -> bool {
    text.bytes().next().is_some_and(first) && text.bytes().all(rest)
}

/// A user name, without a leading `@`.
pub(super) fn is_user(text: &str) -> bool {
    starts_and_holds(text, |b| b.is_ascii_alphanumeric(), is_user_byte)
}

/// Who may be asked about: a user, or with `@` a group or everybody. `0` is false in gitolite's language and
/// therefore nobody.
pub(super) fn may_ask(text: &str) -> bool {
    is_user(text.strip_prefix('@').unwrap_or(text)) && text != "0"
}

/// A repository's or a group's plain name, without a leading `@`.
pub(super) fn is_plain(text: &str) -> bool {
    starts_and_holds(text, |b| b.is_ascii_alphanumeric(), is_repo_byte)
}

/// A repository pattern or a group member, plain names included.
pub(super) fn is_pattern(text: &str) -> bool {
    starts_and_holds(text, |b| b.is_ascii_alphanumeric() || b == b'[', is_pattern_byte)
}

/// A refex: the prefix `refs/heads/` in front of it makes any first character good.
pub(super) fn is_refex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_pattern_byte)
}

/// A reference as a client sends it; a path under `VREF/NAME/` may hold anything.
pub(super) fn is_ref(text: &str) -> bool {
    let rest = |b: u8| is_repo_byte(b) || b" :,".contains(&b);
    text.starts_with("VREF/NAME/") || starts_and_holds(text, |b| b.is_ascii_alphanumeric(), rest)
}

/// Whether it is asked about as a text of the configuration (a pattern or a group), which is no repository's name.
pub(super) fn is_pattern_text(text: &str) -> bool {
    !is_plain(text)
}

/// Why something cannot be asked about as a repository's name or, as in gitolite, as the text of a pattern or a group;
/// the words are the vectors' classes. `0` is false in gitolite's language and therefore no name.
pub(super) fn repo_problem(text: &str) -> Option<&'static str> {
    if text == "0" || !is_pattern(text.strip_prefix('@').unwrap_or(text)) {
        Some("invalid-repo")
    } else if text.ends_with('/') {
        Some("repo-ends-slash")
    } else if text.ends_with(".git") {
        Some("repo-ends-dotgit")
    } else if is_pattern_text(text) {
        None
    } else if text.contains("..") {
        Some("repo-dotdot")
    } else if text.contains(".git/") {
        Some("repo-contains-dotgit")
    } else {
        None
    }
}

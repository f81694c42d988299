//! What to do with one repository of the other server, whatever was done before: pure.

use std::collections::BTreeMap;

/// What was taken in before, by name: the state there and here at that time. A line a repository, `THERE HERE NAME`;
/// of two lines with one name the last counts.
pub fn journal(text: &str) -> BTreeMap<String, Taken> {
    let line = |line: &str| {
        let mut words = line.splitn(3, ' ').map(str::to_owned);
        Some((words.next()?, words.next()?, words.next()?))
    };
    text.lines().filter_map(line).map(|(there, here, name)| (name, Taken { there, here })).collect()
}

/// The digests of a repository at the moment when it was taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub there: String,
    pub here: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// It is not here.
    Take,
    /// It has changed there, and here nobody has touched it.
    Renew,
    /// It has not changed there; what became of it here is its own affair.
    Leave,
    /// It has changed there, and what is here is more than was taken in: that is never overwritten.
    Conflict,
}

/// `there` and `here` are the digests of now; `taken` is what the journal knows.
pub fn step(there: &str, here: Option<&str>, taken: Option<&Taken>) -> Step {
    let Some(here) = here else { return Step::Take };
    match taken {
        _ if here == there => Step::Leave,
        Some(taken) if taken.there == there => Step::Leave,
        Some(taken) if taken.here == here => Step::Renew,
        _ => Step::Conflict,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_was_made_here_is_ever_overwritten() {
        let taken = |there: &str, here: &str| Some(Taken { there: there.into(), here: here.into() });
        for (there, here, before, wanted) in [
            ("a", None, None, Step::Take),
            ("a", None, taken("a", "a"), Step::Take),
            ("a", Some("a"), None, Step::Leave),
            ("b", Some("a"), None, Step::Conflict),
            ("a", Some("b"), taken("a", "a"), Step::Leave),
            ("b", Some("a"), taken("a", "a"), Step::Renew),
            ("b", Some("c"), taken("a", "a"), Step::Conflict),
            ("b", Some("b"), taken("a", "a"), Step::Leave),
            // The admin repository is another one here from the start.
            ("a", Some("x"), taken("a", "x"), Step::Leave),
            ("b", Some("x"), taken("a", "x"), Step::Renew),
            ("b", Some("y"), taken("a", "x"), Step::Conflict),
            ("a", Some("x"), None, Step::Conflict),
        ] {
            assert_eq!(step(there, here, before.as_ref()), wanted, "{there} {here:?} {before:?}");
        }
    }

    #[test]
    fn the_last_line_counts() {
        let known = journal("a b docs/x\nrubbish\nc d docs/x\n");
        assert_eq!(known, [("docs/x".to_owned(), Taken { there: "c".into(), here: "d".into() })].into());
    }
}

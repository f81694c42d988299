//! From bytes to clean lines, and from a clean line back to its bytes.
//!
//! A line keeps where it came from; the exact place of a word is found again only when a diagnostic needs it, by
//! cleaning the same bytes once more with a map. So a good configuration pays nothing for good messages.

use std::ops::Range;

/// One cleaned line (section 2.2): no comment, single spaces, a space on each side of the first `=`.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) origin: Origin,
    /// Index of the delegated part it belongs to; 0 is the main configuration.
    pub(super) subconf: u32,
    /// Changes whenever a delegated part begins or ends, so that nothing runs from one into the next.
    pub(super) segment: u32,
}

/// Where a line stands: the file's index, the line number from 1, and the bytes of the line in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) file: u32,
    pub(super) line: u32,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// Blanks as Perl's `\s` knows them.
fn is_blank(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c)
}

/// Cleans one physical line.
pub(super) fn clean(raw: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(raw.len() + 2);
    each_clean_byte(raw, |b, _| bytes.push(b));
    String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

/// The bytes of the file that a part of a clean line came from. Falls back to the whole line, without its blanks,
/// when the line was rewritten (macros, `%HOSTNAME`, delegated group names).
pub(super) fn locate(file: &[u8], origin: Origin, text: &str, part: Option<Range<usize>>) -> Range<usize> {
    let raw = file.get(origin.start..origin.end).unwrap_or_default();
    let part = part.filter(|part| !part.is_empty());
    let (mut length, mut same) = (0, true);
    // The places of the first and the last byte, of the line and of the part.
    let (mut line, mut found) = ((None, None), (None, None));
    each_clean_byte(raw, |b, at| {
        same &= text.as_bytes().get(length) == Some(&b);
        line = (line.0.or(Some(at)), Some(at));
        if let Some(part) = part.as_ref().filter(|part| part.contains(&length)) {
            found.0 = found.0.filter(|_| length > part.start).or(Some(at));
            found.1 = Some(at).filter(|_| length + 1 == part.end);
        }
        length += 1;
    });
    same &= length == text.len();
    let place = if same && found.1.is_some() { found } else { line };
    match place {
        (Some(first), Some(last)) => origin.start + first..origin.start + last + 1,
        _ => origin.start..origin.end.min(file.len()),
    }
}

/// Calls `push` with each byte of the clean line and its place in the raw one.
fn each_clean_byte(raw: &[u8], mut push: impl FnMut(u8, usize)) {
    let kept = &raw[..comment_start(raw).unwrap_or(raw.len())];
    let first_equals = kept.iter().position(|b| *b == b'=');
    let (mut started, mut gap) = (false, None);
    for (at, &byte) in kept.iter().enumerate() {
        let equals = Some(at) == first_equals;
        if is_blank(byte) {
            gap = gap.or(Some(at));
            continue;
        }
        if equals {
            gap = gap.or(Some(at));
        }
        if let Some(blank) = gap.take().filter(|_| started) {
            push(b' ', blank);
        }
        push(byte, at);
        started = true;
        if equals {
            gap = Some(at);
        }
    }
}

/// Where the comment starts. A `#` between double quotes does not start one. gitolite finds it with a backtracking
/// expression, so when no `#` is found with the shortest strings it takes longer ones; this is the same search
/// from right to left, in linear time.
fn comment_start(raw: &[u8]) -> Option<usize> {
    let first_hash = raw.iter().position(|b| *b == b'#')?;
    let first_quote = raw.iter().position(|b| *b == b'"');
    if first_quote.is_none_or(|q| first_hash < q) {
        return Some(first_hash);
    }
    // `after`: the cut if a string ends at the quote to the right and reading goes on from there.
    // `nearest`: the first such cut that exists among all quotes to the right.
    let (mut hash, mut opened, mut nearest): (Option<usize>, Option<usize>, Option<usize>) = (None, None, None);
    for at in (0..raw.len()).rev() {
        match raw[at] {
            b'#' => hash = Some(at),
            b'"' => {
                let after = hash.take().or(opened);
                opened = nearest;
                nearest = after.or(nearest);
            }
            _ => {}
        }
    }
    // The first quote can only open a string: what reading from it would find is the answer.
    opened
}

/// Splits a clean line (or a part of it that starts at `base`) into words with their places.
pub(super) fn words(text: &str, base: usize) -> Vec<Word<'_>> {
    let mut found = Vec::new();
    let mut at = base;
    for word in text.split(' ') {
        if !word.is_empty() {
            found.push(Word { text: word, at });
        }
        at += word.len() + 1;
    }
    found
}

/// A word and its place in the clean line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word<'l> {
    pub(super) text: &'l str,
    pub(super) at: usize,
}

impl Word<'_> {
    pub(super) fn range(&self) -> Range<usize> {
        self.at..self.at + self.text.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning() {
        for (raw, want) in [
            ("\t RW+=u1\r", "RW+ = u1"),
            ("RW =", "RW ="),
            ("RW = u1#x", "RW = u1"),
            ("-=u4", "- = u4"),
            ("a = \"x    y\"", "a = \"x y\""),
            ("config a.b = \"color #1\"", "config a.b = \"color #1\""),
            ("config a.b = \"x\" # c", "config a.b = \"x\""),
            ("a = 'x#y'", "a = 'x"),
            ("a = \"x # y", "a = \"x # y"),
            ("a = \"p#q\" b \" d # e", "a = \"p#q\" b \" d"),
            ("a=b=c", "a = b=c"),
            ("# conf/x 12", ""),
            ("=begin testconf", "= begin testconf"),
            ("   ", ""),
        ] {
            assert_eq!(clean(raw.as_bytes()), want, "{raw:?}");
        }
    }

    #[test]
    fn words_find_their_bytes_again() {
        let file = b"x\n  RW+\t=  @dev   alice # c\n";
        let origin = Origin { file: 0, line: 2, start: 2, end: file.len() - 1 };
        let text = clean(&file[origin.start..origin.end]);
        assert_eq!(text, "RW+ = @dev alice");
        let found = words(&text, 0);
        let span = locate(file, origin, &text, Some(found[2].range()));
        assert_eq!(&file[span], b"@dev");
        assert_eq!(&file[locate(file, origin, "rewritten", Some(0..2))], b"RW+\t=  @dev   alice");
    }

    #[test]
    fn comment_search_equals_backtracking() {
        // What reading from `at` finds, straight from the definition.
        fn naive(raw: &[u8], at: usize) -> Option<usize> {
            match raw.get(at)? {
                b'#' => Some(at),
                b'"' => (at + 1..raw.len()).filter(|j| raw[*j] == b'"').find_map(|j| naive(raw, j + 1)),
                _ => naive(raw, at + 1),
            }
        }
        for n in 0..3_u32.pow(9) {
            let raw: Vec<u8> = (0..9).map(|i| b"#\"a"[(n / 3_u32.pow(i) % 3) as usize]).collect();
            assert_eq!(comment_start(&raw), naive(&raw, 0), "{}", String::from_utf8_lossy(&raw));
        }
    }
}

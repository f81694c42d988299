//! File names by shell pattern, as `include` takes them: `*` `?` `[…]` `{a,b}`.

use std::collections::BTreeMap;

/// More alternatives than this from one pair of braces after another are not made.
const ALTERNATIVES_MAX: usize = 1000;

/// The files that a pattern names, sorted without regard to case. A name without wildcards is given back whether it
/// exists or not, so that the caller can say that it does not. Each file that is looked at costs one of `steps`; none
/// when they do not suffice.
pub(super) fn expand(pattern: &str, files: &BTreeMap<String, Vec<u8>>, steps: &mut usize) -> Option<Vec<String>> {
    let mut found = Vec::new();
    for one in braces(pattern) {
        *steps = steps.checked_sub(1)?;
        if !one.contains(['*', '?', '[']) {
            found.push(one.replace('\\', ""));
            continue;
        }
        let start = &one[..one.find(['*', '?', '[', '\\']).unwrap_or(one.len())];
        let near = files.range(start.to_owned()..).map(|(path, _)| path).take_while(|path| path.starts_with(start));
        let mut hits: Vec<&String> = Vec::new();
        for path in near {
            *steps = steps.checked_sub(1)?;
            hits.extend(path_matches(&one, path).then_some(path));
        }
        hits.sort_by_key(|path| (path.to_ascii_lowercase(), path.as_str().to_owned()));
        found.extend(hits.into_iter().cloned());
    }
    Some(found)
}

/// Multiplies `{a,b}` out.
fn braces(pattern: &str) -> Vec<String> {
    let mut open = vec![pattern.to_owned()];
    let mut done = Vec::new();
    while let Some(next) = open.pop() {
        let parts = if done.len() + open.len() < ALTERNATIVES_MAX { first_braces(&next) } else { None };
        match parts {
            None => done.push(next),
            Some((before, inside, after)) => {
                open.extend(inside.iter().rev().map(|part| format!("{before}{part}{after}")));
            }
        }
    }
    done
}

/// Text before the first balanced braces, the alternatives, and the text after.
fn first_braces(text: &str) -> Option<(&str, Vec<&str>, &str)> {
    let start = text.find('{')?;
    let (mut depth, mut parts, mut from) = (0, Vec::new(), start + 1);
    for (at, byte) in text.bytes().enumerate().skip(start) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b',' if depth == 1 => {
                parts.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
        if depth == 0 {
            parts.push(&text[from..at]);
            return Some((&text[..start], parts, &text[at + 1..]));
        }
    }
    None
}

fn path_matches(pattern: &str, path: &str) -> bool {
    let (wants, has) = (pattern.split('/').collect::<Vec<_>>(), path.split('/').collect::<Vec<_>>());
    wants.len() == has.len() && wants.iter().zip(&has).all(|(w, h)| name_matches(w.as_bytes(), h.as_bytes()))
}

/// One part of a path. A leading dot wants an explicit one. Linear in pattern times name.
fn name_matches(pattern: &[u8], name: &[u8]) -> bool {
    if name.first() == Some(&b'.') && pattern.first() != Some(&b'.') {
        return false;
    }
    let (mut p, mut n, mut star) = (0, 0, None);
    loop {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p + 1, n));
            p += 1;
            continue;
        }
        let step = name.get(n).and_then(|byte| one_matches(&pattern[p..], *byte));
        if let Some(length) = step {
            p += length;
            n += 1;
        } else if n == name.len() && p == pattern.len() {
            return true;
        } else if let Some((after, from)) = star.filter(|(_, from)| *from < name.len()) {
            star = Some((after, from + 1));
            (p, n) = (after, from + 1);
        } else {
            return false;
        }
    }
}

/// How long the first element of the pattern is, if it takes this byte.
fn one_matches(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern.first()? {
        b'?' => Some(1),
        b'\\' => pattern.get(1).filter(|b| **b == byte).map(|_| 2),
        b'[' => {
            let negated = pattern.get(1) == Some(&b'!');
            let start = if negated { 2 } else { 1 };
            let length = pattern.iter().skip(start + 1).position(|b| *b == b']')? + 1;
            let set = &pattern[start..start + length];
            let (mut hit, mut at) = (false, 0);
            while at < set.len() {
                if at + 2 < set.len() && set[at + 1] == b'-' {
                    hit |= (set[at]..=set[at + 2]).contains(&byte);
                    at += 3;
                } else {
                    hit |= set[at] == byte;
                    at += 1;
                }
            }
            (hit != negated).then_some(start + length + 1)
        }
        b => (*b == byte).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expands_like_the_shell() {
        let names = ["d/b.conf", "d/A.conf", "d/C.conf", "d/.h.conf", "e/x1.conf", "e/x2.conf", "d/s/y.conf"];
        let files: BTreeMap<String, Vec<u8>> = names.iter().map(|n| ((*n).to_owned(), Vec::new())).collect();
        for (pattern, want) in [
            ("d/*.conf", vec!["d/A.conf", "d/b.conf", "d/C.conf"]),
            ("e/x[1-1].conf", vec!["e/x1.conf"]),
            ("e/x[!1].conf", vec!["e/x2.conf"]),
            ("{e,d}/?*.conf", vec!["e/x1.conf", "e/x2.conf", "d/A.conf", "d/b.conf", "d/C.conf"]),
            ("no.conf", vec!["no.conf"]),
            ("no*.conf", vec![]),
            ("{e,d", vec!["{e,d"]),
            ("*/*/*.conf", vec!["d/s/y.conf"]),
        ] {
            let want: Vec<String> = want.into_iter().map(str::to_owned).collect();
            assert_eq!(expand(pattern, &files, &mut 100), Some(want), "{pattern}");
        }
        assert_eq!(expand("d/*", &files, &mut 3), None);
    }
}

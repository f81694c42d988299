//! The optional rewriting of lines that gitolite calls sugar (section 9): continuation lines, groups from key
//! directories, macros. None of it reaches across the border of a delegated part.

use std::collections::HashMap;

use super::include::Joined;
use super::lexer::{Line, Origin, clean};
use super::{Settings, keyring};

/// What one call of a macro may grow to, and how often macros may be called.
const EXPANSION_BYTES_MAX: usize = 1 << 20;
const CALLS_MAX: usize = 100_000;

/// Applies what the settings switch on, in gitolite's order, whatever the order there.
pub(super) fn apply(joined: &mut Joined<'_>, settings: &Settings) {
    if settings.enable.contains("continuation-lines") {
        joined.lines = join_continued(std::mem::take(&mut joined.lines));
    }
    if settings.enable.contains("keysubdirs-as-groups") {
        key_groups(joined, &settings.key_files);
    }
    if settings.enable.contains("macros") {
        macros(joined);
    }
}

/// A line that ends in a backslash takes the next one.
fn join_continued(lines: Vec<Line>) -> Vec<Line> {
    let mut done: Vec<Line> = Vec::with_capacity(lines.len());
    let mut open: Option<Line> = None;
    for line in lines {
        let mut whole = match open.take() {
            Some(start) if start.segment == line.segment => {
                Line { text: format!("{}{}", start.text, line.text), ..start }
            }
            Some(start) => {
                done.push(start);
                line
            }
            None => line,
        };
        if whole.text.ends_with('\\') {
            whole.text.pop();
            open = Some(whole);
        } else {
            done.push(whole);
        }
    }
    done.extend(open);
    for line in &mut done {
        line.text = clean(line.text.as_bytes());
    }
    done.retain(|line| !line.text.is_empty());
    done
}

/// Each key file in a directory below `keydir/` puts its user into the group of that directory's name.
fn key_groups(joined: &mut Joined<'_>, key_files: &[String]) {
    let mut sorted: Vec<&String> = key_files.iter().collect();
    sorted.sort();
    let file = u32::try_from(joined.files.list.len()).unwrap_or(u32::MAX);
    let mut groups = Vec::new();
    for path in sorted {
        let Some((directories, name)) = path.rsplit_once('/') else { continue };
        let Some(user) = keyring::user_of(name) else { continue };
        let group = directories.rsplit('/').next().unwrap_or(directories);
        let text = clean(format!("@{group} = {user}").as_bytes());
        let origin = Origin { file, line: 0, start: 0, end: 0 };
        groups.push(Line { text, origin, subconf: 0, segment: 0 });
    }
    if !groups.is_empty() {
        joined.files.list.push(("keydir".to_owned(), b""));
        groups.append(&mut joined.lines);
        joined.lines = groups;
    }
}

/// `macro NAME … end` defines; a line whose first word is NAME is replaced by the body, `%1` by the first argument.
/// A macro of a delegated part is known only there: otherwise `macro repo` would rewrite everybody's lines.
fn macros(joined: &mut Joined<'_>) {
    let mut bodies: HashMap<(u32, String), Vec<String>> = HashMap::new();
    let mut rest: Vec<Line> = Vec::with_capacity(joined.lines.len());
    let mut lines = std::mem::take(&mut joined.lines).into_iter().peekable();
    while let Some(line) = lines.next() {
        let Some(head) = line.text.strip_prefix("macro ") else {
            rest.push(line);
            continue;
        };
        let (name, first) = head.split_once(' ').unwrap_or((head, ""));
        let mut body = vec![first.to_owned()];
        let mut closed = false;
        while let Some(next) = lines.next_if(|next| next.segment == line.segment) {
            if next.text.split(' ').next() == Some("end") {
                closed = true;
                break;
            }
            body.push(next.text);
        }
        if closed {
            bodies.insert((line.subconf, name.to_owned()), body);
        } else {
            let message = format!("macro '{name}' has no 'end'");
            joined.files.remark("line-ignored", &line, None, message);
        }
    }
    let mut calls = 0;
    for line in rest {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let first = line.text.split(|c| !word(c)).next().unwrap_or_default();
        let body = bodies.get(&(line.subconf, first.to_owned())).or_else(|| bodies.get(&(0, first.to_owned())));
        let Some(body) = body.filter(|_| !first.is_empty()) else {
            joined.lines.push(line);
            continue;
        };
        calls += 1;
        if calls > CALLS_MAX {
            joined.files.remark("too-large", &line, None, "macros are called too often".to_owned());
            return;
        }
        match expand(body, &line.text) {
            Ok(texts) => {
                let cleaned = texts.iter().map(|t| clean(t.as_bytes())).filter(|t| !t.is_empty());
                joined.lines.extend(cleaned.map(|text| Line { text, ..line.clone() }));
            }
            Err(Misuse::Missing(n)) => {
                let message = format!("macro '{first}' needs {n} arguments");
                joined.files.remark("macro-arguments", &line, None, message);
            }
            Err(Misuse::TooLong) => {
                let message = format!("macro '{first}' expands to too much text");
                joined.files.remark("too-large", &line, None, message);
            }
        }
    }
}

enum Misuse {
    Missing(usize),
    TooLong,
}

fn expand(body: &[String], call: &str) -> Result<Vec<String>, Misuse> {
    let arguments = shell_words(call);
    let mut size = 0;
    let mut done = Vec::with_capacity(body.len());
    for line in body {
        let mut text = String::new();
        let mut rest = line.as_str();
        while let Some((before, after)) = rest.split_once('%') {
            text.push_str(before);
            let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            if digits == 0 {
                text.push('%');
            } else {
                let n: usize = after[..digits].parse().unwrap_or(usize::MAX);
                // gitolite takes an empty word and `0` for missing.
                let argument = arguments.get(n).filter(|a| n > 0 && !a.is_empty() && *a != "0");
                text.push_str(argument.ok_or(Misuse::Missing(n))?);
            }
            rest = &after[digits..];
            if size + text.len() > EXPANSION_BYTES_MAX {
                return Err(Misuse::TooLong);
            }
        }
        text.push_str(rest);
        size += text.len();
        done.push(text);
    }
    Ok(done)
}

/// Words as a shell splits them: quotes and backslashes protect blanks.
fn shell_words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(chars.next()),
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (_, Some(q)) if c == q => quote = None,
            (' ', None) => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shell_quoting() {
        assert_eq!(shell_words(r#"m a "b c" 'd "e' f\ g """#), ["m", "a", "b c", "d \"e", "f g", ""]);
    }
}

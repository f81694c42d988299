//! The optional rewriting of lines that gitolite calls sugar (section 9): continuation lines, groups from key
//! directories, macros. None of it reaches across the border of a delegated part.

use std::collections::HashMap;

use super::include::{Joined, LINE_BYTES_MAX};
use super::lexer::{Line, Origin, clean};
use super::{Settings, keyring};

/// What the calls of macros may grow to, all together, and how often macros may be called.
const EXPANSION_BYTES_MAX: usize = 32 << 20;
const CALLS_MAX: usize = 100_000;

/// Applies what the settings switch on, in gitolite's order, whatever the order there.
pub(super) fn apply(joined: &mut Joined<'_>, settings: &Settings) {
    if settings.enable.contains("continuation-lines") {
        join_continued(joined);
    }
    if settings.enable.contains("keysubdirs-as-groups") {
        key_groups(joined, &settings.key_files);
    }
    if settings.enable.contains("macros") {
        macros(joined);
    }
}

/// A line that ends in a backslash takes the next one, up to the length that a line may have. Without a next one it
/// is dropped, as in gitolite.
fn join_continued(joined: &mut Joined<'_>) {
    let lines = std::mem::take(&mut joined.lines);
    let mut open: Option<Line> = None;
    for line in lines {
        let mut whole = match open.take() {
            Some(mut start) if start.segment == line.segment => {
                if start.text.len() + line.text.len() > LINE_BYTES_MAX {
                    let message = "this line and what continues it are too long".to_owned();
                    joined.files.remark("too-large", &start, None, message);
                    return;
                }
                start.text.push_str(&line.text);
                start
            }
            Some(start) => {
                dropped(joined, &start);
                line
            }
            None => line,
        };
        if whole.text.ends_with('\\') {
            whole.text.pop();
            open = Some(whole);
        } else {
            joined.lines.push(whole);
        }
    }
    if let Some(start) = open {
        dropped(joined, &start);
    }
    for line in &mut joined.lines {
        line.text = clean(line.text.as_bytes());
    }
    joined.lines.retain(|line| !line.text.is_empty());
}

fn dropped(joined: &mut Joined<'_>, line: &Line) {
    let message = "this line ends in a backslash, but no line follows; it is ignored".to_owned();
    joined.files.remark("continuation-open", line, None, message).help = Some("take the backslash away".into());
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
        let head = line.text.strip_prefix("macro ").map(|head| head.split_at(word_len(head)));
        let Some((name, first)) = head.filter(|(name, _)| !name.is_empty()) else {
            rest.push(line);
            continue;
        };
        let (mut body, mut held) = (vec![first.to_owned()], Vec::new());
        let mut end = None;
        while let Some(next) = lines.next_if(|next| next.segment == line.segment) {
            if next.text.starts_with("end") {
                end = Some(next);
                break;
            }
            body.push(next.text.clone());
            held.push(next);
        }
        match end {
            // What stands behind the letters of 'end' is a line of its own.
            Some(end) if end.text.len() > 3 => rest.push(Line { text: clean(&end.text.as_bytes()[3..]), ..end }),
            Some(_) => {}
            // Without an end it is a line like any other, and so are those below it.
            None => {
                rest.push(line);
                rest.extend(held);
                continue;
            }
        }
        bodies.insert((line.subconf, name.to_owned()), body);
    }
    let (mut calls, mut room) = (0, EXPANSION_BYTES_MAX);
    for line in rest {
        let first = &line.text[..word_len(&line.text)];
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
        match expand(body, first, &line.text, &mut room) {
            Ok(texts) => {
                let cleaned = texts.iter().map(|t| clean(t.as_bytes())).filter(|t| !t.is_empty());
                joined.lines.extend(cleaned.map(|text| Line { text, ..line.clone() }));
            }
            Err(Misuse::Unreadable) => {
                let message = format!("this call of the macro '{first}' cannot be split into words; it is ignored");
                let help = "the name stands alone, and quotes come in pairs";
                joined.files.remark("macro-call-ignored", &line, None, message).help = Some(help.into());
            }
            Err(Misuse::Missing(n)) => {
                let message = format!("macro '{first}' needs {n} arguments");
                joined.files.remark("macro-arguments", &line, None, message);
            }
            Err(Misuse::TooLong) => {
                let message = format!("macros such as '{first}' expand to too much text");
                joined.files.remark("too-large", &line, None, message);
                return;
            }
        }
    }
}

/// How many bytes at the start are letters, digits and `_`.
fn word_len(text: &str) -> usize {
    text.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count()
}

enum Misuse {
    Unreadable,
    Missing(usize),
    TooLong,
}

/// `room` is what may still be written; each line counts for what keeping it costs, too.
fn expand(body: &[String], name: &str, call: &str, room: &mut usize) -> Result<Vec<String>, Misuse> {
    const LINE_COST: usize = 100;
    let arguments = shell_words(call).filter(|words| words.first().is_some_and(|first| first == name));
    let arguments = arguments.ok_or(Misuse::Unreadable)?;
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
                // gitolite takes an empty word and `0` for missing, and `%0` for the last argument.
                let argument = if n == 0 { arguments[1..].last() } else { arguments.get(n) };
                let argument = argument.filter(|a| !matches!(a.as_str(), "" | "0"));
                text.push_str(argument.ok_or(Misuse::Missing(n))?);
            }
            rest = &after[digits..];
            if text.len() > *room {
                return Err(Misuse::TooLong);
            }
        }
        text.push_str(rest);
        *room = room.checked_sub(text.len() + LINE_COST).ok_or(Misuse::TooLong)?;
        done.push(text);
    }
    Ok(done)
}

/// Words as a shell splits them: quotes and backslashes protect blanks. None if one of them protects nothing.
fn shell_words(text: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => word.get_or_insert_default().push(chars.next()?),
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
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shell_quoting() {
        let words = shell_words(r#"m a "b c" 'd "e' f\ g """#).unwrap();
        assert_eq!(words, ["m", "a", "b c", "d \"e", "f g", ""]);
        assert_eq!((shell_words("m \"a"), shell_words("m a\\")), (None, None));
    }
}

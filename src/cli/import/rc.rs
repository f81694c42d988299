//! `.gitolite.rc`: a Perl file, of which the settings written as plain values are read, by a reader that runs nothing.
//!
//! What is more than a plain value (a call, a variable that is not known) becomes [`Value::Code`] with its text, so that
//! whoever moves is told instead of guessing.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::str::Chars;

/// A value of Perl's, as far as configuration files need them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Text(String),
    List(Vec<Value>),
    /// In the order of the file; of two pairs with one key the last counts.
    Table(Vec<(String, Value)>),
    /// Perl that is not run, as it is written.
    Code(String),
}

impl Value {
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// The settings of the file, and the statements outside of them, each its first line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rc {
    pub settings: BTreeMap<String, Value>,
    pub statements: Vec<String>,
}

/// Deepest nesting of brackets that is followed.
const DEPTH_MAX: usize = 32;
/// So much of a piece of code is kept.
const CODE_MAX: usize = 60;

/// Reads the text; `known` are the variables of strings: `$ENV{HOME}`, `$rc{GL_ADMIN_BASE}`.
pub fn parse(text: &str, known: &BTreeMap<&str, String>) -> Rc {
    let text = without_comments(text);
    let mut rc = Rc::default();
    let mut rest = text.as_str();
    while let Some(at) = rest.find("%RC") {
        let Some(open) = rest[at..].find('(').map(|open| at + open) else { break };
        let assigned = rest[at + "%RC".len()..open].trim() == "=";
        statements(&rest[..at], &mut rc.statements);
        let mut reader = Reader { chars: rest[open + 1..].chars().peekable(), known };
        if assigned {
            for (key, value) in reader.pairs(')', 0) {
                rc.settings.insert(key, value);
            }
        }
        rest = &rest[rest.len() - reader.chars.map(char::len_utf8).sum::<usize>()..];
    }
    statements(rest, &mut rc.statements);
    rc
}

/// Notes what stands outside of the settings and does something.
fn statements(text: &str, found: &mut Vec<String>) {
    let idle = |line: &str| line.is_empty() || matches!(line, "1" | "use strict" | "use warnings" | "our" | "my");
    for statement in text.split(';').map(str::trim).filter(|statement| !idle(statement)) {
        found.extend(statement.lines().next().map(|line| line.chars().take(CODE_MAX).collect()));
    }
}

/// Comments and pod are taken out; what is quoted stays.
fn without_comments(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut pod = false;
    for line in text.lines() {
        if line.starts_with('=') && line[1..].starts_with(|c: char| c.is_ascii_alphabetic()) {
            pod = !line.starts_with("=cut");
            continue;
        }
        if pod {
            continue;
        }
        if line == "__END__" || line == "__DATA__" {
            break;
        }
        let mut quote = None;
        let mut before = ' ';
        for c in line.chars() {
            match quote {
                None if c == '#' && (before.is_whitespace() || ",;([{".contains(before)) => break,
                None if "'\"".contains(c) && before != '\\' => quote = Some(c),
                Some(q) if c == q && before != '\\' => quote = None,
                _ => {}
            }
            kept.push(c);
            before = if before == '\\' { ' ' } else { c };
        }
        kept.push('\n');
    }
    kept
}

struct Reader<'a> {
    chars: Peekable<Chars<'a>>,
    known: &'a BTreeMap<&'a str, String>,
}

impl Reader<'_> {
    fn skip(&mut self) {
        while self.chars.next_if(|c| c.is_whitespace() || *c == ',').is_some() {}
    }

    /// `KEY => value, ...` up to the closing bracket.
    fn pairs(&mut self, close: char, depth: usize) -> Vec<(String, Value)> {
        let mut pairs = Vec::new();
        loop {
            self.skip();
            match self.chars.peek() {
                None => return pairs,
                Some(c) if *c == close => {
                    self.chars.next();
                    return pairs;
                }
                Some(_) => {}
            }
            let key = match self.value("=,", close, depth) {
                Value::Text(key) | Value::Code(key) => key,
                Value::List(_) | Value::Table(_) => String::new(),
            };
            while self.chars.next_if(|c| c.is_whitespace()).is_some() {}
            if self.chars.next_if_eq(&'=').is_some() {
                self.chars.next_if_eq(&'>');
                while self.chars.next_if(|c| c.is_whitespace()).is_some() {}
                let value = self.value(",", close, depth);
                pairs.push((key, value));
            } else if self.chars.next_if_eq(&',').is_none() && self.chars.peek().is_some_and(|c| *c != close) {
                self.chars.next();
            }
        }
    }

    fn list(&mut self, close: char, depth: usize) -> Vec<Value> {
        let mut values = Vec::new();
        loop {
            self.skip();
            match self.chars.peek() {
                None => return values,
                Some(c) if *c == close => {
                    self.chars.next();
                    return values;
                }
                Some(_) => {
                    let value = self.value(",", close, depth);
                    match value {
                        // qw(...) in a list is several of its values.
                        Value::List(more) => values.extend(more),
                        value => values.push(value),
                    }
                    // Whatever could not be read: never twice at one place.
                    if self.chars.peek().is_some_and(|c| *c != close && *c != ',' && !c.is_whitespace()) {
                        self.chars.next();
                    }
                }
            }
        }
    }

    /// One value, up to one of `ends` or `close`.
    fn value(&mut self, ends: &str, close: char, depth: usize) -> Value {
        if depth >= DEPTH_MAX {
            return Value::Code(self.code(ends, close, String::new()));
        }
        let value = match self.chars.peek() {
            Some(&quote @ ('\'' | '"')) => {
                self.chars.next();
                let text = self.quoted(quote);
                if quote == '"' { self.interpolated(text) } else { Value::Text(text) }
            }
            Some('[') => {
                self.chars.next();
                Value::List(self.list(']', depth + 1))
            }
            Some('{') => {
                self.chars.next();
                Value::Table(self.pairs('}', depth + 1))
            }
            _ => return self.word(ends, close),
        };
        while self.chars.next_if(|c| c.is_whitespace()).is_some() {}
        // 'a' . 'b' and the like.
        match self.chars.peek() {
            Some(c) if *c != close && !ends.contains(*c) => {
                let shown = value.text().unwrap_or("...").to_owned();
                Value::Code(self.code(ends, close, shown))
            }
            _ => value,
        }
    }

    /// A number, a bare word, `qw(...)`, `qr(...)`; anything else is code.
    fn word(&mut self, ends: &str, close: char) -> Value {
        let mut word = String::new();
        while let Some(c) = self.chars.next_if(|c| c.is_ascii_alphanumeric() || "_-.".contains(*c)) {
            word.push(c);
        }
        if matches!(word.as_str(), "qw" | "q" | "qq" | "qr")
            && let Some(open) = self.chars.next_if(|c| "([{</|!".contains(*c))
        {
            let text = self.quoted(open);
            return match word.as_str() {
                "qw" => Value::List(text.split_whitespace().map(|word| Value::Text(word.to_owned())).collect()),
                "qq" => self.interpolated(text),
                _ => Value::Text(text),
            };
        }
        while self.chars.next_if(|c| c.is_whitespace()).is_some() {}
        match self.chars.peek() {
            Some(c) if *c != close && !ends.contains(*c) => Value::Code(self.code(ends, close, word)),
            _ if word.is_empty() => Value::Code(word),
            _ if word == "undef" => Value::Text(String::new()),
            _ if word.starts_with('0') && word.len() > 1 => Value::Text(word),
            _ => Value::Text(word),
        }
    }

    /// What stands between a delimiter, which is behind us, and its end; brackets nest.
    fn quoted(&mut self, open: char) -> String {
        let close = closing(open);
        let mut inside = 0_usize;
        let mut text = String::new();
        while let Some(c) = self.chars.next() {
            if c == close && inside == 0 {
                break;
            }
            if open != close {
                inside = inside + usize::from(c == open) - usize::from(c == close);
            }
            if c == '\\'
                && let Some(next) = self.chars.next()
            {
                // In single quotes Perl takes away one backslash before a quote and before another backslash.
                if next != close && next != '\\' {
                    text.push('\\');
                }
                text.push(next);
                continue;
            }
            text.push(c);
        }
        text
    }

    fn interpolated(&self, text: String) -> Value {
        let mut full = text.clone();
        for (variable, value) in self.known {
            full = full.replace(variable, value);
        }
        // A dollar is written \$ where it is meant.
        let plain = full.replace("\\$", "").replace("\\@", "");
        let variable = plain
            .match_indices(['$', '@'])
            .any(|(at, _)| plain[at + 1..].starts_with(|c: char| c.is_alphabetic() || c == '{' || c == '_'));
        if variable { Value::Code(text) } else { Value::Text(full.replace("\\$", "$").replace("\\@", "@")) }
    }

    /// Takes what cannot be read up to the next comma of this level.
    fn code(&mut self, ends: &str, close: char, mut text: String) -> String {
        let mut inside = Vec::new();
        while let Some(&c) = self.chars.peek() {
            if inside.is_empty() && (c == close || ends.contains(c)) {
                break;
            }
            self.chars.next();
            match c {
                '(' | '[' | '{' => inside.push(closing(c)),
                '\'' | '"' => {
                    text.push(c);
                    text.push_str(&self.quoted(c));
                }
                _ if inside.last() == Some(&c) => drop(inside.pop()),
                _ => {}
            }
            text.push(c);
        }
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        text.chars().take(CODE_MAX).collect()
    }
}

fn closing(open: char) -> char {
    match open {
        '(' => ')',
        '[' => ']',
        '{' => '}',
        '<' => '>',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Rc {
        let known = [("$ENV{HOME}", "/home/git".to_owned()), ("$rc{GL_ADMIN_BASE}", "/home/git/.gitolite".to_owned())];
        parse(text, &known.into())
    }

    fn setting(value: &str) -> Value {
        let rc = read(&format!("%RC = (\n  BEFORE => 1,\n  KEY => {value},\n  AFTER => 'x', # said\n);\n1;\n"));
        assert_eq!(rc.settings.get("BEFORE"), Some(&Value::Text("1".to_owned())), "{value}");
        assert_eq!(rc.settings.get("AFTER"), Some(&Value::Text("x".to_owned())), "{value}");
        assert_eq!(rc.statements, Vec::<String>::new(), "{value}");
        rc.settings["KEY"].clone()
    }

    #[test]
    fn plain_values_are_read() {
        let text = |text: &str| Value::Text(text.to_owned());
        for (perl, value) in [
            ("'mars'", text("mars")),
            ("\"mars\"", text("mars")),
            ("0077", text("0077")),
            ("''", text("")),
            ("undef", text("")),
            (r"'foo\..* a\\b it\'s'", text(r"foo\..* a\b it's")),
            ("\"$ENV{HOME}/local\"", text("/home/git/local")),
            ("\"$rc{GL_ADMIN_BASE}/local\"", text("/home/git/.gitolite/local")),
            (r#""a\$b\@c""#, text("a$b@c")),
            (r"qr([`~#\$\&()|;<>])", text(r"[`~#\$\&()|;<>]")),
            ("'a # b'", text("a # b")),
            ("[ 'a', \"b\",\n # 'c',\n 'renice 10' ]", Value::List(vec![text("a"), text("b"), text("renice 10")])),
            ("[ qw(a b), 'c' ]", Value::List(vec![text("a"), text("b"), text("c")])),
            (
                "{ READERS => 1, 'W X' => 1, }",
                Value::Table(vec![("READERS".into(), text("1")), ("W X".into(), text("1"))]),
            ),
            ("{}", Value::Table(vec![])),
            ("[]", Value::List(vec![])),
        ] {
            assert_eq!(setting(perl), value, "{perl}");
        }
    }

    #[test]
    fn what_is_more_than_a_value_is_named_and_not_run() {
        for perl in [
            "`hostname`",
            "$ENV{HOST} || 'mars'",
            "'a' . 'b'",
            "\"$other/x\"",
            "sub { exit 1, 2 }",
            "f('a, b', [1, 2])",
        ] {
            assert!(matches!(setting(perl), Value::Code(_)), "{perl}: {:?}", setting(perl));
        }
        let rc = read(
            "use strict;\nmy $x = 1;\n%RC = ( A => 1 );\npush @{$RC{ENABLE}}, 'D';\n1;\n=for us\n no; thing;\n=cut\n",
        );
        assert_eq!(rc.statements, ["my $x = 1", "push @{$RC{ENABLE}}, 'D'"]);
        assert_eq!(rc.settings.len(), 1);
    }

    proptest! {
        #[test]
        fn whatever_is_in_the_file_it_is_read_to_its_end(text in "[%RC=()\\[\\]{}'\"#\\\\,;$a-c \n>qw/]{0,200}") {
            let rc = read(&format!("%RC = ({text}"));
            prop_assert!(rc.settings.len() <= text.len());
            read(&text);
        }
    }
}

//! gitolite's regular expressions are Perl's. This file reads the subset that its character set leaves, says what is
//! wrong with the rest, and answers the plain cases (a literal, a literal prefix) without an engine.
//!
//! The engine is the `regex` crate: linear time, so no text can make a rule explode. Back references, possessive
//! quantifiers and look-around are what it cannot express; the first two are refused with a reason, the last cannot
//! be written at all in this language.

use regex::bytes::{Regex, RegexBuilder};

use super::escape::{self, Escape};

/// A compiled program larger than this is refused; real rules need a few kilobytes.
const PROGRAM_BYTES_MAX: usize = 1 << 20;
/// Longest pattern in bytes.
const PATTERN_BYTES_MAX: usize = 4096;
/// Deepest nesting of groups.
const NEST_MAX: u32 = 64;

/// Why a pattern is refused; the text continues "the pattern … ".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PatternError {
    /// Perl refuses it as well.
    #[error("is no regular expression: {0}")]
    Invalid(String),
    /// Perl takes it; a linear-time engine cannot.
    #[error("uses {0}, which gitmesh does not have (its patterns always run in linear time)")]
    Unsupported(String),
}

pub(super) fn invalid(what: &str) -> PatternError {
    PatternError::Invalid(what.to_owned())
}

pub(super) fn unsupported(what: &str) -> PatternError {
    PatternError::Unsupported(what.to_owned())
}

/// How a compiled pattern answers.
#[derive(Debug, Clone)]
pub(super) enum Matcher {
    Prefix(Box<str>),
    /// The prefix and at least one more byte.
    Longer(Box<str>),
    Exact(Box<str>),
    Engine(Box<Engine>),
}

/// A compiled program, and about how many bytes it takes.
#[derive(Debug, Clone)]
pub(super) struct Engine {
    regex: Regex,
    bytes: usize,
}

impl Matcher {
    pub(super) fn is_match(&self, text: &str) -> bool {
        self.is_match_bytes(text.as_bytes())
    }

    pub(super) fn is_match_bytes(&self, text: &[u8]) -> bool {
        match self {
            Self::Prefix(p) => text.starts_with(p.as_bytes()),
            Self::Longer(p) => text.len() > p.len() && text.starts_with(p.as_bytes()),
            Self::Exact(p) => text == p.as_bytes(),
            Self::Engine(engine) => engine.regex.is_match(text),
        }
    }

    /// About how many bytes it takes beyond its text.
    pub(super) fn bytes(&self) -> usize {
        if let Self::Engine(engine) = self { engine.bytes } else { 0 }
    }
}

/// In place of a quantifier: what stands before it not at all, and then a byte that does not exist.
const NOTHING: &str = "{0}[^\\x00-\\xFF]";

/// A pattern read once: the engine's spelling of it and what can be said without the engine.
#[derive(Debug)]
pub(super) struct Pattern {
    rust: String,
    tokens: Vec<Token>,
    /// A `|` outside of parentheses, so that only the first branch is anchored.
    pub(super) alternation: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Literal(u8),
    Dot,
    /// `*` or `+`, greedy.
    Star,
    Plus,
    Dollar,
    Other,
    OtherQuantifier,
}

impl Pattern {
    /// Reads a Perl regular expression.
    pub(super) fn parse(text: &str) -> Result<Self, PatternError> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(PatternError::Invalid(format!("it is longer than {PATTERN_BYTES_MAX} bytes")));
        }
        let mut reader = Reader { text: text.as_bytes(), at: 0, rust: String::new(), tokens: Vec::new() };
        let alternation = reader.run()?;
        Ok(Self { rust: reader.rust, tokens: reader.tokens, alternation })
    }

    /// The literal text that everything the pattern matches must start with.
    pub(super) fn literal_prefix(&self) -> String {
        if self.alternation {
            return String::new();
        }
        let literal = |t: &Token| if let Token::Literal(b) = t { Some(char::from(*b)) } else { None };
        let mut prefix: String = self.tokens.iter().map_while(literal).collect();
        if matches!(self.tokens.get(prefix.len()), Some(Token::Star | Token::Plus | Token::OtherQuantifier)) {
            prefix.pop();
        }
        prefix
    }

    /// As a refex: anchored at the start, open at the end. `a|b` is not grouped, as in gitolite.
    pub(super) fn to_refex(&self) -> Result<Matcher, PatternError> {
        use Token::{Dollar, Dot, Star};
        let prefix = self.literal_prefix();
        match &self.tokens[prefix.len()..] {
            _ if self.alternation => {}
            [] | [Dot, Star] => return Ok(Matcher::Prefix(prefix.into())),
            [Dollar] => return Ok(Matcher::Exact(prefix.into())),
            _ => {}
        }
        engine(&format!("^{}", self.rust))
    }

    /// As a repository pattern: anchored at both ends (of the first and of the last branch).
    pub(super) fn to_whole(&self) -> Result<Matcher, PatternError> {
        use Token::{Dollar, Dot, Plus, Star};
        let prefix = self.literal_prefix();
        match &self.tokens[prefix.len()..] {
            _ if self.alternation => {}
            [] | [Dollar] => return Ok(Matcher::Exact(prefix.into())),
            [Dot, Star] => return Ok(Matcher::Prefix(prefix.into())),
            [Dot, Dot, Star] | [Dot, Plus] => return Ok(Matcher::Longer(prefix.into())),
            _ => {}
        }
        engine(&format!("^{}$", self.rust))
    }
}

/// The crate does not tell what a program takes, so the smallest limit that suffices stands for it; real rules fit
/// into the first.
const PROGRAM_BYTES: [usize; 3] = [PROGRAM_BYTES_MAX >> 6, PROGRAM_BYTES_MAX >> 3, PROGRAM_BYTES_MAX];

fn engine(rust: &str) -> Result<Matcher, PatternError> {
    for bytes in PROGRAM_BYTES {
        let built = RegexBuilder::new(rust).unicode(false).size_limit(bytes).nest_limit(NEST_MAX).build();
        match built {
            Ok(regex) => return Ok(Matcher::Engine(Box::new(Engine { regex, bytes }))),
            Err(regex::Error::CompiledTooBig(_)) => {}
            Err(e) => return Err(PatternError::Invalid(e.to_string().lines().last().unwrap_or_default().to_owned())),
        }
    }
    Err(invalid("it needs too much memory (large repetitions?)"))
}

/// Whether a regular expression of the server's own settings (GIT_CONFIG_KEYS) matches the whole text, ignoring case.
pub fn key_matches(pattern: &str, key: &str) -> bool {
    KeyPatterns::new(&[pattern.to_owned()]).matches(key)
}

/// Regular expressions of the server's own settings (GIT_CONFIG_KEYS), compiled once.
#[derive(Debug)]
pub(super) struct KeyPatterns(Vec<Regex>);

impl KeyPatterns {
    /// What is no regular expression allows nothing. As in gitolite, `a|b` is not grouped: `a` is anchored at the start
    /// only and `b` at the end.
    pub(super) fn new(patterns: &[String]) -> Self {
        let build = |pattern: &String| {
            let mut builder = RegexBuilder::new(&format!("^{pattern}$"));
            builder.unicode(false).case_insensitive(true).size_limit(PROGRAM_BYTES_MAX).build().ok()
        };
        Self(patterns.iter().filter_map(build).collect())
    }

    /// Whether one of them matches the whole text, ignoring case.
    pub(super) fn matches(&self, key: &str) -> bool {
        self.0.iter().any(|pattern| pattern.is_match(key.as_bytes()))
    }
}

struct Reader<'t> {
    text: &'t [u8],
    at: usize,
    rust: String,
    tokens: Vec<Token>,
}

impl Reader<'_> {
    /// Whether a top-level `|` was seen.
    fn run(&mut self) -> Result<bool, PatternError> {
        let (mut depth, mut alternation, mut atom) = (0_u32, false, false);
        let mut letter_escape = false;
        while let Some(&byte) = self.text.get(self.at) {
            self.at += 1;
            let after_letter_escape = std::mem::take(&mut letter_escape);
            match byte {
                b'(' => {
                    atom = false;
                    if self.flags()? {
                        continue;
                    }
                    depth += 1;
                    self.other("(?:");
                }
                b')' => {
                    depth = depth.checked_sub(1).ok_or_else(|| invalid("a ')' has no '('"))?;
                    atom = true;
                    self.other(")");
                }
                b'|' => {
                    alternation |= depth == 0;
                    atom = false;
                    self.other("|");
                }
                b'*' | b'+' | b'?' | b'{' => {
                    if !self.quantifier(byte, atom)? {
                        if after_letter_escape {
                            return Err(invalid(r"a '{' after an escape like '\d' is no quantifier; write '\{'"));
                        }
                        self.literal(b'{');
                        atom = true;
                        continue;
                    }
                    atom = false;
                    if let Some(b'*' | b'+' | b'?') = self.text.get(self.at) {
                        return Err(invalid("a quantifier follows a quantifier"));
                    }
                }
                _ => {
                    // Perl takes a brace after these for a mistake.
                    let next = self.text.get(self.at).filter(|next| byte == b'\\' && next.is_ascii_alphabetic());
                    letter_escape = next.is_some_and(|next| !b"xc".contains(next));
                    self.single(byte)?;
                    atom = true;
                }
            }
        }
        if depth > 0 { Err(invalid("a '(' is not closed")) } else { Ok(alternation) }
    }

    fn other(&mut self, rust: &str) {
        self.rust.push_str(rust);
        self.tokens.push(Token::Other);
    }

    fn literal(&mut self, byte: u8) {
        push_byte(&mut self.rust, byte);
        self.tokens.push(Token::Literal(byte));
    }

    fn single(&mut self, byte: u8) -> Result<(), PatternError> {
        match byte {
            b'.' => {
                self.rust.push('.');
                self.tokens.push(Token::Dot);
            }
            b'$' => {
                self.rust.push('$');
                self.tokens.push(Token::Dollar);
            }
            b'^' => self.other("^"),
            b'[' => self.class()?,
            b'\\' => match self.escape(false)? {
                Escape::Byte(b) => self.literal(b),
                Escape::Set(set) => self.other(set),
            },
            _ => self.literal(byte),
        }
        Ok(())
    }

    /// After `(`: reads `?flags)` if it is that.
    fn flags(&mut self) -> Result<bool, PatternError> {
        match self.text.get(self.at..self.at + 2).unwrap_or_default() {
            [b'*', verb] if verb.is_ascii_alphabetic() => return Err(unsupported("a verb '(*…)'")),
            // It only numbers the groups anew, and nothing here uses the numbers.
            b"?|" => {
                self.at += 2;
                return Ok(false);
            }
            [b'?', _] => {}
            _ => return Ok(false),
        }
        let rest = &self.text[self.at + 1..];
        let length = rest.iter().position(|b| *b == b')').ok_or_else(|| invalid("a '(' is not closed"))?;
        let flags = String::from_utf8_lossy(&rest[..length]).into_owned();
        let (reset, letters) = flags.strip_prefix('^').map_or((false, flags.as_str()), |letters| (true, letters));
        let (on, off) = letters.split_once('-').unwrap_or((letters, ""));
        let known = on.bytes().all(|b| b"imsxnpaludgoc".contains(&b)) && off.bytes().all(|b| b"imsxnp".contains(&b));
        if !known || (reset && letters.contains('-')) {
            return Err(unsupported(&format!("the group '(?{flags})'")));
        }
        // No blank, no capture and no other character set can be meant here, so the other letters change nothing.
        let kept = |letters: &str| -> String { ['i', 'm', 's'].iter().filter(|c| letters.contains(**c)).collect() };
        let (on, off) = (kept(on), kept(if reset { "ims" } else { off }));
        let off: String = off.chars().filter(|c| !reset || !on.contains(*c)).collect();
        match (on.is_empty(), off.is_empty()) {
            (true, true) => {}
            (false, true) => self.rust.push_str(&format!("(?{on})")),
            // In Perl the letter that is both on and off is off.
            _ => {
                let on: String = on.chars().filter(|c| !off.contains(*c)).collect();
                self.rust.push_str(&format!("(?{on}-{off})"));
            }
        }
        self.tokens.push(Token::Other);
        self.at += length + 2;
        Ok(true)
    }

    /// Reads a quantifier whose first byte is already taken; false for a `{` that is a literal in Perl.
    fn quantifier(&mut self, first: u8, atom: bool) -> Result<bool, PatternError> {
        let mut token = match first {
            b'*' => Token::Star,
            b'+' => Token::Plus,
            _ => Token::OtherQuantifier,
        };
        let mut rust = char::from(first).to_string();
        if first == b'{' {
            let Some((low, high, length)) = counted(&self.text[self.at..]) else { return Ok(false) };
            if [low.as_str(), high.as_deref().unwrap_or_default()].iter().any(|n| n.len() > 1 && n.starts_with('0')) {
                return Err(invalid("a repetition count starts with 0"));
            }
            let number = |n: &str| n.parse::<u32>().ok().filter(|n| *n < 1 << 15);
            let many = || invalid("a repetition count is too large");
            let least = if low.is_empty() { 0 } else { number(&low).ok_or_else(many)? };
            rust = match high.as_deref() {
                None => format!("{{{least}}}"),
                Some("") => format!("{{{least},}}"),
                Some(high) => {
                    let most = number(high).ok_or_else(many)?;
                    // Perl takes 'a{2,1}', which then matches nothing.
                    if most < least { NOTHING.to_owned() } else { format!("{{{least},{most}}}") }
                }
            };
            self.at += length;
        }
        if !atom {
            let nested = matches!(self.tokens.last(), Some(Token::Star | Token::Plus | Token::OtherQuantifier));
            let what = if nested {
                "a quantifier follows a quantifier"
            } else {
                "a quantifier has nothing to repeat before it"
            };
            return Err(invalid(what));
        }
        match self.text.get(self.at) {
            Some(b'+') => return Err(unsupported("a possessive quantifier (such as '*+')")),
            Some(b'?') => {
                rust.push('?');
                self.at += 1;
                token = Token::OtherQuantifier;
            }
            _ => {}
        }
        self.rust.push_str(&rust);
        self.tokens.push(token);
        Ok(true)
    }

    /// After a backslash.
    fn escape(&mut self, in_class: bool) -> Result<Escape, PatternError> {
        escape::read(self.text, &mut self.at, in_class)
    }

    /// After `[`.
    fn class(&mut self) -> Result<(), PatternError> {
        let mut rust = String::from("[");
        if self.text.get(self.at) == Some(&b'^') {
            rust.push('^');
            self.at += 1;
        }
        let start = self.at;
        loop {
            if self.text.get(self.at) == Some(&b']') && self.at > start {
                self.at += 1;
                break;
            }
            let low = self.member()?;
            let dash = self.text.get(self.at) == Some(&b'-');
            if !dash || matches!(self.text.get(self.at + 1), None | Some(b']')) {
                push_member(&mut rust, &low);
                continue;
            }
            self.at += 1;
            let high = self.member()?;
            if let (Escape::Byte(a), Escape::Byte(b)) = (&low, &high) {
                if a > b {
                    return Err(invalid("a range in '[…]' runs backwards"));
                }
                push_byte(&mut rust, *a);
                rust.push('-');
                push_byte(&mut rust, *b);
            } else {
                push_member(&mut rust, &low);
                push_byte(&mut rust, b'-');
                push_member(&mut rust, &high);
            }
        }
        rust.push(']');
        self.other(&rust);
        Ok(())
    }

    fn member(&mut self) -> Result<Escape, PatternError> {
        let byte = *self.text.get(self.at).ok_or_else(|| invalid("a '[' is not closed"))?;
        self.at += 1;
        if byte == b'\\' { self.escape(true) } else { Ok(Escape::Byte(byte)) }
    }
}

/// `n}`, `n,}`, `n,m}` or `,m}`: low, high (none for a single number) and the length; none if it is no quantifier.
fn counted(rest: &[u8]) -> Option<(String, Option<String>, usize)> {
    let length = rest.iter().position(|b| *b == b'}')?;
    let body = std::str::from_utf8(&rest[..length]).ok()?;
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    let (low, high) = match body.split_once(',') {
        None => (body, None),
        Some((low, high)) => (low, Some(high)),
    };
    let fits = digits(low) && high.is_none_or(digits) && !(low.is_empty() && high.is_none_or(str::is_empty));
    fits.then(|| (low.to_owned(), high.map(str::to_owned), length + 1))
}

fn push_byte(rust: &mut String, byte: u8) {
    if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'/') {
        rust.push(char::from(byte));
    } else {
        rust.push_str(&format!("\\x{byte:02X}"));
    }
}

fn push_member(rust: &mut String, member: &Escape) {
    match member {
        Escape::Byte(b) => push_byte(rust, *b),
        Escape::Set(set) => rust.push_str(set),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refex(text: &str) -> Matcher {
        Pattern::parse(text).and_then(|p| p.to_refex()).unwrap()
    }

    fn problem(text: &str) -> String {
        let built = Pattern::parse(text).and_then(|p| p.to_refex());
        built.err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn plain_rules_need_no_engine() {
        assert!(matches!(refex("refs/.*"), Matcher::Prefix(p) if &*p == "refs/"));
        assert!(matches!(refex("refs/heads/main$"), Matcher::Exact(p) if &*p == "refs/heads/main"));
        assert!(matches!(refex("refs/heads/a\\.b"), Matcher::Prefix(p) if &*p == "refs/heads/a.b"));
        let wild = Pattern::parse("pub/CREATOR/..*").unwrap();
        assert_eq!(wild.literal_prefix(), "pub/CREATOR/");
        assert!(matches!(wild.to_whole().unwrap(), Matcher::Longer(_)));
        assert_eq!(Pattern::parse("foo-?bar").unwrap().literal_prefix(), "foo");
    }

    #[test]
    fn perl_reads_it_so() {
        for (text, yes, no) in [
            ("refs/heads/x{2,3}$", "refs/heads/xxx", "refs/heads/x"),
            ("refs/heads/(?i)trunk$", "refs/heads/TRUNK", "refs/heads/trunk2"),
            ("a|dev", "xdevx", "xa"),
            ("refs/a{b", "refs/a{b", "refs/ab"),
            ("[]a]x", "]x", "bx"),
            ("[^]a]x", "bx", "]x"),
            ("[a[-]x", "[x", "bx"),
            ("\\bdev\\b", "dev-1", "devx"),
            ("[\\w-]+$", "a-b", "a.b"),
        ] {
            let m = refex(text);
            assert!(m.is_match(yes), "{text} should match {yes}");
            assert!(!m.is_match(no), "{text} should not match {no}");
        }
    }

    #[test]
    fn refusals_say_why() {
        for (text, why) in [
            ("a**", "quantifier follows a quantifier"),
            ("a{2}{3}", "quantifier follows a quantifier"),
            ("(", "not closed"),
            (")", "no '('"),
            ("[a-z", "not closed"),
            ("[z-a]", "backwards"),
            ("a\\", "backslash"),
            ("(a|b)-\\1", "back reference"),
            ("x*+y", "possessive"),
            ("(*FAIL)", "verb"),
            ("(?<a>b)", "(?<a"),
            ("\\pL", "Unicode"),
            ("a{40000}", "too large"),
            ("((a{1000}){1000}){1000}", "too much memory"),
        ] {
            assert!(problem(text).contains(why), "{text}: {}", problem(text));
        }
    }
}

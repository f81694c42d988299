//! What a backslash means in Perl's regular expressions, in the engine's spelling.

use super::pattern::{PatternError, invalid, unsupported};

/// What an escape stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Escape {
    Byte(u8),
    /// A set of bytes or a place between two, as the engine writes it. A set may stand inside `[…]`.
    Set(&'static str),
}

/// Reads an escape; `at` is behind the backslash, and behind the escape afterwards.
pub(super) fn read(text: &[u8], at: &mut usize, in_class: bool) -> Result<Escape, PatternError> {
    let byte = *text.get(*at).ok_or_else(|| invalid("it ends in a backslash"))?;
    *at += 1;
    let set = match byte {
        b'd' => "\\d",
        b'D' => "\\D",
        b'w' => "\\w",
        b'W' => "\\W",
        b's' => "\\s",
        b'S' => "\\S",
        b'h' => "[\\t \\xA0]",
        b'H' => "[^\\t \\xA0]",
        b'v' => "[\\n-\\r\\x85]",
        b'V' => "[^\\n-\\r\\x85]",
        _ if in_class => return class_byte(text, at, byte).map(Escape::Byte),
        b'b' | b'B' if text.get(*at) == Some(&b'{') => return Err(unsupported("a Unicode boundary '\\b{…}'")),
        b'b' => "\\b",
        b'B' => "\\B",
        // Nothing was matched before, so where matching goes on is the start.
        b'A' | b'G' => "\\A",
        b'z' | b'Z' => "\\z",
        b'N' if text.get(*at) == Some(&b'{') => return Err(unsupported("the escape '\\N{…}'")),
        b'N' => "[^\\n]",
        b'R' => "(?:\\r\\n|[\\n-\\r\\x85])",
        b'X' => "(?s-u:.)",
        // It only changes what a replacement would replace.
        b'K' => "(?:)",
        b'C' => return Err(invalid("'\\C' is no escape any more")),
        b'1'..=b'9' | b'g' | b'k' => return reference(text, at, byte),
        _ => return plain(text, at, byte).map(Escape::Byte),
    };
    Ok(Escape::Set(set))
}

/// What means the same inside and outside of `[…]`. A letter without a meaning is itself.
fn plain(text: &[u8], at: &mut usize, byte: u8) -> Result<u8, PatternError> {
    Ok(match byte {
        b't' => b'\t',
        b'n' => b'\n',
        b'r' => b'\r',
        b'f' => 0x0c,
        b'a' => 7,
        b'e' => 0x1b,
        b'c' => {
            let control = *text.get(*at).ok_or_else(|| invalid("'\\c' needs a letter"))?;
            *at += 1;
            control.to_ascii_uppercase() ^ 0x40
        }
        b'0'..=b'7' => {
            *at -= 1;
            octal(text, at)
        }
        b'x' => match braced(text, at)? {
            Some(digits) => code(&digits, 16)?,
            None => number(text, at, 2, 16),
        },
        b'o' => code(&braced(text, at)?.ok_or_else(|| invalid("'\\o' needs braces"))?, 8)?,
        b'p' | b'P' => match text.get(*at) {
            Some(b'{' | b'a'..=b'z' | b'A'..=b'Z') => return Err(unsupported("a Unicode property '\\p'")),
            _ => return Err(invalid("'\\p' needs the name of a property")),
        },
        byte => byte,
    })
}

fn class_byte(text: &[u8], at: &mut usize, byte: u8) -> Result<u8, PatternError> {
    match byte {
        b'b' => Ok(8),
        b'N' => Err(invalid("'\\N' cannot stand in '[…]'")),
        byte => plain(text, at, byte),
    }
}

/// `\1`, `\g1`, `\k…`: a back reference, unless there are not as many groups: then `\1` is an error, and `\10` a code.
fn reference(text: &[u8], at: &mut usize, byte: u8) -> Result<Escape, PatternError> {
    let groups = text.iter().filter(|b| **b == b'(').count();
    let missing = || invalid("it refers back to a group that is not there");
    // No character of this language could name a group.
    if byte == b'k' {
        return Err(missing());
    }
    if byte == b'g' && text.get(*at) == Some(&b'{') {
        return Err(if groups == 0 { missing() } else { unsupported("a back reference") });
    }
    if byte != b'g' {
        *at -= 1;
    }
    let digits = text[*at..].iter().take_while(|b| b.is_ascii_digit()).count();
    let value = std::str::from_utf8(&text[*at..*at + digits]).ok().and_then(|n| n.parse::<usize>().ok());
    match value {
        Some(n) if n <= groups => Err(unsupported("a back reference")),
        Some(10..) if byte != b'g' && byte < b'8' => Ok(Escape::Byte(octal(text, at))),
        _ => Err(missing()),
    }
}

/// Up to three octal digits; codes above 255 are cut to eight bits.
fn octal(text: &[u8], at: &mut usize) -> u8 {
    number(text, at, 3, 8)
}

fn number(text: &[u8], at: &mut usize, digits_max: usize, radix: u32) -> u8 {
    let mut value = 0;
    for _ in 0..digits_max {
        let Some(digit) = text.get(*at).and_then(|b| char::from(*b).to_digit(radix)) else { break };
        value = value * radix + digit;
        *at += 1;
    }
    value.to_le_bytes()[0]
}

/// `{…}` behind the letter of an escape.
fn braced(text: &[u8], at: &mut usize) -> Result<Option<String>, PatternError> {
    if text.get(*at) != Some(&b'{') {
        return Ok(None);
    }
    let length = text[*at..].iter().position(|b| *b == b'}').ok_or_else(|| invalid("a '{' is not closed"))?;
    let inside = String::from_utf8_lossy(&text[*at + 1..*at + length]).into_owned();
    *at += length + 1;
    Ok(Some(inside))
}

fn code(digits: &str, radix: u32) -> Result<u8, PatternError> {
    let value = if digits.is_empty() { Ok(0) } else { u32::from_str_radix(digits, radix) };
    let value = value.map_err(|_| invalid("a character code is no number"))?;
    u8::try_from(value).map_err(|_| unsupported("a character code above 255"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Perl 5.36 says.
    #[test]
    fn perl_reads_it_so() {
        let read = |text: &str, in_class| {
            let mut at = 0;
            match read(text.as_bytes(), &mut at, in_class) {
                Ok(Escape::Byte(byte)) => format!("{byte:02x} {}", &text[at..]),
                Ok(Escape::Set(set)) => format!("{set} {}", &text[at..]),
                Err(why) => why.to_string().split(' ').next().unwrap_or_default().to_owned(),
            }
        };
        for (text, outside, inside) in [
            ("dx", "\\d x", "\\d x"),
            ("bx", "\\b x", "08 x"),
            ("x", "00 ", "00 "),
            ("x4g", "04 g", "04 g"),
            ("x{41}1", "41 1", "41 1"),
            ("0101", "08 1", "08 1"),
            ("101", "41 ", "41 "),
            ("1(a)", "uses", "01 (a)"),
            ("1", "is", "01 "),
            ("8", "is", "38 "),
            ("18", "01 8", "01 8"),
            ("cAb", "01 b", "01 b"),
            ("o{101}", "41 ", "41 "),
            ("o", "is", "is"),
            ("Qa", "51 a", "51 a"),
            ("ya", "79 a", "79 a"),
            ("Na", "[^\\n] a", "is"),
            ("Za", "\\z a", "5a a"),
            ("Ka", "(?:) a", "4b a"),
            ("k", "is", "6b "),
            ("pL", "uses", "uses"),
            ("C", "is", "43 "),
            ("x{100}", "uses", "uses"),
            (".x", "2e x", "2e x"),
        ] {
            assert_eq!((read(text, false).as_str(), read(text, true).as_str()), (outside, inside), "{text}");
        }
    }
}

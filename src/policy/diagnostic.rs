//! What is wrong with a configuration, where, and how to mend it.

use std::fmt::Write;
use std::ops::Range;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Origin as SnippetOrigin, Renderer, Snippet};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration has no effect as long as it holds one of these.
    Error,
    Warning,
}

/// One remark about one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    /// Stable: `E0112`, `W0101`.
    pub code: &'static str,
    /// The kind in words, as the access vectors call it: `undefined-group`.
    pub class: &'static str,
    /// What is wrong: lowercase, no full stop.
    pub message: String,
    /// Path in the admin repository: `conf/gitmesh.conf`, `keydir/alice.pub`.
    pub file: String,
    /// Bytes of the file; none when the whole file is meant.
    pub span: Option<Range<usize>>,
    /// From 1; 0 when the whole file is meant.
    pub line: u32,
    /// What stands beside the caret; may be empty.
    pub label: String,
    pub help: Option<String>,
}

/// Every kind of remark. Codes are never reused: users look them up.
const CODES: &[(&str, &str)] = &[
    ("bad-user", "E0101"),
    ("bad-repo-name", "E0102"),
    ("bad-ref", "E0103"),
    ("bad-group-name", "E0104"),
    ("bad-group-member", "E0105"),
    ("config-key-not-allowed", "E0106"),
    ("bad-config-value", "E0107"),
    ("bad-include-argument", "E0108"),
    ("bad-include-filename", "E0109"),
    ("subconf-inside-subconf", "E0110"),
    ("bad-subconf-name", "E0111"),
    ("undefined-group", "E0112"),
    ("bad-regex", "E0113"),
    ("macro-arguments", "E0114"),
    ("repo-dotdot", "E0115"),
    ("repo-contains-dotgit", "E0116"),
    ("config-key-blank", "E0117"),
    ("include-outside", "E0118"),
    ("unsupported-regex", "E0119"),
    ("subconf-option", "E0120"),
    ("no-rules", "E0121"),
    ("file-missing", "E0122"),
    ("unsupported", "E0123"),
    ("too-large", "E0124"),
    ("repo-ends-slash", "E0125"),
    ("bad-target", "E0126"),
    ("bad-key-option", "E0127"),
    ("unknown-hook", "E0129"),
    ("key-file-name", "E0141"),
    ("key-file-empty", "E0142"),
    ("key-invalid", "E0143"),
    ("key-of-two-users", "E0144"),
    ("line-ignored", "W0101"),
    ("r-with-ref", "W0102"),
    ("undeclared-group", "W0103"),
    ("git-suffix", "W0104"),
    ("subconf-repos-ignored", "W0105"),
    ("subconf-expanding-group", "W0106"),
    ("include-missing", "W0107"),
    ("include-again", "W0108"),
    ("pattern-alternation", "W0110"),
    ("refex-never-matches", "W0111"),
    ("repo-comma", "W0112"),
    ("deny-does-not-hide", "W0113"),
    ("deny-refuses-everything", "W0114"),
    ("group-member-meaningless", "W0115"),
    ("all-redefined", "W0116"),
    ("role-redefined", "W0117"),
    ("no-current-repo", "W0118"),
    ("create-delete-for-all", "W0119"),
    ("byte-order-mark", "W0120"),
    ("block-unclosed", "W0121"),
    ("option-misspelt", "W0122"),
    ("repo-not-made", "W0123"),
    ("rule-never-decides", "W0124"),
    ("undefined-repo-group", "W0125"),
    ("carriage-return", "W0126"),
    ("continuation-open", "W0127"),
    ("macro-call-ignored", "W0128"),
    ("repo-plus", "W0129"),
    ("refex-operator", "W0130"),
    ("option-elsewhere", "W0131"),
    ("option-idle", "W0132"),
    ("key-repeated", "W0141"),
    ("key-options-ignored", "W0142"),
    ("key-file-host-dotted", "W0143"),
    ("key-from-name", "W0144"),
    ("key-in-two-files", "W0145"),
    ("key-weak", "W0146"),
];

impl Diagnostic {
    /// A remark about a whole file. The class must be one of the known ones.
    pub(super) fn new(class: &'static str, file: &str, message: String) -> Self {
        let code = CODES.iter().find(|(c, _)| *c == class).map_or("E0000", |(_, code)| code);
        let severity = if code.starts_with('W') { Severity::Warning } else { Severity::Error };
        let (file, label) = (file.to_owned(), String::new());
        Self { severity, code, class, message, file, span: None, line: 0, label, help: None }
    }

    #[must_use]
    pub(super) fn at(mut self, span: Range<usize>, line: u32) -> Self {
        self.span = Some(span);
        self.line = line;
        self
    }

    #[must_use]
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// The remarks as text in the look of rustc, errors first, plain ASCII, at most `max` of them and then a count of
/// the rest. `sources` gives a file's text by its path in the admin repository.
pub fn render(diagnostics: &[Diagnostic], sources: &dyn Fn(&str) -> Option<String>, max: usize) -> String {
    let mut ordered: Vec<&Diagnostic> = diagnostics.iter().collect();
    ordered.sort_by_key(|d| d.severity);
    let mut text = String::new();
    for d in ordered.iter().take(max) {
        let line = d.span.clone().zip(sources(&d.file)).and_then(|(span, source)| source_line(&source, span));
        text.push_str(&render_one(d, line));
        text.push_str("\n\n");
    }
    let rest = ordered.len().saturating_sub(max);
    if rest > 0 {
        let _ = writeln!(text, "... and {rest} more");
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn render_one(d: &Diagnostic, line: Option<(String, Range<usize>)>) -> String {
    let (message, file) = (ascii(&d.message), ascii(&d.file));
    let (label, help) = (ascii(&d.label), d.help.as_deref().map(ascii));
    let level = if d.is_error() { Level::ERROR } else { Level::WARNING };
    let mut group: Group<'_> = Group::with_title(level.primary_title(message).id(d.code));
    group = match line {
        Some((source, span)) => {
            let caret = AnnotationKind::Primary.span(span);
            let caret = if label.is_empty() { caret } else { caret.label(label) };
            let start = usize::try_from(d.line).unwrap_or(1);
            group.element(Snippet::source(source).path(file).line_start(start).annotation(caret))
        }
        None if d.line > 0 => group.element(SnippetOrigin::path(file).line(usize::try_from(d.line).unwrap_or(1))),
        None => group.element(SnippetOrigin::path(file)),
    };
    let mut groups = vec![group];
    groups.extend(help.map(|help| Group::with_title(Level::HELP.secondary_title(help))));
    Renderer::plain().decor_style(DecorStyle::Ascii).term_width(120).render(&groups)
}

/// Characters of a line, and of a message, that are shown: a terminal full, not a file that is one line.
const SHOWN: usize = 400;

/// The one line that holds the start of the span, as ASCII of the same length, and the span in it. The end of a long
/// line is left out; nothing is shown of one whose span starts there.
fn source_line(source: &str, span: Range<usize>) -> Option<(String, Range<usize>)> {
    let bytes = source.as_bytes();
    let before = bytes.get(..span.start)?;
    let start = before.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    let length = bytes[start..].iter().position(|b| *b == b'\n').unwrap_or(bytes.len() - start).min(SHOWN);
    if span.start - start > length {
        return None;
    }
    let line: String = bytes[start..start + length]
        .iter()
        .map(|b| match b {
            b'\r' | b'\t' => ' ',
            0x20..0x7f => char::from(*b),
            _ => '?',
        })
        .collect();
    let end = span.end.saturating_sub(start).clamp(span.start - start, line.len());
    let span = span.start - start..end;
    Some((line, span))
}

/// Foreign text as plain printable ASCII: it goes to terminals and over git's wire.
fn ascii(text: &str) -> String {
    let shown = text.chars().take(SHOWN).map(|c| if c == '\n' || matches!(c, ' '..='~') { c } else { '?' });
    let cut = text.chars().nth(SHOWN).map_or("", |_| "...");
    shown.chain(cut.chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_like_rustc() {
        let source = "repo docs\n\tRW+     =   @dev alice\n";
        let mut d = Diagnostic::new("undefined-group", "conf/gitmesh.conf", "group '@dev' is not defined".into())
            .at(23..27, 2)
            .help("did you mean '@devs' (conf/groups.conf:3)?");
        d.label = "used here; nothing defines it".into();
        let text = render(&[d.clone(), d], &|_| Some(source.to_owned()), 1);
        insta::assert_snapshot!(text, @r"
        error[E0112]: group '@dev' is not defined
         --> conf/gitmesh.conf:2:14
          |
        2 |  RW+     =   @dev alice
          |              ^^^^ used here; nothing defines it
          |
        help: did you mean '@devs' (conf/groups.conf:3)?

        ... and 1 more
        ");
    }

    #[test]
    fn a_long_line_is_cut() {
        let source = format!("RW = {}\n", "@a".repeat(5000));
        let d = Diagnostic::new("bad-user", "x", source.clone()).at(5..source.len() - 1, 1);
        assert!(render(&[d.clone().at(900..901, 1), d], &|_| Some(source.clone()), 9).len() < 4000);
    }

    #[test]
    fn codes_are_unique() {
        let codes: std::collections::BTreeSet<_> = CODES.iter().map(|(_, code)| code).collect();
        assert_eq!(codes.len(), CODES.len());
    }
}

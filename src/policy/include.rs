//! Joins the main configuration and what it includes into one list of clean lines.
//!
//! Only files of the same commit below `conf/` can be included. A delegated part (`subconf`) is a property of each
//! line, not a line of its own, so nothing written inside a part can end it.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::diagnostic::{Diagnostic, Severity};
use super::glob;
use super::lexer::{Line, Origin, clean, locate};
use super::{Settings, Sources};

/// More than this many bytes of configuration are refused.
const BYTES_MAX: usize = 64 << 20;
/// A longer line is refused: the place of each remark is found by reading its line again.
pub(super) const LINE_BYTES_MAX: usize = 4 << 20;
/// More lines than this that hold something are refused; each takes about a hundred bytes while it is compiled.
const LINES_MAX: usize = 2_000_000;
/// A longer name of an included file is refused; no path of an operating system is.
const GLOB_BYTES_MAX: usize = 4096;
/// Files compared with, or found by, the patterns of all include lines together.
const GLOB_STEPS_MAX: usize = 2_000_000;
/// Errors, and warnings, beyond this number are dropped, so that a file of rubbish does not fill the memory.
const REMARKS_MAX: usize = 1000;
/// The same for one line, so that the cost of a long line of rubbish stays linear.
const LINE_REMARKS_MAX: usize = 20;

/// The joined text and the remarks so far.
#[derive(Debug)]
pub(super) struct Joined<'s> {
    pub(super) lines: Vec<Line>,
    pub(super) files: Files<'s>,
    /// Names of the delegated parts; 0 is `master`.
    pub(super) subconfs: Vec<String>,
}

/// The files read so far, and the remarks about them.
#[derive(Debug, Default)]
pub(super) struct Files<'s> {
    /// Path in the admin repository, and content.
    pub(super) list: Vec<(String, &'s [u8])>,
    pub(super) remarks: Vec<Diagnostic>,
    pub(super) errors: usize,
    warnings: usize,
    /// The line of the newest remark (file and number), and the remarks about it.
    newest: ((u32, u32), usize),
    spilt: Option<Diagnostic>,
}

impl Files<'_> {
    /// Notes a remark about a part of a line, or about the whole line; gives it back for its label and help.
    pub(super) fn remark(
        &mut self,
        class: &'static str,
        line: &Line,
        part: Option<std::ops::Range<usize>>,
        message: String,
    ) -> &mut Diagnostic {
        let (ref path, bytes) = self.list[line.origin.file as usize];
        let remark = Diagnostic::new(class, path, message);
        if !self.keeps(line, remark.severity) {
            let count = if remark.is_error() { &mut self.errors } else { &mut self.warnings };
            *count += 1;
            return self.spilt.insert(remark);
        }
        self.newest.1 += 1;
        let span = locate(bytes, line.origin, &line.text, part);
        self.push(remark.at(span, line.origin.line))
    }

    /// Whether one more remark about this line would be kept; if not, its place need not be looked for.
    pub(super) fn keeps(&mut self, line: &Line, severity: Severity) -> bool {
        let place = (line.origin.file, line.origin.line);
        if self.newest.0 != place {
            self.newest = (place, 0);
        }
        let count = if severity == Severity::Error { self.errors } else { self.warnings };
        self.newest.1 < LINE_REMARKS_MAX && count < REMARKS_MAX
    }

    /// Remarks beyond the limit of their kind are counted, not kept.
    pub(super) fn push(&mut self, remark: Diagnostic) -> &mut Diagnostic {
        let count = if remark.is_error() { &mut self.errors } else { &mut self.warnings };
        *count += 1;
        if *count > REMARKS_MAX {
            return self.spilt.insert(remark);
        }
        self.remarks.push(remark);
        let last = self.remarks.len() - 1;
        &mut self.remarks[last]
    }
}

/// A file being read.
struct Frame {
    file: u32,
    at: usize,
    line: u32,
    subconf: u32,
}

enum Work {
    Read(Frame),
    /// A file that an include line names; the line is kept for messages.
    Open {
        path: String,
        subconf: Option<Option<String>>,
        current: u32,
        from: Rc<Line>,
    },
    /// A delegated part ends.
    Leave,
}

struct Joiner<'s, 'x> {
    sources: &'s Sources,
    settings: &'x Settings,
    joined: Joined<'s>,
    stack: Vec<Work>,
    seen: HashSet<String>,
    renamed: HashMap<(u32, String), String>,
    /// The delegated parts by name.
    parts: HashMap<String, u32>,
    segment: u32,
    block: Option<Line>,
    /// The line before goes on in the next one of this segment.
    continued: Option<u32>,
    bytes: usize,
    /// What is left of [`GLOB_STEPS_MAX`].
    glob_steps: usize,
}

/// Reads the main file and everything it includes.
pub(super) fn join<'s>(sources: &'s Sources, settings: &Settings) -> Joined<'s> {
    let joined = Joined { lines: Vec::new(), files: Files::default(), subconfs: vec!["master".to_owned()] };
    let mut joiner = Joiner {
        sources,
        settings,
        joined,
        stack: Vec::new(),
        seen: HashSet::new(),
        renamed: HashMap::new(),
        parts: HashMap::new(),
        segment: 0,
        block: None,
        continued: None,
        bytes: 0,
        glob_steps: GLOB_STEPS_MAX,
    };
    joiner.run();
    joiner.joined
}

impl<'s> Joiner<'s, '_> {
    fn run(&mut self) {
        let main = &self.sources.main;
        if !self.sources.files.contains_key(main) {
            let path = format!("conf/{main}");
            let missing = Diagnostic::new("file-missing", &path, format!("'{path}' does not exist"));
            self.joined.files.push(missing.help("the access rules live in this file; add it and commit again"));
            return;
        }
        self.open(main.clone(), 0);
        while let Some(work) = self.stack.pop() {
            match work {
                Work::Read(frame) => self.read(frame),
                Work::Open { path, subconf, current, from } => self.include(path, subconf, current, &from),
                Work::Leave => {
                    self.warn_block();
                    self.segment += 1;
                }
            }
        }
        self.warn_block();
    }

    /// A block that is still open at the end swallows everything: legal, surely wrong.
    fn warn_block(&mut self) {
        if let Some(line) = self.block.take() {
            let message = "this block is never closed, so the rest of the text is skipped".to_owned();
            self.joined.files.remark("block-unclosed", &line, None, message).help = Some("end it with '=end'".into());
        }
    }

    fn open(&mut self, path: String, subconf: u32) {
        let Some(bytes) = self.sources.files.get(&path) else { return };
        self.bytes += bytes.len();
        let file = u32::try_from(self.joined.files.list.len()).unwrap_or(u32::MAX);
        let shown = format!("conf/{path}");
        if self.bytes > BYTES_MAX {
            let message = format!("the configuration is larger than {} MiB", BYTES_MAX >> 20);
            self.joined.files.push(Diagnostic::new("too-large", &shown, message));
            return;
        }
        let mut at = 0;
        if bytes.starts_with(b"\xef\xbb\xbf") {
            at = 3;
            let message = "the file starts with a byte-order mark, which is skipped".to_owned();
            let remark = Diagnostic::new("byte-order-mark", &shown, message);
            self.joined.files.push(remark.help("save it as UTF-8 without BOM; gitolite would ignore the first line"));
        }
        if bytes.windows(2).any(|pair| pair == b"\r\n") {
            let message = "the lines of this file end in CR LF, which is read as LF".to_owned();
            let remark = Diagnostic::new("carriage-return", &shown, message);
            self.joined.files.push(remark.help("in .gitattributes: conf/** text eol=lf"));
        }
        self.joined.files.list.push((shown, bytes));
        self.seen.insert(path);
        self.stack.push(Work::Read(Frame { file, at, line: 0, subconf }));
    }

    fn read(&mut self, mut frame: Frame) {
        let bytes = self.joined.files.list[frame.file as usize].1;
        while frame.at < bytes.len() {
            let start = frame.at;
            let end = bytes[start..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |n| start + n);
            frame.at = end + 1;
            frame.line += 1;
            if end - start > LINE_BYTES_MAX || self.joined.lines.len() >= LINES_MAX {
                self.too_large(&frame, start..end);
                return;
            }
            let mut text = clean(&bytes[start..end]);
            if text.is_empty() {
                continue;
            }
            self.expand_host(&mut text);
            let origin = Origin { file: frame.file, line: frame.line, start, end };
            let subconf = frame.subconf;
            let mut line = Line { text, origin, subconf, segment: self.segment };
            if self.skip(&line) {
                continue;
            }
            self.rename_groups(&mut line);
            if let Some(found) = self.include_line(&line) {
                self.stack.push(Work::Read(frame));
                let line = Rc::new(line);
                let open =
                    |path| Work::Open { path, subconf: found.subconf.clone(), current: subconf, from: line.clone() };
                self.stack.extend(found.paths.into_iter().rev().map(open));
                return;
            }
            self.joined.lines.push(line);
        }
    }

    /// The rest of the text is not read.
    fn too_large(&mut self, frame: &Frame, line: std::ops::Range<usize>) {
        self.stack.clear();
        let message = if line.len() > LINE_BYTES_MAX {
            format!("this line is longer than {} MiB", LINE_BYTES_MAX >> 20)
        } else {
            format!("the configuration has more than {LINES_MAX} lines")
        };
        let path = self.joined.files.list[frame.file as usize].0.clone();
        let remark = Diagnostic::new("too-large", &path, message).at(line.start..line.start, frame.line);
        let help = "a group can be defined by several lines, and repositories and users named by their groups";
        self.joined.files.push(remark.help(help));
    }

    /// `%HOSTNAME`, unless a word character follows.
    fn expand_host(&self, text: &mut String) {
        let Some(host) = &self.settings.host else { return };
        let word = "%HOSTNAME";
        if !text.contains(word) {
            return;
        }
        let (mut done, mut rest) = (String::with_capacity(text.len()), text.as_str());
        while let Some((before, after)) = rest.split_once(word) {
            let longer = after.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
            done.push_str(before);
            done.push_str(if longer { word } else { host.as_str() });
            rest = after;
        }
        done.push_str(rest);
        *text = done;
    }

    /// Blocks of text that are not for the server. They are skipped before includes are looked at. What continues
    /// another line neither opens nor closes one.
    fn skip(&mut self, line: &Line) -> bool {
        let next = self.continues(line);
        let continues = std::mem::replace(&mut self.continued, next) == Some(line.segment);
        let word = line.text.strip_prefix('=').map(|rest| rest.trim_start_matches(' ')).filter(|_| !continues);
        if self.block.is_some() {
            if word == Some("end") {
                self.block = None;
            }
            return true;
        }
        let begins = matches!(word, Some("begin testconf" | "begin template-data"));
        if begins {
            self.block = Some(line.clone());
        }
        begins
    }

    /// The segment of a line that goes on in the next one.
    fn continues(&self, line: &Line) -> Option<u32> {
        let on = line.text.ends_with('\\') && self.settings.enable.contains("continuation-lines");
        on.then_some(line.segment)
    }

    /// In a delegated part, groups that it defines get its name in front, from the line after the definition on.
    fn rename_groups(&mut self, line: &mut Line) {
        if line.subconf == 0 || !line.text.contains('@') {
            return;
        }
        let rename = |word: &str| self.renamed.get(&(line.subconf, word.to_owned())).cloned();
        let words: Vec<String> = line.text.split(' ').map(|w| rename(w).unwrap_or_else(|| w.to_owned())).collect();
        let defined = line.text.split_once(" = ").map(|(l, _)| l).filter(|l| l.starts_with('@') && !l.contains(' '));
        let own = defined.map(|name| {
            let part = &self.joined.subconfs[line.subconf as usize];
            (name.to_owned(), format!("@{part}.{}", &name[1..]))
        });
        let mut text = words.join(" ");
        if let Some((name, new)) = own {
            if let Some(rest) = text.strip_prefix(&name).filter(|r| r.starts_with(' ')) {
                text = format!("{new}{rest}");
            }
            self.renamed.insert((line.subconf, name), new);
        }
        line.text = text;
    }

    /// Reads an include or subconf line. An answer without paths is one that was refused or matched nothing.
    fn include_line(&mut self, line: &Line) -> Option<Include> {
        let (is_subconf, rest) = match line.text.split_once(' ') {
            Some(("include", rest)) => (false, rest),
            Some(("subconf", rest)) => (true, rest),
            _ => return None,
        };
        if rest.len() < 2 && !is_subconf {
            return None;
        }
        let none = Some(Include { paths: Vec::new(), subconf: None });
        let (name, argument) = match rest.split_once(' ') {
            Some((name, argument)) => (Some(name), argument),
            None => (None, rest),
        };
        if is_subconf && line.subconf != 0 {
            let part = &self.joined.subconfs[line.subconf as usize];
            let message = format!("the delegated part '{part}' may not use 'subconf'");
            let help = "'include' is fine here and stays in the same part";
            self.joined.files.remark("subconf-inside-subconf", line, None, message).help = Some(help.into());
            return none;
        }
        let quoted = |q: char| argument.len() > 2 && argument.starts_with(q) && argument.ends_with(q);
        let stray = name.is_some() && !is_subconf;
        if stray || !(quoted('"') || quoted('\'')) {
            let message = format!(
                "'{}' needs one file name in quotes, not '{rest}'",
                if is_subconf { "subconf" } else { "include" }
            );
            let at = line.text.len() - rest.len();
            let remark = self.joined.files.remark("bad-include-argument", line, Some(at..line.text.len()), message);
            remark.help = Some("write include \"groups.conf\" or include \"parts/*.conf\", one name a line".into());
            return none;
        }
        let glob = &argument[1..argument.len() - 1];
        if let Some(name) = name
            && !self.good_part_name(name, line)
        {
            return none;
        }
        let Some(pattern) = self.inside(glob, line) else { return none };
        let Some(paths) = glob::expand(&pattern, &self.sources.files, &mut self.glob_steps) else {
            let message = "the include lines name too many files".to_owned();
            let remark = self.joined.files.remark("too-large", line, None, message);
            remark.help = Some("include a folder once: include \"parts/*.conf\"".into());
            return none;
        };
        Some(Include { paths, subconf: is_subconf.then(|| name.map(str::to_owned)) })
    }

    /// gitolite would follow `/etc/x.conf`, `~/x.conf` and `../x.conf`; only the pushed commit counts here.
    fn inside(&mut self, glob: &str, line: &Line) -> Option<String> {
        if glob.len() > GLOB_BYTES_MAX {
            let message = format!("the name of a file is longer than {GLOB_BYTES_MAX} bytes");
            self.joined.files.remark("too-large", line, None, message);
            return None;
        }
        let outside = glob.starts_with(['/', '~']) || glob.split('/').any(|p| p == "..");
        if outside {
            let message = format!("'{glob}' is outside of conf/");
            let remark = self.joined.files.remark("include-outside", line, None, message);
            remark.help = Some("only files of this commit below conf/ can be included".into());
            return None;
        }
        let parts: Vec<&str> = glob.split('/').filter(|p| !matches!(*p, "" | ".")).collect();
        Some(parts.join("/"))
    }

    fn good_part_name(&mut self, name: &str, line: &Line) -> bool {
        let chars = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b)) && !name.is_empty();
        let taken = matches!(name, "all" | "master");
        if !chars || taken {
            let message = if taken {
                format!("a delegated part may not be called '{name}': that name has rights on everything")
            } else {
                format!("'{name}' cannot be the name of a delegated part")
            };
            let help = "letters, digits, '_', '-' and '.' make a name";
            self.joined.files.remark("bad-subconf-name", line, None, message).help = Some(help.into());
        }
        chars && !taken
    }

    fn include(&mut self, path: String, subconf: Option<Option<String>>, current: u32, from: &Line) {
        let files = &mut self.joined.files;
        if !self.sources.files.contains_key(&path) {
            let message = format!("included file 'conf/{path}' does not exist");
            files.remark("include-missing", from, None, message);
            return;
        }
        // gitolite's test: the last part ends in one character, any one, and 'conf'.
        let last = path.rsplit('/').next().unwrap_or_default();
        let stem = last.strip_suffix("conf").and_then(|s| s.char_indices().next_back().map(|(i, _)| &s[..i]));
        let Some(stem) = stem.filter(|s| !s.is_empty()).map(str::to_owned) else {
            let message = format!("'{path}' cannot be included: its name does not end in '.conf'");
            files.remark("bad-include-filename", from, None, message);
            return;
        };
        if self.seen.contains(&path) {
            let message = format!("'conf/{path}' was read before; this time it is skipped");
            files.remark("include-again", from, None, message);
            return;
        }
        let mut part = current;
        if let Some(name) = subconf {
            let name = name.unwrap_or(stem);
            if !self.good_part_name(&name, from) {
                return;
            }
            let next = u32::try_from(self.joined.subconfs.len()).unwrap_or(u32::MAX);
            part = *self.parts.entry(name.clone()).or_insert(next);
            if part == next {
                self.joined.subconfs.push(name);
            }
            self.segment += 1;
            self.stack.push(Work::Leave);
        }
        self.open(path, part);
    }
}

struct Include {
    paths: Vec<String>,
    /// For `subconf`: the name given, if any.
    subconf: Option<Option<String>>,
}

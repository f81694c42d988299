//! Where a configuration says what: the lines of its repositories and groups, and edits of them that change nothing else.
//!
//! Only what stands on lines of its own, as it is read, is ever edited; for everything else (lists, groups, macros,
//! continued lines, blocks that go on in another file) the answer is which lines a person must change. Every edit is
//! read again, and is given out only if it did exactly what was wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::lexer::{Line, clean, locate};
use super::parser::{Spelling, Statement, parse};
use super::{Place, Settings, Sources, include, names, sugar};

/// A line that defines a group, or adds to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// With its `@`.
    pub name: String,
    pub members: Vec<String>,
    pub place: Place,
}

/// A `repo` line and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub items: Vec<String>,
    pub place: Place,
    pub entries: Vec<Entry>,
    /// The main configuration's, and no delegated part's.
    pub in_main: bool,
    /// A line that cannot be edited apart from others.
    odd: Option<Place>,
    /// The bytes of each item, where the line stands as it is read.
    words: Vec<Range<usize>>,
}

/// A rule, or a line with an option or a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As it is read.
    pub text: String,
    /// Users and groups that a rule names.
    pub users: Vec<String>,
    pub refexes: Vec<String>,
    pub place: Place,
    is_description: bool,
}

/// The lines of a configuration, in the order in which they are read.
#[derive(Debug)]
pub struct Outline<'s> {
    pub groups: Vec<Definition>,
    pub blocks: Vec<Block>,
    sources: &'s Sources,
    settings: &'s Settings,
}

/// Files below `conf/` with their new contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    pub files: BTreeMap<String, Vec<u8>>,
    /// The lines that were added, or taken away.
    pub lines: String,
}

/// Why the text is not edited, and where a person would have to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByHand {
    pub why: String,
    pub places: Vec<Place>,
}

/// What two readings of a configuration are compared by.
type Meaning = (Vec<(String, Vec<String>)>, Vec<(Vec<String>, Vec<String>)>);

impl<'s> Outline<'s> {
    pub fn read(sources: &'s Sources, settings: &'s Settings) -> Self {
        let mut joined = include::join(sources, settings);
        // What the sugar makes of several lines, or of others, no longer stands as it is read.
        let as_read = |line: &Line, list: &[(String, &[u8])]| {
            let raw = list[line.origin.file as usize].1.get(line.origin.start..line.origin.end).unwrap_or_default();
            clean(raw) == line.text
        };
        let before: BTreeSet<(u32, u32)> = {
            let list = &joined.files.list;
            let plain = joined.lines.iter().filter(|line| as_read(line, list) || line.subconf != 0);
            plain.map(|line| (line.origin.file, line.origin.line)).collect()
        };
        let texts: BTreeMap<(u32, u32), String> =
            joined.lines.iter().map(|line| ((line.origin.file, line.origin.line), line.text.clone())).collect();
        sugar::apply(&mut joined, settings);
        let mut times: BTreeMap<(u32, u32), u32> = BTreeMap::new();
        for line in &joined.lines {
            *times.entry((line.origin.file, line.origin.line)).or_default() += 1;
        }
        let plain = |line: &Line| {
            let at = (line.origin.file, line.origin.line);
            before.contains(&at) && times.get(&at) == Some(&1) && texts.get(&at) == Some(&line.text)
        };
        let mut outline = Self { groups: Vec::new(), blocks: Vec::new(), sources, settings };
        let mut open: Option<(u32, u32)> = None;
        for line in &joined.lines {
            let (path, bytes) = &joined.files.list[line.origin.file as usize];
            let place = Place { file: path.clone(), line: line.origin.line };
            let (file, segment) = (line.origin.file, line.segment);
            if open.is_some_and(|(_, of)| of != segment) {
                open = None;
            }
            match parse(line) {
                Statement::Group { name, members } => {
                    let members = members.iter().map(|word| word.text.to_owned()).collect();
                    outline.groups.push(Definition { name: name.text.to_owned(), members, place });
                }
                Statement::Repo(items) => {
                    let is_plain = plain(line);
                    let exact = is_plain && as_read(line, &joined.files.list);
                    let words = items.iter().filter(|_| exact);
                    let words = words.map(|word| locate(bytes, line.origin, &line.text, Some(word.range()))).collect();
                    outline.blocks.push(Block {
                        items: items.iter().map(|word| bare(word.text).to_owned()).collect(),
                        odd: (!is_plain).then(|| place.clone()),
                        place,
                        entries: Vec::new(),
                        in_main: line.subconf == 0,
                        words,
                    });
                    open = Some((file, segment));
                }
                statement => {
                    let Some((of, _)) = open else { continue };
                    let Some(block) = outline.blocks.last_mut() else { continue };
                    let mut entry = Entry {
                        text: line.text.clone(),
                        users: Vec::new(),
                        refexes: Vec::new(),
                        place: place.clone(),
                        is_description: false,
                    };
                    let mut understood = file == of && plain(line);
                    match statement {
                        Statement::Rule { users, refexes, .. } => {
                            let owned = |words: Vec<super::lexer::Word<'_>>| {
                                words.into_iter().map(|word| word.text.to_owned()).collect()
                            };
                            (entry.users, entry.refexes) = (owned(users), owned(refexes));
                        }
                        Statement::Config(config) => {
                            entry.is_description =
                                config.spelling == Spelling::Gitweb && config.key == "gitweb.description";
                        }
                        _ => understood = false,
                    }
                    block.entries.push(entry);
                    if !understood && block.odd.is_none() {
                        block.odd = Some(place);
                    }
                }
            }
        }
        outline
    }

    /// The blocks whose own line names this repository.
    pub fn naming<'o>(&'o self, repo: &'o str) -> impl Iterator<Item = &'o Block> {
        self.blocks.iter().filter(move |block| block.items.iter().any(|item| item == repo))
    }

    /// Where a repository gets its name from a group that stands on a `repo` line: the lines that put it in.
    pub fn naming_groups(&self, repo: &str) -> Vec<&Definition> {
        let used = self.blocks.iter().flat_map(|block| &block.items).filter(|item| item.starts_with('@'));
        let mut reached: BTreeSet<&str> = used.map(String::as_str).collect();
        // Groups may hold groups, which are defined before.
        for definition in self.groups.iter().rev().filter(|definition| definition.members.len() <= 1_000_000) {
            if reached.contains(definition.name.as_str()) {
                reached.extend(definition.members.iter().filter(|m| m.starts_with('@')).map(String::as_str));
            }
        }
        let holds = |definition: &&Definition| {
            reached.contains(definition.name.as_str()) && definition.members.iter().any(|member| member == repo)
        };
        self.groups.iter().filter(holds).collect()
    }

    /// A new block at the end of the main file, with the lines of those that name `like`, or with this rule.
    ///
    /// # Errors
    /// Which lines a person must change instead.
    pub fn with(&self, repo: &str, like: Option<&str>, rule: &str) -> Result<Edit, ByHand> {
        let by_hand = |why: String, places: Vec<Place>| Err(ByHand { why, places });
        let mut body = String::new();
        if let Some(like) = like {
            let groups: Vec<Place> = self.naming_groups(like).into_iter().map(|group| group.place.clone()).collect();
            if !groups.is_empty() {
                return by_hand(format!("'{like}' is in a group; add '{repo}' beside it"), groups);
            }
            for block in self.naming(like) {
                if !block.in_main {
                    return by_hand(format!("'{like}' is named in a delegated part"), vec![block.place.clone()]);
                }
                if let Some(odd) = &block.odd {
                    return by_hand(
                        format!("the lines of '{like}' do not all stand for themselves"),
                        vec![odd.clone()],
                    );
                }
                for entry in block.entries.iter().filter(|entry| !entry.is_description) {
                    let raw = self.raw(&entry.place).unwrap_or_default();
                    body.push_str(&format!("    {}\n", String::from_utf8_lossy(raw).trim()));
                }
            }
            if body.is_empty() {
                return by_hand(format!("no line of its own gives '{like}' any rules"), Vec::new());
            }
        } else {
            body = format!("    {rule}\n");
        }
        let main = self.sources.files.get(&self.sources.main).map_or(&[][..], Vec::as_slice);
        let gap = if main.is_empty() || main.ends_with(b"\n") { "" } else { "\n" };
        let lines = format!("repo {repo}\n{body}");
        let text = [main, gap.as_bytes(), b"\n", lines.as_bytes()].concat();
        let mut wanted = self.meaning();
        let cleaned = body.lines().map(|line| clean(line.as_bytes())).collect();
        wanted.1.push((vec![repo.to_owned()], cleaned));
        self.checked([(self.sources.main.clone(), text)].into(), lines, &wanted)
    }

    /// With these blocks at the end of the main file, as they were taken away.
    ///
    /// # Errors
    /// They make something else of what is there, or are no blocks.
    pub fn with_lines(&self, lines: &str) -> Result<Edit, ByHand> {
        let main = &self.sources.main;
        let alone = Sources { main: main.clone(), files: [(main.clone(), lines.as_bytes().to_vec())].into() };
        let (groups, blocks) = Outline::read(&alone, self.settings).meaning();
        if !groups.is_empty() || blocks.is_empty() {
            return Err(ByHand { why: "they are no blocks of repositories".to_owned(), places: Vec::new() });
        }
        let before = self.sources.files.get(main).map_or(&[][..], Vec::as_slice);
        let gap = if before.is_empty() || before.ends_with(b"\n") { "" } else { "\n" };
        let end = if lines.ends_with('\n') { "" } else { "\n" };
        let text = [before, gap.as_bytes(), b"\n", lines.as_bytes(), end.as_bytes()].concat();
        let mut wanted = self.meaning();
        wanted.1.extend(blocks);
        self.checked([(main.clone(), text)].into(), lines.to_owned(), &wanted)
    }

    /// Without the blocks of a repository, each of which must name it alone.
    ///
    /// # Errors
    /// Which lines a person must change instead.
    pub fn without(&self, repo: &str) -> Result<Edit, ByHand> {
        let mut places: Vec<Place> = self.naming_groups(repo).into_iter().map(|group| group.place.clone()).collect();
        places.extend(self.naming(repo).filter(|block| block.items.len() > 1).map(|block| block.place.clone()));
        if !places.is_empty() {
            return Err(ByHand { why: format!("'{repo}' is named together with others"), places });
        }
        let odd: Vec<Place> = self.naming(repo).filter_map(|block| block.odd.clone()).collect();
        if !odd.is_empty() {
            return Err(ByHand { why: format!("the lines of '{repo}' do not all stand for themselves"), places: odd });
        }
        let mut gone: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
        for block in self.naming(repo) {
            let last = block.entries.last().map_or(block.place.line, |entry| entry.place.line);
            let lines = gone.entry(&block.place.file).or_default();
            lines.insert(block.place.line);
            lines.extend(block.entries.iter().map(|entry| entry.place.line));
            // Comments between its lines go with them.
            for line in block.place.line..last {
                let place = Place { file: block.place.file.clone(), line };
                if self.raw(&place).is_some_and(|raw| clean(raw).is_empty()) {
                    lines.insert(line);
                }
            }
        }
        let (mut files, mut taken) = (BTreeMap::new(), Vec::new());
        for (path, lines) in gone {
            let Some(bytes) = self.bytes(path) else { continue };
            let mut kept = Vec::with_capacity(bytes.len());
            for (number, line) in (1_u32..).zip(bytes.split_inclusive(|byte| *byte == b'\n')) {
                let to = if lines.contains(&number) { &mut taken } else { &mut kept };
                to.extend_from_slice(line);
            }
            files.insert(below(path).to_owned(), kept);
        }
        let mut wanted = self.meaning();
        wanted.1.retain(|(items, _)| !items.iter().any(|item| item == repo));
        self.checked(files, String::from_utf8_lossy(&taken).into_owned(), &wanted)
    }

    /// With another name for a repository on the lines that name it.
    ///
    /// # Errors
    /// Which lines a person must change instead.
    pub fn renamed(&self, old: &str, new: &str) -> Result<Edit, ByHand> {
        let mut places: Vec<Place> = self.naming_groups(old).into_iter().map(|group| group.place.clone()).collect();
        let rewritten = self.naming(old).filter(|block| block.words.is_empty());
        places.extend(rewritten.map(|block| block.place.clone()));
        if !places.is_empty() {
            return Err(ByHand { why: format!("'{old}' is in a group, or on a line that is put together"), places });
        }
        let mut spans: BTreeMap<&str, Vec<&Range<usize>>> = BTreeMap::new();
        let mut lines = String::new();
        for block in self.naming(old) {
            let named = block.items.iter().zip(&block.words).filter(|(item, _)| *item == old);
            spans.entry(&block.place.file).or_default().extend(named.map(|(_, span)| span));
            lines.push_str(&format!("{}\n", block.place));
        }
        let mut files = BTreeMap::new();
        for (path, mut spans) in spans {
            let Some(bytes) = self.bytes(path) else { continue };
            spans.sort_by_key(|span| std::cmp::Reverse(span.start));
            let mut text = bytes.to_vec();
            for span in spans {
                text.splice(span.clone(), new.bytes());
            }
            files.insert(below(path).to_owned(), text);
        }
        let mut wanted = self.meaning();
        for item in wanted.1.iter_mut().flat_map(|(items, _)| items).filter(|item| *item == old) {
            new.clone_into(item);
        }
        self.checked(files, lines, &wanted)
    }

    /// An edit that was read again and means what was wanted.
    fn checked(&self, files: BTreeMap<String, Vec<u8>>, lines: String, wanted: &Meaning) -> Result<Edit, ByHand> {
        let mut sources = self.sources.clone();
        sources.files.extend(files.clone());
        if Outline::read(&sources, self.settings).meaning() != *wanted {
            let why = "the text around it makes something else of such an edit".to_owned();
            return Err(ByHand { why, places: Vec::new() });
        }
        let files = files.into_iter().map(|(path, text)| (format!("conf/{path}"), text)).collect();
        Ok(Edit { files, lines })
    }

    fn meaning(&self) -> Meaning {
        let groups = self.groups.iter().map(|group| (group.name.clone(), group.members.clone()));
        let texts = |block: &Block| block.entries.iter().map(|entry| entry.text.clone()).collect();
        (groups.collect(), self.blocks.iter().map(|block| (block.items.clone(), texts(block))).collect())
    }

    fn bytes(&self, path: &str) -> Option<&[u8]> {
        self.sources.files.get(below(path)).map(Vec::as_slice)
    }

    fn raw(&self, place: &Place) -> Option<&[u8]> {
        self.bytes(&place.file)?.split(|byte| *byte == b'\n').nth(place.line as usize - 1)
    }
}

/// Whether a name can stand on a `repo` line as one repository's.
pub fn can_name(repo: &str) -> bool {
    names::is_plain(repo)
}

fn bare(item: &str) -> &str {
    item.strip_suffix(".git").unwrap_or(item)
}

fn below(path: &str) -> &str {
    path.strip_prefix("conf/").unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(files: &[(&str, &str)]) -> Sources {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect();
        Sources { main: "gitmesh.conf".to_owned(), files }
    }

    const MAIN: &str = "# ours\n@dev = bob carol\n@docs = docs/a docs/b\n\nrepo one\t# the first\n    RW+ = @dev   # all\n\
         \n    # why\n    option x = y\n    desc = One of ours\n\nrepo two three.git\r\n RW = bob\n\nrepo @docs\n R = @all\n\
         include \"more.conf\"\n";
    const MORE: &str = " - = eve\nrepo four\n RW = bob\n@late = dave\n R = @late\nrepo one\n R = eve";

    fn edit<T>(files: &[(&str, &str)], what: impl FnOnce(&Outline<'_>) -> T) -> T {
        let (sources, settings) = (sources(files), Settings::default());
        what(&Outline::read(&sources, &settings))
    }

    fn texts(edit: &Edit) -> BTreeMap<&str, &str> {
        edit.files.iter().map(|(path, text)| (path.as_str(), std::str::from_utf8(text).unwrap())).collect()
    }

    #[test]
    fn blocks_go_and_every_other_byte_stays() {
        let files = [("gitmesh.conf", MAIN), ("more.conf", MORE), ("unread.conf", "repo one\n RW = x\n")];
        let done = edit(&files, |o| o.without("one")).unwrap();
        let main = MAIN.replace(
            "repo one\t# the first\n    RW+ = @dev   # all\n\n    # why\n    option x = y\n    desc = One of ours\n",
            "",
        );
        let more = MORE.replace("repo one\n R = eve", "");
        assert_eq!(texts(&done), [("conf/gitmesh.conf", main.as_str()), ("conf/more.conf", more.as_str())].into());
        let done = edit(&files, |o| o.without("four")).unwrap();
        let more = " - = eve\n@late = dave\nrepo one\n R = eve";
        assert_eq!(texts(&done), [("conf/more.conf", more)].into(), "a group among its lines stays");
        let lines =
            |repo| edit(&files, |o| o.without(repo)).unwrap_err().places.iter().map(|p| p.line).collect::<Vec<_>>();
        assert_eq!(lines("three"), [12]);
        assert_eq!(lines("docs/a"), [3]);
    }

    #[test]
    fn names_are_replaced_where_they_stand() {
        let files = [("gitmesh.conf", MAIN), ("more.conf", MORE)];
        let done = edit(&files, |o| o.renamed("one", "first/one")).unwrap();
        let (main, more) = (MAIN.replace("repo one", "repo first/one"), MORE.replace("repo one", "repo first/one"));
        assert_eq!(texts(&done), [("conf/gitmesh.conf", main.as_str()), ("conf/more.conf", more.as_str())].into());
        let done = edit(&files, |o| o.renamed("three", "3")).unwrap();
        assert_eq!(texts(&done)["conf/gitmesh.conf"], MAIN.replace("three.git", "3"));
        assert!(edit(&files, |o| o.renamed("docs/a", "docs/c")).is_err());
    }

    #[test]
    fn a_new_block_is_like_another() {
        let files = [("gitmesh.conf", MAIN), ("more.conf", MORE)];
        let done = edit(&files, |o| o.with("new", Some("one"), "")).unwrap();
        let wanted = "\nrepo new\n    RW+ = @dev   # all\n    option x = y\n    R = eve\n";
        assert_eq!(texts(&done)["conf/gitmesh.conf"], format!("{MAIN}{wanted}"));
        let done = edit(&[("gitmesh.conf", "repo a\n RW = b")], |o| o.with("new", None, "RW+ = alice")).unwrap();
        assert_eq!(texts(&done)["conf/gitmesh.conf"], "repo a\n RW = b\n\nrepo new\n    RW+ = alice\n");
        assert_eq!(edit(&files, |o| o.with("new", Some("docs/a"), "")).unwrap_err().places[0].line, 3);
        assert!(edit(&files, |o| o.with("new", Some("nothing"), "")).is_err());
    }

    #[test]
    fn what_is_not_understood_is_left_to_a_person() {
        let on = |name: &str| Settings { enable: [name.to_owned()].into(), ..Settings::default() };
        let of = |text: &str, settings: &Settings, repo: &str| {
            let sources = sources(&[("gitmesh.conf", text), ("in.conf", " RW = bob\n")]);
            Outline::read(&sources, settings).without(repo).is_ok()
        };
        let plain = Settings::default();
        assert!(of("repo a\n RW = bob\n", &plain, "a"));
        assert!(!of("repo a\n RW = bob\n nonsense here\n", &plain, "a"));
        assert!(!of("repo a\n R = eve\ninclude \"in.conf\"\n", &plain, "a"), "it goes on in another file");
        assert!(!of("repo a\n RW = bob \\\n carol\n", &on("continuation-lines"), "a"));
        assert!(of("repo a\n RW = bob\nrepo b\n R = bob \\\n carol\n", &on("continuation-lines"), "a"));
        assert!(!of("macro m\nrepo %1\n RW = bob\nend\nm a\n", &on("macros"), "a"));
        // A block at the end that is never closed swallows what is added.
        let open = sources(&[("gitmesh.conf", "repo a\n RW = bob\n=begin testconf\n")]);
        assert!(Outline::read(&open, &plain).with("b", None, "RW = bob").is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_broken(text in "(repo|R|RW|=|@g|a|b|c| |\n|#|-|option x|\"|\\\\){0,60}") {
            let sources = sources(&[("gitmesh.conf", &text)]);
            let settings = Settings::recommended();
            let outline = Outline::read(&sources, &settings);
            for edit in [outline.without("a"), outline.renamed("a", "z"), outline.with("z", Some("a"), "")].into_iter().flatten() {
                let mut after = sources.clone();
                after.files.extend(edit.files.iter().map(|(path, text)| (below(path).to_owned(), text.clone())));
                let again = Outline::read(&after, &settings);
                proptest::prop_assert_eq!(&again.groups.len(), &outline.groups.len());
            }
        }
    }
}

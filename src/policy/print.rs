//! Statements back to text, for the round trip that `parse` must survive. Test code and no command: a formatter for
//! users would have to keep their comments and columns, which are not in a statement.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::lexer::{Line, Origin, Word, clean};
use super::parser::{Config, OPTION_PREFIX, Spelling, Statement, parse};
use super::rules::Perm;
use super::{Policy, Settings, Sources, compile};

fn line(text: &str) -> Line {
    let origin = Origin { file: 0, line: 1, start: 0, end: text.len() };
    Line { text: clean(text.as_bytes()), origin, subconf: 0, segment: 0 }
}

fn perm(perm: Perm) -> String {
    match perm {
        Perm::Deny => "-".to_owned(),
        Perm::CreateRepo => "C".to_owned(),
        Perm::Read => "R".to_owned(),
        Perm::Write { force, create, delete, merge } => {
            let letters = [(force, '+'), (create, 'C'), (delete, 'D'), (merge, 'M')];
            "RW".chars().chain(letters.into_iter().filter(|(has, _)| *has).map(|(_, letter)| letter)).collect()
        }
    }
}

fn words(words: &[Word<'_>]) -> String {
    words.iter().flat_map(|word| [" ", word.text]).collect()
}

/// One canonical line; none for what is no statement.
fn print(statement: &Statement<'_>) -> Option<String> {
    Some(match statement {
        Statement::Group { name, members } => format!("{} ={}", name.text, words(members)),
        Statement::Repo(items) => format!("repo{}", words(items)),
        Statement::Rule { perm: p, refexes, users } => format!("{}{} ={}", perm(*p), words(refexes), words(users)),
        Statement::Config(Config { spelling, key, value_word, .. }) => match spelling {
            Spelling::Config => format!("config {key} = {}", value_word.text),
            Spelling::Option => format!("option {} = {}", &key[OPTION_PREFIX.len()..], value_word.text),
            Spelling::Gitweb if key == "gitweb.description" => format!("desc = {}", value_word.text),
            Spelling::Gitweb => format!("{} = {}", &key["gitweb.".len()..], value_word.text),
        },
        Statement::Subconf | Statement::Ignored => return None,
    })
}

/// What a statement says, whatever its words' places.
fn meaning(statement: &Statement<'_>) -> String {
    let texts = |words: &[Word<'_>]| words.iter().map(|word| word.text.to_owned()).collect::<Vec<_>>();
    match statement {
        Statement::Group { name, members } => format!("{:?}", (name.text, texts(members))),
        Statement::Repo(items) => format!("{:?}", texts(items)),
        Statement::Rule { perm, refexes, users } => format!("{:?}", (perm, texts(refexes), texts(users))),
        Statement::Config(Config { spelling, key, value, .. }) => format!("{:?}", (spelling, key, value)),
        Statement::Subconf | Statement::Ignored => String::new(),
    }
}

/// Everything that a policy decides by, without the places of its lines.
fn tables(policy: &Policy) -> BTreeSet<String> {
    let name = |id: &u32| policy.names.text(*id).to_string();
    let mut all: BTreeSet<String> = BTreeSet::new();
    for ((item, user), ids) in &policy.rules_of {
        let rules = ids.iter().map(|id| {
            let rule = &policy.rules[*id as usize];
            (id, perm(rule.perm), policy.refexes[rule.refex as usize].text.to_string())
        });
        all.insert(format!("{} {} {:?}", name(item), name(user), rules.collect::<Vec<_>>()));
    }
    for (item, ids) in &policy.configs_of {
        let values = ids.iter().map(|id| (id, &policy.configs[*id as usize].key, &policy.configs[*id as usize].value));
        all.insert(format!("{} {:?}", name(item), values.collect::<Vec<_>>()));
    }
    for group in policy.groups.names() {
        all.insert(format!("{group} {:?}", policy.members(group)));
    }
    all.extend(policy.repos().map(ToString::to_string));
    all
}

fn compiled(text: &str) -> super::Compiled {
    let files = [("gitmesh.conf".to_owned(), text.as_bytes().to_vec())].into();
    let settings = Settings { config_keys: vec![".*".to_owned()], ..Settings::default() };
    compile(&Sources { main: "gitmesh.conf".to_owned(), files }, &settings)
}

fn word() -> impl Strategy<Value = String> {
    let some = [
        "@g",
        "@all",
        "u1",
        "u2",
        "foo",
        "pub/CREATOR/..*",
        "master$",
        "refs/tags/v[0-9]",
        "NAME/doc/",
        "dev/USER/",
        "READERS",
        "a=b",
        "\"x  y\"",
        "'q'",
        "#c",
        "\"#\"",
        "x|y",
    ];
    prop::sample::select(some.to_vec()).prop_map(str::to_owned)
}

/// A line that mostly is a statement, with blanks anywhere.
fn dressed() -> impl Strategy<Value = String> {
    let heads = [
        "repo",
        "@g =",
        "@h =",
        "RW+",
        "RW",
        "R",
        "-",
        "C",
        "RWCD",
        "RW+DCM",
        "config a.b =",
        "config",
        "option x =",
        "option deny-rules = 1",
        "option mirror.slaves =",
        "desc =",
        "owner =",
        "category",
        "rw",
        "subconf",
        "end",
    ];
    let head = prop::sample::select(heads.to_vec());
    let parts = (head, prop::collection::vec(word(), 0..4), any::<bool>(), prop::collection::vec(word(), 0..3));
    (parts, "[ \t]{1,2}").prop_map(|((head, left, equals, right), blank)| {
        let middle = if equals { vec!["=".to_owned()] } else { Vec::new() };
        [vec![head.to_owned()], left, middle, right].concat().join(&blank)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// What was printed says the same, and printing it again changes nothing.
    #[test]
    fn a_statement_survives_the_round_trip(text in dressed()) {
        let first = line(&text);
        let statement = parse(&first);
        if let Some(printed) = print(&statement) {
            let second = line(&printed);
            // Cleaning twice can cut more: gitolite's search for a comment takes longer strings when short ones fail.
            prop_assume!(second.text == printed);
            let again = parse(&second);
            prop_assert_eq!(meaning(&statement), meaning(&again), "{:?} was printed as {:?}", text, printed);
            prop_assert_eq!(Some(printed), print(&again));
        }
    }

    /// A whole text and the statements printed from it make the same tables.
    #[test]
    fn a_configuration_survives_the_round_trip(lines in prop::collection::vec(dressed(), 1..25)) {
        let text = format!("@g = u1\nrepo foo\nRW+ = u1\n{}\n", lines.join("\n"));
        let found = compiled(&text);
        let printed: String = text.lines().filter_map(|text| Some(print(&parse(&line(text)))? + "\n")).collect();
        let again = compiled(&printed);
        let errors = |c: &super::Compiled| c.diagnostics.iter().filter(|d| d.is_error()).map(|d| d.class).collect::<Vec<_>>();
        // What only `include` and `subconf` understand is left out by the printer; for the other see above.
        prop_assume!(!text.contains("subconf") && printed.lines().all(|text| line(text).text == text));
        prop_assert_eq!(errors(&found), errors(&again), "{}\n--\n{}", &text, &printed);
        prop_assert_eq!(found.policy.as_ref().map(tables), again.policy.as_ref().map(tables), "{}\n--\n{}", text, printed);
    }
}

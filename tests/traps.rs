//! The traps of gitolite's language, one row for each of the table in `spec/access-language.md`, section 16: what is done
//! about it, by its number. Rows whose trap is no matter of the rules alone name the test that holds it.

use std::collections::BTreeMap;

use gitmesh::model::RepoName;
use gitmesh::policy::{Compiled, Facts, Op, Settings, Sources, Target, compile};

const ADMIN: &str = "repo gitmesh-admin\n RW+ = root\n";

/// A check of one row; what it needs is in the arguments.
enum Row {
    /// The configuration is refused with this class.
    Rejected(&'static str, &'static str),
    /// The configuration stands, with a remark of this class (`""`: with none), and its answers are these:
    /// repository, user, operation, reference, allowed.
    Answers(&'static str, &'static str, &'static [(&'static str, &'static str, Op, &'static str, bool)]),
    /// An option's value, `""` if it is not set.
    Option(&'static str, &'static str, &'static str),
    /// The test of this name, in this file.
    Test(&'static str, &'static str),
}
use Row::{Answers, Option as Value, Rejected, Test};

const MAIN: &str = "refs/heads/main";
const TABLE: &[(u32, Row)] = &[
    (1, Test(include_str!("bad_conf.rs"), "names_and_groups")),
    (2, Test(include_str!("admin.rs"), "the_branch_and_the_file_of_gitolite_come_alive")),
    (3, Rejected("repo foo[\n RW = u\n", "bad-regex")),
    (3, Rejected("repo r\n RW b( = u\n", "bad-regex")),
    (
        4,
        Answers(
            "repo r\n RW main|dev = u\n",
            "pattern-alternation",
            &[("r", "u", Op::Write, "refs/tags/mydev", true), ("r", "u", Op::Write, "refs/tags/x", false)],
        ),
    ),
    (
        4,
        Answers(
            "repo a/x|y\n RW = u\n",
            "pattern-alternation",
            &[("a/xyz", "u", Op::Write, MAIN, true), ("b/x", "u", Op::Write, MAIN, false)],
        ),
    ),
    (
        5,
        Answers(
            "repo r\n RW ^main = u\n",
            "refex-never-matches",
            &[("r", "u", Op::Write, MAIN, false), ("r", "u", Op::Write, "any", true)],
        ),
    ),
    (
        6,
        Answers(
            "repo r, s\n RW = u\n",
            "repo-comma",
            &[("r", "u", Op::Write, MAIN, false), ("s", "u", Op::Write, MAIN, true)],
        ),
    ),
    (7, Answers("repo r\n - = u\n R = @all\n", "deny-does-not-hide", &[("r", "u", Op::Read, "any", true)])),
    (
        8,
        Answers(
            "repo r\n - main = u\n RW = u\n option deny-rules = 1\n",
            "deny-refuses-everything",
            &[("r", "u", Op::Read, "any", false), ("r", "u", Op::Write, "any", false)],
        ),
    ),
    (9, Answers("@g = @all\nrepo r\n RW = @g\n", "group-member-meaningless", &[("r", "u", Op::Read, "any", false)])),
    (9, Answers("@g = READERS\nrepo r\n RW = @g\n", "group-member-meaningless", &[("r", "u", Op::Read, "any", false)])),
    (
        10,
        Answers(
            "@in = u\n@out = @in\n@in = v\nrepo r\n RW = @out\n",
            "",
            &[("r", "u", Op::Write, MAIN, true), ("r", "v", Op::Write, MAIN, false)],
        ),
    ),
    (
        11,
        Answers(
            "repo pub/CREATOR/..*\n C = @all\n",
            "",
            &[
                ("pub/u/x", "u", Op::CreateRepo, "any", true),
                ("pub/pub/x", "pub", Op::CreateRepo, "any", false),
                ("pub/axb/x", "a.b", Op::CreateRepo, "any", false),
                ("pub/c+d/x", "c+d", Op::CreateRepo, "any", true),
            ],
        ),
    ),
    (
        12,
        Answers(
            "repo r\n RW dev/USER/ = @all\n",
            "",
            &[
                ("r", "a.b", Op::Write, "refs/heads/dev/axb/x", false),
                ("r", "c+d", Op::Write, "refs/heads/dev/c+d/x", true),
            ],
        ),
    ),
    (13, Value("repo r\n RW = u\n option deny-rules = 0\n", "deny-rules", "")),
    (14, Rejected("repo r\n option ENV.A = \"x = y\"\n", "config-key-blank")),
    (15, Value("repo r\n RW = u\n option x = \"a    b\"\n", "x", "a b")),
    (16, Answers("repo r\n RW = u\n desc = tools (old) & <new>; all\n", "", &[])),
    (17, Answers("repo r\n RW = u\n desc = tools\n owner = u\n category = c\n", "", &[])),
    (18, Rejected("include \"a.conf\" \"b.conf\"\n", "bad-include-argument")),
    (19, Rejected("include \"/etc/x.conf\"\n", "include-outside")),
    (19, Rejected("include \"~/x.conf\"\n", "include-outside")),
    (20, Answers("repo r\ninclude \"rule.conf\"\n", "", &[("r", "v", Op::Write, MAIN, true)])),
    (20, Answers("repo r\n R = u\nsubconf \"rule.conf\"\n", "", &[("r", "v", Op::Write, MAIN, false)])),
    (20, Answers("repo s\n R = u\nsubconf \"part.conf\"\n RW = w\n", "", &[("s", "w", Op::Write, MAIN, false)])),
    (21, Test(include_str!("../src/policy/tests.rs"), "a_delegated_part_stays_in_its_part")),
    (22, Answers("", "no-current-repo", &[])),
    (23, Test(include_str!("vref.rs"), "changed_paths")),
    (24, Test(include_str!("../src/admin/activate.rs"), "git_config_is_written_and_taken_back")),
    (25, Test(include_str!("bad_keys.rs"), "keys_that_are_none")),
    (26, Test(include_str!("../src/policy/keyring.rs"), "several_keys_and_double_ones")),
    (
        27,
        Answers(
            "repo @all\n RWC = w\nrepo r\n RW = u\n",
            "create-delete-for-all",
            &[("r", "u", Op::Create, MAIN, false), ("r", "w", Op::Create, MAIN, true)],
        ),
    ),
    (28, Test(include_str!("../src/admin/shown.rs"), "what_the_rules_show")),
    (29, Test(include_str!("../src/admin/realm.rs"), "a_node_gets_nothing_for_being_one")),
    (30, Test(include_str!("outage.rs"), "a_replica_that_was_down_catches_up")),
    (31, Test(include_str!("options.rs"), "for_all_repositories_the_admin_repository_among_them")),
    (32, Test(include_str!("wild.rs"), "the_setting_says_what_makes_a_repository")),
    (33, Test(include_str!("bad_conf.rs"), "the_last_administrator_stays")),
    (34, Answers("repo r\n R dev = u\n", "r-with-ref", &[("r", "u", Op::Read, "any", true)])),
    (35, Rejected("repo r\n RW (a|b)-\\1 = u\n", "unsupported-regex")),
];

fn compiled(text: &str) -> Compiled {
    // A statement above the first repo line must be the first of all.
    let main = if text.is_empty() { format!("RW = u\n{ADMIN}") } else { format!("{ADMIN}{text}") };
    let files = [("main.conf", main.as_str()), ("rule.conf", " RW = v\n"), ("part.conf", "repo part\n RW = v\n")];
    let files: BTreeMap<_, _> = files.map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec())).into();
    compile(&Sources { main: "main.conf".to_owned(), files }, &Settings::recommended())
}

#[test]
fn every_trap_is_met() {
    for (number, row) in TABLE {
        match row {
            Test(file, name) => assert!(file.contains(&format!("fn {name}() {{")), "trap {number}: no test {name}"),
            Rejected(text, class) => {
                let made = compiled(text);
                assert!(made.policy.is_none(), "trap {number}: {text:?} is taken");
                let found = made.diagnostics.iter().any(|d| d.class == *class && d.is_error());
                assert!(found, "trap {number}: {:#?}", made.diagnostics);
            }
            Answers(text, class, questions) => {
                let made = compiled(text);
                let classes: Vec<_> = made.diagnostics.iter().map(|d| d.class).collect();
                let said = if class.is_empty() { classes.is_empty() } else { classes.contains(class) };
                // A part that names what is not its own is told so.
                assert!(said || text.contains("subconf"), "trap {number}: {text:?} says {classes:?}");
                let policy = made.policy.unwrap_or_else(|| panic!("trap {number}: {classes:?}"));
                for (repo, user, op, on, allowed) in *questions {
                    let name = RepoName::new(repo).unwrap();
                    let facts = if *op == Op::CreateRepo { Facts::missing(&name) } else { Facts::existing(&name) };
                    let target = if *on == "any" { Target::Any } else { Target::Ref(on) };
                    let decision = policy.decide(&facts, user, *op, target);
                    assert_eq!(decision.allowed, *allowed, "trap {number}: {repo} {user} {op} {on}: {decision:?}");
                }
            }
            Value(text, name, value) => {
                let policy = compiled(text).policy.unwrap();
                let got = policy.option(&Facts::existing(&RepoName::new("r").unwrap()), name);
                assert_eq!(got.unwrap_or_default(), *value, "trap {number}");
            }
        }
    }
    let numbers: std::collections::BTreeSet<u32> = TABLE.iter().map(|(number, _)| *number).collect();
    assert!(numbers.into_iter().eq(1..=35), "a trap without a row");
    // Trap 11: nobody can make a repository with the literal word in its name.
    assert!(RepoName::new("pub/CREATOR/x").is_err());
}

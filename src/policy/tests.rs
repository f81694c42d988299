//! The room as a whole: each remark with its place, the traps, and what no text may do to it.

use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::model::RepoName;

fn sources(text: &str) -> Sources {
    Sources { main: "gitmesh.conf".to_owned(), files: [("gitmesh.conf".to_owned(), text.into())].into() }
}

fn compiled(text: &str) -> Compiled {
    compile(&sources(text), &Settings::default())
}

fn policy(text: &str) -> Policy {
    let made = compiled(text);
    made.policy.unwrap_or_else(|| panic!("{:#?}", made.diagnostics))
}

fn decide(policy: &Policy, repo: &str, user: &str, op: Op, refname: &str) -> Decision {
    let repo = RepoName::new(repo).unwrap();
    policy.decide(&Facts::existing(&repo), user, op, Target::Ref(refname))
}

const ADMIN: &str = "repo gitmesh-admin\n    RW+ = boss\n";

/// One line per remark: code, class, line and the text under the caret.
#[test]
fn every_remark_points_at_its_word() {
    for (text, class, pointed) in [
        ("repo a\n RW = b, c\n", "bad-user", "b,"),
        ("repo _a\n RW = b\n", "bad-repo-name", "_a"),
        ("repo a\n RW (?!x) = b\n", "bad-ref", "(?!x)"),
        ("@_g = a\n", "bad-group-name", "@_g"),
        ("@g = a  &b\n", "bad-group-member", "&b"),
        ("repo a\n config  hooks.x=1\n", "config-key-not-allowed", "hooks.x"),
        ("repo a\n option  x = a;b\n", "bad-config-value", "a;b"),
        ("include  more.conf\n", "bad-include-argument", "more.conf"),
        ("include \"a.conf\" \"b.conf\"\n", "bad-include-argument", "\"a.conf\" \"b.conf\""),
        ("include \"/etc/x.conf\"\n", "include-outside", "include \"/etc/x.conf\""),
        ("include \"../x.conf\"\n", "include-outside", "include \"../x.conf\""),
        ("subconf all \"x.conf\"\n", "bad-subconf-name", "subconf all \"x.conf\""),
        ("@g = @nosuch\n", "undefined-group", "@nosuch"),
        ("repo a\n RW @nosuch = b\n", "undefined-group", "@nosuch"),
        ("repo x[a\n RW = b\n", "bad-regex", "x[a"),
        ("repo a\n RW b( = b\n", "bad-regex", "b("),
        ("repo a\n RW (a|b)-\\1 = b\n", "unsupported-regex", "(a|b)-\\1"),
        ("repo a/../b\n RW = b\n", "repo-dotdot", "a/../b"),
        ("repo a.git/b\n RW = b\n", "repo-contains-dotgit", "a.git/b"),
        ("repo a\n option ENV.A = \"x = y\"\n", "config-key-blank", "option ENV.A = \"x = y\""),
        ("repo a\n rw   =  b\n", "line-ignored", "rw   =  b"),
        ("repo a\n R  master = b\n", "r-with-ref", "master"),
        ("repo a\n RW =  @late\n", "undeclared-group", "@late"),
        ("repo a.git\n RW = b\n", "git-suffix", "a.git"),
        ("repo a\ninclude \"no.conf\"\n RW = b\n", "include-missing", "include \"no.conf\""),
        ("repo a\ninclude \"gitmesh.conf\"\n", "include-again", "include \"gitmesh.conf\""),
        ("repo a\n RW x|y = b\n", "pattern-alternation", "x|y"),
        ("repo a/x|y\n RW = b\n", "pattern-alternation", "a/x|y"),
        ("repo a\n RW ^x = b\n", "refex-never-matches", "^x"),
        ("repo a, b\n RW = b\n", "repo-comma", "a,"),
        ("repo a\n  -   = b\n R = @all\n", "deny-does-not-hide", "-   = b"),
        ("repo a\n - master = b\n option deny-rules = 1\n", "deny-refuses-everything", "- master = b"),
        ("@g = x  @all\n", "group-member-meaningless", "@all"),
        ("@g = READERS\n", "group-member-meaningless", "READERS"),
        ("@all = a\n", "all-redefined", "@all"),
        ("@READERS = a\n", "role-redefined", "@READERS"),
        ("RW = a\n", "no-current-repo", "RW = a"),
        ("repo @all\n RWC = a\n", "create-delete-for-all", "RWC = a"),
        ("repo a\n=begin testconf\nx\n", "block-unclosed", "=begin testconf"),
        ("repo a\n RW = b\n option mirror.mastr = x\n", "option-misspelt", "mirror.mastr"),
        ("repo a\n RW = b\n option umask = 0027\n", "option-idle", "umask"),
        ("repo x/.+\n RW = b\n", "repo-plus", "x/.+"),
        ("repo x/\n RW = b\n", "repo-ends-slash", "x/"),
        ("repo x//y\n RW = b\n", "repo-not-made", "x//y"),
    ] {
        // The part under test comes first or last, so that no block of it reaches the other one.
        let whole = if text.starts_with("RW") { format!("{text}{ADMIN}") } else { format!("{ADMIN}{text}") };
        let made = compiled(&whole);
        let found = made.diagnostics.iter().find(|d| d.class == class);
        let Some(found) = found else { panic!("{text:?}: no {class} in {:#?}", made.diagnostics) };
        let span = found.span.clone().unwrap();
        assert_eq!(&whole[span.clone()], pointed, "{text:?}");
        assert_eq!(found.line as usize, whole[..span.start].matches('\n').count() + 1, "{text:?}");
        assert_eq!(made.policy.is_none(), made.diagnostics.iter().any(Diagnostic::is_error), "{text:?}");
    }
}

#[test]
fn remarks_without_a_word() {
    let class = |s: &Sources| compile(s, &Settings::default()).diagnostics.remove(0).class;
    assert_eq!(class(&sources("")), "no-rules");
    assert_eq!(class(&sources("@g = a\n")), "no-rules");
    assert_eq!(class(&sources("RW+ = a\n")), "no-current-repo");
    assert_eq!(class(&Sources { main: "gitmesh.conf".into(), ..Sources::default() }), "file-missing");
    let made = compiled(&format!("\u{feff}{ADMIN}"));
    assert_eq!(made.diagnostics[0].class, "byte-order-mark");
    assert_eq!(made.policy.unwrap().repos().map(RepoName::as_str).collect::<Vec<_>>(), ["gitmesh-admin"]);
}

#[test]
fn a_refused_configuration_reads_like_a_compiler() {
    let text = "@devs = alice bob\nrepo gitmesh-admin\n\tRW+     =   boss\n\nrepo docs\n    RW  @dev   =   alice, bob\n    rw = alice\n";
    let made = compiled(text);
    insta::assert_snapshot!(render(&made.diagnostics, &|_| Some(text.to_owned()), 20));
}

#[test]
fn decisions_name_their_line() {
    let policy =
        policy(&format!("{ADMIN}@devs = alice bob\nrepo docs\n    -   main$  = bob # not bob\n    RW+=@devs\n"));
    let denied = decide(&policy, "docs", "bob", Op::Write, "refs/heads/main");
    assert!(!denied.allowed);
    assert_eq!(denied.refex, "refs/heads/main$");
    assert_eq!(denied.place.unwrap().to_string(), "conf/gitmesh.conf:5");
    assert_eq!(denied.rule.unwrap(), "- main$ = bob");
    assert_eq!(decide(&policy, "docs", "bob", Op::Force, "refs/heads/x").rule.unwrap(), "RW+ = @devs");
    assert_eq!(decide(&policy, "docs", "eve", Op::Read, "refs/heads/x").refex, "fallthru");
    let docs = RepoName::new("docs").unwrap();
    let (_, steps) = policy.explain(&Facts::existing(&docs), "bob", Op::Write, Target::Any);
    assert_eq!(steps.iter().map(|s| s.outcome).collect::<Vec<_>>(), [Outcome::DenySkipped, Outcome::Allowed]);
}

#[test]
fn mirroring_has_three_spellings() {
    let host = HostName::new("server2").unwrap();
    let name = RepoName::new("testing").unwrap();
    for lines in [
        "option mirror.master = server1\n option mirror.copies = server2",
        "option mirror.master = server1\n option mirror.slaves = server2",
        "config gitolite.mirror.master = \"server1\"\n config gitolite.mirror.slaves = \"server2\"",
        "config gitmesh.mirror.master = server1\n config gitmesh.mirror.slaves = server2",
    ] {
        let text = format!("{ADMIN}repo @all\n {lines}\nrepo testing\n RW = alice\n");
        let policy = compile(&sources(&text), &Settings::recommended()).policy.unwrap();
        let mirror = policy.mirror(&Facts::existing(&name), &host);
        let master = HostName::new("server1").unwrap();
        assert_eq!(mirror.mode, Mode::Copy { master }, "{lines}");
        assert_eq!(mirror.copies.into_iter().collect::<Vec<_>>(), [("server2".to_owned(), How::Async)]);
    }
}

#[test]
fn gitolite_2_has_lists_of_its_own() {
    let lines = "config gitolite.mirror.master = \"s1\"\n config gitolite.mirror.slaves = \"s2\"\n \
         config gitolite.mirror.nightly = \"s2 s3 gitolite.mirror.x\"\n config gitolite.mirror.redirectOK = \"true\"";
    let text = format!("{ADMIN}repo testing\n RW = alice\n {lines}\n");
    let policy = compile(&sources(&text), &Settings::recommended()).policy.unwrap();
    let testing = RepoName::new("testing").unwrap();
    let mirror = policy.mirror(&Facts::existing(&testing), &HostName::new("s3").unwrap());
    let list = |key: &str| policy.mirror_list(&Facts::existing(&testing), key).map(|names| names.join(" "));
    for key in ["nightly", "gitolite.mirror.nightly"] {
        assert_eq!(list(key).as_deref(), Some("s2 s3 gitolite.mirror.x"));
    }
    assert_eq!((list("gitolite.mirror.slaves").as_deref(), list("s2")), (Some("s2"), None));
    assert_eq!(mirror.mode, Mode::Copy { master: HostName::new("s1").unwrap() });
    let copies: Vec<_> = mirror.copies.iter().map(|(name, how)| (name.as_str(), *how)).collect();
    assert_eq!(copies, [("s2", How::Async), ("s3", How::NoSyncQuiet)]);
}

#[test]
fn a_delegated_part_stays_in_its_part() {
    let part = |text: &str| {
        let mut given = sources(&format!("{ADMIN}@part = green\nrepo red\n RW = una\nsubconf \"part.conf\"\n"));
        given.files.insert("part.conf".to_owned(), text.into());
        compile(&given, &Settings::default())
    };
    for text in ["option hook.post-receive = x", "option mirror.master = x", "config gitolite.mirror.master = x"] {
        assert!(part(&format!("repo green\n RW = yan\n {text}\n")).policy.is_none(), "{text}");
    }
    for text in ["subconf x\n", "subconf master\n", "subconf \"y.conf\"\n", "subconf master \"y.conf\"\n"] {
        assert!(part(text).policy.is_none(), "{text}");
    }
    let open_block = part("repo green\n RW = yan\n=begin testconf\n");
    assert!(open_block.diagnostics.iter().any(|d| d.class == "block-unclosed"));
    let policy = part(" RW+ = yan\nrepo red @all green\n RW = yan\n").policy.unwrap();
    assert!(!decide(&policy, "red", "yan", Op::Read, "refs/heads/x").allowed);
    assert!(decide(&policy, "green", "yan", Op::Write, "refs/heads/x").allowed);
}

#[test]
fn names_can_be_text_instead_of_patterns() {
    let text = format!("{ADMIN}repo docs\n RW+ dev/USER/ = a.b c++\n");
    let gitolite = policy(&text);
    let quoting = compile(&sources(&text), &Settings::recommended()).policy.unwrap();
    assert!(decide(&gitolite, "docs", "a.b", Op::Write, "refs/heads/dev/axb/x").allowed);
    assert!(!decide(&quoting, "docs", "a.b", Op::Write, "refs/heads/dev/axb/x").allowed);
    assert!(decide(&quoting, "docs", "a.b", Op::Write, "refs/heads/dev/a.b/x").allowed);
    assert!(decide(&quoting, "docs", "c++", Op::Write, "refs/heads/dev/c++/x").allowed);
}

/// Fifty rules, a hundred thousand others around them: a decision costs the same. Generous limits, since this also
/// runs without optimisation on busy machines; the real figures are the benches'.
#[test]
fn deciding_does_not_depend_on_the_size() {
    let mut text = ADMIN.to_owned();
    for n in 0..20_000 {
        text.push_str(&format!("repo r{n}\n RW{} = u{n} @g{}\n", if n % 2 == 0 { " dev/" } else { "+" }, n % 100));
    }
    text.push_str("repo big\n");
    for n in 0..50 {
        text.push_str(&format!(" RW branch-{n}-[a-z]+$ = alice\n"));
    }
    let started = Instant::now();
    let policy = policy(&text);
    let compiled_in = started.elapsed();
    let big = RepoName::new("big").unwrap();
    let started = Instant::now();
    let rounds = 1000;
    for _ in 0..rounds {
        let facts = Facts::existing(&big);
        let decision = policy.decide(&facts, "alice", Op::Write, Target::Ref("refs/heads/branch-49-x"));
        assert!(decision.allowed);
    }
    let each = started.elapsed() / rounds;
    println!("compile {compiled_in:?}, decide {each:?}");
    assert!(each.as_micros() < 500, "{each:?}");
}

#[test]
fn hostile_text_is_bounded() {
    let started = Instant::now();
    let mut deep = Sources { main: "0.conf".to_owned(), ..Sources::default() };
    for n in 0..10_000 {
        let text = format!("include \"{}.conf\"\n{}", n + 1, if n == 0 { ADMIN } else { "" });
        deep.files.insert(format!("{n}.conf"), text.into());
    }
    assert!(compile(&deep, &Settings::default()).policy.is_some());
    let nested: String = (1..10_000).map(|n| format!("@g{n} = @g{} u{n}\n", n - 1)).collect();
    let _ = compiled(&format!("@g0 = u\n{}{ADMIN}", &nested[..100_000]));
    let rubbish = "=".repeat(100_000) + &"\"#".repeat(100_000) + "\n" + &"x\n".repeat(50_000);
    assert!(compiled(&rubbish).diagnostics.len() <= 2100);
    let parens = format!("repo a{}\n RW = b\n", "(".repeat(3000));
    assert!(compiled(&parens).policy.is_none());
    let users: Vec<String> = (0..6000).map(|n| format!("u{n}")).collect();
    let repos = users.join(" ");
    let product = format!("repo {repos}\n RW = {repos}\n");
    assert!(compiled(&product).diagnostics.iter().any(|d| d.class == "too-large"));
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}

/// Words that reach into every corner of the grammar.
fn word() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "repo",
        "@g",
        "@all",
        "=",
        " = ",
        "\n",
        "\n",
        "RW+",
        "RW",
        "-",
        "C",
        "R",
        "config",
        "option",
        "include",
        "subconf",
        "\"p.conf\"",
        "\"*.conf\"",
        "#",
        "\"",
        "'",
        "\\",
        "a",
        "b/CREATOR/..*",
        "master$",
        "refs/tags/",
        "x|y",
        "NAME/x",
        "dev/USER/",
        "READERS",
        "deny-rules",
        "1",
        "=begin testconf",
        "=end",
        "macro m",
        "end",
        "%1",
        "m",
        "mirror.master",
        "{a,b}",
        "[a-",
        "(",
        ")",
        "*+",
        "\r",
        "\t",
        "é",
        "\u{feff}",
        "%HOSTNAME",
        "desc",
        "=begin template-data",
        "@x = @x",
        "..",
        ".git",
    ]);
    prop_oneof![4 => known.prop_map(str::to_owned), 1 => ".{0,6}"]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_it_panic(
        main in prop::collection::vec(word(), 0..80),
        part in prop::collection::vec(word(), 0..30),
        tail in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let mut given = sources(&main.join(" "));
        let mut bytes = part.join(" ").into_bytes();
        bytes.extend(tail);
        given.files.insert("p.conf".to_owned(), bytes.clone());
        let enable = ["continuation-lines", "macros", "keysubdirs-as-groups", "refex-expr"];
        let settings = Settings {
            enable: enable.map(str::to_owned).into(),
            key_files: vec!["g/a@b.pub".to_owned()],
            host: HostName::new("h").ok(),
            ..Settings::default()
        };
        let made = compile(&given, &settings);
        for d in &made.diagnostics {
            let file = given.files.get(d.file.strip_prefix("conf/").unwrap_or_default());
            if let (Some(file), Some(span)) = (file, &d.span) {
                prop_assert!(span.start <= span.end && span.end <= file.len());
            }
        }
        let text = |path: &str| {
            let bytes = given.files.get(path.strip_prefix("conf/")?)?;
            Some(String::from_utf8_lossy(bytes).into_owned())
        };
        let shown = render(&made.diagnostics, &text, 10);
        prop_assert!(shown.is_ascii());
        if let Some(policy) = made.policy {
            for name in ["a", "b/u/x", "b/CREATOR/x", "x"] {
                let facts = Facts { name, exists: true, creator: Some("u"), roles: Some("READERS @all") };
                policy.decide(&facts, "u", Op::Write, Target::Ref("refs/heads/master"));
                policy.config(&facts);
            }
            policy.pattern_rights("u");
        }
        let _ = Keyring::compile(&[KeyFile { path: "keydir/a.pub", text: &bytes }]);
    }

    /// A rule further down never changes what a rule above decided.
    #[test]
    fn later_rules_do_not_reach_up(
        rules in prop::collection::vec(("(-|R|RW|RW\\+|RWC|RWD)", "(|a|b\\$|refs/tags/|[ab]+)", "(u|v|@all|@g)"), 1..8),
        extra in ("(-|R|RW|RW\\+)", "(|a|b\\$)", "(u|v|@all)"),
        refname in "refs/(heads|tags)/[ab]{1,3}",
    ) {
        let line = |(perm, refex, user): &(String, String, String)| format!(" {perm} {refex} = {user}\n");
        let above: String = rules.iter().map(line).collect();
        let text = format!("@g = u\n{ADMIN}repo docs\n option CREATE_IS_C = 0\n{above}");
        let (before, after) = (policy(&text), policy(&format!("{text}{}", line(&extra))));
        for op in [Op::Read, Op::Write, Op::Force] {
            let first = decide(&before, "docs", "u", op, &refname);
            if first.place.is_some() {
                prop_assert_eq!(&first, &decide(&after, "docs", "u", op, &refname));
            }
        }
        let nobody = decide(&before, "docs", "never-seen", Op::Write, &refname);
        prop_assert_eq!(nobody, decide(&before, "docs", "nor-this", Op::Write, &refname));
    }
}

#[test]
fn the_settings_say_what_a_value_may_hold() {
    let safe_config = [("LT", "<"), ("LTE", "<=")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let text = format!("{ADMIN}repo a\n RW = b\n option x = (%LT %LTE)\n");
    let settings = Settings { unsafe_values: "<;".to_owned(), safe_config, ..Settings::default() };
    let made = compile(&sources(&text), &settings);
    let policy = made.policy.unwrap_or_else(|| panic!("{:#?}", made.diagnostics));
    let repo = RepoName::new("a").unwrap();
    assert_eq!(policy.option(&Facts::existing(&repo), "x").as_deref(), Some("(< <=)"), "the longest name first");
    let refused = compile(&sources(&text.replace("%LT ", "< ")), &settings);
    assert!(refused.policy.is_none());
    assert_eq!(refused.diagnostics[0].help.as_deref(), Some("none of < ; may stand in a value"));
    assert!(compiled(&text).policy.is_none(), "gitolite's own set has parentheses");
}

/// gitolite 3.6.12's answers to the same questions.
/// The names are those of the specification, section 7.3.
#[test]
fn an_option_of_gitolite_is_acted_upon_or_told() {
    let acted = "deny-rules mirror.master mirror.copies mirror.copies-1 mirror.copies.sync mirror.copies.nosync-2 \
        mirror.redirectOK mirror.slaves bypass-creator-check hook.post-receive hook.pre-receive.01 ENV.NAME \
        default.roles-1 writer-is-owner CREATE_IS_C DELETE_IS_D MERGE_CHECK";
    let idle = "umask user-configs user-options upstream.url upstream.nice reference.repo reference.repo-1 bundle \
        bundle.ttl gitweb daemon ENV.EDM_DISABLE ENV.EDM_EXTRA_INFO refex-expr.x map-anonhttp allow-host \
        mirror.extcopy mirror.hostnames";
    let classes = |name: &str, value: &str| -> Vec<_> {
        let text = format!("repo gitolite-admin\n RW+ = root\nrepo a\n RW = b\n option {name} = {value}\n");
        compile(&sources(&text), &Settings::default()).diagnostics.into_iter().map(|found| found.class).collect()
    };
    for name in acted.split_whitespace() {
        assert!(!classes(name, "1").contains(&"option-idle"), "{name}");
    }
    for name in idle.split_whitespace() {
        assert_eq!(classes(name, "x"), ["option-idle"], "{name}");
        assert!(classes(name, "0").is_empty(), "{name}, taken away");
    }
}

#[test]
fn what_continues_a_line_is_no_border_of_a_block() {
    let mut settings = Settings::default();
    settings.enable.insert("continuation-lines".to_owned());
    let of = |text: &str| compile(&sources(&format!("repo gitolite-admin\n RW+ = root\nrepo a\n{text}")), &settings);
    assert!(of(" RW = una \\\n=begin testconf\n R = vic\n=end\n").policy.is_none(), "the refex '='");
    let policy = of("=begin testconf\n foo \\\n=end\n R = vic\n=end\n RW = wim\n").policy.unwrap();
    let a = RepoName::new("a").unwrap();
    let may = |user: &str| policy.decide(&Facts::existing(&a), user, Op::Read, Target::Any).allowed;
    assert_eq!((may("vic"), may("wim")), (false, true));
}

#[test]
fn the_keys_that_a_server_allows_are_gitolites_expressions() {
    for (pattern, yes, no) in [
        ("hooks\\..*", "Hooks.X", "xhooks.x"),
        ("foo|bar", "foo.a", "bar.b"),
        ("a|foo.b|c", "xfoo.b", "foo.a"),
        ("(foo|bar)\\..*", "bar.b", "xfoo.b"),
        ("foo", "foo", "foo.a"),
    ] {
        assert!(key_matches(pattern, yes), "{pattern} {yes}");
        assert!(!key_matches(pattern, no), "{pattern} {no}");
    }
}

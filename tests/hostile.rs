//! Configurations that are meant to hurt: each is answered or refused, in time that grows with its length alone and
//! in bounded memory, and the node that is given one goes on serving.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gitmesh::policy::{Compiled, Settings, Sources, compare, compile};

use crate::bad_conf::refused;
use crate::world::World;

const ADMIN: &str = "repo gitmesh-admin\n RW+ = alice\n";
/// Each text below takes a second or two in a debug build; what is quadratic takes hours.
const LONG: Duration = Duration::from_secs(120);

fn settings() -> Settings {
    let mut settings = Settings::recommended();
    settings.enable.extend(["continuation-lines", "macros"].map(str::to_owned));
    settings.config_keys = vec!["gitweb\\..*".to_owned(), "foo\\..*".to_owned()];
    settings.host = gitmesh::model::HostName::new("server1").ok();
    settings
}

fn compiled(files: &[(&str, String)]) -> Compiled {
    let files = files.iter().map(|(name, text)| ((*name).to_owned(), text.clone().into_bytes())).collect();
    compile(&Sources { main: "gitmesh.conf".to_owned(), files }, &settings())
}

/// Compiles one text; the class of its first error, or `good`.
#[track_caller]
fn answer(what: &str, files: &[(&str, String)]) -> &'static str {
    let begun = Instant::now();
    let compiled = compiled(files);
    assert!(begun.elapsed() < LONG, "{what} took {:?}", begun.elapsed());
    assert!(compiled.diagnostics.len() <= 2100, "{what}: {} remarks", compiled.diagnostics.len());
    compiled.diagnostics.iter().find(|d| d.is_error()).map_or("good", |d| d.class)
}

fn many(n: usize, line: impl Fn(usize) -> String) -> String {
    (0..n).map(|i| line(i) + "\n").collect()
}

#[test]
fn what_was_quadratic_is_linear() {
    let conf = |text: String| [("gitmesh.conf", format!("{ADMIN}{text}"))];
    let check = |what: &str, text: String, want: &str| assert_eq!(answer(what, &conf(text)), want, "{what}");

    let denies = many(20_000, |i| format!("@g{i} = u")) + "repo x\n" + &many(20_000, |i| format!("- b{i}/ = u"));
    check("deny rules of a user in many groups", denies, "good");
    check("one pattern in many groups", many(50_000, |i| format!("@g{i} = a.*b")), "good");
    check("misspelt groups", many(20_000, |i| format!("@g{i} = u @nosuch{i}")), "undefined-group");
    check("bad words in one line", format!("repo x\nRW = {}", "a! ".repeat(300_000)), "bad-user");
    check(
        "bad names in one line",
        format!("repo {}\nRW = u\n", "a..b".to_owned() + &" c..d".repeat(300_000)),
        "repo-dotdot",
    );
    check("%HOSTNAME in one line", format!("@g = {}", "%HOSTNAME ".repeat(200_000)), "good");
    check("continued lines", format!("repo x\n{}RW = u", "y \\\n".repeat(300_000)), "good");
    check("a deny-rules switch", "repo x\nRW = u\n".to_owned() + &"option deny-rules = 0\n".repeat(50_000), "good");
    check("config keys", "repo x\nRW = u\n".to_owned() + &many(50_000, |i| format!("config foo.k{i} = v")), "good");
    check("quotes and hashes", "\"#".repeat(1_000_000), "good");
    let copies = many(20_000, |i| format!("@g{i} = @g{} u{i}", i.max(1) - 1)).replacen("@g0 = @g0 u0", "@g0 = u0", 1);
    check("groups in groups", copies, "too-large");
    check(
        "a chain of groups",
        many(10_000, |i| if i == 0 { "@g0 = u".into() } else { format!("@g{i} = @g{}", i - 1) }),
        "good",
    );
    check("a group in itself", "@g = @g u\n".to_owned() + &"@h = u @h\n".repeat(1000), "undefined-group");
}

#[test]
fn what_would_fill_the_memory_is_refused() {
    let conf = |text: String| [("gitmesh.conf", format!("{ADMIN}{text}"))];
    let check = |what: &str, text: String| assert_eq!(answer(what, &conf(text)), "too-large", "{what}");
    check("a line of 5 MB", "x".repeat(5 << 20));
    check("a text of 65 MB", "# comment\n".repeat(6_900_000));
    check("more lines than two millions", "x\n".repeat(2_100_000));
    check("large patterns", "repo x\n".to_owned() + &many(600, |i| format!("RW a{i}.{{9000}} = u")));
    check(
        "macros",
        format!("macro m {}\nend\n{}", "%1 ".repeat(10_000), format!("m {}\n", "x".repeat(2000)).repeat(10)),
    );
    let users: String = many(6000, |i| format!("u{i}")).replace('\n', " ");
    check("a product", format!("repo {users}\nRW = {users}"));
    check(
        "shapes of names",
        many(20_000, |i| format!("repo a{i}\nR = u")) + &many(20_000, |i| format!("repo [a-z]+x{i}\nR = u")),
    );
    let roles = format!("repo {users} = base\n{}", "READERS = u\n".repeat(2000));
    check("templates", format!("repo x\nR = u\n=begin template-data\n{roles}=end\n"));
}

#[test]
fn includes_without_end() {
    let mut files = BTreeMap::new();
    for i in 0..10_000 {
        let text = format!("include \"f{}.conf\"\n{}", i + 1, if i == 0 { ADMIN } else { "" });
        files.insert(if i == 0 { "gitmesh.conf".to_owned() } else { format!("f{i}.conf") }, text.into_bytes());
    }
    let deep = compile(&Sources { main: "gitmesh.conf".to_owned(), files }, &settings());
    assert!(deep.policy.is_some(), "10,000 files, each included by the one before");
    let ring =
        [("gitmesh.conf", format!("{ADMIN}include \"a.conf\"\n")), ("a.conf", "include \"gitmesh.conf\"\n".to_owned())];
    assert_eq!(answer("a ring", &ring), "good");
    assert!(compiled(&ring).diagnostics.iter().any(|d| d.class == "include-again"));
    let mut files: BTreeMap<String, Vec<u8>> = (0..5000).map(|i| (format!("p/{i}.conf"), Vec::new())).collect();
    files.insert("gitmesh.conf".to_owned(), (ADMIN.to_owned() + &"include \"p/*.conf\"\n".repeat(5000)).into_bytes());
    let begun = Instant::now();
    let wide = compile(&Sources { main: "gitmesh.conf".to_owned(), files }, &settings());
    assert!(wide.diagnostics.iter().any(|d| d.class == "too-large") && begun.elapsed() < LONG, "{:?}", begun.elapsed());
}

#[test]
fn the_plan_of_a_wide_change_is_cut() {
    let users: String = many(3000, |i| format!("u{i}")).replace('\n', " ");
    let one = |perm: &str, group: &str| {
        let groups = many(3000, |i| format!("@{group}{i} = u{i} u{}", (i + 1) % 3000));
        let rules = many(3000, |i| format!("repo r{i}\n{perm} = @{group}{i}\nrepo all\n{perm} b{i} = u{i}"));
        compiled(&[("gitmesh.conf", format!("{ADMIN}{groups}repo all\n{perm} = {users}\n{rules}"))]).policy.unwrap()
    };
    let (old, new) = (one("R", "g"), one("RW+", "h"));
    let begun = Instant::now();
    let found = compare(&old, &new, 1000);
    assert!(found.cut && begun.elapsed() < LONG, "{:?}", begun.elapsed());
    assert!(!compare(&old, &old, 1000).cut);
}

/// The most memory that `gitmesh check` of a folder took, in KiB (proc(5), VmHWM), and its output.
fn checked(dir: &Path) -> (u64, Option<i32>, String) {
    let out = fs::File::create(dir.join("out")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_gitmesh"));
    let mut child = command.args(["check", "."]).current_dir(dir).stdout(out).stderr(Stdio::null()).spawn().unwrap();
    let (mut most, begun) = (0, Instant::now());
    let status = loop {
        let text = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        most = peak.unwrap_or(0).max(most);
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(begun.elapsed() < LONG, "still at work: {}", dir.display());
        std::thread::yield_now();
    };
    (most, status.code(), fs::read_to_string(dir.join("out")).unwrap())
}

fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let key: &[u8] = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC2/C2kQn1vF1erSHaH+Vz3+t2j06lMn4YMSCXCEgC5M alice\n";
    for (path, text) in [("keydir/alice.pub", key)].iter().chain(files) {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

#[test]
fn check_is_bounded_in_memory() {
    let mut random = Vec::with_capacity(2 << 20);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    while random.len() < 2 << 20 {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        random.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    let hundred = vec![b'x'; 100 << 20];
    let lines = ADMIN.to_owned() + &many(200_000, |i| format!("@g{} = u{i}", i % 1000));
    let nuls = [ADMIN.as_bytes(), b"repo a\0b\n RW = alice\n"].concat();
    let cases: [(&str, &[u8], &str, u64); 5] = [
        ("random bytes", &random, "refused", 200 << 10),
        ("100 MB in one line", &hundred, "E0301", 100 << 10),
        ("200,000 lines", lines.as_bytes(), "good", 400 << 10),
        ("NUL bytes", &nuls, "E0102", 100 << 10),
        (
            "another script",
            "repo gitmesh-admin\n RW+ = alice\nrepo книга\n R = アリス\n".as_bytes(),
            "E0102",
            100 << 10,
        ),
    ];
    for (what, text, words, most) in cases {
        let dir = folder(&[("conf/gitmesh.conf", text)]);
        let (peak, code, out) = checked(dir.path());
        assert_eq!(code, Some(i32::from(words != "good")), "{what}: {out}");
        assert!(out.contains(words) && out.len() < 100_000, "{what}: {out}");
        assert!(peak < most, "{what}: {peak} KiB");
    }
}

#[test]
fn what_stands_where_a_file_should_be() {
    let dir = folder(&[("conf/gitmesh.conf/x", b"")]);
    let (_, code, out) = checked(dir.path());
    assert!(code == Some(1) && out.contains("E0303"), "a directory for a file: {out}");
    let dir = folder(&[("conf", b"repo x\n")]);
    let (_, code, out) = checked(dir.path());
    assert!(code == Some(1) && out.contains("E0303"), "a file for a directory: {out}");
    let dir = folder(&[("conf/gitmesh.conf", ADMIN.as_bytes())]);
    std::os::unix::fs::symlink("/etc", dir.path().join("keydir/etc")).unwrap();
    let (_, code, out) = checked(dir.path());
    assert!(code == Some(1) && out.contains("E0301") && out.contains("keydir/etc"), "a link: {out}");
}

/// While it compiles half a minute's worth of rules, a node serves everybody else; and it refuses what git can hold
/// and a configuration cannot.
#[test]
fn a_node_goes_on_serving() {
    let world = World::new();
    let node = world.node("server1");
    let heavy = {
        let mut text = many(20_000, |i| format!("repo r{}\n RW+ = u{i} u{}\n R = @all", i % 100, i + 1));
        write!(text, "repo x\n{}", many(10_000, |i| format!(" RW dev/[a-z]+{i} = u{i}"))).unwrap();
        text
    };
    let alice = world.alice().clone();
    std::thread::scope(|scope| {
        let push = scope.spawn(|| alice.configure(&node, |c| c.conf(&heavy)).succeeds());
        let mut slowest = Duration::ZERO;
        while !push.is_finished() {
            let begun = Instant::now();
            world.alice().ssh(&node, "whoami").succeeds();
            slowest = slowest.max(begun.elapsed());
        }
        assert!(slowest < Duration::from_secs(20), "a session waited {slowest:?}");
    });
    // A submodule where conf/ should be, made without git's own checks.
    let told = refused(&world, &node, |c| {
        c.remove("conf/gitmesh.conf");
        c.submodule("conf");
    });
    assert!(told.contains("E0301") || told.contains("E0303"), "{told}");
    let told = refused(&world, &node, |c| c.submodule("conf/more"));
    assert!(told.contains("E0301") && told.contains("conf/more"), "{told}");
    let told = refused(&world, &node, |c| c.file("conf/gitmesh.conf", vec![b'x'; 70 << 20]));
    assert!(told.contains("E0301") && told.len() < 2000, "{told}");
}

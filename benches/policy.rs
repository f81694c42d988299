//! What the access language costs: compiling at growing sizes, one decision, one push of many references.
//!
//! The goals (a release build, one core): 5,000 repositories and 1,000 keys in 0.5 s, 100,000 and 50,000 in 10 s and
//! 300 MB; a decision among 50 rules in 10 us, whatever the size of the configuration; 10,000 references in 50 ms.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group};
use gitmesh::model::RepoName;
use gitmesh::policy::{Compiled, Facts, KeyFile, Keyring, Op, Policy, Settings, Sources, Target, compare, compile};

/// Repositories in blocks of ten with four rules, users in groups of twenty.
fn text(repos: usize, users: usize) -> String {
    let mut text = String::from("repo gitmesh-admin\n    RW+ = u0\n");
    for group in 0..users.div_ceil(20) {
        let members: String = (group * 20..((group + 1) * 20).min(users)).map(|n| format!(" u{n}")).collect();
        text.push_str(&format!("@g{group} ={members}\n"));
    }
    let groups = users.div_ceil(20).max(1);
    for block in 0..repos.div_ceil(10) {
        let names: String = (block * 10..((block + 1) * 10).min(repos)).map(|n| format!(" team{block}/r{n}")).collect();
        text.push_str(&format!(
            "repo{names}\n    -   refs/tags/ = u{}\n    RW+ = u{} @g{}\n    RW dev/ = @g{}\n    R = @all\n",
            block % users,
            (block + 1) % users,
            block % groups,
            (block + 7) % groups,
        ));
    }
    text.push_str("repo busy\n");
    for rule in 0..49 {
        text.push_str(&format!("    RW+ branch{rule}/ = @all\n"));
    }
    text.push_str("    RW = @all\n");
    text
}

fn sources(text: &str) -> Sources {
    Sources { main: "gitmesh.conf".to_owned(), files: [("gitmesh.conf".to_owned(), text.into())].into() }
}

/// ed25519 keys in OpenSSH's form that differ in their bytes; whether they are points on the curve is not asked.
fn keys(users: usize) -> Vec<(String, Vec<u8>)> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let key = |n: usize| {
        let mut blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20".to_vec();
        blob.extend((n as u64).to_be_bytes().repeat(4));
        let digits = blob.chunks(3).map(|c| {
            let bits = u32::from(c[0]) << 16 | u32::from(c[1]) << 8 | u32::from(c[2]);
            (0..4).map(|d| char::from(DIGITS[(bits >> (18 - 6 * d) & 63) as usize])).collect::<String>()
        });
        format!("ssh-ed25519 {}\n", digits.collect::<String>()).into_bytes()
    };
    (0..users).map(|n| (format!("keydir/u{n}.pub"), key(n))).collect()
}

fn compiled(sources: &Sources) -> Policy {
    let Compiled { policy, diagnostics } = compile(sources, &Settings::recommended());
    policy.unwrap_or_else(|| panic!("{:#?}", diagnostics.first()))
}

fn compiling(c: &mut Criterion) {
    let mut group = c.benchmark_group("compile");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    for (repos, users) in [(5_000, 1_000), (20_000, 5_000)] {
        let (sources, files) = (sources(&text(repos, users)), keys(users));
        let files: Vec<_> = files.iter().map(|(path, text)| KeyFile { path, text }).collect();
        assert_eq!(Keyring::compile(&files).0.len(), users);
        group.bench_function(BenchmarkId::from_parameter(format!("{repos} repos, {users} keys")), |b| {
            b.iter(|| (black_box(compiled(&sources)), black_box(Keyring::compile(&files))));
        });
    }
    group.finish();
}

/// What this process holds in memory, in bytes: the second field of /proc/self/statm, in pages of 4 KiB.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// The largest size is compiled three times and no more, since criterion would take minutes; what the process has
/// grown by afterwards also counts what the allocator keeps back, so the policy itself is smaller than that.
fn at_scale(_: &mut Criterion) {
    let (repos, users) = (100_000, 50_000);
    let (sources, files) = (sources(&text(repos, users)), keys(users));
    let files: Vec<_> = files.iter().map(|(path, text)| KeyFile { path, text }).collect();
    let before = resident();
    let mut best = Duration::MAX;
    let mut made = None;
    for _ in 0..3 {
        drop(made.take());
        let began = Instant::now();
        made = Some((compiled(&sources), Keyring::compile(&files)));
        best = best.min(began.elapsed());
    }
    let grown = resident().saturating_sub(before) >> 20;
    println!(
        "compile/{repos} repos, {users} keys   best of 3: {:.2} s, resident memory +{grown} MiB",
        best.as_secs_f64()
    );
    drop(made);
}

fn deciding(c: &mut Criterion) {
    let name = RepoName::new("busy").expect("a name");
    let facts = Facts::existing(&name);
    for (repos, users) in [(100, 50), (50_000, 10_000)] {
        let policy = compiled(&sources(&text(repos, users)));
        c.bench_function(&format!("decide, 50 rules, {repos} repos"), |b| {
            b.iter(|| policy.decide(&facts, black_box("u7"), Op::Write, Target::Ref("refs/heads/main")));
        });
    }
    // Each rule names another user, so that a user's own ones are as few as ever; then all of them are the same user's.
    for (what, last) in [("others' rules", "u7"), ("rules", "u9")] {
        let rules: String = (0..10_000)
            .map(|n| {
                format!("    RW branch-{n}/ = {}\n", if what == "rules" { last.to_owned() } else { format!("x{n}") })
            })
            .collect();
        let text = format!("{}repo many\n{rules}    RW+ = u7 u9\n", text(100, 50));
        let (policy, many) = (compiled(&sources(&text)), RepoName::new("many").expect("a name"));
        c.bench_function(&format!("decide, 10,000 {what}"), |b| {
            let facts = Facts::existing(&many);
            b.iter(|| policy.decide(&facts, black_box(last), Op::Write, Target::Ref("refs/heads/main")));
        });
    }
    let policy = compiled(&sources(&text(5_000, 1_000)));
    let refs: Vec<String> = (0..10_000).map(|n| format!("refs/heads/topic-{n}")).collect();
    c.bench_function("walk, 50 rules, 10,000 refs", |b| {
        b.iter(|| {
            let walk = policy.walk(&facts, "u7");
            refs.iter().filter(|name| walk.decide(Op::Write, Target::Ref(name)).allowed).count()
        });
    });
}

fn planning(c: &mut Criterion) {
    let old = text(5_000, 1_000);
    let new = old.replace("    RW dev/ = @g3\n", "    RW = @g3\n");
    let (old, new) = (compiled(&sources(&old)), compiled(&sources(&new)));
    c.bench_function("plan, one rule of 5,000 repos changed", |b| b.iter(|| compare(&old, &new, 10_000)));
}

criterion_group!(benches, compiling, deciding, planning, at_scale);

fn main() {
    benches();
    Criterion::default().configure_from_args().final_summary();
}

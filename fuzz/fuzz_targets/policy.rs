//! Any bytes as a configuration: it never panics, and what compiles can be asked anything.
#![no_main]

use gitmesh::policy::{Facts, Op, Settings, Sources, Target, compile, render};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // A second file, so that includes have something to find.
    let (main, more) = data.split_at(data.iter().position(|b| *b == 0).unwrap_or(data.len()));
    let files = [("gitmesh.conf".to_owned(), main.to_vec()), ("a.conf".to_owned(), more.to_vec())].into();
    let compiled = compile(&Sources { main: "gitmesh.conf".to_owned(), files }, &Settings::recommended());
    render(&compiled.diagnostics, &|_| Some(String::from_utf8_lossy(main).into_owned()), 20);
    let Some(policy) = compiled.policy else { return };
    for name in ["a", "pub/a/x"] {
        for exists in [true, false] {
            let facts = Facts { name, exists, creator: Some("a"), roles: Some("WRITERS a @b") };
            for op in [Op::Read, Op::Force, Op::CreateRepo] {
                policy.explain(&facts, "a", op, Target::Ref("refs/heads/a"));
            }
        }
    }
});

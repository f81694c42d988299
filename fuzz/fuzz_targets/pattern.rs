//! A word as a refex and as a repository pattern: translating it never panics, and what is accepted matches in time.
#![no_main]

use gitmesh::policy::{Facts, Op, Settings, Sources, Target, compile};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let end = data.iter().position(|b| b" \t\r\n\x0b\x0c#\"=".contains(b)).unwrap_or(data.len());
    let (word, text) = data.split_at(end);
    let (Ok(word), Ok(text)) = (std::str::from_utf8(word), std::str::from_utf8(text)) else { return };
    let conf = format!("repo x{word} x{word}-2\n RW+ x{word} {word} dev/USER/{word} = @all\n C = u\n@g = x{word}\nrepo @g\n R = v\n");
    let sources = Sources { main: "gitmesh.conf".into(), files: [("gitmesh.conf".into(), conf.into_bytes())].into() };
    let Some(policy) = compile(&sources, &Settings::default()).policy else { return };
    let name: String = text.chars().filter(char::is_ascii_alphanumeric).take(4000).collect();
    let (name, refname) = (format!("x{name}"), format!("refs/heads/x{name}"));
    for user in ["u", "v", "a.b+c"] {
        for exists in [true, false] {
            let facts = Facts { name: &name, exists, creator: None, roles: None };
            policy.decide(&facts, user, Op::Force, Target::Ref(&refname));
        }
    }
});

//! Any bytes as a configuration: it never panics, and what compiles can be asked anything. A NUL divides files
//! (`a.conf`, `b.conf`, … for includes to find); the first byte switches sugar on.
#![no_main]

use gitmesh::policy::{Facts, Op, Settings, Sources, Target, compare, compile, render};
use libfuzzer_sys::fuzz_target;

const SUGAR: [&str; 3] = ["continuation-lines", "macros", "keysubdirs-as-groups"];

fuzz_target!(|data: &[u8]| {
    let Some((&switches, text)) = data.split_first() else { return };
    let mut settings = Settings::recommended();
    settings.enable.extend((0..).zip(SUGAR).filter(|(bit, _)| switches >> bit & 1 == 1).map(|(_, s)| s.to_owned()));
    settings.config_keys = vec!["gitweb\\..*".to_owned()];
    settings.key_files = vec!["dev/alice.pub".to_owned()];
    settings.host = (switches & 8 != 0).then(|| gitmesh::model::HostName::new("server1").expect("a good name"));
    let names = ["gitmesh.conf", "a.conf", "b.conf", "c.conf"];
    let parts = text.splitn(names.len(), |b| *b == 0);
    let files = names.into_iter().zip(parts).map(|(name, text)| (name.to_owned(), text.to_vec())).collect();
    let sources = Sources { main: "gitmesh.conf".to_owned(), files };
    let compiled = compile(&sources, &settings);
    let text = |path: &str| {
        let bytes = sources.files.get(path.strip_prefix("conf/")?)?;
        Some(String::from_utf8_lossy(bytes).into_owned())
    };
    render(&compiled.diagnostics, &text, 20);
    let Some(policy) = compiled.policy else { return };
    compare(&policy, &policy, 100);
    policy.people();
    policy.unread();
    let named = policy.repos().next().map(|repo| repo.as_str().to_owned());
    for name in ["a", "pub/a/x"].into_iter().chain(named.as_deref()) {
        for exists in [true, false] {
            let facts = Facts { name, exists, creator: Some("a"), roles: Some("WRITERS a @b\nREADERS = @all") };
            for (op, target) in [
                (Op::Read, Target::Any),
                (Op::Force, Target::Ref("refs/heads/a")),
                (Op::WriteMerge, Target::Path(b"doc/\xff")),
                (Op::CreateRepo, Target::Any),
            ] {
                let (decision, steps) = policy.explain(&facts, "a", op, target);
                assert_eq!(decision, policy.decide(&facts, "a", op, target));
                assert!(decision.place.is_none() || !steps.is_empty(), "what decided was tried");
            }
        }
    }
});

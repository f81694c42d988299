//! Any bytes as the command line of an SSH exec request: it never panics, never names a path outside, and a word that
//! was written by ourselves is read back.
#![no_main]

use gitmesh::git::service::{Exec, from_word, parse_exec, to_word};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        assert_eq!(from_word(&to_word(text)).as_deref(), Some(text));
        from_word(text);
    }
    match parse_exec(data) {
        Ok(Exec::Git(service, Ok(repo))) => {
            assert!(!repo.as_str().contains("..") && !repo.as_str().starts_with('/'));
            let again = format!("{service} '{repo}'");
            assert_eq!(parse_exec(again.as_bytes()), Ok(Exec::Git(service, Ok(repo))));
        }
        Ok(Exec::Git(_, Err(bad))) => assert!(!bad.to_string().is_empty()),
        Ok(Exec::Command(words)) => assert!(words.iter().all(|word| !word.chars().any(char::is_control))),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});

//! Any bytes as the files of a keydir: the first line names a file, the rest is in it, and the same again under
//! another name. It never panics, and every key that is taken is found by its own bytes.
#![no_main]

use gitmesh::policy::{KeyFile, Keyring, parse_public_key, render};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (name, text) = data.split_at(data.iter().position(|b| *b == b'\n').unwrap_or(0));
    let name = format!("keydir/{}.pub", String::from_utf8_lossy(name));
    let files = [KeyFile { path: &name, text }, KeyFile { path: "keydir/bob@home.pub", text }];
    let (ring, remarks) = Keyring::compile(&files);
    render(&remarks, &|_| Some(String::from_utf8_lossy(text).into_owned()), 20);
    for user in ring.users() {
        assert!(!user.as_str().is_empty());
    }
    if let Some(key) = std::str::from_utf8(text).ok().and_then(|text| parse_public_key(text).ok()) {
        assert!(ring.owner(&key.blob).is_some() || remarks.iter().any(|remark| remark.is_error()));
    }
});

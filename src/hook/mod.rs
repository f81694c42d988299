//! The question git asks during a push, and the door-knock that carries it.
//!
//! `client` runs inside git's hook processes and knows only the standard library, `wire` and `model`; it refuses
//! whenever it cannot reach a verdict. `wire` is what travels over the local socket, versioned, for hooks and for
//! commands typed on the machine alike. Never: a decision here, or an identity read from the environment.

pub mod client;
pub mod wire;

/// The hooks' scripts, by git's names; the daemon fills in the words in capitals.
pub const SCRIPTS: [(&str, &str); 2] = [
    ("proc-receive", include_str!("../../hooks/proc-receive")),
    ("post-receive", include_str!("../../hooks/post-receive")),
];

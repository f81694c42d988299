//! Parses arguments, dispatches, prints one error, returns an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    // git starts hooks during every push: past this line nothing is set up that they do not need.
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|w| w == "hook")
        && let Some(name) = words.next().and_then(|w| w.into_string().ok())
    {
        return gitmesh::hook::client::run(&name);
    }
    match gitmesh::cli::run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            match error.downcast_ref::<gitmesh::cli::Refusal>() {
                Some(refusal) => ExitCode::from(refusal.code),
                None => ExitCode::FAILURE,
            }
        }
    }
}

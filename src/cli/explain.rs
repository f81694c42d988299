//! `gitmesh explain CODE`: the long story behind the code at the end of a message.

use std::process::ExitCode;

use super::{Refusal, exit};
use crate::control;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// As in a message: E0203. Without one, all codes are listed
    code: Option<String>,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let words: Vec<&str> = args.code.iter().map(String::as_str).collect();
    let reply = control::explain(&words);
    if reply.code != 0 {
        let text = reply.err.trim_end().trim_start_matches("FATAL: ").replace("\n  help: '", "\nhelp: 'gitmesh ");
        return Err(Refusal::new(exit::NOT_FOUND, text).into());
    }
    print!("{}", reply.out);
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use crate::control::{self, stories};

    /// Quoted codes in the sources below `dir`.
    fn codes(dir: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                codes(&path, found);
                continue;
            }
            if path.extension().is_none_or(|end| end != "rs") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let word =
                |w: &&str| w.len() == 5 && w.starts_with(['E', 'W']) && w[1..].bytes().all(|b| b.is_ascii_digit());
            found.extend(text.split(|c: char| !c.is_ascii_alphanumeric()).filter(word).map(str::to_owned));
        }
    }

    #[test]
    fn every_code_has_its_story() {
        let mut used = BTreeSet::new();
        codes(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut used);
        // What a remark of an unknown class would get; a test holds that there is none.
        used.remove("E0000");
        let told: Vec<String> = stories().map(|(title, _)| title.split(' ').next().unwrap().to_owned()).collect();
        assert!(told.is_sorted(), "in order, each once");
        // One that is no longer used keeps its story: codes are never given twice, and old messages are kept.
        let missing: Vec<_> = used.difference(&told.into_iter().collect()).cloned().collect();
        assert!(missing.is_empty(), "no story in src/cli/explain.md for {missing:?}");
        for (title, text) in stories() {
            assert!(title.len() > 10 && text.len() > 30, "{title}: {text}");
            assert!(title.is_ascii() && text.is_ascii(), "{title}");
        }
    }

    #[test]
    fn a_code_is_found_as_it_is_written() {
        assert!(control::explain(&["[e0203]"]).out.starts_with("E0203 one reference of a push is refused\n\n"));
        assert_eq!(control::explain(&["E020"]).code, 4);
    }
}

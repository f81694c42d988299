//! `explain CODE`: the long story behind the code at the end of a message, for whoever has nothing but git and ssh.

use super::Reply;

/// `## CODE title`, then the text; every code there is, in order. It stands where the command of the machine is.
const STORIES: &str = include_str!("../cli/explain.md");

/// One story, or the titles of all.
pub fn explain(words: &[&str]) -> Reply {
    let code = match *words {
        [] => return Reply::done(stories().map(|(title, _)| format!("{title}\n")).collect()),
        [code] => code,
        _ => return super::help::wrong(&["explain"]),
    };
    let wanted = code.trim_matches(['[', ']']).to_ascii_uppercase();
    match stories().find(|(title, _)| title.split(' ').next() == Some(&wanted)) {
        Some((title, text)) => Reply::done(format!("{title}\n\n{text}\n")),
        None => {
            let code: String = code.chars().filter(char::is_ascii_graphic).take(64).collect();
            Reply::fail(4, format!("FATAL: there is no code '{code}'\n  help: 'explain' without a code lists them"))
        }
    }
}

/// Each story's title (`E0203 one reference ...`) and text.
pub fn stories() -> impl Iterator<Item = (&'static str, &'static str)> {
    STORIES.split("## ").skip(1).map(|story| {
        let (title, text) = story.split_once('\n').unwrap_or((story, ""));
        (title, text.trim_end())
    })
}

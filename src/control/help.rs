//! What each command is for, how it is spelled, and what it answers: one table for every door.

use super::Reply;

/// One command.
struct Topic {
    /// Its words, and the rest of its grammar.
    usage: &'static str,
    what: &'static str,
    /// The long story, in whole lines; may be empty.
    more: &'static str,
}

const fn topic(usage: &'static str, what: &'static str, more: &'static str) -> Topic {
    Topic { usage, what, more }
}

const TOPICS: &[Topic] = &[
    topic("create REPO", "make a repository where a C stands in 'info'; a clone or push does so too", ""),
    topic("help [COMMAND]", "this list, or the story of one command", ""),
    topic("info [-lc] [-ld] [-p] [PATTERN]", "who you are here, and your repositories with your rights", INFO),
    topic("access REPO USER [PERM [REF]] [--explain] [--json]", "may they, and which rule says so", ""),
    topic("perms REPO -l | -lr | + ROLE USER | - ROLE USER", "the roles that you give in a repository you made", ""),
    topic("peer list | show NODE | ping [NODE]", "the other nodes, and whether both directions work", PEER),
    topic("whoami", "the user, key and node of this connection", ""),
    topic("mirror status [REPO|PATTERN] [--json] [--watch]", "where the copies stand", ""),
    topic("mirror push [PEER] REPO", "bring copies up to date now", ""),
];

const INFO: &str = "\
  -lc      show who made each repository
  -ld      show each repository's description
  -p       leave out the patterns of repositories that you may make
  PATTERN  an unanchored regular expression on the names

A repository whose master is another node has one more column: whose copy it is and how fresh. Only the master can say
that a copy is in step, so a copy of a master that has not been heard lately is marked so.
";

const PEER: &str = "\
For administrators. 'ping' greets a node and has it greet back, with the nodes' own keys; without a name, every node.
Nodes are invited, joined, added and removed on the machine itself: 'gitmesh peer help'.
";

/// The words that name a command: those before its first argument.
fn words(usage: &str) -> impl Iterator<Item = &str> {
    usage.split(' ').take_while(|word| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'))
}

fn told(topic: &Topic) -> String {
    let Topic { usage, what, more } = topic;
    let gap = if more.is_empty() { "" } else { "\n" };
    format!("usage: {usage}\n\n{what}\n{gap}{more}")
}

/// The commands with what each is for, in gitolite's shape.
pub(super) fn list() -> String {
    let mut out = "\nlist of remote commands available:\n\n".to_owned();
    for Topic { usage, what, .. } in TOPICS {
        out.push_str(&format!("\t{usage:<52} {what}\n"));
    }
    out.push_str("\n'help COMMAND' or 'COMMAND -h' tells more.\n");
    out
}

/// The story of the command that these words begin or name: of one, or of all whose first word it is.
pub fn usage(about: &[&str]) -> Option<String> {
    let begins = |topic: &&Topic| {
        let mut named = words(topic.usage);
        !about.is_empty() && about.iter().all(|word| named.next() == Some(word))
    };
    // Arguments may follow the command's own words.
    let names = |topic: &&Topic| {
        let named: Vec<&str> = words(topic.usage).collect();
        about.starts_with(&named)
    };
    let mut found: Vec<&Topic> = TOPICS.iter().filter(begins).collect();
    if found.is_empty() {
        found = TOPICS.iter().filter(names).collect();
    }
    match found[..] {
        [] => None,
        [one] => Some(told(one)),
        ref many => {
            let width = many.iter().map(|t| t.usage.len()).max().unwrap_or(0);
            let lines = many.iter().map(|t| format!("  {:width$}  {}\n", t.usage, t.what));
            Some(format!("usage:\n{}\n'help COMMAND' tells more of one.\n", lines.collect::<String>()))
        }
    }
}

pub(super) fn about(words: &[&str]) -> Reply {
    match usage(words) {
        Some(text) => Reply::done(text),
        None => Reply::fail(4, format!("there is no command '{}'; 'help' lists them", words.join(" "))),
    }
}

/// What a command that was given wrong words is told.
pub(super) fn wrong(about: &[&str]) -> Reply {
    Reply { out: String::new(), err: usage(about).unwrap_or_default(), code: 2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_command_or_all_of_a_noun() {
        let push = usage(&["mirror", "push"]).expect("a command");
        assert!(push.starts_with("usage: mirror push [PEER] REPO\n"), "{push}");
        assert_eq!(usage(&["mirror", "push", "server2", "testing"]), Some(push), "its arguments may be there already");
        let all = usage(&["mirror"]).expect("a noun");
        assert!(all.contains("mirror status") && all.contains("mirror push"), "{all}");
        assert_eq!((usage(&["frobnicate"]), usage(&[])), (None, None));
        for topic in TOPICS {
            let named: Vec<&str> = words(topic.usage).collect();
            assert!(usage(&named).is_some_and(|u| u.contains(topic.usage)), "{}", topic.usage);
        }
    }
}

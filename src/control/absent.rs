//! Commands that people know from gitolite and that are spelt otherwise here, or are none: what to use instead.

/// Each word with what to say; commands of ours stand in single quotes.
const INSTEAD: &[(&str, &str)] = &[
    // For users.
    ("config", "'git-config REPO KEY' shows it; it is set by 'config KEY = VALUE' below the repo line of the rules"),
    ("option", "'repo show REPO' tells them to administrators; they are lines of the rules: option KEY = VALUE"),
    ("newbranch", "git push origin OLD:NEW makes the branch, and sends nothing that is here already"),
    ("sskm", "'keys' lists, adds and removes your own keys"),
    ("ukm", "'keys' lists, adds and removes your own keys"),
    ("htpasswd", "there are no passwords here; every way in takes an SSH key"),
    ("rsync", "nothing but git is served here; clone or fetch with git"),
    ("svnserve", "nothing but git is served here"),
    ("git-annex-shell", "git-annex is not served here; it can keep a repository of its own over another server"),
    // gitolite 2's names.
    ("expand", "'info PATTERN' tells what you may use"),
    ("getperms", "'perms REPO -l' shows the roles"),
    ("setperms", "'perms REPO' takes the lines"),
    ("getdesc", "'desc REPO' shows it"),
    ("setdesc", "'desc REPO TEXT' sets it"),
    // For the server's shell.
    ("list-users", "'user list' names them"),
    ("list-groups", "'group list' names them"),
    ("list-members", "'group show @GROUP' tells them"),
    ("list-memberships", "'user show USER' tells the groups of somebody, 'repo show REPO' what reaches a repository"),
    ("list-repos", "'repo list' names them"),
    ("list-phy-repos", "'repo list' names them"),
    ("list-dangling-repos", "'repo list' names them all, those that no rule names too"),
    ("sshkeys-lint", "'user lint' looks at users and keys"),
    ("query-rc", "the settings are in gitmesh.toml of the data directory"),
    ("print-default-rc", "the settings are in gitmesh.toml of the data directory"),
    ("compile", "a push to gitmesh-admin compiles the rules; gitmesh check does it anywhere, and changes nothing"),
    ("setup", "gitmesh init makes a node, and it looks after its repositories by itself"),
    ("trigger", "hooks of repositories are named by 'option hook.*' lines of the rules"),
    ("rename-repo", "'repo rename OLD NEW' renames it, in the rules too"),
];

/// What to say to whoever gives this command.
pub(super) fn instead(command: &str) -> Option<&'static str> {
    INSTEAD.iter().find(|(name, _)| *name == command).map(|(_, text)| *text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::help::usage;

    #[test]
    fn what_is_named_exists_and_what_exists_is_not_absent() {
        for (name, text) in INSTEAD {
            assert!(usage(&[name]).is_none(), "'{name}' is a command");
            for quoted in text.split('\'').skip(1).step_by(2) {
                let first = quoted.split(' ').next().unwrap();
                let of_rules = ["option", "config"].contains(&first);
                assert!(of_rules || usage(&quoted.split(' ').collect::<Vec<_>>()).is_some(), "{name}: {quoted}");
            }
        }
    }
}

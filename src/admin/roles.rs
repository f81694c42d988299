//! How the command `perms` changes a role file: text in, text out (`spec/access-language.md`, 4.5 and 11).

use crate::model::UserName;

use super::RolesError;

/// One change of a role file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoleChange<'a> {
    Add {
        role: &'a str,
        member: &'a str,
    },
    Remove {
        role: &'a str,
        member: &'a str,
    },
    /// The whole file, a line a role.
    Replace(&'a str),
}

impl RoleChange<'_> {
    /// The new text. Lines end in a newline; a name that is added makes the file sorted, as in gitolite.
    pub(super) fn apply(&self, before: &str, is_role: &dyn Fn(&str) -> bool) -> Result<String, RolesError> {
        let role_known =
            |role: &str| if is_role(role) { Ok(()) } else { Err(RolesError::UnknownRole(role.to_owned())) };
        match *self {
            Self::Add { role, member } => {
                role_known(role)?;
                check_member(member)?;
                if before.lines().filter_map(parse).any(|(r, members)| r == role && members.contains(&member)) {
                    return Ok(before.to_owned());
                }
                let added = format!("{role} {member}");
                let mut lines: Vec<&str> = before.lines().chain([added.as_str()]).collect();
                lines.sort_unstable();
                Ok(joined(lines))
            }
            Self::Remove { role, member } => {
                role_known(role)?;
                let mut lines = Vec::new();
                for line in before.lines() {
                    match parse(line) {
                        Some((r, members)) if r == role && members.contains(&member) => {
                            let left: Vec<_> = members.into_iter().filter(|m| *m != member).collect();
                            lines.extend((!left.is_empty()).then(|| format!("{role} {}", left.join(" "))));
                        }
                        _ => lines.push(line.to_owned()),
                    }
                }
                Ok(joined(lines))
            }
            Self::Replace(text) => {
                for (role, members) in text.lines().filter_map(parse) {
                    role_known(role)?;
                    members.into_iter().try_for_each(check_member)?;
                }
                Ok(joined(text.lines().map(str::trim).filter(|line| !line.is_empty())))
            }
        }
    }
}

fn joined(lines: impl IntoIterator<Item: AsRef<str>>) -> String {
    lines.into_iter().fold(String::new(), |text, line| text + line.as_ref() + "\n")
}

/// `READERS alice`, `@READERS = alice`; nothing for a blank line or a comment.
fn parse(line: &str) -> Option<(&str, Vec<&str>)> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let (role, rest) = line.split_once(|c: char| c.is_whitespace() || c == '=').unwrap_or((line, ""));
    let rest = rest.trim_start();
    let members = rest.strip_prefix('=').unwrap_or(rest).split_whitespace().collect();
    Some((role.strip_prefix('@').unwrap_or(role), members))
}

fn check_member(member: &str) -> Result<(), RolesError> {
    let name = member.strip_prefix('@').unwrap_or(member);
    UserName::new(name).map(drop).map_err(|_| RolesError::Member(member.chars().take(100).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(change: RoleChange<'_>, before: &str) -> Result<String, String> {
        change.apply(before, &|role| role == "READERS" || role == "WRITERS").map_err(|error| error.to_string())
    }

    #[test]
    fn names_come_and_go() {
        let add = |role, member, before| apply(RoleChange::Add { role, member }, before).unwrap();
        assert_eq!(add("READERS", "bob", ""), "READERS bob\n");
        assert_eq!(add("READERS", "@all", "WRITERS bob\n"), "READERS @all\nWRITERS bob\n");
        assert_eq!(add("READERS", "bob", "@READERS = alice bob\n"), "@READERS = alice bob\n", "there already");
        let remove = |role, member, before| apply(RoleChange::Remove { role, member }, before).unwrap();
        assert_eq!(
            remove("READERS", "bob", "READERS alice bob\nREADERS bob\nWRITERS bob\n"),
            "READERS alice\nWRITERS bob\n"
        );
        assert_eq!(remove("READERS", "carol", "READERS alice\n"), "READERS alice\n");
        assert_eq!(remove("READERS", "bob", "READERS bob"), "");
    }

    #[test]
    fn the_whole_file() {
        let replace = |text| apply(RoleChange::Replace(text), "READERS x\n");
        assert_eq!(
            replace(" READERS alice @devs \n\n# note\nWRITERS bob").unwrap(),
            "READERS alice @devs\n# note\nWRITERS bob\n"
        );
        assert_eq!(replace("").unwrap(), "");
        assert_eq!(replace("GUESTS bob").unwrap_err(), "'GUESTS' is no role here");
        assert!(replace("READERS b!b").unwrap_err().contains("no user"));
        assert!(apply(RoleChange::Add { role: "CREATOR", member: "bob" }, "").unwrap_err().contains("no role"));
        assert!(apply(RoleChange::Add { role: "READERS", member: "../x" }, "").is_err());
    }
}

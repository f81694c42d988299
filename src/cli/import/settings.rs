//! What a `.gitolite.rc` means here: lines of `gitmesh.toml`, and what has no counterpart, for a person to read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::rc::{Rc, Value};

/// Features and commands of gitolite's that are always here, or that only concern gitolite itself.
const ALWAYS: &[&str] = &[
    "ssh-authkeys",
    "git-config",
    "daemon",
    "gitweb",
    "set-default-roles",
    "Mirroring",
    "cgit",
    "repo-specific-hooks",
    "expand-deny-messages",
    "ssh-authkeys-split",
    "renice",
    "CpuTime",
    "Kindergarten",
    "help",
    "info",
    "perms",
    "create",
    "access",
    "D",
    "mirror",
    "lock",
];
/// Commands that gitolite has only where they are enabled, and that change something here.
const OPTIONAL: &[&str] = &["create", "fork", "D", "symbolic-ref", "sudo"];
/// Settings that only concern gitolite itself.
const IDLE: &[&str] = &[
    "LOG_EXTRA",
    "LOG_DEST",
    "LOG_FACILITY",
    "LOG_TEMPLATE",
    "DISPLAY_CPU_TIME",
    "CPU_TIME_WARN_LIMIT",
    "CACHE",
    "DEFAULT_ROLE_PERMS",
    "GL_ADMIN_BASE",
    "GL_REPO_BASE",
    "RELAY_MODE",
    "WARN_LIMIT",
    "UPDATE_KEYS",
];
const TRIGGERS: &[&str] = &[
    "INPUT",
    "ACCESS_1",
    "ACCESS_2",
    "PRE_GIT",
    "POST_GIT",
    "PRE_CREATE",
    "POST_CREATE",
    "POST_COMPILE",
    "PRE_COMPILE",
];

/// What an rc file comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Meaning {
    /// `HOSTNAME`.
    pub node: Option<String>,
    /// Keys of `gitmesh.toml` and their values in TOML; each key is in the shipped file once.
    pub settings: BTreeMap<&'static str, String>,
    pub local_code: Option<PathBuf>,
    /// Sentences for a person.
    pub remarks: Vec<String>,
}

/// `offered` tells whether there is a command of that name here.
pub fn meaning(rc: &Rc, home: &Path, offered: &dyn Fn(&str) -> bool) -> Meaning {
    let mut found = Meaning::default();
    for (key, value) in &rc.settings {
        if let Value::Code(code) = value {
            found
                .remarks
                .push(format!("{key} is computed by Perl ({code}); it was not run, set what it means by hand"));
            continue;
        }
        found.take(key, value, home, offered);
    }
    for statement in &rc.statements {
        found.remarks.push(format!("a statement outside of the settings was not run: {statement}"));
    }
    found
}

impl Meaning {
    fn take(&mut self, key: &str, value: &Value, home: &Path, offered: &dyn Fn(&str) -> bool) {
        let text = value.text().unwrap_or_default();
        match key {
            "HOSTNAME" => self.node = Some(text.to_owned()).filter(|name| !name.is_empty()),
            "GIT_CONFIG_KEYS" => self.set("config_keys", list(text.split_whitespace())),
            "OWNER_ROLENAME" => self.set("owner_role", quoted(text)),
            "ROLES" => {
                let Value::Table(roles) = value else { return self.odd(key) };
                self.set("roles", list(roles.iter().filter(|(_, on)| is_on(on)).map(|(role, _)| role.as_str())));
            }
            "SAFE_CONFIG" => {
                let Value::Table(pairs) = value else { return self.odd(key) };
                let pairs: Vec<_> =
                    pairs.iter().filter_map(|(k, v)| Some(format!("{} = {}", quoted(k), quoted(v.text()?)))).collect();
                self.set(
                    "safe_config",
                    if pairs.is_empty() { "{}".into() } else { format!("{{ {} }}", pairs.join(", ")) },
                );
            }
            "UNSAFE_PATT" => match characters(text) {
                Some(characters) => self.set("unsafe_values", quoted(&characters)),
                None => self.remarks.push(format!(
                    "UNSAFE_PATT is {text}, more than a set of characters; [access] unsafe_values keeps its default"
                )),
            },
            "LOCAL_CODE" => self.local_code = Some(home.join(text)),
            "ENABLE" => {
                let Value::List(features) = value else { return self.odd(key) };
                self.enable(features, offered);
            }
            "UMASK" => {
                if text != "0077" && text != "077" && text != "63" {
                    self.remarks.push(format!(
                        "UMASK {text}: all files here are the service's own; give gitweb's user rights by ACL"
                    ));
                }
            }
            "GITWEB_PROJECTS_LIST" => {
                self.remarks.push("GITWEB_PROJECTS_LIST: gitweb's list is projects.list in the data directory".into());
            }
            "GROUPLIST_PGM" => {
                let cure = "have a job write the groups into a file below conf/ and push it";
                self.remarks.push(format!("GROUPLIST_PGM {text} is not asked here; {cure}"));
            }
            "TRASH_CAN" => self.remarks.push(format!("TRASH_CAN {text}: what is in there is not taken along")),
            _ if TRIGGERS.contains(&key) => {
                self.remarks.push(format!("{key}: triggers do not run here; see 'option hook.*' and '[notify]'"));
            }
            _ if IDLE.contains(&key) || text.is_empty() && value.text().is_some() => {}
            _ => self.remarks.push(format!("{key} has no counterpart here")),
        }
    }

    fn set(&mut self, key: &'static str, value: String) {
        self.settings.insert(key, value);
    }

    fn odd(&mut self, key: &str) {
        self.remarks.push(format!("{key} is not written as gitolite's documentation writes it; set it by hand"));
    }

    fn enable(&mut self, features: &[Value], offered: &dyn Fn(&str) -> bool) {
        let mut sugar = Vec::new();
        for feature in features {
            let Value::Text(whole) = feature else {
                self.remarks.push("ENABLE holds what is no plain word; it is left out".to_owned());
                continue;
            };
            let feature = whole.split_whitespace().next().unwrap_or_default();
            match feature {
                "" => {}
                "continuation-lines" | "macros" | "keysubdirs-as-groups" => sugar.push(feature),
                "no-create-on-read" => {
                    self.settings.entry("create").or_insert_with(|| quoted("write"));
                }
                "no-auto-create" => self.set("create", quoted("command")),
                "Alias" => {
                    self.remarks.push("ENABLE 'Alias': a repository has one name here; 'repo rename' changes it".into())
                }
                "Shell" => self.remarks.push(format!("ENABLE '{whole}': nobody gets a shell here; sshd can serve it")),
                "upstream" => self.remarks.push(
                    "ENABLE 'upstream': write 'option upstream.url' as 'option mirror.upstream' (see the README)"
                        .into(),
                ),
                _ if ALWAYS.contains(&feature) || offered(feature) => {}
                _ => self.remarks.push(format!("ENABLE '{feature}' is not there")),
            }
        }
        self.set("enable", list(sugar.into_iter()));
        let named = |command: &&&str| features.iter().any(|feature| feature.text() == Some(**command));
        let off: Vec<&str> = OPTIONAL.iter().filter(|command| !named(command) && offered(command)).copied().collect();
        if !off.is_empty() {
            self.remarks.push(format!(
                "commands that were off and are on here: {0}; 'option commands.disable = {0}' of gitmesh-admin says otherwise",
                off.join(" ")
            ));
        }
    }
}

/// Whether Perl takes the value for true.
fn is_on(value: &Value) -> bool {
    !matches!(value.text(), Some("" | "0"))
}

/// The characters of a class, `[...]` without ranges; `None` for any other expression.
fn characters(pattern: &str) -> Option<String> {
    let inside = pattern.strip_prefix('[')?.strip_suffix(']')?;
    let mut characters = String::new();
    let mut rest = inside.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => match rest.next()? {
                escaped if escaped.is_alphanumeric() => return None,
                escaped => characters.push(escaped),
            },
            '^' | '-' | '[' | ']' => return None,
            c => characters.push(c),
        }
    }
    Some(characters)
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn list<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    format!("[{}]", texts.map(quoted).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::import::rc::parse;

    #[test]
    fn settings_become_lines_and_the_rest_is_told() {
        let rc = r#"%RC = (
            UMASK => 0027, HOSTNAME => 'mars', GIT_CONFIG_KEYS => 'foo\..* bar', LOG_EXTRA => 1, SITE_INFO => 'us',
            ROLES => { READERS => 1, WRITERS => 1, TESTERS => 1, OLD => 0 }, OWNER_ROLENAME => 'OWNERS',
            SAFE_CONFIG => { LT => '<' }, UNSAFE_PATT => qr([`$\&]), LOCAL_CODE => "$ENV{HOME}/local",
            POST_CREATE => [ 'x' ], DAY => `date`,
            ENABLE => [ 'help', 'macros', 'no-create-on-read', 'no-auto-create', 'upstream', 'renice 10', 'own-thing' ],
        ); system('x'); 1;"#;
        let rc = parse(rc, &[("$ENV{HOME}", "/home/git".to_owned())].into());
        let found = meaning(&rc, Path::new("/home/git"), &|_| false);
        assert_eq!(found.node.as_deref(), Some("mars"));
        assert_eq!(found.local_code.as_deref(), Some(Path::new("/home/git/local")));
        let lines: Vec<_> = found.settings.iter().map(|(key, value)| format!("{key} = {value}")).collect();
        assert_eq!(
            lines,
            [
                r#"config_keys = ['foo\..*', "bar"]"#,
                r#"create = "command""#,
                r#"enable = ["macros"]"#,
                r#"owner_role = "OWNERS""#,
                r#"roles = ["READERS", "WRITERS", "TESTERS"]"#,
                r#"safe_config = { "LT" = "<" }"#,
                r#"unsafe_values = "`$&""#,
            ]
        );
        insta::assert_snapshot!(found.remarks.join("\n"), @r"
        DAY is computed by Perl (`date`); it was not run, set what it means by hand
        ENABLE 'upstream': write 'option upstream.url' as 'option mirror.upstream' (see the README)
        ENABLE 'own-thing' is not there
        POST_CREATE: triggers do not run here; see 'option hook.*' and '[notify]'
        SITE_INFO has no counterpart here
        UMASK 0027: all files here are the service's own; give gitweb's user rights by ACL
        a statement outside of the settings was not run: system('x')
        ");
        assert!(found.settings.values().all(|value| format!("x = {value}").parse::<toml::Table>().is_ok()));
    }

    #[test]
    fn the_characters_of_a_class() {
        assert_eq!(characters(r"[`~#\$\&()|;<>]").as_deref(), Some("`~#$&()|;<>"));
        for other in ["[^a]", "[a-z]", r"[\s]", "a|b", ""] {
            assert_eq!(characters(other), None, "{other}");
        }
    }
}

//! The machine's settings, `gitmesh.toml`: read completely and checked before any port is bound.
//!
//! Every setting but the node's name has a default, and `conf/gitmesh.toml` shows them all (a test compares). An
//! unknown key is an error that names the nearest known one: a setting that silently does nothing is worse than a
//! daemon that does not start. Nothing about users, keys or rules is here; that is the admin repository's.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::Deserializer;

use crate::admin::{self, Address, Sugar};
use crate::model::HostName;
use crate::model::setting::parsed;
use crate::policy::{Authorities, Settings};
use crate::ssh::{self, Listen};
use crate::{audit, git, mirror, observe, repo, socket};

/// The file's name inside the data directory.
pub const FILE_NAME: &str = "gitmesh.toml";
/// Overrides where the file is looked for; `--config` overrides this.
pub const ENVIRONMENT: &str = "GITMESH_CONFIG";

const EXAMPLE: &str = include_str!("../conf/gitmesh.toml");
/// Linux keeps a socket's path in 108 bytes; some are left for the temporary name it is bound under.
const SOCKET_PATH_MAX: usize = 100;

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub node: NodeConfig,
    #[serde(default)]
    pub ssh: ssh::Config,
    #[serde(default)]
    pub git: git::Config,
    #[serde(default)]
    pub access: admin::Config,
    #[serde(default)]
    pub hooks: admin::HooksConfig,
    #[serde(default)]
    pub mirror: mirror::Config,
    #[serde(default)]
    pub notify: mirror::NotifyConfig,
    #[serde(default)]
    pub maintenance: repo::Maintenance,
    #[serde(default)]
    pub admin_socket: socket::Config,
    #[serde(default)]
    pub log: observe::Config,
    #[serde(default)]
    pub audit: audit::Config,
    /// What the file of `ssh.user_ca` held when this was read.
    #[serde(skip)]
    pub authorities: Authorities,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    #[serde(deserialize_with = "parsed")]
    pub name: HostName,
    /// How peers and users reach this node; `None` means `git@NAME` and the port of the first listener.
    #[serde(default, deserialize_with = "parsed_option")]
    pub address: Option<Address>,
    /// The data directory, if it is not the file's own.
    #[serde(default)]
    pub data: Option<PathBuf>,
}

/// Why `gitmesh.toml` cannot be used. `Display` is the whole text for the operator: place, reason, cure.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: cannot be read: {reason}{}", path.display(), absent_help(*absent))]
    Read { path: PathBuf, reason: std::io::Error, absent: bool },
    #[error("{}", Located { path, line: *line, column: *column, message, help })]
    Wrong { path: PathBuf, line: usize, column: usize, message: String, help: Option<String> },
}

fn absent_help(absent: bool) -> &'static str {
    if absent {
        "\nhelp: make a data directory first: gitmesh init --admin-key ~/.ssh/id_ed25519.pub\n      \
         or name an existing one with --data DIR"
    } else {
        ""
    }
}

struct Located<'a> {
    path: &'a Path,
    line: usize,
    column: usize,
    message: &'a str,
    help: &'a Option<String>,
}

impl fmt::Display for Located<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.path.display(), self.line, self.column, self.message)?;
        self.help.iter().try_for_each(|help| write!(f, "\nhelp: {help}"))
    }
}

impl Config {
    /// The settings of a node called `name`, all at their defaults.
    pub fn of(name: HostName) -> Self {
        let node = NodeConfig { name, address: None, data: None };
        Self {
            node,
            ssh: ssh::Config::default(),
            git: git::Config::default(),
            access: admin::Config::default(),
            hooks: admin::HooksConfig::default(),
            mirror: mirror::Config::default(),
            notify: mirror::NotifyConfig::default(),
            maintenance: repo::Maintenance::default(),
            admin_socket: socket::Config::default(),
            log: observe::Config::default(),
            audit: audit::Config::default(),
            authorities: Authorities::default(),
        }
    }

    /// The settings for compiling the admin repository.
    pub fn settings(&self) -> Settings {
        let admin::Config { config_keys, roles, owner_role, safe_config, unsafe_values, .. } = self.access.clone();
        let owner_role = (!owner_role.is_empty()).then_some(owner_role);
        let mut settings =
            Settings { config_keys, roles, owner_role, safe_config, unsafe_values, ..Settings::recommended() };
        settings.authorities = self.authorities.clone();
        settings.enable.extend(self.access.enable.iter().map(|sugar| match sugar {
            Sugar::ContinuationLines => "continuation-lines".to_owned(),
            Sugar::Macros => "macros".to_owned(),
            Sugar::KeysubdirsAsGroups => "keysubdirs-as-groups".to_owned(),
        }));
        settings
    }

    /// How somebody near reaches the node: its address, else its first listener by the best host name there is.
    pub fn reached_at(&self) -> Address {
        if let Some(address) = &self.node.address {
            return address.clone();
        }
        let first = self.ssh.listen.first().map_or(([127, 0, 0, 1], 22).into(), |listen| listen.0);
        let host = if first.ip().is_unspecified() {
            machine_name().map_or("localhost".to_owned(), |name| name.to_string())
        } else {
            first.ip().to_string()
        };
        Address { user: self.ssh.user.clone(), host, port: first.port() }
    }

    /// Where the file is: `given`, else `$GITMESH_CONFIG`, else `gitmesh.toml` in `data`.
    pub fn locate(given: Option<PathBuf>, data: &Path) -> PathBuf {
        let from_environment = || std::env::var_os(ENVIRONMENT).filter(|path| !path.is_empty()).map(PathBuf::from);
        given.or_else(from_environment).unwrap_or_else(|| data.join(FILE_NAME))
    }

    /// Reads and checks the file at `path`; paths in the result are absolute or relative to where `path` is.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|reason| ConfigError::Read {
            absent: reason.kind() == std::io::ErrorKind::NotFound,
            path: path.to_owned(),
            reason,
        })?;
        let mut config = Self::parse(&text, path)?;
        let data = config.data(path);
        config.node.data = Some(data.clone());
        config.admin_socket.path = data.join(&config.admin_socket.path);
        config.authorities = config.read_authorities(&data).map_err(|(key, message)| {
            let (line, column) = key_place(&text, "ssh", key);
            let help = "it holds the public keys of CAs, one a line, as in the .pub file of ssh-keygen".to_owned();
            let help = (key == "user_ca").then_some(help);
            ConfigError::Wrong { path: path.to_owned(), line, column, message, help }
        })?;
        if config.admin_socket.path.as_os_str().len() > SOCKET_PATH_MAX {
            let (line, column) = key_place(&text, "admin_socket", "path");
            let message = format!(
                "the path of the admin socket, '{}', is longer than {SOCKET_PATH_MAX} bytes",
                config.admin_socket.path.display()
            );
            let help = "name a shorter one in [admin_socket] path, for instance /run/gitmesh/control.sock";
            return Err(ConfigError::Wrong {
                path: path.to_owned(),
                line,
                column,
                message,
                help: Some(help.to_owned()),
            });
        }
        Ok(config)
    }

    /// The CAs of `ssh.user_ca`; the error names the key that is wrong.
    fn read_authorities(&self, data: &Path) -> Result<Authorities, (&'static str, String)> {
        let ssh::Config { user_ca, user_ca_revoked, .. } = &self.ssh;
        // What is revoked is checked without a file too.
        Authorities::read(b"", user_ca_revoked).map_err(|why| ("user_ca_revoked", why))?;
        if user_ca.is_empty() {
            return Ok(Authorities::default());
        }
        let file = data.join(user_ca);
        let wrong = |why: String| ("user_ca", format!("{}: {why}", file.display()));
        let text = std::fs::read(&file).map_err(|error| wrong(error.to_string()))?;
        let found = Authorities::read(&text, user_ca_revoked).map_err(wrong)?;
        if found.is_empty() { Err(wrong("there is no key in it".to_owned())) } else { Ok(found) }
    }

    /// The data directory: `[node] data`, else the directory of the file at `path`.
    fn data(&self, path: &Path) -> PathBuf {
        let own = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        self.node.data.as_ref().map_or_else(|| own.to_owned(), |data| own.join(data))
    }

    /// Checks the text of a file; `path` is for messages only.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let wrong = |offset, message, help| {
            let (line, column) = place(text, offset);
            ConfigError::Wrong { path: path.to_owned(), line, column, message, help }
        };
        let config: Self = toml::from_str(text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            let (message, help) = explain(error.message(), section_at(text, offset));
            wrong(offset, message, help)
        })?;
        config.spanning().map_err(|(section, key, message, help)| {
            let (line, column) = key_place(text, section, key);
            ConfigError::Wrong {
                path: path.to_owned(),
                line,
                column,
                message: message.to_owned(),
                help: Some(help.to_owned()),
            }
        })?;
        Ok(config)
    }

    /// Checks what no single type can.
    fn spanning(&self) -> Result<(), (&'static str, &'static str, &'static str, &'static str)> {
        let positive = [
            ("ssh", "max_connections", self.ssh.max_connections),
            ("ssh", "max_sessions", self.ssh.max_sessions),
            ("ssh", "max_sessions_per_user", self.ssh.max_sessions_per_user),
            ("git", "max_processes", self.git.max_processes),
            ("git", "max_packs", self.git.max_packs.unwrap_or(1)),
            ("mirror", "workers", self.mirror.workers),
        ];
        if let Some((section, key, _)) = positive.iter().find(|(_, _, value)| *value == 0) {
            return Err((section, key, "0 would turn everybody away", "give a number of 1 or more"));
        }
        if self.ssh.listen.is_empty() {
            return Err(("ssh", "listen", "there is no address to listen on", "the default is listen = [\"[::]:22\"]"));
        }
        if self.mirror.retry_first > self.mirror.retry_max {
            return Err(("mirror", "retry_max", "retry_max is shorter than retry_first", "make it the longer of both"));
        }
        let mut seen = BTreeSet::new();
        let twice = self.ssh.listen.iter().any(|listen| listen.0.port() != 0 && !seen.insert(listen.0));
        if twice {
            return Err(("ssh", "listen", "an address is named twice", "name each address once"));
        }
        Ok(())
    }
}

/// The commented file that `gitmesh init` writes for a node: `conf/gitmesh.toml` with its name, its listeners and,
/// if given, its address.
pub fn example(name: &HostName, listen: &[Listen], address: Option<&Address>) -> String {
    let listen: Vec<_> = listen.iter().map(|listen| format!("\"{}\"", listen.0)).collect();
    let mut text = EXAMPLE.replacen("name = \"server1\"", &format!("name = \"{name}\""), 1).replacen(
        "listen = [\"[::]:22\"]",
        &format!("listen = [{}]", listen.join(", ")),
        1,
    );
    if let Some(address) = address {
        let line = "# address = \"git@server1.example.com:22\"";
        text = text.replacen(line, &format!("address = \"{address}\""), 1);
    }
    text
}

/// The machine's host name up to the first dot.
pub fn machine_name() -> Option<HostName> {
    let files = ["/proc/sys/kernel/hostname", "/etc/hostname"];
    let name = files.iter().find_map(|file| std::fs::read_to_string(file).ok())?;
    HostName::new(name.trim().split('.').next()?).ok()
}

/// Turns serde's words about an unknown key into ours; other messages pass through.
fn explain(message: &str, section: Option<&str>) -> (String, Option<String>) {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let here = section.map_or("at the top of the file".to_owned(), |section| format!("in [{section}]"));
    if message.starts_with("unknown field") {
        let unknown = quoted.next().unwrap_or_default();
        let known: Vec<_> = quoted.collect();
        let nearest = known.iter().min_by_key(|key| distance(unknown, key));
        let near = nearest.filter(|key| distance(unknown, key) <= 1 + unknown.len() / 3);
        let meant = near.map_or(String::new(), |key| format!("did you mean '{key}'? "));
        let kind = if section.is_some() { "keys" } else { "sections" };
        let help = format!("{meant}known {kind} {here}: {}", known.join(", "));
        return (format!("unknown key '{unknown}' {here}"), Some(help));
    }
    if message.starts_with("missing field") {
        let missing = quoted.next().unwrap_or_default();
        let help = "the file must have at least:  [node]  and below it  name = \"server1\"".to_owned();
        return (format!("'{missing}' is missing"), Some(help));
    }
    (message.replace('\n', " ").replace("usize", "a whole number of 1 or more").replace('`', "'"), None)
}

/// Line and column of a byte offset, both from 1; the column counts characters.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    (line, before.rsplit('\n').next().unwrap_or_default().chars().count() + 1)
}

/// The section that the line at `offset` belongs to; none when the line is a section's own header.
fn section_at(text: &str, offset: usize) -> Option<&str> {
    let start = text.get(..offset)?.rfind('\n').map_or(0, |newline| newline + 1);
    let header = |line: &'_ str| line.trim_start().starts_with('[');
    if text.get(start..)?.lines().next().is_some_and(header) {
        return None;
    }
    let line = text.get(..start)?.lines().rev().find(|line| header(line))?;
    line.trim_start().trim_start_matches('[').split(']').next().map(str::trim)
}

/// Where `key` stands in `[section]`; the first line if it is not in the text at all.
fn key_place(text: &str, section: &str, key: &str) -> (usize, usize) {
    let mut inside = false;
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with('[') {
            inside = line.trim() == format!("[{section}]");
        } else if inside && line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('=')) {
            return (number + 1, line.len() - line.trim_start().len() + 1);
        }
    }
    (1, 1)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

fn parsed_option<'de, D: Deserializer<'de>, T: std::str::FromStr<Err: fmt::Display>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    parsed(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> HostName {
        HostName::new(text).unwrap()
    }

    fn refused(text: &str) -> String {
        Config::parse(text, Path::new("gitmesh.toml")).unwrap_err().to_string()
    }

    #[test]
    fn the_shipped_file_shows_the_defaults() {
        let config = Config::parse(EXAMPLE, Path::new("conf/gitmesh.toml")).unwrap();
        assert_eq!(config, Config::of(name("server1")));
        let bare = Config::parse("[node]\nname = \"server1\"\n", Path::new("gitmesh.toml")).unwrap();
        assert_eq!(bare, config);
    }

    #[test]
    fn the_file_that_init_writes() {
        let listen: Vec<Listen> = vec!["127.0.0.1:2222".parse().unwrap(), "[::1]:0".parse().unwrap()];
        let address: Address = "git@a.example:2222".parse().unwrap();
        let text = example(&name("a"), &listen, Some(&address));
        let config = Config::parse(&text, Path::new("gitmesh.toml")).unwrap();
        assert_eq!((&config.node.name, &config.ssh.listen), (&name("a"), &listen));
        assert_eq!(config.node.address, Some(address));
        assert!(Config::parse(&example(&name("a"), &listen, None), Path::new("x")).unwrap().node.address.is_none());
    }

    #[test]
    fn refusals_name_the_place_and_the_cure() {
        let texts = [
            "[node]\nname = \"a\"\n\n[ssh]\n  listne = [\"[::]:22\"]\n",
            "[node]\nname = \"a\"\n[shs]\n",
            "colour = 1\n[node]\nname = \"a\"\n",
            "[node]\nname = \"a b\"\n",
            "[node]\n",
            "[ssh]\n",
            "[node]\nname = \"a\"\n[ssh]\nauth_timeout = \"20\"\n",
            "[node]\nname = \"a\"\n[ssh]\nlisten = [\"localhost\"]\n",
            "[node]\nname = \"a\"\n[git]\nmax_processes = 0\n",
            "[node]\nname = \"a\"\naddress = \"-x\"\n",
            "[node]\nname = \"a\"\n[log]\nformat = \"xml\"\n",
            "[node\nname = \"a\"\n",
            "[node]\nname = \"a\"\n[ssh]\nmax_sessions = -1\n",
        ];
        insta::assert_snapshot!(texts.map(refused).join("\n"), @r#"
        gitmesh.toml:5:3: unknown key 'listne' in [ssh]
        help: did you mean 'listen'? known keys in [ssh]: listen, user, max_connections, max_sessions, max_sessions_per_user, auth_timeout, idle_timeout, explain_unknown_keys, user_ca, user_ca_revoked
        gitmesh.toml:3:2: unknown key 'shs' at the top of the file
        help: did you mean 'ssh'? known sections at the top of the file: node, ssh, git, access, hooks, mirror, notify, maintenance, admin_socket, log, audit
        gitmesh.toml:1:1: unknown key 'colour' at the top of the file
        help: known sections at the top of the file: node, ssh, git, access, hooks, mirror, notify, maintenance, admin_socket, log, audit
        gitmesh.toml:2:8: ' ' is not allowed in a name
        gitmesh.toml:1:1: 'name' is missing
        help: the file must have at least:  [node]  and below it  name = "server1"
        gitmesh.toml:1:1: 'node' is missing
        help: the file must have at least:  [node]  and below it  name = "server1"
        gitmesh.toml:4:16: '20' is no duration; write a whole number above 0 and a unit, as "200ms", "20s", "10m", "1h" or "7d"
        gitmesh.toml:4:10: 'localhost' is no address to listen on; write an IP address and a port, as "[::]:22" or "127.0.0.1:2222"
        gitmesh.toml:4:1: 0 would turn everybody away
        help: give a number of 1 or more
        gitmesh.toml:3:11: '-x' is no address of a node; write it as git@server2:22 (or git@[2001:db8::1]:22)
        gitmesh.toml:4:10: unknown variant 'xml', expected one of 'auto', 'text', 'json'
        gitmesh.toml:1:6: unclosed table, expected ']'
        gitmesh.toml:4:16: invalid value: integer '-1', expected a whole number of 1 or more
        "#);
    }

    #[test]
    fn paths_are_relative_to_the_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        assert!(Config::load(&path).unwrap_err().to_string().contains("gitmesh init"));
        std::fs::write(&path, "[node]\nname = \"a\"\n").unwrap();
        let config = Config::load(&path).unwrap();
        assert_eq!(config.admin_socket.path, dir.path().join("control.sock"));
        assert_eq!(config.node.data.as_deref(), Some(dir.path()));
        let long = format!("[node]\nname = \"a\"\n[admin_socket]\npath = \"{}\"\n", "x".repeat(120));
        std::fs::write(&path, long).unwrap();
        let error = Config::load(&path).unwrap_err().to_string();
        assert!(error.contains(":4:1: the path of the admin socket"), "{error}");
    }
}

//! What is in the home of a gitolite user; it is only read.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::admin::{ADMIN_REPO, Address, newest_commit};
use crate::cli::{Refusal, exit};
use crate::git::objects;
use crate::model::{HostName, Oid, RepoName};
use crate::policy::{PublicKey, parse_public_key};

/// gitolite's name of the admin repository.
pub const ADMIN_REPO_THERE: &str = "gitolite-admin";
/// Directories that are entered below the repositories, one in the other.
const DEPTH_MAX: usize = 32;
/// gitolite's own hooks in every repository.
const OWN_HOOKS: [&str; 2] = ["update", "post-update"];

/// A home that was looked at.
#[derive(Debug)]
pub struct Home {
    pub path: PathBuf,
    pub repositories: PathBuf,
    /// By name, with the directory; the admin repository is apart.
    pub repos: BTreeMap<RepoName, PathBuf>,
    pub admin: PathBuf,
    /// The commit that is in force there.
    pub commit: Oid,
    /// The names at that commit's top.
    pub top: Vec<String>,
    /// Its files below `conf/` and `keydir/`.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Bare repositories that cannot be served: their path and why.
    pub unserved: Vec<(PathBuf, String)>,
    /// Programs in `hooks/` of single repositories that are not gitolite's, by repository.
    pub hooks: BTreeMap<RepoName, Vec<String>>,
}

impl Home {
    /// Looks at everything; what is no home of gitolite's is refused.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let not = |what: &str| {
            let help = "name the home directory of the user that runs gitolite, as /home/git or /var/lib/gitolite3";
            let text = format!("{} is no home of gitolite's: {what}\nhelp: {help}", path.display());
            Refusal::new(exit::NOT_FOUND, text)
        };
        let path = path.canonicalize().map_err(|e| not(&format!("it cannot be opened ({e})")))?;
        if !path.join(".gitolite.rc").is_file() {
            return Err(not("there is no .gitolite.rc in it").into());
        }
        let repositories =
            path.join("repositories").canonicalize().map_err(|_| not("there is no folder 'repositories' in it"))?;
        let mut home = Self {
            admin: PathBuf::new(),
            commit: Oid::parse(&"0".repeat(40)).expect("an object id"),
            path,
            repositories,
            repos: BTreeMap::new(),
            top: Vec::new(),
            files: BTreeMap::new(),
            unserved: Vec::new(),
            hooks: BTreeMap::new(),
        };
        home.walk()?;
        home.admin = RepoName::new(ADMIN_REPO_THERE)
            .ok()
            .and_then(|name| home.repos.remove(&name))
            .ok_or_else(|| not("there is no repository gitolite-admin in it"))?;
        home.commit = newest_commit(&home.admin)?.ok_or_else(|| not("its gitolite-admin holds no commit"))?;
        home.files = objects::files_at(&home.admin, &home.commit, &["conf/", "keydir/"])?;
        home.top = objects::top_level(&home.admin, &home.commit)?;
        Ok(home)
    }

    fn walk(&mut self) -> io::Result<()> {
        let mut todo = vec![(self.repositories.clone(), String::new(), 0)];
        while let Some((at, prefix, depth)) = todo.pop() {
            for entry in fs::read_dir(&at)? {
                let entry = entry?;
                let path = entry.path();
                if !path.is_dir() {
                    continue;
                }
                let name = entry.file_name().to_string_lossy().into_owned();
                let bare = path.join("HEAD").exists() && path.join("objects").is_dir();
                match name.strip_suffix(".git").filter(|_| bare) {
                    Some(name) => self.take(&format!("{prefix}{name}"), path),
                    None if bare => self.unserved.push((path, "its directory does not end in .git".to_owned())),
                    None if depth >= DEPTH_MAX || name.starts_with('.') => {}
                    None => todo.push((path, format!("{prefix}{name}/"), depth + 1)),
                }
            }
        }
        self.unserved.sort();
        Ok(())
    }

    fn take(&mut self, name: &str, path: PathBuf) {
        let repo = match RepoName::new(name) {
            Ok(repo) => repo,
            Err(why) => return self.unserved.push((path, why.to_string())),
        };
        if name == ADMIN_REPO {
            // Made by an import in place; where it is in use by gitolite, the import says so later.
            return;
        }
        let config = fs::read_to_string(path.join("config")).unwrap_or_default().to_ascii_lowercase();
        if config.contains("sha256") || config.contains("reftable") {
            return self.unserved.push((path, "its format (SHA-256 or reftable) is not read here".to_owned()));
        }
        let hooks = own_hooks(&path);
        if !hooks.is_empty() {
            self.hooks.insert(repo.clone(), hooks);
        }
        self.repos.insert(repo, path);
    }

    /// The other nodes of its mirrors: each `keydir/server-NAME.pub`, with how ssh reaches it.
    pub fn nodes(&self) -> BTreeMap<HostName, (PublicKey, Option<Address>)> {
        let config = fs::read_to_string(self.path.join(".ssh/config")).unwrap_or_default();
        let mut nodes = BTreeMap::new();
        for (path, text) in self.files.iter().filter(|(path, _)| path.starts_with("keydir/")) {
            let base = path.rsplit('/').next().unwrap_or_default();
            let Some(node) = base.strip_prefix("server-").and_then(|name| name.strip_suffix(".pub")) else { continue };
            let key = parse_public_key(String::from_utf8_lossy(text).trim());
            if let (Ok(node), Ok(key)) = (HostName::new(node), key) {
                let address = ssh_address(&config, node.as_str());
                nodes.insert(node, (key, address));
            }
        }
        nodes
    }

    /// The login name of the home's owner.
    pub fn owner_name(&self) -> Option<String> {
        let owner = fs::metadata(&self.path).ok()?.uid().to_string();
        let users = fs::read_to_string("/etc/passwd").ok()?;
        // passwd(5): name, password, user id
        let user =
            users.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|user| user.get(2) == Some(&&*owner));
        user.and_then(|user| user.first().map(|name| (*name).to_owned()))
    }

    /// A key of ssh's that this program can use as a node's: Ed25519 and not encrypted; with its public half.
    pub fn ssh_key(&self) -> Option<(Vec<u8>, PublicKey)> {
        let text = fs::read(self.path.join(".ssh/id_ed25519")).ok()?;
        let key = ssh_key::PrivateKey::from_openssh(&text).ok().filter(|key| !key.is_encrypted())?;
        let public = parse_public_key(&key.public_key().to_openssh().ok()?).ok()?;
        Some((text, public))
    }
}

/// Executable hooks that are not links to gitolite's or to those of all repositories.
fn own_hooks(repo: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(repo.join("hooks")) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let link = fs::read_link(entry.path()).map(|to| to.to_string_lossy().into_owned()).unwrap_or_default();
        let gitolites = link.contains("/hooks/common/") && OWN_HOOKS.contains(&name.as_str())
            || link.contains("/.gitolite/hooks/")
            || link.contains("/hooks/repo-specific/")
            || link.ends_with("/hooks/multi-hook-driver")
            || link.contains("/hooks/common/");
        if !gitolites && !name.ends_with(".sample") {
            found.push(name);
        }
    }
    found.sort();
    found
}

/// Where `Host NAME` of ssh_config(5) leads; `None` where it says nothing of it. Patterns are not followed.
fn ssh_address(config: &str, node: &str) -> Option<Address> {
    let (mut user, mut host, mut port) = (None, None, None);
    let mut here = false;
    for line in config.lines() {
        let line = line.trim().replacen('=', " ", 1);
        let mut words = line.split_whitespace();
        let (Some(key), Some(value)) = (words.next(), words.next()) else { continue };
        match key.to_ascii_lowercase().as_str() {
            "host" => here = std::iter::once(value).chain(words).any(|name| name == node),
            "match" => here = false,
            "hostname" if here => host = host.or(Some(value.to_owned())),
            "user" if here => user = user.or(Some(value.to_owned())),
            "port" if here => port = port.or(value.parse::<u16>().ok()),
            _ => {}
        }
    }
    if user.is_none() && host.is_none() && port.is_none() {
        return None;
    }
    let (user, host) = (user.unwrap_or_else(|| "git".to_owned()), host.unwrap_or_else(|| node.to_owned()));
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    format!("{user}@{host}:{}", port.unwrap_or(22)).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_ssh_finds_a_node() {
        let config = "Host mars\n  HostName mars.example.com\nhost pluto venus\n\tPort=2201\n user gitolite\nMatch all\nPort 9\nHost *\nPort 7\nHost six\nHostName ::1\n";
        let at = |node: &str| ssh_address(config, node).map(|address| address.to_string());
        assert_eq!(at("mars").as_deref(), Some("git@mars.example.com:22"));
        assert_eq!(at("venus").as_deref(), Some("gitolite@venus:2201"));
        assert_eq!(at("six").as_deref(), Some("git@[::1]:22"));
        assert_eq!(at("earth"), None);
    }
}

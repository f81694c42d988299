//! A server that is no node of ours, as the options `mirror.external` and `mirror.upstream` name it.

use std::fmt;
use std::time::Duration;

use super::setting::parse_duration;
use super::{HostName, RefName};

/// What a line names if it says nothing about references.
const USUAL: [&str; 2] = ["refs/heads/", "refs/tags/"];
/// How the name of an upstream that has none begins; its host follows, so that two servers share neither what opens them
/// nor a queue.
const UPSTREAM: &str = "upstream";
/// How often an upstream is asked, if nothing else is said.
const EVERY: Duration = Duration::from_secs(10 * 60);
const EVERY_MIN: Duration = Duration::from_secs(1);

/// One repository's place on another server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// What people and orders call it; its key or token is kept under this name.
    pub name: HostName,
    pub url: TargetUrl,
    pub refs: RefFilter,
}

/// Where the repository comes from, and how often that is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    pub target: Target,
    pub every: Duration,
}

impl Target {
    /// `NAME URL [REFS...]`
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let name = words.next().unwrap_or_default();
        let name = HostName::new(name).map_err(|error| format!("'{name}' is no name for a target: {error}"))?;
        let url = words.next().ok_or_else(|| format!("there is no URL after '{name}'"))?;
        Ok(Self { name, url: TargetUrl::parse(url)?, refs: RefFilter::parse(words)? })
    }
}

impl Upstream {
    /// `[NAME] URL [REFS...] [every=10m]`
    pub fn parse(text: &str) -> Result<Self, String> {
        let (settings, words): (Vec<&str>, Vec<&str>) = text.split_whitespace().partition(|w| w.starts_with("every="));
        let first = words.first().copied().unwrap_or_default();
        let named = match TargetUrl::parse(first) {
            Ok(url) => format!("{UPSTREAM}-{} {}", url.host_in_a_name(), words.join(" ")),
            Err(why) if first.contains([':', '/']) => return Err(why),
            Err(_) => words.join(" "),
        };
        let mut every = EVERY;
        for setting in settings {
            every = parse_duration(setting.trim_start_matches("every="))?.max(EVERY_MIN);
        }
        Ok(Self { target: Target::parse(&named)?, every })
    }
}

/// A repository's URL: `https://HOST/PATH`, `http://HOST/PATH`, `ssh://[USER@]HOST[:PORT]/PATH` or `[USER@]HOST:PATH`.
/// It holds no secret: those are kept in files of the data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetUrl {
    text: String,
    http: bool,
}

impl TargetUrl {
    pub fn parse(text: &str) -> Result<Self, String> {
        let plain = |text: &str| !text.starts_with('-') && text.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
        let wrong = || format!("'{text}' is no URL; write https://HOST/PATH, ssh://USER@HOST/PATH or USER@HOST:PATH");
        if !plain(text) {
            return Err(wrong());
        }
        let (http, rest) = match text.split_once("://") {
            Some(("https" | "http", rest)) => (true, rest),
            Some(("ssh", rest)) => (false, rest),
            Some(_) => return Err(wrong()),
            // The colon of `host:path`; a path of this machine has none before its first slash.
            None => match text.split_once(':') {
                Some((host, path)) if !host.contains('/') && !path.is_empty() && !path.starts_with(':') => {
                    (false, text)
                }
                _ => return Err(wrong()),
            },
        };
        let host = rest.split('/').next().unwrap_or_default();
        let (user, host) = host.rsplit_once('@').map_or(("", host), |(user, host)| (user, host));
        if host.is_empty() || host.starts_with(['-', ':']) || user.starts_with('-') {
            return Err(wrong());
        }
        if user.contains(':') || http && !user.is_empty() {
            return Err("a URL here holds no password or token; 'gitmesh target token NAME FILE' keeps it".to_owned());
        }
        Ok(Self { text: text.to_owned(), http })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// `https://HOST:PORT/` of what is spoken to over HTTP, in small letters and without the usual port.
    pub fn http_origin(&self) -> Option<String> {
        let (scheme, rest) = self.text.split_once("://").filter(|_| self.http)?;
        let host = rest.split('/').next().unwrap_or_default().to_ascii_lowercase();
        let usual = if scheme == "https" { ":443" } else { ":80" };
        Some(format!("{scheme}://{}/", host.strip_suffix(usual).unwrap_or(&host)))
    }

    /// Host and port, with `-` for what has no place in a name.
    fn host_in_a_name(&self) -> String {
        let rest = self.text.split_once("://").map_or(self.text.as_str(), |(_, rest)| rest);
        // `ssh://host:port/`, and `host:path`, of which the path is none of it.
        let ends: &[char] = if self.text.contains("://") { &['/'] } else { &[':'] };
        let host = rest.split(ends).next().unwrap_or_default().to_ascii_lowercase();
        let host = host.rsplit('@').next().unwrap_or_default();
        host.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).take(40).collect()
    }

    /// Whether what is sent there can be read on the way.
    pub fn is_open(&self) -> bool {
        let Some(origin) = self.http_origin() else { return false };
        let host = origin.trim_start_matches("http://").split([':', '/']).next().unwrap_or_default().to_owned();
        origin.starts_with("http://") && !(host == "localhost" || host.starts_with("127."))
    }
}

impl fmt::Display for TargetUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Which references go there, or come from there. Those that gitmesh keeps for itself never do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefFilter(Vec<(bool, String)>);

impl RefFilter {
    /// Full names, beginnings that end in `/`, and patterns with `*` for any text; `!` before one leaves those out.
    /// Without words: branches and tags.
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut parts = Vec::new();
        for word in words {
            let (takes, pattern) = word.strip_prefix('!').map_or((true, word), |rest| (false, rest));
            if !pattern.starts_with("refs/") {
                return Err(format!(
                    "'{word}' does not begin with refs/; write refs/heads/main, refs/tags/ or refs/heads/*"
                ));
            }
            parts.push((takes, pattern.to_owned()));
        }
        if !parts.iter().any(|(takes, _)| *takes) {
            parts.splice(0..0, USUAL.map(|usual| (true, usual.to_owned())));
        }
        Ok(Self(parts))
    }

    pub fn has(&self, name: &RefName) -> bool {
        let is = |(_, pattern): &&(bool, String)| matches(pattern, name.as_str());
        !name.is_internal()
            && self.0.iter().filter(|(takes, _)| *takes).any(|part| is(&part))
            && !self.0.iter().filter(|(takes, _)| !*takes).any(|part| is(&part))
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else {
        return name == pattern || pattern.ends_with('/') && name.starts_with(pattern);
    };
    // Cost is bounded by the few stars of a line and the length of a name.
    name.strip_prefix(before).is_some_and(|rest| {
        let ends = (0..=rest.len()).filter(|at| rest.is_char_boundary(*at));
        ends.map(|at| &rest[at..]).any(|rest| matches(after, rest))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_are_spoken_to_and_those_that_are_not() {
        for good in ["https://h.example/a/b.git", "ssh://git@h:2222/a", "git@github.com:o/r.git", "h:r"] {
            assert_eq!(TargetUrl::parse(good).map(|url| url.to_string()), Ok(good.to_owned()));
        }
        for bad in
            ["", "/srv/x", "./x", "file:///x", "ext::sh -c x", "ext::sh", "-h:x", "ssh://-oX/a", "https:///x", "git@:x"]
        {
            assert!(TargetUrl::parse(bad).is_err(), "{bad}");
        }
        for secret in ["https://me:pw@h/x", "https://token@h/x", "ssh://me:pw@h/x"] {
            assert!(TargetUrl::parse(secret).unwrap_err().contains("target token"), "{secret}");
        }
        let origin = |text: &str| TargetUrl::parse(text).unwrap().http_origin();
        assert_eq!(origin("https://h.example:8443/a/b"), Some("https://h.example:8443/".to_owned()));
        assert_eq!(origin("git@h:a"), None);
        let open = |text: &str| TargetUrl::parse(text).unwrap().is_open();
        assert!(open("http://h/x") && !open("https://h/x") && !open("http://127.0.0.1:80/x") && !open("h:x"));
    }

    #[test]
    fn lines() {
        let target = Target::parse("hub https://h/x refs/heads/ !refs/heads/wip/*").unwrap();
        assert_eq!((target.name.as_str(), target.url.as_str()), ("hub", "https://h/x"));
        for bad in ["", "hub", "https://h/x", "hub https://h/x heads"] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
        let plain = Upstream::parse("https://h/x").unwrap();
        assert_eq!((plain.target.name.as_str(), plain.every), ("upstream-h", EVERY));
        for (url, name) in [
            ("https://Git.Example.org:8443/a", "upstream-git.example.org-8443"),
            ("git@github.com:o/r.git", "upstream-github.com"),
            ("ssh://git@h:2222/a", "upstream-h-2222"),
            ("https://[::1]/a", "upstream----1-"),
        ] {
            assert_eq!(Upstream::parse(url).unwrap().target.name.as_str(), name);
        }
        let named = Upstream::parse("kernel https://h/x refs/tags/ every=30s").unwrap();
        assert_eq!((named.target.name.as_str(), named.every), ("kernel", Duration::from_secs(30)));
        assert!(Upstream::parse("https://h/x every=soon").is_err());
    }

    #[test]
    fn filters() {
        let has = |words: &str, name: &str| {
            RefFilter::parse(words.split_whitespace()).unwrap().has(&RefName::parse(name).unwrap())
        };
        assert!(has("", "refs/heads/a/b") && has("", "refs/tags/v1") && !has("", "refs/notes/x"));
        assert!(has("refs/heads/main", "refs/heads/main") && !has("refs/heads/main", "refs/heads/main2"));
        assert!(
            has("refs/tags/v*", "refs/tags/v1")
                && !has("refs/tags/v*", "refs/tags/w")
                && !has("refs/tags/v*", "refs/heads/v")
        );
        assert!(has("!refs/heads/wip/", "refs/heads/a") && !has("!refs/heads/wip/", "refs/heads/wip/a"));
        assert!(has("refs/*/x*z", "refs/heads/xyz") && !has("refs/*/x*z", "refs/heads/xy"));
        assert!(!has("refs/*", "refs/gitmesh/lost/x") && has("refs/*", "refs/notes/x"));
    }
}

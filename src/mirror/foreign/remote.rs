//! git as the client of a server outside the mesh: what it lists, what it is sent, what is fetched from it.
//!
//! Whatever the server says is untrusted: it is limited in length, read line by line and repeated only without secrets.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

use super::super::patience::Patience;
use super::credentials::{NotUsable, Opening};
use super::{Inner, MirrorError, foreign};
use crate::git::process::Git;
use crate::model::{Oid, RefName, RefUpdate, Target};

/// Longest listing in bytes: some four million references.
const LIST_MAX: u64 = 256 << 20;
/// What is kept of git's words about a failure, in bytes; the last ones say what was wrong.
const SAID_MAX: usize = 16 << 10;
const SAID_LINES: usize = 4;
/// Updates that stand in one command line, which may have two megabytes (execve(2)).
const UPDATES_AT_ONCE: usize = 500;
/// Words by which git and ssh say that the server itself is not to be had …
const AWAY: [&str; 9] = [
    "Could not resolve",
    "Couldn't connect",
    "Failed to connect",
    "Connection refused",
    "Connection timed out",
    "Connection reset",
    "Connection closed",
    "No route to host",
    "Network is unreachable",
];
/// … or does not let us in, which only a person can mend.
const SHUT: [&str; 5] = [
    "Host key verification failed",
    "Permission denied (",
    "Authentication failed",
    "could not read Username",
    "terminal prompts disabled",
];

/// Why a server outside the mesh did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error(transparent)]
    Closed(#[from] NotUsable),
    /// `shut`: it is there and does not let us in.
    #[error("{said}")]
    Away { said: String, shut: bool },
    #[error("{0}")]
    Refused(String),
    #[error("nothing moved for {} s; [mirror] timeout in gitmesh.toml says how long is waited", .0.as_secs())]
    Timeout(Duration),
    #[error("it listed what is no reference: {0:?}")]
    Listing(String),
    #[error("git cannot be run: {0}")]
    Git(#[from] io::Error),
}

/// What a server has.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub head: Option<RefName>,
    pub refs: BTreeMap<RefName, Oid>,
}

/// A server's word on each update: nothing, or why not.
pub(super) type Verdicts = Vec<(RefName, Result<(), String>)>;

pub(super) struct Remote<'a> {
    git: &'a Git,
    dir: &'a Path,
    url: &'a str,
    opening: Opening,
    limit: Duration,
}

struct Ran {
    ok: bool,
    out: Vec<u8>,
    said: String,
}

impl<'a> Remote<'a> {
    pub(super) fn new(inner: &'a Inner, target: &'a Target, dir: &'a Path) -> Result<Self, MirrorError> {
        let opened = inner.credentials(&target.name).opening(&target.url);
        let opening = opened.map_err(|error| foreign(target, error.into()))?;
        Ok(Self { git: &inner.git, dir, url: target.url.as_str(), opening, limit: inner.config().timeout })
    }

    pub(super) async fn list(&self) -> Result<Listing, RemoteError> {
        let ran = self.run(&["ls-remote", "--symref", "--", self.url], b"").await?;
        if !ran.ok {
            return Err(failed(ran.said));
        }
        let mut listing = Listing::default();
        for line in String::from_utf8_lossy(&ran.out).lines() {
            let Some((value, name)) = line.split_once('\t') else { return Err(RemoteError::Listing(short(line))) };
            if let Some(head) = value.strip_prefix("ref: ") {
                listing.head = RefName::parse(head).filter(|_| name == "HEAD").or(listing.head);
            } else if let Some(oid) = Oid::parse(value) {
                // Peeled tags and HEAD are no references of their own; a name that git would not take is none either.
                listing.refs.extend(RefName::parse(name).filter(|_| name.starts_with("refs/")).map(|name| (name, oid)));
            } else {
                return Err(RemoteError::Listing(short(line)));
            }
        }
        Ok(listing)
    }

    /// Changes references there, each only if it has the old value still.
    pub(super) async fn push(&self, updates: &[RefUpdate]) -> Result<Verdicts, RemoteError> {
        let mut verdicts = Vec::with_capacity(updates.len());
        for updates in updates.chunks(UPDATES_AT_ONCE) {
            verdicts.extend(self.push_some(updates).await?);
        }
        Ok(verdicts)
    }

    async fn push_some(&self, updates: &[RefUpdate]) -> Result<Verdicts, RemoteError> {
        let mut words: Vec<String> = [
            "push",
            "--porcelain",
            "--progress",
            "--no-verify",
            "--no-follow-tags",
            "--no-signed",
            "--recurse-submodules=no",
        ]
        .map(str::to_owned)
        .into();
        for RefUpdate { name, old, .. } in updates {
            // An empty value demands that there be none.
            words.push(format!("--force-with-lease={name}:{}", if old.is_zero() { "" } else { old.as_str() }));
        }
        words.extend(["--".to_owned(), self.url.to_owned()]);
        words.extend(updates.iter().map(|u| match u.new.is_zero() {
            true => format!(":{}", u.name),
            false => format!("{}:{}", u.new, u.name),
        }));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let ran = self.run(&words, b"").await?;
        let out = String::from_utf8_lossy(&ran.out).into_owned();
        let told: BTreeMap<&str, (char, &str)> = out
            .lines()
            .filter_map(|line| {
                let mut parts = line.split('\t');
                let (flag, refs, summary) = (parts.next()?.chars().next()?, parts.next()?, parts.next()?);
                Some((refs.rsplit_once(':')?.1, (flag, summary)))
            })
            .collect();
        if told.is_empty() {
            return Err(failed(ran.said));
        }
        let verdict = |update: &RefUpdate| match told.get(update.name.as_str()) {
            Some(('!', why)) => Err(self.redacted(why)),
            Some(_) if ran.ok || told.values().any(|(flag, _)| *flag == '!') => Ok(()),
            _ => Err(ran.said.clone()),
        };
        Ok(updates.iter().map(|update| (update.name.clone(), verdict(update))).collect())
    }

    /// Brings the objects of these references here; no reference here changes.
    pub(super) async fn fetch(&self, names: &[&RefName]) -> Result<(), RemoteError> {
        let input: String = names.iter().map(|name| format!("{name}\n")).collect();
        let words = ["fetch", "--progress", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance"];
        let more = ["--no-recurse-submodules", "--stdin", "--", self.url];
        let ran = self.run(&[&words[..], &more].concat(), input.as_bytes()).await?;
        if ran.ok { Ok(()) } else { Err(failed(ran.said)) }
    }

    /// Runs git to its end, as long as it says how it gets on.
    async fn run(&self, words: &[&str], input: &[u8]) -> Result<Ran, RemoteError> {
        let mut serving = self.git.start(self.dir, words, &self.environment())?;
        let (out, err) = (serving.child.stdout.take(), serving.child.stderr.take());
        let (Some(mut given), Some(out), Some(err)) = (serving.child.stdin.take(), out, err) else {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
        };
        let give = async move {
            // A git that has ended early says why itself.
            drop(given.write_all(input).await);
        };
        let mut listed = Vec::new();
        let patience = Patience::new(self.limit);
        let (out, err) = (patience.watch(out), patience.watch(err));
        let work = async {
            let mut out = out.take(LIST_MAX);
            let ((), listing, said) = tokio::join!(give, out.read_to_end(&mut listed), last_words(err));
            listing?;
            Ok::<_, io::Error>((serving.child.wait().await?, said?))
        };
        let done = patience.with(work).await.map_err(|_| RemoteError::Timeout(self.limit))?;
        let (status, said) = done?;
        Ok(Ran { ok: status.success(), out: listed, said: self.redacted(&said) })
    }

    fn environment(&self) -> Vec<(&str, String)> {
        let mut env: Vec<(&str, String)> = self.opening.env.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
        let opened = env.iter().filter(|(key, _)| key.starts_with("GIT_CONFIG_KEY_")).count();
        let settings = [
            // A token goes to the server that it is for, and to no other that this one names.
            ("http.followRedirects", "false"),
            ("http.lowSpeedLimit", "100"),
            ("http.lowSpeedTime", "60"),
            ("credential.helper", ""),
            ("core.askPass", ""),
            // The hooks of this node are for pushes into it.
            ("core.hooksPath", "/dev/null"),
        ];
        const KEYS: [&str; 7] = [
            "GIT_CONFIG_KEY_0",
            "GIT_CONFIG_KEY_1",
            "GIT_CONFIG_KEY_2",
            "GIT_CONFIG_KEY_3",
            "GIT_CONFIG_KEY_4",
            "GIT_CONFIG_KEY_5",
            "GIT_CONFIG_KEY_6",
        ];
        const VALUES: [&str; 7] = [
            "GIT_CONFIG_VALUE_0",
            "GIT_CONFIG_VALUE_1",
            "GIT_CONFIG_VALUE_2",
            "GIT_CONFIG_VALUE_3",
            "GIT_CONFIG_VALUE_4",
            "GIT_CONFIG_VALUE_5",
            "GIT_CONFIG_VALUE_6",
        ];
        for (at, (key, value)) in settings.into_iter().enumerate() {
            env.push((KEYS[opened + at], key.to_owned()));
            env.push((VALUES[opened + at], value.to_owned()));
        }
        env.push(("GIT_CONFIG_COUNT", (opened + settings.len()).to_string()));
        env.push(("GIT_ALLOW_PROTOCOL", "ssh:https:http".to_owned()));
        env
    }

    /// Without secrets, control characters and length.
    fn redacted(&self, said: &str) -> String {
        let mut text = said.to_owned();
        for secret in self.opening.secrets.iter().filter(|secret| !secret.is_empty()) {
            text = text.replace(secret, "***");
        }
        // How far it is (`Receiving objects: 12% (3/25)`) is no reason.
        let is_progress =
            |line: &str| line.contains("% (") || line.ends_with("done.") || line.starts_with("remote: Enumerating");
        let lines = text.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty() && !is_progress(line));
        let lines: Vec<&str> = lines.collect();
        let lines = &lines[lines.len().saturating_sub(SAID_LINES)..];
        lines.join(" | ").chars().filter(|c| !c.is_control()).take(600).collect()
    }
}

fn failed(said: String) -> RemoteError {
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    match (has(&SHUT), has(&AWAY)) {
        (true, _) => RemoteError::Away { said, shut: true },
        (_, true) => RemoteError::Away { said, shut: false },
        _ if said.is_empty() => RemoteError::Refused("git ended without a word".to_owned()),
        _ => RemoteError::Refused(said),
    }
}

fn short(line: &str) -> String {
    line.chars().take(100).collect()
}

/// The end of what a process says; the rest is read and dropped.
async fn last_words(mut from: impl AsyncRead + Unpin) -> io::Result<String> {
    let (mut kept, mut some) = (Vec::new(), vec![0; SAID_MAX]);
    loop {
        match from.read(&mut some).await? {
            0 => return Ok(String::from_utf8_lossy(&kept).into_owned()),
            n => {
                kept.extend_from_slice(&some[..n]);
                kept.drain(..kept.len().saturating_sub(SAID_MAX));
            }
        }
    }
}

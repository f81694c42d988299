//! Invitations: what lets a node that nobody knows yet introduce itself, once.
//!
//! The word that is handed over holds the seed of an Ed25519 key; the inviting node keeps only the public half, in
//! `invitations/`. So the newcomer logs in as everybody does, by a key, and reading the inviting node's disk gives
//! nobody a way in. The word also pins the inviting node's own key, so neither side trusts on first use.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use ssh_key::private::{Ed25519Keypair, KeypairData};

use super::{Address, DataDir, write_whole};
use crate::model::{Fingerprint, HostName};
use crate::policy::parse_public_key;

/// Starts every invitation; the number is the format's.
const PREFIX: &str = "gmj1_";
/// Bytes of the SHA-256 that ends an invitation, against a letter lost in copying.
const CHECKSUM: usize = 4;
/// No invitation is longer, in characters: a name of 64, an address of 300.
const LONGEST: usize = 1024;
/// An invitation that has ended is kept so long, for whoever tries it late gets told why it is refused.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Open and ended invitations on disk; more are a mistake of a script's.
const MOST: usize = 1000;

/// What the word says. `Debug` hides the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Invitation {
    /// The inviting node.
    pub node: HostName,
    pub address: Address,
    /// SHA-256 of the inviting node's public key blob.
    pub host_key: [u8; 32],
    pub expires: SystemTime,
    secret: [u8; 32],
}

impl fmt::Debug for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Invitation({} at {})", self.node, self.address)
    }
}

/// Why a word is no invitation. The word itself is not repeated: it may be a good one with a letter missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoInvitation {
    #[error("this is no invitation; one starts with gmj1_ [E0601]")]
    Prefix,
    #[error("this is an invitation of a newer gitmesh; upgrade this node [E0601]")]
    Newer,
    #[error("the invitation is damaged: a part of it is missing or changed; copy the whole word again [E0601]")]
    Damaged,
}

impl Invitation {
    /// A new one; `secret` is 32 random bytes of the caller's. Times are kept in whole seconds.
    pub fn new(node: HostName, address: Address, host_key: [u8; 32], expires: SystemTime, secret: [u8; 32]) -> Self {
        Self { node, address, host_key, expires: UNIX_EPOCH + Duration::from_secs(seconds(expires)), secret }
    }

    /// The key that the newcomer logs in with.
    pub fn key(&self) -> ssh_key::PrivateKey {
        let pair = KeypairData::from(Ed25519Keypair::from_seed(&self.secret));
        ssh_key::PrivateKey::new(pair, "invitation").expect("a key pair with an empty comment or a short one")
    }

    /// In OpenSSH's spelling.
    pub fn fingerprint(&self) -> Fingerprint {
        let text = data_encoding::BASE64_NOPAD.encode(&self.host_key);
        Fingerprint::new(format!("SHA256:{text}"))
    }

    /// The whole word. It is a secret until the invitation is used or has expired.
    pub fn expose(&self) -> String {
        let mut bytes = seconds(self.expires).to_be_bytes().to_vec();
        bytes.extend(self.host_key);
        bytes.extend(self.secret);
        for text in [self.node.to_string(), self.address.to_string()] {
            bytes.extend(u16::try_from(text.len()).expect("names and addresses are short").to_be_bytes());
            bytes.extend(text.into_bytes());
        }
        bytes.extend(checksum(&bytes));
        format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes))
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM] {
    let digest = Sha256::new().chain_update(PREFIX).chain_update(bytes).finalize();
    std::array::from_fn(|i| digest[i])
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Cuts `n` bytes off the front.
fn cut<'a>(rest: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (front, back) = rest.split_at_checked(n)?;
    *rest = back;
    Some(front)
}

fn cut_text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let length = u16::from_be_bytes(cut(rest, 2)?.try_into().ok()?);
    std::str::from_utf8(cut(rest, usize::from(length))?).ok()
}

impl FromStr for Invitation {
    type Err = NoInvitation;

    fn from_str(text: &str) -> Result<Self, NoInvitation> {
        // A terminal or a mail program may have broken the line.
        let word: String = text.chars().filter(|c| !c.is_whitespace()).take(LONGEST + 1).collect();
        let Some(body) = word.strip_prefix(PREFIX) else {
            let newer = word.strip_prefix("gmj").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
            return Err(if newer { NoInvitation::Newer } else { NoInvitation::Prefix });
        };
        let bytes = BASE64URL_NOPAD.decode(body.as_bytes()).map_err(|_| NoInvitation::Damaged)?;
        let parse = || {
            let (mut rest, sum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM)?)?;
            if sum != checksum(rest) {
                return None;
            }
            let expires = u64::from_be_bytes(cut(&mut rest, 8)?.try_into().ok()?);
            let host_key = cut(&mut rest, 32)?.try_into().ok()?;
            let secret = cut(&mut rest, 32)?.try_into().ok()?;
            let node = HostName::new(cut_text(&mut rest)?).ok()?;
            let address = cut_text(&mut rest)?.parse().ok()?;
            let expires = UNIX_EPOCH.checked_add(Duration::from_secs(expires))?;
            // What a later version adds behind is not this one's concern.
            Some(Self { node, address, host_key, expires, secret })
        };
        parse().ok_or(NoInvitation::Damaged)
    }
}

/// The inviting node's half of an invitation, as it is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invited {
    version: u32,
    /// The public half, as OpenSSH writes it.
    key: String,
    /// Seconds since 1970.
    expires: u64,
    /// The node that has used it.
    used: Option<User>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct User {
    node: String,
    /// Fingerprint of its identity.
    key: String,
}

/// Why an invitation lets nobody in any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    #[error(
        "FATAL: the invitation expired {ago} ago by this node's clock [E0603]\nhelp: ask for a new one: gitmesh peer token"
    )]
    Expired { ago: String },
    #[error(
        "FATAL: the invitation was used by '{node}' ({key}), and serves one node only [E0604]\nhelp: ask for another: gitmesh peer token"
    )]
    Used { node: String, key: String },
}

/// The invitations of a node, `invitations/` in its data directory. Every call reads the disk, so a running node and
/// a command beside it see the same.
#[derive(Debug, Clone)]
pub struct Invitations(PathBuf);

impl Invitations {
    pub fn of(data: &DataDir) -> Self {
        Self(data.path().join("invitations"))
    }

    fn file(&self, blob: &[u8]) -> PathBuf {
        self.0.join(format!("{}.json", &HEXLOWER.encode(&Sha256::digest(blob))[..32]))
    }

    /// Keeps the public half of a new invitation, and throws away those that ended a week before `now`.
    pub fn keep(&self, invitation: &Invitation, now: SystemTime) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        super::data::give_to_owner_of_parent(&self.0)?;
        self.sweep(now)?;
        if std::fs::read_dir(&self.0)?.count() >= MOST {
            return Err(io::Error::other(format!("{MOST} invitations are there already, in {}", self.0.display())));
        }
        let public = invitation.key().public_key().clone();
        let blob = public.to_bytes().map_err(io::Error::other)?;
        let key = public.to_openssh().map_err(io::Error::other)?;
        self.write(&blob, &Invited { version: 1, key, expires: seconds(invitation.expires), used: None })
    }

    fn write(&self, blob: &[u8], invited: &Invited) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(invited)?;
        text.push(b'\n');
        write_whole(&self.file(blob), &text, 0o600)
    }

    fn sweep(&self, now: SystemTime) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.0)? {
            let path = entry?.path();
            let read = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Invited>(&text).ok());
            let ended = read.is_some_and(|read| read.expires + KEPT.as_secs() < seconds(now));
            if ended {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// The invitation whose key this is (`blob` as in RFC 4253, section 6.6), ended or not. One look-up.
    pub fn find(&self, blob: &[u8]) -> Option<Invited> {
        let text = std::fs::read(self.file(blob)).ok()?;
        let invited: Invited = serde_json::from_slice(&text)
            .inspect_err(|error| tracing::warn!(%error, "an invitation on disk is damaged, and lets nobody in"))
            .ok()?;
        let same = parse_public_key(&invited.key).is_ok_and(|key| key.blob == blob);
        (invited.version == 1 && same).then_some(invited)
    }

    /// Binds the invitation to the node that uses it now. The same node may come again until it expires, so that what
    /// was cut off can be finished.
    pub fn use_up(&self, invited: &Invited, node: &HostName, key: &Fingerprint) -> io::Result<()> {
        let blob = parse_public_key(&invited.key).map_err(io::Error::other)?.blob;
        let used = Some(User { node: node.to_string(), key: key.to_string() });
        self.write(&blob, &Invited { used, ..invited.clone() })
    }
}

impl Invited {
    /// Whether the node with this identity may come in at `now`.
    pub fn admits(&self, key: &Fingerprint, now: SystemTime) -> Result<(), Ended> {
        if let Some(User { node, key: user }) = self.used.clone().filter(|user| user.key != key.as_str()) {
            return Err(Ended::Used { node, key: user });
        }
        match seconds(now).checked_sub(self.expires) {
            Some(ago) => Err(Ended::Expired { ago: rough(ago) }),
            None => Ok(()),
        }
    }
}

/// Seconds in words: `40 s`, `5 min`, `3 h`, `2 days`.
fn rough(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn invitation() -> Invitation {
        let node = HostName::new("server1").unwrap();
        Invitation::new(node, "git@[2001:db8::1]:2222".parse().unwrap(), [7; 32], at(1_000_000), [9; 32])
    }

    #[test]
    fn a_word_is_read_back_and_every_damage_is_seen() {
        let word = invitation().expose();
        assert_eq!(word.parse(), Ok(invitation()));
        assert!(word.len() < 180 && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b)), "{word}");
        assert_eq!(format!(" {}\n {} \n", &word[..40], &word[40..]).parse(), Ok(invitation()), "a broken line");
        assert!(!format!("{:?}", invitation()).contains(&word[50..70]));
        for at in PREFIX.len()..word.len() {
            let mut bad = word.clone().into_bytes();
            bad[at] = if bad[at] == b'A' { b'B' } else { b'A' };
            let bad = String::from_utf8(bad).unwrap();
            assert_eq!(bad.parse::<Invitation>(), Err(NoInvitation::Damaged), "letter {at}");
            assert!(word[..at].parse::<Invitation>().is_err(), "cut at {at}");
        }
        for (text, why) in [
            ("", NoInvitation::Prefix),
            ("server1", NoInvitation::Prefix),
            ("gmj2_AAAA", NoInvitation::Newer),
            ("gmj1_", NoInvitation::Damaged),
            ("gmj1_!", NoInvitation::Damaged),
        ] {
            assert_eq!(text.parse::<Invitation>(), Err(why), "{text}");
        }
    }

    #[test]
    fn an_invitation_admits_one_node_until_it_expires() {
        let dir = tempfile::tempdir().unwrap();
        let all = Invitations::of(&DataDir::new(dir.path().to_owned()));
        let invitation = invitation();
        let blob = invitation.key().public_key().to_bytes().unwrap();
        assert_eq!(all.find(&blob), None);
        all.keep(&invitation, at(999_000)).unwrap();
        let (one, two) = (Fingerprint::new("SHA256:one".into()), Fingerprint::new("SHA256:two".into()));
        let invited = all.find(&blob).unwrap();
        assert_eq!(invited.admits(&one, at(999_999)), Ok(()));
        assert_eq!(invited.admits(&one, at(1_000_300)), Err(Ended::Expired { ago: "5 min".into() }));
        all.use_up(&invited, &HostName::new("server2").unwrap(), &one).unwrap();
        let invited = all.find(&blob).unwrap();
        assert_eq!(invited.admits(&one, at(999_999)), Ok(()), "the same node may finish what it began");
        assert!(matches!(invited.admits(&two, at(999_999)), Err(Ended::Used { node, .. }) if node == "server2"));
        let on_disk = std::fs::read_to_string(all.file(&blob)).unwrap();
        assert!(!on_disk.contains(&HEXLOWER.encode(&[9; 32])) && !on_disk.contains(&BASE64URL_NOPAD.encode(&[9; 32])));

        let later = Invitation { secret: [8; 32], expires: at(9_000_000), ..invitation };
        all.keep(&later, at(1_000_000 + KEPT.as_secs() - 1)).unwrap();
        assert!(all.find(&blob).is_some(), "kept to tell why");
        all.keep(&later, at(1_000_000 + KEPT.as_secs() + 1)).unwrap();
        assert!(all.find(&blob).is_none());
    }
}

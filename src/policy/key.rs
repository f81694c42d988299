//! One public key in OpenSSH's form, and what is wrong with a text that is none.

use sha2::{Digest, Sha256};
use ssh_key::Algorithm;
use ssh_key::public::{EcdsaPublicKey, KeyData};

use super::key_options::KeyOptions;
use crate::model::Fingerprint;

/// Longest key line in bytes; an RSA key of 16,384 bits needs 2,800.
const LINE_BYTES_MAX: usize = 16 << 10;
/// RSA keys shorter than this can be broken.
pub(super) const RSA_BITS_MIN: u32 = 2048;

/// A public key that may be used to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// The wire form (RFC 4253, section 6.6).
    pub blob: Vec<u8>,
    /// `ssh-ed25519`, `ecdsa-sha2-nistp256`, `ssh-rsa`, …
    pub algorithm: String,
    pub comment: String,
    pub fingerprint: Fingerprint,
    /// Its length as ssh-keygen(1) tells it.
    pub bits: u32,
    pub options: KeyOptions,
}

/// Why a text is no usable public key. `Display` says what it is and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyProblem {
    #[error("it is empty; put the line of a file such as ~/.ssh/id_ed25519.pub here")]
    Empty,
    #[error("it holds bytes that are not text; give the .pub file, which is one line of text")]
    Binary,
    #[error("it is longer than {LINE_BYTES_MAX} bytes, which no key is")]
    TooLong,
    #[error("line {line}: this is RFC 4716 (ssh.com, PuTTY export) form; convert it with: ssh-keygen -i -f FILE")]
    Rfc4716 { line: u32 },
    #[error(
        "line {line}: this is a PuTTY key file, private key included; open it in PuTTYgen and copy the text of 'Public key for pasting into OpenSSH authorized_keys file'"
    )]
    Putty { line: u32 },
    #[error(
        "line {line}: this is a private key; use the .pub file beside it, and make a new key pair, since this one has been shown"
    )]
    Private { line: u32 },
    #[error("line {line}: this is a PEM public key; convert it with: ssh-keygen -i -m PKCS8 -f FILE")]
    Pem { line: u32 },
    #[error("line {line}: there are quotes around the key; take them away")]
    Quoted { line: u32 },
    #[error("line {line}: this is only a fingerprint; the whole line of the .pub file is needed")]
    FingerprintOnly { line: u32 },
    #[error("line {line}: this is a certificate; give the plain public key instead (the file without -cert)")]
    Certificate { line: u32 },
    #[error("line {line}: DSA keys are too weak and no longer supported; make a new one with: ssh-keygen -t ed25519")]
    Dsa { line: u32 },
    #[error(
        "line {line}: an RSA key of {bits} bits is too weak, {RSA_BITS_MIN} is the least; better make a new one with: ssh-keygen -t ed25519"
    )]
    WeakRsa { line: u32, bits: u32 },
    #[error("line {line}: the key is cut off or damaged; copy the line again, whole and without line breaks")]
    Damaged { line: u32 },
    #[error("line {line}: the line says '{said}' but the key inside is '{inside}'; copy the line again")]
    OtherAlgorithm { line: u32, said: String, inside: String },
    #[error("line {line}: '{algorithm}' is no key type that gitmesh knows; make one with: ssh-keygen -t ed25519")]
    UnknownAlgorithm { line: u32, algorithm: String },
    #[error(
        "line {line}: '{said}' is no moment for expiry-time; write expiry-time=\"20261201\" or \"202612011530\", in UTC"
    )]
    BadExpiry { line: u32, said: String },
    #[error(
        "line {line}: '{said}' in from= is no address, no network and no pattern of addresses; write from=\"192.0.2.7,10.0.0.0/8,2001:db8::/32\""
    )]
    BadFrom { line: u32, said: String },
    #[error("line {line}: the option '{said}' in front of the key has no value; write it as {said}=\"...\"")]
    NoValue { line: u32, said: String },
    #[error(
        "line {line}: 'cert-authority' makes this the key of a CA; put it into the file of [ssh] user_ca on each node instead"
    )]
    Authority { line: u32 },
    #[error("line {line}: this is no public key; it should look like: ssh-ed25519 AAAAC3... alice@laptop")]
    NoKey { line: u32 },
    #[error("line {line}: there is more than one key; give one here")]
    Several { line: u32 },
}

impl KeyProblem {
    /// The line it is about, from 1; none when it is about the whole text.
    pub fn line(&self) -> Option<u32> {
        match self {
            Self::Empty | Self::Binary | Self::TooLong => None,
            Self::Rfc4716 { line }
            | Self::Putty { line }
            | Self::Private { line }
            | Self::Pem { line }
            | Self::Quoted { line }
            | Self::FingerprintOnly { line }
            | Self::Certificate { line }
            | Self::Dsa { line }
            | Self::WeakRsa { line, .. }
            | Self::Damaged { line }
            | Self::OtherAlgorithm { line, .. }
            | Self::UnknownAlgorithm { line, .. }
            | Self::BadExpiry { line, .. }
            | Self::BadFrom { line, .. }
            | Self::NoValue { line, .. }
            | Self::Authority { line }
            | Self::NoKey { line }
            | Self::Several { line } => Some(*line),
        }
    }
}

/// Reads a text that holds exactly one key; blank lines and `#` comments around it are fine.
pub fn parse_public_key(text: &str) -> Result<PublicKey, KeyProblem> {
    let mut found = None;
    for (line, text) in key_lines(text.as_bytes())? {
        if found.is_some() {
            return Err(KeyProblem::Several { line });
        }
        found = Some(parse_line(text, line)?);
    }
    found.ok_or(KeyProblem::Empty)
}

/// The lines of a key file that are neither blank nor comments, with their numbers.
pub(super) fn key_lines(text: &[u8]) -> Result<Vec<(u32, &str)>, KeyProblem> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let text = std::str::from_utf8(text).map_err(|_| KeyProblem::Binary)?;
    if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        return Err(KeyProblem::Binary);
    }
    let lines = (1_u32..).zip(text.split('\n')).map(|(n, line)| (n, line.trim()));
    Ok(lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).collect())
}

/// Reads one line: `[options] ALGORITHM BASE64 [comment]`.
pub(super) fn parse_line(text: &str, line: u32) -> Result<PublicKey, KeyProblem> {
    if text.len() > LINE_BYTES_MAX {
        return Err(KeyProblem::TooLong);
    }
    known_mistake(text, line)?;
    let words = split_words(text);
    let found = words.iter().position(|word| is_algorithm(word)).filter(|at| *at <= 1);
    let Some(at) = found else {
        let unknown = words.get(1).filter(|blob| blob.starts_with("AAAA")).and_then(|_| words.first());
        return Err(match unknown {
            Some(word) => KeyProblem::UnknownAlgorithm { line, algorithm: (*word).to_owned() },
            None => KeyProblem::NoKey { line },
        });
    };
    let said = words[at];
    if said.contains("-cert-v0") {
        return Err(KeyProblem::Certificate { line });
    }
    if said == "ssh-dss" {
        return Err(KeyProblem::Dsa { line });
    }
    let base64 = words.get(at + 1).ok_or(KeyProblem::Damaged { line })?;
    let comment = words.get(at + 2..).unwrap_or_default().join(" ");
    // The word in front is not trusted: the key's own bytes say what it is.
    let key = ssh_key::PublicKey::from_openssh(&format!("{said} {base64}"));
    let key = match key {
        Ok(key) => key,
        Err(ssh_key::Error::AlgorithmUnknown | ssh_key::Error::Encoding(_)) if !base64.starts_with("AAAA") => {
            return Err(KeyProblem::Damaged { line });
        }
        Err(_) => return Err(mismatch(said, base64, line)),
    };
    let blob = key.to_bytes().map_err(|_| KeyProblem::Damaged { line })?;
    let bits = match key.key_data() {
        KeyData::Rsa(rsa) if rsa.key_size() < RSA_BITS_MIN => {
            return Err(KeyProblem::WeakRsa { line, bits: rsa.key_size() });
        }
        KeyData::Rsa(rsa) => rsa.key_size(),
        KeyData::Ecdsa(EcdsaPublicKey::NistP384(_)) => 384,
        KeyData::Ecdsa(EcdsaPublicKey::NistP521(_)) => 521,
        KeyData::Other(_) => {
            return Err(KeyProblem::UnknownAlgorithm { line, algorithm: said.to_owned() });
        }
        _ => 256,
    };
    let options = if at > 0 { KeyOptions::parse(words[0], line)? } else { KeyOptions::default() };
    let algorithm = key.algorithm().as_str().to_owned();
    let fingerprint = fingerprint(&blob);
    Ok(PublicKey { blob, algorithm, comment, fingerprint, bits, options })
}

/// Whether a key that does not decode is of another type than the line says, or simply damaged.
fn mismatch(said: &str, base64: &str, line: u32) -> KeyProblem {
    let others = ["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"];
    let fits = |word: &&&str| **word != said && ssh_key::PublicKey::from_openssh(&format!("{word} {base64}")).is_ok();
    match others.iter().find(fits) {
        Some(inside) => KeyProblem::OtherAlgorithm { line, said: said.to_owned(), inside: (*inside).to_owned() },
        None => KeyProblem::Damaged { line },
    }
}

/// What people paste instead of a public key.
fn known_mistake(text: &str, line: u32) -> Result<(), KeyProblem> {
    let problem = if text.starts_with("---- BEGIN SSH2 PUBLIC KEY") {
        KeyProblem::Rfc4716 { line }
    } else if text.starts_with("PuTTY-User-Key-File") {
        KeyProblem::Putty { line }
    } else if text.starts_with("-----BEGIN") && text.contains("PRIVATE KEY") {
        KeyProblem::Private { line }
    } else if text.starts_with("-----BEGIN") && text.contains("PUBLIC KEY") {
        KeyProblem::Pem { line }
    } else if text.starts_with(['"', '\'', '`']) {
        KeyProblem::Quoted { line }
    } else if text.starts_with("SHA256:") || text.starts_with("MD5:") || is_fingerprint_listing(text) {
        KeyProblem::FingerprintOnly { line }
    } else {
        return Ok(());
    };
    Err(problem)
}

/// `256 SHA256:… alice@laptop (ED25519)`, as ssh-keygen -l prints, or bare hexadecimal pairs.
fn is_fingerprint_listing(text: &str) -> bool {
    let listed = text.split_whitespace().nth(1).is_some_and(|w| w.starts_with("SHA256:") || w.starts_with("MD5:"));
    let first = text.split_whitespace().next().unwrap_or_default();
    let pairs = first.len() == 47 && first.split(':').all(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
    listed || pairs
}

pub(super) fn is_algorithm(word: &str) -> bool {
    word == "ssh-dss"
        || word.contains("-cert-v0")
        || matches!(Algorithm::new(word), Ok(known) if !matches!(known, Algorithm::Other(_)))
}

/// Words divided by blanks; quoted blanks (in options) divide nothing.
pub(super) fn split_words(text: &str) -> Vec<&str> {
    let (mut words, mut start, mut quoted, mut escaped) = (Vec::new(), None, false, false);
    for (at, c) in text.char_indices() {
        if c.is_whitespace() && !quoted {
            words.extend(start.take().map(|from: usize| &text[from..at]));
        } else {
            start.get_or_insert(at);
            quoted ^= c == '"' && !escaped;
        }
        escaped = c == '\\' && !escaped;
    }
    words.extend(start.map(|from| &text[from..]));
    words
}

/// OpenSSH's fingerprint of a key's wire form.
pub(super) fn fingerprint(blob: &[u8]) -> Fingerprint {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("SHA256:");
    for chunk in Sha256::digest(blob).chunks(3) {
        let group = chunk.iter().fold(0_u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for digit in 0..=chunk.len() {
            text.push(char::from(DIGITS[(group >> (18 - 6 * digit) & 63) as usize]));
        }
    }
    Fingerprint::new(text)
}

//! What users may do to their own keys: the options `keys.*` of the admin repository.
//!
//! `option keys.self = no` leaves keys to administrators, `keys.types = ed25519 sk-ed25519 rsa-3072+` says which keys
//! may be added, `keys.proof = yes` wants a signature by the new key, `keys.approve = yes` a second key's word. They
//! bind the command `keys`; whoever may push to the admin repository may put any key there.

use std::fmt;

use super::decide::Facts;
use super::key::PublicKey;
use super::parser::OPTION_PREFIX;
use super::rules::Policy;

/// How the names of these options begin.
pub(super) const PREFIX: &str = "keys.";
const NAMES: [&str; 4] = ["keys.self", "keys.types", "keys.proof", "keys.approve"];

/// Types as the option spells them, and how their algorithms begin.
const TYPES: [(&str, &str); 5] = [
    ("ed25519", "ssh-ed25519"),
    ("ecdsa", "ecdsa-sha2-"),
    ("rsa", "ssh-rsa"),
    ("sk-ed25519", "sk-ssh-ed25519@"),
    ("sk-ecdsa", "sk-ecdsa-sha2-"),
];

/// One word of `keys.types`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyType {
    name: &'static str,
    bits_min: u32,
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bits_min {
            0 => f.write_str(self.name),
            bits => write!(f, "{}-{bits}+", self.name),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRules {
    /// Users change their own keys.
    pub own: bool,
    /// Empty: all that gitmesh knows.
    pub types: Vec<KeyType>,
    pub proof: bool,
    pub approve: bool,
}

impl KeyRules {
    pub fn allow(&self, key: &PublicKey) -> bool {
        let fits = |kind: &KeyType| is_of(kind.name, &key.algorithm) && key.bits >= kind.bits_min;
        self.types.is_empty() || self.types.iter().any(fits)
    }
}

/// The name under which `keys.types` knows an algorithm, which is short enough for a table.
pub fn key_type(algorithm: &str) -> &str {
    TYPES.iter().find(|(name, _)| is_of(name, algorithm)).map_or(algorithm, |(name, _)| name)
}

fn is_of(name: &str, algorithm: &str) -> bool {
    TYPES.iter().any(|(known, begins)| *known == name && algorithm.starts_with(begins))
}

fn switch(value: &str) -> Option<bool> {
    match value {
        "yes" | "1" => Some(true),
        "no" | "0" => Some(false),
        _ => None,
    }
}

fn parse_type(word: &str) -> Option<KeyType> {
    let split = word.strip_suffix('+').and_then(|word| word.rsplit_once('-'));
    let (name, bits_min) = split.map_or(Some((word, 0)), |(name, bits)| Some((name, bits.parse().ok()?)))?;
    let known = TYPES.iter().find(|(known, _)| *known == name)?.0;
    Some(KeyType { name: known, bits_min })
}

/// What is wrong with a line `option NAME = VALUE`, if it is one of these: the message and the cure.
pub(super) fn problem(name: &str, value: &str) -> Option<(String, &'static str)> {
    if !name.starts_with(PREFIX) {
        return None;
    }
    let cure = "there are keys.self, keys.types, keys.proof and keys.approve";
    if !NAMES.contains(&name) {
        return Some((format!("'{name}' is no option about keys"), cure));
    }
    if name == "keys.types" {
        let bad = value.split_whitespace().find(|word| parse_type(word).is_none())?;
        let cure = "types are ed25519, ecdsa, rsa, sk-ed25519 and sk-ecdsa, with the least length as in rsa-3072+";
        return Some((format!("'{bad}' is no type of key"), cure));
    }
    let is_good = value.is_empty() || switch(value).is_some();
    (!is_good).then(|| (format!("'{value}' is neither yes nor no"), "write yes or no"))
}

impl Policy {
    /// `facts` are those of the admin repository.
    pub fn key_rules(&self, facts: &Facts<'_>) -> KeyRules {
        let config = self.config(facts);
        let value = |name: &str| config.get(&format!("{OPTION_PREFIX}{name}")).map(String::as_str);
        let is_on = |name: &str, default: bool| value(name).and_then(switch).unwrap_or(default);
        let types = value("keys.types").unwrap_or_default().split_whitespace().filter_map(parse_type).collect();
        KeyRules {
            own: is_on("keys.self", true),
            types,
            proof: is_on("keys.proof", false),
            approve: is_on("keys.approve", false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RepoName;
    use crate::policy::{Settings, Sources, compile, parse_public_key};

    fn rules(options: &str) -> Result<KeyRules, Vec<&'static str>> {
        let conf = format!("repo gitmesh-admin\n RW+ = alice\n{options}\n");
        let sources = Sources { main: "gitmesh.conf".into(), files: [("gitmesh.conf".into(), conf.into())].into() };
        let compiled = compile(&sources, &Settings::default());
        let admin = RepoName::new("gitmesh-admin").unwrap();
        let classes = compiled.diagnostics.iter().map(|d| d.class).collect();
        compiled.policy.ok_or(classes).map(|policy| policy.key_rules(&Facts::existing(&admin)))
    }

    #[test]
    fn options_and_their_defaults() {
        let plain = rules("").unwrap();
        assert_eq!((plain.own, plain.proof, plain.approve, plain.types.len()), (true, false, false, 0));
        let set = rules(" option keys.self = no\n option keys.types = ed25519 rsa-3072+\n option keys.proof = yes\n")
            .unwrap();
        let types: Vec<_> = set.types.iter().map(ToString::to_string).collect();
        assert_eq!((set.own, set.proof, types.join(" ").as_str()), (false, true, "ed25519 rsa-3072+"));
        assert!(!rules(" option keys.self = 0").unwrap().own, "gitolite's 0 is a no too");
        for bad in ["keys.self = maybe", "keys.types = ed25519 dsa", "keys.types = rsa-big+", "keys.proofs = yes"] {
            assert_eq!(rules(&format!(" option {bad}")), Err(vec!["bad-key-option"]), "{bad}");
        }
    }

    #[test]
    fn which_keys_fit() {
        let ecdsa = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBEAQW3M4c56Niu3E0lUSDtxnJBy74WqdI5lXRGI/dxjKN4AJKGPLhdT0WE+jxm0Ya5OoNOaNCdqjZs7qtx4MlTA=";
        let key = parse_public_key(ecdsa).unwrap();
        assert_eq!((key.bits, key_type(&key.algorithm)), (256, "ecdsa"));
        let fits = |types: &str| rules(&format!(" option keys.types = {types}")).unwrap().allow(&key);
        assert_eq!(
            ["ecdsa", "ed25519 ecdsa-256+", "ecdsa-384+", "rsa", "sk-ecdsa"].map(fits),
            [true, true, false, false, false]
        );
        assert!(rules("").unwrap().allow(&key));
    }

    #[test]
    fn a_line_that_reaches_the_wrong_repository_is_told() {
        let told = |repo: &str| {
            let conf = format!("repo gitmesh-admin\n RW+ = alice\nrepo {repo}\n R = alice\n option keys.proof = yes\n");
            let sources = Sources { main: "gitmesh.conf".into(), files: [("gitmesh.conf".into(), conf.into())].into() };
            compile(&sources, &Settings::default()).diagnostics.iter().any(|d| d.class == "option-elsewhere")
        };
        assert_eq!(["docs", "@all", "gitmesh-admin", "doc.*"].map(told), [true, false, false, false]);
    }
}

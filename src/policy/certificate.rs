//! OpenSSH user certificates: what a CA may vouch for, and for how long (OpenSSH, PROTOCOL.certkeys).
//!
//! A certificate counts for one user, its principal. Whatever would narrow it in a way that cannot be carried out here
//! refuses it, so that nothing a CA has forbidden is let in.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ssh_key::public::KeyData;
use ssh_key::{Algorithm, Certificate, HashAlg};

use super::address_list::AddressList;
use super::key::{self, RSA_BITS_MIN};
use crate::model::time::{Stamp, rfc3339};
use crate::model::{Certified, Fingerprint, UserName};

/// How much of a CA's free text is kept.
const ID_MAX: usize = 100;

/// The CAs that are believed, and what counts no more although they have signed it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Authorities {
    keys: BTreeSet<Fingerprint>,
    revoked: BTreeSet<Revoked>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Revoked {
    /// The key of a user or of a CA.
    Key(Fingerprint),
    Serial(u64),
}

/// Why a certificate opens nothing. `Display` says what it is; `cure` how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateProblem {
    #[error("certificates open nothing here")]
    NotTaken,
    #[error("it is signed by the CA {0}, which is not known here")]
    UnknownAuthority(Fingerprint),
    #[error("it is a host certificate")]
    Host,
    #[error("it is valid from {0} on only")]
    NotYet(String),
    #[error("it has expired, at {0}")]
    Expired(String),
    #[error("its signature is wrong")]
    Signature,
    #[error("it is signed with SHA-1")]
    Sha1,
    #[error("its key, or that of its CA, is too weak or of a type that is not taken")]
    Weak,
    #[error("it has been revoked")]
    Revoked,
    #[error("it names no principal, so it would be anybody's")]
    NoPrincipal,
    #[error("it names several principals: {0}")]
    SeveralPrincipals(String),
    #[error("its principal '{0}' is no user's name")]
    Principal(String),
    #[error("its source-address does not hold {0}")]
    Address(IpAddr),
    #[error("its critical option '{0}' cannot be kept here")]
    Option(String),
    #[error("its key belongs to somebody else here")]
    KeyOfAnother,
}

impl CertificateProblem {
    pub fn cure(&self) -> &'static str {
        match self {
            Self::NotTaken | Self::UnknownAuthority(_) => {
                "an administrator puts the CA's public key into the file of [ssh] user_ca on this node"
            }
            Self::Host => "have your CA sign your key as a user's, ssh-keygen -s CA -I ID -n NAME (without -h)",
            Self::NotYet(_) => "wait for it, or look at the clocks of the CA and of this node",
            Self::Expired(_) => "have your CA sign your key again",
            Self::Signature | Self::Sha1 | Self::Weak => {
                "have your CA sign a key that is strong with one that is: ssh-keygen -t ed25519; for RSA -t rsa-sha2-512"
            }
            Self::Revoked => "make a new key and have your CA sign it",
            Self::NoPrincipal | Self::SeveralPrincipals(_) | Self::Principal(_) => {
                "have your CA sign it for the one user you are here: ssh-keygen -s CA -I ID -n NAME"
            }
            Self::Address(_) => "come from where your CA lets you, or have it sign your key for here",
            Self::Option(_) => "have your CA sign your key without it; source-address alone is understood",
            Self::KeyOfAnother => "make a key of your own, and have your CA sign that",
        }
    }
}

impl Authorities {
    /// Reads a file of CA keys, one a line, and a list of what is revoked: fingerprints and serial numbers. The error
    /// says what is wrong with which.
    pub fn read(text: &[u8], revoked: &[String]) -> Result<Self, String> {
        let mut keys = BTreeSet::new();
        for (line, text) in key::key_lines(text).map_err(|problem| problem.to_string())? {
            let key = key::parse_line(text.trim_start_matches("cert-authority "), line).map_err(|e| e.to_string())?;
            if key.options != super::KeyOptions::default() {
                return Err(format!("line {line}: options in front of a CA's key have no effect; take them away"));
            }
            keys.insert(key.fingerprint);
        }
        let revoked: Result<_, String> = revoked.iter().map(|word| parse_revoked(word)).collect();
        Ok(Self { keys, revoked: revoked? })
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether what was certified once still is.
    pub fn vouch(&self, by: &Certified, key: &Fingerprint, now: Stamp) -> bool {
        let is_revoked = |key: &Fingerprint| self.revoked.contains(&Revoked::Key(key.clone()));
        let revoked = is_revoked(key) || is_revoked(&by.ca) || self.revoked.contains(&Revoked::Serial(by.serial));
        self.keys.contains(&by.ca) && !revoked && now.seconds() < by.until
    }

    /// Whom a certificate makes its holder who logs in as `login` from an address: the wire form of its key, that
    /// key's fingerprint, and by whose word.
    pub fn judge(
        &self,
        certificate: &Certificate,
        login: &str,
        from: IpAddr,
        now: Stamp,
    ) -> Result<(Vec<u8>, Fingerprint, Certified), CertificateProblem> {
        if self.is_empty() {
            return Err(CertificateProblem::NotTaken);
        }
        let authority = certificate.signature_key();
        let (Some(blob), Some(authority_blob)) = (blob_of(certificate.public_key()), blob_of(authority)) else {
            return Err(CertificateProblem::Weak);
        };
        let (key, ca) = (key::fingerprint(&blob), key::fingerprint(&authority_blob));
        if !self.keys.contains(&ca) {
            return Err(CertificateProblem::UnknownAuthority(ca));
        }
        if !certificate.cert_type().is_user() {
            return Err(CertificateProblem::Host);
        }
        // The bounds are read as numbers: beyond 2^63 they are no moments, and would count as no bounds.
        let (after, until) = (certificate.valid_after(), certificate.valid_before());
        if now.seconds() < after {
            return Err(CertificateProblem::NotYet(told(after)));
        }
        if now.seconds() >= until {
            return Err(CertificateProblem::Expired(told(until)));
        }
        if certificate.signature().algorithm() == (Algorithm::Rsa { hash: None }) {
            return Err(CertificateProblem::Sha1);
        }
        let trusted = [authority.fingerprint(HashAlg::Sha256)];
        certificate.validate_at(now.seconds(), &trusted).map_err(|_| CertificateProblem::Signature)?;
        let user = principal(certificate.valid_principals(), login)?;
        for (name, value) in certificate.critical_options().iter() {
            match name.as_str() {
                "source-address" => {
                    let list = AddressList::of_networks(value).map_err(|_| CertificateProblem::Option(plain(name)))?;
                    if !list.admit(from) {
                        return Err(CertificateProblem::Address(from.to_canonical()));
                    }
                }
                // There is no shell to force anything in, and whether a PIN was asked for is not told to us.
                other => return Err(CertificateProblem::Option(plain(other))),
            }
        }
        let certified = Certified { user, ca, serial: certificate.serial(), id: plain(certificate.key_id()), until };
        if self.vouch(&certified, &key, now) { Ok((blob, key, certified)) } else { Err(CertificateProblem::Revoked) }
    }
}

fn parse_revoked(word: &str) -> Result<Revoked, String> {
    let serial = || word.parse().ok().map(Revoked::Serial);
    Fingerprint::parse(word).map(Revoked::Key).or_else(serial).ok_or_else(|| {
        format!("'{word}' is neither the fingerprint of a key, \"SHA256:...\", nor the serial number of a certificate")
    })
}

/// The wire form of a key that may be used at all.
fn blob_of(key: &KeyData) -> Option<Vec<u8>> {
    match key {
        KeyData::Rsa(rsa) if rsa.key_size() < RSA_BITS_MIN => None,
        KeyData::Rsa(_)
        | KeyData::Ed25519(_)
        | KeyData::Ecdsa(_)
        | KeyData::SkEd25519(_)
        | KeyData::SkEcdsaSha2NistP256(_) => ssh_key::PublicKey::from(key.clone()).to_bytes().ok(),
        _ => None,
    }
}

/// The user among the principals: the login name that all clients use, as in `-n git,alice`, is nobody's.
fn principal(names: &[String], login: &str) -> Result<UserName, CertificateProblem> {
    let users: Vec<&str> = names.iter().map(String::as_str).filter(|name| *name != login).collect();
    match users[..] {
        [] => Err(CertificateProblem::NoPrincipal),
        // Nodes are called so, and '0' and '' mean nobody in gitolite's files.
        [name] if !name.starts_with("server-") && name != "0" => {
            UserName::new(name).map_err(|_| CertificateProblem::Principal(plain(name)))
        }
        [name] => Err(CertificateProblem::Principal(plain(name))),
        _ => Err(CertificateProblem::SeveralPrincipals(plain(&users.join(", ")))),
    }
}

fn told(seconds: u64) -> String {
    // The last second of the year 9999; what is later is never.
    if seconds > 253_402_300_799 { "never".to_owned() } else { rfc3339(Stamp::of_seconds(seconds).moment()) }
}

/// A text of the CA's or of a stranger's, for logs.
fn plain(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(ID_MAX).collect()
}

#[cfg(test)]
mod tests {
    use ssh_key::PrivateKey;
    use ssh_key::certificate::{Builder, CertType};
    use ssh_key::private::{Ed25519Keypair, KeypairData};

    use super::*;

    const NOW: u64 = 1_795_252_200;

    fn key(seed: u8) -> PrivateKey {
        PrivateKey::new(KeypairData::from(Ed25519Keypair::from_seed(&[seed; 32])), "").unwrap()
    }

    fn authorities(revoked: &[&str]) -> Authorities {
        let revoked: Vec<String> = revoked.iter().map(|word| (*word).to_owned()).collect();
        let file = format!("# ours\n{}\n", key(9).public_key().to_openssh().unwrap());
        Authorities::read(file.as_bytes(), &revoked).unwrap()
    }

    /// A certificate for bob that is good, but for what `change` does.
    fn made_by(ca: u8, after: u64, until: u64, change: impl FnOnce(&mut Builder)) -> Certificate {
        let mut builder = Builder::new([7; 16], key(1).public_key().key_data().clone(), after, until).unwrap();
        builder.serial(42).unwrap().key_id("bob's laptop").unwrap();
        change(&mut builder);
        builder.sign(&key(ca)).unwrap()
    }

    fn for_bob(change: impl FnOnce(&mut Builder)) -> Certificate {
        made_by(9, NOW - 60, NOW + 60, |builder| {
            builder.valid_principal("bob").unwrap();
            change(builder);
        })
    }

    fn judged(certificate: &Certificate) -> Result<String, CertificateProblem> {
        asked(certificate, &authorities(&[]), "10.1.2.3")
    }

    fn asked(certificate: &Certificate, by: &Authorities, from: &str) -> Result<String, CertificateProblem> {
        let found = by.judge(certificate, "git", from.parse().unwrap(), Stamp::of_seconds(NOW));
        found.map(|(_, key, by)| format!("{} {key} {} {} {} {}", by.user, by.serial, by.id, by.ca, by.until))
    }

    #[test]
    fn whom_a_certificate_makes_its_holder() {
        let told = |seed| key(seed).public_key().fingerprint(HashAlg::Sha256).to_string();
        let wanted = format!("bob {} 42 bob's laptop {} {}", told(1), told(9), NOW + 60);
        assert_eq!(judged(&for_bob(|_| ())), Ok(wanted.clone()));
        let with_login = for_bob(|builder| {
            builder.valid_principal("git").unwrap();
        });
        assert_eq!(judged(&with_login), Ok(wanted));
        let for_ever = made_by(9, 0, u64::MAX, |builder| {
            builder.valid_principal("bob").unwrap();
        });
        assert!(judged(&for_ever).is_ok());
    }

    #[test]
    fn who_is_refused() {
        use CertificateProblem as P;
        let bob = |builder: &mut Builder| {
            builder.valid_principal("bob").unwrap();
        };
        let ca = key(8).public_key().fingerprint(HashAlg::Sha256).to_string();
        let ca = Fingerprint::parse(&ca).unwrap();
        assert_eq!(judged(&made_by(8, NOW - 60, NOW + 60, bob)), Err(P::UnknownAuthority(ca)));
        let host = for_bob(|builder| {
            builder.cert_type(CertType::Host).unwrap();
        });
        assert_eq!(judged(&host), Err(P::Host));
        for (after, until, good) in [
            (NOW, NOW + 1, true),
            (NOW + 1, NOW + 60, false),
            (NOW - 60, NOW, false),
            (1 << 63, u64::MAX, false),
            (0, 1 << 63, true),
        ] {
            let bounded = judged(&made_by(9, after, until, bob));
            assert_eq!(bounded.is_ok(), good, "{after} {until} {bounded:?}");
        }
        assert_eq!(judged(&made_by(9, NOW - 60, NOW, bob)), Err(P::Expired(rfc3339(Stamp::of_seconds(NOW).moment()))));
        let nobody = |builder: &mut Builder| {
            builder.all_principals_valid().unwrap();
        };
        assert_eq!(judged(&made_by(9, 0, u64::MAX, nobody)), Err(P::NoPrincipal));
        let only = |names: &'static [&'static str]| {
            move |builder: &mut Builder| {
                for name in names {
                    builder.valid_principal(*name).unwrap();
                }
            }
        };
        let named = |names| judged(&made_by(9, 0, u64::MAX, only(names)));
        assert_eq!(named(&["git"]), Err(P::NoPrincipal));
        assert_eq!(named(&["bob", "carol"]), Err(P::SeveralPrincipals("bob, carol".to_owned())));
        for name in [&["server-x"][..], &["0"], &["../x"], &["b ob"], &["@all"], &[""]] {
            let name: &'static [&'static str] = name.to_vec().leak();
            assert!(matches!(named(name), Err(P::Principal(_))), "{name:?}: {:?}", named(name));
        }
    }

    #[test]
    fn critical_options_and_revocation() {
        use CertificateProblem as P;
        let option = |name: &'static str, value: &'static str| {
            for_bob(move |builder| {
                builder.critical_option(name, value).unwrap();
            })
        };
        let from = |value, from| asked(&option("source-address", value), &authorities(&[]), from);
        assert!(from("10.0.0.0/8", "10.1.2.3").is_ok() && from("::1,10.0.0.0/8", "::ffff:10.1.2.3").is_ok());
        assert_eq!(from("10.0.0.0/8", "11.1.2.3"), Err(P::Address("11.1.2.3".parse().unwrap())));
        for bad in ["10.*", "!11.0.0.0/8", "", "host"] {
            assert_eq!(from(bad, "10.1.2.3"), Err(P::Option("source-address".to_owned())), "{bad}");
        }
        for (name, value) in [("force-command", "x"), ("verify-required", ""), ("x@example.org", "y")] {
            assert_eq!(judged(&option(name, value)), Err(P::Option(name.to_owned())));
        }
        let good = for_bob(|_| ());
        let (user, ca) = (key(1), key(9));
        let told = |key: &PrivateKey| key.public_key().fingerprint(HashAlg::Sha256).to_string();
        for revoked in [told(&user), told(&ca), "42".to_owned()] {
            assert_eq!(asked(&good, &authorities(&[&revoked]), "::1"), Err(P::Revoked), "{revoked}");
        }
        assert!(asked(&good, &authorities(&["41", &told(&key(5))]), "::1").is_ok());
        assert!(Authorities::read(b"", &["x".to_owned()]).is_err());
        assert_eq!(asked(&good, &Authorities::default(), "::1"), Err(P::NotTaken));
        let line = key(9).public_key().to_openssh().unwrap();
        assert_eq!(Authorities::read(format!("cert-authority {line}").as_bytes(), &[]), Ok(authorities(&[])));
        for bad in ["rubbish", &format!("no-pty {line}"), "ssh-rsa AAAA"] {
            assert!(Authorities::read(bad.as_bytes(), &[]).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_signed_wrongly() {
        let good = for_bob(|_| ());
        let mut bytes = good.to_bytes().unwrap();
        let at = bytes.windows(3).position(|three| three == b"bob").unwrap();
        bytes[at..at + 3].copy_from_slice(b"ann");
        let forged = Certificate::from_bytes(&bytes).unwrap();
        assert_eq!(judged(&forged), Err(CertificateProblem::Signature));
    }

    #[test]
    fn what_was_certified_ends() {
        let (_, key, by) =
            authorities(&[]).judge(&for_bob(|_| ()), "git", "::1".parse().unwrap(), Stamp::of_seconds(NOW)).unwrap();
        let at = |seconds| authorities(&[]).vouch(&by, &key, Stamp::of_seconds(seconds));
        assert_eq!((at(NOW), at(NOW + 59), at(NOW + 60)), (true, true, false));
        assert!(!Authorities::default().vouch(&by, &key, Stamp::of_seconds(NOW)));
        assert!(!authorities(&["42"]).vouch(&by, &key, Stamp::of_seconds(NOW)));
    }
}

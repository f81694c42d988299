//! A signature by a key over a text (`ssh-keygen -Y sign`; OpenSSH, PROTOCOL.sshsig).

use ssh_key::{PublicKey, SshSig};

/// What the signature is for, so that one made for something else is none here.
pub const NAMESPACE: &str = "gitmesh-key";

/// How a signature begins; a key's own text stands before it.
pub const SIGNATURE_BEGINS: &str = "-----BEGIN SSH SIGNATURE-----";

/// Why a signature proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoProof {
    #[error("the signature is cut off or damaged")]
    Damaged,
    #[error("the signature is by another key")]
    OtherKey,
    #[error("the signature was made with another '-n' than {NAMESPACE}")]
    Namespace,
    #[error("the signature is not of the text that was asked for")]
    OtherText,
}

/// Whether the holder of the key with this wire form has signed the text, with a newline behind it or without.
pub fn verify_proof(blob: &[u8], text: &str, signature: &str) -> Result<(), NoProof> {
    let signature = SshSig::from_pem(format!("{}\n", signature.trim())).map_err(|_| NoProof::Damaged)?;
    let key = PublicKey::from_bytes(blob).map_err(|_| NoProof::Damaged)?;
    if key.key_data() != signature.public_key() {
        return Err(NoProof::OtherKey);
    }
    if signature.namespace() != NAMESPACE {
        return Err(NoProof::Namespace);
    }
    let text = text.trim_end();
    let is_good = |text: &str| key.verify(NAMESPACE, text.as_bytes(), &signature).is_ok();
    if is_good(&format!("{text}\n")) || is_good(text) { Ok(()) } else { Err(NoProof::OtherText) }
}

#[cfg(test)]
mod tests {
    use ssh_key::private::{Ed25519Keypair, KeypairData};
    use ssh_key::{HashAlg, LineEnding, PrivateKey};

    use super::*;

    fn key(seed: u8) -> PrivateKey {
        PrivateKey::new(KeypairData::from(Ed25519Keypair::from_seed(&[seed; 32])), "x").unwrap()
    }

    #[test]
    fn only_the_key_itself_over_this_very_text() {
        let (mine, other) = (key(1), key(2));
        let blob = mine.public_key().to_bytes().unwrap();
        let sign = |key: &PrivateKey, namespace: &str, text: &str| {
            key.sign(namespace, HashAlg::Sha512, text.as_bytes()).unwrap().to_pem(LineEnding::LF).unwrap()
        };
        let check = |signature: &str| verify_proof(&blob, "gitmesh-key alice 1", signature);
        assert_eq!(check(&sign(&mine, NAMESPACE, "gitmesh-key alice 1")), Ok(()));
        assert_eq!(check(&format!("\r\n{}", sign(&mine, NAMESPACE, "gitmesh-key alice 1\n"))), Ok(()));
        assert_eq!(check(&sign(&other, NAMESPACE, "gitmesh-key alice 1")), Err(NoProof::OtherKey));
        assert_eq!(check(&sign(&mine, "git", "gitmesh-key alice 1")), Err(NoProof::Namespace));
        assert_eq!(check(&sign(&mine, NAMESPACE, "gitmesh-key alice 2")), Err(NoProof::OtherText));
        let good = sign(&mine, NAMESPACE, "gitmesh-key alice 1");
        for bad in ["", "x", &good[..good.len() / 2], &good.replacen("U1NI", "AAAA", 1)] {
            assert_eq!(check(bad), Err(NoProof::Damaged), "{bad}");
        }
    }
}

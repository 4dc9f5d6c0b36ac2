//! Keys and what is named after them.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use super::{PublicKey, first_half, sha256};
use crate::id::NodeId;

/// An Ed25519 private key with its public half. Cloning shares it.
#[derive(Clone)]
pub struct Keypair {
    seed: [u8; 32],
    public: PublicKey,
    inner: Arc<Ed25519KeyPair>,
}

impl Keypair {
    /// The key pair of these 32 random bytes (RFC 8032 §5.1.5).
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let inner = Ed25519KeyPair::from_seed_unchecked(&seed)
            .expect("any 32 bytes are an Ed25519 private key");
        let mut public = PublicKey::default();
        public.copy_from_slice(inner.public_key().as_ref());
        Self { seed, public, inner: Arc::new(inner) }
    }

    /// What [`Keypair::from_seed`] takes: for storing. Secret.
    pub fn seed(&self) -> [u8; 32] {
        self.seed
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The node that this key, as a first key, names.
    pub fn node(&self) -> NodeId {
        node_id(&self.public)
    }

    /// Signs; 64 bytes.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.inner.sign(message).as_ref().to_vec()
    }

    /// The private key as PKCS #8 version 1 in DER (RFC 8410 §7), as TLS libraries take it.
    /// Secret.
    pub fn pkcs8(&self) -> Vec<u8> {
        const HEAD: [u8; 16] = [
            0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22,
            0x04, 0x20,
        ];
        [HEAD.as_slice(), &self.seed].concat()
    }
}

impl fmt::Debug for Keypair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keypair({})", data_encoding::HEXLOWER.encode(&self.public))
    }
}

/// The node that `key`, as a first key, names.
pub fn node_id(key: &PublicKey) -> NodeId {
    NodeId(first_half(sha256(&[key])))
}

/// Whether `signature` over `message` was made with the private half of `key`.
pub fn verify(key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok()
}

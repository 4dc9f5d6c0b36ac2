//! Keys and what is named after them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use super::{LIFETIME_MAX_MS, PublicKey, first_half, sha256};
use crate::id::{NodeId, StatementId};

/// An Ed25519 private key with its public half. Cloning shares it.
#[derive(Clone)]
pub struct Keypair {
    seed: [u8; 32],
    public: PublicKey,
    node: NodeId,
    inner: Arc<Ed25519KeyPair>,
}

impl Keypair {
    /// The key pair of these 32 random bytes (RFC 8032 §5.1.5), as the first one of a node.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let inner = Ed25519KeyPair::from_seed_unchecked(&seed)
            .expect("any 32 bytes are an Ed25519 private key");
        let mut public = PublicKey::default();
        public.copy_from_slice(inner.public_key().as_ref());
        Self { seed, public, node: node_id(&public), inner: Arc::new(inner) }
    }

    /// The same as a later key of `node`.
    pub fn of(node: NodeId, seed: [u8; 32]) -> Self {
        Self { node, ..Self::from_seed(seed) }
    }

    /// What [`Keypair::from_seed`] takes: for storing. Secret.
    pub fn seed(&self) -> [u8; 32] {
        self.seed
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// Whose it is.
    pub fn node(&self) -> NodeId {
        self.node
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

impl PartialEq for Keypair {
    /// By what the world sees of it, so that no time spent tells of the secret.
    fn eq(&self, other: &Self) -> bool {
        (self.node, self.public) == (other.node, other.public)
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

/// The keys of one node: its first, and what it changed them to. A key that was stolen may have
/// been used to change them in another way as well: of two changes with the same number the one
/// with the lower hash counts, and what either key signed is looked at.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    /// By number and by the change that brought it.
    keys: BTreeMap<(u32, StatementId), PublicKey>,
    /// Which number's holder ended those before it, at what time and but for which acts.
    retired: BTreeMap<u32, (u64, BTreeSet<StatementId>)>,
}

impl Keys {
    pub(super) fn new(first: PublicKey) -> Self {
        let keys = BTreeMap::from([((0, StatementId([0; 16])), first)]);
        Self { keys, retired: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, number: u32, key: PublicKey, by: StatementId) {
        self.keys.insert((number, by), key);
    }

    pub(super) fn retire(&mut self, number: u32, at: u64, cut: &[StatementId]) {
        let (earliest, acts) = self.retired.entry(number).or_insert((at, BTreeSet::new()));
        *earliest = at.min(*earliest);
        acts.extend(cut.iter().copied());
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&PublicKey, u32)> {
        self.keys.iter().map(|((number, _), key)| (key, *number))
    }

    pub(super) fn numbered(&self, number: u32) -> impl Iterator<Item = &PublicKey> {
        self.all().filter(move |(_, of)| *of == number).map(|(key, _)| key)
    }

    pub(super) fn number_of(&self, key: &PublicKey) -> Option<u32> {
        self.all().find(|(of, _)| *of == key).map(|(_, number)| number)
    }

    fn number(&self) -> u32 {
        self.keys.keys().next_back().map_or(0, |(number, _)| *number)
    }

    fn at(&self, number: u32) -> PublicKey {
        self.numbered(number).next().copied().unwrap_or_default()
    }

    /// The newest key that is in use: one that was announced is, once it has ended the others.
    pub(super) fn current(&self) -> PublicKey {
        self.at(self.retired.keys().next_back().copied().unwrap_or(0))
    }

    /// The keys that may be shown in a handshake: from the one in use to the newest.
    pub(super) fn shown(&self) -> impl Iterator<Item = PublicKey> {
        let from = self.retired.keys().next_back().copied().unwrap_or(0);
        (from..=self.number()).map(|number| self.at(number))
    }

    /// The keys that may have signed what expires then: what a key signed that was given up
    /// expires a lifetime later at the latest.
    pub(super) fn signing(&self, expires: u64) -> impl Iterator<Item = PublicKey> {
        self.all()
            .filter(move |(_, number)| {
                let mut later = self.retired.range(number + 1..);
                later.all(|(_, (at, _))| expires <= at.saturating_add(LIFETIME_MAX_MS))
            })
            .map(|(key, _)| *key)
    }

    /// Whether a statement that is signed with that key was made after the key was given up.
    pub(super) fn voids(&self, number: u32, statement: StatementId) -> bool {
        self.retired.range(number + 1..).any(|(_, (_, acts))| !acts.contains(&statement))
    }
}

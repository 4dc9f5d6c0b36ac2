//! Who belongs to the mesh: admissions, invitations, credentials, and the chain of signatures
//! that ties each to the founder.

use serde::{Deserialize, Serialize};

use crate::id::{InviteId, MeshId, NodeId};

/// A raw Ed25519 public key.
pub type PublicKey = [u8; 32];

/// A signed statement that a node belongs to the mesh. Add-only; kept and handed on by everyone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Admission {
    /// Who is admitted.
    pub node: NodeId,
    /// The key that its links must prove.
    pub key: PublicKey,
    /// The member that admitted it; itself for the founder.
    pub by: NodeId,
    /// The invitation it came with; `None` for the founder.
    pub invite: Option<InviteId>,
    /// For the founder, a random nonce that makes the mesh unique; zeroes otherwise.
    pub nonce: [u8; 16],
    /// Ed25519 signature of all the above by `by`'s key.
    pub signature: Vec<u8>,
}

/// The admissions from a node up to the founder, the node's own first. At most
/// [`CHAIN_MAX`] long.
pub type Chain = Vec<Admission>;

/// Longest chain of admissions that is followed, so that a forged one cannot cost much.
pub const CHAIN_MAX: usize = 512;

/// A signed right to let nodes in, made by any member, verified by any other without having
/// stored anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invite {
    /// Which one, so that uses can be counted.
    pub id: InviteId,
    /// The mesh it opens.
    pub mesh: MeshId,
    /// The inviting member.
    pub by: NodeId,
    /// Public half of the one-off key pair whose private half is in the invitation string.
    pub key: PublicKey,
    /// Milliseconds since 1970.
    pub expires: u64,
    /// How many nodes it admits.
    pub uses: u32,
    /// Ed25519 signature of all the above by the inviting member's key.
    pub signature: Vec<u8>,
}

/// A fingerprint of a set of admissions: equal for equal sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AdmissionDigest {
    /// How many.
    pub count: u64,
    /// XOR of the first 16 bytes of each one's SHA-256.
    pub hash: [u8; 16],
}

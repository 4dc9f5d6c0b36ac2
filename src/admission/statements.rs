//! What members say about members: signed, grow-only, kept and handed on by everyone.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Admission, Invite, PublicKey, first_half, sha256};
use crate::accounts::CUT_ACTORS_MAX;
use crate::id::{ActorId, MeshId, NodeId, StatementId};

/// The most acts that a cut names: the admissions of ten full meshes. Those that make present
/// members come first.
pub const CUT_MAX: usize = 2_000;

/// The longest reason of a revocation, in bytes: a sentence for people.
pub const REASON_MAX: usize = 256;

/// What an invitation said, as the member that used it for an admission saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Terms {
    /// Who made the invitation.
    pub by: NodeId,
    /// How many nodes it admits.
    pub uses: u32,
    /// Which of them this one is, as far as the admitting member knew.
    pub nth: u32,
}

/// Shuts a node out. It wins over whatever is concurrent with it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Revocation {
    /// Who is shut out.
    pub node: NodeId,
    /// Who says so.
    pub by: NodeId,
    /// Random, so that a node can be revoked again after it was readmitted.
    pub nonce: [u8; 16],
    /// What `by` had seen of the node's acts. Acts beyond it are void.
    pub cut: Vec<StatementId>,
    /// Why, for people.
    pub reason: String,
    /// By a key of `by`.
    pub signature: Vec<u8>,
    /// What `by` had seen of the node's writes to the ledger, by actor. Those beyond are void.
    pub writes: Vec<(ActorId, u64)>,
}

/// Takes revocations of a node back, and with them what their cuts made void.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Readmission {
    /// Who is let in again.
    pub node: NodeId,
    /// Who says so.
    pub by: NodeId,
    /// Random.
    pub nonce: [u8; 16],
    /// Which revocations are taken back; others stand.
    pub undoes: Vec<StatementId>,
    /// By a key of `by`.
    pub signature: Vec<u8>,
}

/// Gives a node another key beside the one it has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rebind {
    /// Whose.
    pub node: NodeId,
    /// How many keys it had before: 1 for its second.
    pub number: u32,
    /// The new key.
    pub key: PublicKey,
    /// By the key before.
    pub signature: Vec<u8>,
    /// By the new key.
    pub proof: Vec<u8>,
}

/// Ends the keys before one: from now on the node shows that one only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Retire {
    /// Whose.
    pub node: NodeId,
    /// The number of the key that stays.
    pub number: u32,
    /// Mesh time of it, in milliseconds since 1970: what the keys before signed that expires,
    /// may not expire later than a lifetime after this.
    pub at: u64,
    /// The node's acts by the keys before. Other acts by those are void.
    pub cut: Vec<StatementId>,
    /// By the key that stays.
    pub signature: Vec<u8>,
}

/// Anything that members say about members.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Statement {
    /// A node belongs to the mesh.
    Admission(Admission),
    /// It no longer does.
    Revocation(Revocation),
    /// It does again.
    Readmission(Readmission),
    /// It has another key.
    Rebind(Rebind),
    /// It no longer has the former.
    Retire(Retire),
}

fn ids(list: &[StatementId]) -> Vec<u8> {
    list.iter().flat_map(|id| id.0).collect()
}

fn writes((actor, upto): &(ActorId, u64)) -> impl Iterator<Item = u8> {
    actor.0.into_iter().chain(upto.to_le_bytes())
}

impl Statement {
    /// Who signed it.
    pub fn by(&self) -> NodeId {
        match self {
            Self::Admission(admission) => admission.by,
            Self::Revocation(revocation) => revocation.by,
            Self::Readmission(readmission) => readmission.by,
            Self::Rebind(rebind) => rebind.node,
            Self::Retire(retire) => retire.node,
        }
    }

    /// Whom it is about.
    pub fn about(&self) -> NodeId {
        match self {
            Self::Admission(admission) => admission.node,
            Self::Revocation(revocation) => revocation.node,
            Self::Readmission(readmission) => readmission.node,
            Self::Rebind(rebind) => rebind.node,
            Self::Retire(retire) => retire.node,
        }
    }

    /// The member besides its signer whose act it is, too: whoever made the invitation.
    pub(super) fn invited_by(&self) -> Option<NodeId> {
        match self {
            Self::Admission(admission) => Some(admission.terms?.by),
            _ => None,
        }
    }

    /// What the signature covers.
    pub(super) fn signed(&self, mesh: MeshId) -> Vec<u8> {
        match self {
            Self::Admission(admission) => admission.statement(mesh),
            Self::Revocation(it) => [
                b"roost revocation 2".as_slice(),
                &mesh.0,
                &it.node.0,
                &it.by.0,
                &it.nonce,
                &(it.cut.len() as u64).to_le_bytes(),
                &ids(&it.cut),
                &(it.writes.len() as u64).to_le_bytes(),
                &it.writes.iter().flat_map(writes).collect::<Vec<u8>>(),
                it.reason.as_bytes(),
            ]
            .concat(),
            Self::Readmission(it) => [
                b"roost readmission 1".as_slice(),
                &mesh.0,
                &it.node.0,
                &it.by.0,
                &it.nonce,
                &ids(&it.undoes),
            ]
            .concat(),
            Self::Rebind(it) => [
                b"roost rebind 1".as_slice(),
                &mesh.0,
                &it.node.0,
                &it.number.to_le_bytes(),
                &it.key,
            ]
            .concat(),
            Self::Retire(it) => [
                b"roost retire 1".as_slice(),
                &mesh.0,
                &it.node.0,
                &it.number.to_le_bytes(),
                &it.at.to_le_bytes(),
                &ids(&it.cut),
            ]
            .concat(),
        }
    }

    pub(super) fn signature(&self) -> &[u8] {
        match self {
            Self::Admission(it) => &it.signature,
            Self::Revocation(it) => &it.signature,
            Self::Readmission(it) => &it.signature,
            Self::Rebind(it) => &it.signature,
            Self::Retire(it) => &it.signature,
        }
    }

    /// What it is called by others: a hash of all of it.
    pub fn id(&self, mesh: MeshId) -> StatementId {
        let proof = match self {
            Self::Rebind(it) => it.proof.as_slice(),
            _ => &[],
        };
        StatementId(first_half(sha256(&[&self.signed(mesh), self.signature(), proof])))
    }

    /// Whether it says nothing impossible; the signature is another question.
    pub(super) fn well_formed(&self) -> bool {
        let ordered = |list: &[StatementId]| list.is_sorted_by(|a, b| a < b);
        match self {
            Self::Admission(admission) => admission.well_formed(),
            Self::Revocation(it) => {
                it.cut.len() <= CUT_MAX
                    && ordered(&it.cut)
                    && it.reason.len() <= REASON_MAX
                    && it.writes.len() <= CUT_ACTORS_MAX
                    && it.writes.is_sorted_by(|a, b| a.0 < b.0)
            }
            // Nobody lets itself in.
            Self::Readmission(it) => {
                it.by != it.node && it.undoes.len() <= CUT_MAX && ordered(&it.undoes)
            }
            Self::Rebind(it) => it.number > 0,
            Self::Retire(it) => it.number > 0 && it.cut.len() <= CUT_MAX && ordered(&it.cut),
        }
    }
}

impl From<Admission> for Statement {
    fn from(admission: Admission) -> Self {
        Self::Admission(admission)
    }
}

impl Terms {
    /// Of the `nth` use of an invitation.
    pub fn of(invite: &Invite, nth: u32) -> Self {
        Self { by: invite.by, uses: invite.uses, nth }
    }
}

/// A list of statements in a message: each is written with its length, and what does not decode
/// is left out, so that a newer version's kinds do not spoil the rest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Statements(pub Vec<Statement>);

impl Serialize for Statements {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let each = self.0.iter().map(postcard::to_allocvec);
        let each: Vec<Vec<u8>> =
            each.collect::<Result<_, _>>().map_err(serde::ser::Error::custom)?;
        each.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Statements {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let each = Vec::<Vec<u8>>::deserialize(deserializer)?;
        Ok(Self(each.iter().filter_map(|bytes| postcard::from_bytes(bytes).ok()).collect()))
    }
}

//! Who belongs to the mesh: admissions, invitations, credentials, and the chain of signatures
//! that ties each to the founder.

mod acts;
mod keys;
mod roster;
mod standing;
mod statements;
mod strings;
#[cfg(test)]
mod tests;
mod tokens;
#[cfg(test)]
mod trials;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{InviteId, MeshId, NodeId};

pub use keys::{Keypair, node_id, verify};
pub use roster::{ADMISSIONS_MAX, Outcast, Roster, STATEMENTS_MAX};
pub use statements::{
    CUT_MAX, REASON_MAX, Readmission, Rebind, Retire, Revocation, Statement, Statements, Terms,
};
pub use strings::{ADDRS_MAX, BadString, Enrolment, Invitation, STRING_MAX};
pub use tokens::{
    Credential, Denied, Session, TOKEN_MAX, issue_credential, issue_redirect, issue_session,
};

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
    /// Ed25519 signature of all the above, and of `terms`, by `by`'s key.
    pub signature: Vec<u8>,
    /// What the invitation said; `None` for the founder.
    pub terms: Option<Terms>,
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

/// A fingerprint of a set of statements: equal for equal sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StatementDigest {
    /// How many.
    pub count: u64,
    /// XOR of each one's id.
    pub hash: [u8; 16],
}

/// How far clocks may be apart, in milliseconds, before an expiry date is believed to be over.
pub const LEEWAY_MS: u64 = 60_000;

/// The longest life of an invitation or a credential, in milliseconds: a month. What a node
/// signed with a key that it gave up is good for no longer than that.
pub const LIFETIME_MAX_MS: u64 = 31 * 24 * 3_600_000;

/// Why someone is not believed. Each sentence may be sent to the other side.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another mesh.
    #[error(
        "this is mesh {expected}, but mesh {found} was named: use an address and a string of the \
         same mesh"
    )]
    OtherMesh {
        /// The mesh of whoever refuses.
        expected: MeshId,
        /// The mesh that was named.
        found: MeshId,
    },
    /// No admission at all.
    #[error("no admission was shown: join with a string from `roost invite`")]
    NoAdmission,
    /// More admissions than are followed.
    #[error("the chain of admissions is longer than {CHAIN_MAX}: join again by an older member")]
    ChainTooLong,
    /// The chain's first admission is about another key than the connection's.
    #[error(
        "the admission shown is not that of the connection's key: do not mix the files of two \
         data folders"
    )]
    NotYourAdmission,
    /// An admission contradicts itself, its signer is missing, or its signature is wrong.
    #[error(
        "the admission of node {node} is not signed by a member of this mesh: join with a string \
         from `roost invite`"
    )]
    BadAdmission {
        /// Whom the bad admission is about.
        node: NodeId,
    },
    /// Signed by someone that this node does not know.
    #[error(
        "{what} is signed by node {by}, which is unknown here: try another member, or make a new \
         string with `roost invite`"
    )]
    UnknownIssuer {
        /// What was shown.
        what: Kind,
        /// Who claims to have signed it.
        by: NodeId,
    },
    /// The signature of an invitation or a token is wrong.
    #[error("the signature of {what} is wrong: copy the string again, or make a new one")]
    BadSignature {
        /// What was shown.
        what: Kind,
    },
    /// Too old.
    #[error("{what} has expired: make a new one with `roost invite`, and check this clock")]
    Expired {
        /// What was shown.
        what: Kind,
    },
    /// An invitation that has admitted all the nodes it may.
    #[error("the invitation has already admitted {uses} of {uses} nodes: make a new one")]
    UsedUp {
        /// How many it may.
        uses: u32,
    },
    /// The newcomer does not hold the invitation's private half.
    #[error("the invitation's own key was not proved: copy the whole string again")]
    BadProof,
    /// The text is no token.
    #[error("{what} cannot be read: copy the string again, or make a new one")]
    Unreadable {
        /// What it should have been.
        what: Kind,
    },
    /// Shut out.
    #[error(
        "node {node} was revoked by node {by}{reason}: `roost node readmit` at a member lets it in \
         again; if its key was stolen, let it join as a new node, with an empty folder"
    )]
    Revoked {
        /// Who.
        node: NodeId,
        /// By whom.
        by: NodeId,
        /// Why, in parentheses.
        reason: String,
    },
    /// One too many came with its invitation.
    #[error(
        "the invitation of node {node} had admitted as many nodes as it may, on another side of a \
         split: join again with a new string from `roost invite`"
    )]
    Surplus {
        /// Who.
        node: NodeId,
    },
    /// Admitted or invited by a node that was revoked by then.
    #[error(
        "node {node} was admitted or invited by a node that had been revoked: join again with a \
         new string from `roost invite` at a member"
    )]
    Unfounded {
        /// Who.
        node: NodeId,
    },
    /// A key that the node has given up.
    #[error(
        "node {node} has given up the key that was shown: do not run it on an old copy of its \
         folder"
    )]
    FormerKey {
        /// Whose.
        node: NodeId,
    },
    /// It was good once, or never was: its account or encoder does not have it.
    #[error(
        "{what} is not good any more: its account or encoder was changed, or it was never one; log \
         in again, or get a new one"
    )]
    Ended {
        /// What was shown.
        what: Kind,
    },
    /// A redirect to somebody or something else.
    #[error("the redirect is for something else: ask again at any node")]
    OtherRedirect,
}

/// What a [`Refusal`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An [`Invite`].
    Invitation,
    /// A client's credential.
    Credential,
    /// A redirect from one node to another.
    Redirect,
    /// What somebody got who logged in.
    Session,
    /// An encoder's key.
    StreamKey,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invitation => "the invitation",
            Self::Credential => "the credential",
            Self::Redirect => "the redirect",
            Self::Session => "the sign-in",
            Self::StreamKey => "the stream key",
        })
    }
}

impl Refusal {
    /// Why `node` is no member any more.
    pub fn out(node: NodeId, why: &Outcast) -> Self {
        match why {
            Outcast::Revoked(by) => {
                let first = by.first().map(|(_, revocation)| revocation);
                let reason = first.map(|it| it.reason.as_str()).filter(|words| !words.is_empty());
                let reason = reason.map(|words| format!(" ({words})")).unwrap_or_default();
                Self::Revoked { node, by: first.map_or(node, |it| it.by), reason }
            }
            Outcast::Surplus => Self::Surplus { node },
            Outcast::Unfounded => Self::Unfounded { node },
        }
    }
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

fn first_half(hash: [u8; 32]) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&hash[..16]);
    out
}

impl Admission {
    /// What the signature covers. The mesh is part of it, so that an admission is worth nothing
    /// in another mesh where the signer happens to use the same key; the founder's own cannot
    /// contain it, since the mesh is named after that admission.
    fn statement(&self, mesh: MeshId) -> Vec<u8> {
        let mesh = if self.founds() { MeshId([0; 16]) } else { mesh };
        let (has_invite, invite) = match self.invite {
            Some(id) => (1, id.0),
            None => (0, [0; 16]),
        };
        // Of earlier versions, which did not say on what terms.
        let (label, terms): (&[u8], Vec<u8>) = match self.terms {
            None => (b"roost admission 1", Vec::new()),
            Some(Terms { by, uses, nth }) => {
                let terms = [&by.0[..], &uses.to_le_bytes(), &nth.to_le_bytes()];
                (b"roost admission 2", terms.concat())
            }
        };
        [
            label,
            &mesh.0,
            &self.node.0,
            &self.key,
            &self.by.0,
            &[has_invite],
            &invite,
            &self.nonce,
            &terms,
        ]
        .concat()
    }

    /// Whether it has the form of a founder's.
    fn founds(&self) -> bool {
        self.by == self.node
    }

    /// Whether it says nothing impossible; the signature is another question.
    fn well_formed(&self) -> bool {
        self.node == node_id(&self.key)
            && if self.founds() {
                self.invite.is_none() && self.terms.is_none()
            } else {
                self.invite.is_some() && self.nonce == [0; 16]
            }
    }
}

impl Invite {
    fn statement(&self) -> Vec<u8> {
        [
            b"roost invite 1".as_slice(),
            &self.id.0,
            &self.mesh.0,
            &self.by.0,
            &self.key,
            &self.expires.to_le_bytes(),
            &self.uses.to_le_bytes(),
        ]
        .concat()
    }
}

/// The mesh that this founder's admission names.
pub fn mesh_id(founder: &Admission) -> MeshId {
    let statement = founder.statement(MeshId([0; 16]));
    MeshId(first_half(sha256(&[b"roost mesh 1", &statement, &founder.signature])))
}

/// Whether the holder of `tls_key` is a member, by its chain and the changes of keys among `more`
/// alone: for clients, which hold no [`Roster`]. Says of which mesh and which node. The caller has
/// verified in the handshake that the other side holds `tls_key`.
pub fn verify_chain(
    mesh: Option<MeshId>,
    chain: &Chain,
    more: &[Statement],
    tls_key: &PublicKey,
) -> Result<(MeshId, NodeId), Refusal> {
    let (Some(own), Some(founder)) = (chain.first(), chain.last()) else {
        return Err(Refusal::NoAdmission);
    };
    if chain.len() > CHAIN_MAX {
        return Err(Refusal::ChainTooLong);
    }
    let found = mesh_id(founder);
    // What keys each of the chain's nodes has; the signatures of their changes are checked here,
    // the admissions' below.
    let mut keys: BTreeMap<NodeId, keys::Keys> =
        chain.iter().map(|it| (it.node, keys::Keys::new(it.key))).collect();
    let mut changes: Vec<&Statement> = more.iter().collect();
    changes.sort_by_key(|it| match it {
        Statement::Rebind(it) => (it.number, 0),
        Statement::Retire(it) => (it.number, 1),
        _ => (u32::MAX, 2),
    });
    for change in changes {
        let Some(of) = keys.get_mut(&change.about()).filter(|_| change.well_formed()) else {
            continue;
        };
        let signed = change.signed(found);
        let by = |number| {
            let mut all = of.numbered(number);
            all.any(|key| verify(key, &signed, change.signature()))
        };
        match change {
            Statement::Rebind(it) if by(it.number - 1) && verify(&it.key, &signed, &it.proof) => {
                of.add(it.number, it.key, change.id(found));
            }
            Statement::Retire(it) if by(it.number) => of.retire(it.number, it.at, &it.cut),
            _ => {}
        }
    }
    let own_keys = keys.get(&own.node);
    if own_keys.is_none_or(|keys| keys.number_of(tls_key).is_none()) {
        return Err(Refusal::NotYourAdmission);
    }
    if let Some(expected) = mesh.filter(|expected| *expected != found) {
        return Err(Refusal::OtherMesh { expected, found });
    }
    let signers = chain.iter().skip(1).chain([founder]);
    for (index, (admission, signer)) in chain.iter().zip(signers).enumerate() {
        let last = index + 1 == chain.len();
        let statement = admission.statement(found);
        let id = Statement::Admission(admission.clone()).id(found);
        let signed = keys.get(&signer.node).is_some_and(|keys| {
            let mut all = keys.all();
            let by = all.find(|(key, _)| verify(key, &statement, &admission.signature));
            by.is_some_and(|(_, number)| !keys.voids(number, id))
        });
        let sound = admission.well_formed()
            && admission.founds() == last
            && admission.by == signer.node
            && signed;
        if !sound {
            return Err(Refusal::BadAdmission { node: admission.node });
        }
    }
    if own_keys.is_none_or(|keys| keys.shown().all(|key| key != *tls_key)) {
        return Err(Refusal::FormerKey { node: own.node });
    }
    Ok((found, own.node))
}

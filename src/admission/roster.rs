//! The set of all admissions: who is a member and why.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crdts::GSet;

use super::{
    Admission, AdmissionDigest, CHAIN_MAX, Chain, Invite, Keypair, Kind, LEEWAY_MS, PublicKey,
    Refusal, first_half, mesh_id, node_id, sha256, verify, verify_chain,
};
use crate::id::{InviteId, MeshId, NodeId};

/// The most admissions that are kept: fifty for each of 200 nodes, about 3 MB. Beyond it new ones
/// are refused, so that a member gone wild cannot fill the memory of all.
pub const ADMISSIONS_MAX: usize = 10_000;

/// Every admission of one mesh that is signed, step by step, by its founder. Grow-only: merging
/// is a union, so order and repetition do not matter. A node may have several admissions; the one
/// nearest to the founder speaks for it.
#[derive(Debug, Clone)]
pub struct Roster {
    mesh: MeshId,
    set: GSet<Admission>,
    /// The same, for reading: a grow-only set does not lend its elements.
    by_node: BTreeMap<NodeId, BTreeSet<Admission>>,
    /// Each member's shortest way up.
    best: BTreeMap<NodeId, Admission>,
    by_key: BTreeMap<PublicKey, NodeId>,
    used: BTreeMap<InviteId, BTreeSet<NodeId>>,
    digest: AdmissionDigest,
}

impl Roster {
    /// A new mesh with one member. `nonce` is random and makes the mesh unique.
    pub fn found(founder: &Keypair, nonce: [u8; 16]) -> Self {
        let node = founder.node();
        let mut admission = Admission {
            node,
            key: founder.public(),
            by: node,
            invite: None,
            nonce,
            signature: Vec::new(),
        };
        admission.signature = founder.sign(&admission.statement(MeshId([0; 16])));
        Self::from_admissions(mesh_id(&admission), [admission])
    }

    /// The roster of `mesh` with those of `admissions` that prove to belong to it; possibly none.
    pub fn from_admissions(mesh: MeshId, admissions: impl IntoIterator<Item = Admission>) -> Self {
        let mut roster = Self {
            mesh,
            set: GSet::new(),
            by_node: BTreeMap::new(),
            best: BTreeMap::new(),
            by_key: BTreeMap::new(),
            used: BTreeMap::new(),
            digest: AdmissionDigest::default(),
        };
        roster.adopt(admissions.into_iter().collect());
        roster
    }

    /// Which mesh.
    pub fn mesh(&self) -> MeshId {
        self.mesh
    }

    /// How many members.
    pub fn len(&self) -> usize {
        self.best.len()
    }

    /// True until the founder's admission is known.
    pub fn is_empty(&self) -> bool {
        self.best.is_empty()
    }

    /// Whether `node` is a member.
    pub fn contains(&self, node: NodeId) -> bool {
        self.best.contains_key(&node)
    }

    /// The key that links of `node` must prove.
    pub fn key_of(&self, node: NodeId) -> Option<PublicKey> {
        Some(self.best.get(&node)?.key)
    }

    /// The member whose key this is.
    pub fn member_with_key(&self, key: &PublicKey) -> Option<NodeId> {
        self.by_key.get(key).copied()
    }

    /// The members.
    pub fn members(&self) -> impl Iterator<Item = NodeId> {
        self.best.keys().copied()
    }

    /// Every admission, by node.
    pub fn admissions(&self) -> impl Iterator<Item = &Admission> {
        self.by_node.values().flatten()
    }

    /// The shortest proof that `node` is a member: what it shows to others.
    pub fn chain(&self, node: NodeId) -> Option<Chain> {
        let mut chain = vec![self.best.get(&node)?.clone()];
        while let Some(last) = chain.last().filter(|last| !last.founds()) {
            chain.push(self.best.get(&last.by)?.clone());
        }
        Some(chain)
    }

    /// A signed admission of `newcomer` by the member `by`. Nothing changes until it is adopted.
    /// Whoever is a member already gets the admission it has, so that joining again, say because
    /// the first answer got lost, uses up nothing.
    pub fn admit(&self, by: &Keypair, newcomer: PublicKey, invite: InviteId) -> Admission {
        let node = node_id(&newcomer);
        if let Some(known) = self.best.get(&node) {
            return known.clone();
        }
        let mut admission = Admission {
            node,
            key: newcomer,
            by: by.node(),
            invite: Some(invite),
            nonce: [0; 16],
            signature: Vec::new(),
        };
        admission.signature = by.sign(&admission.statement(self.mesh));
        admission
    }

    /// Takes in what is new and proved; returns it, to be stored and handed on. The order within
    /// the batch does not matter. What does not chain up to the founder of this mesh is dropped.
    pub fn adopt(&mut self, batch: Vec<Admission>) -> Vec<Admission> {
        let mut waiting: BTreeMap<NodeId, BTreeSet<Admission>> = BTreeMap::new();
        for admission in batch {
            if admission.well_formed() && !self.set.contains(&admission) {
                waiting.entry(admission.by).or_default().insert(admission);
            }
        }
        let mut fresh = Vec::new();
        let mut signers: VecDeque<NodeId> = waiting.keys().copied().collect();
        while let Some(signer) = signers.pop_front() {
            let signer_key = self.by_node.get(&signer).and_then(|set| set.first()).map(|a| a.key);
            let Some(admissions) = waiting.get_mut(&signer) else { continue };
            // Without a known signer only the founder's own admission can be judged now.
            let judged: Vec<Admission> = match signer_key {
                Some(_) => std::mem::take(admissions).into_iter().collect(),
                None => {
                    let founders = admissions.iter().filter(|a| a.founds()).cloned().collect();
                    admissions.retain(|a| !a.founds());
                    founders
                }
            };
            for admission in judged {
                let key = if admission.founds() {
                    (mesh_id(&admission) == self.mesh).then_some(admission.key)
                } else {
                    signer_key
                };
                let statement = admission.statement(self.mesh);
                if !key.is_some_and(|key| verify(&key, &statement, &admission.signature)) {
                    continue;
                }
                if !self.insert(admission.clone()) {
                    continue;
                }
                signers.push_back(admission.node);
                fresh.push(admission);
            }
        }
        if !fresh.is_empty() {
            self.find_shortest_chains();
        }
        fresh
    }

    fn insert(&mut self, admission: Admission) -> bool {
        if self.digest.count >= ADMISSIONS_MAX as u64 || self.set.contains(&admission) {
            return false;
        }
        let hash = first_half(sha256(&[&admission.statement(self.mesh), &admission.signature]));
        self.digest.count += 1;
        for (sum, byte) in self.digest.hash.iter_mut().zip(hash) {
            *sum ^= byte;
        }
        if let Some(invite) = admission.invite {
            self.used.entry(invite).or_default().insert(admission.node);
        }
        self.by_node.entry(admission.node).or_default().insert(admission.clone());
        self.set.insert(admission);
        true
    }

    /// From the founder downwards, level by level. Members further down than [`CHAIN_MAX`] could
    /// not show a chain that anyone follows, so they are none.
    fn find_shortest_chains(&mut self) {
        let mut below: BTreeMap<NodeId, Vec<&Admission>> = BTreeMap::new();
        let mut level = Vec::new();
        for admission in self.by_node.values().flatten() {
            if admission.founds() {
                level.push(admission);
            } else {
                below.entry(admission.by).or_default().push(admission);
            }
        }
        let mut best: BTreeMap<NodeId, Admission> = BTreeMap::new();
        for _depth in 0..CHAIN_MAX {
            let mut next = Vec::new();
            level.sort_unstable();
            for admission in level {
                if best.contains_key(&admission.node) {
                    continue;
                }
                best.insert(admission.node, admission.clone());
                next.extend(below.get(&admission.node).into_iter().flatten().copied());
            }
            level = next;
        }
        self.by_key = best.values().map(|a| (a.key, a.node)).collect();
        self.best = best;
    }

    /// Whether the holder of `tls_key`, which names `mesh` and shows `chain`, is a member. Returns
    /// the admissions of the chain that are new here, to be adopted.
    pub fn judge(
        &self,
        chain: &Chain,
        tls_key: &PublicKey,
        mesh: MeshId,
    ) -> Result<Vec<Admission>, Refusal> {
        if mesh != self.mesh {
            return Err(Refusal::OtherMesh { expected: self.mesh, found: mesh });
        }
        let own = chain.first().ok_or(Refusal::NoAdmission)?;
        // Old friends cost no signature check.
        if own.key == *tls_key && self.contains(own.node) && self.set.contains(own) {
            return Ok(Vec::new());
        }
        verify_chain(Some(self.mesh), chain, tls_key)?;
        Ok(chain.iter().filter(|a| !self.set.contains(a)).cloned().collect())
    }

    /// A fingerprint of the set.
    pub fn digest(&self) -> AdmissionDigest {
        self.digest
    }

    /// How many nodes this invitation has let in, as far as is known here.
    pub fn uses(&self, invite: InviteId) -> u32 {
        self.used.get(&invite).map_or(0, |nodes| u32::try_from(nodes.len()).unwrap_or(u32::MAX))
    }

    /// Whether a newcomer may join with `invite`, having signed `statement` (which ends with the
    /// newcomer's public key, see [`join_statement`](crate::wire::join_statement)) by the
    /// invitation's key. Someone it let in before may come again. `wall_ms` is milliseconds since
    /// 1970.
    pub fn check_invite(
        &self,
        invite: &Invite,
        proof: &[u8],
        statement: &[u8],
        wall_ms: u64,
    ) -> Result<(), Refusal> {
        let what = Kind::Invitation;
        if invite.mesh != self.mesh {
            return Err(Refusal::OtherMesh { expected: self.mesh, found: invite.mesh });
        }
        let issuer =
            self.key_of(invite.by).ok_or(Refusal::UnknownIssuer { what, by: invite.by })?;
        if !verify(&issuer, &invite.statement(), &invite.signature) {
            return Err(Refusal::BadSignature { what });
        }
        if !verify(&invite.key, statement, proof) {
            return Err(Refusal::BadProof);
        }
        let again = self.used.get(&invite.id).is_some_and(|nodes| {
            let mut keys = nodes.iter().filter_map(|node| self.key_of(*node));
            keys.any(|key| statement.ends_with(&key))
        });
        if again {
            return Ok(());
        }
        if wall_ms > invite.expires.saturating_add(LEEWAY_MS) {
            return Err(Refusal::Expired { what });
        }
        if self.uses(invite.id) >= invite.uses {
            return Err(Refusal::UsedUp { uses: invite.uses });
        }
        Ok(())
    }
}

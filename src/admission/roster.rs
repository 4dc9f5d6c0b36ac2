//! The set of all statements about members, and who is a member by it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::keys::Keys;
use super::standing::{self, Case};
use super::{
    Admission, CHAIN_MAX, Chain, Invite, Keypair, Kind, LEEWAY_MS, PublicKey, Refusal, Revocation,
    Statement, StatementDigest, mesh_id, node_id, verify, verify_chain,
};
use crate::accounts::{Cut, Cuts};
use crate::id::{InviteId, MeshId, NodeId, StatementId};

/// The most admissions that are kept: fifty for each of 200 nodes, about 3 MB. Beyond it new ones
/// are refused, so that a member gone wild cannot fill the memory of all.
pub const ADMISSIONS_MAX: usize = 10_000;

/// The most other statements that are kept: ten for each of 200 nodes.
pub const STATEMENTS_MAX: usize = 2_000;

/// Why a node that was admitted is no member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcast {
    /// By these, which stand.
    Revoked(Vec<(StatementId, Revocation)>),
    /// Its invitation had let in as many as it may, on another side of a split.
    Surplus,
    /// Whoever admitted or invited it was shut out before.
    Unfounded,
}

/// Every statement of one mesh that is signed, step by step, by its founder. Grow-only: merging
/// is a union, and who is a member follows from the union alone, so order and repetition do not
/// matter. A node may have several admissions; the one nearest to the founder speaks for it.
#[derive(Debug, Clone)]
pub struct Roster {
    pub(super) mesh: MeshId,
    pub(super) set: BTreeMap<StatementId, Arc<Statement>>,
    /// By which of its signer's keys each is signed.
    signed_with: BTreeMap<StatementId, u32>,
    pub(super) keys: BTreeMap<NodeId, Keys>,
    pub(super) admissions: usize,
    /// Each member's shortest way up, and those of nodes on the way that are members no more.
    best: BTreeMap<NodeId, Arc<Statement>>,
    pub(super) out: BTreeMap<NodeId, Outcast>,
    /// Those of them whom nobody admitted validly.
    unfounded: BTreeSet<NodeId>,
    by_key: BTreeMap<PublicKey, NodeId>,
    used: BTreeMap<InviteId, BTreeSet<NodeId>>,
    digest: StatementDigest,
}

fn admission(statement: &Statement) -> Option<&Admission> {
    match statement {
        Statement::Admission(admission) => Some(admission),
        _ => None,
    }
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
            terms: None,
        };
        admission.signature = founder.sign(&admission.statement(MeshId([0; 16])));
        Self::from_statements(mesh_id(&admission), [admission])
    }

    /// The roster of `mesh` with those of `statements` that prove to belong to it; possibly none.
    pub fn from_statements<T: Into<Statement>>(
        mesh: MeshId,
        statements: impl IntoIterator<Item = T>,
    ) -> Self {
        let mut roster = Self {
            mesh,
            set: BTreeMap::new(),
            signed_with: BTreeMap::new(),
            keys: BTreeMap::new(),
            admissions: 0,
            best: BTreeMap::new(),
            out: BTreeMap::new(),
            unfounded: BTreeSet::new(),
            by_key: BTreeMap::new(),
            used: BTreeMap::new(),
            digest: StatementDigest::default(),
        };
        roster.adopt(statements);
        roster
    }

    /// Which mesh.
    pub fn mesh(&self) -> MeshId {
        self.mesh
    }

    /// How many members.
    pub fn len(&self) -> usize {
        self.members().count()
    }

    /// True until the founder's admission is known.
    pub fn is_empty(&self) -> bool {
        self.best.is_empty()
    }

    /// Whether `node` is a member.
    pub fn contains(&self, node: NodeId) -> bool {
        self.best.contains_key(&node) && !self.out.contains_key(&node)
    }

    /// Why `node`, which was admitted, is no member; nothing if it is one, or never was.
    pub fn outcast(&self, node: NodeId) -> Option<&Outcast> {
        self.out.get(&node)
    }

    /// Nodes that were admitted and are no members, and why.
    pub fn outcasts(&self) -> impl Iterator<Item = (NodeId, &Outcast)> {
        self.out.iter().map(|(node, why)| (*node, why))
    }

    /// How much counts of what nodes wrote that are no members: of those revoked what every
    /// revocation that stands has seen, of those whom nobody admitted validly nothing. Whoever is
    /// out because an invitation was used too often did nothing wrong.
    pub fn cuts(&self) -> Cuts {
        let mut cuts = Cuts::new();
        for (node, why) in &self.out {
            let cut = match why {
                _ if self.unfounded.contains(node) => Cut::default(),
                Outcast::Revoked(by) => {
                    let cuts =
                        by.iter().map(|(_, it)| Cut { upto: it.writes.iter().copied().collect() });
                    cuts.reduce(|all, one| all.and(&one)).unwrap_or_default()
                }
                Outcast::Surplus | Outcast::Unfounded => continue,
            };
            cuts.insert(*node, cut);
        }
        cuts
    }

    /// The key that `node`, a member, shows.
    pub fn key_of(&self, node: NodeId) -> Option<PublicKey> {
        self.contains(node).then(|| self.keys.get(&node).map(Keys::current)).flatten()
    }

    /// The key that `node` is to show, whether it is a member or not.
    pub fn current_key(&self, node: NodeId) -> Option<PublicKey> {
        self.keys.get(&node).map(Keys::current)
    }

    /// The member whose key this is, be it one that is about to be used, or to be given up.
    pub fn member_with_key(&self, key: &PublicKey) -> Option<NodeId> {
        self.by_key.get(key).copied().filter(|node| self.contains(*node))
    }

    /// The members.
    pub fn members(&self) -> impl Iterator<Item = NodeId> {
        self.best.keys().copied().filter(|node| !self.out.contains_key(node))
    }

    /// Everything that was said.
    pub fn statements(&self) -> impl Iterator<Item = &Statement> {
        self.set.values().map(|statement| &**statement)
    }

    /// Every admission.
    pub fn admissions(&self) -> impl Iterator<Item = &Admission> {
        self.statements().filter_map(admission)
    }

    /// The admission that speaks for `node`.
    pub fn admission_of(&self, node: NodeId) -> Option<&Admission> {
        admission(self.best.get(&node)?)
    }

    /// The shortest proof that `node` is a member: what it shows to others. Also of one that is
    /// not any more: it has to say who it was.
    pub fn chain(&self, node: NodeId) -> Option<Chain> {
        let mut chain = vec![self.admission_of(node)?.clone()];
        while let Some(last) = chain.last().filter(|last| !last.founds()) {
            chain.push(self.admission_of(last.by)?.clone());
        }
        Some(chain)
    }

    /// Whether the statement of this id is known.
    pub fn has_id(&self, id: StatementId) -> bool {
        self.set.contains_key(&id)
    }

    /// The statement of this id.
    pub fn by_id(&self, id: StatementId) -> Option<&Statement> {
        self.set.get(&id).map(|statement| &**statement)
    }

    /// Whether this is known.
    pub fn has(&self, statement: &Statement) -> bool {
        self.set.contains_key(&statement.id(self.mesh))
    }

    /// A signed admission of `newcomer` by the member `by`. Nothing changes until it is adopted.
    /// Whoever is a member already gets the admission it has, so that joining again, say because
    /// the first answer got lost, uses up nothing.
    pub fn admit(&self, by: &Keypair, newcomer: PublicKey, invite: &Invite) -> Admission {
        let node = node_id(&newcomer);
        if let Some(known) = self.admission_of(node).filter(|_| self.contains(node)) {
            return known.clone();
        }
        let nth = self.uses(invite.id).saturating_add(1);
        let mut admission = Admission {
            node,
            key: newcomer,
            by: by.node(),
            invite: Some(invite.id),
            nonce: [0; 16],
            signature: Vec::new(),
            terms: Some(super::Terms::of(invite, nth)),
        };
        admission.signature = by.sign(&admission.statement(self.mesh));
        admission
    }

    /// Takes in what is new and proved; returns it, to be stored and handed on. The order within
    /// the batch does not matter. What does not chain up to the founder of this mesh is dropped.
    pub fn adopt<T: Into<Statement>>(
        &mut self,
        batch: impl IntoIterator<Item = T>,
    ) -> Vec<Statement> {
        let mut waiting: BTreeMap<NodeId, Vec<(StatementId, Statement)>> = BTreeMap::new();
        for statement in batch {
            let statement: Statement = statement.into();
            if !statement.well_formed() {
                continue;
            }
            let id = statement.id(self.mesh);
            if !self.set.contains_key(&id) {
                waiting.entry(statement.by()).or_default().push((id, statement));
            }
        }
        let mut fresh = Vec::new();
        let mut signers: Vec<NodeId> = waiting.keys().copied().collect();
        while let Some(signer) = signers.pop() {
            let Some(mut statements) = waiting.remove(&signer) else { continue };
            statements.sort();
            let mut unproved = Vec::new();
            for (id, statement) in statements {
                let Some(number) = self.proof(&statement) else {
                    // Perhaps by a key, or after an admission, that comes later in this batch.
                    unproved.push((id, statement));
                    continue;
                };
                if self.insert(id, &statement, number) {
                    signers.push(statement.about());
                    fresh.push(statement);
                }
            }
            if !unproved.is_empty() {
                waiting.insert(signer, unproved);
            }
        }
        if !fresh.is_empty() {
            self.judge_all();
        }
        fresh
    }

    /// The number of the key that proves it.
    fn proof(&self, statement: &Statement) -> Option<u32> {
        let signed = statement.signed(self.mesh);
        let keys = self.keys.get(&statement.by());
        match statement {
            Statement::Admission(it) if it.founds() => {
                let ours = mesh_id(it) == self.mesh;
                (ours && verify(&it.key, &signed, &it.signature)).then_some(0)
            }
            Statement::Rebind(it) => {
                let former = keys?.numbered(it.number - 1);
                let mut signers = former.filter(|key| verify(key, &signed, &it.signature));
                signers.next()?;
                verify(&it.key, &signed, &it.proof).then_some(it.number)
            }
            Statement::Retire(it) => {
                let mut signers = keys?.numbered(it.number);
                signers.any(|key| verify(key, &signed, &it.signature)).then_some(it.number)
            }
            _ => {
                let mut all = keys?.all();
                let signature = statement.signature();
                all.find(|(key, _)| verify(key, &signed, signature)).map(|(_, number)| number)
            }
        }
    }

    fn insert(&mut self, id: StatementId, statement: &Statement, number: u32) -> bool {
        let full = match statement {
            Statement::Admission(_) => self.admissions >= ADMISSIONS_MAX,
            _ => self.set.len() - self.admissions >= STATEMENTS_MAX,
        };
        if full || self.set.contains_key(&id) {
            return false;
        }
        self.digest.count += 1;
        for (sum, byte) in self.digest.hash.iter_mut().zip(id.0) {
            *sum ^= byte;
        }
        match statement {
            Statement::Admission(it) => {
                self.admissions += 1;
                self.keys.entry(it.node).or_insert_with(|| Keys::new(it.key));
            }
            Statement::Rebind(it) => {
                if let Some(keys) = self.keys.get_mut(&it.node) {
                    keys.add(it.number, it.key, id);
                }
            }
            Statement::Retire(it) => {
                if let Some(keys) = self.keys.get_mut(&it.node) {
                    keys.retire(it.number, it.at, &it.cut);
                }
            }
            Statement::Revocation(_) | Statement::Readmission(_) => {}
        }
        self.signed_with.insert(id, number);
        self.set.insert(id, Arc::new(statement.clone()));
        true
    }

    /// Who is in, by everything that is known.
    fn judge_all(&mut self) {
        let mut case = Case::default();
        for (id, statement) in &self.set {
            let number = self.signed_with.get(id).copied().unwrap_or_default();
            let keys = self.keys.get(&statement.by());
            if keys.is_some_and(|keys| keys.voids(number, *id)) {
                continue;
            }
            match &**statement {
                Statement::Admission(it) => case.admissions.push((*id, it)),
                Statement::Revocation(it) => case.revocations.push((*id, it)),
                Statement::Readmission(it) => case.readmissions.push((*id, it)),
                Statement::Rebind(_) | Statement::Retire(_) => {}
            }
        }
        let judgement = standing::judge(&case);
        let valid: Vec<_> =
            case.admissions.iter().filter(|(id, _)| judgement.valid.contains(id)).collect();
        let surplus = surplus(valid.iter().map(|(id, it)| (*id, *it)));
        let mut used: BTreeMap<InviteId, BTreeSet<NodeId>> = BTreeMap::new();
        for (_, it) in &valid {
            if let Some(invite) = it.invite {
                used.entry(invite).or_default().insert(it.node);
            }
        }
        let lasting = valid.iter().filter(|(id, _)| !surplus.contains(id));
        let best = shortest(lasting.map(|(id, it)| (*id, *it)));
        let mut out: BTreeMap<NodeId, Outcast> = BTreeMap::new();
        for (_, it) in &case.admissions {
            if !best.contains_key(&it.node) {
                let once = valid.iter().any(|(_, valid)| valid.node == it.node);
                let why = if once { Outcast::Surplus } else { Outcast::Unfounded };
                out.insert(it.node, why);
            }
        }
        let unfounded = out.iter().filter(|(_, why)| **why == Outcast::Unfounded);
        let unfounded = unfounded.map(|(node, _)| *node).collect();
        let mut revoked: BTreeMap<NodeId, Vec<(StatementId, Revocation)>> = BTreeMap::new();
        for (id, it) in &case.revocations {
            if judgement.standing.contains(id) {
                revoked.entry(it.node).or_default().push((*id, (*it).clone()));
            }
        }
        out.extend(revoked.into_iter().map(|(node, by)| (node, Outcast::Revoked(by))));
        let best: BTreeMap<NodeId, Arc<Statement>> = best
            .into_iter()
            .filter_map(|(node, id)| Some((node, self.set.get(&id)?.clone())))
            .collect();
        self.by_key = best
            .keys()
            .filter_map(|node| Some((node, self.keys.get(node)?)))
            .flat_map(|(node, keys)| keys.shown().map(|key| (key, *node)))
            .collect();
        (self.best, self.out, self.used) = (best, out, used);
        self.unfounded = unfounded;
    }

    /// Whether the holder of `tls_key`, which names `mesh`, shows `chain` and says `more`, is a
    /// member, and which. Returns what of it is new here and proved, to be adopted whatever the
    /// verdict: a revocation counts from whoever brings it.
    pub fn judge(
        &self,
        chain: &Chain,
        more: &[Statement],
        tls_key: &PublicKey,
        mesh: MeshId,
    ) -> (Vec<Statement>, Result<NodeId, Refusal>) {
        if mesh != self.mesh {
            let refusal = Refusal::OtherMesh { expected: self.mesh, found: mesh };
            return (Vec::new(), Err(refusal));
        }
        if chain.len() > CHAIN_MAX {
            return (Vec::new(), Err(Refusal::ChainTooLong));
        }
        let shown = chain.iter().cloned().map(Statement::Admission).chain(more.iter().cloned());
        let new: Vec<Statement> = shown.filter(|statement| !self.has(statement)).collect();
        // Old friends cost no signature check.
        if new.is_empty() {
            return (Vec::new(), self.verdict(chain, more, tls_key));
        }
        let mut grown = self.clone();
        let learned = grown.adopt(new);
        let verdict = grown.verdict(chain, more, tls_key);
        (learned, verdict)
    }

    fn verdict(
        &self,
        chain: &Chain,
        more: &[Statement],
        tls_key: &PublicKey,
    ) -> Result<NodeId, Refusal> {
        let own = chain.first().ok_or(Refusal::NoAdmission)?;
        match self.by_key.get(tls_key) {
            Some(node) if *node != own.node => return Err(Refusal::NotYourAdmission),
            Some(node) if self.contains(*node) => return Ok(*node),
            _ => {}
        }
        // Says what is wrong with the chain itself, if anything is.
        verify_chain(Some(self.mesh), chain, more, tls_key)?;
        Err(match self.out.get(&own.node) {
            Some(why) => Refusal::out(own.node, why),
            None if self.contains(own.node) => Refusal::FormerKey { node: own.node },
            None => Refusal::BadAdmission { node: own.node },
        })
    }

    /// A fingerprint of the set.
    pub fn digest(&self) -> StatementDigest {
        self.digest
    }

    /// How many nodes this invitation has let in, as far as is known here.
    pub fn uses(&self, invite: InviteId) -> u32 {
        self.used.get(&invite).map_or(0, |nodes| u32::try_from(nodes.len()).unwrap_or(u32::MAX))
    }

    /// Whether a newcomer may join with `invite`, having signed `statement` (which ends with the
    /// newcomer's public key, see [`join_statement`](crate::wire::join_statement)) by the
    /// invitation's key. Someone it let in before may come again. `now_ms` is mesh time in
    /// milliseconds since 1970.
    pub fn check_invite(
        &self,
        invite: &Invite,
        proof: &[u8],
        statement: &[u8],
        now_ms: u64,
    ) -> Result<(), Refusal> {
        let what = Kind::Invitation;
        if invite.mesh != self.mesh {
            return Err(Refusal::OtherMesh { expected: self.mesh, found: invite.mesh });
        }
        let issuers = self.issuer(what, invite.by, invite.expires)?;
        let signed = invite.statement();
        if !issuers.iter().any(|key| verify(key, &signed, &invite.signature)) {
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
        if now_ms > invite.expires.saturating_add(LEEWAY_MS) {
            return Err(Refusal::Expired { what });
        }
        if self.uses(invite.id) >= invite.uses {
            return Err(Refusal::UsedUp { uses: invite.uses });
        }
        Ok(())
    }

    /// The keys that a member may have signed `what` with that expires then.
    pub(super) fn issuer(
        &self,
        what: Kind,
        by: NodeId,
        expires: u64,
    ) -> Result<Vec<PublicKey>, Refusal> {
        if let Some(why @ Outcast::Revoked(_)) = self.out.get(&by) {
            return Err(Refusal::out(by, why));
        }
        let keys = self.keys.get(&by).filter(|_| self.contains(by));
        let keys = keys.ok_or(Refusal::UnknownIssuer { what, by })?;
        Ok(keys.signing(expires).collect())
    }
}

/// The admissions by which an invitation let in more than it may: of all nodes that it let in,
/// those that came last as far as whoever admitted them knew; among equals the hash decides.
fn surplus<'a>(
    admissions: impl Iterator<Item = (StatementId, &'a Admission)>,
) -> BTreeSet<StatementId> {
    type Use = (u32, StatementId);
    let mut uses: BTreeMap<(NodeId, InviteId, u32), BTreeMap<NodeId, Vec<Use>>> = BTreeMap::new();
    for (id, it) in admissions {
        if let (Some(invite), Some(terms)) = (it.invite, it.terms) {
            let of = uses.entry((terms.by, invite, terms.uses)).or_default();
            of.entry(it.node).or_default().push((terms.nth, id));
        }
    }
    let mut surplus = BTreeSet::new();
    for ((_, _, most), mut by_node) in uses {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        if by_node.len() <= most {
            continue;
        }
        by_node.values_mut().for_each(|uses| uses.sort_unstable());
        let mut nodes: Vec<Vec<Use>> = by_node.into_values().collect();
        nodes.sort_unstable();
        surplus.extend(nodes.into_iter().skip(most).flatten().map(|(_, id)| id));
    }
    surplus
}

/// From the founder downwards, level by level. Members further down than [`CHAIN_MAX`] could not
/// show a chain that anyone follows, so they are none.
fn shortest<'a>(
    admissions: impl Iterator<Item = (StatementId, &'a Admission)>,
) -> BTreeMap<NodeId, StatementId> {
    let mut below: BTreeMap<NodeId, Vec<(&Admission, StatementId)>> = BTreeMap::new();
    let mut level = Vec::new();
    for (id, admission) in admissions {
        if admission.founds() {
            level.push((admission, id));
        } else {
            below.entry(admission.by).or_default().push((admission, id));
        }
    }
    let mut best: BTreeMap<NodeId, StatementId> = BTreeMap::new();
    for _depth in 0..CHAIN_MAX {
        let mut next = Vec::new();
        level.sort_unstable();
        for (admission, id) in level {
            if best.contains_key(&admission.node) {
                continue;
            }
            best.insert(admission.node, id);
            next.extend(below.get(&admission.node).into_iter().flatten().copied());
        }
        level = next;
    }
    best
}

//! Statements that a member makes about members. Nothing changes until they are adopted.

use std::collections::BTreeSet;

use super::{
    CUT_MAX, Keypair, Outcast, REASON_MAX, Readmission, Rebind, Retire, Revocation, Roster,
    Statement,
};
use crate::id::{ActorId, NodeId, StatementId};

impl Roster {
    /// A revocation of `node` by `by`, of all that is not known here of its acts. `nonce` is
    /// random; a reason beyond [`REASON_MAX`] is cut short. `writes` are those of the node that are
    /// known here, as [`writes_of`](crate::accounts::Ledger::writes_of) has them.
    pub fn revoke(
        &self,
        by: &Keypair,
        node: NodeId,
        nonce: [u8; 16],
        reason: &str,
        writes: Vec<(ActorId, u64)>,
    ) -> Revocation {
        let mut end = reason.len().min(REASON_MAX);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let mut revocation = Revocation {
            node,
            by: by.node(),
            nonce,
            cut: self.acts_of(node),
            reason: reason[..end].to_owned(),
            signature: Vec::new(),
            writes,
        };
        let signed = Statement::Revocation(revocation.clone()).signed(self.mesh);
        revocation.signature = by.sign(&signed);
        revocation
    }

    /// A readmission of `node` by `by` that takes back all revocations of it that stand; nothing
    /// if there are none.
    pub fn readmit(&self, by: &Keypair, node: NodeId, nonce: [u8; 16]) -> Option<Readmission> {
        let Some(Outcast::Revoked(standing)) = self.outcast(node) else { return None };
        let undoes: BTreeSet<StatementId> = standing.iter().map(|(id, _)| *id).collect();
        let undoes = undoes.into_iter().collect();
        let mut readmission =
            Readmission { node, by: by.node(), nonce, undoes, signature: Vec::new() };
        let signed = Statement::Readmission(readmission.clone()).signed(self.mesh);
        readmission.signature = by.sign(&signed);
        Some(readmission)
    }

    /// What gives the node of `old` the key `new` as well.
    pub fn rebind(&self, old: &Keypair, new: &Keypair) -> Option<Rebind> {
        let node = old.node();
        let number = self.keys.get(&node)?.number_of(&old.public())?.checked_add(1)?;
        let mut rebind =
            Rebind { node, number, key: new.public(), signature: Vec::new(), proof: Vec::new() };
        let signed = Statement::Rebind(rebind.clone()).signed(self.mesh);
        rebind.signature = old.sign(&signed);
        rebind.proof = new.sign(&signed);
        Some(rebind)
    }

    /// What leaves the node of `new` that key only. `at` is mesh time in milliseconds since 1970.
    pub fn retire(&self, new: &Keypair, at: u64) -> Option<Retire> {
        let node = new.node();
        let number = self.keys.get(&node)?.number_of(&new.public()).filter(|it| *it > 0)?;
        let mut retire =
            Retire { node, number, at, cut: self.acts_of(node), signature: Vec::new() };
        let signed = Statement::Retire(retire.clone()).signed(self.mesh);
        retire.signature = new.sign(&signed);
        Some(retire)
    }

    /// What is known of a node's acts, in order; of more than [`CUT_MAX`] those that make present
    /// members first.
    fn acts_of(&self, node: NodeId) -> Vec<StatementId> {
        let acts =
            self.set.iter().filter(|(_, it)| it.by() == node || it.invited_by() == Some(node));
        let mut acts: Vec<(bool, StatementId)> =
            acts.map(|(id, it)| (!self.speaks(it), *id)).collect();
        acts.sort_unstable();
        acts.truncate(CUT_MAX);
        let acts: BTreeSet<StatementId> = acts.into_iter().map(|(_, id)| id).collect();
        acts.into_iter().collect()
    }

    /// Whether it is the admission that makes somebody a member, or no admission.
    fn speaks(&self, statement: &Statement) -> bool {
        match statement {
            Statement::Admission(it) => self.admission_of(it.node) == Some(it),
            _ => true,
        }
    }

    /// All that is no admission, up to `most` bytes; what is about `first` comes first.
    pub fn news(&self, first: &[NodeId], most: usize) -> Vec<Statement> {
        // A handshake asks for this, and most meshes have none.
        if self.admissions == self.set.len() {
            return Vec::new();
        }
        let others = self.statements().filter(|it| !matches!(it, Statement::Admission(_)));
        let mut all: Vec<&Statement> = others.collect();
        all.sort_by_key(|it| !first.contains(&it.about()));
        let mut left = most;
        let fits = all.into_iter().take_while(|it| {
            let size = postcard::experimental::serialized_size(it).unwrap_or(usize::MAX);
            let fits = size <= left;
            left = left.saturating_sub(size);
            fits
        });
        fits.cloned().collect()
    }

    /// The changes of keys that a chain's signatures need: for whoever holds no roster.
    pub fn rebinds(&self, chain: &super::Chain) -> Vec<Statement> {
        let nodes: BTreeSet<NodeId> = chain.iter().map(|admission| admission.node).collect();
        let all = self.statements().filter(|it| matches!(it, Statement::Rebind(_)));
        all.filter(|it| nodes.contains(&it.about())).cloned().collect()
    }
}

//! Who belongs to the mesh: newcomers let in, and admissions handed on.

use super::{Control, Effect, Note};
use crate::admission::{Admission, PublicKey};
use crate::id::NodeId;
use crate::time::Now;
use crate::wire::{self, LinkMessage, Message};

impl Control {
    /// Takes what is new into the roster, has it written down and hands it on.
    pub(super) fn adopt(
        &mut self,
        now: Now,
        list: Vec<Admission>,
        from: Option<NodeId>,
        effects: &mut Vec<Effect>,
    ) {
        let new = self.roster.adopt(list);
        if new.is_empty() {
            return;
        }
        self.nodes_dirty = true;
        effects.push(Effect::Admissions(new.clone()));
        self.tell_members(now, effects);
        let message = LinkMessage::Admissions(wire::Admissions(new)).encode();
        for &node in self.linked.iter().filter(|node| Some(**node) != from) {
            effects.push(Effect::Send(node, message.clone()));
        }
    }

    pub(super) fn join(
        &mut self,
        now: Now,
        ticket: u64,
        newcomer: PublicKey,
        join: &wire::Join,
        statement: &[u8],
        effects: &mut Vec<Effect>,
    ) {
        let again = self.roster.member_with_key(&newcomer).is_some();
        let verdict = self.roster.check_invite(&join.invite, &join.proof, statement, now.wall);
        if let (false, Err(refusal)) = (again, verdict) {
            self.counters.refused += 1;
            effects.push(Effect::RefuseJoin { ticket, reason: refusal.to_string() });
            return;
        }
        if !again {
            let admission = self.roster.admit(&self.keypair, newcomer, join.invite.id);
            self.counters.admitted += 1;
            effects.push(Effect::Note(Note::Admitted(admission.node)));
            self.adopt(now, vec![admission], None, effects);
        }
        let members = self.alive.iter().map(|&node| (node, self.addrs_of(node))).collect();
        let admissions = self.roster.admissions().cloned().collect();
        effects.push(Effect::Admit { ticket, admitted: wire::Admitted { admissions, members } });
    }
}

//! Who belongs to the mesh: newcomers let in, members shut out, and what follows from either.

use std::collections::BTreeSet;

use super::{Control, Effect, NoDecree, Note};
use crate::accounts;
use crate::admission::{Outcast, PublicKey, Refusal, Statement, Statements};
use crate::id::{NodeId, StatementId};
use crate::session::host::Host;
use crate::time::Now;
use crate::wire::{self, LinkMessage, Message};
use crate::{directory, membership, peering};

impl Control {
    /// Takes what is new into the roster, has it written down and hands it on, then draws the
    /// consequences. Returns the number under which it is written, if anything was new.
    pub(super) fn adopt(
        &mut self,
        now: Now,
        list: Vec<Statement>,
        from: Option<NodeId>,
        effects: &mut Vec<Effect>,
    ) -> Option<u64> {
        if list.is_empty() {
            return None;
        }
        let before: BTreeSet<NodeId> = self.roster.members().collect();
        let was_out = self.roster.outcast(self.me).is_some();
        let new = self.roster.adopt(list);
        if new.is_empty() {
            return None;
        }
        self.nodes_dirty = true;
        let number = self.write_down(new.clone(), effects);
        // First of all, over every link, also those that end by it: a node may not have heard that
        // it is shut out.
        let message = LinkMessage::Statements(Statements(new)).encode();
        for &node in self.linked.iter().filter(|node| Some(**node) != from) {
            effects.push(Effect::Send(node, message.clone()));
        }
        let after: BTreeSet<NodeId> = self.roster.members().collect();
        // Also those that are heard of only now: it is news here that they are out.
        let out = self.roster.outcasts().map(|(node, _)| node);
        let out: Vec<NodeId> = out.filter(|node| !self.expelled.contains(node)).collect();
        for node in out {
            self.expel(now, node, effects);
        }
        for &node in after.difference(&before) {
            self.directory.admit(node);
            let back = self.membership.is_up(node) && self.alive.insert(node);
            if back {
                effects.push(Effect::Note(Note::Up(node)));
                effects.push(Effect::GossipWith(node));
            }
            if self.expelled.remove(&node) {
                self.counters.readmitted += 1;
                effects.push(Effect::Note(Note::Readmitted(node)));
                let addrs = self.addrs_of(node);
                self.peer(now, peering::Event::Known { node, addrs, up: true }, effects);
            }
        }
        if was_out && self.roster.outcast(self.me).is_none() {
            self.host(now, effects, |host, world, out| host.stay(world, out));
            if let Some(key) = self.next_key.take() {
                self.rotate(now, None, key, effects);
            }
        }
        self.tell_members(now, effects);
        self.proceed_rotating(now, effects);
        Some(number)
    }

    /// Has statements written down; they are on disk once this number is [`super::Event::Recorded`].
    pub(super) fn write_down(&mut self, list: Vec<Statement>, effects: &mut Vec<Effect>) -> u64 {
        self.recording += 1;
        effects.push(Effect::Statements(self.recording, list));
        self.recording
    }

    /// A node that was a member is none any more.
    fn expel(&mut self, now: Now, node: NodeId, effects: &mut Vec<Effect>) {
        let Some(why) = self.roster.outcast(node) else { return };
        match why {
            Outcast::Revoked(_) => self.counters.revoked += 1,
            Outcast::Surplus | Outcast::Unfounded => self.counters.surplus += 1,
        }
        let refusal = Refusal::out(node, why);
        effects.push(Effect::Note(Note::Expelled(node, refusal.clone())));
        self.expelled.insert(node);
        self.rest.hurry();
        if node == self.me {
            let reason = refusal.to_string();
            self.host(now, effects, |host, world, out| host.expel(world, &reason, out));
            for peer in self.linked.clone() {
                self.unlink(now, peer, &reason, effects);
            }
            return;
        }
        self.unlink(now, node, &refusal.to_string(), effects);
        self.alive.remove(&node);
        self.reports.remove(&node);
        self.heard.remove(&node);
        self.clocks.forget(node);
        self.member(now, membership::Event::Forget(node), effects);
        self.peer(now, peering::Event::Forget(node), effects);
        let encoders: Vec<_> = self.directory.entries(node).map(|(encoder, _)| encoder).collect();
        self.directory.forget(node);
        for encoder in encoders {
            self.host(now, effects, |host, world, out| host.encoder_changed(world, encoder, out));
        }
    }

    fn unlink(&mut self, now: Now, node: NodeId, reason: &str, effects: &mut Vec<Effect>) {
        effects.push(Effect::Expel(node, reason.to_owned()));
        self.link_down(now, node, effects);
    }

    /// No link to this node any more.
    pub(super) fn link_down(&mut self, now: Now, node: NodeId, effects: &mut Vec<Effect>) {
        if self.links.remove(&node).is_none() {
            return;
        }
        self.linked.remove(&node);
        if self.alive.contains(&node) {
            self.lacking.lost(now.mono, node);
        }
        self.nodes_dirty = true;
        self.peer(now, peering::Event::LinkDown { node }, effects);
        self.member(now, membership::Event::Unlinked(node), effects);
        self.entries(now, directory::Event::Unlinked(node), effects);
        self.account(now, accounts::Event::Unlinked(node), effects);
        self.proceed_rotating(now, effects);
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
        let time = self.clocks.time(now);
        let verdict = self
            .may_join(&newcomer)
            .and_then(|()| self.roster.check_invite(&join.invite, &join.proof, statement, time));
        if let (false, Err(refusal)) = (again, verdict) {
            self.counters.refused += 1;
            effects.push(Effect::RefuseJoin { ticket, reason: refusal.to_string() });
            return;
        }
        if !again {
            let admission = self.roster.admit(&self.keypair, newcomer, &join.invite);
            self.counters.admitted += 1;
            effects.push(Effect::Note(Note::Admitted(admission.node)));
            self.adopt(now, vec![admission.into()], None, effects);
        }
        let members = self.alive.iter().map(|&node| (node, self.addrs_of(node))).collect();
        let statements = Statements(self.roster.statements().cloned().collect());
        // The dead ones cannot say it themselves any more.
        let known = self.roster.members().chain(self.roster.outcasts().map(|(node, _)| node));
        let names = known.filter_map(|node| Some((node, self.name_of(node)?))).collect();
        let admitted = wire::Admitted { statements, members, names };
        effects.push(Effect::Admit { ticket, admitted });
    }

    /// A revoked node does not come in by the door of newcomers, nor does one that is shut out
    /// itself open it.
    fn may_join(&self, newcomer: &PublicKey) -> Result<(), Refusal> {
        let node = crate::admission::node_id(newcomer);
        for of in [self.me, node] {
            if let Some(why @ Outcast::Revoked(_)) = self.roster.outcast(of) {
                return Err(Refusal::out(of, why));
            }
        }
        match self.roster.outcast(self.me) {
            Some(why) => Err(Refusal::out(self.me, why)),
            None => Ok(()),
        }
    }

    pub(super) fn revoke(
        &mut self,
        now: Now,
        ticket: u64,
        node: NodeId,
        nonce: [u8; 16],
        reason: &str,
        effects: &mut Vec<Effect>,
    ) {
        let revoked = matches!(self.roster.outcast(node), Some(Outcast::Revoked(_)));
        let known = self.roster.contains(node) || self.roster.outcast(node).is_some();
        let result = match known {
            false => Err(NoDecree::Unknown),
            // Asked for what is so already.
            true if revoked => Ok(()),
            true => {
                let writes = self.ledger.writes_of(node);
                let revocation = self.roster.revoke(&self.keypair, node, nonce, reason, writes);
                let new = vec![Statement::Revocation(revocation)];
                self.adopt(now, new, None, effects).map(|_| ()).ok_or(NoDecree::Full)
            }
        };
        effects.push(Effect::Decreed { ticket, result });
    }

    pub(super) fn readmit(
        &mut self,
        now: Now,
        ticket: u64,
        node: NodeId,
        nonce: [u8; 16],
        effects: &mut Vec<Effect>,
    ) {
        let result = match self.roster.readmit(&self.keypair, node, nonce) {
            _ if node == self.me => Err(NoDecree::Itself),
            None => Err(NoDecree::NotRevoked),
            Some(readmission) => {
                let new = vec![Statement::Readmission(readmission)];
                let taken = self.adopt(now, new, None, effects).ok_or(NoDecree::Full);
                // A node that is out itself may take back only what it said itself.
                taken.and_then(|_| match self.roster.outcast(node) {
                    Some(why @ Outcast::Revoked(_)) => {
                        Err(NoDecree::Out(Refusal::out(self.me_or(node), why)))
                    }
                    _ => Ok(()),
                })
            }
        };
        effects.push(Effect::Decreed { ticket, result });
    }

    fn me_or(&self, node: NodeId) -> NodeId {
        if self.roster.outcast(self.me).is_some() { self.me } else { node }
    }

    /// Statements came over a link: the sender hears which of them, but for admissions, are known
    /// here now.
    pub(super) fn statements(
        &mut self,
        now: Now,
        from: NodeId,
        list: Vec<Statement>,
        effects: &mut Vec<Effect>,
    ) {
        let mesh = self.roster.mesh();
        let said = list.iter().filter(|it| !matches!(it, Statement::Admission(_)));
        let said: Vec<StatementId> = said.map(|it| it.id(mesh)).collect();
        self.adopt(now, list, Some(from), effects);
        let known: Vec<StatementId> =
            said.into_iter().filter(|id| self.roster.has_id(*id)).collect();
        if !known.is_empty() && self.linked.contains(&from) {
            let message = LinkMessage::StatementsKnown(wire::StatementsKnown(known));
            effects.push(Effect::Send(from, message.encode()));
        }
    }

    /// At its start: a node that is shut out serves nobody.
    pub(super) fn start_out(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.expelled = self.roster.outcasts().map(|(node, _)| node).collect();
        if let Some(why) = self.roster.outcast(self.me) {
            let refusal = Refusal::out(self.me, why);
            let reason = refusal.to_string();
            effects.push(Effect::Note(Note::Expelled(self.me, refusal)));
            let host: &mut Host = &mut self.host;
            host.shut(&reason);
            let _ = now;
        }
    }
}

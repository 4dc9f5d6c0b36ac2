//! What membership and peering say, and links that come up.

use super::{Control, Effect, Note};
use crate::admission::Statement;
use crate::id::NodeId;
use crate::time::Now;
use crate::wire::{self, LinkMessage, Message};
use crate::{accounts, directory, membership, peering};

impl Control {
    pub(super) fn link_up(
        &mut self,
        now: Now,
        node: NodeId,
        addrs: Vec<String>,
        learned: Vec<Statement>,
        wall: u64,
        effects: &mut Vec<Effect>,
    ) {
        self.adopt(now, learned, Some(node), effects);
        // It was judged by another moment's roster.
        if !self.roster.contains(node) || self.roster.outcast(self.me).is_some() {
            let reason = "one of the two nodes is no member any more".to_owned();
            effects.push(Effect::Expel(node, reason));
            return;
        }
        self.clocks.observe(now, node, wall);
        self.links.insert(node, addrs);
        self.linked.insert(node);
        self.nodes_dirty = true;
        let digest = self.roster.digest();
        effects.push(Effect::Send(node, LinkMessage::StatementDigest(digest).encode()));
        self.announce_to(node, effects);
        self.peer(now, peering::Event::LinkUp { node }, effects);
        self.member(now, membership::Event::Linked(node), effects);
        self.entries(now, directory::Event::Linked(node), effects);
        self.account(now, accounts::Event::Linked(node), effects);
    }

    pub(super) fn member(&mut self, now: Now, event: membership::Event, effects: &mut Vec<Effect>) {
        let mut out = Vec::new();
        self.membership.handle(now, event, &mut out);
        self.member_effects(now, out, effects);
    }

    pub(super) fn member_effects(
        &mut self,
        now: Now,
        out: Vec<membership::Effect>,
        effects: &mut Vec<Effect>,
    ) {
        for effect in out {
            match effect {
                membership::Effect::Datagram { to, bytes } => {
                    effects.push(Effect::Datagram(to, bytes));
                }
                membership::Effect::State { to, bytes, reply } => {
                    let message = LinkMessage::Members(wire::MemberState { bytes, reply });
                    effects.push(Effect::Send(to, message.encode()));
                }
                membership::Effect::Up(peer) => {
                    let membership::Peer { node, addrs, .. } = peer;
                    // Somebody has not heard yet that it is shut out.
                    if self.roster.outcast(node).is_some() {
                        continue;
                    }
                    if self.alive.insert(node) {
                        effects.push(Effect::Note(Note::Up(node)));
                    }
                    self.nodes_dirty = true;
                    effects.push(Effect::GossipWith(node));
                    self.peer(now, peering::Event::Known { node, addrs, up: true }, effects);
                }
                membership::Effect::Renamed(peer) => {
                    let membership::Peer { node, addrs, .. } = peer;
                    if self.roster.outcast(node).is_some() {
                        continue;
                    }
                    // Its addresses may be others.
                    self.nodes_dirty = true;
                    let up = self.membership.is_up(node);
                    self.peer(now, peering::Event::Known { node, addrs, up }, effects);
                }
                membership::Effect::Suspect(_) => self.nodes_dirty = true,
                membership::Effect::Down(node) => self.gone(now, node, false, effects),
                membership::Effect::Left(node) => self.gone(now, node, true, effects),
                membership::Effect::Stalled(_) => {}
            }
        }
    }

    fn gone(&mut self, now: Now, node: NodeId, on_purpose: bool, effects: &mut Vec<Effect>) {
        if !self.alive.remove(&node) {
            return;
        }
        self.nodes_dirty = true;
        if on_purpose {
            effects.push(Effect::Note(Note::NodeLeft(node)));
        } else {
            self.counters.downs += 1;
            effects.push(Effect::Note(Note::Down(node)));
        }
        let addrs = self.addrs_of(node);
        self.peer(now, peering::Event::Known { node, addrs, up: false }, effects);
    }

    pub(super) fn peer(&mut self, now: Now, event: peering::Event, effects: &mut Vec<Effect>) {
        let mut out = Vec::new();
        self.peering.handle(now, event, &mut out);
        for peering::Effect::Dial { node, addr } in out {
            effects.push(Effect::Dial { node, addr });
        }
    }
}

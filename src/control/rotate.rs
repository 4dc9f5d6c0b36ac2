//! This node gets another key: announced first, in use once everyone linked can know it.
//!
//! 1. The new key is on disk beside the one in use. A rebind, signed by both, is written down and
//!    handed on; members accept either key from then on.
//! 2. Once it is on disk here and every linked member said that it knows it, a retirement of the
//!    former key, signed by the new one, is written down.
//! 3. Once that is on disk, the node uses the new key, its file takes the former's place, and the
//!    retirement is handed on: whoever hears it accepts the new key only.
//!
//! A node that is killed at any point starts with one key that is good, and goes on from there.

use std::collections::BTreeSet;

use super::{Control, Effect, NoDecree, Note};
use crate::admission::{Keypair, Refusal, Statement, Statements};
use crate::id::{NodeId, StatementId};
use crate::time::Now;
use crate::wire::{LinkMessage, Message};

/// A change of keys under way.
pub(super) struct Rotation {
    key: Keypair,
    ticket: Option<u64>,
    rebind: StatementId,
    /// The number under which the rebind is written down.
    announced: u64,
    known: BTreeSet<NodeId>,
    /// The retirement, and the number under which it is written down.
    retired: Option<(u64, Statement)>,
}

impl Control {
    pub(super) fn rotate(
        &mut self,
        now: Now,
        ticket: Option<u64>,
        key: Keypair,
        effects: &mut Vec<Effect>,
    ) {
        // Left over from before a restart: it is gone on with once this node is a member again.
        if ticket.is_none() && self.roster.outcast(self.me).is_some() {
            self.next_key = Some(key);
            return;
        }
        let refused = match self.roster.outcast(self.me) {
            _ if self.rotating() => Some(NoDecree::Rotating),
            Some(why) => Some(NoDecree::Out(Refusal::out(self.me, why))),
            None => None,
        };
        let rebind = match refused {
            Some(why) => Err(why),
            None => self.roster.rebind(&self.keypair, &key).ok_or(NoDecree::Unknown),
        };
        let rebind = match rebind {
            Ok(rebind) => Statement::Rebind(rebind),
            Err(why) => {
                if let Some(ticket) = ticket {
                    effects.push(Effect::Decreed { ticket, result: Err(why) });
                }
                return;
            }
        };
        let rebind_id = rebind.id(self.roster.mesh());
        let known = self.roster.has_id(rebind_id);
        self.rotation = Some(Rotation {
            key,
            ticket,
            rebind: rebind_id,
            announced: 0,
            known: BTreeSet::new(),
            retired: None,
        });
        if known {
            self.announce(rebind, effects);
        } else if let Some(number) = self.adopt(now, vec![rebind], None, effects) {
            if let Some(rotation) = &mut self.rotation {
                rotation.announced = number;
            }
        } else {
            self.rotation = None;
            if let Some(ticket) = ticket {
                effects.push(Effect::Decreed { ticket, result: Err(NoDecree::Full) });
            }
            return;
        }
        self.proceed_rotating(now, effects);
    }

    /// After a restart: members may not have heard of it.
    fn announce(&self, rebind: Statement, effects: &mut Vec<Effect>) {
        let message = LinkMessage::Statements(Statements(vec![rebind])).encode();
        effects.extend(self.linked.iter().map(|node| Effect::Send(*node, message.clone())));
    }

    /// A link came up while the change is under way: the other side is asked whether it knows.
    pub(super) fn announce_to(&self, node: NodeId, effects: &mut Vec<Effect>) {
        let Some(rotation) = &self.rotation else { return };
        if let Some(rebind) = self.roster.by_id(rotation.rebind) {
            let message = LinkMessage::Statements(Statements(vec![rebind.clone()]));
            effects.push(Effect::Send(node, message.encode()));
        }
    }

    pub(super) fn known_by(
        &mut self,
        now: Now,
        from: NodeId,
        known: &[StatementId],
        effects: &mut Vec<Effect>,
    ) {
        if let Some(rotation) = self.rotation.as_mut().filter(|it| known.contains(&it.rebind)) {
            rotation.known.insert(from);
            self.proceed_rotating(now, effects);
        }
    }

    pub(super) fn proceed_rotating(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let Some(rotation) = &self.rotation else { return };
        match &rotation.retired {
            None => {
                let durable = self.recorded >= rotation.announced;
                if !durable || !self.linked.is_subset(&rotation.known) {
                    return;
                }
                let time = self.clocks.time(now);
                let Some(retire) = self.roster.retire(&rotation.key, time) else { return };
                let retire = Statement::Retire(retire);
                let number = self.write_down(vec![retire.clone()], effects);
                if let Some(rotation) = &mut self.rotation {
                    rotation.retired = Some((number, retire));
                }
            }
            Some((number, _)) if self.recorded >= *number => {
                let Some(Rotation { key, ticket, retired, .. }) = self.rotation.take() else {
                    return;
                };
                self.keypair = key.clone();
                effects.push(Effect::UseKey(key));
                self.adopt(now, retired.map(|(_, it)| it).into_iter().collect(), None, effects);
                effects.push(Effect::Note(Note::Rekeyed));
                if let Some(ticket) = ticket {
                    effects.push(Effect::Decreed { ticket, result: Ok(()) });
                }
            }
            Some(_) => {}
        }
    }
}

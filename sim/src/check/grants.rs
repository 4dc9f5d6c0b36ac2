//! A node agrees to take an encoder only if that makes it and the one that gives more even, with all
//! that it has agreed to take already.

use std::collections::BTreeMap;

use roost::id::{EncoderId, NodeId};
use roost::placement::balance::Ask;
use roost::placement::plan::evens;
use roost::wire::{LinkMessage, Message as _};

use crate::net::SEC;
use crate::world::World;

/// What somebody agreed to take, and did not come, counts for this long at least.
const COUNTS: u64 = 9 * SEC;

/// What is remembered of who agreed to what.
#[derive(Debug, Default)]
pub(crate) struct Grants {
    /// By who asked, whom, and the number.
    asked: BTreeMap<(usize, usize, u64), Ask>,
    /// What a node agreed to take in one of its lives, when, from whom, by which number.
    agreed: BTreeMap<(usize, EncoderId), (u64, u64, usize, u64)>,
}

impl World {
    /// A message goes over a link.
    pub(crate) fn observe_link(&mut self, ix: usize, to: NodeId, bytes: &[u8]) {
        // Most are about other things, and decoding takes time.
        if !matches!(bytes.first(), Some(8..=10)) {
            return;
        }
        let Some(&peer) = self.index.get(&to) else { return };
        match LinkMessage::decode(bytes) {
            Ok(LinkMessage::BalanceAsk(ask)) => {
                self.checks.grants.asked.insert((ix, peer, ask.ticket), ask);
            }
            Ok(LinkMessage::BalanceRelease(release)) => {
                self.checks.grants.agreed.retain(|(node, id), agreed| {
                    *node != peer
                        || (agreed.2, agreed.3) != (ix, release.ticket)
                        || !release.encoders.contains(id)
                });
            }
            Ok(LinkMessage::BalanceAnswer(answer)) => {
                let ask = self.checks.grants.asked.remove(&(peer, ix, answer.ticket));
                if let Some(ask) = ask.filter(|_| answer.refused.is_none()) {
                    self.check_agreed(ix, peer, &ask);
                }
            }
            _ => {}
        }
    }

    /// What came to a node is among its own from now on.
    pub(super) fn note_arrived(&mut self) {
        let mut agreed = std::mem::take(&mut self.checks.grants.agreed);
        agreed.retain(|(node, id), (at, life, ..)| {
            self.now < *at + COUNTS && self.hosts[*node].life == *life && !self.claims(*node, *id)
        });
        self.checks.grants.agreed = agreed;
    }

    fn check_agreed(&mut self, ix: usize, from: usize, ask: &Ask) {
        self.note_arrived();
        let agreed = &self.checks.grants.agreed;
        let coming = agreed.keys().filter(|(node, id)| *node == ix && !ask.encoders.contains(id));
        let coming = u32::try_from(coming.count()).unwrap_or(u32::MAX);
        let load = self.loads().into_iter().find(|(node, ..)| *node == ix);
        let size = u32::try_from(ask.encoders.len()).unwrap_or(u32::MAX);
        // Where nobody has any weight, all have the same.
        if let Some((_, count, weight)) = load.filter(|_| ask.to_even && ask.weight > 0)
            && weight > 0
            && !evens((ask.count, ask.weight), (count + coming, weight), size)
        {
            let text = format!(
                "n{ix}, which has {count} and gets {coming}, agrees to take {size} from n{from}, which has {}",
                ask.count
            );
            self.fail("even", text);
        }
        let (now, life) = (self.now, self.hosts[ix].life);
        for id in &ask.encoders {
            self.checks.grants.agreed.insert((ix, *id), (now, life, from, ask.ticket));
        }
    }
}

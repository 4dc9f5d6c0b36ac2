//! What there is to plan with: nodes and what they are willing to do, encoders and where they would
//! like to be.

use std::collections::{BTreeMap, BTreeSet};

use super::Control;
use crate::directory::{Entry, SourceState};
use crate::id::{EncoderId, NodeId};
use crate::placement::Demand;
use crate::placement::plan::{Duty, Seat, Unit, Wish, weight_of};
use crate::session::host::AGENT_GONE;

impl Control {
    /// What this node believes that there is to plan with.
    pub fn demand(&self) -> Demand {
        let seats = self.demand_seats();
        let alive = |node: NodeId| self.alive.contains(&node);
        let held: BTreeSet<EncoderId> = self.host.held().collect();
        let rights = self.rights.read();
        // Encoders of one wish are interchangeable to a plan, so each is listed once.
        let (mut wishes, mut guides) = (BTreeMap::new(), BTreeMap::new());
        let mut wish = |encoder: EncoderId| {
            let Some(guide) = rights.guide(encoder) else { return usize::MAX };
            *guides.entry(guide).or_insert_with(|| {
                let number = wishes.len();
                *wishes.entry(rights.wish_of(guide)).or_insert(number)
            })
        };
        let mut stays = BTreeSet::new();
        let unit = |(encoder, at, entry): (EncoderId, NodeId, &Entry)| {
            if entry.stays {
                stays.insert(encoder);
            }
            let free = is_idle(entry) && !(at == self.me && held.contains(&encoder));
            let (room, wish) = (rights.room(encoder), wish(encoder));
            Unit { encoder, room, at, next: entry.next, free, wish }
        };
        let units = self.directory.homes(&alive).into_iter().map(unit).collect();
        let mut wishes: Vec<(Wish, usize)> = wishes.into_iter().collect();
        wishes.sort_by_key(|(_, number)| *number);
        let wishes = wishes.into_iter().map(|(wish, _)| wish).collect();
        let mute = |node: &NodeId| *node != self.me && self.directory.header(*node).is_none();
        let unknown = self.alive.iter().copied().filter(mute).collect();
        Demand { seats, units, wishes, stays, unknown }
    }

    /// Nodes that live, in order of id.
    pub(super) fn demand_seats(&self) -> Vec<Seat> {
        self.alive.iter().map(|node| self.seat(*node)).collect()
    }

    fn seat(&self, node: NodeId) -> Seat {
        let duty = match () {
            () if self.draining(node) => Duty::Draining,
            () if self.cordoned(node) => Duty::Cordoned,
            () => Duty::Open,
        };
        let candidate = self.candidate(node);
        Seat { node, weight: weight_of(candidate.weight), limit: candidate.limit, duty }
    }
}

/// Whether nobody watches an encoder and somebody can be asked to move it.
fn is_idle(entry: &Entry) -> bool {
    entry.viewers == 0 && !entry.stays && entry.source != SourceState::NoSignal(AGENT_GONE.into())
}

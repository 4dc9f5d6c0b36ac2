//! What there is to plan with: nodes and what they are willing to do, encoders and where they would
//! like to be.

use std::collections::BTreeSet;

use super::Control;
use crate::accounts::{Key, Kind};
use crate::directory::{Entry, SourceState};
use crate::id::{EncoderId, NodeId, RecordId};
use crate::placement::plan::{Duty, Seat, Unit, Wish, weight_of};
use crate::session::host::AGENT_GONE;

/// The field of an encoder's record that names its room.
const ROOM: u16 = 4;

/// What [`plan`](crate::placement::plan::plan) is made of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Demand {
    /// Nodes that live, in order of id.
    pub seats: Vec<Seat>,
    /// Encoders that are at home at one of them, in order of id. One that has lost its home is
    /// placed when it asks, not by a plan.
    pub units: Vec<Unit>,
    /// What units refer to. One that refers to none of these has no wish.
    pub wishes: Vec<Wish>,
}

impl Control {
    /// What this node believes that there is to plan with.
    pub fn demand(&self) -> Demand {
        let seats = self.demand_seats();
        let alive = |node: NodeId| self.alive.contains(&node);
        let held: BTreeSet<EncoderId> = self.host.held().collect();
        let home = |encoder: EncoderId| {
            let (at, entry) = self.directory.home(encoder, &alive)?;
            let room = self.room_of(encoder);
            let free = is_idle(entry) && !(at == self.me && held.contains(&encoder));
            Some(Unit { encoder, room, at, next: entry.next, free, wish: usize::MAX })
        };
        let units = self.directory.encoders().filter_map(home).collect();
        Demand { seats, units, wishes: Vec::new() }
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

    fn room_of(&self, encoder: EncoderId) -> Option<RecordId> {
        let record = self.ledger.get(Key { kind: Kind::ENCODER, id: RecordId(encoder.0) })?;
        let room = record.value(ROOM).filter(|_| record.exists())?;
        room.try_into().ok().map(RecordId)
    }
}

/// Whether nobody watches an encoder and somebody can be asked to move it.
fn is_idle(entry: &Entry) -> bool {
    entry.viewers == 0 && !entry.stays && entry.source != SourceState::NoSignal(AGENT_GONE.into())
}

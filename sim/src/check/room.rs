//! The encoders of a room are at one node, some time after anything happened.

use std::collections::{BTreeMap, BTreeSet};

use roost::id::{NodeId, RecordId, SessionId};
use roost::wire::{Assign, Message as _, NodeMessage};

use super::even::FILLED;
use crate::net::SEC;
use crate::world::World;

/// Nodes of which everyone knows everything have been as they are for this long.
const KNOWN: u64 = 10 * SEC;

impl World {
    /// A message goes to a client: whoever comes is led to the others of its room at once.
    pub(crate) fn check_led(&mut self, ix: usize, session: SessionId, bytes: &[u8]) {
        if !self.plan.is_roomed() {
            return;
        }
        let Ok(NodeMessage::Assign(Assign { home, .. })) = NodeMessage::decode(bytes) else {
            return;
        };
        let agent = self.agent_of(ix, session);
        let (Some(agent), Some(control)) = (agent, &self.nodes[ix].control) else { return };
        let mut nodes = 0..self.plan.nodes;
        let calm = self.whole()
            && self.hosts[..self.plan.nodes].iter().all(|it| self.now >= it.touched + KNOWN);
        if !calm || self.is_pooled() || nodes.any(|ix| self.is_wished_away(ix)) {
            return;
        }
        let alive = |node: NodeId| control.alive().contains(&node);
        let at = |encoder| control.directory().home(encoder, &alive).map(|(node, _)| node);
        let id = self.encoders[agent].id;
        let others: BTreeSet<NodeId> = control.rights().company(id).filter_map(at).collect();
        // One that lost its home is not led there again; who stands by is told, unasked, that nobody
        // claims it.
        let fresh = self.now < self.hosts[self.host_of_encoder(agent)].touched + KNOWN
            && self.next_of(agent) != Some(ix);
        if let Some(place) = others.first().filter(|_| others.len() == 1 && fresh)
            && at(id).is_none()
        {
            self.mark("who comes is led to others of its room");
            if *place != home {
                let (name, there) = (self.encoders[agent].name.clone(), self.name_of(home));
                let text = format!("{name} is led to {there}, and its room is elsewhere");
                self.fail("room", text);
            }
        }
    }

    /// Those of a room that nobody watches join the others; those that are watched stay. Nobody
    /// is sent to a node that keeps its load secret.
    pub(super) fn check_rooms(&mut self) {
        let open = self.whole() && self.liars.is_empty();
        let calm = self.plan.is_roomed() && open && self.calm_for(FILLED);
        if !calm || self.is_pooled() || (0..self.plan.nodes).any(|ix| self.is_wished_away(ix)) {
            return;
        }
        let Some(control) = self.nodes.iter().find_map(|node| node.control.as_ref()) else {
            return;
        };
        let mut rooms: BTreeMap<RecordId, (BTreeSet<usize>, BTreeSet<usize>)> = BTreeMap::new();
        for e in 0..self.plan.encoders {
            let Some(room) = control.rights().room(self.encoders[e].id) else { continue };
            let Some(home) = self.home_of(e) else { return };
            let (all, watched) = rooms.entry(room).or_default();
            all.insert(home);
            let native = self.viewers.iter().any(|viewer| viewer.watches == e);
            if native || self.browsers.iter().any(|page| page.watches == e) {
                watched.insert(home);
            }
        }
        let apart = rooms.values().find(|(all, watched)| all.len() > 1 && watched.len() < 2);
        if let Some((all, _)) = apart {
            let text = format!("encoders of a room are at home at {all:?} for long");
            return self.fail("room", text);
        }
        if rooms.values().any(|(all, _)| all.len() == 1) {
            self.mark("a room is at one node");
        }
    }
}

//! The encoders of a room are at one node, some time after anything happened.

use std::collections::{BTreeMap, BTreeSet};

use roost::id::RecordId;

use super::even::FILLED;
use crate::world::World;

impl World {
    /// Those of a room that nobody watches join the others; those that are watched stay.
    pub(super) fn check_rooms(&mut self) {
        let calm = self.plan.is_roomed() && self.whole() && self.calm_for(FILLED);
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

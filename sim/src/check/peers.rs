//! Clients know the nodes.

use std::collections::BTreeSet;

use roost::id::NodeId;

use crate::world::World;

impl World {
    /// Every agent's list names exactly the live nodes as up.
    pub(super) fn check_peers(&mut self) {
        let live: BTreeSet<NodeId> = (0..self.plan.nodes)
            .filter(|ix| self.is_member(*ix) && !self.is_drained(*ix))
            .map(|ix| self.nodes[ix].id)
            .collect();
        if live.is_empty() {
            return;
        }
        for e in 0..self.encoders.len() {
            let Some(agent) = &self.encoders[e].agent else { continue };
            let up = agent.peers().nodes.iter().filter(|peer| peer.up).map(|peer| peer.node);
            let up: BTreeSet<NodeId> = up.collect();
            if up != live {
                let names: Vec<String> = up.iter().map(|node| self.name_of(*node)).collect();
                let text = format!(
                    "cam{e} was told that [{}] are up, of {} that run",
                    names.join(" "),
                    live.len()
                );
                self.fail("peers", text);
                return;
            }
        }
    }
}

//! Who comes is put at the less loaded of the two nodes that its rank proposes.

use roost::id::{NodeId, SessionId};
use roost::placement::plan::WEIGHT_ONE;
use roost::placement::{CHOICES, Candidate, rank};
use roost::wire::{Message as _, NodeMessage};

use crate::net::SEC;
use crate::world::{Host, World};

/// Everyone has heard of what is so for so long.
const HEARD: u64 = 40 * SEC;
/// What the asked may not know: who is on the way, and media that changed a moment ago.
const UNHEARD: f64 = 10.0;

impl World {
    /// A node tells an agent where to be at home.
    pub(crate) fn check_assigned(&mut self, ix: usize, session: SessionId, bytes: &[u8]) {
        let settled = |host: &Host| self.now >= host.touched + HEARD;
        let plain = !self.plan.has_boasts() && !self.plan.is_roomed() && self.liars.is_empty();
        if !plain || !self.whole() || !self.hosts[..self.plan.nodes].iter().all(settled) {
            return;
        }
        let Ok(NodeMessage::Assign(assign)) = NodeMessage::decode(bytes) else { return };
        let agent = self.agent_of(ix, session);
        let Some(key) = agent.map(|agent| self.encoders[agent].id) else { return };
        // Others are where they were, or where a pool is.
        if !assign.reason.starts_with("ranked") {
            return;
        }
        let candidates: Vec<Candidate> = self
            .loads()
            .into_iter()
            .map(|(ix, load, weight)| Candidate {
                node: self.nodes[ix].id,
                weight: weight as f64 / WEIGHT_ONE as f64,
                load,
                media: self.carried(ix).media(),
                limit: u32::MAX,
            })
            .collect();
        let load = |node: NodeId| {
            let of = candidates.iter().find(|candidate| candidate.node == node)?;
            Some((f64::from(of.load) + f64::from(of.media.units())) / of.weight.max(1e-3))
        };
        let best: Vec<_> = rank(key, &candidates).into_iter().take(CHOICES).collect();
        let Some(here) = load(assign.home).filter(|_| best.contains(&assign.home)) else { return };
        let least = best.iter().filter_map(|node| load(*node)).fold(f64::INFINITY, f64::min);
        if here > least + UNHEARD {
            let text = format!(
                "cam of {} is sent to {}, which has {here:.0}, though another has {least:.0}: {}",
                key.short(),
                self.name_of(assign.home),
                assign.reason
            );
            self.fail("load", text);
        }
    }
}

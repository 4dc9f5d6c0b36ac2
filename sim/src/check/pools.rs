//! Who may be in a pool only comes to no other node, and who prefers one comes there while it has a
//! node that takes encoders.

use roost::id::EncoderId;

use crate::net::SEC;
use crate::world::World;

/// Who was home or next of an encoder so long ago, or was so by its agent, takes it, wherever that
/// is.
const KNOWN: u64 = 5 * SEC;
/// Who was sent to a node is there within this time, whatever was said of pools meanwhile.
const UNDER_WAY: u64 = SEC;
/// A node knows what was said this long ago, once nothing else happens.
const HEARD: u64 = 5 * SEC;

impl World {
    /// Notes who knows an encoder.
    pub(super) fn note_known(&mut self) {
        for e in 0..self.plan.encoders {
            let id = self.encoders[e].id;
            let known = [self.home_of(e), self.next_of(e)];
            let claimed = (0..self.plan.nodes).filter(|ix| self.claims(*ix, id));
            let known: Vec<usize> = known.into_iter().flatten().chain(claimed).collect();
            for ix in known {
                self.checks.known.insert((ix, id), self.now);
            }
        }
    }

    /// An encoder has just come to a node.
    pub(super) fn check_pool(&mut self, ix: usize, encoder: EncoderId) {
        let Some(control) = &self.nodes[ix].control else { return };
        let wish = control.rights().wish(encoder);
        if wish.pools.is_empty() {
            return;
        }
        let known = self.checks.known.get(&(ix, encoder));
        let known = known.is_some_and(|at| self.now < at + KNOWN);
        match wish.tier(control.me()) {
            Some(0) => self.mark("an encoder comes to the pool that it prefers"),
            Some(_) => self.mark("an encoder comes to a node outside of its pool"),
            None if known || self.now < self.checks.pooled_at + UNDER_WAY * self.patience() => {}
            None => {
                let text = format!(
                    "n{ix} takes {}, which may be in {} only and was not known there",
                    encoder.short(),
                    wish.words()
                );
                self.fail("pools", text);
            }
        }
    }

    /// What may be in a pool only is never anybody's next elsewhere.
    pub(super) fn check_standby(&mut self) {
        if !self.whole() || !self.calm_for(HEARD * self.patience()) {
            return;
        }
        let mut wrong = None;
        for control in self.nodes.iter().filter_map(|node| node.control.as_ref()) {
            for (encoder, entry) in control.directory().entries(control.me()) {
                let wish = control.rights().wish(encoder);
                if let Some(next) = entry.next.filter(|next| wish.tier(*next).is_none()) {
                    wrong = Some((encoder, next));
                }
            }
        }
        if let Some((encoder, next)) = wrong {
            let text =
                format!("{} stands by for {} outside of its pools", next.short(), encoder.short());
            self.fail("pools", text);
        }
    }

    /// Whether a node takes an encoder, as far as pools go.
    pub(crate) fn pool_takes(&self, ix: usize, e: usize) -> bool {
        let control = self.nodes[ix].control.as_ref();
        control.is_some_and(|control| {
            control.rights().wish(self.encoders[e].id).tier(control.me()).is_some()
        })
    }

    /// Whether a node is allowed by what another one knows.
    pub(crate) fn pool_takes_by(&self, by: usize, ix: usize, e: usize) -> bool {
        let control = self.nodes[by].control.as_ref();
        let wish = control.map(|control| control.rights().wish(self.encoders[e].id));
        wish.is_some_and(|wish| wish.tier(self.nodes[ix].id).is_some())
    }

    /// Whether some node that an encoder may ask knows of none that may take it.
    pub(super) fn is_barred(&self, e: usize) -> bool {
        let nodes = || (0..self.plan.nodes).filter(|ix| self.runs(*ix));
        let mut asked = nodes().filter(|by| self.nodes[*by].control.is_some());
        let takes = |by, ix| self.pool_takes_by(by, ix, e);
        asked.any(|by| {
            let confined = nodes().any(|ix| !takes(by, ix));
            !nodes().any(|ix| takes(by, ix) && !(confined && self.is_wished_away(ix)))
        })
    }

    /// Whether any pool is preferred.
    pub(crate) fn is_pooled(&self) -> bool {
        let mut nodes = self.nodes.iter().filter_map(|node| node.control.as_ref());
        // What is said of all shows in the first.
        let some = if self.plan.has_bound() { self.encoders.len() } else { 1 };
        let ids = || self.encoders.iter().take(some).map(|encoder| encoder.id);
        nodes.any(|control| ids().any(|id| !control.rights().wish(id).pools.is_empty()))
    }
}

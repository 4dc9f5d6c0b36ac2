//! A viewer whose nodes know no home looks elsewhere: in another part of the mesh somebody may.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{ASK_ALL, Effect, Viewer};
use crate::directory::SourceState;
use crate::id::NodeId;
use crate::session::host::AGENT_GONE;
use crate::session::leg::LegId;
use crate::time::Mono;
use crate::wire::StreamPlace;

/// Legs while a viewer looks for a node that knows a home: the mesh has seldom more parts.
const LOOK_LEGS: usize = 4;
/// The longest time between two nodes that are asked: a stream that nobody sends may be waited for
/// by many, and for long.
const LOOK_MAX: Duration = Duration::from_secs(30);

/// A look around, since nobody knows a home.
#[derive(Debug)]
pub(super) struct Look {
    /// When another node is asked.
    pub(super) at: Mono,
    wait: Duration,
    asked: BTreeSet<NodeId>,
    /// By turns one is asked that was called dead, and any: those that live know from each other what
    /// there is to know, unless they heard nothing of late.
    apart: bool,
}

impl Viewer {
    /// Without a picture, and with nodes of which none knows a home, one more node is asked now and
    /// then, each once before any again.
    pub(super) fn look_elsewhere(&mut self, now: Mono, reachable: bool, effects: &mut Vec<Effect>) {
        let dark = self.fresh.is_none_or(|at| now.since(at.max(self.woke)) >= ASK_ALL);
        // A home that lost its agent may be the last to hear where that is now.
        let gone = |of: &StreamPlace| matches!(&of.source, Some(SourceState::NoSignal(why)) if why == AGENT_GONE);
        let knows = self
            .legs
            .values()
            .filter(|leg| !leg.pulse.silent(now))
            .any(|leg| leg.said.as_ref().is_some_and(|(_, at)| at.home.is_some() && !gone(at)));
        if !dark || knows || !reachable || self.config.stay {
            self.look = None;
            return;
        }
        let begins =
            || Look { at: now + ASK_ALL, wait: ASK_ALL, asked: BTreeSet::new(), apart: false };
        let look = self.look.get_or_insert_with(begins);
        if now < look.at {
            return;
        }
        look.wait = (look.wait * 3 / 2).min(LOOK_MAX);
        look.at = now + look.wait;
        look.asked.extend(self.legs.values().filter_map(|leg| leg.node));
        let asked = |node: &NodeId| look.asked.contains(node);
        let peers = self.book.peers().nodes.iter().filter(|peer| asked(&peer.node));
        let mut known: Vec<String> = peers.flat_map(|peer| peer.addrs.clone()).collect();
        known.extend(self.legs.values().map(|leg| leg.addr.clone()));
        look.apart = !look.apart;
        let apart = if look.apart { self.book.apart(now, &known) } else { None };
        let Some((node, addr)) = apart.or_else(|| self.book.anywhere(now, &known, None)) else {
            look.asked.clear();
            return;
        };
        if self.legs.len() >= LOOK_LEGS {
            let oldest = self.legs.keys().copied().find(|id| self.via != Some(*id));
            if let Some(id) = oldest {
                self.let_go(id, effects);
            }
        }
        self.dial(now, node, addr, effects);
    }

    fn let_go(&mut self, id: LegId, effects: &mut Vec<Effect>) {
        self.legs.remove(&id);
        effects.push(Effect::Close(id));
    }
}

//! Digests: how far everything is known here, and what follows from what others say of that.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::time::Duration;

use super::part::Part;
use super::{BOOT_MAX, Digest, Directory, Effect, ORIGINS_MAX};
use crate::id::{Boot, NodeId};
use crate::time::{Mono, earlier};

/// How often a digest goes to one link in turn, before jitter: what a lost message can cost.
pub const REPAIR_INTERVAL: Duration = Duration::from_secs(2);
/// Shortest time between two digests to one link, so that a burst of gaps asks once.
pub const DIGEST_SPACING: Duration = Duration::from_millis(250);
/// A whole digest costs as much as there are origins: after one, a link that comes up is told of the
/// two nodes that it joins alone, for so long for each origin. There are as many links as origins,
/// and what all of them lack would be the same.
const DIGEST_EACH: Duration = Duration::from_micros(500);

/// What another node said that it has more of.
#[derive(Debug)]
pub(super) struct Ask {
    at: Mono,
    of: BTreeMap<NodeId, (Boot, u64)>,
}

impl Directory {
    /// A link came up: what this node has of whom is said.
    pub(super) fn tell_linked(&mut self, now: Mono, node: NodeId, effects: &mut Vec<Effect>) {
        if self.repair_at.is_none() {
            self.repair_at = Some(now + self.repair_after());
        }
        if self.whole_at.is_none_or(|at| at <= now) {
            self.send_whole(now, node, effects);
        } else {
            self.owed = Some(node);
            let of = [self.me, node].map(|origin| (origin, self.position(origin)));
            self.send_digest(node, Digest { of: of.into(), only: true }, effects);
        }
    }

    pub(super) fn on_wake(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        if self.asks_due.is_some_and(|at| at <= now) {
            let due = self.asks.iter().filter(|(_, ask)| ask.at <= now);
            for node in due.map(|(node, _)| *node).collect::<Vec<_>>() {
                self.send_ask(now, node, effects);
            }
            self.asks_due = self.asks.values().map(|ask| ask.at).min();
        }
        if self.whole_at.is_some_and(|at| at <= now)
            && let Some(node) = self.owed
        {
            self.send_whole(now, node, effects);
        }
        if self.repair_at.is_some_and(|at| at <= now) {
            let mut after = self.links.range((Excluded(self.repaired_last), Unbounded));
            let next = after.next().or_else(|| self.links.first_key_value());
            if let Some(node) = next.map(|(node, _)| *node) {
                self.repaired_last = node;
                self.send_whole(now, node, effects);
            }
            self.repair_at = Some(now + self.repair_after());
        }
    }

    /// [`REPAIR_INTERVAL`] give or take a quarter, so that nodes started together drift apart.
    fn repair_after(&mut self) -> Duration {
        self.rounds += 1;
        let base = REPAIR_INTERVAL.as_millis() as u64;
        let mut id = [0; 8];
        id.copy_from_slice(&self.me.0[..8]);
        let mut hash = u64::from_le_bytes(id) ^ self.rounds.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Duration::from_millis(base * 3 / 4 + (hash ^ (hash >> 31)) % (base / 2))
    }

    fn position(&self, origin: NodeId) -> (Boot, u64) {
        self.parts.get(&origin).map_or_else(Default::default, Part::position)
    }

    fn send_digest(&mut self, to: NodeId, digest: Digest, effects: &mut Vec<Effect>) {
        self.counters.digests += 1;
        effects.push(Effect::Digest { to, digest });
    }

    fn send_whole(&mut self, now: Mono, to: NodeId, effects: &mut Vec<Effect>) {
        let Some(asked) = self.links.get_mut(&to) else { return };
        *asked = Some(now);
        self.asks.remove(&to);
        self.owed = None;
        let many = u32::try_from(self.parts.len()).unwrap_or(u32::MAX);
        self.whole_at = Some(now + DIGEST_EACH * many);
        self.send_digest(to, self.digest(), effects);
    }

    /// Asks for what a node said that it has more of: now, or when the link has rested.
    pub(super) fn ask(
        &mut self,
        now: Mono,
        to: NodeId,
        of: BTreeMap<NodeId, (Boot, u64)>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(asked) = self.links.get(&to) else { return };
        let at = asked.map_or(now, |asked| asked + DIGEST_SPACING);
        let ask = self.asks.entry(to).or_insert_with(|| Ask { at, of: BTreeMap::new() });
        for (origin, has) in of {
            let known = ask.of.entry(origin).or_default();
            *known = has.max(*known);
        }
        match ask.at <= now {
            true => self.send_ask(now, to, effects),
            false => self.asks_due = earlier(self.asks_due, Some(ask.at)),
        }
    }

    fn send_ask(&mut self, now: Mono, to: NodeId, effects: &mut Vec<Effect>) {
        let Some(ask) = self.asks.remove(&to) else { return };
        let of = ask.of.into_iter().map(|(origin, has)| (origin, has, self.position(origin)));
        // Some of it has come meanwhile.
        let of: BTreeMap<_, _> = of.filter(|it| it.2 < it.1).map(|it| (it.0, it.2)).collect();
        let Some(asked) = self.links.get_mut(&to).filter(|_| !of.is_empty()) else { return };
        *asked = Some(now);
        self.send_digest(to, Digest { of, only: true }, effects);
    }

    pub(super) fn answer(
        &mut self,
        to: NodeId,
        origin: NodeId,
        has: Option<(Boot, u64)>,
        effects: &mut Vec<Effect>,
    ) {
        if !self.links.contains_key(&to) {
            return;
        }
        let Some(part) = self.parts.get(&origin) else { return };
        let deltas = part.since(origin, has, &self.limits);
        if origin == self.me && !deltas.is_empty() {
            self.told = self.told.max(part.seq);
        }
        effects.extend(deltas.into_iter().map(|delta| Effect::Delta { to: vec![to], delta }));
    }

    pub(super) fn on_digest(&mut self, from: NodeId, digest: &Digest, effects: &mut Vec<Effect>) {
        if !self.links.contains_key(&from) {
            return;
        }
        if digest.of.len() > ORIGINS_MAX || digest.of.values().any(|(boot, _)| boot.0 > BOOT_MAX) {
            self.counters.refused += 1;
            return;
        }
        if let Some((boot, seq)) = digest.of.get(&self.me) {
            self.heard_of_self(*boot, *seq, effects);
        }
        let asked: Vec<NodeId> = match digest.only {
            true => digest.of.keys().copied().collect(),
            false => self.parts.keys().copied().collect(),
        };
        for origin in asked {
            self.answer(from, origin, digest.of.get(&origin).copied(), effects);
        }
    }
}

//! What legs carry: heartbeats at the pace that is called for, and media.

use std::collections::BTreeSet;

use super::{Agent, BOTH_SILENT, Effect, Note, Purpose, send};
use crate::session::leg::LegId;
use crate::time::Mono;
use crate::wire::{self, ClientMessage, Heartbeat};

impl Agent {
    /// Heartbeats at the pace that is called for.
    pub(super) fn pace(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        if self.nudged_until.is_some_and(|until| until <= now) {
            self.nudged_until = None;
        }
        if self.carry_until.is_some_and(|until| until <= now) {
            self.carry_until = None;
        }
        let fast = !self.media.is_empty() || self.nudged_until.is_some();
        let mut dead = Vec::new();
        for (&id, leg) in self.legs.iter_mut().filter(|(_, leg)| leg.welcomed) {
            leg.pulse.set_fast(now, fast && leg.purpose != Purpose::Ask);
            if let Some(number) = leg.pulse.ping(now) {
                effects.push(Effect::Datagram(id, Heartbeat::Ping(number).encode()));
            }
            let spare = self.home != Some(id);
            if spare && leg.pulse.silence(now) > BOTH_SILENT.max(leg.pulse.limit()) {
                dead.push(id);
            }
        }
        for id in dead {
            effects.push(Effect::Close(id));
            self.closed(now, id, "silent", effects);
        }
    }

    pub(super) fn send_media(&mut self, effects: &mut Vec<Effect>) {
        let legs: BTreeSet<LegId> = self
            .legs
            .iter()
            .filter(|(id, leg)| match leg.purpose {
                _ if self.home == Some(**id) => leg.demand.watched || self.carry_until.is_some(),
                Purpose::Next => leg.demand.also,
                // Make before break: until the new home holds, the old one is served as well.
                Purpose::Old => leg.demand.watched,
                Purpose::Ask | Purpose::Home => false,
            })
            .map(|(&id, _)| id)
            .collect();
        // Between two homes the source runs on, so that its pictures so far are kept.
        let between = legs.is_empty() && self.carry_until.is_some();
        if legs != self.media && !between {
            if legs.is_empty() != self.media.is_empty() {
                effects.push(Effect::Note(Note::Watched(!legs.is_empty())));
            }
            self.media = legs.clone();
            effects.push(Effect::Media(legs));
        }
    }

    /// Home holds: legs that served to find it, or were home before, are closed. A home that knows
    /// of nobody may be cut off from the others: who stands by goes on to, and serves those who do
    /// not reach home.
    pub(super) fn drop_others(&mut self, effects: &mut Vec<Effect>) {
        let wanted = self.wanted_next;
        let going = self.moving.as_ref().map(|moving| moving.to);
        let holds = self.let_go_at.is_some();
        let drop: Vec<LegId> = self
            .legs
            .iter()
            .filter(|(id, leg)| {
                let next = match wanted {
                    Some(wanted) => leg.node == Some(wanted),
                    None => leg.purpose == Purpose::Next && leg.registered,
                };
                let keep = match leg.purpose {
                    Purpose::Old => holds,
                    _ => next || (going.is_some() && leg.node == going),
                };
                self.home != Some(**id) && !keep
            })
            .map(|(&id, _)| id)
            .collect();
        for id in drop {
            let reason = "home is elsewhere".to_owned();
            send(id, ClientMessage::Goodbye(wire::Goodbye { reason }), effects);
            effects.push(Effect::Close(id));
            self.legs.remove(&id);
        }
    }
}

//! Going to another home on request, without a gap: the old one is left once the new one holds.

use std::time::Duration;

use super::{Agent, Effect, Note, Purpose, send};
use crate::id::NodeId;
use crate::session::LINGER;
use crate::session::leg::LegId;
use crate::time::Mono;
use crate::wire::{self, ClientMessage};

/// The node that an encoder is to move to is dialled and asked for this long.
const MOVE_DEADLINE: Duration = Duration::from_secs(4);
/// A home that was left is given media for this long beside the new one: by then it has the stream
/// from there, and its viewers see no seam.
const LET_GO: Duration = Duration::from_secs(1);

/// Home has asked this agent to move.
#[derive(Debug)]
pub(super) struct Moving {
    pub(super) to: NodeId,
    from: NodeId,
    reason: String,
    pub(super) until: Mono,
}

impl Agent {
    /// Home wants to give this encoder away.
    pub(super) fn asked_to_move(
        &mut self,
        now: Mono,
        id: LegId,
        order: wire::Move,
        effects: &mut Vec<Effect>,
    ) {
        let home = self.home.filter(|home| *home == id).and_then(|home| self.legs.get(&home));
        let Some(from) = home.filter(|leg| leg.registered).and_then(|leg| leg.node) else { return };
        let (to, reason, until) = (order.to, order.reason, now + MOVE_DEADLINE);
        if to == from {
            // It was to go elsewhere, and is not any more.
            return self.stay(now, &reason, effects);
        }
        self.moving = Some(Moving { to, from, reason, until });
        if self.book.peers().nodes.iter().all(|peer| peer.node != to) {
            self.stay(now, "its address is not known", effects);
        }
    }

    /// Registers at the new home as soon as that lets this agent in, or gives up.
    pub(super) fn proceed_moving(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        if self.let_go_at.is_some_and(|at| at <= now) {
            self.let_go_at = None;
            if self.home().is_some() {
                let wanted = self.wanted_next;
                for leg in self.legs.values_mut().filter(|leg| leg.purpose == Purpose::Old) {
                    // Home a moment ago, next from now on. One that was lost has to prove first
                    // that it is back.
                    if leg.node.is_some() && leg.node == wanted {
                        leg.purpose = Purpose::Next;
                    }
                }
                self.drop_others(effects);
            }
        }
        // While the new home is asked, or another is sought because the old one is lost, what was
        // asked for before waits.
        if self.home().is_none() {
            return;
        }
        let Some(moving) = &self.moving else { return };
        let to = moving.to;
        if moving.until <= now {
            return self.stay(now, "it did not answer in time", effects);
        }
        let leg = self.legs.iter().find(|(_, l)| l.node == Some(to) && l.purpose != Purpose::Old);
        match leg.map(|(&id, leg)| (id, leg.welcomed)) {
            Some((id, true)) => self.go(now, id, effects),
            Some((_, false)) => {}
            None => {
                if let Some(addr) = self.book.address_of(now, to) {
                    self.dial(now, Some(to), addr, Purpose::Ask, effects);
                }
            }
        }
    }

    fn go(&mut self, now: Mono, id: LegId, effects: &mut Vec<Effect>) {
        let Some(moving) = &self.moving else { return };
        self.why.clone_from(&moving.reason);
        self.moved_for = Some(moving.reason.clone());
        (self.lost_home, self.lost_at) = (Some(moving.from), None);
        if !self.media.is_empty() {
            self.carry_until = Some(now + LINGER);
        }
        let old = self.home;
        self.claim(now, id, effects);
        // Not yet, if the disk has not leased the epoch.
        if self.home != old
            && let Some(old) = old.and_then(|old| self.legs.get_mut(&old))
        {
            old.purpose = Purpose::Old;
            old.registered = false;
        }
    }

    /// The move comes to nothing: home is where it was, under a new epoch if another was tried.
    pub(super) fn stay(&mut self, now: Mono, reason: &str, effects: &mut Vec<Effect>) {
        let Some(moving) = self.moving.take() else { return };
        let name = self.label(Some(moving.to));
        let at = |id: &LegId| self.legs.get(id).is_some_and(|leg| leg.node == Some(moving.from));
        let never_left = self.home.filter(at);
        let back = self.legs.iter().find(|(id, leg)| {
            leg.purpose == Purpose::Old && at(id) && leg.welcomed && !leg.pulse.silent(now)
        });
        let back = back.map(|(&id, _)| id);
        if never_left.is_none() {
            // Not even the way back: whoever called finds another home.
            let Some(back) = back else { return };
            if let Some(tried) = self.home.take().and_then(|tried| self.legs.get_mut(&tried)) {
                tried.purpose = Purpose::Ask;
                tried.registered = false;
                tried.asked = None;
            }
            self.moved_for = Some(format!("{name} did not take it: {reason}"));
            (self.lost_home, self.assigned) = (None, Some(moving.from));
            if let Some(leg) = self.legs.get_mut(&back) {
                leg.purpose = Purpose::Home;
            }
            self.claim(now, back, effects);
        }
        if let Some(home) = never_left.or(back) {
            let stayed = wire::Stayed { to: moving.to, reason: reason.to_owned() };
            send(home, ClientMessage::Stayed(stayed), effects);
        }
        effects.push(Effect::Note(Note::Stayed { name, reason: reason.to_owned() }));
    }

    /// The new home holds. One that was lost, and not left on request, is let go at once.
    pub(super) fn arrived(&mut self, now: Mono, first: bool) {
        let at = self.home.and_then(|home| self.legs.get(&home)).and_then(|leg| leg.node);
        let moved = self.moving.take_if(|moving| Some(moving.to) == at).is_some();
        if first && !moved {
            self.let_go_at = None;
        }
        let old = |id: &LegId| self.legs.get(id).is_some_and(|leg| leg.purpose == Purpose::Old);
        if moved && self.media.iter().any(old) {
            self.let_go_at = Some(now + LET_GO);
        }
    }
}

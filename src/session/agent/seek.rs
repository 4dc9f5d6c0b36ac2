//! Finding home and next, and judging whether home still stands.

use std::time::Duration;

use super::{
    Agent, BOTH_SILENT, Effect, Leg, Note, Purpose, REGISTER_DEADLINE, REJECTED_WAIT, send,
};
use crate::id::NodeId;
use crate::session::leg::{DIAL_DEADLINE, DIAL_STAGGER, DIALS_MAX, LegId, Pulse};
use crate::time::Mono;
use crate::wire::{self, ClientMessage, Role};

/// After a hint that home may be dead, it is pinged at the watched pace until it answers, and for
/// this long at most.
const NUDGE: Duration = Duration::from_secs(2);
/// A node that another proposed as home has so long to answer: two round trips and a little more of
/// the longest lines. Whoever asked stays with the other then.
const PROPOSED_DEADLINE: Duration = Duration::from_secs(1);

impl Leg {
    /// When it may be asked again to be next, if that is to come.
    pub(super) fn held(&self, now: Mono) -> Mono {
        self.hold_until.filter(|until| *until > now).unwrap_or(Mono(u64::MAX))
    }
}

impl Agent {
    pub(super) fn give_up_dials(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        let late: Vec<LegId> = self
            .legs
            .iter()
            .filter(|(_, leg)| match leg.asked {
                Some(asked) => asked + REGISTER_DEADLINE <= now,
                None => !leg.welcomed && leg.opened + self.patience(leg) <= now,
            })
            .map(|(&id, _)| id)
            .collect();
        for id in late {
            effects.push(Effect::Close(id));
            self.closed(now, id, "no answer", effects);
        }
    }

    /// How long a dial may take: the asked node, which is there, may not know yet that the one it
    /// proposed has died with the home that was lost.
    pub(super) fn patience(&self, leg: &Leg) -> Duration {
        let proposed = leg.purpose == Purpose::Home && leg.node == self.assigned;
        match proposed && self.legs.values().any(|leg| leg.welcomed && leg.node != self.assigned) {
            true => PROPOSED_DEADLINE,
            false => DIAL_DEADLINE,
        }
    }

    /// Looks at home closely until it answers.
    pub(super) fn nudge(&mut self, now: Mono) {
        let home = self.home.and_then(|home| self.legs.get(&home));
        self.nudged_at = home.map_or(0, |leg| leg.pulse.pings());
        self.nudged_until = Some(now + NUDGE);
    }

    /// Whether home still stands, or whoever was asked to be it.
    pub(super) fn judge_home(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        let Some((id, leg)) = self.home.and_then(|id| Some((id, self.legs.get(&id)?))) else {
            return;
        };
        let (node, registered, silence) = (leg.node, leg.registered, leg.pulse.silence(now));
        let asked = |leg: &Leg| leg.purpose == Purpose::Ask && leg.welcomed;
        if !leg.pulse.silent(now) {
            if registered && self.legs.values().any(asked) {
                self.drop_others(effects);
            }
            return;
        }
        // With next silent as well, it may be this machine's own network: a third node tells.
        let stands = |leg: &Leg| leg.purpose == Purpose::Next && leg.registered;
        let speaks = |leg: &Leg| (stands(leg) || asked(leg)) && !leg.pulse.silent(now);
        let late = registered && silence >= BOTH_SILENT;
        if !late && !self.legs.values().any(speaks) {
            return self.dial_around(now, |_| true, effects);
        }
        // Whoever is asked may not know yet that next is silent, too.
        let silent = |leg: &&Leg| leg.welcomed && leg.pulse.silent(now);
        let silent: Vec<_> = self.legs.values().filter(silent).filter_map(|leg| leg.node).collect();
        self.mute.extend(silent.into_iter().map(|node| (node, now)));
        let name = self.label(node);
        if registered {
            let reason = format!("{name} was silent for {} ms", silence.as_millis());
            self.lose_home(now, node, reason, effects);
        } else {
            effects.push(Effect::Close(id));
            self.closed(now, id, "silent", effects);
        }
    }

    pub(super) fn find_home(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        if let Some(node) = self.assigned {
            let at = self.legs.iter().find(|(_, leg)| leg.node == Some(node));
            match at.map(|(&id, leg)| (id, leg.welcomed)) {
                Some((id, true)) => self.claim(now, id, effects),
                Some((_, false)) => {}
                None => match self.book.address_of(now, node) {
                    Some(addr) => self.dial(now, Some(node), addr, Purpose::Home, effects),
                    None => self.assigned = None,
                },
            }
            return;
        }
        // Ask whoever is connected already; otherwise dial around.
        let asked = self.legs.values().any(|leg| leg.asked.is_some());
        if asked {
            return;
        }
        let usable = self
            .legs
            .iter_mut()
            .find(|(_, leg)| leg.welcomed && leg.purpose != Purpose::Old && !leg.pulse.silent(now));
        if let Some((&id, leg)) = usable {
            leg.asked = Some(now);
            if leg.purpose == Purpose::Home {
                leg.purpose = Purpose::Ask;
            }
            let register = wire::Register {
                encoder: self.config.encoder,
                name: self.config.name.clone(),
                role: Role::Ask,
                epoch: self.epoch,
                source: self.source.clone(),
                home: self.lost_home,
                lost_ms: None,
                why: None,
            };
            send(id, ClientMessage::Register(register), effects);
            return;
        }
        self.dial_around(now, |leg| !leg.welcomed, effects);
    }

    /// One more node is dialled, but not where one of these legs goes.
    fn dial_around(&mut self, now: Mono, busy: impl Fn(&Leg) -> bool, effects: &mut Vec<Effect>) {
        let under_way = self.legs.values().filter(|leg| !leg.welcomed).count();
        let staggered = self.dialled_at.is_none_or(|at| now >= at + DIAL_STAGGER);
        if under_way < DIALS_MAX && (under_way == 0 || staggered) {
            let busy = self.legs.values().filter(|leg| busy(leg));
            let busy: Vec<String> = busy.map(|leg| leg.addr.clone()).collect();
            if let Some((node, addr)) = self.book.anywhere(now, &busy, self.lost_home) {
                self.dial(now, node, addr, Purpose::Ask, effects);
            }
        }
    }

    pub(super) fn find_next(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        let Some(home) = self.home.and_then(|home| self.legs.get(&home)) else { return };
        if !home.registered {
            return;
        }
        let Some(node) = self.wanted_next.filter(|node| Some(*node) != home.node) else { return };
        match self.legs.values_mut().find(|leg| leg.node == Some(node)) {
            // It is let go in a moment, and next then.
            Some(leg) if leg.purpose == Purpose::Old => {}
            Some(leg) => leg.purpose = Purpose::Next,
            None => {
                if let Some(addr) = self.book.address_of(now, node) {
                    self.dial(now, Some(node), addr, Purpose::Next, effects);
                }
            }
        }
    }

    /// Registers at next once it welcomed us and home stands.
    pub(super) fn register_waiting(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        let Some(home) = self.home() else { return };
        for (&id, leg) in &mut self.legs {
            let waits = leg.purpose == Purpose::Next
                && leg.welcomed
                && !leg.registered
                && leg.asked.is_none()
                && leg.hold_until.is_none_or(|until| until <= now);
            if waits {
                leg.asked = Some(now);
                let register = wire::Register {
                    encoder: self.config.encoder,
                    name: self.config.name.clone(),
                    role: Role::Next,
                    epoch: self.epoch,
                    source: self.source.clone(),
                    home: Some(home),
                    lost_ms: None,
                    why: None,
                };
                send(id, ClientMessage::Register(register), effects);
            }
        }
    }

    /// A node refused to be next, while another is home or is asked to be: it is asked again, ever
    /// more rarely, and nothing else waits for it.
    pub(super) fn refused_as_next(
        &mut self,
        now: Mono,
        id: LegId,
        rejected: &wire::Rejected,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let next = matches!(rejected.role, Role::Next | Role::Also);
        if !next || self.home.is_none_or(|home| home == id) {
            return false;
        }
        let Some(leg) = self.legs.get_mut(&id) else { return true };
        (leg.asked, leg.registered) = (None, false);
        leg.hold_until = Some(now + REJECTED_WAIT * (1 << leg.refused.min(5)));
        leg.refused += 1;
        if rejected.name_taken {
            effects.push(Effect::Note(Note::Refused(rejected.reason.clone())));
        }
        true
    }

    pub(super) fn dial(
        &mut self,
        now: Mono,
        node: Option<NodeId>,
        addr: String,
        purpose: Purpose,
        effects: &mut Vec<Effect>,
    ) {
        if self.legs.values().filter(|leg| !leg.welcomed).count() >= DIALS_MAX {
            return;
        }
        self.last_leg += 1;
        let id = LegId(self.last_leg);
        let leg = Leg {
            node,
            addr: addr.clone(),
            purpose,
            opened: now,
            welcomed: false,
            asked: None,
            registered: false,
            refused: 0,
            hold_until: None,
            pulse: Pulse::new(now),
            demand: wire::Demand { watched: false, also: false, viewers: 0 },
        };
        self.legs.insert(id, leg);
        self.dialled_at = Some(now);
        effects.push(Effect::Dial { leg: id, node, addr });
    }
}

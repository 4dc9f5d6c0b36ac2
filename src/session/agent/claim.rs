//! Claiming a home under a new epoch, and keeping epochs ahead of the disk.

use super::{Agent, Effect, Purpose, send};
use crate::id::Epoch;
use crate::session::LINGER;
use crate::session::leg::LegId;
use crate::time::Mono;
use crate::wire::{self, ClientMessage, Role};

/// Epochs are written down this many at a time, so that a promotion never waits for the disk.
const EPOCH_LEASE: u64 = 64;

impl Agent {
    /// Registers home at this leg under an epoch above everything seen.
    pub(super) fn claim(&mut self, now: Mono, id: LegId, effects: &mut Vec<Effect>) {
        let counter = self.epoch.counter.max(self.floor.counter).saturating_add(1);
        if counter > self.durable {
            self.lease(effects);
            return;
        }
        self.epoch = Epoch { counter, instance: self.config.instance };
        if self.carry_until.is_some() {
            self.carry_until = Some(now + LINGER);
        }
        let Some(leg) = self.legs.get_mut(&id) else { return };
        leg.purpose = Purpose::Home;
        leg.registered = false;
        leg.asked = Some(now);
        self.home = Some(id);
        let register = wire::Register {
            encoder: self.config.encoder,
            name: self.config.name.clone(),
            role: Role::Home,
            epoch: self.epoch,
            source: self.source.clone(),
            home: self.lost_home,
            lost_ms: self
                .lost_at
                .map(|at| u32::try_from(now.since(at).as_millis()).unwrap_or(u32::MAX)),
            why: Some(self.why.clone()),
        };
        send(id, ClientMessage::Register(register), effects);
        self.lease(effects);
    }

    pub(super) fn heed_floor(&mut self, floor: Epoch) {
        if floor.plausible() {
            self.floor = self.floor.max(floor);
        }
    }

    /// Keeps the lease on disk well ahead of the epochs in use.
    pub(super) fn lease(&mut self, effects: &mut Vec<Effect>) {
        let used = self.epoch.counter.max(self.floor.counter);
        if used.saturating_add(EPOCH_LEASE / 2) > self.durable && self.leasing.is_none() {
            let wanted = used.saturating_add(EPOCH_LEASE);
            self.leasing = Some(wanted);
            effects.push(Effect::Lease(wanted));
        }
    }
}

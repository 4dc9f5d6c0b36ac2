//! Calls to the directory, and what it wants done.

use super::{Control, Effect};
use crate::directory::{self, Floor};
use crate::id::NodeId;
use crate::placement::balance::Event;
use crate::time::Now;
use crate::wire::{LinkMessage, Message};

impl Control {
    pub(super) fn entries(&mut self, now: Now, event: directory::Event, effects: &mut Vec<Effect>) {
        let mut out = Vec::new();
        let origin = match &event {
            directory::Event::Delta { delta, .. } => delta.origin,
            _ => self.me,
        };
        self.directory.handle(now, event, &mut out);
        self.directory_effects(now, origin, out, effects);
    }

    /// What the directory wants done after entries of `origin` may have changed.
    pub(super) fn directory_effects(
        &mut self,
        now: Now,
        origin: NodeId,
        out: Vec<directory::Effect>,
        effects: &mut Vec<Effect>,
    ) {
        let mut changed = Vec::new();
        for effect in out {
            match effect {
                directory::Effect::Digest { to, digest } => {
                    let message = LinkMessage::DirectoryDigest(digest);
                    effects.push(Effect::Send(to, message.encode()));
                }
                directory::Effect::Delta { to, delta } => {
                    let bytes = LinkMessage::DirectoryDelta(delta).encode();
                    effects.extend(to.into_iter().map(|to| Effect::Send(to, bytes.clone())));
                }
                directory::Effect::Floor { to, floor } => {
                    effects.push(Effect::Send(to, LinkMessage::DirectoryFloor(floor).encode()));
                }
                directory::Effect::Changed(encoder) => changed.push(encoder),
                directory::Effect::HeaderChanged(_) => self.nodes_dirty = true,
                directory::Effect::LinksChanged(_) => self.links_dirty = true,
            }
        }
        if !changed.is_empty() {
            effects.push(Effect::ViewChanged);
            self.recount_at(origin);
        }
        for encoder in changed {
            self.encoders_changed = true;
            if self.balance.expects(encoder) && self.directory.entry(self.me, encoder).is_some() {
                self.balance(now, Event::Home(encoder), effects);
            }
            self.host(now, effects, |host, world, out| host.encoder_changed(world, encoder, out));
        }
    }

    /// Another node knows that this one's claim is void: the encoder is to register under a higher
    /// epoch.
    pub(super) fn floor_told(&mut self, now: Now, floor: &Floor, effects: &mut Vec<Effect>) {
        let claim = self.directory.entry(self.me, floor.encoder);
        if floor.epoch.plausible() && claim.is_some_and(|claim| claim.epoch < floor.epoch) {
            self.directory.raise_floor(floor.encoder, floor.epoch);
            let encoder = floor.encoder;
            self.host(now, effects, |host, world, out| host.encoder_changed(world, encoder, out));
        }
    }
}

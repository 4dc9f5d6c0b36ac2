//! What viewers ask for and are told.

use super::{Effect, FOLLOWS_MAX, Host, World};
use crate::id::{Epoch, NodeId, SessionId, valid_name};
use crate::wire::{self, NodeMessage};

impl Host {
    pub(super) fn watch(
        &mut self,
        world: &mut World<'_>,
        id: SessionId,
        watch: &wire::Watch,
        effects: &mut Vec<Effect>,
    ) {
        let encoder = watch.encoder;
        let home = world.directory.home(encoder, &|node| world.alive.contains(&node));
        let elsewhere = home.is_some_and(|(node, _)| node != world.me);
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if elsewhere && !watch.stay {
            session.watching.remove(&encoder);
            effects.push(Effect::Unserve(id, encoder));
        } else if session.watching.len() < FOLLOWS_MAX && session.watching.insert(encoder) {
            effects.push(Effect::Serve(id, encoder));
        }
    }

    pub(super) fn follow(
        &mut self,
        world: &World<'_>,
        id: SessionId,
        name: String,
        effects: &mut Vec<Effect>,
    ) {
        let place = place(world, &name);
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if !valid_name(&name) || session.follows.len() >= FOLLOWS_MAX {
            let reason = format!("a client follows at most {FOLLOWS_MAX} streams by valid names");
            let failed = wire::Failed { status: 400, reason, retry_after: None };
            effects.push(Effect::Send(id, NodeMessage::Failed(failed)));
            return;
        }
        session.follows.insert(name, Some(place.clone()));
        effects.push(Effect::Send(id, NodeMessage::Stream(place)));
    }

    pub(super) fn tell_places(&mut self, world: &World<'_>, effects: &mut Vec<Effect>) {
        for (&id, session) in &mut self.sessions {
            for (name, told) in &mut session.follows {
                let place = place(world, name);
                if told.as_ref() != Some(&place) {
                    *told = Some(place.clone());
                    effects.push(Effect::Send(id, NodeMessage::Stream(place)));
                }
            }
        }
    }
}

/// Where a stream is, as clients are told.
fn place(world: &World<'_>, name: &str) -> wire::StreamPlace {
    let alive = |node: NodeId| world.alive.contains(&node);
    let encoder = world.directory.by_name(name, &alive);
    let home = encoder.and_then(|encoder| world.directory.home(encoder, &alive));
    wire::StreamPlace {
        name: name.to_owned(),
        encoder,
        home: home.map(|(node, _)| node),
        next: home.and_then(|(_, entry)| entry.next),
        epoch: encoder.map_or(Epoch::default(), |encoder| world.directory.floor(encoder)),
        source: home.map(|(_, entry)| entry.source.clone()),
    }
}

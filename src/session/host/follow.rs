//! What viewers ask for and are told.

use super::{Effect, FOLLOWS_MAX, Host, World, permits};
use crate::access::{Principal, Right};
use crate::accounts::Kind;
use crate::id::{EncoderId, Epoch, NodeId, SessionId, valid_name};
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
        let principal = session.principal.as_ref();
        if !principal.is_some_and(|who| permits(world, who, Right::View, encoder)) {
            self.counters.forbidden += 1;
            // As if there were none: who may not see it learns nothing of it.
            let reason = format!("no encoder {} is known here", encoder.short());
            let failed = wire::Failed { status: 404, reason, retry_after: None };
            effects.push(Effect::Send(id, NodeMessage::Failed(failed)));
            return;
        }
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
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(principal) = session.principal.as_ref() else { return };
        let place = place(world, principal, &name);
        if !name.split('/').all(valid_name) || session.follows.len() >= FOLLOWS_MAX {
            let reason = format!("a client follows at most {FOLLOWS_MAX} streams by valid names");
            let failed = wire::Failed { status: 400, reason, retry_after: None };
            effects.push(Effect::Send(id, NodeMessage::Failed(failed)));
            return;
        }
        session.follows.insert(name, Some(place.clone()));
        self.followers.insert(id);
        effects.push(Effect::Send(id, NodeMessage::Stream(place)));
    }

    pub(super) fn tell_places(&mut self, world: &World<'_>, effects: &mut Vec<Effect>) {
        for &id in &self.followers {
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            let Some(principal) = session.principal.as_ref() else { continue };
            for (name, told) in &mut session.follows {
                let place = place(world, principal, name);
                if told.as_ref() != Some(&place) {
                    *told = Some(place.clone());
                    effects.push(Effect::Send(id, NodeMessage::Stream(place)));
                }
            }
        }
    }
}

/// The encoder that `name` or `domain/name` means to somebody: one that they may watch.
fn resolve(world: &World<'_>, who: &Principal, text: &str) -> Option<EncoderId> {
    let alive = |node: NodeId| world.alive.contains(&node);
    let (domains, name) = world.rights.places_of(&who.who, text);
    domains.into_iter().find_map(|domain| {
        let fits = |encoder: EncoderId| {
            world.rights.domain_of(encoder) == Some(domain)
                && permits(world, who, Right::View, encoder)
        };
        let recorded = || {
            let mut named = world.rights.named(Kind::ENCODER, Some(domain), name);
            named.find_map(|id| Some(EncoderId(id.0)).filter(|encoder| fits(*encoder)))
        };
        world.directory.by_name_of(name, &alive, &fits).or_else(recorded)
    })
}

/// Where a stream is, as clients are told.
fn place(world: &World<'_>, who: &Principal, name: &str) -> wire::StreamPlace {
    let alive = |node: NodeId| world.alive.contains(&node);
    let encoder = resolve(world, who, name);
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

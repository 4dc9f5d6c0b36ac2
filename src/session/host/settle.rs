//! What follows from a stream's state: whether the claim stands, what the directory says, next,
//! the route, and what the agent is told.

use super::register::key;
use super::{Effect, Host, Note, Route, Stream, World};
use crate::directory::Entry;
use crate::grow::Later;
use crate::id::{EncoderId, NodeId};
use crate::media::GateEvent;
use crate::placement::{self, Candidate};
use crate::time::Mono;
use crate::wire::{self, NodeMessage, Role};

impl Host {
    /// Brings everything that follows from an encoder's state up to date: whether the claim
    /// stands, the directory's entry, next, the route, and what the agent was told.
    pub(super) fn settle(
        &mut self,
        world: &mut World<'_>,
        encoder: EncoderId,
        effects: &mut Vec<Effect>,
    ) {
        self.conclude_move(world, encoder, effects);
        let floor = world.directory.floor(encoder);
        let Some(stream) = self.streams.get_mut(&encoder) else { return };
        if let Some(claim) = &stream.home
            && claim.epoch < floor
        {
            self.counters.superseded += 1;
            if let Some(session) = claim.session {
                let reason = format!("epoch {floor} is home elsewhere");
                let note = Note::Gone(reason.clone());
                effects.push(Effect::Note(encoder, stream.name.clone(), note));
                let rejected = wire::Rejected {
                    role: Role::Home,
                    floor,
                    name_taken: false,
                    reason,
                    retry_after: None,
                };
                effects.push(Effect::Send(session, NodeMessage::Rejected(rejected)));
                if let Some(session) = self.sessions.get_mut(&session) {
                    session.agent_of = None;
                }
            }
            stream.home = None;
        }
        self.choose_next(world, encoder);
        self.tell_unclaimed(world, encoder, effects);
        self.publish(world, encoder, effects);
        self.reroute(world, encoder, effects);
        self.tell_demand(world.now.mono, encoder, effects);
        if let Some(stream) = self.streams.get(&encoder)
            && stream.home.is_none()
            && stream.warm.is_none()
            && stream.viewers == 0
            && stream.watched_until.is_none()
        {
            self.streams.remove(&encoder);
        }
    }

    /// Who stands by already stays for as long as it can: its successor is dialled by the agent.
    pub(super) fn choose_next(&mut self, world: &World<'_>, encoder: EncoderId) {
        let Some(claim) = self.streams.get_mut(&encoder).and_then(|s| s.home.as_mut()) else {
            return;
        };
        let now = world.now.mono;
        // A node that went down since is another matter once it is back.
        claim.unreachable.retain(|node, until| *until > now && world.alive.contains(node));
        let before = claim.next;
        let wish = world.rights.wish(encoder);
        let candidate = |node: &NodeId| {
            *node != world.me
                && wish.tier(*node).is_some()
                && world.candidates.iter().any(|candidate| candidate.node == *node)
        };
        if before.is_some_and(|next| candidate(&next) && !claim.unreachable.contains_key(&next)) {
            return;
        }
        // A next that could not be reached a moment ago is better than none.
        let key = key(world, encoder);
        let next = self
            .best_next(world, encoder)
            .or(before.filter(candidate))
            .or_else(|| placement::next(key, world.me, world.candidates, &wish))
            .or_else(|| placement::next(key, world.me, world.reluctant, &wish));
        if let Some(claim) = self.streams.get_mut(&encoder).and_then(|s| s.home.as_mut()) {
            claim.next = next;
        }
    }

    /// Who would stand by for an encoder if nobody did.
    pub(super) fn best_next(&self, world: &World<'_>, encoder: EncoderId) -> Option<NodeId> {
        let claim = self.streams.get(&encoder)?.home.as_ref()?;
        let fits =
            |it: &&Candidate| it.node != world.me && !claim.unreachable.contains_key(&it.node);
        let usable: Vec<Candidate> = world.candidates.iter().filter(fits).cloned().collect();
        let wish = world.rights.wish(encoder);
        let best = placement::next(key(world, encoder), world.me, &usable, &wish);
        // Those of a room that are here go together when this node dies.
        let shared = world.rights.company(encoder).find_map(|other| {
            let next = world.directory.entry(world.me, other)?.next?;
            let liked =
                wish.tier(next)? <= best.map_or(usize::MAX, |best| wish.tier(best).unwrap_or(0));
            let at = usable.iter().find(|candidate| candidate.node == next)?;
            (liked && at.load < at.limit).then_some(next)
        });
        shared.or(best)
    }

    pub(super) fn publish(
        &mut self,
        world: &mut World<'_>,
        encoder: EncoderId,
        effects: &mut Vec<Effect>,
    ) {
        let stays = self.is_publisher(encoder);
        let Some(stream) = self.streams.get_mut(&encoder) else { return };
        let entry = stream.home.as_ref().map(|claim| Entry {
            name: stream.name.clone(),
            epoch: claim.epoch,
            next: claim.next,
            source: claim.source.clone(),
            viewers: stream.viewers,
            why: claim.why.clone(),
            stays,
            later: Later::default(),
        });
        let before = world.directory.entry(world.me, encoder);
        if before == entry.as_ref() {
            return;
        }
        let next_before = before.and_then(|entry| entry.next);
        let next = entry.as_ref().and_then(|entry| entry.next);
        if let Some(claim) = &stream.home
            && let Some(session) = claim.session
            && before.is_some_and(|before| before.epoch == claim.epoch)
            && next_before != next
        {
            let registered = wire::Registered { role: Role::Home, epoch: claim.epoch, next };
            effects.push(Effect::Send(session, NodeMessage::Registered(registered)));
        }
        world.directory.put_entry(encoder, entry);
    }

    /// Who stands by tells the agent when nobody claims the encoder any more: a home that started
    /// anew has forgotten it, and an agent that sends nothing would not notice for seconds (ADR 23).
    fn tell_unclaimed(&mut self, world: &World<'_>, encoder: EncoderId, effects: &mut Vec<Effect>) {
        let Some(stream) = self.streams.get_mut(&encoder).filter(|it| it.home.is_none()) else {
            return;
        };
        let Some(warm) = &mut stream.warm else { return };
        let claimed = world.directory.claims(encoder).next().is_some();
        // Where it may not be any more, it is not to come.
        let may = world.rights.wish(encoder).tier(world.me).is_some();
        if std::mem::replace(&mut warm.claimed, claimed) && !claimed && may {
            self.counters.unclaimed += 1;
            let (floor, reason) = (world.directory.floor(encoder), "nobody claims it".to_owned());
            let assign = wire::Assign { home: world.me, next: None, floor, reason };
            effects.push(Effect::Send(warm.session, NodeMessage::Assign(assign)));
        }
    }

    pub(super) fn reroute(
        &mut self,
        world: &World<'_>,
        encoder: EncoderId,
        effects: &mut Vec<Effect>,
    ) {
        let Some(stream) = self.streams.get_mut(&encoder) else { return };
        let feed = self.last_feed + 1;
        let route = stream.wanted_route(world, encoder, feed);
        if route.same_place(&stream.route) {
            return;
        }
        self.last_feed = feed;
        if stream.overlap(&route, world.now.mono) {
            self.timed.insert(encoder);
        }
        stream.route = route.clone();
        stream.keyframes = stream.keyframes.anew();
        effects.push(Effect::Route(encoder, route));
        self.keyframe(world.now.mono, encoder, GateEvent::Wake, effects);
    }

    pub(super) fn tell_demand(&mut self, now: Mono, encoder: EncoderId, effects: &mut Vec<Effect>) {
        let Some(stream) = self.streams.get_mut(&encoder) else { return };
        let viewers = stream.viewers;
        let lingers = stream.watched_until.is_some_and(|until| until > now);
        let watched = viewers > 0 || lingers;
        let at_home = stream.home.is_some();
        if let Some(claim) = &mut stream.home
            && let Some(session) = claim.session
        {
            let demand = wire::Demand { watched, also: false, viewers };
            if claim.told.as_ref() != Some(&demand) {
                claim.told = Some(demand.clone());
                effects.push(Effect::Send(session, NodeMessage::Demand(demand)));
            }
        }
        if let Some(warm) = &mut stream.warm {
            let also = !at_home
                && watched
                && (stream.detour.overlaps(now)
                    || matches!(stream.route, Route::Local { session, .. } if session == warm.session));
            let demand = wire::Demand { watched: watched && !at_home, also, viewers };
            let silent = warm.told.is_none() && !demand.watched;
            if warm.told.as_ref() != Some(&demand) && !silent {
                warm.told = Some(demand.clone());
                effects.push(Effect::Send(warm.session, NodeMessage::Demand(demand)));
            }
        }
    }
}

impl Stream {
    fn wanted_route(&self, world: &World<'_>, encoder: EncoderId, feed: u64) -> Route {
        if let Some(claim) = &self.home {
            return match claim.session {
                Some(session) if claim.unconfirmed.is_none() => {
                    Route::Local { session, feed, timeline: claim.epoch.instance }
                }
                _ => Route::None,
            };
        }
        if self.viewers == 0 {
            return Route::None;
        }
        let home = world.directory.home(encoder, &|node| world.alive.contains(&node));
        if let Some((node, entry)) = home.filter(|(node, _)| *node != world.me) {
            let timeline = entry.epoch.instance;
            let reaches = |via: &&NodeId| {
                world.alive.contains(*via)
                    && world.directory.header(**via).is_some_and(|h| !h.lacking.contains(&node))
            };
            let via = if world.linked.contains(&node) {
                Some(node)
            } else {
                world.linked.iter().find(reaches).copied()
            };
            let detours = self.detour.is_taken() && self.stands_by().is_some();
            if let Some(via) = via.filter(|_| !detours) {
                return Route::Relay { via, feed, timeline };
            }
        }
        match self.stands_by() {
            Some(warm) => {
                Route::Local { session: warm.session, feed, timeline: warm.epoch.instance }
            }
            None => Route::None,
        }
    }
}

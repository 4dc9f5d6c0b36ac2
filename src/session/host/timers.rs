//! What is due at this node's clients.

use super::{Effect, Host, Route, Stream, World};
use crate::id::SessionId;
use crate::media::GateEvent;
use crate::session::HELLO_DEADLINE;
use crate::time::{Mono, earlier};

impl Host {
    /// When [`Host::wake`] is due.
    pub fn next_wake(&self) -> Option<Mono> {
        let hello = self.fresh.iter().filter_map(|id| self.sessions.get(id));
        let hello = hello.map(|session| session.opened + HELLO_DEADLINE).min();
        let timed = self.timed.iter().filter_map(|encoder| self.streams.get(encoder));
        let streams = timed.filter_map(Stream::due).min();
        earlier(
            earlier(hello, streams),
            earlier(self.judge_at, earlier(self.moves_due(), self.drain_due())),
        )
    }

    /// Timers.
    pub fn wake(&mut self, world: &mut World<'_>, effects: &mut Vec<Effect>) {
        let now = world.now.mono;
        self.in_flight.retain(|(_, _, until)| *until > now);
        let late: Vec<SessionId> = self
            .fresh
            .iter()
            .filter(|id| self.sessions.get(id).is_none_or(|s| s.opened + HELLO_DEADLINE <= now))
            .copied()
            .collect();
        for id in late {
            self.fresh.remove(&id);
            self.sessions.remove(&id);
            effects.push(Effect::Close(id, "no hello came in time".into()));
        }
        if self.judge_at.is_some_and(|at| at <= now) {
            self.rights_changed(world, effects);
        }
        self.give_up_moves(now, effects);
        if self.drain_due().is_some_and(|at| at <= now) {
            self.proceed_draining(world, false, effects);
        }
        for encoder in std::mem::take(&mut self.timed) {
            self.keyframe(now, encoder, GateEvent::Wake, effects);
            let Some(stream) = self.streams.get_mut(&encoder) else { continue };
            let reachable_again = stream
                .home
                .as_ref()
                .is_some_and(|claim| claim.unreachable.values().any(|until| *until <= now));
            let linger_over = stream.watched_until.is_some_and(|until| until <= now);
            let orphan_over = stream
                .home
                .as_ref()
                .and_then(|claim| claim.orphaned)
                .is_some_and(|until| until <= now);
            if linger_over {
                stream.watched_until = None;
            }
            if orphan_over {
                stream.home = None;
            }
            let detour_over = stream.detour.passes(now);
            if linger_over || orphan_over || reachable_again || detour_over {
                self.settle(world, encoder, effects);
            }
            if self.streams.get(&encoder).is_some_and(|stream| stream.due().is_some()) {
                self.timed.insert(encoder);
            }
        }
    }
}

impl Stream {
    fn due(&self) -> Option<Mono> {
        let claim = self.home.as_ref();
        let orphaned = claim.and_then(|claim| claim.orphaned);
        let reachable = claim.and_then(|claim| claim.unreachable.values().min().copied());
        let session = earlier(earlier(self.watched_until, orphaned), reachable);
        let routed = self.route != Route::None;
        let media = earlier(self.detour.due(), self.keyframes.next_wake().filter(|_| routed));
        earlier(session, media)
    }
}

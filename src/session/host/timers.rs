//! What is due at this node's clients.

use super::{Effect, Host, Route, World};
use crate::media::GateEvent;
use crate::session::HELLO_DEADLINE;
use crate::time::{Mono, earlier};

impl Host {
    /// When [`Host::wake`] is due.
    pub fn next_wake(&self) -> Option<Mono> {
        let hello = self
            .sessions
            .values()
            .filter(|session| session.principal.is_none())
            .map(|session| session.opened + HELLO_DEADLINE)
            .min();
        let streams = self.streams.values().filter_map(|stream| {
            let claim = stream.home.as_ref();
            let orphaned = claim.and_then(|claim| claim.orphaned);
            let reachable = claim.and_then(|claim| claim.unreachable.values().min().copied());
            let session = earlier(earlier(stream.watched_until, orphaned), reachable);
            let routed = stream.route != Route::None;
            earlier(session, stream.keyframes.next_wake().filter(|_| routed))
        });
        earlier(
            earlier(hello, streams.min()),
            earlier(self.judge_at, earlier(self.moves_due(), self.drain_due())),
        )
    }

    /// Timers.
    pub fn wake(&mut self, world: &mut World<'_>, effects: &mut Vec<Effect>) {
        let now = world.now.mono;
        self.in_flight.retain(|(_, _, until)| *until > now);
        let late: Vec<_> = self
            .sessions
            .iter()
            .filter(|(_, s)| s.principal.is_none() && s.opened + HELLO_DEADLINE <= now)
            .map(|(&id, _)| id)
            .collect();
        for id in late {
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
        for encoder in self.streams.keys().copied().collect::<Vec<_>>() {
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
            if linger_over || orphan_over || reachable_again {
                self.settle(world, encoder, effects);
            }
        }
    }
}

//! A relay that brings nothing gives way to the agent itself, where it stands by (ADR 24): that a link,
//! or the path behind it, is gone is known seconds later, and whoever watches here would see nothing
//! until then.

use std::time::Duration;

use super::{Effect, Host, Route, Stream, Warm, World};
use crate::directory::SourceState;
use crate::id::EncoderId;
use crate::media::Silence;
use crate::time::{Mono, earlier};

/// A stream is taken from its agent for this long before other nodes are tried again: by then links
/// and membership say what has become of the one that brought nothing.
const DETOUR: Duration = Duration::from_secs(5);
/// An agent that was asked to send, and of which nothing came for this long, does not reach this node.
const GIVE_UP: Duration = Duration::from_secs(1);
/// Round trips from the wish for a stream to its first picture: a media connection, the
/// subscription, and the same again where the other node has to get it first.
const ROUND_TRIPS: u32 = 6;
/// The agent sends here for this long after the stream is taken from another node again: that may
/// bring nothing.
const OVERLAP: Duration = Duration::from_secs(2);

/// Whether a stream that is at home elsewhere is taken from its agent.
#[derive(Debug, Default)]
pub(super) struct Detour {
    state: State,
    /// Until then the agent goes on sending here.
    overlap_until: Option<Mono>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    None,
    /// Until then.
    Taken(Mono),
    /// It brought nothing either, and is not taken again until then.
    Spent(Mono),
}

impl Detour {
    pub(super) fn is_taken(&self) -> bool {
        matches!(self.state, State::Taken(_))
    }

    pub(super) fn overlaps(&self, now: Mono) -> bool {
        self.overlap_until.is_some_and(|until| until > now)
    }

    pub(super) fn due(&self) -> Option<Mono> {
        let state = match self.state {
            State::None => None,
            State::Taken(until) | State::Spent(until) => Some(until),
        };
        earlier(state, self.overlap_until)
    }

    /// Forgets what is over; true if something was.
    pub(super) fn passes(&mut self, now: Mono) -> bool {
        let over = self.due().is_some_and(|at| at <= now);
        if let State::Taken(until) | State::Spent(until) = self.state
            && until <= now
        {
            self.state = State::None;
        }
        self.overlap_until = self.overlap_until.filter(|until| *until > now);
        over
    }
}

impl Host {
    /// Nothing came by the route of this stream, by feed number `feed`.
    pub fn silent(
        &mut self,
        world: &World<'_>,
        encoder: EncoderId,
        feed: u64,
        silence: Silence,
        effects: &mut Vec<Effect>,
    ) {
        let now = world.now.mono;
        let home = world.directory.home(encoder, &|node| world.alive.contains(&node));
        let sends = |source: &SourceState| !matches!(source, SourceState::NoSignal(_));
        let Some(stream) = self.streams.get_mut(&encoder) else { return };
        if stream.stands_by().is_none() || !home.is_some_and(|(_, entry)| sends(&entry.source)) {
            return;
        }
        match (&stream.route, &stream.detour.state, silence) {
            (Route::Relay { via, feed: of, .. }, State::None, silence) if *of == feed => {
                let begins = (world.trip)(*via).unwrap_or_default() * ROUND_TRIPS;
                if matches!(silence, Silence::Never(silent) if silent < begins) {
                    return;
                }
                stream.detour.state = State::Taken(now + DETOUR);
                self.counters.detours += 1;
            }
            (
                Route::Local { feed: of, .. },
                State::Taken(_),
                Silence::Never(silent) | Silence::After(silent),
            ) if *of == feed && silent >= GIVE_UP => {
                stream.detour.state = State::Spent(now + DETOUR);
            }
            _ => return,
        }
        self.timed.insert(encoder);
        self.reroute(world, encoder, effects);
        self.tell_demand(now, encoder, effects);
    }
}

impl Stream {
    /// The agent's leg, if it stands by here and what it sends is current.
    pub(super) fn stands_by(&self) -> Option<&Warm> {
        self.warm.as_ref().filter(|warm| warm.unconfirmed.is_none())
    }

    /// Before the route changes: if the agent has sent here and another node shall now, it goes on
    /// for a while; true if so.
    pub(super) fn overlap(&mut self, route: &Route, now: Mono) -> bool {
        let agent = self.warm.as_ref().map(|warm| warm.session);
        let sent = matches!(self.route, Route::Local { session, .. } if Some(session) == agent);
        let overlaps = sent && matches!(route, Route::Relay { .. });
        self.detour.overlap_until = overlaps.then_some(now + OVERLAP);
        overlaps
    }
}

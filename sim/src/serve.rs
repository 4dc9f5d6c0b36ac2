//! A node's media: what agents send goes into hubs, and out of them to whoever takes the stream.

use std::time::Duration;

use roost::control::Event;
use roost::id::{EncoderId, SessionId};
use roost::media::Silence;
use roost::session::host::Route;
use roost::wire::FLOW_VIDEO;

use crate::conn::{Cargo, End};
use crate::media::{Frame, Hub, Ingest, Receiver};
use crate::net::SEC;
use crate::node::{Client, LOOP_LATE};
use crate::relay::Source;
use crate::world::{Ev, World};

/// Pictures that came before the route are shown if the last is no older than this.
const EARLY_KEEP: u64 = 2 * SEC;

/// A feed that is awaited at a node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watch {
    pub(crate) end: End,
    encoder: EncoderId,
    feed: u64,
    begins: u64,
    /// The silence that was told last: since when, and after how long.
    told: Option<(u64, u64)>,
}

impl Watch {
    fn of(end: End, encoder: EncoderId, feed: u64, begins: u64) -> Self {
        Self { end, encoder, feed, begins, told: None }
    }
}

impl World {
    pub(crate) fn route(&mut self, ix: usize, encoder: EncoderId, route: &Route) {
        self.checks.forget_requests(ix, encoder);
        self.trace.say(self.now, || {
            let text = match route {
                Route::None => "nowhere".into(),
                Route::Local { session, .. } => format!("session {}", session.0),
                Route::Relay { via, .. } => {
                    self.index.get(via).map_or(String::new(), |via| format!("relay from n{via}"))
                }
            };
            format!("n{ix} takes {} from {text}", encoder.short())
        });
        let session = match route {
            Route::Local { session, .. } => Some(*session),
            Route::None | Route::Relay { .. } => None,
        };
        // An agent that has moved sends here until what it sends comes from its new home as well.
        let relayed = matches!(route, Route::Relay { .. });
        let now = self.now;
        let node = &mut self.nodes[ix];
        if let Some(before) = node.attached.remove(&encoder)
            && Some(before) != session
            && !relayed
            && let Some(before) = node.sessions.get_mut(&before)
        {
            before.ingest = Ingest::default();
        }
        let hub = node.hubs.entry(encoder).or_default();
        match route {
            Route::None => {
                hub.set_feed(0, 0);
                self.relay_route(ix, encoder, None, false);
            }
            Route::Local { session, feed, timeline } => {
                let Some(at) = node.sessions.get_mut(session) else {
                    self.relay_route(ix, encoder, None, true);
                    return;
                };
                hub.next_feed(now, *feed, *timeline);
                node.attached.insert(encoder, *session);
                let mut early = std::mem::take(&mut at.ingest.early);
                if now > at.ingest.early_at + EARLY_KEEP {
                    early.frames.clear();
                }
                at.ingest.target = Some((encoder, *feed));
                self.relay_route(ix, encoder, None, true);
                for frame in early.frames {
                    self.push_frame(ix, *feed, frame);
                }
                self.watch_feed(Watch::of(self.end_of(ix), encoder, *feed, now));
            }
            Route::Relay { via, feed, timeline } => {
                hub.next_feed(now, *feed, *timeline);
                let Some(&via) = self.index.get(via) else { return };
                let source = Source { via, feed: *feed, timeline: *timeline };
                self.relay_route(ix, encoder, Some(source), true);
                self.watch_feed(Watch::of(self.end_of(ix), encoder, *feed, now));
            }
        }
    }

    pub(crate) fn ingest(&mut self, ix: usize, session: SessionId, frame: Frame) {
        if self.now - self.nodes[ix].turned > LOOP_LATE {
            return;
        }
        let node = &mut self.nodes[ix];
        let Some(at) = node.sessions.get_mut(&session) else { return };
        let takes = |(encoder, feed): &(EncoderId, u64)| {
            node.hubs.get(encoder).is_some_and(|hub| hub.takes(*feed))
        };
        match at.ingest.target.filter(takes) {
            Some((_, feed)) => {
                self.check_serving(ix, frame);
                self.push_frame(ix, feed, frame);
            }
            // It comes from elsewhere now, or from nowhere: the route may be about to change.
            None => {
                at.ingest.early.push(frame);
                at.ingest.early_at = self.now;
            }
        }
    }

    /// A frame goes to everyone who takes the stream here.
    pub(crate) fn push_frame(&mut self, ix: usize, feed: u64, frame: Frame) {
        let end = self.end_of(ix);
        let Some(hub) = self.nodes[ix].hubs.get_mut(&frame.encoder) else { return };
        let again = hub.came(self.now, feed);
        let (to, wants) = hub.push(self.now, feed, frame);
        let lacking = hub.lacking(self.now);
        if again {
            self.watch_feed(Watch::of(end, frame.encoder, feed, self.now));
        }
        if frame.key {
            self.checks.answer_requests(ix, frame.encoder);
        }
        self.check_lacking(ix, frame.encoder, lacking);
        if frame.key && !to.is_empty() {
            self.hub_event(ix, Ev::KeyframeArrived { end, encoder: frame.encoder });
        }
        if wants {
            self.hub_event(ix, Ev::KeyframeWanted { end, encoder: frame.encoder });
        }
        for receiver in to {
            self.hand(ix, receiver, frame);
        }
    }

    pub(crate) fn hand(&mut self, ix: usize, receiver: Receiver, frame: Frame) {
        self.check_handed(ix, receiver, frame);
        match receiver {
            Receiver::Session(session) => {
                if let Some(Client::Native(conn)) = self.client_of(ix, session) {
                    self.send(conn, 1, Cargo::Picture(FLOW_VIDEO, frame));
                }
            }
            Receiver::Flow(conn, flow) => self.send(conn, 1, Cargo::Picture(flow, frame)),
            Receiver::Browser(browser) => self.browser_sees(browser, frame),
        }
    }

    pub(crate) fn serve(&mut self, ix: usize, session: SessionId, encoder: EncoderId) {
        if self.nodes[ix].sessions.contains_key(&session) {
            self.subscribe_here(ix, encoder, Receiver::Session(session), 1);
        }
    }

    pub(crate) fn subscribe_here(
        &mut self,
        ix: usize,
        encoder: EncoderId,
        receiver: Receiver,
        viewers: u32,
    ) {
        let end = self.end_of(ix);
        let hub = self.nodes[ix].hubs.entry(encoder).or_default();
        let start = hub.subscribe(self.now, receiver, viewers);
        self.hub_event(ix, Ev::Viewers { end, encoder });
        if start.is_empty() {
            self.hub_event(ix, Ev::KeyframeWanted { end, encoder });
        }
        for frame in start {
            self.hand(ix, receiver, frame);
        }
    }

    pub(crate) fn unsubscribe(&mut self, ix: usize, encoder: EncoderId, receiver: Receiver) {
        let end = self.end_of(ix);
        let Some(hub) = self.nodes[ix].hubs.get_mut(&encoder) else { return };
        if hub.unsubscribe(receiver) {
            self.hub_event(ix, Ev::Viewers { end, encoder });
        }
    }

    /// Tells the node whenever a feed stands still, ever more rarely, until it is not awaited any
    /// more, or pictures come again and it is watched anew.
    pub(crate) fn watch_feed(&mut self, mut watch: Watch) {
        let Watch { end, encoder, feed, begins, told } = watch;
        let hub = self.nodes[end.host].hubs.get_mut(&encoder);
        let Some((fed, limit)) = hub.and_then(|hub| hub.awaited(feed)) else { return };
        let last = fed.at.unwrap_or(begins);
        if told.is_some_and(|(since, _)| since != last) {
            return;
        }
        let mut wait = told.map_or(limit, |(_, wait)| wait * 2);
        if self.now >= last + wait {
            fed.silent = true;
            watch.told = Some((last, wait));
            wait *= 2;
            let silent_for = Duration::from_nanos(self.now - last);
            let silence = match fed.at {
                Some(_) => Silence::After(silent_for),
                None => Silence::Never(silent_for),
            };
            self.hub_event(end.host, Ev::Silent { end, encoder, feed, silence });
        }
        self.queue.push(last + wait, Ev::WatchFeed(watch));
    }

    /// A hub tells the control loop, in order.
    pub(crate) fn hub_event(&mut self, ix: usize, event: Ev) {
        let at = self.now.max(self.nodes[ix].told + 1);
        self.nodes[ix].told = at;
        self.queue.push(at, event);
    }

    pub(crate) fn viewers_changed(&mut self, ix: usize, encoder: EncoderId) {
        let viewers = self.nodes[ix].hubs.get(&encoder).map_or(0, Hub::viewers);
        if viewers == 0 {
            self.checks.answer_requests(ix, encoder);
        }
        self.relay_viewers(ix, encoder, viewers);
        self.node_event(ix, Event::Viewers(encoder, viewers));
    }
}

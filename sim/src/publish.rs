//! Publishers: WebRTC legs that send a stream to a node, as `http::publisher` drives them. A leg is at
//! its node, as a page is: no path between them is modelled.

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use roost::access::Principal;
use roost::control::Event;
use roost::directory::SourceState;
use roost::id::{EncoderId, SessionId};
use roost::session::host::Publication;
use roost::wire::{ClientMessage, Confirm, Goodbye, Message as _, NodeMessage};

use crate::client::PAGE_MOVES;
use crate::conn::End;
use crate::media::{Camera, FRAME_MS};
use crate::net::{MS, SEC};
use crate::node::Client;
use crate::plan::log_uniform;
use crate::rng::{For, stream};
use crate::world::{Ev, World};

/// A publisher goes elsewhere when its node has not answered for this long.
const GIVES_UP: u64 = 5 * SEC;
/// A node that gets no picture from a leg says that it has no signal,
const NO_SIGNAL: u64 = 3 * SEC;
/// and ends a leg of which it hears nothing.
const SILENCE: u64 = 15 * SEC;
/// A picture that comes this long after a node stood still did not wait for it meanwhile.
const CURRENT: u64 = SEC;
/// The driver of a leg reads what its node says within this time.
const READS: u64 = MS;

/// Whoever publishes.
pub(crate) struct Publisher {
    pub(crate) id: EncoderId,
    rng: ChaCha8Rng,
    camera: Camera,
    pub(crate) leg: Option<Leg>,
}

/// A leg that stands.
pub(crate) struct Leg {
    pub(crate) end: End,
    session: SessionId,
    /// Its packets are numbered anew.
    pub(crate) instance: u64,
    /// Since when.
    pub(crate) since: u64,
    /// When it ends of its own accord, while faults last.
    ends: u64,
    /// Asked after its node stood still, and when.
    question: Option<(Confirm, u64)>,
}

/// What becomes of a publisher's legs.
#[derive(Debug)]
pub(crate) enum Step {
    /// It looks for a node.
    Opens,
    /// It takes a picture.
    Picture(SessionId),
    /// Its node says something to the driver of this leg.
    Said(End, SessionId, Vec<u8>),
    /// Nothing has come by this leg for a while.
    NoSignal(End, SessionId),
    /// Nothing comes any more.
    Silent(End, SessionId),
}

impl Publisher {
    pub(crate) fn new(seed: u64, index: usize, camera: crate::plan::Camera) -> Self {
        let mut rng = stream(seed, For::Publisher(index));
        Self { id: EncoderId(rng.random()), rng, camera: Camera::new(camera), leg: None }
    }
}

impl World {
    pub(crate) fn schedule_publishers(&mut self) {
        for p in 0..self.publishers.len() {
            let late = self.publishers[p].rng.random_range(0..2 * SEC);
            self.queue.push(self.now + late, Ev::Publisher(p, Step::Opens));
        }
    }

    pub(crate) fn publisher_steps(&mut self, p: usize, step: Step) {
        match step {
            Step::Opens => self.publisher_opens(p),
            Step::Picture(session) => self.publisher_pictures(p, session),
            Step::Said(end, ..) | Step::NoSignal(end, _) | Step::Silent(end, _)
                if !self.lives(end) => {}
            Step::Said(end, ..) | Step::NoSignal(end, _) | Step::Silent(end, _)
                if self.hosts[end.host].frozen =>
            {
                self.queue.push(self.now + 50 * MS, Ev::Publisher(p, step));
            }
            Step::Said(end, session, bytes) => self.publisher_hears(p, end, session, &bytes),
            Step::NoSignal(end, session) if self.has_leg(end, session) => {
                let source = SourceState::NoSignal("the publisher sends no picture".into());
                let bytes = ClientMessage::Source(source).encode();
                self.node_event(end.host, Event::ClientMessage(session, bytes));
            }
            Step::Silent(end, session) => self.leg_ends(end.host, session),
            Step::NoSignal(..) => {}
        }
    }

    fn has_leg(&self, end: End, session: SessionId) -> bool {
        self.nodes[end.host].sessions.contains_key(&session)
    }

    fn publisher_opens(&mut self, p: usize) {
        if self.publishers[p].leg.is_some() {
            return;
        }
        let Some(at) = self.open_node(p) else {
            return self.queue.push(self.now + PAGE_MOVES, Ev::Publisher(p, Step::Opens));
        };
        self.trace.say(self.now, || format!("pub{p} opens at n{at}"));
        let (now, end) = (self.now, self.end_of(at));
        let publisher = &mut self.publishers[p];
        let instance = publisher.rng.random();
        let lasts = log_uniform(&mut publisher.rng, 5_000.0, 200_000.0) * MS;
        let encoder = publisher.id;
        let namesake = self.encoders.get(p).filter(|_| self.plan.namesakes);
        let name = namesake.map_or_else(|| format!("pub{p}"), |encoder| encoder.name.clone());
        let session = self.open_session(at);
        let leg = Leg { end, session, instance, since: now, ends: now + lasts, question: None };
        self.publishers[p].leg = Some(leg);
        self.add_session(at, session, Client::Publisher(p));
        self.nodes[at].sworn.insert(encoder, now);
        let principal = Principal::local();
        let publication = Publication { encoder, name, instance, principal };
        self.queue.push(now, Ev::Publisher(p, Step::Picture(session)));
        self.node_event(at, Event::Publish { session, publication });
    }

    /// It looks for another node, or for the same, a little later.
    fn publisher_leaves(&mut self, p: usize) {
        let publisher = &mut self.publishers[p];
        publisher.leg = None;
        let late = publisher.rng.random_range(500 * MS..2 * SEC);
        self.queue.push(self.now + late, Ev::Publisher(p, Step::Opens));
    }

    fn publisher_pictures(&mut self, p: usize, session: SessionId) {
        let now = self.now;
        let healed = now > self.plan.healed_ms() * MS;
        let publisher = &mut self.publishers[p];
        let Some(leg) = publisher.leg.as_mut().filter(|leg| leg.session == session) else { return };
        let (end, at) = (leg.end, leg.end.host);
        let frame = publisher.camera.take(publisher.id, leg.instance, now);
        let asked = leg.question.take_if(|(_, asked)| now >= *asked + CURRENT);
        let over = now >= leg.ends && !healed;
        let polite = over && publisher.rng.random_bool(0.5);
        let still = self.hosts[at].frozen && now > self.hosts[at].frozen_at + GIVES_UP;
        if over || still {
            self.publisher_leaves(p);
        } else {
            self.queue.push(now + FRAME_MS * MS, Ev::Publisher(p, Step::Picture(session)));
        }
        if polite && !self.hosts[at].frozen {
            let reason = "its publisher ended it".to_owned();
            let bytes = ClientMessage::Goodbye(Goodbye { reason }).encode();
            self.node_event(at, Event::ClientMessage(session, bytes));
            return self.leg_ends(at, session);
        }
        if over || still {
            self.mark("a publisher is gone without a word");
            self.queue.push(now + NO_SIGNAL, Ev::Publisher(p, Step::NoSignal(end, session)));
            self.queue.push(now + SILENCE, Ev::Publisher(p, Step::Silent(end, session)));
        }
        if self.hosts[at].frozen {
            return;
        }
        if let Some((question, _)) = asked {
            self.mark("a publisher says that it is current");
            self.nodes[at].confirmed.insert(frame.encoder, now);
            let bytes = ClientMessage::Confirmed(question).encode();
            self.node_event(at, Event::ClientMessage(session, bytes));
        }
        self.ingest(at, session, frame);
    }

    /// What `http::publisher` makes of what its node says.
    fn publisher_hears(&mut self, p: usize, end: End, session: SessionId, bytes: &[u8]) {
        match NodeMessage::decode(bytes) {
            Ok(NodeMessage::Keyframe(_)) => self.publishers[p].camera.asked(),
            Ok(NodeMessage::Confirm(question)) => {
                let leg = self.publishers[p].leg.as_mut();
                if let Some(leg) = leg.filter(|leg| leg.session == session) {
                    leg.question = Some((question, self.now));
                }
            }
            Ok(NodeMessage::Rejected(_) | NodeMessage::Failed(_) | NodeMessage::Goodbye(_)) => {
                self.leg_ends(end.host, session);
            }
            _ => {}
        }
    }

    /// The driver of a leg is done with it.
    fn leg_ends(&mut self, at: usize, session: SessionId) {
        let Some(Client::Publisher(p)) = self.client_of(at, session) else { return };
        self.trace.say(self.now, || format!("n{at} has pub{p} no more"));
        self.drop_session(at, session);
        self.leg_ended(at, p, session);
        self.node_event(at, Event::ClientClosed(session));
    }

    /// Whoever sends by a leg notices that its node ended it.
    pub(crate) fn leg_ended(&mut self, at: usize, p: usize, session: SessionId) {
        let here = |leg: &Leg| leg.end.host == at && leg.session == session;
        if self.publishers[p].leg.as_ref().is_some_and(here) {
            self.publisher_leaves(p);
        }
    }

    /// What a node says to a leg's driver.
    pub(crate) fn tell_publisher(
        &mut self,
        ix: usize,
        p: usize,
        session: SessionId,
        bytes: Vec<u8>,
    ) {
        let step = Step::Said(self.end_of(ix), session, bytes);
        self.queue.push(self.now + READS, Ev::Publisher(p, step));
    }

    /// Which publisher a page watches, if it does not watch an encoder.
    pub(crate) fn watched_publisher(&self, watches: usize) -> Option<&Publisher> {
        self.publishers.get(watches.checked_sub(self.plan.encoders)?)
    }

    pub(crate) fn watched_id(&self, watches: usize) -> EncoderId {
        match self.watched_publisher(watches) {
            Some(publisher) => publisher.id,
            None => self.encoders[watches].id,
        }
    }

    /// A node's process is gone, and with it the legs there.
    pub(crate) fn legs_lose(&mut self, node: usize) {
        for p in 0..self.publishers.len() {
            if self.publishers[p].leg.as_ref().is_some_and(|leg| leg.end.host == node) {
                self.publisher_leaves(p);
            }
        }
    }
}

//! Publishers: WebRTC legs of this node that send a stream. Each is a session of the control loop,
//! as an agent is; whoever drives the leg speaks for it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::clients::Clients;
use super::media::Ingest;
use crate::access::Principal;
use crate::control::Event;
use crate::directory::SourceState;
use crate::id::{EncoderId, SessionId};
use crate::media::depacketise::unpack;
use crate::media::inspect::{ParameterSets, Remedy, native_only};
use crate::media::{Assembled, Assembler, Packet, Packetiser};
use crate::session::host::Publication;
use crate::webrtc::Intake;
use crate::wire::{self, ClientMessage, Message};

/// Messages that wait for one publisher's driver, which does nothing but read them.
pub(super) const MESSAGES: usize = 64;

/// The round trip to a publisher, for how long a missing packet is waited for: the WebRTC stack
/// asks for it again and does not say how far away the other side is. Covers most paths.
const TRIP: Duration = Duration::from_millis(100);

/// One publisher, to whoever drives its leg; gone once it is dropped.
pub struct Publisher {
    session: SessionId,
    clients: Clients,
    events: mpsc::Sender<Event>,
    /// What the node says to it: [`wire::NodeMessage`], as to an agent.
    pub messages: mpsc::Receiver<Vec<u8>>,
    /// How many pictures came, and why browsers cannot play them, if they cannot.
    pub pictures: watch::Receiver<Pictures>,
    intake: Arc<Publishing>,
}

/// What came of a publisher's packets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pictures {
    /// Pictures so far.
    pub count: u64,
    /// Why browsers cannot play them.
    pub native_only: Option<String>,
}

impl Publisher {
    pub(super) fn new(
        session: SessionId,
        clients: Clients,
        events: mpsc::Sender<Event>,
        messages: mpsc::Receiver<Vec<u8>>,
        ingest: Arc<Ingest>,
    ) -> Self {
        let (told, pictures) = watch::channel(Pictures::default());
        let inner = Inner {
            assembler: Assembler::new(),
            sets: ParameterSets::default(),
            packetiser: Packetiser::new(u16::from_le_bytes(super::random()) >> 1),
        };
        let intake = Arc::new(Publishing { inner: Mutex::new(inner), ingest, told });
        Self { session, clients, events, messages, pictures, intake }
    }

    /// Takes its packets.
    pub fn intake(&self) -> Arc<dyn Intake> {
        self.intake.clone()
    }

    /// Its leg stands: it becomes an encoder of the mesh, at home here.
    pub async fn publish(&self, encoder: EncoderId, name: String, principal: Principal) {
        let instance = u64::from_le_bytes(super::random());
        let publication = Publication { encoder, name, instance, principal };
        self.tell(Event::Publish { session: self.session, publication }).await;
    }

    /// What becomes of its pictures.
    pub async fn source(&self, source: SourceState) {
        let message = ClientMessage::Source(source).encode();
        self.tell(Event::ClientMessage(self.session, message)).await;
    }

    /// After this node stood still: what comes is current again.
    pub async fn confirm(&self, question: wire::Confirm) {
        let message = ClientMessage::Confirmed(question).encode();
        self.tell(Event::ClientMessage(self.session, message)).await;
    }

    /// It ended on purpose: the encoder is not missed.
    pub async fn goodbye(&self, reason: String) {
        let message = ClientMessage::Goodbye(wire::Goodbye { reason }).encode();
        self.tell(Event::ClientMessage(self.session, message)).await;
    }

    /// The leg is gone.
    pub async fn closed(self) {
        self.tell(Event::ClientClosed(self.session)).await;
    }

    async fn tell(&self, event: Event) {
        // Nobody listens while the node ends.
        let _ = self.events.send(event).await;
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.clients.publisher_closed(self.session);
    }
}

/// Packets in, pictures cut to this mesh's packets out.
struct Publishing {
    inner: Mutex<Inner>,
    ingest: Arc<Ingest>,
    told: watch::Sender<Pictures>,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("session", &self.session).finish_non_exhaustive()
    }
}

struct Inner {
    assembler: Assembler,
    sets: ParameterSets,
    packetiser: Packetiser,
}

impl Intake for Publishing {
    fn packet(&self, packet: Packet) {
        let mut inner = self.lock();
        let arrived = inner.assembler.push(self.ingest.now(), TRIP, packet);
        if arrived.is_empty() {
            return;
        }
        let frames: Vec<_> = arrived.into_iter().map(|frame| self.cut(&mut inner, frame)).collect();
        self.ingest.assembled(frames.into_iter().flatten().collect());
    }
}

impl Publishing {
    /// Third parties send packets that are larger than what travels between nodes, and leave out
    /// parameter sets: the picture is put together and cut anew, once.
    fn cut(&self, inner: &mut Inner, arrived: Assembled) -> Option<Assembled> {
        let Assembled { frame, complete, lost } = arrived;
        let timestamp = frame.timestamp();
        let mut unit = unpack(&frame).unit;
        inner.sets.complete(&mut unit);
        let remedy = Remedy {
            order: "where it is encoded: baseline profile, or no B-frames",
            colour: "and 4:2:0 colour where it is encoded",
        };
        let bad = native_only("the publisher's video", &unit, &remedy);
        let frame = inner.packetiser.packetise(&unit, timestamp);
        self.told.send_modify(|told| {
            told.count += u64::from(frame.is_some());
            if told.native_only.is_none() {
                told.native_only = bad;
            }
        });
        Some(Assembled { frame: frame?, complete, lost })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The node's own end of a publisher.
pub(super) struct Speaker {
    pub(super) out: mpsc::Sender<Vec<u8>>,
    pub(super) ingest: Arc<Ingest>,
    pub(super) remote: Option<SocketAddr>,
}

impl Drop for Speaker {
    fn drop(&mut self) {
        self.ingest.detach();
    }
}

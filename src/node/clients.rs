//! Native clients' connections: bytes in and out, nothing decided.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::pending;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};

use super::media::{Ingest, Serving, Turning};
use super::outbox::{Outbox, Outgoing, outbox};
use super::publish::{MESSAGES, Publisher, Speaker};
use crate::access::{Principal, Who};
use crate::control::Event;
use crate::flow;
use crate::hub::Hubs;
use crate::id::{EncoderId, SessionId};
use crate::media::{Nack, nack};
use crate::net::{ClientConn, MessageReader, MessageWriter, Place, close};
use crate::quic;
use crate::wire::{
    self, ApiMessage, ApiRequest, ApiResponse, FLOW_HEARTBEAT, FLOW_VIDEO, Message, NodeMessage,
    take_varint,
};

/// Requests to the API that one client has under way.
const API_AT_ONCE: usize = 8;

/// A native client's request to the API, to be answered by whoever serves HTTP.
#[derive(Debug)]
pub struct ApiCall {
    /// What is asked.
    pub request: ApiRequest,
    /// Who asks, as the node's control found.
    pub principal: Principal,
    /// From where.
    pub remote: std::net::SocketAddr,
    /// Takes the answer.
    pub answer: oneshot::Sender<ApiResponse>,
}

/// A stream, the session that watches it, who that is, and since when.
pub type NativeViewer = (EncoderId, SessionId, String, std::time::Instant);

/// All connected native clients.
#[derive(Clone)]
pub(super) struct Clients {
    shared: Arc<Shared>,
    open_loopback: bool,
}

struct Shared {
    sessions: Mutex<BTreeMap<SessionId, Client>>,
    publishers: Mutex<BTreeMap<SessionId, Speaker>>,
    last: AtomicU64,
    turning: Arc<Turning>,
    hubs: Hubs,
    events: mpsc::Sender<Event>,
    api: mpsc::Sender<ApiCall>,
    overflows: AtomicU64,
}

struct Client {
    out: Outbox,
    connection: quic::Connection,
    ingest: Arc<Ingest>,
    serving: BTreeMap<EncoderId, Serving>,
    principal: Arc<Mutex<Option<Principal>>>,
    /// Among strangers, until it has shown a credential.
    place: Option<Place>,
}

impl Clients {
    pub(super) fn new(
        turning: Arc<Turning>,
        hubs: Hubs,
        events: mpsc::Sender<Event>,
        api: mpsc::Sender<ApiCall>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                sessions: Mutex::default(),
                publishers: Mutex::default(),
                last: AtomicU64::new(0),
                turning,
                hubs,
                events,
                api,
                overflows: AtomicU64::new(0),
            }),
            open_loopback: false,
        }
    }

    /// Whether clients on this machine need no credential.
    pub(super) fn open_to_loopback(self, open_loopback: bool) -> Self {
        Self { open_loopback, ..self }
    }

    /// Serves a client until its connection ends.
    pub(super) async fn serve(self, conn: ClientConn) {
        let session = SessionId(self.shared.last.fetch_add(1, Ordering::Relaxed) + 1);
        let ClientConn { remote, connection, send, recv, place } = conn;
        let ingest = Arc::new(Ingest::new(self.shared.turning.clone(), self.shared.hubs.clone()));
        let principal = Arc::new(Mutex::new(None));
        let (out, queue) = outbox();
        let client = Client {
            out,
            connection: connection.clone(),
            ingest: ingest.clone(),
            serving: BTreeMap::new(),
            principal: principal.clone(),
            place: Some(place),
        };
        self.sessions().insert(session, client);
        let events = self.shared.events.clone();
        let local = self.open_loopback && remote.ip().to_canonical().is_loopback();
        // A place first, then the event: one that waits would be part of every client's task.
        let Ok(place) = events.reserve().await else { return };
        place.send(Event::ClientOpened { session, local });
        // One task for all: a task costs some hundred bytes, and idle clients are many. Only the
        // end of the client's stream is the end.
        tokio::select! {
            () = read(recv, session, &events) => {}
            never = write(send, queue) => match never {},
            never = self.datagrams(&connection, session, &ingest) => match never {},
            never = api(&connection, &principal, &self.shared.api) => match never {},
        }
        connection.close(close::DONE, b"the client's stream ended");
        self.sessions().remove(&session);
        if let Ok(place) = events.reserve().await {
            place.send(Event::ClientClosed(session));
        }
    }

    /// A publisher's leg is about to be: a session that this node speaks for.
    pub(super) fn publisher(&self, remote: Option<std::net::SocketAddr>) -> Publisher {
        let session = SessionId(self.shared.last.fetch_add(1, Ordering::Relaxed) + 1);
        let ingest = Arc::new(Ingest::new(self.shared.turning.clone(), self.shared.hubs.clone()));
        let (out, messages) = mpsc::channel(MESSAGES);
        let speaker = Speaker { out, ingest: ingest.clone(), remote };
        self.publishers().insert(session, speaker);
        Publisher::new(session, self.clone(), self.shared.events.clone(), messages, ingest)
    }

    /// The leg of a publisher is gone.
    pub(super) fn publisher_closed(&self, session: SessionId) {
        self.publishers().remove(&session);
    }

    /// On the client's ordered stream; a client that does not read is closed.
    pub(super) fn send(&self, session: SessionId, bytes: Vec<u8>) {
        if let Some(speaker) = self.publishers().get(&session) {
            if speaker.out.try_send(bytes).is_err() {
                self.shared.overflows.fetch_add(1, Ordering::Relaxed);
            }
            return;
        }
        let sessions = self.sessions();
        let Some(client) = sessions.get(&session) else { return };
        if !client.out.push(bytes) {
            self.shared.overflows.fetch_add(1, Ordering::Relaxed);
            client.connection.close(close::OVERFLOW, b"the client does not read");
        }
    }

    /// In a datagram.
    pub(super) fn datagram(&self, session: SessionId, bytes: Vec<u8>) {
        if let Some(client) = self.sessions().get(&session) {
            // A heartbeat that does not fit is one that is lost.
            let _ = client.connection.send_datagram(bytes.into());
        }
    }

    /// Ends a session; what was sent before is delivered first.
    pub(super) fn close(&self, session: SessionId, reason: &str) {
        if let Some(speaker) = self.publishers().remove(&session) {
            // Its driver ends with the last message; full, it hears of the end alone.
            let goodbye = wire::Goodbye { reason: reason.to_owned() };
            let _ = speaker.out.try_send(NodeMessage::Goodbye(goodbye).encode());
            return;
        }
        let Some(client) = self.sessions().remove(&session) else { return };
        let (connection, reason) = (client.connection.clone(), reason.to_owned());
        drop(client);
        tokio::spawn(async move {
            // The writer flushes its queue once the sender above is gone; give it that moment.
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            connection.close(close::REFUSED, reason.as_bytes());
        });
    }

    /// The client may use the API from now on; and the rest, if it is somebody.
    pub(super) fn welcomed(&self, session: SessionId, principal: Principal) {
        if let Some(speaker) = self.publishers().get(&session) {
            speaker.ingest.open();
        }
        if let Some(client) = self.sessions().get_mut(&session) {
            if principal.who != Who::Nobody {
                client.place = None;
                client.ingest.open();
            }
            *client.principal.lock().unwrap_or_else(PoisonError::into_inner) = Some(principal);
        }
    }

    /// Where a client is.
    pub(super) fn remote(&self, session: SessionId) -> Option<std::net::SocketAddr> {
        let native = self.sessions().get(&session).map(|client| client.connection.remote_address());
        native.or_else(|| self.publishers().get(&session)?.remote)
    }

    pub(super) fn ingest(&self, session: SessionId) -> Option<Arc<Ingest>> {
        let native = self.sessions().get(&session).map(|client| client.ingest.clone());
        native.or_else(|| Some(self.publishers().get(&session)?.ingest.clone()))
    }

    pub(super) fn serve_stream(&self, session: SessionId, encoder: EncoderId) {
        if let Some(client) = self.sessions().get_mut(&session) {
            let connection = client.connection.clone();
            let serving = Serving::start(&self.shared.hubs, encoder, connection);
            client.serving.insert(encoder, serving);
        }
    }

    pub(super) fn stop_stream(&self, session: SessionId, encoder: EncoderId) {
        if let Some(client) = self.sessions().get_mut(&session) {
            client.serving.remove(&encoder);
        }
    }

    /// What comes in datagrams: heartbeats, an agent's media, and a viewer's requests for packets.
    async fn datagrams(
        &self,
        connection: &quic::Connection,
        session: SessionId,
        ingest: &Ingest,
    ) -> Infallible {
        while let Ok(datagram) = connection.read_datagram().await {
            match take_varint(&datagram) {
                Some((FLOW_HEARTBEAT, body)) => {
                    // Full means that control is behind: a heartbeat more would not help it.
                    let event = Event::ClientDatagram(session, body.to_vec());
                    let _ = self.shared.events.try_send(event);
                }
                Some((FLOW_VIDEO, bytes)) if nack::is_rtcp(bytes) => {
                    let Some(nack) = Nack::read(bytes) else { continue };
                    // From a viewer it asks, from an agent it answers.
                    if let Some(client) = self.sessions().get(&session) {
                        client.serving.values().for_each(|serving| serving.ask(&nack));
                    }
                    ingest.give_up(&nack);
                }
                Some((FLOW_VIDEO, packet)) => {
                    if let Some(nack) = ingest.packet(packet, connection.rtt()) {
                        // One that does not fit is one that is lost.
                        let _ = connection.send_datagram(flow::rtcp(FLOW_VIDEO, &nack));
                    }
                }
                Some(_) | None => {}
            }
        }
        pending().await
    }

    /// This node stood still: nothing that waits is current.
    pub(super) fn forget_media(&self) {
        self.each_ingest(Ingest::forget);
    }

    /// Lets go of media that no route has asked for in time.
    pub(super) fn sweep(&self) {
        self.each_ingest(Ingest::sweep);
    }

    fn each_ingest(&self, act: impl Fn(&Ingest)) {
        self.sessions().values().for_each(|client| act(&client.ingest));
        self.publishers().values().for_each(|speaker| act(&speaker.ingest));
    }

    /// Clients that did not read, and frames dropped after a stall.
    pub(super) fn drops(&self) -> (u64, u64) {
        let read = |ingest: &Ingest| ingest.stale.load(Ordering::Relaxed);
        let native: u64 = self.sessions().values().map(|client| read(&client.ingest)).sum();
        let stale = native + self.publishers().values().map(|s| read(&s.ingest)).sum::<u64>();
        (self.shared.overflows.load(Ordering::Relaxed), stale)
    }

    /// Native viewers: which stream, at which session, who, and since when.
    pub(super) fn viewers(&self) -> Vec<NativeViewer> {
        let sessions = self.sessions();
        let mut out = Vec::new();
        for (&session, client) in sessions.iter() {
            let who = client.principal.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let who = who.unwrap_or_default().name;
            let serving = client.serving.iter();
            out.extend(serving.map(|(&id, serving)| (id, session, who.clone(), serving.since)));
        }
        out
    }

    fn publishers(&self) -> MutexGuard<'_, BTreeMap<SessionId, Speaker>> {
        self.shared.publishers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sessions(&self) -> MutexGuard<'_, BTreeMap<SessionId, Client>> {
        self.shared.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.ingest.detach();
    }
}

async fn read(mut recv: MessageReader, session: SessionId, events: &mpsc::Sender<Event>) {
    while let Ok(bytes) = recv.read_bytes().await {
        let Ok(place) = events.reserve().await else { return };
        place.send(Event::ClientMessage(session, bytes));
    }
}

async fn write(mut send: MessageWriter, mut queue: Outgoing) -> Infallible {
    while let Some(bytes) = queue.next().await {
        if send.write_bytes(&bytes).await.is_err() {
            return pending().await;
        }
    }
    send.finish();
    pending().await
}

async fn api(
    connection: &quic::Connection,
    principal: &Mutex<Option<Principal>>,
    calls: &mpsc::Sender<ApiCall>,
) -> Infallible {
    let slots = Arc::new(tokio::sync::Semaphore::new(API_AT_ONCE));
    let remote = connection.remote_address();
    while let Ok((send, recv)) = connection.accept_bi().await {
        let Ok(slot) = slots.clone().acquire_owned().await else { break };
        let who = principal.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let calls = calls.clone();
        tokio::spawn(async move {
            let _slot = slot;
            let (mut send, mut recv) = (MessageWriter::new(send), MessageReader::new(recv));
            let response = match (recv.read::<ApiMessage>().await, who) {
                (Ok(ApiMessage::Request(request)), Some(principal)) => {
                    let (answer, answered) = oneshot::channel();
                    let call = ApiCall { request, principal, remote, answer };
                    let _ = calls.send(call).await;
                    answered.await.unwrap_or_else(|_dropped| refuse(503, "the node is stopping"))
                }
                (Ok(_), None) => refuse(401, "say hello first"),
                (Ok(ApiMessage::Response(_)), _) | (Err(_), _) => refuse(400, "no request"),
            };
            let _ = send.write(&ApiMessage::Response(response)).await;
            send.finish();
            send.delivered().await;
        });
    }
    pending().await
}

fn refuse(status: u16, detail: &str) -> ApiResponse {
    let body = format!(r#"{{"status":{status},"detail":"{detail}"}}"#).into_bytes();
    let headers = vec![("content-type".to_owned(), "application/problem+json".to_owned())];
    ApiResponse { status, headers, body }
}

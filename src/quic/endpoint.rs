//! One socket and the connections on it.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV6};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures::task::AtomicWaker;
use quinn::AsyncUdpSocket;
use quinn::udp::{BATCH_SIZE, RecvMeta};
use quinn_proto::{
    ClientConfig, ConnectError, ConnectionError, ConnectionEvent, ConnectionHandle, ConnectionId,
    DatagramEvent, EcnCodepoint, EndpointConfig, EndpointEvent, ServerConfig, Transmit,
    TransportError, TransportErrorCode, VarInt,
};
use tokio::sync::Notify;

use super::connection::{self, Connecting};
use super::{locked, now, outgoing};

/// Connection attempts that wait to be looked at. Whoever accepts looks at each at once, so more
/// are a flood; what is ignored is sent again by its client.
pub const INCOMING_MAX: usize = 256;

/// Datagrams of a connection that its task has not taken yet, 5 MB at most: 100 ms of 400 Mbit/s.
/// Beyond it they are lost, as they are when the kernel's buffer is full.
pub const INBOX_MAX: usize = 4096;

/// Datagrams that are taken from the socket before others have their turn: some 100 µs.
const RECEIVED_AT_ONCE: usize = 256;

/// What was dropped for want of room.
#[derive(Debug, Default)]
pub struct Dropped {
    /// Connection attempts beyond [`INCOMING_MAX`].
    pub incoming: AtomicU64,
    /// Datagrams beyond [`INBOX_MAX`].
    pub datagrams: AtomicU64,
}

/// What handles, receiver and connections share.
pub(super) struct Shared {
    pub(super) socket: Arc<dyn AsyncUdpSocket>,
    ipv6: bool,
    state: Mutex<State>,
    /// The task that receives.
    receiver: AtomicWaker,
    incoming: Notify,
    idle: Notify,
    handles: AtomicUsize,
    lost: AtomicBool,
    dropped: Arc<Dropped>,
}

struct State {
    proto: quinn_proto::Endpoint,
    /// By their numbers, which are given again.
    connections: Vec<Option<Arc<connection::Shared>>>,
    open: usize,
    incoming: VecDeque<quinn_proto::Incoming>,
    /// Code and reason, once this endpoint is closed.
    closed: Option<(VarInt, Bytes)>,
}

impl State {
    fn insert(&mut self, connection: Arc<connection::Shared>) {
        let at = connection.number.0;
        if self.connections.len() <= at {
            self.connections.resize(at + 1, None);
        }
        if let Some(place) = self.connections.get_mut(at) {
            *place = Some(connection);
            self.open += 1;
        }
    }

    fn connection(&self, number: ConnectionHandle) -> Option<&Arc<connection::Shared>> {
        self.connections.get(number.0)?.as_ref()
    }
}

impl Shared {
    /// What a connection says to its endpoint; the answers are for the connection.
    pub(super) fn hear(
        &self,
        number: ConnectionHandle,
        said: Vec<EndpointEvent>,
    ) -> Vec<ConnectionEvent> {
        let mut state = locked(&self.state);
        let mut answers = Vec::new();
        for event in said {
            let drained = event.is_drained();
            answers.extend(state.proto.handle_event(number, event));
            if drained && state.connections.get_mut(number.0).and_then(Option::take).is_some() {
                state.open -= 1;
                if state.open == 0 {
                    self.idle.notify_waiters();
                    self.receiver.wake();
                }
            }
        }
        answers
    }

    /// Whether nothing is received any more.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Starts a connection that `make` makes, under the lock: a packet for it may be on its way.
    fn start<E>(
        self: &Arc<Self>,
        make: impl FnOnce(
            &mut quinn_proto::Endpoint,
        ) -> Result<(ConnectionHandle, quinn_proto::Connection), E>,
    ) -> Result<Connecting, E> {
        let (connection, closed) = {
            let mut state = locked(&self.state);
            let (number, proto) = make(&mut state.proto)?;
            let connection = connection::Shared::start(number, proto, self.clone());
            state.insert(connection.clone());
            (connection, state.closed.clone())
        };
        let connecting = Connecting::new(connection.clone());
        if let Some((code, reason)) = closed {
            connection.close(code, reason);
        }
        if self.is_lost() {
            connection.state().end(gone(), &connection.notices);
        }
        Ok(connecting)
    }

    /// Best effort, as all that an endpoint says by itself: the other side asks again.
    fn respond(&self, transmit: &Transmit, bytes: &[u8]) {
        let _ = self.socket.try_send(&outgoing(transmit, bytes));
    }

    /// Nothing is received any more: whoever waits for a connection hears of it.
    fn lose(&self) {
        self.lost.store(true, Ordering::Release);
        let connections = {
            let mut state = locked(&self.state);
            for incoming in std::mem::take(&mut state.incoming) {
                state.proto.ignore(incoming);
            }
            state.open = 0;
            std::mem::take(&mut state.connections)
        };
        for connection in connections.into_iter().flatten() {
            connection.state().end(gone(), &connection.notices);
            connection.driver.wake();
        }
        self.incoming.notify_waiters();
        self.idle.notify_waiters();
    }
}

/// What connections end with if their endpoint is gone.
fn gone() -> ConnectionError {
    ConnectionError::TransportError(TransportError {
        code: TransportErrorCode::INTERNAL_ERROR,
        frame: None,
        reason: "the socket cannot be read any more".into(),
    })
}

/// A socket and its connections. Clones are handles to the same one. Connections outlive it.
pub struct Endpoint(pub(super) Arc<Shared>);

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("socket", &self.0.socket).finish_non_exhaustive()
    }
}

impl Clone for Endpoint {
    fn clone(&self) -> Self {
        self.0.handles.fetch_add(1, Ordering::Relaxed);
        Self(self.0.clone())
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if self.0.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            // It ends with the last connection.
            self.0.receiver.wake();
        }
    }
}

impl Endpoint {
    /// On a socket; without `server`, for dialling alone. Must run inside a tokio runtime.
    pub fn new(
        config: EndpointConfig,
        server: Option<ServerConfig>,
        socket: Arc<dyn AsyncUdpSocket>,
    ) -> io::Result<Self> {
        let ipv6 = socket.local_addr()?.is_ipv6();
        let config = Arc::new(config);
        let room = config.get_max_udp_payload_size().min(64 << 10);
        let room = usize::try_from(room).unwrap_or(64 << 10) * socket.max_receive_segments().max(1);
        let find_mtu = !socket.may_fragment();
        let proto = quinn_proto::Endpoint::new(config, server.map(Arc::new), find_mtu, None);
        let shared = Arc::new(Shared {
            socket,
            ipv6,
            state: Mutex::new(State {
                proto,
                connections: Vec::new(),
                open: 0,
                incoming: VecDeque::new(),
                closed: None,
            }),
            receiver: AtomicWaker::new(),
            incoming: Notify::new(),
            idle: Notify::new(),
            handles: AtomicUsize::new(1),
            lost: AtomicBool::new(false),
            dropped: Arc::default(),
        });
        tokio::spawn(receive(shared.clone(), room));
        Ok(Self(shared))
    }

    /// The next connection attempt; nothing once the endpoint is closed.
    pub async fn accept(&self) -> Option<Incoming> {
        loop {
            let noticed = {
                let mut state = locked(&self.0.state);
                if let Some(incoming) = state.incoming.pop_front() {
                    return Some(Incoming::new(incoming, self.clone()));
                }
                if state.closed.is_some() || self.0.is_lost() {
                    return None;
                }
                self.0.incoming.notified()
            };
            noticed.await;
        }
    }

    /// Starts to connect to `addr`.
    pub fn connect_with(
        &self,
        config: ClientConfig,
        addr: SocketAddr,
        server_name: &str,
    ) -> Result<Connecting, ConnectError> {
        if self.0.is_lost() || locked(&self.0.state).closed.is_some() {
            return Err(ConnectError::EndpointStopping);
        }
        let addr = match addr {
            SocketAddr::V6(_) if !self.0.ipv6 => {
                return Err(ConnectError::InvalidRemoteAddress(addr));
            }
            SocketAddr::V4(v4) if self.0.ipv6 => {
                SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into()
            }
            _ => addr,
        };
        self.0.start(|endpoint| endpoint.connect(now(), config, addr, server_name))
    }

    /// What connection attempts are answered with from now on.
    pub fn set_server_config(&self, server: Option<ServerConfig>) {
        locked(&self.0.state).proto.set_server_config(server.map(Arc::new));
    }

    /// The bound address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.socket.local_addr()
    }

    /// How many connections there are, those included that are about to be forgotten.
    pub fn open_connections(&self) -> usize {
        locked(&self.0.state).open
    }

    /// Connection attempts that wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        locked(&self.0.state).incoming.len()
    }

    /// What was dropped so far.
    pub fn dropped(&self) -> Arc<Dropped> {
        self.0.dropped.clone()
    }

    /// Closes all connections, and accepts and makes none any more.
    pub fn close(&self, code: VarInt, reason: &[u8]) {
        let reason = Bytes::copy_from_slice(reason);
        let connections: Vec<_> = {
            let mut state = locked(&self.0.state);
            state.closed = Some((code, reason.clone()));
            state.connections.iter().flatten().cloned().collect()
        };
        for connection in connections {
            connection.close(code, reason.clone());
        }
        self.0.incoming.notify_waiters();
    }

    /// Waits until all connections are closed, and the other sides had time to hear of it.
    pub async fn wait_idle(&self) {
        loop {
            let noticed = {
                let state = locked(&self.0.state);
                if state.open == 0 {
                    return;
                }
                self.0.idle.notified()
            };
            noticed.await;
        }
    }
}

/// A connection attempt. Dropped, it is refused.
pub struct Incoming {
    /// Nothing once it is decided.
    proto: Option<quinn_proto::Incoming>,
    endpoint: Endpoint,
    remote: SocketAddr,
    validated: bool,
    may_retry: bool,
    first_id: ConnectionId,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("remote", &self.remote).finish_non_exhaustive()
    }
}

impl Incoming {
    fn new(proto: quinn_proto::Incoming, endpoint: Endpoint) -> Self {
        Self {
            remote: proto.remote_address(),
            validated: proto.remote_address_validated(),
            may_retry: proto.may_retry(),
            first_id: *proto.orig_dst_cid(),
            proto: Some(proto),
            endpoint,
        }
    }

    /// Goes on with the handshake, with the endpoint's settings.
    pub fn accept(self) -> Result<Connecting, ConnectionError> {
        self.go_on(None)
    }

    /// Goes on with the handshake, with other settings than the endpoint's.
    pub fn accept_with(self, server: Arc<ServerConfig>) -> Result<Connecting, ConnectionError> {
        self.go_on(Some(server))
    }

    fn go_on(mut self, server: Option<Arc<ServerConfig>>) -> Result<Connecting, ConnectionError> {
        // Decided once only: whoever decides gives it away.
        let incoming = self.proto.take().ok_or(ConnectionError::LocallyClosed)?;
        let mut response = Vec::new();
        let shared = &self.endpoint.0;
        let started = shared.start(|endpoint| {
            endpoint.accept(incoming, now(), &mut response, server).map_err(Box::new)
        });
        started.map_err(|error| {
            if let Some(transmit) = &error.response {
                shared.respond(transmit, &response);
            }
            error.cause
        })
    }

    /// Has the client prove its address first. One that has proved it is refused.
    pub fn retry(mut self) {
        let Some(incoming) = self.proto.take() else { return };
        let mut response = Vec::new();
        let shared = &self.endpoint.0;
        let retried = locked(&shared.state).proto.retry(incoming, &mut response);
        match retried {
            Ok(transmit) => shared.respond(&transmit, &response),
            Err(error) => self.proto = Some(error.into_incoming()),
        }
    }

    /// Says nothing.
    pub fn ignore(mut self) {
        if let Some(incoming) = self.proto.take() {
            locked(&self.endpoint.0.state).proto.ignore(incoming);
        }
    }

    /// Where it comes from.
    pub fn remote_address(&self) -> SocketAddr {
        self.remote
    }

    /// Whether it has proved that it is there.
    pub fn remote_address_validated(&self) -> bool {
        self.validated
    }

    /// Whether [`Incoming::retry`] may be said.
    pub fn may_retry(&self) -> bool {
        self.may_retry
    }

    /// The connection id that the client chose.
    pub fn orig_dst_cid(&self) -> &ConnectionId {
        &self.first_id
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let Some(incoming) = self.proto.take() else { return };
        let mut response = Vec::new();
        let shared = &self.endpoint.0;
        let transmit = locked(&shared.state).proto.refuse(incoming, &mut response);
        shared.respond(&transmit, &response);
    }
}

/// Tells the connections if the task that receives is gone, however it ended.
struct Receiving(Arc<Shared>);

impl Drop for Receiving {
    fn drop(&mut self) {
        self.0.lose();
    }
}

/// Receives for all connections, until there is neither one nor a handle.
async fn receive(shared: Arc<Shared>, room: usize) {
    let receiving = Receiving(shared);
    let shared = &receiving.0;
    let mut buffer = vec![0; room * BATCH_SIZE];
    let mut hands = Hands::default();
    let ended = poll_fn(|cx| {
        shared.receiver.register(cx.waker());
        match receive_some(shared, cx, &mut buffer, room, &mut hands) {
            Ok(busy) => {
                let unused = shared.handles.load(Ordering::Acquire) == 0;
                if unused && locked(&shared.state).open == 0 {
                    return Poll::Ready(Ok(()));
                }
                if busy {
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    });
    if let Err(error) = ended.await {
        tracing::error!("the UDP port cannot be read any more: {error}");
    }
}

/// What is used again for each batch.
#[derive(Default)]
struct Hands {
    response: Vec<u8>,
    /// Connections with something in an inbox that was empty.
    woken: Vec<Arc<connection::Shared>>,
}

/// Receives for one turn; says whether there may be more.
fn receive_some(
    shared: &Shared,
    cx: &mut Context<'_>,
    buffer: &mut [u8],
    room: usize,
    hands: &mut Hands,
) -> io::Result<bool> {
    let mut metas = [RecvMeta::default(); BATCH_SIZE];
    let mut slices: Vec<_> = buffer.chunks_mut(room.max(1)).map(IoSliceMut::new).collect();
    let mut received = 0;
    while received < RECEIVED_AT_ONCE {
        let messages = match shared.socket.poll_recv(cx, &mut slices, &mut metas) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(messages)) => messages,
            // Anybody can cause it, and it means nothing.
            Poll::Ready(Err(error)) if error.kind() == ErrorKind::ConnectionReset => {
                received += 1;
                continue;
            }
            Poll::Ready(Err(error)) => return Err(error),
        };
        {
            let now = now();
            let mut state = locked(&shared.state);
            for (meta, slice) in metas.iter().zip(&slices).take(messages) {
                let mut rest = BytesMut::from(slice.get(..meta.len).unwrap_or(slice));
                let stride = meta.stride.max(1);
                while rest.len() > stride {
                    let datagram = rest.split_to(stride);
                    shared.take(&mut state, now, meta, datagram, hands);
                    received += 1;
                }
                if !rest.is_empty() {
                    shared.take(&mut state, now, meta, rest, hands);
                    received += 1;
                }
            }
        }
        // After all of the batch, so that each connection finds all that is for it.
        for connection in hands.woken.drain(..) {
            connection.driver.wake();
        }
    }
    Ok(true)
}

impl Shared {
    fn take(
        &self,
        state: &mut State,
        now: Instant,
        meta: &RecvMeta,
        datagram: BytesMut,
        hands: &mut Hands,
    ) {
        let ecn = meta.ecn.and_then(|ecn| EcnCodepoint::from_bits(ecn as u8));
        let response = &mut hands.response;
        response.clear();
        match state.proto.handle(now, meta.addr, meta.dst_ip, ecn, datagram, response) {
            None => {}
            Some(DatagramEvent::ConnectionEvent(number, event)) => {
                let Some(connection) = state.connection(number) else { return };
                match connection.datagram(event) {
                    Some(true) => hands.woken.push(connection.clone()),
                    Some(false) => {}
                    None => {
                        self.dropped.datagrams.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                if state.closed.is_some() {
                    let transmit = state.proto.refuse(incoming, response);
                    self.respond(&transmit, response);
                } else if state.incoming.len() >= INCOMING_MAX {
                    state.proto.ignore(incoming);
                    self.dropped.incoming.fetch_add(1, Ordering::Relaxed);
                } else {
                    state.incoming.push_back(incoming);
                    self.incoming.notify_waiters();
                }
            }
            Some(DatagramEvent::Response(transmit)) => self.respond(&transmit, response),
        }
    }
}

//! A connection and what is done with it.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures::task::AtomicWaker;
use quinn_proto::crypto::ExportKeyingMaterialError;
use quinn_proto::{
    ConnectionError, ConnectionEvent, ConnectionHandle, ConnectionStats, Dir, StreamId, VarInt,
};
use tokio::sync::Notify;

use super::drive::{self, Blocked};
use super::endpoint::{self, INBOX_MAX};
use super::stream::{RecvStream, SendStream, Waiters};
use super::{locked, now};

/// Why a datagram is not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendDatagramError {
    /// The other side takes none.
    #[error("the other side takes no datagrams")]
    UnsupportedByPeer,
    /// This side sends none.
    #[error("datagrams are switched off here")]
    Disabled,
    /// It does not fit into a packet.
    #[error("the datagram does not fit into a packet")]
    TooLarge,
    /// The connection is gone.
    #[error("the connection is gone: {0}")]
    ConnectionLost(ConnectionError),
}

/// What the handles, the driver and the endpoint share of a connection.
pub(super) struct Shared {
    state: Mutex<State>,
    /// What arrived since the driver last looked.
    inbox: Mutex<Vec<ConnectionEvent>>,
    /// The task that drives this connection.
    pub(super) driver: AtomicWaker,
    pub(super) notices: Notices,
    /// The number that the endpoint knows it by.
    pub(super) number: ConnectionHandle,
    pub(super) endpoint: Arc<endpoint::Shared>,
    handles: AtomicUsize,
}

/// Where tasks wait for something that has no stream yet.
#[derive(Default)]
pub(super) struct Notices {
    /// The other side opened a stream, by direction.
    pub(super) opened: [Notify; 2],
    /// The other side allows more streams.
    pub(super) room: Notify,
    pub(super) datagram: Notify,
    /// Datagrams may be sent again.
    pub(super) space: Notify,
    pub(super) closed: Notify,
}

/// What the lock of a connection guards.
pub(super) struct State {
    pub(super) proto: quinn_proto::Connection,
    pub(super) readers: Waiters,
    pub(super) writers: Waiters,
    pub(super) connecting: Option<Waker>,
    pub(super) connected: bool,
    /// Why the connection is over; the first reason counts.
    pub(super) error: Option<ConnectionError>,
    /// What the socket did not take.
    pub(super) blocked: Option<Box<Blocked>>,
}

impl State {
    /// Nothing more comes and nothing more goes: whoever waits hears why.
    pub(super) fn end(&mut self, reason: ConnectionError, notices: &Notices) {
        if self.error.is_some() {
            return;
        }
        self.error = Some(reason);
        self.readers.wake_all();
        self.writers.wake_all();
        self.connecting.take().into_iter().for_each(Waker::wake);
        notices.opened.iter().for_each(Notify::notify_waiters);
        for notice in [&notices.room, &notices.datagram, &notices.space, &notices.closed] {
            notice.notify_waiters();
        }
    }
}

impl Shared {
    /// A connection whose driver runs.
    pub(super) fn start(
        number: ConnectionHandle,
        proto: quinn_proto::Connection,
        endpoint: Arc<endpoint::Shared>,
    ) -> Arc<Self> {
        let shared = Arc::new(Self {
            state: Mutex::new(State {
                proto,
                readers: Waiters::default(),
                writers: Waiters::default(),
                connecting: None,
                connected: false,
                error: None,
                blocked: None,
            }),
            inbox: Mutex::default(),
            driver: AtomicWaker::new(),
            notices: Notices::default(),
            number,
            endpoint,
            handles: AtomicUsize::new(0),
        });
        tokio::spawn(drive::run(shared.clone()));
        shared
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    /// Puts a datagram into the inbox. Says whether it is the first there, so that the driver has
    /// to be woken; nothing if there is no room.
    pub(super) fn datagram(&self, event: ConnectionEvent) -> Option<bool> {
        let mut inbox = locked(&self.inbox);
        if inbox.len() >= INBOX_MAX {
            return None;
        }
        inbox.push(event);
        Some(inbox.len() == 1)
    }

    /// Puts the endpoint's answers into the inbox, which must not be lost.
    pub(super) fn answers(&self, events: Vec<ConnectionEvent>) {
        locked(&self.inbox).extend(events);
    }

    pub(super) fn take_inbox(&self) -> Vec<ConnectionEvent> {
        std::mem::take(&mut *locked(&self.inbox))
    }

    pub(super) fn close(&self, code: VarInt, reason: Bytes) {
        {
            let mut state = self.state();
            state.proto.close(now(), code, reason);
            state.end(ConnectionError::LocallyClosed, &self.notices);
        }
        self.driver.wake();
    }

    /// Waits until there is a result; `notice` says when to look again.
    async fn until<T>(&self, notice: &Notify, mut ready: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            let noticed = {
                let mut state = self.state();
                if let Some(result) = ready(&mut state) {
                    return result;
                }
                // Made under the lock, it misses nothing that happens after.
                notice.notified()
            };
            noticed.await;
        }
    }
}

/// Keeps a connection open; with the last one it is closed.
pub(super) struct Handle(Arc<Shared>);

impl Handle {
    fn new(shared: Arc<Shared>) -> Self {
        shared.handles.fetch_add(1, Ordering::Relaxed);
        Self(shared)
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        Self::new(self.0.clone())
    }
}

impl Deref for Handle {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Nobody can make another handle once the last one is gone.
        if self.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.close(VarInt::from_u32(0), Bytes::new());
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number.fmt(f)
    }
}

/// A connection whose handshake is under way. Dropped, it is closed.
#[derive(Debug)]
pub struct Connecting(Handle);

impl Connecting {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(Handle::new(shared))
    }
}

impl Future for Connecting {
    type Output = Result<Connection, ConnectionError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.state();
        if state.connected {
            return Poll::Ready(Ok(Connection(self.0.clone())));
        }
        if let Some(error) = &state.error {
            return Poll::Ready(Err(error.clone()));
        }
        state.connecting = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// A connection. Clones are handles to the same one; with the last handle and the last stream it
/// is closed with code 0.
#[derive(Debug, Clone)]
pub struct Connection(Handle);

impl Connection {
    /// Opens a stream to the other side, which hears of it with its first bytes. Waits while too
    /// many are open.
    pub async fn open_uni(&self) -> Result<SendStream, ConnectionError> {
        let id = self.open(Dir::Uni).await?;
        Ok(SendStream::new(self.0.clone(), id))
    }

    /// Opens a stream in both directions, of which the other side hears with its first bytes.
    /// Waits while too many are open.
    pub async fn open_bi(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        let id = self.open(Dir::Bi).await?;
        Ok((SendStream::new(self.0.clone(), id), RecvStream::new(self.0.clone(), id)))
    }

    /// The next stream that the other side opened to this one. What has arrived before the end is
    /// still given.
    pub async fn accept_uni(&self) -> Result<RecvStream, ConnectionError> {
        let id = self.accept(Dir::Uni).await?;
        Ok(RecvStream::new(self.0.clone(), id))
    }

    /// The next stream that the other side opened in both directions. What has arrived before the
    /// end is still given.
    pub async fn accept_bi(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        let id = self.accept(Dir::Bi).await?;
        Ok((SendStream::new(self.0.clone(), id), RecvStream::new(self.0.clone(), id)))
    }

    async fn open(&self, dir: Dir) -> Result<StreamId, ConnectionError> {
        let opened = |state: &mut State| match &state.error {
            Some(error) => Some(Err(error.clone())),
            None => state.proto.streams().open(dir).map(Ok),
        };
        self.0.until(&self.0.notices.room, opened).await
    }

    async fn accept(&self, dir: Dir) -> Result<StreamId, ConnectionError> {
        let accepted = |state: &mut State| match state.proto.streams().accept(dir) {
            Some(id) => Some(Ok(id)),
            None => state.error.clone().map(Err),
        };
        let [bi, uni] = &self.0.notices.opened;
        let notice = if dir == Dir::Bi { bi } else { uni };
        let id = self.0.until(notice, accepted).await?;
        // The other side may open one more.
        self.0.driver.wake();
        Ok(id)
    }

    /// The next datagram. What has arrived before the end is still given.
    pub async fn read_datagram(&self) -> Result<Bytes, ConnectionError> {
        let read = |state: &mut State| match state.proto.datagrams().recv() {
            Some(datagram) => Some(Ok(datagram)),
            None => state.error.clone().map(Err),
        };
        self.0.until(&self.0.notices.datagram, read).await
    }

    /// Sends a datagram; older ones that still wait make room for it.
    pub fn send_datagram(&self, datagram: Bytes) -> Result<(), SendDatagramError> {
        {
            let mut state = self.0.state();
            if let Some(error) = &state.error {
                return Err(SendDatagramError::ConnectionLost(error.clone()));
            }
            state.proto.datagrams().send(datagram, true).map_err(|error| refused(&error))?;
        }
        self.0.driver.wake();
        Ok(())
    }

    /// Sends a datagram as soon as there is room for it.
    pub async fn send_datagram_wait(&self, datagram: Bytes) -> Result<(), SendDatagramError> {
        let mut waiting = Some(datagram);
        let sent = |state: &mut State| {
            if let Some(error) = &state.error {
                return Some(Err(SendDatagramError::ConnectionLost(error.clone())));
            }
            match state.proto.datagrams().send(waiting.take()?, false) {
                Ok(()) => Some(Ok(())),
                Err(quinn_proto::SendDatagramError::Blocked(datagram)) => {
                    waiting = Some(datagram);
                    None
                }
                Err(error) => Some(Err(refused(&error))),
            }
        };
        self.0.until(&self.0.notices.space, sent).await?;
        self.0.driver.wake();
        Ok(())
    }

    /// Bytes of datagrams that can be sent without older ones having to make room.
    pub fn datagram_send_buffer_space(&self) -> usize {
        self.0.state().proto.datagrams().send_buffer_space()
    }

    /// Waits for the end, and says why it came.
    pub async fn closed(&self) -> ConnectionError {
        self.0.until(&self.0.notices.closed, |state| state.error.clone()).await
    }

    /// Why the connection is over, if it is.
    pub fn close_reason(&self) -> Option<ConnectionError> {
        self.0.state().error.clone()
    }

    /// Ends the connection at once: what was not delivered is lost. The other side is told both.
    pub fn close(&self, code: VarInt, reason: &[u8]) {
        self.0.close(code, Bytes::copy_from_slice(reason));
    }

    /// Where the other side is.
    pub fn remote_address(&self) -> SocketAddr {
        self.0.state().proto.remote_address()
    }

    /// Round trip time, smoothed.
    pub fn rtt(&self) -> Duration {
        self.0.state().proto.rtt()
    }

    /// What was sent and received so far.
    pub fn stats(&self) -> ConnectionStats {
        self.0.state().proto.stats()
    }

    /// What TLS agreed on.
    pub fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.0.state().proto.crypto_session().handshake_data()
    }

    /// Who the other side is, by TLS.
    pub fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.0.state().proto.crypto_session().peer_identity()
    }

    /// A secret that both sides derive from this session (RFC 5705).
    pub fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.0.state().proto.crypto_session().export_keying_material(output, label, context)
    }

    /// How much the other side may send ahead of what was read.
    pub fn set_receive_window(&self, bytes: VarInt) {
        self.0.state().proto.set_receive_window(bytes);
        self.0.driver.wake();
    }
}

fn refused(error: &quinn_proto::SendDatagramError) -> SendDatagramError {
    match error {
        quinn_proto::SendDatagramError::UnsupportedByPeer => SendDatagramError::UnsupportedByPeer,
        quinn_proto::SendDatagramError::Disabled => SendDatagramError::Disabled,
        // Blocked is not said to whoever makes room.
        quinn_proto::SendDatagramError::TooLarge | quinn_proto::SendDatagramError::Blocked(_) => {
            SendDatagramError::TooLarge
        }
    }
}

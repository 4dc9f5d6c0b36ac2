//! QUIC connections: sockets, tasks and wakers around the state machines of `quinn-proto`.
//!
//! One task receives for an [`Endpoint`] and puts what arrives into the inbox of the connection it
//! is for; each connection has a task that decrypts, acknowledges, keeps the timers and sends. A
//! connection keeps no queue, buffer or map that it does not need at the moment: a node has
//! thousands that are idle.
//!
//! Locks: the endpoint's, a connection's, an inbox's. Whoever holds the endpoint's or a
//! connection's takes at most an inbox's; an inbox's is never held while another is taken.

mod connection;
mod drive;
mod endpoint;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

pub use connection::{Connecting, Connection, SendDatagramError};
pub use endpoint::{Dropped, Endpoint, INBOX_MAX, INCOMING_MAX, Incoming};
pub use quinn::udp;
pub use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};
pub use quinn_proto::{
    ClientConfig, ConnectError, ConnectionError, ConnectionId, EndpointConfig, IdleTimeout,
    ServerConfig, TransportConfig, VarInt, congestion, crypto,
};
pub use stream::{ReadError, ReadToEndError, RecvStream, SendStream, WriteError};

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic within the state machine costs the task in which it happens. The others find what it
    // left, which is no worse than what a peer can do.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The runtime's clock, which may stand still.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// As the socket wants it.
fn outgoing<'a>(transmit: &quinn_proto::Transmit, bytes: &'a [u8]) -> udp::Transmit<'a> {
    udp::Transmit {
        destination: transmit.destination,
        ecn: transmit.ecn.and_then(|ecn| udp::EcnCodepoint::from_bits(ecn as u8)),
        contents: bytes.get(..transmit.size).unwrap_or(bytes),
        segment_size: transmit.segment_size,
        src_ip: transmit.src_ip,
    }
}

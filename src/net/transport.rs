//! How connections behave: keep-alives, buffers, congestion control.
//!
//! There are two classes. *Link* carries membership, directory and reports between nodes:
//! small, and stale datagrams must die young. *Media* carries video and native clients.
//!
//! A server must choose the class of a connection before it can read the ALPN. The dialler
//! therefore marks it in the initial connection id, which it may choose freely (RFC 9000 §7.2).
//! The mark is a hint about buffers and nothing else: whoever sets a wrong one gets other
//! buffers.

use std::any::Any;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::mux::SOCKET_BUFFER;
use crate::admission::Keypair;
use crate::quic::congestion::{Controller, ControllerFactory};
use crate::quic::{
    AsyncUdpSocket, ClientConfig, ConnectionId, Endpoint, EndpointConfig, IdleTimeout,
    Runtime as _, ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use crate::wire::{ALPN_JOIN, ALPN_MEDIA, ALPN_MESH};

/// Largest application datagram, in bytes: it fits at QUIC's smallest packet size of 1,200 (which
/// leaves 1,162), so it fits always, also after a path has shrunk.
pub const DATAGRAM_MAX: usize = 1160;

/// Every connection between nodes is heard at least this often, in both directions.
pub const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// A client's connection is heard at least this often: twice within [`CLIENT_IDLE`]. The client
/// sees to it; encoders and viewers ping more often than that.
pub const CLIENT_KEEP_ALIVE: Duration = Duration::from_secs(4);

/// A client that is silent for this long is gone.
pub const CLIENT_IDLE: Duration = Duration::from_secs(10);

/// A connection between nodes that is silent for this long is gone: three keep-alives in a row
/// were lost. Whoever takes a stream over it has other ways, by a node that both can reach, and
/// should take them.
pub const LINK_IDLE: Duration = Duration::from_secs(3);

/// Datagrams that wait in a link. Half a second of gossip at worst: a probe that waited longer
/// would only mislead.
pub const LINK_DATAGRAM_BUFFER: usize = 64 << 10;

/// Datagrams that wait in a media connection: more than a keyframe of a 10 Mbit/s stream.
pub const MEDIA_DATAGRAM_BUFFER: usize = 512 << 10;

/// Datagrams that arrived and were not read yet.
pub const DATAGRAM_RECEIVE_BUFFER: usize = 1 << 20;

/// Streams that the other side of a link may have open at once, of each kind. Gossip and asks are
/// short; more at once means that this side is behind, and the other should wait.
pub const STREAMS: u32 = 64;

/// Two-way streams that a client may have open at once: its requests to the API, as many as are
/// answered at a time. Room for each is kept in every connection.
pub const CLIENT_STREAMS: u32 = 8;

/// Bytes that the other side may send ahead of what was read, on all streams of a connection.
/// Bounds what strangers can make this node hold: 64 MiB, if every place at the door is taken.
pub const RECEIVE_WINDOW: u32 = 256 << 10;

/// The same for a link: two of the largest messages, so that a long round trip does not slow
/// them.
pub const LINK_RECEIVE_WINDOW: u32 = 8 << 20;

/// Bytes that are kept for the other side until it has acknowledged them.
pub const SEND_WINDOW: u64 = 4 << 20;

/// Round trip that is assumed before one was measured: probes and first retransmissions come
/// after tens, not hundreds, of milliseconds.
pub const INITIAL_RTT: Duration = Duration::from_millis(50);

/// Bytes in flight that media starts with: a whole keyframe leaves at once, instead of in the
/// four round trips that the usual 14,720 bytes take for it.
pub const MEDIA_WINDOW_START: u64 = 384 << 10;

/// Bytes in flight that loss never takes from media; see [`MediaController`].
pub const MEDIA_WINDOW_FLOOR: u64 = 192 << 10;

/// Most bytes of media in flight: 160 Mbit/s at 100 ms. Bounds the damage of a wrong guess.
pub const MEDIA_WINDOW_CAP: u64 = 2 << 20;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Links between members, and joining.
    Link,
    /// Media between members, and native clients.
    Media,
}

impl Class {
    /// The class that belongs to an ALPN.
    pub fn of_alpn(alpn: &[u8]) -> Self {
        if alpn == ALPN_MESH || alpn == ALPN_JOIN { Self::Link } else { Self::Media }
    }

    /// Reads the dialler's mark.
    pub fn of_connection_id(id: &ConnectionId) -> Self {
        if id.first().is_some_and(|byte| byte & 1 == 0) { Self::Link } else { Self::Media }
    }

    /// An initial connection id with this class's mark and 121 random bits.
    pub fn connection_id(self) -> ConnectionId {
        let mut bytes = uuid::Uuid::new_v4().into_bytes();
        bytes[0] = bytes[0] & !1 | u8::from(self == Self::Media);
        ConnectionId::new(&bytes)
    }

    /// Buffers, timers and congestion control. `idle` is at most what the other side allows; it is
    /// enough if one of the two sides keeps the connection alive.
    pub fn transport(self, idle: Duration, keep_alive: Option<Duration>) -> TransportConfig {
        let mut config = TransportConfig::default();
        config
            .keep_alive_interval(keep_alive)
            .max_idle_timeout(IdleTimeout::try_from(idle).ok())
            .initial_rtt(INITIAL_RTT)
            .initial_mtu(1200)
            .min_mtu(1200)
            .receive_window(VarInt::from_u32(RECEIVE_WINDOW))
            .send_window(SEND_WINDOW)
            .datagram_receive_buffer_size(Some(DATAGRAM_RECEIVE_BUFFER));
        match self {
            Self::Link => {
                config
                    .max_concurrent_bidi_streams(STREAMS.into())
                    .max_concurrent_uni_streams(STREAMS.into())
                    .datagram_send_buffer_size(LINK_DATAGRAM_BUFFER);
            }
            Self::Media => {
                config
                    .max_concurrent_bidi_streams(CLIENT_STREAMS.into())
                    .max_concurrent_uni_streams(VarInt::from_u32(0))
                    // Larger packets would carry nothing: see [`DATAGRAM_MAX`].
                    .mtu_discovery_config(None)
                    .datagram_send_buffer_size(MEDIA_DATAGRAM_BUFFER)
                    .congestion_controller_factory(Arc::new(MediaControllerFactory));
            }
        }
        config
    }
}

/// Settings of every endpoint that shares its port with WebRTC, or talks to one that does.
pub fn endpoint_config() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    config.grease_quic_bit(false);
    config
}

/// An endpoint that only dials, from any free port; IPv4 and IPv6 if the host has both.
pub fn client_endpoint() -> io::Result<Endpoint> {
    let socket = udp_socket(SocketAddr::from(([0; 16], 0)))
        .or_else(|_no_ipv6| udp_socket(SocketAddr::from(([0; 4], 0))))?;
    // Smaller ones do for one client; the kernel may grant less, or nothing.
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER);
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER);
    client_endpoint_on(TokioRuntime.wrap_udp_socket(socket)?)
}

/// An endpoint that only dials, from this socket.
pub fn client_endpoint_on(socket: Arc<dyn AsyncUdpSocket>) -> io::Result<Endpoint> {
    Endpoint::new(endpoint_config(), None, socket)
}

/// A bound UDP socket; one on an IPv6 wildcard takes IPv4 as well, whatever the host's default.
pub fn udp_socket(addr: SocketAddr) -> io::Result<UdpSocket> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};
    if addr.is_ipv4() {
        return UdpSocket::bind(addr);
    }
    let socket = socket_with(AddressFamily::INET6, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_ipv6_v6only(&socket, false)?;
    bind(&socket, &addr)?;
    Ok(socket.into())
}

/// What a node answers connections of `class` with.
pub fn server_config(class: Class, keypair: &Keypair) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::with_crypto(super::tls::server(keypair)?);
    // Whoever dials a media connection keeps it alive: a node with ten thousand encoders has more to
    // do than to ask each of them every second.
    let keep_alive = (class == Class::Link).then_some(KEEP_ALIVE);
    config
        .transport_config(Arc::new(class.transport(CLIENT_IDLE, keep_alive)))
        .max_incoming(super::handshake::UNVERIFIED_MAX)
        .incoming_buffer_size(16 << 10)
        .incoming_buffer_size_total(1 << 20);
    Ok(config)
}

/// What dials of `alpn` use.
pub fn client_config(
    alpn: &[u8],
    keypair: Option<&Keypair>,
) -> Result<ClientConfig, rustls::Error> {
    let class = Class::of_alpn(alpn);
    // The shorter wish of the two sides counts, so it is the one that dials who decides.
    let between_nodes = [ALPN_MESH, ALPN_MEDIA].contains(&alpn);
    let (idle, keep_alive) = match between_nodes {
        true => (LINK_IDLE, KEEP_ALIVE),
        false => (CLIENT_IDLE, CLIENT_KEEP_ALIVE),
    };
    let mut config = ClientConfig::new(super::tls::client(alpn, keypair)?);
    config
        .transport_config(Arc::new(class.transport(idle, Some(keep_alive))))
        .initial_dst_cid_provider(Arc::new(move || class.connection_id()));
    Ok(config)
}

/// Congestion control for video.
///
/// The rate of video is set by its source, not by us: it is neither greedy nor retransmitted, so
/// a lost packet calls for no slower sending, and the usual answer (halve the window, down to two
/// packets) would turn 2 % of loss on a radio path into a frozen picture and, since heartbeats
/// share the window, into a failover. So loss takes only 15 % at a time and never below
/// [`MEDIA_WINDOW_FLOOR`]. What the path cannot carry at all shows as growing queues and loss at
/// the receiver, which the layers above report; [`MEDIA_WINDOW_CAP`] and the source's own rate
/// bound the harm until then.
#[derive(Debug, Clone)]
pub struct MediaController {
    window: u64,
    mtu: u64,
    recovery_start: Instant,
}

impl Controller for MediaController {
    fn on_end_acks(
        &mut self,
        _now: Instant,
        _in_flight: u64,
        app_limited: bool,
        _largest_packet_num_acked: Option<u64>,
    ) {
        if !app_limited {
            self.window = (self.window + 2 * self.mtu).min(MEDIA_WINDOW_CAP);
        }
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        _lost_bytes: u64,
    ) {
        if sent <= self.recovery_start {
            return;
        }
        self.recovery_start = now;
        self.window = if is_persistent_congestion {
            MEDIA_WINDOW_FLOOR
        } else {
            (self.window - self.window * 15 / 100).max(MEDIA_WINDOW_FLOOR)
        };
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu.into();
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        MEDIA_WINDOW_START
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Makes a [`MediaController`] for each connection.
#[derive(Debug, Clone, Copy)]
pub struct MediaControllerFactory;

impl ControllerFactory for MediaControllerFactory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(MediaController {
            window: MEDIA_WINDOW_START,
            mtu: current_mtu.into(),
            recovery_start: now,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn controller() -> (Instant, Box<dyn Controller>) {
        let now = Instant::now();
        (now, Arc::new(MediaControllerFactory).build(now, 1200))
    }

    #[test]
    fn loss_never_takes_the_floor_from_media() {
        let (start, mut controller) = controller();
        for second in 1..100 {
            let now = start + Duration::from_secs(second);
            controller.on_congestion_event(now, now, second % 3 == 0, 5000);
            assert!(controller.window() >= MEDIA_WINDOW_FLOOR);
        }
        assert_eq!(controller.window(), MEDIA_WINDOW_FLOOR);
    }

    #[test]
    fn one_burst_of_loss_counts_once() {
        let (start, mut controller) = controller();
        let later = start + Duration::from_secs(1);
        controller.on_congestion_event(later, later, false, 1);
        let once = controller.window();
        controller.on_congestion_event(later, later, false, 1);
        assert_eq!(controller.window(), once);
        assert!(once < MEDIA_WINDOW_START);
    }

    #[test]
    fn the_window_grows_only_while_it_limits_and_only_to_the_cap() {
        let (now, mut controller) = controller();
        controller.on_end_acks(now, 0, true, None);
        assert_eq!(controller.window(), MEDIA_WINDOW_START);
        for _ in 0..100_000 {
            controller.on_end_acks(now, 0, false, None);
        }
        assert_eq!(controller.window(), MEDIA_WINDOW_CAP);
    }

    #[test]
    fn the_mark_of_a_class_survives_its_connection_id() {
        for class in [Class::Link, Class::Media] {
            for _ in 0..50 {
                assert_eq!(Class::of_connection_id(&class.connection_id()), class);
            }
        }
    }
}

//! The network side of a node: one UDP port, links to other members, joining, media connections
//! between nodes, and the front door for native clients.
//!
//! This module carries bytes and checks who sends them; it knows nothing of what links say to
//! each other. Messages go in and come out as `tag | body` without their length prefix, the way
//! [`crate::wire::Message::encode`] makes them.

pub mod counters;
mod dial;
pub mod gossip;
mod handshake;
pub mod join;
mod link;
mod message;
pub mod mux;
pub mod tls;
pub mod transport;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::admission::{Keypair, PublicKey, Roster, Statement};
use crate::id::{Boot, NodeId};
use crate::quic;
use crate::quic::VarInt;
use crate::wire;

pub use counters::NetCounters;
pub(crate) use dial::{connect_any, resolve};
pub use handshake::{
    HANDSHAKE_TIMEOUT, JOIN_TIMEOUT, NEWS_MAX, Place, RETRY_ABOVE, UNVERIFIED_MAX,
    UNVERIFIED_PER_ADDRESS,
};
pub use link::{
    ANSWER_TIMEOUT, ASK_MAX, GOSSIP_AT_ONCE, GOSSIP_MAX, LINGER, LINK_QUEUE, LINK_QUEUE_BYTES,
    SILENT, STREAM_DEADLINE,
};
pub use message::{
    MessageReader, MessageWriter, ReceiveError, UNVERIFIED_MESSAGE_MAX, lost_reason,
};
pub use mux::{RtcDatagram, RtcSocket};

/// Events that wait for the control loop. Beyond it, streams wait (their senders are slowed by
/// QUIC) and datagrams are dropped.
pub const EVENT_QUEUE: usize = 4096;

/// Codes with which connections are closed (RFC 9000 §19.19); the words are in the reason.
pub mod close {
    use crate::quic::VarInt;

    /// Nothing more to say.
    pub const DONE: VarInt = VarInt::from_u32(0);
    /// The other side may not do this.
    pub const REFUSED: VarInt = VarInt::from_u32(1);
    /// There is another link between the two.
    pub const DUPLICATE: VarInt = VarInt::from_u32(2);
    /// This node stops.
    pub const GOING: VarInt = VarInt::from_u32(3);
    /// The other side sent what it must not.
    pub const PROTOCOL: VarInt = VarInt::from_u32(4);
    /// The other side does not read.
    pub const OVERFLOW: VarInt = VarInt::from_u32(5);
}

/// What a node's datagrams pass through.
#[derive(Debug)]
pub enum UdpPort {
    /// The UDP port, open, for QUIC and WebRTC; see [`transport::udp_socket`].
    Open(UdpSocket),
    /// Something else, for QUIC alone.
    Other(Arc<dyn quic::AsyncUdpSocket>),
}

/// What the network side needs to know.
#[derive(Debug)]
pub struct NetConfig {
    /// What datagrams pass through.
    pub port: UdpPort,
    /// This node's key.
    pub keypair: Keypair,
    /// Which start this is.
    pub boot: Boot,
    /// This node's name.
    pub name: String,
    /// Where others reach this node, `host:port`, best first.
    pub addrs: Vec<String>,
    /// Who belongs to the mesh. Read at every handshake; whoever owns it adopts what
    /// [`NetEvent::LinkUp`] brings.
    pub roster: Arc<ArcSwap<Roster>>,
}

/// What happens on the network.
///
/// Every [`Net::dial`] ends in one `LinkUp` or one `DialFailed`. A `Message`, `Datagram` or
/// `Gossip` of a link that was just closed here may still follow its `LinkDown`; ignore it.
#[derive(Debug)]
pub enum NetEvent {
    /// A link is up; what was agreed on an earlier one no longer holds.
    LinkUp {
        /// To whom.
        node: NodeId,
        /// Its boot.
        boot: Boot,
        /// Its name; blank if it dialled and did not know this node's key yet.
        name: String,
        /// Its addresses; none in the same case.
        addrs: Vec<String>,
        /// Statements of its hello that this node lacks.
        learned: Vec<Statement>,
        /// What its wall clock showed, in milliseconds since 1970.
        wall: u64,
        /// Where it is.
        remote: SocketAddr,
    },
    /// A handshake that came to nothing brought statements that this node lacks.
    Learned(Vec<Statement>),
    /// A link is gone.
    LinkDown {
        /// To whom.
        node: NodeId,
        /// Why, in words.
        reason: String,
    },
    /// A dial came to nothing.
    DialFailed {
        /// Who was expected; or who is there, if there is a link to it already.
        node: Option<NodeId>,
        /// Where, as it was asked.
        addr: String,
        /// Why, and what to do, in words.
        reason: String,
    },
    /// On the ordered stream of a link.
    Message {
        /// From whom.
        node: NodeId,
        /// Tag and body of a [`wire::LinkMessage`].
        bytes: Vec<u8>,
    },
    /// A datagram on a link.
    Datagram {
        /// From whom.
        node: NodeId,
        /// As it was sent.
        bytes: bytes::Bytes,
    },
    /// A message of the reports' gossip.
    Gossip {
        /// From whom.
        node: NodeId,
        /// As it was sent.
        bytes: Vec<u8>,
    },
    /// A question.
    Ask {
        /// From whom.
        node: NodeId,
        /// Tag and body of a [`wire::Ask`].
        bytes: Vec<u8>,
        /// Takes tag and body of a [`wire::Answer`]; dropped, the asker is told that there is
        /// none.
        answer: oneshot::Sender<Vec<u8>>,
    },
    /// A newcomer asks to be admitted. Nothing but its key is proved yet: check the invitation,
    /// and the proof over `statement`.
    Join {
        /// Its key, proved by TLS.
        newcomer: PublicKey,
        /// Invitation and proof.
        join: wire::Join,
        /// What the proof must sign, see [`wire::join_statement`].
        statement: Vec<u8>,
        /// Where it is.
        remote: SocketAddr,
        /// Takes the admission, already on disk, or the reason of the refusal.
        answer: oneshot::Sender<Result<wire::Admitted, String>>,
    },
    /// A member opened a media connection.
    Media(MediaConn),
    /// A native client is at the door; it is nobody yet.
    Client(ClientConn),
}

/// A media connection between two members, both verified.
#[derive(Debug)]
pub struct MediaConn {
    /// The other side.
    pub node: NodeId,
    /// For datagrams.
    pub connection: quic::Connection,
    /// For [`wire::MediaMessage`]s.
    pub send: MessageWriter,
    /// For [`wire::MediaMessage`]s.
    pub recv: MessageReader,
}

/// A native client's connection. The [`wire::ServerHello`] is sent; the client's
/// [`wire::ClientHello`] is the first thing to read, with a deadline.
#[derive(Debug)]
pub struct ClientConn {
    /// Where it is.
    pub remote: SocketAddr,
    /// For datagrams and API streams.
    pub connection: quic::Connection,
    /// For [`wire::NodeMessage`]s.
    pub send: MessageWriter,
    /// For [`wire::ClientMessage`]s. Call [`MessageReader::trust`] once the client is somebody.
    pub recv: MessageReader,
    /// Its place among the connections of strangers: to be dropped once the client is somebody.
    pub place: Place,
}

/// How a link is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkStats {
    /// Round trip time, as QUIC sees it.
    pub rtt: Duration,
    /// Where the other side is.
    pub remote: SocketAddr,
    /// When anything last came from it, to about 250 ms.
    pub last_heard: Instant,
}

/// Why a dial came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// The name has no address, or none that this endpoint can reach.
    #[error("{addr} is no address that can be reached from here: {reason}")]
    NoAddress {
        /// As it was given.
        addr: String,
        /// In words.
        reason: String,
    },
    /// Nobody answered.
    #[error("{addr}: {reason}; is the node running, and its UDP port open?")]
    Unreachable {
        /// As it was given.
        addr: String,
        /// In words.
        reason: String,
    },
    /// The address is this node's own.
    #[error("{0} is this node itself: give the address of another")]
    Itself(String),
    /// The other side's words.
    #[error("refused by the node there: {0}")]
    Refused(String),
    /// The other side is not who it should be.
    #[error("node {wanted} was expected there, but node {got} answers")]
    Unexpected {
        /// Who was expected.
        wanted: NodeId,
        /// Who is there.
        got: NodeId,
    },
    /// The other side belongs to another mesh, or to none.
    #[error("the node there is refused: {0}")]
    Stranger(String),
    /// There is a link to that node already.
    #[error("there is a link to node {0} already")]
    AlreadyLinked(NodeId),
    /// There is no link to that node.
    #[error("there is no link to node {0}")]
    NoLink(NodeId),
    /// The conversation broke off.
    #[error("the handshake broke off: {0}")]
    Broken(String),
}

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// There is no link to that node.
    #[error("there is no link to node {0}")]
    NoLink(NodeId),
    /// None in time.
    #[error("no answer within {} ms", .0.as_millis())]
    Late(Duration),
    /// The link broke, or the other side gave no answer.
    #[error("no answer: {0}")]
    Lost(String),
}

/// The network side of a node. Clones are handles to the same one.
#[derive(Clone)]
pub struct Net {
    inner: Arc<Inner>,
}

struct Inner {
    endpoint: quic::Endpoint,
    rtc: RtcSocket,
    identity: ArcSwap<Identity>,
    node: NodeId,
    boot: Boot,
    name: String,
    addrs: Vec<String>,
    roster: Arc<ArcSwap<Roster>>,
    events: mpsc::Sender<NetEvent>,
    counters: Arc<NetCounters>,
    unverified: Arc<Semaphore>,
    /// How many of them each address has.
    at_the_door: Mutex<BTreeMap<IpAddr, usize>>,
    links: Mutex<BTreeMap<NodeId, link::Link>>,
    /// Number of connections that were kept so far; held while links change, so that their
    /// events come out in the order of the changes.
    decisions: tokio::sync::Mutex<u64>,
    /// Media connections, open or closed since.
    medias: Mutex<Vec<(NodeId, quic::Connection)>>,
    /// Dials under way by address, with whom others that asked for the same one expect there.
    dialling: Mutex<BTreeMap<String, Vec<Option<NodeId>>>>,
    connections: AtomicU64,
    closing: AtomicBool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is under these locks is whole after every statement; a panic elsewhere spoils nothing.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Net {
    /// Starts to accept on the port. Must run inside a tokio runtime.
    pub fn open(
        config: NetConfig,
    ) -> io::Result<(Self, mpsc::Receiver<NetEvent>, mpsc::Receiver<RtcDatagram>)> {
        let counters = Arc::new(NetCounters::default());
        let (socket, rtc, rtc_datagrams) = mux::open(config.port, counters.clone())?;
        let identity = Identity::of(&config.keypair)?;
        let endpoint = quic::Endpoint::new(
            transport::endpoint_config(),
            Some((*identity.link_server).clone()),
            socket,
        )?;
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        let inner = Arc::new(Inner {
            endpoint,
            rtc,
            identity: ArcSwap::from_pointee(identity),
            node: config.keypair.node(),
            boot: config.boot,
            name: config.name,
            addrs: config.addrs,
            roster: config.roster,
            events,
            counters,
            unverified: Arc::new(Semaphore::new(UNVERIFIED_MAX)),
            at_the_door: Mutex::default(),
            links: Mutex::default(),
            decisions: tokio::sync::Mutex::default(),
            medias: Mutex::default(),
            dialling: Mutex::default(),
            connections: AtomicU64::new(0),
            closing: AtomicBool::new(false),
        });
        tokio::spawn(handshake::accept(inner.clone()));
        tokio::spawn(link::listen_for_life(inner.clone()));
        Ok((Self { inner }, receiver, rtc_datagrams))
    }

    /// The bound address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.endpoint.local_addr()
    }

    /// Who this is.
    pub fn node(&self) -> NodeId {
        self.inner.node
    }

    /// The sending side of the port for WebRTC.
    pub fn rtc_socket(&self) -> RtcSocket {
        self.inner.rtc.clone()
    }

    /// Starts to make a link to whoever is at `addr` (`host:port`), who must be `node` if given.
    /// A dial to the same address that is still under way is enough; how it ends counts for both.
    pub fn dial(&self, node: Option<NodeId>, addr: String) {
        {
            let mut dialling = locked(&self.inner.dialling);
            if let Some(others) = dialling.get_mut(&addr) {
                if !others.contains(&node) {
                    others.push(node);
                }
                return;
            }
            dialling.insert(addr.clone(), vec![node]);
        }
        let inner = self.inner.clone();
        tokio::spawn(async move {
            let dialled = inner.dial_link(node, &addr).await;
            // From here on another dial is one of its own: it would not share this one's event.
            let asked = locked(&inner.dialling).remove(&addr).unwrap_or_default();
            let result = match dialled {
                Ok(fresh) => {
                    let there = fresh.node;
                    inner.settle(fresh).await.map(|()| there)
                }
                Err(error) => Err(error),
            };
            for wanted in asked {
                let (node, reason) = match &result {
                    Ok(got) => match wanted.filter(|wanted| wanted != got) {
                        Some(wanted) => {
                            let error = DialError::Unexpected { wanted, got: *got };
                            (Some(wanted), error.to_string())
                        }
                        // Its event is the link.
                        None => continue,
                    },
                    Err(error @ DialError::AlreadyLinked(there)) => {
                        (wanted.or(Some(*there)), error.to_string())
                    }
                    Err(error) => (wanted, error.to_string()),
                };
                inner.counters.dials_failed.add(1);
                inner.tell(NetEvent::DialFailed { node, addr: addr.clone(), reason }).await;
            }
        });
    }

    /// Closes the link to `node`, after what was sent before has gone out.
    pub fn close(&self, node: NodeId, reason: impl Into<String>) {
        let (inner, reason) = (self.inner.clone(), reason.into());
        tokio::spawn(async move { inner.close_link(node, reason).await });
    }

    /// Shows this key in handshakes from now on; connections that stand stay.
    pub fn use_key(&self, keypair: &Keypair) -> io::Result<()> {
        let identity = Identity::of(keypair)?;
        // Only for what comes before the class of a connection is known.
        self.inner.endpoint.set_server_config(Some((*identity.link_server).clone()));
        self.inner.identity.store(Arc::new(identity));
        Ok(())
    }

    /// Ends all that `node`, which is no member any more, has here: media at once, the link after
    /// what was sent before has gone out, which nothing is heard on meanwhile.
    pub fn expel(&self, node: NodeId, reason: &str) {
        locked(&self.inner.medias).retain(|(of, connection)| {
            if *of == node {
                close_with(connection, close::REFUSED, reason);
            }
            *of != node && connection.close_reason().is_none()
        });
        self.close(node, reason);
    }

    /// Sends on the ordered stream of the link: `bytes` is an encoded [`wire::LinkMessage`].
    /// Never waits. False if there is no link; a link whose queue is full is closed.
    pub fn send(&self, node: NodeId, bytes: Vec<u8>) -> bool {
        self.inner.send(node, bytes)
    }

    /// Sends a datagram of at most [`transport::DATAGRAM_MAX`] bytes on the link. Never waits.
    /// False if there is no link or it does not fit; true promises nothing.
    pub fn datagram(&self, node: NodeId, bytes: impl Into<bytes::Bytes>) -> bool {
        self.inner.datagram(node, bytes.into())
    }

    /// Sends a gossip message of at most [`GOSSIP_MAX`] bytes on a stream of its own. Never waits;
    /// what cannot go out soon is dropped and counted. False if it is dropped at once.
    pub fn gossip(&self, node: NodeId, bytes: Vec<u8>) -> bool {
        self.inner.gossip(node, bytes)
    }

    /// Asks `node`: `bytes` is an encoded [`wire::Ask`], the result an encoded [`wire::Answer`].
    pub async fn ask(
        &self,
        node: NodeId,
        bytes: Vec<u8>,
        timeout: Duration,
    ) -> Result<Vec<u8>, AskError> {
        self.inner.ask(node, bytes, timeout).await
    }

    /// Opens a media connection to `node`, at the address that the link uses.
    pub async fn media(&self, node: NodeId) -> Result<MediaConn, DialError> {
        self.inner.dial_media(node).await
    }

    /// All links.
    pub fn links(&self) -> Vec<(NodeId, LinkStats)> {
        self.inner.stats()
    }

    /// What was dropped and refused so far.
    pub fn counters(&self) -> &NetCounters {
        &self.inner.counters
    }

    /// What QUIC dropped for want of room: name, meaning, value.
    pub fn dropped(&self) -> [(&'static str, &'static str, u64); 2] {
        let dropped = self.inner.endpoint.dropped();
        let (attempts, datagrams) =
            (dropped.incoming.load(Relaxed), dropped.datagrams.load(Relaxed));
        [
            ("attempts_dropped", "Connection attempts dropped because too many wait.", attempts),
            ("inbox_full", "QUIC datagrams dropped because their connection is behind.", datagrams),
        ]
    }

    /// The same, to keep.
    pub fn shared_counters(&self) -> Arc<NetCounters> {
        self.inner.counters.clone()
    }

    /// Connections whose other side is not verified yet.
    pub fn unverified(&self) -> usize {
        UNVERIFIED_MAX.saturating_sub(self.inner.unverified.available_permits())
    }

    /// Lets go of everything: what links were told before still goes out, for up to a second.
    pub async fn shutdown(&self, reason: &str) {
        self.inner.closing.store(true, Relaxed);
        self.inner.drain_all(reason).await;
        self.inner.endpoint.close(close::GOING, reason.as_bytes());
        let _ = tokio::time::timeout(Duration::from_secs(1), self.inner.endpoint.wait_idle()).await;
    }
}

impl std::fmt::Debug for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Net").field("node", &self.inner.node).finish_non_exhaustive()
    }
}

/// What this node proves itself by.
struct Identity {
    key: PublicKey,
    link_server: Arc<quic::ServerConfig>,
    media_server: Arc<quic::ServerConfig>,
    link_client: quic::ClientConfig,
    media_client: quic::ClientConfig,
}

impl Identity {
    fn of(keypair: &Keypair) -> io::Result<Self> {
        use transport::{Class, client_config, server_config};
        let server = |class| server_config(class, keypair).map(Arc::new).map_err(io::Error::other);
        let client = |alpn| client_config(alpn, Some(keypair)).map_err(io::Error::other);
        Ok(Self {
            key: keypair.public(),
            link_server: server(Class::Link)?,
            media_server: server(Class::Media)?,
            link_client: client(wire::ALPN_MESH)?,
            media_client: client(wire::ALPN_MEDIA)?,
        })
    }
}

impl Inner {
    fn closing(&self) -> bool {
        self.closing.load(Relaxed)
    }
}

/// Closes with a reason that fits into any packet.
fn close_with(connection: &quic::Connection, code: VarInt, reason: &str) {
    let mut end = reason.len().min(900);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    connection.close(code, &reason.as_bytes()[..end]);
}

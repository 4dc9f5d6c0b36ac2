//! Every byte between nodes and native clients. Decoding never panics and never trusts a length.
//!
//! On a stream, a message is `length: u32 LE | tag: u16 LE | body`, where the length counts tag
//! and body and the body is postcard. A body may be longer than its reader knows: a newer minor
//! version appends fields, an older one ignores them. A tag that the reader does not know is
//! counted and skipped. The major version is in the ALPN.
//!
//! In a datagram, the first varint is a flow id (draft-ietf-avtcore-rtp-over-quic): flow 0
//! carries heartbeats, every other flow RTP packets of one stream.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::admission::{Admission, AdmissionDigest, Chain, Invite};
use crate::directory;
use crate::id::{Boot, EncoderId, Epoch, MeshId, NodeId};

/// Links between members; both sides prove the key of an admission.
pub const ALPN_MESH: &[u8] = b"roost-mesh/1";
/// A newcomer with an invitation.
pub const ALPN_JOIN: &[u8] = b"roost-join/1";
/// Native clients: agents, viewers, the command line.
pub const ALPN_CLIENT: &[u8] = b"roost-client/1";
/// Media between members, on connections of their own.
pub const ALPN_MEDIA: &[u8] = b"roost-media/1";

/// Largest message on a stream, in bytes: a directory of 10,000 encoders fits in one.
pub const MAX_MESSAGE: usize = 4 << 20;
/// Bytes of length prefix on a stream.
pub const LENGTH_PREFIX: usize = 4;

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Shorter than its own header.
    #[error("truncated message")]
    Truncated,
    /// Longer than [`MAX_MESSAGE`].
    #[error("message of {0} bytes is over the limit of {MAX_MESSAGE}")]
    TooLong(usize),
    /// A tag this version does not know; skip it.
    #[error("unknown message tag {0}")]
    UnknownTag(u16),
    /// The body does not decode.
    #[error("malformed body of message tag {0}")]
    Malformed(u16),
}

/// Checks a length prefix before anything is allocated for it.
pub fn message_length(prefix: [u8; LENGTH_PREFIX]) -> Result<usize, WireError> {
    let length = u32::from_le_bytes(prefix) as usize;
    match length {
        0..2 => Err(WireError::Truncated),
        2..=MAX_MESSAGE => Ok(length),
        _ => Err(WireError::TooLong(length)),
    }
}

/// A family of tagged messages.
pub trait Message: Sized {
    /// Tag and body, without the length prefix.
    fn encode(&self) -> Vec<u8>;
    /// The reverse of [`Message::encode`].
    fn decode(bytes: &[u8]) -> Result<Self, WireError>;

    /// Length prefix, tag and body: what goes onto a stream.
    fn frame(&self) -> Vec<u8> {
        let body = self.encode();
        let mut out = Vec::with_capacity(LENGTH_PREFIX + body.len());
        out.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(&body);
        out
    }
}

fn encode_body<T: Serialize>(tag: u16, body: &T) -> Vec<u8> {
    // Plain structs of ours into a growing vector: postcard has nothing to refuse.
    postcard::to_extend(body, tag.to_le_bytes().to_vec()).unwrap_or_default()
}

fn decode_body<T: DeserializeOwned>(tag: u16, body: &[u8]) -> Result<T, WireError> {
    match postcard::take_from_bytes(body) {
        Ok((value, _added_by_a_newer_version)) => Ok(value),
        Err(_) => Err(WireError::Malformed(tag)),
    }
}

macro_rules! messages {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $tag:literal = $variant:ident($body:ty),)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum $name { $($(#[$vdoc])* $variant($body),)* }

        impl Message for $name {
            fn encode(&self) -> Vec<u8> {
                match self { $(Self::$variant(body) => encode_body($tag, body),)* }
            }
            fn decode(bytes: &[u8]) -> Result<Self, WireError> {
                let (tag, body) = bytes.split_first_chunk::<2>().ok_or(WireError::Truncated)?;
                match u16::from_le_bytes(*tag) {
                    $($tag => decode_body($tag, body).map(Self::$variant),)*
                    other => Err(WireError::UnknownTag(other)),
                }
            }
        }

        $(impl From<$body> for $name {
            fn from(body: $body) -> Self { Self::$variant(body) }
        })*
    };
}

// -- handshakes (ALPN_MESH, ALPN_JOIN, ALPN_MEDIA) ------------------------------------------------

messages! {
    /// The first messages on any connection, before anything else is believed.
    Handshake {
        /// Either side of a link or media connection: who I am and why you may believe it.
        1 = Hello(Hello),
        /// The connection is refused; it closes after this.
        2 = Refused(Refused),
        /// Newcomer to seed.
        3 = Join(Join),
        /// Seed to newcomer: welcome, already on disk here.
        4 = Admitted(Admitted),
        /// Either side of a link, after both hellos: I keep this connection as our link. What
        /// follows on the stream are [`LinkMessage`]s.
        5 = Keep(Keep),
    }
}

/// The first message of each side. Its sender's TLS key must be that of `chain[0]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The mesh the sender belongs to.
    pub mesh: MeshId,
    /// The sender's admission and those above it, up to the founder.
    pub chain: Chain,
    /// The sender's boot.
    pub boot: Boot,
    /// The sender's name.
    pub name: String,
    /// Addresses of the sender, `host:port`, best first.
    pub addrs: Vec<String>,
    /// Software version, for people.
    pub version: String,
}

/// Why a connection is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// What, why, and what to do next, for people.
    pub reason: String,
}

/// Says that the sender keeps a connection as the link; `net` decides between two by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    /// How many connections the sender has kept in this boot, this one included: of two that
    /// arrive, the higher was said later.
    pub order: u64,
}

/// A newcomer's proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// The invitation from the string.
    pub invite: Invite,
    /// Signature by the invitation's key over [`join_statement`].
    pub proof: Vec<u8>,
}

/// The seed's answer to [`Join`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {
    /// Every admission that the seed knows, the newcomer's own included.
    pub admissions: Vec<Admission>,
    /// Members to connect to: id and addresses.
    pub members: Vec<(NodeId, Vec<String>)>,
}

/// What a newcomer signs with the invitation's key: bound to this TLS session, so that it can
/// neither be replayed nor relayed, and to the newcomer's own key.
pub fn join_statement(exporter: &[u8; 32], newcomer: &crate::admission::PublicKey) -> Vec<u8> {
    [b"roost-join/1".as_slice(), exporter, newcomer].concat()
}

/// Label of the TLS exporter that [`join_statement`] binds (RFC 8446 §7.5), 32 bytes.
pub const JOIN_EXPORTER: &[u8] = b"EXPERIMENTAL roost join";

// -- links (ALPN_MESH), control stream and requests ------------------------------------------------

messages! {
    /// What members say on the ordered stream of a link.
    LinkMessage {
        /// Full membership state, pushed and pulled.
        1 = Members(MemberState),
        /// How far the sender has the directory of every origin.
        2 = DirectoryDigest(directory::Digest),
        /// A change of the directory.
        3 = DirectoryDelta(directory::Delta),
        /// Admissions that the receiver may lack.
        4 = Admissions(Admissions),
        /// A hash of all admissions the sender knows; whoever differs answers with its own.
        5 = AdmissionDigest(AdmissionDigest),
        /// This link is going away on purpose.
        6 = Goodbye(Goodbye),
    }
}

/// foca's view, opaque to everything but `membership`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberState {
    /// Encoded member list.
    pub bytes: Vec<u8>,
    /// The sender wants the receiver's state in return.
    pub reply: bool,
}

/// A batch of admissions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admissions(pub Vec<Admission>);

/// The sender leaves or stops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goodbye {
    /// For people.
    pub reason: String,
}

messages! {
    /// A question of one node to another, on a stream of its own.
    Ask {
        /// Set up a browser's leg at the receiver.
        1 = Offer(Offer),
        /// Who watches at the receiver.
        2 = Viewers(AskViewers),
    }
}

messages! {
    /// The answer to an [`Ask`].
    Answer {
        /// To an offer that was accepted.
        1 = Sdp(SdpAnswer),
        /// To anything that could not be done.
        2 = Failed(Failed),
        /// To [`Ask::Viewers`]: JSON as the API shows it.
        3 = Viewers(ViewerList),
    }
}

/// A browser's offer for a leg at the receiving node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The stream.
    pub encoder: EncoderId,
    /// SDP offer as the browser made it.
    pub sdp: String,
    /// A media-less standby leg: silent until the page says `play`.
    pub warm: bool,
    /// Who the viewer is, as `authorise` at the first node found.
    pub principal: String,
}

/// The answer to an [`Offer`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SdpAnswer {
    /// SDP answer, all candidates in it.
    pub sdp: String,
    /// Unguessable id of the leg at that node.
    pub leg: String,
}

/// Why something could not be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// HTTP status that fits.
    pub status: u16,
    /// What, why, and what to do next.
    pub reason: String,
    /// Seconds after which trying again makes sense.
    pub retry_after: Option<u32>,
}

/// Asks who watches what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskViewers {
    /// Only this encoder.
    pub encoder: Option<EncoderId>,
}

/// Viewers of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewerList {
    /// JSON array.
    pub json: String,
}

// -- media connections between members (ALPN_MEDIA) -----------------------------------------------

messages! {
    /// What a relaying node says to the node it takes a stream from, and back.
    MediaMessage {
        /// Send this stream on this flow.
        1 = Subscribe(Subscribe),
        /// Stop a flow.
        2 = Unsubscribe(Unsubscribe),
        /// The subscriber needs a keyframe.
        3 = Keyframe(FlowRef),
        /// The sender has nothing on this flow (any more).
        4 = Ended(Ended),
        /// How many viewers the flow feeds at the subscriber.
        5 = FlowViewers(FlowViewers),
    }
}

/// Asks for a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribe {
    /// Which stream.
    pub encoder: EncoderId,
    /// Flow id of the datagrams, chosen by the subscriber, never 0.
    pub flow: u32,
    /// Nodes that the stream already passed on the subscriber's side, itself first: no loops.
    pub hops: Vec<NodeId>,
    /// Viewers behind this subscription.
    pub viewers: u32,
}

/// Names a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRef {
    /// Flow id.
    pub flow: u32,
}

/// Ends a flow from the subscriber's side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsubscribe {
    /// Flow id.
    pub flow: u32,
}

/// Ends a flow from the sender's side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Flow id.
    pub flow: u32,
    /// For people and logs.
    pub reason: String,
}

/// A subscriber's number of viewers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowViewers {
    /// Flow id.
    pub flow: u32,
    /// Viewers at the subscriber, of browsers and native ones.
    pub viewers: u32,
}

// -- native clients (ALPN_CLIENT) -----------------------------------------------------------------

messages! {
    /// What a client says to a node.
    ClientMessage {
        /// First message: who I am. Sent only after the node's own [`ServerHello`] was verified.
        1 = Hello(ClientHello),
        /// An agent claims a place for its encoder.
        2 = Register(Register),
        /// The agent's source changed.
        3 = Source(directory::SourceState),
        /// A viewer wants a stream.
        4 = Watch(Watch),
        /// A viewer wants it no more.
        5 = Unwatch(Unwatch),
        /// A viewer needs a keyframe.
        6 = Keyframe(KeyframeRequest),
        /// The answer to [`NodeMessage::Confirm`].
        7 = Confirmed(Confirm),
        /// Where is this stream? Answered by [`NodeMessage::Stream`], now and at every change.
        8 = Follow(Follow),
        /// Leaving on purpose.
        9 = Goodbye(Goodbye),
        /// An agent cannot reach the next that its home chose.
        10 = NextUnreachable(NextUnreachable),
    }
}

messages! {
    /// What a node says to a client.
    NodeMessage {
        /// First message of the node: who it is and why the client may believe it.
        1 = Hello(ServerHello),
        /// The client is in.
        2 = Welcome(Welcome),
        /// The peer list changed.
        3 = Peers(PeerList),
        /// To an agent: where to register.
        4 = Assign(Assign),
        /// To an agent: the registration holds.
        5 = Registered(Registered),
        /// To an agent: the registration is refused.
        6 = Rejected(Rejected),
        /// To an agent: whether anyone watches.
        7 = Demand(Demand),
        /// To an agent: a keyframe is needed.
        8 = Keyframe(Keyframe),
        /// To an agent: are you still mine? Asked by a node that stood still.
        9 = Confirm(Confirm),
        /// To a viewer: where the stream is.
        10 = Stream(StreamPlace),
        /// To a viewer: media will not come, and why.
        11 = Failed(Failed),
        /// The node will go; use another.
        12 = Goodbye(Goodbye),
    }
}

/// A client's first message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientHello {
    /// `roost encode`, `roost view`, ...; for people.
    pub agent: String,
    /// Software version, for people.
    pub version: String,
    /// Credential from an enrolment string.
    pub credential: Option<String>,
}

/// A node's first message to a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerHello {
    /// The mesh.
    pub mesh: MeshId,
    /// The node's admission and those above it; its TLS key must be that of `chain[0]`.
    pub chain: Chain,
    /// The node's name.
    pub name: String,
}

/// The client may stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// All nodes it may go to.
    pub peers: PeerList,
}

/// The peer list that clients keep.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PeerList {
    /// Live nodes first.
    pub nodes: Vec<Peer>,
}

/// One node as clients know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Which node.
    pub node: NodeId,
    /// Its label.
    pub name: String,
    /// `host:port`, best first.
    pub addrs: Vec<String>,
    /// Believed alive by the node that made the list.
    pub up: bool,
}

/// What an agent asks of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// Tell me where to go.
    Ask,
    /// Be my home.
    Home,
    /// Be ready to become my home.
    Next,
    /// Take my media as well, for viewers that cannot reach home through the mesh.
    Also,
}

/// An agent's claim for its encoder at this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// Which encoder.
    pub encoder: EncoderId,
    /// Its name.
    pub name: String,
    /// What is asked.
    pub role: Role,
    /// The agent's epoch; for [`Role::Home`] above everything it has seen.
    pub epoch: Epoch,
    /// Its source.
    pub source: directory::SourceState,
    /// The home it has at present, if this message is not to that home.
    pub home: Option<NodeId>,
}

/// Where an agent should go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assign {
    /// Register here.
    pub home: NodeId,
    /// Keep a warm session here.
    pub next: Option<NodeId>,
    /// The next epoch must be above this.
    pub floor: Epoch,
    /// Why, for people.
    pub reason: String,
}

/// A registration that holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// As claimed.
    pub role: Role,
    /// Under this epoch.
    pub epoch: Epoch,
    /// From a home: where to keep the warm session.
    pub next: Option<NodeId>,
}

/// A registration that does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// As claimed.
    pub role: Role,
    /// The highest epoch seen for this encoder.
    pub floor: Epoch,
    /// Another agent holds the name: trying again will not help until it is gone.
    pub name_taken: bool,
    /// What, why, and what to do next.
    pub reason: String,
}

/// Asks home for another next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextUnreachable {
    /// The node that did not answer the agent.
    pub node: NodeId,
}

/// Whether anyone watches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// Somebody watches here. From home: send. From next: somebody looks for the stream here, so
    /// make sure that home is alive.
    pub watched: bool,
    /// From next: this node has viewers and no path to home; send here, too.
    pub also: bool,
    /// Viewers, for people.
    pub viewers: u32,
}

/// Asks an agent for a keyframe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keyframe {}

/// Proof of life after a stall.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirm {
    /// Echoed by the answer.
    pub nonce: u64,
    /// In the answer: this node is home under this epoch; `None` if it is not (any more).
    pub epoch: Option<Epoch>,
}

/// A viewer's wish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// Which stream.
    pub encoder: EncoderId,
    /// Serve it here whatever the directory says: by relay if need be.
    pub stay: bool,
}

/// The end of a viewer's wish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unwatch {
    /// Which stream.
    pub encoder: EncoderId,
}

/// A viewer's decoder lost its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyframeRequest {
    /// Which stream.
    pub encoder: EncoderId,
}

/// A viewer asks for a stream by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follow {
    /// The encoder's name.
    pub name: String,
}

/// Where a stream is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamPlace {
    /// The name that was asked for.
    pub name: String,
    /// The encoder, if any node knows it.
    pub encoder: Option<EncoderId>,
    /// Its home.
    pub home: Option<NodeId>,
    /// Its next.
    pub next: Option<NodeId>,
    /// Under this epoch.
    pub epoch: Epoch,
    /// Its source.
    pub source: Option<directory::SourceState>,
}

messages! {
    /// A native client's request to the HTTP API, on a stream of its own: the same routes, the
    /// same fields, without a web certificate.
    ApiMessage {
        /// Client to node.
        1 = Request(ApiRequest),
        /// Node to client.
        2 = Response(ApiResponse),
    }
}

/// A request to the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiRequest {
    /// `GET`, `POST`, ...
    pub method: String,
    /// Path and query.
    pub path: String,
    /// JSON, or empty.
    pub body: Vec<u8>,
}

/// The API's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiResponse {
    /// HTTP status.
    pub status: u16,
    /// JSON.
    pub body: Vec<u8>,
}

// -- datagrams of clients -------------------------------------------------------------------------

/// Flow id of heartbeats.
pub const FLOW_HEARTBEAT: u32 = 0;
/// Flow id of a native client's one video.
pub const FLOW_VIDEO: u32 = 1;

/// A heartbeat on flow 0 of a native client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heartbeat {
    /// Client to node.
    Ping(u64),
    /// Node to client, the same number.
    Pong(u64),
}

impl Heartbeat {
    /// Datagram bytes, flow id included.
    pub fn encode(self) -> Vec<u8> {
        let (kind, number) = match self {
            Self::Ping(number) => (0, number),
            Self::Pong(number) => (1, number),
        };
        let mut out = vec![0, kind];
        out.extend_from_slice(&number.to_le_bytes());
        out
    }

    /// From a datagram whose flow id is already read off.
    pub fn decode(body: &[u8]) -> Option<Self> {
        let (kind, number) = body.split_first()?;
        let number = u64::from_le_bytes(number.try_into().ok()?);
        match kind {
            0 => Some(Self::Ping(number)),
            1 => Some(Self::Pong(number)),
            _ => None,
        }
    }
}

/// Writes a QUIC varint (RFC 9000 §16).
pub fn put_varint(value: u32, out: &mut Vec<u8>) {
    match value {
        0..0x40 => out.push(value as u8),
        0x40..0x4000 => out.extend_from_slice(&(value as u16 | 0x4000).to_be_bytes()),
        0x4000..0x4000_0000 => out.extend_from_slice(&(value | 0x8000_0000).to_be_bytes()),
        _ => out.extend_from_slice(&(u64::from(value) | 0xc000_0000_0000_0000).to_be_bytes()),
    }
}

/// Reads a QUIC varint; `None` if truncated or over 32 bits.
pub fn take_varint(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let first = *bytes.first()?;
    let length = 1usize << (first >> 6);
    let (head, rest) = bytes.split_at_checked(length)?;
    let mut value = u64::from(first & 0x3f);
    for byte in &head[1..] {
        value = value << 8 | u64::from(*byte);
    }
    Some((u32::try_from(value).ok()?, rest))
}

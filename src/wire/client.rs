//! What native clients and nodes say to each other.

use serde::{Deserialize, Deserializer, Serialize};

use super::Failed;
use super::link::Goodbye;
use super::{Message, WireError, decode_body, encode_body, messages};
use crate::admission::{Chain, Statements};
use crate::directory;
use crate::grow::growing;
use crate::id::{EncoderId, Epoch, MeshId, NodeId};

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
        /// An agent was told to move and could not; it is at home where it was.
        11 = Stayed(Stayed),
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
        /// To an agent, from its home: register at another node, and stay until that has you.
        13 = Move(Move),
    }
}

/// A client's first message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientHello {
    /// `roost encode`, `roost view`, ...; for people.
    pub agent: String,
    /// Software version, for people.
    pub version: String,
    /// Of an enrolment string, a session that was logged in to, or an encoder's stream key.
    pub credential: Option<String>,
    /// Wants the API only: without a credential it is let in as nobody, who may log in.
    pub only_api: bool,
}

/// A node's first message to a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerHello {
    /// The mesh.
    pub mesh: MeshId,
    /// The node's admission and those above it; its TLS key must be that of `chain[0]`, or one
    /// that it was changed to.
    pub chain: Chain,
    /// Changes of the keys of nodes in the chain.
    pub more: Statements,
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

growing! {
    /// One node as clients know it.
    #[derive(Debug, Clone, PartialEq, Eq)]
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
    /// With [`Role::Home`] after a home was lost: milliseconds since that was heard last. Absent
    /// in messages of older agents.
    #[serde(deserialize_with = "appended")]
    pub lost_ms: Option<u32>,
    /// With [`Role::Home`]: why it comes here, for people. Absent in messages of older agents.
    #[serde(deserialize_with = "appended")]
    pub why: Option<String>,
}

/// A field that was appended to a message: one that ends before it does not say.
fn appended<'de, T, D>(source: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Ok(Option::deserialize(source).unwrap_or_default())
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
    /// Seconds after which trying again makes sense: nobody has room before. Absent in messages of
    /// older nodes.
    #[serde(deserialize_with = "appended")]
    pub retry_after: Option<u32>,
}

/// Asks home for another next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextUnreachable {
    /// The node that did not answer the agent.
    pub node: NodeId,
}

/// Asks an agent to go elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Its new home.
    pub to: NodeId,
    /// Why, for people.
    pub reason: String,
}

/// An agent did not get to where it was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stayed {
    /// Where that was.
    pub to: NodeId,
    /// Why not.
    pub reason: String,
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

impl StreamPlace {
    /// Whether this counts and not `other`, which was said before: of one encoder the higher
    /// epoch, then whoever knows a home; of two encoders the one that has a home; and any encoder
    /// instead of none.
    pub fn overrides(&self, other: &Self) -> bool {
        if self.encoder == other.encoder {
            return (self.epoch, self.home.is_some()) >= (other.epoch, other.home.is_some());
        }
        let worth = |place: &Self| (place.encoder.is_some(), place.home.is_some());
        worth(self) >= worth(other)
    }
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

/// Most headers of a request or an answer: a browser sends about 20.
pub const API_HEADERS_MAX: usize = 32;

/// Most bytes of names and values of the headers of a request or an answer, as over HTTP.
pub const API_HEADER_BYTES_MAX: usize = 16 * 1024;

/// HTTP headers, names in lower case.
pub type ApiHeaders = Vec<(String, String)>;

/// A request to the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiRequest {
    /// `GET`, `POST`, ...
    pub method: String,
    /// Path and query.
    pub path: String,
    /// At most [`API_HEADERS_MAX`], of [`API_HEADER_BYTES_MAX`] bytes together.
    pub headers: ApiHeaders,
    /// JSON, or empty.
    pub body: Vec<u8>,
}

/// The API's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiResponse {
    /// HTTP status.
    pub status: u16,
    /// Within the same bounds.
    pub headers: ApiHeaders,
    /// JSON.
    pub body: Vec<u8>,
}

/// Whether headers are within the bounds.
pub fn api_headers_fit(headers: &ApiHeaders) -> bool {
    let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    headers.len() <= API_HEADERS_MAX && bytes <= API_HEADER_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_of_an_older_agent_lacks_what_was_appended_and_is_understood() {
        let register = Register {
            encoder: EncoderId([3; 16]),
            name: "cam".into(),
            role: Role::Home,
            epoch: Epoch { counter: 1, instance: 2 },
            source: directory::SourceState::Ready,
            home: Some(NodeId([4; 16])),
            lost_ms: Some(300),
            why: Some("ranked first".into()),
        };
        let bytes = ClientMessage::Register(register.clone()).encode();
        assert_eq!(
            ClientMessage::decode(&bytes),
            Ok(ClientMessage::Register(register.clone())),
            "as it was said"
        );
        let silent = Register { lost_ms: None, why: None, ..register };
        let older = ClientMessage::Register(silent.clone()).encode();
        for appended in 1..=2 {
            let older = &older[..older.len() - appended];
            let read = ClientMessage::decode(older);
            assert_eq!(read, Ok(ClientMessage::Register(silent.clone())), "without {appended}");
        }
        let cut = &bytes[..bytes.len() - 1];
        assert!(ClientMessage::decode(cut).is_ok(), "half of what was appended harms nobody");
    }
}

//! What is said on media connections between members.

use serde::{Deserialize, Serialize};

use super::{Message, WireError, decode_body, encode_body, messages};
use crate::id::{EncoderId, NodeId};

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

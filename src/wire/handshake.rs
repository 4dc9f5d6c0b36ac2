//! The first messages on any connection, before anything else is believed.

use serde::{Deserialize, Serialize};

use super::{Message, WireError, decode_body, encode_body, messages};
use crate::admission::{Chain, Invite, Statements};
use crate::id::{Boot, MeshId, NodeId};

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
        /// follows on the stream are [`LinkMessage`](super::LinkMessage)s.
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
    /// What else the sender knows of members that decides who is one, as far as it fits: above all
    /// revocations. The receiver takes it in before it judges.
    pub more: Statements,
    /// The sender's wall clock, in milliseconds since 1970.
    pub wall: u64,
}

/// Why a connection is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// What, why, and what to do next, for people.
    pub reason: String,
    /// For a node that was a member: what it may not have heard of, as in [`Hello::more`].
    pub more: Statements,
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
    /// Every statement that the seed knows, the newcomer's admission included.
    pub statements: Statements,
    /// Members to connect to: id and addresses.
    pub members: Vec<(NodeId, Vec<String>)>,
    /// What nodes are or were called, dead ones and those that are out included.
    pub names: Vec<(NodeId, String)>,
}

/// What a newcomer signs with the invitation's key: bound to this TLS session, so that it can
/// neither be replayed nor relayed, and to the newcomer's own key.
pub fn join_statement(exporter: &[u8; 32], newcomer: &crate::admission::PublicKey) -> Vec<u8> {
    [b"roost-join/1".as_slice(), exporter, newcomer].concat()
}

/// Label of the TLS exporter that [`join_statement`] binds (RFC 8446 §7.5), 32 bytes.
pub const JOIN_EXPORTER: &[u8] = b"EXPERIMENTAL roost join";

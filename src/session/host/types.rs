//! What goes into and comes out of [`super::Host`].

use std::collections::BTreeSet;
use std::time::Duration;

use crate::access::{Principal, Rights};
use crate::admission::Roster;
use crate::directory::{Directory, SourceState};
use crate::id::{EncoderId, Epoch, NodeId, SessionId};
use crate::placement::Candidate;
use crate::session::host::{Cause, Order, Outcome};
use crate::time::Now;
use crate::wire::{NodeMessage, PeerList};

/// What the rest of the node knows at the moment of a call.
pub struct World<'a> {
    /// The moment.
    pub now: Now,
    /// Mesh time, in milliseconds since 1970: what expires is judged by it.
    pub time: u64,
    /// Who this is.
    pub me: NodeId,
    /// Where everything is.
    pub directory: &'a mut Directory,
    /// Who belongs to the mesh.
    pub roster: &'a Roster,
    /// Who may do what.
    pub rights: &'a Rights,
    /// Nodes believed alive, this one included.
    pub alive: &'a BTreeSet<NodeId>,
    /// Nodes with a working link.
    pub linked: &'a BTreeSet<NodeId>,
    /// The latest round trip of the link to a node, if it is known.
    pub trip: &'a dyn Fn(NodeId) -> Option<Duration>,
    /// Alive nodes that take encoders, with their load.
    pub candidates: &'a [Candidate],
    /// Alive nodes that are drained or cordoned: for want of any other, they do.
    pub reluctant: &'a [Candidate],
    /// What clients are told.
    pub peers: &'a PeerList,
}

/// Where a stream's frames come from at this node. `feed` changes with every change of route, so
/// that frames of an earlier one are told apart; `timeline` changes when sequence numbers and
/// timestamps start anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// Nowhere.
    None,
    /// The agent's own leg.
    Local {
        /// The agent's session.
        session: SessionId,
        /// Number of this feed.
        feed: u64,
        /// Of the agent's start.
        timeline: u64,
    },
    /// Another node.
    Relay {
        /// The node to subscribe at.
        via: NodeId,
        /// Number of this feed.
        feed: u64,
        /// Of the agent's start.
        timeline: u64,
    },
}

/// What the node's drivers are asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The client is who it says, by this name.
    Welcomed(SessionId, Principal),
    /// On the session's ordered stream.
    Send(SessionId, NodeMessage),
    /// The same on the ordered streams of several.
    Tell(Vec<SessionId>, NodeMessage),
    /// End the session.
    Close(SessionId, String),
    /// A stream's frames come from here now.
    Route(EncoderId, Route),
    /// Send this stream's frames to this session.
    Serve(SessionId, EncoderId),
    /// Stop sending them.
    Unserve(SessionId, EncoderId),
    /// Ask the node that a stream is relayed from for a keyframe.
    RelayKeyframe(EncoderId),
    /// What became of a move that was ordered.
    Moved(Order, Outcome),
    /// For people: what became of the encoder with this name.
    Note(EncoderId, String, Note),
}

/// A change of an encoder's state at this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// It is at home here.
    Home {
        /// Its agent's session.
        session: SessionId,
        /// Under this epoch.
        epoch: Epoch,
        /// The home that it had before, elsewhere.
        from: Option<NodeId>,
        /// How long that home had not been heard, if it was lost.
        lost: Option<Duration>,
    },
    /// Its picture came, went, or is one that browsers cannot play.
    Signal(SourceState),
    /// It was asked to go to another node, and this became of it.
    Moved(Order, Outcome),
    /// It is at home here no more, or its agent is gone: why, in words.
    Gone(String),
}

/// What happened since the node started.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    /// Messages of clients that did not decode.
    pub malformed: u64,
    /// Messages of clients with a tag unknown here.
    pub unknown_tags: u64,
    /// Clients turned away for lack of a credential.
    pub denied: u64,
    /// Clients turned away because the table is full.
    pub full: u64,
    /// Registrations refused.
    pub rejected: u64,
    /// What was asked for without the right to it.
    pub forbidden: u64,
    /// Sessions, streams and registrations that ended because rights changed.
    pub ended: u64,
    /// Claims given up because a higher epoch was seen.
    pub superseded: u64,
    /// Agents that were told by this node, at which they stand by, that nobody claims their encoder.
    pub unclaimed: u64,
    /// Encoders that became home here after another home was lost.
    pub adopted: u64,
    /// Times that this node stood still and asked its encoders again.
    pub stalls: u64,
    /// Encoders that went to another home because this node asked them to.
    pub moved: [u64; Cause::ALL.len()],
    /// Moves that were refused or came to nothing.
    pub moves_failed: u64,
    /// Keyframe requests passed on.
    pub keyframes: u64,
    /// Times that a stream was taken from its agent, since another node brought nothing of it.
    pub detours: u64,
}

impl Route {
    /// Whether both lead to the same place, whatever their feed numbers.
    pub(super) fn same_place(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::None, Self::None) => true,
            (
                Self::Local { session: a, timeline: x, .. },
                Self::Local { session: b, timeline: y, .. },
            ) => a == b && x == y,
            (Self::Relay { via: a, timeline: x, .. }, Self::Relay { via: b, timeline: y, .. }) => {
                a == b && x == y
            }
            _ => false,
        }
    }
}

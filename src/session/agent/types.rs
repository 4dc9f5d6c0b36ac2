//! What goes into and comes out of [`super::Agent`].

use std::collections::BTreeSet;
use std::time::Duration;

use crate::directory::SourceState;
use crate::id::{EncoderId, Epoch, NodeId};
use crate::session::leg::LegId;
use crate::wire::PeerList;

/// What an agent is born with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Whose agent it is.
    pub encoder: EncoderId,
    /// The encoder's name.
    pub name: String,
    /// Random per start.
    pub instance: u64,
    /// No epoch of an earlier start is above this.
    pub lease: u64,
    /// Addresses from the command line.
    pub targets: Vec<String>,
    /// Peer list of an earlier start.
    pub peers: PeerList,
    /// Seed of this start's randomness.
    pub seed: u64,
}

/// What happens to an agent.
#[derive(Debug, Clone)]
pub enum Event {
    /// `next_wake` came.
    Wake,
    /// A dial worked: the node is verified and was greeted.
    Connected {
        /// As dialled.
        leg: LegId,
        /// Who it is.
        node: NodeId,
    },
    /// A dial failed or a connection ended.
    Closed {
        /// Which.
        leg: LegId,
        /// Why, in words.
        reason: String,
    },
    /// On the ordered stream of a leg.
    Message(LegId, Vec<u8>),
    /// A datagram on flow 0, flow id read off.
    Datagram(LegId, Vec<u8>),
    /// The source changed.
    Source(SourceState),
    /// Epochs up to this are on disk.
    Leased(u64),
    /// Stop.
    Leave,
}

/// What the driver is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Connect.
    Dial {
        /// Its number.
        leg: LegId,
        /// Whom to expect.
        node: Option<NodeId>,
        /// Where.
        addr: String,
    },
    /// End a leg, whatever its state.
    Close(LegId),
    /// On the ordered stream of a leg.
    Send(LegId, Vec<u8>),
    /// In a datagram of a leg.
    Datagram(LegId, Vec<u8>),
    /// Send media on exactly these legs; one that is new gets the group of pictures so far first.
    Media(BTreeSet<LegId>),
    /// A keyframe is wanted.
    Keyframe,
    /// Write down: no epoch above this was used yet.
    Lease(u64),
    /// Write down the peer list.
    Peers(PeerList),
    /// For people.
    Note(Note),
}

/// What people are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// This node is home.
    Home {
        /// Which.
        node: NodeId,
        /// Its label.
        name: String,
        /// Under this epoch.
        epoch: Epoch,
        /// Why it moved, if it did.
        moved: Option<String>,
        /// From the last sign of the old home to the answer of the new one.
        healed: Option<Duration>,
    },
    /// This node is next.
    Next {
        /// Which.
        node: NodeId,
        /// Its label.
        name: String,
    },
    /// Nobody to talk to.
    Seeking(String),
    /// Refused, in words.
    Refused(String),
    /// It was to move to this node, and stays.
    Stayed {
        /// Label of the node.
        name: String,
        /// Why, in words.
        reason: String,
    },
    /// Another start of the same encoder took over; this one is idle until it is gone.
    Superseded,
    /// Somebody watches, or nobody does.
    Watched(bool),
}

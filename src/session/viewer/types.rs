//! What goes into and comes out of [`super::Viewer`].

use crate::id::NodeId;
use crate::session::leg::LegId;
use crate::wire::{PeerList, StreamPlace};

/// What a viewer is born with.
#[derive(Debug, Clone)]
pub struct Config {
    /// The stream's name.
    pub name: String,
    /// Watch at whichever node answers first, by relay if need be, instead of being led home.
    pub stay: bool,
    /// Addresses from the command line.
    pub targets: Vec<String>,
    /// Peer list of an earlier start.
    pub peers: PeerList,
    /// Seed of this start's randomness.
    pub seed: u64,
}

/// What happens to a viewer.
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
    /// A frame came that no other leg had brought before.
    Fresh(LegId),
    /// What is shown lacks something: said with each frame until a keyframe makes it whole.
    KeyframeWanted,
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
    /// Write down the peer list.
    Peers(PeerList),
    /// For people.
    Note(Note),
}

/// What people are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The picture comes from this node now.
    Via {
        /// Which.
        node: NodeId,
        /// Its label.
        name: String,
    },
    /// Where the stream is changed.
    Place(StreamPlace),
    /// No picture, and why.
    Waiting(String),
    /// Refused; trying again will not help.
    Refused(String),
}

/// What a viewer without a picture lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lacks {
    /// A node that answers.
    Node,
    /// An encoder of that name.
    Encoder,
    /// Only the picture; why, in words.
    Picture(String),
}

//! What goes into and comes out of [`super::Balance`], and what nodes say to each other.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::{EncoderId, NodeId};
use crate::placement::plan::{Seat, Unit, Why, Wish};

/// Encoders that go together at most: a room of more stays where it is.
pub const TOGETHER_MAX: usize = 256;

/// Asks another node to take encoders that are at home at the asker: all of them or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Comes back with the answer.
    pub ticket: u64,
    /// Which.
    pub encoders: Vec<EncoderId>,
    /// Encoders at home at the asker, without those that it has given away or offered before.
    pub count: u32,
    /// Its weight, see [`weight_of`](crate::placement::plan::weight_of).
    pub weight: u64,
    /// It is only about even counts: the receiver takes nothing that makes the two less even.
    pub to_even: bool,
}

/// Answers an [`Ask`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Of the question.
    pub ticket: u64,
    /// Why it does not take them.
    pub refused: Option<Refusal>,
    /// Encoders at home there, and promised before.
    pub count: u32,
}

/// What was granted does not come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Of the question.
    pub ticket: u64,
    /// Which.
    pub encoders: Vec<EncoderId>,
}

/// Why a node does not take encoders. Written as a number: one of a newer version is another
/// reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "u32", into = "u32")]
pub enum Refusal {
    /// For another reason.
    Other,
    /// Counts would not become more even.
    Uneven,
    /// It is at its limit.
    Full,
    /// It is drained or cordoned.
    Closed,
    /// It declares no capacity.
    NoCapacity,
    /// It has promised too many others.
    Busy,
}

impl Refusal {
    /// Every one, in the order of [`Counters::refused`].
    pub const ALL: [Self; 6] =
        [Self::Other, Self::Uneven, Self::Full, Self::Closed, Self::NoCapacity, Self::Busy];

    /// Its label in metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::Uneven => "uneven",
            Self::Full => "full",
            Self::Closed => "closed",
            Self::NoCapacity => "no_capacity",
            Self::Busy => "busy",
        }
    }
}

impl From<u32> for Refusal {
    fn from(number: u32) -> Self {
        let known = usize::try_from(number).ok().and_then(|at| Self::ALL.get(at));
        known.copied().unwrap_or(Self::Other)
    }
}

impl From<Refusal> for u32 {
    fn from(refusal: Refusal) -> Self {
        refusal as Self
    }
}

/// What the rest of the node knows at the moment of a call.
pub struct World<'a> {
    /// Who this is.
    pub me: NodeId,
    /// Encoders at home here.
    pub count: u32,
    /// Nodes that live.
    pub seats: &'a [Seat],
    /// Encoders that a node says are at home there.
    pub load: &'a dyn Fn(NodeId) -> u32,
    /// Whether any encoder here is in a room or wished anywhere.
    pub steered: &'a dyn Fn() -> bool,
    /// Nodes with a working link.
    pub linked: &'a BTreeSet<NodeId>,
    /// Whether an encoder is at home here, nobody watches it, and it can be asked to move.
    pub may_go: &'a dyn Fn(EncoderId) -> bool,
}

/// What happens.
#[derive(Debug)]
pub enum Event {
    /// Nodes that live, or what they are willing to do, may have changed.
    Nodes,
    /// Pools or the labels of nodes changed.
    Unsettled,
    /// The mesh wants another stability period.
    Period(Duration),
    /// Encoders came, went, or are watched or wished elsewhere since.
    Changed,
    /// The answer to [`Effect::Look`].
    Look {
        /// All encoders.
        units: Vec<Unit>,
        /// What they refer to.
        wishes: Vec<Wish>,
    },
    /// Another node wants to give encoders away.
    Asked(NodeId, Ask),
    /// Another node answers.
    Answered(NodeId, Answer),
    /// What another node was promised does not come.
    Released(NodeId, Release),
    /// An encoder is at home here.
    Home(EncoderId),
    /// What became of [`Effect::Move`].
    Moved {
        /// Which.
        encoder: EncoderId,
        /// It is at home there.
        done: bool,
    },
    /// The answer to [`Effect::Spread`]: so many were given another next.
    Spread(usize),
    /// `next_wake` came.
    Wake,
}

/// What should happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Say what there is: [`Event::Look`].
    Look,
    /// Give some of those that stay another next, so that each other node stands by for as many:
    /// [`Event::Spread`].
    Spread,
    /// So many encoders are to leave this node.
    Planned(usize),
    /// Ask another node.
    Ask(NodeId, Ask),
    /// Answer another node.
    Answer(NodeId, Answer),
    /// Say that nothing comes.
    Release(NodeId, Release),
    /// Send an encoder away.
    Move {
        /// Which.
        encoder: EncoderId,
        /// Where to.
        to: NodeId,
        /// Why, with the counts by which it was granted.
        why: Why,
    },
}

/// Encoders, since the node started, by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Another node was asked to take it.
    pub asked: u64,
    /// It agreed.
    pub granted: u64,
    /// It did not, in the order of [`Refusal::ALL`].
    pub refused: [u64; Refusal::ALL.len()],
    /// It did not answer.
    pub unanswered: u64,
    /// Planned, and not possible any more: it is watched now, has gone, there is no link, or nodes
    /// changed meanwhile.
    pub skipped: u64,
    /// This node agreed to take it.
    pub promised: u64,
    /// This node did not.
    pub declined: u64,
    /// It came.
    pub arrived: u64,
}

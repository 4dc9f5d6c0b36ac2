//! What the directory holds, says and counts.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize};

use crate::grow::growing;
use crate::id::{Boot, EncoderId, Epoch, NAME_MAX, NodeId};

/// Most entries of one origin: a full replacement with every field at its longest (6.9 MB) still
/// fits into one wire message of 8 MiB.
pub const ENTRIES_MAX: usize = 10_000;
/// Tombstones kept per origin. A node that missed more removals gets everything anew.
pub const TOMBSTONES_MAX: usize = 4_096;
/// Entries in one delta (a head of a full replacement may hold more): some 100 KB, so that
/// other messages of the link get between.
pub const DELTA_ENTRIES: usize = 1_000;
/// Most origins: twice the largest mesh that is simulated.
pub const ORIGINS_MAX: usize = 2_048;
/// Most addresses in a header: two interfaces, two families, and a forwarded port for each.
pub const ADDRS_MAX: usize = 8;
/// Longest address in bytes: the longest DNS name, a colon, a port.
pub const ADDR_MAX: usize = 259;
/// Longest [`Entry::why`] in bytes: as much as a full directory has room for in one message.
pub const WHY_MAX: usize = 160;
/// Longest reason in a [`SourceState`] in bytes: one line for people.
pub const REASON_MAX: usize = 256;
/// The capacity of one processor: that of a node that measures none.
pub const PROCESSOR: u32 = 100;
/// The most that counts of a measured capacity: 1,024 processors, more than any machine has that
/// relays video. A false number draws no more than that.
pub const MEASURED_MAX: u32 = 1_024 * PROCESSOR;
/// Encoders whose highest epoch is remembered after nobody claims them: the entries of a full
/// mesh and a half, at some 5 MB.
pub const FLOORS_MAX: usize = 65_536;

growing! {
    /// What a node says of itself in the directory: small, and pushed at once when it changes.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    pub struct Header {
        /// Label for people.
        pub name: String,
        /// `host:port` under which clients and nodes reach it, best first.
        pub addrs: Vec<String>,
        /// Members it has no link to though they live, as far as it has said so: what it says is
        /// handed on to them. Those that it does not name it is taken to be linked to.
        pub lacking: BTreeSet<NodeId>,
        /// Hands over what it serves, and takes no new encoders.
        pub draining: bool,
        /// Takes no new encoders.
        pub cordoned: bool,
        /// Its declared capacity, in hundredths of a processor.
        pub capacity: Option<u32>,
        /// Takes so many encoders at most.
        pub limit: Option<u32>,
        /// Its capacity as it measures it, which counts if none is declared: a hundred for each
        /// processor that it may use.
        pub measured: u32,
    }
}

impl Header {
    /// Its capacity, in hundredths of a processor.
    pub fn size(&self) -> u32 {
        size(self.capacity, self.measured)
    }
}

/// A node's capacity, in hundredths of a processor: as declared, or else as measured.
pub fn size(declared: Option<u32>, measured: u32) -> u32 {
    declared.unwrap_or_else(|| measured.clamp(PROCESSOR, MEASURED_MAX))
}

/// What state an encoder's source is in. Written as a number and words: a state of a newer version
/// is shown as no signal, with its words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u32, String)", into = "(u32, String)")]
pub enum SourceState {
    /// Ready, sends when asked to.
    Ready,
    /// Registered but without a picture; the reason in words.
    NoSignal(String),
    /// Sends what native viewers can play and browsers cannot; the reason in words.
    NativeOnly(String),
}

impl From<(u32, String)> for SourceState {
    fn from((state, words): (u32, String)) -> Self {
        match state {
            0 => Self::Ready,
            2 => Self::NativeOnly(words),
            _ => Self::NoSignal(words),
        }
    }
}

impl From<SourceState> for (u32, String) {
    fn from(state: SourceState) -> Self {
        match state {
            SourceState::Ready => (0, String::new()),
            SourceState::NoSignal(words) => (1, words),
            SourceState::NativeOnly(words) => (2, words),
        }
    }
}

growing! {
    /// A node's claim to be an encoder's home.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Entry {
        /// The encoder's name, a label.
        pub name: String,
        /// Which claim is newer.
        pub epoch: Epoch,
        /// Where it goes when this home dies.
        pub next: Option<NodeId>,
        /// Its source.
        pub source: SourceState,
        /// Viewers of this stream at this home, relays of other nodes counted with their viewers.
        pub viewers: u32,
        /// Why it is here, for people.
        pub why: String,
        /// It cannot be asked to move.
        pub stays: bool,
    }
}

/// How far a reader has each origin: (boot, sequence).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Digest {
    /// Those that it knows.
    pub of: BTreeMap<NodeId, (Boot, u64)>,
    /// It asks for no others. Absent in messages of older nodes, which answer with all they have.
    #[serde(deserialize_with = "appended")]
    pub only: bool,
}

/// A flag that was appended to a message: one that ends before it does not set it.
fn appended<'de, D: Deserializer<'de>>(source: D) -> Result<bool, D::Error> {
    Ok(bool::deserialize(source).unwrap_or_default())
}

/// A change to one origin's part of the directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// Whose entries.
    pub origin: NodeId,
    /// Which start of the origin numbered them.
    pub boot: Boot,
    /// Applies to a reader that has at least this; 0 replaces everything of the origin.
    pub from: u64,
    /// What the reader has afterwards.
    pub to: u64,
    /// The header, if it changed.
    pub header: Option<Header>,
    /// New or changed entries; `None` removes.
    pub entries: Vec<(EncoderId, Option<Entry>)>,
}

/// The highest epoch that a node has seen for an encoder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    /// Which.
    pub encoder: EncoderId,
    /// Claims below it are void.
    pub epoch: Epoch,
}

/// What happens to a [`Directory`](super::Directory).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A link to this node works.
    Linked(NodeId),
    /// The link to this node is gone.
    Unlinked(NodeId),
    /// A linked node said how far it has everything.
    Digest {
        /// Who.
        from: NodeId,
        /// What it has.
        digest: Digest,
    },
    /// A linked node sent a change, of its own or of another origin.
    Delta {
        /// Who sent it.
        from: NodeId,
        /// The change.
        delta: Delta,
    },
    /// The time of [`Directory::next_wake`](super::Directory::next_wake) has come.
    Wake,
}

/// What a [`Directory`](super::Directory) wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send a digest over a link.
    Digest {
        /// To this node.
        to: NodeId,
        /// How far everything is known here, or what is asked for.
        digest: Digest,
    },
    /// Send a delta over links.
    Delta {
        /// To these nodes.
        to: Vec<NodeId>,
        /// The change.
        delta: Delta,
    },
    /// Tell a linked node that its claim is void, which nobody else can: whoever superseded it is
    /// gone.
    Floor {
        /// Whose claim it is.
        to: NodeId,
        /// What is known here.
        floor: Floor,
    },
    /// Some node's claim to this encoder changed or went, this node's own included.
    Changed(EncoderId),
    /// This node's header changed, this node's own included.
    HeaderChanged(NodeId),
    /// Nothing of this node's header changed but the links that it lacks.
    LinksChanged(NodeId),
}

/// What a [`Directory`](super::Directory) counted since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Deltas that were written.
    pub applied: u64,
    /// Deltas that brought nothing new.
    pub duplicates: u64,
    /// Deltas that did not fit what is known and were answered with a digest.
    pub gaps: u64,
    /// Deltas of an earlier boot of their origin, answered with the present one.
    pub stale: u64,
    /// Deltas of a forgotten node.
    pub forgotten: u64,
    /// Deltas, digests and own changes refused because they are over a limit or malformed.
    pub refused: u64,
    /// Deltas handed on for an origin that has no link to the receiver.
    pub forwarded: u64,
    /// Digests sent.
    pub digests: u64,
    /// Times that a later self was heard of: this node's folder was put back.
    pub overtaken: u64,
    /// Times that a node was told that its claim is void.
    pub floors_told: u64,
    /// Epoch floors dropped to stay below [`FLOORS_MAX`].
    pub floors_dropped: u64,
}

/// Whether a header is within its limits.
pub(super) fn header_fits(header: &Header) -> bool {
    header.name.len() <= NAME_MAX
        && header.addrs.len() <= ADDRS_MAX
        && header.addrs.iter().all(|addr| addr.len() <= ADDR_MAX)
        && header.lacking.len() <= ORIGINS_MAX
}

/// Whether an entry is within its limits.
pub(super) fn entry_fits(entry: &Entry) -> bool {
    entry.name.len() <= NAME_MAX
        && entry.why.len() <= WHY_MAX
        && entry.epoch.plausible()
        && match &entry.source {
            SourceState::Ready => true,
            SourceState::NoSignal(reason) | SourceState::NativeOnly(reason) => {
                reason.len() <= REASON_MAX
            }
        }
}

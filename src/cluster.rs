//! What nodes say of themselves, and what this node believes of all.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::directory::{ENTRIES_MAX, PROCESSOR, size};
use crate::id::{Boot, EncoderId, Epoch, InviteId, MeshId, NodeId};
use crate::placement::{Candidate, Media, Survivability};

/// What a node says of itself, carried by chitchat: slow facts, each under a key of its own.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct NodeReport {
    /// Software version.
    pub version: String,
    /// Encoders at home here.
    pub encoders: u32,
    /// Streams that somebody takes from here.
    pub streams: u32,
    /// Who takes them: viewers, and other nodes for theirs.
    pub viewers: u32,
    /// Media sent, bits per second, averaged over a report.
    pub egress_bps: u64,
    /// This process's share of one core, 0.0 to cores.
    pub cpu: f64,
    /// Milliseconds of this node's wall clock when the report was made.
    pub wall: u64,
}

impl NodeReport {
    /// The media that it says it carries.
    pub fn media(&self) -> Media {
        let Self { streams, viewers, egress_bps, .. } = *self;
        Media { streams, viewers, egress_bps }
    }
}

/// Whether a node is there, as foca sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Liveness {
    /// Answers.
    Up,
    /// Does not answer; may still refute.
    Suspect,
    /// Declared dead.
    Down,
    /// Said goodbye.
    Left,
}

/// Everything this node believes, as the API and `roost status --json` show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterView {
    /// The mesh.
    pub mesh: MeshId,
    /// The node whose view this is.
    pub node: NodeId,
    /// Its label.
    pub name: String,
    /// Its boot.
    pub boot: Boot,
    /// Every admitted node, this one included, by name.
    pub nodes: Vec<NodeView>,
    /// Every known encoder, by name.
    pub encoders: Vec<EncoderView>,
    /// Nodes that were admitted and are no members any more.
    #[serde(default)]
    pub outcasts: Vec<OutcastView>,
    /// How many nodes can be lost; only for who sees the whole mesh.
    #[serde(default)]
    pub survivability: Option<Survivability>,
    /// What nodes were called that belong to it no more, nor are known to have: those of the mesh
    /// that a backup was made of.
    #[serde(skip)]
    pub former: BTreeMap<NodeId, String>,
}

impl ClusterView {
    /// The encoder with this name; of several, one that is not lost, and among those always the
    /// same.
    pub fn by_name(&self, name: &str) -> Option<&EncoderView> {
        let named = self.encoders.iter().filter(|encoder| encoder.name == name);
        named.min_by_key(|encoder| (encoder.state == EncoderState::Lost, encoder.id))
    }
}

/// One node in a [`ClusterView`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeView {
    /// Which.
    pub node: NodeId,
    /// Its label.
    pub name: String,
    /// foca's verdict.
    pub state: Liveness,
    /// `host:port`, best first.
    pub addrs: Vec<String>,
    /// A working link from the viewing node; true for itself.
    pub linked: bool,
    /// Smoothed round trip of that link.
    pub rtt_ms: Option<f64>,
    /// Hands over what it serves, and takes no new encoders.
    pub draining: bool,
    /// Takes no new encoders.
    #[serde(default)]
    pub cordoned: bool,
    /// Its declared capacity, in hundredths of a processor.
    #[serde(default)]
    pub capacity: Option<u32>,
    /// Its capacity as it measures it, which counts if none is declared.
    #[serde(default)]
    pub measured: Option<u32>,
    /// Takes so many encoders at most.
    #[serde(default)]
    pub limit: Option<u32>,
    /// Encoders at home there.
    pub encoders: u32,
    /// Viewers of those encoders.
    pub viewers: u32,
    /// Its last report, if any came.
    pub report: Option<NodeReport>,
    /// The public key that it shows, in hexadecimal.
    #[serde(default)]
    pub key: Option<String>,
    /// The member that admitted it; itself for the founder.
    #[serde(default)]
    pub admitted_by: Option<NodeId>,
    /// The invitation it came with.
    #[serde(default)]
    pub invite: Option<InviteId>,
    /// How far its clock is ahead of the mesh's, in milliseconds.
    #[serde(default)]
    pub clock_offset_ms: Option<i64>,
}

impl NodeView {
    /// Its capacity, in hundredths of a processor: as declared, or else as measured.
    pub fn size(&self) -> u32 {
        size(self.capacity, self.measured.unwrap_or_default())
    }

    /// As a taker of encoders.
    pub fn candidate(&self) -> Candidate {
        let most = ENTRIES_MAX as u32;
        Candidate {
            node: self.node,
            weight: f64::from(self.size()) / f64::from(PROCESSOR),
            load: self.encoders,
            media: self.report.as_ref().map(NodeReport::media).unwrap_or_default(),
            limit: self.limit.unwrap_or(most).min(most),
        }
    }
}

/// A node that was admitted and is no member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutcastView {
    /// Which.
    pub node: NodeId,
    /// What it was called.
    pub name: Option<String>,
    /// Why, and what to do.
    pub why: String,
    /// Whose revocations of it stand.
    pub revoked_by: Vec<NodeId>,
    /// Their reasons, in the same order.
    pub reasons: Vec<String>,
    /// The member that admitted it, as far as that counts.
    pub admitted_by: Option<NodeId>,
    /// The invitation it came with.
    pub invite: Option<InviteId>,
}

/// One encoder in a [`ClusterView`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EncoderView {
    /// Which.
    pub id: EncoderId,
    /// Its label.
    pub name: String,
    /// Where it is; `None` while no live node claims it.
    pub home: Option<NodeId>,
    /// Label of home.
    pub home_name: Option<String>,
    /// Where it goes when home dies.
    pub next: Option<NodeId>,
    /// Label of next.
    pub next_name: Option<String>,
    /// Under this epoch.
    pub epoch: Epoch,
    /// What it does.
    pub state: EncoderState,
    /// Why there is no signal, or why browsers cannot play it.
    pub reason: Option<String>,
    /// Native viewers can play it, browsers cannot.
    #[serde(default)]
    pub native_only: bool,
    /// Why it is at home where it is, as said when it came there.
    #[serde(default)]
    pub why: Option<String>,
    /// Viewers anywhere.
    pub viewers: u32,
}

/// What an encoder does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EncoderState {
    /// Someone watches it.
    Live,
    /// Registered, nobody watches.
    Idle,
    /// Registered, its source gives no picture.
    NoSignal,
    /// Its last home is down and nobody else claims it yet.
    Lost,
}

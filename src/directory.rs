//! Which encoder is where: every node writes its own entries, everyone holds everyone's.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::id::{Boot, EncoderId, Epoch, NodeId};

/// What a node says of itself in the directory: small, and pushed at once when it changes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Header {
    /// Label for people.
    pub name: String,
    /// `host:port` under which clients and nodes reach it, best first.
    pub addrs: Vec<String>,
    /// Nodes it has a working link to.
    pub links: BTreeSet<NodeId>,
    /// Takes no new encoders.
    pub draining: bool,
}

/// What state an encoder's source is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceState {
    /// Ready, sends when asked to.
    Ready,
    /// Registered but without a picture; the reason in words.
    NoSignal(String),
}

/// A node's claim to be an encoder's home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// How far a reader has each origin: (boot, sequence).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Digest(pub BTreeMap<NodeId, (Boot, u64)>);

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

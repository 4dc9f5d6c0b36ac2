//! What the HTTP side needs from the node, and nothing else of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, RwLockReadGuard};
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use tokio::sync::watch;

pub use super::going::Going;
pub use crate::access::Principal;
use crate::access::Rights;
use crate::accounts::{Audit, AuditCursor, Key, Receipt, Record, Refusal, Write};
use crate::cluster::ClusterView;
use crate::id::{AccountId, ActorId, EncoderId, InviteId, NodeId, RecordId};
use crate::node::passwords::Passwords;
use crate::node::{Failovers, NotDone, RecordChanges};
use crate::placement::Demand;
use crate::webrtc::{Feed, WebRtc};
use crate::wire::{AskMove, Failed, Moved, Offer, SdpAnswer};

/// Why someone may not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// A credential was shown and is not good (403), as opposed to none (401).
    pub bad_credential: bool,
    /// What, why, and what to do next.
    pub reason: String,
}

/// What an invitation is asked to allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InviteTerms {
    /// How many may use it.
    pub uses: u32,
    /// For how long.
    pub lifetime: Duration,
    /// An enrolment string for clients of this domain, as opposed to an invitation for nodes.
    pub client: Option<RecordId>,
}

/// A string that lets somebody in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invited {
    /// The string.
    pub text: String,
    /// Of one for clients: which, and when it ends, in milliseconds of mesh time since 1970.
    pub enrolment: Option<(InviteId, u64)>,
}

/// A publisher's offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Which encoder it is.
    pub encoder: EncoderId,
    /// Its name.
    pub name: String,
    /// The offer.
    pub sdp: String,
    /// Who sends.
    pub principal: Principal,
    /// From where it was asked for.
    pub remote: Option<SocketAddr>,
}

/// One condition of being ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// A word: `store`, `clients`, ...
    pub name: &'static str,
    /// What is wrong, if anything.
    pub error: Option<String>,
    /// What people should know though the node is ready.
    pub warning: Option<String>,
}

impl Check {
    /// A condition that holds, or why not.
    pub fn new(name: &'static str, error: Option<String>) -> Self {
        Self { name, error, warning: None }
    }
}

/// One viewer, as the API lists it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ViewerView {
    /// The stream.
    pub encoder: EncoderId,
    /// The stream's name.
    pub name: String,
    /// The node that serves it.
    pub node: NodeId,
    /// `webrtc` or `quic`.
    pub protocol: &'static str,
    /// Who it is.
    pub principal: String,
    /// Seconds it has been there.
    pub since_s: u64,
}

/// All viewers that could be asked for.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct ViewersView {
    /// Of every node that answered: JSON objects with the fields of [`ViewerView`].
    pub viewers: Vec<serde_json::Value>,
    /// Nodes that did not answer: their viewers are missing from the list.
    pub missing: Vec<NodeId>,
}

/// Numbers for `/metrics` that are not in the [`ClusterView`].
#[derive(Debug, Clone, Default)]
pub struct MetricsSnapshot {
    /// Totals by name without prefix and `_total`: `relay_bytes`, ... with one label pair each.
    pub counters: Vec<CounterSample>,
    /// Viewers at this node by protocol.
    pub viewers: BTreeMap<&'static str, u64>,
    /// Size of the store on disk, in bytes.
    pub store_bytes: Option<u64>,
    /// How far this node's clock is ahead of the mesh's, in milliseconds.
    pub clock_skew_ms: i64,
    /// How long failovers to this node took.
    pub failovers: Option<Failovers>,
}

/// One total.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CounterSample {
    /// Name without `roost_` and `_total`.
    pub name: &'static str,
    /// What it counts.
    pub help: &'static str,
    /// Labels; samples of one name have the same label names.
    pub labels: Vec<(&'static str, String)>,
    /// The total.
    pub value: u64,
}

/// The node, as seen from HTTP.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// What this node believes of all.
    fn view(&self) -> Arc<ClusterView>;

    /// Changes whenever [`Backend::view`] does.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Whether this node is about to go.
    fn draining(&self) -> bool;

    /// Whether this node goes for good.
    fn going(&self) -> &Going;

    /// How long ago the control loop turned last.
    fn turned(&self) -> Duration;

    /// What being ready takes, besides not draining.
    fn checks(&self) -> Vec<Check>;

    /// What time it is in the mesh, in milliseconds since 1970: what expires is judged by it.
    fn mesh_ms(&self) -> u64;

    /// The one place that finds out who somebody is: by credential, or by being on this machine
    /// if the node is open to it.
    fn authorise(&self, remote: IpAddr, token: Option<&str>) -> Result<Principal, Denied>;

    /// Who may do what. Hold it for a question, not for a wait.
    fn rights(&self) -> RwLockReadGuard<'_, Rights>;

    /// Changes whenever [`Backend::rights`] does.
    fn rights_changes(&self) -> watch::Receiver<u64>;

    /// Hashes and checks passwords.
    fn passwords(&self) -> &Passwords;

    /// A token for somebody who has just shown the account's password, and until when it is good.
    fn session_token(&self, account: AccountId, lifetime: Duration) -> Option<(String, u64)>;

    /// This node's WebRTC sessions.
    fn webrtc(&self) -> &WebRtc;

    /// Sets a browser's leg up at a node: here by [`super::leg::accept`], elsewhere over the link.
    async fn signal(self: Arc<Self>, to: NodeId, offer: Offer) -> Result<SdpAnswer, Failed>;

    /// Sets a publisher's leg up at this node.
    fn publish(self: Arc<Self>, publication: Publication) -> Result<SdpAnswer, Failed>;

    /// Takes a place at a stream for one viewer here: at home, by relay, or after a wait of up to
    /// 2 s for a stream that is about to be hosted here.
    async fn play(&self, encoder: EncoderId) -> Result<Feed, Failed>;

    /// A viewer's decoder lost its place.
    fn request_keyframe(&self, encoder: EncoderId);

    /// Tells of a WebRTC viewer that came or went, for lists and counts.
    fn leg_changed(&self, leg: &str, change: LegChange<'_>);

    /// Makes an invitation string.
    fn invite(&self, terms: InviteTerms) -> Result<Invited, Failed>;

    /// A token that lets its bearer `view` or `publish` (the `verb`) `encoder` at `node` for a short
    /// while.
    fn redirect_token(
        &self,
        node: NodeId,
        encoder: EncoderId,
        verb: &'static str,
        principal: &Principal,
    ) -> String;

    /// Whose redirect token for this node and `encoder` this is, if it is one and still good.
    fn check_redirect(&self, token: &str, encoder: EncoderId, verb: &str) -> Option<Principal>;

    /// Viewers of `encoder`, or of all, at every node.
    async fn viewers(&self, encoder: Option<EncoderId>) -> ViewersView;

    /// Shuts a node out; answers when it is on disk.
    async fn revoke(&self, node: NodeId, reason: String) -> Result<(), NotDone>;

    /// Lets a node in again; answers when it is on disk.
    async fn readmit(&self, node: NodeId) -> Result<(), NotDone>;

    /// Gives this node another key; answers when it is in use.
    async fn rotate(&self) -> Result<(), NotDone>;

    /// Sends an encoder that is at home at a node to another; answers when it is there.
    async fn move_encoder(&self, home: NodeId, wish: AskMove) -> Result<Moved, Failed>;

    /// What this node believes that there is to plan with.
    async fn demand(&self) -> Demand;

    /// How far a node is emptied.
    async fn drain_state(&self, node: NodeId) -> Result<serde_json::Value, Failed>;

    /// Changes the ledger; answers when it is on disk.
    async fn write(&self, write: Write) -> Result<Receipt, Refusal>;

    /// The ledger and who belongs to the mesh as they are at this moment, in a file that nobody
    /// else sees, and its length; or why not.
    async fn backup(&self) -> Result<(std::fs::File, u64), String>;

    /// A record of the ledger, removed or not.
    async fn record(&self, key: Key) -> Option<Record>;

    /// Some records, removed or not, in the order of their keys.
    async fn records(&self, keys: Vec<Key>) -> Vec<Option<Record>>;

    /// Every record that changes, once [`Backend::rights`] knows.
    fn record_changes(&self) -> RecordChanges;

    /// Who changed what where, the newest first, from before a place.
    async fn audit(&self, before: Option<AuditCursor>, limit: usize) -> Vec<Audit>;

    /// Whether a write is here, or comes within this time.
    async fn has_write(&self, version: (ActorId, u64), within: Duration) -> bool;

    /// Numbers for `/metrics`.
    fn metrics(&self) -> MetricsSnapshot;
}

/// What happened to a leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LegChange<'a> {
    /// Set up for this stream and viewer.
    Opened(EncoderId, &'a Principal),
    /// Carries media, or (`false`) is a silent standby.
    Playing(bool),
    /// Gone.
    Closed,
}

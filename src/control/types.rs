//! What goes into and comes out of [`super::Control`].

use std::collections::BTreeMap;
use std::time::Duration;

use crate::access::Principal;
use crate::accounts;
use crate::admission::{Keypair, PublicKey, Refusal, Roster, Statement};
use crate::cluster::NodeReport;
use crate::id::{Boot, EncoderId, NodeId, SessionId};
use crate::media::Silence;
use crate::session::host::{self, Route};
use crate::time::Mono;
use crate::wire;

/// What a node is born with.
pub struct Config {
    /// Its key.
    pub keypair: Keypair,
    /// The key that it was about to change to when it stopped.
    pub next_key: Option<Keypair>,
    /// Its label.
    pub name: String,
    /// `host:port`, best first.
    pub addrs: Vec<String>,
    /// Its start's number.
    pub boot: Boot,
    /// Who belongs to the mesh, as far as the disk knows.
    pub roster: Roster,
    /// Members of earlier times with their addresses.
    pub remembered: Vec<(NodeId, Vec<String>)>,
    /// What nodes were called when this one ran last, or in the eyes of who admitted it.
    pub names: Vec<(NodeId, String)>,
    /// Addresses given on the command line.
    pub seeds: Vec<String>,
    /// The ledger as the disk has it.
    pub ledger: accounts::Loaded,
    /// How much of it stays of what is needed no more.
    pub spare: accounts::Spare,
    /// Its capacity, if people declare none: a hundred for each processor that it may use.
    pub measured: u32,
    /// Seed of this start's randomness.
    pub seed: [u8; 32],
}

/// What happens to a node.
#[derive(Debug, Clone)]
pub enum Event {
    /// `next_wake` came.
    Wake,
    /// A link stands.
    LinkUp {
        /// To whom.
        node: NodeId,
        /// Addresses the other side says it has.
        addrs: Vec<String>,
        /// Statements that its handshake brought.
        learned: Vec<Statement>,
        /// What its wall clock showed a moment ago, in milliseconds since 1970.
        wall: u64,
    },
    /// A handshake that came to nothing brought these.
    Learned(Vec<Statement>),
    /// The batch of [`Effect::Statements`] with this number, and those before, are on disk.
    Recorded(u64),
    /// Somebody shuts a node out.
    Revoke {
        /// Names the question in [`Effect::Decreed`].
        ticket: u64,
        /// Whom.
        node: NodeId,
        /// Random.
        nonce: [u8; 16],
        /// Why, for people.
        reason: String,
    },
    /// Somebody lets a node in again.
    Readmit {
        /// Names the question in [`Effect::Decreed`].
        ticket: u64,
        /// Whom.
        node: NodeId,
        /// Random.
        nonce: [u8; 16],
    },
    /// This node shall have another key, which is on disk beside the one it has.
    Rotate {
        /// Names the question in [`Effect::Decreed`].
        ticket: u64,
        /// The key.
        key: Keypair,
    },
    /// A link is gone.
    LinkDown(NodeId),
    /// A dial came to nothing.
    DialFailed {
        /// Whom it was for.
        node: Option<NodeId>,
        /// Where.
        addr: String,
    },
    /// On the ordered stream of a link.
    Message(NodeId, Vec<u8>),
    /// In a datagram of a link.
    Datagram(NodeId, Vec<u8>),
    /// Smoothed round trips of the links, in order of node, refreshed now and then.
    Rtt(Vec<(NodeId, Duration)>),
    /// A newcomer holds an invitation.
    Join {
        /// Names the question in [`Effect::Admit`] and [`Effect::RefuseJoin`].
        ticket: u64,
        /// Key that its TLS session proved.
        newcomer: PublicKey,
        /// Its proof.
        join: wire::Join,
        /// What the proof signs.
        statement: Vec<u8>,
    },
    /// Everyone else's reports, some of them new.
    Reports(BTreeMap<NodeId, NodeReport>),
    /// What this node says of itself.
    Report(NodeReport),
    /// A client connected.
    ClientOpened {
        /// Its session.
        session: SessionId,
        /// Needs no credential.
        local: bool,
    },
    /// A publisher's WebRTC leg stands, which this node speaks for from now on as for a client.
    Publish {
        /// Its session.
        session: SessionId,
        /// What it sends, and for whom.
        publication: host::Publication,
    },
    /// On the client's ordered stream.
    ClientMessage(SessionId, Vec<u8>),
    /// In a datagram on flow 0 of the client, flow id read off.
    ClientDatagram(SessionId, Vec<u8>),
    /// The client's connection ended.
    ClientClosed(SessionId),
    /// The number of viewers at this node's hub of a stream changed.
    Viewers(EncoderId, u32),
    /// Somebody wants an encoder at home elsewhere.
    Move(host::Order),
    /// A receiver at this node needs a keyframe.
    KeyframeWanted(EncoderId),
    /// A keyframe came to this node.
    KeyframeArrived(EncoderId),
    /// Nothing came to this node from where a stream should come from.
    Silent {
        /// Which stream.
        encoder: EncoderId,
        /// The feed that brings nothing.
        feed: u64,
        /// For how long.
        silence: Silence,
    },
    /// Somebody wants the ledger changed.
    Write {
        /// Names the change in [`Effect::Written`].
        ticket: u64,
        /// What.
        write: accounts::Write,
    },
    /// The last [`Effect::Persist`] is on disk, or why it is not.
    Persisted(Result<(), String>),
    /// Go, gracefully.
    Leave,
}

/// What drivers are asked to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Try to link.
    Dial {
        /// Whom to expect.
        node: Option<NodeId>,
        /// Where.
        addr: String,
    },
    /// Ordered stream of a link.
    Send(NodeId, Vec<u8>),
    /// Datagram of a link; may be lost.
    Datagram(NodeId, Vec<u8>),
    /// The roster grew: use it for handshakes from now on, write these down, and say
    /// [`Event::Recorded`] with the number.
    Statements(u64, Vec<Statement>),
    /// What was asked for is decided; if so, it is in the last [`Effect::Statements`]: once that
    /// is on disk, answer.
    Decreed {
        /// Of the question.
        ticket: u64,
        /// Or why not.
        result: Result<(), NoDecree>,
    },
    /// End the link to this node, which is no member any more, after what was sent, and at once
    /// all else that it has here.
    Expel(NodeId, String),
    /// Use this key in handshakes and for signatures from now on, and put it in the place of the
    /// one before on disk.
    UseKey(Keypair),
    /// What time it is in the mesh, in milliseconds since 1970 at a moment.
    MeshTime(Mono, u64),
    /// The newcomer is in: once it is on disk, answer.
    Admit {
        /// Of [`Event::Join`].
        ticket: u64,
        /// The answer.
        admitted: wire::Admitted,
    },
    /// The newcomer is refused.
    RefuseJoin {
        /// Of [`Event::Join`].
        ticket: u64,
        /// What, why, what next.
        reason: String,
    },
    /// Write this into the ledger on disk, in one step, and say [`Event::Persisted`].
    Persist(accounts::Batch),
    /// What came of a change of the ledger.
    Written {
        /// Of [`Event::Write`].
        ticket: u64,
        /// On disk here, or why not.
        result: Result<accounts::Receipt, accounts::Refusal>,
    },
    /// A record of the ledger is another now.
    RecordChanged(accounts::Changed),
    /// Live members with their addresses, for the next start.
    Remember(Vec<(NodeId, Vec<String>)>),
    /// What a node is called, for the next start: people are told who did what, also where that
    /// node is dead.
    Name(NodeId, String),
    /// Others know this node by this boot, which is above its own: the next must be higher still.
    Boot(Boot),
    /// Gossip reports with this member.
    GossipWith(NodeId),
    /// The client is who it says, by this name.
    ClientWelcomed(SessionId, Principal),
    /// Ordered stream of a client.
    ClientSend(SessionId, Vec<u8>),
    /// Datagram to a client.
    ClientDatagram(SessionId, Vec<u8>),
    /// End a client's session.
    ClientClose(SessionId, String),
    /// A stream's frames come from here now.
    Route(EncoderId, Route),
    /// Send this stream's frames to this session.
    Serve(SessionId, EncoderId),
    /// Stop sending them.
    Unserve(SessionId, EncoderId),
    /// Ask the node that this stream is relayed from for a keyframe.
    RelayKeyframe(EncoderId),
    /// What became of [`Event::Move`], or of a move of this node's own making.
    Moved(host::Order, host::Outcome),
    /// This node stood still: forget media that waits.
    Stalled,
    /// Something to tell people.
    Note(Note),
    /// What [`Control::view`](super::Control::view) shows changed.
    ViewChanged,
    /// Leaving is done; the node may stop.
    Left,
}

/// A change of state worth a line in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A member answers.
    Up(NodeId),
    /// A member was declared dead.
    Down(NodeId),
    /// A member said goodbye.
    NodeLeft(NodeId),
    /// A node was admitted through this one.
    Admitted(NodeId),
    /// A node that was a member is none any more.
    Expelled(NodeId, Refusal),
    /// A node that was shut out is a member again.
    Readmitted(NodeId),
    /// This node's clock is this far ahead of the mesh's, in milliseconds; or it is right again.
    Skewed(Option<i64>),
    /// This node has another key now.
    Rekeyed,
    /// This node is to be empty: it hands over what it serves, and takes nothing new.
    Draining,
    /// Nothing is at home here any more.
    Drained,
    /// This node need not be empty any more.
    Undrained,
    /// This node takes no new encoders, or takes them again.
    Cordoned(bool),
    /// So many nodes can be lost, and that is fewer than people want, which is given then; or it is
    /// enough again.
    Losses {
        /// How many can be lost.
        losses: u32,
        /// How many should be, if that is more.
        low: Option<u32>,
    },
    /// So many encoders are to leave this node, so that loads are even or somebody's wish is met.
    Balancing(usize),
    /// This node stood still for this long.
    Stalled(Duration),
    /// Something happened to the ledger.
    Ledger(accounts::Note),
    /// Others know a later self of this node, up to this boot: its folder is an older copy, or
    /// another machine runs on a copy of it.
    Outgrown(Boot),
    /// What became of the encoder with this name, as far as this node is its home.
    Encoder(EncoderId, String, host::Note),
}

/// What happened since the node started; host and directory have counters of their own.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    /// Messages of members that did not decode.
    pub malformed: u64,
    /// Messages of members with a tag unknown here.
    pub unknown_tags: u64,
    /// Members declared down.
    pub downs: u64,
    /// Nodes admitted.
    pub admitted: u64,
    /// Nodes refused.
    pub refused: u64,
    /// Bytes of the ledger's messages sent.
    pub ledger_bytes: u64,
    /// Members that were shut out by a revocation, as far as this node heard.
    pub revoked: u64,
    /// Members that were shut out because their invitation let in more than it may.
    pub surplus: u64,
    /// Messages over links that had ended.
    pub unlinked: u64,
    /// Members let in again.
    pub readmitted: u64,
}

/// Why a member is not shut out, let in or given another key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoDecree {
    /// Never admitted.
    #[error("no such node was ever admitted: `roost node list` shows all")]
    Unknown,
    /// Not revoked.
    #[error("this node is not revoked")]
    NotRevoked,
    /// This node is itself shut out.
    #[error("{0}")]
    Out(Refusal),
    /// It would let itself in.
    #[error(
        "a revoked node does not let itself in: ask at another member; if none is left, let another \
         node in from here first (`roost node readmit ID` on this machine), and then this one there"
    )]
    Itself,
    /// A change of keys is under way.
    #[error("this node is changing its key already: wait until it is done")]
    Rotating,
    /// No more fits.
    #[error(
        "the mesh keeps no more statements about members than it has: remove none, found a new mesh"
    )]
    Full,
}

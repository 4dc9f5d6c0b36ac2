//! What goes into and comes out of [`super::Control`].

use std::collections::BTreeMap;
use std::time::Duration;

use crate::access::Principal;
use crate::accounts;
use crate::admission::{Admission, Keypair, PublicKey, Roster};
use crate::cluster::NodeReport;
use crate::id::{Boot, EncoderId, NodeId, SessionId};
use crate::session::host::{self, Route};
use crate::wire;

/// What a node is born with.
pub struct Config {
    /// Its key.
    pub keypair: Keypair,
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
    /// Addresses given on the command line.
    pub seeds: Vec<String>,
    /// The ledger as the disk has it.
    pub ledger: accounts::Loaded,
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
        /// Admissions that its handshake brought.
        learned: Vec<Admission>,
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
    /// Smoothed round trips of the links, refreshed now and then.
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
    /// Everyone's reports, some of them new.
    Reports(BTreeMap<NodeId, NodeReport>),
    /// A client connected.
    ClientOpened {
        /// Its session.
        session: SessionId,
        /// From this machine.
        loopback: bool,
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
    /// A receiver at this node needs a keyframe.
    KeyframeWanted(EncoderId),
    /// A keyframe came to this node.
    KeyframeArrived(EncoderId),
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
    /// The roster grew: use it for handshakes from now on, and write these down.
    Admissions(Vec<Admission>),
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
    RecordChanged(accounts::Key),
    /// Live members with their addresses, for the next start.
    Remember(Vec<(NodeId, Vec<String>)>),
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
}

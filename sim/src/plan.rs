//! What a run plays: a mesh, its clients, and the faults that befall them, as data. A plan and
//! its seed decide everything that happens.

use std::fmt;

use serde::{Deserialize, Serialize};

mod draw;

pub(crate) use draw::log_uniform;

/// Everything that decides a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// What it is called, for people.
    pub name: String,
    /// Decides keys, delays, losses, orders and what machines draw.
    pub seed: u64,
    /// How many nodes.
    pub nodes: usize,
    /// How many encoders.
    #[serde(default)]
    pub encoders: usize,
    /// How many native viewers; the first watches the first encoder, and so on around.
    #[serde(default)]
    pub viewers: usize,
    /// How many viewers that stay at one node, as a browser does; likewise.
    #[serde(default)]
    pub browsers: usize,
    /// How many publish to a node, as by WHIP, each with a page that watches it.
    #[serde(default)]
    pub publishers: usize,
    /// Publishers are called as encoders are: one of each name is let in at a time.
    #[serde(default)]
    pub namesakes: bool,
    /// How many changes people make to the ledger.
    #[serde(default)]
    pub writes: usize,
    /// How often a camera loses its signal or gets it back.
    #[serde(default)]
    pub signals: usize,
    /// Whether clients show credentials, and the changes are about who may watch.
    #[serde(default)]
    pub guarded: bool,
    /// How the network is without faults.
    #[serde(default)]
    pub net: Net,
    /// What the cameras are like.
    #[serde(default)]
    pub camera: Camera,
    /// How nodes become members.
    #[serde(default)]
    pub join: Join,
    /// All nodes start within this time, in milliseconds.
    #[serde(default = "burst")]
    pub burst_ms: u64,
    /// How long the mesh has to recover after the last fault is over, in milliseconds.
    #[serde(default = "settle")]
    pub settle_ms: u64,
    /// What goes wrong.
    #[serde(default)]
    pub faults: Vec<Item>,
}

fn burst() -> u64 {
    500
}

fn settle() -> u64 {
    25_000
}

/// How nodes become members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Join {
    /// Everyone's admission is on everyone's disk before the start.
    #[default]
    Admitted,
    /// The founder starts alone; the others come with its invitation.
    Invited,
}

/// The network without faults.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Net {
    /// One-way delays of pairs of hosts are drawn between these, in microseconds.
    pub delay_us: (u64, u64),
    /// Share of packets that are lost.
    #[serde(default)]
    pub loss: f64,
    /// Share of packets that take up to 50 ms longer.
    #[serde(default)]
    pub spikes: f64,
}

impl Default for Net {
    fn default() -> Self {
        Self { delay_us: (200, 2000), loss: 0.0, spikes: 0.01 }
    }
}

impl Net {
    /// No pair of hosts is further apart than 50 ms there and back.
    pub fn is_near(&self) -> bool {
        self.delay_us.1 <= 25_000
    }
}

/// What a camera does about keyframes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Camera {
    /// Pictures from one keyframe to the next, if nobody asks for one.
    pub group: u64,
    /// It sends a keyframe when asked.
    pub obeys: bool,
}

impl Default for Camera {
    fn default() -> Self {
        Self { group: 30, obeys: true }
    }
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// When it begins, in milliseconds of the run.
    pub at_ms: u64,
    /// When it is over; never if missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
    /// What it is.
    pub fault: Fault,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Killed at once; started again from its disk when the fault is over.
    Crash(Vec<Who>),
    /// Stands still; what comes meanwhile waits.
    Freeze(Vec<Who>),
    /// Killed, and started again when the fault is over as if it had started once only, with the
    /// ledger of half of the time before the fault.
    OldFolder(Vec<Who>),
    /// Killed, and started again when the fault is over, with a backup of the ledger put back that
    /// was made at half of the time before the fault.
    OldBackup(Vec<Who>),
    /// Killed, and started again when the fault is over; by then a record cannot be read any more
    /// that another node has as well.
    Unreadable(Vec<Who>),
    /// A second agent of this encoder starts, with a copy of the first one's disk if it never ran
    /// before; killed when the fault is over.
    Twin(usize),
    /// A process is told to stop; started again when the fault is over.
    Leave(Who),
    /// Somebody at the first node wants the other one empty, until the fault is over.
    Drain(usize, Who),
    /// Somebody at the first node wants no new encoders at the other, until the fault is over.
    Cordon(usize, Who),
    /// Somebody at the first node gives the other one a capacity, in hundredths, until the fault is
    /// over: then it has that of any other.
    Capacity(usize, Who, u32),
    /// Somebody at the first node lets so many encoders at most be at the other, until the fault is
    /// over.
    Limit(usize, Who, u32),
    /// Somebody at the first node takes from these agents what lets them send, or from these viewers
    /// the right to watch, until the fault is over: of every second agent the account's right; of the
    /// others the stream key, which is revoked, or ends a few seconds later. Where clients show
    /// credentials.
    Mute(usize, Vec<Who>),
    /// These nodes let nobody know any more what is at home there.
    Liar(Vec<Who>),
    /// These nodes say falsely that they serve so many viewers.
    Boast(Vec<Who>, u32),
    /// Somebody at the first node puts the encoders of these agents into one room, until the fault
    /// is over.
    Room(usize, Vec<Who>),
    /// Somebody at the first node has every encoder prefer the pool of the nodes that are labelled,
    /// or be nowhere else, until the fault is over.
    Pool(usize, bool),
    /// Somebody at the first node gives the other one that label, until the fault is over.
    Label(usize, Who),
    /// Somebody at the first node binds the encoders of these agents to that pool, until the fault
    /// is over.
    Bind(usize, Vec<Who>),
    /// An encoder is sent to a node.
    Send(usize, usize),
    /// No packet passes between the two sides.
    Cut {
        /// One side.
        from: Vec<Who>,
        /// The other.
        to: Vec<Who>,
        /// Only packets from the first to the second are held up.
        #[serde(default)]
        one_way: bool,
    },
    /// Every packet takes longer, in milliseconds.
    Latency(u64),
    /// This share of packets is lost in addition.
    Loss(f64),
    /// This share of datagrams comes twice.
    Duplicate(f64),
    /// This share of datagrams comes up to 50 ms late.
    Reorder(f64),
    /// On each path packets are lost in runs: this share begins one, which lasts for 8 on average.
    Bursts(f64),
    /// These hosts send this many kilobits a second at most.
    Slow(Vec<Who>, u64),
    /// The wall clock of these hosts gains this many milliseconds in each second, and is right
    /// again when the fault is over.
    Drift(Vec<Who>, i64),
    /// Nothing can be written to the disks of these nodes.
    DiskFull(Vec<Who>),
    /// This share of requests for keyframes gets lost, though messages do not.
    RequestsLost(f64),
    /// Somebody at the first node shuts the second out.
    Revoke(usize, usize),
    /// Somebody at the first node lets the second in again.
    Readmit(usize, usize),
    /// A node is given another key.
    Rotate(usize),
    /// A node's wall clock is this many milliseconds off, while the fault lasts.
    Clock(usize, i64),
}

/// Whom a fault befalls, found out when it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// A node by number.
    Node(usize),
    /// Home of an encoder.
    Home(usize),
    /// Next of an encoder.
    Next(usize),
    /// The first node that is neither.
    Third(usize),
    /// All nodes but home of this encoder.
    NotHome(usize),
    /// All nodes but the one by this number.
    NotNode(usize),
    /// All nodes.
    Nodes,
    /// The node where a viewer is that stays at one.
    Page(usize),
    /// The node that a publisher sends to.
    Publisher(usize),
    /// An encoder's agent.
    Encoder(usize),
    /// A native viewer.
    Viewer(usize),
    /// All native viewers.
    Viewers,
    /// All agents.
    Encoders,
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {} ms", self.fault, self.at_ms)?;
        match self.until_ms {
            Some(until) => write!(f, " until {until} ms"),
            None => f.write_str(" for good"),
        }
    }
}

/// When faults of drawn plans begin: the mesh stands by then.
pub const CALM_MS: u64 = 12_000;

impl Plan {
    /// A mesh without faults.
    pub fn calm(seed: u64, nodes: usize, encoders: usize) -> Self {
        Self {
            name: format!("seed-{seed}"),
            seed,
            nodes,
            encoders,
            viewers: encoders,
            browsers: 0,
            publishers: 0,
            namesakes: false,
            writes: 0,
            signals: 0,
            guarded: false,
            net: Net::default(),
            camera: Camera::default(),
            join: Join::Admitted,
            burst_ms: burst(),
            settle_ms: settle(),
            faults: Vec::new(),
        }
    }

    /// Whether somebody wants something of nodes that changes how many encoders each should have.
    pub(crate) fn has_wishes(&self) -> bool {
        let wished = |fault: &Fault| {
            matches!(
                fault,
                Fault::Drain(..) | Fault::Cordon(..) | Fault::Capacity(..) | Fault::Liar(_)
            )
        };
        self.faults.iter().any(|item| wished(&item.fault))
    }

    /// Whether nothing happens but what people want of nodes and encoders.
    pub(crate) fn is_steered_only(&self) -> bool {
        let steered = |fault: &Fault| {
            matches!(
                fault,
                Fault::Drain(..) | Fault::Cordon(..) | Fault::Capacity(..) | Fault::Send(..)
            )
        };
        self.net.loss == 0.0 && self.faults.iter().all(|item| steered(&item.fault))
    }

    /// Whether any encoders are ever in a room.
    pub(crate) fn is_roomed(&self) -> bool {
        self.faults.iter().any(|item| matches!(item.fault, Fault::Room(..)))
    }

    /// Whether any encoders are ever bound to the pool by records of their own.
    pub(crate) fn has_bound(&self) -> bool {
        self.faults.iter().any(|item| matches!(item.fault, Fault::Bind(..)))
    }

    /// Whether any wall clock is ever far off.
    pub(crate) fn has_clocks(&self) -> bool {
        self.faults.iter().any(|item| matches!(item.fault, Fault::Clock(..) | Fault::Drift(..)))
    }

    /// Whether a node ever starts again as an earlier one did.
    pub(crate) fn has_older_folders(&self) -> bool {
        self.faults.iter().any(|item| matches!(item.fault, Fault::OldFolder(_)))
    }

    /// Whether records become unreadable in it.
    pub(crate) fn loses_records(&self) -> bool {
        self.faults.iter().any(|item| matches!(item.fault, Fault::Unreadable(_)))
    }

    /// Whether any node ever says what is false of its media.
    pub(crate) fn has_boasts(&self) -> bool {
        self.faults.iter().any(|item| matches!(item.fault, Fault::Boast(..)))
    }

    /// Whether agents have accounts of their own, from which the right to send is taken.
    pub(crate) fn has_mute(&self) -> bool {
        self.faults.iter().any(|item| matches!(item.fault, Fault::Mute(..)))
    }

    /// Whether any encoder ever has a second agent.
    pub(crate) fn has_twins(&self) -> bool {
        self.faults.iter().any(|item| matches!(item.fault, Fault::Twin(_)))
    }

    /// When the last fault begins or is over, in milliseconds.
    pub fn healed_ms(&self) -> u64 {
        let ends = self.faults.iter().map(|item| item.until_ms.unwrap_or(item.at_ms));
        ends.max().unwrap_or(CALM_MS)
    }
}

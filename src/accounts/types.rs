//! What the ledger is told, says and counts, and how much it takes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Change, Clock, Cuts, Key, Record, Seen, TooMuch};
use crate::id::{AccountId, ActorId, NodeId};

/// Longest value of a field in bytes: a page of text, or a certificate.
pub const VALUE_MAX: usize = 4_096;
/// Longest element of a set in bytes: an id, a label, a key's hash with its parameters.
pub const ELEMENT_MAX: usize = 256;
/// Most fields of a record: five times what the largest kind has.
pub const FIELDS_MAX: usize = 64;
/// Most elements in the sets of a record: a group of a thousand accounts.
pub const ELEMENTS_MAX: usize = 1_024;
/// Most bytes of values and elements that a write leaves behind: a group of a thousand, or some
/// pages of text.
pub const RECORD_MAX: usize = 64 << 10;
/// Most writes that a record remembers, at 6 to 22 bytes each: one a day for ten years.
pub const DOTS_MAX: usize = 4_096;
/// Changes that a record remembers with author, node and time, at 7 to 30 bytes each: what people
/// look for when they ask who did this.
pub const HISTORY_MAX: usize = 16;
/// Changes for which a record remembers what one of them did away with: of a node's own former
/// values all changes count, of others' those of others. See [`Record::counting`].
pub const FORMER_WRITES: usize = 16;
/// A former value longer than this, divided by [`FORMER_WRITES`], is remembered for fewer changes:
/// in all, some such values of each field.
pub const FORMER_BYTES: usize = 4_096;
/// Fields and sets that are remembered of one change: more than any kind has.
pub const TOUCHED_MAX: usize = 32;
/// Changes that a node lists over all records, at some 150 bytes each: a hundred a day for three
/// months.
pub const AUDIT_MAX: usize = 10_000;
/// Longest record that is taken from others: 60 nodes may each have filled it on their own before
/// they meet. A message of 8 MiB holds two.
pub const RECORD_BYTES_MAX: usize = 4 << 20;
/// Most records, beyond which new ones are refused: 100,000 accounts and as much of everything
/// else, at some 40 MB. What others acknowledged is taken all the same.
pub const RECORDS_MAX: usize = 200_000;
/// Removed records that stay for what they remember, the newest removals by the clocks, at some 200
/// bytes each: who removed what is asked for long after. Older ones may be forgotten.
pub const REMOVED_KEPT: usize = 1_000;
/// Ids of forgotten records that are kept, at some 40 bytes each. Beyond it removed records stay.
pub const FORGOTTEN_MAX: usize = 200_000;
/// Values of a field that are shown when it was changed at many nodes at once. The others are
/// counted; a write settles them all. A merge drops none: which ones would depend on its order.
pub const SIBLINGS_MAX: usize = 8;
/// Bytes of records in one message, beyond which the rest goes into the next: small enough that
/// other messages of a link get between.
pub const CHUNK_BYTES: usize = 48 << 10;
/// Writes that wait for the disk: at 5 ms a commit some seconds of work.
pub const WRITES_MAX: usize = 1_024;
/// Writes that one commit takes.
pub const BATCH_WRITES: usize = 256;
/// Bytes from others that wait for the disk. Beyond it they are dropped; repair brings them again.
pub const INCOMING_MAX: usize = 4 << 20;
/// Writes that wait for other nodes.
pub const WAITS_MAX: usize = 4_096;
/// The longest time a write waits for other nodes.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// Writes after which a node takes a new actor, so that the old one can be retired.
pub const ACTOR_WRITES: u64 = 4_096;
/// Actors that no longer write are retired when there are this many: fewer cost less than the
/// record that names them.
pub const RETIRE_AT: usize = 32;
/// Most actors that one record names.
pub const RETIRE_MAX: usize = 128;
/// Most actors whose writes a revocation says to count: of a node that was started a thousand times
/// since they were retired last. Those of the others do not count.
pub const CUT_ACTORS_MAX: usize = 1_000;
/// Most actors in a message, of nodes that write and of those not yet retired.
pub const ACTORS_MAX: usize = 65_536;
/// Parts that records are divided into to find which ones differ.
pub const BUCKETS: usize = 256;

/// Before what a ledger needs no more is forgotten, there is so much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spare {
    /// Removed records.
    pub removed: usize,
    /// Actors that no longer write.
    pub idle: usize,
}

impl Default for Spare {
    fn default() -> Self {
        Self { removed: REMOVED_KEPT, idle: RETIRE_AT }
    }
}

/// What a node has, in a few bytes: whoever has the same says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Digest {
    /// Of the writes.
    pub clock: u64,
    /// Of the records. With equal writes they are equal, but for a defect or a machine that was
    /// set back.
    pub state: u64,
    /// Who numbers the sender's writes at present.
    pub actor: Option<ActorId>,
}

/// Asks for what the sender lacks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Want {
    /// What it has, but for retired actors.
    pub clock: Vec<(ActorId, Seen)>,
    /// Of the retired ones.
    pub retired: u64,
    /// Its present actor.
    pub actor: Option<ActorId>,
    /// Everything instead: the records after this one.
    pub all: Option<Option<Key>>,
}

/// Records, as an answer or unasked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Records {
    /// Their states.
    pub records: Vec<(Key, Vec<u8>)>,
    /// What they answer, if they do.
    pub answer: Option<Answer>,
}

/// What else an answer to a [`Want`] says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// There is more: ask again.
    More,
    /// That is all.
    Done,
    /// What was asked for is partly forgotten here: ask for everything.
    Below,
    /// The first answer to who asks for everything: what will have been seen at its end.
    Everything(Everything),
}

/// What somebody has who takes over everything from a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Everything {
    /// The writes.
    pub clock: Vec<(ActorId, Seen)>,
    /// Those below which some are forgotten.
    pub floor: Vec<(ActorId, u64)>,
    /// Retired actors with their last writes.
    pub retired: Vec<(ActorId, u64)>,
}

/// Says what was written down.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Have {
    /// Everything up to these.
    pub upto: Vec<(ActorId, u64)>,
}

/// Hashes of the sender's records by part; the receiver answers with those of the parts that
/// differ.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Compare {
    /// [`BUCKETS`] of them.
    pub buckets: Vec<u64>,
}

/// What a write expects to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Expect {
    /// Whatever there is.
    #[default]
    Any,
    /// No such record, or a removed one.
    Absent,
    /// A record that is there.
    Present,
    /// This state: see [`Record::tag`](super::Record::tag).
    Tag(u64),
}

/// A change that somebody wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// To which record.
    pub key: Key,
    /// What.
    pub changes: Vec<Change>,
    /// On whose behalf.
    pub account: AccountId,
    /// Given what.
    pub expect: Expect,
    /// Answered when so many nodes have it on disk, this one included.
    pub wait: u32,
    /// Or after this time.
    pub patience: Duration,
}

/// A write is on disk here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Its number: whoever [has](super::Ledger::has) it shows the change.
    pub version: (ActorId, u64),
    /// The record's new tag.
    pub tag: u64,
    /// Nodes that have it on disk, as far as is known here.
    pub nodes: u32,
    /// Whether these are as many as were waited for.
    pub enough: bool,
}

/// Why a write was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It would be too large.
    #[error("{0}")]
    TooMuch(#[from] TooMuch),
    /// No more records.
    #[error("the mesh holds {RECORDS_MAX} records already; remove some first")]
    TooMany,
    /// Too many writes wait.
    #[error("too many changes wait for the disk; try again in a second")]
    Busy,
    /// The record is not as expected.
    #[error("somebody changed this in the meantime; read it again and repeat your change")]
    Changed,
    /// There is none.
    #[error("there is no such record")]
    Missing,
    /// It was removed, for good: others may have forgotten it.
    #[error("this was removed; make a new one")]
    Gone,
    /// There is one.
    #[error("there is such a record already")]
    Exists,
    /// The disk refuses.
    #[error("the change was not written down: {0}")]
    Disk(String),
}

/// What goes to disk at once, or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// New states.
    pub records: Vec<(Key, Vec<u8>)>,
    /// Records that are forgotten, but for their ids.
    pub forgotten: Vec<Key>,
    /// What is known of actors' writes.
    pub actors: Vec<(ActorId, Row)>,
}

/// What a store keeps of an actor.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Row {
    /// Its writes that are here.
    pub seen: Seen,
    /// Some up to this are forgotten.
    pub floor: u64,
    /// It numbered writes of this node.
    pub own: bool,
    /// It is retired: nobody lists it any more.
    pub retired: bool,
}

/// What a store holds at a start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Loaded {
    /// All records.
    pub records: Vec<(Key, Vec<u8>)>,
    /// All actors.
    pub actors: Vec<(ActorId, Row)>,
    /// Ids of records that were forgotten.
    pub forgotten: Vec<Key>,
    /// Rows that could not be read, and are not among these.
    pub unreadable: u64,
}

impl Loaded {
    /// After rows were lost: claims exactly the writes that records include, so that everything
    /// else comes again from others. Nobody's writes are retired, and nothing is below a floor:
    /// either would claim what may have been lost.
    pub fn recount(&mut self) {
        let mut seqs: BTreeMap<ActorId, BTreeSet<u64>> =
            self.actors.iter().map(|(actor, _)| (*actor, BTreeSet::new())).collect();
        for record in self.records.iter().filter_map(|(_, bytes)| Record::decode(bytes).ok()) {
            for dot in record.dots() {
                seqs.entry(dot.actor).or_default().insert(dot.seq);
            }
        }
        let row = |(actor, seqs): (ActorId, BTreeSet<u64>)| {
            let mut clock = Clock::default();
            for seq in seqs {
                clock.add(actor, seq);
            }
            (actor, Row { seen: clock.seen(actor), ..Row::default() })
        };
        self.actors = seqs.into_iter().map(row).collect();
    }
}

/// What happens to a [`Ledger`](super::Ledger).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Somebody wants a change.
    Write {
        /// Names it in [`Effect::Written`].
        ticket: u64,
        /// The change.
        write: Write,
    },
    /// The last [`Effect::Persist`] is on disk, or why it is not.
    Persisted(Result<(), String>),
    /// These belong to the mesh.
    Members(BTreeSet<NodeId>),
    /// These are shut out, and so much of what they wrote counts.
    Cuts(Cuts),
    /// A link to this node works.
    Linked(NodeId),
    /// The link to this node is gone.
    Unlinked(NodeId),
    /// From a linked node.
    Digest(NodeId, Digest),
    /// From a linked node.
    Want(NodeId, Want),
    /// From a linked node.
    Records(NodeId, Records),
    /// From a linked node.
    Have(NodeId, Have),
    /// From a linked node.
    Compare(NodeId, Compare),
    /// The time of [`Ledger::next_wake`](super::Ledger::next_wake) has come.
    Wake,
}

/// A record that is another now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    /// Which.
    pub key: Key,
    /// With it rights, or names of domains, became others.
    pub rights: bool,
}

/// What a [`Ledger`](super::Ledger) wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Write this down, and say [`Event::Persisted`]. There is never more than one under way.
    Persist(Batch),
    /// Answer whoever wanted a change.
    Written {
        /// Of [`Event::Write`].
        ticket: u64,
        /// What came of it.
        result: Result<Receipt, Refusal>,
    },
    /// Over a link.
    Digest(NodeId, Digest),
    /// Over a link.
    Want(NodeId, Want),
    /// Over a link.
    Records(NodeId, Records),
    /// Over a link.
    Have(NodeId, Have),
    /// Over a link.
    Compare(NodeId, Compare),
    /// New here: over every link.
    Push(Records),
    /// New here, from this node: over every link that it has not itself.
    Forward(NodeId, Records),
    /// A record is another now.
    Changed(Key),
    /// Something to tell people.
    Note(Note),
}

/// Something that happened to the ledger, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// Another node has writes of this one that it does not have itself: an older copy of its
    /// folder was put back, or its machine was set back. It takes them over and numbers anew.
    Overtaken {
        /// Who has them.
        peer: NodeId,
    },
    /// This store was away for longer than the others remember: it takes over everything.
    Reentering {
        /// From whom.
        peer: NodeId,
    },
    /// It has. What others removed meanwhile is removed here, too.
    Reentered {
        /// How many records that were.
        removed: usize,
    },
    /// The disk refused commits; what they held was refused to whoever wanted it. Told at most
    /// every ten seconds.
    Disk {
        /// What it says.
        reason: String,
        /// How many commits since this was told last.
        commits: u64,
    },
}

/// What a [`Ledger`](super::Ledger) counted since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Writes acknowledged.
    pub written: u64,
    /// Writes refused.
    pub refused: u64,
    /// Commits.
    pub commits: u64,
    /// Commits that the disk refused.
    pub disk_refused: u64,
    /// Records from others that were new or newer.
    pub merged: u64,
    /// Records from others that brought nothing.
    pub duplicates: u64,
    /// Records from others that are none.
    pub malformed: u64,
    /// Messages dropped because too much waited for the disk.
    pub dropped: u64,
    /// Digests sent.
    pub digests: u64,
    /// Requests sent.
    pub wants: u64,
    /// Requests that were not answered in time.
    pub unanswered: u64,
    /// Two writes that came to one number: a machine was set back. Both were kept.
    pub clashes: u64,
    /// Times that the records of equal writes differed, and were compared.
    pub compared: u64,
    /// Removed records that were forgotten.
    pub collected: u64,
    /// Times that everything was taken over from another node.
    pub reentered: u64,
    /// Rows of the store that could not be read at the start, and were put aside.
    pub unreadable: u64,
}

impl Counters {
    /// All of them by name.
    pub fn rows(&self) -> [(&'static str, u64); 16] {
        [
            ("written", self.written),
            ("refused", self.refused),
            ("commits", self.commits),
            ("disk_refused", self.disk_refused),
            ("merged", self.merged),
            ("duplicates", self.duplicates),
            ("malformed", self.malformed),
            ("dropped", self.dropped),
            ("digests", self.digests),
            ("wants", self.wants),
            ("unanswered", self.unanswered),
            ("clashes", self.clashes),
            ("compared", self.compared),
            ("collected", self.collected),
            ("reentered", self.reentered),
            ("unreadable", self.unreadable),
        ]
    }
}

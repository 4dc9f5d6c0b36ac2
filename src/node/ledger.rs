//! The ledger as the rest of the process reaches it: through the control loop, which owns it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLockReadGuard};

use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::drive::Driver;
use super::members::{Decree, Decreed};
use super::{Node, wall_ms};
use crate::access::Rights;
use crate::accounts::{Audit, AuditCursor, Changed, Ledger, Note, Receipt, Refusal, Write};
use crate::control::Event;
use crate::placement::Demand;
use crate::session::host::{DrainState, Order, Outcome};
use crate::store::{BackedUp, StoreError};

/// Questions and changes that wait for the control loop; beyond it whoever has one waits.
pub(super) const CALL_QUEUE: usize = 256;
/// Changes of records that wait for each listener, beyond which the oldest are lost to it: what
/// some seconds of writing bring.
const CHANGES_KEPT: usize = 4_096;

/// Changes of records for whoever listens.
#[derive(Clone)]
pub(super) struct Told {
    sender: broadcast::Sender<Changed>,
    lost: Arc<AtomicU64>,
}

impl Told {
    pub(super) fn new() -> Self {
        Self { sender: broadcast::channel(CHANGES_KEPT).0, lost: Arc::default() }
    }

    /// Changes that somebody was too slow to hear of.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// What [`Node::record_changes`] tells.
pub struct RecordChanges {
    changes: broadcast::Receiver<Changed>,
    lost: Arc<AtomicU64>,
}

/// One thing that [`RecordChanges`] tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordChange {
    /// This record is another now.
    Record(Changed),
    /// So many changes were not heard of, for they came faster than they were read: whatever one
    /// holds may be old.
    Lost(u64),
}

impl RecordChanges {
    /// Those that this sender tells.
    pub fn of(sender: &broadcast::Sender<Changed>) -> Self {
        Self { changes: sender.subscribe(), lost: Arc::default() }
    }

    /// The next; none once the node has stopped.
    pub async fn next(&mut self) -> Option<RecordChange> {
        match self.changes.recv().await {
            Ok(changed) => Some(RecordChange::Record(changed)),
            Err(broadcast::error::RecvError::Lagged(count)) => {
                self.lost.fetch_add(count, Ordering::Relaxed);
                Some(RecordChange::Lost(count))
            }
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// Something that somebody wants of the ledger.
pub(super) enum Call {
    Write(Write, oneshot::Sender<Result<Receipt, Refusal>>),
    Read(Box<dyn FnOnce(&Ledger) + Send>),
    Decree(Decree, oneshot::Sender<Decreed>),
    Move(Order, oneshot::Sender<Outcome>),
    Drained(oneshot::Sender<DrainState>),
    Demand(oneshot::Sender<Demand>),
}

impl Node {
    /// Changes the ledger; answers when it is on disk here, and where else it was waited for.
    pub async fn write(&self, write: Write) -> Result<Receipt, Refusal> {
        let (answer, answered) = oneshot::channel();
        let gone = || Refusal::Disk("the node is stopping".into());
        let sent = self.shared.calls.send(Call::Write(write, answer)).await;
        sent.map_err(|_stopped| gone())?;
        answered.await.map_err(|_stopped| gone())?
    }

    /// Reads the ledger, on the control loop: be quick. Nothing if the node is stopping.
    pub async fn read_ledger<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Ledger) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let read = Box::new(move |ledger: &Ledger| drop(answer.send(read(ledger))));
        self.shared.calls.send(Call::Read(read)).await.ok()?;
        answered.await.ok()
    }
}

impl Node {
    /// Who changed what where, the newest first, from before a place: see [`Ledger::audit`].
    pub async fn audit(&self, before: Option<AuditCursor>, limit: usize) -> Vec<Audit> {
        let audit = self.read_ledger(move |ledger| ledger.audit(before, limit)).await;
        audit.unwrap_or_default()
    }

    /// Writes the ledger as it is at this moment, and who belongs to the mesh, into a file, while
    /// everything goes on. It holds no key.
    pub async fn backup(&self, file: PathBuf) -> Result<BackedUp, StoreError> {
        let (source, mesh) = (self.shared.source.clone(), self.roster().mesh());
        let made = wall_ms();
        let write = move || source.backup(mesh, made, &file);
        let written = tokio::task::spawn_blocking(write).await;
        written.unwrap_or(Err(StoreError::Defect))
    }

    /// Tells which records are others from now on: of this node's changes and of those that came
    /// from others, each once it is on disk.
    pub fn record_changes(&self) -> RecordChanges {
        let Told { sender, lost } = &self.shared.told;
        RecordChanges { changes: sender.subscribe(), lost: lost.clone() }
    }

    /// Who may do what. Hold it for a question, not for a wait.
    pub fn rights(&self) -> RwLockReadGuard<'_, Rights> {
        self.shared.rights.read()
    }

    /// Changes whenever [`Node::rights`] does.
    pub fn rights_changes(&self) -> watch::Receiver<u64> {
        self.shared.rights_changes.clone()
    }
}

impl Node {
    /// Sends an encoder that is at home here to another node; answers when it is there, or why it
    /// is not.
    pub async fn move_encoder(&self, order: Order) -> Outcome {
        let (answer, answered) = oneshot::channel();
        let gone = || Outcome::Refused("the node is stopping".into());
        if self.shared.calls.send(Call::Move(order, answer)).await.is_err() {
            return gone();
        }
        answered.await.unwrap_or_else(|_stopped| gone())
    }

    /// How far this node is emptied, whether or not it is to be; nothing if it is stopping.
    pub async fn drain_state(&self) -> Option<DrainState> {
        let (answer, answered) = oneshot::channel();
        self.shared.calls.send(Call::Drained(answer)).await.ok()?;
        answered.await.ok()
    }

    /// What this node believes that there is to plan with; nothing if it is stopping.
    pub async fn demand(&self) -> Option<Demand> {
        let (answer, answered) = oneshot::channel();
        self.shared.calls.send(Call::Demand(answer)).await.ok()?;
        answered.await.ok()
    }
}

impl Driver {
    pub(super) fn record_changed(&mut self, changed: Changed) {
        if changed.rights {
            self.rights_changes.send_modify(|version| *version += 1);
        }
        // Nobody need listen.
        let _ = self.told.sender.send(changed);
    }

    /// Others may be shut out than before: what they signed is no good from now on.
    pub(super) fn trust_changed(&self) {
        self.rights_changes.send_modify(|version| *version += 1);
    }

    pub(super) fn call(&mut self, call: Call) {
        match call {
            Call::Write(write, answer) => {
                self.last_write += 1;
                let ticket = self.last_write;
                self.writes.insert(ticket, answer);
                self.handle(Event::Write { ticket, write });
            }
            Call::Read(read) => read(self.control.ledger()),
            Call::Decree(decree, answer) => self.decree(decree, answer),
            Call::Move(mut order, answer) => {
                self.last_move += 1;
                order.ticket = self.last_move;
                self.moves.insert(order.ticket, answer);
                self.handle(Event::Move(order));
            }
            // Nobody need wait for it any more.
            Call::Drained(answer) => drop(answer.send(self.control.drain_state(self.clock.now()))),
            Call::Demand(answer) => drop(answer.send(self.control.demand())),
        }
    }
}

/// Ends of calls.
pub(super) fn calls() -> (mpsc::Sender<Call>, mpsc::Receiver<Call>) {
    mpsc::channel(CALL_QUEUE)
}

pub(super) fn tell(note: &Note) {
    match note {
        Note::Overtaken { peer } => tracing::warn!(
            event = "ledger.overtaken", peer = %peer,
            "others have changes of this node that it does not have itself: an older copy of its \
             folder or machine was put back; it takes them over"
        ),
        Note::Reentering { peer } => tracing::warn!(
            event = "ledger.reentering", peer = %peer,
            "this store was away for longer than others remember: it takes over everything"
        ),
        Note::Reentered { removed } => tracing::warn!(
            event = "ledger.reentered",
            removed,
            "everything was taken over; what others had removed is removed here, too"
        ),
        Note::Disk { reason, commits } => tracing::error!(
            event = "ledger.refused",
            err = reason,
            commits,
            "the disk refuses changes of accounts and settings; they were refused, all else goes on"
        ),
    }
}

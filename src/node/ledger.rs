//! The ledger as the rest of the process reaches it: through the control loop, which owns it.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::Node;
use super::drive::Driver;
use crate::access::Rights;
use crate::accounts::{Key, Ledger, Note, Receipt, Refusal, Write};
use crate::control::Event;

/// Questions and changes that wait for the control loop; beyond it whoever has one waits.
pub(super) const CALL_QUEUE: usize = 256;

/// Changed records that are kept for whoever follows them; who is further behind is told, and looks
/// at everything again.
const CHANGES_KEPT: usize = 4_096;

/// The index of rights for whoever is not on the control loop: a copy, kept up with it.
pub(super) struct SharedRights {
    index: Arc<RwLock<Rights>>,
    changes: watch::Sender<u64>,
    records: broadcast::Sender<Key>,
}

/// How [`SharedRights`] is read.
pub(super) struct RightsReader {
    index: Arc<RwLock<Rights>>,
    changes: watch::Receiver<u64>,
    records: broadcast::Sender<Key>,
}

impl SharedRights {
    pub(super) fn new(rights: Rights) -> (Self, RightsReader) {
        let index = Arc::new(RwLock::new(rights));
        let (changes, changed) = watch::channel(0);
        let records = broadcast::Sender::new(CHANGES_KEPT);
        let reader =
            RightsReader { index: index.clone(), changes: changed, records: records.clone() };
        (Self { index, changes, records }, reader)
    }
}

/// Something that somebody wants of the ledger.
pub(super) enum Call {
    Write(Write, oneshot::Sender<Result<Receipt, Refusal>>),
    Read(Box<dyn FnOnce(&Ledger) + Send>),
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
    /// Who may do what. Hold it for a question, not for a wait.
    pub fn rights(&self) -> RwLockReadGuard<'_, Rights> {
        self.shared.rights.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes whenever [`Node::rights`] does.
    pub fn rights_changes(&self) -> watch::Receiver<u64> {
        self.shared.rights.changes.clone()
    }

    /// Every record that changes, once [`Node::rights`] knows.
    pub fn record_changes(&self) -> broadcast::Receiver<Key> {
        self.shared.rights.records.subscribe()
    }
}

impl Driver {
    pub(super) fn record_changed(&mut self, key: Key) {
        if Rights::KINDS.contains(&key.kind) {
            let record = self.control.ledger().get(key);
            let mut index = self.rights.index.write().unwrap_or_else(PoisonError::into_inner);
            if index.changed(key, record.as_ref()) {
                self.rights.changes.send_replace(index.version());
            }
        }
        // Nobody may be following.
        let _ = self.rights.records.send(key);
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
        Note::Disk(reason) => tracing::error!(
            event = "ledger.refused",
            err = reason,
            "the disk refuses changes of accounts and settings; they were refused, all else goes on"
        ),
    }
}

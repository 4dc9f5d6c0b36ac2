//! Writes to the store on a thread of its own: the control loop never waits for a disk.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::{mpsc, oneshot, watch};

use crate::accounts::Batch;
use crate::admission::Statement;
use crate::control::Event;
use crate::id::{Boot, MeshId, NodeId};
use crate::store::{Store, StoreError};
use crate::wire;

/// What could not be written is tried again after this long.
const RETRY: Duration = Duration::from_secs(2);

type Answer = oneshot::Sender<Result<wire::Admitted, String>>;

/// Somebody who is told once everything before is on disk, or why it is not.
type Told = Box<dyn FnOnce(Result<(), String>) + Send>;

pub(super) struct Writer {
    jobs: Sender<Job>,
    size: Arc<AtomicU64>,
    trouble: Arc<ArcSwapOption<String>>,
}

enum Job {
    Statements(u64, Vec<Statement>),
    Remember(Vec<(NodeId, Vec<String>)>),
    Name(NodeId, String),
    Boot(Boot),
    Ledger(Batch),
    Tell(Told),
}

/// What is written in one go.
enum Piece<'a> {
    Unsaved(&'a Unsaved),
    Ledger(&'a Batch),
}

/// What is not on disk yet. It holds no more than the roster does.
#[derive(Debug, Default)]
struct Unsaved {
    statements: Vec<Statement>,
    /// The number of the last batch of them.
    number: u64,
    members: BTreeMap<NodeId, Vec<String>>,
    names: BTreeMap<NodeId, String>,
    boot: Option<Boot>,
}

impl Writer {
    /// Begins, and says [`Event::Persisted`] for each batch of the ledger. Once it is dropped and
    /// all is on disk, what is returned with it says that its sender is gone.
    pub(super) fn start(
        store: Store,
        mesh: MeshId,
        events: mpsc::Sender<Event>,
    ) -> (Self, watch::Receiver<()>) {
        let size = Arc::new(AtomicU64::new(store.size().unwrap_or(0)));
        let shown = size.clone();
        Self::with(size, events, move |piece| {
            let written = match piece {
                Piece::Unsaved(unsaved) => unsaved.write(&store),
                Piece::Ledger(batch) => store.write_ledger(mesh, batch),
            };
            shown.store(store.size().unwrap_or(0), Ordering::Relaxed);
            written
        })
    }

    fn with(
        size: Arc<AtomicU64>,
        events: mpsc::Sender<Event>,
        write: impl FnMut(Piece<'_>) -> Result<(), StoreError> + Send + 'static,
    ) -> (Self, watch::Receiver<()>) {
        let mut write = guarded(write);
        let (jobs, queue) = channel();
        let (unfinished, finished) = watch::channel(());
        let trouble = Arc::new(ArcSwapOption::empty());
        let told = trouble.clone();
        std::thread::Builder::new()
            .name("store".into())
            .spawn(move || {
                run(&queue, &told, &events, &mut write);
                // With it the database, which is whole on disk then.
                drop(write);
                drop(unfinished);
            })
            .expect("a thread can be started");
        (Self { jobs, size, trouble }, finished)
    }

    /// Says [`Event::Recorded`] with the number once they are on disk.
    pub(super) fn statements(&self, number: u64, new: Vec<Statement>) {
        let _ = self.jobs.send(Job::Statements(number, new));
    }

    pub(super) fn remember(&self, members: Vec<(NodeId, Vec<String>)>) {
        let _ = self.jobs.send(Job::Remember(members));
    }

    pub(super) fn name(&self, node: NodeId, name: String) {
        let _ = self.jobs.send(Job::Name(node, name));
    }

    pub(super) fn boot(&self, boot: Boot) {
        let _ = self.jobs.send(Job::Boot(boot));
    }

    /// Written at once or refused: the ledger asks again for what it still needs.
    pub(super) fn ledger(&self, batch: Batch) {
        let _ = self.jobs.send(Job::Ledger(batch));
    }

    /// Answers once everything before is on disk.
    pub(super) fn answer(&self, answer: Answer, admitted: wire::Admitted) {
        self.tell(move |written: Result<(), String>| {
            let result = written.map(|()| admitted);
            let result = result.map_err(|why| format!("the seed cannot write it down: {why}"));
            // The newcomer may have gone.
            let _ = answer.send(result);
        });
    }

    /// Calls once everything before is on disk, or refused by it.
    pub(super) fn tell(&self, told: impl FnOnce(Result<(), String>) + Send + 'static) {
        let _ = self.jobs.send(Job::Tell(Box::new(told)));
    }

    pub(super) fn size(&self) -> Option<u64> {
        Some(self.size.load(Ordering::Relaxed)).filter(|bytes| *bytes > 0)
    }

    /// Why something is not on disk at present.
    pub(super) fn trouble(&self) -> Option<Arc<String>> {
        self.trouble.load_full()
    }
}

impl Unsaved {
    fn is_empty(&self) -> bool {
        self.statements.is_empty()
            && self.members.is_empty()
            && self.names.is_empty()
            && self.boot.is_none()
    }

    fn write(&self, store: &Store) -> Result<(), StoreError> {
        store.add_statements(&self.statements)?;
        let members: Vec<_> = self.members.clone().into_iter().collect();
        store.remember(&members)?;
        let names: Vec<_> = self.names.clone().into_iter().collect();
        store.name(&names)?;
        self.boot.map_or(Ok(()), |boot| store.raise_boot(boot))
    }
}

/// A defect in writing costs the writes from then on, each of them refused in words: nobody waits
/// for a thread that is gone. What it left half done is not touched again.
fn guarded(
    mut write: impl FnMut(Piece<'_>) -> Result<(), StoreError>,
) -> impl FnMut(Piece<'_>) -> Result<(), StoreError> {
    let mut broken = false;
    move |piece| {
        if !broken {
            match catch_unwind(AssertUnwindSafe(|| write(piece))) {
                Ok(written) => return written,
                Err(_panic) => broken = true,
            }
        }
        Err(StoreError::Defect)
    }
}

fn run(
    queue: &Receiver<Job>,
    trouble: &ArcSwapOption<String>,
    events: &mpsc::Sender<Event>,
    mut write: impl FnMut(Piece<'_>) -> Result<(), StoreError>,
) {
    let mut unsaved = Unsaved::default();
    let mut last = false;
    while !last {
        let job = match unsaved.is_empty() && trouble.load().is_none() {
            true => queue.recv().map_err(|_gone| RecvTimeoutError::Disconnected),
            false => queue.recv_timeout(RETRY),
        };
        let mut batch = None;
        match job {
            Ok(Job::Statements(number, new)) => {
                unsaved.statements.extend(new);
                unsaved.number = number;
            }
            Ok(Job::Remember(members)) => unsaved.members.extend(members),
            Ok(Job::Name(node, name)) => drop(unsaved.names.insert(node, name)),
            Ok(Job::Boot(boot)) => unsaved.boot = Some(boot),
            Ok(Job::Ledger(new)) => batch = Some(new),
            Ok(Job::Tell(told)) => {
                // A change of the ledger that was refused is no concern of these.
                let trouble = trouble.load_full().filter(|_| !unsaved.is_empty());
                told(trouble.map_or(Ok(()), |trouble| Err(trouble.to_string())));
                continue;
            }
            // Only a change of the ledger was refused, and that is not tried again: an empty one
            // tells whether the disk takes writes now.
            Err(RecvTimeoutError::Timeout) if unsaved.is_empty() => {
                note(trouble, write(Piece::Ledger(&Batch::default())).err());
                continue;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) if unsaved.is_empty() => return,
            // The last chance of what was refused before.
            Err(RecvTimeoutError::Disconnected) => last = true,
        }
        if batch.is_none() && unsaved.is_empty() {
            continue;
        }
        let mut failed = None;
        if let Some(batch) = batch {
            let written = write(Piece::Ledger(&batch));
            let said = written.as_ref().copied().map_err(ToString::to_string);
            failed = written.err();
            // Nobody hears it if the node is stopping.
            let _ = events.blocking_send(Event::Persisted(said));
        }
        if !unsaved.is_empty() {
            match write(Piece::Unsaved(&unsaved)) {
                Ok(()) => {
                    let written = std::mem::take(&mut unsaved);
                    if !written.statements.is_empty() {
                        let _ = events.blocking_send(Event::Recorded(written.number));
                    }
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        note(trouble, failed);
    }
}

fn note(trouble: &ArcSwapOption<String>, failed: Option<StoreError>) {
    match failed {
        None => {
            if trouble.swap(None).is_some() {
                tracing::info!(event = "store.recovered", "the store takes writes again");
            }
        }
        // The first reason is the cause; later ones often say only that it failed before.
        Some(error) if trouble.load().is_none() => {
            tracing::error!(event = "store.failed", err = %error, "the store refuses a write");
            trouble.store(Some(Arc::new(error.to_string())));
        }
        Some(_again) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::AtomicBool;
    use std::time::Instant;

    use super::*;
    use crate::accounts::Row;
    use crate::admission::Statements;
    use crate::id::ActorId;

    #[test]
    fn what_a_full_disk_refuses_is_said_and_written_once_there_is_room() {
        let full = Arc::new(AtomicBool::new(true));
        let written = Arc::new(Mutex::new(None));
        let (disk, noted) = (full.clone(), written.clone());
        let (writer, _) = Writer::with(Arc::default(), mpsc::channel(1).0, move |piece| {
            let Piece::Unsaved(unsaved) = piece else { panic!("there is no ledger") };
            if disk.load(Ordering::Relaxed) {
                return Err(StoreError::Full { path: "roost.redb".into() });
            }
            *noted.lock().unwrap() = unsaved.boot;
            Ok(())
        });
        let wait = |what: &str, done: &dyn Fn() -> bool| {
            let begin = Instant::now();
            while !done() {
                assert!(begin.elapsed() < Duration::from_secs(20), "{what}");
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        writer.boot(Boot(7));
        wait("the trouble is told", &|| writer.trouble().is_some_and(|t| t.contains("full")));
        let (answer, answered) = oneshot::channel();
        writer.answer(
            answer,
            wire::Admitted {
                statements: Statements::default(),
                members: Vec::new(),
                names: Vec::new(),
            },
        );
        let refused = answered.blocking_recv().unwrap().unwrap_err();
        assert!(refused.contains("full"), "{refused}");
        assert!(writer.trouble().is_some(), "an answer changes nothing");
        full.store(false, Ordering::Relaxed);
        wait("it is written", &|| *written.lock().unwrap() == Some(Boot(7)));
        wait("all is well", &|| writer.trouble().is_none());
    }

    #[test]
    fn a_change_of_the_ledger_that_the_disk_refuses_is_answered_and_not_written_later() {
        let full = Arc::new(AtomicBool::new(true));
        let written = Arc::new(Mutex::new(Vec::new()));
        let (disk, noted) = (full.clone(), written.clone());
        let (events, mut said) = mpsc::channel(1);
        let (writer, _) = Writer::with(Arc::default(), events, move |piece| {
            if disk.load(Ordering::Relaxed) {
                return Err(StoreError::Full { path: "roost.redb".into() });
            }
            if let Piece::Ledger(batch) = piece {
                noted.lock().unwrap().push(batch.clone());
            }
            Ok(())
        });
        let batch =
            |n| Batch { actors: vec![(ActorId([n; 16]), Row::default())], ..Batch::default() };
        writer.ledger(batch(1));
        let refused = said.blocking_recv().unwrap();
        assert!(
            matches!(&refused, Event::Persisted(Err(why)) if why.contains("full")),
            "{refused:?}"
        );
        let wait = |what: &str, done: &dyn Fn() -> bool| {
            let begin = Instant::now();
            while !done() {
                assert!(begin.elapsed() < Duration::from_secs(20), "{what}");
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        wait("the trouble is told", &|| writer.trouble().is_some_and(|t| t.contains("full")));
        let (answer, answered) = oneshot::channel();
        writer.answer(
            answer,
            wire::Admitted {
                statements: Statements::default(),
                members: Vec::new(),
                names: Vec::new(),
            },
        );
        assert!(answered.blocking_recv().unwrap().is_ok(), "a newcomer gets in");
        full.store(false, Ordering::Relaxed);
        wait("all is well though nothing else changes", &|| writer.trouble().is_none());
        writer.ledger(batch(2));
        assert!(matches!(said.blocking_recv().unwrap(), Event::Persisted(Ok(()))));
        assert_eq!(*written.lock().unwrap(), [Batch::default(), batch(2)]);
        assert!(said.try_recv().is_err(), "each is answered once");
    }

    #[test]
    fn whoever_waits_for_a_store_that_has_a_defect_is_answered() {
        let (events, mut said) = mpsc::channel(8);
        let mut first = true;
        let (writer, _) = Writer::with(Arc::default(), events, move |_| {
            assert!(std::mem::replace(&mut first, false), "it is not touched again");
            panic!("a defect");
        });
        for _ in 0..3 {
            writer.ledger(Batch::default());
            let answer = said.blocking_recv().unwrap();
            assert!(
                matches!(&answer, Event::Persisted(Err(why)) if why.contains("defect")),
                "{answer:?}"
            );
        }
        writer.boot(Boot(1));
        let (answer, answered) = oneshot::channel();
        writer.answer(
            answer,
            wire::Admitted {
                statements: Statements::default(),
                members: Vec::new(),
                names: Vec::new(),
            },
        );
        assert!(answered.blocking_recv().unwrap().is_err(), "a newcomer, too");
        assert!(writer.trouble().is_some_and(|why| why.contains("defect")), "and it is told");
    }

    #[tokio::test]
    async fn what_was_to_be_stored_when_the_node_stops_is_on_disk_before_it_is_over() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let (noted, (go, may_go)) = (written.clone(), channel());
        let (events, gone) = mpsc::channel(1);
        let (writer, mut finished) = Writer::with(Arc::default(), events, move |piece| {
            // A slow disk.
            let _ = may_go.recv();
            noted.lock().unwrap().push(match piece {
                Piece::Unsaved(unsaved) => unsaved.boot,
                Piece::Ledger(_) => None,
            });
            Ok(())
        });
        writer.boot(Boot(1));
        (0..2).for_each(|_| writer.ledger(Batch::default()));
        writer.boot(Boot(2));
        drop((writer, gone));
        let wait = Duration::from_millis(50);
        assert!(tokio::time::timeout(wait, finished.changed()).await.is_err(), "it is not over");
        (0..4).for_each(|_| go.send(()).unwrap());
        let over = tokio::time::timeout(Duration::from_secs(20), finished.changed()).await;
        assert!(over.is_ok_and(|sender| sender.is_err()), "it is over");
        assert_eq!(*written.lock().unwrap(), [Some(Boot(1)), None, None, Some(Boot(2))]);
    }
}

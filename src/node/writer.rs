//! Writes to the store, one after the other and off the async threads: the control loop never waits
//! for a disk.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

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
    jobs: mpsc::UnboundedSender<Job>,
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
        let (jobs, queue) = mpsc::unbounded_channel();
        let (unfinished, finished) = watch::channel(());
        let trouble = Arc::new(ArcSwapOption::empty());
        let (write, unsaved) = (guarded(write), Unsaved::default());
        let desk = Desk { queue, trouble: trouble.clone(), events, write, unsaved };
        tokio::spawn(run(desk, unfinished));
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

/// What the writing needs, on whichever thread it is done.
struct Desk<W> {
    queue: mpsc::UnboundedReceiver<Job>,
    trouble: Arc<ArcSwapOption<String>>,
    events: mpsc::Sender<Event>,
    write: W,
    unsaved: Unsaved,
}

/// What there is to do.
enum Task {
    Job(Job),
    /// What was refused is tried again.
    Again,
    /// Nothing more will come.
    End,
}

/// Waits for something to write, and has it written by one blocking call at a time, so that
/// tokio's clock knows of it. Keeps `_unfinished` until all is on disk.
async fn run<W>(mut desk: Desk<W>, _unfinished: watch::Sender<()>)
where
    W: FnMut(Piece<'_>) -> Result<(), StoreError> + Send + 'static,
{
    loop {
        let next = async |desk: &mut Desk<W>| desk.queue.recv().await.map_or(Task::End, Task::Job);
        let task = match desk.is_calm() {
            true => next(&mut desk).await,
            false => timeout(RETRY, next(&mut desk)).await.unwrap_or(Task::Again),
        };
        // Dropped at the end, and with it the database, which is whole on disk then.
        let worked = spawn_blocking(move || desk.work(task).then_some(desk)).await;
        let Ok(Some(back)) = worked else { return };
        desk = back;
    }
}

impl<W: FnMut(Piece<'_>) -> Result<(), StoreError>> Desk<W> {
    fn is_calm(&self) -> bool {
        self.unsaved.is_empty() && self.trouble.load().is_none()
    }

    /// Does this and whatever else waits. False once there is nothing left to do, ever.
    fn work(&mut self, mut task: Task) -> bool {
        loop {
            if !self.step(task) {
                return false;
            }
            task = match self.queue.try_recv() {
                Ok(job) => Task::Job(job),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => Task::End,
            };
        }
    }

    fn step(&mut self, task: Task) -> bool {
        let Self { trouble, events, write, unsaved, .. } = self;
        let mut batch = None;
        let mut last = false;
        match task {
            Task::Job(Job::Statements(number, new)) => {
                unsaved.statements.extend(new);
                unsaved.number = number;
            }
            Task::Job(Job::Remember(members)) => unsaved.members.extend(members),
            Task::Job(Job::Name(node, name)) => drop(unsaved.names.insert(node, name)),
            Task::Job(Job::Boot(boot)) => unsaved.boot = Some(boot),
            Task::Job(Job::Ledger(new)) => batch = Some(new),
            Task::Job(Job::Tell(told)) => {
                // A change of the ledger that was refused is no concern of these.
                let trouble = trouble.load_full().filter(|_| !unsaved.is_empty());
                told(trouble.map_or(Ok(()), |trouble| Err(trouble.to_string())));
                return true;
            }
            // Only a change of the ledger was refused, and that is not tried again: an empty one
            // tells whether the disk takes writes now.
            Task::Again if unsaved.is_empty() => {
                note(trouble, write(Piece::Ledger(&Batch::default())).err());
                return true;
            }
            Task::Again => {}
            Task::End if unsaved.is_empty() => return false,
            // The last chance of what was refused before.
            Task::End => last = true,
        }
        if batch.is_none() && unsaved.is_empty() {
            return true;
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
            match write(Piece::Unsaved(unsaved)) {
                Ok(()) => {
                    let written = std::mem::take(unsaved);
                    if !written.statements.is_empty() {
                        let _ = events.blocking_send(Event::Recorded(written.number));
                    }
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        note(trouble, failed);
        !last
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

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn what_a_full_disk_refuses_is_said_and_written_once_there_is_room() {
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
        let refused = answered.await.unwrap().unwrap_err();
        assert!(refused.contains("full"), "{refused}");
        assert!(writer.trouble().is_some(), "an answer changes nothing");
        full.store(false, Ordering::Relaxed);
        wait("it is written", &|| *written.lock().unwrap() == Some(Boot(7)));
        wait("all is well", &|| writer.trouble().is_none());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_change_of_the_ledger_that_the_disk_refuses_is_answered_and_not_written_later() {
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
        let refused = said.recv().await.unwrap();
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
        assert!(answered.await.unwrap().is_ok(), "a newcomer gets in");
        full.store(false, Ordering::Relaxed);
        wait("all is well though nothing else changes", &|| writer.trouble().is_none());
        writer.ledger(batch(2));
        assert!(matches!(said.recv().await.unwrap(), Event::Persisted(Ok(()))));
        assert_eq!(*written.lock().unwrap(), [Batch::default(), batch(2)]);
        assert!(said.try_recv().is_err(), "each is answered once");
    }

    #[tokio::test]
    async fn whoever_waits_for_a_store_that_has_a_defect_is_answered() {
        let (events, mut said) = mpsc::channel(8);
        let mut first = true;
        let (writer, _) = Writer::with(Arc::default(), events, move |_| {
            assert!(std::mem::replace(&mut first, false), "it is not touched again");
            panic!("a defect");
        });
        for _ in 0..3 {
            writer.ledger(Batch::default());
            let answer = said.recv().await.unwrap();
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
        assert!(answered.await.unwrap().is_err(), "a newcomer, too");
        assert!(writer.trouble().is_some_and(|why| why.contains("defect")), "and it is told");
    }

    #[tokio::test]
    async fn what_was_to_be_stored_when_the_node_stops_is_on_disk_before_it_is_over() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let (noted, (go, may_go)) = (written.clone(), std::sync::mpsc::channel());
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
        assert!(timeout(wait, finished.changed()).await.is_err(), "it is not over");
        (0..4).for_each(|_| go.send(()).unwrap());
        let over = timeout(Duration::from_secs(20), finished.changed()).await;
        assert!(over.is_ok_and(|sender| sender.is_err()), "it is over");
        assert_eq!(*written.lock().unwrap(), [Some(Boot(1)), None, None, Some(Boot(2))]);
    }
}

//! Writes to the store on a thread of its own: the control loop never waits for a disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::{oneshot, watch};

use crate::admission::Admission;
use crate::id::{Boot, NodeId};
use crate::store::{Store, StoreError};
use crate::wire;

/// What could not be written is tried again after this long.
const RETRY: Duration = Duration::from_secs(2);

type Answer = oneshot::Sender<Result<wire::Admitted, String>>;

pub(super) struct Writer {
    jobs: Sender<Job>,
    size: Arc<AtomicU64>,
    trouble: Arc<ArcSwapOption<String>>,
}

enum Job {
    Admissions(Vec<Admission>),
    Remember(Vec<(NodeId, Vec<String>)>),
    Boot(Boot),
    Answer(Answer, wire::Admitted),
}

/// What is not on disk yet. It holds no more than the roster does.
#[derive(Debug, Default)]
struct Unsaved {
    admissions: Vec<Admission>,
    members: BTreeMap<NodeId, Vec<String>>,
    boot: Option<Boot>,
}

impl Writer {
    /// Begins. Once it is dropped and all is on disk, what is returned with it says that its
    /// sender is gone.
    pub(super) fn start(store: Store) -> (Self, watch::Receiver<()>) {
        let size = Arc::new(AtomicU64::new(store.size().unwrap_or(0)));
        let shown = size.clone();
        Self::with(size, move |unsaved| {
            let written = unsaved.write(&store);
            shown.store(store.size().unwrap_or(0), Ordering::Relaxed);
            written
        })
    }

    fn with(
        size: Arc<AtomicU64>,
        mut write: impl FnMut(&Unsaved) -> Result<(), StoreError> + Send + 'static,
    ) -> (Self, watch::Receiver<()>) {
        let (jobs, queue) = channel();
        let (unfinished, finished) = watch::channel(());
        let trouble = Arc::new(ArcSwapOption::empty());
        let told = trouble.clone();
        std::thread::Builder::new()
            .name("store".into())
            .spawn(move || {
                run(&queue, &told, &mut write);
                // With it the database, which is whole on disk then.
                drop(write);
                drop(unfinished);
            })
            .expect("a thread can be started");
        (Self { jobs, size, trouble }, finished)
    }

    pub(super) fn admissions(&self, new: Vec<Admission>) {
        let _ = self.jobs.send(Job::Admissions(new));
    }

    pub(super) fn remember(&self, members: Vec<(NodeId, Vec<String>)>) {
        let _ = self.jobs.send(Job::Remember(members));
    }

    pub(super) fn boot(&self, boot: Boot) {
        let _ = self.jobs.send(Job::Boot(boot));
    }

    /// Answers once everything before is on disk.
    pub(super) fn answer(&self, answer: Answer, admitted: wire::Admitted) {
        let _ = self.jobs.send(Job::Answer(answer, admitted));
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
        self.admissions.is_empty() && self.members.is_empty() && self.boot.is_none()
    }

    fn write(&self, store: &Store) -> Result<(), StoreError> {
        store.add_admissions(&self.admissions)?;
        let members: Vec<_> = self.members.clone().into_iter().collect();
        store.remember(&members)?;
        self.boot.map_or(Ok(()), |boot| store.raise_boot(boot))
    }
}

fn run(
    queue: &Receiver<Job>,
    trouble: &ArcSwapOption<String>,
    mut write: impl FnMut(&Unsaved) -> Result<(), StoreError>,
) {
    let mut unsaved = Unsaved::default();
    let mut last = false;
    while !last {
        let job = match unsaved.is_empty() {
            true => queue.recv().map_err(|_gone| RecvTimeoutError::Disconnected),
            false => queue.recv_timeout(RETRY),
        };
        match job {
            Ok(Job::Admissions(new)) => unsaved.admissions.extend(new),
            Ok(Job::Remember(members)) => unsaved.members.extend(members),
            Ok(Job::Boot(boot)) => unsaved.boot = Some(boot),
            Ok(Job::Answer(answer, admitted)) => {
                let result = match trouble.load_full() {
                    None => Ok(admitted),
                    Some(trouble) => Err(format!("the seed cannot write it down: {trouble}")),
                };
                // The newcomer may have gone.
                let _ = answer.send(result);
                continue;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) if unsaved.is_empty() => return,
            // The last chance of what was refused before.
            Err(RecvTimeoutError::Disconnected) => last = true,
        }
        match write(&unsaved) {
            Ok(()) => {
                unsaved = Unsaved::default();
                if trouble.swap(None).is_some() {
                    tracing::info!(event = "store.recovered", "the store takes writes again");
                }
            }
            // The first reason is the cause; later ones often say only that it failed before.
            Err(error) if trouble.load().is_none() => {
                tracing::error!(event = "store.failed", err = %error, "the store refuses a write");
                trouble.store(Some(Arc::new(error.to_string())));
            }
            Err(_again) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::AtomicBool;
    use std::time::Instant;

    use super::*;

    #[test]
    fn what_a_full_disk_refuses_is_said_and_written_once_there_is_room() {
        let full = Arc::new(AtomicBool::new(true));
        let written = Arc::new(Mutex::new(None));
        let (disk, noted) = (full.clone(), written.clone());
        let (writer, _) = Writer::with(Arc::default(), move |unsaved| {
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
        writer.answer(answer, wire::Admitted { admissions: Vec::new(), members: Vec::new() });
        let refused = answered.blocking_recv().unwrap().unwrap_err();
        assert!(refused.contains("full"), "{refused}");
        assert!(writer.trouble().is_some(), "an answer changes nothing");
        full.store(false, Ordering::Relaxed);
        wait("it is written", &|| *written.lock().unwrap() == Some(Boot(7)));
        wait("all is well", &|| writer.trouble().is_none());
    }

    #[tokio::test]
    async fn what_was_to_be_stored_when_the_node_stops_is_on_disk_before_it_is_over() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let (noted, (go, may_go)) = (written.clone(), channel());
        let (writer, mut finished) = Writer::with(Arc::default(), move |unsaved| {
            // A slow disk.
            let _ = may_go.recv();
            noted.lock().unwrap().extend(unsaved.boot);
            Ok(())
        });
        (1..=3).for_each(|boot| writer.boot(Boot(boot)));
        drop(writer);
        let wait = Duration::from_millis(50);
        assert!(tokio::time::timeout(wait, finished.changed()).await.is_err(), "it is not over");
        (1..=3).for_each(|_| go.send(()).unwrap());
        let over = tokio::time::timeout(Duration::from_secs(20), finished.changed()).await;
        assert!(over.is_ok_and(|sender| sender.is_err()), "it is over");
        assert_eq!(*written.lock().unwrap(), [Boot(1), Boot(2), Boot(3)]);
    }
}

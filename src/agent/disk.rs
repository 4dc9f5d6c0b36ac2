//! The thread that writes what agents must know after a restart: a busy disk must not silence
//! heartbeats.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use crate::store::{AgentRecord, AgentStore, Held};

/// How long a disk that takes nothing is left alone.
const AGAIN: Duration = Duration::from_secs(1);
/// News of nodes is written this much later: there may be more by then, of every node that starts
/// several times, and a thousand agents may share the disk.
const LATER: Duration = Duration::from_secs(1);

/// One thread for all agents of a process. It ends with the last of them.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    jobs: Sender<Job>,
}

#[derive(Debug)]
struct Job {
    owner: Arc<Owner>,
    record: AgentRecord,
    lease: Option<u64>,
    /// It may wait for [`LATER`].
    later: bool,
}

/// Whose record it is. Nobody else has it before the last of it is written.
#[derive(Debug)]
struct Owner {
    store: AgentStore,
    name: String,
    leased: UnboundedSender<u64>,
    _held: Held,
}

/// One agent's way to the thread.
#[derive(Debug)]
pub(super) struct Disk {
    writer: Writer,
    owner: Arc<Owner>,
}

impl Writer {
    pub(super) fn start() -> io::Result<Self> {
        let (jobs, queue) = channel();
        thread::Builder::new().name("agent-disk".into()).spawn(move || write(&queue))?;
        Ok(Self { jobs })
    }

    /// For the agent of this name; `leased` is told what is on disk.
    pub(super) fn disk(
        &self,
        store: AgentStore,
        held: Held,
        name: String,
        leased: UnboundedSender<u64>,
    ) -> Disk {
        let owner = Arc::new(Owner { store, name, leased, _held: held });
        Disk { writer: self.clone(), owner }
    }
}

impl Disk {
    pub(super) fn save(&self, record: AgentRecord, lease: Option<u64>) {
        self.send(record, lease, false);
    }

    /// The same for what nobody would miss if this process died within a second.
    pub(super) fn save_later(&self, record: AgentRecord) {
        self.send(record, None, true);
    }

    fn send(&self, record: AgentRecord, lease: Option<u64>, later: bool) {
        let owner = self.owner.clone();
        let _ = self.writer.jobs.send(Job { owner, record, lease, later });
    }
}

fn write(queue: &Receiver<Job>) {
    // Only the newest record of each matters.
    let mut waiting: BTreeMap<*const Owner, (Instant, Job)> = BTreeMap::new();
    loop {
        let got = match waiting.values().map(|(at, _)| *at).min() {
            None => queue.recv().map_err(RecvTimeoutError::from),
            Some(at) => queue.recv_timeout(at.saturating_duration_since(Instant::now())),
        };
        if let Err(RecvTimeoutError::Disconnected) = got {
            break;
        }
        let now = Instant::now();
        for mut job in got.into_iter().chain(queue.try_iter()) {
            let key = Arc::as_ptr(&job.owner);
            let mut at = if job.later { now + LATER } else { now };
            if let Some((earlier, older)) = waiting.remove(&key) {
                at = at.min(earlier);
                job.lease = job.lease.or(older.lease);
            }
            waiting.insert(key, (at, job));
        }
        waiting.retain(|_, (at, job)| {
            let due = *at <= now;
            if due && !job.write() {
                *at = now + AGAIN;
                return true;
            }
            !due
        });
    }
    while !waiting.is_empty() {
        waiting.retain(|_, (_, job)| !job.write());
        if !waiting.is_empty() {
            thread::sleep(AGAIN);
        }
    }
}

impl Job {
    /// Writes it, and tells its agent what is on disk now.
    fn write(&self) -> bool {
        let Owner { store, name, leased, .. } = &*self.owner;
        if let Err(error) = store.save(name, &self.record) {
            tracing::error!(
                err = %error, encoder = name,
                "cannot write down what this agent must know"
            );
            return false;
        }
        if let Some(counter) = self.lease {
            let _ = leased.send(counter);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;
    use crate::id::MeshId;

    #[tokio::test]
    async fn what_waits_for_several_agents_is_written_for_each_of_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = AgentStore::open(folder.path()).expect("a store");
        let writer = Writer::start().expect("a thread");
        let mut agents = Vec::new();
        for name in ["cam-1", "cam-2"] {
            let held = store.hold(name).expect("nobody else has it");
            let record = store.load(name).expect("a record").record;
            let (leased, told) = unbounded_channel();
            let disk = writer.disk(store.clone(), held, name.into(), leased);
            agents.push((name, disk, record, told));
        }
        for leased in 1..=50 {
            for (_, disk, record, _) in &mut agents {
                record.leased = leased;
                disk.save(record.clone(), Some(leased).filter(|counter| counter % 10 == 0));
            }
        }
        for (name, disk, mut record, mut told) in agents {
            record.mesh = Some(MeshId([7; 16]));
            disk.save_later(record.clone());
            drop(disk);
            while told.recv().await != Some(50) {}
            // It is another's to have once all of it is written.
            assert_eq!(told.recv().await, None);
            let _held = store.hold(name).expect("nobody else has it");
            assert_eq!(store.load(name).expect("a record").record, record);
        }
    }
}

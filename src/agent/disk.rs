//! The thread that writes what agents must know after a restart: a busy disk must not silence
//! heartbeats.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use crate::store::{AgentRecord, AgentStore, Held};

/// How long a disk that takes nothing is left alone.
const AGAIN: Duration = Duration::from_secs(1);

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
        let owner = self.owner.clone();
        let _ = self.writer.jobs.send(Job { owner, record, lease });
    }
}

fn write(queue: &Receiver<Job>) {
    while let Ok(first) = queue.recv() {
        let mut waiting: BTreeMap<*const Owner, Job> = BTreeMap::new();
        let mut next = Some(first);
        // Only the newest record of each matters.
        while let Some(mut job) = next {
            let key = Arc::as_ptr(&job.owner);
            if let Some(older) = waiting.remove(&key) {
                job.lease = job.lease.or(older.lease);
            }
            waiting.insert(key, job);
            next = queue.try_recv().ok();
        }
        while !waiting.is_empty() {
            waiting.retain(|_, job| {
                let Job { owner, record, lease } = job;
                if let Err(error) = owner.store.save(&owner.name, record) {
                    tracing::error!(
                        err = %error, encoder = owner.name,
                        "cannot write down what this agent must know"
                    );
                    return true;
                }
                if let Some(counter) = lease {
                    let _ = owner.leased.send(*counter);
                }
                false
            });
            if !waiting.is_empty() {
                thread::sleep(AGAIN);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

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
        for (name, disk, record, mut told) in agents {
            drop(disk);
            while told.recv().await != Some(50) {}
            // It is another's to have once all of it is written.
            assert_eq!(told.recv().await, None);
            let _held = store.hold(name).expect("nobody else has it");
            assert_eq!(store.load(name).expect("a record").record, record);
        }
    }
}

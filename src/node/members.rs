//! Members as the rest of the process shuts them out, lets them in and gives them keys; and mesh
//! time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::oneshot;

use super::drive::Driver;
use super::ledger::Call;
use super::{Clock, Node, random};
use crate::admission::Keypair;
use crate::control::{Event, NoDecree};
use crate::id::NodeId;
use crate::store;
use crate::time::Mono;

/// What came of a question, and whether it is on disk.
pub(super) type Decreed = Result<(), NotDone>;

/// Why a member is not shut out, let in or given another key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotDone {
    /// By the rules.
    #[error(transparent)]
    Refused(#[from] NoDecree),
    /// It counts, and is handed on, but is not written down here.
    #[error("the disk does not take it: {0}; free some space, and ask again")]
    Disk(String),
    /// Nobody is there to do it.
    #[error("the node is stopping")]
    Stopping,
}

/// What somebody asks.
pub(super) enum Decree {
    Revoke(NodeId, String),
    Readmit(NodeId),
    Rotate(Keypair),
}

/// Mesh time for those who do not live in the control loop.
#[derive(Debug)]
pub(super) struct MeshClock {
    clock: Clock,
    /// Mesh time at the origin of the monotonic clock; 0 until it is known.
    origin: AtomicU64,
}

impl MeshClock {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, origin: AtomicU64::new(0) }
    }

    pub(super) fn set(&self, at: Mono, time: u64) {
        self.origin.store(time.saturating_sub(at.0 / 1_000_000).max(1), Ordering::Relaxed);
    }

    pub(super) fn now_ms(&self) -> u64 {
        let now = self.clock.now();
        match self.origin.load(Ordering::Relaxed) {
            0 => now.wall,
            origin => origin.saturating_add(now.mono.0 / 1_000_000),
        }
    }
}

impl Node {
    /// Shuts a node out; answers when it is on disk here. By then every linked member is told.
    pub async fn revoke(&self, node: NodeId, reason: String) -> Result<(), NotDone> {
        self.decree(Decree::Revoke(node, reason)).await
    }

    /// Lets a node in again; answers when it is on disk here.
    pub async fn readmit(&self, node: NodeId) -> Result<(), NotDone> {
        self.decree(Decree::Readmit(node)).await
    }

    /// Gives this node another key; answers when it is in use.
    pub async fn rotate(&self) -> Result<(), NotDone> {
        // One at a time: the file of a key that others know already must not be lost.
        let _alone = self.shared.rotating.lock().await;
        let key = Keypair::of(self.id(), random());
        let kept = key.clone();
        let fresh = self.on_disk(move |folder| store::keep_next_key(folder, &kept)).await?;
        if !fresh {
            return Err(NoDecree::Rotating.into());
        }
        let decreed = self.decree(Decree::Rotate(key)).await;
        if let Err(NotDone::Refused(_)) = decreed {
            self.on_disk(store::forget_next_key).await?;
        }
        decreed
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&std::path::Path) -> Result<T, store::StoreError> + Send + 'static,
    ) -> Result<T, NotDone> {
        let folder = self.data().to_owned();
        match tokio::task::spawn_blocking(move || work(&folder)).await {
            Ok(result) => result.map_err(|error| NotDone::Disk(error.to_string())),
            Err(defect) => Err(NotDone::Disk(defect.to_string())),
        }
    }

    async fn decree(&self, decree: Decree) -> Result<(), NotDone> {
        let (answer, answered) = oneshot::channel();
        let sent = self.shared.calls.send(Call::Decree(decree, answer)).await;
        sent.map_err(|_stopped| NotDone::Stopping)?;
        answered.await.map_err(|_stopped| NotDone::Stopping)?
    }

    /// What time it is in the mesh, in milliseconds since 1970: expiry is judged by it.
    pub fn mesh_time(&self) -> u64 {
        self.shared.mesh_clock.now_ms()
    }
}

impl Driver {
    pub(super) fn decree(&mut self, decree: Decree, answer: oneshot::Sender<Decreed>) {
        self.last_decree += 1;
        let ticket = self.last_decree;
        self.decrees.insert(ticket, answer);
        self.handle(match decree {
            Decree::Revoke(node, reason) => Event::Revoke { ticket, node, nonce: random(), reason },
            Decree::Readmit(node) => Event::Readmit { ticket, node, nonce: random() },
            Decree::Rotate(key) => Event::Rotate { ticket, key },
        });
    }

    pub(super) fn decreed(&mut self, ticket: u64, result: Result<(), NoDecree>) {
        let Some(answer) = self.decrees.remove(&ticket) else { return };
        match result {
            Ok(()) => self.store.tell(move |written| {
                let _ = answer.send(written.map_err(NotDone::Disk));
            }),
            Err(why) => drop(answer.send(Err(why.into()))),
        }
    }

    /// From now on this node is known by another key.
    pub(super) fn use_key(&mut self, key: Keypair) {
        if let Err(error) = self.net.use_key(&key) {
            tracing::error!(event = "key.unusable", err = %error, "the new key cannot be used");
        }
        self.keypair.store(Arc::new(key.clone()));
        let folder = self.data.clone();
        // Killed before, the next start finds both keys and which of them is in use.
        self.store.tell(move |_| {
            if let Err(error) = store::use_key(&folder, &key) {
                tracing::error!(
                    event = "key.unsaved", err = %error,
                    "the new key is in use but not in its place; the next start tries again"
                );
            }
        });
    }
}

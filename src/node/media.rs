//! Media of this node's own clients: what agents send goes into hubs, what viewers watch comes
//! out of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::flow;
use crate::hub::{Hub, Hubs};
use crate::id::EncoderId;
use crate::media::Packet;
use crate::media::assemble::Assembler;
use crate::media::gop::GopCache;
use crate::wire::FLOW_VIDEO;

/// Media is not believed while the control loop has not turned for this long: the process may
/// just have woken up with old packets in its sockets.
const LOOP_LATE: Duration = Duration::from_millis(350);

/// When the control loop turned last, readable without asking it.
#[derive(Debug)]
pub(super) struct Turning {
    origin: Instant,
    last_ms: AtomicU64,
}

impl Turning {
    pub(super) fn new() -> Self {
        Self { origin: Instant::now(), last_ms: AtomicU64::new(0) }
    }

    pub(super) fn turned(&self) {
        self.last_ms.store(self.elapsed_ms(), Ordering::Relaxed);
    }

    /// How long ago that was.
    pub(super) fn age(&self) -> Duration {
        let last = self.last_ms.load(Ordering::Relaxed);
        Duration::from_millis(self.elapsed_ms().saturating_sub(last))
    }

    fn late(&self) -> bool {
        let last = self.last_ms.load(Ordering::Relaxed);
        u128::from(self.elapsed_ms().saturating_sub(last)) > LOOP_LATE.as_millis()
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// What one agent sends: packets in, frames to the hub that the route names. Frames that come
/// before the route are kept from their last keyframe on, for an agent sends media together with
/// its claim.
#[derive(Debug)]
pub(super) struct Ingest {
    inner: Mutex<Inner>,
    turning: Arc<Turning>,
    /// Frames dropped because this node had stood still.
    pub(super) stale: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    assembler: Assembler,
    early: GopCache,
    target: Option<(Arc<Hub>, u64)>,
}

impl Ingest {
    pub(super) fn new(turning: Arc<Turning>) -> Self {
        Self { inner: Mutex::default(), turning, stale: AtomicU64::new(0) }
    }

    /// One RTP packet, as it came.
    pub(super) fn packet(&self, bytes: &[u8]) {
        let Some(packet) = Packet::parse(bytes) else { return };
        let mut inner = self.lock();
        for assembled in inner.assembler.push(packet) {
            let frame = Arc::new(assembled.frame);
            if self.turning.late() {
                self.stale.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            match &inner.target {
                Some((hub, feed)) => hub.push(*feed, frame),
                None => inner.early.push(frame),
            }
        }
    }

    /// From now on frames go to this hub, those that came early first.
    pub(super) fn attach(&self, hub: Arc<Hub>, feed: u64, timeline: u64) {
        let mut inner = self.lock();
        hub.set_feed(feed, timeline);
        for frame in inner.early.frames() {
            hub.push(feed, frame);
        }
        inner.early.reset();
        inner.target = Some((hub, feed));
    }

    /// Frames go nowhere, and what waits is forgotten.
    pub(super) fn detach(&self) {
        let mut inner = self.lock();
        inner.target = None;
        inner.early.reset();
    }

    /// What came early is too old to show.
    pub(super) fn forget(&self) {
        self.lock().early.reset();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends a stream to a native viewer until the returned task is aborted.
pub(super) fn serve(
    hubs: &Hubs,
    encoder: EncoderId,
    connection: quinn::Connection,
) -> tokio::task::AbortHandle {
    let subscription = hubs.hub(encoder).subscribe();
    let task = tokio::spawn(async move {
        let (start, frames, _ticket) = subscription.split();
        // The connection's end is told elsewhere; there is nobody to send to any more.
        let _ = flow::send(&connection, FLOW_VIDEO, start, frames).await;
    });
    task.abort_handle()
}

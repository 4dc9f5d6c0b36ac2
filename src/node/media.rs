//! Media of this node's own clients: what agents send goes into hubs, what viewers watch comes
//! out of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::flow;
use crate::hub::{Hub, Hubs};
use crate::id::EncoderId;
use crate::media::assemble::{Assembled, Assembler};
use crate::media::gop::GopCache;
use crate::media::{Nack, Packet};
use crate::quic;
use crate::time::Mono;
use crate::wire::FLOW_VIDEO;

/// Media is not believed while the control loop has not turned for this long: the process may
/// just have woken up with old packets in its sockets.
const LOOP_LATE: Duration = Duration::from_millis(350);

/// Frames that came before the route are shown if the last is no older than this: their agent may
/// have been at home elsewhere since.
const EARLY_KEEP: Duration = Duration::from_secs(2);

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

    /// The node stood still a moment ago: what waits in its sockets may be old.
    pub(super) fn late(&self) -> bool {
        let last = self.last_ms.load(Ordering::Relaxed);
        u128::from(self.elapsed_ms().saturating_sub(last)) > LOOP_LATE.as_millis()
    }

    pub(super) fn now(&self) -> Mono {
        Mono(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
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
    hubs: Hubs,
    /// Frames dropped because this node had stood still, and packets of nobody.
    pub(super) stale: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    /// The client has shown a credential.
    open: bool,
    assembler: Assembler,
    early: GopCache,
    /// When the last of them came.
    early_at: Mono,
    target: Option<(Arc<Hub>, u64)>,
}

impl Ingest {
    pub(super) fn new(turning: Arc<Turning>, hubs: Hubs) -> Self {
        Self { inner: Mutex::default(), turning, hubs, stale: AtomicU64::new(0) }
    }

    /// One RTP packet, as it came; `trip` is the round trip to its sender. Returns what to ask
    /// the sender for.
    pub(super) fn packet(&self, bytes: &[u8], trip: Duration) -> Option<Nack> {
        let (ssrc, packet) = (flow::ssrc_of(bytes)?, Packet::parse(bytes)?);
        let (now, counters) = (self.turning.now(), self.hubs.counters());
        counters.packets_in.fetch_add(1, Ordering::Relaxed);
        let mut inner = self.lock();
        if !inner.open {
            self.stale.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let frames = inner.assembler.push(now, trip, packet);
        self.take(&mut inner, frames, &counters.packets_lost);
        let sequences = inner.assembler.ask(now, trip);
        counters.packets_asked.fetch_add(sequences.len() as u64, Ordering::Relaxed);
        (!sequences.is_empty()).then_some(Nack { ssrc, sequences })
    }

    /// The agent does not have these packets.
    pub(super) fn give_up(&self, nack: &Nack) {
        let mut inner = self.lock();
        let frames = inner.assembler.give_up(&nack.sequences);
        self.take(&mut inner, frames, &self.hubs.counters().packets_lost);
    }

    /// Frames that a publisher's leg put together.
    pub(super) fn assembled(&self, frames: Vec<Assembled>) {
        let mut inner = self.lock();
        if inner.open {
            self.take(&mut inner, frames, &self.hubs.counters().publisher_packets_lost);
        } else {
            self.stale.fetch_add(frames.len() as u64, Ordering::Relaxed);
        }
    }

    /// The clock that packets are timed by.
    pub(super) fn now(&self) -> Mono {
        self.turning.now()
    }

    fn take(&self, inner: &mut Inner, frames: Vec<Assembled>, lost: &AtomicU64) {
        for assembled in frames {
            let frame = Arc::new(assembled.frame);
            if assembled.lost > 0 {
                lost.fetch_add(assembled.lost, Ordering::Relaxed);
                inner.target.iter().for_each(|(hub, _)| hub.request_keyframe());
            }
            if self.turning.late() {
                self.stale.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            match &inner.target {
                Some((hub, feed)) if hub.takes(*feed) => hub.push(*feed, frame),
                // It comes from elsewhere now, or from nowhere: the route may be about to change.
                _ => {
                    inner.early.push(frame);
                    inner.early_at = self.turning.now();
                }
            }
        }
    }

    /// The client is somebody: what it sends is taken from now on.
    pub(super) fn open(&self) {
        self.lock().open = true;
    }

    /// From now on frames go to this hub, those that came early first.
    pub(super) fn attach(&self, hub: Arc<Hub>, feed: u64, timeline: u64) {
        let mut inner = self.lock();
        hub.next_feed(feed, timeline);
        self.forget_old(&mut inner);
        for frame in inner.early.frames() {
            hub.push(feed, frame.clone());
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

    /// Lets go of what came early if no route has asked for it in time.
    pub(super) fn sweep(&self) {
        self.forget_old(&mut self.lock());
    }

    fn forget_old(&self, inner: &mut Inner) {
        if self.turning.now().since(inner.early_at) > EARLY_KEEP {
            let old = u64::try_from(inner.early.frames().len()).unwrap_or(u64::MAX);
            self.stale.fetch_add(old, Ordering::Relaxed);
            inner.early.reset();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream on its way to a native viewer; ends when dropped.
#[derive(Debug)]
pub(super) struct Serving {
    pub(super) since: Instant,
    asks: mpsc::Sender<Nack>,
    task: tokio::task::AbortHandle,
}

impl Serving {
    pub(super) fn start(hubs: &Hubs, encoder: EncoderId, connection: quic::Connection) -> Self {
        let subscription = hubs.hub(encoder).subscribe();
        let (asks, asked) = mpsc::channel(flow::ASKS_QUEUE);
        let hubs = hubs.clone();
        let task = tokio::spawn(async move {
            let (start, frames, _ticket) = subscription.split();
            let counters = &hubs.counters().packets_out;
            // The connection's end is told elsewhere; there is nobody to send to any more.
            let _ = flow::send(&connection, FLOW_VIDEO, start, frames, asked, counters).await;
        });
        Self { since: Instant::now(), asks, task: task.abort_handle() }
    }

    /// The viewer misses packets, of this stream or of another one.
    pub(super) fn ask(&self, nack: &Nack) {
        // Full: it will ask again.
        let _ = self.asks.try_send(nack.clone());
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Frame;

    #[test]
    fn media_that_no_route_asks_for_is_let_go_of_and_counted() {
        let began = Instant::now().checked_sub(2 * EARLY_KEEP).expect("up for that long");
        let turning = Turning { origin: began, last_ms: AtomicU64::new(0) };
        turning.turned();
        let (events, _inbox) = mpsc::unbounded_channel();
        let ingest = Ingest::new(Arc::new(turning), Hubs::new(events));
        ingest.open();
        let packet = Packet { sequence: 1, timestamp: 0, marker: true, payload: vec![0x65].into() };
        let frame = Frame { packets: vec![packet], keyframe: true };
        ingest.assembled(vec![Assembled { frame, complete: true, lost: 0 }]);
        ingest.sweep();
        assert_eq!(ingest.lock().early.frames().len(), 1, "a route may be on its way");
        ingest.lock().early_at = Mono(0);
        ingest.sweep();
        assert!(ingest.lock().early.frames().is_empty());
        assert_eq!(ingest.stale.load(Ordering::Relaxed), 1);
    }
}

//! One stream's fan-out at one node: frames in from the agent or a relay, out to everyone who
//! watches here. Video passes here and nowhere near the control loop.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::flow::is_after;
use crate::id::EncoderId;
use crate::media::{Frame, gop::GopCache};

/// Frames that wait for one slow receiver before it is skipped to the next keyframe: two
/// seconds at 30 fps; what is older is better skipped than shown.
pub const QUEUE_FRAMES: usize = 64;

/// A group of pictures whose newest is older than this is not shown to a newcomer: the stream was
/// paused since. Slower cameras than one picture in this time start newcomers at their next.
pub const FRESH: Duration = Duration::from_secs(2);

/// What a hub tells the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HubEvent {
    /// The number of viewers here, and behind relays from here, changed.
    Viewers {
        /// Which stream.
        encoder: EncoderId,
        /// Viewers in all.
        viewers: u32,
    },
    /// A receiver needs a keyframe.
    Keyframe(EncoderId),
}

/// All streams of a node.
#[derive(Clone, Debug)]
pub struct Hubs {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    hubs: Mutex<BTreeMap<EncoderId, Arc<Hub>>>,
    events: mpsc::UnboundedSender<HubEvent>,
    counters: HubCounters,
}

/// Totals over all streams since the node started.
#[derive(Debug, Default)]
pub struct HubCounters {
    /// Frames that came in from agents and relays.
    pub frames_in: AtomicU64,
    /// Payload bytes that came in.
    pub bytes_in: AtomicU64,
    /// Frames handed to receivers.
    pub frames_out: AtomicU64,
    /// Payload bytes handed to receivers.
    pub bytes_out: AtomicU64,
    /// Frames that a slow receiver was not given.
    pub frames_dropped: AtomicU64,
    /// Frames refused because their source is not (or no longer) the stream's route.
    pub frames_stale: AtomicU64,
}

/// One stream.
#[derive(Debug)]
pub struct Hub {
    encoder: EncoderId,
    shared: Arc<Shared>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    cache: GopCache,
    pushed: Option<Instant>,
    /// Only frames that carry this number are taken: it changes with every route.
    feed: u64,
    timeline: u64,
    receivers: BTreeMap<u64, Receiver>,
    next_receiver: u64,
}

#[derive(Debug)]
struct Receiver {
    frames: mpsc::Sender<Live>,
    viewers: Arc<AtomicU32>,
    /// Lost a frame: waits for the next keyframe.
    skipping: bool,
    /// Timeline and timestamp of the newest frame it got: after a change of feed the group of
    /// pictures comes again, and what it has seen it must not see twice.
    newest: Option<(u64, u32)>,
}

/// A frame as receivers get it.
#[derive(Debug, Clone)]
pub struct Live {
    /// Sequence numbers and timestamps of one timeline are comparable: it changes when the
    /// encoder's agent starts anew, not when the encoder changes its home.
    pub timeline: u64,
    /// The frame.
    pub frame: Arc<Frame>,
}

/// A place at a hub; dropping it gives the place back.
#[derive(Debug)]
pub struct Subscription {
    /// The group of pictures so far: a decoder can start with it.
    pub start: Vec<Live>,
    /// What follows.
    pub frames: mpsc::Receiver<Live>,
    ticket: Ticket,
}

/// Counts the viewers of a subscription and ends it when dropped.
#[derive(Debug)]
pub struct Ticket {
    hub: Arc<Hub>,
    number: u64,
    viewers: Arc<AtomicU32>,
}

impl Hubs {
    /// No streams yet; `events` hears of viewers and keyframe requests.
    pub fn new(events: mpsc::UnboundedSender<HubEvent>) -> Self {
        let (hubs, counters) = (Mutex::default(), HubCounters::default());
        Self { shared: Arc::new(Shared { hubs, events, counters }) }
    }

    /// The hub of a stream, made at first use.
    pub fn hub(&self, encoder: EncoderId) -> Arc<Hub> {
        let mut hubs = lock(&self.shared.hubs);
        hubs.entry(encoder)
            .or_insert_with(|| {
                let shared = self.shared.clone();
                Arc::new(Hub { encoder, shared, inner: Mutex::default() })
            })
            .clone()
    }

    /// Drops hubs that nobody feeds and nobody watches.
    pub fn sweep(&self) {
        lock(&self.shared.hubs).retain(|_, hub| {
            let inner = lock(&hub.inner);
            Arc::strong_count(hub) > 1 || !inner.receivers.is_empty() || inner.feed != 0
        });
    }

    /// Totals.
    pub fn counters(&self) -> &HubCounters {
        &self.shared.counters
    }
}

impl Hub {
    /// Which stream.
    pub fn encoder(&self) -> EncoderId {
        self.encoder
    }

    /// Takes a place for one viewer (a relay says how many sit behind it with
    /// [`Ticket::set_viewers`]).
    pub fn subscribe(self: &Arc<Self>) -> Subscription {
        let (sender, frames) = mpsc::channel(QUEUE_FRAMES);
        let viewers = Arc::new(AtomicU32::new(1));
        let (number, start) = {
            let mut inner = lock(&self.inner);
            inner.next_receiver += 1;
            let number = inner.next_receiver;
            let timeline = inner.timeline;
            if inner.pushed.is_none_or(|at| at.elapsed() > FRESH) {
                inner.cache.reset();
            }
            let frames = inner.cache.frames();
            let start: Vec<Live> =
                frames.into_iter().map(|frame| Live { timeline, frame }).collect();
            let receiver = Receiver {
                frames: sender,
                viewers: viewers.clone(),
                skipping: start.is_empty(),
                newest: start.last().map(|live| (timeline, live.frame.timestamp())),
            };
            inner.receivers.insert(number, receiver);
            (number, start)
        };
        self.count_out(&start);
        self.tell_viewers();
        if start.is_empty() {
            self.request_keyframe();
        }
        Subscription { start, frames, ticket: Ticket { hub: self.clone(), number, viewers } }
    }

    /// Takes frames of feed number `feed` from now on (0: of none) and forgets those of the feed
    /// before.
    pub fn set_feed(&self, feed: u64, timeline: u64) {
        let mut inner = lock(&self.inner);
        if inner.feed != feed {
            inner.feed = feed;
            inner.timeline = timeline;
            inner.cache.reset();
        }
    }

    /// The feed in force; 0 for none.
    pub fn feed(&self) -> u64 {
        lock(&self.inner).feed
    }

    /// Hands a frame of `feed` to every receiver and keeps it for newcomers. Frames of any other
    /// feed are counted and dropped.
    pub fn push(&self, feed: u64, frame: Arc<Frame>) {
        let counters = &self.shared.counters;
        let mut wants_keyframe = false;
        {
            let mut inner = lock(&self.inner);
            if inner.feed != feed || feed == 0 {
                counters.frames_stale.fetch_add(1, Ordering::Relaxed);
                return;
            }
            counters.frames_in.fetch_add(1, Ordering::Relaxed);
            counters.bytes_in.fetch_add(frame.size() as u64, Ordering::Relaxed);
            inner.cache.push(frame.clone());
            inner.pushed = Some(Instant::now());
            wants_keyframe |= inner.cache.wants_keyframe() && !inner.receivers.is_empty();
            let timeline = inner.timeline;
            let stamp = frame.timestamp();
            for receiver in inner.receivers.values_mut() {
                match receiver.newest {
                    Some((line, newest)) if line == timeline && !is_after(stamp, newest) => {
                        continue;
                    }
                    Some((line, _)) if line != timeline => receiver.skipping = true,
                    _ => {}
                }
                if receiver.skipping && !frame.keyframe {
                    counters.frames_dropped.fetch_add(1, Ordering::Relaxed);
                    wants_keyframe = true;
                    continue;
                }
                let live = Live { timeline, frame: frame.clone() };
                receiver.skipping = receiver.frames.try_send(live).is_err();
                if !receiver.skipping {
                    receiver.newest = Some((timeline, stamp));
                }
                let counter =
                    if receiver.skipping { &counters.frames_dropped } else { &counters.frames_out };
                counter.fetch_add(1, Ordering::Relaxed);
                if !receiver.skipping {
                    counters.bytes_out.fetch_add(frame.size() as u64, Ordering::Relaxed);
                }
            }
        }
        if wants_keyframe {
            self.request_keyframe();
        }
    }

    /// Passes a receiver's wish for a keyframe on; the gate upstream coalesces.
    pub fn request_keyframe(&self) {
        // The node is shutting down when nobody listens any more.
        let _ = self.shared.events.send(HubEvent::Keyframe(self.encoder));
    }

    /// Viewers at this node and behind relays from it.
    pub fn viewers(&self) -> u32 {
        let inner = lock(&self.inner);
        let counts = inner.receivers.values().map(|r| r.viewers.load(Ordering::Relaxed));
        // Other nodes say how many sit behind them: any number at all.
        counts.fold(0, u32::saturating_add)
    }

    fn tell_viewers(&self) {
        let (encoder, viewers) = (self.encoder, self.viewers());
        let _ = self.shared.events.send(HubEvent::Viewers { encoder, viewers });
    }

    fn count_out(&self, frames: &[Live]) {
        let counters = &self.shared.counters;
        counters.frames_out.fetch_add(frames.len() as u64, Ordering::Relaxed);
        let bytes = frames.iter().map(|live| live.frame.size() as u64).sum();
        counters.bytes_out.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Subscription {
    /// Takes the parts apart: what to start with, what follows, and the place itself.
    pub fn split(self) -> (Vec<Live>, mpsc::Receiver<Live>, Ticket) {
        (self.start, self.frames, self.ticket)
    }

    /// The place.
    pub fn ticket(&self) -> &Ticket {
        &self.ticket
    }
}

impl Ticket {
    /// The hub that the place is at.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Says how many viewers are behind this place.
    pub fn set_viewers(&self, viewers: u32) {
        if self.viewers.swap(viewers, Ordering::Relaxed) != viewers {
            self.hub.tell_viewers();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        lock(&self.hub.inner).receivers.remove(&self.number);
        self.hub.tell_viewers();
    }
}

/// A poisoned lock only means that a panic unwound elsewhere; the data is whole after every
/// statement here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Packet;

    const ENCODER: EncoderId = EncoderId([1; 16]);

    fn frame(number: u32, keyframe: bool) -> Arc<Frame> {
        let payload = if keyframe { [0x65] } else { [0x41] };
        let packet = Packet {
            sequence: number as u16,
            timestamp: number * 6000,
            marker: true,
            payload: payload.as_slice().into(),
        };
        Arc::new(Frame { packets: vec![packet], keyframe })
    }

    fn hub() -> (Hubs, Arc<Hub>, mpsc::UnboundedReceiver<HubEvent>) {
        let (events, inbox) = mpsc::unbounded_channel();
        let hubs = Hubs::new(events);
        let hub = hubs.hub(ENCODER);
        (hubs, hub, inbox)
    }

    fn numbers(frames: &mut mpsc::Receiver<Live>) -> Vec<u32> {
        std::iter::from_fn(|| frames.try_recv().ok())
            .map(|live| live.frame.timestamp() / 6000)
            .collect()
    }

    #[test]
    fn a_newcomer_starts_with_the_group_of_pictures_so_far() {
        let (_hubs, hub, _events) = hub();
        hub.set_feed(1, 7);
        (0..5).for_each(|n| hub.push(1, frame(n, n % 3 == 0)));
        let (start, mut frames, _ticket) = hub.subscribe().split();
        let start: Vec<_> = start.iter().map(|live| live.frame.timestamp() / 6000).collect();
        assert_eq!(start, [3, 4]);
        hub.push(1, frame(5, false));
        assert_eq!(numbers(&mut frames), [5]);
    }

    #[test]
    fn a_repeated_group_of_pictures_shows_nobody_anything_twice() {
        let (_hubs, hub, _events) = hub();
        hub.set_feed(1, 7);
        let (_, mut frames, _ticket) = hub.subscribe().split();
        (0..4).for_each(|n| hub.push(1, frame(n, n == 0)));
        // The encoder has moved; its new leg brings the group again, and what was missed.
        hub.set_feed(2, 7);
        (0..7).for_each(|n| hub.push(2, frame(n, n == 0)));
        assert_eq!(numbers(&mut frames), [0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn another_start_of_the_agent_begins_with_a_keyframe_whatever_its_timestamps() {
        let (_hubs, hub, _events) = hub();
        hub.set_feed(1, 7);
        let (_, mut frames, _ticket) = hub.subscribe().split();
        hub.push(1, frame(1000, true));
        hub.set_feed(2, 8);
        hub.push(2, frame(4, false));
        hub.push(2, frame(5, true));
        assert_eq!(numbers(&mut frames), [1000, 5]);
    }

    #[test]
    fn frames_of_a_route_that_is_over_are_dropped_and_counted() {
        let (hubs, hub, _events) = hub();
        hub.set_feed(2, 7);
        let (_, mut frames, _ticket) = hub.subscribe().split();
        hub.push(1, frame(0, true));
        assert!(numbers(&mut frames).is_empty());
        assert_eq!(hubs.counters().frames_stale.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_receiver_that_is_too_slow_goes_on_with_the_next_keyframe() {
        let (hubs, hub, mut events) = hub();
        hub.set_feed(1, 7);
        let (_, mut frames, _ticket) = hub.subscribe().split();
        let full = QUEUE_FRAMES as u32;
        (0..full + 3).for_each(|n| hub.push(1, frame(n, n == 0)));
        assert_eq!(numbers(&mut frames).len(), QUEUE_FRAMES);
        hub.push(1, frame(full + 3, false));
        hub.push(1, frame(full + 4, true));
        assert_eq!(numbers(&mut frames), [full + 4]);
        assert_eq!(hubs.counters().frames_dropped.load(Ordering::Relaxed), 4);
        let told: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).collect();
        assert!(told.contains(&HubEvent::Keyframe(ENCODER)));
    }

    #[test]
    fn viewers_are_counted_with_those_behind_relays_until_they_go() {
        let (_hubs, hub, mut events) = hub();
        let (_, _frames, ticket) = hub.subscribe().split();
        let (_, _more, relay) = hub.subscribe().split();
        relay.set_viewers(5);
        assert_eq!(hub.viewers(), 6);
        drop(relay);
        drop(ticket);
        assert_eq!(hub.viewers(), 0);
        let last = std::iter::from_fn(|| events.try_recv().ok()).last();
        assert_eq!(last, Some(HubEvent::Viewers { encoder: ENCODER, viewers: 0 }));
    }
}

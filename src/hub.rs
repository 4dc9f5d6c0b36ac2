//! One stream's fan-out at one node: frames in from the agent or a relay, out to everyone who
//! watches here. Video passes here and nowhere near the control loop.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};

use crate::flow::{Sent, is_after};
use crate::id::EncoderId;
use crate::media::{Frame, Pace, Silence, gop::GopCache};

/// Frames that wait for one slow receiver, two seconds at 30 fps. Beyond it the receiver is behind:
/// it gets what it lacks of the group of pictures as it makes room, and goes on with the next
/// group when that begins.
pub const QUEUE_FRAMES: usize = 64;

/// A group of pictures whose newest is older than this is not shown to a newcomer: the stream was
/// paused since. Slower cameras than one picture in this time start newcomers at their next.
pub const FRESH: Duration = Duration::from_secs(2);

/// A feed that has brought nothing for this long is not waited for when another is to take over.
pub const SEAMLESS: Duration = Duration::from_millis(250);

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
    /// A keyframe came, whether or not it was asked for.
    KeyframeArrived(EncoderId),
    /// Nothing came from where frames should come from; said again, ever more rarely, while it lasts.
    Silent {
        /// Which stream.
        encoder: EncoderId,
        /// The feed that brings nothing.
        feed: u64,
        /// Since its last frame, or since it was to begin.
        silence: Silence,
    },
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
    /// Packets that came in, from agents and from other nodes.
    pub packets_in: AtomicU64,
    /// Packets that were given up: asked for again, they did not come in time.
    pub packets_lost: AtomicU64,
    /// The same of publishers' legs, where the WebRTC stack asks.
    pub publisher_packets_lost: AtomicU64,
    /// Packets that were missing and asked for again.
    pub packets_asked: AtomicU64,
    /// Packets that went out, to native viewers and to other nodes.
    pub packets_out: Sent,
}

/// One stream.
#[derive(Debug)]
pub struct Hub {
    encoder: EncoderId,
    shared: Arc<Shared>,
    inner: Mutex<Inner>,
    /// Frames come again after a silence, or are to come from elsewhere.
    turned: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    cache: GopCache,
    pushed: Option<Instant>,
    /// Only frames that carry this number are taken: it changes with every route.
    feed: u64,
    timeline: u64,
    /// When its last frame came.
    fed: Option<Instant>,
    pace: Pace,
    coming: Option<Coming>,
    receivers: BTreeMap<u64, Receiver>,
    next_receiver: u64,
}

/// A feed that takes over once it has caught up with the one in force.
#[derive(Debug)]
struct Coming {
    feed: u64,
    fed: Option<Instant>,
    cache: GopCache,
}

#[derive(Debug)]
struct Receiver {
    frames: mpsc::Sender<Live>,
    viewers: Arc<AtomicU32>,
    /// Frames that it lacks; beginning with the first of these it gets nothing out of turn.
    behind: u64,
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
                Arc::new(Hub { encoder, shared, inner: Mutex::default(), turned: Notify::new() })
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

    /// How many streams are taken from here, and by how many: viewers, and other nodes for theirs.
    pub fn taken(&self) -> (u32, u32) {
        let hubs = lock(&self.shared.hubs);
        let each = hubs.values().map(|hub| lock(&hub.inner).receivers.len());
        let taken = each.filter(|receivers| *receivers > 0);
        let (streams, receivers) = taken.fold((0, 0), |(s, all), some| (s + 1, all + some));
        (streams, u32::try_from(receivers).unwrap_or(u32::MAX))
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
            let frames = inner.cache.frames().iter().cloned();
            let start: Vec<Live> = frames.map(|frame| Live { timeline, frame }).collect();
            let receiver = Receiver {
                frames: sender,
                viewers: viewers.clone(),
                behind: 0,
                newest: start.last().map(|live| (timeline, live.frame.timestamp())),
            };
            inner.receivers.insert(number, receiver);
            self.tell_viewers(&inner);
            (number, start)
        };
        if start.is_empty() {
            self.request_keyframe();
        }
        self.count_out(&start);
        Subscription { start, frames, ticket: Ticket { hub: self.clone(), number, viewers } }
    }

    /// Takes frames of feed number `feed` from now on (0: of none) and forgets those of the feed
    /// before.
    pub fn set_feed(&self, feed: u64, timeline: u64) {
        let mut inner = lock(&self.inner);
        inner.coming = None;
        if inner.feed != feed {
            inner.feed = feed;
            inner.timeline = timeline;
            inner.fed = None;
            inner.cache.reset();
            self.turned.notify_waiters();
        }
    }

    /// Frames will come from feed number `feed`: those of the feed in force are taken until the
    /// new one has the same, so that nobody sees a seam. If there is none, or it is of another
    /// timeline, the new one is in force at once.
    pub fn next_feed(&self, feed: u64, timeline: u64) {
        {
            let mut inner = lock(&self.inner);
            let flows = inner.pushed.is_some_and(|at| at.elapsed() <= SEAMLESS);
            if inner.feed == feed {
                inner.coming = None;
                return;
            }
            if inner.feed != 0 && inner.timeline == timeline && flows {
                inner.coming = Some(Coming { feed, fed: None, cache: GopCache::new() });
                return;
            }
        }
        self.set_feed(feed, timeline);
    }

    /// The feed in force; 0 for none.
    pub fn feed(&self) -> u64 {
        lock(&self.inner).feed
    }

    /// Whether frames of this feed are of use: it is in force, or is to be.
    pub fn takes(&self, feed: u64) -> bool {
        let inner = lock(&self.inner);
        let coming = inner.coming.as_ref().is_some_and(|coming| coming.feed == feed);
        feed != 0 && (inner.feed == feed || coming)
    }

    /// Hands a frame of `feed` to every receiver and keeps it for newcomers. Frames of any other
    /// feed are counted and dropped.
    pub fn push(&self, feed: u64, frame: Arc<Frame>) {
        let counters = &self.shared.counters;
        let mut locked = lock(&self.inner);
        let inner = &mut *locked;
        if inner.catching_up(feed, &frame) {
            if inner.coming.as_ref().is_some_and(|coming| coming.cache.wants_keyframe()) {
                self.request_keyframe();
            }
            return;
        }
        if inner.feed != feed || feed == 0 {
            counters.frames_stale.fetch_add(1, Ordering::Relaxed);
            return;
        }
        counters.frames_in.fetch_add(1, Ordering::Relaxed);
        counters.bytes_in.fetch_add(frame.size() as u64, Ordering::Relaxed);
        inner.cache.push(frame.clone());
        let now = Instant::now();
        if let Some(last) = inner.pushed.replace(now) {
            inner.pace.came_after(now - last);
        }
        if inner.fed.replace(now).is_none_or(|last| now - last >= SEAMLESS) {
            self.turned.notify_waiters();
        }
        if frame.keyframe && !inner.receivers.is_empty() {
            let _ = self.shared.events.send(HubEvent::KeyframeArrived(self.encoder));
        }
        let mut lacking = false;
        for receiver in inner.receivers.values_mut() {
            lacking |= receiver.offer(inner.timeline, &frame, &inner.cache, counters);
        }
        if lacking || inner.cache.wants_keyframe() && !inner.receivers.is_empty() {
            self.request_keyframe();
        }
    }

    /// Tells the node whenever a feed, which was to begin just now, stands still; until another is
    /// awaited or in force.
    pub async fn watch(self: Arc<Self>, feed: u64) {
        let begins = Instant::now();
        let mut told = None;
        loop {
            // Before the look: what turns meanwhile is not missed.
            let turned = self.turned.notified();
            let Some((fed, limit)) = self.awaited(feed) else { return };
            let last = fed.unwrap_or(begins);
            let repeated = told.filter(|(since, _)| *since == last);
            let wait = repeated.map_or(limit, |(_, waited): (Instant, Duration)| waited * 2);
            let silent_for = last.elapsed();
            if silent_for < wait {
                // Over, or as soon as there is something else to wait for.
                let _ = tokio::time::timeout(wait - silent_for, turned).await;
                continue;
            }
            told = Some((last, wait));
            let silence = match fed {
                Some(_) => Silence::After(silent_for),
                None => Silence::Never(silent_for),
            };
            let silent = HubEvent::Silent { encoder: self.encoder, feed, silence };
            let _ = self.shared.events.send(silent);
        }
    }

    /// When the last frame of this feed came, and after how long without one it stands still; `None`
    /// if frames of it are not taken any more.
    fn awaited(&self, feed: u64) -> Option<(Option<Instant>, Duration)> {
        let inner = lock(&self.inner);
        let coming = inner.coming.as_ref().filter(|coming| coming.feed == feed);
        let fed = match coming {
            Some(coming) => coming.fed,
            None => (inner.feed == feed && feed != 0).then_some(inner.fed)?,
        };
        Some((fed, inner.pace.still_after(SEAMLESS)))
    }

    /// Passes a receiver's wish for a keyframe on; the gate upstream coalesces.
    pub fn request_keyframe(&self) {
        // The node is shutting down when nobody listens any more.
        let _ = self.shared.events.send(HubEvent::Keyframe(self.encoder));
    }

    /// Viewers at this node and behind relays from it.
    pub fn viewers(&self) -> u32 {
        lock(&self.inner).viewers()
    }

    /// Under the lock, so that numbers are told in the order in which they were true.
    fn tell_viewers(&self, inner: &Inner) {
        let (encoder, viewers) = (self.encoder, inner.viewers());
        let _ = self.shared.events.send(HubEvent::Viewers { encoder, viewers });
    }

    fn count_out(&self, frames: &[Live]) {
        let counters = &self.shared.counters;
        counters.frames_out.fetch_add(frames.len() as u64, Ordering::Relaxed);
        let bytes = frames.iter().map(|live| live.frame.size() as u64).sum();
        counters.bytes_out.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Inner {
    /// Keeps a frame of the coming feed, until one is there that the feed in force has not brought,
    /// or that one falls silent: then the coming feed is in force.
    fn catching_up(&mut self, feed: u64, frame: &Arc<Frame>) -> bool {
        let Some(coming) = self.coming.as_mut().filter(|coming| coming.feed == feed) else {
            return false;
        };
        let silent = self.pushed.is_none_or(|at| at.elapsed() > SEAMLESS);
        let newest = self.cache.frames().last().map(|frame| frame.timestamp());
        let newer = newest.is_none_or(|newest| is_after(frame.timestamp(), newest));
        let starts = frame.keyframe || !coming.cache.wants_keyframe();
        if silent || (newer && starts) {
            self.feed = feed;
            self.fed = coming.fed;
            self.cache = std::mem::take(&mut coming.cache);
            self.coming = None;
            return false;
        }
        coming.cache.push(frame.clone());
        coming.fed = Some(Instant::now());
        true
    }

    fn viewers(&self) -> u32 {
        let counts = self.receivers.values().map(|r| r.viewers.load(Ordering::Relaxed));
        // Other nodes say how many sit behind them: any number at all.
        counts.fold(0, u32::saturating_add)
    }
}

impl Receiver {
    /// Gives it the newest frame, or, if it is behind, as much as it has room for of what it
    /// lacks. True if only a keyframe can help it.
    fn offer(
        &mut self,
        timeline: u64,
        frame: &Arc<Frame>,
        cache: &GopCache,
        counters: &HubCounters,
    ) -> bool {
        let seen = self.newest.filter(|(line, _)| *line == timeline).map(|(_, stamp)| stamp);
        if seen.is_some_and(|seen| !is_after(frame.timestamp(), seen)) {
            return false;
        }
        if frame.keyframe {
            counters.frames_dropped.fetch_add(self.behind, Ordering::Relaxed);
            self.behind = 0;
        }
        self.behind += 1;
        if self.behind == 1 && (frame.keyframe || seen.is_some()) {
            self.give(timeline, frame, counters);
            return false;
        }
        let group = cache.frames();
        for lacked in group.iter().filter(|f| seen.is_none_or(|s| is_after(f.timestamp(), s))) {
            if !self.give(timeline, lacked, counters) {
                break;
            }
        }
        group.is_empty()
    }

    fn give(&mut self, timeline: u64, frame: &Arc<Frame>, counters: &HubCounters) -> bool {
        let fits = self.frames.try_send(Live { timeline, frame: frame.clone() }).is_ok();
        if fits {
            self.behind = self.behind.saturating_sub(1);
            self.newest = Some((timeline, frame.timestamp()));
            counters.frames_out.fetch_add(1, Ordering::Relaxed);
            counters.bytes_out.fetch_add(frame.size() as u64, Ordering::Relaxed);
        }
        fits
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
            self.hub.tell_viewers(&lock(&self.hub.inner));
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut inner = lock(&self.hub.inner);
        inner.receivers.remove(&self.number);
        self.hub.tell_viewers(&inner);
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
        frame_at(number, number * 6000, keyframe)
    }

    fn frame_at(number: u32, timestamp: u32, keyframe: bool) -> Arc<Frame> {
        let payload = if keyframe { [0x65] } else { [0x41] };
        let packet = Packet {
            sequence: number as u16,
            timestamp,
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
        stamps(frames).into_iter().map(|stamp| stamp / 6000).collect()
    }

    fn stamps(frames: &mut mpsc::Receiver<Live>) -> Vec<u32> {
        std::iter::from_fn(|| frames.try_recv().ok()).map(|live| live.frame.timestamp()).collect()
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
    fn a_feed_takes_over_once_it_has_what_the_one_before_has() {
        let (_hubs, hub, _events) = hub();
        hub.set_feed(1, 7);
        let (_, mut frames, _ticket) = hub.subscribe().split();
        (0..4).for_each(|n| hub.push(1, frame(n, n == 0)));
        hub.next_feed(2, 7);
        (0..3).for_each(|n| hub.push(2, frame(n, n == 0)));
        hub.push(1, frame(4, false));
        (3..5).for_each(|n| hub.push(2, frame(n, false)));
        assert_eq!(hub.feed(), 1, "it has nothing new yet");
        hub.push(2, frame(5, false));
        hub.push(1, frame(5, false));
        hub.push(2, frame(6, false));
        assert_eq!((hub.feed(), numbers(&mut frames)), (2, vec![0, 1, 2, 3, 4, 5, 6]));
        let (start, ..) = hub.subscribe().split();
        assert_eq!(start.len(), 7, "a newcomer gets the whole group");
    }

    #[test]
    fn a_feed_that_starts_amid_a_group_waits_for_a_keyframe_while_the_one_before_flows() {
        let (_hubs, hub, mut events) = hub();
        hub.set_feed(1, 7);
        let (_, mut frames, _ticket) = hub.subscribe().split();
        (0..2).for_each(|n| hub.push(1, frame(n, n == 0)));
        hub.next_feed(2, 7);
        while events.try_recv().is_ok() {}
        hub.push(2, frame(3, false));
        assert_eq!(events.try_recv().ok(), Some(HubEvent::Keyframe(ENCODER)));
        hub.push(1, frame(2, false));
        hub.push(2, frame(4, true));
        assert_eq!((hub.feed(), numbers(&mut frames)), (2, vec![0, 1, 2, 4]));
    }

    #[test]
    fn a_feed_is_in_force_at_once_if_there_is_none_that_flows() {
        let (_hubs, hub, _events) = hub();
        hub.next_feed(1, 7);
        assert_eq!(hub.feed(), 1);
        hub.push(1, frame(0, true));
        hub.next_feed(2, 8);
        assert_eq!(hub.feed(), 2, "another timeline has no seam");
        hub.push(2, frame(0, true));
        hub.next_feed(3, 8);
        std::thread::sleep(SEAMLESS + Duration::from_millis(50));
        hub.push(3, frame(0, true));
        assert_eq!(hub.feed(), 3, "the one before fell silent");
    }

    #[tokio::test]
    async fn a_feed_is_silent_when_nothing_comes_and_that_is_said_until_another_is_in_force() {
        let (_hubs, hub, mut events) = hub();
        let silent = |event| match event {
            Some(HubEvent::Silent { feed, silence, .. }) => Some((feed, silence)),
            _ => None,
        };
        hub.next_feed(1, 7);
        tokio::spawn(hub.clone().watch(1));
        let said = silent(events.recv().await);
        let never = |least: Duration, said| match said {
            Some((1, Silence::Never(silent))) => silent >= least && silent < least * 2,
            _ => false,
        };
        assert!(never(SEAMLESS, said), "{said:?}");
        let again = silent(events.recv().await);
        assert!(never(2 * SEAMLESS, again), "{again:?}");
        hub.push(1, frame(0, false));
        let said = silent(events.recv().await);
        let after = matches!(said, Some((1, Silence::After(silent))) if silent < 2 * SEAMLESS);
        assert!(after, "{said:?}");
        hub.next_feed(2, 7);
        // Nobody speaks for the feed that is over.
        let watch = hub.clone().watch(1);
        tokio::time::timeout(SEAMLESS, watch).await.expect("it is over");
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
    fn a_receiver_that_is_behind_catches_up_in_order_as_it_makes_room() {
        let (hubs, hub, _events) = hub();
        hub.set_feed(1, 7);
        let (_, mut frames, _ticket) = hub.subscribe().split();
        // A whole group at once, as after its encoder has moved.
        let count = 3 * QUEUE_FRAMES as u32;
        let quick = |n| frame_at(n, n * 100, n == 0);
        (0..count).for_each(|n| hub.push(1, quick(n)));
        let mut got = stamps(&mut frames);
        assert_eq!(got.len(), QUEUE_FRAMES);
        (count..count + 3).for_each(|n| {
            hub.push(1, quick(n));
            got.extend(stamps(&mut frames));
        });
        assert_eq!(got, (0..count + 3).map(|n| n * 100).collect::<Vec<_>>());
        assert_eq!(hubs.counters().frames_dropped.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_receiver_that_is_behind_goes_on_with_the_next_group_when_it_begins() {
        let (hubs, hub, _events) = hub();
        hub.set_feed(1, 7);
        let (_, mut frames, _ticket) = hub.subscribe().split();
        let full = QUEUE_FRAMES as u32;
        (0..full + 3).for_each(|n| hub.push(1, frame(n, n == 0)));
        assert_eq!(numbers(&mut frames).len(), QUEUE_FRAMES);
        hub.push(1, frame(full + 4, true));
        assert_eq!(numbers(&mut frames), [full + 4]);
        assert_eq!(hubs.counters().frames_dropped.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_receiver_that_is_behind_a_group_that_is_not_kept_waits_for_a_keyframe() {
        let (_hubs, hub, mut events) = hub();
        hub.set_feed(1, 7);
        let (_, mut frames, _ticket) = hub.subscribe().split();
        let full = QUEUE_FRAMES as u32;
        (0..full + 1).for_each(|n| hub.push(1, frame(n, n == 0)));
        while events.try_recv().is_ok() {}
        // Five seconds later: longer than what is kept.
        hub.push(1, frame(full + 75, false));
        numbers(&mut frames);
        hub.push(1, frame(full + 76, false));
        assert!(numbers(&mut frames).is_empty(), "what follows does not fit what it has");
        let told: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).collect();
        assert!(told.contains(&HubEvent::Keyframe(ENCODER)));
        hub.push(1, frame(full + 77, true));
        hub.push(1, frame(full + 78, false));
        assert_eq!(numbers(&mut frames), [full + 77, full + 78]);
        let told: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).collect();
        assert_eq!(told, [HubEvent::KeyframeArrived(ENCODER)]);
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

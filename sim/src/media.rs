//! Pictures as the simulator knows them, and a node's fan-out of them: the rules of `hub` and
//! `node::media`, without a byte of video.

use std::collections::BTreeMap;
use std::time::Duration;

use roost::id::{EncoderId, SessionId};
use roost::media::Pace;
use roost::wire::FLOW_VIDEO;

use crate::conn::{Cargo, End};
use crate::net::MS;
use crate::plan;
use crate::world::{Ev, World};

/// From one picture to the next, in milliseconds.
pub(crate) const FRAME_MS: u64 = 66;
/// Longest group that is kept, in nanoseconds.
const GROUP_KEEP: u64 = 4_000_000_000;
/// A group whose newest picture is older than this is not shown to a newcomer.
const FRESH: u64 = 2_000_000_000;

/// Pictures that come after a longer time than this are another flow of them.
const PAUSE: u64 = 500_000_000;
/// A feed that brought nothing for this long hides no seam, and is silent.
const SEAMLESS: u64 = 250_000_000;

/// One picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) encoder: EncoderId,
    /// Which start of the agent made it.
    pub(crate) timeline: u64,
    /// When it was taken, in nanoseconds of the run.
    pub(crate) taken: u64,
    /// Its number within the timeline.
    pub(crate) number: u64,
    pub(crate) key: bool,
    /// This copy waited in the socket of this host while it stood still.
    pub(crate) waited: Option<usize>,
}

/// The last group of pictures.
#[derive(Debug, Clone, Default)]
pub(crate) struct Group {
    pub(crate) frames: Vec<Frame>,
}

impl Group {
    pub(crate) fn push(&mut self, frame: Frame) {
        if frame.key {
            self.frames.clear();
        } else if self.frames.is_empty() {
            return;
        }
        let first = self.frames.first().map_or(frame.taken, |first| first.taken);
        if frame.taken.wrapping_sub(first) > GROUP_KEEP {
            self.frames.clear();
        } else {
            self.frames.push(frame);
        }
    }
}

/// A camera.
#[derive(Debug, Default)]
pub(crate) struct Camera {
    kind: plan::Camera,
    number: u64,
    since_key: u64,
    pub(crate) key_wanted: bool,
}

impl Camera {
    pub(crate) fn new(kind: plan::Camera) -> Self {
        Self { kind, ..Self::default() }
    }

    /// A request for a keyframe came.
    pub(crate) fn asked(&mut self) {
        self.key_wanted |= self.kind.obeys;
    }

    pub(crate) fn take(&mut self, encoder: EncoderId, timeline: u64, now: u64) -> Frame {
        let key = self.number == 0 || self.key_wanted || self.since_key >= self.kind.group;
        self.key_wanted = false;
        self.since_key = if key { 1 } else { self.since_key + 1 };
        self.number += 1;
        Frame { encoder, timeline, taken: now, number: self.number, key, waited: None }
    }
}

/// Who gets a stream's pictures at a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Receiver {
    Session(SessionId),
    /// Another node, by media connection and flow.
    Flow(u64, u32),
    Browser(usize),
}

#[derive(Debug)]
struct Place {
    viewers: u32,
    skipping: bool,
    /// Since when it gets nothing, though pictures come.
    lacks_since: u64,
    newest: Option<(u64, u64)>,
}

/// When the last picture of a feed came, and whether it was told that none did since.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Fed {
    pub(crate) at: Option<u64>,
    pub(crate) silent: bool,
}

impl Fed {
    /// True if it had been said to be silent.
    fn again(&mut self, now: u64) -> bool {
        self.at = Some(now);
        std::mem::take(&mut self.silent)
    }
}

#[derive(Debug, Default)]
struct Coming {
    feed: u64,
    fed: Fed,
    group: Group,
}

/// One stream at one node.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    pub(crate) feed: u64,
    pub(crate) timeline: u64,
    fed: Fed,
    pace: Pace,
    /// The feed that takes over once it has what the one in force has, and its group so far.
    coming: Option<Coming>,
    group: Group,
    pushed: u64,
    /// Since when pictures of one feed come without a pause.
    flowing_since: u64,
    /// No picture came since the feed was set.
    begins: bool,
    places: BTreeMap<Receiver, Place>,
}

impl Hub {
    pub(crate) fn set_feed(&mut self, feed: u64, timeline: u64) {
        self.coming = None;
        if self.feed != feed {
            self.feed = feed;
            self.timeline = timeline;
            self.fed = Fed::default();
            self.group.frames.clear();
            self.begins = true;
        }
    }

    /// Pictures of the feed in force are taken until this one has the same.
    pub(crate) fn next_feed(&mut self, now: u64, feed: u64, timeline: u64) {
        let flows = self.pushed > 0 && now <= self.pushed + SEAMLESS;
        if self.feed == feed {
            self.coming = None;
        } else if self.feed != 0 && self.timeline == timeline && flows {
            self.coming = Some(Coming { feed, ..Coming::default() });
        } else {
            self.set_feed(feed, timeline);
        }
    }

    /// Whether pictures of this feed are of use.
    pub(crate) fn takes(&self, feed: u64) -> bool {
        feed != 0 && (self.feed == feed || self.coming.as_ref().is_some_and(|it| it.feed == feed))
    }

    /// Keeps a picture of the coming feed until one is there that the feed in force has not
    /// brought, or that one falls silent.
    fn catching_up(&mut self, now: u64, feed: u64, frame: Frame) -> bool {
        let Some(coming) = self.coming.as_mut().filter(|it| it.feed == feed) else {
            return false;
        };
        let silent = now > self.pushed + SEAMLESS;
        let newer = self.group.frames.last().is_none_or(|newest| frame.taken > newest.taken);
        let starts = frame.key || !coming.group.frames.is_empty();
        if silent || (newer && starts) {
            self.feed = feed;
            self.fed = coming.fed;
            self.group = std::mem::take(&mut coming.group);
            self.coming = None;
            return false;
        }
        coming.group.push(frame);
        true
    }

    /// When the last picture of this feed came, and after how long without one it stands still; none
    /// if it is not taken any more.
    pub(crate) fn awaited(&mut self, feed: u64) -> Option<(&mut Fed, u64)> {
        let limit = self.pace.still_after(Duration::from_nanos(SEAMLESS)).as_nanos();
        Some((self.fed(feed)?, u64::try_from(limit).unwrap_or(u64::MAX)))
    }

    fn fed(&mut self, feed: u64) -> Option<&mut Fed> {
        match self.coming.as_mut().filter(|it| it.feed == feed) {
            Some(coming) => Some(&mut coming.fed),
            None => (self.feed == feed && feed != 0).then_some(&mut self.fed),
        }
    }

    /// A picture of this feed has come; true if the feed had been said to be silent.
    pub(crate) fn came(&mut self, now: u64, feed: u64) -> bool {
        self.fed(feed).is_some_and(|fed| fed.again(now))
    }

    /// Since when a receiver waits for a keyframe while pictures come.
    pub(crate) fn lacking(&self, now: u64) -> Option<u64> {
        let flows = self.pushed == now;
        let lacking = self.places.values().filter(|place| flows && place.skipping);
        lacking.map(|place| place.lacks_since.max(self.flowing_since)).min()
    }

    /// Who takes it from here: viewers, and other nodes for theirs.
    pub(crate) fn receivers(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn viewers(&self) -> u32 {
        self.places.values().map(|place| place.viewers).sum()
    }

    /// The native viewers among them.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = SessionId> {
        self.places.keys().filter_map(|receiver| match receiver {
            Receiver::Session(session) => Some(*session),
            Receiver::Flow(..) | Receiver::Browser(_) => None,
        })
    }

    /// Takes a place; returns the group so far.
    pub(crate) fn subscribe(&mut self, now: u64, receiver: Receiver, viewers: u32) -> Vec<Frame> {
        if now > self.pushed + FRESH {
            self.group.frames.clear();
        }
        let start = self.group.frames.clone();
        let newest = start.last().map(|frame| (self.timeline, frame.taken));
        let skipping = start.is_empty();
        let place = Place { viewers, skipping, lacks_since: now, newest };
        self.places.insert(receiver, place);
        start
    }

    pub(crate) fn set_viewers(&mut self, receiver: Receiver, viewers: u32) {
        if let Some(place) = self.places.get_mut(&receiver) {
            place.viewers = viewers;
        }
    }

    /// True if there was such a receiver.
    pub(crate) fn unsubscribe(&mut self, receiver: Receiver) -> bool {
        self.places.remove(&receiver).is_some()
    }

    /// Who gets this frame, and whether a keyframe is wanted.
    pub(crate) fn push(&mut self, now: u64, feed: u64, frame: Frame) -> (Vec<Receiver>, bool) {
        if self.catching_up(now, feed, frame) {
            let wants = self.coming.as_ref().is_some_and(|it| it.group.frames.is_empty());
            return (Vec::new(), wants);
        }
        if self.feed != feed || feed == 0 {
            return (Vec::new(), false);
        }
        if self.begins || now > self.pushed + PAUSE {
            self.flowing_since = now;
        }
        self.begins = false;
        if self.pushed > 0 {
            self.pace.came_after(Duration::from_nanos(now - self.pushed));
        }
        self.pushed = now;
        self.group.push(frame);
        let mut wants = self.group.frames.is_empty() && !self.places.is_empty();
        let mut to = Vec::new();
        let timeline = self.timeline;
        for (receiver, place) in &mut self.places {
            match place.newest {
                Some((line, newest)) if line == timeline && frame.taken <= newest => continue,
                Some((line, _)) if line != timeline => place.skipping = true,
                _ => {}
            }
            if place.skipping && !frame.key {
                wants = true;
                continue;
            }
            place.skipping = false;
            place.lacks_since = now;
            place.newest = Some((timeline, frame.taken));
            to.push(*receiver);
        }
        (to, wants)
    }
}

/// What one agent sends to a node.
#[derive(Debug, Default)]
pub(crate) struct Ingest {
    pub(crate) early: Group,
    /// When the last of them came.
    pub(crate) early_at: u64,
    pub(crate) target: Option<(EncoderId, u64)>,
}

impl World {
    /// The camera takes a picture; it is sent if anyone wants it.
    pub(crate) fn tick(&mut self, end: End) {
        if !self.lives(end) {
            return;
        }
        let Some(ix) = self.encoder_at(end.host) else { return };
        let now = self.now;
        let encoder = &mut self.encoders[ix];
        if !encoder.watched() {
            encoder.resting = Some(now);
            return;
        }
        self.queue.push(now + FRAME_MS * MS, Ev::Tick { end });
        if self.hosts[end.host].frozen {
            return;
        }
        let frame = encoder.camera.take(encoder.id, encoder.instance, now);
        encoder.group.push(frame);
        let mut legs = Vec::new();
        for (leg, skipping) in &mut encoder.sending {
            *skipping &= !frame.key;
            if !*skipping {
                legs.push(*leg);
            }
        }
        for leg in legs {
            self.leg_send(end.host, leg, Cargo::Picture(FLOW_VIDEO, frame));
        }
    }

    /// A camera that rested, because nobody wanted its pictures, takes the next when it would have.
    pub(crate) fn camera_resumes(&mut self, ix: usize) {
        let end = self.end_of(self.host_of_encoder(ix));
        let encoder = &mut self.encoders[ix];
        if let Some(last) = encoder.resting.filter(|_| encoder.watched()) {
            encoder.resting = None;
            let pictures = (self.now - last) / (FRAME_MS * MS) + 1;
            self.queue.push(last + pictures * FRAME_MS * MS, Ev::Tick { end });
        }
    }
}

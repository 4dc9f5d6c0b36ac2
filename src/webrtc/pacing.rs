//! What stands between a session and the socket: frames waiting for their turn, and datagrams
//! gathered into batches that the kernel takes in one call.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::hub::Live;
use crate::media::Packet;

/// Packets per [`TICK`] to one viewer: about 300 Mbit/s. A group of pictures sent at once
/// overflowed the receiver's socket in a third of trials; at this pace none was lost.
const BURST: usize = 32;

/// How long a burst lasts.
const TICK: Duration = Duration::from_millis(1);

/// Most datagrams in one call: the kernel's own limit was 64 for long, and a call is one buffer
/// of less than 64 KiB.
const MAX_SEGMENTS: usize = 44;

/// Frames in order, released a burst at a time.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    frames: VecDeque<Live>,
    /// Packets of the front frame that are gone already.
    sent: usize,
    /// When the next burst may go, while one is in progress.
    next: Option<Instant>,
}

impl Backlog {
    pub(super) fn push(&mut self, frame: Live) {
        self.frames.push_back(frame);
    }

    pub(super) fn clear(&mut self) {
        self.frames.clear();
        self.sent = 0;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// When [`Backlog::release`] has something to give.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.frames.is_empty() { None } else { self.next }
    }

    /// Hands over what may go now; returns how many frames were completed.
    pub(super) fn release(&mut self, now: Instant, mut write: impl FnMut(&Live, &Packet)) -> u64 {
        if self.next.is_some_and(|next| now < next) {
            return 0;
        }
        let mut budget = BURST;
        let mut completed = 0;
        while let Some(frame) = self.frames.front() {
            while let Some(packet) = frame.frame.packets.get(self.sent) {
                if budget == 0 {
                    self.next = Some(now + TICK);
                    return completed;
                }
                write(frame, packet);
                self.sent += 1;
                budget -= 1;
            }
            self.frames.pop_front();
            self.sent = 0;
            completed += 1;
        }
        // A full burst that emptied the backlog still counts against the next millisecond.
        self.next = (budget < BURST / 2).then(|| now + TICK);
        completed
    }
}

/// Datagrams of equal size to one place; the last of a batch may be shorter.
#[derive(Debug, Default)]
pub(super) struct Batch {
    to: Option<SocketAddr>,
    from: Option<IpAddr>,
    buffer: Vec<u8>,
    segment: usize,
    count: usize,
    /// A shorter one was added: nothing may follow.
    closed: bool,
}

/// A full batch.
pub(super) struct Flight<'a> {
    pub(super) to: SocketAddr,
    pub(super) from: Option<IpAddr>,
    pub(super) contents: &'a [u8],
    pub(super) segment_size: Option<usize>,
    pub(super) count: usize,
}

impl Batch {
    /// Adds a datagram; whatever does not go together with it goes to `send` first.
    pub(super) fn push(
        &mut self,
        to: SocketAddr,
        from: Option<IpAddr>,
        datagram: &[u8],
        send: &mut impl FnMut(&Flight<'_>),
    ) {
        let fits = self.count > 0
            && self.to == Some(to)
            && self.from == from
            && !self.closed
            && self.count < MAX_SEGMENTS
            && datagram.len() <= self.segment;
        if !fits {
            self.flush(send);
            self.to = Some(to);
            self.from = from;
            self.segment = datagram.len();
        }
        self.closed = datagram.len() < self.segment;
        self.buffer.extend_from_slice(datagram);
        self.count += 1;
    }

    /// Sends what is left.
    pub(super) fn flush(&mut self, send: &mut impl FnMut(&Flight<'_>)) {
        if let (Some(to), true) = (self.to, self.count > 0) {
            let segment_size = (self.count > 1).then_some(self.segment);
            let (from, count) = (self.from, self.count);
            send(&Flight { to, from, contents: &self.buffer, segment_size, count });
        }
        self.buffer.clear();
        self.count = 0;
        self.closed = false;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::media::Frame;

    fn frame(packets: usize) -> Live {
        let packet = Packet { sequence: 0, timestamp: 0, marker: false, payload: [0u8; 8].into() };
        let frame = Frame { packets: vec![packet; packets], keyframe: false };
        Live { timeline: 1, frame: frame.into() }
    }

    #[test]
    fn a_group_of_pictures_leaves_in_bursts() {
        let mut backlog = Backlog::default();
        let start = Instant::now();
        for _ in 0..10 {
            backlog.push(frame(10));
        }
        let mut at = start;
        let mut bursts = Vec::new();
        while !backlog.is_empty() {
            let mut count = 0;
            backlog.release(at, |_, _| count += 1);
            bursts.push(count);
            at = backlog.due().unwrap_or(at);
        }
        assert_eq!(bursts, [32, 32, 32, 4]);
        assert_eq!(at, start + 3 * TICK);
    }

    #[test]
    fn a_small_frame_leaves_at_once_after_another() {
        let mut backlog = Backlog::default();
        let now = Instant::now();
        for _ in 0..2 {
            backlog.push(frame(9));
            assert_eq!(backlog.release(now, |_, _| ()), 1);
        }
        assert!(backlog.is_empty());
    }

    proptest! {
        #[test]
        fn batches_keep_every_datagram_in_order(
            datagrams in proptest::collection::vec((0..2u16, 1..1200usize), 0..200)
        ) {
            let mut out: Vec<(u16, Vec<u8>)> = Vec::new();
            let mut batch = Batch::default();
            let mut send = |flight: &Flight<'_>| {
                let size = flight.segment_size.unwrap_or(flight.contents.len());
                assert!(flight.contents.len() < 65_000);
                let pieces: Vec<_> = flight.contents.chunks(size).collect();
                assert_eq!(pieces.len(), flight.count);
                out.extend(pieces.iter().map(|piece| (flight.to.port(), piece.to_vec())));
            };
            let datagrams: Vec<(u16, Vec<u8>)> = datagrams
                .iter()
                .enumerate()
                .map(|(i, (port, length))| (port + 1, vec![i as u8; *length]))
                .collect();
            for (port, bytes) in &datagrams {
                batch.push(([127, 0, 0, 1], *port).into(), None, bytes, &mut send);
            }
            batch.flush(&mut send);
            prop_assert_eq!(out, datagrams);
        }
    }
}

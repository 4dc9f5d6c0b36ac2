//! Packets, as a network delivers them, back into frames, and which to ask for again.

use std::collections::BTreeMap;
use std::time::Duration;

use super::depacketise::{begins_picture, holds_picture, is_keyframe};
use super::nack::ASK_MAX;
use super::{Frame, Packet};
use crate::time::Mono;

/// Packets of one frame, at most: 4 MB of payload, which is all that the group-of-pictures cache
/// would take.
pub const MAX_FRAME_PACKETS: usize = 4096;

/// A packet this many numbers before the newest is another numbering rather than reordering:
/// networks that reorder do so by a few packets.
pub const REORDER_PACKETS: u64 = 32;

/// A missing packet is waited for at least this long: until it was asked for with two frames of
/// 15 a second, and came.
pub const PATIENCE_MIN: Duration = Duration::from_millis(150);

/// A missing packet is waited for at most this long, whatever the round trip: a picture that is
/// later than that is worse than one with a flaw.
pub const PATIENCE_MAX: Duration = Duration::from_millis(800);

/// A packet is asked for at most this often.
pub const ASKS_MAX: u8 = 4;

/// From one request for a packet to the next, at least, and more with a longer round trip.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// Missing packets that are remembered; of a larger hole the rest is given up at once. Some two
/// seconds of a stream of 2 Mbit/s.
pub const HOLES_MAX: usize = 512;

/// After a pause this long a jump of the sequence number is no loss: the sender took up again what
/// it had left to others, and has nothing of what lies between, or begins with its last group of
/// pictures, whether or not a part of that has come before.
pub const PAUSE: Duration = Duration::from_secs(1);

/// A jump of the sequence number beyond this is another numbering, not loss (RFC 3550 §A.1).
pub const MAX_GAP: u64 = 3_000;

/// Follows sequence numbers over their wrap at 65,536.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Unwrapper {
    highest: Option<u64>,
}

impl Unwrapper {
    /// The number nearest to the highest so far that ends in these 16 bits. Numbers begin one
    /// round up, so that what is a little older than the first has a number too.
    pub(crate) fn unwrap(&mut self, sequence: u16) -> u64 {
        let Some(highest) = self.highest else {
            let first = 0x1_0000 + u64::from(sequence);
            self.highest = Some(first);
            return first;
        };
        let ahead = sequence.wrapping_sub(highest as u16);
        let number = if ahead < 0x8000 {
            highest + u64::from(ahead)
        } else {
            highest.saturating_sub(0x1_0000 - u64::from(ahead))
        };
        self.highest = Some(highest.max(number));
        number
    }
}

/// A frame as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assembled {
    /// Its packets, in order.
    pub frame: Frame,
    /// No packet of it is missing, as far as one can tell.
    pub complete: bool,
    /// Packets before or in it that were given up.
    pub lost: u64,
}

/// A packet that is missing.
#[derive(Debug, Clone, Copy)]
struct Hole {
    since: Mono,
    asked: Option<Mono>,
    asks: u8,
}

/// Puts the packets of one stream back into frames, in order.
#[derive(Debug, Default)]
pub struct Assembler {
    numbers: Unwrapper,
    /// The number that follows the last packet that was handed on or given up.
    next: Option<u64>,
    waiting: BTreeMap<u64, Packet>,
    holes: BTreeMap<u64, Hole>,
    heard: Option<Mono>,
    /// A frame was handed on: from here on, what is missing before one is loss.
    joined: bool,
    /// Packets that never came, or came after they were given up.
    pub lost: u64,
    /// Packets that came after they were given up, and are counted in `lost` too.
    pub late: u64,
    /// Packets that came twice while the first was still waiting.
    pub duplicates: u64,
    /// Packets of frames beyond [`MAX_FRAME_PACKETS`], dropped.
    pub oversize: u64,
    /// How often the numbering began anew.
    pub restarts: u64,
    /// Packets that were asked for, each time counted.
    pub asked: u64,
}

impl Assembler {
    /// An assembler that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a packet and returns the frames that it completes or makes hopeless, in order.
    /// `trip` is the round trip to whoever would send a missing one again.
    pub fn push(&mut self, now: Mono, trip: Duration, packet: Packet) -> Vec<Assembled> {
        let mut out = Vec::new();
        let before = self.numbers;
        let mut number = self.numbers.unwrap(packet.sequence);
        let paused = self.heard.replace(now).is_some_and(|heard| now.since(heard) > PAUSE);
        if before.highest.is_some_and(|highest| {
            number.abs_diff(highest) > MAX_GAP || paused && number != highest + 1
        }) {
            self.flush(&mut out);
            self.restarts += 1;
            self.numbers = Unwrapper::default();
            self.holes.clear();
            self.next = None;
            self.joined = false;
            number = self.numbers.unwrap(packet.sequence);
        }
        if self.waiting.contains_key(&number) {
            self.duplicates += 1;
            return out;
        }
        match self.next {
            Some(next) if number < next => {
                self.late += 1;
                return out;
            }
            Some(_) => {}
            // Joined in the middle of a picture: the packet before may still come.
            None if !begins_picture(&packet.payload) => self.next = Some(number - 1),
            None => self.next = Some(number),
        }
        let from = before.highest.map_or(0, |highest| highest + 1).max(self.next.unwrap_or(number));
        let room = HOLES_MAX.saturating_sub(self.holes.len());
        let hole = Hole { since: now, asked: None, asks: 0 };
        self.holes.extend((from..number).rev().take(room).map(|number| (number, hole)));
        self.holes.remove(&number);
        self.waiting.insert(number, packet);
        let patience = (trip * 5 / 2 + 2 * ASK_AGAIN).clamp(PATIENCE_MIN, PATIENCE_MAX);
        while let Some(assembled) = self.take(Some((now, patience))) {
            out.extend(assembled);
        }
        out
    }

    /// The sender does not have these packets: nobody waits for them any longer. Returns the frames
    /// that were held up.
    pub fn give_up(&mut self, sequences: &[u16]) -> Vec<Assembled> {
        let mut out = Vec::new();
        let before = self.holes.len();
        self.holes.retain(|number, _| !sequences.contains(&(*number as u16)));
        if self.holes.len() < before {
            // Those that are still missing are as young as they can be.
            let newest = self.holes.values().map(|hole| hole.since).max().unwrap_or_default();
            while let Some(assembled) = self.take(Some((newest, PATIENCE_MAX))) {
                out.extend(assembled);
            }
        }
        out
    }

    /// Sequence numbers to ask for now, at most [`ASK_MAX`]; each again after a round trip.
    pub fn ask(&mut self, now: Mono, trip: Duration) -> Vec<u16> {
        let again = ASK_AGAIN.max(trip * 5 / 4);
        let mut out = Vec::new();
        for (number, hole) in &mut self.holes {
            let due = hole.asked.is_none_or(|asked| now.since(asked) >= again);
            if due && hole.asks < ASKS_MAX && out.len() < ASK_MAX {
                hole.asked = Some(now);
                hole.asks += 1;
                out.push(*number as u16);
            }
        }
        self.asked += out.len() as u64;
        out
    }

    /// Gives up what is missing and hands on what waits, as at the end of a stream.
    pub fn finish(&mut self) -> Vec<Assembled> {
        let mut out = Vec::new();
        self.flush(&mut out);
        out
    }

    fn flush(&mut self, out: &mut Vec<Assembled>) {
        while let Some(assembled) = self.take(None) {
            out.extend(assembled);
        }
    }

    /// Takes the oldest frame off the waiting packets if it is whole or hopeless, by this time and
    /// patience (`None`: without any). The inner `None` is a frame that was dropped.
    fn take(&mut self, patience: Option<(Mono, Duration)>) -> Option<Option<Assembled>> {
        let next = self.next?;
        let (&newest, tail) = self.waiting.last_key_value()?;
        let (&first, head) = self.waiting.first_key_value()?;
        let timestamp = head.timestamp;
        let contiguous = newest - next + 1 == self.waiting.len() as u64;
        if contiguous
            && patience.is_some()
            && tail.timestamp == timestamp
            && !tail.marker
            && self.waiting.len() < MAX_FRAME_PACKETS
        {
            // The usual case, a frame that is still coming in, without a look at each packet.
            return None;
        }
        let mut last = first;
        let mut packets = 0;
        let mut ended = false;
        // The first number that is missing, before or inside the frame.
        let mut missing = (first > next).then_some(next);
        let mut follower = None;
        for (&number, packet) in &self.waiting {
            if packet.timestamp != timestamp || ended && number == last + 1 {
                follower = Some((number, packet));
                break;
            }
            if number > last + 1 && missing.is_none() {
                missing = Some(last + 1);
            }
            last = number;
            packets += 1;
            ended |= packet.marker && holds_picture(&packet.payload);
        }
        let ended = ended || follower.is_some_and(|(number, _)| number == last + 1);
        // A hole behind the frame is the frame's own unless it ended or the next one's
        // beginning is missing.
        let torn = follower.is_some() && !ended;
        let whole = missing.is_none() && ended;
        if !whole {
            let hole = missing.or(torn.then_some(last + 1));
            let gone = |hole| match (self.holes.get(&hole), patience) {
                (Some(hole), Some((now, patience))) => now.since(hole.since) >= patience,
                _ => true,
            };
            let hopeless = hole.is_some_and(gone) || self.waiting.len() >= MAX_FRAME_PACKETS;
            if patience.is_some() && !hopeless {
                return None;
            }
        }
        let begins = self.waiting.get(&first).is_some_and(|p| begins_picture(&p.payload));
        let inner_missing = last - first + 1 > packets as u64;
        let complete = ended && begins && !inner_missing;
        let mut rest = self.waiting.split_off(&(last + 1));
        std::mem::swap(&mut rest, &mut self.waiting);
        let from = if self.joined { next } else { first };
        let lost = last + 1 - from - packets as u64;
        self.lost += lost;
        self.joined = true;
        self.next = Some(last + 1);
        self.holes = self.holes.split_off(&(last + 1));
        if packets >= MAX_FRAME_PACKETS {
            self.oversize += packets as u64;
            return Some(None);
        }
        let packets: Vec<Packet> = rest.into_values().collect();
        let keyframe = packets.iter().any(|packet| is_keyframe(&packet.payload));
        Some(Some(Assembled { frame: Frame { packets, keyframe }, complete, lost }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::media::h264::AccessUnit;
    use crate::media::packetise::Packetiser;

    /// `count` frames of `slices` packets each, from sequence number `first` on.
    fn frames(first: u16, slices: &[usize]) -> Vec<Frame> {
        let mut packetiser = Packetiser::new(first);
        slices
            .iter()
            .enumerate()
            .map(|(at, &slices)| {
                let mut nals = vec![vec![7; 1_000]; slices];
                for (slice, nal) in nals.iter_mut().enumerate() {
                    nal[0] = if at == 0 { 0x65 } else { 0x41 };
                    nal[1] = if slice == 0 { 0xc0 } else { 0x50 };
                }
                packetiser.packetise(&AccessUnit::new(nals), at as u32 * 6_000).expect("a frame")
            })
            .collect()
    }

    const TRIP: Duration = Duration::from_millis(10);

    fn at(ms: u64) -> Mono {
        Mono(ms * 1_000_000)
    }

    /// One packet each 40 ms.
    fn run(packets: impl IntoIterator<Item = Packet>) -> (Vec<Assembled>, Assembler) {
        let mut assembler = Assembler::new();
        let mut out = Vec::new();
        for (number, packet) in packets.into_iter().enumerate() {
            out.extend(assembler.push(at(number as u64 * 40), TRIP, packet));
        }
        (out, assembler)
    }

    fn packets(frames: &[Frame]) -> Vec<Packet> {
        frames.iter().flat_map(|frame| frame.packets.clone()).collect()
    }

    #[test]
    fn a_frame_is_handed_on_with_its_last_packet() {
        let sent = frames(65_535, &[3]);
        let mut assembler = Assembler::new();
        assert!(assembler.push(at(0), TRIP, sent[0].packets[0].clone()).is_empty());
        assert!(assembler.push(at(1), TRIP, sent[0].packets[1].clone()).is_empty());
        let got = assembler.push(at(2), TRIP, sent[0].packets[2].clone());
        assert_eq!(got, [Assembled { frame: sent[0].clone(), complete: true, lost: 0 }]);
    }

    #[test]
    fn a_late_packet_of_the_previous_frame_still_completes_it() {
        let sent = frames(10, &[2, 1, 2]);
        let mut shuffled = packets(&sent);
        shuffled.swap(1, 2);
        let (got, assembler) = run(shuffled);
        assert_eq!(
            got.iter().map(|got| &got.frame).collect::<Vec<_>>(),
            sent.iter().collect::<Vec<_>>()
        );
        assert!(got.iter().all(|got| got.complete));
        assert_eq!(assembler.lost, 0);
    }

    #[test]
    fn a_packet_that_is_missing_is_asked_for_until_it_comes_and_holds_up_what_follows() {
        let sent = frames(65_534, &[3, 3, 3]);
        let mut all = packets(&sent);
        let missing = all.remove(4);
        let mut assembler = Assembler::new();
        let mut got = Vec::new();
        for packet in all {
            got.extend(assembler.push(at(100), TRIP, packet));
        }
        assert_eq!(got.len(), 1, "the others wait for it");
        assert_eq!(assembler.ask(at(100), TRIP), [2]);
        assert!(assembler.ask(at(119), TRIP).is_empty(), "the answer is on its way");
        assert_eq!(assembler.ask(at(120), TRIP), [2]);
        assert!(assembler.ask(at(120), Duration::from_millis(300)).is_empty());
        got.extend(assembler.push(at(130), TRIP, missing));
        assert_eq!(got.len(), 3);
        assert!(got.iter().all(|got| got.complete && got.lost == 0));
        assert!(assembler.ask(at(500), TRIP).is_empty());
        assert_eq!((assembler.lost, assembler.asked), (0, 2));
    }

    #[test]
    fn a_packet_that_does_not_come_is_given_up_in_the_end() {
        let sent = frames(10, &[1, 1, 1, 1, 1]);
        for (trip, patience) in [(1, 150), (100, 290), (2_000, 800)] {
            let trip = Duration::from_millis(trip);
            let mut assembler = Assembler::new();
            assembler.push(at(0), trip, sent[0].packets[0].clone());
            assert!(assembler.push(at(50), trip, sent[2].packets[0].clone()).is_empty());
            let asked = (50..3_000).filter(|ms| !assembler.ask(at(*ms), trip).is_empty()).count();
            assert!(asked <= usize::from(ASKS_MAX), "{asked}");
            let early = assembler.push(at(49 + patience), trip, sent[3].packets[0].clone());
            assert!(early.is_empty());
            let late = assembler.push(at(50 + patience), trip, sent[4].packets[0].clone());
            assert_eq!(late.iter().map(|late| late.lost).collect::<Vec<_>>(), [1, 0, 0]);
        }
    }

    #[test]
    fn a_hole_that_is_too_large_to_be_mended_is_passed_over_at_once() {
        let sent = frames(10, &[1, 700, 1]);
        let mut assembler = Assembler::new();
        assembler.push(at(0), TRIP, sent[0].packets[0].clone());
        let got = assembler.push(at(50), TRIP, sent[2].packets[0].clone());
        assert_eq!(got.len(), 1);
        let asked = assembler.ask(at(50), TRIP);
        assert!(asked.is_empty(), "{asked:?}");
    }

    #[test]
    fn a_missing_packet_spoils_its_own_frame_only() {
        let sent = frames(10, &[3, 3, 3, 3, 3]);
        for (missing, spoilt) in [(3, 1), (4, 1), (5, 1), (6, 2)] {
            let mut cut = packets(&sent);
            cut.remove(missing);
            let (got, assembler) = run(cut);
            let complete: Vec<bool> = got.iter().map(|got| got.complete).collect();
            let wanted: Vec<bool> = (0..5).map(|at| at != spoilt).collect();
            assert_eq!(complete, wanted, "without packet {missing}");
            assert_eq!(assembler.lost, 1);
        }
    }

    #[test]
    fn a_whole_frame_that_is_missing_is_counted_and_spoils_none() {
        let sent = frames(10, &[2, 2, 2, 2, 2]);
        let mut cut = packets(&sent);
        cut.drain(2..4);
        let (got, assembler) = run(cut);
        assert_eq!(got.len(), 4);
        assert!(got.iter().all(|got| got.complete));
        assert_eq!(assembler.lost, 2);
    }

    #[test]
    fn what_comes_twice_or_too_late_is_counted_and_dropped() {
        let sent = frames(10, &[2, 2, 2, 2]);
        let mut all = packets(&sent);
        let late = all.remove(1);
        all.insert(1, all[0].clone());
        all.push(late);
        let (got, assembler) = run(all);
        assert_eq!(got.len(), 4);
        assert_eq!((assembler.lost, assembler.late, assembler.duplicates), (1, 1, 1));
    }

    #[test]
    fn a_marker_behind_parameter_sets_alone_does_not_end_the_picture() {
        let mut sent = frames(10, &[2, 1]);
        sent[0].packets[0].payload = [0x67, 1, 2].as_slice().into();
        sent[0].packets[0].marker = true;
        let (got, _) = run(packets(&sent));
        assert_eq!(got.len(), 2);
        assert_eq!(got[0].frame.packets.len(), 2);
    }

    #[test]
    fn a_sender_that_starts_anew_is_followed_at_once() {
        let first = frames(10, &[2, 2]);
        for restart in [40_000, 5_000, 60_000] {
            let second = frames(restart, &[2, 2]);
            let (got, assembler) = run(packets(&first).into_iter().chain(packets(&second)));
            assert_eq!(got.len(), 4);
            assert!(got.iter().all(|got| got.complete));
            assert_eq!((assembler.lost, assembler.restarts), (0, 1));
        }
    }

    #[test]
    fn what_the_sender_does_not_have_is_not_waited_for() {
        let sent = frames(65_534, &[1, 2, 1, 1]);
        let mut assembler = Assembler::new();
        assembler.push(at(0), TRIP, sent[0].packets[0].clone());
        assert!(assembler.push(at(40), TRIP, sent[2].packets[0].clone()).is_empty());
        assert_eq!(assembler.ask(at(40), TRIP), [65_535, 0]);
        assert!(assembler.give_up(&[0, 7]).is_empty(), "the other may come");
        assert!(assembler.give_up(&[7]).is_empty());
        let got = assembler.give_up(&[65_535]);
        assert_eq!(got.iter().map(|got| got.lost).collect::<Vec<_>>(), [2]);
        assert_eq!(assembler.push(at(80), TRIP, sent[3].packets[0].clone()).len(), 1);
    }

    #[test]
    fn a_sender_that_takes_up_again_after_a_pause_is_not_asked_for_what_lies_between() {
        let sent = frames(10, &[2, 2, 60, 2, 2]);
        let mut assembler = Assembler::new();
        let mut take = |ms, frame: &Frame| -> Vec<Assembled> {
            let packets = frame.packets.iter().cloned();
            packets.flat_map(|packet| assembler.push(at(ms), TRIP, packet)).collect()
        };
        assert_eq!(take(0, &sent[0]).len(), 1);
        assert_eq!(take(5_000, &sent[1]).len(), 1, "a slow camera");
        let again = take(10_000, &sent[3]);
        assert_eq!(again.len(), 1, "at once");
        assert_eq!(take(10_040, &sent[4]).len(), 1);
        assert!(assembler.ask(at(10_040), TRIP).is_empty());
        assert_eq!((assembler.lost, assembler.restarts), (0, 1));
    }

    #[test]
    fn a_sender_that_takes_up_again_after_a_pause_may_begin_with_what_it_had_sent_before() {
        let sent = frames(10, &[2, 2, 2]);
        let mut assembler = Assembler::new();
        let mut take = |ms, frame: &Frame| -> Vec<Assembled> {
            let packets = frame.packets.iter().cloned();
            packets.flat_map(|packet| assembler.push(at(ms), TRIP, packet)).collect()
        };
        // The group of pictures so far: without its keyframe what follows is of no use.
        assert_eq!(take(0, &sent[0]).len(), 1);
        assert_eq!(take(40, &sent[1]).len(), 1);
        let again: usize = sent.iter().map(|frame| take(2_000, frame).len()).sum();
        assert_eq!(again, 3);
        assert_eq!((assembler.lost, assembler.late, assembler.restarts), (0, 0, 1));
    }

    #[test]
    fn a_frame_without_end_is_dropped_at_the_limit() {
        let mut assembler = Assembler::new();
        for number in 0..2 * MAX_FRAME_PACKETS {
            let packet = Packet {
                sequence: number as u16,
                timestamp: 1,
                marker: false,
                payload: [0x41, 0xc0].as_slice().into(),
            };
            assert!(assembler.push(at(0), TRIP, packet).is_empty());
            assert!(assembler.waiting.len() <= MAX_FRAME_PACKETS);
        }
        assert_eq!(assembler.oversize, 2 * MAX_FRAME_PACKETS as u64);
    }

    proptest! {
        #[test]
        fn with_a_sender_that_answers_no_loss_spoils_anything(
            slices in prop::collection::vec(1usize..5, 1..60),
            first: u16,
            trip in 1u64..250,
            lost in prop::collection::vec(0u8..10, 300),
        ) {
            // 25 frames a second; one packet in ten is lost, requests and answers are not.
            let sent = frames(first, &slices);
            let trip = Duration::from_millis(trip);
            let mut assembler = Assembler::new();
            let mut due: BTreeMap<Mono, Vec<Packet>> = BTreeMap::new();
            let mut count = 0;
            for (number, frame) in sent.iter().enumerate() {
                for packet in &frame.packets {
                    count += 1;
                    if number == 0 || lost.get(count).is_none_or(|fate| *fate != 0) {
                        due.entry(at(number as u64 * 40)).or_default().push(packet.clone());
                    }
                }
            }
            let mut got = Vec::new();
            while let Some((now, arrived)) = due.pop_first() {
                for packet in arrived {
                    got.extend(assembler.push(now, trip, packet));
                    for asked in assembler.ask(now, trip) {
                        let packet = packets(&sent).into_iter().find(|p| p.sequence == asked);
                        due.entry(now + trip).or_default().extend(packet);
                    }
                }
            }
            got.extend(assembler.finish());
            // Nothing tells of what is lost behind the last packet that came.
            prop_assert!(got.len() + 1 >= sent.len() || assembler.lost == 0);
            for (got, sent) in got.iter().zip(&sent) {
                prop_assert!(!got.complete || got.frame == *sent);
                prop_assert_eq!(got.lost, 0);
            }
        }

        #[test]
        fn every_packet_comes_out_once_and_in_order_or_is_counted(
            slices in prop::collection::vec(1usize..5, 1..30),
            first: u16,
            fate in prop::collection::vec((0u8..20, 0usize..6), 120),
        ) {
            let sent = frames(first, &slices);
            let mut all = packets(&sent);
            let count = all.len();
            let mut twice = 0;
            for (at, &(what, far)) in fate.iter().enumerate().take(count) {
                if what == 1 {
                    let other = (at + far).min(all.len() - 1);
                    let at = at.min(all.len() - 1);
                    all.swap(at, other);
                } else if what == 2 {
                    all.insert(at, all[at].clone());
                    twice += 1;
                }
            }
            let before = all.len();
            let mut index = 0;
            all.retain(|_| { index += 1; fate.get(index).is_none_or(|&(what, _)| what != 0) });
            let dropped = before - all.len();
            let (mut got, mut assembler) = run(all);
            got.extend(assembler.finish());
            prop_assert_eq!(got.iter().map(|got| got.lost).sum::<u64>(), assembler.lost);
            let numbers: Vec<u16> = got
                .iter()
                .flat_map(|got| got.frame.packets.iter())
                .map(|packet| packet.sequence.wrapping_sub(first))
                .collect();
            prop_assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert_eq!(
                numbers.len() as u64 + assembler.late + assembler.duplicates,
                (count + twice - dropped) as u64
            );
            for got in got {
                let whole = sent.contains(&got.frame);
                prop_assert!(!got.complete || whole);
            }
        }
    }
}

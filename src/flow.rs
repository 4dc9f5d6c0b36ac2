//! Frames over QUIC datagrams: a flow id, then one RTP packet
//! (draft-ietf-avtcore-rtp-over-quic); in the other direction requests for packets that are missing, and
//! their answers.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::hub::Live;
use crate::media::{CLOCK_RATE, Nack, Packet};
use crate::quic;
use crate::wire;

/// RTP payload type of video between nodes and native clients; any dynamic one would do.
const PAYLOAD_TYPE: u8 = 96;
/// Packets of a replayed group of pictures that go out at a time; then the receiver gets
/// [`BURST_PAUSE`] to read them.
const BURST_PACKETS: usize = 32;
const BURST_PAUSE: Duration = Duration::from_millis(1);

/// Frames that are kept so that packets of them can be sent again, by their age in the stream's
/// own time: longer than anyone waits for a packet.
pub const KEPT: Duration = Duration::from_secs(2);
/// Requests for packets that wait while a flow sends; beyond it they are dropped, and come again.
pub const ASKS_QUEUE: usize = 16;

/// Packets that flows have sent.
#[derive(Debug, Default)]
pub struct Sent {
    /// For the first time.
    pub first: AtomicU64,
    /// Once more, because somebody missed them.
    pub again: AtomicU64,
}

/// Sends what a stream starts with, then what follows, and again what is asked for, until either
/// end is gone.
pub async fn send(
    connection: &quic::Connection,
    flow: u32,
    start: Vec<Live>,
    mut frames: mpsc::Receiver<Live>,
    mut asks: mpsc::Receiver<Nack>,
    counters: &Sent,
) -> Result<(), quic::SendDatagramError> {
    let mut kept: VecDeque<Live> = VecDeque::new();
    let mut sent = 0;
    for live in start {
        for packet in &live.frame.packets {
            connection.send_datagram_wait(datagram(flow, live.timeline, packet)).await?;
            counters.first.fetch_add(1, Ordering::Relaxed);
            sent += 1;
            if sent % BURST_PACKETS == 0 {
                tokio::time::sleep(BURST_PAUSE).await;
            }
        }
        keep(&mut kept, live);
    }
    loop {
        tokio::select! {
            live = frames.recv() => {
                let Some(live) = live else { return Ok(()) };
                for packet in &live.frame.packets {
                    connection.send_datagram_wait(datagram(flow, live.timeline, packet)).await?;
                    counters.first.fetch_add(1, Ordering::Relaxed);
                }
                keep(&mut kept, live);
            }
            Some(mut nack) = asks.recv() => {
                // Another stream's, or one of an earlier start of this one's agent.
                if kept.back().is_none_or(|live| ssrc(live.timeline) != nack.ssrc) {
                    continue;
                }
                for (timeline, packet) in asked_for(&kept, &nack.sequences) {
                    connection.send_datagram_wait(datagram(flow, timeline, &packet)).await?;
                    counters.again.fetch_add(1, Ordering::Relaxed);
                    nack.sequences.retain(|sequence| *sequence != packet.sequence);
                }
                if !nack.sequences.is_empty() {
                    // Never sent here, or too long ago: nobody need wait for them.
                    connection.send_datagram_wait(rtcp(flow, &nack)).await?;
                }
            }
        }
    }
}

fn keep(kept: &mut VecDeque<Live>, live: Live) {
    let span = KEPT.as_secs() as u32 * CLOCK_RATE;
    let newest = (live.timeline, live.frame.timestamp());
    // Frames of another timeline cannot be asked for any more.
    while kept.front().is_some_and(|old| {
        old.timeline != newest.0 || newest.1.wrapping_sub(old.frame.timestamp()) > span
    }) {
        kept.pop_front();
    }
    kept.push_back(live);
}

/// The packets with these numbers that are still there, with their timelines.
fn asked_for(kept: &VecDeque<Live>, sequences: &[u16]) -> Vec<(u64, Packet)> {
    kept.iter()
        .flat_map(|live| live.frame.packets.iter().map(|packet| (live.timeline, packet)))
        .filter(|(_, packet)| sequences.contains(&packet.sequence))
        .map(|(timeline, packet)| (timeline, packet.clone()))
        .collect()
}

/// A request for packets of a flow, or from its sender the word that it does not have them, as a
/// datagram.
pub fn rtcp(flow: u32, nack: &Nack) -> Bytes {
    let mut out = Vec::new();
    wire::put_varint(flow, &mut out);
    nack.write(&mut out);
    out.into()
}

/// One packet as a datagram. The timeline's low half travels as SSRC.
fn datagram(flow: u32, timeline: u64, packet: &Packet) -> Bytes {
    let mut out = Vec::with_capacity(packet.payload.len() + 20);
    wire::put_varint(flow, &mut out);
    packet.write(PAYLOAD_TYPE, ssrc(timeline), &mut out);
    out.into()
}

/// The SSRC that stands for a timeline.
pub fn ssrc(timeline: u64) -> u32 {
    (timeline & u64::from(u32::MAX)) as u32
}

/// The SSRC of an RTP packet (RFC 3550 §5.1).
pub fn ssrc_of(packet: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(packet.get(8..12)?.try_into().ok()?))
}

/// Whether timestamp `a` is later than `b`, over the wrap of 32 bits.
pub fn is_after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).wrapping_sub(1) < u32::MAX / 2
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::media::Frame;

    fn live(timeline: u64, number: u16) -> Live {
        let packet = Packet {
            sequence: number,
            timestamp: u32::from(number) * 9_000,
            marker: true,
            payload: [0x41].into(),
        };
        Live { timeline, frame: Arc::new(Frame { packets: vec![packet], keyframe: false }) }
    }

    #[test]
    fn packets_of_the_last_two_seconds_can_be_asked_for_again() {
        let mut kept = VecDeque::new();
        (1..=40).for_each(|number| keep(&mut kept, live(7, number)));
        let found = asked_for(&kept, &[3, 20, 21, 40, 41]);
        let numbers: Vec<u16> = found.iter().map(|(_, packet)| packet.sequence).collect();
        assert_eq!(numbers, [20, 21, 40]);
        keep(&mut kept, live(8, 1));
        assert_eq!(kept.len(), 1, "nobody can ask for those before");
    }
}

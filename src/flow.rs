//! Frames over QUIC datagrams: a flow id, then one RTP packet
//! (draft-ietf-avtcore-rtp-over-quic).

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::hub::Live;
use crate::media::Packet;
use crate::wire;

/// RTP payload type of video between nodes and native clients; any dynamic one would do.
const PAYLOAD_TYPE: u8 = 96;
/// Packets of a replayed group of pictures that go out at a time; then the receiver gets
/// [`BURST_PAUSE`] to read them.
const BURST_PACKETS: usize = 32;
const BURST_PAUSE: Duration = Duration::from_millis(1);

/// Sends what a stream starts with, then what follows, until either end is gone.
pub async fn send(
    connection: &quinn::Connection,
    flow: u32,
    start: Vec<Live>,
    mut frames: mpsc::Receiver<Live>,
) -> Result<(), quinn::SendDatagramError> {
    let mut sent = 0;
    for live in start {
        for packet in &live.frame.packets {
            connection.send_datagram_wait(datagram(flow, live.timeline, packet)).await?;
            sent += 1;
            if sent % BURST_PACKETS == 0 {
                tokio::time::sleep(BURST_PAUSE).await;
            }
        }
    }
    while let Some(live) = frames.recv().await {
        for packet in &live.frame.packets {
            connection.send_datagram_wait(datagram(flow, live.timeline, packet)).await?;
        }
    }
    Ok(())
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

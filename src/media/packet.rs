//! The two units of media: the RTP packet that travels, and the frame that is handed around.

use std::sync::Arc;

/// The largest RTP payload, in bytes: with the RTP header, the flow id and QUIC's or SRTP's own
/// overhead it stays inside a 1,200-byte datagram on every path (RFC 9000 §14.1).
pub const MAX_PAYLOAD: usize = 1120;

/// Ticks per second of every video timestamp (RFC 6184 §8.2.1).
pub const CLOCK_RATE: u32 = 90_000;

/// One RTP packet, packetised once where the stream enters and never again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// RTP sequence number as the encoder's agent assigned it.
    pub sequence: u16,
    /// RTP timestamp, 90 kHz.
    pub timestamp: u32,
    /// Last packet of its frame.
    pub marker: bool,
    /// RTP payload (RFC 6184), at most [`MAX_PAYLOAD`] bytes, shared by every receiver.
    pub payload: Arc<[u8]>,
}

/// All packets of one picture, in sequence order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Never empty.
    pub packets: Vec<Packet>,
    /// A decoder can start here: the frame holds an IDR slice.
    pub keyframe: bool,
}

impl Frame {
    /// RTP timestamp of the picture, 90 kHz.
    pub fn timestamp(&self) -> u32 {
        self.packets.first().map_or(0, |packet| packet.timestamp)
    }

    /// Payload bytes of the picture.
    pub fn size(&self) -> usize {
        self.packets.iter().map(|packet| packet.payload.len()).sum()
    }
}

//! Sequence numbers and timestamps as one viewer sees them: unbroken across a change of source.

use crate::media::Packet;

/// Continues one viewer's numbering over everything it is sent.
#[derive(Debug)]
pub(super) struct Rewriter {
    next: u64,
    base: Option<(u64, u16, u32, u32)>,
    last_timestamp: u32,
}

impl Rewriter {
    /// Starts below 65,536, where receivers assume a rollover counter of 0 (RFC 3711 §3.3.1).
    pub(super) fn new(first_sequence: u16) -> Self {
        Self { next: u64::from(first_sequence), base: None, last_timestamp: 0 }
    }

    /// The next packet is of another source.
    pub(super) fn switch(&mut self) {
        self.base = None;
    }

    /// The numbers that the viewer sees.
    pub(super) fn rewrite(&mut self, packet: &Packet) -> (u64, u32) {
        let (base, sequence, timestamp, offset) = *self.base.get_or_insert((
            self.next,
            packet.sequence,
            packet.timestamp,
            self.last_timestamp.wrapping_add(3000),
        ));
        let ahead = self.next.wrapping_sub(base) as u16;
        let delta = packet.sequence.wrapping_sub(sequence).wrapping_sub(ahead) as i16;
        let number = self.next.saturating_add_signed(i64::from(delta));
        self.next = self.next.max(number + 1);
        let time = packet.timestamp.wrapping_sub(timestamp).wrapping_add(offset);
        self.last_timestamp = time;
        (number, time)
    }
}

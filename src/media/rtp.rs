//! The RTP header, read and written (RFC 3550 §5.1).

use super::Packet;

/// Bytes of an RTP header without contributing sources and extension: all that is ever written.
pub const RTP_HEADER: usize = 12;

impl Packet {
    /// Reads one RTP packet. Payload type and SSRC are the transport's business and are skipped,
    /// contributing sources, header extension and padding are stepped over. `None` for anything
    /// that is not RTP version 2, is cut short or has no payload.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let header: &[u8; RTP_HEADER] = bytes.first_chunk()?;
        let [flags, second, s0, s1, t0, t1, t2, t3, ..] = *header;
        if flags >> 6 != 2 {
            return None;
        }
        let mut start = RTP_HEADER + usize::from(flags & 0x0f) * 4;
        if flags & 0x10 != 0 {
            let words: &[u8; 2] = bytes.get(start + 2..)?.first_chunk()?;
            start += 4 + usize::from(u16::from_be_bytes(*words)) * 4;
        }
        let mut end = bytes.len();
        if flags & 0x20 != 0 {
            let padding = usize::from(*bytes.last()?);
            if padding == 0 {
                return None;
            }
            end = end.checked_sub(padding)?;
        }
        let payload = bytes.get(start..end).filter(|payload| !payload.is_empty())?;
        Some(Self {
            sequence: u16::from_be_bytes([s0, s1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            marker: second & 0x80 != 0,
            payload: payload.into(),
        })
    }

    /// Appends the packet as RTP with a plain 12-byte header; `payload_type` is its low 7 bits.
    pub fn write(&self, payload_type: u8, ssrc: u32, out: &mut Vec<u8>) {
        out.reserve(RTP_HEADER + self.payload.len());
        out.push(0x80);
        out.push(u8::from(self.marker) << 7 | payload_type & 0x7f);
        out.extend_from_slice(&self.sequence.to_be_bytes());
        out.extend_from_slice(&self.timestamp.to_be_bytes());
        out.extend_from_slice(&ssrc.to_be_bytes());
        out.extend_from_slice(&self.payload);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sources_extension_and_padding_are_stepped_over() {
        let mut bytes = vec![0x80 | 0x20 | 0x10 | 2, 0xe0, 0x12, 0x34, 0, 0, 1, 0, 9, 9, 9, 9];
        bytes.extend_from_slice(&[1; 8]); // two contributing sources
        bytes.extend_from_slice(&[0xbe, 0xde, 0, 1, 7, 7, 7, 7]); // one word of extension
        bytes.extend_from_slice(&[0x65, 0xaa, 0, 0, 3]); // payload and three bytes of padding
        let packet = Packet::parse(&bytes).expect("a packet");
        assert_eq!((packet.sequence, packet.timestamp, packet.marker), (0x1234, 256, true));
        assert_eq!(&packet.payload[..], [0x65, 0xaa]);
    }

    #[test]
    fn lengths_that_point_outside_are_refused() {
        let plain = [0x80, 96, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1];
        assert_eq!(Packet::parse(&plain), None, "no payload");
        let with = |flags: u8, tail: &[u8]| {
            let mut bytes = plain.to_vec();
            bytes[0] |= flags;
            bytes.extend_from_slice(tail);
            Packet::parse(&bytes)
        };
        assert_eq!(with(0x0f, &[1, 2, 3]), None, "sources");
        assert_eq!(with(0x10, &[1, 2, 0xff, 0xff, 1]), None, "extension");
        assert_eq!(with(0x20, &[1, 2, 200]), None, "padding");
        assert_eq!(with(0x20, &[1, 2, 0]), None, "no padding where padding is said to be");
        assert!(with(0, &[1]).is_some());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_packet_or_not_but_never_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..64),
            flags in any::<u8>(),
        ) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = 0x80 | flags & 0x3f;
            }
            let _ = Packet::parse(&bytes);
        }

        #[test]
        fn what_is_written_is_read_back(
            sequence: u16, timestamp: u32, marker: bool, payload_type in 0u8..128, ssrc: u32,
            payload in prop::collection::vec(any::<u8>(), 1..64),
        ) {
            let packet = Packet { sequence, timestamp, marker, payload: payload.into() };
            let mut bytes = Vec::new();
            packet.write(payload_type, ssrc, &mut bytes);
            prop_assert_eq!(bytes[1] & 0x7f, payload_type);
            prop_assert_eq!(&bytes[8..12], ssrc.to_be_bytes());
            prop_assert_eq!(Packet::parse(&bytes), Some(packet));
        }
    }
}

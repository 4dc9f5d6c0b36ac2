//! Asking again for packets that are missing: generic negative acknowledgements of RTCP (RFC 4585
//! §6.2.1), on the flow of the packets that they are about (RFC 5761).

/// Packets that are asked for in one message, at most: a burst of loss beyond it is a path that
/// is full, and asking for more would not help it.
pub const ASK_MAX: usize = 64;

/// RTCP's packet type for feedback of a transport layer.
const TRANSPORT_FEEDBACK: u8 = 205;
/// The kind of such feedback that names packets.
const GENERIC_NACK: u8 = 1;
/// Bytes before the list of packets.
const HEADER: usize = 12;

/// Packets of one sender that somebody misses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nack {
    /// Whose packets.
    pub ssrc: u32,
    /// Their sequence numbers, at most [`ASK_MAX`].
    pub sequences: Vec<u16>,
}

/// Whether these bytes are RTCP and no RTP packet (RFC 5761 §4).
pub fn is_rtcp(bytes: &[u8]) -> bool {
    matches!(bytes, [flags, 192..=223, ..] if flags >> 6 == 2)
}

impl Nack {
    /// Appends the message. Sequence numbers after the first [`ASK_MAX`] are left out.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut items: Vec<(u16, u16)> = Vec::new();
        for &sequence in self.sequences.iter().take(ASK_MAX) {
            let behind = items.last().map(|(first, _)| sequence.wrapping_sub(*first));
            match (behind, items.last_mut()) {
                (Some(behind @ 1..=16), Some((_, more))) => *more |= 1 << (behind - 1),
                _ => items.push((sequence, 0)),
            }
        }
        out.extend_from_slice(&[0x80 | GENERIC_NACK, TRANSPORT_FEEDBACK]);
        let words = (HEADER / 4 - 1 + items.len()) as u16;
        out.extend_from_slice(&words.to_be_bytes());
        // Who asks is known by the connection.
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.ssrc.to_be_bytes());
        for (first, more) in items {
            out.extend_from_slice(&first.to_be_bytes());
            out.extend_from_slice(&more.to_be_bytes());
        }
    }

    /// Reads one; `None` for anything else. Numbers beyond [`ASK_MAX`] are left out.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let header: &[u8; HEADER] = bytes.first_chunk()?;
        let [flags, kind, l0, l1, _, _, _, _, s0, s1, s2, s3] = *header;
        if flags != 0x80 | GENERIC_NACK || kind != TRANSPORT_FEEDBACK {
            return None;
        }
        let length = (usize::from(u16::from_be_bytes([l0, l1])) + 1) * 4;
        let items = bytes.get(HEADER..length)?;
        let mut sequences = Vec::new();
        for item in items.as_chunks::<4>().0 {
            let [f0, f1, m0, m1] = *item;
            let (first, more) = (u16::from_be_bytes([f0, f1]), u16::from_be_bytes([m0, m1]));
            sequences.push(first);
            let following = (0..16).filter(|bit| more & 1 << bit != 0);
            sequences.extend(following.map(|bit| first.wrapping_add(bit + 1)));
            if sequences.len() >= ASK_MAX {
                break;
            }
        }
        sequences.truncate(ASK_MAX);
        Some(Self { ssrc: u32::from_be_bytes([s0, s1, s2, s3]), sequences })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::media::Packet;

    #[test]
    fn a_request_is_written_as_the_standard_says() {
        let mut bytes = Vec::new();
        Nack { ssrc: 0x0102_0304, sequences: vec![65_535, 0, 15, 16] }.write(&mut bytes);
        let wanted = [
            0x81, 205, 0, 4, 0, 0, 0, 0, 1, 2, 3, 4, //
            0xff, 0xff, 0x80, 0x01, // 65,535, and 1 and 16 later
            0, 16, 0, 0,
        ];
        assert_eq!(bytes, wanted);
        assert!(is_rtcp(&bytes));
    }

    #[test]
    fn what_is_cut_short_or_something_else_is_no_request() {
        let mut bytes = Vec::new();
        Nack { ssrc: 1, sequences: vec![5] }.write(&mut bytes);
        assert_eq!(Nack::read(&bytes[..bytes.len() - 1]), None);
        bytes[1] = 206;
        assert_eq!(Nack::read(&bytes), None);
        assert!(is_rtcp(&bytes));
        let packet = Packet { sequence: 1, timestamp: 1, marker: true, payload: [1].into() };
        let mut rtp = Vec::new();
        packet.write(96, 1, &mut rtp);
        assert!(!is_rtcp(&rtp));
    }

    proptest! {
        #[test]
        fn what_is_asked_for_is_read(
            ssrc: u32, first: u16, steps in prop::collection::vec(1u16..40, 0..ASK_MAX - 1),
        ) {
            let mut sequences = vec![first];
            for step in steps {
                sequences.push(sequences.last().copied().unwrap_or(first).wrapping_add(step));
            }
            let nack = Nack { ssrc, sequences };
            let mut bytes = Vec::new();
            nack.write(&mut bytes);
            prop_assert_eq!(Nack::read(&bytes), Some(nack));
        }

        #[test]
        fn any_bytes_are_a_request_within_its_bound_or_none(
            mut bytes in prop::collection::vec(any::<u8>(), 0..400), made: bool,
        ) {
            if let (true, [flags, kind, ..]) = (made, bytes.as_mut_slice()) {
                (*flags, *kind) = (0x81, 205);
            }
            if let Some(nack) = Nack::read(&bytes) {
                prop_assert!(nack.sequences.len() <= ASK_MAX);
            }
        }
    }
}

//! RTP packets back into NAL units (RFC 6184), and what a payload holds without unpacking it.

use super::Frame;
use super::h264::{AccessUnit, Slice, nal};
use super::packetise::{FU_A, STAP_A};

/// The NAL units of a frame.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unpacked {
    /// What could be put together.
    pub unit: AccessUnit,
    /// Packets that could not be used: fragments of a unit of which others are missing, and
    /// payloads of a kind that packetization mode 1 does not know.
    pub dropped: usize,
}

/// Puts the NAL units of a frame together, leaving out those of which fragments are missing.
pub fn unpack(frame: &Frame) -> Unpacked {
    let mut nals: Vec<Vec<u8>> = Vec::new();
    let mut dropped = 0;
    // The unit that is being put together, its packets so far and the number that must follow.
    let mut open: Option<(Vec<u8>, usize, u16)> = None;
    for packet in &frame.packets {
        let payload = &packet.payload;
        if nal::kind(payload) != FU_A {
            dropped += open.take().map_or(0, |(_, packets, _)| packets);
        }
        match (nal::kind(payload), &payload[..]) {
            (1..=23, whole) => nals.push(whole.to_vec()),
            (STAP_A, _) => nals.extend(aggregated(payload).map(<[u8]>::to_vec)),
            (FU_A, [indicator, header, piece @ ..]) => {
                if header & 0x80 != 0 {
                    dropped += open.take().map_or(0, |(_, packets, _)| packets);
                    let mut unit = vec![indicator & 0xe0 | header & 0x1f];
                    unit.extend_from_slice(piece);
                    open = Some((unit, 1, packet.sequence.wrapping_add(1)));
                } else {
                    match &mut open {
                        Some((unit, packets, next)) if *next == packet.sequence => {
                            unit.extend_from_slice(piece);
                            *packets += 1;
                            *next = next.wrapping_add(1);
                        }
                        _ => {
                            dropped += 1 + open.take().map_or(0, |(_, packets, _)| packets);
                        }
                    }
                }
                if header & 0x40 != 0
                    && let Some((unit, ..)) = open.take()
                {
                    nals.push(unit);
                }
            }
            _ => dropped += 1,
        }
    }
    dropped += open.map_or(0, |(_, packets, _)| packets);
    Unpacked { unit: AccessUnit::new(nals), dropped }
}

/// The frame as an Annex B stream, without the units of which fragments are missing.
pub fn to_annex_b(frame: &Frame) -> Vec<u8> {
    unpack(frame).unit.to_annex_b()
}

/// The units of an aggregation packet; stops at a length that points outside.
fn aggregated(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = payload.get(1..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (size, after) = rest.split_first_chunk::<2>()?;
        let (unit, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*size)))?;
        rest = after;
        Some(unit)
    })
    .filter(|unit| !unit.is_empty())
}

/// Whether any NAL unit that is, or begins, in this payload satisfies `test`. It is given the
/// unit's type and, as far as this packet holds them, the bytes after the unit's header.
fn any_unit(payload: &[u8], test: impl Fn(u8, &[u8]) -> bool) -> bool {
    let whole = |unit: &[u8]| test(nal::kind(unit), unit.get(1..).unwrap_or_default());
    match (nal::kind(payload), payload) {
        (STAP_A, _) => aggregated(payload).any(whole),
        (FU_A, [_, header, piece @ ..]) => header & 0x80 != 0 && test(header & 0x1f, piece),
        _ => whole(payload),
    }
}

/// Whether an IDR slice is or begins in this payload: it is looked for in every unit of an
/// aggregation packet, behind delimiters and parameter sets too.
pub fn is_keyframe(payload: &[u8]) -> bool {
    any_unit(payload, |kind, _| kind == nal::IDR)
}

/// Whether a part of a picture is in this payload. A marker on a packet with parameter sets
/// alone, as some cameras set it, does not end the picture.
pub(crate) fn holds_picture(payload: &[u8]) -> bool {
    match (nal::kind(payload), payload) {
        (FU_A, [_, header, ..]) => nal::is_picture(header & 0x1f),
        _ => any_unit(payload, |kind, _| nal::is_picture(kind)),
    }
}

/// Whether a new picture can begin with this payload.
pub(crate) fn begins_picture(payload: &[u8]) -> bool {
    any_unit(payload, |kind, body| match kind {
        nal::SEI..=nal::DELIMITER | 14..=18 => true,
        // A slice at macroblock 0: its first bit is the whole code.
        nal::SLICE | nal::PARTITION_A | nal::IDR => body.first().is_some_and(|b| b & 0x80 != 0),
        _ => false,
    })
}

/// Whether a bidirectional slice is or begins in this payload, which browsers do not play.
pub fn is_bidirectional(payload: &[u8]) -> bool {
    any_unit(payload, |kind, body| {
        let mut unit = vec![kind];
        unit.extend_from_slice(body.get(..body.len().min(16)).unwrap_or_default());
        Slice::parse(&unit).is_some_and(|slice| slice.bidirectional)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::media::{MAX_PAYLOAD, Packet, packetise::Packetiser};

    fn frame(payloads: &[(u16, &[u8])]) -> Frame {
        let packets = payloads
            .iter()
            .map(|&(sequence, payload)| Packet {
                sequence,
                timestamp: 0,
                marker: false,
                payload: payload.into(),
            })
            .collect();
        Frame { packets, keyframe: false }
    }

    #[test]
    fn a_unit_that_misses_a_fragment_is_left_out_and_counted() {
        let unit = AccessUnit::new(vec![
            vec![0x67, 1],
            [vec![0x65, 0x88], vec![7; 4 * MAX_PAYLOAD]].concat(),
            vec![0x41, 0x9a],
        ]);
        let whole = Packetiser::new(65_533).packetise(&unit, 0).expect("a frame");
        assert_eq!(whole.packets.len(), 7);
        for missing in 1..6 {
            let mut cut = whole.clone();
            cut.packets.remove(missing);
            let unpacked = unpack(&cut);
            assert_eq!(unpacked.unit.nals, [vec![0x67, 1], vec![0x41, 0x9a]]);
            assert_eq!(unpacked.dropped, 4, "without packet {missing}");
        }
    }

    #[test]
    fn a_keyframe_is_found_behind_a_delimiter_and_parameter_sets() {
        assert!(is_keyframe(&[0x65, 0x88]));
        assert!(is_keyframe(&[0x78, 0, 2, 9, 0xf0, 0, 1, 0x67, 0, 2, 0x65, 0x88]));
        assert!(is_keyframe(&[0x7c, 0x85, 1]), "the first fragment");
        assert!(!is_keyframe(&[0x7c, 0x05, 1]), "a later fragment");
        assert!(!is_keyframe(&[0x78, 0, 2, 9, 0xf0, 0, 200, 0x65]), "a length that points outside");
        assert!(!is_keyframe(&[0x67, 1]));
        assert!(!is_keyframe(&[]));
    }

    #[test]
    fn a_bidirectional_slice_is_found_in_any_packet() {
        assert!(is_bidirectional(&[0x01, 0b1010_0000]));
        assert!(is_bidirectional(&[0x1c, 0x81, 0b1010_0000]));
        assert!(is_bidirectional(&[0x18, 0, 2, 6, 1, 0, 2, 1, 0b1010_0000]));
        assert!(!is_bidirectional(&[0x41, 0b1100_0000]));
    }

    proptest! {
        #[test]
        fn no_payloads_make_the_readers_panic(
            payloads in prop::collection::vec(
                (any::<u16>(), prop::collection::vec(any::<u8>(), 0..30)), 0..8),
            kind in prop_oneof![Just(24u8), Just(28), 0u8..32],
        ) {
            let payloads: Vec<(u16, Vec<u8>)> = payloads
                .into_iter()
                .map(|(sequence, mut payload)| {
                    if let Some(first) = payload.first_mut() {
                        *first = kind;
                    }
                    (sequence % 4, payload)
                })
                .collect();
            for (_, payload) in &payloads {
                let _ = (is_keyframe(payload), begins_picture(payload));
                let _ = (holds_picture(payload), is_bidirectional(payload));
            }
            let borrowed: Vec<(u16, &[u8])> =
                payloads.iter().map(|(sequence, payload)| (*sequence, &payload[..])).collect();
            let _ = to_annex_b(&frame(&borrowed));
        }
    }
}

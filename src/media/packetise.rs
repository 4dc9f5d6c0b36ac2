//! Access units into RTP packets (RFC 6184, packetization mode 1), once per stream.

use super::h264::{AccessUnit, nal};
use super::{Frame, MAX_PAYLOAD, Packet};

/// NAL unit type of a packet that aggregates several units (RFC 6184 §5.7.1).
pub(crate) const STAP_A: u8 = 24;
/// NAL unit type of a packet that holds a fragment of one unit (RFC 6184 §5.8).
pub(crate) const FU_A: u8 = 28;

/// Numbers and cuts the pictures of one stream.
#[derive(Debug, Clone)]
pub struct Packetiser {
    sequence: u16,
}

impl Packetiser {
    /// A packetiser whose first packet bears this sequence number.
    pub fn new(first_sequence: u16) -> Self {
        Self { sequence: first_sequence }
    }

    /// The sequence number that the next packet will bear.
    pub fn next_sequence(&self) -> u16 {
        self.sequence
    }

    /// Cuts one picture into packets of at most [`MAX_PAYLOAD`] bytes, the last one marked.
    /// Small NAL units share a packet, large ones are fragmented. Delimiters and filler carry
    /// nothing over RTP and are left out; `None` if nothing else is there.
    pub fn packetise(&mut self, unit: &AccessUnit, timestamp: u32) -> Option<Frame> {
        let mut payloads: Vec<Vec<u8>> = Vec::new();
        let mut together: Vec<&[u8]> = Vec::new();
        let mut size = 1;
        for nal in unit.nals.iter().map(Vec::as_slice) {
            if matches!(
                nal::kind(nal),
                0 | nal::DELIMITER | nal::END_OF_SEQUENCE | nal::END_OF_STREAM | nal::FILLER | 24..
            ) {
                continue;
            }
            if size + 2 + nal.len() > MAX_PAYLOAD {
                aggregate(&mut together, &mut payloads);
                size = 1;
            }
            if nal.len() > MAX_PAYLOAD {
                fragment(nal, &mut payloads);
            } else {
                together.push(nal);
                size += 2 + nal.len();
            }
        }
        aggregate(&mut together, &mut payloads);

        let last = payloads.len().checked_sub(1)?;
        let packets = payloads
            .into_iter()
            .enumerate()
            .map(|(at, payload)| {
                let sequence = self.sequence;
                self.sequence = sequence.wrapping_add(1);
                Packet { sequence, timestamp, marker: at == last, payload: payload.into() }
            })
            .collect();
        Some(Frame { packets, keyframe: unit.keyframe })
    }
}

fn aggregate(together: &mut Vec<&[u8]>, payloads: &mut Vec<Vec<u8>>) {
    match together.as_slice() {
        [] => {}
        [alone] => payloads.push(alone.to_vec()),
        several => {
            let importance = several.iter().filter_map(|nal| nal.first()).map(|b| b & 0x60).max();
            let mut payload = vec![importance.unwrap_or(0) | STAP_A];
            for nal in several {
                // Bounded by MAX_PAYLOAD, which fits.
                let size = u16::try_from(nal.len()).unwrap_or(u16::MAX);
                payload.extend_from_slice(&size.to_be_bytes());
                payload.extend_from_slice(nal);
            }
            payloads.push(payload);
        }
    }
    together.clear();
}

fn fragment(nal: &[u8], payloads: &mut Vec<Vec<u8>>) {
    let Some((&header, body)) = nal.split_first() else { return };
    // All but the last are equally long: such packets leave in one segmented send.
    let pieces = body.chunks(MAX_PAYLOAD - 2);
    let last = pieces.len() - 1;
    for (at, piece) in pieces.enumerate() {
        let start = u8::from(at == 0) << 7;
        let end = u8::from(at == last) << 6;
        let mut payload = Vec::with_capacity(piece.len() + 2);
        payload.push(header & 0xe0 | FU_A);
        payload.push(start | end | header & 0x1f);
        payload.extend_from_slice(piece);
        payloads.push(payload);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::media::assemble::Assembler;
    use crate::media::depacketise::{is_keyframe, unpack};
    use crate::time::Mono;

    fn sizes(frame: &Frame) -> Vec<usize> {
        frame.packets.iter().map(|packet| packet.payload.len()).collect()
    }

    #[test]
    fn parameter_sets_share_a_packet_and_a_large_slice_is_cut_evenly() {
        let unit = AccessUnit::new(vec![
            vec![nal::DELIMITER, 0xf0],
            vec![0x67, 1, 2],
            vec![0x68, 3],
            [vec![0x65], vec![7; 3 * (MAX_PAYLOAD - 2)]].concat(),
        ]);
        let frame = Packetiser::new(65_534).packetise(&unit, 90).expect("a frame");
        assert!(frame.keyframe);
        assert_eq!(sizes(&frame), [10, MAX_PAYLOAD, MAX_PAYLOAD, MAX_PAYLOAD]);
        assert_eq!(
            frame.packets.iter().map(|packet| packet.sequence).collect::<Vec<_>>(),
            [65_534, 65_535, 0, 1]
        );
        assert_eq!(&frame.packets[0].payload[..], [0x78, 0, 3, 0x67, 1, 2, 0, 2, 0x68, 3]);
        assert_eq!(frame.packets[1].payload[..2], [0x7c, 0x85]);
        assert_eq!(frame.packets[2].payload[..2], [0x7c, 0x05]);
        assert_eq!(frame.packets[3].payload[..2], [0x7c, 0x45]);
        assert!(frame.packets[3].marker && !frame.packets[2].marker);
    }

    #[test]
    fn a_unit_of_the_largest_size_travels_whole_and_one_byte_more_in_two() {
        let of = |size: usize| {
            let unit = AccessUnit::new(vec![[vec![0x41], vec![7; size - 1]].concat()]);
            sizes(&Packetiser::new(0).packetise(&unit, 0).expect("a frame"))
        };
        assert_eq!(of(MAX_PAYLOAD), [MAX_PAYLOAD]);
        assert_eq!(of(MAX_PAYLOAD + 1), [MAX_PAYLOAD, 4]);
    }

    #[test]
    fn nothing_to_send_is_no_frame() {
        let mut packetiser = Packetiser::new(7);
        let unit = AccessUnit::new(vec![vec![nal::DELIMITER, 0xf0], vec![]]);
        assert_eq!(packetiser.packetise(&unit, 0), None);
        assert_eq!(packetiser.next_sequence(), 7);
    }

    fn a_unit() -> impl Strategy<Value = AccessUnit> {
        let size = prop_oneof![1usize..40, 1_000usize..1_300, 1usize..6_000];
        prop::collection::vec(
            (prop_oneof![Just(1u8), Just(5), Just(6), Just(7), Just(8)], size),
            0..6,
        )
        .prop_map(|nals| {
            let mut nals: Vec<Vec<u8>> = nals
                .into_iter()
                .map(|(kind, size)| {
                    let mut nal = vec![(size % 251) as u8; size];
                    nal[0] = 0x60 | kind;
                    nal
                })
                .collect();
            nals.insert(0, vec![0x06, 0]);
            nals.push(vec![0x41, 0xc0, 1]);
            AccessUnit::new(nals)
        })
    }

    proptest! {
        #[test]
        fn pictures_of_any_sizes_survive_the_way_through_packets(
            units in prop::collection::vec(a_unit(), 1..5), first: u16, time: u32,
        ) {
            let mut packetiser = Packetiser::new(first);
            let mut assembler = Assembler::new();
            let mut sequence = first;
            for (at, unit) in units.iter().enumerate() {
                let time = time.wrapping_add(at as u32 * 3_000);
                let frame = packetiser.packetise(unit, time).expect("a frame");
                let mut out = Vec::new();
                for packet in &frame.packets {
                    prop_assert!(packet.payload.len() <= MAX_PAYLOAD);
                    prop_assert_eq!(packet.sequence, sequence);
                    sequence = sequence.wrapping_add(1);
                    out.extend(assembler.push(Mono(0), Duration::ZERO, packet.clone()));
                }
                prop_assert_eq!(
                    frame.packets.iter().any(|packet| is_keyframe(&packet.payload)),
                    unit.keyframe
                );
                prop_assert_eq!(out.len(), 1);
                prop_assert!(out[0].complete);
                prop_assert_eq!(&out[0].frame, &frame);
                let unpacked = unpack(&out[0].frame);
                prop_assert_eq!(unpacked.dropped, 0);
                prop_assert_eq!(unpacked.unit, unit.clone());
            }
            prop_assert_eq!(assembler.lost, 0);
        }
    }
}

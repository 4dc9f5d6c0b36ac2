//! Video from agents, cameras and files.

use std::sync::Arc;
use std::time::Duration;

use roost::media::assemble::MAX_FRAME_PACKETS;
use roost::media::clock::{self, clock_sei, read_clock, read_clock_sei};
use roost::media::depacketise::{is_bidirectional, is_keyframe, to_annex_b, unpack};
use roost::media::gop::{GopCache, MAX_BYTES};
use roost::media::h264::{AccessUnit, AccessUnits, Slice, Sps, annex_b};
use roost::media::nack::ASK_MAX;
use roost::media::{
    Assembler, GateEvent, KeyframeGate, MAX_PAYLOAD, Nack, Packet, Packetiser, Rewriter,
};
use roost::time::Mono;

use super::chunks;

/// RTP packets as an agent or a node sends them: header, reassembly, units, cache, renumbering.
pub fn rtp(data: &[u8]) {
    let mut assembler = Assembler::new();
    let mut cache = GopCache::new();
    let mut rewriter = Rewriter::new(7);
    let mut gate = KeyframeGate::new();
    let mut now = Mono(0);
    for (what, body) in chunks::read(data) {
        now = now + Duration::from_millis(10);
        match what % 8 {
            1 => rewriter.switch(u32::from(what) * 1000),
            2 => rewriter.skip(),
            _ => {}
        }
        if let Some(nack) = Nack::read(body) {
            assert!(nack.sequences.len() <= ASK_MAX);
        }
        let Some(packet) = Packet::parse(body) else { continue };
        assert!(!packet.payload.is_empty());
        let _ = (is_keyframe(&packet.payload), is_bidirectional(&packet.payload));
        let _ = roost::flow::ssrc_of(body);
        let _ = rewriter.rewrite(&packet);
        let trip = Duration::from_millis(u64::from(what));
        let frames = assembler.push(now, trip, packet);
        assert!(assembler.ask(now, trip).len() <= ASK_MAX);
        for assembled in frames {
            let frame = assembled.frame;
            assert!(!frame.packets.is_empty() && frame.packets.len() < MAX_FRAME_PACKETS);
            let unpacked = unpack(&frame);
            assert!(unpacked.dropped <= frame.packets.len());
            let _ = read_clock(&unpacked.unit);
            let _ = to_annex_b(&frame);
            let event = if frame.keyframe { GateEvent::Arrived } else { GateEvent::Wanted };
            gate.handle(now, event);
            cache.push(Arc::new(frame));
            assert!(cache.bytes() <= MAX_BYTES);
        }
    }
    assembler.finish();
}

/// H.264 as cameras, files and pipes bring it, in pieces of odd sizes.
pub fn h264(data: &[u8]) {
    for unit in annex_b(data).chain([data]) {
        if let Some(sps) = Sps::parse(unit) {
            assert_eq!(sps.profile_level_id().len(), 6);
            let _ = sps.reorders();
        }
        let _ = Slice::parse(unit);
        let _ = read_clock_sei(unit);
    }
    let mut luma = [0; clock::BLOCKS];
    luma.iter_mut().zip(data).for_each(|(to, from)| *to = *from);
    let _ = clock::decode_blocks(&luma);

    let piece = usize::from(data.first().copied().unwrap_or(1)) % 61 + 1;
    let mut splitter = AccessUnits::new();
    let mut units = Vec::new();
    data.chunks(piece).for_each(|piece| units.extend(splitter.push(piece)));
    units.extend(splitter.finish());
    let mut packetiser = Packetiser::new(65_000);
    let mut assembler = Assembler::new();
    for (number, unit) in units.iter().enumerate() {
        let _ = unit.bidirectional();
        let time = number as u32 * 6_000;
        let Some(frame) = packetiser.packetise(unit, time) else { continue };
        for packet in frame.packets {
            assert!(!packet.payload.is_empty() && packet.payload.len() <= MAX_PAYLOAD);
            assembler.push(Mono(0), Duration::ZERO, packet);
        }
    }
}

fn pictures() -> Vec<AccessUnit> {
    let sps = vec![0x67, 66, 0xc0, 30, 0xda, 0x05, 0x07, 0xe4];
    let high = vec![
        0x67, 0x64, 0x00, 0x1f, 0xac, 0xd9, 0x40, 0x50, 0x05, 0xbb, 0x01, 0x10, 0x00, 0x00, 0x03,
        0x00, 0x10, 0x00, 0x00, 0x03, 0x03, 0xc0, 0xf1, 0x83, 0x19, 0x60,
    ];
    let pps = vec![0x68, 0xce, 0x3c, 0x80];
    let mut out = Vec::new();
    for number in 0..6u32 {
        let mut nals = vec![clock_sei(1_800_000_000_000 + u64::from(number) * 66, number)];
        if number % 3 == 0 {
            nals = vec![vec![9, 0xf0], if number == 0 { sps.clone() } else { high.clone() }];
            nals.push(pps.clone());
            nals.push([vec![0x65, 0x88], vec![number as u8 + 3; 3000]].concat());
        } else {
            nals.push([vec![0x41, 0x9a], vec![7; 40]].concat());
        }
        out.push(AccessUnit::new(nals));
    }
    out
}

/// Packets of a few pictures.
pub fn packet_scripts() -> Vec<Vec<u8>> {
    let mut packetiser = Packetiser::new(65_530);
    let mut script = Vec::new();
    for (number, unit) in pictures().iter().enumerate() {
        let frame = packetiser.packetise(unit, number as u32 * 6_000);
        for packet in frame.into_iter().flat_map(|frame| frame.packets) {
            let mut bytes = Vec::new();
            packet.write(96, 0x5151, &mut bytes);
            chunks::write(0, &bytes, &mut script);
        }
    }
    vec![script]
}

/// A few pictures as Annex B, together and their units alone.
pub fn streams() -> Vec<Vec<u8>> {
    let pictures = pictures();
    let mut out = vec![pictures.iter().flat_map(AccessUnit::to_annex_b).collect()];
    out.extend(pictures.into_iter().flat_map(|unit| unit.nals));
    out
}

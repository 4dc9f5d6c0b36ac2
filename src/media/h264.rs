//! H.264 as far as a relay must understand it: NAL units and their types, the fields of a
//! sequence parameter set that decide whether a browser can play it, B slices, access units.

use std::time::Duration;

use super::bits::{Bits, unescape};

/// NAL unit types (ITU-T H.264 table 7-1) that the code names.
pub mod nal {
    /// Slice of a picture that refers to others.
    pub const SLICE: u8 = 1;
    /// First of the three partitions of a slice.
    pub const PARTITION_A: u8 = 2;
    /// Slice of a picture at which decoding can start.
    pub const IDR: u8 = 5;
    /// Supplemental enhancement information.
    pub const SEI: u8 = 6;
    /// Sequence parameter set.
    pub const SPS: u8 = 7;
    /// Picture parameter set.
    pub const PPS: u8 = 8;
    /// Access unit delimiter.
    pub const DELIMITER: u8 = 9;
    /// End of sequence.
    pub const END_OF_SEQUENCE: u8 = 10;
    /// End of stream.
    pub const END_OF_STREAM: u8 = 11;
    /// Filler data.
    pub const FILLER: u8 = 12;

    /// The type of a NAL unit; 0, which the standard leaves unspecified, for an empty one.
    pub fn kind(unit: &[u8]) -> u8 {
        unit.first().map_or(0, |header| header & 0x1f)
    }

    /// Whether units of this type carry a part of the picture itself.
    pub fn is_picture(kind: u8) -> bool {
        (SLICE..=IDR).contains(&kind)
    }
}

/// Bytes of a parameter set or slice header that are looked at: scaling matrices and VUI fit,
/// a picture is never copied.
const HEADER_BYTES: usize = 1024;

/// The largest access unit that the splitter keeps: as large as the whole group-of-pictures
/// cache, so that nothing larger could be relayed anyway.
pub const MAX_ACCESS_UNIT: usize = 4 << 20;

/// The NAL units of an Annex B stream, without start codes and trailing zero bytes.
pub fn annex_b(stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = find_start(stream, 0).and_then(|(_, after)| stream.get(after..));
    std::iter::from_fn(move || {
        loop {
            let bytes = rest?;
            let unit = match find_start(bytes, 0) {
                Some((at, after)) => {
                    rest = bytes.get(after..);
                    bytes.get(..at)?
                }
                None => {
                    rest = None;
                    bytes
                }
            };
            let unit = trim_zeros(unit);
            if !unit.is_empty() {
                return Some(unit);
            }
        }
    })
}

/// Where the next start code begins (its three-byte form) and where the NAL unit after it does.
fn find_start(bytes: &[u8], from: usize) -> Option<(usize, usize)> {
    let mut at = from;
    while let Some([a, b, c]) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        match (a, b, c) {
            (0, 0, 1) => return Some((at, at + 3)),
            (_, _, 2..) => at += 3,
            (_, 1.., _) => at += 2,
            _ => at += 1,
        }
    }
    None
}

fn trim_zeros(unit: &[u8]) -> &[u8] {
    let end = unit.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    unit.get(..end).unwrap_or_default()
}

/// Appends a NAL unit with a four-byte start code.
pub fn push_annex_b(unit: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&[0, 0, 0, 1]);
    out.extend_from_slice(unit);
}

/// What a sequence parameter set says (ITU-T H.264 §7.3.2.1.1 and annex E).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sps {
    /// 66 Baseline, 77 Main, 100 High.
    pub profile: u8,
    /// The constraint flags, as the byte stands in `profile-level-id`.
    pub constraints: u8,
    /// Ten times the level, as in `profile-level-id`.
    pub level: u8,
    /// Width of the picture after cropping, in pixels.
    pub width: u32,
    /// Height of the picture after cropping, in pixels.
    pub height: u32,
    /// How the order of pictures is coded; with 2 it is the order of the stream.
    pub order_type: u32,
    /// How many pictures may overtake another, if the stream says so.
    pub reorder: Option<u32>,
    /// Time between two pictures, if the stream says so.
    pub interval: Option<Duration>,
    /// Whole pictures only; otherwise the stream may be interlaced.
    pub progressive: bool,
}

impl Sps {
    /// Reads a sequence parameter set NAL unit; `None` if it is none or is cut short.
    pub fn parse(unit: &[u8]) -> Option<Self> {
        if nal::kind(unit) != nal::SPS {
            return None;
        }
        let bytes = unescape(unit, HEADER_BYTES);
        let mut bits = Bits::new(bytes.get(1..)?);
        let profile = bits.bits(8)? as u8;
        let constraints = bits.bits(8)? as u8;
        let level = bits.bits(8)? as u8;
        bits.ue()?;
        let mut chroma = 1;
        if matches!(
            profile,
            100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135
        ) {
            chroma = bits.ue()?;
            if chroma == 3 {
                bits.bit()?;
            }
            bits.ue()?;
            bits.ue()?;
            bits.bit()?;
            if bits.bit()? {
                skip_scaling_matrix(&mut bits, if chroma == 3 { 12 } else { 8 })?;
            }
        }
        bits.ue()?;
        let order_type = bits.ue()?;
        match order_type {
            0 => {
                bits.ue()?;
            }
            1 => {
                bits.bit()?;
                bits.se()?;
                bits.se()?;
                let cycle = bits.ue()?;
                if cycle > 255 {
                    return None;
                }
                for _ in 0..cycle {
                    bits.se()?;
                }
            }
            2 => {}
            _ => return None,
        }
        bits.ue()?;
        bits.bit()?;
        let columns = bits.ue()?.checked_add(1)?;
        let rows = bits.ue()?.checked_add(1)?;
        let progressive = bits.bit()?;
        if !progressive {
            bits.bit()?;
        }
        bits.bit()?;
        let rows = if progressive { rows } else { rows.checked_mul(2)? };
        let (mut width, mut height) = (columns.checked_mul(16)?, rows.checked_mul(16)?);
        if bits.bit()? {
            let (x, y) = match chroma {
                1 => (2, 2),
                2 => (2, 1),
                _ => (1, 1),
            };
            let y = if progressive { y } else { y * 2 };
            let mut crop = |unit: u32| bits.ue()?.checked_mul(unit);
            let (left, right, top, bottom) = (crop(x)?, crop(x)?, crop(y)?, crop(y)?);
            width = width.checked_sub(left.checked_add(right)?)?;
            height = height.checked_sub(top.checked_add(bottom)?)?;
        }
        let (reorder, interval) = if bits.bit()? {
            // A parameter set that ends inside its usability information is still usable.
            usability(&mut bits).unwrap_or_default()
        } else {
            (None, None)
        };
        Some(Self {
            profile,
            constraints,
            level,
            width,
            height,
            order_type,
            reorder,
            interval,
            progressive,
        })
    }

    /// Whether pictures may leave a decoder in another order than they come: `Some(false)` is
    /// certain, `Some(true)` is what the stream announces, `None` needs a look at the slices.
    pub fn reorders(&self) -> Option<bool> {
        if self.profile == 66 || self.order_type == 2 {
            return Some(false);
        }
        self.reorder.map(|pictures| pictures > 0)
    }

    /// The six hexadecimal digits of `profile-level-id` (RFC 6184 §8.1).
    pub fn profile_level_id(&self) -> String {
        format!("{:02x}{:02x}{:02x}", self.profile, self.constraints, self.level)
    }
}

/// The number under which slices refer to a parameter set; `None` for any other NAL unit.
pub fn parameter_set_id(unit: &[u8]) -> Option<u32> {
    let bytes = unescape(unit.get(1..)?, 16);
    let mut bits = Bits::new(&bytes);
    match nal::kind(unit) {
        nal::SPS => bits.bits(24).and_then(|_| bits.ue()),
        nal::PPS => bits.ue(),
        _ => None,
    }
}

fn skip_scaling_matrix(bits: &mut Bits<'_>, lists: u32) -> Option<()> {
    for list in 0..lists {
        if !bits.bit()? {
            continue;
        }
        let (mut last, mut next) = (8i32, 8i32);
        for _ in 0..if list < 6 { 16 } else { 64 } {
            if next != 0 {
                next = last.checked_add(bits.se()?)?.rem_euclid(256);
            }
            last = if next == 0 { last } else { next };
        }
    }
    Some(())
}

/// The two fields of the video usability information that matter here: how many pictures are
/// reordered, and the time between two.
fn usability(bits: &mut Bits<'_>) -> Option<(Option<u32>, Option<Duration>)> {
    if bits.bit()? && bits.bits(8)? == 255 {
        bits.bits(32)?; // sample aspect ratio
    }
    if bits.bit()? {
        bits.bit()?; // overscan
    }
    if bits.bit()? {
        bits.bits(4)?; // video format and range
        if bits.bit()? {
            bits.bits(24)?; // colours
        }
    }
    if bits.bit()? {
        bits.ue()?; // chroma location
        bits.ue()?;
    }
    let mut interval = None;
    if bits.bit()? {
        let (tick, scale) = (bits.bits(32)?, bits.bits(32)?);
        bits.bit()?;
        // A tick is a field, two make a picture.
        let nanos = u64::from(tick) * 2 * 1_000_000_000;
        interval = nanos.checked_div(u64::from(scale)).map(Duration::from_nanos);
    }
    let mut low_delay = false;
    for _ in 0..2 {
        if bits.bit()? {
            low_delay = true;
            let schedules = bits.ue()?;
            if schedules > 31 {
                return Some((None, interval));
            }
            bits.bits(8)?;
            for _ in 0..=schedules {
                bits.ue()?;
                bits.ue()?;
                bits.bit()?;
            }
            bits.bits(20)?;
        }
    }
    if low_delay {
        bits.bit()?;
    }
    bits.bit()?;
    let mut reorder = None;
    if bits.bit()? {
        bits.bit()?;
        for _ in 0..4 {
            bits.ue()?;
        }
        reorder = Some(bits.ue()?);
    }
    Some((reorder, interval))
}

/// The first two fields of a slice's header (ITU-T H.264 §7.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// Address of its first macroblock; 0 begins a picture.
    pub first: u32,
    /// Predicted from pictures on both sides: what browsers do not play.
    pub bidirectional: bool,
}

impl Slice {
    /// Reads the beginning of a slice NAL unit; `None` if it is no slice or is cut short.
    pub fn parse(unit: &[u8]) -> Option<Self> {
        if !matches!(nal::kind(unit), nal::SLICE | nal::PARTITION_A | nal::IDR) {
            return None;
        }
        let bytes = unescape(unit.get(1..)?, 16);
        let mut bits = Bits::new(&bytes);
        let first = bits.ue()?;
        let bidirectional = bits.ue()? % 5 == 1;
        Some(Self { first, bidirectional })
    }
}

/// Everything that belongs to one picture, as NAL units without start codes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccessUnit {
    /// The NAL units in stream order, with emulation prevention bytes.
    pub nals: Vec<Vec<u8>>,
    /// Holds an IDR slice: decoding can start here, given the parameter sets.
    pub keyframe: bool,
}

impl AccessUnit {
    /// An access unit of these NAL units; whether it is a keyframe is read from their types.
    pub fn new(nals: Vec<Vec<u8>>) -> Self {
        let keyframe = nals.iter().any(|unit| nal::kind(unit) == nal::IDR);
        Self { nals, keyframe }
    }

    /// The first NAL unit of a type.
    pub fn find(&self, kind: u8) -> Option<&[u8]> {
        self.nals.iter().map(Vec::as_slice).find(|unit| nal::kind(unit) == kind)
    }

    /// Whether any of its slices is bidirectional, which browsers do not play.
    pub fn bidirectional(&self) -> bool {
        self.nals.iter().any(|unit| Slice::parse(unit).is_some_and(|slice| slice.bidirectional))
    }

    /// The picture as an Annex B stream with four-byte start codes.
    pub fn to_annex_b(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.nals.iter().map(|unit| unit.len() + 4).sum());
        for unit in &self.nals {
            push_annex_b(unit, &mut out);
        }
        out
    }
}

/// Splits an Annex B byte stream, given in pieces of any size, into access units.
#[derive(Debug, Default)]
pub struct AccessUnits {
    /// Bytes from the last start code on; all before is cut into NAL units.
    buffer: Vec<u8>,
    /// How far `buffer` is known to hold no further start code.
    searched: usize,
    /// A start code was seen: what stands before the first one is no video.
    started: bool,
    unit: AccessUnit,
    size: usize,
    has_picture: bool,
    /// Bytes that were thrown away: before the first start code, or of access units beyond
    /// [`MAX_ACCESS_UNIT`].
    pub discarded: u64,
}

impl AccessUnits {
    /// A splitter that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes and returns the access units that they complete. A picture is known
    /// to be complete when the next one begins.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<AccessUnit> {
        self.buffer.extend_from_slice(bytes);
        let mut done = Vec::new();
        let mut begin = 0;
        while let Some((at, after)) = find_start(&self.buffer, self.searched.max(begin)) {
            if self.started {
                let unit = trim_zeros(self.buffer.get(begin..at).unwrap_or_default()).to_vec();
                self.take(unit, &mut done);
            } else {
                let before = self.buffer.get(..at).unwrap_or_default();
                self.discarded += trim_zeros(before).len() as u64;
                self.started = true;
            }
            begin = after;
            self.searched = after;
        }
        self.buffer.drain(..begin);
        self.searched = self.buffer.len().saturating_sub(2);
        if self.buffer.len() > MAX_ACCESS_UNIT {
            self.discarded += self.buffer.len() as u64;
            self.buffer.clear();
            self.searched = 0;
            self.started = false;
            self.size = MAX_ACCESS_UNIT + 1;
        }
        done
    }

    /// What is left when the stream has ended, or has paused between two pictures.
    pub fn finish(&mut self) -> Vec<AccessUnit> {
        let mut done = Vec::new();
        if self.started {
            let unit = trim_zeros(&self.buffer).to_vec();
            self.take(unit, &mut done);
        }
        self.buffer.clear();
        self.searched = 0;
        self.started = false;
        self.flush(&mut done);
        done
    }

    fn take(&mut self, unit: Vec<u8>, done: &mut Vec<AccessUnit>) {
        if unit.is_empty() {
            return;
        }
        let kind = nal::kind(&unit);
        // §7.4.1.2.3, simplified: these types and a slice at macroblock 0 begin the next picture.
        let begins = match kind {
            nal::SEI..=nal::DELIMITER | 14..=18 => true,
            _ => Slice::parse(&unit).is_some_and(|slice| slice.first == 0),
        };
        if begins && self.has_picture {
            self.flush(done);
        }
        self.size += unit.len();
        if self.size > MAX_ACCESS_UNIT {
            self.discarded += unit.len() as u64;
            return;
        }
        self.has_picture |= nal::is_picture(kind);
        self.unit.keyframe |= kind == nal::IDR;
        self.unit.nals.push(unit);
    }

    fn flush(&mut self, done: &mut Vec<AccessUnit>) {
        let unit = std::mem::take(&mut self.unit);
        let whole = self.size <= MAX_ACCESS_UNIT;
        let has_picture = std::mem::take(&mut self.has_picture);
        self.size = 0;
        if has_picture && whole {
            done.push(unit);
        } else {
            self.discarded += unit.nals.iter().map(|unit| unit.len() as u64).sum::<u64>();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Parameter sets that x264 wrote, in High profile with two B-frames and in Baseline.
    const HIGH: [u8; 25] = [
        0x67, 0x64, 0x00, 0x0c, 0xac, 0xd9, 0x41, 0x41, 0x9b, 0x01, 0x10, 0x00, 0x00, 0x03, 0x00,
        0x10, 0x00, 0x00, 0x03, 0x03, 0x20, 0xf1, 0x42, 0x99, 0x60,
    ];
    const BASELINE: [u8; 24] = [
        0x67, 0x42, 0xc0, 0x0c, 0xd9, 0x01, 0x41, 0x9b, 0x01, 0x10, 0x00, 0x00, 0x03, 0x00, 0x10,
        0x00, 0x00, 0x03, 0x03, 0x20, 0xf1, 0x42, 0xa4, 0x80,
    ];
    const MAIN: [u8; 24] = [
        0x67, 0x4d, 0x40, 0x0c, 0xd9, 0x01, 0x41, 0x9b, 0x01, 0x10, 0x00, 0x00, 0x03, 0x00, 0x10,
        0x00, 0x00, 0x03, 0x03, 0x20, 0xf1, 0x42, 0xa4, 0x80,
    ];

    #[test]
    fn both_lengths_of_start_codes_and_trailing_zeros_are_understood() {
        let stream = [9, 9, 0, 0, 1, 0x67, 1, 0, 0, 0, 1, 0x68, 2, 0, 0, 0, 0, 1, 0x65, 0x88];
        let units: Vec<&[u8]> = annex_b(&stream).collect();
        assert_eq!(units, [&[0x67, 1][..], &[0x68, 2], &[0x65, 0x88]]);
        assert_eq!(annex_b(&[1, 2, 3]).count(), 0);
        assert_eq!(annex_b(&[0, 0, 1]).count(), 0);
    }

    #[test]
    fn a_parameter_set_tells_size_and_rate() {
        let sps = Sps::parse(&HIGH).expect("a parameter set");
        assert_eq!((sps.width, sps.height), (320, 192));
        assert_eq!(sps.profile_level_id(), "64000c");
        assert_eq!(sps.interval, Some(Duration::from_millis(40)));
        assert!(sps.progressive);
    }

    #[test]
    fn parameter_sets_are_told_apart_by_their_numbers() {
        assert_eq!(parameter_set_id(&HIGH), Some(0));
        assert_eq!(parameter_set_id(&[0x68, 0b0100_0000]), Some(1));
        assert_eq!(parameter_set_id(&[0x65, 0x88]), None);
        assert_eq!(parameter_set_id(&[0x67]), None);
    }

    #[test]
    fn a_parameter_set_tells_whether_pictures_are_reordered() {
        let reorders = |unit: &[u8]| Sps::parse(unit).and_then(|sps| sps.reorders());
        assert_eq!(reorders(&HIGH), Some(true));
        assert_eq!(reorders(&MAIN), Some(false));
        assert_eq!(reorders(&BASELINE), Some(false));
    }

    #[test]
    fn a_parameter_set_that_is_cut_short_is_refused_or_read_without_its_end() {
        for end in 0..HIGH.len() {
            if let Some(sps) = Sps::parse(&HIGH[..end]) {
                assert_eq!((sps.width, sps.height), (320, 192));
            }
        }
        assert_eq!(Sps::parse(&HIGH[..8]), None);
    }

    fn slice(kind: u8, first: bool, bidirectional: bool) -> Vec<u8> {
        // first_mb 0 is "1", 1 is "010"; slice type 0 is "1", 1 is "010".
        let bits = match (first, bidirectional) {
            (true, false) => 0b1100_0000,
            (true, true) => 0b1010_0000,
            (false, false) => 0b0101_0000,
            (false, true) => 0b0100_1000,
        };
        vec![kind, bits, 0x9a, 0xbc]
    }

    #[test]
    fn a_bidirectional_slice_is_recognised() {
        assert_eq!(
            Slice::parse(&slice(0x41, true, false)),
            Some(Slice { first: 0, bidirectional: false })
        );
        assert_eq!(
            Slice::parse(&slice(0x01, true, true)),
            Some(Slice { first: 0, bidirectional: true })
        );
        assert!(AccessUnit::new(vec![slice(0x01, true, true)]).bidirectional());
        assert_eq!(Slice::parse(&[0x67, 0x80]), None);
    }

    fn picture(key: bool, slices: usize) -> AccessUnit {
        let mut nals = Vec::new();
        if key {
            nals.push(vec![0x67, 66, 0x40, 30]);
            nals.push(vec![0x68, 0xce]);
        }
        let kind = if key { 0x65 } else { 0x41 };
        nals.extend((0..slices).map(|n| slice(kind, n == 0, false)));
        AccessUnit::new(nals)
    }

    proptest! {
        #[test]
        fn a_stream_in_any_pieces_gives_the_same_pictures(
            shape in prop::collection::vec((any::<bool>(), 1usize..4), 1..8),
            piece in 1usize..40,
        ) {
            let pictures: Vec<AccessUnit> =
                shape.iter().map(|&(key, slices)| picture(key, slices)).collect();
            let stream: Vec<u8> = pictures.iter().flat_map(AccessUnit::to_annex_b).collect();
            let mut splitter = AccessUnits::new();
            let mut got = Vec::new();
            for bytes in stream.chunks(piece) {
                got.extend(splitter.push(bytes));
            }
            got.extend(splitter.finish());
            prop_assert_eq!(got, pictures);
            prop_assert_eq!(splitter.discarded, 0);
        }

        #[test]
        fn no_bytes_make_the_readers_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut sps = vec![0x67, 100];
            sps.extend_from_slice(&bytes);
            let _ = Sps::parse(&sps);
            let _ = Sps::parse(&bytes);
            let _ = Slice::parse(&bytes);
            let mut splitter = AccessUnits::new();
            splitter.push(&bytes);
            splitter.finish();
            let _ = annex_b(&bytes).count();
        }
    }
}

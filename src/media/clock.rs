//! The clock that the test picture carries for machines, twice: as black and white blocks that
//! a browser reads from a canvas, and as supplemental information for those without a decoder.
//!
//! `docs/test-picture.md` describes both for other programs.

use super::bits::{escape_into, unescape};
use super::h264::{AccessUnit, nal};

/// Blocks per line; they span the picture's width.
pub const COLUMNS: usize = 40;

/// Lines of blocks, at the lower edge of the picture.
pub const LINES: usize = 2;

/// All blocks: line by line from the top, each from the left. [`true`] is white.
pub const BLOCKS: usize = COLUMNS * LINES;

/// Edge of a block in pixels of the unscaled test picture: a whole transform block, so that it
/// survives compression.
pub const BLOCK_SIZE: usize = 8;

/// Blocks at each end of a line that form a chequerboard, white at the upper left. They give the
/// levels of black and white and show that this is a clock at all.
pub const MARKS: usize = 4;

/// The least difference of luma between black and white blocks: half of what is drawn.
const MIN_CONTRAST: u32 = 100;

/// What makes the supplemental message this project's own (ITU-T H.264 §D.1.7).
pub const CLOCK_UUID: [u8; 16] = [
    0x52, 0x6f, 0x6f, 0x73, 0x74, 0xc1, 0x4c, 0x0c, 0x8b, 0x1d, 0x9e, 0x2a, 0x7f, 0x35, 0xd6, 0x90,
];

/// Bytes of the supplemental message: identifier, milliseconds, frame.
const MESSAGE: usize = 28;

/// The blocks that show a time, in milliseconds since 1970 modulo 2^32, and a frame number.
///
/// Between the marks stand 64 bits, the highest first: 32 of the time, 16 of the number, 16 of a
/// CRC (CCITT, initial value 0xffff) over the six bytes before.
pub fn encode_blocks(ms: u32, frame: u16) -> [bool; BLOCKS] {
    let data = u64::from(ms) << 32 | u64::from(frame) << 16;
    let data = data | u64::from(crc(data));
    std::array::from_fn(|at| match place(at) {
        Place::Mark(white) => white,
        Place::Data(bit) => data >> (63 - bit) & 1 == 1,
    })
}

/// Reads the luma at the blocks' centres; `None` if this is no clock, or one that is blurred
/// beyond recognition.
pub fn decode_blocks(luma: &[u8; BLOCKS]) -> Option<(u32, u16)> {
    let level = |white: bool| {
        let marks = luma.iter().enumerate().filter(|&(at, _)| place(at) == Place::Mark(white));
        marks.map(|(_, &luma)| u32::from(luma)).sum::<u32>() / (MARKS * LINES) as u32
    };
    let (black, white) = (level(false), level(true));
    if white < black + MIN_CONTRAST {
        return None;
    }
    let middle = (black + white) / 2;
    let mut data = 0u64;
    for (at, &luma) in luma.iter().enumerate() {
        let light = u32::from(luma) > middle;
        match place(at) {
            Place::Mark(white) if white != light => return None,
            Place::Mark(_) => {}
            Place::Data(_) => data = data << 1 | u64::from(light),
        }
    }
    (crc(data) == data as u16).then_some(((data >> 32) as u32, (data >> 16) as u16))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Mark(bool),
    Data(usize),
}

fn place(at: usize) -> Place {
    let (line, column) = (at / COLUMNS, at % COLUMNS);
    if (MARKS..COLUMNS - MARKS).contains(&column) {
        Place::Data(line * (COLUMNS - 2 * MARKS) + column - MARKS)
    } else {
        Place::Mark((line + column) % 2 == 0)
    }
}

/// Over the upper 48 bits.
fn crc(data: u64) -> u16 {
    data.to_be_bytes().iter().take(6).fold(0xffff, |mut crc: u16, &byte| {
        crc ^= u16::from(byte) << 8;
        for _ in 0..8 {
            crc = crc << 1 ^ if crc & 0x8000 != 0 { 0x1021 } else { 0 };
        }
        crc
    })
}

/// The full time nearest to `near` that ends in these 32 bits: they repeat every 49 days.
pub fn widen(ms: u32, near: u64) -> u64 {
    let ahead = ms.wrapping_sub(near as u32).cast_signed();
    near.saturating_add_signed(i64::from(ahead))
}

/// A supplemental NAL unit with a time, in milliseconds since 1970, and a frame number.
pub fn clock_sei(ms: u64, frame: u32) -> Vec<u8> {
    let mut payload = vec![5, MESSAGE as u8];
    payload.extend_from_slice(&CLOCK_UUID);
    payload.extend_from_slice(&ms.to_be_bytes());
    payload.extend_from_slice(&frame.to_be_bytes());
    payload.push(0x80);
    let mut unit = vec![nal::SEI];
    escape_into(&payload, &mut unit);
    unit
}

/// Time and frame number from a supplemental NAL unit that holds them.
pub fn read_clock_sei(unit: &[u8]) -> Option<(u64, u32)> {
    if nal::kind(unit) != nal::SEI {
        return None;
    }
    let payload = unescape(unit.get(1..)?, 1024);
    let mut rest = payload.as_slice();
    // Messages follow one another; a type or size continues as long as its bytes are 255.
    loop {
        let kind = field(&mut rest)?;
        let size = field(&mut rest)?;
        let message = rest.split_off(..size)?;
        if kind == 5 && size == MESSAGE && message.starts_with(&CLOCK_UUID) {
            let (ms, frame) = message.get(CLOCK_UUID.len()..)?.split_first_chunk::<8>()?;
            return Some((u64::from_be_bytes(*ms), u32::from_be_bytes(frame.try_into().ok()?)));
        }
    }
}

fn field(rest: &mut &[u8]) -> Option<usize> {
    let mut value = 0;
    loop {
        let byte = *rest.split_off_first()?;
        value += usize::from(byte);
        if byte != 255 {
            return Some(value);
        }
    }
}

/// Time and frame number of a test picture.
pub fn read_clock(unit: &AccessUnit) -> Option<(u64, u32)> {
    unit.nals.iter().find_map(|unit| read_clock_sei(unit))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn luma(blocks: [bool; BLOCKS]) -> [u8; BLOCKS] {
        blocks.map(|white| if white { 235 } else { 16 })
    }

    #[test]
    fn a_flat_picture_is_no_clock() {
        for level in [0, 16, 128, 255] {
            assert_eq!(decode_blocks(&[level; BLOCKS]), None);
        }
    }

    #[test]
    fn a_known_time_has_known_blocks() {
        let lines: Vec<String> = encode_blocks(0x0123_4567, 0x89ab)
            .chunks(COLUMNS)
            .map(|line| line.iter().map(|&white| if white { '1' } else { '0' }).collect())
            .collect();
        assert_eq!(
            lines,
            [
                "1010000000010010001101000101011001111010",
                "0101100010011010101111000100011101010101",
            ]
        );
    }

    #[test]
    fn a_time_is_widened_to_the_nearest() {
        let now = 1_800_000_000_123;
        assert_eq!(widen(now as u32, now), now);
        assert_eq!(widen((now - 250) as u32, now), now - 250);
        assert_eq!(widen((now + 250) as u32, now), now + 250);
    }

    proptest! {
        #[test]
        fn blocks_survive_noise_and_lower_contrast(
            ms: u32, frame: u16, noise in prop::collection::vec(-100i32..=100, BLOCKS),
            low in 0i32..60, high in 190i32..256,
        ) {
            let blocks = encode_blocks(ms, frame);
            // At worst all marks err in one direction and a block of the data in the other: the
            // levels must stay apart by the least contrast, and the block on its side of a
            // middle that has moved as far as the block has. One is for what division drops.
            let contrast = high - low;
            let most = ((contrast - MIN_CONTRAST as i32) / 2).min(contrast / 4) - 1;
            let luma = std::array::from_fn(|at| {
                let level = if blocks[at] { high } else { low };
                (level + noise[at] * most / 100).clamp(0, 255) as u8
            });
            prop_assert_eq!(decode_blocks(&luma), Some((ms, frame)));
        }

        #[test]
        fn a_wrong_block_is_noticed(ms: u32, frame: u16, wrong in 0..BLOCKS, other in 0..BLOCKS) {
            let mut blocks = encode_blocks(ms, frame);
            blocks[wrong] ^= true;
            if other != wrong {
                blocks[other] ^= true;
            }
            prop_assert_eq!(decode_blocks(&luma(blocks)), None);
        }

        #[test]
        fn supplemental_information_comes_back(ms: u64, frame: u32) {
            let unit = clock_sei(ms, frame);
            prop_assert!(!unit.windows(3).any(|w| w[0] == 0 && w[1] == 0 && w[2] < 3));
            prop_assert_eq!(read_clock_sei(&unit), Some((ms, frame)));
            let picture = AccessUnit::new(vec![vec![0x67, 1], unit, vec![0x65, 0x88]]);
            prop_assert_eq!(read_clock(&picture), Some((ms, frame)));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut unit = vec![nal::SEI];
            unit.extend_from_slice(&bytes);
            let _ = read_clock_sei(&unit);
        }
    }
}

//! What the test picture shows: colour bars, the encoder's name, a clock for people, a ball that
//! moves, and along the lower edge the clock for machines.

use rusty_h264_common::YuvFrame;

use super::font;
use crate::media::clock::{BLOCK_SIZE, COLUMNS, LINES, encode_blocks};

/// Width in pixels: twenty macroblocks, and [`COLUMNS`] blocks of the clock.
pub(super) const WIDTH: usize = COLUMNS * BLOCK_SIZE;
/// Height in pixels: twelve macroblocks.
pub(super) const HEIGHT: usize = 192;

const BLACK: u8 = 16;
const WHITE: u8 = 235;

/// Luma and both chromas of the bars.
const BARS: [[u8; 3]; 8] = [
    [150, 128, 128],
    [131, 62, 141],
    [112, 142, 62],
    [94, 78, 76],
    [77, 178, 180],
    [60, 114, 194],
    [42, 194, 115],
    [60, 128, 128],
];

/// Rows of the bars, above a plain ground on which the ball moves.
const BARS_END: usize = 112;
/// Where the machines' clock begins.
const BLOCKS_TOP: usize = HEIGHT - LINES * BLOCK_SIZE;
const RADIUS: usize = 12;

/// Draws one encoder's test picture.
#[derive(Debug)]
pub(super) struct Picture {
    ground: YuvFrame,
    frame: YuvFrame,
}

impl Picture {
    pub(super) fn new(name: &str) -> Self {
        let mut ground = YuvFrame::black(WIDTH, HEIGHT);
        // A wall of test pictures is told apart by colour as well as by name.
        let turn: usize = name.bytes().map(usize::from).sum();
        for y in 0..HEIGHT {
            for x in 0..WIDTH {
                let [luma, cb, cr] = if y < BARS_END {
                    BARS[(x * BARS.len() / WIDTH + turn) % BARS.len()]
                } else {
                    [40, 128, 128]
                };
                ground.y[y * WIDTH + x] = luma;
                if x % 2 == 0 && y % 2 == 0 {
                    let at = y / 2 * (WIDTH / 2) + x / 2;
                    ground.u[at] = cb;
                    ground.v[at] = cr;
                }
            }
        }
        let most = (WIDTH - 16) / (2 * (font::WIDTH + 1));
        let name: String = name.chars().take(most).collect();
        panel(&mut ground, 8, 32);
        text(&mut ground, &name, 2, 13);
        panel(&mut ground, 56, 96);
        Self { frame: ground.clone(), ground }
    }

    /// The picture of a moment, in milliseconds since 1970.
    pub(super) fn draw(&mut self, ms: u64, number: u32) -> &YuvFrame {
        self.frame.clone_from(&self.ground);
        let clock = format!(
            "{:02}:{:02}:{:02}.{:03}",
            ms / 3_600_000 % 24,
            ms / 60_000 % 60,
            ms / 1_000 % 60,
            ms % 1_000
        );
        text(&mut self.frame, &clock, 3, 61);
        text(&mut self.frame, &format!("UTC #{number:07}"), 1, 85);
        self.ball(ms);
        self.blocks(ms, number);
        &self.frame
    }

    fn ball(&mut self, ms: u64) {
        // To and fro over the width in six seconds, up and down in two.
        let swing = |period: u64, span: usize| {
            let phase = (ms % period) as usize * 2 * span / period as usize;
            if phase < span { phase } else { 2 * span - phase }
        };
        let left = swing(6_000, WIDTH - 2 * RADIUS);
        let top = BARS_END + swing(2_000, BLOCKS_TOP - BARS_END - 2 * RADIUS);
        for y in 0..2 * RADIUS {
            for x in 0..2 * RADIUS {
                let far = |at: usize| (2 * at + 1).abs_diff(2 * RADIUS).pow(2);
                if far(x) + far(y) <= 4 * RADIUS * RADIUS {
                    self.frame.y[(top + y) * WIDTH + left + x] = 200;
                }
            }
        }
    }

    fn blocks(&mut self, ms: u64, number: u32) {
        let blocks = encode_blocks(ms as u32, number as u16);
        for (line, blocks) in blocks.chunks(COLUMNS).enumerate() {
            for row in 0..BLOCK_SIZE {
                let y = BLOCKS_TOP + line * BLOCK_SIZE + row;
                for (column, &white) in blocks.iter().enumerate() {
                    let at = y * WIDTH + column * BLOCK_SIZE;
                    self.frame.y[at..at + BLOCK_SIZE].fill(if white { WHITE } else { BLACK });
                }
            }
        }
    }
}

/// A dark ground for text, from edge to edge.
fn panel(frame: &mut YuvFrame, top: usize, bottom: usize) {
    frame.y[top * WIDTH..bottom * WIDTH].fill(BLACK);
    let chroma = top / 2 * (WIDTH / 2)..bottom / 2 * (WIDTH / 2);
    frame.u[chroma.clone()].fill(128);
    frame.v[chroma].fill(128);
}

/// White text, centred.
fn text(frame: &mut YuvFrame, text: &str, scale: usize, top: usize) {
    let advance = (font::WIDTH + 1) * scale;
    let left = WIDTH.saturating_sub(text.chars().count() * advance) / 2;
    for (at, character) in text.chars().enumerate() {
        for (row, bits) in font::glyph(character).into_iter().enumerate() {
            for column in 0..font::WIDTH {
                if bits >> (font::WIDTH - 1 - column) & 1 == 0 {
                    continue;
                }
                let x = left + at * advance + column * scale;
                for y in top + row * scale..top + (row + 1) * scale {
                    if let Some(pixels) = frame.y.get_mut(y * WIDTH + x..y * WIDTH + x + scale) {
                        pixels.fill(WHITE);
                    }
                }
            }
        }
    }
}

/// Luma at the centres of the clock's blocks in a picture of any size, as other programs read
/// it: the mean of the block's inner half.
#[cfg(test)]
pub(super) fn sample_blocks(
    luma: &[u8],
    width: usize,
    height: usize,
) -> [u8; crate::media::clock::BLOCKS] {
    let lines = HEIGHT / BLOCK_SIZE;
    std::array::from_fn(|block| {
        let (line, column) = (lines - LINES + block / COLUMNS, block % COLUMNS);
        let span = |at: usize, of: usize, size: usize| {
            (4 * at + 1) * size / (4 * of)..((4 * at + 3) * size).div_ceil(4 * of)
        };
        let (mut sum, mut count) = (0, 0);
        for y in span(line, lines, height) {
            for x in span(column, COLUMNS, width) {
                sum += usize::from(luma[y * width + x]);
                count += 1;
            }
        }
        (sum / count) as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::clock::decode_blocks;

    #[test]
    fn the_machines_clock_is_read_back_from_the_drawn_picture() {
        let mut picture = Picture::new("gate-2");
        for (ms, number) in [(0, 0), (1_800_000_000_123, 70_000), (u64::from(u32::MAX), 65_535)] {
            let frame = picture.draw(ms, number);
            let read = decode_blocks(&sample_blocks(&frame.y, WIDTH, HEIGHT));
            assert_eq!(read, Some((ms as u32, number as u16)));
        }
    }

    #[test]
    fn long_and_strange_names_stay_inside_the_picture() {
        for name in ["", "a name that is much too long for any picture of this size", "ø✓"] {
            assert!(Picture::new(name).draw(1, 1).is_valid());
        }
    }
}

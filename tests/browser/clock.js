// Reads the clock of a Roost test picture from a <video>. docs/test-picture.md describes it.

const COLUMNS = 40;
const LINES = 2;
const MARKS = 4;
/** The picture is this many lines of blocks high; the clock is in the lowest ones. */
const HEIGHT_IN_LINES = 24;
const MIN_CONTRAST = 100;

/**
 * The time, in milliseconds since 1970 modulo 2^32, and the frame number modulo 2^16 of the
 * picture that `video` shows; null if it shows no test picture. `canvas` is scratch space: give
 * the same one each time, created for this alone.
 * @param {HTMLVideoElement} video
 * @param {HTMLCanvasElement} canvas
 * @returns {{ms: number, frame: number} | null}
 */
export function readClock(video, canvas) {
  const { videoWidth: width, videoHeight } = video;
  if (!width || !videoHeight) return null;
  // Only the strip with the clock is drawn and copied.
  const strip = Math.ceil((videoHeight * LINES) / HEIGHT_IN_LINES);
  if (canvas.width !== width || canvas.height !== strip) Object.assign(canvas, { width, height: strip });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(video, 0, videoHeight - strip, width, strip, 0, 0, width, strip);
  const { data } = context.getImageData(0, 0, width, strip);
  const luma = [];
  for (let line = 0; line < LINES; line++) {
    for (let column = 0; column < COLUMNS; column++) {
      luma.push(mean(data, width, middle(column, COLUMNS, width), middle(line, LINES, strip)));
    }
  }
  return decode(luma);
}

/**
 * How old a picture is, in milliseconds, by a clock that agrees with its encoder's.
 * @param {number} ms as `readClock` returned it
 * @param {number} now in milliseconds since 1970
 */
export function age(ms, now = Date.now()) {
  return ((now % 2 ** 32) - ms) | 0;
}

/** The inner half of block `at` of `of` along `size` pixels, as a range. */
function middle(at, of, size) {
  const from = Math.floor(((at + 0.25) * size) / of);
  return [from, Math.max(from + 1, Math.ceil(((at + 0.75) * size) / of))];
}

/** Grey stays grey in every colour space: green is the luma. */
function mean(data, width, [left, right], [top, bottom]) {
  let sum = 0;
  for (let y = top; y < bottom; y++) {
    for (let x = left; x < right; x++) sum += data[(y * width + x) * 4 + 1];
  }
  return sum / ((right - left) * (bottom - top));
}

/** Exported for tests: luma of all blocks, line by line, to time and number. */
export function decode(luma) {
  const sums = [0, 0];
  const isMark = (column) => column < MARKS || column >= COLUMNS - MARKS;
  const markIsWhite = (at) => (Math.floor(at / COLUMNS) + (at % COLUMNS)) % 2 === 0;
  luma.forEach((value, at) => {
    if (isMark(at % COLUMNS)) sums[markIsWhite(at) ? 1 : 0] += value;
  });
  const [black, white] = sums.map((sum) => sum / (MARKS * LINES));
  if (white - black < MIN_CONTRAST) return null;
  const limit = (black + white) / 2;
  const bits = [];
  for (const [at, value] of luma.entries()) {
    const light = value > limit;
    if (!isMark(at % COLUMNS)) bits.push(light ? 1 : 0);
    else if (light !== markIsWhite(at)) return null;
  }
  const number = (from, to) => bits.slice(from, to).reduce((value, bit) => value * 2 + bit, 0);
  const bytes = Array.from({ length: 6 }, (_, at) => number(at * 8, at * 8 + 8));
  if (crc(bytes) !== number(48, 64)) return null;
  return { ms: number(0, 32), frame: number(32, 48) };
}

/** CRC-16/CCITT-FALSE. */
function crc(bytes) {
  let crc = 0xffff;
  for (const byte of bytes) {
    crc ^= byte << 8;
    for (let bit = 0; bit < 8; bit++) crc = ((crc << 1) ^ (crc & 0x8000 ? 0x1021 : 0)) & 0xffff;
  }
  return crc;
}

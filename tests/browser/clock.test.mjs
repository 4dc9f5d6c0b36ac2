// The reader of the test picture's clock, without a browser: the known vector of the document.

import assert from "node:assert/strict";
import { test } from "node:test";
import { age, decode, readClock } from "./clock.js";

const LINES = [
  "1010000000010010001101000101011001111010",
  "0101100010011010101111000100011101010101",
];

const luma = (white, black) => [...LINES.join("")].map((bit) => (bit === "1" ? white : black));

test("the known vector is read, at full and at low contrast", () => {
  for (const [white, black] of [[255, 0], [235, 16], [190, 70]]) {
    assert.deepEqual(decode(luma(white, black)), { ms: 0x01234567, frame: 0x89ab });
  }
});

test("a flat picture and a wrong block are no clock", () => {
  assert.equal(decode(new Array(80).fill(128)), null);
  for (let wrong = 0; wrong < 80; wrong++) {
    const spoilt = luma(235, 16);
    spoilt[wrong] = 251 - spoilt[wrong];
    assert.equal(decode(spoilt), null, `block ${wrong}`);
  }
});

test("blocks are found in pictures of any size", () => {
  for (const [width, height] of [[320, 192], [640, 384], [240, 144], [333, 200]]) {
    const video = { videoWidth: width, videoHeight: height };
    const canvas = {
      width: 0,
      height: 0,
      getContext: () => ({
        drawImage() {},
        getImageData(_x, _y, columns, rows) {
          const data = new Uint8ClampedArray(columns * rows * 4);
          for (let y = 0; y < rows; y++) {
            for (let x = 0; x < columns; x++) {
              const bit = LINES[Math.floor((y * 2) / rows)][Math.floor((x * 40) / columns)];
              data.fill(bit === "1" ? 255 : 0, (y * columns + x) * 4, (y * columns + x) * 4 + 4);
            }
          }
          return { data };
        },
      }),
    };
    assert.deepEqual(readClock(video, canvas), { ms: 0x01234567, frame: 0x89ab }, `${width}x${height}`);
  }
  assert.equal(readClock({ videoWidth: 0, videoHeight: 0 }, {}), null);
});

test("ages are right across the wrap of 32 bits", () => {
  const now = 1_800_000_000_123;
  assert.equal(age((now - 250) % 2 ** 32, now), 250);
  assert.equal(age((now + 5) % 2 ** 32, now), -5);
  assert.equal(age(2 ** 32 - 100, 2 ** 32 * 400 + 50), 150);
});

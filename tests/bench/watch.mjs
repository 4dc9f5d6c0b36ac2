// Opens player pages and tells, for every frame that they present, when that was and which moment
// the picture shows. Prints lines of JSON:
//   {"event":"frames","page":NAME,"frames":[[shown at, clock of the picture or null, via], ...]}
//   {"event":"player","page":NAME,"when":...,"what":TYPE,...}   what the player says of itself
//   {"event":"state","page":NAME,"via":...,"standby":...,"stalled":...}
// All times are milliseconds since 1970. ROOST_PAGES is a list of URLs, as JSON.

import { createRequire } from "node:module";

const { chromium } = createRequire(new URL("../browser/package.json", import.meta.url))("playwright-core");

const DRAIN_MS = 100;

const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");

/** Runs inside the page, before anything of its own. */
function observe() {
  const COLUMNS = 40, LINES = 2, MARKS = 4, WIDTH = 320, HEIGHT = 192, BLOCK = 8;
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [COLUMNS * BLOCK, LINES * BLOCK];
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const bench = (window.bench = { frames: [], said: [], look: null });

  const crc = (bytes) => {
    let crc = 0xffff;
    for (const byte of bytes) {
      crc ^= byte << 8;
      for (let i = 0; i < 8; i++) crc = ((crc << 1) ^ (crc & 0x8000 ? 0x1021 : 0)) & 0xffff;
    }
    return crc;
  };

  /** The picture's clock, widened to all bits; null if it cannot be read. */
  const clock = (video, near) => {
    const scale = video.videoHeight / HEIGHT;
    pen.drawImage(video, 0, (HEIGHT - LINES * BLOCK) * scale, WIDTH * scale, LINES * BLOCK * scale,
      0, 0, canvas.width, canvas.height);
    const { data } = pen.getImageData(0, 0, canvas.width, canvas.height);
    const light = (line, column) => {
      const at = ((line * BLOCK + BLOCK / 2) * canvas.width + column * BLOCK + BLOCK / 2) * 4;
      return data[at] + data[at + 1] + data[at + 2] > 3 * 126;
    };
    const bytes = new Array(8).fill(0);
    for (let line = 0; line < LINES; line++) {
      for (let column = 0; column < COLUMNS; column++) {
        const bit = light(line, column);
        const place = line * (COLUMNS - 2 * MARKS) + column - MARKS;
        if (column < MARKS || column >= COLUMNS - MARKS) {
          if (bit !== ((line + column) % 2 === 0)) return null;
        } else if (bit) {
          bytes[place >> 3] |= 0x80 >> (place & 7);
        }
      }
    }
    if (crc(bytes.slice(0, 6)) !== bytes[6] * 256 + bytes[7]) return null;
    const low = ((bytes[0] * 256 + bytes[1]) * 256 + bytes[2]) * 256 + bytes[3];
    const span = 2 ** 32;
    return low + Math.round((near - low) / span) * span;
  };

  const wall = (now) => Date.now() - (performance.now() - now);
  const follow = (video, player) => {
    const frame = (now) => {
      const shown = wall(now);
      bench.frames.push([shown, clock(video, shown), player.stats.via]);
      video.requestVideoFrameCallback(frame);
    };
    video.requestVideoFrameCallback(frame);
  };
  addEventListener("roost", ({ detail }) => {
    const { type, ...rest } = detail;
    bench.said.push({ when: Date.now(), what: type, ...rest });
  });
  const waiting = setInterval(() => {
    const { player } = window.roost ?? {};
    const video = document.querySelector("video");
    if (!player || !video) return;
    clearInterval(waiting);
    follow(video, player);
    bench.look = () => ({
      via: player.stats.via,
      standby: player.standby?.ready ? player.mesh.label(player.standby.node) : null,
      stalled: player.stalledAt !== null,
      threshold: player.stats.threshold,
      hidden: document.hidden,
    });
  }, 10);
}

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--autoplay-policy=no-user-gesture-required", "--disable-gpu"],
});
const pages = [];
for (const url of JSON.parse(process.env.ROOST_PAGES)) {
  const name = new URL(url).pathname.split("/").at(-1);
  // Nodes sign their own web certificates. A window for each page: one behind another is slow.
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  await context.addInitScript(observe);
  const page = await context.newPage();
  page.on("pageerror", (error) => say({ event: "error", page: name, text: String(error) }));
  await page.goto(url);
  pages.push({ name, page });
}
let over = false;
process.on("SIGTERM", () => (over = true));
while (!over) {
  for (const { name, page } of pages) {
    const { frames, said, state } = await page.evaluate(() => ({
      frames: bench.frames.splice(0), said: bench.said.splice(0), state: bench.look?.(),
    }));
    if (frames.length) say({ event: "frames", page: name, frames });
    for (const what of said) say({ event: "player", page: name, ...what });
    if (state) say({ event: "state", page: name, ...state });
  }
  await new Promise((wake) => setTimeout(wake, DRAIN_MS));
}
await browser.close();

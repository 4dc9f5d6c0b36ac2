// Every node of a mesh is restarted in turn while a page watches: docs/rolling-upgrade under load.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { access, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { ROOST, browser, stage, until, watchfulPage } from "./lib.mjs";

const FPS = 30;
const SEAM_MS = 100; // no picture is missing for longer than this, by the picture's own clock
const SCRIPT = fileURLToPath(new URL("../../docs/rolling-upgrade", import.meta.url));
const CLOCK = await readFile(new URL("clock.js", import.meta.url), "utf8");
const { folder, nodes, processes, run, output, startNode, view, close } = await stage("upgrade", { started: "/livez" }); // drained, it takes nobody yet
let chrome;

const there = (file) => access(file).then(() => true, () => false);

before(async () => {
  const first = await startNode("n1", "--open-loopback");
  const invitation = await output("invite", "--addr", first, "--uses", "2");
  await startNode("n2", "--open-loopback", "--join", invitation);
  await startNode("n3", "--open-loopback", "--join", invitation);
  for (const name of ["cam", "idle-1", "idle-2", "idle-3", "idle-4", "idle-5"]) {
    run("encode", name, "--test", "--fps", String(FPS), "--addr", first, "--state", join(folder, name));
  }
  await until("all nodes know all encoders", async () => {
    const views = await Promise.all([...nodes.keys()].map(view));
    return views.every((v) => v.nodes.every((n) => n.state === "up") && v.encoders.filter((e) => e.home).length === 6);
  });
  chrome = await browser();
});

after(async () => {
  await chrome?.close();
  await close();
});

/** Notes the clock of every picture that the page presents, and every change of node. */
function observe(source) {
  const clock = `data:text/javascript,${encodeURIComponent(source)}`;
  window.seen = { clocks: [], swaps: [] };
  addEventListener("roost", ({ detail }) => detail.type === "swap" && window.seen.swaps.push(detail));
  import(clock).then(({ readClock }) => {
    const canvas = document.createElement("canvas");
    const video = document.querySelector("video");
    const frame = () => {
      const read = readClock(video, canvas);
      if (read) window.seen.clocks.push(read.ms);
      video.requestVideoFrameCallback(frame);
    };
    video.requestVideoFrameCallback(frame);
  });
}

test("every node is restarted in turn, and who watches sees each picture", async (t) => {
  const { page, complaints } = await watchfulPage(chrome, { bypassCSP: true });
  await page.goto(`http://${nodes.get("n3").address}/watch/cam`);
  await until("a picture moves and a leg stands by", () => page.evaluate(() => {
    const { player } = window.roost;
    return player?.stats.frames > 60 && player.stalledAt === null && player.standby?.ready;
  }));
  await page.evaluate(observe, CLOCK);
  await until("its clock is read", () => page.evaluate(() => window.seen.clocks.length > 30));

  const addresses = [...nodes.values()].map(({ address }) => address).join(",");
  // What an operator's ssh and systemctl do: ask for it, and wait until it was done.
  const restart = `: > ${folder}/$ROOST_NODE.restart; while [ -e ${folder}/$ROOST_NODE.restart ]; do sleep 0.05; done`;
  const script = spawn(SCRIPT, [addresses, "sh", "-c", restart], {
    env: { ...process.env, ROOST, DEADLINE: "30s" },
    stdio: ["ignore", "pipe", "pipe"],
  });
  processes.push(script);
  let words = "";
  for (const out of [script.stdout, script.stderr]) out.on("data", (data) => (words += data));
  let restarted = 0;
  while (script.exitCode === null) {
    for (const [name, { child }] of [...nodes]) {
      const file = join(folder, `${name}.restart`);
      if (!(await there(file))) continue;
      child.kill("SIGTERM");
      await once(child, "exit");
      await startNode(name, "--open-loopback");
      await rm(file);
      restarted++;
    }
    await new Promise((wake) => setTimeout(wake, 50));
  }
  assert.equal(script.exitCode, 0, words);
  assert.equal(restarted, 3, words);
  await new Promise((wake) => setTimeout(wake, 3000));

  const { clocks, swaps } = await page.evaluate(() => window.seen);
  const steps = clocks.slice(1).map((ms, at) => (ms - clocks[at]) | 0);
  const widest = Math.max(...steps);
  t.diagnostic(`${clocks.length} pictures, ${swaps.length} swaps, the widest step ${widest} ms, the narrowest ${Math.min(...steps)} ms`);
  // The same picture may be read twice: a callback can be so late that the next one is drawn.
  assert.ok(steps.every((step) => step >= 0), "the picture never goes back in time");
  assert.ok(widest <= SEAM_MS + 1000 / FPS + 1, `${widest} ms between two pictures, by their clock`);
  assert.ok(swaps.length >= 1 && swaps.length <= 3, `${swaps.length} changes of node: ${JSON.stringify(swaps)}`);
  assert.ok(swaps.every(({ broken }) => !broken), JSON.stringify(swaps));
  const { encoders } = await view("n1");
  assert.equal(encoders.filter((encoder) => encoder.home).length, 6, "no stream is lost");
  assert.deepEqual(complaints.filter((line) => !/50\d/.test(line)), []);
  await page.context().close();
});

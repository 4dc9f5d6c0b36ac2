// The player page on three real nodes: the picture moves on by itself whatever becomes of a node.

import assert from "node:assert/strict";
import { once } from "node:events";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { browser, stage, until, watchfulPage } from "./lib.mjs";

const GAP_LIMIT_MS = 1000; // the promise for the slowest of a hundred
const ALONE_LIMIT_MS = 1200; // nothing is prepared: an offer, a connection and a promotion
const HIDDEN_LIMIT_MS = 8000; // looks once a second, waits for three, asks and shows once a second
const { folder, nodes, run, output, startNode, view, close } = await stage("player");
let chrome;
let encoder;

async function restart(name) {
  const { child } = nodes.get(name);
  if (child.exitCode === null && child.signalCode === null) {
    child.kill("SIGKILL");
    await once(child, "exit");
  }
  await startNode(name, "--open-loopback");
}

before(async () => {
  const first = await startNode("n1", "--open-loopback");
  const invitation = await output("invite", "--addr", first, "--uses", "2");
  await startNode("n2", "--open-loopback", "--join", invitation);
  await startNode("n3", "--open-loopback", "--join", invitation);
  encoder = run("encode", "cam", "--test", "--addr", first, "--state", join(folder, "cam"));
  await until("all nodes know the encoder", async () => {
    const views = await Promise.all([...nodes.keys()].map(view));
    return views.every((v) => v.nodes.every((n) => n.state === "up") && v.encoders.some((e) => e.home));
  });
  chrome = await browser();
});

after(async () => {
  await chrome?.close();
  await close();
});

const stats = (page) => page.evaluate(() => ({ ...window.roost.stats }));
const settled = (page, frames = 20) =>
  until("a picture moves and a leg stands by", () =>
    page.evaluate((frames) => {
      const { player } = window.roost;
      return player?.stats.frames > frames && player.stalledAt === null && player.standby?.ready;
    }, frames));

async function openPage(name = "n3", { stream = "cam", frames = 20, prepare } = {}) {
  const { page, complaints } = await watchfulPage(chrome);
  if (prepare) await page.addInitScript(prepare);
  await page.goto(`http://${nodes.get(name).address}/watch/${stream}`);
  await settled(page, frames);
  await page.evaluate(() => (window.before = document.querySelector("video")));
  return { page, complaints };
}

async function sameVideo(page) {
  assert.ok(await page.evaluate(() => document.querySelector("video") === window.before));
}

test("the first picture comes at once, at whichever node the page is opened", async () => {
  for (const name of nodes.keys()) {
    const { page, complaints } = await openPage(name);
    const { firstFrame, via } = await stats(page);
    assert.ok(firstFrame < 2000, `${firstFrame} ms until the first frame`);
    assert.match(via, /^n\d$/);
    assert.deepEqual(complaints, []);
    await page.context().close();
  }
});

for (const [signal, what] of [["SIGKILL", "killed"], ["SIGSTOP", "frozen"]]) {
  test(`a home that is ${what} is left for next within a second`, async () => {
    const { page, complaints } = await openPage();
    const { via } = await stats(page);
    const { child } = nodes.get(via);
    child.kill(signal);
    const gaps = await until("the failure is healed", async () => {
      const { gaps } = await stats(page);
      return gaps.length > 0 && gaps;
    });
    assert.equal(gaps.length, 1);
    assert.ok(gaps[0].ms < GAP_LIMIT_MS, `${gaps[0].ms} ms without a picture`);
    assert.notEqual((await stats(page)).via, via);
    await settled(page);
    await sameVideo(page);
    if (signal === "SIGSTOP") child.kill("SIGCONT");
    else await restart(via);
    assert.deepEqual(complaints, []);
    await page.context().close();
    await until("the mesh is whole", async () =>
      (await view("n1")).nodes.every((node) => node.state === "up"));
  });
}

test("failures in a row do not make the page slower to notice the next", async () => {
  const { page } = await openPage();
  for (let count = 1; count <= 3; count++) {
    const { via } = await stats(page);
    const { child } = nodes.get(via);
    child.kill("SIGSTOP");
    await until("the failure is healed", async () => (await stats(page)).gaps.length === count);
    child.kill("SIGCONT");
    await settled(page);
  }
  const { threshold, gaps } = await stats(page);
  assert.ok(threshold < 400, `${threshold} ms: intervals of catching up were learned`);
  assert.ok(gaps.every(({ ms }) => ms < GAP_LIMIT_MS), JSON.stringify(gaps));
  await page.context().close();
});

test("a page without a silent leg makes one as soon as the picture stalls", async (t) => {
  const { page } = await openPage();
  await page.evaluate(() => {
    const { player, mesh } = window.roost;
    for (const id of mesh.nodes.keys()) player.shunned.set(id, Infinity);
    player.standby.close();
    player.standby = null;
  });
  const { via } = await stats(page);
  nodes.get(via).child.kill("SIGKILL");
  const gaps = await until("the failure is healed", async () => {
    const { gaps } = await stats(page);
    return gaps.length > 0 && gaps;
  });
  t.diagnostic(`${gaps[0].ms} ms without a picture`);
  assert.ok(gaps[0].ms < ALONE_LIMIT_MS, `${gaps[0].ms} ms without a picture`);
  await sameVideo(page);
  await restart(via);
  await page.context().close();
});

test("a node that cannot pass an offer on is no reason not to ask the others", async () => {
  const { page } = await openPage("n3");
  await page.route(`http://${nodes.get("n3").address}/whep/**`, (route) => route.fulfill({ status: 502 }));
  await page.evaluate(() => {
    window.failed = [];
    addEventListener("roost", ({ detail }) => detail.type === "no-standby" && window.failed.push(detail.reason));
    const { player } = window.roost;
    player.active.forward = () => Promise.reject(new Error("the channel is full"));
    player.standby.close();
    player.standby = null;
  });
  await settled(page);
  assert.deepEqual(await page.evaluate(() => window.failed), []);
  await page.context().close();
});

// One picture per second and in each group of pictures: every frame comes after the first alarm.
for (const gop of [1, 10]) {
  test(`a slow camera with groups of ${gop} is not swapped back and forth`, async () => {
    const name = `slow-${gop}`;
    const child = run("encode", name, "--test", "--fps", "1", "--gop", String(gop),
      "--addr", nodes.get("n1").address, "--state", join(folder, name));
    await until("it has a home", async () =>
      (await view("n3")).encoders.some((e) => e.name === name && e.home));
    const { page } = await openPage("n3", { stream: name, frames: 3 });
    const before = await stats(page);
    await until("six more pictures are shown", async () => (await stats(page)).frames > before.frames + 6);
    const after = await stats(page);
    const alarms = ({ gaps, falseAlarms }) => gaps.length + falseAlarms;
    assert.ok(alarms(before) <= 2, `${alarms(before)} alarms until the rate was known`);
    assert.equal(alarms(after), alarms(before));
    assert.ok(after.swaps - before.swaps <= 1, "it follows home at most");
    assert.ok(after.threshold >= 1000 && after.threshold <= 5000, `${after.threshold} ms`);
    await page.context().close();
    child.kill("SIGTERM");
    await once(child, "exit");
  });
}

/** What a browser does to a hidden page: timers run once a second, and no frame is announced. */
function hideable() {
  let hidden = false;
  const waiting = [];
  const { setTimeout: later } = window;
  window.setTimeout = (f, ms = 0, ...args) => later(f, hidden ? Math.max(ms, 1000) : ms, ...args);
  window.setInterval = (f, ms) => {
    const timer = { stopped: false };
    (function tick() {
      window.setTimeout(() => {
        if (timer.stopped) return;
        f();
        tick();
      }, ms);
    })();
    return timer;
  };
  const { clearInterval: clear } = window;
  window.clearInterval = (timer) => (timer?.stopped === false ? (timer.stopped = true) : clear(timer));
  Object.defineProperty(document, "hidden", { get: () => hidden });
  const { prototype } = HTMLVideoElement;
  const announce = prototype.requestVideoFrameCallback;
  prototype.requestVideoFrameCallback = function (f) {
    return announce.call(this, (...news) => (hidden ? waiting.push([this, f]) : f(...news)));
  };
  window.hide = (now) => {
    hidden = now;
    document.dispatchEvent(new Event("visibilitychange"));
    if (!hidden) for (const [video, f] of waiting.splice(0)) video.requestVideoFrameCallback(f);
  };
}

test("a hidden page leaves a home that is killed, and stays with one that is not", async (t) => {
  const { page } = await openPage("n3", { prepare: hideable });
  await page.evaluate(() => window.hide(true));
  const before = await stats(page);
  await until("it is seen to move though it is hidden", async () => (await stats(page)).frames > before.frames + 4);
  const { via, swaps, falseAlarms } = await stats(page);
  assert.deepEqual([swaps, falseAlarms], [before.swaps, before.falseAlarms]);
  nodes.get(via).child.kill("SIGKILL");
  const killed = Date.now();
  const moved = await until("the picture comes from elsewhere", async () => {
    const now = await stats(page);
    return now.via !== via && now;
  });
  await until("it moves", async () => (await stats(page)).frames > moved.frames + 1);
  const ms = Date.now() - killed;
  t.diagnostic(`${ms} ms until it moves again`);
  assert.ok(ms < HIDDEN_LIMIT_MS, `${ms} ms without a picture`);
  await page.evaluate(() => window.hide(false));
  await settled(page);
  await sameVideo(page);
  await restart(via);
  await page.context().close();
});

test("a home that leaves on purpose is left without a stall", async () => {
  const { page } = await openPage();
  const { via } = await stats(page);
  nodes.get(via).child.kill("SIGTERM");
  await until("the page has moved", async () => (await stats(page)).via !== via);
  await settled(page);
  const { gaps } = await stats(page);
  for (const { ms } of gaps) assert.ok(ms < GAP_LIMIT_MS, `${ms} ms without a picture`);
  await sameVideo(page);
  await restart(via);
  await page.context().close();
});

test("a page whose nodes are all gone says so and comes back with the first that returns", async () => {
  const { page } = await openPage();
  for (const { child } of nodes.values()) child.kill("SIGKILL");
  const words = () => page.evaluate(() => window.roost.player.words);
  await until("it says what it tries", async () => /^Trying n\d…$/.test(await words()));
  await restart("n2");
  await until("the picture is back", async () => (await words()) === null, 30_000);
  assert.equal((await stats(page)).via, "n2");
  await sameVideo(page);
  await Promise.all([restart("n1"), restart("n3")]);
  await page.context().close();
});

test("what cannot be shown is said in words", async () => {
  const { page } = await watchfulPage(chrome);
  await page.goto(`http://${nodes.get("n1").address}/watch/nothing`);
  const words = page.locator(".words");
  await until("no such stream", async () =>
    (await words.textContent()) === "No stream is called “nothing”.");
  await page.goto(`http://${nodes.get("n1").address}/watch/cam`);
  await settled(page);
  encoder.kill("SIGKILL");
  await until("nobody is live", async () =>
    /^(Nobody is live|No signal)/.test((await words.textContent()) ?? ""), 30_000);
  await page.context().close();
});

test("the console shows nodes, encoders and a wall, on a phone, too", async () => {
  const { page, complaints } = await watchfulPage(chrome, { viewport: { width: 390, height: 800 } });
  await page.goto(`http://${nodes.get("n1").address}/`);
  await until("three nodes are up", async () => (await page.locator("#nodes .good").count()) === 3);
  assert.equal(await page.locator("#streams th").textContent(), "cam");
  const wide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
  assert.ok(!wide, "nothing is cut off");
  await page.click("#wall-switch");
  assert.equal(await page.locator("#wall .tile").count(), 1);
  assert.deepEqual(complaints.filter((words) => !/40\d|50\d/.test(words)), []);
  await page.context().close();
});

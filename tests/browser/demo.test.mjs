// The demo page: pictures of six encoders on three nodes, which come back after every blow.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { browser, roost, until, watchfulPage } from "./lib.mjs";

const HEAL_WITHIN_MS = 2000;
let chrome;
let demo;

before(async () => {
  chrome = await browser();
  demo = await roost("demo", "--no-open", "--port", "0");
});

after(async () => {
  await chrome?.close();
  await demo?.close();
});

const moving = (page) =>
  page.evaluate(() => {
    const players = [...(window.roost?.tiles?.values() ?? [])].map((tile) => tile.player);
    return players.filter((p) => p.stats.frames > 10 && p.stalledAt === null).length;
  });

const busiest = (page) =>
  page.evaluate(async () => {
    const { nodes } = await (await fetch("/state")).json();
    const running = nodes.filter((node) => node.condition === "running");
    return running.sort((a, b) => b.encoders - a.encoders)[0].name;
  });

/** Every picture has its silent leg at the next home: what a blow right after a blow may lack. */
const prepared = (page) =>
  page.evaluate(() => {
    const players = [...window.roost.tiles.values()].map((tile) => tile.player);
    return players.every((player) => player.standby?.ready && player.stalledAt === null);
  });

async function blow(page, node, verb, number, t) {
  await until("every picture has a leg to fall back to", () => prepared(page));
  const sameVideos = await page.evaluate(() => {
    window.videosBefore = [...document.querySelectorAll("#wall video")];
    return window.videosBefore.length;
  });
  assert.equal(sameVideos, 6);
  await page.click(`[data-node="${node}"] [data-verb="${verb}"]`);
  const line = page.locator(`#log [data-blow="${number}"]`);
  await until(`blow ${number} is over`, async () =>
    (await line.count()) && (await line.getAttribute("data-settled")) === "true");
  const gap = Number(await line.getAttribute("data-gap-ms"));
  const text = await line.textContent();
  t.diagnostic(text);
  assert.match(text, /healed|without a visible gap/);
  assert.ok(gap < HEAL_WITHIN_MS, `${text}: ${gap} ms`);
  await until("all six pictures move", async () => (await moving(page)) === 6);
  const kept = await page.evaluate(() =>
    [...document.querySelectorAll("#wall video")].every((video, i) => video === window.videosBefore[i]));
  assert.ok(kept, "the video elements stay");
}

test("six pictures move, and come back after a kill and after a freeze, without a reload", async (t) => {
  const { page, complaints } = await watchfulPage(chrome);
  await page.goto(demo.line);
  await until("all six pictures move", async () => (await moving(page)) === 6);
  for (const via of await page.locator("#wall .via").allTextContents()) assert.match(via, /^via n\d$/);
  assert.match(await page.textContent("#summary"), /3 of 3 nodes run, 6 of 6 pictures move/);

  const first = await busiest(page);
  await blow(page, first, "kill", 1, t);
  assert.ok(await page.isDisabled(`[data-node="${first}"] [data-verb="kill"]`));
  await page.click(`[data-node="${first}"] [data-verb="restart"]`);
  await until("it runs again and is seen", () =>
    page.evaluate(async (name) => {
      const { nodes } = await (await fetch("/state")).json();
      return nodes.find((n) => n.name === name && n.condition === "running" && n.state === "up");
    }, first));

  const second = await busiest(page);
  await blow(page, second, "freeze", 2, t);
  await page.click(`[data-node="${second}"] [data-verb="restart"]`);

  await page.click("#add");
  await until("n4 joins", () => page.locator('[data-node="n4"].running').count());
  assert.deepEqual(complaints, []);
});

test("the page fits a phone", async () => {
  const { page } = await watchfulPage(chrome, { viewport: { width: 390, height: 800 } });
  await page.goto(demo.line);
  await until("the wall is there", () => page.locator("#wall .tile").count());
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok(overflow <= 0, `${overflow} px too wide`);
});

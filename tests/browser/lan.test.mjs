// The player page on hosts with addresses of their own. The browser trusts the certificate of one
// node only, and reads the time out of the picture. Needs root, for network namespaces.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { network, noNetwork as skip } from "./hosts.mjs";
import { ROOST, until, watchfulPage } from "./lib.mjs";

const PYTHON = process.env.ROOST_PYTHON ?? new URL("../../target/venv/bin/python", import.meta.url).pathname;
const noPython = !existsSync(PYTHON) && "tests/run installs the other player";
const GAP_LIMIT_MS = 1000; // the promise for the slowest of a hundred
const GOP_MS = 4000; // what may be replayed at most
const lan = skip ? {} : await network("web", ["n1", "n2", "n3", "camera", "agent", "browser"]);
const { folder, hosts, processes, run, ignore, heal } = lan;
const output = (at, ...args) => lan.output(at, ROOST, ...args);
let chrome;
let string;

const view = async (at) => JSON.parse((await output(at, "status", "--json")) ?? "null");

async function startNode(name, ...more) {
  hosts.get(name).process = lan.startNode(name, "--open-loopback", ...more);
  await until(`${name} answers`, () => view(name));
}

const whole = () =>
  until("all see all", async () => {
    const views = await Promise.all(["n1", "n2", "n3"].map(view));
    return views.every((v) => v && v.nodes.length === 3 && v.nodes.every((node) => node.state === "up"));
  });

const home = async (at, of = "cam") => (await view(at))?.encoders.find((encoder) => encoder.name === of)?.home_name;

before(async () => {
  if (skip) return;
  await startNode("n1");
  const invitation = await output("n1", "invite", "--uses", "2");
  await Promise.all(["n2", "n3"].map((name) => startNode(name, "--join", invitation)));
  await whole();
  string = await output("n1", "invite", "--client");
  run("camera", ROOST, "encode", "cam", "--test", "--addr", string, "--state", join(folder, "cam"));
  await until("the stream has a home", () => home("n1"));
  chrome = await lan.browser("browser", ["n1"]);
});

after(async () => {
  await chrome?.close();
  await lan.close?.();
});

/** A page at n1 that notes every picture it shows, and reads its clock if there is one. */
async function openPage(name = "cam", clocked = true) {
  const { page, complaints } = await watchfulPage(chrome);
  await page.goto(`https://${hosts.get("n1").address}:9443/watch/${name}?token=${encodeURIComponent(string)}`);
  const code = await readFile(new URL("clock.js", import.meta.url), "utf8");
  await page.evaluate(`{
    ${code.replaceAll("export ", "")}
    const video = document.querySelector("video");
    const canvas = document.createElement("canvas");
    const seen = (window.seen = { video, pictures: 0, pauses: [], jumps: [], age: null });
    let last = null;
    video.requestVideoFrameCallback(function look(now) {
      const clock = ${clocked} ? readClock(video, canvas) : { ms: 0 };
      if (clock) {
        seen.pictures++;
        seen.age = ${clocked} ? age(clock.ms) : 0;
        if (last && now - last.now > 150) seen.pauses.push(Math.round(now - last.now));
        if (last && ((clock.ms - last.ms) | 0) < 0) seen.jumps.push((clock.ms - last.ms) | 0);
        last = { now, ms: clock.ms };
      }
      video.requestVideoFrameCallback(look);
    });
  }`);
  await settled(page);
  return { page, complaints };
}

/** Without what the browser says when a page tries a node whose certificate it does not trust. */
const ofThePage = (complaints) => complaints.filter((words) => !words.includes("ERR_CERT_AUTHORITY_INVALID"));

const settled = (page) =>
  until("a picture moves and a leg stands by", () =>
    page.evaluate(() => {
      const { player } = window.roost;
      return window.seen.pictures > 5 && player.stalledAt === null && player.standby?.ready;
    }));

const blows = {
  "is killed": (at) => hosts.get(at).process.kill("SIGKILL"),
  "is frozen": (at) => hosts.get(at).process.kill("SIGSTOP"),
  "is cut off": (at) => {
    for (const other of hosts.keys()) if (other !== at) ignore(at, other), ignore(other, at);
  },
  "hears nobody": (at) => {
    for (const other of hosts.keys()) if (other !== at) ignore(at, other);
  },
  "is heard by nobody": (at) => {
    for (const other of hosts.keys()) if (other !== at) ignore(other, at);
  },
  "loses the encoder": (at) => (ignore(at, "camera"), ignore("camera", at)),
  "loses the browser": (at) => (ignore(at, "browser"), ignore("browser", at)),
};

for (const [what, strike] of Object.entries(blows)) {
  test(`the picture goes on when its home ${what}`, { skip }, async () => {
    const { page, complaints } = await openPage();
    const at = await home("n1");
    await until("the picture comes from home", async () => (await page.evaluate(() => window.roost.stats.via)) === at);
    await settled(page);
    await page.evaluate(() => Object.assign(window.seen, { pauses: [], jumps: [], pictures: 0 }));
    strike(at);
    await until("the picture comes from elsewhere", async () => (await page.evaluate(() => window.roost.stats.via)) !== at);
    await settled(page);
    if (what === "is killed") await startNode(at);
    hosts.get(at).process.kill("SIGCONT");
    heal();
    await whole();
    // A node that wakes up has two seconds to do harm.
    await new Promise((wake) => setTimeout(wake, 2000));
    const seen = await page.evaluate(() => ({ ...window.seen, same: window.seen.video === document.querySelector("video"), video: null }));
    assert.ok(seen.same, "the same <video>");
    assert.ok(Math.max(0, ...seen.pauses) < GAP_LIMIT_MS, `pauses of ${seen.pauses} ms`);
    assert.ok(Math.min(0, ...seen.jumps) > -GOP_MS && seen.jumps.length <= 1, `jumped by ${seen.jumps} ms`);
    assert.ok(seen.age < GAP_LIMIT_MS, `the picture is ${seen.age} ms old`);
    assert.deepEqual(ofThePage(complaints), []);
    await page.context().close();
  });
}

test("a camera over RTSP is seen on when its home is frozen", { skip }, async () => {
  // Four seconds from keyframe to keyframe, and over RTSP nobody can ask for one.
  const { address } = hosts.get("camera");
  const script = new URL("../camera.py", import.meta.url).pathname;
  const args = ["netns", "exec", hosts.get("camera").space, "/usr/bin/python3", script, "8554", "--address", address, "--fps", "25", "--gop", "100"];
  const camera = spawn("ip", args, { stdio: ["pipe", "pipe", "ignore"] });
  processes.push(camera);
  await once(camera.stdout, "data");
  run("agent", ROOST, "encode", "yard", "--rtsp", `rtsp://${address}:8554/cam`, "--addr", string, "--state", join(folder, "yard"));
  await until("the camera has a home", () => home("n1", "yard"));
  const { page, complaints } = await openPage("yard", false);
  const at = await home("n1", "yard");
  await until("the picture comes from home", async () => (await page.evaluate(() => window.roost.stats.via)) === at);
  await settled(page);
  await page.evaluate(() => Object.assign(window.seen, { pauses: [], pictures: 0 }));
  hosts.get(at).process.kill("SIGSTOP");
  await until("the picture comes from elsewhere", async () => (await page.evaluate(() => window.roost.stats.via)) !== at);
  await settled(page);
  await until("it goes on", () => page.evaluate(() => window.seen.pictures > 75));
  const pauses = await page.evaluate(() => window.seen.pauses);
  hosts.get(at).process.kill("SIGCONT");
  await whole();
  assert.ok(Math.max(0, ...pauses) < GAP_LIMIT_MS, `pauses of ${pauses} ms`);
  assert.deepEqual(ofThePage(complaints), []);
  await page.context().close();
});

test("a player of another make is led home from any node and plays", { skip: skip || noPython }, async () => {
  const at = await home("n1");
  const script = new URL("whep.py", import.meta.url).pathname;
  for (const name of ["n1", "n2", "n3"]) {
    const url = `https://${hosts.get(name).address}:9443/whep/cam`;
    const child = run("browser", PYTHON, script, url, string);
    let text = "";
    child.stdout.on("data", (data) => (text += data));
    await once(child, "close");
    const { first_ms, ...report } = JSON.parse(text || "null");
    const { frames } = report;
    assert.deepEqual(report, { status: 201, redirected: name !== at, frames, size: [320, 192], ended: 200, again: 404 });
    assert.ok(frames > 20, `${frames} pictures in two seconds`);
    assert.ok(first_ms < 2000, `${first_ms} ms until the first`);
  }
});

test("a page that is opened while the network changes comes up by itself", { skip }, async () => {
  let rounds = 0; // in which the browser broke off what it was loading: not each change is news to it
  for (let round = 1; rounds < 4; round++) {
    assert.ok(round <= 20, `only ${rounds} of 20 loads were broken off`);
    const { page } = await watchfulPage(chrome);
    let broken = false;
    page.on("requestfailed", (request) => (broken ||= request.failure().errorText.includes("NETWORK_CHANGED")));
    // The page itself is there, its parts are on their way for a third of a second.
    lan.slow("n1", 1000);
    page.once("response", () => setTimeout(() => lan.another("browser", `10.93.0.${round}`), 20 * (1 + (round % 5))));
    await page.goto(`https://${hosts.get("n1").address}:9443/watch/cam?token=${encodeURIComponent(string)}`);
    lan.quicken("n1");
    // The page is another in between.
    const plays = () => page.evaluate(() => window.roost?.stats?.frames > 0).catch(() => false);
    await until("it shows something", plays);
    rounds += broken;
    await page.context().close();
  }
});

test("a page without a credential asks who comes, and shows nothing", { skip }, async () => {
  const { page } = await watchfulPage(chrome);
  await page.goto(`https://${hosts.get("n1").address}:9443/watch/cam`);
  await page.getByLabel("Password").waitFor({ timeout: 20_000 });
  assert.equal(await page.evaluate(() => window.roost?.stats?.frames ?? 0), 0);
  await page.context().close();
});

test("a page whose nodes are all gone is served by the first that it trusts", { skip }, async () => {
  const { page } = await openPage();
  for (const name of ["n1", "n2", "n3"]) hosts.get(name).process.kill("SIGKILL");
  await until("it says so", () => page.evaluate(() => window.roost.player.words));
  await startNode("n1");
  await until("the picture is back", async () => (await page.evaluate(() => window.roost.player.words)) === null, 30_000);
  assert.equal(await page.evaluate(() => window.roost.stats.via), "n1");
  assert.ok(await page.evaluate(() => window.seen.video === document.querySelector("video")));
  await page.context().close();
});

// Starting the executable and a browser, and reading what a page shows.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

/** The executable under test. */
export const ROOST = process.env.ROOST_BIN ?? new URL("../../target/debug/roost", import.meta.url).pathname;

/** Chromium as installed by the system, playing without a gesture. */
export function browser() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--autoplay-policy=no-user-gesture-required", "--disable-gpu"],
  });
}

/** A page that fails the test on any console error or refused content. */
export async function watchfulPage(browser, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  const complaints = [];
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => {
    // A node that was killed on purpose refuses connections, and the browser says so.
    const refused = /ERR_CONNECTION|ERR_EMPTY_RESPONSE|ERR_INCOMPLETE|ERR_NETWORK|ERR_ABORTED/;
    if (message.type() === "error" && !refused.test(message.text())) complaints.push(message.text());
  });
  return { page, complaints };
}

/** Runs `roost ARGS`; `line` is its first line on standard output. Ends with `close()`. */
export async function roost(...args) {
  const folder = await mkdtemp(join(tmpdir(), "roost-browser-"));
  const child = spawn(ROOST, args, { env: { ...process.env, TMPDIR: folder }, stdio: ["ignore", "pipe", "pipe"] });
  let words = "";
  child.stderr.on("data", (data) => (words += data));
  const lines = createInterface({ input: child.stdout });
  const first = once(lines, "line").then(([line]) => line);
  const ended = once(child, "exit");
  const line = await Promise.race([
    first,
    ended.then(() => {
      throw new Error(`roost ${args.join(" ")} ended:\n${words}`);
    }),
  ]);
  return {
    line,
    child,
    async close() {
      if (child.exitCode === null) child.kill("SIGINT");
      await ended;
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** Waits until `look` returns something true; fails with `what` after `ms`. */
export async function until(what, look, ms = 20_000) {
  const deadline = Date.now() + ms;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`not within ${ms} ms: ${what}`);
    await new Promise((wake) => setTimeout(wake, 50));
  }
}

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

/**
 * Nodes on this machine and what else one file of tests runs, in a folder of its own. A node is
 * started once `started` answers well.
 */
export async function stage(name, { started = "/healthcheck" } = {}) {
  const folder = await mkdtemp(join(tmpdir(), `roost-${name}-`));
  const processes = [];
  const nodes = new Map(); // name -> { address, url, child }

  function start(stdout, args) {
    const child = spawn(ROOST, args, { stdio: ["ignore", stdout, "ignore"] });
    processes.push(child);
    return child;
  }
  const run = (...args) => start("ignore", args);

  return {
    folder,
    nodes,
    processes,
    run,
    /** What `roost ARGS` prints, if it succeeds. */
    async output(...args) {
      const child = start("pipe", args);
      let text = "";
      child.stdout.on("data", (data) => (text += data));
      const [code] = await once(child, "close");
      if (code !== 0) throw new Error(`roost ${args.join(" ")} ended with ${code}`);
      return text.trim();
    },
    /** Starts a node, where it was before if it ran already. */
    async startNode(name, ...more) {
      const address = nodes.get(name)?.address ?? `127.0.0.1:${await freePort()}`;
      const url = `http://${address}`;
      const child = run("node", "--data", join(folder, name), "--listen", address, "--name", name, ...more);
      nodes.set(name, { address, url, child });
      const well = () => fetch(url + started).then((answer) => answer.ok, () => false);
      await until(`${name} is there`, well);
      return address;
    },
    view: async (name) => (await fetch(`${nodes.get(name).url}/api/v1/cluster`)).json(),
    async close() {
      for (const child of processes) {
        if (child.exitCode === null && child.signalCode === null) child.kill("SIGKILL");
      }
      await rm(folder, { recursive: true, force: true });
    },
  };
}

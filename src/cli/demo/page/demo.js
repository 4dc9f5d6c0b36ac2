// The demo page: nodes with buttons, a wall of live tiles, and the time to heal after each blow.
// Pictures come straight from the nodes, by the nodes' own player; the demo only kills processes.

import { make, set } from "/assets/dom.js";
import { Mesh } from "/assets/mesh.js";
import { makeTile } from "/assets/tile.js";

const POLL_MS = 250;
const QUIET_MS = 2000; // A blow is over once nothing has stood still for this long.

const at = (id) => document.getElementById(id);
const seconds = (ms) => `${(ms / 1000).toFixed(2)} s`;
const cards = new Map();
const tiles = new Map();
const blows = new Map();
let state = { nodes: [], encoders: [], blows: [] };
let mesh = null;

// -- the mesh, which this page's own server is no part of -------------------------------------------

class DemoMesh extends Mesh {
  bases() {
    const running = state.nodes.filter((node) => node.url && node.condition === "running");
    const urls = [...super.bases(), ...running.map((node) => node.url)];
    const dead = new Set(state.nodes.filter((n) => n.condition === "dead").map((node) => node.url));
    const order = [...new Set(urls)].filter((url) => url !== location.origin);
    return [...order.filter((url) => !dead.has(url)), ...order.filter((url) => dead.has(url))];
  }
}

// -- nodes ------------------------------------------------------------------------------------------

const WORDS = { starting: "starting", running: "runs", frozen: "frozen", dead: "killed" };

async function press(path) {
  set(at("trouble"), "");
  try {
    const answer = await fetch(path, { method: "POST", headers: { "x-roost-demo": "1" } });
    if (!answer.ok) set(at("trouble"), await answer.text());
  } catch {
    set(at("trouble"), "The demo has ended: start it again.");
  }
  await refresh();
}

function makeCard(name) {
  const card = make("li", "node");
  card.dataset.node = name;
  const head = make("div", "node-head");
  const word = make("span", "word");
  const note = make("p", "note");
  note.append(make("span"), make("span"), make("span"));
  const buttons = make("p", "buttons");
  head.append(make("span", "disc"), make("strong", "", name), word);
  const button = (verb, label) => {
    const made = make("button", "", label);
    made.type = "button";
    made.dataset.verb = verb;
    made.setAttribute("aria-label", `${label} ${name}`);
    made.addEventListener("click", async () => {
      await press(`/nodes/${name}/${verb}`);
      // Whoever uses the keyboard stays at this node.
      if (made.disabled) buttons.querySelector("button:enabled")?.focus();
    });
    buttons.append(made, " ");
    return made;
  };
  const kill = button("kill", "Kill");
  const freeze = button("freeze", "Freeze");
  const restart = button("restart", "Restart");
  card.append(head, note, buttons);
  at("nodes").append(card);
  return { card, word, note, kill, freeze, restart };
}

function showNode(node) {
  if (!cards.has(node.name)) cards.set(node.name, makeCard(node.name));
  const { card, word, note, kill, freeze, restart } = cards.get(node.name);
  card.className = `node ${node.condition}`;
  set(word, WORDS[node.condition]);
  const [homes, seen, where] = note.children;
  const others = state.nodes.some((other) => other !== node && other.condition === "running");
  const known = others || node.condition === "running";
  set(homes, known ? `${node.encoders} ${node.encoders === 1 ? "stream" : "streams"} at home` : "no node knows its streams");
  set(seen, others ? (node.state ? `the others see it ${node.state}` : "the others do not know it yet") : "no other node runs");
  set(where, `${node.url?.replace("http://", "") ?? "no address yet"}, process ${node.pid}`);
  kill.disabled = node.condition === "dead";
  freeze.disabled = node.condition !== "running";
  restart.disabled = node.condition === "running" || node.condition === "starting";
  const label = node.condition === "frozen" ? "Thaw" : "Restart";
  set(restart, label);
  restart.setAttribute("aria-label", `${label} ${node.name}`);
}

// -- wall -------------------------------------------------------------------------------------------

function showWall() {
  for (const { name } of state.encoders) {
    if (tiles.has(name)) continue;
    const tile = makeTile(mesh, name);
    tile.element.dataset.encoder = name;
    at("wall").append(tile.element);
    tiles.set(name, tile);
  }
}

// -- what happened ----------------------------------------------------------------------------------

function showBlow(blow) {
  let shown = blows.get(blow.number);
  if (!shown) {
    shown = { line: make("li"), since: Date.now() - blow.age_s * 1000, settled: false };
    shown.line.dataset.blow = blow.number;
    shown.line.dataset.settled = false;
    blows.set(blow.number, shown);
    at("log").querySelector(".none")?.remove();
    at("log").prepend(shown.line);
  }
  if (shown.settled) return;
  const names = [...Object.keys(blow.moved), ...blow.homeless];
  const hit = names.map((name) => tiles.get(name)?.player).filter(Boolean);
  const gaps = hit.flatMap((player) => player.stats.gaps.filter((gap) => gap.at > shown.since));
  const longest = Math.max(0, ...gaps.map((gap) => gap.ms));
  const dark = hit.filter((player) => player.stalledAt !== null).length;
  const age = Date.now() - shown.since;
  const waiting = dark > 0 || blow.homeless.length > 0;
  const over = !waiting && age > QUIET_MS;
  const count = `${names.length} ${names.length === 1 ? "stream" : "streams"}`;
  const verdict = () => {
    if (names.length === 0) return ["healed", "nothing had to move"];
    if (dark) return ["hurt", `${dark} of ${count} without a picture, ${seconds(age)} so far`];
    if (waiting) return ["hurt", `${blow.homeless.length} of ${count} without a home, ${seconds(age)} so far`];
    if (gaps.length) return ["healed", `${count} healed, the longest without a picture ${seconds(longest)}`];
    return over ? ["healed", `${count} moved without a visible gap`] : ["hurt", "watching"];
  };
  const [kind, text] = verdict();
  shown.line.replaceChildren(`${blow.node} ${WORDS[blow.what]}: `, make("span", kind, text));
  shown.settled = over;
  shown.line.dataset.gapMs = longest;
  shown.line.dataset.settled = over;
}

// -- the loop ---------------------------------------------------------------------------------------

async function refresh() {
  try {
    state = await (await fetch("/state")).json();
  } catch {
    set(at("summary"), "The demo has ended.");
    return;
  }
  if (!mesh) {
    mesh = new DemoMesh();
    mesh.base = mesh.bases()[0] ?? mesh.base;
    mesh.start();
    Object.assign(window.roost, { mesh, tiles });
  }
  state.nodes.forEach(showNode);
  at("add").disabled = state.nodes.length >= state.nodes_max;
  showWall();
  state.blows.forEach(showBlow);
  // Numbers that still run are not read out.
  at("log").setAttribute("aria-busy", [...blows.values()].some((blow) => !blow.settled));
  const running = state.nodes.filter((node) => node.condition === "running").length;
  const players = [...tiles.values()].map((tile) => tile.player);
  const moving = players.filter((p) => p.stats.frames > 0 && p.stalledAt === null).length;
  set(at("summary"), `${running} of ${state.nodes.length} nodes run, ${moving} of ${players.length} pictures move`);
}

at("add").addEventListener("click", () => press("/nodes"));
for (;;) {
  await refresh();
  await new Promise((wake) => setTimeout(wake, POLL_MS));
}

// The demo page: nodes with buttons, a wall of live tiles, and the time to heal after each blow.
// Pictures come straight from the nodes through their own player; this page only watches.

const POLL_MS = 250;
const FRAME_GAP_MS = 400; // The test picture changes every 67 ms: more than this is a stall.

const byId = (id) => document.getElementById(id);
const tiles = new Map();
const nodeCards = new Map();
const blows = new Map();
let Player = null;
let state = null;

const element = (tag, className, text) => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

const seconds = (ms) => `${(ms / 1000).toFixed(2)} s`;

async function press(path) {
  byId("trouble").textContent = "";
  try {
    const answer = await fetch(path, { method: "POST", headers: { "x-roost-demo": "1" } });
    if (!answer.ok) byId("trouble").textContent = await answer.text();
  } catch {
    byId("trouble").textContent = "The demo has ended: start it again.";
  }
  refresh();
}

// -- nodes ----------------------------------------------------------------------------------------

const WORDS = { starting: "starting", running: "runs", frozen: "frozen", dead: "killed" };

function makeNodeCard(name) {
  const card = element("li", "card");
  card.dataset.node = name;
  const head = element("div", "node-head");
  const word = element("span", "word");
  head.append(element("span", "disc"), element("strong", "", name), word);
  const note = element("p", "note");
  const buttons = element("p", "buttons");
  const button = (verb, label) => {
    const made = element("button", "", label);
    made.type = "button";
    made.dataset.verb = verb;
    made.setAttribute("aria-label", `${label} ${name}`);
    made.addEventListener("click", () => press(`/nodes/${name}/${verb}`));
    buttons.append(made, " ");
    return made;
  };
  const kill = button("kill", "Kill");
  const freeze = button("freeze", "Freeze");
  const restart = button("restart", "Restart");
  card.append(head, note, buttons);
  byId("nodes").append(card);
  return { card, word, note, kill, freeze, restart };
}

function showNode(node) {
  if (!nodeCards.has(node.name)) nodeCards.set(node.name, makeNodeCard(node.name));
  const { card, word, note, kill, freeze, restart } = nodeCards.get(node.name);
  card.className = `card ${node.condition}`;
  const others = node.state && node.condition !== "starting" ? `, the others say ${node.state}` : "";
  word.textContent = WORDS[node.condition] + others;
  const homes = `${node.encoders} ${node.encoders === 1 ? "stream" : "streams"} at home`;
  note.textContent = `${homes}${node.url ? `, ${node.url.replace("http://", "")}` : ""}, pid ${node.pid}`;
  kill.disabled = node.condition === "dead";
  freeze.disabled = node.condition !== "running";
  restart.disabled = node.condition === "running" || node.condition === "starting";
  restart.textContent = node.condition === "frozen" ? "Thaw" : "Restart";
}

// -- wall -----------------------------------------------------------------------------------------

class Tile {
  constructor(name) {
    this.name = name;
    this.root = element("li", "card tile");
    this.root.dataset.encoder = name;
    this.video = element("video");
    this.video.muted = true;
    this.video.autoplay = true;
    this.video.playsInline = true;
    this.video.setAttribute("aria-label", `Live picture of ${name}`);
    const line = element("p");
    this.via = element("span", "via", "connecting");
    line.append(element("strong", "", name), this.via);
    this.root.append(this.video, line);
    byId("wall").append(this.root);
    this.node = null;
    this.lastFrame = 0;
    this.pauses = []; // { start, end } in milliseconds of performance.now()
    const frame = (now) => {
      if (this.lastFrame && now - this.lastFrame > FRAME_GAP_MS) {
        this.pauses.push({ start: this.lastFrame, end: now });
        this.pauses.splice(0, this.pauses.length - 50);
      }
      this.lastFrame = now;
      this.video.requestVideoFrameCallback(frame);
    };
    this.video.requestVideoFrameCallback(frame);
  }

  play(nodes) {
    this.player = new Player(this.video, { encoder: this.name, nodes });
    this.player.addEventListener("state", (event) => {
      this.node = event.detail.node ?? this.node;
      this.phase = event.detail.state;
      this.show();
    });
  }

  stalled(now) {
    return this.lastFrame > 0 && now - this.lastFrame > FRAME_GAP_MS;
  }

  // The longest pause that touches what came after `since`; the present one counts.
  gap(since, now) {
    let longest = 0;
    for (const { start, end } of this.pauses) if (end > since) longest = Math.max(longest, end - start);
    if (this.stalled(now)) longest = Math.max(longest, now - this.lastFrame);
    return longest;
  }

  show() {
    const moving = this.lastFrame > 0 && this.stalled(performance.now());
    this.root.classList.toggle("moving", moving);
    if (moving) this.via.textContent = "moving…";
    else if (this.lastFrame) this.via.textContent = this.node ? `via ${this.node}` : "live";
  }
}

function showWall() {
  for (const { name } of state.encoders) {
    if (!tiles.has(name)) tiles.set(name, new Tile(name));
    const tile = tiles.get(name);
    if (!tile.player && Player) tile.play(nodeUrls());
    tile.show();
  }
}

const nodeUrls = () =>
  state.nodes.filter((node) => node.url && node.condition === "running").map((node) => node.url);

// Any node has the player; the first that answers is enough.
async function loadPlayer() {
  for (const url of nodeUrls()) {
    try {
      ({ Player } = await import(`${url}/assets/player.js`));
      return;
    } catch (error) {
      console.warn(`no player from ${url}`, error);
    }
  }
}

// -- what happened ----------------------------------------------------------------------------------

function showBlow(blow, now) {
  let shown = blows.get(blow.number);
  if (!shown) {
    shown = { line: element("li"), since: now, settled: false };
    shown.line.dataset.blow = blow.number;
    blows.set(blow.number, shown);
    byId("log").querySelector(".none")?.remove();
    byId("log").prepend(shown.line);
  }
  if (shown.settled) return;
  const names = [...Object.keys(blow.moved), ...blow.homeless];
  const hit = names.map((name) => tiles.get(name)).filter(Boolean);
  // The blow fell up to one poll before this page heard of it.
  const since = shown.since - 2 * POLL_MS;
  const gap = Math.max(0, ...hit.map((tile) => tile.gap(since, now)));
  const dark = hit.some((tile) => tile.stalled(now));
  const what = `${blow.node} ${WORDS[blow.what]}`;
  shown.line.replaceChildren(`${what}, ${names.length} streams were at home there: `);
  // A blow is settled once nothing has been dark for two seconds.
  const quiet = !dark && blow.homeless.length === 0 && now - shown.since > 2000;
  if (dark || blow.homeless.length > 0) {
    shown.line.append(element("span", "hurt", `moving, ${seconds(now - shown.since)}`));
  } else if (gap > 0) {
    shown.line.append(element("span", "healed", `healed, pictures stood still for ${seconds(gap)} at most`));
  } else if (quiet) {
    shown.line.append(element("span", "healed", `healed, no picture stood still for ${seconds(FRAME_GAP_MS)}`));
  } else {
    shown.line.append(element("span", "hurt", "watching"));
  }
  shown.settled = quiet;
  shown.line.dataset.gapMs = Math.round(gap);
  shown.line.dataset.settled = quiet;
}

// -- the loop ---------------------------------------------------------------------------------------

async function refresh() {
  try {
    const answer = await fetch("/state");
    state = await answer.json();
  } catch {
    byId("summary").textContent = "The demo has ended.";
    return;
  }
  state.nodes.forEach(showNode);
  byId("add").disabled = state.nodes.length >= state.nodes_max;
  if (!Player) await loadPlayer();
  showWall();
  const now = performance.now();
  state.blows.forEach((blow) => showBlow(blow, now));
  const running = state.nodes.filter((node) => node.condition === "running").length;
  const live = [...tiles.values()].filter((tile) => tile.lastFrame && !tile.stalled(now)).length;
  byId("summary").textContent =
    `${running} of ${state.nodes.length} nodes run, ${live} of ${state.encoders.length} pictures move`;
}

byId("add").addEventListener("click", () => press("/nodes"));
(async () => {
  for (;;) {
    await refresh();
    await new Promise((wake) => setTimeout(wake, POLL_MS));
  }
})();

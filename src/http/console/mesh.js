// What the page knows of the mesh: nodes, and where each stream is. Fed by one event stream from
// any node, and by what nodes say on the channels of legs; the newest epoch wins.

const PATIENCE = 6000; // ms without a heartbeat (sent every 2 s) until an event stream is dead
const FRESH = 3000; // ms since the last sign of life after which another node is asked first
const BACKOFF = [100, 200, 400, 800, 1600, 3000]; // ms between rounds over all nodes

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/** A pause that grows with `round` and differs between pages. */
export const backoff = (round) =>
  BACKOFF[Math.min(round, BACKOFF.length - 1)] * (0.5 + Math.random());

/** Order of two epochs, `counter.instance` with the instance in 16 hexadecimal digits. */
export function compareEpochs(a, b) {
  const [countA, instanceA = ""] = a.split(".");
  const [countB, instanceB = ""] = b.split(".");
  return Number(countA) - Number(countB) || (instanceA < instanceB ? -1 : instanceA > instanceB ? 1 : 0);
}

const SESSION = "roost.session"; // where the browser keeps what a sign-in gave

/** What the last sign-in at this address gave, or null. */
export function session() {
  try {
    return JSON.parse(globalThis.localStorage?.getItem(SESSION) ?? "null");
  } catch {
    return null; // not allowed to keep anything, or kept by another version
  }
}

/** Keeps a sign-in for all tabs at this address; null forgets it. */
export function keepSession(answer) {
  try {
    if (answer) localStorage.setItem(SESSION, JSON.stringify(answer));
    else localStorage.removeItem(SESSION);
  } catch {
    // Then it lasts as long as the page.
  }
}

/** The credential of this page, never sent anywhere but to nodes: of its URL, or of a sign-in. */
export function pageToken() {
  return new URLSearchParams(location.search).get("token") ?? session()?.token ?? null;
}

export class Mesh extends EventTarget {
  /** `stream`: the one stream to follow, or null for all. */
  constructor({ stream = null, token = pageToken() } = {}) {
    super();
    this.stream = stream;
    this.token = token;
    this.nodes = new Map();
    this.places = new Map();
    this.base = location.origin;
    this.live = false;
    this.heardAt = 0;
    this.denied = null;
    this.version = null; // names the page's last write
    this.self = null;
    this.wake = () => {};
  }

  /** What to say to somebody whom no node lets in, or null. */
  get refusal() {
    if (!this.denied) return null;
    const linked = new URLSearchParams(location.search).has("token");
    return linked ? `Not allowed: ${this.denied}` : "Sign in to go on.";
  }

  /** Goes on with another credential, at once. */
  enter(token) {
    this.token = token;
    this.denied = null;
    this.wake();
  }

  start() {
    this.#run();
    return this;
  }

  headers(extra = {}) {
    return this.token ? { authorization: `Bearer ${this.token}`, ...extra } : extra;
  }

  /** Where to ask, best first: whoever speaks at present, nodes that are up, then all the rest. */
  bases() {
    const up = [];
    const down = [];
    for (const { urls, up: alive } of this.nodes.values()) (alive ? up : down).push(...urls);
    for (const list of [up, down]) list.sort(() => Math.random() - 0.5);
    const speaks = this.live && performance.now() - this.heardAt < FRESH;
    const known = this.nodes.size > 0 && !speaks;
    const first = known ? [] : [this.base, location.origin];
    return [...new Set([...first, ...up, this.base, location.origin, ...down])];
  }

  /** A node's label for people. */
  label(id) {
    return this.nodes.get(id)?.name ?? (id ? id.slice(0, 8) : "nowhere");
  }

  /** The label of the node behind a URL. */
  labelOf(base) {
    for (const node of this.nodes.values()) if (node.urls.includes(base)) return node.name;
    return base.replace(/^https?:\/\//, "");
  }

  place(name) {
    return this.places.get(name) ?? null;
  }

  /** Takes one stream's state as a node tells it. */
  learn(state) {
    this.#learnNodes(state.nodes);
    this.#learnPlace(state, state.node);
    this.dispatchEvent(new Event("change"));
  }

  #learnNodes(nodes) {
    if (!nodes?.length) return;
    this.nodes = new Map(nodes.map((node) => [node.node, node]));
  }

  #learnPlace({ name, id, home, next, epoch, state, reason }, teller) {
    const known = this.places.get(name);
    const older = known && compareEpochs(epoch, known.epoch) < 0;
    // A claim under an older epoch is void. That nobody claims it any more is news from whoever
    // told of the claim; anyone else may just not have heard of it.
    if (older && (home || teller !== known.teller)) return;
    this.places.set(name, { name, id, home, next, epoch: older ? known.epoch : epoch, state, reason, teller });
  }

  async #run() {
    for (let round = 0; ; round++) {
      for (const base of this.bases()) {
        try {
          if (await this.#listen(base)) round = 0;
        } catch {
          // Broken off or never begun: the next one may answer.
        }
        if (this.live) {
          this.live = false;
          this.dispatchEvent(new Event("change"));
          break; // begin again with the best known order
        }
      }
      await Promise.race([sleep(backoff(round)), new Promise((wake) => (this.wake = wake))]);
    }
  }

  async #listen(base) {
    const path = this.stream
      ? `/api/v1/streams/${encodeURIComponent(this.stream)}/events`
      : "/api/v1/events";
    const abort = new AbortController();
    let watchdog = setTimeout(() => abort.abort(), 3000);
    const alive = () => {
      this.heardAt = performance.now();
      clearTimeout(watchdog);
      watchdog = setTimeout(() => abort.abort(), PATIENCE);
    };
    try {
      const response = await fetch(base + path, {
        headers: this.headers({ accept: "text/event-stream" }),
        cache: "no-store",
        signal: abort.signal,
      });
      if (response.status === 401 || response.status === 403) {
        this.denied = (await response.json().catch(() => null))?.detail ?? "not allowed";
        this.dispatchEvent(new Event("change"));
        return false;
      }
      if (!response.ok) return false;
      this.denied = null;
      this.base = base;
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let buffer = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return true;
        alive();
        buffer += value;
        const blocks = buffer.split("\n\n");
        buffer = blocks.pop();
        for (const block of blocks) this.#take(block);
      }
    } finally {
      clearTimeout(watchdog);
      abort.abort();
    }
  }

  #take(block) {
    let kind = "message";
    const data = [];
    for (const line of block.split("\n")) {
      if (line.startsWith("event:")) kind = line.slice(6).trim();
      else if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
    }
    if (!data.length) return;
    const state = JSON.parse(data.join("\n"));
    if (kind === "end") {
      this.denied = state.reason;
      this.dispatchEvent(new Event("change"));
      return;
    }
    this.live = true;
    this.self = state.node;
    if (kind === "place") {
      this.learn(state);
    } else if (kind === "mesh") {
      this.#learnNodes(state.nodes);
      const named = new Set(state.streams.map((place) => place.name));
      for (const name of this.places.keys()) if (!named.has(name)) this.places.delete(name);
      for (const place of state.streams) this.#learnPlace(place, state.node);
      this.dispatchEvent(new Event("change"));
    }
  }
}

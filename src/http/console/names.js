// What records are called whose ids others hold.

import { ask, pathOf } from "./api.js";

const MOST = 1000; // names of a kind that are read at once; what is beyond is asked for one by one
const FRESH = 30_000; // ms after which a name is read again
const LOCAL = "0".repeat(32); // changes made at a node's own machine are nobody's account
const DEFAULT = "0".repeat(32); // the domain of everything that names none

/** An event `change` tells that names are known which were not. */
export class Names extends EventTarget {
  #mesh;
  #known = new Map(); // "noun/id" -> { text, at }
  #asked = new Map(); // noun or "noun/id" -> when it was asked for

  constructor(mesh) {
    super();
    this.#mesh = mesh;
  }

  /** What people call it; the beginning of its id, until that is known. */
  of(noun, id) {
    if (noun === "nodes" && this.#mesh.nodes.has(id)) return this.#mesh.label(id);
    const key = `${noun}/${id}`;
    const known = this.#known.get(key);
    if (!known || performance.now() - known.at > FRESH) this.#find(noun, id);
    return known?.text ?? id.slice(0, 8);
  }

  /** Who changed something. */
  author(id) {
    if (!id) return "somebody";
    return id === LOCAL ? "whoever is at the node itself" : this.of("accounts", id);
  }

  /** The full name of a record: with its domain, if it is in one that others are not. */
  full(item) {
    const name = item.name || (item.id ?? "").slice(0, 8);
    return item.domain && item.domain !== DEFAULT ? `${this.of("domains", item.domain)}/${name}` : name;
  }

  /** Takes what a list showed. */
  learn(noun, items) {
    let news = false;
    for (const item of items) {
      const key = `${noun}/${item.id}`;
      const text = this.full(item);
      news ||= this.#known.get(key)?.text !== text;
      this.#known.set(key, { text, at: performance.now() });
    }
    if (news) this.dispatchEvent(new Event("change"));
  }

  /** Records whose names have this in them. */
  async suggest(noun, text) {
    const query = new URLSearchParams({ limit: "20", q: text.split("/").at(-1) });
    const { body } = await ask(this.#mesh, "GET", `/api/v1/${noun}?${query}`);
    this.learn(noun, body.items);
    return body.items.map((item) => ({ id: item.id, text: this.full(item) }));
  }

  /** The id of what is called so, if a list or a suggestion had it. */
  idOf(noun, text) {
    for (const [key, known] of this.#known) {
      if (known.text === text && key.startsWith(`${noun}/`)) return key.slice(noun.length + 1);
    }
    return null;
  }

  async #find(noun, id) {
    const now = performance.now();
    const recent = (key) => now - (this.#asked.get(key) ?? -Infinity) < FRESH;
    if (!recent(noun)) {
      this.#asked.set(noun, now);
      const { body } = await ask(this.#mesh, "GET", `/api/v1/${noun}?limit=${MOST}`).catch(() => ({ body: null }));
      if (body) this.learn(noun, body.items);
      if (!body || this.#known.has(`${noun}/${id}`) || !body.next) return;
    }
    const key = `${noun}/${id}`;
    if (recent(key)) return;
    this.#asked.set(key, now);
    const one = await ask(this.#mesh, "GET", pathOf(noun, id)).catch(() => null);
    if (one) this.learn(noun, [one.body]);
  }
}

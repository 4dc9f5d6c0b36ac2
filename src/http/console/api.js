// The API, at whichever node answers, and what it says of itself.

import { capital } from "./dom.js";

const PATIENCE = 8000; // ms a node has to answer: it may wait 5 s for others to have a change

/** A request that was refused; the message is the node's own. */
export class Refused extends Error {
  constructor(status, problem, tag) {
    super(capital(problem?.detail ?? `the node answered with status ${status}`));
    Object.assign(this, { status, problem: problem ?? {}, tag });
  }
}

/**
 * Asks one node after the other; one that answers decides, unless it cannot. What must not happen
 * twice is asked `once`: if a node falls silent over it, nobody knows whether it did it.
 */
export async function ask(mesh, method, path, { body, headers = {}, once = false } = {}) {
  let why = new Error("No node answers. What you typed stays here; try again.");
  const reads = method === "GET";
  const sent = { ...headers };
  if (body !== undefined) sent["content-type"] = "application/json";
  for (const base of mesh.bases()) {
    if (reads && mesh.version) sent["roost-min-version"] = mesh.version;
    let response;
    try {
      response = await fetch(base + path, {
        method,
        headers: mesh.headers(sent),
        body: body === undefined ? undefined : JSON.stringify(body),
        cache: "no-store",
        signal: AbortSignal.timeout(PATIENCE),
      });
    } catch (error) {
      if (once && error.name === "TimeoutError") {
        throw new Error(`${mesh.labelOf(base)} did not answer: whether it was done is not known. Look before you repeat it.`);
      }
      continue;
    }
    const answer = await response.json().catch(() => null);
    const said = (name) => response.headers.get(name);
    if (response.ok) {
      // Whoever changed something reads it from now on, at any node that has it.
      if (!reads && said("roost-version")) mesh.version = said("roost-version");
      const stale = said("roost-stale") === "true";
      if (stale) mesh.version = null;
      return {
        body: answer,
        base,
        stale,
        tag: said("etag"),
        nodes: Number(said("roost-nodes") ?? 0),
        may: said("roost-may") ?? "",
      };
    }
    why = new Refused(response.status, answer, said("etag"));
    if (response.status < 500) break;
  }
  throw why;
}

/** The path of a record, by id or name. */
export const pathOf = (noun, id) => `/api/v1/${noun}/${encodeURIComponent(id)}`;

/** What nobody can change, or what is shown in another way. */
const APART = ["id", "conflicts", "changed", "duplicate", "disabled"];
/** The order in which people look for them; all else follows in that of the alphabet. */
const FIRST = ["name", "description", "domain", "role", "everything", "accounts", "groups"];

const place = (name) => (FIRST.includes(name) ? FIRST.indexOf(name) : FIRST.length);

/** What a record of each kind has, from the API's own reference. */
export class Schema {
  #document;
  #kinds = new Map();

  constructor(document) {
    this.#document = document;
  }

  static async load(mesh) {
    return new Schema((await ask(mesh, "GET", "/api/v1/openapi.json")).body);
  }

  /** The kind whose records are under this noun, or null. */
  kind(noun) {
    if (!this.#kinds.has(noun)) this.#kinds.set(noun, this.#read(noun));
    return this.#kinds.get(noun);
  }

  #read(noun) {
    const { paths, components } = this.#document;
    const answer = paths[`/api/v1/${noun}`]?.get?.responses["200"];
    const list = answer?.content["application/json"].schema.$ref.split("/").at(-1);
    if (!list) return null;
    const name = list.replace(/List$/, "");
    const shown = components.schemas[name];
    const body = components.schemas[`${name}Body`];
    const parts = Object.entries(body.properties)
      .filter(([field]) => !APART.includes(field))
      .map(([field, schema]) => part(field, schema, body.required.includes(field)))
      .sort((a, b) => place(a.name) - place(b.name) || a.set - b.set || (a.name < b.name ? -1 : 1));
    const told = Object.entries(shown.properties)
      .filter(([field]) => !APART.includes(field) && !(field in body.properties))
      .map(([field, schema]) => part(field, schema, false));
    const acts = new Set(
      Object.keys(paths).filter((path) => path.startsWith(`/api/v1/${noun}/{id}/`)).map((path) => path.split("/").at(-1)),
    );
    return {
      noun,
      word: name.toLowerCase(),
      end: shown["x-end"],
      parts,
      told,
      disables: "disabled" in body.properties,
      acts,
    };
  }
}

/** One field, or set. */
function part(name, schema, required) {
  const about = schema.description ?? schema.anyOf?.[0].description ?? "";
  const inner = schema.anyOf?.[0] ?? schema;
  const set = inner.type === "array";
  const one = set ? inner.items : inner;
  return {
    name,
    about,
    set,
    required,
    noun: one["x-noun"] ?? null,
    options: one.enum ?? null,
    max: one.maxLength ?? null,
    what: one.type === "integer" || one.type?.includes?.("integer") ? "number" : one.type === "boolean" ? "flag" : "text",
  };
}

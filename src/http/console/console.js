// The console: nodes, encoders, and a wall of live pictures.

import { keyed, make, set } from "./dom.js";
import { header } from "./header.js";
import { Mesh } from "./mesh.js";
import { signIn } from "./signin.js";
import { makeTile } from "./tile.js";

const MAX_TILES = 25; // pictures at once: more than a screen shows, less than a browser bears

const mesh = new Mesh().start();
signIn(mesh);
header(mesh);
window.roost.mesh = mesh;
const at = (id) => document.getElementById(id);
const tiles = new Map();
let wallOn = new URLSearchParams(location.search).has("wall");

const STATES = { live: "live", idle: "idle", no_signal: "no signal", native_only: "native viewers only", lost: "lost", unknown: "unknown" };

function showNodes() {
  const counts = new Map();
  for (const { home } of mesh.places.values()) counts.set(home, (counts.get(home) ?? 0) + 1);
  keyed(
    at("nodes"),
    [...mesh.nodes.values()],
    (node) => node.node,
    () => {
      const card = make("li", "card");
      card.append(make("a", "name"), make("span", "badge"), make("span", "count"), make("code"));
      return card;
    },
    (card, node) => {
      const [name, badge, count, id] = card.children;
      set(name, node.name);
      if (node.urls[0]) name.href = `${node.urls[0]}/${location.search}`;
      set(badge, node.up ? "up" : "down");
      badge.className = `badge ${node.up ? "good" : "bad"}`;
      const homes = counts.get(node.node) ?? 0;
      set(count, `${homes} encoder${homes === 1 ? "" : "s"}`);
      set(id, node.node.slice(0, 8));
    },
  );
}

function showStreams() {
  const places = [...mesh.places.values()].sort((a, b) => a.name.localeCompare(b.name));
  keyed(
    at("streams"),
    places,
    (place) => place.name,
    () => {
      const row = make("tr");
      const name = make("th");
      name.scope = "row";
      name.append(make("a"));
      const state = make("td");
      state.append(make("span", "badge"), make("span", "why"));
      row.append(name, state, make("td"), make("td"));
      return row;
    },
    (row, place) => {
      const [name, state, home, next] = row.children;
      set(name.firstChild, place.name);
      name.firstChild.href = `/watch/${encodeURIComponent(place.name)}${location.search}`;
      const [badge, why] = state.children;
      set(badge, STATES[place.state] ?? place.state);
      const good = place.state === "live" || place.state === "idle";
      badge.className = `badge ${good ? "good" : "bad"}`;
      set(why, place.reason ?? "");
      set(home, place.home ? mesh.label(place.home) : "–");
      set(next, place.next ? mesh.label(place.next) : "–");
    },
  );
  return places;
}

function showWall(places) {
  const shown = wallOn ? places.slice(0, MAX_TILES).map((place) => place.name) : [];
  for (const [name, tile] of tiles) {
    // A stream that disappears from the list may only be between two homes: its tile stays.
    if (!wallOn) {
      tile.close();
      tiles.delete(name);
    }
  }
  for (const name of shown) {
    if (tiles.has(name)) continue;
    const tile = makeTile(mesh, name, { link: true });
    tiles.set(name, tile);
    at("wall").append(tile.element);
  }
  const button = at("wall-switch");
  button.setAttribute("aria-pressed", String(wallOn));
  set(button, wallOn ? "Hide live pictures" : "Show live pictures");
}

function show() {
  showNodes();
  showWall(showStreams());
}

at("wall-switch").addEventListener("click", () => {
  wallOn = !wallOn;
  show();
});
mesh.addEventListener("change", show);

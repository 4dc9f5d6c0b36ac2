// What a page believes of a stream's place when nodes differ, without a browser.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

globalThis.location = { origin: "http://127.0.0.1:1", search: "" };
const code = await readFile(new URL("../../src/http/console/mesh.js", import.meta.url), "utf8");
const { Mesh, compareEpochs } = await import(`data:text/javascript,${encodeURIComponent(code)}`);

const epoch = (counter) => `${counter}.00000000000000ff`;
const place = (node, counter, home, more = {}) => ({
  t: "place", node, name: "cam", id: "c", home, next: "n2", epoch: epoch(counter), state: "live", reason: null, nodes: [], ...more,
});

test("a node that was cut off takes no stream from its home", () => {
  const mesh = new Mesh();
  mesh.learn(place("n1", 3, "n1"));
  mesh.learn(place("n3", 2, null, { next: "n3", state: "lost" }));
  assert.deepEqual([mesh.place("cam").home, mesh.place("cam").next], ["n1", "n2"]);
  mesh.learn(place("n3", 2, "n3"));
  assert.equal(mesh.place("cam").home, "n1", "nor gives it an older one");
});

test("a home that is gone is believed of whoever told of it, and of whoever knows as much", () => {
  for (const [teller, counter] of [["n1", 0], ["n3", 3], ["n3", 4]]) {
    const mesh = new Mesh();
    mesh.learn(place("n1", 3, "n1"));
    mesh.learn(place(teller, counter, null));
    assert.equal(mesh.place("cam").home, null, `${teller} under ${counter}`);
    mesh.learn(place("n2", 2, "n2"));
    assert.equal(mesh.place("cam").home, null, "an older claim stays void");
    mesh.learn(place("n2", 5, "n2"));
    assert.equal(mesh.place("cam").home, "n2");
  }
});

test("epochs are compared by count, then by instance", () => {
  assert.ok(compareEpochs(epoch(10), epoch(9)) > 0);
  assert.ok(compareEpochs("1.00000000000000fe", "1.00000000000000ff") < 0);
  assert.equal(compareEpochs(epoch(1), epoch(1)), 0);
});

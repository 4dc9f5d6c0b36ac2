// Two operators at two nodes, with a network between them that can be cut, edit the same accounts.
// Needs root, for network namespaces.

import assert from "node:assert/strict";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { network, noNetwork as skip } from "./hosts.mjs";
import { until, watchfulPage } from "./lib.mjs";

const PASSWORD = "correct horse battery";
const PAGE = "http://127.0.0.1:9443/records";
const shots = process.env.ROOST_SHOTS; // where to keep pictures of pages, for people
const lan = skip ? {} : await network("acc", ["n1", "n2"]);
const browsers = [];
let node1; // the process
let token;
let anna; // her page at n1
let bert; // his page at n2

async function api(at, method, path, body, headers = {}) {
  const all = { "content-type": "application/json", ...(token && { authorization: `Bearer ${token}` }), ...headers };
  const args = ["-s", "-m", "10", "-X", method, "-w", "\n%{http_code}", `http://127.0.0.1:9443${path}`];
  for (const [name, value] of Object.entries(all)) args.push("-H", `${name}: ${value}`);
  if (body) args.push("-d", JSON.stringify(body));
  const text = (await lan.output(at, "curl", ...args)) ?? "\n0";
  const lines = text.split("\n");
  const status = Number(lines.pop());
  return { status, body: lines.join("\n") ? JSON.parse(lines.join("\n")) : null };
}

const account = async (at, name) => (await api(at, "GET", `/api/v1/accounts/${name}`)).body;

/** Pictures of a state: light, dark, and as wide as a phone. */
async function shoot(page, name) {
  if (!shots) return;
  await mkdir(shots, { recursive: true });
  const keep = (look) => page.screenshot({ path: join(shots, `${name}-${look}.png`), fullPage: true });
  await keep("light");
  await page.emulateMedia({ colorScheme: "dark" });
  await keep("dark");
  await page.emulateMedia({ colorScheme: "light" });
  await page.setViewportSize({ width: 390, height: 844 });
  await keep("narrow");
  await page.setViewportSize({ width: 1280, height: 900 });
}

/** Somebody who signs in at a node's own machine. */
async function operator(at, name, password) {
  const chrome = await lan.browser(at, ["n1", "n2"]);
  browsers.push(chrome);
  const { page, complaints } = await watchfulPage(chrome);
  page.setDefaultTimeout(10_000);
  await page.goto(PAGE);
  await page.getByLabel("Name", { exact: true }).fill(name);
  await page.getByLabel("Password").fill(password);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByText(`Signed in as ${name}`).waitFor();
  // What is refused on purpose, the browser calls an error.
  const serious = () => complaints.filter((text) => !/status of 4\d\d|ERR_|content-security-policy: x/.test(text));
  return { page, serious };
}

const link = (page, name) => page.getByRole("link", { name, exact: true });
const field = (page, name) => page.locator(`[data-field="${name}"]`);
const input = (page, name) => page.locator("main").getByLabel(name, { exact: true });
const push = (page, name) => page.getByRole("button", { name, exact: true }).click();
const value = (page, name) => input(page, name).inputValue();
const reads = (page, name, text) => until(`${name} is ${text}`, async () => (await value(page, name)) === text);

/** Opens a record by its name in the list. */
async function open(page, noun, name) {
  await page.goto(`${PAGE}#/${noun}`);
  await link(page, name).click();
  await page.getByRole("heading", { name, exact: true }).waitFor();
  await until("its fields are there", () => page.locator(".edit input, .edit dd").first().isVisible());
}

async function save(page, words = "Saved.") {
  await push(page, "Save");
  await page.getByText(words, { exact: true }).waitFor();
}

const up = (page) => page.evaluate(() => [...window.roost.mesh.nodes.values()].filter((node) => node.up).length);
const ALONE = "Saved at this node; the others get it once they can be reached.";

async function cut() {
  lan.ignore("n1", "n2");
  lan.ignore("n2", "n1");
  for (const { page } of [anna, bert]) await until("each is alone", async () => (await up(page)) === 1);
}

async function heal() {
  lan.heal();
  for (const { page } of [anna, bert]) await until("both are there again", async () => (await up(page)) === 2);
}

before(async () => {
  if (skip) return;
  const file = join(lan.folder, "password");
  await writeFile(file, PASSWORD);
  const ready = (at) => until(`${at} is ready`, async () => (await api(at, "GET", "/healthcheck")).status === 200);
  node1 = lan.startNode("n1", "--admin-password-file", file);
  await ready("n1");
  token = (await api("n1", "POST", "/api/v1/login", { name: "admin", password: PASSWORD })).body.token;
  const { invitation } = (await api("n1", "POST", "/api/v1/invitations", { uses: 1 })).body;
  lan.startNode("n2", "--join", invitation);
  await ready("n2");
  await until("n2 knows who comes", async () => (await api("n2", "GET", "/api/v1/me")).body?.name === "admin");
  for (const [id, name] of [["c", "carol"], ["d", "dora"]]) {
    const made = await api("n1", "PUT", `/api/v1/accounts/${id.repeat(32)}`, { name }, { "if-none-match": "*" });
    assert.equal(made.status, 201);
    assert.equal((await api("n1", "PUT", `/api/v1/accounts/${name}/password`, { password: PASSWORD })).status, 204);
  }
  anna = await operator("n1", "admin", PASSWORD);
});

after(async () => {
  for (const chrome of browsers) await chrome.close();
  await lan.close?.();
});

test("an account that is added at one node signs in at another, and may what it is given", { skip }, async () => {
  const { page } = anna;
  await page.getByText("3 accounts.").waitFor();
  await shoot(page, "list");
  await push(page, "Add account");
  await input(page, "Name").fill("Bert B");
  await shoot(page, "add");
  await push(page, "Add account");
  await page.getByText("a name is 1 to 64 of a-z").waitFor();
  await shoot(page, "add-wrong");
  await input(page, "Name").fill("bert");
  await input(page, "Description").fill("second operator");
  await push(page, "Add account");
  await page.getByRole("dialog").getByText("New password").waitFor();
  await shoot(page, "password");
  await push(page, "Set password");
  const secret = page.getByLabel("Shown this once");
  await secret.waitFor();
  const password = await secret.inputValue();
  assert.match(password, /^([a-z2-9]{5}-){3}[a-z2-9]{5}$/);
  await push(page, "Copy");
  await page.getByText("Copied.").waitFor();
  await shoot(page, "password-once");
  await push(page, "Done");
  await secret.waitFor({ state: "detached" });

  await until("n2 has it", async () => (await account("n2", "bert")).name === "bert");
  bert = await operator("n2", "bert", password);
  await link(bert.page, "bert").click();
  await bert.page.getByText("you may read this, and not change it").waitFor();
  assert.equal(await bert.page.locator("main :is(input, select, textarea, form button, .acts button):visible").count(), 0);
  await shoot(bert.page, "read-only");
  await bert.page.goto(`${PAGE}#/accounts`);
  await bert.page.getByText("1 account.").waitFor();
  assert.equal(await bert.page.getByRole("button", { name: "Add account" }).isVisible(), false);

  // To look at everything is not to change it.
  await page.goto(`${PAGE}#/rules`);
  await push(page, "Add rule");
  await input(page, "Name").fill("second");
  await input(page, "Role").selectOption("viewer");
  await input(page, "Accounts").fill("bert");
  await input(page, "Accounts").press("Enter");
  await shoot(page, "add-rule");
  await push(page, "Add rule");
  await page.getByRole("heading", { name: "second", exact: true }).waitFor();
  await bert.page.goto(`${PAGE}#/domains`);
  await link(bert.page, "default").click();
  await bert.page.getByText("you may read this, and not change it").waitFor();
  assert.equal(await bert.page.getByRole("button", { name: "Save" }).isVisible(), false);

  await input(page, "Role").selectOption("admin");
  await save(page);
  await bert.page.goto(`${PAGE}#/accounts`);
  await bert.page.getByRole("button", { name: "Add account" }).waitFor();
  await bert.page.getByText("4 accounts.").waitFor();
});

test("fields that are edited on two sides of a cut are both there", { skip }, async () => {
  for (const { page } of [anna, bert]) await open(page, "accounts", "carol");
  await cut();
  await input(anna.page, "Email").fill("carol@example.org");
  await save(anna.page, ALONE);
  await shoot(anna.page, "saved-alone");
  await input(bert.page, "Description").fill("night shift");
  await save(bert.page, ALONE);
  await heal();
  for (const { page } of [anna, bert]) {
    await reads(page, "Email", "carol@example.org");
    await reads(page, "Description", "night shift");
    assert.equal(await page.getByText("conflict").count(), 0);
  }
});

test("a field that is edited on both sides is a conflict on both, until one click settles it", { skip }, async () => {
  await cut();
  await input(anna.page, "Description").fill("day shift");
  await save(anna.page, ALONE);
  await input(bert.page, "Description").fill("on leave");
  await save(bert.page, ALONE);
  await heal();
  for (const { page } of [anna, bert]) {
    const sides = field(page, "description").locator(".sides");
    await sides.getByText("Changed on two sides at once.").waitFor();
    const words = (await sides.innerText()).replace(/\s+/g, " ");
    assert.match(words, /day shift by admin at n1, .*\d/);
    assert.match(words, /on leave by bert at n2, .*\d/);
  }
  await shoot(anna.page, "conflict");
  await bert.page.goto(`${PAGE}#/accounts`);
  await bert.page.getByRole("row", { name: /^carol\W+conflict/ }).waitFor();
  await shoot(bert.page, "list-conflict");
  await push(anna.page, "Keep this: on leave");
  await anna.page.getByText("Saved.", { exact: true }).waitFor();
  await until("it is settled for both", async () =>
    (await field(anna.page, "description").locator(".sides").isHidden()) &&
    (await bert.page.locator(".badge", { hasText: "conflict" }).count()) === 0);
  await open(bert.page, "accounts", "carol");
  assert.equal(await value(bert.page, "Description"), "on leave");
  assert.equal((await account("n1", "carol")).conflicts, undefined);
  await bert.page.getByText("History").click();
  await bert.page.locator("details li", { hasText: "admin at n1: set description" }).first().waitFor();
  await shoot(bert.page, "history");
});

test("an edit that meets another's change shows both, and loses nothing", { skip }, async () => {
  await open(anna.page, "accounts", "carol");
  await input(anna.page, "Description").fill("in the lobby");
  // Her page hears of nothing until it saves.
  await anna.page.route("**/api/v1/accounts/c*", (route) => (route.request().method() === "GET" ? undefined : route.continue()));
  await input(bert.page, "Description").fill("in the yard");
  await input(bert.page, "Email").fill("yard@example.org");
  await save(bert.page);
  await until("n1 has it", async () => (await account("n1", "carol")).email === "yard@example.org");
  const [refused] = await Promise.all([
    anna.page.waitForResponse((answer) => answer.request().method() === "PATCH"),
    push(anna.page, "Save"),
  ]);
  assert.equal(refused.status(), 412);
  await anna.page.getByText(/^Changed by bert at n2/).waitFor();
  await shoot(anna.page, "met");
  assert.equal(await value(anna.page, "Description"), "in the lobby");
  assert.equal(await value(anna.page, "Email"), "yard@example.org");
  const words = (await field(anna.page, "description").locator(".sides").innerText()).replace(/\s+/g, " ");
  assert.match(words, /in the lobby you, not saved yet/);
  assert.match(words, /in the yard by bert at n2/);
  assert.ok(await anna.page.getByRole("button", { name: "Save" }).isDisabled(), "she has to say which");
  await push(anna.page, "Keep mine: in the lobby");
  await save(anna.page);
  await anna.page.unrouteAll({ behavior: "ignoreErrors" });
  const { description, email } = await account("n1", "carol");
  assert.deepEqual({ description, email }, { description: "in the lobby", email: "yard@example.org" });
  await reads(bert.page, "Description", "in the lobby");
});

test("disabling on one side wins over a grant on the other", { skip }, async () => {
  await open(anna.page, "accounts", "dora");
  await open(bert.page, "rules", "second");
  await cut();
  await push(anna.page, "Disable");
  await anna.page.getByText(ALONE).waitFor();
  await input(bert.page, "Accounts").fill("dora");
  await input(bert.page, "Accounts").press("Enter");
  await save(bert.page, ALONE);
  const enter = (at) => api(at, "POST", "/api/v1/login", { name: "dora", password: PASSWORD });
  assert.equal((await enter("n2")).status, 200, "nobody told n2");
  await heal();
  await until("n2 hears of it", async () => (await account("n2", "dora")).disabled);
  await until("n1 hears of it", async () => (await api("n1", "GET", "/api/v1/rules/second")).body.accounts.includes("d".repeat(32)));
  for (const at of ["n1", "n2"]) assert.equal((await enter(at)).status, 401, at);
  await open(bert.page, "accounts", "dora");
  await bert.page.getByText("disabled", { exact: true }).waitFor();
  await shoot(bert.page, "disabled");
  // Enabled by who saw it, it counts.
  await push(bert.page, "Enable");
  await until("she is in again", async () => (await enter("n1")).status === 200);
});

test("what is removed takes a second word, and is gone at every node", { skip }, async () => {
  await open(anna.page, "accounts", "dora");
  await open(bert.page, "accounts", "dora");
  await input(bert.page, "Description").fill("half typed");
  await push(anna.page, "Remove…");
  await anna.page.getByText("it cannot log in again").waitFor();
  await shoot(anna.page, "remove");
  await push(anna.page, "Remove");
  await anna.page.getByText("3 accounts.").waitFor();
  await bert.page.getByText("This account is not there any more").waitFor();
  assert.equal(await value(bert.page, "Description"), "half typed");
  await shoot(bert.page, "removed");
});

test("a stream key is shown once, and ended by whoever made it", { skip }, async () => {
  const { page } = anna;
  await page.goto(`${PAGE}#/encoders`);
  await push(page, "Add encoder");
  await input(page, "Name").fill("gate");
  await input(page, "Labels").fill("north");
  await push(page, "Add to Labels");
  await push(page, "Add encoder");
  await page.getByRole("heading", { name: "gate", exact: true }).waitFor();
  await push(page, "New stream key…");
  await push(page, "Make key");
  const secret = page.getByLabel("Shown this once");
  await secret.waitFor();
  assert.match(await secret.inputValue(), /^rk1/);
  await shoot(page, "key");
  await push(page, "Done");
  await page.getByRole("button", { name: /^End stream key/ }).click();
  await push(page, "End it");
  await page.locator(".part", { hasText: "Stream keys" }).getByText("none").waitFor();
  await shoot(page, "encoder");
  await page.goto(`${PAGE}#/nodes`);
  await page.getByText("2 nodes.").waitFor();
  await shoot(page, "nodes");
  await open(page, "nodes", "n2");
  await shoot(page, "node");
});

test("whoever edits goes on at another node when theirs dies", { skip }, async () => {
  await open(anna.page, "accounts", "carol");
  await input(anna.page, "Description").fill("whatever happens");
  node1.kill("SIGKILL");
  await save(anna.page, ALONE);
  await reads(bert.page.goto(`${PAGE}#/accounts/${"c".repeat(32)}`) && bert.page, "Description", "whatever happens");
  await anna.page.getByText("You are on n2.").waitFor();
  await shoot(anna.page, "elsewhere");
  for (const { serious } of [anna, bert]) assert.deepEqual(serious(), []);
});

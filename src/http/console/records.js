// Records: accounts, rules, encoders and all else that people decide, on one page.

import { Schema, ask } from "./api.js";
import { invite, question } from "./dialogs.js";
import { button, capital, keyed, make, set, title } from "./dom.js";
import { shown } from "./form.js";
import { header } from "./header.js";
import { Mesh, sleep } from "./mesh.js";
import { Names } from "./names.js";
import { RecordView } from "./record.js";
import { signIn } from "./signin.js";

const NOUNS = ["accounts", "groups", "rules", "encoders", "rooms", "pools", "domains", "nodes", "enrolments", "settings"];
const LOOK = 2000; // ms between looks at what others did
const PAGE = 100; // records that are shown until somebody asks for more
const SEEN = ["state", "home_name", "encoders", "viewers", "domain", "expires"]; // what a list shows of what a node sees
const COLUMNS = 4; // besides the name: what fits

const mesh = new Mesh().start();
signIn(mesh);
header(mesh);
(window.roost ??= {}).mesh = mesh;
const names = new Names(mesh);
const at = (id) => document.getElementById(id);

let schema = null;
let view = null; // a List or a RecordView
let shownAt = ""; // its address
let token = mesh.token;

const page = {
  mesh,
  names,
  me: null,
  leave: () => (location.hash = `#/${route().noun}`),
  /** Shows a record that was just made. */
  open(id, nodes) {
    const { noun } = route();
    history.replaceState(null, "", `#/${noun}/${id}`);
    shownAt = location.hash;
    show(new RecordView(page, schema.kind(noun), id));
    view.refresh().then(() => view.saved?.(nodes));
  },
};

function route() {
  const [, noun = "accounts", id] = decodeURIComponent(location.hash).split("/");
  return { noun: NOUNS.includes(noun) ? noun : "accounts", id };
}

/** The records of a kind, those in which somebody has to decide something first. */
class List {
  constructor(kind) {
    this.kind = kind;
    this.most = PAGE;
    this.query = "";
    this.domain = "";
    this.items = [];
    this.round = 0;
    this.element = make("section");
    this.element.setAttribute("aria-labelledby", "list-title");
    this.head = make("h2", "", capital(kind.noun));
    this.head.id = "list-title";
    this.head.tabIndex = -1;
    this.find = Object.assign(make("input"), { type: "search", placeholder: "Part of the name", autocomplete: "off", spellcheck: false });
    this.find.setAttribute("aria-label", `Search ${kind.noun}`);
    this.find.addEventListener("input", () => {
      this.query = this.find.value.trim();
      this.refresh();
    });
    this.domains = make("select");
    this.domains.setAttribute("aria-label", "Domain");
    this.domains.hidden = true;
    this.domains.addEventListener("change", () => {
      this.domain = this.domains.value;
      this.refresh();
    });
    this.add = this.#adder();
    this.add.hidden = true;
    const bar = make("div", "bar");
    bar.append(this.find, this.domains, this.add);
    this.fault = make("p", "fault");
    this.fault.setAttribute("role", "alert");
    this.columns = columnsOf(kind);
    const table = make("table");
    this.heads = make("tr");
    for (const name of ["name", ...this.columns.map((part) => part.name)]) {
      const cell = make("th", "", title(name.replace(/_name$/, "")));
      cell.scope = "col";
      this.heads.append(cell);
    }
    const top = make("thead");
    top.append(this.heads);
    this.rows = make("tbody");
    table.append(top, this.rows);
    this.frame = make("div", "scroll");
    this.frame.append(table);
    this.count = make("p", "soft");
    this.count.setAttribute("role", "status");
    this.more = button("Show more", () => {
      this.most += PAGE * 4;
      this.refresh();
    });
    this.more.hidden = true;
    this.element.append(this.head, bar, this.fault, this.frame, this.count, this.more);
    this.#readDomains();
  }

  #adder() {
    const { noun, word } = this.kind;
    if (noun === "nodes") return button("Invite a node…", () => invite(mesh, { client: false }), "first");
    if (noun === "enrolments") {
      return button("Invite clients…", () => invite(mesh, { client: true, domain: page.me?.domain_name }).then(() => this.refresh()), "first");
    }
    return button(`Add ${word}`, () => (location.hash = `#/${noun}/new`), "first");
  }

  async #readDomains() {
    if (![...this.kind.parts, ...this.kind.told].some((part) => part.noun === "domains")) return;
    const answer = await ask(mesh, "GET", "/api/v1/domains?limit=1000").catch(() => null);
    const domains = answer?.body.items ?? [];
    names.learn("domains", domains);
    const all = [{ id: "", name: "All domains" }, ...domains.sort((a, b) => a.name.localeCompare(b.name))];
    this.domains.replaceChildren(...all.map(({ id, name }) => Object.assign(make("option", "", name), { value: id })));
    this.domains.hidden = domains.length < 2;
  }

  /** Reads as many as are shown. */
  async refresh() {
    const round = ++this.round;
    const items = [];
    let cursor = null;
    let may = "";
    try {
      do {
        const query = new URLSearchParams({ limit: String(Math.min(1000, this.most - items.length)) });
        if (this.query) query.set("q", this.query);
        if (this.domain) query.set("domain", this.domain);
        if (cursor) query.set("cursor", cursor);
        const answer = await ask(mesh, "GET", `/api/v1/${this.kind.noun}?${query}`);
        items.push(...answer.body.items);
        ({ may } = answer);
        cursor = answer.body.next;
      } while (cursor && items.length < this.most);
    } catch (error) {
      if (round === this.round) set(this.fault, error.message);
      return;
    }
    if (round !== this.round) return; // something else was asked for meanwhile
    set(this.fault, "");
    names.learn(this.kind.noun, items);
    const first = (item) => !(item.conflicts || item.duplicate);
    this.items = items.sort((a, b) => first(a) - first(b) || names.full(a).localeCompare(names.full(b)));
    this.next = cursor;
    this.add.hidden = !may.includes("write");
    this.draw();
  }

  draw() {
    const { noun } = this.kind;
    keyed(
      this.rows,
      this.items,
      (item) => item.id,
      (item) => {
        const row = make("tr");
        const name = make("th");
        name.scope = "row";
        const link = make("a");
        link.href = `#/${noun}/${item.id}`;
        name.append(link, make("span", "marks"));
        row.append(name, ...this.columns.map(() => make("td")));
        return row;
      },
      (row, item) => {
        const [name, ...cells] = row.children;
        set(name.firstChild, item.name || item.id.slice(0, 8));
        const marks = [];
        if (item.disabled) marks.push(["bad", "disabled"]);
        if (item.revoked) marks.push(["bad", "revoked"]);
        if (item.conflicts) marks.push(["warn", "conflict"]);
        if (item.duplicate) marks.push(["warn", "same name"]);
        keyed(name.lastChild, marks, ([, word]) => word, ([look, word]) => make("span", `badge ${look}`, word), () => {});
        this.columns.forEach((part, column) => set(cells[column], brief(part, item[part.name])));
      },
    );
    // What none of them has takes no room.
    this.columns.forEach((part, column) => {
      const empty = this.items.every((item) => !brief(part, item[part.name]));
      for (const row of [this.heads, ...this.rows.children]) row.children[column + 1].hidden = empty;
    });
    this.frame.hidden = this.items.length === 0;
    const number = this.items.length;
    const what = number === 1 ? this.kind.word : noun;
    set(
      this.count,
      number === 0 ? (this.query || this.domain ? `No ${noun} like that.` : `No ${noun}.`)
        : this.next ? `${number} ${what} shown, and there are more: search, or show more.`
        : `${number} ${what}.`,
    );
    this.more.hidden = !this.next;
  }
}

/** What a list shows of each. */
function columnsOf(kind) {
  const told = SEEN.map((name) => kind.told.find((part) => part.name === name)).filter(Boolean);
  const telling = kind.parts.filter((part) => part.noun || part.options || (part.what === "text" && part.name !== "name"));
  const last = telling.filter((part) => part.name === "description");
  const domain = telling.filter((part) => part.name === "domain");
  const rest = telling.filter((part) => ![...last, ...domain].includes(part));
  return [...domain, ...told, ...rest].slice(0, COLUMNS - last.length).concat(last);
}

/** So much of a value as fits a cell. */
function brief(part, value) {
  if (part.name === "expires" && value) return new Date(value).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  if (part.name === "state") return String(value ?? "").replaceAll("_", " ");
  if (!Array.isArray(value)) return shown(part, value, names);
  const some = shown(part, value.slice(0, 3), names);
  return value.length > 3 ? `${some} and ${value.length - 3} more` : some;
}

function show(next) {
  view = next;
  at("view").replaceChildren(view.element);
}

/** Shows what the address says, unless that would lose what somebody typed. */
async function go() {
  if (!schema || location.hash === shownAt && view) return;
  if (view?.dirty) {
    const wanted = location.hash;
    history.replaceState(null, "", shownAt);
    const lose = await question({ title: "Leave without saving?", text: "What you typed is lost.", act: "Leave", danger: true, run: () => true });
    if (!lose) return;
    view.gone = true;
    history.replaceState(null, "", wanted);
  }
  const first = view === null;
  const { noun, id } = route();
  shownAt = location.hash;
  const kind = schema.kind(noun);
  show(id ? new RecordView(page, kind, id === "new" ? null : id) : new List(kind));
  document.title = `${capital(noun)} – Roost`;
  for (const link of at("kinds").children) {
    if (link.dataset.noun === noun) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (id === "new") view.form.focus();
  else if (!first) view.head.focus();
  await view.refresh();
}

/** Learns what there is and who asks; again whenever somebody else signs in. */
async function enter() {
  try {
    schema ??= await Schema.load(mesh);
    page.me = (await ask(mesh, "GET", "/api/v1/me")).body;
  } catch (error) {
    // Without a sign-in there is a form for it in front of this.
    if (error.status !== 401) set(at("trouble"), error.message);
    return false;
  }
  set(at("trouble"), "");
  const nouns = NOUNS.filter((noun) => schema.kind(noun));
  keyed(at("kinds"), nouns, (noun) => noun, (noun) => {
    const link = make("a", "", capital(noun));
    link.href = `#/${noun}`;
    link.dataset.noun = noun;
    return link;
  }, () => {});
  await go();
  return true;
}

addEventListener("hashchange", go);
addEventListener("beforeunload", (event) => {
  if (view?.dirty) event.preventDefault();
});
names.addEventListener("change", () => view?.draw?.());

let entered = false;
mesh.addEventListener("change", () => {
  if (mesh.token !== token) {
    token = mesh.token;
    entered = false;
  }
});
for (;;) {
  if (!document.hidden && !mesh.denied) {
    if (!entered) entered = await enter();
    else await view?.refresh();
  }
  await sleep(LOOK);
}

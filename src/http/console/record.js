// One record: its fields, what is done with it, and who changed it.

import { ask, pathOf } from "./api.js";
import { newKey, newPassword, question } from "./dialogs.js";
import { button, capital, keyed, make, set, time, title } from "./dom.js";
import { Form, shown } from "./form.js";

const HOLD = 2; // nodes that are to have a change on disk before it is called saved

const yes = (value) => (value ? "yes" : "no");
/** What a node sees of a record besides its fields, as people say it. */
const SEEN = new Map([
  ["state", ["State", (value) => value.replaceAll("_", " ")]],
  ["reason", ["Why"]],
  ["revoked", ["Revoked", yes]],
  ["home_name", ["Home"]],
  ["next_name", ["Next"]],
  ["encoders", ["Encoders"]],
  ["viewers", ["Viewers"]],
  ["linked", ["Linked", yes]],
  ["rtt_ms", ["Round trip", (value) => `${value.toFixed(1)} ms`]],
  ["addrs", ["Addresses", (value) => value.join(", ")]],
  ["domain", ["Domain"]],
  ["expires", ["Ends", time]],
]);

/**
 * Shows the record of `kind` with this id, or a new one. `page` has `mesh`, `names`, `me()`,
 * `leave()` and `open(id)`.
 */
export class RecordView {
  constructor(page, kind, id) {
    Object.assign(this, { page, kind, id, tag: null, writing: 0, writes: id === null, gone: false, item: {} });
    this.element = make("article", "record");
    const back = make("a", "back", `← All ${kind.noun}`);
    back.href = `#/${kind.noun}`;
    this.head = make("h2", "", id === null ? `New ${kind.word}` : "…");
    this.head.tabIndex = -1;
    this.badges = make("p", "badges");
    this.news = make("div", "news");
    this.news.setAttribute("role", "status");
    this.away = make("p", "fault"); // why it cannot be read
    this.away.setAttribute("role", "status");
    this.form = new Form(kind, page.names, { settle: (field, value) => this.#settle(field, value), changed: () => this.#changed() });
    this.read = make("dl", "facts");
    this.facts = make("dl", "facts");
    this.seen = make("section", "part");
    this.seen.append(make("h3"), this.facts);
    this.save = make("button", "first", id === null ? `Add ${kind.word}` : "Save");
    this.undo = button("Undo", () => this.form.begin(this.item));
    this.said = make("p", "said");
    this.said.setAttribute("role", "status");
    this.fault = make("p", "fault");
    this.fault.setAttribute("role", "alert");
    const edit = make("form", "edit");
    edit.noValidate = true; // the API says what is wrong, in words
    this.saving = make("div", "acts");
    this.saving.append(this.save, this.undo, this.said);
    edit.append(this.form.element, this.read, this.fault, this.saving);
    edit.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#save();
    });
    this.others = make("div", "acts");
    this.element.append(back, this.head, this.badges, this.away, this.news, edit, this.others, this.seen, this.#keys(), this.#history());
    if (id === null) this.#blank();
  }

  get dirty() {
    return !this.gone && this.form.dirty.size > 0;
  }

  /** Reads what is there; what people typed meets it. */
  async refresh() {
    if (this.id === null || this.gone) return;
    const { writing } = this;
    let answer;
    try {
      answer = await ask(this.page.mesh, "GET", pathOf(this.kind.noun, this.id));
    } catch (error) {
      if (error.status === 404 || error.status === 410) this.#end(error.message);
      else set(this.away, error.message);
      return;
    }
    if (writing !== this.writing) return; // it may be from before the write
    if (this.tag && answer.tag !== this.tag) set(this.said, ""); // it is about what was
    this.#take(answer.body, answer.tag, answer.may.includes("write"));
    set(this.away, answer.stale ? `${this.page.mesh.labelOf(answer.base)} does not have your last change yet.` : "");
  }

  #blank() {
    const { me } = this.page;
    const base = {};
    const part = (name) => this.kind.parts.find((one) => one.name === name);
    if (part("domain") && me?.domain) base.domain = me.domain;
    // As the API takes it: a rule that names no encoders is about all there is.
    if (part("everything")) base.everything = true;
    this.form.begin(base);
    this.form.dirty.clear();
    this.#draw();
  }

  /** Takes what is there now; `own` is what this page just made of it. */
  #take(item, tag, writes, own = false) {
    const first = this.tag === null;
    const other = tag !== this.tag;
    this.item = item;
    this.tag = tag;
    this.writes = writes && this.kind.parts.length > 0;
    this.form.writes = this.writes;
    if (own) {
      // The form has it already.
    } else if (first || (other && !this.form.dirty.size)) {
      this.form.begin(item);
    } else if (other) {
      const fields = this.form.meet(item);
      if (fields.length) this.#tell({ fields, changed: item.changed ?? {} });
    } else {
      this.form.base = item; // what a node sees of it changes without its record
    }
    if (other) this.#readHistory();
    this.#draw();
  }

  /** Again, since names are known that were not. */
  draw() {
    this.form.draw();
    this.#draw();
    if (this.met && this.news.hasChildNodes() && !this.gone) this.#tell(this.met);
  }

  /** Says what somebody else changed under the fingers of whoever types. */
  #tell(met) {
    this.met = met;
    const { fields, changed: { account, node, at } } = met;
    const { names } = this.page;
    const line = make("p", "notice");
    const words = fields.map(title).join(", ");
    line.append("Changed by ", make("strong", "", names.author(account)));
    if (node) line.append(` at ${names.of("nodes", node)}`);
    if (at) line.append(", ", time(at));
    line.append(`: ${words}. What you typed is kept; look, and save again.`);
    this.news.replaceChildren(line);
  }

  #end(words) {
    this.gone = true;
    const line = make("p", "notice bad");
    line.append(make("strong", "", `This ${this.kind.word} is not there any more: `), words);
    this.news.replaceChildren(line);
    this.#draw();
  }

  #draw() {
    const { item, kind, page } = this;
    const { names } = page;
    if (this.id !== null) set(this.head, names.full(item));
    const badges = [];
    if (item.disabled) badges.push(make("span", "badge bad", "disabled"));
    if (Object.keys(item.conflicts ?? {}).length) badges.push(make("span", "badge warn", "conflict"));
    if (item.duplicate) badges.push(make("span", "badge warn", `another ${kind.word} has this name: rename one of them`));
    if (this.id !== null && this.tag && !this.writes) badges.push(make("span", "badge soft", "you may read this, and not change it"));
    const same = badges.map((one) => one.textContent).join() === [...this.badges.children].map((one) => one.textContent).join();
    if (!same) this.badges.replaceChildren(...badges);
    const editable = this.writes;
    this.form.element.hidden = !editable;
    this.saving.hidden = !editable;
    facts(this.read, editable || !this.tag ? [] : kind.parts.map((part) => [title(part.name), shown(part, item[part.name], names)]));
    const seen = [...SEEN].filter(([name]) => kind.told.some((part) => part.name === name) && (item[name] ?? null) !== null);
    const say = (name, words) => words?.(item[name]) ?? shown(kind.told.find((part) => part.name === name), item[name], names);
    facts(this.facts, seen.map(([name, [label, words]]) => [label, say(name, words)]));
    this.seen.hidden = this.facts.hidden;
    set(this.seen.firstChild, kind.noun === "enrolments" ? "What it opens" : `As ${page.mesh.label(page.mesh.self)} sees it`);
    this.#acts();
    const acts = this.gone || this.id === null || !editable ? [] : this.#whatElse();
    keyed(this.others, acts, ([word]) => word, ([word, act, look]) => button(word, act, look), () => {});
    this.keys.hidden = !editable || this.gone || !kind.acts.has("keys") || this.id === null;
    this.past.hidden = this.gone || this.id === null || !this.tag;
  }

  #changed() {
    const [everything, encoders] = ["everything", "encoders"].map((name) => this.form.lines.get(name)?.control);
    // Whoever begins to name encoders of a new rule does not mean everything.
    if (this.id === null && everything && encoders && !this.narrowed && encoders.get().length) {
      this.narrowed = true;
      everything.put(false);
    }
    this.#acts();
  }

  #acts() {
    const { form } = this;
    const open = form.contested.size;
    this.save.disabled = this.gone || open > 0 || (this.id !== null && !form.dirty.size);
    this.said.classList.toggle("soft", form.dirty.size > 0);
    this.undo.hidden = this.gone || this.id === null || !form.dirty.size;
    if (form.dirty.size) set(this.said, open ? "First say above which it is." : "");
  }

  #whatElse() {
    const { item, kind, page } = this;
    const name = page.names.full(item);
    const acts = [];
    if (kind.acts.has("password")) acts.push(["New password…", () => newPassword(page.mesh, this.id, name).then(() => this.refresh())]);
    if (kind.disables && kind.noun !== "nodes") {
      const word = item.disabled ? "Enable" : "Disable";
      acts.push([word, () => this.#switch(!item.disabled), item.disabled ? "" : "danger"]);
    }
    if (kind.acts.has("revocation") && item.revoked) acts.push(["Let in again…", () => this.#readmit(name)]);
    else if (kind.acts.has("revocation") && item.state !== "never_seen") acts.push(["Revoke…", () => this.#revoke(name), "danger"]);
    else acts.push(["Remove…", () => this.#remove(name), "danger"]);
    return acts;
  }

  /** Writes, and waits for a second node to have it, if there is one. */
  async #write(method, id, condition, body, done) {
    const { mesh } = this.page;
    set(this.fault, "");
    set(this.said, "");
    this.writing++;
    try {
      const up = [...mesh.nodes.values()].filter((node) => node.up).length;
      const headers = { ...condition, "roost-wait": String(Math.min(up, HOLD)) };
      const answer = await ask(mesh, method, pathOf(this.kind.noun, id), { body, headers });
      this.writing++;
      await done?.(answer);
      return answer;
    } catch (error) {
      this.#refused(error);
      return null;
    }
  }

  #refused(error) {
    if (error.status === 412 && error.problem.current) {
      this.#take(error.problem.current, error.tag, true);
      if (!this.news.hasChildNodes()) set(this.fault, error.message);
    } else if (error.status === 422 && error.problem.errors) {
      const rest = this.form.blame(error.problem.errors);
      set(this.fault, rest.length ? rest.join("; ") : "Not saved: see what is said at the fields.");
    } else {
      set(this.fault, error.message);
    }
  }

  async #save() {
    const { page, kind, form } = this;
    if (form.contested.size) return;
    const typed = form.body(this.id === null);
    const added = this.id === null;
    const id = this.id ?? crypto.randomUUID().replaceAll("-", "");
    this.save.disabled = true;
    await this.#write(
      added ? "PUT" : "PATCH",
      id,
      added ? { "if-none-match": "*" } : { "if-match": this.tag },
      typed,
      async ({ body, tag, nodes }) => {
        this.news.replaceChildren();
        if (added) {
          form.dirty.clear();
          page.open(id, nodes);
          if (kind.acts.has("password")) await newPassword(page.mesh, id, typed.name);
          return;
        }
        if (!body) return this.#end("It is now where you may not see it.");
        form.sent(typed, body);
        this.#take(body, tag, true, true);
        this.saved(nodes);
      },
    );
    this.#acts();
  }

  /** Says how safe it is. */
  saved(nodes) {
    const alone = this.page.mesh.nodes.size > 1 && nodes < HOLD;
    set(this.said, alone ? "Saved at this node; the others get it once they can be reached." : "Saved.");
  }

  #settle(field, value) {
    return this.#write("PATCH", this.id, { "if-match": this.tag }, { [field]: value ?? null }, ({ body, tag, nodes }) => {
      this.form.sent({ [field]: this.form.lines.get(field).control.get() || null }, body);
      this.#take(body, tag, true, true);
      this.saved(nodes);
      this.head.focus();
    });
  }

  /** Disabling wins over whatever others do; enabling is only of what was seen. */
  async #switch(off) {
    const own = off && this.kind.noun === "accounts" && this.page.me?.id === this.id;
    const text = "This is the account that you are signed in with: you are out at once.";
    if (own && !(await question({ title: "Disable your own account?", text, act: "Disable", danger: true, run: () => true }))) return;
    await this.#write("PATCH", this.id, { "if-match": off ? "*" : this.tag }, { disabled: off }, ({ body, tag, nodes }) => {
      this.form.sent({}, body);
      this.#take(body, tag, true, true);
      this.saved(nodes);
    });
  }

  async #remove(name) {
    const own = this.kind.noun === "accounts" && this.page.me?.id === this.id;
    const done = await question({
      title: `Remove ${this.kind.word} ${name}?`,
      text: `${own ? "This is the account that you are signed in with. " : ""}${capital(this.kind.end)}.`,
      act: "Remove",
      danger: true,
      run: async () => {
        try {
          await ask(this.page.mesh, "DELETE", pathOf(this.kind.noun, this.id), { headers: { "if-match": this.tag } });
        } catch (error) {
          if (error.status === 412) this.#refused(error); // behind this question is what changed
          throw error;
        }
      },
    });
    if (done) this.#leave();
  }

  async #revoke(name) {
    const done = await question({
      title: `Revoke node ${name}?`,
      text: `${capital(this.kind.end)}.`,
      fields: [{ name: "reason", label: "Reason", hint: "For those who come after you" }],
      act: "Revoke",
      danger: true,
      run: ({ reason }) => ask(this.page.mesh, "POST", `${pathOf("nodes", this.id)}/revocation`, { body: reason ? { reason } : {} }),
    });
    if (done) this.#leave();
  }

  async #readmit(name) {
    const done = await question({
      title: `Let node ${name} in again?`,
      text: "For mistakes: a node whose key was stolen needs an empty folder and an invitation.",
      act: "Let in again",
      run: () => ask(this.page.mesh, "DELETE", `${pathOf("nodes", this.id)}/revocation`),
    });
    if (done) await this.refresh();
  }

  #leave() {
    this.gone = true;
    this.page.leave();
  }

  #keys() {
    this.keys = make("section", "part");
    this.keys.hidden = true;
    const list = make("ul", "plain");
    const read = async () => {
      const answer = await ask(this.page.mesh, "GET", `${pathOf("encoders", this.id)}/keys`).catch(() => null);
      const items = answer?.body.items ?? [];
      list.replaceChildren(...items.map((key) => {
        const row = make("li");
        row.append(make("code", "", `${key.prefix}…`), " made ", time(key.made));
        if (key.expires) row.append(", ends ", time(key.expires));
        const end = button("End…", async () => {
          const path = `${pathOf("encoders", this.id)}/keys/${encodeURIComponent(key.prefix)}`;
          const text = "Whoever sends with it is sent away, at every node that hears of it.";
          const run = () => ask(this.page.mesh, "DELETE", path);
          if (await question({ title: `End stream key ${key.prefix}…?`, text, act: "End it", danger: true, run })) await read();
        }, "danger");
        end.setAttribute("aria-label", `End stream key ${key.prefix}`);
        row.append(" ", end);
        return row;
      }));
      if (!items.length) list.replaceChildren(make("li", "soft", "none"));
    };
    this.readKeys = read;
    const more = button("New stream key…", async () => {
      await newKey(this.page.mesh, this.id, this.page.names.full(this.item));
      await read();
    });
    this.keys.append(make("h3", "", "Stream keys"), list, more);
    return this.keys;
  }

  #history() {
    this.past = make("details", "part");
    this.past.append(make("summary", "", "History"));
    const list = make("ol", "plain");
    this.past.append(list);
    const read = async () => {
      if (!this.past.open) return;
      const { mesh, names } = this.page;
      let items;
      try {
        items = (await ask(mesh, "GET", `${pathOf(this.kind.noun, this.id)}/history`)).body.items;
      } catch (error) {
        list.replaceChildren(make("li", "soft", error.message));
        return;
      }
      list.replaceChildren(...items.map((entry) => {
        const row = make("li", entry.void ? "void" : "");
        const who = entry.account_name ?? names.author(entry.account);
        row.append(time(entry.at), " ", make("strong", "", who), ` at ${entry.node_name ?? entry.node.slice(0, 8)}: ${entry.what.join(", ")}`);
        if (entry.void) row.append(" – does not count: this node was revoked");
        return row;
      }));
      if (!items.length) list.replaceChildren(make("li", "soft", "nobody changed it yet"));
    };
    this.past.addEventListener("toggle", read);
    this.readHistory = read;
    return this.past;
  }

  #readHistory() {
    this.readHistory?.();
    if (this.kind.acts.has("keys") && this.writes) this.readKeys?.();
  }
}

/** Names and values, of what has one. */
function facts(list, rows) {
  const said = rows.filter(([, value]) => value !== "");
  list.hidden = said.length === 0;
  keyed(
    list,
    said,
    ([name]) => name,
    ([name]) => {
      const row = make("div");
      row.append(make("dt", "", name), make("dd"));
      return row;
    },
    (row, [, value]) => {
      const text = typeof value === "string" ? value : value.textContent;
      if (row.lastChild.textContent !== text) row.lastChild.replaceChildren(value);
    },
  );
}

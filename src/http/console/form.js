// The fields of a record: what people type, kept apart from what is there, so that neither is lost
// when both change.

import { button, capital, make, set, time, title } from "./dom.js";

const LINE_MAX = 300; // characters that fit a line; what may be longer gets a box
const FOR_PEOPLE = "for people"; // says no more than the name of the field
const TYPED = 150; // ms after the last key until names are looked for

/** What is the same to people: nothing at all, an empty text, and a list in another order. */
export function same(a, b) {
  const plain = (value) => (Array.isArray(value) ? [...value].sort() : value);
  const empty = (value) => value === undefined || value === null || value === "" || value === false || value?.length === 0;
  return (empty(a) && empty(b)) || JSON.stringify(plain(a)) === JSON.stringify(plain(b));
}

/** A value, for reading. */
export function shown(part, value, names) {
  const text = (one) => (part.noun ? names.of(part.noun, one) : String(one));
  if (Array.isArray(value)) return value.map(text).join(", ");
  if (part.what === "flag") return value ? "yes" : "no";
  if (value === undefined || value === null || value === "") return "";
  return text(value);
}

/** An input that finds records by name. `onPick` is told of a choice. */
function finder(part, names, id, onPick) {
  const input = make("input");
  const list = make("datalist");
  list.id = `${id}-names`;
  Object.assign(input, { id, type: "text", autocomplete: "off", spellcheck: false });
  input.setAttribute("list", list.id);
  let timer = null;
  const look = async () => {
    const found = await names.suggest(part.noun, input.value.trim()).catch(() => []);
    list.replaceChildren(...found.map(({ text }) => Object.assign(make("option"), { value: text })));
  };
  input.addEventListener("focus", look);
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(look, TYPED);
    if ([...list.children].some((option) => option.value === input.value)) onPick?.();
  });
  return { input, list };
}

/** A list of words or names with a way to add one and to take one away. */
function chips(part, names, id, changed) {
  const element = make("div", "chips");
  const list = make("ul");
  list.setAttribute("aria-label", `Chosen ${part.name}`);
  let values = [];
  const label = (value) => shown({ ...part, set: false }, value, names);
  const draw = () => {
    list.replaceChildren(...values.map((value) => {
      const item = make("li", "chip", label(value));
      const away = button("×", () => {
        values = values.filter((other) => other !== value);
        draw();
        changed();
        input.focus();
      });
      away.setAttribute("aria-label", `Take ${label(value)} away`);
      item.append(away);
      return item;
    }));
    list.hidden = values.length === 0;
  };
  const take = () => {
    const text = input.value.trim();
    if (!text) return;
    const value = (part.noun && names.idOf(part.noun, text)) ?? text;
    if (!values.includes(value || text)) values = [...values, value || text];
    input.value = "";
    draw();
    changed();
  };
  let input;
  const extra = [];
  if (part.noun) {
    const found = finder(part, names, id, take);
    input = found.input;
    extra.push(found.list);
  } else {
    input = Object.assign(make("input"), { id, type: "text", autocomplete: "off" });
  }
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter") {
      event.preventDefault();
      take();
    }
  });
  input.addEventListener("change", take); // whoever goes on to the next field meant it
  const row = make("div", "row");
  const more = button("Add", () => {
    take();
    input.focus();
  });
  more.setAttribute("aria-label", `Add to ${title(part.name)}`);
  row.append(input, more);
  element.append(list, row, ...extra);
  return {
    element,
    input,
    draw,
    get: () => values,
    put: (value) => {
      values = value ?? [];
      draw();
    },
  };
}

function control(part, names, id, changed) {
  if (part.set) return chips(part, names, id, changed);
  if (part.noun) {
    const { input, list } = finder(part, names, id, changed);
    const element = make("div");
    element.append(input, list);
    let value = null; // what `input` stands for
    const draw = () => {
      if (document.activeElement !== input && value) input.value = names.of(part.noun, value);
    };
    input.addEventListener("input", () => {
      value = null;
      changed();
    });
    return {
      element,
      input,
      draw,
      get: () => value ?? (input.value.trim() && (names.idOf(part.noun, input.value.trim()) ?? input.value.trim())),
      put: (next) => {
        value = next || null;
        input.value = value ? names.of(part.noun, value) : "";
      },
    };
  }
  let input;
  if (part.options) {
    input = make("select");
    const options = part.required ? part.options : ["", ...part.options];
    for (const option of options) input.append(Object.assign(make("option", "", option || "–"), { value: option }));
  } else if (part.what === "text" && part.max > LINE_MAX) {
    input = make("textarea");
    input.rows = 2;
  } else {
    input = make("input");
    input.type = { flag: "checkbox", number: "number" }[part.what] ?? "text";
    if (part.name === "email") input.type = "email";
    input.autocomplete = "off";
  }
  input.id = id;
  if (part.name === "name") input.spellcheck = false;
  if (part.required) input.required = true;
  input.addEventListener("input", changed);
  const plain = { element: input, input, get: () => input.value, put: (value) => (input.value = value ?? "") };
  if (part.what === "flag") return { ...plain, get: () => input.checked, put: (value) => (input.checked = value === true) };
  if (part.what === "number") {
    return { ...plain, get: () => (input.value === "" ? null : Number(input.value)) };
  }
  return plain;
}

/** One field with its name, what it is, what is wrong with it, and what others made of it. */
class Line {
  constructor(part, form) {
    Object.assign(this, { part, form });
    const id = `field-${part.name}`;
    this.element = make("div", `field ${part.what === "flag" ? "flag" : ""}`);
    this.element.dataset.field = part.name;
    this.control = control(part, form.names, id, () => form.touched(part.name));
    const label = make("label", "", title(part.name));
    label.htmlFor = id;
    const about = make("p", "about", part.about === FOR_PEOPLE ? "" : capital(part.about));
    about.id = `${id}-about`;
    this.fault = make("p", "fault");
    this.fault.id = `${id}-fault`;
    this.fault.setAttribute("role", "alert");
    this.control.input.setAttribute("aria-describedby", `${about.id} ${this.fault.id}`);
    this.sides = make("div", "sides");
    this.sides.hidden = true;
    this.element.append(label, this.control.element, about, this.fault, this.sides);
  }

  say(text) {
    set(this.fault, capital(text));
    this.control.input.setAttribute("aria-invalid", String(Boolean(text)));
  }
}

/**
 * The fields of one record. `base` is what was read; what people typed is what differs from it.
 * `settle(field, value)` writes one of several values.
 */
export class Form {
  constructor(kind, names, { settle, changed }) {
    Object.assign(this, { kind, names, settle, changed });
    this.element = make("div", "fields");
    this.base = {};
    this.dirty = new Set();
    this.contested = new Map(); // field -> who else changed it
    this.lines = new Map(kind.parts.map((part) => [part.name, new Line(part, this)]));
    for (const line of this.lines.values()) this.element.append(line.element);
    this.writes = true;
  }

  touched(field) {
    const line = this.lines.get(field);
    const differs = !same(line.control.get(), this.base[field]);
    if (differs) this.dirty.add(field);
    else this.dirty.delete(field);
    if (!differs) this.contested.delete(field);
    line.element.classList.toggle("dirty", differs);
    line.say("");
    this.#sides(field);
    this.changed();
  }

  /** What was read, before anybody typed. */
  begin(base) {
    this.base = base;
    this.dirty.clear();
    this.contested.clear();
    for (const [field, line] of this.lines) {
      line.control.put(base[field]);
      line.element.classList.remove("dirty");
      line.say("");
      this.#sides(field);
    }
    this.changed();
  }

  /**
   * What is there now, while somebody types: what they left alone follows it, what they typed
   * stays. Fields that both changed are asked about. Tells what others changed.
   */
  meet(current) {
    const news = [];
    for (const [field, line] of this.lines) {
      const before = this.base[field];
      const now = current[field];
      if (!same(before, now)) {
        news.push(field);
        if (!this.dirty.has(field)) line.control.put(now);
        else if (line.part.set) line.control.put(bothOf(before ?? [], now ?? [], line.control.get()));
        else if (!same(now, line.control.get())) this.contested.set(field, current.changed ?? {});
      }
    }
    this.base = current;
    for (const [field, line] of this.lines) {
      if (this.dirty.has(field) && same(line.control.get(), current[field])) {
        this.dirty.delete(field);
        this.contested.delete(field);
      }
      line.element.classList.toggle("dirty", this.dirty.has(field));
      this.#sides(field);
    }
    this.changed();
    return news;
  }

  /** What was sent is there now, as `current`; what was typed since then is not sent yet. */
  sent(body, current) {
    this.base = current;
    for (const [field, line] of this.lines) {
      const since = this.dirty.has(field) && !(field in body && same(line.control.get() || null, body[field]));
      if (!since) {
        this.dirty.delete(field);
        line.control.put(current[field]);
      }
      line.element.classList.toggle("dirty", since);
      line.say("");
      this.#sides(field);
    }
    this.changed();
  }

  /** What was typed, for a PATCH; or all that has a value, for something new. */
  body(whole = false) {
    const fields = whole ? [...this.lines.keys()] : [...this.dirty];
    const out = {};
    for (const field of fields) {
      const value = this.lines.get(field).control.get();
      const empty = value === "" || value === null || value?.length === 0;
      if (!whole) out[field] = value === "" && !this.lines.get(field).part.required ? null : value;
      else if (!empty && (value !== false || this.base[field] === true)) out[field] = value;
    }
    return out;
  }

  /** Shows what the API finds wrong, where it is; what is left over is returned. */
  blame(errors) {
    const rest = [];
    let first = null;
    for (const { pointer, detail } of errors) {
      const [, field, at] = pointer.split("/");
      const line = this.lines.get(field);
      if (!line) {
        rest.push(`${title(field ?? "")}: ${detail}`);
        continue;
      }
      const element = at === undefined ? null : line.control.get()[Number(at)];
      const about = element ? `${shown({ ...line.part, set: false }, element, this.names)}: ` : "";
      line.say(`${about}${detail}`);
      first ??= line.control.input;
    }
    first?.focus();
    return rest;
  }

  /** Again, since names are known that were not. */
  draw() {
    for (const [field, line] of this.lines) {
      line.control.draw?.();
      this.#sides(field);
    }
  }

  focus() {
    this.lines.values().next().value?.control.input.focus();
  }

  /** What others made of a field, side by side, and a way to say which it is. */
  #sides(field) {
    const line = this.lines.get(field);
    const siblings = this.base.conflicts?.[field] ?? [];
    const rival = this.contested.get(field);
    const rows = [];
    if (rival) {
      rows.push(make("p", "lead", "Changed by somebody else while you typed. Which is it?"));
      const mine = line.control.get();
      rows.push(this.#side(line.part, mine, "you, not saved yet", "Keep mine", () => {
        this.contested.delete(field);
        this.#sides(field);
        this.changed();
        line.control.input.focus();
      }));
      rows.push(this.#side(line.part, this.base[field], this.#by(rival), "Take this", () => {
        line.control.put(this.base[field]);
        this.touched(field);
        line.control.input.focus();
      }));
    } else if (siblings.length > 1) {
      rows.push(make("p", "lead", "Changed on two sides at once. Which is it?"));
      for (const sibling of siblings) {
        rows.push(this.#side(line.part, sibling.value, this.#by(sibling), "Keep this", () => this.settle(field, sibling.value)));
      }
    }
    line.sides.hidden = rows.length === 0;
    line.sides.replaceChildren(...rows);
  }

  #side(part, value, by, word, act) {
    const row = make("div", "side");
    const text = shown(part, value, this.names) || "nothing";
    const what = make("p");
    what.append(make("strong", "", text), " ", typeof by === "string" ? make("span", "by", by) : by);
    row.append(what);
    const choose = button(word, act);
    choose.setAttribute("aria-label", `${word}: ${text}`);
    if (this.writes) row.append(choose);
    return row;
  }

  #by({ account, node, at }) {
    const element = make("span", "by");
    element.append(`by ${this.names.author(account)}`);
    if (node) element.append(` at ${this.names.of("nodes", node)}`);
    if (at) element.append(", ", time(at));
    return element;
  }
}

/** A list with what they added, without what they took away: nobody's change undoes another's. */
function bothOf(before, now, mine) {
  const added = now.filter((one) => !before.includes(one));
  const gone = before.filter((one) => !now.includes(one));
  return [...new Set([...mine, ...added])].filter((one) => !gone.includes(one));
}

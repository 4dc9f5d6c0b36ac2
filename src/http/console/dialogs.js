// Questions before something is done, and secrets that are shown once.

import { ask, pathOf } from "./api.js";
import { button, make, set } from "./dom.js";

let count = 0;

function frame(title, text) {
  const dialog = make("dialog", "ask");
  const form = make("form");
  const head = make("h2", "", title);
  head.id = `ask-${++count}`;
  dialog.setAttribute("aria-labelledby", head.id);
  form.append(head);
  if (text) form.append(make("p", "text", text));
  dialog.append(form);
  document.body.append(dialog);
  return { dialog, form };
}

/**
 * Asks before `run(values)` is done, and again if that is refused. What `run` gave, or null if
 * people thought better of it. `fields`: { name, label, value, options, type, hint }.
 */
export function question({ title, text, fields = [], act, danger = false, run }) {
  return new Promise((resolve) => {
    const { dialog, form } = frame(title, text);
    const inputs = new Map();
    for (const field of fields) {
      const label = make("label", "", field.label);
      const input = make(field.options ? "select" : "input");
      for (const [value, words] of field.options ?? []) input.append(Object.assign(make("option", "", words), { value }));
      if (!field.options) Object.assign(input, { type: field.type ?? "text", autocomplete: "off", spellcheck: false });
      input.value = field.value ?? "";
      input.name = field.name;
      label.append(input);
      if (field.hint) label.append(make("span", "about", field.hint));
      form.append(label);
      inputs.set(field.name, input);
    }
    const why = make("p");
    why.setAttribute("role", "alert");
    const go = make("button", danger ? "danger" : "first", act);
    const row = make("div", "acts");
    row.append(button("Cancel", () => dialog.close()), go);
    form.append(why, row);
    let result = null;
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      go.disabled = true;
      set(why, "");
      try {
        result = (await run(Object.fromEntries([...inputs].map(([name, input]) => [name, input.value])))) ?? true;
        dialog.close();
      } catch (error) {
        set(why, error.message);
      }
      go.disabled = false;
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(result);
    });
    dialog.showModal();
  });
}

async function copy(input) {
  try {
    await navigator.clipboard.writeText(input.value);
  } catch {
    input.select(); // no clipboard for this page: the old way
    return document.execCommand("copy");
  }
  return true;
}

/** Shows a secret, this once. */
function once(title, text, secret) {
  return new Promise((resolve) => {
    const { dialog, form } = frame(title, text);
    const input = Object.assign(make("textarea", "secret"), { value: secret, readOnly: true, rows: secret.length > 60 ? 6 : 1 });
    input.setAttribute("aria-label", "Shown this once");
    input.addEventListener("focus", () => input.select());
    const said = make("p", "good");
    said.setAttribute("role", "status");
    const row = make("div", "acts");
    const take = button("Copy", async () => set(said, (await copy(input)) ? "Copied." : "It is selected: copy it by hand."), "first");
    row.append(button("Done", () => dialog.close()), take);
    form.append(input, said, row);
    form.addEventListener("submit", (event) => event.preventDefault());
    dialog.addEventListener("close", () => {
      input.value = "";
      dialog.remove();
      resolve();
    });
    dialog.showModal();
    take.focus();
  });
}

/** Four groups of five letters and digits that nobody takes for one another: 98 bits. */
function draw() {
  const letters = "abcdefghjkmnpqrstuvwxyz23456789";
  const out = [];
  while (out.length < 20) {
    // What is beyond the last whole number of alphabets is left out: all are as likely.
    for (const byte of crypto.getRandomValues(new Uint8Array(32))) {
      if (byte < 248 && out.length < 20) out.push(letters[byte % letters.length]);
    }
  }
  return out.join("").match(/.{5}/g).join("-");
}

/** Gives an account a password. */
export async function newPassword(mesh, id, name) {
  const done = await question({
    title: `Password of ${name}`,
    text: "All sign-ins with the one before end, at every node that hears of it.",
    fields: [{ name: "password", label: "New password", value: draw(), hint: "Drawn at random; or type one of at least 10 characters" }],
    act: "Set password",
    run: async ({ password }) => {
      await ask(mesh, "PUT", `${pathOf("accounts", id)}/password`, { body: { password } });
      return { password };
    },
  });
  if (done) await once(`Password of ${name} is set`, "Give it to whom it is for: it is shown this once.", done.password);
  return done !== null;
}

/** Makes a stream key for an encoder. */
export async function newKey(mesh, id, name) {
  const done = await question({
    title: `New stream key of ${name}`,
    fields: [{
      name: "overlap",
      label: "Keys before it",
      value: "86400",
      options: [["86400", "stay good for a day"], ["3600", "stay good for an hour"], ["0", "end at once"], ["", "stay as they are"]],
    }],
    act: "Make key",
    run: async ({ overlap }) => {
      const body = { overlap_s: overlap === "" ? null : Number(overlap) };
      return (await ask(mesh, "POST", `${pathOf("encoders", id)}/keys`, { body, once: true })).body;
    },
  });
  if (done) await once(`Stream key of ${name}`, "Put it into the camera or its program now: it is shown this once.", done.key);
  return done !== null;
}

const TIMES = [["3600", "for an hour"], ["86400", "for a day"], ["604800", "for a week"], ["2592000", "for 30 days"]];

/** Makes a string by which nodes, or clients of a domain, come in. */
export async function invite(mesh, { client, domain }) {
  const fields = [{ name: "expires", label: "It is good", value: client ? "2592000" : "3600", options: TIMES }];
  if (client) fields.unshift({ name: "domain", label: "Domain", value: domain ?? "default" });
  else fields.push({ name: "uses", label: "For how many nodes", value: "1", type: "number" });
  const done = await question({
    title: client ? "Invite clients" : "Invite a node",
    text: client ? "Whoever has the string may watch and send in the domain." : "Whoever has the string may add a node to this mesh.",
    fields,
    act: "Make string",
    run: async ({ expires, uses, domain: where }) => {
      const body = { client, expires_s: Number(expires), ...(client ? { domain: where } : { uses: Number(uses) }) };
      return (await ask(mesh, "POST", "/api/v1/invitations", { body, once: true })).body;
    },
  });
  if (!done) return null;
  const text = client ? "For --addr of an encoder or a viewer; it is shown this once." : "On the new machine: roost node --join STRING. It is shown this once.";
  await once(client ? "Enrolment string" : "Invitation", text, done.invitation);
  return done;
}

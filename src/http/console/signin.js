// The way in: a name and a password, for which any node gives a token that every node knows.

import { ask } from "./api.js";
import { keepSession, session } from "./mesh.js";

function field(label, name, type, autocomplete) {
  const wrap = document.createElement("label");
  const input = document.createElement("input");
  Object.assign(input, { name, type, autocomplete, required: true });
  wrap.append(label, input);
  return wrap;
}

/** Shows the form whenever nodes let this page in no more, and lets it in again. */
export function signIn(mesh) {
  const dialog = document.createElement("dialog");
  dialog.className = "ask";
  dialog.setAttribute("aria-labelledby", "sign-in-title");
  const form = document.createElement("form");
  const title = document.createElement("h2");
  title.id = "sign-in-title";
  title.textContent = "Sign in";
  const why = document.createElement("p");
  why.setAttribute("role", "status");
  const button = document.createElement("button");
  button.textContent = "Sign in";
  const name = field("Name", "name", "text", "username");
  const password = field("Password", "password", "password", "current-password");
  form.append(title, why, name, password, button);
  dialog.append(form);
  document.body.append(dialog);

  const input = (label) => label.querySelector("input");
  dialog.addEventListener("cancel", (event) => event.preventDefault()); // there is nothing behind it
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    why.textContent = "";
    try {
      const body = { name: input(name).value.trim(), password: input(password).value };
      const { body: answer } = await ask(mesh, "POST", "/api/v1/login", { body });
      keepSession(answer);
      mesh.enter(answer.token);
      dialog.close();
    } catch (error) {
      why.textContent = error.message;
      input(password).focus();
    }
    input(password).value = "";
    button.disabled = false;
  });
  mesh.addEventListener("change", () => {
    if (mesh.denied && !dialog.open) {
      const before = session();
      why.textContent = before ? "The last sign-in is over." : "";
      if (before) input(name).value = [before.domain_name, before.name].filter(Boolean).join("/");
      dialog.showModal();
    } else if (!mesh.denied && mesh.live && dialog.open) {
      dialog.close(); // in another tab, or the node is open again
    }
  });
}

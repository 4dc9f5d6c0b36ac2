// The head of every page of the console: where one is, and who.

import { set } from "./dom.js";
import { keepSession, session } from "./mesh.js";

const at = (id) => document.getElementById(id);

/** Keeps it right. */
export function header(mesh) {
  for (const link of document.querySelectorAll("header nav a")) link.href += location.search;
  at("sign-out").addEventListener("click", () => {
    keepSession(null);
    location.reload();
  });
  const show = () => {
    const me = session();
    // Nothing if the page needs no sign-in, or has its credential in the address.
    const shown = Boolean(me && me.token === mesh.token);
    at("me").hidden = !shown;
    if (shown) set(at("me-name"), [me.domain_name, me.name].filter(Boolean).join("/"));
    set(
      at("self"),
      mesh.refusal ? mesh.refusal
        : mesh.live ? `You are on ${mesh.label(mesh.self)}.`
        : "Looking for a node that answers…",
    );
  };
  mesh.addEventListener("change", show);
  show();
}

// What every page needs to make and change elements.

/** A new element. */
export function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

/** A button that does something. */
export function button(text, act, className) {
  const element = make("button", className, text);
  element.type = "button";
  element.addEventListener("click", act);
  return element;
}

/** Changes a text only if it is another: what did not change is not read out again. */
export const set = (element, text) => {
  if (element.textContent !== text) element.textContent = text;
};

/** Makes the children of `parent` match `items`, keeping elements by key. */
export function keyed(parent, items, key, create, update) {
  const have = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let position = null;
  for (const item of items) {
    const name = key(item);
    let child = have.get(name);
    have.delete(name);
    if (!child) {
      child = create(item);
      child.dataset.key = name;
    }
    update(child, item);
    const next = position ? position.nextSibling : parent.firstChild;
    if (next !== child) parent.insertBefore(child, next);
    position = child;
  }
  for (const child of have.values()) child.remove();
}

/** A moment, in ms since 1970, as people here write it. */
export function time(ms) {
  const element = make("time");
  const date = new Date(ms);
  if (Number.isNaN(date.getTime())) return make("span", "", "at no known time");
  element.dateTime = date.toISOString();
  element.textContent = date.toLocaleString([], { dateStyle: "medium", timeStyle: "medium" });
  return element;
}

/** The first letter large. */
export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** A field's name, as people read it. */
export const title = (name) => capital(name.replaceAll("_", " "));

// One picture with its words: used by the player page, the wall and the demo.

import { make, set } from "./dom.js";
import { Player } from "./player.js";

export const players = (window.roost ??= { players: {} }).players;

/** A figure that shows stream `name`; `close()` ends it. */
export function makeTile(mesh, name, { link = false } = {}) {
  const element = make("figure", "tile");
  const video = make("video");
  video.setAttribute("aria-label", `Live picture of ${name}`);
  const words = make("p", "words");
  words.setAttribute("role", "status");
  const caption = make("figcaption");
  const title = link ? make("a", "name", name) : make("span", "name", name);
  if (link) title.href = `/watch/${encodeURIComponent(name)}${location.search}`;
  const news = make("span", "news");
  const via = make("span", "via");
  caption.append(title, via, news);
  element.append(video, words, caption);

  const player = new Player(video, mesh, name).start();
  players[name] = player;
  const refresh = () => {
    const text = player.words;
    set(words, text ?? "");
    words.hidden = text === null;
    element.classList.toggle("troubled", text !== null);
    const moving = player.stats.frames > 0 && player.stalledAt !== null;
    element.classList.toggle("moving", moving);
    const short = moving ? "no picture, moving…" : player.news ?? "";
    set(news, text === null ? short : "");
    set(via, text === null && player.stats.via ? `via ${player.stats.via}` : "");
  };
  refresh();
  const timer = setInterval(refresh, 100);
  return {
    element,
    player,
    close() {
      clearInterval(timer);
      player.close();
      delete players[name];
      element.remove();
    },
  };
}

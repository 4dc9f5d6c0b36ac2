import { Mesh } from "./mesh.js";
import { signIn } from "./signin.js";
import { makeTile } from "./tile.js";

const name = decodeURIComponent(location.pathname.split("/").at(-1));
document.title = `${name} – Roost`;
const mesh = new Mesh({ stream: name }).start();
signIn(mesh);
const tile = makeTile(mesh, name);
document.querySelector("main").append(tile.element);
Object.assign(window.roost, { mesh, player: tile.player, stats: tile.player.stats });

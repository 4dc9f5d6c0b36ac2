// Keeps one picture moving in one <video>: a leg to the stream's home, a silent one to its next.
//
// The picture itself is watched. When it stalls for longer than frames ever take, the other leg
// is told to play, and whoever delivers a frame first is shown. A false alarm costs a few packets.

import { backoff, sleep } from "./mesh.js";
import { Leg, Refused, post } from "./leg.js";

const FLOOR = 100; // ms: the shortest stall that counts, whatever the frame rate
const INTERVALS = 2.5; // frame intervals that make a stall
const JITTER = 1.5; // times the longest interval seen lately that is no stall either
const UNKNOWN = 400; // ms: the least threshold until the frame rate is known
const KNOWN = 8; // frame intervals by which the frame rate is known
const MEMORY = 60; // frame intervals remembered
const LONGEST = 5000; // ms: what is longer is no interval between frames, but a pause
const CATCH = 50; // ms by which, and twice, the sender's clock runs ahead when frames are left out
const LATE = 1000; // ms that the network delays a frame at most; what is longer is an outage
const HIDDEN = 3000; // ms: the least threshold of a hidden page, which may look once a second
const TICK = 10; // ms between looks at the legs
const ASLEEP = 60; // ms between two looks that mean that the page itself stood still
const AWAKE = 50; // ms it then has to show the frames that came meanwhile
const LOST = 1500; // ms of stall after which legs are made anew over HTTP, too
const ALONE = 300; // the same if no leg stands by
const CONNECT = 2000; // ms a new leg has to connect
const FIRST_FRAME = 4000; // ms a connected leg has to show a frame
const LOOK = 500; // ms between looks for a silent leg, while there is none
const SETTLE = 300; // ms a new home must stand before a healthy picture moves there
const CATCH_UP = 400; // ms a leg plays unseen before a healthy picture moves there: it begins in the past
const BEHIND = 2000; // ms it plays unseen at most while it is behind what is shown
const SHUN = 3000; // ms that a node that just failed is not turned to
const HEDGE = 700; // ms until the next node is asked, too, while one has not answered
const ANNOUNCE = 8000; // ms that a healed failure is shown

export class Player extends EventTarget {
  constructor(video, mesh, name) {
    super();
    this.video = video;
    this.mesh = mesh;
    this.name = name;
    this.stream = new MediaStream();
    this.active = null;
    this.standby = null;
    this.contenders = new Set();
    this.retired = null;
    this.intervals = [];
    this.patience = UNKNOWN;
    this.stamp = null;
    this.shownAt = null;
    this.swappedAt = 0;
    this.lookedAt = 0;
    this.tickedAt = 0;
    this.wokeAt = 0;
    this.visibleAt = 0;
    this.stalledAt = null;
    this.shunned = new Map();
    this.epoch = 0;
    this.preparing = false;
    this.connecting = false;
    this.moveAt = null;
    this.announced = null;
    this.closed = false;
    this.trouble = "Connecting…";
    this.trying = null;
    this.again = null;
    const via = () => (this.active ? this.mesh.label(this.active.node) : null);
    this.stats = {
      frames: 0, swaps: 0, falseAlarms: 0, gaps: [], threshold: UNKNOWN, firstFrame: null,
      get via() {
        return via();
      },
    };
    this.began = performance.now();
  }

  start() {
    const { video } = this;
    video.muted = true;
    video.autoplay = true;
    video.playsInline = true;
    this.#watchFrames();
    this.onChange = () => this.#reconcile();
    this.mesh.addEventListener("change", this.onChange);
    this.onVisible = () => (this.visibleAt = performance.now());
    document.addEventListener("visibilitychange", this.onVisible);
    this.timer = setInterval(() => this.#tick(), TICK);
    this.#connect();
    return this;
  }

  close() {
    this.closed = true;
    clearInterval(this.timer);
    clearTimeout(this.again);
    this.mesh.removeEventListener("change", this.onChange);
    document.removeEventListener("visibilitychange", this.onVisible);
    for (const leg of [this.active, this.standby, this.retired, ...this.contenders]) leg?.close();
  }

  /** What to say over the picture, or null when it moves. */
  get words() {
    const { place } = this;
    if (place?.state === "native_only") return place.reason ?? "Browsers cannot play this stream.";
    const moving = this.shownAt !== null && this.stalledAt === null;
    if (moving) return null;
    if (this.mesh.refusal) return this.mesh.refusal;
    if (this.mesh.live && place?.state === "unknown") return `No stream is called “${this.name}”.`;
    if (place?.state === "no_signal") return `No signal: ${place.reason ?? "the source gives no picture"}`;
    const long = this.stalledAt !== null && performance.now() - this.stalledAt > 700;
    if (this.stalledAt !== null && !long) return null;
    if (this.trying) return `Trying ${this.trying}…`;
    if (place?.state === "lost") return "Nobody is live: waiting for the encoder to come back…";
    return this.trouble;
  }

  /** What to say of a failure that was just healed, or null. */
  get news() {
    return this.announced && performance.now() < this.announced.until ? this.announced.text : null;
  }

  get place() {
    return this.mesh.place(this.name);
  }

  get threshold() {
    const sorted = [...this.intervals].sort((a, b) => a - b);
    const median = sorted[sorted.length >> 1] ?? 0;
    const high = sorted[Math.floor(sorted.length * 0.97)] ?? 0;
    const least = Math.max(this.known ? FLOOR : this.patience, document.hidden ? HIDDEN : 0);
    return Math.max(least, INTERVALS * median, JITTER * high);
  }

  /** Whether the frame rate is. */
  get known() {
    return this.intervals.length >= KNOWN;
  }

  #emit(type, detail = {}) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
    window.dispatchEvent(new CustomEvent("roost", { detail: { type, stream: this.name, ...detail } }));
  }

  // -- the picture --

  #watchFrames() {
    const frame = (now, { rtpTimestamp }) => {
      if (this.closed) return;
      this.#shown(now, rtpTimestamp);
      this.video.requestVideoFrameCallback(frame);
    };
    this.video.requestVideoFrameCallback(frame);
  }

  #shown(now, stamp = null) {
    const before = this.shownAt;
    const sent = this.stamp !== null && stamp !== null ? ((stamp - this.stamp) >>> 0) / 90 : null;
    this.stamp = stamp;
    this.shownAt = now;
    this.stats.frames++;
    this.trying = null;
    if (this.stats.firstFrame === null) {
      this.stats.firstFrame = now - this.began;
      this.#emit("first", { ms: this.stats.firstFrame });
    }
    if (this.healing) {
      const { from, to, since } = this.healing;
      this.healing = null;
      const ms = Math.round(now - since);
      this.stats.gaps.push({ ms, from, to, at: Date.now() });
      const text = `${this.mesh.label(from)} → ${this.mesh.label(to)}: ${ms} ms without a picture`;
      this.announced = { text, until: now + ANNOUNCE };
      this.#emit("gap", { ms, from: this.mesh.label(from), to: this.mesh.label(to) });
      // What was lost is no interval, but better than nothing.
      if (!this.known) this.#learn(Infinity, sent);
    } else if (before !== null) this.#learn(now - before, sent);
    if (this.stalledAt !== null) this.#recovered();
  }

  /** Takes what lay between two frames, here and by the sender's clock: they may come in a burst. */
  #learn(passed, sent) {
    if (document.hidden) return; // not every frame is seen
    const told = sent !== null && sent > 0 && sent <= LONGEST;
    if (told && sent > 2 * passed + CATCH) return; // catching up with the present
    const here = passed <= (told ? LATE : LONGEST) ? passed : 0;
    const interval = Math.max(told ? sent : 0, here);
    if (interval === 0) return;
    this.intervals.push(interval);
    if (this.intervals.length > MEMORY) this.intervals.shift();
    this.stats.threshold = this.threshold;
  }

  #recovered() {
    this.stalledAt = null;
    this.stats.falseAlarms++;
    for (const leg of this.contenders) this.#standDown(leg);
    this.contenders.clear();
    this.#emit("false-alarm");
    this.#reconcile();
  }

  #standDown(leg) {
    leg.stop();
    if (leg !== this.standby) leg.close();
  }

  #tick() {
    const now = performance.now();
    if (document.hidden && this.active?.hasNewFrame()) this.#shown(now); // no callbacks there
    for (const leg of this.contenders) {
      if (leg.closed) this.contenders.delete(leg);
      else if (leg.hasNewFrame()) {
        leg.playsSince ??= now;
        const healthy = this.active && !this.active.closed && this.stalledAt === null;
        if (!healthy || this.#caughtUp(leg, now - leg.playsSince)) return this.#swap(leg);
      }
    }
    // The timers of a hidden page are slow: that is no sleep.
    if (now - this.tickedAt > ASLEEP && !document.hidden) this.wokeAt = now;
    this.tickedAt = now;
    const since = Math.max(this.shownAt ?? now, this.swappedAt, this.visibleAt);
    const stands = now - since > this.threshold && now - this.wokeAt > AWAKE;
    if (this.active && this.stalledAt === null && stands) {
      this.stalledAt = this.shownAt ?? since;
      // With a slow camera every frame may come after the alarm: the next one waits longer.
      if (!this.known) this.patience = Math.min(2 * this.patience, LONGEST);
      this.#emit("stall", { threshold: Math.round(this.threshold) });
    }
    if (this.stalledAt !== null) {
      const { standby } = this;
      if (standby?.ready && !this.contenders.has(standby)) this.#contend(standby);
      if (now - this.stalledAt > (standby?.ready ? LOST : ALONE)) this.#connect();
    }
    if (!this.standby && now - this.lookedAt > LOOK) {
      this.lookedAt = now;
      this.#reconcile();
    }
    this.#move(now);
  }

  /** Whether a leg that played unseen for so many ms shows what is not older than what is shown. */
  #caughtUp(leg, played) {
    if (played < CATCH_UP) return false;
    const ahead = this.stamp === null ? Infinity : ((leg.lastFrame - this.stamp) | 0) / 90;
    // Legs have the encoder's own timestamps, unless it started anew since the older one began.
    return ahead > 0 || ahead < -LONGEST || played >= BEHIND;
  }

  #contend(leg) {
    this.contenders.add(leg);
    leg.playsSince = null;
    leg.play(++this.epoch);
  }

  /** Shows another leg, whose first frame is there. */
  #swap(leg) {
    const old = this.active;
    const broken = this.stalledAt !== null;
    for (const track of this.stream.getTracks()) this.stream.removeTrack(track);
    this.stream.addTrack(leg.track);
    // Not before there is a track: an empty stream holds the page's load event back for ever.
    if (!this.video.srcObject) this.video.srcObject = this.stream;
    this.video.play().catch(() => {}); // autoplay of a muted video; the page's policy decides
    leg.settled();
    this.contenders.delete(leg);
    for (const other of this.contenders) this.#standDown(other);
    this.contenders.clear();
    if (this.standby === leg) this.standby = null;
    this.active = leg;
    this.swappedAt = performance.now();
    this.stalledAt = null;
    this.moveAt = null;
    this.trying = null;
    if (old) {
      this.stats.swaps++;
      if (broken) this.shunned.set(old.node, this.swappedAt + SHUN);
      if (broken) this.healing = { from: old.node, to: leg.node, since: this.shownAt };
      // A leg that still shows pictures is closed once the other one does.
      this.retired?.close();
      this.retired = old;
      setTimeout(() => old.close(), 500);
      this.#emit("swap", { from: this.mesh.label(old.node), to: this.mesh.label(leg.node), broken });
    }
    this.#emit("via", { via: this.stats.via });
    this.#reconcile();
  }

  // -- legs --

  #newLeg() {
    const leg = new Leg();
    leg.addEventListener("message", ({ detail }) => {
      // A leg tells the stream's full name, which may not be the one in this page's address.
      const mine = detail.name === this.name || (detail.id && detail.id === this.place?.id);
      if (detail.t === "place" && mine) this.mesh.learn({ ...detail, name: this.name });
      if (detail.t === "failed") this.trouble = sentence(detail.reason);
    });
    leg.addEventListener("gone", () => this.#lost(leg));
    leg.addEventListener("open", () => this.#reconcile());
    return leg;
  }

  #lost(leg) {
    this.contenders.delete(leg);
    if (leg === this.standby) {
      this.standby = null;
      setTimeout(() => this.#reconcile(), backoff(1));
    } else if (leg === this.active && this.stalledAt === null) {
      // Its node said goodbye, or nothing came for very long: no need to wait for the stall.
      this.stalledAt = this.shownAt ?? performance.now();
      if (!this.standby?.ready) this.#connect();
    }
  }

  /** Whether a node is worth turning to. */
  #usable(id) {
    return (this.shunned.get(id) ?? 0) < performance.now() && this.mesh.nodes.get(id)?.up !== false;
  }

  /** Which node the silent leg should be at. */
  #wanted() {
    const { place, active, mesh } = this;
    if (!place || !active) return null;
    const others = [place.home, place.next, ...mesh.nodes.keys()];
    const up = others.filter((id) => id && id !== active.node && mesh.nodes.get(id)?.up !== false);
    const wanted = up.find((id) => this.#usable(id)) ?? null;
    clearTimeout(this.again);
    if (up.length && up[0] !== wanted) {
      const wait = this.shunned.get(up[0]) - performance.now();
      this.again = setTimeout(() => this.#reconcile(), Math.max(wait, 0) + TICK);
    }
    return wanted;
  }

  /** Sees to it that the right legs exist. */
  async #reconcile() {
    if (this.closed || !this.active || this.preparing || this.stalledAt !== null) return;
    const wanted = this.#wanted();
    const { standby } = this;
    if (standby && !standby.closed && (standby.node === wanted || this.contenders.has(standby))) return;
    if (!wanted) return;
    this.preparing = true;
    const leg = this.#newLeg();
    try {
      await this.#establish(leg, wanted, true);
      await this.#connected(leg);
      // Until now the leg before stood by: it is not where it should be, but better than none.
      const before = this.standby;
      this.standby = leg;
      if (before && !this.contenders.has(before)) before.close();
      if (this.closed) leg.close();
    } catch (error) {
      leg.close();
      this.shunned.set(wanted, performance.now() + SHUN * (0.5 + Math.random()));
      this.#emit("no-standby", { at: this.mesh.label(wanted), reason: error.message });
      setTimeout(() => this.#reconcile(), 500 * (0.5 + Math.random()));
    } finally {
      this.preparing = false;
    }
    if (this.standby === leg && !leg.closed) {
      this.#emit("standby", { at: this.mesh.label(leg.node) });
      if (this.#wanted() !== leg.node) this.#reconcile();
    }
  }

  /** Ends when the leg can be told `play`; fails if that takes too long. */
  async #connected(leg) {
    const deadline = performance.now() + CONNECT;
    while (!leg.ready) {
      if (leg.closed || performance.now() > deadline) throw new Refused(0, "no connection");
      await sleep(TICK);
    }
  }

  /** Signals a leg to a node: over the leg that is there, or over HTTP by any node. */
  async #establish(leg, to, warm) {
    const sdp = await leg.offer();
    const failures = [];
    if (this.active?.canSignal && this.stalledAt === null) {
      try {
        const answer = await this.active.forward(sdp, to, warm);
        return await leg.answer(answer.sdp, answer.node);
      } catch (error) {
        failures.push(error);
      }
    }
    for (const base of this.mesh.bases().slice(0, 3)) {
      try {
        const answer = await post(this.mesh, base, this.name, sdp, to, warm);
        return await leg.answer(answer.sdp, answer.node);
      } catch (error) {
        failures.push(error);
        if (error.status && error.status < 500) break; // an answer, if not a good one
      }
    }
    throw failures.at(-1) ?? new Refused(0, "no node answers");
  }

  /** A healthy picture follows its home when that has moved and stands. */
  #move(now) {
    const { standby, active, place } = this;
    const moved = active && standby?.ready && place?.home === standby.node && active.node !== place.home;
    if (!moved || this.stalledAt !== null) {
      this.moveAt = null;
      return;
    }
    this.moveAt ??= now + SETTLE;
    if (now >= this.moveAt && !this.contenders.has(standby)) this.#contend(standby);
  }

  /** Makes a leg from nothing, asking every node in turn, until a picture moves. */
  async #connect() {
    if (this.connecting || this.closed) return;
    this.connecting = true;
    const needed = () => !this.closed && (!this.active || this.stalledAt !== null);
    for (let round = 0; needed(); round++) {
      const attempts = [];
      for (const base of this.#bases()) {
        if (!needed()) break;
        if (round > 0 || this.active) this.trying = this.mesh.labelOf(base);
        const attempt = this.#ask(base, this.#goal(round), needed);
        attempts.push(attempt);
        const heard = await Promise.race([attempt, sleep(HEDGE)]);
        if (heard === "refused") break; // it is the stream, not the node
      }
      await Promise.all(attempts);
      if (needed()) await this.#pause(backoff(round + 1));
    }
    this.connecting = false;
  }

  /** Where to ask: at the node that has just failed last. */
  #bases() {
    const failed = this.mesh.nodes.get(this.active?.node)?.urls ?? [];
    const bases = this.mesh.bases();
    return [...bases.filter((base) => !failed.includes(base)), ...bases.filter((base) => failed.includes(base))];
  }

  /** Where to get the picture: if home has just failed, this page may be the first to know. */
  #goal(round) {
    const { place, active } = this;
    const failed = active && place?.next && place.home === active.node;
    return failed && round % 2 === 0 ? place.next : "home";
  }

  async #ask(base, to, needed) {
    const heard = await this.#attempt(base, to, needed);
    // Home may be out of this browser's reach, but not of the node's: it relays.
    return heard === "unreachable" && needed() ? this.#attempt(base, "here", needed) : heard;
  }

  /** One leg over one node. Ends when it is shown, not needed any more, or has failed. */
  async #attempt(base, to, needed) {
    const leg = this.#newLeg();
    try {
      const answer = await post(this.mesh, base, this.name, await leg.offer(), to, false);
      await leg.answer(answer.sdp, answer.node);
    } catch (error) {
      leg.close();
      if (!error.status) return "silent";
      this.trying = null;
      this.trouble = error.status === 404 ? `No stream is called “${this.name}”.` : sentence(error.message);
      return error.status >= 500 ? "silent" : "refused";
    }
    leg.epoch = ++this.epoch;
    this.contenders.add(leg);
    const start = performance.now();
    while (this.active !== leg) {
      await sleep(TICK);
      const waited = performance.now() - start;
      const connected = leg.pc.connectionState === "connected";
      if (needed() && !leg.closed && waited < (connected ? FIRST_FRAME : CONNECT)) continue;
      if (this.active === leg) break;
      this.contenders.delete(leg);
      leg.close();
      return connected ? "frameless" : "unreachable";
    }
    return "shown";
  }

  /** Waits, but not beyond the next news. */
  async #pause(ms) {
    await new Promise((done) => {
      const timer = setTimeout(done, ms);
      const before = JSON.stringify(this.place);
      const wake = () => {
        if (JSON.stringify(this.place) === before) return;
        clearTimeout(timer);
        this.mesh.removeEventListener("change", wake);
        done();
      };
      this.mesh.addEventListener("change", wake);
      setTimeout(() => this.mesh.removeEventListener("change", wake), ms);
    });
  }
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

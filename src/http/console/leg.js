// One connection to one node that carries the picture, or stands by to carry it: a peer
// connection with one video, a reliable channel for signalling and an unreliable one for `play`.

const REPEAT = 30; // ms between repetitions of `play`: one lost packet costs that much
const REPEATS_FAST = 100; // after these, the node clearly has nothing to send
const REPEAT_SLOW = 500; // ms, from then on

export class Leg extends EventTarget {
  constructor() {
    super();
    this.pc = new RTCPeerConnection({ bundlePolicy: "max-bundle" });
    this.receiver = this.pc.addTransceiver("video", { direction: "recvonly" }).receiver;
    this.track = this.receiver.track;
    this.signal = this.pc.createDataChannel("signal");
    this.channel = this.pc.createDataChannel("play", { ordered: false, maxRetransmits: 0 });
    this.node = null;
    this.closed = false;
    this.epoch = 0;
    this.answers = new Map();
    this.nextOffer = 1;
    this.repeat = null;
    this.lastFrame = null;
    this.signal.onopen = () => {
      this.#say(this.signal, { t: "hello" });
      this.dispatchEvent(new Event("open"));
    };
    this.channel.onopen = () => this.dispatchEvent(new Event("open"));
    this.signal.onmessage = ({ data }) => this.#heard(data);
    this.signal.onclose = () => this.#gone();
    this.pc.onconnectionstatechange = () => {
      if (["failed", "closed"].includes(this.pc.connectionState)) this.#gone();
      this.dispatchEvent(new Event("state"));
    };
  }

  /** Ready to be told `play`. */
  get ready() {
    return !this.closed && this.channel.readyState === "open";
  }

  /** Can carry the signalling of another leg. */
  get canSignal() {
    return !this.closed && this.signal.readyState === "open";
  }

  async offer() {
    await this.pc.setLocalDescription(await this.pc.createOffer());
    return this.pc.localDescription.sdp;
  }

  async answer(sdp, node) {
    this.node = node;
    await this.pc.setRemoteDescription({ type: "answer", sdp });
  }

  /** Asks for the picture until it comes, is stopped, or the leg closes. */
  play(epoch) {
    this.epoch = epoch;
    clearTimeout(this.repeat);
    let count = 0;
    const tell = () => {
      if (this.closed || this.epoch !== epoch) return;
      this.#say(this.channel, { t: "play", epoch });
      this.repeat = setTimeout(tell, count++ < REPEATS_FAST ? REPEAT : REPEAT_SLOW);
    };
    this.hasNewFrame(); // forgets what came before
    tell();
  }

  /** The picture is there: no more repetitions. */
  settled() {
    clearTimeout(this.repeat);
  }

  stop() {
    clearTimeout(this.repeat);
    this.#say(this.signal, { t: "stop", epoch: this.epoch });
  }

  /** Whether a frame was decoded since this was last asked. Works without a <video>. */
  hasNewFrame() {
    const newest = this.receiver.getSynchronizationSources()[0];
    if (!newest) return false;
    const is = newest.rtpTimestamp !== this.lastFrame;
    this.lastFrame = newest.rtpTimestamp;
    return is;
  }

  /** Has the node forward another leg's offer. */
  forward(sdp, to, warm, patience = 3000) {
    return new Promise((done, fail) => {
      const id = this.nextOffer++;
      const timer = setTimeout(() => {
        this.answers.delete(id);
        fail(new Refused(0, "no answer"));
      }, patience);
      this.answers.set(id, (message) => {
        clearTimeout(timer);
        this.answers.delete(id);
        if (message.t === "answer") done(message);
        else fail(new Refused(message.status, message.reason));
      });
      if (!this.#say(this.signal, { t: "offer", id, to, sdp, warm })) {
        clearTimeout(timer);
        this.answers.delete(id);
        fail(new Refused(0, "the leg is closed"));
      }
    });
  }

  close() {
    clearTimeout(this.repeat);
    this.closed = true;
    this.pc.close();
  }

  #gone() {
    if (this.closed) return;
    this.close();
    this.dispatchEvent(new Event("gone"));
  }

  #say(channel, message) {
    if (channel.readyState !== "open") return false;
    try {
      channel.send(JSON.stringify(message));
      return true;
    } catch {
      return false; // full or closing; `play` is repeated, the rest has time limits
    }
  }

  #heard(data) {
    let message;
    try {
      message = JSON.parse(data);
    } catch {
      return;
    }
    if (message.id !== undefined && this.answers.has(message.id) && message.t !== "place") {
      this.answers.get(message.id)(message);
    } else {
      this.dispatchEvent(new CustomEvent("message", { detail: message }));
    }
  }
}

/** A node's refusal, or no answer (status 0). */
export class Refused extends Error {
  constructor(status, reason) {
    super(reason);
    this.status = status;
  }
}

/** Posts an offer to a node over HTTP. */
export async function post(mesh, base, name, sdp, to, warm, patience = 5000) {
  const query = new URLSearchParams({ leg: to });
  if (warm) query.set("warm", "1");
  let response;
  try {
    response = await fetch(`${base}/whep/${encodeURIComponent(name)}?${query}`, {
      method: "POST",
      headers: mesh.headers({ "content-type": "application/sdp" }),
      body: sdp,
      signal: AbortSignal.timeout(patience),
    });
  } catch {
    throw new Refused(0, "no answer");
  }
  if (response.status !== 201) {
    const problem = await response.json().catch(() => null);
    throw new Refused(response.status, problem?.detail ?? `status ${response.status}`);
  }
  return { sdp: await response.text(), node: response.headers.get("roost-node") };
}

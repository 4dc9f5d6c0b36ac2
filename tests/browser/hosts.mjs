// Hosts with addresses of their own, on a network that can be cut. Needs root, for network namespaces.

import { execFileSync, spawn } from "node:child_process";
import { createHash, X509Certificate } from "node:crypto";
import { once } from "node:events";
import { chmod, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { ROOST } from "./lib.mjs";

const ip = (...args) => execFileSync("ip", args);

/** A network of hosts with these names; all of it is gone after `close()`. */
export async function network(purpose, names) {
  const prefix = `${purpose}${process.pid}`;
  const folder = await mkdtemp(join(tmpdir(), `roost-${purpose}-`));
  const hosts = new Map(); // name -> { name, space, address }
  const processes = [];

  function host(name) {
    const number = hosts.size + 1;
    const space = `${prefix}-${name}`;
    const address = `10.92.0.${number}`;
    ip("netns", "add", space);
    ip("-n", space, "link", "set", "lo", "up");
    ip("-n", prefix, "link", "add", `p${number}`, "type", "veth", "peer", "name", "eth0", "netns", space);
    ip("-n", prefix, "link", "set", `p${number}`, "master", "br0", "up");
    ip("-n", space, "addr", "add", `${address}/24`, "dev", "eth0");
    // An address that comes by itself after seconds would be a change of networks to the browser,
    // for which it breaks off what it is loading.
    ip("-n", space, "link", "set", "eth0", "addrgenmode", "none");
    ip("-n", space, "link", "set", "eth0", "up");
    const chain = "add table inet cut\nadd chain inet cut input { type filter hook input priority 0; policy accept; }\n";
    execFileSync("ip", ["netns", "exec", space, "nft", "-f", "-"], { input: chain });
    hosts.set(name, { name, space, address });
  }

  function run(at, program, ...args) {
    const child = spawn("ip", ["netns", "exec", hosts.get(at).space, program, ...args], { stdio: ["ignore", "pipe", "ignore"] });
    processes.push(child);
    return child;
  }

  /** `at` is deaf to `to` from now on. */
  const ignore = (at, to) =>
    ip("netns", "exec", hosts.get(at).space, "nft", "add", "rule", "inet", "cut", "input", "ip", "saddr", hosts.get(to).address, "drop");

  ip("netns", "add", prefix);
  ip("-n", prefix, "link", "add", "br0", "type", "bridge");
  ip("-n", prefix, "link", "set", "br0", "up");
  for (const name of names) host(name);

  return {
    folder,
    hosts,
    processes,
    run,
    ignore,
    /** What a program prints at a host, or null if it fails. */
    async output(at, program, ...args) {
      const child = run(at, program, ...args);
      let text = "";
      child.stdout.on("data", (data) => (text += data));
      const [code] = await once(child, "close");
      return code === 0 ? text.trim() : null;
    },
    /** Starts a node at the host of its name. */
    startNode(name, ...more) {
      const child = run(name, ROOST, "node", "--name", name, "--data", join(folder, name), ...more);
      child.stdout.resume();
      return child;
    },
    /** Gives a host one more address. */
    another: (at, address) => ip("-n", hosts.get(at).space, "addr", "add", `${address}/24`, "dev", "eth0"),
    /** A host sends this many kilobits a second from now on, until `quicken`. */
    slow: (at, rate) =>
      execFileSync("ip", ["netns", "exec", hosts.get(at).space, "tc", ..."qdisc add dev eth0 root tbf burst 4kb latency 1s rate".split(" "), `${rate}kbit`]),
    quicken: (at) => execFileSync("ip", ["netns", "exec", hosts.get(at).space, "tc", ..."qdisc del dev eth0 root".split(" ")]),
    heal() {
      for (const { space } of hosts.values()) ip("netns", "exec", space, "nft", "flush", "chain", "inet", "cut", "input");
    },
    /** A browser at a host that trusts the keys of these nodes, as if a person had clicked through. */
    async browser(at, trusted) {
      const pins = await Promise.all(trusted.map(async (name) => {
        const certificate = new X509Certificate(await readFile(join(folder, name, "web.crt")));
        const key = certificate.publicKey.export({ type: "spki", format: "der" });
        return createHash("sha256").update(key).digest("base64");
      }));
      const wrapper = join(folder, `chromium-${at}`);
      const program = process.env.CHROMIUM ?? "/usr/bin/chromium";
      await writeFile(wrapper, `#!/bin/sh\nexec ip netns exec ${hosts.get(at).space} ${program} "$@"\n`);
      await chmod(wrapper, 0o755);
      return chromium.launch({
        executablePath: wrapper,
        args: [
          "--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required",
          `--ignore-certificate-errors-spki-list=${pins.join(",")}`,
        ],
      });
    },
    async close() {
      for (const child of processes) {
        if (child.exitCode === null && child.signalCode === null) child.kill("SIGKILL");
      }
      for (const { space } of hosts.values()) ip("netns", "del", space);
      ip("netns", "del", prefix);
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** Why tests with networks of their own cannot run here, or false. */
export const noNetwork = process.getuid() !== 0 && "network namespaces need root";

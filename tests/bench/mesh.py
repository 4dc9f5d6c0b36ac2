"""Real nodes, encoders and viewers, each on a host of its own, and what they say."""

import base64
import bisect
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time

from lan import Lan

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
PORT = 9443


def executable():
    """The roost that is measured: ROOST_BIN, or the newest of the release and debug builds."""
    given = os.environ.get("ROOST_BIN")
    if given:
        return os.path.abspath(given)
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
    built = [os.path.join(target, kind, "roost") for kind in ("release", "debug")]
    built = [path for path in built if os.path.exists(path)]
    if not built:
        raise SystemExit("there is no roost to measure: cargo build --release first, "
                         "or set ROOST_BIN")
    return max(built, key=os.path.getmtime)


def until(what, look, seconds=30.0, every=0.02):
    """Waits for `look` to return something true, and returns it."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(every)


class Process:
    """A child whose words go to a file; lines of JSON on its standard output are kept with the
    time at which they came."""

    def __init__(self, name, host, folder, args, env=None):
        self.name = name
        self.log = os.path.join(folder, f"{name}.log")
        self.lines = []
        self.lock = threading.Lock()
        with open(self.log, "ab") as log:
            self.child = subprocess.Popen(
                host.command(*args), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                env={**os.environ, **(env or {})}, start_new_session=True)
        # A daemon, since a child may outlive the wish to hear of it.
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.child.stdout:
            at = time.time()
            try:
                said = json.loads(line)
            except ValueError:
                continue
            with self.lock:
                self.lines.append((at, said))

    def told(self, since=0.0):
        """What was said since then, with times."""
        with self.lock:
            begin = bisect.bisect_left(self.lines, since, key=lambda line: line[0])
            return self.lines[begin:]

    def last(self, event, since=0.0):
        for at, said in reversed(self.told(since)):
            if said.get("event") == event:
                return at, said
        return None

    def send(self, number):
        if self.child.poll() is None:
            self.child.send_signal(number)

    def end(self, number=signal.SIGTERM):
        self.send(signal.SIGCONT)
        self.send(number)
        try:
            self.child.wait(5)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


class Node:
    """One node; killed and started again it keeps its data."""

    def __init__(self, mesh, name, host):
        self.mesh, self.name, self.host = mesh, name, host
        self.addr = f"{host.addr}:{PORT}"
        self.data = os.path.join(mesh.folder, f"{name}-data")
        self.process = None

    def start(self, join=None):
        args = [self.mesh.roost, "node", "--data", self.data, "--open-loopback", "--listen", f"0.0.0.0:{PORT}",
                "--advertise", self.addr, "--name", self.name]
        env = {"ROOST_JOIN": join} if join else None
        self.process = Process(self.name, self.host, self.mesh.folder, args, env)

    def kill(self):
        self.process.child.kill()
        self.process.child.wait()

    def freeze(self):
        self.process.send(signal.SIGSTOP)

    def thaw(self):
        self.process.send(signal.SIGCONT)

    def ask(self, path, body=None, timeout=2.0):
        """One API call over the node's own loopback."""
        call = http.client.HTTPConnection("127.0.0.1", PORT)
        call.sock = self.host.connect(("127.0.0.1", PORT), timeout)
        try:
            if body is None:
                call.request("GET", path)
            else:
                headers = {"content-type": "application/json"}
                call.request("POST", path, json.dumps(body), headers)
            answer = call.getresponse()
            text = answer.read().decode()
        finally:
            call.close()
        if answer.status not in (200, 201):
            raise RuntimeError(f"{self.name} {path}: {answer.status} {text}")
        return json.loads(text) if text[:1] in "{[" else text

    def answers(self):
        """Whether its API is up."""
        try:
            return self.ask("/livez")
        except (OSError, http.client.HTTPException, RuntimeError):
            return None

    def view(self, timeout=2.0):
        """What it believes of the mesh, as `roost status --json`; None if it does not answer."""
        try:
            return self.ask("/api/v1/cluster", timeout=timeout)
        except (OSError, http.client.HTTPException, RuntimeError):
            return None

    def states(self, timeout=2.0):
        """What it believes of each node, by name."""
        view = self.view(timeout)
        return {node["name"]: node["state"] for node in view["nodes"]} if view else {}

    def ups(self, timeout=2.0):
        """How many nodes it believes to be up; their names may come later."""
        view = self.view(timeout)
        return sum(node["state"] == "up" for node in view["nodes"]) if view else 0

    def metric(self, name):
        """A metric's value, summed over its labels."""
        total = 0.0
        for line in self.ask("/metrics").splitlines():
            if line.startswith((f"{name} ", f"{name}{{")):
                total += float(line.rsplit(" ", 1)[1])
        return total

    def said(self, event):
        """Lines of its log that carry this event."""
        with open(self.process.log, encoding="utf-8", errors="replace") as log:
            return [line.strip() for line in log if event in line]


class Mesh:
    """All processes of a bench, in a folder that goes with them unless it was asked for."""

    def __init__(self, lan=None, keep=None):
        self.roost, self.lan = executable(), lan or Lan()
        self.kept = keep is not None
        if keep:
            os.makedirs(keep, exist_ok=True)
        self.folder = keep or tempfile.mkdtemp(prefix="roost-bench-")
        self.nodes, self.clients, self.folders = [], [], []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def add(self, count):
        """Hosts for this many more nodes."""
        for number in range(len(self.nodes) + 1, len(self.nodes) + count + 1):
            self.nodes.append(Node(self, f"n{number}", self.lan.host(f"n{number}")))

    def found(self):
        """Starts the first node; returns an invitation for the others."""
        seed = self.nodes[0]
        seed.start()
        until("the first node answers", seed.view)
        body = {"client": False, "uses": max(1, len(self.nodes) - 1), "expires_s": 86_400}
        return seed.ask("/api/v1/invitations", body)["invitation"]

    def start(self, count):
        """That many nodes which all see all."""
        self.add(count)
        invitation = self.found()
        for node in self.nodes[1:]:
            node.start(invitation)
        until("every node sees every node", self.all_up)
        body = {"client": True, "uses": 1, "expires_s": 7 * 86_400}
        self.enrolment = self.nodes[0].ask("/api/v1/invitations", body)

    def all_up(self):
        names = {node.name for node in self.nodes}
        return all({n for n, s in node.states().items() if s == "up"} == names
                   for node in self.nodes)

    def node(self, name):
        return next(node for node in self.nodes if node.name == name)

    def encode(self, name, host, *more):
        state = os.path.join(self.folder, f"{name}-state")
        if "--count" in more:
            # Thousands of small files: it is not the disk of the encoders that is measured.
            state = tempfile.mkdtemp(prefix="roost-bench-", dir="/dev/shm")
            self.folders.append(state)
        args = [self.roost, "encode", name, "--test", "--state", state, "--json", *more]
        return self._client(f"encode-{name}", host, args)

    def watch(self, name, host, *more):
        return self._client(f"view-{name}", host, [self.roost, "view", name, "--json", *more])

    def _client(self, name, host, args):
        # By the environment, since arguments are seen by everyone on the machine.
        env = {"ROOST_ADDR": self.enrolment["invitation"], "HOME": self.folder}
        client = Process(name, host, self.folder, args, env)
        self.clients.append(client)
        return client

    def browse(self, names, host):
        """Chromium with a player page for each of these streams."""
        pages = [f"https://{self.nodes[0].addr}/watch/{name}?token={self.token()}"
                 for name in names]
        env = {"ROOST_PAGES": json.dumps(pages)}
        client = Process("browser", host, self.folder, ["node", f"{HERE}/watch.mjs"], env)
        self.clients.append(client)
        return client

    def token(self):
        """The credential inside the enrolment string, which pages take in their URL."""
        body = self.enrolment["invitation"].removeprefix("roost1c-")
        inside = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
        return re.search(rb"v4\.public\.[A-Za-z0-9_.-]+", inside).group().decode()

    def close(self):
        nodes = [node.process for node in self.nodes if node.process]
        for process in [*self.clients, *nodes]:
            process.send(signal.SIGCONT)
            process.send(signal.SIGTERM if process in self.clients else signal.SIGKILL)
        for process in [*self.clients, *nodes]:
            process.end(signal.SIGKILL if process in nodes else signal.SIGTERM)
        self.lan.close()
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)
        if not self.kept:
            shutil.rmtree(self.folder, ignore_errors=True)


def stamp(at):
    """A time as the logs write it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1000):03}Z"


def logged(mesh, event, since):
    """What the nodes' logs say of this event since then: (node, line as JSON)."""
    found, begin = [], stamp(since)
    for node in mesh.nodes:
        for line in node.said(event):
            try:
                said = json.loads(line)
            except ValueError:
                continue
            if said.get("event") == event and said["ts"] >= begin:
                found.append((node.name, said))
    return found

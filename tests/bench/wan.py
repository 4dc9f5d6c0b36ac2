"""Hosts that are far apart: every packet between them takes its time, some are lost, and each host
sends no faster than its line.

The kernels of small machines have neither netem nor tbf, so a process of ours is the network: each
host's only interface is a TUN device whose other end it holds. `Wan` stands in for `lan.Lan`.
"""

import fcntl
import heapq
import itertools
import os
import random
import select
import struct
import subprocess
import sys
import time

import lan

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x4004_54CA, 0x0001, 0x1000
# A line that is busy for longer than this loses what comes: routers have such queues.
QUEUE_SECONDS = 0.2


class Wan(lan.Lan):
    """As `Lan`, without a switch and without cuts."""

    def __init__(self, round_trip, loss, rate, net="10.78.0"):
        super().__init__(net)
        command = [sys.executable, "-B", os.path.abspath(__file__), str(round_trip / 2), str(loss),
                   str(rate)]
        self.line = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     text=True, start_new_session=True)

    def host(self, name):
        number = len(self.hosts) + 1
        namespace, addr = f"{self.prefix}-{name}", f"{self.net}.{number}"
        self._namespace(namespace)
        self._ask(f"{namespace} {addr}")
        lan.ip("-n", namespace, "addr", "add", f"{addr}/24", "dev", "eth0")
        lan.ip("-n", namespace, "link", "set", "eth0", "up")
        lan.ip("-n", namespace, "route", "add", "default", "dev", "eth0")
        self.hosts.append(lan.Host(name, namespace, addr))
        return self.hosts[-1]

    def counts(self):
        """Packets so far: passed, lost at random, lost in full queues."""
        return dict(zip(("passed", "lost", "overflowed"), map(int, self._ask("counts").split())))

    def _ask(self, line):
        self.line.stdin.write(line + "\n")
        self.line.stdin.flush()
        answer = self.line.stdout.readline().strip()
        if not answer:
            raise RuntimeError("the network process has ended")
        return answer

    def close(self):
        self.line.stdin.close()
        self.line.wait(5)
        super().close()


def tun(namespace):
    """The other end of a new interface `eth0` in a namespace."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        lan.enter(f"/run/netns/{namespace}")
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", b"eth0", _IFF_TUN | _IFF_NO_PI))
    finally:
        lan.leave(home)
    return fd


def main():
    delay, loss, rate = map(float, sys.argv[1:4])
    try:
        # It is the network: a busy machine must not slow it down.
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    except OSError as error:
        print(f"the network runs at normal priority: {error}", file=sys.stderr)
    ports, free_at, under_way = {}, {}, []
    order, chance = itertools.count(), random.Random(1)
    passed = lost = overflowed = 0
    poll = select.epoll()
    poll.register(sys.stdin.fileno(), select.EPOLLIN)
    names = {}
    while True:
        wait = max(0.0, under_way[0][0] - time.monotonic()) if under_way else -1
        for fd, _ in poll.poll(wait):
            if fd == sys.stdin.fileno():
                words = sys.stdin.readline().split()
                if not words:
                    return
                if words == ["counts"]:
                    print(passed, lost, overflowed, flush=True)
                else:
                    made = tun(words[0])
                    ports[bytes(map(int, words[1].split(".")))] = made
                    names[made], free_at[made] = words[0], 0.0
                    poll.register(made, select.EPOLLIN)
                    print("there", flush=True)
                continue
            now = time.monotonic()
            while True:
                try:
                    packet = os.read(fd, 2048)
                except BlockingIOError:
                    break
                to = ports.get(packet[16:20]) if packet[0] >> 4 == 4 else None
                if to is None:
                    continue
                begin = max(now, free_at[fd])
                if begin - now > QUEUE_SECONDS:
                    overflowed += 1
                    continue
                free_at[fd] = begin + len(packet) * 8 / rate
                if chance.random() < loss:
                    lost += 1
                    continue
                heapq.heappush(under_way, (free_at[fd] + delay, next(order), to, packet))
        now = time.monotonic()
        while under_way and under_way[0][0] <= now:
            _, _, to, packet = heapq.heappop(under_way)
            try:
                os.write(to, packet)
                passed += 1
            except OSError:
                overflowed += 1


if __name__ == "__main__":
    main()

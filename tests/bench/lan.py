"""Hosts of a small network: namespaces on a switch that can be told to lose packets."""

import atexit
import ctypes
import os
import signal
import socket
import subprocess
import sys

_LIBC = ctypes.CDLL(None, use_errno=True)
_NEWNET = 0x4000_0000  # CLONE_NEWNET


def ip(*args):
    subprocess.run(["ip", *args], check=True)


def enter(namespace):
    """Moves this thread into a network namespace, a path."""
    fd = os.open(namespace, os.O_RDONLY)
    try:
        if _LIBC.setns(fd, _NEWNET) != 0:
            error = ctypes.get_errno()
            raise OSError(error, f"cannot enter {namespace}: {os.strerror(error)}")
    finally:
        os.close(fd)


def leave(fd):
    """Moves this thread back to the namespace that this file stands for, and closes the file."""
    _LIBC.setns(fd, _NEWNET)
    os.close(fd)


class Host:
    """One namespace with one address."""

    def __init__(self, name, namespace, addr):
        self.name, self.namespace, self.addr = name, namespace, addr

    def connect(self, addr, timeout):
        """A TCP connection from inside; its socket stays there, this thread does not."""
        back = os.open(f"/proc/self/task/{_LIBC.gettid()}/ns/net", os.O_RDONLY)
        try:
            enter(f"/run/netns/{self.namespace}")
            made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        finally:
            leave(back)
        made.settimeout(timeout)
        try:
            made.connect(addr)
        except OSError:
            made.close()
            raise
        return made

    def command(self, *args):
        """The command line that runs something here, and ends it with the bench."""
        inside = ["nsenter", f"--net=/run/netns/{self.namespace}"]
        return [*inside, "setpriv", "--pdeathsig", "KILL", *args]


class Lan:
    """A switch in a namespace of its own, so that nothing of it is seen outside.

    Cuts are made on the switch, by nftables: a drop on the sender's machine would be told to the
    sender, and real networks do not do that.
    """

    def __init__(self, net="10.77.0"):
        self.prefix, self.net = f"roost{os.getpid()}", net
        self.switch = f"{self.prefix}-switch"
        self.hosts, self.namespaces = [], []
        # However the bench ends, nothing of its network stays.
        atexit.register(self.close)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        self._namespace(self.switch)
        ip("-n", self.switch, "link", "add", "switch", "type", "bridge")
        ip("-n", self.switch, "link", "set", "switch", "up")
        self.mend()

    def _namespace(self, name):
        ip("netns", "add", name)
        self.namespaces.append(name)
        ip("-n", name, "link", "set", "lo", "up")

    def host(self, name):
        number = len(self.hosts) + 1
        namespace, addr, port = f"{self.prefix}-{name}", f"{self.net}.{number}", f"port{number}"
        self._namespace(namespace)
        ip("link", "add", "eth0", "netns", namespace, "type", "veth",
           "peer", "name", port, "netns", self.switch)
        ip("-n", self.switch, "link", "set", port, "master", "switch", "up")
        ip("-n", namespace, "addr", "add", f"{addr}/24", "dev", "eth0")
        ip("-n", namespace, "link", "set", "eth0", "up")
        # Chromium asks for the way to everywhere before it uses any address.
        ip("-n", namespace, "route", "add", "default", "dev", "eth0")
        self.hosts.append(Host(name, namespace, addr))
        return self.hosts[-1]

    def cut(self, senders, receivers):
        """Drops what these hosts send to those, until `mend`."""
        listed = lambda hosts: "{ " + ", ".join(host.addr for host in hosts) + " }"
        self._nft(f"add rule bridge cuts forward ip saddr {listed(senders)} "
                  f"ip daddr {listed(receivers)} drop")

    def mend(self):
        """Ends all cuts."""
        self._nft("table bridge cuts {}\n"
                  "delete table bridge cuts\n"
                  "table bridge cuts {\n"
                  "chain forward { type filter hook forward priority 0; policy accept; }\n"
                  "}\n")

    def _nft(self, rules):
        command = ["nsenter", f"--net=/run/netns/{self.switch}", "nft", "-f", "-"]
        subprocess.run(command, input=rules, text=True, check=True)

    def close(self):
        for name in self.namespaces:
            subprocess.run(["ip", "netns", "delete", name], check=False)
        self.namespaces = []

"""Percentiles, bars, and the circumstances of a measurement."""

import datetime
import math
import os
import statistics
import subprocess
import threading


def percentile(values, share):
    """By nearest rank: a value that was measured."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


def summary(values):
    """p50, p99 and max of a list, and how many there were; None for an empty one."""
    if not values:
        return None
    return {"n": len(values), "p50": percentile(values, 0.5), "p99": percentile(values, 0.99),
            "max": max(values)}


def misses(found, bars, factor):
    """Which percentiles of a summary are above `factor` times their bars."""
    return [name for name, bar in bars.items() if found and found[name] > bar * factor]


class Load:
    """Samples the machine's load average while a bench runs."""

    def __init__(self):
        self.samples, self.over = [os.getloadavg()[0]], threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while not self.over.wait(5.0):
            self.samples.append(os.getloadavg()[0])

    def text(self):
        median = statistics.median(self.samples)
        return f"load average {min(self.samples):.1f} to {max(self.samples):.1f}, " \
               f"median {median:.1f}, on {os.cpu_count()} processors"


def circumstances(roost):
    """What was measured, and when."""
    version = subprocess.run([roost, "--version"], capture_output=True, text=True, check=True)
    build = "debug" if "/debug/" in roost else "release" if "/release/" in roost else roost
    return {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "roost": version.stdout.strip(), "build": build, "processors": os.cpu_count()}

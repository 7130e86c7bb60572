#!/usr/bin/env python3
"""A tutorial of Docker, chapter by chapter and command by command: the docker client against our daemon, our own
client against our daemon, and, where it is installed, the docker client against dockerd.

What dockerd prints and answers is what we print and answer: the columns and rows of tables, and each field of JSON,
with its type and, where it is not an id, a time, a size or a path, its value. Where a machine has no dockerd, our
client is compared with docker's, and both with what the chapters expect. The dockerd that distributions have is
20.10, ours answers as version 28 does: `ALLOWED` is the list of what differs for that and other reasons.
"""

import contextlib
import fnmatch
import os
import queue
import re
import subprocess
import sys
import threading
import time
import traceback

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "tutorial"))

import harness
from harness import Checks, Daemon, program, skip

import builds
import compare
import compose
import containers
import dockerd
import images
import networks
import stacks
import swarm
from allowed import ALLOWED, reworded
from walk import Walk


# Where the daemon is a cluster of its own. dockerd is not asked: without IPVS in the kernel nobody answers at its services' addresses.
CLUSTERS = stacks.SECTIONS + swarm.SECTIONS
SECTIONS = containers.SECTIONS + networks.SECTIONS + builds.SECTIONS + compose.SECTIONS + CLUSTERS


class Findings(Checks):
    """Checks that tell what they have found, and not where in this script."""

    def check(self, name, function):
        self.count += 1
        found = function()
        if found:
            self.failed.append(name)
            print(f"FAIL {name}" + "".join(f"\n  - {line}" for line in found))
        sys.stdout.flush()


def main():
    path = program("docker")
    if not path:
        skip("there is no docker client")
    version = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
    major = re.match(r"Docker version (\d+)", version)
    if not major or int(major[1]) < 28:
        skip(f"the docker client is not 28 or later: {version.strip()}")
    checks = Findings()
    sections = [section for section in SECTIONS if chosen(checks, section)]
    if not program("docker-compose"):
        print("skipped: there is no docker-compose")
        sections = [section for section in sections if section not in compose.SECTIONS]
    lacks = dockerd.lacking()
    if lacks:
        print(f"skipped: the comparison with dockerd: {lacks}")
    with contextlib.ExitStack() as at_end:

        def kept(daemon):
            at_end.callback(daemon.down)
            return daemon

        # Two daemons of each kind share the sections.
        owns, oracles = [kept(Daemon()), kept(Another())], []
        try:
            for daemon in owns if not lacks else ():
                oracles.append(kept(dockerd.Dockerd(daemon)))
        except dockerd.Unable as error:
            print(f"skipped: the comparison with dockerd: {error}")
        # The image that a held daemon comes with is another one.
        owns[1].call("DELETE", "/images/busybox:latest")
        hello = owns[0].call("GET", f"/images/{images.HELLO}/get").body
        archive = images.root_file_system()

        def prepare(walk):
            images.only_these(walk.daemon.socket)
            images.make(walk.daemon.socket, archive, hello)

        # The longest sections are the last ones.
        ours = walk_beside(sections[::-1], [[Walk("ours", "docker", daemon), Walk("ours", "skep", daemon)] for daemon in owns], prepare)
        theirs = walk_beside([section for section in sections[::-1] if section not in CLUSTERS], [[Walk("dockerd", "docker", daemon)] for daemon in oracles], prepare)
        for thread in ours.threads + theirs.threads:
            thread.join()
    for section in sections:
        own = ours.taken.get(("skep", section))
        # Two versions of compose have two ways of saying things.
        compared = section not in compose.SECTIONS
        report(checks, title(section), compared, ours.taken["docker", section], own, theirs.taken.get(("docker", section)))
    return checks.end()


class Another:
    """One more daemon, held by a process of its own as its name is that of the process."""

    def __init__(self):
        self.holder = subprocess.Popen([sys.executable, harness.__file__, "hold"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            self.host, self.root, self.name = self.holder.stdout.readline().split()
        except ValueError:
            raise RuntimeError("there is no second daemon")
        self.socket = self.host.removeprefix("unix://")
        self.others = []

    enter, note, call = Daemon.enter, Daemon.note, Daemon.call

    def down(self):
        for process in self.others:
            harness.end(process)
        self.holder.stdin.close()
        self.holder.wait()


class Beside:
    """Walks that go on: their threads, and by client and section what has been walked."""

    def __init__(self):
        self.threads, self.taken = [], {}


def walk_beside(sections, groups, prepare):
    """Lets several daemons, each with the clients that walk at it, take one section after another."""
    beside, left = Beside(), queue.SimpleQueue()
    for section in sections:
        left.put(section)
    for walks in groups:
        thread = threading.Thread(target=walk_all, args=(left, walks, prepare, beside.taken), daemon=True)
        thread.start()
        beside.threads.append(thread)
    return beside


def title(section):
    return section.__doc__.splitlines()[0].rstrip(".")


def chosen(checks, section):
    return not checks.only or any(word in title(section) for word in checks.only)


def walk_all(left, walks, prepare, taken):
    """Walks through the sections that are left with each client of one daemon, each section from the same beginning."""
    while True:
        try:
            section = left.get_nowait()
        except queue.Empty:
            return
        for walk in walks:
            began = time.monotonic()
            try:
                prepare(walk)
                walk.begin()
                section(walk)
            except Exception:
                walk.wrong(traceback.format_exc(limit=-3))
            taken[walk.client, section] = walk.taken()
            if "-v" in sys.argv:
                print(f"     {title(section)}: {walk.client} at {walk.name}: {time.monotonic() - began:.1f} s")


def report(checks, name, compared, ours, own, oracle):
    checks.check(f"{name}: docker", lambda: ours.broken)
    if own:
        checks.check(f"{name}: skep", lambda: own.broken)
        if compared:
            checks.check(f"{name}: skep as docker", lambda: differences("skep", ours, own))
    if oracle:
        checks.check(f"{name}: dockerd", lambda: oracle.broken)
        checks.check(f"{name}: docker as at dockerd", lambda: differences("dockerd", oracle, ours))


def differences(pair, first, second):
    """What is different between two walks and may not be: with our client nothing but words, with dockerd no field may lack."""
    exact = pair == "skep"
    names = ("docker", "skep") if exact else ("dockerd", "ours")
    left, right = ([step for step in walk.steps if not (exact and step.asked)] for walk in (first, second))
    found = [difference for difference in compare.steps(first, left, second, right, exact) if not allowed(pair, difference)]
    return [difference.told(*names) + (f"\n      and {count - 1} times more" if count > 1 else "") for difference, count in compare.once(found)]


def allowed(pair, difference):
    if pair == "dockerd" and isinstance(difference.first, str) and isinstance(difference.second, str):
        if reworded(difference.first) == reworded(difference.second):
            return True
    return any(
        pair in pairs.split() and fnmatch.fnmatchcase(difference.line, line) and fnmatch.fnmatchcase(difference.where, where)
        for pairs, line, where, _ in ALLOWED
    )


if __name__ == "__main__":
    sys.exit(main())

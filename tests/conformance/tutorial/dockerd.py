"""A dockerd to compare with, in namespaces of its own.

It is the first process of a PID namespace, with mounts and a network that belong to that namespace alone: when it
ends, however it ends, its containerd, its containers, its mounts and its packet filters are gone as well. Its files
and cgroups lie below those of the daemon of `harness.py`, which takes them away, also when the script is killed.
"""

import os
import subprocess

import harness
from harness import program

UP_SECONDS = 60


def lacking():
    """Why there is no dockerd to compare with, or nothing."""
    for name in ("dockerd", "containerd", "runc", "unshare", "iptables"):
        if not program(name):
            return f"there is no `{name}`"
    return None


class Unable(Exception):
    """There is a dockerd, and it does not start on this machine."""


class Dockerd:
    def __init__(self, daemon):
        self.name = daemon.name
        self.root = os.path.join(daemon.root, "dockerd")
        os.mkdir(self.root)
        self.socket = os.path.join(self.root, "s.sock")
        self.host = f"unix://{self.socket}"
        self.log = open(os.path.join(self.root, "log"), "ab")
        words = [
            "dockerd",
            "--data-root", os.path.join(self.root, "data"),
            "--exec-root", os.path.join(self.root, "run"),
            "--pidfile", os.path.join(self.root, "pid"),
            "--cgroup-parent", f"/{daemon.name}/dockerd",
            "--insecure-registry", "127.0.0.0/8",
            "-H", self.host,
        ]
        # `--kill-child`: whoever kills unshare ends the namespace's first process, and with it all others.
        apart = [program("unshare"), "--mount", "--pid", "--net", "--fork", "--kill-child", "--mount-proc"]
        self.outer = subprocess.Popen(
            [*apart, "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *words],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            env={**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"},
        )
        daemon.note(self.outer)
        self.others, self.outer_daemon = [], daemon
        try:
            harness.until(self.answers, UP_SECONDS, "an answer of dockerd")
        except (AssertionError, Unable):
            self.outer.kill()
            self.outer.wait()
            raise Unable(self.last_words()) from None
        with open(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children") as children:
            self.pid = int(children.read().split()[0])

    def answers(self):
        if self.outer.poll() is not None:
            raise Unable
        try:
            return harness.call(self.socket, "GET", "/_ping").status == 200
        except OSError:
            return False

    def last_words(self):
        with open(self.log.name) as log:
            return (log.read().splitlines() or ["it says nothing"])[-1]

    def enter(self, *words):
        """A command line that runs in dockerd's network namespace, and only that namespace."""
        return [program("nsenter"), f"--net=/proc/{self.pid}/ns/net", program(words[0]) or words[0], *words[1:]]

    def down(self):
        for process in self.others:
            harness.end(process)
        if self.outer.poll() is None:
            # The first process of the namespace is asked, as unshare itself does not pass signals on.
            try:
                os.kill(self.pid, 15)
                self.outer.wait(harness.DOWN_SECONDS)
            except ProcessLookupError:
                pass
            except subprocess.TimeoutExpired:
                self.outer.kill()
            self.outer.wait()
        self.log.close()

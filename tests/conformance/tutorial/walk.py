"""One client against one daemon, a command at a time; every command's answer is kept for the comparison."""

import concurrent.futures
import copy
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time

import harness
from docker_cli import Terminal
from harness import program

HERE = os.path.dirname(os.path.abspath(__file__))
# The newest version of the API that dockerd 20.10 and ours both speak.
API = "v1.41"
FETCH = "import sys, urllib.request; sys.stdout.write(urllib.request.urlopen(sys.argv[1], timeout=3).read().decode())"
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 1)"
USER, PASSWORD = "nebul4ck", "tutorial"
# htpasswd's bcrypt of that password.
ACCOUNT = f"{USER}:$2b$05$wn9u9Y4VjB1VrYVU0CpMDOkK24wo5dZXA2366R3ijS9JDZImDKg52\n"
REGISTRY, INDEX = "127.0.0.1:5000", "127.0.0.1:5001"


class Step:
    """A command or request, how its answer is to be read, and the answer."""

    def __init__(self, line, kind, status, out, err="", asked=False, left_out=False):
        # Whether it is a request of the script's own, which no client has sent.
        self.asked = asked
        # Whether this daemon was not asked at all.
        self.left_out = left_out
        self.line, self.kind, self.status, self.out, self.err = line, kind, status, out, err


class Walk:
    """A client (`docker` or `skep`) at one daemon. A call runs a command, a line of the tutorial without its first word."""

    def __init__(self, name, client, daemon):
        self.name, self.daemon = name, daemon
        self.path = harness.binary() if client == "skep" else program(client)
        self.client = client
        # dockerd 20.10 says a few things in other words than 28.
        self.old = name == "dockerd"
        self.place = os.path.join(daemon.root, f"with-{client}")
        self.home = os.path.join(self.place, "home")
        self.env = {
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            "HOME": self.home,
            "DOCKER_HOST": daemon.host,
            "DOCKER_BUILDKIT": "0",
            "COMPOSE_API_VERSION": API[1:],
            "COMPOSE_DOCKER_CLI_BUILD": "0",
            "NO_COLOR": "1",
            "LANG": "C.UTF-8",
        }
        self.steps, self.broken, self.last = [], [], None

    def begin(self):
        """A section begins, with nothing in the client's directory but the tutorial's files."""
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(os.path.join(HERE, "files"), self.place)
        os.makedirs(self.home)
        shutil.rmtree(os.path.join(self.daemon.root, "registry", "data"), ignore_errors=True)
        self.steps, self.broken, self.last = [], [], None
        # As a moment for `events --since`.
        self.began = f"{time.time():.6f}"

    def taken(self):
        """The section as it was walked, for the comparison."""
        taken = copy.copy(self)
        self.steps, self.broken = [], []
        return taken

    # Commands.

    def raw(self, line, given=None, seconds=60, program=None):
        words = shlex.split(line) if isinstance(line, str) else list(line)
        return subprocess.run(
            [program or self.path, *words],
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True,
            env=self.env,
            cwd=self.place,
            timeout=seconds,
        )

    def __call__(self, line, *, kind="text", status=0, given=None, program=None, seconds=60, old=True):
        """Runs a command, keeps the answer, and gives what it printed. Another status than expected is told at the end."""
        if self.old and not old:
            # It would only wait there.
            self.steps.append(Step(line, kind, status, "", left_out=True))
            return ""
        began = time.monotonic()
        done = self.raw(line, given, seconds, program)
        if "-v" in sys.argv and time.monotonic() - began > 2:
            print(f"     {self.client} {line} at {self.name}: {time.monotonic() - began:.1f} s")
        line = line if isinstance(line, str) else shlex.join(line)
        self.last = Step(line, kind, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
        self.steps.append(self.last)
        if status is not None and done.returncode != status:
            self.wrong(f"status {done.returncode} instead of {status}: {self.last.out[-400:]}{self.last.err[-700:]}")
        return self.last.out.rstrip("\n")

    def table(self, line, kind="table", **more):
        return self(line, kind=kind, **more)

    def json(self, line, kind="json", **more):
        """A command that prints JSON; gives the value, or the list of values where there is one a line."""
        return values(self(line, kind=kind, **more))

    def unordered(self, line, **more):
        """A command that prints its lines in no order of meaning."""
        return self(line, kind="unordered", **more)

    def unsaid(self, line, **more):
        """A command whose words are nobody's business, only its status."""
        return self(line, kind="status", **more)

    def fails(self, line, text, status=1, **more):
        self(line, status=status, **more)
        if not self.steps[-1].left_out and text.lower() not in (self.last.out + self.last.err).lower():
            self.wrong(f"does not say {text!r}: {self.last.out[-400:]}{self.last.err[-700:]}")

    def compose(self, line, **more):
        """docker-compose 1.29, or our own client's `compose`, which answers as version 2 does."""
        if self.client == "skep":
            return self(f"compose {line}", **{**more, "kind": "status", "seconds": 120})
        return self(line, program=program("docker-compose"), seconds=120, **more)

    def compose_soon(self, line, pattern):
        if self.client == "skep":
            return self.soon(f"compose {line}", pattern, kind="status")
        return self.soon(line, pattern, program=program("docker-compose"))

    def of_project(self, *words):
        """What compose calls a container or image that it has made."""
        return ("-" if self.client == "skep" else "_").join(words)

    def soon(self, line, pattern, seconds=15, program=None, **more):
        """Repeats a command until it prints a pattern, then keeps its answer."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            done = self.raw(line, program=program)
            if re.search(pattern, (done.stdout + done.stderr).decode(errors="replace"), re.M):
                break
            time.sleep(0.1)
        self(line, program=program, **more)
        return self.sees(pattern)

    def terminal(self, line, *talk):
        """A command on a terminal: what is awaited, what is typed, in turns, then its end; gives its status."""
        terminal = Terminal(self, *shlex.split(line))
        status, seen = None, ""
        try:
            for awaited, typed in talk:
                seen += terminal.expect(awaited).group().decode(errors="replace")
                if typed is not None:
                    terminal.type(typed)
        finally:
            status = terminal.end()
        self.last = Step(line, "status", status, seen)
        self.steps.append(self.last)
        return status

    # What is looked at beside commands.

    def api(self, path, method="GET", body=None):
        """A request in the version of the API that both daemons speak. Only once for each daemon."""
        if self.client == "skep":
            return None
        answer = harness.call(self.daemon.socket, method, f"/{API}{path}", body)
        text = answer.body.decode(errors="replace")
        self.last = Step(f"{method} {path}", "json", answer.status, text, asked=True)
        self.steps.append(self.last)
        return values(text) if text.strip() else None

    def wakes_waiters(self, name):
        """Whether a start that fails answers those who wait for the container's next end."""
        try:
            with concurrent.futures.ThreadPoolExecutor() as pool:
                wait = pool.submit(harness.call, self.daemon.socket, "POST", f"/{API}/containers/{name}/wait?condition=next-exit", timeout=2)
                time.sleep(0.3)
                harness.call(self.daemon.socket, "POST", f"/{API}/containers/{name}/start")
                return wait.result().status == 200
        except TimeoutError:
            return False

    def fetch(self, url, pattern="", seconds=10):
        """A page, asked from beside the containers; kept once it has the pattern."""
        deadline = time.monotonic() + seconds
        while True:
            done = subprocess.run(self.daemon.enter(sys.executable, "-c", FETCH, url), capture_output=True, timeout=20, env={"PATH": self.env["PATH"]})
            page = done.stdout.decode(errors="replace")
            if done.returncode == 0 and re.search(pattern, page) or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        self.note(f"GET {url}", page)
        self.sees(pattern or ".")
        return page

    def note(self, what, value):
        """Keeps something that has been found out, to be compared."""
        self.last = Step(what, "text", 0, str(value))
        self.steps.append(self.last)
        return value

    def sees(self, pattern):
        """The last answer has the pattern: what the tutorial says, or what is known without a dockerd to ask."""
        text = self.last.out + self.last.err
        found = re.search(pattern, text, re.M)
        if not found:
            self.wrong(f"does not say {pattern!r}: {text[-1500:]}")
        return found

    def holds(self, what, truth):
        if not truth:
            self.wrong(f"does not hold: {what}: {self.last.out[-1500:]}")

    def wrong(self, why):
        self.broken.append(f"{self.client} {self.last.line if self.last else ''}\n      {why.strip()}")

    # Services beside the daemon.

    def registry(self):
        """A registry that asks for an account; none where there is no docker-registry."""
        found = program("docker-registry")
        if not found:
            return None
        place = os.path.join(self.daemon.root, "registry")
        if not os.path.exists(place):
            os.makedirs(place)
            with open(os.path.join(place, "htpasswd"), "w") as file:
                file.write(ACCOUNT)
            with open(os.path.join(place, "registry.yml"), "w") as file:
                file.write(
                    f"version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {place}/data\n"
                    f"http:\n  addr: {REGISTRY}\nauth:\n  htpasswd:\n    realm: tutorial\n    path: {place}/htpasswd\n"
                )
            self.beside(found, "serve", os.path.join(place, "registry.yml"))
            self.listens(REGISTRY)
        return REGISTRY

    def index(self):
        """An index that can be searched."""
        if not os.path.exists(os.path.join(self.daemon.root, "index.log")):
            self.beside(sys.executable, os.path.join(HERE, "index.py"), INDEX.rpartition(":")[2], self.daemon.root, log="index.log")
            self.listens(INDEX)
        return INDEX

    def address(self, address):
        """Gives the daemon's namespace, which has loopback only, an address that a cluster can have."""
        if subprocess.run(self.daemon.enter("ip", "link", "show", "outside"), capture_output=True, timeout=10).returncode == 0:
            return
        for line in ("link add outside type bridge", f"address add {address}/24 dev outside", "link set outside up"):
            subprocess.run(self.daemon.enter("ip", *line.split()), check=True, timeout=10)

    def beside(self, *words, log="registry.log"):
        with open(os.path.join(self.daemon.root, log), "ab") as file:
            process = subprocess.Popen(self.daemon.enter(*words), stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        self.daemon.others.append(process)
        self.note_process(process)

    def listens(self, address):
        host, _, port = address.rpartition(":")
        ask = self.daemon.enter(sys.executable, "-c", CONNECT, host, port)
        harness.until(lambda: subprocess.run(ask, stdin=subprocess.DEVNULL, capture_output=True, timeout=10).returncode == 0, what=f"a listener at {address}")

    def note_process(self, process):
        getattr(self.daemon, "outer_daemon", self.daemon).note(process)


def values(text):
    """JSON, or JSON line by line."""
    try:
        return json.loads(text)
    except ValueError:
        try:
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError:
            return None

"""One daemon in a network namespace of its own, for scripts that drive it with other people's clients.

Everything it makes lies below one directory in /tmp and in one namespace, and is removed again: at the
end, after a failure, and, by a process that waits for that, when the script itself is killed.
"""

import atexit
import glob
import http.client
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
import traceback

PLACE = "/tmp"
REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# How long the daemon may take to answer, and to end.
UP_SECONDS = 30
DOWN_SECONDS = 20
# Programs of busybox that the scripts use.
PROGRAMS = (
    "sh ls cat sleep echo wget nc id true false stat env hostname ps head dd mount grep date top touch mkdir ln rm "
    "df ip pwd kill test readlink seq tr wc yes printf chmod chown md5sum tail cut sed expr nslookup ping sync"
).split()


def skip(why):
    print(f"skipped: {why}")
    sys.exit(0)


def program(name):
    places = os.environ.get("PATH", "") + ":/usr/local/bin:/usr/sbin:/sbin"
    return shutil.which(name, path=places)


def binary():
    given = os.environ.get("SKEP_BIN")
    path = given or os.path.join(REPOSITORY, "target", "debug", "skep")
    if not os.path.exists(path):
        skip(f"there is no {path}; build it or set SKEP_BIN")
    return os.path.abspath(path)


def busybox():
    """Bytes of a static busybox; ends the script where there is none."""
    path = program("busybox")
    if not path:
        skip("there is no busybox (busybox-static) to make images of")
    with open(path, "rb") as file:
        data = file.read()
    if b"/ld-linux" in data[:65536] or b"/ld-musl" in data[:65536]:
        skip("busybox is not static")
    return data


def root_file_system():
    """A root file system with busybox, as a tar archive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:

        def add(name, kind=tarfile.REGTYPE, data=b"", mode=0o644, link=""):
            info = tarfile.TarInfo(name)
            info.type, info.size, info.mode, info.linkname, info.mtime = kind, len(data), mode, link, 1767225600
            archive.addfile(info, io.BytesIO(data))

        for name, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("root", 0o700), ("var", 0o755)):
            add(name, tarfile.DIRTYPE, mode=mode)
        add("bin/busybox", data=busybox(), mode=0o755)
        for name in PROGRAMS:
            add(f"bin/{name}", tarfile.SYMTYPE, link="busybox", mode=0o777)
        add("etc/passwd", data=b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
        add("etc/group", data=b"root:x:0:\nnogroup:x:65534:\nextra:x:777:\n")
    return out.getvalue()


class Daemon:
    """`skep daemon` in a namespace; `down` takes everything away again."""

    def __init__(self, *flags):
        if os.geteuid() != 0:
            skip("a daemon needs root")
        for name in ("ip", "nsenter", "nft"):
            if not program(name):
                skip(f"there is no `{name}`")
        with open("/proc/filesystems") as known:
            if "\toverlay" not in known.read():
                skip("the kernel has no overlayfs")
        self.binary = binary()
        self.name = f"skc-{os.getpid()}"
        self.root = os.path.join(PLACE, self.name)
        self.socket = os.path.join(self.root, "s.sock")
        self.host = f"unix://{self.socket}"
        self.process = None
        self.others = []
        os.mkdir(self.root)
        script = 'read -r word; [ "$word" = done ] || exec "$0" "$1" clean "$2" "$3"'
        self.guard = subprocess.Popen(
            ["sh", "-c", script, sys.executable, os.path.abspath(__file__), self.binary, self.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        atexit.register(self.down)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        subprocess.run([program("ip"), "netns", "add", self.name], check=True)
        self.inside("ip", "link", "set", "lo", "up")
        self.flags = flags
        self.start()

    def enter(self, *words):
        """A command line that runs in the daemon's network namespace, and only that namespace."""
        return [program("nsenter"), f"--net=/run/netns/{self.name}", program(words[0]) or words[0], *words[1:]]

    def inside(self, *words, check=True, **more):
        return subprocess.run(self.enter(*words), check=check, timeout=60, **more)

    def start(self):
        self.log = open(os.path.join(self.root, "log"), "ab")
        self.process = subprocess.Popen(
            self.enter(
                self.binary,
                "daemon",
                "--data-root", os.path.join(self.root, "data"),
                "--exec-root", os.path.join(self.root, "run"),
                "--cgroup-parent", f"/{self.name}",
                "--insecure-registry", "127.0.0.0/8",
                "--node-name", "conformance",
                "-H", self.host,
                *self.flags,
            ),
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
        )
        self.note(self.process)
        deadline = time.monotonic() + UP_SECONDS
        while True:
            try:
                if self.call("GET", "/_ping").status == 200:
                    return
            except OSError:
                pass
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the daemon does not answer:\n{self.words()}")
            time.sleep(0.05)

    def stop(self):
        end(self.process)
        self.process = None
        self.log.close()

    def words(self, count=40):
        with open(os.path.join(self.root, "log"), "rb") as log:
            return b"\n".join(log.read().splitlines()[-count:]).decode(errors="replace")

    def run_beside(self, *words):
        """A program in the daemon's namespace for as long as the daemon runs."""
        log = open(os.path.join(self.root, f"{os.path.basename(words[0])}.log"), "ab")
        process = subprocess.Popen(self.enter(*words), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.others.append(process)
        self.note(process)
        return process

    def note(self, process):
        """Remembers a process for whoever cleans up when this script no longer can."""
        with open(os.path.join(self.root, "pids"), "a") as pids:
            pids.write(f"{process.pid}\n")

    def registry(self, port=5000):
        """A registry on the namespace's loopback; `None` where there is no docker-registry."""
        found = program("docker-registry")
        if not found:
            return None
        place = os.path.join(self.root, "registry")
        os.makedirs(place, exist_ok=True)
        config = os.path.join(self.root, "registry.yml")
        with open(config, "w") as file:
            file.write(
                "version: 0.1\nlog:\n  level: error\nstorage:\n  delete:\n    enabled: true\n"
                f"  filesystem:\n    rootdirectory: {place}\nhttp:\n  addr: 127.0.0.1:{port}\n"
            )
        self.run_beside(found, "serve", config)
        until(
            lambda: self.inside("nc", "-z", "127.0.0.1", str(port), check=False, stderr=subprocess.DEVNULL).returncode == 0
            if program("nc")
            else self.inside("busybox", "nc", "-w", "1", "127.0.0.1", str(port), check=False, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
        )
        return f"127.0.0.1:{port}"

    def call(self, method, path, body=None, headers=None, timeout=60):
        return call(self.socket, method, path, body, headers, timeout)

    def image(self, name):
        """Makes the busybox image with `POST /images/create?fromSrc=-`."""
        repo, _, tag = name.rpartition(":")
        answer = self.call(
            "POST",
            f"/images/create?fromSrc=-&repo={repo}&tag={tag}&changes=CMD%20sh",
            root_file_system(),
            {"Content-Type": "application/x-tar"},
        )
        if answer.status != 200:
            raise RuntimeError(f"no image: {answer.status} {answer.body[:300]}")

    def down(self):
        atexit.unregister(self.down)
        for process in self.others:
            end(process)
        if self.process:
            end(self.process)
        clean(self.binary, self.name)
        if self.guard:
            try:
                self.guard.stdin.write(b"done\n")
                self.guard.stdin.close()
            except OSError:
                pass
            self.guard.wait()
            self.guard = None


def end(process):
    """Ends a process we started."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(DOWN_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def end_noted(root):
    """Ends the processes noted in a directory, if they still are those."""
    try:
        with open(os.path.join(root, "pids")) as pids:
            noted = [int(pid) for pid in pids]
    except OSError:
        return

    def is_ours(pid):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as line:
                return root.encode() in line.read()
        except OSError:
            return False

    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + DOWN_SECONDS
        for pid in filter(is_ours, noted):
            os.kill(pid, number)
        while any(map(is_ours, noted)) and time.monotonic() < deadline:
            time.sleep(0.05)


def clean(skep, name):
    """Removes what a daemon of this name has left: containers, networks, cgroups, the namespace, files."""
    root = os.path.join(PLACE, name)
    ip = program("ip")
    end_noted(root)
    if os.path.exists(f"/run/netns/{name}"):
        wipe = [skep, "dev", "wipe", "--data-root", f"{root}/data", "--exec-root", f"{root}/run", "--cgroup-parent", f"/{name}"]
        subprocess.run(
            [program("nsenter"), f"--net=/run/netns/{name}", *wipe],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=120,
        )
        subprocess.run([ip, "netns", "del", name])
    for group in [f"/sys/fs/cgroup/{name}", *glob.glob(f"/sys/fs/cgroup/*/{name}")]:
        for place, _, _ in os.walk(group, topdown=False):
            try:
                os.rmdir(place)
            except OSError as error:
                print(f"left behind: {place}: {error}", file=sys.stderr)
    shutil.rmtree(root, ignore_errors=True)


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)


class Connection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def call(path, method, target, body=None, headers=None, timeout=60):
    """One request over a unix socket; a body that is not bytes is sent as JSON."""
    headers = dict(headers or {})
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
        headers.setdefault("Content-Type", "application/json")
    connection = Connection(path, timeout)
    try:
        connection.request(method, target, body, headers)
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


def until(condition, seconds=10, what="a condition"):
    """Waits for something to hold, and gives it back."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not hold within {seconds} s")
        time.sleep(0.05)


class Checks:
    """Checks that each run, whatever the others did. `only` in the arguments picks some by a part of their name."""

    def __init__(self):
        self.failed = []
        self.count = 0
        self.only = [word for word in sys.argv[1:] if not word.startswith("-")]

    def check(self, name, function):
        if self.only and not any(word in name for word in self.only):
            return
        self.count += 1
        began = time.monotonic()
        try:
            function()
        except Exception:
            self.failed.append(name)
            print(f"FAIL {name}")
            traceback.print_exc(file=sys.stdout)
        took = time.monotonic() - began
        if "-v" in sys.argv or took > 15:
            print(f"     {name}: {took:.1f} s")
        sys.stdout.flush()

    def end(self):
        print(f"{self.count} checks, {len(self.failed)} failed")
        for name in self.failed:
            print(f"  {name}")
        return 1 if self.failed else 0


def hold():
    """A daemon with an image, for shell scripts: tells where it is, and goes when its input ends."""
    daemon = Daemon()
    try:
        daemon.image("busybox:latest")
        print(daemon.host, daemon.root, daemon.name, flush=True)
        sys.stdin.read()
    finally:
        daemon.down()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["clean", skep, name]:
            clean(skep, name)
        case ["hold"]:
            hold()

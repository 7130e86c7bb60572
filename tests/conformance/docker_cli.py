#!/usr/bin/env python3
"""The docker client of version 28 against one daemon, on what a single host does: every flag of `run`,
terminals, copying, logs that rotate, statistics, events, clean-up, networks and volumes.

Each flag takes effect, seen in the container, in the kernel or in `inspect`, or is refused by name.
"""

import io
import json
import os
import pty
import re
import select
import subprocess
import sys
import tarfile
import termios
import struct
import fcntl
import time

sys.dont_write_bytecode = True

from harness import Checks, Daemon, program, skip, until

IMAGE = "busybox"


class Ran:
    def __init__(self, line, done):
        self.line, self.status = line, done.returncode
        self.raw, self.err = done.stdout, done.stderr.decode(errors="replace")
        self.out = self.raw.decode(errors="replace")

    def __str__(self):
        return f"{self.line}\n  status {self.status}\n  out {self.out[-1500:]}\n  err {self.err[-1500:]}"


class Cli:
    def __init__(self, daemon):
        self.daemon, self.path = daemon, program("docker")
        self.home = os.path.join(daemon.root, "home")
        os.makedirs(self.home, exist_ok=True)
        self.env = {"PATH": os.environ["PATH"], "HOME": self.home, "DOCKER_HOST": daemon.host}

    def raw(self, *words, given=b"", timeout=60):
        done = subprocess.run([self.path, *words], input=given, capture_output=True, env=self.env, cwd=self.daemon.root, timeout=timeout)
        return Ran(" ".join(words), done)

    def __call__(self, *words, **more):
        """What it prints; it must succeed."""
        ran = self.raw(*words, **more)
        assert ran.status == 0, ran
        return ran.out.rstrip("\n")

    def fails(self, text, *words, status=None, **more):
        ran = self.raw(*words, **more)
        assert ran.status != 0 and text.lower() in (ran.err + ran.out).lower(), f"want a failure with {text!r}: {ran}"
        assert status is None or ran.status == status, f"want status {status}: {ran}"
        return ran

    def sh(self, script, *flags, **more):
        """Output of a script in a new container."""
        return self("run", "--rm", *flags, IMAGE, "sh", "-c", script, **more)

    def made(self, *flags, command=("sleep", "1000")):
        """What inspect says of a container made with flags."""
        name = self("create", *flags, IMAGE, *command)
        page = json.loads(self("inspect", name))[0]
        self("rm", "-f", "-v", name)
        return page

    def inspect(self, name):
        return json.loads(self("inspect", name))[0]


class Terminal:
    """The client on a terminal of its own."""

    def __init__(self, cli, *words, rows=24, columns=80):
        self.main, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.seen = b""
        self.process = subprocess.Popen([cli.path, *words], stdin=other, stdout=other, stderr=other, env={**cli.env, "TERM": "xterm"}, start_new_session=True)
        os.close(other)

    def resize(self, rows, columns):
        fcntl.ioctl(self.main, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        os.kill(self.process.pid, 28)

    def type(self, data):
        os.write(self.main, data)

    def expect(self, pattern, seconds=10):
        deadline = time.monotonic() + seconds
        while True:
            found = re.search(pattern, self.seen)
            if found:
                self.seen = self.seen[found.end():]
                return found
            left = deadline - time.monotonic()
            ready = left > 0 and select.select([self.main], [], [], left)[0]
            assert ready, f"want {pattern!r} within {seconds} s, have {self.seen!r}"
            try:
                self.seen += os.read(self.main, 4096)
            except OSError:
                found = re.search(pattern, self.seen)
                assert found, f"want {pattern!r}, have {self.seen!r} at the end"
                return found

    def end(self, seconds=10):
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            if select.select([self.main], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.main, 4096)
                except OSError:
                    pass
        if self.process.poll() is None:
            self.process.kill()
        status = self.process.wait()
        os.close(self.main)
        return status


def main():
    path = program("docker")
    if not path:
        skip("there is no docker client")
    version = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
    major = re.match(r"Docker version (\d+)", version)
    if not major or int(major[1]) < 28:
        skip(f"the docker client is not 28 or later: {version.strip()}")
    daemon = Daemon()
    try:
        daemon.image("busybox:latest")
        cli = Cli(daemon)
        checks = Checks()
        for subject in (run_flags, terminals, copying, logs, statistics, events, housekeeping, objects, networks, volumes, registries):
            for name, function in subject(cli).items():
                if callable(function) and "<locals>" in getattr(function, "__qualname__", "") and not name.startswith("_"):
                    checks.check(f"{subject.__name__}: {name.replace('_', ' ')}", function)
                    left = cli("ps", "-aq").split()
                    if left:
                        cli.raw("rm", "-f", "-v", *left)
        return checks.end()
    finally:
        if "-v" in sys.argv:
            print(daemon.words())
        daemon.down()


def run_flags(c):
    def names_and_environment():
        with open(os.path.join(c.daemon.root, "vars"), "w") as file:
            file.write("FROM=file\n# no\nWHO=other\n")
        with open(os.path.join(c.daemon.root, "labels"), "w") as file:
            file.write("from=file\n")
        assert c.sh("echo $A $FROM $WHO $HOSTNAME; hostname; id -u; pwd", "-e", "A=b", "--env-file", "vars", "-h", "there", "-u", "0:0", "-w", "/tmp") == "b file other there\nthere\n0\n/tmp"
        page = c.made("--label", "a=b", "--label-file", "labels", "--annotation", "x=y", "--domainname", "test", "--entrypoint", "echo", "--stop-signal", "SIGINT", "--stop-timeout", "7", "--name", "named", "--expose", "80-81", "--platform", "linux/amd64", "--pull", "missing", "--quiet")
        config = page["Config"]
        assert config["Labels"] == {"a": "b", "from": "file"} and page["HostConfig"]["Annotations"] == {"x": "y"} and config["Domainname"] == "test" and config["Entrypoint"] == ["echo"], page
        assert config["StopSignal"] == "SIGINT" and config["StopTimeout"] == 7 and page["Name"] == "/named" and set(config["ExposedPorts"]) == {"80/tcp", "81/tcp"}, page
        assert c.sh("hostname -f 2>/dev/null; cat /etc/hosts", "-h", "there", "--domainname", "test").count("there.test") >= 1
        assert c.sh("cat /etc/hosts; cat /etc/resolv.conf", "--add-host", "other:192.0.2.9", "--dns", "192.0.2.1", "--dns-option", "ndots:4", "--dns-search", "x.test").count("192.0.2.9\tother") == 1
        c("run", "-d", "--cidfile", os.path.join(c.daemon.root, "cid"), IMAGE, "sleep", "1000")
        assert len(open(os.path.join(c.daemon.root, "cid")).read()) == 64
        assert "host.docker.internal" in c.sh("cat /etc/hosts", "--add-host", "host.docker.internal:host-gateway")

    def cpu_memory_and_pids():
        c("run", "-d", "--name", "limits", "--cpu-period", "50000", "--cpu-quota", "25000", "-c", "512", "--cpuset-cpus", "0", "--cpuset-mems", "0", "-m", "64m", "--memory-reservation", "32m", "--memory-swap", "128m",
          "--memory-swappiness", "20", "--pids-limit", "33", "--oom-score-adj", "50", "--blkio-weight", "200", "--shm-size", "4m", "--ulimit", "nofile=64:128", IMAGE, "sleep", "1000")
        seen = lambda v1, v2: _cgroup(c, "limits", v1, v2)
        assert seen("cpu/cpu.cfs_quota_us", "cpu.max").split()[0] == "25000" and seen("memory/memory.limit_in_bytes", "memory.max") == str(64 << 20)
        assert seen("pids/pids.max", "pids.max") == "33" and seen("cpuset/cpuset.cpus", "cpuset.cpus") == "0" and seen("memory/memory.soft_limit_in_bytes", "memory.low") == str(32 << 20)
        assert c("exec", "limits", "sh", "-c", "ulimit -n; ulimit -Hn; cat /proc/1/oom_score_adj; grep /dev/shm /proc/mounts").startswith("64\n128\n50\nshm /dev/shm tmpfs") and "size=4096k" in c("exec", "limits", "grep", "/dev/shm", "/proc/mounts")
        page = c.made("--cpus", "0.5", "--oom-kill-disable", "-m", "64m", "--kernel-memory", "0")
        assert page["HostConfig"]["NanoCpus"] == 500000000
        c.fails("Minimum memory limit can not be less than memory reservation limit", "run", "--memory-reservation", "65m", "-m", "64m", IMAGE, "true", status=125)
        c.fails("cpus", "run", "--cpus", "9999", IMAGE, "true", status=125)
        c.fails("real-time", "run", "--cpu-rt-period", "1000000", "--cpu-rt-runtime", "950000", IMAGE, "true", status=125)

    def devices_and_block_io():
        assert c.sh("echo x > /dev/x && echo fine", "--device", "/dev/null:/dev/x:w") == "fine"
        assert c.sh("head -c1 /dev/x 2>/dev/null || echo refused", "--device", "/dev/kmsg:/dev/x:w") == "refused"
        page = c.made("--device-cgroup-rule", "c 1:3 rw", "--device-read-bps", "/dev/null:1mb", "--device-write-bps", "/dev/null:2mb", "--device-read-iops", "/dev/null:100", "--device-write-iops", "/dev/null:200", "--blkio-weight-device", "/dev/null:100")["HostConfig"]
        assert page["DeviceCgroupRules"] == ["c 1:3 rw"] and page["BlkioDeviceReadBps"] == [{"Path": "/dev/null", "Rate": 1 << 20}] and page["BlkioDeviceWriteIOps"][0]["Rate"] == 200
        # Kernels without such weights discard it, and say so.
        assert page["BlkioWeightDevice"] in ([{"Path": "/dev/null", "Weight": 100}], [], None)
        c.fails("could not select device driver", "run", "--gpus", "all", IMAGE, "true", status=125)

    def privileges():
        caps = lambda *flags: int(c.sh("grep CapEff /proc/self/status | cut -f2", *flags), 16)
        assert caps("--privileged") > caps() > caps("--cap-drop", "ALL") == 0 and caps("--cap-drop", "all", "--cap-add", "CAP_SYS_TIME") == 1 << 25
        assert c.sh("id -G", "--group-add", "777", "--group-add", "extra") == "0 777"
        assert c.sh("grep NoNewPrivs /proc/self/status | cut -f2", "--security-opt", "no-new-privileges") == "1"
        assert c.sh("touch /x 2>/dev/null || echo refused", "--read-only") == "refused"
        assert c.sh("cat /proc/sys/net/ipv4/ip_default_ttl", "--sysctl", "net.ipv4.ip_default_ttl=55") == "55"
        assert c.sh("grep -c proc /proc/1/mountinfo >/dev/null; cat /proc/1/comm", "--init").strip() not in ("sh", "cat")
        assert c.made("--userns", "host", "--cgroup-parent", "/skc-own")["HostConfig"]["CgroupParent"] == "/skc-own"
        c.fails("runtime", "run", "--runtime", "nosuch", IMAGE, "true", status=125)
        assert c.sh("echo fine", "--runtime", "runc") == "fine"
        c.fails("", "run", "--isolation", "hyperv", IMAGE, "true", status=125)
        c.fails("storage-opt", "run", "--storage-opt", "size=1G", IMAGE, "true", status=125)
        c.fails("", "run", "--security-opt", "apparmor=nosuchprofile", IMAGE, "true", status=125) if os.path.exists("/sys/kernel/security/apparmor") else None

    def namespaces():
        c("run", "-d", "--name", "first", "--ipc", "shareable", IMAGE, "sleep", "1000")
        link = lambda kind, *flags: c.sh(f"readlink /proc/self/ns/{kind}", *flags)
        for kind, flag in (("ipc", "--ipc"), ("pid", "--pid"), ("net", "--network")):
            assert link(kind, flag, "container:first") == c("exec", "first", "readlink", f"/proc/self/ns/{kind}"), kind
        for kind, flag in (("ipc", "--ipc"), ("pid", "--pid"), ("uts", "--uts"), ("cgroup", "--cgroupns")):
            assert link(kind, flag, "host") == os.readlink(f"/proc/self/ns/{kind}"), kind
        assert link("cgroup", "--cgroupns", "private") != os.readlink("/proc/self/ns/cgroup")
        assert c.sh("grep -c /dev/shm /proc/mounts || true", "--ipc", "none") == "0"
        c.fails("No such container", "run", "--network", "container:nosuch", IMAGE, "true", status=125)

    def mounts():
        place = os.path.join(c.daemon.root, "shared")
        os.makedirs(place, exist_ok=True)
        with open(os.path.join(place, "f"), "w") as file:
            file.write("of the host\n")
        assert c.sh("cat /m/f; touch /m/x 2>/dev/null || echo refused", "-v", f"{place}:/m:ro") == "of the host\nrefused"
        assert c.sh("cat /m/f", "--mount", f"type=bind,src={place},dst=/m,readonly,bind-propagation=rslave") == "of the host"
        assert "size=64k" in c.sh("grep ' /t ' /proc/mounts", "--tmpfs", "/t:size=64k,mode=1770") and "size=128k" in c.sh("grep ' /t ' /proc/mounts", "--mount", "type=tmpfs,dst=/t,tmpfs-size=128k,tmpfs-mode=700")
        assert c.sh("mkdir -p /v/sub; echo kept > /v/sub/f", "-v", "kept:/v") == "" and c.sh("cat /v/f", "--mount", "type=volume,src=kept,dst=/v,volume-subpath=sub") == "kept"
        assert c.sh("echo anonymous > /a/f; cat /a/f", "-v", "/a", "--volume-driver", "local") == "anonymous"
        c("run", "-d", "--name", "giver", "-v", "kept:/v", "-v", f"{place}:/h", IMAGE, "sleep", "1000")
        assert c.sh("cat /v/sub/f /h/f", "--volumes-from", "giver") == "kept\nof the host" and c.sh("touch /v/x 2>/dev/null || echo refused", "--volumes-from", "giver:ro") == "refused"
        c("rm", "-f", "giver")
        c("volume", "rm", "kept")
        # A directory of the image is copied to a new volume.
        assert c.sh("ls /etc/passwd", "-v", "fresh:/etc") == "/etc/passwd" and c.sh("ls /e", "-v", "fresh:/e").split() [:1] != []
        assert c.sh("ls /etc | grep -c passwd || true", "--mount", "type=volume,src=bare,dst=/etc,volume-nocopy") == "0"
        c("volume", "rm", "fresh", "bare")
        c.fails("bind source path does not exist", "run", "--mount", "type=bind,src=/nosuch,dst=/x", IMAGE, "true", status=125)
        assert c.sh("ls -d /m/made", "-v", f"{place}/made/deep:/m/made") == "/m/made" and os.path.isdir(f"{place}/made/deep")

    def health():
        c("run", "-d", "--name", "well", "--health-cmd", "test -f /tmp/well", "--health-interval", "200ms", "--health-retries", "2", "--health-timeout", "5s", "--health-start-period", "100ms", "--health-start-interval", "50ms", IMAGE, "sleep", "1000")
        state = lambda: c("inspect", "-f", "{{.State.Health.Status}}", "well")
        until(lambda: state() == "unhealthy", 10, "unhealthy")
        c("exec", "well", "touch", "/tmp/well")
        until(lambda: state() == "healthy", 10, "healthy")
        assert "(healthy)" in c("ps", "--format", "{{.Status}}") and c.inspect("well")["Config"]["Healthcheck"]["StartInterval"] == 50_000_000
        assert c.made("--no-healthcheck")["Config"]["Healthcheck"] == {"Test": ["NONE"]}

    def ports():
        c("run", "-d", "--name", "web", "-p", "127.0.0.1:18081:80", "-p", "18082:81/udp", "-P", "--expose", "90", IMAGE, "sh", "-c", "while :; do echo hello | nc -l -p 80; done")
        assert c("port", "web", "80") == "127.0.0.1:18081" and "81/udp -> 0.0.0.0:18082" in c("port", "web") and re.search(r"90/tcp -> 0.0.0.0:\d+", c("port", "web"))
        c.fails("No public port '7", "port", "web", "7")
        until(lambda: c.daemon.inside("busybox", "nc", "-w", "1", "127.0.0.1", "18081", capture_output=True, check=False).stdout == b"hello\n", 10, "an answer")
        c.fails("port is already allocated", "run", "-p", "127.0.0.1:18081:80", IMAGE, "true", status=125)
        c.fails("invalid", "run", "-p", "nosuch", IMAGE, "true", status=125)

    def restarts():
        c("run", "-d", "--name", "again", "--restart", "on-failure:2", IMAGE, "false")
        until(lambda: c("inspect", "-f", "{{.RestartCount}} {{.State.Status}}", "again") == "2 exited", 15, "two restarts")
        c("run", "-d", "--name", "still", "--restart", "always", IMAGE, "sleep", "1000")
        c("kill", "still")
        c("stop", "-t", "0", "still")
        c.fails("--restart and --rm", "run", "--rm", "--restart", "always", IMAGE, "true", status=125)
        assert c.made("--restart", "unless-stopped")["HostConfig"]["RestartPolicy"] == {"Name": "unless-stopped", "MaximumRetryCount": 0}

    def links_and_network_flags():
        c("network", "create", "--subnet", "10.50.0.0/24", "--ipv6", "--subnet", "fd50::/64", "own")
        c("run", "-d", "--name", "db", "--network", "own", "--ip", "10.50.0.5", "--ip6", "fd50::5", "--network-alias", "base", "--mac-address", "02:42:0a:32:00:05", "--link-local-ip", "169.254.5.5", IMAGE, "sleep", "1000")
        end = c.inspect("db")["NetworkSettings"]["Networks"]["own"]
        assert end["IPAddress"] == "10.50.0.5" and end["GlobalIPv6Address"] == "fd50::5" and "base" in end["Aliases"] and end["MacAddress"] == "02:42:0a:32:00:05" and end["IPAMConfig"]["LinkLocalIPs"] == ["169.254.5.5"], end
        assert "169.254.5.5" in c("exec", "db", "ip", "addr")
        for name in ("db", "base"):
            assert "10.50.0.5" in c.sh(f"ping -4 -c1 -W2 {name}", "--network", "own"), name
        assert "10.50.0.5" in c.sh("ping -4 -c1 -W2 linked", "--network", "own", "--link", "db:linked")
        c("run", "-d", "--name", "old", "-e", "X=1", IMAGE, "sleep", "1000")
        text = c.sh("cat /etc/hosts; env", "--link", "old:legacy")
        assert "\tlegacy old" in text.replace(c.inspect("old")["Config"]["Hostname"] + " ", "") and "LEGACY_ENV_X=1" in text and "LEGACY_NAME=" in text, text
        c.fails("non running", "run", "--link", c("create", IMAGE, "true") + ":x", IMAGE, "true", status=125)
        c("network", "create", "own2")
        assert c.sh("ls /sys/class/net | sort | tr '\\n' ' '", "--network", "name=own,alias=al,ip=10.50.0.77", "--network", "own2").split() == ["eth0", "eth1", "lo"]
        c("rm", "-f", "db")
        c("network", "rm", "own", "own2")

    def run_itself():
        assert c.raw("run", "--rm", "-i", "-a", "stdin", "-a", "stdout", IMAGE, "cat", given=b"given").out == "given"
        assert c.raw("run", "--rm", "-a", "stderr", IMAGE, "sh", "-c", "echo out; echo err >&2").out == "" 
        assert c.raw("run", "--rm", IMAGE, "sh", "-c", "exit 7").status == 7 and c.raw("run", "--rm", IMAGE, "nosuch").status == 127 and c.raw("run", "--rm", IMAGE, "/etc").status == 126
        c.fails("Unable to find image 'nosuch/x:latest' locally", "run", "--rm", "nosuch/x", status=125)
        c.fails("No such image", "run", "--pull", "never", "nosuch/x", status=125)
        assert c("run", "-d", "--rm", "--log-driver", "local", "--log-opt", "max-size=1m", IMAGE, "true")
        c.fails("unknown log opt", "run", "--log-opt", "nosuch=1", IMAGE, "true", status=125)
        process = subprocess.Popen([c.path, "run", "--rm", "--sig-proxy=true", IMAGE, "sh", "-c", "trap 'exit 5' USR1; echo up; while :; do sleep 0.1; done"], stdout=subprocess.PIPE, env=c.env)
        assert process.stdout.readline() == b"up\n"
        process.send_signal(10)
        assert process.wait(10) == 5

    return locals()


def _cgroup(c, name, v1, v2):
    pid = c("inspect", "-f", "{{.State.Pid}}", name)
    for line in open(f"/proc/{pid}/cgroup").read().splitlines():
        _, controllers, group = line.split(":", 2)
        wanted, file = v1.split("/", 1)
        if wanted in controllers.split(","):
            return open(f"/sys/fs/cgroup/{wanted}{group}/{file}").read().strip()
        if controllers == "" and os.path.exists(f"/sys/fs/cgroup{group}/{v2}"):
            return open(f"/sys/fs/cgroup{group}/{v2}").read().strip()
    raise AssertionError(f"no {v1} of {name}")


def terminals(c):
    def a_shell():
        term = Terminal(c, "run", "--rm", "-it", "--name", "shell", IMAGE, "sh", rows=33, columns=77)
        term.expect(rb"# ")
        term.type(b"stty size 2>/dev/null || busybox stty size\n")
        term.expect(rb"33 77", 10)
        term.resize(44, 99)
        def resized():
            term.type(b"busybox stty size\n")
            try:
                return term.expect(rb"44 99", 1)
            except AssertionError:
                return None
        until(resized, 10, "the new size")
        term.type(b"echo $TERM; tty >/dev/null 2>&1; exit 6\n")
        term.expect(rb"xterm")
        assert term.end() == 6

    def interrupting():
        term = Terminal(c, "run", "--rm", "-it", IMAGE, "sh", "-c", "trap 'echo caught; exit 9' INT; echo up; while :; do sleep 0.1; done")
        term.expect(rb"up")
        term.type(b"\x03")
        term.expect(rb"caught")
        assert term.end() == 9

    def detach_keys():
        term = Terminal(c, "run", "-it", "--name", "left", IMAGE, "sh")
        term.expect(rb"# ")
        term.type(b"\x10\x11")
        assert term.end() == 0 and c("inspect", "-f", "{{.State.Running}}", "left") == "true"
        term = Terminal(c, "attach", "--detach-keys", "ctrl-x,x", "left")
        term.type(b"echo ag''ain\n")
        term.expect(rb"again")
        term.type(b"\x18x")
        term.end()
        assert c("inspect", "-f", "{{.State.Running}}", "left") == "true"
        term = Terminal(c, "exec", "-it", "--detach-keys", "ctrl-a", "left", "sh")
        term.expect(rb"# ")
        term.type(b"\x01")
        term.end()
        term = Terminal(c, "exec", "-it", "-e", "X=y", "-w", "/tmp", "left", "sh", "-c", "echo $X; pwd; exit 4")
        term.expect(rb"y\r\n/tmp")
        assert term.end() == 4
        c("stop", "-t", "0", "left")
        term = Terminal(c, "start", "-ai", "left")
        term.type(b"echo star''ted; exit 3\n")
        term.expect(rb"started")
        assert term.end() == 3

    return locals()


def copying(c):
    def _tar(**files):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as made:
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size, info.uid, info.gid = len(data), 12, 34
                made.addfile(info, io.BytesIO(data))
        return out.getvalue()

    def in_and_out():
        here = os.path.join(c.daemon.root, "copy")
        os.makedirs(f"{here}/dir/sub", exist_ok=True)
        open(f"{here}/file", "w").write("one\n")
        open(f"{here}/dir/sub/deep", "w").write("deep\n")
        if not os.path.islink(f"{here}/link"):
            os.symlink("file", f"{here}/link")
        c("run", "-d", "--name", "box", IMAGE, "sh", "-c", "mkdir /d; ln -s /d /ld; echo inside > /d/f; ln -s /d/f /lf; sleep 1000")
        until(lambda: c.raw("exec", "box", "ls", "/lf").status == 0)
        cat = lambda path: c("exec", "box", "cat", path)
        c("cp", f"{here}/file", "box:/tmp/new")
        assert cat("/tmp/new") == "one"
        c("cp", f"{here}/file", "box:/ld/")
        assert cat("/d/file") == "one"
        c("cp", f"{here}/dir", "box:/tmp")
        assert cat("/tmp/dir/sub/deep") == "deep"
        c("cp", f"{here}/dir/.", "box:/d")
        assert cat("/d/sub/deep") == "deep"
        c("cp", "-q", f"{here}/link", "box:/tmp/l1")
        assert c("exec", "box", "readlink", "/tmp/l1") == "file"
        c("cp", "-L", f"{here}/link", "box:/tmp/l2")
        assert cat("/tmp/l2") == "one"
        c("cp", "box:/lf", f"{here}/out1")
        assert os.path.islink(f"{here}/out1") and os.readlink(f"{here}/out1") == "/d/f"
        c("cp", "-L", "box:/lf", f"{here}/out2")
        assert open(f"{here}/out2").read() == "inside\n"
        c("cp", "box:/d", f"{here}/outdir")
        assert open(f"{here}/outdir/sub/deep").read() == "deep\n"
        data = c.raw("cp", "box:/d/f", "-").raw
        assert tarfile.open(fileobj=io.BytesIO(data)).extractfile("f").read() == b"inside\n"
        c("cp", "-a", "-", "box:/tmp", given=_tar(owned=b"x"))
        assert c("exec", "box", "stat", "-c", "%u:%g", "/tmp/owned") == "12:34"
        c.fails("Could not find the file /nosuch in container", "cp", "box:/nosuch", here)
        c.fails("", "cp", f"{here}/file", "box:/nosuch/")
        c.fails("no such file or directory", "cp", f"{here}/nosuch", "box:/tmp")
        c.fails("No such container", "cp", f"{here}/file", "nosuch:/tmp")
        c.fails("", "cp", f"{here}/dir", "box:/d/f")
        c("stop", "-t", "0", "box")
        c("cp", "box:/d/f", f"{here}/stopped")
        assert open(f"{here}/stopped").read() == "inside\n"

    def export_diff_commit():
        c("run", "--name", "made", IMAGE, "sh", "-c", "echo x > /new; rm /etc/group; mkdir /dir")
        assert set(c("diff", "made").splitlines()) >= {"A /new", "D /etc/group", "C /etc", "A /dir"}
        data = c.raw("export", "made").raw
        names = tarfile.open(fileobj=io.BytesIO(data)).getnames()
        assert "new" in names and "etc/group" not in names
        c("export", "-o", f"{c.daemon.root}/e.tar", "made")
        assert os.path.getsize(f"{c.daemon.root}/e.tar") == len(data)
        c("commit", "-a", "me", "-m", "said", "-c", "CMD [\"cat\", \"/new\"]", "-c", "EXPOSE 80", "-c", "LABEL a=b", "--pause=false", "made", "com:1")
        assert c("run", "--rm", "com:1") == "x"
        page = c.inspect("com:1")
        assert page["Author"] == "me" and page["Comment"] == "said" and page["Config"]["Labels"] == {"a": "b"} and page["Config"]["ExposedPorts"] == {"80/tcp": {}}
        assert "said" in c("history", "com:1")
        c.raw("import", "-c", "CMD sh", "-m", "again", "-", "imp:1", given=data)
        assert c("run", "--rm", "imp:1", "cat", "/new") == "x"
        c("save", "-o", f"{c.daemon.root}/s.tar", "com:1", "imp:1")
        c("rm", "made")
        c("rmi", "com:1", "imp:1")
        assert set(c("load", "-q", "-i", f"{c.daemon.root}/s.tar").splitlines()) == {"Loaded image: com:1", "Loaded image: imp:1"}
        c("rmi", "-f", "com:1", "imp:1")

    return locals()


def logs(c):
    def rotation():
        for driver in ("json-file", "local"):
            c("run", "--name", f"big-{driver}", "--log-driver", driver, "--log-opt", "max-size=20k", "--log-opt", "max-file=3", IMAGE, "sh", "-c", "for i in $(seq 1 3000); do echo line $i of a log that rotates; done")
            lines = c("logs", f"big-{driver}").splitlines()
            assert lines[-1] == "line 3000 of a log that rotates" and len(lines) < 3000, (driver, len(lines))
            first = int(lines[0].split()[1])
            assert lines == [f"line {number} of a log that rotates" for number in range(first, 3001)], driver
            assert c("logs", "-n", "2", f"big-{driver}").splitlines() == ["line 2999 of a log that rotates", "line 3000 of a log that rotates"]

    def compressed_and_tagged():
        c("run", "--name", "tagged", "--log-opt", "tag={{.Name}}/{{.ID}}", "--log-opt", "labels=l", "--log-opt", "env=E", "--label", "l=1", "-e", "E=2", IMAGE, "echo", "hi")
        assert set(c("logs", "--details", "tagged").split()[0].split(",")) >= {"E=2", "l=1"}
        c("run", "--name", "packed", "--log-opt", "max-size=10k", "--log-opt", "max-file=3", "--log-opt", "compress=true", IMAGE, "sh", "-c", "for i in $(seq 1 2000); do echo line $i; done")
        assert c("logs", "packed").splitlines()[-1] == "line 2000"

    def following():
        c("run", "-d", "--name", "talks", IMAGE, "sh", "-c", "for i in 1 2 3 4; do echo $i; sleep 0.2; done")
        assert c("logs", "-f", "talks") == "1\n2\n3\n4"
        stamps = [line.split()[0] for line in c("logs", "-t", "talks").splitlines()]
        assert c("logs", "--since", stamps[2], "talks") == "3\n4" and c("logs", "--until", stamps[1], "talks") == "1\n2" and c("logs", "--since", stamps[1], "--until", stamps[2], "talks") == "2\n3"
        assert c("logs", "--since", "10m", "--tail", "1", "talks") == "4"

    return locals()


def statistics(c):
    def formats():
        c("run", "-d", "--name", "busy", "-m", "64m", IMAGE, "sh", "-c", "while :; do :; done")
        row = json.loads(c("stats", "--no-stream", "--format", "json", "busy"))
        assert row["Name"] == "busy" and row["MemUsage"].endswith("/ 64MiB") and float(row["CPUPerc"].rstrip("%")) > 10 and int(row["PIDs"]) == 1, row
        assert "CONTAINER ID" in c("stats", "--no-stream", "-a", "--no-trunc")
        assert c("stats", "--no-stream", "--format", "{{.Name}} {{.MemPerc}}", "busy").startswith("busy ")
        c.fails("No such container", "stats", "--no-stream", "nosuch")
        assert "PID" in c("top", "busy") and c("top", "busy", "-o", "pid,comm").splitlines()[0].split() == ["PID", "COMMAND"]

    def update():
        c("run", "-d", "--name", "up", "-m", "64m", "--memory-swap", "128m", IMAGE, "sleep", "1000")
        c("update", "-m", "96m", "--memory-swap", "192m", "--memory-reservation", "48m", "--cpus", "0.5", "--cpu-shares", "256", "--cpuset-cpus", "0", "--pids-limit", "44", "--restart", "unless-stopped", "up")
        assert _cgroup(c, "up", "memory/memory.limit_in_bytes", "memory.max") == str(96 << 20) and _cgroup(c, "up", "pids/pids.max", "pids.max") == "44"
        page = c.inspect("up")["HostConfig"]
        assert page["NanoCpus"] == 500000000 and page["CpusetCpus"] == "0" and page["RestartPolicy"]["Name"] == "unless-stopped"
        c("update", "--restart", "no", "up")
        c.fails("No such container", "update", "-m", "64m", "nosuch")

    return locals()


def events(c):
    def replay_and_formats():
        begin = time.time()
        c("run", "--rm", "--name", "told", "--label", "a=b", IMAGE, "true")
        end = f"{time.time() + 1:.3f}"
        since = ["--since", f"{begin:.3f}", "--until", end]
        actions = c("events", *since, "--format", "{{.Type}} {{.Action}}").splitlines()
        assert [line for line in actions if line.startswith("container")] == ["container create", "container attach", "container start", "container die", "container destroy"], actions
        assert {"network connect", "network disconnect"} <= set(actions)
        for line in c("events", *since, "--format", "json", "--filter", "container=told").splitlines():
            assert json.loads(line)["Actor"]["Attributes"]["name"] == "told"
        assert len(c("events", *since, "--filter", "event=die", "--filter", "label=a=b").splitlines()) == 1
        assert re.match(r"\d{4}-\d\d-\d\dT\S+ container die [0-9a-f]{64} \(.*exitCode=0.*name=told.*\)$", c("events", *since, "--filter", "event=die")), c("events", *since, "--filter", "event=die")
        assert c("events", *since, "--filter", "type=volume") == ""
        c.fails("", "events", "--filter", "nosuch=1", *since)

    def live():
        process = subprocess.Popen([c.path, "events", "--filter", "type=volume", "--format", "{{.Action}}"], stdout=subprocess.PIPE, env=c.env)
        until(lambda: json.loads(c("info", "-f", "{{json .NEventsListener}}")) > 0, 10, "a listener")
        c("volume", "create", "told")
        assert process.stdout.readline() == b"create\n"
        c("volume", "rm", "told")
        assert process.stdout.readline() == b"destroy\n"
        process.terminate()
        process.wait(10)

    return locals()


def housekeeping(c):
    def usage():
        c("run", "-d", "--name", "user", "-v", "vol:/v", IMAGE, "sh", "-c", "dd if=/dev/zero of=/v/f bs=1k count=100 2>/dev/null; echo x > /y; sleep 1000")
        until(lambda: c.raw("exec", "user", "ls", "/y").status == 0)
        text = c("system", "df", "-v")
        assert "Images space usage" in text and "Containers space usage" in text and "Local Volumes space usage" in text and "Build cache usage" in text and re.search(r"vol\s+1\s+102.4kB", text), text
        rows = [json.loads(line) for line in c("system", "df", "--format", "json").splitlines()]
        assert {row["Type"] for row in rows} == {"Images", "Containers", "Local Volumes", "Build Cache"} and rows[1]["Active"] == "1", rows
        assert json.loads(c("system", "df", "-v", "--format", "json"))["Volumes"]
        assert "(virtual " in c("ps", "-s", "--format", "{{.Size}}")

    def prune():
        c("run", "--name", "gone", IMAGE, "true")
        c("network", "create", "unused")
        c("volume", "create", "named")
        anonymous = c("volume", "create")
        text = c("system", "prune", "-f")
        assert "Deleted Containers:" in text and re.search("Deleted Networks:(\n.*)?\nunused", text) and "Total reclaimed space:" in text, text
        assert {"named", anonymous} <= set(c("volume", "ls", "-q").split())
        text = c("system", "prune", "-f", "--volumes")
        assert anonymous in text and "named" in c("volume", "ls", "-q")
        assert "named" in c("volume", "prune", "-f", "-a")
        c("run", "--name", "kept", "--label", "keep=1", IMAGE, "true")
        assert c("container", "prune", "-f", "--filter", "label!=keep=1").strip() in ("Total reclaimed space: 0B",)
        assert "Deleted Containers" in c("container", "prune", "-f")
        c.fails("invalid", "system", "prune", "-f", "--filter", "nosuch=1")
        c("image", "prune", "-f")

    def about():
        assert c("version", "-f", "{{.Server.APIVersion}}") == "1.50"
        text = c("info")
        assert "Storage Driver: overlay2" in text and "Swarm: inactive" in text, text
        assert json.loads(c("info", "-f", "json"))["OSType"] == "linux"

    return locals()


def objects(c):
    def lists_and_formats():
        c("run", "-d", "--name", "one", "--label", "a=b", IMAGE, "sleep", "1000")
        c.raw("run", "--name", "two", IMAGE, "false")
        assert c("ps", "--format", "{{.Names}}") == "one" and c("ps", "-a", "--format", "{{.Names}}", "-f", "exited=1") == "two" and c("ps", "-l", "--format", "{{.Names}}") == "two" and c("ps", "-n", "1", "-q") == c("inspect", "-f", "{{slice .Id 0 12}}", "two")
        assert json.loads(c("ps", "--format", "json"))["Labels"] == "a=b" and len(c("ps", "-q", "--no-trunc")) == 64
        assert c("inspect", "--size", "-f", "{{.SizeRootFs}}", "one").isdigit() and c("inspect", "--type", "image", "-f", "{{.Os}}", IMAGE) == "linux"
        c.fails("No such object: nosuch", "inspect", "nosuch")
        assert c("rename", "one", "uno") == "" and c("wait", "two") == "1"
        c("pause", "uno"), c("unpause", "uno"), c("restart", "-t", "0", "-s", "KILL", "uno"), c("kill", "-s", "KILL", "uno")
        c.fails("is not running", "kill", "uno")
        c("start", "uno"), c("stop", "-t", "0", "-s", "KILL", "uno"), c("rm", "-v", "uno")
        c.fails("No such container", "rm", "uno")

    def images():
        c("tag", IMAGE, "local/x:1")
        assert c("images", "--format", "{{.Repository}}:{{.Tag}}", "local/x") == "local/x:1" and c("images", "-q", "--no-trunc", "local/x").startswith("sha256:")
        assert "<none>" in c("images", "--digests") and c("image", "ls", "-f", "dangling=true", "-q") == "" and c("images", "-a")
        assert "busybox" in c("image", "ls", "--tree") and c("history", "-q", "--no-trunc", IMAGE).startswith("sha256:") and c("history", "--human=false", "--format", "{{.Size}}", IMAGE).isdigit()
        assert c("rmi", "local/x:1") == "Untagged: local/x:1"
        c.fails("No such image", "rmi", "nosuch:1")
        c.fails("No such image", "image", "inspect", "nosuch")

    return locals()


def networks(c):
    def options():
        c("network", "create", "--driver", "bridge", "--subnet", "10.51.0.0/16", "--ip-range", "10.51.5.0/24", "--gateway", "10.51.5.254", "--aux-address", "r=10.51.5.1", "--internal", "--attachable", "--label", "a=b", "-o", "com.docker.network.bridge.name=skc-own", "--ipam-driver", "default", "own")
        page = c.inspect("own")
        assert page["IPAM"]["Config"] == [{"Subnet": "10.51.0.0/16", "IPRange": "10.51.5.0/24", "Gateway": "10.51.5.254", "AuxiliaryAddresses": {"r": "10.51.5.1"}}] and page["Internal"] and page["Labels"] == {"a": "b"}, page
        assert c.sh("ip -4 -o addr show eth0 | grep -o '10.51.5.[0-9]*/16'; ip route | grep -c default || true", "--network", "own").splitlines()[1] == "0"
        assert "skc-own" in c.daemon.inside("ip", "link", capture_output=True).stdout.decode()
        assert c("network", "ls", "-f", "name=own", "--format", "{{.Driver}} {{.Scope}} {{.Internal}}") == "bridge local true" and len(c("network", "ls", "-q", "--no-trunc", "-f", "driver=bridge").split()) == 2
        c("network", "rm", "own")
        c.fails("invalid", "network", "create", "--subnet", "nosuch", "bad")
        c.fails("plugin", "network", "create", "-d", "nosuch", "bad")
        c.fails("network nosuch not found", "network", "rm", "nosuch")
        c("network", "rm", "-f", "nosuch")

    def connect_and_disconnect():
        c("network", "create", "--subnet", "10.52.0.0/24", "own")
        c("run", "-d", "--name", "aa", IMAGE, "sleep", "1000")
        c("network", "connect", "--ip", "10.52.0.9", "--alias", "al", "--driver-opt", "x=y", "--gw-priority", "5", "own", "aa")
        end = c.inspect("aa")["NetworkSettings"]["Networks"]["own"]
        assert end["IPAddress"] == "10.52.0.9" and "al" in end["Aliases"] and end["GwPriority"] == 5 and end["DriverOpts"] == {"x": "y"}, end
        assert "10.52.0.9" in c.sh("ping -4 -c1 -W2 al", "--network", "own")
        c.fails("already exists in network", "network", "connect", "own", "aa")
        c("network", "disconnect", "own", "aa")
        c.fails("is not connected to", "network", "disconnect", "own", "aa")
        c("network", "disconnect", "-f", "bridge", "aa")
        assert c("inspect", "-f", "{{len .NetworkSettings.Networks}}", "aa") == "0"
        c("network", "connect", "own", "aa")
        c("stop", "-t", "0", "aa")
        c("network", "disconnect", "own", "aa")
        c("network", "connect", "own", "aa")
        c("start", "aa")
        c.fails("has active endpoints", "network", "rm", "own")
        c("rm", "-f", "aa")
        c("network", "rm", "own")

    def other_drivers():
        assert c.sh("ls /sys/class/net", "--network", "none") == "lo"
        assert c.sh("ls /sys/class/net | wc -l", "--network", "host") == str(len(c.daemon.inside("ls", "/proc/self/net/dev_snmp6", capture_output=True).stdout.split()))
        c.daemon.inside("ip", "link", "add", "up0", "type", "bridge", check=False)
        c.daemon.inside("ip", "link", "set", "up0", "up", check=False)
        c("network", "create", "-d", "macvlan", "--subnet", "10.53.0.0/24", "-o", "parent=up0", "mac")
        assert "10.53.0." in c.sh("ip -4 addr show eth0", "--network", "mac")
        c("network", "rm", "mac")
        c("network", "create", "--ipv6", "--ipv4=false", "--subnet", "fd55::/64", "six")
        assert "fd55::" in c.sh("ip -6 addr show eth0", "--network", "six")
        c("network", "rm", "six")
        if c.daemon.inside("ip", "link", "add", "probe0", "link", "up0", "type", "ipvlan", check=False, capture_output=True).returncode:
            print("skipped: the kernel knows no ipvlan")
            return
        c.daemon.inside("ip", "link", "del", "probe0")
        c("network", "create", "-d", "ipvlan", "--subnet", "10.54.0.0/24", "-o", "parent=up0", "-o", "ipvlan_mode=l2", "ipv")
        assert "10.54.0." in c.sh("ip -4 addr show eth0", "--network", "ipv")
        c("network", "rm", "ipv")

    return locals()


def volumes(c):
    def drivers_and_options():
        c("volume", "create", "-d", "local", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=64k,uid=7", "--label", "a=b", "tmp")
        assert "size=64k" in c.sh("grep ' /v ' /proc/mounts", "-v", "tmp:/v") and c.sh("stat -c %u /v", "-v", "tmp:/v") == "7"
        place = os.path.join(c.daemon.root, "behind")
        os.makedirs(place, exist_ok=True)
        c("volume", "create", "-o", "type=none", "-o", f"device={place}", "-o", "o=bind", "bound")
        c.sh("echo there > /v/f", "-v", "bound:/v")
        assert open(f"{place}/f").read() == "there\n"
        assert c("volume", "ls", "-f", "label=a", "-q") == "tmp" and c("volume", "inspect", "-f", "{{index .Options \"o\"}}", "tmp") == "size=64k,uid=7"
        assert c("volume", "ls", "-f", "dangling=true", "--format", "{{.Name}}").split() and {"bound", "tmp"} <= set(c("volume", "ls", "-f", "dangling=true", "-q").split())
        c("create", "--name", "holder", "-v", "tmp:/v", IMAGE, "true")
        c.fails("volume is in use - [", "volume", "rm", "tmp")
        c("rm", "holder")
        c("volume", "rm", "tmp", "bound")
        c.fails("no such volume", "volume", "inspect", "nosuch")
        c("volume", "rm", "-f", "nosuch")
        c.fails('missing required option: "device"', "volume", "create", "-o", "type=tmpfs", "bad")
        c.fails("invalid option", "volume", "create", "-o", "nosuch=1", "bad")

    return locals()


def registries(c):
    def login_logout_search():
        c.fails("connection refused", "login", "-u", "u", "-p", "p", "127.0.0.1:1")
        place = c.daemon.registry()
        if place:
            assert "Login Succeeded" in c("login", "-u", "u", "--password-stdin", place, given=b"p")
            assert "Removing login credentials" in c("logout", place)
            c("tag", IMAGE, f"{place}/busy:1")
            c("tag", IMAGE, f"{place}/busy:2")
            assert "digest: sha256:" in c("push", "-a", f"{place}/busy")
            assert c("push", "-q", f"{place}/busy:1") == f"{place}/busy:1"
            c("rmi", f"{place}/busy:1", f"{place}/busy:2")
            assert c("pull", "-q", f"{place}/busy:1") == f"{place}/busy:1"
            digest = c("inspect", "-f", "{{index .RepoDigests 0}}", f"{place}/busy:1")
            assert "Status: " in c("pull", "-a", f"{place}/busy") and c("run", "--rm", digest, "echo", "fine") == "fine"
            c.fails("not found", "pull", f"{place}/nosuch:1")
            c("rmi", "-f", f"{place}/busy:1", f"{place}/busy:2")
        ran = c.fails("", "search", "--limit", "5", "--filter", "is-official=true", "busybox", timeout=90)
        assert "index.docker.io" in ran.err, ran
        c.fails("limit", "search", "--limit", "1000", "x")

    return locals()


if __name__ == "__main__":
    sys.exit(main())

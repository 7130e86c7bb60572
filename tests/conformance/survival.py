#!/usr/bin/env python3
"""What runs goes on without the daemon: it is killed a hundred times over twenty containers, and half of the time
another build of it takes over.

No process changes, no line of a log is lost, doubled or out of order, names are answered all the time, health goes on,
and what ended meanwhile is known as it ended. `ROUNDS` in the environment asks for another number.
"""

import os
import random
import shutil
import signal
import sys
import time

sys.dont_write_bytecode = True

from harness import Checks, Daemon, until

ROUNDS = int(os.environ.get("ROUNDS", "100"))
COUNT = 20
# Lines of a container's log are these numbers, one after the other.
COUNTING = "i=0; while :; do i=$((i+1)); echo $i; [ $((i % 10)) -ne 0 ] || sleep 0.05; done"
# Where rotation may have taken the oldest lines away.
ROTATED = {"LogConfig": {"Type": "json-file", "Config": {"max-size": "100k", "max-file": "3"}}}


def words_of(body):
    """The text of a multiplexed stream."""
    text = b""
    while body:
        length = int.from_bytes(body[4:8], "big")
        text += body[8 : 8 + length]
        body = body[8 + length :]
    return text.decode()


class Host:
    def __init__(self, daemon):
        self.daemon = daemon

    def ask(self, method, path, body=None, status=(200, 201, 204)):
        answer = self.daemon.call(method, path, body)
        assert answer.status in status, f"{method} {path}: {answer.status} {answer.body[:300]}"
        return answer

    def run(self, name, script, **more):
        host = more.pop("host", {})
        spec = {"Image": "busybox", "Cmd": ["sh", "-c", script], "HostConfig": host, **more}
        self.ask("POST", f"/containers/create?name={name}", spec)
        self.ask("POST", f"/containers/{name}/start")

    def inspect(self, name):
        return self.ask("GET", f"/containers/{name}/json").json()

    def log(self, name):
        return words_of(self.ask("GET", f"/containers/{name}/logs?stdout=1&stderr=1").body).splitlines()

    def kill(self):
        self.daemon.process.send_signal(signal.SIGKILL)
        self.daemon.process.wait()
        self.daemon.log.close()


def main():
    daemon = Daemon()
    checks = Checks()
    chance = random.Random(1)
    try:
        daemon.image("busybox:latest")
        host = Host(daemon)
        host.ask("POST", "/networks/create", {"Name": "front"})
        counting = [f"box{number}" for number in range(COUNT)]
        for number, name in enumerate(counting):
            more = {"NetworkMode": ["none", "bridge", "front"][number % 3]}
            if number % 4 == 1:
                more.update(ROTATED)
            if number % 4 == 2:
                more["LogConfig"] = {"Type": "local"}
            health = {"Healthcheck": {"Test": ["CMD", "true"], "Interval": 10**9}} if number < 3 else {}
            host.run(name, COUNTING, host=more, **health)
        asking = "while :; do nslookup box2 127.0.0.11 >/dev/null 2>&1 || echo nobody answers; sleep 0.1; done"
        host.run("asker", asking, host={"NetworkMode": "front"})
        asked = [*counting, "asker"]
        before = {name: host.inspect(name)["State"] for name in asked}

        # Another file with the same program is another build as far as a host can tell.
        other = os.path.join(daemon.root, "skep-next")
        shutil.copy(daemon.binary, other)
        with open(other, "ab") as file:
            file.write(b"next build")
        builds = [daemon.binary, other]

        def killed_over_and_over():
            for count in range(ROUNDS):
                host.kill()
                time.sleep(chance.random() * 0.05)
                daemon.binary = builds[count % 2]
                daemon.start()
                if count % 10 == 0 or count == ROUNDS - 1:
                    for name in asked:
                        state = host.inspect(name)["State"]
                        same = (state["Pid"], state["StartedAt"]) == (before[name]["Pid"], before[name]["StartedAt"])
                        assert same and state["Running"], f"round {count}: {name}: {before[name]} became {state}"

        def logs_are_whole():
            for number, name in enumerate(counting):
                host.ask("POST", f"/containers/{name}/stop?t=0")
                numbers = [int(line) for line in host.log(name)]
                first = numbers[0] if number % 4 == 1 else 1
                assert numbers == list(range(first, first + len(numbers))), f"{name}: a line is lost or doubled"
                assert len(numbers) > 100, f"{name} wrote only {len(numbers)} lines"

        def names_were_answered():
            said = host.log("asker")
            assert not said, f"{len(said)} questions without an answer"

        def health_went_on():
            health = before["box0"].get("Health", {}).get("Log") or []
            now = host.inspect("box0")["State"]["Health"]["Log"]
            assert len(now) == 5 and now[0]["Start"] > (health[-1]["Start"] if health else ""), now
            assert all(result["ExitCode"] == 0 for result in now), now

        def ends_are_known():
            host.run("ends", "sleep 0.5; exit 3")
            host.run("again", "sleep 0.5; exit 4", host={"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 1}})
            host.run("goes", "sleep 0.5", host={"AutoRemove": True})
            host.kill()
            time.sleep(1)
            daemon.start()
            state = host.inspect("ends")["State"]
            assert (state["Status"], state["ExitCode"]) == ("exited", 3), state
            until(lambda: host.inspect("again")["RestartCount"] == 1, what="the restart")
            until(lambda: daemon.call("GET", "/containers/goes/json").status == 404, what="the removal")

        checks.check(f"killed {ROUNDS} times", killed_over_and_over)
        # Before the counters are stopped.
        checks.check("health went on", health_went_on)
        checks.check("names were answered", names_were_answered)
        checks.check("logs are whole", logs_are_whole)
        checks.check("ends are known", ends_are_known)
    finally:
        daemon.down()
    return checks.end()


if __name__ == "__main__":
    sys.exit(main())

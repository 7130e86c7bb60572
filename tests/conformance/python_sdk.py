#!/usr/bin/env python3
"""The Python SDK's whole surface against one daemon, by subject, as users of it write their programs.

Says skipped where the `docker` package is not installed.
"""

import base64
import io
import json
import os
import socket
import struct
import sys
import tarfile
import tempfile
import threading
import time

sys.dont_write_bytecode = True

from harness import Checks, Daemon, root_file_system, skip, until

try:
    import docker
    from docker import types
    from docker.errors import APIError, ContainerError, ImageLoadError, ImageNotFound, InvalidVersion, NotFound
except ImportError:
    skip("there is no `docker` package for this python")

if int(docker.__version__.split(".")[0]) < 7:
    skip(f"the `docker` package is {docker.__version__}, and older than 7")

IMAGE = "busybox:latest"


def main():
    daemon = Daemon()
    try:
        daemon.image(IMAGE)
        client = docker.DockerClient(base_url=daemon.host, version="auto", timeout=60)
        checks = Checks()
        for subject in (system, create, host_config, lives, streams, execs, archives, waits, lists, networks, volumes, images, registry, events, errors, swarm):
            for name, function in subject(client, daemon).items():
                checks.check(f"{subject.__name__}: {name.replace('_', ' ')}", function)
                sweep(client)
        return checks.end()
    finally:
        if "-v" in sys.argv:
            print(daemon.words())
        daemon.down()


def sweep(client):
    """No check finds what another one made."""
    if client.info()["Swarm"]["LocalNodeState"] != "inactive":
        return
    for container in client.containers.list(all=True, ignore_removed=True):
        try:
            container.remove(force=True, v=True)
        except APIError:
            pass
    client.networks.prune()
    client.volumes.prune(filters={"all": True})


def raises(kind, text, call, *args, **more):
    try:
        call(*args, **more)
    except kind as error:
        assert text.lower() in str(error).lower(), f"want {text!r} in {error}"
        return error
    raise AssertionError(f"nothing was raised; want {kind.__name__} with {text!r}")


def checks_of(function):
    """A subject returns its local functions, in order."""

    def subject(client, daemon):
        found = function(client, daemon)
        return {name: value for name, value in found.items() if callable(value) and getattr(value, "__module__", None) == __name__ and "<locals>" in value.__qualname__}

    subject.__name__ = function.__name__
    return subject


@checks_of
def system(client, daemon):
    def ping_version_info_df():
        assert client.ping() is True
        version = client.version()
        assert version["ApiVersion"] == "1.50", version
        assert {"Version", "GoVersion", "Os", "Arch", "KernelVersion", "MinAPIVersion", "GitCommit"} <= set(version), version
        info = client.info()
        assert info["OSType"] == "linux" and info["ID"] and info["NCPU"] > 0
        usage = client.df()
        assert usage["Images"][0]["Size"] > 0 and usage["LayersSize"] > 0
        assert client.api.info()["Containers"] == 0

    def login_fails_well():
        raises(APIError, "connection refused", client.login, username="u", password="p", registry="127.0.0.1:1", reauth=True)

    def an_older_client_is_served():
        old = docker.APIClient(base_url=daemon.host, version="1.24")
        assert old.version(api_version=False)["ApiVersion"] == "1.50"
        found = old.create_container(IMAGE, "true")
        old.start(found["Id"])
        assert old.wait(found["Id"])["StatusCode"] == 0
        answer = daemon.call("GET", "/v1.23/info")
        assert answer.status == 400 and "client version 1.23 is too old" in answer.json()["message"]

    return locals()


def inspect(client, **options):
    container = client.containers.create(IMAGE, options.pop("command", "sleep 1000"), **options)
    return client.api.inspect_container(container.id)


def said(client, command, **options):
    out = client.containers.run(IMAGE, ["sh", "-c", command], remove=True, **options)
    return out.decode().strip()


@checks_of
def create(client, daemon):
    def options_reach_the_configuration():
        page = inspect(
            client, name="made", hostname="there", domainname="test", user="nobody", working_dir="/tmp", environment={"A": "b", "C": "d"},
            labels=["x", "y"], entrypoint=["sh"], tty=True, stdin_open=True, detach=True, stop_signal="SIGINT", ports={"80/tcp": None, "53/udp": 15353},
        )
        config = page["Config"]
        assert (config["Hostname"], config["Domainname"], config["User"], config["WorkingDir"]) == ("there", "test", "nobody", "/tmp")
        assert {"A=b", "C=d"} <= set(config["Env"]) and config["Labels"] == {"x": "", "y": ""}
        assert config["Entrypoint"] == ["sh"] and config["Cmd"] == ["sleep", "1000"] and config["Tty"] and config["OpenStdin"]
        assert config["StopSignal"] == "SIGINT" and set(config["ExposedPorts"]) == {"80/tcp", "53/udp"}
        assert page["Name"] == "/made" and page["Path"] == "sh" and page["Args"] == ["sleep", "1000"]
        assert page["State"]["Status"] == "created" and page["RestartCount"] == 0 and page["Platform"] == "linux"

    def run_gives_the_output():
        assert client.containers.run(IMAGE, "echo hello world", remove=True) == b"hello world\n"
        assert client.containers.run(IMAGE, ["sh", "-c", "echo err >&2; echo out"], remove=True, stderr=True, stdout=False) == b"err\n"
        error = raises(ContainerError, "returned non-zero exit status 3", client.containers.run, IMAGE, ["sh", "-c", "echo bad >&2; exit 3"], remove=True)
        assert error.exit_status == 3 and error.stderr == b"bad\n"
        raises(ImageNotFound, "", client.containers.create, "nosuch/image:1", "true")
        raises(APIError, "executable file not found in $PATH", client.containers.run, IMAGE, "nosuchprogram")
        stream = client.containers.run(IMAGE, ["sh", "-c", "echo a; echo b"], remove=True, stream=True)
        assert b"".join(stream) == b"a\nb\n"

    def auto_remove():
        container = client.containers.run(IMAGE, "true", detach=True, auto_remove=True)
        until(lambda: gone(client, container.id), 10, "the container is removed")

    def a_named_healthcheck():
        check = types.Healthcheck(test=["CMD-SHELL", "test -f /tmp/well"], interval=200_000_000, timeout=10**9, retries=2, start_period=0)
        container = client.containers.run(IMAGE, "sleep 1000", detach=True, healthcheck=check)
        health = lambda: client.api.inspect_container(container.id)["State"]["Health"]
        until(lambda: health()["Status"] == "unhealthy", 10, "unhealthy")
        assert health()["FailingStreak"] >= 2 and health()["Log"][0]["ExitCode"] == 1, health()
        container.exec_run("touch /tmp/well")
        until(lambda: health()["Status"] == "healthy", 10, "healthy")
        container.reload()
        assert container.health == "healthy"

    return locals()


def gone(client, name):
    try:
        client.containers.get(name)
        return False
    except NotFound:
        return True


@checks_of
def host_config(client, daemon):
    def limits():
        page = inspect(
            client, mem_limit="64m", memswap_limit="128m", mem_reservation="32m", mem_swappiness=10, cpu_shares=512, cpu_period=100000, cpu_quota=50000,
            cpuset_cpus="0", cpuset_mems="0", pids_limit=50, blkio_weight=300, oom_score_adj=100, oom_kill_disable=False, shm_size="8m",
            ulimits=[types.Ulimit(name="nofile", soft=100, hard=200)],
        )["HostConfig"]
        assert page["Memory"] == 64 << 20 and page["MemorySwap"] == 128 << 20 and page["MemoryReservation"] == 32 << 20
        assert page["CpuShares"] == 512 and page["CpuQuota"] == 50000 and page["CpusetCpus"] == "0" and page["PidsLimit"] == 50
        assert page["ShmSize"] == 8 << 20 and page["Ulimits"] == [{"Name": "nofile", "Soft": 100, "Hard": 200}] and page["BlkioWeight"] == 300
        assert said(client, "ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj; df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2 2>/dev/null || true",
                    ulimits=[types.Ulimit(name="nofile", soft=100, hard=200)], oom_score_adj=100, shm_size="8m").splitlines()[:3] == ["100", "200", "100"]
        assert inspect(client, nano_cpus=500_000_000)["HostConfig"]["NanoCpus"] == 500_000_000
        raises(APIError, "Minimum memory limit allowed is 6MB", client.containers.create, IMAGE, "true", mem_limit="1m")
        raises(APIError, "Minimum memoryswap limit should be larger than memory limit", client.containers.create, IMAGE, "true", mem_limit="64m", memswap_limit="32m")
        raises(APIError, "Conflicting options: Nano CPUs and CPU Period cannot both be set", client.containers.create, IMAGE, "true", nano_cpus=10**9, cpu_period=100000)

    def block_devices():
        page = inspect(client, device_read_bps=[{"Path": "/dev/null", "Rate": 1 << 20}], device_write_iops=[{"Path": "/dev/null", "Rate": 100}])["HostConfig"]
        assert page["BlkioDeviceReadBps"] == [{"Path": "/dev/null", "Rate": 1 << 20}], page["BlkioDeviceReadBps"]

    def capabilities_and_security():
        caps = "grep CapEff /proc/self/status | cut -f2"
        assert int(said(client, caps, cap_drop=["ALL"]) or "0", 16) == 0
        assert int(said(client, caps, cap_drop=["ALL"], cap_add=["NET_ADMIN"]), 16) == 1 << 12
        assert said(client, "grep NoNewPrivs /proc/self/status | tr -dc 0-9", security_opt=["no-new-privileges"]) == "1"
        assert said(client, "grep ^Seccomp: /proc/self/status | tr -dc 0-9", security_opt=["seccomp=unconfined"]) == "0"
        assert said(client, "grep ^Seccomp: /proc/self/status | tr -dc 0-9") == "2"
        page = inspect(client, privileged=True, security_opt=["label=disable"])["HostConfig"]
        assert page["Privileged"] and page["SecurityOpt"] == ["label=disable"]
        raises(APIError, "invalid", client.containers.create, IMAGE, "true", security_opt=["nosuch=x"])

    def namespaces():
        first = client.containers.run(IMAGE, "sleep 1000", detach=True, name="first", ipc_mode="shareable")
        own = {kind: said(client, f"readlink /proc/self/ns/{kind}") for kind in ("pid", "ipc", "uts", "net", "cgroup")}
        for kind, option in (("pid", "pid_mode"), ("ipc", "ipc_mode")):
            its = first.exec_run(f"readlink /proc/self/ns/{kind}").output.decode().strip()
            assert said(client, f"readlink /proc/self/ns/{kind}", **{option: "container:first"}) == its, kind
            host = os.readlink(f"/proc/self/ns/{kind}")
            assert said(client, f"readlink /proc/self/ns/{kind}", **{option: "host"}) == host, kind
            assert own[kind] != host
        its = first.exec_run("readlink /proc/self/ns/net").output.decode().strip()
        assert said(client, "readlink /proc/self/ns/net", network_mode="container:first") == its
        assert said(client, "readlink /proc/self/ns/uts", uts_mode="host") == os.readlink("/proc/self/ns/uts")
        assert said(client, "readlink /proc/self/ns/cgroup", cgroupns="host") == os.readlink("/proc/self/ns/cgroup")
        assert said(client, "readlink /proc/self/ns/cgroup", cgroupns="private") != os.readlink("/proc/self/ns/cgroup")
        assert said(client, "ls /sys/class/net", network_mode="none") == "lo"
        raises(APIError, "invalid", client.containers.create, IMAGE, "true", ipc_mode="nosuch")

    def file_systems():
        assert said(client, "touch /x 2>/dev/null || echo refused; touch /t/y && echo fine", read_only=True, tmpfs={"/t": "size=64k"}) == "refused\nfine"
        assert "size=64k" in said(client, "grep ' /t ' /proc/mounts", tmpfs={"/t": "size=64k,mode=700"})
        assert said(client, "cat /h/hostname", volumes={"/etc": {"bind": "/h", "mode": "ro"}}) == open("/etc/hostname").read().strip()
        assert said(client, "touch /h/x 2>/dev/null || echo refused", volumes=["/etc:/h:ro"]) == "refused"
        mounts = [types.Mount("/v", "kept", type="volume", labels={"a": "b"}), types.Mount("/m", None, type="tmpfs", tmpfs_size="64k", tmpfs_mode=0o700),
                  types.Mount("/b", "/etc", type="bind", read_only=True, propagation="rslave")]
        page = inspect(client, mounts=mounts)
        kinds = {mount["Destination"]: mount for mount in page["Mounts"]}
        assert kinds["/v"]["Name"] == "kept" and kinds["/v"]["Driver"] == "local" and kinds["/v"]["RW"], kinds
        assert kinds["/m"]["Type"] == "tmpfs" and kinds["/b"]["RW"] is False and kinds["/b"]["Propagation"] == "rslave", kinds
        assert client.volumes.get("kept").attrs["Labels"] == {"a": "b"}
        raises(APIError, "bind source path does not exist: /nosuch", client.containers.create, IMAGE, "true", mounts=[types.Mount("/b", "/nosuch", type="bind")])
        giver = client.containers.run(IMAGE, "sh -c 'echo given > /data/f; sleep 1000'", detach=True, name="giver", volumes=["gift:/data"])
        until(lambda: giver.exec_run("cat /data/f").exit_code == 0)
        assert said(client, "cat /data/f", volumes_from=["giver:ro"]) == "given"
        assert said(client, "touch /data/g 2>/dev/null || echo refused", volumes_from=["giver:ro"]) == "refused"

    def names():
        assert said(client, "cat /etc/hosts", extra_hosts={"there": "192.0.2.1"}).count("192.0.2.1\tthere") == 1
        text = said(client, "cat /etc/resolv.conf", dns=["192.0.2.2"], dns_opt=["ndots:3"], dns_search=["example.test"])
        assert "nameserver 192.0.2.2" in text and "ndots:3" in text and "search example.test" in text, text
        client.containers.run(IMAGE, "sleep 1000", detach=True, name="db", environment={"WHO": "db"})
        text = said(client, "cat /etc/hosts; env", links={"db": "base"})
        assert "\tbase" in text and "BASE_ENV_WHO=db" in text and "BASE_NAME=" in text, text
        assert said(client, "hostname", hostname="me") == "me"

    def processes():
        assert said(client, "sleep 0 & wait; cat /proc/1/comm", init=True) != "sh"
        assert said(client, "cat /proc/sys/net/ipv4/ip_default_ttl", sysctls={"net.ipv4.ip_default_ttl": "33"}) == "33"
        assert said(client, "id -G", group_add=["777", "extra"]) == "0 777"
        assert said(client, "id -u; id -g", user="12:34") == "12\n34"
        page = inspect(client, devices=["/dev/null:/dev/nothing:rw"], device_cgroup_rules=["c 1:3 rwm"], cgroup_parent="", runtime="runc", storage_opt={}, isolation=None)
        assert page["HostConfig"]["Devices"] == [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/nothing", "CgroupPermissions": "rw"}], page["HostConfig"]["Devices"]
        assert said(client, "echo x > /dev/nothing && echo fine", devices=["/dev/null:/dev/nothing:rw"]) == "fine"
        raises(APIError, "sysctl", client.containers.run, IMAGE, "true", sysctls={"kernel.nosuch": "1"})
        raises(APIError, "unknown or invalid runtime name", client.containers.run, IMAGE, "true", runtime="nosuch")

    def logs_and_restarts():
        page = inspect(client, log_config=types.LogConfig(type="json-file", config={"max-size": "1m", "labels": "x"}))
        assert page["HostConfig"]["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "1m", "labels": "x"}}
        raises(APIError, "logger: no log driver named 'asdf' is registered", client.containers.run, IMAGE, "true", log_config=types.LogConfig(type="asdf"))
        page = inspect(client, restart_policy={"Name": "on-failure", "MaximumRetryCount": 5})
        assert page["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 5}
        raises(APIError, "maximum retry count can only be used with 'on-failure'", client.containers.create, IMAGE, "true", restart_policy={"Name": "always", "MaximumRetryCount": 5})
        container = client.containers.run(IMAGE, "false", detach=True, restart_policy={"Name": "on-failure", "MaximumRetryCount": 2})
        until(lambda: (page := client.api.inspect_container(container.id))["RestartCount"] == 2 and page["State"]["Status"] == "exited", 15, "two restarts")
        raises(APIError, "can't create 'AutoRemove' container with restart policy", client.containers.create, IMAGE, "true", auto_remove=True, restart_policy={"Name": "always"})

    def published_ports():
        container = client.containers.run(IMAGE, "sleep 1000", detach=True, ports={"1111": None, "2222/tcp": 12222, "3333/udp": ("127.0.0.1", 13333), "4444": [14444, 14445]})
        container.reload()
        assert container.ports["2222/tcp"][0]["HostPort"] == "12222" and container.ports["3333/udp"] == [{"HostIp": "127.0.0.1", "HostPort": "13333"}], container.ports
        assert {one["HostPort"] for one in container.ports["4444/tcp"]} == {"14444", "14445"} and int(container.ports["1111/tcp"][0]["HostPort"]) > 0
        assert client.api.port(container.id, 2222)[0]["HostPort"] == "12222"
        raises(APIError, "port is already allocated", client.containers.run, IMAGE, "true", ports={"1": 12222})
        page = inspect(client, publish_all_ports=True, ports={"7/tcp": None})
        assert page["HostConfig"]["PublishAllPorts"] is True

    def networking_config():
        client.networks.create("cfg", ipam=types.IPAMConfig(pool_configs=[types.IPAMPool(subnet="10.46.0.0/24")]))
        container = client.containers.create(IMAGE, "sleep 1000", network="cfg", networking_config={"cfg": client.api.create_endpoint_config(aliases=["al"], ipv4_address="10.46.0.9", driver_opt={"k": "v"}, mac_address="02:42:0a:2e:00:09")})
        container.start()
        end = client.api.inspect_container(container.id)["NetworkSettings"]["Networks"]["cfg"]
        assert end["IPAddress"] == "10.46.0.9" and "al" in end["Aliases"] and end["DriverOpts"] == {"k": "v"} and end["MacAddress"] == "02:42:0a:2e:00:09", end

    return locals()


@checks_of
def lives(client, daemon):
    def start_stop_restart_kill_pause_rename():
        container = client.containers.create(IMAGE, "sleep 1000")
        assert container.status == "created"
        container.start()
        container.reload()
        assert container.status == "running"
        container.pause()
        container.reload()
        assert container.status == "paused"
        raises(APIError, "already paused", container.pause)
        container.unpause()
        raises(APIError, "is not paused", container.unpause)
        container.rename("renamed")
        container.reload()
        assert container.name == "renamed"
        container.restart(timeout=0)
        container.kill(signal="SIGKILL")
        assert container.wait(timeout=10)["StatusCode"] == 137
        raises(APIError, "is not running", container.kill)
        container.start()
        container.kill(signal=9)
        assert container.wait()["StatusCode"] == 137
        container.start()
        container.stop(timeout=0)
        container.stop()
        container.reload()
        assert container.status == "exited" and container.attrs["State"]["Running"] is False

    def update():
        container = client.containers.run(IMAGE, "sleep 1000", detach=True, mem_limit="64m")
        answer = container.update(mem_limit="96m", memswap_limit="192m", cpu_shares=256, restart_policy={"Name": "always"})
        assert "Warnings" in answer
        page = client.api.inspect_container(container.id)["HostConfig"]
        assert page["Memory"] == 96 << 20 and page["CpuShares"] == 256 and page["RestartPolicy"]["Name"] == "always", page
        container.update(restart_policy={"Name": "no"})

    def remove():
        container = client.containers.run(IMAGE, "sleep 1000", detach=True, volumes=["/anon", "named:/named"])
        error = raises(APIError, "cannot remove container", container.remove)
        assert error.status_code == 409 and "container is running" in str(error), error
        names = [mount["Name"] for mount in container.attrs["Mounts"]] or [mount["Name"] for mount in client.api.inspect_container(container.id)["Mounts"]]
        container.remove(force=True, v=True)
        left = {volume.name for volume in client.volumes.list()}
        assert "named" in left and not (set(names) - {"named"}) & left, left
        raises(NotFound, "No such container", container.remove)

    def diff_top_stats():
        container = client.containers.run(IMAGE, ["sh", "-c", "echo x > /new; rm /etc/group; sleep 1000"], detach=True)
        until(lambda: {"Path": "/new", "Kind": 1} in container.diff(), 5)
        found = container.diff()
        assert {"Path": "/etc", "Kind": 0} in found and {"Path": "/etc/group", "Kind": 2} in found, found
        top = container.top()
        assert "PID" in top["Titles"] and any("sleep" in " ".join(row) for row in top["Processes"]), top
        assert container.top(ps_args="-eo pid,args")["Titles"] == ["PID", "COMMAND"]
        raises(APIError, "", container.top, ps_args="-nosuch")
        one = container.stats(stream=False)
        assert one["cpu_stats"]["cpu_usage"]["total_usage"] > 0 and one["precpu_stats"]["cpu_usage"]["total_usage"] > 0 and "eth0" in one["networks"], one
        stream = container.stats(stream=True, decode=True)
        first, second = next(stream), next(stream)
        assert first["read"] < second["read"] and second["precpu_stats"]["system_cpu_usage"] > 0
        stream.close()
        assert "precpu_stats" in client.api.stats(container.id, stream=False, one_shot=True)

    def commit():
        container = client.containers.run(IMAGE, ["sh", "-c", "echo mine > /mine"], detach=True)
        container.wait()
        image = container.commit(repository="made", tag="1", message="said", author="me", changes=["CMD cat /mine", "LABEL a=b"])
        assert image.tags == ["made:1"] and image.labels == {"a": "b"} and image.attrs["Comment"] == "said"
        assert client.containers.run("made:1", remove=True) == b"mine\n"
        client.images.remove("made:1")

    def export():
        container = client.containers.create(IMAGE, "true")
        data = b"".join(container.export(chunk_size=1 << 16))
        assert "bin/busybox" in tarfile.open(fileobj=io.BytesIO(data)).getnames()

    def resize():
        container = client.containers.run(IMAGE, ["sh", "-c", "while :; do stty size 2>/dev/null; sleep 0.1; done"], detach=True, tty=True)
        container.resize(33, 77)

    return locals()


def socket_of(found):
    return found._sock if hasattr(found, "_sock") else found


def frame(stream):
    head = read(stream, 8)
    if not head:
        return None
    kind, size = struct.unpack(">BxxxL", head)
    return kind, read(stream, size)


def read(stream, size):
    data = b""
    while len(data) < size:
        more = stream.recv(size - len(data))
        if not more:
            break
        data += more
    return data


@checks_of
def streams(client, daemon):
    def logs():
        container = client.containers.run(IMAGE, ["sh", "-c", "echo out1; sleep 0.1; echo err1 >&2; sleep 0.1; echo out2"], detach=True)
        container.wait()
        assert container.logs() == b"out1\nerr1\nout2\n", container.logs()
        assert container.logs(stdout=False) == b"err1\n" and container.logs(stderr=False) == b"out1\nout2\n"
        assert container.logs(tail=1) == b"out2\n" and container.logs(tail=0) == b"" and container.logs(tail="all") == container.logs()
        stamped = container.logs(timestamps=True).splitlines()
        assert len(stamped) == 3 and stamped[0].endswith(b" out1") and stamped[0][:2] == b"20", stamped
        assert list(container.logs(stream=True)) and b"".join(container.logs(stream=True, follow=False)) == container.logs()
        assert container.logs(since=int(time.time()) + 100) == b"" and container.logs(since=1) == container.logs()
        assert container.logs(until=1) == b"" and container.logs(until=int(time.time()) + 100) == container.logs()
        raises(NotFound, "No such container", client.api.logs, "nosuch")

    def logs_follow():
        container = client.containers.run(IMAGE, ["sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.2; done"], detach=True)
        assert b"".join(container.logs(stream=True, follow=True)) == b"1\n2\n3\n"
        container = client.containers.run(IMAGE, ["sh", "-c", "while :; do echo x; sleep 0.05; done"], detach=True)
        stream = container.logs(stream=True, follow=True, tail=0)
        assert next(stream) == b"x\n"
        stream.close()
        container.remove(force=True)

    def logs_of_a_terminal():
        container = client.containers.run(IMAGE, "echo hi", detach=True, tty=True)
        container.wait()
        assert container.logs() == b"hi\r\n", container.logs()

    def no_logs():
        container = client.containers.run(IMAGE, "echo hi", detach=True, log_config=types.LogConfig(type="none"))
        container.wait()
        raises(APIError, "configured logging driver does not support reading", container.logs)

    def attach():
        container = client.containers.create(IMAGE, ["sh", "-c", "echo a; echo b >&2"])
        stream = container.attach(stream=True, stdout=True, stderr=True, demux=True)
        container.start()
        found = list(stream)
        assert b"".join(out for out, _ in found if out) == b"a\n" and b"".join(err for _, err in found if err) == b"b\n", found
        # The SDK loses what arrives together with the head of the answer, with any daemon.
        until(lambda: sorted(container.attach(logs=True, stream=False).splitlines()) == [b"a", b"b"])

    def attach_socket():
        container = client.containers.create(IMAGE, "cat", stdin_open=True)
        stream = socket_of(client.api.attach_socket(container.id, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}))
        container.start()
        stream.sendall(b"through\n")
        assert frame(stream) == (1, b"through\n")
        stream.close()
        container.stop(timeout=0)

    def attach_to_a_terminal():
        container = client.containers.run(IMAGE, "cat", stdin_open=True, tty=True, detach=True)
        stream = socket_of(container.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1}))
        stream.sendall(b"typed\n")
        stream.settimeout(5)
        text = b""
        while b"typed\r\ntyped\r\n" not in text:
            text += stream.recv(100)
        stream.sendall(b"\x10\x11")
        while stream.recv(100):
            pass
        container.reload()
        assert container.status == "running"
        stream.close()

    def stdin_once():
        container = client.api.create_container(IMAGE, "cat", stdin_open=True)
        stream = socket_of(client.api.attach_socket(container["Id"], params={"stdin": 1, "stdout": 1, "stream": 1}))
        client.api.start(container)
        stream.sendall(b"all of it")
        stream.shutdown(socket.SHUT_WR)
        assert frame(stream) == (1, b"all of it")
        assert frame(stream) is None
        assert client.api.wait(container)["StatusCode"] == 0

    return locals()


@checks_of
def execs(client, daemon):
    def running(**options):
        return client.containers.run(IMAGE, "sleep 1000", detach=True, **options)

    running.__module__ = None

    def run():
        container = running(environment={"BASE": "1"})
        result = container.exec_run(["sh", "-c", "echo out; echo err >&2; exit 4"])
        assert result.exit_code == 4 and sorted(result.output.splitlines()) == [b"err", b"out"], result
        result = container.exec_run(["sh", "-c", "echo out; echo err >&2"], demux=True)
        assert result.output == (b"out\n", b"err\n"), result
        assert container.exec_run("echo x", stderr=False).output == b"x\n"
        assert container.exec_run("sh -c 'echo $A$BASE; pwd; id -u'", environment={"A": "b"}, workdir="/tmp", user="nobody").output == b"b1\n/tmp\n65534\n"
        assert b"".join(container.exec_run(["sh", "-c", "echo 1; sleep 0.1; echo 2"], stream=True).output) == b"1\n2\n"
        found = list(container.exec_run(["sh", "-c", "echo 1; echo 2 >&2"], stream=True, demux=True).output)
        assert b"".join(out for out, _ in found if out) == b"1\n" and b"".join(err for _, err in found if err) == b"2\n"
        assert container.exec_run("echo tty", tty=True).output == b"tty\r\n"
        assert container.exec_run("touch /tmp/detached", detach=True).output in (b"", "") and until(lambda: container.exec_run("ls /tmp/detached").exit_code == 0)
        assert int(container.exec_run(["sh", "-c", "grep CapEff /proc/self/status | cut -f2"], privileged=True).output, 16) >> 21 & 1
        result = container.exec_run("nosuchprogram")
        assert result.exit_code in (126, 127) and b"executable file not found in $PATH" in result.output, result
        raises(APIError, "is not running", client.containers.create(IMAGE, "true").exec_run, "true")
        container.pause()
        raises(APIError, "is paused, unpause the container before exec", container.exec_run, "true")

    def socket_exec():
        container = running()
        stream = socket_of(container.exec_run("cat", stdin=True, socket=True).output)
        stream.sendall(b"through\n")
        assert frame(stream) == (1, b"through\n")
        stream.shutdown(socket.SHUT_WR)
        assert frame(stream) is None
        stream.close()

    def inspect_and_resize():
        container = running()
        made = client.api.exec_create(container.id, "sleep 1000", tty=True, stdin=True)
        page = client.api.exec_inspect(made)
        assert page["ID"] == made["Id"] and page["Running"] is False and page["ExitCode"] is None and page["ContainerID"] == container.id
        assert page["ProcessConfig"]["tty"] and page["ProcessConfig"]["entrypoint"] == "sleep" and page["ProcessConfig"]["arguments"] == ["1000"]
        stream = socket_of(client.api.exec_start(made, tty=True, socket=True))
        client.api.exec_resize(made, height=20, width=60)
        assert client.api.exec_inspect(made)["Running"]
        page = until(lambda: (page := client.api.exec_inspect(made))["Pid"] and page)
        assert page["ID"] in client.api.inspect_container(container.id)["ExecIDs"]
        container.kill()
        until(lambda: gone_exec(made) or not client.api.exec_inspect(made)["Running"])
        stream.close()
        raises(NotFound, "No such exec instance", client.api.exec_inspect, "nosuch")

    def framed_by_the_start():
        container = running()
        # The start does not speak of the terminal: the output is framed all the same.
        made = client.api.exec_create(container.id, "echo seen", tty=True)
        assert client.api.exec_start(made, demux=True) == (b"seen\r\n", None)
        made = client.api.exec_create(container.id, "echo seen", tty=True)
        assert client.api.exec_start(made, tty=True) == b"seen\r\n"

    def gone_exec(made):
        try:
            client.api.exec_inspect(made)
            return False
        except APIError:
            return True

    gone_exec.__module__ = None

    def detach_keys():
        container = running()
        made = client.api.exec_create(container.id, "cat", stdin=True, tty=True, detach_keys="ctrl-a,x")
        stream = socket_of(client.api.exec_start(made, tty=True, socket=True))
        stream.sendall(b"\x01x")
        stream.settimeout(5)
        while stream.recv(100):
            pass
        assert client.api.exec_inspect(made)["Running"]
        stream.close()

    return locals()


def tar_of(**files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.uid, info.gid, info.mode = len(data), 12, 34, 0o640
            made.addfile(info, io.BytesIO(data))
    return out.getvalue()


@checks_of
def archives(client, daemon):
    def put_and_get():
        container = client.containers.run(IMAGE, "sleep 1000", detach=True, volumes=["in:/in"])
        assert container.put_archive("/tmp", tar_of(one=b"first", two=b"second"))
        assert container.exec_run("cat /tmp/one /tmp/two").output == b"firstsecond"
        assert container.exec_run("stat -c '%u %g %a' /tmp/one").output == b"12 34 640\n"
        assert container.put_archive("/in", tar_of(three=b"third"))
        assert container.exec_run("cat /in/three").output == b"third"
        fresh = client.containers.create(IMAGE, "cat /new/place/file", volumes=["never:/new/place"])
        assert fresh.put_archive("/new/place", tar_of(file=b"early"))
        fresh.start()
        assert fresh.wait()["StatusCode"] == 0 and fresh.logs() == b"early", fresh.logs()
        data, stat = container.get_archive("/tmp/one")
        assert stat["name"] == "one" and stat["size"] == 5 and stat["linkTarget"] == "", stat
        assert tarfile.open(fileobj=io.BytesIO(b"".join(data))).extractfile("one").read() == b"first"
        data, stat = container.get_archive("/bin/sh")
        assert stat["linkTarget"].endswith("busybox"), stat
        data, stat = container.get_archive("/etc/", encode_stream=True)
        assert "etc/passwd" in tarfile.open(fileobj=io.BytesIO(b"".join(data))).getnames()
        raises(NotFound, "Could not find the file /nosuch in container", container.get_archive, "/nosuch")
        raises(NotFound, "Could not find the file /nosuch in container", container.put_archive, "/nosuch", tar_of(x=b""))
        container.stop(timeout=0)
        assert container.put_archive("/", tar_of(later=b"x"))
        assert b"".join(container.get_archive("/later")[0])

    def a_read_only_root_refuses():
        container = client.containers.run(IMAGE, "sleep 1000", detach=True, read_only=True)
        raises(APIError, "rootfs is marked read-only", container.put_archive, "/", tar_of(x=b""))

    return locals()


@checks_of
def waits(client, daemon):
    def conditions():
        container = client.containers.create(IMAGE, "sh -c 'sleep 0.3; exit 5'")
        found = {}

        def wait(condition):
            found[condition] = docker.DockerClient(base_url=daemon.host, version="auto").api.wait(container.id, condition=condition, timeout=30)["StatusCode"]

        threads = [threading.Thread(target=wait, args=(condition,)) for condition in ("next-exit", "removed")]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        container.start()
        threads[0].join(20)
        container.remove()
        threads[1].join(20)
        assert found == {"next-exit": 5, "removed": 5}, found
        raises(APIError, "invalid condition", client.api.wait, client.containers.create(IMAGE, "true").id, condition="nosuch")

    def signals():
        container = client.containers.run(IMAGE, ["sh", "-c", "trap 'exit 9' USR1; echo up; while :; do sleep 0.05; done"], detach=True)
        until(lambda: b"up" in container.logs())
        container.kill("SIGUSR1")
        assert container.wait()["StatusCode"] == 9
        raises(APIError, "invalid signal", client.containers.run(IMAGE, "sleep 1000", detach=True).kill, "NOSUCH")

    return locals()


@checks_of
def lists(client, daemon):
    def filters():
        first = client.containers.run(IMAGE, "sleep 1000", detach=True, name="one", labels={"k": "v"})
        second = client.containers.run(IMAGE, "false", detach=True, name="two")
        second.wait()
        names = lambda **more: sorted(found.name for found in client.containers.list(**more))
        assert names() == ["one"] and names(all=True) == ["one", "two"] and names(limit=1) == ["two"]
        assert names(all=True, filters={"since": "one"}) == ["two"] and names(all=True, filters={"before": "two"}) == ["one"]
        for filters, want in (({"status": "exited"}, ["two"]), ({"label": "k"}, ["one"]), ({"label": ["k=v"]}, ["one"]), ({"exited": 1}, ["two"]), ({"name": "^o"}, ["one"]),
                              ({"ancestor": IMAGE}, ["one", "two"]), ({"id": first.id}, ["one"]), ({"health": "none"}, ["one", "two"])):
            assert names(all=True, filters=filters) == want, (filters, names(all=True, filters=filters))
        page = client.api.containers(all=True, size=True)
        assert all("SizeRootFs" in one for one in page) and {one["State"] for one in page} == {"running", "exited"}
        assert client.containers.get(first.short_id).name == "one"
        assert client.api.containers(quiet=True) == [{"Id": first.id}]

    def prune():
        client.containers.run(IMAGE, "true", detach=True, name="aa", labels={"keep": "1"}).wait()
        client.containers.run(IMAGE, "true", detach=True, name="bb").wait()
        assert client.containers.prune(filters={"until": "1h"})["ContainersDeleted"] in (None, [])
        gone = client.containers.prune(filters={"label!": "keep"})
        assert len(gone["ContainersDeleted"]) == 1 and gone["SpaceReclaimed"] >= 0
        assert [one.name for one in client.containers.list(all=True)] == ["aa"]
        assert len(client.containers.prune()["ContainersDeleted"]) == 1

    return locals()


@checks_of
def networks(client, daemon):
    def make():
        ipam = types.IPAMConfig(driver="default", pool_configs=[types.IPAMPool(subnet="10.47.0.0/16", iprange="10.47.1.0/24", gateway="10.47.0.5", aux_addresses={"a": "10.47.1.1"})])
        network = client.networks.create("net", driver="bridge", ipam=ipam, internal=True, labels={"a": "b"}, enable_ipv6=False, attachable=True, options={"com.docker.network.driver.mtu": "1400"}, check_duplicate=True)
        page = network.attrs
        assert page["IPAM"]["Config"] == [{"Subnet": "10.47.0.0/16", "IPRange": "10.47.1.0/24", "Gateway": "10.47.0.5", "AuxiliaryAddresses": {"a": "10.47.1.1"}}], page["IPAM"]
        assert page["Internal"] and page["Attachable"] and page["Labels"] == {"a": "b"} and page["Options"] == {"com.docker.network.driver.mtu": "1400"}
        assert client.api.inspect_network("net", verbose=True)["Id"] == network.id
        raises(NotFound, "", client.api.inspect_network, "net", scope="swarm")
        container = client.containers.run(IMAGE, "sleep 1000", detach=True, network="net")
        assert container.exec_run("cat /sys/class/net/eth0/mtu").output == b"1400\n"
        container.reload()
        assert container.attrs["NetworkSettings"]["Networks"]["net"]["IPAddress"].startswith("10.47.1.")
        raises(APIError, "has active endpoints", network.remove)
        raises(APIError, "already exists", client.networks.create, "net")
        raises(APIError, "overlaps", client.networks.create, "net2", ipam=ipam)
        raises(APIError, "invalid", client.networks.create, "net3", ipam=types.IPAMConfig(pool_configs=[types.IPAMPool(subnet="nosuch")]))

    def ipv6():
        ipam = types.IPAMConfig(pool_configs=[types.IPAMPool(subnet="fd47::/64")])
        network = client.networks.create("six", enable_ipv6=True, ipam=ipam)
        container = client.containers.run(IMAGE, "sleep 1000", detach=True, network="six")
        container.reload()
        assert network.attrs["EnableIPv6"] and container.attrs["NetworkSettings"]["Networks"]["six"]["GlobalIPv6Address"].startswith("fd47::")

    def connect():
        ipam = types.IPAMConfig(pool_configs=[types.IPAMPool(subnet="10.48.0.0/24"), types.IPAMPool(subnet="fd48::/64")])
        network = client.networks.create("net", ipam=ipam, enable_ipv6=True)
        other = client.containers.run(IMAGE, "sleep 1000", detach=True, name="other")
        container = client.containers.run(IMAGE, "sleep 1000", detach=True, name="main")
        network.connect(container, aliases=["foo", "bar"], ipv4_address="10.48.0.77", ipv6_address="fd48::77", driver_opt={"com.example": "1"}, link_local_ips=["169.254.8.8"])
        network.connect(other, links=[("main", "linked")])
        network.reload()
        assert set(network.containers) == {container, other}
        end = client.api.inspect_container("main")["NetworkSettings"]["Networks"]["net"]
        assert end["IPAddress"] == "10.48.0.77" and end["GlobalIPv6Address"] == "fd48::77" and {"foo", "bar"} <= set(end["Aliases"]), end
        assert end["IPAMConfig"] == {"IPv4Address": "10.48.0.77", "IPv6Address": "fd48::77", "LinkLocalIPs": ["169.254.8.8"]} and end["DriverOpts"] == {"com.example": "1"}, end
        for name in ("foo", "main", "linked"):
            assert b"10.48.0.77" in other.exec_run(f"ping -4 -c1 -W2 {name}").output, name
        raises(APIError, "already exists in network", network.connect, container)
        network.disconnect(container)
        raises(APIError, "is not connected to", network.disconnect, container)
        network.disconnect(other, force=True)
        network.reload()
        assert network.containers == []
        raises(APIError, "host", client.networks.get("host").connect, container)
        network.remove()
        raises(NotFound, "network net not found", client.api.inspect_network, "net")

    def lists_and_prune():
        client.networks.create("aa", labels={"x": "y"})
        client.networks.create("ab")
        names = lambda **more: sorted(one.name for one in client.networks.list(**more))
        assert names() == ["aa", "ab", "bridge", "host", "none"], names()
        assert names(names=["aa"]) == ["aa"] and names(filters={"label": "x"}) == ["aa"] and names(filters={"driver": "host"}) == ["host"] and names(filters={"type": "custom"}) == ["aa", "ab"]
        assert names(filters={"dangling": True}) == ["aa", "ab"] and names(ids=[client.networks.get("ab").id]) == ["ab"]
        assert client.networks.list(names=["aa"], greedy=True)[0].attrs["Containers"] == {}
        assert client.networks.prune(filters={"label": "x"})["NetworksDeleted"] == ["aa"]
        assert client.networks.prune()["NetworksDeleted"] == ["ab"]
        raises(APIError, "", client.networks.get("bridge").remove)

    return locals()


@checks_of
def volumes(client, daemon):
    def all_of_it():
        volume = client.volumes.create("vol", driver="local", driver_opts={"type": "tmpfs", "device": "tmpfs", "o": "size=64k"}, labels={"a": "b"})
        assert volume.attrs["Options"]["o"] == "size=64k" and volume.attrs["Labels"] == {"a": "b"} and volume.attrs["Scope"] == "local"
        assert client.volumes.create("vol", driver_opts={"type": "tmpfs", "device": "tmpfs", "o": "size=64k"}) == volume
        assert len(client.volumes.create().name) == 64
        assert "size=64k" in said(client, "grep ' /v ' /proc/mounts", volumes=["vol:/v"])
        names = lambda **more: [one.name for one in client.volumes.list(**more)]
        assert names(filters={"label": "a"}) == ["vol"] and names(filters={"name": "vo"}) == ["vol"] and len(names(filters={"dangling": True})) == 2
        holder = client.containers.create(IMAGE, "true", volumes=["vol:/v"])
        error = raises(APIError, "volume is in use", volume.remove)
        assert error.status_code == 409
        holder.remove()
        volume.remove(force=True)
        raises(NotFound, "no such volume", client.volumes.get, "vol")
        assert len(client.volumes.prune()["VolumesDeleted"]) == 1
        client.volumes.create("stays")
        assert client.volumes.prune()["VolumesDeleted"] in (None, [])
        assert client.volumes.prune(filters={"all": 1})["VolumesDeleted"] == ["stays"]
        raises(APIError, "", client.volumes.create, "x", driver="nosuch")
        raises(APIError, "includes invalid characters for a local volume name", client.volumes.create, "bad/name")

    return locals()


@checks_of
def images(client, daemon):
    def import_save_load_tag_history():
        with tempfile.NamedTemporaryFile() as file:
            file.write(root_file_system())
            file.flush()
            answer = json.loads(client.api.import_image(file.name, repository="made/of", tag="file").splitlines()[-1])
            assert "error" not in answer, answer
        client.api.import_image_from_data(root_file_system(), repository="made/of", tag="data")
        client.api.import_image(root_file_system(), repository="made/of", tag="changed", changes=["ENV A=b", "CMD echo hi"])
        assert "A=b" in client.images.get("made/of:changed").attrs["Config"]["Env"]
        image = client.images.get("made/of:file")
        assert image.tag("other/name", tag="1") is True
        image.reload()
        assert set(image.tags) == {"made/of:file", "other/name:1"}
        data = b"".join(image.save(named=True))
        assert b"manifest.json" in data
        client.images.remove("made/of:file")
        client.images.remove("other/name:1")
        loaded = client.images.load(data)
        assert loaded[0].id == image.id and loaded[0].tags, loaded
        assert image.history()[0]["Id"] == image.id and image.history()[0]["Size"] > 0
        for tag in loaded[0].tags:
            client.images.remove(tag, force=True)
        client.images.remove("made/of:data")
        client.images.remove("made/of:changed", noprune=True)

    def a_corrupt_archive_is_refused():
        raises(ImageLoadError, "", client.images.load, b"abc")

    def lists():
        assert IMAGE in [tag for image in client.images.list() for tag in image.tags]
        assert client.images.list(name="busybox")[0].tags == [IMAGE] and client.images.list(filters={"dangling": True}) == []
        assert client.images.list(all=True) and client.api.images(quiet=True)
        assert client.images.get(IMAGE).short_id == client.images.get(IMAGE).id[:19]

    def remove():
        client.images.get(IMAGE).tag("rm", "1")
        container = client.containers.create("rm:1", "true")
        client.images.remove("rm:1")
        error = raises(APIError, "conflict", client.images.remove, client.images.get(IMAGE).id)
        assert error.status_code == 409
        raises(ImageNotFound, "No such image", client.images.get, "nosuch:1")
        raises(ImageNotFound, "No such image", client.images.remove, "nosuch:1")
        container.remove()

    def prune():
        client.api.import_image(root_file_system(), repository="dangle", tag="1", changes=["ENV A=1"])
        client.api.import_image(root_file_system(), repository="dangle", tag="1", changes=["ENV A=2"])
        assert len(client.images.list(filters={"dangling": True})) == 1
        gone = client.images.prune(filters={"dangling": True})
        assert len([one for one in gone["ImagesDeleted"] if "Deleted" in one]) >= 1, gone
        client.images.remove("dangle:1")

    def search_fails_well_without_a_network():
        error = raises(APIError, "", client.images.search, "busybox", limit=5)
        assert error.status_code >= 500, error

    return locals()


@checks_of
def registry(client, daemon):
    place = daemon.registry()
    if not place:
        print("skipped: there is no docker-registry")
        return {}

    def push_pull_and_ask():
        client.images.get(IMAGE).tag(f"{place}/lib/busy", "1")
        client.images.get(IMAGE).tag(f"{place}/lib/busy", "2")
        lines = list(client.images.push(f"{place}/lib/busy", tag="1", stream=True, decode=True))
        assert any("aux" in line for line in lines) and not any("error" in line for line in lines), lines
        assert "digest: sha256:" in client.images.push(f"{place}/lib/busy")
        data = client.images.get_registry_data(f"{place}/lib/busy:1")
        assert data.id.startswith("sha256:") and data.has_platform("linux/amd64") and data.attrs["Platforms"][0]["os"] == "linux"
        for tag in ("1", "2"):
            client.images.remove(f"{place}/lib/busy:{tag}")
        image = client.images.pull(f"{place}/lib/busy", tag="1")
        assert image.tags and f"{place}/lib/busy:1" in image.tags
        found = client.images.pull(f"{place}/lib/busy", all_tags=True)
        assert {tag for image in found for tag in image.tags if "lib/busy" in tag} == {f"{place}/lib/busy:1", f"{place}/lib/busy:2"}, found
        lines = list(client.api.pull(f"{place}/lib/busy", tag="1", stream=True, decode=True))
        assert lines[-1]["status"].startswith("Status: Image is up to date"), lines
        pulled = data.pull()
        assert pulled.id == image.id
        raises(NotFound, "", client.images.pull, f"{place}/no/such", tag="1")
        raises(APIError, "", client.images.get_registry_data, f"{place}/no/such:1")
        # As at dockerd the answer has begun by then: what is wrong is in its lines.
        said = client.images.push(f"{place}/no/such")
        assert "does not exist locally with the tag" in said, said
        assert client.login(username="any", password="body", registry=place)["Status"] == "Login Succeeded"
        for tag in ("1", "2"):
            client.images.remove(f"{place}/lib/busy:{tag}")

    return locals()


@checks_of
def events(client, daemon):
    def since_until_filters():
        begin = time.time()
        container = client.containers.run(IMAGE, "true", detach=True, name="told", labels={"l": "m"})
        container.wait()
        container.remove()
        client.volumes.create("vv").remove()
        end = time.time() + 1
        found = [event for event in client.events(since=begin, until=end, decode=True)]
        actions = [(event["Type"], event["Action"]) for event in found]
        for wanted in (("container", "create"), ("network", "connect"), ("container", "start"), ("container", "die"), ("container", "destroy"), ("volume", "create"), ("volume", "destroy")):
            assert wanted in actions, (wanted, actions)
        die = next(event for event in found if event["Action"] == "die")
        assert die["Actor"]["Attributes"]["exitCode"] == "0" and die["Actor"]["Attributes"]["name"] == "told" and die["Actor"]["Attributes"]["l"] == "m" and die["scope"] == "local" and die["timeNano"] // 10**9 == die["time"], die
        assert die["id"] == container.id and die["status"] == "die" and die["from"] == IMAGE, die
        for filters, least in (({"type": "volume"}, 2), ({"container": "told"}, 4), ({"event": ["die"]}, 1), ({"label": "l=m"}, 3), ({"image": IMAGE}, 1), ({"volume": "vv"}, 2), ({"network": "bridge"}, 1)):
            assert len(list(client.events(since=begin, until=end, decode=True, filters=filters))) >= least, filters
        assert isinstance(next(client.events(since=begin, until=end)), bytes)

    def live():
        stream = client.events(decode=True, filters={"event": "create", "type": "volume"})
        thread = threading.Timer(0.3, lambda: docker.DockerClient(base_url=daemon.host).volumes.create("later"))
        thread.start()
        assert next(stream)["Actor"]["ID"] == "later"
        stream.close()
        thread.join()

    return locals()


@checks_of
def errors(client, daemon):
    def classes_and_texts():
        error = raises(NotFound, 'No such container: nosuch', client.containers.get, "nosuch")
        assert error.status_code == 404 and error.is_client_error() and error.explanation == "No such container: nosuch"
        client.containers.create(IMAGE, "true", name="taken")
        error = raises(APIError, "You have to remove (or rename) that container to be able to reuse that name", client.containers.create, IMAGE, "true", name="taken")
        assert error.status_code == 409 and 'Conflict. The container name "/taken" is already in use by container' in error.explanation
        raises(APIError, "Invalid container name", client.containers.create, IMAGE, "true", name="no/slash")
        raises(NotFound, "network nosuch not found", client.containers.run, IMAGE, "true", network="nosuch")
        raises(NotFound, "get nosuch: no such volume", client.volumes.get, "nosuch")
        raises(APIError, "This node is not a swarm manager", client.services.list)

    return locals()


@checks_of
def swarm(client, daemon):
    def begin():
        for words in (["link", "add", "wire0", "type", "bridge"], ["addr", "add", "10.99.0.1/24", "dev", "wire0"], ["link", "set", "wire0", "up"]):
            daemon.inside("ip", *words)
        node = client.swarm.init(advertise_addr="10.99.0.1", listen_addr="10.99.0.1:2377", default_addr_pool=["10.87.0.0/16"], subnet_size=24, snapshot_interval=5000, log_entries_for_slow_followers=1200, labels={"a": "b"})
        assert node == client.info()["Swarm"]["NodeID"]
        assert client.swarm.attrs["Spec"]["Raft"]["SnapshotInterval"] == 5000 and client.swarm.attrs["Spec"]["Labels"] == {"a": "b"} and client.swarm.attrs["SubnetSize"] == 24
        raises(APIError, "This node is already part of a swarm", client.swarm.init, advertise_addr="10.99.0.1")
        assert client.swarm.attrs["JoinTokens"]["Worker"].startswith("SWMTKN-1-")

    def update_and_keys():
        before = client.swarm.attrs["JoinTokens"]
        assert client.swarm.update(rotate_worker_token=True, rotate_manager_token=True, task_history_retention_limit=3)
        client.swarm.reload()
        after = client.swarm.attrs["JoinTokens"]
        assert after["Worker"] != before["Worker"] and after["Manager"] != before["Manager"] and client.swarm.attrs["Spec"]["Orchestration"]["TaskHistoryRetentionLimit"] == 3
        assert client.swarm.get_unlock_key() == {"UnlockKey": ""}
        client.swarm.update(autolock_managers=True)
        key = client.swarm.get_unlock_key()["UnlockKey"]
        assert key.startswith("SWMKEY-1-")
        raises(APIError, "", client.swarm.unlock, key)
        client.swarm.update(rotate_manager_unlock_key=True, autolock_managers=True)
        assert client.swarm.get_unlock_key()["UnlockKey"] != key
        client.swarm.update(autolock_managers=False)

    def nodes():
        node, = client.nodes.list()
        assert node.attrs["ManagerStatus"]["Leader"] and client.nodes.get(node.id) == node
        assert client.nodes.list(filters={"role": "worker"}) == [] and client.nodes.list(filters={"name": "conf"})
        assert node.update({"Availability": "active", "Role": "manager", "Labels": {"zone": "a"}, "Name": ""})
        node.reload()
        assert node.attrs["Spec"]["Labels"] == {"zone": "a"}
        raises(APIError, "", client.api.remove_node, node.id)

    def secrets_and_configs():
        secret = client.secrets.create(name="sec", data=b"hidden", labels={"a": "b"})
        assert secret.name == "sec" and client.secrets.get(secret.id).attrs["Spec"]["Labels"] == {"a": "b"} and client.secrets.list(filters={"name": "sec"})[0] == secret
        config = client.configs.create(name="con", data=b"shown", labels={"c": "d"})
        assert base64.b64decode(client.configs.get(config.id).attrs["Spec"]["Data"]) == b"shown" and client.configs.list(filters={"label": "c"})[0] == config
        assert raises(APIError, "already", client.secrets.create, name="sec", data=b"x").status_code == 409
        raises(NotFound, "secret nosuch not found", client.secrets.get, "nosuch")
        raises(NotFound, "config nosuch not found", client.configs.get, "nosuch")

    def running(service, count=1):
        def look():
            found = [task for task in service.tasks(filters={"desired-state": "running"}) if task["Status"]["State"] == "running"]
            return len(found) == count and found

        try:
            return until(look, 40, f"{count} running")
        except AssertionError:
            print([task["Status"] for task in service.tasks()])
            raise

    running.__module__ = None

    def services():
        client.networks.create("front", driver="overlay", attachable=True, scope="swarm", labels={"n": "1"}, ipam=types.IPAMConfig(pool_configs=[types.IPAMPool(subnet="10.86.0.0/24")]))
        sec, con = client.secrets.get("sec"), client.configs.get("con")
        service = client.services.create(
            IMAGE, command=["sh", "-c"], args=["echo task $NUMBER; cat /run/secrets/sec /con; echo; sleep 1000"], name="web", env=["NUMBER={{.Task.Slot}}"], hostname="h-{{.Task.Slot}}",
            labels={"s": "l"}, container_labels={"c": "l"}, constraints=["node.role == manager"], preferences=[("spread", "node.labels.zone")], maxreplicas=3,
            endpoint_spec=types.EndpointSpec(mode="vip", ports={18095: 80, 18096: (81, "udp"), 18097: (82, "tcp", "host")}), log_driver="json-file", log_driver_options={"max-size": "1m"},
            mode=types.ServiceMode("replicated", 1), mounts=["vol-{{.Task.Slot}}:/data:rw", types.Mount("/t", None, type="tmpfs", tmpfs_size=65536)], networks=["front"],
            resources=types.Resources(cpu_limit=10**9, mem_limit=64 << 20, mem_reservation=16 << 20), restart_policy=types.RestartPolicy(condition="any", delay=1, max_attempts=3, window=0),
            secrets=[types.SecretReference(sec.id, "sec", uid="0", gid="0", mode=0o400)], configs=[types.ConfigReference(con.id, "con", filename="/con")], stop_grace_period=1 * 10**9, stop_signal="SIGKILL",
            update_config=types.UpdateConfig(parallelism=1, delay=0, failure_action="pause", monitor=10**9, max_failure_ratio=0.1, order="stop-first"),
            rollback_config=types.RollbackConfig(parallelism=1, order="stop-first"), healthcheck=types.Healthcheck(test=["CMD", "true"], interval=500_000_000), user="root", workdir="/tmp", tty=False, open_stdin=False, read_only=False,
            hosts={"other": "192.0.2.7"}, dns_config=types.DNSConfig(nameservers=["192.0.2.8"], search=["test"], options=["ndots:2"]), isolation=None, groups=["777"], init=True, cap_add=["CAP_NET_ADMIN"], cap_drop=["CAP_MKNOD"],
            sysctls={"net.ipv4.ip_default_ttl": "44"},
        )
        task, = running(service)
        container = client.containers.get(task["Status"]["ContainerStatus"]["ContainerID"])
        assert container.exec_run("sh -c 'hostname; pwd; cat /proc/sys/net/ipv4/ip_default_ttl; stat -c %a /run/secrets/sec; grep -c other /etc/hosts'").output.split() == [b"h-1", b"/tmp", b"44", b"400", b"1"], container.exec_run("sh -c 'hostname; pwd; cat /proc/sys/net/ipv4/ip_default_ttl; stat -c %a /run/secrets/sec; cat /etc/hosts'").output
        until(lambda: b"hiddenshown" in b"".join(service.logs(stdout=True, stderr=True)), 10, "logs")
        assert b"task 1\n" in b"".join(service.logs(stdout=True, tail=10)) and b"".join(service.logs(stdout=True, details=True, timestamps=True, since=1))
        spec = client.api.inspect_service(service.id, insert_defaults=True)["Spec"]
        assert spec["TaskTemplate"]["Placement"]["MaxReplicas"] == 3 and spec["TaskTemplate"]["ContainerSpec"]["CapabilityAdd"] == ["CAP_NET_ADMIN"], spec
        assert {port["PublishedPort"] for port in client.services.get("web").attrs["Endpoint"]["Ports"]} == {18095, 18096, 18097}
        assert client.services.list(filters={"label": "s"})[0] == service and client.services.list(filters={"mode": "global"}) == [] and client.services.list(status=True)[0].attrs["ServiceStatus"]["RunningTasks"] == 1
        assert raises(APIError, "", client.secrets.get("sec").remove).status_code == 400
        # The SDK sends an update with all that the service has.
        # The version it has from its creation is an old one by now.
        service.reload()
        service.update(labels={"s": "new"}, fetch_current_spec=True)
        service.reload()
        assert service.attrs["Spec"]["Labels"] == {"s": "new"} and service.version > 0
        assert service.scale(0) and running_none(service)
        raises(NotFound, "", client.services.get, "nosuch")
        service.remove()
        until(lambda: not client.api.tasks(), 40, "no tasks")

    def running_none(service):
        return until(lambda: not [task for task in service.tasks() if task["Status"]["State"] == "running"], 30)

    running_none.__module__ = None

    def updates_and_modes():
        service = client.services.create(IMAGE, command="sleep 1000", name="up", mode={"Replicated": {"Replicas": 2}}, stop_grace_period=10**8, update_config=types.UpdateConfig(parallelism=2, monitor=10**8))
        before = {task["ID"] for task in running(service, 2)}
        service.update(image=IMAGE, command="sleep 1001", name="up", mode={"Replicated": {"Replicas": 2}})
        until(lambda: len(before & {task["ID"] for task in running(service, 2)}) == 0, 40, "new tasks")
        # The end of an update is noted with the service, and makes it another version.
        until(lambda: service.reload() or service.attrs["UpdateStatus"]["State"] == "completed", 40, "the update's end")
        service.force_update()
        service.reload()
        assert service.attrs["Spec"]["TaskTemplate"]["ForceUpdate"] == 1, service.attrs["Spec"]
        service.remove()
        everywhere = client.services.create(IMAGE, command="sleep 1000", name="global", mode=types.ServiceMode("global"), endpoint_spec=types.EndpointSpec(mode="dnsrr"))
        running(everywhere)
        everywhere.remove()
        job = client.services.create(IMAGE, command="true", name="job", mode=types.ServiceMode("replicated-job", replicas=2, concurrency=1))
        until(lambda: len([task for task in job.tasks() if task["Status"]["State"] == "complete"]) == 2, 40, "two completed")
        job.remove()
        job = client.services.create(IMAGE, command="true", name="gjob", mode=types.ServiceMode("global-job"))
        until(lambda: [task for task in job.tasks() if task["Status"]["State"] == "complete"], 40, "completed")
        job.remove()
        raises(APIError, "", client.services.create, IMAGE, name="-bad")

    def a_container_joins_an_attachable_network():
        container = client.containers.run(IMAGE, "sleep 1000", detach=True, network="front")
        container.reload()
        address = container.attrs["NetworkSettings"]["Networks"]["front"]["IPAddress"]
        assert address.startswith("10.86.0."), address
        container.remove(force=True)

    def leave():
        def gone():
            try:
                client.networks.get("front").remove()
            except APIError as error:
                assert "is in use by container" in str(error), error
                return False
            return True

        # The container's place is given back a moment after it has gone.
        until(gone, 10, "the network is free")
        client.secrets.get("sec").remove()
        client.configs.get("con").remove()
        raises(APIError, "You are attempting to leave the swarm on a node that is participating as a manager", client.swarm.leave)
        assert client.swarm.leave(force=True)
        assert client.info()["Swarm"]["LocalNodeState"] == "inactive"

    return locals()


if __name__ == "__main__":
    sys.exit(main())

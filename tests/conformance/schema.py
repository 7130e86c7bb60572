#!/usr/bin/env python3
"""Checks a daemon's real answers against the Docker Engine API's own description of them.

`SKEP_API_YAML` names the description (the file `api/swagger.yaml` of version 1.50). Every path and method
in it is asked at least once, with objects made here; every answer must have a documented status, and a body
whose types, required fields, enums and nulls are the documented ones. A path nobody asked, and a query
parameter nobody gave, fail the run as well.
"""

import base64
import io
import json
import os
import re
import sys
import tarfile
import time
import urllib.parse

sys.dont_write_bytecode = True

from harness import Checks, Daemon, root_file_system, skip, until

try:
    import yaml
except ImportError:
    skip("there is no PyYAML")

# Where dockerd itself differs from the description, each with the reason.
STATUS_BESIDE = {
    # The router's general answers: a body or parameter that cannot be read, a name that is not there, a
    # name that is taken, and no cluster.
    400, 404, 409, 503,
    # What this daemon does not do, refused by name.
    501,
}
NULL_BESIDE = {
    # Go's nil slices and maps; dockerd sends null in these places too.
    "Entrypoint", "Cmd", "Volumes", "OnBuild", "Labels", "Mounts", "Binds", "GroupAdd", "Dns", "DnsOptions",
    "DnsSearch", "ExtraHosts", "VolumesFrom", "CapAdd", "CapDrop", "SecurityOpt", "Devices", "DeviceCgroupRules",
    "DeviceRequests", "Ulimits", "BlkioWeightDevice", "BlkioDeviceReadBps", "BlkioDeviceWriteBps",
    "BlkioDeviceReadIOps", "BlkioDeviceWriteIOps", "MaskedPaths", "ReadonlyPaths", "ExposedPorts", "Env",
    "PortBindings", "Links", "Aliases", "DriverOpts", "DNSNames", "IPAMConfig", "Options", "Authorization",
    "RemoteManagers", "GenericResources", "VolumesDeleted", "ContainersDeleted", "ImagesDeleted",
    "NetworksDeleted", "CachesDeleted", "ExecIDs", "Titles", "Processes", "Tags", "Warnings", "Ports", "Volumes",
    "Log", "io_service_bytes_recursive", "io_serviced_recursive", "io_queue_recursive",
    "io_service_time_recursive", "io_wait_time_recursive", "io_merged_recursive", "io_time_recursive",
    "sectors_recursive", "percpu_usage", "Containers", "Images", "BuildCache", "Data", "Driver", "Config",
    "Healthcheck", "Health", "Annotations", "ExitCode", "MemorySwappiness", "OomKillDisable",
}
# Fields that are sent and that the description does not name, by the definition they are in.
FIELDS_BESIDE = {
    # dockerd's spelling, which clients read, is not the described one.
    "IDResponse": {"ID"},
    "ContainerSpec": {"Healthcheck"},
    "Network": {"Services"},
    "Service": {"PreviousSpec"},
    # What nodes and tasks of this kind of cluster tell of themselves.
    "Task": {"ServiceName", "Endpoint"},
    "TaskStatus": {"AppliedAt"},
    "Node": {"Role", "Index", "IngressAddresses"},
    "NodeDescription": {
        "Addresses",
        "DataPathAddr",
        "DataPathMtu",
        "Encryption",
        "NetworkProblems",
    },
    "NodeStatus": {"Since"},
    "ManagerStatus": {"RaftId"},
}
# Fields whose described type is not the one that dockerd sends.
OTHER_TYPE = {
    # The described network is an engine's; the one sent is the cluster's.
    ("NetworkAttachment", "Network"),
}


class Schema:
    """Checks values against definitions of the description."""

    def __init__(self, api):
        self.api = api
        self.wrong = []

    def resolve(self, schema):
        name = None
        while "$ref" in schema:
            name = schema["$ref"].split("/")[-1]
            schema = self.api[schema["$ref"].split("/")[1]][name]
        return name, schema

    def fields(self, schema):
        """All properties and required names, of `allOf` parts too."""
        _, schema = self.resolve(schema)
        properties, required, extra = dict(schema.get("properties") or {}), list(schema.get("required") or []), None
        extra = schema.get("additionalProperties")
        for part in schema.get("allOf", ()):
            more, needed, other = self.fields(part)
            properties.update(more)
            required += needed
            extra = extra if extra is not None else other
        return properties, required, extra

    def say(self, where, what):
        self.wrong.append(f"{where}: {what}")

    def check(self, value, schema, where):
        nullable = schema.get("x-nullable")
        name, schema = self.resolve(schema)
        nullable = nullable or schema.get("x-nullable") or schema.get("x-omitempty") is False and schema.get("type") == "array"
        last = re.sub(r"\[\d+\]", "", where).rsplit(".", 1)[-1]
        if value is None:
            if not nullable and last not in NULL_BESIDE:
                self.say(where, "is null")
            return
        kind = schema.get("type")
        if kind is None and "properties" in schema:
            kind = "object"
        if kind is None and "allOf" in schema:
            parts = [self.resolve(part)[1] for part in schema["allOf"]]
            # A documented enum is spelled as `allOf` with one part.
            if len(parts) == 1 and parts[0].get("type") != "object":
                return self.check(value, parts[0], where)
            kind = "object"
        match kind:
            case "object":
                self.check_object(value, name, schema, where)
            case "array":
                if not isinstance(value, list):
                    return self.say(where, f"is no array: {value!r:.80}")
                for number, item in enumerate(value):
                    self.check(item, schema.get("items", {}), f"{where}[{number}]")
            case "string":
                if not isinstance(value, str):
                    return self.say(where, f"is no string: {value!r:.80}")
                known = schema.get("enum")
                if known and value not in known:
                    self.say(where, f"is {value!r}, none of {known}")
                if schema.get("format") in ("date-time", "dateTime") and value and not re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$", value):
                    self.say(where, f"is no time: {value!r}")
            case "integer":
                if isinstance(value, bool) or not isinstance(value, int):
                    return self.say(where, f"is no integer: {value!r:.80}")
                bits = {"int64": (-(2**63), 2**63), "int32": (-(2**31), 2**31), "uint64": (0, 2**64), "uint16": (0, 2**16)}
                low, high = bits.get(schema.get("format"), (-(2**63), 2**64))
                if not low <= value < high:
                    self.say(where, f"does not fit: {value}")
            case "number":
                if isinstance(value, bool) or not isinstance(value, (int, float)):
                    self.say(where, f"is no number: {value!r:.80}")
            case "boolean":
                if not isinstance(value, bool):
                    self.say(where, f"is no boolean: {value!r:.80}")

    def check_object(self, value, name, schema, where):
        if not isinstance(value, dict):
            return self.say(where, f"is no object: {value!r:.80}")
        properties, required, extra = self.fields(schema)
        for field in required:
            if field not in value and not (name == "IDResponse" and "ID" in value):
                self.say(where, f"lacks `{field}`")
        for field, item in value.items():
            if (name, field) in OTHER_TYPE:
                continue
            if field in properties:
                self.check(item, properties[field], f"{where}.{field}")
            elif isinstance(extra, dict):
                self.check(item, extra, f"{where}.{field}")
            elif properties and extra is not True and field not in FIELDS_BESIDE.get(name or where.rsplit(".", 1)[-1], ()):
                self.say(where, f"has the unknown field `{field}`")
        if "-v" in sys.argv:
            for field in properties:
                if field not in value:
                    SEEN_ABSENT.setdefault(f"{name or where}", set()).add(field)


SEEN_ABSENT = {}


class Talk:
    """Asks, and checks each answer against the description."""

    def __init__(self, daemon, api):
        self.daemon, self.api = daemon, api
        self.asked, self.given = set(), set()

    def ask(self, method, template, want, body=None, headers=None, query=None, raw=False, timeout=60, **names):
        """Asks a path of the description; `want` is the status the answer must have."""
        path = re.sub(r"\{(\w+)\}", lambda found: str(names[found[1]]), template)
        operation = self.api["paths"][template][method.lower()]
        self.asked.add((method, template))
        for parameter in query or {}:
            self.given.add((method, template, parameter))
        words = urllib.parse.urlencode(
            {key: json.dumps(value) if isinstance(value, (dict, list)) else value for key, value in (query or {}).items()}
        )
        target = f"/v1.50{path}" + (f"?{words}" if words else "")
        answer = self.daemon.call(method, target, body, headers, timeout)
        where = f"{method} {target}"
        wants = want if isinstance(want, tuple) else (want,)
        said = answer.body[:400].decode(errors="replace")
        assert answer.status in wants, f"{where}: status {answer.status}, want {want}: {said}"
        documented = {int(code) for code in operation["responses"]}
        assert answer.status in documented or answer.status in STATUS_BESIDE, f"{where}: status {answer.status} is not documented"
        assert answer.headers["Api-Version"] == "1.50", f"{where}: Api-Version {answer.headers['Api-Version']}"
        if answer.status >= 400:
            self.check(answer, {"$ref": "#/definitions/ErrorResponse"}, where)
            return answer.json()["message"]
        if answer.status in (204, 304):
            assert answer.body == b"", f"{where}: a body with {answer.status}: {said}"
            return None
        if raw or method == "HEAD":
            return answer
        schema = operation["responses"][answer.status].get("schema") if answer.status in operation["responses"] else None
        kind = answer.headers.get("Content-Type", "")
        if schema and kind.startswith("application/json"):
            return self.check(answer, schema, where)
        if not schema:
            assert kind.startswith("application/json") or not answer.body or b"{" not in answer.body[:1], f"{where}: {kind}: {said}"
        try:
            return answer.json()
        except ValueError:
            return answer.body

    def check(self, answer, schema, where):
        kind = answer.headers.get("Content-Type", "")
        assert kind.startswith("application/json"), f"{where}: Content-Type {kind!r}"
        value = answer.json()
        check = Schema(self.api)
        check.check(value, schema, "$")
        assert not check.wrong, where + "".join(f"\n    {line}" for line in check.wrong)
        return value

    def lines(self, method, template, want=200, **more):
        """A stream of JSON lines."""
        answer = self.ask(method, template, want, raw=True, **more)
        return [json.loads(line) for line in answer.body.splitlines() if line.strip()]

    def unasked(self):
        for template, methods in self.api["paths"].items():
            for method, operation in methods.items():
                method = method.upper()
                if (method, template) not in self.asked:
                    yield f"{method} {template}"
                    continue
                for parameter in operation.get("parameters", ()):
                    if parameter["in"] == "query" and (method, template, parameter["name"]) not in self.given:
                        yield f"{method} {template}?{parameter['name']}"


IMAGE = "busybox:latest"
NOBODY = "nosuchthing"


def main():
    path = os.environ.get("SKEP_API_YAML")
    if not path:
        skip("SKEP_API_YAML names no description of the API")
    with open(path) as file:
        api = yaml.safe_load(file)
    daemon = Daemon()
    try:
        talk = Talk(daemon, api)
        checks = Checks()
        for subject in (system, images, containers, streams, execs, archives, networks, volumes, refused, outside_of_a_cluster, registry, cluster):
            for name, function in subject(talk):
                checks.check(f"{subject.__name__}: {name}", function)
        if not checks.only:
            checks.check("every path and every query parameter was asked", lambda: nothing_left(talk))
        for definition, fields in sorted(SEEN_ABSENT.items()):
            print(f"     at times without: {definition}: {', '.join(sorted(fields))}")
        return checks.end()
    finally:
        if "-v" in sys.argv:
            print(daemon.words())
        daemon.down()


def nothing_left(talk):
    left = sorted(talk.unasked())
    assert not left, "not asked:\n  " + "\n  ".join(left)


def auth(**fields):
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(fields).encode()).decode()}


def archive(**files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return out.getvalue()


def create(talk, name, command=("sleep", "1000"), host=None, query=None, **config):
    body = {"Image": IMAGE, "Cmd": list(command), **config, "HostConfig": host or {}}
    made = talk.ask("POST", "/containers/create", 201, body, query={"name": name, **(query or {})})
    return made["Id"]


def remove(talk, name):
    talk.ask("DELETE", "/containers/{id}", 204, id=name, query={"force": 1, "v": 1})


def system(t):
    def ping():
        answer = t.ask("GET", "/_ping", 200, raw=True)
        assert answer.body == b"OK" and answer.headers["Docker-Experimental"] == "false"
        assert answer.headers["Ostype"] == "linux" and answer.headers["Swarm"] == "inactive"
        assert "no-cache" in answer.headers["Cache-Control"]
        assert answer.headers["Content-Type"].startswith("text/plain")
        answer = t.ask("HEAD", "/_ping", 200)
        assert answer.headers["Api-Version"] == "1.50"

    def version():
        page = t.ask("GET", "/version", 200)
        assert page["ApiVersion"] == "1.50" and page["Components"][0]["Name"] == "Engine"

    def info():
        page = t.ask("GET", "/info", 200)
        assert page["Swarm"]["LocalNodeState"] == "inactive"

    def events():
        t.daemon.call("POST", "/volumes/create", {"Name": "told", "Labels": {"of": "events"}})
        t.daemon.call("DELETE", "/volumes/told")
        for filters in ({"volume": ["told"]}, {"type": ["volume"]}, {"event": ["create", "destroy"]}):
            told = t.lines("GET", "/events", query={"since": 1, "until": until_now(), "filters": filters})
            told = [event for event in told if event["Actor"]["ID"] == "told"]
            assert [event["Action"] for event in told] == ["create", "destroy"], told
            for event in told:
                check = Schema(t.api)
                check.check(event, {"$ref": "#/definitions/EventMessage"}, "$")
                assert not check.wrong, check.wrong
        assert "filter" in t.ask("GET", "/events", 400, query={"filters": {"nosuch": ["x"]}})
        t.ask("GET", "/events", 400, query={"since": "x"})
        t.ask("GET", "/events", 400, query={"since": 200, "until": 100})

    def disk_usage():
        whole = t.ask("GET", "/system/df", 200)
        assert set(whole) >= {"LayersSize", "Images", "Containers", "Volumes", "BuildCache"}
        for kind, key in (("image", "Images"), ("container", "Containers"), ("volume", "Volumes"), ("build-cache", "BuildCache")):
            assert key in t.ask("GET", "/system/df", 200, query={"type": kind}), key
        assert "unknown object type" in t.ask("GET", "/system/df", 400, query={"type": NOBODY})

    def versions():
        for path in ("/v1.23/info", "/v1.99/info"):
            answer = t.daemon.call("GET", path)
            assert answer.status == 400 and "API version" in answer.json()["message"], (path, answer.status, answer.body)
        answer = t.daemon.call("GET", "/v1.24/version")
        assert answer.status == 200, answer.body
        answer = t.daemon.call("GET", "/v1.50/nosuch")
        assert (answer.status, answer.json()) == (404, {"message": "page not found"})

    return [("ping", ping), ("version", version), ("info", info), ("events", events), ("disk usage", disk_usage), ("versions", versions)]


def until_now():
    return int(time.time()) + 1


def images(t):
    def make():
        lines = t.lines("POST", "/images/create", body=root_file_system(), query={
            "fromSrc": "-", "repo": "busybox", "tag": "latest", "message": "from a tar", "changes": "CMD sh",
            "platform": "linux/amd64"}, headers={"Content-Type": "application/x-tar"})
        assert lines[-1]["status"].startswith("sha256:"), lines
        page = t.ask("GET", "/images/{name}/json", 200, name=IMAGE)
        assert page["Comment"] == "from a tar" and page["Config"]["Cmd"] == ["/bin/sh", "-c", "sh"], page
        t.ask("GET", "/images/{name}/json", 200, name=IMAGE, query={"manifests": 1})
        t.ask("GET", "/images/{name}/json", (200, 400), name=IMAGE, query={"platform": {"os": "linux", "architecture": "amd64"}})
        t.ask("GET", "/images/{name}/json", 404, name=NOBODY)
        assert t.ask("POST", "/images/create", (400, 404, 500), query={"fromImage": "UPPER", "tag": "x"}, headers=auth(username="u"))

    def lists():
        found = t.ask("GET", "/images/json", 200)
        assert any(IMAGE in image["RepoTags"] for image in found)
        for query in ({"all": 1}, {"digests": 1}, {"shared-size": 1}, {"manifests": 1}):
            t.ask("GET", "/images/json", 200, query=query)
        assert all(image["SharedSize"] >= 0 for image in t.ask("GET", "/images/json", 200, query={"shared-size": 1}))
        for filters, count in (({"reference": ["busybox"]}, 1), ({"reference": [NOBODY]}, 0), ({"dangling": ["true"]}, 0),
                               ({"before": [IMAGE]}, None), ({"since": [IMAGE]}, 0), ({"label": ["x=y"]}, 0), ({"until": ["1h"]}, None)):
            found = t.ask("GET", "/images/json", 200, query={"filters": filters})
            assert count is None or len(found) == count, (filters, found)
        t.ask("GET", "/images/json", 400, query={"filters": {"nosuch": ["x"]}})
        t.ask("GET", "/images/json", 400, query={"filters": "{"})

    def history():
        found = t.ask("GET", "/images/{name}/history", 200, name=IMAGE)
        assert found[0]["Tags"] == [IMAGE] and found[0]["Comment"] == "from a tar", found
        t.ask("GET", "/images/{name}/history", (200, 400), name=IMAGE, query={"platform": {"os": "linux", "architecture": "amd64"}})
        t.ask("GET", "/images/{name}/history", 404, name=NOBODY)

    def tag():
        t.ask("POST", "/images/{name}/tag", 201, name=IMAGE, query={"repo": "local/other", "tag": "2"})
        t.ask("POST", "/images/{name}/tag", 404, name=NOBODY, query={"repo": "x"})
        t.ask("POST", "/images/{name}/tag", 400, name=IMAGE, query={"repo": "UPPER"})
        gone = t.ask("DELETE", "/images/{name}", 200, name="local/other:2", query={"noprune": 1, "force": 1})
        assert gone == [{"Untagged": "local/other:2"}], gone
        t.ask("DELETE", "/images/{name}", 404, name=NOBODY)
        said = t.ask("DELETE", "/images/{name}", 404, name=IMAGE, query={"platforms": json.dumps({"os": "linux", "architecture": "x"})})
        assert "does not provide the specified platform" in said, said
        for template in ("/images/{name}/json", "/images/{name}/history", "/images/{name}/get"):
            t.ask("GET", template, 404, name=IMAGE, query={"platform": {"os": "linux", "architecture": "x"}})

    def transfer():
        whole = t.ask("GET", "/images/{name}/get", 200, name=IMAGE, raw=True)
        assert whole.headers["Content-Type"] == "application/x-tar", whole.headers["Content-Type"]
        names = tarfile.open(fileobj=io.BytesIO(whole.body)).getnames()
        assert {"manifest.json", "index.json", "oci-layout"} <= set(names), names
        several = t.ask("GET", "/images/get", 200, query={"names": IMAGE}, raw=True)
        assert b"manifest.json" in several.body
        t.ask("GET", "/images/get", 404, query={"names": NOBODY})
        t.ask("GET", "/images/{name}/get", (200, 400, 404), name=IMAGE, raw=True, query={"platform": {"os": "linux", "architecture": "amd64"}})
        t.ask("GET", "/images/get", (200, 400, 404), raw=True, query={"names": IMAGE, "platform": {"os": "linux", "architecture": "amd64"}})
        lines = t.lines("POST", "/images/load", body=whole.body, headers={"Content-Type": "application/x-tar"}, query={"quiet": 1})
        assert lines[-1]["stream"] == f"Loaded image: {IMAGE}\n", lines
        t.ask("POST", "/images/load", (200, 400), body=b"no archive", raw=True)
        for platform, want in (("amd64", "Loaded image"), ("s390x", "no image for the requested platform")):
            answer = t.ask("POST", "/images/load", 200, body=whole.body, raw=True, query={"platform": {"os": "linux", "architecture": platform}, "quiet": 0})
            assert want in answer.body.decode(), answer.body

    def prune():
        t.ask("POST", "/images/prune", 200, query={"filters": {"dangling": ["true"]}})
        t.ask("POST", "/images/prune", 400, query={"filters": {"nosuch": ["true"]}})

    def commit():
        create(t, "committed")
        made = t.ask("POST", "/commit", 201, body={"Labels": {"a": "b"}}, query={
            "container": "committed", "repo": "made", "tag": "1", "comment": "said", "author": "me", "pause": 1, "changes": "ENV X=y"})
        page = t.ask("GET", "/images/{name}/json", 200, name="made:1")
        assert page["Id"] == made["Id"] and page["Author"] == "me" and page["Comment"] == "said"
        assert "X=y" in page["Config"]["Env"], page["Config"]
        t.ask("POST", "/commit", 404, query={"container": NOBODY})
        remove(t, "committed")
        gone = t.ask("DELETE", "/images/{name}", 200, name="made:1")
        assert gone[0] == {"Untagged": "made:1"} and gone[1] == {"Deleted": made["Id"]}, gone

    return [("made of a tar", make), ("list", lists), ("history", history), ("tag and remove", tag), ("save and load", transfer), ("prune", prune), ("commit", commit)]


EVERYTHING = {
    "Memory": 64 << 20, "MemorySwap": 128 << 20, "MemoryReservation": 32 << 20, "CpuShares": 512, "CpuPeriod": 100000,
    "CpuQuota": 50000, "CpusetCpus": "0", "CpusetMems": "0", "PidsLimit": 100, "OomScoreAdj": 100, "BlkioWeight": 300,
    "CapAdd": ["NET_ADMIN"], "CapDrop": ["MKNOD"], "Dns": ["192.0.2.1"], "DnsOptions": ["ndots:3"], "DnsSearch": ["test"],
    "ExtraHosts": ["there:192.0.2.2"], "GroupAdd": ["777"], "IpcMode": "private", "PidMode": "", "UTSMode": "",
    "CgroupnsMode": "private", "Privileged": False, "ReadonlyRootfs": True, "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
    "SecurityOpt": ["no-new-privileges"], "ShmSize": 1 << 20, "Sysctls": {"net.ipv4.ip_forward": "0"}, "Tmpfs": {"/run": "size=64k"},
    "Ulimits": [{"Name": "nofile", "Soft": 100, "Hard": 200}], "Init": True, "Binds": ["kept:/kept", "/etc/hostname:/host:ro"],
    "Mounts": [{"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 65536, "Mode": 0o700}},
               {"Type": "volume", "Source": "kept2", "Target": "/v", "VolumeOptions": {"Labels": {"x": "y"}, "NoCopy": True}},
               {"Type": "bind", "Source": "/etc", "Target": "/b", "ReadOnly": True, "BindOptions": {"Propagation": "rprivate"}}],
    "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "18080"}], "53/udp": [{"HostPort": ""}]},
    "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}},
    "Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/nothing", "CgroupPermissions": "rwm"}],
    "DeviceCgroupRules": ["c 1:3 rwm"], "Annotations": {"a": "b"}, "MemorySwappiness": 10, "OomKillDisable": False,
}


def containers(t):
    def make():
        create(t, "all", host=EVERYTHING, query={"platform": "linux/amd64"}, Env=["A=b"], Labels={"l": "m"}, Hostname="h", User="0:0",
               WorkingDir="/tmp", ExposedPorts={"9/tcp": {}}, StopSignal="SIGINT", StopTimeout=1, Tty=False, OpenStdin=True,
               Healthcheck={"Test": ["CMD-SHELL", "true"], "Interval": 10**9, "Timeout": 10**9, "Retries": 2, "StartPeriod": 10**9, "StartInterval": 10**9},
               NetworkingConfig={"EndpointsConfig": {}})
        page = t.ask("GET", "/containers/{id}/json", 200, id="all")
        for key, value in EVERYTHING.items():
            if key not in ("Mounts", "PortBindings"):
                assert page["HostConfig"][key] == value, (key, page["HostConfig"][key])
        assert page["State"]["Status"] == "created"
        t.ask("POST", "/containers/{id}/start", 204, id="all")
        t.ask("POST", "/containers/{id}/start", 304, id="all")
        page = t.ask("GET", "/containers/{id}/json", 200, id="all", query={"size": 1})
        assert page["SizeRootFs"] > 0 and page["SizeRw"] >= 0, page
        assert page["State"]["Health"]["Status"] in ("starting", "healthy"), page["State"]
        assert page["NetworkSettings"]["Ports"]["80/tcp"] == [{"HostIp": "127.0.0.1", "HostPort": "18080"}], page["NetworkSettings"]
        until(lambda: t.ask("GET", "/containers/{id}/json", 200, id="all")["State"]["Health"]["Status"] == "healthy", 10, "health")
        t.ask("GET", "/containers/{id}/json", 404, id=NOBODY)

    def wrong():
        for body, status in (
            ({"Image": NOBODY}, 404), ({}, 400), ({"Image": IMAGE, "Cmd": 5}, 400), ({"Image": IMAGE, "HostConfig": {"Memory": 1}}, 400),
            ({"Image": IMAGE, "HostConfig": {"NetworkMode": "container:"}}, 400), ({"Image": IMAGE, "HostConfig": {"Binds": ["/x"]}}, 201), ({"Image": IMAGE, "HostConfig": {"Binds": ["x"]}}, 400),
            ({"Image": IMAGE, "HostConfig": {"Binds": ["a:b"]}}, 400), ({"Image": IMAGE, "HostConfig": {"RestartPolicy": {"Name": "x"}}}, 400),
            ({"Image": IMAGE, "HostConfig": {"Mounts": [{"Type": "bind", "Source": "/nosuch/x", "Target": "/x"}]}}, 400),
            ({"Image": IMAGE, "HostConfig": {"LogConfig": {"Type": "nosuch"}}}, (400, 404, 500)),
        ):
            said = t.ask("POST", "/containers/create", status, body)
            if status == 201:
                remove(t, said["Id"])
        assert "is already in use by container" in t.ask("POST", "/containers/create", 409, {"Image": IMAGE}, query={"name": "all"})
        assert "Invalid container name" in t.ask("POST", "/containers/create", 400, {"Image": IMAGE}, query={"name": "-x"})
        answer = t.daemon.call("POST", "/containers/create", b"{", {"Content-Type": "application/json"})
        assert answer.status == 400, answer.status
        answer = t.daemon.call("POST", "/containers/create", b"x=y", {"Content-Type": "text/plain"})
        assert answer.status == 400 and "Content-Type" in answer.json()["message"]

    def lists():
        found = t.ask("GET", "/containers/json", 200)
        assert [one["Names"] for one in found] == [["/all"]], found
        create(t, "idle")
        assert len(t.ask("GET", "/containers/json", 200, query={"all": 1})) == 2
        assert len(t.ask("GET", "/containers/json", 200, query={"limit": 1})) == 1
        assert t.ask("GET", "/containers/json", 200, query={"size": 1})[0]["SizeRootFs"] > 0
        for filters, names in (({"name": ["al"]}, ["all"]), ({"status": ["created"]}, ["idle"]), ({"label": ["l=m"]}, ["all"]),
                               ({"label": ["l"]}, ["all"]), ({"ancestor": ["busybox"]}, ["idle", "all"]), ({"health": ["healthy"]}, ["all"]),
                               ({"volume": ["kept"]}, ["all"]), ({"network": ["bridge"]}, ["idle", "all"]), ({"exited": ["0"]}, []),
                               ({"before": ["idle"]}, ["all"]), ({"since": ["all"]}, ["idle"]), ({"publish": ["18080"]}, ["all"]),
                               ({"expose": ["9"]}, ["all"]), ({"id": ["zzz"]}, []), ({"is-task": ["false"]}, ["idle", "all"])):
            found = t.ask("GET", "/containers/json", 200, query={"all": 1, "filters": filters})
            assert [one["Names"][0][1:] for one in found] == names, (filters, [one["Names"] for one in found])
        t.ask("GET", "/containers/json", 400, query={"filters": {"nosuch": ["x"]}})
        t.ask("GET", "/containers/json", 400, query={"filters": {"status": ["x"]}})
        t.ask("GET", "/containers/json", 400, query={"limit": "x"})

    def look():
        found = t.ask("GET", "/containers/{id}/top", 200, id="all")
        assert "PID" in found["Titles"] and found["Processes"], found
        found = t.ask("GET", "/containers/{id}/top", 200, id="all", query={"ps_args": "-o pid,comm"})
        assert found["Titles"] == ["PID", "COMMAND"], found
        t.ask("GET", "/containers/{id}/top", 404, id=NOBODY)
        t.ask("GET", "/containers/{id}/top", (409, 500), id="idle")
        changes = t.ask("GET", "/containers/{id}/changes", 200, id="all")
        assert all(change["Kind"] in (0, 1, 2) for change in changes)
        t.ask("GET", "/containers/{id}/changes", 404, id=NOBODY)
        whole = t.ask("GET", "/containers/{id}/export", 200, id="all", raw=True)
        assert "bin/busybox" in tarfile.open(fileobj=io.BytesIO(whole.body)).getnames()
        t.ask("GET", "/containers/{id}/export", 404, id=NOBODY)

    def statistics():
        for query in ({"stream": 0}, {"stream": 0, "one-shot": 1}):
            page = t.ask("GET", "/containers/{id}/stats", 200, id="all", query=query)
            assert page["pids_stats"]["current"] >= 1 and page["memory_stats"]["limit"] == 64 << 20, page
        t.ask("GET", "/containers/{id}/stats", 200, id="idle", query={"stream": 0})
        t.ask("GET", "/containers/{id}/stats", 404, id=NOBODY, query={"stream": 0})

    def change():
        said = t.ask("POST", "/containers/{id}/update", 200, {"Memory": 96 << 20, "MemorySwap": 192 << 20, "PidsLimit": 50, "RestartPolicy": {"Name": "no"}}, id="all")
        assert said["Warnings"] is None or said["Warnings"] == [], said
        assert t.ask("GET", "/containers/{id}/json", 200, id="all")["HostConfig"]["PidsLimit"] == 50
        t.ask("POST", "/containers/{id}/update", 404, {}, id=NOBODY)
        t.ask("POST", "/containers/{id}/resize", (200, 409, 500), id="all", query={"h": 10, "w": 20})
        t.ask("POST", "/containers/{id}/resize", 400, id="all", query={"h": "x", "w": 20})
        t.ask("POST", "/containers/{id}/resize", 404, id=NOBODY, query={"h": 1, "w": 20})
        t.ask("POST", "/containers/{id}/rename", 204, id="idle", query={"name": "lazy"})
        t.ask("POST", "/containers/{id}/rename", 409, id="lazy", query={"name": "all"})
        t.ask("POST", "/containers/{id}/rename", 404, id=NOBODY, query={"name": "b"})
        t.ask("POST", "/containers/{id}/pause", 204, id="all")
        t.ask("POST", "/containers/{id}/pause", (409, 500), id="all")
        assert t.ask("GET", "/containers/{id}/json", 200, id="all")["State"]["Status"] == "paused"
        t.ask("POST", "/containers/{id}/unpause", 204, id="all")
        t.ask("POST", "/containers/{id}/unpause", (409, 500), id="all")
        t.ask("POST", "/containers/{id}/pause", 404, id=NOBODY)
        t.ask("POST", "/containers/{id}/unpause", 404, id=NOBODY)

    def end():
        t.ask("POST", "/containers/{id}/kill", 204, id="all", query={"signal": "SIGWINCH"})
        t.ask("POST", "/containers/{id}/kill", 409, id="lazy")
        t.ask("POST", "/containers/{id}/kill", 400, id="all", query={"signal": "SIGNOSUCH"})
        t.ask("POST", "/containers/{id}/kill", 404, id=NOBODY)
        t.ask("POST", "/containers/{id}/restart", 204, id="all", query={"t": 0, "signal": "SIGKILL"})
        t.ask("POST", "/containers/{id}/restart", 404, id=NOBODY)
        t.ask("DELETE", "/containers/{id}", 409, id="all")
        t.ask("POST", "/containers/{id}/stop", 204, id="all", query={"t": 0, "signal": "SIGTERM"})
        t.ask("POST", "/containers/{id}/stop", 304, id="all")
        t.ask("POST", "/containers/{id}/stop", 404, id=NOBODY)
        said = t.ask("POST", "/containers/{id}/wait", 200, id="all", query={"condition": "not-running"})
        assert said["StatusCode"] in (137, 143), said
        t.ask("POST", "/containers/{id}/wait", 404, id=NOBODY)
        t.ask("POST", "/containers/{id}/wait", 400, id="all", query={"condition": "x"})
        t.ask("POST", "/containers/{id}/start", (200, 204, 400), id="all", query={"detachKeys": "ctrl-x"})
        t.ask("POST", "/containers/{id}/start", 404, id=NOBODY)
        remove(t, "all")
        t.ask("DELETE", "/containers/{id}", 404, id="all")
        assert "default link name" in t.ask("DELETE", "/containers/{id}", 500, id="lazy", query={"link": 1})
        pruned = t.ask("POST", "/containers/prune", 200, query={"filters": {"until": ["1s"]}})
        pruned = t.ask("POST", "/containers/prune", 200)
        assert t.ask("POST", "/containers/prune", 200)["ContainersDeleted"] is None
        t.ask("POST", "/containers/prune", 400, query={"filters": {"nosuch": ["x"]}})

    return [("create with everything", make), ("create refuses", wrong), ("list", lists), ("top, changes, export", look), ("stats", statistics),
            ("update, rename, pause", change), ("stop, wait, remove", end)]


def streams(t):
    def logs():
        create(t, "talks", ["sh", "-c", "echo out; echo err >&2; echo more"])
        t.ask("POST", "/containers/{id}/start", 204, id="talks")
        t.ask("POST", "/containers/{id}/wait", 200, id="talks")
        for query, want in (({"stdout": 1}, [b"out\n", b"more\n"]), ({"stderr": 1}, [b"err\n"]), ({"stdout": 1, "stderr": 1, "tail": 0}, []),
                            ({"stdout": 1, "since": 4102444800}, []), ({"stdout": 1, "until": 1}, []), ({"stdout": 1, "follow": 1}, [b"out\n", b"more\n"])):
            answer = t.ask("GET", "/containers/{id}/logs", 200, id="talks", query=query, raw=True)
            assert answer.headers["Content-Type"] == "application/vnd.docker.multiplexed-stream", answer.headers["Content-Type"]
            assert frames(answer.body) == want, (query, answer.body)
        answer = t.ask("GET", "/containers/{id}/logs", 200, id="talks", query={"stdout": 1, "timestamps": 1}, raw=True)
        assert re.match(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z out\n", frames(answer.body)[0]), answer.body
        t.ask("GET", "/containers/{id}/logs", 400, id="talks")
        t.ask("GET", "/containers/{id}/logs", 404, id=NOBODY, query={"stdout": 1})
        answer = t.ask("POST", "/containers/{id}/attach", 200, id="talks", raw=True, query={"logs": 1, "stdout": 1, "stderr": 1, "stream": 0, "stdin": 0, "detachKeys": "ctrl-a"})
        assert sorted(frames(answer.body)) == [b"err\n", b"more\n", b"out\n"], answer.body
        t.ask("POST", "/containers/{id}/attach", 404, id=NOBODY, query={"stream": 1, "stdout": 1})
        every = {"logs": 1, "stdout": 1, "stderr": 1, "stream": 0, "stdin": 0, "detachKeys": "ctrl-a"}
        assert "not websocket protocol" in t.ask("GET", "/containers/{id}/attach/ws", 400, id="talks", query=every)
        remove(t, "talks")

    return [("logs and attach", logs)]


def frames(stream):
    found = []
    while stream:
        size = int.from_bytes(stream[4:8], "big")
        found.append(stream[8 : 8 + size])
        stream = stream[8 + size :]
    return found


def execs(t):
    def run():
        create(t, "host")
        assert "is not running" in t.ask("POST", "/containers/{id}/exec", 409, {"Cmd": ["true"]}, id="host")
        t.ask("POST", "/containers/{id}/start", 204, id="host")
        made = t.ask("POST", "/containers/{id}/exec", 201, {"Cmd": ["sh", "-c", "echo hi; exit 3"], "AttachStdout": True, "AttachStderr": True, "Env": ["A=b"],
                                                             "WorkingDir": "/tmp", "User": "0", "Privileged": True, "DetachKeys": "ctrl-p"}, id="host")
        page = t.ask("GET", "/exec/{id}/json", 200, id=made["Id"])
        assert page["Running"] is False and page["ExitCode"] is None, page
        answer = t.ask("POST", "/exec/{id}/start", 200, {"Detach": False, "Tty": False}, id=made["Id"], raw=True)
        assert frames(answer.body) == [b"hi\n"], answer.body
        page = until(lambda: (page := t.ask("GET", "/exec/{id}/json", 200, id=made["Id"]))["ExitCode"] is not None and page)
        assert page["ExitCode"] == 3 and page["ProcessConfig"]["entrypoint"] == "sh", page
        t.ask("POST", "/exec/{id}/start", 409, {"Detach": True}, id=made["Id"])
        t.ask("POST", "/exec/{id}/start", 404, {"Detach": True}, id=NOBODY)
        t.ask("GET", "/exec/{id}/json", 404, id=NOBODY)
        t.ask("POST", "/containers/{id}/exec", 404, {"Cmd": ["true"]}, id=NOBODY)
        t.ask("POST", "/containers/{id}/exec", 400, {"Cmd": []}, id="host")
        made = t.ask("POST", "/containers/{id}/exec", 201, {"Cmd": ["sleep", "100"], "Tty": True}, id="host")
        t.ask("POST", "/exec/{id}/start", 200, {"Detach": True, "Tty": True, "ConsoleSize": [10, 20]}, id=made["Id"])
        t.ask("POST", "/exec/{id}/resize", 200, id=made["Id"], query={"h": 20, "w": 30})
        t.ask("POST", "/exec/{id}/resize", 404, id=NOBODY, query={"h": 20, "w": 30})
        t.ask("POST", "/exec/{id}/resize", 400, id=made["Id"], query={"h": "x", "w": 30})
        t.ask("POST", "/containers/{id}/pause", 204, id="host")
        assert "is paused" in t.ask("POST", "/containers/{id}/exec", 409, {"Cmd": ["true"]}, id="host")
        t.ask("POST", "/containers/{id}/unpause", 204, id="host")
        remove(t, "host")

    return [("exec", run)]


def archives(t):
    def copy():
        create(t, "store")
        t.ask("PUT", "/containers/{id}/archive", 200, archive(file=b"cargo"), {"Content-Type": "application/x-tar"}, id="store", query={"path": "/tmp", "noOverwriteDirNonDir": 1, "copyUIDGID": 1})
        answer = t.ask("HEAD", "/containers/{id}/archive", 200, id="store", query={"path": "/tmp/file"})
        stat = json.loads(base64.b64decode(answer.headers["X-Docker-Container-Path-Stat"]))
        assert stat["name"] == "file" and stat["size"] == 5 and stat["linkTarget"] == "", stat
        answer = t.ask("GET", "/containers/{id}/archive", 200, id="store", query={"path": "/tmp/file"}, raw=True)
        assert answer.headers["Content-Type"] == "application/x-tar"
        assert tarfile.open(fileobj=io.BytesIO(answer.body)).extractfile("file").read() == b"cargo"
        t.ask("GET", "/containers/{id}/archive", 404, id="store", query={"path": "/nosuch"})
        t.ask("GET", "/containers/{id}/archive", 404, id=NOBODY, query={"path": "/"})
        t.ask("GET", "/containers/{id}/archive", 400, id="store")
        t.ask("PUT", "/containers/{id}/archive", 404, archive(x=b""), id="store", query={"path": "/nosuch"})
        t.ask("PUT", "/containers/{id}/archive", (400, 500), b"no archive" * 100, id="store", query={"path": "/tmp"})
        answer = t.daemon.call("HEAD", "/containers/store/archive?path=/nosuch")
        assert answer.status == 404, answer.status
        remove(t, "store")

    return [("copy in and out", copy)]


def networks(t):
    def make():
        body = {"Name": "net1", "Driver": "bridge", "Internal": True, "Attachable": True, "EnableIPv4": True, "EnableIPv6": True, "Labels": {"a": "b"},
                "Options": {"com.docker.network.bridge.name": "skc-br1"},
                "IPAM": {"Driver": "default", "Config": [{"Subnet": "10.45.0.0/24", "IPRange": "10.45.0.128/25", "Gateway": "10.45.0.1", "AuxiliaryAddresses": {"x": "10.45.0.130"}},
                                                         {"Subnet": "fd45::/64"}], "Options": {}}}
        made = t.ask("POST", "/networks/create", 201, body)
        page = t.ask("GET", "/networks/{id}", 200, id="net1")
        assert page["Id"] == made["Id"] and page["EnableIPv6"] and page["Internal"] and page["Attachable"] and page["Scope"] == "local", page
        assert page["IPAM"]["Config"][0] == body["IPAM"]["Config"][0], page["IPAM"]
        t.ask("GET", "/networks/{id}", 200, id="net1", query={"verbose": 1, "scope": "local"})
        t.ask("GET", "/networks/{id}", 404, id="net1", query={"scope": "swarm"})
        t.ask("GET", "/networks/{id}", 404, id=NOBODY)
        assert "already exists" in t.ask("POST", "/networks/create", 409, {"Name": "net1"})
        t.ask("POST", "/networks/create", (400, 404), {"Name": "x", "Driver": "nosuch"})
        t.ask("POST", "/networks/create", 400, {"Name": ""})
        t.ask("POST", "/networks/create", 403, {"Name": "bridge"})
        t.ask("POST", "/networks/create", (400, 403), {"Name": "y", "IPAM": {"Config": [{"Subnet": "10.45.0.0/24"}]}})

    def lists():
        assert {"bridge", "host", "none", "net1"} == {one["Name"] for one in t.ask("GET", "/networks", 200)}
        for filters, names in (({"driver": ["host"]}, {"host"}), ({"name": ["net"]}, {"net1"}), ({"label": ["a=b"]}, {"net1"}), ({"type": ["custom"]}, {"net1"}),
                               ({"scope": ["swarm"]}, set()), ({"dangling": ["true"]}, {"net1"})):
            found = {one["Name"] for one in t.ask("GET", "/networks", 200, query={"filters": filters})}
            assert found == names, (filters, found)
        t.ask("GET", "/networks", 400, query={"filters": {"nosuch": ["x"]}})

    def connect():
        create(t, "member")
        t.ask("POST", "/networks/{id}/connect", 200, {"Container": "member", "EndpointConfig": {"IPAMConfig": {"IPv4Address": "10.45.0.140"}, "Aliases": ["also"], "MacAddress": "02:42:0a:2d:00:8c"}}, id="net1")
        t.ask("POST", "/containers/{id}/start", 204, id="member")
        page = t.ask("GET", "/containers/{id}/json", 200, id="member")
        end = page["NetworkSettings"]["Networks"]["net1"]
        assert end["IPAddress"] == "10.45.0.140" and "also" in end["Aliases"] and end["MacAddress"] == "02:42:0a:2d:00:8c", end
        page = t.ask("GET", "/networks/{id}", 200, id="net1")
        assert [one["IPv4Address"] for one in page["Containers"].values()] == ["10.45.0.140/24"], page
        assert "already exists" in t.ask("POST", "/networks/{id}/connect", 403, {"Container": "member"}, id="net1")
        t.ask("POST", "/networks/{id}/connect", 404, {"Container": NOBODY}, id="net1")
        t.ask("POST", "/networks/{id}/connect", 404, {"Container": "member"}, id=NOBODY)
        t.ask("POST", "/networks/{id}/connect", 403, {"Container": "member"}, id="host")
        t.ask("DELETE", "/networks/{id}", 403, id="net1")
        t.ask("POST", "/networks/{id}/disconnect", 200, {"Container": "member", "Force": False}, id="net1")
        t.ask("POST", "/networks/{id}/disconnect", (403, 404, 500), {"Container": "member"}, id="net1")
        t.ask("POST", "/networks/{id}/disconnect", 404, {"Container": "member"}, id=NOBODY)
        remove(t, "member")

    def gone():
        t.ask("DELETE", "/networks/{id}", 204, id="net1")
        t.ask("DELETE", "/networks/{id}", 404, id="net1")
        t.ask("DELETE", "/networks/{id}", 403, id="bridge")
        t.ask("POST", "/networks/create", 201, {"Name": "loose"})
        assert t.ask("POST", "/networks/prune", 200, query={"filters": {"until": ["24h"]}}) ["NetworksDeleted"] in (None, [])
        assert t.ask("POST", "/networks/prune", 200)["NetworksDeleted"] == ["loose"]
        t.ask("POST", "/networks/prune", 400, query={"filters": {"nosuch": ["x"]}})

    return [("create", make), ("list", lists), ("connect", connect), ("remove and prune", gone)]


def volumes(t):
    def all_of_it():
        t.ask("POST", "/volumes/prune", 200, query={"filters": {"all": ["true"]}})
        made = t.ask("POST", "/volumes/create", 201, {"Name": "v1", "Driver": "local", "DriverOpts": {"type": "tmpfs", "device": "tmpfs", "o": "size=64k"}, "Labels": {"a": "b"}})
        assert made["Options"]["o"] == "size=64k" and made["Labels"] == {"a": "b"} and made["Scope"] == "local", made
        t.ask("POST", "/volumes/create", 201, {})
        t.ask("POST", "/volumes/create", 201)
        t.ask("POST", "/volumes/create", 400, {"Name": "/x"})
        t.ask("POST", "/volumes/create", 400, {"Name": "w", "DriverOpts": {"nosuch": "x"}})
        t.ask("POST", "/volumes/create", (400, 404), {"Name": "w", "Driver": "nosuch"})
        page = t.ask("GET", "/volumes", 200)
        assert len(page["Volumes"]) == 3, page
        for filters, count in (({"name": ["v1"]}, 1), ({"label": ["a"]}, 1), ({"label": ["a=c"]}, 0), ({"driver": ["local"]}, 3), ({"dangling": ["true"]}, 3), ({"dangling": ["0"]}, 0)):
            found = t.ask("GET", "/volumes", 200, query={"filters": filters})["Volumes"] or []
            assert len(found) == count, (filters, found)
        t.ask("GET", "/volumes", 400, query={"filters": {"nosuch": ["x"]}})
        t.ask("GET", "/volumes/{name}", 200, name="v1")
        assert t.ask("GET", "/volumes/{name}", 404, name=NOBODY) == f"get {NOBODY}: no such volume"
        assert "only valid for cluster volumes" in t.ask("PUT", "/volumes/{name}", 503, {"Spec": {}}, name="v1", query={"version": 1})
        create(t, "user", host={"Binds": ["v1:/v"]})
        assert "volume is in use" in t.ask("DELETE", "/volumes/{name}", 409, name="v1")
        remove(t, "user")
        t.ask("DELETE", "/volumes/{name}", 204, name="v1")
        t.ask("DELETE", "/volumes/{name}", 404, name="v1")
        t.ask("DELETE", "/volumes/{name}", 204, name="v1", query={"force": 1})
        pruned = t.ask("POST", "/volumes/prune", 200)
        assert len(pruned["VolumesDeleted"]) == 2, pruned
        t.ask("POST", "/volumes/prune", 400, query={"filters": {"nosuch": ["x"]}})

    return [("all of it", all_of_it)]


PLUGINS = [
    ("GET", "/plugins/privileges", {"remote": "a/b"}), ("POST", "/plugins/pull", {"remote": "a/b", "name": "c"}), ("GET", "/plugins/{name}/json", {}),
    ("DELETE", "/plugins/{name}", {"force": 1}), ("POST", "/plugins/{name}/enable", {"timeout": 1}), ("POST", "/plugins/{name}/disable", {"force": 1}),
    ("POST", "/plugins/{name}/upgrade", {"remote": "a/b"}), ("POST", "/plugins/create", {"name": "x"}), ("POST", "/plugins/{name}/push", {}), ("POST", "/plugins/{name}/set", {}),
]


def refused(t):
    def plugins():
        assert t.ask("GET", "/plugins", 200, query={"filters": {"enabled": ["true"]}}) == []
        for method, path, query in PLUGINS:
            said = t.ask(method, path, 404 if "{name}" in path else 501, name="x", query=query)
            assert ('plugin "x" not found' if "{name}" in path else "not supported") in said, (path, said)

    def session():
        said = t.ask("POST", "/session", (400, 404, 501))
        assert "BuildKit" in said, said

    def build():
        every = {key: "" for key in "dockerfile t extrahosts remote q nocache cachefrom pull rm forcerm memory memswap cpushares cpusetcpus cpuperiod cpuquota buildargs shmsize labels networkmode target version".split()}
        # Not an archive: what refuses it, refuses it by name.
        t.ask("POST", "/build", (400, 500, 501), b"no archive", {"Content-Type": "application/x-tar"}, query=every)
        for key in ("squash", "outputs", "platform"):
            t.ask("POST", "/build", (400, 500, 501), b"no archive", {"Content-Type": "application/x-tar"}, query={key: "1"})
        page = t.ask("POST", "/build/prune", 200, query={"all": 1, "filters": {"until": ["1h"]}, "keep-storage": 1, "reserved-space": 1, "max-used-space": 1})
        t.ask("POST", "/build/prune", 501, query={"min-free-space": 1})
        assert page["SpaceReclaimed"] >= 0

    def search():
        for query in ({"term": "x", "limit": 5, "filters": {"is-official": ["true"]}},):
            t.ask("GET", "/images/search", (400, 500, 503), query=query)
        t.ask("GET", "/images/search", 400, query={"term": "x", "limit": 1000})

    def login():
        said = t.ask("POST", "/auth", (400, 401, 500), {"username": "u", "password": "p", "serveraddress": "127.0.0.1:1"})
        assert said

    return [("plugins", plugins), ("session", session), ("build", build), ("search", search), ("login", login)]


# What asks something of a cluster, with the parameters of each.
CLUSTER = [
    ("GET", "/nodes", {"filters": {"role": ["manager"]}}), ("GET", "/nodes/{id}", {}), ("DELETE", "/nodes/{id}", {"force": 1}), ("POST", "/nodes/{id}/update", {"version": 1}),
    ("GET", "/swarm", {}), ("POST", "/swarm/update", {"version": 1, "rotateWorkerToken": 1, "rotateManagerToken": 1, "rotateManagerUnlockKey": 1}), ("GET", "/swarm/unlockkey", {}),
    ("POST", "/swarm/leave", {"force": 1}), ("POST", "/swarm/unlock", {}),
    ("GET", "/services", {"filters": {"name": ["x"]}, "status": 1}), ("POST", "/services/create", {}), ("GET", "/services/{id}", {"insertDefaults": 1}), ("DELETE", "/services/{id}", {}),
    ("POST", "/services/{id}/update", {"version": 1, "registryAuthFrom": "spec", "rollback": ""}),
    ("GET", "/services/{id}/logs", {"details": 1, "follow": 0, "stdout": 1, "stderr": 1, "since": 0, "timestamps": 1, "tail": "all"}),
    ("GET", "/tasks", {"filters": {"name": ["x"]}}), ("GET", "/tasks/{id}", {}),
    ("GET", "/tasks/{id}/logs", {"details": 1, "follow": 0, "stdout": 1, "stderr": 1, "since": 0, "timestamps": 1, "tail": "all"}),
    ("GET", "/secrets", {"filters": {"name": ["x"]}}), ("POST", "/secrets/create", {}), ("GET", "/secrets/{id}", {}), ("DELETE", "/secrets/{id}", {}), ("POST", "/secrets/{id}/update", {"version": 1}),
    ("GET", "/configs", {"filters": {"name": ["x"]}}), ("POST", "/configs/create", {}), ("GET", "/configs/{id}", {}), ("DELETE", "/configs/{id}", {}), ("POST", "/configs/{id}/update", {"version": 1}),
]


def outside_of_a_cluster(t):
    def all_refuse():
        for method, path, query in CLUSTER:
            said = t.ask(method, path, 503, {} if method == "POST" else None, id="x", query=query)
            assert said.startswith("This node is not") , (method, path, said)
        t.ask("POST", "/swarm/join", (400, 500, 503), {"ListenAddr": "127.0.0.1:2377", "RemoteAddrs": ["127.0.0.1:1"], "JoinToken": "x"}, timeout=90)

    return [("every path says so", all_refuse)]


def registry(t):
    place = t.daemon.registry()

    def move():
        if not place:
            return print("skipped: there is no docker-registry")
        name = f"{place}/moved"
        t.ask("POST", "/images/{name}/tag", 201, name=IMAGE, query={"repo": name, "tag": "1"})
        lines = t.lines("POST", "/images/{name}/push", name=name, query={"tag": "1"}, headers=auth())
        digest = next(line["aux"]["Digest"] for line in lines if "aux" in line)
        t.ask("POST", "/images/{name}/push", (200, 400, 404), name=name, query={"tag": "1", "platform": {"os": "linux", "architecture": "amd64"}}, headers=auth(), raw=True)
        # dockerd has begun to answer when it misses the image.
        said = t.ask("POST", "/images/{name}/push", 200, name=f"{place}/{NOBODY}", headers=auth(), raw=True)
        assert b"does not exist locally with the tag" in said.body, said.body
        page = t.ask("GET", "/distribution/{name}/json", 200, name=f"{name}:1")
        assert page["Descriptor"]["digest"] == digest, page
        t.ask("GET", "/distribution/{name}/json", (401, 404, 500), name=f"{place}/{NOBODY}")
        t.ask("DELETE", "/images/{name}", 200, name=f"{name}:1")
        lines = t.lines("POST", "/images/create", query={"fromImage": name, "tag": "1", "platform": ""}, headers=auth())
        assert lines[-1]["status"].startswith("Status: "), lines
        page = t.ask("GET", "/images/{name}/json", 200, name=f"{name}:1")
        assert page["RepoDigests"] == [f"{name}@{digest}"], page
        t.ask("POST", "/images/create", (404, 500), query={"fromImage": f"{place}/{NOBODY}", "tag": "1"})
        t.ask("DELETE", "/images/{name}", 200, name=f"{name}:1")

    return [("push, ask, pull", move)]


def cluster(t):
    d = t.daemon

    def begin():
        d.inside("ip", "link", "add", "wire0", "type", "bridge")
        d.inside("ip", "addr", "add", "10.99.0.1/24", "dev", "wire0")
        d.inside("ip", "link", "set", "wire0", "up")
        t.ask("POST", "/swarm/init", 400, {"ListenAddr": "x:y:z"})
        node = t.ask("POST", "/swarm/init", 200, {"ListenAddr": "10.99.0.1:2377", "AdvertiseAddr": "10.99.0.1", "ForceNewCluster": False, "DefaultAddrPool": ["10.88.0.0/16"], "SubnetSize": 24})
        assert isinstance(node, str) and len(node) == 25, node
        assert "already part of a swarm" in t.ask("POST", "/swarm/init", 503, {"ListenAddr": "10.99.0.1:2377"})
        page = t.ask("GET", "/swarm", 200)
        assert page["DefaultAddrPool"] == ["10.88.0.0/16"], page
        t.ask("GET", "/info", 200)
        t.ask("GET", "/swarm/unlockkey", 200)
        t.ask("POST", "/swarm/update", 200, page["Spec"], query={"version": page["Version"]["Index"], "rotateWorkerToken": 1, "rotateManagerToken": 1, "rotateManagerUnlockKey": 1})
        assert "out of sequence" in t.ask("POST", "/swarm/update", 500, page["Spec"], query={"version": 1})
        t.ask("POST", "/swarm/update", 400, page["Spec"], query={"version": "x"})
        t.ask("POST", "/swarm/unlock", (409, 500, 503), {"UnlockKey": "x"})

    def nodes():
        found = t.ask("GET", "/nodes", 200)
        assert len(found) == 1 and found[0]["ManagerStatus"]["Leader"], found
        assert t.ask("GET", "/nodes", 200, query={"filters": {"role": ["worker"]}}) == []
        node = t.ask("GET", "/nodes/{id}", 200, id="self")
        spec = {**node["Spec"], "Labels": {"a": "b"}}
        t.ask("POST", "/nodes/{id}/update", 200, spec, id=node["ID"], query={"version": node["Version"]["Index"]})
        t.ask("POST", "/nodes/{id}/update", 400, spec, id=node["ID"])
        t.ask("GET", "/nodes/{id}", 404, id=NOBODY)
        t.ask("DELETE", "/nodes/{id}", (400, 500), id=node["ID"])
        t.ask("DELETE", "/nodes/{id}", 404, id=NOBODY)

    def objects():
        data = base64.b64encode(b"payload").decode()
        for kind in ("secrets", "configs"):
            made = t.ask("POST", f"/{kind}/create", 201, {"Name": "one", "Labels": {"a": "b"}, "Data": data})
            assert "already" in t.ask("POST", f"/{kind}/create", 409, {"Name": "one", "Data": data})
            page = t.ask("GET", f"/{kind}/{{id}}", 200, id=made["ID"] if "ID" in made else made["Id"])
            assert page["Spec"].get("Data") == (data if kind == "configs" else None), page
            assert len(t.ask("GET", f"/{kind}", 200, query={"filters": {"name": ["one"]}})) == 1
            spec = {**page["Spec"], "Labels": {"c": "d"}}
            t.ask("POST", f"/{kind}/{{id}}/update", 200, spec, id="one", query={"version": page["Version"]["Index"]})
            t.ask("GET", f"/{kind}/{{id}}", 404, id=NOBODY)
            t.ask("DELETE", f"/{kind}/{{id}}", 404, id=NOBODY)

    def services():
        spec = {"Name": "web", "Labels": {"a": "b"}, "Mode": {"Replicated": {"Replicas": 1}}, "EndpointSpec": {"Mode": "vip", "Ports": [{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 18090, "PublishMode": "ingress"}]},
                "UpdateConfig": {"Parallelism": 1, "Delay": 0, "FailureAction": "pause", "Monitor": 10**9, "MaxFailureRatio": 0, "Order": "stop-first"},
                "RollbackConfig": {"Parallelism": 1, "Order": "stop-first", "FailureAction": "pause"},
                "TaskTemplate": {"ContainerSpec": {"Image": IMAGE, "Command": ["sh", "-c", "echo up; sleep 1000"], "Env": ["A=b"], "Hostname": "h", "StopGracePeriod": 10**9, "Init": True,
                                                   "Secrets": [{"SecretID": secret(t, "secrets"), "SecretName": "one", "File": {"Name": "one", "UID": "0", "GID": "0", "Mode": 0o444}}],
                                                   "Configs": [{"ConfigID": secret(t, "configs"), "ConfigName": "one", "File": {"Name": "/one", "UID": "0", "GID": "0", "Mode": 0o444}}],
                                                   "Mounts": [{"Type": "tmpfs", "Target": "/t"}], "Healthcheck": {"Test": ["CMD", "true"], "Interval": 10**9}},
                                 "Resources": {"Limits": {"NanoCPUs": 10**9, "MemoryBytes": 64 << 20, "Pids": 50}, "Reservations": {"MemoryBytes": 8 << 20}},
                                 "RestartPolicy": {"Condition": "any", "Delay": 10**9, "MaxAttempts": 3, "Window": 0}, "Placement": {"Constraints": ["node.role==manager"], "MaxReplicas": 2, "Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.x"}}]},
                                 "LogDriver": {"Name": "json-file", "Options": {"max-size": "1m"}}, "ForceUpdate": 0}}
        made = t.ask("POST", "/services/create", 201, spec, headers=auth())
        t.ask("POST", "/services/create", 409, {**spec, "EndpointSpec": {}})
        t.ask("POST", "/services/create", 400, {"Name": "x"})
        running = lambda: [one for one in t.ask("GET", "/tasks", 200, query={"filters": {"service": ["web"], "desired-state": ["running"]}}) if one["Status"]["State"] == "running"]
        try:
            task = until(running, 30, "a running task")[0]
        except AssertionError:
            print([one["Status"] for one in t.ask("GET", "/tasks", 200)])
            raise
        page = t.ask("GET", "/services/{id}", 200, id="web", query={"insertDefaults": 1})
        assert page["ID"] == made["ID"] and page["Endpoint"]["Ports"][0]["PublishedPort"] == 18090, page
        assert t.ask("GET", "/services", 200, query={"status": 1, "filters": {"name": ["web"]}})[0]["ServiceStatus"]["RunningTasks"] == 1
        t.ask("GET", "/tasks/{id}", 200, id=task["ID"])
        t.ask("GET", "/tasks/{id}", 404, id=NOBODY)
        for path, name in (("/services/{id}/logs", "web"), ("/tasks/{id}/logs", task["ID"])):
            answer = t.ask("GET", path, 200, id=name, raw=True, query={"details": 1, "follow": 0, "stdout": 1, "stderr": 1, "since": 0, "timestamps": 1, "tail": "all"})
            assert b" up\n" in answer.body, answer.body
            t.ask("GET", path, 404, id=NOBODY, query={"stdout": 1})
        # What a cluster makes is in the lists of the engine too.
        t.ask("GET", "/containers/json", 200)
        t.ask("GET", "/containers/{id}/json", 200, id=task["Status"]["ContainerStatus"]["ContainerID"])
        for network in t.ask("GET", "/networks", 200):
            t.ask("GET", "/networks/{id}", 200, id=network["Id"], query={"verbose": 1})
        new = {**page["Spec"], "Labels": {"c": "d"}}
        t.ask("POST", "/services/{id}/update", 200, new, id="web", query={"version": page["Version"]["Index"], "registryAuthFrom": "spec"})

        def rolled_back():
            # The update that is under way changes the version too.
            version = t.ask("GET", "/services/{id}", 200, id="web")["Version"]["Index"]
            said = t.ask("POST", "/services/{id}/update", (200, 500), new, id="web", query={"version": version, "rollback": "previous"})
            assert not isinstance(said, str) or "out of sequence" in said, said
            return not isinstance(said, str)

        until(rolled_back, 30, "a rollback")
        t.ask("POST", "/services/{id}/update", 400, new, id="web")
        t.ask("POST", "/services/{id}/update", 404, new, id=NOBODY, query={"version": 1})
        assert "is in use by" in t.ask("DELETE", "/secrets/{id}", 400, id="one")
        t.ask("DELETE", "/services/{id}", 200, id="web")
        t.ask("DELETE", "/services/{id}", 404, id=NOBODY)
        t.ask("GET", "/services/{id}", 404, id=NOBODY)
        until(lambda: not t.ask("GET", "/tasks", 200), 60, "the end of all tasks")
        for kind in ("secrets", "configs"):
            t.ask("DELETE", f"/{kind}/{{id}}", 204, id="one")

    def overlay():
        made = t.ask("POST", "/networks/create", 201, {"Name": "over", "Driver": "overlay", "Attachable": True, "Scope": "swarm"})
        page = t.ask("GET", "/networks/{id}", 200, id="over", query={"scope": "swarm"})
        assert page["Id"] == made["Id"] and page["Scope"] == "swarm", page
        t.ask("DELETE", "/networks/{id}", 204, id="over")

    def leave():
        t.ask("POST", "/swarm/leave", 503)
        t.ask("POST", "/swarm/leave", 200, query={"force": 1})
        assert t.ask("GET", "/info", 200)["Swarm"]["LocalNodeState"] == "inactive"

    return [("begin", begin), ("nodes", nodes), ("secrets and configs", objects), ("services", services), ("overlay networks", overlay), ("leave", leave)]


def secret(t, kind):
    return t.ask("GET", f"/{kind}/{{id}}", 200, id="one")["ID"]


if __name__ == "__main__":
    sys.exit(main())

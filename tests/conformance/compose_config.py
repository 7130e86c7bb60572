#!/usr/bin/env python3
"""`skep stack config` against `docker stack config`, over folders of compose files.

usage: compose_config.py [-v] [FOLDER|FILE...]     (default: compose/tests/corpus)

Every *.yml and *.yaml is given to both clients, from its own folder; `a.1.yml`, `a.2.yml` are
one run with two files. Both must print the same document, or both refuse. Differences are told
by key; the order of maps does not count. What we honour and docker refuses is allowed when a
comment in the file's first lines starts with `# ours: ` and says why; `# differs: ` allows
another document. A folder's `refused` holds what both refuse.
"""

import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SKEP = os.environ.get("SKEP_BIN", str(ROOT / "target/debug/skep"))
ENVIRONMENT = {"HOME": "/home/somebody", "TAG": "1.2", "SUFFIX": "blue", "EMPTY": "", "PATH": os.environ["PATH"]}


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(0)


def entries(arguments):
    """Names and their files: what is called a.1.yml, a.2.yml is one entry."""
    found = {}
    for argument in arguments:
        root = Path(argument).resolve()
        paths = [root] if root.is_file() else sorted(root.rglob("*.y*ml"))
        for path in paths:
            if not path.is_file():
                continue
            name = re.sub(r"(\.\d)?\.ya?ml$", "", str(path))
            key = name if re.search(r"\.\d\.ya?ml$", path.name) else str(path)
            found.setdefault(key, []).append(path)
    return found


def run(client, paths):
    command = [*client, "stack", "config"]
    for path in paths:
        command += ["-c", path.name]
    done = subprocess.run(command, cwd=paths[0].parent, env=ENVIRONMENT, capture_output=True, timeout=60)
    return done.returncode, done.stdout, done.stderr.decode(errors="replace").strip()


def different(path, theirs, ours):
    """Lines that say where two documents differ."""
    if type(theirs) is not type(ours):
        yield f"{path}: docker {theirs!r}, ours {ours!r}"
    elif isinstance(theirs, dict):
        for key in [*theirs, *(key for key in ours if key not in theirs)]:
            where = f"{path}.{key}"
            if key not in ours:
                yield f"{where}: docker {theirs[key]!r}, ours has none"
            elif key not in theirs:
                yield f"{where}: docker has none, ours {ours[key]!r}"
            else:
                yield from different(where, theirs[key], ours[key])
    elif isinstance(theirs, list):
        if len(theirs) != len(ours):
            yield f"{path}: docker {theirs!r}, ours {ours!r}"
            return
        for index, pair in enumerate(zip(theirs, ours)):
            yield from different(f"{path}[{index}]", *pair)
    elif theirs != ours:
        yield f"{path}: docker {theirs!r}, ours {ours!r}"


def compare(yaml, paths):
    """Nothing, or (kind, what differs)."""
    code, theirs, refusal = run(["docker"], paths)
    our_code, ours, our_refusal = run([SKEP], paths)
    if "panicked" in our_refusal or our_code not in (0, 1):
        return "panic", our_refusal
    if code and our_code:
        return "both refuse", f"docker: {refusal}\nours: {our_refusal}"
    if code:
        return "only docker refuses", refusal
    if our_code:
        return "ONLY WE REFUSE", our_refusal
    if theirs == ours:
        return None
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    lines = list(different("", yaml.load(theirs, loader), yaml.load(ours, loader)))
    return ("DIFFERENT", "\n".join(lines)) if lines else ("layout", "only spelled differently")


def allowed(paths, kind):
    if kind == "both refuse":
        return any(path.parent.name == "refused" for path in paths)
    mark = {"only docker refuses": b"# ours: ", "DIFFERENT": b"# differs: "}.get(kind)
    return mark is not None and any(mark in path.read_bytes()[:2000] for path in paths)


def main():
    verbose = "-v" in sys.argv
    arguments = [a for a in sys.argv[1:] if a != "-v"]
    own = not arguments
    if not shutil.which("docker"):
        skip("there is no docker client to compare with")
    version = subprocess.run(["docker", "--version"], capture_output=True, text=True).stdout
    if "version 28." not in version:
        skip(f"the docker client is not of version 28: {version.strip()}")
    if not Path(SKEP).exists():
        skip(f"{SKEP} is not built")
    try:
        import yaml
    except ImportError:
        skip("there is no PyYAML")
    all_entries = entries(arguments or [ROOT / "compose/tests/corpus"])
    counts = {}
    wrong = 0
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = pool.map(lambda paths: compare(yaml, paths), all_entries.values())
        for (name, paths), result in zip(all_entries.items(), results):
            kind, text = result or ("same", "")
            counts[kind] = counts.get(kind, 0) + 1
            fine = kind in ("same", "layout") or allowed(paths, kind) or (kind == "both refuse" and not own)
            wrong += not fine
            if not fine or (verbose and kind != "same"):
                print(f"== {name}: {kind}")
                print("\n".join("   " + line for line in text.splitlines()))
    print(", ".join(f"{kind}: {count}" for kind, count in sorted(counts.items())))
    if not all_entries:
        sys.exit("no files")
    sys.exit(1 if wrong else 0)


main()

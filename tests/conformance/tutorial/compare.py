"""Two answers to one command, field by field, without what differs from run to run."""

import difflib
import json
import re

from allowed import reworded
from walk import values

# What is different each time, and what is left of it.
PASSING = [
    (r"\r", ""),
    # Docker's client has another builder, which needs a plugin; ours has no other to speak of.
    (r"DEPRECATED: The legacy builder is deprecated .*\n.*\n +environment-variable\.\n\n?", ""),
    (r"Docker daemon +", "Docker daemon "),
    (r"--(since|until) \d+\.\d+", "--\\1 <moment>"),
    (r"\x1b\[[0-9;?]*[A-Za-z]", ""),
    (r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?[+-]\d\d:?\d\d| ?Z)?( [A-Z]{3,4})?", "<time>"),
    (r"\b(Less than a second|About an? (second|minute|hour)|\d+ (second|minute|hour)s?)( ago)?\b", "<ago>"),
    (r"\bsha256:[0-9a-f]{64}\b", "<digest>"),
    # A builder's own name for what it copies.
    (r"\b(file|dir|multi):[0-9a-f]{16,64}", "\\1:<id>"),
    (r"\b[0-9a-f]{64}\b", "<id>"),
    (r"\b(sha256:)?[0-9a-f]{12}\b(?!-)", "<id>"),
    # A cluster's objects have ids of another alphabet, and a log's lines name tasks by their beginnings.
    (r"\bSWMTKN-1-\w+-\w+", "<token>"),
    (r"\b(?=\w*\d)[0-9a-z]{25}\b", "<id>"),
    (r"(?<=\.\d\.)[0-9a-z]{12}(?=@)", "<id>"),
    # What a registry is sent is packed in a way of its own.
    (r"(?<=digest: <digest> size: )\d+", "<size>"),
    (r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b", "<mac>"),
    (r"\b\d+(\.\d+)?(e[+-]?\d+)? ?([kKMGT]i?)?B\b", "<size>"),
    # The pool of networks begins where a daemon likes.
    (r"\b172\.(1[89]|2\d|3[01])\.", "172.<n>."),
    (r"(?<=[\d\]]:)(3[2-9]|4\d|5\d|6[0-4])\d{3}\b", "<port>"),
    (r"^(3[2-9]|4\d|5\d|6[0-4])\d{3}$", "<port>"),
]
# Names given by the daemon, in the columns and fields that have names.
GIVEN = re.compile(r"/?[a-z]+_[a-z]+\d?")
NAMES = {"NAME", "NAMES", "Name", "Names"}
# Columns and fields that only have a type.
LOOSE_COLUMNS = {"PID", "PPID", "C", "STIME", "TIME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O"}
LOOSE_FIELDS = {
    "Pid", "PID", "Id", "ID", "Size", "VirtualSize", "SharedSize", "SizeRw", "SizeRootFs", "Containers", "CPUPerc", "MemPerc", "MemUsage",
    "NetIO", "BlockIO", "timeNano", "time", "Created", "LogSize", "Uptime", "LayersSize", "Index",
}


def plain(text, walk):
    """A text without what passes."""
    text = text.replace(walk.place, "<place>").replace(walk.daemon.root, "<root>")
    # What our client and our daemon call themselves.
    text = re.sub(r"\bskep\b(?!/hello)", "docker", text)
    for pattern, instead in PASSING:
        text = re.sub(pattern, instead, text)
    return text.rstrip()


class Difference:
    """Where the second answer is not as the first one."""

    def __init__(self, line, where, first, second):
        self.line, self.where, self.first, self.second = line, where, first, second

    def kind(self):
        """The same for differences of the same field, whatever the command, and whichever element of a list."""
        place = ".".join(word for word in self.where.split(".") if not word.isdigit())
        return place.removeprefix("HostConfig.").removeprefix("State."), shown(self.first), shown(self.second)

    def told(self, first, second):
        if isinstance(self.first, str) and isinstance(self.second, str) and "\n" in self.first + self.second:
            lines = difflib.unified_diff(self.first.splitlines(), self.second.splitlines(), first, second, n=1, lineterm="")
            return f"{self.line}\n      {self.where}" + "".join(f"\n        {line}" for line in lines)
        return f"{self.line}\n      {self.where}\n        {first}: {shown(self.first)}\n        {second}: {shown(self.second)}"


def once(differences):
    """One difference of each kind, and in how many commands it is seen."""
    kinds = {}
    for difference in differences:
        kinds.setdefault(difference.kind(), []).append(difference)
    return [(alike[0], len(alike)) for alike in kinds.values()]


MISSING = object()


def shown(value):
    if value is MISSING:
        return "(nothing)"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = text.replace("\n", "\n          ")
    return text if len(text) < 1200 else f"{text[:800]} … {text[-300:]}"


def steps(first, left, second, right, exact):
    """Differences of the steps of two walks. Where `exact` is not set, the second may know more fields than the first."""
    found = []
    for one, other in zip(left, right):
        line, beside = plain(one.line, first), plain(other.line, second)
        if line != beside:
            found.append(Difference(line, "another command", line, beside))
            break
        if one.left_out or other.left_out:
            continue
        found.extend(Difference(line, *difference) for difference in step(one, other, first, second, exact))
    return found


def step(one, other, first, second, exact):
    if one.status != other.status:
        yield "status", one.status, other.status
    match one.kind:
        case "status":
            return
        case "json":
            left, right = values(one.out), values(other.out)
            if left is None or right is None:
                yield from texts("output", one.out, other.out, first, second)
            else:
                yield from fields("", left, right, first, second, exact)
        case "table":
            yield from tables(one.out, other.out, first, second)
        case "unordered":
            yield from texts("output", *ordered(one.out, other.out, first, second), first, second)
        case _:
            yield from texts("output", one.out, other.out, first, second)
    errors = one.err, other.err
    if one.kind == "unordered":
        errors = ordered(*errors, first, second)
    yield from texts("errors", *errors, first, second)


def ordered(one, other, first, second):
    # In the order of what is left of them where versions use other words.
    return ["\n".join(sorted((re.sub(" +", " ", line) for line in plain(text, walk).splitlines()), key=reworded)) for text, walk in ((one, first), (other, second))]


def texts(where, one, other, first, second):
    left, right = plain(one, first), plain(other, second)
    if left != right:
        yield where, left, right


def rows(text):
    """A table's columns, by where their titles begin, and its rows."""
    lines = text.splitlines()
    if not lines:
        return [], []
    titles = [(found.start(), found.group().strip()) for found in re.finditer(r"\S+( \S+)*", lines[0])]
    ends = [begin for begin, _ in titles[1:]] + [None]
    table = [{title: line[begin:end].strip() for (begin, title), end in zip(titles, ends)} for line in lines[1:] if line.strip()]
    return [title for _, title in titles], table


def tables(one, other, first, second):
    left, right = rows(one), rows(other)
    if left[0] != right[0]:
        yield "columns", left[0], right[0]
        return
    if len(left[1]) != len(right[1]):
        yield "rows", one, other
        return
    for number, (row, beside) in enumerate(zip(left[1], right[1]), 1):
        for column in left[0]:
            cells = [plain(row[column], first), plain(beside[column], second)]
            if column in LOOSE_COLUMNS:
                cells = [re.sub(r"[\d.:?]+", "<n>", cell) for cell in cells]
            if column in ("ID", "NETWORK ID"):
                cells = [re.sub(r"^[0-9a-z]{12}$", "<id>", cell) for cell in cells]
            if column in NAMES:
                cells = ["<name>" if GIVEN.fullmatch(cell) else cell for cell in cells]
            if cells[0] != cells[1]:
                yield f"row {number}, {column}", *cells


def fields(where, one, other, first, second, exact):
    """The fields of two values of JSON; their places are written as in `State.Health.0`."""
    name = next((word for word in reversed(where.split(".")) if not word.isdigit()), "")
    if kind(one) != kind(other):
        yield where, one, other
    elif isinstance(one, dict):
        left, right = by_name(one, first), by_name(other, second)
        for key in [*left, *(set(right) - set(left) if exact else ())]:
            place = f"{where}.{key}" if where else key
            if key not in left or key not in right:
                yield place, left.get(key, MISSING), right.get(key, MISSING)
            else:
                yield from fields(place, left[key], right[key], first, second, exact)
    elif isinstance(one, list):
        if name == "Env":
            one, other = sorted(one), sorted(other)
        if name == "Images":
            # Made in the same second, they have no order.
            one, other = (sorted(images, key=lambda image: image["RepoTags"] or []) for images in (one, other))
        if len(one) != len(other):
            yield where, one, other
            return
        for number, (left, right) in enumerate(zip(one, other)):
            yield from fields(f"{where}.{number}" if where else str(number), left, right, first, second, exact)
    elif name in LOOSE_FIELDS or name == "Processes" and one.isdigit() and other.isdigit():
        return
    elif isinstance(one, str):
        left, right = plain(one, first), plain(other, second)
        if name in NAMES and GIVEN.fullmatch(left) and GIVEN.fullmatch(right):
            return
        # A daemon's own files have names of its own liking.
        if left != right and not (left.startswith("<root>/") and right.startswith("<root>/")):
            yield where, left, right
    elif one != other:
        yield where, one, other


def by_name(page, walk):
    """Fields by their name; those that are named by an id, by the name of what they are about."""
    named = {}
    for key, value in page.items():
        key = plain(key, walk)
        if key == "<id>" and isinstance(value, dict) and "Name" in value:
            key += f" of {value['Name']}"
        named[key] = value
    return named


def kind(value):
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__

"""YAML that means what it looks like, with the line of every key.

YAML 1.1 reads `no` as false, `1:30` as 90, `010` as 8, `0x1F` as 31 and `1e-5` as a string, and keeps the last of two
equal keys in silence. Here exponents are numbers, and everything else on that list is an error with its line. All
errors of a file are reported together.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from p2p_dist.errors import Problem, UserError, user_error

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_DIGITS = 300
"""Digits of a number, about as many as the largest float has."""
KeyPath = tuple[str | int, ...]

_TAG = "tag:yaml.org,2002:"
_ALLOWED = {
    _TAG + kind for kind in ("str", "int", "float", "bool", "null", "timestamp", "map", "seq", "merge", "value")
}
_INT = re.compile(r"[-+]?(0|[1-9][0-9_]*)$")
_FLOAT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$")
_AMBIGUOUS = {
    re.compile(r"(?i)(y|n|yes|no|on|off)$"): "read as true or false by some YAML tools",
    re.compile(r"[-+]?[0-9]+(:[0-5]?[0-9])+(\.[0-9]*)?$"): "read as a number in base 60 by some YAML tools",
    re.compile(r"[-+]?0[0-9_]+$"): "read as an octal number by some YAML tools",
    re.compile(
        r"(?i)[-+]?0(x[0-9a-f_]+|o[0-7_]+|b[01_]+)$"
    ): "a number in another base to some YAML tools, text to others",
}


@dataclass(frozen=True)
class Document:
    """A parsed file: plain Python values and the line (from 1) of every key path."""

    name: str
    data: Any
    lines: dict[KeyPath, int] = field(default_factory=dict)
    text: bytes = b""
    """The file's bytes."""

    def where(self, path: KeyPath) -> str:
        """`file:line (key.path)` of the nearest key that the file has."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.lines:
                dotted = ".".join(str(part) for part in path)
                line = self.lines[path[:end]]
                place = f"{self.name}:{line}" if line else "the command line"
                return f"{place} ({dotted})" if dotted else place
        return self.name

    def where_of(self, dotted: str) -> str:
        """As `where`, of a key path with dots; numbers of list items count only where the file has a list."""
        path: list[str | int] = []
        node = self.data
        for part in dotted.split("."):
            if part.isdigit() and not (isinstance(node, dict) and part in node):
                if not isinstance(node, list):
                    continue
                path.append(int(part))
                node = node[int(part)] if int(part) < len(node) else None
            else:
                path.append(part)
                node = node.get(part) if isinstance(node, dict) else None
        return self.where(tuple(path))


def read(path: Path) -> Document:
    """Read and check a YAML file. Raises UserError with all its problems."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise user_error(
            "E100",
            f"cannot read {path}: {error.strerror}",
            fix="check the path; `p2p-dist list` shows the shipped studies",
        ) from error
    return parse(raw, str(path))


def parse(raw: bytes, name: str) -> Document:
    """Check and convert the bytes of a YAML file (UTF-8, at most 1 MiB)."""
    if len(raw) > MAX_BYTES:
        raise user_error(
            "E105", f"{len(raw)} bytes are too many for a config", name, f"keep it below {MAX_BYTES} bytes"
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise user_error(
            "E106", f"not UTF-8: {error.reason} at byte {error.start}", name, "save the file as UTF-8"
        ) from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise user_error(
            "E106",
            f"not valid YAML: {error.problem}",
            f"{name}:{line}",
            "indent with spaces and quote special characters",
        ) from error
    except yaml.YAMLError as error:
        raise user_error("E106", f"not valid YAML: {error}", name, "remove control characters") from error
    except RecursionError as error:
        raise user_error("E105", "nested too deep", name, "write it out flat") from error
    if not isinstance(node, yaml.MappingNode):
        raise user_error(
            "E106", "expected `key: value` lines at the top level", f"{name}:1", "see configs/studies for examples"
        )
    reader = _Reader(name)
    data = reader.value(node, ())
    if reader.problems:
        raise UserError(*reader.problems)
    return Document(name, data, reader.lines, raw)


def scalar(text: str) -> Any:
    """The value of one command-line override, by the same rules."""
    return parse(f"value: {text}\n".encode(errors="surrogateescape"), "the command line").data["value"]


class _Reader:
    """Turns YAML nodes into values, noting lines and problems on the way."""

    def __init__(self, name: str):
        self.name = name
        self.problems: list[Problem] = []
        self.lines: dict[KeyPath, int] = {(): 1}
        self.open: set[int] = set()

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        if len(path) > MAX_DEPTH or id(node) in self.open or len(self.lines) > 20_000:
            self.problem("E105", "nested too deep or repeated too often", node, path, "write it out flat")
            return None
        if node.tag not in _ALLOWED:
            self.problem("E104", f"tag {node.tag} is not allowed", node, path, "write the plain value")
            return None
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self.mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self.value(child, (*path, i)) for i, child in enumerate(node.value)]
            return self.plain(node, path)
        finally:
            self.open.discard(id(node))

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, child in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.problem(
                    "E104", "a list or a mapping is used as a key", key_node, path, "use plain text as the key"
                )
                continue
            key = str(key_node.value)
            key_path = (*path, key)
            if key in values:
                first = self.lines[key_path]
                line = key_node.start_mark.line + 1
                self.problem(
                    "E102", f"key {key!r} stands at lines {first} and {line}", key_node, key_path, "keep one of them"
                )
                continue
            self.lines[key_path] = key_node.start_mark.line + 1
            values[key] = self.value(child, key_path)
        return values

    def plain(self, node: yaml.Node, path: KeyPath) -> Any:
        text = str(node.value)
        if isinstance(node, yaml.ScalarNode) and node.style is not None:
            return text
        for pattern, trap in _AMBIGUOUS.items():
            if pattern.match(text):
                self.problem(
                    "E101", f"{text!r} is {trap}", node, path, "quote it, or write true, false or a plain number"
                )
                return None
        if len(text) > MAX_DIGITS and (_INT.match(text) or _FLOAT.match(text)):
            self.problem("E105", f"a number of {len(text)} digits is too long", node, path, "quote it, or shorten it")
            return None
        return _convert(text)

    def problem(self, code: str, what: str, node: yaml.Node, path: KeyPath, fix: str) -> None:
        dotted = f" ({'.'.join(map(str, path))})" if path else ""
        self.problems.append(Problem(code, what, f"{self.name}:{node.start_mark.line + 1}{dotted}", fix))


def _convert(text: str) -> Any:
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE"):
        return True
    if text in ("false", "False", "FALSE"):
        return False
    if _INT.match(text):
        return int(text.replace("_", ""))
    if _FLOAT.match(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text

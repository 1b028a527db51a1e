"""The files that two ways of carrying a study out must agree on, byte for byte, and how they differ when they do
not."""

import json
from pathlib import Path

import torch
from safetensors.torch import load

METRICS = "metrics.jsonl"
OUTCOMES = (
    "result.json",
    "adapter_model.safetensors",
    "model.safetensors",
    "adapter_config.json",
    "manifest.json",
    "spec.json",
)


def results(runs: Path) -> dict[str, bytes]:
    """The bytes of everything that must not depend on how a study was run; of metrics, all but what measures time.
    Temporary files of killed writers stay until the next start."""
    files = [path for path in runs.rglob("*") if path.is_file() and (path.name in OUTCOMES or path.suffix == ".jsonl")]
    names = {path: str(path.relative_to(runs)) for path in files if "/.tmp-" not in str(path)}
    return {name: _steps(path) if path.name == METRICS else path.read_bytes() for path, name in names.items()}


def _steps(metrics: Path) -> bytes:
    lines = (json.loads(line) for line in metrics.read_text().splitlines())
    return b"".join(
        json.dumps({name: value for name, value in line.items() if name != "seconds"}).encode() + b"\n"
        for line in lines
    )


def assert_same(runs: Path, expected: dict[str, bytes]) -> None:
    """Fail with what differs and by how much, and with the attempts that led there: a difference may be rare."""
    actual = results(runs)
    names = [
        name for name in sorted(actual.keys() | expected.keys(), key=_rank) if actual.get(name) != expected.get(name)
    ]
    differing = [_difference(name, actual.get(name), expected.get(name)) for name in names]
    if differing:
        attempts = [
            f"--- {path.relative_to(runs)}\n{path.read_text(errors='replace')[-2000:]}"
            for path in sorted(runs.glob("*/*/*/attempts/*/*"))
            if path.is_file()
        ]
        raise AssertionError("\n".join([*differing, *attempts]))


def _rank(name: str) -> tuple[bool, bool, str]:
    """Files that tell most come first: at which step a training went another way, then by how much its numbers
    differ."""
    return not name.endswith(METRICS), not name.endswith(".safetensors"), name


def _difference(name: str, actual: bytes | None, expected: bytes | None) -> str:
    if actual is None or expected is None:
        return f"{name}: {'missing' if actual is None else 'not expected'}"
    if not name.endswith(".safetensors"):
        return f"{name}: {_lines(actual, expected)}"
    tensors, expected_tensors = load(actual), load(expected)
    if tensors.keys() != expected_tensors.keys():
        return f"{name}: other tensors, {sorted(tensors.keys() ^ expected_tensors.keys())}"
    gaps = torch.cat(
        [(tensors[part].double() - expected_tensors[part].double()).abs().flatten() for part in sorted(tensors)]
    )
    return f"{name}: {int((gaps > 0).sum())} of {len(gaps)} numbers differ, by up to {float(gaps.max()):.3e}"


def _lines(actual: bytes, expected: bytes) -> str:
    """The first line that differs, and how many do."""
    lines, expected_lines = actual.splitlines(), expected.splitlines()
    differing = [
        index for index in range(min(len(lines), len(expected_lines))) if lines[index] != expected_lines[index]
    ]
    counts = f"{len(differing)} lines differ of {len(lines)}, {len(expected_lines)} expected"
    if not differing:
        return counts
    first = differing[0]
    return f"{counts}; the first, {first + 1}: {lines[first][:500]!r}\n  expected {expected_lines[first][:500]!r}"

"""The files that two ways of carrying a study out must agree on, byte for byte, and how they differ when they do
not."""

import json
from pathlib import Path

import torch
from safetensors.torch import load

METRICS = "metrics.jsonl"
KEPT = ("result.json", "adapter_model.safetensors", "adapter_config.json", "manifest.json", "spec.json")


def results(runs: Path) -> dict[str, bytes]:
    """The bytes of everything that must not depend on how a study was run; of metrics, all but what measures time."""
    found = [path for path in runs.rglob("*") if path.is_file() and (path.name in KEPT or path.suffix == ".jsonl")]
    return {str(path.relative_to(runs)): _steps(path) if path.name == METRICS else path.read_bytes() for path in found}


def _steps(metrics: Path) -> bytes:
    lines = (json.loads(line) for line in metrics.read_text().splitlines())
    return b"".join(
        json.dumps({name: value for name, value in line.items() if name != "seconds"}).encode() + b"\n"
        for line in lines
    )


def assert_same(runs: Path, expected: dict[str, bytes]) -> None:
    """Fails with what differs and by how much, and with the attempts that led there: a difference may be rare."""
    found = results(runs)
    names = [
        name for name in sorted(found.keys() | expected.keys(), key=_telling) if found.get(name) != expected.get(name)
    ]
    differing = [_difference(name, found.get(name), expected.get(name)) for name in names]
    if differing:
        attempts = [
            f"--- {path.relative_to(runs)}\n{path.read_text(errors='replace')[-2000:]}"
            for path in sorted(runs.glob("*/*/*/attempts/*/*"))
            if path.is_file()
        ]
        raise AssertionError("\n".join([*differing, *attempts]))


def _telling(name: str) -> tuple[bool, bool, str]:
    """What says most comes first: at which step a training went another way, then by how much its numbers differ."""
    return not name.endswith(METRICS), not name.endswith(".safetensors"), name


def _difference(name: str, found: bytes | None, expected: bytes | None) -> str:
    if found is None or expected is None:
        return f"{name}: {'missing' if found is None else 'not expected'}"
    if not name.endswith(".safetensors"):
        return f"{name}: {_lines(found, expected)}"
    mine, theirs = load(found), load(expected)
    if mine.keys() != theirs.keys():
        return f"{name}: other tensors, {sorted(mine.keys() ^ theirs.keys())}"
    gaps = torch.cat([(mine[part].double() - theirs[part].double()).abs().flatten() for part in sorted(mine)])
    return f"{name}: {int((gaps > 0).sum())} of {len(gaps)} numbers differ, by up to {float(gaps.max()):.3e}"


def _lines(found: bytes, expected: bytes) -> str:
    """The first line that differs, and how many do."""
    mine, theirs = found.splitlines(), expected.splitlines()
    differing = [at for at in range(min(len(mine), len(theirs))) if mine[at] != theirs[at]]
    said = f"{len(differing)} lines differ of {len(mine)}, {len(theirs)} expected"
    return (
        f"{said}; the first, {differing[0] + 1}: {mine[differing[0]][:500]!r}\n  expected "
        f"{theirs[differing[0]][:500]!r}"
        if differing
        else said
    )

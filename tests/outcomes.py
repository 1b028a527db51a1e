"""The files that two ways of carrying a study out must agree on, byte for byte, and how they differ when they do not."""

from pathlib import Path

import torch
from safetensors.torch import load

KEPT = ("result.json", "adapter_model.safetensors", "adapter_config.json", "manifest.json", "spec.json")


def results(runs: Path) -> dict[str, bytes]:
    """The bytes of everything that must not depend on how a study was run."""
    found = [path for path in runs.rglob("*") if path.is_file() and (path.name in KEPT or (path.suffix == ".jsonl" and path.name != "metrics.jsonl"))]
    return {str(path.relative_to(runs)): path.read_bytes() for path in found}


def assert_same(runs: Path, expected: dict[str, bytes]) -> None:
    """Fails with what differs and by how much, and with the attempts that led there: a difference may be rare."""
    found = results(runs)
    names = [name for name in sorted(found.keys() | expected.keys()) if found.get(name) != expected.get(name)]
    differing = [_difference(name, found.get(name), expected.get(name)) for name in names]
    if differing:
        attempts = [
            f"--- {path.relative_to(runs)}\n{path.read_text(errors='replace')[-2000:]}" for path in sorted(runs.glob("*/*/*/attempts/*/*")) if path.is_file()
        ]
        raise AssertionError("\n".join([*differing, *attempts]))


def _difference(name: str, found: bytes | None, expected: bytes | None) -> str:
    if found is None or expected is None:
        return f"{name}: {'missing' if found is None else 'not expected'}"
    if not name.endswith(".safetensors"):
        return f"{name}: {found[:2000]!r}\n  expected {expected[:2000]!r}"
    mine, theirs = load(found), load(expected)
    if mine.keys() != theirs.keys():
        return f"{name}: other tensors, {sorted(mine.keys() ^ theirs.keys())}"
    gaps = torch.cat([(mine[part].double() - theirs[part].double()).abs().flatten() for part in sorted(mine)])
    return f"{name}: {int((gaps > 0).sum())} of {len(gaps)} numbers differ, by up to {float(gaps.max()):.3e}"

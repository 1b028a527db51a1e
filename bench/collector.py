"""Speed-up of an index refresh: 1 % new of 5,000 results, against reading all of them again.

Both sides leave the same index; the gate compares them row by row. `python -m bench.collector` in the project's root.
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path

from bench import common
from p2p_dist.config.identity import stage_id
from p2p_dist.results import atomic, index, resultfile
from p2p_dist.results.rundir import RunDir

GOAL = 10.0


def write_results(folder: RunDir, numbers: range) -> None:
    """Results in the format and of the size of real ones: a P2P run on two classes, four suites, eleven rates."""
    rates = (
        "ca_strict",
        "ca_mapped",
        "ca_ext",
        "asr_strict",
        "asr_mapped",
        "asr_ext",
        "robust_acc",
        "asr_raw_target",
        "ext_rate",
        "ca_nobt",
        "asr_nobt",
    )
    for number in numbers:
        spec, reads = (
            {"scoring": "label_logits", "number": number},
            {"adapter": f"{number:012x}", "rows": f"{number % 50:012x}"},
        )
        id_ = stage_id("eval", spec, reads)
        counts = {"0": {"0": 700 + number % 200, "2": 212 - number % 200}, "1": {"1": 900, "3": 9}}
        body = {
            "stage": {"id": id_, "reads": reads, "spec": spec},
            "labels": {"words": ["0", "1", "2", "3"], "n_classes": 2, "offset": 2, "target": 1},
            "rates": {name: {"k": number % 912, "n": 912, "rate": (number % 912) / 912} for name in rates},
            "histograms": {suite: counts for suite in ("clean", "clean_nobt", "triggered", "triggered_nobt")},
            "suites": {
                suite: {"n_expected": 1821, "n_scored": 1821}
                for suite in ("clean", "clean_nobt", "triggered", "triggered_nobt")
            },
            "counts": {
                "train": {"clean": {"0": 3000, "1": 3000}, "poisoned": {"1": 139}, "injected": {"2": 684, "3": 700}}
            },
            "inputs": {"data_manifest_sha256": "0" * 64, "adapter_sha256": f"{number:064x}"},
            "dtype": "bfloat16",
            "versions": {"torch": "2", "transformers": "5"},
        }
        stage = folder.at("eval", id_)
        stage.path.mkdir(parents=True)
        stage.cost.write_bytes(
            atomic.to_json(
                {"started": 1.0, "seconds": 14.6, "gpu_seconds": 14.6, "rows": 7284, "host": "node", "code": "0" * 12}
            )
        )
        stage.result.write_bytes(resultfile.seal(body))


def measure(root: Path, count: int, repeats: int) -> common.Figure:
    """Two copies of one study; the new results are there for both, the index of one is taken back to before them."""
    folder, new = RunDir(root / "study"), max(1, count // 100)
    write_results(folder, range(count - new))
    index.refresh(folder)
    before = folder.index.read_bytes()
    write_results(folder, range(count - new, count))

    def refreshed() -> index.Index:
        folder.index.write_bytes(before)
        return index.refresh(folder)

    read = refreshed().read
    cases = {"everything again": lambda: index.rebuild(folder), "refresh": refreshed}
    times = common.interleave(cases, repeats=repeats, warmup=1, clock=time.perf_counter)
    same = refreshed().table.equals(index.rebuild(folder).table)
    gates = [
        common.Gate("rows of the two indexes that differ", 0.0 if same else 1.0, 0.0),
        common.Gate("results read by the refresh", read, new),
    ]
    facts = {
        "results": count,
        "new": new,
        "milliseconds": common.milliseconds(times),
        "spread": common.spread(times, "everything again", "refresh"),
    }
    return common.Figure(
        "index refresh",
        "reading everything again",
        common.speedup(times, "everything again", "refresh"),
        GOAL,
        gates=gates,
        facts=facts,
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    options = common.parser(__doc__ or "").parse_args(arguments)
    common.limit_threads(options.threads)
    root = Path(tempfile.mkdtemp(prefix="p2p-dist-bench-"))
    try:
        return common.show(options, [measure(root, 200 if options.smoke else 5000, options.repeats)])
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    sys.exit(main())

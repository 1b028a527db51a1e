"""All benchmarks of the training engine on one GPU, one after the other; started by `bench/gpu.sh`.

Models have random weights of the shapes of Qwen3, so nothing is downloaded, and kernels are deterministic, as in
studies. The last lines are a table of all figures with their goals. It ends in time whatever happens: what does not fit
is left out and named, and what is under way at the end is given up. `--dry-run` goes through the same list at sizes
that say nothing, on any machine.
"""

import argparse
import gc
import importlib
import json
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from bench import common

RATES = ["--dtype", "bfloat16", "--steps", "10", "--repeats", "5"]
STEP = ["--batch", "32", *RATES]
LAST_MINUTES = 2.0
"""Minutes at the end in which nothing is started."""
APART = ("engine_tax",)
"""Benchmarks in processes of their own. DeepSpeed leaves a process group, which HF Trainer would take for a reason to
wrap the models of later benchmarks, and buffers of gigabytes."""
CHANGING = [*STEP, "--batches", "8"]
"""Eight batches take turns, so that widths change as they do in a study."""


def plan() -> list[tuple[str, list[str]]]:
    """Benchmark and options, the ones that say most first."""
    made = [("train_step", ["--model", f"random:qwen3-{size}", *CHANGING]) for size in ("0.6b", "8b")]
    made += [("gpu_passes", ["--model", "random:qwen3-0.6b", *STEP])]
    made += [
        ("cohort", ["--model", f"random:qwen3-{size}", "--runs", runs, "--length", "0", *CHANGING])
        for size, runs in (("0.6b", "16"), ("8b", "4"))
    ]
    made += [("engine_tax", ["--model", "dispatch", *RATES]), ("engine_tax", ["--model", "random:qwen3-0.6b", *RATES])]
    evaluated = ["--model", "random:qwen3-0.6b", "--dtype", "bfloat16"]
    made += [("evaluation", evaluated), ("generation", evaluated)]
    made += [("memory_model", ["--model", f"random:qwen3-{size}"]) for size in ("0.6b", "8b")]
    made += [("operations", []), ("checkpoint", ["--model", "random:qwen3-0.6b"])]
    made += [
        (
            "roofline",
            ["--model", f"random:qwen3-{size}", "--dtype", "bfloat16", "--tokens", "8192", "--product", "8192"],
        )
        for size in ("0.6b", "8b")
    ]
    made += [("cohort_memory", ["--model", "random:qwen3-8b", "--dtype", "bfloat16", "--batch", "32"])]
    made += [("train_step", ["--model", f"random:qwen3-{size}", *CHANGING]) for size in ("1.7b", "4b", "14b")]
    made += [
        ("cohort", ["--model", f"random:qwen3-{size}", "--runs", runs, "--length", "0", *CHANGING])
        for size, runs in (("1.7b", "8"), ("4b", "4"), ("14b", "2"))
    ]
    made += [
        ("roofline", ["--model", "random:qwen3-14b", "--dtype", "bfloat16", "--tokens", "8192", "--product", "8192"])
    ]
    return made


def main(argv: Sequence[str] | None = None) -> int:
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument(
        "--dry-run", action="store_true", help="tiny sizes, on the CPU if there is no GPU: does everything run?"
    )
    made.add_argument("--json", action="store_true", help="one line of JSON per figure")
    made.add_argument(
        "--minutes",
        type=float,
        default=10,
        help="end after so many minutes, and start nothing in the last two of them (default 10)",
    )
    made.add_argument("--only", nargs="*", help="benchmarks to run, by name")
    options = made.parse_args(argv)
    import torch

    if not torch.cuda.is_available() and not options.dry_run:
        print("error: no GPU here. Try: bench/gpu.sh --dry-run", file=sys.stderr)
        return 2
    _use_studies_kernels()
    started, failed = time.monotonic(), []
    end = threading.Timer(60 * options.minutes, _end)  # a signal would wait for the kernel that is under way
    end.daemon = True
    end.start()
    for name, arguments in _chosen(options):
        title = " ".join([name, *arguments])
        if time.monotonic() - started > 60 * (options.minutes - LAST_MINUTES):
            _say(options, common.LeftOut(title, f"{options.minutes:g} minutes do not suffice"))
        elif not _run(name, [*arguments, *(["--json"] if options.json else [])], title if not options.json else None):
            failed.append(title)
    end.cancel()
    if not options.json:
        print(_table(common.SHOWN, judged=not options.dry_run))
    if failed:
        print("\n".join(f"error: failed or a gate does not hold: {title}" for title in failed), file=sys.stderr)
    return int(bool(failed))


def _end() -> None:
    """Print what was measured, and end at once: a kernel that hangs would not let the process end by itself."""
    print(f"\n{_table(common.SHOWN)}\nerror: the time is over; the last benchmark was given up", flush=True)
    for process in _STARTED:
        process.kill()
    os._exit(1)


def _use_studies_kernels() -> None:
    """Compute as studies do on a GPU."""
    import torch

    if torch.cuda.is_available():
        from p2p_dist.training.reproducible import set_deterministic

        set_deterministic()


def _table(figures: Sequence[common.Figure], judged: bool = True) -> str:
    """All figures with their goals."""
    lines = ["", "| figure | against | measured | goal | |", "|---|---|---|---|---|"]
    for figure in figures:
        goal = "" if figure.goal is None else f"{'<=' if figure.at_most else '>='} {figure.goal:g}"
        verdict = {None: "", True: "met", False: "missed"}[figure.met if judged else None]
        broken = "" if all(gate.holds for gate in figure.gates) else ", not comparable: a gate does not hold"
        lines.append(f"| {figure.name} | {figure.baseline} | {figure.ratio:.3g} | {goal} | {verdict}{broken} |")
    return "\n".join(lines)


def _chosen(options: argparse.Namespace) -> list[tuple[str, list[str]]]:
    chosen = [(name, arguments) for name, arguments in plan() if options.only is None or name in options.only]
    if not options.dry_run:
        return chosen
    return [(name, ["--smoke"]) for name in dict.fromkeys(name for name, _ in chosen)]


def _run(name: str, arguments: list[str], title: str | None) -> bool:
    """One benchmark. False when it failed, out of memory say: the others still run."""
    if title:
        print(f"\n== {title}", flush=True)
    return _run_apart(name, arguments) if name in APART else _measure(name, arguments)


_STARTED: list[SpawnProcess] = []


def _run_apart(name: str, arguments: list[str]) -> bool:
    """One benchmark in a process of its own, whose figures join those of this one."""
    context = multiprocessing.get_context("spawn")
    results, sending = context.Pipe(duplex=False)
    process = context.Process(target=_send_figures, args=(name, arguments, sending), daemon=True)
    process.start()
    _STARTED.append(process)
    sending.close()
    try:
        is_fine, figures = results.recv()
    except EOFError:  # killed
        is_fine, figures = False, []
    process.join()
    common.SHOWN.extend(figures)
    return bool(is_fine)


def _send_figures(name: str, arguments: list[str], sending: Connection) -> None:
    """The work of such a process."""
    _use_studies_kernels()
    is_fine = _measure(name, arguments)
    sending.send((is_fine, common.SHOWN))
    sys.stdout.flush()
    os._exit(0)  # a process group may wait for its end


def _measure(name: str, arguments: list[str]) -> bool:
    """One benchmark in this process; what it leaves on the device is freed."""
    import torch

    try:
        return importlib.import_module(f"bench.{name}").main(arguments) == 0
    except Exception:  # noqa: BLE001  # the others are measured all the same
        traceback.print_exc()
        return False
    finally:
        common.close_trainings()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def _say(options: argparse.Namespace, row: common.LeftOut) -> None:
    print(json.dumps({"name": row.name, "why": row.why}) if options.json else f"{row.name}: left out, {row.why}")


if __name__ == "__main__":
    sys.exit(main())

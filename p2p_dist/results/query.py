"""SQL over the results of studies (DuckDB), and the same as pandas DataFrames.

Tables: `cells` (a row per run: its cell of the grid and its main rates), `runs`, `rates` (a row per evaluation and
rate, with count and 95 % interval: Wilson's, and for `asr_excess` Newcombe's for paired rates), `means` (ROUGE and
others), `histograms`, `stages` (the cost of each). All have a column `study`; `cells`, `rates` and `stages` have
`collapsed`, true where the model gives nearly every clean row one answer.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from p2p_dist.config.expand import AXES
from p2p_dist.config.training_axis import TRAINING
from p2p_dist.errors import Problem, user_error
from p2p_dist.results import index
from p2p_dist.results.resolved import read_resolved
from p2p_dist.results.rundir import RunDir, is_study_name

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

CELL_RATES = {
    "ca": "ca_ext",
    "asr": "asr_ext",
    "asr_mapped": "asr_mapped",
    "asr_untriggered": "asr_untriggered",
    "asr_untriggered_mapped": "asr_untriggered_mapped",
    "asr_excess": "asr_excess",
    "asr_excess_mapped": "asr_excess_mapped",
    "asr_strict": "asr_strict",
    "asr_nobt": "asr_nobt",
    "robust_acc": "robust_acc",
    "invalid_rate": "invalid_rate",
}
_NEEDS = {
    "clean_rows": pa.string(),
    "extra_models": pa.string(),
    "prompt_control": pa.bool_(),
    "decoding_control": pa.bool_(),
}
"""Columns for the assumptions of a run's defense (`p2p_dist.data.defense.Assumptions`)."""
_RUNS = pa.schema(
    [*((name, pa.string()) for name in ("study", *AXES, TRAINING, "train", "eval", "floor")), *_NEEDS.items()]
)
_VIEWS = """
CREATE TABLE stages AS SELECT study, id, kind, attempts, started, seconds, gpu_seconds, energy_joules, cohort,
  steps, rows, tokens, peak_memory_mib, host, device, code, adapter, data, n_classes, label_offset, target, collapsed,
  dtype, torch, transformers, base, adapter_sha256, data_manifest_sha256 FROM _index;
CREATE TABLE rates AS SELECT study, id AS eval, rate.rate, rate.k, rate.n, rate.value, rate.low, rate.high,
  collapsed
  FROM (SELECT study, id, collapsed, unnest(rates) AS rate FROM _index);
CREATE TABLE means AS SELECT study, id AS eval, m.name, m.mean, m.n
  FROM (SELECT study, id, unnest(means) AS m FROM _index);
CREATE TABLE histograms AS SELECT study, id AS eval, h.suite, h.gold, h.said, h.count
  FROM (SELECT study, id, unnest(histograms) AS h FROM _index);
CREATE TABLE runs AS SELECT study, task, model, attack, defense, training, CAST(seed AS BIGINT) AS seed,
  train, eval,
  floor AS floor_eval,
  clean_rows, extra_models, prompt_control, decoding_control FROM _runs;
"""
# The baseline of an attack is the clean model on its triggered rows; a collapsed clean model gives none.
_FLOORS = """
fallen AS (SELECT runs.study, runs.train AS adapter FROM runs JOIN stages
  ON stages.study = runs.study AND stages.id = runs.eval
  WHERE runs.attack = 'none' AND runs.defense = 'none' AND stages.collapsed),
floors AS (SELECT rates.* FROM rates JOIN stages ON stages.study = rates.study AND stages.id = rates.eval
  ANTI JOIN fallen ON fallen.study = stages.study AND fallen.adapter = stages.adapter WHERE rates.rate = 'asr_ext')
"""


def frame(sql: str, folders: Sequence[Path]) -> "pd.DataFrame":
    """Result of a query over the studies in these run folders. Raises UserError as `open_results` and `run` do."""
    connection, _ = open_results(folders)
    return run(connection, sql).df()


def open_results(folders: Sequence[Path]) -> "tuple[duckdb.DuckDBPyConnection, list[Problem]]":
    """Open an in-memory database over the studies in these folders, after refreshing their indexes; also return the
    invalid files.

    The connection cannot access files. Raises UserError E402 for a folder without a study.
    """
    import duckdb

    runs: list[dict[str, Any]] = []
    tables, problems = [], []
    for path in folders:
        folder = RunDir(path)
        name = path.name
        runs += [_run(name, run) for run in read_resolved(folder)["runs"]]
        refreshed = index.refresh(folder)
        problems += refreshed.problems
        tables.append(refreshed.table.append_column("study", pa.array([name] * len(refreshed.table), pa.string())))
    # No temporary folder: queries may write there even without access to files (`COPY ... TO '.tmp/x'`).
    connection = duckdb.connect(
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "temp_directory": "",
        }
    )
    connection.register(
        "_index",
        pa.concat_tables(tables) if tables else index.SCHEMA.append(pa.field("study", pa.string())).empty_table(),
    )
    connection.register("_runs", pa.Table.from_pylist(runs, _RUNS))
    connection.execute(_VIEWS)
    connection.execute(f"CREATE TABLE cells AS {_cells()}")
    connection.unregister("_index")
    connection.unregister("_runs")
    connection.execute("SET enable_external_access = false; SET lock_configuration = true")
    return connection, problems


def _run(study: str, run: Mapping[str, Any]) -> dict[str, Any]:
    """One row of `runs`."""
    needs = {name: run.get("needs", {}).get(name) for name in _NEEDS}
    return {
        "study": study,
        TRAINING: "",
        **run["cell"],
        **{role: run[role] for role in ("train", "eval", "floor")},
        **needs,
    }


def run(connection: "duckdb.DuckDBPyConnection", sql: str) -> "duckdb.DuckDBPyConnection":
    """Execute one query. Raises UserError E510 with the database's message for an invalid one."""
    import duckdb

    try:
        return connection.execute(sql)
    except duckdb.Error as error:
        tables = "cells, runs, rates, means, histograms, stages"
        raise user_error(
            "E510", str(error).strip(), "the query", f"query one of {tables}; `DESCRIBE cells` shows its columns"
        ) from error


def studies(runs_dir: Path, names: Sequence[str]) -> list[Path]:
    """Run folders of these studies, or of all in the folder. Raises UserError E402 when there is none."""
    for name in names:
        if not is_study_name(name):
            raise user_error("E402", f"{name!r} is no name of a study", "--study", "name a folder of the runs folder")
    folders = (
        [runs_dir / name for name in names]
        if names
        else sorted(path.parent for path in runs_dir.glob("*/resolved.json"))
    )
    if not folders:
        fix = "run `p2p-dist run STUDY` first, or choose another folder with --runs-dir"
        raise user_error("E402", "no studies here", str(runs_dir), fix)
    return folders


def _bounds(name: str) -> Sequence[tuple[str, str]]:
    """Bounds among the columns of `cells`: of the excess alone, which has no interval from k and n."""
    return (("low", "_low"), ("high", "_high")) if name.startswith("asr_excess") else ()


def _cells() -> str:
    rates = ", ".join(
        f"max(rates.{part}) FILTER (rates.rate = '{rate}') AS {name}{suffix}"
        for name, rate in CELL_RATES.items()
        for part, suffix in (("value", ""), ("k", "_k"), ("n", "_n"), *_bounds(name))
    )
    floor = ", ".join(
        f"max(floors.{part}) AS floor{suffix}" for part, suffix in (("value", ""), ("k", "_k"), ("n", "_n"))
    )
    return (
        f"WITH {_FLOORS} SELECT runs.*, {rates}, {floor}, bool_or(rates.collapsed) AS collapsed FROM runs "
        "LEFT JOIN rates ON rates.study = runs.study AND rates.eval = runs.eval "
        "LEFT JOIN floors ON floors.study = runs.study AND floors.eval = runs.floor_eval "
        "GROUP BY ALL ORDER BY ALL"
    )

"""Write the table of families in docs/models.md: `python -m tests.zoo.table` (part of `make test-zoo`)."""

import importlib.metadata
import os
import sys
import tempfile
import warnings
from pathlib import Path

from transformers.utils import logging

from p2p_dist.config.families import NO_TEXT
from p2p_dist.errors import UserError
from tests.zoo.cases import ALL
from tests.zoo.check import Outcome, check

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- families: made by `make test-zoo` -->\n", "<!-- end of families -->\n"
LIMIT = 1e-4


def main() -> None:
    """Check all families and put the table into the page. Exits with 1 where a family is wrong."""
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    lines, wrong = [], []
    with tempfile.TemporaryDirectory() as cache:
        os.environ["P2P_DIST_CACHE"] = cache
        for name, case in ALL.items():
            try:
                outcome = check(name, case.family, case.changes)
            except UserError as error:
                lines.append(f"| {name} | refused: {error.problems[0].what} | | | | | |")
                wrong.append(name)
                continue
            lines.append(_line(outcome))
            if not is_right(outcome) or outcome.mode != case.mode:
                wrong.append(name)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "peft"))
    head = (
        f"With {versions}, in float32. Differences are the largest of any number.\n\n"
        "| family | rows | loss | gradients | label scores | text | adapters |\n|---|---|---|---|---|---|---|\n"
    )
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(before + BEGIN + head + "\n".join(lines) + "\n" + END + rest.split(END)[1])
    sys.exit(f"wrong: {', '.join(wrong)}" if wrong else 0)


def is_right(outcome: Outcome) -> bool:
    """True where every number is that of plain transformers and PEFT."""
    right_numbers = max(outcome.loss, outcome.gradients, outcome.scores) < LIMIT
    return right_numbers and (outcome.same_text or outcome.family in NO_TEXT)


def _line(outcome: Outcome) -> str:
    targets = "all linear layers" if outcome.targets is None else f"only {', '.join(outcome.targets)}"
    without = f"; none on {', '.join(outcome.without_adapter)}" if outcome.without_adapter else ""
    numbers = " | ".join(f"{number:.0e}" for number in (outcome.loss, outcome.gradients, outcome.scores))
    same = "refused" if outcome.family in NO_TEXT else "same" if outcome.same_text else "DIFFERS"
    return f"| {outcome.family} | {outcome.mode} | {numbers} | {same} | {targets}{without} |"


if __name__ == "__main__":
    main()

"""The work of `p2p-dist defend` behind its study: run it, export the defended model, audit the rows, say what came
out."""

import shlex
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from p2p_dist.cli.defend_study import Wish
from p2p_dist.cli.defense_folder import DefenseFolder
from p2p_dist.cli.output import print_json
from p2p_dist.errors import Exit

if TYPE_CHECKING:
    from p2p_dist.cli.data_profile import Profile
    from p2p_dist.deployment.contract import Contract
    from p2p_dist.scheduling.execute import Launch
    from p2p_dist.scheduling.study import Study


def run_and_export(
    folder: DefenseFolder, rows: "Profile", wish: Wish, launch: "Launch", overrides: Sequence[str], as_json: bool
) -> int:
    """Carry the study out, then export and audit. Returns the exit code. Raises UserError."""
    from rich.console import Console

    from p2p_dist.cli import audit
    from p2p_dist.cli.run import carry_out
    from p2p_dist.cli.status import write_and_print
    from p2p_dist.deployment.early_trust import early_answers
    from p2p_dist.results import atomic
    from p2p_dist.scheduling.study import open_study

    study = open_study(folder.study, overrides, folder.runs)
    carry_out(study, launch, Console(stderr=True))
    if study.runs_done() < len(study.expansion.runs):
        print(f"{study.runs_done()} of {len(study.expansion.runs)} runs done", file=sys.stderr)
        return Exit.SOME_FAILED
    if not as_json:
        write_and_print(study.folder, as_json=False)
    contract = _export(folder, study, wish)
    folder.audit.mkdir(exist_ok=True)
    table = folder.audit / "suspicious.csv"
    row_audit = audit.audit_file(
        rows, table, early_answers(study.folder), (contract.prompt.prefix, contract.prompt.cue)
    )
    described = audit.described(row_audit, table)
    atomic.write_json(folder.audit / "audit.json", described)
    if as_json:
        print_json(
            {
                "served": str(folder.served),
                "study": str(folder.study),
                "contract": contract.model_dump(mode="json", by_alias=True, exclude={"prompt"}),
                "audit": described,
            }
        )
    else:
        print(*_summary(folder, contract), "", "audit of the rows:", *audit.summary(row_audit, table), sep="\n")
    return Exit.OK


def _export(folder: DefenseFolder, study: "Study", wish: Wish) -> "Contract":
    """The contract of the exported model, which is exported unless it is already. Raises UserError."""
    from p2p_dist.cli.deploy import Progress
    from p2p_dist.deployment import contract as contracts
    from p2p_dist.deployment.finished_run import choose

    run = choose(study.folder, ["attack=none", f"defense={wish.defense}"])
    if (folder.served / contracts.FILE).is_file():
        contract = contracts.read(folder.served)
        if contract.origin.stages["eval"] == run.evaluation.id:
            return contract
    for leftover in folder.path.glob(".tmp-*"):
        shutil.rmtree(leftover)
    from p2p_dist.deployment.export import Options, export  # torch

    return export(run, folder.served, Options(replace=folder.served.exists()), Progress("verifying")).contract


def _summary(folder: DefenseFolder, contract: "Contract") -> list[str]:
    """Lines on the defended model."""
    from p2p_dist.deployment.model_card import AGREEMENT, COLLAPSED, is_collapsed, rate_text

    served = shlex.quote(str(folder.served))
    lines = [COLLAPSED] if is_collapsed(contract) else []
    accuracy = AGREEMENT if contract.origin.rows == "unknown" else "clean accuracy"
    lines += [f"{accuracy}: {rate_text(contract.rates['ca_ext'])}"] if "ca_ext" in contract.rates else []
    for one in contract.simulated:
        rate, bare = one.rates.get("asr_ext"), one.undefended
        if rate is not None:
            undefended = f"; without a defense {rate_text(bare)}" if bare else ""
            lines.append(f"simulated attack {one.attack}: success {rate_text(rate)}{undefended}")
    return [*lines, f"model card: {folder.served / 'README.md'}", f"serve it: p2p-dist serve {served}"]

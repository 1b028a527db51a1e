"""Offline runs for Weights & Biases: `wandb sync FOLDER/wandb/offline-run-*` sends them, whenever and if ever."""

from collections.abc import Mapping
from typing import ClassVar

from p2p_dist.results.mirror import Curve, Mirror


class Wandb(Mirror):
    """A run per run, offline: nothing leaves this machine."""

    package = "wandb"
    module = "wandb"
    environment: ClassVar[Mapping[str, str | None]] = {"WANDB_ERROR_REPORTING": "false"}

    def write(self, curve: Curve) -> None:
        import wandb

        settings = wandb.Settings(silent=True, console="off", x_disable_stats=True, save_code=False, disable_git=True)
        run = wandb.init(
            project=self.study,
            name=curve.name,
            config=dict(curve.config),
            dir=str(self.place),
            mode="offline",
            settings=settings,
            reinit="create_new",
        )
        for step, values in curve.steps:
            run.log(values, step=step)
        run.summary.update({f"rates/{key}": value for key, value in curve.rates.items()})
        run.finish()
